//! Reads of one tenant's rows: what all queries share.
//!
//! A query sees the tenant as *units*: runs of the memtables and blocks of the parts, each of at most 8,192 rows in the order
//! of (timestamp, sequence), with ranges and counts by severity. It goes through them best first, leaves out those that
//! cannot hold a match, and decodes the keys of the others; whole rows are read only for what is returned. Between units it
//! looks at its deadline, and whether anybody still waits for it.
//!
//! Erased rows are left out here for all of them: units whose rows are all erased are not there, and [`Reader::select`]
//! drops the erased rows of the others. So what is counted, listed or scanned can only be what is visible.
//!
//! Every read begins with [`TenantView`], which cannot be had without a `TenantScope`, and goes through
//! [`Part::tenant`](super::part::Part::tenant) or a memtable's table of that tenant: other tenants' rows are not reachable.

pub(super) mod erased;
pub(super) mod get;
pub(super) mod list;
pub(super) mod scan;
pub(super) mod stats;

use super::{
    memtable::{Row, Run, TableView},
    part::{self, Block, PartError, RowTimes, TenantRows},
    view::TenantView,
};
use crate::{
    model::{entry::StoredEntry, filter::Filter},
    seal::erasure::{Cover, Erasures},
    sinks::{Sort, StoreError},
};
use std::{
    collections::BinaryHeap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::time::Instant;

/// When a query has to end.
pub(super) struct Control {
    /// Past this it fails with [`StoreError::Deadline`].
    pub deadline: Instant,
    /// Set when nobody waits for the answer any more.
    pub abandoned: Arc<AtomicBool>,
}

impl Control {
    /// Called between units of work.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.abandoned.load(Ordering::Relaxed) || Instant::now() >= self.deadline {
            return Err(StoreError::Deadline);
        }
        Ok(())
    }
}

/// Data of a part cannot be read. The text names the part and never a tenant.
pub(super) fn damaged(error: PartError) -> StoreError {
    unreadable(&error)
}

/// The same, borrowed.
pub(super) fn unreadable(error: &PartError) -> StoreError {
    tracing::error!(%error, "a part cannot be read");
    let what = error.to_string().into();
    match error {
        PartError::Damaged { file, .. } => StoreError::BadPart {
            part: part::name_of(file).into(),
            what,
        },
        PartError::Io { .. } | PartError::Rows(_) => StoreError::Damaged(what),
    }
}

/// False only if no row inside these bounds can match.
pub(super) fn may_contain(filter: &Filter, timestamps: (i64, i64), sequences: (u64, u64), severities: &[u32; 4]) -> bool {
    let overlaps = |range: &(i64, i64)| range.0 <= timestamps.1 && timestamps.0 < range.1;
    filter.from.is_none_or(|from| from <= timestamps.1)
        && filter.to.is_none_or(|to| timestamps.0 < to)
        && (filter.timestamps.is_empty() || filter.timestamps.iter().any(overlaps))
        && filter.min_sequence.is_none_or(|min| min <= sequences.1)
        && filter.max_sequence.is_none_or(|max| sequences.0 <= max)
        && (filter.severity.is_empty() || filter.severity.iter().any(|s| severities[*s as usize] > 0))
}

/// Whether the filter looks at nothing but time, sequence and severity.
fn is_plain(filter: &Filter) -> bool {
    let rest = Filter {
        from: None,
        to: None,
        timestamps: Vec::new(),
        min_sequence: None,
        max_sequence: None,
        severity: Vec::new(),
        ..filter.clone()
    };
    rest.is_empty()
}

/// Rows of one unit, by their places in it or their numbers in the part; ascending, so in the order of (timestamp, sequence).
enum Rows {
    All(Range<u32>),
    Some(Vec<u32>),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::All(range) => range.len(),
            Self::Some(rows) => rows.len(),
        }
    }

    /// The same, as a part takes them.
    fn in_part(&self) -> part::Rows<'_> {
        match self {
            Self::All(range) => range.clone().into(),
            Self::Some(rows) => rows.as_slice().into(),
        }
    }

    /// Leaves the first `n`, or the last.
    fn keep(&mut self, n: usize, last: bool) {
        let (len, n) = (self.len(), n.min(self.len()));
        match self {
            Self::All(range) if last => range.start = range.end - n as u32,
            Self::All(range) => range.end = range.start + n as u32,
            Self::Some(rows) if last => drop(rows.drain(..len - n)),
            Self::Some(rows) => rows.truncate(n),
        }
    }

    fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Self::All(range) => range.clone().for_each(&mut visit),
            Self::Some(rows) => rows.iter().copied().for_each(&mut visit),
        }
    }
}

/// Where the rows of a unit are.
enum Source<'a> {
    Memory {
        table: &'a TableView,
        run: &'a Run,
    },
    /// The part by its place in the view, and among [`Reader::parts`].
    Part {
        at: usize,
        block: Block,
    },
}

/// Rows that are looked at together.
struct Unit<'a> {
    source: Source<'a>,
    timestamps: (i64, i64),
    sequences: (u64, u64),
    received: (i64, i64),
    severities: [u32; 4],
    /// Whether some of them are erased. Units of which all are, are left out.
    erased: bool,
}

impl<'a> Unit<'a> {
    fn of_run(table: &'a TableView, run: &'a Run) -> Self {
        Self {
            source: Source::Memory { table, run },
            timestamps: run.timestamps,
            sequences: run.sequences,
            received: run.received,
            severities: run.severities,
            erased: false,
        }
    }

    fn of_block(at: usize, block: Block) -> Self {
        Self {
            timestamps: block.timestamps,
            sequences: block.sequences,
            received: block.received,
            severities: block.severities,
            erased: false,
            source: Source::Part { at, block },
        }
    }

    /// What erasures may do to it; `None`: all of its rows are gone.
    fn less(mut self, erasures: Option<&Erasures>) -> Option<Self> {
        let cover = erasures.map_or(Cover::None, |all| all.may_cover(self.timestamps, self.received, self.sequences));
        self.erased = cover == Cover::Some;
        (cover != Cover::All).then_some(self)
    }

    /// Its rows, by their places in it or their numbers in the part.
    fn rows(&self) -> Range<u32> {
        match &self.source {
            Source::Memory { run, .. } => 0..run.len() as u32,
            Source::Part { block, .. } => block.rows.clone(),
        }
    }

    /// The best key that a row of it may have.
    fn best(&self, sort: Sort) -> Key {
        match sort {
            Sort::TimestampDesc | Sort::SequenceDesc => key(sort, self.timestamps.1, self.sequences.1),
            Sort::TimestampAsc | Sort::SequenceAsc => key(sort, self.timestamps.0, self.sequences.0),
        }
    }
}

/// Orders rows: the smallest comes first, whatever the sort.
type Key = (i64, u64);

fn key(sort: Sort, timestamp: i64, sequence: u64) -> Key {
    match sort {
        Sort::TimestampDesc => (!timestamp, !sequence), // the complement turns the order round
        Sort::TimestampAsc => (timestamp, sequence),
        Sort::SequenceDesc => (0, !sequence),
        Sort::SequenceAsc => (0, sequence),
    }
}

/// A row that may be returned: its key, its unit and its name in it.
type Hit = (Key, u32, u32);

/// The best `k` rows so far.
struct Best {
    k: usize,
    heap: BinaryHeap<Hit>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// Whether a row with this key would be among them.
    fn wants(&self, key: Key) -> bool {
        match self.heap.peek() {
            _ if self.heap.len() < self.k => true,
            Some(worst) => key < worst.0,
            None => false,
        }
    }

    fn offer(&mut self, hit: Hit) {
        if self.wants(hit.0) {
            self.heap.push(hit);
            if self.heap.len() > self.k {
                self.heap.pop();
            }
        }
    }

    /// Best first.
    fn into_hits(self) -> Vec<Hit> {
        self.heap.into_sorted_vec()
    }
}

/// One query at work on one tenant's rows.
struct Reader<'a> {
    filter: &'a Filter,
    plain: bool,
    control: &'a Control,
    erasures: Option<&'a Erasures>,
    parts: Vec<TenantRows<'a>>,
    units: Vec<Unit<'a>>,
}

impl<'a> Reader<'a> {
    /// Finds the units that ranges and counts do not rule out.
    fn new(view: &'a TenantView, filter: &'a Filter, control: &'a Control) -> Self {
        let mut reader = Self::of_all(view, filter, control);
        reader.units.retain(|u| may_contain(filter, u.timestamps, u.sequences, &u.severities));
        reader
    }

    /// The same with every unit that holds rows at all, for those who ask what there is besides what matches.
    fn of_all(view: &'a TenantView, filter: &'a Filter, control: &'a Control) -> Self {
        let erasures = view.erasures.as_deref();
        let parts: Vec<TenantRows<'a>> = view.parts.iter().filter_map(|p| p.tenant(&view.scope)).collect();
        let in_memory = view
            .tables
            .iter()
            .flat_map(|table| table.runs().iter().map(move |run| Unit::of_run(table, run)));
        let on_disk = parts
            .iter()
            .enumerate()
            .flat_map(|(at, rows)| rows.blocks().map(move |block| Unit::of_block(at, block)));
        let units = in_memory.chain(on_disk).filter_map(|unit| unit.less(erasures)).collect();
        Self {
            filter,
            plain: is_plain(filter),
            control,
            erasures,
            parts,
            units,
        }
    }

    /// Puts the units with the best keys first.
    fn order(&mut self, sort: Sort) {
        self.units.sort_by_key(|unit| unit.best(sort));
    }

    /// How many rows of the unit match, by severity, where that is known without reading rows.
    fn known(&self, unit: &Unit) -> Option<[u64; 4]> {
        let (filter, (first, last)) = (self.filter, unit.timestamps);
        let within = |range: &(i64, i64)| range.0 <= first && last < range.1;
        let in_sight = match unit.source {
            Source::Memory { table, .. } => unit.sequences.1 <= table.head,
            Source::Part { .. } => true,
        };
        let all = self.plain
            && !unit.erased
            && in_sight
            && filter.from.is_none_or(|from| from <= first)
            && filter.to.is_none_or(|to| last < to)
            && (filter.timestamps.is_empty() || filter.timestamps.iter().any(within))
            && filter.min_sequence.is_none_or(|min| min <= unit.sequences.0)
            && filter.max_sequence.is_none_or(|max| unit.sequences.1 <= max);
        let wanted = |severity: usize| filter.severity.is_empty() || filter.severity.iter().any(|s| *s as usize == severity);
        all.then(|| std::array::from_fn(|s| if wanted(s) { u64::from(unit.severities[s]) } else { 0 }))
    }

    /// Whether all rows of the unit match, as far as that is known without reading them.
    fn whole(&self, unit: &Unit) -> bool {
        let total: u64 = unit.severities.iter().map(|n| u64::from(*n)).sum();
        self.known(unit).is_some_and(|known| known.iter().sum::<u64>() == total)
    }

    /// How many rows of the unit match.
    fn count(&self, unit: &Unit) -> Result<u64, StoreError> {
        match self.known(unit) {
            Some(by_severity) => Ok(by_severity.iter().sum()),
            None => Ok(self.select(unit)?.len() as u64),
        }
    }

    /// The rows of the unit that match.
    fn select(&self, unit: &Unit) -> Result<Rows, StoreError> {
        self.select_in(unit, unit.rows())
    }

    /// Those of some rows of the unit that match.
    fn select_in(&self, unit: &Unit, rows: Range<u32>) -> Result<Rows, StoreError> {
        self.control.check()?;
        if self.whole(unit) {
            return Ok(Rows::All(rows));
        }
        match &unit.source {
            Source::Memory { table, run } => self.uncovered(unit, table.select(run, rows, self.filter)),
            Source::Part { at, block } if self.parts[*at].may_match(block, self.filter) => {
                // What is said about the block holds for a piece of it.
                let mut piece = block.clone();
                piece.rows = rows;
                self.uncovered(unit, self.parts[*at].select(&piece, self.filter).map_err(damaged)?)
            }
            Source::Part { .. } => Ok(Rows::Some(Vec::new())),
        }
    }

    /// Those of the rows that are not erased.
    fn uncovered(&self, unit: &Unit, mut rows: Vec<u32>) -> Result<Rows, StoreError> {
        if let Some(erasures) = self.erasures.filter(|_| unit.erased && !rows.is_empty()) {
            let mut stays = self.times(unit, rows.as_slice().into())?.into_iter().map(|row| !row.is_covered(erasures));
            rows.retain(|_| stays.next().unwrap_or(false));
        }
        Ok(Rows::Some(rows))
    }

    /// What erasures go by, of each of the rows.
    fn times(&self, unit: &Unit, rows: part::Rows<'_>) -> Result<Vec<RowTimes>, StoreError> {
        match &unit.source {
            Source::Memory { table, run } => Ok((0..rows.len()).map(|i| table.row(run, rows.get(i)).times()).collect()),
            Source::Part { at, .. } => self.parts[*at].times(rows).map_err(damaged),
        }
    }

    /// Visits (row, timestamp, sequence) of each of the rows.
    fn for_each_key(&self, unit: &Unit, rows: &Rows, mut visit: impl FnMut(u32, i64, u64)) -> Result<(), StoreError> {
        match &unit.source {
            Source::Memory { table, run } => rows.for_each(|place| {
                let row = table.row(run, place);
                visit(place, row.timestamp, row.sequence);
            }),
            Source::Part { .. } if rows.len() == 0 => (),
            Source::Part { at, .. } => {
                let mut keys = self.parts[*at].keys(rows.in_part()).map_err(damaged)?.into_iter();
                rows.for_each(|row| {
                    if let Some((timestamp, sequence)) = keys.next() {
                        visit(row, timestamp, sequence);
                    }
                });
            }
        }
        Ok(())
    }

    /// Offers the matching rows of a unit, and says how many there are.
    fn offer(&self, at: usize, sort: Sort, best: &mut Best) -> Result<u64, StoreError> {
        let unit = &self.units[at];
        let mut rows = self.select(unit)?;
        let matching = rows.len() as u64;
        match sort {
            Sort::TimestampDesc => rows.keep(best.k, true),
            Sort::TimestampAsc => rows.keep(best.k, false),
            Sort::SequenceDesc | Sort::SequenceAsc => (),
        }
        self.for_each_key(unit, &rows, |row, timestamp, sequence| {
            best.offer((key(sort, timestamp, sequence), at as u32, row));
        })?;
        Ok(matching)
    }

    /// Reads whole rows, in the order of `hits`, as the filter's mask shows them.
    fn read(&self, hits: &[Hit]) -> Result<Vec<StoredEntry>, StoreError> {
        let mut out: Vec<Option<StoredEntry>> = vec![None; hits.len()];
        let mut on_disk: Vec<(usize, u32, usize)> = Vec::new(); // part, row, place in the answer
        for (place, (_, unit, row)) in hits.iter().enumerate() {
            match &self.units[*unit as usize].source {
                Source::Memory { table, run } => out[place] = Some(Row::stored(table.row(run, *row))),
                Source::Part { at, .. } => on_disk.push((*at, *row, place)),
            }
        }
        on_disk.sort_unstable();
        for of_part in on_disk.chunk_by(|a, b| a.0 == b.0) {
            self.control.check()?;
            let rows: Vec<u32> = of_part.iter().map(|(_, row, _)| *row).collect();
            let entries = self.parts[of_part[0].0].read(&rows).map_err(damaged)?;
            for ((_, _, place), entry) in of_part.iter().zip(entries) {
                out[*place] = Some(entry);
            }
        }
        let mask = self.filter.mask.as_deref();
        let seen = |entry: StoredEntry| match mask {
            Some(mask) => mask.entry(&entry),
            None => entry,
        };
        let read: Vec<StoredEntry> = out.into_iter().flatten().map(seen).collect();
        if read.len() == hits.len() {
            Ok(read)
        } else {
            Err(StoreError::Damaged("a part gave fewer rows than it has".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Severity;

    #[test]
    fn keys_order_rows_as_the_sort_says() {
        let rows = [(5, 1), (5, 3), (-7, 2), (i64::MAX, 4)];
        for (sort, expected) in [
            (Sort::TimestampDesc, [4, 3, 1, 2]),
            (Sort::TimestampAsc, [2, 1, 3, 4]),
            (Sort::SequenceDesc, [4, 3, 2, 1]),
            (Sort::SequenceAsc, [1, 2, 3, 4]),
        ] {
            let mut sorted = rows;
            sorted.sort_by_key(|(t, s)| key(sort, *t, *s));
            assert_eq!(sorted.map(|r| r.1), expected, "{sort:?}");
        }
    }

    #[test]
    fn only_what_cannot_match_is_ruled_out() {
        let may = |filter: Filter| may_contain(&filter, (10, 20), (5, 9), &[1, 0, 0, 0]);
        let none = Filter::default();
        assert!(may(none.clone()));
        for (from, to, expected) in [(20, 21, true), (21, 30, false), (0, 10, false), (0, 11, true)] {
            let bounds = Filter {
                from: Some(from),
                to: Some(to),
                ..none.clone()
            };
            assert_eq!(may(bounds), expected, "{from}..{to}");
            let ranges = Filter {
                timestamps: vec![(100, 101), (from, to)],
                ..none.clone()
            };
            assert_eq!(may(ranges), expected, "{from}..{to}");
        }
        for (min, max, expected) in [(9, 9, true), (10, 99, false), (0, 4, false), (0, 5, true)] {
            let bounds = Filter {
                min_sequence: Some(min),
                max_sequence: Some(max),
                ..none.clone()
            };
            assert_eq!(may(bounds), expected, "{min}..={max}");
        }
        for (severity, expected) in [(Severity::Info, true), (Severity::Error, false)] {
            let one = Filter {
                severity: vec![severity],
                ..none.clone()
            };
            assert_eq!(may(one), expected);
        }
    }
}
