//! Lists, gets, statistics, and what every answer has.

use super::*;
use crate::export::Source;
use std::io::Read;

#[tokio::test]
async fn a_list_has_its_data_and_its_meta() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!((0..7).map(entry).collect::<Vec<_>>())).await;
    let json = bench.get("/logs?sort=sequence:asc&page=2&page_size=3").await.json();
    let numbers: Vec<_> = json["data"].as_array().expect("data").iter().map(|e| e["sequence"].as_u64()).collect();
    assert_eq!(numbers, [Some(4), Some(5), Some(6)]);
    let cursor = &json["meta"]["next_cursor"];
    assert!(cursor.is_string());
    let want = json!({"total": 7, "total_is_exact": true, "page": 2, "page_size": 3, "pages": 3, "next_cursor": cursor, "as_of": 7});
    assert_eq!(json["meta"], want);
    assert_eq!(bench.get("/logs?page=3&page_size=3").await.json()["meta"]["next_cursor"], Value::Null);
    let past = bench.get("/logs/?page=9&limit=3").await;
    assert_eq!(
        (past.status.as_u16(), past.json()["data"].clone()),
        (200, json!([])),
        "past the end, and with a slash"
    );
    let uncounted = bench.get("/logs?total=false").await.json();
    assert_eq!(
        (&uncounted["meta"]["total"], &uncounted["meta"]["total_is_exact"], &uncounted["meta"]["pages"]),
        (&Value::Null, &json!(false), &Value::Null)
    );
    let none = bench.get("/logs?action=nothing").await.json();
    assert_eq!(
        (&none["data"], &none["meta"]["total"], &none["meta"]["pages"]),
        (&json!([]), &json!(0), &json!(0))
    );
    assert!(none["meta"].get("degraded").is_none());
    assert!(bench.get("/logs/stats").await.json().get("degraded").is_none());
}

#[tokio::test]
async fn an_answer_says_what_the_store_lacks_that_gave_it() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!((0..3).map(entry).collect::<Vec<_>>())).await;
    let well = Condition::default();
    let lacking = Condition { lacks_rows: true, ..well };
    // The store of record, the one that answers searches; what both kinds of answers say; what both kinds of exports say.
    let cases = [
        ([well, well], [false, false], [false, false]),
        ([Condition::late(5_000), Condition::late(5_000)], [false, false], [false, false]),
        ([Condition::late(5_001), well], [true, false], [false, false]),
        ([well, Condition::late(5_001)], [false, true], [false, false]),
        ([lacking, well], [true, false], [true, false]),
        ([well, lacking], [false, true], [false, true]),
    ];
    for (conditions, answers, exports) in cases {
        bench.shelf.with(|state| state.conditions = conditions);
        for (searched, query) in ["", "?search=nothing"].into_iter().enumerate() {
            let said = |json: &Value| json.get("degraded").map_or(Some(false), Value::as_bool);
            let (list, stats) = (
                bench.get(&format!("/logs{query}")).await.json(),
                bench.get(&format!("/logs/stats{query}")).await.json(),
            );
            let want = Some(answers[searched]);
            assert_eq!((said(&list["meta"]), said(&stats)), (want, want), "{conditions:?} {query}");
            let export = bench.get(&format!("/logs/export{query}")).await;
            assert_eq!(export.headers.contains_key("x-export-degraded"), exports[searched], "{conditions:?} {query}");
        }
    }
}

#[tokio::test]
async fn an_export_goes_on_when_its_store_is_late_and_fails_when_it_loses_rows() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!((0..6).map(entry).collect::<Vec<_>>())).await;
    let scope = TenantScope::new(TenantId::parse("acme").expect("a tenant"));
    let source = || Source::new(bench.shelf.clone(), scope.clone(), Filter::default(), Sort::SequenceAsc).in_portions_of(2);
    let tell = |condition| bench.shelf.with(|state| state.conditions[0] = condition);
    let mut late = source();
    for condition in [Condition::default(), Condition::late(60_000), Condition::default()] {
        tell(condition);
        assert_eq!(late.next().await.expect("read").map(|entries| entries.len()), Some(2));
    }
    assert!(late.next().await.expect("read").is_none() && !late.degraded());
    let mut losing = source();
    losing.next().await.expect("read").expect("some");
    tell(Condition {
        lacks_rows: true,
        ..Condition::default()
    });
    assert!(
        matches!(losing.next().await, Err(StoreError::Damaged(_))),
        "what it gave could not be told from a whole"
    );
}

#[tokio::test]
async fn a_long_list_is_sent_in_pieces_and_is_the_same_json() {
    let bench = Bench::new().await;
    let big = |i: usize| json!({"action": "a", "resource_type": "b", "resource_id": i.to_string(), "metadata": {"k": "x".repeat(9_000)}});
    for at in [0, 100] {
        bench.post("/logs/bulk", &json!((at..at + 100).map(big).collect::<Vec<_>>())).await;
    }
    let got = bench.get("/logs?page_size=1000&sort=sequence:asc").await;
    assert!(got.bytes.len() > 1 << 20);
    let json = got.json();
    let ids: Vec<_> = json["data"]
        .as_array()
        .expect("data")
        .iter()
        .map(|e| e["resource_id"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(ids, (0..200).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(json["meta"]["total"], 200);
}

#[tokio::test]
async fn unknown_parameters_are_422() {
    let bench = Bench::new().await;
    let problem = bench.get("/logs?sevrity=ERROR&page=0").await.problem(422, "invalid_parameter");
    assert_eq!(problem["errors"][0]["field"], "sevrity");
    assert!(problem["errors"][0]["message"].as_str().expect("text").contains("`severity`"));
    let both = bench.get("/logs?severity=LOUD&page=0").await.problem(422, "invalid_parameter");
    assert_eq!(both["errors"].as_array().map(Vec::len), Some(2), "all at once");
    bench.get("/logs?page=11&page_size=1000").await.problem(422, "invalid_parameter");
    bench.get("/tenants?x=1").await.problem(422, "invalid_parameter");
}

#[tokio::test]
async fn a_search_finds_words_and_says_where_it_is_wrong() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!((0..20).map(entry).collect::<Vec<_>>())).await;
    for (query, found) in [
        ("search=entry", 20),
        ("search=entry+7", 1),
        ("search=%22entry+7%22+OR+%22entry+8%22", 2),
        ("search=%227+entry%22", 0),
        ("search=7&search=8&search=nothing", 2),
        ("search=-7", 19),
        ("search=7&min_sequence=9", 0),
        ("search=ent*+-resource_id:r-7", 19),
        ("search=action:log*+message:7", 1),
    ] {
        let list = bench.get(&format!("/logs?{query}")).await.json();
        assert_eq!(list["meta"]["total"], found, "{query}");
        assert_eq!(bench.get(&format!("/logs/stats?{query}")).await.json()["total"], found, "{query}");
    }
    for (query, code, place) in [
        ("search=", "invalid_search", "at character 1: "),
        ("search=zebra+OR", "invalid_search", "at character 7: "),
        ("search=%C3%A9t%C3%A9+zebra:x", "invalid_search", "at character 5: "),
        ("search=good&search=(zebra", "invalid_search", "at character 1: "),
        ("search=zebra+OR+ze*", "too_broad", "at character 10: "),
    ] {
        for path in ["/logs", "/logs/stats"] {
            let problem = bench.get(&format!("{path}?{query}")).await.problem(422, code);
            let error = &problem["errors"][0];
            assert_eq!((&error["field"], &error["code"]), (&json!("search"), &json!(code)), "{query}");
            assert!(error["message"].as_str().is_some_and(|m| m.starts_with(place)), "{query}: {error}");
            assert!(!problem.to_string().contains("zebra"), "{query}: {problem}");
        }
    }
    let both = bench.get("/logs?search=%22&severity=LOUD").await.problem(422, "invalid_parameter");
    assert_eq!(both["errors"].as_array().map(Vec::len), Some(2));
    // Each is within bounds, and all together are not.
    let many = |n: usize| format!("/logs?{}", vec![format!("search={}", "a+".repeat(64)); n].join("&"));
    assert_eq!(bench.get(&many(4)).await.status.as_u16(), 200);
    bench.get(&many(5)).await.problem(422, "invalid_search");
}

#[tokio::test]
async fn get_finds_what_is_pending_and_waits_when_asked() {
    let bench = Bench::new().await;
    bench.get("/logs/nonsense").await.problem(404, "not_found");
    bench.get("/logs/0190a3b4-0000-7000-8000-000000000001").await.problem(404, "not_found");
    bench
        .get("/logs/0190a3b4-0000-7000-8000-000000000001?wait=11")
        .await
        .problem(422, "invalid_parameter");
    bench.shelf.with(|state| state.holds = true);
    let id = bench.post("/logs", &entry(1)).await.json()["id"].as_str().expect("an id").to_owned();
    let pending = bench.get(&format!("/logs/{id}")).await;
    assert_eq!((pending.status.as_u16(), &pending.json()["sequence"]), (200, &Value::Null));
    bench.shelf.with(|state| state.pending.clear());
    let path = format!("/logs/{id}?wait=10");
    let waiting = bench.get(&path);
    let deciding = async {
        tokio::task::yield_now().await;
        let pack = bench.shelf.with(|state| state.packs[0].clone());
        bench.shelf.decide(pack);
    };
    let (got, ()) = tokio::join!(waiting, deciding);
    assert_eq!((got.status.as_u16(), &got.json()["sequence"]), (200, &json!(1)));
}

#[tokio::test]
async fn failures_of_the_store_have_their_status_and_tell_no_internals() {
    let bench = Bench::new().await;
    for (error, status, code) in [
        (StoreError::Starting, 503, "unavailable"),
        (StoreError::Busy, 503, "unavailable"),
        (StoreError::Deadline, 504, "query_timeout"),
        (StoreError::TooManyGroups, 422, "too_many_groups"),
        (StoreError::Damaged("/data/parts/7".into()), 503, "unavailable"),
        (StoreError::Io("/dev/sda1".into()), 503, "unavailable"),
    ] {
        bench.shelf.with(|state| state.sick = Some(error));
        let problem = bench.get("/logs").await.problem(status, code);
        assert!(!problem.to_string().contains("/d"), "{problem}");
    }
}

#[tokio::test]
async fn unknown_paths_are_404_and_other_methods_405_with_allow() {
    let bench = Bench::new().await;
    for path in ["/nothing", "/logsx", "/logs/a/b/c", "/deadletters/x/y"] {
        bench.get(path).await.problem(404, "not_found");
    }
    bench.call("GET", "/logs", "", "").await.problem(404, "not_found");
    for (method, path, allow) in [
        ("PUT", "/logs", "GET, HEAD, POST, DELETE"),
        ("GET", "/logs/bulk", "POST"),
        ("PATCH", "/tenants/acme", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/logs/stats", "GET, HEAD"),
    ] {
        let got = bench.call(method, &format!("/api/v1{path}/"), "", "").await;
        got.problem(405, "method_not_allowed");
        assert_eq!(got.headers["allow"], allow);
    }
    let got = bench.call("POST", "/", "", "").await;
    got.problem(405, "method_not_allowed");
    assert_eq!(got.headers["allow"], "GET, HEAD");
}

#[tokio::test]
async fn the_request_id_is_the_callers_if_it_is_sane() {
    let bench = Bench::new().await;
    for (sent, kept) in [
        ("abc-1_2.3:4", true),
        ("", false),
        ("a b", false),
        ("<script>", false),
        (&"x".repeat(129), false),
    ] {
        let request = Request::builder().uri("/nowhere").header("x-request-id", sent).body(Body::empty());
        let got = bench.send(request.expect("a request")).await;
        got.problem(404, "not_found");
        assert_eq!(got.headers["x-request-id"] == sent, kept, "{sent}");
    }
}

#[tokio::test]
async fn answers_are_compressed_when_asked_and_head_has_no_body() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!((0..50).map(entry).collect::<Vec<_>>())).await;
    let admin = token(Some("acme"), "admin");
    let plain = bench.get("/logs").await.bytes;
    for encoding in ["gzip", "zstd"] {
        let request = request("GET", "/api/v1/logs", &admin).header("accept-encoding", encoding);
        let got = bench.send(request.body(Body::empty()).expect("a request")).await;
        assert_eq!(got.headers["content-encoding"], encoding);
        let mut back = Vec::new();
        match encoding {
            "gzip" => flate2::read::GzDecoder::new(&got.bytes[..]).read_to_end(&mut back).map(drop).expect("gzip"),
            _ => back = zstd::decode_all(&got.bytes[..]).expect("zstd"),
        }
        assert_eq!(back, plain);
    }
    for (accepted, encoding) in [
        ("gzip;q=0.5, identity;q=0", Some("gzip")),
        ("*;q=0, zstd", Some("zstd")),
        ("gzip;q=0", None),
        ("br, *;q=0", None),
        ("identity;q=0", None),
    ] {
        let request = request("GET", "/api/v1/logs", &admin).header("accept-encoding", accepted);
        let got = bench.send(request.body(Body::empty()).expect("a request")).await;
        let used = got.headers.get("content-encoding").map(|v| v.to_str().expect("text"));
        assert_eq!((got.status.as_u16(), used), (200, encoding), "{accepted}");
    }
    let head = bench.call("HEAD", "/api/v1/logs", &admin, "").await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(head.headers["content-length"], plain.len().to_string());
    assert_eq!(bench.call("HEAD", "/api/v1/logs", "", "").await.bytes.len(), 0, "also for a problem");
}

#[tokio::test]
async fn a_panic_is_a_500_without_internals() {
    let routes = Router::new().route(
        "/boom",
        axum::routing::get(|| async {
            if true {
                panic!("the secret is out")
            }
        }),
    );
    let response = super::super::layers::around(routes, Safety::default())
        .oneshot(Request::builder().uri("/boom").body(Body::empty()).expect("a request"))
        .await
        .expect("never fails");
    assert_eq!(response.status(), 500);
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    let json: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(json["code"], "internal");
    assert!(!json.to_string().contains("secret"));
}

#[tokio::test]
async fn health_answers_without_credential_at_the_root_and_under_the_base_on_both_listeners() {
    let bench = Bench::new().await;
    let health = bench.services.health.clone();
    let admin = super::super::admin_router(health.clone(), Arc::new(|| "sluice_restarts_total 0\n".to_owned()));
    for phase in [Phase::Ready, Phase::Draining] {
        health.set_phase(phase);
        for (path, status) in [
            ("/health", 200),
            ("/healthz", 200),
            ("/health/live", 200),
            ("/health/ready", if phase == Phase::Ready { 200 } else { 503 }),
        ] {
            for base in ["", "/api/v1"] {
                for slash in ["", "/"] {
                    let path = format!("{base}{path}{slash}");
                    assert_eq!(bench.call("GET", &path, "", "").await.status, status, "{path}");
                    let request = Request::builder().uri(&path).body(Body::empty()).expect("a request");
                    assert_eq!(admin.clone().oneshot(request).await.expect("never fails").status(), status, "{path}");
                }
            }
        }
    }
    let request = Request::builder().uri("/metrics").body(Body::empty()).expect("a request");
    let metrics = admin.oneshot(request).await.expect("never fails");
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    bench.call("GET", "/metrics", "", "").await.problem(404, "not_found");
}

#[tokio::test]
async fn documentation_is_served_from_the_binary_without_inline_code() {
    let bench = Bench::new().await;
    for base in ["", "/api/v1"] {
        let document = bench.call("GET", &format!("{base}/openapi.json"), "", "").await.json();
        assert_eq!(document["openapi"], "3.1.0");
        for page in ["/docs", "/docs/", "/redoc"] {
            let got = bench.call("GET", &format!("{base}{page}"), "", "").await;
            let html = String::from_utf8(got.bytes).expect("text");
            let policy = got.headers["content-security-policy"].to_str().expect("text");
            assert!(policy.contains("script-src 'self';"), "{policy}");
            assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script>"), "{html}");
            for asset in html.split('"').filter(|part| part.contains("/assets/")) {
                let got = bench.call("GET", asset, "", "").await;
                assert_eq!(got.status, 200, "{asset}");
                let tag = got.headers["etag"].clone();
                let again = Request::builder().uri(asset).header("if-none-match", tag).body(Body::empty());
                assert_eq!(bench.send(again.expect("a request")).await.status, 304);
            }
        }
    }
    bench.call("GET", "/docs/assets/nothing.js", "", "").await.problem(404, "not_found");
}
