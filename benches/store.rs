//! The embedded store: what a seal costs there (applied, flushed, compacted), and how long a tenant's questions take when nothing was
//! compacted: get, look-up, newest, needle, search, count.
//!
//! `apply` is beside a copy of the seal's packs, `flush` and `compact` (a store of 12 flushes is opened, and they become one part) beside writing as many bytes as come
//! out and syncing them; `elem/s` is entries a second. Part by part, on one thread and without manifests: bench `part`.
//!
//! For the questions 20 parts of 100,000 rows of 1,000 tenants are built (2 million entries; 20 seconds, and about 500 MB in the
//! temporary folder). An unoptimised build, or `--test`, only smokes. Run: `make bench ARGS="--bench store"`.

mod sealer;

use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, measurement::WallTime};
use sealer::{PACK, Sealer, id};
use sluice::{
    fs::{Fs, real::RealFs},
    model::{
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    search,
    sinks::{
        Authority, Count, ListQuery, SealFollower, Sort, StatsQuery,
        embedded::{EmbeddedStore, StoreSettings},
    },
};
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An unoptimised build only smokes: does everything still run?
const SMOKE: bool = cfg!(debug_assertions);
const TENANTS: u64 = if SMOKE { 20 } else { 1_000 };
const PARTS: u64 = if SMOKE { 4 } else { 20 };
const ROWS_PER_PART: u64 = if SMOKE { 2_500 } else { 100_000 };
/// Rows of a flush.
const FLUSHED: u64 = if SMOKE { 2_000 } else { 20_000 };
/// The setting, and how many parts are merged when they are small.
const MERGE_PARTS: usize = 8;
const MERGED: u64 = 12;
/// More parts than there are: none is merged.
const NEVER: usize = 10_000;
/// Tenants that have so many rows in a flush that their blocks are copied by a merge.
const LARGE: u64 = 10;

/// A store that flushes when it is asked, and merges so many parts.
fn open(dir: &Path, merge_parts: usize) -> EmbeddedStore {
    let settings = StoreSettings {
        memtable_bytes: 2 << 30,
        merge_parts,
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
    let (store, mut sealer) = (open(dir.path(), NEVER), Sealer::new(TENANTS));
    let mut group = c.benchmark_group("apply");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(8 * PACK));
    let what = "seal of 8 packs of 25 entries";
    let example = Sealer::new(TENANTS).seal();
    group.bench_function(BenchmarkId::new("floor: copy of the packs", what), |b| {
        b.iter(|| example.packs.iter().map(|pack| pack.bytes().to_vec().len()).sum::<usize>());
    });
    group.bench_function(BenchmarkId::new("apply", what), |b| {
        b.iter_batched(|| sealer.seal(), |seal| store.apply(&seal).expect("applies"), BatchSize::PerIteration);
    });
}

fn fill(store: &EmbeddedStore, sealer: &mut Sealer, rows: u64) {
    for _ in 0..rows / (8 * PACK) {
        store.apply(&sealer.seal()).expect("applies");
    }
}

/// Bytes of the files in a folder of parts.
fn written(parts: &Path) -> u64 {
    let files = fs::read_dir(parts).expect("a folder");
    files.map(|file| file.expect("readable").metadata().expect("a file").len()).sum()
}

/// Writing so many bytes into a new file, and syncing it.
fn write_and_sync(group: &mut BenchmarkGroup<'_, WallTime>, what: &str, bytes: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, data) = (dir.path().join("f"), vec![7; bytes as usize]);
    group.bench_function(BenchmarkId::new("floor: write and sync", what), |b| {
        b.iter(|| {
            let file = RealFs.create(&path).expect("the folder is there");
            file.write_at(&data, 0).expect("the disk has room");
            file.sync().expect("the disk syncs");
            RealFs.remove(&path).expect("it is there");
        });
    });
}

/// What becomes of applied rows later.
fn flush_and_compact(c: &mut Criterion) {
    let mut group = c.benchmark_group("flush, compact");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (tenants, rows_are) in [(LARGE, "of 10 tenants"), (TENANTS, "of 1,000 tenants")] {
        let dir = tempfile::tempdir().expect("a folder");
        let what = format!("{FLUSHED} rows {rows_are}");
        {
            let (store, mut sealer) = (open(&dir.path().join("one"), NEVER), Sealer::new(tenants));
            fill(&store, &mut sealer, FLUSHED);
            store.flush().expect("flushes");
            let bytes = written(&dir.path().join("one/parts"));
            println!("> {what}: {:.1} bytes a row", bytes as f64 / FLUSHED as f64);
            group.throughput(Throughput::Elements(FLUSHED));
            write_and_sync(&mut group, &what, bytes);
            group.bench_function(BenchmarkId::new("flush", &what), |b| {
                let flush = |()| store.flush().expect("flushes");
                b.iter_batched(|| fill(&store, &mut sealer, FLUSHED), flush, BatchSize::PerIteration);
            });
        }
        let what = format!("{MERGED} flushes of {FLUSHED} rows {rows_are}");
        group.throughput(Throughput::Elements(MERGED * FLUSHED));
        let (mut made, mut bytes) = (0, 0);
        group.bench_function(BenchmarkId::new("compact", &what), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    made += 1;
                    let folder = dir.path().join(made.to_string());
                    let (store, mut sealer) = (open(&folder, NEVER), Sealer::new(tenants));
                    for _ in 0..MERGED {
                        fill(&store, &mut sealer, FLUSHED);
                        store.flush().expect("flushes");
                    }
                    store.close();
                    let started = Instant::now();
                    let store = open(&folder, MERGE_PARTS);
                    store.compact().expect("merges");
                    spent += started.elapsed();
                    assert!(store.health().merges > 0, "a merge was due");
                    bytes = store.health().merged_bytes;
                    store.close();
                    fs::remove_dir_all(&folder).expect("ours");
                }
                spent
            });
        });
        if bytes > 0 {
            write_and_sync(&mut group, &what, bytes);
        }
    }
}

fn ask(c: &mut Criterion, smoke: bool) {
    let (parts, rows) = if smoke { (2, 4_000) } else { (PARTS, ROWS_PER_PART) };
    let dir = tempfile::tempdir().expect("a folder");
    let (store, mut sealer) = (open(dir.path(), NEVER), Sealer::new(TENANTS));
    let started = Instant::now();
    for _ in 0..parts {
        fill(&store, &mut sealer, rows);
        store.flush().expect("flushes");
    }
    let took = started.elapsed();
    println!(
        "> built {} rows in {took:?}, {:.2} µs per row",
        parts * rows,
        took.as_secs_f64() * 1e6 / (parts * rows) as f64
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group(format!("{} rows of {TENANTS} tenants in {parts} parts", parts * rows));
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(1));
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
    let needle = Filter {
        request_id: vec!["req-7-777".into()],
        ..Filter::default()
    };
    let searching = |text: &str| Filter {
        search: Some(search::parse(text).expect("a search")),
        ..Filter::default()
    };
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
        ("a needle: one request_id", needle, false),
        ("a needle: a word that one row has", searching("req-7-777"), false),
        ("two words that some rows have", searching("usual session"), false),
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
    group.bench_function("count by severity", |b| {
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
    flush_and_compact(&mut criterion);
    ask(&mut criterion, smoke);
    criterion.final_summary();
}
