//! How often somebody may try a password.
//!
//! Whoever guesses is slowed down; whoever is guessed at is not locked out. Tries are counted for each pair of e-mail address and
//! network address, and for each e-mail address over all of them:
//!
//! - after [`FREE`] failures in a row from one network address, that address waits for this account: 2 s, then twice as long
//!   after each failure, up to [`LONGEST`];
//! - after [`FREE_OVERALL`] failures from anywhere, network addresses that have never logged in to this account get one try
//!   every [`SPACING`] between them. One that has is not touched by this, whatever strangers elsewhere do.
//!
//! Each failure is forgotten after [`MEMORY`]. A try counts before its outcome is known, so that many at once are no more than one
//! after the other; a right password takes it back. E-mail addresses that nobody has are counted alike, so that nothing tells
//! them apart. It is all in memory: a restart forgets it, and each API process counts by itself.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Failures in a row from one network address that cost nothing.
const FREE: u32 = 5;
/// The longest wait of one network address.
const LONGEST: Duration = Duration::from_secs(300);
/// Failures from all network addresses that cost nothing.
const FREE_OVERALL: u32 = 50;
/// Between tries of strangers after that.
const SPACING: Duration = Duration::from_secs(15);
/// How long a failure is remembered: after it, the count begins anew.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Counts kept, 64 bytes each. Beyond it the oldest are forgotten, which takes as many hashes to bring about.
const MOST: usize = 1 << 16;

/// Counts tries. Share it.
pub struct Attempts {
    /// Keeps strangers from choosing names that collide.
    hasher: RandomState,
    most: usize,
    counts: Mutex<HashMap<u64, Count>>,
}

#[derive(Clone, Copy)]
struct Count {
    failures: u32,
    last: Instant,
    /// Whether a right password came from here.
    proven: bool,
}

/// A try that was let through. It is a failure unless [`Attempts::succeeded`] hears of it.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    here: u64,
    overall: u64,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::with_room(MOST)
    }
}

impl Attempts {
    fn with_room(most: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            most,
            counts: Mutex::default(),
        }
    }

    /// Lets a try through, or says how long to wait. `email` is in its normal form.
    pub fn begin(&self, email: &str, from: IpAddr) -> Result<Attempt, Duration> {
        let now = Instant::now();
        let attempt = Attempt {
            here: self.hasher.hash_one((email, Some(network(from)))),
            overall: self.hasher.hash_one((email, None::<IpAddr>)),
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let here = read(&counts, attempt.here, now);
        let overall = read(&counts, attempt.overall, now);
        let wait = |count: Count, gap: Duration| gap.checked_sub(now.duration_since(count.last)).filter(|left| !left.is_zero());
        let strange = !here.proven && overall.failures >= FREE_OVERALL;
        let waits = [wait(here, penalty(here.failures)), wait(overall, SPACING).filter(|_| strange)];
        if let Some(longest) = waits.into_iter().flatten().max() {
            return Err(longest);
        }
        for (key, count) in [(attempt.here, here), (attempt.overall, overall)] {
            let failures = count.failures.saturating_add(1);
            self.keep(&mut counts, key, Count { failures, last: now, ..count });
        }
        Ok(attempt)
    }

    /// The password was right.
    pub fn succeeded(&self, attempt: Attempt) {
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let overall = read(&counts, attempt.overall, now);
        let failures = overall.failures.saturating_sub(1);
        self.keep(&mut counts, attempt.overall, Count { failures, ..overall });
        let proven = Count {
            failures: 0,
            last: now,
            proven: true,
        };
        self.keep(&mut counts, attempt.here, proven);
    }

    /// The try was not made after all.
    pub fn withdrawn(&self, attempt: Attempt) {
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for key in [attempt.here, attempt.overall] {
            let count = read(&counts, key, now);
            let failures = count.failures.saturating_sub(1);
            self.keep(&mut counts, key, Count { failures, ..count });
        }
    }

    fn keep(&self, counts: &mut HashMap<u64, Count>, key: u64, count: Count) {
        if counts.len() >= self.most && !counts.contains_key(&key) {
            // An eighth at once, so that it is done seldom.
            let mut ages: Vec<Instant> = counts.values().map(|count| count.last).collect();
            let at = ages.len() / 8;
            let (_, oldest, _) = ages.select_nth_unstable(at);
            let oldest = *oldest;
            counts.retain(|_, count| count.last > oldest);
        }
        counts.insert(key, count);
    }
}

fn read(counts: &HashMap<u64, Count>, key: u64, now: Instant) -> Count {
    let none = Count {
        failures: 0,
        last: now,
        proven: false,
    };
    match counts.get(&key) {
        Some(count) if now.duration_since(count.last) < MEMORY => *count,
        Some(count) => Count { proven: count.proven, ..none },
        None => none,
    }
}

/// How long to wait after so many failures in a row.
fn penalty(failures: u32) -> Duration {
    match failures.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(more) => Duration::from_secs(2 << more.min(16)).min(LONGEST),
    }
}

/// Who has one IPv6 address has the other 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Fails until it has to wait, at most `times`; how long then.
    fn fail(attempts: &Attempts, email: &str, from: &str, times: usize) -> (usize, Option<Duration>) {
        for done in 0..times {
            if let Err(wait) = attempts.begin(email, address(from)) {
                return (done, Some(wait));
            }
        }
        (times, None)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_and_end_and_a_right_password_ends_them() {
        let attempts = Attempts::default();
        assert_eq!(fail(&attempts, "ann@x", "1.1.1.1", 99), (5, Some(Duration::from_secs(2))));
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let wait = attempts.begin("ann@x", address("1.1.1.1")).expect_err("too early");
            assert_eq!(wait, Duration::from_secs(seconds), "the answer is true");
            advance(wait - Duration::from_millis(1)).await;
            assert!(attempts.begin("ann@x", address("1.1.1.1")).is_err(), "a moment before it is over");
            advance(Duration::from_millis(1)).await;
            assert!(attempts.begin("ann@x", address("1.1.1.1")).is_ok(), "and then it is");
        }
        advance(LONGEST).await;
        attempts.succeeded(attempts.begin("ann@x", address("1.1.1.1")).expect("over"));
        assert_eq!(fail(&attempts, "ann@x", "1.1.1.1", 99).0, 5);
        advance(MEMORY).await;
        assert_eq!(fail(&attempts, "ann@x", "1.1.1.1", 99).0, 5, "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_elsewhere_do_not_lock_a_person_out() {
        let attempts = Attempts::default();
        let home = "10.0.0.1";
        attempts.succeeded(attempts.begin("ann@x", address(home)).expect("free"));
        let mut wait = None;
        for n in 0..250 {
            wait = fail(&attempts, "ann@x", &format!("1.1.1.{n}"), 4).1.or(wait);
        }
        assert_eq!(wait, Some(SPACING), "many addresses together are slowed down");
        let attempt = attempts.begin("ann@x", address(home));
        attempts.succeeded(attempt.expect("from where the person has logged in before, nobody is in the way"));
        assert!(attempts.begin("ann@x", address("10.0.0.2")).is_err());
        advance(SPACING).await;
        assert!(attempts.begin("ann@x", address("10.0.0.2")).is_ok(), "elsewhere it takes a while");
        assert!(attempts.begin("bob@x", address("1.1.1.1")).is_ok(), "and others are not concerned");
    }

    #[tokio::test(start_paused = true)]
    async fn networks_are_one_and_what_was_not_tried_is_given_back() {
        let attempts = Attempts::default();
        let mut done = 0;
        for host in 0..99 {
            done += fail(&attempts, "ann@x", &format!("2001:db8::{host:x}"), 1).0;
        }
        assert_eq!(done, 5, "all addresses of an IPv6 network are one");
        assert_eq!(fail(&attempts, "ann@x", "::ffff:1.2.3.4", 3).0, 3);
        assert_eq!(fail(&attempts, "ann@x", "1.2.3.4", 99).0, 2, "a mapped address is its IPv4 address");
        for _ in 0..99 {
            attempts.withdrawn(attempts.begin("cid@x", address("1.1.1.1")).expect("free"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_map_is_bounded_and_forgets_the_oldest() {
        let attempts = Attempts::with_room(100);
        fail(&attempts, "old@x", "1.1.1.1", 99);
        for n in 0..1000 {
            advance(Duration::from_millis(1)).await;
            fail(&attempts, &format!("{n}@x"), "1.1.1.1", 1);
            assert!(attempts.counts.lock().expect("sound").len() <= 100);
        }
        assert_eq!(fail(&attempts, "999@x", "1.1.1.1", 99).0, 4, "the newest are known");
        assert_eq!(fail(&attempts, "old@x", "1.1.1.1", 99).0, 5, "the oldest are not");
    }
}
