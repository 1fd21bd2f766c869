//! The protocol between processes under a hostile scheduler: the real decisions, the real bytes, the real seal log, take-over,
//! keeper and cursors, over objects that answer late or not at all ([`hostile`]).
//!
//! Between any two steps a process may sleep, wake as a zombie, or die; several owners and followers are at work; messages come
//! twice, late, out of order, and again after they were acknowledged; clocks differ. In the end everything runs dry, and what stands in
//! the stores is compared with a model that is told only which seal was created first under each number. [`Mistake`]s are planted, one
//! at a time, and each must be found.

mod hostile;
mod process;
mod store;

use super::{SealsSettings, object, reader::Seals};
use crate::{
    actors::sequencer::core::Order,
    fs::sim::Dice,
    model::{
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::TenantId,
    },
    objects::memory::MemoryObjects,
    seal::{
        Decision, Seal,
        erasure::{Erasure, ErasureKind},
        state::SealState,
    },
};
use futures_util::{future::BoxFuture, task::noop_waker_ref};
use hostile::{Hostile, Late};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, atomic::AtomicBool},
    task::Context,
    time::Duration,
};
use store::{Row, Store};
use uuid::Uuid;

const START: i64 = 1_700_000_000_000;
const TICK_MS: i64 = 1_000;
const SKEW_MS: i64 = 60_000;

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Heads come from the rows that are left.
    HeadsFromRows,
    /// A new owner knows the rows and packs of seals above the checkpoint only.
    WindowFromCheckpoint,
    /// Packs received before the memory of an owner begins are not asked of the ledger.
    NoPackLedger,
    /// An id made by a server is taken for new unseen.
    ServerIdsTrusted,
    /// A seal is put without a condition.
    Overwrite,
    /// The floor is not read after a seal was created.
    NoFloorCheck,
    /// A cursor moves before the store has the seal.
    CursorFirst,
    /// Seals are trimmed without asking the second store.
    TrimByAuthority,
    /// Reads do not hide what is erased.
    NoStaircase,
    /// Readers never look at the floor.
    ReadBelowFloor,
    /// A seal in doubt is taken for durable.
    DoubtIsDone,
    /// Deliveries are acknowledged before their seal is durable.
    AckFirst,
    /// A checkpoint replaces a later one.
    CheckpointGoesBack,
    /// A cursor replaces a later one.
    CursorGoesBack,
    /// Orders are known by their tenant's pending erasures alone.
    ForgetOrders,
    /// Deciding goes on while the store does not show an erasure yet.
    DecideBeforeErasureShows,
    /// The clocks of all processes are taken for one.
    NoSkew,
    /// The memory of an owner is said to begin before it has read where it goes on.
    MemoryBeginsEarly,
}

/// What a message holds.
#[derive(Clone)]
enum Item {
    Pack(Arc<Pack>),
    Order(Order),
}

#[derive(Clone)]
struct Message {
    item: Item,
    visible_at: i64,
}

/// What all processes and the checks share. Cheap to clone.
#[derive(Clone)]
pub struct World {
    memory: MemoryObjects,
    mistake: Option<Mistake>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    dice: Dice,
    tick: i64,
    quiet: bool,
    queue: BTreeMap<u64, Message>,
    acked: Vec<(u64, Message)>,
    messages: u64,
    told: Vec<Arc<Pack>>,
    jobs: Vec<Uuid>,
    analytics: Store,
    search: Store,
    late: Vec<Late>,
    /// The first object that was created under each number.
    sealed: BTreeMap<u64, (Seal, u32)>,
    fault: Option<String>,
}

fn tenants() -> [TenantId; 2] {
    ["a", "b"].map(|name| TenantId::parse(name).expect("a tenant"))
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let inner = Inner {
            dice: Dice::new(seed),
            tick: 0,
            quiet: false,
            queue: BTreeMap::new(),
            acked: Vec::new(),
            messages: 0,
            told: Vec::new(),
            jobs: Vec::new(),
            analytics: Store::default(),
            search: Store::default(),
            late: Vec::new(),
            sealed: BTreeMap::new(),
            fault: None,
        };
        Self {
            memory: MemoryObjects::default(),
            mistake,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn plants(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn note<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().expect("nothing panics while it holds the world"))
    }

    fn dice<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        self.note(|inner| throw(&mut inner.dice))
    }

    fn chance(&self, percent: u64) -> bool {
        self.dice(|dice| dice.chance(percent))
    }

    fn is_quiet(&self) -> bool {
        self.note(|inner| inner.quiet)
    }

    fn fails(&self, percent: u64) -> bool {
        !self.is_quiet() && self.chance(percent)
    }

    fn fault(&self, what: String) {
        self.note(|inner| {
            inner.fault.get_or_insert(what);
        });
    }

    /// The objects, and the partition, as a new process sees them.
    fn connect(&self) -> (Seals, Arc<AtomicBool>) {
        let blind = Arc::<AtomicBool>::default();
        let objects = Hostile {
            world: self.clone(),
            blind: blind.clone(),
        };
        let follower = (!self.plants(Mistake::TrimByAuthority)).then(|| super::SEARCH.to_owned());
        let settings = SealsSettings {
            followers: follower.into_iter().collect(),
            max_backlog: u64::MAX,
            checkpoint_seals: 1 + self.dice(|dice| dice.below(4)),
            checkpoint_every: Duration::from_millis(10 * TICK_MS as u64),
            keep: self.dice(|dice| dice.below(3)),
            trim_seals: 1,
            cache_bytes: self.dice(|dice| dice.below(3) * 1000) as usize,
            clock_skew: Duration::from_millis(if self.plants(Mistake::NoSkew) { 0 } else { SKEW_MS as u64 }),
            ..SealsSettings::default()
        };
        (Seals::open(Arc::new(objects), 0, settings), blind)
    }
}

impl Inner {
    /// The time on a clock that is at most a third of the skew off.
    fn clock(&mut self, offset: i64) -> i64 {
        START + self.tick * TICK_MS + offset
    }

    fn offset(&mut self) -> i64 {
        (self.dice.below(3) as i64 - 1) * SKEW_MS / 3
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(u128::from(self.dice.roll()) << 64 | u128::from(self.dice.roll()))
    }

    /// A UUIDv7 of this millisecond.
    fn uuid_at(&mut self, ms: i64) -> Uuid {
        Uuid::from_u128((ms as u128) << 80 | 7 << 76 | 2 << 62 | u128::from(self.dice.roll() >> 2))
    }

    fn send(&mut self, item: Item) {
        let delay = [0, 0, 3, 200][self.dice.below(4) as usize];
        self.messages += 1;
        let visible_at = self.tick + delay;
        self.queue.insert(self.messages, Message { item, visible_at });
    }

    /// A client's request on an API process: new entries, and entries sent again under their ids, some with other content.
    fn request(&mut self) {
        let offset = self.offset();
        let now = self.clock(offset);
        let tenant = tenants()[self.dice.below(2) as usize].clone();
        let mut builder = PackBuilder::default();
        for k in 0..1 + self.dice.below(3) {
            let old: Vec<_> = self.told.iter().filter(|pack| *pack.tenant() == tenant).cloned().collect();
            let (mut id, mut hash) = (self.uuid_at(now), u128::from(self.dice.roll()));
            let mut client_id = self.dice.chance(50);
            if !old.is_empty() && self.dice.chance(35) {
                let pack = &old[self.dice.below(old.len() as u64) as usize];
                let entry = pack.entry(self.dice.below(pack.len() as u64) as usize);
                (id, client_id) = (entry.id(), true);
                if !self.dice.chance(20) {
                    hash = entry.hash();
                }
            }
            let mut fields = [None; Field::COUNT];
            fields[Field::Action as usize] = Some(&b"A"[..]);
            builder.push(&NewEntry {
                id,
                client_id,
                hash,
                timestamp: now - TICK_MS * [0, 0, 50, 500][self.dice.below(4) as usize] + k as i64,
                severity: Severity::Info,
                fields,
            });
        }
        let header = PackHeader {
            pack_id: self.uuid(),
            tenant: tenant.clone(),
            actor: "x".into(),
            request_id: "r".into(),
            received_at: now,
            part: (0, 1),
        };
        let pack = Arc::new(builder.finish(header).expect("it has entries"));
        self.told.push(pack.clone());
        self.send(Item::Pack(pack));
        if self.dice.chance(12) {
            let job = self.uuid_at(now);
            let kind = [ErasureKind::Cleanup, ErasureKind::Retention][self.dice.below(2) as usize];
            let cutoff = now - TICK_MS * [0, 20, 100][self.dice.below(3) as usize];
            self.jobs.push(job);
            self.send(Item::Order(Order::Erase { tenant, kind, cutoff, job }));
        }
    }

    /// What happens by itself: late writes arrive, rows are deleted, acknowledged messages come again.
    fn by_itself(world: &World) {
        let arrived = world.note(|inner| {
            let many = inner.late.len() as u64;
            (many > 0 && (inner.quiet || inner.dice.chance(3))).then(|| {
                let at = inner.dice.below(many) as usize;
                inner.late.swap_remove(at)
            })
        });
        if let Some(Late { key, bytes, when }) = arrived {
            let _ = world.put(&key, bytes, &when); // whoever sent it does not listen any more
        }
        world.note(|inner| {
            let Inner { dice, analytics, search, .. } = inner;
            for store in [analytics, search] {
                if dice.chance(1) {
                    store.purge(|| dice.chance(50));
                }
            }
            if !inner.acked.is_empty() && !inner.quiet && inner.dice.chance(1) {
                let at = inner.dice.below(inner.acked.len() as u64) as usize;
                let (name, mut message) = inner.acked[at].clone();
                message.visible_at = inner.tick;
                inner.queue.insert(name, message);
            }
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Owner,
    Analytics,
    Search,
}

struct Process {
    kind: Kind,
    future: BoxFuture<'static, ()>,
    asleep: i64,
}

fn spawn(world: &World, kind: Kind) -> Process {
    let future: BoxFuture<'static, ()> = match kind {
        Kind::Owner => Box::pin(process::owner(world.clone())),
        Kind::Analytics | Kind::Search => Box::pin(process::follower(world.clone(), kind == Kind::Analytics)),
    };
    Process { kind, future, asleep: 0 }
}

/// Runs one world; gives the number of its seals.
fn run(seed: u64, mistake: Option<Mistake>) -> Result<usize, String> {
    let world = World::new(seed, mistake);
    let mut processes: Vec<_> = [Kind::Owner, Kind::Analytics, Kind::Search].map(|kind| spawn(&world, kind)).into();
    let (mut requests, noisy) = world.dice(|dice| (10 + dice.below(30), 1500 + dice.below(1500)));
    for step in 0..60_000 {
        let quiet = step > noisy && requests == 0;
        let (tick, owed) = world.note(|inner| {
            inner.tick += i64::from(inner.dice.chance(30));
            inner.quiet = quiet;
            if requests > 0 && inner.dice.chance(3) {
                requests -= 1;
                inner.request();
            }
            (inner.tick, !inner.queue.is_empty())
        });
        Inner::by_itself(&world);
        if let Some(fault) = world.note(|inner| inner.fault.take()) {
            return Err(fault);
        }
        if quiet && !owed && is_dry(&world) {
            return check(&world);
        }
        for kind in [Kind::Owner, Kind::Analytics, Kind::Search] {
            let alive = processes.iter().filter(|process| process.kind == kind).count();
            if alive == 0 || !quiet && alive < 3 && world.dice(|dice| dice.below(300)) == 0 {
                processes.push(spawn(&world, kind));
            }
        }
        let awake: Vec<_> = (0..processes.len()).filter(|i| quiet || processes[*i].asleep <= tick).collect();
        if awake.is_empty() {
            world.note(|inner| inner.tick += 1);
            continue;
        }
        let at = awake[world.dice(|dice| dice.below(awake.len() as u64)) as usize];
        let mut context = Context::from_waker(noop_waker_ref());
        let ended = processes[at].future.as_mut().poll(&mut context).is_ready();
        let fate = world.dice(|dice| dice.below(1000));
        if ended || !quiet && fate < 3 {
            processes.swap_remove(at); // killed
        } else if !quiet && fate < 12 {
            processes[at].asleep = tick + [5, 50, 500][world.dice(|dice| dice.below(3)) as usize]; // a zombie to be
        }
    }
    Err(world.note(|inner| {
        let pending = |store: &Store| store.erasures.values().map(|all| all.pending().len()).sum::<usize>();
        let store = |store: &Store| (store.applied, pending(store));
        let last = inner.sealed.keys().next_back().copied().unwrap_or(0);
        let left = (inner.queue.len(), inner.late.len(), processes.len(), requests);
        format!(
            "it did not run dry: {last} seals, {:?} and {:?} applied, left {left:?}",
            store(&inner.analytics),
            store(&inner.search)
        )
    }))
}

/// Everything is sealed, applied and counted.
fn is_dry(world: &World) -> bool {
    world.note(|inner| {
        let last = inner.sealed.keys().next_back().copied().unwrap_or(0);
        let counted = |store: &Store| store.erasures.values().all(|all| all.pending().is_empty());
        inner.late.is_empty() && [&inner.analytics, &inner.search].iter().all(|store| store.applied >= last && counted(store))
    })
}

type Check = Result<(), String>;

fn ensure(good: bool, what: impl FnOnce() -> String) -> Check {
    if good { Ok(()) } else { Err(what()) }
}

/// What the seals say, decided again by a model that knows no window, ledger or memory.
#[derive(Default)]
struct Expected {
    state: SealState,
    rows: Vec<Row>,
    packs: HashSet<Uuid>,
    erasures: Vec<(Erasure, u64, Option<u64>)>,
}

impl Expected {
    fn seal(&mut self, packs: &HashMap<Uuid, Arc<Pack>>, seal: &Seal, crc: u32) -> Check {
        self.state.check_next(seal).map_err(|error| error.to_string())?;
        for decided in &seal.packs {
            let pack = &packs[&decided.pack_id];
            ensure(self.packs.insert(pack.id()), || format!("seal {}: a pack is decided twice", seal.n))?;
            let mut next = decided.first_sequence;
            for (entry, decision) in pack.entries().zip(&decided.decisions) {
                let known = self.rows.iter().find(|row| row.tenant == *pack.tenant() && row.id == entry.id());
                let expected = match known {
                    None => Decision::New,
                    Some(row) if row.hash == entry.hash() => Decision::Duplicate,
                    Some(_) => Decision::Conflict,
                };
                ensure(*decision == expected, || format!("seal {}: {decision:?} instead of {expected:?}", seal.n))?;
                if *decision == Decision::New {
                    self.rows.push(Row {
                        tenant: pack.tenant().clone(),
                        id: entry.id(),
                        hash: entry.hash(),
                        sequence: next,
                        timestamp: entry.timestamp(),
                        received_at: pack.header().received_at,
                    });
                    let head = self.state.tenants.entry(pack.tenant().clone()).or_default();
                    ensure(next == head.head + 1, || format!("seal {}: number {next} after {}", seal.n, head.head))?;
                    head.head = next;
                    next += 1;
                }
            }
        }
        for made in &seal.erasures {
            let (tenant, before) = (&seal.tenants[made.tenant as usize].tenant, self.rows.len());
            let again = self.erasures.iter().any(|(known, _, _)| known.job == made.erasure.job);
            ensure(!again, || format!("seal {}: an order is obeyed twice", seal.n))?;
            let hides = |row: &Row| row.tenant == *tenant && made.erasure.covers(row.timestamp, row.received_at, row.sequence);
            self.rows.retain(|row| !hides(row));
            self.erasures.push((made.erasure, (before - self.rows.len()) as u64, None));
        }
        for result in &seal.removed {
            let found = self.erasures.iter_mut().find(|(known, _, _)| known.job == result.job);
            let (removed, said) = found.map_or((0, Some(0)), |(_, removed, said)| (*removed, said.replace(result.rows)));
            ensure(said.is_none() && removed == result.rows, || {
                format!("seal {}: an erasure removed {removed} rows, and {} are counted", seal.n, result.rows)
            })?;
        }
        self.state.fold(seal, crc);
        Ok(())
    }
}

/// Compares what there is with what clients were told.
fn check(world: &World) -> Result<usize, String> {
    world.note(|inner| {
        let packs: HashMap<_, _> = inner.told.iter().map(|pack| (pack.id(), pack.clone())).collect();
        let mut expected = Expected::default();
        for (seal, crc) in inner.sealed.values() {
            expected.seal(&packs, seal, *crc)?;
        }
        ensure(expected.packs.len() == inner.told.len(), || "a pack is lost".into())?;
        ensure(expected.erasures.len() == inner.jobs.len(), || "an order is lost".into())?;
        for tenant in tenants() {
            let accepted: usize = inner.told.iter().filter(|pack| *pack.tenant() == tenant).map(|pack| pack.len()).sum();
            let is = expected.state.tenant(&tenant);
            let sum = is.stored + is.duplicate + is.dead_lettered;
            ensure(sum == accepted as u64 && is.accepted == sum && is.head == is.stored, || {
                format!("{accepted} entries were accepted and these are counted: {is:?}")
            })?;
        }
        expected.rows.sort_by(|a, b| (&a.tenant, a.sequence).cmp(&(&b.tenant, b.sequence)));
        for (name, store) in [("analytics", &inner.analytics), ("search", &inner.search)] {
            let visible = store.visible(world.mistake);
            ensure(visible.iter().copied().eq(&expected.rows), || {
                format!("{name} shows {} rows instead of {}", visible.len(), expected.rows.len())
            })?;
        }
        Ok(inner.sealed.len())
    })
}

#[test]
fn every_promise_holds_between_processes_under_a_hostile_scheduler() {
    let (mut seals, mut bad, seeds) = (0, Vec::new(), crate::testing::seeds(1000));
    for seed in seeds.clone() {
        match run(seed, None) {
            Ok(made) => seals += made,
            Err(what) => bad.push(format!("SLUICE_SEED={seed}: {what}")),
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    println!("{} stories, {seals} seals", seeds.end - seeds.start);
    assert!(seals > 5_000 || seeds.end - seeds.start < 1000, "{seals} seals are too few to mean anything");
}

#[test]
fn every_planted_mistake_between_processes_is_found() {
    let mistakes = [
        Mistake::HeadsFromRows,
        Mistake::WindowFromCheckpoint,
        Mistake::NoPackLedger,
        Mistake::ServerIdsTrusted,
        Mistake::Overwrite,
        Mistake::NoFloorCheck,
        Mistake::CursorFirst,
        Mistake::TrimByAuthority,
        Mistake::NoStaircase,
        Mistake::ReadBelowFloor,
        Mistake::DoubtIsDone,
        Mistake::AckFirst,
        Mistake::CheckpointGoesBack,
        Mistake::CursorGoesBack,
        Mistake::ForgetOrders,
        Mistake::DecideBeforeErasureShows,
        Mistake::NoSkew,
        Mistake::MemoryBeginsEarly,
    ];
    let mut missed = Vec::new();
    for mistake in mistakes {
        match (0..4000).find_map(|seed| run(seed, Some(mistake)).err().map(|what| (seed, what))) {
            Some((seed, what)) => println!("{mistake:?}: seed {seed}: {what}"),
            None => missed.push(mistake),
        }
    }
    assert!(missed.is_empty(), "{missed:?} were not found");
}
