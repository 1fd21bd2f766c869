//! Tokens that were found good, so that a client which sends the same one with every request costs a look-up.
//!
//! Kept by SHA-256 of the token, never the token itself, for at most five minutes and never beyond its expiry. Whether what it
//! rests on is still there (the issuer's key, the user) is for the caller to ask at each hit. Bounded in bytes: each shard has
//! a young and an old generation; when the young one is full it becomes the old one, and what is used again moves to the young.

use super::issuer::Known;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    mem,
    sync::{Arc, PoisonError, RwLock},
};

/// Bytes of all shards together, about: two generations each.
const BYTES: usize = 8 << 20;
const SHARDS: usize = 16;
/// What an entry costs beside the texts in it: key, pointers, the principal, and the table's free room.
const ENTRY: usize = 256;
/// Longest life without being checked again, seconds.
pub const TTL: i64 = 300;

/// The name of a token in the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn part(&self, at: usize) -> u64 {
        let bytes = self.0[at..at + 8].try_into().expect("eight of 32 bytes");
        u64::from_ne_bytes(bytes)
    }
}

impl std::hash::Hash for TokenHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.part(8));
    }
}

/// SHA-256 needs no further hashing.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

type Generation = HashMap<TokenHash, Arc<Known>, BuildHasherDefault<AsItIs>>;

#[derive(Default)]
struct Shard {
    young: Generation,
    young_bytes: usize,
    old: Generation,
}

/// The cache. All methods take microseconds.
#[derive(Default)]
pub struct Cache {
    shards: [RwLock<Shard>; SHARDS],
}

impl Cache {
    /// Whom the token speaks for, if it is remembered and its time is not over.
    pub fn get(&self, hash: TokenHash, now: i64) -> Option<Arc<Known>> {
        let shard = self.shard(hash);
        let found = {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            match shard.young.get(&hash) {
                Some(known) => return Some(known.clone()).filter(|known| now < known.until),
                None => shard.old.get(&hash)?.clone(),
            }
        };
        let found = Some(found).filter(|known| now < known.until)?;
        self.put(hash, found.clone());
        Some(found)
    }

    /// Remembers a token.
    pub fn put(&self, hash: TokenHash, known: Arc<Known>) {
        let bytes = ENTRY + known.bytes();
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        if shard.young_bytes + bytes > BYTES / SHARDS / 2 {
            shard.young_bytes = 0;
            shard.old = mem::take(&mut shard.young);
        }
        if shard.young.insert(hash, known).is_none() {
            shard.young_bytes += bytes;
        }
    }

    /// Forgets a token.
    pub fn forget(&self, hash: TokenHash) {
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        // Its bytes count until the generation ends, which comes the sooner.
        shard.young.remove(&hash);
        shard.old.remove(&hash);
    }

    fn shard(&self, hash: TokenHash) -> &RwLock<Shard> {
        &self.shards[hash.part(0) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Origin;

    fn known(until: i64) -> Arc<Known> {
        Arc::new(Known::for_test(until, Origin::Local))
    }

    fn bytes(cache: &Cache) -> usize {
        let of = |generation: &Generation| generation.values().map(|known| ENTRY + known.bytes()).sum::<usize>();
        cache
            .shards
            .iter()
            .map(|shard| shard.read().expect("no panic"))
            .map(|shard| of(&shard.young) + of(&shard.old))
            .sum()
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let cache = Cache::default();
        let used = TokenHash::of("used");
        cache.put(used, known(100));
        for i in 0..100_000 {
            cache.put(TokenHash::of(&i.to_string()), known(100));
            assert!(i % 100 != 0 || cache.get(used, 0).is_some(), "{i}");
        }
        assert!(bytes(&cache) <= BYTES, "{}", bytes(&cache));
        assert!(cache.get(TokenHash::of("0"), 0).is_none(), "what nobody uses goes");
    }

    #[test]
    fn nothing_is_remembered_beyond_its_time() {
        let cache = Cache::default();
        let hash = TokenHash::of("t");
        cache.put(hash, known(100));
        assert!(cache.get(hash, 99).is_some());
        assert!(cache.get(hash, 100).is_none());
        assert!(cache.get(TokenHash::of("T"), 0).is_none());
        cache.forget(hash);
        assert!(cache.get(hash, 0).is_none());
    }
}
