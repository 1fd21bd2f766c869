//! The engines misbehave, each behind a proxy: at random, or one of them dead for a while. What a client was told stays true.

use crate::harness::{
    PATIENCE,
    checker::{self, Sent},
    data,
    engines::NEEDED,
    proxy::{Fault, Proxy, Request},
    stage::{Cluster, Form, Running, Stage},
};
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// A cluster whose engines stand behind proxies, by the engine's name.
async fn behind_proxies() -> Option<(Stage, BTreeMap<&'static str, Proxy>)> {
    let mut cluster = Cluster::here(Form::default()).await?;
    let (mut proxies, mut engines) = (BTreeMap::new(), cluster.engines.clone());
    for name in NEEDED {
        let proxy = Proxy::start(cluster.engines.address(name)).await;
        engines = engines.with(name, proxy.url());
        proxies.insert(name, proxy);
    }
    cluster.redirect(&engines);
    Some((Stage::Distributed(Box::new(cluster)), proxies))
}

/// What each engine says when it has too much to do.
fn busy(engine: &str, request: &Request) -> Fault {
    let json = |kind: &str, text: String| (vec![(kind.to_owned(), "application/json".to_owned())], Bytes::from(text));
    let (status, (headers, body)) = match engine {
        "SQS" => (
            400,
            json(
                "content-type",
                json!({"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slow down"}).to_string(),
            ),
        ),
        "S3" => {
            let text = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>slow down</Message></Error>";
            (503, (vec![("content-type".to_owned(), "application/xml".to_owned())], Bytes::from(text)))
        }
        "OPENSEARCH" => {
            let error = json!({"error": {"type": "rejected_execution_exception", "reason": "queue is full"}, "status": 429});
            (429, json("content-type", error.to_string()))
        }
        _ => {
            let headers = vec![("X-ClickHouse-Exception-Code".to_owned(), "202".to_owned())];
            (500, (headers, Bytes::from_static(b"Code: 202. DB::Exception: Too many simultaneous queries")))
        }
    };
    // An answer to HEAD has no body.
    let body = if request.method == "HEAD" { Bytes::new() } else { body };
    Fault::Answer(status, headers, body)
}

fn misfortune(rng: &mut StdRng, engine: &str, request: &Request) -> Fault {
    match rng.random_range(0..60) {
        0 => busy(engine, request),
        1 => Fault::Answer(500, Vec::new(), Bytes::from_static(b"internal")),
        2 => Fault::Refuse,
        3 => Fault::CutRequest,
        4 => Fault::CutAnswer(rng.random_range(0..200)),
        5 => Fault::Swallow,
        6 => Fault::Delay(Duration::from_millis(rng.random_range(1..800))),
        _ => Fault::Pass,
    }
}

/// Both stores, the counters and what clients know agree.
async fn books(running: &Running, stage: &Stage, token: &str, sent: &Sent) {
    let Stage::Distributed(cluster) = stage else { panic!("there is no cluster") };
    let settled = || async {
        let clickhouse = checker::in_clickhouse(&cluster.engines, &cluster.name).await.expect("it answers");
        let opensearch = checker::in_opensearch(&cluster.engines, &cluster.name).await.expect("it answers");
        let rows = clickhouse.get("acme").map_or(0, BTreeMap::len) as u64;
        let usage = running.get(token, "/tenants/acme/usage").await.1;
        rows >= sent.acked.len() as u64 && usage["stored"] == rows && checker::difference(&clickhouse, &opensearch, "acme").is_none()
    };
    running.until(settled, "both stores have everything, and it is counted").await;
    let rows = checker::in_clickhouse(&cluster.engines, &cluster.name).await.expect("it answers");
    let usage = running.settled_usage(token, "acme").await;
    checker::check("acme", &rows["acme"], sent, &usage);
    checker::check_ledger(&cluster.engines, &cluster.name).await;
    assert!(checker::check_seals(&cluster.engines, &cluster.name, 1).await > 0, "the seals are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_fail_at_random_lose_and_double_nothing() {
    let Some((stage, proxies)) = behind_proxies().await else { return };
    let seed: u64 = std::env::var("SLUICE_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
    println!("SLUICE_SEED={seed}");
    let running = stage.start().await;
    let token = running.tenant("acme").await;
    for (i, (name, proxy)) in proxies.iter().enumerate() {
        let (name, mut rng) = (*name, StdRng::seed_from_u64(seed ^ i as u64));
        proxy.script(move |request| misfortune(&mut rng, name, request));
    }
    let (mut rng, mut sent) = (StdRng::seed_from_u64(seed), Sent::default());
    for _ in 0..60 {
        let (body, ids) = data::bulk(rng.random_range(1..60), &"x".repeat(rng.random_range(0..400)));
        sent.tried.extend(&ids);
        let taken = || async {
            let status = running.post(&token, "/logs/bulk", body.clone()).await.0;
            assert!(matches!(status, 201 | 503 | 504), "{status}");
            status == 201
        };
        running.until(taken, "it is taken").await;
        sent.acked.extend(&ids);
    }
    let faults: u64 = proxies.values().map(Proxy::seen).sum();
    proxies.values().for_each(Proxy::mend);
    books(&running, &stage, &token, &sent).await;
    assert!(faults > 100, "only {faults} requests went through the proxies");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_is_said_and_holds_up_nothing_else() {
    let Some((stage, proxies)) = behind_proxies().await else { return };
    let running = stage.start().await;
    let token = running.tenant("acme").await;
    let mut sent = Sent::default();
    let write = async |sent: &mut Sent, n: usize| {
        let (body, ids) = data::bulk(n, "needle");
        assert_eq!(running.post(&token, "/logs/bulk", body).await.0, 201, "the queue alone decides about a 201");
        sent.tried.extend(&ids);
        sent.acked.extend(&ids);
    };
    let (body, ids) = data::bulk(10, "needle");
    assert_eq!(running.post(&token, "/logs/bulk?wait=stored", body).await.0, 201);
    sent.tried.extend(&ids);
    sent.acked.extend(&ids);

    // Without the search store everything but search goes on.
    proxies["OPENSEARCH"].down();
    write(&mut sent, 10).await;
    running
        .until(|| async { running.get(&token, "/logs?action=create").await.1["meta"]["total"] == 20 }, "stored")
        .await;
    assert_eq!(running.get(&token, "/logs/stats").await.1["total"], 20);
    let (status, problem) = running.get(&token, "/logs?search=needle").await;
    assert_eq!(status, 503, "never a part of the answer: {problem}");
    proxies["OPENSEARCH"].mend();
    let found = || async { running.get(&token, "/logs?search=needle&total=exact").await.1["meta"]["total"] == 20 };
    running.until(found, "caught up").await;

    // Without the store of record entries are still taken, and nothing is answered wrongly.
    proxies["CLICKHOUSE"].down();
    write(&mut sent, 10).await;
    for path in ["/logs?action=create", "/logs/stats", &format!("/logs/{}", ids[0])] {
        let (status, problem) = running.get(&token, path).await;
        assert_eq!(status, 503, "{path}: {problem}");
    }
    let (status, _) = running.get(&token, "/health/live").await;
    assert_eq!(status, 200);
    proxies["CLICKHOUSE"].mend();
    running
        .until(|| async { running.get(&token, "/logs/stats").await.1["total"] == 30 }, "caught up")
        .await;

    // Without the queue nothing is promised.
    proxies["SQS"].down();
    let (body, ids) = data::bulk(5, "needle");
    let refused = tokio::time::timeout(PATIENCE, running.post(&token, "/logs/bulk", body.clone()))
        .await
        .expect("an answer");
    assert!(matches!(refused.0, 503 | 504), "{refused:?}");
    sent.tried.extend(&ids);
    proxies["SQS"].mend();
    running
        .until(
            || async { running.post(&token, "/logs/bulk", body.clone()).await.0 == 201 },
            "it takes entries again",
        )
        .await;
    sent.acked.extend(&ids);
    // Without the seals nothing is decided, and nothing is lost.
    proxies["S3"].down();
    write(&mut sent, 5).await;
    proxies["S3"].mend();
    books(&running, &stage, &token, &sent).await;
}
