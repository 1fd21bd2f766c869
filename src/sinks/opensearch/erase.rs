//! Deleting rows that erasures hide: housekeeping, at any time, or never.
//!
//! Reads leave erased rows out from the moment their seal is durable ([`super::read::Plan`]). When a seal with erasures is applied, a note
//! `erased-<tenant>` is written to `P-meta` with the rows of that seal; a sweep deletes by query what the tenant's staircase covers, and
//! then the note, unless it was written again meanwhile. A crash at any point leaves the note, so that the next sweep goes on. Rows
//! that a late writer brings after a sweep stay hidden, and the next erasure of that tenant deletes them too.

use super::{
    Inner,
    client::{Body, Fault},
    document::F,
    query::Query,
    read,
};
use crate::{model::tenant::TenantId, seal::Seal};
use opensearch::http::Method;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// A sweep that nobody asked for: what a crash or a fault left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Deleting many rows takes its time, and nothing waits for it.
const DELETE_WITHIN: Duration = Duration::from_secs(600);
/// Notes that are looked at in one sweep.
const NOTES: usize = 1_000;

/// Wakes the sweep.
#[derive(Default)]
pub struct Sweep {
    wanted: Arc<Notify>,
    started: AtomicBool,
}

impl Sweep {
    /// Something is to be deleted.
    pub fn wake(&self) {
        self.wanted.notify_one();
    }
}

/// The notes that a seal leaves: (`_id`, document).
pub fn notes(seal: &Seal) -> Vec<(String, Value)> {
    let note = |tenant: &TenantId| {
        let source = json!({ "kind": "erased", "tenant_id": tenant.as_str(), "seal": seal.n });
        (format!("erased-{tenant}"), source)
    };
    seal.erasures
        .iter()
        .map(|erasure| note(&seal.tenants[erasure.tenant as usize].tenant))
        .collect()
}

/// Begins to sweep, once; it ends with the store.
pub fn start(inner: &Arc<Inner>) {
    if inner.sweep.started.swap(true, Ordering::AcqRel) {
        return;
    }
    let (weak, wanted): (Weak<Inner>, _) = (Arc::downgrade(inner), inner.sweep.wanted.clone());
    tokio::spawn(async move {
        loop {
            let _ = timeout(SWEEP_EVERY, wanted.notified()).await;
            let Some(inner) = weak.upgrade() else { return };
            if let Err(fault) = sweep(&inner).await {
                tracing::warn!(fault = %fault.what, "erased rows of the search store are not deleted yet; they are in no answer");
            }
        }
    });
}

/// Deletes what is noted. Rows whose erasures this process does not know yet stay for the next sweep.
pub async fn sweep(inner: &Inner) -> Result<(), Fault> {
    let meta = inner.schema.meta();
    let query = json!({ "size": NOTES, "seq_no_primary_term": true, "query": { "term": { "kind": "erased" } } });
    let refresh = format!("/{meta}/_refresh");
    inner.client.ask(Method::Post, &refresh, &[], Body::None, None).await?;
    let found = inner
        .client
        .ask(Method::Post, &format!("/{meta}/_search"), &[], Body::Json(query), None)
        .await?;
    for note in found["hits"]["hits"].as_array().into_iter().flatten() {
        let tenant = note["_source"]["tenant_id"].as_str().and_then(|name| TenantId::decode(name).ok());
        let (Some(tenant), Some(id), Some(seq), Some(term)) = (tenant, note["_id"].as_str(), note["_seq_no"].as_u64(), note["_primary_term"].as_u64()) else {
            continue;
        };
        let Some(erasures) = inner.view.erasures(&tenant).filter(|all| !all.is_empty()) else {
            continue;
        };
        // As far as the staircase can be said; rows that are only hidden do no harm.
        let rows = Query::term(F::TENANT, tenant.as_str()).and(read::erased(&erasures).lower);
        delete(inner, &tenant, &rows).await?;
        let (seq, term) = (seq.to_string(), term.to_string());
        let unless_newer = [("if_seq_no", seq.as_str()), ("if_primary_term", term.as_str())];
        match inner
            .client
            .ask(Method::Delete, &format!("/{meta}/_doc/{id}"), &unless_newer, Body::None, None)
            .await
        {
            Ok(_) => (),
            Err(fault) if matches!(fault.status, 404 | 409) => (),
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Deletes the rows of a log that a query finds.
pub async fn delete(inner: &Inner, tenant: &TenantId, rows: &Query) -> Result<(), Fault> {
    let path = format!("/{}/_delete_by_query", inner.schema.alias(tenant));
    let query = [
        ("routing", tenant.as_str()),
        ("conflicts", "proceed"),
        ("ignore_unavailable", "true"),
        ("refresh", "true"),
    ];
    let body = Body::Json(json!({ "query": rows.to_json() }));
    let done = inner.client.ask(Method::Post, &path, &query, body, Some(DELETE_WITHIN)).await?;
    match done["failures"].as_array().is_none_or(Vec::is_empty) && done["timed_out"] != true {
        true => Ok(()),
        false => Err(Fault::unreadable("a deletion")),
    }
}
