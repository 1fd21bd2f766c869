//! The access log on the real binary: a second log that the first does not notice, and that survives what kills the server.

use crate::harness::{PATIENCE, Server, Site, answer, assert_adds_up, assert_dense, data};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

async fn told(server: &Server, token: &str) -> Vec<Value> {
    let (status, page) = server.get(token, "/logs?log=access&sort=sequence:asc&page_size=1000").await;
    assert_eq!(status, 200, "{page}");
    page["data"].as_array().expect("a list").clone()
}

fn actions(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|e| e["action"].as_str().expect("text")).collect()
}

async fn put(server: &Server, token: &str, body: Value) -> u16 {
    answer(
        server
            .client
            .put(server.url("/tenants/acme"))
            .bearer_auth(token)
            .header("content-type", "application/json")
            .body(body.to_string()),
    )
    .await
    .0
}

/// A counter of the metrics, by its name with its labels.
async fn counter(server: &Server, name: &str) -> u64 {
    let text = server.client.get(format!("http://{}/metrics", server.admin)).send().await.expect("metrics");
    let text = text.text().await.expect("text");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("{name} in {text}"));
    value.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_told_with_who_what_and_from_where_and_the_audit_log_does_not_notice() {
    let site = Site::small();
    let server = site.start();
    let token = server.tenant("acme").await;
    server.ready().await;
    let mut live = server
        .client
        .get(server.url("/logs/stream"))
        .bearer_auth(&token)
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("a feed")
        .bytes_stream();
    assert_eq!(server.post(&token, "/logs/bulk?wait=stored", data::bulk(5, "x").0).await.0, 201);
    for _ in 0..20 {
        assert_eq!(server.get(&token, "/logs?search=x&page_size=3").await.1["meta"]["total"], 5);
    }
    let entries = told(&server, &token).await;
    assert_dense(&entries);
    let mut want = vec!["sluice.tenant.create", "sluice.stream"];
    want.extend(["sluice.search"; 20]);
    assert_eq!(actions(&entries), want, "what was answered can be read");
    let read = &entries[2];
    for (field, value) in [
        ("user_id", json!("tester")),
        ("actor", json!("sluice")),
        ("ip_address", json!("127.0.0.1")),
        ("tenant_id", json!("acme")),
        ("resource_id", json!("audit")),
    ] {
        assert_eq!(read[field], value, "{field}");
    }
    assert_eq!(read["metadata"]["rows"], 3);
    assert_eq!(read["metadata"]["filters"], json!({"search": "x", "page_size": "3"}));

    let usage = server.settled_usage(&token, "acme").await;
    assert_adds_up(&usage);
    assert_eq!(
        (&usage["accepted"], &usage["stored"], &usage["pending"]),
        (&json!(5), &json!(5), &json!(0)),
        "{usage}"
    );
    assert_dense(&server.everything(&token).await);
    assert_eq!(counter(&server, "sluice_entries_total{outcome=\"accepted\"}").await, 5);
    assert_eq!(counter(&server, "sluice_entries_total{outcome=\"stored\"}").await, 5);
    assert!(counter(&server, "sluice_access_entries_total{outcome=\"stored\"}").await >= 22);
    assert_eq!(counter(&server, "sluice_access_entries_total{outcome=\"dropped\"}").await, 0);

    // A sixth entry is the next thing that the feed of the audit log hears of.
    assert_eq!(
        server
            .post(&token, "/logs?wait=stored", data::entry(uuid::Uuid::new_v4(), "last").to_string())
            .await
            .0,
        201
    );
    let (mut text, mut heard) = (String::new(), 0);
    while heard < 6 {
        let piece = timeout(PATIENCE, live.next()).await.expect("in time").expect("open").expect("whole");
        text.push_str(std::str::from_utf8(&piece).expect("text"));
        heard = text.lines().filter(|line| line.starts_with("id: ")).count();
    }
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
    assert!(!text.contains("sluice."), "no echo");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_change_is_told_whatever_kills_the_server() {
    let site = Site::small();
    for round in 1..=5u32 {
        let mut server = site.start();
        let token = server.tenant("acme").await;
        assert_eq!(put(&server, &token, json!({"settings": {"retention_days": round}})).await, 200);
        server.kill();
    }
    let server = site.start();
    server.ready().await;
    let entries = told(&server, &server.token(Some("acme"), &["auditor"])).await;
    assert_dense(&entries);
    let changes: Vec<_> = entries.iter().filter(|e| e["action"] == "sluice.tenant.update").collect();
    let days: Vec<_> = changes
        .iter()
        .map(|e| e["after_state"]["settings"]["retention_days"].as_u64().expect("a number"))
        .collect();
    assert_eq!(days, [1, 2, 3, 4, 5]);
    let before = |i: usize| changes[i]["before_state"]["settings"]["retention_days"].clone();
    assert_eq!((before(0), before(4)), (json!(90), json!(4)));
    assert_eq!(actions(&entries)[0], "sluice.tenant.create");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_order_loses_no_read_and_the_store_verifies() {
    let site = Site::small();
    let server = site.start();
    let token = server.tenant("acme").await;
    server.ready().await;
    assert_eq!(server.post(&token, "/logs/bulk?wait=stored", data::bulk(50, "x").0).await.0, 201);
    for _ in 0..300 {
        assert_eq!(server.get(&token, "/logs?page_size=1").await.0, 200);
    }
    assert_eq!(server.stop(), Some(0));
    let verified = site.command(&["verify-store"]).output().expect("it runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let server = site.start();
    server.ready().await;
    let entries = told(&server, &server.token(Some("acme"), &["auditor"])).await;
    assert_dense(&entries);
    assert_eq!(actions(&entries).iter().filter(|a| **a == "sluice.search").count(), 300);
    assert_dense(&server.everything(&token).await);
    assert_eq!(server.settled_usage(&token, "acme").await["stored"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_tenants_auditors_reads_it() {
    let site = Site::small();
    let server = site.start();
    let (acme, globex) = (server.tenant("acme").await, server.tenant("globex").await);
    server.ready().await;
    assert_eq!(server.get(&acme, "/logs?user_id=planted-secret").await.0, 200);
    for role in ["viewer", "writer", "user"] {
        let (status, problem) = server.get(&server.token(Some("acme"), &[role]), "/logs?log=access").await;
        assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "{role}");
    }
    let theirs = told(&server, &globex).await;
    assert_eq!(actions(&theirs), ["sluice.tenant.create"]);
    assert!(!Value::from(theirs).to_string().contains("planted-secret"));
    for path in ["/logs", "/logs/stats", "/logs/export"] {
        let (_, body) = server.get(&globex, &format!("{path}?log=access&metadata.filters.user_id=planted-secret")).await;
        assert!(!body.to_string().contains("\"rows\":0"), "{body}");
    }
    let (_, denied) = server.get(&acme, "/logs?log=access&action=sluice.denied").await;
    assert_eq!(denied["meta"]["total"], 3, "{denied}");
}
