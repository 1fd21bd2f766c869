//! Entries and voids in sequence order, for readers that follow the log.
//!
//! A number without a visible entry is shown as void, so that a reader can tell what it will never get from what it has
//! missed. Numbers that were never given to an entry are known as ranges; those of erased rows are known by what is *not*
//! there, since the row may be gone from the disk: where something may be erased every number that exists is marked, and
//! what is left is void (but for what may be in a part that cannot be read: it is shown as neither). That is done for at most 2^20 numbers per call, a bit for each.

use super::{super::view::TenantView, Best, Control, Reader, Rows, Unit};
use crate::{
    model::filter::Filter,
    seal::erasure::{Cover, Erasures},
    sinks::{Scan, Sort, StoreError},
};
use std::sync::Arc;
use tokio::time::Instant;

/// Most numbers of which one call tells the missing ones.
const SPAN: u64 = 1 << 20;

/// The next `limit` matches after number `after`. When matches are rare it stops at `pause_at` with what it has looked
/// through, if that is anything, so that a long walk through the log takes many calls and none of them runs out of time.
pub fn scan(view: &TenantView, filter: &Filter, after: u64, limit: usize, control: &Control, pause_at: Instant) -> Result<Scan, StoreError> {
    if limit == 0 || after >= view.head {
        return Ok(Scan {
            upto: after,
            ..Scan::default()
        });
    }
    let min_sequence = Some(filter.min_sequence.unwrap_or(0).max(after + 1));
    let filter = Filter {
        min_sequence,
        ..filter.clone()
    };
    let reach = view.erasures.as_ref().map_or(0, |all| all.reach()).min(view.head);
    let mut present = Present::new(after, reach);
    if let Some(present) = &mut present {
        present.mark_unreadable(view);
    }
    let mut reader = match &present {
        None => Reader::new(view, &filter, control),
        Some(_) => Reader::of_all(view, &filter, control),
    };
    reader.units.retain(|unit| unit.sequences.1 > after);
    reader.order(Sort::SequenceAsc);
    let mut upto = present.as_ref().map(|p| p.last).filter(|last| *last < reach).unwrap_or(view.head);
    let mut best = Best::new(limit);
    for (at, unit) in reader.units.iter().enumerate() {
        if unit.sequences.0 > upto || !best.wants(unit.best(Sort::SequenceAsc)) {
            break;
        }
        let complete = unit.sequences.0.saturating_sub(1);
        if complete > after && Instant::now() >= pause_at {
            upto = complete;
            break;
        }
        reader.offer(at, Sort::SequenceAsc, &mut best)?;
        if let Some(present) = &mut present {
            present.mark(&reader, unit)?;
        }
    }
    let mut hits = best.into_hits();
    hits.retain(|hit| hit.0.1 <= upto);
    if hits.len() == limit {
        upto = hits[limit - 1].0.1;
    }
    let (mut voids, mut told) = (Vec::new(), after);
    if let Some(present) = present {
        told = upto.min(present.last);
        voids = present.missing(told);
    }
    voids.extend(voids_within(&view.voids, told, upto));
    Ok(Scan {
        entries: reader.read(&hits)?,
        voids: merged(voids),
        upto,
    })
}

/// Which numbers of a span have a visible row.
struct Present {
    after: u64,
    last: u64,
    bits: Vec<u64>,
}

impl Present {
    /// Of the numbers above `after` and up to `reach`, the first [`SPAN`]; `None` if there are none.
    fn new(after: u64, reach: u64) -> Option<Self> {
        let span = reach.saturating_sub(after).min(SPAN);
        (span > 0).then(|| Self {
            after,
            last: after + span,
            bits: vec![0; span.div_ceil(64) as usize],
        })
    }

    /// Marks the visible rows of the unit, whatever the filter says about them.
    fn mark(&mut self, reader: &Reader<'_>, unit: &Unit<'_>) -> Result<(), StoreError> {
        let (first, last) = unit.sequences;
        if first > self.last {
            return Ok(());
        }
        let rows = unit.rows();
        if !unit.erased && last - first + 1 == rows.len() as u64 {
            self.set_all(unit.sequences);
            return Ok(());
        }
        let rows = if unit.erased {
            reader.uncovered(unit, rows.collect())?
        } else {
            Rows::All(rows)
        };
        reader.for_each_key(unit, &rows, |_, _, number| self.set(number))
    }

    /// Marks what may be a row that cannot be read: it is missing, and not erased.
    fn mark_unreadable(&mut self, view: &TenantView) {
        for rows in view.quarantined.iter().filter_map(|part| part.tenant(&view.scope)) {
            for block in rows.blocks() {
                let erased = |all: &Arc<Erasures>| all.may_cover(block.timestamps, block.received, block.sequences) == Cover::All;
                if !view.erasures.as_ref().is_some_and(erased) {
                    self.set_all(block.sequences);
                }
            }
        }
    }

    fn set_all(&mut self, (first, last): (u64, u64)) {
        (first.max(self.after + 1)..=last.min(self.last)).for_each(|number| self.set(number));
    }

    /// The word and the bit of a number that lies in the span.
    fn place(&self, number: u64) -> (usize, u64) {
        let at = number - self.after - 1;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn set(&mut self, number: u64) {
        if self.after < number && number <= self.last {
            let (word, bit) = self.place(number);
            self.bits[word] |= bit;
        }
    }

    /// The numbers up to `upto`, which lies in the span, that are not marked.
    fn missing(&self, upto: u64) -> Vec<(u64, u64)> {
        let is_missing = |number: &u64| {
            let (word, bit) = self.place(*number);
            self.bits[word] & bit == 0
        };
        let missing = (self.after + 1..=upto).filter(is_missing);
        merged(missing.map(|number| (number, number)))
    }
}

/// Joins ranges where they touch; they ascend.
fn merged(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// What of the ranges lies in `after + 1 ..= upto`.
fn voids_within(voids: &[(u64, u64)], after: u64, upto: u64) -> Vec<(u64, u64)> {
    let cut = voids.iter().map(|v| (v.0.max(after + 1), v.1.min(upto)));
    cut.filter(|v| v.0 <= v.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voids_are_cut_to_the_span_that_was_scanned() {
        let voids = [(3, 5), (9, 20)];
        for (after, upto, expected) in [(0, 30, vec![(3, 5), (9, 20)]), (3, 10, vec![(4, 5), (9, 10)]), (5, 8, vec![]), (12, 12, vec![])] {
            assert_eq!(voids_within(&voids, after, upto), expected, "{after}..={upto}");
        }
    }
}
