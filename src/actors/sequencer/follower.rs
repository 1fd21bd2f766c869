//! The follower thread: takes durable seals in order to the dead letters, the store, the queue's book and the feed, and
//! settles their tickets. It begins with the seals that the store lost in the last stop (`Start::replay`).
//!
//! `Followed` is what it shares with the sequencer: seals that wait, bounded in bytes, and the last seal applied. A store
//! without room blocks `SealFollower::apply`; then the bytes fill and the sequencer makes no further seal. A store that
//! fails is asked again with back-off until it works or the process stops: nothing is skipped.

use super::{Parts, Stop};
use crate::{
    model::{batch::Work, ticket::Verdict, time::now_ms},
    seal::{DecidedSeal, FoundSeal, SealTenant},
    telemetry::metrics::{AccessOutcome, Outcome, metrics},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// Entries that a seal decided and whose pack can no longer be read: they have numbers and no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The seal.
    pub seal: u64,
    /// Entries of the pack.
    pub entries: u64,
    /// Numbers that stay without a row, inclusive; `None` when none of its entries was new.
    pub numbers: Option<(u64, u64)>,
}

/// A durable seal on its way to the store, with those who wait for it.
pub(super) struct Handed {
    pub(super) seal: Arc<DecidedSeal>,
    pub(super) works: Vec<Work>,
    pub(super) done: Vec<oneshot::Sender<()>>,
}

impl Handed {
    fn bytes(&self) -> usize {
        self.seal.encoded_len + self.seal.packs.iter().map(|pack| pack.bytes().len()).sum::<usize>()
    }
}

/// A seal was made and is visible.
fn measure(decided: &DecidedSeal) {
    let (m, seal) = (metrics(), &decided.seal);
    let sum = |access: bool, count: fn(&SealTenant) -> u64| {
        let logs = seal.tenants.iter().filter(|t| t.tenant.is_access_log() == access);
        logs.map(count).sum::<u64>()
    };
    m.entries(Outcome::Stored, sum(false, |t| t.stored));
    m.entries(Outcome::Duplicate, sum(false, |t| t.duplicate));
    m.entries(Outcome::DeadLettered, sum(false, |t| t.dead_lettered));
    m.access(AccessOutcome::Stored, sum(true, |t| t.stored));
    m.access(AccessOutcome::DeadLettered, sum(true, |t| t.dead_lettered));
    m.sealed(seal.n, sum(false, |t| t.accepted) + sum(true, |t| t.accepted), decided.encoded_len as u64);
    if let Some(oldest) = decided.packs.iter().map(|pack| pack.header().received_at).min() {
        m.visible(seal.n, Duration::from_millis(u64::try_from(now_ms() - oldest).unwrap_or(0)));
    }
}

/// Answers every ticket and every submitter.
pub(super) fn settle(works: Vec<Work>, done: Vec<oneshot::Sender<()>>) {
    for work in works {
        work.delivery.ticket.settle(Verdict::Done);
    }
    for done in done {
        let _ = done.send(()); // a tenant actor that is gone waits for nothing
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Followed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Handed>,
    bytes: usize,
    applied: u64,
    ready: bool,
    closed: bool,
    ended: bool,
}

impl Followed {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment or one queue operation, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals may be handed over, and the next one decided, while those of the last run are applied: their rows are in the window.
    pub(super) fn decide_at_once(&self) {
        self.note(|state| state.ready = true);
    }

    /// Hands a seal over. Its bytes may exceed the bound once; `Followed::wait_for_room` keeps it to that.
    pub(super) fn push(&self, handed: Handed) {
        let mut state = self.lock();
        state.bytes += handed.bytes();
        state.queue.push_back(handed);
        self.changed.notify_all();
    }

    /// Waits until fewer than `bytes` wait and `enough` holds of the last seal applied; `false` when the follower ended.
    pub(super) fn wait_for_room(&self, bytes: usize, mut enough: impl FnMut(u64) -> bool) -> bool {
        let mut state = self.lock();
        loop {
            if state.ended {
                return false;
            }
            if state.ready && state.bytes < bytes && enough(state.applied) {
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No seal follows any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Handed> {
        let mut state = self.lock();
        loop {
            if let Some(handed) = state.queue.pop_front() {
                return Some(handed);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Marks the end of the follower, also when it panics, so that nobody waits for it for ever.
struct Ended(Arc<Followed>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.note(|state| {
            state.ended = true;
            state.queue.clear(); // drops tickets: the packs are decided, and known when they come again
        });
    }
}

/// The thread.
pub(super) struct Follower {
    pub(super) parts: Parts,
    pub(super) followed: Arc<Followed>,
    pub(super) stop: Arc<Stop>,
    pub(super) losses: Arc<Mutex<Vec<Loss>>>,
}

impl Follower {
    /// Applies `replay`, then everything that is handed over, until `Followed::close` or a stop that finds the store failing.
    pub(super) fn run(self, replay: Vec<FoundSeal>) {
        let _ended = Ended(self.followed.clone());
        for found in replay {
            let Some(seal) = self.load(found).map(Arc::new) else { return };
            if !self.apply(&seal) {
                return;
            }
            if self.parts.log.settles_at_seal() {
                self.parts.log.applied(&seal); // here the log keeps the cursor
            }
            self.parts.publisher.publish(&seal);
            self.followed.note(|state| state.applied = seal.seal.n);
        }
        self.followed.note(|state| state.ready = true);
        while let Some(handed) = self.followed.next() {
            if !self.apply(&handed.seal) {
                return;
            }
            self.parts.log.applied(&handed.seal);
            self.parts.publisher.publish(&handed.seal);
            measure(&handed.seal);
            let (n, bytes) = (handed.seal.seal.n, handed.bytes());
            settle(handed.works, handed.done);
            self.followed.note(|state| {
                state.applied = n;
                state.bytes -= bytes;
            });
        }
    }

    /// Dead letters, then the store; `false` when the process stops before the store took the seal.
    fn apply(&self, seal: &Arc<DecidedSeal>) -> bool {
        self.parts.dead_letters.submit(seal);
        let mut attempt = 0;
        while let Err(error) = self.parts.follower.apply(seal) {
            metrics().store_fault();
            tracing::warn!(seal = seal.seal.n, attempt, %error, "the store did not take a seal; it is asked again");
            if self.stop.wait(attempt) {
                return false;
            }
            attempt += 1;
        }
        true
    }

    /// The seal with its packs. Packs that cannot be read any more are left out and reported. `None` when the process stops before
    /// the log could be read.
    fn load(&self, found: FoundSeal) -> Option<DecidedSeal> {
        let mut attempt = 0;
        let loaded = loop {
            match self.parts.log.load(&found.seal) {
                Ok(loaded) => break loaded,
                Err(error) => tracing::warn!(seal = found.seal.n, attempt, %error, "a seal cannot be read back; it is tried again"),
            }
            if self.stop.wait(attempt) {
                return None;
            }
            attempt += 1;
        };
        let mut seal = found.seal;
        let (mut kept, mut packs, mut lost) = (Vec::with_capacity(loaded.len()), Vec::with_capacity(loaded.len()), Vec::new());
        for (decided, pack) in seal.packs.drain(..).zip(loaded) {
            match pack {
                Some(pack) => {
                    kept.push(decided);
                    packs.push(pack);
                }
                None => {
                    let new = decided.decisions.iter().filter(|d| **d == crate::seal::Decision::New).count() as u64;
                    lost.push(Loss {
                        seal: seal.n,
                        entries: decided.decisions.len() as u64,
                        numbers: (new > 0).then(|| (decided.first_sequence, decided.first_sequence + new - 1)),
                    });
                }
            }
        }
        seal.packs = kept;
        for loss in &lost {
            let (entries, numbers) = (loss.entries, loss.numbers);
            tracing::error!(
                seal = seal.n,
                entries,
                ?numbers,
                "a decided pack cannot be read from the log; its rows are lost"
            );
        }
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
        Some(DecidedSeal {
            seal,
            crc: found.crc,
            packs,
            encoded_len: found.encoded_len,
        })
    }
}
