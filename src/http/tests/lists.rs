//! Cursors, and searches with a body.

use super::*;
use std::collections::BTreeSet;

async fn fill(bench: &Bench, from: usize, to: usize) {
    let one = |i: usize| {
        let mut one = entry(i);
        one["timestamp"] = json!(format!("2024-01-01T00:00:{:02}Z", i * 7 % 60));
        one["user_id"] = json!(if i.is_multiple_of(2) { "ann" } else { "bob" });
        one["metadata"] = json!({"n": i % 3, "deep": {"a.b": [true, null]}});
        one
    };
    let entries = json!((from..to).map(one).collect::<Vec<_>>());
    assert_eq!(bench.post("/logs/bulk", &entries).await.status, 201);
}

fn numbers(page: &Value) -> Vec<u64> {
    page["data"]
        .as_array()
        .expect("data")
        .iter()
        .map(|e| e["sequence"].as_u64().expect("numbered"))
        .collect()
}

/// Follows the cursors from a first page to the end; entries are written on the way.
async fn follow(bench: &Bench, path: &str, sizes: &[usize]) -> Vec<u64> {
    let (mut all, mut page) = (Vec::new(), bench.get(&format!("{path}&page_size={}", sizes[0])).await.json());
    let as_of = page["meta"]["as_of"].clone();
    for turn in 1.. {
        assert_eq!((&page["meta"]["page"], &page["meta"]["as_of"]), (&json!(turn), &as_of), "{path}");
        all.extend(numbers(&page));
        let Some(cursor) = page["meta"]["next_cursor"].as_str() else { break };
        fill(bench, 1000 + turn, 1001 + turn).await;
        let size = sizes[turn % sizes.len()];
        page = bench.get(&format!("{path}&page_size={size}&cursor={cursor}")).await.json();
    }
    all
}

#[tokio::test]
async fn cursors_lead_through_what_was_there_at_first_and_nothing_else() {
    for sort in ["timestamp:desc", "timestamp:asc", "sequence:desc", "sequence:asc"] {
        let bench = Bench::new().await;
        fill(&bench, 0, 90).await;
        for filter in ["", "user_id=ann", "metadata.n=2"] {
            let path = format!("/logs?sort={sort}&{filter}");
            let before = bench.get(&format!("{path}&page_size=1000")).await.json();
            assert_eq!(before["meta"]["next_cursor"], Value::Null, "all of it is on the page");
            assert_eq!(follow(&bench, &path, &[7, 30, 1]).await, numbers(&before), "{path}");
        }
    }
}

#[tokio::test]
async fn a_cursor_counts_what_was_there_and_goes_on_from_any_page() {
    let bench = Bench::new().await;
    fill(&bench, 0, 30).await;
    let third = bench.get("/logs?page=3&page_size=5&user_id=ann").await.json();
    assert_eq!(third["meta"]["next_cursor"], Value::Null, "15 of 15 were shown");
    fill(&bench, 100, 140).await;

    let first = bench.get("/logs?page_size=4&user_id=ann").await.json();
    let cursor = first["meta"]["next_cursor"].as_str().expect("more is left").to_owned();
    fill(&bench, 200, 210).await;
    let second = bench.get(&format!("/logs?user_id=ann&page_size=10&cursor={cursor}")).await.json();
    let meta = &second["meta"];
    assert_eq!((&meta["total"], &meta["pages"], &meta["page"]), (&json!(35), &json!(4), &json!(2)));
    assert_eq!((&meta["as_of"], &meta["total_is_exact"]), (&json!(70), &json!(true)));
    let skipped = bench.get("/logs?skip=10&page_size=10").await.json();
    let cursor = skipped["meta"]["next_cursor"].as_str().expect("more is left");
    let next = bench.get(&format!("/logs?page_size=10&cursor={cursor}")).await.json();
    let plain = bench.get("/logs?skip=20&page_size=10").await.json();
    assert_eq!((numbers(&next), &next["meta"]["page"]), (numbers(&plain), &json!(3)));
}

#[tokio::test]
async fn a_cursor_that_does_not_fit_is_422() {
    let bench = Bench::new().await;
    fill(&bench, 0, 20).await;
    let path = "/logs?page_size=3&user_id=ann&action=LOGIN&action=x&sort=timestamp:asc";
    let page = bench.get(path).await.json();
    let cursor = page["meta"]["next_cursor"].as_str().expect("more is left").to_owned();
    let good = [
        format!("/logs?user_id=ann&action=x,login&sort=timestamp:asc&cursor={cursor}"),
        format!("/logs?total=exact&limit=9&user_id=ann&action=LOGIN&action=X&sort=timestamp:asc&cursor={cursor}"),
    ];
    for path in good {
        assert_eq!(
            numbers(&bench.get(&path).await.json()).first(),
            Some(&numbers_after(&bench, &page).await),
            "{path}"
        );
    }
    let last = cursor.len() - 1;
    let changed = format!("{}{}", &cursor[..last], if cursor.ends_with('0') { '1' } else { '0' });
    for path in [
        format!("/logs?cursor={cursor}"),
        format!("/logs?user_id=bob&action=x,login&sort=timestamp:asc&cursor={cursor}"),
        format!("/logs?user_id=ann&action=x&sort=timestamp:asc&cursor={cursor}"),
        format!("/logs?user_id=ann&action=x,login&cursor={cursor}"),
        format!("/logs?user_id=ann&action=x,login&sort=sequence:asc&cursor={cursor}"),
        format!("/logs?user_id=ann&action=x,login&sort=timestamp:asc&from=2024-01-01&cursor={cursor}"),
        format!("{path}&page=2&cursor={cursor}"),
        format!("{path}&page=99999&cursor={cursor}"),
        format!("{path}&skip=0&cursor={cursor}"),
        format!("{path}&cursor={changed}"),
        format!("{path}&cursor={}", cursor.to_uppercase()),
        format!("{path}&cursor={}", &cursor[..last]),
        format!("{path}&cursor="),
        format!("{path}&cursor=%00%F0%9F%98%80"),
        format!("{path}&cursor={}", "a".repeat(10_000)),
    ] {
        let problem = bench.get(&path).await.problem(422, "invalid_cursor");
        assert_eq!(
            (&problem["errors"][0]["field"], &problem["errors"][0]["code"]),
            (&json!("cursor"), &json!("invalid_cursor"))
        );
        assert!(!problem.to_string().contains(&cursor), "no value is echoed");
    }
    let path = format!("/api/v1/logs?user_id=ann&action=x,login&sort=timestamp:asc&cursor={cursor}");
    let foreign = bench.call("GET", &path, &token(Some("globex"), "admin"), "").await;
    foreign.problem(422, "invalid_cursor");
    bench
        .get(&format!("/logs?cursor={cursor}&cursor={cursor}"))
        .await
        .problem(422, "invalid_parameter");
    let deep = bench.get("/logs?page=11&page_size=1000").await.problem(422, "invalid_parameter");
    assert!(deep["detail"].as_str().expect("text").contains("`cursor`"));
}

/// The number of the entry behind a first page of three.
async fn numbers_after(bench: &Bench, page: &Value) -> u64 {
    let all = bench.get("/logs?user_id=ann&sort=timestamp:asc&page_size=100").await.json();
    let (all, shown) = (numbers(&all), numbers(page));
    all[all.iter().position(|n| Some(n) == shown.last()).expect("on the page") + 1]
}

#[tokio::test]
async fn a_search_with_a_body_is_the_same_search() {
    let bench = Bench::new().await;
    fill(&bench, 0, 40).await;
    for (query, body) in [
        ("", json!({})),
        ("user_id=ann&page_size=3&page=2", json!({"user_id": "ann", "page_size": 3, "page": 2})),
        (
            "user_id=ann&user_id=bob&sort=sequence:asc",
            json!({"filters": {"user_id": ["ann", "bob"]}, "sort": "sequence:asc"}),
        ),
        ("metadata.n=1&total=false", json!({"metadata": {"n": 1}, "total": false})),
        ("metadata.n=1", json!({"filters": {"metadata.n": "1"}})),
        (r"metadata.deep.a\.b=true", json!({"metadata": {"deep": {"a.b": true}}})),
        (
            r"metadata.deep.a\.b=null&size=5",
            json!({"filters": {"metadata": {"deep": {"a.b": null}}}, "size": "5"}),
        ),
        ("severity=INFO,ERROR&min_sequence=3", json!({"severity": "INFO,ERROR", "min_sequence": 3})),
        (
            "from=2024-01-01&to=2024-01-01T00:00:20Z",
            json!({"from": "2024-01-01", "filters": {"end_time": "2024-01-01T00:00:20Z"}}),
        ),
    ] {
        let (get, post) = (bench.get(&format!("/logs?{query}")).await, bench.post("/logs/search", &body).await);
        assert_eq!(post.status, 200, "{body}: {}", post.json());
        assert_eq!(get.json(), post.json(), "{body}");
        assert!(query.is_empty() || get.json()["meta"]["total"] != json!(0), "{query} finds something");
    }
    let page = bench.post("/logs/search", &json!({"page_size": 15, "user_id": "ann"})).await.json();
    let cursor = page["meta"]["next_cursor"].as_str().expect("more is left").to_owned();
    let rest = bench
        .post("/logs/search", &json!({"cursor": cursor, "filters": {"user_id": ["ann"]}}))
        .await
        .json();
    let by_get = bench.get(&format!("/logs?user_id=ann&cursor={cursor}")).await.json();
    assert_eq!((numbers(&rest).len(), &rest), (5, &by_get));
    let both = bench.post("/logs/search?user_id=ann&page_size=2", &json!({"metadata": {"n": 0}})).await.json();
    assert_eq!(
        both,
        bench.get("/logs?user_id=ann&page_size=2&metadata.n=0").await.json(),
        "the query string counts too"
    );
    let empty = bench.call("POST", "/api/v1/logs/search/", &token(Some("acme"), "viewer"), "").await;
    assert_eq!(empty.json()["meta"]["total"], 40, "no body is no filter");
    bench
        .call("POST", "/api/v1/logs/search", &token(Some("acme"), "writer"), "{}")
        .await
        .problem(403, "forbidden");
}

#[tokio::test]
async fn a_body_that_is_no_search_is_refused_and_says_why() {
    let bench = Bench::new().await;
    let field = |problem: &Value| problem["errors"][0]["field"].as_str().expect("a field").to_owned();
    for (body, name, nearest) in [
        (json!({"sevrity": "ERROR"}), "sevrity", "`severity`"),
        (json!({"filters": {"usr_id": 1}}), "usr_id", "`user_id`"),
        (json!({"pagesize": 5}), "pagesize", "`page_size`"),
    ] {
        let problem = bench.post("/logs/search", &body).await.problem(422, "invalid_parameter");
        assert_eq!(field(&problem), name);
        assert!(problem["detail"].as_str().expect("text").ends_with(nearest), "{problem}");
    }
    for (body, name) in [
        (json!({"user_id": {"a": 1}}), "user_id"),
        (json!({"cursor": null}), "cursor"),
        (json!({"page": [1, 2]}), "page"),
        (json!({"page": -1}), "page"),
        (json!({"page": 1, "filters": {"page": 1}}), "page"),
        (json!({"severity": true}), "severity"),
        (json!({"from": 1_700_000_000}), "from"),
        (json!({"filters": "action=x"}), "filters"),
        (json!({"sort": "relevance"}), "sort"),
    ] {
        let problem = bench.post("/logs/search", &body).await.problem(422, "invalid_parameter");
        assert_eq!(field(&problem), name, "{body}");
    }
    let post = |body: String| async { bench.call("POST", "/api/v1/logs/search", &token(Some("acme"), "admin"), body).await };
    post("[1]".into()).await.problem(422, "invalid_body");
    post("{\"a\":".into()).await.problem(422, "invalid_body");
    post("action=LOGIN".into()).await.problem(422, "invalid_body");
    post(json!({"user_id": "x".repeat(70_000)}).to_string()).await.problem(413, "too_large");
    let many = (0..2000).map(|i| format!("\"metadata.k{i}\":1")).collect::<Vec<_>>().join(",");
    post(format!("{{{many}}}")).await.problem(422, "invalid_parameter");
    let codes: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
    let lines = request("POST", "/api/v1/logs/search", &token(Some("acme"), "admin")).header("content-type", "application/x-ndjson");
    let lines = lines.body(Body::from(json!({"user_id": codes}).to_string())).expect("a request");
    bench.send(lines).await.problem(415, "unsupported_media_type");
}
