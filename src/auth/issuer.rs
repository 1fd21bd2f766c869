//! Somebody whose tokens are accepted: how they are signed, what they must say, and how far they reach.

use super::{
    AuthError, Origin, Principal, Role,
    cache::TTL,
    claims::{self, ClaimNames, RoleMap, TenantBounds},
    keys::{Keys, NotSigned, SecretKey},
    token::{Token, seconds},
};
use crate::model::tenant::TenantId;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Clock skew allowed between whoever made a token and us, seconds.
pub const LEEWAY: i64 = 60;

/// What an issuer may, and how its tokens are read: everything but its keys.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The `iss` of its tokens; `None` for the local issuer, whose tokens have none.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; none: `aud` is not looked at.
    pub audience: Vec<String>,
    /// How its tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// Whether tokens must end.
    pub require_exp: bool,
    /// Where its tokens say what.
    pub claims: ClaimNames,
    /// What its names of roles stand for.
    pub roles: RoleMap,
    /// Which tenants it may speak for.
    pub tenants: TenantBounds,
    /// The highest role that it may give.
    pub max_role: Role,
    /// Whether it may give `platform_admin`.
    pub allow_platform: bool,
}

impl Rules {
    /// Whether it may give this role. The roles stand in the order of the contract: writer, viewer, auditor, admin.
    pub fn may_give(&self, role: Role) -> bool {
        match role {
            Role::PlatformAdmin => self.allow_platform,
            role => role <= self.max_role,
        }
    }

    /// Whether a token for these is for us.
    fn is_addressed(&self, aud: &Value) -> bool {
        let ours = |value: &Value| value.as_str().is_some_and(|aud| self.audience.iter().any(|ours| ours == aud));
        self.audience.is_empty()
            || match aud {
                Value::Array(several) => several.iter().any(ours),
                one => ours(one),
            }
    }

    fn is_local(&self) -> bool {
        self.issuer.is_none()
    }
}

/// An issuer.
pub struct Issuer {
    /// What it may.
    pub rules: Rules,
    /// What its tokens are signed with.
    pub keys: Keys,
}

/// Whom a good token speaks for, as far as all requests with it have in common.
pub struct Known {
    subject: Arc<str>,
    tenants: Vec<Claimed>,
    /// Sorted, at least one.
    pub roles: Vec<Role>,
    /// When the token ends, seconds since 1970.
    pub expires_at: Option<i64>,
    /// Until when this may be used without checking the token again, seconds since 1970.
    pub until: i64,
    /// Who vouches.
    pub origin: Origin,
}

struct Claimed {
    tenant: TenantId,
    /// Whether the issuer may speak for it.
    within: bool,
}

/// Why a token was refused, and whether fetching keys may help.
pub enum Refused {
    /// It will not.
    Final(AuthError),
    /// The issuer at this place may have other keys now; those of `seen` did not do, and the token names `kid`.
    FetchFirst {
        /// Which issuer.
        issuer: usize,
        /// The name of the key.
        kid: Option<String>,
        /// The version of the keys.
        seen: u64,
        /// Why, if it does not help.
        error: AuthError,
    },
}

impl Refused {
    /// Why, if nothing more can be done.
    pub fn error(self) -> AuthError {
        match self {
            Self::Final(error) | Self::FetchFirst { error, .. } => error,
        }
    }
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Self {
        Self::Final(error)
    }
}

impl Issuer {
    /// The issuer of this process itself, which signs with the secret of the data folder.
    pub fn local(secret: &[u8]) -> Self {
        Self {
            rules: Rules {
                name: "local".into(),
                issuer: None,
                audience: Vec::new(),
                algorithms: vec![Algorithm::HS256],
                require_exp: true,
                claims: ClaimNames::default(),
                roles: RoleMap::standard(true),
                tenants: TenantBounds::all(),
                max_role: Role::Admin,
                allow_platform: true,
            },
            keys: Keys::Secret(SecretKey::new(secret)),
        }
    }

    /// Whether the token says that it is of this issuer.
    pub fn is_named(&self, token: &Token<'_>) -> bool {
        match (token.claims.get("iss").unwrap_or(&Value::Null), &self.rules.issuer) {
            (Value::Null, own) => own.is_none(),
            (Value::String(iss), own) => own.as_ref() == Some(iss),
            _ => false,
        }
    }

    /// Whether the token says that it is for us.
    pub fn is_addressed(&self, token: &Token<'_>) -> bool {
        self.rules.is_addressed(token.claims.get("aud").unwrap_or(&Value::Null))
    }

    /// Whom the token speaks for. `Err` says whether the keys must be fetched first.
    pub fn check(&self, token: &Token<'_>, now: i64) -> Result<Known, NotSigned> {
        let rules = &self.rules;
        if !rules.algorithms.contains(&token.algorithm) {
            return Err(NotSigned::Final(AuthError::Malformed));
        }
        // The tenant is not believed yet: it only says which secret must fit, and that secret signs for no other.
        let tenants = claims::tenants(rules.claims.tenant.of(&token.claims));
        let only = tenants.as_ref().ok().and_then(|tenants| <&[TenantId; 1]>::try_from(tenants.as_slice()).ok());
        let mark = self.keys.check(token, only.map(|[tenant]| tenant))?;
        self.known(&token.claims, tenants, mark, now).map_err(NotSigned::Final)
    }

    /// What the claims say; the signature was good.
    fn known(&self, claims: &Map<String, Value>, tenants: Result<Vec<TenantId>, AuthError>, mark: u64, now: i64) -> Result<Known, AuthError> {
        let rules = &self.rules;
        let expires_at = match claims.get("exp").unwrap_or(&Value::Null) {
            Value::Null if !rules.require_exp => None,
            exp => Some(seconds(exp).ok_or(AuthError::NoExpiry)?),
        };
        if expires_at.is_some_and(|at| now >= at.saturating_add(LEEWAY)) {
            return Err(AuthError::Expired);
        }
        let nbf = claims.get("nbf").unwrap_or(&Value::Null);
        if !nbf.is_null() && seconds(nbf).is_none_or(|nbf| now.saturating_add(LEEWAY) < nbf) {
            return Err(AuthError::NotYet);
        }
        let subject = claims::subject(rules.claims.subject.of(claims))?.into();
        let tenants = tenants?;
        if rules.is_local() && tenants.len() == 1 && rules.claims.tenant.of(claims).is_array() {
            // Our own tokens name one tenant as text; a list is for several.
            return Err(AuthError::Tenant);
        }
        let roles = rules.roles.of_claim(rules.claims.role.of(claims));
        if tenants.is_empty() && !matches!(roles.as_deref(), Ok([Role::PlatformAdmin])) {
            return Err(AuthError::Tenant);
        }
        let roles = roles?;
        if !roles.iter().all(|role| rules.may_give(*role)) {
            return Err(AuthError::OutOfBounds);
        }
        let claimed = |tenant: TenantId| Claimed {
            within: rules.tenants.hold(&tenant),
            tenant,
        };
        let tenants: Vec<_> = tenants.into_iter().map(claimed).collect();
        let origin = match (claims.get("uid").and_then(Value::as_str), tenants.as_slice()) {
            (Some(user_id), [Claimed { tenant, .. }]) if rules.is_local() => Origin::User {
                tenant: tenant.clone(),
                user_id: user_id.into(),
            },
            _ if rules.is_local() => Origin::Local,
            _ => Origin::Issuer {
                name: rules.name.clone(),
                key: mark,
            },
        };
        let end = expires_at.map_or(i64::MAX, |at| at.saturating_add(LEEWAY));
        Ok(Known {
            subject,
            tenants,
            roles,
            expires_at,
            until: end.min(now.saturating_add(TTL)),
            origin,
        })
    }
}

impl Known {
    /// The caller of one request: `X-Tenant-ID` may choose among the tenants of the token, and must if there are several.
    pub fn principal(&self, wanted: Option<&str>) -> Result<Principal, AuthError> {
        let chosen = match (self.tenants.as_slice(), wanted) {
            ([], _) => None,
            ([one], None) => Some(one),
            (_, None) => return Err(AuthError::AmbiguousTenant),
            (several, Some(wanted)) => Some(several.iter().find(|c| c.tenant.as_str() == wanted).ok_or(AuthError::NotCovered)?),
        };
        if chosen.is_some_and(|claimed| !claimed.within) {
            return Err(AuthError::OutOfBounds);
        }
        Ok(Principal {
            subject: self.subject.clone(),
            tenant: chosen.map(|claimed| claimed.tenant.clone()),
            roles: self.roles.clone(),
            expires_at: self.expires_at,
            origin: self.origin.clone(),
        })
    }

    /// Somebody.
    #[cfg(test)]
    pub fn for_test(until: i64, origin: Origin) -> Self {
        Self {
            subject: "ann".into(),
            tenants: Vec::new(),
            roles: vec![Role::Viewer],
            expires_at: None,
            until,
            origin,
        }
    }

    /// Bytes of memory beside its own size.
    pub fn bytes(&self) -> usize {
        // A tenant id: its text of at most 63 bytes, its counts, and the place in the list.
        self.subject.len() + self.tenants.len() * 128 + self.roles.len()
    }
}
