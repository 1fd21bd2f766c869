//! What a search costs before any block is read: reading the text, and saying of an entry in memory whether it fits (the feed's
//! filter and the memtable's). Floor of the latter: one pass over the record for a text by `memchr::memmem`. Searches of blocks are
//! in `part`, searches of a whole store in `store`.
//!
//! `elem/s` is searches read, or entries looked at, a second. Run: `make bench ARGS="--bench search"`.

mod entries;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use entries::{entry, pack, parse};
use memchr::memmem::Finder;
use sluice::{
    model::{filter::Surroundings, parse::BodyFormat, tenant::TenantId},
    search,
};
use std::{hint::black_box, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENTRIES: u64 = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(2);

/// (what it is, the text)
const SEARCHES: [(&str, &str); 6] = [
    ("a word that each has", "invoice"),
    ("a word that none has", "nowhere"),
    ("two words", "billing draft"),
    ("a phrase", r#""changed from draft to sent""#),
    ("a field", "resource_id:inv-00000042"),
    (
        "a tree of ten terms",
        r#"(login OR "branch office" OR invoice) -user_id:bob after_state:sent metadata.region:eu-central-1 (doc* OR finan* OR NOT nowhere) billing"#,
    ),
];

fn grammar(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search grammar");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE).throughput(Throughput::Elements(1));
    for (what, text) in SEARCHES {
        group.bench_function(BenchmarkId::new("parse", what), |b| {
            b.iter(|| search::parse(black_box(text)).expect("a search"))
        });
    }
    let long = vec!["draft"; search::MAX_TERMS].join(" ");
    group.bench_function(BenchmarkId::new("parse", "as many words as there may be"), |b| {
        b.iter(|| search::parse(black_box(&long)).expect("a search"));
    });
    group.finish();
}

fn matching(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let entries: Vec<String> = (0..ENTRIES).map(|i| entry(i, "ann@example.com")).collect();
    let pack = pack(parse(&format!("[{}]", entries.join(",")), BodyFormat::Bulk, &tenant), &tenant);
    let mut group = criterion.benchmark_group("search an entry");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE).throughput(Throughput::Elements(ENTRIES));
    for (what, text) in SEARCHES {
        let finder = Finder::new(text.split_whitespace().next().expect("a word").trim_matches(['"', '(']));
        group.bench_function(BenchmarkId::new("floor: memmem of its first word", what), |b| {
            b.iter(|| pack.entries().filter(|entry| finder.find(black_box(entry.as_bytes())).is_some()).count());
        });
        let search = search::parse(text).expect("a search");
        let around = Surroundings {
            sequence: 1,
            actor: "service-account",
        };
        group.bench_function(BenchmarkId::new("match", what), |b| {
            b.iter(|| pack.entries().filter(|entry| search.matches(black_box(entry), around)).count());
        });
    }
    group.finish();
}

criterion_group!(benches, grammar, matching);
criterion_main!(benches);
