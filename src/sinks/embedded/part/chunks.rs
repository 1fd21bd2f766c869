//! The data file's checksums: CRC32C of every 16 KiB chunk, kept in the sidecar.
//!
//! Parquet's pages carry no checksum that its writer sets, and a flipped bit in an uncompressed page would simply be
//! another value. So every byte that a reader gets passes here: a chunk is checked when it is first touched, and remembered
//! (one bit per chunk). Decoding therefore never sees damaged bytes. What is not noticed: memory that goes bad after the
//! check; [`super::Part::verify`] checks everything anew.

use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::fs::File;

/// Bytes under one checksum.
pub(super) const CHUNK: usize = 16 << 10;

/// How many chunks a file of `len` bytes has.
pub(super) fn count(len: u64) -> u64 {
    len.div_ceil(CHUNK as u64)
}

/// Writes a new file from its start, in large pieces, and sums up its checksums on the way.
pub(super) struct ChunkWriter {
    file: Arc<dyn File>,
    at: u64,
    buffer: Vec<u8>,
    /// CRC32C of the whole file so far.
    crc: u32,
    chunks: Vec<u32>,
    failed: Option<io::Error>,
}

/// What a written file adds up to.
pub(super) struct Written {
    pub(super) len: u64,
    pub(super) crc: u32,
    pub(super) chunks: Vec<u32>,
}

impl ChunkWriter {
    const BUFFER: usize = 16 * CHUNK;

    pub(super) fn new(file: Arc<dyn File>) -> Self {
        Self {
            file,
            at: 0,
            buffer: Vec::with_capacity(Self::BUFFER),
            crc: 0,
            chunks: Vec::new(),
            failed: None,
        }
    }

    /// The first error of the file system: Parquet's own error hides its kind.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// Writes what is left and makes the file durable.
    pub(super) fn finish(mut self) -> io::Result<Written> {
        self.write_out()?;
        self.file.sync()?;
        Ok(Written {
            len: self.at,
            crc: self.crc,
            chunks: self.chunks,
        })
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        for chunk in self.buffer.chunks(CHUNK) {
            // Reading the chunk twice is cheaper than combining two checksums.
            self.crc = crc32c::crc32c_append(self.crc, chunk);
            self.chunks.push(crc32c::crc32c(chunk));
        }
        self.buffer.clear();
        Ok(())
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(Self::BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == Self::BUFFER
            && let Err(e) = self.write_out()
        {
            let again = io::Error::new(e.kind(), e.to_string());
            self.failed.get_or_insert(e);
            return Err(again);
        }
        Ok(take)
    }

    /// Does nothing: a chunk must be whole before it is written, and durability comes with [`ChunkWriter::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A mapped data file whose chunks are checked before they are read. Cheap to clone.
#[derive(Clone)]
pub(super) struct CheckedBytes(Arc<Checked>);

struct Checked {
    data: Bytes,
    /// One little-endian CRC32C per chunk.
    crcs: Bytes,
    /// One bit per chunk: it was checked.
    good: Box<[AtomicU64]>,
}

impl CheckedBytes {
    /// `crcs` holds four bytes for each chunk of `data`.
    pub(super) fn new(data: Bytes, crcs: Bytes) -> Self {
        let words = count(data.len() as u64).div_ceil(64) as usize;
        Self(Arc::new(Checked {
            data,
            crcs,
            good: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }))
    }

    /// Heap bytes.
    pub(super) fn memory(&self) -> usize {
        8 * self.0.good.len()
    }

    /// The bytes as they are, unchecked.
    pub(super) fn raw(&self) -> &Bytes {
        &self.0.data
    }

    /// Checks every chunk again, whatever is remembered. The number of the first bad one.
    pub(super) fn first_bad_chunk(&self) -> Option<usize> {
        (0..count(self.0.data.len() as u64) as usize).find(|i| !self.0.fits(*i))
    }

    fn slice(&self, start: u64, len: usize) -> Result<Bytes, ParquetError> {
        let data = &self.0.data;
        let end = usize::try_from(start).ok().and_then(|s| s.checked_add(len)).filter(|end| *end <= data.len());
        let Some(end) = end else {
            return Err(ParquetError::EOF(format!("bytes {start}+{len} of {}", data.len())));
        };
        let start = end - len;
        for i in start / CHUNK..end.div_ceil(CHUNK) {
            self.0.check(i)?;
        }
        Ok(data.slice(start..end))
    }
}

impl Checked {
    fn fits(&self, i: usize) -> bool {
        let end = self.data.len().min((i + 1) * CHUNK);
        let expected = self.crcs.get(4 * i..4 * i + 4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")));
        expected == Some(crc32c::crc32c(&self.data[i * CHUNK..end]))
    }

    fn check(&self, i: usize) -> Result<(), ParquetError> {
        let (word, bit) = (&self.good[i / 64], 1 << (i % 64));
        // Relaxed: the bit guards no other memory; at worst a chunk is checked twice.
        if word.load(Relaxed) & bit == 0 {
            if !self.fits(i) {
                return Err(ParquetError::General(format!("the checksum of bytes {}+{CHUNK} does not fit", i * CHUNK)));
            }
            word.fetch_or(bit, Relaxed);
        }
        Ok(())
    }
}

impl Length for CheckedBytes {
    fn len(&self) -> u64 {
        self.0.data.len() as u64
    }
}

impl ChunkReader for CheckedBytes {
    type T = CheckedReader;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(CheckedReader {
            bytes: self.clone(),
            at: start,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.slice(start, length)
    }
}

/// Reads on from a place, checking each chunk as it comes.
pub(super) struct CheckedReader {
    bytes: CheckedBytes,
    at: u64,
}

impl Read for CheckedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.len().saturating_sub(self.at);
        let in_chunk = CHUNK as u64 - self.at % CHUNK as u64;
        let len = left.min(in_chunk).min(into.len() as u64) as usize;
        let bytes = self.bytes.slice(self.at, len).map_err(io::Error::other)?;
        into[..len].copy_from_slice(&bytes);
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(data: &[u8], good: &[u8]) -> CheckedBytes {
        let crcs: Vec<u8> = good.chunks(CHUNK).flat_map(|c| crc32c::crc32c(c).to_le_bytes()).collect();
        CheckedBytes::new(Bytes::copy_from_slice(data), crcs.into())
    }

    #[test]
    fn a_bad_chunk_fails_every_read_that_touches_it_and_no_other() {
        let good: Vec<u8> = (0..3 * CHUNK + 5).map(|i| (i * 7) as u8).collect();
        let mut bad = good.clone();
        bad[CHUNK + 9] ^= 1;
        let bytes = checked(&bad, &good);
        assert!(bytes.get_bytes(0, CHUNK).is_ok());
        assert!(bytes.get_bytes(0, CHUNK + 1).is_err());
        assert!(bytes.get_bytes(2 * CHUNK as u64, CHUNK + 5).is_ok());
        assert!(bytes.get_bytes(2 * CHUNK as u64, CHUNK + 6).is_err(), "beyond the end");
        assert!(bytes.get_bytes(u64::MAX, 2).is_err());
        let mut all = Vec::new();
        assert!(bytes.get_read(3).unwrap().read_to_end(&mut all).is_err());
        assert_eq!(all, good[3..CHUNK]);
        assert_eq!(bytes.first_bad_chunk(), Some(1));
        assert_eq!(checked(&good, &good).first_bad_chunk(), None);
    }
}
