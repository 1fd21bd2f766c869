//! What a decision costs: `Core` takes the packs of a seal, looks ids up in its memory, numbers, and the seal is encoded, adopted and
//! later let go, as the sequencer's thread does it. The disk, the ledger behind its memory and the threads around it are not in it:
//! those are in `wal`, `store` and `lanes`.
//!
//! A seal has 8 packs of 100 entries of 8 tenants: ids that clients made and nobody knows, the same again as repeats of rows that the
//! store does not show yet, and packs of one entry. Floor: each id once into a fresh `HashMap` and found again. `elem/s` is entries a second.
//! `encode` and `decode` are of such a seal's bytes, beside their checksum.
//!
//! Run: `make bench ARGS="--bench seal"`.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice::{
    actors::sequencer::{
        core::{Core, Undecided},
        memory::KnownPacks,
    },
    model::{
        entry::{Field, NewEntry, Severity},
        pack::{Pack, PackBuilder, PackHeader},
        tenant::TenantId,
    },
    queue::Position,
    seal::{DecidedSeal, codec, state::SealState},
};
use smallvec::smallvec;
use std::{collections::HashMap, hint::black_box, sync::Arc, time::Duration};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PACKS: u64 = 8;
/// Milliseconds since 1970.
const NOW: i64 = 1_709_208_000_123;

/// Makes packs of ids that were not there before.
#[derive(Default)]
struct Source {
    made: u64,
}

impl Source {
    fn pack(&mut self, tenant: &TenantId, entries: u64) -> Arc<Pack> {
        let mut builder = PackBuilder::default();
        let mut fields: [Option<&[u8]>; Field::COUNT] = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(b"UPDATE");
        fields[Field::Message as usize] = Some(&[b'm'; 600]);
        for _ in 0..entries {
            self.made += 1;
            let random = self.made.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            builder.push(&NewEntry {
                id: Uuid::from_u64_pair((NOW as u64) << 16 | 7 << 12, 1 << 63 | random >> 2),
                client_id: true,
                hash: u128::from(random),
                timestamp: NOW,
                severity: Severity::Info,
                fields,
            });
        }
        let header = PackHeader {
            pack_id: Uuid::from_u64_pair(self.made, random_of(self.made)),
            tenant: tenant.clone(),
            actor: "bench".into(),
            request_id: "r".into(),
            received_at: NOW,
            part: (0, 1),
        };
        Arc::new(builder.finish(header).expect("entries"))
    }

    fn packs(&mut self, tenants: &[TenantId], entries: u64) -> Vec<Undecided> {
        let undecided = |pack| Undecided { pack, refusal: None };
        tenants.iter().map(|tenant| undecided(self.pack(tenant, entries))).collect()
    }
}

fn random_of(n: u64) -> u64 {
    n.wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// As the sequencer goes through a group; the store shows it when the next one is decided.
fn seal(core: &mut Core, packs: Vec<Undecided>) -> Arc<DecidedSeal> {
    let n = core.state().n + 1;
    core.trimmed(n.saturating_sub(2)); // a segment for each seal: packs do not stay known for ever
    let plan = core.plan(packs, NOW);
    let unknown = vec![None; plan.lookups.len()];
    let draft = core.decide(plan, &unknown, NOW, &mut |_| smallvec![Position { segment: n, offset: 8 }]);
    let encoded = codec::encode(&draft.seal);
    let sealed = core.adopt(draft, &encoded);
    core.applied(n - 1);
    sealed
}

fn core() -> Core {
    Core::new(Uuid::nil(), SealState::default(), KnownPacks::default(), None, NOW)
}

fn deciding(criterion: &mut Criterion) {
    let tenants: Vec<TenantId> = (0..PACKS).map(|n| TenantId::parse(&format!("tenant-{n}")).expect("a tenant")).collect();
    let mut group = criterion.benchmark_group("seal");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (what, entries) in [("8 packs of 100 entries", 100), ("8 packs of one entry", 1)] {
        group.throughput(Throughput::Elements(PACKS * entries));
        let mut source = Source::default();
        let packs = source.packs(&tenants, entries);
        let ids: Vec<Uuid> = packs
            .iter()
            .flat_map(|item| item.pack.entries().map(|entry| entry.id()).collect::<Vec<_>>())
            .collect();
        group.bench_function(BenchmarkId::new("floor: a hash map of the ids", what), |b| {
            b.iter(|| {
                let map: HashMap<Uuid, u128> = black_box(&ids).iter().map(|id| (*id, 0)).collect();
                ids.iter().filter(|id| map.contains_key(id)).count()
            });
        });
        let mut deciding = core();
        group.bench_function(BenchmarkId::new("decide, new ids", what), |b| {
            b.iter_batched(|| source.packs(&tenants, entries), |packs| seal(&mut deciding, packs), BatchSize::PerIteration);
        });
        // Packs of other names with the same entries: only the last seal's rows are in the window, and these are.
        let again = |packs: &[Undecided]| -> Vec<Undecided> { packs.iter().map(|item| renamed(&item.pack)).collect() };
        let mut deciding = core();
        seal(&mut deciding, again(&packs));
        group.bench_function(BenchmarkId::new("decide, repeats", what), |b| {
            b.iter_batched(
                || again(&packs),
                |packs| {
                    let sealed = seal(&mut deciding, packs);
                    assert!(sealed.seal.tenants.iter().all(|tenant| tenant.stored == 0), "all are known");
                    sealed
                },
                BatchSize::PerIteration,
            );
        });
        let sealed = seal(&mut core(), packs);
        let encoded = codec::encode(&sealed.seal);
        let what = format!("{} bytes of {what}", encoded.len());
        group.bench_function(BenchmarkId::new("floor: checksum", &what), |b| b.iter(|| crc32c::crc32c(black_box(&encoded))));
        group.bench_function(BenchmarkId::new("encode", &what), |b| b.iter(|| codec::encode(black_box(&sealed.seal))));
        group.bench_function(BenchmarkId::new("decode", &what), |b| {
            b.iter(|| codec::decode(black_box(&encoded)).expect("a seal"))
        });
    }
    group.finish();
}

/// The same entries in a pack of another name.
fn renamed(pack: &Pack) -> Undecided {
    let mut builder = PackBuilder::default();
    pack.entries().for_each(|entry| builder.push_record(entry));
    let header = PackHeader {
        pack_id: Uuid::new_v4(),
        ..pack.header().clone()
    };
    Undecided {
        pack: Arc::new(builder.finish(header).expect("entries")),
        refusal: None,
    }
}

criterion_group!(benches, deciding);
criterion_main!(benches);
