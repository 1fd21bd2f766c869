//! The embedded store: what applying a seal costs, and how long a tenant's questions take when nothing was compacted.
//!
//! `cargo bench --bench store` builds 40 parts of 125,000 rows of 1,000 tenants (5 million entries; a minute or two, and
//! about 1 GB in the temporary folder), then asks. With `--test` everything is small, to see that it runs.

mod sealer;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use sealer::{PACK, Sealer, id};
use sluice::{
    fs::real::RealFs,
    model::{
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    sinks::{
        Authority, Count, ListQuery, SealFollower, Sort, StatsQuery,
        embedded::{EmbeddedStore, StoreSettings},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// An unoptimised build only smokes: does everything still run?
const SMOKE: bool = cfg!(debug_assertions);
const TENANTS: u64 = if SMOKE { 20 } else { 1_000 };
const PARTS: u64 = if SMOKE { 4 } else { 40 };
const ROWS_PER_PART: u64 = if SMOKE { 2_500 } else { 125_000 };

fn open(dir: &std::path::Path) -> EmbeddedStore {
    let settings = StoreSettings {
        memtable_bytes: 2 << 30,
        query_timeout: Duration::from_secs(60),
        ..StoreSettings::default()
    };
    let settled = watch::Sender::new(u64::MAX);
    let (store, _) = EmbeddedStore::open(Arc::new(RealFs), dir.to_owned(), settings, settled.subscribe()).expect("opens");
    store.expect(0);
    store
}

fn apply(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, mut sealer) = (open(dir.path()), Sealer::new(TENANTS));
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(8 * PACK));
    group.bench_function("seal of 8 packs of 25 entries", |b| {
        b.iter_batched(|| sealer.seal(), |seal| store.apply(&seal).expect("applies"), BatchSize::PerIteration);
    });
}

fn ask(c: &mut Criterion, smoke: bool) {
    let (parts, rows) = if smoke { (2, 4_000) } else { (PARTS, ROWS_PER_PART) };
    let dir = tempfile::tempdir().expect("a folder");
    let (store, mut sealer) = (open(dir.path()), Sealer::new(TENANTS));
    let started = std::time::Instant::now();
    for _ in 0..parts {
        for _ in 0..rows / (8 * PACK) {
            store.apply(&sealer.seal()).expect("applies");
        }
        store.flush().expect("flushes");
    }
    let took = started.elapsed();
    println!(
        "built {} rows in {took:?}, {:.2} µs per row",
        parts * rows,
        took.as_secs_f64() * 1e6 / (parts * rows) as f64
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group(format!("{} rows of {TENANTS} tenants in {parts} parts", parts * rows));
    let mut turn = 0u64;
    let mut next = move || {
        turn += 1;
        (turn.wrapping_mul(0x9E37_79B9) % TENANTS) as usize
    };
    let scope = |at: usize| TenantScope::new(TenantId::parse(&format!("tenant-{at}")).expect("a tenant"));
    group.bench_function("get by id", |b| {
        b.iter_batched(
            || {
                let at = next();
                (scope(at), id(at, 1 + next() as u64 % sealer.heads[at].max(1)))
            },
            |(scope, id)| runtime.block_on(store.get(&scope, id)).expect("gets"),
            BatchSize::PerIteration,
        );
    });
    type MakeId = fn() -> Uuid;
    let made: [(&str, MakeId); 2] = [("in order of time", Uuid::now_v7), ("at random", Uuid::new_v4)];
    for (how, id) in made {
        group.bench_function(BenchmarkId::new("look up 200 unknown ids of 200 tenants, made", how), |b| {
            b.iter_batched(
                || (0..200).map(|_| (sealer.tenants[next()].clone(), id())).collect::<Vec<_>>(),
                |keys| store.lookup(&keys).expect("looks up"),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("look up 200 unknown ids of one tenant, made", how), |b| {
            b.iter_batched(
                || (0..200).map(|_| (sealer.tenants[0].clone(), id())).collect::<Vec<_>>(),
                |keys| store.lookup(&keys).expect("looks up"),
                BatchSize::PerIteration,
            );
        });
    }
    let filters = [
        ("newest 50", Filter::default(), false),
        ("newest 50 and the total", Filter::default(), true),
        (
            "newest 50 of one user and the total",
            Filter {
                user_id: vec!["user-77".into()],
                ..Filter::default()
            },
            true,
        ),
    ];
    for (name, filter, count) in filters {
        let query = ListQuery {
            filter,
            sort: Sort::TimestampDesc,
            skip: 0,
            limit: 50,
            count: if count { Count::Exact } else { Count::None },
            ..ListQuery::default()
        };
        group.bench_with_input(BenchmarkId::new("list", name), &query, |b, query| {
            b.iter(|| runtime.block_on(store.list(&scope(next()), query.clone())).expect("lists"));
        });
    }
    group.bench_function("stats", |b| {
        b.iter(|| runtime.block_on(store.stats(&scope(next()), StatsQuery::default())).expect("counts"))
    });
    group.bench_function("scan 500 from the start", |b| {
        b.iter(|| runtime.block_on(store.scan(&scope(next()), Filter::default(), 0, 500)).expect("scans"));
    });
}

fn main() {
    let smoke = std::env::args().any(|a| a == "--test");
    let mut criterion = Criterion::default().sample_size(if smoke { 10 } else { 50 }).configure_from_args();
    apply(&mut criterion);
    ask(&mut criterion, smoke);
    criterion.final_summary();
}
