//! Reading: one entry, a page of them. Answers are written as text, entry by entry, never as a tree of values.

use super::{
    access,
    dispatch::{Call, json},
    error::{Answer, Problem},
    filter::{self, Page},
    state::App,
};
use crate::{
    model::{
        entry::StoredEntry,
        render::write_entry,
        tenant::{TenantId, TenantScope},
    },
    sinks::{ListPage, ListQuery, StoreError},
};
use axum::body::Body;
use bytes::Bytes;
use std::{convert::Infallible, time::Duration};
use tokio::time::Instant;
use uuid::Uuid;

/// A longer answer is sent in pieces of about this size, each written when the client has taken the one before.
const PIECE: usize = 256 << 10;
/// The longest `wait` of a get, seconds.
const LONGEST_WAIT: u64 = 10;

/// `GET /logs`.
pub async fn list(call: Call) -> Answer {
    let (caller, action) = call.caller()?;
    let (scope, _) = access::own_tenant(&call.app, caller, action)?;
    let (filter, page) = filter::both(filter::filter(&call.query), filter::page(&call.query))?;
    let query = ListQuery {
        filter,
        sort: page.sort,
        skip: page.skip,
        limit: page.page_size,
        count: page.count,
        ..ListQuery::default()
    };
    let found = call.app.services.authority.list(&scope, query).await?;
    let meta = meta(&page, &found, call.app.services.health.is_lagging());
    Ok(pieces(scope.tenant().clone(), found.entries, meta))
}

fn meta(page: &Page, found: &ListPage, lagging: bool) -> String {
    let Page { page, page_size, .. } = page;
    let number = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
    let pages = found.total.map(|total| total.div_ceil(*page_size as u64));
    let degraded = if lagging { ",\"degraded\":true" } else { "" };
    format!(
        "{{\"total\":{},\"total_is_exact\":{},\"page\":{page},\"page_size\":{page_size},\"pages\":{},\"next_cursor\":null,\"as_of\":{}{degraded}}}",
        number(found.total),
        found.total_is_exact,
        number(pages),
        found.as_of,
    )
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
