//! Issuers of the configuration: who signs how, says what, and reaches how far.

use crate::auth::{
    AuthError::{self, *},
    Authenticator, Credential, GatewayHeaders, Origin, Presented, Role,
    testing::{EC_A, ED_A, RSA_A, RSA_B, SECRET, authenticator, jwk, jwks, sign},
};
use jsonwebtoken::Algorithm::{self, *};
use serde_json::{Value, json};
use std::{fs, net::IpAddr};

const NOW: i64 = 1_800_000_000;
const PARTNER: &str = "a secret of a partner that is long enough";
const ACME: &str = "acme-0123456789abcdef0123456789abcdef";
const GLOBEX: &str = "globex-0123456789abcdef0123456789abcd";

const CONFIG: &str = r#"
[[auth.issuers]]
name = "partner"
issuer = "https://partner"
audience = ["sluice", "audit"]
algorithms = ["HS256", "HS512"]
claims = { tenant = "org.ids", role = "https://partner/roles", subject = "email" }
roles = { Operator = ["writer", "viewer"], Boss = ["admin"], Root = ["platform_admin"] }
tenants = ["acme", "globex-*"]
max_role = "auditor"
keys = { secret = "a secret of a partner that is long enough" }

[[auth.issuers]]
name = "pki"
issuer = "https://pki"
audience = ["sluice"]
algorithms = ["RS256", "PS256", "ES256", "EdDSA"]
allow_platform = true
ignore_unknown_roles = true
keys = { jwks_file = "DIR/jwks.json" }

[[auth.issuers]]
name = "pki for others"
issuer = "https://pki"
audience = ["other"]
algorithms = ["RS256"]
keys = { pem_file = "DIR/rsa_b.pub" }

[[auth.issuers]]
name = "each its own"
issuer = "issuer"
audience = "logserver"
algorithms = ["HS256"]
require_exp = false
keys = { tenant_secrets = { acme = "acme-0123456789abcdef0123456789abcdef", globex = "globex-0123456789abcdef0123456789abcd" } }

[auth.gateway]
enabled = true
cidrs = ["10.0.0.0/8", "fd00::/8"]
secret = "the gateway's own secret"
"#;

fn set_up() -> (tempfile::TempDir, Authenticator) {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = [jwk(RS256, Some("r"), RSA_A), jwk(ES256, Some("e"), EC_A), jwk(EdDSA, Some("d"), ED_A)];
    let mut keys = keys.to_vec();
    keys[0].as_object_mut().expect("an object").remove("alg"); // so that it does PS256 too
    fs::write(dir.path().join("jwks.json"), jwks(&keys)).expect("written");
    fs::write(dir.path().join("rsa_b.pub"), crate::auth::testing::RSA_B_PUB).expect("written");
    let made = authenticator(SECRET, dir.path(), CONFIG, None);
    (dir, made)
}

fn merged(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name.as_str()] = value.clone(),
        }
    }
    claims
}

fn partner(changes: Value) -> Value {
    let claims = json!({
        "iss": "https://partner", "aud": "sluice", "email": "ann@partner", "exp": NOW + 100,
        "org": {"ids": "acme"}, "https://partner/roles": ["operator"],
    });
    merged(claims, changes)
}

fn pki(changes: Value) -> Value {
    let claims = json!({"iss": "https://pki", "aud": ["x", "sluice"], "sub": "ann", "exp": NOW + 100, "tenant": "acme", "role": "viewer"});
    merged(claims, changes)
}

fn own(changes: Value) -> Value {
    merged(
        json!({"iss": "issuer", "aud": "logserver", "sub": "ann", "tenant": "acme", "role": "admin"}),
        changes,
    )
}

#[tokio::test]
async fn every_token_gets_what_its_issuers_configuration_says() {
    let (_dir, auth) = set_up();
    let hs = |claims: Value| sign(HS256, None, PARTNER, &claims);
    let rs = |claims: Value| sign(RS256, Some("r"), RSA_A, &claims);
    let by = |key: &str, claims: Value| sign(HS256, None, key, &claims);
    let none: Option<&str> = None;
    let with = |algorithm: Algorithm, kid: Option<&str>, key: &str| sign(algorithm, kid, key, &pki(json!({})));
    let crit = {
        let mut header = jsonwebtoken::Header::new(HS256);
        header.crit = Some(vec!["b64".to_owned()]);
        jsonwebtoken::encode(&header, &partner(json!({})), &crate::auth::testing::signer(HS256, PARTNER)).expect("encodes")
    };
    type Want = Result<(&'static str, &'static [Role]), AuthError>;
    use Role::{Admin, PlatformAdmin, Viewer, Writer};
    let operator: Want = Ok(("acme", &[Writer, Viewer]));
    let viewer: Want = Ok(("acme", &[Viewer]));
    let several = json!({"org": {"ids": ["acme", "globex-1", "initech"]}});
    let rsa_public = crate::auth::testing::RSA_A_PUB;
    let table: Vec<(&str, String, Option<&str>, Want)> = vec![
        // Signatures and algorithms.
        ("good", hs(partner(json!({}))), none, operator.clone()),
        ("HS512 is on the list", sign(HS512, None, PARTNER, &partner(json!({}))), none, operator.clone()),
        ("HS384 is not", sign(HS384, None, PARTNER, &partner(json!({}))), none, Err(Malformed)),
        ("another secret", by("another secret", partner(json!({}))), none, Err(Signature)),
        (
            "the local secret",
            by("0123456789abcdef0123456789abcdef", partner(json!({}))),
            none,
            Err(Signature),
        ),
        ("critical header", crit, none, Err(Malformed)),
        ("RS256", with(RS256, Some("r"), RSA_A), none, viewer.clone()),
        ("PS256", with(PS256, Some("r"), RSA_A), none, viewer.clone()),
        ("ES256", with(ES256, Some("e"), EC_A), none, viewer.clone()),
        ("EdDSA", with(EdDSA, Some("d"), ED_A), none, viewer.clone()),
        ("no kid", with(EdDSA, None, ED_A), none, viewer.clone()),
        ("wrong kid", with(RS256, Some("e"), RSA_A), none, Err(Signature)),
        ("unknown kid", with(RS256, Some("x"), RSA_A), none, Err(Signature)),
        ("another key under a known kid", with(RS256, Some("r"), RSA_B), none, Err(Signature)),
        ("public key as secret", by(rsa_public, pki(json!({}))), none, Err(Malformed)),
        (
            "public key as secret, with its kid",
            sign(HS256, Some("r"), rsa_public, &pki(json!({}))),
            none,
            Err(Malformed),
        ),
        // Whose, and for whom.
        ("unknown issuer", hs(partner(json!({"iss": "https://elsewhere"}))), none, Err(UnknownIssuer)),
        ("issuer as list", hs(partner(json!({"iss": ["https://partner"]}))), none, Err(UnknownIssuer)),
        ("no issuer is the local one", hs(partner(json!({"iss": null}))), none, Err(Signature)),
        ("another's issuer", hs(pki(json!({}))), none, Err(Malformed)),
        ("second audience", hs(partner(json!({"aud": ["x", "audit"]}))), none, operator.clone()),
        ("wrong audience", hs(partner(json!({"aud": "other"}))), none, Err(Audience)),
        ("no audience", hs(partner(json!({"aud": null}))), none, Err(Audience)),
        ("audience as number", hs(partner(json!({"aud": 5}))), none, Err(Audience)),
        ("audience part", hs(partner(json!({"aud": "sluic"}))), none, Err(Audience)),
        (
            "same issuer, other audience, other key",
            sign(RS256, None, RSA_B, &pki(json!({"aud": "other"}))),
            none,
            viewer.clone(),
        ),
        ("the key of the other audience", sign(RS256, None, RSA_B, &pki(json!({}))), none, Err(Signature)),
        // Times.
        ("expired", hs(partner(json!({"exp": NOW - 60}))), none, Err(Expired)),
        ("within the leeway", hs(partner(json!({"exp": NOW - 59}))), none, operator.clone()),
        ("no expiry", hs(partner(json!({"exp": null}))), none, Err(NoExpiry)),
        ("not yet", hs(partner(json!({"nbf": NOW + 61}))), none, Err(NotYet)),
        // Who.
        ("no subject", hs(partner(json!({"email": null, "sub": "ann"}))), none, Err(Subject)),
        ("subject as number", hs(partner(json!({"email": 5}))), none, Err(Subject)),
        // Roles.
        (
            "role as text, any case",
            hs(partner(json!({"https://partner/roles": "OPERATOR"}))),
            none,
            operator.clone(),
        ),
        (
            "role of the default map",
            hs(partner(json!({"https://partner/roles": "viewer"}))),
            none,
            Err(UnknownRole),
        ),
        (
            "one unknown role of two",
            hs(partner(json!({"https://partner/roles": ["operator", "x"]}))),
            none,
            Err(UnknownRole),
        ),
        ("no role", hs(partner(json!({"https://partner/roles": null}))), none, Err(UnknownRole)),
        (
            "role beyond max_role",
            hs(partner(json!({"https://partner/roles": "boss"}))),
            none,
            Err(OutOfBounds),
        ),
        (
            "platform_admin where it may not",
            hs(partner(json!({"https://partner/roles": ["root"]}))),
            none,
            Err(OutOfBounds),
        ),
        (
            "platform_admin where it may",
            rs(pki(json!({"role": "platform_admin", "tenant": null}))),
            none,
            Ok(("", &[PlatformAdmin])),
        ),
        (
            "platform_admin with max_role alone",
            by(ACME, own(json!({"role": "platform_admin"}))),
            none,
            Err(UnknownRole),
        ),
        (
            "unknown roles passed over",
            rs(pki(json!({"role": ["offline_access", "viewer"]}))),
            none,
            viewer.clone(),
        ),
        ("unknown roles alone", rs(pki(json!({"role": ["offline_access"]}))), none, Err(UnknownRole)),
        // Tenants.
        (
            "tenant by prefix",
            hs(partner(json!({"org": {"ids": "globex-1"}}))),
            none,
            Ok(("globex-1", &[Writer, Viewer])),
        ),
        ("tenant out of bounds", hs(partner(json!({"org": {"ids": "initech"}}))), none, Err(OutOfBounds)),
        (
            "prefix without its dash",
            hs(partner(json!({"org": {"ids": "globex"}}))),
            none,
            Err(OutOfBounds),
        ),
        ("list of one", hs(partner(json!({"org": {"ids": ["acme"]}}))), none, operator.clone()),
        (
            "list of the same",
            hs(partner(json!({"org": {"ids": ["acme", "acme"]}}))),
            none,
            operator.clone(),
        ),
        ("several, none chosen", hs(partner(several.clone())), none, Err(AmbiguousTenant)),
        (
            "several, one chosen",
            hs(partner(several.clone())),
            Some("globex-1"),
            Ok(("globex-1", &[Writer, Viewer])),
        ),
        (
            "several, one chosen out of bounds",
            hs(partner(several.clone())),
            Some("initech"),
            Err(OutOfBounds),
        ),
        ("several, another chosen", hs(partner(several)), Some("umbrella"), Err(NotCovered)),
        ("one, the same chosen", hs(partner(json!({}))), Some("acme"), operator.clone()),
        ("one, another chosen", hs(partner(json!({}))), Some("globex-1"), Err(NotCovered)),
        ("chosen in another case", hs(partner(json!({}))), Some("ACME"), Err(NotCovered)),
        ("tenant missing", hs(partner(json!({"org": null}))), none, Err(Tenant)),
        ("path through a text", hs(partner(json!({"org": "acme"}))), none, Err(Tenant)),
        (
            "literal name before the path",
            hs(partner(json!({"org.ids": "globex-2"}))),
            none,
            Ok(("globex-2", &[Writer, Viewer])),
        ),
        ("tenant as number", hs(partner(json!({"org": {"ids": 5}}))), none, Err(Tenant)),
        ("empty tenant", hs(partner(json!({"org": {"ids": ""}}))), none, Err(Tenant)),
        ("empty list", hs(partner(json!({"org": {"ids": []}}))), none, Err(Tenant)),
        ("../x", hs(partner(json!({"org": {"ids": "../x"}}))), none, Err(Tenant)),
        (
            "../x in a list",
            hs(partner(json!({"org": {"ids": ["acme", "../x"]}}))),
            Some("acme"),
            Err(Tenant),
        ),
        // A secret for each tenant.
        ("no exp needed", by(ACME, own(json!({}))), none, Ok(("acme", &[Admin]))),
        ("but looked at when there", by(ACME, own(json!({"exp": NOW - 100}))), none, Err(Expired)),
        ("and must be a number then", by(ACME, own(json!({"exp": "never"}))), none, Err(NoExpiry)),
        (
            "the other tenant's own",
            by(GLOBEX, own(json!({"tenant": "globex"}))),
            none,
            Ok(("globex", &[Admin])),
        ),
        ("acme's secret for globex", by(ACME, own(json!({"tenant": "globex"}))), none, Err(Signature)),
        (
            "acme's secret for both",
            by(ACME, own(json!({"tenant": ["acme", "globex"]}))),
            Some("globex"),
            Err(Signature),
        ),
        (
            "acme's secret for a tenant without one",
            by(ACME, own(json!({"tenant": "initech"}))),
            none,
            Err(Signature),
        ),
        (
            "acme's secret for none",
            by(ACME, own(json!({"tenant": null, "role": "platform_admin"}))),
            none,
            Err(Signature),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, token, tenant, want) in table {
        let presented = Presented {
            credential: Credential::Bearer(&token),
            tenant,
        };
        // Twice: found by its signature, then remembered.
        for _ in 0..2 {
            let got = auth.authenticate_at(&presented, NOW);
            let got = got.as_ref().map(|p| (p.tenant.as_ref().map_or("", |t| t.as_str()), p.roles.as_slice()));
            if got != want.as_ref().map(|(tenant, roles)| (*tenant, *roles)) {
                wrong.push(format!("{what}: {got:?} instead of {want:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_principal_says_who_vouches_and_ends_with_the_key_that_signed() {
    let (dir, auth) = set_up();
    let token = sign(ES256, Some("e"), EC_A, &pki(json!({})));
    let principal = auth.authenticate_at(&Presented::bearer(&token), NOW).expect("good");
    assert!(matches!(&principal.origin, Origin::Issuer { name, .. } if &**name == "pki"));
    assert_eq!((&*principal.subject, principal.expires_at, principal.masked()), ("ann", Some(NOW + 100), true));
    assert!(auth.still_good_at(&principal, NOW + 159) && !auth.still_good_at(&principal, NOW + 160));
    // The provider drops the key: what it signed is refused, although it was remembered a moment ago.
    fs::write(dir.path().join("jwks.json"), jwks(&[jwk(RS256, Some("r"), RSA_A)])).expect("written");
    let other = sign(RS256, Some("new"), RSA_A, &pki(json!({})));
    assert_eq!(auth.authenticate(&Presented::bearer(&other)).await, Err(Signature));
    assert!(!auth.still_good_at(&principal, NOW));
    assert_eq!(auth.authenticate_at(&Presented::bearer(&token), NOW), Err(Signature));
}

#[tokio::test]
async fn a_gateway_is_believed_from_its_network_with_its_secret() {
    let (_dir, auth) = set_up();
    let secret: &[u8] = b"the gateway's own secret";
    let headers = |peer: &str, secret: &'static [u8], user_id, user_role| GatewayHeaders {
        peer: peer.parse::<IpAddr>().expect("an address"),
        secret,
        user_id,
        user_name: None,
        user_role,
    };
    let (ann, viewer) = (Some("ann"), Some("viewer"));
    for (what, headers, tenant, want) in [
        ("good", headers("10.1.2.3", secret, ann, viewer), Some("acme"), Ok("acme")),
        ("mapped", headers("::ffff:10.1.2.3", secret, ann, viewer), Some("acme"), Ok("acme")),
        ("version 6", headers("fd00::1", secret, ann, viewer), Some("acme"), Ok("acme")),
        ("elsewhere", headers("11.1.2.3", secret, ann, viewer), Some("acme"), Err(Gateway)),
        ("no address", headers("0.0.0.0", secret, ann, viewer), Some("acme"), Err(Gateway)),
        (
            "another secret",
            headers("10.1.2.3", b"the gateway's own secre", ann, viewer),
            Some("acme"),
            Err(Gateway),
        ),
        ("no secret", headers("10.1.2.3", b"", ann, viewer), Some("acme"), Err(Gateway)),
        ("nobody", headers("10.1.2.3", secret, None, viewer), Some("acme"), Err(Subject)),
        ("no role", headers("10.1.2.3", secret, ann, None), Some("acme"), Err(UnknownRole)),
        (
            "unknown role",
            headers("10.1.2.3", secret, ann, Some("viewer, root")),
            Some("acme"),
            Err(UnknownRole),
        ),
        (
            "platform",
            headers("10.1.2.3", secret, ann, Some("platform_admin")),
            Some("acme"),
            Err(UnknownRole),
        ),
        ("no tenant", headers("10.1.2.3", secret, ann, viewer), None, Err(Tenant)),
        ("no such tenant id", headers("10.1.2.3", secret, ann, viewer), Some("../x"), Err(Tenant)),
    ] {
        let presented = Presented {
            credential: Credential::Gateway(headers),
            tenant,
        };
        let got = auth.authenticate_at(&presented, NOW);
        assert_eq!(
            got.as_ref().map(|p| p.tenant.as_ref().map_or("", |t| t.as_str())),
            want.as_ref().copied(),
            "{what}"
        );
    }
}
