//! Public keys from a PEM file: `PUBLIC KEY`, `RSA PUBLIC KEY`, `CERTIFICATE` (its key alone; validity and chain are not looked
//! at). Several blocks are several keys, as while keys are being changed.

use super::{BadKey, KeySet, PublicKey};
use jsonwebtoken::{DecodingKey, DecodingKeyKind, crypto::rust_crypto::DEFAULT_PROVIDER};

const BEGIN: &str = "-----BEGIN ";

/// Reads all keys of the text.
pub fn parse(text: &str) -> Result<KeySet, BadKey> {
    let starts: Vec<_> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    if starts.len() > super::MAX_KEYS {
        return Err(BadKey("there are more than 64 keys in it"));
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let blocks = starts.iter().zip(ends).map(|(start, end)| &text[*start..end]);
    KeySet::new(blocks.map(key).collect::<Result<_, _>>()?)
}

fn key(block: &str) -> Result<PublicKey, BadKey> {
    let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
    if label.contains("PRIVATE") {
        return Err(BadKey("it holds a private key; give the public one, which is all that is needed here"));
    }
    let bytes = |key: DecodingKey| match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.clone(),
        DecodingKeyKind::RsaModulusExponent { .. } => Vec::new(),
    };
    let pem = block.as_bytes();
    if let Ok(point) = DecodingKey::from_ec_pem(pem) {
        return PublicKey::p256(&bytes(point));
    }
    if let Ok(point) = DecodingKey::from_ed_pem(pem) {
        return PublicKey::ed25519(&bytes(point));
    }
    let unreadable = BadKey("it holds something that is no public key (`PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`) of RSA, P-256 or Ed25519");
    let rsa = DecodingKey::from_rsa_pem(pem).map_err(|_| unreadable)?;
    let (n, e) = (DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(&bytes(rsa)).map_err(|_| unreadable)?;
    PublicKey::rsa(&n, &e)
}
