//! Export jobs of the real binary: the same bytes as a stream, in ranges too, through `kill -9`, for one tenant alone, for a
//! while.

use crate::harness::{
    Server, Site, answer, data,
    stage::{Stage, told_to_both},
};
use reqwest::{Method, Response, header};
use serde_json::{Value, json};
use uuid::Uuid;

/// Stores `n` entries of about 1 KiB.
async fn fill(server: &Server, token: &str, n: usize) {
    for _ in 0..n / 1000 {
        let (body, _) = data::bulk(1000, &"filler ".repeat(50));
        let (status, answer) = server.post(token, "/logs/bulk?wait=stored&ids=false", body).await;
        assert_eq!(status, 201, "{answer}");
    }
}

async fn ask(server: &Server, token: &str, body: &Value) -> Value {
    let (status, job) = server.post(token, "/logs/export", body.to_string()).await;
    assert_eq!(status, 202, "{job}");
    assert_eq!(job["id"], job["pipeline_id"]);
    job
}

async fn state(server: &Server, token: &str, job: &Value) -> Value {
    let (status, state) = server.get(token, &format!("/logs/export/{}", job["id"].as_str().expect("an id"))).await;
    assert_eq!(status, 200, "{state}");
    state
}

/// Looks until the job's state is what is waited for.
async fn until(server: &Server, token: &str, job: &Value, what: impl Fn(&Value) -> bool) -> Value {
    server
        .until(
            || async {
                let state = state(server, token, job).await;
                assert!(!["failed", "cancelled"].contains(&state["status"].as_str().expect("text")), "{state}");
                what(&state)
            },
            "the job's state",
        )
        .await;
    state(server, token, job).await
}

async fn done(server: &Server, token: &str, job: &Value) -> Value {
    until(server, token, job, |state| state["status"] == "done").await
}

async fn fetch(server: &Server, token: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    fetch_by(server, Method::GET, token, path, headers).await
}

async fn fetch_by(server: &Server, method: Method, token: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = server.client.request(method, format!("http://{}{path}", server.http)).bearer_auth(token);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("the server answers")
}

async fn whole(response: Response) -> Vec<u8> {
    assert_eq!(response.status(), 200);
    response.bytes().await.expect("the body arrives").to_vec()
}

/// What a stream gives of the same entries.
async fn streamed(server: &Server, token: &str, format: &str, state: &Value) -> Vec<u8> {
    let path = format!("/api/v1/logs/export?format={format}&max_sequence={}", state["as_of"]);
    whole(fetch(server, token, &path, &[]).await).await
}

fn text(response: &Response, name: header::HeaderName) -> &str {
    response
        .headers()
        .get(&name)
        .unwrap_or_else(|| panic!("{name} is missing"))
        .to_str()
        .expect("text")
}

async fn a_job_is_the_stream_kept_and_can_be_fetched_in_ranges(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    fill(&server, &token, stage.sized(12_000, 2_000)).await;
    for format in ["ndjson", "json", "csv"] {
        let job = ask(&server, &token, &json!({"format": format})).await;
        fill(&server, &token, 1_000).await; // none of these is in it
        let state = done(&server, &token, &job).await;
        assert_eq!(
            (&state["rows"], &state["progress"], &state["error"]),
            (&state["as_of"], &json!(1.0), &Value::Null)
        );
        let path = state["download_url"].as_str().expect("an address").to_owned();
        let response = fetch(&server, &token, &path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(text(&response, header::ACCEPT_RANGES), "bytes");
        assert_eq!(text(&response, header::CONTENT_LENGTH), state["bytes"].to_string());
        let name = text(&response, header::CONTENT_DISPOSITION).to_owned();
        assert!(name.contains("audit_logs_acme_") && name.ends_with(&format!(".{format}\"")), "{name}");
        let tag = text(&response, header::ETAG).to_owned();
        let all = whole(response).await;
        assert!(all == streamed(&server, &token, format, &state).await, "{format}: {} bytes", all.len());

        // In two parts, as a client does whose first download broke off.
        let half = all.len() / 2;
        let rest = fetch(&server, &token, &path, &[("range", &format!("bytes={half}-")), ("if-range", &tag)]).await;
        assert_eq!(rest.status(), 206);
        let last = all.len() - 1;
        assert_eq!(text(&rest, header::CONTENT_RANGE), format!("bytes {half}-{last}/{}", all.len()));
        assert!(rest.bytes().await.expect("it arrives")[..] == all[half..]);
        let end = fetch(&server, &token, &path, &[("range", "bytes=-7")]).await;
        assert_eq!(end.status(), 206);
        assert!(end.bytes().await.expect("it arrives")[..] == all[all.len() - 7..]);
        let beyond = fetch(&server, &token, &path, &[("range", &format!("bytes={}-", all.len()))]).await;
        assert_eq!(
            (beyond.status().as_u16(), text(&beyond, header::CONTENT_RANGE)),
            (416, &*format!("bytes */{}", all.len()))
        );
        let other = fetch(&server, &token, &path, &[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await;
        assert_eq!(whole(other).await.len(), all.len());
        let head = fetch_by(&server, Method::HEAD, &token, &path, &[("range", "bytes=0-1")]).await;
        assert_eq!((head.status().as_u16(), text(&head, header::CONTENT_LENGTH)), (200, &*all.len().to_string()));
        assert!(head.bytes().await.expect("nothing").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_a_job_goes_on_and_its_file_is_the_same_to_the_byte() {
    let mut site = Site::small();
    site.set("STORE__MEMTABLE_BYTES", "8MiB");
    let mut server = site.start();
    let token = server.tenant("acme").await;
    fill(&server, &token, 40_000).await;
    let job = ask(&server, &token, &json!({"format": "json", "filters": {"resource_type": "INVOICE"}})).await;
    for chunk in 1..3 {
        // So much is durable; now `kill -9` in one of the next chunks.
        let seen = until(&server, &token, &job, |state| state["rows"].as_u64() >= Some(chunk * 8_000)).await;
        assert_eq!(
            (&seen["status"], &seen["download_url"]),
            (&json!("running"), &Value::Null),
            "too fast to be killed: {seen}"
        );
        let early = fetch(
            &server,
            &token,
            &format!("/api/v1/logs/export/{}/download", job["id"].as_str().expect("an id")),
            &[],
        )
        .await;
        assert_eq!(early.status(), 409);
        server.kill();
        server = site.start();
        server.ready().await;
    }
    let state = done(&server, &token, &job).await;
    assert_eq!(
        (&state["rows"], &state["as_of"], &state["created_at"]),
        (&json!(40_000), &json!(40_000), &job["created_at"])
    );
    let path = state["download_url"].as_str().expect("an address");
    let all = whole(fetch(&server, &token, path, &[]).await).await;
    assert!(all == streamed(&server, &token, "json", &state).await, "{} bytes", all.len());
    // The same request, not interrupted, as of the same number.
    let again = ask(&server, &token, &json!({"format": "json", "filters": {"resource_type": "INVOICE"}})).await;
    let again = done(&server, &token, &again).await;
    let path = again["download_url"].as_str().expect("an address");
    assert!(all == whole(fetch(&server, &token, path, &[]).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_and_a_cancel_in_the_middle_leave_nothing_half_done() {
    let mut site = Site::small();
    site.set("STORE__MEMTABLE_BYTES", "8MiB");
    let server = site.start();
    let token = server.tenant("acme").await;
    fill(&server, &token, 40_000).await;
    let job = ask(&server, &token, &json!({"format": "ndjson"})).await;
    until(&server, &token, &job, |state| state["rows"].as_u64() > Some(0)).await;
    assert_eq!(server.stop(), Some(0));
    let server = site.start();
    server.ready().await;
    let path = format!("/logs/export/{}", job["id"].as_str().expect("an id"));
    let cancel = || answer(server.client.delete(server.url(&path)).bearer_auth(&token));
    let (status, cancelled) = cancel().await;
    assert_eq!((status, &cancelled["status"], &cancelled["bytes"]), (200, &json!("cancelled"), &json!(0)));
    assert_eq!(server.get(&token, &path).await.1["status"], "cancelled");
    let late = fetch(&server, &token, &format!("/api/v1{path}/download"), &[]).await;
    assert_eq!(late.status(), 409);
    assert_eq!(cancel().await.0, 204, "what is over is deleted");
    assert_eq!((server.get(&token, &path).await.0, cancel().await.0), (404, 404));
    let folder = site.data().join("objects/exports/acme");
    server
        .until(
            || async { std::fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_none()) },
            "no object of the job is left",
        )
        .await;
}

async fn a_job_is_its_tenants_alone_and_auditors_and_admins(stage: Stage) {
    let server = stage.start().await;
    let (acme, globex) = (server.tenant("acme").await, server.tenant("globex").await);
    fill(&server, &acme, 1_000).await;
    let auditor = server.token(Some("acme"), &["auditor"]);
    let job = ask(&server, &auditor, &json!({})).await;
    let id = job["id"].as_str().expect("an id").to_owned();
    done(&server, &auditor, &job).await;
    for method in [Method::GET, Method::DELETE] {
        for path in [format!("/api/v1/logs/export/{id}"), format!("/api/v1/logs/export/{id}/download")] {
            if method == Method::DELETE && path.ends_with("download") {
                continue;
            }
            let theirs = fetch_by(&server, method.clone(), &globex, &path, &[("x-request-id", "r")]).await;
            let nothing = fetch_by(
                &server,
                method.clone(),
                &globex,
                &path.replace(&id, &Uuid::now_v7().to_string()),
                &[("x-request-id", "r")],
            )
            .await;
            assert_eq!((theirs.status().as_u16(), nothing.status().as_u16()), (404, 404), "{method} {path}");
            let (theirs, nothing) = (theirs.bytes().await.expect("a body"), nothing.bytes().await.expect("a body"));
            assert_eq!(theirs, nothing, "not to be told from a job that does not exist");
            for role in ["viewer", "writer"] {
                let token = server.token(Some("acme"), &[role]);
                assert_eq!(
                    fetch_by(&server, method.clone(), &token, &path, &[]).await.status(),
                    403,
                    "{role} {method} {path}"
                );
            }
        }
    }
    assert_eq!(fetch(&server, &auditor, &format!("/api/v1/logs/export/{id}/download"), &[]).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_expires() {
    let mut site = Site::small();
    site.set("EXPORTS__KEEP", "1s");
    let server = site.start();
    let token = server.tenant("acme").await;
    fill(&server, &token, 1_000).await;
    let job = ask(&server, &token, &json!({"format": "csv"})).await;
    let path = format!("/logs/export/{}", job["id"].as_str().expect("an id"));
    server.until(|| async { server.get(&token, &path).await.0 == 404 }, "it expires").await;
    let folder = site.data().join("objects/exports/acme");
    server
        .until(
            || async { std::fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_none()) },
            "its objects are deleted",
        )
        .await;
}

told_to_both!(
    a_job_is_the_stream_kept_and_can_be_fetched_in_ranges,
    a_job_is_its_tenants_alone_and_auditors_and_admins
);
