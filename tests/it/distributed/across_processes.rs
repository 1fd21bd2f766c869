//! Several processes on the real engines are one product: what is done through one of them is seen by the others, and what plain
//! producers put into a foreign queue is found, counted and seen live.

use crate::harness::{
    PATIENCE, Server, answer,
    checker::{self, Sent},
    data,
    stage::{Cluster, Form, Running, Stage},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::HashSet;
use uuid::Uuid;

/// Two processes that take requests, two that decide, of which one stands by or has the other queue.
async fn stage(partitions: usize) -> Option<Stage> {
    let form = Form {
        apis: 2,
        consumers: 2,
        partitions,
        ..Form::default()
    };
    Cluster::here(form).await.map(|cluster| Stage::Distributed(Box::new(cluster)))
}

pub(super) fn cluster(stage: &Stage) -> &Cluster {
    match stage {
        Stage::Distributed(cluster) => cluster,
        Stage::Embedded(_) => panic!("there is no cluster"),
    }
}

/// Entries of a feed, until there are `n`.
async fn feed(server: &Server, token: &str, n: usize) -> Vec<Value> {
    // Another process made the tenant a moment ago.
    server
        .until(|| async { server.get(token, "/logs?page_size=1").await.0 == 200 }, "the tenant is known")
        .await;
    let request = server.client.get(server.url("/logs/stream?after=0")).bearer_auth(token);
    let answer = request.header("accept", "text/event-stream").send().await.expect("a feed");
    assert_eq!(answer.status(), 200);
    let (mut stream, mut text, mut all) = (answer.bytes_stream(), String::new(), Vec::new());
    while all.len() < n {
        let piece = tokio::time::timeout(PATIENCE, stream.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("whole");
        text.push_str(std::str::from_utf8(&piece).expect("text"));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            all.extend(event.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?.trim()).ok()));
        }
    }
    all
}

async fn total(server: &Server, token: &str, query: &str) -> Value {
    server.get(token, &format!("/logs?page_size=1&total=exact{query}")).await.1["meta"]["total"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_takes_every_other_one_shows() {
    let Some(stage) = stage(2).await else { return };
    let running = stage.start().await;
    let [one, other] = &running.apis[..] else { panic!("two") };
    let (acme, globex) = (one.tenant("acme").await, one.tenant("globex").await);
    // The other process knows a new tenant by the time its catalog is refreshed at the latest; its secret is the same.
    let body = json!([data::entry(Uuid::new_v4(), "needle one")]).to_string();
    other
        .until(
            || async { other.post(&globex, "/logs/bulk", body.clone()).await.0 == 201 },
            "the tenant is known",
        )
        .await;

    let live = {
        let (client, url, token) = (other.client.clone(), other.url("/logs/stream"), acme.clone());
        let answer = client
            .get(url)
            .bearer_auth(token)
            .header("accept", "text/event-stream")
            .send()
            .await
            .expect("a feed");
        assert_eq!(answer.status(), 200);
        answer
    };
    let (body, ids) = data::bulk(20, "needle two");
    let (status, told) = one.post(&acme, "/logs/bulk?wait=stored", body.clone()).await;
    assert_eq!((status, &told["decided"]["stored"]), (201, &json!(20)), "{told}");
    let shown = |query: &'static str| {
        let acme = &acme;
        async move { total(other, acme, query).await == 20 }
    };
    other.until(|| shown("&search=needle"), "found by search").await;
    other.until(|| shown("&action=create"), "found in the store of record").await;
    other
        .until(|| async { other.get(&acme, "/logs/stats").await.1["total"] == 20 }, "counted")
        .await;
    let (status, entry) = other.get(&acme, &format!("/logs/{}?wait=10", ids[7])).await;
    assert_eq!((status, &entry["message"]), (200, &json!("needle two")), "{entry}");
    let (mut stream, mut text) = (live.bytes_stream(), String::new());
    while !ids.iter().all(|id| text.contains(&id.to_string())) {
        let piece = tokio::time::timeout(PATIENCE, stream.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("whole");
        text.push_str(std::str::from_utf8(&piece).expect("text"));
    }

    // A repeat and a conflict through the other door; the dead letter is seen, and replayed, through the first.
    let (status, told) = other.post(&acme, "/logs/bulk?wait=stored", body).await;
    assert_eq!((status, &told["decided"]["duplicate"]), (201, &json!(20)), "{told}");
    let conflict = json!([data::entry(ids[3], "something else")]).to_string();
    let (status, told) = other.post(&acme, "/logs/bulk?wait=stored", conflict).await;
    assert_eq!((status, &told["decided"]["dead_lettered"]), (201, &json!(1)), "{told}");
    one.until(|| async { one.get(&acme, "/deadletters").await.1["meta"]["total"] == 1 }, "the dead letter")
        .await;
    let letter = one.get(&acme, "/deadletters").await.1["data"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(one.get(&globex, &format!("/deadletters/{letter}")).await.0, 404);
    let (status, replayed) = one.post(&acme, &format!("/deadletters/{letter}/replay"), "").await;
    assert_eq!(status, 201, "{replayed}");
    let all = || async { total(other, &acme, "&search=something").await == 1 };
    other.until(all, "the replayed entry").await;

    // Cleanup through one, gone in the other.
    let request = one.client.delete(one.url("/logs/cleanup?days=0&confirm=acme")).bearer_auth(&acme);
    let (status, done) = answer(request).await;
    assert_eq!((status, &done["deleted_count"]), (200, &json!(21)), "{done}");
    for query in ["", "&search=needle"] {
        other.until(|| async { total(other, &acme, query).await == 0 }, "gone").await;
    }
    assert_eq!(other.get(&acme, &format!("/logs/{}", ids[0])).await.0, 404);
    let usage = running.usage_of(&acme, "acme", 42).await;
    assert_eq!(
        (
            &usage["stored"],
            &usage["duplicate"],
            &usage["dead_lettered"],
            &usage["erased"],
            &usage["pending"]
        ),
        (&json!(21), &json!(20), &json!(1), &json!(21), &Value::Null),
        "{usage}"
    );
    // Who did all this is told by both, in the other log of the tenant.
    let told = || async { other.get(&acme, "/logs?log=access&action=sluice.cleanup").await.1["meta"]["total"].as_u64() >= Some(1) };
    other.until(told, "the cleanup in the access log").await;
    assert_eq!(running.stop(), Some(0));
}

/// The rows in the stores themselves, against what clients were told. Waits for the slower of both stores.
pub(super) async fn books(running: &Running, stage: &Stage, tenant: &str, token: &str, sent: &Sent) {
    let cluster = cluster(stage);
    let equal = || async {
        let clickhouse = checker::in_clickhouse(&cluster.engines, &cluster.name).await.expect("it answers");
        let opensearch = checker::in_opensearch(&cluster.engines, &cluster.name).await.expect("it answers");
        let all = clickhouse.get(tenant).is_some_and(|rows| rows.len() >= sent.acked.len());
        all && checker::difference(&clickhouse, &opensearch, tenant).is_none()
    };
    running.until(equal, "both stores have everything").await;
    let rows = checker::in_clickhouse(&cluster.engines, &cluster.name).await.expect("it answers");
    let usage = running.settled_usage(token, tenant).await;
    checker::check(tenant, &rows[tenant], sent, &usage);
}

/// SIGTERM to every process in turn, each replaced, while a client writes: no request fails for good, nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() {
    let Some(stage) = stage(1).await else { return };
    let mut running = stage.start().await;
    let token = running.tenant("acme").await;
    let mut sent = Sent::default();
    for round in 0..4 {
        let (role, i) = (round / 2, round % 2);
        let keep = 1 - i;
        for _ in 0..3 {
            let (body, ids) = data::bulk(20, "rolling");
            sent.tried.extend(&ids);
            let api = &running.apis[keep];
            api.until(|| async { api.post(&token, "/logs/bulk", body.clone()).await.0 == 201 }, "it takes entries")
                .await;
            sent.acked.extend(&ids);
        }
        let (servers, sites) = match role {
            0 => (&mut running.apis, &cluster(&stage).apis),
            _ => (&mut running.consumers, &cluster(&stage).consumers),
        };
        assert_eq!(servers.remove(i).stop(), Some(0));
        servers.insert(i, sites[i].start());
        let (body, ids) = data::bulk(20, "after");
        sent.tried.extend(&ids);
        let api = &running.apis[keep];
        api.until(|| async { api.post(&token, "/logs/bulk", body.clone()).await.0 == 201 }, "it takes entries")
            .await;
        sent.acked.extend(&ids);
    }
    books(&running, &stage, "acme", &token, &sent).await;
    assert_eq!(feed(&running.apis[1], &token, sent.acked.len()).await.len(), sent.acked.len());
}

/// What a plain producer puts into a queue that Sluice only reads.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_are_found_counted_and_seen_live() {
    let Some(stage) = stage(1).await else { return };
    let running = stage.start().await;
    let acme = running.tenant("acme").await;
    let queue = &cluster(&stage).foreign;
    let mut sent = Sent::default();
    let engines = &cluster(&stage).engines;
    let put = async |body: String| engines.sqs("SendMessage", &json!({"QueueUrl": queue, "MessageBody": body})).await;
    let mut entry = |text: &str| {
        let id = Uuid::new_v4();
        sent.tried.insert(id);
        sent.acked.insert(id);
        let mut entry = data::entry(id, text);
        entry["tenant_id"] = "acme".into();
        entry
    };
    // One entry, an array, lines; and the first one again.
    let first = entry("foreign one").to_string();
    put(first.clone()).await;
    put(json!([entry("foreign two"), entry("foreign three")]).to_string()).await;
    put(format!("{}\n{}\n", entry("foreign four"), entry("foreign five"))).await;
    put(first).await;
    let other = &running.apis[1];
    let seen = feed(other, &acme, 5).await;
    let ids: HashSet<&str> = seen.iter().filter_map(|entry| entry["id"].as_str()).collect();
    assert_eq!(ids.len(), 5, "{seen:?}");
    assert!(seen.iter().all(|entry| entry["actor"] == "shop"), "{seen:?}");
    running.until(|| async { total(&running, &acme, "&search=foreign").await == 5 }, "found").await;
    running
        .until(|| async { running.get(&acme, "/logs/stats").await.1["by_action"]["CREATE"] == 5 }, "counted")
        .await;
    running
        .until(
            || async { running.get(&acme, "/tenants/acme/usage").await.1["duplicate"] == 1 },
            "the repeat is known",
        )
        .await;
    books(&running, &stage, "acme", &acme, &sent).await;
    running
        .until(|| async { engines.queue_depth(queue).await == 0 }, "every message is acknowledged")
        .await;
}
