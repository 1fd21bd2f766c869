//! `sluice demo`: the whole product on a temporary folder, with realistic entries of several tenants arriving over HTTP,
//! a page that shows them live, and at the end a comparison of every acknowledged id with what the API returns.
//!
//! The demo is a client like any other: it writes by `POST /logs/bulk`, watches by the live feed and reads back by
//! `GET /logs`; nothing is taken from inside the server.

mod client;
pub mod generator;

use crate::{
    app,
    cli::{DemoArgs, print},
    config::{EngineSettings, Role, Settings},
    error::{AppError, Exit},
    model::tenant::TenantId,
    telemetry,
};
use client::Client;
use generator::Generator;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use uuid::Uuid;

const NAMES: [&str; 5] = ["acme", "globex", "initech", "umbrella", "hooli"];
const TICK: Duration = Duration::from_millis(50);
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// What one tenant's writer and watcher know.
#[derive(Default)]
struct Known {
    sent: HashMap<Uuid, Instant>,
    acknowledged: HashSet<Uuid>,
    /// POST sent → entry on the feed, since the last report.
    lags: Vec<Duration>,
}

type Shared = Arc<Mutex<Known>>;

fn locked(known: &Shared) -> std::sync::MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the demo. Fails when what was acknowledged and what is there differ. Blocks.
pub fn run(args: DemoArgs, settings: Settings) -> Result<Exit, AppError> {
    telemetry::start_logging(&settings.log);
    super::runtime()?.block_on(serve_and_play(args, settings))
}

async fn serve_and_play(args: DemoArgs, mut settings: Settings) -> Result<Exit, AppError> {
    let folder = tempfile::tempdir().map_err(|e| AppError::cannot_start(format!("no temporary folder can be made: {e}")))?;
    settings.data_dir = folder.path().join("data");
    settings.engines = EngineSettings::embedded(&settings.data_dir);
    settings.role = Role::All;
    // It is of this machine for its own eyes; the certificate is another name's.
    settings.http.tls = None;
    settings.http.listen = free_or_any(settings.http.listen).await;
    settings.admin.listen = free_or_any(settings.admin.listen).await;
    let running = app::start(&settings).await?;
    let outcome = tokio::select! {
        outcome = play(&args, &settings, &running) => outcome,
        failure = running.failed() => Err(failure),
    };
    running.stop().await?;
    outcome
}

async fn free_or_any(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if tokio::net::TcpListener::bind(address).await.is_err() {
        address.set_port(0);
    }
    address
}

async fn play(args: &DemoArgs, settings: &Settings, running: &app::Running) -> Result<Exit, AppError> {
    let mut interrupted = std::pin::pin!(crate::shutdown::requested()?);
    let client = Client::new(running.http(), &settings.data_dir)?;
    let tenants: Vec<TenantId> = (0..args.tenants as usize).map(tenant_name).collect();
    for tenant in &tenants {
        client.create_tenant(tenant).await?;
    }
    let token = client.token(Some(&tenants[0]), "viewer");
    print(&format!("page: http://{}/api/v1/logs/board#token={token}\ntoken: {token}\n", running.http()))?;

    let known: Vec<Shared> = tenants.iter().map(|_| Shared::default()).collect();
    let (stop, stopped) = watch::channel(false);
    let (mut writers, mut watchers) = (JoinSet::new(), JoinSet::new());
    for (i, (tenant, known)) in tenants.iter().zip(&known).enumerate() {
        let share = f64::from(args.rate) / tenants.len() as f64;
        watchers.spawn(watch_feed(client.clone(), tenant.clone(), known.clone()));
        writers.spawn(write_entries(
            client.clone(),
            tenant.clone(),
            share,
            Generator::new(i as u64 + 1),
            known.clone(),
            stopped.clone(),
        ));
    }
    let started = Instant::now();
    let mut ticks = tokio::time::interval_at(started + Duration::from_secs(1), Duration::from_secs(1));
    while args.seconds.is_none_or(|seconds| started.elapsed() < Duration::from_secs(seconds)) {
        tokio::select! {
            _ = ticks.tick() => report(&client, &tenants, &known, started.elapsed()).await?,
            _ = &mut interrupted => break,
        }
    }
    // Writers see it when they look next; those that have ended already do not.
    let _ = stop.send(true);
    while let Some(ended) = writers.join_next().await {
        ended.map_err(AppError::failed)??;
    }
    let matches = compare(&client, &tenants, &known).await;
    watchers.shutdown().await;
    matches.map(|same| if same { Exit::Done } else { Exit::Failed })
}

fn tenant_name(i: usize) -> TenantId {
    let name = NAMES.get(i).map_or_else(|| format!("tenant-{}", i + 1), |name| (*name).to_owned());
    TenantId::parse(&name).expect("the names are well formed")
}

/// Sends `rate` entries a second in small bulks; a refused or doubtful bulk is sent again with the same ids.
async fn write_entries(
    client: Client,
    tenant: TenantId,
    rate: f64,
    mut generator: Generator,
    known: Shared,
    stopped: watch::Receiver<bool>,
) -> Result<(), AppError> {
    let token = client.token(Some(&tenant), "writer");
    let mut ticks = tokio::time::interval(TICK);
    let mut owed = 0.0;
    while !*stopped.borrow() {
        ticks.tick().await;
        owed += rate * TICK.as_secs_f64();
        if owed < 1.0 {
            continue;
        }
        let (mut body, mut ids) = (vec![b'['], Vec::with_capacity(owed as usize));
        while owed >= 1.0 && ids.len() < 5_000 {
            if !ids.is_empty() {
                body.push(b',');
            }
            ids.push(generator.write(&mut body).id);
            owed -= 1.0;
        }
        body.push(b']');
        let now = Instant::now();
        locked(&known).sent.extend(ids.iter().map(|id| (*id, now)));
        client.write_until_taken(&token, body).await?;
        locked(&known).acknowledged.extend(ids);
    }
    Ok(())
}

/// Follows the tenant's feed and notes how long each entry took to arrive on it.
async fn watch_feed(client: Client, tenant: TenantId, known: Shared) -> Result<(), AppError> {
    let token = client.token(Some(&tenant), "viewer");
    client
        .follow(&token, |id| {
            let mut known = locked(&known);
            if let Some(sent) = known.sent.remove(&id) {
                known.lags.push(sent.elapsed());
            }
        })
        .await
}

async fn report(client: &Client, tenants: &[TenantId], known: &[Shared], elapsed: Duration) -> Result<(), AppError> {
    // Stored first: what is stored by now was accepted before, and more may be accepted meanwhile.
    let mut stored = 0;
    for tenant in tenants {
        stored += client.usage(tenant).await?.stored;
    }
    let (mut accepted, mut lags) = (0, Vec::new());
    for known in known {
        let mut known = locked(known);
        accepted += known.acknowledged.len();
        lags.append(&mut known.lags);
    }
    lags.sort_unstable();
    let p99 = lags
        .get(lags.len() * 99 / 100)
        .map_or_else(|| "-".into(), |lag| format!("{:.1}", lag.as_secs_f64() * 1e3));
    print(&format!("t={} accepted={accepted} stored={stored} visible_p99_ms={p99}\n", elapsed.as_secs()))
}

/// Whether every tenant has exactly the acknowledged ids, and counters that add up.
async fn compare(client: &Client, tenants: &[TenantId], known: &[Shared]) -> Result<bool, AppError> {
    let (mut sum, mut same) = (client::Usage::default(), true);
    for (tenant, known) in tenants.iter().zip(known) {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let usage = loop {
            let usage = client.usage(tenant).await?;
            if usage.pending == 0 || Instant::now() > deadline {
                break usage;
            }
        };
        let found = client.all_ids(tenant).await?;
        let distinct: HashSet<Uuid> = found.iter().copied().collect();
        let acknowledged = locked(known).acknowledged.clone();
        same &=
            distinct.len() == found.len() && distinct == acknowledged && usage.adds_up() && usage.accepted as usize == acknowledged.len() && usage.pending == 0;
        sum.add(&usage);
    }
    let verdict = if same { "ok" } else { "MISMATCH" };
    print(&format!(
        "summary: accepted={} stored={} duplicate={} dead_lettered={} pending={} {verdict}\n",
        sum.accepted, sum.stored, sum.duplicate, sum.dead_lettered, sum.pending
    ))?;
    Ok(same)
}
