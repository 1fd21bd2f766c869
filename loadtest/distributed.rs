//! API and consumer as two processes (or both in one, on its own log) on a queue that costs nothing and stores that keep nothing but ids
//! (`blackhole`), seals in real S3: what Sluice itself costs for each entry, how few requests it makes, and how it goes through an outage of its
//! stores. Every scenario ends by comparing, by id, what was acknowledged with what both stores were sent.
//!
//! Needs the addresses that `engines/up` prints: `loadtest/run.sh` starts them for these scenarios.

use crate::{
    bodies::Template,
    holes::{Blackhole, engine, make_bucket, name, stores},
    http::Connection,
    ids::{Answer, Sent},
    report::say,
    server::Server,
};
use anyhow::Context;
use serde_json::Value;
use sluice::cli::demo::generator::Generator;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at, sleep},
};
use uuid::Uuid;

/// Acknowledged ids by tenant.
type Acked = HashMap<String, Vec<Uuid>>;

/// Connections that send as fast as they can. Messages gather for up to 250 ms before they go into the queue, so it takes many to fill them.
const CONNECTIONS: usize = 256;
/// Entries a second that come in before, during and after an outage.
const INTAKE: u64 = 10_000;

/// The servers and what they stand on.
struct Site {
    holes: Blackhole,
    api: Server,
    /// `None`: the one server is both.
    consumer: Option<Server>,
    tenants: Vec<(String, String)>,
}

impl Site {
    /// API and consumer on the queue.
    async fn split(binary: &str, tenants: usize) -> anyhow::Result<Self> {
        let (holes, name) = (Blackhole::start()?, name());
        let s3 = engine("SLUICE_TEST_S3")?;
        make_bucket(&s3, &name)?;
        let with = |role: &str| {
            let mut settings = stores(&holes, &name);
            settings.extend([
                ("SLUICE__ROLE", role.to_owned()),
                ("SLUICE__QUEUE__KIND", "sqs".to_owned()),
                ("SLUICE__QUEUE__SQS__URLS", format!(r#"["http://{}/000000000000/load"]"#, holes.sqs)),
                ("SLUICE__OBJECTS__URL", format!("s3://{name}/x")),
                ("AWS_ENDPOINT_URL_S3", s3.clone()),
            ]);
            settings
        };
        let api = start(binary, &with("api")).await?;
        let consumer = Some(start(binary, &with("consumer")).await?);
        let tenants = api.make_tenants(tenants).await?;
        Ok(Self { holes, api, consumer, tenants })
    }

    /// One process, on its own log.
    async fn whole(binary: &str, tenants: usize) -> anyhow::Result<Self> {
        let holes = Blackhole::start()?;
        let api = start(binary, &stores(&holes, &name())).await?;
        let tenants = api.make_tenants(tenants).await?;
        Ok(Self {
            holes,
            api,
            consumer: None,
            tenants,
        })
    }

    /// Of the API and of the consumer.
    fn cpu(&self) -> anyhow::Result<(f64, f64)> {
        let consumer = self.consumer.as_ref().map_or(Ok(0.0), Server::cpu_seconds)?;
        Ok((self.api.cpu_seconds()?, consumer))
    }

    fn memory(&self) -> anyhow::Result<f64> {
        self.consumer.as_ref().unwrap_or(&self.api).anonymous_mib()
    }

    /// Every acknowledged id reached both stores once, under dense numbers.
    async fn compare(&self, acked: &Acked) -> anyhow::Result<()> {
        self.holes.nothing_twice().await?;
        for (tenant, ids) in acked {
            let mut sent = Sent::default();
            sent.note(Answer::Acked, ids.iter().copied());
            for of in [self.holes.clickhouse, self.holes.opensearch] {
                let mut comparison = sent.compare()?;
                let stored = self.holes.ids(of, tenant).await?.into_iter().try_for_each(|id| comparison.stored(id));
                stored.and_then(|()| comparison.finish()).with_context(|| tenant.clone())?;
            }
        }
        Ok(())
    }
}

async fn start(binary: &str, settings: &[(&str, String)]) -> anyhow::Result<Server> {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Server::start(binary, &settings).await
}

fn count(acked: &Acked) -> u64 {
    acked.values().map(|ids| ids.len() as u64).sum()
}

/// A counter of a stand-in.
fn number(seen: &Value, name: &str) -> f64 {
    seen[name].as_f64().unwrap_or(f64::NAN)
}

/// Bulks of 100 as fast as it goes, on the queue.
pub async fn bulk(binary: &str, seconds: u64) -> anyhow::Result<()> {
    flat_out("distributed", &Site::split(binary, 16).await?, seconds).await
}

/// Likewise in one process, on its own log.
pub async fn pipeline(binary: &str, seconds: u64) -> anyhow::Result<()> {
    flat_out("pipeline", &Site::whole(binary, 16).await?, seconds).await
}

async fn flat_out(scenario: &str, site: &Site, seconds: u64) -> anyhow::Result<()> {
    let queue_before = site.holes.seen(site.holes.sqs).await?;
    let (before, started) = (site.cpu()?, Instant::now());
    let acked = flood(site, started + Duration::from_secs(seconds), u64::MAX).await?;
    let (accepted_in, count) = (started.elapsed(), count(&acked));
    site.holes.stored(count).await?;
    let (stored_in, after, memory) = (started.elapsed(), site.cpu()?, site.memory()?);
    site.compare(&acked).await?;
    let queue = site.holes.seen(site.holes.sqs).await?;
    let per = |seconds: f64| seconds * 1e6 / count as f64;
    let (api, consumer) = (per(after.0 - before.0), per(after.1 - before.1));
    let mut line = format!(
        "{scenario}: entries={count} accepted/s={:.0} stored/s={:.0} cpu_us/entry={:.2}",
        count as f64 / accepted_in.as_secs_f64(),
        count as f64 / stored_in.as_secs_f64(),
        api + consumer,
    );
    if site.consumer.is_some() {
        let requests = number(&queue, "requests") - number(&queue_before, "requests");
        let bytes = number(&queue, "bytes") - number(&queue_before, "bytes");
        line += &format!(
            " (api {api:.2}, consumer {consumer:.2}) entries/s/consumer_core={:.0} sqs_requests/1000={:.3} sqs_bytes/entry={:.0}",
            1e6 / consumer,
            requests * 1e3 / count as f64,
            bytes / count as f64
        );
    }
    say(format!("{line} rss_anon_mib={memory:.0} every id in both stores once"));
    Ok(())
}

/// Bulks of 100 until the deadline, or until so many entries are acknowledged.
async fn flood(site: &Site, deadline: Instant, entries: u64) -> anyhow::Result<Acked> {
    let taken = std::sync::Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for i in 0..CONNECTIONS {
        let (tenants, taken) = (site.tenants.clone(), taken.clone());
        let mut connection = Connection::open(site.api.http).await?;
        let mut generator = Generator::new(i as u64);
        let mut templates: Vec<Template> = (0..8).map(|_| Template::new(&mut generator, 100, true)).collect();
        clients.spawn(async move {
            let (mut acked, mut turn) = (Acked::new(), 0);
            while Instant::now() < deadline && taken.fetch_add(100, Ordering::Relaxed) < entries {
                let (tenant, token) = &tenants[(i + turn * CONNECTIONS) % tenants.len()];
                let template = &mut templates[turn % 8];
                turn += 1;
                let ids = acked.entry(tenant.clone()).or_default();
                let known = ids.len();
                template.renew(ids);
                let status = connection.post("/api/v1/logs/bulk?ids=false", token, &template.body).await?;
                if status != 201 {
                    ids.truncate(known);
                    anyhow::ensure!(matches!(status, 429 | 503), "status {status}");
                    taken.fetch_sub(100, Ordering::Relaxed);
                    sleep(Duration::from_millis(50)).await;
                }
            }
            anyhow::Ok(acked)
        });
    }
    gather(clients).await
}

async fn gather(mut clients: JoinSet<anyhow::Result<Acked>>) -> anyhow::Result<Acked> {
    let mut all = Acked::new();
    while let Some(done) = clients.join_next().await {
        for (tenant, ids) in done?? {
            all.entry(tenant).or_default().extend(ids);
        }
    }
    Ok(all)
}

/// Each tenant sends a bulk of ten every second until the deadline, by a connection of its own, spread over the second; what is refused is counted.
async fn trickle(site: &Site, deadline: Instant) -> anyhow::Result<(Acked, u64)> {
    let mut clients = JoinSet::new();
    let refused = std::sync::Arc::new(AtomicU64::new(0));
    let (start, step) = (Instant::now(), Duration::from_secs(1) / site.tenants.len() as u32);
    for (i, (tenant, token)) in site.tenants.iter().cloned().enumerate() {
        let mut connection = Connection::open(site.api.http).await?;
        let mut template = Template::new(&mut Generator::new(i as u64), 10, true);
        let refused = refused.clone();
        clients.spawn(async move {
            let mut ids = Vec::new();
            let mut turn = interval_at(start + step * i as u32, Duration::from_secs(1));
            loop {
                turn.tick().await;
                if Instant::now() >= deadline {
                    return anyhow::Ok(Acked::from([(tenant, ids)]));
                }
                let known = ids.len();
                template.renew(&mut ids);
                let status = connection.post("/api/v1/logs/bulk?ids=false", &token, &template.body).await?;
                if status != 201 {
                    ids.truncate(known);
                    anyhow::ensure!(matches!(status, 429 | 503), "status {status}");
                    refused.fetch_add(10, Ordering::Relaxed);
                }
            }
        });
    }
    Ok((gather(clients).await?, refused.load(Ordering::Relaxed)))
}

/// 1,000 tenants with ten entries a second each: how many inserts for each table and second, how many requests to the queue.
pub async fn thin(binary: &str, seconds: u64) -> anyhow::Result<()> {
    let site = Site::split(binary, 1_000).await?;
    // What making the tenants wrote to their access logs is not thin traffic.
    let (mut acked, _) = trickle(&site, Instant::now() + Duration::from_secs(5)).await?;
    let before = (site.holes.seen(site.holes.sqs).await?, site.holes.seen(site.holes.clickhouse).await?);
    let (cpu_before, started) = (site.cpu()?, Instant::now());
    let (more, refused) = trickle(&site, started + Duration::from_secs(seconds)).await?;
    let took = started.elapsed().as_secs_f64();
    let after = (site.holes.seen(site.holes.sqs).await?, site.holes.seen(site.holes.clickhouse).await?);
    let (cpu, sent) = (site.cpu()?, count(&more) as f64);
    for (tenant, ids) in more {
        acked.entry(tenant).or_default().extend(ids);
    }
    let (count, memory) = (count(&acked), site.memory()?);
    site.holes.stored(count).await?;
    site.compare(&acked).await?;
    let rate = |table: &str| {
        let of = |seen: &Value| number(&seen["more"]["tables"], table);
        (of(&after.1) - of(&before.1)) / took
    };
    let mut by_action: Vec<_> = after.0["by_action"].as_object().context("actions")?.keys().collect();
    by_action.sort_unstable();
    let by_action = by_action.iter().map(|action| {
        let made = number(&after.0["by_action"], action) - before.0["by_action"][action.as_str()].as_f64().unwrap_or(0.0);
        format!("{action} {made:.0}")
    });
    say(format!(
        "thin: entries={sent:.0} refused={refused} entries/s={:.0} sqs_requests/1000={:.3} ({}) inserts/s: logs {:.2}, entry_ids {:.2}, packs {:.2} cpu_us/entry={:.2} rss_anon_mib={memory:.0} every id in both stores once",
        sent / took,
        (number(&after.0, "requests") - number(&before.0, "requests")) * 1e3 / sent,
        by_action.collect::<Vec<_>>().join(", "),
        rate("logs"),
        rate("entry_ids"),
        rate("packs"),
        (cpu.0 - cpu_before.0 + cpu.1 - cpu_before.1) * 1e6 / sent,
    ));
    Ok(())
}

/// Both stores refuse everything while the entries of an outage of `seconds` at 10,000 a second come in, as fast as the queue takes them, and for
/// another 30 seconds; then they answer again while 10,000 a second go on coming.
pub async fn outage(binary: &str, seconds: u64) -> anyhow::Result<()> {
    let site = Site::split(binary, 1_000).await?;
    let (mut acked, _) = trickle(&site, Instant::now() + Duration::from_secs(5)).await?;
    let calm = site.memory()?;
    site.holes.down(24 * 3600).await?;
    let (missed, still) = (seconds * INTAKE, Duration::from_secs(30));
    let ended = std::sync::atomic::AtomicBool::new(false);
    let memory = async {
        let mut largest: f64 = 0.0;
        while !ended.load(Ordering::Relaxed) {
            largest = largest.max(site.memory()?);
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(largest)
    };
    let down = async {
        let more = flood(&site, Instant::now() + Duration::from_secs(3600), missed).await?;
        sleep(still).await;
        ended.store(true, Ordering::Relaxed);
        anyhow::Ok(more)
    };
    let (more, largest) = tokio::try_join!(down, memory)?;
    let (before, behind) = (site.holes.rows().await?, count(&more));
    for (tenant, ids) in more {
        acked.entry(tenant).or_default().extend(ids);
    }
    site.holes.down(0).await?;
    let (back, total) = (Instant::now(), count(&acked));
    let goes_on = trickle(&site, back + Duration::from_secs(20));
    let caught_up = async {
        site.holes.stored(total).await?;
        anyhow::Ok(back.elapsed().as_secs_f64())
    };
    let ((more, refused), caught_up) = tokio::try_join!(goes_on, caught_up)?;
    for (tenant, ids) in more {
        acked.entry(tenant).or_default().extend(ids);
    }
    let after = site.memory()?;
    site.holes.stored(count(&acked)).await?;
    site.compare(&acked).await?;
    let rate = (total - before) as f64 / caught_up;
    say(format!(
        "outage: of_seconds={seconds} behind={behind} consumer_rss_anon_mib: before {calm:.0}, largest in it {largest:.0}, after catching up {after:.0}; \
         catch_up_s={caught_up:.1} catch_up/s={rate:.0} catch_up/intake={:.1} refused={refused} entries={} every id in both stores once",
        rate / INTAKE as f64,
        count(&acked)
    ));
    Ok(())
}
