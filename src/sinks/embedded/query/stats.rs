//! Counts over all matches: from the counts of whole units where the filter allows, else from the columns of what matches.

use super::{super::view::TenantView, Control, Reader, Rows, Source, Unit, damaged};
use crate::{
    model::{entry::Field, filter::Filter},
    sinks::{
        Stats, StoreError,
        embedded::part::{DictColumn, StatColumn, TenantRows},
    },
};
use std::{cmp::Reverse, collections::HashMap};

/// Keys in a map of the answer.
const LARGEST: usize = 100;
/// Users in the answer.
const TOP_USERS: usize = 10;

/// Distinct actions, resource types or users that always fit.
const KEYS: usize = 100_000;
/// More of them fit while they take no more than this, bytes.
const KEY_BYTES: usize = 16 << 20;
/// What a key takes besides its text, bytes.
const KEY_OVERHEAD: usize = 64;

/// Counts everything that matches. Exact; holds one counter for each distinct action, resource type and user, and gives up
/// with [`StoreError::TooManyGroups`] when these are more than its memory allows.
pub fn stats(view: &TenantView, filter: &Filter, control: &Control) -> Result<Stats, StoreError> {
    let reader = Reader::new(view, filter, control);
    let mut tally = Tally::default();
    for unit in &reader.units {
        let rows = reader.select(unit)?;
        if rows.len() == 0 {
            continue;
        }
        tally.span(&reader, unit, &rows)?;
        tally.severities(&reader, unit, &rows)?;
        match &unit.source {
            Source::Memory { table, run } => rows.for_each(|place| {
                let entry = table.row(run, place).entry();
                tally.actions.add(entry.text(Field::Action), 1);
                tally.resource_types.add(entry.text(Field::ResourceType), 1);
                tally.users.add(entry.text(Field::UserId), 1);
            }),
            Source::Part { at, .. } => {
                let part = &reader.parts[*at];
                tally.actions.add_column(&column(part, StatColumn::Action, &rows)?);
                tally.resource_types.add_column(&column(part, StatColumn::ResourceType, &rows)?);
                tally.users.add_column(&column(part, StatColumn::UserId, &rows)?);
            }
        }
        tally.check()?;
    }
    Ok(tally.into_stats())
}

fn column(part: &TenantRows<'_>, column: StatColumn, rows: &Rows) -> Result<DictColumn, StoreError> {
    part.strings(column, rows.in_part()).map_err(damaged)
}

/// How often each text occurs.
#[derive(Default)]
struct Counts {
    counts: HashMap<Box<str>, u64>,
    bytes: usize,
}

impl Counts {
    fn add(&mut self, text: Option<&str>, n: u64) {
        let Some(text) = text else { return };
        match self.counts.get_mut(text) {
            Some(count) => *count += n,
            None => {
                self.bytes += text.len() + KEY_OVERHEAD;
                self.counts.insert(text.into(), n);
            }
        }
    }

    fn add_column(&mut self, column: &DictColumn) {
        for (value, n) in column.values.iter().zip(column.counts()) {
            self.add(Some(value), n);
        }
    }

    fn fits(&self) -> bool {
        self.counts.len() <= KEYS || self.bytes <= KEY_BYTES
    }

    /// The `n` most frequent, largest first, ties by text; and the sum of the others.
    fn largest(self, n: usize) -> (Vec<(String, u64)>, u64) {
        let mut all: Vec<_> = self.counts.into_iter().collect();
        let order = |entry: &(Box<str>, u64)| (Reverse(entry.1), entry.0.clone());
        if all.len() > n {
            all.select_nth_unstable_by(n, |a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        }
        let other = all.split_off(n.min(all.len()));
        all.sort_by_cached_key(order);
        let texts = all.into_iter().map(|(text, count)| (text.into_string(), count));
        (texts.collect(), other.iter().map(|(_, count)| count).sum())
    }
}

#[derive(Default)]
struct Tally {
    by_severity: [u64; 4],
    actions: Counts,
    resource_types: Counts,
    users: Counts,
    /// Smallest and largest event time.
    span: Option<(i64, i64)>,
}

impl Tally {
    /// Rows are in the order of time, so the first and the last tell. Their keys are read only if they could matter.
    fn span(&mut self, reader: &Reader<'_>, unit: &Unit<'_>, rows: &Rows) -> Result<(), StoreError> {
        if self.span.is_some_and(|(first, last)| first <= unit.timestamps.0 && unit.timestamps.1 <= last) {
            return Ok(());
        }
        let (first, last) = match rows {
            Rows::All(_) => unit.timestamps,
            Rows::Some(list) => {
                let mut ends = vec![list[0], list[list.len() - 1]];
                ends.dedup();
                let mut times = Vec::with_capacity(2);
                reader.for_each_key(unit, &Rows::Some(ends), |_, timestamp, _| times.push(timestamp))?;
                (times[0], times[times.len() - 1])
            }
        };
        let (a, b) = self.span.unwrap_or((first, last));
        self.span = Some((a.min(first), b.max(last)));
        Ok(())
    }

    fn severities(&mut self, reader: &Reader<'_>, unit: &Unit<'_>, rows: &Rows) -> Result<(), StoreError> {
        let mut add = |severity: usize, n: u64| self.by_severity[severity] += n;
        match (reader.known(unit), &unit.source) {
            (Some(known), _) => known.into_iter().enumerate().for_each(|(severity, n)| add(severity, n)),
            (None, Source::Memory { table, run }) => rows.for_each(|place| add(table.row(run, place).entry().severity() as usize, 1)),
            (None, Source::Part { at, .. }) => {
                let column = column(&reader.parts[*at], StatColumn::Severity, rows)?;
                for (name, n) in column.values.iter().zip(column.counts()) {
                    let severity = crate::model::entry::Severity::parse(name);
                    add(
                        severity.ok_or_else(|| StoreError::Damaged("a part has an unknown severity".into()))? as usize,
                        n,
                    );
                }
            }
        }
        Ok(())
    }

    /// Called after each unit, so that memory exceeds the bound by no more than one unit's keys.
    fn check(&self) -> Result<(), StoreError> {
        let fit = [&self.actions, &self.resource_types, &self.users].iter().all(|counts| counts.fits());
        if fit { Ok(()) } else { Err(StoreError::TooManyGroups) }
    }

    fn into_stats(self) -> Stats {
        let unique_users = self.users.counts.len() as u64;
        Stats {
            total: self.by_severity.iter().sum(),
            by_severity: self.by_severity,
            by_action: self.actions.largest(LARGEST),
            by_resource_type: self.resource_types.largest(LARGEST),
            top_users: self.users.largest(TOP_USERS).0,
            unique_users,
            first: self.span.map(|s| s.0),
            last: self.span.map(|s| s.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_with_ties_by_text_and_the_rest_is_summed() {
        let mut counts = Counts::default();
        for (text, n) in [("b", 2), ("a", 2), ("z", 9), ("c", 1), ("d", 1)] {
            counts.add(Some(text), n);
        }
        counts.add(None, 7);
        let (largest, other) = counts.largest(3);
        assert_eq!(largest, [("z".into(), 9), ("a".into(), 2), ("b".into(), 2)]);
        assert_eq!(other, 2);
        assert_eq!(Counts::default().largest(3), (vec![], 0));
    }

    #[test]
    fn a_hundred_thousand_users_fit_and_memory_is_bounded_beyond() {
        let (long, mut tally) = ("x".repeat(400), Tally::default());
        (0..KEYS).for_each(|i| tally.users.add(Some(&format!("{i}{long}")), 1));
        assert!(tally.check().is_ok(), "so many always fit");
        tally.users.add(Some("one more"), 1);
        assert!(matches!(tally.check(), Err(StoreError::TooManyGroups)));
        let mut tally = Tally::default();
        (0..=KEYS).for_each(|i| tally.actions.add(Some(&i.to_string()), 1));
        assert!(tally.check().is_ok(), "short ones: more fit");
        (KEYS..3 * KEYS).for_each(|i| tally.actions.add(Some(&i.to_string()), 1));
        assert!(matches!(tally.check(), Err(StoreError::TooManyGroups)));
    }
}
