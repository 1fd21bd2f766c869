//! A long run at 70 % of what the server acknowledges for a few seconds (which may be more than it takes for long): bulks at a fixed arrival rate, questions beside them. Memory, open handles and threads
//! are sampled, with its tasks, and a straight line through the second half of the samples says whether one of them grows. In the end every id
//! is read back: each one that was acknowledged is there once, and nothing else.
//!
//! Ids are made of a connection and a number, so that what was acknowledged is one byte per entry, however long it runs.

use crate::{Options, bodies::Template, http::Connection, measure::Latencies, report::say, server::Server};
use anyhow::{Context, ensure};
use sluice::cli::demo::generator::Generator;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

const TENANTS: usize = 4;
const CONNECTIONS: usize = 16;
const BULK: usize = 100;
/// Share of the measured rate.
const LOAD: f64 = 0.7;
/// How long the rate is measured.
const MEASURING: Duration = Duration::from_secs(10);
/// Samples of a run.
const SAMPLES: u32 = 120;

/// What one connection has sent: of each number whether it was acknowledged.
struct Sent {
    connection: usize,
    acked: Vec<bool>,
    latencies: Latencies,
    refused: u64,
}

impl Sent {
    fn new(connection: usize) -> Self {
        Self {
            connection,
            acked: Vec::new(),
            latencies: Latencies::default(),
            refused: 0,
        }
    }

    fn id(&self, number: usize) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&(self.connection as u16).to_be_bytes());
        bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
        bytes[8] = 0;
        Uuid::new_v8(bytes)
    }

    /// The place of an id that one of these made.
    fn place(id: Uuid) -> (usize, usize) {
        let bytes = id.as_bytes();
        let number = u64::from_be_bytes(bytes[8..].try_into().expect("8 bytes")) & ((1 << 56) - 1);
        (usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), number as usize)
    }

    /// Sends one bulk that was due at `due`.
    async fn send(&mut self, to: &mut Connection, token: &str, template: &mut Template, due: Instant) -> anyhow::Result<()> {
        let from = self.acked.len();
        for (i, at) in template.ids.iter().enumerate() {
            self.id(from + i).hyphenated().encode_lower(&mut template.body[*at..*at + 36]);
        }
        let status = to.post("/api/v1/logs/bulk?ids=false", token, &template.body).await?;
        ensure!(matches!(status, 201 | 429 | 503), "status {status}");
        self.acked.resize(from + BULK, status == 201);
        self.refused += u64::from(status != 201);
        self.latencies.push(due.elapsed());
        Ok(())
    }
}

/// Sends for so long; without a pause between two bulks as fast as it is taken.
async fn load(server: &Server, tenants: &[(String, String)], sent: Vec<Sent>, lasting: Duration, pause: Duration) -> anyhow::Result<Vec<Sent>> {
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for (i, mut sent) in sent.into_iter().enumerate() {
        let (_, token) = tenants[i % TENANTS].clone();
        let mut connection = Connection::open(server.http).await?;
        let mut template = Template::new(&mut Generator::new(i as u64), BULK, true);
        clients.spawn(async move {
            // A bulk is due when it is due, however late the one before it was answered.
            let mut due = begun + pause * i as u32 / CONNECTIONS as u32;
            while due.duration_since(begun) < lasting {
                tokio::time::sleep_until(due).await;
                sent.send(&mut connection, &token, &mut template, due).await?;
                due = if pause.is_zero() { Instant::now() } else { due + pause };
            }
            anyhow::Ok(sent)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = clients.join_next().await {
        all.push(done??);
    }
    all.sort_by_key(|sent| sent.connection);
    Ok(all)
}

/// What was seen at one moment: minutes since the start, MiB, handles, threads, tasks.
struct Sample {
    minute: f64,
    values: [f64; 4],
}

const NAMES: [&str; 4] = ["memory (MiB)", "open handles", "threads", "tasks"];
/// What each may grow by without a word, however small it is.
const LITTLE: [f64; 4] = [32.0, 8.0, 3.0, 16.0];

async fn sample(server: &Server, begun: Instant) -> anyhow::Result<Sample> {
    let (handles, threads) = server.handles_and_threads()?;
    Ok(Sample {
        minute: begun.elapsed().as_secs_f64() / 60.0,
        values: [server.anonymous_mib()?, handles as f64, threads as f64, server.metric("sluice_tasks").await?],
    })
}

/// The slope of the line of least squares through these points, and the mean of their heights.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let up: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    (if along > 0.0 { up / along } else { 0.0 }, y)
}

/// Prints how each value went, and refuses one that grew by more than a tenth (and by more than a little) in the second half.
fn judge(samples: &[Sample]) -> anyhow::Result<()> {
    let late = &samples[samples.len() / 2..];
    let minutes = late.last().context("samples")?.minute - late[0].minute;
    for (i, name) in NAMES.into_iter().enumerate() {
        let points: Vec<(f64, f64)> = late.iter().map(|sample| (sample.minute, sample.values[i])).collect();
        let (slope, mean) = line(&points);
        let most = samples.iter().map(|sample| sample.values[i]).fold(0.0, f64::max);
        let grown = slope * minutes;
        say(format!(
            "{name}: mean {mean:.0}, most {most:.0}, second half {grown:+.1} in {minutes:.1} minutes"
        ));
        ensure!(
            grown <= f64::max(LITTLE[i], mean / 10.0),
            "{name} grew by {grown:.0} in {minutes:.1} minutes: it is not flat"
        );
    }
    Ok(())
}

/// Questions beside the load, until `done`: the newest, one entry, statistics.
async fn ask(server: &Server, tenants: &[(String, String)], done: Arc<AtomicBool>) -> anyhow::Result<Latencies> {
    let (mut latencies, mut turn, mut connection) = (Latencies::default(), 0, Connection::open(server.http).await?);
    while !done.load(Ordering::Relaxed) {
        let path = ["/api/v1/logs?page_size=50", "/api/v1/logs?severity=ERROR&page_size=20", "/api/v1/logs/stats"][turn % 3];
        let asked = Instant::now();
        let (status, _) = connection.get(path, &tenants[turn % TENANTS].1).await?;
        ensure!(status == 200, "{path}: {status}");
        latencies.push(asked.elapsed());
        turn += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(latencies)
}

/// Every id of every tenant, once, and exactly those that were acknowledged; a refused one (429, 503) must not be there.
async fn read_back(server: &Server, tenants: &[(String, String)], sent: Vec<Sent>) -> anyhow::Result<usize> {
    let mut missing: Vec<Vec<bool>> = sent.into_iter().map(|sent| sent.acked).collect();
    let mut found = 0;
    for (name, token) in tenants {
        let each = |id: Uuid| {
            let (connection, number) = Sent::place(id);
            let place = missing.get_mut(connection).and_then(|all| all.get_mut(number));
            ensure!(place.is_some_and(std::mem::take), "{id} is there twice, or was never acknowledged");
            found += 1;
            Ok(())
        };
        server.each_id(token, each).await.with_context(|| name.clone())?;
    }
    let lost = missing.iter().flatten().filter(|missing| **missing).count();
    ensure!(lost == 0, "{lost} acknowledged entries are lost");
    Ok(found)
}

pub async fn run(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(TENANTS).await?;
    let sent = load(&server, &tenants, (0..CONNECTIONS).map(Sent::new).collect(), MEASURING, Duration::ZERO).await?;
    let count = |sent: &[Sent]| sent.iter().flat_map(|sent| &sent.acked).filter(|acked| **acked).count();
    let most = count(&sent) as f64 / MEASURING.as_secs_f64();
    let rate = LOAD * most;
    let pause = Duration::from_secs_f64((BULK * CONNECTIONS) as f64 / rate);
    let lasting = Duration::from_secs(options.seconds);
    say(format!("soak: {most:.0} entries/s at most; {rate:.0} entries/s for {} s", lasting.as_secs()));
    server.wait_stored(&tenants).await?;

    let (begun, done) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let sampling = async {
        let mut samples = Vec::new();
        while begun.elapsed() < lasting {
            tokio::time::sleep(lasting / SAMPLES).await;
            samples.push(sample(&server, begun).await?);
        }
        done.store(true, Ordering::Relaxed);
        anyhow::Ok(samples)
    };
    let before = count(&sent);
    let mut sent = sent;
    sent.iter_mut().for_each(|sent| sent.latencies = Latencies::default());
    let (sent, samples, asked) = tokio::join!(load(&server, &tenants, sent, lasting, pause), sampling, ask(&server, &tenants, done.clone()));
    let (mut sent, samples, asked) = (sent?, samples?, asked?);
    let mut latencies = Latencies::default();
    let refused: u64 = sent.iter().map(|sent| sent.refused).sum();
    sent.iter_mut().for_each(|sent| latencies.merge(&std::mem::take(&mut sent.latencies)));
    say(format!(
        "{} entries, {refused} bulks refused; answered p50 {:.1} ms, p99 {:.1} ms after they were due; questions p50 {:.1} ms, p99 {:.1} ms",
        count(&sent) - before,
        latencies.quantile(0.5),
        latencies.quantile(0.99),
        asked.quantile(0.5),
        asked.quantile(0.99)
    ));
    for sample in samples.iter().step_by(samples.len().div_ceil(20)) {
        say(format!(
            "  minute {:5.1}: {:6.0} MiB, {:4} handles, {:3} threads, {:4} tasks",
            sample.minute, sample.values[0], sample.values[1], sample.values[2], sample.values[3]
        ));
    }
    let stored = server.wait_stored(&tenants).await?;
    let acked = count(&sent);
    let found = read_back(&server, &tenants, sent).await?;
    ensure!(
        found == acked && stored == acked as u64,
        "{acked} acknowledged, {stored} counted, {found} found"
    );
    say(format!("{found} ids read back, each once, and nothing else"));
    judge(&samples)
}
