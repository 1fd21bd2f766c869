//! A token, taken apart and not believed yet.
//!
//! Header and claims are read once, by one parser, so that what was checked is what is used. What a token is asked for and what
//! it says about itself decide nothing here: the issuer's configuration does.

use super::AuthError;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

/// Longer tokens are refused unread; large ones of real providers have a few KiB.
pub const MAX_TOKEN: usize = 16 * 1024;

/// The parts of a token.
pub struct Token<'a> {
    /// What was signed.
    pub message: &'a [u8],
    /// The signature, in base64url.
    pub signature: &'a str,
    /// The algorithm that the header asks for; one that we know.
    pub algorithm: Algorithm,
    /// Which key the header names.
    pub kid: Option<String>,
    /// The claims.
    pub claims: Map<String, Value>,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub fn parse(text: &'a str) -> Result<Self, AuthError> {
        if text.len() > MAX_TOKEN {
            return Err(AuthError::Malformed);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(AuthError::Malformed)?;
        let header = object(header)?;
        // RFC 7515: what is critical and not understood must be refused, and we understand no extension.
        if header.contains_key("crit") {
            return Err(AuthError::Malformed);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(algorithm_named);
        let kid = match header.get("kid") {
            None | Some(Value::Null) => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(AuthError::Malformed),
        };
        Ok(Self {
            message: message.as_bytes(),
            signature,
            algorithm: algorithm.ok_or(AuthError::Malformed)?,
            kid,
            claims: object(claims)?,
        })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, AuthError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| AuthError::Malformed)
}

/// The algorithms of the contract, by name and in its order.
pub const ALGORITHMS: [(&str, Algorithm); 7] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("PS256", Algorithm::PS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of this name, which is case-sensitive (RFC 7515).
pub fn algorithm_named(name: &str) -> Option<Algorithm> {
    ALGORITHMS.into_iter().find(|(known, _)| *known == name).map(|(_, algorithm)| algorithm)
}

/// A NumericDate: whole or broken seconds since 1970.
pub fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|s| s.is_finite()).map(|s| s as i64))
}
