//! Tenant names, and the proof of tenancy that every store method asks for.

use std::{fmt, sync::Arc};

/// The name of a tenant: `[a-z0-9][a-z0-9_-]{0,62}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// The text is no tenant name; the message says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tenant id is 1 to 63 characters of `a-z`, `0-9`, `_` and `-`, and starts with a letter or a digit")]
pub struct InvalidTenantId;

impl TenantId {
    /// The longest name in bytes.
    pub const MAX_LEN: usize = 63;

    /// Checks the form and takes the name.
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

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A hash that is the same in every process and version (XXH3): shards and lanes are chosen by it.
    pub fn stable_hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0.as_bytes())
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
        }
    }
}
