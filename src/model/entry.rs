//! One audit entry in its binary form: the *record*, fixed before durability and never changed after.
//!
//! # Record, version 1 (all integers little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | length of the whole record in bytes |
//! | 4 | 16 | id (UUID, big endian as written) |
//! | 20 | 16 | content hash (XXH3-128 of the canonical content, see [`crate::model::parse`]) |
//! | 36 | 8 | `timestamp`, signed milliseconds since 1970 |
//! | 44 | 4 | flags: bit 0 the id is the client's; bits 1–2 severity; bit 8 + i: field i is present |
//! | 48 | 2 × 10 | lengths of the short fields 0–9, in [`Field`] order |
//! | 68 | 4 × 3 | lengths of the object fields 10–12 |
//! | 80 | … | the bytes of the fields, in [`Field`] order, without padding |
//!
//! Text fields hold decoded UTF-8; `ip_address` holds 4 or 16 network-order bytes; object fields hold the JSON text as
//! sent without insignificant whitespace. An absent field has length 0 and no presence bit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// 128 bits that stand for what the client sent. Two entries with one id and the same hash are the same entry.
pub type ContentHash = u128;

/// The length of the fixed part of a record in bytes.
pub const FIXED_LEN: usize = 80;
const SHORT_FIELDS: usize = 10;

/// How grave an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Severity {
    /// `INFO`
    #[default]
    Info = 0,
    /// `WARNING`
    Warning = 1,
    /// `ERROR`
    Error = 2,
    /// `CRITICAL`
    Critical = 3,
}

impl Severity {
    /// All of them, least grave first; `ALL[s as usize] == s`.
    pub const ALL: [Severity; 4] = [Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// The name in upper case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// Reads a name in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text))
    }
}

/// The variable-length fields of a record, in the order in which their bytes follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // the names are those of the HTTP contract
pub enum Field {
    Action = 0,
    ResourceType = 1,
    ResourceId = 2,
    UserId = 3,
    SessionId = 4,
    RequestId = 5,
    Email = 6,
    IpAddress = 7,
    UserAgent = 8,
    Message = 9,
    BeforeState = 10,
    AfterState = 11,
    Metadata = 12,
}

impl Field {
    /// How many there are.
    pub const COUNT: usize = 13;
    /// All of them; `ALL[f as usize] == f`.
    pub const ALL: [Field; Self::COUNT] = [
        Self::Action,
        Self::ResourceType,
        Self::ResourceId,
        Self::UserId,
        Self::SessionId,
        Self::RequestId,
        Self::Email,
        Self::IpAddress,
        Self::UserAgent,
        Self::Message,
        Self::BeforeState,
        Self::AfterState,
        Self::Metadata,
    ];

    /// The name in the HTTP contract.
    pub fn name(self) -> &'static str {
        [
            "action",
            "resource_type",
            "resource_id",
            "user_id",
            "session_id",
            "request_id",
            "email",
            "ip_address",
            "user_agent",
            "message",
            "before_state",
            "after_state",
            "metadata",
        ][self as usize]
    }

    /// Whether the field holds a JSON object.
    pub fn is_object(self) -> bool {
        self as usize >= SHORT_FIELDS
    }
}

/// What a new record is made of. Lengths have been checked: short fields fit 16 bits, object fields 32.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// The entry's id.
    pub id: Uuid,
    /// Whether the client gave the id (or an `Idempotency-Key`), so that it must be looked up in the ledger.
    pub client_id: bool,
    /// Hash of what the client sent.
    pub hash: ContentHash,
    /// Event time, milliseconds since 1970.
    pub timestamp: i64,
    /// Severity.
    pub severity: Severity,
    /// Bytes of each field by `Field as usize`; `None` is absent.
    pub fields: [Option<&'a [u8]>; Field::COUNT],
}

impl NewEntry<'_> {
    /// Length of the encoded record in bytes.
    pub fn encoded_len(&self) -> usize {
        FIXED_LEN + self.fields.iter().flatten().map(|f| f.len()).sum::<usize>()
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = u32::from(self.client_id) | (self.severity as u32) << 1;
        for (i, field) in self.fields.iter().enumerate() {
            flags |= u32::from(field.is_some()) << (8 + i);
        }
        out.reserve(self.encoded_len());
        out.extend_from_slice(&(self.encoded_len() as u32).to_le_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        for (i, field) in self.fields.iter().enumerate() {
            let len = field.map_or(0, <[u8]>::len);
            if i < SHORT_FIELDS {
                debug_assert!(len <= usize::from(u16::MAX));
                out.extend_from_slice(&(len as u16).to_le_bytes());
            } else {
                out.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        for field in self.fields.iter().flatten() {
            out.extend_from_slice(field);
        }
    }
}

/// A record read in place.
#[derive(Clone, Copy)]
pub struct EntryRef<'a>(&'a [u8]);

impl<'a> EntryRef<'a> {
    /// Checks that `bytes` is exactly one record whose lengths add up and whose text is UTF-8.
    pub fn check(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < FIXED_LEN || bytes.len() != u32_at(bytes, 0) as usize {
            return None;
        }
        let entry = Self(bytes);
        let head = entry.head();
        let total: usize = (0..Field::COUNT).map(|i| len_of(head, i)).sum();
        let fits = total + FIXED_LEN == bytes.len() && matches!(len_of(head, Field::IpAddress as usize), 0 | 4 | 16);
        (fits && entry.texts_are_good()).then_some(entry)
    }

    /// Whether every text is UTF-8: the two runs of bytes around the address are, and no field begins within a character.
    fn texts_are_good(&self) -> bool {
        let head = self.head();
        let run = |fields: std::ops::Range<usize>, start: usize| {
            let end = start + fields.clone().map(|i| len_of(head, i)).sum::<usize>();
            let mut at = 0;
            let good = simdutf8::basic::from_utf8(&self.0[start..end]).is_ok_and(|text| {
                fields.into_iter().all(|i| {
                    at += len_of(head, i);
                    text.is_char_boundary(at)
                })
            });
            good.then_some(end)
        };
        let address = Field::IpAddress as usize;
        run(0..address, FIXED_LEN).is_some_and(|at| run(address + 1..Field::COUNT, at + len_of(head, address)).is_some())
    }

    /// Takes the first record of `bytes`, which is known to be well formed (it was checked when its pack was read).
    pub fn first_of(bytes: &'a [u8]) -> Self {
        Self(&bytes[..u32_at(bytes, 0) as usize])
    }

    /// The whole record.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The id.
    pub fn id(&self) -> Uuid {
        Uuid::from_bytes(self.0[4..20].try_into().expect("16 bytes"))
    }

    /// Whether the client chose the id.
    pub fn client_id(&self) -> bool {
        self.flags() & 1 == 1
    }

    /// Hash of what the client sent.
    pub fn hash(&self) -> ContentHash {
        u128::from_le_bytes(self.0[20..36].try_into().expect("16 bytes"))
    }

    /// Event time, milliseconds since 1970.
    pub fn timestamp(&self) -> i64 {
        i64::from_le_bytes(self.0[36..44].try_into().expect("8 bytes"))
    }

    /// Severity.
    pub fn severity(&self) -> Severity {
        Severity::ALL[(self.flags() >> 1 & 3) as usize]
    }

    /// The bytes of a field, `None` where it is absent.
    pub fn raw(&self, field: Field) -> Option<&'a [u8]> {
        let i = field as usize;
        if self.flags() >> (8 + i) & 1 == 0 {
            return None;
        }
        let (head, mut start) = (self.head(), FIXED_LEN);
        for before in 0..i {
            start += len_of(head, before);
        }
        Some(&self.0[start..start + len_of(head, i)])
    }

    /// The text of a field (for objects, their JSON), `None` where it is absent. Not for `ip_address`.
    pub fn text(&self, field: Field) -> Option<&'a str> {
        self.raw(field).map(|b| std::str::from_utf8(b).unwrap_or_default())
    }

    /// [`EntryRef::text`] of every field, by `Field as usize`, in one pass; that of `ip_address` is always `None`.
    pub fn texts(&self) -> [Option<&'a str>; Field::COUNT] {
        let (flags, head, mut at) = (self.flags(), self.head(), FIXED_LEN);
        // The bytes of the address are no text; what stands before and behind them is checked in two pieces.
        let address = FIXED_LEN + (0..Field::IpAddress as usize).map(|i| len_of(head, i)).sum::<usize>();
        let behind = address + len_of(head, Field::IpAddress as usize);
        let pieces = [
            (FIXED_LEN, simdutf8::basic::from_utf8(&self.0[FIXED_LEN..address]).unwrap_or_default()),
            (behind, simdutf8::basic::from_utf8(&self.0[behind..]).unwrap_or_default()),
        ];
        std::array::from_fn(|i| {
            let start = at;
            at += len_of(head, i);
            let is_text = flags >> (8 + i) & 1 == 1 && i != Field::IpAddress as usize;
            let (first, piece) = pieces[usize::from(i > Field::IpAddress as usize)];
            is_text.then(|| piece.get(start - first..at - first).unwrap_or_default())
        })
    }

    /// The address, `None` where it is absent.
    pub fn ip(&self) -> Option<IpAddr> {
        ip_from_bytes(self.raw(Field::IpAddress)?)
    }

    /// Whether this is a masked record whose address is hidden ([`Mask::record`](super::mask::Mask::record)).
    pub fn hides_ip(&self) -> bool {
        self.raw(Field::IpAddress).is_some_and(|raw| raw == super::mask::MASKED.as_bytes())
    }

    fn flags(&self) -> u32 {
        u32_at(self.0, 44)
    }

    /// Everything before the fields: their lengths among it.
    fn head(&self) -> &'a [u8; FIXED_LEN] {
        self.0.first_chunk().expect("a record is checked, and has it")
    }
}

/// The length of field `i`. Of an array of known size, byte by byte: no bound is checked when it is optimised, nothing is called when it
/// is not, and every look at a field adds up several of these.
fn len_of(head: &[u8; FIXED_LEN], i: usize) -> usize {
    if i < SHORT_FIELDS {
        let at = 48 + 2 * i;
        head[at] as usize | (head[at + 1] as usize) << 8
    } else {
        let at = 68 + 4 * (i - SHORT_FIELDS);
        head[at] as usize | (head[at + 1] as usize) << 8 | (head[at + 2] as usize) << 16 | (head[at + 3] as usize) << 24
    }
}

/// An address from its 4 or 16 network-order bytes.
pub fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// One entry as a store gives it back: the record, and what the pipeline added.
#[derive(Clone)]
pub struct StoredEntry {
    /// The record; [`StoredEntry::entry`] reads it.
    pub record: bytes::Bytes,
    /// When the accepting process took it, milliseconds since 1970.
    pub received_at: i64,
    /// The authenticated subject that wrote it.
    pub actor: std::sync::Arc<str>,
    /// Its number in the tenant's log; `None` until it is sealed.
    pub sequence: Option<u64>,
}

impl StoredEntry {
    /// The record, read in place.
    pub fn entry(&self) -> EntryRef<'_> {
        EntryRef::first_of(&self.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>() -> NewEntry<'a> {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(&b"LOGIN"[..]);
        fields[Field::ResourceType as usize] = Some(b"session");
        fields[Field::ResourceId as usize] = Some("ä-1".as_bytes());
        fields[Field::SessionId as usize] = Some(b"");
        fields[Field::IpAddress as usize] = Some(&[10, 0, 0, 1]);
        fields[Field::Metadata as usize] = Some(br#"{"n":1.50}"#);
        NewEntry {
            id: Uuid::from_u128(7),
            client_id: true,
            hash: 99,
            timestamp: -5,
            severity: Severity::Critical,
            fields,
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let (new, mut out) = (sample(), Vec::new());
        new.encode(&mut out);
        assert_eq!(out.len(), new.encoded_len());
        let e = EntryRef::check(&out).expect("well formed");
        assert_eq!(
            (e.id(), e.client_id(), e.hash(), e.timestamp(), e.severity()),
            (new.id, true, 99, -5, Severity::Critical)
        );
        for f in Field::ALL {
            assert_eq!(e.raw(f), new.fields[f as usize], "{}", f.name());
            assert_eq!(e.texts()[f as usize], e.text(f).filter(|_| f != Field::IpAddress), "{}", f.name());
        }
        assert_eq!(e.ip(), Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_field_that_is_no_text_is_refused_even_if_it_is_one_with_its_neighbour() {
        let mut good = Vec::new();
        sample().encode(&mut good);
        // One byte of `ä` moves from the resource's id to its type: all bytes together are text as before, the two fields are not.
        let mut torn = good.clone();
        torn[48 + 2 * Field::ResourceType as usize] += 1;
        torn[48 + 2 * Field::ResourceId as usize] -= 1;
        assert!(EntryRef::check(&torn).is_none());
        // Before and behind the address.
        for at in [FIXED_LEN, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] = 0xFF;
            assert!(EntryRef::check(&bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let mut good = Vec::new();
        sample().encode(&mut good);
        assert!(EntryRef::check(&good[..good.len() - 1]).is_none());
        for at in [0, 1, 48, 62, 68, 76] {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            assert!(EntryRef::check(&bad).is_none(), "byte {at}");
        }
    }
}
