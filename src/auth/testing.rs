//! For tests: tokens of other people's identity providers, and authenticators from configuration as a person writes it.

use super::{Authenticator, load};
use crate::{
    catalog::Catalog,
    config::{Settings, Sources},
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// The secret of the local issuer.
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The file `ec_a.crt`.
pub const EC_A_CRT: &str = include_str!("testing/keys/ec_a.crt");
/// The file `ec_a.pub`.
pub const EC_A_PUB: &str = include_str!("testing/keys/ec_a.pub");
/// The file `ed_a.pub`.
pub const ED_A_PUB: &str = include_str!("testing/keys/ed_a.pub");
/// The file `p384.pub`.
pub const P384_PUB: &str = include_str!("testing/keys/p384.pub");
/// The file `rsa_1024.pub`.
pub const RSA_1024_PUB: &str = include_str!("testing/keys/rsa_1024.pub");
/// The file `rsa_a.crt`.
pub const RSA_A_CRT: &str = include_str!("testing/keys/rsa_a.crt");
/// The file `rsa_a.pkcs1.pub`.
pub const RSA_A_PKCS1: &str = include_str!("testing/keys/rsa_a.pkcs1.pub");
/// The file `rsa_a.pub`.
pub const RSA_A_PUB: &str = include_str!("testing/keys/rsa_a.pub");
/// The file `rsa_b.pub`.
pub const RSA_B_PUB: &str = include_str!("testing/keys/rsa_b.pub");
/// Private keys.
pub const RSA_A: &str = include_str!("testing/keys/rsa_a.pem");
/// A second one.
pub const RSA_B: &str = include_str!("testing/keys/rsa_b.pem");
/// On P-256.
pub const EC_A: &str = include_str!("testing/keys/ec_a.pem");
/// Ed25519.
pub const ED_A: &str = include_str!("testing/keys/ed_a.pem");

/// What signs with this: a private key in PEM, or a secret.
pub fn signer(algorithm: Algorithm, key: &str) -> EncodingKey {
    match algorithm.family() {
        AlgorithmFamily::Hmac => EncodingKey::from_secret(key.as_bytes()),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(key.as_bytes()).expect("an RSA key"),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(key.as_bytes()).expect("an EC key"),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(key.as_bytes()).expect("an Ed25519 key"),
    }
}

/// Signs claims.
pub fn sign(algorithm: Algorithm, kid: Option<&str>, key: &str, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &signer(algorithm, key)).expect("encodes")
}

/// The public half of a private key, as key sets have it.
pub fn jwk(algorithm: Algorithm, kid: Option<&str>, key: &str) -> Value {
    let jwk = Jwk::from_encoding_key(&signer(algorithm, key), algorithm).expect("a public key");
    let mut jwk = serde_json::to_value(jwk).expect("plain");
    jwk["use"] = json!("sig");
    match kid {
        Some(kid) => jwk["kid"] = json!(kid),
        None => drop(jwk.as_object_mut().expect("an object").remove("kid")),
    }
    jwk
}

/// A key set.
pub fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Checks credentials as this text of a configuration file says; `DIR` in it stands for the folder.
pub fn authenticator(secret: &[u8], dir: &Path, text: &str, catalog: Option<Catalog>) -> Authenticator {
    let file = dir.join("sluice.toml");
    fs::write(&file, text.replace("DIR", dir.to_str().expect("UTF-8"))).expect("written");
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let settings = Settings::load(&sources).unwrap_or_else(|e| panic!("{e}"));
    let (issuers, gateway) = load::load(&settings.auth).unwrap_or_else(|e| panic!("{e:?}")).start();
    Authenticator::new(secret, issuers, gateway, catalog)
}
