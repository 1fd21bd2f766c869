//! What the write endpoints answer, and that nothing of a refused request is kept.

use crate::harness::{
    Site, answer, assert_adds_up, data,
    stage::{Stage, told_to_both},
};
use serde_json::{Value, json};
use std::io::Write;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn single_bulk_and_ndjson_answer_as_the_contract_says(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    let one =
        json!({"action": "LOGIN", "resource_type": "s", "resource_id": "1", "severity": "warning", "ip_address": "::ffff:10.0.0.1", "metadata": {"n": 1.50}});
    let request = server.client.post(server.url("/logs")).bearer_auth(&token).body(one.to_string());
    let response = request.send().await.expect("it answers");
    assert_eq!(response.status(), 201);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let text = response.text().await.expect("text");
    assert!(text.contains(r#""n":1.5"#), "{text}");
    let entry: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&entry["severity"], &entry["ip_address"], &entry["user_id"], &entry["actor"]),
        (&json!("WARNING"), &json!("10.0.0.1"), &json!("tester"), &json!("tester"))
    );
    // In one process found as soon as the POST has answered; of several, another one may have to wait for it.
    let wait = if stage.is_embedded() { "" } else { "?wait=10" };
    let found = server
        .client
        .get(format!("http://{}{location}{wait}", server.http))
        .bearer_auth(&token)
        .send()
        .await
        .expect("it answers");
    assert_eq!(found.status(), 200);

    let good = r#"{"action":"A","resource_type":"t","resource_id":"1"}"#;
    let some = format!("{good}\n\n{{\"action\":1}}\nnonsense\n");
    let request = server
        .client
        .post(server.url("/logs/bulk"))
        .bearer_auth(&token)
        .header("content-type", "application/x-ndjson")
        .body(some);
    let (status, body) = answer(request).await;
    assert_eq!((status, &body["accepted"], &body["rejected"]), (207, &json!(1), &json!(2)), "{body}");
    assert_eq!(body["ids"].as_array().map(Vec::len), Some(3));
    assert!(body["ids"][1].is_null() && body["errors"][0]["index"] == 1, "{body}");

    for (body, status) in [("[]", 422), ("[1", 422), (r#"{"logs":[]}"#, 422), (r#"[{"action":"A"}]"#, 422), ("", 422)] {
        assert_eq!(server.post(&token, "/logs/bulk", body).await.0, status, "{body}");
    }
    let many = format!("[{}]", vec![good; 10_001].join(","));
    assert_eq!(server.post(&token, "/logs/bulk", many).await.0, 413);
    // What came after the refused ones is decided, so they would be too.
    assert_eq!(server.post(&token, "/logs/bulk?wait=stored", format!("[{good}]")).await.0, 201);
    let usage = server.usage_of(&token, "acme", 3).await;
    assert_adds_up(&usage);
}

async fn compressed_bodies_are_read_and_bombs_are_stopped(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    let (body, _) = data::bulk(10, "zipped");
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let send = |encoding: &str, bytes: Vec<u8>| {
        answer(
            server
                .client
                .post(server.url("/logs/bulk"))
                .bearer_auth(&token)
                .header("content-type", "application/json")
                .header("content-encoding", encoding)
                .body(bytes),
        )
    };
    assert_eq!(send("gzip", gzip(body.as_bytes())).await.0, 201);
    assert_eq!(
        send("zstd", zstd::encode_all(data::bulk(10, "zstd").0.as_bytes(), 1).expect("memory")).await.0,
        201
    );
    assert_eq!(send("br", b"x".to_vec()).await.0, 415);
    assert_eq!(send("gzip", b"no gzip".to_vec()).await.0, 422);
    assert_eq!(send("gzip", gzip(&vec![b' '; 64 << 20])).await.0, 413, "a bomb");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_leaves_no_trace_or_a_whole_pack() {
    let site = Site::small();
    let server = site.start();
    let token = server.tenant("acme").await;
    let (body, ids) = data::bulk(50, "half");
    let head = format!(
        "POST /api/v1/logs/bulk HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    for share in [0, body.len() / 2, body.len() - 1, body.len()] {
        let mut socket = tokio::net::TcpStream::connect(server.http).await.expect("it accepts");
        socket.write_all(head.as_bytes()).await.expect("sent");
        socket.write_all(&body.as_bytes()[..share]).await.expect("sent");
        drop(socket);
    }
    // A request after them on another connection has its answer, so the four are over or on their way to be.
    let usage = server.settled_usage(&token, "acme").await;
    let accepted = usage["accepted"].as_u64().expect("a number");
    assert!(accepted == 0 || accepted == ids.len() as u64, "{usage}");
    assert_adds_up(&usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_http_is_400_and_the_server_lives_on() {
    let site = Site::small();
    let server = site.start();
    for bytes in [
        &b"GET / HTTP/9.9\r\n\r\n"[..],
        b"\x00\x01\x02\r\n\r\n",
        b"POST /api/v1/logs HTTP/1.1\r\ncontent-length: nope\r\n\r\n",
    ] {
        let mut socket = tokio::net::TcpStream::connect(server.http).await.expect("it accepts");
        socket.write_all(bytes).await.expect("sent");
        let mut text = Vec::new();
        // An abrupt end is an answer too.
        let _ = socket.read_to_end(&mut text).await;
        assert!(
            text.is_empty() || text.starts_with(b"HTTP/1.1 400") || text.starts_with(b"HTTP/1.1 505"),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
    assert_eq!(answer(server.client.get(server.url("/health/live"))).await.0, 200);
}

told_to_both!(
    single_bulk_and_ndjson_answer_as_the_contract_says,
    compressed_bodies_are_read_and_bombs_are_stopped
);
