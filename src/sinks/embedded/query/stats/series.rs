//! Counts by time: only buckets that have entries are held; the empty ones between them are added at the end.

use crate::{
    model::calendar::Interval,
    sinks::{Bucket, MOST_BUCKETS, StoreError},
};
use std::collections::BTreeMap;

/// The buckets that have entries.
pub struct Series {
    interval: Interval,
    counts: BTreeMap<i64, [u64; 4]>,
}

impl Series {
    /// An empty one.
    pub fn new(interval: Interval) -> Self {
        Self {
            interval,
            counts: BTreeMap::new(),
        }
    }

    /// Another empty one of the same kind.
    pub fn empty(&self) -> Self {
        Self::new(self.interval)
    }

    /// Whether these instants lie in different buckets.
    pub fn parts(&self, (first, last): (i64, i64)) -> bool {
        self.interval.next(first) <= last
    }

    /// Adds entries of one bucket: that of `at`.
    pub fn add_to(&mut self, at: i64, by_severity: [u64; 4]) {
        let counts = self.counts.entry(self.interval.start_of(at)).or_default();
        counts.iter_mut().zip(by_severity).for_each(|(sum, n)| *sum += n);
    }

    /// Adds entries one by one. Fastest when times ascend.
    pub fn add(&mut self, times: &[i64], severities: &[u32]) {
        let (mut start, mut end, mut counts) = (0, 0, [0; 4]);
        for (at, severity) in times.iter().zip(severities) {
            if !(start..end).contains(at) {
                if end > start {
                    self.add_to(start, std::mem::take(&mut counts));
                }
                (start, end) = (self.interval.start_of(*at), self.interval.next(*at));
            }
            counts[*severity as usize] += 1;
        }
        if end > start {
            self.add_to(start, counts);
        }
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Series) {
        other.counts.iter().for_each(|(start, counts)| self.add_to(*start, *counts));
    }

    /// Whether they are no more than a series may have.
    pub fn fits(&self) -> bool {
        self.counts.len() <= MOST_BUCKETS
    }

    /// All buckets, from that of `from` (else the first with entries) to that of the last millisecond before `to` (else the
    /// last with entries). None, if there is no entry and a bound is missing.
    pub fn finish(&self, from: Option<i64>, to: Option<i64>) -> Result<Vec<Bucket>, StoreError> {
        let first = from.or_else(|| self.counts.first_key_value().map(|(start, _)| *start));
        let first = first.map(|first| self.interval.start_of(first));
        let last = match to {
            Some(to) => to.checked_sub(1).filter(|last| from.is_none_or(|from| from <= *last)),
            None => self.counts.last_key_value().map(|(start, _)| *start),
        };
        let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
        let mut buckets = Vec::new();
        for start in std::iter::successors(Some(first), |edge| Some(self.interval.next(*edge))).take_while(|edge| *edge <= last) {
            if buckets.len() == MOST_BUCKETS {
                return Err(StoreError::TooManyBuckets {
                    span: last.saturating_sub(first),
                });
            }
            let by_severity = self.counts.get(&start).copied().unwrap_or_default();
            buckets.push(Bucket { start, by_severity });
        }
        Ok(buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::calendar::Zone;

    const HOUR: i64 = 3_600_000;

    fn series() -> Series {
        Series::new(Interval::parse("1h", Zone::default()).expect("a width"))
    }

    fn starts(buckets: Result<Vec<Bucket>, StoreError>) -> Vec<(i64, u64)> {
        let one = |b: Bucket| (b.start / HOUR, b.by_severity.iter().sum());
        buckets.expect("fits").into_iter().map(one).collect()
    }

    #[test]
    fn buckets_are_half_open_and_empty_ones_are_there() {
        let mut series = series();
        series.add(&[HOUR - 1, HOUR, 2 * HOUR - 1, 5 * HOUR, 5 * HOUR, 3 * HOUR], &[0, 1, 2, 3, 3, 0]);
        let all = series.finish(None, None).expect("fits");
        assert_eq!((all[1].by_severity, all[5].by_severity), ([0, 1, 1, 0], [0, 0, 0, 2]));
        assert_eq!(starts(Ok(all)), [(0, 1), (1, 2), (2, 0), (3, 1), (4, 0), (5, 2)]);
        assert_eq!(starts(series.finish(Some(-1), Some(HOUR))), [(-1, 0), (0, 1)]);
        assert_eq!(starts(series.finish(Some(-1), Some(HOUR + 1))), [(-1, 0), (0, 1), (1, 2)]);
        assert_eq!(starts(series.finish(Some(4 * HOUR + 5), None)), [(4, 0), (5, 2)]);
        assert_eq!(starts(series.finish(Some(5 * HOUR + 5), None)), [(5, 2)]);
        assert_eq!(starts(series.finish(Some(HOUR), Some(HOUR))), []);
        assert_eq!(starts(series.finish(Some(HOUR), Some(0))), []);
    }

    #[test]
    fn without_entries_only_given_bounds_make_buckets() {
        assert_eq!(starts(series().finish(None, None)), []);
        assert_eq!(starts(series().finish(Some(0), None)), []);
        assert_eq!(starts(series().finish(None, Some(0))), []);
        assert_eq!(starts(series().finish(Some(0), Some(2 * HOUR))), [(0, 0), (1, 0)]);
    }

    #[test]
    fn ten_thousand_buckets_fit_and_no_more() {
        let most = MOST_BUCKETS as i64;
        assert_eq!(starts(series().finish(Some(0), Some(most * HOUR))).len(), MOST_BUCKETS);
        let one_more = series().finish(Some(0), Some(most * HOUR + 1));
        assert!(matches!(one_more, Err(StoreError::TooManyBuckets { span }) if span == most * HOUR));
        assert!(series().finish(Some(i64::MIN), Some(i64::MAX)).is_err());
        let mut full = series();
        (0..most).for_each(|i| full.add_to(i * HOUR, [1, 0, 0, 0]));
        assert!(full.fits());
        full.add_to(-1, [1, 0, 0, 0]);
        assert!(!full.fits());
    }
}
