//! The live feed over real sockets: own entries only, in sequence, soon; resumed without gap or repeat.

use crate::harness::{
    PATIENCE, Server, data,
    stage::{Stage, told_to_both},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn open(server: &Server, token: &str, query: &str) -> Socket {
    let mut request = format!("ws://{}/api/v1/logs/stream{query}", server.http)
        .into_client_request()
        .expect("a request");
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    connect_async(request).await.expect("the socket opens").0
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        match timeout(PATIENCE, socket.next())
            .await
            .expect("a frame in time")
            .expect("not closed")
            .expect("no error")
        {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn two_tenants_on_a_socket_each_see_their_own_in_sequence(stage: Stage) {
    let server = stage.start().await;
    let (a, b) = (server.tenant("acme").await, server.tenant("globex").await);
    server.ready().await;
    let (mut for_a, mut for_b) = (open(&server, &a, "").await, open(&server, &b, "").await);
    for round in 0..10u64 {
        for (token, socket, name) in [(&a, &mut for_a, "a"), (&b, &mut for_b, "b")] {
            let (body, ids) = data::bulk(5, name);
            assert_eq!(server.post(token, "/logs/bulk", body).await.0, 201);
            for (k, id) in ids.iter().enumerate() {
                let soon = if stage.is_embedded() { std::time::Duration::from_secs(1) } else { PATIENCE };
                let entry = timeout(soon, next(socket)).await.expect("in one process within a second of the POST");
                assert_eq!(
                    (entry["sequence"].as_u64(), &entry["id"], &entry["message"]),
                    (Some(round * 5 + k as u64 + 1), &json!(id.to_string()), &json!(name))
                );
            }
        }
    }
}

async fn a_client_that_reconnects_with_after_misses_and_repeats_none(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    server.ready().await;
    let total = stage.sized(600, 200) as u64;
    let writer = async {
        for _ in 0..total / 10 {
            assert_eq!(server.post(&token, "/logs/bulk", data::bulk(10, "live").0).await.0, 201);
        }
    };
    let reader = async {
        let mut after = 0;
        while after < total {
            let mut socket = open(&server, &token, &format!("?after={after}")).await;
            // Goes away after a while, in the middle of things.
            for _ in 0..37.min(total - after) {
                let entry = next(&mut socket).await;
                assert_eq!(entry["sequence"].as_u64(), Some(after + 1), "{entry}");
                after += 1;
            }
            drop(socket);
        }
    };
    // A reader that starts before the first entry exists begins at 0, which is not beyond the head.
    tokio::join!(writer, reader);
}

async fn filters_credentials_and_resume_positions_are_checked_before_the_upgrade(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    server.ready().await;
    let handshake = |query: &str, token: Option<&str>| {
        let mut request = format!("ws://{}/api/v1/logs/stream{query}", server.http)
            .into_client_request()
            .expect("a request");
        if let Some(token) = token {
            request
                .headers_mut()
                .insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        async move {
            match connect_async(request).await {
                Ok(_) => 101,
                Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => answer.status().as_u16(),
                Err(other) => panic!("{other}"),
            }
        }
    };
    assert_eq!(handshake("?severity=LOUD", Some(&token)).await, 422);
    assert_eq!(handshake("?colour=red", Some(&token)).await, 422);
    assert_eq!(handshake("?after=99", Some(&token)).await, 422, "beyond the head");
    assert_eq!(handshake("", Some("nonsense")).await, 401);
    assert_eq!(handshake("", Some(&server.token(Some("acme"), &["writer"]))).await, 403);
    assert_eq!(handshake(&format!("?token={token}"), None).await, 101);

    let (mut socket, _) = connect_async(format!("ws://{}/api/v1/logs/stream?action=create", server.http))
        .await
        .expect("a socket without a credential may try");
    socket.send(Message::text(json!({"token": token}).to_string())).await.expect("sent");
    socket.send(Message::text("ping")).await.expect("sent");
    let pong = timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("no error");
    assert_eq!(pong, Message::text("pong"));
    let other = json!([{"action": "OTHER", "resource_type": "t", "resource_id": "1"}]).to_string();
    assert_eq!(server.post(&token, "/logs/bulk", other).await.0, 201);
    assert_eq!(server.post(&token, "/logs/bulk", data::bulk(1, "wanted").0).await.0, 201);
    assert_eq!(next(&mut socket).await["sequence"], 2, "the filter leaves out the first");

    let (mut bad, _) = connect_async(format!("ws://{}/api/v1/logs/stream", server.http)).await.expect("a socket");
    bad.send(Message::text(r#"{"token":"x.y.z"}"#)).await.expect("sent");
    match timeout(PATIENCE, bad.next()).await.expect("in time") {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 4001),
        other => panic!("{other:?}"),
    }
}

async fn server_sent_events_resume_by_their_last_id(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    assert_eq!(server.post(&token, "/logs/bulk?wait=stored", data::bulk(5, "x").0).await.0, 201);
    let request = server
        .client
        .get(server.url("/logs/stream"))
        .bearer_auth(&token)
        .header("accept", "text/event-stream")
        .header("last-event-id", "2");
    let mut stream = request.send().await.expect("it answers").bytes_stream();
    let mut text = String::new();
    while !text.contains("id: 5") && !text.contains("id:5") {
        text.push_str(&String::from_utf8_lossy(
            &timeout(PATIENCE, stream.next()).await.expect("in time").expect("open").expect("no error"),
        ));
    }
    let ids: Vec<u64> = text.lines().filter_map(|l| l.strip_prefix("id:")?.trim().parse().ok()).collect();
    assert_eq!(ids, [3, 4, 5]);
}

told_to_both!(
    two_tenants_on_a_socket_each_see_their_own_in_sequence,
    a_client_that_reconnects_with_after_misses_and_repeats_none,
    filters_credentials_and_resume_positions_are_checked_before_the_upgrade,
    server_sent_events_resume_by_their_last_id
);
