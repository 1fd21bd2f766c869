//! The unit that travels: the immutable entries of one request of one tenant.
//!
//! # Pack, version 1 (all integers little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `SLPK` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | flags, 0 |
//! | 8 | 4 | length of the whole pack in bytes, the checksum included |
//! | 12 | 4 | number of entries, n ≥ 1 |
//! | 16 | 16 | pack id (UUIDv7) |
//! | 32 | 8 | `received_at`, signed milliseconds since 1970 |
//! | 40 | 2 + 2 | part k of m of the request (0 of 1 when it is whole) |
//! | 44 | 2 + 2 + 2 | lengths of tenant, actor and request id in bytes |
//! | 50 | 2 | 0 |
//! | 52 | 4 × n | offset of each entry's record from the start of the pack |
//! | … | … | tenant, actor, request id (UTF-8) |
//! | … | … | the n records, see [`crate::model::entry`] |
//! | end − 4 | 4 | CRC32C of everything before it |

use super::{
    entry::{EntryRef, NewEntry},
    tenant::TenantId,
};
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

const MAGIC: &[u8; 4] = b"SLPK";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 52;
/// What a pack needs besides the records of its entries and the texts of its header: so much, and 4 bytes for each entry.
pub const PACK_OVERHEAD: usize = HEADER_LEN + 4;

/// Why bytes are no pack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The bytes end before the pack does, or go on after it.
    #[error("a pack of `{expected}` bytes in `{found}` bytes")]
    Length {
        /// What the header says.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// It does not begin as a pack does.
    #[error("no pack begins here")]
    Magic,
    /// Written by another version.
    #[error("pack version `{0}` is not known to this build")]
    Version(u16),
    /// The checksum does not fit.
    #[error("the checksum of the pack does not fit")]
    Checksum,
    /// The checksum fits, the contents do not: a mistake of the writer.
    #[error("the pack is malformed: {0}")]
    Malformed(&'static str),
}

/// What all entries of a pack share.
#[derive(Debug, Clone)]
pub struct PackHeader {
    /// Unique name of the pack; a redelivered pack is known by it.
    pub pack_id: Uuid,
    /// Whose entries these are.
    pub tenant: TenantId,
    /// The authenticated subject that wrote them.
    pub actor: Arc<str>,
    /// The request's id (`X-Request-Id`).
    pub request_id: Arc<str>,
    /// When the process took them, milliseconds since 1970.
    pub received_at: i64,
    /// Part k of m of the request.
    pub part: (u16, u16),
}

/// The immutable entries of one request, encoded once and never copied after. Cheap to clone.
#[derive(Clone)]
pub struct Pack {
    header: Arc<PackHeader>,
    bytes: Bytes,
    len: u32,
}

impl Pack {
    /// Reads and checks a whole pack: checksum, lengths, every record. O(bytes); does not copy.
    pub fn decode(bytes: Bytes) -> Result<Self, PackError> {
        let found = bytes.len();
        if found < HEADER_LEN + 4 {
            return Err(PackError::Length {
                expected: HEADER_LEN + 4,
                found,
            });
        }
        if &bytes[..4] != MAGIC {
            return Err(PackError::Magic);
        }
        let version = u16_at(&bytes, 4);
        if version != VERSION {
            return Err(PackError::Version(version));
        }
        let expected = u32_at(&bytes, 8) as usize;
        if expected != found {
            return Err(PackError::Length { expected, found });
        }
        let body = &bytes[..found - 4];
        if crc32c::crc32c(body) != u32_at(&bytes, found - 4) {
            return Err(PackError::Checksum);
        }
        Self::read(bytes)
    }

    fn read(bytes: Bytes) -> Result<Self, PackError> {
        let (len, end) = (u32_at(&bytes, 12), bytes.len() - 4);
        let mut at = (len as usize)
            .checked_mul(4)
            .and_then(|n| n.checked_add(HEADER_LEN))
            .filter(|at| *at <= end)
            .ok_or(PackError::Malformed("too many entries for its length"))?;
        let mut text = |lens_at: usize| {
            let next = at + usize::from(u16_at(&bytes, lens_at));
            let text = bytes.get(at..next).filter(|_| next <= end).and_then(|b| std::str::from_utf8(b).ok());
            at = next;
            text.ok_or(PackError::Malformed("its header is no text"))
        };
        let tenant = TenantId::decode(text(44)?).map_err(|_| PackError::Malformed("its tenant is no tenant id"))?;
        let (actor, request_id) = (text(46)?.into(), text(48)?.into());
        for i in 0..len as usize {
            let start = u32_at(&bytes, HEADER_LEN + 4 * i) as usize;
            let next = if i + 1 < len as usize {
                u32_at(&bytes, HEADER_LEN + 4 * (i + 1)) as usize
            } else {
                end
            };
            bytes
                .get(start..next)
                .filter(|_| start >= at && next <= end)
                .and_then(EntryRef::check)
                .ok_or(PackError::Malformed("a record does not fit"))?;
        }
        if len == 0 {
            return Err(PackError::Malformed("it has no entries"));
        }
        let header = PackHeader {
            pack_id: Uuid::from_bytes(bytes[16..32].try_into().expect("16 bytes")),
            tenant,
            actor,
            request_id,
            received_at: i64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes")),
            part: (u16_at(&bytes, 40), u16_at(&bytes, 42)),
        };
        Ok(Self {
            header: Arc::new(header),
            bytes,
            len,
        })
    }

    /// What all its entries share.
    pub fn header(&self) -> &PackHeader {
        &self.header
    }

    /// Its unique name.
    pub fn id(&self) -> Uuid {
        self.header.pack_id
    }

    /// Whose entries these are.
    pub fn tenant(&self) -> &TenantId {
        &self.header.tenant
    }

    /// The encoded pack.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Number of entries, at least 1.
    #[allow(clippy::len_without_is_empty)] // a pack is never empty
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Entry `i`, in the order of the request. Panics when `i >= len()`.
    pub fn entry(&self, i: usize) -> EntryRef<'_> {
        EntryRef::first_of(&self.bytes[self.offset(i)..])
    }

    /// The record of entry `i`, sharing the pack's memory.
    pub fn record(&self, i: usize) -> Bytes {
        let start = self.offset(i);
        self.bytes.slice(start..start + self.entry(i).as_bytes().len())
    }

    /// All entries in the order of the request.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = EntryRef<'_>> {
        (0..self.len()).map(|i| self.entry(i))
    }

    fn offset(&self, i: usize) -> usize {
        assert!(i < self.len(), "entry `{i}` of a pack of `{}`", self.len);
        u32_at(&self.bytes, HEADER_LEN + 4 * i) as usize
    }
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pack({} of {}, {} entries, {} bytes)", self.id(), self.tenant(), self.len, self.bytes.len())
    }
}

/// Collects the records of one pack. The records are written once, into the buffer that becomes the pack's heap.
#[derive(Debug, Default)]
pub struct PackBuilder {
    records: Vec<u8>,
    offsets: Vec<u32>,
}

impl PackBuilder {
    /// An empty builder with room for about `bytes` of records.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            records: Vec::with_capacity(bytes),
            offsets: Vec::new(),
        }
    }

    /// Appends one entry.
    pub fn push(&mut self, entry: &NewEntry<'_>) {
        self.offsets.push(self.records.len() as u32);
        entry.encode(&mut self.records);
    }

    /// Appends an entry of another pack, as it stands there.
    pub fn push_record(&mut self, entry: EntryRef<'_>) {
        self.offsets.push(self.records.len() as u32);
        self.records.extend_from_slice(entry.as_bytes());
    }

    /// Number of entries so far.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The entry pushed as number `i`.
    pub fn entry(&self, i: usize) -> EntryRef<'_> {
        EntryRef::first_of(&self.records[self.offsets[i] as usize..])
    }

    /// Encodes the pack; `None` when it would have no entries.
    pub fn finish(self, header: PackHeader) -> Option<Pack> {
        let len = u32::try_from(self.offsets.len()).ok().filter(|n| *n > 0)?;
        let texts = [header.tenant.as_str(), &header.actor, &header.request_id];
        let heap = HEADER_LEN + 4 * self.offsets.len() + texts.iter().map(|t| t.len()).sum::<usize>();
        let total = heap + self.records.len() + 4;
        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&(total as u32).to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(header.pack_id.as_bytes());
        out.extend_from_slice(&header.received_at.to_le_bytes());
        out.extend_from_slice(&header.part.0.to_le_bytes());
        out.extend_from_slice(&header.part.1.to_le_bytes());
        for text in texts {
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        }
        out.extend_from_slice(&0u16.to_le_bytes());
        for offset in &self.offsets {
            out.extend_from_slice(&(heap as u32 + offset).to_le_bytes());
        }
        for text in texts {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.records);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        Some(Pack {
            header: Arc::new(header),
            bytes: out.into(),
            len,
        })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::entry::{Field, Severity};

    /// A pack of plain entries for tests: entry i has id `ids[i]`, hash `ids[i] + 1`, and `i` in its message.
    pub(crate) fn pack_of(tenant: &str, ids: &[u128]) -> Pack {
        pack_with(tenant, ids, true)
    }

    /// The same, with ids that the client chose or not.
    pub(crate) fn pack_with(tenant: &str, ids: &[u128], client_id: bool) -> Pack {
        let mut builder = PackBuilder::default();
        for (i, id) in ids.iter().enumerate() {
            let message = format!("entry {i}");
            let mut fields = [None; Field::COUNT];
            fields[Field::Action as usize] = Some(&b"CREATE"[..]);
            fields[Field::ResourceType as usize] = Some(b"thing");
            fields[Field::ResourceId as usize] = Some(b"1");
            fields[Field::Message as usize] = Some(message.as_bytes());
            builder.push(&NewEntry {
                id: Uuid::from_u128(*id),
                client_id,
                hash: id + 1,
                timestamp: 1_700_000_000_000 + i as i64,
                severity: Severity::Info,
                fields,
            });
        }
        let tenant = TenantId::decode(tenant).expect("a log");
        let header = PackHeader {
            pack_id: Uuid::now_v7(),
            tenant,
            actor: "tester".into(),
            request_id: "r-1".into(),
            received_at: 1_700_000_000_500,
            part: (0, 1),
        };
        builder.finish(header).expect("entries")
    }

    #[test]
    fn a_pack_reads_back_as_written() {
        let pack = pack_of("acme", &[5, 6, 7]);
        let again = Pack::decode(pack.bytes().clone()).expect("well formed");
        assert_eq!((again.id(), again.tenant().as_str(), again.len()), (pack.id(), "acme", 3));
        assert_eq!(
            (&*again.header().actor, &*again.header().request_id, again.header().received_at),
            ("tester", "r-1", 1_700_000_000_500)
        );
        for (i, (a, b)) in pack.entries().zip(again.entries()).enumerate() {
            assert_eq!(a.as_bytes(), b.as_bytes());
            assert_eq!(&again.record(i)[..], a.as_bytes());
        }
    }

    #[test]
    fn a_pack_of_the_longest_access_log_reads_back() {
        let name = ["x".repeat(63), ".access".to_owned()].concat();
        let again = Pack::decode(pack_of(&name, &[5]).bytes().clone()).expect("well formed");
        assert_eq!(again.tenant().as_str(), name);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = pack_of("acme", &[5, 6]).bytes().to_vec();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(Pack::decode(bad.into()).is_err(), "byte {at}");
            assert!(Pack::decode(good[..at].to_vec().into()).is_err(), "cut at {at}");
        }
    }
}
