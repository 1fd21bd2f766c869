//! `GET /logs/stats`: which counts are asked for, and how they are written.

use super::{
    access,
    dispatch::{Call, json},
    error::{Answer, FieldError, Problem},
    filter,
    query::{Query, nearest},
    recording,
};
use crate::{
    model::{
        calendar::{Interval, Zone},
        conditions::{Refused, path as path_of},
        entry::{Field, Severity},
        json::write_str,
        mask::Mask,
        time::write_rfc3339,
    },
    sinks::{Bucket, Group, GroupBy, GroupKey, Stats, StatsQuery},
};

const DEFAULT_GROUPS: usize = 100;
const MOST_GROUPS: usize = 10_000;
/// Keys that groups can have at once: more would hardly group anything.
const MOST_KEYS: usize = 8;

/// Keys that are fields of an entry.
const FIELDS: [Field; 6] = [
    Field::Action,
    Field::ResourceType,
    Field::UserId,
    Field::IpAddress,
    Field::SessionId,
    Field::ResourceId,
];
const SEVERITY: &str = "severity";
const METADATA: &str = "metadata.";

/// `GET /logs/stats`.
pub async fn stats(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let reading = access::reading(&call.app, caller, action)?.of_log(&call.app, caller, &call.query).await?;
    let (filter, more) = filter::both(filter::filter(&call.query), Asked::of(&call.query))?;
    let filter = filter::through(reading.mask.as_ref(), filter)?;
    if let Some(mask) = &reading.mask {
        more.shown_by(mask)?;
    }
    let (from, to, searched) = (filter.from, filter.to, filter.search.is_some());
    let query = StatsQuery {
        filter,
        series: more.series,
        groups: more.groups,
    };
    let stats = call.app.services.authority.stats(&reading.scope, query).await?;
    let event = recording::read("sluice.stats", reading.log, &call.query).number("rows", stats.total);
    recording::tell(&call.app, &reading.scope, &*call.who()?, &event);
    let degraded = call.app.services.authority.condition(searched).is_degraded();
    Ok(json(render(&stats, from, to, &more.names, degraded)))
}

/// What is asked for besides the filter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    series: Option<Interval>,
    groups: Option<GroupBy>,
    /// The keys of the groups as they were asked for.
    names: Vec<String>,
}

impl Asked {
    /// 403 if groups are made by what the mask hides.
    fn shown_by(&self, mask: &Mask) -> Result<(), Problem> {
        let keys = self.groups.iter().flat_map(|groups| &groups.keys);
        let hidden = |key: &GroupKey| match key {
            GroupKey::Field(field) => mask.hides_field(*field),
            GroupKey::Leaf(path) => mask.hides_leaf(path),
            GroupKey::Severity => false,
        };
        let found = keys.zip(&self.names).find(|(key, _)| hidden(key));
        found.map_or(Ok(()), |(_, name)| Err(filter::masked(name)))
    }

    fn of(query: &Query) -> Result<Self, Problem> {
        let (mut asked, mut errors) = (Self::default(), Vec::new());
        let mut note = |field: &str, refused: Refused| errors.push(FieldError::new(field, refused.0, refused.1));
        match series(query) {
            Ok(series) => asked.series = series,
            Err((field, refused)) => note(field, refused),
        }
        let mut keys = Vec::new();
        for name in query.pairs().filter(|(name, _)| *name == "group_by").flat_map(|(_, list)| split(list)) {
            match group_key(&name) {
                Ok(key) if keys.contains(&key) => note("group_by", ("repeated", "`group_by` names a key twice".to_owned())),
                Ok(_) if keys.len() == MOST_KEYS => {
                    note("group_by", ("too_many", format!("`group_by` takes at most {MOST_KEYS} keys")));
                    break;
                }
                Ok(key) => {
                    keys.push(key);
                    asked.names.push(name);
                }
                Err(refused) => note("group_by", refused),
            }
        }
        let limit = match query.get("limit") {
            None => Ok(DEFAULT_GROUPS),
            Some(text) => limit(text),
        };
        match limit {
            Ok(_) if keys.is_empty() && query.get("limit").is_some() && query.get("group_by").is_none() => {
                note("limit", ("conflict", "`limit` is the number of groups: give `group_by` too".to_owned()));
            }
            Ok(limit) => asked.groups = (!keys.is_empty()).then_some(GroupBy { keys, limit }),
            Err(refused) => note("limit", refused),
        }
        if errors.is_empty() { Ok(asked) } else { Err(Problem::parameters(errors)) }
    }
}

fn series(query: &Query) -> Result<Option<Interval>, (&'static str, Refused)> {
    let zone = match query.get("zone") {
        None => Zone::default(),
        Some(text) => zone(text).map_err(|refused| ("zone", refused))?,
    };
    match (query.get("interval"), query.get("zone")) {
        (Some(text), _) => match Interval::parse(text, zone) {
            Some(interval) => Ok(Some(interval)),
            None => Err(("interval", ("invalid_interval", format!("`interval` is {}", Interval::SYNTAX)))),
        },
        (None, Some(_)) => Err(("zone", ("conflict", "`zone` says where days begin: give `interval` too".to_owned()))),
        (None, None) => Ok(None),
    }
}

fn zone(text: &str) -> Result<Zone, Refused> {
    // A `+` that was not escaped arrives as a space.
    let mended = text.strip_prefix(' ').map(|rest| format!("+{rest}"));
    Zone::parse(mended.as_deref().unwrap_or(text)).ok_or_else(|| {
        let near = nearest(text, Zone::names()).unwrap_or("UTC");
        (
            "invalid_zone",
            format!("`zone` is an IANA name like Europe/Vienna, or an offset like +05:30; the nearest known name is `{near}`"),
        )
    })
}

fn limit(text: &str) -> Result<usize, Refused> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| text.parse().ok()).flatten();
    number.filter(|n| (1..=MOST_GROUPS).contains(n)).ok_or_else(|| {
        (
            "invalid_number",
            format!("`limit` is the number of groups, a whole number from 1 to {MOST_GROUPS}"),
        )
    })
}

/// Splits at commas; `\,` is a comma in a key of `metadata`.
fn split(list: &str) -> Vec<String> {
    let (mut names, mut chars) = (vec![String::new()], list.chars().peekable());
    while let Some(c) = chars.next() {
        let last = names.last_mut().expect("never empty");
        match c {
            '\\' if chars.next_if_eq(&',').is_some() => last.push(','),
            ',' => names.push(String::new()),
            c => last.push(c),
        }
    }
    names
}

fn group_key(name: &str) -> Result<GroupKey, Refused> {
    if let Some(path) = name.strip_prefix(METADATA).filter(|path| !path.is_empty()) {
        return Ok(GroupKey::Leaf(path_of(path)));
    }
    if name == SEVERITY {
        return Ok(GroupKey::Severity);
    }
    if let Some(field) = FIELDS.into_iter().find(|field| field.name() == name) {
        return Ok(GroupKey::Field(field));
    }
    let known = FIELDS.iter().map(|field| field.name()).chain([SEVERITY, "metadata.KEY"]);
    let near = nearest(name, known.clone()).unwrap_or(SEVERITY);
    let known: Vec<&str> = known.collect();
    Err((
        "unknown_key",
        format!(
            "`group_by` names a key that groups cannot have; the nearest one is `{near}`, and all are {}",
            known.join(", ")
        ),
    ))
}

fn render(stats: &Stats, from: Option<i64>, to: Option<i64>, names: &[String], degraded: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    put(&mut out, "{\"total\":", stats.total);
    time(&mut out, ",\"from\":", from);
    time(&mut out, ",\"to\":", to);
    severities(&mut out, &stats.by_severity);
    map(&mut out, ",\"by_action\":", &stats.by_action);
    map(&mut out, ",\"by_resource_type\":", &stats.by_resource_type);
    list(&mut out, ",\"top_users\":[", &stats.top_users, |out, (user, count)| {
        out.extend_from_slice(b"{\"user_id\":");
        write_str(out, user);
        put(out, ",\"count\":", *count);
        out.push(b'}');
    });
    put(&mut out, ",\"unique_users\":", stats.unique_users);
    if stats.approximate {
        out.extend_from_slice(b",\"approximate\":true");
    }
    time(&mut out, ",\"first\":", stats.first);
    time(&mut out, ",\"last\":", stats.last);
    if let Some(series) = &stats.series {
        list(&mut out, ",\"series\":[", series, bucket);
    }
    if let Some(groups) = &stats.groups {
        list(&mut out, ",\"groups\":[", groups, |out, one| group(out, one, names));
    }
    out.extend_from_slice(if degraded { b",\"degraded\":true}" } else { b"}" });
    out
}

fn bucket(out: &mut Vec<u8>, bucket: &Bucket) {
    time(out, "{\"start\":", Some(bucket.start));
    put(out, ",\"count\":", bucket.by_severity.iter().sum());
    severities(out, &bucket.by_severity);
    out.push(b'}');
}

fn group(out: &mut Vec<u8>, group: &Group, names: &[String]) {
    out.extend_from_slice(b"{\"key\":{");
    for (i, (name, value)) in names.iter().zip(&group.key).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_str(out, name);
        out.push(b':');
        match value {
            Some(text) => write_str(out, text),
            None => out.extend_from_slice(b"null"),
        }
    }
    put(out, "},\"count\":", group.count);
    put(out, ",\"unique_users\":", group.unique_users);
    time(out, ",\"first\":", Some(group.first));
    time(out, ",\"last\":", Some(group.last));
    out.push(b'}');
}

fn list<T>(out: &mut Vec<u8>, name: &str, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.extend_from_slice(name.as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn severities(out: &mut Vec<u8>, counts: &[u64; 4]) {
    out.extend_from_slice(b",\"by_severity\":{");
    for (i, severity) in Severity::ALL.into_iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",\"" } else { b"\"" });
        out.extend_from_slice(severity.as_str().as_bytes());
        put(out, "\":", counts[severity as usize]);
    }
    out.push(b'}');
}

fn put(out: &mut Vec<u8>, name: &str, number: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(number.to_string().as_bytes());
}

fn time(out: &mut Vec<u8>, name: &str, ms: Option<i64>) {
    out.extend_from_slice(name.as_bytes());
    match ms {
        Some(ms) => {
            out.push(b'"');
            write_rfc3339(ms, out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// Counts by key, and `other` when there are more keys. A key that is itself `other` is counted together with it: a JSON
/// object must not have one key twice.
fn map(out: &mut Vec<u8>, name: &str, (keys, other): &(Vec<(String, u64)>, u64)) {
    const OTHER: &str = "other";
    out.extend_from_slice(name.as_bytes());
    out.push(b'{');
    let mut rest = *other;
    for (i, (key, count)) in keys.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_str(out, key);
        let more = if key == OTHER { std::mem::take(&mut rest) } else { 0 };
        put(out, ":", count + more);
    }
    if rest > 0 {
        put(out, if keys.is_empty() { "\"other\":" } else { ",\"other\":" }, rest);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn asked(raw: &str) -> Result<Asked, String> {
        Asked::of(&Query::parse(Some(raw)).expect("well formed")).map_err(|problem| {
            assert_eq!(problem.code().row().0, 422, "{raw}");
            problem.detail().to_owned()
        })
    }

    #[test]
    fn keys_come_with_commas_or_repeated_and_keep_their_names() {
        let both = asked(r"group_by=action,metadata.a\.b&group_by=severity,metadata.x%5C,y&limit=10000").expect("good");
        let leaf = |path: &[&str]| GroupKey::Leaf(path.iter().map(|p| (*p).to_owned()).collect());
        let keys = vec![GroupKey::Field(Field::Action), leaf(&["a.b"]), GroupKey::Severity, leaf(&["x,y"])];
        assert_eq!(both.groups, Some(GroupBy { keys, limit: 10_000 }));
        assert_eq!(both.names, ["action", r"metadata.a\.b", "severity", "metadata.x,y"]);
        assert_eq!(asked("group_by=ip_address").expect("good").groups.expect("asked for").limit, 100);
        for name in ["resource_type", "user_id", "session_id", "resource_id"] {
            assert!(asked(&format!("group_by={name}")).is_ok(), "{name}");
        }
        assert_eq!(asked(""), Ok(Asked::default()));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (raw, says) in [
            ("group_by=", "the nearest one is"),
            ("group_by=actoin", "the nearest one is `action`"),
            ("group_by=user", "`user_id`"),
            ("group_by=message", "all are action, resource_type"),
            ("group_by=metadata.", "`metadata.KEY`"),
            ("group_by=action,,severity", "the nearest one is"),
            ("group_by=action,action", "twice"),
            (
                "group_by=metadata.1,metadata.2,metadata.3,metadata.4,metadata.5,metadata.6,metadata.7,metadata.8,metadata.9",
                "at most 8",
            ),
            ("group_by=action&limit=0", "1 to 10000"),
            ("group_by=action&limit=10001", "1 to 10000"),
            ("group_by=action&limit=+1", "1 to 10000"),
            ("limit=5", "`group_by`"),
            ("interval=", "30s, 5m, 1h"),
            ("interval=hour", "30s, 5m, 1h"),
            ("interval=0s", "30s, 5m, 1h"),
            ("interval=1d&zone=Europe/Vienne", "`Europe/Vienna`"),
            ("interval=1d&zone=", "offset like +05:30"),
            ("zone=UTC", "`interval`"),
            ("interval=x&limit=y", "2 parameters"),
        ] {
            let detail = asked(raw).expect_err(raw);
            assert!(detail.contains(says), "{raw}: {detail}");
        }
        for raw in ["interval=1d&zone=%2B05:30", "interval=1d&zone=+05:30"] {
            let day = Interval::parse("1d", Zone::Fixed(19_800_000));
            assert_eq!(asked(raw).expect("good").series, day, "{raw}: an unescaped plus, too");
        }
    }

    #[test]
    fn series_and_groups_are_written_as_the_contract_says() {
        let stats = Stats {
            series: Some(vec![
                Bucket {
                    start: 0,
                    by_severity: [1, 0, 2, 0],
                },
                Bucket {
                    start: 60_000,
                    by_severity: [0; 4],
                },
            ]),
            groups: Some(vec![Group {
                key: vec![Some("a\"b".into()), None],
                count: 3,
                unique_users: 2,
                first: 0,
                last: 1,
            }]),
            approximate: true,
            ..Stats::default()
        };
        let names = ["action".to_owned(), "metadata.k".to_owned()];
        let got: Value = serde_json::from_slice(&render(&stats, None, None, &names, true)).expect("JSON");
        let severities = |info, error| json!({"INFO": info, "WARNING": 0, "ERROR": error, "CRITICAL": 0});
        assert_eq!(
            got["series"],
            json!([
                {"start": "1970-01-01T00:00:00.000Z", "count": 3, "by_severity": severities(1, 2)},
                {"start": "1970-01-01T00:01:00.000Z", "count": 0, "by_severity": severities(0, 0)},
            ])
        );
        assert_eq!(
            got["groups"],
            json!([{"key": {"action": "a\"b", "metadata.k": null}, "count": 3, "unique_users": 2,
                "first": "1970-01-01T00:00:00.000Z", "last": "1970-01-01T00:00:00.001Z"}])
        );
        assert_eq!((&got["approximate"], &got["degraded"]), (&json!(true), &json!(true)));
        let empty = Stats {
            series: Some(Vec::new()),
            groups: Some(Vec::new()),
            ..Stats::default()
        };
        let got: Value = serde_json::from_slice(&render(&empty, None, None, &[], false)).expect("JSON");
        assert_eq!((&got["series"], &got["groups"]), (&json!([]), &json!([])));
    }

    #[test]
    fn statistics_have_every_field_of_the_contract() {
        let stats = Stats {
            total: 9,
            by_severity: [5, 0, 4, 0],
            by_action: (vec![("LOGIN".into(), 5), ("other".into(), 1)], 3),
            by_resource_type: (vec![("a\"b".into(), 9)], 0),
            top_users: vec![("ann".into(), 7)],
            unique_users: 2,
            first: Some(0),
            last: Some(1_704_067_200_001),
            ..Stats::default()
        };
        let got: Value = serde_json::from_slice(&render(&stats, Some(0), None, &[], false)).expect("JSON");
        let want = json!({
            "total": 9, "from": "1970-01-01T00:00:00.000Z", "to": null,
            "by_severity": {"INFO": 5, "WARNING": 0, "ERROR": 4, "CRITICAL": 0},
            "by_action": {"LOGIN": 5, "other": 4}, "by_resource_type": {"a\"b": 9},
            "top_users": [{"user_id": "ann", "count": 7}], "unique_users": 2,
            "first": "1970-01-01T00:00:00.000Z", "last": "2024-01-01T00:00:00.001Z",
        });
        assert_eq!(got, want);
        let empty: Value = serde_json::from_slice(&render(&Stats::default(), None, None, &[], false)).expect("JSON");
        assert_eq!((&empty["total"], &empty["by_action"], &empty["first"]), (&json!(0), &json!({}), &Value::Null));
    }
}
