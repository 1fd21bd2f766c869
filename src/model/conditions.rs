//! `name=value` becomes a condition of a [`Filter`]: the query parameters of `http` and `field:value` of the search language
//! are read by this one function, so that they mean the same. What it says about a bad value never echoes the value.

use super::{
    entry::Severity,
    filter::{Filter, IpRange, LeafFilter},
    time::{DAY_MS, parse_date, parse_rfc3339},
    words::for_each_word,
};
use uuid::Uuid;

/// Longest text of a leaf that can be asked for, bytes.
pub const LEAF_BYTES: usize = 512;

/// What is wrong with a value: a code for programs, and for people what is wrong and what would be right.
pub type Refused = (&'static str, String);

/// Adds a condition. Repeats of a name are OR. Gives `false`, and changes nothing, if no condition has that name.
pub fn add(filter: &mut Filter, name: &str, value: &str) -> Result<bool, Refused> {
    match name {
        // Repeats are OR, so the widest bound holds.
        "from" | "start_time" | "start_date" => widen(&mut filter.from, time(name, value)?, i64::min),
        "to" | "end_time" | "end_date" => widen(&mut filter.to, time(name, value)?, i64::max),
        "min_sequence" => widen(&mut filter.min_sequence, number(name, value)?, u64::min),
        "max_sequence" => widen(&mut filter.max_sequence, number(name, value)?, u64::max),
        "timestamp" => filter.timestamps.push(match parse_date(value) {
            Some(day) => (day, day + DAY_MS),
            None => time(name, value).map(|at| (at, at + 1))?,
        }),
        "id" => filter
            .ids
            .push(Uuid::try_parse(value).map_err(|_| ("invalid_id", "`id` is no UUID; write it like 0190a3b4-…".to_owned()))?),
        "user_id" => filter.user_id.push(value.to_owned()),
        "email" => filter.email.push(value.to_owned()),
        "session_id" => filter.session_id.push(value.to_owned()),
        "resource_id" => filter.resource_id.push(value.to_owned()),
        "request_id" => filter.request_id.push(value.to_owned()),
        "actor" => filter.actor.push(value.to_owned()),
        "action" => any_case(&mut filter.action, name, value)?,
        "resource_type" => any_case(&mut filter.resource_type, name, value)?,
        "severity" => {
            for part in value.split(',') {
                let severity = Severity::parse(part.trim());
                filter
                    .severity
                    .push(severity.ok_or_else(|| ("invalid_severity", "`severity` is one of INFO, WARNING, ERROR, CRITICAL".to_owned()))?);
            }
        }
        "ip_address" => filter
            .ip_address
            .push(IpRange::parse(value).ok_or_else(|| ("invalid_ip", "`ip_address` is an IPv4 or IPv6 address, or a range like 10.0.0.0/8".to_owned()))?),
        "user_agent" => {
            let mut words = Vec::new();
            for_each_word(value, &mut |word| words.push(word.to_owned()));
            if words.is_empty() {
                return Err(("empty", "`user_agent` has no word; give letters or digits".to_owned()));
            }
            filter.user_agent.push(words);
        }
        _ => match name.strip_prefix("metadata.") {
            Some(key) => leaf(filter, key, value)?,
            None => return Ok(false),
        },
    }
    Ok(true)
}

fn widen<T: Copy>(bound: &mut Option<T>, value: T, wider: fn(T, T) -> T) {
    *bound = Some(bound.map_or(value, |old| wider(old, value)));
}

/// An instant, or a date: midnight UTC at its start.
pub fn time(name: &str, value: &str) -> Result<i64, Refused> {
    // A `+` that was not escaped arrives as a space: only a zone can have stood there.
    let mended = || value.rfind(' ').map(|at| format!("{}+{}", &value[..at], &value[at + 1..]));
    parse_date(value)
        .or_else(|| parse_rfc3339(value))
        .or_else(|| parse_rfc3339(&mended()?))
        .ok_or_else(|| {
            (
                "invalid_time",
                format!("`{name}` is no time; write RFC 3339 with a zone, like 2024-01-31T12:00:00Z, or a date, like 2024-01-31"),
            )
        })
}

/// A whole number in plain digits.
pub fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Refused> {
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    plain
        .then(|| value.parse().ok())
        .flatten()
        .ok_or_else(|| ("invalid_number", format!("`{name}` is a whole number from 0 on")))
}

fn any_case(into: &mut Vec<String>, name: &str, value: &str) -> Result<(), Refused> {
    for part in value.split(',') {
        if part.is_empty() {
            return Err(("empty", format!("`{name}` has an empty value; no entry has one")));
        }
        into.push(part.to_lowercase());
    }
    Ok(())
}

fn leaf(filter: &mut Filter, key: &str, value: &str) -> Result<(), Refused> {
    if value.len() > LEAF_BYTES {
        return Err(("too_long", format!("the value of a metadata leaf is at most {LEAF_BYTES} bytes")));
    }
    let path = path(key);
    match filter.metadata.iter_mut().find(|leaf| leaf.path == path) {
        Some(leaf) => leaf.values.push(value.to_owned()),
        None => filter.metadata.push(LeafFilter {
            path,
            values: vec![value.to_owned()],
        }),
    }
    Ok(())
}

/// The keys of a dotted path; `\.` is a literal dot.
pub fn path(key: &str) -> Vec<String> {
    let (mut path, mut chars) = (vec![String::new()], key.chars().peekable());
    while let Some(c) = chars.next() {
        let last = path.last_mut().expect("never empty");
        match c {
            '\\' if chars.next_if_eq(&'.').is_some() => last.push('.'),
            '.' => path.push(String::new()),
            c => last.push(c),
        }
    }
    path
}
