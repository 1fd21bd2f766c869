//! Cleanup: what is erased is gone from every answer and every count, its ids are free, and nothing brings it back.

use crate::harness::{
    Server, Site, answer, assert_adds_up, data,
    stage::{Stage, told_to_both},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

const OLD: &str = "2020-01-02T03:04:05.000Z";

/// A bulk of `n` entries with this event time, and their ids.
fn bulk(n: usize, timestamp: Option<&str>, text: &str) -> (String, Vec<Uuid>) {
    let (body, ids) = data::bulk(n, text);
    let mut entries: Vec<Value> = serde_json::from_str(&body).expect("a list");
    if let Some(timestamp) = timestamp {
        entries.iter_mut().for_each(|entry| entry["timestamp"] = timestamp.into());
    }
    (Value::from(entries).to_string(), ids)
}

async fn store(server: &Server, token: &str, body: String) -> Value {
    let (status, answer) = server.post(token, "/logs/bulk?wait=stored", body).await;
    assert_eq!(status, 201, "{answer}");
    answer["decided"].clone()
}

async fn cleanup(server: &Server, token: &str, query: &str) -> (u16, Value) {
    answer(server.client.delete(server.url(&format!("/logs/cleanup?{query}"))).bearer_auth(token)).await
}

/// Rows now, by every way of counting them.
async fn assert_rows(server: &Server, token: &str, tenant: &str, rows: u64, erased: u64) {
    let usage = server.settled_usage(token, tenant).await;
    assert_adds_up(&usage);
    assert_eq!(usage["erased"], erased, "{usage}");
    assert_eq!(usage["stored"], rows + erased, "{usage}");
    assert_eq!(server.get(token, "/logs?page_size=1").await.1["meta"]["total"], rows);
    assert_eq!(server.get(token, "/logs/stats").await.1["total"], rows);
    assert_eq!(
        server.get(token, "/logs/stats?metadata.text=old").await.1["total"],
        server.get(token, "/logs?metadata.text=old").await.1["meta"]["total"]
    );
    assert_eq!(server.everything(token).await.len() as u64, rows);
}

/// What a client that resumes at the beginning is told up to `head`: numbers of entries, and void ranges.
async fn feed(server: &Server, token: &str, head: u64) -> (Vec<u64>, Vec<(u64, u64)>) {
    let url = server.url("/logs/stream?after=0");
    let answer = server
        .client
        .get(url)
        .bearer_auth(token)
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("a feed");
    let (mut stream, mut text) = (answer.bytes_stream(), String::new());
    let (mut numbers, mut voids, mut upto) = (Vec::new(), Vec::new(), 0);
    while upto < head {
        let more = tokio::time::timeout(crate::harness::PATIENCE, stream.next())
            .await
            .expect("it goes on")
            .expect("it goes on");
        text.push_str(std::str::from_utf8(&more.expect("bytes")).expect("text"));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let Some(line) = event.lines().find_map(|line| line.strip_prefix("data:")) else {
                continue;
            };
            let item: Value = serde_json::from_str(line.trim()).expect("JSON");
            if item["type"] == "void" {
                let range = (item["from"].as_u64().expect("a number"), item["to"].as_u64().expect("a number"));
                voids.push(range);
                upto = range.1;
            } else {
                upto = item["sequence"].as_u64().expect("a number");
                numbers.push(upto);
            }
        }
    }
    (numbers, voids)
}

async fn what_is_erased_is_gone_everywhere_and_stays_gone(stage: Stage) {
    let server = stage.start().await;
    let (token, other) = (server.tenant("acme").await, server.tenant("globex").await);
    // Old entries in a part and in memory, among new ones, and the same of another tenant.
    let (old, old_ids) = bulk(120, Some(OLD), "old");
    store(&server, &token, old.clone()).await;
    store(&server, &other, old.clone()).await;
    let (new, new_ids) = bulk(50, None, "new");
    store(&server, &token, new).await;
    for _ in 0..stage.sized(8, 1) {
        store(&server, &other, bulk(500, None, &"filler ".repeat(80)).0).await;
    }
    if let Stage::Embedded(site) = &stage {
        let parts = || std::fs::read_dir(site.data().join("parts")).is_ok_and(|files| files.count() > 0);
        server.until(|| async { parts() }, "a part is written").await;
    }
    let (later, later_ids) = bulk(30, Some(OLD), "old");
    store(&server, &token, later).await;
    assert_rows(&server, &token, "acme", 200, 0).await;
    let others = server.settled_usage(&other, "globex").await["stored"].as_u64().expect("a number");

    let (status, counted) = cleanup(&server, &token, "days=30&dry_run=true").await;
    assert_eq!((status, &counted["deleted_count"], &counted["dry_run"]), (200, &json!(150), &json!(true)));
    assert_rows(&server, &token, "acme", 200, 0).await;
    let (status, done) = cleanup(&server, &token, "days=30").await;
    assert_eq!((status, &done["deleted_count"], &done["dry_run"]), (200, &json!(150), &json!(false)));
    assert_rows(&server, &token, "acme", 50, 150).await;
    for gone in [old_ids[0], old_ids[119], later_ids[7]] {
        assert_eq!(server.get(&token, &format!("/logs/{gone}")).await.0, 404);
        assert_eq!(server.get(&token, &format!("/logs?id={gone}")).await.1["meta"]["total"], 0);
    }
    assert_eq!(server.get(&token, &format!("/logs/{}", new_ids[3])).await.0, 200);
    assert_eq!(cleanup(&server, &token, "days=30").await.1["deleted_count"], 0, "nothing twice");
    assert_rows(&server, &other, "globex", others, 0).await;
    assert_eq!(
        server.get(&other, &format!("/logs/{}", old_ids[0])).await.0,
        200,
        "another tenant's entry of the same id"
    );
    assert_eq!(feed(&server, &token, 200).await, ((121..=170).collect(), vec![(1, 120), (171, 200)]));

    // The ids are free: what is sent again is new, whatever its content and its time.
    let again = json!([{"id": old_ids[0], "timestamp": OLD, "action": "A", "resource_type": "t", "resource_id": "r", "message": "once more"},
        {"id": later_ids[7], "timestamp": OLD, "action": "A", "resource_type": "t", "resource_id": "r"}]);
    let decided = store(&server, &token, again.to_string()).await;
    assert_eq!(decided, json!({"stored": 2, "duplicate": 0, "dead_lettered": 0}));
    assert_eq!(store(&server, &token, again.to_string()).await["duplicate"], 2);
    let found = server.get(&token, &format!("/logs/{}", old_ids[0])).await.1;
    assert_eq!((&found["message"], &found["sequence"]), (&json!("once more"), &json!(201)));
    assert_rows(&server, &token, "acme", 52, 150).await;

    assert_eq!(server.stop(), Some(0));
    let mut server = stage.start().await;
    server.ready().await;
    assert_rows(&server, &token, "acme", 52, 150).await;
    assert_eq!(cleanup(&server, &token, "before=2020-01-03").await.1["deleted_count"], 2);
    server.kill();
    let server = stage.start().await;
    server.ready().await;
    assert_rows(&server, &token, "acme", 50, 152).await;
    assert_rows(&server, &other, "globex", others, 0).await;
    let (numbers, voids) = feed(&server, &token, 202).await;
    assert_eq!((numbers, voids), ((121..=170).collect(), vec![(1, 120), (171, 202)]));
    assert_eq!(store(&server, &token, old).await["stored"], 120, "free again");
    assert_eq!(cleanup(&server, &token, "days=0&confirm=acme").await.1["deleted_count"], 170);
    assert_rows(&server, &token, "acme", 0, 322).await;
}

/// A cleanup reaches what was acknowledged before it, also when nobody waited for it to be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_right_after_a_write_reaches_it() {
    let site = Site::plain();
    let server = site.start();
    server.ready().await;
    let token = server.tenant("acme").await;
    for round in 1..=20u64 {
        assert_eq!(server.post(&token, "/logs/bulk?ids=false", bulk(40, None, "x").0).await.0, 201);
        let (status, done) = cleanup(&server, &token, "days=0&confirm=acme").await;
        assert_eq!((status, &done["deleted_count"]), (200, &json!(40)), "round {round}");
    }
    assert_rows(&server, &token, "acme", 0, 800).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_an_erasure_loses_neither_it_nor_its_count() {
    let site = Site::small();
    let mut server = site.start();
    let token = server.tenant("acme").await;
    let mut least = 0;
    for round in 0..8u64 {
        for _ in 0..3 {
            assert_eq!(server.post(&token, "/logs/bulk", bulk(200, Some(OLD), "old").0).await.0, 201);
            assert_eq!(server.post(&token, "/logs/bulk", bulk(20, None, "new").0).await.0, 201);
        }
        let path = server.url("/logs/cleanup?days=30");
        let asked = tokio::spawn(answer_if_any(server.client.delete(path).bearer_auth(&token)));
        tokio::time::sleep(Duration::from_millis(round * 3)).await; // the moment of the kill, not a wait
        server.kill();
        let told = asked.await.expect("no panic");
        server = site.start();
        server.ready().await;
        least += 60;
        // What was pending is counted by the new process, in its own time.
        let path = "/tenants/acme/usage";
        let counted = || async {
            let usage = server.get(&token, path).await.1;
            let rows = server.get(&token, "/logs?page_size=1").await.1["meta"]["total"].as_u64();
            usage["pending"] == 0 && usage["stored"].as_u64().zip(usage["erased"].as_u64()).map(|(stored, erased)| stored - erased) == rows
        };
        server.until(counted, "rows now = stored − erased").await;
        let usage = server.get(&token, path).await.1;
        assert_adds_up(&usage);
        let new = server.get(&token, "/logs?metadata.text=new&page_size=1").await.1["meta"]["total"].as_u64();
        assert_eq!(new, Some(least), "new entries are never touched");
        let old = server.get(&token, "/logs?metadata.text=old&page_size=1").await.1["meta"]["total"].as_u64();
        if told.is_some() {
            assert_eq!(old, Some(0), "round {round}: an erasure that was answered is undone");
        }
    }
    let left = server.get(&token, "/logs?metadata.text=old&page_size=1").await.1["meta"]["total"].clone();
    assert_eq!(cleanup(&server, &token, "days=30").await.1["deleted_count"], left);
    assert_rows(&server, &token, "acme", least, 8 * 600).await;
}

/// The status, unless the server was gone before it answered.
async fn answer_if_any(request: reqwest::RequestBuilder) -> Option<u16> {
    request.send().await.ok().map(|answer| answer.status().as_u16())
}

told_to_both!(what_is_erased_is_gone_everywhere_and_stays_gone);
