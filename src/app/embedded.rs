//! One process with the log in its data folder.

use super::{
    Body, Running,
    base::Base,
    beside::{Beside, Cursor, Follows, Searchable},
    blocking,
    foreign::Foreign,
    front::{self, Behind, Front},
    kept::{Keeping, Kept},
    monitor::{self, Look, Watched},
    recovered::{self, Log, Opened},
    settings,
    stores::{self, Late},
};
use crate::{
    actors::{
        Actors,
        sequencer::{Parts, Phase, Sequencer},
    },
    config::{AnalyticsChoice, SearchChoice},
    error::AppError,
    http::health::Health,
    lifecycle::{
        deletion::{self, Deletions},
        erasure::Eraser,
        retention::Retention,
    },
    queue::{
        Producer, SealLog,
        embedded::{
            EmbeddedQueue,
            seals::{LogSeals, Told},
        },
        seals::checkpoint,
        wal::Wal,
    },
    seal::view::AppliedView,
    shutdown::Shutdown,
    sinks::{Authority, SealFollower, dead_letter::DeadLetters, embedded::EmbeddedStore, routed::Routed},
    sources,
    telemetry::metrics::metrics,
};
use futures_util::FutureExt;
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch};

/// How long a stop waits for a store that is elsewhere.
const LAST_SEAL: Duration = Duration::from_secs(5);

/// The pipeline from the log to the stores.
pub struct Embedded {
    eraser: Eraser,
    actors: Actors,
    sequencer: Sequencer,
    queue: EmbeddedQueue,
    dead_letters: DeadLetters,
    /// The store in the data folder,
    store: Option<EmbeddedStore>,
    /// or the checkpoints of one that is elsewhere.
    keeping: Option<Keeping>,
    /// The search store, if it is another.
    follows: Option<Follows>,
    foreign: Foreign,
}

/// Where the log goes on, and the authority, which has it.
struct Record {
    log: Log,
    dead_letters: DeadLetters,
    authority: Arc<dyn Authority>,
    follower: Arc<dyn SealFollower>,
    store: Option<EmbeddedStore>,
    keeping: Option<Keeping>,
    /// What an authority that is elsewhere shows.
    view: Option<Arc<AppliedView>>,
}

impl Record {
    /// The store in the data folder.
    async fn embedded(base: &Base<'_>, keep_above: u64) -> Result<Self, AppError> {
        let dead_letters = DeadLetters::open(base.objects.clone(), 0);
        let opened = recovered::open(base.fs.clone(), base.settings, &base.catalog, dead_letters.settled(), &base.health, keep_above).await?;
        let Opened { store, log } = opened;
        Ok(Self {
            log,
            dead_letters,
            authority: Arc::new(store.clone()),
            follower: Arc::new(store.clone()),
            store: Some(store),
            keeping: None,
            view: None,
        })
    }

    /// ClickHouse.
    async fn elsewhere(base: &Base<'_>, keep_above: u64) -> Result<Self, AppError> {
        let found = checkpoint::load(&*base.objects, 0).await.map_err(AppError::failed)?;
        let state = found.map(|checkpoint| checkpoint.state).unwrap_or_default();
        let log = recovered::open_log(base.fs.clone(), base.settings, &base.catalog, &base.health, state.clone(), keep_above).await?;
        let dead_letters = DeadLetters::open(base.objects.clone(), state.n);
        let view = Arc::new(AppliedView::new(log.sequencer.state.clone(), &log.sequencer.replay));
        let analytics = stores::analytics(base.settings, &base.passwords, view.clone())?.ok_or_else(|| AppError::usage("there is no analytics store"))?;
        analytics.watch(&base.health).await?;
        let late = Late::new(0, analytics.open, Handle::current());
        let (kept, keeping) = Kept::start(Arc::new(late), view.clone(), state, base.objects.clone(), dead_letters.settled());
        Ok(Self {
            log,
            dead_letters,
            authority: analytics.authority,
            follower: kept,
            store: None,
            keeping: Some(keeping),
            view: Some(view),
        })
    }
}

/// Reads what the last run left, and starts.
pub async fn start(base: Base<'_>) -> Result<Running, AppError> {
    let (settings, health, catalog) = (base.settings, base.health.clone(), base.catalog.clone());
    let cursor = match settings.engines.search {
        SearchChoice::Embedded => None,
        SearchChoice::OpenSearch(_) => Some(Cursor::read(&base).await?),
    };
    let keep_above = cursor.as_ref().map_or(u64::MAX, |cursor| cursor.at);
    let record = match settings.engines.analytics {
        AnalyticsChoice::Embedded => Record::embedded(&base, keep_above).await?,
        AnalyticsChoice::ClickHouse(_) => Record::elsewhere(&base, keep_above).await?,
    };
    let Record {
        mut log,
        dead_letters,
        authority,
        follower,
        store,
        keeping,
        view,
    } = record;
    // Before the first seal is applied again: see `sinks::dead_letter::retired`.
    dead_letters.forget(log.sequencer.state.retired.iter().cloned());
    for deleted in catalog.retired() {
        dead_letters.forget([deleted.tenant_id.access_log(), deleted.tenant_id]);
    }
    let damage_reported = store.as_ref().map_or(0, |store| store.health().damage.len());

    let queue = EmbeddedQueue::new(log.wal.clone(), std::mem::take(&mut log.book), settings::queue(settings), Handle::current());
    let beside = match cursor {
        None => None,
        Some(cursor) => Some(Beside::open(&base, cursor, &log).await?),
    };
    let told: Vec<_> = view.into_iter().chain(beside.as_ref().map(|beside| beside.view.clone())).collect();
    let (mut sealed, mut producer): (Arc<dyn SealLog>, Arc<dyn Producer>) = (Arc::new(queue.clone()), Arc::new(queue.clone()));
    let (mut routed, mut trimmable, mut follows, mut copying) = (authority.clone(), follower.trimmable(), None, None);
    if !told.is_empty() {
        let tell: Told = Box::new(move |seal, crc| told.iter().for_each(|view| view.fold(seal, crc)));
        let seals = LogSeals::new(queue.clone(), std::mem::take(&mut log.places), log.floor, log.sequencer.state.n, tell);
        sealed = Arc::new(seals.clone());
        if let Some(beside) = beside {
            routed = Arc::new(Routed::new(authority.clone(), beside.search.store.clone()));
            copying = Some((beside.search.copying)(authority.clone()));
            producer = Arc::new(Searchable {
                queue: queue.clone(),
                seals: seals.clone(),
                view: beside.view.clone(),
            });
            let following = beside.follow(seals, authority.clone(), trimmable, &base);
            trimmable = following.trimmable.clone();
            follows = Some(following);
        }
    }
    let feed = front::feed(routed.clone(), settings);
    let parts = Parts {
        log: sealed,
        follower,
        dead_letters: Arc::new(dead_letters.clone()),
        publisher: Arc::new(feed.clone()),
        sources: None,
    };
    let pending = log.sequencer.state.clone();
    let (sequencer, decider) =
        Sequencer::start(parts, log.sequencer, settings::sequencer(settings)).map_err(|e| AppError::failed(format!("a thread cannot be started: {e}")))?;
    let deliveries = queue.start(Arc::new(decider.clone()), trimmable.clone());
    let eraser = Eraser::new(Arc::new(decider.clone()), authority.clone(), &pending);
    let actors = Actors::start(&settings::actors(settings), deliveries, Arc::new(queue.clone()), Arc::new(decider));

    let export_jobs = front::export_jobs(&base, routed.clone(), copying)?;
    let deletion = deletion::Parts {
        catalog: catalog.clone(),
        eraser: eraser.clone(),
        dead_letters: dead_letters.clone(),
        exports: export_jobs.clone(),
        tail: None,
    };
    let deletions = Deletions::start(deletion, &pending.retired);
    let retention = Retention {
        eraser: eraser.clone(),
        authority,
        catalog: catalog.clone(),
        dead_letters: dead_letters.clone(),
        trimmed: Arc::new(move |_| *trimmable.borrow()),
        interval: settings.retention.interval,
    };
    retention.start();
    let parts = sources::Parts {
        producer: producer.clone(),
        catalog: base.catalog.clone(),
        dead_letters: dead_letters.clone(),
        objects: base.objects.clone(),
    };
    let foreign = Foreign::start(settings, parts, |_| Ok(None)).await?; // no other process reads them
    let mut looks = vec![
        look_at_actors(&actors, settings.actors.memory_bytes),
        look_at_queue(queue.clone(), log.wal.clone()),
    ];
    looks.extend(store.clone().map(|store| look_at_store(store, damage_reported)));
    let (ready, fatal) = (running(sequencer.phase()).boxed(), halted(sequencer.phase(), log.wal).boxed());
    let lock = base.lock.clone();
    let behind = Behind {
        producer,
        authority: routed,
        feed,
        dead_letters: dead_letters.clone(),
        export_jobs,
        eraser: eraser.clone(),
        deletions,
    };
    let (front, listening) = Front::open(base, behind)?;
    let (monitor, failure) = monitor::start(Watched {
        health: health.clone(),
        catalog,
        auth: Some(front.auth.clone()),
        feed: Some(front.feed.clone()),
        looks,
        ready,
        fatal,
    });
    Ok(Running {
        deadline: settings.shutdown.deadline,
        drain_pause: settings.shutdown.drain,
        health,
        listening,
        front: Some(front),
        body: Body::Embedded(Embedded {
            eraser,
            actors,
            sequencer,
            queue,
            dead_letters,
            store,
            keeping,
            follows,
            foreign,
        }),
        failure,
        monitor,
        _lock: lock,
    })
}

impl Embedded {
    /// Erasures end · deliveries end, tenants hand over · the last seal is applied · dead letters and stores have what they can ·
    /// the log is closed.
    pub async fn stop(self, shutdown: &mut Shutdown) {
        let Self {
            eraser,
            actors,
            sequencer,
            queue,
            dead_letters,
            store,
            keeping,
            follows,
            foreign,
        } = self;
        shutdown.phase("sources", foreign.stop(), || "foreign queues".into()).await;
        shutdown.phase("erasures", eraser.stop(), || "erasures".into()).await;
        queue.stop_accepting();
        queue.stop_delivery();
        // A store that is elsewhere may be down; what it has not applied is in the log.
        let patience = if keeping.is_some() { LAST_SEAL } else { Duration::MAX };
        let stopped = tokio::time::timeout(patience, actors.stop());
        shutdown.phase("tenants", stopped, || "tenant actors".into()).await;
        shutdown.phase("sequencer", blocking(move || sequencer.stop()), || "the sequencer".into()).await;
        shutdown.phase("dead letters", dead_letters.drained(), || "dead letters".into()).await;
        if let Some(follows) = follows {
            shutdown.phase("search", follows.stop(), || "the search store's follower".into()).await;
        }
        if let Some(keeping) = keeping {
            shutdown.phase("checkpoint", keeping.stop(), || "the checkpoint".into()).await;
        }
        if let Some(flushed) = store.clone() {
            let flush = shutdown.phase("store", blocking(move || flushed.flush()), || "the store's flush".into()).await;
            if let Some(Some(Err(error))) = flush {
                // Not lost: the log has what the flush did not write.
                tracing::warn!(%error, "the store could not be flushed; the next start reads it from the log");
            }
        }
        shutdown.phase("log", blocking(move || queue.close()), || "the log".into()).await;
        dead_letters.close();
        if let Some(store) = store {
            let end = move || {
                store.close();
                store.tidy()
            };
            if let Some(Some(Err(error))) = shutdown.phase("threads", blocking(end), || "the store".into()).await {
                tracing::warn!(%error, "the files of merged parts stay until the next start");
            }
        }
    }
}

/// Resolves when the store shows everything that the log holds.
async fn running(mut sequencer: watch::Receiver<Phase>) {
    if sequencer.wait_for(|phase| *phase == Phase::Running).await.is_err() {
        std::future::pending().await // it has ended
    }
}

/// Resolves when log or sequencer cannot go on.
async fn halted(mut sequencer: watch::Receiver<Phase>, wal: Wal) -> String {
    let halted = async {
        match sequencer.wait_for(|phase| matches!(phase, Phase::Halted(_))).await.map(|phase| phase.clone()) {
            Ok(Phase::Halted(why)) => why,
            // Stopped in order.
            Ok(_) | Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wal.failed() => "the log cannot be written any more; the next start recovers it".to_owned(),
        why = halted => format!("the sequencer halted: {why}"),
    }
}

fn look_at_actors(actors: &Actors, memory_bytes: usize) -> Look {
    let watch = [actors.watch()];
    Box::new(move |health| monitor::look_at_actors(&watch, memory_bytes, health))
}

fn look_at_queue(queue: EmbeddedQueue, wal: Wal) -> Look {
    Box::new(move |health: &Health| {
        let (bytes, packs) = queue.undecided();
        metrics().undecided_bytes(bytes);
        match wal.check_room() {
            Ok(()) => health.set_dependency("queue", true, format!("{packs} packs wait to be decided")),
            Err(error) => health.set_dependency("queue", false, error.to_string()),
        }
    })
}

/// `reported`: damage that the start has told already.
fn look_at_store(store: EmbeddedStore, mut reported: usize) -> Look {
    Box::new(move |health: &Health| {
        let found = store.health();
        metrics().memtable_bytes(found.memtable_bytes as u64);
        match &found.flush_error {
            Some(error) => health.set_dependency("store", false, error.to_string()),
            None if found.blocked => health.set_dependency("store", true, "waiting for the disk; what arrives is kept in the log"),
            None => health.set_dependency(
                "store",
                true,
                format!("{} parts, {} KiB of memory for them", found.parts, found.parts_memory >> 10),
            ),
        }
        found
            .damage
            .iter()
            .skip(reported)
            .for_each(|one| recovered::report(health, recovered::store_damage(one)));
        reported = reported.max(found.damage.len());
    })
}
