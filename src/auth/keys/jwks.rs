//! A JSON Web Key Set (RFC 7517). Keys that are for something else (encryption, other curves, secrets) are passed over, as the
//! standard asks; a set without any usable key is no set.

use super::{BadKey, KeySet, PublicKey};
use crate::auth::token::algorithm_named;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// Larger sets are not read, bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Reads a set.
pub fn parse(text: &[u8]) -> Result<KeySet, BadKey> {
    if text.len() > MAX_BYTES {
        return Err(BadKey("it is larger than 1 MiB"));
    }
    let set: Value = serde_json::from_slice(text).map_err(|_| BadKey("it is not JSON"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(BadKey("it is no key set: `keys` is missing"))?;
    KeySet::new(keys.iter().filter_map(key).collect())
}

fn key(jwk: &Value) -> Option<PublicKey> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if let Some(operations) = jwk.get("key_ops").and_then(Value::as_array)
        && !operations.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    let only = match text("alg") {
        None => None,
        Some(name) => Some(algorithm_named(name)?),
    };
    let key = match (text("kty")?, text("crv")) {
        ("RSA", _) => PublicKey::rsa(&bytes("n")?, &bytes("e")?),
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != 32 || y.len() != 32 {
                return None;
            }
            PublicKey::p256(&[&[4], &x[..], &y[..]].concat())
        }
        ("OKP", Some("Ed25519")) => PublicKey::ed25519(&bytes("x")?),
        // Other curves, and `oct`: a secret that everybody can fetch is none.
        _ => return None,
    };
    // A key that is meant for an algorithm of another kind is a mistake of the set; it would check nothing.
    let key = key.ok().filter(|key| only.is_none_or(|only| key.fits(only)))?;
    Some(key.named(text("kid"), only))
}
