//! Queue, log, sequencer and follower together, on a simulated disk, with a store that is a table in memory.

use super::*;
use crate::seal::DecidedSeal;
use crate::{
    fs::sim::{CrashMode, SimFs},
    model::{
        batch::{Delivery, Work},
        pack::tests::pack_of,
        tenant::{TenantId, TenantScope},
        ticket::Ticket,
    },
    queue::{
        AcceptError, Decided, Producer,
        embedded::{EmbeddedQueue, QueueSettings, recover},
        wal::WalSettings,
    },
    seal::{
        Decision, Refusal,
        source::{ShardAt, ShardName, SourceReport},
    },
    sinks::StoreError,
};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::runtime::Handle;

/// A store that is a table; it can be told to block, and its ledger to fail.
#[derive(Default)]
struct Table {
    rows: Mutex<HashMap<(TenantId, Uuid), (u64, ContentHash)>>,
    times: Mutex<HashMap<(TenantId, u64), (i64, i64)>>,
    seals: Mutex<SealState>,
    blocked: Mutex<bool>,
    changed: Condvar,
    ledger_fails: AtomicBool,
    trimmable: watch::Sender<u64>,
    /// The last seal that came, taken or not.
    came: AtomicU64,
}

impl Table {
    fn block(&self, blocked: bool) {
        *self.blocked.lock().expect("whole") = blocked;
        self.changed.notify_all();
    }

    fn numbers(&self, tenant: &str) -> Vec<u64> {
        let rows = self.rows.lock().expect("whole");
        let mut numbers: Vec<_> = rows.iter().filter(|((t, _), _)| t.as_str() == tenant).map(|(_, (n, _))| *n).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl SealFollower for Table {
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        self.came.store(seal.seal.n, Ordering::Relaxed);
        drop(self.changed.wait_while(self.blocked.lock().expect("whole"), |blocked| *blocked));
        let mut rows = self.rows.lock().expect("whole");
        let mut times = self.times.lock().expect("whole");
        for made in &seal.seal.erasures {
            let erased = &seal.seal.tenants[made.tenant as usize].tenant;
            rows.retain(|(tenant, _), (sequence, _)| {
                let (timestamp, received_at) = times[&(tenant.clone(), *sequence)];
                tenant != erased || !made.erasure.covers(timestamp, received_at, *sequence)
            });
        }
        for row in seal.entries() {
            if let Some(sequence) = row.sequence {
                let at = (row.entry.timestamp(), row.pack.header().received_at);
                times.insert((row.pack.tenant().clone(), sequence), at);
                rows.insert((row.pack.tenant().clone(), row.entry.id()), (sequence, row.entry.hash()));
            }
        }
        self.seals.lock().expect("whole").fold(&seal.seal, seal.crc);
        Ok(())
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        if self.ledger_fails.load(Ordering::Relaxed) {
            return Err(StoreError::Busy);
        }
        let rows = self.rows.lock().expect("whole");
        Ok(keys.iter().map(|key| rows.get(key).map(|(_, hash)| *hash)).collect())
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        self.trimmable.subscribe()
    }
}

impl DeadLetterSink for Table {
    fn submit(&self, _: &Arc<DecidedSeal>) {}
}

impl Publisher for Table {
    fn publish(&self, _: &Arc<DecidedSeal>) {}
}

/// A running pipeline. `route` does what the actors do, or drops deliveries.
struct Line {
    queue: EmbeddedQueue,
    sequencer: Sequencer,
    store: Arc<Table>,
    handle: SequencerHandle,
}

impl Line {
    fn start(fs: &SimFs, route: impl Fn(&Delivery) -> bool + Send + 'static) -> Self {
        Self::start_with(fs, route, None)
    }

    fn start_with(fs: &SimFs, route: impl Fn(&Delivery) -> bool + Send + 'static, sources: Option<Arc<dyn SourceProgress>>) -> Self {
        let settings = WalSettings {
            segment_bytes: 1 << 20,
            ..WalSettings::default()
        };
        let found = recover(Arc::new(fs.clone()), "/wal".into(), settings, SealState::default(), 0).expect("the log opens");
        let store = Arc::new(Table::default());
        let queue = EmbeddedQueue::new(found.wal, found.folded.start.clone(), QueueSettings::default(), Handle::current());
        let gap = found.seal_may_be_lost.then(|| Gap {
            largest_seal_named: found.largest_seal_named,
            complete_upto: found.folded.complete_upto,
            tenants: Default::default(),
        });
        let start = Start {
            state: found.folded.start.state,
            known: found.folded.decided.into_iter().collect(),
            gap,
            replay: found.folded.seals,
            window: None,
        };
        let parts = Parts {
            log: Arc::new(queue.clone()),
            follower: store.clone(),
            dead_letters: store.clone(),
            publisher: store.clone(),
            sources,
        };
        let (sequencer, handle) = Sequencer::start(parts, start, SequencerSettings::default()).expect("threads");
        let mut deliveries = queue.start(Arc::new(handle.clone()), store.trimmable());
        let orders = handle.clone();
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                if route(&delivery) {
                    let batch = Batch {
                        tenant: delivery.pack.tenant().clone(),
                        bytes: delivery.pack.bytes().len(),
                        works: vec![Work { delivery, credit: None }],
                        refusal: None,
                    };
                    tokio::spawn(handle.submit(batch));
                }
            }
        });
        Self {
            queue,
            sequencer,
            store,
            handle: orders,
        }
    }

    /// An orderly stop.
    async fn stop(self) {
        let Self { queue, sequencer, .. } = self;
        let stopped = tokio::task::spawn_blocking(move || {
            queue.stop_accepting();
            queue.stop_delivery();
            sequencer.stop();
            queue.close();
        });
        stopped.await.expect("nothing panicked");
    }

    async fn store(&self, tenant: &str, ids: &[u128]) -> Decided {
        let accepted = self
            .queue
            .accept(pack_of(tenant, ids), Some(Duration::from_secs(30)))
            .await
            .expect("there is room");
        accepted.decided.expect("it was decided in time")
    }
}

fn scope(tenant: &str) -> TenantScope {
    TenantScope::new(TenantId::parse(tenant).expect("a tenant"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_numbered_once_found_and_counted_also_after_a_restart() {
    let fs = SimFs::new();
    let line = Line::start(&fs, |_| true);
    let new = |stored, duplicate| Decided {
        stored,
        duplicate,
        dead_lettered: 0,
    };
    assert_eq!(line.store("a", &[1, 2, 3]).await, new(3, 0));
    assert_eq!(line.store("a", &[3, 4, 4]).await, new(1, 2));
    assert_eq!(line.store("b", &[1]).await, new(1, 0));
    line.stop().await;
    let line = Line::start(&fs, |_| true);
    assert_eq!(line.store("a", &[4, 5]).await, new(1, 1));
    assert_eq!((line.store.numbers("a"), line.store.numbers("b")), (vec![1, 2, 3, 4, 5], vec![1]));
    let counters = line.queue.counters(&scope("a"));
    assert_eq!(
        (counters.accepted, counters.stored, counters.duplicate, counters.dead_lettered, counters.pending),
        (8, 5, 3, 0, 0)
    );
    assert_eq!(line.store.seals.lock().expect("whole").tenant(scope("a").tenant()).head, 5);
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_power_cut_and_is_pending_until_it_is_shown() {
    let fs = SimFs::new();
    let line = Line::start(&fs, |_| true);
    line.store("a", &[1, 2]).await;
    line.store.block(true);
    for id in 3..20 {
        assert_eq!(line.queue.accept(pack_of("a", &[id]), None).await.expect("room").decided, None);
    }
    let pending = line.queue.pending(&scope("a"), Uuid::from_u128(7)).expect("durable and not shown");
    assert_eq!((pending.entry().id().as_u128(), pending.sequence), (7, None));
    assert!(line.queue.pending(&scope("b"), Uuid::from_u128(7)).is_none(), "another tenant's entry");
    let cut = fs.crash(5, CrashMode::Tear);
    let next = Line::start(&cut, |_| true);
    next.store("a", &[99]).await;
    let mut undecided = next.queue.undecided();
    while undecided.1 > 0 {
        tokio::task::yield_now().await;
        undecided = next.queue.undecided();
    }
    assert_eq!(next.store.numbers("a"), (1..=20).collect::<Vec<_>>());
    let counters = next.queue.counters(&scope("a"));
    assert_eq!((counters.accepted, counters.stored, counters.pending), (20, 20, 0));
    next.stop().await;
    line.store.block(false);
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_id_is_new_to_the_next_seal_and_the_count_comes_back_once() {
    let fs = SimFs::new();
    let line = Line::start(&fs, |_| true);
    let (a, job) = (scope("a").tenant().clone(), Uuid::from_u128(77));
    line.store("a", &[1, 2, 3]).await;
    line.store("b", &[1]).await;
    // The store stands still: the erasure is durable and not applied when the id comes again.
    line.store.block(true);
    let before = line.store.came.load(Ordering::Relaxed);
    let erased = tokio::spawn(line.handle.erase(a.clone(), ErasureKind::Cleanup, i64::MAX, job));
    while line.store.came.load(Ordering::Relaxed) == before {
        tokio::task::yield_now().await;
    }
    let accepted = line.queue.accept(pack_of("a", &[2, 4]), None).await;
    accepted.expect("there is room");
    let again = tokio::spawn(line.handle.erase(a.clone(), ErasureKind::Cleanup, i64::MAX, job));
    line.store.block(false);
    assert_eq!((erased.await.expect("no panic"), again.await.expect("no panic")), (Ok(()), Ok(())));
    assert_eq!(line.store("a", &[3, 5]).await.stored, 2);
    let (numbers, others) = (line.store.numbers("a"), line.store.numbers("b"));
    assert_eq!((numbers, others), (vec![4, 5, 6, 7], vec![1]));
    let pending = |line: &Line| {
        let seals = line.store.seals.lock().expect("whole");
        seals.erasures_of(&a).map_or(0, |all| all.pending().len())
    };
    assert_eq!(pending(&line), 1, "the same job again is the same erasure");
    assert_eq!(line.handle.removed(a.clone(), Uuid::from_u128(78), 9).await, Ok(()), "of no erasure");
    assert_eq!((pending(&line), line.queue.counters(&scope("a")).erased), (1, 0));
    for _ in 0..2 {
        assert_eq!(line.handle.removed(a.clone(), job, 3).await, Ok(()));
    }
    assert_eq!((pending(&line), line.queue.counters(&scope("a")).erased), (0, 3));
    let handle = line.handle.clone();
    line.stop().await;
    assert_eq!(handle.erase(a.clone(), ErasureKind::Cleanup, 0, job).await, Err(Ended));
    let line = Line::start(&fs, |_| true);
    assert_eq!(line.store("a", &[1, 5]).await.stored, 1);
    assert_eq!(line.queue.counters(&scope("a")).erased, 3);
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_fails_delays_and_a_dropped_delivery_comes_again() {
    let fs = SimFs::new();
    let line = Line::start(&fs, |delivery| delivery.attempt > 2);
    line.store.ledger_fails.store(true, Ordering::Relaxed);
    let both = async { tokio::join!(line.store("a", &[1]), line.store("a", &[1, 2])) };
    let repair = async { line.store.ledger_fails.store(false, Ordering::Relaxed) };
    let ((one, two), ()) = tokio::join!(both, repair);
    assert_eq!((one.stored + two.stored, one.duplicate + two.duplicate), (2, 1));
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_never_decided_becomes_dead_letters_and_its_neighbour_does_not() {
    let fs = SimFs::new();
    let line = Line::start(&fs, |delivery| delivery.pack.entry(0).id().as_u128() != 666);
    let (poison, neighbour) = tokio::join!(line.store("a", &[666, 667]), line.store("a", &[1]));
    assert_eq!((poison.dead_lettered, poison.stored, neighbour.stored), (2, 0, 1));
    let counters = line.queue.counters(&scope("a"));
    assert_eq!((counters.accepted, counters.dead_lettered, counters.stored), (3, 2, 1));
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_queue_takes_nothing_and_a_stopped_sequencer_drops_tickets() {
    let fs = SimFs::new();
    let line = Line::start(&fs, |_| true);
    let queue = line.queue.clone();
    line.stop().await;
    assert!(matches!(queue.accept(pack_of("a", &[1]), None).await, Err(AcceptError::Unavailable { .. })));
}

#[test]
fn the_gap_seal_moves_every_head_past_what_may_be_lost() {
    let mut state = SealState { n: 7, ..SealState::default() };
    state.tenants.entry(scope("a").tenant().clone()).or_default().head = 5;
    let gap = Gap {
        largest_seal_named: 9,
        complete_upto: 6,
        tenants: [scope("b").tenant().clone()].into(),
    };
    let mut core = Core::new(Uuid::nil(), state, KnownPacks::default(), Some(gap), 0);
    let draft = core.gap_seal(1).expect("a gap");
    let jump = 4 * core::GAP;
    let voids: Vec<_> = draft.seal.tenants.iter().map(|t| (t.tenant.to_string(), t.head, t.void)).collect();
    let expected = vec![("a".to_string(), 5 + jump, Some((6, 5 + jump))), ("b".to_string(), jump, Some((1, jump)))];
    assert_eq!((draft.seal.n, draft.seal.chain_break, draft.seal.previous_crc, voids), (10, true, 0, expected));
    let encoded = codec::encode(&draft.seal);
    core.adopt(draft, &encoded);
    assert!(core.gap_seal(1).is_none(), "once");
    let pack = Undecided {
        pack: Arc::new(pack_of("b", &[1])),
        refusal: None,
    };
    let plan = core.plan(vec![pack], 1);
    let next = core.decide(plan, &[None], 1, &mut |_| SmallVec::new()).seal;
    assert_eq!((next.n, next.packs[0].first_sequence, next.chain_break), (11, jump + 1, false));
}

#[test]
fn duplicates_and_conflicts_are_found_in_the_seal_the_window_and_the_ledger() {
    let mut core = Core::new(Uuid::nil(), SealState::default(), KnownPacks::default(), None, 0);
    let item = |ids: &[u128]| Undecided {
        pack: Arc::new(pack_of("a", ids)),
        refusal: None,
    };
    let first = item(&[1, 2, 1]);
    let plan = core.plan(vec![first.clone(), first.clone()], 1);
    assert_eq!(plan.lookups.len(), 3, "the second delivery of one pack is dropped");
    // The ledger has id 2 with other content.
    let draft = core.decide(plan, &[None, Some(77), None], 1, &mut |_| SmallVec::new());
    assert_eq!(draft.seal.packs[0].decisions, [Decision::New, Decision::Conflict, Decision::Duplicate]);
    let (t, encoded) = (&draft.seal.tenants[0], codec::encode(&draft.seal));
    assert_eq!((t.head, t.stored, t.duplicate, t.dead_lettered, t.accepted), (1, 1, 1, 1, 3));
    core.adopt(draft, &encoded);
    assert!(core.plan(vec![first], 1).is_empty(), "a known pack is dropped unread");
    let plan = core.plan(vec![item(&[1])], 1);
    assert!(plan.lookups.is_empty(), "the window knows it");
    assert_eq!(
        core.decide(plan, &[], 1, &mut |_| SmallVec::new()).seal.packs[0].decisions,
        [Decision::Duplicate]
    );
    core.applied(1);
    assert_eq!(
        (core.plan(vec![item(&[1])], 1).lookups.len(), core.window_bytes()),
        (1, 0),
        "the ledger is asked once the window let it go"
    );
    let refused = Undecided {
        refusal: Some(Refusal::Poison),
        ..item(&[1, 9])
    };
    let plan = core.plan(vec![refused], 1);
    let draft = core.decide(plan, &[], 1, &mut |_| SmallVec::new());
    assert_eq!(
        (&draft.seal.packs[0].decisions[..], draft.seal.tenants[0].dead_lettered),
        (&[Decision::Refused; 2][..], 2)
    );
}

#[test]
fn a_server_made_id_is_looked_up_again_after_an_erasure() {
    const NOW: i64 = 1_700_000_000_000;
    let mut core = Core::new(Uuid::nil(), SealState::default(), KnownPacks::default(), None, NOW - 10 * memory::SKEW_MS);
    let made = |n: u128| Uuid::from_u128((NOW as u128) << 80 | 7 << 76 | 2 << 62 | n);
    let item = |n: u128, client_id| Undecided {
        pack: Arc::new(crate::model::pack::tests::pack_with("a", &[made(n).as_u128()], client_id)),
        refusal: None,
    };
    // The client sends an id again that the server made for it, before the server's own entry is decided.
    let plan = core.plan(vec![item(1, true)], NOW);
    let draft = core.decide(plan, &[None], NOW, &mut |_| SmallVec::new());
    let encoded = codec::encode(&draft.seal);
    core.adopt(draft, &encoded);
    core.applied(1);
    let known = |core: &Core, n| {
        let plan = core.plan(vec![item(n, false)], NOW);
        let (asked, answers) = (plan.lookups.len(), vec![None; plan.lookups.len()]);
        (asked, core.decide(plan, &answers, NOW, &mut |_| SmallVec::new()).seal.packs[0].decisions[0])
    };
    assert_eq!(
        (known(&core, 1), known(&core, 2)),
        ((0, Decision::Duplicate), (0, Decision::New)),
        "memory knows"
    );
    let tenant = scope("a").tenant().clone();
    let order = Order::Erase {
        tenant,
        kind: ErasureKind::Cleanup,
        cutoff: i64::MAX,
        job: Uuid::nil(),
    };
    let draft = core.erasing_seal(&[order.clone(), order.clone()], NOW).expect("something to seal");
    assert_eq!((draft.seal.erasures.len(), draft.seal.erasures[0].erasure.head), (1, 1));
    let encoded = codec::encode(&draft.seal);
    core.adopt(draft, &encoded);
    assert_eq!(core.must_show(), 2);
    core.applied(2);
    assert!(core.erasing_seal(&[order], NOW).is_none(), "it is pending");
    assert_eq!(
        (known(&core, 1), known(&core, 2)),
        ((1, Decision::New), (1, Decision::New)),
        "only the ledger knows"
    );
}

#[tokio::test]
async fn a_batch_for_a_sequencer_that_is_gone_is_delivered_again() {
    let (lane, gone) = mpsc::channel(1);
    drop(gone);
    let (ticket, verdict) = Ticket::new();
    let delivery = Delivery {
        pack: Arc::new(pack_of("a", &[1])),
        position: crate::queue::Position { segment: 1, offset: 0 },
        attempt: 1,
        ticket,
    };
    let batch = Batch {
        tenant: delivery.pack.tenant().clone(),
        bytes: 1,
        works: vec![Work { delivery, credit: None }],
        refusal: None,
    };
    SequencerHandle { lane }.submit(batch).await;
    assert_eq!(verdict.await, Ok(crate::model::ticket::Verdict::Redeliver));
}

/// A source whose shard is decided up to a number.
struct Counting(AtomicU64);

impl SourceProgress for Counting {
    fn report(&self) -> Vec<SourceReport> {
        let at = self.0.load(Ordering::SeqCst);
        let shards = vec![("shard-0".into(), (at > 0).then(|| ShardAt::After(at.to_string().into())))];
        vec![SourceReport {
            source: "stream".into(),
            shards,
        }]
    }
}

#[tokio::test]
async fn a_seal_carries_how_far_the_source_is_decided_and_a_restart_knows_it() {
    let fs = SimFs::new();
    let source = Arc::new(Counting(Default::default()));
    let line = Line::start_with(&fs, |_| true, Some(source.clone()));
    line.store("a", &[1]).await;
    for at in [9, 10, 10] {
        source.0.store(at, Ordering::SeqCst);
        line.store("a", &[100 + u128::from(at)]).await;
    }
    line.stop().await;
    let settings = WalSettings {
        segment_bytes: 1 << 20,
        ..WalSettings::default()
    };
    let found = recover(Arc::new(fs), "/wal".into(), settings, SealState::default(), 0).expect("the log opens");
    let said: Vec<usize> = found.folded.seals.iter().map(|found| found.seal.sources.len()).collect();
    assert_eq!(said, [0, 1, 1, 0], "only what is news");
    let (source, shard) = ("stream".into(), "shard-0".into());
    let at = found.folded.start.state.sources.get(&ShardName { source, shard }).cloned();
    assert_eq!(at, Some(ShardAt::After("10".into())));
}

#[tokio::test]
async fn a_pack_that_is_accepted_again_after_it_was_decided_is_counted_once() {
    let (fs, a) = (SimFs::new(), TenantScope::new(TenantId::parse("a").expect("a tenant")));
    let line = Line::start(&fs, |_| true);
    let pack = pack_of("a", &[1, 2]);
    for _ in 0..3 {
        let accepted = line.queue.accept(pack.clone(), None).await;
        accepted.expect("taken");
    }
    line.store("a", &[3]).await;
    line.queue.accept(pack.clone(), None).await.expect("taken");
    line.store("a", &[4]).await;
    let settled = async {
        while line.queue.undecided() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect("nothing stays pending");
    let counters = line.queue.counters(&a);
    assert_eq!((counters.accepted, counters.stored, counters.duplicate, counters.pending), (4, 4, 0, 0));
    line.stop().await;
}
