//! A search store that follows the log of one process, and stands still when a test says so.

use super::*;
use crate::{
    actors::{
        broadcast::Publisher,
        sequencer::{Parts, Sequencer, SequencerHandle},
    },
    app::{
        recovered::{self, Opened},
        settings,
    },
    catalog::Catalog,
    config::{Settings, Sources},
    fs::sim::SimFs,
    http::health::Health,
    model::{
        batch::{Batch, Work},
        entry::{Field, NewEntry, Severity},
        pack::{PackBuilder, PackHeader, tests::pack_of},
    },
    objects::memory::MemoryObjects,
    seal::DecidedSeal,
    sinks::{Follower, SealFollower, StoreError, dead_letter::DeadLetters, embedded::EmbeddedStore},
};
use tokio::runtime::Handle;

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many segments the search store may be behind here.
const SEGMENTS: u64 = 1;

/// Applies seals while the door is open.
struct Search {
    open: watch::Sender<bool>,
}

impl Follower for Search {
    fn name(&self) -> &'static str {
        "search"
    }

    fn apply(&self, _: u32, seal: Arc<DecidedSeal>) -> BoxFuture<'static, Result<(), StoreError>> {
        let mut open = self.open.subscribe();
        Box::pin(async move {
            let _ = open.wait_for(|open| *open).await; // an error: the test is over
            drop(seal);
            Ok(())
        })
    }
}

struct Nobody;

impl Publisher for Nobody {
    fn publish(&self, _: &Arc<DecidedSeal>) {}
}

/// One process, without sockets and actors: its log, its authority, and the search store beside.
struct Bench {
    search: Arc<Search>,
    store: EmbeddedStore,
    queue: EmbeddedQueue,
    producer: Searchable,
    sequencer: Sequencer,
    letters: DeadLetters,
    /// What the authority lets be trimmed.
    trimmable: watch::Sender<u64>,
    follows: Follows,
}

impl Bench {
    async fn new() -> Self {
        let flags = [
            ("data_dir", "/data"),
            ("wal.segment_bytes", "1MiB"),
            ("wal.group_bytes", "64KiB"),
            ("disk.reserve", "1MiB"),
        ];
        let sources = Sources {
            flags: flags.map(|(key, value)| ("--set", key, value.to_owned())).to_vec(),
            ..Sources::default()
        };
        let settings = Settings::load(&sources).expect("good settings");
        let objects = Arc::new(MemoryObjects::default());
        let catalog = Catalog::open(objects.clone()).await.expect("opened");
        let letters = DeadLetters::open(objects.clone(), 0);
        let opened = recovered::open(Arc::new(SimFs::new()), &settings, &catalog, letters.settled(), &Health::new(), 0).await;
        let Opened { store, log } = opened.map_err(|error| error.to_string()).expect("a new folder");
        let queue = EmbeddedQueue::new(log.wal, log.book, settings::queue(&settings), Handle::current());
        let view = Arc::new(AppliedView::new(log.sequencer.state.clone(), &log.later));
        let told = view.clone();
        let tell = Box::new(move |seal: &crate::seal::Seal, crc| told.fold(seal, crc));
        let seals = LogSeals::new(queue.clone(), log.places, log.floor, log.sequencer.state.n, tell);
        let parts = Parts {
            log: Arc::new(seals.clone()),
            follower: Arc::new(store.clone()),
            dead_letters: Arc::new(letters.clone()),
            publisher: Arc::new(Nobody),
            sources: None,
        };
        let (sequencer, decider) = Sequencer::start(parts, log.sequencer, settings::sequencer(&settings)).expect("threads");
        deliver(queue.start(Arc::new(decider.clone()), store.trimmable()), decider);
        let search = Arc::new(Search {
            open: watch::Sender::new(true),
        });
        let parts = FollowParts {
            partition: 0,
            seals: Arc::new(seals.clone()),
            cursors: Arc::new(ObjectCursors::new(objects, 0)),
            follower: search.clone(),
            rebuild: None,
        };
        let trimmable = watch::Sender::new(0);
        let follows = Follows::start(parts, seals.clone(), view.clone(), trimmable.subscribe(), SEGMENTS);
        Self {
            search,
            store,
            producer: Searchable {
                queue: queue.clone(),
                seals,
                view,
            },
            queue,
            sequencer,
            letters,
            trimmable,
            follows,
        }
    }

    async fn accept(&self, pack: Pack, wait: Duration) -> Option<crate::queue::Decided> {
        self.producer.accept(pack, Some(wait)).await.expect("there is room").decided
    }

    /// Waits until the authority shows so many seals.
    async fn authority_shows(&self, seals: u64) {
        let mut visible = self.store.visible();
        in_time(visible.wait_for(|n| *n >= seals)).await.expect("it lives");
    }

    async fn may_be_trimmed(&self, upto: u64) {
        let mut trimmable = self.follows.trimmable.clone();
        in_time(trimmable.wait_for(|n| *n == upto)).await.expect("it lives");
    }

    async fn stop(self) {
        self.search.open.send_replace(true);
        self.follows.stop().await;
        let (queue, store, letters, sequencer) = (self.queue, self.store, self.letters, self.sequencer);
        let ended = tokio::task::spawn_blocking(move || {
            queue.stop_accepting();
            queue.stop_delivery();
            store.close();
            letters.close();
            sequencer.stop();
            queue.close();
        });
        ended.await.expect("no thread panicked");
    }
}

fn deliver(mut deliveries: tokio::sync::mpsc::Receiver<crate::model::batch::Delivery>, decider: SequencerHandle) {
    tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            let batch = Batch {
                tenant: delivery.pack.tenant().clone(),
                bytes: delivery.pack.bytes().len(),
                works: vec![Work { delivery, credit: None }],
                refusal: None,
            };
            tokio::spawn(decider.submit(batch));
        }
    });
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

/// A pack of entries with texts of 60,000 bytes: five of these packs fill a segment.
fn large_pack(first: u128) -> Pack {
    let text = "x".repeat(60_000);
    let mut fields = [None; Field::COUNT];
    for field in [Field::Action, Field::ResourceType, Field::ResourceId] {
        fields[field as usize] = Some(&b"other"[..]);
    }
    fields[Field::Message as usize] = Some(text.as_bytes());
    let mut builder = PackBuilder::default();
    for id in first..first + 4 {
        builder.push(&NewEntry {
            id: Uuid::from_u128(id),
            client_id: true,
            hash: id,
            timestamp: 1_700_000_000_000,
            severity: Severity::Info,
            fields,
        });
    }
    let header = PackHeader {
        pack_id: Uuid::now_v7(),
        tenant: TenantId::parse("acme").expect("a tenant"),
        actor: "tester".into(),
        request_id: "r-1".into(),
        received_at: crate::model::time::now_ms(),
        part: (0, 1),
    };
    builder.finish(header).expect("entries")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_means_that_the_search_store_has_it_too() {
    let bench = Bench::new().await;
    assert!(in_time(bench.accept(pack_of("acme", &[1]), PATIENCE)).await.is_some());
    bench.search.open.send_replace(false);
    let mut waiting = Box::pin(bench.accept(pack_of("acme", &[2]), PATIENCE));
    tokio::select! {
        biased;
        decided = &mut waiting => panic!("the search store has nothing: {decided:?}"),
        () = bench.authority_shows(2) => {}
    }
    assert_eq!(
        bench.producer.view.head(&TenantId::parse("acme").expect("a tenant")),
        1,
        "a search goes by what its store has"
    );
    // Who does not wait so long is told nothing, and the entry is safe all the same.
    assert!(bench.accept(pack_of("acme", &[3]), Duration::from_millis(50)).await.is_none());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    bench.search.open.send_replace(true);
    assert_eq!(in_time(waiting).await.map(|decided| decided.stored), Some(1));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_kept_for_the_search_store_until_that_is_too_far_behind() {
    let bench = Bench::new().await;
    in_time(bench.accept(pack_of("acme", &[1]), PATIENCE)).await.expect("decided");
    bench.trimmable.send_replace(1);
    bench.may_be_trimmed(1).await;
    bench.search.open.send_replace(false);
    bench.accept(pack_of("acme", &[2]), Duration::from_millis(1)).await;
    bench.authority_shows(2).await;
    bench.trimmable.send_replace(2);
    // The link has looked at this when it has looked at the next; what it tells then is still 1.
    let seals = bench.producer.seals.clone();
    assert_eq!(seals.backlog(), 0);
    let mut n = 2;
    while seals.backlog() <= SEGMENTS {
        assert_eq!(*bench.follows.trimmable.borrow(), 1, "seal 2 is needed");
        n += 1;
        bench.accept(large_pack(10 * u128::from(n)), Duration::from_millis(1)).await;
        bench.authority_shows(n).await;
        bench.trimmable.send_replace(n - 1);
    }
    bench.trimmable.send_replace(n);
    bench.may_be_trimmed(n).await;
    bench.stop().await;
}
