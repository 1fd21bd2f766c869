//! Watching actors: how each one ended, when its successor may start, and when to call its owner degraded.
//!
//! actix's own `Supervisor` restarts on `stop()` and not on panic, and keeps the struct that panicked. Here an actor runs
//! as a task whose end is observed, and its successor is made anew by a factory. [`Crashes`] is the pure part.

use actix::{Actor, Addr, Context};
use std::{collections::VecDeque, time::Duration};
use tokio::{task::JoinError, time::Instant};

/// More crashes than this within [`WINDOW`] make an actor's owner degraded.
const MAX_CRASHES: usize = 5;
/// How long a crash counts.
const WINDOW: Duration = Duration::from_secs(60);
/// Delay before the first restart; each further crash within the window doubles it.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It stopped by itself.
    Returned,
    /// It panicked.
    Panicked,
    /// Its shard stopped, or never started it.
    Cancelled,
}

impl How {
    fn of(end: Result<(), JoinError>) -> Self {
        match end {
            Ok(()) => Self::Returned,
            Err(error) if error.is_panic() => Self::Panicked,
            Err(_) => Self::Cancelled,
        }
    }
}

/// An actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildExited<K> {
    /// Whose actor.
    pub who: K,
    /// Which incarnation.
    pub generation: u64,
    /// How.
    pub how: How,
}

/// Starts an actor on the current shard and watches it. `exited` is called on this shard when it ended and its state was
/// dropped; it is dropped uncalled when the shard stops. Panics off a shard.
pub fn start<A>(make: impl FnOnce(&mut Context<A>) -> A, exited: impl FnOnce(How) + 'static) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
{
    let mut ctx = Context::new();
    let actor = make(&mut ctx);
    let running = ctx.into_future(actor);
    let addr = running.address();
    let task = actix::spawn(running);
    actix::spawn(async move { exited(How::of(task.await)) });
    addr
}

/// The recent crashes of one actor's incarnations.
#[derive(Debug, Default)]
pub struct Crashes {
    recent: VecDeque<Instant>,
    unanswered: bool,
}

impl Crashes {
    /// A crash happened.
    pub fn crashed(&mut self, now: Instant) {
        self.forget(now);
        self.recent.push_back(now);
        self.unanswered = true;
        // The delay is at its longest long before; no need to count further.
        if self.recent.len() > 4 * MAX_CRASHES {
            self.recent.pop_front();
        }
    }

    /// The next incarnation is about to start: how long it has to wait, `None` when the last one did not crash.
    pub fn restart(&mut self, now: Instant) -> Option<Duration> {
        if !std::mem::take(&mut self.unanswered) {
            return None;
        }
        self.forget(now);
        let Some(last) = self.recent.back() else {
            return Some(Duration::ZERO);
        };
        let doublings = u32::try_from(self.recent.len() - 1).unwrap_or(u32::MAX).min(16);
        let delay = (FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY);
        Some((*last + delay).saturating_duration_since(now))
    }

    /// Whether it crashed more than five times in the last minute.
    pub fn is_degraded(&self, now: Instant) -> bool {
        self.recent.iter().filter(|at| now.duration_since(**at) < WINDOW).count() > MAX_CRASHES
    }

    /// Whether nothing is left to remember.
    pub fn is_forgotten(&self, now: Instant) -> bool {
        self.recent.back().is_none_or(|at| now.duration_since(*at) >= WINDOW)
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_each_time_and_the_sixth_crash_in_a_minute_degrades() {
        let (mut crashes, start) = (Crashes::default(), Instant::now());
        assert_eq!(crashes.restart(start), None, "a first start waits for nothing");
        let mut delays = Vec::new();
        for i in 0..6 {
            let now = start + Duration::from_secs(i);
            crashes.crashed(now);
            assert_eq!(crashes.is_degraded(now), i == 5, "crash {}", i + 1);
            delays.push(crashes.restart(now).expect("it crashed").as_millis());
            assert_eq!(crashes.restart(now), None, "one restart for one crash");
        }
        assert_eq!(delays, [50, 100, 200, 400, 800, 1600]);
        assert!(!crashes.is_degraded(start + Duration::from_secs(60)), "the first of six has aged out");
        assert!(!crashes.is_forgotten(start + Duration::from_secs(64)));
        assert!(crashes.is_forgotten(start + Duration::from_secs(65)));
        for _ in 0..100 {
            crashes.crashed(start);
        }
        assert!(crashes.recent.len() <= 20);
        assert_eq!(crashes.restart(start), Some(LONGEST_DELAY));
    }
}
