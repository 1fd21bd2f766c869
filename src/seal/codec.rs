//! The bytes of a seal.
//!
//! # Seal, versions 1 to 4 (fixed integers little endian; `v` is a LEB128 varint of at most 64 bits, in its shortest form)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `SLSE` |
//! | 4 | 2 | version: 1; 2 if it erases or has results of erasures; 3 if it retires tenants; 4 if it has checkpoints of sources |
//! | 6 | 2 | flags: bit 0 chain break; the others 0 |
//! | 8 | 4 | length of the whole seal in bytes, the checksum included |
//! | 12 | 8 | n |
//! | 20 | 4 | CRC32C of seal n − 1 |
//! | 24 | 16 | owner |
//! | 40 | 8 | `sealed_at`, signed milliseconds since 1970 |
//! | 48 | v | number of tenants, then each of them: |
//! | | 1 + … | length and text of the tenant id |
//! | | v | head |
//! | | 1 | 1 if numbers are void, else 0 |
//! | | v v | only if so: first void number, and how many follow it |
//! | | v v v v v | stored, duplicate, dead_lettered, accepted, bytes |
//! | … | v | number of packs, then each of them: |
//! | | 16 | pack id |
//! | | v | index of its tenant |
//! | | v | number of positions, at least 1, then each: `v` segment, `v` offset |
//! | | 1 | 0, or the refusal (1 tenant deleted, 2 poison) |
//! | | v | number of its first new entry, 0 when none is new |
//! | | v | number of entries, at least 1 |
//! | | ⌈entries / 4⌉ | 2 bits per entry, the first in the lowest bits: 0 new, 1 duplicate, 2 conflict, 3 refused; unused bits 0 |
//! | | | in versions 2 to 4 only: |
//! | … | v | number of erasures, then each of them: |
//! | | v | index of its tenant |
//! | | 16 | job |
//! | | 1 | kind: 1 cleanup, 2 retention |
//! | | 8 | cutoff, signed milliseconds since 1970 |
//! | | v | head |
//! | … | v | number of results of erasures, then each of them: |
//! | | v | index of its tenant |
//! | | 16 | job |
//! | | v | rows |
//! | | | in versions 3 and 4 only: |
//! | … | v | number of retired tenants, in version 3 at least 1, then each of them: |
//! | | v | index of the tenant, larger than the one before it |
//! | | | in version 4 only: |
//! | … | v | number of shards, at least 1, then each of them, ascending by source and shard: |
//! | | v + … | length and text of the source's name |
//! | | v + … | length and text of the shard's id |
//! | | 1 | 0 forgotten, 1 decided up to a record, 2 decided to its end |
//! | | v + … | only if 1: length and text of that record's sequence number |
//! | end − 4 | 4 | CRC32C of everything before it; this is the CRC that the next seal names |
//!
//! A seal is written in the lowest version that can say it, so that builds which know no erasures, no retired tenants, or no
//! sources can read logs without any, and refuse what they would not obey. There is one encoding of a seal: what [`decode`] takes, [`encode`] gives back byte by byte. [`decode`] never panics
//! and never allocates more than a small multiple of its input.

use super::{
    Decision, Refusal, Seal, SealErasure, SealPack, SealRemoved, SealTenant,
    erasure::{Erasure, ErasureKind},
    source::{SealSource, ShardAt, ShardName},
};
use crate::{model::tenant::TenantId, queue::Position};
use smallvec::SmallVec;
use std::sync::Arc;
use uuid::Uuid;

const MAGIC: &[u8; 4] = b"SLSE";
const VERSION: u16 = 1;
const VERSION_ERASING: u16 = 2;
const VERSION_RETIRING: u16 = 3;
const VERSION_SOURCES: u16 = 4;
const HEADER_LEN: usize = 48;
const FLAG_CHAIN_BREAK: u16 = 1;

/// Why bytes are no seal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The bytes end before the seal does, or go on after it.
    #[error("a seal of `{expected}` bytes in `{found}` bytes")]
    Length {
        /// What the header says (or the least that a seal has).
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// It does not begin as a seal does.
    #[error("no seal begins here")]
    Magic,
    /// Written by another version.
    #[error("seal version `{0}` is not known to this build")]
    Version(u16),
    /// The checksum does not fit.
    #[error("the checksum of the seal does not fit")]
    Checksum,
    /// The checksum fits, the contents do not: a mistake of the writer.
    #[error("the seal is malformed: {0}")]
    Malformed(&'static str),
}

/// The bytes of `seal`. Its CRC is [`crc_of`] them.
pub fn encode(seal: &Seal) -> Vec<u8> {
    let entries: usize = seal.packs.iter().map(|p| p.decisions.len()).sum();
    let mut out = Vec::with_capacity(HEADER_LEN + 64 * seal.tenants.len() + 40 * seal.packs.len() + entries / 4 + 8);
    out.extend_from_slice(MAGIC);
    let version = if !seal.sources.is_empty() {
        VERSION_SOURCES
    } else if !seal.retired.is_empty() {
        VERSION_RETIRING
    } else if !seal.erasures.is_empty() || !seal.removed.is_empty() {
        VERSION_ERASING
    } else {
        VERSION
    };
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(if seal.chain_break { FLAG_CHAIN_BREAK } else { 0 }).to_le_bytes());
    out.extend_from_slice(&[0; 4]); // the length, below
    out.extend_from_slice(&seal.n.to_le_bytes());
    out.extend_from_slice(&seal.previous_crc.to_le_bytes());
    out.extend_from_slice(seal.owner.as_bytes());
    out.extend_from_slice(&seal.sealed_at.to_le_bytes());
    put(&mut out, seal.tenants.len() as u64);
    for t in &seal.tenants {
        out.push(t.tenant.as_str().len() as u8);
        out.extend_from_slice(t.tenant.as_str().as_bytes());
        put(&mut out, t.head);
        out.push(u8::from(t.void.is_some()));
        if let Some((first, last)) = t.void {
            put(&mut out, first);
            put(&mut out, last - first);
        }
        for count in [t.stored, t.duplicate, t.dead_lettered, t.accepted, t.bytes] {
            put(&mut out, count);
        }
    }
    put(&mut out, seal.packs.len() as u64);
    for p in &seal.packs {
        out.extend_from_slice(p.pack_id.as_bytes());
        put(&mut out, u64::from(p.tenant));
        put(&mut out, p.positions.len() as u64);
        for at in &p.positions {
            put(&mut out, at.segment);
            put(&mut out, u64::from(at.offset));
        }
        out.push(p.refusal.map_or(0, |r| r as u8));
        put(&mut out, p.first_sequence);
        put(&mut out, p.decisions.len() as u64);
        out.extend(
            p.decisions
                .chunks(4)
                .map(|four| four.iter().enumerate().fold(0, |byte, (i, d)| byte | (*d as u8) << (2 * i))),
        );
    }
    if version >= VERSION_ERASING {
        put_erasing(&mut out, seal);
    }
    if version >= VERSION_RETIRING {
        put(&mut out, seal.retired.len() as u64);
        for tenant in &seal.retired {
            put(&mut out, u64::from(*tenant));
        }
    }
    if version >= VERSION_SOURCES {
        put_sources(&mut out, &seal.sources);
    }
    let len = (out.len() + 4) as u32;
    out[8..12].copy_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn put_erasing(out: &mut Vec<u8>, seal: &Seal) {
    put(out, seal.erasures.len() as u64);
    for SealErasure { tenant, erasure } in &seal.erasures {
        put(out, u64::from(*tenant));
        out.extend_from_slice(erasure.job.as_bytes());
        out.push(erasure.kind as u8);
        out.extend_from_slice(&erasure.cutoff.to_le_bytes());
        put(out, erasure.head);
    }
    put(out, seal.removed.len() as u64);
    for SealRemoved { tenant, job, rows } in &seal.removed {
        put(out, u64::from(*tenant));
        out.extend_from_slice(job.as_bytes());
        put(out, *rows);
    }
}

fn put_sources(out: &mut Vec<u8>, sources: &[SealSource]) {
    fn text(out: &mut Vec<u8>, text: &str) {
        put(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    put(out, sources.len() as u64);
    for SealSource { name, at } in sources {
        text(out, &name.source);
        text(out, &name.shard);
        match at {
            None => out.push(0),
            Some(ShardAt::After(number)) => {
                out.push(1);
                text(out, number);
            }
            Some(ShardAt::End) => out.push(2),
        }
    }
}

/// The CRC by which the next seal names this one: the checksum at its end. `encoded` comes from [`encode`].
pub fn crc_of(encoded: &[u8]) -> u32 {
    let at = encoded.len() - 4;
    u32::from_le_bytes(encoded[at..].try_into().expect("4 bytes"))
}

/// Reads and checks one seal; also gives its CRC.
pub fn decode(bytes: &[u8]) -> Result<(Seal, u32), SealError> {
    let found = bytes.len();
    if found < HEADER_LEN + 2 + 4 {
        return Err(SealError::Length {
            expected: HEADER_LEN + 2 + 4,
            found,
        });
    }
    if &bytes[..4] != MAGIC {
        return Err(SealError::Magic);
    }
    let (body, checksum) = bytes.split_at(found - 4);
    let mut from = Reader(&body[4..]);
    let version = u16::from_le_bytes(from.array()?);
    if !(VERSION..=VERSION_SOURCES).contains(&version) {
        return Err(SealError::Version(version));
    }
    let flags = u16::from_le_bytes(from.array()?);
    let expected = u32::from_le_bytes(from.array()?) as usize;
    if expected != found {
        return Err(SealError::Length { expected, found });
    }
    let crc = crc32c::crc32c(body);
    if checksum != crc.to_le_bytes() {
        return Err(SealError::Checksum);
    }
    if flags & !FLAG_CHAIN_BREAK != 0 {
        return Err(SealError::Malformed("it has unknown flags"));
    }
    let mut seal = Seal {
        n: u64::from_le_bytes(from.array()?),
        previous_crc: u32::from_le_bytes(from.array()?),
        owner: Uuid::from_bytes(from.array()?),
        sealed_at: i64::from_le_bytes(from.array()?),
        chain_break: flags & FLAG_CHAIN_BREAK != 0,
        tenants: from.many(8, read_tenant)?,
        packs: from.many(22, read_pack)?,
        erasures: Vec::new(),
        removed: Vec::new(),
        retired: Vec::new(),
        sources: Vec::new(),
    };
    if version >= VERSION_ERASING {
        seal.erasures = from.many(27, read_erasure)?;
        seal.removed = from.many(18, read_removed)?;
    }
    if version >= VERSION_RETIRING {
        seal.retired = from.many(1, Reader::varint32)?;
    }
    if version >= VERSION_SOURCES {
        seal.sources = from.many(3, read_source)?;
    }
    let says_something = match version {
        VERSION => true,
        VERSION_ERASING => !seal.erasures.is_empty() || !seal.removed.is_empty(),
        VERSION_RETIRING => !seal.retired.is_empty(),
        _ => !seal.sources.is_empty(),
    };
    let in_order = seal.retired.is_sorted_by(|a, b| a < b) && seal.sources.is_sorted_by(|a, b| a.name < b.name);
    if !says_something || !in_order {
        return Err(SealError::Malformed("it lacks what its version is for, or is not in order"));
    }
    if !from.0.is_empty() {
        return Err(SealError::Malformed("something follows its end"));
    }
    let packs = seal.packs.iter().map(|p| p.tenant);
    let erased = seal.erasures.iter().map(|e| e.tenant).chain(seal.removed.iter().map(|r| r.tenant));
    let named = packs.chain(erased).chain(seal.retired.iter().copied());
    if seal.n == 0 || named.max().is_some_and(|tenant| tenant as usize >= seal.tenants.len()) {
        return Err(SealError::Malformed("a number is out of range"));
    }
    Ok((seal, crc))
}

fn read_tenant(from: &mut Reader<'_>) -> Result<SealTenant, SealError> {
    let len = from.byte()?;
    let text = std::str::from_utf8(from.take(usize::from(len))?).map_err(|_| SealError::Malformed("a tenant is no text"))?;
    let tenant = TenantId::decode(text).map_err(|_| SealError::Malformed("a tenant is no tenant id"))?;
    let head = from.varint()?;
    let void = match from.byte()? {
        0 => None,
        1 => {
            let first = from.varint()?;
            let last = first.checked_add(from.varint()?).ok_or(SealError::Malformed("a void range is out of range"))?;
            Some((first, last))
        }
        _ => return Err(SealError::Malformed("a flag is neither 0 nor 1")),
    };
    Ok(SealTenant {
        tenant,
        head,
        void,
        stored: from.varint()?,
        duplicate: from.varint()?,
        dead_lettered: from.varint()?,
        accepted: from.varint()?,
        bytes: from.varint()?,
    })
}

fn read_pack(from: &mut Reader<'_>) -> Result<SealPack, SealError> {
    let pack_id = Uuid::from_bytes(from.array()?);
    let tenant = from.varint32()?;
    let positions: SmallVec<[Position; 1]> = from
        .many(2, |from| {
            Ok(Position {
                segment: from.varint()?,
                offset: from.varint32()?,
            })
        })?
        .into();
    let refusal = match from.byte()? {
        0 => None,
        1 => Some(Refusal::TenantDeleted),
        2 => Some(Refusal::Poison),
        _ => return Err(SealError::Malformed("a refusal is unknown")),
    };
    let first_sequence = from.varint()?;
    let entries = from.varint32()? as usize;
    let packed = from.take(entries.div_ceil(4))?;
    let decisions: Vec<_> = (0..entries)
        .map(|i| match packed[i / 4] >> (2 * (i % 4)) & 3 {
            0 => Decision::New,
            1 => Decision::Duplicate,
            2 => Decision::Conflict,
            _ => Decision::Refused,
        })
        .collect();
    if positions.is_empty() || entries == 0 {
        return Err(SealError::Malformed("a pack is nowhere or has no entries"));
    }
    if !entries.is_multiple_of(4) && packed[entries / 4] >> (2 * (entries % 4)) != 0 {
        return Err(SealError::Malformed("unused bits are set"));
    }
    if decisions.contains(&Decision::New) != (first_sequence != 0) || decisions.contains(&Decision::Refused) && refusal.is_none() {
        return Err(SealError::Malformed("decisions do not fit their number or reason"));
    }
    Ok(SealPack {
        pack_id,
        tenant,
        positions,
        decisions,
        refusal,
        first_sequence,
    })
}

fn read_erasure(from: &mut Reader<'_>) -> Result<SealErasure, SealError> {
    Ok(SealErasure {
        tenant: from.varint32()?,
        erasure: Erasure {
            job: Uuid::from_bytes(from.array()?),
            kind: ErasureKind::from_number(from.byte()?).ok_or(SealError::Malformed("a kind of erasure is unknown"))?,
            cutoff: i64::from_le_bytes(from.array()?),
            head: from.varint()?,
        },
    })
}

fn read_removed(from: &mut Reader<'_>) -> Result<SealRemoved, SealError> {
    Ok(SealRemoved {
        tenant: from.varint32()?,
        job: Uuid::from_bytes(from.array()?),
        rows: from.varint()?,
    })
}

fn read_source(from: &mut Reader<'_>) -> Result<SealSource, SealError> {
    let name = ShardName {
        source: from.text()?,
        shard: from.text()?,
    };
    let at = match from.byte()? {
        0 => None,
        1 => Some(ShardAt::After(from.text()?)),
        2 => Some(ShardAt::End),
        _ => return Err(SealError::Malformed("a place in a shard is unknown")),
    };
    Ok(SealSource { name, at })
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const CUT: SealError = SealError::Malformed("it ends too early");

    fn take(&mut self, n: usize) -> Result<&'a [u8], SealError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Self::CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SealError> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn byte(&mut self) -> Result<u8, SealError> {
        Ok(self.array::<1>()?[0])
    }

    fn varint(&mut self) -> Result<u64, SealError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(SealError::Malformed("a number is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(SealError::Malformed("a number is longer than 64 bits"))
    }

    fn varint32(&mut self) -> Result<u32, SealError> {
        u32::try_from(self.varint()?).map_err(|_| SealError::Malformed("a number is longer than 32 bits"))
    }

    fn text(&mut self) -> Result<Arc<str>, SealError> {
        let len = self.varint32()? as usize;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| SealError::Malformed("a name is no text"))?;
        Ok(text.into())
    }

    /// A count, then as many items of at least `least` bytes each: a count that cannot be true is refused before anything is allocated.
    fn many<T>(&mut self, least: usize, mut read: impl FnMut(&mut Self) -> Result<T, SealError>) -> Result<Vec<T>, SealError> {
        let count = usize::try_from(self.varint()?).ok().filter(|n| *n <= self.0.len() / least).ok_or(Self::CUT)?;
        (0..count).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Seal {
        let tenant = |name: &str, head, void| SealTenant {
            tenant: TenantId::parse(name).expect("a tenant"),
            head,
            void,
            stored: 2,
            duplicate: 1,
            dead_lettered: 300,
            accepted: 303,
            bytes: 1 << 40,
        };
        Seal {
            n: 7,
            previous_crc: 0xdead_beef,
            owner: Uuid::from_u128(1),
            sealed_at: -3,
            chain_break: true,
            tenants: vec![tenant("acme", 1 << 21, Some((6, 1 << 20))), tenant("b", u64::MAX, None)],
            packs: vec![SealPack {
                pack_id: Uuid::from_u128(2),
                tenant: 1,
                positions: [(1, 4096), (300, u32::MAX)]
                    .map(|(segment, offset)| Position { segment, offset })
                    .into_iter()
                    .collect(),
                decisions: vec![Decision::New, Decision::Conflict, Decision::Refused, Decision::Duplicate, Decision::New],
                refusal: Some(Refusal::Poison),
                first_sequence: 9,
            }],
            erasures: vec![],
            removed: vec![],
            retired: vec![],
            sources: Vec::new(),
        }
    }

    fn erasing() -> Seal {
        let erasure = Erasure {
            job: Uuid::from_u128(7),
            kind: ErasureKind::Retention,
            cutoff: -2,
            head: 300,
        };
        let (job, rows) = (Uuid::from_u128(8), 1 << 33);
        Seal {
            erasures: vec![SealErasure { tenant: 1, erasure }],
            removed: vec![SealRemoved { tenant: 0, job, rows }],
            ..sample()
        }
    }

    fn retiring() -> Seal {
        Seal {
            retired: vec![0, 1],
            ..erasing()
        }
    }

    fn sourced() -> Seal {
        let source = |shard: &str, at| SealSource {
            name: ShardName {
                source: "s".into(),
                shard: shard.into(),
            },
            at,
        };
        Seal {
            sources: vec![
                source("a", None),
                source("b", Some(ShardAt::After("495".into()))),
                source("c", Some(ShardAt::End)),
            ],
            ..erasing()
        }
    }

    #[test]
    fn a_seal_reads_back_as_written() {
        let without_packs = Seal { packs: vec![], ..erasing() };
        let result_only = Seal {
            erasures: vec![],
            ..without_packs.clone()
        };
        let retiring_only = Seal { retired: vec![1], ..sample() };
        let sources_only = Seal {
            sources: sourced().sources,
            ..sample()
        };
        let everything = Seal {
            sources: sourced().sources,
            ..retiring()
        };
        for seal in [
            sample(),
            erasing(),
            retiring(),
            sourced(),
            without_packs,
            result_only,
            retiring_only,
            sources_only,
            everything,
        ] {
            let bytes = encode(&seal);
            assert_eq!(decode(&bytes), Ok((seal, crc_of(&bytes))));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for good in [encode(&sample()), encode(&erasing()), encode(&retiring()), encode(&sourced())] {
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    assert!(decode(&bad).is_err(), "bit {bit} of byte {at}");
                }
                assert!(decode(&good[..at]).is_err(), "cut at {at}");
            }
            assert!(decode(&[&good[..], b"x"].concat()).is_err());
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = encode(&sample());
        assert_eq!(&bytes[..8], b"SLSE\x01\0\x01\0");
        assert_eq!(u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(bytes[12], 7);
        assert_eq!(&bytes[48..56], b"\x02\x04acme\x80\x80");
        assert_eq!(bytes[bytes.len() - 7..bytes.len() - 4], [5, 0b01_11_10_00, 0]);

        let (plain, erasing) = (bytes, encode(&erasing()));
        assert_eq!(erasing[4], 2);
        assert_eq!(erasing[48..plain.len() - 4], plain[48..plain.len() - 4], "the same up to the packs");
        let added = &erasing[plain.len() - 4..erasing.len() - 4];
        assert_eq!(added[..2], [1, 1], "one erasure, of the second tenant");
        assert_eq!(added[17..19], [7, 2], "the end of its job, and its kind");
        assert_eq!(added[19..27], (-2i64).to_le_bytes());
        assert_eq!(added[27..31], [0xac, 2, 1, 0], "its head, one result, of the first tenant");
        assert_eq!(added[46..], [8, 0x80, 0x80, 0x80, 0x80, 0x20]);

        let retiring = encode(&retiring());
        assert_eq!(retiring[4], 3);
        assert_eq!(retiring[48..erasing.len() - 4], erasing[48..erasing.len() - 4], "the same up to the results");
        assert_eq!(retiring[erasing.len() - 4..retiring.len() - 4], [2, 0, 1], "two tenants, by their indexes");

        let sourced = encode(&sourced());
        assert_eq!(sourced[4], 4);
        assert_eq!(sourced[48..erasing.len() - 4], erasing[48..erasing.len() - 4], "the same up to the results");
        let added = &sourced[erasing.len() - 4..sourced.len() - 4];
        assert_eq!(added, b"\x00\x03\x01s\x01a\x00\x01s\x01b\x01\x03495\x01s\x01c\x02");
    }

    #[test]
    fn a_list_of_sources_has_one_form() {
        let plain = encode(&sourced());
        let without = plain.len() - 4 - 20;
        for (list, good) in [
            (&b"\x01\x01s\x01a\x00"[..], true),
            (b"\x00", false),
            (b"\x02\x01s\x01a\x00\x01s\x01a\x02", false),
            (b"\x02\x01s\x01b\x00\x01s\x01a\x00", false),
            (b"\x02\x01s\x01b\x00\x01t\x01a\x00", true),
            (b"\x01\x01s\x01a\x03", false),
            (b"\x01\x01\xff\x01a\x00", false),
        ] {
            let mut bytes = plain[..without].to_vec();
            bytes.extend_from_slice(list);
            let len = (bytes.len() + 4) as u32;
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&bytes).is_ok(), good, "{list:?}");
        }
    }

    #[test]
    fn a_list_of_retired_tenants_has_one_form() {
        let plain = encode(&retiring());
        for (list, good) in [
            (&[2, 0, 1][..], true),
            (&[1, 1], true),
            (&[0], false),
            (&[2, 1, 0], false),
            (&[2, 1, 1], false),
            (&[1, 2], false),
        ] {
            let mut bytes = plain[..plain.len() - 7].to_vec();
            bytes.extend_from_slice(list);
            let len = (bytes.len() + 4) as u32;
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&bytes).is_ok(), good, "{list:?}");
        }
    }

    /// A seal that was written before tenants could be retired.
    #[test]
    fn a_log_of_version_2_is_read() {
        const WRITTEN: &[u8] = &[
            0x53, 0x4c, 0x53, 0x45, 0x02, 0x00, 0x01, 0x00, 0xbe, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xef, 0xbe, 0xad, 0xde,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0x02, 0x04, 0x61, 0x63, 0x6d, 0x65, 0x80, 0x80, 0x80, 0x01, 0x01, 0x06, 0xfa, 0xff, 0x3f, 0x02, 0x01, 0xac, 0x02, 0xaf, 0x02, 0x80, 0x80, 0x80,
            0x80, 0x80, 0x20, 0x01, 0x62, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00, 0x02, 0x01, 0xac, 0x02, 0xaf, 0x02, 0x80, 0x80,
            0x80, 0x80, 0x80, 0x20, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x01, 0x02, 0x01,
            0x80, 0x20, 0xac, 0x02, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x02, 0x09, 0x05, 0x78, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x07, 0x02, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xac, 0x02, 0x01, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x08, 0x80, 0x80, 0x80, 0x80, 0x20, 0x9b, 0xf6, 0xac, 0x14,
        ];
        let (seal, _) = decode(WRITTEN).expect("a seal");
        assert_eq!((&seal, encode(&seal)), (&erasing(), WRITTEN.to_vec()), "and written as it was");
    }

    /// Seals that were written before there were erasures.
    #[test]
    fn access_logs_are_named_in_seals_too() {
        let mut seal = sample();
        seal.tenants[1].tenant = TenantId::parse(&"x".repeat(63)).expect("a tenant").access_log();
        assert_eq!(decode(&encode(&seal)).expect("a seal").0, seal);
    }

    #[test]
    fn a_log_of_version_1_is_read() {
        const WRITTEN: &[u8] = &[
            0x53, 0x4c, 0x53, 0x45, 0x01, 0x00, 0x01, 0x00, 0x8a, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xef, 0xbe, 0xad, 0xde,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0x02, 0x04, 0x61, 0x63, 0x6d, 0x65, 0x80, 0x80, 0x80, 0x01, 0x01, 0x06, 0xfa, 0xff, 0x3f, 0x02, 0x01, 0xac, 0x02, 0xaf, 0x02, 0x80, 0x80, 0x80,
            0x80, 0x80, 0x20, 0x01, 0x62, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00, 0x02, 0x01, 0xac, 0x02, 0xaf, 0x02, 0x80, 0x80,
            0x80, 0x80, 0x80, 0x20, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x01, 0x02, 0x01,
            0x80, 0x20, 0xac, 0x02, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x02, 0x09, 0x05, 0x78, 0x00, 0x1f, 0xa1, 0x88, 0x2c,
        ];
        let (seal, _) = decode(WRITTEN).expect("a seal");
        assert_eq!(seal, sample());
    }

    proptest! {
        /// Bytes with a good checksum but arbitrary contents: an error or a seal with this very encoding, never a panic.
        #[test]
        fn arbitrary_contents_never_panic_and_have_one_encoding(edits in prop::collection::vec((12usize..270, any::<u8>()), 0..6), cut in 0usize..60, kind in 0usize..4) {
            let mut bytes = encode(&[sample(), erasing(), retiring(), sourced()][kind]);
            bytes.truncate(bytes.len() - 4 - cut.min(bytes.len() - 60));
            for (at, value) in edits {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let len = (bytes.len() + 4) as u32;
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            if let Ok((seal, _)) = decode(&bytes) {
                prop_assert_eq!(encode(&seal), bytes);
            }
        }
    }
}
