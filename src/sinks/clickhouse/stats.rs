//! Counts over all matches: by ClickHouse where SQL decides the whole filter and no text is masked, here otherwise, over the rows
//! that SQL leaves. Both are exact.
//!
//! A series has buckets of any width in any zone. Their edges are known here; ClickHouse counts by the largest step that all
//! edges are multiples of, and the steps are added up to buckets here.

use super::{
    conditions::{self, Snapshot},
    db::Db,
    fault,
    list::is_match,
    rows::{columns, required},
    sql::Sql,
};
use crate::{
    model::{
        calendar::Interval,
        entry::{Field, Severity},
    },
    sinks::{
        Group, GroupBy, GroupKey, MOST_BUCKETS, Stats, StatsQuery, StoreError,
        embedded::{Series, Tallying},
    },
};
use clickhouse::Row;
use serde::Deserialize;
use std::cmp::Reverse;

/// Keys in a map of the answer.
const LARGEST: usize = 100;
/// Users in the answer.
const TOP_USERS: usize = 10;

/// Counts everything that matches.
pub(super) async fn stats(db: &Db, at: &Snapshot, query: &StatsQuery) -> Result<Stats, StoreError> {
    let (from, to) = (query.filter.from, query.filter.to);
    if let (Some(interval), Some(_), Some(_)) = (query.series, from, to) {
        Series::new(interval).finish(from, to)?; // too many are refused before anything is read
    }
    if conditions::is_residual(&query.filter) || counts_what_only_rows_tell(query) {
        return here(db, at, query).await;
    }
    let counting = InSql { db, at, query };
    counting.answer().await
}

/// Whether it counts by leaves, or by a text that the mask may change.
fn counts_what_only_rows_tell(query: &StatsQuery) -> bool {
    let changes = |field: Field| query.filter.mask.as_ref().is_some_and(|mask| mask.may_change(field));
    let of_key = |key: &GroupKey| match key {
        GroupKey::Leaf(_) => true,
        GroupKey::Severity => false,
        GroupKey::Field(field) => changes(*field),
    };
    [Field::Action, Field::ResourceType, Field::UserId].into_iter().any(changes) || query.groups.iter().flat_map(|by| &by.keys).any(of_key)
}

/// Counts the rows that SQL leaves, one by one.
async fn here(db: &Db, at: &Snapshot, query: &StatsQuery) -> Result<Stats, StoreError> {
    let keys = query.groups.as_ref().map_or(&[][..], |by| &by.keys);
    let wanted = |field: Field| {
        let by = |key: &GroupKey| match key {
            GroupKey::Field(of) => *of == field,
            GroupKey::Leaf(_) => field == Field::Metadata,
            GroupKey::Severity => false,
        };
        matches!(field, Field::Action | Field::ResourceType | Field::UserId) || keys.iter().any(by) || conditions::looks_at(&query.filter, field)
    };
    let mut sql = at.select(&columns(wanted), "logs");
    at.narrow(&mut sql, &query.filter);
    let mut counted = Tallying::new(query.clone())?;
    loop {
        let mut pass = counted.pass();
        let mut rows = db.rows(&sql).map_err(|e| fault::count_failed(&e))?;
        while let Some(row) = rows.next().await? {
            if is_match(&query.filter, &row) {
                pass.add(&row.entry())?;
            }
        }
        let found = pass.finish()?;
        if counted.take(found) {
            return Ok(counted.answer());
        }
    }
}

#[derive(Row, Deserialize)]
struct Totals {
    counts: Vec<u64>,
    first: i64,
    last: i64,
    users: u64,
}

#[derive(Row, Deserialize)]
struct OfText {
    text: String,
    n: u64,
    total: u64,
}

#[derive(Row, Deserialize)]
struct OfStep {
    step: i64,
    level: i8,
    n: u64,
}

#[derive(Row, Deserialize)]
struct OfGroup {
    key: Vec<Option<String>>,
    n: u64,
    users: u64,
    first: i64,
    last: i64,
}

/// A query at work.
struct InSql<'a> {
    db: &'a Db,
    at: &'a Snapshot,
    query: &'a StatsQuery,
}

impl InSql<'_> {
    async fn answer(&self) -> Result<Stats, StoreError> {
        let totals = self.totals().await?;
        let by_severity: [u64; 4] = std::array::from_fn(|i| totals.counts.get(i).copied().unwrap_or_default());
        let total = by_severity.iter().sum();
        let span = (total > 0).then_some((totals.first, totals.last));
        let (by_action, by_resource_type, top_users) = tokio::try_join!(
            self.largest("action", Field::Action, LARGEST),
            self.largest("resource_type", Field::ResourceType, LARGEST),
            self.largest("user_id", Field::UserId, TOP_USERS),
        )?;
        let series = match self.query.series {
            Some(interval) => Some(self.series(interval, span).await?),
            None => None,
        };
        let groups = match &self.query.groups {
            Some(by) => Some(self.groups(by).await?),
            None => None,
        };
        Ok(Stats {
            total,
            by_severity,
            by_action,
            by_resource_type,
            top_users: top_users.0,
            unique_users: totals.users,
            first: span.map(|s| s.0),
            last: span.map(|s| s.1),
            series,
            groups,
            approximate: false,
        })
    }

    fn select(&self, columns: &str) -> Sql {
        let mut sql = self.at.select(columns, "logs");
        self.at.narrow(&mut sql, &self.query.filter);
        sql
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let counts: Vec<String> = Severity::ALL.iter().map(|s| format!("countIf(severity = '{}')", s.as_str())).collect();
        let columns = format!(
            "[{}] AS counts, toUnixTimestamp64Milli(min(timestamp)) AS first, toUnixTimestamp64Milli(max(timestamp)) AS last, uniqExact(user_id) AS users",
            counts.join(", ")
        );
        self.db.one(&self.select(&columns)).await.map_err(|e| fault::count_failed(&e))
    }

    /// The `n` most frequent texts of a column, largest first, ties by text; and the sum of the others.
    async fn largest(&self, column: &str, field: Field, n: usize) -> Result<(Vec<(String, u64)>, u64), StoreError> {
        let columns = format!("CAST(assumeNotNull({column}), 'String') AS text, count() AS n, sum(count()) OVER () AS total");
        let mut sql = self.select(&columns);
        let absent = if required(field) { " != ''" } else { " IS NOT NULL" };
        sql.push(" AND ")
            .push(column)
            .push(absent)
            .push(" GROUP BY text ORDER BY n DESC, text LIMIT ")
            .number(n as u64);
        let rows: Vec<OfText> = self.db.all(&sql).await.map_err(|e| fault::count_failed(&e))?;
        let all = rows.first().map_or(0, |row| row.total);
        let shown: u64 = rows.iter().map(|row| row.n).sum();
        Ok((rows.into_iter().map(|row| (row.text, row.n)).collect(), all.saturating_sub(shown)))
    }

    async fn series(&self, interval: Interval, span: Option<(i64, i64)>) -> Result<Vec<crate::sinks::Bucket>, StoreError> {
        let (from, to) = (self.query.filter.from, self.query.filter.to);
        let mut series = Series::new(interval);
        let Some((first, last)) = span else { return series.finish(from, to) };
        let start = interval.start_of(first);
        let step = step_of(interval, start, last)?;
        let mut sql = Sql::new("intDiv(toUnixTimestamp64Milli(timestamp) - ");
        sql = self.at.select_with(
            sql.int(start)
                .push(", ")
                .int(step)
                .push(") AS step, CAST(severity, 'Int8') AS level, count() AS n"),
            "logs",
        );
        self.at.narrow(&mut sql, &self.query.filter);
        sql.push(" GROUP BY step, level");
        let mut rows = self.db.stream::<OfStep>(&sql).map_err(|e| fault::count_failed(&e))?;
        while let Some(row) = rows.next().await.map_err(|e| fault::count_failed(&e))? {
            let mut counts = [0; 4];
            if let Some(count) = usize::try_from(row.level).ok().and_then(|level| counts.get_mut(level)) {
                *count = row.n;
            }
            series.add_to(start.saturating_add(row.step.saturating_mul(step)), counts);
        }
        series.finish(from, to)
    }

    async fn groups(&self, by: &GroupBy) -> Result<Vec<Group>, StoreError> {
        let exprs: Vec<String> = by.keys.iter().map(expression).collect();
        let columns = format!(
            "[{}] AS key, count() AS n, uniqExact(user_id) AS users, toUnixTimestamp64Milli(min(timestamp)) AS first, \
             toUnixTimestamp64Milli(max(timestamp)) AS last",
            exprs.join(", ")
        );
        let mut sql = self.select(&columns);
        let order: Vec<String> = exprs.iter().map(|expr| format!("{expr} ASC NULLS FIRST")).collect();
        sql.push(" GROUP BY ")
            .push(&exprs.join(", "))
            .push(" ORDER BY n DESC, ")
            .push(&order.join(", "));
        sql.push(" LIMIT ").number(by.limit as u64);
        let rows: Vec<OfGroup> = self.db.all(&sql).await.map_err(|e| fault::count_failed(&e))?;
        let group = |row: OfGroup| Group {
            key: row.key,
            count: row.n,
            unique_users: row.users,
            first: row.first,
            last: row.last,
        };
        let mut groups: Vec<Group> = rows.into_iter().map(group).collect();
        groups.sort_by(|a, b| (Reverse(a.count), &a.key).cmp(&(Reverse(b.count), &b.key)));
        Ok(groups)
    }
}

/// A key as a text, null where the entry does not have it.
fn expression(key: &GroupKey) -> String {
    match key {
        GroupKey::Severity => "CAST(toString(severity), 'Nullable(String)')".to_owned(),
        GroupKey::Field(field) if required(*field) => format!("CAST(nullIf({}, ''), 'Nullable(String)')", field.name()),
        GroupKey::Field(field) => field.name().to_owned(),
        GroupKey::Leaf(_) => "CAST(NULL, 'Nullable(String)')".to_owned(),
    }
}

/// The largest step, counted from `start`, of which every edge up to `last` is a multiple.
fn step_of(interval: Interval, start: i64, last: i64) -> Result<i64, StoreError> {
    let (mut step, mut edge, mut buckets) = (0, start, 0);
    while edge <= last {
        let next = interval.next(edge);
        step = gcd(step, next.saturating_sub(edge));
        (edge, buckets) = (next, buckets + 1);
        if buckets > MOST_BUCKETS {
            return Err(StoreError::TooManyBuckets {
                span: last.saturating_sub(start),
            });
        }
    }
    Ok(step.max(1))
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::calendar::Zone;

    #[test]
    fn the_step_divides_every_bucket() {
        let day = 86_400_000;
        for (width, zone, days, expected) in [
            ("1d", "UTC", 30, day),
            ("1M", "UTC", 365, day),
            ("1d", "Europe/Vienna", 365, 3_600_000),
            ("7m", "UTC", 2, 420_000),
        ] {
            let interval = Interval::parse(width, Zone::parse(zone).expect("a zone")).expect("a width");
            let start = interval.start_of(1_700_000_000_000);
            let step = step_of(interval, start, start + days * day).expect("few buckets");
            assert_eq!(step, expected, "{width} {zone}");
        }
        let seconds = Interval::parse("1s", Zone::default()).expect("a width");
        assert!(matches!(step_of(seconds, 0, 10_000_000), Err(StoreError::TooManyBuckets { .. })));
    }
}
