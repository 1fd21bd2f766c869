//! Work on several threads while the machine has nothing better to do.
//!
//! Pieces of work are numbered; whoever is free takes the next one. The asking thread works too. Helpers take the place of
//! queries that could run instead (their turns), only while at least half of these are free and no more threads than cores
//! are at it, and on Linux they run with a lower priority: ingest goes first.

use crate::sinks::{
    StoreError,
    embedded::turns::{Spare, Turns},
};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

/// How much lower the priority of helpers is.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Threads that a query may have besides its own, until this is dropped.
pub struct Helpers {
    most: usize,
    _turns: Option<Spare>,
}

impl Helpers {
    /// At most `wanted`, as many as there are spare cores and spare turns.
    pub fn spare(queries: &Turns, wanted: usize) -> Self {
        let (all, taken) = (queries.all(), queries.taken());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let spare = cores.saturating_sub(taken).min((all - taken).saturating_sub(all / 2)).min(wanted);
        let turns = queries.spare(spare);
        Self {
            most: turns.count(),
            _turns: Some(turns),
        }
    }

    /// None.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { most: 0, _turns: None }
    }

    /// This many, whatever else goes on.
    #[cfg(test)]
    pub fn exactly(most: usize) -> Self {
        Self { most, _turns: None }
    }
}

/// The pieces of work that are left.
pub struct Queue {
    next: AtomicUsize,
    pieces: usize,
    stopped: AtomicBool,
}

impl Queue {
    /// The next one.
    pub fn take(&self) -> Option<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|piece| *piece < self.pieces)
    }
}

/// Runs `work` on this thread and on the helpers, until all pieces are taken, or one fails: then the others stop at their
/// next piece, and the first error in the order of threads is given. Blocks until all threads are done.
pub fn share(pieces: usize, helpers: &Helpers, work: impl Fn(&Queue) -> Result<(), StoreError> + Sync) -> Result<(), StoreError> {
    let queue = Queue {
        next: AtomicUsize::new(0),
        pieces,
        stopped: AtomicBool::new(false),
    };
    let work = || {
        let done = work(&queue);
        if done.is_err() {
            queue.stopped.store(true, Ordering::Relaxed);
        }
        done
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers.most.min(pieces.saturating_sub(1)))
            .map(|_| {
                scope.spawn(|| {
                    step_back();
                    work()
                })
            })
            .collect();
        let mut done = work();
        for helper in helpers {
            let its = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done = done.and(its);
        }
        done
    })
}

/// Lowers the priority of this thread. On Linux it is a thread's own; elsewhere it would be the whole process's.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a helper keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_piece_is_taken_once() {
        for helpers in [0, 3] {
            let taken = Mutex::new(Vec::new());
            let done = share(1_000, &Helpers::exactly(helpers), |queue| {
                while let Some(piece) = queue.take() {
                    taken.lock().expect("nobody panics").push(piece);
                }
                Ok(())
            });
            assert!(done.is_ok());
            let mut taken = taken.into_inner().expect("nobody panicked");
            taken.sort_unstable();
            assert_eq!(taken, (0..1_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_stops_everybody() {
        let done = share(usize::MAX, &Helpers::exactly(2), |queue| {
            while let Some(piece) = queue.take() {
                if piece == 100 {
                    return Err(StoreError::TooManyGroups);
                }
            }
            Ok(())
        });
        assert!(matches!(done, Err(StoreError::TooManyGroups)));
    }

    #[test]
    fn helpers_leave_half_of_the_turns_to_others_and_give_theirs_back() {
        let queries = Turns::new(16, 16, 16);
        let query = queries.spare(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let helpers = Helpers::spare(&queries, 99);
        assert_eq!(helpers.most, (cores - 1).min(7));
        assert_eq!(queries.taken(), 1 + helpers.most);
        drop(helpers);
        assert_eq!(queries.taken(), 1);
        let busy = queries.spare(7);
        assert_eq!(Helpers::spare(&queries, 99).most, 0, "half of them run");
        drop((query, busy));
    }
}
