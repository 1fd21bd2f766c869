//! A bucket of tokens that may be overdrawn. Pure: the clock is handed in.
//!
//! A bucket that holds a token admits a request, whatever the request turns out to cost, and is charged for it afterwards; the
//! debt is paid back before the next one is admitted. So a request larger than the bucket is possible, and the rate holds in
//! the long run all the same.
//!
//! Guarantees: levels are whole numbers, in which nothing is ever rounded, so there is no drift however often it is asked; no
//! setting or charge overflows (sums stop at the ends of their range, which no honest setting comes near); who comes back
//! after [`Bucket::retry_after`] is admitted, if nobody else was meanwhile, and one second earlier would not be.

use std::time::Duration;
use tokio::time::Instant;

const NANOS: i128 = 1_000_000_000;

/// So many tokens come in a period, and so many may be saved up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    tokens: u64,
    /// The period, nanoseconds.
    period: i128,
    burst: u64,
}

impl Rate {
    /// `tokens` in each second, at most `burst` at once. Zeros are taken as one: a bucket that never admits is none.
    pub fn per_second(tokens: u64, burst: u64) -> Self {
        Self::new(tokens, NANOS, burst)
    }

    /// `tokens` in each minute, at most `burst` at once. Zeros are taken as one.
    pub fn per_minute(tokens: u64, burst: u64) -> Self {
        Self::new(tokens, 60 * NANOS, burst)
    }

    fn new(tokens: u64, period: i128, burst: u64) -> Self {
        Self {
            tokens: tokens.max(1),
            period,
            burst: burst.max(1),
        }
    }

    /// Tokens in a period.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Most tokens at once.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// One token in units of the level: so small that in a nanosecond a whole number of them comes, `tokens`.
    fn token(&self) -> i128 {
        self.period
    }

    fn capacity(&self) -> i128 {
        i128::from(self.burst) * self.token()
    }
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    /// Below zero: a debt. At most `rate.capacity()`.
    level: i128,
    /// When `level` was right.
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self {
            level: rate.capacity(),
            rate,
            at: now,
        }
    }

    /// The rate in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Goes by another rate. What was saved or owed stays, as far as it fits. When the rate was changed is not known, so the time
    /// since the bucket was touched last counts by the faster one: a raise is felt at once.
    pub fn change(&mut self, rate: Rate, now: Instant) {
        if rate == self.rate {
            return;
        }
        let (old, new) = (&self.rate, &rate);
        if i128::from(new.tokens) * old.period <= i128::from(old.tokens) * new.period {
            self.refill(now);
        }
        if rate.period != self.rate.period {
            // The same number of tokens; a part of one is of no account.
            self.level = (self.level / self.rate.token()).saturating_mul(rate.token());
        }
        self.level = self.level.min(rate.capacity());
        self.rate = rate;
        self.refill(now);
    }

    /// How long until it admits, in whole seconds, rounded up; `None`: it does now.
    pub fn retry_after(&mut self, now: Instant) -> Option<Duration> {
        self.refill(now);
        let missing = self.rate.token().saturating_sub(self.level);
        if missing <= 0 {
            return None;
        }
        let nanos = missing.unsigned_abs().div_ceil(u128::from(self.rate.tokens));
        let seconds = nanos.div_ceil(NANOS.unsigned_abs());
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }

    /// Takes tokens, also those that it does not have.
    pub fn charge(&mut self, tokens: u64, now: Instant) {
        self.refill(now);
        self.level = self.level.saturating_sub(i128::from(tokens) * self.rate.token());
    }

    /// Puts back what was charged too much.
    pub fn give_back(&mut self, tokens: u64, now: Instant) {
        self.refill(now);
        let level = self.level.saturating_add(i128::from(tokens) * self.rate.token());
        self.level = level.min(self.rate.capacity());
    }

    /// Whether it is as good as a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level == self.rate.capacity()
    }

    fn refill(&mut self, now: Instant) {
        // Threads come here in another order than they looked at the clock: it never goes back.
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let room = self.rate.capacity().saturating_sub(self.level).unsigned_abs();
        let gained = passed.as_nanos().saturating_mul(u128::from(self.rate.tokens)).min(room);
        // `room` fits, so what is at most `room` does.
        self.level = self.level.saturating_add(i128::try_from(gained).unwrap_or(i128::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    const SECOND: Duration = Duration::from_secs(1);

    /// What is told is true: then it is admitted, a second earlier it is not.
    #[track_caller]
    fn check_truth(bucket: &Bucket, now: Instant, told: Duration) {
        assert!(told >= SECOND);
        assert_eq!(bucket.clone().retry_after(now + told), None, "{bucket:?} {told:?}");
        let early = now + told - SECOND;
        assert_eq!(bucket.clone().retry_after(early), Some(SECOND), "{bucket:?} {told:?}");
        let just = early.checked_sub(Duration::from_nanos(1)).filter(|just| *just >= now);
        assert!(just.is_none_or(|just| bucket.clone().retry_after(just) >= Some(SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_true() {
        // (rate, charged at once, seconds until the next one)
        let table = [
            (Rate::per_second(1, 1), 1, 1),
            (Rate::per_second(10, 10), 10, 1),
            (Rate::per_second(10, 20), 9, 0),
            (Rate::per_second(10, 20), 19, 0),
            (Rate::per_second(10, 20), 20, 1),
            (Rate::per_second(10, 20), 29, 1),
            (Rate::per_second(10, 20), 30, 2),
            (Rate::per_second(10, 20), 10_000, 999),
            (Rate::per_second(3, 3), 4, 1),
            (Rate::per_second(3, 3), 6, 2),
            (Rate::per_second(1_000_000, 1), 16 << 20, 17),
            (Rate::per_second(7, 100), u64::from(u32::MAX), 613_566_743),
            (Rate::per_minute(60, 60), 60, 1),
            (Rate::per_minute(1, 3), 3, 60),
            (Rate::per_minute(1, 3), 5, 180),
            (Rate::per_minute(7, 1), 1, 9),
        ];
        for (rate, charged, seconds) in table {
            let now = Instant::now();
            let mut bucket = Bucket::full(rate, now);
            assert_eq!(bucket.retry_after(now), None, "a new one admits");
            bucket.charge(charged, now);
            let told = bucket.retry_after(now);
            assert_eq!(told, (seconds > 0).then(|| Duration::from_secs(seconds)), "{rate:?} after {charged}");
            if let Some(told) = told {
                check_truth(&bucket, now, told);
                // The clock of the process says the same.
                tokio::time::advance(told - SECOND).await;
                assert!(bucket.retry_after(Instant::now()).is_some());
                tokio::time::advance(SECOND).await;
                assert_eq!(bucket.retry_after(Instant::now()), None);
            }
        }
    }

    #[test]
    fn it_does_not_drift_however_often_it_is_asked() {
        // A third of a token in a second cannot be written with decimals; steps of 7 ns never meet a second.
        let start = Instant::now();
        let mut bucket = Bucket::full(Rate::per_minute(20, 5), start);
        bucket.charge(5, start);
        let mut admitted = 0;
        for step in 1..=60_u64 * 1_000_003 / 1_000 {
            let now = start + Duration::from_micros(step * 1_000);
            if bucket.retry_after(now).is_none() {
                bucket.charge(1, now);
                admitted += 1;
            }
        }
        assert_eq!(admitted, 20, "a minute's worth in a minute");
        for step in 0..100_000_u64 {
            bucket.refill(start + Duration::from_secs(61) + Duration::from_nanos(7 * step));
        }
        let before = bucket.level;
        bucket.refill(start + Duration::from_secs(61) + Duration::from_nanos(7 * 99_999));
        assert_eq!(bucket.level, before, "the same moment again brings nothing");
        bucket.refill(start);
        assert_eq!(bucket.level, before, "nor does an earlier one");
    }

    #[test]
    fn random_lives_keep_to_the_rate_and_tell_the_truth() {
        for seed in 0..300_u64 {
            let mut random = StdRng::seed_from_u64(seed);
            let (tokens, burst) = (random.random_range(1..50), random.random_range(1..80));
            let start = Instant::now();
            let (mut now, mut bucket, mut charged) = (start, Bucket::full(Rate::per_second(tokens, burst), start), 0);
            let mut largest = 0;
            for _ in 0..200 {
                now += Duration::from_nanos(random.random_range(0..3_000_000_000));
                if let Some(told) = bucket.retry_after(now) {
                    check_truth(&bucket, now, told);
                    continue;
                }
                let cost = random.random_range(0..200);
                bucket.charge(cost, now);
                (charged, largest) = (charged + cost, largest.max(cost));
                let earned = (now - start).as_secs_f64() * tokens as f64;
                let bound = burst as f64 + earned + largest as f64;
                assert!(charged as f64 <= bound, "seed {seed}: {charged} of {bound}");
            }
        }
    }

    #[test]
    fn a_change_holds_at_once_and_forgets_no_debt() {
        let start = Instant::now();
        let mut bucket = Bucket::full(Rate::per_second(1, 100), start);
        bucket.change(Rate::per_second(1, 10), start);
        bucket.charge(1_010, start);
        assert_eq!(bucket.retry_after(start), Some(Duration::from_secs(1_001)));
        let later = start + Duration::from_secs(1);
        let mut raised = bucket.clone();
        raised.change(Rate::per_second(100, 1_000), later);
        assert_eq!(
            raised.retry_after(later),
            Some(Duration::from_secs(10)),
            "900 are owed: the second counts by the faster rate"
        );
        raised.change(Rate::per_minute(60, 1_000), later);
        assert_eq!(raised.retry_after(later), Some(Duration::from_secs(901)));
        raised.change(Rate::per_second(1, 1), later + Duration::from_secs(1_000));
        assert!(raised.is_full(later + Duration::from_secs(1_000)));
        raised.change(Rate::per_second(2, 100), later + Duration::from_secs(1_000));
        raised.charge(1, later + Duration::from_secs(1_000));
        assert_eq!(
            raised.retry_after(later + Duration::from_secs(1_000)),
            Some(SECOND),
            "a larger bucket is not filled by the change"
        );
    }

    #[test]
    fn what_is_given_back_fits_and_counts() {
        let now = Instant::now();
        let mut bucket = Bucket::full(Rate::per_second(5, 5), now);
        bucket.charge(7, now);
        bucket.give_back(2, now);
        assert_eq!(bucket.retry_after(now), Some(SECOND));
        bucket.give_back(1, now);
        assert_eq!(bucket.retry_after(now), None);
        bucket.give_back(u64::MAX, now);
        assert!(bucket.is_full(now), "no more than it holds");
        bucket.charge(6, now);
        assert_eq!(bucket.retry_after(now), Some(SECOND));
    }

    #[test]
    fn the_largest_numbers_do_no_harm() {
        let now = Instant::now();
        let eternity = now + Duration::from_secs(u64::from(u32::MAX));
        for rate in [
            Rate::per_second(u64::MAX, u64::MAX),
            Rate::per_second(1, u64::MAX),
            Rate::per_minute(1, 1),
            Rate::per_minute(u64::MAX, 1),
            Rate::per_second(0, 0),
        ] {
            let mut bucket = Bucket::full(rate, now);
            for _ in 0..1_000 {
                bucket.charge(u64::MAX, now);
            }
            assert!(bucket.retry_after(now).is_some());
            for _ in 0..1_000 {
                bucket.refill(eternity);
                bucket.give_back(u64::MAX, eternity);
            }
            assert!(bucket.is_full(eternity), "{rate:?}");
            let mut sunk = Bucket {
                level: i128::MIN,
                ..Bucket::full(rate, now)
            };
            assert!(sunk.retry_after(eternity).is_some());
            sunk.charge(u64::MAX, eternity);
            sunk.change(Rate::per_minute(u64::MAX, u64::MAX), eternity);
            assert!(sunk.retry_after(eternity).is_some());
        }
    }
}
