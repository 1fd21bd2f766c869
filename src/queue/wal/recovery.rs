//! Reading the log back: what is valid, what is torn, what is damaged.
//!
//! A group is believed if header, records, padding and trailer are what was written. Where one is not:
//! - **Torn**: it was cut short, its sync had not returned, nobody heard of it. That is so only for the last group, and only
//!   if the place of its trailer (by its header's length; with a bad header, the end of the last block that is not zero)
//!   holds zeros. It is dropped whole and its size reported.
//! - **Damage** is everything else: a trailer stands there; a valid group follows (one group at a time is unsynced); a later
//!   segment says that this one ends further on; the file is short, cannot be read, or is missing. Its records that are still
//!   valid are handed over, since it was synced, and the scan goes on at the next 4 KiB boundary with a valid header.
//! - What stands past the end that a later segment states was never acknowledged (failed sync, torn end of an earlier run):
//!   it is dropped and its size reported, at every start until the segment is trimmed.
//!
//! A seal may be lost if damage is not ruled out as its grave: groups carry the largest seal before and including them, so
//! damage between two groups that agree lost none. The doubt stays, through restarts, until a seal is made after it.
//!
//! The last group of a segment whose end nobody states may have failed to sync in a process that then died: it reads well,
//! the kernel holds it for clean, and it is not on the disk. It is written again in place, and synced, before it is believed.
//!
//! Damaged files stay as they are, are reported at every start, and are renamed, not deleted, when they are trimmed.

use super::{
    RecordKind, WalError,
    format::{BLOCK, End, GROUP_HEADER, GroupHeader, RECORD_HEADER, RecordHeader, SegmentHeader, SegmentId, TRAILER, Tag, Trailer, uuid_crc},
    reached,
    segment::{Name, Segment},
};
use crate::{
    fs::{File, Fs},
    queue::Position,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use uuid::Uuid;

/// Files are read in pieces of this size; where one cannot be read, block by block.
const READ_BYTES: usize = 1 << 20;
/// More seals than the log holds at any time: each takes a group of its own, of a block at least.
const SEALS_OF_A_LOST_END: u64 = 1 << 20;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// What is wrong with a range of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// The first block of the file.
    SegmentHeader,
    /// No valid group starts there, although one did.
    Group,
    /// A group's header is good; a record, its padding or its trailer is not.
    Contents,
    /// The file ends too early.
    Short,
    /// The disk cannot read it.
    Unreadable,
    /// The file is not there.
    Missing,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SegmentHeader => "the header of the segment is damaged",
            Self::Group => "groups are damaged",
            Self::Contents => "the contents of a group are damaged",
            Self::Short => "the file is shorter than it was",
            Self::Unreadable => "the disk cannot read it",
            Self::Missing => "the segment is missing",
        })
    }
}

/// One damaged place. Records in it that are still valid were handed over all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Ordinal of the segment.
    pub segment: u64,
    /// Bytes of its file; empty for a missing file.
    pub range: Range<u64>,
    /// What is wrong.
    pub kind: DamageKind,
}

/// Bytes that are not zero and were dropped: nobody was told that they are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    /// Ordinal of the segment.
    pub segment: u64,
    /// Bytes of its file.
    pub range: Range<u64>,
}

/// What a start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Every damaged place, in log order.
    pub damage: Vec<Damage>,
    /// Every torn or disowned tail, in log order.
    pub discarded: Vec<Discarded>,
    /// Bytes in `discarded`.
    pub torn_bytes: u64,
    /// A seal may be lost: the next one must be a gap seal.
    pub seal_may_be_lost: bool,
    /// Largest seal that any header or trailer names, torn ones included; 0 if none does. If the end of the log is missing,
    /// a larger number than any lost seal has.
    pub largest_seal_named: u64,
    /// Segments that held something.
    pub segments: usize,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Records handed over.
    pub records: u64,
}

/// What the log goes on from.
pub(super) struct Recovered {
    pub segments: BTreeMap<u64, Arc<Segment>>,
    /// Ends that the next opening group must state.
    pub ends: Vec<End>,
    pub follows: Option<SegmentId>,
    pub last_seal: u64,
    pub next_ordinal: u64,
    pub report: RecoveryReport,
}

/// A segment's file before its contents are judged.
struct Candidate {
    ordinal: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    length: u64,
    header: Option<SegmentHeader>,
}

/// "That segment ends there", and whether the group that says so is whole.
#[derive(Clone, Copy)]
struct Stated {
    upto: u64,
    sound: bool,
}

pub(super) fn recover(fs: &dyn Fs, dir: &Path, min_ordinal: u64, visit: &mut dyn FnMut(Position, RecordKind, Bytes)) -> Result<Recovered, WalError> {
    let failed = |e| WalError::io("cannot read the folder of the log", e);
    fs.create_dir(dir).map_err(failed)?;
    let min_ordinal = min_ordinal.max(reached::read(fs, dir));
    let names: Vec<Name> = fs.list(dir).map_err(failed)?.iter().filter_map(|name| Name::parse(name)).collect();
    let next_ordinal = names.iter().map(|name| name.ordinal()).fold(min_ordinal, u64::max) + 1;
    let mut useless: Vec<PathBuf> = names
        .iter()
        .filter(|name| matches!(name, Name::Unfinished(_)))
        .map(|name| name.path(dir))
        .collect();
    let mut candidates = Vec::new();
    let mut ends = BTreeMap::new();
    for name in names {
        if let Name::Segment(ordinal) = name {
            let candidate = Candidate::open(fs, dir, ordinal).map_err(|e| WalError::io("cannot open a segment of the log", e))?;
            candidate.read_ends(&mut ends);
            candidates.push(candidate);
        }
    }
    let mut scan = Scan::new(visit);
    for candidate in candidates {
        let stated = ends.get(&candidate.ordinal).copied();
        let image = Image::load(&candidate, stated).map_err(|e| WalError::io("cannot read a segment of the log", e))?;
        let unused = candidate.is_unused(&image);
        scan.check_predecessor(&candidate, unused);
        if unused {
            useless.push(candidate.path);
        } else {
            scan.segment(&candidate, &image, stated)?;
        }
    }
    scan.check_newest(min_ordinal);
    for path in useless {
        fs.remove(&path).map_err(|e| WalError::io("cannot remove an unused segment", e))?;
    }
    fs.sync_dir(dir).map_err(failed)?;
    Ok(scan.finish(next_ordinal))
}

impl Candidate {
    fn open(fs: &dyn Fs, dir: &Path, ordinal: u64) -> io::Result<Self> {
        let path = Name::Segment(ordinal).path(dir);
        let file = fs.open(&path)?;
        let length = file.len()?;
        let mut block = [0; BLOCK as usize];
        let header = file.read_at(&mut block, 0).ok().and_then(|()| SegmentHeader::decode(&block));
        Ok(Self {
            ordinal,
            path,
            file,
            length,
            header: header.filter(|header| header.id.ordinal == ordinal),
        })
    }

    /// Notes which segments the opening group says have ended. An end record is true whenever it can be read, since it is
    /// written only when that segment is done with.
    fn read_ends(&self, ends: &mut BTreeMap<u64, Stated>) {
        let mut bytes = vec![0; (2 * BLOCK) as usize];
        if self.file.read_at(&mut bytes, 0).is_err() {
            return;
        }
        let group = GroupHeader::decode(&bytes[BLOCK as usize..]).filter(|group| group.segment.ordinal == self.ordinal && group.offset == BLOCK);
        let Some(id) = self.header.map(|header| header.id).or(group.map(|group| group.segment)) else {
            return;
        };
        if let Some(group) = group
            && group.length > BLOCK
            && BLOCK + group.length <= self.length
        {
            bytes.resize((BLOCK + group.length) as usize, 0);
            if self.file.read_at(&mut bytes, 0).is_err() {
                return;
            }
        }
        let image = Image::new(id, bytes, None);
        let (records, sound) = match group {
            Some(group) => {
                let found = image.check(&group);
                (found.records, found.sound)
            }
            None => (image.walk(BLOCK, image.len() - TRAILER as u64).0, false),
        };
        for record in records.iter().filter(|record| record.tag == Tag::End) {
            if let Some(end) = End::decode(&image.bytes[record.body.clone()]) {
                let known = ends.entry(end.segment.ordinal).or_insert(Stated { upto: end.upto, sound });
                known.sound |= sound;
            }
        }
    }

    /// It was prepared and never written to.
    fn is_unused(&self, image: &Image) -> bool {
        self.header.is_some_and(|header| header.length == self.length) && image.unreadable.is_empty() && image.used_upto(BLOCK).is_none()
    }
}

/// A record found.
struct Record {
    offset: u64,
    tag: Tag,
    body: Range<usize>,
}

/// A group whose header is good.
struct Checked {
    records: Vec<Record>,
    /// All its records are there.
    complete: bool,
    /// It is exactly what was written.
    sound: bool,
    /// The place of its trailer holds zeros.
    cut: bool,
}

/// The bytes of a segment.
struct Image {
    id: SegmentId,
    uuid_crc: u32,
    bytes: Vec<u8>,
    /// The stated end, or else the end of the file.
    limit: u64,
    /// A later segment says where this one ends.
    is_stated: bool,
    /// Ranges that could not be read; zeros here.
    unreadable: Vec<Range<u64>>,
    /// The end cannot be torn: it is stated, or the file is short or unreadable somewhere.
    certain: bool,
}

impl Image {
    fn new(id: SegmentId, bytes: Vec<u8>, stated: Option<u64>) -> Self {
        Self {
            id,
            uuid_crc: uuid_crc(id.uuid),
            limit: stated.unwrap_or(u64::MAX).min(bytes.len() as u64),
            bytes,
            is_stated: stated.is_some(),
            unreadable: Vec::new(),
            certain: stated.is_some(),
        }
    }

    fn load(candidate: &Candidate, stated: Option<Stated>) -> io::Result<Self> {
        let length = usize::try_from(candidate.length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        let mut unreadable = Vec::new();
        for from in (0..length).step_by(READ_BYTES) {
            let piece = from..(from + READ_BYTES).min(length);
            if candidate.file.read_at(&mut bytes[piece.clone()], from as u64).is_ok() {
                continue;
            }
            for at in piece.clone().step_by(BLOCK as usize) {
                let block = at..(at + BLOCK as usize).min(piece.end);
                if candidate.file.read_at(&mut bytes[block.clone()], at as u64).is_err() {
                    bytes[block.clone()].fill(0);
                    unreadable.push(block.start as u64..block.end as u64);
                }
            }
        }
        let id = candidate.header.map(|header| header.id).or_else(|| {
            let mut headers = (BLOCK as usize..length)
                .step_by(BLOCK as usize)
                .filter_map(|at| Some((at, GroupHeader::decode(&bytes[at..])?)));
            headers
                .find(|(at, header)| header.segment.ordinal == candidate.ordinal && header.offset == *at as u64)
                .map(|(_, header)| header.segment)
        });
        let nobody = SegmentId {
            ordinal: candidate.ordinal,
            uuid: Uuid::nil(),
        };
        let mut image = Self::new(id.unwrap_or(nobody), bytes, stated.map(|stated| stated.upto));
        image.certain |= !unreadable.is_empty() || candidate.header.is_some_and(|header| candidate.length < header.length);
        image.unreadable = unreadable;
        Ok(image)
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[range.start.min(self.len()) as usize..range.end.min(self.len()) as usize]
    }

    /// The end of the last block from `from` on that is not all zeros.
    fn used_upto(&self, from: u64) -> Option<u64> {
        let blocks = (from as usize..self.bytes.len()).step_by(BLOCK as usize).rev();
        let last = blocks.map(|at| at as u64).find(|at| !self.is_blank(*at..at + BLOCK))?;
        Some((last + BLOCK).min(self.len()))
    }

    fn group(&self, at: u64) -> Option<GroupHeader> {
        GroupHeader::decode(self.slice(at..at + GROUP_HEADER as u64)).filter(|header| header.is_at(self.id, at))
    }

    /// The first block from `from` on, inside the believed part, at which a valid group starts.
    fn next_group(&self, from: u64) -> Option<u64> {
        (from..self.limit).step_by(BLOCK as usize).find(|at| self.group(*at).is_some())
    }

    fn trailer(&self, end: u64) -> Option<Trailer> {
        Trailer::decode(self.slice(end.checked_sub(TRAILER as u64)?..end), self.id)
    }

    fn is_blank(&self, range: Range<u64>) -> bool {
        self.slice(range).chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
    }

    /// The valid records of the group at `at`, whose records end at or before `end`, and whether anything bad was met. Behind a
    /// bad record its length, which may be what is wrong, leads on; what follows is believed only by its own checksum.
    fn walk(&self, at: u64, end: u64) -> (Vec<Record>, bool) {
        let (mut records, mut bad) = (Vec::new(), false);
        let (mut place, end) = (at + GROUP_HEADER as u64, end.min(self.len()));
        while let Some(header) = RecordHeader::parse(self.slice(place..end)).filter(|header| !header.is_blank()) {
            let body = place + RECORD_HEADER as u64..place + (RECORD_HEADER + header.len) as u64;
            if body.end > end {
                return (records, true);
            }
            match header.check(self.slice(body.clone()), self.uuid_crc, place) {
                Some(tag) => records.push(Record {
                    offset: place,
                    tag,
                    body: body.start as usize..body.end as usize,
                }),
                None => bad = true,
            }
            place = body.end;
        }
        (records, bad || !self.is_blank(place..end))
    }

    fn check(&self, header: &GroupHeader) -> Checked {
        let end = header.offset + header.length;
        let records_end = header.offset + GROUP_HEADER as u64 + u64::from(header.used);
        let trailer_at = end - TRAILER as u64;
        let (records, bad) = self.walk(header.offset, records_end);
        let complete = !bad && records.len() == header.records as usize;
        let trailer = Trailer {
            number: header.number,
            offset: header.offset,
            last_seal: header.last_seal,
            records: header.records,
        };
        Checked {
            records,
            complete,
            sound: complete && self.is_blank(records_end..trailer_at) && self.trailer(end) == Some(trailer),
            cut: end <= self.len() && self.is_blank(trailer_at..end),
        }
    }
}

/// Whether a seal may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// Damage; the next group tells whether a seal was in it.
    Pending,
    /// A seal is lost, or nobody can tell.
    Lost,
    /// An earlier start had doubts; the first seal made since ends them.
    Earlier,
}

struct Seals {
    /// Largest seal in the groups believed so far.
    seen: Option<u64>,
    named: u64,
    doubt: Doubt,
}

impl Seals {
    fn damage(&mut self) {
        self.doubt = match self.doubt {
            Doubt::None => Doubt::Pending,
            Doubt::Earlier => Doubt::Lost,
            doubt => doubt,
        };
    }

    fn group(&mut self, header: &GroupHeader, complete: bool) {
        let agrees = self.seen.is_none_or(|seen| seen == header.seals_before);
        self.doubt = match self.doubt {
            Doubt::Pending if self.seen.is_some() && agrees => Doubt::None,
            Doubt::Pending => Doubt::Lost,
            Doubt::None if !agrees => Doubt::Lost,
            doubt => doubt,
        };
        if header.doubt {
            self.doubt = Doubt::Earlier;
        }
        if header.last_seal > header.seals_before {
            match (complete, self.doubt) {
                (false, _) => self.doubt = Doubt::Lost,
                (true, Doubt::Earlier) => self.doubt = Doubt::None,
                (true, _) => {}
            }
        }
        self.seen = Some(header.last_seal.max(self.seen.unwrap_or(0)));
        self.named = self.named.max(header.last_seal);
    }

    /// A group without a valid header. `trailer` is its own; `complete`: all its records are there.
    fn headless(&mut self, opening: bool, trailer: Option<Trailer>, complete: bool) {
        let last = trailer.map_or(0, |trailer| trailer.last_seal);
        self.named = self.named.max(last);
        match trailer {
            _ if opening => self.doubt = Doubt::Lost, // what it said about earlier doubts is gone
            None => self.damage(),
            Some(_) if self.seen == Some(last) => {} // no seal was in it
            Some(_) if complete && self.seen.is_some() && self.doubt != Doubt::Pending => self.seen = Some(last),
            Some(_) => self.doubt = Doubt::Lost,
        }
    }
}

struct Scan<'a> {
    visit: &'a mut dyn FnMut(Position, RecordKind, Bytes),
    segments: BTreeMap<u64, Arc<Segment>>,
    ends: Vec<End>,
    follows: Option<SegmentId>,
    seals: Seals,
    report: RecoveryReport,
}

impl<'a> Scan<'a> {
    fn new(visit: &'a mut dyn FnMut(Position, RecordKind, Bytes)) -> Self {
        Self {
            visit,
            segments: BTreeMap::new(),
            ends: Vec::new(),
            follows: None,
            seals: Seals {
                seen: None,
                named: 0,
                doubt: Doubt::None,
            },
            report: RecoveryReport::default(),
        }
    }

    /// The segment that this one was prepared after must be there, unless it was trimmed. (An unused one was prepared after
    /// the active segment, which is never trimmed.)
    fn check_predecessor(&mut self, candidate: &Candidate, unused: bool) {
        let Some(before) = candidate.header.and_then(|header| header.follows) else {
            return;
        };
        let oldest = self.segments.keys().next().copied();
        let trimmed = !unused && oldest.is_none_or(|oldest| before.ordinal < oldest);
        let found = self
            .segments
            .get(&before.ordinal)
            .is_some_and(|segment| segment.id.uuid == before.uuid || segment.id.uuid.is_nil());
        if !found && !trimmed {
            self.damage(before.ordinal, 0..0, DamageKind::Missing);
            self.seals.damage();
        }
    }

    /// Whether the end of the log is there: segment `min_ordinal` was in use.
    fn check_newest(&mut self, min_ordinal: u64) {
        if self.segments.keys().next_back().copied().unwrap_or(0) < min_ordinal {
            self.damage(min_ordinal, 0..0, DamageKind::Missing);
            self.seals.damage();
            // How many seals were there is not known; their numbers must not be used again.
            self.seals.named += SEALS_OF_A_LOST_END;
        }
    }

    fn damage(&mut self, segment: u64, range: Range<u64>, kind: DamageKind) {
        tracing::error!(segment, from = range.start, to = range.end, "damage in the log: {kind}");
        self.report.damage.push(Damage { segment, range, kind });
    }

    fn discard(&mut self, segment: u64, range: Range<u64>) {
        tracing::warn!(
            segment,
            from = range.start,
            to = range.end,
            "dropped a tail of the log that was never acknowledged"
        );
        self.report.torn_bytes += range.end - range.start;
        self.report.discarded.push(Discarded { segment, range });
    }

    /// Judges one segment and hands its records over.
    fn segment(&mut self, candidate: &Candidate, image: &Image, stated: Option<Stated>) -> Result<(), WalError> {
        let (ordinal, before) = (candidate.ordinal, self.report.damage.len());
        if candidate.header.is_none() || !image.is_blank(SegmentHeader::LEN as u64..BLOCK) {
            self.damage(ordinal, 0..BLOCK.min(image.len()), DamageKind::SegmentHeader);
        }
        let (end, last) = self.groups(image);
        for range in &image.unreadable {
            self.damage(ordinal, range.clone(), DamageKind::Unreadable);
            self.seals.damage();
        }
        let length = candidate.header.map_or(stated.map_or(0, |stated| stated.upto), |header| header.length);
        if image.len() < length {
            self.damage(ordinal, image.len()..length, DamageKind::Short);
            self.seals.damage();
        } else if candidate.header.is_none() && stated.is_none() {
            self.seals.damage(); // how long it was is not known
        }
        let rewritten = match (stated, last) {
            (Some(Stated { sound: true, .. }), _) | (_, None) => Ok(()),
            // Zeros stand in the image for what cannot be read: they are not written over it.
            (_, Some(last)) if image.unreadable.iter().any(|bad| bad.start < last.end && last.start < bad.end) => candidate.file.sync(),
            (_, Some(last)) => {
                let written = candidate.file.write_at(image.slice(last.clone()), last.start);
                written.and_then(|()| candidate.file.sync())
            }
        };
        rewritten.map_err(|e| WalError::io("cannot make the end of the log durable", e))?;
        let damaged = self.report.damage.len() > before;
        if !stated.is_some_and(|stated| stated.sound) {
            self.ends.push(End { segment: image.id, upto: end });
        }
        if end > BLOCK || damaged {
            self.follows = Some(image.id);
        }
        let segment = Segment::new(image.id, candidate.file.clone(), image.len(), end.min(image.len()));
        segment.damaged.store(damaged, Ordering::Relaxed);
        self.segments.insert(ordinal, Arc::new(segment));
        self.report.segments += 1;
        self.report.bytes += image.len();
        Ok(())
    }

    /// Goes through the groups of a segment: where the believed part ends, and the range of its last group.
    fn groups(&mut self, image: &Image) -> (u64, Option<Range<u64>>) {
        let (ordinal, mut at, mut last) = (image.id.ordinal, BLOCK, None);
        while at < image.limit {
            let next = match image.group(at) {
                Some(header) => self.group(image, &header),
                None => self.headless(image, at),
            };
            let Some(next) = next else { break };
            last = Some(at..next.min(image.len()));
            at = next;
        }
        if let Some(used) = image.used_upto(at) {
            self.discard(ordinal, at..used);
        }
        (at, last)
    }

    /// A group with a good header; where the next one starts, or `None` if this one is torn.
    fn group(&mut self, image: &Image, header: &GroupHeader) -> Option<u64> {
        let range = header.offset..header.offset + header.length;
        let checked = image.check(header);
        if !checked.sound {
            if checked.cut && !image.certain && image.next_group(range.end).is_none() {
                self.report.largest_seal_named = self.report.largest_seal_named.max(header.last_seal);
                return None;
            }
            self.damage(image.id.ordinal, range.start..range.end.min(image.len()), DamageKind::Contents);
        }
        self.seals.group(header, checked.complete);
        self.hand_over(image, &checked.records);
        Some(range.end)
    }

    /// A place where a group should start and no valid header stands; where the scan goes on, or `None` if the log ends here.
    fn headless(&mut self, image: &Image, at: u64) -> Option<u64> {
        let used = image.used_upto(at);
        let beyond = image.next_group(at + BLOCK);
        let region = match (beyond, used) {
            (Some(next), _) => at..next,
            _ if image.is_stated => at..image.limit,
            (None, None) => return None,
            (None, Some(used)) if !image.certain && image.is_blank(used.saturating_sub(TRAILER as u64)..used) => return None,
            (None, Some(used)) => at..used,
        };
        let blocks = (at + BLOCK..=region.end).step_by(BLOCK as usize);
        let own = blocks
            .filter_map(|end| Some((end, image.trailer(end)?)))
            .find(|(_, trailer)| trailer.offset == at);
        let (end, trailer) = own.map_or((region.end, None), |(end, trailer)| (end, Some(trailer)));
        self.damage(image.id.ordinal, at..end, DamageKind::Group);
        let (records, bad) = image.walk(at, end.saturating_sub(TRAILER as u64));
        let complete = !bad && trailer.is_some_and(|trailer| trailer.records as usize == records.len());
        self.seals.headless(at == BLOCK, trailer, complete);
        self.hand_over(image, &records);
        Some(end)
    }

    fn hand_over(&mut self, image: &Image, records: &[Record]) {
        for record in records {
            if let Some(kind) = record.tag.kind() {
                let at = Position {
                    segment: image.id.ordinal,
                    offset: record.offset as u32,
                };
                self.report.records += 1;
                (self.visit)(at, kind, Bytes::copy_from_slice(&image.bytes[record.body.clone()]));
            }
        }
    }

    fn finish(mut self, next_ordinal: u64) -> Recovered {
        self.report.seal_may_be_lost = self.seals.doubt != Doubt::None;
        self.report.largest_seal_named = self.report.largest_seal_named.max(self.seals.named);
        Recovered {
            segments: self.segments,
            ends: self.ends,
            follows: self.follows,
            last_seal: self.seals.named,
            next_ordinal,
            report: self.report,
        }
    }
}
