//! Pages of entries: the best rows of the best units, and a stop as soon as no other unit can hold a better one.
//!
//! The page is found first, newest (or oldest) rows first: a unit is looked through slice by slice from its better end, and
//! left when the page is full and the rest of it can only be worse; units that cannot hold a better row are not opened.
//! What was passed by is counted afterwards, if the question is how many there are, as far as the bounds on counting reach.

use super::{super::view::TenantView, Best, Control, Key, Reader, Unit, key};
use crate::{
    model::{entry::StoredEntry, filter::Filter},
    sinks::{Count, ListPage, ListQuery, Place, Sort, StoreError},
};
use std::ops::Range;
use tokio::time::Instant;

/// Rows of the first slice; each further one is twice as long, since matches are rare then.
const FIRST_SLICE: u32 = 512;
/// A slice is at most a whole unit.
const LARGEST_SLICE: u32 = 8_192;
/// Rows that are read first where bytes are bounded, and how much more than the last time may be read next.
const FIRST_READ: usize = 64;
const READ_GROWTH: usize = 8;
/// Most rows that are read at a time where bytes are bounded.
const LARGEST_READ: usize = 4_096;

/// One page. Holds `skip + limit` keys in memory, and `limit` rows or `max_bytes` of them. A query that may pause does so at
/// `pause_at`.
pub fn list(view: &TenantView, query: &ListQuery, control: &Control, pause_at: Instant) -> Result<ListPage, StoreError> {
    let started = Instant::now();
    let sort = query.sort;
    let pinned = up_to(&query.filter, query.upto);
    let narrow = behind(&pinned, sort, query.after);
    let wanted = query.skip.saturating_add(query.limit);
    let mut reader = Reader::new(view, &narrow, control);
    reader.order(sort);
    let mut walk = Walk {
        reader: &reader,
        sort,
        after: query.after.map(|place| key(sort, place.timestamp, place.sequence)),
        best: Best::new(wanted.saturating_add(1)),
        matches: 0,
        left: Vec::new(),
        pause_at: query.may_pause.then_some(pause_at),
        paused: None,
    };
    walk.find()?;
    let Walk {
        best, matches, left, paused, ..
    } = walk;
    let bounds = Bounds::new(query.count, started, wanted);
    let counted = match (bounds, query.after) {
        (None, _) => None,
        (Some(bounds), None) => Some(count(&reader, matches, &left, &bounds)?),
        (Some(bounds), Some(_)) => {
            let mut all = Reader::new(view, &pinned, control);
            all.order(sort);
            let everything: Vec<_> = all.units.iter().enumerate().map(|(at, unit)| (at, unit.rows())).collect();
            Some(count(&all, 0, &everything, &bounds)?)
        }
    };
    let mut hits = best.into_hits();
    if let Some(reached) = paused {
        hits.retain(|hit| hit.0 <= reached);
    }
    let beyond = hits.len() > wanted;
    hits.truncate(wanted);
    let page = hits.get(query.skip..).unwrap_or_default();
    let entries = read(&reader, page, query.max_bytes)?;
    let early = beyond || entries.len() < page.len();
    Ok(ListPage {
        more: early || paused.is_some(),
        reached: paused.filter(|_| !early).map(|key| place(sort, key)),
        entries,
        total: counted.map(|(total, _)| total),
        total_is_exact: counted.is_some_and(|(_, exact)| exact),
        as_of: query.upto.map_or(view.head, |upto| upto.min(view.head)),
    })
}

/// The filter, without numbers above `upto`.
fn up_to(filter: &Filter, upto: Option<u64>) -> Filter {
    let max_sequence = filter.max_sequence.into_iter().chain(upto).min();
    Filter {
        max_sequence,
        ..filter.clone()
    }
}

/// The filter, narrowed to what may come behind the place. Rows of the place's own millisecond are told apart by their keys.
fn behind(filter: &Filter, sort: Sort, after: Option<Place>) -> Filter {
    let mut narrow = filter.clone();
    let Some(place) = after else { return narrow };
    let (before, next) = (place.sequence.saturating_sub(1), place.sequence.saturating_add(1));
    match sort {
        Sort::TimestampDesc => {
            let to = place.timestamp.saturating_add(1);
            narrow.to = Some(narrow.to.map_or(to, |old| old.min(to)));
        }
        Sort::TimestampAsc => narrow.from = Some(narrow.from.map_or(place.timestamp, |old| old.max(place.timestamp))),
        Sort::SequenceDesc => narrow.max_sequence = Some(narrow.max_sequence.map_or(before, |old| old.min(before))),
        Sort::SequenceAsc => narrow.min_sequence = Some(narrow.min_sequence.map_or(next, |old| old.max(next))),
    }
    narrow
}

/// The search for the best rows.
struct Walk<'r, 'v> {
    reader: &'r Reader<'v>,
    sort: Sort,
    /// Only keys above it.
    after: Option<Key>,
    best: Best,
    /// Matching rows in what was looked through.
    matches: u64,
    /// What was not looked through: rows of a unit.
    left: Vec<(usize, Range<u32>)>,
    pause_at: Option<Instant>,
    /// The search has paused: no key up to this one was left out.
    paused: Option<Key>,
}

impl Walk<'_, '_> {
    fn find(&mut self) -> Result<(), StoreError> {
        let mut slice = FIRST_SLICE;
        for (at, unit) in self.reader.units.iter().enumerate() {
            if self.pauses_before(unit) {
                break;
            }
            let mut rest = unit.rows();
            while !rest.is_empty() && self.best.wants(unit.best(self.sort)) {
                let next = match self.sort {
                    Sort::TimestampDesc => rest.end.saturating_sub(slice).max(rest.start)..rest.end,
                    Sort::TimestampAsc => rest.start..rest.start.saturating_add(slice).min(rest.end),
                    // Rows of a unit stand in the order of time.
                    Sort::SequenceDesc | Sort::SequenceAsc => rest.clone(),
                };
                let done = self.offer(at, unit, next.clone())?;
                if next.start > rest.start {
                    rest.end = next.start;
                } else {
                    rest.start = next.end;
                }
                if done {
                    break;
                }
                slice = slice.saturating_mul(2).min(LARGEST_SLICE);
            }
            if !rest.is_empty() {
                self.left.push((at, rest));
            }
        }
        Ok(())
    }

    /// Pauses if it is time, this unit could hold a better row, and something was achieved.
    fn pauses_before(&mut self, unit: &Unit<'_>) -> bool {
        let best = unit.best(self.sort);
        if self.pause_at.is_some_and(|at| Instant::now() >= at) && self.best.wants(best) {
            // The units are in order, so all keys before this one's were seen.
            self.paused = before(best).filter(|key| self.after.is_none_or(|after| *key > after));
        }
        self.paused.is_some()
    }

    /// Offers the matches among some rows of a unit. Says whether the rows of the unit that come after them, by time, can
    /// only be worse than the best.
    fn offer(&mut self, at: usize, unit: &Unit<'_>, rows: Range<u32>) -> Result<bool, StoreError> {
        let mut rows = self.reader.select_in(unit, rows)?;
        self.matches += rows.len() as u64;
        if self.after.is_none() {
            // No more can be among the best, and by time it is known which.
            match self.sort {
                Sort::TimestampDesc => rows.keep(self.best.k, true),
                Sort::TimestampAsc => rows.keep(self.best.k, false),
                Sort::SequenceDesc | Sort::SequenceAsc => (),
            }
        }
        let (best, sort, after) = (&mut self.best, self.sort, self.after);
        let mut worst = None;
        self.reader.for_each_key(unit, &rows, |row, timestamp, sequence| {
            let key = key(sort, timestamp, sequence);
            if after.is_none_or(|after| key > after) {
                worst = worst.max(Some(key));
                best.offer((key, at as u32, row));
            }
        })?;
        Ok(worst.is_some_and(|worst| !best.wants(worst)))
    }
}

/// The key right before one.
fn before((first, second): Key) -> Option<Key> {
    match second.checked_sub(1) {
        Some(second) => Some((first, second)),
        None => first.checked_sub(1).map(|first| (first, u64::MAX)),
    }
}

/// The place that has this key.
fn place(sort: Sort, (first, second): Key) -> Place {
    let (timestamp, sequence) = match sort {
        Sort::TimestampDesc => (!first, !second),
        Sort::SequenceDesc => (0, !second),
        Sort::TimestampAsc | Sort::SequenceAsc => (first, second),
    };
    Place { timestamp, sequence }
}

/// How far counting goes.
struct Bounds {
    most: u64,
    until: Option<Instant>,
}

impl Bounds {
    fn new(count: Count, started: Instant, wanted: usize) -> Option<Self> {
        match count {
            Count::None => None,
            Count::Exact => Some(Self { most: u64::MAX, until: None }),
            Count::Bounded { beyond, within } => Some(Self {
                most: beyond.saturating_add(wanted as u64),
                until: started.checked_add(within),
            }),
        }
    }
}

/// Adds the matches of what is left to those that are known; and whether that is all of them.
fn count(reader: &Reader<'_>, known: u64, left: &[(usize, Range<u32>)], bounds: &Bounds) -> Result<(u64, bool), StoreError> {
    let mut total = known;
    for (at, rows) in left {
        if total >= bounds.most || bounds.until.is_some_and(|until| Instant::now() >= until) {
            return Ok((total, false));
        }
        let unit = &reader.units[*at];
        total += if *rows == unit.rows() {
            reader.count(unit)?
        } else {
            reader.select_in(unit, rows.clone())?.len() as u64
        };
    }
    Ok((total, true))
}

/// Reads the rows, in portions where bytes are bounded, and stops before they are more than `max_bytes`.
fn read(reader: &Reader<'_>, hits: &[super::Hit], max_bytes: usize) -> Result<Vec<StoredEntry>, StoreError> {
    if max_bytes == usize::MAX {
        return reader.read(hits);
    }
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0usize, FIRST_READ);
    while entries.len() < hits.len() {
        let rest = &hits[entries.len()..];
        for entry in reader.read(&rest[..next.min(rest.len())])? {
            bytes = bytes.saturating_add(entry.record.len());
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
        // As many as the average of those so far lets expect to fit.
        let fit = (max_bytes.saturating_sub(bytes)) / (bytes / entries.len().max(1)).max(1);
        next = fit.clamp(1, (next * READ_GROWTH).min(LARGEST_READ));
    }
    Ok(entries)
}
