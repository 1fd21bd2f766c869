//! The actor tree: from a delivered pack to a batch at the sequencer, and from a decided seal to the readers.
//!
//! ```text
//! queue ──Delivery──▶ router (task) ──lane──▶ TenantActor (shard) ──Batch──▶ BatchSink: the sequencer
//!                        │ full: parked by position                              │ durable, applied
//!                        └──▶ the log (PackReader)              FeedHandle ◀──DecidedSeal── follower
//!                                                                  └──lane──▶ Broadcaster ──▶ Session …
//! ```
//!
//! | actor | is told | by | says |
//! |---|---|---|---|
//! | [`tenant::TenantActor`] | packs (lane), `Snapshot`, `Retire` (mailbox) | router, [`Actors`] | batches |
//! | [`broadcast::Broadcaster`] | decided seals (lane) | the follower, by [`broadcast::FeedHandle`] | frames to sessions |
//!
//! Every lane is bounded in bytes: packs by [`crate::model::credit`], seals and frames by the feed's settings. A tenant lives
//! on one shard with all its state; shards share nothing. actix is imported in this folder only; the outside sees handles.

pub mod broadcast;
pub mod directory;
pub mod router;
pub mod runtime;
pub mod sequencer;
pub mod supervise;
pub mod tenant;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use self::{
    directory::{Directory, LaneSettings},
    router::{Router, RouterCounters},
    runtime::{Runtime, Shards},
    tenant::{BatchSink, Surroundings, core::CoreSettings, messages::TenantSnapshot},
};
use crate::{
    model::{batch::Delivery, tenant::TenantId},
    queue::PackReader,
};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Sizes of the actor tree.
#[derive(Debug, Clone)]
pub struct ActorSettings {
    /// Threads for tenant actors.
    pub shards: usize,
    /// A tenant without data for this long has no actor.
    pub idle_after: Duration,
    /// A batch takes no further pack once it would exceed this, bytes.
    pub batch_bytes: usize,
    /// Most packs in a batch.
    pub batch_packs: usize,
    /// How long a pack may wait for company while another batch of its tenant is in flight.
    pub batch_linger: Duration,
    /// Packs that fit into a tenant's lane.
    pub lane_slots: usize,
    /// Most bytes of one tenant's packs in memory; an eighth of `memory_bytes` at most is in force.
    pub tenant_bytes: usize,
    /// Most bytes of all packs in memory between the queue and settlement.
    pub memory_bytes: usize,
    /// Most batches that the sequencer has of one tenant.
    pub batches_in_flight: usize,
}

impl Default for ActorSettings {
    fn default() -> Self {
        Self {
            shards: 2,
            idle_after: Duration::from_secs(60),
            batch_bytes: 1 << 20,
            batch_packs: 1024,
            batch_linger: Duration::from_millis(2),
            lane_slots: 32,
            tenant_bytes: 8 << 20,
            memory_bytes: 64 << 20,
            batches_in_flight: 2,
        }
    }
}

/// What health and metrics tell about the actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActorStatus {
    /// Tenants that have an actor.
    pub live_tenants: usize,
    /// Tenants whose actor crashed more than five times in the last minute.
    pub degraded_tenants: usize,
    /// Restarts after a crash since the process started.
    pub restarts: u64,
    /// Packs that wait in the log because their tenant has no room in memory.
    pub parked_packs: usize,
    /// Bytes of packs in memory, of `memory_bytes`.
    pub memory_in_use: usize,
    /// How long packs at the front of a parked tenant have waited for room, summed up.
    pub waited_for_room: Duration,
}

/// The router and the tenant actors. Dropping it stops them without waiting: what is unsettled redelivers.
pub struct Actors {
    directory: Arc<Directory>,
    counters: Arc<RouterCounters>,
    router: JoinHandle<()>,
    stop: CancellationToken,
    /// `None` in tests that run on their own thread's arbiter.
    runtime: Option<Runtime>,
}

impl Actors {
    /// Starts the shards and the router. Call it on the runtime that does the I/O; panics off one, or where the operating
    /// system refuses a thread.
    pub fn start(settings: &ActorSettings, deliveries: mpsc::Receiver<Delivery>, packs: Arc<dyn PackReader>, sink: Arc<dyn BatchSink>) -> Self {
        let runtime = Runtime::start("sluice-actors", settings.shards);
        let mut actors = Self::start_on(runtime.shards().clone(), settings, deliveries, packs, sink);
        actors.runtime = Some(runtime);
        actors
    }

    fn start_on(shards: Shards, settings: &ActorSettings, deliveries: mpsc::Receiver<Delivery>, packs: Arc<dyn PackReader>, sink: Arc<dyn BatchSink>) -> Self {
        let core = CoreSettings {
            batch_bytes: settings.batch_bytes,
            batch_packs: settings.batch_packs,
            linger: settings.batch_linger,
            in_flight: settings.batches_in_flight.max(1),
            idle_after: settings.idle_after,
        };
        let io = Handle::current();
        let surroundings = Surroundings {
            settings: core,
            sink,
            io: io.clone(),
        };
        let lanes = LaneSettings {
            slots: settings.lane_slots,
            tenant_bytes: settings.tenant_bytes.min(settings.memory_bytes / 8).max(1),
            memory_bytes: settings.memory_bytes.max(1),
        };
        let directory = Directory::new(surroundings, lanes, shards);
        let (counters, stop) = (Arc::<RouterCounters>::default(), CancellationToken::new());
        let router = Router::new(deliveries, directory.clone(), packs, counters.clone());
        Self {
            router: io.spawn(router.run(stop.clone())),
            directory,
            counters,
            stop,
            runtime: None,
        }
    }

    /// What is going on. Cheap, but not for every request: it looks at every tenant that crashed lately.
    pub fn status(&self) -> ActorStatus {
        ActorStatus {
            live_tenants: self.directory.live(),
            degraded_tenants: self.directory.degraded(),
            restarts: self.directory.restarts(),
            parked_packs: self.counters.parked.load(std::sync::atomic::Ordering::Relaxed),
            memory_in_use: self.directory.memory_in_use(),
            waited_for_room: self.counters.waited(),
        }
    }

    /// What one tenant's actor holds; `None` when it has none.
    pub async fn snapshot(&self, tenant: &TenantId) -> Option<TenantSnapshot> {
        self.directory.existing(tenant)?.snapshot().await
    }

    /// Stops in order: the router takes nothing more and lets go of what is parked (it redelivers); the lanes end; each
    /// tenant actor hands over what it has and waits until it is settled; the shards' threads are joined. Waits as long as
    /// the sink does: dropped at a deadline, the rest stops unsettled and redelivers.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.router).await {
            tracing::error!(%error, "the router had panicked");
        }
        self.directory.close().await;
        if let Some(runtime) = self.runtime.take() {
            let joined = tokio::task::spawn_blocking(|| runtime.stop()).await;
            joined.expect("joining threads does not panic");
        }
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
