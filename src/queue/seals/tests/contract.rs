//! The contract of [`SealLog`], on every engine.

use super::*;
use crate::{
    fs::{
        real::RealFs,
        sim::{CrashMode, SimFs},
    },
    objects::folder::FolderObjects,
    queue::{
        Producer,
        embedded::{EmbeddedQueue, QueueSettings, recover},
        wal::WalSettings,
    },
    seal::state::SealState,
};
use tokio::runtime::Handle;

/// A log, opened again and again over the same bytes.
trait Engine: Send + Sync {
    /// Opens it; gives the log, the state after its last seal, and the seals that it hands out for a store that has none.
    fn open(&self) -> BoxFuture<'_, (Arc<dyn SealLog>, SealState, Vec<crate::seal::FoundSeal>)>;
    /// Makes the pack durable where packs stand in the log itself.
    fn accept(&self, pack: Pack) -> BoxFuture<'_, ()>;
    /// Closes the log in order.
    fn close(&self) -> BoxFuture<'_, ()>;
}

#[derive(Default)]
struct OnObjects {
    objects: Option<Arc<dyn Objects>>,
    open: Mutex<Option<Arc<ObjectSealLog>>>,
}

impl Engine for OnObjects {
    fn open(&self) -> BoxFuture<'_, (Arc<dyn SealLog>, SealState, Vec<crate::seal::FoundSeal>)> {
        Box::pin(async {
            let objects = self.objects.clone().expect("it was given");
            let Taken { log, start } = ObjectSealLog::take(&Seals::open(objects, 0, eager())).await.expect("taken");
            *self.open.lock().expect("whole") = Some(log.clone());
            (log as Arc<dyn SealLog>, start.state, start.replay)
        })
    }

    fn accept(&self, _: Pack) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let open = self.open.lock().expect("whole").take();
            open.expect("it is open").close().await;
        })
    }
}

#[derive(Default)]
struct OnWal {
    disk: Mutex<SimFs>,
    open: Mutex<Option<EmbeddedQueue>>,
}

impl OnWal {
    fn queue(&self) -> EmbeddedQueue {
        self.open.lock().expect("whole").clone().expect("it is open")
    }
}

impl Engine for OnWal {
    fn open(&self) -> BoxFuture<'_, (Arc<dyn SealLog>, SealState, Vec<crate::seal::FoundSeal>)> {
        Box::pin(async {
            // What an owner that was not closed still writes goes to a disk that is no longer there.
            let disk = self.disk.lock().expect("whole").crash(0, CrashMode::Lose);
            *self.disk.lock().expect("whole") = disk.clone();
            let settings = WalSettings {
                segment_bytes: 1 << 20,
                ..WalSettings::default()
            };
            let found = recover(Arc::new(disk), "/wal".into(), settings, SealState::default(), 0).expect("the log opens");
            let state = found.folded.start.state.clone();
            let queue = EmbeddedQueue::new(found.wal, found.folded.start, QueueSettings::default(), Handle::current());
            *self.open.lock().expect("whole") = Some(queue.clone());
            (Arc::new(queue) as Arc<dyn SealLog>, state, found.folded.seals)
        })
    }

    fn accept(&self, pack: Pack) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.queue().accept(pack, None).await.expect("accepted");
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let queue = self.queue();
            tokio::task::spawn_blocking(move || queue.close()).await.expect("closed");
        })
    }
}

/// Appends a seal of these packs as the sequencer's thread does.
async fn append(engine: &dyn Engine, log: &Arc<dyn SealLog>, core: &mut Core, packs: &[Arc<Pack>]) -> Arc<DecidedSeal> {
    for pack in packs {
        engine.accept(Pack::clone(pack)).await;
    }
    let undecided = packs.iter().map(|pack| Undecided {
        pack: pack.clone(),
        refusal: None,
    });
    let plan = core.plan(undecided.collect(), 0);
    let answers = vec![None; plan.lookups.len()];
    let draft = core.decide(plan, &answers, 0, &mut |pack| log.positions(pack.id()));
    let encoded = Bytes::from(codec::encode(&draft.seal));
    let (thread_log, bytes) = (log.clone(), encoded.clone());
    let appended = std::thread::spawn(move || {
        let at = thread_log.append(&draft.seal, bytes, draft.packs());
        (at, draft)
    });
    let (at, draft) = tokio::task::spawn_blocking(move || appended.join().expect("no panic")).await.expect("no panic");
    let seal = core.adopt(draft, &encoded);
    log.sealed(&seal.seal, at.expect("durable"));
    seal
}

async fn load(log: &Arc<dyn SealLog>, seal: &crate::seal::Seal) -> Vec<Option<Arc<Pack>>> {
    let (log, seal) = (log.clone(), seal.clone());
    let loaded = std::thread::spawn(move || log.load(&seal));
    let loaded = tokio::task::spawn_blocking(move || loaded.join().expect("no panic")).await.expect("no panic");
    loaded.expect("it can be read")
}

fn core_of(state: SealState) -> Core {
    Core::new(Uuid::new_v4(), state, Default::default(), None, 0)
}

/// Seals are durable when they were appended, in order, whole, with their packs, over restarts.
async fn holds(engine: &dyn Engine) {
    let (log, state, replay) = engine.open().await;
    assert_eq!((state.n, replay.len()), (0, 0), "a new log is empty");
    let mut core = core_of(state);
    let packs = [pack_of("a", &[1, 2, 1]), pack_of("b", &[1]), pack_of("a", &[3])].map(Arc::new);
    let first = append(engine, &log, &mut core, &packs[..2]).await;
    let second = append(engine, &log, &mut core, &packs[2..]).await;
    let back: Vec<_> = load(&log, &first.seal).await.into_iter().map(|pack| pack.expect("there").id()).collect();
    assert_eq!(back, [packs[0].id(), packs[1].id()], "in the seal's order");
    assert_eq!(log.settles_at_seal(), log.first_segment() == 0, "a log that holds packs settles later");
    for seal in [&first, &second] {
        log.applied(seal);
    }
    log.copy_forward().expect("nothing is old");
    engine.close().await;
    drop(log);

    let (log, state, replay) = engine.open().await;
    assert_eq!((state.n, state.crc), (2, second.crc));
    assert_eq!(state.tenants, core.state().tenants, "heads and counters");
    // What stores have applied need not be handed out again; what they have not must be.
    let known: Vec<_> = replay.iter().map(|found| (found.seal.clone(), found.crc)).collect();
    let all = [&first, &second].map(|seal| (seal.seal.clone(), seal.crc));
    assert!(all.ends_with(&known), "{known:?}");
    let mut core = core_of(state);
    let third = append(engine, &log, &mut core, &[Arc::new(pack_of("a", &[4]))]).await;
    assert_eq!((third.seal.n, third.seal.previous_crc, third.seal.packs[0].first_sequence), (3, second.crc, 4));
    drop(log);

    // Not closed in order, and not applied.
    let (log, state, replay) = engine.open().await;
    assert_eq!((state.n, state.crc, replay.last().map(|found| found.seal.n)), (3, third.crc, Some(3)));
    assert_eq!(load(&log, &third.seal).await[0].as_ref().map(|pack| pack.id()), Some(third.packs[0].id()));
    engine.close().await;
    assert!(matches!(
        tokio::task::spawn_blocking({
            let (log, third) = (log.clone(), third.clone());
            move || std::thread::spawn(move || log.append(&third.seal, codec::encode(&third.seal).into(), &third.packs)).join()
        })
        .await
        .expect("no panic"),
        Ok(Err(SealLogError::Closed))
    ));
}

/// What only a log for several owners has to keep: one of those who create a seal wins, and the reader reads what it made.
async fn fences(objects: Arc<dyn Objects>) {
    let seals = Seals::open(objects.clone(), 3, eager());
    let (mut one, mut two) = (Owner::take(&seals).await, Owner::take(&Seals::open(objects.clone(), 3, eager())).await);
    let (a, b) = tokio::join!(one.seal(&[1]), two.seal(&[2]));
    let (winner, won) = match (a, b) {
        (Ok(won), Err(SealLogError::Fenced)) => (&mut one, won),
        (Err(SealLogError::Fenced), Ok(won)) => (&mut two, won),
        (a, b) => panic!("{a:?} and {b:?}"),
    };
    let reader = Seals::open(objects.clone(), 3, eager());
    assert!(matches!(reader.read(1).await, Ok(Found::Seal(seal)) if seal.seal == won.seal && seal.packs[0].id() == won.packs[0].id()));
    assert!(matches!(reader.read(2).await, Ok(Found::NotYet)));
    assert!(matches!(reader.head(1).await, Ok(FoundHead::Head(head)) if head.seal == won.seal));
    winner.seal(&[3]).await.expect("it goes on");
    assert!(matches!(reader.read(2).await, Ok(Found::Seal(_))) && *reader.tip().borrow() == 2);

    // Cursors only grow, whoever writes them.
    let writers = (1..=12u64).map(|n| {
        let cursors = ObjectCursors::new(objects.clone(), 3);
        tokio::spawn(async move { cursors.save(SEARCH, n).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic").expect("saved");
    }
    assert_eq!(reader.cursor(SEARCH).await.expect("read"), 12);
    reader.cursors().save(SEARCH, 1).await.expect("saved");
    assert_eq!(
        (reader.cursor(SEARCH).await.expect("read"), reader.cursor(ANALYTICS).await.expect("read")),
        (12, 0)
    );

    // Trimmed is trimmed.
    for store in [ANALYTICS, DEAD_LETTERS, SEARCH] {
        seals.cursors().save(store, 1).await.expect("saved");
    }
    winner.keeper.turn(0, true).await.expect("kept");
    assert!(matches!(reader.head(1).await, Ok(FoundHead::Trimmed)) && matches!(reader.head(2).await, Ok(FoundHead::Head(_))));
    let fresh = Seals::open(objects, 3, eager());
    assert!(matches!(fresh.read(1).await, Ok(Found::Trimmed)));
    assert_eq!(fresh.checkpoint().await.expect("read").state.n, 2);
}

async fn suite(objects: Arc<dyn Objects>) {
    holds(&OnObjects {
        objects: Some(objects.clone()),
        ..OnObjects::default()
    })
    .await;
    fences(objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_log_keeps_the_contract() {
    holds(&OnWal::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_memory_keeps_the_contract() {
    suite(Arc::new(MemoryObjects::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_a_folder_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a folder");
    suite(Arc::new(FolderObjects::open(Arc::new(RealFs), dir.path().join("objects")).expect("opened"))).await;
}

/// A bucket of its own; a proxy before it; the objects as they are reached through it.
#[cfg(feature = "s3")]
async fn in_s3() -> Option<(crate::testing::proxy::Proxy, Arc<dyn Objects>)> {
    use crate::objects::s3::{S3Location, S3Objects};
    let endpoint = crate::testing::engines::address("SLUICE_TEST_S3")?;
    let proxy = crate::testing::proxy::Proxy::start(&endpoint).await;
    let config = crate::testing::aws::config(&proxy.url()).await;
    let bucket = crate::testing::aws::make_bucket(&endpoint).await;
    let location = S3Location::parse(&format!("s3://{bucket}/log")).expect("a location");
    let objects = Arc::new(S3Objects::connect(&location, &config).expect("connected"));
    Some((proxy, objects))
}

#[cfg(feature = "s3")]
async fn clear(objects: &Arc<dyn Objects>) {
    for folder in ["seal", "floor", "cursor", "checkpoint"] {
        objects.clear(folder).await.expect("cleared");
    }
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_s3_keeps_the_contract() {
    let Some((_proxy, objects)) = in_s3().await else { return };
    suite(objects.clone()).await;
    clear(&objects).await;
}

/// Whatever becomes of the request that creates a seal, and of its answer: the same bytes are tried until it is known, and the next
/// owner reads what the first one believes.
#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_in_s3_whose_put_is_unknown_is_found_out_and_is_there_once() {
    use crate::testing::proxy::{Fault, Request};
    let Some((proxy, objects)) = in_s3().await else { return };
    let mut owner = Owner::take(&open(&objects)).await;
    let busy = |status, code: &str| Fault::Answer(status, Vec::new(), format!("<Error><Code>{code}</Code></Error>").into());
    let faults = [
        Fault::Swallow,
        Fault::CutAnswer(0),
        Fault::CutRequest,
        Fault::Refuse,
        busy(503, "SlowDown"),
        busy(500, "InternalError"),
    ];
    for (i, fault) in faults.into_iter().enumerate() {
        // The client may try by itself, so it happens more often than that.
        let creates = |request: &Request| request.method == "PUT" && request.path.contains("/seal/");
        proxy.next(3, creates, fault);
        let (draft, encoded) = owner.draft(&[Arc::new(pack_of("a", &[i as u128 + 1]))]);
        loop {
            match owner.writer.create(&draft.seal, &encoded, draft.packs()).await {
                Ok(()) => break,
                Err(SealLogError::Doubtful(_)) => {}
                Err(error) => panic!("{i}: {error}"),
            }
        }
        owner.core.adopt(draft, &encoded);
        let next = Owner::take(&open(&objects)).await;
        assert_eq!(next.core.state(), owner.core.state(), "fault {i}");
    }
    // Another owner's seal, found after an unknown put, is no success.
    let mut zombie = Owner::take(&open(&objects)).await;
    owner.seal(&[100]).await.expect("sealed");
    proxy.next(1, |request| request.method == "PUT" && request.path.contains("/seal/"), Fault::Swallow);
    let fate = zombie.seal(&[101]).await;
    assert!(matches!(fate, Err(SealLogError::Fenced)), "{fate:?}");
    proxy.mend();
    clear(&objects).await;
}
