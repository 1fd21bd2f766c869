//! The embedded store: the authority of a single process, a log-structured store of columns in open formats.
//!
//! ```text
//! seal n ──apply──▶ memtable ──freeze──▶ frozen ──flush──▶ parts/p-… + manifest/<k>
//!                   visible: n                             flushed: n      trimmable: flushed of manifest k − 1
//! ```
//!
//! * [`memtable`]: rows of the seals that no part holds yet, visible as soon as their seal is applied.
//! * [`flush`]: one thread that turns a full memtable into a part and makes it valid by a [`manifest`].
//! * [`compact`]: one thread that merges parts, and takes out rows that are erased; [`commit`]: both commit by it.
//! * [`part`]: one Parquet file of a range of seals with its sidecar of ranges, filters and ids; never changed.
//! * [`view`]: what a query sees; [`query`]: how it reads that; [`turns`]: whose query runs next.
//!
//! Guarantees: an applied seal is visible whole or not at all, and stays so. Nothing leaves memory before a durable manifest
//! covers it. Applying a seal again changes nothing. Heads and counters come from manifest and seals, never from rows. No
//! method reads rows without a `TenantScope` (or, in the ledger, a tenant in the key). Memory for rows is bounded by
//! `memtable_bytes` (one seal, if a single one is larger): beyond it applying blocks, and the seals wait in the log.
//!
//! It is rebuilt at a start from the newest good manifest and the seals after it; until it has the last of these
//! ([`EmbeddedStore::expect`]) reads answer [`StoreError::Starting`].
//!
//! Not here: the order of seals and their durability (sequencer and log), and the lock on the data folder (the process).

mod commit;
mod compact;
mod flush;
pub(crate) mod manifest;
mod memtable;
mod open;
pub mod part;
mod quarantine;
mod query;
mod turns;
pub mod verify;
mod view;

pub use query::stats::Tallying;

#[cfg(test)]
pub(crate) mod tests;

#[cfg(feature = "clickhouse")]
pub(in crate::sinks) use self::query::stats::series::Series;

use self::{
    commit::Commit,
    memtable::Memtable,
    query::{Control, stats::Helpers},
    turns::Turns,
    view::{TenantView, View},
};
use super::{Authority, Condition, ListPage, ListQuery, Scan, SealFollower, Stats, StatsQuery, StoreError, VisibleHead};
use crate::{
    fs::Fs,
    model::{
        entry::{ContentHash, StoredEntry},
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    seal::{
        DecidedSeal,
        erasure::{Erasure, ErasureKind},
        state::SealState,
    },
    telemetry::metrics::{self, Lane},
};
use futures_util::future::BoxFuture;
use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

/// How many queries may wait for each that runs; more are refused with [`StoreError::Busy`].
const WAITING_PER_QUERY: usize = 32;

/// An erasure's rows are counted once and by nobody who waits at a terminal for long; it looks at every block of the tenant.
const COUNT_TIMEOUT: Duration = Duration::from_secs(600);

/// What may be chosen about the store.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Bound of everything in memory that is not flushed. A flush begins at half of it.
    pub memtable_bytes: usize,
    /// A flush begins when this much of the log is not covered by a manifest, whatever of it is kept in memory.
    pub flush_log_bytes: u64,
    /// A flush begins when the oldest seal that is not flushed is this old.
    pub flush_after: Duration,
    /// Queries at once.
    pub queries: usize,
    /// Those of them that may be one tenant's.
    pub queries_of_tenant: usize,
    /// A query that takes longer, its wait for a turn included, is ended.
    pub query_timeout: Duration,
    /// Bytes of the volume that merges leave free, `disk.reserve`; a flush may use them.
    pub reserve: u64,
    /// Bytes of the largest data file that a merge writes.
    pub part_bytes: u64,
    /// Fewer parts are not merged.
    pub merge_parts: usize,
    /// The share of a core that merges take while parts do not pile up.
    pub merge_share: f64,
    /// The time, milliseconds since 1970.
    pub now: fn() -> i64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            memtable_bytes: 128 << 20,
            flush_log_bytes: 512 << 20,
            flush_after: Duration::from_secs(3600),
            queries: 16,
            queries_of_tenant: 4,
            query_timeout: Duration::from_secs(30),
            reserve: 2 << 30,
            part_bytes: 512 << 20,
            merge_parts: 8,
            merge_share: 0.2,
            now: crate::model::time::now_ms,
        }
    }
}

/// Something that a start found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDamage {
    /// What is wrong, and what was done about it. Names no tenant.
    pub what: String,
    /// The file, below the data folder.
    pub file: String,
    /// The seals that it covers, if that is known.
    pub seals: Option<(u64, u64)>,
    /// Its rows, if that is known.
    pub rows: Option<u64>,
    /// Whether the log still has all of it.
    pub rebuilt: bool,
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Heads and counters as of the manifest that was taken. Later seals are to be applied from the log.
    pub checkpoint: SealState,
    /// What was found wrong.
    pub damage: Vec<StoreDamage>,
    /// Seals above this one are to be applied again: the checkpoint's `n`.
    pub rebuild_from: u64,
    /// There were manifests and none can be read. Heads and counters are complete only if the log begins with seal 1:
    /// otherwise the process must not start, since it would give out numbers again.
    pub lost: bool,
}

/// How the store is doing.
#[derive(Debug, Clone, Default)]
pub struct StoreHealth {
    /// What the start found wrong, and after that what reads have found since, oldest first.
    pub damage: Vec<StoreDamage>,
    /// Why the last attempt to flush failed; `None` after a good one.
    pub flush_error: Option<StoreError>,
    /// Bytes in memory that are not flushed.
    pub memtable_bytes: usize,
    /// Whether applying waits for room.
    pub blocked: bool,
    /// Number of parts that answer.
    pub parts: usize,
    /// Bytes in memory for them; what is mapped is not counted.
    pub parts_memory: usize,
    /// The last seal applied.
    pub applied: u64,
    /// The last seal flushed.
    pub flushed: u64,
    /// Merges and rewrites since the start.
    pub merges: u64,
    /// Bytes that these have written.
    pub merged_bytes: u64,
    /// Why the last merge failed or waits; `None` after a good one.
    pub merge_error: Option<StoreError>,
}

/// The embedded store. Cheap to clone; the last clone that is dropped closes it.
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the flusher and the readers share.
struct Inner {
    fs: Arc<dyn Fs>,
    settings: StoreSettings,
    /// Folder of the parts.
    parts: PathBuf,
    /// Folder of the manifests.
    manifests: PathBuf,
    /// What the start found wrong, and reads since.
    damage: Mutex<Vec<StoreDamage>>,
    /// Rows that should be there are left out of the answers. Written before the answer that lacks them.
    degraded: AtomicBool,
    /// Files that the start found and no manifest names.
    orphans: Mutex<Vec<PathBuf>>,
    state: Mutex<State>,
    /// `state` has changed.
    changed: Condvar,
    view: RwLock<Arc<View>>,
    /// The largest seal that readers may see. Written after the seal's rows.
    visible: AtomicU64,
    visible_now: watch::Sender<u64>,
    /// Reads are refused until `visible` has reached it.
    expected: AtomicU64,
    trimmable: watch::Sender<u64>,
    commit: Commit,
    merges: Merges,
    /// Dead letters of seals up to this one are settled.
    dead_letters: watch::Receiver<u64>,
    closing: watch::Sender<bool>,
    queries: Turns,
}

/// What merges have done since the start.
#[derive(Default)]
struct Merges {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// What applying and flushing agree on. Its lock is held while a seal is applied; readers never take it.
#[derive(Default)]
struct State {
    /// What all applied seals add up to.
    seals: SealState,
    /// Bytes of the active memtable.
    active_bytes: usize,
    /// Bytes of the one that is being flushed.
    frozen_bytes: usize,
    /// Bytes of seals and packs in the log since the last freeze.
    log_bytes: u64,
    /// When the first seal after the last freeze was applied.
    oldest: Option<Instant>,
    /// The newest manifest's last seal.
    flushed: u64,
    /// Somebody asked for a flush up to this seal.
    asked: u64,
    /// An apply waits for room.
    blocked: bool,
    /// Failed attempts to flush.
    failures: u64,
    flush_error: Option<StoreError>,
    /// How often somebody asked for all merges that are due, and how many of these requests are done.
    merges_asked: u64,
    merges_done: u64,
    /// Failed merges.
    merge_failures: u64,
    merge_error: Option<StoreError>,
    closing: bool,
}

impl State {
    /// In what time a flush is due; zero is now, `None` is not as things are.
    fn due_in(&self, settings: &StoreSettings) -> Option<Duration> {
        if self.seals.n <= self.flushed {
            return None;
        }
        let now = self.active_bytes >= settings.memtable_bytes / 2 || self.log_bytes >= settings.flush_log_bytes || self.blocked || self.asked > self.flushed;
        if now {
            return Some(Duration::ZERO);
        }
        self.oldest.map(|since| settings.flush_after.saturating_sub(since.elapsed()))
    }

    fn has_room(&self, cost: usize, bound: usize) -> bool {
        let used = self.active_bytes + self.frozen_bytes;
        used == 0 || cost == 0 || used + cost <= bound
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it applies a seal")
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).expect("nothing panics while it applies a seal")
    }

    fn wait_for<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).expect("nothing panics while it applies a seal").0
    }

    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tenant(&self, scope: &TenantScope) -> TenantView {
        let mut tenant = self.view().tenant(scope, &self.visible);
        // Seals may have been applied since the view was taken. An erasure is in the view before its seal is visible, so
        // what is in the view now holds for all rows that were found.
        tenant.erasures = self.view().erasures.get(scope.tenant()).cloned();
        tenant
    }

    fn ready(&self) -> Result<(), StoreError> {
        if self.visible.load(Ordering::Acquire) >= self.expected.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(StoreError::Starting)
        }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closing = true;
        self.closing.send_replace(true);
        self.changed.notify_all();
    }
}

fn closed() -> StoreError {
    StoreError::Io("the store is closed".into())
}

impl EmbeddedStore {
    /// Reads answer [`StoreError::Starting`] until seal `last_seal` is visible. Before the first call they always do.
    pub fn expect(&self, last_seal: u64) {
        self.0.inner.expected.store(last_seal, Ordering::Release);
    }

    /// Blocks until everything applied before the call is covered by a durable manifest; fails when an attempt to do so
    /// failed meanwhile (it is tried again all the same), or the store was closed.
    pub fn flush(&self) -> Result<(), StoreError> {
        let inner = &self.0.inner;
        let mut state = inner.state();
        let (upto, failures) = (state.seals.n, state.failures);
        state.asked = state.asked.max(upto);
        inner.changed.notify_all();
        loop {
            if state.flushed >= upto {
                return Ok(());
            }
            if state.failures != failures {
                return Err(state.flush_error.clone().unwrap_or_else(closed));
            }
            if state.closing {
                return Err(closed());
            }
            state = inner.wait(state);
        }
    }

    /// Blocks until no merge is due any more and the files of merged parts are gone; fails when a merge fails meanwhile, or
    /// the store is closed. Takes a whole core for it.
    pub fn compact(&self) -> Result<(), StoreError> {
        let inner = &self.0.inner;
        let mut state = inner.state();
        state.merges_asked += 1;
        let (asked, failures) = (state.merges_asked, state.merge_failures);
        inner.changed.notify_all();
        while state.merges_done < asked {
            if state.merge_failures != failures {
                return Err(state.merge_error.clone().unwrap_or_else(closed));
            }
            if state.closing {
                return Err(closed());
            }
            state = inner.wait(state);
        }
        Ok(())
    }

    /// Lets go of the files of merged parts that only the manifest before the newest names, so that whoever opens the folder
    /// `parts` finds every row once. For a stop: it gives that manifest up. Blocks for the disk.
    pub fn tidy(&self) -> Result<(), StoreError> {
        let inner = &self.0.inner;
        if inner.commit.keeps_more() {
            inner.commit(|_| (), |_| ()).map_err(|e| StoreError::Io(e.to_string().into()))?;
        }
        Ok(())
    }

    /// Stops flushes, merges and everybody who waits for room; blocks until the file operation at work is over. What is not
    /// flushed is in the log. Reads go on.
    pub fn close(&self) {
        self.0.close();
    }

    /// Deletes the files that the start found and that no manifest names, and says how many. To be called when neither the
    /// log nor the store reported damage; with damage in the store it does nothing, since they may be what is left of it.
    pub fn remove_orphans(&self) -> usize {
        let inner = &self.0.inner;
        if !inner.damage().is_empty() {
            return 0;
        }
        let orphans = std::mem::take(&mut *inner.orphans.lock().unwrap_or_else(PoisonError::into_inner));
        orphans.iter().filter(|file| inner.fs.remove(file).is_ok()).count()
    }

    /// How the store is doing.
    pub fn health(&self) -> StoreHealth {
        let inner = &self.0.inner;
        let (view, damage) = (inner.view(), inner.damage().clone());
        let state = inner.state();
        StoreHealth {
            damage,
            flush_error: state.flush_error.clone(),
            memtable_bytes: state.active_bytes + state.frozen_bytes,
            blocked: state.blocked,
            parts: view.parts.len(),
            parts_memory: view.parts.iter().map(|part| part.memory()).sum(),
            applied: state.seals.n,
            flushed: state.flushed,
            merges: inner.merges.count.load(Ordering::Relaxed),
            merged_bytes: inner.merges.bytes.load(Ordering::Relaxed),
            merge_error: state.merge_error.clone(),
        }
    }

    /// Runs a query within the time that queries have.
    fn query<T: Send + 'static>(
        &self,
        scope: &TenantScope,
        work: impl Fn(&Inner, &Control) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        self.query_within(scope, self.0.inner.settings.query_timeout, work)
    }

    /// Runs a query on a thread that may block, when it is its tenant's turn, and again without a part that it finds damaged.
    /// Dropping the future ends the query at its next check.
    fn query_within<T: Send + 'static>(
        &self,
        scope: &TenantScope,
        timeout: Duration,
        work: impl Fn(&Inner, &Control) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (inner, tenant) = (self.0.inner.clone(), scope.tenant().owner());
        Box::pin(async move {
            inner.ready()?;
            let control = Control {
                deadline: Instant::now() + timeout,
                abandoned: Arc::new(AtomicBool::new(false)),
            };
            let abandon = SetOnDrop(control.abandoned.clone());
            let turn = tokio::time::timeout_at(control.deadline, inner.queries.turn(&tenant)).await;
            let Ok(Ok(turn)) = turn else { return Err(StoreError::Busy) };
            let done = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                inner.without_bad_parts(|| work(&inner, &control))
            })
            .await;
            drop(abandon);
            done.unwrap_or_else(|error| {
                tracing::error!(%error, "a query crashed");
                Err(StoreError::Damaged("the query crashed".into()))
            })
        })
    }
}

/// Tells a query that nobody waits for it any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Handle {
    fn close(&self) {
        self.inner.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "a thread of the store crashed");
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Authority for EmbeddedStore {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        let inner = &self.0.inner;
        if let Err(error) = inner.ready() {
            return Box::pin(std::future::ready(Err(error)));
        }
        let view = inner.view();
        let erasures = view.erasures_of(scope);
        if let Some(found) = view.memtables().find_map(|m| m.get(scope, id, &inner.visible, erasures)) {
            return Box::pin(std::future::ready(Ok(Some(found))));
        }
        let own = scope.clone();
        self.query(scope, move |inner, control| query::get::on_disk(&inner.view(), &own, id, control))
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        let own = scope.clone();
        self.query(scope, move |inner, control| {
            let pause_at = Instant::now() + inner.settings.query_timeout / 4;
            query::list::list(&inner.tenant(&own), &query, control, pause_at)
        })
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        let own = scope.clone();
        self.query(scope, move |inner, control| {
            let spare = |wanted| Helpers::spare(&inner.queries, wanted);
            query::stats::stats(&inner.tenant(&own), &query, control, spare)
        })
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        let own = scope.clone();
        self.query(scope, move |inner, control| {
            let pause_at = Instant::now() + inner.settings.query_timeout / 4;
            query::scan::scan(&inner.tenant(&own), &filter, after, limit, control, pause_at)
        })
    }

    fn condition(&self, _: bool) -> Condition {
        Condition {
            lacks_rows: self.0.inner.degraded.load(Ordering::Acquire),
            lag: Duration::ZERO,
        }
    }

    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        let own = scope.clone();
        self.query_within(scope, COUNT_TIMEOUT, move |inner, control| {
            let view = inner.tenant(&own);
            let removal = view.erasures.as_ref().and_then(|all| all.removal(job));
            removal.map_or(Ok(0), |removal| query::erased::count(view, &removal, control))
        })
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        let own = scope.clone();
        self.query_within(scope, COUNT_TIMEOUT, move |inner, control| {
            let view = inner.tenant(&own);
            let (job, head) = (Uuid::nil(), view.head);
            let before = view.erasures.as_deref().cloned().unwrap_or_default();
            query::erased::count(view, &before.removal_of(Erasure { job, kind, cutoff, head }), control)
        })
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        let inner = &self.0.inner;
        VisibleHead {
            head: inner.view().head(scope, &inner.visible),
        }
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.0.inner.visible_now.subscribe()
    }
}

impl SealFollower for EmbeddedStore {
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        let inner = &self.0.inner;
        let (cost, bound) = (Memtable::cost_of(seal), inner.settings.memtable_bytes);
        let mut state = inner.state();
        if seal.seal.n <= state.seals.n {
            return Ok(());
        }
        let waiting = (!state.has_room(cost, bound)).then(|| metrics::Waiting::begin(Lane::Store));
        while !state.has_room(cost, bound) && !state.closing {
            state.blocked = true;
            inner.changed.notify_all();
            state = inner.wait(state);
        }
        state.blocked = false;
        drop(waiting);
        if state.closing {
            return Err(closed());
        }
        let heads = &state.seals;
        let bytes = inner.view().active.apply(seal, |tenant| heads.tenant(tenant).head);
        state.seals.fold(&seal.seal, seal.crc);
        if !seal.seal.erasures.is_empty() || !seal.seal.removed.is_empty() {
            let erasures = Arc::new(state.seals.erasures.clone());
            inner.change_view(|view| view.erasures = erasures);
        }
        state.active_bytes += bytes;
        state.log_bytes += (seal.encoded_len + seal.packs.iter().map(|p| p.bytes().len()).sum::<usize>()) as u64;
        let first = state.oldest.is_none();
        state.oldest.get_or_insert_with(Instant::now);
        inner.visible.store(seal.seal.n, Ordering::Release);
        inner.visible_now.send_replace(seal.seal.n);
        if first || state.due_in(&inner.settings) == Some(Duration::ZERO) {
            inner.changed.notify_all();
        }
        Ok(())
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        let inner = &self.0.inner;
        let view = inner.view();
        let mut hashes = Vec::with_capacity(keys.len());
        for of_tenant in keys.chunk_by(|a, b| a.0 == b.0) {
            let ids: Vec<Uuid> = of_tenant.iter().map(|(_, id)| *id).collect();
            let unreadable = |error| inner.ledger_row_unreadable(&error);
            hashes.extend(query::get::content_hashes(&view, &TenantScope::new(of_tenant[0].0.clone()), &ids, unreadable));
        }
        Ok(hashes)
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        self.0.inner.trimmable.subscribe()
    }
}
