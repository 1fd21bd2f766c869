//! What the log says at start: seals to apply again, packs to decide, heads, counters, and whether a seal may be lost.
//!
//! [`Fold`] is the pure part: it is told every valid record in log order and adds it up on top of the store's checkpoint.
//! Its rules:
//!
//! - A pack is undecided if no seal in the log names it. Seals follow their packs in the log, so the packs held in memory
//!   at any moment are few, and of those only names and positions are kept.
//! - Seals above the checkpoint change the state; seals above `rebuild_from` are applied to the store again, in order.
//! - A seal that does not follow the one before it, a log that begins above the checkpoint or ends before it, is damage:
//!   then, as after damage that the log itself found, a lost seal is not ruled out and the next seal must be a gap seal.
//!   Damage that stands before a gap seal has been answered by it: that seal names every head.

use super::book::{FoundPack, Start, short};
use crate::{
    model::pack::Pack,
    queue::Position,
    seal::{
        FoundSeal, Seal, codec,
        state::{BrokenChain, SealState},
    },
};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A record whose checksum in the log is right and whose contents are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Where.
    pub at: Position,
    /// What is wrong with it.
    pub why: String,
}

/// What the log adds up to.
#[derive(Debug, Default)]
pub struct Folded {
    /// For [`super::book::Book::new`].
    pub start: Start,
    /// Seals above `rebuild_from`, and above `keep_above` if that is less, ascending.
    pub seals: Vec<FoundSeal>,
    /// Where they stand.
    pub places: BTreeMap<u64, Position>,
    /// The first seal that the log has, if it has any.
    pub first: Option<u64>,
    /// Packs that a seal in the log names, and the last segment that holds them: they could be delivered again.
    pub decided: HashMap<Uuid, u64>,
    /// Where the chain of seals is broken and no gap seal has answered it since.
    pub breaks: Vec<BrokenChain>,
    /// Every seal up to this one is known: the last one, or the last before the first of `breaks`.
    pub complete_upto: u64,
    /// Seals that the store needs again and that are no longer in the log, inclusive.
    pub missing: Option<(u64, u64)>,
    /// Records that could not be read.
    pub bad: Vec<BadRecord>,
    /// Where the last gap seal stands: damage before it has been answered.
    pub last_gap: Option<Position>,
}

/// See the module.
#[derive(Debug)]
pub struct Fold {
    checkpoint: (u64, u32),
    rebuild_from: u64,
    keep_above: u64,
    state: SealState,
    first: Option<u64>,
    last: Option<(u64, u32)>,
    undecided: HashMap<Uuid, FoundPack>,
    decided: HashMap<Uuid, (u64, u64)>,
    segments: BTreeMap<u64, u64>,
    last_seal_segment: u64,
    seals: Vec<FoundSeal>,
    places: BTreeMap<u64, Position>,
    breaks: Vec<BrokenChain>,
    bad: Vec<BadRecord>,
    last_gap: Option<Position>,
}

impl Fold {
    /// Begins with the state in the store's manifest. Seals above `rebuild_from` (at most `checkpoint.n`) are applied again.
    pub fn new(checkpoint: SealState, rebuild_from: u64) -> Self {
        Self {
            checkpoint: (checkpoint.n, checkpoint.crc),
            rebuild_from: rebuild_from.min(checkpoint.n),
            keep_above: rebuild_from.min(checkpoint.n),
            state: checkpoint,
            first: None,
            last: None,
            undecided: HashMap::new(),
            decided: HashMap::new(),
            segments: BTreeMap::new(),
            last_seal_segment: 0,
            seals: Vec::new(),
            places: BTreeMap::new(),
            breaks: Vec::new(),
            bad: Vec::new(),
            last_gap: None,
        }
    }

    /// Keeps seals above `n` too, for another store that has not applied them.
    pub fn keeping_above(mut self, n: u64) -> Self {
        self.keep_above = self.keep_above.min(n);
        self
    }

    /// The next record is a pack.
    pub fn pack(&mut self, at: Position, bytes: Bytes) {
        let reaches = self.segments.entry(at.segment).or_default();
        let pack = match Pack::decode(bytes) {
            Ok(pack) => pack,
            Err(error) => return self.bad.push(BadRecord { at, why: error.to_string() }),
        };
        if let Some((segment, n)) = self.decided.get_mut(&pack.id()) {
            // Known: it is never decided again, and its place is kept as long as its seal is.
            *segment = (*segment).max(at.segment);
            *reaches = (*reaches).max(*n);
            return;
        }
        let found = self.undecided.entry(pack.id()).or_insert_with(|| FoundPack {
            pack_id: pack.id(),
            tenant: pack.tenant().clone(),
            positions: SmallVec::new(),
            bytes: pack.bytes().len() as u64,
            ids: pack.entries().map(|entry| short(entry.id())).collect(),
        });
        found.positions.push(at);
    }

    /// The next record is a seal.
    pub fn seal(&mut self, at: Position, bytes: Bytes) {
        self.segments.entry(at.segment).or_default();
        let (seal, crc) = match codec::decode(&bytes) {
            Ok(decoded) => decoded,
            Err(error) => return self.bad.push(BadRecord { at, why: error.to_string() }),
        };
        if self.last == Some((seal.n, crc)) {
            return self.reach(at.segment, seal.n); // the same seal once more
        }
        if let Err(broken) = self.check(&seal, crc) {
            self.breaks.push(broken);
            if self.last.is_some_and(|(last, _)| seal.n <= last) {
                return self.bad.push(BadRecord { at, why: broken.to_string() });
            }
        }
        if seal.chain_break {
            self.breaks.clear();
            self.last_gap = Some(at);
        }
        self.first.get_or_insert(seal.n);
        self.last = Some((seal.n, crc));
        self.last_seal_segment = at.segment;
        self.reach(at.segment, seal.n);
        for pack in &seal.packs {
            let found = self.undecided.remove(&pack.pack_id).map(|found| found.positions).unwrap_or_default();
            let mut last = 0;
            for at in found.iter().chain(&pack.positions) {
                self.reach(at.segment, seal.n);
                last = last.max(at.segment);
            }
            self.decided.insert(pack.pack_id, (last, seal.n));
        }
        if seal.n > self.state.n {
            self.state.fold(&seal, crc);
        }
        if seal.n > self.keep_above {
            self.places.insert(seal.n, at);
            self.seals.push(FoundSeal {
                seal,
                crc,
                encoded_len: bytes.len(),
            });
        }
    }

    /// Every record was told.
    pub fn finish(mut self) -> Folded {
        let (checkpoint, _) = self.checkpoint;
        let last = self.last.map_or(0, |(n, _)| n);
        if last < checkpoint {
            self.breaks.push(BrokenChain { last, found: checkpoint });
        }
        let first = self.first.unwrap_or(checkpoint + 1);
        let missing = (first > self.rebuild_from + 1).then(|| (self.rebuild_from + 1, first - 1));
        let mut undecided: Vec<_> = self.undecided.into_values().collect();
        undecided.sort_unstable_by_key(|found| found.positions[0]);
        let complete_upto = self.breaks.iter().map(|broken| broken.last).fold(self.state.n, u64::min).max(checkpoint);
        Folded {
            complete_upto,
            start: Start {
                state: self.state,
                undecided,
                segments: self.segments,
                last_seal_segment: self.last_seal_segment,
            },
            seals: self.seals,
            places: self.places,
            first: self.first,
            decided: self.decided.into_iter().map(|(id, (segment, _))| (id, segment)).collect(),
            breaks: self.breaks,
            missing,
            bad: self.bad,
            last_gap: self.last_gap,
        }
    }

    /// Whether `seal` follows what was read so far, and agrees with the checkpoint.
    fn check(&self, seal: &Seal, crc: u32) -> Result<(), BrokenChain> {
        let (n, checkpoint_crc) = self.checkpoint;
        let (last, last_crc) = match self.last {
            Some(last) => last,
            // The log begins here. Below the checkpoint there is nothing to compare with: older seals were trimmed.
            None if seal.n <= n => (seal.n - 1, seal.previous_crc),
            None => (n, checkpoint_crc),
        };
        let before = SealState {
            n: last,
            crc: last_crc,
            ..SealState::default()
        };
        before.check_next(seal)?;
        if seal.n == n && crc != checkpoint_crc {
            return Err(BrokenChain { last: n, found: n });
        }
        Ok(())
    }

    fn reach(&mut self, segment: u64, n: u64) {
        // Segments that were trimmed are named by seals too (a pack that was copied forward); they are not made up here.
        if let Some(reaches) = self.segments.get_mut(&segment) {
            *reaches = (*reaches).max(n);
        }
    }
}
