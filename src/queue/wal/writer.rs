//! The sync thread: takes what waits as one group, writes it, syncs it, answers; moves on to the next segment.

use super::{
    COVER_AFTER, Shared, WalError,
    format::{BLOCK, END, End, GroupBuilder, RECORD_HEADER, SegmentId, Tag, group_len},
    lanes::{Budget, Item},
    prepare::{self, Wanted},
    reached,
    segment::Segment,
};
use crate::{queue::Position, telemetry::metrics::metrics};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

/// Packs leave this much of a segment free while no next one is ready, so that seals can go on when the disk is full.
const SEAL_ROOM: u64 = 1 << 20;

pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    builder: GroupBuilder,
    /// Ends of segments that no durable opening group names yet.
    ends: Vec<End>,
    /// The newest segment with a durable group.
    follows: Option<SegmentId>,
    /// Largest seal of the log.
    last_seal: u64,
    /// A lost seal was not ruled out, and none was made since.
    doubt: bool,
}

struct Active {
    segment: Arc<Segment>,
    /// Where the next group goes; everything below is durable.
    offset: u64,
    /// Its number.
    number: u64,
    /// The last group holds no records, so that nothing is lost if it is taken for a torn one.
    covered: bool,
}

enum Job {
    Group,
    Cover,
    Switch(Segment),
    Stop,
}

impl Writer {
    /// Makes the first segment of this run. A full disk is no error: then there is none yet.
    pub fn start(shared: &Arc<Shared>, ends: Vec<End>, follows: Option<SegmentId>, last_seal: u64, doubt: bool) -> Result<Self, WalError> {
        let mut writer = Self {
            shared: shared.clone(),
            active: None,
            builder: GroupBuilder::new(),
            ends,
            follows,
            last_seal,
            doubt,
        };
        let (ordinal, wanted) = (shared.lock().next_ordinal, writer.wanted(0));
        match prepare::attempt(shared, ordinal, wanted) {
            Ok(segment) => {
                shared.lock().next_ordinal += 1;
                writer
                    .advance(segment)
                    .map_err(|e| WalError::io("cannot write the first group of a new segment", e))?;
            }
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                let mut state = shared.lock();
                state.want(wanted);
                state.unprepared = true;
                drop(state);
                shared.room_changed();
            }
            Err(e) => return Err(WalError::io("cannot make a segment of the log", e)),
        }
        Ok(writer)
    }

    /// The thread.
    pub fn run(mut self) {
        let _stop = Stop(self.shared.clone());
        let mut items = Vec::new();
        loop {
            let goes_on = match self.next_job(&mut items) {
                Job::Group | Job::Cover => self.commit(&mut items),
                Job::Switch(segment) => match self.advance(segment) {
                    Ok(()) => true,
                    Err(error) => self.fail_over(&mut items, error),
                },
                Job::Stop => return,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Waits for something to do; the records of a group are moved to `items`.
    fn next_job(&mut self, items: &mut Vec<Item>) -> Job {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let mut quiet = false;
        loop {
            let budget = self.budget(state.ready.is_some());
            let blocked = state.lanes.take(items, budget);
            if !items.is_empty() {
                return Job::Group;
            }
            if blocked.is_some() || self.active.is_none() {
                let wanted = self.wanted(blocked.unwrap_or(0));
                if let Some(next) = state.ready.take_if(|ready| ready.length >= wanted.bytes || blocked.is_none()) {
                    return Job::Switch(next);
                }
                state.want(wanted);
                shared.prepare.notify_one();
            }
            let mut refused = Vec::new();
            if state.unprepared && blocked.is_some() {
                refused.extend(state.lanes.drain_packs().map(|item| (item, WalError::Full)));
            }
            if state.closing && state.unprepared {
                refused.extend(state.lanes.drain().map(|item| (item, WalError::Closed)));
            }
            if !refused.is_empty() {
                drop(state);
                refused.into_iter().for_each(|(item, error)| item.answer(Err(error)));
                state = shared.lock();
                continue;
            }
            let uncovered = self.active.as_ref().is_some_and(|active| !active.covered);
            if uncovered && (quiet || state.closing && state.lanes.is_empty()) {
                return Job::Cover;
            }
            if state.closing && state.lanes.is_empty() {
                return Job::Stop;
            }
            state.asleep = true;
            if uncovered {
                let (guard, waited) = shared
                    .work
                    .wait_timeout(state, COVER_AFTER)
                    .expect("nothing panics while the log's state is locked");
                (state, quiet) = (guard, waited.timed_out());
            } else {
                state = shared.work.wait(state).expect("nothing panics while the log's state is locked");
            }
            state.asleep = false;
        }
    }

    /// What fits the active segment now. The last block is kept for the group that covers the last one with records.
    fn budget(&self, next_is_ready: bool) -> Budget {
        let room = self
            .active
            .as_ref()
            .map_or(0, |active| (active.segment.length - active.offset).saturating_sub(BLOCK));
        let kept = self.active.as_ref().map_or(0, |active| SEAL_ROOM.min(active.segment.length / 8));
        Budget {
            group: self.shared.group_bytes as u64,
            seals: room,
            packs: if next_is_ready { room } else { room.saturating_sub(kept) },
        }
    }

    /// The next segment, with place for a group of `group` bytes and everything that goes with it.
    fn wanted(&self, group: u64) -> Wanted {
        let opening = group_len((self.ends.len() + 1) * (RECORD_HEADER + END));
        let fixed = BLOCK + opening + BLOCK;
        let usual = self.shared.segment_bytes;
        let bytes = if group + fixed + SEAL_ROOM.min(usual / 8) <= usual {
            usual
        } else {
            group + fixed + SEAL_ROOM
        };
        Wanted { bytes, follows: self.follows }
    }

    /// Makes `next` the active segment: first it makes durable where the segments before it end. After an error there is no
    /// active segment, and `next` is one more that ended.
    fn advance(&mut self, next: Segment) -> io::Result<()> {
        let segment = Arc::new(next);
        if let Some(active) = self.active.take() {
            self.ends.push(End {
                segment: active.segment.id,
                upto: active.offset,
            });
        }
        let shared = self.shared.clone();
        shared
            .segments
            .write()
            .expect("nothing panics while the segments are locked")
            .insert(segment.id.ordinal, segment.clone());
        self.builder.begin(segment.id, BLOCK, self.shared.group_bytes);
        for end in &self.ends {
            self.builder.push(Tag::End, &end.encode());
        }
        let group = self.builder.finish(0, self.last_seal, self.last_seal, self.doubt);
        if let Err(e) = segment.file.write_at(group, BLOCK).and_then(|()| segment.file.sync()) {
            self.ends.push(End {
                segment: segment.id,
                upto: BLOCK,
            });
            return Err(e);
        }
        let offset = BLOCK + group.len() as u64;
        segment.synced_upto.store(offset, Ordering::Release);
        if let Err(error) = reached::write(&*shared.fs, &shared.dir, segment.id.ordinal) {
            // The log is whole without it; only the loss of this very segment would be noticed later, or not at all.
            tracing::warn!(%error, "how far the log goes could not be noted");
        }
        self.ends.clear();
        self.follows = Some(segment.id);
        let mut state = shared.lock();
        state.active = Some(segment.id.ordinal);
        // Only now: a prepared segment proves that the one it follows had a durable group.
        state.want(self.wanted(0));
        drop(state);
        shared.prepare.notify_one();
        self.active = Some(Active {
            segment,
            offset,
            number: 1,
            covered: true,
        });
        Ok(())
    }

    /// Writes and syncs `items` as one group and answers them, if need be in the next segment. False: the log is lost.
    fn commit(&mut self, items: &mut Vec<Item>) -> bool {
        match self.write(items) {
            Ok(()) => {
                self.answer(items);
                true
            }
            Err(error) => self.fail_over(items, error),
        }
    }

    /// Writes and syncs `items` as one group of the active segment.
    fn write(&mut self, items: &mut [Item]) -> io::Result<()> {
        let active = self.active.as_mut().expect("without an active segment nothing fits, so there are no records");
        self.builder.begin(active.segment.id, active.offset, self.shared.group_bytes);
        let mut last_seal = self.last_seal;
        for item in items.iter_mut() {
            item.offset = self.builder.push(item.kind.into(), &item.body);
            last_seal = last_seal.max(item.seal);
        }
        let group = self.builder.finish(active.number, self.last_seal, last_seal, false);
        let began = std::time::Instant::now();
        active.segment.file.write_at(group, active.offset)?;
        active.segment.file.sync()?;
        metrics().wal_sync(began.elapsed(), group.len() as u64);
        active.offset += group.len() as u64;
        active.number += 1;
        active.covered = items.is_empty();
        active.segment.synced_upto.store(active.offset, Ordering::Release);
        self.doubt &= last_seal == self.last_seal;
        self.last_seal = last_seal;
        Ok(())
    }

    fn answer(&self, items: &mut Vec<Item>) {
        let Some(active) = &self.active else { return };
        let segment = active.segment.id.ordinal;
        for item in items.drain(..) {
            let offset = item.offset as u32; // segments are at most 1 GiB, or what one record needs
            item.answer(Ok(Position { segment, offset }));
        }
    }

    /// A write or sync failed: nothing past `synced_upto` of that segment is believed. Takes the same records to a new
    /// segment, after its first group has said so. False: that failed too, and the log is closed.
    fn fail_over(&mut self, items: &mut Vec<Item>, error: io::Error) -> bool {
        tracing::warn!(%error, records = items.len(), "a write or sync of the log failed: moving to a new segment");
        let used = items.iter().map(|item| RECORD_HEADER + item.body.len()).sum();
        let moved = match self.wait_for_segment(group_len(used)) {
            Some(next) => self.advance(next).and_then(|()| self.write(items)),
            None => Err(io::ErrorKind::StorageFull.into()),
        };
        match moved {
            Ok(()) => self.answer(items),
            Err(error) => {
                tracing::error!(%error, records = items.len(), "the log cannot be written: closing it");
                items.drain(..).for_each(|item| item.answer(Err(WalError::Unknown)));
                self.shared.failed.send_replace(true);
                return false;
            }
        }
        true
    }

    /// The next segment with place for a group of `group` bytes, or `None` if it cannot be made now.
    fn wait_for_segment(&self, group: u64) -> Option<Segment> {
        let wanted = self.wanted(group);
        let mut state = self.shared.lock();
        loop {
            if let Some(next) = state.ready.take_if(|ready| ready.length >= wanted.bytes) {
                return Some(next);
            }
            if state.unprepared {
                return None;
            }
            state.want(wanted);
            self.shared.prepare.notify_one();
            state.asleep = true;
            state = self.shared.work.wait(state).expect("nothing panics while the log's state is locked");
            state.asleep = false;
        }
    }
}

/// Ends the log when the sync thread ends, however it ends: nobody waits for a thread that is gone.
struct Stop(Arc<Shared>);

impl Drop for Stop {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closing = true;
        state.stopped = true;
        let left: Vec<_> = state.lanes.drain().collect();
        drop(state);
        left.into_iter().for_each(|item| item.answer(Err(WalError::Closed)));
        self.0.prepare.notify_all();
        if std::thread::panicking() {
            self.0.failed.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};
    use crate::fs::sim::SimFs;

    #[test]
    fn packs_leave_room_for_seals_while_no_next_segment_is_ready() {
        let settings = WalSettings {
            segment_bytes: 1 << 20,
            ..Default::default()
        };
        let (wal, _) = Wal::open(Arc::new(SimFs::new()), "/wal".into(), settings, &mut |_, _, _| {}).unwrap();
        wal.close();
        let writer = Writer::start(&wal.inner.shared, Vec::new(), None, 0, false).unwrap();
        let (ready, alone) = (writer.budget(true), writer.budget(false));
        assert_eq!((ready.packs, ready.seals), (alone.seals, (1 << 20) - 3 * BLOCK));
        assert_eq!(alone.packs, alone.seals - (1 << 17));
    }
}
