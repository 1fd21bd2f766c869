//! What one entry costs on its way in and out: parse (syntax, rules, hash, record), encode (the pack with its checksum),
//! decode (a pack read back and checked), render (the JSON object), words (the stream that filters are made of).
//!
//! Bulks of 100 entries of 700–900 bytes of JSON each; times are of the whole bulk, so `elem/s` is entries a second.
//! Run: `make bench ARGS="--bench codec"`, shorter with `-- --quick`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::model::{
    entry::StoredEntry,
    pack::{Pack, PackHeader},
    parse::{BodyFormat, ParseContext, Parsed, parse_body},
    render::write_entry,
    tenant::TenantId,
    words::entry_words,
};
use std::{fmt::Write, hint::black_box};
use uuid::Uuid;

const ENTRIES: usize = 100;
const NOW: i64 = 1_709_208_000_123;

/// One entry: an update by a user, with both states and metadata.
fn entry(i: usize) -> String {
    let mut out = String::new();
    let id = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057 + i as u128);
    let minute = i % 60;
    write!(
        out,
        concat!(
            r#"{{"id":"{id}","timestamp":"2024-02-29T11:{minute:02}:07.123Z","action":"UPDATE","resource_type":"invoice","#,
            r#""resource_id":"inv-{i:08}","user_id":"user-{minute}","session_id":"b6f0c3d2e41a4f5b9d{i:08}","request_id":"req-{i:012}","#,
            r#""email":"user{minute}@example.com","ip_address":"10.20.30.{minute}","#,
            r#""user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Safari/537.36","#,
            r#""severity":"WARNING","message":"Invoice inv-{i:08} changed from draft to sent by user{minute}@example.com","#,
            r#""before_state":{{"status":"draft","total":129.50,"lines":3}},"after_state":{{"status":"sent","total":129.50,"lines":3}},"#,
            r#""metadata":{{"region":"eu-central-1","service":"billing","trace":"{id}","retries":0,"tags":["finance","q1"]}}}}"#
        ),
        id = id,
        minute = minute,
        i = i
    )
    .expect("a string takes everything");
    assert!((700..=900).contains(&out.len()), "an entry of {} bytes", out.len());
    out
}

fn parse(body: &str, format: BodyFormat, tenant: &TenantId) -> Parsed {
    let context = ParseContext {
        tenant,
        subject: "bench",
        now_ms: NOW,
        log_levels: [true; 4],
        keep_unknown_fields: false,
        idempotency_key: None,
        ids: &[],
        max_entries: 10_000,
        max_entry_bytes: 256 << 10,
        resent: None,
    };
    let parsed = parse_body(body.as_bytes(), format, &context).expect("a body");
    assert_eq!(parsed.builder.len(), ENTRIES);
    parsed
}

fn pack(parsed: Parsed, tenant: &TenantId) -> Pack {
    let header = PackHeader {
        pack_id: Uuid::from_u128(1),
        tenant: tenant.clone(),
        actor: "bench".into(),
        request_id: "r".into(),
        received_at: NOW,
        part: (0, 1),
    };
    parsed.builder.finish(header).expect("entries")
}

fn codec(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let entries: Vec<String> = (0..ENTRIES).map(entry).collect();
    let array = format!("[{}]", entries.join(","));
    let pretty = format!("[{}]", entries.join(",").replace("\":", "\": ").replace(",\"", ",\n  \""));
    let lines = entries.join("\n");
    println!("{} bytes of JSON an entry", array.len() / ENTRIES);

    let mut group = criterion.benchmark_group("codec");
    for (unit, throughput) in [
        ("entries", Throughput::Elements(ENTRIES as u64)),
        ("bytes", Throughput::Bytes(array.len() as u64)),
    ] {
        group.throughput(throughput);
        group.bench_function(format!("parse+encode/{unit}"), |b| {
            b.iter(|| pack(parse(black_box(&array), BodyFormat::Bulk, &tenant), &tenant));
        });
    }
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function("parse/array", |b| b.iter(|| parse(black_box(&array), BodyFormat::Bulk, &tenant)));
    group.bench_function("parse/array with whitespace", |b| {
        b.iter(|| parse(black_box(&pretty), BodyFormat::Bulk, &tenant))
    });
    group.bench_function("parse/ndjson", |b| b.iter(|| parse(black_box(&lines), BodyFormat::Ndjson, &tenant)));

    let pack = pack(parse(&array, BodyFormat::Bulk, &tenant), &tenant);
    group.bench_function("decode", |b| b.iter(|| Pack::decode(black_box(pack.bytes()).clone()).expect("a pack")));
    let stored: Vec<StoredEntry> = (0..ENTRIES)
        .map(|i| StoredEntry {
            record: pack.record(i),
            received_at: NOW,
            actor: "bench".into(),
            sequence: Some(i as u64),
        })
        .collect();
    let mut out = Vec::new();
    group.bench_function("render", |b| {
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

criterion_group!(benches, codec);
criterion_main!(benches);
