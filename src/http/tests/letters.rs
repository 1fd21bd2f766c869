//! Dead letters: filters, replay, deletion.

use super::*;
use crate::sinks::dead_letter::DeadLetter;

impl Bench {
    /// Makes a dead letter: an entry under an id that belongs to another one. Gives the letter.
    async fn letter(&self, i: usize) -> Value {
        let id = Uuid::from_u128(0x8000 + i as u128).to_string();
        for text in ["the first", "the second"] {
            let mut entry = entry(i);
            entry["id"] = id.clone().into();
            entry["message"] = text.into();
            entry["timestamp"] = "2024-01-31T12:00:00.123Z".into();
            assert_eq!(self.post("/logs", &entry).await.status, 201);
        }
        let found = self.get(&format!("/deadletters?entry_id={id}")).await.json();
        assert_eq!(found["meta"]["total"], 1, "{found}");
        found["data"][0].clone()
    }

    async fn replay(&self, letter: &Value, query: &str, body: impl Into<Body>) -> Got {
        let path = format!("/api/v1/deadletters/{}/replay{query}", letter["id"].as_str().expect("an id"));
        self.call("POST", &path, &token(Some("acme"), "admin"), body).await
    }

    async fn letters(&self) -> u64 {
        self.get("/deadletters").await.json()["meta"]["total"].as_u64().expect("a number")
    }
}

#[tokio::test]
async fn a_replay_is_a_new_acceptance_that_keeps_time_and_content() {
    let bench = Bench::new().await;
    let letter = bench.letter(1).await;
    let got = bench.replay(&letter, "", "").await;
    assert_eq!(got.status, 201);
    let entry = got.json();
    let mut want = letter["entry"].clone();
    for field in ["id", "received_at"] {
        want[field] = entry[field].clone();
    }
    assert_eq!(entry, want, "everything else is as it was sent");
    assert_ne!(entry["id"], letter["entry_id"]);
    assert_eq!(got.headers["location"], format!("/api/v1/logs/{}", entry["id"].as_str().expect("an id")));
    let stored = bench.get(&format!("/logs/{}", entry["id"].as_str().expect("an id"))).await.json();
    assert_eq!((&stored["message"], &stored["sequence"]), (&"the second".into(), &2.into()));
    assert_eq!(bench.letters().await, 0);
    bench.replay(&letter, "", "").await.problem(404, "not_found");
    let usage = bench.get("/tenants/acme/usage").await.json();
    assert_eq!(
        (&usage["accepted"], &usage["stored"], &usage["dead_lettered"]),
        (&3.into(), &2.into(), &1.into())
    );
}

#[tokio::test]
async fn a_replay_that_was_cut_short_before_the_letter_went_stores_nothing_twice() {
    let bench = Bench::new().await;
    let letter = bench.letter(1).await;
    let letters = &bench.services.dead_letters;
    let id = Uuid::try_parse(letter["id"].as_str().expect("an id")).expect("a UUID");
    let scope = TenantScope::new(TenantId::parse("acme").expect("a tenant"));
    // The pack was durable and the process died: the same letter, and the entry in the store.
    let found = letters.find(&scope, id).await.expect("read").expect("there");
    let mut first = letter["entry"].clone();
    first["id"] = DeadLetter::replay_id(&found.letter, scope.tenant()).to_string().into();
    let object = first.as_object_mut().expect("an object");
    for name in ["received_at", "actor", "sequence", "tenant_id", "user_id", "severity"] {
        object.remove(name); // what the server made
    }
    object.retain(|_, value| !value.is_null());
    assert_eq!(bench.post("/logs", &first).await.status, 201);
    let got = bench.replay(&letter, "?wait=stored", "").await.json();
    assert_eq!(got["decided"], json!({"stored": 0, "duplicate": 1, "dead_lettered": 0}), "{got}");
    assert_eq!((bench.letters().await, bench.get("/logs").await.json()["meta"]["total"].as_u64()), (0, Some(2)));
}

#[tokio::test]
async fn what_could_not_be_decided_keeps_its_id_and_is_the_same_entry_to_its_sender() {
    let bench = Bench::new().await;
    let mut sent = entry(1);
    sent["id"] = Uuid::from_u128(0x77).to_string().into();
    // Larger as it is shown than as it was sent: every sign of the message takes three times as much.
    sent["message"] = "\u{8}".repeat(16 << 10).into();
    sent["metadata"] = json!({"digits": 1, "more": {"text": "x".repeat(150 << 10)}});
    bench.shelf.with(|state| state.poisons = true);
    assert_eq!(bench.post("/logs", &sent).await.status, 201);
    bench.shelf.with(|state| state.poisons = false);
    let letter = bench.get("/deadletters?reason=poison").await.json()["data"][0].clone();
    let entry = bench.replay(&letter, "", "  ").await.json();
    assert_eq!(
        (&entry["id"], &entry["message"], &entry["timestamp"]),
        (&sent["id"], &sent["message"], &letter["entry"]["timestamp"])
    );
    let again = bench.post("/logs?wait=stored", &sent).await.json();
    assert_eq!(again["decided"]["duplicate"], 1, "{}", again["decided"]);
    assert_eq!(bench.letters().await, 0);
}

#[tokio::test]
async fn a_corrected_entry_is_checked_like_any_other() {
    let bench = Bench::new().await;
    let letter = bench.letter(1).await;
    for (body, field, code) in [
        (json!({}), "action", "required"),
        (
            json!({"action": "A", "resource_type": "t", "resource_id": "1", "colour": "red"}),
            "colour",
            "unknown_field",
        ),
        (
            json!({"action": "A", "resource_type": "t", "resource_id": "1", "tenant_id": "globex"}),
            "tenant_id",
            "tenant_mismatch",
        ),
        (
            json!({"action": "A", "resource_type": "t", "resource_id": "1", "actor": "somebody else"}),
            "actor",
            "unknown_field",
        ),
        (
            json!({"action": "A", "resource_type": "t", "resource_id": "1", "id": letter["entry_id"]}),
            "id",
            "id_conflict",
        ),
    ] {
        let problem = bench.replay(&letter, "", body.to_string()).await.problem(422, "invalid_entry");
        let named = problem["errors"]
            .as_array()
            .expect("errors")
            .iter()
            .any(|e| e["field"] == field && e["code"] == code);
        assert!(named, "{body}: {problem}");
    }
    bench.replay(&letter, "", "{").await.problem(422, "invalid_body");
    bench.replay(&letter, "", "[]").await.problem(422, "invalid_body");
    bench.replay(&letter, "", "null").await.problem(422, "invalid_body");
    bench.replay(&letter, "?wait=5", "").await.problem(422, "invalid_parameter");
    assert_eq!((bench.letters().await, bench.packs()), (1, 2), "nothing was kept and nothing went");

    // What the letter shows may be sent back, corrected, without an id of one's own.
    let mut corrected = letter["entry"].clone();
    corrected["message"] = "corrected".into();
    corrected.as_object_mut().expect("an object").remove("id");
    let got = bench.replay(&letter, "", corrected.to_string()).await;
    assert_eq!(got.status, 201, "{}", got.json());
    let entry = got.json();
    assert_eq!(
        (&entry["message"], &entry["timestamp"]),
        (&"corrected".into(), &"2024-01-31T12:00:00.123Z".into())
    );
    assert_eq!(bench.letters().await, 0);

    let letter = bench.letter(2).await;
    let body = json!({"entry": {"id": Uuid::from_u128(77).to_string(), "action": "A", "resource_type": "t", "resource_id": "1"}});
    let entry = bench.replay(&letter, "", body.to_string()).await.json();
    assert_eq!(
        (&entry["id"], &entry["action"]),
        (&Uuid::from_u128(77).to_string().into(), &"A".into()),
        "{entry}"
    );
    assert_eq!(
        entry["timestamp"], "2024-01-31T12:00:00.123Z",
        "the time of what happened, where no other is given"
    );
}

#[tokio::test]
async fn a_replay_that_is_not_taken_keeps_the_letter() {
    let bench = Bench::new().await;
    let letter = bench.letter(1).await;
    let retry_after = Duration::from_secs(3);
    for (refusal, status, code) in [
        (AcceptError::TenantFull { retry_after }, 429, "overloaded"),
        (
            AcceptError::Unavailable {
                reason: "it is stopping",
                retry_after,
            },
            503,
            "unavailable",
        ),
        (AcceptError::Unknown, 504, "unknown_outcome"),
    ] {
        bench.shelf.with(|state| state.refusal = Some(refusal));
        let problem = bench.replay(&letter, "", "").await.problem(status, code);
        assert_eq!(problem["ids"].as_array().map(Vec::len), (status == 504).then_some(1));
    }
    bench.shelf.with(|state| state.refusal = None);
    assert_eq!(bench.letters().await, 1);
    // The tenant's settings hold, also for what was accepted before.
    let settings = r#"{"settings":{"log_levels":["ERROR"]}}"#;
    let put = bench.call("PUT", "/api/v1/tenants/acme", &token(Some("acme"), "admin"), settings).await;
    assert_eq!(put.status, 200);
    let problem = bench.replay(&letter, "", "").await.problem(422, "invalid_entry");
    assert_eq!(problem["errors"][0]["code"], "severity_not_accepted");
    assert_eq!(bench.letters().await, 1);
}

#[tokio::test]
async fn only_one_at_a_time_has_a_letter_in_hand() {
    let bench = Bench::new().await;
    let letter = bench.letter(1).await;
    let id = Uuid::try_parse(letter["id"].as_str().expect("an id")).expect("a UUID");
    let scope = |tenant: &str| TenantScope::new(TenantId::parse(tenant).expect("a tenant"));
    let in_hand = crate::http::letters::InHand::take(&bench.app, &scope("acme"), &id.to_string()).expect("free");
    bench.replay(&letter, "", "").await.problem(409, "in_progress");
    let path = format!("/api/v1/deadletters/{id}");
    bench.call("DELETE", &path, &token(Some("acme"), "admin"), "").await.problem(409, "in_progress");
    // Another tenant learns nothing of it.
    bench.call("DELETE", &path, &token(Some("globex"), "admin"), "").await.problem(404, "not_found");
    drop(in_hand);
    let both = futures_util::future::join(bench.replay(&letter, "", ""), bench.replay(&letter, "", "")).await;
    let mut statuses = [both.0.status.as_u16(), both.1.status.as_u16()];
    statuses.sort_unstable();
    assert!(statuses[0] == 201 && matches!(statuses[1], 404 | 409), "{statuses:?}");
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 2);
}

#[tokio::test]
async fn a_deleted_letter_is_gone_and_only_its_tenants_admin_may_delete_it() {
    let bench = Bench::new().await;
    let letter = bench.letter(1).await;
    let path = format!("/api/v1/deadletters/{}", letter["id"].as_str().expect("an id"));
    for role in ["writer", "viewer", "auditor"] {
        bench.call("DELETE", &path, &token(Some("acme"), role), "").await.problem(403, "forbidden");
        bench
            .call("POST", &format!("{path}/replay"), &token(Some("acme"), role), "")
            .await
            .problem(403, "forbidden");
    }
    let foreign = token(Some("globex"), "admin");
    let unknown = "/api/v1/deadletters/0190a3b4-0000-7000-8000-000000000001";
    for (method, path) in [("DELETE", path.clone()), ("POST", format!("{path}/replay")), ("GET", path.clone())] {
        bench.call(method, &path, &foreign, "").await.problem(404, "not_found");
    }
    let admin = token(Some("acme"), "admin");
    for (method, path) in [
        ("DELETE", unknown.to_owned()),
        ("POST", format!("{unknown}/replay")),
        ("DELETE", "/api/v1/deadletters/nonsense".to_owned()),
        ("POST", "/api/v1/deadletters/nonsense/replay".to_owned()),
    ] {
        bench.call(method, &path, &admin, "").await.problem(404, "not_found");
    }
    let got = bench.call("DELETE", &path, &admin, "").await;
    assert_eq!((got.status.as_u16(), got.bytes.len()), (204, 0));
    for method in ["DELETE", "GET"] {
        bench.call(method, &path, &admin, "").await.problem(404, "not_found");
    }
    assert_eq!((bench.letters().await, bench.packs()), (0, 2));
    let usage = bench.get("/tenants/acme/usage").await.json();
    assert_eq!(usage["dead_lettered"], 1, "what happened has happened");
}

#[tokio::test]
async fn letters_are_filtered_and_bad_filters_named() {
    let bench = Bench::new().await;
    let letters = [bench.letter(1).await, bench.letter(2).await, bench.letter(3).await];
    let entry = letters[1]["entry_id"].as_str().expect("an id");
    let decided = letters[2]["sealed_at"].as_str().expect("a time");
    for (query, total) in [
        (String::new(), 3),
        ("reason=id_conflict".to_owned(), 3),
        ("reason=poison".to_owned(), 0),
        ("reason=poison,id_conflict".to_owned(), 3),
        ("reason=poison&reason=id_conflict".to_owned(), 3),
        (format!("entry_id={entry}"), 1),
        (format!("entry_id={entry}&entry_id={}", letters[0]["entry_id"].as_str().expect("an id")), 2),
        (format!("entry_id={entry}&reason=poison"), 0),
        ("from=2020-01-01".to_owned(), 3),
        ("to=2020-01-01".to_owned(), 0),
        (format!("to={decided}"), 3 - letters.iter().filter(|l| l["sealed_at"] == decided).count()),
    ] {
        let got = bench.get(&format!("/deadletters?{query}&page_size=1")).await.json();
        assert_eq!(
            (&got["meta"]["total"], got["data"].as_array().map(Vec::len)),
            (&total.into(), Some(total.min(1))),
            "{query}"
        );
    }
    assert_eq!(
        bench.get("/deadletters?page=2&page_size=2").await.json()["data"].as_array().map(Vec::len),
        Some(1)
    );
    let beyond = bench.get("/deadletters?page=1000000&page_size=1000").await.json();
    assert_eq!(
        (&beyond["meta"]["total"], &beyond["data"]),
        (&3.into(), &json!([])),
        "no depth limit, as there is no cursor"
    );
    for (query, field) in [
        ("reason=SECRET", "reason"),
        ("reason=", "reason"),
        ("entry_id=SECRET", "entry_id"),
        ("from=SECRET", "from"),
        ("to=SECRET", "to"),
        ("page=0", "page"),
        ("resaon=poison", "resaon"),
        ("to=2020-01-01&to=2021-01-01", "to"),
    ] {
        let problem = bench.get(&format!("/deadletters?{query}")).await.problem(422, "invalid_parameter");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(!problem.to_string().contains("SECRET"), "{problem}");
    }
}
