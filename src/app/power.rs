//! Power cuts at any file operation, through everything that a durable entry goes through: queue, log, sequencer, store,
//! dead letters and objects, opened as a start opens them, on a disk that forgets what was not synced.
//!
//! After every cut: what was acknowledged is there once with the content that was sent, numbers are dense, every counter is
//! what the rows and dead letters say, nobody sees foreign rows.
//!
//! One case is judged with care: a cut that tears the last group and lets its trailer survive cannot be told from rot in a
//! group that was synced, so the log calls it damage and numbers may jump (docs/adr/0007). Without a torn write there is
//! no damage, and without damage no number is skipped.

use super::{
    queue_settings,
    recovered::{self, Opened},
    sequencer_settings,
};
use crate::{
    actors::{
        broadcast::Publisher,
        sequencer::{Parts, Sequencer},
    },
    catalog::Catalog,
    config::{Settings, Sources},
    error::AppError,
    fs::sim::{CrashMode, Dice, SimFs},
    http::health::{Damage, Health},
    model::{
        batch::{Batch, Work},
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::{TenantId, TenantScope},
    },
    objects::{Objects, folder::FolderObjects},
    queue::{Producer, embedded::EmbeddedQueue},
    seal::DecidedSeal,
    sinks::{Authority, ListQuery, SealFollower, Sort, dead_letter::DeadLetters, embedded::EmbeddedStore},
};
use futures_util::FutureExt;
use std::{collections::BTreeSet, sync::Arc};
use tokio::runtime::Handle;
use uuid::Uuid;

const TENANTS: [&str; 3] = ["a", "b", "c"];
const SEEDS: u64 = 40;
const LIVES: u64 = 4;
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
    dead_letters: DeadLetters,
    health: Health,
}

fn settings() -> Settings {
    let flags = [
        ("data_dir", "/data"),
        ("wal.segment_bytes", "1MiB"),
        ("wal.group_bytes", "64KiB"),
        ("store.memtable_bytes", "1MiB"),
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
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(fs.clone(), settings.objects_dir.clone()).map_err(AppError::failed)?);
        let catalog = Catalog::open(objects.clone()).await.map_err(AppError::failed)?;
        let (dead_letters, health) = (DeadLetters::open(objects, 0), Health::new());
        let Opened { store, wal, book, sequencer } = recovered::open(fs, settings, &catalog, dead_letters.settled(), &health).await?;
        let queue = EmbeddedQueue::new(wal, book, queue_settings(settings), Handle::current());
        let parts = Parts {
            log: Arc::new(queue.clone()),
            follower: Arc::new(store.clone()),
            dead_letters: Arc::new(dead_letters.clone()),
            publisher: Arc::new(Nobody),
        };
        let (sequencer, decider) = Sequencer::start(parts, sequencer, sequencer_settings(settings)).map_err(AppError::failed)?;
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
            dead_letters,
            health,
        })
    }

    /// The process is gone; its threads only must not outlive the test.
    async fn end(self) {
        let Self {
            store,
            queue,
            sequencer,
            dead_letters,
            ..
        } = self;
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
        while self.queue.undecided().1 > 0 {
            tokio::task::yield_now().await;
        }
        self.dead_letters.drained().await;
    }
}

/// What one tenant's client sent and was told.
struct Client {
    tenant: TenantId,
    dice: Dice,
    next_id: u128,
    tried: BTreeSet<Uuid>,
    acked: BTreeSet<Uuid>,
    entries_tried: u64,
    entries_acked: u64,
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
        }
    }

    /// Sends packs, one after the other, until one is not taken.
    async fn send(mut self, queue: EmbeddedQueue) -> Self {
        for _ in 0..24 {
            let (ids, text) = self.choose();
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

    /// New entries mostly; now and then known ones again, or known ones with other content.
    fn choose(&mut self) -> (Vec<Uuid>, char) {
        let n = 1 + self.dice.below(60) as usize;
        let known: Vec<Uuid> = self.acked.iter().copied().take(n).collect();
        match self.dice.below(8) {
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
            timestamp: 1_700_000_000_000 + id.as_u128() as i64,
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
async fn check(life: &Life, client: &Client, may_jump: bool, what: &str) {
    let scope = TenantScope::new(client.tenant.clone());
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
            assert!(may_jump || sequence == upto + 1, "{what}: {sequence} follows {upto}");
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
    let lost = client.acked.difference(&ids).count();
    assert_eq!(lost, 0, "{what}: acknowledged entries of `{}` are lost", client.tenant);
    assert!(ids.is_subset(&client.tried), "{what}: entries that `{}` never sent", client.tenant);
    let counters = life.queue.counters(&scope);
    let letters = life.dead_letters.list(&scope, 0, 1).await.expect("readable").total;
    assert_eq!(
        (counters.stored, counters.dead_lettered, counters.pending),
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
}

async fn live_and_lose_power(seed: u64) -> Told {
    let (mut dice, mut fs, settings) = (Dice::new(seed), SimFs::new(), settings());
    let (mut mode, mut damage) = (CrashMode::Lose, Vec::new());
    let mut clients: Vec<Client> = TENANTS.iter().map(|tenant| Client::new(tenant, dice.roll())).collect();
    for _ in 0..LIVES {
        fs.power_off_after(dice.below(OPERATIONS) as usize);
        // Power may go while it starts; then nothing was promised in this life.
        if let Ok(life) = Life::begin(&fs, &settings).await {
            let sending: Vec<_> = clients.drain(..).map(|client| tokio::spawn(client.send(life.queue.clone()))).collect();
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
        for client in &clients {
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
    for seed in 0..SEEDS {
        let told = live_and_lose_power(seed).await;
        all = Told {
            acked: all.acked + told.acked,
            flushed: all.flushed + told.flushed,
            dense: all.dense + told.dense,
        };
    }
    assert!(
        all.acked > 10_000 && all.flushed > 100,
        "it tested little: {} entries, {} seals",
        all.acked,
        all.flushed
    );
    assert!(all.dense >= SEEDS * 3 / 4, "only {} of {SEEDS} stories were without a jump", all.dense);
}
