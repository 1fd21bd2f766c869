//! Reading: one entry, a page of them, statistics. Answers are written as text, entry by entry, never as a tree of values.

use super::{
    access,
    cursor::{self, Cursor},
    dispatch::{Call, json},
    error::{Answer, Problem},
    filter::{self, Total},
    query::Query,
    search,
    state::App,
};
use crate::{
    model::{
        entry::{Severity, StoredEntry},
        json::write_str,
        render::write_entry,
        tenant::{TenantId, TenantScope},
        time::write_rfc3339,
    },
    sinks::{Count, ListQuery, Place, Stats, StoreError},
};
use axum::body::Body;
use bytes::Bytes;
use std::{convert::Infallible, time::Duration};
use tokio::time::Instant;
use uuid::Uuid;

/// A longer answer is sent in pieces of about this size, each written when the client has taken the one before.
const PIECE: usize = 256 << 10;
/// With `search`, matches are counted so far past the page, and for so long.
const COUNT_BEYOND: u64 = 10_000;
const COUNT_WITHIN: Duration = Duration::from_millis(200);
/// The longest `wait` of a get, seconds.
const LONGEST_WAIT: u64 = 10;

/// `GET /logs`.
pub async fn list(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    page(&call.app, &scope, &call.query).await
}

/// `POST /logs/search`: the same, with a body.
pub async fn search(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let app = call.app.clone();
    let query = search::parameters(call, &scope).await?;
    page(&app, &scope, &query).await
}

async fn page(app: &App, scope: &TenantScope, query: &Query) -> Answer {
    let text = query.get("cursor");
    if text.is_some() && (query.get("page").is_some() || query.get("skip").is_some()) {
        return Err(cursor::invalid("give `cursor` or a page, not both; the cursor knows where to go on"));
    }
    let (filter, page) = filter::both(filter::filter(query), filter::page(query))?;
    let purpose = cursor::Purpose {
        tenant: scope.tenant(),
        filter: &filter,
        sort: page.sort,
    };
    let cursors = &app.services.cursors;
    let from = text.map(|text| cursors.open(text, purpose)).transpose()?;
    let shown = from.map_or(page.skip as u64, |from| from.shown);
    let list = ListQuery {
        filter: filter.clone(),
        sort: page.sort,
        skip: page.skip,
        limit: page.page_size,
        count: count(page.total, filter.search.is_some(), from.map_or(0, |from| from.shown)),
        after: from.map(|from| from.place),
        upto: from.map(|from| from.upto),
        ..ListQuery::default()
    };
    let found = app.services.authority.list(scope, list).await?;
    let number = from.map_or(page.page as u64, |from| from.page);
    let next = found.entries.last().filter(|_| found.more).map(|last| {
        let cursor = Cursor {
            upto: found.as_of,
            place: Place {
                timestamp: last.entry().timestamp(),
                sequence: last.sequence.unwrap_or_default(),
            },
            shown: shown + found.entries.len() as u64,
            page: number + 1,
        };
        cursors.seal(&cursor, purpose)
    });
    let meta = Meta {
        page: number,
        page_size: page.page_size as u64,
        // What was shown was there, however early the count ended.
        total: found.total.map(|total| {
            if found.total_is_exact {
                total
            } else {
                total.max(shown + found.entries.len() as u64)
            }
        }),
        exact: found.total_is_exact,
        next,
        as_of: found.as_of,
        degraded: app.services.health.is_lagging() || app.services.authority.degraded(),
    };
    Ok(pieces(scope.tenant().clone(), found.entries, meta.render()))
}

/// How many matches are counted. Words are looked for in the text of each entry, so counting them ends early if it may.
fn count(total: Total, searched: bool, shown: u64) -> Count {
    match total {
        Total::No => Count::None,
        Total::Cheap if searched => Count::Bounded {
            beyond: shown.saturating_add(COUNT_BEYOND),
            within: COUNT_WITHIN,
        },
        Total::Cheap | Total::Exact => Count::Exact,
    }
}

/// What an answer says about its page.
struct Meta {
    page: u64,
    page_size: u64,
    total: Option<u64>,
    exact: bool,
    next: Option<String>,
    as_of: u64,
    degraded: bool,
}

impl Meta {
    fn render(&self) -> String {
        let Self { page, page_size, as_of, .. } = self;
        let number = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
        let pages = self.total.filter(|_| self.exact).map(|total| total.div_ceil(*page_size));
        let next = self.next.as_ref().map_or_else(|| "null".to_owned(), |next| format!("\"{next}\"")); // hexadecimal
        format!(
            "{{\"total\":{},\"total_is_exact\":{},\"page\":{page},\"page_size\":{page_size},\"pages\":{},\"next_cursor\":{next},\"as_of\":{as_of}{}}}",
            number(self.total),
            self.exact,
            number(pages),
            if self.degraded { ",\"degraded\":true" } else { "" },
        )
    }
}

/// A list answer. A short one is one buffer with its length; a long one is written piece by piece as the client takes it.
fn pieces(tenant: TenantId, entries: Vec<StoredEntry>, meta: String) -> axum::response::Response {
    let mut entries = entries.into_iter().peekable();
    let (mut first, mut meta) = (true, Some(meta));
    let mut next = move || {
        let tail = meta.take()?;
        let mut out = Vec::with_capacity(PIECE.min(entries.len() * 1024) + 256);
        if first {
            out.extend_from_slice(b"{\"data\":[");
        }
        while out.len() < PIECE {
            let Some(entry) = entries.next() else { break };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            write_entry(&mut out, &tenant, &entry);
        }
        if entries.peek().is_none() {
            out.extend_from_slice(b"],\"meta\":");
            out.extend_from_slice(tail.as_bytes());
            out.push(b'}');
        } else {
            meta = Some(tail);
        }
        Some(out)
    };
    let head = next().unwrap_or_default();
    let Some(second) = next() else { return json(head) };
    let rest = [head, second].into_iter().chain(std::iter::from_fn(next));
    let stream = futures_util::stream::iter(rest.map(|piece| Ok::<_, Infallible>(Bytes::from(piece))));
    let mut response = json(Vec::new());
    *response.body_mut() = Body::from_stream(stream);
    response
}

/// `GET /logs/{id}`: found as soon as the POST that made it has answered; with `wait`, waited for.
pub async fn get(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let wait = match call.query.get("wait") {
        None => 0,
        Some(text) => text.parse().ok().filter(|seconds| *seconds <= LONGEST_WAIT).ok_or_else(|| {
            Problem::parameter(
                "wait",
                "invalid_number",
                format!("`wait` is a whole number of seconds from 0 to {LONGEST_WAIT}"),
            )
        })?,
    };
    let id = Uuid::try_parse(&call.id).map_err(|_| Problem::not_found())?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let mut visible = call.app.services.authority.visible();
    loop {
        visible.mark_unchanged();
        if let Some(entry) = find(&call.app, &scope, id).await? {
            let mut out = Vec::with_capacity(entry.record.len() + 512);
            write_entry(&mut out, scope.tenant(), &entry);
            return Ok(json(out));
        }
        if !matches!(tokio::time::timeout_at(deadline, visible.changed()).await, Ok(Ok(()))) {
            return Err(Problem::not_found());
        }
    }
}

/// Store, then pending, then the store once more: between the first two it may have moved from the one to the other.
async fn find(app: &App, scope: &TenantScope, id: Uuid) -> Result<Option<StoredEntry>, StoreError> {
    let services = &app.services;
    if let Some(entry) = services.authority.get(scope, id).await? {
        return Ok(Some(entry));
    }
    match services.producer.pending(scope, id) {
        Some(entry) => Ok(Some(entry)),
        None => services.authority.get(scope, id).await,
    }
}

/// `GET /logs/stats`.
pub async fn stats(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let filter = filter::filter(&call.query)?;
    let (from, to) = (filter.from, filter.to);
    let stats = call.app.services.authority.stats(&scope, filter).await?;
    Ok(json(render_stats(&stats, from, to)))
}

fn render_stats(stats: &Stats, from: Option<i64>, to: Option<i64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    put(&mut out, "{\"total\":", stats.total);
    time(&mut out, ",\"from\":", from);
    time(&mut out, ",\"to\":", to);
    out.extend_from_slice(b",\"by_severity\":{");
    for (i, severity) in Severity::ALL.into_iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        put(&mut out, &format!("{comma}\"{}\":", severity.as_str()), stats.by_severity[severity as usize]);
    }
    out.push(b'}');
    map(&mut out, ",\"by_action\":", &stats.by_action);
    map(&mut out, ",\"by_resource_type\":", &stats.by_resource_type);
    out.extend_from_slice(b",\"top_users\":[");
    for (i, (user, count)) in stats.top_users.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",{\"user_id\":" } else { b"{\"user_id\":" });
        write_str(&mut out, user);
        put(&mut out, ",\"count\":", *count);
        out.push(b'}');
    }
    put(&mut out, "],\"unique_users\":", stats.unique_users);
    time(&mut out, ",\"first\":", stats.first);
    time(&mut out, ",\"last\":", stats.last);
    out.push(b'}');
    out
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
        };
        let got: Value = serde_json::from_slice(&render_stats(&stats, Some(0), None)).expect("JSON");
        let want = json!({
            "total": 9, "from": "1970-01-01T00:00:00.000Z", "to": null,
            "by_severity": {"INFO": 5, "WARNING": 0, "ERROR": 4, "CRITICAL": 0},
            "by_action": {"LOGIN": 5, "other": 4}, "by_resource_type": {"a\"b": 9},
            "top_users": [{"user_id": "ann", "count": 7}], "unique_users": 2,
            "first": "1970-01-01T00:00:00.000Z", "last": "2024-01-01T00:00:00.001Z",
        });
        assert_eq!(got, want);
        let empty: Value = serde_json::from_slice(&render_stats(&Stats::default(), None, None)).expect("JSON");
        assert_eq!((&empty["total"], &empty["by_action"], &empty["first"]), (&json!(0), &json!({}), &Value::Null));
    }
}
