//! JSON Web Tokens of the local issuer: HS256 with the secret of the data folder.
//!
//! A token's algorithm must be HS256, whatever its header asks for; `exp` is required; 60 s of clock skew are allowed.
//! Claims: `sub`, `tenant` (a tenant id), `role` (a name or a list of names), `exp`. Tokens that were found good are
//! remembered until they expire, so that a client which sends the same one with every request costs a look-up.

use super::{Credential, Origin, Presented, Principal, Role};
use crate::model::tenant::TenantId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

/// Clock skew allowed between whoever made the token and us, seconds.
const LEEWAY: i64 = 60;
/// Longer tokens are refused unread; what we need fits a tenth of it.
const MAX_TOKEN: usize = 8 * 1024;
/// Tokens remembered: at most this many, each at most [`MAX_REMEMBERED`] long (8 MiB in all).
const MAX_TOKENS: usize = 4096;
const MAX_REMEMBERED: usize = 2048;
/// A subject becomes `user_id` where an entry has none, which may be this long.
const MAX_SUBJECT: usize = 256;

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is no token that we can read, or has another algorithm (401).
    #[error("the token is malformed or has another algorithm than HS256")]
    Malformed,
    /// It was not signed with our secret (401).
    #[error("the signature of the token does not fit")]
    Signature,
    /// It has no time of expiry (401).
    #[error("the token has no `exp`")]
    NoExpiry,
    /// It has expired (401).
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet (401).
    #[error("the token is not valid yet")]
    NotYet,
    /// It names nobody (401).
    #[error("the token needs a `sub` of 1 to 256 bytes without control characters")]
    Subject,
    /// It names no tenant, or what it names is no tenant id (401).
    #[error("the token needs a `tenant` that is a tenant id")]
    Tenant,
    /// It has no role, or one that there is not (403).
    #[error("the token has no known role")]
    UnknownRole,
    /// `X-Tenant-ID` names a tenant that the credential does not (403).
    #[error("the credential does not cover this tenant")]
    NotCovered,
}

impl AuthError {
    /// Whether the caller is known but has no right (403), rather than not known (401).
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::UnknownRole | Self::NotCovered)
    }

    /// The `code` of the problem document.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Signature | Self::NoExpiry | Self::NotYet | Self::Subject => "invalid_credential",
            Self::Expired => "expired_credential",
            Self::Tenant => "invalid_tenant_claim",
            Self::UnknownRole => "unknown_role",
            Self::NotCovered => "forbidden",
        }
    }
}

/// What a token says.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    tenant: Value,
    #[serde(default)]
    role: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    nbf: Value,
}

/// Checks tokens. Share it; all methods are cheap and do not block.
pub struct Authenticator {
    key: DecodingKey,
    validation: Validation,
    /// Tokens that were found good, with who they speak for.
    good: RwLock<HashMap<Box<str>, Principal>>,
}

impl Authenticator {
    /// Checks tokens signed with `secret`, the text of the data folder's secret file.
    pub fn local(secret: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked below, by a clock that tests can turn; the local issuer has no audience.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self {
            key: DecodingKey::from_secret(secret),
            validation,
            good: RwLock::default(),
        }
    }

    /// Who the credential speaks for. Waits only where an issuer's keys must be fetched first; cancel-safe.
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Principal, AuthError> {
        self.authenticate_now(presented)
    }

    /// Who a credential speaks for that was found good a short while ago and still is; `None`: it must be looked at. No hash and
    /// no signature is computed.
    pub fn recall(&self, presented: &Presented<'_>) -> Option<Principal> {
        let Credential::Bearer(token) = presented.credential else { return None };
        let good = self.good.read().unwrap_or_else(PoisonError::into_inner);
        let principal = good.get(token).filter(|principal| self.still_good(principal)).cloned()?;
        match (presented.tenant, &principal.tenant) {
            (Some(wanted), Some(own)) if wanted != own.as_str() => None,
            _ => Some(principal),
        }
    }

    /// As [`Authenticator::authenticate`], without waiting for anything: a token whose key would have to be fetched is refused.
    pub fn authenticate_now(&self, presented: &Presented<'_>) -> Result<Principal, AuthError> {
        let Credential::Bearer(token) = presented.credential else {
            return Err(AuthError::Malformed);
        };
        let principal = self.authenticate_at(token, chrono::Utc::now().timestamp())?;
        match (presented.tenant, &principal.tenant) {
            (Some(wanted), Some(own)) if wanted != own.as_str() => Err(AuthError::NotCovered),
            _ => Ok(principal),
        }
    }

    /// Whether somebody who was authenticated earlier still may come in: not expired, not revoked. Cheap, and without I/O.
    pub fn still_good(&self, principal: &Principal) -> bool {
        !is_over(principal, chrono::Utc::now().timestamp())
    }

    fn authenticate_at(&self, token: &str, now: i64) -> Result<Principal, AuthError> {
        if let Some(principal) = self.good.read().unwrap_or_else(PoisonError::into_inner).get(token) {
            // Once expired it stays so; the entry goes when room is needed.
            return if is_over(principal, now) {
                Err(AuthError::Expired)
            } else {
                Ok(principal.clone())
            };
        }
        let principal = self.check(token, now)?;
        if token.len() <= MAX_REMEMBERED {
            self.remember(token, principal.clone(), now);
        }
        Ok(principal)
    }

    fn check(&self, token: &str, now: i64) -> Result<Principal, AuthError> {
        if token.len() > MAX_TOKEN {
            return Err(AuthError::Malformed);
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(|e| match e.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => AuthError::Signature,
            _ => AuthError::Malformed,
        })?;
        if data.header.crit.is_some() {
            return Err(AuthError::Malformed); // RFC 7515: what is critical and not understood must be refused
        }
        let claims = data.claims;
        let expires_at = seconds(&claims.exp).ok_or(AuthError::NoExpiry)?;
        if now >= expires_at.saturating_add(LEEWAY) {
            return Err(AuthError::Expired);
        }
        if !claims.nbf.is_null() && seconds(&claims.nbf).is_none_or(|nbf| now.saturating_add(LEEWAY) < nbf) {
            return Err(AuthError::NotYet);
        }
        principal(&claims, expires_at)
    }

    fn remember(&self, token: &str, principal: Principal, now: i64) {
        let mut good = self.good.write().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MAX_TOKENS {
            good.retain(|_, principal| !is_over(principal, now));
        }
        if good.len() >= MAX_TOKENS {
            // So many at once are throw-away tokens; there is nothing to gain in choosing among them.
            good.clear();
        }
        good.insert(token.into(), principal);
    }
}

fn is_over(principal: &Principal, now: i64) -> bool {
    principal.expires_at.is_some_and(|at| now >= at.saturating_add(LEEWAY))
}

/// A NumericDate: whole or broken seconds since 1970.
fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|s| s.is_finite()).map(|s| s as i64))
}

fn principal(claims: &Claims, expires_at: i64) -> Result<Principal, AuthError> {
    let subject = claims.sub.as_str().ok_or(AuthError::Subject)?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return Err(AuthError::Subject);
    }
    let tenant = match &claims.tenant {
        Value::Null => None,
        Value::String(text) => Some(TenantId::parse(text).map_err(|_| AuthError::Tenant)?),
        _ => return Err(AuthError::Tenant),
    };
    let roles = roles_claim(&claims.role);
    let only_platform = matches!(roles.as_deref(), Some([Role::PlatformAdmin]));
    if tenant.is_none() && !only_platform {
        return Err(AuthError::Tenant);
    }
    Ok(Principal {
        subject: subject.into(),
        tenant,
        roles: roles.ok_or(AuthError::UnknownRole)?,
        expires_at: Some(expires_at),
        origin: Origin::Local,
    })
}

/// Every role that the claim names, sorted; `None` when it names none, or one that there is not.
fn roles_claim(claim: &Value) -> Option<Vec<Role>> {
    let mut roles = Vec::new();
    match claim {
        Value::String(name) => roles.extend_from_slice(roles_named(name)?),
        Value::Array(names) => {
            for name in names {
                roles.extend_from_slice(roles_named(name.as_str()?)?);
            }
        }
        _ => return None,
    }
    roles.sort_unstable();
    roles.dedup();
    (!roles.is_empty()).then_some(roles)
}

/// What a role's name stands for with the local issuer, in any case of letters.
pub fn roles_named(name: &str) -> Option<&'static [Role]> {
    Some(match name.to_ascii_lowercase().as_str() {
        "admin" => &[Role::Admin],
        "auditor" => &[Role::Auditor],
        "user" => &[Role::Writer, Role::Viewer],
        "viewer" | "reader" => &[Role::Viewer],
        "writer" => &[Role::Writer],
        "platform_admin" => &[Role::PlatformAdmin],
        _ => return None,
    })
}

/// What a new token is to say.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken<'a> {
    /// Who.
    pub sub: &'a str,
    /// Which tenant; needed unless the role is `platform_admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a TenantId>,
    /// Names of roles, see [`roles_named`].
    pub role: &'a [String],
    /// When it ends, seconds since 1970.
    pub exp: i64,
}

/// Signs a token with the local secret.
pub fn mint(secret: &[u8], token: &NewToken<'_>) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), token, &EncodingKey::from_secret(secret)).expect("plain claims and an HMAC key always encode")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
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
        Authenticator::local(SECRET).authenticate_at(token, NOW)
    }

    /// Base64url without padding.
    fn base64(text: &str) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut out = String::new();
        for chunk in text.as_bytes().chunks(3) {
            let bits = chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            out.extend((0..=chunk.len()).map(|i| char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])));
        }
        out
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
            (&format!("{plain}="), Malformed),
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
            (&with("exp", json!([NOW])), Malformed),
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
    fn a_remembered_token_ends_when_it_expires_and_memory_is_bounded() {
        let authenticator = Authenticator::local(SECRET);
        let token = with("exp", json!(NOW + 10));
        assert!(authenticator.authenticate_at(&token, NOW).is_ok());
        assert!(authenticator.authenticate_at(&token, NOW + 69).is_ok());
        assert_eq!(authenticator.authenticate_at(&token, NOW + 70), Err(AuthError::Expired));
        let forged = format!("{}x", &token[..token.len() - 1]);
        assert!(authenticator.authenticate_at(&forged, NOW).is_err(), "only the whole token is remembered");
        let principal = check(&token).expect("good");
        for i in 0..MAX_TOKENS + 10 {
            authenticator.remember(&i.to_string(), principal.clone(), NOW);
        }
        assert!(authenticator.good.read().expect("no panic").len() <= MAX_TOKENS);
        assert!(authenticator.authenticate_at(&with("exp", json!(0)), NOW).is_err());
        assert!(
            authenticator.good.read().expect("no panic").keys().all(|t| t.len() < 10),
            "a refused token takes no room"
        );
    }
}
