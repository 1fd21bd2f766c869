//! One partition of the queue in a process that decides: stands by, owns it, steps down, stands by again.
//!
//! ```text
//! standing by ──lease──▶ taking over: checkpoint, seals ──▶ owner ──fenced──▶ everything dropped ─┐
//!      ▲                        │ cannot be read now           │ stopped: last seal, lease given   │
//!      └────────────────────────┴──────────── pause ───────────┴───────────────── back ◀───────────┘
//! ```
//!
//! An owner has, for this partition alone: the log, the sequencer and its follower (analytics, dead letters), tenant actors, the consumer
//! of the queue, the follower of the search store, and the counting of erasures. The lease only keeps two from trying at once: who is
//! fenced by a seal of another drops everything unacknowledged, and whatever it had in hand is delivered to the other.
//!
//! A stopping owner seals what it has, gives what it has not sealed back to the queue and the lease to the next, and only then waits
//! for its stores: the next one replays what they lack.

use super::{blocking, queues::OpenQueue, settings};
use crate::{
    actors::{
        ActorWatch, Actors,
        broadcast::Publisher,
        sequencer::{Parts, Phase, Sequencer},
    },
    catalog::Catalog,
    config::Settings,
    lifecycle::counting::Counting,
    model::tenant::TenantId,
    objects::Objects,
    queue::{
        remote::{consumer::RemoteConsumer, quarantine::Quarantine},
        seals::{DEAD_LETTERS, Held, Lease, ObjectSealLog, Seals, Taken},
    },
    seal::DecidedSeal,
    sinks::{
        Authority, Follower, SealFollower,
        dead_letter::DeadLetters,
        follow::{FollowParts, FollowSettings, FollowState, Following, Rebuild},
    },
    tail::Tail,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Between two tries to take over.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a stopping owner tries to seal what it has in hand.
const LAST_SEAL: Duration = Duration::from_secs(3);
/// How long a stopping owner waits for dead letters that cannot be written; the next one writes them.
const LAST_LETTERS: Duration = Duration::from_secs(5);

/// The engines of one partition.
pub struct PartitionParts {
    /// Which.
    pub index: u32,
    pub seals: Seals,
    pub objects: Arc<dyn Objects>,
    pub catalog: Catalog,
    pub tail: Tail,
    /// Counts erasures.
    pub authority: Arc<dyn Authority>,
    /// The authority as the sequencer feeds it, opened anew by each owner.
    pub store: Arc<dyn Fn() -> Arc<dyn SealFollower> + Send + Sync>,
    pub search: Arc<dyn Follower>,
    pub rebuild: Option<Arc<dyn Rebuild>>,
    pub queue: Arc<dyn OpenQueue>,
    pub settings: Settings,
}

/// What the partition is doing in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Another process owns it, or nobody yet.
    StandingBy,
    /// This one is about to.
    TakingOver,
    /// This one owns it.
    Owner,
    /// It cannot be taken over now.
    Faulty(Arc<str>),
    /// The process must end.
    Halted(Arc<str>),
}

/// What health and metrics look at.
#[derive(Clone)]
pub struct PartitionWatch {
    /// What it is doing.
    pub state: watch::Receiver<State>,
    inside: Arc<Mutex<Option<Inside>>>,
}

/// Of an owner.
#[derive(Clone)]
pub struct Inside {
    /// Its tenant actors.
    pub actors: ActorWatch,
    /// Its search follower.
    pub search: watch::Receiver<FollowState>,
}

impl PartitionWatch {
    /// What an owner has; `None` while this process is none.
    pub fn inside(&self) -> Option<Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A partition in this process. [`Partition::stop`] it; dropped, it goes on.
pub struct Partition {
    watch: PartitionWatch,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Partition {
    /// Begins to stand by. Needs a tokio runtime.
    pub fn start(parts: PartitionParts, lease: Lease) -> Self {
        let (tell, state) = watch::channel(State::StandingBy);
        let (stop, inside) = (CancellationToken::new(), Arc::default());
        let worker = Worker {
            parts,
            tell,
            inside: Arc::clone(&inside),
            stop: stop.clone(),
        };
        Self {
            watch: PartitionWatch { state, inside },
            stop,
            task: tokio::spawn(worker.run(lease)),
        }
    }

    /// For health.
    pub fn watch(&self) -> PartitionWatch {
        self.watch.clone()
    }

    /// Ends it in order, see the module.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a partition's task had panicked");
        }
    }
}

/// Why an owner is one no more.
enum End {
    /// The process stops.
    Stop,
    /// Another process has it.
    Fenced,
    /// It cannot go on.
    Halted(Arc<str>),
}

struct Worker {
    parts: PartitionParts,
    tell: watch::Sender<State>,
    inside: Arc<Mutex<Option<Inside>>>,
    stop: CancellationToken,
}

/// Everything that an owner has.
struct Owned {
    log: Arc<ObjectSealLog>,
    sequencer: Sequencer,
    phase: watch::Receiver<Phase>,
    actors: Actors,
    consumer: RemoteConsumer,
    counting: Counting,
    following: Following,
    dead_letters: DeadLetters,
}

impl Worker {
    async fn run(self, mut lease: Lease) {
        loop {
            self.tell.send_replace(State::StandingBy);
            let held = tokio::select! {
                () = self.stop.cancelled() => return,
                held = lease.take() => held,
            };
            self.tell.send_replace(State::TakingOver);
            let lost = held.lost();
            let taken = tokio::select! {
                () = self.stop.cancelled() => return held.release().await,
                () = lost.cancelled() => continue,
                taken = self.take() => taken,
            };
            let end = match taken {
                Ok(owned) => self.own(owned, held).await,
                Err(why) => {
                    tracing::error!(partition = self.parts.index, %why, "the partition cannot be taken over now; it is tried again");
                    self.tell.send_replace(State::Faulty(why.into()));
                    // Another process may be better off.
                    held.release().await;
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            };
            match end {
                End::Stop => return,
                End::Fenced => tracing::warn!(partition = self.parts.index, "another process owns the partition; this one stands by"),
                End::Halted(why) => {
                    self.tell.send_replace(State::Halted(why));
                    return self.stop.cancelled().await;
                }
            }
        }
    }

    /// Reads where the partition stands, and starts.
    async fn take(&self) -> Result<Owned, String> {
        let (p, parts, settings) = (self.parts.index, &self.parts, &self.parts.settings);
        let settled = parts.seals.cursor(DEAD_LETTERS).await.map_err(|e| e.to_string())?;
        let Taken { log, start } = ObjectSealLog::take(&parts.seals).await.map_err(|e| e.to_string())?;
        let dead_letters = DeadLetters::shared(parts.objects.clone(), settled);
        dead_letters.forget(start.state.retired.iter().cloned());
        for deleted in parts.catalog.retired() {
            dead_letters.forget([deleted.tenant_id.access_log(), deleted.tenant_id]);
        }
        log.save_cursor(DEAD_LETTERS, dead_letters.settled());
        let open = parts.queue.open(&start.state);
        let sequencer_parts = Parts {
            log: log.clone(),
            follower: (parts.store)(),
            dead_letters: Arc::new(dead_letters.clone()),
            publisher: Arc::new(Silent),
            sources: open.progress,
        };
        let (sequencer, handle) =
            Sequencer::start(sequencer_parts, start, settings::sequencer(settings)).map_err(|e| format!("a thread cannot be started: {e}"))?;
        let phase = sequencer.phase();
        let quarantine = Quarantine::new(parts.objects.clone(), p);
        let (consumer, deliveries) = RemoteConsumer::start(
            open.receive,
            Arc::new(handle.clone()),
            quarantine,
            settings::consumer(settings, p),
            Handle::current(),
        );
        let actors = Actors::start(&settings::actors(settings), deliveries, Arc::new(consumer.clone()), Arc::new(handle.clone()));
        let counting = Counting::start(Arc::new(handle), parts.authority.clone(), parts.tail.clone(), p as usize);
        let follow = FollowParts {
            partition: p,
            seals: Arc::new(parts.seals.clone()),
            cursors: parts.seals.cursors(),
            follower: parts.search.clone(),
            rebuild: parts.rebuild.clone(),
        };
        let following = Following::start(follow, FollowSettings::default());
        let inside = Inside {
            actors: actors.watch(),
            search: following.state(),
        };
        self.set_inside(Some(inside));
        self.tell.send_replace(State::Owner);
        Ok(Owned {
            log,
            sequencer,
            phase,
            actors,
            consumer,
            counting,
            following,
            dead_letters,
        })
    }

    /// Works until something ends it, and ends it in order.
    async fn own(&self, mut owned: Owned, held: Held) -> End {
        let lost = held.lost();
        let ended = async {
            let over = |phase: &Phase| matches!(phase, Phase::SteppedDown | Phase::Halted(_) | Phase::Stopped);
            match owned.phase.wait_for(over).await.map(|phase| phase.clone()) {
                Ok(Phase::Halted(why)) => End::Halted(why),
                _ => End::Fenced,
            }
        };
        let end = tokio::select! {
            () = self.stop.cancelled() => End::Stop,
            // Whoever has it now fences this one; what it can still seal until then is as good as anybody's.
            () = lost.cancelled() => End::Fenced,
            end = ended => end,
        };
        self.let_go(owned, held).await;
        self.set_inside(None);
        end
    }

    async fn let_go(&self, owned: Owned, held: Held) {
        let Owned {
            log,
            sequencer,
            mut phase,
            actors,
            consumer,
            counting,
            following,
            dead_letters,
        } = owned;
        consumer.stop_delivery();
        counting.stop().await;
        // While the ledger does not answer nothing is decided, and so nothing is settled: it is delivered to the next owner.
        let _ = tokio::time::timeout(LAST_SEAL, actors.stop()).await;
        let stopping = tokio::spawn(blocking(move || sequencer.stop()));
        let over = |phase: &Phase| !matches!(phase, Phase::Replaying | Phase::Running);
        let _ = phase.wait_for(over).await; // an error: it has ended
        // Nothing is sealed here any more: the next owner may begin.
        tokio::join!(consumer.close(), held.release());
        let _ = stopping.await; // a panic was logged where it happened
        if tokio::time::timeout(LAST_LETTERS, dead_letters.drained()).await.is_err() {
            tracing::warn!(
                partition = self.parts.index,
                "dead letters that cannot be written now are left to the next owner"
            );
        }
        following.stop().await;
        log.close().await;
        dead_letters.close();
    }

    fn set_inside(&self, inside: Option<Inside>) {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) = inside;
    }
}

/// Readers are told by the tail, in every process.
struct Silent;

impl Publisher for Silent {
    fn publish(&self, _: &Arc<DecidedSeal>) {}

    fn wants(&self, _: &TenantId) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
