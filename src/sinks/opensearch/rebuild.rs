//! Filling the store from the authority: after it was lost or fell too far behind, and one log at a time for those who ask for it.
//!
//! A log is gone through in spans of numbers. The authority's rows of a span are written over whatever is there, and names in the span
//! that the authority does not have, or that lie in another index, are deleted: so that afterwards the span is what the log of record
//! says, also where a row was refused before, or was written twice. It may run while seals are applied: a row is written under the same
//! name by both. Rows above the authority's head are not touched.

use super::{
    Inner, OpenSearch,
    bulk::{Chunk, How},
    client::{Body, Fault},
    document::{self, Around},
    read::{self, Plan},
};
use crate::{
    model::{
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    sinks::{
        Authority, StoreError,
        follow::{Copied, CopyLog, Progress},
    },
};
use futures_util::future::BoxFuture;
use opensearch::http::Method;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

/// Rows that are asked of the authority at once.
const ROWS: usize = 1_000;

/// The way from the authority to the store.
#[derive(Clone)]
pub struct Copying {
    store: OpenSearch,
    authority: Arc<dyn Authority>,
}

impl Copying {
    /// Copies from one to the other.
    pub fn new(store: OpenSearch, authority: Arc<dyn Authority>) -> Self {
        Self { store, authority }
    }
}

impl CopyLog for Copying {
    fn copy_span(&self, scope: &TenantScope, from: Copied) -> BoxFuture<'static, Result<Copied, StoreError>> {
        let (own, scope) = (self.clone(), scope.clone());
        Box::pin(async move { own.store.copy_span(&*own.authority, &scope, from).await })
    }
}

impl OpenSearch {
    /// Copies the next span of a log from the authority, behind `from`. Repeating it is harmless; dropping it leaves the span half written,
    /// which the next one repeats. The rows can be found when it returns.
    pub async fn copy_span(&self, authority: &dyn Authority, scope: &TenantScope, from: Copied) -> Result<Copied, StoreError> {
        self.0.lay_out().await?;
        let found = authority.scan(scope, Filter::default(), from.upto, ROWS).await?;
        let head = authority.visible_head(scope).head;
        let (inner, tenant) = (&*self.0, scope.tenant());
        let mut chunk = Chunk::new(How::Replace);
        let mut indices: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut written = Vec::with_capacity(found.entries.len());
        let mut refused = Vec::new();
        for entry in &found.entries {
            let sequence = entry.sequence.unwrap_or(0);
            let index: Arc<str> = inner.schema.index(tenant, entry.received_at).into();
            if indices.insert(index.clone()) {
                inner.schema.ensure(&inner.client, &index, tenant).await?;
            }
            let around = Around {
                tenant,
                sequence,
                received_at: entry.received_at,
                actor: &entry.actor,
            };
            chunk.row(&index, around, &entry.entry());
            written.push((sequence, index));
            if chunk.len() >= inner.settings.bulk_bytes {
                let full = std::mem::replace(&mut chunk, Chunk::new(How::Replace));
                refused.extend(full.write(&inner.client, &inner.schema).await?);
            }
        }
        refused.extend(chunk.write(&inner.client, &inner.schema).await?);
        refused_no_more(inner, tenant, from.upto, found.upto).await?;
        inner.write_down(refused).await?;
        inner.refresh(&indices).await?;
        remove_others(inner, scope, from.upto, found.upto, &written).await?;
        // An authority that has stopped for a while asks to be called again; one without progress is at its head.
        let upto = if found.upto > from.upto { found.upto } else { head };
        Ok(Copied {
            rows: from.rows + written.len() as u64,
            upto,
            head: head.max(upto),
        })
    }

    /// Copies whole logs, one after the other.
    pub async fn copy_logs(&self, authority: &dyn Authority, logs: &[TenantId], progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<(), StoreError> {
        let mut at = Progress {
            of_logs: logs.len() as u64,
            ..Progress::default()
        };
        for log in logs {
            self.copy_log(authority, log, |rows| {
                at.rows += rows;
                progress(at);
            })
            .await?;
            at.logs += 1;
            progress(at);
        }
        Ok(())
    }

    /// Copies a whole log.
    pub async fn copy_log(&self, authority: &dyn Authority, tenant: &TenantId, mut told: impl FnMut(u64)) -> Result<(), StoreError> {
        let (scope, mut at) = (TenantScope::new(tenant.clone()), Copied::default());
        loop {
            let next = self.copy_span(authority, &scope, at).await?;
            told(next.rows - at.rows);
            if next.is_done() {
                return Ok(());
            }
            at = next;
        }
    }
}

/// Deletes what lies in the span and is not what was written.
async fn remove_others(inner: &Inner, scope: &TenantScope, after: u64, upto: u64, written: &[(u64, Arc<str>)]) -> Result<(), StoreError> {
    let span = Filter {
        min_sequence: Some(after + 1),
        ..Filter::default()
    };
    let plan = Plan::of_everything(inner, scope, span, upto);
    let deadline = Instant::now() + inner.settings.timeout;
    let found = read::named(inner, &plan, after, deadline).await?;
    let expected = |kept: &read::Kept| {
        let at = written.partition_point(|(sequence, _)| *sequence < kept.sequence);
        written
            .get(at)
            .is_some_and(|(sequence, index)| *sequence == kept.sequence && **index == *kept.index)
    };
    let others: Vec<read::Kept> = found.into_iter().filter(|kept| !expected(kept)).collect();
    if others.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        rows = others.len(),
        "the search store has rows that the log of record does not have: they are deleted"
    );
    let mut lines = String::new();
    for other in &others {
        let line = json!({ "delete": { "_index": other.index, "_id": other.id, "routing": scope.tenant().as_str() } });
        lines.push_str(&format!("{line}\n"));
    }
    let answer = inner
        .client
        .ask(Method::Post, "/_bulk", &[("refresh", "true")], Body::Lines(lines.into()), None)
        .await?;
    let gone = |item: &serde_json::Value| matches!(item["delete"]["status"].as_u64(), Some(200 | 404));
    match answer["items"]
        .as_array()
        .is_some_and(|items| items.len() == others.len() && items.iter().all(gone))
    {
        true => Ok(()),
        false => Err(Fault::unreadable("a deletion").into()),
    }
}

/// Index dead letters of the span are tried again, so that they are none until they are refused again.
async fn refused_no_more(inner: &Inner, tenant: &TenantId, after: u64, upto: u64) -> Result<(), Fault> {
    let meta = inner.schema.meta();
    let query = json!({ "size": 10_000, "query": { "bool": { "filter": [{ "term": { "kind": "refused" } }, { "term": { "tenant_id": tenant.as_str() } }] } } });
    let found = inner
        .client
        .ask(Method::Post, &format!("/{meta}/_search"), &[], Body::Json(query), None)
        .await?;
    for note in found["hits"]["hits"].as_array().into_iter().flatten() {
        let Some(sequence) = note["_source"]["sequence"].as_u64() else { continue };
        if sequence > after && sequence <= upto {
            let path = format!("/{meta}/_doc/refused-{}", document::name(tenant, sequence));
            match inner.client.ask(Method::Delete, &path, &[("refresh", "true")], Body::None, None).await {
                Ok(_) => inner.state().said = None,
                Err(fault) if fault.status == 404 => (),
                Err(fault) => return Err(fault),
            }
        }
    }
    Ok(())
}
