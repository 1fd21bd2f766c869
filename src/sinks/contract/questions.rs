//! Random questions about a log, and the plain model's statistics.

use super::log::{ACTIONS, BASE, Model, USERS};
use crate::{
    fs::sim::Dice,
    model::{
        calendar::{Interval, Zone},
        entry::{EntryRef, Field, Severity, StoredEntry},
        filter::{Filter, IpRange, LeafFilter},
        leaves::for_each_leaf,
        mask::{MASKED, Mask},
    },
    sinks::{Bucket, Group, GroupBy, GroupKey, Stats, StatsQuery},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

pub(crate) const TENANTS: [&str; 3] = ["hot", "warm", "cold"];

pub(crate) fn some<T>(dice: &mut Dice, percent: u64, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    dice.chance(percent).then(|| make(dice))
}

/// One or two values of a list, or one that nothing has.
pub(crate) fn texts(dice: &mut Dice, from: &[&str]) -> Vec<String> {
    let n = 1 + dice.below(2);
    let pick = |dice: &mut Dice| {
        if dice.chance(10) {
            "nobody"
        } else if dice.chance(8) {
            MASKED
        } else {
            from[dice.below(from.len() as u64) as usize]
        }
    };
    (0..n).map(|_| pick(dice).to_owned()).collect()
}

/// A random filter; mostly few conditions, so that something matches.
pub(crate) fn filter(dice: &mut Dice, model: &Model) -> Filter {
    let (span, head) = (200_000, model.head.min(40_000));
    let time = |dice: &mut Dice| BASE - 60_000 + dice.below(span) as i64;
    let id = |dice: &mut Dice| {
        model
            .rows
            .get(dice.below(model.rows.len() as u64 + 2) as usize)
            .map_or(Uuid::nil(), |r| r.entry().id())
    };
    let numbers: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let lower = |list: Vec<String>| list.into_iter().map(|t| t.to_lowercase()).collect();
    Filter {
        from: some(dice, 20, time),
        to: some(dice, 20, time),
        timestamps: some(dice, 6, |d| (0..2).map(|_| time(d)).map(|t| (t, t + 30_000)).collect()).unwrap_or_default(),
        ids: some(dice, 6, |d| vec![id(d), id(d)]).unwrap_or_default(),
        user_id: some(dice, 12, |d| texts(d, &USERS)).unwrap_or_default(),
        email: some(dice, 5, |d| texts(d, &["u1@example.org", "u2@example.org"])).unwrap_or_default(),
        session_id: some(dice, 2, |d| texts(d, &["s"])).unwrap_or_default(),
        resource_id: some(dice, 8, |d| texts(d, &numbers)).unwrap_or_default(),
        request_id: Vec::new(),
        actor: some(dice, 10, |d| texts(d, &["alice", "bob"])).unwrap_or_default(),
        action: some(dice, 12, |d| lower(texts(d, &ACTIONS))).unwrap_or_default(),
        resource_type: some(dice, 8, |d| lower(texts(d, &["doc", "session"]))).unwrap_or_default(),
        severity: some(dice, 20, |d| vec![Severity::ALL[d.below(4) as usize], Severity::ALL[d.below(4) as usize]]).unwrap_or_default(),
        ip_address: some(dice, 8, |d| {
            let addr = std::net::IpAddr::from([10, 0, d.below(3) as u8, d.below(5) as u8]);
            vec![IpRange {
                addr,
                prefix: [8, 23, 24, 31, 32][d.below(5) as usize],
            }]
        })
        .unwrap_or_default(),
        user_agent: some(dice, 6, |d| vec![texts(d, &["curl", "linux", "mozilla"])]).unwrap_or_default(),
        min_sequence: some(dice, 12, |d| d.below(head + 3)),
        max_sequence: some(dice, 12, |d| d.below(head + 3)),
        metadata: some(dice, 10, |d| {
            let word = format!("x{}", d.below(40));
            let deep = LeafFilter {
                path: vec!["deep".into(), "list".into()],
                values: vec![word],
            };
            let flat = LeafFilter {
                path: vec!["n".into()],
                values: vec![d.below(12).to_string(), d.below(12).to_string()],
            };
            if d.chance(50) { vec![deep] } else { vec![flat] }
        })
        .unwrap_or_default(),
        search: some(dice, 20, |d| {
            let n = d.below(40);
            let text = match d.below(8) {
                0 => format!("word{n}"),
                1 => format!("word{n} -curl"),
                2 => format!("\"word{n} of\" OR user:words OR x{n}").replace("user:", "user_id:"),
                3 => format!("metadata.n:{n} OR ÄNDERN"),
                4 => format!("word{}* message", n % 10),
                5 => format!("-(login OR u{} OR metadata:x{n})", n % 5),
                6 => format!("action:LOG* user_agent:linux {n}"),
                _ => format!("email:u{}@example.org severity:ERROR,INFO", n % 5),
            };
            crate::search::parse(&text).expect("well formed")
        }),
        mask: None,
    }
}

/// Masks that hide some of what the rows hold, in every way.
pub(crate) fn mask(dice: &mut Dice) -> Arc<Mask> {
    pub(crate) const MASKS: [&[&str]; 14] = [
        &["email"],
        &["pattern:email"],
        &["pattern:email", "pattern:phone", "pattern:card", "pattern:iban", "pattern:secret_keys"],
        &["user_id", "metadata.deep"],
        &["message", "metadata.n"],
        &["actor"],
        &["action", "resource_type"],
        &["ip_address", "user_agent", "resource_id"],
        &["metadata"],
        &["metadata.deep.*"],
        &["metadata.*.list.*"],
        &["metadata.*"],
        &["user_id", "action", "message", "email", "actor", "metadata"],
        &["session_id", "before_state.x"],
    ];
    let paths: Vec<String> = MASKS[dice.below(14) as usize].iter().map(|p| (*p).to_owned()).collect();
    Arc::new(Mask::compile(&paths).expect("a mask"))
}

/// A random question about the rows that a filter matches.
pub(crate) fn question(dice: &mut Dice, filter: Filter) -> StatsQuery {
    let widths = ["1s", "10s", "7m", "1h", "6h", "1d", "1w", "1M"];
    let zones = ["UTC", "+05:45", "Europe/Vienna"];
    let zone = Zone::parse(zones[dice.below(3) as usize]).expect("a zone");
    let series = dice.chance(60).then(|| Interval::parse(widths[dice.below(8) as usize], zone).expect("a width"));
    let leaf = |path: &[&str]| GroupKey::Leaf(path.iter().map(|p| (*p).to_owned()).collect());
    let mut keys = Vec::new();
    for key in [
        GroupKey::Field(Field::Action),
        GroupKey::Severity,
        GroupKey::Field(Field::UserId),
        leaf(&["deep", "list"]),
        GroupKey::Field(Field::ResourceType),
        GroupKey::Field(Field::IpAddress),
        leaf(&["n"]),
        GroupKey::Field(Field::SessionId),
        GroupKey::Field(Field::ResourceId),
        leaf(&["nothing"]),
    ] {
        if dice.chance(18) {
            keys.push(key);
        }
    }
    for at in (1..keys.len()).rev() {
        keys.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let limit = [1, 3, 100, 10_000][dice.below(4) as usize];
    StatsQuery {
        filter,
        series,
        groups: (!keys.is_empty()).then_some(GroupBy { keys, limit }),
    }
}

pub(crate) fn values(row: &StoredEntry, key: &GroupKey) -> Vec<Option<String>> {
    let entry = row.entry();
    match key {
        GroupKey::Severity => vec![Some(entry.severity().as_str().to_owned())],
        GroupKey::Field(Field::IpAddress) if entry.hides_ip() => vec![Some(MASKED.to_owned())],
        GroupKey::Field(Field::IpAddress) => vec![entry.ip().map(|ip| ip.to_string())],
        GroupKey::Field(field) => vec![entry.text(*field).map(str::to_owned)],
        GroupKey::Leaf(path) => {
            let mut found = BTreeSet::new();
            for_each_leaf(entry.text(Field::Metadata).unwrap_or("{}"), &mut |at, text| {
                if at == path {
                    found.insert(text.into_owned());
                }
            });
            if found.is_empty() {
                vec![None]
            } else {
                found.into_iter().map(Some).collect()
            }
        }
    }
}

pub(crate) fn users<'a>(rows: &[&'a StoredEntry]) -> BTreeSet<&'a str> {
    rows.iter().filter_map(|r| EntryRef::first_of(&r.record).text(Field::UserId)).collect()
}

impl Model {
    /// What the store has to answer.
    pub(crate) fn stats(&self, query: &StatsQuery) -> Stats {
        let rows = self.matching(&query.filter);
        let count = |field: Field| {
            let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
            for text in rows.iter().filter_map(|r| r.entry().text(field)) {
                *counts.entry(text).or_default() += 1;
            }
            let mut counts: Vec<(String, u64)> = counts.into_iter().map(|(text, n)| (text.to_owned(), n)).collect();
            counts.sort_by_key(|c| std::cmp::Reverse(c.1)); // stable: ties by text
            counts
        };
        let mut by_severity = [0; 4];
        rows.iter().for_each(|r| by_severity[r.entry().severity() as usize] += 1);
        let (first, last) = (
            rows.iter().map(|r| r.entry().timestamp()).min(),
            rows.iter().map(|r| r.entry().timestamp()).max(),
        );
        Stats {
            total: rows.len() as u64,
            by_severity,
            by_action: (count(Field::Action), 0),
            by_resource_type: (count(Field::ResourceType), 0),
            unique_users: users(&rows).len() as u64,
            top_users: count(Field::UserId).into_iter().take(10).collect(),
            first,
            last,
            series: query.series.map(|width| {
                let bounds = (query.filter.from.or(first), query.filter.to.map(|to| to - 1).or(last));
                series(&rows, width, bounds)
            }),
            groups: query.groups.as_ref().map(|by| groups(&rows, by)),
            approximate: false,
        }
    }
}

pub(crate) fn series(rows: &[&StoredEntry], width: Interval, bounds: (Option<i64>, Option<i64>)) -> Vec<Bucket> {
    let (Some(first), Some(last)) = bounds else { return Vec::new() };
    let (mut start, mut all) = (width.start_of(first), Vec::new());
    while start <= last && first <= last {
        let end = width.next(start);
        let mut by_severity = [0; 4];
        let here = rows.iter().filter(|r| (start..end).contains(&r.entry().timestamp()));
        here.for_each(|r| by_severity[r.entry().severity() as usize] += 1);
        all.push(Bucket { start, by_severity });
        start = end;
    }
    all
}

pub(crate) fn groups(rows: &[&StoredEntry], by: &GroupBy) -> Vec<Group> {
    let mut all: BTreeMap<Vec<Option<String>>, Vec<&StoredEntry>> = BTreeMap::new();
    for row in rows {
        let mut keys = vec![vec![]];
        for key in &by.keys {
            let values = values(row, key);
            keys = keys
                .into_iter()
                .flat_map(|k: Vec<_>| values.iter().map(move |v| [k.clone(), vec![v.clone()]].concat()))
                .collect();
        }
        keys.into_iter().for_each(|key| all.entry(key).or_default().push(row));
    }
    let group = |(key, rows): (Vec<Option<String>>, Vec<&StoredEntry>)| Group {
        key,
        count: rows.len() as u64,
        unique_users: users(&rows).len() as u64,
        first: rows.iter().map(|r| r.entry().timestamp()).min().expect("a row"),
        last: rows.iter().map(|r| r.entry().timestamp()).max().expect("a row"),
    };
    let mut all: Vec<Group> = all.into_iter().map(group).collect();
    all.sort_by_key(|g| std::cmp::Reverse(g.count)); // stable: ties by key
    all.truncate(by.limit);
    all
}
