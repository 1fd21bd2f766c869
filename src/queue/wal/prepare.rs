//! The thread that prepares the next segment while the active one fills, so that switching does not wait for zeros.

use super::{
    Shared, State,
    format::{BLOCK, SegmentHeader, SegmentId},
    segment::{Name, Segment},
};
use std::{io, time::Duration};
use uuid::Uuid;

/// A failed attempt is repeated after this time, or when somebody found that there is room again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What the next segment must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its length, a multiple of the block.
    pub bytes: u64,
    /// The segment that it comes after.
    pub follows: Option<SegmentId>,
}

impl State {
    /// Asks for the next segment. One that is ready or being made is kept if it is long enough.
    pub fn want(&mut self, wanted: Wanted) {
        if self.ready.as_ref().is_some_and(|ready| ready.length >= wanted.bytes) || self.wanted.is_some_and(|earlier| earlier.bytes >= wanted.bytes) {
            return;
        }
        self.discard.extend(self.ready.take().map(|short| short.id.ordinal));
        self.wanted = Some(wanted);
    }
}

/// Prepares one segment; blocks.
pub(super) fn attempt(shared: &Shared, ordinal: u64, wanted: Wanted) -> io::Result<Segment> {
    let id = SegmentId { ordinal, uuid: Uuid::new_v4() };
    let header = SegmentHeader {
        id,
        length: wanted.bytes.next_multiple_of(BLOCK),
        follows: wanted.follows,
    };
    Segment::prepare(&*shared.fs, &shared.dir, &header)
}

/// The thread: prepares what is wanted until the sync thread has stopped.
pub(super) fn run(shared: &Shared) {
    let mut state = shared.lock();
    while !state.stopped {
        let Some(wanted) = state.wanted else {
            state = shared.prepare.wait(state).expect("nothing panics while the log's state is locked");
            continue;
        };
        let ordinal = state.next_ordinal;
        let discard = std::mem::take(&mut state.discard);
        drop(state);
        for short in discard {
            // It was never used; what cannot be removed now is removed by the next start.
            let _ = shared.fs.remove(&Name::Segment(short).path(&shared.dir));
        }
        let attempt = attempt(shared, ordinal, wanted);
        state = shared.lock();
        let was_unprepared = std::mem::replace(&mut state.unprepared, attempt.is_err());
        match attempt {
            Ok(segment) => {
                state.next_ordinal += 1;
                if state.wanted == Some(wanted) {
                    state.wanted = None;
                    state.ready = Some(segment);
                } else {
                    state.discard.push(ordinal);
                }
                state.wake(shared);
                drop(state);
                // It is segments that take room: between two of them a fast writer could use up a small volume within the
                // time for which an answer about it is believed.
                shared.room_changed();
                state = shared.lock();
            }
            Err(error) => {
                state.wake(shared);
                drop(state);
                if !was_unprepared {
                    tracing::warn!(%error, "cannot prepare a segment of the log; trying on");
                    shared.room_changed();
                }
                state = shared.lock();
                if !state.stopped {
                    let waited = shared.prepare.wait_timeout(state, RETRY_AFTER);
                    state = waited.expect("nothing panics while the log's state is locked").0;
                }
            }
        }
    }
}
