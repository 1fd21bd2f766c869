//! Cleanup: who may, what is asked for, what is answered.

use super::*;

const DAY: i64 = 86_400_000;

/// An entry of acme and one of globex, `days` old.
async fn write(bench: &Bench, days: i64) {
    for tenant in ["acme", "globex"] {
        let mut one = entry(0);
        one["timestamp"] = json!(crate::model::time::rfc3339(now_ms() - days * DAY));
        let done = bench.call("POST", "/api/v1/logs", &token(Some(tenant), "admin"), one.to_string()).await;
        assert_eq!(done.status, 201);
    }
}

async fn cleanup(bench: &Bench, path: &str) -> Got {
    bench.call("DELETE", &format!("/api/v1{path}"), &token(Some("acme"), "admin"), "").await
}

#[tokio::test]
async fn old_entries_are_counted_and_erased_and_others_are_not() {
    let bench = Bench::new().await;
    for days in [0, 10, 100, 200] {
        write(&bench, days).await;
    }
    let counted = cleanup(&bench, "/logs/cleanup?days=150&dry_run=true").await;
    assert_eq!(counted.status, 200);
    let json = counted.json();
    assert_eq!((&json["deleted_count"], &json["dry_run"]), (&json!(1), &json!(true)), "{json}");
    let cutoff = crate::model::time::parse_rfc3339(json["cutoff"].as_str().expect("a time")).expect("a time");
    assert!((now_ms() - 150 * DAY - cutoff).abs() < 60_000, "{json}");
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 4, "a dry run erases nothing");

    let default = cleanup(&bench, "/logs").await;
    assert_eq!(default.status, 200);
    let json = default.json();
    assert_eq!(
        (&json["deleted_count"], &json["dry_run"]),
        (&json!(2), &json!(false)),
        "the retention of 90 days: {json}"
    );
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 2);
    assert_eq!(cleanup(&bench, "/logs/cleanup/?days=0&confirm=acme").await.json()["deleted_count"], 2);
    let others = bench.call("GET", "/api/v1/logs", &token(Some("globex"), "admin"), "").await;
    assert_eq!(others.json()["meta"]["total"], 4, "another tenant's are all there");
}

#[tokio::test]
async fn only_an_admin_erases_and_only_what_is_well_said() {
    let bench = Bench::new().await;
    write(&bench, 1).await;
    for role in ["viewer", "auditor", "writer"] {
        let refused = bench
            .call("DELETE", "/api/v1/logs/cleanup?days=0&confirm=acme", &token(Some("acme"), role), "")
            .await;
        refused.problem(403, "forbidden");
    }
    let platform = bench.call("DELETE", "/api/v1/logs/cleanup", &token(None, "platform_admin"), "").await;
    platform.problem(403, "forbidden");
    bench.call("DELETE", "/api/v1/logs/cleanup", "", "").await.problem(401, "missing_credential");
    for (query, field) in [
        ("days=0", "confirm"),
        ("days=0&confirm=globex", "confirm"),
        ("before=2100-01-01", "confirm"),
        ("days=1&before=2020-01-01", "before"),
        ("days=1&days=2", "days"),
        ("day=1", "day"),
        ("severity=ERROR", "severity"),
        ("days=x", "days"),
        ("dry_run=1", "dry_run"),
    ] {
        let problem = cleanup(&bench, &format!("/logs/cleanup?{query}")).await.problem(422, "invalid_parameter");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 1, "nothing was erased");
}

#[tokio::test(start_paused = true)]
async fn rows_that_cannot_be_counted_now_are_gone_all_the_same() {
    let bench = Bench::new().await;
    write(&bench, 100).await;
    bench.shelf.with(|state| state.sick = Some(StoreError::Busy));
    let taken = cleanup(&bench, "/logs/cleanup").await;
    assert_eq!((taken.status.as_u16(), &taken.json()["deleted_count"]), (202, &Value::Null));
    bench.shelf.with(|state| state.sick = None);
    assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 0);
    bench.services.eraser.stop().await;
    cleanup(&bench, "/logs/cleanup").await.problem(504, "unknown_outcome");
}
