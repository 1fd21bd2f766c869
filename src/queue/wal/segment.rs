//! Segment files: their names, how one is prepared, and reading records of it.

use super::{
    RecordKind, WalError,
    format::{BLOCK, RECORD_HEADER, RecordHeader, SegmentHeader, SegmentId, uuid_crc},
};
use crate::{
    fs::{DIRECT_BLOCK, File, Fs},
    queue::Position,
};
use bytes::Bytes;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Zeros are written in pieces of this size …
const FILL_BYTES: usize = 1 << 20;
/// … and synced at least this often, so that a fill never holds up a group commit for long.
const FILL_SYNC_BYTES: u64 = 8 << 20;

/// What a file in the log's folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// A segment.
    Segment(u64),
    /// A segment that was being prepared; holds nothing.
    Unfinished(u64),
    /// A trimmed segment that was damaged; kept for people.
    Damaged(u64),
}

impl Name {
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, kind) = name.split_once('.')?;
        if digits.len() != 20 {
            return None;
        }
        let ordinal = digits.parse().ok()?;
        match kind {
            "seg" => Some(Self::Segment(ordinal)),
            "seg.new" => Some(Self::Unfinished(ordinal)),
            "seg.damaged" => Some(Self::Damaged(ordinal)),
            _ => None,
        }
    }

    pub fn ordinal(self) -> u64 {
        match self {
            Self::Segment(ordinal) | Self::Unfinished(ordinal) | Self::Damaged(ordinal) => ordinal,
        }
    }

    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            Self::Segment(ordinal) => format!("{ordinal:020}.seg"),
            Self::Unfinished(ordinal) => format!("{ordinal:020}.seg.new"),
            Self::Damaged(ordinal) => format!("{ordinal:020}.seg.damaged"),
        })
    }
}

/// A segment's file, open.
pub(super) struct Segment {
    pub id: SegmentId,
    pub file: Arc<dyn File>,
    pub length: u64,
    /// Nothing at or past this offset is shown.
    pub synced_upto: AtomicU64,
    pub damaged: AtomicBool,
}

impl Segment {
    pub fn new(id: SegmentId, file: Arc<dyn File>, length: u64, synced_upto: u64) -> Self {
        Self {
            id,
            file,
            length,
            synced_upto: AtomicU64::new(synced_upto),
            damaged: AtomicBool::new(false),
        }
    }

    /// Makes a segment full of zeros with its header, synced, under its final name. Leaves nothing behind on an error.
    pub fn prepare(fs: &dyn Fs, dir: &Path, header: &SegmentHeader) -> io::Result<Self> {
        // A full volume is left alone: what is left may be what a flush needs to make room.
        if fs.space(dir)?.available < header.length {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let unfinished = Name::Unfinished(header.id.ordinal).path(dir);
        let prepared = fill(fs, &unfinished, header).and_then(|file| {
            fs.rename(&unfinished, &Name::Segment(header.id.ordinal).path(dir))?;
            fs.sync_dir(dir)?;
            Ok(file)
        });
        match prepared {
            Ok(file) => Ok(Self::new(header.id, file, header.length, BLOCK)),
            Err(e) => {
                for name in [unfinished, Name::Segment(header.id.ordinal).path(dir)] {
                    // The error that counts is the first one; what cannot be removed is removed by the next start.
                    let _ = fs.remove(&name);
                }
                Err(e)
            }
        }
    }

    /// Reads the record at `at`, if it is durable and undamaged.
    pub fn read(&self, at: Position) -> Result<(RecordKind, Bytes), WalError> {
        let (offset, synced) = (u64::from(at.offset), self.synced_upto.load(Ordering::Acquire));
        if offset < BLOCK || offset + RECORD_HEADER as u64 > synced {
            return Err(WalError::NotHere { at });
        }
        let failed = |e| WalError::io("cannot read a record of the log", e);
        let mut head = [0; RECORD_HEADER];
        self.file.read_at(&mut head, offset).map_err(failed)?;
        let head = RecordHeader::parse(&head).expect("a whole header was read");
        if head.is_blank() {
            return Err(WalError::NotHere { at });
        }
        let from = offset + RECORD_HEADER as u64;
        if from + head.len as u64 > synced {
            return Err(WalError::Damaged { at });
        }
        let mut body = vec![0; head.len];
        self.file.read_at(&mut body, from).map_err(failed)?;
        let tag = head.check(&body, uuid_crc(self.id.uuid), offset);
        match tag.and_then(|tag| tag.kind()) {
            Some(kind) => Ok((kind, Bytes::from(body))),
            None => Err(WalError::Damaged { at }),
        }
    }
}

fn fill(fs: &dyn Fs, path: &Path, header: &SegmentHeader) -> io::Result<Arc<dyn File>> {
    let file = fs.create_direct(path)?;
    let memory = vec![0; FILL_BYTES.min(header.length as usize) + DIRECT_BLOCK];
    let zeros = &memory[memory.as_ptr().align_offset(DIRECT_BLOCK)..][..memory.len() - DIRECT_BLOCK];
    let mut at = 0;
    while at < header.length {
        let piece = (header.length - at).min(zeros.len() as u64);
        file.write_at(&zeros[..piece as usize], at)?;
        at += piece;
        if at % FILL_SYNC_BYTES == 0 {
            file.sync()?;
        }
    }
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    Ok(file)
}
