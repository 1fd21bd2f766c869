//! The feed against an authority that keeps its rows in a list.

use super::*;
use crate::{
    actors::testing::{CRASH, on_virtual_time, pack, tenant, until},
    model::{feed::FeedItem, pack::Pack},
    queue::Position,
    seal::{
        Decision, Seal, SealErasure, SealPack, SealTenant,
        erasure::{Erasure, ErasureKind},
    },
    sinks::{Condition, ListPage, ListQuery, Scan, Stats, StatsQuery, StoreError, VisibleHead},
};
use futures_util::{FutureExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::HashMap;
use tokio::sync::watch;
use uuid::Uuid;

/// The rows and void ranges of one tenant.
#[derive(Default, Clone)]
struct Rows {
    head: u64,
    entries: Vec<StoredEntry>,
    voids: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Store {
    tenants: Mutex<HashMap<TenantId, Rows>>,
    scans: AtomicUsize,
    failing: Mutex<Option<StoreError>>,
}

impl Store {
    /// Seals one pack per tenant, after a void range where one is given, and shows it.
    fn seal(&self, packs: Vec<(Pack, u64)>) -> Arc<DecidedSeal> {
        let mut tenants = self.tenants.lock().unwrap();
        let mut seal = Seal {
            n: 1,
            previous_crc: 0,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break: false,
            tenants: Vec::new(),
            packs: Vec::new(),
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        };
        for (i, (pack, void)) in packs.iter().enumerate() {
            let rows = tenants.entry(pack.tenant().clone()).or_default();
            let void = (*void > 0).then(|| (rows.head + 1, rows.head + void));
            let first_sequence = void.map_or(rows.head, |v| v.1) + 1;
            // Every third entry of a pack is a repeat and gets no number.
            let decisions: Vec<_> = (0..pack.len()).map(|k| if k % 3 == 2 { Decision::Duplicate } else { Decision::New }).collect();
            let mut next = first_sequence;
            for (k, _) in decisions.iter().enumerate().filter(|(_, d)| **d == Decision::New) {
                rows.entries.push(StoredEntry {
                    record: pack.record(k),
                    received_at: pack.header().received_at,
                    actor: pack.header().actor.clone(),
                    sequence: Some(next),
                });
                next += 1;
            }
            rows.head = next - 1;
            rows.voids.extend(void);
            seal.tenants.push(SealTenant {
                tenant: pack.tenant().clone(),
                head: rows.head,
                void,
                stored: next - first_sequence,
                duplicate: 0,
                dead_lettered: 0,
                accepted: pack.len() as u64,
                bytes: 0,
            });
            seal.packs.push(SealPack {
                pack_id: pack.id(),
                tenant: i as u32,
                positions: [Position { segment: 1, offset: 0 }].into_iter().collect(),
                decisions,
                refusal: None,
                first_sequence,
            });
        }
        Arc::new(DecidedSeal {
            seal,
            crc: 0,
            packs: packs.into_iter().map(|(pack, _)| Arc::new(pack)).collect(),
            encoded_len: 0,
        })
    }

    /// Erases the rows up to a number, and seals that.
    fn erase(&self, of: &str, upto: u64) -> Arc<DecidedSeal> {
        let head = {
            let mut tenants = self.tenants.lock().unwrap();
            let rows = tenants.get_mut(&tenant(of)).expect("rows");
            rows.entries.retain(|entry| entry.sequence > Some(upto));
            rows.voids = vec![(1, upto)];
            rows.head
        };
        let mut seal = DecidedSeal::clone(&self.seal(vec![]));
        seal.seal.tenants.push(SealTenant {
            tenant: tenant(of),
            head,
            void: None,
            stored: 0,
            duplicate: 0,
            dead_lettered: 0,
            accepted: 0,
            bytes: 0,
        });
        let (job, kind, cutoff) = (Uuid::nil(), ErasureKind::Cleanup, 0);
        let erasure = Erasure { job, kind, cutoff, head };
        seal.seal.erasures.push(SealErasure { tenant: 0, erasure });
        Arc::new(seal)
    }

    /// What a session with `filter` gets after `after`, as numbers and void ranges.
    fn expected(&self, of: &str, filter: &Filter, after: u64) -> Vec<(u64, u64)> {
        let rows = self.tenants.lock().unwrap()[&tenant(of)].clone();
        let numbers = rows.entries.iter().filter(|e| wants(filter, e)).filter_map(|e| e.sequence).map(|n| (n, n));
        let voids = rows.voids.iter().map(|(from, to)| ((*from).max(after + 1), *to));
        let mut all: Vec<_> = numbers.chain(voids).filter(|(from, to)| *from > after && from <= to).collect();
        all.sort_unstable();
        all
    }
}

fn wants(filter: &Filter, entry: &StoredEntry) -> bool {
    let around = Surroundings {
        sequence: entry.sequence.expect("stored"),
        actor: &entry.actor,
    };
    filter.matches(&entry.entry(), around)
}

impl Authority for Store {
    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.failing.lock().unwrap().clone() {
            return Box::pin(async { Err(error) });
        }
        let rows = self.tenants.lock().unwrap().get(scope.tenant()).cloned().unwrap_or_default();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let new = |e: &&StoredEntry| e.sequence > Some(after) && wants(&filter, e);
            let entries: Vec<_> = rows.entries.iter().filter(new).take(limit).cloned().collect();
            let upto = if entries.len() == limit {
                entries[limit - 1].sequence.expect("stored")
            } else {
                rows.head
            };
            let voids = rows.voids.into_iter().filter(|(from, to)| *to > after && *from <= upto).collect();
            Ok(Scan { entries, voids, upto })
        })
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        let head = self.tenants.lock().unwrap().get(scope.tenant()).map_or(0, |rows| rows.head);
        VisibleHead { head }
    }

    fn condition(&self, _: bool) -> Condition {
        Condition::default()
    }

    fn get(&self, _: &TenantScope, _: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        unreachable!("the feed only scans")
    }

    fn list(&self, _: &TenantScope, _: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        unreachable!("the feed only scans")
    }

    fn stats(&self, _: &TenantScope, _: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        unreachable!("the feed only scans")
    }

    fn count_erased(&self, _: &TenantScope, _: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        unreachable!("the feed only scans")
    }

    fn count_would_erase(&self, _: &TenantScope, _: ErasureKind, _: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        unreachable!("the feed only scans")
    }

    fn visible(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// A seal with one pack of one tenant: `n` entries of `action`, every third of them a repeat.
fn seal_of(store: &Store, of: &str, action: &str, n: usize) -> Arc<DecidedSeal> {
    store.seal(vec![(pack_of(of, "r", action, n), 0)])
}

fn pack_of(of: &str, request_id: &str, action: &str, n: usize) -> Pack {
    let entries: Vec<_> = (0..n).map(|i| (i as u128, action)).collect();
    pack(of, request_id, &entries)
}

fn scope(of: &str) -> TenantScope {
    TenantScope::new(tenant(of))
}

fn filter(action: &str) -> Filter {
    Filter {
        action: vec![action.to_lowercase()],
        ..Filter::default()
    }
}

/// A frame as a range; its JSON is looked at on the way.
fn range_of(item: &FeedItem, of: &str) -> (u64, u64) {
    match item {
        FeedItem::Entry { sequence, json } => {
            let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
            assert_eq!((json["sequence"].as_u64(), json["tenant_id"].as_str()), (Some(*sequence), Some(of)));
            (*sequence, *sequence)
        }
        FeedItem::Void { from, to } => (*from, *to),
        other => panic!("{other:?}"),
    }
}

/// Settings with room for `frames` frames of one entry per session.
fn room_for(frames: usize) -> FeedSettings {
    let store = Store::default();
    seal_of(&store, "a", "CREATE", 1);
    let entry = store.tenants.lock().unwrap()[&tenant("a")].entries[0].clone();
    let cost = catch_up::render_entry(&tenant("a"), &entry).len() + outbox::FRAME_OVERHEAD;
    FeedSettings {
        session_bytes: frames * (cost + 2), // numbers of up to three digits
        ..FeedSettings::default()
    }
}

/// A feed on this thread, and its store.
fn feed(settings: FeedSettings) -> (FeedHandle, Arc<Store>) {
    let store = Arc::new(Store::default());
    (FeedHandle::start_on(Shards::current(), store.clone(), settings), store)
}

impl FeedHandle {
    /// Waits until the broadcaster has offered everything.
    async fn settled(&self) {
        until(|| self.room.available_permits() == self.feed.settings.lane_bytes).await;
    }
}

/// The next frame of a session that runs on real time; a test that waits for ever fails.
async fn soon(session: &mut Session) -> FeedItem {
    tokio::time::timeout(Duration::from_secs(20), session.next()).await.expect("it hangs")
}

#[tokio::test]
async fn two_tenants_see_only_their_own_in_order_and_share_what_is_encoded() {
    let store = Arc::new(Store::default());
    let feed = FeedHandle::new(store.clone(), FeedSettings::default());
    feed.publish(&seal_of(&store, "a", "BEFORE", 10));
    let mut a1 = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::CatchUp).await.unwrap();
    let mut a2 = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::CatchUp).await.unwrap();
    let mut b = feed.subscribe(scope("b"), Filter::default(), None, OnSlow::CatchUp).await.unwrap();
    assert_eq!((feed.sessions(), a1.position(), b.position()), (3, 7, 0));
    // The first `next` finds that there is nothing to catch up, and goes live.
    assert!(a1.next().now_or_never().is_none() && a2.next().now_or_never().is_none() && b.next().now_or_never().is_none());
    for _ in 0..20 {
        feed.publish(&store.seal(vec![
            (pack_of("b", "r", "X", 2), 0),
            (pack_of("a", "r", "Y", 4), 0),
            (pack_of("c", "r", "Z", 1), 0),
        ]));
    }
    for n in 8..=67 {
        let (one, two) = (soon(&mut a1).await, soon(&mut a2).await);
        assert_eq!(range_of(&one, "a"), (n, n));
        let (FeedItem::Entry { json: one, .. }, FeedItem::Entry { json: two, .. }) = (one, two) else {
            panic!()
        };
        assert_eq!(one.as_ptr(), two.as_ptr(), "encoded once");
    }
    for n in 1..=40 {
        assert_eq!(range_of(&soon(&mut b).await, "b"), (n, n));
    }
    assert_eq!(store.scans.load(Ordering::Relaxed), 0, "nobody was slow");
    drop((a1, a2, b));
    assert!(feed.sessions() == 0 && feed.feed.hubs.is_empty());
    feed.close();
}

/// Reads until `upto` is dealt with; now and then drops a `next` half-way, or the session, and resumes.
async fn follow(feed: &FeedHandle, of: &str, filter: &Filter, after: u64, upto: u64, mut random: StdRng) -> Vec<(u64, u64)> {
    let mut got: Vec<(u64, u64)> = Vec::new();
    let mut session = feed.subscribe(scope(of), filter.clone(), Some(after), OnSlow::CatchUp).await.expect("room");
    while session.position() < upto {
        if random.random_ratio(1, 50) {
            let position = session.position();
            drop(session);
            session = feed.subscribe(scope(of), filter.clone(), Some(position), OnSlow::CatchUp).await.expect("room");
        }
        let cancelled = if random.random_ratio(1, 3) { session.next().now_or_never() } else { None };
        let item = match cancelled {
            Some(item) => item,
            // A session whose filter passes nothing more has no frame to wait for.
            None => match tokio::time::timeout(Duration::from_millis(1), session.next()).await {
                Ok(item) => item,
                Err(_) => continue,
            },
        };
        got.push(range_of(&item, of));
        if random.random_ratio(1, 10) {
            tokio::task::yield_now().await;
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resuming_under_concurrent_publishing_misses_none_and_repeats_none() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let store = Arc::new(Store::default());
        let settings = FeedSettings {
            session_bytes: random.random_range(1..4000),
            lane_bytes: random.random_range(1..4000),
            page: random.random_range(1..40),
            ..FeedSettings::default()
        };
        let feed = FeedHandle::new(store.clone(), settings);
        for _ in 0..10 {
            feed.publish(&store.seal(vec![(pack_of("a", "r", "EARLY", 5), 0)]));
        }
        let plans: Vec<_> = [Filter::default(), filter("ODD"), filter("NEVER")]
            .into_iter()
            .flat_map(|filter| [0, 1, 17, 40].map(|after| (filter.clone(), after)))
            .collect();
        let last = 40 + 300 * 2;
        let readers: Vec<_> = plans
            .iter()
            .cloned()
            .enumerate()
            .map(|(i, (filter, after))| {
                let (feed, random) = (feed.clone(), StdRng::seed_from_u64(1000 * seed + i as u64));
                tokio::spawn(async move { follow(&feed, "a", &filter, after, last, random).await })
            })
            .collect();
        let publisher = {
            let (feed, store) = (feed.clone(), store.clone());
            std::thread::spawn(move || {
                for i in 0..300 {
                    let action = if i % 2 == 1 { "ODD" } else { "EVEN" };
                    // Two numbers each: two entries, or a void and one.
                    let (n, void) = if random.random_ratio(1, 20) { (1, 1) } else { (3, 0) };
                    feed.publish(&store.seal(vec![(pack_of("a", "r", action, n), void), (pack_of("b", "r", "FOREIGN", 2), 0)]));
                    if random.random_ratio(1, 4) {
                        std::thread::yield_now();
                    }
                }
            })
        };
        for (reader, (filter, after)) in readers.into_iter().zip(plans) {
            let got = tokio::time::timeout(Duration::from_secs(60), reader)
                .await
                .expect("it hangs")
                .expect("a reader");
            assert_eq!(got, store.expected("a", &filter, after), "seed {seed}, after {after}, {:?}", filter.action);
        }
        publisher.join().expect("the publisher");
        feed.close();
    }
}

#[test]
fn a_slow_reader_that_asked_for_it_is_caught_up_from_the_store() {
    on_virtual_time(async {
        let (feed, store) = feed(room_for(10));
        let mut session = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::CatchUp).await.unwrap();
        assert!(session.next().now_or_never().is_none());
        for _ in 0..30 {
            feed.publish(&seal_of(&store, "a", "CREATE", 1));
        }
        feed.settled().await;
        let hub = feed.feed.hub(&tenant("a")).expect("a session");
        assert_eq!(hub[0].queued(), (0, 0), "its queue is let go");
        for n in 1..=30 {
            assert_eq!(range_of(&session.next().await, "a"), (n, n));
        }
        let scans = store.scans.load(Ordering::Relaxed);
        assert!(session.next().now_or_never().is_none());
        feed.publish(&seal_of(&store, "a", "CREATE", 1));
        assert_eq!(range_of(&session.next().await, "a"), (31, 31));
        assert_eq!(store.scans.load(Ordering::Relaxed), scans, "it is live again");
    });
}

#[test]
fn a_slow_reader_gets_gaps_and_goes_on_behind_them() {
    on_virtual_time(async {
        let (feed, store) = feed(room_for(10));
        let mut session = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::Gap).await.unwrap();
        assert!(session.next().now_or_never().is_none());
        for _ in 0..25 {
            feed.publish(&seal_of(&store, "a", "CREATE", 1));
        }
        feed.settled().await;
        let hub = feed.feed.hub(&tenant("a")).expect("a session");
        assert!(hub[0].queued().1 <= feed.feed.settings.session_bytes + outbox::FRAME_OVERHEAD);
        for n in 1..=7 {
            assert_eq!(range_of(&session.next().await, "a"), (n, n));
        }
        for _ in 0..3 {
            feed.publish(&seal_of(&store, "a", "CREATE", 1));
        }
        feed.settled().await;
        let numbers = [8, 9, 10];
        for n in numbers {
            assert_eq!(range_of(&session.next().await, "a"), (n, n));
        }
        assert_eq!(session.next().await, FeedItem::Gap { from: 11, to: 25 });
        for n in 26..=28 {
            assert_eq!(range_of(&session.next().await, "a"), (n, n));
        }
        assert_eq!((session.position(), store.scans.load(Ordering::Relaxed)), (28, 0));
    });
}

#[test]
fn a_slow_reader_that_asked_for_it_is_closed() {
    on_virtual_time(async {
        let (feed, store) = feed(room_for(10));
        let mut session = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::Close).await.unwrap();
        let mut calm = feed.subscribe(scope("a"), filter("NEVER"), None, OnSlow::Close).await.unwrap();
        assert!(session.next().now_or_never().is_none() && calm.next().now_or_never().is_none());
        for _ in 0..11 {
            feed.publish(&seal_of(&store, "a", "CREATE", 1));
        }
        feed.settled().await;
        for _ in 0..2 {
            assert_eq!(session.next().await, FeedItem::Closed(FeedEnd::TooSlow));
        }
        assert!(calm.next().now_or_never().is_none(), "what a filter leaves out fills no queue");
        assert_eq!(calm.position(), 11);
    });
}

#[test]
fn void_ranges_are_shown_with_filters_too_in_their_place() {
    on_virtual_time(async {
        let (feed, store) = feed(FeedSettings::default());
        let mut live = feed.subscribe(scope("a"), filter("WANTED"), None, OnSlow::CatchUp).await.unwrap();
        assert!(live.next().now_or_never().is_none());
        feed.publish(&seal_of(&store, "a", "OTHER", 4));
        feed.publish(&store.seal(vec![(pack_of("a", "r", "OTHER", 1), 1000)]));
        feed.publish(&store.seal(vec![(pack_of("a", "r", "WANTED", 2), 5)]));
        let wanted = [(4, 1003), (1005, 1009), (1010, 1010), (1011, 1011)];
        let mut resumed = feed.subscribe(scope("a"), filter("WANTED"), Some(2), OnSlow::CatchUp).await.unwrap();
        let mut inside = feed.subscribe(scope("a"), filter("WANTED"), Some(500), OnSlow::CatchUp).await.unwrap();
        assert_eq!(range_of(&inside.next().await, "a"), (501, 1003), "from where it stood");
        for range in wanted {
            assert_eq!(range_of(&live.next().await, "a"), range);
            assert_eq!(range_of(&resumed.next().await, "a"), range);
        }
        assert_eq!(store.expected("a", &filter("WANTED"), 2), wanted);
    });
}

#[test]
fn what_was_queued_read_or_announced_before_an_erasure_is_not_shown_after_it() {
    on_virtual_time(async {
        let (feed, store) = feed(FeedSettings::default());
        let open = async |after| feed.subscribe(scope("a"), Filter::default(), after, OnSlow::CatchUp).await.expect("room");
        let mut live = open(None).await;
        let mut other = feed.subscribe(scope("b"), Filter::default(), None, OnSlow::CatchUp).await.expect("room");
        assert!(live.next().now_or_never().is_none() && other.next().now_or_never().is_none());
        for _ in 0..6 {
            feed.publish(&store.seal(vec![(pack_of("a", "r", "OLD", 1), 0), (pack_of("b", "r", "X", 1), 0)]));
        }
        feed.settled().await;
        let mut in_a_page = open(Some(0)).await;
        for session in [&mut live, &mut in_a_page] {
            assert_eq!(range_of(&session.next().await, "a"), (1, 1));
        }
        let mut reading = open(Some(0)).await;
        assert!(reading.next().now_or_never().is_none(), "the store is asked");
        // Waits for the broadcaster when the erasure comes.
        feed.publish(&seal_of(&store, "a", "OLD", 1));
        feed.publish(&store.erase("a", 7));
        feed.publish(&seal_of(&store, "a", "NEW", 2));
        for (session, first) in [(&mut live, 2), (&mut in_a_page, 2), (&mut reading, 1)] {
            assert_eq!(range_of(&session.next().await, "a"), (first, 7), "erased");
            for n in [8, 9] {
                assert_eq!(range_of(&session.next().await, "a"), (n, n));
            }
            assert!(session.next().now_or_never().is_none());
        }
        feed.settled().await;
        let scans = store.scans.load(Ordering::Relaxed);
        feed.publish(&store.seal(vec![(pack_of("a", "r", "NEW", 1), 0), (pack_of("b", "r", "X", 1), 0)]));
        for mut session in [live, in_a_page, reading] {
            assert_eq!(range_of(&session.next().await, "a"), (10, 10));
        }
        for n in 1..=7 {
            assert_eq!(range_of(&other.next().await, "b"), (n, n));
        }
        assert_eq!(store.scans.load(Ordering::Relaxed), scans, "they are live again, and other tenants always were");
    });
}

#[test]
fn sessions_are_bounded_counted_and_closed_at_shutdown() {
    on_virtual_time(async {
        let (feed, store) = feed(FeedSettings {
            sessions: 3,
            tenant_sessions: 2,
            ..FeedSettings::default()
        });
        feed.publish(&seal_of(&store, "a", "CREATE", 2));
        let open = async |of: &str, after| feed.subscribe(scope(of), Filter::default(), after, OnSlow::CatchUp).await;
        assert_eq!(open("a", Some(3)).await.err(), Some(SubscribeError::BeyondHead { head: 2 }));
        assert_eq!(open("new", Some(1)).await.err(), Some(SubscribeError::BeyondHead { head: 0 }));
        assert_eq!(feed.sessions(), 0);
        let mut waiting = open("a", Some(2)).await.unwrap();
        let mut behind = open("a", Some(0)).await.unwrap();
        assert_eq!(open("a", None).await.err(), Some(SubscribeError::TooMany), "one tenant's bound");
        let other = open("b", None).await.unwrap();
        assert_eq!(open("c", None).await.err(), Some(SubscribeError::TooMany));
        drop(other);
        drop(open("c", None).await.expect("a place is free again"));
        assert_eq!(feed.sessions(), 2);
        assert_eq!(range_of(&behind.next().await, "a"), (1, 1));

        let mut next = Box::pin(waiting.next());
        assert!(futures_util::poll!(&mut next).is_pending());
        feed.close();
        assert_eq!(next.await, FeedItem::Closed(FeedEnd::Shutdown));
        assert_eq!(behind.next().await, FeedItem::Closed(FeedEnd::Shutdown), "in the middle of a page");
        assert_eq!(open("b", None).await.err(), Some(SubscribeError::Stopping));
        assert_eq!(feed.sessions(), 2);
    });
}

#[test]
fn a_panic_of_the_broadcaster_costs_nobody_an_entry() {
    on_virtual_time(async {
        let (feed, store) = feed(FeedSettings::default());
        let mut session = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::Gap).await.unwrap();
        let mut other = feed.subscribe(scope("b"), Filter::default(), None, OnSlow::Gap).await.unwrap();
        assert!(session.next().now_or_never().is_none() && other.next().now_or_never().is_none());
        for round in 0..3 {
            let bad = vec![(pack_of("a", CRASH, "X", 2), 0), (pack_of("b", "r", "X", 1), 0)];
            feed.publish(&seal_of(&store, "a", "CREATE", 1));
            feed.publish(&seal_of(&store, "b", "CREATE", 1));
            feed.publish(&store.seal(bad)); // nothing after it tells of what was missed
            for n in 1..=3 {
                assert_eq!(range_of(&session.next().await, "a"), (3 * round + n, 3 * round + n));
            }
            for n in 1..=2 {
                assert_eq!(range_of(&other.next().await, "b"), (2 * round + n, 2 * round + n));
            }
        }
    });
}

#[test]
fn a_full_lane_costs_nobody_an_entry() {
    on_virtual_time(async {
        let (feed, store) = feed(FeedSettings {
            lane_bytes: 1,
            ..FeedSettings::default()
        });
        let mut session = feed.subscribe(scope("a"), Filter::default(), None, OnSlow::Close).await.unwrap();
        assert!(session.next().now_or_never().is_none());
        // The broadcaster has no turn between these: the last two find the lane full.
        for _ in 0..3 {
            feed.publish(&seal_of(&store, "a", "CREATE", 1));
        }
        for n in 1..=3 {
            assert_eq!(range_of(&session.next().await, "a"), (n, n));
        }
    });
}

#[test]
fn a_busy_store_is_asked_again_and_a_broken_one_ends_the_session() {
    on_virtual_time(async {
        let (feed, store) = feed(FeedSettings::default());
        feed.publish(&seal_of(&store, "a", "CREATE", 2));
        let mut session = feed.subscribe(scope("a"), Filter::default(), Some(0), OnSlow::CatchUp).await.unwrap();
        *store.failing.lock().unwrap() = Some(StoreError::Busy);
        assert!(tokio::time::timeout(Duration::from_millis(200), session.next()).await.is_err());
        *store.failing.lock().unwrap() = None;
        assert_eq!(range_of(&session.next().await, "a"), (1, 1));
        *store.failing.lock().unwrap() = Some(StoreError::Damaged("part 7".into()));
        let mut session = feed.subscribe(scope("a"), Filter::default(), Some(0), OnSlow::CatchUp).await.unwrap();
        let FeedItem::Closed(FeedEnd::StoreFailed(why)) = session.next().await else {
            panic!()
        };
        assert!(why.contains("part 7"));
    });
}
