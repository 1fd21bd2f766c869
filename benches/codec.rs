//! What one entry costs on its way in and out.
//!
//! `parse`: a body becomes records (syntax, rules, content hash), as an array of 100 entries, as NDJSON of 100, and as a single one.
//! Beside it, for the same bytes: copying them (`floor: copy`), finding every quote (`memchr`), and what serde_json does with them: as
//! values, and as a struct that borrows its texts and looks into no nested object.
//!
//! `codec`: encode (the pack with its checksum, the parse included), decode (a pack read back and checked, beside the checksum alone),
//! render (the JSON object, beside a copy of as many bytes), words (the stream that filters are made of).
//!
//! Entries have about 800 bytes of JSON; `elem/s` is entries a second. Run: `make bench ARGS="--bench codec"`.

mod entries;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use entries::{entry, pack, parse};
use serde::Deserialize;
use serde_json::value::RawValue;
use sluice::model::{entry::StoredEntry, pack::Pack, parse::BodyFormat, render::write_entry, tenant::TenantId, words::entry_words};
use std::{borrow::Cow, hint::black_box, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENTRIES: usize = 100;
const RECEIVED_AT: i64 = 1_709_208_000_123;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(2);

/// The same fields by serde: nothing is checked but the syntax and that texts are texts.
#[derive(Deserialize)]
#[allow(dead_code)] // they are made, not read
struct Borrowed<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    timestamp: Cow<'a, str>,
    action: Cow<'a, str>,
    resource_type: Cow<'a, str>,
    resource_id: Cow<'a, str>,
    user_id: Cow<'a, str>,
    session_id: Cow<'a, str>,
    request_id: Cow<'a, str>,
    email: Cow<'a, str>,
    ip_address: Cow<'a, str>,
    user_agent: Cow<'a, str>,
    severity: Cow<'a, str>,
    message: Cow<'a, str>,
    before_state: &'a RawValue,
    after_state: &'a RawValue,
    metadata: &'a RawValue,
}

fn bodies() -> [(&'static str, String, BodyFormat, u64); 3] {
    let entries: Vec<String> = (0..ENTRIES as u64).map(|i| entry(i, &format!("user{i}@example.com"))).collect();
    let one = entries[0].clone();
    [
        ("array of 100", format!("[{}]", entries.join(",")), BodyFormat::Bulk, ENTRIES as u64),
        ("NDJSON of 100", entries.join("\n"), BodyFormat::Ndjson, ENTRIES as u64),
        ("one", one, BodyFormat::Single, 1),
    ]
}

/// All entries of a body by serde_json; how many there are.
fn by_serde<'a, T: Deserialize<'a>>(body: &'a str, format: BodyFormat) -> usize {
    match format {
        BodyFormat::Bulk => serde_json::from_slice::<Vec<T>>(body.as_bytes()).expect("an array").len(),
        BodyFormat::Single | BodyFormat::Ndjson => serde_json::Deserializer::from_slice(body.as_bytes())
            .into_iter::<T>()
            .collect::<Result<Vec<_>, _>>()
            .expect("objects")
            .len(),
    }
}

fn parsing(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    println!("> {} bytes of JSON an entry", entry(0, "user0@example.com").len());
    let mut group = criterion.benchmark_group("parse");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE);
    for (what, body, format, entries) in &bodies() {
        group.throughput(Throughput::Elements(*entries));
        let mut copy = vec![0; body.len()];
        group.bench_function(BenchmarkId::new("floor: copy", what), |b| {
            b.iter(|| black_box(&mut copy[..]).copy_from_slice(black_box(body.as_bytes())));
        });
        group.bench_function(BenchmarkId::new("memchr of quotes", what), |b| {
            b.iter(|| memchr::memchr_iter(b'"', black_box(body.as_bytes())).count());
        });
        group.bench_function(BenchmarkId::new("serde_json, values", what), |b| {
            b.iter(|| by_serde::<serde_json::Value>(black_box(body), *format));
        });
        group.bench_function(BenchmarkId::new("serde_json, borrowing", what), |b| {
            b.iter(|| by_serde::<Borrowed<'_>>(black_box(body), *format));
        });
        group.bench_function(BenchmarkId::new("sluice", what), |b| b.iter(|| parse(black_box(body), *format, &tenant)));
        assert_eq!(parse(body, *format, &tenant).builder.len() as u64, *entries);
    }
    let pretty = bodies()[0].1.replace("\":", "\": ").replace(",\"", ",\n  \"");
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function(BenchmarkId::new("sluice", "array of 100 with whitespace"), |b| {
        b.iter(|| parse(black_box(&pretty), BodyFormat::Bulk, &tenant));
    });
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let [(_, array, format, _), ..] = &bodies();
    let mut group = criterion.benchmark_group("codec");
    group
        .warm_up_time(WARM_UP)
        .measurement_time(MEASURE)
        .throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function("parse+encode", |b| b.iter(|| pack(parse(black_box(array), *format, &tenant), &tenant)));

    let pack = pack(parse(array, *format, &tenant), &tenant);
    println!("> {} bytes of pack an entry", pack.bytes().len() / ENTRIES);
    group.bench_function(BenchmarkId::new("floor: checksum", "pack"), |b| {
        b.iter(|| crc32c::crc32c(black_box(pack.bytes())))
    });
    group.bench_function(BenchmarkId::new("decode", "pack"), |b| {
        b.iter(|| Pack::decode(black_box(pack.bytes()).clone()).expect("a pack"));
    });
    let stored: Vec<StoredEntry> = (0..ENTRIES)
        .map(|i| StoredEntry {
            record: pack.record(i),
            received_at: RECEIVED_AT,
            actor: "bench".into(),
            sequence: Some(i as u64),
        })
        .collect();
    let mut out = Vec::new();
    stored.iter().for_each(|entry| write_entry(&mut out, &tenant, entry));
    let mut copy = vec![0; out.len()];
    group.bench_function(BenchmarkId::new("floor: copy", "render"), |b| {
        b.iter(|| black_box(&mut copy[..]).copy_from_slice(black_box(&out)));
    });
    let mut out = Vec::new();
    group.bench_function(BenchmarkId::new("JSON", "render"), |b| {
        b.iter(|| {
            out.clear();
            stored.iter().for_each(|entry| write_entry(&mut out, &tenant, black_box(entry)));
            out.len()
        });
    });
    group.bench_function("words", |b| {
        b.iter(|| {
            let mut bytes = 0;
            stored
                .iter()
                .for_each(|entry| entry_words(&black_box(entry).entry(), &mut |word| bytes += word.len()));
            bytes
        });
    });
    group.finish();
}

criterion_group!(benches, parsing, codec);
criterion_main!(benches);
