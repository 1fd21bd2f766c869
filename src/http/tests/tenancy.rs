//! Credentials, roles, tenants: who may do what, and that nobody sees another tenant.

use super::*;

#[tokio::test]
async fn credentials_that_are_missing_bad_or_ambiguous_are_401() {
    let bench = Bench::new().await;
    let good = token(Some("acme"), "viewer");
    bench.call("GET", "/api/v1/logs", "", "").await.problem(401, "missing_credential");
    bench.call("GET", "/api/v1/logs", "nonsense", "").await.problem(401, "invalid_credential");
    let old = token_until(Some("acme"), "viewer", now_ms() / 1000 - 3600);
    bench.call("GET", "/api/v1/logs", &old, "").await.problem(401, "expired_credential");
    bench
        .call("GET", "/api/v1/logs", &token(None, "viewer"), "")
        .await
        .problem(401, "invalid_tenant_claim");
    bench
        .call("GET", "/api/v1/logs", &token(Some("acme"), "king"), "")
        .await
        .problem(403, "unknown_role");
    let with_key = |request: axum::http::request::Builder| request.header("x-api-key", "slk_1").body(Body::empty()).expect("a request");
    bench
        .send(with_key(request("GET", "/api/v1/logs", &good)))
        .await
        .problem(401, "ambiguous_credential");
    bench
        .send(with_key(request("GET", "/api/v1/logs", "")))
        .await
        .problem(401, "invalid_credential");
    bench
        .call("GET", &format!("/api/v1/logs/stream?token={good}"), &good, "")
        .await
        .problem(401, "ambiguous_credential");
    let unknown = bench.call("GET", &format!("/api/v1/logs?token={good}"), &good, "").await;
    assert!(
        !unknown.problem(422, "invalid_parameter").to_string().contains(&good),
        "a credential is never repeated"
    );
    let got = bench.call("GET", "/api/v1/logs", "", "").await;
    assert_eq!(got.headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn roles_follow_the_table() {
    let bench = Bench::new().await;
    let write = entry(1).to_string();
    for (role, post, read, usage, letters, tenants, create) in [
        ("writer", 201, 403, 403, 403, 403, 403),
        ("viewer", 403, 200, 403, 403, 403, 403),
        ("auditor", 403, 200, 403, 403, 403, 403),
        ("admin", 201, 200, 200, 200, 200, 403),
        ("user", 201, 200, 403, 403, 403, 403),
    ] {
        let token = token(Some("acme"), role);
        let base = "/api/v1";
        assert_eq!(bench.call("POST", &format!("{base}/logs"), &token, write.clone()).await.status, post, "{role}");
        for path in ["/logs", "/logs/stats"] {
            assert_eq!(bench.call("GET", &format!("{base}{path}"), &token, "").await.status, read, "{role} {path}");
        }
        assert_eq!(
            bench.call("GET", &format!("{base}/tenants/acme/usage"), &token, "").await.status,
            usage,
            "{role}"
        );
        assert_eq!(bench.call("GET", &format!("{base}/deadletters"), &token, "").await.status, letters, "{role}");
        assert_eq!(bench.call("GET", &format!("{base}/tenants"), &token, "").await.status, tenants, "{role}");
        let made = bench.call("POST", &format!("{base}/tenants"), &token, r#"{"tenant_id":"new"}"#).await;
        assert_eq!(made.status, create, "{role}");
    }
    let platform = token(None, "platform_admin");
    bench.call("GET", "/api/v1/logs", &platform, "").await.problem(403, "forbidden");
    bench.call("POST", "/api/v1/logs", &platform, write).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_tenant_that_does_not_exist_is_never_made_by_a_write() {
    let bench = Bench::new().await;
    let ghost = token(Some("ghost"), "admin");
    bench
        .call("POST", "/api/v1/logs", &ghost, entry(1).to_string())
        .await
        .problem(403, "unknown_tenant");
    bench.call("GET", "/api/v1/logs", &ghost, "").await.problem(403, "unknown_tenant");
    bench.call("GET", "/api/v1/tenants/ghost", &ghost, "").await.problem(404, "not_found");
    assert_eq!(bench.packs(), 0);
    // Refused before its body is looked at.
    bench.call("POST", "/api/v1/logs", &ghost, "{{{{").await.problem(403, "unknown_tenant");
}

#[tokio::test]
async fn another_tenants_path_is_403_in_the_same_words_existing_or_not_and_404_for_the_platform() {
    let bench = Bench::new().await;
    let admin = token(Some("acme"), "admin");
    let mut words = Vec::new();
    for (method, path) in [
        ("GET", "/tenants/globex"),
        ("GET", "/tenants/nobody"),
        ("GET", "/tenants/NO%20SLUG"),
        ("PUT", "/tenants/globex"),
        ("GET", "/tenants/globex/usage"),
        ("GET", "/tenants/nobody/usage"),
        ("GET", "/tenants/globex/keys"),
        ("DELETE", "/tenants/nobody"),
        ("POST", "/tenants/NO%20SLUG/users"),
    ] {
        let mut problem = bench.call(method, &format!("/api/v1{path}"), &admin, "{}").await.problem(403, "forbidden");
        problem["request_id"].take();
        words.push(problem);
    }
    assert!(words.windows(2).all(|pair| pair[0] == pair[1]));
    let platform = token(None, "platform_admin");
    for path in ["/tenants/nobody", "/tenants/NO%20SLUG", "/tenants/nobody/usage", "/tenants/nobody/keys"] {
        bench.call("GET", &format!("/api/v1{path}"), &platform, "").await.problem(404, "not_found");
    }
    assert_eq!(bench.call("GET", "/api/v1/tenants/globex", &platform, "").await.status, 200);
}

#[tokio::test]
async fn no_read_shows_another_tenants_entry() {
    let bench = Bench::new().await;
    let theirs = bench
        .call("POST", "/api/v1/logs", &token(Some("globex"), "admin"), entry(77).to_string())
        .await
        .json();
    let id = theirs["id"].as_str().expect("an id");
    for path in [
        format!("/logs/{id}"),
        format!("/logs?id={id}"),
        "/logs/stats".to_owned(),
        "/deadletters".to_owned(),
    ] {
        let got = bench.get(&path).await;
        let text = String::from_utf8(got.bytes).expect("text");
        assert!(!text.contains("entry 77") && !text.contains("globex"), "{path}: {text}");
    }
    let unknown = "0190a3b4-0000-7000-8000-000000000001";
    let (mut a, mut b) = (
        bench.get(&format!("/logs/{id}")).await.json(),
        bench.get(&format!("/logs/{unknown}")).await.json(),
    );
    a["request_id"].take();
    b["request_id"].take();
    assert_eq!(a, b, "another tenant's id and an unknown one cannot be told apart");
    let request = request("GET", "/api/v1/logs", &token(Some("acme"), "viewer")).header("x-tenant-id", "globex");
    bench.send(request.body(Body::empty()).expect("a request")).await.problem(403, "forbidden");
    let own = super::request("GET", "/api/v1/logs", &token(Some("acme"), "viewer")).header("x-tenant-id", "acme");
    assert_eq!(bench.send(own.body(Body::empty()).expect("a request")).await.status, 200);
}

#[tokio::test]
async fn tenants_are_made_listed_and_changed() {
    let bench = Bench::new().await;
    let platform = token(None, "platform_admin");
    let create = |body: &str| bench.call("POST", "/api/v1/tenants/", &platform, body.to_owned());
    let made = create(r#"{"tenant_id":"initech","name":"Initech"}"#).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.headers["location"], "/api/v1/tenants/initech");
    let json = made.json();
    for key in [
        "retention_days",
        "log_levels",
        "masking",
        "rate_limit",
        "keep_unknown_fields",
        "audit_reads",
        "access_retention_days",
    ] {
        assert!(json["settings"].get(key).is_some(), "{key}");
    }
    assert_eq!(create(r#"{"key":"hooli"}"#).await.json()["name"], "hooli", "the alias, and the name's default");
    create(r#"{"tenant_id":"initech"}"#).await.problem(409, "conflict");
    for (bad, field) in [
        (r#"{"tenant_id":"No Slug"}"#, "tenant_id"),
        (r#"{"name":"x"}"#, "tenant_id"),
        (r#"{"tenant_id":5}"#, "tenant_id"),
        (r#"{"tenant_id":"a","key":"a"}"#, "key"),
        (r#"{"tenant_id":"a","nam":"b"}"#, "nam"),
        (r#"{"tenant_id":"a","settings":{"colour":1}}"#, "settings.colour"),
        (r#"{"tenant_id":"a","settings":[]}"#, "settings"),
        (r#"{"tenant_id":"a","name":7}"#, "name"),
    ] {
        let problem = create(bad).await.problem(422, "invalid_body");
        assert_eq!(problem["errors"][0]["field"], field, "{bad}");
    }
    for bad in ["", "[]", "{", "null"] {
        create(bad).await.problem(422, "invalid_body");
    }
    let all = bench.call("GET", "/api/v1/tenants", &platform, "").await.json();
    let ids: Vec<_> = all["data"]
        .as_array()
        .expect("data")
        .iter()
        .map(|t| t["tenant_id"].as_str().expect("text"))
        .collect();
    assert_eq!((ids, &all["meta"]["total"]), (vec!["acme", "globex", "hooli", "initech"], &json!(4)));
    let own = bench.get("/tenants").await.json();
    assert_eq!((&own["data"][0]["tenant_id"], &own["meta"]["total"]), (&json!("acme"), &json!(1)));
    let admin = token(Some("acme"), "admin");
    let changed = bench.call("PUT", "/api/v1/tenants/acme", &admin, r#"{"name":"ACME Inc."}"#).await;
    assert_eq!((changed.status.as_u16(), &changed.json()["name"]), (200, &json!("ACME Inc.")));
    assert_eq!(
        changed.json()["settings"]["log_levels"].as_array().map(Vec::len),
        Some(4),
        "what is left out stays"
    );
}

#[tokio::test]
async fn dead_letters_and_usage_answer_in_their_shape() {
    let bench = Bench::new().await;
    assert_eq!(bench.get("/deadletters").await.json(), json!({"data": [], "meta": {"total": 0}}));
    bench.get("/deadletters/nonsense").await.problem(404, "not_found");
    bench.get("/deadletters/0190a3b4-0000-7000-8000-000000000001").await.problem(404, "not_found");
    bench.post("/logs", &entry(1)).await;
    let usage = bench.get("/tenants/acme/usage").await.json();
    let want = json!({
        "accepted": 1, "stored": 1, "duplicate": 0, "dead_lettered": 0, "pending": 0, "erased": 0, "rejected": 0, "bytes": 7, "quota": null,
    });
    assert_eq!(usage, want);
}
