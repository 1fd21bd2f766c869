//! Every metric of the process, and nothing else names one.
//!
//! All handles are registered once, so that counting is an atomic addition. They live as long as the process: counters of
//! a process are one set, also when tests run several servers in it. A tenant is never a label; per-tenant numbers are
//! served by the API.

use crate::{seal::erasure::ErasureKind, sinks::retry::Remedy};
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// From a fast sync (50 µs) to a hopeless one.
const SYNC_SECONDS: &[f64] = &[
    5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2, 2.56e-2, 5.12e-2, 0.1, 0.25, 1.0, 5.0,
];
/// From a cached answer to the deadlines of the contract (10 s, 30 s).
const WAIT_SECONDS: &[f64] = &[
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Powers of four around one request (100 entries) and one full seal.
const ENTRIES: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0];
/// Powers of four from one entry to the largest group or seal.
const BYTES: &[f64] = &[1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// How often [`upkeep`] is due: histograms keep every value until then.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What became of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Made durable.
    Accepted,
    /// Numbered.
    Stored,
    /// Known already.
    Duplicate,
    /// Made dead letters.
    DeadLettered,
    /// Refused with an item error.
    Rejected,
}

/// What became of events of the access logs, which are not among the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessOutcome {
    /// Made durable.
    Accepted,
    /// Numbered.
    Stored,
    /// Made dead letters.
    DeadLettered,
    /// There was no room to keep them; their log tells how many.
    Dropped,
}

/// Where somebody waited for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A pack that is parked because its tenant's lane is full.
    Tenant,
    /// The sequencer, for its window or the store.
    Sequencer,
    /// The follower, for room in the memtable.
    Store,
    /// The follower, for room among the dead letters.
    DeadLetters,
}

/// What happened to messages of a remote queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueEvent {
    /// Taken by the queue.
    Sent,
    /// Not taken, or nobody knows: sent again or given up.
    NotSent,
    /// Received.
    Received,
    /// Of those, not for the first time.
    Redelivered,
    /// Of those, not readable here.
    Unreadable,
    /// Acknowledged.
    Done,
}

/// A kind of request to a remote queue. Each costs money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueCall {
    /// Puts messages in.
    Send,
    /// Asks for messages.
    Receive,
    /// Acknowledges.
    Done,
    /// Holds messages for longer, or gives them back.
    Hold,
}

/// A limit that a request was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Entries a second of a tenant.
    Entries,
    /// Bytes a second of a tenant.
    Bytes,
    /// Entries that a tenant may have.
    Quota,
    /// Failed credentials of an address.
    Unauthenticated,
    /// Failed logins of an address.
    Login,
}

impl Limit {
    const ALL: [Self; 5] = [Self::Entries, Self::Bytes, Self::Quota, Self::Unauthenticated, Self::Login];

    /// Its name, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Bytes => "bytes",
            Self::Quota => "quota",
            Self::Unauthenticated => "unauthenticated",
            Self::Login => "login",
        }
    }
}

/// What became of a message that another producer wrote into a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignOutcome {
    /// All of it was accepted.
    Forwarded,
    /// Some or all of it became dead letters.
    Refused,
    /// It came again and was known.
    Known,
}

/// The handles. Get them by [`metrics()`].
pub struct Metrics {
    entries: [Counter; 5],
    access: [Counter; 4],
    accepted_bytes: Counter,
    wal_sync: Histogram,
    wal_group_bytes: Histogram,
    wal_free: Gauge,
    undecided_bytes: Gauge,
    seal_last: Gauge,
    seal_entries: Histogram,
    seal_bytes: Histogram,
    visible_last: Gauge,
    flushed_last: Gauge,
    visible_lag: Histogram,
    flush: Histogram,
    memtable_bytes: Gauge,
    parts: Gauge,
    store_faults: Counter,
    parts_quarantined: Counter,
    ledger_unreadable: Counter,
    compactions: Counter,
    compaction_bytes: Counter,
    compaction: Histogram,
    restarts: Counter,
    live_tenants: Gauge,
    degraded_tenants: Gauge,
    credit_free: Gauge,
    backpressure: [Histogram; 4],
    feed_sessions: Gauge,
    tasks: Gauge,
    feed_gaps: Counter,
    feed_kicks: Counter,
    erasures: [Counter; 2],
    erased: [Counter; 2],
    http: [Histogram; 5],
    limited: [Counter; 5],
    stream_lag: Gauge,
    /// Lag by stream, milliseconds: the gauge is the largest.
    stream_lags: Mutex<BTreeMap<String, u64>>,
    foreign: [Counter; 3],
    sink_behind: [Gauge; 2],
    view_lag: [Gauge; 2],
    sink_faults: [[Counter; 5]; 2],
    queue_events: [Counter; 6],
    queue_calls: [Counter; 4],
    queue_in_flight: Gauge,
    queue_age: Gauge,
}

static METRICS: LazyLock<(Metrics, PrometheusHandle)> = LazyLock::new(register);

/// The process's metrics.
pub fn metrics() -> &'static Metrics {
    &METRICS.0
}

/// All metrics in the text format of Prometheus.
pub fn render() -> String {
    METRICS.1.render()
}

/// Sums up what histograms have kept; to be called every [`UPKEEP_EVERY`], else they grow.
pub fn upkeep() {
    METRICS.1.run_upkeep();
}

/// Calls [`upkeep`] for ever.
pub async fn keep_up() {
    let mut due = tokio::time::interval(UPKEEP_EVERY);
    loop {
        due.tick().await;
        upkeep();
    }
}

impl Metrics {
    /// Entries that had this outcome.
    pub fn entries(&self, outcome: Outcome, n: u64) {
        self.entries[outcome as usize].increment(n);
    }

    /// Events of access logs that had this outcome.
    pub fn access(&self, outcome: AccessOutcome, n: u64) {
        self.access[outcome as usize].increment(n);
    }

    /// Bytes of packs that were made durable.
    pub fn accepted_bytes(&self, bytes: u64) {
        self.accepted_bytes.increment(bytes);
    }

    /// One group was synced.
    pub fn wal_sync(&self, took: Duration, bytes: u64) {
        self.wal_sync.record(took);
        self.wal_group_bytes.record(bytes as f64);
    }

    /// What an unprivileged writer may still use of the log's volume, bytes.
    pub fn wal_free(&self, bytes: u64) {
        self.wal_free.set(bytes as f64);
    }

    /// Bytes of packs that are durable and not decided.
    pub fn undecided_bytes(&self, bytes: u64) {
        self.undecided_bytes.set(bytes as f64);
    }

    /// Seal n is durable.
    pub fn sealed(&self, n: u64, entries: u64, bytes: u64) {
        self.seal_last.set(n as f64);
        self.seal_entries.record(entries as f64);
        self.seal_bytes.record(bytes as f64);
    }

    /// Seal n is visible; its oldest entry was received this long ago.
    pub fn visible(&self, n: u64, lag: Duration) {
        self.visible_last.set(n as f64);
        self.visible_lag.record(lag);
    }

    /// Everything up to seal n is in parts.
    pub fn flushed(&self, n: u64, took: Duration) {
        self.flushed_last.set(n as f64);
        self.flush.record(took);
    }

    /// So many parts answer.
    pub fn parts(&self, n: usize) {
        self.parts.set(n as f64);
    }

    /// A part was found damaged and is left out of the answers.
    pub fn part_quarantined(&self) {
        self.parts_quarantined.increment(1);
    }

    /// A row that an id was looked up for could not be read.
    pub fn ledger_unreadable(&self) {
        self.ledger_unreadable.increment(1);
    }

    /// Parts were merged, or rewritten without erased rows: the bytes written, and the time it took.
    pub fn compacted(&self, bytes: u64, took: Duration) {
        self.compactions.increment(1);
        self.compaction_bytes.increment(bytes);
        self.compaction.record(took);
    }

    /// Bytes of entries that are not in parts yet.
    pub fn memtable_bytes(&self, bytes: u64) {
        self.memtable_bytes.set(bytes as f64);
    }

    /// The store failed at something, and it is tried again.
    pub fn store_fault(&self) {
        self.store_faults.increment(1);
    }

    /// How often supervised actors were started again, in all.
    pub fn restarts(&self, n: u64) {
        self.restarts.absolute(n);
    }

    /// Tenants that have an actor, and those among them that crash again and again.
    pub fn tenants(&self, live: usize, degraded: usize) {
        self.live_tenants.set(live as f64);
        self.degraded_tenants.set(degraded as f64);
    }

    /// Bytes that are free in the memory budget of the actors.
    pub fn credit_free(&self, bytes: u64) {
        self.credit_free.set(bytes as f64);
    }

    /// Somebody waited for room.
    pub fn backpressure(&self, lane: Lane, waited: Duration) {
        self.backpressure[lane as usize].record(waited);
    }

    /// Tasks of the runtime that have not ended.
    pub fn tasks(&self, n: usize) {
        self.tasks.set(n as f64);
    }

    /// Live-feed sessions that are open.
    pub fn feed_sessions(&self, n: usize) {
        self.feed_sessions.set(n as f64);
    }

    /// A slow reader was told of a gap.
    pub fn feed_gap(&self) {
        self.feed_gaps.increment(1);
    }

    /// A slow reader was sent away.
    pub fn feed_kick(&self) {
        self.feed_kicks.increment(1);
    }

    /// An erasure was sealed, applied and counted.
    pub fn erased(&self, kind: ErasureKind, rows: u64) {
        let at = match kind {
            ErasureKind::Cleanup => 0,
            ErasureKind::Retention => 1,
        };
        self.erasures[at].increment(1);
        self.erased[at].increment(rows);
    }

    /// How many seals a store is behind.
    pub fn sink_behind(&self, sink: &str, seals: u64) {
        self.sink_behind[sink_index(sink)].set(seals as f64);
    }

    /// How long the oldest seal waits that a store does not show, as this process sees it.
    pub fn view_lag(&self, sink: &str, lag: Duration) {
        self.view_lag[sink_index(sink)].set(lag.as_secs_f64());
    }

    /// A store met a fault, and what is done about it.
    pub fn sink_fault(&self, sink: &str, remedy: Remedy) {
        self.sink_faults[sink_index(sink)][remedy as usize].increment(1);
    }

    /// Something happened to messages of a remote queue.
    pub fn queue_events(&self, event: QueueEvent, messages: u64) {
        self.queue_events[event as usize].increment(messages);
    }

    /// A request to a remote queue is made.
    pub fn queue_call(&self, call: QueueCall) {
        self.queue_calls[call as usize].increment(1);
    }

    /// The bytes of messages that are received and not done changed by so many.
    pub fn queue_in_flight(&self, change: f64) {
        self.queue_in_flight.increment(change);
    }

    /// The oldest message of a reception was in the queue for so long.
    pub fn queue_age(&self, age: Duration) {
        self.queue_age.set(age.as_secs_f64());
    }

    /// A request was refused because of this limit.
    pub fn limited(&self, limit: Limit) {
        self.limited[limit as usize].increment(1);
    }

    /// So far is what this process has decided of a stream behind what stands in it.
    pub fn stream_lag(&self, stream: &str, lag: Duration) {
        let mut lags = self.stream_lags.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
        match lags.get_mut(stream) {
            Some(known) => *known = ms,
            None => {
                lags.insert(stream.to_owned(), ms);
            }
        }
        self.stream_lag.set(lags.values().max().map_or(0.0, |ms| *ms as f64 / 1000.0));
    }

    /// A message of a foreign queue had this outcome.
    pub fn foreign(&self, outcome: ForeignOutcome, n: u64) {
        self.foreign[outcome as usize].increment(n);
    }

    /// A request was answered with this status.
    pub fn http(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.http[class].record(took);
    }
}

/// Measures from here to its drop.
#[must_use]
pub struct Waiting {
    lane: Lane,
    since: Instant,
}

impl Waiting {
    /// Somebody begins to wait.
    pub fn begin(lane: Lane) -> Self {
        Self { lane, since: Instant::now() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics().backpressure(self.lane, self.since.elapsed());
    }
}

/// Stores of their own that follow the seals.
const SINKS: [&str; 2] = ["analytics", "search"];

fn sink_index(sink: &str) -> usize {
    usize::from(sink == SINKS[1])
}

fn register() -> (Metrics, PrometheusHandle) {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in HISTOGRAMS {
        let matcher = Matcher::Full((*name).to_owned());
        builder = builder.set_buckets_for_metric(matcher, buckets).expect("every histogram has buckets");
    }
    let recorder = builder.build_recorder();
    let metrics = with_local_recorder(&recorder, || {
        describe();
        Metrics {
            entries: ["accepted", "stored", "duplicate", "dead_lettered", "rejected"].map(|outcome| counter!("sluice_entries_total", "outcome" => outcome)),
            access: ["accepted", "stored", "dead_lettered", "dropped"].map(|outcome| counter!("sluice_access_entries_total", "outcome" => outcome)),
            accepted_bytes: counter!("sluice_accepted_bytes_total"),
            wal_sync: histogram!("sluice_wal_sync_seconds"),
            wal_group_bytes: histogram!("sluice_wal_group_bytes"),
            wal_free: gauge!("sluice_wal_free_bytes"),
            undecided_bytes: gauge!("sluice_undecided_bytes"),
            seal_last: gauge!("sluice_seal_last"),
            seal_entries: histogram!("sluice_seal_entries"),
            seal_bytes: histogram!("sluice_seal_bytes"),
            visible_last: gauge!("sluice_visible_last"),
            flushed_last: gauge!("sluice_flushed_last"),
            visible_lag: histogram!("sluice_visible_lag_seconds"),
            flush: histogram!("sluice_flush_seconds"),
            memtable_bytes: gauge!("sluice_memtable_bytes"),
            parts: gauge!("sluice_parts"),
            store_faults: counter!("sluice_store_faults_total"),
            parts_quarantined: counter!("sluice_store_parts_quarantined_total"),
            ledger_unreadable: counter!("sluice_ledger_unreadable_rows_total"),
            compactions: counter!("sluice_store_compactions_total"),
            compaction_bytes: counter!("sluice_store_compaction_bytes_total"),
            compaction: histogram!("sluice_store_compaction_seconds"),
            restarts: counter!("sluice_restarts_total"),
            live_tenants: gauge!("sluice_live_tenants"),
            degraded_tenants: gauge!("sluice_degraded_tenants"),
            credit_free: gauge!("sluice_credit_free_bytes"),
            backpressure: ["tenant", "sequencer", "store", "dead_letters"].map(|lane| histogram!("sluice_backpressure_seconds", "lane" => lane)),
            feed_sessions: gauge!("sluice_feed_sessions"),
            tasks: gauge!("sluice_tasks"),
            feed_gaps: counter!("sluice_feed_gaps_total"),
            feed_kicks: counter!("sluice_feed_kicks_total"),
            erasures: ["cleanup", "retention"].map(|kind| counter!("sluice_erasures_total", "kind" => kind)),
            erased: ["cleanup", "retention"].map(|kind| counter!("sluice_erased_rows_total", "kind" => kind)),
            http: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|status| histogram!("sluice_http_request_seconds", "status" => status)),
            stream_lag: gauge!("sluice_stream_lag_seconds"),
            stream_lags: Mutex::default(),
            foreign: ["forwarded", "refused", "known"].map(|outcome| counter!("sluice_foreign_messages_total", "outcome" => outcome)),
            limited: Limit::ALL.map(|limit| counter!("sluice_http_limited_total", "limit" => limit.as_str())),
            sink_behind: SINKS.map(|sink| gauge!("sluice_sink_behind_seals", "sink" => sink)),
            view_lag: SINKS.map(|sink| gauge!("sluice_view_lag_seconds", "sink" => sink)),
            sink_faults: SINKS.map(|sink| Remedy::ALL.map(|fault| counter!("sluice_sink_faults_total", "sink" => sink, "fault" => fault.as_str()))),
            queue_events: ["sent", "not_sent", "received", "redelivered", "unreadable", "done"]
                .map(|event| counter!("sluice_queue_messages_total", "event" => event)),
            queue_calls: ["send", "receive", "done", "hold"].map(|call| counter!("sluice_queue_requests_total", "call" => call)),
            queue_in_flight: gauge!("sluice_queue_in_flight_bytes"),
            queue_age: gauge!("sluice_queue_age_seconds"),
        }
    });
    (metrics, recorder.handle())
}

/// Without buckets of its own a histogram would become a summary, which cannot be added up over processes.
const HISTOGRAMS: &[(&str, &[f64])] = &[
    ("sluice_wal_sync_seconds", SYNC_SECONDS),
    ("sluice_wal_group_bytes", BYTES),
    ("sluice_seal_entries", ENTRIES),
    ("sluice_seal_bytes", BYTES),
    ("sluice_visible_lag_seconds", WAIT_SECONDS),
    ("sluice_flush_seconds", WAIT_SECONDS),
    ("sluice_store_compaction_seconds", WAIT_SECONDS),
    ("sluice_backpressure_seconds", WAIT_SECONDS),
    ("sluice_http_request_seconds", WAIT_SECONDS),
];

fn describe() {
    describe_counter!("sluice_entries_total", "Entries by what became of them.");
    describe_counter!(
        "sluice_access_entries_total",
        "Entries of the access logs by what became of them; they are not among the entries."
    );
    describe_counter!("sluice_accepted_bytes_total", Unit::Bytes, "Bytes of packs that were made durable.");
    describe_histogram!("sluice_wal_sync_seconds", Unit::Seconds, "Time of one sync of the log.");
    describe_histogram!("sluice_wal_group_bytes", Unit::Bytes, "Bytes that one sync of the log made durable.");
    describe_gauge!("sluice_wal_free_bytes", Unit::Bytes, "Free space on the volume of the log.");
    describe_gauge!("sluice_undecided_bytes", Unit::Bytes, "Bytes of packs that are durable and not decided yet.");
    describe_gauge!("sluice_seal_last", "Number of the last durable seal.");
    describe_histogram!("sluice_seal_entries", "Entries that one seal decides.");
    describe_histogram!("sluice_seal_bytes", Unit::Bytes, "Bytes of the packs that one seal decides.");
    describe_gauge!("sluice_visible_last", "Number of the last seal that readers see.");
    describe_gauge!("sluice_flushed_last", "Number of the last seal that is in parts.");
    describe_histogram!(
        "sluice_visible_lag_seconds",
        Unit::Seconds,
        "Time from the acceptance of entries until readers see them."
    );
    describe_histogram!("sluice_flush_seconds", Unit::Seconds, "Time of one flush to parts.");
    describe_gauge!("sluice_memtable_bytes", Unit::Bytes, "Bytes of entries that are not in parts yet.");
    describe_gauge!("sluice_parts", "Parts that are live.");
    describe_counter!("sluice_store_faults_total", "Failures of the store that are tried again.");
    describe_counter!(
        "sluice_store_parts_quarantined_total",
        "Parts that were found damaged and are left out of the answers."
    );
    describe_counter!(
        "sluice_ledger_unreadable_rows_total",
        "Rows that an id was looked up for and that could not be read."
    );
    describe_counter!("sluice_store_compactions_total", "Merges and rewrites of parts.");
    describe_counter!(
        "sluice_store_compaction_bytes_total",
        Unit::Bytes,
        "Bytes that merges and rewrites have written."
    );
    describe_histogram!(
        "sluice_store_compaction_seconds",
        Unit::Seconds,
        "Time of one merge or rewrite, its pauses included."
    );
    describe_counter!("sluice_restarts_total", "Restarts of supervised actors.");
    describe_gauge!("sluice_live_tenants", "Tenants that have an actor.");
    describe_gauge!("sluice_degraded_tenants", "Tenants whose actor crashes again and again.");
    describe_gauge!("sluice_credit_free_bytes", Unit::Bytes, "Free memory in the budget of the actors.");
    describe_histogram!("sluice_backpressure_seconds", Unit::Seconds, "Time that somebody waited for room, by where.");
    describe_gauge!("sluice_feed_sessions", "Open sessions of the live feed.");
    describe_gauge!("sluice_tasks", "Tasks of the runtime that have not ended.");
    describe_counter!("sluice_feed_gaps_total", "Gaps that slow readers of the live feed were told of.");
    describe_counter!("sluice_feed_kicks_total", "Slow readers of the live feed that were sent away.");
    describe_counter!("sluice_erasures_total", "Erasures that were applied and counted, by kind.");
    describe_counter!("sluice_erased_rows_total", "Rows that erasures have removed, by kind.");
    describe_counter!("sluice_queue_messages_total", "Messages of a remote queue, by what happened to them.");
    describe_counter!("sluice_queue_requests_total", "Requests to a remote queue, by kind; each costs money.");
    describe_gauge!("sluice_queue_in_flight_bytes", Unit::Bytes, "Bytes of messages that are received and not done.");
    describe_gauge!(
        "sluice_queue_age_seconds",
        Unit::Seconds,
        "How long the oldest message last received was in the queue."
    );
    describe_counter!("sluice_http_limited_total", "Requests that were refused because of a limit, by which.");
    describe_gauge!(
        "sluice_stream_lag_seconds",
        Unit::Seconds,
        "Age of the oldest record of a Kinesis stream that is not decided, of all streams that this process reads."
    );
    describe_counter!("sluice_foreign_messages_total", "Messages of foreign queues by what became of them.");
    describe_gauge!("sluice_sink_behind_seals", "Seals that a store of its own has not applied yet.");
    describe_gauge!(
        "sluice_view_lag_seconds",
        Unit::Seconds,
        "How long the oldest seal waits that a store does not show, as this process sees it."
    );
    describe_counter!("sluice_sink_faults_total", "Faults of stores of their own, by what is done about them.");
    describe_histogram!("sluice_http_request_seconds", Unit::Seconds, "Time of a request, by class of the answer.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_there_from_the_start_described_and_in_buckets() {
        metrics().entries(Outcome::Rejected, 3);
        metrics().wal_sync(Duration::from_micros(150), 4096);
        metrics().http(207, Duration::from_millis(3));
        drop(Waiting::begin(Lane::Store));
        upkeep();
        let text = render();
        let contract = [
            "sluice_entries_total{outcome=\"accepted\"}",
            "sluice_entries_total{outcome=\"stored\"}",
            "sluice_entries_total{outcome=\"duplicate\"}",
            "sluice_entries_total{outcome=\"dead_lettered\"}",
            "sluice_entries_total{outcome=\"rejected\"}",
            "sluice_visible_lag_seconds",
            "sluice_wal_sync_seconds",
            "sluice_seal_last",
            "sluice_restarts_total",
            "sluice_live_tenants",
            "sluice_feed_sessions",
        ];
        for name in contract {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).expect("a name");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} is described");
            assert!(!line.ends_with("summary"), "{line}");
        }
        // Other tests of this process may have been counted too.
        let counted = text
            .lines()
            .find_map(|line| line.strip_prefix("sluice_http_request_seconds_bucket{status=\"2xx\",le=\"0.005\"} "));
        assert!(counted.and_then(|n| n.parse::<u64>().ok()) >= Some(1), "{text}");
    }
}
