//! The write-ahead log: packs and seals, durable before anybody hears of them.
//!
//! ```text
//! append ─▶ lanes (round-robin, seals first) ─▶ sync thread: one group = one write + one fdatasync ─▶ Append resolves
//!                                                    ▲ next segment, zero-filled and synced ahead ─ prepare thread
//! ```
//!
//! Guarantees:
//! - [`Append`] resolves with a position only after the sync of the group that holds the record returned. Records of one
//!   lane, and seals among themselves, stand in the log in the order of their `append` calls.
//! - One group at a time is unsynced. A group takes one record of each lane in turn up to `group_bytes`, so a lane that
//!   floods does not make others wait; a larger record gets a group, and if need be a segment, of its own size.
//! - After a failed write or sync nothing of that group is believed: the next segment first makes durable where the failed
//!   one ends, then takes the same records from memory. If that fails too, the log is closed: the records in doubt answer
//!   [`WalError::Unknown`], everything else [`WalError::Closed`], and [`Wal::failed`] resolves.
//! - An idle log covers its last group with an empty one within 100 ms.
//! - [`Wal::open`] hands over every record that can still be read, says what cannot, and never appends to an old segment.
//!   Ordinals are not used twice, and a lost end of the log is noticed, as long as one of three is there: the newest segment,
//!   the file `reached`, a right [`WalSettings::min_ordinal`].
//! - Packs are refused while the volume has less than the reserve or no segment can be prepared; seals go on as long as there
//!   is any place for them. Both end by themselves when there is room again.
//! - A damaged segment is never deleted: trimming renames it to `*.seg.damaged` for people to look at and remove.
//!
//! It does not: bound the bytes that wait in its lanes (callers do), know what is inside packs and seals, lock its folder.
//!
//! # Files (little endian)
//!
//! `<ordinal, 20 digits>.seg` is a segment; `.seg.new` one that is being prepared and holds nothing; `.seg.damaged` see above;
//! `reached` says how far the log goes (`reached.rs`).
//! A segment is filled with zeros and synced to its full length, with its header, before it gets its name. It is not reused.
//!
//! | segment header, offset 0 | bytes |
//! |---|---|
//! | magic `SLUICEWS`, version 1 `u32`, 0 `u32` | 16 |
//! | ordinal `u64`, uuid | 24 |
//! | length of the file `u64` | 8 |
//! | ordinal `u64` and uuid of the segment in use when this one was prepared (0: none) | 24 |
//! | CRC32C of the above | 4 |
//!
//! Groups follow from 4096 on, each a multiple of 4096 bytes: header, records, zeros, trailer at the very end.
//!
//! | group header | bytes |
//! |---|---|
//! | magic `SLGR`, version 1 `u16`, flags `u16` (1: a lost seal was not ruled out, and none was made since) | 8 |
//! | ordinal `u64` and uuid of the segment | 24 |
//! | offset of this header `u64`, length of the group `u64`, number in the segment from 0 `u64` | 24 |
//! | synced_upto `u64`: everything below is durable | 8 |
//! | largest seal of the log before this group `u64`, and including it `u64` (0: none) | 16 |
//! | records `u32`, bytes of them with their headers `u32`, 0 `u32` | 12 |
//! | CRC32C of the above | 4 |
//!
//! | record | bytes |
//! |---|---|
//! | length of the body `u32`, kind `u8` (1 pack, 2 seal, 3 end), 0 0 0 | 8 |
//! | CRC32C of the segment's uuid, the record's offset `u64`, the 8 bytes above, the body | 4 |
//! | body; of an end: ordinal `u64`, uuid, offset `u64`: "that segment ends there" | |
//!
//! | trailer | bytes |
//! |---|---|
//! | magic `SLGT`, number `u64`, offset of the group `u64`, last seal `u64`, records `u32`, version 1 `u32` | 36 |
//! | CRC32C of the segment's uuid and the above | 4 |
//!
//! Group 0 of a segment holds the ends of the segments before it and nothing else; it is synced before anything follows.
//! How the end of the log is judged is told in `recovery.rs`.

mod format;
mod lanes;
mod prepare;
mod reached;
mod recovery;
mod room;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use crate::{fs::Fs, queue::Position};
use bytes::Bytes;
use lanes::Item;
use prepare::Wanted;
pub use recovery::{Damage, DamageKind, Discarded, RecoveryReport};
use room::Room;
pub use room::reserve;
use segment::{Name, Segment};
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, atomic::Ordering},
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// The largest record, bytes: far above any pack or seal, far below what an offset can name.
pub const MAX_RECORD_BYTES: usize = 1 << 29;
/// Bounds of a segment, bytes. Offsets in a segment are 32 bits wide.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// A quiet log is covered after this time, well within the promised 100 ms.
const COVER_AFTER: Duration = Duration::from_millis(50);

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An encoded pack.
    Pack,
    /// An encoded seal.
    Seal,
}

/// How the log is laid out.
#[derive(Debug, Clone)]
pub struct WalSettings {
    /// Length of a segment, bytes; at least 1 MiB, at most 1 GiB, and a sixteenth of the volume.
    pub segment_bytes: u64,
    /// Packs join a group up to this many bytes; at most a quarter of a segment.
    pub group_bytes: usize,
    /// Bytes of the volume that packs leave free. `None`: the larger of 5 % and 2 GiB, at most a quarter of the volume.
    pub reserve: Option<u64>,
    /// The largest segment ordinal that is known to have held records (0: nothing is known). New segments get larger ones, and
    /// a folder whose newest segment is older has lost segments.
    pub min_ordinal: u64,
}

impl Default for WalSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            group_bytes: 4 << 20,
            reserve: None,
            min_ordinal: 0,
        }
    }
}

/// Why the log did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// The volume has no room to spare for packs. Nothing was kept.
    #[error("the disk is full: packs are refused until there is room above `disk.reserve`")]
    Full,
    /// The log is closed, or closing. Nothing was kept.
    #[error("the log is closed")]
    Closed,
    /// The record may or may not be durable.
    #[error("it is not known whether the record is durable")]
    Unknown,
    /// The record is larger than [`MAX_RECORD_BYTES`]. Nothing was kept.
    #[error("a record of `{bytes}` bytes exceeds the limit of {MAX_RECORD_BYTES}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// No durable record starts there, or its segment was trimmed.
    #[error("no record at offset `{}` of segment `{}`", .at.offset, .at.segment)]
    NotHere {
        /// Where.
        at: Position,
    },
    /// What stands there is not what was written.
    #[error("the record at offset `{}` of segment `{}` is damaged", .at.offset, .at.segment)]
    Damaged {
        /// Where.
        at: Position,
    },
    /// The file system said no.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        #[source]
        source: Arc<io::Error>,
    },
}

impl WalError {
    fn io(what: &'static str, source: io::Error) -> Self {
        Self::Io {
            what,
            source: Arc::new(source),
        }
    }
}

/// One segment, as [`Wal::segments`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its ordinal.
    pub ordinal: u64,
    /// Its length on disk.
    pub bytes: u64,
    /// New records go here.
    pub is_active: bool,
    /// Recovery found damage in it; trimming will keep the file under another name.
    pub is_damaged: bool,
}

/// The log. Clones are the same log; [`Wal::close`] it, or dropping the last clone syncs what is queued in the background.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the log's threads and its users share.
struct Shared {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    segment_bytes: u64,
    group_bytes: usize,
    state: Mutex<State>,
    /// Wakes the sync thread.
    work: Condvar,
    /// Wakes the prepare thread.
    prepare: Condvar,
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    room: Room,
    failed: watch::Sender<bool>,
}

struct State {
    lanes: lanes::Lanes,
    /// The sync thread waits on `work`.
    asleep: bool,
    /// No more appends; what is queued is still written.
    closing: bool,
    /// The sync thread is gone.
    stopped: bool,
    /// The next segment, to be prepared; taken away when it is ready.
    wanted: Option<Wanted>,
    ready: Option<Segment>,
    /// Prepared segments that turned out too short; never used, to be deleted.
    discard: Vec<u64>,
    /// The last attempt to prepare a segment failed.
    unprepared: bool,
    /// Ordinal of the next segment to be prepared.
    next_ordinal: u64,
    /// The segment that takes records now.
    active: Option<u64>,
}

impl State {
    /// Wakes the sync thread if it sleeps; a system call only then.
    fn wake(&mut self, shared: &Shared) {
        if std::mem::take(&mut self.asleep) {
            shared.work.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while the log's state is locked")
    }

    fn segment(&self, ordinal: u64) -> Option<Arc<Segment>> {
        self.segments
            .read()
            .expect("nothing panics while the segments are locked")
            .get(&ordinal)
            .cloned()
    }
}

impl Wal {
    /// Opens the log in `dir`, making the folder if need be; the caller holds the folder's lock. `visit` gets every valid
    /// record in log order; what it got is durable when this returns. Blocks.
    ///
    /// A full disk is no error: then packs are refused and seals wait until there is room.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        settings: WalSettings,
        visit: &mut dyn FnMut(Position, RecordKind, Bytes),
    ) -> Result<(Self, RecoveryReport), WalError> {
        let recovered = recovery::recover(&*fs, &dir, settings.min_ordinal, visit)?;
        let space = fs.space(&dir).map_err(|e| WalError::io("cannot ask for the room on the volume", e))?;
        let segment_bytes = settings.segment_bytes.min(space.total / 16).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()) & !(format::BLOCK - 1);
        let shared = Arc::new(Shared {
            room: Room::new(reserve(space.total, settings.reserve)),
            fs,
            dir,
            segment_bytes,
            group_bytes: settings.group_bytes.clamp(format::BLOCK as usize, segment_bytes as usize / 4),
            state: Mutex::new(State {
                lanes: lanes::Lanes::default(),
                asleep: false,
                closing: false,
                stopped: false,
                wanted: None,
                ready: None,
                discard: Vec::new(),
                unprepared: false,
                next_ordinal: recovered.next_ordinal,
                active: None,
            }),
            work: Condvar::new(),
            prepare: Condvar::new(),
            segments: RwLock::new(recovered.segments),
            failed: watch::Sender::new(false),
        });
        let writer = writer::Writer::start(
            &shared,
            recovered.ends,
            recovered.follows,
            recovered.last_seal,
            recovered.report.seal_may_be_lost,
        )?;
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(run).map_err(|e| WalError::io("cannot start a thread of the log", e))
        };
        let inner = Inner {
            shared: shared.clone(),
            threads: Mutex::default(),
        };
        let preparing = shared.clone();
        let threads = [
            spawn("wal-prepare", Box::new(move || prepare::run(&preparing)))?,
            spawn("wal-sync", Box::new(move || writer.run()))?,
        ];
        inner.threads.lock().expect("nothing else has it yet").extend(threads);
        Ok((Self { inner: Arc::new(inner) }, recovered.report))
    }

    /// Queues a record, at once and in the order of calls per lane. `lane` is a hash of the tenant; seals pass their number,
    /// ignore the lane and go first in the next group. Never blocks for the disk (but see [`Wal::check_room`], asked for packs).
    ///
    /// Dropping the [`Append`] changes nothing about the record.
    pub fn append(&self, kind: RecordKind, lane: u64, seal: Option<u64>, body: Bytes) -> Append {
        if body.len() > MAX_RECORD_BYTES {
            return Append::refused(WalError::TooLarge { bytes: body.len() });
        }
        if kind == RecordKind::Pack
            && let Err(full) = self.check_room()
        {
            return Append::refused(full);
        }
        let (reply, answer) = oneshot::channel();
        let shared = &self.inner.shared;
        let mut state = shared.lock();
        if state.closing || state.stopped {
            return Append::refused(WalError::Closed);
        }
        state.lanes.push(Item::new(kind, lane, seal.unwrap_or(0), body, reply));
        state.wake(shared);
        drop(state);
        Append(Answer::Later(answer))
    }

    /// The record at `at`. Blocks for the disk; the checksum is checked.
    pub fn read(&self, at: Position) -> Result<(RecordKind, Bytes), WalError> {
        self.inner.shared.segment(at.segment).ok_or(WalError::NotHere { at })?.read(at)
    }

    /// Whether packs are taken now, or [`WalError::Full`]. Cheap: the volume is asked at most once a second.
    pub fn check_room(&self) -> Result<(), WalError> {
        self.inner.shared.check_room()
    }

    /// Every segment, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let active = self.inner.shared.lock().active;
        let segments = self.inner.shared.segments.read().expect("nothing panics while the segments are locked");
        segments
            .iter()
            .map(|(ordinal, segment)| SegmentInfo {
                ordinal: *ordinal,
                bytes: segment.length,
                is_active: active == Some(*ordinal),
                is_damaged: segment.damaged.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Deletes the segments below ordinal `below`, oldest first and durably, never the active one; a damaged one is renamed
    /// instead. Returns the bytes freed. After an error the rest is still there. Blocks.
    pub fn trim(&self, below: u64) -> Result<u64, WalError> {
        let shared = &self.inner.shared;
        let failed = |e| WalError::io("cannot trim the log", e);
        let mut freed = 0;
        loop {
            let active = shared.lock().active;
            let oldest = {
                let segments = shared.segments.read().expect("nothing panics while the segments are locked");
                segments.first_key_value().map(|(ordinal, segment)| (*ordinal, segment.clone()))
            };
            let Some((ordinal, segment)) = oldest.filter(|(ordinal, _)| *ordinal < below && Some(*ordinal) != active) else {
                return Ok(freed);
            };
            let path = Name::Segment(ordinal).path(&shared.dir);
            if segment.damaged.load(Ordering::Relaxed) {
                shared.fs.rename(&path, &Name::Damaged(ordinal).path(&shared.dir)).map_err(failed)?;
            } else {
                match shared.fs.remove(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                    _ => freed += segment.length,
                }
            }
            // One by one: a younger segment that is gone while an older one is there would look like a loss.
            shared.fs.sync_dir(&shared.dir).map_err(failed)?;
            shared.segments.write().expect("nothing panics while the segments are locked").remove(&ordinal);
        }
    }

    /// Refuses new appends, writes and syncs everything queued, and joins the threads. Blocks; again is harmless.
    pub fn close(&self) {
        self.inner.begin_close();
        let threads = std::mem::take(&mut *self.inner.threads.lock().expect("joining does not panic"));
        for thread in threads {
            // A thread that panicked has said so by `failed`.
            let _ = thread.join();
        }
    }

    /// Resolves when the log had to close because neither a segment nor its successor could be written: the process must
    /// stop, with exit code 1. Never resolves otherwise. Cancel-safe.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut failed = self.inner.shared.failed.subscribe();
        async move {
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Reads the log of a folder as [`Wal::open`] does, and opens nothing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn look(fs: &dyn Fs, dir: &std::path::Path, visit: &mut dyn FnMut(Position, RecordKind, Bytes)) -> Result<(), WalError> {
    recovery::recover(fs, dir, 0, visit).map(drop)
}

impl Inner {
    fn begin_close(&self) {
        let mut state = self.shared.lock();
        state.closing = true;
        state.wake(&self.shared);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.begin_close();
    }
}

/// The answer to one [`Wal::append`]; resolves after the sync of its group. Dropping it does not take the record back.
#[must_use = "a record counts only when this has resolved"]
pub struct Append(Answer);

enum Answer {
    Now(Option<WalError>),
    Later(oneshot::Receiver<Result<Position, WalError>>),
}

impl Append {
    fn refused(error: WalError) -> Self {
        Self(Answer::Now(Some(error)))
    }

    /// Blocks until it is resolved; not for async code.
    pub fn wait(self) -> Result<Position, WalError> {
        match self.0 {
            Answer::Now(error) => Err(error.unwrap_or(WalError::Unknown)),
            Answer::Later(answer) => answer.blocking_recv().unwrap_or(Err(WalError::Unknown)),
        }
    }
}

impl Future for Append {
    type Output = Result<Position, WalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Now(error) => Poll::Ready(Err(error.take().unwrap_or(WalError::Unknown))),
            Answer::Later(answer) => Pin::new(answer).poll(context).map(|answer| answer.unwrap_or(Err(WalError::Unknown))),
        }
    }
}
