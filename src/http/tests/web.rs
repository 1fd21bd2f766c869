//! What browsers are told: safety headers, content policies, other origins, and heads that are too large.

use super::{server::Served, *};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const APP: &str = "https://app.example";

async fn with_origins(ambient: bool) -> Bench {
    let origins = crate::http::origin::Origins::new(vec![APP.into()]).with_ambient(ambient);
    let settings = HttpSettings {
        origins,
        ..HttpSettings::default()
    };
    Bench::with(settings).await
}

async fn from(bench: &Bench, origin: &str, method: &str, path: &str) -> Got {
    let admin = token(Some("acme"), "admin");
    let request = request(method, path, &admin).header("origin", origin);
    let request = match method {
        "OPTIONS" => request.header("access-control-request-method", "POST"),
        _ => request,
    };
    bench.send(request.body(Body::empty()).expect("a request")).await
}

#[tokio::test]
async fn every_answer_keeps_browsers_from_guessing_framing_and_keeping() {
    let bench = Bench::new().await;
    bench.post("/logs", &entry(1)).await;
    let admin = token(Some("acme"), "admin");
    for (method, path, token) in [
        ("GET", "/api/v1/logs", &*admin),
        ("POST", "/api/v1/logs", &admin),
        ("GET", "/api/v1/logs/export?format=csv", &admin),
        ("GET", "/api/v1/logs", ""),
        ("PATCH", "/api/v1/logs", ""),
        ("GET", "/nowhere", ""),
        ("GET", "/health", ""),
        ("GET", "/openapi.json", ""),
        ("GET", "/", ""),
        ("GET", "/docs", ""),
        ("GET", "/redoc", ""),
        ("GET", "/api/v1/docs/assets/board.js", ""),
        ("GET", "/api/v1/docs/assets/none.js", ""),
    ] {
        let got = bench.call(method, path, token, entry(2).to_string()).await;
        let header = |name: &str| got.headers.get(name).map(|v| v.to_str().expect("ASCII")).unwrap_or_default().to_owned();
        assert_eq!(got.headers.get_all("content-security-policy").iter().count(), 1, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{path}");
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(
            !policy.contains("unsafe-eval") && !policy.contains("script-src 'unsafe") && !policy.contains('*'),
            "{path}: {policy}"
        );
        let caching = if path.ends_with("board.js") { "no-cache" } else { "no-store" };
        assert_eq!(header("cache-control"), caching, "{path}");
        assert_eq!(header("strict-transport-security"), "", "not in the clear");
        let is_page = matches!(path, "/" | "/docs" | "/redoc");
        assert_eq!(!header("permissions-policy").is_empty(), is_page, "{path}");
    }
}

#[tokio::test]
async fn without_configured_origins_there_is_nothing_of_cors() {
    let bench = Bench::new().await;
    for method in ["OPTIONS", "GET"] {
        let got = from(&bench, APP, method, "/api/v1/logs").await;
        assert_eq!(got.status, if method == "OPTIONS" { 405 } else { 200 });
        assert!(!got.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{:?}", got.headers);
    }
}

#[tokio::test]
async fn a_configured_origin_may_use_the_api_and_another_is_told_nothing() {
    let bench = with_origins(false).await;
    // Before the credential: browsers send none with it.
    let preflight = from(&bench, APP, "OPTIONS", "/api/v1/logs/bulk").await;
    assert_eq!((preflight.status.as_u16(), preflight.bytes.len()), (204, 0));
    let text = |got: &Got, name: &str| got.headers.get(name).map(|v| v.to_str().expect("ASCII").to_owned());
    assert_eq!(text(&preflight, "access-control-allow-origin").as_deref(), Some(APP));
    assert_eq!(
        text(&preflight, "access-control-allow-methods").as_deref(),
        Some("GET, HEAD, POST, PUT, DELETE")
    );
    let headers = text(&preflight, "access-control-allow-headers").expect("there");
    for needed in ["Authorization", "X-API-Key", "X-Tenant-ID", "Content-Type", "Idempotency-Key", "Range"] {
        assert!(headers.split(", ").any(|one| one == needed), "{needed}");
    }
    assert_eq!(text(&preflight, "access-control-max-age").as_deref(), Some("7200"));
    assert!(preflight.headers.get_all("vary").iter().any(|v| v == "origin"));
    assert_eq!(text(&preflight, "access-control-allow-credentials"), None, "tokens are no ambient credentials");

    // Errors can be read as well, and the request still needs its own credential.
    for (path, status) in [("/api/v1/logs", 200), ("/api/v1/logs?nonsense=1", 422), ("/nowhere", 404)] {
        let got = from(&bench, APP, "GET", path).await;
        assert_eq!(got.status, status);
        assert_eq!(text(&got, "access-control-allow-origin").as_deref(), Some(APP), "{path}");
        assert!(
            text(&got, "access-control-expose-headers")
                .expect("there")
                .contains("X-Request-Id, Retry-After")
        );
    }
    let stranger = request("GET", "/api/v1/logs", "").header("origin", APP).body(Body::empty()).expect("a request");
    assert_eq!(bench.send(stranger).await.status, 401);

    for origin in [
        "https://evil.example",
        "https://app.example.evil.example",
        "http://app.example",
        "null",
        "*",
        "",
    ] {
        for (method, status) in [("OPTIONS", 405), ("GET", 200)] {
            let got = from(&bench, origin, method, "/api/v1/logs").await;
            assert_eq!(got.status, status, "{origin}");
            assert!(
                !got.headers.keys().any(|name| name.as_str().starts_with("access-control")),
                "{origin}: {:?}",
                got.headers
            );
            assert!(got.headers.get_all("vary").iter().any(|v| v == "origin"), "a cache keeps them apart");
        }
    }
    // An `OPTIONS` that is no preflight is what it was.
    let options = request("OPTIONS", "/api/v1/logs", "")
        .header("origin", APP)
        .body(Body::empty())
        .expect("a request");
    assert_eq!(bench.send(options).await.status, 405);

    let bench = with_origins(true).await;
    let got = from(&bench, APP, "GET", "/api/v1/logs").await;
    assert_eq!(text(&got, "access-control-allow-credentials").as_deref(), Some("true"));
}

#[tokio::test]
async fn a_gateways_credential_is_not_for_a_page_of_somebody_else() {
    const GATEWAY: &str = "[auth.gateway]\nenabled = true\ncidrs = [\"10.0.0.0/8\"]\nsecret = \"the gateway's own secret\"\n";
    let dir = tempfile::tempdir().expect("a folder");
    let bench = with_origins(true).await.accepting(dir.path(), GATEWAY);
    let admin = token(Some("acme"), "admin");
    let ask = |method: &'static str, path: String, ambient: bool, origin: &'static str| {
        let request = request(method, &path, if ambient { "" } else { &admin }).header("host", "logs.example");
        let request = if origin.is_empty() { request } else { request.header("origin", origin) };
        let mut request = if ambient {
            let gateway = request.header("x-gateway-secret", "the gateway's own secret").header("x-user-id", "ann");
            gateway.header("x-user-role", "admin").header("x-tenant-id", "acme")
        } else {
            request
        };
        if path.ends_with("/stream") {
            request = request.header("accept", "text/event-stream");
        }
        let mut request = request.body(Body::from(entry(1).to_string())).expect("a request");
        let peer = crate::http::server::Peer("10.0.0.1:1".parse().expect("an address"));
        request.extensions_mut().insert(peer);
        let router = bench.router.clone();
        async move { router.oneshot(request).await.expect("never fails").status().as_u16() }
    };
    for (origin, good) in [
        ("", true),
        ("https://logs.example", true),
        (APP, true),
        ("https://evil.example", false),
        ("null", false),
    ] {
        for (method, path, status) in [
            ("POST", "/logs", 201),
            ("DELETE", "/logs/cleanup?dry_run=true", 200),
            ("GET", "/logs/stream", 200),
        ] {
            let got = ask(method, format!("/api/v1{path}"), true, origin).await;
            assert_eq!(got, if good { status } else { 403 }, "{method} {path} from `{origin}`");
        }
        // What it reads, no page of another origin sees.
        assert_eq!(ask("GET", "/api/v1/logs".to_owned(), true, origin).await, 200, "`{origin}`");
        // A page that holds a token is as any other client.
        assert_eq!(ask("POST", "/api/v1/logs".to_owned(), false, origin).await, 201, "`{origin}`");
        assert_eq!(ask("GET", "/api/v1/logs/stream".to_owned(), false, origin).await, 200, "`{origin}`");
        assert_ne!(
            ask("GET", format!("/api/v1/logs/stream?token={admin}"), true, origin).await,
            200,
            "two credentials"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_problem_and_not_a_silence() {
    let bench = Bench::new().await;
    let long = request("GET", "/api/v1/logs", "").header("authorization", format!("Bearer {}", "x".repeat(64 << 10)));
    let got = bench.send(long.body(Body::empty()).expect("a request")).await;
    assert_eq!((got.status.as_u16(), got.json()["code"].clone()), (431, json!("head_too_large")));
    let long = request("GET", "/api/v1/logs", "").header("authorization", format!("Bearer {}", "x".repeat(60 << 10)));
    let got = bench.send(long.body(Body::empty()).expect("a request")).await;
    assert_eq!(got.status, 401, "within the bound it is a bad credential");

    // The same over a socket.
    let served = Served::new().await;
    for (bytes, body) in [(64 << 10, true), (200 << 10, false)] {
        let mut stream = served.connect().await;
        let head = format!(
            "GET /api/v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n",
            "x".repeat(bytes)
        );
        let _ = stream.write_all(head.as_bytes()).await; // it may be answered before it is taken
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        if body {
            assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("head_too_large"), "{answer}");
        } else {
            assert!(!answer.contains(" 200 "), "{answer}");
        }
    }
    served.stop().await;
}
