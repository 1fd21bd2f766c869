//! What an export costs, and how long a page takes to find among many.
//!
//! `cargo bench --bench export -- [ROWS] [TENANTS]` (2,000,000 and 20) fills a store in a temporary folder with parts of
//! 250,000 rows, then exports one tenant in each format and asks for pages. Run it under `taskset -c 0` to see what one core
//! does: reading, encoding and all. In an unoptimised build everything is small, to see that it runs.

mod sealer;

use sealer::{PACK, Sealer};
use sluice::{
    export::{Encoder, Format, Source},
    fs::real::RealFs,
    model::{
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    sinks::{
        Authority, ListQuery, SealFollower, Sort,
        embedded::{EmbeddedStore, StoreSettings},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::watch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SMOKE: bool = cfg!(debug_assertions);

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let defaults = if SMOKE { (8_000, 4) } else { (2_000_000, 20) };
    let rows = numbers.first().copied().unwrap_or(defaults.0);
    let tenants = numbers.get(1).copied().unwrap_or(defaults.1);
    let dir = tempfile::tempdir().expect("a folder");
    let store = fill(dir.path(), rows, tenants);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for format in [Format::Ndjson, Format::Json, Format::Csv] {
        for sort in [Sort::TimestampDesc, Sort::SequenceAsc] {
            export(&runtime, &store, format, sort);
        }
    }
    let needle = Filter {
        request_id: vec!["req-1-777".into()],
        ..Filter::default()
    };
    pages(&runtime, &store, tenants, "newest 50", &Filter::default());
    pages(&runtime, &store, 2, "request_id", &needle);
}

fn fill(dir: &std::path::Path, rows: u64, tenants: u64) -> EmbeddedStore {
    let settings = StoreSettings {
        memtable_bytes: 2 << 30,
        ..StoreSettings::default()
    };
    let settled = watch::Sender::new(u64::MAX);
    let (store, _) = EmbeddedStore::open(Arc::new(RealFs), dir.to_owned(), settings, settled.subscribe()).expect("opens");
    store.expect(0);
    let mut sealer = Sealer::new(tenants);
    let per_part = rows.min(250_000);
    for _ in 0..rows / per_part {
        for _ in 0..per_part / (8 * PACK) {
            store.apply(&sealer.seal()).expect("applies");
        }
        store.flush().expect("flushes");
    }
    println!("> {rows} rows of {tenants} tenants in {} parts", store.health().parts);
    store
}

fn scope(tenant: u64) -> TenantScope {
    TenantScope::new(TenantId::parse(&format!("tenant-{tenant}")).expect("a tenant"))
}

/// As an HTTP stream does it: the next portion is read while this one is encoded.
fn export(runtime: &Runtime, store: &EmbeddedStore, format: Format, sort: Sort) {
    let (before, mut most) = (memory(), 0);
    let started = Instant::now();
    let (rows, bytes) = runtime.block_on(async {
        let scope = scope(0);
        let mut encoder = Encoder::new(format, scope.tenant().clone(), false);
        let mut source = Source::new(Arc::new(store.clone()), scope, Filter::default(), sort);
        let (mut out, mut bytes) = (Vec::new(), 0);
        encoder.start(&mut out);
        let mut batch = source.next().await.expect("reads");
        while let Some(entries) = batch {
            let encode = async {
                for entry in entries {
                    encoder.entry(&mut out, &entry);
                    if out.len() > 256 << 10 {
                        bytes += out.len();
                        out.clear();
                        most = most.max(memory());
                        tokio::task::yield_now().await;
                    }
                }
            };
            let (next, ()) = tokio::join!(biased; source.next(), encode);
            batch = next.expect("reads");
        }
        encoder.end(&mut out);
        (encoder.rows(), bytes + out.len())
    });
    let took = started.elapsed().as_secs_f64();
    println!(
        "> export {format:?} {sort:?}: {rows} rows, {:.0} rows/s, {:.0} MB/s, at most {} MiB above {} MiB",
        rows as f64 / took,
        bytes as f64 / 1e6 / took,
        most.saturating_sub(before) >> 10,
        before >> 10,
    );
}

/// Memory without mapped files, KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn pages(runtime: &Runtime, store: &EmbeddedStore, tenants: u64, name: &str, filter: &Filter) {
    let mut took: Vec<Duration> = Vec::new();
    for turn in 0..200 {
        let query = ListQuery {
            filter: filter.clone(),
            ..ListQuery::default()
        };
        let started = Instant::now();
        let page = runtime.block_on(store.list(&scope(turn * 7 % tenants), query)).expect("lists");
        took.push(started.elapsed());
        assert!(page.entries.len() <= 50);
    }
    took.sort_unstable();
    println!("> page of {name}: median {:?}, 99 % {:?}, worst {:?}", took[100], took[198], took[199]);
}
