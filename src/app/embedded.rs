//! One process with the log in its data folder.

use super::{
    Running,
    base::Base,
    blocking,
    front::{self, Behind, Front},
    monitor::{self, Look, Watched},
    recovered::{self, Opened},
    settings,
};
use crate::{
    actors::{
        Actors,
        sequencer::{Parts, Phase, Sequencer},
    },
    error::AppError,
    http::health::Health,
    lifecycle::{
        deletion::{self, Deletions},
        erasure::Eraser,
        retention::Retention,
    },
    queue::{embedded::EmbeddedQueue, wal::Wal},
    shutdown::Shutdown,
    sinks::{SealFollower, dead_letter::DeadLetters, embedded::EmbeddedStore},
    telemetry::metrics::metrics,
};
use futures_util::FutureExt;
use std::sync::Arc;
use tokio::{runtime::Handle, sync::watch};

/// The pipeline from the log to the store.
pub struct Embedded {
    eraser: Eraser,
    actors: Actors,
    sequencer: Sequencer,
    queue: EmbeddedQueue,
    dead_letters: DeadLetters,
    store: EmbeddedStore,
}

/// Reads what the last run left, and starts.
pub async fn start(base: Base<'_>) -> Result<Running, AppError> {
    let (settings, health, catalog) = (base.settings, base.health.clone(), base.catalog.clone());
    let dead_letters = DeadLetters::open(base.objects.clone(), 0);
    let Opened { store, wal, book, sequencer } = recovered::open(base.fs.clone(), settings, &catalog, dead_letters.settled(), &health).await?;
    // Before the first seal is applied again: see `sinks::dead_letter::retired`.
    dead_letters.forget(sequencer.state.retired.iter().cloned());
    for deleted in catalog.retired() {
        dead_letters.forget([deleted.tenant_id.access_log(), deleted.tenant_id]);
    }
    let damage_reported = store.health().damage.len();

    let feed = front::feed(Arc::new(store.clone()), settings);
    let queue = EmbeddedQueue::new(wal.clone(), book, settings::queue(settings), Handle::current());
    let parts = Parts {
        log: Arc::new(queue.clone()),
        follower: Arc::new(store.clone()),
        dead_letters: Arc::new(dead_letters.clone()),
        publisher: Arc::new(feed.clone()),
        sources: None,
    };
    let pending = sequencer.state.clone();
    let (sequencer, decider) =
        Sequencer::start(parts, sequencer, settings::sequencer(settings)).map_err(|e| AppError::failed(format!("a thread cannot be started: {e}")))?;
    let deliveries = queue.start(Arc::new(decider.clone()), SealFollower::trimmable(&store));
    let eraser = Eraser::new(Arc::new(decider.clone()), Arc::new(store.clone()), &pending);
    let actors = Actors::start(&settings::actors(settings), deliveries, Arc::new(queue.clone()), Arc::new(decider));

    let export_jobs = front::export_jobs(&base, Arc::new(store.clone()))?;
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
        authority: Arc::new(store.clone()),
        catalog: catalog.clone(),
        dead_letters: dead_letters.clone(),
        trimmed: {
            let trimmable = SealFollower::trimmable(&store);
            Arc::new(move |_| *trimmable.borrow())
        },
        interval: settings.retention.interval,
    };
    retention.start();
    let looks = vec![
        look_at_actors(&actors, settings.actors.memory_bytes),
        look_at_queue(queue.clone(), wal.clone()),
        look_at_store(store.clone(), damage_reported),
    ];
    let (ready, fatal) = (running(sequencer.phase()).boxed(), halted(sequencer.phase(), wal).boxed());
    let lock = base.lock.clone();
    let behind = Behind {
        producer: Arc::new(queue.clone()),
        authority: Arc::new(store.clone()),
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
        body: Embedded {
            eraser,
            actors,
            sequencer,
            queue,
            dead_letters,
            store,
        },
        failure,
        monitor,
        _lock: lock,
    })
}

impl Embedded {
    /// Erasures end · deliveries end, tenants hand over · the last seal is applied · dead letters and store are flushed · the log is
    /// closed.
    pub async fn stop(self, shutdown: &mut Shutdown) {
        let Self {
            eraser,
            actors,
            sequencer,
            queue,
            dead_letters,
            store,
        } = self;
        shutdown.phase("erasures", eraser.stop(), || "erasures".into()).await;
        queue.stop_accepting();
        queue.stop_delivery();
        shutdown.phase("tenants", actors.stop(), || "tenant actors".into()).await;
        shutdown.phase("sequencer", blocking(move || sequencer.stop()), || "the sequencer".into()).await;
        shutdown.phase("dead letters", dead_letters.drained(), || "dead letters".into()).await;
        let flushed = store.clone();
        let flush = shutdown.phase("store", blocking(move || flushed.flush()), || "the store's flush".into()).await;
        shutdown.phase("log", blocking(move || queue.close()), || "the log".into()).await;
        dead_letters.close();
        let end = move || {
            store.close();
            store.tidy()
        };
        let tidied = shutdown.phase("threads", blocking(end), || "the store".into()).await;
        if let Some(Some(Err(error))) = tidied {
            tracing::warn!(%error, "the files of merged parts stay until the next start");
        }
        if let Some(Some(Err(error))) = flush {
            // Not lost: the log has what the flush did not write.
            tracing::warn!(%error, "the store could not be flushed; the next start reads it from the log");
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
