//! Stores: replayable followers of the seals, and the contract that each of them keeps.

#[cfg(feature = "clickhouse")]
pub mod clickhouse;
#[cfg(test)]
pub(crate) mod contract;
pub mod dead_letter;
pub mod embedded;
pub mod follow;
#[cfg(feature = "opensearch")]
pub mod opensearch;
pub mod retry;
pub mod routed;

use crate::{
    model::{
        calendar::Interval,
        entry::{ContentHash, Field, StoredEntry},
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    seal::{DecidedSeal, erasure::ErasureKind},
    sinks::retry::Remedy,
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// Why a store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Reads are not possible yet: the store is still being rebuilt from the log (503).
    #[error("the store is still starting")]
    Starting,
    /// This process has not been able to look at the seals lately, so that it does not know what was erased meanwhile (503).
    #[error("the seals could not be read lately")]
    Behind,
    /// The query ran past its deadline and was ended (504 `query_timeout`).
    #[error("the query ran past its deadline")]
    Deadline,
    /// Too many queries at once (503).
    #[error("too many queries at once")]
    Busy,
    /// The counts by key would take more memory than a query may have (422 `too_many_groups`).
    #[error("too many distinct values to count by")]
    TooManyGroups,
    /// The series would have more than [`MOST_BUCKETS`] (422 `too_many_buckets`).
    #[error("too many buckets")]
    TooManyBuckets {
        /// How long the time is that it covers, milliseconds, at the most.
        span: i64,
    },
    /// Data that the store should have cannot be read. The text names the part, never a tenant.
    #[error("the store cannot read its data: {0}")]
    Damaged(Arc<str>),
    /// A part cannot be read: the store leaves it out of its answers and asks again, so that callers do not meet this.
    #[error("the store cannot read its data: {what}")]
    BadPart {
        /// The part's name.
        part: Arc<str>,
        /// What is wrong with it.
        what: Arc<str>,
    },
    /// The file system refused (full, read-only, gone).
    #[error("the store cannot write: {0}")]
    Io(Arc<str>),
    /// A store of its own did not answer, or does not do what it was asked (503). The text names the fault, never a tenant.
    #[error("the store is not available: {what}")]
    Unavailable {
        /// What is wrong with it.
        what: Arc<str>,
        /// What is done about it.
        remedy: Remedy,
    },
}

impl StoreError {
    /// What is done about it by those who ask again.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable { remedy, .. } => *remedy,
            Self::Busy => Remedy::Slower,
            _ => Remedy::Again,
        }
    }
}

/// Order of a list. Ties break by sequence in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// Newest event time first (the default).
    #[default]
    TimestampDesc,
    /// Oldest event time first.
    TimestampAsc,
    /// Largest number first.
    SequenceDesc,
    /// Smallest number first.
    SequenceAsc,
}

/// Where a row stands in every order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its event time, milliseconds. Of no account where the order is by sequence.
    pub timestamp: i64,
    /// Its number.
    pub sequence: u64,
}

/// Whether the matches of a list are counted. What is counted is all of them, wherever the page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Not at all.
    #[default]
    None,
    /// All of them.
    Exact,
    /// Until so many are known beyond the page, or the query has taken so long; the page itself is always complete.
    Bounded {
        /// Matches past the page.
        beyond: u64,
        /// Time since the query's turn began.
        within: Duration,
    },
}

/// One page of a list. Pages that follow each other by `after` under one `upto` show every row once that was there at
/// `upto` and still is, whatever is written meanwhile.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Which entries.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// How many to pass over.
    pub skip: usize,
    /// How many to return at most.
    pub limit: usize,
    /// Whether to count all matches.
    pub count: Count,
    /// Only what comes after this place in the order.
    pub after: Option<Place>,
    /// Only numbers up to this one: `as_of` of the first page.
    pub upto: Option<u64>,
    /// The page ends early when its records would take more bytes than this; it has at least one entry if there is one.
    pub max_bytes: usize,
    /// The page may end early, even empty, when matches are rare and time runs out: [`ListPage::reached`] says where.
    pub may_pause: bool,
}

impl Default for ListQuery {
    /// The newest fifty, of any size, not counted.
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            sort: Sort::default(),
            skip: 0,
            limit: 50,
            count: Count::None,
            after: None,
            upto: None,
            max_bytes: usize::MAX,
            may_pause: false,
        }
    }
}

/// The answer to a [`ListQuery`].
#[derive(Clone)]
pub struct ListPage {
    /// The entries of the page, in order.
    pub entries: Vec<StoredEntry>,
    /// The number of matches, if it was asked for; a lower bound unless it is exact.
    pub total: Option<u64>,
    /// Whether `total` is there and counts every match.
    pub total_is_exact: bool,
    /// The tenant's largest visible number when the view was taken, or `upto` if that is smaller.
    pub as_of: u64,
    /// There is at least one more match behind the page.
    pub more: bool,
    /// The search paused: there is no match between the last entry and this place, and what comes after it was not looked at.
    /// `more` is true then.
    pub reached: Option<Place>,
}

/// Buckets that a series has at the most.
pub const MOST_BUCKETS: usize = 10_000;

/// What entries are counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupKey {
    /// The text of a field, as sent; an address in its usual form.
    Field(Field),
    /// The name of the severity.
    Severity,
    /// The texts of the leaves of `metadata` at this path, as [`LeafFilter`](crate::model::filter::LeafFilter) compares
    /// them. An entry that has several leaves there (in arrays) counts once for each distinct text.
    Leaf(Vec<String>),
}

/// Counts by the combinations of some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupBy {
    /// At least one.
    pub keys: Vec<GroupKey>,
    /// How many groups to return, the largest first.
    pub limit: usize,
}

/// What to count besides the totals.
#[derive(Debug, Clone, Default)]
pub struct StatsQuery {
    /// Which entries.
    pub filter: Filter,
    /// Counts by time: from the filter's `from` to its `to`, or from the first to the last entry.
    pub series: Option<Interval>,
    /// Counts by fields.
    pub groups: Option<GroupBy>,
}

/// What lies between two edges of an [`Interval`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Where it begins, milliseconds.
    pub start: i64,
    /// Entries by severity, indexed by `Severity as usize`.
    pub by_severity: [u64; 4],
}

/// The entries that have one combination of values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The values in the order of [`GroupBy::keys`]; `None`: the entries do not have the field.
    pub key: Vec<Option<String>>,
    /// Number of entries.
    pub count: u64,
    /// Number of distinct `user_id` among them.
    pub unique_users: u64,
    /// Smallest event time, milliseconds.
    pub first: i64,
    /// Largest event time, milliseconds.
    pub last: i64,
}

/// The answer to a [`StatsQuery`]; maps are sorted largest first, ties by key, at most 100 keys, rest in `other`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of matches.
    pub total: u64,
    /// By severity, indexed by `Severity as usize`.
    pub by_severity: [u64; 4],
    /// By action as sent, and the sum of those that are not among the 100 largest.
    pub by_action: (Vec<(String, u64)>, u64),
    /// By resource type as sent, likewise.
    pub by_resource_type: (Vec<(String, u64)>, u64),
    /// The ten users with the most entries, ties by id.
    pub top_users: Vec<(String, u64)>,
    /// Number of distinct `user_id`.
    pub unique_users: u64,
    /// Smallest event time, milliseconds.
    pub first: Option<i64>,
    /// Largest event time, milliseconds.
    pub last: Option<i64>,
    /// Every bucket from the first to the last, empty ones included, if a series was asked for.
    pub series: Option<Vec<Bucket>>,
    /// The largest groups, ties by key (absent before any text), if groups were asked for.
    pub groups: Option<Vec<Group>>,
    /// A `unique_users` of it is an estimate. A store may do that above 100,000 only.
    pub approximate: bool,
}

/// Entries and voids in sequence order, for readers that follow the log.
#[derive(Clone, Default)]
pub struct Scan {
    /// Matching entries with `after < sequence`, ascending, at most `limit`.
    pub entries: Vec<StoredEntry>,
    /// Ranges of numbers (inclusive) inside the scanned span that have no entry: never given to one, or erased. Ascending, joined.
    pub voids: Vec<(u64, u64)>,
    /// The scan looked at every number up to here; go on after it. Equal to the tenant's visible head when it is done.
    pub upto: u64,
}

/// The state of a tenant as a store shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VisibleHead {
    /// The tenant's largest number that is visible.
    pub head: u64,
}

/// What must be said beside the answers of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Condition {
    /// Rows that it should have are left out, because they cannot be read, or because it did not take them.
    pub lacks_rows: bool,
    /// How long the oldest seal waits that it does not show. What it answers is whole all the same, as of its own place in the log.
    pub lag: Duration,
}

impl Condition {
    /// An answer says so when its store is further behind than this.
    const LATE: Duration = Duration::from_secs(5);

    /// Of a store that has every row, milliseconds late.
    pub fn late(lag_ms: u64) -> Self {
        Self {
            lacks_rows: false,
            lag: Duration::from_millis(lag_ms),
        }
    }

    /// What `meta.degraded` says.
    pub fn is_degraded(&self) -> bool {
        self.lacks_rows || self.lag > Self::LATE
    }
}

/// The store that answers get, list, statistics and duplicate look-ups. Where a filter has a mask, lists, scans and statistics
/// are of the masked records, and these are what they give; [`Authority::get`] gives the entry as it is. Methods that return a
/// future may be called from
/// any task; dropping the future abandons the read.
pub trait Authority: Send + Sync + 'static {
    /// One entry by id.
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>>;
    /// One page of entries.
    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>>;
    /// Counts over all matches.
    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>>;
    /// Matching entries after a number, in sequence order.
    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>>;
    /// How many rows the pending erasure `job` removed: those that it covers and that nothing before it did
    /// ([`Erasures::counted_by`](crate::seal::erasure::Erasures::counted_by)). The erasure must be visible; 0 when it is not pending.
    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>>;
    /// How many rows an erasure would remove if it were made now.
    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>>;
    /// The tenant's visible head. Where other processes make the seals it may be a little old; see [`Authority::refreshed`].
    fn visible_head(&self, scope: &TenantScope) -> VisibleHead;
    /// Resolves when [`Authority::visible_head`] is no older than this call: whatever anybody was shown before is below it.
    fn refreshed(&self, _scope: &TenantScope) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// What must be said beside lists and statistics; `searched`: those whose filter has `search`, which another store may answer. Asked
    /// after an answer, it holds for that answer.
    fn condition(&self, searched: bool) -> Condition;
    /// The largest seal that is visible to readers.
    fn visible(&self) -> watch::Receiver<u64>;
}

/// The side of the authority that the sequencer and its follower use. These methods block and are called from their own
/// threads only.
pub trait SealFollower: Send + Sync + 'static {
    /// Applies seal n, which follows the last one applied; applying it again is harmless. Blocks while there is no room.
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError>;
    /// The content hash of each id's row, if the tenant has one (ledger: memtable and parts). Blocks on page faults.
    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError>;
    /// Which of these packs a seal decided, as far as the authority keeps their names (at least the queue's retention + 1 day).
    /// Only asked of packs that came before the sequencer's own memory begins; a log that delivers from one memory asks nothing.
    fn lookup_packs(&self, packs: &[Uuid]) -> Result<Vec<bool>, StoreError> {
        Ok(vec![false; packs.len()])
    }
    /// The largest seal covered by the manifest before the newest one: the log may be trimmed up to it.
    fn trimmable(&self) -> watch::Receiver<u64>;
}

/// The store that answers everything with `search`, where that is not the authority: it follows the seals behind the authority,
/// at its own pace. It keeps the rules of [`Authority`], as of its own cursor.
pub trait SearchStore: Send + Sync + 'static {
    /// One page of entries.
    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>>;
    /// Counts over all matches.
    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>>;
    /// Matching entries after a number, in sequence order.
    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>>;
    /// See [`Authority::condition`].
    fn condition(&self) -> Condition;
}

/// A store that follows the seals by reading them back, beside the authority.
pub trait Follower: Send + Sync + 'static {
    /// Its name in cursors, metrics and health: `search`.
    fn name(&self) -> &'static str;
    /// Applies a seal of a partition; resolves when its rows are **readable**. Seals of a partition come in order; applying one
    /// again is harmless. An error means that it must be asked again; what the store refuses for good it takes as an index
    /// dead letter and says `Ok`.
    fn apply(&self, partition: u32, seal: Arc<DecidedSeal>) -> BoxFuture<'static, Result<(), StoreError>>;
    /// Applies several that follow each other, as [`Follower::apply`] does one by one. Cheaper where a store has a price per call.
    fn apply_all(&self, partition: u32, seals: Vec<Arc<DecidedSeal>>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            for seal in seals {
                self.apply(partition, seal).await?;
            }
            Ok(())
        })
    }
    /// Where the store really is, asked before the first seal and after faults: `kept`, the cursor that is kept elsewhere, or less if the
    /// store was lost or restored and says so itself. What lies between is applied again.
    fn applied(&self, partition: u32, kept: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        let _ = partition;
        Box::pin(std::future::ready(Ok(kept)))
    }
    /// The store was filled from the authority: it has everything up to seal `n` of the partition.
    fn rebuilt(&self, partition: u32, n: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = (partition, n);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Takes the dead letters of durable seals.
pub trait DeadLetterSink: Send + Sync + 'static {
    /// Writes the dead letters of `seal`, soon and in the background; blocks only for room in memory. Submitting a seal
    /// again is harmless.
    fn submit(&self, seal: &Arc<DecidedSeal>);
}
