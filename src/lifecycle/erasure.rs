//! Erasures, from the order to the count.
//!
//! ```text
//! erase ─▶ seal: erasure ─▶ the store hides the rows ─▶ count_erased ─▶ seal: removed ─▶ usage.erased, answer
//!          └ in the order of the tenant's tickets ────────────────────┘
//! ```
//!
//! Guarantees: an erasure that was sealed is counted and settled, exactly once, whatever happens to the caller or the process:
//! the work goes on when the caller's future is dropped, and a start takes up what the last run left pending ([`Eraser::new`]).
//! A tenant's erasures are counted one after the other in the order of their seals, because only the first pending one can be
//! settled; tenants do not wait for each other. A store that fails is asked again, with back-off, until it answers or the
//! process stops; the rows stay hidden meanwhile, and later erasures of the tenant hide theirs.
//!
//! Where the sequencer is another process, all of that is done there, and [`super::remote`] orders it and waits.
//!
//! Not here: when to erase ([`super::retention`], `http::cleanup`), and taking rows off the disk (the store).

use super::remote::{Remote, RemoteOrders};
use crate::{
    actors::sequencer::{Ended, SequencerHandle},
    model::tenant::{TenantId, TenantScope},
    seal::{
        erasure::{Erasure, ErasureKind},
        state::SealState,
    },
    sinks::{Authority, StoreError},
    tail::Tail,
    telemetry::metrics::metrics,
};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// Erasures of one tenant that may be under way at once; more are refused.
const UNDER_WAY: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why nothing is known about the rows of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EraseError {
    /// The tenant has too many erasures under way. Nothing was erased.
    #[error("too many erasures of this tenant are under way")]
    Busy,
    /// The process is stopping. If the erasure was sealed, the next start counts it.
    #[error("the process is stopping")]
    Stopping,
    /// The order could not be given: nothing was erased.
    #[error("an erasure cannot be ordered now")]
    Unavailable,
    /// It is not known whether the order was taken. The rows may be erased at any time from now on, or never.
    #[error("it is not known whether the erasure was ordered")]
    Unknown,
}

impl From<Ended> for EraseError {
    fn from(_: Ended) -> Self {
        Self::Stopping
    }
}

/// The sequencer as the eraser sees it; see [`SequencerHandle`].
pub trait Orders: Send + Sync + 'static {
    /// Seals an erasure; resolves when the store hides the rows.
    fn erase(&self, tenant: TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), Ended>>;
    /// Retires the tenant and erases all of its rows, in one seal; resolves when the store hides them.
    fn retire(&self, tenant: TenantId, job: Uuid) -> BoxFuture<'static, Result<(), Ended>>;
    /// Seals the result of the tenant's first pending erasure; resolves when it is counted.
    fn removed(&self, tenant: TenantId, job: Uuid, rows: u64) -> BoxFuture<'static, Result<(), Ended>>;
}

impl Orders for SequencerHandle {
    fn erase(&self, tenant: TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        Self::erase(self, tenant, kind, cutoff, job)
    }

    fn retire(&self, tenant: TenantId, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        Self::retire(self, tenant, job)
    }

    fn removed(&self, tenant: TenantId, job: Uuid, rows: u64) -> BoxFuture<'static, Result<(), Ended>> {
        Self::removed(self, tenant, job, rows)
    }
}

/// Erases. Cheap to clone.
#[derive(Clone)]
pub struct Eraser(Arc<Inner>);

struct Inner {
    way: Way,
    lines: Mutex<HashMap<TenantId, Arc<Line>>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// Where the sequencer is.
enum Way {
    Here(Here),
    Elsewhere(Remote),
}

/// The sequencer of this process, and the store that it feeds.
struct Here {
    orders: Arc<dyn Orders>,
    authority: Arc<dyn Authority>,
}

/// The erasures of one tenant, in the order of their seals.
struct Line {
    /// The next ticket. Held while an erasure is sealed, so that tickets are in the order of the seals.
    next: tokio::sync::Mutex<u64>,
    /// Every erasure with a smaller ticket is settled.
    settled: watch::Sender<u64>,
    room: Arc<Semaphore>,
}

impl Line {
    /// A line with some sealed erasures, which have the first tickets.
    fn new(pending: usize) -> Arc<Self> {
        Arc::new(Self {
            next: tokio::sync::Mutex::new(pending as u64),
            settled: watch::Sender::new(0),
            room: Arc::new(Semaphore::new(UNDER_WAY)),
        })
    }

    /// The ticket of an erasure that `order` seals.
    async fn sealed(&self, order: BoxFuture<'static, Result<(), Ended>>) -> Result<u64, EraseError> {
        let mut next = self.next.lock().await;
        order.await?;
        *next += 1;
        Ok(*next - 1)
    }
}

impl Eraser {
    /// Takes up every erasure that is pending in `state`, the state after the last seal of the log. Must be called in a
    /// tokio runtime.
    pub fn new(orders: Arc<dyn Orders>, authority: Arc<dyn Authority>, state: &SealState) -> Self {
        let this = Self::going(Way::Here(Here { orders, authority }));
        for (tenant, erasures) in state.erasures.iter().filter(|(_, all)| !all.pending().is_empty()) {
            let line = Line::new(erasures.pending().len());
            this.0.lines().insert(tenant.clone(), line.clone());
            for (ticket, erasure) in erasures.pending().iter().enumerate() {
                let Erasure { kind, job, .. } = *erasure;
                tracing::info!(%job, ?kind, "an erasure of the last run is counted");
                let (inner, line, scope) = (this.0.clone(), line.clone(), TenantScope::new(tenant.clone()));
                this.spawn(async move {
                    let Way::Here(here) = &inner.way else { return Ok(()) };
                    here.settle(&line, ticket as u64, &scope, kind, job).await.map(drop)
                });
            }
        }
        this
    }

    /// An eraser that orders through the queue and waits by the seals that `tail` sees. What is pending is counted elsewhere
    /// ([`super::counting`]).
    pub fn remote(orders: Arc<dyn RemoteOrders>, tail: Tail) -> Self {
        Self::going(Way::Elsewhere(Remote { orders, tail }))
    }

    fn going(way: Way) -> Self {
        Self(Arc::new(Inner {
            way,
            lines: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Erases the tenant's rows whose time is before `cutoff` (milliseconds), up to its head. Resolves when they are hidden
    /// for good; how many they were comes by what it returns. Once polled, dropping either ends nothing but the waiting.
    pub async fn erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> Result<Counting, EraseError> {
        let line = self.0.line(scope);
        let room = line.room.clone().try_acquire_owned().map_err(|_| EraseError::Busy)?;
        let (inner, scope) = (self.0.clone(), scope.clone());
        let (hidden, is_hidden) = oneshot::channel();
        let counted = self.spawn(async move {
            let _room = room;
            let here = match &inner.way {
                Way::Here(here) => here,
                Way::Elsewhere(remote) => return remote.erase(&scope, kind, cutoff, hidden).await,
            };
            let (ticket, job) = here.seal(&line, &scope, kind, cutoff).await?;
            let _ = hidden.send(()); // nobody has to wait for it
            here.settle(&line, ticket, &scope, kind, job).await
        });
        match is_hidden.await {
            Ok(()) => Ok(Counting(counted)),
            // It came to its end before: why, it says itself.
            Err(_) => Err(Counting(counted).rows().await.err().unwrap_or(EraseError::Stopping)),
        }
    }

    /// Retires the tenant: its packs are refused from here on, for ever, and all of its rows are erased. Resolves when everything
    /// that was ever erased of it is counted; how many rows this call removed. Called again, also after a restart, it only waits
    /// for that. Once polled, dropping it ends nothing but the waiting.
    pub async fn retire(&self, scope: &TenantScope) -> Result<u64, EraseError> {
        let (inner, line, scope) = (self.0.clone(), self.0.line(scope), scope.clone());
        let retired = self.spawn(async move {
            let here = match &inner.way {
                Way::Here(here) => here,
                Way::Elsewhere(remote) => return Ok(remote.retire(&scope).await),
            };
            let (tenant, job) = (scope.tenant().clone(), Uuid::new_v4());
            let ticket = line.sealed(here.orders.retire(tenant, job)).await?;
            here.settle(&line, ticket, &scope, ErasureKind::Retention, job).await
        });
        Counting(retired).rows().await
    }

    /// Runs `work` until it is done or [`Eraser::stop`].
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = Result<T, EraseError>> + Send + 'static) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        let stopping = self.0.stopping.clone();
        self.0.tasks.spawn(async move {
            let done = stopping.run_until_cancelled_owned(work).await.unwrap_or(Err(EraseError::Stopping));
            let _ = answer.send(done); // nobody has to wait for it
        });
        answered
    }

    /// Ends all work; what is pending is taken up by the next start. To be called before the sequencer stops.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// What a task answers; an error when it panicked.
type Answer<T> = oneshot::Receiver<Result<T, EraseError>>;

/// An erasure whose rows are hidden and being counted.
pub struct Counting(Answer<u64>);

impl Counting {
    /// How many rows it removed.
    pub async fn rows(self) -> Result<u64, EraseError> {
        self.0.await.unwrap_or(Err(EraseError::Stopping))
    }
}

impl Inner {
    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner) // changed by single insertions
    }

    fn line(&self, scope: &TenantScope) -> Arc<Line> {
        self.lines().entry(scope.tenant().clone()).or_insert_with(|| Line::new(0)).clone()
    }
}

impl Here {
    /// Seals an erasure; its ticket and its name.
    async fn seal(&self, line: &Line, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> Result<(u64, Uuid), EraseError> {
        let job = Uuid::new_v4();
        let ticket = line.sealed(self.orders.erase(scope.tenant().clone(), kind, cutoff, job)).await?;
        Ok((ticket, job))
    }

    /// Counts a sealed erasure when it is its turn, and seals the number.
    async fn settle(&self, line: &Line, ticket: u64, scope: &TenantScope, kind: ErasureKind, job: Uuid) -> Result<u64, EraseError> {
        let mut settled = line.settled.subscribe();
        settled.wait_for(|settled| *settled == ticket).await.map_err(|_| EraseError::Stopping)?;
        let rows = count(&*self.authority, scope, job).await;
        self.orders.removed(scope.tenant().clone(), job, rows).await?;
        line.settled.send_modify(|settled| *settled += 1);
        metrics().erased(kind, rows);
        tracing::info!(%job, ?kind, rows, "rows were erased");
        Ok(rows)
    }
}

/// Counts the rows of a pending erasure, as often as it takes.
pub(super) async fn count(authority: &dyn Authority, scope: &TenantScope, job: Uuid) -> u64 {
    let mut pause = FIRST_PAUSE;
    loop {
        match authority.count_erased(scope, job).await {
            Ok(rows) => return rows,
            Err(StoreError::Starting) => tracing::debug!(%job, "the rows of an erasure are counted when the store has started"),
            Err(error) => tracing::warn!(%job, %error, "the rows of an erasure could not be counted; they are hidden, and counted again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
