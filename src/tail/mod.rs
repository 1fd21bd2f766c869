//! The side of the seals for processes that decide nothing: reads seals and cursors of all partitions as they come, and says what
//! they add up to.
//!
//! ```text
//! seal/<p>/<n> ──▶ follow (one task per partition) ──▶ partition: heads and erasures, per store as of its cursor ──▶ StoreView ─▶ reads
//! cursor/<p>/… ──▶                                 ├─▶ packs: `wait=stored`, what this process has sent and nobody has decided
//!                                                  ├─▶ jobs: erasures that were ordered, hidden, counted
//!                                                  └─▶ publish: seals that analytics shows, in order, to the live feed
//! ```
//!
//! # What holds
//!
//! - **A view is never ahead**: a head is shown when its store's cursor has passed its seal, an erasure as soon as its seal was seen.
//! - **A read is never late by more than [`TailSettings::fresh_for`]**: a [`fresh::Fresh`] store answers by a view that had seen
//!   everything that was durable so long before the read was asked, or not at all (503). Whatever this process tells somebody to be
//!   done (a cleanup, `wait=stored`) is told so long after it was seen, so that no other process contradicts it. No
//!   clock of another machine is trusted for that. (ADR 0026)
//! - **What is skipped is said**: a process that is behind the floor takes up the checkpoint; sessions of the live feed then read the store.
//! - Memory: the state of the seals; per store [`WAITING`](crate::seal::view::WAITING) changes of heads; the rest in the modules.
//!
//! Requests while nothing happens: one look per partition and second (the head of the next seal, and the floor).

mod follow;
pub mod fresh;
mod jobs;
mod packs;
mod partition;
mod publish;
#[cfg(test)]
pub(crate) mod tests;
mod view;

pub use self::jobs::Watched;

use self::{jobs::Jobs, packs::Packs, partition::Partition, publish::Publishing, view::StoreView};
use crate::{
    actors::broadcast::Publisher,
    model::tenant::{TenantId, TenantScope},
    queue::{
        Counters, Decided,
        remote::{Decisions, producer::partition_of},
        seals::Seals,
    },
    seal::{
        erasure::Erasure,
        state::SealState,
        view::{SealView, lag},
    },
};
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// Times of a tail.
#[derive(Debug, Clone, Copy)]
pub struct TailSettings {
    /// From one look to the next while something happens or somebody waits.
    pub poll: Duration,
    /// The same when nothing has happened for a while.
    pub idle: Duration,
    /// How old a view may be by which a read is answered. The same for all processes of a deployment.
    pub fresh_for: Duration,
    /// How long a read waits for a fresh view before it is refused.
    pub refuse_after: Duration,
}

impl Default for TailSettings {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(200),
            idle: Duration::from_secs(1),
            fresh_for: Duration::from_millis(400),
            refuse_after: Duration::from_secs(5),
        }
    }
}

/// This process has not been able to look at the seals lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seals cannot be read")]
pub struct Behind;

/// The tail of all partitions. Cheap to clone.
#[derive(Clone)]
pub struct Tail(Arc<Inner>);

struct Inner {
    partitions: Vec<Arc<Partition>>,
    /// Names of the stores whose cursors are read, and the sum of what each shows.
    stores: Vec<(&'static str, watch::Sender<u64>)>,
    packs: Packs,
    jobs: Jobs,
    settings: TailSettings,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Tail {
    /// Begins to read, in a task per partition. `stores` are those whose cursors are followed, `analytics` among them. With a `publisher`, it is
    /// told of every seal that `analytics` shows from now on. Needs a tokio runtime. `partitions` are those of the configuration, in
    /// its order, at least one.
    pub fn start(partitions: Vec<Seals>, stores: &[&'static str], publisher: Option<Arc<dyn Publisher>>, settings: TailSettings) -> Self {
        let inner = Arc::new(Inner {
            partitions: partitions
                .into_iter()
                .enumerate()
                .map(|(index, seals)| Arc::new(Partition::new(index, seals, publisher.clone())))
                .collect(),
            stores: stores.iter().map(|name| (*name, watch::Sender::new(0))).collect(),
            packs: Packs::default(),
            jobs: Jobs::default(),
            settings,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for partition in &inner.partitions {
            inner.spawn(follow::run(inner.clone(), partition.clone()));
            if let Some(publishing) = &partition.publishing {
                inner.spawn(publish::run(publishing.clone(), partition.seals.clone()));
            }
        }
        inner.tasks.close();
        Self(inner)
    }

    /// Ends all reading. Views stay as they are and are soon too old to answer by.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }

    /// The seals as the store of this name shows them. One whose cursor is not followed is never ready.
    pub fn view(&self, store: &str) -> Arc<dyn SealView> {
        let at = self.0.stores.iter().position(|(name, _)| *name == store);
        Arc::new(StoreView::new(self.0.clone(), at))
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.0.partitions.len()
    }

    /// The partition of a tenant's logs.
    pub fn partition_of(&self, tenant: &TenantId) -> usize {
        self.0.index_of(tenant)
    }

    /// Resolves when the tenant's view is young enough to answer a read by that was asked when this was called; at once if it is.
    /// [`Behind`] when that takes too long.
    pub async fn fresh(&self, tenant: &TenantId) -> Result<(), Behind> {
        self.0.of(tenant).fresh(self.0.settings.fresh_for, self.0.settings.refuse_after).await
    }

    /// The same by a look that begins after this was called: what any process has shown to anybody before is seen.
    pub async fn refreshed(&self, tenant: &TenantId) -> Result<(), Behind> {
        self.0.of(tenant).fresh(Duration::ZERO, self.0.settings.refuse_after).await
    }

    /// Resolves when no process of the deployment answers a new read by a view that lacks what this one has seen by now.
    pub async fn seen_by_all(&self) {
        tokio::time::sleep(self.0.settings.fresh_for).await;
    }

    /// The tenant's counters as far as its seals were seen: `accepted` is what is decided, and `pending` is 0.
    pub fn counters(&self, scope: &TenantScope) -> Counters {
        let state = self.0.of(scope.tenant()).read(|state| state.seals.tenant(scope.tenant())).unwrap_or_default();
        Counters {
            accepted: state.accepted,
            stored: state.stored,
            duplicate: state.duplicate,
            dead_lettered: state.dead_lettered,
            pending: 0,
            erased: state.erased,
            bytes: state.bytes,
        }
    }

    /// What is decided about a pack, once every store has it readable, and in every process; `None` after `within`. It listens from this call on;
    /// what was decided a moment before is remembered.
    pub fn decided(&self, pack: Uuid, within: Duration) -> BoxFuture<'static, Option<Decided>> {
        let (inner, deadline) = (self.0.clone(), Instant::now() + within);
        let listening = inner.clone().listen(pack);
        Box::pin(async move {
            let decided = async {
                let sealed = listening.sealed().await?;
                let partition = inner.partitions.get(sealed.partition)?;
                let _waiting = partition.attend();
                let mut settled = partition.settled.subscribe();
                settled.wait_for(|upto| *upto >= sealed.n).await.ok()?;
                tokio::time::sleep(inner.settings.fresh_for).await;
                Some(sealed.decided)
            };
            timeout_at(deadline, decided).await.ok().flatten()
        })
    }

    /// The pack was acknowledged by this process: [`Tail::until_decided`] waits for it.
    pub fn acknowledged(&self, tenant: &TenantId, pack: Uuid) {
        self.0.packs.acknowledged(tenant, pack);
    }

    /// Resolves when everything is decided, and shown by `analytics`, that this process had acknowledged for the tenant when it was called,
    /// and the state is no older than the call; after `within` in any case. What was acknowledged more than half a minute ago, or too long
    /// ago to be remembered, is not waited for.
    pub async fn until_decided(&self, tenant: &TenantId, within: Duration) {
        let partition = self.0.of(tenant);
        let waiting = async {
            let _waiting = partition.attend();
            let sent = self.0.packs.undecided(tenant);
            let _ = self.refreshed(tenant).await; // a view that cannot be refreshed is told to readers by its age
            let mut folded = partition.folded.subscribe();
            while !self.0.packs.all_decided(tenant, &sent) {
                if folded.changed().await.is_err() {
                    return;
                }
            }
            let upto = *folded.borrow();
            let _ = partition.shown.subscribe().wait_for(|shown| *shown >= upto).await;
        };
        let _ = timeout(within, waiting).await;
    }

    /// Watches an erasure by its name, also one that was sealed before and is not counted yet. To be called before it is ordered, so that nothing is missed.
    pub fn watch_job(&self, tenant: &TenantId, job: Uuid) -> Watched {
        let watched = Jobs::watch(&self.0, job);
        let is_pending = |state: &partition::State| state.seals.erasures_of(tenant).is_some_and(|all| all.pending().iter().any(|e| e.job == job));
        if self.0.of(tenant).read(is_pending).unwrap_or(false) {
            self.0.jobs.hidden(job);
        }
        watched
    }

    /// Resolves when `what` holds of the state of the tenant's partition.
    pub async fn until(&self, tenant: &TenantId, what: impl Fn(&SealState) -> bool) {
        let partition = self.0.of(tenant);
        let _waiting = partition.attend();
        let mut folded = partition.folded.subscribe();
        loop {
            folded.mark_unchanged();
            if partition.read(|state| what(&state.seals)).unwrap_or(false) || folded.changed().await.is_err() {
                return;
            }
        }
    }

    /// Resolves when the store of this name has applied every seal that this process has seen of the tenant's partition.
    pub async fn applied(&self, tenant: &TenantId, store: &str) {
        let (partition, at) = (self.0.of(tenant), self.0.stores.iter().position(|(name, _)| *name == store));
        let Some(at) = at else { return };
        let _waiting = partition.attend();
        let Some(goal) = partition.read(|state| state.seals.n) else { return };
        let mut moved = partition.moved.subscribe();
        loop {
            moved.mark_unchanged();
            let there = partition.read(|state| state.stores[at].heads.upto() >= goal).unwrap_or(false);
            if there || moved.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether the tenant's log is retired by a seal that was seen.
    pub fn is_retired(&self, tenant: &TenantId) -> bool {
        self.0.of(tenant).read(|state| state.seals.retired.contains(tenant)).unwrap_or(false)
    }

    /// Whether the state of every partition was read.
    pub fn is_loaded(&self) -> bool {
        self.0.partitions.iter().all(|partition| partition.read(|_| ()).is_some())
    }

    /// Seals of the tenant's partition up to this one are trimmed: no owner hands them to a store again.
    pub fn trimmed(&self, tenant: &TenantId) -> u64 {
        self.0.of(tenant).floor.load(Ordering::Relaxed)
    }

    /// The first pending erasure of each tenant of a partition, if `analytics` shows its seal: then it can be counted.
    pub fn countable(&self, partition: usize) -> Vec<(TenantId, Erasure)> {
        let Some(partition) = self.0.partitions.get(partition) else {
            return Vec::new();
        };
        partition.read(partition::State::countable).unwrap_or_default()
    }

    /// Changes with every seal and cursor of a partition that is seen.
    pub fn moved(&self, partition: usize) -> Option<watch::Receiver<u64>> {
        Some(self.0.partitions.get(partition)?.moved.subscribe())
    }

    /// How far `store` is behind the seals, in the partition where it is furthest behind; and how old the view is, if that is more.
    pub fn lag(&self, store: &str) -> Duration {
        Duration::from_millis(self.view(store).lag_ms())
    }
}

impl Decisions for Tail {
    fn decided(&self, pack: Uuid, within: Duration) -> BoxFuture<'static, Option<Decided>> {
        Self::decided(self, pack, within)
    }

    fn counters(&self, scope: &TenantScope) -> Counters {
        Self::counters(self, scope)
    }

    fn acknowledged(&self, tenant: &TenantId, packs: &[Uuid]) {
        packs.iter().for_each(|pack| Self::acknowledged(self, tenant, *pack));
    }

    fn until_decided<'a>(&'a self, tenant: &'a TenantId, within: Duration) -> BoxFuture<'a, ()> {
        Box::pin(Self::until_decided(self, tenant, within))
    }
}

impl Inner {
    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _stopped = stop.run_until_cancelled_owned(work).await;
        });
    }

    fn index_of(&self, tenant: &TenantId) -> usize {
        partition_of(tenant, self.partitions.len() as u32) as usize
    }

    fn of(&self, tenant: &TenantId) -> &Arc<Partition> {
        &self.partitions[self.index_of(tenant)]
    }

    /// A store of some partition shows more: the sums are told.
    fn tell_views(&self) {
        for (at, (_, visible)) in self.stores.iter().enumerate() {
            let sum = self
                .partitions
                .iter()
                .filter_map(|p| p.read(|state| state.stores[at].heads.upto()))
                .sum::<u64>();
            visible.send_if_modified(|told| std::mem::replace(told, sum) != sum);
        }
    }

    /// How long the oldest seal waits for a store, milliseconds, or how old the youngest complete look is.
    fn lag_ms(&self, store: usize) -> u64 {
        let of = |partition: &Arc<Partition>| {
            let waits = partition.read(|state| state.stores[store].heads.waits_since()).flatten();
            let age = partition
                .polled
                .borrow()
                .map_or(Duration::ZERO, |(began, _)| began.elapsed().saturating_sub(self.settings.idle * 2));
            lag(waits).max(age.as_millis() as u64)
        };
        self.partitions.iter().map(of).max().unwrap_or(0)
    }
}
