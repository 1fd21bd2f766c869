//! Keeps a [`Follower`] going: reads the seals of one partition behind its cursor, applies them, moves the cursor.
//!
//! ```text
//!            ┌────────── fault: back-off, the same seals again ◀───┐
//! Starting ─▶ Following ──────────────────────────────────────────┴─▶ Faulty (breaker open: one small try at a time)
//!                │ the next seal is trimmed (behind by more than `seal.max_backlog`), or the store was lost
//!                ▼
//!            Rebuilding: pin at the authority's cursor ─▶ copy ─▶ cursor there ─▶ Following
//! ```
//!
//! Guarantees: seals are applied in order, none is skipped, and each is asked again until the store has it readable; the cursor
//! is saved only after that, so that a crash at any point means that seals are applied again, which is harmless. While a batch
//! is being applied the next one is read; both are bounded in bytes, and nothing else is kept. A store that was lost and is
//! empty again is noticed by what it says itself ([`Follower::applied`]). A rebuild that a crash cuts short begins anew.
//!
//! It does not decide what is trimmed, nor whether reads of the store are allowed meanwhile.

use super::{
    Follower, StoreError,
    retry::{Backoff, BackoffSettings, Breaker, Remedy},
};
use crate::{
    model::tenant::TenantScope,
    queue::{
        Found, SealReader,
        seals::{CursorStore, cursor::pin},
    },
    seal::DecidedSeal,
    telemetry::metrics::metrics,
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long to wait for a new seal before looking for it without having been told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A shorter time between two saves of the cursor is not worth an object, while there is more to apply.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// What it works with.
#[derive(Clone)]
pub struct FollowParts {
    /// Whose seals.
    pub partition: u32,
    /// Where they are.
    pub seals: Arc<dyn SealReader>,
    /// Where the cursor is kept, under the follower's name.
    pub cursors: Arc<dyn CursorStore>,
    /// Who applies them.
    pub follower: Arc<dyn Follower>,
    /// Fills a store whose seals are gone; without one such a store stays detached.
    pub rebuild: Option<Arc<dyn Rebuild>>,
}

/// How much at once, and how patient.
#[derive(Debug, Clone)]
pub struct FollowSettings {
    /// Bytes of seals that are applied at once; one seal may be larger. As many are read ahead.
    pub batch_bytes: usize,
    /// Seals that are applied at once.
    pub batch_seals: usize,
    /// Pauses after faults.
    pub backoff: BackoffSettings,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            batch_bytes: 8 << 20,
            batch_seals: 512,
            backoff: BackoffSettings::default(),
        }
    }
}

/// Fills a store from the authority.
pub trait Rebuild: Send + Sync + 'static {
    /// The largest seal up to which the authority has everything of the partition.
    fn authority_has(&self, partition: u32) -> BoxFuture<'_, Result<u64, StoreError>>;
    /// Copies every row that the authority has of the tenants of the partition, at least as of now; `progress` hears how it goes.
    /// Repeating it is harmless.
    fn copy<'a>(&'a self, partition: u32, progress: &'a (dyn Fn(Progress) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Where the copy of one log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Rows of the authority that were written.
    pub rows: u64,
    /// The copy goes on behind this number.
    pub upto: u64,
    /// The authority's head when it was last asked.
    pub head: u64,
}

impl Copied {
    /// Whether everything is copied that there was when it was last looked.
    pub fn is_done(&self) -> bool {
        self.upto >= self.head
    }
}

/// Copies one log from the authority to the search store, span by span: what `POST /logs/index/bulk` does.
pub trait CopyLog: Send + Sync + 'static {
    /// Copies the next span behind `from`, so that it can be found. Repeating it is harmless; dropping the future leaves the span to be
    /// repeated.
    fn copy_span(&self, scope: &TenantScope, from: Copied) -> BoxFuture<'static, Result<Copied, StoreError>>;
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Logs that are copied.
    pub logs: u64,
    /// Logs there are.
    pub of_logs: u64,
    /// Rows looked at.
    pub rows: u64,
}

/// What it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It looks for its cursor.
    Starting,
    /// It applies seals as they come.
    Following,
    /// The store takes nothing at the moment; the same seals are tried again.
    Faulty,
    /// The store is being filled from the authority.
    Rebuilding(Progress),
    /// Seals that the store needs are gone, and nobody can fill it.
    Detached,
    /// It has stopped.
    Stopped,
}

/// The state, for health and for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowState {
    /// What it is doing.
    pub phase: Phase,
    /// The last seal that the store has readable.
    pub applied: u64,
    /// The last seal that is known to be there.
    pub tip: u64,
    /// The last fault, until the store works again.
    pub fault: Option<(Remedy, Arc<str>)>,
}

/// A follower that runs. Dropping it lets it run on; [`Following::stop`] ends it.
pub struct Following {
    state: watch::Receiver<FollowState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Following {
    /// Begins to follow, on the current runtime.
    pub fn start(parts: FollowParts, settings: FollowSettings) -> Self {
        let (tell, state) = watch::channel(FollowState {
            phase: Phase::Starting,
            applied: 0,
            tip: 0,
            fault: None,
        });
        let stop = CancellationToken::new();
        let worker = Worker {
            breaker: Breaker::default(),
            backoff: Backoff::new(settings.backoff),
            tip: parts.seals.tip(),
            parts,
            settings,
            tell,
            cursor: 0,
            saved: 0,
            saved_at: Instant::now(),
        };
        let task = tokio::spawn(worker.run(stop.clone()));
        Self { state, stop, task }
    }

    /// What it is doing; changes with each batch.
    pub fn state(&self) -> watch::Receiver<FollowState> {
        self.state.clone()
    }

    /// Ends it: what is being applied is dropped, which is harmless, and the cursor is saved.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a follower crashed");
        }
    }
}

/// Seals that follow each other.
#[derive(Default)]
struct Batch {
    seals: Vec<Arc<DecidedSeal>>,
    /// Seals behind them are gone.
    trimmed: bool,
    /// There may be more.
    more: bool,
}

struct Worker {
    parts: FollowParts,
    settings: FollowSettings,
    tip: watch::Receiver<u64>,
    tell: watch::Sender<FollowState>,
    breaker: Breaker,
    backoff: Backoff,
    /// The last seal applied.
    cursor: u64,
    /// The last one that is saved.
    saved: u64,
    saved_at: Instant,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => (),
            () = self.work() => (),
        }
        self.save().await;
        self.tell.send_modify(|state| state.phase = Phase::Stopped);
    }

    async fn work(&mut self) {
        while let Err(error) = self.begin().await {
            self.fault(&error).await;
        }
        self.worked();
        let mut batch = self.read_from(self.cursor + 1).await;
        loop {
            self.note_tip();
            if batch.trimmed && batch.seals.is_empty() {
                self.rebuild().await;
                batch = self.read_from(self.cursor + 1).await;
                continue;
            }
            let Some(last) = batch.seals.last().map(|seal| seal.seal.n) else {
                self.save_if_due(false).await;
                let _ = timeout(LOOK_EVERY, self.tip.changed()).await;
                batch = self.read_from(self.cursor + 1).await;
                continue;
            };
            // The next seals are read while these are applied.
            let (parts, settings) = (self.parts.clone(), self.settings.clone());
            let ahead = async {
                match batch.more {
                    true => read(&parts, &settings, last + 1).await,
                    false => Ok(Batch::default()),
                }
            };
            let (next, ()) = tokio::join!(ahead, self.apply(&batch.seals));
            if self.cursor != last {
                batch = self.read_from(self.cursor + 1).await;
                continue;
            }
            let trimmed = batch.trimmed;
            batch = match next {
                Ok(next) if !next.seals.is_empty() || next.trimmed => next,
                Ok(_) if trimmed => Batch { trimmed, ..Batch::default() },
                Ok(_) => self.read_from(self.cursor + 1).await,
                Err(_) => self.read_from(self.cursor + 1).await, // says what is wrong
            };
            self.save_if_due(!batch.seals.is_empty()).await;
        }
    }

    /// Finds out where to begin.
    async fn begin(&mut self) -> Result<(), StoreError> {
        let (partition, name) = (self.parts.partition, self.parts.follower.name());
        let kept = self.parts.cursors.load(name).await.map_err(|e| unavailable(&e))?;
        self.cursor = self.parts.follower.applied(partition, kept).await?.min(kept);
        if self.cursor < kept {
            tracing::warn!(
                sink = name,
                partition,
                kept,
                has = self.cursor,
                "the store has less than its cursor says: it was lost, or restored"
            );
        }
        self.saved = kept;
        tracing::info!(sink = name, partition, from = self.cursor, "following the seals");
        Ok(())
    }

    /// The seals from `n` on; asks until the log can be read.
    async fn read_from(&mut self, n: u64) -> Batch {
        loop {
            match read(&self.parts, &self.settings, n).await {
                Ok(batch) => return batch,
                Err(error) => self.fault(&error).await,
            }
        }
    }

    /// Applies these, however often it takes.
    async fn apply(&mut self, seals: &[Arc<DecidedSeal>]) {
        let mut rest = seals;
        while let Some(first) = rest.first() {
            // A store that was down is tried with little.
            let some = if self.breaker.is_open() { std::slice::from_ref(first) } else { rest };
            match self.parts.follower.apply_all(self.parts.partition, some.to_vec()).await {
                Ok(()) => {
                    self.cursor = some.last().map_or(self.cursor, |seal| seal.seal.n);
                    rest = &rest[some.len()..];
                    self.worked();
                }
                Err(error) => {
                    self.fault(&error).await;
                    if self.is_lost().await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the store has less than was applied: then everything begins anew where it is.
    async fn is_lost(&mut self) -> bool {
        match self.parts.follower.applied(self.parts.partition, self.cursor).await {
            Ok(has) if has < self.cursor => {
                let (sink, partition) = (self.parts.follower.name(), self.parts.partition);
                tracing::warn!(
                    sink,
                    partition,
                    applied = self.cursor,
                    has,
                    "the store was lost, or restored: its seals are applied again"
                );
                self.cursor = has;
                true
            }
            Ok(_) | Err(_) => false, // the next attempt says what is wrong
        }
    }

    fn worked(&mut self) {
        self.breaker.worked();
        self.backoff.reset();
        let (cursor, tip) = (self.cursor, (*self.tip.borrow()).max(self.cursor));
        self.tell.send_modify(|state| {
            *state = FollowState {
                phase: Phase::Following,
                applied: cursor,
                tip,
                fault: None,
            }
        });
        metrics().sink_behind(self.parts.follower.name(), tip - cursor);
    }

    fn note_tip(&mut self) {
        let tip = (*self.tip.borrow_and_update()).max(self.cursor);
        self.tell.send_modify(|state| state.tip = tip);
        metrics().sink_behind(self.parts.follower.name(), tip - self.cursor);
    }

    /// Counts a fault and waits.
    async fn fault(&mut self, error: &StoreError) {
        let remedy = error.remedy();
        self.breaker.failed();
        let (sink, attempt, pause) = (self.parts.follower.name(), self.backoff.attempts(), self.backoff.pause(remedy));
        metrics().sink_fault(sink, remedy);
        match remedy {
            Remedy::Hold => tracing::error!(sink, attempt, %error, "the store takes nothing until somebody has mended this; nothing is lost meanwhile"),
            _ => tracing::warn!(sink, attempt, ?pause, %error, "the store did not take seals; they are tried again"),
        }
        let text: Arc<str> = error.to_string().into();
        self.tell.send_modify(|state| {
            state.fault = Some((remedy, text));
            if self.breaker.is_open() && state.phase == Phase::Following {
                state.phase = Phase::Faulty;
            }
        });
        self.note_tip();
        sleep(pause).await;
    }

    /// Fills the store from the authority, and goes on behind what that had.
    async fn rebuild(&mut self) {
        let Some(source) = self.parts.rebuild.clone() else {
            tracing::error!(
                sink = self.parts.follower.name(),
                "seals that the store needs are gone, and it cannot be rebuilt here"
            );
            self.tell.send_modify(|state| state.phase = Phase::Detached);
            std::future::pending::<()>().await;
            return;
        };
        tracing::warn!(
            sink = self.parts.follower.name(),
            after = self.cursor,
            "seals that the store needs are gone: it is rebuilt from the authority"
        );
        loop {
            self.tell.send_modify(|state| state.phase = Phase::Rebuilding(Progress::default()));
            match self.rebuild_once(&*source).await {
                Ok(n) => {
                    self.cursor = n;
                    self.worked();
                    self.save().await;
                    tracing::info!(sink = self.parts.follower.name(), n, "the store is rebuilt");
                    return;
                }
                Err(error) => self.fault(&error).await,
            }
        }
    }

    async fn rebuild_once(&mut self, source: &dyn Rebuild) -> Result<u64, StoreError> {
        let (cursors, name, partition) = (&self.parts.cursors, self.parts.follower.name(), self.parts.partition);
        let n = source.authority_has(partition).await?;
        cursors.save(&pin(name), n).await.map_err(|e| unavailable(&e))?;
        let tell = &self.tell;
        let told = |progress| tell.send_modify(|state| state.phase = Phase::Rebuilding(progress));
        source.copy(partition, &told).await?;
        self.parts.follower.rebuilt(partition, n).await?;
        cursors.save(name, n).await.map_err(|e| unavailable(&e))?;
        cursors.remove(&pin(name)).await.map_err(|e| unavailable(&e))?;
        Ok(n)
    }

    async fn save_if_due(&mut self, more: bool) {
        if self.saved != self.cursor && !(more && self.saved_at.elapsed() < SAVE_EVERY) {
            self.save().await;
        }
    }

    /// Saves the cursor; a failure is only late, since the next save says more.
    async fn save(&mut self) {
        if self.saved >= self.cursor {
            return;
        }
        match self.parts.cursors.save(self.parts.follower.name(), self.cursor).await {
            Ok(()) => (self.saved, self.saved_at) = (self.cursor, Instant::now()),
            Err(error) => tracing::warn!(sink = self.parts.follower.name(), %error, "the cursor is not saved; it is tried again"),
        }
    }
}

/// As many seals from `n` on as a batch has room for. Stops where the log ends, or cannot be read any further.
async fn read(parts: &FollowParts, settings: &FollowSettings, n: u64) -> Result<Batch, StoreError> {
    let (mut batch, mut bytes, mut next) = (Batch::default(), 0, n);
    while bytes < settings.batch_bytes && batch.seals.len() < settings.batch_seals {
        match parts.seals.read(next).await {
            Ok(Found::Seal(seal)) => {
                next = seal.seal.n + 1; // numbers may have been skipped
                bytes += seal.encoded_len + seal.packs.iter().map(|pack| pack.bytes().len()).sum::<usize>();
                batch.seals.push(seal);
            }
            Ok(Found::NotYet) => return Ok(batch),
            Ok(Found::Trimmed) => {
                batch.trimmed = true;
                return Ok(batch);
            }
            Err(_) if !batch.seals.is_empty() => return Ok(batch),
            Err(error) => return Err(unavailable(&error)),
        }
    }
    batch.more = true;
    Ok(batch)
}

fn unavailable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable {
        what: error.to_string().into(),
        remedy: Remedy::Again,
    }
}

#[cfg(test)]
mod tests;
