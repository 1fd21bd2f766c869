//! The index of pending ids: which packs may hold one.
//!
//! Nearly every id is in one pack: that one is in a hash map, whose hash is keyed anew for each map, so that nobody can choose ids for it. Repeats, which cost
//! a client as much as new ids and may be all the same, are ordered.

use hashbrown::{HashMap, hash_map::Entry};
use std::collections::BTreeSet;

/// An empty map with more room than this gives it back: most tenants are idle.
const KEPT: usize = 64;

/// Ids as [`super::book::short`] makes them, each with the slots of packs that hold it.
#[derive(Debug, Default)]
pub struct Ids {
    first: HashMap<u64, u32>,
    more: BTreeSet<(u64, u32)>,
}

impl Ids {
    /// Adds an id of the pack in the slot; it may be there already.
    pub fn insert(&mut self, id: u64, slot: u32) {
        let first = *self.first.entry(id).or_insert(slot);
        if first != slot {
            self.more.insert((id, slot));
        }
    }

    /// Removes it, if it is there.
    pub fn remove(&mut self, id: u64, slot: u32) {
        match self.first.entry(id) {
            Entry::Occupied(mut first) if *first.get() == slot => match self.more.range((id, 0)..=(id, u32::MAX)).next().copied() {
                Some(next) => {
                    self.more.remove(&next);
                    *first.get_mut() = next.1;
                }
                None => {
                    first.remove();
                }
            },
            _ => {
                self.more.remove(&(id, slot));
            }
        }
        if self.first.is_empty() && self.first.capacity() > KEPT {
            self.first = HashMap::new();
        }
    }

    /// The slots of packs that hold the id.
    pub fn slots(&self, id: u64) -> impl Iterator<Item = u32> + '_ {
        let more = self.more.range((id, 0)..=(id, u32::MAX)).map(|(_, slot)| *slot);
        self.first.get(&id).copied().into_iter().chain(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pack_of_an_id_is_known_until_it_is_removed_whatever_the_order() {
        let (mut ids, mut there) = (Ids::default(), BTreeSet::new());
        let mut dice = 1u64;
        for _ in 0..20_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (id, slot) = (dice >> 33 & 3, (dice >> 40) as u32 & 7);
            if dice >> 60 < 8 {
                ids.insert(id, slot);
                there.insert((id, slot));
            } else {
                ids.remove(id, slot);
                there.remove(&(id, slot));
            }
            for id in 0..4 {
                let mut slots: Vec<u32> = ids.slots(id).collect();
                slots.sort_unstable();
                assert!(slots.iter().eq(there.range((id, 0)..=(id, u32::MAX)).map(|(_, slot)| slot)));
            }
        }
    }

    #[test]
    fn a_tenant_that_is_idle_again_keeps_little() {
        let mut ids = Ids::default();
        (0..10_000).for_each(|id| ids.insert(id, 1));
        (0..10_000).for_each(|id| ids.remove(id, 1));
        assert!(ids.first.capacity() <= KEPT && ids.more.is_empty());
    }
}
