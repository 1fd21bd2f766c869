//! A hostile client: random and broken queries against the real binary, over raw sockets, so that nothing mends them.
//!
//! Whatever is asked, the answer is one that the contract has: never 500, no panic in the log, a problem document that names
//! what is wrong, no value of the query in it, nothing of another tenant, and no memory that stays taken.
//! `SLUICE_SEED` repeats a run (up to the interleaving of its clients), `SLUICE_FUZZ` sets the number of requests.

mod generator;
mod wire;

use crate::harness::{PATIENCE, Server, Site};
use generator::{Asked, Generator};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use wire::Reply;

/// Clients at once.
const CLIENTS: u64 = 6;
/// How many entries each tenant has.
const ENTRIES: usize = 400;
/// Stands in the values of queries, and must stand in no problem document.
pub const NEEDLE: &str = "zqneedle";
/// Stands in the entries of the other tenant, and must stand in no answer.
pub const RIVAL: &str = "zqrival";
/// Memory of its own that the server may have more of afterwards.
const MORE_MEMORY: u64 = 200 << 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Statuses that the contract has for queries. 501 is for what is documented as unbuilt, which the generator marks.
fn expected(asked: &Asked, reply: &Reply) -> bool {
    match reply.status {
        101 | 200 | 202 | 204 | 206 | 304 | 400 | 401 | 403 | 404 | 405 | 409 | 413 | 415 | 416 | 422 | 431 | 504 => true,
        408 => asked.cut_short,
        414 => asked.target.len() > 8 << 10,
        426 => wire::contains(&asked.target, b"/stream"),
        429 | 503 => reply.header("retry-after").is_some(),
        501 => asked.unbuilt,
        _ => false,
    }
}

/// What is wrong with an answer, if anything is.
fn wrong(asked: &Asked, reply: &Reply) -> Option<String> {
    if !expected(asked, reply) {
        return Some("this status is none of the contract's".into());
    }
    if wire::contains(&reply.body, RIVAL.as_bytes()) {
        return Some("it shows another tenant's entries".into());
    }
    if reply.status < 400 || asked.head {
        return None;
    }
    if reply.body.is_empty() && matches!(reply.status, 400 | 414 | 431) {
        return None; // no HTTP: answered below the routes
    }
    if wire::contains(&reply.body, NEEDLE.as_bytes()) {
        return Some("it repeats a value of the query".into());
    }
    let Ok(problem) = serde_json::from_slice::<Value>(&reply.body) else {
        return Some("it has no problem document".into());
    };
    if reply.header("content-type") != Some("application/problem+json") {
        return Some("its type is not that of a problem document".into());
    }
    for key in ["type", "title", "detail", "code", "request_id"] {
        if problem[key].as_str().is_none_or(str::is_empty) {
            return Some(format!("`{key}` is missing"));
        }
    }
    if problem["status"] != reply.status {
        return Some("`status` is another".into());
    }
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |error: &Value| error["field"].is_string() && ["code", "message"].iter().all(|key| error[key].as_str().is_some_and(|text| !text.is_empty()));
    if reply.status == 422 && (errors.is_empty() || !errors.iter().all(named)) {
        return Some("no error names what and where".into());
    }
    None
}

async fn fill(server: &Server, tenant: &str, word: &str) -> String {
    let token = server.tenant(tenant).await;
    let entry = |i: usize| {
        let (action, severity) = (["LOGIN", "Über", "delete"][i % 3], ["INFO", "ERROR"][i % 2]);
        let at = chrono::DateTime::from_timestamp(1_700_000_000 + 3_600 * i as i64, 0)
            .expect("a time")
            .to_rfc3339();
        json!({"action": action, "resource_type": "invoice", "resource_id": format!("r-{}", i % 40), "user_id": format!("u{}", i % 17),
            "timestamp": at, "severity": severity, "ip_address": format!("10.0.{}.{}", i % 3, i % 200), "message": format!("alpha beta {i} {word}"),
            "metadata": {"a": {"b": i % 7, "c.d": [true, null, "x"]}, "text": word}, "before_state": {"n": i}})
    };
    let entries: Vec<Value> = (0..ENTRIES).map(entry).collect();
    let (status, body) = server.post(&token, "/logs/bulk?wait=stored", Value::from(entries).to_string()).await;
    assert_eq!(status, 201, "{body}");
    token
}

async fn ids(server: &Server, token: &str) -> Vec<String> {
    let (mut made, mut cursor) = (Vec::new(), String::new());
    for page in 0..3 {
        let more = if page == 0 { String::new() } else { format!("&cursor={cursor}") };
        let (status, body) = server.get(token, &format!("/logs?page_size=5&user_id=u1{more}")).await;
        assert_eq!(status, 200, "{body}");
        made.extend(
            body["data"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|entry| entry["id"].as_str().expect("an id").to_owned()),
        );
        cursor = body["meta"]["next_cursor"].as_str().expect("more").to_owned();
        made.push(cursor.clone());
    }
    let (status, body) = server.post(token, "/logs/export", r#"{"format": "csv", "filters": {"user_id": "u1"}}"#).await;
    assert_eq!(status, 202, "{body}");
    let job = body["id"].as_str().expect("an id").to_owned();
    let path = format!("/logs/export/{job}");
    server
        .until(|| async { server.get(token, &path).await.1["status"] == "done" }, "the export is done")
        .await;
    made.push(job);
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_a_fuzzer_gets_an_answer_that_the_contract_has() {
    let (seed, requests) = (setting("SLUICE_SEED").unwrap_or_else(rand::random), setting("SLUICE_FUZZ").unwrap_or(9_000));
    println!("SLUICE_SEED={seed} SLUICE_FUZZ={requests}");
    let site = Site::small();
    let server = Arc::new(site.start());
    server.ready().await;
    let admin = fill(&server, "acme", "gamma").await;
    let sweep = fill(&server, "sweep", "gamma").await;
    let rival = fill(&server, "rival", RIVAL).await;
    let tokens = [("admin", 8), ("auditor", 4), ("viewer", 2), ("writer", 1)]
        .map(|(role, n)| vec![server.token(Some("acme"), &[role]); n])
        .concat();
    // What belongs to the tenant, and what belongs to another.
    let known: Arc<[String]> = ids(&server, &admin).await.into_iter().chain(ids(&server, &rival).await).collect();
    run(&server, seed ^ 0xFEED, requests / 4, &tokens, &sweep, &known).await;
    let before = memory(&server);
    let seen = run(&server, seed, requests, &tokens, &sweep, &known).await;
    println!("{seen:?}");
    // What was under way when its client left ends by itself.
    let bounded = || async { memory(&server) < before + MORE_MEMORY };
    server.until(bounded, "memory is given back").await;
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    // It still answers, and nothing of the tenant that nobody swept is gone.
    let (status, body) = server.get(&rival, "/logs?page_size=1").await;
    assert_eq!((status, &body["meta"]["total"]), (200, &json!(ENTRIES)), "{body}");
    let met = |status| seen.iter().any(|(one, _)| *one == status);
    assert!(met(200) && met(422), "the fuzzer meets answers and refusals: {seen:?}");
}

/// Sends so many requests; how often each status came.
async fn run(server: &Arc<Server>, seed: u64, requests: u64, tokens: &[String], sweep: &str, known: &Arc<[String]>) -> Vec<(u16, usize)> {
    let seen: Arc<Vec<AtomicUsize>> = Arc::new((0..600).map(|_| AtomicUsize::new(0)).collect());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (address, seen) = (server.http, seen.clone());
        let mut generator = Generator::new(
            StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(client)),
            tokens.to_vec(),
            sweep.to_owned(),
            known.clone(),
        );
        clients.spawn(async move {
            for _ in 0..requests / CLIENTS {
                let asked = generator.request();
                let sent = tokio::time::timeout(PATIENCE + Duration::from_secs(10), wire::send(address, &asked));
                match sent.await.unwrap_or_else(|_| panic!("no end of the answer to {}", asked.shown())) {
                    Some(reply) => {
                        seen[usize::from(reply.status)].fetch_add(1, Ordering::Relaxed);
                        if let Some(what) = wrong(&asked, &reply) {
                            panic!("{what}: {}\n{} {}", asked.shown(), reply.status, String::from_utf8_lossy(&reply.body));
                        }
                    }
                    // The server may hang up on what is no HTTP, and on a body that it does not want to read.
                    None => assert!(asked.broken, "no answer to {}", asked.shown()),
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        if let Err(error) = ended {
            panic!("{error}; the server's log: {}", server.stderr());
        }
    }
    seen.iter()
        .enumerate()
        .map(|(status, n)| (status as u16, n.load(Ordering::Relaxed)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Memory of its own, bytes.
fn memory(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.id());
    let text = std::fs::read_to_string(path).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says it");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}
