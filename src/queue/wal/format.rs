//! The bytes of the log, as the header of [`super`] specifies them: encoding and checking, no files.

use super::RecordKind;
use crate::fs::DIRECT_BLOCK;
use uuid::Uuid;

/// Groups start and end at multiples of this.
pub(super) const BLOCK: u64 = 4096;
pub(super) const GROUP_HEADER: usize = 96;
pub(super) const TRAILER: usize = 40;
pub(super) const RECORD_HEADER: usize = 12;
/// Bytes of a group that carry no records.
pub(super) const GROUP_OVERHEAD: usize = GROUP_HEADER + TRAILER;

const VERSION: u32 = 1;
const SEGMENT_MAGIC: [u8; 8] = *b"SLUICEWS";
const GROUP_MAGIC: [u8; 4] = *b"SLGR";
const TRAILER_MAGIC: [u8; 4] = *b"SLGT";
pub(super) const END: usize = 32;

/// Length of a group that holds `used` bytes of records (their headers included).
pub(super) fn group_len(used: usize) -> u64 {
    ((used + GROUP_OVERHEAD) as u64).next_multiple_of(BLOCK)
}

/// A segment by its ordinal and its uuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId {
    pub ordinal: u64,
    pub uuid: Uuid,
}

/// First block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub id: SegmentId,
    pub length: u64,
    /// The segment in use when this one was prepared.
    pub follows: Option<SegmentId>,
}

impl SegmentHeader {
    /// Bytes of it that are not padding.
    pub const LEN: usize = 76;

    pub fn encode(&self) -> [u8; BLOCK as usize] {
        let follows = self.follows.unwrap_or(SegmentId { ordinal: 0, uuid: Uuid::nil() });
        let mut out = [0; BLOCK as usize];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&SEGMENT_MAGIC);
        put.u32(VERSION);
        put.u32(0);
        put.u64(self.id.ordinal);
        put.bytes(self.id.uuid.as_bytes());
        put.u64(self.length);
        put.u64(follows.ordinal);
        put.bytes(follows.uuid.as_bytes());
        put.crc();
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take::checked(bytes.get(..SegmentHeader::LEN)?)?;
        if take.bytes::<8>() != SEGMENT_MAGIC || take.u32() != VERSION {
            return None;
        }
        take.u32();
        let id = take.segment();
        let length = take.u64();
        let follows = take.segment();
        Some(Self {
            id,
            length,
            follows: (follows.ordinal != 0).then_some(follows),
        })
    }
}

/// Head of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub segment: SegmentId,
    /// Where the group starts.
    pub offset: u64,
    /// From header to trailer, both included.
    pub length: u64,
    /// 0 is the opening group.
    pub number: u64,
    /// Everything below is durable.
    pub synced_upto: u64,
    /// Largest seal of the log before this group, 0 if none.
    pub seals_before: u64,
    /// Largest seal of the log including this group.
    pub last_seal: u64,
    pub records: u32,
    /// Bytes of the records with their headers.
    pub used: u32,
    /// Opening group of a log in which a seal before this place may be lost, and no seal was made since.
    pub doubt: bool,
}

impl GroupHeader {
    pub fn encode(&self) -> [u8; GROUP_HEADER] {
        let mut out = [0; GROUP_HEADER];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&GROUP_MAGIC);
        put.u32(VERSION | u32::from(self.doubt) << 16);
        put.u64(self.segment.ordinal);
        put.bytes(self.segment.uuid.as_bytes());
        put.u64(self.offset);
        put.u64(self.length);
        put.u64(self.number);
        put.u64(self.synced_upto);
        put.u64(self.seals_before);
        put.u64(self.last_seal);
        put.u32(self.records);
        put.u32(self.used);
        put.u32(0);
        put.crc();
        out
    }

    /// Checks the bytes and what the header says about itself; whether it belongs here is [`GroupHeader::is_at`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..GROUP_HEADER)?;
        if bytes[..4] != GROUP_MAGIC {
            return None;
        }
        let mut take = Take::checked(bytes)?;
        take.u32();
        let version = take.u32();
        let segment = take.segment();
        let header = Self {
            segment,
            offset: take.u64(),
            length: take.u64(),
            number: take.u64(),
            synced_upto: take.u64(),
            seals_before: take.u64(),
            last_seal: take.u64(),
            records: take.u32(),
            used: take.u32(),
            doubt: version >> 16 & 1 == 1,
        };
        (version & 0xffff == VERSION && header.length == group_len(header.used as usize)).then_some(header)
    }

    pub fn is_at(&self, segment: SegmentId, offset: u64) -> bool {
        self.segment == segment && self.offset == offset
    }
}

/// End of a group: the last bytes of its last block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub number: u64,
    /// Where the group starts.
    pub offset: u64,
    pub last_seal: u64,
    pub records: u32,
}

impl Trailer {
    pub fn encode(&self, segment: SegmentId) -> [u8; TRAILER] {
        let mut out = [0; TRAILER];
        let mut put = Put { out: &mut out, at: 0 };
        put.bytes(&TRAILER_MAGIC);
        put.u64(self.number);
        put.u64(self.offset);
        put.u64(self.last_seal);
        put.u32(self.records);
        put.u32(VERSION);
        let crc = crc32c::crc32c_append(uuid_crc(segment.uuid), &out[..TRAILER - 4]);
        out[TRAILER - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8], segment: SegmentId) -> Option<Self> {
        let bytes: &[u8; TRAILER] = bytes.try_into().ok()?;
        if bytes[..4] != TRAILER_MAGIC {
            return None;
        }
        let (body, crc) = bytes.split_at(TRAILER - 4);
        if crc32c::crc32c_append(uuid_crc(segment.uuid), body).to_le_bytes() != crc {
            return None;
        }
        let mut take = Take { bytes: body, at: 4 };
        Some(Self {
            number: take.u64(),
            offset: take.u64(),
            last_seal: take.u64(),
            records: take.u32(),
        })
    }
}

/// Kind of a record on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    Pack = 1,
    Seal = 2,
    /// "Segment S of uuid U ends at …", only in opening groups.
    End = 3,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Pack, Self::Seal, Self::End].into_iter().find(|tag| *tag as u8 == byte)
    }

    /// What the log's users know it as.
    pub fn kind(self) -> Option<RecordKind> {
        match self {
            Self::Pack => Some(RecordKind::Pack),
            Self::Seal => Some(RecordKind::Seal),
            Self::End => None,
        }
    }
}

impl From<RecordKind> for Tag {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Pack => Self::Pack,
            RecordKind::Seal => Self::Seal,
        }
    }
}

/// Head of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub len: usize,
    tag: u8,
    crc: u32,
    checked: [u8; 8],
}

impl RecordHeader {
    pub fn encode(tag: Tag, body: &[u8], uuid_crc: u32, offset: u64) -> [u8; RECORD_HEADER] {
        let mut out = [0; RECORD_HEADER];
        out[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        out[4] = tag as u8;
        let head: [u8; 8] = out[..8].try_into().expect("eight bytes");
        out[8..].copy_from_slice(&record_crc(uuid_crc, offset, &head, body).to_le_bytes());
        out
    }

    /// Splits the fields; nothing is checked before [`RecordHeader::check`].
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut take = Take {
            bytes: bytes.get(..RECORD_HEADER)?,
            at: 0,
        };
        let checked: [u8; 8] = take.bytes();
        Some(Self {
            len: u32::from_le_bytes(checked[..4].try_into().expect("four bytes")) as usize,
            tag: checked[4],
            crc: take.u32(),
            checked,
        })
    }

    /// No record was ever written here: the group's padding.
    pub fn is_blank(&self) -> bool {
        self.len == 0 && self.tag == 0 && self.crc == 0
    }

    /// The kind, if head and body are what was written at this place of this segment.
    pub fn check(&self, body: &[u8], uuid_crc: u32, offset: u64) -> Option<Tag> {
        (body.len() == self.len && record_crc(uuid_crc, offset, &self.checked, body) == self.crc)
            .then(|| Tag::from_byte(self.tag))
            .flatten()
    }
}

/// The part of record and trailer checksums that binds them to a segment.
pub(super) fn uuid_crc(uuid: Uuid) -> u32 {
    crc32c::crc32c(uuid.as_bytes())
}

fn record_crc(uuid_crc: u32, offset: u64, head: &[u8; 8], body: &[u8]) -> u32 {
    let mut bound = [0; 16];
    bound[..8].copy_from_slice(&offset.to_le_bytes());
    bound[8..].copy_from_slice(head);
    crc32c::crc32c_append(crc32c::crc32c_append(uuid_crc, &bound), body)
}

/// Body of an end record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub segment: SegmentId,
    /// Nothing at or past this offset is believed.
    pub upto: u64,
}

impl End {
    pub fn encode(&self) -> [u8; END] {
        let mut out = [0; END];
        let mut put = Put { out: &mut out, at: 0 };
        put.u64(self.segment.ordinal);
        put.bytes(self.segment.uuid.as_bytes());
        put.u64(self.upto);
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; END] = bytes.try_into().ok()?;
        let mut take = Take { bytes, at: 0 };
        Some(Self {
            segment: take.segment(),
            upto: take.u64(),
        })
    }
}

/// Builds one group in memory; the buffer is reused.
pub(super) struct GroupBuilder {
    bytes: Vec<u8>,
    /// Where the group begins in `bytes`: aligned, so that it can be written past the page cache. It is no longer aligned
    /// once an oversized group has moved the buffer, which is fine.
    start: usize,
    records: u32,
    segment: SegmentId,
    uuid_crc: u32,
    offset: u64,
}

impl GroupBuilder {
    pub fn new() -> Self {
        let segment = SegmentId { ordinal: 0, uuid: Uuid::nil() };
        Self {
            bytes: Vec::new(),
            start: 0,
            records: 0,
            segment,
            uuid_crc: 0,
            offset: 0,
        }
    }

    /// Starts a group at `offset` of `segment`. Gives memory back that only an oversized group needed.
    pub fn begin(&mut self, segment: SegmentId, offset: u64, usual_bytes: usize) {
        self.bytes.clear();
        let usual = usual_bytes + BLOCK as usize + DIRECT_BLOCK;
        self.bytes.shrink_to(usual);
        self.bytes.reserve(usual);
        self.start = self.bytes.as_ptr().align_offset(DIRECT_BLOCK);
        self.bytes.resize(self.start + GROUP_HEADER, 0);
        self.records = 0;
        self.segment = segment;
        self.uuid_crc = uuid_crc(segment.uuid);
        self.offset = offset;
    }

    /// Adds a record; its offset in the segment.
    pub fn push(&mut self, tag: Tag, body: &[u8]) -> u64 {
        let offset = self.offset + (self.bytes.len() - self.start) as u64;
        self.bytes.extend_from_slice(&RecordHeader::encode(tag, body, self.uuid_crc, offset));
        self.bytes.extend_from_slice(body);
        self.records += 1;
        offset
    }

    /// The finished group: `number` is its number in the segment.
    pub fn finish(&mut self, number: u64, seals_before: u64, last_seal: u64, doubt: bool) -> &[u8] {
        let used = self.bytes.len() - self.start - GROUP_HEADER;
        let length = group_len(used);
        self.bytes.resize(self.start + length as usize, 0);
        let header = GroupHeader {
            segment: self.segment,
            offset: self.offset,
            length,
            number,
            synced_upto: self.offset,
            seals_before,
            last_seal,
            records: self.records,
            used: used as u32,
            doubt,
        };
        self.bytes[self.start..][..GROUP_HEADER].copy_from_slice(&header.encode());
        let trailer = Trailer {
            number,
            offset: self.offset,
            last_seal,
            records: self.records,
        };
        let place = self.bytes.len() - TRAILER;
        self.bytes[place..].copy_from_slice(&trailer.encode(self.segment));
        &self.bytes[self.start..]
    }
}

struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// The checksum of everything so far.
    fn crc(&mut self) {
        self.u32(crc32c::crc32c(&self.out[..self.at]));
    }
}

struct Take<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Take<'a> {
    /// Fields of bytes whose last four are the checksum of those before.
    fn checked(bytes: &'a [u8]) -> Option<Self> {
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        (crc32c::crc32c(body).to_le_bytes() == crc).then_some(Self { bytes: body, at: 0 })
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().expect("the slice has N bytes")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn segment(&mut self) -> SegmentId {
        SegmentId {
            ordinal: self.u64(),
            uuid: Uuid::from_bytes(self.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SegmentId {
        SegmentId {
            ordinal: 7,
            uuid: Uuid::from_u128(0x0123_4567_89ab_cdef),
        }
    }

    #[test]
    fn headers_come_back_and_any_flipped_bit_is_seen() {
        let segment = SegmentHeader {
            id: id(),
            length: 1 << 20,
            follows: Some(SegmentId { ordinal: 6, uuid: id().uuid }),
        };
        let mut bytes = segment.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(segment));
        for bit in 0..SegmentHeader::LEN * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut group = GroupBuilder::new();
        group.begin(id(), 8192, 0);
        group.push(Tag::Pack, b"body");
        let mut bytes = group.finish(3, 10, 11, true).to_vec();
        let header = GroupHeader::decode(&bytes).unwrap();
        assert!(header.is_at(id(), 8192) && header.doubt && header.length == BLOCK && header.records == 1);
        assert!(!header.is_at(id(), 4096));
        for bit in 0..GROUP_HEADER * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let place = bytes.len() - TRAILER;
        let trailer = Trailer::decode(&bytes[place..], id()).unwrap();
        assert_eq!((trailer.number, trailer.offset, trailer.last_seal, trailer.records), (3, 8192, 11, 1));
        for bit in 0..TRAILER * 8 {
            bytes[place + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Trailer::decode(&bytes[place..], id()), None, "bit {bit}");
            bytes[place + bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_record_is_bound_to_its_place_and_segment() {
        let head = RecordHeader::parse(&RecordHeader::encode(Tag::Seal, b"body", uuid_crc(id().uuid), 100)).unwrap();
        assert_eq!(head.check(b"body", uuid_crc(id().uuid), 100), Some(Tag::Seal));
        assert_eq!(head.check(b"bodi", uuid_crc(id().uuid), 100), None);
        assert_eq!(head.check(b"body", uuid_crc(id().uuid), 104), None);
        assert_eq!(head.check(b"body", uuid_crc(Uuid::nil()), 100), None);
    }

    #[test]
    fn groups_are_whole_blocks_and_the_trailer_always_fits() {
        for used in [0, 1, 4096 - GROUP_OVERHEAD, 4096 - GROUP_OVERHEAD + 1, 5 << 20] {
            assert_eq!(group_len(used) % BLOCK, 0);
            assert!(group_len(used) >= (used + GROUP_OVERHEAD) as u64);
            assert!(group_len(used) < (used + GROUP_OVERHEAD) as u64 + BLOCK);
        }
    }
}
