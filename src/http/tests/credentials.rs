//! Hostile credentials, each with its answer; and that no answer tells what exists.

use super::*;
use crate::{
    auth::{
        Role,
        testing::{EC_A, ED_A, RSA_A, RSA_B, jwk, jwks, sign},
    },
    catalog::NewKey,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm::{self, *};

const PARTNER: &str = "a secret of a partner that is long enough";
const ACME: &str = "acme-0123456789abcdef0123456789abcdef";

const CONFIG: &str = r#"
[[auth.issuers]]
name = "partner"
issuer = "https://partner"
audience = ["sluice"]
algorithms = ["HS256"]
tenants = ["acme"]
max_role = "auditor"
keys = { secret = "a secret of a partner that is long enough" }

[[auth.issuers]]
name = "pki"
issuer = "https://pki"
audience = ["sluice"]
algorithms = ["RS256", "ES256", "EdDSA"]
keys = { jwks_file = "DIR/jwks.json" }

[[auth.issuers]]
name = "each its own"
issuer = "issuer"
audience = ["logserver"]
algorithms = ["HS256"]
require_exp = false
keys = { tenant_secrets = { acme = "acme-0123456789abcdef0123456789abcdef", globex = "globex-0123456789abcdef0123456789abcd" } }

[[auth.issuers]]
name = "unreachable"
issuer = "https://unreachable"
audience = ["sluice"]
algorithms = ["RS256"]
keys = { jwks_url = "http://127.0.0.1:1/jwks.json" }

[auth.gateway]
enabled = true
cidrs = ["10.0.0.0/8"]
secret = "the gateway's own secret"
"#;

async fn bench() -> (tempfile::TempDir, Bench) {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = [jwk(RS256, Some("r"), RSA_A), jwk(ES256, Some("e"), EC_A), jwk(EdDSA, Some("d"), ED_A)];
    std::fs::write(dir.path().join("jwks.json"), jwks(&keys)).expect("written");
    let bench = Bench::new().await.accepting(dir.path(), CONFIG);
    (dir, bench)
}

fn now() -> i64 {
    now_ms() / 1000
}

/// Good claims for an issuer, with changes; `null` leaves out.
fn claims(issuer: &str, changes: &Value) -> Value {
    let mut claims = json!({"iss": issuer, "aud": "sluice", "sub": "ann", "tenant": "acme", "role": "viewer", "exp": now() + 600});
    for (name, value) in changes.as_object().expect("an object") {
        claims[name.as_str()] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

fn partner(changes: Value) -> String {
    sign(HS256, None, PARTNER, &claims("https://partner", &changes))
}

fn pki(algorithm: Algorithm, kid: Option<&str>, key: &str) -> String {
    sign(algorithm, kid, key, &claims("https://pki", &json!({})))
}

/// The good partner's token with another header, signed as it was or not at all.
fn with_header(header: Value, signed: bool) -> String {
    let token = partner(json!({}));
    let mut parts = token.splitn(3, '.');
    let (_, claims, signature) = (parts.next(), parts.next().expect("claims"), parts.next().expect("a signature"));
    let signature = if signed { signature } else { "" };
    format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

type Headers = Vec<(&'static str, String)>;

fn bearer(token: impl AsRef<str>) -> Headers {
    vec![("authorization", format!("Bearer {}", token.as_ref()))]
}

fn key(text: impl Into<String>) -> Headers {
    vec![("x-api-key", text.into())]
}

fn and(mut headers: Headers, name: &'static str, value: &str) -> Headers {
    headers.push((name, value.to_owned()));
    headers
}

async fn ask(bench: &Bench, path: &str, headers: &Headers) -> Got {
    let mut request = Request::builder().uri(format!("/api/v1{path}"));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    bench.send(request.body(Body::empty()).expect("a request")).await
}

async fn issue(bench: &Bench, tenant: &str, role: Role) -> String {
    let new = NewKey {
        name: "a service".to_owned(),
        role,
        expires_at: None,
    };
    let tenant = TenantId::parse(tenant).expect("a tenant");
    let (_, text) = bench.services.catalog.create_key(&tenant, new).await.expect("made");
    text.reveal().to_owned()
}

#[tokio::test]
async fn every_hostile_credential_has_its_answer() {
    let (_dir, bench) = bench().await;
    let catalog = &bench.services.catalog;
    let good_key = issue(&bench, "acme", Role::Viewer).await;
    let writer_key = issue(&bench, "acme", Role::Writer).await;
    let revoked = issue(&bench, "acme", Role::Viewer).await;
    let revoked_id = revoked.split('_').nth(1).expect("an id").to_owned();
    catalog.revoke_key(&TenantId::parse("acme").expect("good"), &revoked_id).await.expect("revoked");
    let of_deleted = issue(&bench, "globex", Role::Viewer).await;
    catalog.drop_tenant(&TenantId::parse("globex").expect("good")).await.expect("dropped");
    let rsa_public = crate::auth::testing::RSA_A_PUB;
    let local = |changes: Value| {
        let mut claims = claims("", &changes);
        for gone in ["iss", "aud"] {
            claims.as_object_mut().expect("an object").remove(gone);
        }
        sign(HS256, None, std::str::from_utf8(SECRET).expect("text"), &claims)
    };
    let own = |tenant: Value, secret: &str| {
        sign(
            HS256,
            None,
            secret,
            &claims("issuer", &json!({"aud": "logserver", "exp": null, "tenant": tenant})),
        )
    };
    let last = |text: &str| text[..text.len() - 1].to_owned();

    let (invalid, expired, tenant) = ((401, "invalid_credential"), (401, "expired_credential"), (401, "invalid_tenant_claim"));
    let (ambiguous, role, forbidden) = ((401, "ambiguous_credential"), (403, "unknown_role"), (403, "forbidden"));
    let ok = (200, "");
    let mut table: Vec<(String, Headers, (u16, &str))> = Vec::new();
    let mut row = |what: &str, headers: Headers, want: (u16, &'static str)| table.push((what.to_owned(), headers, want));
    row("none", vec![], (401, "missing_credential"));
    row("a good token", bearer(partner(json!({}))), ok);
    row("a good key", key(&good_key), ok);
    row("a good key as bearer", bearer(&good_key), ok);
    for alg in ["none", "None", "NONE", "nOnE"] {
        row("alg none, unsigned", bearer(with_header(json!({"alg": alg, "typ": "JWT"}), false)), invalid);
        row("alg none, signed", bearer(with_header(json!({"alg": alg, "typ": "JWT"}), true)), invalid);
    }
    row("alg missing", bearer(with_header(json!({"typ": "JWT"}), true)), invalid);
    row("alg in lower case", bearer(with_header(json!({"alg": "hs256"}), true)), invalid);
    row("alg of nobody", bearer(with_header(json!({"alg": "HS257"}), true)), invalid);
    row("alg as list", bearer(with_header(json!({"alg": ["HS256"]}), true)), invalid);
    row("unsigned", bearer(with_header(json!({"alg": "HS256"}), false)), invalid);
    row(
        "its own key in the header",
        bearer(with_header(json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}}), true)),
        invalid,
    );
    row("critical", bearer(with_header(json!({"alg": "HS256", "crit": ["exp"]}), true)), invalid);
    for (alg, kid) in [(HS256, None), (HS256, Some("r")), (HS384, Some("r")), (HS512, None)] {
        row("RS to HS", bearer(pki(alg, kid, rsa_public)), invalid);
    }
    row("RS256", bearer(pki(RS256, Some("r"), RSA_A)), ok);
    row("ES256", bearer(pki(ES256, Some("e"), EC_A)), ok);
    row("EdDSA", bearer(pki(EdDSA, Some("d"), ED_A)), ok);
    row("PS256 is not on the list", bearer(pki(PS256, Some("r"), RSA_A)), invalid);
    row("wrong kid", bearer(pki(RS256, Some("e"), RSA_A)), invalid);
    row("unknown kid", bearer(pki(RS256, Some("../../secret"), RSA_A)), invalid);
    row("another key", bearer(pki(RS256, Some("r"), RSA_B)), invalid);
    row("unknown issuer", bearer(partner(json!({"iss": "https://elsewhere"}))), invalid);
    row("issuer as number", bearer(partner(json!({"iss": 5}))), invalid);
    row("no issuer", bearer(partner(json!({"iss": null}))), invalid);
    row(
        "another's secret",
        bearer(sign(HS256, None, PARTNER, &claims("issuer", &json!({"aud": "logserver"})))),
        invalid,
    );
    row("wrong audience", bearer(partner(json!({"aud": "other"}))), invalid);
    row("no audience", bearer(partner(json!({"aud": null}))), invalid);
    row("expired", bearer(partner(json!({"exp": now() - 61}))), expired);
    row("never expires", bearer(partner(json!({"exp": null}))), invalid);
    row("not yet valid", bearer(partner(json!({"nbf": now() + 120}))), invalid);
    for claim in [
        json!(5),
        json!({}),
        json!(["acme"]),
        json!([]),
        json!([5]),
        json!(""),
        json!("../x"),
        json!("ACME"),
        json!(true),
        json!(null),
    ] {
        row(&format!("local tenant {claim}"), bearer(local(json!({"tenant": claim}))), tenant);
    }
    for claim in [
        json!(5),
        json!({}),
        json!([]),
        json!([5]),
        json!(["../x"]),
        json!(""),
        json!("../x"),
        json!("acme\u{0}"),
        json!(null),
    ] {
        row(&format!("tenant {claim}"), bearer(partner(json!({"tenant": claim}))), tenant);
    }
    for claim in [
        json!("root"),
        json!(["viewer", "root"]),
        json!(5),
        json!([]),
        json!(null),
        json!("platform_admin"),
    ] {
        row(&format!("role {claim}"), bearer(partner(json!({"role": claim}))), role);
    }
    row("role out of bounds", bearer(partner(json!({"role": "admin"}))), forbidden);
    row("tenant out of bounds", bearer(partner(json!({"tenant": "globex"}))), forbidden);
    row("tenant that is none", bearer(local(json!({"tenant": "ghost"}))), (403, "unknown_tenant"));
    row(
        "several tenants",
        bearer(local(json!({"tenant": ["acme", "globex"]}))),
        (401, "ambiguous_tenant"),
    );
    row(
        "several, one chosen",
        and(bearer(local(json!({"tenant": ["acme", "globex"]}))), "x-tenant-id", "acme"),
        ok,
    );
    row(
        "several, another chosen",
        and(bearer(local(json!({"tenant": ["acme", "globex"]}))), "x-tenant-id", "initech"),
        forbidden,
    );
    row("one, another chosen", and(bearer(partner(json!({}))), "x-tenant-id", "globex"), forbidden);
    row("a key, another chosen", and(key(&good_key), "x-tenant-id", "globex"), forbidden);
    let twice = and(
        and(bearer(local(json!({"tenant": ["acme", "globex"]}))), "x-tenant-id", "acme"),
        "x-tenant-id",
        "globex",
    );
    row("two tenants chosen", twice, forbidden);
    row("acme's secret for acme", bearer(own(json!("acme"), ACME)), ok);
    row("acme's secret for globex", bearer(own(json!("globex"), ACME)), invalid);
    row("acme's secret for nobody", bearer(own(json!("ghost"), ACME)), invalid);
    row(
        "acme's secret for both",
        and(bearer(own(json!(["acme", "globex"]), ACME)), "x-tenant-id", "globex"),
        invalid,
    );
    row("two bearers", and(bearer(partner(json!({}))), "authorization", "Bearer x"), ambiguous);
    row("token and key", and(bearer(partner(json!({}))), "x-api-key", &good_key), ambiguous);
    row("the same key twice", and(bearer(&good_key), "x-api-key", &good_key), ambiguous);
    row("token and gateway", and(bearer(partner(json!({}))), "x-gateway-secret", "x"), ambiguous);
    row("basic", vec![("authorization", "Basic YTpi".to_owned())], invalid);
    row("empty bearer", vec![("authorization", "Bearer ".to_owned())], invalid);
    row("a token as key", key(partner(json!({}))), invalid);
    row("a truncated key", key(last(&good_key)), invalid);
    row("a longer key", key(format!("{good_key}0")), invalid);
    row("a key's beginning", key(good_key.rsplit_once('_').expect("three parts").0), invalid);
    row(
        "a key with another's secret",
        key(format!(
            "{}_{}",
            good_key.rsplit_once('_').expect("parts").0,
            writer_key.rsplit_once('_').expect("parts").1
        )),
        invalid,
    );
    row("a revoked key", key(&revoked), invalid);
    row("a key of a deleted tenant", key(&of_deleted), invalid);
    row("an empty key", key(""), invalid);
    row("a key without the role", key(&writer_key), forbidden);
    row("60 KiB", bearer("a".repeat(60 << 10)), invalid);
    row("64 KiB", bearer("a".repeat(64 << 10)), (431, "head_too_large"));
    row("60 KiB of a key", key(format!("slk_{}", "a".repeat(60 << 10))), invalid);
    row(
        "60 KiB of tenant",
        and(bearer(partner(json!({}))), "x-tenant-id", &"a".repeat(60 << 10)),
        forbidden,
    );
    row("deep claims", bearer(partner(json!({"x": deep(120)}))), ok);
    row(
        "too deep claims",
        bearer(format!(
            "{}.{}.x",
            URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}"),
            URL_SAFE_NO_PAD.encode("[".repeat(5000))
        )),
        invalid,
    );
    row(
        "keys that were never fetched",
        bearer(sign(RS256, Some("r"), RSA_A, &claims("https://unreachable", &json!({})))),
        (503, "unavailable"),
    );
    let gateway = |secret: &str| {
        vec![
            ("x-gateway-secret", secret.to_owned()),
            ("x-user-id", "ann".to_owned()),
            ("x-user-role", "admin".to_owned()),
            ("x-tenant-id", "acme".to_owned()),
        ]
    };
    row("a gateway from elsewhere", gateway("the gateway's own secret"), invalid);
    row("gateway headers without the secret", gateway("").split_off(1), (401, "missing_credential"));

    let mut wrong = Vec::new();
    for (what, headers, (status, code)) in &table {
        let got = ask(&bench, "/logs", headers).await;
        let found = (
            got.status.as_u16(),
            if got.status == 200 {
                String::new()
            } else {
                got.json()["code"].as_str().unwrap_or_default().to_owned()
            },
        );
        if found != (*status, (*code).to_owned()) {
            wrong.push(format!("{what}: {found:?} instead of {status} {code}"));
        }
        if (got.status == 401) != got.headers.contains_key("www-authenticate") {
            wrong.push(format!("{what}: {} and WWW-Authenticate do not go together", got.status));
        }
        let text = String::from_utf8_lossy(&got.bytes);
        if got.status != 200 && headers.iter().any(|(_, value)| value.len() > 8 && text.contains(value.as_str())) {
            wrong.push(format!("{what}: the answer repeats the credential"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn no_answer_tells_what_exists() {
    let (_dir, bench) = bench().await;
    let there = issue(&bench, "acme", Role::Viewer).await;
    let (named, _) = there.rsplit_once('_').expect("three parts");
    let (x, y) = ("x".repeat(43), "y".repeat(16));
    let own = |tenant: &str| {
        sign(
            HS256,
            None,
            "no secret of anybody, but long enough",
            &claims("issuer", &json!({"aud": "logserver", "tenant": tenant})),
        )
    };
    for (what, one, other) in [
        ("an id of a key", key(format!("{named}_{x}")), key(format!("slk_{y}_{x}"))),
        ("a tenant with a secret", bearer(own("acme")), bearer(own("ghost"))),
        (
            "a tenant to choose",
            and(key(&there), "x-tenant-id", "globex"),
            and(key(&there), "x-tenant-id", "ghost"),
        ),
        (
            "a tenant out of bounds",
            bearer(partner(json!({"tenant": "globex"}))),
            bearer(partner(json!({"tenant": "ghost"}))),
        ),
        (
            "a tenant in the path",
            bearer(token(Some("acme"), "admin")),
            bearer(token(Some("acme"), "admin")),
        ),
    ] {
        let path = |tenant: &str| {
            if what == "a tenant in the path" {
                format!("/tenants/{tenant}")
            } else {
                "/logs".to_owned()
            }
        };
        let answers = [ask(&bench, &path("globex"), &one).await, ask(&bench, &path("ghost"), &other).await];
        let [one, other] = answers.map(|got| {
            let (mut json, mut headers) = (got.json(), got.headers.clone());
            json.as_object_mut().expect("an object").remove("request_id");
            headers.remove("x-request-id");
            headers.remove("content-length");
            assert!(matches!(got.status.as_u16(), 401 | 403), "{what}");
            (got.status, json, headers)
        });
        assert_eq!(one, other, "{what}");
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_its_feed_is_closed() {
    let served = super::server::Served::new().await;
    let text = issue(&served.bench, "acme", Role::Viewer).await;
    let mut feed = super::feed::connect(&served, "", &text).await.expect("open");
    assert_eq!(ask(&served.bench, "/logs", &key(&text)).await.status, 200);
    let id = text.split('_').nth(1).expect("an id");
    let acme = TenantId::parse("acme").expect("good");
    served.bench.services.catalog.revoke_key(&acme, id).await.expect("revoked");
    assert_eq!(ask(&served.bench, "/logs", &key(&text)).await.status, 401);
    assert_eq!(super::feed::closed(&mut feed).await, 4001);
}
