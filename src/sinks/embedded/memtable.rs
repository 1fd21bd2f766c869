//! The rows of the seals that no part holds yet: one table per tenant, visible as soon as a seal is applied.
//!
//! Nothing of a payload is copied: a row is a reference into the pack that was made durable. Rows are appended in sequence
//! order to chunks of 1,024; a full chunk is sorted by (timestamp, sequence) into a *run* with its ranges and its counts by
//! severity; eight runs are merged into one of 8,192, the size of a block of a part. So a query touches its own tenant's
//! rows only, and prunes what it touches. The second query that looks through a merged run for words or values gives it the
//! filter that a block has, for those that follow: it costs about four times what looking through the run costs, which is
//! wasted on a run that nobody asks again.
//!
//! A table changes under its own lock, once per seal, and a reader copies out an immutable [`TableView`] (references to
//! chunks and runs, and the rows of the last, incomplete chunk). Applies go one seal at a time, and a table remembers its
//! head before the last seal that touched it; so a reader that finds a seal that is not visible yet goes by the head before
//! it, and everybody sees all of a seal or nothing of it, whatever tenants they look at.
//!
//! Bytes are counted when a seal is applied and never fall before the whole table is dropped: the packs (once each, they
//! are shared by their rows), and what rows, runs, the id index and the table itself take at the most.

use super::{
    part::{MemoryFilter, RowTimes},
    query::may_contain,
};
use crate::{
    model::{
        entry::{ContentHash, EntryRef, StoredEntry},
        filter::{Filter, Surroundings},
        pack::Pack,
        tenant::{TenantId, TenantScope},
    },
    seal::{DecidedSeal, Decision, erasure::Erasures},
};
use dashmap::DashMap;
use hashbrown::HashTable;
use std::{
    ops::Range,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// Rows of a chunk. A power of two: positions are split into chunk and offset.
const CHUNK: usize = 1_024;
/// Chunks that are merged into one run.
const MERGE: usize = 8;
/// What one row takes besides its pack: the row itself in a vector that may have just doubled (64), its place in the
/// index (8, in a table that may have just doubled: 20), in a run (4, twice while runs are merged), and in its run's filter.
const ROW_BYTES: usize = 96 + FILTER_BYTES;
/// What a run's filter takes for each row. One that would take more is not kept: such rows hold so much text that looking
/// through them is little beside what they take anyway.
const FILTER_BYTES: usize = 32;
/// What a pack takes besides its bytes: the header, its three names, and their counters.
const PACK_BYTES: usize = 320;
/// What an empty table takes, its entry in the map included.
const TABLE_BYTES: usize = 768;

/// One row: where its record is, and its keys.
#[derive(Clone)]
pub(super) struct Row {
    pack: Arc<Pack>,
    index: u32,
    /// Its number in the tenant's log.
    pub sequence: u64,
    /// Event time, milliseconds.
    pub timestamp: i64,
}

impl Row {
    /// The record.
    pub fn entry(&self) -> EntryRef<'_> {
        self.pack.entry(self.index as usize)
    }

    /// The subject that wrote it.
    pub fn actor(&self) -> &str {
        &self.pack.header().actor
    }

    /// When it was taken, milliseconds.
    pub fn received_at(&self) -> i64 {
        self.pack.header().received_at
    }

    /// What erasures go by.
    pub fn times(&self) -> RowTimes {
        RowTimes {
            timestamp: self.timestamp,
            received_at: self.received_at(),
            sequence: self.sequence,
        }
    }

    /// The row as a reader gets it; it shares the pack's memory.
    pub fn stored(&self) -> StoredEntry {
        let header = self.pack.header();
        StoredEntry {
            record: self.pack.record(self.index as usize),
            received_at: header.received_at,
            actor: header.actor.clone(),
            sequence: Some(self.sequence),
        }
    }

    fn matches(&self, filter: &Filter) -> bool {
        let around = Surroundings {
            sequence: self.sequence,
            actor: self.actor(),
        };
        filter.matches(&self.entry(), around)
    }
}

/// Up to 8,192 rows in the order of (timestamp, sequence). A row of a run is named by its place in that order.
#[derive(Debug)]
pub(super) struct Run {
    /// Positions in the table.
    order: Vec<u32>,
    /// Smallest and largest event time.
    pub timestamps: (i64, i64),
    /// Smallest and largest number.
    pub sequences: (u64, u64),
    /// Smallest and largest `received_at`, milliseconds.
    pub received: (i64, i64),
    /// Rows by severity, indexed by `Severity as usize`.
    pub severities: [u32; 4],
    filter: RunFilter,
}

/// The filter of a merged run, made when it is wanted for the second time.
#[derive(Debug, Default)]
struct RunFilter {
    wanted: AtomicBool,
    made: OnceLock<MemoryFilter>,
}

impl Run {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether its filter has been made.
    #[cfg(test)]
    pub fn has_filter(&self) -> bool {
        self.filter.made.get().is_some()
    }

    /// Whether it has as many rows as it ever gets.
    fn is_full(&self) -> bool {
        self.len() == CHUNK * MERGE
    }

    /// Sorts the rows at `positions`, which is not empty.
    fn sort<'a>(positions: Range<u32>, row: impl Fn(u32) -> &'a Row) -> Self {
        let (sequences, mut severities) = ((row(positions.start).sequence, row(positions.end - 1).sequence), [0; 4]);
        let mut received = (i64::MAX, i64::MIN);
        for at in positions.clone() {
            severities[row(at).entry().severity() as usize] += 1;
            received = span(received, (row(at).received_at(), row(at).received_at()));
        }
        let mut order: Vec<u32> = positions.collect();
        order.sort_by_key(|at| row(*at).timestamp); // stable: ties stay in sequence order
        let time = |at: Option<&u32>| at.map_or(0, |at| row(*at).timestamp);
        Self {
            timestamps: (time(order.first()), time(order.last())),
            sequences,
            received,
            severities,
            filter: RunFilter::default(),
            order,
        }
    }

    /// One run of the rows of several that follow each other.
    fn merge<'a>(runs: &[Arc<Run>], row: impl Fn(u32) -> &'a Row) -> Self {
        let mut order: Vec<u32> = runs.iter().flat_map(|r| r.order.iter().copied()).collect();
        order.sort_by_key(|at| row(*at).timestamp); // the sort finds the runs; ties stay in sequence order
        let mut severities = [0; 4];
        for run in runs {
            severities.iter_mut().zip(run.severities).for_each(|(sum, n)| *sum += n);
        }
        let none = (i64::MAX, i64::MIN);
        Self {
            timestamps: runs.iter().map(|r| r.timestamps).fold(none, span),
            received: runs.iter().map(|r| r.received).fold(none, span),
            sequences: (runs.first().map_or(0, |r| r.sequences.0), runs.last().map_or(0, |r| r.sequences.1)),
            severities,
            filter: RunFilter::default(),
            order,
        }
    }
}

/// The smallest span that holds both.
fn span(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// One tenant's rows.
struct Table {
    /// Full chunks of [`CHUNK`] rows, in sequence order.
    chunks: Vec<Arc<[Row]>>,
    /// What is not a chunk yet.
    tail: Vec<Row>,
    /// The chunks' rows, sorted; runs follow each other in sequence order.
    runs: Vec<Arc<Run>>,
    /// 32 bits of the id's hash, and the row's position.
    ids: HashTable<(u32, u32)>,
    /// The last seal that touched the table, the head before it, and the head after it.
    last: (u64, u64, u64),
    /// Numbers without an entry, inclusive ranges.
    voids: Vec<(u64, u64)>,
}

impl Table {
    fn new(head: u64) -> Self {
        Self {
            chunks: Vec::new(),
            tail: Vec::new(),
            runs: Vec::new(),
            ids: HashTable::new(),
            last: (0, head, head),
            voids: Vec::new(),
        }
    }

    fn row(&self, position: u32) -> &Row {
        row_at(&self.chunks, &self.tail, position)
    }

    fn len(&self) -> usize {
        self.chunks.len() * CHUNK + self.tail.len()
    }

    fn push(&mut self, row: Row, hash: u32) {
        let position = self.len() as u32;
        self.ids.insert_unique(spread(hash), (hash, position), |(hash, _)| spread(*hash));
        self.tail.push(row);
        if self.tail.len() == CHUNK {
            self.close_chunk();
        }
    }

    fn close_chunk(&mut self) {
        let start = (self.chunks.len() * CHUNK) as u32;
        self.chunks.push(std::mem::take(&mut self.tail).into());
        let row = |at| row_at(&self.chunks, &[], at);
        self.runs.push(Arc::new(Run::sort(start..start + CHUNK as u32, row)));
        let small = self.runs.iter().rev().take_while(|r| r.len() == CHUNK).count();
        if small == MERGE {
            let first = self.runs.len() - MERGE;
            let merged = Run::merge(&self.runs[first..], row);
            self.runs.truncate(first);
            self.runs.push(Arc::new(merged));
        }
    }

    /// The newest row of the id that is not erased and has a number up to `head`.
    fn find(&self, id: Uuid, hash: u32, head: u64, erasures: Option<&Erasures>) -> Option<&Row> {
        let same_hash = self.ids.iter_hash(spread(hash)).filter(|(h, _)| *h == hash).map(|(_, at)| self.row(*at));
        let rows = same_hash.filter(|row| row.entry().id() == id && row.sequence <= head && !erasures.is_some_and(|all| row.times().is_covered(all)));
        rows.max_by_key(|row| row.sequence)
    }

    /// The head that readers may see when `visible` is the largest seal that they may see.
    fn head(&self, visible: u64) -> u64 {
        if self.last.0 <= visible { self.last.2 } else { self.last.1 }
    }
}

fn row_at<'a>(chunks: &'a [Arc<[Row]>], tail: &'a [Row], position: u32) -> &'a Row {
    let (chunk, offset) = (position as usize / CHUNK, position as usize % CHUNK);
    chunks
        .get(chunk)
        .map_or(tail, |c| c)
        .get(offset)
        .expect("positions come from the index and the runs of the same table")
}

/// The table takes the low bits for the bucket and the top seven for the tag: both come from all 32.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// The rows of a range of seals, by tenant.
pub(super) struct Memtable {
    tables: DashMap<TenantId, Arc<RwLock<Table>>>,
    /// Ids are the clients' choice; a hidden seed keeps them from choosing collisions.
    seed: u64,
}

impl Memtable {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            tables: DashMap::new(),
            seed: Uuid::new_v4().as_u64_pair().0,
        }
    }

    /// At most what [`Memtable::apply`] will count for the seal.
    pub fn cost_of(seal: &DecidedSeal) -> usize {
        let packs = seal.seal.packs.iter().zip(&seal.packs);
        let rows = packs.map(|(decided, pack)| {
            let new = decided.decisions.iter().filter(|d| **d == Decision::New).count();
            if new == 0 { 0 } else { pack.bytes().len() + PACK_BYTES + new * ROW_BYTES }
        });
        rows.sum::<usize>() + seal.seal.tenants.len() * TABLE_BYTES
    }

    /// Appends the seal's new rows, and gives the bytes that they take. `head_of` tells a tenant's head before the seal.
    /// Seals come in order, one at a time. Readers see nothing of it before `visible` has reached the seal.
    pub fn apply(&self, seal: &DecidedSeal, head_of: impl Fn(&TenantId) -> u64) -> usize {
        let mut packs_of: Vec<smallvec::SmallVec<[u32; 4]>> = vec![Default::default(); seal.seal.tenants.len()];
        for (i, decided) in seal.seal.packs.iter().enumerate() {
            if decided.decisions.contains(&Decision::New) {
                packs_of[decided.tenant as usize].push(i as u32);
            }
        }
        let mut bytes = 0;
        for (change, packs) in seal.seal.tenants.iter().zip(&packs_of) {
            if packs.is_empty() && change.void.is_none() {
                continue;
            }
            let table = self.table(&change.tenant).unwrap_or_else(|| {
                bytes += TABLE_BYTES;
                let new = Arc::new(RwLock::new(Table::new(head_of(&change.tenant))));
                self.tables.insert(change.tenant.clone(), new.clone());
                new
            });
            let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
            table.last = (seal.seal.n, table.last.2, change.head.max(table.last.2));
            table.voids.extend(change.void);
            for i in packs {
                bytes += self.append(&mut table, seal, *i as usize);
            }
        }
        bytes
    }

    fn append(&self, table: &mut Table, seal: &DecidedSeal, i: usize) -> usize {
        let (decided, pack) = (&seal.seal.packs[i], &seal.packs[i]);
        let mut sequence = decided.first_sequence;
        for (index, _) in decided.decisions.iter().enumerate().filter(|(_, d)| **d == Decision::New) {
            let entry = pack.entry(index);
            let row = Row {
                pack: pack.clone(),
                index: index as u32,
                sequence,
                timestamp: entry.timestamp(),
            };
            table.push(row, self.hash(entry.id()));
            sequence += 1;
        }
        pack.bytes().len() + PACK_BYTES + (sequence - decided.first_sequence) as usize * ROW_BYTES
    }

    fn hash(&self, id: Uuid) -> u32 {
        xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), self.seed) as u32
    }

    fn table(&self, tenant: &TenantId) -> Option<Arc<RwLock<Table>>> {
        self.tables.get(tenant).map(|t| t.value().clone())
    }

    /// What readers may see of the tenant's table; `None` when it has none, i.e. nothing of it changed here.
    pub fn view(&self, scope: &TenantScope, visible: &AtomicU64) -> Option<TableView> {
        let table = self.table(scope.tenant())?;
        let table = table.read().unwrap_or_else(PoisonError::into_inner);
        Some(TableView::of(&table, table.head(visible.load(Ordering::Acquire))))
    }

    /// The tenant's head as readers may see it; `None` when nothing of it changed here.
    pub fn head(&self, scope: &TenantScope, visible: &AtomicU64) -> Option<u64> {
        let table = self.table(scope.tenant())?;
        let table = table.read().unwrap_or_else(PoisonError::into_inner);
        Some(table.head(visible.load(Ordering::Acquire)))
    }

    /// The row of an id that is not erased, if readers may see it.
    pub fn get(&self, scope: &TenantScope, id: Uuid, visible: &AtomicU64, erasures: Option<&Erasures>) -> Option<StoredEntry> {
        let table = self.table(scope.tenant())?;
        let table = table.read().unwrap_or_else(PoisonError::into_inner);
        let head = table.head(visible.load(Ordering::Acquire));
        table.find(id, self.hash(id), head, erasures).map(Row::stored)
    }

    /// The content hash of an id's row that is not erased, visible or not (ledger).
    pub fn content_hash(&self, scope: &TenantScope, id: Uuid, erasures: Option<&Erasures>) -> Option<ContentHash> {
        let table = self.table(scope.tenant())?;
        let table = table.read().unwrap_or_else(PoisonError::into_inner);
        table.find(id, self.hash(id), u64::MAX, erasures).map(|row| row.entry().hash())
    }

    /// Everything of every tenant, by name. For a memtable to which nothing is applied any more.
    pub fn contents(&self) -> Vec<(TenantId, TableView)> {
        let view = |table: &RwLock<Table>| {
            let table = table.read().unwrap_or_else(PoisonError::into_inner);
            TableView::of(&table, table.last.2)
        };
        let mut all: Vec<_> = self.tables.iter().map(|t| (t.key().clone(), view(t.value()))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// An immutable view of one tenant's rows, of which those with a number above `head` are not to be seen.
pub(super) struct TableView {
    chunks: Vec<Arc<[Row]>>,
    tail: Vec<Row>,
    runs: Vec<Arc<Run>>,
    /// The largest number that may be seen.
    pub head: u64,
    /// Numbers without an entry, inclusive ranges, ascending.
    pub voids: Vec<(u64, u64)>,
}

impl TableView {
    fn of(table: &Table, head: u64) -> Self {
        Self {
            chunks: table.chunks.clone(),
            tail: table.tail.clone(),
            runs: table.runs.clone(),
            head,
            voids: table.voids.iter().copied().filter(|v| v.1 <= head).collect(),
        }
        .sorted()
    }

    /// Gives the rows of the tail a run of their own.
    fn sorted(mut self) -> Self {
        let start = (self.chunks.len() * CHUNK) as u32;
        if !self.tail.is_empty() {
            let run = Run::sort(start..start + self.tail.len() as u32, |at| row_at(&self.chunks, &self.tail, at));
            self.runs.push(Arc::new(run));
        }
        self
    }

    /// Whether a row may have such a time.
    pub fn overlaps(&self, times: &Range<i64>) -> bool {
        self.runs.iter().any(|run| run.timestamps.0 < times.end && times.start <= run.timestamps.1)
    }

    /// All rows, in runs.
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Row `place` of a run.
    pub fn row(&self, run: &Run, place: u32) -> &Row {
        row_at(&self.chunks, &self.tail, run.order[place as usize])
    }

    /// The places of the rows of `run` that match, ascending, of those `within`.
    pub fn select(&self, run: &Run, within: Range<u32>, filter: &Filter) -> Vec<u32> {
        if !may_contain(filter, run.timestamps, run.sequences, &run.severities) || !self.may_match(run, &within, filter) {
            return Vec::new();
        }
        let time = |bound: i64| run.order.partition_point(|at| row_at(&self.chunks, &self.tail, *at).timestamp < bound) as u32;
        let places = filter.from.map_or(0, time).max(within.start)..filter.to.map_or(within.end, time).min(within.end);
        let everything = filter.is_empty();
        places
            .filter(|place| {
                let row = self.row(run, *place);
                row.sequence <= self.head && (everything || row.matches(filter))
            })
            .collect()
    }

    /// What the run's filter says, if it has one or it is time to make it. `false` is certain.
    fn may_match(&self, run: &Run, within: &Range<u32>, filter: &Filter) -> bool {
        if !run.is_full() || !MemoryFilter::helps(filter) {
            return true;
        }
        if run.filter.made.get().is_none() {
            // A query may look through the run in pieces; one of them has its end.
            let ends = within.end as usize == run.len();
            if !ends || !run.filter.wanted.swap(true, Ordering::Relaxed) {
                return true;
            }
        }
        let made = run.filter.made.get_or_init(|| {
            let rows = run.order.iter().map(|at| row_at(&self.chunks, &self.tail, *at));
            MemoryFilter::build(rows.map(|row| (row.actor(), row.entry())), FILTER_BYTES * run.len())
        });
        made.may_match(filter)
    }

    /// The rows that a part has to hold, in the order of (timestamp, sequence): those that are erased and counted are left
    /// out.
    pub fn sorted_rows(&self, erasures: Option<&Erasures>) -> Vec<&Row> {
        let mut all: Vec<&Row> = self.chunks.iter().flat_map(|c| c.iter()).chain(&self.tail).collect();
        if let Some(erasures) = erasures {
            all.retain(|row| !erasures.settled_covers(row.timestamp, row.received_at(), row.sequence));
        }
        all.sort_by_key(|row| row.timestamp); // they stand in sequence order, and the sort is stable
        all
    }
}
