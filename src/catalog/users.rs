//! People with a password.
//!
//! A person is known by an e-mail address: without spaces around it and in lower case, since no provider in use tells
//! `Ann@` from `ann@`. The same address may have an account in several tenants, each with its own password and roles; an account
//! that is removed and made again is another one, with another id, so that tokens of the first never work for the second.
//!
//! # Object `catalog/users/<tenant id>.json`, format 1
//!
//! `{"format": 1, "revision": N, "items": [{user_id, email, name, roles, password, created_at}]}`: the accounts of one tenant
//! and how often the list was written, from 1; `user_id` is a UUIDv7, `roles` a list of names, `name` may be null, `password`
//! is what [`crate::auth::password`] says.

use super::{
    CatalogError, checked_name,
    roster::{Item, Unreadable},
};
use crate::{
    auth::{Role, password::PasswordHash},
    model::{
        tenant::TenantId,
        time::{now_ms, parse_rfc3339, rfc3339},
    },
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use uuid::Uuid;

/// The longest address that mail can be sent to, bytes.
const MAX_EMAIL: usize = 254;

/// An account of a person in a tenant, as memory has it.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The id of the account: a UUID, unique everywhere.
    pub user_id: Box<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The person's address, see [`normal_email`].
    pub email: Arc<str>,
    /// The person's name.
    pub name: Option<Box<str>>,
    /// What the person may do, sorted, at least one; never a platform admin.
    pub roles: Box<[Role]>,
    /// When the account was made, milliseconds since 1970.
    pub created_at: i64,
    pub(crate) password: PasswordHash,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("user_id", &self.user_id)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// What a new account is made of.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The person's address, as given.
    pub email: String,
    /// The person's name.
    pub name: Option<String>,
    /// What the person may do: at least one.
    pub roles: Vec<Role>,
}

impl NewUser {
    /// Checks everything and brings it into its form, so that nothing is hashed for an account that cannot be.
    pub fn checked(self) -> Result<Self, CatalogError> {
        let invalid = |field: &str, message: &str| CatalogError::Invalid {
            field: field.to_owned(),
            message: message.to_owned(),
        };
        let email = normal_email(&self.email).ok_or_else(|| invalid("email", "must be an e-mail address of at most 254 bytes, such as `ann@example.com`"))?;
        let mut roles = self.roles;
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() || roles.contains(&Role::PlatformAdmin) {
            return Err(invalid("roles", "must be at least one of `writer`, `viewer`, `auditor` and `admin`"));
        }
        let name = self.name.map(checked_name).transpose()?;
        Ok(Self { email, name, roles })
    }
}

/// An address in the form in which addresses are kept and compared: no white space around it, lower case. `None` if it is none.
pub fn normal_email(text: &str) -> Option<String> {
    let email = text.trim().to_lowercase();
    let (local, domain) = email.rsplit_once('@')?;
    let good = |c: char| !c.is_control() && !c.is_whitespace();
    let parts = !local.is_empty() && !domain.is_empty() && !local.contains('@') && !domain.starts_with('.') && !domain.ends_with('.');
    (parts && email.len() <= MAX_EMAIL && email.chars().all(good)).then_some(email)
}

/// A user, as its object has it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredUser {
    pub(super) user_id: String,
    pub(super) email: String,
    name: Option<String>,
    roles: Vec<Role>,
    password: PasswordHash,
    created_at: String,
}

impl StoredUser {
    /// A new account; `new` was checked.
    pub(super) fn new(new: NewUser, password: PasswordHash) -> Self {
        Self {
            user_id: Uuid::now_v7().to_string(),
            email: new.email,
            name: new.name,
            roles: new.roles,
            password,
            created_at: rfc3339(now_ms()),
        }
    }
}

impl Item for User {
    const FOLDER: &'static str = "catalog/users";
    const WHAT: &'static str = "users";
    const MOST: usize = 10_000;
    type Stored = StoredUser;

    fn of_stored(tenant: &TenantId, stored: StoredUser) -> Result<Self, Unreadable> {
        if stored.roles.is_empty() || stored.roles.contains(&Role::PlatformAdmin) {
            return Err(Unreadable("a role"));
        }
        Ok(Self {
            user_id: stored.user_id.into(),
            tenant: tenant.clone(),
            email: stored.email.into(),
            name: stored.name.map(Into::into),
            roles: stored.roles.into(),
            created_at: parse_rfc3339(&stored.created_at).ok_or(Unreadable("a time"))?,
            password: stored.password,
        })
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn id(&self) -> &str {
        &self.user_id
    }

    fn found_by(&self) -> &Arc<str> {
        &self.email
    }
}
