//! A tenant's settings are in force for the next request, and one request is judged by one set of them.

use super::*;

impl Bench {
    async fn set(&self, settings: Value) {
        let body = json!({ "settings": settings }).to_string();
        let got = self.call("PUT", "/api/v1/tenants/acme", &token(Some("acme"), "admin"), body).await;
        assert_eq!(got.status, 200, "{}", got.json());
    }
}

fn severe(severity: &str) -> Value {
    let mut entry = entry(1);
    entry["severity"] = severity.into();
    entry
}

#[tokio::test]
async fn log_levels_hold_for_the_next_write() {
    let bench = Bench::new().await;
    let mut by_default = entry(2);
    by_default.as_object_mut().expect("an object").remove("severity");
    for (levels, warning, info) in [
        (json!(["ERROR", "CRITICAL"]), 422, 422),
        (json!(["warning"]), 201, 422),
        (json!(["INFO", "WARNING", "ERROR", "CRITICAL"]), 201, 201),
    ] {
        bench.set(json!({ "log_levels": levels })).await;
        assert_eq!(bench.post("/logs", &severe("WARNING")).await.status, warning, "{levels}");
        assert_eq!(bench.post("/logs", &by_default).await.status, info, "{levels}: INFO is the default");
        let bulk = bench.post("/logs/bulk", &json!([severe("WARNING"), severe("WARNING")])).await;
        assert_eq!(bulk.status, warning, "{levels}");
    }
}

#[tokio::test]
async fn keep_unknown_fields_holds_for_the_next_write() {
    let bench = Bench::new().await;
    let mut with_colour = entry(1);
    with_colour["colour"] = "red".into();
    bench.post("/logs", &with_colour).await.problem(422, "invalid_entry");
    bench.set(json!({"keep_unknown_fields": true})).await;
    let kept = bench.post("/logs", &with_colour).await;
    assert_eq!((kept.status.as_u16(), &kept.json()["metadata"]), (201, &json!({"colour": "red"})));
    bench.set(json!({"keep_unknown_fields": false})).await;
    bench.post("/logs", &with_colour).await.problem(422, "invalid_entry");
}

#[tokio::test]
async fn retention_days_hold_for_the_next_cleanup() {
    let bench = Bench::new().await;
    let mut old = entry(1);
    old["timestamp"] = crate::model::time::rfc3339(now_ms() - 10 * crate::model::time::DAY_MS).into();
    assert_eq!(bench.post("/logs", &old).await.status, 201);
    for (days, counted) in [(11, 0), (9, 1), (90, 0)] {
        bench.set(json!({"retention_days": days})).await;
        let got = bench
            .call("DELETE", "/api/v1/logs/cleanup?dry_run=true", &token(Some("acme"), "admin"), "")
            .await
            .json();
        assert_eq!(got["deleted_count"], counted, "{days}: {got}");
    }
}

#[tokio::test]
async fn a_body_on_its_way_is_judged_by_the_settings_of_its_beginning() {
    let bench = Bench::new().await;
    let (send, pieces) = tokio::sync::mpsc::channel::<String>(1);
    let body = futures_util::stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), pieces))
    });
    let request = request("POST", "/api/v1/logs/bulk", &token(Some("acme"), "admin")).body(Body::from_stream(body));
    let writing = bench.send(request.expect("a request"));
    let changing = async {
        send.send(format!("[{},", severe("INFO"))).await.expect("taken");
        // Only a request that has begun to read its body makes room for the next piece.
        send.send(" ".to_owned()).await.expect("taken");
        bench.set(json!({"log_levels": ["ERROR"]})).await;
        send.send(format!("{}]", severe("INFO"))).await.expect("taken");
        drop(send);
    };
    let (got, ()) = tokio::join!(writing, changing);
    assert_eq!(
        (got.status.as_u16(), &got.json()["accepted"]),
        (201, &json!(2)),
        "neither half is judged by the new ones"
    );
    bench.post("/logs", &severe("INFO")).await.problem(422, "invalid_entry");
}
