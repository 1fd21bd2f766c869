//! What the access log costs a read on its path: to say who asked and for what, and to put that into the queue. Nothing of it
//! waits; the packs are written by a task elsewhere, whose work on other cores is not in the figure.
//!
//! Run: `make bench ARGS="--bench access"`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::{BoxFuture, FutureExt, ready};
use sluice::{
    auth::{Origin, Principal, Role},
    catalog::{Catalog, NewTenant, SettingsPatch},
    fs::real::RealFs,
    lifecycle::access_log::{AccessLog, AccessLogSettings, Event, Who},
    model::{
        entry::StoredEntry,
        pack::Pack,
        tenant::{TenantId, TenantScope},
    },
    objects::folder::FolderObjects,
    queue::{AcceptError, Accepted, Counters, Producer},
};
use std::{hint::black_box, sync::Arc, time::Duration};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes every pack and keeps none.
struct Nowhere;

impl Producer for Nowhere {
    fn accept(&self, pack: Pack, _: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        drop(pack);
        ready(Ok(Accepted { decided: None })).boxed()
    }

    fn pending(&self, _: &TenantScope, _: Uuid) -> Option<StoredEntry> {
        None
    }

    fn room(&self, _: &TenantId) -> Result<(), AcceptError> {
        Ok(())
    }

    fn counters(&self, _: &TenantScope) -> Counters {
        Counters::default()
    }
}

fn record(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let tenant = TenantId::parse("acme").expect("a tenant");
    let log = runtime.block_on(async {
        let objects = FolderObjects::open(Arc::new(RealFs), folder.path().into()).expect("a folder");
        let catalog = Catalog::open(Arc::new(objects)).await.expect("a catalog");
        let new = NewTenant {
            tenant_id: tenant.clone(),
            name: None,
            settings: SettingsPatch::default(),
        };
        catalog.create(new).await.expect("made");
        AccessLog::start(Arc::new(Nowhere), catalog, AccessLogSettings::default())
    });
    let principal = Principal {
        subject: "ann@example.com".into(),
        tenant: Some(tenant.clone()),
        roles: vec![Role::Auditor],
        expires_at: None,
        origin: Origin::Local,
    };
    let peer = "10.20.30.40:50000".parse().expect("an address");
    let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 Safari/537.36";
    let filters = [
        ("from", "2024-02-29"),
        ("severity", "ERROR"),
        ("user_id", "user-7"),
        ("search", "invoice draft"),
        ("page_size", "50"),
    ];
    let mut group = c.benchmark_group("access");
    group.throughput(Throughput::Elements(1)).bench_function("record a search", |b| {
        b.iter(|| {
            let who = Who::new(black_box(&principal), peer, Some(agent), "0190a3b4-0000-7000-8000-000000000001".into());
            let event = Event::read("sluice.search", "log", "audit")
                .text("log", "audit")
                .filters(filters.into_iter())
                .number("rows", 50);
            log.record(&tenant, &who, &event);
        });
    });
    group.finish();
    runtime.block_on(log.stop());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = record
}
criterion_main!(benches);
