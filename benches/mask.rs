//! What masking costs: entries of 700–900 bytes of JSON through all built-in patterns, with paths besides, and where nothing of
//! them is hidden. Times are of one entry after the other; `elem/s` is entries a second. Goal: 2 µs an entry with all patterns.
//!
//! Run: `make bench ARGS="--bench mask"`, shorter with `-- --quick`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::model::{
    entry::EntryRef,
    mask::Mask,
    parse::{BodyFormat, ParseContext, parse_body},
    tenant::TenantId,
};
use std::hint::black_box;
use uuid::Uuid;

const ENTRIES: usize = 100;

/// One entry: an update by a user, with both states and metadata.
fn entry(i: usize, user: &str) -> String {
    let id = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057 + i as u128);
    let minute = i % 60;
    format!(
        concat!(
            r#"{{"id":"{id}","timestamp":"2024-02-29T11:{minute:02}:07.123Z","action":"UPDATE","resource_type":"invoice","#,
            r#""resource_id":"inv-{i:08}","user_id":"user-{minute}","session_id":"b6f0c3d2e41a4f5b9d{i:08}","request_id":"req-{i:012}","#,
            r#""email":"{user}","ip_address":"10.20.30.{minute}","#,
            r#""user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Safari/537.36","#,
            r#""severity":"WARNING","message":"Invoice inv-{i:08} changed from draft to sent by {user}","#,
            r#""before_state":{{"status":"draft","total":129.50,"lines":3}},"after_state":{{"status":"sent","total":129.50,"lines":3}},"#,
            r#""metadata":{{"region":"eu-central-1","service":"billing","trace":"{id}","retries":0,"tags":["finance","q1"]}}}}"#
        ),
        id = id,
        minute = minute,
        i = i,
        user = user,
    )
}

fn mask(criterion: &mut Criterion) {
    let tenant = TenantId::parse("acme").expect("a tenant");
    let context = ParseContext {
        tenant: &tenant,
        subject: "bench",
        now_ms: 1_709_208_000_123,
        log_levels: [true; 4],
        keep_unknown_fields: false,
        idempotency_key: None,
        resent: None,
        ids: &[],
        max_entries: 10_000,
        max_entry_bytes: 256 << 10,
    };
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
    group.throughput(Throughput::Elements(ENTRIES as u64));
    for (what, user) in [("two addresses hidden", "user17@example.com"), ("nothing hidden", "user seventeen")] {
        let entries: Vec<String> = (0..ENTRIES).map(|i| entry(i, user)).collect();
        let body = format!("[{}]", entries.join(","));
        println!("{} bytes of JSON an entry", body.len() / ENTRIES);
        let parsed = parse_body(body.as_bytes(), BodyFormat::Bulk, &context).expect("a body");
        let records: Vec<Vec<u8>> = (0..ENTRIES).map(|i| parsed.builder.entry(i).as_bytes().to_vec()).collect();
        for (name, list) in [
            ("all patterns", &patterns[..]),
            ("all patterns and six paths", &[&patterns[..], &paths].concat()),
        ] {
            let mask = compile(list);
            group.bench_function(format!("{name}/{what}"), |b| {
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
