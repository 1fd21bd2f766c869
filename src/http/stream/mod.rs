//! `GET /logs/stream`: the live feed over WebSocket or Server-Sent Events.
//!
//! Everything that can be refused is refused before the upgrade: credential, role, tenant, filters, `after`. Only a socket
//! without a credential is upgraded first; it is a *stranger* until it has named one, strangers are few, and wait 5 s at most.

mod sse;
mod watch;
mod ws;

use super::{
    access,
    dispatch::Call,
    error::{Answer, Code, FieldError, Problem},
    filter,
    query::Query,
    recording,
    routes::{Access, Endpoint},
    state::App,
};
use crate::{
    actors::broadcast::Session,
    auth::{
        Credential, Principal,
        policy::{self, Action},
    },
    lifecycle::access_log::{AccessLog, Event, Who},
    model::{
        feed::{FeedItem, OnSlow},
        filter::Filter,
        mask::Mask,
        tenant::{Log, TenantId},
    },
};
use axum::{
    extract::{FromRequestParts, WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, header, request::Parts},
};
use std::{sync::Arc, time::Duration};
use watch::Watch;

/// What a reader asks for.
struct Wanted {
    query: Query,
    filter: Filter,
    after: Option<u64>,
    on_slow: OnSlow,
}

/// A feed that was granted: the session, and the credential that it lives by.
struct Granted {
    feed: Feed,
    watch: Watch,
}

/// The session, and what is told of it.
struct Feed {
    session: Session,
    sight: Sight,
    told: Told,
}

/// What the access log is told when a session ends, however it does.
struct Told {
    access_log: AccessLog,
    tenant: TenantId,
    who: Arc<Who>,
    log: Log,
    rows: u64,
}

impl Drop for Told {
    fn drop(&mut self) {
        let event = Event::read("sluice.stream.end", "log", self.log.name()).text("log", self.log.name());
        self.access_log.record(&self.tenant, &self.who, &event.number("rows", self.rows));
    }
}

/// Opens a feed.
pub async fn open(mut call: Call) -> Answer {
    let headers = &call.parts.headers;
    let (socket, events) = (asks_for_socket(headers), asks_for_events(headers));
    let credential = access::credential(&call.parts, call.query.get("token"), call.app.services.auth.takes_gateways());
    let caller = match credential.map_err(|refused| access::counted(&call.app, &call.parts, refused))? {
        Some(credential) => {
            let (caller, action) = authorised(&call.app, credential, &call.parts, &call.request_id, call.endpoint).await?;
            access::not_borrowed(&call.app, &caller, call.endpoint, &call.parts)?;
            Some((caller, action))
        }
        None if socket => None,
        None => return Err(access::counted(&call.app, &call.parts, access::missing())),
    };
    call.query.check(call.endpoint)?;
    let wanted = wanted(std::mem::take(&mut call.query), &call.parts.headers)?;
    if !socket && !events {
        return Err(upgrade_required());
    }
    if !socket {
        let (caller, action) = caller.ok_or_else(access::missing)?;
        let granted = subscribe(&call.app, &caller, action, wanted, &call.parts, &call.request_id).await?;
        return Ok(sse::answer(&call.app, granted));
    }
    // The handshake is checked before the session is made, so that a broken one costs nothing.
    let upgrade = WebSocketUpgrade::from_request_parts(&mut call.parts, &()).await;
    let upgrade = upgrade.map_err(|_broken| upgrade_required())?;
    match caller {
        Some((caller, action)) => {
            let granted = subscribe(&call.app, &caller, action, wanted, &call.parts, &call.request_id).await?;
            Ok(ws::answer(&call.app, upgrade, granted))
        }
        None => {
            let place = call.app.strangers.clone().try_acquire_owned();
            let place = place.map_err(|_full| {
                Problem::new(
                    Code::Unavailable,
                    "too many sockets wait for their credential; send it as a header or `?token=`",
                )
                .retry_after(Duration::from_secs(5))
            })?;
            let stranger = ws::Stranger {
                wanted,
                parts: call.parts,
                request_id: call.request_id,
                endpoint: call.endpoint,
                place,
            };
            Ok(ws::answer_stranger(&call.app, upgrade, stranger))
        }
    }
}

fn asks_for_socket(headers: &HeaderMap) -> bool {
    let value = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    value.is_some_and(|v| v.split(',').any(|name| name.trim().eq_ignore_ascii_case("websocket")))
}

fn asks_for_events(headers: &HeaderMap) -> bool {
    let accepts = |v: &HeaderValue| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

fn upgrade_required() -> Problem {
    Problem::new(
        Code::UpgradeRequired,
        "connect with WebSocket (version 13), or ask for Server-Sent Events with `Accept: text/event-stream`",
    )
    .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
    .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"))
    .with_header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
}

/// Who the credential speaks for, if that is somebody who may follow a tenant's feed.
async fn authorised(app: &App, credential: Credential<'_>, parts: &Parts, request_id: &Arc<str>, endpoint: &Endpoint) -> Result<(Principal, Action), Problem> {
    let caller = access::authenticate(app, credential, parts).await?;
    match endpoint.access {
        Access::May(action) if policy::allowed(&caller, action) => Ok((caller, action)),
        _ => {
            let problem = access::denied();
            if let Some(tenant) = &caller.tenant {
                recording::denied(app, tenant, &recording::who(&caller, parts, request_id), endpoint, &problem);
            }
            Err(problem)
        }
    }
}

fn wanted(query: Query, headers: &HeaderMap) -> Result<Wanted, Problem> {
    let mut errors = Vec::new();
    // A browser that reconnects repeats its URL and adds the header, so the header is newer.
    let last = headers.get("last-event-id").map(|v| v.to_str().unwrap_or("?")).filter(|v| !v.is_empty());
    let (name, value) = match (last, query.get("after")) {
        (Some(last), _) => ("Last-Event-ID", Some(last)),
        (None, after) => ("after", after),
    };
    let after = value.and_then(|v| {
        let number = v.bytes().all(|b| b.is_ascii_digit()).then(|| v.parse::<u64>().ok()).flatten();
        if number.is_none() {
            errors.push(FieldError::new(
                name,
                "invalid_number",
                format!("`{name}` is a sequence: a whole number from 0 on"),
            ));
        }
        number
    });
    let on_slow = match query.get("on_slow") {
        None | Some("catch_up") => OnSlow::CatchUp,
        Some("gap") => OnSlow::Gap,
        Some("close") => OnSlow::Close,
        Some(_) => {
            errors.push(FieldError::new("on_slow", "invalid_value", "`on_slow` is one of catch_up, gap, close"));
            OnSlow::default()
        }
    };
    let own = if errors.is_empty() { Ok(()) } else { Err(Problem::parameters(errors)) };
    let (filter, ()) = filter::both(filter::filter(&query), own)?;
    Ok(Wanted { query, filter, after, on_slow })
}

async fn subscribe(app: &App, caller: &Principal, action: Action, wanted: Wanted, parts: &Parts, request_id: &Arc<str>) -> Result<Granted, Problem> {
    let Wanted { query, filter, after, on_slow } = wanted;
    let access::Reading { scope, log, mask } = access::reading(app, caller, action)?.of_log(app, caller, &query).await?;
    let (tenant, who) = (scope.tenant().owner(), recording::who(caller, parts, request_id));
    let filter = filter::through(mask.as_ref(), filter)?;
    let sight = Sight {
        tenant: tenant.clone(),
        masked: caller.masked(),
        mask,
    };
    // A reader that comes from another process may be ahead of what this one has seen.
    app.services.authority.refreshed(&scope).await?;
    let session = app.services.feed.subscribe(scope, filter, after, on_slow).await?;
    app.services.access_log.record(&tenant, &who, &recording::read("sluice.stream", log, &query));
    Ok(Granted {
        watch: Watch::new(app, caller),
        feed: Feed {
            session,
            sight,
            told: Told {
                access_log: app.services.access_log.clone(),
                tenant,
                who,
                log,
                rows: 0,
            },
        },
    })
}

/// What a session sees entries through.
struct Sight {
    tenant: TenantId,
    masked: bool,
    mask: Option<Arc<Mask>>,
}

impl Sight {
    /// Whether that is still what the tenant has set. Asked before each frame: what was masked otherwise is not sent, and the
    /// session ends, so that the reader resumes under the new mask.
    fn holds(&self, app: &App) -> bool {
        let tenant = app.services.catalog.get(&self.tenant);
        tenant.is_some_and(|tenant| access::mask_for(self.masked, &tenant) == self.mask)
    }
}

/// The text of a frame that is no entry.
fn span(kind: &str, from: u64, to: u64) -> String {
    format!("{{\"type\":\"{kind}\",\"from\":{from},\"to\":{to}}}")
}

impl Feed {
    /// The next thing to send. Cancel-safe.
    async fn next(&mut self) -> Frame {
        let item = self.session.next().await;
        self.told.rows += u64::from(matches!(item, FeedItem::Entry { .. }));
        frame(item)
    }
}

/// What the feed sends, as text and with the number that a reader resumes after.
enum Frame {
    Text(u64, bytes::Bytes),
    End(crate::model::feed::FeedEnd),
}

fn frame(item: FeedItem) -> Frame {
    match item {
        FeedItem::Entry { sequence, json } => Frame::Text(sequence, json),
        FeedItem::Gap { from, to } => Frame::Text(to, span("gap", from, to).into()),
        FeedItem::Void { from, to } => Frame::Text(to, span("void", from, to).into()),
        FeedItem::Closed(end) => Frame::End(end),
    }
}
