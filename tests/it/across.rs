//! No way across: random requests with A's credentials over every documented operation, filter, cursor, id, job, dead letter
//! and the feed, while B's log is full of planted words. Not one of them comes back, in bodies, headers or errors; what
//! is B's answers like what does not exist; and B's own answers stay what they were.
//!
//! `SLUICE_SEED` repeats a run, `SLUICE_ACROSS` sets the number of requests.

use crate::harness::{PATIENCE, Server, Site, answer};
use futures_util::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Stands in every entry of B, and in nothing that A sends.
const HIDDEN: &str = "zqhidden";
/// Stands in B's entries too, and A asks for it.
const GUESSED: &str = "zqguessed";
const A: &str = "acme";
const B: &str = "globex";

/// What a guesser would try: names of things of B, of A, and of nobody, by what they name.
struct Known {
    operations: Vec<Operation>,
    entries: [Vec<String>; 3],
    jobs: [Vec<String>; 3],
    letters: [Vec<String>; 3],
    items: [Vec<String>; 3],
    cursors: Vec<String>,
}

struct Operation {
    method: String,
    path: String,
    parameters: Vec<(String, Value)>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn entry(id: Uuid, hidden: &str) -> Value {
    let guessed = |name: &str| format!("{GUESSED}-{name}");
    json!({
        "id": id, "action": guessed("action"), "resource_type": guessed("type"), "resource_id": guessed("resource"), "user_id": guessed("user"),
        "session_id": guessed("session"), "request_id": guessed("request"), "email": format!("{GUESSED}@example.com"), "ip_address": "203.0.113.9",
        "user_agent": format!("{GUESSED} {hidden}"), "severity": "CRITICAL", "message": format!("{GUESSED} {hidden}"),
        "before_state": {"k": GUESSED, "h": hidden}, "after_state": {"k": GUESSED, "h": hidden}, "metadata": {"k": GUESSED, "h": hidden},
    })
}

/// Fills a tenant's log, dead letters and jobs; the ids of the entries, the letters and the jobs.
async fn plant(server: &Server, token: &str, hidden: &str) -> [Vec<String>; 3] {
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
    let send = |entries: Vec<Value>| server.post(token, "/logs/bulk?wait=stored", Value::from(entries).to_string());
    let (status, body) = send(ids.iter().map(|id| entry(*id, hidden)).collect()).await;
    assert_eq!((status, &body["decided"]["stored"]), (201, &json!(20)), "{body}");
    let (status, body) = send(ids[..3].iter().map(|id| entry(*id, &format!("{hidden}-again"))).collect()).await;
    assert_eq!((status, &body["decided"]["dead_lettered"]), (201, &json!(3)), "{body}");
    let (_, letters) = server.get(token, "/deadletters").await;
    let (status, job) = server.post(token, "/logs/export", json!({"format": "ndjson"}).to_string()).await;
    assert_eq!(status, 202, "{job}");
    let texts = |list: &Value| list["data"].as_array().expect("a list").iter().map(|l| text(&l["id"])).collect();
    [ids.iter().map(Uuid::to_string).collect(), texts(&letters), vec![text(&job["id"])]]
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// What a tenant's admin makes besides: a key and a user; their names.
async fn staff(server: &Server, token: &str, tenant: &str, hidden: &str) -> Vec<String> {
    let (status, key) = server
        .post(
            token,
            &format!("/tenants/{tenant}/keys"),
            json!({"name": hidden, "role": "auditor"}).to_string(),
        )
        .await;
    assert_eq!(status, 201, "{key}");
    vec![text(&key["key_id"])]
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let parameters = parameters.filter(|p| p["in"] == "query");
            all.push(Operation {
                method: method.to_uppercase(),
                path: path.strip_prefix("/api/v1").expect("below the base").to_owned(),
                parameters: parameters.map(|p| (text(&p["name"]), p["schema"].clone())).collect(),
            });
        }
    }
    all
}

fn encoded(query: &[(String, String)]) -> String {
    let escaped = |text: &str| {
        text.bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02x}")
                }
            })
            .collect::<String>()
    };
    query
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect::<Vec<_>>()
        .join("&")
}

fn pick<'a>(rng: &mut StdRng, of: &'a [String]) -> &'a str {
    of.choose(rng).expect("not empty")
}

impl Known {
    /// A value for a query parameter: often one that fits something of B.
    fn value(&self, rng: &mut StdRng, name: &str, schema: &Value) -> String {
        if let Some(values) = schema["enum"].as_array().or(schema["items"]["enum"].as_array()) {
            return text(values.choose(rng).expect("not empty"));
        }
        let guessed = |name: &str| format!("{GUESSED}-{name}");
        match name {
            "id" | "entry_id" => {
                let i = rng.random_range(0..3);
                pick(rng, &self.entries[i]).to_owned()
            }
            "user_id" => guessed("user"),
            "session_id" => guessed("session"),
            "request_id" => guessed("request"),
            "resource_id" => guessed("resource"),
            "resource_type" => guessed("type"),
            "action" => guessed("action"),
            "email" => format!("{GUESSED}@example.com"),
            "ip_address" => "203.0.113.0/24".into(),
            "severity" => "CRITICAL".into(),
            "actor" => "tester".into(),
            "search" => [
                "zqguessed",
                "\"zqguessed\"",
                "zqgu*",
                "-nothing",
                "metadata.k:zqguessed",
                "user_id:zqguessed-user",
                "severity:critical",
            ]
            .choose(rng)
            .expect("not empty")
            .to_string(),
            "cursor" => pick(rng, &self.cursors).to_owned(),
            "from" | "to" | "timestamp" | "before" => ["2020-01-01", "2030-01-01T00:00:00Z"].choose(rng).expect("not empty").to_string(),
            "confirm" => [A, B].choose(rng).expect("not empty").to_string(),
            "group_by" => ["user_id", "metadata.h", "action,metadata.k", "session_id"]
                .choose(rng)
                .expect("not empty")
                .to_string(),
            "interval" => "1d".into(),
            "zone" => "UTC".into(),
            "token" => "x".into(),
            _ if schema["type"] == "integer" => rng.random_range(0..30).to_string(),
            _ if schema["type"] == "boolean" => rng.random_bool(0.5).to_string(),
            _ => GUESSED.into(),
        }
    }

    fn path(&self, rng: &mut StdRng, path: &str) -> String {
        // Half of the ids are B's.
        let whose = [0, 1, 1, 2][rng.random_range(0..4)];
        let ids = match path {
            _ if path.starts_with("/logs/export") => &self.jobs,
            _ if path.starts_with("/deadletters") => &self.letters,
            _ => &self.entries,
        };
        let tenant = [A, A, B, "nobody", "globex.access", "acme.access", "GLOBEX", "..%2fglobex"]
            .choose(rng)
            .expect("not empty");
        path.replace("{id}", pick(rng, &ids[whose]))
            .replace("{tenant}", tenant)
            .replace("{item}", pick(rng, &self.items[whose]))
    }

    fn body(&self, rng: &mut StdRng, operation: &Operation) -> Option<Value> {
        let mut filters: BTreeMap<String, String> = BTreeMap::new();
        match (operation.method.as_str(), operation.path.as_str()) {
            ("POST", "/logs/search" | "/logs/export") => {
                for _ in 0..rng.random_range(0..3) {
                    let (name, schema) = operation.parameters.choose(rng).expect("it has parameters");
                    let name = name.replace("KEY", "h");
                    filters.insert(name.clone(), self.value(rng, &name, schema));
                }
                Some(json!(filters))
            }
            // Its own log may hold anything, also ids that B has.
            ("POST", "/logs") => Some(entry(Uuid::parse_str(pick(rng, &self.entries[1])).expect("an id"), "mine")),
            ("POST", "/logs/bulk") => {
                let mut foreign = entry(Uuid::new_v4(), "mine");
                foreign["tenant_id"] = json!(B);
                Some(json!([foreign, entry(Uuid::new_v4(), "mine")]))
            }
            ("POST", "/tenants") => Some(json!({"tenant_id": B})),
            ("PUT", _) => Some(json!({"name": "mine"})),
            ("POST", _) => Some(json!({})),
            _ => None,
        }
    }

    fn request(&self, rng: &mut StdRng, server: &Server) -> (String, RequestBuilder) {
        let operation = self.operations.choose(rng).expect("not empty");
        let path = self.path(rng, &operation.path);
        let mut query = Vec::new();
        for _ in 0..[0, 1, 1, 2, 3][rng.random_range(0..5)] {
            if let Some((name, schema)) = operation.parameters.choose(rng) {
                let name = name.replace("KEY", ["k", "h"].choose(rng).expect("not empty"));
                let value = self.value(rng, &name, schema);
                query.push((name, value));
            }
        }
        let method = Method::from_bytes(operation.method.as_bytes()).expect("a method");
        let mut request = server.client.request(method, server.url(&format!("{path}?{}", encoded(&query))));
        if let Some(body) = self.body(rng, operation) {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        if rng.random_bool(0.1) {
            request = request.header("x-tenant-id", *[A, B, "*", "acme, globex"].choose(rng).expect("not empty"));
        }
        if operation.path == "/logs/stream" {
            request = request.header("accept", "text/event-stream");
        }
        (format!("{} {path}?{query:?}", operation.method), request)
    }
}

/// Everything that an answer says, head and body; of a feed, what comes with the first piece.
async fn said(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.expect("it answers");
    let status = response.status().as_u16();
    let mut said = format!("{:?}\n", response.headers());
    let is_feed = said.contains("text/event-stream");
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        said.push_str(&String::from_utf8_lossy(&piece.expect("the body arrives")));
        if is_feed {
            break;
        }
    }
    (status, said)
}

/// An answer without what differs each time.
fn essence((status, body): (u16, Value)) -> (u16, Value) {
    let mut body = body;
    if let Some(object) = body.as_object_mut() {
        object.remove("request_id");
    }
    (status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_a_brings_a_byte_of_b() {
    let seed = setting("SLUICE_SEED").unwrap_or_else(rand::random);
    println!("SLUICE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let site = Site::small();
    let server = site.start();
    let (a, b) = (server.tenant(A).await, server.tenant(B).await);
    let [own_entries, own_letters, own_jobs] = plant(&server, &a, "mine").await;
    let [entries, letters, jobs] = plant(&server, &b, HIDDEN).await;
    let (own_items, items) = (staff(&server, &a, A, "mine").await, staff(&server, &b, B, HIDDEN).await);
    let cursor = |token: String| {
        let server = &server;
        async move { text(&server.get(&token, "/logs?page_size=2").await.1["meta"]["next_cursor"]) }
    };
    let nobody = || vec![Uuid::new_v4().to_string()];
    let (_, document) = server.get("", "/openapi.json").await;
    let known = Known {
        operations: operations(&document),
        entries: [own_entries, entries, nobody()],
        letters: [own_letters, letters, nobody()],
        jobs: [own_jobs, jobs, nobody()],
        items: [own_items, items, nobody()],
        cursors: vec![cursor(a.clone()).await, cursor(b.clone()).await],
    };
    let before = picture(&server, &b, &known).await;

    // No platform admin: it may change B, and what else it may not is in the matrix.
    let callers = [vec!["admin"], vec!["auditor"], vec!["viewer"], vec!["writer", "viewer"]];
    let callers = callers.map(|roles| server.token(Some(A), &roles));
    let requests: Vec<_> = (0..setting("SLUICE_ACROSS").unwrap_or(1200))
        .map(|_| {
            let (what, request) = known.request(&mut rng, &server);
            (what, request.bearer_auth(callers.choose(&mut rng).expect("not empty")))
        })
        .collect();
    let ask = |(what, request)| async move {
        let (status, said) = tokio::time::timeout(PATIENCE, said(request)).await.expect("an answer in time");
        assert!(!said.contains(HIDDEN), "SLUICE_SEED={seed}: {what}: {status}\n{said}");
        assert_ne!(status, 500, "SLUICE_SEED={seed}: {what}\n{said}");
    };
    futures_util::stream::iter(requests).map(ask).buffer_unordered(8).collect::<()>().await;

    // What is B's answers exactly like what does not exist.
    let admin = &callers[0];
    let pairs = [("/deadletters/", &known.letters), ("/logs/export/", &known.jobs)];
    for (path, [_, foreign, unknown]) in pairs {
        for method in [Method::GET, Method::DELETE] {
            let ask = |id: &str| answer(server.client.request(method.clone(), server.url(&format!("{path}{id}"))).bearer_auth(admin));
            let (there, not) = (essence(ask(&foreign[0]).await), essence(ask(&unknown[0]).await));
            assert_eq!((there.0, &there), (404, &not), "{method} {path}");
        }
    }
    for below in ["", "/usage", "/keys", "/users"] {
        let ask = |tenant: &str| answer(server.client.get(server.url(&format!("/tenants/{tenant}{below}"))).bearer_auth(admin));
        let (there, not) = (essence(ask(B).await), essence(ask("nobody").await));
        assert_eq!((there.0, &there), (403, &not), "{below}");
    }

    // B's own answers are what they were.
    assert_eq!(picture(&server, &b, &known).await, before);
    let log = server.stderr();
    assert!(!log.contains(HIDDEN) && !log.contains(GUESSED), "the log tells what entries say: {log}");
}

/// What B sees of its own.
async fn picture(server: &Server, token: &str, known: &Known) -> Vec<Value> {
    let job = format!("/logs/export/{}", known.jobs[1][0]);
    server
        .until(|| async { server.get(token, &job).await.1["status"] == "done" }, "an export that is done")
        .await;
    let mut all = Vec::new();
    for path in [
        "/logs?sort=sequence:asc",
        "/logs/stats",
        "/deadletters",
        "/tenants",
        "/tenants/globex",
        "/tenants/globex/usage",
        "/tenants/globex/keys",
        &job,
    ] {
        let (status, mut body) = server.get(token, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        if let Some(meta) = body.get_mut("meta").and_then(Value::as_object_mut) {
            meta.remove("next_cursor");
        }
        all.push(body);
    }
    all
}
