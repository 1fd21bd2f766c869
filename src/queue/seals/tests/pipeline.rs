//! The sequencer's threads over objects: when tickets are settled, when seals are made, when it steps down, and what is asked of the ledger.

use super::*;
use crate::{
    actors::{
        broadcast::Publisher,
        sequencer::{Parts, Phase, Sequencer, SequencerHandle, SequencerSettings, core::Order},
    },
    model::{
        batch::{Batch, Delivery, Work},
        entry::ContentHash,
        tenant::TenantId,
        ticket::{Ticket, Verdict},
        time::now_ms,
    },
    queue::remote::{Ordered, Orders, RemoteOrder},
    seal::{erasure::ErasureKind, state::SealState},
    sinks::{DeadLetterSink, SealFollower, StoreError},
};
use futures_util::FutureExt;
use std::{
    collections::{HashMap, HashSet},
    sync::Condvar,
};
use tokio::sync::watch;

/// A store that may block.
#[derive(Default)]
pub(super) struct Store {
    rows: Mutex<HashMap<(TenantId, Uuid), ContentHash>>,
    packs: Mutex<HashSet<Uuid>>,
    blocked: Mutex<bool>,
    changed: Condvar,
    /// Packs that were asked for.
    asked: AtomicUsize,
    trimmable: watch::Sender<u64>,
}

impl Store {
    fn block(&self, blocked: bool) {
        *self.blocked.lock().expect("whole") = blocked;
        self.changed.notify_all();
    }
}

impl SealFollower for Store {
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        drop(self.changed.wait_while(self.blocked.lock().expect("whole"), |blocked| *blocked));
        let mut rows = self.rows.lock().expect("whole");
        for entry in seal.entries().filter(|entry| entry.sequence.is_some()) {
            rows.insert((entry.pack.tenant().clone(), entry.entry.id()), entry.entry.hash());
        }
        let mut packs = self.packs.lock().expect("whole");
        packs.extend(seal.seal.packs.iter().map(|pack| pack.pack_id));
        packs.extend(seal.seal.erasures.iter().map(|made| made.erasure.job));
        Ok(())
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        let rows = self.rows.lock().expect("whole");
        Ok(keys.iter().map(|key| rows.get(key).copied()).collect())
    }

    fn lookup_packs(&self, asked: &[Uuid]) -> Result<Vec<bool>, StoreError> {
        self.asked.fetch_add(asked.len(), Ordering::SeqCst);
        let packs = self.packs.lock().expect("whole");
        Ok(asked.iter().map(|pack| packs.contains(pack)).collect())
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        self.trimmable.subscribe()
    }
}

impl DeadLetterSink for Store {
    fn submit(&self, _: &Arc<DecidedSeal>) {}
}

impl Publisher for Store {
    fn publish(&self, _: &Arc<DecidedSeal>) {}
}

pub(super) struct Line {
    log: Arc<ObjectSealLog>,
    store: Arc<Store>,
    pub sequencer: Sequencer,
    pub handle: SequencerHandle,
}

impl Line {
    pub async fn start(objects: &Arc<dyn Objects>, store: &Arc<Store>, settings: SequencerSettings) -> Self {
        let Taken { log, start } = ObjectSealLog::take(&open(objects)).await.expect("taken");
        let parts = Parts {
            log: log.clone(),
            follower: store.clone(),
            dead_letters: store.clone(),
            publisher: store.clone(),
            sources: None,
        };
        let (sequencer, handle) = Sequencer::start(parts, start, settings).expect("threads");
        Self {
            log,
            store: store.clone(),
            sequencer,
            handle,
        }
    }

    /// Submits a pack; the answers of its ticket and of the submission.
    fn submit(&self, pack: &Arc<Pack>) -> (BoxFuture<'static, Verdict>, tokio::task::JoinHandle<()>) {
        let (ticket, verdict) = Ticket::new();
        let delivery = Delivery {
            pack: pack.clone(),
            position: crate::queue::Position { segment: 0, offset: 0 },
            attempt: 1,
            ticket,
        };
        let batch = Batch {
            tenant: pack.tenant().clone(),
            bytes: pack.bytes().len(),
            works: vec![Work { delivery, credit: None }],
            refusal: None,
        };
        let verdict = Box::pin(async { verdict.await.expect("a ticket answers") });
        let mut submitted = self.handle.submit(batch);
        let at_once = (&mut submitted).now_or_never(); // from here on it is in the lane
        let rest = async move {
            if at_once.is_none() {
                submitted.await;
            }
        };
        (verdict, tokio::spawn(rest))
    }

    async fn seal(&self, pack: &Arc<Pack>) -> Verdict {
        within(self.submit(pack).0).await
    }

    pub async fn stop(self) {
        let Self { sequencer, handle, log, .. } = self;
        drop(handle);
        tokio::task::spawn_blocking(move || sequencer.stop()).await.expect("stopped");
        log.close().await;
    }
}

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it ends")
}

fn memory() -> Arc<dyn Objects> {
    Arc::new(MemoryObjects::default())
}

fn pack(ids: &[u128]) -> Arc<Pack> {
    Arc::new(pack_of("a", ids))
}

fn counts(seals: &SealState) -> (u64, u64) {
    let tenant = seals.tenant(&TenantId::parse("a").expect("a tenant"));
    (tenant.accepted, tenant.stored)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_are_settled_at_the_seal_and_the_next_owner_hands_the_store_what_it_lacks() {
    let (objects, store) = (memory(), Arc::new(Store::default()));
    store.block(true);
    let line = Line::start(&objects, &store, SequencerSettings::default()).await;
    let (first, second) = (pack(&[1]), pack(&[1, 2]));
    assert_eq!(line.seal(&first).await, Verdict::Done, "although the store takes nothing");
    assert_eq!(line.seal(&second).await, Verdict::Done);

    // The process dies; the next owner decides at once, by the window of what the store lacks.
    let other = Arc::new(Store::default());
    other.block(true);
    let next = Line::start(&objects, &other, SequencerSettings::default()).await;
    assert_eq!(next.seal(&second).await, Verdict::Done, "it is known, and acknowledged");
    assert_eq!(next.seal(&pack(&[2, 3])).await, Verdict::Done);
    let Ok(Found::Seal(third)) = open(&objects).find(3).await else {
        panic!("a third seal")
    };
    assert_eq!((third.seal.tenants[0].stored, third.seal.tenants[0].duplicate), (1, 1));
    other.block(false);
    let cursors = next.log.seals().clone();
    within(async {
        while cursors.cursor(ANALYTICS).await.expect("read") < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(other.rows.lock().expect("whole").len(), 3, "replayed, and new");
    next.stop().await;
    assert_eq!(counts(&open(&objects).checkpoint().await.expect("read").state), (5, 3), "a last checkpoint");

    // The zombie wakes up.
    let mut phase = line.sequencer.phase();
    assert_eq!(line.seal(&pack(&[9])).await, Verdict::Redeliver);
    within(phase.wait_for(|phase| *phase == Phase::SteppedDown)).await.expect("it says so");
    line.store.block(false);
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seals_are_made_once_in_an_interval_unless_they_are_full_or_the_process_stops() {
    let (objects, store) = (memory(), Arc::new(Store::default()));
    let settings = SequencerSettings {
        seal_interval: Duration::from_secs(3600),
        seal_packs: 3,
        ..SequencerSettings::default()
    };
    let line = Line::start(&objects, &store, settings).await;
    assert_eq!(line.seal(&pack(&[1])).await, Verdict::Done, "the first need not wait");
    let waiting: Vec<_> = (2..=4).map(|id| line.submit(&pack(&[id])).0).collect();
    for verdict in waiting {
        assert_eq!(within(verdict).await, Verdict::Done, "three are a full seal");
    }
    let seals = open(&objects);
    assert!(matches!(seals.find(2).await, Ok(Found::Seal(seal)) if seal.packs.len() == 3));
    let (last, submitted) = line.submit(&pack(&[5]));
    let stopping = tokio::spawn(line.stop());
    assert_eq!(within(last).await, Verdict::Done);
    within(submitted).await.expect("no panic");
    within(stopping).await.expect("no panic");
    assert!(matches!(seals.find(3).await, Ok(Found::Seal(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_pack_and_an_old_order_are_asked_of_the_ledger_and_have_no_second_effect() {
    let (objects, store) = (memory(), Arc::new(Store::default()));
    let line = Line::start(&objects, &store, SequencerSettings::default()).await;
    let tenant = TenantId::parse("a").expect("a tenant");
    let order = RemoteOrder {
        id: Uuid::now_v7(),
        tenant: tenant.clone(),
        what: Ordered::Erase {
            kind: ErasureKind::Cleanup,
            cutoff: now_ms(),
        },
    };
    let old = pack(&[1]); // received long ago, as all packs of these tests
    assert_eq!(line.seal(&old).await, Verdict::Done);
    within(line.handle.order(order.clone())).await.expect("sealed");
    within(line.handle.order_durably(Order::Removed {
        tenant,
        job: order.id,
        rows: 1,
    }))
    .await
    .expect("sealed");
    within(async {
        while line.log.seals().cursor(ANALYTICS).await.expect("read") < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // So that the next owner reads none of these seals.
    line.log.seals().cursors().save(DEAD_LETTERS, 3).await.expect("saved");
    line.stop().await;

    let next = Line::start(&objects, &store, SequencerSettings::default()).await;
    let before = store.asked.load(Ordering::SeqCst);
    assert_eq!(next.seal(&old).await, Verdict::Done);
    within(next.handle.order(order)).await.expect("it was obeyed");
    assert_eq!(store.asked.load(Ordering::SeqCst) - before, 2);
    assert!(matches!(open(&objects).find(4).await, Ok(Found::NotYet)), "neither is sealed again");
    assert_eq!(next.seal(&pack(&[2])).await, Verdict::Done);
    assert!(matches!(open(&objects).find(4).await, Ok(Found::Seal(_))));
    next.stop().await;
}
