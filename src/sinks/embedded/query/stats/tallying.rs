//! Statistics over entries that come one by one, from a store whose own counts are not exact: the same counting, within the same
//! bounds of memory, as over units. Where the users do not fit they are counted slice by slice, and whoever feeds it reads the
//! entries again for each further slice.

use super::{
    Key, LARGEST, TOP_USERS,
    frame::{ACTION, Columns, Frame, RESOURCE_TYPE, Read, USER, Wanted},
    series::Series,
    tally::{Bounds, Tally},
};
use crate::{
    model::entry::EntryRef,
    sinks::{Stats, StatsQuery, StoreError},
};
use std::cmp::Reverse;
use uuid::Uuid;

/// Entries that are counted at once.
const FRAME: usize = 1_024;

/// A count that is under way: passes over all matches until one was the last.
pub struct Tallying {
    query: StatsQuery,
    columns: Columns,
    bounds: Bounds,
    seed: u64,
    /// Users whose hash is below are counted.
    from: u64,
    answer: Option<Stats>,
}

/// One pass over all matches.
pub struct Pass<'a> {
    of: &'a Tallying,
    read: Read<'a>,
    tally: Tally<'a>,
    frame: Frame,
}

/// What a pass has found.
pub struct Counted {
    /// Of the first pass.
    stats: Option<Stats>,
    /// Of a further one.
    users: u64,
    top_users: Vec<(String, u64)>,
    group_users: Vec<u64>,
    upto: u64,
}

impl Tallying {
    /// Nothing counted yet. A series that is too long by its bounds alone is refused here.
    pub fn new(query: StatsQuery) -> Result<Self, StoreError> {
        Self::within(query, Bounds::default())
    }

    fn within(query: StatsQuery, bounds: Bounds) -> Result<Self, StoreError> {
        let (from, to) = (query.filter.from, query.filter.to);
        if let (Some(interval), Some(_), Some(_)) = (query.series, from, to) {
            Series::new(interval).finish(from, to)?;
        }
        let keys = query.groups.as_ref().map_or(&[][..], |groups| &groups.keys);
        Ok(Self {
            columns: Columns::new(keys, query.filter.mask.clone()),
            query,
            bounds,
            seed: Uuid::new_v4().as_u64_pair().0,
            from: 0,
            answer: None,
        })
    }

    /// Begins a pass.
    pub fn pass(&self) -> Pass<'_> {
        let everything = self.answer.is_none();
        let wanted = Wanted {
            times: true,
            severities: true,
            maps: everything,
        };
        let mut frame = Frame::default();
        frame.clear(self.columns.all.len());
        Pass {
            read: Read::new(&self.columns, wanted),
            tally: Tally::new(&self.columns, self.query.series.filter(|_| everything), self.seed, self.from..=u64::MAX),
            of: self,
            frame,
        }
    }

    /// Takes what a pass has found; `true` if no other is needed.
    pub fn take(&mut self, found: Counted) -> bool {
        match (&mut self.answer, found.stats) {
            (Some(stats), _) => {
                stats.unique_users += found.users;
                stats.top_users.extend(found.top_users);
                for (group, users) in stats.groups.iter_mut().flatten().zip(found.group_users) {
                    group.unique_users += users;
                }
            }
            (none, first) => *none = first,
        }
        match found.upto.checked_add(1) {
            Some(next) => {
                self.from = next;
                false
            }
            None => true,
        }
    }

    /// The answer, after the last pass.
    pub fn answer(self) -> Stats {
        let mut stats = self.answer.unwrap_or_default();
        stats.top_users.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        stats.top_users.truncate(TOP_USERS);
        if let Some(at) = self.columns.keys.iter().position(|key| *key == Key::Column(USER)) {
            for group in stats.groups.iter_mut().flatten() {
                group.unique_users = u64::from(group.key[at].is_some());
            }
        }
        stats
    }
}

impl Pass<'_> {
    /// Counts an entry.
    pub fn add(&mut self, entry: &EntryRef<'_>) -> Result<(), StoreError> {
        self.frame.push_entry(entry, &self.read, &mut self.tally.texts);
        if self.frame.len() < FRAME { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let (sums, frame) = (&mut self.tally.sums, &mut self.frame);
        if let Some(series) = &mut sums.series {
            series.add(frame.times(), frame.severities());
        }
        let mut by_severity = [0; 4];
        frame.severities().iter().for_each(|severity| by_severity[*severity as usize] += 1);
        sums.add_severities(by_severity);
        if let (Some(first), Some(last)) = (frame.times().iter().min(), frame.times().iter().max()) {
            sums.cover(*first, *last);
        }
        sums.add(frame);
        frame.clear(self.of.columns.all.len());
        let bounds = &self.of.bounds;
        let (from, to) = (self.of.query.filter.from, self.of.query.filter.to);
        let (first, last) = self.tally.sums.span.unwrap_or_default();
        self.tally.check(bounds, to.unwrap_or(last).saturating_sub(from.unwrap_or(first)))?;
        while !self.tally.users_fit(bounds) {
            self.tally = self.tally.cut(self.tally.middle());
        }
        Ok(())
    }

    /// What it has found.
    pub fn finish(mut self) -> Result<Counted, StoreError> {
        self.flush()?;
        let (query, tally) = (&self.of.query, &mut self.tally);
        if let Some(stats) = &self.of.answer {
            let groups = stats.groups.iter().flatten();
            return Ok(Counted {
                stats: None,
                users: tally.users(),
                top_users: tally.largest(USER, TOP_USERS).0,
                group_users: groups.map(|group| tally.users_of(&group.key)).collect(),
                upto: tally.upto(),
            });
        }
        let sums = &tally.sums;
        let series = sums.series.as_ref().map(|series| series.finish(query.filter.from, query.filter.to));
        let stats = Stats {
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
        };
        Ok(Counted {
            stats: Some(stats),
            users: 0,
            top_users: Vec::new(),
            group_users: Vec::new(),
            upto: tally.upto(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            entry::{Field, NewEntry, Severity},
            pack::PackBuilder,
        },
        sinks::{GroupBy, GroupKey},
    };

    #[test]
    fn users_that_do_not_fit_are_counted_slice_by_slice() {
        let mut builder = PackBuilder::default();
        for i in 0..6_000u64 {
            let (user, action) = (format!("user-{}", i % 3_000), format!("act-{}", i % 2));
            let mut fields = [None; Field::COUNT];
            fields[Field::UserId as usize] = Some(user.as_bytes());
            fields[Field::Action as usize] = Some(action.as_bytes());
            builder.push(&NewEntry {
                id: Uuid::from_u128(u128::from(i)),
                client_id: true,
                hash: 0,
                timestamp: i as i64,
                severity: Severity::Info,
                fields,
            });
        }
        let groups = GroupBy {
            keys: vec![GroupKey::Field(Field::Action)],
            limit: 10,
        };
        let query = StatsQuery {
            groups: Some(groups),
            ..StatsQuery::default()
        };
        let answer = |bounds: Bounds| {
            let (mut tallying, mut passes) = (Tallying::within(query.clone(), bounds).expect("a query"), 0);
            loop {
                passes += 1;
                let mut pass = tallying.pass();
                (0..6_000).for_each(|i| pass.add(&builder.entry(i)).expect("fits"));
                let found = pass.finish().expect("fits");
                if tallying.take(found) {
                    return (tallying.answer(), passes);
                }
            }
        };
        let small = Bounds {
            user_bytes: 64 << 10,
            ..Bounds::default()
        };
        let (whole, sliced) = (answer(Bounds::default()), answer(small));
        assert!(whole.1 == 1 && sliced.1 > 2, "{} passes", sliced.1);
        assert_eq!(whole.0, sliced.0);
        assert_eq!(
            (whole.0.total, whole.0.unique_users, whole.0.groups.map(|g| g[0].unique_users)),
            (6_000, 3_000, Some(1_500))
        );
    }
}
