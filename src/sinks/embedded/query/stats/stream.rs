//! The same counts over entries that come one after the other from elsewhere: for stores that have to look at rows themselves.
//!
//! ```text
//! loop { for every match: counted.add(entry);  if counted.pass_done() { break counted.finish() } }
//! ```
//!
//! One pass is enough unless there are more users than fit: then the caller gives all matches again, for the next slice of them.

use super::{
    LARGEST, TOP_USERS,
    frame::{ACTION, Columns, Frame, Key, RESOURCE_TYPE, Read, USER, Wanted},
    tally::{Bounds, Tally},
};
use crate::{
    model::entry::EntryRef,
    sinks::{Group, Stats, StatsQuery, StoreError},
};
use std::cmp::Reverse;
use uuid::Uuid;

/// Entries that are counted together.
const FRAME: usize = 1_024;

/// What a query looks at.
pub fn columns(query: &StatsQuery) -> Columns {
    let keys = query.groups.as_ref().map_or(&[][..], |groups| &groups.keys);
    Columns::new(keys, query.filter.mask.clone())
}

/// Counts under way.
pub struct Counted<'a> {
    query: &'a StatsQuery,
    columns: &'a Columns,
    read: Read<'a>,
    bounds: Bounds,
    seed: u64,
    frame: Frame,
    tally: Tally<'a>,
    /// The answer, but for the users of later passes.
    stats: Option<Stats>,
}

impl<'a> Counted<'a> {
    /// Nothing yet. `columns` are those of the query.
    pub fn new(query: &'a StatsQuery, columns: &'a Columns) -> Self {
        let seed = Uuid::new_v4().as_u64_pair().0;
        let wanted = Wanted {
            times: true,
            severities: true,
            maps: true,
        };
        let mut frame = Frame::default();
        frame.clear(columns.all.len());
        Self {
            query,
            columns,
            read: Read::new(columns, wanted),
            bounds: Bounds::default(),
            seed,
            frame,
            tally: Tally::new(columns, query.series, seed, 0..=u64::MAX),
            stats: None,
        }
    }

    /// Counts a match, which is as it is and not as the mask shows it.
    pub fn add(&mut self, entry: &EntryRef<'_>) -> Result<(), StoreError> {
        self.frame.push_entry(entry, &self.read, &mut self.tally.texts);
        if self.frame.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let (frame, sums) = (&self.frame, &mut self.tally.sums);
        if let Some(series) = &mut sums.series {
            series.add(frame.times(), frame.severities());
        }
        let mut by_severity = [0; 4];
        frame.severities().iter().for_each(|severity| by_severity[*severity as usize] += 1);
        sums.add_severities(by_severity);
        frame.times().iter().for_each(|time| sums.cover(*time, *time));
        sums.add(frame);
        self.frame.clear(self.columns.all.len());
        while !self.tally.users_fit(&self.bounds) {
            self.tally = self.tally.cut(self.tally.middle());
        }
        let span = self.tally.sums.span.map_or(0, |(first, last)| last.saturating_sub(first));
        self.tally.check(&self.bounds, span)
    }

    /// All matches were given. False: they have to be given again.
    pub fn pass_done(&mut self) -> Result<bool, StoreError> {
        self.flush()?;
        let mut tally = std::mem::replace(&mut self.tally, Tally::new(self.columns, None, self.seed, 0..=0));
        match &mut self.stats {
            None => self.stats = Some(first_answer(self.query, &tally)?),
            Some(stats) => {
                stats.unique_users += tally.users();
                stats.top_users.extend(tally.largest(USER, TOP_USERS).0);
                for group in stats.groups.iter_mut().flatten() {
                    group.unique_users += tally.users_of(&group.key);
                }
            }
        }
        let done = tally.upto() == u64::MAX;
        if !done {
            self.tally = Tally::new(self.columns, None, self.seed, tally.upto() + 1..=u64::MAX);
        }
        Ok(done)
    }

    /// The answer, after the last pass.
    pub fn finish(self) -> Stats {
        let mut stats = self.stats.unwrap_or_default();
        stats.top_users.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        stats.top_users.truncate(TOP_USERS);
        if let Some(at) = self.columns.keys.iter().position(|key| *key == Key::Column(USER)) {
            let own = |group: &mut Group| group.unique_users = u64::from(group.key[at].is_some());
            stats.groups.iter_mut().flatten().for_each(own);
        }
        stats
    }
}

fn first_answer(query: &StatsQuery, tally: &Tally<'_>) -> Result<Stats, StoreError> {
    let sums = &tally.sums;
    let series = sums.series.as_ref().map(|series| series.finish(query.filter.from, query.filter.to));
    Ok(Stats {
        total: sums.by_severity.iter().sum(),
        by_severity: sums.by_severity,
        by_action: tally.largest(ACTION, LARGEST),
        by_resource_type: tally.largest(RESOURCE_TYPE, LARGEST),
        top_users: tally.largest(USER, TOP_USERS).0,
        unique_users: tally.users(),
        first: sums.span.map(|s| s.0),
        last: sums.span.map(|s| s.1),
        series: series.transpose()?,
        groups: query.groups.as_ref().map(|groups| tally.largest_groups(groups.limit)),
        approximate: false,
    })
}
