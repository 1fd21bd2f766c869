//! What to do when a store does not take a write or give an answer: one table for all stores, and the patience that goes
//! with it.
//!
//! | remedy | when | what is done |
//! |---|---|---|
//! | [`Remedy::Again`] | the network, a time-out, a 5xx: nobody knows whether it took effect | the same once more after a pause; writes are idempotent |
//! | [`Remedy::Slower`] | the store says that it is too busy (429, too many queries, memory) | the same, after a pause that starts longer |
//! | [`Remedy::Isolate`] | the request is too large, or one row of it spoils it | halve it, down to single rows |
//! | [`Remedy::Refuse`] | the store will never take this row | it becomes a dead letter; the others go on |
//! | [`Remedy::Hold`] | nobody's row is to blame and no retry mends it: credentials, a full or read-only store, a foreign schema | keep everything, say so loudly, ask seldom until somebody has mended it |
//!
//! Guarantees: every symptom has exactly one remedy, and none of them loses a row: what is not refused is asked again for
//! ever, by whoever follows the seals. [`Backoff`] never waits longer than its bound, and its pauses are jittered, so that
//! processes that lost a store together do not come back together. [`Budget`] bounds how much work retries may add. A
//! [`Breaker`] lets readers of a dead store hear so at once. Plain data and clocks: no store is known here.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What is done about an error; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// The same once more after a pause.
    Again,
    /// The same once more after a longer pause.
    Slower,
    /// Halve it to find the row that spoils it.
    Isolate,
    /// This row is never taken.
    Refuse,
    /// Somebody has to act.
    Hold,
}

impl Remedy {
    /// All of them; `ALL[r as usize] == r`.
    pub const ALL: [Self; 5] = [Self::Again, Self::Slower, Self::Isolate, Self::Refuse, Self::Hold];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        ["again", "slower", "isolate", "refuse", "hold"][self as usize]
    }
}

/// What was seen of an error, as far as it decides what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symptom<'a> {
    /// No connection: nothing took effect.
    Unreachable,
    /// The connection broke or time ran out: it may have taken effect.
    Broken,
    /// An answer that this store does not give: something else answered in its place.
    Unreadable,
    /// The whole request was answered with this status; `kind` is the store's own word for it, empty if there is none.
    Http {
        /// HTTP status.
        status: u16,
        /// Such as `cluster_block_exception`.
        kind: &'a str,
    },
    /// One item of a batch was answered so.
    Item {
        /// HTTP status of the item.
        status: u16,
        /// Such as `mapper_parsing_exception`.
        kind: &'a str,
    },
    /// An exception of ClickHouse, by its number.
    ClickHouse(i32),
}

impl Symptom<'_> {
    /// The table.
    pub fn remedy(self) -> Remedy {
        match self {
            Self::Unreachable | Self::Broken | Self::Unreadable => Remedy::Again,
            Self::Http { status, kind } => of_request(status, kind),
            Self::Item { status, kind } => of_item(status, kind),
            Self::ClickHouse(code) => of_clickhouse(code),
        }
    }

    /// Whether it is certain that nothing took effect.
    pub fn is_definite(self) -> bool {
        match self {
            Self::Unreachable => true,
            Self::Broken | Self::Unreadable => false,
            Self::Http { status, .. } | Self::Item { status, .. } => status < 500,
            // An unknown status of an insert, and time-outs after the query had begun.
            Self::ClickHouse(code) => !matches!(code, 159 | 209 | 210 | 319 | 394 | 1000 | 1001 | 1002),
        }
    }
}

/// Blocks that stand for a full disk, a read-only index or a cluster without a manager: nothing that a retry mends soon.
const BLOCKS: [&str; 2] = ["cluster_block_exception", "index_closed_exception"];
/// The index is not as we made it, or is not there.
const FOREIGN: [&str; 6] = [
    "index_not_found_exception",
    "strict_dynamic_mapping_exception",
    "security_exception",
    "invalid_index_name_exception",
    "alias_not_found_exception",
    "resource_not_found_exception",
];

fn of_request(status: u16, kind: &str) -> Remedy {
    match status {
        _ if BLOCKS.contains(&kind) || FOREIGN.contains(&kind) => Remedy::Hold,
        413 => Remedy::Isolate,
        429 | 503 => Remedy::Slower,
        408 | 409 | 425 | 500..=599 => Remedy::Again,
        401 | 403 | 404 | 405 | 407 => Remedy::Hold,
        // The request as a whole does not parse: with one row left it is that row's fault.
        400..=499 => Remedy::Isolate,
        _ => Remedy::Again,
    }
}

fn of_item(status: u16, kind: &str) -> Remedy {
    match status {
        _ if BLOCKS.contains(&kind) || FOREIGN.contains(&kind) => Remedy::Hold,
        429 | 503 => Remedy::Slower,
        413 => Remedy::Isolate,
        401 | 403 | 404 => Remedy::Hold,
        400..=499 => Remedy::Refuse,
        _ => Remedy::Again,
    }
}

fn of_clickhouse(code: i32) -> Remedy {
    match code {
        // TOO_MANY_SIMULTANEOUS_QUERIES, MEMORY_LIMIT_EXCEEDED, TOO_MANY_PARTS, TOO_SLOW, CANNOT_SCHEDULE_TASK
        202 | 241 | 252 | 160 | 439 => Remedy::Slower,
        // UNKNOWN_TABLE, UNKNOWN_DATABASE, READONLY, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD,
        // ACCESS_DENIED, AUTHENTICATION_FAILED, NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, UNKNOWN_SETTING, CANNOT_WRITE_TO_FILE_DESCRIPTOR
        60 | 81 | 164 | 242 | 243 | 192 | 193 | 194 | 497 | 516 | 16 | 47 | 115 | 75 => Remedy::Hold,
        // What cannot be read as the column that it is for: CANNOT_PARSE_*, TYPE_MISMATCH, INCORRECT_DATA, TOO_LARGE_STRING_SIZE, VALUE_IS_OUT_OF_RANGE
        6 | 26 | 27 | 32 | 33 | 38 | 41 | 53 | 72 | 117 | 131 | 321 | 676 | 675 => Remedy::Isolate,
        _ => Remedy::Again,
    }
}

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy)]
pub struct BackoffSettings {
    /// The first pause.
    pub first: Duration,
    /// The first pause where the store said that it is too busy.
    pub busy: Duration,
    /// The longest pause, and the one while somebody has to act.
    pub longest: Duration,
}

impl Default for BackoffSettings {
    /// 100 ms, 1 s, 30 s: an outage of minutes costs a dozen attempts, and its end is noticed within half a minute.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            busy: Duration::from_secs(1),
            longest: Duration::from_secs(30),
        }
    }
}

/// Pauses of one piece of work: exponential, between half and all of each step.
#[derive(Debug, Clone)]
pub struct Backoff {
    settings: BackoffSettings,
    attempt: u32,
}

impl Backoff {
    /// No attempt has failed yet.
    pub fn new(settings: BackoffSettings) -> Self {
        Self { settings, attempt: 0 }
    }

    /// How long to wait after another failed attempt.
    pub fn pause(&mut self, remedy: Remedy) -> Duration {
        let first = match remedy {
            Remedy::Slower => self.settings.busy,
            Remedy::Hold => self.settings.longest,
            Remedy::Again | Remedy::Isolate | Remedy::Refuse => self.settings.first,
        };
        let step = first.saturating_mul(1 << self.attempt.min(16)).min(self.settings.longest);
        self.attempt = self.attempt.saturating_add(1);
        step.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    /// Attempts that failed since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// How much work retries may add to that which works: a tenth, and a few on top.
#[derive(Debug)]
pub struct Budget(Mutex<f64>);

impl Budget {
    const MOST: f64 = 10.0;
    const PER_SUCCESS: f64 = 0.1;

    /// A full one.
    pub fn new() -> Self {
        Self(Mutex::new(Self::MOST))
    }

    fn lock(&self) -> MutexGuard<'_, f64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something worked at once.
    pub fn earn(&self) {
        let mut left = self.lock();
        *left = (*left + Self::PER_SUCCESS).min(Self::MOST);
    }

    /// Takes one retry out of it; `false` if there is none left.
    pub fn spend(&self) -> bool {
        let mut left = self.lock();
        let enough = *left >= 1.0;
        if enough {
            *left -= 1.0;
        }
        enough
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

/// Fails fast while a store is down: after some faults in a row it is open; then one attempt at a time goes through.
#[derive(Debug)]
pub struct Breaker {
    after: u32,
    pause: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    faults: u32,
    /// Nobody may ask before this.
    closed_until: Option<Instant>,
}

impl Breaker {
    /// Opens after so many faults in a row, for so long at a time.
    pub fn new(after: u32, pause: Duration) -> Self {
        Self {
            after: after.max(1),
            pause,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store may be asked now. While the breaker is open this is true once in each pause.
    pub fn admits(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        match state.closed_until {
            Some(until) if now < until => false,
            Some(_) => {
                // The one that tries; the others go on failing fast until it has come back.
                state.closed_until = Some(now + self.pause);
                true
            }
            None => true,
        }
    }

    /// The store answered.
    pub fn worked(&self) {
        *self.lock() = BreakerState::default();
    }

    /// The store did not answer.
    pub fn failed(&self) {
        let mut state = self.lock();
        state.faults = state.faults.saturating_add(1);
        if state.faults >= self.after {
            state.closed_until = Some(Instant::now() + self.pause);
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.lock().closed_until.is_some()
    }
}

impl Default for Breaker {
    /// Five faults, one second.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symptom_has_its_remedy() {
        let http = |status, kind| Symptom::Http { status, kind };
        let item = |status, kind| Symptom::Item { status, kind };
        for (symptom, remedy) in [
            (Symptom::Unreachable, Remedy::Again),
            (Symptom::Broken, Remedy::Again),
            (Symptom::Unreadable, Remedy::Again),
            (http(413, ""), Remedy::Isolate),
            (http(429, "rejected_execution_exception"), Remedy::Slower),
            (http(429, "circuit_breaking_exception"), Remedy::Slower),
            (http(503, ""), Remedy::Slower),
            (http(500, ""), Remedy::Again),
            (http(502, ""), Remedy::Again),
            (http(401, "security_exception"), Remedy::Hold),
            (http(403, "cluster_block_exception"), Remedy::Hold),
            (http(400, "illegal_argument_exception"), Remedy::Isolate),
            (item(400, "mapper_parsing_exception"), Remedy::Refuse),
            (item(400, "strict_dynamic_mapping_exception"), Remedy::Hold),
            (item(429, "rejected_execution_exception"), Remedy::Slower),
            (item(429, "cluster_block_exception"), Remedy::Hold),
            (item(403, "cluster_block_exception"), Remedy::Hold),
            (item(404, "index_not_found_exception"), Remedy::Hold),
            (item(503, "unavailable_shards_exception"), Remedy::Slower),
            (item(500, ""), Remedy::Again),
            (Symptom::ClickHouse(252), Remedy::Slower),
            (Symptom::ClickHouse(516), Remedy::Hold),
            (Symptom::ClickHouse(27), Remedy::Isolate),
            (Symptom::ClickHouse(210), Remedy::Again),
            (Symptom::ClickHouse(999), Remedy::Again),
        ] {
            assert_eq!(symptom.remedy(), remedy, "{symptom:?}");
        }
        assert!(Symptom::Unreachable.is_definite() && !Symptom::Broken.is_definite());
        assert!(http(429, "").is_definite() && !http(504, "").is_definite() && !Symptom::ClickHouse(319).is_definite());
    }

    #[test]
    fn pauses_grow_are_jittered_and_bounded() {
        let settings = BackoffSettings::default();
        let mut backoff = Backoff::new(settings);
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.pause(Remedy::Again)).collect();
        for (i, pause) in pauses.iter().enumerate() {
            let step = settings.first.saturating_mul(1 << i.min(16)).min(settings.longest);
            assert!(*pause >= step / 2 && *pause <= step, "{i}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause(Remedy::Slower) >= settings.busy / 2);
        assert!(Backoff::new(settings).pause(Remedy::Hold) >= settings.longest / 2);
        let distinct: std::collections::BTreeSet<Duration> = (0..20).map(|_| Backoff::new(settings).pause(Remedy::Again)).collect();
        assert!(distinct.len() > 10, "processes come back at different times");
    }

    #[test]
    fn retries_are_a_tenth_of_what_works() {
        let budget = Budget::new();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        (0..40).for_each(|_| budget.earn());
        let again = (0..100).filter(|_| budget.spend()).count();
        assert!((3..=4).contains(&again), "{again}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_lets_one_try_in_each_pause() {
        let breaker = Breaker::new(3, Duration::from_secs(1));
        (0..2).for_each(|_| breaker.failed());
        assert!(breaker.admits() && !breaker.is_open());
        breaker.failed();
        assert!(breaker.is_open() && !breaker.admits());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.admits() && !breaker.admits(), "one");
        breaker.failed();
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(!breaker.admits());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(breaker.admits());
        breaker.worked();
        assert!(breaker.admits() && breaker.admits() && !breaker.is_open());
    }
}
