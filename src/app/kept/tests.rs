//! Checkpoints on virtual time: when they are written, and what they let the log forget.

use super::*;
use crate::{
    model::entry::ContentHash,
    objects::{Key, ObjectError, Precondition, Version, memory::MemoryObjects},
    seal::view::SealView,
    sinks::contract::{Sequencer, tenant},
};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

/// A store that takes every seal, or none.
#[derive(Default)]
struct Store {
    refuses: AtomicBool,
}

impl SealFollower for Store {
    fn apply(&self, _: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        if self.refuses.load(Ordering::SeqCst) { Err(StoreError::Busy) } else { Ok(()) }
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        Ok(vec![None; keys.len()])
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// Objects that may take nothing for a while.
#[derive(Default)]
struct Disk {
    memory: MemoryObjects,
    full: AtomicBool,
    refused: AtomicU32,
}

impl Objects for Disk {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        self.memory.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        self.memory.get_range(key, range)
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        if self.full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return ready(Err(ObjectError::Io("full".into()))).boxed();
        }
        self.memory.put(key, bytes, when)
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.memory.delete(key)
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.memory.clear(folder)
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        self.memory.list(folder)
    }
}

struct Bench {
    log: Sequencer,
    store: Arc<Store>,
    disk: Arc<Disk>,
    view: Arc<AppliedView>,
    letters: watch::Sender<u64>,
    kept: Arc<Kept>,
    keeping: Keeping,
}

impl Bench {
    fn new() -> Self {
        let (store, disk) = (Arc::<Store>::default(), Arc::<Disk>::default());
        let view = Arc::new(AppliedView::new(SealState::default(), &[]));
        let letters = watch::Sender::new(0);
        let (kept, keeping) = Kept::start(store.clone(), view.clone(), SealState::default(), disk.clone(), letters.subscribe());
        Self {
            log: Sequencer::new(1),
            store,
            disk,
            view,
            letters,
            kept,
            keeping,
        }
    }

    /// So many seals become durable and are applied.
    fn apply(&mut self, seals: u64) {
        for _ in 0..seals {
            let seal = self.log.seal(&["acme"], 1);
            self.view.fold(&seal.seal, seal.crc);
            self.kept.apply(&seal).expect("it takes them");
        }
    }

    /// Of the one tenant, after the last seal.
    fn head(&self) -> u64 {
        self.log.heads[&tenant("acme")]
    }

    async fn written(&self) -> u64 {
        checkpoint::load(&*self.disk, 0).await.expect("read").map_or(0, |checkpoint| checkpoint.state.n)
    }

    /// Where the written checkpoint and the end of what may be trimmed are.
    async fn stand(&self) -> (u64, u64) {
        (self.written().await, *self.kept.trimmable().borrow())
    }
}

/// Time passes, and what is due happens.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_comes_with_time_and_lets_the_log_go_up_to_it() {
    let mut bench = Bench::new();
    bench.apply(3);
    bench.letters.send_replace(3);
    pass(EVERY / 2).await;
    assert_eq!(bench.stand().await, (0, 0), "not due yet");
    pass(EVERY).await;
    assert_eq!(bench.stand().await, (3, 3));
    let found = checkpoint::load(&*bench.disk, 0).await.expect("read").expect("there").state;
    let (acme, head) = (tenant("acme"), bench.head());
    assert_eq!(found.tenants[&acme].head, head, "it is the sum of the seals");
    assert_eq!(
        (bench.view.head(&acme), *bench.view.visible().borrow()),
        (head, 3),
        "readers see what was applied"
    );
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_comes_with_many_seals() {
    let mut bench = Bench::new();
    bench.letters.send_replace(u64::MAX);
    bench.apply(SEALS - 1);
    pass(PAUSE).await;
    assert_eq!(bench.stand().await, (0, 0), "one is missing");
    bench.apply(1);
    pass(PAUSE).await;
    assert_eq!(bench.stand().await, (SEALS, SEALS));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_for_the_dead_letters_of_its_seals() {
    let mut bench = Bench::new();
    bench.apply(3);
    bench.letters.send_replace(2);
    pass(EVERY * 3).await;
    assert_eq!(bench.stand().await, (0, 0), "a start at the checkpoint would not write the letters of seal 3");
    bench.letters.send_replace(3);
    pass(EVERY * 2).await;
    assert_eq!(bench.stand().await, (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_cannot_be_written_keeps_the_log_and_is_tried_again_in_good_time() {
    let mut bench = Bench::new();
    bench.letters.send_replace(u64::MAX);
    bench.disk.full.store(true, Ordering::SeqCst);
    bench.apply(SEALS);
    pass(Duration::from_secs(60)).await;
    assert_eq!(bench.stand().await, (0, 0));
    let tries = bench.disk.refused.load(Ordering::SeqCst);
    assert!((2..=130).contains(&tries), "{tries} tries in a minute");
    bench.disk.full.store(false, Ordering::SeqCst);
    pass(PAUSE * 2).await;
    assert_eq!(bench.stand().await, (SEALS, SEALS));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_take_is_in_no_checkpoint_and_a_stop_writes_the_rest() {
    let mut bench = Bench::new();
    bench.letters.send_replace(u64::MAX);
    bench.apply(2);
    let head = bench.head();
    bench.store.refuses.store(true, Ordering::SeqCst);
    let refused = bench.log.seal(&["acme"], 1);
    bench.view.fold(&refused.seal, refused.crc);
    assert!(bench.kept.apply(&refused).is_err());
    assert_eq!(*bench.view.visible().borrow(), 2);
    // Applied again after a start, which is harmless: the sum does not change.
    bench.store.refuses.store(false, Ordering::SeqCst);
    let first = bench.log.log[0].clone();
    bench.kept.apply(&first).expect("it takes it");
    let disk = bench.disk.clone();
    bench.keeping.stop().await;
    let found = checkpoint::load(&*disk, 0).await.expect("read").expect("there").state;
    assert_eq!((found.n, found.tenants[&tenant("acme")].head), (2, head));
}
