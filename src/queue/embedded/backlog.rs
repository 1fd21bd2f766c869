//! Which pack is delivered next: first come, first served within a tenant, round-robin between tenants.
//!
//! A pack waits here as its name; the pack itself is kept only while all that is kept fits `held_bytes`, so that a
//! blocked store leaves names in memory and packs in the log. Each tenant has a bounded number of deliveries under way,
//! so that a stuck one does not use up the router's patience. Redelivered packs are delivered one at a time: when an
//! actor crashes, the pack that did it is the one that was there each time, and its neighbours are not taken for poison.

use crate::model::{pack::Pack, tenant::TenantId};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use uuid::Uuid;

/// Deliveries under way per tenant.
const TENANT_DELIVERIES: usize = 1024;
/// Deliveries under way in all.
const DELIVERIES: usize = 1 << 16;

/// A pack that is to be delivered.
#[derive(Debug)]
pub struct Item {
    /// Its name.
    pub pack_id: Uuid,
    /// Which delivery this is, from 1.
    pub attempt: u32,
    /// The pack, if it was kept in memory.
    pub pack: Option<Arc<Pack>>,
}

/// Packs that wait for delivery.
#[derive(Debug)]
pub struct Backlog {
    held_bytes: usize,
    held: usize,
    tenants: HashMap<TenantId, Lane>,
    ready: VecDeque<TenantId>,
    under_way: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Item>,
    under_way: usize,
    /// Redelivered packs that wait or are under way.
    again: usize,
    /// Whether the tenant stands in `ready`.
    ready: bool,
}

impl Lane {
    fn may_deliver(&self) -> bool {
        let limit = if self.again > 0 { 1 } else { TENANT_DELIVERIES };
        !self.waiting.is_empty() && self.under_way < limit
    }
}

impl Backlog {
    /// An empty backlog that keeps at most `held_bytes` of packs in memory.
    pub fn new(held_bytes: usize) -> Self {
        Self {
            held_bytes,
            held: 0,
            tenants: HashMap::new(),
            ready: VecDeque::new(),
            under_way: 0,
        }
    }

    /// Adds a pack for its first delivery.
    pub fn push(&mut self, tenant: &TenantId, pack_id: Uuid, pack: Option<&Arc<Pack>>) {
        let pack = pack.filter(|pack| self.held + pack.bytes().len() <= self.held_bytes).cloned();
        self.held += pack.as_ref().map_or(0, |pack| pack.bytes().len());
        let item = Item { pack_id, attempt: 1, pack };
        self.lane(tenant).waiting.push_back(item);
        self.offer(tenant);
    }

    /// The next pack to deliver, which is under way from here on; [`Backlog::settled`] ends that.
    pub fn pop(&mut self) -> Option<(TenantId, Item)> {
        if self.under_way >= DELIVERIES {
            return None;
        }
        let (tenant, item) = loop {
            let tenant = self.ready.pop_front()?;
            let lane = self.tenants.get_mut(&tenant).expect("a ready tenant has a lane");
            lane.ready = false;
            // Since it was offered, a redelivery may have narrowed its limit; it is offered again when one settles.
            if let Some(item) = lane.may_deliver().then(|| lane.waiting.pop_front()).flatten() {
                lane.under_way += 1;
                break (tenant, item);
            }
        };
        self.under_way += 1;
        self.held -= item.pack.as_ref().map_or(0, |pack| pack.bytes().len());
        self.offer(&tenant);
        Some((tenant, item))
    }

    /// A delivery came to its end: decided, or to be delivered again (then it stands first).
    pub fn settled(&mut self, tenant: &TenantId, pack_id: Uuid, attempt: u32, again: bool) {
        let lane = self.lane(tenant);
        lane.under_way -= 1;
        lane.again -= usize::from(attempt > 1);
        if again {
            lane.again += 1;
            lane.waiting.push_front(Item {
                pack_id,
                attempt: attempt + 1,
                pack: None,
            });
        }
        let idle = lane.waiting.is_empty() && lane.under_way == 0;
        self.under_way -= 1;
        self.offer(tenant);
        if idle {
            self.tenants.remove(tenant);
        }
    }

    /// Bytes of packs kept in memory.
    pub fn held(&self) -> usize {
        self.held
    }

    fn lane(&mut self, tenant: &TenantId) -> &mut Lane {
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), Lane::default());
        }
        self.tenants.get_mut(tenant).expect("it was just made")
    }

    fn offer(&mut self, tenant: &TenantId) {
        if let Some(lane) = self.tenants.get_mut(tenant).filter(|lane| !lane.ready && lane.may_deliver()) {
            lane.ready = true;
            self.ready.push_back(tenant.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pack::tests::pack_of;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    fn drain(backlog: &mut Backlog) -> Vec<(String, u128, u32)> {
        std::iter::from_fn(|| backlog.pop())
            .map(|(t, item)| (t.to_string(), item.pack_id.as_u128(), item.attempt))
            .collect()
    }

    fn found(list: &[(&str, u128, u32)]) -> Vec<(String, u128, u32)> {
        list.iter().map(|(t, id, attempt)| (t.to_string(), *id, *attempt)).collect()
    }

    #[test]
    fn tenants_take_turns_and_each_keeps_its_order() {
        let mut backlog = Backlog::new(0);
        for (t, id) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("b", 5)] {
            backlog.push(&tenant(t), Uuid::from_u128(id), None);
        }
        assert_eq!(drain(&mut backlog), found(&[("a", 1, 1), ("b", 4, 1), ("a", 2, 1), ("b", 5, 1), ("a", 3, 1)]));
    }

    #[test]
    fn a_tenant_has_a_bounded_number_under_way_and_does_not_stop_another() {
        let mut backlog = Backlog::new(0);
        for id in 0..TENANT_DELIVERIES as u128 + 5 {
            backlog.push(&tenant("a"), Uuid::from_u128(id), None);
        }
        assert_eq!(drain(&mut backlog).len(), TENANT_DELIVERIES);
        backlog.push(&tenant("b"), Uuid::from_u128(9999), None);
        assert_eq!(drain(&mut backlog), found(&[("b", 9999, 1)]));
        backlog.settled(&tenant("a"), Uuid::from_u128(0), 1, false);
        assert_eq!(drain(&mut backlog), found(&[("a", TENANT_DELIVERIES as u128, 1)]));
    }

    #[test]
    fn redelivered_packs_go_one_at_a_time_so_that_neighbours_of_poison_survive() {
        let (mut backlog, a) = (Backlog::new(0), tenant("a"));
        for id in [1, 2] {
            backlog.push(&a, Uuid::from_u128(id), None);
        }
        assert_eq!(drain(&mut backlog).len(), 2);
        for id in [2, 1] {
            backlog.settled(&a, Uuid::from_u128(id), 1, true);
        }
        assert_eq!(drain(&mut backlog), found(&[("a", 1, 2)]));
        backlog.settled(&a, Uuid::from_u128(1), 2, true);
        assert_eq!(drain(&mut backlog), found(&[("a", 1, 3)]));
        backlog.settled(&a, Uuid::from_u128(1), 3, false);
        assert_eq!(drain(&mut backlog), found(&[("a", 2, 2)]));
        backlog.settled(&a, Uuid::from_u128(2), 2, false);
        assert_eq!(backlog.tenants.len(), 0, "an idle tenant leaves nothing behind");
    }

    #[test]
    fn packs_are_kept_within_the_bound_and_named_beyond_it() {
        let (one, two) = (Arc::new(pack_of("a", &[1])), Arc::new(pack_of("a", &[2])));
        let mut backlog = Backlog::new(one.bytes().len());
        backlog.push(&tenant("a"), one.id(), Some(&one));
        backlog.push(&tenant("a"), two.id(), Some(&two));
        assert_eq!(backlog.held(), one.bytes().len());
        let kept: Vec<_> = std::iter::from_fn(|| backlog.pop()).map(|(_, item)| item.pack.is_some()).collect();
        assert_eq!((kept, backlog.held()), (vec![true, false], 0));
    }
}
