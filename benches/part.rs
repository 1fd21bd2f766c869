//! The immutable part on one thread: writing it, opening it, and the reads that a query is made of.
//!
//! `make bench ARGS="--bench part"`; `SLUICE_BENCH_ROWS` sets the size (default 200,000 rows; the figures of DESIGN.md are
//! for 1,000,000). Entries are about 700 bytes, of one tenant with 90 % of the rows and 100 small ones. Everything is in
//! the page cache.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::value::RawValue;
use sluice::{
    cli::demo::generator::Generator,
    fs::real::RealFs,
    model::{
        entry::{EntryRef, Field, NewEntry, Severity},
        filter::{Filter, LeafFilter, Surroundings},
        parse::{Sent, content_hash},
        tenant::{TenantId, TenantScope},
    },
    search,
    sinks::embedded::part::{self, Block, Keep, Limits, Merge, Part, RowIn, StatColumn, TenantRows},
};
use std::{collections::HashMap, hint::black_box, net::IpAddr, sync::Arc, time::Duration};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An unoptimised build only smokes: does everything still run?
const DEFAULT_ROWS: u64 = if cfg!(debug_assertions) { 10_000 } else { 200_000 };
const START: i64 = 1_700_000_000_000;

struct Row {
    tenant: TenantId,
    sequence: u64,
    record: Vec<u8>,
}

fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 32)
}

fn id_of(n: u64) -> Uuid {
    Uuid::from_u64_pair(0x018b_cfe5_6800_7000 + (n << 16), 0x8000_0000_0000_0000 | mix(n) >> 2)
}

fn row(n: u64) -> Row {
    let z = mix(n);
    let pick = |shift: u32, list: &[&'static str]| list[(z >> shift) as usize % list.len()];
    let action = pick(0, &["LOGIN", "LOGOUT", "CREATE", "UPDATE", "DELETE", "READ", "EXPORT", "APPROVE"]);
    let kind = pick(3, &["document", "invoice", "session", "user", "role", "report"]);
    let (resource, user) = (format!("{kind}-{}", z >> 20 & 0xf_ffff), format!("user-{}", z >> 40 & 0x3fff));
    let (session, request, email) = (
        format!("sess-{:016x}", mix(z)),
        format!("req-{:016x}", mix(n + 7)),
        format!("{user}@example.com"),
    );
    let agent = format!(
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
        90 + (z >> 7) % 40
    );
    let message = format!("{user} did {action} on {resource} from the branch office in {} ms", z % 977);
    let before = format!(r#"{{"status":"open","owner":"{user}","amount":{},"tags":["a","b"]}}"#, z % 10_000);
    let after = format!(r#"{{"status":"closed","owner":"{user}","amount":{},"tags":["a","b","c"]}}"#, z % 9_999);
    let metadata = format!(
        r#"{{"region":"eu-{}","build":"{:08x}","flags":{{"beta":{},"trace":"{:016x}"}}}}"#,
        z % 7,
        z >> 33,
        z & 1 == 0,
        mix(z + 1)
    );
    let mut fields: [Option<&[u8]>; Field::COUNT] = [None; Field::COUNT];
    let address = (0x0a00_0000 | (z >> 12) as u32 & 0xffff).to_be_bytes();
    for (field, text) in [
        (Field::Action, action),
        (Field::ResourceType, kind),
        (Field::ResourceId, &resource),
        (Field::UserId, &user),
        (Field::SessionId, &session),
        (Field::RequestId, &request),
        (Field::Email, &email),
        (Field::UserAgent, &agent),
        (Field::Message, &message),
        (Field::BeforeState, &before),
        (Field::AfterState, &after),
        (Field::Metadata, &metadata),
    ] {
        fields[field as usize] = Some(text.as_bytes());
    }
    fields[Field::IpAddress as usize] = Some(&address);
    let mut record = Vec::new();
    let timestamp = START + (n * 3) as i64 + (z % 50) as i64;
    let severity = Severity::ALL[[0, 0, 0, 0, 0, 1, 2, 3][z as usize % 8]];
    NewEntry {
        id: id_of(n),
        client_id: n.is_multiple_of(2),
        hash: hash(fields, severity, timestamp),
        timestamp,
        severity,
        fields,
    }
    .encode(&mut record);
    let tenant = if n.is_multiple_of(10) {
        format!("small-{}", n / 10 % 100)
    } else {
        "large".to_owned()
    };
    Row {
        tenant: TenantId::parse(&tenant).expect("a tenant"),
        sequence: n + 1,
        record,
    }
}

/// As if the client had sent everything.
fn hash(fields: [Option<&[u8]>; Field::COUNT], severity: Severity, timestamp: i64) -> u128 {
    let sent = Sent {
        fields,
        severity: Some(severity),
        timestamp: Some(timestamp),
    };
    content_hash(&sent, &mut Vec::new())
}

fn row_in(row: &Row) -> RowIn<'_> {
    RowIn {
        tenant: &row.tenant,
        sequence: row.sequence,
        received_at: START + row.sequence as i64,
        actor: "service-account",
        entry: EntryRef::first_of(&row.record),
    }
}

/// Keeps everything.
struct All;

impl Keep for All {
    fn block(&self, _: &TenantId, _: (i64, i64), _: (i64, i64), _: (u64, u64)) -> Option<bool> {
        Some(true)
    }

    fn row(&self, _: &TenantId, _: i64, _: i64, _: u64) -> bool {
        true
    }
}

fn merge(dir: &std::path::Path, sources: &[Arc<Part>]) -> part::PartMeta {
    let between = || Ok(());
    let limits = Limits {
        bytes: u64::MAX,
        between: &between,
    };
    let mut merge = Merge::new(sources, &All).expect("good parts");
    assert!(!merge.is_done().expect("good parts"));
    merge.next_part(&RealFs, dir, "m", &limits).expect("written").expect("not interrupted")
}

fn write(dir: &std::path::Path, name: &str, rows: &[Row]) -> part::PartMeta {
    let mut rows = rows.iter().map(row_in);
    part::write(&RealFs, dir, name, (1, 2), &mut rows).expect("written")
}

/// Decodes a column of a block and looks at every text.
fn bytes(of: &TenantRows<'_>, field: Field, block: &Block) -> usize {
    let (mut codes, mut bytes) = (Vec::new(), 0);
    let read = of.columns(&[StatColumn::Field(field)], block.rows.clone(), &mut |batch| {
        batch.codes(0, &mut codes, |text| {
            bytes += text.map_or(0, str::len);
            0
        })
    });
    read.expect("good");
    bytes + codes.len()
}

/// An entry of the demo: what the figures for disk and compaction are about.
fn demo_row(generator: &mut Generator, tenant: u64, n: u64) -> Row {
    let mut json = Vec::new();
    let id = generator.write(&mut json).id;
    let object: HashMap<String, Box<RawValue>> = serde_json::from_slice(&json).expect("an object");
    let unquoted = |value: &RawValue| value.get().trim_matches('"').as_bytes().to_vec();
    let texts: [Option<Vec<u8>>; Field::COUNT] = std::array::from_fn(|i| {
        let value = object.get(Field::ALL[i].name()).filter(|value| value.get() != "null")?;
        Some(match Field::ALL[i] {
            Field::IpAddress => match value.get().trim_matches('"').parse().expect("an address") {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            },
            _ => unquoted(value),
        })
    });
    let mut record = Vec::new();
    let timestamp = START + (n * 3) as i64 - (mix(n) % 60_000) as i64;
    let severity = object.get("severity").and_then(|s| Severity::parse(s.get().trim_matches('"')));
    let (severity, fields) = (severity.unwrap_or_default(), texts.each_ref().map(Option::as_deref));
    NewEntry {
        id,
        client_id: true,
        hash: hash(fields, severity, timestamp),
        timestamp,
        severity,
        fields,
    }
    .encode(&mut record);
    Row {
        tenant: TenantId::parse(&format!("tenant-{tenant}")).expect("a tenant"),
        sequence: n + 1,
        record,
    }
}

/// The process' CPU time so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().into_iter().flat_map(|rest| rest.split_whitespace().skip(11).take(2));
    Duration::from_millis(ticks.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// Sources as flushes leave them, and what a merge of them takes.
fn figures(name: &str, mut rows: Vec<Row>) {
    let dir = tempfile::tempdir().expect("a folder");
    let count = rows.len() as f64;
    rows.sort_by_key(|r| r.sequence);
    let sources: Vec<Arc<Part>> = rows
        .chunks_mut(count as usize / 12)
        .enumerate()
        .map(|(i, chunk)| {
            chunk.sort_by_key(|r| (r.tenant.clone(), EntryRef::first_of(&r.record).timestamp(), r.sequence));
            let meta = write(dir.path(), &format!("s{i}"), chunk);
            Arc::new(Part::open(&RealFs, dir.path(), meta).expect("opened"))
        })
        .collect();
    let start = cpu();
    (0..4).for_each(|_| drop(merge(dir.path(), &sources)));
    let spent = (cpu() - start).as_secs_f64() / 4.0;
    let merged = merge(dir.path(), &sources);
    println!(
        "> {name}: merged, {:.1} of data and {:.1} of sidecar a row, {:.2} us of CPU a row",
        merged.bytes as f64 / count,
        merged.sidecar_bytes as f64 / count,
        spent * 1e6 / count
    );
}

fn parts(c: &mut Criterion) {
    let count = option_env!("SLUICE_BENCH_ROWS").and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_ROWS);
    let mut rows: Vec<Row> = (0..count).map(row).collect();
    rows.sort_by(|a, b| {
        let key = |r: &Row| (EntryRef::first_of(&r.record).timestamp(), r.sequence);
        a.tenant.cmp(&b.tenant).then_with(|| key(a).cmp(&key(b)))
    });
    let mut generators: Vec<Generator> = (0..10).map(Generator::new).collect();
    let demo = (0..count).map(|n| demo_row(&mut generators[n as usize % 10], n % 10, n));
    figures("demo entries", demo.collect());
    figures("entries below", (0..count).map(row).collect());
    let dir = tempfile::tempdir().expect("a folder");
    let meta = write(dir.path(), "p", &rows);
    let raw: usize = rows.iter().map(|r| r.record.len()).sum();
    let part = Part::open(&RealFs, dir.path(), meta.clone()).expect("opened");
    let per_row = |bytes: f64| bytes / count as f64;
    println!(
        "> {count} rows: {:.0} bytes of record, {:.1} of data, {:.1} of sidecar a row; {} bytes of heap while open",
        per_row(raw as f64),
        per_row(meta.bytes as f64),
        per_row(meta.sidecar_bytes as f64),
        part.memory()
    );

    let mut group = c.benchmark_group("part");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(count));
    group.bench_function("write", |b| b.iter(|| write(dir.path(), "q", &rows)));
    // Twelve flushes of rows that follow each other in time, as a full rung is.
    let mut by_time: Vec<&Row> = rows.iter().collect();
    by_time.sort_by_key(|r| r.sequence);
    let sources: Vec<Arc<Part>> = by_time
        .chunks(rows.len().div_ceil(12))
        .enumerate()
        .map(|(i, chunk)| {
            let mut chunk = chunk.to_vec();
            chunk.sort_by(|a, b| {
                let key = |r: &Row| (EntryRef::first_of(&r.record).timestamp(), r.sequence);
                a.tenant.cmp(&b.tenant).then_with(|| key(a).cmp(&key(b)))
            });
            let mut rows = chunk.iter().map(|row| row_in(row));
            let meta = part::write(&RealFs, dir.path(), &format!("s{i}"), (1, 2), &mut rows).expect("written");
            Arc::new(Part::open(&RealFs, dir.path(), meta).expect("opened"))
        })
        .collect();
    let merged = merge(dir.path(), &sources);
    println!(
        "> merged: {:.1} of data, {:.1} of sidecar a row, from {:.1} and {:.1}",
        per_row(merged.bytes as f64),
        per_row(merged.sidecar_bytes as f64),
        per_row(sources.iter().map(|p| p.meta().bytes as f64).sum()),
        per_row(sources.iter().map(|p| p.meta().sidecar_bytes as f64).sum()),
    );
    group.bench_function("merge 12", |b| b.iter(|| merge(dir.path(), &sources)));
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.bench_function("open", |b| b.iter(|| Part::open(&RealFs, dir.path(), meta.clone()).expect("opened")));

    let scope = TenantScope::new(TenantId::parse("large").expect("a tenant"));
    let of = part.tenant(&scope).expect("rows");
    let mut n = 0;
    group.bench_function("find, absent", |b| {
        b.iter(|| {
            n += 1;
            part.find(&scope, id_of(count + n)).expect("good")
        });
    });
    // As when a client sends again what it sent long ago: whole rows are read for their hashes.
    let again: Vec<Uuid> = (0..1_000).map(|n| id_of(count / 2 / 10 * 10 + n * 10 / 9 + 1)).collect();
    group.throughput(Throughput::Elements(again.len() as u64));
    group.bench_function("find, 1,000 that are there", |b| b.iter(|| part.find_all(&scope, &again).expect("good")));
    group.throughput(Throughput::Elements(1));
    group.bench_function("get by id", |b| {
        b.iter(|| {
            n += 1;
            let row = part.find(&scope, id_of(mix(n) % count / 10 * 10 + 1)).expect("good")[0].0;
            of.read(&[row]).expect("good")
        });
    });
    let newest: Vec<u32> = (of.rows.end - 50..of.rows.end).collect();
    group.bench_function("50 newest, whole", |b| b.iter(|| of.read(&newest).expect("good")));
    let blocks: Vec<_> = of.blocks().collect();
    let block = &blocks[blocks.len() / 2];
    group.bench_function("keys of a block", |b| b.iter(|| of.keys(block.rows.clone()).expect("good")));
    group.bench_function("users of a block", |b| b.iter(|| bytes(&of, Field::UserId, block)));
    group.bench_function("actions of a block", |b| b.iter(|| bytes(&of, Field::Action, block)));
    for (name, filter) in [
        (
            "severity",
            Filter {
                severity: vec![Severity::Critical],
                ..Filter::default()
            },
        ),
        (
            "action",
            Filter {
                action: vec!["login".into()],
                ..Filter::default()
            },
        ),
        (
            "user",
            Filter {
                user_id: vec!["user-77".into()],
                ..Filter::default()
            },
        ),
        (
            "metadata",
            Filter {
                metadata: vec![LeafFilter {
                    path: vec!["region".into()],
                    values: vec!["eu-3".into()],
                }],
                ..Filter::default()
            },
        ),
    ] {
        group.bench_function(format!("select in a block: {name}"), |b| b.iter(|| of.select(block, &filter).expect("good")));
    }
    let absent = Filter {
        request_id: vec!["req-absent".into()],
        ..Filter::default()
    };
    group.bench_function("prune a block", |b| b.iter(|| of.may_match(black_box(block), &absent)));
    group.finish();
    searches(c, &of, &rows);
}

/// What a search costs: reading it, looking through a block for words that each row has, few have and none has but the
/// filter lets pass, and finding the one row among all blocks.
fn searches(c: &mut Criterion, of: &TenantRows<'_>, rows: &[Row]) {
    let mut group = c.benchmark_group("search");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("parse", |b| {
        b.iter(|| {
            search::parse(black_box(
                r#"(login OR "branch office") -user_id:bob after_state:closed metadata.region:eu-3 doc*"#,
            ))
            .expect("good")
        })
    });
    let searching = |text: &str| Filter {
        search: Some(search::parse(text).expect("a search")),
        ..Filter::default()
    };
    let blocks: Vec<_> = of.blocks().collect();
    let middle = &blocks[blocks.len() / 2];
    let one = EntryRef::first_of(&rows[middle.rows.start as usize + 77].record);
    let session = one.text(Field::SessionId).expect("a session").to_owned();
    let trace = one.text(Field::Metadata).and_then(|m| m.split("trace\":\"").nth(1)).expect("a trace")[..16].to_owned();
    for (name, text) in [
        ("a word of a narrow column that one row has", session.clone()),
        ("a word of the last column that one row has", trace.clone()),
        ("a word in every row", "office".to_owned()),
        ("two words, each in some rows", "login closed invoice".to_owned()),
        ("a phrase", "\"branch office in 7\"".to_owned()),
        ("a beginning that no row has", "zzzz*".to_owned()),
        ("a negation", "-office".to_owned()),
    ] {
        let filter = searching(&text);
        group.throughput(Throughput::Elements(middle.rows.len() as u64));
        group.bench_function(format!("in a block: {name}"), |b| b.iter(|| of.select(middle, &filter).expect("good")));
    }
    let mut slice = middle.clone();
    slice.rows.start = slice.rows.end - 512;
    let filter = searching("login closed");
    group.throughput(Throughput::Elements(512));
    group.bench_function("in the newest 512 rows of a block: two words", |b| {
        b.iter(|| of.select(&slice, &filter).expect("good"))
    });
    let filter = searching(&trace);
    group.throughput(Throughput::Elements(of.rows.len() as u64));
    group.bench_function("the only row, among all blocks", |b| {
        b.iter(|| {
            let found: usize = blocks.iter().map(|block| of.select(block, &filter).expect("good").len()).sum();
            assert_eq!(found, 1);
        });
    });
    let entry = EntryRef::first_of(&rows[middle.rows.start as usize].record);
    let around = Surroundings {
        sequence: 1,
        actor: "service-account",
    };
    group.throughput(Throughput::Elements(1));
    for (name, text) in [
        ("that it has not", "nowhere"),
        ("of its last field", "trace0"),
        ("and a phrase", "office \"branch office in\""),
    ] {
        let search = search::parse(text).expect("a search");
        group.bench_function(format!("an entry in memory: a word {name}"), |b| {
            b.iter(|| search.matches(black_box(&entry), around))
        });
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
