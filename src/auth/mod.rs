//! Who asks, and what they may do: one [`Principal`], one policy table.

mod attempts;
mod authenticator;
mod cache;
pub mod claims;
mod error;
mod gateway;
pub(crate) mod hex;
pub mod issuer;
pub mod jwt;
pub mod keys;
pub mod load;
pub mod login;
pub mod password;
pub mod policy;
mod presented;
pub(crate) mod provider;
pub mod secret;
pub mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod token;

pub use authenticator::{Authenticator, Fetching};
pub use error::AuthError;
pub use gateway::Gateway;
pub use presented::{Credential, GatewayHeaders, Presented};
pub use token::{ALGORITHMS, algorithm_named};

use crate::model::tenant::TenantId;
use std::sync::Arc;

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

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
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
        Self::named(&name).ok_or_else(|| serde::de::Error::custom("there is no such role"))
    }
}

/// Where a credential comes from: who vouches for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A token signed with the secret of the data folder.
    Local,
    /// A token of a configured issuer.
    Issuer {
        /// The issuer's name in the configuration.
        name: Arc<str>,
        /// Which of its keys the token was signed with: when that key goes, so does the credential.
        key: u64,
    },
    /// An API key.
    Key {
        /// The tenant that the key belongs to.
        tenant: TenantId,
        /// Its id.
        key_id: Arc<str>,
    },
    /// Somebody who has logged in with a password.
    User {
        /// The tenant that the user belongs to.
        tenant: TenantId,
        /// Its id.
        user_id: Arc<str>,
    },
    /// A gateway in front of us, by its headers.
    Gateway,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The subject: becomes `actor`, and `user_id` where an entry has none. An API key's is `key:NAME`.
    pub subject: Arc<str>,
    /// The tenant in force: the one that the credential names, or the one that `X-Tenant-ID` chose among several. `None` only
    /// for a platform admin.
    pub tenant: Option<TenantId>,
    /// Its roles, sorted, at least one.
    pub roles: Vec<Role>,
    /// When the credential ends, seconds since 1970.
    pub expires_at: Option<i64>,
    /// Who vouches for it.
    pub origin: Origin,
}

impl Principal {
    /// Whether what it reads is masked: it is a viewer, and nothing that sees more.
    pub fn masked(&self) -> bool {
        self.roles.contains(&Role::Viewer) && !self.roles.iter().any(|role| matches!(role, Role::Auditor | Role::Admin))
    }
}
