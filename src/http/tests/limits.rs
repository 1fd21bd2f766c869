//! Rates, quotas, and addresses that fail: what is refused, what it says, and that it says so before anything was done.

use super::*;
use crate::{http::server::Peer, limits::LimitSettings, telemetry::metrics};
use std::net::SocketAddr;

const PLATFORM: &str = "/api/v1/tenants";

impl Bench {
    async fn limited(limits: LimitSettings) -> Self {
        Self::with(HttpSettings {
            limits,
            ..HttpSettings::default()
        })
        .await
    }

    async fn set_rate(&self, tenant: &str, limit: Value) -> Got {
        let body = json!({"settings": {"rate_limit": limit}}).to_string();
        self.call("PUT", &format!("{PLATFORM}/{tenant}"), &token(Some(tenant), "admin"), body).await
    }

    async fn bulk(&self, tenant: &str, entries: usize) -> Got {
        let body = Value::from((0..entries).map(entry).collect::<Vec<_>>()).to_string();
        self.call("POST", "/api/v1/logs/bulk", &token(Some(tenant), "writer"), body).await
    }

    /// A request from an address.
    async fn from(&self, peer: &str, request: axum::http::request::Builder, body: impl Into<Body>) -> Got {
        let mut request = request.body(body.into()).expect("a request");
        request.extensions_mut().insert(Peer(SocketAddr::new(peer.parse().expect("an address"), 4711)));
        self.send(request).await
    }
}

/// What a refusal says: the limit, and the seconds in header, member and text.
#[track_caller]
fn told(got: &Got, code: &str, limit: &str) -> u64 {
    let json = got.problem(429, code);
    assert_eq!(json["limit"], limit, "{json}");
    let seconds = got.headers[header::RETRY_AFTER].to_str().expect("text").parse().expect("seconds");
    assert_eq!(json["retry_after"], seconds, "{json}");
    seconds
}

#[tokio::test(start_paused = true)]
async fn over_its_rate_a_tenant_is_told_truly_when_to_come_back_and_others_feel_nothing() {
    let bench = Bench::new().await;
    assert_eq!(bench.set_rate("acme", json!({"entries_per_second": 10, "burst": 20})).await.status, 200);
    assert_eq!(bench.bulk("acme", 45).await.status, 201, "a bucket above zero admits the whole request");
    let packs = bench.packs();
    let refused = bench.bulk("acme", 1).await;
    let seconds = told(&refused, "rate_limited", "entries");
    assert_eq!(seconds, 3, "25 are owed");
    let detail = refused.json()["detail"].as_str().expect("text").to_owned();
    assert!(
        detail.contains("10 entries a second") && detail.contains("3 s") && detail.contains("nothing was kept"),
        "{detail}"
    );
    bench.post("/logs", &entry(1)).await.problem(429, "rate_limited");
    assert_eq!(bench.packs(), packs, "nothing was kept");
    assert_eq!(bench.bulk("globex", 1_000).await.status, 201, "another tenant");
    assert_eq!(bench.get("/logs?page_size=1").await.status, 200, "reads are not intake");
    tokio::time::advance(Duration::from_secs(seconds - 1)).await;
    assert_eq!(told(&bench.bulk("acme", 1).await, "rate_limited", "entries"), 1, "a second too early");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(bench.bulk("acme", 1).await.status, 201, "then it is admitted");
    // A change is in force with the next request, a lifted limit too.
    assert_eq!(bench.bulk("acme", 1_000).await.status, 201);
    assert!(told(&bench.bulk("acme", 1).await, "rate_limited", "entries") > 90);
    bench.set_rate("acme", json!({"entries_per_second": 1_000})).await;
    assert_eq!(told(&bench.bulk("acme", 1).await, "rate_limited", "entries"), 1, "what is owed stays owed");
    assert_eq!(bench.set_rate("acme", Value::Null).await.json()["settings"]["rate_limit"], Value::Null);
    assert_eq!(bench.bulk("acme", 1_000).await.status, 201);
    assert!(metrics::render().contains("sluice_http_limited_total{limit=\"entries\"}"));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_charged_as_decompressed_before_they_are_parsed_and_entries_whether_accepted_or_not() {
    let bench = Bench::new().await;
    bench.set_rate("acme", json!({"bytes_per_second": 1000})).await;
    let writer = token(Some("acme"), "writer");
    let send = |encoding: &'static str, body: Vec<u8>| {
        let request = request("POST", "/api/v1/logs/bulk", &writer).header("content-encoding", encoding);
        let body = Body::from(body);
        async { bench.send(request.body(body).expect("a request")).await }
    };
    // What is no JSON was never parsed to entries, but it was read, and grew.
    let packed = zstd::encode_all(&vec![b'x'; 50_000][..], 1).expect("memory");
    assert!(packed.len() < 100);
    send("zstd", packed).await.problem(422, "invalid_body");
    assert_eq!(
        told(&bench.bulk("acme", 1).await, "rate_limited", "bytes"),
        50,
        "50,000 bytes at 1,000 a second, one more, less a second's worth saved"
    );
    tokio::time::advance(Duration::from_secs(60)).await;
    // What cannot be decompressed costs what arrived.
    send("zstd", vec![b'x'; 3_000]).await.problem(422, "invalid_body");
    assert_eq!(told(&bench.bulk("acme", 1).await, "rate_limited", "bytes"), 3);
    tokio::time::advance(Duration::from_secs(60)).await;
    // What is refused without being read costs nothing.
    for _ in 0..10 {
        let large = request("POST", "/api/v1/logs/bulk", &writer).header("content-length", (1_u64 << 40).to_string());
        bench.send(large.body(Body::from("[]")).expect("a request")).await.problem(413, "too_large");
    }
    assert_eq!(bench.bulk("acme", 1).await.status, 201);

    bench.set_rate("globex", json!({"entries_per_second": 10})).await;
    let rejected = Value::from(vec![json!({"action": ""}); 30]).to_string();
    bench
        .call("POST", "/api/v1/logs/bulk", &token(Some("globex"), "writer"), rejected)
        .await
        .problem(422, "all_rejected");
    assert_eq!(told(&bench.bulk("globex", 1).await, "rate_limited", "entries"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_is_never_looked_at_and_one_that_breaks_off_costs_nothing() {
    let bench = Bench::new().await;
    bench
        .set_rate("acme", json!({"entries_per_second": 1, "bytes_per_second": 1_000_000, "burst": 1}))
        .await;
    let writer = token(Some("acme"), "writer");
    let broken = || Body::from_stream(futures_util::stream::iter([Ok("[".to_owned()), Err(std::io::Error::other("gone"))]));
    for _ in 0..5 {
        let request = request("POST", "/api/v1/logs/bulk", &writer).header("content-length", "5000000");
        bench.send(request.body(broken()).expect("a request")).await.problem(400, "body_cut_off");
    }
    assert_eq!(bench.bulk("acme", 5).await.status, 201, "all deposits were given back");
    // The body panics when somebody asks for it.
    let trap = Body::from_stream(futures_util::stream::poll_fn(|_| -> std::task::Poll<Option<Result<String, std::io::Error>>> {
        panic!("the body of a refused request was read")
    }));
    let request = request("POST", "/api/v1/logs/bulk", &writer).version(axum::http::Version::HTTP_2);
    let refused = bench.send(request.body(trap).expect("a request")).await;
    assert_eq!(told(&refused, "rate_limited", "entries"), 5);
}

#[tokio::test(start_paused = true)]
async fn defaults_of_the_configuration_hold_for_tenants_without_their_own() {
    let tenant = crate::catalog::RateLimit {
        entries_per_second: Some(5),
        ..Default::default()
    };
    let bench = Bench::limited(LimitSettings {
        tenant,
        ..LimitSettings::default()
    })
    .await;
    assert_eq!(bench.bulk("acme", 10).await.status, 201);
    assert_eq!(told(&bench.bulk("acme", 1).await, "rate_limited", "entries"), 2);
    let quota = bench.get("/tenants/acme/usage").await.json()["quota"].clone();
    let rate = json!({"entries_per_second": 5, "entries_burst": 5, "bytes_per_second": null, "bytes_burst": null});
    assert_eq!(quota, json!({"limit": null, "used": 10, "rate": rate}));
    let set = bench.set_rate("acme", json!({"entries_per_second": 100})).await.json();
    let shown = json!({"entries_per_second": 100, "bytes_per_second": null, "burst": null});
    assert_eq!(set["settings"]["rate_limit"], shown, "in full");
    assert_eq!(bench.get("/tenants/acme/usage").await.json()["quota"]["rate"]["entries_per_second"], 100);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(bench.bulk("acme", 10).await.status, 201);
    for (bad, near) in [
        (json!({"entries_per_secnd": 1}), "`entries_per_second`"),
        (json!({"bytes": 1}), "`burst`"),
        (json!({"entries_per_second": 0}), "whole number from 1"),
        (json!({"burst": 4}), "beside it"),
    ] {
        let problem = bench.set_rate("acme", bad).await.problem(422, "invalid_body");
        assert_eq!(problem["errors"][0]["field"], "settings.rate_limit");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(near)), "{problem}");
    }
}

#[tokio::test]
async fn the_quota_is_never_passed() {
    let bench = Bench::limited(LimitSettings {
        tenant_max_entries: 100,
        ..LimitSettings::default()
    })
    .await;
    assert_eq!(bench.bulk("acme", 60).await.status, 201);
    let refused = bench.bulk("acme", 41).await;
    assert_eq!(told(&refused, "quota_exceeded", "quota"), 60);
    assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("room for 40")));
    let some_bad = Value::from([vec![entry(1); 40], vec![json!({}); 40]].concat()).to_string();
    let taken = bench
        .call("POST", "/api/v1/logs/bulk?ids=false", &token(Some("acme"), "writer"), some_bad)
        .await;
    assert_eq!(taken.status, 207, "rejected entries need no room");
    let full = bench.post("/logs", &entry(1)).await;
    assert_eq!(told(&full, "quota_exceeded", "quota"), 60);
    let usage = bench.get("/tenants/acme/usage").await.json();
    assert_eq!(usage["quota"], json!({"limit": 100, "used": 100, "rate": null}));
    assert_eq!(usage["rejected"], 40, "what was refused whole is no rejection");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_fails_too_often_is_refused_unheard_but_known_credentials_pass() {
    let bench = Bench::limited(LimitSettings {
        unauthenticated_per_minute: 6,
        unauthenticated_burst: 5,
        ..LimitSettings::default()
    })
    .await;
    let (known, new) = (token(Some("acme"), "admin"), token(Some("acme"), "viewer"));
    let ask = |from: &'static str, token: String| {
        let bench = &bench;
        async move { bench.from(from, request("GET", "/api/v1/logs", &token), "").await }
    };
    let attacker = "192.0.2.1";
    assert_eq!(ask(attacker, known.clone()).await.status, 200);
    let forged = format!("{known}x");
    ask(attacker, forged.clone()).await.problem(401, "invalid_credential");
    ask(attacker, String::new()).await.problem(401, "missing_credential");
    ask(attacker, token_until(Some("acme"), "admin", 1)).await.problem(401, "expired_credential");
    let two = request("GET", "/api/v1/logs", &known).header("x-api-key", "slk_a_b");
    bench.from(attacker, two, "").await.problem(401, "ambiguous_credential");
    let feed = request("GET", "/api/v1/logs/stream?token=x.y.z", "").header("accept", "text/event-stream");
    bench.from(attacker, feed, "").await.problem(401, "invalid_credential");
    for token in [&forged, "", &new, "x"] {
        assert_eq!(told(&ask(attacker, token.to_owned()).await, "rate_limited", "unauthenticated"), 10, "{token:?}");
    }
    assert_eq!(
        ask(attacker, known.clone()).await.status,
        200,
        "a credential that was good lately needs no look"
    );
    assert_eq!(ask("192.0.2.2", new.clone()).await.status, 200, "another address");
    assert_eq!(ask(attacker, new.clone()).await.status, 200, "which makes it known");
    assert_eq!(
        bench.from(attacker, request("GET", "/health/live", ""), "").await.status,
        200,
        "what is open stays so"
    );
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(told(&ask(attacker, forged.clone()).await, "rate_limited", "unauthenticated"), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    ask(attacker, forged.clone()).await.problem(401, "invalid_credential");
    // Good credentials, and those that merely lack a right, cost nothing.
    tokio::time::advance(Duration::from_secs(10)).await;
    for i in 0..20 {
        let fresh = token_until(Some("acme"), "writer", now_ms() / 1000 + 1_000 + i);
        ask(attacker, fresh).await.problem(403, "forbidden");
    }
    ask(attacker, forged).await.problem(401, "invalid_credential");
    // What is refused so needs no body: it is not read to its end.
    let trap = Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 32 << 10])));
    let flood = request("POST", "/api/v1/logs", "x");
    let refused = bench.from(attacker, flood, trap).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.headers["connection"]),
        (429, &header::HeaderValue::from_static("close"))
    );
}

#[tokio::test(start_paused = true)]
async fn failed_logins_of_an_address_are_few_and_refused_before_a_password_is_hashed() {
    let bench = Bench::limited(LimitSettings {
        logins_per_minute: 4,
        ..LimitSettings::default()
    })
    .await;
    let try_as = |who: usize, from: &'static str| {
        let body = json!({"email": format!("p{who}@example.com"), "password": "wrong"}).to_string();
        bench.from(from, request("POST", "/api/v1/login", ""), body)
    };
    for who in 0..4 {
        try_as(who, "192.0.2.1").await.problem(401, "invalid_login");
    }
    // Other accounts from the same address, whose own count is fresh.
    assert_eq!(told(&try_as(9, "192.0.2.1").await, "rate_limited", "login"), 15);
    try_as(9, "192.0.2.2").await.problem(401, "invalid_login");
    tokio::time::advance(Duration::from_secs(15)).await;
    try_as(10, "192.0.2.1").await.problem(401, "invalid_login");
    assert_eq!(bench.get("/logs?page_size=1").await.status, 200, "who has a credential needs no login");
}
