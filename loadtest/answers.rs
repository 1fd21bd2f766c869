//! The `answers` scenario: a filled, compacted folder of 100 tenants with a year of entries, and how long each kind of
//! question takes; then exports, ingest beside queries, disk per entry, and the time to open the folder again.
//!
//! Times of entries go from a year ago to now in the order of sending, with a minute of jitter; one in 5,000 holds a rare
//! word. Everything is sent once: the statistics of each tenant must add up to what was acknowledged, and in the end every id is read back.

use crate::{
    Options,
    http::Connection,
    ids::{Answer, Compared, Sent},
    measure::Latencies,
    report::say,
    server::Server,
};
use sluice::{cli::demo::generator::Generator, model::time::rfc3339};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

const TENANTS: usize = 100;
const YEAR_MS: i64 = 365 * 86_400_000;
/// Entries of one request.
const BULK: u64 = 500;
/// Clients that fill.
const CLIENTS: usize = 16;
/// Each question is asked so many times.
const ROUNDS: usize = 40;
/// Clients that share twenty queries a second.
const ASKERS: u64 = 10;
const RARE: &str = "quokka";
/// After so many rows of an export the memory is looked at.
const LOOK: u64 = 16_384;

type Tenants = Vec<(String, String)>;
/// What was acknowledged, by tenant.
type Acked = Arc<Vec<Mutex<Sent>>>;
/// A name, its target in milliseconds, and what is asked in a round.
type Question<'a> = (&'a str, f64, Box<dyn Fn(usize) -> String + 'a>);

/// Runs it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let mut server = Server::start(&options.server, &[]).await?;
    let tenants = server.make_tenants(TENANTS).await?;
    let (cpu, began) = (server.cpu_seconds()?, Instant::now());
    let acked: Acked = Arc::new(tenants.iter().map(|_| Mutex::default()).collect());
    let needles = fill(&server, &tenants, options.entries, &acked).await?;
    let stored = server.wait_stored(&tenants).await?;
    anyhow::ensure!(stored == options.entries, "{stored} stored");
    let filled = server.cpu_seconds()? - cpu;
    say(format!(
        "fill: entries={stored} stored/s={:.0} cpu_us/entry={:.2}",
        stored as f64 / began.elapsed().as_secs_f64(),
        filled * 1e6 / stored as f64
    ));
    let (before, reopened) = (server.cpu_seconds()?, Instant::now());
    let parts = server.compacted().await?;
    say(format!(
        "compaction: parts={parts} took_s={:.0} cpu_us/entry_after_the_fill={:.2} written_mib={:.0} bytes/entry={:.1}",
        reopened.elapsed().as_secs_f64(),
        (server.cpu_seconds()? - before) * 1e6 / stored as f64,
        server.metric("sluice_store_compaction_bytes_total").await.unwrap_or(f64::NAN) / (1 << 20) as f64,
        server.part_bytes()? as f64 / stored as f64
    ));
    let reopened = Instant::now();
    server.restart().await?;
    say(format!(
        "open: seconds={:.2} (stop excluded, until reads are answered) bytes/entry={:.1} (without the sources of merges)",
        reopened.elapsed().as_secs_f64() - server.stopped_in.as_secs_f64(),
        server.part_bytes()? as f64 / stored as f64
    ));
    check(&server, &tenants, stored).await?;
    questions(&server, &tenants, &needles).await?;
    export(&server, &tenants).await?;
    beside(&server, &tenants, options.seconds, &acked).await?;
    let mut compared = Compared::default();
    for (tenant, acked) in tenants.iter().zip(&*acked) {
        let mut sent = std::mem::take(&mut *acked.lock().expect("whole"));
        compared += server.compare(tenant, &mut sent).await?;
    }
    say(format!("ids read back: {} acknowledged, each there once, and nothing else", compared.acked));
    Ok(())
}

/// Sends everything; a few request ids of each tenant.
async fn fill(server: &Server, tenants: &Tenants, entries: u64, acked: &Acked) -> anyhow::Result<Vec<(usize, String)>> {
    let (taken, start) = (Arc::new(AtomicU64::new(0)), sluice::model::time::now_ms() - YEAR_MS);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (taken, tenants, acked) = (taken.clone(), tenants.clone(), acked.clone());
        let mut connection = Connection::open(server.http).await?;
        let mut maker = Maker::new(client as u64);
        clients.spawn(async move {
            let mut needles = Vec::new();
            loop {
                let from = taken.fetch_add(BULK, Ordering::Relaxed);
                if from >= entries {
                    return anyhow::Ok(needles);
                }
                let tenant = (from / BULK) as usize % TENANTS;
                let at = |i: u64| start + (YEAR_MS as f64 * ((from + i) as f64 / entries as f64)) as i64;
                maker.bulk(BULK.min(entries - from), at);
                send(&mut connection, &tenants[tenant].1, &maker, &acked[tenant]).await?;
                if from % (BULK * 64) < BULK {
                    needles.push((tenant, maker.last_request.clone()));
                }
            }
        });
    }
    let mut needles = Vec::new();
    while let Some(done) = clients.join_next().await {
        needles.extend(done??);
    }
    Ok(needles)
}

/// Sends what the maker has made until it is taken.
async fn send(connection: &mut Connection, token: &str, maker: &Maker, acked: &Mutex<Sent>) -> anyhow::Result<()> {
    loop {
        match connection.post("/api/v1/logs/bulk?ids=false", token, &maker.body).await? {
            201 => break,
            429 | 503 => tokio::time::sleep(Duration::from_millis(100)).await,
            status => anyhow::bail!("status {status}"),
        }
    }
    acked.lock().expect("whole").note(Answer::Acked, maker.ids.iter().copied());
    Ok(())
}

/// Makes bodies of new entries with times of our own.
struct Maker {
    generator: Generator,
    body: Vec<u8>,
    /// Of the entries in the body.
    ids: Vec<Uuid>,
    one: Vec<u8>,
    made: u64,
    last_request: String,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self {
            generator: Generator::new(seed),
            body: Vec::new(),
            ids: Vec::new(),
            one: Vec::new(),
            made: 0,
            last_request: String::new(),
        }
    }

    /// Makes a body of so many.
    fn bulk(&mut self, n: u64, at: impl Fn(u64) -> i64) {
        self.body.clear();
        self.ids.clear();
        for i in 0..n {
            self.one.clear();
            self.ids.push(self.generator.write(&mut self.one).id);
            self.made += 1;
            self.body.push(if i == 0 { b'[' } else { b',' });
            let jitter = (self.made.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as i64 % 60_000;
            self.body
                .extend_from_slice(format!("{{\"timestamp\":\"{}\",", rfc3339(at(i) - jitter)).as_bytes());
            let text = std::str::from_utf8(&self.one[1..]).expect("the generator makes text");
            let rare = self.made.is_multiple_of(5_000);
            let text = if rare {
                text.replacen("\"message\":\"", &format!("\"message\":\"{RARE} "), 1)
            } else {
                text.to_owned()
            };
            if i + 1 == n {
                let request = text.split("\"request_id\":\"").nth(1).and_then(|t| t.get(..36));
                self.last_request = request.unwrap_or_default().to_owned();
            }
            self.body.extend_from_slice(text.as_bytes());
        }
        self.body.push(b']');
    }
}

/// Every entry is found by the statistics of its tenant.
async fn check(server: &Server, tenants: &Tenants, stored: u64) -> anyhow::Result<()> {
    let (mut connection, mut sum) = (Connection::open(server.http).await?, 0);
    for (_, token) in tenants {
        let (status, body) = connection.get("/api/v1/logs/stats", token).await?;
        anyhow::ensure!(status == 200, "stats: {status}");
        let stats: serde_json::Value = serde_json::from_slice(&body)?;
        sum += stats["total"].as_u64().unwrap_or(0);
    }
    anyhow::ensure!(sum == stored, "{sum} of {stored} are counted");
    Ok(())
}

/// Asks each question of one tenant after the other.
async fn questions(server: &Server, tenants: &Tenants, needles: &[(usize, String)]) -> anyhow::Result<()> {
    let now = sluice::model::time::now_ms();
    let month = format!("from={}&to={}", &rfc3339(now - 120 * 86_400_000)[..10], &rfc3339(now - 90 * 86_400_000)[..10]);
    let questions: [Question<'_>; 9] = [
        ("newest 50", 10.0, Box::new(|_| "?page_size=50&total=false".into())),
        ("newest 50 with total", 10.0, Box::new(|_| "?page_size=50".into())),
        (
            "needle by request_id",
            20.0,
            Box::new(|i| format!("?request_id={}", needles[i * 31 % needles.len()].1)),
        ),
        (
            "two words in a month, newest 50",
            30.0,
            Box::new(|_| format!("?search=login%20failed&total=false&{month}")),
        ),
        ("two words in a month, counted", 30.0, Box::new(|_| format!("?search=login%20failed&{month}"))),
        ("a rare word over everything", 50.0, Box::new(|_| format!("?search={RARE}"))),
        ("stats by severity", 20.0, Box::new(|_| "/stats".into())),
        ("stats by day and action", 100.0, Box::new(|_| "/stats?interval=1d&group_by=action".into())),
        (
            "group by user with unique counts",
            300.0,
            Box::new(|_| "/stats?group_by=user_id&limit=1000".into()),
        ),
    ];
    let mut connection = Connection::open(server.http).await?;
    for (name, target, path) in &questions {
        let (mut latencies, mut found) = (Latencies::default(), 0);
        for round in 0..ROUNDS {
            let tenant = if name.starts_with("needle") {
                needles[round * 31 % needles.len()].0
            } else {
                round * 7 % tenants.len()
            };
            let path = format!("/api/v1/logs{}", path(round));
            let sent = Instant::now();
            let (status, body) = connection.get(&path, &tenants[tenant].1).await?;
            latencies.push(sent.elapsed());
            anyhow::ensure!(status == 200, "{path}: {status}");
            found += usize::from(body.len() > 200); // neither an empty page nor empty statistics
        }
        say(format!(
            "{name}: p50_ms={:.1} p99_ms={:.1} target_ms={target} answers_with_matches={found}/{ROUNDS}",
            latencies.quantile(0.5),
            latencies.quantile(0.99)
        ));
    }
    Ok(())
}

/// One export of NDJSON after the other: entries a second, CPU, and memory above what there was.
async fn export(server: &Server, tenants: &Tenants) -> anyhow::Result<()> {
    let (cpu, memory, began) = (server.cpu_seconds()?, server.anonymous_mib()?, Instant::now());
    let (mut rows, mut peak) = (0u64, 0f64);
    for (_, token) in tenants.iter().take(20) {
        let mut connection = Connection::open(server.http).await?;
        let each = |_: &[u8]| {
            rows += 1;
            if rows.is_multiple_of(LOOK) {
                peak = peak.max(server.anonymous_mib()?);
            }
            Ok(())
        };
        connection.lines("/api/v1/logs/export?format=ndjson", token, "*/*", each).await?;
    }
    let cpu = server.cpu_seconds()? - cpu;
    say(format!(
        "export ndjson: rows={rows} rows/s={:.0} rows_per_cpu_second={:.0} more_memory_mib={:.0}",
        rows as f64 / began.elapsed().as_secs_f64(),
        rows as f64 / cpu,
        peak - memory
    ));
    Ok(())
}

/// The intake of bulks with and without twenty queries a second, in turns.
async fn beside(server: &Server, tenants: &Tenants, seconds: u64, acked: &Acked) -> anyhow::Result<()> {
    let mut rates = [0.0; 2];
    for turn in 0..4 {
        let (queries, share) = (turn % 2, Duration::from_secs(seconds.div_ceil(4)));
        let asking = Arc::new(AtomicBool::new(queries == 1));
        let askers: Vec<_> = (0..ASKERS)
            .map(|n| tokio::spawn(ask(server.http, tenants.clone(), n, asking.clone())))
            .collect();
        let (began, sent) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for (client, (_, token)) in tenants.iter().enumerate().take(CLIENTS) {
            let (token, sent, acked) = (token.clone(), sent.clone(), acked.clone());
            let mut connection = Connection::open(server.http).await?;
            let mut maker = Maker::new(1000 + (turn * CLIENTS + client) as u64);
            clients.spawn(async move {
                while began.elapsed() < share {
                    maker.bulk(BULK, |_| sluice::model::time::now_ms());
                    send(&mut connection, &token, &maker, &acked[client]).await?;
                    sent.fetch_add(BULK, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = clients.join_next().await {
            done??;
        }
        asking.store(false, Ordering::Relaxed);
        let mut asked = 0;
        for asker in askers {
            asked += asker.await??;
        }
        server.wait_stored(tenants).await?;
        let rate = sent.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        rates[queries] += rate / 2.0;
        say(format!("intake: stored/s={rate:.0} queries={asked}"));
    }
    say(format!("intake with 20 queries/s against without: {:.2} (target 0.80)", rates[1] / rates[0]));
    Ok(())
}

/// The share of one client of twenty queries a second, while `asking` holds; how many it asked.
async fn ask(server: std::net::SocketAddr, tenants: Tenants, client: u64, asking: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let (mut connection, mut asked) = (Connection::open(server).await?, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(50 * ASKERS));
    while asking.load(Ordering::Relaxed) {
        ticks.tick().await;
        let path = ["?page_size=50", "?search=login%20failed", "/stats", "/stats?interval=1d&group_by=action"][asked as usize % 4];
        let tenant = (asked * ASKERS + client) as usize % tenants.len();
        let (status, _) = connection.get(&format!("/api/v1/logs{path}"), &tenants[tenant].1).await?;
        anyhow::ensure!(status == 200, "{path}: {status}");
        asked += 1;
    }
    Ok(asked)
}
