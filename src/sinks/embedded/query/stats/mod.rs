//! Counts over all matches: in all, by time, and by groups.
//!
//! ```text
//! units ─▶ tasks ─┬─▶ frames (frame) ─▶ tally ─┐         each thread has its own tally and takes tasks as it gets on (parallel)
//!                 └─▶ frames         ─▶ tally ─┴─▶ one tally ─▶ answer
//! ```
//!
//! A unit that matches as a whole gives its counts by severity from its ranges alone, also to a series whose bucket holds all
//! of it; neighbours of that kind are read at once. For the rest columns are decoded, texts become numbers (texts), and what
//! is counted is counted by numbers: maps and users, a [`series`], [`groups`].
//!
//! Under a mask what is counted is what the mask shows: texts are masked before they become numbers, so that hidden ones are one.
//!
//! Everything is exact. Memory is bounded, also where a tenant has more users than fit: then users are counted in slices by
//! their hash, as large as fit, and the rows are read again for each further slice. (An estimate would save these reads for
//! the number of users, but not for the ten largest, which must be exact; so `approximate` is never set here.) More distinct
//! actions, resource types or groups than fit are [`StoreError::TooManyGroups`].

mod frame;
mod groups;
mod parallel;
pub mod series;
mod tally;
mod tallying;
mod texts;

pub use parallel::Helpers;
pub use tally::Bounds;
pub use tallying::Tallying;

use self::{
    frame::{ACTION, Columns, Frame, Key, RESOURCE_TYPE, Read, USER, Wanted},
    parallel::share,
    series::Series,
    tally::Tally,
};
use super::{super::view::TenantView, Control, Reader, Rows, Source, Unit};
use crate::{
    model::calendar::Interval,
    sinks::{Group, Stats, StatsQuery, StoreError},
};
use std::{
    cmp::Reverse,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// Keys in a map of the answer.
const LARGEST: usize = 100;
/// Users in the answer.
const TOP_USERS: usize = 10;
/// Whole blocks that are read at once: setting up a reader of columns costs as much as decoding a thousand rows.
const BLOCKS_AT_ONCE: usize = 4;
/// Rows that are worth a further thread.
const ROWS_PER_THREAD: u64 = 50_000;

/// Counts everything that matches. `spare` gives helpers, at most as many as it is asked for.
pub fn stats(view: &TenantView, query: &StatsQuery, control: &Control, spare: impl FnOnce(usize) -> Helpers) -> Result<Stats, StoreError> {
    stats_within(view, query, control, spare, Bounds::default())
}

/// The same within other bounds.
pub fn stats_within(
    view: &TenantView,
    query: &StatsQuery,
    control: &Control,
    spare: impl FnOnce(usize) -> Helpers,
    bounds: Bounds,
) -> Result<Stats, StoreError> {
    let (from, to) = (query.filter.from, query.filter.to);
    if let (Some(interval), Some(_), Some(_)) = (query.series, from, to) {
        Series::new(interval).finish(from, to)?; // too many are refused before anything is read
    }
    let reader = Reader::new(view, &query.filter, control);
    let keys = query.groups.as_ref().map_or(&[][..], |groups| &groups.keys);
    let rows: u64 = reader.units.iter().flat_map(|unit| unit.severities).map(u64::from).sum();
    let wanted = usize::try_from(rows / ROWS_PER_THREAD).unwrap_or(usize::MAX);
    let counting = Counting {
        columns: &Columns::new(keys, query.filter.mask.clone()),
        series: query.series,
        tasks: tasks(&reader, query.series),
        helpers: spare(wanted),
        span: span(&reader, from, to),
        bounds,
        seed: Uuid::new_v4().as_u64_pair().0,
        reader: &reader,
    };
    counting.answer(query)
}

/// How long the time is that matches can be spread over, milliseconds.
fn span(reader: &Reader<'_>, from: Option<i64>, to: Option<i64>) -> i64 {
    let first = from.or(reader.units.iter().map(|unit| unit.timestamps.0).min());
    let last = to.or(reader.units.iter().map(|unit| unit.timestamps.1).max());
    last.zip(first).map_or(0, |(last, first)| last.saturating_sub(first))
}

/// Units that are read at once.
struct Task {
    /// By their places; neighbours in a part if they are several.
    units: Range<usize>,
    /// All their rows match.
    whole: bool,
    /// They lie in several buckets of the series each.
    parted: bool,
}

fn tasks(reader: &Reader<'_>, series: Option<Interval>) -> Vec<Task> {
    let series = series.map(Series::new);
    let mut tasks: Vec<Task> = Vec::new();
    for (at, unit) in reader.units.iter().enumerate() {
        let whole = reader.whole(unit);
        let parted = series.as_ref().is_some_and(|series| series.parts(unit.timestamps));
        match tasks.last_mut() {
            Some(last) if whole && last.whole && parted == last.parted && last.units.len() < BLOCKS_AT_ONCE && follow(&reader.units[at - 1], unit) => {
                last.units.end = at + 1;
            }
            _ => tasks.push(Task {
                units: at..at + 1,
                whole,
                parted,
            }),
        }
    }
    tasks
}

/// Whether two units are neighbours in a part.
fn follow(one: &Unit<'_>, next: &Unit<'_>) -> bool {
    match (&one.source, &next.source) {
        (Source::Part { at: a, block: x }, Source::Part { at: b, block: y }) => a == b && x.rows.end == y.rows.start,
        _ => false,
    }
}

/// A query at work.
struct Counting<'a> {
    reader: &'a Reader<'a>,
    columns: &'a Columns,
    series: Option<Interval>,
    tasks: Vec<Task>,
    helpers: Helpers,
    span: i64,
    bounds: Bounds,
    seed: u64,
}

/// What a pass over the rows counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Everything, and users from the first hash on.
    Everything,
    /// Users only, in all and by groups.
    Users,
}

impl<'a> Counting<'a> {
    fn answer(&self, query: &StatsQuery) -> Result<Stats, StoreError> {
        let mut tally = self.pass(0, Extent::Everything)?;
        let sums = &tally.sums;
        let series = sums.series.as_ref().map(|series| series.finish(query.filter.from, query.filter.to));
        let mut stats = Stats {
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
        while tally.upto() < u64::MAX {
            tally = self.pass(tally.upto() + 1, Extent::Users)?;
            stats.unique_users += tally.users();
            stats.top_users.extend(tally.largest(USER, TOP_USERS).0);
            for group in stats.groups.iter_mut().flatten() {
                group.unique_users += tally.users_of(&group.key);
            }
        }
        stats.top_users.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        stats.top_users.truncate(TOP_USERS);
        if let Some(at) = self.columns.keys.iter().position(|key| *key == Key::Column(USER)) {
            let own = |group: &mut Group| group.unique_users = u64::from(group.key[at].is_some());
            stats.groups.iter_mut().flatten().for_each(own);
        }
        Ok(stats)
    }

    /// Counts all rows, but of users only those whose hash is `from` or larger, as far as they fit.
    fn pass(&self, from: u64, extent: Extent) -> Result<Tally<'a>, StoreError> {
        let upto = AtomicU64::new(u64::MAX);
        let series = self.series.filter(|_| extent == Extent::Everything);
        let fresh = || Tally::new(self.columns, series, self.seed, from..=upto.load(Ordering::Relaxed));
        let common = Mutex::new(None);
        share(self.tasks.len(), &self.helpers, |queue| {
            let (mut mine, mut frame) = (fresh(), Frame::default());
            while let Some(task) = queue.take() {
                self.reader.control.check()?;
                self.task(&self.tasks[task], extent, &mut mine, &mut frame)?;
                mine.check(&self.bounds, self.span)?;
                if mine.memory() > self.bounds.tally_bytes {
                    self.fold(&common, std::mem::replace(&mut mine, fresh()), &upto)?;
                }
            }
            self.fold(&common, mine, &upto)
        })?;
        let common = common.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(common.unwrap_or_else(fresh))
    }

    /// Merges a thread's tally into the common one, and cuts the slice of users until they fit.
    fn fold(&self, common: &Mutex<Option<Tally<'a>>>, mine: Tally<'a>, upto: &AtomicU64) -> Result<(), StoreError> {
        let mut common = common.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged = match common.take() {
            Some(mut all) => {
                all.merge(&mine);
                all
            }
            None => mine,
        };
        while !merged.users_fit(&self.bounds) {
            let half = merged.middle();
            upto.store(half, Ordering::Relaxed);
            merged = merged.cut(half);
        }
        merged.check(&self.bounds, self.span)?;
        *common = Some(merged);
        Ok(())
    }

    fn task(&self, task: &Task, extent: Extent, tally: &mut Tally<'_>, frame: &mut Frame) -> Result<(), StoreError> {
        let units = &self.reader.units[task.units.clone()];
        let (texts, sums) = (&mut tally.texts, &mut tally.sums);
        let rows = match (task.whole, units) {
            (true, [first, .., last]) => Rows::All(first.rows().start..last.rows().end),
            (true, [one]) => Rows::All(one.rows()),
            (_, units) => self.reader.select(&units[0])?,
        };
        if rows.len() == 0 {
            return Ok(());
        }
        let everything = extent == Extent::Everything;
        if task.whole && everything {
            for unit in units {
                let known = unit.severities.map(u64::from);
                sums.add_severities(known);
                sums.cover(unit.timestamps.0, unit.timestamps.1);
                if let Some(series) = sums.series.as_mut().filter(|_| !task.parted) {
                    series.add_to(unit.timestamps.0, known);
                }
            }
        }
        let by_row = everything && (!task.whole || task.parted);
        let wanted = Wanted {
            times: by_row || sums.groups.is_some(),
            severities: by_row || self.columns.keys.contains(&Key::Severity),
            maps: everything,
        };
        let read = Read::new(self.columns, wanted);
        read.unit(&units[0], &self.reader.parts, &rows, texts, frame, &mut |frame| {
            if let Some(series) = sums.series.as_mut().filter(|_| by_row) {
                series.add(frame.times(), frame.severities());
            }
            if by_row && !task.whole {
                let mut by_severity = [0; 4];
                frame.severities().iter().for_each(|severity| by_severity[*severity as usize] += 1);
                sums.add_severities(by_severity);
                if let (Some(first), Some(last)) = (frame.times().first(), frame.times().last()) {
                    sums.cover(*first, *last); // rows are in the order of time
                }
            }
            sums.add(frame);
        })
    }
}
