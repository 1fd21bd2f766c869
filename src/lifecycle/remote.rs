//! Erasures where the sequencer is another process: ordered through the queue, awaited by the seals.
//!
//! ```text
//! this process: order ─▶ queue ─▶ the owner: seal: erasure ─▶ count (`super::counting`) ─▶ seal: removed
//!        └──────────────── tail: hidden ◀──────────┘                                              │
//!                          tail: settled ◀────────────────────────────────────────────────────────┘
//! ```
//!
//! Guarantees: an order has one name, so that ordering it again, for fear that it was lost, erases nothing more. What is
//! told to be hidden is hidden in every process from then on (ADR 0026). An order that the queue has taken is carried out, whatever
//! becomes of this process.

use super::erasure::EraseError;
use crate::{
    model::tenant::{TenantId, TenantScope},
    queue::{
        AcceptError,
        remote::{Ordered, RemoteOrder, producer::RemoteProducer},
    },
    seal::erasure::ErasureKind,
    tail::{Tail, Watched},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use uuid::Uuid;

/// Between two orders of one name while it is not known whether the queue has it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long an order in doubt is repeated before its outcome is given up.
const IN_DOUBT: Duration = Duration::from_secs(120);
/// How long it takes until a retirement that was ordered, and that no seal has, is ordered again.
const AGAIN: Duration = Duration::from_secs(60);

/// Puts orders for a tenant's sequencer into the queue.
pub trait RemoteOrders: Send + Sync + 'static {
    /// To erase the tenant's rows whose time is before `cutoff` (milliseconds). Resolves when the order is durable in the queue; in
    /// doubt, or when it was not taken, it may be ordered again under the same name.
    fn erase(&self, tenant: &TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), AcceptError>>;
    /// To retire the tenant's log and erase all of its rows; likewise.
    fn retire(&self, tenant: &TenantId, job: Uuid) -> BoxFuture<'static, Result<(), AcceptError>>;
}

impl RemoteOrders for RemoteProducer {
    fn erase(&self, tenant: &TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), AcceptError>> {
        passed(self, tenant, job, Ordered::Erase { kind, cutoff })
    }

    fn retire(&self, tenant: &TenantId, job: Uuid) -> BoxFuture<'static, Result<(), AcceptError>> {
        passed(self, tenant, job, Ordered::Retire)
    }
}

fn passed(producer: &RemoteProducer, tenant: &TenantId, id: Uuid, what: Ordered) -> BoxFuture<'static, Result<(), AcceptError>> {
    let (producer, tenant) = (producer.clone(), tenant.clone());
    Box::pin(async move { producer.order(RemoteOrder { id, tenant, what }).await })
}

/// See the module.
pub(super) struct Remote {
    pub(super) orders: Arc<dyn RemoteOrders>,
    pub(super) tail: Tail,
}

impl Remote {
    /// Erases, and says how many rows that removed; `hidden` is told when no process shows them any more.
    pub(super) async fn erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64, hidden: oneshot::Sender<()>) -> Result<u64, EraseError> {
        let (tenant, job) = (scope.tenant(), Uuid::now_v7());
        let mut watched = self.tail.watch_job(tenant, job);
        let doubt = timeout(IN_DOUBT, self.order(&mut watched, || self.orders.erase(tenant, kind, cutoff, job)));
        doubt.await.unwrap_or(Err(EraseError::Unknown))?;
        watched.hidden().await;
        self.tail.seen_by_all().await;
        let _ = hidden.send(()); // nobody has to wait for it
        let rows = watched.settled().await;
        tracing::info!(%job, ?kind, rows, "rows were erased");
        Ok(rows)
    }

    /// Until the queue has the order, or a seal. An order that was refused for certain is not repeated.
    async fn order(&self, watched: &mut Watched, order: impl Fn() -> BoxFuture<'static, Result<(), AcceptError>>) -> Result<(), EraseError> {
        let (mut in_doubt, mut pause) = (false, FIRST_PAUSE);
        loop {
            match order().await {
                Ok(()) => return Ok(()),
                Err(AcceptError::Unknown) => in_doubt = true,
                Err(error) if !in_doubt => {
                    tracing::warn!(%error, "an erasure could not be ordered");
                    return Err(EraseError::Unavailable);
                }
                Err(_) => {}
            }
            if timeout(pause, watched.hidden()).await.is_ok() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Retires the tenant's log; resolves when everything that was ever erased of it is counted and no process shows a row of it, with how
    /// many rows this order removed.
    pub(super) async fn retire(&self, scope: &TenantScope) -> u64 {
        let (tenant, job) = (scope.tenant(), Uuid::now_v7());
        let watched = self.tail.watch_job(tenant, job);
        let is_done = self.tail.until(tenant, |seals| {
            seals.retired.contains(tenant) && seals.erasures_of(tenant).is_none_or(|all| all.pending().is_empty())
        });
        tokio::select! {
            biased;
            () = is_done => {}
            () = self.keep_ordering(tenant, job) => {}
        }
        // Who hears that the tenant is deleted finds nothing of it in another process.
        self.tail.seen_by_all().await;
        watched.rows().unwrap_or(0) // somebody else has retired it
    }

    async fn keep_ordering(&self, tenant: &TenantId, job: Uuid) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.orders.retire(tenant, job).await {
                Ok(()) => sleep(AGAIN).await,
                Err(error) => {
                    tracing::warn!(%error, retry_after = ?pause, "a retirement could not be ordered yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
