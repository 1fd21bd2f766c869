//! `sluice rebuild --store opensearch`: fills the search store again from the log of record, tenant by tenant, by jobs of a server that
//! runs. What is asked is what `POST /logs/index/bulk` asks; interrupting the command leaves the jobs to end by themselves.

use super::{
    RebuildArgs,
    client::{Client, problem, unreachable},
};
use crate::{
    config::Settings,
    error::{AppError, Exit},
    model::tenant::TenantId,
};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use std::time::Duration;
use uuid::Uuid;

/// How often a job is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often in a row a request may fail before the command does; the jobs go on.
const TRIES: u32 = 20;

#[derive(Deserialize)]
struct Tenants {
    data: Vec<Tenant>,
}

#[derive(Deserialize)]
struct Tenant {
    tenant_id: TenantId,
}

#[derive(Deserialize)]
struct Job {
    id: Uuid,
    status: String,
    rows: u64,
    progress: Option<f64>,
    error: Option<String>,
}

/// Runs it.
pub fn run(args: &RebuildArgs, settings: &Settings) -> Result<Exit, AppError> {
    super::runtime()?.block_on(rebuild(args, settings))
}

async fn rebuild(args: &RebuildArgs, settings: &Settings) -> Result<Exit, AppError> {
    let tenants = match args.tenant.as_slice() {
        [] => {
            let client = Client::new(&args.client, settings, None, &["platform_admin"])?;
            let all: Tenants = ask(&client, Method::GET, "/tenants", "the tenants").await?;
            all.data.into_iter().map(|tenant| tenant.tenant_id).collect()
        }
        named => named.to_vec(),
    };
    let (mut rows, mut failed) = (0, 0);
    for (at, tenant) in tenants.iter().enumerate() {
        let client = Client::new(&args.client, settings, Some(tenant), &["admin"])?.for_tenant(Some(tenant));
        let bar = ProgressBar::new(1_000).with_prefix(format!("{}/{} {tenant}", at + 1, tenants.len()));
        bar.set_style(ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {msg}").expect("a template of ours"));
        let job = follow(&client, &bar).await?;
        bar.finish_and_clear();
        rows += job.rows;
        if job.status != "done" {
            failed += 1;
            let why = job.error.unwrap_or_default();
            eprintln!("{tenant}: the job is {}: {why}", super::entries::harmless(&job.status));
        }
    }
    super::print(&format!("tenants={} rows={rows} failed={failed}\n", tenants.len()))?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

/// Makes the job and waits until it is over.
async fn follow(client: &Client, bar: &ProgressBar) -> Result<Job, AppError> {
    let mut job: Job = ask(client, Method::POST, "/logs/index/bulk", "the job").await?;
    let mut tries = 0;
    while matches!(job.status.as_str(), "queued" | "running") {
        tokio::time::sleep(LOOK_EVERY).await;
        match ask(client, Method::GET, &format!("/logs/export/{}", job.id), "the job").await {
            Ok(now) => (job, tries) = (now, 0),
            Err(_) if tries < TRIES => tries += 1, // the job goes on, and so may the server
            Err(error) => return Err(error),
        }
        bar.set_position((job.progress.unwrap_or(0.0) * 1_000.0) as u64);
        bar.set_message(format!("{} rows", job.rows));
    }
    Ok(job)
}

async fn ask<T: DeserializeOwned>(client: &Client, method: Method, path: &str, what: &str) -> Result<T, AppError> {
    let answer = client.request(method, path).send().await.map_err(|e| unreachable(&e))?;
    if !matches!(answer.status(), StatusCode::OK | StatusCode::ACCEPTED) {
        return Err(problem(&format!("{what}:"), answer).await);
    }
    let strange = || AppError::failed(format!("{what}: the answer is not one of Sluice"));
    let body = answer.bytes().await.map_err(|_| strange())?;
    serde_json::from_slice(&body).map_err(|_| strange())
}
