//! Deleting a tenant: who may, what has to be said, what is answered afterwards.

use super::*;

async fn delete(bench: &Bench, token: &str, path: &str) -> Got {
    bench.call("DELETE", &format!("/api/v1/tenants/{path}"), token, "").await
}

#[tokio::test]
async fn only_a_platform_admin_deletes_a_tenant_and_says_its_name() {
    let bench = Bench::new().await;
    bench.post("/logs", &entry(1)).await;
    let platform = token(None, "platform_admin");
    for role in ["writer", "viewer", "auditor", "admin"] {
        let refused = delete(&bench, &token(Some("acme"), role), "acme?confirm=acme").await;
        refused.problem(403, "forbidden");
    }
    delete(&bench, &token(Some("globex"), "admin"), "acme?confirm=acme")
        .await
        .problem(403, "forbidden");
    delete(&bench, "", "acme?confirm=acme").await.problem(401, "missing_credential");
    for path in [
        "acme",
        "acme?confirm=",
        "acme?confirm=globex",
        "acme?confirm=Acme",
        "acme?confirm=acme&confirm=acme",
    ] {
        let problem = delete(&bench, &platform, path).await.problem(422, "invalid_parameter");
        assert_eq!(problem["errors"][0]["field"], "confirm", "{path}");
        assert!(!problem.to_string().contains("globex"), "{problem}");
    }
    for path in [
        "ghost?confirm=ghost",
        "..%2Facme?confirm=acme",
        "ACME?confirm=ACME",
        "ghost",
        "acme.access?confirm=acme.access",
    ] {
        delete(&bench, &platform, path).await.problem(404, "not_found");
    }
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 1, "nothing was deleted");
}

#[tokio::test]
async fn a_deleted_tenant_is_as_one_that_never_was_but_for_its_id() {
    let bench = Bench::new().await;
    let platform = token(None, "platform_admin");
    bench.post("/logs", &entry(1)).await;
    let deleted = delete(&bench, &platform, "acme?confirm=acme").await;
    assert_eq!(deleted.status, 202);
    let json = deleted.json();
    assert_eq!((&json["tenant_id"], &json["status"]), (&json!("acme"), &json!("running")), "{json}");
    let own = token(Some("acme"), "admin");
    let never = token(Some("never"), "admin");
    for (method, path, body) in [
        ("GET", "/logs", ""),
        ("POST", "/logs", r#"{"action":"a","resource_type":"t","resource_id":"1"}"#),
        ("GET", "/logs/stats", ""),
        ("GET", "/deadletters", ""),
        ("POST", "/logs/export", ""),
        ("DELETE", "/logs", ""),
    ] {
        let gone = bench.call(method, &format!("/api/v1{path}"), &own, body).await;
        let (gone, ghost) = (gone, bench.call(method, &format!("/api/v1{path}"), &never, body).await);
        let code = gone.problem(403, "unknown_tenant")["detail"].clone();
        assert_eq!(code, ghost.problem(403, "unknown_tenant")["detail"], "{method} {path}");
    }
    for path in ["/tenants/acme", "/tenants/acme/usage"] {
        for token in [&platform, &own] {
            bench.call("GET", &format!("/api/v1{path}"), token, "").await.problem(404, "not_found");
        }
    }
    delete(&bench, &platform, "acme?confirm=acme").await.problem(404, "not_found");
    bench
        .call("PUT", "/api/v1/tenants/acme", &platform, r#"{"name":"x"}"#)
        .await
        .problem(404, "not_found");
    let again = bench.call("POST", "/api/v1/tenants", &platform, r#"{"tenant_id":"acme"}"#).await;
    again.problem(409, "conflict");
    let listed = bench.call("GET", "/api/v1/tenants", &platform, "").await.json();
    assert_eq!((&listed["meta"]["total"], &listed["data"][0]["tenant_id"]), (&json!(1), &json!("globex")));
    let finished = || bench.services.catalog.retired()[0].finished_at.is_some();
    let until_finished = async {
        while !finished() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), until_finished)
        .await
        .expect("it comes to its end");
    assert_eq!(bench.shelf.with(|state| state.rows.len()), 0, "its rows are erased");
}

#[tokio::test]
async fn a_deletion_that_cannot_be_written_down_has_not_begun() {
    let bench = Bench::new().await;
    bench.post("/logs", &entry(1)).await;
    bench.services.eraser.stop().await;
    let refused = delete(&bench, &token(None, "platform_admin"), "acme?confirm=acme").await;
    refused.problem(503, "unavailable");
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 1);
}
