//! Sentences of the contract that a stranger would try first, told to the real binary as a table.

use crate::harness::{Server, Site};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Output};

/// Writes the file and imports it into `acme`, with further arguments.
fn ingest(site: &Site, server: &Server, name: &str, contents: &[u8], more: &[&str]) -> Output {
    let path: PathBuf = site.folder.path().join(name);
    std::fs::write(&path, contents).expect("written");
    let url = format!("http://{}", server.http);
    let file = path.to_str().expect("text");
    let mut args = vec!["ingest", file, "--url", &url];
    if !more.contains(&"--tenant") {
        args.extend(["--tenant", "acme"]);
    }
    args.extend(more);
    site.command(&args).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entry(message: &str) -> Value {
    json!({"action": "A", "resource_type": "r", "resource_id": "1", "message": message})
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_passes_over_nothing_whatever_a_file_is_like() {
    let site = Site::small();
    let server = site.start();
    server.tenant("acme").await;
    let long = "x".repeat(300_000);
    let (one, two) = (entry("one"), entry("two"));
    let cases = [
        // name, contents, exit code, read, stored, rejected, how a line of standard error begins after the file's name
        ("bad-first.ndjson", format!("{{bad\n{one}\n"), 2, (2, 1, 1), ":1: : malformed_json: "),
        ("bad-first.json", format!("{{bad\n{two}\n"), 2, (2, 1, 1), ":1: : malformed_json: "),
        (
            "long-first.json",
            format!("{}\n{}\n", entry(&long), entry("three")),
            2,
            (2, 1, 1),
            ":1: : too_large: ",
        ),
        ("lone.json", format!("{one:#}"), 2, (1, 0, 1), ":"),
        ("mark.json", format!("\u{feff}[{}]", entry("four")), 0, (1, 1, 0), ""),
        (
            "names.ndjson",
            "{\"a\\nb\":1,\"action\":\"A\",\"resource_type\":\"r\",\"resource_id\":\"1\"}".to_owned(),
            2,
            (1, 0, 1),
            ":1: a b: unknown_field: ",
        ),
        ("empty.ndjson", String::new(), 0, (0, 0, 0), ""),
        (
            "huge.ndjson",
            format!("{}\n{}\n", entry(&"x".repeat(17 << 20)), entry("five")),
            2,
            (2, 1, 1),
            ":1: : too_large: ",
        ),
    ];
    for (name, contents, code, (read, stored, rejected), told) in cases {
        let output = ingest(&site, &server, name, contents.as_bytes(), &[]);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{name}: {out}{err}");
        let last = format!("read={read} accepted={stored} stored={stored} duplicates=0 dead_lettered=0 rejected={rejected}");
        assert_eq!(out.lines().last(), Some(last.as_str()), "{name}: {err}");
        assert!(told.is_empty() || err.lines().any(|l| l.contains(&format!("{name}{told}"))), "{name}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_tenant_imports_nothing_anywhere() {
    let site = Site::small();
    let server = site.start();
    let acme = server.tenant("acme").await;
    server.tenant("globex").await;
    let writer = server.token(Some("acme"), &["writer"]);
    let contents = format!("{}\n", entry("whose?"));
    let output = ingest(&site, &server, "a.ndjson", contents.as_bytes(), &["--tenant", "globex", "--token", &writer]);
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let usage = server.settled_usage(&acme, "acme").await;
    assert_eq!(usage["accepted"], 0, "{usage}");
    let output = ingest(&site, &server, "a.ndjson", contents.as_bytes(), &["--token", &writer]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_regular_file_is_refused_before_anything_is_sent() {
    let site = Site::small();
    let server = site.start();
    let folder = site.folder.path().to_str().expect("text").to_owned();
    let url = format!("http://{}", server.http);
    for path in [folder.as_str(), "/dev/null", "no-such-file"] {
        let output = site
            .command(&["ingest", path, "--url", &url, "--tenant", "acme", "--create-tenant"])
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(
            text(&output.stderr).contains(path) && output.stdout.is_empty(),
            "{path}: {}",
            text(&output.stderr)
        );
    }
    let platform = server.token(None, &["platform_admin"]);
    assert_eq!(server.get(&platform, "/tenants").await.1["meta"]["total"], 0, "no tenant was made for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_claims_the_length_of_the_answer_to_get_or_none() {
    let site = Site::small();
    let server = site.start();
    let acme = server.tenant("acme").await;
    let entries: Vec<Value> = (0..100).map(|_| entry(&"x".repeat(4_000))).collect();
    let (status, body) = server.post(&acme, "/logs/bulk?wait=stored", Value::from(entries).to_string()).await;
    assert_eq!(status, 201, "{body}");
    for (path, known) in [
        ("/logs?page_size=1", true),
        ("/logs/stats", true),
        ("/logs?page_size=100", false),
        ("/logs/export", false),
        ("/logs/export/csv/", false),
    ] {
        let length = async |method| {
            let request = server.client.request(method, server.url(path)).bearer_auth(&acme);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{path}");
            let length = answer.headers().get("content-length").cloned();
            (length, answer.bytes().await.expect("a body").len())
        };
        let (get, head) = (length(reqwest::Method::GET).await, length(reqwest::Method::HEAD).await);
        assert_eq!(head.1, 0, "{path}");
        assert_eq!(get.0.is_some(), known, "{path}");
        assert_eq!(get.0, head.0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_object_is_named_in_the_errors() {
    let site = Site::small();
    let server = site.start();
    let acme = server.tenant("acme").await;
    for (path, body, code) in [
        ("/logs/search", "[]", "malformed_json"),
        ("/logs/search", "{", "malformed_json"),
        ("/logs/export", "null", "malformed_json"),
        ("/logs/bulk", "[{}", "malformed_json"),
        ("/logs/bulk", "[]", "empty"),
    ] {
        let (status, answer) = server.post(&acme, path, body).await;
        assert_eq!((status, &answer["code"]), (422, &json!("invalid_body")), "{path} {body}");
        assert_eq!(
            (&answer["errors"][0]["field"], &answer["errors"][0]["code"]),
            (&json!("body"), &json!(code)),
            "{answer}"
        );
    }
}
