//! Reading: one entry, a page of them. Answers are written as text, entry by entry, never as a tree of values.

use super::{
    access,
    cursor::{self, Cursor},
    dispatch::{Call, json},
    error::{Answer, Problem},
    filter::{self, Total},
    query::Query,
    recording, search,
    state::App,
};
use crate::{
    lifecycle::access_log::{Event, Who},
    model::{
        entry::StoredEntry,
        render::write_entry,
        tenant::{TenantId, TenantScope},
    },
    sinks::{Count, ListQuery, Place, StoreError},
};
use axum::{body::Body, http::StatusCode};
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
    let reading = access::reading(&call.app, caller, action)?.of_log(&call.app, caller, &call.query).await?;
    page(&call.app, &reading, &call.query, &*call.who()?).await
}

/// `POST /logs/search`: the same, with a body.
pub async fn search(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let reading = access::reading(&call.app, caller, action)?;
    let (app, caller, who) = (call.app.clone(), caller.clone(), call.who()?);
    let query = search::parameters(call, &reading.scope).await?;
    let reading = reading.of_log(&app, &caller, &query).await?;
    page(&app, &reading, &query, &who).await
}

async fn page(app: &App, reading: &access::Reading, query: &Query, who: &Who) -> Answer {
    let access::Reading { scope, mask, .. } = reading;
    let text = query.get("cursor");
    if text.is_some() && (query.get("page").is_some() || query.get("skip").is_some()) {
        return Err(cursor::invalid("give `cursor` or a page, not both; the cursor knows where to go on"));
    }
    let (filter, page) = filter::both(filter::filter(query), filter::page(query))?;
    let filter = filter::through(mask.as_ref(), filter)?;
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
    let event = recording::read("sluice.search", reading.log, query).number("rows", found.entries.len() as u64);
    recording::tell(app, scope, who, &event);
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
        degraded: app.services.authority.condition(filter.search.is_some()).is_degraded(),
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
    let reading = access::reading(&call.app, caller, action)?.of_log(&call.app, caller, &call.query).await?;
    let (scope, who) = (&reading.scope, call.who()?);
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
    let tell = |rows: u64| {
        let event = Event::read("sluice.get", "entry", id.to_string()).text("log", reading.log.name());
        let status = if rows == 0 { StatusCode::NOT_FOUND } else { StatusCode::OK };
        let event = event.number("rows", rows).number("status", u64::from(status.as_u16()));
        recording::tell(&call.app, scope, &who, &event);
    };
    loop {
        visible.mark_unchanged();
        if let Some(found) = find(&call.app, scope, id).await? {
            tell(1);
            let entry = reading.mask.as_ref().map_or_else(|| found.clone(), |mask| mask.entry(&found));
            let mut out = Vec::with_capacity(entry.record.len() + 512);
            write_entry(&mut out, scope.tenant(), &entry);
            return Ok(json(out));
        }
        if !matches!(tokio::time::timeout_at(deadline, visible.changed()).await, Ok(Ok(()))) {
            tell(0);
            return Err(Problem::not_found());
        }
    }
}

/// Store, then pending, then the store once more: between the first two it may have moved from the one to the other.
pub async fn find(app: &App, scope: &TenantScope, id: Uuid) -> Result<Option<StoredEntry>, StoreError> {
    let services = &app.services;
    if let Some(entry) = services.authority.get(scope, id).await? {
        return Ok(Some(entry));
    }
    match services.producer.pending(scope, id) {
        Some(entry) => Ok(Some(entry)),
        None => services.authority.get(scope, id).await,
    }
}
