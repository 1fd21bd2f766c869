//! Tokens of the local issuer.

use crate::auth::{
    AuthError, Authenticator, Origin, Presented, Principal, Role,
    jwt::{NewToken, mint},
    testing::SECRET,
    token::MAX_TOKEN,
};
use crate::model::tenant::TenantId;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const NOW: i64 = 1_800_000_000;

fn sign(header: Header, claims: &Value) -> String {
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(SECRET)).expect("encodes")
}

fn good() -> Value {
    json!({"sub": "ann", "tenant": "acme", "role": "viewer", "exp": NOW + 100})
}

/// The good claims with one changed (`null`: left out).
fn with(name: &str, value: Value) -> String {
    let mut claims = good();
    match value {
        Value::Null => claims.as_object_mut().expect("an object").remove(name),
        value => claims.as_object_mut().expect("an object").insert(name.to_owned(), value),
    };
    sign(Header::new(Algorithm::HS256), &claims)
}

fn check(token: &str) -> Result<Principal, AuthError> {
    Authenticator::local(SECRET).authenticate_at(&Presented::bearer(token), NOW)
}

fn base64(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn a_minted_token_is_good() {
    let tenant = TenantId::parse("acme").expect("good");
    let token = NewToken {
        sub: "ann",
        tenant: Some(&tenant),
        role: &["user".to_owned(), "Auditor".to_owned()],
        exp: NOW + 100,
    };
    let expected = Principal {
        subject: "ann".into(),
        tenant: Some(tenant.clone()),
        roles: vec![Role::Writer, Role::Viewer, Role::Auditor],
        expires_at: Some(NOW + 100),
        origin: Origin::Local,
    };
    assert_eq!(check(&mint(SECRET, &token)), Ok(expected));
}

#[test]
fn hostile_tokens_are_refused_each_for_its_reason() {
    let plain = with("x", json!(1));
    let (head, rest) = plain.split_once('.').expect("three parts");
    let (body, signature) = rest.split_once('.').expect("three parts");
    let none = |alg: &str| base64(&format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#));
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["exp".to_owned()]);
    let admin = base64(&json!({"sub": "ann", "tenant": "acme", "role": "admin", "exp": NOW + 100}).to_string());
    let other = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &good(), &EncodingKey::from_secret(b"another secret")).expect("encodes");
    use AuthError::*;
    let table = [
        ("", Malformed),
        ("x", Malformed),
        ("..", Malformed),
        ("\u{1f600}.\u{1f600}.\u{1f600}", Malformed),
        (&format!("{plain}."), Malformed),
        (&format!("{plain}="), Signature),
        (&format!(" {plain}"), Malformed),
        (&"a".repeat(MAX_TOKEN + 1), Malformed),
        (&format!("{}.{body}.", none("none")), Malformed),
        (&format!("{}.{body}.{signature}", none("none")), Malformed),
        (&format!("{}.{body}.{signature}", none("NONE")), Malformed),
        (&format!("{}.{body}.{signature}", none("RS256")), Malformed),
        (&format!("{}.{body}.{signature}", none("HS384")), Malformed),
        (&sign(Header::new(Algorithm::HS512), &good()), Malformed),
        (&sign(critical, &good()), Malformed),
        (&format!("{head}.{body}."), Signature),
        (&format!("{head}.{admin}.{signature}"), Signature),
        (&other, Signature),
        (&with("exp", Value::Null), NoExpiry),
        (&with("exp", json!("tomorrow")), NoExpiry),
        (&with("exp", json!((NOW + 100).to_string())), NoExpiry),
        (&with("exp", json!([NOW])), NoExpiry),
        (&with("exp", json!(NOW - 60)), Expired),
        (&with("exp", json!(0)), Expired),
        (&with("exp", json!(-1)), Expired),
        (&with("exp", json!(i64::MIN)), Expired),
        (&with("nbf", json!(NOW + 61)), NotYet),
        (&with("nbf", json!("soon")), NotYet),
        (&with("sub", Value::Null), Subject),
        (&with("sub", json!("")), Subject),
        (&with("sub", json!(7)), Subject),
        (&with("sub", json!("a\nb")), Subject),
        (&with("sub", json!("a\u{0}")), Subject),
        (&with("sub", json!("x".repeat(257))), Subject),
        (&with("tenant", Value::Null), Tenant),
        (&with("tenant", json!("")), Tenant),
        (&with("tenant", json!(5)), Tenant),
        (&with("tenant", json!(["acme"])), Tenant),
        (&with("tenant", json!({"id": "acme"})), Tenant),
        (&with("tenant", json!([])), Tenant),
        (&with("tenant", json!(["acme", 5])), Tenant),
        (&with("tenant", json!(["acme", "../x"])), Tenant),
        (&with("tenant", json!(["acme", "globex"])), AmbiguousTenant),
        (&with("tenant", json!("acme.access")), Tenant),
        (&with("iss", json!("https://elsewhere")), UnknownIssuer),
        (&with("iss", json!("")), UnknownIssuer),
        (&with("iss", json!(7)), UnknownIssuer),
        (&with("tenant", json!("../x")), Tenant),
        (&with("tenant", json!("Acme")), Tenant),
        (&with("tenant", json!("acme\u{0}")), Tenant),
        (&with("tenant", json!("a".repeat(64))), Tenant),
        (&with("role", Value::Null), UnknownRole),
        (&with("role", json!("root")), UnknownRole),
        (&with("role", json!("")), UnknownRole),
        (&with("role", json!([])), UnknownRole),
        (&with("role", json!(1)), UnknownRole),
        (&with("role", json!(["viewer", 1])), UnknownRole),
        (&with("role", json!(["viewer", "root"])), UnknownRole),
        (&with("role", json!("viewer,admin")), UnknownRole),
    ];
    for (token, expected) in table {
        assert_eq!(check(token), Err(expected), "{token}");
    }
}

#[test]
fn clocks_may_differ_by_a_minute() {
    for (name, at) in [("exp", NOW - 59), ("exp", i64::MAX), ("nbf", NOW + 60), ("nbf", NOW)] {
        assert!(check(&with(name, json!(at))).is_ok(), "{name} {at}");
    }
    assert!(check(&with("exp", json!(NOW as f64 + 0.5))).is_ok());
}

#[test]
fn roles_map_in_any_case_and_only_a_pure_platform_admin_needs_no_tenant() {
    use Role::*;
    let table: [(Value, &[Role]); 9] = [
        (json!("ADMIN"), &[Admin]),
        (json!("auditor"), &[Auditor]),
        (json!("User"), &[Writer, Viewer]),
        (json!("viewer"), &[Viewer]),
        (json!("Reader"), &[Viewer]),
        (json!("writer"), &[Writer]),
        (json!("platform_admin"), &[PlatformAdmin]),
        (json!(["user", "writer"]), &[Writer, Viewer]),
        (json!(["platform_admin", "admin"]), &[Admin, PlatformAdmin]),
    ];
    for (claim, roles) in table {
        assert_eq!(check(&with("role", claim.clone())).map(|p| p.roles), Ok(roles.to_vec()), "{claim}");
    }
    let without = |role: Value| {
        let claims = json!({"sub": "ann", "role": role, "exp": NOW + 100});
        check(&sign(Header::new(Algorithm::HS256), &claims))
    };
    assert_eq!(without(json!("platform_admin")).map(|p| p.tenant), Ok(None));
    assert_eq!(without(json!(["platform_admin", "viewer"])), Err(AuthError::Tenant));
    assert_eq!(without(json!("root")), Err(AuthError::Tenant));
}

#[test]
fn a_remembered_token_ends_when_it_expires() {
    let authenticator = Authenticator::local(SECRET);
    let token = with("exp", json!(NOW + 10));
    assert!(authenticator.authenticate_at(&Presented::bearer(&token), NOW).is_ok());
    assert!(authenticator.authenticate_at(&Presented::bearer(&token), NOW + 69).is_ok());
    assert_eq!(authenticator.authenticate_at(&Presented::bearer(&token), NOW + 70), Err(AuthError::Expired));
    let forged = format!("{}x", &token[..token.len() - 1]);
    assert!(
        authenticator.authenticate_at(&Presented::bearer(&forged), NOW).is_err(),
        "only the whole token is remembered"
    );
}
