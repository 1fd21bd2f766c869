//! `kill -9` of consumers, API processes and stores at random while clients write: nothing acknowledged is lost, nothing is there twice,
//! numbers are dense, counters exact, both stores equal. `engines/kill-everything --minutes 5 --seed N` does it for longer.

use crate::harness::{
    PATIENCE, Server, Site,
    checker::{self, Sent},
    data,
    engines::{Engines, NEEDED, Own},
    stage::{self, Cluster, Form},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// A killed consumer's messages come back after their visibility timeout, and stores have much to take in.
const SETTLE: Duration = Duration::from_secs(240);
/// Only so fast, so that small engines keep up.
const PAUSE: Duration = Duration::from_millis(100);

type Ledger = Arc<Mutex<HashMap<&'static str, Sent>>>;

/// Where the processes that take requests are, as they come and go.
type Doors = Arc<Mutex<Vec<Option<String>>>>;

/// Sends small bulks through whichever door is open, and what was not acknowledged once more, perhaps through another one.
async fn writer(doors: Doors, token: String, tenant: &'static str, ledger: Ledger, stop: Arc<AtomicBool>, seed: u64) {
    let (mut rng, client) = (StdRng::seed_from_u64(seed), sluice::cli::client::plain().expect("a client"));
    let mut last: Option<(String, Vec<Uuid>)> = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await; // the rate, not a wait
        let open: Vec<String> = doors.lock().unwrap().iter().flatten().cloned().collect();
        if open.is_empty() {
            continue;
        }
        let (body, ids) = last
            .take()
            .unwrap_or_else(|| data::bulk(rng.random_range(1..20), &"x".repeat(rng.random_range(0..300))));
        ledger.lock().unwrap().get_mut(tenant).unwrap().tried.extend(&ids);
        let url = &open[rng.random_range(0..open.len())];
        let request = client
            .post(url)
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body.clone());
        match request.timeout(PATIENCE).send().await {
            Ok(answer) if answer.status() == 201 => {
                ledger.lock().unwrap().get_mut(tenant).unwrap().acked.extend(&ids);
                // Now and then what was acknowledged is sent again.
                last = (rng.random_range(0..5) == 0).then_some((body, ids));
            }
            Ok(answer) => {
                assert!(matches!(answer.status().as_u16(), 429 | 503 | 504), "unexpected {}", answer.status());
                last = Some((body, ids));
            }
            Err(_) => last = Some((body, ids)),
        }
    }
}

/// The processes, which die and come back.
struct Processes<'a> {
    cluster: &'a Cluster,
    apis: Vec<Option<Server>>,
    consumers: Vec<Option<Server>>,
    doors: Doors,
}

impl Processes<'_> {
    fn start(&mut self, role: &str, i: usize) {
        let (place, sites): (_, &[Site]) = match role {
            "api" => (&mut self.apis[i], &self.cluster.apis),
            _ => (&mut self.consumers[i], &self.cluster.consumers),
        };
        // Its stores may be dead just now: then it says so and ends, and is started again, as a supervisor does.
        let deadline = Instant::now() + SETTLE;
        let server = loop {
            match sites[i].try_start() {
                Ok(server) => break server,
                Err((code, text)) => assert!(Instant::now() < deadline, "{role} {i} does not start: {code:?} {text}"),
            }
        };
        if role == "api" {
            self.doors.lock().unwrap()[i] = Some(server.url("/logs/bulk"));
        }
        *place = Some(server);
    }

    fn kill(&mut self, role: &str, i: usize) {
        if role == "api" {
            self.doors.lock().unwrap()[i] = None;
            self.apis[i] = None;
        } else {
            self.consumers[i] = None;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_whatever_is_killed() {
    if Engines::here(&NEEDED).is_none() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seconds = number("SLUICE_KILL_SECONDS").unwrap_or(30);
    let seed = number("SLUICE_SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    println!("kill everything: seed {seed}, {seconds} s");
    let _turn = stage::turn().await;
    let own = tokio::task::spawn_blocking(|| Own::start(&NEEDED)).await.expect("engines");
    let form = Form {
        apis: 2,
        consumers: 2,
        partitions: 2,
        ..Form::default()
    };
    let cluster = Cluster::new(own.engines.clone(), form).await;
    let doors: Doors = Arc::new(Mutex::new(vec![None; form.apis]));
    let mut processes = Processes {
        cluster: &cluster,
        apis: (0..form.apis).map(|_| None).collect(),
        consumers: (0..form.consumers).map(|_| None).collect(),
        doors: doors.clone(),
    };
    (0..form.apis).for_each(|i| processes.start("api", i));
    (0..form.consumers).for_each(|i| processes.start("consumer", i));
    let ledger: Ledger = Arc::new(Mutex::new(TENANTS.into_iter().map(|t| (t, Sent::default())).collect()));
    let (stop, mut rng, mut writers) = (Arc::new(AtomicBool::new(false)), StdRng::seed_from_u64(seed), Vec::new());
    let mut tokens = HashMap::new();
    for tenant in TENANTS {
        let token = processes.apis[0].as_ref().expect("it runs").tenant(tenant).await;
        tokens.insert(tenant, token.clone());
        for api in processes.apis.iter().flatten() {
            api.until(|| async { api.get(&token, "/logs?page_size=1").await.0 == 200 }, "the tenant is known")
                .await;
        }
        // Each look at the counters would be an entry more.
        let quiet = serde_json::json!({"settings": {"audit_reads": false}}).to_string();
        let api = processes.apis[0].as_ref().expect("it runs");
        let put = api.client.put(api.url(&format!("/tenants/{tenant}"))).bearer_auth(&token);
        assert_eq!(crate::harness::answer(put.header("content-type", "application/json").body(quiet)).await.0, 200);
        writers.push(tokio::spawn(writer(doors.clone(), token, tenant, ledger.clone(), stop.clone(), rng.random())));
    }

    let kills = AtomicU32::new(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        // The moment of the kill is what is random here, and how long it stays dead; nothing waits for it.
        let (until, dead) = (
            Duration::from_millis(rng.random_range(200..3_000)),
            Duration::from_millis(rng.random_range(0..2_000)),
        );
        let (victim, i) = (rng.random_range(0..10), rng.random_range(0..2));
        tokio::time::sleep(until).await;
        kills.fetch_add(1, Ordering::Relaxed);
        match victim {
            0..=5 => {
                let role = if victim < 4 { "consumer" } else { "api" };
                println!("kill {role} {i} for {} ms", dead.as_millis());
                processes.kill(role, i);
                tokio::time::sleep(dead).await;
                tokio::task::block_in_place(|| processes.start(role, i));
            }
            store => {
                let name = ["clickhouse", "opensearch", "s3", "sqs"][store - 6];
                println!("kill {name} for {} ms", dead.as_millis());
                own.kill(name);
                tokio::time::sleep(dead).await;
                tokio::task::block_in_place(|| own.revive());
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    println!("{} kills; settling", kills.load(Ordering::Relaxed));
    // One that ended by itself (its seal log was gone for too long) is started again, as a supervisor does.
    for (role, n) in [("api", form.apis), ("consumer", form.consumers)] {
        for i in 0..n {
            let place = if role == "api" { &mut processes.apis[i] } else { &mut processes.consumers[i] };
            if place.as_mut().is_some_and(Server::has_ended) {
                processes.start(role, i);
            }
        }
    }

    let api = processes.apis[1].as_ref().expect("it runs");
    let deadline = Instant::now() + SETTLE;
    let (rows, usages) = loop {
        let mut why = "the queues are not empty".to_owned();
        let mut depth = 0;
        for queue in &cluster.queues {
            depth += own.engines.queue_depth(queue).await;
        }
        if depth == 0 {
            let clickhouse = checker::in_clickhouse(&own.engines, &cluster.name).await.expect("ClickHouse answers");
            let opensearch = checker::in_opensearch(&own.engines, &cluster.name).await.expect("OpenSearch answers");
            let mut usages = HashMap::new();
            for tenant in TENANTS {
                usages.insert(tenant, api.get(&tokens[tenant], &format!("/tenants/{tenant}/usage")).await.1);
            }
            let counted = |tenant: &str| usages[tenant]["stored"].as_u64() == Some(clickhouse.get(tenant).map_or(0, |rows| rows.len() as u64));
            match TENANTS.iter().find_map(|tenant| checker::difference(&clickhouse, &opensearch, tenant)) {
                Some(different) => why = different,
                None if !TENANTS.iter().all(|tenant| counted(tenant)) => why = format!("{usages:?}"),
                None => break (clickhouse, usages),
            }
        }
        let log = processes.consumers.iter().flatten().map(Server::stderr).collect::<String>();
        assert!(Instant::now() < deadline, "seed {seed}: it does not settle: {why}\n{log}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    checker::check_ledger(&own.engines, &cluster.name).await;
    let compared = checker::check_seals(&own.engines, &cluster.name, form.partitions as u32).await;
    println!("{compared} rows are as their seals say");
    let ledger = ledger.lock().unwrap();
    for tenant in TENANTS {
        checker::check(tenant, &rows[tenant], &ledger[tenant], &usages[tenant]);
    }
    let acked: usize = ledger.values().map(|sent| sent.acked.len()).sum();
    println!("{acked} entries acknowledged; all of them there once, dense, counted, in both stores (seed {seed})");
    assert!(acked > 100, "seed {seed}: only {acked} entries were acknowledged: the run did not test");
}
