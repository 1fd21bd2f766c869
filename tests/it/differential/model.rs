//! The HTTP contract as plain loops over plain values: slow, obvious, and written from API.md alone, not from `src/`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One entry as the server should give it back, without `received_at`.
#[derive(Debug, Clone)]
pub struct Entry {
    pub json: Value,
    /// Event time, milliseconds.
    pub timestamp: i64,
    pub sequence: u64,
    /// The searched texts, each as its words: fields, and leaves of the objects.
    texts: Vec<Vec<String>>,
}

pub const SEVERITIES: [&str; 4] = ["INFO", "WARNING", "ERROR", "CRITICAL"];

impl Entry {
    pub fn new(json: Value, timestamp: i64, sequence: u64) -> Self {
        let texts = searched(&json);
        Self {
            json,
            timestamp,
            sequence,
            texts,
        }
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.json[field].as_str()
    }
}

/// A condition on an entry.
#[derive(Debug, Clone)]
pub enum Condition {
    From(i64),
    To(i64),
    Within(Vec<(i64, i64)>),
    /// A field equals one of the texts.
    Exact(&'static str, Vec<String>),
    /// The same in any case.
    AnyCase(&'static str, Vec<String>),
    /// Network address and number of bits, IPv4.
    Network(u32, u32),
    MinSequence(u64),
    MaxSequence(u64),
    /// A leaf of `metadata` by its path.
    Leaf(Vec<&'static str>, Vec<String>),
    /// All words are among those of the user agent.
    Agent(Vec<String>),
    Search(Search),
}

/// The search language.
#[derive(Debug, Clone)]
pub enum Search {
    Word(String),
    Phrase(Vec<String>),
    Prefix(String),
    Field(Box<Condition>, String),
    Not(Box<Search>),
    And(Vec<Search>),
    Or(Vec<Search>),
}

/// API.md: a word is a run of Unicode letters and digits, lower-cased.
pub fn words(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for c in text.chars() {
        if c.is_alphanumeric() {
            found.last_mut().expect("never empty").push(c);
        } else {
            found.push(String::new());
        }
    }
    found.into_iter().filter(|w| !w.is_empty()).map(|w| w.to_lowercase()).collect()
}

/// The texts of the scalars of a value; `path` is filled with the keys that lead there.
fn leaves(value: &Value, path: &mut Vec<String>, visit: &mut dyn FnMut(&[String], String)) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                path.push(key.clone());
                leaves(inner, path, visit);
                path.pop();
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| leaves(inner, path, visit)),
        Value::String(text) => visit(path, text.clone()),
        other => visit(path, other.to_string()),
    }
}

fn searched(entry: &Value) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for field in [
        "message",
        "action",
        "resource_type",
        "resource_id",
        "id",
        "session_id",
        "request_id",
        "user_id",
        "email",
        "user_agent",
    ] {
        all.extend(entry[field].as_str().map(words));
    }
    for field in ["metadata", "before_state", "after_state"] {
        if entry[field].is_object() {
            leaves(&entry[field], &mut Vec::new(), &mut |_, text| all.push(words(&text)));
        }
    }
    all
}

impl Search {
    fn holds(&self, entry: &Entry) -> bool {
        let texts = &entry.texts;
        match self {
            Self::Word(word) => texts.iter().flatten().any(|w| w == word),
            Self::Prefix(start) => texts.iter().flatten().any(|w| w.starts_with(start.as_str())),
            Self::Phrase(wanted) => texts.iter().any(|text| text.windows(wanted.len()).any(|window| window == wanted)),
            Self::Field(condition, _) => condition.holds(entry),
            Self::Not(inner) => !inner.holds(entry),
            Self::And(all) => all.iter().all(|s| s.holds(entry)),
            Self::Or(any) => any.iter().any(|s| s.holds(entry)),
        }
    }

    /// As a person would type it.
    pub fn typed(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Phrase(words) => format!("\"{}\"", words.join(" ")),
            Self::Prefix(start) => format!("{start}*"),
            Self::Field(_, typed) => typed.clone(),
            Self::Not(inner) if matches!(**inner, Self::Not(_)) => format!("-({})", inner.typed()),
            Self::Not(inner) => format!("-{}", inner.grouped()),
            Self::And(all) => all.iter().map(Self::grouped).collect::<Vec<_>>().join(" "),
            Self::Or(any) => any.iter().map(Self::grouped).collect::<Vec<_>>().join(" OR "),
        }
    }

    fn grouped(&self) -> String {
        match self {
            Self::And(_) | Self::Or(_) => format!("({})", self.typed()),
            _ => self.typed(),
        }
    }
}

impl Condition {
    pub fn holds(&self, entry: &Entry) -> bool {
        match self {
            Self::From(from) => entry.timestamp >= *from,
            Self::To(to) => entry.timestamp < *to,
            Self::Within(ranges) => ranges.iter().any(|(from, to)| (*from..*to).contains(&entry.timestamp)),
            Self::Exact(field, values) => entry.text(field).is_some_and(|text| values.iter().any(|v| v == text)),
            Self::AnyCase(field, values) => entry
                .text(field)
                .is_some_and(|text| values.iter().any(|v| v.to_lowercase() == text.to_lowercase())),
            Self::Network(address, bits) => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                let parsed = entry.text("ip_address").and_then(|t| t.parse::<std::net::Ipv4Addr>().ok());
                parsed.is_some_and(|ip| ip.to_bits() & mask == address & mask)
            }
            Self::MinSequence(min) => entry.sequence >= *min,
            Self::MaxSequence(max) => entry.sequence <= *max,
            Self::Leaf(path, values) => {
                let mut found = false;
                if entry.json["metadata"].is_object() {
                    leaves(&entry.json["metadata"], &mut Vec::new(), &mut |at, text| {
                        found |= at == path.as_slice() && values.contains(&text)
                    });
                }
                found
            }
            Self::Agent(wanted) => entry.text("user_agent").is_some_and(|text| {
                let has = words(text);
                wanted.iter().all(|w| has.contains(w))
            }),
            Self::Search(search) => search.holds(entry),
        }
    }
}

/// The matching entries in the order of a sort.
pub fn list<'a>(entries: &'a [Entry], conditions: &[Condition], sort: &str) -> Vec<&'a Entry> {
    let mut found: Vec<&Entry> = entries.iter().filter(|e| conditions.iter().all(|c| c.holds(e))).collect();
    match sort {
        "timestamp:asc" | "timestamp:desc" => found.sort_by_key(|e| (e.timestamp, e.sequence)),
        _ => found.sort_by_key(|e| e.sequence),
    }
    if sort.ends_with(":desc") {
        found.reverse();
    }
    found
}

/// `{key: count}` of a field.
pub fn count_by(entries: &[&Entry], field: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for text in entries.iter().filter_map(|e| e.text(field)) {
        *counts.entry(text.to_owned()).or_default() += 1;
    }
    counts
}

/// One group: how many entries, distinct users, smallest and largest time.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub count: u64,
    pub users: BTreeSet<String>,
    pub first: i64,
    pub last: i64,
}

/// Groups by several keys; a missing field is `None`. An entry with several values at a metadata path counts once in each.
pub fn groups(entries: &[&Entry], keys: &[String]) -> BTreeMap<Vec<Option<String>>, Group> {
    let mut all: BTreeMap<Vec<Option<String>>, Group> = BTreeMap::new();
    for entry in entries {
        let mut combined: Vec<Vec<Option<String>>> = vec![vec![]];
        for key in keys {
            let values = values_of(entry, key);
            combined = combined
                .iter()
                .flat_map(|head| values.iter().map(|v| [head.clone(), vec![v.clone()]].concat()))
                .collect();
        }
        for key in combined {
            let group = all.entry(key).or_insert(Group {
                count: 0,
                users: BTreeSet::new(),
                first: i64::MAX,
                last: i64::MIN,
            });
            group.count += 1;
            group.users.extend(entry.text("user_id").map(str::to_owned));
            (group.first, group.last) = (group.first.min(entry.timestamp), group.last.max(entry.timestamp));
        }
    }
    all
}

fn values_of(entry: &Entry, key: &str) -> Vec<Option<String>> {
    let Some(path) = key.strip_prefix("metadata.") else {
        return vec![entry.text(key).map(str::to_owned)];
    };
    let (mut found, path) = (BTreeSet::new(), path.split('.').collect::<Vec<_>>());
    if entry.json["metadata"].is_object() {
        leaves(&entry.json["metadata"], &mut Vec::new(), &mut |at, text| {
            if at == path.as_slice() {
                found.insert(Some(text));
            }
        });
    }
    if found.is_empty() { vec![None] } else { found.into_iter().collect() }
}
