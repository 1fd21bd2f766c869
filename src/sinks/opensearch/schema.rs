//! What is laid out in the cluster: templates, indices, aliases, and what the store keeps about itself.
//!
//! | name (`P` is `opensearch.index_prefix`) | what |
//! |---|---|
//! | `P-logs` (template) | settings and mapping of `P-logs-*`; dynamic mapping is off |
//! | `P-logs-2026.11` | rows of all tenants taken in that month, alias `P-logs`; routing = tenant |
//! | `P-logs-acme-2026.11` | with `index_strategy = "per_tenant"`: the rows of that tenant's logs, alias `P-of-acme` |
//! | `P-meta` | documents about the store, below |
//!
//! Rows are in the index of the month in which they were *taken* (`received_at`), which seals and the authority's rows both tell, so that
//! a row has one place, whichever way it came. An import of thirty years opens one index.
//!
//! | `_id` in `P-meta` | holds |
//! |---|---|
//! | `schema` | `version`, `strategy`: a newer version, or another strategy, is refused |
//! | `partition-<p>` | `seal`: seals up to here were begun; `sure`: every seal up to here is there; `owes`: it had seals up to here before it was lost. While `sure < owes` nothing is read |
//! | `erased-<tenant>` | rows of this log are to be deleted, see [`super::erase`] |
//! | `refused-<tenant>:<sequence>` | an *index dead letter*: a row that the engine would not take, with its sort of error |

use super::{
    IndexStrategy, OpenSearchSettings,
    client::{Body, Client, Fault},
    document,
};
use crate::{model::tenant::TenantId, sinks::retry::Remedy};
use opensearch::http::Method;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// The version of the layout and of documents. A cluster with a larger one was written by a newer binary.
pub const VERSION: u64 = 1;
/// Indices that are remembered as there; beyond that they are looked for again.
const MOST_KNOWN: usize = 4_096;

/// Names, and what is known to be there.
pub struct Schema {
    prefix: String,
    strategy: IndexStrategy,
    known: Mutex<HashSet<String>>,
}

impl Schema {
    /// Nothing is known to be there yet.
    pub fn new(settings: &OpenSearchSettings) -> Self {
        Self {
            prefix: settings.index_prefix.clone(),
            strategy: settings.index_strategy,
            known: Mutex::default(),
        }
    }

    /// The index of a log's rows that were taken at a time.
    pub fn index(&self, tenant: &TenantId, received_at: i64) -> String {
        let (prefix, month) = (&self.prefix, document::month(received_at));
        match self.strategy {
            IndexStrategy::Shared => format!("{prefix}-logs-{month}"),
            IndexStrategy::PerTenant => format!("{prefix}-logs-{}-{month}", tenant.owner_name()),
        }
    }

    /// What is searched for a log's rows.
    pub fn alias(&self, tenant: &TenantId) -> String {
        match self.strategy {
            IndexStrategy::Shared => format!("{}-logs", self.prefix),
            IndexStrategy::PerTenant => format!("{}-of-{}", self.prefix, tenant.owner_name()),
        }
    }

    /// The index of what the store keeps about itself.
    pub fn meta(&self) -> String {
        format!("{}-meta", self.prefix)
    }

    /// Lays everything out that is not there, and refuses what is not ours: newer, or of another strategy. Repeating it is harmless.
    pub async fn migrate(&self, client: &Client) -> Result<(), Fault> {
        let meta = self.meta();
        create(client, &meta, meta_index()).await?;
        let there = get(client, &meta, "schema").await?;
        match there.as_ref().map(|doc| doc["version"].as_u64()) {
            Some(Some(version)) if version > VERSION => {
                let what = format!("the search store has schema version {version}, and this binary knows {VERSION} and older ones: run the newer binary");
                return Err(Fault::hold(what));
            }
            Some(None) => {
                return Err(Fault::hold(
                    "the search store's `schema` document has no version: another program writes under this `opensearch.index_prefix`",
                ));
            }
            _ => (),
        }
        if let Some(doc) = there
            && doc["strategy"] != self.strategy.as_str()
        {
            return Err(Fault::hold(format!(
                "the search store is laid out with `opensearch.index_strategy = {}`; use that, or another `opensearch.index_prefix` and `sluice rebuild --store opensearch`",
                doc["strategy"]
            )));
        }
        let template = format!("/_index_template/{}-logs", self.prefix);
        client.ask(Method::Put, &template, &[], Body::Json(self.template()), None).await?;
        put(client, &meta, "schema", json!({ "version": VERSION, "strategy": self.strategy.as_str() })).await
    }

    /// Makes the index of a log's rows if it is not there.
    pub async fn ensure(&self, client: &Client, index: &str, tenant: &TenantId) -> Result<(), Fault> {
        if self.is_known(index) {
            return Ok(());
        }
        let alias = self.alias(tenant);
        create(client, index, json!({ "aliases": { &alias: {} } })).await?;
        self.check_mapping(client, index).await?;
        // One that was there already may lack it: then its rows would be in no answer.
        client.ask(Method::Put, &format!("/{index}/_alias/{alias}"), &[], Body::None, None).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(index.to_owned());
        Ok(())
    }

    fn is_known(&self, index: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(index)
    }

    /// Looks for everything anew: something was not there that should have been.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// That the index is mapped as ours are: in another one, rows would be refused that are good.
    pub async fn check_mapping(&self, client: &Client, index: &str) -> Result<(), Fault> {
        let found = client.ask(Method::Get, &format!("/{index}/_mapping"), &[], Body::None, None).await?;
        let ours = found[index]["mappings"]["_meta"]["sluice"] == VERSION;
        match ours {
            true => Ok(()),
            false => Err(Fault::hold(format!("the index `{index}` is not mapped as this version writes it"))),
        }
    }

    fn template(&self) -> Value {
        let keyword = json!({ "type": "keyword", "ignore_above": document::EXACT_BYTES });
        let index_only = json!({ "type": "keyword", "ignore_above": document::EXACT_BYTES, "doc_values": false });
        let kept = json!({ "type": "text", "index": false });
        let words = |copy: bool| {
            let mut field = json!({ "type": "text", "analyzer": "sluice_words", "norms": false });
            if copy {
                field["copy_to"] = "x_words".into();
            }
            field
        };
        let date = json!({ "type": "date", "format": "epoch_millis" });
        let mut properties = serde_json::Map::new();
        let of = |kind: &Value, names: &[&str]| names.iter().map(|name| ((*name).to_owned(), kind.clone())).collect::<Vec<_>>();
        properties.extend(of(
            &keyword,
            &["tenant_id", "severity", "actor", "action", "resource_type", "user_id", "ip_address"],
        ));
        properties.extend(of(&index_only, &["id", "resource_id", "session_id", "request_id", "email"]));
        properties.extend(of(&index_only, &["x_leaves", "x_action", "x_type", "x_ip"]));
        properties.extend(of(&date, &["timestamp", "received_at"]));
        properties.extend(of(&json!({ "type": "long" }), &["sequence"]));
        properties.extend(of(&kept, &["user_agent", "message", "before_state", "after_state", "metadata", "hash"]));
        properties.extend(of(&words(false), &["x_words"]));
        properties.extend(of(&words(true), &["x_agent", "x_message", "x_before", "x_after", "x_metadata"]));
        properties.extend(of(&json!({ "type": "boolean", "index": false, "doc_values": false }), &["client_id"]));
        properties.extend(of(&json!({ "type": "boolean", "doc_values": false }), &["x_more"]));
        let analysis = json!({
            "tokenizer": { "sluice_words": { "type": "whitespace", "max_token_length": 1024 } },
            "analyzer": { "sluice_words": { "type": "custom", "tokenizer": "sluice_words" } }
        });
        let index = json!({
            "number_of_shards": 1,
            "auto_expand_replicas": "0-1",
            "refresh_interval": "-1",
            "max_result_window": 20_000,
            "codec": "best_compression"
        });
        let mappings = json!({
            "_meta": { "sluice": VERSION },
            "dynamic": false,
            "_routing": { "required": true },
            "_source": { "excludes": ["x_*"] },
            "properties": properties
        });
        // An index that somebody deletes under a running process is made anew by the next bulk: it has to be found then.
        let aliases = match self.strategy {
            IndexStrategy::Shared => json!({ format!("{}-logs", self.prefix): {} }),
            IndexStrategy::PerTenant => json!({}),
        };
        json!({
            "index_patterns": [format!("{}-logs-*", self.prefix)],
            "priority": 500,
            "template": { "settings": { "index": index, "analysis": analysis }, "mappings": mappings, "aliases": aliases }
        })
    }
}

fn meta_index() -> Value {
    json!({
        "settings": { "index": { "number_of_shards": 1, "auto_expand_replicas": "0-1" } },
        "mappings": {
            "_meta": { "sluice": VERSION },
            "dynamic": false,
            "properties": { "kind": { "type": "keyword" }, "tenant_id": { "type": "keyword" } }
        }
    })
}

/// Makes an index; one that is there is left alone.
async fn create(client: &Client, index: &str, body: Value) -> Result<(), Fault> {
    match client.ask(Method::Put, &format!("/{index}"), &[], Body::Json(body), None).await {
        Ok(_) => Ok(()),
        Err(fault) if fault.kind == "resource_already_exists_exception" => Ok(()),
        Err(fault) if fault.remedy == Remedy::Isolate => Err(Fault::hold(fault.what)),
        Err(fault) => Err(fault),
    }
}

/// A document about the store; realtime, so that what was written is seen.
pub async fn get(client: &Client, index: &str, id: &str) -> Result<Option<Value>, Fault> {
    match client.ask(Method::Get, &format!("/{index}/_doc/{id}"), &[], Body::None, None).await {
        Ok(mut found) => Ok(Some(found["_source"].take())),
        // A document that is not there, and not an index.
        Err(fault) if fault.status == 404 && fault.kind.is_empty() => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Writes one.
pub async fn put(client: &Client, index: &str, id: &str, source: Value) -> Result<(), Fault> {
    client
        .ask(Method::Put, &format!("/{index}/_doc/{id}"), &[("refresh", "true")], Body::Json(source), None)
        .await
        .map(drop)
}
