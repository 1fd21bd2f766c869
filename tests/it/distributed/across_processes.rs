//! Several processes on the real engines are one product: what is done through one of them is seen by the others, and what plain
//! producers put into a foreign queue is found, counted and seen live.

use crate::harness::{
    PATIENCE, Server, answer,
    checker::{self, Sent},
    data,
    proxy::Proxy,
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

    other
        .until(|| async { other.get(&acme, "/logs?page_size=1").await.0 == 200 }, "the tenant is known")
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

/// One of two processes cannot reach the objects any more: it does not know what is erased through the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_cut_off_from_the_seals_answers_nothing_rather_than_what_was_erased() {
    let form = Form {
        apis: 2,
        consumers: 1,
        ..Form::default()
    };
    let Some(mut cluster) = Cluster::here(form).await else { return };
    let proxy = Proxy::start(cluster.engines.address("S3")).await;
    cluster.apis[1].settings.insert("AWS_ENDPOINT_URL_S3".to_owned(), proxy.url());
    let stage = Stage::Distributed(Box::new(cluster));
    let running = stage.start().await;
    let [one, other] = &running.apis[..] else { panic!("two") };
    let acme = one.tenant("acme").await;
    let (body, ids) = data::bulk(10, "needle");
    let (status, told) = one.post(&acme, "/logs/bulk?wait=stored", body).await;
    assert_eq!(status, 201, "{told}");
    other.until(|| async { total(other, &acme, "").await == 10 }, "the tenant is known").await;

    proxy.down();
    let request = one.client.delete(one.url("/logs/cleanup?days=0&confirm=acme")).bearer_auth(&acme);
    let (status, done) = answer(request).await;
    assert_eq!((status, &done["deleted_count"]), (200, &json!(10)), "{done}");
    let asks = [
        "/logs",
        "/logs?search=needle",
        "/logs/stats",
        "/logs/stats?search=needle",
        &format!("/logs/{}", ids[0]),
    ];
    let answers = asks.map(|path| {
        let acme = &acme;
        async move { (path, other.get(acme, path).await) }
    });
    for (path, (status, said)) in futures_util::future::join_all(answers).await {
        assert_eq!(status, 503, "{path}: {said}");
    }
    proxy.mend();
    other
        .until(
            || async {
                let (status, page) = other.get(&acme, "/logs?total=exact").await;
                assert!(status == 503 || (status == 200 && page["meta"]["total"] == 0), "{status} {page}");
                status == 200
            },
            "it sees the seals again",
        )
        .await;
    assert_eq!(other.get(&acme, &format!("/logs/{}", ids[0])).await.0, 404);
}

/// Somebody has emptied the index behind the back of a running deployment: it is filled again while others read and write.
#[tokio::test(flavor = "multi_thread")]
async fn the_search_store_is_filled_again_beside_readers_and_writers() {
    let Some(stage) = stage(1).await else { return };
    let running = stage.start().await;
    let [one, other] = &running.apis[..] else { panic!("two") };
    let acme = one.tenant("acme").await;
    let mut written = 0;
    let mut write = async |n: usize| {
        let (status, told) = one.post(&acme, "/logs/bulk?wait=stored", data::bulk(n, "needle").0).await;
        assert_eq!((status, &told["decided"]["stored"]), (201, &json!(n)), "{told}");
        written += n;
        written
    };
    for _ in 0..3 {
        write(100).await;
    }
    let cluster = cluster(&stage);
    let documents = format!("/{}-logs-*/_delete_by_query?refresh=true&conflicts=proceed", cluster.name);
    let every = json!({"query": {"match_all": {}}});
    cluster
        .engines
        .opensearch(reqwest::Method::POST, &documents, Some(every))
        .await
        .expect("deleted");
    assert_eq!(total(other, &acme, "&search=needle").await, 0, "nobody has told the product");

    let (site, url) = (&cluster.apis[0], format!("http://{}", one.http));
    let mut command = site.command(&["rebuild", "--store", "opensearch", "--url", &url]);
    let rebuilding = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    let mut found = 0;
    loop {
        let ended = rebuilding.is_finished();
        // The store of record knows nothing of all this, and a search never finds less than before.
        let stats = other.get(&acme, "/logs/stats?action=create").await.1;
        assert!(stats["total"].as_u64() >= Some(300), "{stats}");
        let (status, page) = other.get(&acme, "/logs?page_size=1&total=exact&search=needle").await;
        assert_eq!(status, 200, "{page}");
        let now = page["meta"]["total"].as_u64().expect("counted");
        assert!(now >= found, "{now} after {found}");
        found = now;
        if ended {
            break;
        }
        write(1).await;
    }
    let output = rebuilding.await.expect("no panic");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said} {wrong}");
    assert!(said.contains("tenants=1") && said.contains("failed=0"), "{said}");
    let all = write(50).await;
    let everything = || async { total(other, &acme, "&search=needle").await == all };
    other.until(everything, "everything is found again").await;
}
