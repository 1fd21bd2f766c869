//! What signatures are checked with.
//!
//! A secret checks HS256, HS384 and HS512 and nothing else; a public key checks the algorithms of its kind and nothing else.
//! They are two types, so that a public key can never be taken for a secret, whatever a token's header asks for.

pub mod fetch;
pub mod jwks;
pub mod pem;

use super::{AuthError, token::Token};
use crate::model::tenant::TenantId;
use fetch::Fetched;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};
use std::collections::HashMap;

/// Keys of one issuer at most: each may be tried for a token that names none.
pub const MAX_KEYS: usize = 64;
/// RSA keys outside of this are too weak, or too slow to check.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A shared secret.
pub struct SecretKey(DecodingKey);

impl SecretKey {
    /// Takes the bytes of the secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(DecodingKey::from_secret(secret))
    }

    /// Whether the token was signed with it.
    pub fn signed(&self, token: &Token<'_>) -> bool {
        token.algorithm.family() == AlgorithmFamily::Hmac && verify(token, &self.0)
    }
}

/// The kinds of public keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RSA.
    Rsa,
    /// The curve P-256.
    P256,
    /// Ed25519.
    Ed25519,
}

impl Kind {
    /// Whether such a key checks such signatures.
    pub fn takes(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa => matches!(algorithm, Algorithm::RS256 | Algorithm::PS256),
            Self::P256 => algorithm == Algorithm::ES256,
            Self::Ed25519 => algorithm == Algorithm::EdDSA,
        }
    }
}

/// A public key.
pub struct PublicKey {
    /// Its name among the issuer's keys.
    kid: Option<Box<str>>,
    /// The only algorithm that it is meant for, if that is said.
    only: Option<Algorithm>,
    kind: Kind,
    key: DecodingKey,
    mark: u64,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(pub &'static str);

impl PublicKey {
    /// An RSA key of modulus and exponent, big-endian.
    pub fn rsa(n: &[u8], e: &[u8]) -> Result<Self, BadKey> {
        let strip = |bytes: &[u8]| bytes.iter().position(|b| *b != 0).map_or(Vec::new(), |at| bytes[at..].to_vec());
        let (n, e) = (strip(n), strip(e));
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(BadKey("an RSA key has 2048 to 8192 bits"));
        }
        // 33 bits are what ring takes; everybody uses 17.
        if e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
            return Err(BadKey("the exponent of the RSA key is not usable"));
        }
        Ok(Self::new(Kind::Rsa, DecodingKey::from_rsa_raw_components(&n, &e), &[&n, &e]))
    }

    /// A point on P-256: 4, x, y.
    pub fn p256(point: &[u8]) -> Result<Self, BadKey> {
        let key = Self::new(Kind::P256, DecodingKey::from_ec_der(point), &[point]);
        // RustCrypto reads the point when it is asked for a verifier, and says when it is not on the curve.
        let checked = (crypto::rust_crypto::DEFAULT_PROVIDER.verifier_factory)(&Algorithm::ES256, &key.key);
        if point.len() != 65 || checked.is_err() {
            return Err(BadKey("an EC key is a point on P-256, not compressed"));
        }
        Ok(key)
    }

    /// An Ed25519 key of 32 bytes.
    pub fn ed25519(bytes: &[u8]) -> Result<Self, BadKey> {
        let bad = BadKey("an Ed25519 key has 32 bytes and is a point of the curve");
        if bytes.len() != 32 {
            return Err(bad);
        }
        let key = Self::new(Kind::Ed25519, DecodingKey::from_ed_der(bytes), &[bytes]);
        let checked = (crypto::rust_crypto::DEFAULT_PROVIDER.verifier_factory)(&Algorithm::EdDSA, &key.key);
        if checked.is_err() { Err(bad) } else { Ok(key) }
    }

    fn new(kind: Kind, key: DecodingKey, parts: &[&[u8]]) -> Self {
        Self {
            kid: None,
            only: None,
            kind,
            key,
            mark: xxhash_rust::xxh3::xxh3_64(&parts.concat()),
        }
    }

    /// With what a set of keys says about it.
    pub fn named(mut self, kid: Option<&str>, only: Option<Algorithm>) -> Self {
        (self.kid, self.only) = (kid.map(Into::into), only);
        self
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it checks such signatures.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind.takes(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether the token may mean this key.
    fn is_meant(&self, token: &Token<'_>) -> bool {
        let by_name = match (&token.kid, &self.kid) {
            (Some(wanted), Some(kid)) => **wanted == **kid,
            _ => true,
        };
        by_name && self.fits(token.algorithm)
    }
}

/// The public keys of an issuer at one time.
#[derive(Default)]
pub struct KeySet(Vec<PublicKey>);

/// What a set of keys says to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Signed, with the key of this mark.
    Good(u64),
    /// A key was named and is here, but did not sign it.
    Forged,
    /// The key that signed it may be one that is not here.
    NoKey,
}

impl KeySet {
    /// Takes keys: one at least, [`MAX_KEYS`] at most.
    pub fn new(keys: Vec<PublicKey>) -> Result<Self, BadKey> {
        match keys.len() {
            0 => Err(BadKey("there is no usable key in it")),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(BadKey("there are more than 64 keys in it")),
        }
    }

    /// Checks the signature of a token.
    pub fn check(&self, token: &Token<'_>) -> Checked {
        let mut named = false;
        for key in self.0.iter().filter(|key| key.is_meant(token)) {
            if verify(token, &key.key) {
                return Checked::Good(key.mark);
            }
            named |= token.kid.is_some() && key.kid.is_some();
        }
        if named { Checked::Forged } else { Checked::NoKey }
    }

    /// Whether the key of this mark is here.
    pub fn has(&self, mark: u64) -> bool {
        self.0.iter().any(|key| key.mark == mark)
    }

    /// Whether a key of this name is here.
    pub fn has_named(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }
}

fn verify(token: &Token<'_>, key: &DecodingKey) -> bool {
    crypto::verify(token.signature, token.message, key, token.algorithm).unwrap_or(false)
}

/// The keys of an issuer, by where they come from.
pub enum Keys {
    /// One secret.
    Secret(SecretKey),
    /// A secret for each tenant.
    Tenants {
        /// By tenant.
        secrets: HashMap<TenantId, SecretKey>,
        /// Checked for a tenant that has none, so that the answer takes the same time.
        decoy: SecretKey,
    },
    /// Public keys that do not change.
    Fixed(KeySet),
    /// Public keys that are fetched.
    Fetched(Fetched),
}

/// Why no key says that a token is good.
pub enum NotSigned {
    /// It is not.
    Final(AuthError),
    /// The keys may have changed: fetch them, then ask again.
    FetchFirst {
        /// Why, if that does not help.
        error: AuthError,
        /// The version of the keys that did not do.
        seen: u64,
    },
}

impl Keys {
    /// Checks the signature of a token, whose unverified claims name `tenant`. Gives the mark of the key.
    pub fn check(&self, token: &Token<'_>, tenant: Option<&TenantId>) -> Result<u64, NotSigned> {
        let refused = NotSigned::Final(AuthError::Signature);
        match self {
            Self::Secret(secret) => secret.signed(token).then_some(0).ok_or(refused),
            Self::Tenants { secrets, decoy } => match tenant.and_then(|tenant| secrets.get(tenant)) {
                Some(secret) => secret.signed(token).then_some(0).ok_or(refused),
                None => {
                    decoy.signed(token);
                    Err(refused)
                }
            },
            Self::Fixed(keys) => match keys.check(token) {
                Checked::Good(mark) => Ok(mark),
                Checked::Forged | Checked::NoKey => Err(refused),
            },
            Self::Fetched(fetched) => {
                let seen = fetched.version(); // before the keys, so that newer ones are never taken for these
                let fetch_first = |error| Err(NotSigned::FetchFirst { error, seen });
                match fetched.keys().map(|keys| keys.check(token)) {
                    Some(Checked::Good(mark)) => Ok(mark),
                    Some(Checked::Forged) => Err(refused),
                    Some(Checked::NoKey) => fetch_first(AuthError::Signature),
                    None => fetch_first(AuthError::Unavailable),
                }
            }
        }
    }

    /// Whether tokens that were signed with the key of this mark are still to be taken.
    pub fn still_has(&self, mark: u64) -> bool {
        match self {
            Self::Secret(_) | Self::Tenants { .. } | Self::Fixed(_) => true,
            Self::Fetched(fetched) => fetched.keys().is_some_and(|keys| keys.has(mark)),
        }
    }
}
