//! What masking costs: entries of about 800 bytes of JSON through all built-in patterns, with paths besides, and where nothing of
//! them is hidden, beside a copy of the records. `elem/s` is entries a second. Goal: 2 µs an entry with all patterns.
//!
//! Run: `make bench ARGS="--bench mask"`.

mod entries;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use entries::{entry, pack, parse};
use sluice::model::{entry::EntryRef, mask::Mask, parse::BodyFormat, tenant::TenantId};
use std::{hint::black_box, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENTRIES: usize = 100;

fn mask(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let patterns = ["pattern:email", "pattern:phone", "pattern:card", "pattern:iban", "pattern:secret_keys"];
    let paths = [
        "session_id",
        "ip_address",
        "metadata.trace",
        "before_state.*.ssn",
        "after_state.total",
        "metadata.tags.*",
    ];
    let compile = |list: &[&str]| Mask::compile(&list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).expect("a mask");

    let mut group = criterion.benchmark_group("mask");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(ENTRIES as u64));
    for (what, user) in [("two addresses hidden", "user17@example.com"), ("nothing hidden", "user seventeen")] {
        let entries: Vec<String> = (0..ENTRIES as u64).map(|i| entry(i, user)).collect();
        let pack = pack(parse(&format!("[{}]", entries.join(",")), BodyFormat::Bulk, &tenant), &tenant);
        let records: Vec<&[u8]> = (0..ENTRIES).map(|i| pack.entry(i).as_bytes()).collect();
        let mut copy = Vec::with_capacity(pack.bytes().len());
        group.bench_function(BenchmarkId::new("floor: copy", what), |b| {
            b.iter(|| {
                copy.clear();
                black_box(&records).iter().for_each(|record| copy.extend_from_slice(record));
                copy.len()
            });
        });
        for (name, list) in [
            ("all patterns", &patterns[..]),
            ("all patterns and six paths", &[&patterns[..], &paths].concat()),
        ] {
            let mask = compile(list);
            group.bench_function(BenchmarkId::new(name, what), |b| {
                b.iter(|| {
                    records
                        .iter()
                        .filter(|record| mask.record(&EntryRef::first_of(black_box(record))).is_some())
                        .count()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, mask);
criterion_main!(benches);
