//! The bounded queue between the broadcaster and one session, and what happens when it is full.
//!
//! ```text
//!            session caught up with all that was announced
//!  Behind ───────────────────────────────────────────────▶ Live
//!    ▲  (the session reads the store; announcements           │ (frames are queued)
//!    │   only move `announced`)                               │
//!    └──── queue full and `CatchUp`, or frames were missed ───┘
//! ```
//!
//! An erasure empties the queue ([`Outbox::forget`]): what waited in it may be gone, and the session reads the store, which
//! knows. What it has read itself it drops when it finds that [`Outbox::forgotten`] has grown.
//!
//! Live, every number up to `covered` is accounted for: delivered, queued, filtered out, void or in a gap. An announcement
//! that starts after `covered + 1` shows that one is missing; one that ends before is known. So announcements may be lost
//! or come twice, and the session still gets every number once.

use crate::{
    model::{
        feed::{FeedEnd, FeedItem, OnSlow},
        filter::Filter,
    },
    telemetry::metrics::metrics,
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// What a queued frame costs besides its JSON, bytes.
pub(super) const FRAME_OVERHEAD: usize = 64;

/// The queue of one session.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) filter: Filter,
    on_slow: OnSlow,
    capacity: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    queue: VecDeque<FeedItem>,
    bytes: usize,
    /// How often it was emptied by an erasure.
    forgotten: u64,
    ended: Option<FeedEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Live { covered: u64 },
    Behind { announced: u64 },
}

/// What the session finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A frame.
    Item(FeedItem),
    /// Nothing now; every number up to here is dealt with. Wait for a change.
    Nothing {
        /// The last number dealt with.
        covered: u64,
    },
    /// Read the store, at least up to here.
    Behind {
        /// The last number announced.
        announced: u64,
    },
    /// The session is over.
    Ended(FeedEnd),
}

impl Outbox {
    /// A queue of at most `capacity` bytes of frames, behind until it has caught up.
    pub(super) fn new(filter: Filter, on_slow: OnSlow, capacity: usize) -> Self {
        let state = State {
            mode: Mode::Behind { announced: 0 },
            queue: VecDeque::new(),
            bytes: 0,
            forgotten: 0,
            ended: None,
        };
        Self {
            filter,
            on_slow,
            capacity,
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    /// Begins an announcement of the numbers `from..=to`; `None` when the session does not want its frames.
    pub(super) fn begin(&self, from: u64, to: u64) -> Option<Offer<'_>> {
        let mut state = self.lock();
        match &mut state.mode {
            Mode::Behind { announced } => {
                *announced = to.max(*announced);
                drop(state);
                self.changed.notify_one();
                None
            }
            Mode::Live { covered } if to <= *covered => None,
            Mode::Live { covered } if from <= *covered + 1 => {
                let after = *covered;
                drop(state);
                Some(Offer { outbox: self, after, to })
            }
            Mode::Live { .. } => {
                state.mode = Mode::Behind { announced: to };
                drop(state);
                self.changed.notify_one();
                None
            }
        }
    }

    /// Frames up to `to` were not offered: the session must read the store.
    pub(super) fn miss(&self, to: u64) {
        let mut state = self.lock();
        state.mode = match state.mode {
            Mode::Behind { announced } => Mode::Behind { announced: to.max(announced) },
            Mode::Live { covered } if to <= covered => return,
            Mode::Live { .. } => Mode::Behind { announced: to },
        };
        drop(state);
        self.changed.notify_one();
    }

    /// Rows of the tenant, whose head is `head`, were erased: nothing that was read or queued before is shown any more, and
    /// the session reads the store from where it is. The store must hide the rows already.
    pub(super) fn forget(&self, head: u64) {
        let mut state = self.lock();
        state.clear();
        state.forgotten += 1;
        let announced = match state.mode {
            Mode::Behind { announced } => announced.max(head),
            Mode::Live { covered } => covered.max(head),
        };
        state.mode = Mode::Behind { announced };
        drop(state);
        self.changed.notify_one();
    }

    /// How often [`Outbox::forget`] was called: what was read before it last was must not be shown.
    pub(super) fn forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    /// Ends the session; what is queued is let go.
    pub(super) fn end(&self, why: FeedEnd) {
        let mut state = self.lock();
        state.ended.get_or_insert(why);
        state.clear();
        drop(state);
        self.changed.notify_one();
    }

    /// The next thing for the session, which has dealt with every number up to `dealt_with` when nothing is queued.
    pub(super) fn take(&self, dealt_with: u64) -> Found {
        let mut state = self.lock();
        if let Some(why) = &state.ended {
            return Found::Ended(why.clone());
        }
        if let Some(item) = state.queue.pop_front() {
            state.bytes -= cost(&item);
            return Found::Item(item);
        }
        match state.mode {
            Mode::Live { covered } => Found::Nothing { covered },
            Mode::Behind { announced } if announced <= dealt_with => {
                state.mode = Mode::Live { covered: dealt_with };
                Found::Nothing { covered: dealt_with }
            }
            Mode::Behind { announced } => Found::Behind { announced },
        }
    }

    /// Waits for a change since the last [`Outbox::take`]. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Why the session is over, if it is.
    pub(super) fn ended(&self) -> Option<FeedEnd> {
        self.lock().ended.clone()
    }

    /// Waits until the session is over. May swallow other changes: look at [`Outbox::take`] afterwards. Cancel-safe.
    pub(super) async fn until_ended(&self) {
        while self.ended().is_none() {
            self.changed().await;
        }
    }

    /// Frames that are queued, and their bytes.
    #[cfg(test)]
    pub(super) fn queued(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.len(), state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned queue is still a queue.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }

    fn push(&mut self, item: FeedItem) {
        self.bytes += cost(&item);
        self.queue.push_back(item);
    }

    /// Adds `from..=to` to the gap at the end of the queue, or begins one.
    fn skip(&mut self, from: u64, to: u64) {
        match self.queue.back_mut() {
            Some(FeedItem::Gap { to: last, .. }) => *last = to,
            _ => {
                metrics().feed_gap();
                self.push(FeedItem::Gap { from, to });
            }
        }
    }
}

fn cost(item: &FeedItem) -> usize {
    FRAME_OVERHEAD
        + match item {
            FeedItem::Entry { json, .. } => json.len(),
            FeedItem::Gap { .. } | FeedItem::Void { .. } | FeedItem::Closed(_) => 0,
        }
}

/// One announcement to one session whose queue is live. Dropping it ends the announcement.
pub(super) struct Offer<'a> {
    outbox: &'a Outbox,
    after: u64,
    to: u64,
}

impl Offer<'_> {
    /// Whether the session has not dealt with this number yet.
    pub(super) fn is_new(&self, sequence: u64) -> bool {
        sequence > self.after
    }

    /// An entry that passed the session's filter.
    pub(super) fn entry(&self, sequence: u64, json: Bytes) {
        self.push(sequence, sequence, FeedItem::Entry { sequence, json });
    }

    /// Numbers without an entry.
    pub(super) fn void(&self, from: u64, to: u64) {
        let from = from.max(self.after + 1);
        self.push(from, to, FeedItem::Void { from, to });
    }

    /// False once the session fell behind, even if it has caught up (past this announcement, then) and is live again.
    fn is_current(&self, state: &State) -> bool {
        state.mode == Mode::Live { covered: self.after }
    }

    fn push(&self, from: u64, to: u64, item: FeedItem) {
        let mut state = self.outbox.lock();
        if state.ended.is_some() || !self.is_current(&state) {
            return;
        }
        // After a gap, frames are queued again once half of the queue is free: fewer and longer gaps.
        let skipping = matches!(state.queue.back(), Some(FeedItem::Gap { .. }));
        let limit = if skipping { self.outbox.capacity / 2 } else { self.outbox.capacity };
        // A frame larger than the queue goes alone.
        if state.bytes + cost(&item) <= limit || state.queue.is_empty() {
            state.push(item);
            return;
        }
        match self.outbox.on_slow {
            OnSlow::Gap => state.skip(from, to),
            OnSlow::CatchUp => {
                state.clear();
                state.mode = Mode::Behind { announced: self.to };
            }
            OnSlow::Close => {
                state.clear();
                state.ended = Some(FeedEnd::TooSlow);
                metrics().feed_kick();
            }
        }
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        // During a panic the rest of the announcement was not offered: the session must not believe it was.
        if std::thread::panicking() {
            return self.outbox.miss(self.to);
        }
        let mut state = self.outbox.lock();
        if self.is_current(&state) {
            state.mode = Mode::Live { covered: self.to };
        }
        drop(state);
        self.outbox.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offer: &Offer<'_>, sequence: u64) {
        if offer.is_new(sequence) {
            offer.entry(sequence, Bytes::from_static(b"{}"));
        }
    }

    /// An outbox that is live and has dealt with numbers up to `covered`.
    fn live(covered: u64) -> Outbox {
        let outbox = Outbox::new(Filter::default(), OnSlow::CatchUp, 1 << 20);
        assert_eq!(outbox.take(covered), Found::Nothing { covered });
        outbox
    }

    #[test]
    fn announcements_that_overlap_repeat_or_leave_a_hole_are_noticed() {
        let outbox = live(5);
        assert!(outbox.begin(1, 5).is_none(), "known");
        {
            let overlapping = outbox.begin(4, 7).expect("wanted");
            (4..=7).for_each(|n| entry(&overlapping, n));
        }
        for n in [6, 7] {
            assert!(matches!(outbox.take(n - 1), Found::Item(FeedItem::Entry { sequence, .. }) if sequence == n));
        }
        assert_eq!(outbox.take(7), Found::Nothing { covered: 7 });
        assert!(outbox.begin(9, 9).is_none(), "8 is missing");
        assert_eq!(outbox.take(7), Found::Behind { announced: 9 });
        assert_eq!(
            outbox.take(8),
            Found::Behind { announced: 9 },
            "live only when all that was announced is dealt with"
        );
        assert_eq!(outbox.take(9), Found::Nothing { covered: 9 });
    }

    #[test]
    fn an_announcement_is_over_for_a_session_that_fell_behind_and_came_back_meanwhile() {
        let outbox = live(0);
        let old = outbox.begin(1, 3).expect("wanted");
        entry(&old, 1);
        outbox.miss(10);
        assert!(matches!(outbox.take(0), Found::Item(_)), "what was queued is good");
        assert_eq!(outbox.take(10), Found::Nothing { covered: 10 }, "it read the store up to 10");
        entry(&old, 2);
        drop(old);
        assert_eq!(outbox.take(10), Found::Nothing { covered: 10 });
    }
}
