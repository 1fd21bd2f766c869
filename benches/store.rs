//! The embedded store: what applying a seal costs, and how long a tenant's questions take when nothing was compacted.
//!
//! `cargo bench --bench store` builds 40 parts of 125,000 rows of 1,000 tenants (5 million entries; a minute or two, and
//! about 1 GB in the temporary folder), then asks. With `--test` everything is small, to see that it runs.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use sluice::{
    fs::real::RealFs,
    model::{
        entry::{Field, NewEntry, Severity},
        filter::Filter,
        pack::{Pack, PackBuilder, PackHeader},
        tenant::{TenantId, TenantScope},
    },
    seal::{DecidedSeal, Decision, Seal, SealPack, SealTenant},
    sinks::{
        Authority, Count, ListQuery, SealFollower, Sort,
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
const PACK: u64 = 25;

/// Makes seals of eight packs of eight tenants.
struct Sealer {
    n: u64,
    heads: Vec<u64>,
    tenants: Vec<TenantId>,
}

impl Sealer {
    fn new() -> Self {
        let name = |i| TenantId::parse(&format!("tenant-{i}")).expect("a tenant");
        Self {
            n: 0,
            heads: vec![0; TENANTS as usize],
            tenants: (0..TENANTS).map(name).collect(),
        }
    }

    fn pack(&self, tenant: usize, first: u64) -> Pack {
        let mut builder = PackBuilder::default();
        for i in first..first + PACK {
            let spread = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let texts: [(Field, String); 9] = [
                (
                    Field::Action,
                    ["CREATE", "READ", "UPDATE", "DELETE", "LOGIN"][(spread >> 8) as usize % 5].into(),
                ),
                (Field::ResourceType, ["document", "user", "session"][(spread >> 16) as usize % 3].into()),
                (Field::ResourceId, format!("res-{}", spread % 10_000)),
                (Field::UserId, format!("user-{}", (spread >> 20) % 500)),
                (Field::SessionId, format!("{spread:032x}")),
                (Field::Email, format!("user-{}@example.org", (spread >> 20) % 500)),
                (Field::UserAgent, format!("Mozilla/5.0 (X11; Linux x86_64) Chrome/{}.0", 90 + spread % 40)),
                (
                    Field::Message,
                    format!("request {spread} took {} ms and touched {} rows of the table", spread % 977, spread % 31),
                ),
                (
                    Field::Metadata,
                    format!(
                        r#"{{"region":"eu-{}","attempt":{},"trace":"{spread:x}","note":"as usual"}}"#,
                        spread % 7,
                        spread % 4
                    ),
                ),
            ];
            let mut fields = [None; Field::COUNT];
            texts.iter().for_each(|(field, text)| fields[*field as usize] = Some(text.as_bytes()));
            builder.push(&NewEntry {
                id: id(tenant, i),
                client_id: true,
                hash: u128::from(spread),
                timestamp: 1_700_000_000_000 + (self.n * 10) as i64 + (spread % 3_000) as i64,
                severity: Severity::ALL[if spread % 10 < 7 { 0 } else { spread as usize % 4 }],
                fields,
            });
        }
        let header = PackHeader {
            pack_id: Uuid::from_u64_pair(self.n, tenant as u64),
            tenant: self.tenants[tenant].clone(),
            actor: "bench".into(),
            request_id: "r".into(),
            received_at: 1_700_000_000_000 + (self.n * 10) as i64,
            part: (0, 1),
        };
        builder.finish(header).expect("entries")
    }

    fn seal(&mut self) -> Arc<DecidedSeal> {
        self.n += 1;
        let (mut tenants, mut decided, mut packs) = (Vec::new(), Vec::new(), Vec::new());
        for k in 0..8 {
            let at = ((self.n * 8 + k) % TENANTS) as usize;
            let pack = self.pack(at, self.heads[at] + 1);
            decided.push(SealPack {
                pack_id: pack.id(),
                tenant: k as u32,
                positions: Default::default(),
                decisions: vec![Decision::New; PACK as usize],
                refusal: None,
                first_sequence: self.heads[at] + 1,
            });
            self.heads[at] += PACK;
            tenants.push(SealTenant {
                tenant: self.tenants[at].clone(),
                head: self.heads[at],
                void: None,
                stored: PACK,
                duplicate: 0,
                dead_lettered: 0,
                accepted: PACK,
                bytes: pack.bytes().len() as u64,
            });
            packs.push(Arc::new(pack));
        }
        let seal = Seal {
            n: self.n,
            previous_crc: self.n as u32 - 1,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break: false,
            tenants,
            packs: decided,
            erasures: Vec::new(),
            removed: Vec::new(),
        };
        Arc::new(DecidedSeal {
            seal,
            crc: self.n as u32,
            packs,
            encoded_len: 1_000,
        })
    }
}

/// The id of row `i` of a tenant: as random as a UUIDv4, and known again.
fn id(tenant: usize, i: u64) -> Uuid {
    let high = (tenant as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ i.wrapping_mul(0xA076_1D64_78BD_642F);
    Uuid::from_u64_pair(high, i)
}

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
    let (store, mut sealer) = (open(dir.path()), Sealer::new());
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(8 * PACK));
    group.bench_function("seal of 8 packs of 25 entries", |b| {
        b.iter_batched(|| sealer.seal(), |seal| store.apply(&seal).expect("applies"), BatchSize::PerIteration);
    });
}

fn ask(c: &mut Criterion, smoke: bool) {
    let (parts, rows) = if smoke { (2, 4_000) } else { (PARTS, ROWS_PER_PART) };
    let dir = tempfile::tempdir().expect("a folder");
    let (store, mut sealer) = (open(dir.path()), Sealer::new());
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
    group.bench_function("look up 200 unknown ids", |b| {
        b.iter_batched(
            || (0..200).map(|_| (sealer.tenants[next()].clone(), Uuid::new_v4())).collect::<Vec<_>>(),
            |keys| store.lookup(&keys).expect("looks up"),
            BatchSize::PerIteration,
        );
    });
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
        b.iter(|| runtime.block_on(store.stats(&scope(next()), Filter::default())).expect("counts"))
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
