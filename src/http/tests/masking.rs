//! What masked roles see, on every way out; what they may not ask; and that a change of the mask is in force at once.

use super::{
    feed::{Socket, closed, connect, text},
    server::Served,
    *,
};

const HIDDEN: &str = "hidden7f3a";

async fn set(bench: &Bench, masking: &Value) {
    let body = json!({"settings": {"masking": masking}}).to_string();
    let got = bench.call("PUT", "/api/v1/tenants/acme", &token(Some("acme"), "admin"), body).await;
    assert_eq!((got.status.as_u16(), &got.json()["settings"]["masking"]), (200, masking));
}

/// An entry that holds the word in what is masked, and in nothing else.
fn secret(i: usize) -> Value {
    let mut entry = entry(i);
    let mail = format!("{HIDDEN}.{i}@example.com");
    entry["user_id"] = json!(mail);
    entry["email"] = json!(HIDDEN);
    entry["ip_address"] = json!("203.0.113.7");
    entry["message"] = json!(format!("written by {mail} word{i}"));
    entry["before_state"] = json!({"a": {"ssn": HIDDEN}, "list": [{"ssn": [HIDDEN]}], "open": i});
    entry["after_state"] = json!({"x": HIDDEN});
    entry["metadata"] = json!({"card": HIDDEN, "access_token": {"v": HIDDEN}, "open": "yes", (mail.as_str()): 1});
    entry
}

fn mask() -> Value {
    json!([
        "email",
        "ip_address",
        "before_state.*.ssn",
        "after_state",
        "metadata.card",
        "pattern:email",
        "pattern:secret_keys"
    ])
}

async fn filled() -> Bench {
    let bench = Bench::new().await;
    set(&bench, &mask()).await;
    let entries: Vec<Value> = (1..=3).map(secret).collect();
    assert_eq!(bench.post("/logs/bulk", &json!(entries)).await.status, 201);
    bench
}

async fn as_role(bench: &Bench, role: &str, method: &str, path: &str, body: &str) -> Got {
    bench.call(method, &format!("/api/v1{path}"), &token(Some("acme"), role), body.to_owned()).await
}

fn check_masked(entry: &Value) {
    let shows = |name: &str| entry[name].clone();
    assert!(!entry.to_string().contains(HIDDEN), "{entry}");
    assert_eq!(
        (shows("email"), shows("ip_address"), shows("user_id")),
        (json!("***"), json!("***"), json!("***"))
    );
    let message = shows("message");
    assert!(message.as_str().is_some_and(|m| m.starts_with("written by *** word")), "{message}");
    assert_eq!(entry["before_state"]["a"], json!({"ssn": "***"}));
    assert_eq!(entry["before_state"]["list"], json!([{"ssn": "***"}]));
    assert_eq!(
        (shows("after_state"), &entry["metadata"]["card"], &entry["metadata"]["access_token"]),
        (json!("***"), &json!("***"), &json!("***"))
    );
    assert_eq!((&entry["metadata"]["open"], &entry["metadata"]["***"]), (&json!("yes"), &json!(1)));
    assert!(entry["before_state"]["open"].is_number() && entry["action"] == "LOGIN" && shows("session_id").is_null());
}

#[tokio::test]
async fn a_viewer_sees_the_masked_entry_on_every_way_out_and_an_auditor_all_of_it() {
    let bench = filled().await;
    bench.shelf.with(|state| state.holds = true);
    let pending = bench.post("/logs", &secret(4)).await.json();
    let all = as_role(&bench, "auditor", "GET", "/logs", "").await.json();
    assert_eq!(all["data"][0]["email"], HIDDEN);
    let id = all["data"][0]["id"].as_str().expect("an id").to_owned();
    for id in [&*id, pending["id"].as_str().expect("an id")] {
        check_masked(&as_role(&bench, "viewer", "GET", &format!("/logs/{id}"), "").await.json());
        assert_eq!(as_role(&bench, "admin", "GET", &format!("/logs/{id}"), "").await.json()["email"], HIDDEN);
    }
    for role in ["viewer", "user", "reader"] {
        let list = as_role(&bench, role, "GET", "/logs", "").await;
        assert!(!String::from_utf8_lossy(&list.bytes).contains(HIDDEN));
        let list = list.json();
        assert_eq!(list["meta"]["total"], 3);
        list["data"].as_array().expect("data").iter().for_each(check_masked);
        let found = as_role(&bench, role, "POST", "/logs/search", r#"{"query": "word2"}"#).await.json();
        assert_eq!(found["meta"]["total"], 1);
        check_masked(&found["data"][0]);
    }
    for role in ["auditor", "admin"] {
        let found = as_role(
            &bench,
            role,
            "GET",
            &format!("/logs?search={HIDDEN}&email={HIDDEN}&ip_address=203.0.113.0/24"),
            "",
        )
        .await
        .json();
        assert_eq!(
            (found["meta"]["total"].as_u64(), &found["data"][0]["after_state"]["x"]),
            (Some(3), &json!(HIDDEN)),
            "{role}"
        );
        let export = as_role(&bench, role, "GET", "/logs/export?format=csv", "").await;
        assert!(String::from_utf8_lossy(&export.bytes).contains(HIDDEN));
    }
    as_role(&bench, "viewer", "GET", "/logs/export", "").await.problem(403, "forbidden");
    as_role(&bench, "viewer", "POST", "/logs/export", "{}").await.problem(403, "forbidden");
}

#[tokio::test]
async fn what_is_hidden_can_be_neither_filtered_nor_grouped_nor_searched() {
    let bench = filled().await;
    for (query, field) in [
        ("email=x", "email"),
        ("ip_address=203.0.113.0/24", "ip_address"),
        ("metadata.card=x", "metadata.card"),
        ("metadata.Card=x", "metadata.Card"),
        ("metadata.card.last4=x", "metadata.card.last4"),
        ("metadata.user.password=x", "metadata.user.password"),
        ("search=email:x", "email"),
        ("search=a+OR+-(b+email:x)", "email"),
        ("search=email:abc*", "email"),
        ("search=ip_address:10.0.0.0/8", "ip_address"),
        ("search=after_state:x", "after_state"),
        ("search=metadata.card:abc*", "metadata.card"),
    ] {
        for path in ["/logs", "/logs/stats", "/logs/stream"] {
            let path = format!("{path}?{query}");
            let request = request("GET", &format!("/api/v1{path}"), &token(Some("acme"), "viewer"));
            let got = bench
                .send(request.header("accept", "text/event-stream").body(Body::empty()).expect("a request"))
                .await;
            let problem = got.problem(403, "field_masked");
            assert_eq!(
                (&problem["errors"][0]["field"], &problem["errors"][0]["code"]),
                (&json!(field), &json!("field_masked")),
                "{path}"
            );
            if !path.contains("stream") {
                assert_eq!(as_role(&bench, "auditor", "GET", &path, "").await.status, 200, "{path}");
            }
        }
    }
    as_role(&bench, "viewer", "POST", "/logs/search", r#"{"filters": {"email": "x"}}"#)
        .await
        .problem(403, "field_masked");
    for (key, masked) in [
        ("ip_address", true),
        ("metadata.card", true),
        ("action,metadata.api_key", true),
        ("user_id", false),
        ("metadata.open", false),
    ] {
        let path = format!("/logs/stats?group_by={key}");
        let got = as_role(&bench, "viewer", "GET", &path, "").await;
        match masked {
            true => drop(got.problem(403, "field_masked")),
            false => assert_eq!(got.status, 200, "{key}"),
        }
        assert_eq!(as_role(&bench, "auditor", "GET", &path, "").await.status, 200);
    }
}

#[tokio::test]
async fn what_a_pattern_hides_is_found_by_nobody_who_does_not_see_it() {
    let bench = filled().await;
    let total = |role: &'static str, query: String| {
        let bench = &bench;
        async move { as_role(bench, role, "GET", &format!("/logs?{query}"), "").await.json()["meta"]["total"].as_u64() }
    };
    let mail = format!("{HIDDEN}.1%40example.com");
    for (query, viewer, auditor) in [
        (format!("search={HIDDEN}"), 0, 3),
        (format!("search={}*", &HIDDEN[..4]), 0, 3),
        (format!("search=-{HIDDEN}"), 3, 0),
        (format!("search=word1+-{HIDDEN}"), 1, 0),
        (format!("search=%22by+{HIDDEN}%22"), 0, 3),
        ("search=%22written+by+word1%22".to_owned(), 1, 0),
        (format!("search=message:{HIDDEN}"), 0, 3),
        (format!("search=metadata:{HIDDEN}"), 0, 3),
        ("search=example".to_owned(), 0, 3),
        (format!("user_id={mail}"), 0, 1),
        (format!("search=user_id:%22{mail}%22"), 0, 1),
        (format!("search=user_id:{}*", &HIDDEN[..4]), 0, 3),
        ("user_id=***".to_owned(), 3, 0),
        (format!("metadata.{HIDDEN}\\.1%40example\\.com=1"), 0, 1),
        ("search=word2".to_owned(), 1, 1),
        ("metadata.open=yes".to_owned(), 3, 3),
        (format!("search=word1+OR+{HIDDEN}"), 1, 3),
    ] {
        assert_eq!(total("viewer", query.clone()).await, Some(viewer), "{query}");
        assert_eq!(total("auditor", query.clone()).await, Some(auditor), "{query}");
    }
}

#[tokio::test]
async fn a_cursor_is_bound_to_the_mask_and_a_change_is_in_force_at_once() {
    let bench = filled().await;
    let next = |page: &Value| page["meta"]["next_cursor"].as_str().expect("more").to_owned();
    let page = as_role(&bench, "viewer", "GET", "/logs?page_size=1", "").await.json();
    let with = |cursor: &str| format!("/logs?page_size=1&cursor={cursor}");
    let cursor = next(&page);
    let second = as_role(&bench, "viewer", "GET", &with(&cursor), "").await.json();
    check_masked(&second["data"][0]);
    as_role(&bench, "auditor", "GET", &with(&cursor), "").await.problem(422, "invalid_cursor");
    set(&bench, &json!(["message"])).await;
    as_role(&bench, "viewer", "GET", &with(&cursor), "").await.problem(422, "invalid_cursor");
    let page = as_role(&bench, "viewer", "GET", "/logs?email=hidden7f3a", "").await.json();
    assert_eq!((&page["data"][0]["message"], &page["data"][0]["email"]), (&json!("***"), &json!(HIDDEN)));
    set(&bench, &json!([])).await;
    let page = as_role(&bench, "viewer", "GET", "/logs?search=written", "").await.json();
    assert_eq!(page["meta"]["total"], 3);
    for (bad, says) in [
        (json!(["sequence"]), "never hidden"),
        (
            json!(["message", "emial"]),
            "item 1 begins with no field of an entry; the nearest one is `email`",
        ),
        (json!(["pattern:cards"]), "`pattern:card`"),
        (json!("email"), "list"),
        (json!(vec!["email"; 65]), "at most 64"),
    ] {
        let body = json!({"settings": {"masking": bad}}).to_string();
        let problem = as_role(&bench, "admin", "PUT", "/tenants/acme", &body).await.problem(422, "invalid_body");
        assert_eq!(problem["errors"][0]["field"], "settings.masking");
        assert!(problem.to_string().contains(says), "{problem}");
    }
    assert_eq!(
        as_role(&bench, "admin", "GET", "/tenants/acme", "").await.json()["settings"]["masking"],
        json!([])
    );
}

async fn next(socket: &mut Socket) -> Value {
    serde_json::from_str(&text(socket).await).expect("JSON")
}

/// The code with which the socket is closed, before it has sent anything more.
async fn closed_at_once(socket: &mut Socket) -> u16 {
    use tokio_tungstenite::tungstenite::Message;
    loop {
        match futures_util::StreamExt::next(socket).await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_feed_is_masked_live_and_while_catching_up_and_ends_when_the_mask_changes() {
    let served = Served::new().await;
    let bench = &served.bench;
    set(bench, &mask()).await;
    bench.post("/logs", &secret(1)).await;
    let (viewer, auditor) = (token(Some("acme"), "viewer"), token(Some("acme"), "auditor"));
    let mut behind = connect(&served, "?after=0", &viewer).await.expect("open");
    let mut other = connect(&served, "?after=0&search=word2", &viewer).await.expect("open");
    let mut never = connect(&served, &format!("?after=0&search={HIDDEN}+OR+word9"), &viewer).await.expect("open");
    let mut whole = connect(&served, "?after=0", &auditor).await.expect("open");
    check_masked(&next(&mut behind).await);
    assert_eq!(next(&mut whole).await["email"], HIDDEN);
    bench.post("/logs/bulk", &json!([secret(2), secret(9)])).await;
    for _ in 0..2 {
        check_masked(&next(&mut behind).await);
        assert_eq!(next(&mut whole).await["email"], HIDDEN);
    }
    let found = next(&mut other).await;
    check_masked(&found);
    assert_eq!((&found["sequence"], &next(&mut never).await["sequence"]), (&json!(2), &json!(3)));
    assert_eq!(connect(&served, "?email=x", &viewer).await.err(), Some(403));
    let mut stranger = connect(&served, "?email=x", "").await.expect("open");
    futures_util::SinkExt::send(
        &mut stranger,
        tokio_tungstenite::tungstenite::Message::text(json!({"token": viewer}).to_string()),
    )
    .await
    .expect("open");
    assert_eq!(closed(&mut stranger).await, 1008);

    set(bench, &json!(["message"])).await;
    bench.post("/logs", &secret(4)).await;
    assert_eq!(closed_at_once(&mut behind).await, 1012, "what was masked otherwise is not sent");
    let mut again = connect(&served, "?after=3", &viewer).await.expect("open");
    let fourth = next(&mut again).await;
    assert_eq!(
        (&fourth["sequence"], &fourth["message"], &fourth["email"]),
        (&json!(4), &json!("***"), &json!(HIDDEN))
    );
    assert_eq!(next(&mut whole).await["sequence"], 4, "an auditor's goes on");
}

#[tokio::test]
async fn events_are_masked_and_end_when_the_mask_changes() {
    let bench = filled().await;
    let viewer = token(Some("acme"), "viewer");
    let request = request("GET", "/api/v1/logs/stream?after=0", &viewer).header("accept", "text/event-stream");
    let response = bench
        .router
        .clone()
        .oneshot(request.body(Body::empty()).expect("a request"))
        .await
        .expect("never fails");
    let (mut body, mut seen) = (response.into_body(), String::new());
    while !seen.contains("id: 3\n") {
        let frame = body.frame().await.expect("open").expect("whole");
        seen += std::str::from_utf8(&frame.into_data().expect("data")).expect("text");
    }
    seen.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .for_each(|data| check_masked(&serde_json::from_str(data).expect("JSON")));
    set(&bench, &json!(["email"])).await;
    bench.post("/logs", &secret(4)).await;
    let mut rest = String::new();
    while let Some(frame) = body.frame().await {
        rest += std::str::from_utf8(&frame.expect("whole").into_data().expect("data")).expect("text");
    }
    assert!(!rest.contains("data:"), "{rest}");
}
