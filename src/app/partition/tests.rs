//! One partition between processes that come, go, sleep and are cut off: over objects and a queue in memory, with real leases, sequencers
//! and tenant actors.

use super::*;
use crate::{
    app::queues::Open,
    config::Sources,
    model::pack::tests::pack_of,
    objects::Key,
    queue::{
        Producer,
        remote::{
            Transport,
            producer::RemoteProducer,
            testing::{MemoryQueue, SendFault},
        },
    },
    seal::state::SealState,
    sinks::StoreError,
    tail::tests::{Reach, Reader, Site, in_time, pack_with_hash, scope, until},
};
use futures_util::future::BoxFuture;
use std::sync::atomic::Ordering;

/// A lease that is lost to nobody while a test runs, unless it is taken or given.
const LONG: Duration = Duration::from_secs(3600);

struct Queue(Arc<MemoryQueue>);

impl OpenQueue for Queue {
    fn open(&self, _: &SealState) -> Open {
        Open {
            receive: self.0.clone(),
            progress: None,
        }
    }
}

/// A search store that has everything at once.
struct Search;

impl Follower for Search {
    fn name(&self) -> &'static str {
        "search"
    }

    fn apply(&self, _: u32, _: Arc<DecidedSeal>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A deployment with one partition, and a process that only takes and reads.
struct Bench {
    site: Site,
    queue: Arc<MemoryQueue>,
    reader: Reader,
    producer: RemoteProducer,
    settings: Settings,
    /// Of leases.
    ttl: Duration,
}

/// A process that decides.
struct Process {
    /// How it reaches the seals. The lease is reached apart.
    reach: Arc<Reach>,
    partition: Partition,
}

impl Bench {
    fn new() -> Self {
        // What is not acknowledged comes again soon.
        let queue = MemoryQueue::with(MemoryQueue::new().limits(), Duration::from_secs(3));
        let site = Site::new();
        let reader = site.reader(1);
        let sources = Sources {
            flags: vec![("--set", "data_dir", "/data".to_owned())],
            ..Sources::default()
        };
        let settings = Settings::load(&sources).expect("good settings");
        let producer = RemoteProducer::start(
            vec![queue.clone() as Arc<dyn Transport>],
            Arc::new(reader.tail.clone()),
            settings::producer(&settings),
            &Handle::current(),
        );
        Self {
            site,
            queue,
            reader,
            producer,
            settings,
            ttl: LONG,
        }
    }

    fn lease(&self) -> Lease {
        Lease::new(self.site.objects(), "partition-0", self.ttl, "test").expect("a name")
    }

    async fn process(&self) -> Process {
        self.process_that_reaches(self.site.reach()).await
    }

    async fn process_that_reaches(&self, reach: Arc<Reach>) -> Process {
        let tail = self.site.reader(1);
        let table = self.site.table.clone();
        let parts = PartitionParts {
            index: 0,
            seals: Seals::open(reach.clone(), 0, self.site.seals.clone()),
            objects: reach.clone(),
            catalog: Catalog::open(self.site.objects()).await.expect("opened"),
            authority: Arc::new(tail.shop.clone()),
            tail: tail.tail,
            store: Arc::new(move || table.clone()),
            search: Arc::new(Search),
            rebuild: None,
            queue: Arc::new(Queue(self.queue.clone())),
            settings: self.settings.clone(),
        };
        let partition = Partition::start(parts, self.lease());
        Process { reach, partition }
    }

    /// A client sends these; they are in the queue when this resolves.
    async fn send(&self, ids: &[u128]) {
        in_time("the queue", self.producer.accept(pack_of("a", ids), None)).await.expect("taken");
    }

    async fn shows(&self, rows: u64) {
        in_time("the rows", async {
            while self.reader.rows("a").await.ok() != Some(rows) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Everything sent was decided once, and nothing is left in the queue.
    async fn books(&self, stored: u64, duplicate: u64) {
        self.shows(stored).await;
        let counters = || self.reader.tail.counters(&scope("a"));
        until("the counters", || counters().accepted == stored + duplicate).await;
        assert_eq!((counters().stored, counters().duplicate), (stored, duplicate));
        assert_eq!(self.reader.head("a"), stored, "numbers without a hole");
        until("acknowledged", || self.queue.counts().0 + self.queue.counts().1 == 0).await;
    }
}

impl Process {
    async fn becomes(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut state = self.partition.watch().state;
        in_time(what, state.wait_for(|state| wanted(state))).await.expect("it lives");
    }

    async fn owns(&self) {
        self.becomes("the owner", |state| *state == State::Owner).await;
    }

    fn stands_by(&self) -> bool {
        let watch = self.partition.watch();
        let stands_by = *watch.state.borrow() == State::StandingBy;
        stands_by && watch.inside().is_none()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_decides_until_it_stops_and_the_next_begins_at_once() {
    let bench = Bench::new();
    let one = bench.process().await;
    one.owns().await;
    let other = bench.process().await;
    bench.send(&[1, 2]).await;
    bench.shows(2).await;
    assert!(other.stands_by() && one.partition.watch().inside().is_some());
    // The lease would last an hour: it is given back.
    in_time("the stop", one.partition.stop()).await;
    other.owns().await;
    bench.send(&[2, 3]).await;
    bench.books(3, 1).await;
    in_time("the stop", other.partition.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_stops_waits_for_no_store_before_the_next_begins() {
    let bench = Bench::new();
    let (one, other) = (bench.process().await, bench.process().await);
    until("an owner", || {
        one.partition.watch().inside().is_some() || other.partition.watch().inside().is_some()
    })
    .await;
    let (one, other) = if one.partition.watch().inside().is_some() {
        (one, other)
    } else {
        (other, one)
    };
    bench.site.table.block(true);
    bench.send(&[1, 2]).await;
    until("decided", || bench.reader.tail.counters(&scope("a")).stored == 2).await;
    let stopping = tokio::spawn(one.partition.stop());
    other.owns().await;
    assert!(!stopping.is_finished(), "the store has the seal of neither");
    bench.send(&[2, 3]).await;
    bench.site.table.block(false);
    in_time("the stop", stopping).await.expect("no panic");
    bench.books(3, 1).await;
    in_time("the stop", other.partition.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_overtaken_forgets_what_it_has_and_stands_by() {
    let bench = Bench::new();
    let one = bench.process().await;
    one.owns().await;
    bench.send(&[1]).await;
    bench.shows(1).await;
    // Another one decides, as after a pause in which everybody took this one for dead. The lease is not even asked for.
    let zombie_maker = bench.site.owner(0).await;
    zombie_maker.decide(pack_with_hash("a", 100, 100)).await;
    let mut state = one.partition.watch().state;
    state.mark_unchanged();
    bench.send(&[2, 3]).await;
    in_time("it steps down", state.changed()).await.expect("it lives");
    bench.books(4, 0).await;
    one.owns().await;
    in_time("the stop", one.partition.stop()).await;
    zombie_maker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_the_lease_stands_by_and_what_it_had_in_hand_is_decided_by_the_next() {
    let mut bench = Bench::new();
    bench.ttl = Duration::from_secs(2); // renewed three times in that
    let one = bench.process().await;
    one.owns().await;
    bench.send(&[1]).await;
    bench.shows(1).await;
    one.reach.cut.store(true, Ordering::SeqCst);
    bench.send(&[2, 3]).await; // it receives that, and cannot seal it
    let other = bench.process().await;
    // As when it was not renewed for too long.
    let lease = Key::parse("lease/partition-0.json").expect("a name");
    bench.site.objects().delete(&lease).await.expect("deleted");
    other.owns().await;
    one.reach.cut.store(false, Ordering::SeqCst);
    bench.books(3, 0).await;
    until("one stands by", || one.stands_by() || other.stands_by()).await;
    for process in [one, other] {
        in_time("the stop", process.partition.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_read_is_left_to_others_and_tried_again() {
    let bench = Bench::new();
    let reach = bench.site.reach();
    reach.cut.store(true, Ordering::SeqCst);
    let one = bench.process_that_reaches(reach).await;
    one.becomes("faulty", |state| matches!(state, State::Faulty(_))).await;
    // It gives the lease back, which would last an hour.
    let other = bench.process().await;
    other.owns().await;
    bench.send(&[1]).await;
    bench.books(1, 0).await;
    in_time("the stop", other.partition.stop()).await;
    one.reach.cut.store(false, Ordering::SeqCst);
    one.owns().await;
    bench.send(&[1, 2]).await;
    bench.books(2, 1).await;
    in_time("the stop", one.partition.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_queue_delivers_twice_is_decided_once_by_whoever_owns() {
    let bench = Bench::new();
    bench.queue.always(Some(SendFault::Twice));
    let one = bench.process().await;
    one.owns().await;
    bench.queue.telling_fails(3); // acknowledgements are lost
    bench.send(&[1, 2]).await;
    bench.shows(2).await;
    in_time("the stop", one.partition.stop()).await;
    let other = bench.process().await;
    other.owns().await;
    bench.send(&[3]).await;
    bench.books(3, 0).await;
    in_time("the stop", other.partition.stop()).await;
}
