//! Passwords: hashed with Argon2id, which is made to be slow and to need memory, because people choose what can be guessed.
//!
//! One hash takes 19 MiB and two passes (OWASP's first choice) and some 20 ms of a core. [`Hasher`] does them on the blocking
//! pool, on at most half of the cores, and lets only so many wait: logins never take the machine, however many come.
//!
//! In an object: `{"kdf": "argon2id", "m": KiB, "t": passes, "p": lanes, "salt": 32 hexadecimal digits, "hash": 64 of them}`.
//! Other costs than today's are read too, within bounds; another function is not.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, sync::Arc, thread::available_parallelism};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Memory of one hash, KiB.
const MEMORY: u32 = 19 * 1024;
/// Passes over it.
const PASSES: u32 = 2;
/// Lanes of it.
const LANES: u32 = 1;
/// A stored hash of more than this memory (KiB), passes or lanes is not taken: somebody else wrote it.
const MOST: (u32, u32, u32) = (256 * 1024, 16, 4);
/// Hashes that may wait for their turn.
const MOST_WAITING: usize = 64;
/// Fewest characters of a password.
pub const MIN_CHARS: usize = 12;
/// Most bytes of a password.
pub const MAX_BYTES: usize = 1024;

/// A password as somebody typed it. Never printed.
#[derive(Clone)]
pub struct Password(Arc<str>);

impl Password {
    /// Takes what was typed.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// Whether it may become somebody's password: 12 characters to 1,024 bytes.
    pub fn is_acceptable(&self) -> bool {
        self.0.chars().count() >= MIN_CHARS && self.0.len() <= MAX_BYTES
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// With what a password is hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    memory: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
}

impl Recipe {
    /// Today's costs and a salt of its own.
    pub fn fresh() -> Result<Self, getrandom::Error> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        Ok(Self::with_salt(salt))
    }

    /// Today's costs and a salt for nobody: what is hashed where there is no account costs as much as where there is one.
    pub fn of_nobody() -> Self {
        Self::with_salt([0x5a; 16])
    }

    /// Whether these are today's costs.
    pub fn is_current(&self) -> bool {
        (self.memory, self.passes, self.lanes) == (MEMORY, PASSES, LANES)
    }

    fn with_salt(salt: [u8; 16]) -> Self {
        Self {
            memory: MEMORY,
            passes: PASSES,
            lanes: LANES,
            salt,
        }
    }

    /// Blocks for some 20 ms. Fails without memory.
    fn hash(self, password: &Password) -> Result<PasswordHash, argon2::Error> {
        let params = Params::new(self.memory, self.passes, self.lanes, Some(32))?;
        let mut hash = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(password.0.as_bytes(), &self.salt, &mut hash)?;
        Ok(PasswordHash { recipe: self, hash })
    }
}

/// What is kept of a password. Never printed; comparing takes the same time for all.
#[derive(Clone)]
pub struct PasswordHash {
    recipe: Recipe,
    hash: [u8; 32],
}

impl PasswordHash {
    /// With what it was made.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }
}

impl PartialEq for PasswordHash {
    fn eq(&self, other: &Self) -> bool {
        self.recipe == other.recipe && bool::from(self.hash.ct_eq(&other.hash))
    }
}

impl Eq for PasswordHash {}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    kdf: String,
    m: u32,
    t: u32,
    p: u32,
    salt: String,
    hash: String,
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let stored = Stored {
            kdf: "argon2id".to_owned(),
            m: self.recipe.memory,
            t: self.recipe.passes,
            p: self.recipe.lanes,
            salt: super::hex::encode(&self.recipe.salt),
            hash: super::hex::encode(&self.hash),
        };
        stored.serialize(s)
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(d)?;
        let costs = (stored.m, stored.t, stored.p);
        let bounded = costs.0 <= MOST.0 && costs.1 <= MOST.1 && costs.2 <= MOST.2 && Params::new(costs.0, costs.1, costs.2, Some(32)).is_ok();
        if stored.kdf != "argon2id" || !bounded {
            return Err(D::Error::custom("the password was hashed in a way that this version does not know"));
        }
        let (salt, hash) = (super::hex::decode(&stored.salt), super::hex::decode(&stored.hash));
        let (salt, hash) = salt.zip(hash).ok_or_else(|| D::Error::custom("a hash that is none"))?;
        let recipe = Recipe {
            memory: costs.0,
            passes: costs.1,
            lanes: costs.2,
            salt,
        };
        Ok(Self { recipe, hash })
    }
}

/// Why there is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Too many wait already.
    #[error("too many logins at once")]
    Busy,
    /// There is no memory for it.
    #[error("a password cannot be hashed now")]
    Failed,
}

/// Hashes passwords, few at a time. Cheap to clone.
#[derive(Clone)]
pub struct Hasher {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        // Half of the cores, and no more than 76 MiB.
        let cores = available_parallelism().map_or(2, usize::from);
        Self::new((cores / 2).clamp(1, 4), MOST_WAITING)
    }
}

impl Hasher {
    /// Does `at_once`, and lets so many more wait.
    pub fn new(at_once: usize, waiting: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once)),
            places: Arc::new(Semaphore::new(at_once + waiting)),
        }
    }

    /// Hashes a password. Dropping it gives the place up; a hash that has begun is done to its end and counts until then.
    pub async fn hash(&self, password: &Password, recipe: Recipe) -> Result<PasswordHash, HashError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| HashError::Busy)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| HashError::Busy)?;
        let password = password.clone();
        let work = move || {
            let _held = (place, turn);
            recipe.hash(&password)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(hash)) => Ok(hash),
            Ok(Err(_)) | Err(_) => Err(HashError::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_hash_fits_its_password_alone_and_comes_back_from_json() {
        let hasher = Hasher::default();
        let recipe = Recipe::fresh().expect("random");
        let hash = hasher.hash(&password("correct horse battery"), recipe).await.expect("hashed");
        let json = serde_json::to_string(&hash).expect("encodes");
        let read: PasswordHash = serde_json::from_str(&json).expect("decodes");
        assert!(read == hash && read.recipe().is_current());
        let again = hasher.hash(&password("correct horse battery"), read.recipe()).await.expect("hashed");
        let wrong = hasher.hash(&password("correct horse batterz"), read.recipe()).await.expect("hashed");
        let salted = hasher.hash(&password("correct horse battery"), Recipe::of_nobody()).await.expect("hashed");
        assert!(again == hash && wrong != hash && salted != hash);
        assert!(Recipe::fresh().expect("random") != recipe, "no two salts are the same");
        assert!(!format!("{hash:?} {:?}", password("correct horse battery")).contains("horse"));
        assert!(json.contains(r#""kdf":"argon2id","m":19456,"t":2,"p":1"#), "OWASP's costs: {json}");
    }

    #[test]
    fn a_strangers_costs_are_refused() {
        let json = |kdf: &str, m: u32, t: u32, p: u32| {
            let (salt, hash) = ("00".repeat(16), "00".repeat(32));
            format!(r#"{{"kdf":"{kdf}","m":{m},"t":{t},"p":{p},"salt":"{salt}","hash":"{hash}"}}"#)
        };
        assert!(serde_json::from_str::<PasswordHash>(&json("argon2id", 64 * 1024, 3, 4)).is_ok());
        for bad in [
            json("argon2i", 19_456, 2, 1),
            json("scrypt", 19_456, 2, 1),
            json("argon2id", 4 << 20, 2, 1),
            json("argon2id", 19_456, 1000, 1),
            json("argon2id", 19_456, 2, 64),
            json("argon2id", 0, 0, 0),
            json("argon2id", 19_456, 2, 1).replace(&"00".repeat(16), "00"),
        ] {
            assert!(serde_json::from_str::<PasswordHash>(&bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn few_at_once_and_few_wait() {
        let hasher = Hasher::new(1, 2);
        let one = |text: &'static str| {
            let hasher = hasher.clone();
            async move { hasher.hash(&password(text), Recipe::of_nobody()).await }
        };
        let (a, b, c, d) = tokio::join!(one("a"), one("b"), one("c"), one("d"));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        assert_eq!(d.err(), Some(HashError::Busy));
        assert!(one("e").await.is_ok(), "places come back");
    }

    #[test]
    fn lengths_are_counted_in_characters_below_and_bytes_above() {
        for (text, good) in [
            ("".to_owned(), false),
            ("a".repeat(11), false),
            ("ä".repeat(11), false),
            ("a".repeat(12), true),
            ("ä".repeat(12), true),
            ("a".repeat(1024), true),
            ("a".repeat(1025), false),
            ("ä".repeat(513), false),
        ] {
            assert_eq!(password(&text).is_acceptable(), good, "{text}");
        }
    }
}
