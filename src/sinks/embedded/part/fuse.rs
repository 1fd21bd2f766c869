//! Binary-fuse filters in bytes: sets of 64-bit keys that answer "certainly not" or "perhaps".
//!
//! # Filter, version 1 (all integers little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | seed |
//! | 8 | 4 | segment length s, a power of two |
//! | 12 | 4 | segment count × segment length, c |
//! | 16 | c + 2 s | fingerprints of one byte: 9 bits a key |
//!
//! With h = fmix64(key + seed) (MurmurHash3's finaliser, wrapping): the key is perhaps in the set if the low 8 bits of
//! h ⊕ (h >> 32) equal the exclusive or of the fingerprints at h0 = (h × c) >> 64, (h0 + s) ⊕ ((h >> 18) mod s) and
//! (h0 + 2 s) ⊕ (h mod s). False positives: 2⁻⁸. There are no false negatives.
//!
//! `xorf` builds them; they are probed here in place, in mapped bytes that may lie at any address, and without a panic
//! whatever the bytes are: the crate's own borrowed form copies nothing either, but asserts alignment and indexes unchecked.

use xorf::{BinaryFuse8, DmaSerializable};

const HEADER_LEN: usize = 16;

/// Appends a filter over `keys`, which are distinct. `false`, with nothing appended, if none can be built (it is so
/// improbable that nothing but a missing filter, which prunes nothing, need come of it).
pub(super) fn build(keys: &[u64], out: &mut Vec<u8>) -> bool {
    let Ok(filter) = BinaryFuse8::try_from(keys) else { return false };
    let fingerprints = filter.dma_fingerprints();
    out.reserve(HEADER_LEN + fingerprints.len());
    append_header(&filter.descriptor, out);
    out.extend_from_slice(fingerprints);
    true
}

fn append_header(descriptor: &xorf::Descriptor, out: &mut Vec<u8>) {
    out.extend_from_slice(&descriptor.seed.to_le_bytes());
    out.extend_from_slice(&descriptor.segment_length.to_le_bytes());
    out.extend_from_slice(&descriptor.segment_count_length.to_le_bytes());
}

/// Whether `key` may be in the set. Malformed bytes answer `true`: nothing is pruned by them.
#[inline]
pub(super) fn may_contain(filter: &[u8], key: u64) -> bool {
    let Some((header, fingerprints)) = filter.split_at_checked(HEADER_LEN) else {
        return true;
    };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let seed = u64::from_le_bytes(header[..8].try_into().expect("8 bytes"));
    let (segment, count) = (word(8), word(12));
    let hash = fmix64(key.wrapping_add(seed));
    let h0 = ((u128::from(hash) * u128::from(count)) >> 64) as u32;
    let mask = segment.wrapping_sub(1);
    let h1 = h0.wrapping_add(segment) ^ ((hash >> 18) as u32 & mask);
    let h2 = h0.wrapping_add(segment.wrapping_mul(2)) ^ (hash as u32 & mask);
    let fingerprint = hash ^ (hash >> 32);
    let at = |i: u32| fingerprints.get(i as usize).copied();
    match (at(h0), at(h1), at(h2)) {
        (Some(a), Some(b), Some(c)) => a ^ b ^ c == fingerprint as u8,
        _ => true,
    }
}

#[inline]
fn fmix64(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xorf::Filter;

    fn keys(n: u64, salt: u64) -> Vec<u64> {
        (0..n).map(|i| fmix64(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt)).collect()
    }

    #[test]
    fn the_probe_agrees_with_the_crate_that_builds() {
        for n in [0, 1, 2, 3, 63, 64, 1_000, 70_000] {
            let (inside, outside) = (keys(n, 1), keys(20_000, 2));
            let mut bytes = Vec::new();
            assert!(build(&inside, &mut bytes));
            let filter = BinaryFuse8::try_from(&inside).unwrap();
            assert!(inside.iter().all(|k| may_contain(&bytes, *k)), "{n}");
            for k in &outside {
                assert_eq!(may_contain(&bytes, *k), filter.contains(k));
            }
        }
    }

    #[test]
    fn malformed_bytes_prune_nothing_or_something_but_never_panic() {
        let mut filter = Vec::new();
        assert!(build(&keys(100, 3), &mut filter));
        for cut in 0..filter.len() {
            may_contain(&filter[..cut], 5);
        }
        for at in 0..HEADER_LEN {
            let mut bad = filter.clone();
            bad[at] ^= 0xff;
            may_contain(&bad, 5);
        }
        assert!(may_contain(&[], 5));
    }
}
