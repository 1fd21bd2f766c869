//! Power cuts at any file operation, through everything that a durable entry goes through: queue, log, sequencer, store,
//! dead letters and objects, opened as a start opens them, on a disk that forgets what was not synced.
//!
//! After every cut: what was acknowledged is there once with the content that was sent, what was erased is not there until it
//! is sent again, numbers are dense, every counter is what the rows and dead letters say, nobody sees foreign rows.
//!
//! One case is judged with care: a cut that tears the last group and lets its trailer survive cannot be told from rot in a
//! group that was synced, so the log calls it damage and numbers may jump (docs/adr/0007). Without a torn write there is
//! no damage, and without damage no number is skipped.

mod calls;

use super::{
    recovered::{self, Log, Opened},
    settings,
};
use crate::{
    actors::{
        broadcast::Publisher,
        sequencer::{Parts, Phase, Sequencer, core::GAP},
    },
    catalog::{Catalog, NewTenant, SettingsPatch},
    config::{Settings, Sources},
    error::AppError,
    fs::{
        Fs,
        sim::{CrashMode, Dice, SimFs},
    },
    http::health::{Damage, Health},
    lifecycle::erasure::Eraser,
    model::{
        batch::{Batch, Work},
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::{TenantId, TenantScope},
    },
    objects::{Objects, folder::FolderObjects},
    queue::{Producer, embedded::EmbeddedQueue, wal::Wal},
    seal::{DecidedSeal, erasure::ErasureKind},
    sinks::{
        Authority, ListQuery, SealFollower, Sort,
        dead_letter::{DeadLetters, LetterFilter},
        embedded::EmbeddedStore,
    },
};
use futures_util::FutureExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};
use tokio::runtime::Handle;
use uuid::Uuid;

const TENANTS: [&str; 3] = ["a", "b", "c"];
const SEEDS: u64 = 40;
const LIVES: u64 = 4;
/// Event time of the entry with the id 0.
const EPOCH: i64 = 1_700_000_000_000;
/// Power is cut after so many file operations at most; a whole life has about as many.
const OPERATIONS: u64 = 400;

struct Nobody;

impl Publisher for Nobody {
    fn publish(&self, _: &Arc<DecidedSeal>) {}
}

/// One life of the process, without sockets and actors: deliveries go straight to the sequencer.
struct Life {
    store: EmbeddedStore,
    queue: EmbeddedQueue,
    sequencer: Sequencer,
    eraser: Eraser,
    dead_letters: DeadLetters,
    health: Health,
    wal: Wal,
}

fn settings(memtable_bytes: &str) -> Settings {
    let flags = [
        ("data_dir", "/data"),
        ("wal.segment_bytes", "1MiB"),
        ("wal.group_bytes", "64KiB"),
        ("store.memtable_bytes", memtable_bytes),
        ("disk.reserve", "1MiB"),
    ];
    let sources = Sources {
        flags: flags.map(|(key, value)| ("--set", key, value.to_owned())).to_vec(),
        ..Sources::default()
    };
    Settings::load(&sources).expect("good settings")
}

impl Life {
    async fn begin(fs: &SimFs, settings: &Settings) -> Result<Self, AppError> {
        let fs = Arc::new(fs.clone());
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(fs.clone(), settings.data_dir.join("objects")).map_err(AppError::failed)?);
        let catalog = Catalog::open(objects.clone()).await.map_err(AppError::failed)?;
        let (dead_letters, health) = (DeadLetters::open(objects, 0), Health::new());
        let Opened { store, log } = recovered::open(fs, settings, &catalog, dead_letters.settled(), &health, u64::MAX).await?;
        let Log { wal, book, sequencer, .. } = log;
        dead_letters.forget(sequencer.state.retired.iter().cloned());
        let queue = EmbeddedQueue::new(wal.clone(), book, settings::queue(settings), Handle::current());
        let parts = Parts {
            log: Arc::new(queue.clone()),
            follower: Arc::new(store.clone()),
            dead_letters: Arc::new(dead_letters.clone()),
            publisher: Arc::new(Nobody),
            sources: None,
        };
        let pending = sequencer.state.clone();
        let (sequencer, decider) = Sequencer::start(parts, sequencer, settings::sequencer(settings)).map_err(AppError::failed)?;
        let eraser = Eraser::new(Arc::new(decider.clone()), Arc::new(store.clone()), &pending);
        let mut deliveries = queue.start(Arc::new(decider.clone()), store.trimmable());
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                let batch = Batch {
                    tenant: delivery.pack.tenant().clone(),
                    bytes: delivery.pack.bytes().len(),
                    works: vec![Work { delivery, credit: None }],
                    refusal: None,
                };
                let mut submitted = decider.submit(batch);
                // Polled here, so that packs stay in order.
                if (&mut submitted).now_or_never().is_none() {
                    tokio::spawn(submitted);
                }
            }
        });
        Ok(Self {
            store,
            queue,
            sequencer,
            eraser,
            dead_letters,
            health,
            wal,
        })
    }

    /// Whether the process would have ended itself, because log or sequencer cannot go on.
    fn has_ended(&self) -> bool {
        self.wal.failed().now_or_never().is_some() || matches!(*self.sequencer.phase().borrow(), Phase::Halted(_))
    }

    /// The process is gone; its threads only must not outlive the test.
    async fn end(self) {
        let Self {
            store,
            queue,
            sequencer,
            eraser,
            dead_letters,
            ..
        } = self;
        eraser.stop().await;
        let ended = tokio::task::spawn_blocking(move || {
            queue.stop_accepting();
            queue.stop_delivery();
            store.close();
            dead_letters.close();
            sequencer.stop();
            queue.close();
        });
        ended.await.expect("no thread panicked");
    }

    async fn until_decided(&self) {
        let mut phase = self.sequencer.phase();
        // The store shows all that the log held only after the replay. A sequencer that is gone replays nothing more.
        let _ = phase.wait_for(|phase| *phase != Phase::Replaying).await;
        while self.queue.undecided().1 > 0 {
            tokio::task::yield_now().await;
        }
        self.dead_letters.drained().await;
    }
}

/// What one tenant's client sent and was told.
#[derive(Clone)]
struct Client {
    tenant: TenantId,
    dice: Dice,
    next_id: u128,
    tried: BTreeSet<Uuid>,
    acked: BTreeSet<Uuid>,
    entries_tried: u64,
    entries_acked: u64,
    /// Acknowledged, and then erased.
    gone: BTreeSet<Uuid>,
    erasures: u64,
    /// It was asked to be deleted, and whether that was seen to be done.
    deleted: Option<bool>,
    deletions: u64,
}

impl Client {
    fn new(tenant: &str, seed: u64) -> Self {
        Self {
            tenant: TenantId::parse(tenant).expect("a tenant"),
            dice: Dice::new(seed),
            next_id: 1,
            tried: BTreeSet::new(),
            acked: BTreeSet::new(),
            entries_tried: 0,
            entries_acked: 0,
            gone: BTreeSet::new(),
            erasures: 0,
            deleted: None,
            deletions: 0,
        }
    }

    /// Sends packs, one after the other, and erases now and then, until one is not taken.
    async fn send(mut self, queue: EmbeddedQueue, eraser: Eraser, fs: SimFs) -> Self {
        for _ in 0..24 {
            if self.dice.chance(8) && !self.erase(&queue, &eraser, &fs).await {
                break;
            }
            if (self.deleted == Some(false) || self.dice.chance(1)) && !self.delete(&eraser, &fs).await {
                break;
            }
            let (ids, text) = self.choose();
            // Until they are acknowledged again, nobody knows whether they are there.
            self.gone.retain(|id| !ids.contains(id));
            self.tried.extend(&ids);
            self.entries_tried += ids.len() as u64;
            let pack = pack(&self.tenant, &ids, text, 1 + self.dice.below(600) as usize);
            if queue.accept(pack, None).await.is_err() {
                break;
            }
            self.acked.extend(&ids);
            self.entries_acked += ids.len() as u64;
        }
        self
    }

    /// Erases the oldest entries; false when the power went meanwhile, so that nobody knows.
    async fn erase(&mut self, queue: &EmbeddedQueue, eraser: &Eraser, fs: &SimFs) -> bool {
        let scope = TenantScope::new(self.tenant.clone());
        while queue.counters(&scope).pending > 0 {
            if !fs.has_power() {
                return false;
            }
            tokio::task::yield_now().await; // what is not decided would have a later number, and stay
        }
        let first_kept = self.next_id - self.next_id.min(1 + u128::from(self.dice.below(200)));
        let kept = self.acked.split_off(&Uuid::from_u128(first_kept));
        let erased = std::mem::replace(&mut self.acked, kept);
        let mut asked = std::pin::pin!(eraser.erase(&scope, ErasureKind::Cleanup, EPOCH + first_kept as i64));
        let hidden = loop {
            match (&mut asked).now_or_never() {
                Some(done) => break done.is_ok(),
                None if !fs.has_power() => break false,
                None => tokio::task::yield_now().await,
            }
        };
        if hidden {
            self.erasures += 1;
            self.gone.extend(erased);
        }
        hidden
    }

    /// Deletes the tenant; what is sent later is accepted and not stored. False as for an erasure.
    async fn delete(&mut self, eraser: &Eraser, fs: &SimFs) -> bool {
        self.deletions += u64::from(self.deleted.is_none());
        self.deleted.get_or_insert(false);
        let scope = TenantScope::new(self.tenant.clone());
        let mut asked = std::pin::pin!(eraser.retire(&scope));
        loop {
            match (&mut asked).now_or_never() {
                Some(done) => {
                    self.deleted = Some(done.is_ok());
                    return done.is_ok();
                }
                None if !fs.has_power() => return false,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// New entries mostly; now and then known ones again, or known ones with other content.
    fn choose(&mut self) -> (Vec<Uuid>, char) {
        let n = 1 + self.dice.below(60) as usize;
        let known: Vec<Uuid> = self.acked.iter().copied().take(n).collect();
        let gone: Vec<Uuid> = self.gone.iter().copied().take(n).collect();
        match self.dice.below(9) {
            8 if !gone.is_empty() => (gone, 'x'),
            0 if !known.is_empty() => (known, 'x'),
            1 if !known.is_empty() => (known, 'y'),
            _ => {
                let from = self.next_id;
                self.next_id += n as u128;
                ((from..self.next_id).map(Uuid::from_u128).collect(), 'x')
            }
        }
    }
}

fn pack(tenant: &TenantId, ids: &[Uuid], text: char, length: usize) -> Pack {
    let (mut builder, message) = (PackBuilder::default(), text.to_string().repeat(length));
    for id in ids {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(&b"CREATE"[..]);
        fields[Field::ResourceType as usize] = Some(b"thing");
        fields[Field::ResourceId as usize] = Some(b"1");
        fields[Field::Message as usize] = Some(message.as_bytes());
        builder.push(&NewEntry {
            id: *id,
            client_id: true,
            hash: text as u128,
            timestamp: EPOCH + id.as_u128() as i64,
            severity: Severity::Info,
            fields,
        });
    }
    let header = PackHeader {
        pack_id: Uuid::new_v4(),
        tenant: tenant.clone(),
        actor: "tester".into(),
        request_id: "r".into(),
        received_at: 1_700_000_000_500,
        part: (0, 1),
    };
    builder.finish(header).expect("entries")
}

/// Reads everything back and compares.
async fn check(life: &Life, client: &mut Client, may_jump: bool, what: &str) {
    let scope = TenantScope::new(client.tenant.clone());
    if client.deleted.is_some() {
        // As the deletion does when it goes on: the seals know already, or are told now.
        life.eraser.retire(&scope).await.expect("it goes on");
        life.dead_letters.purge(&scope).await.expect("it can be written");
        let late = pack(&client.tenant, &[Uuid::new_v4()], 'x', 10);
        let decided = life
            .queue
            .accept(late, Some(std::time::Duration::from_secs(60)))
            .await
            .expect("there is room")
            .decided;
        assert_eq!(decided.map(|d| (d.stored, d.dead_lettered)), Some((0, 1)), "{what}: a pack of a deleted tenant");
        (client.entries_tried, client.entries_acked) = (client.entries_tried + 1, client.entries_acked + 1);
        life.dead_letters.drained().await;
    }
    let (mut ids, mut upto) = (BTreeSet::new(), 0);
    loop {
        let mut query = ListQuery {
            sort: Sort::SequenceAsc,
            limit: 1000,
            ..ListQuery::default()
        };
        query.filter.min_sequence = Some(upto + 1);
        let page = life.store.list(&scope, query).await.expect("readable");
        if page.entries.is_empty() {
            break;
        }
        for stored in page.entries {
            let sequence = stored.sequence.expect("a row has a number");
            assert!(sequence > upto, "{what}: number {sequence} twice");
            upto = sequence;
            let entry = stored.entry();
            assert!(ids.insert(entry.id()), "{what}: an id twice");
            assert_eq!(entry.hash(), 'x' as u128, "{what}: only acknowledged ids are sent again with other content");
            assert!(
                entry.text(Field::Message).is_some_and(|text| text.starts_with('x')),
                "{what}: the content is another"
            );
        }
    }
    let back = client.gone.intersection(&ids).count();
    assert_eq!(back, 0, "{what}: erased entries of `{}` are back", client.tenant);
    let lost = if client.deleted.is_some() {
        ids.len()
    } else {
        client.acked.difference(&ids).count()
    };
    assert_eq!(lost, 0, "{what}: acknowledged entries of `{}` are lost", client.tenant);
    assert!(ids.is_subset(&client.tried), "{what}: entries that `{}` never sent", client.tenant);
    // An erasure of nothing: its turn comes when all others are counted.
    let nothing = life.eraser.erase(&scope, ErasureKind::Cleanup, i64::MIN).await.expect("it erases");
    assert_eq!(nothing.rows().await, Ok(0));
    let counters = life.queue.counters(&scope);
    let head = life.store.visible_head(&scope).head;
    assert!(may_jump || head == counters.stored, "{what}: head {head} of {counters:?}");
    let letters = life.dead_letters.list(&scope, &LetterFilter::default(), 0, 1).await.expect("readable").total;
    let originals = if client.deleted.is_some() { 0 } else { counters.dead_lettered };
    assert_eq!(
        (counters.stored - counters.erased, originals, counters.pending),
        (ids.len() as u64, letters, 0),
        "{what}"
    );
    assert_eq!(counters.accepted, counters.stored + counters.duplicate + counters.dead_lettered, "{what}");
    assert!(
        (client.entries_acked..=client.entries_tried).contains(&counters.accepted),
        "{what}: {counters:?} of {}..={}",
        client.entries_acked,
        client.entries_tried
    );
}

/// What a story was good for.
#[derive(Default)]
struct Told {
    acked: u64,
    flushed: u64,
    dense: u64,
    erasures: u64,
    deletions: u64,
}

async fn live_and_lose_power(seed: u64) -> Told {
    let (mut dice, mut fs, settings) = (Dice::new(seed), SimFs::new(), settings("1MiB"));
    let (mut mode, mut damage) = (CrashMode::Lose, Vec::new());
    let mut clients: Vec<Client> = TENANTS.iter().map(|tenant| Client::new(tenant, dice.roll())).collect();
    for _ in 0..LIVES {
        fs.power_off_after(dice.below(OPERATIONS) as usize);
        // Power may go while it starts; then nothing was promised in this life.
        if let Ok(life) = Life::begin(&fs, &settings).await {
            let sending: Vec<_> = clients
                .drain(..)
                .map(|client| tokio::spawn(client.send(life.queue.clone(), life.eraser.clone(), fs.clone())))
                .collect();
            for client in sending {
                clients.push(client.await.expect("no client panicked"));
            }
            judge(&life, mode, &mut damage, seed);
            mode = if dice.chance(50) { CrashMode::Lose } else { CrashMode::Tear };
            let next = fs.crash(dice.roll(), mode);
            life.end().await;
            fs = next;
        } else {
            mode = CrashMode::Tear;
            fs = fs.crash(dice.roll(), mode);
        }
    }
    let mut flushed = 0;
    for pass in ["as the log tells it", "after a flush and one more start"] {
        let life = Life::begin(&fs, &settings).await.expect("it starts");
        judge(&life, mode, &mut damage, seed);
        life.until_decided().await;
        for client in &mut clients {
            check(&life, client, !damage.is_empty(), &format!("seed {seed}, {pass}")).await;
        }
        let store = life.store.clone();
        tokio::task::spawn_blocking(move || store.flush())
            .await
            .expect("no panic")
            .expect("there is room");
        flushed = life.store.health().flushed;
        life.end().await;
    }
    Told {
        acked: clients.iter().map(|c| c.entries_acked).sum(),
        flushed,
        dense: u64::from(damage.is_empty()),
        erasures: clients.iter().map(|c| c.erasures).sum(),
        deletions: clients.iter().map(|c| c.deletions).sum(),
    }
}

/// Notes new damage in `known`; it may only be a torn group. What was found once is told again until its segment is trimmed.
fn judge(life: &Life, mode: CrashMode, known: &mut Vec<Damage>, seed: u64) {
    let found = life.health.damage().into_iter().filter(|damage| !known.contains(damage));
    let new: Vec<_> = found.collect();
    let torn = mode == CrashMode::Tear && new.iter().all(|damage| damage.what == "segment" && damage.message.contains("damaged"));
    assert!(new.is_empty() || torn, "seed {seed}: a power cut was taken for damage: {new:?}");
    known.extend(new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_survives_a_power_cut_at_any_file_operation() {
    let mut all = Told::default();
    let seeds = crate::testing::seeds(SEEDS);
    for seed in seeds.clone() {
        let told = live_and_lose_power(seed).await;
        all = Told {
            acked: all.acked + told.acked,
            flushed: all.flushed + told.flushed,
            dense: all.dense + told.dense,
            erasures: all.erasures + told.erasures,
            deletions: all.deletions + told.deletions,
        };
    }
    if seeds.end < SEEDS || seeds.start > 0 {
        return; // some of them, told again
    }
    assert!(
        all.acked > 10_000 && all.flushed > 100 && all.erasures > 40 && all.deletions > 10,
        "it tested little: {} entries, {} seals, {} erasures, {} deletions",
        all.acked,
        all.flushed,
        all.erasures,
        all.deletions
    );
    // How many are torn visibly is a matter of timing; that numbers are dense must be tested often all the same.
    assert!(all.dense >= SEEDS / 4, "only {} of {SEEDS} stories were without a jump", all.dense);
}

/// One pack of new entries, shown.
async fn write(life: &Life, client: &mut Client, entries: usize) {
    let from = client.next_id;
    client.next_id += entries as u128;
    let ids: Vec<Uuid> = (from..client.next_id).map(Uuid::from_u128).collect();
    let pack = pack(&client.tenant, &ids, 'x', 500);
    let accepted = life.queue.accept(pack, Some(std::time::Duration::from_secs(60))).await.expect("there is room");
    assert_eq!(accepted.decided.expect("decided in time").stored, entries as u64);
}

/// Every number with its id.
async fn numbers(life: &Life, client: &Client) -> BTreeMap<u64, Uuid> {
    let (scope, mut all) = (TenantScope::new(client.tenant.clone()), BTreeMap::new());
    loop {
        let mut query = ListQuery {
            sort: Sort::SequenceAsc,
            limit: 1000,
            ..ListQuery::default()
        };
        query.filter.min_sequence = Some(all.last_key_value().map_or(0, |(n, _)| n + 1));
        let page = life.store.list(&scope, query).await.expect("readable");
        if page.entries.is_empty() {
            return all;
        }
        all.extend(page.entries.iter().map(|e| (e.sequence.expect("a number"), e.entry().id())));
    }
}

async fn flush(life: &Life) {
    let store = life.store.clone();
    let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
    flushed.expect("no panic").expect("there is room");
}

/// A tenant writes only after it was made; so the catalog knows it when no seal does any more.
async fn register(fs: &SimFs, settings: &Settings, tenant: &TenantId) {
    let objects = FolderObjects::open(Arc::new(fs.clone()), settings.data_dir.join("objects")).expect("a folder");
    let catalog = Catalog::open(Arc::new(objects)).await.expect("it opens");
    let new = NewTenant {
        tenant_id: tenant.clone(),
        name: None,
        settings: SettingsPatch::default(),
    };
    catalog.create(new).await.expect("it is new");
}

/// A disk with 4,800 entries in several segments, after `kill -9` or, flushed, after an orderly stop; and the numbers.
async fn filled(client: &mut Client, memtable_bytes: &str, orderly: bool) -> (SimFs, BTreeMap<u64, Uuid>) {
    let (fs, settings) = (SimFs::new(), settings(memtable_bytes));
    register(&fs, &settings, &client.tenant).await;
    let life = Life::begin(&fs, &settings).await.expect("it starts");
    for _ in 0..120 {
        write(&life, client, 40).await;
    }
    if orderly {
        flush(&life).await;
    }
    let before = numbers(&life, client).await;
    assert_eq!(before.len(), 4800);
    let left = fs.crash(0, CrashMode::Keep);
    life.end().await;
    (left, before)
}

/// The log's segments that hold something, oldest first.
fn segments(fs: &SimFs) -> Vec<PathBuf> {
    let is_used = |path: &PathBuf| path.extension().is_some_and(|e| e == "seg") && fs.bytes(path)[4096..].iter().any(|b| *b != 0);
    fs.paths().into_iter().filter(is_used).collect()
}

/// No number names two entries, and every start but the first goes on right after the last number.
async fn go_on_three_times(mut fs: SimFs, before: &BTreeMap<u64, Uuid>, client: &mut Client, what: &str) {
    let settings = settings("1MiB");
    let mut last = None;
    for start in 1..=3 {
        let life = Life::begin(&fs, &settings).await.expect("it starts");
        assert!(start > 1 || !life.health.damage().is_empty(), "{what}: nothing was reported");
        life.until_decided().await;
        write(&life, client, 3).await;
        let after = numbers(&life, client).await;
        for (number, id) in &after {
            assert!(
                before.get(number).is_none_or(|known| known == id),
                "{what}, start {start}: {number} is used again"
            );
        }
        let (newest, _) = after.last_key_value().expect("rows");
        match last {
            None => assert!(*newest > GAP.max(before.len() as u64), "{what}: numbers did not jump: {newest}"),
            Some(last) => assert_eq!(*newest, last + 3, "{what}, start {start}: numbers jumped again"),
        }
        last = Some(*newest);
        if start == 2 {
            flush(&life).await;
        }
        fs = fs.crash(start, CrashMode::Keep);
        life.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_end_of_the_log_is_noticed_and_numbers_jump_once() {
    // Flushed and trimmed on the way; in the log alone; flushed at the stop.
    for (memtable_bytes, orderly) in [("1MiB", false), ("64MiB", false), ("64MiB", true)] {
        let mut client = Client::new("a", 1);
        let (fs, before) = filled(&mut client, memtable_bytes, orderly).await;
        let used = segments(&fs);
        assert!(used.len() >= 2, "{used:?}");
        for gone in 1..=used.len() {
            let fs = fs.crash(0, CrashMode::Keep);
            let first_gone = &used[used.len() - gone];
            let all = fs
                .paths()
                .into_iter()
                .filter(|path| path.extension().is_some_and(|e| e == "seg") && path >= first_gone);
            all.for_each(|path| fs.remove(&path).expect("it is there"));
            let what = format!("memtable {memtable_bytes}, orderly {orderly}, {gone} of {} segments gone", used.len());
            let look = fs.crash(0, CrashMode::Keep);
            Life::begin(&look, &settings(memtable_bytes)).await.expect("it starts").end().await;
            assert!(segments(&look).last() > used.last(), "{what}: an ordinal is used again: {:?}", segments(&look));
            let has_manifest = fs.paths().iter().any(|path| path.starts_with("/data/manifest"));
            if gone < used.len() || has_manifest {
                go_on_three_times(fs, &before, &mut client, &what).await;
            } // Otherwise only a catalog could name the tenants whose numbers must jump, and there is none here.
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_jump_once_for_damage_that_stays_on_the_disk() {
    let mut client = Client::new("a", 1);
    let (fs, before) = filled(&mut client, "64MiB", false).await;
    let last = segments(&fs).pop().expect("a segment");
    let bytes = fs.bytes(&last);
    let used = bytes.iter().rposition(|b| *b != 0).expect("it holds something") as u64;
    for (what, cut) in [("cut at a third", true), ("a range of zeros", false)] {
        let fs = fs.crash(0, CrashMode::Keep);
        if cut {
            fs.truncate(&last, used / 3);
        } else {
            let mut bytes = bytes.clone();
            bytes[used as usize / 3..used as usize / 2].fill(0);
            fs.set_bytes(&last, &bytes);
        }
        go_on_three_times(fs, &before, &mut client, what).await;
    }
}
