//! Whose credentials are accepted, as configured: checked, and not read from files yet.

use super::{issuer::Rules, keys::fetch::Source};
use crate::model::{filter::IpRange, tenant::TenantId};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// `[auth]`
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    /// `[[auth.issuers]]`
    pub issuers: Vec<IssuerSettings>,
    /// `[auth.gateway]`, if it is enabled.
    pub gateway: Option<GatewaySettings>,
}

/// One of `[[auth.issuers]]`.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// What it may, and how its tokens are read.
    pub rules: Rules,
    /// Where its keys are.
    pub keys: KeySettings,
    /// Whether `tenants` was left out, and is not bounded by the secrets either.
    pub tenants_open: bool,
}

/// `[auth.issuers.keys]`
#[derive(Debug, Clone)]
pub enum KeySettings {
    /// One secret for all.
    Secret(Secret),
    /// A secret for each tenant.
    TenantSecrets(BTreeMap<TenantId, Hidden>),
    /// A file with a secret for each tenant, as JSON or TOML.
    TenantSecretsFile(PathBuf),
    /// Public keys.
    PemFile(PathBuf),
    /// Public keys that change.
    Jwks(Source),
}

/// `[auth.gateway]`
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// The networks that gateways are in: one at least.
    pub cidrs: Vec<IpRange>,
    /// What gateways know.
    pub secret: Secret,
}

/// A secret: itself, or where it is.
#[derive(Debug, Clone)]
pub enum Secret {
    /// In the configuration.
    Given(Hidden),
    /// The text of a file, without white space around it.
    File(PathBuf),
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Takes any text but the empty one and `…`, as which secrets are shown: what `check-config` prints must not become a
    /// configuration whose secret everybody knows.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty() && text != "…").then(|| Self(text.to_owned()))
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
