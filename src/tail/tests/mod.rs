//! Tails over the real log of seals, written by a real sequencer: two processes that read, one that decides, and a store that is a
//! table, which each process shows by its own view.

mod views;

use super::{fresh::Fresh, *};
use crate::{
    actors::{
        broadcast::Publisher,
        sequencer::{Ended, Parts, Sequencer, SequencerHandle, SequencerSettings, core::Order},
    },
    lifecycle::{counting::Counting, remote::RemoteOrders},
    model::{
        batch::{Batch, Delivery, Work},
        entry::{ContentHash, Field, NewEntry, Severity, StoredEntry},
        filter::{Filter, Surroundings},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::TenantScope,
        ticket::{Ticket, Verdict},
        time::now_ms,
    },
    objects::{Key, ObjectError, Objects, Precondition, Version, memory::MemoryObjects},
    queue::{
        AcceptError,
        seals::{ANALYTICS, DEAD_LETTERS, ObjectSealLog, SEARCH, SealsSettings},
    },
    seal::{DecidedSeal, erasure::ErasureKind},
    sinks::{Authority, Condition, ListPage, ListQuery, Scan, SealFollower, Stats, StatsQuery, StoreError, VisibleHead, dead_letter::DeadLetters},
};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{Condvar, Mutex, atomic::AtomicBool},
};
use tokio::runtime::Handle;

/// Nothing here takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::decode(name).expect("a log")
}

pub(crate) fn scope(name: &str) -> TenantScope {
    TenantScope::new(tenant(name))
}

/// A pack of one plain entry with this content hash, received now.
pub(crate) fn pack_with_hash(name: &str, id: u128, hash: u128) -> Pack {
    let mut builder = PackBuilder::default();
    let mut fields = [None; Field::COUNT];
    for field in [Field::Action, Field::ResourceType, Field::ResourceId] {
        fields[field as usize] = Some(&b"other"[..]);
    }
    builder.push(&NewEntry {
        id: Uuid::from_u128(id),
        client_id: true,
        hash,
        timestamp: 1_700_000_000_000,
        severity: Severity::Info,
        fields,
    });
    let header = PackHeader {
        pack_id: Uuid::now_v7(),
        tenant: tenant(name),
        actor: "tester".into(),
        request_id: "r-1".into(),
        received_at: now_ms(),
        part: (0, 1),
    };
    builder.finish(header).expect("an entry")
}

/// Fails the test when it takes too long.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Looks until it holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    in_time(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The objects as one process reaches them.
pub(crate) struct Reach {
    objects: Arc<dyn Objects>,
    /// Nothing is reached.
    pub(crate) cut: AtomicBool,
}

impl Reach {
    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Objects) -> BoxFuture<'static, Result<T, ObjectError>>,
    ) -> BoxFuture<'static, Result<T, ObjectError>> {
        if self.cut.load(Ordering::SeqCst) {
            return ready(Err(ObjectError::Io("cut off".into()))).boxed();
        }
        ask(&*self.objects)
    }
}

impl Objects for Reach {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        self.ask(|objects| objects.get(key))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        self.ask(|objects| objects.get_range(key, range))
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        self.ask(|objects| objects.put(key, bytes, when))
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.ask(|objects| objects.delete(key))
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.ask(|objects| objects.clear(folder))
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        self.ask(|objects| objects.list(folder))
    }
}

/// A row of the store.
#[derive(Clone)]
struct Row {
    id: Uuid,
    hash: ContentHash,
    timestamp: i64,
    entry: StoredEntry,
}

/// The store, of all processes.
#[derive(Default)]
pub(crate) struct Table {
    rows: Mutex<BTreeMap<(TenantId, u64), Row>>,
    /// Names of the packs whose seals it has.
    packs: Mutex<HashSet<Uuid>>,
    blocked: Mutex<bool>,
    changed: Condvar,
    /// Counting fails.
    pub(crate) counts_fail: AtomicBool,
}

impl Table {
    pub(crate) fn block(&self, blocked: bool) {
        *self.blocked.lock().expect("whole") = blocked;
        self.changed.notify_all();
    }

    fn of(&self, tenant: &TenantId, wanted: impl Fn(&Row, u64) -> bool) -> Vec<StoredEntry> {
        let rows = self.rows.lock().expect("whole");
        let own = rows.range((tenant.clone(), 0)..=(tenant.clone(), u64::MAX));
        own.filter(|((_, n), row)| wanted(row, *n)).map(|(_, row)| row.entry.clone()).collect()
    }
}

impl SealFollower for Table {
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        drop(self.changed.wait_while(self.blocked.lock().expect("whole"), |blocked| *blocked));
        let mut rows = self.rows.lock().expect("whole");
        self.packs.lock().expect("whole").extend(seal.seal.packs.iter().map(|pack| pack.pack_id));
        for decided in seal.entries() {
            let Some(sequence) = decided.sequence else { continue };
            let header = decided.pack.header();
            let row = Row {
                id: decided.entry.id(),
                hash: decided.entry.hash(),
                timestamp: decided.entry.timestamp(),
                entry: StoredEntry {
                    record: decided.pack.record(decided.index),
                    received_at: header.received_at,
                    actor: header.actor.clone(),
                    sequence: Some(sequence),
                },
            };
            rows.insert((header.tenant.clone(), sequence), row);
        }
        Ok(())
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        let rows = self.rows.lock().expect("whole");
        let find = |(tenant, id): &(TenantId, Uuid)| rows.iter().find(|((t, _), row)| t == tenant && row.id == *id).map(|(_, row)| row.hash);
        Ok(keys.iter().map(find).collect())
    }

    fn lookup_packs(&self, packs: &[Uuid]) -> Result<Vec<bool>, StoreError> {
        let known = self.packs.lock().expect("whole");
        Ok(packs.iter().map(|pack| known.contains(pack)).collect())
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        watch::channel(u64::MAX).1
    }
}

/// The store as one process shows it.
#[derive(Clone)]
pub(crate) struct Shop {
    table: Arc<Table>,
    view: Arc<dyn SealView>,
}

impl Shop {
    fn answer<T: Send + 'static>(&self, answer: impl FnOnce(&Self) -> T) -> BoxFuture<'static, Result<T, StoreError>> {
        let answered = if self.view.ready() { Ok(answer(self)) } else { Err(StoreError::Starting) };
        ready(answered).boxed()
    }

    fn rows(&self, tenant: &TenantId) -> Vec<StoredEntry> {
        let (head, erased) = (self.view.head(tenant), self.view.erasures(tenant).unwrap_or_default());
        self.table
            .of(tenant, |row, n| n <= head && !erased.covers(row.timestamp, row.entry.received_at, n))
    }
}

impl Authority for Shop {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        self.answer(|this| this.rows(scope.tenant()).into_iter().find(|entry| entry.entry().id() == id))
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        self.answer(|this| {
            let upto = query.upto.unwrap_or(u64::MAX);
            let mut entries = this.rows(scope.tenant());
            entries.retain(|entry| entry.sequence.is_some_and(|n| n <= upto && query.after.is_none_or(|after| n < after.sequence)));
            entries.reverse();
            let total = Some(entries.len() as u64);
            let more = entries.len() > query.limit;
            entries.truncate(query.limit);
            ListPage {
                entries,
                total,
                total_is_exact: true,
                as_of: this.view.head(scope.tenant()).min(upto),
                more,
                reached: None,
            }
        })
    }

    fn stats(&self, _: &TenantScope, _: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        unreachable!("nobody asks")
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        self.answer(|this| {
            let head = this.view.head(scope.tenant());
            let mut entries = this.rows(scope.tenant());
            entries.retain(|entry| entry.sequence.is_some_and(|n| n > after));
            let upto = entries.get(limit).and_then(|entry| entry.sequence).map_or(head, |next| next - 1);
            entries.truncate(limit);
            let there: Vec<u64> = entries.iter().filter_map(|entry| entry.sequence).collect();
            let voids = (after + 1..=upto).filter(|n| !there.contains(n)).map(|n| (n, n)).collect();
            let wanted = |entry: &StoredEntry| {
                let sequence = entry.sequence.unwrap_or(0);
                filter.matches(&entry.entry(), Surroundings { sequence, actor: &entry.actor })
            };
            entries.retain(wanted);
            Scan { entries, voids, upto }
        })
    }

    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        if self.table.counts_fail.load(Ordering::SeqCst) {
            return ready(Err(StoreError::Busy)).boxed();
        }
        let erased = self.view.erasures(scope.tenant()).unwrap_or_default();
        let counted = |row: &Row, n| erased.counted_by(job, row.timestamp, row.entry.received_at, n);
        self.answer(|this| this.table.of(scope.tenant(), counted).len() as u64)
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        let wanted = Erasure {
            job: Uuid::nil(),
            kind,
            cutoff,
            head: u64::MAX,
        };
        let covers = |entry: &StoredEntry| wanted.covers(entry.entry().timestamp(), entry.received_at, entry.sequence.unwrap_or(0));
        self.answer(|this| this.rows(scope.tenant()).iter().filter(|entry| covers(entry)).count() as u64)
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        VisibleHead {
            head: self.view.head(scope.tenant()),
        }
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.view.visible()
    }

    fn condition(&self, _: bool) -> Condition {
        Condition::default()
    }
}

struct Nobody;

impl Publisher for Nobody {
    fn publish(&self, _: &Arc<DecidedSeal>) {}
}

/// The objects, and the store.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) memory: MemoryObjects,
    pub(crate) table: Arc<Table>,
    pub(crate) seals: SealsSettings,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            memory: MemoryObjects::default(),
            table: Arc::default(),
            seals: SealsSettings {
                followers: Vec::new(), // no search store
                ..SealsSettings::default()
            },
        }
    }

    pub(crate) fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(self.memory.clone())
    }

    pub(crate) fn reach(&self) -> Arc<Reach> {
        Arc::new(Reach {
            objects: self.objects(),
            cut: AtomicBool::new(false),
        })
    }

    fn seals_of(&self, objects: &Arc<Reach>, partition: u32) -> Seals {
        Seals::open(objects.clone(), partition, self.seals.clone())
    }

    /// A process that reads.
    pub(crate) fn reader(&self, partitions: u32) -> Reader {
        self.reader_with(partitions, quick())
    }

    pub(crate) fn reader_with(&self, partitions: u32, settings: TailSettings) -> Reader {
        self.reader_for(partitions, settings, |_| None)
    }

    /// One with a publisher that is made of its store.
    pub(crate) fn reader_for(&self, partitions: u32, settings: TailSettings, publisher: impl FnOnce(&Shop) -> Option<Arc<dyn Publisher>>) -> Reader {
        let reach = self.reach();
        let late = Arc::new(Late::default());
        let seals = (0..partitions).map(|p| self.seals_of(&reach, p)).collect();
        let tail = Tail::start(seals, &[ANALYTICS, DEAD_LETTERS], Some(late.clone()), settings);
        let shop = Shop {
            table: self.table.clone(),
            view: tail.view(ANALYTICS),
        };
        *late.0.lock().expect("whole") = publisher(&shop);
        Reader { reach, tail, shop }
    }

    /// The process that owns a partition.
    pub(crate) async fn owner(&self, partition: u32) -> Owner {
        let reach = self.reach();
        let seals = self.seals_of(&reach, partition);
        let taken = in_time("taking over", async {
            loop {
                match ObjectSealLog::take(&seals).await {
                    Ok(taken) => return taken,
                    Err(error) => eprintln!("{error}"),
                }
            }
        })
        .await;
        let letters = DeadLetters::shared(reach.clone(), taken.start.state.n);
        letters.forget(taken.start.state.retired.iter().cloned());
        let parts = Parts {
            log: taken.log.clone(),
            follower: self.table.clone(),
            dead_letters: Arc::new(letters.clone()),
            publisher: Arc::new(Nobody),
            sources: None,
        };
        taken.log.save_cursor(DEAD_LETTERS, letters.settled());
        let (sequencer, handle) = Sequencer::start(parts, taken.start, SequencerSettings::default()).expect("threads");
        Owner {
            log: taken.log,
            sequencer,
            handle,
            letters,
        }
    }
}

/// Publishes when somebody has said where to.
#[derive(Default)]
struct Late(Mutex<Option<Arc<dyn Publisher>>>);

impl Late {
    fn get(&self) -> Option<Arc<dyn Publisher>> {
        self.0.lock().expect("whole").clone()
    }
}

impl Publisher for Late {
    fn publish(&self, seal: &Arc<DecidedSeal>) {
        if let Some(publisher) = self.get() {
            publisher.publish(seal);
        }
    }

    fn wants(&self, tenant: &TenantId) -> bool {
        self.get().is_some_and(|publisher| publisher.wants(tenant))
    }

    fn missed(&self) {
        if let Some(publisher) = self.get() {
            publisher.missed();
        }
    }
}

/// Settings under which tests do not wait long. None of them depends on that.
pub(crate) fn quick() -> TailSettings {
    TailSettings {
        poll: Duration::from_millis(5),
        idle: Duration::from_millis(40),
        fresh_for: Duration::from_millis(50),
        refuse_after: PATIENCE,
    }
}

/// A process that reads.
pub(crate) struct Reader {
    pub(crate) reach: Arc<Reach>,
    pub(crate) tail: Tail,
    pub(crate) shop: Shop,
}

impl Reader {
    /// The store as its handlers ask it.
    pub(crate) fn fresh(&self) -> Fresh<Shop> {
        Fresh::new(Arc::new(self.shop.clone()), self.tail.clone())
    }

    /// The number up to which it shows them.
    pub(crate) fn head(&self, name: &str) -> u64 {
        self.shop.view.head(&tenant(name))
    }

    /// How many rows it shows.
    pub(crate) async fn rows(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.fresh().list(&scope(name), ListQuery::default()).await?.total.expect("counted"))
    }
}

/// The process that owns a partition.
pub(crate) struct Owner {
    pub(crate) log: Arc<ObjectSealLog>,
    sequencer: Sequencer,
    pub(crate) handle: SequencerHandle,
    pub(crate) letters: DeadLetters,
}

impl Owner {
    /// Has a pack decided; resolves when its seal is durable.
    pub(crate) async fn decide(&self, pack: Pack) {
        let (ticket, verdict) = Ticket::new();
        let pack = Arc::new(pack);
        let delivery = Delivery {
            pack: pack.clone(),
            position: crate::queue::Position { segment: 1, offset: 0 },
            attempt: 1,
            ticket,
        };
        let batch = Batch {
            tenant: pack.tenant().clone(),
            bytes: pack.bytes().len(),
            works: vec![Work { delivery, credit: None }],
            refusal: None,
        };
        tokio::spawn(self.handle.submit(batch));
        assert_eq!(in_time("deciding", verdict).await, Ok(Verdict::Done));
    }

    /// Counts what is erased.
    pub(crate) fn count(&self, reader: &Reader) -> Counting {
        let partition = self.log.seals().partition() as usize;
        Counting::start(Arc::new(self.handle.clone()), Arc::new(reader.shop.clone()), reader.tail.clone(), partition)
    }

    pub(crate) async fn stop(self) {
        let Self { sequencer, log, .. } = self;
        in_time("the owner's stop", tokio::task::spawn_blocking(move || sequencer.stop()))
            .await
            .expect("nothing panicked");
        log.close().await;
    }
}

/// A queue that takes orders for one owner: each is delivered twice, and not before it may be.
#[derive(Clone)]
pub(crate) struct Orderly(Arc<OrderlyInner>);

struct OrderlyInner {
    owner: Mutex<SequencerHandle>,
    runtime: Handle,
    held: Mutex<Option<Vec<Order>>>,
    refuses: AtomicBool,
}

impl Orderly {
    pub(crate) fn to(owner: &Owner) -> Self {
        Self(Arc::new(OrderlyInner {
            owner: Mutex::new(owner.handle.clone()),
            runtime: Handle::current(),
            held: Mutex::default(),
            refuses: AtomicBool::new(false),
        }))
    }

    /// Takes no order any more.
    pub(crate) fn refuse(&self) {
        self.0.refuses.store(true, Ordering::SeqCst);
    }

    /// Keeps orders until they are let go.
    pub(crate) fn hold(&self) {
        *self.0.held.lock().expect("whole") = Some(Vec::new());
    }

    /// Delivers what it has kept, to this owner.
    pub(crate) fn deliver(&self, owner: &Owner) {
        *self.0.owner.lock().expect("whole") = owner.handle.clone();
        let held = self.0.held.lock().expect("whole").take();
        held.into_iter().flatten().for_each(|order| self.pass(order));
    }

    fn pass(&self, order: Order) {
        let owner = self.0.owner.lock().expect("whole").clone();
        self.0.runtime.spawn(async move {
            for _ in 0..2 {
                let _: Result<(), Ended> = owner.order_durably(order.clone()).await;
            }
        });
    }

    fn take(&self, order: Order) -> BoxFuture<'static, Result<(), AcceptError>> {
        if self.0.refuses.load(Ordering::SeqCst) {
            let reason = "the queue takes nothing";
            return ready(Err(AcceptError::Unavailable {
                reason,
                retry_after: Duration::ZERO,
            }))
            .boxed();
        }
        let mut held = self.0.held.lock().expect("whole");
        match held.as_mut() {
            Some(held) => held.push(order),
            None => self.pass(order),
        }
        ready(Ok(())).boxed()
    }
}

impl RemoteOrders for Orderly {
    fn erase(&self, tenant: &TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), AcceptError>> {
        self.take(Order::Erase {
            tenant: tenant.clone(),
            kind,
            cutoff,
            job,
        })
    }

    fn retire(&self, tenant: &TenantId, job: Uuid) -> BoxFuture<'static, Result<(), AcceptError>> {
        self.take(Order::Retire { tenant: tenant.clone(), job })
    }
}
