//! One request to the search store, and what went wrong with it: every answer is read whole, and every error becomes a
//! [`Fault`] by the table in [`crate::sinks::retry`].
//!
//! What the engine says besides the sort of an error is left out of faults: it quotes documents.

use super::OpenSearchSettings;
use crate::sinks::{
    StoreError,
    retry::{Remedy, Symptom},
};
use bytes::Bytes;
use opensearch::{
    auth::Credentials,
    http::{
        Method, Url,
        headers::{CONTENT_TYPE, HeaderMap, HeaderValue},
        transport::{SingleNodeConnectionPool, Transport, TransportBuilder},
    },
};
use serde::Deserialize;
use serde_json::Value;
use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

/// Why a request has no good answer.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What is done about it.
    pub remedy: Remedy,
    /// HTTP status; 0 where there was no answer.
    pub status: u16,
    /// The engine's word for it, empty where it gave none.
    pub kind: String,
    /// For people; holds nothing of a document.
    pub what: Arc<str>,
}

impl Fault {
    /// Of a symptom.
    pub fn new(symptom: Symptom<'_>, what: impl Into<Arc<str>>) -> Self {
        let (status, kind) = match symptom {
            Symptom::Http { status, kind } | Symptom::Item { status, kind } => (status, kind.to_owned()),
            _ => (0, String::new()),
        };
        Self {
            remedy: symptom.remedy(),
            status,
            kind,
            what: what.into(),
        }
    }

    /// Nothing that a retry mends.
    pub fn hold(what: impl Into<Arc<str>>) -> Self {
        Self {
            remedy: Remedy::Hold,
            status: 0,
            kind: String::new(),
            what: what.into(),
        }
    }

    /// An answer that the engine does not give.
    pub fn unreadable(what: &str) -> Self {
        Self::new(Symptom::Unreadable, format!("the answer to {what} is not one of OpenSearch"))
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable {
            what: fault.what,
            remedy: fault.remedy,
        }
    }
}

/// The way to the store. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    timeout: Duration,
}

/// What a body is.
#[derive(Debug, Clone)]
pub enum Body {
    /// None.
    None,
    /// One object.
    Json(Value),
    /// One object in each line, the last line ended too.
    Lines(Bytes),
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(settings: &OpenSearchSettings) -> Result<Self, StoreError> {
        // The library builds TLS for every client, and wants to know by what; somebody may have said it before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |what: String| StoreError::from(Fault::hold(what));
        let url = Url::parse(&settings.url).map_err(|e| wrong(format!("`opensearch.url` is no address: {e}")))?;
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy();
        if let Some(user) = &settings.user {
            let password = settings.password.clone().unwrap_or_default();
            builder = builder.auth(Credentials::Basic(user.clone(), password));
        }
        let transport = builder.build().map_err(|e| wrong(format!("no client of OpenSearch can be made: {e}")))?;
        Ok(Self {
            transport: Arc::new(transport),
            timeout: settings.timeout,
        })
    }

    /// Sends one request. `path` and `query` are made of names that are checked, never of what a reader typed.
    pub async fn send(&self, method: Method, path: &str, query: &[(&str, &str)], body: Body, within: Option<Duration>) -> Result<Bytes, Fault> {
        let mut headers = HeaderMap::new();
        let bytes = match body {
            Body::None => None,
            Body::Json(value) => Some(Bytes::from(value.to_string())),
            Body::Lines(lines) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                Some(lines)
            }
        };
        let query = (!query.is_empty()).then_some(query);
        let timeout = within.unwrap_or(self.timeout);
        let sent = self.transport.send(method, path, headers, query, bytes, Some(timeout)).await;
        let response = sent.map_err(|error| network(&error))?;
        let status = response.status_code().as_u16();
        let body = response.bytes().await;
        match status {
            200..=299 => body.map_err(|error| network(&error)),
            // The answer counts, even if the rest of it is lost: a 413 has none.
            _ => Err(refused(status, &body.unwrap_or_default())),
        }
    }

    /// The same, read as JSON.
    pub async fn ask(&self, method: Method, path: &str, query: &[(&str, &str)], body: Body, within: Option<Duration>) -> Result<Value, Fault> {
        let bytes = self.send(method, path, query, body, within).await?;
        serde_json::from_slice(&bytes).map_err(|_| Fault::unreadable("a request"))
    }
}

fn network(error: &opensearch::Error) -> Fault {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    let mut connect = false;
    while let Some(inner) = source {
        connect |= inner.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect);
        source = inner.source();
    }
    match connect {
        true => Fault::new(Symptom::Unreachable, "the search store cannot be reached"),
        false if error.is_timeout() => Fault::new(Symptom::Broken, "the search store did not answer in time"),
        false => Fault::new(Symptom::Broken, "the connection to the search store broke"),
    }
}

/// What an error looks like: the sort of it, and of what caused it.
#[derive(Deserialize)]
struct Refused<'a> {
    #[serde(borrow)]
    error: Said<'a>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said<'a> {
    Cause(#[serde(borrow)] Cause<'a>),
    #[allow(dead_code)] // a text is all there is, and it is not shown
    Text(#[serde(borrow)] Cow<'a, str>),
}

#[derive(Deserialize)]
struct Cause<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
}

fn refused(status: u16, body: &[u8]) -> Fault {
    let kind = match serde_json::from_slice::<Refused<'_>>(body) {
        Ok(Refused { error: Said::Cause(cause) }) => cause.kind.into_owned(),
        Ok(Refused { error: Said::Text(_) }) | Err(_) => String::new(),
    };
    let what = match kind.as_str() {
        _ if matches!(status, 401 | 403) => {
            format!("it refuses the credentials ({status}): check `opensearch.user`, `opensearch.password` and what the user may do with the indices")
        }
        "" => format!("the search store answered {status}"),
        kind => format!("the search store answered {status} ({kind})"),
    };
    Fault::new(Symptom::Http { status, kind: &kind }, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_by_their_sort_and_never_quoted() {
        let body = br#"{"error":{"root_cause":[],"type":"cluster_block_exception","reason":"secret of acme"},"status":403}"#;
        let fault = refused(403, body);
        assert_eq!((fault.remedy, fault.kind.as_str()), (Remedy::Hold, "cluster_block_exception"));
        assert!(!fault.what.contains("secret"));
        assert_eq!(refused(413, b"").remedy, Remedy::Isolate);
        assert_eq!(refused(429, b"{\"error\":\"too many\"}").remedy, Remedy::Slower);
        assert_eq!(refused(502, b"<html>").remedy, Remedy::Again);
    }
}
