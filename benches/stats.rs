//! Statistics over large parts: what a tenant with 100,000 entries waits for, and one with millions.
//!
//! `cargo bench --bench stats` builds six parts of a million rows: thirty tenants of 100,000 rows with 2,000 users each, and
//! one of 3,000,000 with 50,000 users (about a minute, and about 600 MB in the temporary folder). An unoptimised build, or
//! `--test`, only smokes.

use criterion::{BenchmarkId, Criterion, Throughput};
use sluice::{
    fs::real::RealFs,
    model::{
        calendar::{Interval, Zone},
        entry::{Field, NewEntry, Severity},
        filter::Filter,
        pack::{Pack, PackBuilder, PackHeader},
        parse::{Sent, content_hash},
        tenant::{TenantId, TenantScope},
    },
    seal::{DecidedSeal, Decision, Seal, SealPack, SealTenant},
    sinks::{
        Authority, GroupBy, GroupKey, SealFollower, StatsQuery,
        embedded::{EmbeddedStore, StoreSettings},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of a small tenant. The large one has as many as all small ones together.
const ROWS: u64 = if cfg!(debug_assertions) { 1_000 } else { 100_000 };
const SMALL: u64 = 30;
const PARTS: u64 = 6;
const PACK: u64 = 500;
const START: i64 = 1_700_000_000_000;
const DAYS_30: u64 = 30 * 86_400_000;

fn tenant(at: u64) -> TenantId {
    TenantId::parse(&format!("tenant-{at}")).expect("a tenant")
}

fn spread(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// Rows `first..` of a tenant, over thirty days.
fn pack(at: u64, first: u64, of: u64, users: u64) -> Pack {
    let mut builder = PackBuilder::default();
    for i in first..first + PACK {
        let dice = spread(at << 40 | i);
        let texts: [(Field, String); 8] = [
            (
                Field::Action,
                ["CREATE", "READ", "UPDATE", "DELETE", "LOGIN", "LOGOUT", "EXPORT", "SHARE"][(dice >> 8) as usize % 8].into(),
            ),
            (
                Field::ResourceType,
                ["document", "user", "session", "invoice"][(dice >> 16) as usize % 4].into(),
            ),
            (Field::ResourceId, format!("res-{}", dice % 10_000)),
            (Field::UserId, format!("user-{:06}@example.org", (dice >> 20) % users)),
            (Field::SessionId, format!("{dice:032x}")),
            (Field::UserAgent, format!("Mozilla/5.0 (X11; Linux x86_64) Chrome/{}.0", 90 + dice % 40)),
            (Field::Message, format!("request {dice} took {} ms", dice % 977)),
            (
                Field::Metadata,
                format!(r#"{{"region":"eu-{}","attempt":{},"trace":"{dice:x}"}}"#, dice % 7, dice % 4),
            ),
        ];
        let mut fields = [None; Field::COUNT];
        texts.iter().for_each(|(field, text)| fields[*field as usize] = Some(text.as_bytes()));
        fields[Field::IpAddress as usize] = Some(&[10, 1, 2, 3]);
        let timestamp = START + (DAYS_30 * i / of) as i64;
        let severity = Severity::ALL[if dice % 10 < 7 { 0 } else { dice as usize % 4 }];
        let sent = Sent {
            fields,
            severity: Some(severity),
            timestamp: Some(timestamp),
        };
        builder.push(&NewEntry {
            id: Uuid::from_u64_pair(dice, at << 40 | i),
            client_id: false,
            hash: content_hash(&sent, &mut Vec::new()),
            timestamp,
            severity,
            fields,
        });
    }
    let header = PackHeader {
        pack_id: Uuid::from_u64_pair(at, first),
        tenant: tenant(at),
        actor: "bench".into(),
        request_id: "r".into(),
        received_at: START,
        part: (0, 1),
    };
    builder.finish(header).expect("entries")
}

fn seal(n: u64, pack: Pack, head: u64) -> Arc<DecidedSeal> {
    let tenant = SealTenant {
        tenant: pack.tenant().clone(),
        head,
        void: None,
        stored: PACK,
        duplicate: 0,
        dead_lettered: 0,
        accepted: PACK,
        bytes: pack.bytes().len() as u64,
    };
    let decided = SealPack {
        pack_id: pack.id(),
        tenant: 0,
        positions: Default::default(),
        decisions: vec![Decision::New; PACK as usize],
        refusal: None,
        first_sequence: head - PACK + 1,
    };
    Arc::new(DecidedSeal {
        seal: Seal {
            n,
            previous_crc: n as u32 - 1,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break: false,
            tenants: vec![tenant],
            packs: vec![decided],
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        },
        crc: n as u32,
        packs: vec![Arc::new(pack)],
        encoded_len: 1_000,
    })
}

fn build(dir: &std::path::Path) -> EmbeddedStore {
    let settings = StoreSettings {
        memtable_bytes: 6 << 30,
        flush_log_bytes: u64::MAX,
        query_timeout: Duration::from_secs(60),
        ..StoreSettings::default()
    };
    let settled = watch::Sender::new(u64::MAX);
    let (store, _) = EmbeddedStore::open(Arc::new(RealFs), dir.to_owned(), settings, settled.subscribe()).expect("opens");
    store.expect(0);
    let mut n = 0;
    for part in 0..PARTS {
        for at in 0..=SMALL {
            let (rows, users) = if at == 0 { (SMALL * ROWS, 50_000) } else { (ROWS, 2_000) };
            for first in (rows * part / PARTS / PACK..rows * (part + 1) / PARTS / PACK).map(|k| k * PACK) {
                n += 1;
                store.apply(&seal(n, pack(at, first, rows, users), first + PACK)).expect("applies");
            }
        }
        store.flush().expect("flushes");
    }
    store
}

fn main() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = build(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let day = Interval::parse("1d", Zone::parse("Europe/Vienna").expect("a zone"));
    let by = |keys: &[GroupKey]| {
        Some(GroupBy {
            keys: keys.to_vec(),
            limit: 100,
        })
    };
    let field = GroupKey::Field;
    let some = Filter {
        severity: vec![Severity::Error],
        from: Some(START + 86_400_000),
        ..Filter::default()
    };
    let queries = [
        ("by severity", None, None, Filter::default()),
        ("by day and action", day, by(&[field(Field::Action)]), Filter::default()),
        ("by user", None, by(&[field(Field::UserId)]), Filter::default()),
        (
            "by action and resource type",
            None,
            by(&[field(Field::Action), field(Field::ResourceType)]),
            Filter::default(),
        ),
        ("by resource", None, by(&[field(Field::ResourceId)]), Filter::default()),
        ("by metadata.region", None, by(&[GroupKey::Leaf(vec!["region".into()])]), Filter::default()),
        ("errors after a day, by day", day, None, some),
    ];
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (at, rows) in [(7, ROWS), (0, SMALL * ROWS)] {
        let mut group = criterion.benchmark_group(format!("stats of {rows} rows"));
        group.throughput(Throughput::Elements(rows));
        let scope = TenantScope::new(tenant(at));
        for (name, series, groups, filter) in &queries {
            let query = StatsQuery {
                filter: filter.clone(),
                series: *series,
                groups: groups.clone(),
            };
            group.bench_with_input(BenchmarkId::from_parameter(name), &query, |b, query| {
                b.iter(|| runtime.block_on(store.stats(&scope, query.clone())).expect("counts"));
            });
        }
    }
    criterion.final_summary();
}
