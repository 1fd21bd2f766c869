//! An id is stored once per tenant, for ever: through flush, trimming of the log, and restart.

use crate::harness::{
    Site, assert_adds_up, data,
    stage::{Stage, told_to_both},
};
use serde_json::{Value, json};
use uuid::Uuid;

async fn repeats_and_conflicts_are_found_again_after_flush_trim_and_restart(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    let (body, ids) = data::bulk(200, "the first");
    let (status, answer) = server.post(&token, "/logs/bulk?wait=stored", body.clone()).await;
    assert_eq!(
        (status, &answer["decided"]),
        (201, &json!({"stored": 200, "duplicate": 0, "dead_lettered": 0})),
        "{answer}"
    );

    // Enough of another tenant's entries that the memtable is flushed and the first segment is trimmed.
    let other = server.tenant("globex").await;
    if let Stage::Embedded(site) = &stage {
        let first_segments = segments(site);
        for _ in 0..16 {
            let (filler, _) = data::bulk(500, &"filler ".repeat(80));
            assert_eq!(server.post(&other, "/logs/bulk", filler).await.0, 201);
        }
        server
            .until(
                || async { !parts(site).is_empty() && !segments(site).contains(&first_segments[0]) },
                "a part is written and the first segment is trimmed",
            )
            .await;
    }
    let again = |server: &crate::harness::Server| {
        server
            .client
            .post(server.url("/logs/bulk?wait=stored"))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body.clone())
    };
    let (status, answer) = crate::harness::answer(again(&server)).await;
    assert_eq!(
        (status, &answer["decided"]),
        (201, &json!({"stored": 0, "duplicate": 200, "dead_lettered": 0})),
        "{answer}"
    );

    assert_eq!(server.stop(), Some(0));
    let server = stage.start().await;
    server.ready().await;
    let (status, answer) = crate::harness::answer(again(&server)).await;
    assert_eq!(
        (status, &answer["decided"]),
        (201, &json!({"stored": 0, "duplicate": 200, "dead_lettered": 0})),
        "{answer}"
    );

    let conflict = data::entry(ids[7], "something else");
    let (status, answer) = server.post(&token, "/logs/bulk?wait=stored", Value::from(vec![conflict]).to_string()).await;
    assert_eq!(
        (status, &answer["decided"]),
        (201, &json!({"stored": 0, "duplicate": 0, "dead_lettered": 1})),
        "{answer}"
    );
    let (_, letters) = server.get(&token, "/deadletters").await;
    assert_eq!(letters["meta"]["total"], 1, "{letters}");
    assert_eq!(letters["data"][0]["reason"], "id_conflict");
    let one = letters["data"][0]["id"].as_str().expect("an id");
    assert_eq!(server.get(&token, &format!("/deadletters/{one}")).await.1["entry"]["message"], "something else");
    assert_eq!(server.get(&other, &format!("/deadletters/{one}")).await.0, 404, "another tenant's dead letter");

    let usage = server.settled_usage(&token, "acme").await;
    assert_adds_up(&usage);
    assert_eq!(
        (&usage["accepted"], &usage["stored"], &usage["duplicate"], &usage["dead_lettered"]),
        (&json!(601), &json!(200), &json!(400), &json!(1))
    );
    assert_eq!(server.everything(&token).await.len(), 200);
}

async fn an_idempotency_key_makes_a_resend_harmless(stage: Stage) {
    let server = stage.start().await;
    let token = server.tenant("acme").await;
    let body = json!([{"action": "A", "resource_type": "t", "resource_id": "1"}, {"action": "B", "resource_type": "t", "resource_id": "1"}]).to_string();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = server
            .client
            .post(server.url("/logs/bulk?wait=stored"))
            .bearer_auth(&token)
            .header("idempotency-key", "k-1")
            .body(body.clone());
        let (status, answer) = crate::harness::answer(request).await;
        assert_eq!(status, 201, "{answer}");
        ids.push(answer["ids"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(server.everything(&token).await.len(), 2);
    let usage = server.settled_usage(&token, "acme").await;
    assert_eq!((&usage["stored"], &usage["duplicate"]), (&json!(2), &json!(2)));
}

async fn one_id_belongs_to_each_tenant_apart(stage: Stage) {
    let server = stage.start().await;
    let (a, b) = (server.tenant("acme").await, server.tenant("globex").await);
    let id = Uuid::new_v4();
    for token in [&a, &b] {
        let (status, answer) = server
            .post(token, "/logs/bulk?wait=stored", Value::from(vec![data::entry(id, "mine")]).to_string())
            .await;
        assert_eq!((status, &answer["decided"]["stored"]), (201, &json!(1)), "{answer}");
    }
}

fn names(site: &Site, folder: &str, ending: &str) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(site.data().join(folder)) else {
        return Vec::new();
    };
    let mut names: Vec<String> = files
        .map(|f| f.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(ending))
        .collect();
    names.sort();
    names
}

fn segments(site: &Site) -> Vec<String> {
    names(site, "wal", ".seg")
}

fn parts(site: &Site) -> Vec<String> {
    names(site, "parts", ".parquet")
}

told_to_both!(
    repeats_and_conflicts_are_found_again_after_flush_trim_and_restart,
    an_idempotency_key_makes_a_resend_harmless,
    one_id_belongs_to_each_tenant_apart
);
