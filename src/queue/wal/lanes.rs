//! What waits to be written: seals in order, packs in one lane per tenant hash, taken in turn.

use super::{
    Position, RecordKind, WalError,
    format::{RECORD_HEADER, group_len},
};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use tokio::sync::oneshot;

/// Emptied lanes that are kept for the next tenants, so that a calm log does not allocate one per record.
const SPARE_LANES: usize = 256;

/// One record on its way.
pub(super) struct Item {
    pub kind: RecordKind,
    lane: u64,
    /// Its number, if it is a seal.
    pub seal: u64,
    pub body: Bytes,
    /// Its offset, once it is in a group.
    pub offset: u64,
    reply: oneshot::Sender<Result<Position, WalError>>,
}

impl Item {
    pub fn new(kind: RecordKind, lane: u64, seal: u64, body: Bytes, reply: oneshot::Sender<Result<Position, WalError>>) -> Self {
        Self {
            kind,
            lane,
            seal,
            body,
            offset: 0,
            reply,
        }
    }

    /// Tells whoever appended it. That nobody listens any more is fine.
    pub fn answer(self, answer: Result<Position, WalError>) {
        let _ = self.reply.send(answer);
    }

    fn bytes(&self) -> usize {
        RECORD_HEADER + self.body.len()
    }
}

/// How much a group may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Usual length of a group; the first pack of a group may exceed it.
    pub group: u64,
    /// Longest group for seals.
    pub seals: u64,
    /// Longest group once a pack is in it.
    pub packs: u64,
}

#[derive(Default)]
pub(super) struct Lanes {
    seals: VecDeque<Item>,
    packs: HashMap<u64, VecDeque<Item>>,
    /// Lanes that hold something, the next one to be served first.
    turns: VecDeque<u64>,
    spare: Vec<VecDeque<Item>>,
}

impl Lanes {
    pub fn push(&mut self, item: Item) {
        if item.kind == RecordKind::Seal {
            self.seals.push_back(item);
            return;
        }
        let (lane, spare) = (item.lane, &mut self.spare);
        let queue = self.packs.entry(lane).or_insert_with(|| spare.pop().unwrap_or_default());
        if queue.is_empty() {
            self.turns.push_back(lane);
        }
        queue.push_back(item);
    }

    pub fn is_empty(&self) -> bool {
        self.seals.is_empty() && self.turns.is_empty()
    }

    /// Moves the next group's records to `group`. If a record does not fit the segment any more: the length of the group
    /// that it needs.
    pub fn take(&mut self, group: &mut Vec<Item>, budget: Budget) -> Option<u64> {
        let mut used = 0;
        while let Some(item) = self.seals.front() {
            let length = group_len(used + item.bytes());
            if length > budget.group && !group.is_empty() {
                return None;
            }
            if length > budget.seals {
                return Some(group_len(item.bytes()));
            }
            used += item.bytes();
            group.extend(self.seals.pop_front());
        }
        let seals = group.len();
        while let Some(lane) = self.turns.front().copied() {
            let queue = self.packs.get_mut(&lane).expect("a lane with a turn exists");
            let bytes = queue.front().expect("a lane with a turn holds something").bytes();
            let length = group_len(used + bytes);
            // The first pack joins whatever its size: else a large one would wait behind every seal.
            if length > budget.group && group.len() > seals {
                return None;
            }
            if length > budget.packs {
                return Some(group_len(bytes));
            }
            used += bytes;
            group.extend(queue.pop_front());
            self.turns.pop_front();
            if !queue.is_empty() {
                self.turns.push_back(lane);
            } else if let Some(queue) = self.packs.remove(&lane)
                && self.spare.len() < SPARE_LANES
            {
                self.spare.push(queue);
            }
        }
        None
    }

    /// Takes every pack out.
    pub fn drain_packs(&mut self) -> impl Iterator<Item = Item> + use<> {
        self.turns.clear();
        std::mem::take(&mut self.packs).into_values().flatten()
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = Item> + use<> {
        std::mem::take(&mut self.seals).into_iter().chain(self.drain_packs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Budget = Budget {
        group: 16 << 10,
        seals: 1 << 20,
        packs: 1 << 20,
    };

    fn item(kind: RecordKind, lane: u64, bytes: usize) -> Item {
        Item::new(kind, lane, 0, vec![lane as u8; bytes].into(), oneshot::channel().0)
    }

    fn take(lanes: &mut Lanes, budget: Budget) -> (Vec<(RecordKind, u64)>, Option<u64>) {
        let mut group = Vec::new();
        let blocked = lanes.take(&mut group, budget);
        (group.iter().map(|item| (item.kind, item.lane)).collect(), blocked)
    }

    #[test]
    fn a_flood_in_one_lane_does_not_delay_another_beyond_the_next_group() {
        let mut lanes = Lanes::default();
        (0..100).for_each(|_| lanes.push(item(RecordKind::Pack, 1, 3000)));
        assert_eq!(take(&mut lanes, WIDE).0.len(), 5);
        lanes.push(item(RecordKind::Pack, 2, 3000));
        lanes.push(item(RecordKind::Seal, 0, 100));
        let next: Vec<_> = take(&mut lanes, WIDE).0;
        assert_eq!(next[0].0, RecordKind::Seal, "seals first");
        assert!(next.contains(&(RecordKind::Pack, 2)));
        assert!(next.iter().filter(|(_, lane)| *lane == 1).count() >= 3, "the rest of the group is not wasted");
    }

    #[test]
    fn a_large_pack_is_not_starved_by_seals_and_is_alone_among_packs() {
        let mut lanes = Lanes::default();
        lanes.push(item(RecordKind::Pack, 1, 100));
        lanes.push(item(RecordKind::Pack, 2, 100 << 10));
        lanes.push(item(RecordKind::Pack, 3, 100));
        assert_eq!(take(&mut lanes, WIDE).0, [(RecordKind::Pack, 1)]);
        lanes.push(item(RecordKind::Seal, 0, 100));
        assert_eq!(take(&mut lanes, WIDE).0, [(RecordKind::Seal, 0), (RecordKind::Pack, 2)]);
        assert_eq!(take(&mut lanes, WIDE).0, [(RecordKind::Pack, 3)]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn what_does_not_fit_the_segment_says_what_it_needs_and_seals_fit_longer() {
        let mut lanes = Lanes::default();
        lanes.push(item(RecordKind::Pack, 1, 9000));
        lanes.push(item(RecordKind::Seal, 0, 5000));
        let budget = Budget {
            group: 16 << 10,
            seals: 8 << 10,
            packs: 4 << 10,
        };
        assert_eq!(take(&mut lanes, budget), (vec![(RecordKind::Seal, 0)], Some(12 << 10)));
        assert_eq!(take(&mut lanes, budget), (vec![], Some(12 << 10)));
    }
}
