//! Who asks, and what they may do: one [`Principal`], one policy table.

pub mod jwt;
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
