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
    words::{Term, row_terms},
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
pub(super) struct KeySet<'a> {
    /// The rows of a block that has too few for a filter so far: their keys are made only when it gets one.
    waiting: Vec<(&'a str, EntryRef<'a>)>,
    rows: usize,
    keys: Keys,
}

#[derive(Default)]
struct Keys {
    set: HashSet<u64, BuildHasherDefault<KeyHasher>>,
    /// Keys of the set that were put last, by some of their bits: most keys are repeats, and the set of a large block is
    /// far larger than a core's nearest cache. Zero is nothing.
    recent: Vec<u64>,
    overflow: bool,
    scratch: Vec<u8>,
    out: Vec<u64>,
}

/// A power of two.
const RECENT: usize = 4_096;

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

impl Keys {
    fn begin(&mut self) {
        self.recent.clear();
        self.recent.resize(RECENT, 0);
    }

    fn put(&mut self, key: u64) {
        let seat = &mut self.recent[(key >> 40) as usize % RECENT];
        if *seat != key || key == 0 {
            *seat = key;
            self.set.insert(key);
        }
    }

    fn add(&mut self, by: &str, id: Uuid, ip: Option<IpAddr>, texts: &[Option<&str>; Field::COUNT]) {
        let mut leaves = 0;
        row_terms(id, texts, &mut |term| match term {
            Term::Word(text) => self.put(word(text)),
            Term::Leaf(path, text) => {
                leaves += 1;
                if leaves <= MAX_LEAVES {
                    let key = leaf(path, text, &mut self.scratch);
                    self.put(key);
                }
            }
        });
        self.overflow |= leaves > MAX_LEAVES;
        self.put(actor(by));
        for field in VALUES {
            let Some(text) = texts[field as usize] else { continue };
            match field {
                Field::Action | Field::ResourceType => self.put(value(field, &lower(text))),
                _ => self.put(value(field, text)),
            }
        }
        if let Some(addr) = ip {
            for bits in if addr.is_ipv4() { PREFIXES_4 } else { PREFIXES_6 } {
                self.put(prefix(addr, bits));
            }
        }
    }
}

impl<'a> KeySet<'a> {
    /// A block with fewer rows gets no filter.
    pub(super) const MIN_ROWS: usize = 64;

    /// Adds the keys of one row; `texts` are those of the entry.
    pub(super) fn add(&mut self, by: &'a str, entry: &EntryRef<'a>, texts: &[Option<&str>; Field::COUNT]) {
        self.rows += 1;
        if self.rows < Self::MIN_ROWS {
            self.waiting.push((by, *entry));
            return;
        }
        if self.rows == Self::MIN_ROWS {
            self.keys.begin();
            for (by, entry) in self.waiting.drain(..) {
                self.keys.add(by, entry.id(), entry.ip(), &entry.texts());
            }
        }
        self.keys.add(by, entry.id(), entry.ip(), texts);
    }

    /// How many distinct keys it has; 0 while there are too few rows for a filter.
    pub(super) fn len(&self) -> usize {
        self.keys.set.len()
    }

    /// Whether an entry of the block had more leaves than are in the set. A block without a filter has no such set.
    pub(super) fn overflow(&self) -> bool {
        self.keys.overflow
    }

    /// Ends the block: its distinct keys, or `None` if it has too few rows for a filter. The set is empty afterwards.
    pub(super) fn finish(&mut self) -> Option<&[u64]> {
        let rows = std::mem::take(&mut self.rows);
        self.waiting.clear();
        if rows < Self::MIN_ROWS {
            return None;
        }
        Some(self.keys.finish())
    }
}

impl Keys {
    /// The distinct keys since [`Keys::begin`].
    fn finish(&mut self) -> &[u64] {
        self.overflow = false;
        self.out.clear();
        self.out.extend(self.set.drain());
        &self.out
    }
}

impl KeySet<'_> {
    /// Begins a block of which all rows are there: they are added by [`KeySet::add_row`]. `false`: it gets no filter.
    pub(super) fn begin_whole(&mut self, rows: usize) -> bool {
        self.rows = rows;
        self.keys.begin();
        rows >= Self::MIN_ROWS
    }

    /// Adds the keys of one row of a block that was begun whole; `texts` has none at the address.
    pub(super) fn add_row(&mut self, by: &str, id: Uuid, ip: Option<IpAddr>, texts: &[Option<&str>; Field::COUNT]) {
        self.keys.add(by, id, ip, texts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::{NewEntry, Severity};

    #[test]
    fn a_block_has_the_keys_of_its_own_rows_only() {
        let record = |user: &str| {
            let (mut record, mut fields) = (Vec::new(), [None; Field::COUNT]);
            fields[Field::UserId as usize] = Some(user.as_bytes());
            NewEntry {
                id: Uuid::nil(),
                client_id: false,
                hash: 0,
                timestamp: 0,
                severity: Severity::Info,
                fields,
            }
            .encode(&mut record);
            record
        };
        let records = ["first", "tiny", "second"].map(record);
        let mut set = KeySet::default();
        let mut fill = |record: usize, rows: usize| {
            let entry = EntryRef::first_of(&records[record]);
            (0..rows).for_each(|_| set.add("", &entry, &entry.texts()));
            set.finish().map(|keys| keys.iter().copied().collect::<std::collections::HashSet<_>>())
        };
        let first = fill(0, 64).expect("a filter");
        assert!(first.contains(&value(Field::UserId, "first")) && first.contains(&word("first")) && first.contains(&actor("")));
        assert_eq!(fill(1, 63), None);
        let second = fill(2, 100).expect("a filter");
        assert_eq!(second.len(), first.len());
        for gone in ["first", "tiny"] {
            assert!(!second.contains(&value(Field::UserId, gone)), "{gone}");
        }
    }

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
