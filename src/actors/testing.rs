//! The other sides of the actors' traits for tests: a log that gives packs back, a queue that redelivers, a sequencer that
//! can be held up, and virtual time.

use super::tenant::BatchSink;
use crate::{
    model::{
        batch::{Batch, Delivery},
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::TenantId,
        ticket::{Ticket, Verdict},
    },
    queue::{PackReadError, PackReader, Position},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

/// A pack with this request id makes the actor that gets it panic.
pub(crate) const CRASH: &str = "crash-the-actor";

/// Most deliveries of one pack, as the embedded queue has it.
const MAX_ATTEMPTS: u32 = 5;

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

/// A pack of entries whose ids and actions are given.
pub(crate) fn pack(of: &str, request_id: &str, entries: &[(u128, &str)]) -> Pack {
    let mut builder = PackBuilder::default();
    for (id, action) in entries {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(action.as_bytes());
        builder.push(&NewEntry {
            id: Uuid::from_u128(*id),
            client_id: true,
            hash: *id,
            timestamp: 0,
            severity: Severity::Info,
            fields,
        });
    }
    let header = PackHeader {
        pack_id: Uuid::from_u128(entries[0].0),
        tenant: tenant(of),
        actor: "tester".into(),
        request_id: request_id.into(),
        received_at: 0,
        part: (0, 1),
    };
    builder.finish(header).expect("entries")
}

/// A delivery of a pack with one entry, and where its verdict arrives.
pub(crate) fn delivery(of: &str, id: u128) -> (Delivery, oneshot::Receiver<Verdict>) {
    let (ticket, verdict) = Ticket::new();
    let position = Position { segment: 1, offset: id as u32 };
    let delivery = Delivery {
        pack: Arc::new(pack(of, "r", &[(id, "CREATE")])),
        position,
        attempt: 1,
        ticket,
    };
    (delivery, verdict)
}

/// Runs on this thread's own arbiter with a clock that jumps ahead when nothing is to be done.
pub(crate) fn on_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let paused = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime")
    };
    let bounded = async { tokio::time::timeout(Duration::from_secs(86_400), test).await.expect("it hangs") };
    actix::System::with_tokio_rt(paused).block_on(bounded)
}

/// Lets everything run that can run without the clock moving, until `done`; gives up rather than hang.
pub(crate) async fn until(done: impl Fn() -> bool) {
    for _ in 0..5_000_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not happen");
}

/// The durable log: the packs' bytes, and which of the packs that it gave out are still in memory.
#[derive(Default)]
pub(crate) struct Log {
    packs: Mutex<HashMap<Position, Bytes>>,
    given_out: Mutex<Vec<Weak<Pack>>>,
}

impl Log {
    /// Keeps a pack; its number in the log.
    pub(crate) fn write(&self, pack: &Pack) -> Position {
        let mut packs = self.packs.lock().unwrap();
        let offset = packs.len() as u32;
        let position = Position { segment: 1, offset };
        packs.insert(position, pack.bytes().clone());
        position
    }

    fn load(&self, at: Position) -> Arc<Pack> {
        let bytes = self.packs.lock().unwrap()[&at].to_vec();
        let pack = Arc::new(Pack::decode(bytes.into()).expect("well formed"));
        self.given_out.lock().unwrap().push(Arc::downgrade(&pack));
        pack
    }

    /// Packs that somebody holds in memory.
    pub(crate) fn in_memory(&self) -> usize {
        self.given_out.lock().unwrap().iter().filter(|pack| pack.strong_count() > 0).count()
    }
}

impl PackReader for Log {
    fn read(&self, at: Position) -> BoxFuture<'static, Result<Arc<Pack>, PackReadError>> {
        let pack = self.load(at);
        Box::pin(async move { Ok(pack) })
    }
}

/// What became of a pack in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Poison,
    /// The actors stopped first.
    Undecided,
}

/// The queue's delivering side: delivers again what was not decided, up to the limit.
pub(crate) struct Queue {
    pub(crate) log: Arc<Log>,
    deliveries: mpsc::Sender<Delivery>,
}

impl Queue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Delivery>) {
        let (deliveries, receiver) = mpsc::channel(64);
        let log = Arc::default();
        (Self { log, deliveries }, receiver)
    }

    /// Writes the pack and hands it over for the first time; resolves to where its end arrives.
    pub(crate) async fn send(&self, pack: &Pack) -> tokio::task::JoinHandle<End> {
        let position = self.log.write(pack);
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let first = deliver(&log, &deliveries, position, 1).await;
        tokio::spawn(async move {
            let Some(mut verdict) = first else { return End::Undecided };
            for attempt in 2..=MAX_ATTEMPTS + 1 {
                if verdict.await == Ok(Verdict::Done) {
                    return End::Done;
                }
                if attempt > MAX_ATTEMPTS {
                    break;
                }
                match deliver(&log, &deliveries, position, attempt).await {
                    Some(next) => verdict = next,
                    None => return End::Undecided,
                }
            }
            End::Poison
        })
    }
}

async fn deliver(log: &Log, deliveries: &mpsc::Sender<Delivery>, position: Position, attempt: u32) -> Option<oneshot::Receiver<Verdict>> {
    let slot = deliveries.reserve().await.ok()?;
    let (ticket, verdict) = Ticket::new();
    slot.send(Delivery {
        pack: log.load(position),
        position,
        attempt,
        ticket,
    });
    Some(verdict)
}

/// The sequencer: settles batches in the order in which they came, but for the tenants whose gate is shut.
pub(crate) struct Sequencer {
    shut: watch::Sender<HashSet<TenantId>>,
    /// Per tenant the first entry's id of every pack decided, in order.
    pub(crate) decided: Mutex<BTreeMap<TenantId, Vec<u128>>>,
    /// Batches that came, settled or not.
    pub(crate) batches: Mutex<Vec<(TenantId, usize)>>,
}

impl Sequencer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            shut: watch::Sender::default(),
            decided: Mutex::default(),
            batches: Mutex::default(),
        })
    }

    pub(crate) fn shut(&self, tenants: impl IntoIterator<Item = TenantId>) {
        self.shut.send_modify(|shut| shut.extend(tenants));
    }

    pub(crate) fn open(&self) {
        self.shut.send_modify(HashSet::clear);
    }
}

/// As `Arc<dyn BatchSink>`, so that `submit` can give out a future that owns the sequencer.
pub(crate) struct Sink(pub(crate) Arc<Sequencer>);

impl BatchSink for Sink {
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()> {
        let sequencer = self.0.clone();
        Box::pin(async move {
            // Here and not above: the order of first polls is what counts.
            sequencer.batches.lock().unwrap().push((batch.tenant.clone(), batch.works.len()));
            let ids: Vec<_> = batch.works.iter().map(|w| w.delivery.pack.id().as_u128()).collect();
            sequencer.decided.lock().unwrap().entry(batch.tenant.clone()).or_default().extend(ids);
            let mut shut = sequencer.shut.subscribe();
            let open = shut.wait_for(|shut| !shut.contains(&batch.tenant)).await;
            drop(open);
            for work in batch.works {
                work.delivery.ticket.settle(Verdict::Done);
            }
        })
    }
}
