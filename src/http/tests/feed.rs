//! The live feed over real sockets.

use super::{server::Served, *};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame};

pub(super) type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

pub(super) async fn connect(served: &Served, query: &str, token: &str) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/api/v1/logs/stream{query}", served.address)
        .into_client_request()
        .expect("a request");
    if !token.is_empty() {
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {token}").parse().expect("visible"));
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, response)) => {
            assert_eq!(response.status(), 101);
            Ok(socket)
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// The next text frame.
async fn text(socket: &mut Socket) -> String {
    loop {
        match socket.next().await.expect("open").expect("whole") {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn numbers(socket: &mut Socket, n: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < n {
        let json: Value = serde_json::from_str(&text(socket).await).expect("JSON");
        assert_eq!(json["tenant_id"], "acme");
        numbers.push(json["sequence"].as_u64().expect("a number"));
    }
    numbers
}

/// The code with which the socket is closed.
pub(super) async fn closed(socket: &mut Socket) -> u16 {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return code.into(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn entries_come_live_in_sequence_and_only_the_tenants_own() {
    let served = Served::new().await;
    let viewer = token(Some("acme"), "viewer");
    served.bench.post("/logs", &entry(1)).await;
    let mut live = connect(&served, "", &viewer).await.expect("open");
    let mut resumed = connect(&served, &format!("?after=0&token={viewer}"), "").await.expect("open");
    let theirs = token(Some("globex"), "admin");
    served.bench.call("POST", "/api/v1/logs", &theirs, entry(9).to_string()).await;
    served.bench.post("/logs/bulk", &json!([entry(2), entry(3)])).await;
    assert_eq!(numbers(&mut live, 2).await, [2, 3], "from the head that was visible before the 101");
    assert_eq!(numbers(&mut resumed, 3).await, [1, 2, 3], "what it missed, then the live tail");
    served.bench.post("/logs", &entry(4)).await;
    assert_eq!((numbers(&mut live, 1).await, numbers(&mut resumed, 1).await), (vec![4], vec![4]));
    live.send(Message::text("ping")).await.expect("open");
    assert_eq!(text(&mut live).await, "pong");
}

#[tokio::test]
async fn filters_hold_for_what_was_missed_and_for_what_is_live() {
    let served = Served::new().await;
    let other = json!({"action": "DELETE", "resource_type": "a", "resource_id": "b"});
    served.bench.post("/logs/bulk", &json!([other, entry(1)])).await;
    let mut feed = connect(&served, "?after=0&action=delete", &token(Some("acme"), "viewer")).await.expect("open");
    served.bench.post("/logs/bulk", &json!([entry(1), other])).await;
    assert_eq!(numbers(&mut feed, 2).await, [1, 4]);
}

#[tokio::test]
async fn what_can_be_refused_is_refused_before_the_upgrade() {
    let served = Served::new().await;
    let viewer = token(Some("acme"), "viewer");
    for (query, token, status) in [
        ("", "nonsense".to_owned(), 401),
        ("?token=nonsense", String::new(), 401),
        ("?token=", String::new(), 401),
        (&*format!("?token={viewer}"), viewer.clone(), 401),
        ("", token(Some("acme"), "writer"), 403),
        ("", token(Some("ghost"), "viewer"), 403),
        ("", token(None, "platform_admin"), 403),
        ("?severity=LOUD", viewer.clone(), 422),
        ("?severity=LOUD", String::new(), 422),
        ("?nonsense=1", viewer.clone(), 422),
        ("?after=1", viewer.clone(), 422),
        ("?after=-1", viewer.clone(), 422),
        ("?on_slow=never", viewer.clone(), 422),
        ("?search=%28x", viewer.clone(), 422),
    ] {
        assert_eq!(connect(&served, query, &token).await.err(), Some(status), "{query}");
    }
    served.bench.get("/logs/stream").await.problem(426, "upgrade_required");
    served.bench.call("GET", "/api/v1/logs/stream", "", "").await.problem(401, "missing_credential");
}

#[tokio::test]
async fn a_credential_may_come_as_the_first_frame_and_a_bad_one_is_4001() {
    let served = Served::new().await;
    served.bench.post("/logs", &entry(1)).await;
    let introduction = json!({"token": token(Some("acme"), "viewer")}).to_string();
    let mut good = connect(&served, "?after=0", "").await.expect("open");
    good.send(Message::text(introduction.clone())).await.expect("open");
    assert_eq!(numbers(&mut good, 1).await, [1]);
    for bad in [
        "ping",
        "{}",
        r#"{"token":"nonsense"}"#,
        &json!({"token": token(Some("acme"), "writer")}).to_string(),
    ] {
        let mut socket = connect(&served, "", "").await.expect("open");
        socket.send(Message::text(bad)).await.expect("open");
        assert_eq!(closed(&mut socket).await, 4001, "{bad}");
    }
    let mut beyond = connect(&served, "?after=99", "").await.expect("open");
    beyond.send(Message::text(introduction)).await.expect("open");
    assert_eq!(closed(&mut beyond).await, 1008);
}

#[tokio::test]
async fn strangers_are_few_and_do_not_stay() {
    let settings = HttpSettings {
        feed_unauthenticated: 1,
        feed_token_wait: Duration::from_millis(100),
        ..HttpSettings::default()
    };
    let served = Served::with(settings).await;
    let mut first = connect(&served, "", "").await.expect("open");
    assert_eq!(connect(&served, "", "").await.err(), Some(503));
    assert_eq!(closed(&mut first).await, 4001, "its time is over");
    drop(first);
    while connect(&served, "", "").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_session_is_sent_what_its_search_and_its_leaves_find() {
    let served = Served::new().await;
    let viewer = token(Some("acme"), "viewer");
    let mut by_word = connect(&served, "?search=%22entry+2%22+OR+5", &viewer).await.expect("open");
    let mut by_leaf = connect(&served, "?metadata.zone=eu-2&search=-nothing", &viewer).await.expect("open");
    let entries: Vec<Value> = (1..=6)
        .map(|i| {
            let mut entry = entry(i);
            entry["metadata"] = json!({"zone": format!("eu-{}", i % 3)});
            entry
        })
        .collect();
    served.bench.post("/logs/bulk", &json!(entries)).await;
    assert_eq!(numbers(&mut by_word, 2).await, [2, 5]);
    assert_eq!(numbers(&mut by_leaf, 2).await, [2, 5]);
    let mut later = connect(&served, "?after=2&search=message:entry+-4", &viewer).await.expect("open");
    assert_eq!(numbers(&mut later, 3).await, [3, 5, 6]);
}

#[tokio::test]
async fn a_session_ends_with_its_credential() {
    let served = Served::new().await;
    let soon = token_until(Some("acme"), "viewer", now_ms() / 1000 + 2);
    let mut socket = connect(&served, "", &soon).await.expect("open");
    assert_eq!(closed(&mut socket).await, 4001);
    // Taken within the leeway although its time has passed: it is not closed at once.
    let past = token_until(Some("acme"), "viewer", now_ms() / 1000 - 5);
    let mut socket = connect(&served, "", &past).await.expect("open");
    socket.send(Message::text("ping")).await.expect("open");
    assert_eq!(text(&mut socket).await, "pong");
}

#[tokio::test]
async fn a_reader_that_answers_no_ping_is_left() {
    let settings = HttpSettings {
        feed_ping: Duration::from_millis(20),
        feed_pong_timeout: Duration::from_secs(1),
        ..HttpSettings::default()
    };
    let served = Served::with(settings).await;
    let viewer = token(Some("acme"), "viewer");
    let _silent = connect(&served, "", &viewer).await.expect("open");
    let mut alive = connect(&served, "", &viewer).await.expect("open");
    let feed = served.bench.services.feed.clone();
    assert_eq!(feed.sessions(), 2);
    let mut pings = 0;
    // Reading answers the pings; the other socket is never read.
    while feed.sessions() > 1 || pings < 30 {
        match alive.next().await.expect("open").expect("whole") {
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(feed.sessions(), 1);
}

#[tokio::test]
async fn shutdown_closes_every_session_with_1001() {
    let served = Served::new().await;
    let viewer = token(Some("acme"), "viewer");
    let mut socket = connect(&served, "", &viewer).await.expect("open");
    let mut stranger = connect(&served, "", "").await.expect("open");
    let stopping = served.stop();
    let closing = async { (closed(&mut socket).await, closed(&mut stranger).await) };
    let ((), codes) = tokio::join!(stopping, closing);
    assert_eq!(codes, (1001, 1001));
}

#[tokio::test]
async fn server_sent_events_carry_ids_and_resume_after_the_last() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!([entry(1), entry(2), entry(3)])).await;
    let viewer = token(Some("acme"), "viewer");
    let open = |last: &'static str| {
        let request = request("GET", "/api/v1/logs/stream?after=0", &viewer)
            .header("accept", "text/event-stream")
            .header("accept-encoding", "gzip")
            .header("last-event-id", last);
        bench.router.clone().oneshot(request.body(Body::empty()).expect("a request"))
    };
    for (last, first) in [("", 1), ("2", 3)] {
        let response = open(last).await.expect("never fails");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(!response.headers().contains_key("content-encoding"), "a compressed feed would wait for more");
        let mut body = response.into_body();
        let mut seen = String::new();
        while !seen.contains("id: 3\n") {
            let frame = body.frame().await.expect("open").expect("whole");
            seen += std::str::from_utf8(&frame.into_data().expect("data")).expect("text");
        }
        let ids: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids, (first..=3).map(|n| n.to_string()).collect::<Vec<_>>());
        let data = seen.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        let json: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(json["sequence"], first);
    }
    for bad in ["x", "99"] {
        assert_eq!(open(bad).await.expect("never fails").status(), 422, "{bad}");
    }
    let mut body = open("3").await.expect("never fails").into_body();
    bench.services.drain.stop();
    while let Some(frame) = body.frame().await {
        assert!(frame.is_ok());
    }
}
