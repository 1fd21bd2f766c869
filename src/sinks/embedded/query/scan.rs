//! Entries and voids in sequence order, for readers that follow the log.

use super::{super::view::TenantView, Best, Control, Reader};
use crate::{
    model::filter::Filter,
    sinks::{Scan, Sort, StoreError},
};
use tokio::time::Instant;

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
    let mut reader = Reader::new(view, &filter, control);
    reader.order(Sort::SequenceAsc);
    let (mut best, mut upto) = (Best::new(limit), view.head);
    for (at, unit) in reader.units.iter().enumerate() {
        if !best.wants(unit.best(Sort::SequenceAsc)) {
            break;
        }
        let complete = unit.sequences.0.saturating_sub(1);
        if complete > after && Instant::now() >= pause_at {
            upto = complete;
            break;
        }
        reader.offer(at, Sort::SequenceAsc, &mut best)?;
    }
    let mut hits = best.into_hits();
    hits.retain(|hit| hit.0.1 <= upto);
    if hits.len() == limit {
        upto = hits[limit - 1].0.1;
    }
    Ok(Scan {
        entries: reader.read(&hits)?,
        voids: voids_within(&view.voids, after, upto),
        upto,
    })
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
