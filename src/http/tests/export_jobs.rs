//! Export jobs: asked for, looked at, fetched in ranges, ended; their own tenant's alone.

use super::*;

const EXPORTS: &str = "/api/v1/logs/export";

fn auditor(tenant: &str) -> String {
    token(Some(tenant), "auditor")
}

/// A bench with so many entries of acme, and one of globex.
async fn filled(entries: usize) -> Bench {
    let bench = Bench::new().await;
    let bulk: Vec<Value> = (0..entries).map(entry).collect();
    assert_eq!(bench.post("/logs/bulk", &Value::from(bulk)).await.status, 201);
    let theirs = bench.call("POST", "/api/v1/logs", &token(Some("globex"), "admin"), entry(99).to_string()).await;
    assert_eq!(theirs.status, 201);
    bench
}

impl Bench {
    async fn ask(&self, body: &str) -> Value {
        let got = self.call("POST", EXPORTS, &auditor("acme"), body.to_owned()).await;
        let job = got.json();
        assert_eq!((got.status.as_u16(), &job["status"]), (202, &json!("queued")), "{job}");
        let id = job["id"].as_str().expect("an id");
        assert_eq!(got.headers["location"], format!("{EXPORTS}/{id}"));
        assert_eq!((&job["pipeline_id"], &job["download_url"]), (&job["id"], &Value::Null));
        job
    }

    /// The job when it is over.
    async fn over(&self, job: &Value) -> Value {
        let path = format!("{EXPORTS}/{}", job["id"].as_str().expect("an id"));
        loop {
            let state = self.call("GET", &path, &auditor("acme"), "").await.json();
            if !["queued", "running"].contains(&state["status"].as_str().expect("a status")) {
                return state;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn fetch(&self, state: &Value, headers: &[(&str, &str)]) -> Got {
        let path = state["download_url"].as_str().expect("an address");
        let mut request = request("GET", path, &auditor("acme"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).expect("a request")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_gives_the_file_that_a_stream_gives() {
    let bench = filled(30).await;
    for (body, query) in [
        ("", ""),
        ("{}", "?format=json"),
        (r#"{"format": "ndjson", "filters": {}}"#, "?format=ndjson"),
        (
            r#"{"format": "csv", "csv_safe": true, "sort": "sequence:asc"}"#,
            "?format=csv&csv_safe=true&sort=sequence:asc",
        ),
        (
            r#"{"format": "csv", "filters": {"resource_id": ["r-1", "r-2"], "min_sequence": 2}}"#,
            "?format=csv&resource_id=r-1&resource_id=r-2&min_sequence=2",
        ),
        (r#"{"format": "json", "resource_id": "nothing"}"#, "?format=json&resource_id=nothing"),
        (r#"{"format": "ndjson", "resource_id": "nothing"}"#, "?format=ndjson&resource_id=nothing"),
    ] {
        let state = bench.over(&bench.ask(body).await).await;
        assert_eq!(
            (&state["status"], &state["error"], &state["as_of"]),
            (&json!("done"), &Value::Null, &json!(30)),
            "{body}"
        );
        let (file, stream) = (
            bench.fetch(&state, &[]).await,
            bench.call("GET", &format!("{EXPORTS}{query}"), &auditor("acme"), "").await,
        );
        assert_eq!((file.status.as_u16(), stream.status.as_u16()), (200, 200), "{body}");
        assert_eq!(String::from_utf8_lossy(&file.bytes), String::from_utf8_lossy(&stream.bytes), "{body}");
        for name in ["content-type", "content-disposition"] {
            assert_eq!(file.headers[name], stream.headers[name], "{body}");
        }
        assert_eq!((&state["bytes"], &state["progress"]), (&json!(file.bytes.len()), &json!(1.0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_the_file_are_sent_plain_with_their_place() {
    let bench = filled(10).await;
    let state = bench.over(&bench.ask("").await).await;
    let whole = bench.fetch(&state, &[("accept-encoding", "gzip")]).await;
    assert!(!whole.headers.contains_key("content-encoding"), "ranges count the bytes that are sent");
    assert_eq!(whole.headers["accept-ranges"], "bytes");
    let (all, tag) = (whole.bytes.clone(), whole.headers["etag"].to_str().expect("text").to_owned());
    assert!(tag.starts_with('"'), "a strong one: {tag}");
    let len = all.len();
    for (range, want) in [
        ("bytes=0-9", 0..10),
        ("bytes=-5", len - 5..len),
        ("bytes=100-", 100..len),
        ("bytes=5-999999", 5..len),
    ] {
        let got = bench.fetch(&state, &[("range", range), ("accept-encoding", "gzip")]).await;
        assert_eq!((got.status.as_u16(), &got.bytes[..]), (206, &all[want.clone()]), "{range}");
        assert_eq!(got.headers["content-range"], format!("bytes {}-{}/{len}", want.start, want.end - 1));
        assert_eq!(got.headers["etag"], tag);
    }
    for headers in [[("range", "bytes=0-1,4-5"), ("x", "")], [("range", "bytes=0-1"), ("if-range", "\"other\"")]] {
        let got = bench.fetch(&state, &headers).await;
        assert_eq!((got.status.as_u16(), got.bytes.len()), (200, len), "{headers:?}");
    }
    let beyond = bench.fetch(&state, &[("range", &format!("bytes={len}-"))]).await;
    beyond.problem(416, "range_not_satisfiable");
    assert_eq!(beyond.headers["content-range"], format!("bytes */{len}"));
    let known = bench.fetch(&state, &[("if-none-match", &tag)]).await;
    assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
    let path = state["download_url"].as_str().expect("an address");
    let head = request("HEAD", path, &auditor("acme"))
        .header("range", "bytes=0-1")
        .body(Body::empty())
        .expect("a request");
    let head = bench.send(head).await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(head.headers["content-length"], len.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_422_and_makes_no_job() {
    let bench = filled(1).await;
    for (body, field) in [
        (r#"{"format": "xml"}"#, "format"),
        (r#"{"filters": {"sevrity": "ERROR"}}"#, "sevrity"),
        (r#"{"filters": {"severity": "LOUD"}}"#, "severity"),
        (r#"{"sort": "relevance"}"#, "sort"),
        (r#"{"page": 1}"#, "page"),
        (r#"{"csv_safe": "perhaps"}"#, "csv_safe"),
    ] {
        let problem = bench.call("POST", EXPORTS, &auditor("acme"), body).await.problem(422, "invalid_parameter");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let problem = bench
        .call("POST", EXPORTS, &auditor("acme"), r#"{"filters": {"sevrity": "ERROR"}}"#)
        .await
        .json();
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("`severity`")), "{problem}");
    bench.call("POST", EXPORTS, &auditor("acme"), "[]").await.problem(422, "invalid_body");
    bench.shelf.with(|state| state.sick = Some(StoreError::Starting));
    bench.call("POST", EXPORTS, &auditor("acme"), "").await.problem(503, "unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_end_when_they_are_told_to_and_unfinished_ones_have_no_file() {
    let mut bench = filled(5).await;
    let auditor = auditor("acme");
    let done = bench.over(&bench.ask("").await).await;
    let path = format!("{EXPORTS}/{}", done["id"].as_str().expect("an id"));
    let deleted = bench.call("DELETE", &path, &auditor, "").await;
    assert_eq!((deleted.status.as_u16(), deleted.bytes.len()), (204, 0), "what is over is deleted");
    for (method, path) in [("GET", path.clone()), ("GET", format!("{path}/download")), ("DELETE", path.clone())] {
        bench.call(method, &path, &auditor, "").await.problem(404, "not_found");
    }

    bench.without_turns();
    let waiting = bench.ask("").await;
    let path = format!("{EXPORTS}/{}", waiting["id"].as_str().expect("an id"));
    bench.call("GET", &format!("{path}/download"), &auditor, "").await.problem(409, "not_ready");
    let cancelled = bench.call("DELETE", &path, &auditor, "").await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.json()["status"]), (200, &json!("cancelled")));
    let state = bench.call("GET", &path, &auditor, "").await.json();
    assert_eq!((&state["status"], &state["download_url"]), (&json!("cancelled"), &Value::Null));
    assert!(state["expires_at"].is_string());
    bench.call("GET", &format!("{path}/download"), &auditor, "").await.problem(409, "not_ready");
    for _ in 0..2 {
        bench.ask("").await;
    }
    bench.call("POST", EXPORTS, &auditor, "").await.problem(429, "overloaded");
}

impl Bench {
    /// From now on jobs wait for ever, and a tenant may have three.
    fn without_turns(&mut self) {
        let objects = FolderObjects::open(Arc::new(SimFs::new()), PathBuf::from("/objects")).expect("opened");
        let parts = Parts {
            objects: Arc::new(objects),
            authority: self.shelf.clone(),
            catalog: self.services.catalog.clone(),
            copying: None,
            compile: Arc::new(crate::http::compile_export),
            room: None,
            clock: now_ms,
        };
        let settings = ExportSettings {
            jobs: 0,
            per_tenant: 3,
            ..ExportSettings::default()
        };
        self.services.export_jobs = Exports::start(parts, settings);
        self.router = crate::http::router(self.services.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_seen_by_auditors_and_admins_of_its_tenant_alone() {
    let bench = filled(3).await;
    let state = bench.over(&bench.ask("").await).await;
    let id = state["id"].as_str().expect("an id");
    let nothing = Uuid::now_v7().to_string();
    for (method, path) in [
        ("GET", EXPORTS.to_owned() + "/ID"),
        ("GET", EXPORTS.to_owned() + "/ID/download"),
        ("DELETE", EXPORTS.to_owned() + "/ID"),
    ] {
        for tenant in ["globex", "acme"] {
            for role in ["viewer", "writer"] {
                let got = bench.call(method, &path.replace("ID", id), &token(Some(tenant), role), "").await;
                got.problem(403, "forbidden");
            }
        }
        let ask = async |id: &str| {
            let request = request(method, &path.replace("ID", id), &token(Some("globex"), "admin")).header("x-request-id", "same");
            bench.send(request.body(Body::empty()).expect("a request")).await
        };
        let (theirs, none, bad) = (ask(id).await, ask(&nothing).await, ask("..%2fx").await);
        theirs.problem(404, "not_found");
        assert_eq!(theirs.bytes, none.bytes, "{method} {path}: not to be told from what does not exist");
        assert_eq!(theirs.bytes, bad.bytes, "{method} {path}");
    }
    for role in ["viewer", "writer"] {
        bench.call("POST", EXPORTS, &token(Some("acme"), role), "").await.problem(403, "forbidden");
    }
    assert_eq!(bench.fetch(&state, &[]).await.status, 200, "and it is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_the_search_store_is_a_job_without_a_file() {
    let bench = filled(3).await;
    let path = "/api/v1/logs/index/bulk";
    bench.call("POST", path, &auditor("acme"), "").await.problem(403, "forbidden");
    let got = bench.call("POST", path, &token(Some("acme"), "admin"), "").await;
    let job = got.json();
    assert_eq!(
        (got.status.as_u16(), &job["kind"], &job["format"]),
        (202, &json!("rebuild"), &Value::Null),
        "{job}"
    );
    let state = bench.over(&job).await;
    assert_eq!(
        (&state["status"], &state["progress"], &state["download_url"]),
        (&json!("done"), &json!(1.0), &Value::Null),
        "{state}"
    );
    let file = format!("{EXPORTS}/{}/download", job["id"].as_str().expect("an id"));
    bench.call("GET", &file, &auditor("acme"), "").await.problem(404, "not_found");
    bench
        .call("GET", &format!("{EXPORTS}/{}", job["id"].as_str().expect("an id")), &auditor("globex"), "")
        .await
        .problem(404, "not_found");
}
