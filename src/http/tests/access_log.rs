//! The access log by the contract: what is recorded, who may read it, and that the audit log does not notice.

use super::*;
use futures_util::poll;
use std::{pin::pin, task::Poll};

impl Bench {
    /// What the access log says, oldest first, as an auditor of the tenant reads it.
    async fn told_to(&self, tenant: &str, more: &str) -> Vec<Value> {
        let path = format!("/api/v1/logs?log=access&sort=sequence:asc&page_size=1000{more}");
        let got = self.call("GET", &path, &token(Some(tenant), "auditor"), "").await;
        assert_eq!(got.status, 200);
        got.json()["data"].as_array().expect("a list").clone()
    }

    /// What it says beside the reads of itself.
    async fn told(&self) -> Vec<Value> {
        let all = self.told_to("acme", "").await;
        all.into_iter().filter(|e| e["metadata"]["log"] != "access").collect()
    }

    async fn ann(&self, method: &str, path: &str, body: &str) -> Got {
        self.call(method, &format!("/api/v1{path}"), &token(Some("acme"), "admin"), body.to_owned())
            .await
    }
}

fn actions(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|e| e["action"].as_str().expect("text")).collect()
}

#[tokio::test]
async fn every_access_is_there_once_with_who_what_and_how_many() {
    let bench = Bench::new().await;
    let posted = bench.post("/logs/bulk", &json!([entry(1), entry(2), entry(3)])).await.json();
    let id = posted["ids"][1].as_str().expect("an id").to_owned();
    assert!(bench.told().await.is_empty(), "a write is in the audit log itself");

    bench.get("/logs?user_id=ann&severity=INFO&severity=ERROR&page_size=2").await;
    bench.post("/logs/search", &json!({"search": "entry", "filters": {"resource_id": "r-2"}})).await;
    bench.get(&format!("/logs/{id}")).await;
    bench.get("/logs/0190a3b4-0000-7000-8000-000000000001").await.problem(404, "not_found");
    bench.get("/logs/stats?interval=1h").await;
    bench.get("/logs/export?format=csv&csv_safe=true").await;
    let job = bench.ann("POST", "/logs/export", r#"{"format": "ndjson", "action": "LOGIN"}"#).await.json();
    let job = job["id"].as_str().expect("an id").to_owned();
    bench.ann("DELETE", &format!("/logs/export/{job}"), "").await;
    bench.get("/deadletters?page_size=7").await;
    bench.ann("DELETE", "/logs/cleanup?days=30&dry_run=true", "").await;
    bench.ann("DELETE", "/logs?days=0&confirm=acme", "").await;
    bench
        .ann("PUT", "/tenants/acme", r#"{"name": "Acme", "settings": {"retention_days": 7}}"#)
        .await;

    let told = bench.told().await;
    let rows = |e: &Value| e["metadata"]["rows"].clone();
    let want = [
        ("sluice.search", "log", "audit", json!(2)),
        ("sluice.search", "log", "audit", json!(1)),
        ("sluice.get", "entry", &id, json!(1)),
        ("sluice.get", "entry", "0190a3b4-0000-7000-8000-000000000001", json!(0)),
        ("sluice.stats", "log", "audit", json!(3)),
        ("sluice.export", "log", "audit", json!(3)),
        ("sluice.export.create", "export", &job, Value::Null),
        ("sluice.export.delete", "export", &job, Value::Null),
        ("sluice.deadletter.search", "log", "deadletters", json!(0)),
        ("sluice.cleanup", "log", "audit", json!(0)),
        ("sluice.cleanup", "log", "audit", json!(3)),
        ("sluice.tenant.update", "tenant", "acme", Value::Null),
    ];
    let got: Vec<_> = told
        .iter()
        .map(|e| (e["action"].as_str(), e["resource_type"].as_str(), e["resource_id"].as_str(), rows(e)))
        .collect();
    let want: Vec<_> = want.iter().map(|(a, t, i, rows)| (Some(*a), Some(*t), Some(*i), rows.clone())).collect();
    assert_eq!(got, want);
    for entry in &told {
        assert_eq!(
            (&entry["user_id"], &entry["actor"], &entry["tenant_id"]),
            (&json!("ann"), &json!("sluice"), &json!("acme"))
        );
        assert_eq!(
            (&entry["metadata"]["roles"], &entry["metadata"]["origin"]),
            (&json!(["admin"]), &json!("local"))
        );
        assert!(entry["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{entry}");
    }
    let filters = |i: usize| told[i]["metadata"]["filters"].clone();
    assert_eq!(filters(0), json!({"user_id": "ann", "severity": ["INFO", "ERROR"], "page_size": "2"}));
    assert_eq!(filters(1), json!({"search": "entry", "resource_id": "r-2"}));
    assert_eq!(filters(5), json!({"format": "csv", "csv_safe": "true"}));
    assert_eq!(filters(6), json!({"format": "ndjson", "action": "LOGIN"}));
    assert_eq!(told[5]["metadata"]["complete"], true);
    assert_eq!(
        (&told[9]["metadata"]["dry_run"], &told[10]["metadata"]["dry_run"]),
        (&json!(true), &json!(false))
    );
    let change = &told[11];
    assert_eq!(
        (&change["before_state"]["name"], &change["after_state"]["name"]),
        (&json!("acme"), &json!("Acme"))
    );
    let days = |state: &str| change[state]["settings"]["retention_days"].clone();
    assert_eq!((days("before_state"), days("after_state")), (json!(90), json!(7)));
}

#[tokio::test]
async fn it_is_a_log_of_its_own_that_the_audit_log_does_not_notice() {
    let bench = Bench::new().await;
    bench.post("/logs", &entry(1)).await;
    for _ in 0..5 {
        assert_eq!(bench.get("/logs").await.json()["meta"]["total"], 1);
    }
    let all = bench.told_to("acme", "").await;
    assert_eq!(actions(&all), ["sluice.search"; 5]);
    for (i, entry) in all.iter().enumerate() {
        assert_eq!(entry["sequence"], i + 1, "its own sequence, dense from 1");
    }
    let again = bench.told_to("acme", "").await;
    assert_eq!(again[5]["metadata"]["log"], "access", "reading it is an access too");
    let usage = bench.get("/tenants/acme/usage").await.json();
    assert_eq!((&usage["accepted"], &usage["stored"]), (&json!(1), &json!(1)));
    assert_eq!(bench.get("/logs").await.json()["data"][0]["sequence"], 1);
    bench.post("/logs", &entry(2)).await;
    let newest = bench.get("/logs").await.json();
    assert_eq!((&newest["data"][0]["sequence"], &newest["meta"]["as_of"]), (&json!(2), &json!(2)));
    assert_eq!(bench.get("/logs?log=audit").await.json()["meta"]["total"], 2, "the default by its name");
}

#[tokio::test]
async fn every_read_endpoint_serves_it() {
    let bench = Bench::new().await;
    bench.get("/logs?user_id=nobody").await;
    bench.get("/logs/stats").await;
    let found = bench.get("/logs?log=access&metadata.filters.user_id=nobody").await.json();
    assert_eq!(found["meta"]["total"], 1);
    let id = found["data"][0]["id"].as_str().expect("an id");
    assert_eq!(bench.get(&format!("/logs/{id}?log=access")).await.json()["action"], "sluice.search");
    bench.get(&format!("/logs/{id}")).await.problem(404, "not_found");
    let posted = bench.post("/logs/search", &json!({"log": "access", "action": "sluice.stats"})).await;
    assert_eq!(posted.json()["meta"]["total"], 1);
    assert!(bench.get("/logs/stats?log=access&action=sluice.search").await.json()["total"].as_u64() >= Some(2));
    for path in ["/logs/export?format=json&log=access", "/logs/export/json?log=access"] {
        let got = bench.get(path).await;
        let name = got.headers["content-disposition"].to_str().expect("text");
        assert!(name.contains("access_logs_acme_"), "{name}");
        assert!(actions(got.json().as_array().expect("a list")).contains(&"sluice.stats"));
    }
    let csv = bench.get("/logs/export/csv?log=access").await;
    assert!(
        String::from_utf8_lossy(&csv.bytes).lines().skip(1).all(|line| line.contains(",acme,")),
        "the tenant's own name"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_job_keeps_which_log_it_is_of() {
    let bench = Bench::new().await;
    bench.post("/logs", &entry(1)).await;
    bench.get("/logs?user_id=nobody").await;
    let job = bench.ann("POST", "/logs/export", r#"{"format": "ndjson", "log": "access"}"#).await.json();
    let path = format!("/logs/export/{}", job["id"].as_str().expect("an id"));
    while bench.get(&path).await.json()["status"] != "done" {
        tokio::task::yield_now().await;
    }
    let got = bench.get(&format!("{path}/download")).await;
    let lines: Vec<Value> = String::from_utf8_lossy(&got.bytes)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(actions(&lines), ["sluice.search"]);
    assert!(got.headers["content-disposition"].to_str().expect("text").contains("access_logs_acme_"));
    let told = bench.told_to("acme", "&action=sluice.export.download").await;
    assert_eq!(
        (told.len(), &told[0]["metadata"]["rows"], &told[0]["metadata"]["log"]),
        (1, &json!(1), &json!("access"))
    );
}

#[tokio::test]
async fn viewers_and_writers_do_not_read_it_and_other_logs_do_not_exist() {
    let bench = Bench::new().await;
    let paths = [
        "/logs?log=access",
        "/logs/0190a3b4-0000-7000-8000-000000000001?log=access",
        "/logs/stats?log=access",
        "/logs/export?log=access",
        "/logs/stream?log=access",
    ];
    for role in ["viewer", "writer", "user"] {
        let token = token(Some("acme"), role);
        for path in paths {
            let request = request("GET", &format!("/api/v1{path}"), &token).header("accept", "text/event-stream");
            bench.send(request.body(Body::empty()).expect("a request")).await.problem(403, "forbidden");
        }
        let searched = bench.call("POST", "/api/v1/logs/search", &token, r#"{"log": "access"}"#).await;
        searched.problem(403, "forbidden");
    }
    for bad in ["secret", "", "Access", "audit,access"] {
        let problem = bench.get(&format!("/logs?log={bad}")).await.problem(422, "invalid_parameter");
        assert_eq!(problem["errors"][0]["field"], "log");
    }
    bench.get("/logs?log=audit&log=access").await.problem(422, "invalid_parameter");
}

#[tokio::test]
async fn another_tenant_sees_nothing_of_it() {
    let bench = Bench::new().await;
    bench.get("/logs?user_id=planted").await;
    assert_eq!(bench.told_to("acme", "").await.len(), 1);
    let id = bench.told_to("acme", "").await[0]["id"].as_str().expect("an id").to_owned();
    let theirs = token(Some("globex"), "admin");
    assert!(bench.told_to("globex", "").await.is_empty());
    bench
        .call("GET", &format!("/api/v1/logs/{id}?log=access"), &theirs, "")
        .await
        .problem(404, "not_found");
    for name in ["acme.access", "globex.access"] {
        let got = bench.call("GET", &format!("/api/v1/tenants/{name}"), &theirs, "").await;
        got.problem(403, "forbidden");
    }
    let platform = token(None, "platform_admin");
    let made = bench.call("POST", "/api/v1/tenants", &platform, r#"{"tenant_id": "acme.access"}"#).await;
    made.problem(422, "invalid_body");
}

#[tokio::test]
async fn a_cursor_belongs_to_one_log() {
    let bench = Bench::new().await;
    bench.post("/logs/bulk", &json!([entry(1), entry(2)])).await;
    let cursor = |page: Value| page["meta"]["next_cursor"].as_str().expect("more").to_owned();
    let audit = cursor(bench.get("/logs?page_size=1").await.json());
    bench.get("/logs").await;
    let access = cursor(bench.get("/logs?page_size=1&log=access").await.json());
    bench.get(&format!("/logs?log=access&cursor={audit}")).await.problem(422, "invalid_cursor");
    bench.get(&format!("/logs?cursor={access}")).await.problem(422, "invalid_cursor");
    assert_eq!(
        bench.get(&format!("/logs?log=access&cursor={access}")).await.json()["data"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    let told = bench.told().await;
    assert!(told.iter().all(|e| !e.to_string().contains(&audit)), "a cursor is not repeated");
}

#[tokio::test]
async fn cleanup_does_not_reach_it() {
    let bench = Bench::new().await;
    bench.get("/logs").await;
    for path in ["/logs/cleanup?days=0&confirm=acme&log=access", "/logs?days=0&confirm=acme&log=access"] {
        let problem = bench.ann("DELETE", path, "").await.problem(422, "invalid_parameter");
        assert!(problem["detail"].as_str().expect("text").contains("retention"), "{problem}");
    }
    assert_eq!(bench.ann("DELETE", "/logs?days=0&confirm=acme&log=audit", "").await.status, 200);
    assert_eq!(actions(&bench.told().await), ["sluice.search", "sluice.cleanup"]);
}

#[tokio::test]
async fn reads_are_left_out_where_they_are_not_wanted_and_changes_never() {
    let bench = Bench::new().await;
    bench.ann("PUT", "/tenants/acme", r#"{"settings": {"audit_reads": false}}"#).await;
    bench.get("/logs").await;
    bench.get("/logs/stats").await;
    bench.get("/logs/export").await;
    bench.ann("DELETE", "/logs/cleanup?days=1&dry_run=true", "").await;
    bench.ann("PUT", "/tenants/acme", r#"{"settings": {"audit_reads": true}}"#).await;
    bench.get("/logs").await;
    let want = ["sluice.tenant.update", "sluice.cleanup", "sluice.tenant.update", "sluice.search"];
    assert_eq!(actions(&bench.told_to("acme", "").await), want);
}

#[tokio::test]
async fn a_tenant_is_told_of_its_making_and_of_what_was_denied() {
    let bench = Bench::new().await;
    let platform = token(None, "platform_admin");
    let made = bench.call("POST", "/api/v1/tenants", &platform, r#"{"tenant_id": "initech"}"#).await;
    assert_eq!(made.status, 201);
    let [made] = bench.told_to("initech", "").await.try_into().expect("one");
    assert_eq!((&made["action"], &made["user_id"]), (&json!("sluice.tenant.create"), &json!("ann")));
    assert_eq!(made["after_state"]["settings"]["audit_reads"], true);

    let writer = token(Some("acme"), "writer");
    bench.call("GET", "/api/v1/logs?user_id=x", &writer, "").await.problem(403, "forbidden");
    bench.call("GET", "/api/v1/tenants/globex", &writer, "").await.problem(403, "forbidden");
    let events = request("GET", "/api/v1/logs/stream", &writer).header("accept", "text/event-stream");
    bench.send(events.body(Body::empty()).expect("a request")).await.problem(403, "forbidden");
    bench
        .call("GET", "/api/v1/logs", &token(Some("nobody"), "writer"), "")
        .await
        .problem(403, "forbidden");
    let told = bench.told_to("acme", "").await;
    assert_eq!(actions(&told), ["sluice.denied"; 3]);
    let what: Vec<_> = told.iter().map(|e| e["resource_id"].as_str().expect("text")).collect();
    assert_eq!(what, ["GET /logs", "GET /tenants/{tenant}", "GET /logs/stream"]);
    assert_eq!((&told[0]["severity"], &told[0]["metadata"]["code"]), (&json!("WARNING"), &json!("forbidden")));
}

#[tokio::test]
async fn a_feed_session_is_told_when_it_begins_and_when_it_ends_and_follows_either_log() {
    let bench = Bench::new().await;
    bench.post("/logs", &entry(1)).await;
    let open = async |query: &str| {
        let request = request("GET", &format!("/api/v1/logs/stream?after=0{query}"), &token(Some("acme"), "auditor"));
        let request = request.header("accept", "text/event-stream").body(Body::empty()).expect("a request");
        let response = bench.router.clone().oneshot(request).await.expect("never fails");
        assert_eq!(response.status(), 200);
        response.into_body()
    };
    // The entries up to the first that has this action.
    let upto = async |body: &mut Body, action: &str| {
        let mut found = Vec::<Value>::new();
        while found.last().is_none_or(|e| e["action"] != action) {
            let frame = body.frame().await.expect("open").expect("whole").into_data().expect("data");
            let text = String::from_utf8(frame.to_vec()).expect("text");
            let entries = text.lines().filter_map(|line| line.strip_prefix("data: "));
            found.extend(entries.map(|json| serde_json::from_str::<Value>(json).expect("JSON")));
        }
        found
    };
    let mut feed = open("&action=LOGIN").await;
    assert_eq!(upto(&mut feed, "LOGIN").await[0]["resource_id"], "r-1");
    let mut access = open("&log=access").await;
    drop(feed);
    let followed = upto(&mut access, "sluice.stream.end").await;
    assert_eq!(
        actions(&followed),
        ["sluice.stream", "sluice.stream", "sluice.stream.end"],
        "it follows its own beginning too"
    );
    let ended = &followed[2];
    assert_eq!((&ended["metadata"]["rows"], &ended["user_id"]), (&json!(1), &json!("ann")));
    let told = bench.told().await;
    assert_eq!(actions(&told), ["sluice.stream", "sluice.stream.end"]);
    assert_eq!(told[0]["metadata"]["filters"], json!({"action": "LOGIN", "after": "0"}));
}

#[tokio::test]
async fn a_change_is_made_and_told_whole_also_when_the_client_goes_away() {
    let bench = Bench::new().await;
    {
        let change = request("PUT", "/api/v1/tenants/acme", &token(Some("acme"), "admin"));
        let change = change.body(Body::from(r#"{"name": "Gone"}"#)).expect("a request");
        let mut answer = pin!(bench.router.clone().oneshot(change));
        assert!(matches!(poll!(&mut answer), Poll::Pending), "it is under way");
    }
    let made_and_told = async {
        while bench.get("/tenants/acme").await.json()["name"] != "Gone" || bench.told().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), made_and_told)
        .await
        .expect("the client's going away changes nothing");
    assert_eq!(actions(&bench.told().await), ["sluice.tenant.update"]);
}
