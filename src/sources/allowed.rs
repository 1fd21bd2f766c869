//! For which tenants a foreign queue may speak.

use crate::model::tenant::TenantId;
use std::collections::BTreeSet;

/// Tenants by name, by prefix (`acme-*`), or all of them (`*`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedTenants {
    all: bool,
    ids: BTreeSet<TenantId>,
    prefixes: BTreeSet<String>,
}

/// The text is neither a tenant, nor a prefix with `*` at its end, nor `*`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a tenant id, nor the beginning of one followed by `*`, nor `*`")]
pub struct InvalidPattern(pub String);

impl AllowedTenants {
    /// Reads the patterns of the configuration.
    pub fn parse<T: AsRef<str>>(patterns: &[T]) -> Result<Self, InvalidPattern> {
        let mut allowed = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let invalid = |_| InvalidPattern(pattern.to_owned());
            match pattern.strip_suffix('*') {
                Some("") => allowed.all = true,
                Some(prefix) => {
                    // Whatever can begin a tenant's name is one itself.
                    TenantId::parse(prefix).map_err(invalid)?;
                    allowed.prefixes.insert(prefix.to_owned());
                }
                None => {
                    allowed.ids.insert(TenantId::parse(pattern).map_err(invalid)?);
                }
            }
        }
        Ok(allowed)
    }

    /// Whether nobody is allowed.
    pub fn is_empty(&self) -> bool {
        !self.all && self.ids.is_empty() && self.prefixes.is_empty()
    }

    /// Whether the queue may speak for this tenant.
    pub fn permits(&self, tenant: &TenantId) -> bool {
        self.all || self.ids.contains(tenant) || self.prefixes.iter().any(|prefix| tenant.as_str().starts_with(prefix.as_str()))
    }

    /// The tenant of messages that name none: the only one that is allowed, if it is one by name.
    pub fn only(&self) -> Option<&TenantId> {
        let one = !self.all && self.prefixes.is_empty() && self.ids.len() == 1;
        self.ids.first().filter(|_| one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_allowed_by_name_prefix_or_all() {
        let tenant = |name| TenantId::parse(name).expect("a tenant");
        let some = AllowedTenants::parse(&["acme", "x-*"]).expect("good");
        for (name, permitted) in [("acme", true), ("acme2", false), ("x-", true), ("x-1", true), ("x", false)] {
            assert_eq!(some.permits(&tenant(name)), permitted, "{name}");
        }
        assert_eq!((some.only(), some.is_empty()), (None, false));
        assert!(AllowedTenants::parse(&["*"]).expect("good").permits(&tenant("anybody")));
        let one = AllowedTenants::parse(&["acme"]).expect("good");
        assert_eq!(one.only(), Some(&tenant("acme")));
        assert_eq!(AllowedTenants::parse(&["*", "acme"]).expect("good").only(), None);
        assert!(AllowedTenants::default().is_empty());
        for bad in ["", "Acme", "a.access", "a*b", "**", "_*"] {
            assert_eq!(AllowedTenants::parse(&[bad]), Err(InvalidPattern(bad.to_owned())), "{bad}");
        }
    }
}
