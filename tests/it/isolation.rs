//! Tenant A's token sees no byte of B, on any read endpoint.

use crate::harness::{
    PATIENCE, Server,
    stage::{Stage, told_to_both},
};
use futures_util::StreamExt;
use serde_json::json;
use uuid::Uuid;

/// A word that stands in every field of B's entries, and in nothing of A's.
const SECRET: &str = "zebra7f3a";

async fn plant(server: &Server, token: &str, id: Uuid) {
    let text = |n: &str| format!("{SECRET}-{n}");
    let entry = json!({
        "id": id.to_string(), "action": text("action"), "resource_type": text("type"), "resource_id": text("resource"), "user_id": text("user"),
        "session_id": text("session"), "request_id": text("request"), "email": text("mail"), "ip_address": "203.0.113.9", "user_agent": text("agent"),
        "severity": "CRITICAL", "message": text("message"), "before_state": {"k": text("before")}, "after_state": {"k": text("after")}, "metadata": {"k": text("meta")},
    });
    let (status, answer) = server.post(token, "/logs/bulk?wait=stored", json!([entry]).to_string()).await;
    assert_eq!((status, &answer["decided"]["stored"]), (201, &json!(1)), "{answer}");
    let mut conflict = entry;
    conflict["message"] = text("conflict").into();
    let (status, answer) = server.post(token, "/logs/bulk?wait=stored", json!([conflict]).to_string()).await;
    assert_eq!((status, &answer["decided"]["dead_lettered"]), (201, &json!(1)), "{answer}");
}

async fn no_byte_of_another_tenant_comes_back(stage: Stage) {
    let server = stage.start().await;
    let (a, b) = (server.tenant("acme").await, server.tenant("globex").await);
    let foreign = Uuid::new_v4();
    plant(&server, &b, foreign).await;
    let (_, letters) = server.get(&b, "/deadletters").await;
    let letter = letters["data"][0]["id"].as_str().expect("b has a dead letter").to_owned();
    let mine = json!([{"action": "OWN", "resource_type": "t", "resource_id": "1"}]).to_string();
    assert_eq!(server.post(&a, "/logs/bulk?wait=stored", mine).await.0, 201);

    let mut paths: Vec<String> = [
        "/logs",
        "/logs/stats",
        "/deadletters",
        "/tenants",
        "/tenants/acme",
        "/tenants/acme/usage",
        "/tenants/globex",
        "/tenants/globex/usage",
    ]
    .map(String::from)
    .into();
    paths.push(format!("/logs/{foreign}"));
    paths.push(format!("/deadletters/{letter}"));
    let values = [
        ("id", foreign.to_string()),
        ("user_id", format!("{SECRET}-user")),
        ("email", format!("{SECRET}-mail")),
        ("session_id", format!("{SECRET}-session")),
        ("request_id", format!("{SECRET}-request")),
        ("resource_id", format!("{SECRET}-resource")),
        ("resource_type", format!("{SECRET}-type")),
        ("action", format!("{SECRET}-action")),
        ("ip_address", "203.0.113.0/24".into()),
        ("severity", "CRITICAL".into()),
        ("user_agent", SECRET.into()),
        ("metadata.k", format!("{SECRET}-meta")),
        ("min_sequence", "1".into()),
    ];
    for (name, value) in &values {
        for path in ["/logs", "/logs/stats"] {
            paths.push(format!("{path}?{name}={value}"));
        }
    }
    for path in &paths {
        let answer = server
            .client
            .get(server.url(path))
            .bearer_auth(&a)
            .header("x-tenant-id", "acme")
            .send()
            .await
            .expect("it answers");
        let (status, head) = (answer.status(), format!("{:?}", answer.headers()));
        let body = answer.text().await.expect("text");
        // What the caller itself sent may be named back; nothing else.
        let echoed = path.contains(SECRET);
        assert!(echoed || !(body.contains(SECRET) || head.contains(SECRET)), "{path}: {status} {body}");
        if path.contains("/logs?") && status == 200 && !path.contains("min_sequence") {
            let page: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(page["meta"]["total"], 0, "{path}: {body}");
        }
        if *path == format!("/logs/{foreign}") || path.starts_with("/deadletters/") {
            assert_eq!(status, 404, "{path}");
        }
        if path.starts_with("/tenants/globex") {
            assert_eq!(status, 403, "{path}");
        }
    }
    // A tenant that does not exist answers exactly like one that is not mine.
    let bodies = futures_util::future::join_all(["/tenants/globex", "/tenants/nobody"].map(|p| server.get(&a, p))).await;
    assert_eq!(
        (bodies[0].0, &bodies[0].1["code"], &bodies[0].1["detail"]),
        (bodies[1].0, &bodies[1].1["code"], &bodies[1].1["detail"])
    );
    let (_, list) = server.get(&a, "/tenants").await;
    assert_eq!(list["meta"]["total"], 1, "{list}");

    // The feed, from the first entry on: A's own entry comes, nothing of B does.
    let request = server
        .client
        .get(server.url("/logs/stream?after=0"))
        .bearer_auth(&a)
        .header("accept", "text/event-stream");
    let mut stream = request.send().await.expect("it answers").bytes_stream();
    plant(&server, &b, Uuid::new_v4()).await;
    let mine = json!([{"action": "LAST", "resource_type": "t", "resource_id": "1"}]).to_string();
    assert_eq!(server.post(&a, "/logs/bulk", mine).await.0, 201);
    let mut seen = String::new();
    while !seen.contains("LAST") {
        let chunk = tokio::time::timeout(PATIENCE, stream.next())
            .await
            .expect("the feed goes on")
            .expect("not ended")
            .expect("no error");
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(seen.contains("OWN") && !seen.contains(SECRET), "{seen}");

    // Metrics and health know no tenant.
    for address in [server.http, server.admin] {
        for path in ["/health", "/health/ready", "/health/live", "/healthz", "/metrics"] {
            let text = server
                .client
                .get(format!("http://{address}{path}"))
                .send()
                .await
                .expect("it answers")
                .text()
                .await
                .expect("text");
            assert!(!text.contains("globex") && !text.contains("acme") && !text.contains(SECRET), "{path}: {text}");
        }
    }
    let log = server.stderr();
    assert!(!log.contains(SECRET) && !log.contains(&a) && !log.contains(&b), "the log tells secrets: {log}");
}

told_to_both!(no_byte_of_another_tenant_comes_back);
