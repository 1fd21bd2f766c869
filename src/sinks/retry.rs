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
//! Beside the remedy stands whether the write may have taken effect ([`Symptom::is_definite`]): one that may have is looked for before it is sent
//! again, where sending twice would store twice.
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
    /// The store, or what is asked of it, is not as this binary knows it.
    Foreign,
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
            Self::Foreign => Remedy::Hold,
            Self::Http { status, kind } => of_request(status, kind),
            Self::Item { status, kind } => of_item(status, kind),
            Self::ClickHouse(code) => of_clickhouse(code).0,
        }
    }

    /// Whether it is certain that nothing took effect. What is not known is in doubt.
    pub fn is_definite(self) -> bool {
        match self {
            Self::Unreachable => true,
            Self::Broken | Self::Unreadable | Self::Foreign => false,
            // 408: what stands between gave up waiting.
            Self::Http { status, .. } | Self::Item { status, .. } => (400..500).contains(&status) && status != 408,
            Self::ClickHouse(code) => of_clickhouse(code).1 == Effect::None,
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
        429 | 503 => Remedy::Slower,
        408 | 409 | 425 | 500..=599 => Remedy::Again,
        401 | 403 | 404 | 405 | 407 => Remedy::Hold,
        // Too large (413), or it does not parse as a whole: with one row left it is that row's fault.
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

/// Whether what was refused may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Refused before anything is written.
    None,
    /// Nobody knows.
    Unknown,
}

/// Exceptions of ClickHouse that mean something: their numbers and names, what is done about them, and whether they come before a part is
/// committed. A seal is one block, so that what cannot be read of it, or not be stored, leaves nothing. Every other number is asked again
/// and in doubt, also one that a later server invents.
pub(crate) const CLICKHOUSE: [(i32, &str, Remedy, Effect); 38] = [
    // Too busy.
    (202, "TOO_MANY_SIMULTANEOUS_QUERIES", Remedy::Slower, Effect::None),
    (252, "TOO_MANY_PARTS", Remedy::Slower, Effect::None),
    (160, "TOO_SLOW", Remedy::Slower, Effect::Unknown),
    (241, "MEMORY_LIMIT_EXCEEDED", Remedy::Slower, Effect::Unknown),
    (439, "CANNOT_SCHEDULE_TASK", Remedy::Slower, Effect::Unknown),
    // Full or read-only.
    (164, "READONLY", Remedy::Hold, Effect::None),
    (242, "TABLE_IS_READ_ONLY", Remedy::Hold, Effect::None),
    (774, "TABLE_IS_PERMANENTLY_READ_ONLY", Remedy::Hold, Effect::None),
    (243, "NOT_ENOUGH_SPACE", Remedy::Hold, Effect::None),
    (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR", Remedy::Hold, Effect::Unknown),
    // Credentials and rights.
    (192, "UNKNOWN_USER", Remedy::Hold, Effect::None),
    (193, "WRONG_PASSWORD", Remedy::Hold, Effect::None),
    (194, "REQUIRED_PASSWORD", Remedy::Hold, Effect::None),
    (195, "IP_ADDRESS_NOT_ALLOWED", Remedy::Hold, Effect::None),
    (291, "DATABASE_ACCESS_DENIED", Remedy::Hold, Effect::None),
    (497, "ACCESS_DENIED", Remedy::Hold, Effect::None),
    (516, "AUTHENTICATION_FAILED", Remedy::Hold, Effect::None),
    // A foreign schema, or a server that does not understand.
    (16, "NO_SUCH_COLUMN_IN_TABLE", Remedy::Hold, Effect::None),
    (36, "BAD_ARGUMENTS", Remedy::Hold, Effect::None),
    (43, "ILLEGAL_TYPE_OF_ARGUMENT", Remedy::Hold, Effect::None),
    (46, "UNKNOWN_FUNCTION", Remedy::Hold, Effect::None),
    (47, "UNKNOWN_IDENTIFIER", Remedy::Hold, Effect::None),
    (60, "UNKNOWN_TABLE", Remedy::Hold, Effect::None),
    (62, "SYNTAX_ERROR", Remedy::Hold, Effect::None),
    (81, "UNKNOWN_DATABASE", Remedy::Hold, Effect::None),
    (115, "UNKNOWN_SETTING", Remedy::Hold, Effect::None),
    (452, "SETTING_CONSTRAINT_VIOLATION", Remedy::Hold, Effect::None),
    (457, "BAD_QUERY_PARAMETER", Remedy::Hold, Effect::None),
    // What cannot be read as the column that it is for.
    (6, "CANNOT_PARSE_TEXT", Remedy::Hold, Effect::None),
    (26, "CANNOT_PARSE_QUOTED_STRING", Remedy::Hold, Effect::None),
    (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", Remedy::Hold, Effect::None),
    (53, "TYPE_MISMATCH", Remedy::Hold, Effect::None),
    (70, "CANNOT_CONVERT_TYPE", Remedy::Hold, Effect::None),
    (72, "CANNOT_PARSE_NUMBER", Remedy::Hold, Effect::None),
    (117, "INCORRECT_DATA", Remedy::Hold, Effect::None),
    (131, "TOO_LARGE_STRING_SIZE", Remedy::Hold, Effect::None),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", Remedy::Hold, Effect::None),
    // The answer to a new insert is lost in the cluster itself.
    (319, "UNKNOWN_STATUS_OF_INSERT", Remedy::Again, Effect::Unknown),
];

fn of_clickhouse(code: i32) -> (Remedy, Effect) {
    let known = CLICKHOUSE.iter().find(|(number, ..)| *number == code);
    known.map_or((Remedy::Again, Effect::Unknown), |(_, _, remedy, effect)| (*remedy, *effect))
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
            (Symptom::Foreign, Remedy::Hold),
            (Symptom::ClickHouse(252), Remedy::Slower),
            (Symptom::ClickHouse(516), Remedy::Hold),
            (Symptom::ClickHouse(27), Remedy::Hold),
            (Symptom::ClickHouse(774), Remedy::Hold),
            (Symptom::ClickHouse(210), Remedy::Again),
            (Symptom::ClickHouse(999), Remedy::Again),
        ] {
            assert_eq!(symptom.remedy(), remedy, "{symptom:?}");
        }
    }

    #[test]
    fn what_is_not_known_to_have_done_nothing_is_in_doubt() {
        let http = |status| Symptom::Http { status, kind: "" };
        let item = |status| Symptom::Item { status, kind: "" };
        for definite in [
            Symptom::Unreachable,
            http(429),
            http(413),
            item(400),
            Symptom::ClickHouse(252),
            Symptom::ClickHouse(243),
        ] {
            assert!(definite.is_definite(), "{definite:?}");
        }
        for doubtful in [
            Symptom::Broken,
            Symptom::Unreadable,
            Symptom::Foreign,
            http(504),
            http(408),
            http(302),
            item(503),
        ] {
            assert!(!doubtful.is_definite(), "{doubtful:?}");
        }
        // Time-outs, a lost keeper, an unknown status, a cancelled query, no memory for the rest, and numbers that nobody knows yet.
        for code in [159, 209, 210, 241, 319, 394, 439, 999, 1000, 1001, 1002, 12_345, -1] {
            assert!(!Symptom::ClickHouse(code).is_definite(), "{code}");
        }
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
