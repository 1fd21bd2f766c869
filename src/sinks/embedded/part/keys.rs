//! What goes into a block's filter: 64-bit keys of words, values, leaves and address prefixes.
//!
//! A key is XXH3-64 of the bytes below with the kind as seed, so that a word never stands for a user, or a user for an
//! actor. Changing any of it is a new version of the sidecar.
//!
//! | kind | seed | bytes |
//! |---|---|---|
//! | word | 1 | the word of [`crate::model::words::entry_words`] |
//! | value of `action` … `email` | 16 + field | the text; lower-cased for `action` and `resource_type` |
//! | actor | 32 | the text |
//! | leaf of `metadata` | 33 | for each key of the path its length in bytes (u32, little endian) and its bytes; then the text of the value |
//! | address prefix | 34 | 4 or 6, then the number of bits (/8 /16 /24 /32; /32 /48 /64 /128), then the address with the other bits 0 |

use crate::model::{
    entry::{EntryRef, Field},
    filter::IpRange,
    leaves::for_each_leaf,
    words::entry_words,
};
use hashbrown::HashSet;
use std::{
    borrow::Cow,
    hash::{BuildHasherDefault, Hasher},
    net::IpAddr,
};
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const WORD: u64 = 1;
const VALUE: u64 = 16;
const ACTOR: u64 = 32;
const LEAF: u64 = 33;
const PREFIX: u64 = 34;

/// An entry with more leaves than this sets `overflow` on its block.
pub(super) const MAX_LEAVES: usize = 256;

/// The fields whose exact values are in the filters.
const VALUES: [Field; 7] = [
    Field::Action,
    Field::ResourceType,
    Field::ResourceId,
    Field::UserId,
    Field::SessionId,
    Field::RequestId,
    Field::Email,
];
const PREFIXES_4: [u8; 4] = [8, 16, 24, 32];
const PREFIXES_6: [u8; 4] = [32, 48, 64, 128];

/// Key of a word.
pub(super) fn word(word: &str) -> u64 {
    xxh3_64_with_seed(word.as_bytes(), WORD)
}

/// Key of a field's text. Values of `action` and `resource_type` must be in lower case.
pub(super) fn value(field: Field, text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), VALUE + field as u64)
}

/// Key of an actor.
pub(super) fn actor(text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), ACTOR)
}

/// Key of a leaf. `scratch` is overwritten.
pub(super) fn leaf<K: AsRef<str>>(path: &[K], text: &str, scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    for key in path {
        let key = key.as_ref();
        scratch.extend_from_slice(&(key.len() as u32).to_le_bytes());
        scratch.extend_from_slice(key.as_bytes());
    }
    scratch.extend_from_slice(text.as_bytes());
    xxh3_64_with_seed(scratch, LEAF)
}

/// Key that every address of the range has, if there is one: that of the longest indexed prefix which contains the range.
pub(super) fn range(range: &IpRange) -> Option<u64> {
    let range = range.canonical();
    let prefixes = match range.addr {
        IpAddr::V4(_) => PREFIXES_4,
        IpAddr::V6(_) => PREFIXES_6,
    };
    let bits = prefixes.into_iter().rev().find(|bits| *bits <= range.prefix)?;
    Some(prefix(range.addr, bits))
}

fn prefix(addr: IpAddr, bits: u8) -> u64 {
    let mut bytes = [0; 18];
    bytes[1] = bits;
    let len = match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            bytes[0] = 4;
            bytes[2..6].copy_from_slice(&(a.to_bits() & mask).to_be_bytes());
            6
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            bytes[0] = 6;
            bytes[2..18].copy_from_slice(&(a.to_bits() & mask).to_be_bytes());
            18
        }
    };
    xxh3_64_with_seed(&bytes[..len], PREFIX)
}

/// Key of an id in the id index: XXH3-64 of the tenant's name followed by the 16 bytes of the id.
pub(super) fn id(tenant: &str, id: &Uuid) -> u64 {
    let mut bytes = [0; 64 + 16];
    // Names are at most 63 bytes; a longer one could only come from a damaged file, and is cut.
    let name = &tenant.as_bytes()[..tenant.len().min(64)];
    bytes[..name.len()].copy_from_slice(name);
    bytes[name.len()..name.len() + 16].copy_from_slice(id.as_bytes());
    xxh3_64(&bytes[..name.len() + 16])
}

/// Text in lower case, borrowed where it is so already (`str::to_lowercase` decides what lower case is).
pub(super) fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.to_lowercase())
    }
}

/// The distinct keys of one block. Reused from block to block.
#[derive(Default)]
pub(super) struct KeySet {
    /// Until there are `few_rows` rows: with repeats, so that tiny blocks cost no hash table.
    few: Vec<u64>,
    many: HashSet<u64, BuildHasherDefault<KeyHasher>>,
    rows: usize,
    overflow: bool,
    scratch: Vec<u8>,
}

/// Keys are hashes already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl KeySet {
    /// A block with fewer rows gets no filter.
    pub(super) const MIN_ROWS: usize = 64;

    /// Adds the keys of one row.
    pub(super) fn add(&mut self, by: &str, entry: &EntryRef<'_>) {
        self.rows += 1;
        if self.rows == Self::MIN_ROWS {
            self.many.extend(self.few.drain(..));
        }
        let (few, many, scratch) = (&mut self.few, &mut self.many, &mut self.scratch);
        let is_few = self.rows < Self::MIN_ROWS;
        let mut put = |key: u64| {
            if is_few {
                few.push(key);
            } else {
                many.insert(key);
            }
        };
        entry_words(entry, &mut |w| put(word(w)));
        put(actor(by));
        for field in VALUES {
            let Some(text) = entry.text(field) else { continue };
            match field {
                Field::Action | Field::ResourceType => put(value(field, &lower(text))),
                _ => put(value(field, text)),
            }
        }
        if let Some(addr) = entry.ip() {
            for bits in if addr.is_ipv4() { PREFIXES_4 } else { PREFIXES_6 } {
                put(prefix(addr, bits));
            }
        }
        if let Some(json) = entry.text(Field::Metadata) {
            let mut leaves = 0;
            for_each_leaf(json, &mut |path, text| {
                leaves += 1;
                if leaves <= MAX_LEAVES {
                    put(leaf(path, &text, scratch));
                }
            });
            self.overflow |= leaves > MAX_LEAVES;
        }
    }

    /// Whether an entry of the block had more leaves than are in the set.
    pub(super) fn overflow(&self) -> bool {
        self.overflow
    }

    /// Ends the block: its distinct keys, or `None` if it has too few rows for a filter. The set is empty afterwards.
    pub(super) fn finish(&mut self) -> Option<&[u64]> {
        let rows = std::mem::take(&mut self.rows);
        self.overflow = false;
        self.few.clear();
        if rows < Self::MIN_ROWS {
            return None;
        }
        self.few.extend(self.many.drain());
        Some(&self.few)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_do_not_collide() {
        let mut scratch = Vec::new();
        let keys = [
            word("bob"),
            actor("bob"),
            value(Field::UserId, "bob"),
            value(Field::SessionId, "bob"),
            leaf::<&str>(&[], "bob", &mut scratch),
            leaf(&["bob"], "", &mut scratch),
            leaf(&["b", "ob"], "", &mut scratch),
            leaf(&["b"], "ob", &mut scratch),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn a_range_has_the_key_of_each_of_its_addresses() {
        let of = |addr: &str, prefix| {
            range(&IpRange {
                addr: addr.parse().unwrap(),
                prefix,
            })
        };
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        for (text, bits, indexed) in [
            ("10.1.2.3", 32, 32),
            ("10.1.2.0", 24, 24),
            ("10.1.2.0", 31, 24),
            ("10.1.99.0", 17, 16),
            ("10.0.0.0", 8, 8),
        ] {
            assert_eq!(of(text, bits), Some(prefix(v4, indexed)), "{text}/{bits}");
        }
        assert_eq!(of("0.0.0.0", 0), None);
        assert_eq!(of("8.0.0.0", 7), None);
        assert_eq!(of("2001:db8::", 33), Some(prefix("2001:db8:8000::1".parse().unwrap(), 32)));
        assert_ne!(prefix("::10.1.2.3".parse().unwrap(), 32), prefix(v4, 32));
    }
}
