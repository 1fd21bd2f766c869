//! The demo's HTTP client: what any client of the API would write, on loopback.

use crate::{
    auth::{
        jwt,
        secret::{self, LocalSecret},
    },
    error::AppError,
    model::tenant::TenantId,
};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use uuid::Uuid;

/// How long a token is good: a demo that runs for longer than a day has to be started again.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// Talks to one server with tokens of its local issuer.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    secret: Arc<LocalSecret>,
}

/// A tenant's counters.
#[derive(Debug, Default, Deserialize)]
pub struct Usage {
    pub accepted: u64,
    pub stored: u64,
    pub duplicate: u64,
    pub dead_lettered: u64,
    pub pending: u64,
}

impl Usage {
    pub fn adds_up(&self) -> bool {
        self.accepted == self.stored + self.duplicate + self.dead_lettered + self.pending
    }

    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.dead_lettered += other.dead_lettered;
        self.pending += other.pending;
    }
}

impl Client {
    pub fn new(server: SocketAddr, data_dir: &Path) -> Result<Self, AppError> {
        let secret = secret::read(data_dir).map_err(AppError::failed)?;
        let http = crate::cli::client::plain().map_err(AppError::failed)?;
        Ok(Self {
            http,
            base: format!("http://{server}/api/v1"),
            secret: Arc::new(secret),
        })
    }

    pub fn token(&self, tenant: Option<&TenantId>, role: &str) -> String {
        let exp = chrono::Utc::now().timestamp() + TOKEN_SECONDS;
        jwt::mint(
            self.secret.key(),
            &jwt::NewToken {
                sub: "demo",
                tenant,
                role: &[role.to_owned()],
                exp,
            },
        )
    }

    pub async fn create_tenant(&self, tenant: &TenantId) -> Result<(), AppError> {
        let token = self.token(None, "platform_admin");
        let request = self
            .http
            .post(format!("{}/tenants", self.base))
            .bearer_auth(token)
            .body(json!({"tenant_id": tenant}).to_string());
        self.json(request).await.map(|_| ())
    }

    /// Sends a bulk until it is taken; the ids in it make repeats harmless.
    pub async fn write_until_taken(&self, token: &str, body: Vec<u8>) -> Result<(), AppError> {
        let body = bytes::Bytes::from(body);
        loop {
            let request = self
                .http
                .post(format!("{}/logs/bulk?ids=false", self.base))
                .bearer_auth(token)
                .header("content-type", "application/json");
            let answer = request.body(body.clone()).send().await.map_err(AppError::failed)?;
            match answer.status().as_u16() {
                201 => return Ok(()),
                429 | 503 | 504 => {
                    let seconds = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(1);
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                _ => return Err(AppError::failed(format!("a bulk was refused: {}", answer.text().await.unwrap_or_default()))),
            }
        }
    }

    /// Calls `seen` with the id of every entry that the live feed brings, until the feed ends.
    pub async fn follow(&self, token: &str, mut seen: impl FnMut(Uuid)) -> Result<(), AppError> {
        #[derive(Deserialize)]
        struct Entry {
            id: Uuid,
        }
        let request = self
            .http
            .get(format!("{}/logs/stream?after=0", self.base))
            .bearer_auth(token)
            .header("accept", "text/event-stream");
        let mut stream = request
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(AppError::failed)?
            .bytes_stream();
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.map_err(AppError::failed)?);
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            for line in text[..whole].split(|b| *b == b'\n') {
                if let Some(entry) = line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice::<Entry>(data).ok()) {
                    seen(entry.id);
                }
            }
            text.drain(..whole);
        }
        Ok(())
    }

    pub async fn usage(&self, tenant: &TenantId) -> Result<Usage, AppError> {
        let token = self.token(Some(tenant), "admin");
        let answer = self
            .json(self.http.get(format!("{}/tenants/{tenant}/usage", self.base)).bearer_auth(token))
            .await?;
        serde_json::from_value(answer).map_err(AppError::failed)
    }

    /// The ids of all entries of a tenant, read in windows of numbers.
    pub async fn all_ids(&self, tenant: &TenantId) -> Result<Vec<Uuid>, AppError> {
        let token = self.token(Some(tenant), "viewer");
        let (mut ids, mut from) = (Vec::new(), 1);
        loop {
            let url = format!("{}/logs?sort=sequence:asc&page_size=1000&total=false&min_sequence={from}", self.base);
            let page = self.json(self.http.get(url).bearer_auth(&token)).await?;
            let entries = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            let Some(last) = entries.last().and_then(|e| e["sequence"].as_u64()) else {
                return Ok(ids);
            };
            ids.extend(entries.iter().filter_map(|e| e["id"].as_str()?.parse::<Uuid>().ok()));
            from = last + 1;
        }
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> Result<Value, AppError> {
        let answer = request.send().await.map_err(AppError::failed)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(AppError::failed)?;
        if !status.is_success() {
            return Err(AppError::failed(format!("the server answered {status}: {}", String::from_utf8_lossy(&body))));
        }
        serde_json::from_slice(&body).map_err(AppError::failed)
    }
}
