//! Packs that this process has handed on lately: a message that its queue delivers twice is not handed on twice. Only spares work: what
//! is not remembered is found out when it is decided.

use std::collections::{HashSet, VecDeque};
use uuid::Uuid;

/// Ids that are remembered: some 6 MiB.
const MOST: usize = 100_000;

/// The latest ids.
#[derive(Debug, Default)]
pub(super) struct KnownPacks {
    ids: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl KnownPacks {
    /// Whether the pack was handed on.
    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.ids.contains(&id)
    }

    /// The pack was handed on.
    pub(super) fn add(&mut self, id: Uuid) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut known = KnownPacks::default();
        for n in 0..=MOST as u128 {
            known.add(Uuid::from_u128(n));
            known.add(Uuid::from_u128(n));
        }
        assert!(!known.contains(Uuid::from_u128(0)) && known.contains(Uuid::from_u128(1)));
        assert_eq!((known.ids.len(), known.order.len()), (MOST, MOST));
    }
}
