//! What waits to be sent into one partition, and when it goes out. Pure: no clock, no I/O.
//!
//! A request to the engine costs money and time however little it carries. So what arrives gathers for a while, the **linger**: short when
//! little arrives (waiting would save nothing), longer the more arrives, up to a quarter of a second at 10,000 entries or 100
//! packs a second, where it makes of hundreds of requests a handful. What fills a batch goes at once. (ADR 0024)
//!
//! Within a batch tenants take turns, one item each, so that one that floods does not make the others wait; the items of a batch
//! are grouped into messages by bucket of tenants.

use super::{
    Limits,
    envelope::{Item, MAX_ITEMS_BYTES},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// So many entries a second are worth the longest linger.
const ENTRIES: f64 = 10_000.0;
/// So are so many packs.
const PACKS: f64 = 100.0;
/// Rates are those of about the last second.
const MEMORY: Duration = Duration::from_secs(1);
/// How much of what the limits allow is filled, so that an estimate that is a little wrong still fits.
const FILL: f64 = 0.9;

/// How long items gather.
#[derive(Debug, Clone, Copy)]
pub struct Linger {
    /// At least.
    pub shortest: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Linger {
    fn default() -> Self {
        Self {
            shortest: Duration::from_millis(5),
            longest: Duration::from_millis(250),
        }
    }
}

/// See the module. `T` is what belongs to an item: who waits for it.
#[derive(Debug)]
pub struct Gather<T> {
    limits: Limits,
    linger: Linger,
    lanes: HashMap<u64, VecDeque<(Item, T)>>,
    turns: VecDeque<u64>,
    bytes: usize,
    deadline: Option<Instant>,
    /// Entries and packs of about the last second.
    level: [f64; 2],
    level_at: Option<Instant>,
    /// Encoded bytes of a byte of items, lately.
    ratio: f64,
}

/// Items that go into one message.
#[derive(Debug)]
pub struct Group<T> {
    /// Bucket of their tenants.
    pub key: u64,
    /// The items.
    pub items: Vec<(Item, T)>,
}

impl<T> Gather<T> {
    /// Nothing waits.
    pub fn new(limits: Limits, linger: Linger) -> Self {
        Self {
            limits,
            linger,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            bytes: 0,
            deadline: None,
            level: [0.0; 2],
            level_at: None,
            ratio: 1.0,
        }
    }

    /// An item arrives.
    pub fn push(&mut self, item: Item, with: T, now: Instant) {
        let entries = match &item {
            Item::Pack(pack) => pack.len() as f64,
            Item::Order(_) => 1.0,
        };
        self.decay(now);
        // By what came before it: who comes alone does not wait for its own sake.
        let load = (self.level[0] / ENTRIES).max(self.level[1] / PACKS).min(1.0);
        self.deadline
            .get_or_insert(now + self.linger.shortest + self.linger.longest.saturating_sub(self.linger.shortest).mul_f64(load));
        self.level[0] += entries;
        self.level[1] += 1.0;
        self.bytes += item.len();
        let tenant = item.tenant().stable_hash();
        let lane = self.lanes.entry(tenant).or_default();
        if lane.is_empty() {
            self.turns.push_back(tenant);
        }
        lane.push_back((item, with));
    }

    /// When the next batch is to go; `None` when nothing waits.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let deadline = self.deadline?;
        Some(if self.bytes >= self.batch_bytes() { now } else { deadline })
    }

    /// The items of the next batch, by message. What is left is due at once.
    pub fn take(&mut self, now: Instant) -> Vec<Group<T>> {
        let mut groups: BTreeMap<u64, Vec<Group<T>>> = BTreeMap::new();
        let (mut sizes, mut messages, mut bytes) = (HashMap::new(), 0, 0);
        let (message, batch) = (self.message_bytes(), self.batch_bytes());
        while let Some(tenant) = self.turns.pop_front() {
            let lane = self.lanes.get_mut(&tenant).expect("who has a turn has a lane");
            let (item, _) = lane.front().expect("who has a turn has an item");
            let (len, key) = (item.len(), (item.tenant().owner().stable_hash() >> 32) % self.limits.buckets.max(1));
            let size: &mut usize = sizes.entry(key).or_insert(usize::MAX);
            let begins = size.saturating_add(len) > message;
            if bytes > 0 && (bytes + len > batch || (begins && messages == self.limits.batch_messages)) {
                self.turns.push_front(tenant);
                break;
            }
            let next = lane.pop_front().expect("it was looked at");
            if lane.is_empty() {
                self.lanes.remove(&tenant);
            } else {
                self.turns.push_back(tenant);
            }
            let of_key = groups.entry(key).or_default();
            if begins {
                of_key.push(Group { key, items: Vec::new() });
                (*size, messages) = (0, messages + 1);
            }
            *size += len;
            bytes += len;
            of_key.last_mut().expect("a message has begun").items.push(next);
        }
        self.bytes -= bytes;
        self.deadline = (!self.turns.is_empty()).then_some(now);
        groups.into_values().flatten().collect()
    }

    /// So many bytes of items became so many encoded ones.
    pub fn encoded(&mut self, items: usize, encoded: usize) {
        if items > 0 {
            let seen = (encoded as f64 / items as f64).clamp(0.01, 1.0);
            // What is worse than thought is believed at once: a message that does not fit is encoded again in halves.
            self.ratio = if seen > self.ratio { seen } else { self.ratio.mul_add(0.8, seen * 0.2) };
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn message_bytes(&self) -> usize {
        self.fill(self.limits.message_bytes).min(MAX_ITEMS_BYTES)
    }

    fn batch_bytes(&self) -> usize {
        let most = self.message_bytes().saturating_mul(self.limits.batch_messages);
        self.fill(self.limits.batch_bytes).min(most)
    }

    fn fill(&self, encoded: usize) -> usize {
        (encoded as f64 * FILL / self.ratio) as usize
    }

    fn decay(&mut self, now: Instant) {
        let since = self.level_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let left = (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.level = self.level.map(|level| level * left);
        self.level_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pack::tests::pack_of;
    use std::sync::Arc;

    const LIMITS: Limits = Limits {
        message_bytes: 4000,
        batch_bytes: 8000,
        batch_messages: 3,
        buckets: 1,
    };

    fn item(tenant: &str, id: u128) -> Item {
        Item::Pack(Arc::new(pack_of(tenant, &[id])))
    }

    fn gather() -> Gather<u128> {
        Gather::new(LIMITS, Linger::default())
    }

    #[tokio::test]
    async fn who_comes_alone_waits_the_shortest_and_a_crowd_the_longest() {
        let (mut gather, start) = (gather(), Instant::now());
        gather.push(item("a", 1), 1, start);
        assert_eq!(gather.due(start), Some(start + Duration::from_millis(5)));
        assert_eq!(gather.take(start).len(), 1);
        assert_eq!(gather.due(start), None);
        // 100 a second for a few seconds.
        let mut now = start;
        for id in 0..500 {
            now += Duration::from_millis(10);
            gather.push(item("a", id), id, now);
            gather.take(now);
        }
        now += Duration::from_millis(10);
        gather.push(item("a", 501), 501, now);
        let wait = gather.due(now).expect("something waits") - now;
        assert!(wait > Duration::from_millis(240) && wait <= Duration::from_millis(250), "{wait:?}");
        gather.take(now);
        now += Duration::from_secs(10);
        gather.push(item("a", 502), 502, now);
        assert!(gather.due(now).expect("something waits") - now < Duration::from_millis(6), "the crowd is gone");
    }

    #[tokio::test]
    async fn what_fills_a_batch_goes_at_once_within_the_limits_and_tenants_take_turns() {
        let (mut gather, now) = (gather(), Instant::now());
        for id in 0..100 {
            gather.push(item("flood", id), id, now);
        }
        gather.push(item("calm", 1000), 1000, now);
        assert_eq!(gather.due(now), Some(now));
        let mut all = Vec::new();
        while gather.due(now).is_some() {
            let batch = gather.take(now);
            assert!(batch.len() <= LIMITS.batch_messages);
            let sizes: Vec<usize> = batch.iter().map(|group| group.items.iter().map(|(item, _)| item.len()).sum()).collect();
            assert!(sizes.iter().all(|size| *size <= LIMITS.message_bytes) && sizes.iter().sum::<usize>() <= LIMITS.batch_bytes);
            all.extend(batch.into_iter().flat_map(|group| group.items.into_iter().map(|(_, with)| with)));
        }
        assert_eq!((all.len(), gather.bytes(), gather.lanes.len()), (101, 0, 0));
        assert!(all.iter().position(|id| *id == 1000) <= Some(1), "the calm tenant is second at most");
        let flood: Vec<_> = all.into_iter().filter(|id| *id < 1000).collect();
        assert!(flood.is_sorted(), "a tenant keeps its order");
    }

    #[tokio::test]
    async fn what_compresses_well_fills_more() {
        let (mut gather, now) = (gather(), Instant::now());
        for _ in 0..50 {
            gather.encoded(1000, 100);
        }
        for id in 0..400 {
            gather.push(item("a", id), id, now);
        }
        let batch = gather.take(now);
        let bytes: usize = batch.iter().flat_map(|group| &group.items).map(|(item, _)| item.len()).sum();
        assert!(bytes > 5 * LIMITS.batch_bytes, "{bytes}");
        gather.encoded(1000, 1000);
        assert!(gather.batch_bytes() < LIMITS.batch_bytes, "what is worse than thought is believed at once");
    }
}
