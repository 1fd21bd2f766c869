//! The ids that entries get which were sent without one.

use crate::model::{entry::ContentHash, tenant::TenantId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const RANDOM_BITS: u32 = 74;

/// Makes the server's ids of one request: UUIDv7, strictly increasing, without asking the system for each of them.
///
/// The 74 bits behind the milliseconds start at a random number below 2^73 and grow by random steps of at most 2^32, so
/// that even two billion ids stay below 2^74, and two requests of one millisecond share no id but with a chance of 2^-50.
#[derive(Debug)]
pub(super) struct IdMaker {
    ms: u64,
    tail: u128,
    state: u64,
}

impl IdMaker {
    /// `now_ms` is what the ids will carry as their time.
    pub(super) fn new(now_ms: i64) -> Self {
        let seed: u128 = rand::random();
        Self {
            ms: now_ms.max(0) as u64,
            tail: seed >> (128 - RANDOM_BITS + 1),
            state: seed as u64,
        }
    }

    /// The next id.
    pub(super) fn next(&mut self) -> Uuid {
        // SplitMix64: the steps need to be spread, not secret.
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.tail += 1 + u128::from(z >> 32);
        let mut tail = [0; 10];
        tail[0] = (self.tail >> 70) as u8; // the version's bits lie over the upper half
        tail[1] = (self.tail >> 62) as u8;
        tail[2..].copy_from_slice(&(self.tail as u64).to_be_bytes()); // the variant's two bits lie over the top
        uuid::Builder::from_unix_timestamp_millis(self.ms, &tail).into_uuid()
    }
}

/// The id of entry `index` of a request with an `Idempotency-Key`: a UUIDv8 of the first 122 free bits of
///
/// SHA-256( `"sluice idempotency v1\0"` ‖ length of the tenant (u32) ‖ tenant ‖ length of the key (u32) ‖ key ‖ index (u64) ‖
/// content hash (16 bytes) ), integers little endian.
pub(super) fn idempotent_id(tenant: &TenantId, key: &str, index: usize, hash: ContentHash) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(b"sluice idempotency v1\0");
    for text in [tenant.as_str(), key] {
        digest.update((text.len() as u32).to_le_bytes());
        digest.update(text);
    }
    digest.update((index as u64).to_le_bytes());
    digest.update(hash.to_le_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    uuid::Builder::from_custom_bytes(digest[..16].try_into().expect("16 of 32 bytes")).into_uuid()
}

/// Reads a UUID in its hyphenated or its simple form, in any case.
pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    // The library also takes braces and `urn:uuid:`, whose lengths differ from these.
    Uuid::try_parse(text).ok().filter(|_| matches!(text.len(), 32 | 36))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_version_7_carry_the_time_and_increase() {
        let mut maker = IdMaker::new(1_709_208_000_123);
        let ids: Vec<Uuid> = (0..10_000).map(|_| maker.next()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "strictly increasing");
        for id in &ids {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            assert_eq!(id.as_u128() >> 80, 1_709_208_000_123);
        }
        assert_ne!(IdMaker::new(0).next(), IdMaker::new(0).next());
        assert_eq!(IdMaker::new(-1).next().as_u128() >> 80, 0);
    }

    #[test]
    fn the_tail_keeps_its_order_across_the_fixed_bits() {
        let mut last = Uuid::nil();
        for start in [0, (1 << 62) - 1, (1 << 70) - 1, (1 << 73) - 1] {
            let mut maker = IdMaker { ms: 1, tail: start, state: 7 };
            for _ in 0..100 {
                let id = maker.next();
                assert!(id > last, "{id} after {last}");
                last = id;
            }
        }
    }

    #[test]
    fn a_key_makes_the_same_id_from_the_same_things_only() {
        let (acme, other) = (TenantId::parse("acme").unwrap(), TenantId::parse("acmek").unwrap());
        let id = idempotent_id(&acme, "key", 3, 99);
        assert_eq!(id, idempotent_id(&acme, "key", 3, 99));
        assert_eq!(id.get_version_num(), 8);
        assert_eq!(
            id.to_string(),
            "35c7a18e-b971-8c32-8f3c-a31c570f4546",
            "an id that was given out once must never change"
        );
        for different in [
            idempotent_id(&other, "ey", 3, 99),
            idempotent_id(&acme, "key2", 3, 99),
            idempotent_id(&acme, "key", 4, 99),
            idempotent_id(&acme, "key", 3, 98),
        ] {
            assert_ne!(id, different);
        }
    }

    #[test]
    fn uuids_are_read_hyphenated_or_simple() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        for good in [
            "01234567-89ab-cdef-0123-456789abcdef",
            "01234567-89AB-CDEF-0123-456789abcdEF",
            "0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(parse_uuid(good), Some(id), "{good}");
        }
        for bad in [
            "",
            "1",
            "{01234567-89ab-cdef-0123-456789abcdef}",
            "urn:uuid:01234567-89ab-cdef-0123-456789abcdef",
            "{0123456789abcdef0123456789abcdef}",
            "0123456789abcdef-0123-456789abcdef00",
            "01234567-89ab-cdef-0123-456789abcdeg",
            " 0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
