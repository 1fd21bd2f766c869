//! `POST /logs` and `POST /logs/bulk`.

use super::*;
use axum::body::Bytes;

#[tokio::test]
async fn one_entry_comes_back_as_taken_with_its_location() {
    let bench = Bench::new().await;
    let got = bench.post("/logs", &entry(1)).await;
    assert_eq!(got.status, 201);
    let json = got.json();
    assert_eq!(got.headers["location"], format!("/api/v1/logs/{}", json["id"].as_str().expect("an id")));
    assert_eq!(
        (&json["action"], &json["tenant_id"], &json["actor"], &json["sequence"], &json["user_id"]),
        (&json!("LOGIN"), &json!("acme"), &json!("ann"), &Value::Null, &json!("ann"))
    );
    for field in ["received_at", "timestamp", "severity", "email", "metadata", "before_state"] {
        assert!(json.get(field).is_some(), "{field} is there, null or not");
    }
    let again = bench
        .call("GET", got.headers["location"].to_str().expect("text"), &token(Some("acme"), "viewer"), "")
        .await;
    assert_eq!(again.json()["sequence"], 1);
}

#[tokio::test]
async fn an_invalid_entry_is_422_with_every_mistake_and_a_too_large_one_413() {
    let bench = Bench::new().await;
    let got = bench.post("/logs", &json!({"action": "", "resource_type": "a", "colour": 1})).await;
    let problem = got.problem(422, "invalid_entry");
    let mut codes: Vec<_> = problem["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| e["code"].as_str().expect("text"))
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, ["empty", "required", "unknown_field"]);
    assert!(problem["errors"][0].get("index").is_none(), "one entry has no index");
    let large = json!({"action": "a", "resource_type": "b", "resource_id": "c", "metadata": {"k": "x".repeat(257 << 10)}});
    bench.post("/logs", &large).await.problem(413, "too_large");
    bench.post("/logs", &json!([entry(1)])).await;
    assert_eq!(bench.packs(), 0, "nothing was kept");
}

#[tokio::test]
async fn bulk_is_201_all_207_some_422_none() {
    let bench = Bench::new().await;
    let bad = json!({"action": "x"});
    for (entries, status, accepted, rejected) in [
        (json!([entry(1), entry(2)]), 201, 2, 0),
        (json!({"logs": [entry(3)]}), 201, 1, 0),
        (json!([entry(1), bad, entry(2)]), 207, 2, 1),
        (json!([bad, bad]), 422, 0, 2),
    ] {
        let got = bench.post("/logs/bulk", &entries).await;
        let json = got.json();
        assert_eq!(got.status, status, "{json}");
        assert_eq!(
            (&json["accepted"], &json["rejected"], &json["duplicates"]),
            (&json!(accepted), &json!(rejected), &json!(0))
        );
        let ids = json["ids"].as_array().expect("ids");
        assert_eq!(ids.len(), accepted + rejected, "in input order, all of them");
        assert_eq!(ids.iter().filter(|id| id.is_null()).count(), rejected);
        if rejected > 0 {
            let error = &json["errors"][0];
            assert!(error["index"].is_u64() && error["field"].is_string() && error["code"] == "required" && error["message"].is_string());
        }
        if status == 422 {
            got.problem(422, "all_rejected");
        }
    }
    assert_eq!(bench.packs(), 3);
}

#[tokio::test]
async fn ids_can_be_left_out_and_repeats_inside_a_request_are_counted() {
    let bench = Bench::new().await;
    let mut one = entry(1);
    one["id"] = json!("0190a3b4-0000-7000-8000-000000000001");
    let got = bench.post("/logs/bulk?ids=false&wait=stored", &json!([one, one, entry(2)])).await;
    let json = got.json();
    assert!(json.get("ids").is_none(), "{json}");
    assert_eq!((&json["accepted"], &json["duplicates"]), (&json!(3), &json!(1)));
    assert_eq!(json["decided"], json!({"stored": 2, "duplicate": 1, "dead_lettered": 0}));
    bench.post("/logs/bulk?ids=maybe", &json!([entry(1)])).await.problem(422, "invalid_parameter");
}

#[tokio::test]
async fn what_cannot_be_read_as_a_whole_is_refused_with_nothing_kept() {
    let bench = Bench::new().await;
    let admin = token(Some("acme"), "admin");
    let many = format!("[{}]", vec!["{}"; 10_001].join(","));
    for (body, content_type, status, code) in [
        ("[]", "application/json", 422, "invalid_body"),
        (r#"{"logs":[]}"#, "application/json", 422, "invalid_body"),
        (
            r#"[{"action":"a","resource_type":"b","resource_id":"c"}"#,
            "application/json",
            422,
            "invalid_body",
        ),
        ("", "application/json", 422, "invalid_body"),
        ("\n\n", "application/x-ndjson", 422, "invalid_body"),
        ("action=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("[]", "text/plain", 415, "unsupported_media_type"),
        (&many, "application/json", 413, "too_many_entries"),
    ] {
        let request = request("POST", "/api/v1/logs/bulk", &admin).header("content-type", content_type);
        bench.send(request.body(body.to_owned().into()).expect("a request")).await.problem(status, code);
    }
    let request = request("POST", "/api/v1/logs", &admin).header("content-type", "application/x-ndjson");
    bench
        .send(request.body("{}".into()).expect("a request"))
        .await
        .problem(415, "unsupported_media_type");
    assert_eq!(bench.packs(), 0);
}

#[tokio::test]
async fn a_form_type_or_none_is_json_and_ndjson_lines_fail_alone() {
    let bench = Bench::new().await;
    let admin = token(Some("acme"), "admin");
    let request_of = |content_type: &str| request("POST", "/api/v1/logs/bulk", &admin).header("content-type", content_type);
    let form = request_of("application/x-www-form-urlencoded").body(json!([entry(1)]).to_string().into());
    assert_eq!(bench.send(form.expect("a request")).await.status, 201);
    let lines = format!("{}\n\n{{oops\n{}\r\n", entry(1), entry(2));
    let got = bench.send(request_of("application/x-ndjson").body(lines.into()).expect("a request")).await;
    let json = got.json();
    assert_eq!(
        (got.status.as_u16(), &json["accepted"], &json["rejected"]),
        (207, &json!(2), &json!(1)),
        "{json}"
    );
    assert_eq!(json["errors"][0]["code"], "malformed_json");
}

#[tokio::test]
async fn compressed_bodies_are_read_and_the_limit_holds_for_what_they_become() {
    let bench = Bench::new().await;
    let admin = token(Some("acme"), "admin");
    let plain = json!((0..500).map(entry).collect::<Vec<_>>()).to_string();
    let packed = zstd::encode_all(plain.as_bytes(), 1).expect("memory");
    let send = |body: Vec<u8>, encoding: &str| {
        let request = request("POST", "/api/v1/logs/bulk", &admin).header("content-encoding", encoding);
        bench.send(request.body(Bytes::from(body).into()).expect("a request"))
    };
    let got = send(packed.clone(), "zstd").await;
    assert_eq!((got.status.as_u16(), &got.json()["accepted"]), (201, &json!(500)));
    send(packed[..packed.len() - 9].to_vec(), "zstd").await.problem(422, "invalid_body");
    send(plain.into_bytes(), "gzip").await.problem(422, "invalid_body");
    send(packed, "br").await.problem(415, "unsupported_encoding");
    let bomb = zstd::encode_all(&vec![b' '; 17 << 20][..], 1).expect("memory");
    send(bomb, "zstd").await.problem(413, "too_large");
    let large = send(vec![b' '; (16 << 20) + 1], "identity").await;
    large.problem(413, "too_large");
    assert_eq!(bench.packs(), 1);
}

#[tokio::test]
async fn a_large_body_is_parsed_off_the_reactor_with_the_same_answer() {
    let bench = Bench::new().await;
    let entries = json!((0..5000).map(entry).collect::<Vec<_>>());
    assert!(entries.to_string().len() > bench.services.settings.inline_bytes);
    let got = bench.post("/logs/bulk", &entries).await;
    assert_eq!((got.status.as_u16(), &got.json()["accepted"]), (201, &json!(5000)));
}

#[tokio::test]
async fn wait_stored_says_what_was_decided_or_202() {
    let bench = Bench::new().await;
    let mut one = entry(1);
    one["id"] = json!("0190a3b4-0000-7000-8000-000000000001");
    let got = bench.post("/logs?wait=stored", &one).await;
    assert_eq!((got.status.as_u16(), &got.json()["sequence"]), (201, &json!(1)), "its number is known");
    assert_eq!(got.json()["decided"]["stored"], 1);
    let again = bench.post("/logs?wait=stored", &one).await.json();
    assert_eq!((&again["decided"]["duplicate"], &again["sequence"]), (&json!(1), &json!(1)));
    one["message"] = json!("other content");
    let conflict = bench.post("/logs?wait=stored", &one).await.json();
    assert_eq!((&conflict["decided"]["dead_lettered"], &conflict["sequence"]), (&json!(1), &Value::Null));
    assert_eq!(conflict["message"], "other content");
    bench.shelf.with(|state| state.holds = true);
    let late = bench.post("/logs/bulk?wait=stored", &json!([entry(2)])).await;
    assert_eq!(late.status, 202);
    assert!(late.json()["ids"][0].is_string() && late.json()["decided"].is_null());
    let late = bench.post("/logs?wait=stored", &entry(3)).await;
    assert_eq!((late.status.as_u16(), late.json()["ids"][0].is_string()), (202, true));
    bench.post("/logs?wait=yes", &entry(4)).await.problem(422, "invalid_parameter");
}

#[tokio::test]
async fn an_idempotency_key_makes_the_same_ids_again() {
    let bench = Bench::new().await;
    let admin = token(Some("acme"), "admin");
    let send = |key: &'static str| {
        let request = request("POST", "/api/v1/logs/bulk", &admin).header("idempotency-key", key);
        bench.send(request.body(json!([entry(1), entry(2)]).to_string().into()).expect("a request"))
    };
    let (a, b, c) = (send("k1").await.json(), send("k1").await.json(), send("k2").await.json());
    assert_eq!(a["ids"], b["ids"]);
    assert_ne!(a["ids"], c["ids"]);
    send("").await.problem(422, "invalid_parameter");
}

#[tokio::test]
async fn failures_of_the_queue_have_their_status_and_504_names_the_ids() {
    let bench = Bench::new().await;
    let retry_after = Duration::from_millis(1500);
    let body = json!([{"action": "x"}, entry(1)]);
    for (error, status, code) in [
        (AcceptError::TenantFull { retry_after }, 429, "overloaded"),
        (
            AcceptError::Unavailable {
                reason: "the disk is full",
                retry_after,
            },
            503,
            "unavailable",
        ),
    ] {
        bench.shelf.with(|state| state.refusal = Some(error.clone()));
        let got = bench.post("/logs/bulk", &body).await;
        got.problem(status, code);
        assert_eq!(got.headers["retry-after"], "2", "rounded up");
        bench.shelf.with(|state| (state.refusal, state.full) = (None, Some(error)));
        bench.post("/logs", &entry(1)).await.problem(status, code);
        bench.shelf.with(|state| state.full = None);
    }
    bench.shelf.with(|state| state.refusal = Some(AcceptError::Unknown));
    let problem = bench.post("/logs/bulk?ids=false", &body).await.problem(504, "unknown_outcome");
    assert!(
        problem["ids"][0].is_null() && problem["ids"][1].is_string(),
        "in input order, server-made ones included"
    );
    let problem = bench.post("/logs", &entry(1)).await.problem(504, "unknown_outcome");
    assert!(problem["ids"][0].is_string());
}

#[tokio::test]
async fn body_memory_is_bounded_and_given_back() {
    let settings = HttpSettings {
        body_memory_bytes: 4 << 20,
        body_memory_tenant_bytes: 1 << 20,
        ..HttpSettings::default()
    };
    let bench = Bench::with(settings).await;
    let large = json!((0..6000).map(entry).collect::<Vec<_>>());
    assert!(large.to_string().len() > 512 << 10);
    for _ in 0..3 {
        bench.post("/logs/bulk", &large).await.problem(429, "overloaded");
    }
    assert_eq!(bench.post("/logs/bulk", &json!([entry(1)])).await.status, 201, "what was refused holds nothing");
}

#[tokio::test]
async fn a_tenant_setting_is_in_force_at_the_next_write() {
    let bench = Bench::new().await;
    let admin = token(Some("acme"), "admin");
    let body = json!({"settings": {"log_levels": ["ERROR"], "keep_unknown_fields": true}}).to_string();
    assert_eq!(bench.call("PUT", "/api/v1/tenants/acme", &admin, body).await.status, 200);
    let problem = bench.post("/logs", &entry(1)).await.problem(422, "invalid_entry");
    assert_eq!(problem["errors"][0]["code"], "severity_not_accepted");
    let mut one = entry(1);
    one["severity"] = json!("error");
    one["colour"] = json!("red");
    let got = bench.post("/logs", &one).await;
    assert_eq!((got.status.as_u16(), &got.json()["metadata"]["colour"]), (201, &json!("red")));
    let usage = bench.get("/tenants/acme/usage").await.json();
    assert_eq!((&usage["rejected"], &usage["accepted"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn what_is_pending_is_null_where_nobody_knows_it() {
    let bench = Bench::new().await;
    assert_eq!(bench.post("/logs", &entry(0)).await.status, 201);
    assert_eq!(bench.get("/tenants/acme/usage").await.json()["pending"], json!(0));
    bench.shelf.with(|state| state.split = true);
    let usage = bench.get("/tenants/acme/usage").await.json();
    assert_eq!((&usage["pending"], &usage["accepted"], &usage["stored"]), (&Value::Null, &json!(1), &json!(1)));
}
