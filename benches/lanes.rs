//! The way of a pack from the queue to a batch: router, bounded lane with credit, tenant actor on its shard. Beside it, for the same
//! packs and the same end (every ticket settled): one bounded `tokio::sync::mpsc` to a task, which is the floor of anything that is bounded
//! and crosses threads, and the mailbox of an actix actor, which is what the lane is instead of. The mailbox has no bound, order or
//! credit, so it may be faster than the floor: only the sender bounds what is under way here.
//!
//! One tenant, 100 tenants in turn, and one tenant with more under way than its lane holds, where packs are parked by their position
//! and read again. Packs of 25 entries; `elem/s` is entries a second. Run: `make bench ARGS="--bench lanes"`.

mod entries;

use actix::{Actor, Addr, Context, Handler, Message};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use entries::{entry, pack, parse};
use futures_util::future::{BoxFuture, FutureExt, ready};
use sluice::{
    actors::{ActorSettings, Actors, runtime::Runtime, tenant::BatchSink},
    model::{
        batch::{Batch, Delivery},
        pack::Pack,
        parse::BodyFormat,
        tenant::TenantId,
        ticket::{Ticket, Verdict},
    },
    queue::{PackReadError, PackReader, Position},
};
use std::{
    sync::{Arc, mpsc as blocking},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Packs of a round.
const PACKS: usize = if cfg!(debug_assertions) { 100 } else { 4_000 };
const ENTRIES: u64 = 25;
/// Deliveries that wait for the router, as the queue has it.
const CHANNEL: usize = 64;
/// Packs under way: fewer than a lane has slots.
const WITHIN: usize = 24;
/// More than a lane has slots.
const BEYOND: usize = 2_048;

/// The log, as far as the lanes know it: the pack of a tenant stands at its number.
struct Packs(Vec<Arc<Pack>>);

impl PackReader for Packs {
    fn read(&self, at: Position) -> BoxFuture<'static, Result<Arc<Pack>, PackReadError>> {
        ready(Ok(self.0[at.offset as usize].clone())).boxed()
    }
}

/// What is under way; every end of the way gives room back.
struct Window {
    room: Arc<Semaphore>,
    size: u32,
}

impl Window {
    fn new(size: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(size)),
            size: size as u32,
        }
    }

    /// Sends a round by `send` and waits until all of it is settled.
    async fn round<F: Future<Output = ()>>(&self, packs: &[Arc<Pack>], send: impl Fn(Delivery) -> F) {
        for at in 0..PACKS {
            self.room.acquire().await.expect("it is never closed").forget();
            let (ticket, _verdict) = Ticket::new();
            let place = at % packs.len();
            send(Delivery {
                pack: packs[place].clone(),
                position: Position {
                    segment: 1,
                    offset: place as u32,
                },
                attempt: 1,
                ticket,
            })
            .await;
        }
        drop(self.room.acquire_many(self.size).await.expect("it is never closed"));
    }
}

/// The end of the way: the sequencer's place.
struct Settle(Arc<Semaphore>);

impl Settle {
    fn one(&self, delivery: Delivery) {
        delivery.ticket.settle(Verdict::Done);
        self.0.add_permits(1);
    }
}

impl BatchSink for Settle {
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()> {
        batch.works.into_iter().for_each(|work| self.one(work.delivery));
        ready(()).boxed()
    }
}

/// An actor that is told of each pack.
struct Mailbox(Settle);

struct Told(Delivery);

impl Message for Told {
    type Result = ();
}

impl Actor for Mailbox {
    type Context = Context<Self>;
}

impl Handler<Told> for Mailbox {
    type Result = ();

    fn handle(&mut self, told: Told, _: &mut Context<Self>) {
        self.0.one(told.0);
    }
}

fn mailbox(runtime: &Runtime, window: &Window) -> Addr<Mailbox> {
    let (tell, told) = blocking::channel();
    let settle = Settle(window.room.clone());
    runtime.shards().run(0, move || drop(tell.send(Mailbox(settle).start())));
    told.recv().expect("the shard runs")
}

fn lanes(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let shards = Runtime::start("bench-mailbox", 1);
    let mut group = criterion.benchmark_group("lanes");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(PACKS as u64 * ENTRIES));
    for (what, tenants, size) in [("one tenant", 1, WITHIN), ("100 tenants", 100, WITHIN), ("one tenant, parked", 1, BEYOND)] {
        let packs: Vec<Arc<Pack>> = (0..tenants).map(|n| Arc::new(pack_of(n))).collect();
        let window = Window::new(size);

        let (lane, mut received) = mpsc::channel::<Box<Delivery>>(CHANNEL);
        let settle = Settle(window.room.clone());
        tokio.spawn(async move {
            while let Some(delivery) = received.recv().await {
                settle.one(*delivery);
            }
        });
        group.bench_function(BenchmarkId::new("floor: bounded mpsc", what), |b| {
            b.iter_custom(|rounds| {
                let send = |delivery| async { lane.send(Box::new(delivery)).await.expect("somebody receives") };
                timed(&tokio, rounds, || window.round(&packs, send))
            });
        });

        let addr = mailbox(&shards, &window);
        group.bench_function(BenchmarkId::new("mailbox", what), |b| {
            b.iter_custom(|rounds| {
                let send = |delivery| async { addr.do_send(Told(delivery)) };
                timed(&tokio, rounds, || window.round(&packs, send))
            });
        });

        let (deliveries, receiver) = mpsc::channel(CHANNEL);
        let sink = Arc::new(Settle(window.room.clone()));
        let actors = {
            let _in = tokio.enter();
            Actors::start(&ActorSettings::default(), receiver, Arc::new(Packs(packs.clone())), sink)
        };
        group.bench_function(BenchmarkId::new("router, lane, tenant actor", what), |b| {
            b.iter_custom(|rounds| {
                let send = |delivery| async { deliveries.send(delivery).await.expect("the router receives") };
                timed(&tokio, rounds, || window.round(&packs, send))
            });
        });
        drop(deliveries);
        tokio.block_on(actors.stop());
    }
    group.finish();
    shards.stop();
}

fn pack_of(tenant: u64) -> Pack {
    let tenant = TenantId::parse(&format!("tenant-{tenant}")).expect("a tenant");
    let entries: Vec<String> = (0..ENTRIES).map(|i| entry(i, "ann@example.com")).collect();
    pack(parse(&entries.join("\n"), BodyFormat::Ndjson, &tenant), &tenant)
}

fn timed<F: Future<Output = ()>>(tokio: &tokio::runtime::Runtime, rounds: u64, round: impl Fn() -> F) -> Duration {
    tokio.block_on(async {
        let started = Instant::now();
        for _ in 0..rounds {
            round().await;
        }
        started.elapsed()
    })
}

criterion_group!(benches, lanes);
criterion_main!(benches);
