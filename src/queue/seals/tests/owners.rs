//! Two processes that both believe that they own a partition, on one queue: whatever each has in hand, everything is decided once.

use super::{
    pipeline::{Line, Store, within},
    *,
};
use crate::{
    actors::sequencer::{Phase, SequencerSettings},
    model::batch::{Batch, Work},
    queue::remote::{
        Message, Receive, Transport,
        consumer::{ConsumerSettings, RemoteConsumer},
        envelope::{self, Item},
        quarantine::Quarantine,
        testing::{Made, MemoryQueue},
    },
    seal::state::SealState,
};
use std::{collections::HashSet, time::Duration};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

const PACKS: u128 = 120;
/// So often a process that was fenced takes over again: without a lease, each fences the other.
const LIVES: usize = 6;

/// What the processes share.
#[derive(Clone)]
struct Shared {
    objects: Arc<dyn Objects>,
    store: Arc<Store>,
    queue: Arc<dyn Receive>,
    stop: CancellationToken,
}

impl Shared {
    /// Receives and decides, until it is fenced; whether it was.
    async fn owns(&self) -> bool {
        let settings = SequencerSettings {
            seal_interval: Duration::from_millis(5),
            seal_packs: 7,
            ..SequencerSettings::default()
        };
        let line = Line::start(&self.objects, &self.store, settings).await;
        let settings = ConsumerSettings {
            ack_linger: Duration::from_millis(50),
            ..ConsumerSettings::default()
        };
        let quarantine = Quarantine::new(self.objects.clone(), 0);
        let (consumer, mut deliveries) = RemoteConsumer::start(self.queue.clone(), Arc::new(line.handle.clone()), quarantine, settings, Handle::current());
        let mut phase = line.sequencer.phase();
        let fenced = loop {
            tokio::select! {
                () = self.stop.cancelled() => break false,
                _ = phase.wait_for(|phase| *phase == Phase::SteppedDown) => break true,
                Some(delivery) = deliveries.recv() => {
                    let (tenant, bytes) = (delivery.pack.tenant().clone(), delivery.pack.bytes().len());
                    let works = vec![Work { delivery, credit: None }];
                    tokio::spawn(line.handle.submit(Batch { tenant, bytes, works, refusal: None }));
                }
            }
        };
        consumer.stop_delivery();
        drop(deliveries);
        line.stop().await;
        consumer.close().await;
        fenced
    }

    async fn lives(self) -> usize {
        for life in 0..LIVES {
            if !self.owns().await {
                return life;
            }
        }
        LIVES
    }
}

/// Puts packs in, every third of them twice.
async fn put(transport: &dyn Transport) -> HashSet<Uuid> {
    let packs: Vec<_> = (1..=PACKS)
        .map(|i| Arc::new(pack_of(["a", "b"][i as usize % 2], &[2 * i, 2 * i + 1])))
        .collect();
    let twice = packs.iter().step_by(3);
    let messages = packs.iter().chain(twice).map(|pack| Message {
        key: 0,
        body: envelope::encode(0, &[Item::Pack(pack.clone())]),
    });
    for batch in messages.collect::<Vec<_>>().chunks(10) {
        assert!(transport.send(batch.to_vec()).await.iter().all(Result::is_ok));
    }
    packs.iter().map(|pack| pack.id()).collect()
}

/// The story, on any queue; `drained` says when nothing is left in it.
pub(crate) async fn two_owners_of_one_queue((transport, queue): Made, drained: impl AsyncFn() -> bool) {
    let shared = Shared {
        objects: Arc::new(MemoryObjects::default()),
        store: Arc::default(),
        queue,
        stop: CancellationToken::new(),
    };
    let expected = put(&*transport).await;
    let processes = [(); 2].map(|()| tokio::spawn(shared.clone().lives()));
    let (reader, mut state, mut decided) = (open(&shared.objects), SealState::default(), HashSet::new());
    within(async {
        while decided != expected || !drained().await {
            match reader.find(state.n + 1).await.expect("it can be read") {
                Found::Seal(seal) => {
                    state.check_next(&seal.seal).expect("one chain");
                    for pack in &seal.seal.packs {
                        assert!(decided.insert(pack.pack_id), "a pack is decided twice");
                    }
                    state.fold(&seal.seal, seal.crc);
                }
                Found::NotYet => tokio::time::sleep(Duration::from_millis(2)).await,
                Found::Trimmed => panic!("no store has settled anything"),
            }
        }
    })
    .await;
    shared.stop.cancel();
    let mut fenced = 0;
    for process in processes {
        fenced += within(process).await.expect("no panic");
    }
    assert!(fenced > 0, "the two were never at work at once");
    for tenant in state.tenants.values() {
        assert_eq!(
            (tenant.accepted, tenant.stored, tenant.head),
            (PACKS as u64, PACKS as u64, PACKS as u64),
            "numbers are dense"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_of_a_queue_in_memory_decide_everything_once() {
    let queue = MemoryQueue::with(MemoryQueue::new().limits(), Duration::from_secs(2));
    let made = (queue.clone() as Arc<dyn Transport>, queue.clone() as Arc<dyn Receive>);
    two_owners_of_one_queue(made, async || (queue.counts().0, queue.counts().1) == (0, 0)).await;
}
