//! The bytes of a seal object: the decision, the ids of its rows, and the packs, so that who needs only the decision reads only
//! the head of it by a range.
//!
//! # Seal object, version 1 (fixed integers little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `SLSO` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | 0 |
//! | 8 | 8 | n |
//! | 16 | 16 | owner: the random name of the sequencer that made it (nonce) |
//! | 32 | 8 | bytes of the objects of all seals before this one |
//! | 40 | 4 | CRC32C of the encoded seal, by which the next seal names it |
//! | 44 | 4 | length of the head section as it stands here |
//! | 48 | 4 | its length unpacked |
//! | 52 | 4 | length of the packs section as it stands here |
//! | 56 | 4 | its length unpacked |
//! | 60 | 4 | CRC32C of the head section as it stands here |
//! | 64 | 4 | CRC32C of the packs section as it stands here |
//! | 68 | 4 | CRC32C of bytes 0 to 68 |
//! | 72 | … | head section, zstd: `u32` length of the encoded seal, the encoded seal ([`codec`]), `u32` number of rows, then of each new entry in numbering order its id (16) and content hash (16) |
//! | … | … | packs section, zstd: each pack in the seal's order as `u32` length and its bytes ([`Pack`]) |
//!
//! Made of the same seal and packs by the same build, it is the same byte by byte, so that a doubtful creation may be repeated. One owner makes
//! one seal of a number: owner and CRC tell whose object it is. [`decode`] and [`decode_head`] never panic.

use crate::{
    model::{entry::ContentHash, pack::Pack},
    seal::{DecidedSeal, Decision, Seal, codec},
};
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

const MAGIC: &[u8; 4] = b"SLSO";
const VERSION: u16 = 1;
/// Length of the header.
pub const HEADER_LEN: usize = 72;
/// A section is not larger than this: a seal aims at 8 MiB.
const MOST_BYTES: u32 = 1 << 30;
/// zstd's fastest usual level: packs are text, and the sequencer waits for it.
const LEVEL: i32 = 1;

/// Why bytes are no seal object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectFormatError {
    /// The bytes end before it does.
    #[error("it is cut short")]
    Short,
    /// It does not begin as one.
    #[error("it does not begin as one")]
    Magic,
    /// Written by another version.
    #[error("version `{0}` is not known to this build")]
    Version(u16),
    /// A checksum does not fit.
    #[error("the checksum of its {0} does not fit")]
    Checksum(&'static str),
    /// The checksums fit, the contents do not: a mistake of the writer.
    #[error("it is malformed: {0}")]
    Malformed(String),
}

fn malformed(what: impl ToString) -> ObjectFormatError {
    ObjectFormatError::Malformed(what.to_string())
}

/// The head of a seal object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealHead {
    /// The decision.
    pub seal: Seal,
    /// CRC32C of the encoded seal.
    pub crc: u32,
    /// Id and content hash of each new entry, in numbering order.
    pub rows: Vec<(Uuid, ContentHash)>,
    /// Length of the encoded seal.
    pub encoded_len: usize,
    /// Bytes of the objects of all seals before this one.
    pub bytes_before: u64,
    /// Length of this object.
    pub object_len: u64,
}

/// What the header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) n: u64,
    pub(super) owner: Uuid,
    pub(super) bytes_before: u64,
    pub(super) seal_crc: u32,
    head: (u32, u32, u32),
    packs: (u32, u32, u32),
}

impl Header {
    /// Where the head section ends.
    pub(super) fn head_end(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.head.0)
    }

    /// Where the object ends.
    pub(super) fn end(&self) -> u64 {
        self.head_end() + u64::from(self.packs.0)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, ObjectFormatError> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(ObjectFormatError::Short)?;
        if &bytes[..4] != MAGIC {
            return Err(ObjectFormatError::Magic);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(ObjectFormatError::Version(version));
        }
        if crc32c::crc32c(&bytes[..68]) != u32_at(68) {
            return Err(ObjectFormatError::Checksum("header"));
        }
        let header = Self {
            n: u64_at(8),
            owner: Uuid::from_slice(&bytes[16..32]).expect("16 bytes"),
            bytes_before: u64_at(32),
            seal_crc: u32_at(40),
            head: (u32_at(44), u32_at(48), u32_at(60)),
            packs: (u32_at(52), u32_at(56), u32_at(64)),
        };
        if header.head.1 > MOST_BYTES || header.packs.1 > MOST_BYTES {
            return Err(malformed("a section is too large"));
        }
        Ok(header)
    }
}

/// The object of `seal`, whose encoded form is `encoded`, with its packs. Fails only if a section is larger than 1 GiB.
pub fn encode(seal: &Seal, encoded: &[u8], packs: &[Arc<Pack>], bytes_before: u64) -> Result<Bytes, ObjectFormatError> {
    let mut head = Vec::with_capacity(encoded.len() + 8 + 32 * packs.iter().map(|pack| pack.len()).sum::<usize>());
    put_len(&mut head, encoded.len())?;
    head.extend_from_slice(encoded);
    let count_at = head.len();
    head.extend_from_slice(&[0; 4]);
    let mut rows = 0u32;
    for (decided, pack) in seal.packs.iter().zip(packs) {
        for (entry, decision) in pack.entries().zip(&decided.decisions) {
            if *decision == Decision::New {
                head.extend_from_slice(entry.id().as_bytes());
                head.extend_from_slice(&entry.hash().to_le_bytes());
                rows += 1;
            }
        }
    }
    head[count_at..count_at + 4].copy_from_slice(&rows.to_le_bytes());
    let bodies: usize = packs.iter().map(|pack| 4 + pack.bytes().len()).sum();
    if head.len() > MOST_BYTES as usize || bodies > MOST_BYTES as usize {
        return Err(malformed("a section would be too large"));
    }

    let mut out = vec![0; HEADER_LEN];
    out.reserve((head.len() + bodies) / 3);
    let head_len = packed(&mut out, &head);
    let packs_len = packed(&mut out, &joined(packs, bodies));
    let (head_end, crc) = (HEADER_LEN + head_len, codec::crc_of(encoded));
    let (head_crc, packs_crc) = (crc32c::crc32c(&out[HEADER_LEN..head_end]), crc32c::crc32c(&out[head_end..]));
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&seal.n.to_le_bytes());
    header.extend_from_slice(seal.owner.as_bytes());
    header.extend_from_slice(&bytes_before.to_le_bytes());
    for word in [crc, head_len as u32, head.len() as u32, packs_len as u32, bodies as u32, head_crc, packs_crc] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    out[..HEADER_LEN].copy_from_slice(&header);
    Ok(out.into())
}

fn put_len(out: &mut Vec<u8>, len: usize) -> Result<(), ObjectFormatError> {
    let len = u32::try_from(len).map_err(|_| malformed("a part would be too large"))?;
    out.extend_from_slice(&len.to_le_bytes());
    Ok(())
}

/// The packs as they stand in their section, `len` bytes.
fn joined(packs: &[Arc<Pack>], len: usize) -> Vec<u8> {
    let mut joined = Vec::with_capacity(len);
    for pack in packs {
        joined.extend_from_slice(&(pack.bytes().len() as u32).to_le_bytes());
        joined.extend_from_slice(pack.bytes());
    }
    joined
}

/// Appends a section, packed; gives its packed length. In one piece: on a stream zstd copies what it is given, and looks for
/// matches in two places.
fn packed(out: &mut Vec<u8>, section: &[u8]) -> usize {
    let packed = zstd::bulk::compress(section, LEVEL).expect("the level is one of zstd's, and memory takes what is written to it");
    out.extend_from_slice(&packed);
    packed.len()
}

fn unpacked(bytes: &[u8], at: u64, (len, raw, crc): (u32, u32, u32), what: &'static str) -> Result<Vec<u8>, ObjectFormatError> {
    let at = at as usize;
    let section = bytes.get(at..at + len as usize).ok_or(ObjectFormatError::Short)?;
    if crc32c::crc32c(section) != crc {
        return Err(ObjectFormatError::Checksum(what));
    }
    let unpacked = zstd::bulk::decompress(section, raw as usize).map_err(malformed)?;
    if unpacked.len() != raw as usize {
        return Err(malformed("a section is shorter than it says"));
    }
    Ok(unpacked)
}

/// Reads the head from the beginning of an object; `bytes` may end behind the head section.
pub fn decode_head(bytes: &[u8]) -> Result<SealHead, ObjectFormatError> {
    let header = Header::read(bytes)?;
    let head = unpacked(bytes, HEADER_LEN as u64, header.head, "head")?;
    let cut = || malformed("its head ends too early");
    let (encoded_len, rest) = split_len(&head).ok_or_else(cut)?;
    let (encoded, rest) = rest.split_at_checked(encoded_len).ok_or_else(cut)?;
    let (count, rest) = split_len(rest).ok_or_else(cut)?;
    let (seal, crc) = codec::decode(encoded).map_err(malformed)?;
    if (seal.n, seal.owner, crc) != (header.n, header.owner, header.seal_crc) {
        return Err(malformed("header and seal differ"));
    }
    let new = seal.packs.iter().flat_map(|pack| &pack.decisions).filter(|d| **d == Decision::New).count();
    if rest.len() != 32 * count || count != new {
        return Err(malformed("its rows do not fit its decisions"));
    }
    let rows = rest.chunks_exact(32).map(|row| {
        let hash = ContentHash::from_le_bytes(row[16..].try_into().expect("16 bytes"));
        (Uuid::from_slice(&row[..16]).expect("16 bytes"), hash)
    });
    Ok(SealHead {
        rows: rows.collect(),
        seal,
        crc,
        encoded_len,
        bytes_before: header.bytes_before,
        object_len: header.end(),
    })
}

/// Reads and checks a whole object. The packs share one memory.
pub fn decode(bytes: &[u8]) -> Result<DecidedSeal, ObjectFormatError> {
    let head = decode_head(bytes)?;
    let header = Header::read(bytes)?;
    if bytes.len() as u64 != header.end() {
        return Err(malformed("something follows its end"));
    }
    let bodies = Bytes::from(unpacked(bytes, header.head_end(), header.packs, "packs")?);
    let (mut at, mut packs) = (0, Vec::with_capacity(head.seal.packs.len()));
    for decided in &head.seal.packs {
        let cut = || malformed("its packs end too early");
        let (len, _) = split_len(bodies.get(at..).ok_or_else(cut)?).ok_or_else(cut)?;
        at += 4;
        if bodies.len() - at < len {
            return Err(cut());
        }
        let pack = Pack::decode(bodies.slice(at..at + len)).map_err(malformed)?;
        at += len;
        let tenant = &head.seal.tenants[decided.tenant as usize].tenant;
        if pack.id() != decided.pack_id || pack.len() != decided.decisions.len() || pack.tenant() != tenant {
            return Err(malformed("a pack is not the one that the seal decides"));
        }
        packs.push(Arc::new(pack));
    }
    if at != bodies.len() {
        return Err(malformed("something follows its packs"));
    }
    Ok(DecidedSeal {
        seal: head.seal,
        crc: head.crc,
        packs,
        encoded_len: head.encoded_len,
    })
}

fn split_len(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*len) as usize, rest))
}
