//! The load generator: starts the real binary on a temporary folder, drives one scenario on loopback, reads every
//! acknowledged id back, and prints a line of figures. See `loadtest/README.md`.
//!
//! ```text
//! cargo run --release --example loadtest -- bulk|single|lag|reads|tenants|answers|distributed|pipeline|thin|outage|soak [--seconds N | --minutes N] [--entries N] [--server PATH]
//! ```

mod answers;
mod blackhole;
mod distributed;
mod http;
mod measure;
mod server;
mod soak;

use http::Connection;
use measure::{Latencies, RawSync};
use server::Server;
use sluice::cli::demo::generator::Generator;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

/// Bodies are made before the clock starts, and repeated with new ids, so that making them costs the measurement nothing.
const BODIES: usize = 64;

struct Options {
    scenario: String,
    seconds: u64,
    server: String,
    /// How many the `answers` scenario fills in.
    entries: u64,
}

fn options() -> anyhow::Result<Options> {
    let mut args = std::env::args().skip(1);
    let scenario = args.next().unwrap_or_else(|| "bulk".into());
    let mut options = Options {
        scenario,
        seconds: 15,
        server: "target/release/sluice".into(),
        entries: 10_000_000,
    };
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| anyhow::anyhow!("`{name}` needs a value"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value.parse()?,
            "--minutes" => options.seconds = (60.0 * value.parse::<f64>()?) as u64,
            "--server" => options.server = value,
            "--entries" => options.entries = value.parse()?,
            _ => anyhow::bail!("unknown option `{name}`; known are --seconds, --minutes, --entries and --server"),
        }
    }
    Ok(options)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &args[..]
        && first == "blackhole"
    {
        return blackhole::run(rest).await;
    }
    let options = options()?;
    match options.scenario.as_str() {
        "bulk" => bulk(&options).await,
        "single" => single(&options).await,
        "lag" => lag(&options).await,
        "reads" => reads(&options).await,
        "tenants" => tenants(&options).await,
        "answers" => answers::run(&options).await,
        "soak" => soak::run(&options).await,
        "distributed" => distributed::bulk(&options.server, options.seconds).await,
        "pipeline" => distributed::pipeline(&options.server, options.seconds).await,
        "thin" => distributed::thin(&options.server, options.seconds).await,
        "outage" => distributed::outage(&options.server, options.seconds).await,
        other => anyhow::bail!("unknown scenario `{other}`; known are bulk, single, lag, reads, tenants, answers, distributed, pipeline, thin, outage, soak"),
    }
}

/// A bulk body with the byte offsets of its ids, so that each sending gets new ones in place.
#[derive(Clone)]
struct Template {
    body: Vec<u8>,
    ids: Vec<usize>,
}

impl Template {
    fn new(generator: &mut Generator, entries: usize, array: bool) -> Self {
        let (mut body, mut ids) = (Vec::new(), Vec::new());
        for i in 0..entries {
            if array {
                body.push(if i == 0 { b'[' } else { b',' });
            }
            ids.push(body.len() + br#"{"id":""#.len());
            generator.write(&mut body);
        }
        if array {
            body.push(b']');
        }
        Self { body, ids }
    }

    /// Puts new ids in and appends them to `sent`.
    fn renew(&mut self, sent: &mut Vec<Uuid>) {
        for at in &self.ids {
            let id = Uuid::now_v7();
            id.hyphenated().encode_lower(&mut self.body[*at..*at + 36]);
            sent.push(id);
        }
    }
}

/// 32 connections, bulk of 100, four tenants: accepted and stored per second, CPU per entry, ack latency against a raw sync.
async fn bulk(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(4).await?;
    let before = server.cpu_seconds()?;
    let probe = RawSync::start(server.folder(), 100 * 900);
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for i in 0..32 {
        let (tenant, token) = tenants[i % tenants.len()].clone();
        let mut connection = Connection::open(server.http).await?;
        let mut generator = Generator::new(i as u64);
        let mut templates: Vec<Template> = (0..BODIES / 8).map(|_| Template::new(&mut generator, 100, true)).collect();
        clients.spawn(async move {
            let (mut acked, mut latencies, mut turn) = (Vec::new(), Latencies::default(), 0);
            while Instant::now() < deadline {
                let template = &mut templates[turn % (BODIES / 8)];
                turn += 1;
                let known = acked.len();
                template.renew(&mut acked);
                let sent = Instant::now();
                let status = connection.post("/api/v1/logs/bulk?ids=false", &token, &template.body).await?;
                if status == 201 {
                    latencies.push(sent.elapsed());
                } else {
                    acked.truncate(known);
                    anyhow::ensure!(matches!(status, 429 | 503), "status {status}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            anyhow::Ok((tenant, acked, latencies))
        });
    }
    let (mut acked, mut latencies) = (Acked::default(), Latencies::default());
    while let Some(done) = clients.join_next().await {
        let (tenant, ids, mine) = done??;
        acked.add(tenant, ids);
        latencies.merge(mine);
    }
    let (accepted_in, raw) = (started.elapsed(), probe.finish()?);
    let usage = server.wait_stored(&tenants).await?;
    let stored_in = started.elapsed();
    let cpu = server.cpu_seconds()? - before;
    let count = acked.count();
    server.compare(&tenants, &acked.0).await?;
    println!(
        "bulk: entries={count} accepted/s={:.0} stored/s={:.0} cpu_us/entry={:.2} ack_p50_ms={:.2} ack_p99_ms={:.2} raw_sync_p50_ms={raw:.2} ack/raw={:.2} rss_anon_mib={:.0} stored={usage} every id read back",
        count as f64 / accepted_in.as_secs_f64(),
        count as f64 / stored_in.as_secs_f64(),
        cpu * 1e6 / count as f64,
        latencies.quantile(0.5),
        latencies.quantile(0.99),
        latencies.quantile(0.5) / raw,
        server.anonymous_mib()?,
    );
    Ok(())
}

/// 1,000 connections, one entry a request.
async fn single(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(16).await?;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(options.seconds);
    let mut clients = JoinSet::new();
    for i in 0..1000 {
        let (tenant, token) = tenants[i % tenants.len()].clone();
        let mut connection = Connection::open(server.http).await?;
        let mut template = Template::new(&mut Generator::new(i as u64), 1, false);
        clients.spawn(async move {
            let (mut acked, mut latencies) = (Vec::new(), Latencies::default());
            while Instant::now() < deadline {
                template.renew(&mut acked);
                let sent = Instant::now();
                let status = connection.post("/api/v1/logs", &token, &template.body).await?;
                if status == 201 {
                    latencies.push(sent.elapsed());
                } else {
                    acked.pop();
                    anyhow::ensure!(matches!(status, 429 | 503), "status {status}");
                }
            }
            anyhow::Ok((tenant, acked, latencies))
        });
    }
    let (mut acked, mut latencies) = (Acked::default(), Latencies::default());
    while let Some(done) = clients.join_next().await {
        let (tenant, ids, mine) = done??;
        acked.add(tenant, ids);
        latencies.merge(mine);
    }
    let took = started.elapsed().as_secs_f64();
    server.wait_stored(&tenants).await?;
    server.compare(&tenants, &acked.0).await?;
    println!(
        "single: requests={} req/s={:.0} p50_ms={:.1} p99_ms={:.1} every id read back",
        acked.count(),
        acked.count() as f64 / took,
        latencies.quantile(0.5),
        latencies.quantile(0.99)
    );
    Ok(())
}

/// 10,000 entries a second (open loop) and a prober: from the 201 to the entry in `GET /logs`.
async fn lag(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(8).await?;
    let probe = RawSync::start(server.folder(), 100 * 900);
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let mut clients = JoinSet::new();
    for i in 0..10 {
        let (tenant, token) = tenants[i % tenants.len()].clone();
        let mut connection = Connection::open(server.http).await?;
        let mut template = Template::new(&mut Generator::new(i as u64), 100, true);
        clients.spawn(async move {
            let (mut acked, mut acks) = (Vec::new(), Latencies::default());
            // One after the other, so that the bursts of the generator are not what is measured.
            let mut ticks = tokio::time::interval_at(Instant::now() + Duration::from_millis(10 * i as u64), Duration::from_millis(100));
            while Instant::now() < deadline {
                ticks.tick().await;
                template.renew(&mut acked);
                let sent = Instant::now();
                let status = connection.post("/api/v1/logs/bulk?ids=false", &token, &template.body).await?;
                anyhow::ensure!(status == 201, "status {status}");
                acks.push(sent.elapsed());
            }
            anyhow::Ok((tenant, acked, acks))
        });
    }
    let (mut latencies, mut own) = (Latencies::default(), Vec::new());
    let (tenant, token) = tenants[0].clone();
    let mut prober = Connection::open(server.http).await?;
    let mut template = Template::new(&mut Generator::new(99), 1, true);
    while Instant::now() < deadline {
        template.renew(&mut own);
        anyhow::ensure!(prober.post("/api/v1/logs/bulk?ids=false", &token, &template.body).await? == 201);
        let accepted = Instant::now();
        let path = format!("/api/v1/logs?total=false&id={}", own[own.len() - 1]);
        while !prober.get(&path, &token).await?.1.starts_with(b"{\"data\":[{") {}
        latencies.push(accepted.elapsed());
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    let (mut acked, mut acks) = (Acked::default(), Latencies::default());
    acked.add(tenant, own);
    while let Some(done) = clients.join_next().await {
        let (tenant, ids, mine) = done??;
        acked.add(tenant, ids);
        acks.merge(mine);
    }
    let raw = probe.finish()?;
    server.wait_stored(&tenants).await?;
    server.compare(&tenants, &acked.0).await?;
    println!(
        "lag: entries={} probes={} visible_p50_ms={:.1} visible_p99_ms={:.1} ack_p50_ms={:.2} ack_p99_ms={:.2} raw_sync_p50_ms={raw:.2} ack/raw={:.2} every id read back",
        acked.count(),
        latencies.len(),
        latencies.quantile(0.5),
        latencies.quantile(0.99),
        acks.quantile(0.5),
        acks.quantile(0.99),
        acks.quantile(0.5) / raw
    );
    Ok(())
}

/// 5 M entries of 1,000 tenants, uncompacted: get by id, newest 50, statistics.
async fn reads(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(1000).await?;
    let (total, done) = (5_000_000, Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for i in 0..16 {
        let (tenants, done) = (tenants.clone(), done.clone());
        let mut connection = Connection::open(server.http).await?;
        let mut template = Template::new(&mut Generator::new(i as u64), 500, true);
        clients.spawn(async move {
            let (mut samples, mut turn) = (Vec::new(), i);
            while done.fetch_add(500, Ordering::Relaxed) < total {
                let (_, token) = &tenants[turn % tenants.len()];
                let mut ids = Vec::new();
                template.renew(&mut ids);
                loop {
                    match connection.post("/api/v1/logs/bulk?ids=false", token, &template.body).await? {
                        201 => break,
                        429 | 503 => tokio::time::sleep(Duration::from_millis(200)).await,
                        status => anyhow::bail!("status {status}"),
                    }
                }
                samples.push((turn % tenants.len(), ids[turn % 500]));
                turn += 16;
            }
            anyhow::Ok(samples)
        });
    }
    let mut samples = Vec::new();
    while let Some(done) = clients.join_next().await {
        samples.extend(done??);
    }
    let usage = server.wait_stored(&tenants).await?;
    let mut connection = Connection::open(server.http).await?;
    let (mut gets, mut lists, mut stats) = (Latencies::default(), Latencies::default(), Latencies::default());
    for k in 0..400 {
        let (tenant, id) = &samples[k * 7919 % samples.len()];
        let token = &tenants[*tenant].1;
        for (path, latencies) in [
            (format!("/api/v1/logs/{id}"), &mut gets),
            ("/api/v1/logs?page_size=50".to_owned(), &mut lists),
            ("/api/v1/logs/stats".to_owned(), &mut stats),
        ] {
            let sent = Instant::now();
            let (status, _) = connection.get(&path, token).await?;
            anyhow::ensure!(status == 200, "{path}: {status}");
            latencies.push(sent.elapsed());
        }
    }
    println!(
        "reads: stored={usage} parts={} get_p50_ms={:.2} get_p99_ms={:.2} newest50_p50_ms={:.2} newest50_p99_ms={:.2} stats_p50_ms={:.2} rss_anon_mib={:.0}",
        server.parts()?,
        gets.quantile(0.5),
        gets.quantile(0.99),
        lists.quantile(0.5),
        lists.quantile(0.99),
        stats.quantile(0.5),
        server.anonymous_mib()?
    );
    Ok(())
}

/// 10,000 tenants active at once: anonymous resident memory at defaults.
async fn tenants(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(10_000).await?;
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let mut clients = JoinSet::new();
    for i in 0..32 {
        let tenants = tenants.clone();
        let mut connection = Connection::open(server.http).await?;
        let mut template = Template::new(&mut Generator::new(i as u64), 10, true);
        clients.spawn(async move {
            let (mut acked, mut turn, mut peak) = (Acked::default(), i, 0usize);
            while Instant::now() < deadline || peak < tenants.len() / 32 {
                let (tenant, token) = &tenants[turn % tenants.len()];
                let mut ids = Vec::new();
                template.renew(&mut ids);
                match connection.post("/api/v1/logs/bulk?ids=false", token, &template.body).await? {
                    201 => acked.add(tenant.clone(), ids),
                    429 | 503 => tokio::time::sleep(Duration::from_millis(200)).await,
                    status => anyhow::bail!("status {status}"),
                }
                turn += 32;
                peak += 1;
            }
            anyhow::Ok(acked)
        });
    }
    let (mut acked, mut peak) = (Acked::default(), 0.0f64);
    while let Some(done) = clients.join_next().await {
        peak = peak.max(server.anonymous_mib()?);
        for (tenant, ids) in done??.0 {
            acked.add(tenant, ids);
        }
    }
    let live = server.metric("sluice_live_tenants").await?;
    server.wait_stored(&tenants).await?;
    server.compare(&tenants, &acked.0).await?;
    println!(
        "tenants: tenants={} live={live} entries={} rss_anon_peak_mib={peak:.0} every id read back",
        tenants.len(),
        acked.count()
    );
    Ok(())
}

/// Acknowledged ids by tenant.
#[derive(Default)]
struct Acked(std::collections::HashMap<String, HashSet<Uuid>>);

impl Acked {
    fn add(&mut self, tenant: String, ids: impl IntoIterator<Item = Uuid>) {
        self.0.entry(tenant).or_default().extend(ids);
    }

    fn count(&self) -> usize {
        self.0.values().map(HashSet::len).sum()
    }
}
