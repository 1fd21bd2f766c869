//! Why a credential was refused. No message tells whether a tenant, a key or a user exists.

impl AuthError {
    /// Whether somebody who tries credentials would hear it: the caller has shown nothing that it could not have made up.
    pub fn is_a_guess(&self) -> bool {
        // The first four are said to whoever has shown a good signature; with the last nothing was looked at.
        !matches!(
            self,
            Self::AmbiguousTenant | Self::UnknownRole | Self::OutOfBounds | Self::NotCovered | Self::Unavailable
        )
    }
}

/// Why a credential was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is no token that we can read, or has an algorithm that its issuer may not use (401).
    #[error("the token is malformed or has an algorithm that is not accepted")]
    Malformed,
    /// Its issuer is not in the configuration (401).
    #[error("the token's issuer (`iss`) is not accepted here")]
    UnknownIssuer,
    /// It was made for somebody else (401).
    #[error("the token is not meant for this service (`aud`)")]
    Audience,
    /// No key of its issuer fits its signature (401).
    #[error("the signature of the token does not fit")]
    Signature,
    /// It has no time of expiry (401).
    #[error("the token has no `exp`")]
    NoExpiry,
    /// It has expired (401).
    #[error("the credential has expired")]
    Expired,
    /// It is not valid yet (401).
    #[error("the token is not valid yet")]
    NotYet,
    /// It names nobody (401).
    #[error("the token needs a subject of 1 to 256 bytes without control characters")]
    Subject,
    /// It names no tenant, or what it names is no tenant id (401).
    #[error("the credential needs a tenant that is a tenant id")]
    Tenant,
    /// It names several tenants, and the request does not say which is meant (401).
    #[error("the token names several tenants; choose one of them with `X-Tenant-ID`")]
    AmbiguousTenant,
    /// There is no such API key, or its secret is another, or it was revoked (401).
    #[error("the API key is not valid")]
    Key,
    /// The user of a login token was removed (401).
    #[error("the login is not valid any more")]
    Login,
    /// Gateway headers that are not from a gateway of ours, or that say nothing useful (401).
    #[error("the gateway headers are not valid")]
    Gateway,
    /// It has no role, or one that there is not (403).
    #[error("the credential has no known role")]
    UnknownRole,
    /// Its issuer may not give such a role, or may not speak for the tenant (403).
    #[error("the credential reaches beyond the bounds of its issuer")]
    OutOfBounds,
    /// `X-Tenant-ID` names a tenant that the credential does not (403).
    #[error("the credential does not cover this tenant")]
    NotCovered,
    /// It cannot be checked now: the issuer's keys were never fetched, or the catalog is too old (503).
    #[error("credentials of this kind cannot be checked at the moment")]
    Unavailable,
}
