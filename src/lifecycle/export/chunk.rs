//! The bytes of an export, in chunks that are objects of their own.
//!
//! # Object `exports/<tenant>/<job>.<number, 6 digits or more>.<turn, 8 hexadecimal digits>.chunk`
//!
//! The turn is a random number, so that two processes that work on a job, one of which was thought to be dead, never write one object. Chunks
//! of the first format have no turn in their names.
//!
//! Blocks that follow each other; every one but the last of a chunk holds 256 KiB of the export:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC32C, little endian, over the job's id (16 bytes), the chunk's number and the block's number in it (both 4 bytes, little endian, from 0) and the bytes that follow |
//! | 1 to 262,144 | bytes of the export |
//!
//! How many bytes of the export a chunk holds is in the job's record. So a range is read without what is before it, and a
//! byte that was not written by this job at this place is never given out.

use super::job::Job;
use crate::{
    model::tenant::TenantId,
    objects::{Key, ObjectError, Objects},
};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::{ops::Range, sync::Arc};
use uuid::Uuid;

/// Bytes of the export in a full block: what one reader holds in memory.
const BLOCK: usize = 256 << 10;
const CRC: usize = 4;

/// The name of a chunk.
pub fn key(tenant: &TenantId, job: Uuid, number: usize, turn: u32) -> Key {
    let turn = if turn == 0 { String::new() } else { format!(".{turn:08x}") };
    let text = format!("{}/{tenant}/{job}.{number:06}{turn}.chunk", super::FOLDER);
    Key::parse(&text).expect("a slug, a UUID and digits make a name")
}

/// The job, the number and the turn in the name of a chunk; `None` if it is no such name.
pub fn parse(file_name: &str) -> Option<(Uuid, usize, u32)> {
    let (job, rest) = file_name.strip_suffix(".chunk")?.split_once('.')?;
    let (number, turn) = match rest.split_once('.') {
        Some((number, turn)) => (number, u32::from_str_radix(turn, 16).ok()?),
        None => (rest, 0),
    };
    Some((Uuid::try_parse(job).ok()?, number.parse().ok()?, turn))
}

/// The object that holds `bytes`, which are at least one. Their memory is used again.
pub fn encode(job: Uuid, number: usize, bytes: Vec<u8>) -> Bytes {
    let (len, mut out) = (bytes.len(), bytes);
    let blocks = len.div_ceil(BLOCK);
    out.resize(len + blocks * CRC, 0);
    // From the last one on, so that none is moved over one that has not been moved.
    for block in (0..blocks).rev() {
        let from = block * BLOCK..len.min((block + 1) * BLOCK);
        let (to, holds) = (block * (BLOCK + CRC) + CRC, from.len());
        out.copy_within(from, to);
        let crc = checksum(job, number, block, &out[to..to + holds]);
        out[to - CRC..to].copy_from_slice(&crc.to_le_bytes());
    }
    out.into()
}

fn checksum(job: Uuid, chunk: usize, block: usize, bytes: &[u8]) -> u32 {
    let mut place = [0; 24];
    place[..16].copy_from_slice(job.as_bytes());
    place[16..20].copy_from_slice(&(chunk as u32).to_le_bytes());
    place[20..].copy_from_slice(&(block as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

/// Why bytes of a finished export cannot be given out.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The export was deleted, or has expired, since the reader began.
    #[error("the export is gone")]
    Gone,
    /// What is stored is not what was written.
    #[error("chunk {0} of the export is damaged")]
    Damaged(usize),
    /// The objects cannot be read.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// The bytes of `range` of a finished job, block by block, each read when the one before it was taken. Ends at the first
/// error.
pub fn read(objects: Arc<dyn Objects>, job: Arc<Job>, range: Range<u64>) -> BoxStream<'static, Result<Bytes, ReadError>> {
    let mut reader = Reader {
        objects,
        job,
        chunk: 0,
        before: 0,
        range,
    };
    reader.settle();
    stream::unfold(Some(reader), |reader| async {
        let mut reader = reader.filter(|r| !r.range.is_empty())?;
        match reader.next().await {
            Ok(bytes) => Some((Ok(bytes), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Reader {
    objects: Arc<dyn Objects>,
    job: Arc<Job>,
    /// The chunk that holds the first byte of the range, and how many bytes of the export are before it.
    chunk: usize,
    before: u64,
    range: Range<u64>,
}

impl Reader {
    /// Finds the chunk again after the range has moved.
    fn settle(&mut self) {
        while let Some(len) = self.job.chunks.get(self.chunk).filter(|len| self.before + **len <= self.range.start) {
            self.before += len;
            self.chunk += 1;
        }
    }

    async fn next(&mut self) -> Result<Bytes, ReadError> {
        let damaged = ReadError::Damaged(self.chunk);
        let Some(len) = self.job.chunks.get(self.chunk) else { return Err(damaged) };
        let from = self.range.start - self.before;
        let (block, skip) = (from / BLOCK as u64, (from % BLOCK as u64) as usize);
        let holds = (len - block * BLOCK as u64).min(BLOCK as u64);
        let start = block * (BLOCK + CRC) as u64;
        let key = self.job.chunk(self.chunk);
        let stored = self.objects.get_range(&key, start..start + CRC as u64 + holds).await?.ok_or(ReadError::Gone)?;
        let good = stored.len() as u64 == CRC as u64 + holds && {
            let (crc, bytes) = stored.split_at(CRC);
            checksum(self.job.id, self.chunk, block as usize, bytes).to_le_bytes() == crc
        };
        if !good {
            return Err(damaged);
        }
        let wanted = (self.range.end - self.range.start).min(holds - skip as u64);
        self.range.start += wanted;
        self.settle();
        Ok(stored.slice(CRC + skip..CRC + skip + wanted as usize))
    }
}
