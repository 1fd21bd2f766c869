//! OpenSearch as far as bulks of rows go: every action and document is parsed and kept by its name; notes of the store about itself, which
//! come with the rows, are passed on to the real one.

use super::{Gate, kept::Kept};
use anyhow::Context;
use axum::{
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    fmt::Write,
    sync::{Mutex, MutexGuard},
};

#[derive(Default)]
pub struct OpenSearch(Mutex<Kept>);

#[derive(Deserialize)]
enum Action<'a> {
    #[serde(rename = "create", borrow)]
    Create(Named<'a>),
    #[serde(rename = "index")]
    Index(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(rename = "_id", borrow)]
    id: &'a str,
    #[serde(borrow)]
    routing: &'a str,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    tenant_id: &'a str,
    sequence: u64,
    id: uuid::Uuid,
}

impl OpenSearch {
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("whole")
    }

    pub async fn answer(&self, gate: &Gate, parts: &Parts, body: Bytes) -> anyhow::Result<Response> {
        if parts.uri.path() != "/_bulk" {
            return gate.through(parts, body).await;
        }
        let (items, notes) = self.take(&body)?;
        gate.inserted(body.len());
        if !notes.is_empty() {
            let answer = gate.through(parts, notes.into()).await?;
            if answer.status() != StatusCode::OK {
                return Ok(answer);
            }
        }
        let text = format!(r#"{{"items":[{}]}}"#, items.trim_end_matches(','));
        Ok(([("content-type", "application/json")], text).into_response())
    }

    /// Takes every row; the answers, and the lines of notes.
    fn take(&self, body: &[u8]) -> anyhow::Result<(String, Vec<u8>)> {
        let (mut items, mut notes) = (String::new(), Vec::new());
        let mut lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let mut kept = self.kept();
        while let Some(line) = lines.next() {
            let document = lines.next().context("a document follows its action")?;
            match serde_json::from_slice(line).context("an action line")? {
                Action::Index(_) => {
                    for line in [line, document] {
                        notes.extend_from_slice(line);
                        notes.push(b'\n');
                    }
                    items.push_str(r#"{"index":{"status":200}},"#);
                }
                Action::Create(Named { id, routing }) => {
                    let Document { tenant_id, sequence, id: own } = serde_json::from_slice(document).context("a document")?;
                    anyhow::ensure!(
                        id.rsplit_once(':') == Some((tenant_id, &sequence.to_string())) && routing == tenant_id,
                        "`{id}` is another row's"
                    );
                    // A row that comes again under its name is there once, as in OpenSearch: whoever had no answer may ask again.
                    let again = sequence > 0 && kept.has(tenant_id, sequence, own.as_u128());
                    let status = if !again && kept.put(tenant_id, sequence, own.as_u128())? { 201 } else { 409 };
                    write!(items, r#"{{"create":{{"status":{status}}}}},"#)?;
                }
            }
        }
        Ok((items, notes))
    }
}
