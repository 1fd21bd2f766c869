//! Tenant names, and the proof of tenancy that every store method asks for.
//!
//! # Two logs
//!
//! A tenant has two logs: the audit log, which goes by the tenant's name, and the **access log**, which tells who read and
//! changed what. The second is a stream of its own through the same pipeline, under the name followed by `.access`. No
//! tenant can have such a name: [`TenantId::parse`], which everything from outside goes through (credentials, paths, bodies,
//! configuration), refuses the dot. Only what Sluice itself wrote (packs, seals, manifests, sidecars) is read by
//! [`TenantId::decode`], which takes both. So store, seals, counters, erasure, paging and feed keep the two apart as they
//! keep two tenants apart.

use std::{fmt, sync::Arc};

/// The name of a tenant, `[a-z0-9][a-z0-9_-]{0,62}`, or of its access log. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// The text is no tenant name; the message says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tenant id is 1 to 63 characters of `a-z`, `0-9`, `_` and `-`, and starts with a letter or a digit")]
pub struct InvalidTenantId;

impl TenantId {
    /// The longest name of a tenant in bytes.
    pub const MAX_LEN: usize = 63;
    /// What the name of an access log ends with.
    const ACCESS: &'static str = ".access";

    /// Checks the form and takes the name. Never yields an access log, so what comes from outside can name none.
    pub fn parse(text: &str) -> Result<Self, InvalidTenantId> {
        let bytes = text.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        match bytes {
            [first, rest @ ..] if bytes.len() <= Self::MAX_LEN && plain(first) && rest.iter().all(|b| plain(b) || *b == b'_' || *b == b'-') => {
                Ok(Self(text.into()))
            }
            _ => Err(InvalidTenantId),
        }
    }

    /// Reads a name that Sluice wrote down itself: a tenant's or an access log's. For formats on disk only.
    pub fn decode(text: &str) -> Result<Self, InvalidTenantId> {
        match text.strip_suffix(Self::ACCESS) {
            Some(owner) => Self::parse(owner).map(|_| Self(text.into())),
            None => Self::parse(text),
        }
    }

    /// The access log of this tenant (itself, if it is one).
    pub fn access_log(&self) -> Self {
        if self.is_access_log() {
            return self.clone();
        }
        Self([&*self.0, Self::ACCESS].concat().into())
    }

    /// Whether this is an access log.
    pub fn is_access_log(&self) -> bool {
        self.0.ends_with(Self::ACCESS)
    }

    /// The tenant whose log this is.
    pub fn owner(&self) -> Self {
        if self.is_access_log() { Self(self.owner_name().into()) } else { self.clone() }
    }

    /// The name of the tenant whose log this is: what people are shown.
    pub fn owner_name(&self) -> &str {
        self.0.strip_suffix(Self::ACCESS).unwrap_or(&self.0)
    }

    /// The folder of this log's objects below another: `acme`, and `_access/acme` for the access log of `acme`. No tenant's
    /// folder begins with `_`, so neither lies in another's.
    pub fn folder(&self) -> String {
        if self.is_access_log() {
            format!("_access/{}", self.owner_name())
        } else {
            self.0.to_string()
        }
    }

    /// The name as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A hash that is the same in every process and version (XXH3): shards and lanes are chosen by it.
    pub fn stable_hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0.as_bytes())
    }
}

/// One of a tenant's two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Log {
    /// What the tenant wrote.
    #[default]
    Audit,
    /// Who read and changed what.
    Access,
}

impl Log {
    /// Its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Access => "access",
        }
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Audit, Self::Access].into_iter().find(|log| log.name() == text)
    }

    /// The name of this log of a tenant.
    pub fn of(self, tenant: &TenantId) -> TenantId {
        match self {
            Self::Audit => tenant.owner(),
            Self::Access => tenant.access_log(),
        }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// As [`TenantId::parse`]: names of access logs are refused.
impl<'de> serde::Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The right to read one tenant's rows, and the restriction to them.
///
/// Every read, scan, export and erase method of every store takes one, and applies it at its lowest level; there is no
/// way to make one without a tenant, so a query over all tenants cannot be written by accident.
///
/// With a scope this compiles:
///
/// ```
/// # use sluice::{model::tenant::{TenantId, TenantScope}, sinks::{Authority, ListQuery, StoreError}};
/// # use uuid::Uuid;
/// async fn read(store: &dyn Authority, tenant: TenantId) -> Result<usize, StoreError> {
///     let scope = TenantScope::new(tenant);
///     store.get(&scope, Uuid::nil()).await?;
///     store.stats(&scope, Default::default()).await?;
///     store.scan(&scope, Default::default(), 0, 10).await?;
///     Ok(store.list(&scope, ListQuery::default()).await?.entries.len())
/// }
/// ```
///
/// Without one, no read does:
///
/// ```compile_fail
/// # use sluice::sinks::{Authority, ListQuery};
/// async fn read(store: &dyn Authority) {
///     let _ = store.list(ListQuery::default()).await;
/// }
/// ```
///
/// ```compile_fail
/// # use sluice::sinks::Authority;
/// async fn read(store: &dyn Authority, id: uuid::Uuid) {
///     let _ = store.get(id).await;
/// }
/// ```
///
/// ```compile_fail
/// # use sluice::sinks::Authority;
/// async fn read(store: &dyn Authority) {
///     let _ = store.stats(Default::default()).await;
/// }
/// ```
///
/// ```compile_fail
/// # use sluice::sinks::Authority;
/// async fn read(store: &dyn Authority) {
///     let _ = store.scan(Default::default(), 0, 10).await;
/// }
/// ```
///
/// Nor can a scope be made without a tenant:
///
/// ```compile_fail
/// let all = sluice::model::tenant::TenantScope::new();
/// ```
///
/// ```compile_fail
/// # use sluice::model::tenant::{TenantId, TenantScope};
/// fn all(tenant: TenantId) -> TenantScope {
///     TenantScope(tenant)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// Restricts to `tenant`. The caller has checked that the credential covers it.
    pub fn new(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// The tenant that everything is restricted to.
    pub fn tenant(&self) -> &TenantId {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_slug_rule() {
        for good in ["a", "0", "acme", "a-b_c", &"x".repeat(63)] {
            assert!(TenantId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "Acme", "a.b", "../x", "a b", "é", &"x".repeat(64)] {
            assert_eq!(TenantId::parse(bad), Err(InvalidTenantId), "{bad}");
            assert_eq!(TenantId::decode(bad), Err(InvalidTenantId), "{bad}");
        }
    }

    #[test]
    fn an_access_log_has_a_name_that_nobody_outside_can_say() {
        let acme = TenantId::parse("acme").expect("good");
        let access = acme.access_log();
        assert_eq!((access.as_str(), access.owner_name(), access.owner()), ("acme.access", "acme", acme.clone()));
        assert!(access.is_access_log() && !acme.is_access_log());
        assert_eq!((acme.owner(), access.access_log()), (acme.clone(), access.clone()));
        assert_eq!(TenantId::decode("acme.access"), Ok(access.clone()));
        assert_eq!(TenantId::decode("acme"), Ok(acme));
        assert_eq!(TenantId::parse("acme.access"), Err(InvalidTenantId));
        assert!(serde_json::from_str::<TenantId>("\"acme.access\"").is_err());
        for bad in [".access", "a.access.access", "A.access", "a.acces", "a.access ", "a/.access"] {
            assert_eq!(TenantId::decode(bad), Err(InvalidTenantId), "{bad}");
        }
        let longest = TenantId::parse(&"x".repeat(63)).expect("good").access_log();
        assert_eq!(TenantId::decode(longest.as_str()), Ok(longest));
    }

    #[test]
    fn objects_of_the_two_logs_lie_apart() {
        let acme = TenantId::parse("acme").expect("good");
        assert_eq!((acme.folder(), acme.access_log().folder()), ("acme".to_owned(), "_access/acme".to_owned()));
        for log in [acme.clone(), acme.access_log()] {
            assert!(crate::objects::Key::parse(&format!("deadletters/{}/1.json", log.folder())).is_ok(), "{log}");
        }
    }
}
