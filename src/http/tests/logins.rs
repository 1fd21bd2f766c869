//! API keys, people with a password, and login.

use super::*;
use crate::http::server::Peer;
use std::net::SocketAddr;

const PASSWORD: &str = "correct horse battery";

fn admin(tenant: &str) -> String {
    token(Some(tenant), "admin")
}

/// A login from an address.
async fn login_from(bench: &Bench, address: &str, body: Value) -> Got {
    let mut request = request("POST", "/api/v1/login", "").body(Body::from(body.to_string())).expect("a request");
    let socket: SocketAddr = format!("{address}:4711").parse().expect("an address");
    request.extensions_mut().insert(Peer(socket));
    bench.send(request).await
}

async fn login(bench: &Bench, email: &str, password: &str) -> Got {
    login_from(bench, "10.0.0.1", json!({"email": email, "password": password})).await
}

async fn add_user(bench: &Bench, tenant: &str, email: &str, password: &str, role: &str) -> Value {
    let body = json!({"email": email, "password": password, "role": role}).to_string();
    let got = bench.call("POST", &format!("/api/v1/tenants/{tenant}/users"), &admin(tenant), body).await;
    assert_eq!(got.status, 201, "{}", String::from_utf8_lossy(&got.bytes));
    got.json()
}

#[tokio::test]
async fn a_key_is_shown_once_works_and_ends_at_once() {
    let bench = Bench::new().await;
    let made = bench.post("/tenants/acme/keys", &json!({"name": "ci", "role": "Writer"})).await;
    assert_eq!(
        (made.status.as_u16(), &made.headers["cache-control"]),
        (201, &header::HeaderValue::from_static("no-store"))
    );
    let made = made.json();
    let key = made["key"].as_str().expect("shown");
    assert_eq!(made.as_object().expect("an object").len(), 6);
    assert_eq!(
        (&made["name"], &made["role"], &made["expires_at"]),
        (&json!("ci"), &json!("writer"), &Value::Null)
    );
    assert!(key.starts_with(&format!("slk_{}_", made["key_id"].as_str().expect("an id"))));
    let listed = bench.get("/tenants/acme/keys").await;
    let mut shown = made.clone();
    shown.as_object_mut().expect("an object").remove("key");
    assert_eq!(listed.json(), json!({"data": [shown], "meta": {"total": 1}}));

    assert_eq!(bench.call("POST", "/api/v1/logs", key, entry(1).to_string()).await.status, 201);
    let mut by_header = request("POST", "/api/v1/logs", "").body(Body::from(entry(2).to_string())).expect("a request");
    by_header.headers_mut().insert("x-api-key", key.parse().expect("ASCII"));
    let written = bench.send(by_header).await;
    assert_eq!((written.status.as_u16(), &written.json()["actor"]), (201, &json!("key:ci")));
    bench.call("GET", "/api/v1/logs", key, "").await.problem(403, "forbidden");

    let path = format!("/api/v1/tenants/acme/keys/{}", made["key_id"].as_str().expect("an id"));
    bench
        .call("DELETE", &path.replace("acme", "globex"), &admin("globex"), "")
        .await
        .problem(404, "not_found");
    let gone = bench.call("DELETE", &path, &admin("acme"), "").await;
    assert_eq!((gone.status.as_u16(), gone.bytes.len()), (204, 0));
    bench
        .call("POST", "/api/v1/logs", key, entry(3).to_string())
        .await
        .problem(401, "invalid_credential");
    bench.call("DELETE", &path, &admin("acme"), "").await.problem(404, "not_found");
    assert_eq!(bench.get("/tenants/acme/keys").await.json()["meta"]["total"], 0);
}

#[tokio::test]
async fn bad_keys_and_users_are_422_naming_the_field_and_nothing_else() {
    let bench = Bench::new().await;
    let secret = "swordfish swordfish";
    let email = "ann@example.com";
    for (path, body, field) in [
        ("keys", json!({"role": "writer"}), "name"),
        ("keys", json!({"name": "", "role": "writer"}), "name"),
        ("keys", json!({"name": 7, "role": "writer"}), "name"),
        ("keys", json!({"name": "x".repeat(201), "role": "writer"}), "name"),
        ("keys", json!({"name": "x"}), "role"),
        ("keys", json!({"name": "x", "role": "platform_admin"}), "role"),
        ("keys", json!({"name": "x", "role": "user"}), "role"),
        ("keys", json!({"name": "x", "role": ["writer"]}), "role"),
        (
            "keys",
            json!({"name": "x", "role": "writer", "expires_at": "2020-01-01T00:00:00Z"}),
            "expires_at",
        ),
        ("keys", json!({"name": "x", "role": "writer", "expires_at": "tomorrow"}), "expires_at"),
        ("keys", json!({"name": "x", "role": "writer", "expires_at": 1}), "expires_at"),
        ("keys", json!({"name": "x", "role": "writer", "expires": null}), "expires"),
        ("users", json!({"password": secret, "role": "viewer"}), "email"),
        ("users", json!({"email": "ann", "password": secret, "role": "viewer"}), "email"),
        ("users", json!({"email": email, "role": "viewer"}), "password"),
        ("users", json!({"email": email, "password": "swordfish", "role": "viewer"}), "password"),
        (
            "users",
            json!({"email": email, "password": "swordfish".repeat(200), "role": "viewer"}),
            "password",
        ),
        ("users", json!({"email": email, "password": 123_456_789_012_i64, "role": "viewer"}), "password"),
        ("users", json!({"email": email, "password": secret}), "role"),
        ("users", json!({"email": email, "password": secret, "role": "king"}), "role"),
        ("users", json!({"email": email, "password": secret, "roles": []}), "roles"),
        (
            "users",
            json!({"email": email, "password": secret, "roles": ["viewer", "platform_admin"]}),
            "roles",
        ),
        (
            "users",
            json!({"email": email, "password": secret, "role": "viewer", "roles": ["viewer"]}),
            "roles",
        ),
        ("users", json!({"email": email, "password": secret, "role": "viewer", "name": "a\nb"}), "name"),
        (
            "users",
            json!({"email": email, "password": secret, "role": "viewer", "passwort": secret}),
            "passwort",
        ),
    ] {
        let got = bench.post(&format!("/tenants/acme/{path}"), &body).await;
        let problem = got.problem(422, "invalid_body");
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
        assert!(!problem.to_string().contains("swordfish"), "{problem}");
    }
    for path in ["keys", "users"] {
        assert_eq!(
            bench.get(&format!("/tenants/acme/{path}")).await.json(),
            json!({"data": [], "meta": {"total": 0}})
        );
        for role in ["viewer", "auditor", "writer", "user"] {
            for method in ["GET", "POST"] {
                let got = bench
                    .call(method, &format!("/api/v1/tenants/acme/{path}"), &token(Some("acme"), role), "{}")
                    .await;
                got.problem(403, "forbidden");
            }
        }
        bench
            .call("GET", &format!("/api/v1/tenants/acme/{path}"), &token(None, "platform_admin"), "")
            .await
            .problem(403, "forbidden");
        bench
            .call("DELETE", &format!("/api/v1/tenants/globex/{path}/x"), &admin("acme"), "")
            .await
            .problem(403, "forbidden");
    }
}

#[tokio::test]
async fn a_person_logs_in_and_is_out_when_removed() {
    let bench = Bench::new().await;
    let made = add_user(&bench, "acme", " Ann@Example.com", PASSWORD, "user").await;
    assert_eq!(
        (&made["email"], &made["roles"], &made["name"]),
        (&json!("ann@example.com"), &json!(["writer", "viewer"]), &Value::Null)
    );
    let listed = bench.get("/tenants/acme/users").await.json();
    assert_eq!(listed, json!({"data": [made], "meta": {"total": 1}}));
    let again = json!({"email": "ANN@example.com", "password": PASSWORD, "role": "admin"});
    bench.post("/tenants/acme/users", &again).await.problem(409, "conflict");

    let got = login(&bench, "ann@EXAMPLE.com ", PASSWORD).await;
    assert_eq!(
        (got.status.as_u16(), &got.headers["cache-control"]),
        (200, &header::HeaderValue::from_static("no-store"))
    );
    let answer = got.json();
    assert_eq!(
        (&answer["token_type"], &answer["expires_in"], &answer["tenant_id"]),
        (&json!("Bearer"), &json!(3600), &json!("acme"))
    );
    assert_eq!(answer.as_object().expect("an object").len(), 4);
    let in_hand = answer["access_token"].as_str().expect("a token");
    let written = bench.call("POST", "/api/v1/logs", in_hand, entry(1).to_string()).await;
    assert_eq!((written.status.as_u16(), &written.json()["actor"]), (201, &json!("ann@example.com")));
    bench.call("GET", "/api/v1/logs/export", in_hand, "").await.problem(403, "forbidden");

    let path = format!("/api/v1/tenants/acme/users/{}", made["user_id"].as_str().expect("an id"));
    assert_eq!(bench.call("DELETE", &path, &admin("acme"), "").await.status, 204);
    bench.call("DELETE", &path, &admin("acme"), "").await.problem(404, "not_found");
    bench.call("GET", "/api/v1/logs", in_hand, "").await.problem(401, "invalid_credential");
    login(&bench, "ann@example.com", PASSWORD).await.problem(401, "invalid_login");
    add_user(&bench, "acme", "ann@example.com", PASSWORD, "user").await;
    bench.call("GET", "/api/v1/logs", in_hand, "").await.problem(401, "invalid_credential");
    let fresh = login(&bench, "ann@example.com", PASSWORD).await.json();
    let fresh = fresh["access_token"].as_str().expect("a token");
    assert_eq!(bench.call("GET", "/api/v1/logs", fresh, "").await.status, 200);
    let path = "/api/v1/tenants/acme/users/ann%40example.com";
    assert_eq!(bench.call("DELETE", path, &admin("acme"), "").await.status, 204, "by address too");
    bench.call("GET", "/api/v1/logs", fresh, "").await.problem(401, "invalid_credential");
}

#[tokio::test]
async fn wrong_unknown_and_foreign_logins_get_the_same_answer() {
    let bench = Bench::new().await;
    add_user(&bench, "acme", "ann@example.com", PASSWORD, "viewer").await;
    let mut words = Vec::new();
    for body in [
        json!({"email": "ann@example.com", "password": "wrong horse battery"}),
        json!({"email": "ann@example.com", "password": ""}),
        json!({"email": "ann@example.com", "password": "x".repeat(2000)}),
        json!({"email": "bob@example.com", "password": PASSWORD}),
        json!({"email": "no address", "password": PASSWORD}),
        json!({"email": "", "password": PASSWORD}),
        json!({"email": "ann@example.com", "password": PASSWORD, "tenant_id": "globex"}),
        json!({"email": "ann@example.com", "password": PASSWORD, "tenant_id": "nobody"}),
        json!({"email": "ann@example.com", "password": PASSWORD, "tenant_id": "../x"}),
    ] {
        let got = login_from(&bench, &format!("10.0.1.{}", words.len()), body.clone()).await;
        let mut problem = got.problem(401, "invalid_login");
        assert!(!problem.to_string().contains("horse") && !problem.to_string().contains("ann@"), "{problem}");
        problem["request_id"].take();
        words.push(problem);
    }
    assert!(words.windows(2).all(|pair| pair[0] == pair[1]));
    for (body, field) in [
        (json!({"password": PASSWORD}), "email"),
        (json!({"email": "ann@example.com"}), "password"),
        (json!({"email": "ann@example.com", "password": 1}), "password"),
        (json!({"email": "ann@example.com", "password": PASSWORD, "tenant_id": 1}), "tenant_id"),
        (json!({"email": "ann@example.com", "password": PASSWORD, "otp": "1"}), "otp"),
    ] {
        let problem = login_from(&bench, "10.0.2.1", body).await.problem(422, "invalid_body");
        assert_eq!(problem["errors"][0]["field"], field);
    }
    let in_query = bench.call("POST", &format!("/api/v1/login?password={}", "wrong%20horse"), "", "{}").await;
    assert!(!in_query.problem(422, "invalid_parameter").to_string().contains("horse"));
}

#[tokio::test]
async fn a_person_in_several_tenants_chooses_one_after_the_password_was_right() {
    let bench = Bench::new().await;
    add_user(&bench, "acme", "ann@example.com", PASSWORD, "viewer").await;
    add_user(&bench, "globex", "ann@example.com", PASSWORD, "admin").await;
    add_user(&bench, "acme", "bob@example.com", PASSWORD, "viewer").await;
    add_user(&bench, "globex", "bob@example.com", "another horse battery", "viewer").await;
    let salts: Vec<_> = bench
        .services
        .catalog
        .accounts("ann@example.com")
        .iter()
        .map(|user| user.password.recipe())
        .collect();
    assert!(
        salts[0] == salts[1],
        "one hash tells which accounts a password opens, so that their number costs no time"
    );

    login(&bench, "ann@example.com", "wrong horse battery").await.problem(401, "invalid_login");
    let problem = login(&bench, "ann@example.com", PASSWORD).await.problem(422, "tenant_required");
    assert_eq!(problem["tenants"], json!(["acme", "globex"]));
    for tenant in ["acme", "globex"] {
        let body = json!({"email": "ann@example.com", "password": PASSWORD, "tenant_id": tenant});
        assert_eq!(login_from(&bench, "10.0.0.1", body).await.json()["tenant_id"], tenant);
    }
    for (password, tenant) in [(PASSWORD, "acme"), ("another horse battery", "globex")] {
        let got = login(&bench, "bob@example.com", password).await.json();
        assert_eq!(got["tenant_id"], tenant, "the password chooses");
    }
}

#[tokio::test]
async fn whoever_guesses_waits_whether_the_account_exists_or_not_and_others_do_not() {
    let bench = Bench::new().await;
    add_user(&bench, "acme", "ann@example.com", PASSWORD, "viewer").await;
    let mut words = Vec::new();
    for email in ["ann@example.com", "nobody@example.com"] {
        for _ in 0..5 {
            login(&bench, email, "wrong horse battery").await.problem(401, "invalid_login");
        }
        // The right password too: else it would show that it is right.
        let got = login(&bench, email, PASSWORD).await;
        assert_eq!(got.headers[header::RETRY_AFTER], "2");
        let mut problem = got.problem(429, "too_many_attempts");
        problem["request_id"].take();
        words.push(problem);
    }
    assert_eq!(words[0], words[1]);
    let elsewhere = json!({"email": "ann@example.com", "password": PASSWORD});
    assert_eq!(login_from(&bench, "10.9.9.9", elsewhere).await.status, 200);
}
