//! Counts what erasures have removed, beside the sequencer that owns their partition: only it can seal the number.
//!
//! Whoever ordered an erasure, through the queue or here, and whatever an owner before this one left: what is pending in
//! the seals is counted as soon as the authority shows its seal, and the number is sealed. A tenant's erasures are counted one after
//! the other in the order of their seals. A store that fails is asked again, with back-off, until it answers or
//! this ends; the next owner then counts the same number again (`docs/protocol.md`, "Erasure").

use super::erasure::Orders;
use crate::{
    model::tenant::{TenantId, TenantScope},
    seal::erasure::Erasure,
    sinks::Authority,
    tail::Tail,
    telemetry::metrics::metrics,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// Erasures that are counted at once.
const AT_ONCE: usize = 8;

/// The counting of one partition. Dropping it ends nothing; see [`Counting::stop`].
pub struct Counting {
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Inner {
    orders: Arc<dyn Orders>,
    authority: Arc<dyn Authority>,
    tail: Tail,
    partition: usize,
    /// Erasures that were begun, and whether that goes on. One whose number is sealed stays until the tail knows that.
    in_hand: Mutex<HashMap<Uuid, bool>>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Counting {
    /// Begins. `orders` is the partition's sequencer, which lives in this process, `tail` follows the partition, and
    /// `authority` answers by a view of `tail`. Needs a tokio runtime.
    pub fn start(orders: Arc<dyn Orders>, authority: Arc<dyn Authority>, tail: Tail, partition: usize) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let inner = Arc::new(Inner {
            orders,
            authority,
            tail,
            partition,
            in_hand: Mutex::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        let until = stop.clone();
        tasks.spawn(async move {
            let _stopped = until.run_until_cancelled_owned(inner.run()).await;
        });
        Self { stop, tasks }
    }

    /// Ends all work; what is pending is counted by the next owner. To be called before the sequencer stops.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Inner {
    fn in_hand(&self) -> MutexGuard<'_, HashMap<Uuid, bool>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner) // changed by single steps
    }

    async fn run(self: Arc<Self>) {
        let Some(mut moved) = self.tail.moved(self.partition) else { return };
        loop {
            moved.mark_unchanged();
            let countable = self.tail.countable(self.partition);
            self.in_hand()
                .retain(|job, goes_on| *goes_on || countable.iter().any(|(_, erasure)| erasure.job == *job));
            for (tenant, erasure) in countable {
                let is_new = {
                    let mut in_hand = self.in_hand();
                    let before = in_hand.len();
                    in_hand.entry(erasure.job).or_insert(true);
                    in_hand.len() > before
                };
                if is_new {
                    self.begin(tenant, erasure);
                }
            }
            if moved.changed().await.is_err() {
                return;
            }
        }
    }

    fn begin(self: &Arc<Self>, tenant: TenantId, erasure: Erasure) {
        let (this, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let _stopped = stop.run_until_cancelled_owned(this.count(tenant, erasure)).await;
        });
    }

    async fn count(self: Arc<Self>, tenant: TenantId, Erasure { job, kind, .. }: Erasure) {
        let Ok(_room) = self.room.acquire().await else { return };
        let scope = TenantScope::new(tenant);
        let rows = super::erasure::count(&*self.authority, &scope, job).await;
        // Should the tail be late and the job not be the first pending one any more, the sequencer lets this be.
        if self.orders.removed(scope.tenant().clone(), job, rows).await.is_ok() {
            metrics().erased(kind, rows);
            tracing::info!(%job, ?kind, rows, "the rows of an erasure were counted");
        }
        self.in_hand().insert(job, false);
    }
}
