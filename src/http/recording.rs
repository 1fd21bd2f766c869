//! What the handlers tell the access log: who asked, and with which parameters. How it is written: [`crate::lifecycle::access_log`].

use super::{
    error::Problem,
    query::Query,
    routes::{Endpoint, Operation as Op, Verb},
    server::Peer,
    state::App,
};
use crate::{
    auth::Principal,
    lifecycle::access_log::{Event, Who},
    model::{
        entry::Severity,
        tenant::{Log, TenantId, TenantScope},
    },
};
use axum::http::{StatusCode, header, request::Parts};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How long a read of the access log waits for what was recorded before it.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(2);
/// How often a waiting request looks, while no seal becomes visible.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Parameters that are no filters: the credential, what stands elsewhere in the entry, and what nobody can read.
const NO_FILTERS: [&str; 3] = ["token", "log", "cursor"];

/// The caller of a request.
pub fn who(caller: &Principal, parts: &Parts, request_id: &Arc<str>) -> Arc<Who> {
    let agent = parts.headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    Arc::new(Who::new(caller, Peer::of(&parts.extensions).0, agent.as_deref(), request_id.clone()))
}

/// A plain read of one of the tenant's logs.
pub fn read(action: &'static str, log: Log, query: &Query) -> Event {
    Event::read(action, "log", log.name()).text("log", log.name()).filters(filters(query))
}

/// Writes down what was done in one of the tenant's logs, or to the tenant.
pub fn tell(app: &App, scope: &TenantScope, who: &Who, event: &Event) {
    app.services.access_log.record(&scope.tenant().owner(), who, event);
}

/// Writes down a change, and waits until that is durable, for a bounded time.
pub async fn changed(app: &App, scope: &TenantScope, who: &Who, event: Event) {
    app.services.access_log.changed(&scope.tenant().owner(), who, &event).await;
}

/// The parameters that say what was asked for.
pub fn filters(query: &Query) -> impl Iterator<Item = (&str, &str)> {
    query.pairs().filter(|(name, _)| !NO_FILTERS.contains(name))
}

/// Writes down that a caller was denied something, if that is why it failed, in its own tenant. Nothing is written for a tenant that does not exist.
pub fn denied(app: &App, tenant: &TenantId, who: &Who, endpoint: &Endpoint, problem: &Problem) {
    let (status, code, _) = problem.code().row();
    if status != StatusCode::FORBIDDEN {
        return;
    }
    let event = Event::change("sluice.denied", "endpoint", format!("{} {}", endpoint.verb.as_str(), endpoint.path))
        .severity(Severity::Warning)
        .text("code", code)
        .number("status", u64::from(status.as_u16()));
    app.services.access_log.record(tenant, who, &event);
}

/// Whether a call may change something, so that it goes on to its end, and to its entry in the access log, also when the
/// client goes away.
pub fn is_change(endpoint: &Endpoint) -> bool {
    endpoint.verb != Verb::Get && !matches!(endpoint.operation, Op::PostLog | Op::PostBulk | Op::SearchLogs)
}

/// Waits, for a short while, until what was recorded in the tenant's access log before the call can be read there.
pub async fn caught_up(app: &App, scope: &TenantScope) {
    let waiting = async {
        app.services.access_log.settled(&scope.tenant().owner(), CAUGHT_UP_WITHIN).await;
        decided(app, scope, CAUGHT_UP_WITHIN).await;
    };
    let _ = timeout(CAUGHT_UP_WITHIN, waiting).await; // what stands still must not hold up a read for ever
}

/// Waits, for a short while, until everything is decided and visible that was acknowledged before the call: with roles split, by this
/// process.
pub async fn decided(app: &App, scope: &TenantScope, within: Duration) {
    if !app.services.producer.knows_pending() {
        return app.services.producer.until_decided(scope, within).await;
    }
    let counters = || app.services.producer.counters(scope);
    let accepted = counters().accepted;
    let caught_up = || {
        let now = counters();
        now.stored + now.duplicate + now.dead_lettered >= accepted
    };
    let mut visible = app.services.authority.visible();
    let waiting = async {
        while !caught_up() {
            tokio::select! {
                _ = visible.changed() => (),
                () = sleep(LOOK_EVERY) => (),
            }
        }
    };
    let _ = timeout(within, waiting).await; // what stands still must not hold up a request for ever
}
