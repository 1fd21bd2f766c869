//! A process that shares its queue with others: `api`, `consumer`, or both in one.
//!
//! ```text
//! api       front ─▶ RemoteProducer ─▶ queue                      reads: ClickHouse, OpenSearch, by the views of the tail
//! consumer  queue ─▶ Partition (one each: lease, sequencer, …) ─▶ seals ─▶ stores, each by its cursor; retention and deletions by a lease
//! both      Tail ◀─ seals and cursors in the objects
//! ```
//!
//! What others do is learned from the seals alone, also by the API side of a process that is both.

use super::{
    Body, Running,
    base::Base,
    cluster,
    foreign::Foreign,
    front::{self, Behind, Front, Listening},
    monitor::{self, Look, Watched},
    partition::{Partition, PartitionParts, PartitionWatch, State},
    queues::{self, Queues},
    settings,
    stores::{self, Late, Refill},
};
use crate::{
    actors::broadcast::{FeedHandle, Publisher},
    error::AppError,
    http::{self, health::Health, server::Drain},
    lifecycle::{
        deletion::{self, Deletions},
        erasure::Eraser,
        export::Exports,
        leader::{self, Leader},
        retention::Retention,
    },
    model::tenant::TenantId,
    queue::{
        remote::producer::RemoteProducer,
        seals::{ANALYTICS, DEAD_LETTERS, Lease, SEARCH, Seals},
    },
    seal::DecidedSeal,
    shutdown::Shutdown,
    sinks::{
        Authority, SealFollower,
        dead_letter::DeadLetters,
        follow::{self, Progress},
        routed::Routed,
    },
    sources,
    tail::{Tail, TailSettings, fresh::Fresh},
    telemetry::metrics::metrics,
};
use futures_util::{FutureExt, future::join_all};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::runtime::Handle;

/// How often it is looked whether the seals were read.
const LOADED_EVERY: Duration = Duration::from_millis(50);
/// A view of the seals that is older than this shows in health.
const LATE: Duration = Duration::from_secs(60);

/// What this process has of the deployment.
pub struct Shared {
    tail: Tail,
    producer: RemoteProducer,
    eraser: Eraser,
    /// Of a process that serves nobody; else the front stops them.
    exports: Option<Exports>,
    leader: Option<Leader>,
    foreign: Foreign,
    partitions: Vec<Partition>,
}

/// Starts.
pub async fn start(base: Base<'_>) -> Result<Running, AppError> {
    let (settings, role, health) = (base.settings, base.settings.role, base.health.clone());
    let Queues { transports, openers } = queues::open(settings).await?;
    // After it is known that they are there: a name that was mistyped must not be what the deployment has for ever.
    cluster::same_partitions(&*base.objects, &settings.engines.queue).await?;
    let seals: Vec<Seals> = (0..transports.len())
        .map(|p| Seals::open(base.objects.clone(), p as u32, settings::seals(settings)))
        .collect();
    let publisher = Arc::new(LatePublisher::default());
    let published = role.serves().then(|| publisher.clone() as Arc<dyn Publisher>);
    let tail = Tail::start(seals.clone(), &[ANALYTICS, SEARCH, DEAD_LETTERS], published, TailSettings::default());
    let missing = || AppError::usage("a shared queue needs stores that are shared");
    let analytics = stores::analytics(settings, &base.passwords, tail.view(ANALYTICS))?.ok_or_else(missing)?;
    let search = stores::search(settings, &base.passwords, tail.view(SEARCH))?.ok_or_else(missing)?;
    let (one, other) = tokio::join!(analytics.watch(&health), search.watch(&health));
    one.and(other)?;
    let record: Arc<dyn Authority> = Arc::new(Fresh::new(analytics.authority.clone(), tail.clone()));
    let searched = Arc::new(Fresh::new(search.store.clone(), tail.clone()));
    let authority: Arc<dyn Authority> = Arc::new(Routed::new(record.clone(), searched));

    let runtime = Handle::current();
    let producer = RemoteProducer::start(transports, Arc::new(tail.clone()), settings::producer(settings), &runtime);
    let eraser = Eraser::remote(Arc::new(producer.clone()), tail.clone());
    let dead_letters = DeadLetters::shared(base.objects.clone(), 0);
    let me = format!("{} {}", super::address(&base.listeners[0])?, std::process::id());
    let lease = |name: &str| Lease::new(base.objects.clone(), name, settings.seal.lease, me.clone()).map_err(AppError::failed);
    let export_jobs = front::shared_export_jobs(
        &base,
        authority.clone(),
        (search.copying)(record.clone()),
        lease(crate::lifecycle::export::LEASE)?,
    )?;
    let deletions = Deletions::shared(deletion::Parts {
        catalog: base.catalog.clone(),
        eraser: eraser.clone(),
        dead_letters: dead_letters.clone(),
        exports: export_jobs.clone(),
        tail: Some(tail.clone()),
    });

    let (mut leader, mut partitions, mut foreign) = (None, Vec::new(), Foreign::default());
    if role.consumes() {
        let count = openers.len() as u32;
        for (seals, queue) in seals.into_iter().zip(openers) {
            let p = seals.partition();
            let (open, runtime) = (analytics.open.clone(), runtime.clone());
            let parts = PartitionParts {
                index: p,
                seals: seals.clone(),
                objects: base.objects.clone(),
                catalog: base.catalog.clone(),
                tail: tail.clone(),
                authority: record.clone(),
                store: Arc::new(move || Arc::new(Late::new(p, open.clone(), runtime.clone())) as Arc<dyn SealFollower>),
                search: search.follower.clone(),
                rebuild: Some(Arc::new(Refill {
                    copy: search.copy.clone(),
                    authority: record.clone(),
                    catalog: base.catalog.clone(),
                    has: {
                        let seals = seals.clone();
                        Arc::new(move || {
                            let seals = seals.clone();
                            Box::pin(async move { seals.cursor(ANALYTICS).await.map_err(|e| e.0) })
                        })
                    },
                    partitions: count,
                })),
                queue,
                settings: settings.clone(),
            };
            partitions.push(Partition::start(parts, lease(&format!("partition-{p}"))?));
        }
        let retention = Retention {
            eraser: eraser.clone(),
            authority: record.clone(),
            catalog: base.catalog.clone(),
            dead_letters: dead_letters.clone(),
            trimmed: {
                let tail = tail.clone();
                Arc::new(move |tenant| tail.trimmed(tenant))
            },
            interval: settings.retention.interval,
        };
        let parts = sources::Parts {
            producer: Arc::new(producer.clone()),
            catalog: base.catalog.clone(),
            dead_letters: dead_letters.clone(),
            objects: base.objects.clone(),
        };
        foreign = Foreign::start(settings, parts, |name| lease(name).map(Some)).await?;
        leader = Some(Leader::start(lease(leader::LEASE)?, retention, deletions.clone()));
    }

    let watches: Vec<_> = partitions.iter().map(Partition::watch).collect();
    let looks = vec![
        look_at_queue(producer.clone()),
        look_at_tail(tail.clone()),
        look_at_partitions(watches.clone(), settings.actors.memory_bytes),
    ];
    let (ready, fatal) = (loaded(tail.clone()).boxed(), halted(watches).boxed());
    let (lock, catalog) = (base.lock.clone(), base.catalog.clone());
    let (front, listening, exports) = if role.serves() {
        let feed = front::feed(authority.clone(), settings);
        publisher.0.get_or_init(|| feed.clone());
        let behind = Behind {
            producer: Arc::new(producer.clone()),
            authority,
            feed,
            dead_letters,
            export_jobs,
            eraser: eraser.clone(),
            deletions,
        };
        let (front, listening) = Front::open(base, behind)?;
        (Some(front), listening, None)
    } else {
        let limits = settings::http(settings, base.tls);
        let listening = Listening::start(base.listeners, limits, health.clone(), Drain::new(), |health| http::health_router(&health))?;
        (None, listening, Some(export_jobs))
    };
    let (monitor, failure) = monitor::start(Watched {
        health: health.clone(),
        catalog,
        auth: front.as_ref().map(|front| front.auth.clone()),
        feed: front.as_ref().map(|front| front.feed.clone()),
        looks,
        ready,
        fatal,
    });
    Ok(Running {
        deadline: settings.shutdown.deadline,
        drain_pause: settings.shutdown.drain,
        health,
        listening,
        front,
        body: Body::Shared(Shared {
            tail,
            producer,
            eraser,
            exports,
            leader,
            foreign,
            partitions,
        }),
        failure,
        monitor,
        _lock: lock,
    })
}

impl Shared {
    /// Retention and deletions go to another process · what was accepted is in the queue · partitions are sealed and given to others ·
    /// nothing is read any more.
    pub async fn stop(self, shutdown: &mut Shutdown) {
        if let Some(exports) = self.exports {
            shutdown.phase("exports", async move { exports.stop().await }, || "export jobs".into()).await;
        }
        if let Some(leader) = self.leader {
            shutdown.phase("lifecycle", leader.stop(), || "retention and deletions".into()).await;
        }
        shutdown.phase("sources", self.foreign.stop(), || "foreign queues".into()).await;
        shutdown.phase("erasures", self.eraser.stop(), || "erasures".into()).await;
        self.producer.stop_accepting();
        shutdown
            .phase("queue", self.producer.drained(), || "packs that the queue has not taken".into())
            .await;
        let partitions = join_all(self.partitions.into_iter().map(Partition::stop));
        shutdown.phase("partitions", partitions, || "partitions".into()).await;
        shutdown.phase("tail", self.tail.stop(), || "readers of the seals".into()).await;
    }
}

/// The feed, which is made after the tail that tells it. Nobody follows it before.
#[derive(Default)]
struct LatePublisher(OnceLock<FeedHandle>);

impl Publisher for LatePublisher {
    fn publish(&self, seal: &Arc<DecidedSeal>) {
        if let Some(feed) = self.0.get() {
            feed.publish(seal);
        }
    }

    fn wants(&self, tenant: &TenantId) -> bool {
        self.0.get().is_some_and(|feed| feed.wants(tenant))
    }

    fn missed(&self) {
        if let Some(feed) = self.0.get() {
            feed.missed();
        }
    }
}

/// Resolves when every partition was read once.
async fn loaded(tail: Tail) {
    while !tail.is_loaded() {
        tokio::time::sleep(LOADED_EVERY).await;
    }
}

/// Resolves when a partition of this process cannot go on.
async fn halted(watches: Vec<PartitionWatch>) -> String {
    let each = watches.into_iter().enumerate().map(|(p, watch)| {
        let mut state = watch.state.clone();
        async move {
            match state.wait_for(|state| matches!(state, State::Halted(_))).await.map(|state| state.clone()) {
                Ok(State::Halted(why)) => format!("partition {p} halted: {why}"),
                _ => std::future::pending().await, // stopped in order
            }
        }
        .boxed()
    });
    let each: Vec<_> = each.collect();
    match each.is_empty() {
        true => std::future::pending().await,
        false => futures_util::future::select_all(each).await.0,
    }
}

fn look_at_queue(producer: RemoteProducer) -> Look {
    Box::new(move |health: &Health| match producer.failing() {
        None => health.set_dependency("queue", true, "it takes messages"),
        Some(_) => health.set_dependency("queue", false, "it takes no messages; the log says why"),
    })
}

fn look_at_tail(tail: Tail) -> Look {
    Box::new(move |health: &Health| {
        let (lag, searched) = (tail.lag(ANALYTICS), tail.lag(SEARCH));
        metrics().view_lag(ANALYTICS, lag);
        metrics().view_lag(SEARCH, searched);
        let seconds = |lag: Duration| lag.as_secs();
        match tail.is_loaded() {
            false => health.set_dependency("seals", false, "they were not read yet; the log says why"),
            true if lag.max(searched) > LATE => {
                let detail = format!("analytics is {} s behind, search {} s", seconds(lag), seconds(searched));
                health.set_dependency("seals", false, detail);
            }
            true => health.set_dependency("seals", true, "every store follows"),
        }
    })
}

/// How the search store follows, in words; what is wrong sorts first.
fn told(phase: follow::Phase) -> (bool, String) {
    match phase {
        follow::Phase::Detached => (false, "it lacks seals that are gone, and is not being filled".to_owned()),
        follow::Phase::Faulty => (false, "it takes no seals; the log says why".to_owned()),
        follow::Phase::Rebuilding(Progress { logs, of_logs, rows }) => (false, format!("it is being filled: {logs} of {of_logs} logs, {rows} rows")),
        follow::Phase::Starting | follow::Phase::Following | follow::Phase::Stopped => (true, "it follows".to_owned()),
    }
}

fn look_at_partitions(watches: Vec<PartitionWatch>, memory_bytes: usize) -> Look {
    Box::new(move |health: &Health| {
        if watches.is_empty() {
            return; // an API process has none
        }
        let states: Vec<_> = watches.iter().map(|watch| watch.state.borrow().clone()).collect();
        let count = |what: fn(&State) -> bool| states.iter().filter(|state| what(state)).count();
        let owned = count(|state| *state == State::Owner);
        let faulty = count(|state| matches!(state, State::Faulty(_) | State::Halted(_)));
        let detail = match faulty {
            0 => format!("{owned} of {} are owned here", states.len()),
            n => format!("{n} of {} cannot be taken over; the log says why", states.len()),
        };
        health.set_dependency("partitions", faulty == 0, detail);
        let inside: Vec<_> = watches.iter().filter_map(PartitionWatch::inside).collect();
        let phases = inside.iter().map(|inside| inside.search.borrow().phase);
        if let Some((ok, detail)) = phases.map(told).min() {
            health.set_dependency("search_follower", ok, detail);
        }
        let actors: Vec<_> = inside.into_iter().map(|inside| inside.actors).collect();
        monitor::look_at_actors(&actors, memory_bytes, health);
    })
}
