//! The sidecar of a part: where each tenant's rows are, what each block may hold, and which row has an id.
//!
//! # Sidecar, version 4 (all integers little endian)
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | magic `SLPX` |
//! | 4 | 2 | version, 4 |
//! | 6 | 2 | flags, 0 |
//! | 8 | 8 | length of the whole sidecar in bytes, the checksum included |
//! | 16 | 4 | rows of the part, ≥ 1 |
//! | 20 | 4 | CRC32C of the whole data file |
//! | 24 | 8 | length of the data file in bytes |
//! | 32 | 8 + 8 | first and last seal whose entries the part holds |
//! | 48 | 7 × (8 + 8) | offset and length in bytes of each section below; each begins at a multiple of 8 |
//! | 160 | … | the sections, zero-padded to a multiple of 8 |
//! | end − 8 | 4 | 0 |
//! | end − 4 | 4 | CRC32C of everything before it |
//!
//! | section | contents |
//! |---|---|
//! | 0 chunks | u32 × ⌈data length / 16 KiB⌉: CRC32C of each 16 KiB chunk of the data file |
//! | 1 tenants | 16 bytes each, ascending by name: u32 offset of the name in section 2, u32 its length, u32 first row, u32 first block; rows and blocks go on to the next tenant's |
//! | 2 names | the tenants' names |
//! | 3 blocks | 104 bytes each, in row order, see below |
//! | 4 id buckets | u32 × (b + 1), b = ⌈rows / 16⌉: the first entry of section 5 of each bucket, ascending, and the number of rows |
//! | 5 ids | 6 bytes × rows, of parts with more than 2²⁴ rows 7: u24 fingerprint and u24 (u32) row, ascending in each bucket |
//! | 6 filters | the blocks' 8-bit filters ([`super::fuse`]) over their keys ([`super::keys`]) |
//!
//! An id with the key k = XXH3-64 of tenant and id ([`super::keys::id`]) is in the bucket (k × b) >> 64 with the low 24 bits of k
//! as fingerprint. One that is not here costs three memory accesses, and one in about a million such ids has a candidate,
//! which the row's own id then rules out. Ids of version 7 begin with the time at which they were made, so that new ones lie behind
//! the range of every older part: [`IdRange`] passes over such a part for many ids at once.
//!
//! | block offset | size | what |
//! |---|---|---|
//! | 0 | 4 | first row; a block is rows of one tenant, at most 8,192 |
//! | 4 | 4 | bit 0: an entry has more than 256 leaves, the filter may not be asked for leaves; bit 1: an id is not of UUID version 7 |
//! | 8 | 8 + 8 | smallest and largest `timestamp` (signed milliseconds) |
//! | 24 | 8 + 8 | smallest and largest `sequence` |
//! | 40 | 8 + 8 | smallest and largest `received_at` |
//! | 56 | 4 × 4 | rows of each severity, least grave first |
//! | 72 | 8 | offset of its filter in section 6 |
//! | 80 | 4 | length of its filter; 0: none (fewer than 64 rows), nothing is pruned by it |
//! | 84 | 4 | 0 |
//! | 88 | 8 + 8 | first 8 bytes (as a big-endian number) of the smallest and the largest id of UUID version 7; the first is larger: there is none |
//!
//! Versions 1 (with whole keys and a filter over them), 2 (without ranges of ids) and 3 (with keys of words that nobody asks for, beside
//! data files without `sent`) were never released and are refused.
//! All of it is read in place from mapped bytes; nothing is copied when a part is opened.

use super::{chunks, keys};
use bytes::Bytes;
use std::ops::Range;
use uuid::Uuid;

const MAGIC: &[u8; 4] = b"SLPX";
const VERSION: u16 = 4;
const SECTIONS: usize = 7;
const TABLE: usize = 48;
const HEADER_LEN: usize = TABLE + 16 * SECTIONS;
const TRAILER_LEN: usize = 8;
const TENANT_LEN: usize = 16;
const BLOCK_LEN: usize = 104;
const OVERFLOW: u32 = 1;
const OTHER_IDS: u32 = 2;
/// Ids that share a bucket, on average: what a look-up compares fingerprints of.
const BUCKET_IDS: u32 = 16;
const FINGERPRINT: u64 = 0xff_ffff;
/// Keys whose buckets are looked for before the first is searched.
const AT_ONCE: usize = 32;

/// Most rows of a block.
pub(super) const BLOCK_ROWS: u32 = 8_192;

/// One run of a tenant's rows, with what can be said about them without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The rows.
    pub rows: Range<u32>,
    /// Smallest and largest event time, milliseconds.
    pub timestamps: (i64, i64),
    /// Smallest and largest number.
    pub sequences: (u64, u64),
    /// Smallest and largest `received_at`, milliseconds.
    pub received: (i64, i64),
    /// Rows by `Severity as usize`.
    pub severities: [u32; 4],
    /// Which ids its rows have.
    pub(super) ids: IdRange,
    /// An entry has more leaves than the filter knows.
    pub(super) overflow: bool,
    /// Where its filter is in the section of filters; empty: it has none.
    pub(super) filter: Range<usize>,
}

/// Bounds of a set of ids, by the time in those of UUID version 7 (RFC 9562). Others have no order to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First 8 bytes of the smallest and the largest of version 7; `(MAX, MIN)`: there is none.
    time_ordered: (u64, u64),
    /// Whether there are ids of other versions.
    others: bool,
}

impl IdRange {
    /// Of no ids.
    pub(super) const EMPTY: Self = Self {
        time_ordered: (u64::MAX, u64::MIN),
        others: false,
    };

    /// Of these ids.
    pub fn of(ids: impl IntoIterator<Item = Uuid>) -> Self {
        let mut range = Self::EMPTY;
        ids.into_iter().for_each(|id| range.add(&id));
        range
    }

    pub(super) fn add(&mut self, id: &Uuid) {
        if id.get_version_num() == 7 {
            let (first, _) = id.as_u64_pair();
            self.time_ordered = (self.time_ordered.0.min(first), self.time_ordered.1.max(first));
        } else {
            self.others = true;
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.time_ordered.0 = self.time_ordered.0.min(other.time_ordered.0);
        self.time_ordered.1 = self.time_ordered.1.max(other.time_ordered.1);
        self.others |= other.others;
    }

    /// Whether one id may be in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.time_ordered.0.max(other.time_ordered.0) <= self.time_ordered.1.min(other.time_ordered.1) || self.others && other.others
    }
}

/// What a sidecar is made of.
#[derive(Default)]
pub(super) struct SidecarBuilder {
    pub(super) seals: (u64, u64),
    pub(super) tenants: Vec<(Box<str>, u32, u32)>,
    pub(super) blocks: Vec<Block>,
    pub(super) filters: Vec<u8>,
    pub(super) ids: Vec<(u64, u32)>,
}

impl SidecarBuilder {
    /// The whole sidecar of a data file, and the checksum at its end.
    pub(super) fn encode(self, data: &chunks::Written) -> (Vec<u8>, u32) {
        let rows = self.ids.len() as u32;
        let mut out = vec![0; HEADER_LEN];
        let mut table = Vec::with_capacity(SECTIONS);
        let mut section = |out: &mut Vec<u8>, write: &mut dyn FnMut(&mut Vec<u8>)| {
            let start = out.len();
            write(out);
            table.push((start as u64, (out.len() - start) as u64));
            out.resize(out.len().next_multiple_of(8), 0);
        };
        out.reserve(self.ids.len() * 7 + self.filters.len() + self.blocks.len() * BLOCK_LEN + data.chunks.len() * 4);
        section(&mut out, &mut |out| {
            data.chunks.iter().for_each(|crc| out.extend_from_slice(&crc.to_le_bytes()))
        });
        section(&mut out, &mut |out| {
            let mut name_at = 0u32;
            for (name, first_row, first_block) in &self.tenants {
                for word in [name_at, name.len() as u32, *first_row, *first_block] {
                    out.extend_from_slice(&word.to_le_bytes());
                }
                name_at += name.len() as u32;
            }
        });
        section(&mut out, &mut |out| {
            self.tenants.iter().for_each(|(name, ..)| out.extend_from_slice(name.as_bytes()));
        });
        section(&mut out, &mut |out| self.blocks.iter().for_each(|block| encode_block(block, out)));
        let (starts, ids) = by_bucket(&self.ids);
        section(&mut out, &mut |out| {
            starts.iter().for_each(|start| out.extend_from_slice(&start.to_le_bytes()));
        });
        section(&mut out, &mut |out| {
            for (fingerprint, row) in &ids {
                out.extend_from_slice(&fingerprint.to_le_bytes()[..3]);
                out.extend_from_slice(&row.to_le_bytes()[..row_len(rows)]);
            }
        });
        section(&mut out, &mut |out| out.extend_from_slice(&self.filters));
        let total = out.len() + TRAILER_LEN;
        out[..4].copy_from_slice(MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&(total as u64).to_le_bytes());
        out[16..20].copy_from_slice(&rows.to_le_bytes());
        out[20..24].copy_from_slice(&data.crc.to_le_bytes());
        out[24..32].copy_from_slice(&data.len.to_le_bytes());
        out[32..40].copy_from_slice(&self.seals.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.seals.1.to_le_bytes());
        for (i, (start, len)) in table.into_iter().enumerate() {
            let at = TABLE + 16 * i;
            out[at..at + 8].copy_from_slice(&start.to_le_bytes());
            out[at + 8..at + 16].copy_from_slice(&len.to_le_bytes());
        }
        out.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        (out, crc)
    }
}

/// Bytes of a row's number in the table of ids.
fn row_len(rows: u32) -> usize {
    if rows <= 1 << 24 { 3 } else { 4 }
}

fn buckets(rows: u32) -> u32 {
    rows.div_ceil(BUCKET_IDS)
}

fn bucket_of(key: u64, buckets: u32) -> usize {
    ((u128::from(key) * u128::from(buckets)) >> 64) as usize
}

/// Where each bucket begins, and fingerprints and rows bucket by bucket.
fn by_bucket(ids: &[(u64, u32)]) -> (Vec<u32>, Vec<(u32, u32)>) {
    let buckets = buckets(ids.len() as u32);
    let mut starts = vec![0u32; buckets as usize + 1];
    for (key, _) in ids {
        starts[bucket_of(*key, buckets) + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let (mut next, mut sorted) = (starts.clone(), vec![(0, 0); ids.len()]);
    for (key, row) in ids {
        let place = &mut next[bucket_of(*key, buckets)];
        sorted[*place as usize] = ((key & FINGERPRINT) as u32, *row);
        *place += 1;
    }
    for bounds in starts.windows(2) {
        sorted[bounds[0] as usize..bounds[1] as usize].sort_unstable();
    }
    (starts, sorted)
}

fn encode_block(block: &Block, out: &mut Vec<u8>) {
    out.extend_from_slice(&block.rows.start.to_le_bytes());
    let flags = if block.overflow { OVERFLOW } else { 0 } | if block.ids.others { OTHER_IDS } else { 0 };
    out.extend_from_slice(&flags.to_le_bytes());
    for time in [block.timestamps.0, block.timestamps.1] {
        out.extend_from_slice(&time.to_le_bytes());
    }
    for sequence in [block.sequences.0, block.sequences.1] {
        out.extend_from_slice(&sequence.to_le_bytes());
    }
    for time in [block.received.0, block.received.1] {
        out.extend_from_slice(&time.to_le_bytes());
    }
    for count in block.severities {
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(&(block.filter.start as u64).to_le_bytes());
    out.extend_from_slice(&(block.filter.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for bound in [block.ids.time_ordered.0, block.ids.time_ordered.1] {
        out.extend_from_slice(&bound.to_le_bytes());
    }
}

/// A sidecar read in place.
pub(super) struct Sidecar {
    bytes: Bytes,
    sections: [Range<usize>; SECTIONS],
    rows: u32,
}

/// What the sidecar says about the data file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DataFile {
    pub(super) len: u64,
    pub(super) crc: u32,
    pub(super) seals: (u64, u64),
}

impl Sidecar {
    /// Checks form, checksum and structure. O(bytes) for the checksum. The error says what does not fit.
    pub(super) fn open(bytes: Bytes) -> Result<(Self, DataFile), &'static str> {
        if bytes.len() < HEADER_LEN + TRAILER_LEN || &bytes[..4] != MAGIC {
            return Err("no sidecar begins here");
        }
        if u16::from_le_bytes([bytes[4], bytes[5]]) != VERSION {
            return Err("the sidecar's version is not known to this build");
        }
        let end = bytes.len() - 4;
        if u64_at(&bytes, 8) != bytes.len() as u64 {
            return Err("the sidecar's length does not fit");
        }
        if crc32c::crc32c(&bytes[..end]) != u32_at(&bytes, end) {
            return Err("the sidecar's checksum does not fit");
        }
        let data = DataFile {
            len: u64_at(&bytes, 24),
            crc: u32_at(&bytes, 20),
            seals: (u64_at(&bytes, 32), u64_at(&bytes, 40)),
        };
        let rows = u32_at(&bytes, 16);
        let mut sections: [Range<usize>; SECTIONS] = Default::default();
        for (i, section) in sections.iter_mut().enumerate() {
            let (start, len) = (u64_at(&bytes, TABLE + 16 * i), u64_at(&bytes, TABLE + 16 * i + 8));
            let stop = start.checked_add(len).filter(|stop| *stop <= (bytes.len() - TRAILER_LEN) as u64);
            *section = start as usize..stop.ok_or("a section of the sidecar lies outside")? as usize;
        }
        let sidecar = Self { bytes, sections, rows };
        sidecar.check(&data)?;
        Ok((sidecar, data))
    }

    /// That later look-ups can rely on the structure: counts fit, tenants ascend, rows and blocks have no hole. The
    /// checksum says already that these are the writer's bytes; this holds the writer to the format. O(tenants + blocks + rows / 16).
    fn check(&self, data: &DataFile) -> Result<(), &'static str> {
        let len = |i: usize| self.sections[i].len();
        let rows = self.rows as usize;
        if rows == 0
            || len(0) as u64 != 4 * chunks::count(data.len)
            || len(4) != 4 * (buckets(self.rows) as usize + 1)
            || len(5) != (3 + row_len(self.rows)) * rows
        {
            return Err("the sidecar's counts do not fit");
        }
        let mut starts = self.section(4).chunks_exact(4).map(|start| u32_at(start, 0));
        if !starts.clone().is_sorted() || starts.next_back() != Some(self.rows) {
            return Err("the sidecar's ids do not fit");
        }
        if !len(1).is_multiple_of(TENANT_LEN) || !len(3).is_multiple_of(BLOCK_LEN) || self.tenants() == 0 || self.blocks() == 0 {
            return Err("the sidecar's tables do not fit");
        }
        let (mut row, mut block, mut before) = (0, 0, None);
        for i in 0..self.tenants() {
            let name = self.name(i).ok_or("a tenant's name lies outside")?;
            let (rows, blocks) = (self.tenant_rows(i), self.tenant_blocks(i));
            if before.is_some_and(|b: &[u8]| b >= name) || rows.start != row || blocks.start != block || rows.is_empty() || blocks.is_empty() {
                return Err("the sidecar's tenants do not follow each other");
            }
            for b in blocks.clone() {
                let at = self.block(b);
                if at.rows.start != row || at.rows.is_empty() || at.rows.len() > BLOCK_ROWS as usize || at.filter.end > len(6) {
                    return Err("the sidecar's blocks do not follow each other");
                }
                row = at.rows.end;
            }
            if row != rows.end {
                return Err("a block does not end with its tenant");
            }
            (block, before) = (blocks.end, Some(name));
        }
        if row != self.rows || block != self.blocks() {
            return Err("the sidecar's tenants do not cover its rows");
        }
        Ok(())
    }

    fn section(&self, i: usize) -> &[u8] {
        &self.bytes[self.sections[i].clone()]
    }

    /// Checksums of the data file's chunks.
    pub(super) fn chunks(&self) -> Bytes {
        self.bytes.slice(self.sections[0].clone())
    }

    /// Number of rows of the part.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// Number of tenants.
    pub(super) fn tenants(&self) -> u32 {
        (self.sections[1].len() / TENANT_LEN) as u32
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> u32 {
        (self.sections[3].len() / BLOCK_LEN) as u32
    }

    fn tenant_word(&self, tenant: u32, word: usize) -> u32 {
        u32_at(self.section(1), tenant as usize * TENANT_LEN + 4 * word)
    }

    /// The name of a tenant by its place.
    pub(super) fn name(&self, tenant: u32) -> Option<&[u8]> {
        let start = self.tenant_word(tenant, 0) as usize;
        self.section(2).get(start..start.checked_add(self.tenant_word(tenant, 1) as usize)?)
    }

    /// The rows of a tenant.
    pub(super) fn tenant_rows(&self, tenant: u32) -> Range<u32> {
        let end = if tenant + 1 < self.tenants() {
            self.tenant_word(tenant + 1, 2)
        } else {
            self.rows
        };
        self.tenant_word(tenant, 2)..end
    }

    /// The blocks of a tenant.
    pub(super) fn tenant_blocks(&self, tenant: u32) -> Range<u32> {
        let end = if tenant + 1 < self.tenants() {
            self.tenant_word(tenant + 1, 3)
        } else {
            self.blocks()
        };
        self.tenant_word(tenant, 3)..end
    }

    /// The place of a tenant, if it has rows here.
    pub(super) fn find_tenant(&self, name: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.tenants());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle)?.cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// A block by its place.
    pub(super) fn block(&self, block: u32) -> Block {
        let table = self.section(3);
        let at = block as usize * BLOCK_LEN;
        let bytes = &table[at..at + BLOCK_LEN];
        let end = if block + 1 < self.blocks() {
            u32_at(table, at + BLOCK_LEN)
        } else {
            self.rows
        };
        let filter = u64_at(bytes, 72) as usize;
        Block {
            rows: u32_at(bytes, 0)..end,
            timestamps: (u64_at(bytes, 8) as i64, u64_at(bytes, 16) as i64),
            sequences: (u64_at(bytes, 24), u64_at(bytes, 32)),
            received: (u64_at(bytes, 40) as i64, u64_at(bytes, 48) as i64),
            severities: [56, 60, 64, 68].map(|at| u32_at(bytes, at)),
            ids: IdRange {
                time_ordered: (u64_at(bytes, 88), u64_at(bytes, 96)),
                others: u32_at(bytes, 4) & OTHER_IDS != 0,
            },
            overflow: u32_at(bytes, 4) & OVERFLOW != 0,
            filter: filter..filter.saturating_add(u32_at(bytes, 80) as usize),
        }
    }

    /// The place of the block that holds a row.
    pub(super) fn block_at(&self, row: u32) -> u32 {
        let (mut low, mut high) = (0, self.blocks());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if u32_at(self.section(3), middle as usize * BLOCK_LEN) <= row {
                low = middle
            } else {
                high = middle
            }
        }
        low
    }

    /// The filter of a block; empty: it has none.
    pub(super) fn filter(&self, block: &Block) -> &[u8] {
        self.section(6).get(block.filter.clone()).unwrap_or_default()
    }

    /// The rows that may have an id with this key, ascending: all that have it, and rarely another. O(1).
    #[inline]
    pub(super) fn rows_of(&self, key: u64) -> impl Iterator<Item = u32> + '_ {
        self.rows_in(self.bucket(key), key)
    }

    /// Which of the keys have such a row: tells their places, ascending. Many at once cost less than one after the other: the
    /// accesses to memory of [`AT_ONCE`] keys are under way together.
    pub(super) fn with_rows(&self, keys: impl Iterator<Item = u64>, mut found: impl FnMut(usize)) {
        let (mut keys, mut before) = (keys.peekable(), 0);
        let mut batch: [(u64, Range<u32>); AT_ONCE] = std::array::from_fn(|_| (0, 0..0));
        while keys.peek().is_some() {
            let mut len = 0;
            for (place, key) in batch.iter_mut().zip(&mut keys) {
                *place = (key, self.bucket(key));
                len += 1;
            }
            for (i, (key, bucket)) in batch[..len].iter().enumerate() {
                if self.rows_in(bucket.clone(), *key).next().is_some() {
                    found(before + i);
                }
            }
            before += len;
        }
    }

    /// Places in the section of ids of the bucket that a key falls in.
    #[inline]
    fn bucket(&self, key: u64) -> Range<u32> {
        let (starts, at) = (self.section(4), 4 * bucket_of(key, buckets(self.rows)));
        u32_at(starts, at)..u32_at(starts, at + 4)
    }

    #[inline]
    fn rows_in(&self, bucket: Range<u32>, key: u64) -> impl Iterator<Item = u32> + '_ {
        let len = 3 + row_len(self.rows);
        let fingerprint = ((key & FINGERPRINT) as u32).to_le_bytes();
        let ids = self.section(5).get(bucket.start as usize * len..bucket.end as usize * len);
        let ids = ids.unwrap_or_default().chunks_exact(len);
        ids.filter(move |id| id[..3] == fingerprint[..3]).map(|id| {
            let mut row = [0; 4];
            row[..id.len() - 3].copy_from_slice(&id[3..]);
            u32::from_le_bytes(row)
        })
    }
}

/// How an id becomes a key; the same for writer and reader. Tests give one that collides.
pub(super) type IdKey = fn(&str, &Uuid) -> u64;

/// The real one.
pub(super) const ID_KEY: IdKey = keys::id;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_among_its_rows_and_rarely_another() {
        let key = |n: u64| keys::id("t", &Uuid::from_u128(u128::from(n)));
        // Rows 5 and 9 have one key.
        let ids: Vec<(u64, u32)> = (0..100_000).map(|row| (key(if row == 9 { 5 } else { u64::from(row) }), row)).collect();
        let builder = SidecarBuilder {
            tenants: vec![("t".into(), 0, 0)],
            blocks: (0..100_000u32).step_by(BLOCK_ROWS as usize).map(super::super::write::empty_block).collect(),
            ids,
            ..SidecarBuilder::default()
        };
        let data = chunks::Written {
            len: 0,
            crc: 0,
            chunks: Vec::new(),
        };
        let (bytes, _) = builder.encode(&data);
        let (sidecar, _) = Sidecar::open(bytes.clone().into()).expect("good");
        let rows = |n: u64| sidecar.rows_of(key(n)).collect::<Vec<u32>>();
        assert_eq!((rows(5), rows(9)), (vec![5, 9], vec![]));
        assert!((10..100_000).all(|n| rows(u64::from(n)) == [n]));
        assert!((100_000..400_000).filter(|n| !rows(*n).is_empty()).count() < 5);
        let ids = sidecar.sections[4].len() + sidecar.sections[5].len();
        assert!(ids < 100_000 * 13 / 2, "{ids} bytes");
        // The version before this one.
        let mut old = bytes;
        old[4] = 3;
        let refusal = Sidecar::open(old.into()).err();
        assert_eq!(refusal, Some("the sidecar's version is not known to this build"));
    }
}
