//! Other people's identity providers, by configuration alone: the real binary, real sockets, a real HTTP client.

use crate::harness::{Server, Site, answer};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const ACME: &str = "acme-0123456789abcdef0123456789abcdef";
const GLOBEX: &str = "globex-0123456789abcdef0123456789abcd";
/// RSA keys that a provider changes through.
const KEYS: [(&str, &str); 3] = [
    ("2026-01", include_str!("../../src/auth/testing/keys/rsa_a.pem")),
    ("2026-02", include_str!("../../src/auth/testing/keys/rsa_b.pem")),
    ("2026-03", include_str!("../../src/auth/testing/keys/rsa_c.pem")),
];

fn hs256(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("encodes")
}

fn rs256(kid: &str, key: &EncodingKey, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, claims, key).expect("encodes")
}

async fn get(server: &Server, headers: &[(&str, &str)], path: &str) -> (u16, Value) {
    let request = headers
        .iter()
        .fold(server.client.get(server.url(path)), |request, (name, value)| request.header(*name, *value));
    answer(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_a_secret_per_tenant_works_by_configuration_alone() {
    let mut site = Site::plain();
    let issuer = json!([{
        "name": "logserver", "issuer": "issuer", "audience": ["logserver"], "algorithms": ["HS256"], "require_exp": false,
        "claims": {"tenant": "tenant", "role": "role", "subject": "sub"},
        "roles": {"admin": ["admin"], "auditor": ["auditor"], "viewer": ["viewer"]},
        "keys": {"tenant_secrets": {"acme": ACME, "globex": GLOBEX}},
    }]);
    site.set("AUTH__ISSUERS", &issuer.to_string());
    let server = site.start();
    server.tenant("acme").await;
    server.tenant("globex").await;
    let token = |secret: &str, tenant: &str, role: &str| {
        hs256(
            secret,
            &json!({"iss": "issuer", "aud": "logserver", "sub": "ann", "tenant": tenant, "role": role}),
        )
    };
    let entry = json!({"action": "LOGIN", "resource_type": "session", "resource_id": "1"}).to_string();
    for (secret, tenant) in [(ACME, "acme"), (GLOBEX, "globex")] {
        let (status, written) = server.post(&token(secret, tenant, "admin"), "/logs?wait=stored", entry.clone()).await;
        assert_eq!(
            (status, &written["tenant_id"], &written["actor"]),
            (201, &json!(tenant), &json!("ann")),
            "{written}"
        );
        for (role, list, stats, export, usage) in [("admin", 200, 200, 200, 200), ("auditor", 200, 200, 200, 403), ("viewer", 200, 200, 403, 403)] {
            let token = token(secret, tenant, role);
            for (path, want) in [
                ("/logs".to_owned(), list),
                ("/logs/stats".to_owned(), stats),
                ("/logs/export?format=ndjson".to_owned(), export),
                (format!("/tenants/{tenant}/usage"), usage),
            ] {
                let (status, body) = server.get(&token, &path).await;
                assert_eq!(status, want, "{role} {path}: {body}");
            }
            let (_, page) = server.get(&token, "/logs").await;
            assert_eq!(
                (page["meta"]["total"].as_u64(), &page["data"][0]["tenant_id"]),
                (Some(1), &json!(tenant)),
                "its own entry alone"
            );
        }
    }
    assert_eq!(server.post(&token(ACME, "acme", "viewer"), "/logs", entry.clone()).await.0, 403);
    // What one tenant's secret signs is nothing anywhere else.
    for (secret, tenant) in [(ACME, "globex"), (GLOBEX, "acme"), (ACME, "ghost"), ("", "acme")] {
        let (status, problem) = server.get(&token(secret, tenant, "admin"), "/logs").await;
        assert_eq!((status, &problem["code"]), (401, &json!("invalid_credential")), "{tenant}");
    }
    let other = hs256(
        ACME,
        &json!({"iss": "issuer", "aud": "somebody else", "sub": "ann", "tenant": "acme", "role": "admin"}),
    );
    assert_eq!(server.get(&other, "/logs").await.0, 401);
    let role = hs256(
        ACME,
        &json!({"iss": "issuer", "aud": "logserver", "sub": "ann", "tenant": "acme", "role": "platform_admin"}),
    );
    assert_eq!(server.get(&role, "/tenants").await.1["code"], "unknown_role");
    // The local issuer goes on beside it.
    let local = server.token(Some("acme"), &["viewer"]);
    assert_eq!(server.get(&local, "/logs").await.0, 200);
    // A header as large as heads may be, and larger: an answer, and the server lives on.
    for bytes in [60 << 10, 64 << 10, 256 << 10] {
        let authorization = format!("Bearer {}", "a".repeat(bytes));
        if let Ok(answer) = server.client.get(server.url("/logs")).header("authorization", authorization).send().await {
            assert!(matches!(answer.status().as_u16(), 400 | 401 | 431), "{bytes}: {}", answer.status());
        }
    }
    assert_eq!(server.get(&local, "/logs").await.0, 200);
    assert!(!server.stderr().contains(ACME), "no secret is logged");
    assert_eq!(server.stop(), Some(0));
}

/// A provider: its key set, on loopback.
struct Provider {
    url: String,
    set: Arc<Mutex<Vec<usize>>>,
    hangs: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("bound"));
        let made = Self {
            url,
            set: Arc::default(),
            hangs: Arc::default(),
            asked: Arc::default(),
        };
        let (set, hangs, asked) = (made.set.clone(), made.hangs.clone(), made.asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("it listens");
                asked.fetch_add(1, Ordering::SeqCst);
                let keys: Vec<Value> = set.lock().expect("no panic").iter().map(|at| jwk(*at)).collect();
                let hangs = hangs.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    let text = json!({ "keys": keys }).to_string();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
                        text.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        made
    }

    fn publishes(&self, keys: &[usize]) {
        *self.set.lock().expect("no panic") = keys.to_vec();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn jwk(at: usize) -> Value {
    let (kid, pem) = KEYS[at];
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key");
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).expect("public")).expect("plain");
    (jwk["kid"], jwk["use"]) = (json!(kid), json!("sig"));
    jwk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_changes_its_keys_while_requests_run_and_none_fails() {
    let provider = Provider::start().await;
    let mut site = Site::plain();
    let issuer = json!([{
        "name": "oidc", "issuer": "https://idp.example", "audience": ["sluice"], "algorithms": ["RS256"],
        "claims": {"tenant": "https://idp.example/org", "role": "realm_access.roles"}, "ignore_unknown_roles": true,
        "tenants": ["acme"], "max_role": "auditor", "keys": {"jwks_url": provider.url},
    }]);
    site.set("AUTH__ISSUERS", &issuer.to_string());
    // The provider has nothing to offer yet: the server starts all the same.
    let server = Arc::new(site.start());
    server.tenant("acme").await;
    server.ready().await;
    let keys: Vec<EncodingKey> = KEYS.iter().map(|(_, pem)| EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key")).collect();
    let keys = Arc::new(keys);
    // Each token is another one, so that none is answered from memory.
    let serial = Arc::new(AtomicUsize::new(0));
    let token = {
        let (keys, serial) = (keys.clone(), serial.clone());
        move |at: usize, exp: i64| {
            let claims = json!({
                "iss": "https://idp.example", "aud": ["account", "sluice"], "sub": "ann", "https://idp.example/org": "acme", "jti": serial.fetch_add(1, Ordering::SeqCst),
                "realm_access": {"roles": ["offline_access", "auditor"]}, "exp": chrono::Utc::now().timestamp() + exp,
            });
            rs256(KEYS[at].0, &keys[at], &claims)
        }
    };
    let (status, problem) = server.get(&token(0, 600), "/logs").await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "nothing to check it with");
    let failing = || async { server.get_health().await["dependencies"]["issuers"]["status"] == "failing" };
    server.until(failing, "health says so").await;
    provider.publishes(&[0]);
    server.until(|| async { server.get(&token(0, 600), "/logs").await.0 == 200 }, "the keys").await;

    // Three clients never stop; the provider signs with the next key as soon as it has published it beside the old one.
    let signs_with = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (server, token, signs_with, done) = (server.clone(), token.clone(), signs_with.clone(), done.clone());
            tokio::spawn(async move {
                let mut seen = [0; KEYS.len()];
                while !done.load(Ordering::SeqCst) {
                    let at = signs_with.load(Ordering::SeqCst);
                    let (status, body) = server.get(&token(at, 600), "/logs?page_size=1").await;
                    assert_eq!(status, 200, "signed with {}: {body}", KEYS[at].0);
                    seen[at] += 1;
                }
                seen
            })
        })
        .collect();
    for next in 1..KEYS.len() {
        let before = serial.load(Ordering::SeqCst);
        server.until(|| async { serial.load(Ordering::SeqCst) > before + 20 }, "requests").await;
        provider.publishes(&[next - 1, next]);
        signs_with.store(next, Ordering::SeqCst);
    }
    let before = serial.load(Ordering::SeqCst);
    server.until(|| async { serial.load(Ordering::SeqCst) > before + 20 }, "requests").await;
    done.store(true, Ordering::SeqCst);
    for client in clients {
        let seen = client.await.expect("no request failed");
        assert!(seen.iter().all(|n| *n > 0), "every key was used: {seen:?}");
    }

    // The provider hangs: the keys in force stay so, an unknown one is refused in bounded time, and invented ones ask it once.
    provider.hangs.store(true, Ordering::SeqCst);
    let good = token(2, 600);
    let stranger = rs256(
        "invented",
        &keys[0],
        &json!({"iss": "https://idp.example", "aud": "sluice", "sub": "eve", "https://idp.example/org": "acme"}),
    );
    let asked = provider.asked();
    let (status, problem) = server.get(&stranger, "/logs").await;
    assert_eq!((status, &problem["code"]), (401, &json!("invalid_credential")));
    for _ in 0..20 {
        assert_eq!(server.get(&stranger, "/logs").await.0, 401);
    }
    assert!(provider.asked() <= asked + 2, "by the stranger once, and by the clock at most");
    assert_eq!(server.get(&good, "/logs").await.0, 200);
    server.until(failing, "health says so").await;
    let health = server.get_health().await;
    let issuers = &health["dependencies"]["issuers"];
    assert_eq!(issuers["status"], "failing", "{health}");
    assert!(
        issuers["detail"]
            .as_str()
            .is_some_and(|text| text.contains("stay in force") && !text.contains("oidc")),
        "{health}"
    );
    assert_eq!(
        get(&server, &[("authorization", &format!("Bearer {}", token(2, -120)))], "/logs").await.1["code"],
        "expired_credential"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_on_this_machine_speaks_for_its_users() {
    let mut site = Site::plain();
    std::fs::write(site.folder.path().join("gateway.secret"), "the gateway's own secret, long enough\n").expect("written");
    site.set(
        "AUTH__GATEWAY",
        r#"{"enabled": true, "cidrs": ["127.0.0.0/8"], "secret_file": "gateway.secret"}"#,
    );
    let server = site.start();
    server.tenant("acme").await;
    let secret = ("x-gateway-secret", "the gateway's own secret, long enough");
    let user = [
        ("x-tenant-id", "acme"),
        ("x-user-id", "ann"),
        ("x-user-name", "Ann"),
        ("x-user-role", "auditor"),
    ];
    let with = |first: &[(&'static str, &'static str)]| [first, &user[..]].concat();
    for (what, headers, status) in [
        ("good", with(&[secret]), 200),
        ("no secret", with(&[]), 401),
        ("another secret", with(&[("x-gateway-secret", "x")]), 401),
        ("two users", with(&[secret, ("x-user-id", "eve")]), 401),
        ("and a token", with(&[secret, ("authorization", "Bearer x")]), 401),
    ] {
        assert_eq!(get(&server, &headers, "/logs").await.0, status, "{what}");
    }
    assert_eq!(get(&server, &with(&[secret]), "/tenants/acme/usage").await.0, 403, "an auditor");

    // Without the configuration the same headers are nothing.
    let plain = Site::plain();
    let server = plain.start();
    server.tenant("acme").await;
    assert_eq!(get(&server, &with(&[secret]), "/logs").await.1["code"], "missing_credential");
}
