//! What a consumer has received and not acknowledged. Pure: no clock of its own, no I/O.
//!
//! ```text
//! admitted ─▶ items: new, or under way already (the same item in another message) ─▶ settled ─▶ messages without open items: done
//! ```
//!
//! An item is under way once, however many messages hold it: a message that was delivered twice, or sent twice because the answer was
//! lost, is done when its items are. Packs wait for delivery as in the embedded queue ([`Backlog`]): tenants take turns, and what is
//! delivered again goes one at a time, so that the neighbours of poison survive.
//!
//! Memory: a message holds the length of its items until it is done, for its packs share one buffer; one that brought nothing new
//! holds nothing.

use super::{
    Receipt, RemoteOrder,
    envelope::{Envelope, Item},
};
use crate::{
    model::{pack::Pack, tenant::TenantId},
    queue::{Position, embedded::backlog::Backlog},
};
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;

/// What an item takes in memory besides its bytes, about.
const ITEM_OVERHEAD: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Flight {
    messages: BTreeMap<u64, InFlight>,
    items: HashMap<Uuid, Open>,
    by_position: HashMap<u64, Uuid>,
    backlog: Backlog,
    next: u64,
    bytes: usize,
    ended: bool,
}

#[derive(Debug)]
struct InFlight {
    receipt: Receipt,
    open: usize,
    bytes: usize,
    held_at: Instant,
}

#[derive(Debug)]
struct Open {
    item: Item,
    position: u64,
    messages: SmallVec<[u64; 1]>,
}

/// What became of a message that was admitted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Orders that are new here: somebody has to carry them out.
    pub orders: Vec<RemoteOrder>,
    /// How many of its items were under way already.
    pub repeated: usize,
}

/// A pack to deliver.
#[derive(Debug)]
pub struct Next {
    /// Its tenant.
    pub tenant: TenantId,
    /// The pack.
    pub pack: Arc<Pack>,
    /// Its synthetic position.
    pub position: Position,
    /// Which delivery this is, from 1.
    pub attempt: u32,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            messages: BTreeMap::new(),
            items: HashMap::new(),
            by_position: HashMap::new(),
            // Packs are kept by `items`: the backlog needs only their names.
            backlog: Backlog::new(0),
            next: 1,
            bytes: 0,
            ended: false,
        }
    }
}

impl Flight {
    /// Takes a message over.
    pub fn admit(&mut self, receipt: Receipt, envelope: Envelope, now: Instant) -> Admitted {
        let message = self.number();
        let (mut open, mut admitted) = (0, Admitted::default());
        let count = envelope.items.len();
        for item in envelope.items {
            let id = item.id();
            if let Some(known) = self.items.get_mut(&id) {
                admitted.repeated += 1;
                if !known.messages.contains(&message) {
                    known.messages.push(message);
                    open += 1;
                }
                continue;
            }
            open += 1;
            let position = self.number();
            match &item {
                Item::Pack(pack) => {
                    self.by_position.insert(position, id);
                    self.backlog.push(pack.tenant(), id, None);
                }
                Item::Order(order) => admitted.orders.push(order.clone()),
            }
            let messages = SmallVec::from_elem(message, 1);
            self.items.insert(id, Open { item, position, messages });
        }
        let bytes = if admitted.repeated == count {
            0
        } else {
            envelope.items_bytes + count * ITEM_OVERHEAD
        };
        self.bytes += bytes;
        let held_at = now;
        self.messages.insert(message, InFlight { receipt, open, bytes, held_at });
        admitted
    }

    /// The next pack to deliver; it is under way until [`Flight::settled`] or [`Flight::dropped`].
    pub fn pop(&mut self) -> Option<Next> {
        loop {
            let (tenant, waiting) = self.backlog.pop()?;
            if let Some((Item::Pack(pack), segment)) = self.items.get(&waiting.pack_id).map(|open| (&open.item, open.position)) {
                return Some(Next {
                    tenant,
                    pack: pack.clone(),
                    position: Position { segment, offset: 0 },
                    attempt: waiting.attempt,
                });
            }
            self.backlog.settled(&tenant, waiting.pack_id, waiting.attempt, false);
        }
    }

    /// A delivered pack was sealed: the receipts of the messages that are done with it.
    pub fn settled(&mut self, tenant: &TenantId, pack: Uuid, attempt: u32) -> Vec<Receipt> {
        if self.ended {
            return Vec::new();
        }
        self.backlog.settled(tenant, pack, attempt, false);
        self.close(pack)
    }

    /// A delivered pack was not sealed: it stands first in its tenant's lane again.
    pub fn dropped(&mut self, tenant: &TenantId, pack: Uuid, attempt: u32) {
        if !self.ended {
            let again = self.items.contains_key(&pack);
            self.backlog.settled(tenant, pack, attempt, again);
        }
    }

    /// An order was sealed, likewise.
    pub fn ordered(&mut self, order: Uuid) -> Vec<Receipt> {
        self.close(order)
    }

    fn close(&mut self, id: Uuid) -> Vec<Receipt> {
        let Some(open) = self.items.remove(&id) else { return Vec::new() };
        self.by_position.remove(&open.position);
        let mut done = Vec::new();
        for number in open.messages {
            let Some(message) = self.messages.get_mut(&number) else { continue };
            message.open -= 1;
            if message.open == 0 {
                let message = self.messages.remove(&number).expect("it was just there");
                self.bytes -= message.bytes;
                done.push(message.receipt);
            }
        }
        done
    }

    /// The pack at a synthetic position, while it is under way.
    pub fn read(&self, at: Position) -> Option<Arc<Pack>> {
        match &self.items.get(self.by_position.get(&at.segment)?)?.item {
            Item::Pack(pack) => Some(pack.clone()),
            Item::Order(_) => None,
        }
    }

    /// The receipts of messages that were not held for `age`; they count as held from now on.
    pub fn hold(&mut self, age: Duration, now: Instant) -> Vec<Receipt> {
        let old = self
            .messages
            .values_mut()
            .filter(|message| now.saturating_duration_since(message.held_at) >= age);
        old.map(|message| {
            message.held_at = now;
            message.receipt.clone()
        })
        .collect()
    }

    /// Forgets everything, for good: the receipts of what is not done. What is said of it later means nothing.
    pub fn end(&mut self) -> Vec<Receipt> {
        let messages = std::mem::take(self).messages;
        self.ended = true;
        messages.into_values().map(|message| message.receipt).collect()
    }

    /// Messages under way.
    pub fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::pack::tests::pack_of, queue::remote::Ordered};

    fn receipt(name: &str) -> Receipt {
        Receipt {
            source: 0,
            handle: name.into(),
        }
    }

    fn envelope(items: &[Item]) -> Envelope {
        Envelope {
            partition: 0,
            items: items.to_vec(),
            items_bytes: items.iter().map(Item::len).sum(),
        }
    }

    fn pack(tenant: &str, id: u128) -> Item {
        Item::Pack(Arc::new(pack_of(tenant, &[id])))
    }

    fn names(receipts: Vec<Receipt>) -> Vec<String> {
        receipts.iter().map(|receipt| receipt.handle.to_string()).collect()
    }

    #[tokio::test]
    async fn a_message_is_done_when_all_its_items_are_and_not_before() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        let order = RemoteOrder {
            id: Uuid::now_v7(),
            tenant: TenantId::parse("a").expect("a tenant"),
            what: Ordered::Retire,
        };
        let items = [pack("a", 1), pack("b", 2), Item::Order(order.clone())];
        let admitted = flight.admit(receipt("m"), envelope(&items), now);
        assert_eq!(admitted.orders, std::slice::from_ref(&order));
        assert!(flight.bytes() > 0);
        let (first, second) = (flight.pop().expect("a pack"), flight.pop().expect("a pack"));
        assert_ne!(first.position, second.position);
        assert_eq!(flight.read(first.position).map(|pack| pack.id()), Some(first.pack.id()));
        assert!(flight.settled(&first.tenant, first.pack.id(), 1).is_empty());
        assert!(flight.ordered(order.id).is_empty());
        assert_eq!(names(flight.settled(&second.tenant, second.pack.id(), 1)), ["m"]);
        assert_eq!((flight.messages(), flight.bytes(), flight.read(first.position).is_none()), (0, 0, true));
    }

    #[tokio::test]
    async fn what_comes_twice_is_under_way_once_and_both_messages_are_done() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        let (one, two) = (pack("a", 1), pack("a", 2));
        flight.admit(receipt("first"), envelope(std::slice::from_ref(&one)), now);
        let held = flight.bytes();
        let again = flight.admit(receipt("again"), envelope(std::slice::from_ref(&one)), now);
        assert_eq!((again.repeated, flight.bytes()), (1, held), "it holds nothing more");
        flight.admit(receipt("both"), envelope(&[one.clone(), one.clone(), two]), now);
        let next = flight.pop().expect("a pack");
        assert_eq!(names(flight.settled(&next.tenant, next.pack.id(), 1)), ["first", "again"]);
        let next = flight.pop().expect("the other pack");
        assert!(flight.pop().is_none());
        assert_eq!(names(flight.settled(&next.tenant, next.pack.id(), 1)), ["both"]);
        assert_eq!(flight.bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_dropped_comes_again_and_says_how_often() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        flight.admit(receipt("m"), envelope(&[pack("a", 1), pack("a", 2)]), now);
        let (first, second) = (flight.pop().expect("a pack"), flight.pop().expect("a pack"));
        flight.dropped(&second.tenant, second.pack.id(), 1);
        flight.dropped(&first.tenant, first.pack.id(), 1);
        let again = flight.pop().expect("it comes again");
        assert_eq!((again.pack.id(), again.attempt), (first.pack.id(), 2));
        assert!(flight.pop().is_none(), "one at a time");
        assert!(flight.settled(&again.tenant, again.pack.id(), 2).is_empty());
        assert_eq!(flight.pop().map(|next| next.pack.id()), Some(second.pack.id()));
    }

    #[tokio::test]
    async fn messages_are_held_as_they_age_and_given_back_at_the_end() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        flight.admit(receipt("old"), envelope(&[pack("a", 1)]), now);
        let later = now + Duration::from_secs(60);
        flight.admit(receipt("young"), envelope(&[pack("a", 2)]), later);
        assert_eq!(names(flight.hold(Duration::from_secs(60), later)), ["old"]);
        assert!(flight.hold(Duration::from_secs(60), later).is_empty(), "it was held just now");
        assert_eq!(names(flight.end()), ["old", "young"]);
        assert!(flight.pop().is_none());
        let a = TenantId::parse("a").expect("a tenant");
        flight.dropped(&a, Uuid::now_v7(), 1);
        assert!(flight.settled(&a, Uuid::now_v7(), 1).is_empty(), "late answers mean nothing");
    }
}
