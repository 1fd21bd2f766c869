//! What the limits cost a request: no limit, admitted and charged, refused; and what they cost an address that tries.
//!
//! Run: `make bench ARGS="--bench limits"`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::{
    catalog::RateLimit,
    limits::{LimitSettings, addresses::Addresses, quota::Quotas, rates::TenantRates},
    model::tenant::TenantId,
};
use std::{hint::black_box, net::IpAddr, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANTS: usize = 10_000;

fn limit(per_second: u64) -> RateLimit {
    RateLimit {
        entries_per_second: Some(per_second),
        bytes_per_second: Some(per_second),
        burst: None,
    }
}

fn rates(c: &mut Criterion) {
    let tenants: Vec<_> = (0..TENANTS).map(|i| TenantId::parse(&format!("tenant-{i}")).expect("a tenant")).collect();
    let rates = TenantRates::new(&LimitSettings::default());
    let mut turn = 0;
    let mut next = || {
        turn = (turn + 1) % TENANTS;
        &tenants[turn]
    };
    let mut group = c.benchmark_group("limits");
    group.throughput(Throughput::Elements(1));
    group.bench_function("no limit", |b| b.iter(|| rates.admit(black_box(next()), None, 1_000)));
    let wide = limit(1 << 50);
    group.bench_function("admitted and charged, 10,000 tenants", |b| {
        b.iter(|| {
            let mut admission = rates.admit(black_box(next()), Some(&wide), 1_000).expect("wide");
            admission.bytes(1_100);
            admission.entries(3);
        });
    });
    let narrow = limit(1);
    for tenant in &tenants {
        let mut admission = rates.admit(tenant, Some(&narrow), 1).expect("full");
        admission.entries(1 << 40);
    }
    group.bench_function("refused, 10,000 tenants", |b| {
        b.iter(|| rates.admit(black_box(next()), Some(&narrow), 1).expect_err("in debt"))
    });
    let quotas = Quotas::new(1 << 50);
    group.bench_function("quota", |b| b.iter(|| quotas.reserve(black_box(next()), 100, || 1_000)));
    let addresses = Addresses::new(1, 1);
    let from = |i: u32| IpAddr::from(i.to_be_bytes());
    let mut at = 0;
    let mut address = || {
        at = (at + 1) % 10_000;
        from(at)
    };
    group.bench_function("an address tries, and it was good", |b| {
        b.iter(|| {
            if let Ok(attempt) = addresses.attempt(black_box(address())) {
                attempt.good();
            }
        });
    });
    for i in 0..10_000 {
        let _ = addresses.attempt(from(i));
    }
    group.bench_function("an address is refused, 10,000 of them", |b| {
        b.iter(|| addresses.attempt(black_box(address())).is_err())
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = rates
}
criterion_main!(benches);
