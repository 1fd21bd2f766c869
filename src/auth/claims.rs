//! From what a token says to what we understand: names of claims, names of roles, and the bounds of who says it.

use super::{AuthError, Role};
use crate::model::tenant::TenantId;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A subject becomes `user_id` where an entry has none, which may be this long.
const MAX_SUBJECT: usize = 256;

/// The name of a claim: the name itself (`https://idp.example/tenant` is one), or a path of names with dots between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimName(String);

impl ClaimName {
    /// Any text but the empty one.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim's value; `null` when there is none. A claim of the whole name comes before a path.
    pub fn of<'a>(&self, claims: &'a Map<String, Value>) -> &'a Value {
        let path = || {
            let (first, rest) = self.0.split_once('.')?;
            rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
        };
        claims.get(&self.0).or_else(path).unwrap_or(&Value::Null)
    }
}

/// Where an issuer's tokens say what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// The tenant or tenants.
    pub tenant: ClaimName,
    /// The role or roles.
    pub role: ClaimName,
    /// Who.
    pub subject: ClaimName,
}

impl Default for ClaimNames {
    fn default() -> Self {
        let named = |name: &str| ClaimName(name.to_owned());
        Self {
            tenant: named("tenant"),
            role: named("role"),
            subject: named("sub"),
        }
    }
}

/// Reads a subject.
pub fn subject(value: &Value) -> Result<&str, AuthError> {
    value.as_str().filter(|text| is_subject(text)).ok_or(AuthError::Subject)
}

/// Whether the text can be a subject.
pub fn is_subject(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_SUBJECT && !text.chars().any(char::is_control)
}

/// Reads a tenant or several, each once; none when the claim is missing.
pub fn tenants(value: &Value) -> Result<Vec<TenantId>, AuthError> {
    let one = |value: &Value| TenantId::parse(value.as_str().ok_or(AuthError::Tenant)?).map_err(|_| AuthError::Tenant);
    let mut tenants = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(values) if !values.is_empty() => values.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        value => vec![one(value)?],
    };
    tenants.sort_unstable();
    tenants.dedup();
    Ok(tenants)
}

/// What names of roles stand for, in any case of letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleMap {
    /// By name in lower case; `None`: the default map.
    own: Option<BTreeMap<String, Vec<Role>>>,
    /// Names that are not in the map are passed over instead of refused.
    pub ignore_unknown: bool,
    /// The default map has `platform_admin`.
    platform: bool,
}

impl RoleMap {
    /// The default map, with or without `platform_admin`.
    pub fn standard(platform: bool) -> Self {
        Self {
            own: None,
            ignore_unknown: false,
            platform,
        }
    }

    /// A map of its own. `None` when two names differ only in case.
    pub fn own(names: impl IntoIterator<Item = (String, Vec<Role>)>) -> Option<Self> {
        let mut own = BTreeMap::new();
        for (name, roles) in names {
            if own.insert(name.to_lowercase(), roles).is_some() {
                return None;
            }
        }
        Some(Self {
            own: Some(own),
            ignore_unknown: false,
            platform: false,
        })
    }

    /// The names and roles of a map of its own.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[Role])> {
        self.own.iter().flatten().map(|(name, roles)| (name.as_str(), roles.as_slice()))
    }

    fn get(&self, name: &str) -> Option<&[Role]> {
        match &self.own {
            Some(own) => own.get(&name.to_lowercase()).map(Vec::as_slice),
            None => roles_named(name).filter(|roles| self.platform || !roles.contains(&Role::PlatformAdmin)),
        }
    }

    /// Every role that these names stand for, sorted; one at least.
    pub fn of_names<'a>(&self, names: impl Iterator<Item = Option<&'a str>>) -> Result<Vec<Role>, AuthError> {
        let mut roles = Vec::new();
        for name in names {
            match self.get(name.ok_or(AuthError::UnknownRole)?) {
                Some(found) => roles.extend_from_slice(found),
                None if self.ignore_unknown => {}
                None => return Err(AuthError::UnknownRole),
            }
        }
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() { Err(AuthError::UnknownRole) } else { Ok(roles) }
    }

    /// Every role that the claim, a name or a list of names, stands for.
    pub fn of_claim(&self, claim: &Value) -> Result<Vec<Role>, AuthError> {
        match claim {
            Value::Array(names) => self.of_names(names.iter().map(Value::as_str)),
            one => self.of_names(std::iter::once(one.as_str())),
        }
    }
}

/// What a role's name stands for by default, in any case of letters. `platform_admin` is for the local issuer, and for those
/// that may.
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

/// Which tenants somebody may speak for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantBounds(Vec<Bound>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bound {
    One(TenantId),
    /// All whose ids begin so; the empty text is all.
    Prefix(String),
}

impl TenantBounds {
    /// All tenants.
    pub fn all() -> Self {
        Self(vec![Bound::Prefix(String::new())])
    }

    /// These tenants.
    pub fn these(tenants: impl Iterator<Item = TenantId>) -> Self {
        Self(tenants.map(Bound::One).collect())
    }

    /// Reads tenant ids, prefixes (`globex-*`) and `*`. `Err` is the first that is none of these.
    pub fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, &'a str> {
        let bound = |text: &'a str| match text.strip_suffix('*') {
            Some("") => Ok(Bound::Prefix(String::new())),
            Some(prefix) => TenantId::parse(prefix).map(|_| Bound::Prefix(prefix.to_owned())).map_err(|_| text),
            None => TenantId::parse(text).map(Bound::One).map_err(|_| text),
        };
        texts.map(bound).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the tenant is among them.
    pub fn hold(&self, tenant: &TenantId) -> bool {
        self.0.iter().any(|bound| match bound {
            Bound::One(id) => id == tenant,
            Bound::Prefix(prefix) => tenant.as_str().starts_with(prefix.as_str()),
        })
    }

    /// As they are written.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|bound| match bound {
            Bound::One(id) => id.to_string(),
            Bound::Prefix(prefix) => format!("{prefix}*"),
        })
    }
}
