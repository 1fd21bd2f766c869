//! The sequencer: the one owner of the log's decisions. Packs in, seals out.
//!
//! ```text
//!  batches ─lane─▶ sequencer thread ── seal n, durable ──▶ follower thread ─▶ dead letters, store, book, feed, tickets
//!                  core: known? duplicate? number          bounded in bytes
//!                  ledger ◀── look-up ──┘
//! ```
//!
//! - [`core`] decides (pure), [`memory`] is what it remembers, `follower` takes durable seals to the store.
//! - One creation is in flight. While seal n is synced, batches gather in the lane for n + 1, and the follower applies
//!   n − 1. Nothing of a seal leaves this thread before its sync has returned.
//! - Erasures and their results come in by the same lane and get seals of their own, after the packs that came with them;
//!   nothing is decided until the store shows such a seal, so that the next decision obeys it.
//! - It stops receiving while the ledger cannot be read, while the follower has too much, while the window is full, and
//!   until the store shows everything that the log held at start. What it does not receive waits in the log.
//! - If it is not known whether a seal became durable, it halts ([`Phase::Halted`]) and the process must end: recovery
//!   reads the log and knows.
//!
//! It is an OS thread behind a bounded lane and not an actix actor: it is never told anything while it works (the next
//! seal must not begin before the last one is durable), its ledger look-ups block on page faults, and its state must
//! outlive every actor, so supervision could only end the process anyway. Read as one loop, the order of steps is the
//! order of lines.

pub mod core;
mod follower;
pub mod memory;
mod remote;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use self::{follower::Loss, memory::SealRows};

use self::{
    core::{Core, Draft, Gap, Order, Plan, Undecided},
    follower::{Followed, Follower, Handed},
    memory::KnownPacks,
};
use super::{broadcast::Publisher, tenant::BatchSink};
use crate::{
    model::{
        batch::{Batch, Work},
        entry::ContentHash,
        tenant::TenantId,
        time::now_ms,
    },
    queue::{Decider, SealLog, SealLogError},
    seal::{FoundSeal, codec, erasure::ErasureKind, source::SourceProgress, state::SealState},
    sinks::{DeadLetterSink, SealFollower, StoreError},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;
use std::{
    collections::HashSet,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use uuid::Uuid;

/// Sizes of the sequencer.
#[derive(Debug, Clone, Copy)]
pub struct SequencerSettings {
    /// A seal takes no further batch once its packs have this many bytes: a target, not a limit.
    pub seal_bytes: usize,
    /// Likewise, packs.
    pub seal_packs: usize,
    /// Batches that fit into the lane.
    pub lane_slots: usize,
    /// Rows that the store does not show yet, bytes.
    pub window_bytes: usize,
    /// Durable seals that the store has not taken yet, bytes of their packs.
    pub follow_bytes: usize,
    /// A seal is made so long after the one before it at the earliest, unless it is full.
    pub seal_interval: Duration,
    /// Between the clocks of two processes.
    pub clock_skew: Duration,
}

impl Default for SequencerSettings {
    fn default() -> Self {
        Self {
            seal_bytes: 8 << 20,
            seal_packs: 4096,
            lane_slots: 1024,
            window_bytes: 256 << 20,
            follow_bytes: 32 << 20,
            seal_interval: Duration::ZERO,
            clock_skew: Duration::from_millis(memory::SKEW_MS as u64),
        }
    }
}

/// What the sequencer works with.
#[derive(Clone)]
pub struct Parts {
    /// The log.
    pub log: Arc<dyn SealLog>,
    /// The authority.
    pub follower: Arc<dyn SealFollower>,
    /// The dead letters.
    pub dead_letters: Arc<dyn DeadLetterSink>,
    /// The live feed.
    pub publisher: Arc<dyn Publisher>,
    /// Where the packs come from, if that knows no acks: seals carry its checkpoints.
    pub sources: Option<Arc<dyn SourceProgress>>,
}

/// Where it goes on.
#[derive(Debug, Default)]
pub struct Start {
    /// Heads and counters after the last seal in the log.
    pub state: SealState,
    /// Decided packs that could be delivered again.
    pub known: KnownPacks,
    /// Set when a lost seal is not ruled out.
    pub gap: Option<Gap>,
    /// Seals that the store does not have, ascending.
    pub replay: Vec<FoundSeal>,
    /// Their rows by seal, as far as the ledger does not have them. `None`: they are not known, and nothing is decided until the
    /// store shows all of `replay`.
    pub window: Option<Vec<(u64, SealRows)>>,
}

/// What the sequencer is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The store is taking seals that the log held at start.
    Replaying,
    /// Deciding.
    Running,
    /// It is not known whether a seal is durable, or a thread panicked: the process must end.
    Halted(Arc<str>),
    /// Another owner goes on with this partition: whatever was not sealed is dropped, and this process may wait for its turn again.
    SteppedDown,
    /// Stopped in order.
    Stopped,
}

/// The way in. Cheap to clone. The sequencer runs until every handle is gone, or [`Sequencer::stop`].
#[derive(Clone)]
pub struct SequencerHandle {
    lane: mpsc::Sender<Message>,
}

impl SequencerHandle {
    /// Hands a batch over and resolves when it is settled: sealed, durable, applied (unless the log
    /// [settles at the seal](SealLog::settles_at_seal)), tickets answered; or dropped (its tickets redeliver) because the sequencer has ended. Batches are taken in the order of their first polls. Once it has
    /// been handed over, dropping the future changes nothing.
    pub fn submit(&self, batch: Batch) -> BoxFuture<'static, ()> {
        let lane = self.lane.clone();
        Box::pin(async move {
            let (done, settled) = oneshot::channel();
            if lane.send(Message::Decide(batch, done)).await.is_ok() {
                let _ = settled.await; // dropped unanswered: so were the tickets
            }
        })
    }
}

/// The sequencer has ended: what was ordered is not done, or nobody can say. It may be ordered again after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sequencer has ended")]
pub struct Ended;

impl SequencerHandle {
    /// Erases the tenant's rows whose time is before `cutoff` (milliseconds), up to its head when this is sealed. Resolves when
    /// the erasure is durable and the store hides the rows. `job` names it: ordered again while it is pending, nothing more
    /// happens. Once polled, dropping the future changes nothing.
    pub fn erase(&self, tenant: TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        self.order(Order::Erase { tenant, kind, cutoff, job })
    }

    /// Retires the tenant: from here on its packs are refused, for ever, and all of its rows are erased. Resolves as
    /// [`SequencerHandle::erase`]. Ordered again, nothing happens.
    pub fn retire(&self, tenant: TenantId, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        self.order(Order::Retire { tenant, job })
    }

    /// The first pending erasure of the tenant removed so many rows. Resolves when that is durable and counted. Once polled,
    /// dropping the future changes nothing.
    pub fn removed(&self, tenant: TenantId, job: Uuid, rows: u64) -> BoxFuture<'static, Result<(), Ended>> {
        self.order(Order::Removed { tenant, job, rows })
    }

    /// Obeys an order that came through a queue. Resolves when it is durable: the delivery may be acknowledged then. One whose job
    /// was sealed before, settled or not, has no effect.
    pub fn order_durably(&self, order: Order) -> BoxFuture<'static, Result<(), Ended>> {
        self.send(order, Until::Durable)
    }

    fn order(&self, order: Order) -> BoxFuture<'static, Result<(), Ended>> {
        self.send(order, Until::Applied)
    }

    fn send(&self, order: Order, until: Until) -> BoxFuture<'static, Result<(), Ended>> {
        let lane = self.lane.clone();
        Box::pin(async move {
            let (done, reached) = oneshot::channel();
            lane.send(Message::Order(order, until, done)).await.map_err(|_| Ended)?;
            reached.await.map_err(|_| Ended)
        })
    }
}

impl BatchSink for SequencerHandle {
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()> {
        Self::submit(self, batch)
    }
}

impl Decider for SequencerHandle {
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()> {
        Self::submit(self, batch)
    }

    fn copy_forward(&self) {
        // A full lane means that seals are made, or that the store stands still: both times it is asked again.
        let _ = self.lane.try_send(Message::CopyForward);
    }
}

enum Message {
    Decide(Batch, oneshot::Sender<()>),
    Order(Order, Until, oneshot::Sender<()>),
    CopyForward,
    Stop,
}

/// When whoever gave an order hears of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Durable,
    Applied,
}

/// The running sequencer: its threads and what they report.
pub struct Sequencer {
    lane: mpsc::Sender<Message>,
    stop: Arc<Stop>,
    phase: watch::Receiver<Phase>,
    losses: Arc<Mutex<Vec<Loss>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Sequencer {
    /// Starts both threads. `Err` when the system refuses a thread.
    pub fn start(parts: Parts, start: Start, settings: SequencerSettings) -> std::io::Result<(Self, SequencerHandle)> {
        let (lane, batches) = mpsc::channel(settings.lane_slots);
        let (phase_of, phase) = watch::channel(Phase::Replaying);
        let (stop, followed, losses) = (Arc::new(Stop::default()), Arc::new(Followed::default()), Arc::default());
        let follower = Follower {
            parts: parts.clone(),
            followed: followed.clone(),
            stop: stop.clone(),
            losses: Arc::clone(&losses),
        };
        let skew = settings.clock_skew.as_millis() as i64;
        let mut core = Core::new(Uuid::new_v4(), start.state, start.known, start.gap, now_ms()).with_clock_skew(skew);
        if let Some(window) = start.window {
            let erases = |found: &&FoundSeal| !found.seal.erasures.is_empty() || !found.seal.removed.is_empty();
            core.resume(window, start.replay.iter().filter(erases).map(|found| found.seal.n).max().unwrap_or(0));
            followed.decide_at_once();
        }
        let worker = Worker {
            core,
            clock: tokio::runtime::Builder::new_current_thread().enable_time().build()?,
            last: None,
            parts,
            settings,
            lane: batches,
            followed,
            stop: stop.clone(),
        };
        let threads = vec![
            thread::Builder::new().name("follower".into()).spawn(move || follower.run(start.replay))?,
            thread::Builder::new().name("sequencer".into()).spawn(move || worker.run(&phase_of))?,
        ];
        let handle = SequencerHandle { lane: lane.clone() };
        let this = Self {
            lane,
            stop,
            phase,
            losses,
            threads,
        };
        Ok((this, handle))
    }

    /// What it is doing now.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Entries found lost while the log was replayed.
    pub fn losses(&self) -> Vec<Loss> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decides what is in the lane, makes it durable, lets the store take it, and ends both threads. Blocks; as long as the
    /// store blocks, if it does. A store or a ledger that fails is not waited for: what it lacks is in the log. Panics on a
    /// thread of a runtime; use `spawn_blocking`.
    pub fn stop(self) {
        let Self { lane, stop, threads, .. } = self;
        stop.begin();
        // A full lane has a worker that empties it; a closed one has none to tell.
        let _ = lane.blocking_send(Message::Stop);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the sequencer had panicked");
            }
        }
    }
}

/// Ends waits of back-off.
#[derive(Default)]
pub(crate) struct Stop {
    stopping: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn begin(&self) {
        *self.stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn has_begun(&self) -> bool {
        *self.stopping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits before try `attempt` + 1 (10 ms, doubling to 1 s); `true` when the process is stopping.
    fn wait(&self, attempt: u32) -> bool {
        let pause = Duration::from_millis(10 << attempt.min(7)).min(Duration::from_secs(1));
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopping, _) = self
            .changed
            .wait_timeout_while(stopping, pause, |stopping| !*stopping)
            .unwrap_or_else(PoisonError::into_inner);
        *stopping
    }
}

/// The next seal's batches, and who waits for them.
#[derive(Default)]
struct Group {
    packs: Vec<Undecided>,
    works: Vec<Work>,
    done: Vec<oneshot::Sender<()>>,
    orders: Vec<(Order, Until, oneshot::Sender<()>)>,
    bytes: usize,
    copy_forward: bool,
    stop: bool,
}

impl Group {
    fn add(&mut self, message: Message) {
        match message {
            Message::Decide(batch, done) => {
                self.bytes += batch.bytes;
                self.done.push(done);
                for work in batch.works {
                    self.packs.push(Undecided {
                        pack: work.delivery.pack.clone(),
                        refusal: batch.refusal,
                    });
                    self.works.push(work);
                }
            }
            Message::Order(order, until, done) => self.orders.push((order, until, done)),
            Message::CopyForward => self.copy_forward = true,
            Message::Stop => self.stop = true,
        }
    }
}

/// Why the sequencer's loop ended.
enum End {
    Stopped,
    SteppedDown,
    Halted(Arc<str>),
}

impl From<SealLogError> for End {
    fn from(error: SealLogError) -> Self {
        match error {
            SealLogError::Closed => Self::Stopped,
            SealLogError::Fenced => Self::SteppedDown,
            SealLogError::Full | SealLogError::Doubtful(_) | SealLogError::Failed(_) => Self::Halted(error.to_string().into()),
        }
    }
}

/// The sequencer thread.
struct Worker {
    core: Core,
    parts: Parts,
    settings: SequencerSettings,
    lane: mpsc::Receiver<Message>,
    followed: Arc<Followed>,
    stop: Arc<Stop>,
    /// For waits on the lane with a deadline.
    clock: tokio::runtime::Runtime,
    /// When the last seal was begun.
    last: Option<Instant>,
}

/// Says how the worker ended, also when it panicked, and lets the follower end.
struct Ending<'a> {
    phase: &'a watch::Sender<Phase>,
    followed: Arc<Followed>,
    end: Phase,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.followed.close();
        self.phase.send_replace(self.end.clone());
    }
}

impl Worker {
    fn run(mut self, phase: &watch::Sender<Phase>) {
        let mut ending = Ending {
            phase,
            followed: self.followed.clone(),
            end: Phase::Halted("the sequencer panicked".into()),
        };
        let Err(end) = self.work(phase);
        ending.end = match end {
            End::Stopped => Phase::Stopped,
            End::SteppedDown => {
                tracing::warn!("another owner goes on with this partition: the sequencer steps down");
                Phase::SteppedDown
            }
            End::Halted(why) => {
                tracing::error!(%why, "the sequencer halts: the process must end, recovery will read the log");
                Phase::Halted(why)
            }
        };
    }

    fn work(&mut self, phase: &watch::Sender<Phase>) -> Result<std::convert::Infallible, End> {
        self.wait_for_room()?;
        phase.send_replace(Phase::Running);
        if let Some(draft) = self.core.gap_seal(now_ms()) {
            tracing::warn!(
                seal = draft.seal.n,
                tenants = draft.seal.tenants.len(),
                "a lost seal is not ruled out: all numbers jump"
            );
            self.create(draft, Group::default())?;
        }
        loop {
            self.wait_for_room()?;
            let mut group = self.gather().ok_or(End::Stopped)?;
            if group.copy_forward {
                match self.parts.log.copy_forward() {
                    Ok(()) | Err(SealLogError::Full) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let (stop, orders) = (group.stop, std::mem::take(&mut group.orders));
            self.decide(group)?;
            self.obey(orders)?;
            if stop {
                return Err(End::Stopped);
            }
        }
    }

    /// Waits until the store has caught up with the start and shows every erasure, the follower has room, and the window is
    /// within its bound.
    fn wait_for_room(&mut self) -> Result<(), End> {
        let (core, settings) = (&mut self.core, &self.settings);
        let room = self.followed.wait_for_room(settings.follow_bytes, |applied| {
            core.applied(applied);
            applied >= core.must_show() && core.window_bytes() < settings.window_bytes
        });
        let why = || {
            if self.stop.has_begun() {
                End::Stopped
            } else {
                End::Halted("the follower ended".into())
            }
        };
        room.then_some(()).ok_or_else(why)
    }

    /// The first message, what else waits already, and what comes until the next seal is due. `None` when every handle is gone.
    fn gather(&mut self) -> Option<Group> {
        let mut group = Group::default();
        group.add(self.lane.blocking_recv()?);
        let due = self.last.map(|last| last + self.settings.seal_interval);
        while !group.stop && group.bytes < self.settings.seal_bytes && group.packs.len() < self.settings.seal_packs {
            let message = match self.lane.try_recv() {
                Ok(message) => message,
                Err(_) => {
                    let Some(due) = due.filter(|due| *due > Instant::now()) else { break };
                    let lane = &mut self.lane;
                    match self.clock.block_on(async { tokio::time::timeout_at(due, lane.recv()).await }) {
                        Ok(Some(message)) => message,
                        Ok(None) | Err(_) => break,
                    }
                }
            };
            group.add(message);
        }
        self.last = (!self.settings.seal_interval.is_zero()).then(Instant::now);
        Some(group)
    }

    fn decide(&mut self, mut group: Group) -> Result<(), End> {
        self.core.trimmed(self.parts.log.first_segment());
        // A pack that the book does not have is decided and shown; its id may have been forgotten with its segment.
        let log = &self.parts.log;
        let packs = std::mem::take(&mut group.packs);
        let mut undecided: Vec<_> = packs.into_iter().filter(|item| !log.positions(item.pack.id()).is_empty()).collect();
        let decided = self.decided_before(self.core.uncertain(&undecided))?;
        undecided.retain(|item| !decided.contains(&item.pack.id()));
        let plan = self.core.plan(undecided, now_ms()); // drops those whose seal is durable and not shown yet
        if !plan.known.is_empty() {
            self.parts.log.known(&plan.known);
        }
        if plan.is_empty() {
            follower::settle(group.works, group.done);
            return Ok(());
        }
        let answers = self.look_up(&plan)?;
        let log = &self.parts.log;
        let draft = self
            .core
            .decide(plan, &answers, now_ms(), &mut |pack| -> SmallVec<_> { log.positions(pack.id()) });
        self.create(draft, group)
    }

    /// Seals what was ordered about erasures and deleted tenants.
    fn obey(&mut self, given: Vec<(Order, Until, oneshot::Sender<()>)>) -> Result<(), End> {
        if given.is_empty() {
            return Ok(());
        }
        let (mut orders, mut durable, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        for (order, until, done) in given {
            orders.push(order);
            match until {
                Until::Durable => durable.push(done),
                Until::Applied => applied.push(done),
            }
        }
        let before = self.decided_before(self.core.uncertain_orders(&orders))?;
        orders.retain(|order| match order {
            Order::Erase { job, .. } | Order::Retire { job, .. } => !before.contains(job),
            Order::Removed { .. } => true,
        });
        let made = self.core.erasing_seal(&orders, now_ms());
        let nothing = made.is_none();
        if let Some(draft) = made {
            let group = Group {
                done: std::mem::take(&mut applied),
                ..Group::default()
            };
            self.create_until_applied(draft, group)?;
        }
        // What was sealed before was shown before this group was gathered.
        debug_assert!(nothing || applied.is_empty());
        follower::settle(Vec::new(), durable);
        follower::settle(Vec::new(), applied);
        Ok(())
    }

    /// Asks the ledger which of these packs or orders were decided before the sequencer's memory begins, until it answers.
    fn decided_before(&self, ids: Vec<Uuid>) -> Result<HashSet<Uuid>, End> {
        let answers = self.ask(ids.len(), || self.parts.follower.lookup_packs(&ids))?;
        Ok(ids.into_iter().zip(answers).filter(|(_, decided)| *decided).map(|(id, _)| id).collect())
    }

    /// Asks the ledger for the ids of a plan until it answers.
    fn look_up(&self, plan: &Plan) -> Result<Vec<Option<ContentHash>>, End> {
        self.ask(plan.lookups.len(), || self.parts.follower.lookup(&plan.lookups))
    }

    fn ask<T>(&self, count: usize, question: impl Fn() -> Result<Vec<T>, StoreError>) -> Result<Vec<T>, End> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut attempt = 0;
        loop {
            match question() {
                Ok(answers) if answers.len() == count => return Ok(answers),
                Ok(_) => return Err(End::Halted("the ledger answered another question".into())),
                Err(error) => tracing::warn!(attempt, %error, "the ledger cannot be read; it is asked again"),
            }
            if self.stop.wait(attempt) {
                return Err(End::Stopped);
            }
            attempt += 1;
        }
    }

    /// Makes the draft durable, adopts it and hands it on. Who waits is answered now, if the log says so, or when it is applied.
    fn create(&mut self, draft: Draft, mut group: Group) -> Result<(), End> {
        if !self.parts.log.settles_at_seal() {
            return self.create_until_applied(draft, group);
        }
        let (works, done) = (std::mem::take(&mut group.works), std::mem::take(&mut group.done));
        self.create_until_applied(draft, group)?;
        follower::settle(works, done);
        Ok(())
    }

    /// Likewise; who waits is answered when it is applied.
    fn create_until_applied(&mut self, mut draft: Draft, group: Group) -> Result<(), End> {
        if let Some(sources) = &self.parts.sources {
            self.core.carry(&mut draft, &sources.report());
        }
        let (n, encoded) = (draft.seal.n, Bytes::from(codec::encode(&draft.seal)));
        let mut attempt = 0;
        let at = loop {
            match self.parts.log.append(&draft.seal, encoded.clone(), draft.packs()) {
                Ok(at) => break at,
                // Nothing was kept: the same seal, byte by byte, is tried again.
                Err(SealLogError::Full) => tracing::warn!(seal = n, attempt, "no room for a seal; it is tried again"),
                // It may be durable: only the same seal, byte by byte, may stand under its number.
                Err(error @ SealLogError::Doubtful(_)) => tracing::warn!(seal = n, attempt, %error, "a seal is tried again"),
                Err(error) => return Err(error.into()),
            }
            if self.stop.wait(attempt) {
                return Err(End::Stopped);
            }
            attempt += 1;
        };
        let seal = self.core.adopt(draft, &encoded);
        self.parts.log.sealed(&seal.seal, at);
        self.followed.push(Handed {
            seal,
            works: group.works,
            done: group.done,
        });
        Ok(())
    }
}
