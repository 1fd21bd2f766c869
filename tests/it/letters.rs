//! Dead letters against the real binary: replays, deletions and conflicts at random, with `kill -9` in between; retention; the
//! command line.

use crate::harness::{Server, Site, assert_adds_up, assert_dense, data};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Output, Stdio},
};
use uuid::Uuid;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

async fn letters(server: &Server, token: &str) -> BTreeMap<String, Value> {
    let (mut all, mut page) = (BTreeMap::new(), 1);
    loop {
        let (status, got) = server.get(token, &format!("/deadletters?page_size=7&page={page}")).await;
        assert_eq!(status, 200, "{got}");
        let data = got["data"].as_array().expect("a list");
        if data.is_empty() {
            assert_eq!(got["meta"]["total"], all.len() as u64);
            return all;
        }
        all.extend(data.iter().map(|l| (l["id"].as_str().expect("an id").to_owned(), l.clone())));
        page += 1;
    }
}

/// Two contents for some ids: the second ones become dead letters. They are replayed and deleted at random while the process is
/// killed, also in the middle of a replay. Nothing is stored twice, nothing comes back, and the books are right.
#[tokio::test(flavor = "multi_thread")]
async fn replays_deletions_and_kills_in_any_order_store_everything_once() {
    let site = Site::small();
    let mut dice = Dice(7);
    let mut server = site.start();
    let mut token = server.tenant("acme").await;
    // Message of each entry that must be there in the end, of letters that were deleted, and what was accepted by number.
    let (mut must, mut gone, mut sent) = (BTreeSet::new(), BTreeSet::new(), 0u64);
    let mut replays = 0u64;
    let mut ids = Vec::new();
    for round in 0..8 {
        let fresh: Vec<Value> = (0..5 + dice.below(5))
            .map(|i| {
                let id = Uuid::new_v4();
                ids.push(id);
                must.insert(format!("first {round} {i}"));
                data::entry(id, &format!("first {round} {i}"))
            })
            .collect();
        let conflicting: Vec<Value> = (0..1 + dice.below(12))
            .map(|i| {
                let id = ids[dice.below(ids.len())];
                data::entry(id, &format!("second {round} {i}"))
            })
            .collect();
        for body in [fresh, conflicting] {
            sent += body.len() as u64;
            let (status, got) = server.post(&token, "/logs/bulk?wait=stored", Value::from(body).to_string()).await;
            assert_eq!(status, 201, "{got}");
        }
        let found = letters(&server, &token).await;
        let mut keys: Vec<&String> = found.keys().collect();
        for _ in 0..keys.len().min(1 + dice.below(8)) {
            let id = keys.swap_remove(dice.below(keys.len()));
            let message = found[id]["entry"]["message"].as_str().expect("text").to_owned();
            if dice.below(3) == 0 {
                let delete = server.client.delete(server.url(&format!("/deadletters/{id}"))).bearer_auth(&token);
                assert_eq!(delete.send().await.expect("it answers").status(), 204);
                gone.insert(message);
            } else {
                let (status, got) = server.post(&token, &format!("/deadletters/{id}/replay"), "").await;
                assert_eq!((status, got["message"].as_str()), (201, Some(&*message)), "{got}");
                must.insert(message);
                replays += 1;
            }
        }
        // The last one is perhaps cut short, so it is done again if its letter is still there.
        if let Some(id) = keys.pop() {
            let message = found[id]["entry"]["message"].as_str().expect("text").to_owned();
            let request = server.client.post(server.url(&format!("/deadletters/{id}/replay"))).bearer_auth(&token).send();
            let cut_short = tokio::spawn(request);
            for _ in 0..dice.below(2_000) {
                tokio::task::yield_now().await;
            }
            server.kill();
            let answered = cut_short.await.expect("no panic").is_ok_and(|answer| answer.status() == 201);
            server = site.start();
            server.ready().await;
            token = server.token(Some("acme"), &["admin"]);
            let there = letters(&server, &token).await.contains_key(id);
            assert!(!(answered && there), "an answer came, and the letter is still there");
            if there {
                let (status, got) = server.post(&token, &format!("/deadletters/{id}/replay"), "").await;
                assert_eq!(status, 201, "{got}");
            }
            must.insert(message);
        } else {
            server.kill();
            server = site.start();
            server.ready().await;
        }
        let left = letters(&server, &token).await;
        for letter in left.values() {
            let message = letter["entry"]["message"].as_str().expect("text");
            assert!(!must.contains(message) && !gone.contains(message), "a letter came back: {message}");
        }
        // A replay promises that the new pack is durable, not that it is decided: wait for that before looking.
        let usage = server.settled_usage(&token, "acme").await;
        assert_adds_up(&usage);
        let entries = server.everything(&token).await;
        assert_dense(&entries);
        let mut messages: Vec<String> = entries.iter().map(|e| e["message"].as_str().expect("text").to_owned()).collect();
        messages.sort();
        assert_eq!(messages, must.iter().cloned().collect::<Vec<_>>(), "everything once and nothing else");
        let n = |key: &str| usage[key].as_u64().expect("a number");
        assert_eq!(n("stored"), must.len() as u64, "{usage}");
        assert!(n("accepted") >= sent + replays, "{usage}");
        assert!(n("dead_lettered") >= (left.len() + gone.len()) as u64, "{usage}");
    }
    assert!(replays > 10 && gone.len() > 3, "{replays} replays, {} deletions", gone.len());
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_shows_replays_and_deletes() {
    let site = Site::plain();
    let server = site.start();
    let token = server.tenant("acme").await;
    let (body, ids) = data::bulk(6, "the first");
    assert_eq!(server.post(&token, "/logs/bulk?wait=stored", body).await.0, 201);
    for (i, id) in ids.iter().enumerate() {
        let entry = data::entry(*id, &format!("the second {i}"));
        assert_eq!(server.post(&token, "/logs?wait=stored", entry.to_string()).await.0, 201);
    }
    let command = |args: &[&str]| {
        let mut command = site.command(args);
        command.env("SLUICE_URL", format!("http://{}", server.http)).env("SLUICE_TENANT", "acme");
        command
    };
    let run = |args: &[&str]| said(&command(args).output().expect("it runs"));

    let (code, out, err) = run(&["deadletters", "list", "--limit", "4"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (Some(0), 5, "4 of 6 dead letters\n"), "{out}");
    assert!(
        out.starts_with("ID ") && out.contains("id_conflict") && out.contains("CREATE invoice inv-1"),
        "{out}"
    );
    for args in [
        &["deadletters", "--json"][..],
        &["deadletters", "list", "--json", "--reason", "id_conflict", "--tenant", "acme"],
    ] {
        let (code, out, err) = run(args);
        let all: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"));
        assert_eq!((code, all.len()), (Some(0), 6), "{args:?}");
    }
    let (code, out, _) = run(&["deadletters", "--json", "--reason", "poison"]);
    assert_eq!((code, out.as_str()), (Some(0), "[]\n"));
    let all: Vec<Value> = serde_json::from_str(&run(&["deadletters", "list", "--json"]).1).expect("a list");
    let id = |i: usize| all[i]["id"].as_str().expect("an id");

    let (code, out, _) = run(&["deadletters", "show", id(0)]);
    let shown: Value = serde_json::from_str(&out).expect("a letter");
    assert_eq!((code, &shown), (Some(0), &all[0]));

    let (code, out, _) = run(&["deadletters", "replay", id(0)]);
    assert!(code == Some(0) && out.starts_with(&format!("{} was accepted as entry ", id(0))), "{out}");
    let (code, out, err) = run(&["deadletters", "replay", id(0)]);
    assert!(code == Some(1) && out.is_empty() && err.contains("was not replayed: 404: not_found"), "{err}");

    let mut corrected = all[1]["entry"].clone();
    corrected["id"] = Value::Null;
    corrected["message"] = "corrected".into();
    let file = site.folder.path().join("entry.json");
    std::fs::write(&file, corrected.to_string()).expect("written");
    let (code, out, err) = run(&["deadletters", "replay", id(1), "--json", "--entry", file.to_str().expect("text")]);
    let line: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"));
    assert_eq!((code, &line["id"], &line["entry"]["message"]), (Some(0), &all[1]["id"], &json!("corrected")));

    let piped = |text: &str| {
        let mut child = command(&["deadletters", "replay", id(2), "--entry", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
        said(&child.wait_with_output().expect("it ends"))
    };
    let (code, _, err) = piped(r#"{"action": "A"}"#);
    assert!(code == Some(64) && err.contains("resource_type: required: "), "{code:?} {err}");
    let (code, _, err) = piped(" ");
    assert!(code == Some(64) && err.contains("is empty"), "{code:?} {err}");
    let (code, out, err) = piped(r#"{"action": "A", "resource_type": "t", "resource_id": "1"}"#);
    assert!(code == Some(0) && out.contains("was accepted"), "{code:?} {err}");

    let (code, out, _) = run(&["deadletters", "delete", id(3)]);
    assert_eq!((code, out), (Some(0), format!("{} was deleted\n", id(3))));
    let (code, _, err) = run(&["deadletters", "delete", id(3)]);
    assert!(code == Some(1) && err.contains("404"), "{err}");
    let (code, _, err) = run(&["deadletters", "list", "--reason", "bad mood"]);
    assert!(code == Some(64) && err.contains("`reason` is one of"), "{err}");
    for wrong in [
        &["deadletters", "show"][..],
        &["deadletters", "replay"],
        &["deadletters", "replay", "nonsense"],
        &["deadletters", "replay", "--all", id(4)],
        &["deadletters", "replay", id(4), "--reason", "poison"],
        &["deadletters", "replay", "--all", "--entry", "x"],
    ] {
        assert_eq!(run(wrong).0, Some(64), "{wrong:?}");
    }

    // Of those that are left one is refused now.
    let settings = json!({"settings": {"log_levels": ["ERROR"]}}).to_string();
    let put = |body: String| {
        server
            .client
            .put(server.url("/tenants/acme"))
            .bearer_auth(&token)
            .body(body)
            .header("content-type", "application/json")
            .send()
    };
    assert_eq!(put(settings).await.expect("it answers").status(), 200);
    let (code, out, err) = run(&["deadletters", "replay", "--all"]);
    assert!(
        code == Some(2) && out.is_empty() && err.contains("severity_not_accepted") && err.ends_with("replayed=0 refused=2\n"),
        "{err}"
    );
    let settings = json!({"settings": {"log_levels": ["INFO"]}}).to_string();
    assert_eq!(put(settings).await.expect("it answers").status(), 200);
    let (code, out, err) = run(&["deadletters", "replay", "--all", "--json", "--reason", "id_conflict"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (Some(0), 2, "replayed=2 refused=0\n"), "{out}");
    assert_eq!(run(&["deadletters"]).2, "0 of 0 dead letters\n");
    let usage = server.settled_usage(&token, "acme").await;
    assert_adds_up(&usage);
    assert_eq!((&usage["stored"], &usage["dead_lettered"]), (&json!(6 + 5), &json!(6)));
}

/// Settings over HTTP on the real process, where a write follows the change at once.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_in_force_for_the_next_request_and_after_a_restart() {
    let site = Site::plain();
    let server = site.start();
    let token = server.tenant("acme").await;
    async fn put(server: &Server, token: &str, settings: Value) {
        let request = server.client.put(server.url("/tenants/acme")).bearer_auth(token);
        let request = request
            .header("content-type", "application/json")
            .body(json!({ "settings": settings }).to_string());
        let (status, got) = crate::harness::answer(request).await;
        assert_eq!(status, 200, "{got}");
    }
    async fn write(server: &Server, token: &str) -> u16 {
        let entry = json!({"action": "A", "resource_type": "t", "resource_id": "1", "severity": "WARNING", "colour": "red"});
        server.post(token, "/logs", entry.to_string()).await.0
    }
    for _ in 0..20 {
        put(&server, &token, json!({"keep_unknown_fields": false})).await;
        assert_eq!(write(&server, &token).await, 422);
        put(&server, &token, json!({"keep_unknown_fields": true})).await;
        assert_eq!(write(&server, &token).await, 201);
        put(&server, &token, json!({"log_levels": ["INFO"]})).await;
        assert_eq!(write(&server, &token).await, 422);
        put(&server, &token, json!({"log_levels": ["INFO", "WARNING"]})).await;
    }
    put(&server, &token, json!({"log_levels": ["INFO"]})).await;
    assert_eq!(server.stop(), Some(0));
    let server = site.start();
    server.ready().await;
    assert_eq!(write(&server, &server.token(Some("acme"), &["admin"])).await, 422);
}
