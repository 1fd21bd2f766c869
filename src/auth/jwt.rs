//! Tokens that this process makes: HS256 with the secret of the data folder.
//!
//! Claims: `sub`, `tenant` (a tenant id), `role` (a list of names), `exp`, and `uid` for somebody who has logged in. They have
//! no `iss`: that is how the local issuer is known.

use crate::model::tenant::TenantId;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

pub use super::{authenticator::Authenticator, claims::roles_named};

/// What a new token is to say.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken<'a> {
    /// Who.
    pub sub: &'a str,
    /// Which tenant; needed unless the role is `platform_admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a TenantId>,
    /// Names of roles, see [`roles_named`].
    pub role: &'a [String],
    /// When it ends, seconds since 1970.
    pub exp: i64,
}

/// Signs a token with the local secret.
pub fn mint(secret: &[u8], token: &NewToken<'_>) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), token, &EncodingKey::from_secret(secret)).expect("plain claims and an HMAC key always encode")
}
