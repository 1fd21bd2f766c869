//! Who asks, and what they may do: one [`Principal`], one policy table.

pub(crate) mod hex;
pub mod jwt;
pub mod password;
pub mod policy;
pub mod secret;

use crate::model::tenant::TenantId;

/// A role of the HTTP contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Write only.
    Writer,
    /// Read, masked.
    Viewer,
    /// Read and export.
    Auditor,
    /// All of a tenant.
    Admin,
    /// Tenants; reads no entries.
    PlatformAdmin,
}

impl Role {
    /// All of them, from the least.
    pub const ALL: [Role; 5] = [Self::Writer, Self::Viewer, Self::Auditor, Self::Admin, Self::PlatformAdmin];

    /// Its name in the HTTP contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
            Self::PlatformAdmin => "platform_admin",
        }
    }
}

impl serde::Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Role {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let known = Self::ALL.into_iter().find(|role| role.name() == name);
        known.ok_or_else(|| serde::de::Error::custom("there is no such role"))
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The subject: becomes `actor`, and `user_id` where an entry has none.
    pub subject: std::sync::Arc<str>,
    /// The tenant that the credential names; `None` only for a platform admin.
    pub tenant: Option<TenantId>,
    /// Its roles, sorted, at least one.
    pub roles: Vec<Role>,
    /// When the credential ends, seconds since 1970.
    pub expires_at: Option<i64>,
}
