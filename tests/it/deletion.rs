//! A tenant is deleted: nothing of it is found any more by anybody, nor in the files, and nobody gets its id again.

use crate::harness::{Server, Site, answer, data};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// Stands in every entry of the tenant that is deleted, and nowhere else.
const SECRET: &str = "xyzzyplugh";

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Files that hold the secret in the clear.
fn betrayers(site: &Site) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default(); // it may have gone just now
        memchr::memmem::find(&bytes, SECRET.as_bytes()).is_some()
    };
    files(&site.data()).into_iter().filter(holds).collect()
}

fn platform(server: &Server) -> String {
    server.token(None, &["platform_admin"])
}

async fn delete(server: &Server, token: &str, path: &str) -> (u16, Value) {
    answer(server.client.delete(server.url(path)).bearer_auth(token)).await
}

fn tombstone(site: &Site, tenant: &str) -> Value {
    let path = site.data().join(format!("objects/catalog/tenants/{tenant}.json"));
    serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON")
}

async fn finished(site: &Site, server: &Server, tenant: &str) {
    let done = || async { tombstone(site, tenant)["retired"]["finished_at"].is_string() };
    server.until(done, "the deletion is finished").await;
}

async fn store(server: &Server, token: &str, body: String) -> Value {
    let (status, answer) = server.post(token, "/logs/bulk?wait=stored", body).await;
    assert_eq!(status, 201, "{answer}");
    answer["decided"].clone()
}

/// Whoever asks for a deleted tenant is told that there is none; and its id is taken.
async fn assert_gone(server: &Server, tenant: &str, an_id: Uuid, job: &str) {
    let own = server.token(Some(tenant), &["admin"]);
    for path in [
        "/logs",
        "/logs?search=xyzzyplugh",
        "/logs/stats",
        "/logs/export?format=csv",
        "/deadletters",
        "/logs/stream?after=0",
        &format!("/logs/{an_id}"),
        &format!("/logs/export/{job}"),
        &format!("/logs/export/{job}/download"),
    ] {
        let request = server.client.get(server.url(path)).bearer_auth(&own);
        let (status, body) = answer(request.header("accept", "text/event-stream, application/json")).await;
        assert_eq!((status, &body["code"]), (403, &json!("unknown_tenant")), "{path}: {body}");
    }
    for path in ["/logs", "/logs/bulk"] {
        let (status, body) = server.post(&own, path, data::entry(Uuid::new_v4(), "later").to_string()).await;
        assert_eq!((status, &body["code"]), (403, &json!("unknown_tenant")), "{path}: {body}");
    }
    assert_eq!(server.post(&own, "/logs/export", "{}").await.0, 403);
    assert_eq!(delete(server, &own, "/logs?days=0").await.0, 403);
    let platform = platform(server);
    for path in [format!("/tenants/{tenant}"), format!("/tenants/{tenant}/usage")] {
        assert_eq!(server.get(&platform, &path).await.0, 404, "{path}");
        assert_eq!(server.get(&own, &path).await.0, 404, "{path}");
    }
    let again = delete(server, &platform, &format!("/tenants/{tenant}?confirm={tenant}")).await;
    assert_eq!(again.0, 404);
    let (status, body) = server.post(&platform, "/tenants", json!({"tenant_id": tenant}).to_string()).await;
    assert_eq!((status, &body["code"]), (409, &json!("conflict")), "{body}");
    let listed = server.get(&platform, "/tenants").await.1;
    let ids: Vec<&str> = listed["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|t| t["tenant_id"].as_str())
        .collect();
    assert!(!ids.contains(&tenant), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tenant_leaves_nothing_and_its_id_is_never_used_again() {
    let site = Site::small();
    let server = site.start();
    let (acme, globex, platform) = (server.tenant("acme").await, server.tenant("globex").await, platform(&server));
    let named = answer(
        server
            .client
            .put(server.url("/tenants/acme"))
            .bearer_auth(&acme)
            .header("content-type", "application/json")
            .body(json!({"name": SECRET}).to_string()),
    );
    assert_eq!(named.await.0, 200);
    // Rows in parts and in memory, dead letters, an export that is done and one that is not.
    let (body, ids) = data::bulk(400, &format!("{SECRET} filler ").repeat(100));
    for _ in 0..4 {
        store(&server, &acme, data::bulk(400, &format!("{SECRET} filler ").repeat(100)).0).await;
    }
    assert_eq!(store(&server, &acme, body.clone()).await["stored"], 400);
    let conflict = body.replace("CREATE", "OTHER");
    assert_eq!(store(&server, &acme, conflict).await["dead_lettered"], 400);
    let same_ids = store(&server, &globex, json!([data::entry(ids[0], "not theirs")]).to_string()).await;
    assert_eq!(same_ids["stored"], 1);
    let letters = || async { server.get(&acme, "/deadletters").await.1["meta"]["total"] == 400 };
    server.until(letters, "dead letters").await;
    let job = server.post(&acme, "/logs/export", json!({"format": "csv"}).to_string()).await.1;
    let job = job["id"].as_str().expect("an id").to_owned();
    let done = || async { server.get(&acme, &format!("/logs/export/{job}")).await.1["status"] == "done" };
    server.until(done, "the export").await;
    let key = json!({"name": SECRET, "role": "auditor"}).to_string();
    let (status, key) = server.post(&acme, "/tenants/acme/keys", key).await;
    assert_eq!(status, 201, "{key}");
    let key = key["key"].as_str().expect("text").to_owned();
    assert_eq!(server.get(&key, "/logs").await.0, 200);
    let feed = server
        .client
        .get(server.url("/logs/stream"))
        .bearer_auth(&acme)
        .header("accept", "text/event-stream")
        .send();
    let feed = feed.await.expect("a feed");
    assert_eq!(feed.status(), 200);
    assert!(
        betrayers(&site).len() >= 4,
        "in the log, dead letters, an export, a key: {:?}",
        betrayers(&site)
    );
    assert_eq!(server.post(&acme, "/logs/export", json!({"format": "json"}).to_string()).await.0, 202);

    for (token, query, status) in [
        (&acme, "?confirm=acme", 403),
        (&platform, "", 422),
        (&platform, "?confirm=", 422),
        (&platform, "?confirm=globex", 422),
        (&platform, "?confirm=acme&days=0", 422),
    ] {
        assert_eq!(delete(&server, token, &format!("/tenants/acme{query}")).await.0, status, "{query}");
    }
    assert_eq!(delete(&server, &platform, "/tenants/ghost?confirm=ghost").await.0, 404);
    assert_eq!(server.get(&acme, "/logs").await.0, 200, "nothing was deleted");
    let (status, deletion) = delete(&server, &platform, "/tenants/acme?confirm=acme").await;
    assert_eq!(
        (status, &deletion["tenant_id"], &deletion["status"]),
        (202, &json!("acme"), &json!("running")),
        "{deletion}"
    );
    assert!(Uuid::try_parse(deletion["id"].as_str().expect("text")).is_ok());
    assert_gone(&server, "acme", ids[3], &job).await;
    finished(&site, &server, "acme").await;
    assert_eq!(server.get(&key, "/logs").await.0, 401, "its keys open nothing");
    tokio::time::timeout(crate::harness::PATIENCE, feed.bytes()).await.expect("its feeds end").ok();
    for folder in ["deadletters/acme", "exports/acme", "catalog/keys", "catalog/users"] {
        assert_eq!(files(&site.data().join("objects").join(folder)), Vec::<PathBuf>::new(), "{folder}");
    }
    let left = tombstone(&site, "acme");
    assert_eq!(left["retired"]["job"], deletion["id"]);
    assert!(!left.to_string().contains(SECRET), "the name is gone: {left}");

    // The other tenant goes on; the log is trimmed and the parts are rewritten by that.
    let mut written = 1;
    while !betrayers(&site).is_empty() {
        assert!(written < 40_000, "still there after much else was written: {:?}", betrayers(&site));
        written += store(&server, &globex, data::bulk(500, &"filler ".repeat(80)).0).await["stored"]
            .as_u64()
            .expect("a number");
    }
    assert_eq!(server.settled_usage(&globex, "globex").await["stored"], written);
    assert_eq!(server.get(&globex, &format!("/logs/{}", ids[0])).await.0, 200);

    assert_eq!(server.stop(), Some(0));
    let mut server = site.start();
    server.ready().await;
    assert_gone(&server, "acme", ids[3], &job).await;
    server.kill();
    let server = site.start();
    server.ready().await;
    assert_gone(&server, "acme", ids[3], &job).await;
    assert_eq!(server.settled_usage(&globex, "globex").await["stored"], written);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(betrayers(&site), Vec::<PathBuf>::new());
    let verified = site.command(&["verify-store"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success() && text.contains("2 tenants, 1 of them deleted"), "{text}");
}

/// Writes until it is told to stop or nobody answers: new entries, and ids that come again with other content.
async fn write(url: String, token: String, stop: Arc<AtomicBool>, accepted: Arc<AtomicU64>) {
    let client = sluice::cli::client::plain().expect("a client");
    let (body, _) = data::bulk(10, SECRET);
    for round in 0.. {
        let body = if round % 2 == 0 {
            data::bulk(10, SECRET).0
        } else {
            body.replace("CREATE", &format!("ROUND-{round}"))
        };
        let sent = client
            .post(&url)
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        let Ok(answer) = sent else { return };
        match answer.status().as_u16() {
            201 => drop(accepted.fetch_add(10, Ordering::Relaxed)),
            403 | 429 | 503 | 504 => tokio::time::sleep(Duration::from_millis(1)).await,
            other => panic!("unexpected {other}"),
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_goes_on_after_a_kill_at_any_moment_while_the_tenant_writes() {
    let (site, mut rng) = (Site::small(), StdRng::seed_from_u64(5));
    let accepted = Arc::new(AtomicU64::new(0));
    for round in 0..8 {
        let name = format!("tenant-{round}");
        let mut server = site.start();
        let (token, platform) = (server.tenant(&name).await, platform(&server));
        let stop = Arc::new(AtomicBool::new(false));
        let url = server.url("/logs/bulk");
        let writers: Vec<_> = (0..3)
            .map(|_| tokio::spawn(write(url.clone(), token.clone(), stop.clone(), accepted.clone())))
            .collect();
        let before = accepted.load(Ordering::Relaxed);
        server.until(|| async { accepted.load(Ordering::Relaxed) > before + 300 }, "writes").await;
        let path = format!("/tenants/{name}?confirm={name}");
        let url = server.url(&path);
        let asked = server.client.delete(url).bearer_auth(&platform).send();
        // Killed before or after the answer, or not at all.
        let patience = Duration::from_micros(rng.random_range(0..30_000));
        let answered = tokio::time::timeout(patience, asked).await.is_ok();
        if answered {
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
        }
        stop.store(true, Ordering::Relaxed);
        server.kill();
        for writer in writers {
            writer.await.expect("no writer panicked");
        }
        let server = site.start();
        server.ready().await;
        if !answered {
            // Nobody was told anything: it happened, or it is asked for again.
            let again = delete(&server, &platform, &path).await.0;
            assert!([202, 404].contains(&again), "{again}");
        }
        finished(&site, &server, &name).await;
        assert_gone(&server, &name, Uuid::new_v4(), &Uuid::new_v4().to_string()).await;
        assert_eq!(
            files(&site.data().join("objects/deadletters").join(&name)),
            Vec::<PathBuf>::new(),
            "round {round}"
        );
        assert_eq!(server.stop(), Some(0));
        let verified = site.command(&["verify-store"]).output().expect("it runs");
        let text = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "round {round}: {text}");
    }
}
