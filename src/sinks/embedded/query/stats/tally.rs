//! What has been counted so far. Each thread has a tally of its own; they are merged into one.

use super::{
    frame::{ACTION, Columns, Frame, Key, RESOURCE_TYPE, USER, severity_code},
    groups::{Cell, GROUPS, Groups},
    series::Series,
    texts::{OUTSIDE, Texts},
};
use crate::{
    model::{calendar::Interval, entry::Severity},
    sinks::{Group, StoreError},
};
use std::{cmp::Reverse, ops::RangeInclusive};

/// What may be held at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Distinct actions, distinct resource types, and groups that always fit, but for extremely long texts.
    pub keys: usize,
    /// Bytes of actions, or of resource types, in which more of them fit.
    pub map_bytes: usize,
    /// Bytes in which more groups fit.
    pub group_bytes: usize,
    /// Bytes in which all groups must fit. Names are a few hundred bytes at the most, but leaves of metadata may be of any
    /// length.
    pub all_group_bytes: usize,
    /// Bytes for users, and for who is in which group. If they are more, the users are counted slice by slice.
    pub user_bytes: usize,
    /// A thread's tally beyond this is merged into the common one.
    pub tally_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            keys: GROUPS,
            map_bytes: 32 << 20,
            group_bytes: 64 << 20,
            all_group_bytes: 256 << 20,
            user_bytes: 48 << 20,
            tally_bytes: 16 << 20,
        }
    }
}

/// Everything that is counted.
pub struct Tally<'a> {
    columns: &'a Columns,
    seed: u64,
    slice: RangeInclusive<u64>,
    /// The texts of each column.
    pub texts: Vec<Texts>,
    /// The rest: apart from the texts, since both are used at once.
    pub sums: Sums,
}

/// Counts; texts are named by their codes.
pub struct Sums {
    /// Matches by severity.
    pub by_severity: [u64; 4],
    /// Smallest and largest event time.
    pub span: Option<(i64, i64)>,
    /// Of the first three columns, by code.
    counts: [Vec<u64>; 3],
    /// By time.
    pub series: Option<Series>,
    /// By keys.
    pub groups: Option<Groups>,
}

impl Sums {
    /// Counts the actions, resource types and users of a frame, and its groups.
    pub fn add(&mut self, frame: &Frame) {
        for (column, counts) in self.counts.iter_mut().enumerate() {
            for code in frame.column(column) {
                // Absent and outside are far beyond any counter.
                match counts.get_mut(*code as usize) {
                    Some(count) => *count += 1,
                    None => first(counts, *code),
                }
            }
        }
        if let Some(groups) = &mut self.groups {
            groups.add(frame);
        }
    }

    /// Widens the span.
    pub fn cover(&mut self, first: i64, last: i64) {
        let (a, b) = self.span.unwrap_or((first, last));
        self.span = Some((a.min(first), b.max(last)));
    }

    /// Adds severities.
    pub fn add_severities(&mut self, by_severity: [u64; 4]) {
        self.by_severity.iter_mut().zip(by_severity).for_each(|(sum, n)| *sum += n);
    }
}

/// Counts a code that has no counter yet, if it is a text's.
#[cold]
fn first(counts: &mut Vec<u64>, code: u32) {
    if code < OUTSIDE {
        counts.resize(code as usize + 1, 0);
        counts[code as usize] = 1;
    }
}

impl<'a> Tally<'a> {
    /// Nothing counted yet; of users only those of the slice will be.
    pub fn new(columns: &'a Columns, series: Option<Interval>, seed: u64, slice: RangeInclusive<u64>) -> Self {
        let texts = (0..columns.all.len()).map(|column| match column {
            USER => Texts::new(seed, slice.clone()),
            _ => Texts::new(seed, 0..=u64::MAX),
        });
        Self {
            columns,
            seed,
            texts: texts.collect(),
            slice,
            sums: Sums {
                by_severity: [0; 4],
                span: None,
                counts: Default::default(),
                series: series.map(Series::new),
                groups: (!columns.keys.is_empty()).then(|| Groups::new(&columns.keys, !columns.group_by_user())),
            },
        }
    }

    /// Adds another's; users outside of this one's slice are left out.
    pub fn merge(&mut self, other: &Tally<'_>) {
        let codes: Vec<Vec<u32>> = self.texts.iter_mut().zip(&other.texts).map(|(mine, theirs)| mine.codes_of(theirs)).collect();
        for (column, theirs) in other.sums.counts.iter().enumerate() {
            for (code, n) in codes[column].iter().zip(theirs) {
                let mine = &mut self.sums.counts[column];
                match mine.get_mut(*code as usize) {
                    Some(count) => *count += n,
                    None => {
                        first(mine, *code);
                        if let Some(count) = mine.get_mut(*code as usize) {
                            *count = *n;
                        }
                    }
                }
            }
        }
        self.sums.add_severities(other.sums.by_severity);
        if let Some((first, last)) = other.sums.span {
            self.sums.cover(first, last);
        }
        if let (Some(mine), Some(theirs)) = (&mut self.sums.series, &other.sums.series) {
            mine.merge(theirs);
        }
        if let (Some(mine), Some(theirs)) = (&mut self.sums.groups, &other.sums.groups) {
            mine.merge(theirs, &codes);
        }
    }

    /// The same with a smaller slice.
    pub fn cut(&self, upto: u64) -> Self {
        let mut less = Self::new(self.columns, None, self.seed, *self.slice.start()..=upto);
        less.sums.series = self.sums.series.as_ref().map(Series::empty);
        less.merge(self);
        less
    }

    /// The last hash of the slice.
    pub fn upto(&self) -> u64 {
        *self.slice.end()
    }

    /// The hash in the middle of the slice.
    pub fn middle(&self) -> u64 {
        let (start, end) = (*self.slice.start(), *self.slice.end());
        start + (end - start) / 2
    }

    /// Bytes that grow with what is counted.
    pub fn memory(&self) -> usize {
        let groups = self.sums.groups.as_ref();
        self.texts.iter().map(Texts::memory).sum::<usize>() + groups.map_or(0, |g| g.memory() + g.memory_of_users())
    }

    /// That what cannot be sliced fits. `span` is how long a series can be, milliseconds.
    pub fn check(&self, bounds: &Bounds, span: i64) -> Result<(), StoreError> {
        let map_fits = |column: usize| self.texts[column].len() <= bounds.keys || self.texts[column].memory() <= bounds.map_bytes;
        if !map_fits(ACTION) || !map_fits(RESOURCE_TYPE) || !self.groups_fit(bounds) {
            return Err(StoreError::TooManyGroups);
        }
        match &self.sums.series {
            Some(series) if !series.fits() => Err(StoreError::TooManyBuckets { span }),
            _ => Ok(()),
        }
    }

    fn groups_fit(&self, bounds: &Bounds) -> bool {
        let Some(groups) = &self.sums.groups else { return true };
        let sliced = !self.columns.group_by_user();
        let texts = self.texts.iter().enumerate().filter(|(column, _)| !(sliced && *column == USER));
        let memory = groups.memory() + texts.map(|(_, t)| t.memory()).sum::<usize>();
        !groups.burst() && (memory <= bounds.group_bytes || (groups.len() <= bounds.keys + 1 && memory <= bounds.all_group_bytes))
    }

    /// Whether the users fit; else the slice has to be cut. If users are a key of the groups, they are bounded as groups. One
    /// alone always fits: it takes no more than the groups that it is in.
    pub fn users_fit(&self, bounds: &Bounds) -> bool {
        let members = self.sums.groups.as_ref().map_or(0, Groups::memory_of_users);
        self.columns.group_by_user() || self.users() <= 1 || self.texts[USER].memory() + members <= bounds.user_bytes
    }

    /// Number of distinct users of the slice.
    pub fn users(&self) -> u64 {
        self.texts[USER].len() as u64
    }

    /// The `n` most frequent texts of one of the first three columns, largest first, ties by text; and the sum of the others.
    pub fn largest(&self, column: usize, n: usize) -> (Vec<(String, u64)>, u64) {
        let texts = &self.texts[column];
        let mut all: Vec<(Reverse<u64>, &str)> = self.sums.counts[column]
            .iter()
            .enumerate()
            .map(|(code, n)| (Reverse(*n), texts.get(code as u32)))
            .collect();
        if all.len() > n {
            all.select_nth_unstable(n);
        }
        let other = all.split_off(n.min(all.len()));
        all.sort_unstable();
        let texts = all.into_iter().map(|(n, text)| (text.to_owned(), n.0));
        (texts.collect(), other.iter().map(|(n, _)| n.0).sum())
    }

    /// The `n` largest groups, ties by key.
    pub fn largest_groups(&self, n: usize) -> Vec<Group> {
        let Some(groups) = &self.sums.groups else { return Vec::new() };
        let mut all: Vec<(Reverse<u64>, u32)> = groups.cells().filter(|(_, c)| c.count > 0).map(|(at, c)| (Reverse(c.count), at)).collect();
        if all.len() > n {
            // Those that are as large as the n-th all stay: their keys decide.
            let least = all.select_nth_unstable_by_key(n.saturating_sub(1), |(count, _)| *count).1.0;
            all.retain(|(count, _)| *count <= least);
        }
        let mut largest: Vec<_> = all.into_iter().map(|(count, at)| (count, self.key(groups, at), groups.get(at))).collect();
        largest.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        largest.truncate(n);
        let group = |(count, key, cell): (Reverse<u64>, Vec<Option<&str>>, Cell)| Group {
            key: key.into_iter().map(|text| text.map(str::to_owned)).collect(),
            count: count.0,
            unique_users: cell.users,
            first: cell.first,
            last: cell.last,
        };
        largest.into_iter().map(group).collect()
    }

    fn key(&self, groups: &Groups, at: u32) -> Vec<Option<&str>> {
        let text = |(value, key): (Option<u32>, &Key)| {
            value.map(|code| match key {
                Key::Severity => Severity::ALL[code as usize].as_str(),
                Key::Column(column) => self.texts[*column].get(code),
            })
        };
        groups.values(at).zip(&self.columns.keys).map(text).collect()
    }

    /// The number of users of the group with this key.
    pub fn users_of(&mut self, key: &[Option<String>]) -> u64 {
        let texts = &mut self.texts;
        let codes = key.iter().zip(&self.columns.keys).map(|(text, key)| match key {
            Key::Severity => severity_code(text.as_deref()),
            Key::Column(column) => texts[*column].code_of(text.as_deref()),
        });
        self.sums.groups.as_mut().map_or(0, |groups| {
            let number = groups.number_of(codes);
            groups.get(number).users
        })
    }
}
