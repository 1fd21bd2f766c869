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
//!
//! What the words decide nearly as well has no key of its own, since most keys are of texts that one row has:
//!
//! - A value (not of `action` and `resource_type`, which are compared in any case, nor an actor) or a leaf with a **telling**
//!   word: of at least six bytes, with an ASCII digit. Such a text is here only if all its words are; [`needle`] and
//!   [`leaf_needle`] say what to ask for.
//! - Words of four hexadecimal digits: three are in every id, and most texts with ids have them, without telling which. A word of
//!   that form may therefore be anywhere; [`asked_word`] says so.

use crate::model::{
    entry::{EntryRef, Field},
    filter::IpRange,
    words::{Term, for_each_word, row_terms},
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
/// Fields whose texts come again and again in a block.
const REPEATED: [Field; 6] = [
    Field::Action,
    Field::ResourceType,
    Field::UserId,
    Field::SessionId,
    Field::Email,
    Field::UserAgent,
];
/// Bytes of a telling word, at least.
const TELLING_LEN: usize = 6;
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

/// Whether a text has a word that few texts have.
fn is_telling(text: &str) -> bool {
    let mut telling = false;
    if text.len() >= TELLING_LEN {
        for_each_word(text, &mut |word| {
            telling |= word.len() >= TELLING_LEN && word.bytes().any(|b| b.is_ascii_digit())
        });
    }
    telling
}

/// Whether a word may be one of the middle of an id: such words have no keys.
fn may_be_of_id(word: &str) -> bool {
    word.len() == 4 && word.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

/// The key that a block with the word has; `None`: any block may have it.
pub(super) fn asked_word(text: &str) -> Option<u64> {
    (!may_be_of_id(text)).then(|| word(text))
}

/// Whether a block may have the text as a value of the field, by what `has` says about keys.
pub(super) fn needle(field: Field, text: &str, has: impl Fn(u64) -> bool) -> bool {
    if by_words(field, text) {
        all_words(text, &has)
    } else {
        has(value(field, text))
    }
}

/// Whether a block may have the leaf. `scratch` is overwritten.
pub(super) fn leaf_needle(path: &[String], text: &str, scratch: &mut Vec<u8>, has: impl Fn(u64) -> bool) -> bool {
    if is_telling(text) {
        all_words(text, &has)
    } else {
        has(leaf(path, text, scratch))
    }
}

fn by_words(field: Field, text: &str) -> bool {
    !matches!(field, Field::Action | Field::ResourceType) && is_telling(text)
}

fn all_words(text: &str, has: &impl Fn(u64) -> bool) -> bool {
    let mut all = true;
    for_each_word(text, &mut |word| all = all && asked_word(word).is_none_or(has));
    all
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
    known: Known,
    overflow: bool,
    scratch: Vec<u8>,
    out: Vec<u64>,
}

/// A power of two.
const RECENT: usize = 4_096;

/// Texts and addresses of the block whose keys are in the set: compared in full, since a text that were only taken for
/// another would not be found.
#[derive(Default)]
struct Known {
    texts: Vec<String>,
    addresses: Vec<Option<IpAddr>>,
}

impl Known {
    /// Texts that are remembered of a field, and addresses.
    const SEATS: usize = 128;
    /// Longer texts are not remembered.
    const MAX_LEN: usize = 256;

    fn begin(&mut self) {
        self.texts.resize(REPEATED.len() * Self::SEATS, String::new());
        self.texts.iter_mut().for_each(String::clear);
        self.addresses.clear();
        self.addresses.resize(Self::SEATS, None);
    }

    /// Whether the text was seen in the field; then it is remembered.
    fn text(&mut self, field: usize, text: &str) -> bool {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return false;
        }
        let seat = &mut self.texts[field * Self::SEATS + xxh3_64(text.as_bytes()) as usize % Self::SEATS];
        let known = seat == text;
        if !known {
            seat.clear();
            seat.push_str(text);
        }
        known
    }

    fn address(&mut self, addr: IpAddr) -> bool {
        let bits = match addr {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => (a.to_bits() ^ (a.to_bits() >> 64)) as u32,
        };
        let seat = &mut self.addresses[(bits ^ (bits >> 8) ^ (bits >> 16)) as usize % Self::SEATS];
        seat.replace(addr) == Some(addr)
    }
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

impl Keys {
    fn begin(&mut self) {
        self.recent.clear();
        self.recent.resize(RECENT, 0);
        self.known.begin();
    }

    fn put(&mut self, key: u64) {
        let seat = &mut self.recent[(key >> 40) as usize % RECENT];
        if *seat != key || key == 0 {
            *seat = key;
            self.set.insert(key);
        }
    }

    fn add(&mut self, by: &str, id: Uuid, ip: Option<IpAddr>, texts: &[Option<&str>; Field::COUNT]) {
        let mut texts = *texts;
        for (i, field) in REPEATED.into_iter().enumerate() {
            let text = &mut texts[field as usize];
            if text.is_some_and(|text| self.known.text(i, text)) {
                *text = None;
            }
        }
        let mut leaves = 0;
        row_terms(id, &texts, &mut |term| match term {
            Term::Word(text) => {
                if let Some(key) = asked_word(text) {
                    self.put(key);
                }
            }
            Term::Leaf(path, text) => {
                leaves += 1;
                if leaves <= MAX_LEAVES && !is_telling(text) {
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
                _ if by_words(field, text) => {}
                _ => self.put(value(field, text)),
            }
        }
        if let Some(addr) = ip.filter(|addr| !self.known.address(*addr)) {
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
    fn what_the_words_decide_has_no_key_and_is_asked_for_by_its_words() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let (mut keys, mut texts) = (Keys::default(), [None; Field::COUNT]);
        texts[Field::SessionId as usize] = Some("Sess-0a1B2c");
        texts[Field::RequestId as usize] = Some("request");
        texts[Field::Action as usize] = Some("Step-123456");
        texts[Field::Metadata as usize] = Some(r#"{"a":"x 123456","b":"x 12345"}"#);
        keys.begin();
        keys.add("svc-123456", id, None, &texts);
        // A second row with the same texts adds what is its own.
        keys.add("svc-123456", Uuid::from_u128(1), None, &texts);
        let has: std::collections::HashSet<u64> = keys.finish().iter().copied().collect();
        let scratch = &mut Vec::new();
        let (a, b) = (["a".to_owned()], ["b".to_owned()]);
        for key in [
            value(Field::SessionId, "Sess-0a1B2c"),
            leaf(&a, "x 123456", scratch),
            word("89ab"),
            word("cdef"),
            word("0123"),
        ] {
            assert!(!has.contains(&key));
        }
        for key in [
            value(Field::RequestId, "request"),
            value(Field::Action, "step-123456"),
            leaf(&b, "x 12345", scratch),
            actor("svc-123456"),
        ] {
            assert!(has.contains(&key));
        }
        for text in ["01234567", "456789abcdef", "000000000001", "0a1b2c", "123456", "step"] {
            assert!(has.contains(&asked_word(text).expect("a key")), "{text}");
        }
        assert_eq!((asked_word("89ab"), asked_word("0000")), (None, None));
        assert!(asked_word("89ag").is_some() && asked_word("89abc").is_some());
        let has = |key| has.contains(&key);
        for (field, text, may) in [
            (Field::SessionId, "Sess-0a1B2c", true),
            (Field::SessionId, "Sess-0a1B2d", false),
            (Field::SessionId, "sess", false),
            (Field::RequestId, "request", true),
            (Field::RequestId, "x 123456", true),
            (Field::Action, "step-123456", true),
            (Field::Action, "x 123456", false),
        ] {
            assert_eq!(needle(field, text, has), may, "{text}");
        }
        assert!(leaf_needle(&a, "x 123456", scratch, has) && leaf_needle(&b, "x 12345", scratch, has));
        assert!(!leaf_needle(&a, "x 12345", scratch, has) && !leaf_needle(&a, "x 123457", scratch, has));
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
