//! The embedded queue: accepts packs into the write-ahead log, delivers them, and keeps the log as short as it may be.
//!
//! ```text
//! accept ─▶ book: room? ─▶ log, synced ─▶ book: pending ─▶ 201
//!                                              │ backlog, round-robin by tenant
//!                                              ▼
//!                           lane to the router ─▶ … ─▶ sequencer ─▶ sealed ─▶ applied ─▶ book: no longer pending
//! ```
//!
//! - [`book`] knows what is undecided and where it stands (pure), [`backlog`] who is next (pure), [`delivery`] are the
//!   tasks between backlog and router, [`recovery`] reads all of it from the log at start.
//! - A caller that goes away neither loses nor half-does anything: what it began goes on as a task of its own.
//! - Memory: of a pack that waits, its name, its place and twice eight bytes per entry are kept; the pack itself only while it
//!   fits a bound. So the log may fill to `wal.undecided_bytes` behind a blocked store with memory inside the budget.
//! - Segments go, oldest first, once the store's previous manifest covers them; packs that alone hold an old segment
//!   are copied forward by the sequencer.

pub mod backlog;
pub mod book;
pub mod delivery;
mod ids;
pub mod recovery;
pub mod seals;

use self::{
    book::{Book, Limits},
    recovery::{Fold, Folded},
};
use super::{
    AcceptError, Accepted, Counters, Decided, Decider, PackReadError, PackReader, Position, Producer, SealLog, SealLogError,
    wal::{RecordKind, RecoveryReport, Wal, WalError, WalSettings},
};
use crate::{
    fs::Fs,
    model::{
        batch::Delivery,
        entry::StoredEntry,
        pack::Pack,
        tenant::{TenantId, TenantScope},
        time::now_ms,
    },
    seal::{DecidedSeal, Seal, state::SealState},
    telemetry::metrics::{AccessOutcome, Outcome, metrics},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;
use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the queue looks for segments that may go and packs that are to be copied, when no manifest says so.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Packs read back from the log at a time. Behind a slow store every tenant reads its next one as soon as it may; each on a
/// thread of its own would be a hundred threads, and each thread keeps some of the memory that it once needed.
const READS: usize = 4;

/// Packs copied forward at a time, bytes.
const COPY_BYTES: usize = 16 << 20;

/// Sizes of the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// Bounds of what is undecided.
    pub limits: Limits,
    /// Packs in the lane to the router, bytes.
    pub lane_bytes: usize,
    /// Length of a log segment, bytes.
    pub segment_bytes: u64,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            limits: Limits {
                undecided_bytes: 512 << 20,
                undecided_tenant_bytes: 128 << 20,
                held_bytes: 16 << 20,
            },
            lane_bytes: 8 << 20,
            segment_bytes: 64 << 20,
        }
    }
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The log cannot be opened.
    #[error("the log cannot be opened: {0}")]
    Wal(#[from] WalError),
}

/// The log as it was found, ready to go on.
pub struct Recovered {
    /// The log.
    pub wal: Wal,
    /// What the log found about its own bytes.
    pub report: RecoveryReport,
    /// What its records add up to.
    pub folded: Folded,
    /// A lost seal is not ruled out: the first new seal must be a gap seal.
    pub seal_may_be_lost: bool,
    /// The largest seal that the manifest, any header or any record names.
    pub largest_seal_named: u64,
}

/// Opens the log in `dir` and adds up what it says, on top of the store's checkpoint. Blocks. Seals above `rebuild_from`
/// are handed out to be applied again (it is `checkpoint.n` unless the store must be rebuilt from further back). The
/// checkpoint also says how far the log went at least, so that a lost end is noticed and no ordinal is used twice.
pub fn recover(fs: Arc<dyn Fs>, dir: PathBuf, settings: WalSettings, checkpoint: SealState, rebuild_from: u64) -> Result<Recovered, RecoverError> {
    recover_keeping(fs, dir, settings, checkpoint, rebuild_from, u64::MAX)
}

/// The same, where another store has the seals up to `keep_above` only: later ones are handed out for it too.
pub fn recover_keeping(
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    mut settings: WalSettings,
    checkpoint: SealState,
    rebuild_from: u64,
    keep_above: u64,
) -> Result<Recovered, RecoverError> {
    settings.min_ordinal = settings.min_ordinal.max(checkpoint.segment);
    let mut fold = Fold::new(checkpoint, rebuild_from).keeping_above(keep_above);
    let (wal, report) = Wal::open(fs, dir, settings, &mut |at, kind, bytes| match kind {
        RecordKind::Pack => fold.pack(at, bytes),
        RecordKind::Seal => fold.seal(at, bytes),
    })?;
    let folded = fold.finish();
    for bad in &folded.bad {
        tracing::error!(segment = bad.at.segment, offset = bad.at.offset, why = %bad.why, "a record of the log cannot be used");
    }
    Ok(Recovered {
        seal_may_be_lost: report.seal_may_be_lost || !folded.breaks.is_empty(),
        largest_seal_named: report.largest_seal_named.max(folded.start.state.n),
        wal,
        report,
        folded,
    })
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedQueue {
    shared: Arc<Shared>,
}

struct Shared {
    wal: Wal,
    book: Mutex<Book>,
    settings: QueueSettings,
    runtime: Handle,
    /// Turns to read packs back.
    reads: Semaphore,
    /// Wakes the feeding task.
    work: Notify,
    /// Ends the tasks.
    stop: CancellationToken,
    /// Packs are refused from here on.
    closing: CancellationToken,
    first_segment: AtomicU64,
    trimmable: AtomicU64,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds the book")
    }

    /// Reads and checks the pack at `at`. Blocks.
    fn read_now(&self, at: Position) -> Result<Arc<Pack>, PackReadError> {
        let (kind, bytes) = self.wal.read(at).map_err(|error| PackReadError(error.to_string()))?;
        if kind != RecordKind::Pack {
            return Err(PackReadError("a seal stands there".into()));
        }
        let pack = Pack::decode(bytes).map_err(|error| PackReadError(error.to_string()))?;
        Ok(Arc::new(pack))
    }

    async fn read(self: Arc<Self>, at: Position) -> Result<Arc<Pack>, PackReadError> {
        let runtime = self.runtime.clone();
        let this = self.clone();
        let _turn = this.reads.acquire().await.expect("the semaphore is never closed");
        let read = runtime
            .spawn_blocking(move || {
                // It may have been copied forward, and its segment trimmed, since somebody noted where it stands.
                self.read_now(at).or_else(|error| {
                    let moved = self.book().moved(at);
                    moved.map_or(Err(error), |at| self.read_now(at))
                })
            })
            .await;
        read.unwrap_or_else(|error| Err(PackReadError(error.to_string())))
    }
}

impl EmbeddedQueue {
    /// A queue over the recovered log. Its undecided packs are pending at once and delivered after [`EmbeddedQueue::start`].
    pub fn new(wal: Wal, start: book::Start, settings: QueueSettings, runtime: Handle) -> Self {
        let first_segment = wal.segments().first().map_or(0, |segment| segment.ordinal);
        let shared = Shared {
            wal,
            book: Mutex::new(Book::new(settings.limits, start, now_ms())),
            settings,
            runtime,
            reads: Semaphore::new(READS),
            work: Notify::new(),
            stop: CancellationToken::new(),
            closing: CancellationToken::new(),
            first_segment: AtomicU64::new(first_segment),
            trimmable: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to deliver, and to trim what `trimmable` allows. Called once. The router takes the deliveries.
    pub fn start(&self, decider: Arc<dyn Decider>, trimmable: watch::Receiver<u64>) -> mpsc::Receiver<Delivery> {
        let shared = self.shared.clone();
        let keep = housekeeping(shared.clone(), decider.clone(), trimmable);
        self.shared.runtime.spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = keep => {}
            }
        });
        delivery::start(&self.shared, self.shared.settings.lane_bytes, decider)
    }

    /// Refuses packs from here on (503). Those under way are finished.
    pub fn stop_accepting(&self) {
        self.shared.closing.cancel();
    }

    /// Ends deliveries and housekeeping; the router's lane ends. What is undecided stays in the log.
    pub fn stop_delivery(&self) {
        self.shared.stop.cancel();
    }

    /// Syncs everything queued and closes the log, after the sequencer has stopped. Blocks.
    pub fn close(&self) {
        self.stop_accepting();
        self.stop_delivery();
        self.shared.wal.close();
    }

    /// Undecided bytes (with packs that are being appended) and packs now.
    pub fn undecided(&self) -> (u64, usize) {
        self.shared.book().undecided()
    }
}

/// Trims when a manifest was committed, and looks after old packs.
async fn housekeeping(shared: Arc<Shared>, decider: Arc<dyn Decider>, mut trimmable: watch::Receiver<u64>) {
    loop {
        let upto = *trimmable.borrow_and_update();
        shared.trimmable.store(upto, Ordering::Release);
        let (floor, copies) = {
            let book = shared.book();
            (book.trim_floor(upto), !book.copyable(upto, shared.settings.segment_bytes, now_ms()).is_empty())
        };
        if floor > shared.first_segment.load(Ordering::Acquire) {
            trim(&shared, floor).await;
        }
        if copies {
            decider.copy_forward();
        }
        tokio::select! {
            changed = trimmable.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
    }
}

async fn trim(shared: &Arc<Shared>, floor: u64) {
    let wal = shared.wal.clone();
    match shared.runtime.spawn_blocking(move || wal.trim(floor)).await {
        Ok(Ok(freed)) => {
            shared.book().trimmed(floor);
            shared.first_segment.store(floor, Ordering::Release);
            tracing::debug!(floor, freed, "the log was trimmed");
        }
        Ok(Err(error)) => tracing::warn!(%error, "the log could not be trimmed; it is tried again"),
        Err(error) => tracing::warn!(%error, "the log was not trimmed"),
    }
}

impl Producer for EmbeddedQueue {
    fn accept(&self, pack: Pack, wait: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        Box::pin(async move {
            let shared = &self.shared;
            if shared.closing.is_cancelled() {
                return Err(unavailable("the server is stopping"));
            }
            let (waiter, decided) = wait.map(|_| oneshot::channel()).unzip();
            let pack = Arc::new(pack);
            let reservation = shared.book().reserve(&pack)?;
            let (ids, lane) = (book::short_ids(&pack), pack.tenant().stable_hash());
            let append = shared.wal.append(RecordKind::Pack, lane, None, pack.bytes().clone());
            // From here on the caller may go away.
            Unstoppable {
                runtime: &shared.runtime,
                work: Some(Box::pin(finish(shared.clone(), (pack, ids), reservation, append, waiter))),
            }
            .await?;
            let decided = match (wait, decided) {
                (Some(wait), Some(decided)) => tokio::time::timeout(wait, decided).await.ok().and_then(Result::ok),
                _ => None,
            };
            Ok(Accepted { decided })
        })
    }

    /// May read the pack back from the log: blocks for the disk then.
    fn pending(&self, scope: &TenantScope, id: Uuid) -> Option<StoredEntry> {
        let mut holders = self.shared.book().holders(scope.tenant(), id);
        holders.sort_unstable_by_key(|(_, at)| *at);
        holders.into_iter().find_map(|(memory, at)| {
            let pack = memory.upgrade().or_else(|| self.shared.read_now(at).ok())?;
            let index = pack.entries().position(|entry| entry.id() == id)?;
            Some(StoredEntry {
                record: pack.record(index),
                received_at: pack.header().received_at,
                actor: pack.header().actor.clone(),
                sequence: None,
            })
        })
    }

    fn room(&self, tenant: &TenantId) -> Result<(), AcceptError> {
        if self.shared.closing.is_cancelled() {
            return Err(unavailable("the server is stopping"));
        }
        self.shared.book().room(tenant, 1)?;
        self.shared.wal.check_room().map_err(refused)
    }

    fn counters(&self, scope: &TenantScope) -> Counters {
        self.shared.book().counters(scope.tenant())
    }
}

/// Waits for the sync and notes what came of it.
async fn finish(
    shared: Arc<Shared>,
    (pack, ids): (Arc<Pack>, book::ShortIds),
    reservation: book::Reservation,
    append: super::wal::Append,
    waiter: Option<oneshot::Sender<Decided>>,
) -> Result<(), AcceptError> {
    let appended = append.await;
    let mut book = shared.book();
    match appended {
        Ok(at) => {
            book.durable(reservation, (&pack, ids), at, waiter, now_ms());
            drop(book);
            if pack.tenant().is_access_log() {
                metrics().access(AccessOutcome::Accepted, pack.len() as u64);
            } else {
                metrics().entries(Outcome::Accepted, pack.len() as u64);
                metrics().accepted_bytes(pack.bytes().len() as u64);
            }
            shared.work.notify_one();
            Ok(())
        }
        Err(error) => {
            book.release(reservation);
            Err(refused(error))
        }
    }
}

/// Work that goes on, as a task of its own, when whoever waits for it goes away. Nearly nobody does, so that a task for each
/// pack, and the switch from task to task, would nearly always be for nothing.
struct Unstoppable<'a, T: Send + 'static> {
    runtime: &'a Handle,
    work: Option<BoxFuture<'static, T>>,
}

impl<T: Send + 'static> Future for Unstoppable<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let work = self.work.as_mut().expect("polled after it was ready");
        let done = work.as_mut().poll(context);
        if done.is_ready() {
            self.work = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Unstoppable<'_, T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(work);
        }
    }
}

fn unavailable(reason: &'static str) -> AcceptError {
    AcceptError::Unavailable {
        reason,
        retry_after: Duration::from_secs(1),
    }
}

fn refused(error: WalError) -> AcceptError {
    match error {
        WalError::Full => unavailable("the disk has no room above `disk.reserve`"),
        WalError::Closed => unavailable("the log is closed"),
        WalError::TooLarge { .. } => unavailable("the request is larger than a record of the log"),
        // The last three are not answers to an append; if they were, nothing could be promised.
        WalError::Unknown | WalError::NotHere { .. } | WalError::Damaged { .. } | WalError::Io { .. } => AcceptError::Unknown,
    }
}

impl PackReader for EmbeddedQueue {
    fn read(&self, at: Position) -> BoxFuture<'static, Result<Arc<Pack>, PackReadError>> {
        Box::pin(self.shared.clone().read(at))
    }
}

impl SealLog for EmbeddedQueue {
    fn append(&self, seal: &Seal, encoded: Bytes, _: &[Arc<Pack>]) -> Result<Position, SealLogError> {
        self.shared.wal.append(RecordKind::Seal, 0, Some(seal.n), encoded).wait().map_err(not_sealed)
    }

    fn positions(&self, pack: Uuid) -> SmallVec<[Position; 1]> {
        self.shared.book().positions(pack)
    }

    fn sealed(&self, seal: &Seal, at: Position) {
        self.shared.book().sealed(seal, at);
    }

    fn applied(&self, seal: &DecidedSeal) {
        let wake = self.shared.book().applied(seal);
        for (waiter, decided) in wake {
            let _ = waiter.send(decided); // who waited may have gone away
        }
    }

    fn known(&self, packs: &[Uuid]) {
        let mut book = self.shared.book();
        packs.iter().for_each(|pack| book.known(*pack));
    }

    fn copy_forward(&self) -> Result<(), SealLogError> {
        let shared = &self.shared;
        let trimmable = shared.trimmable.load(Ordering::Acquire);
        let packs = shared.book().copyable(trimmable, shared.settings.segment_bytes, now_ms());
        let (mut copies, mut bytes) = (Vec::new(), 0);
        for (pack_id, at) in packs.into_iter() {
            if bytes > COPY_BYTES {
                break; // the rest at the next time
            }
            match shared.wal.read(at) {
                Ok((_, pack)) => {
                    bytes += pack.len();
                    copies.push((pack_id, shared.wal.append(RecordKind::Pack, 0, None, pack)));
                }
                Err(error) => tracing::error!(segment = at.segment, offset = at.offset, %error, "an undecided pack cannot be copied forward"),
            }
        }
        let mut outcome = Ok(());
        for (pack_id, copy) in copies {
            // Every copy is noted, whatever became of the others: a seal must name each place where its pack stands.
            match copy.wait() {
                Ok(at) => shared.book().copied(pack_id, at, now_ms()),
                Err(error) if outcome.is_ok() || matches!(error, WalError::Unknown) => outcome = Err(not_sealed(error)),
                Err(_) => {}
            }
        }
        outcome
    }

    fn first_segment(&self) -> u64 {
        self.shared.first_segment.load(Ordering::Acquire)
    }

    fn load(&self, seal: &Seal) -> Result<Vec<Option<Arc<Pack>>>, SealLogError> {
        let whole = |pack: &Arc<Pack>, of: &crate::seal::SealPack| pack.id() == of.pack_id && pack.len() == of.decisions.len();
        let load = |of: &crate::seal::SealPack| {
            let read = |at: &Position| self.shared.read_now(*at).ok().filter(|pack| whole(pack, of));
            of.positions.iter().rev().find_map(read)
        };
        Ok(seal.packs.iter().map(load).collect())
    }
}

fn not_sealed(error: WalError) -> SealLogError {
    match error {
        WalError::Full => SealLogError::Full,
        WalError::Closed => SealLogError::Closed,
        other => SealLogError::Failed(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fs::sim::SimFs, model::pack::tests::pack_of};
    use futures_util::FutureExt;

    #[tokio::test]
    async fn what_a_caller_began_goes_on_when_it_goes_away() {
        let (wal, _) = Wal::open(Arc::new(SimFs::new()), "/wal".into(), WalSettings::default(), &mut |_, _, _| {}).expect("a log");
        let queue = EmbeddedQueue::new(wal, book::Start::default(), QueueSettings::default(), Handle::current());
        let scope = TenantScope::new(TenantId::parse("acme").expect("a tenant"));
        let mut begun = queue.accept(pack_of("acme", &[1, 2]), None);
        let at_once = (&mut begun).now_or_never();
        drop(begun);
        if at_once.is_none() {
            let known = async {
                while queue.counters(&scope).accepted == 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), known).await.expect("it is taken all the same");
        }
        assert_eq!(queue.counters(&scope).pending, 2);
        queue.close();
    }
}
