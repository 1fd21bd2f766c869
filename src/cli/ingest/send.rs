//! The sending side: bulks to the API, a few at once, tried again while the server says "later".

use super::{Bulk, Rejection, report};
use crate::model::tenant::TenantId;
use crate::{
    cli::{IngestArgs, client::Client},
    config::Settings,
    error::AppError,
};
use indicatif::ProgressBar;
use reqwest::{Method, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

/// Bulks on their way at once: enough to hide the group commit, few enough to be polite.
const IN_FLIGHT: usize = 4;
/// How often one bulk is tried before the command gives up (about five minutes with the waits between).
const TRIES: u32 = 40;
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What became of the records.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    pub read: u64,
    pub accepted: u64,
    pub stored: u64,
    pub duplicates: u64,
    pub dead_lettered: u64,
    pub rejected: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.accepted += other.accepted;
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.dead_lettered += other.dead_lettered;
        self.rejected += other.rejected;
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    accepted: u64,
    #[serde(default)]
    decided: Option<Decided>,
    #[serde(default)]
    errors: Vec<ItemError>,
    #[serde(default)]
    detail: String,
}

#[derive(Deserialize)]
struct Decided {
    stored: u64,
    duplicate: u64,
    dead_lettered: u64,
}

#[derive(Deserialize)]
struct ItemError {
    index: Option<usize>,
    #[serde(default)]
    field: String,
    code: String,
    message: String,
}

/// Sends to one tenant.
#[derive(Clone)]
pub struct Sender {
    api: Arc<Client>,
    platform: Arc<Client>,
    tenant: TenantId,
    own_token: bool,
}

impl Sender {
    /// With the caller's token, or with tokens of the local secret.
    pub fn new(args: &IngestArgs, settings: &Settings) -> Result<Self, AppError> {
        Ok(Self {
            api: Arc::new(Client::new(&args.client, settings, Some(&args.tenant), &["writer"])?),
            platform: Arc::new(Client::new(&args.client, settings, None, &["platform_admin"])?),
            tenant: args.tenant.clone(),
            own_token: args.client.token.is_some(),
        })
    }

    /// Makes the tenant if that was asked for; otherwise refuses an unknown one before anything is sent.
    pub async fn ensure_tenant(&self, create: bool) -> Result<(), AppError> {
        let request = if create {
            let body = json!({"tenant_id": self.tenant}).to_string();
            self.platform
                .request(Method::POST, "/tenants")
                .header(CONTENT_TYPE, "application/json")
                .body(body)
        } else {
            self.platform.request(Method::GET, &format!("/tenants/{}", self.tenant))
        };
        let answer = request.send().await.map_err(|e| unreachable(&e))?;
        match answer.status().as_u16() {
            200 | 201 | 409 => Ok(()),
            // The caller's own token may only write; whether the tenant exists shows at the first bulk.
            403 if self.own_token => Ok(()),
            404 => Err(AppError::failed(format!("there is no tenant `{}`; `--create-tenant` makes it", self.tenant))),
            _ if create => Err(problem("the tenant could not be made", answer).await),
            _ => Err(problem("the tenant could not be looked up", answer).await),
        }
    }

    /// Sends every bulk that comes; an error ends it, and the reader with it.
    pub async fn send_all(&self, path: &Path, mut bulks: mpsc::Receiver<Bulk>, bar: &ProgressBar) -> Result<Totals, AppError> {
        let (mut totals, mut running) = (Totals::default(), JoinSet::new());
        loop {
            let done = tokio::select! {
                bulk = bulks.recv(), if running.len() < IN_FLIGHT => match bulk {
                    Some(bulk) => {
                        let sender = self.clone();
                        running.spawn(async move { sender.send(bulk).await });
                        continue;
                    }
                    None => match running.join_next().await {
                        Some(done) => done,
                        None => return Ok(totals),
                    },
                },
                Some(done) = running.join_next() => done,
            };
            let (bulk, answer) = done.map_err(AppError::failed)??;
            account(&mut totals, &bulk, &answer, path, bar);
        }
    }

    /// One bulk, until the server has decided about it. Ids make repeats harmless.
    async fn send(&self, bulk: Bulk) -> Result<(Bulk, Answer), AppError> {
        let body = bytes::Bytes::from(bulk.body.clone());
        let mut wait = Duration::from_millis(200);
        for _ in 0..TRIES {
            let request = self
                .api
                .request(Method::POST, "/logs/bulk?wait=stored&ids=false")
                // A token of another tenant is refused; without this the entries would go to that one.
                .header("X-Tenant-ID", self.tenant.as_str())
                .header(CONTENT_TYPE, "application/x-ndjson");
            match request.body(body.clone()).send().await {
                Ok(answer) => match answer.status().as_u16() {
                    201 | 202 | 207 | 422 => {
                        let bytes = answer.bytes().await.map_err(AppError::failed)?;
                        let answer: Answer =
                            serde_json::from_slice(&bytes).map_err(|e| AppError::failed(format!("the server's answer is not understood: {e}")))?;
                        return Ok((bulk, answer));
                    }
                    429 | 503 | 504 => {
                        let asked = answer
                            .headers()
                            .get("retry-after")
                            .and_then(|v| v.to_str().ok()?.parse().ok())
                            .map(Duration::from_secs);
                        sleep(asked.unwrap_or(wait).min(LONGEST_WAIT)).await;
                    }
                    403 => return Err(problem(&format!("tenant `{}` does not take entries from this token", self.tenant), answer).await),
                    _ => return Err(problem("a bulk was refused", answer).await),
                },
                // Whatever became of it: the ids make the next try harmless.
                Err(e) if e.is_builder() => return Err(unreachable(&e)),
                Err(_) => sleep(wait).await,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Err(AppError::failed(
            "the server did not take the entries; run the same command again, nothing is stored twice",
        ))
    }
}

fn account(totals: &mut Totals, bulk: &Bulk, answer: &Answer, path: &Path, bar: &ProgressBar) {
    totals.accepted += answer.accepted;
    totals.rejected += bulk.lines.len() as u64 - answer.accepted;
    match &answer.decided {
        Some(decided) => {
            totals.stored += decided.stored;
            totals.duplicates += decided.duplicate;
            totals.dead_lettered += decided.dead_lettered;
        }
        None if answer.accepted > 0 => bar.suspend(|| {
            eprintln!(
                "{}: {} entries are durable, but the server has not decided about them yet",
                path.display(),
                answer.accepted
            )
        }),
        None => {}
    }
    for error in &answer.errors {
        let line = error.index.and_then(|i| bulk.lines.get(i)).copied().unwrap_or(0);
        report(
            bar,
            path,
            line,
            &Rejection {
                field: error.field.clone(),
                code: error.code.clone(),
                message: error.message.clone(),
            },
        );
    }
    if answer.accepted == 0 && answer.errors.is_empty() {
        bar.suspend(|| eprintln!("{}: {}", path.display(), answer.detail));
    }
}

fn unreachable(error: &reqwest::Error) -> AppError {
    AppError::failed(format!("the server cannot be reached: {error}"))
}

async fn problem(what: &str, answer: reqwest::Response) -> AppError {
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let detail = serde_json::from_str::<Answer>(&text).map(|a| a.detail).unwrap_or_default();
    AppError::failed(format!("{what}: {status} {detail}"))
}
