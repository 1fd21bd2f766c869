//! The live feed: from a decided seal to frames in the hands of N sessions of one tenant. The broadcaster encodes each entry once,
//! whoever reads it; a session takes frames from its bounded queue. Floor: the same texts, encoded already, by one
//! `tokio::sync::broadcast` to N tasks. Not in it: sockets and what a WebSocket puts around a frame.
//!
//! A seal has 25 entries of the tenant, and 175 of others that nobody follows. `elem/s` is frames a second, 25 × N for a seal. Run: `make bench ARGS="--bench feed"`.

mod sealer;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::poll;
use sealer::{PACK, Sealer};
use sluice::{
    actors::broadcast::{FeedHandle, FeedSettings, Publisher, Session},
    fs::real::RealFs,
    model::{
        entry::StoredEntry,
        feed::{FeedItem, OnSlow},
        filter::Filter,
        mask::Mask,
        render::write_entry,
        tenant::{TenantId, TenantScope},
    },
    seal::DecidedSeal,
    sinks::embedded::{EmbeddedStore, StoreSettings},
};
use std::{hint::black_box, pin::pin, sync::Arc, time::Duration};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, broadcast, watch},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SESSIONS: [usize; 3] = if cfg!(debug_assertions) { [1, 10, 20] } else { [1, 100, 1_000] };
/// Tenants of a seal; the first is followed.
const TENANTS: u64 = 8;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(2);

fn frame(seal: &DecidedSeal, i: usize) -> StoredEntry {
    let pack = &seal.packs[0];
    StoredEntry {
        record: pack.record(i),
        received_at: pack.header().received_at,
        actor: pack.header().actor.clone(),
        sequence: Some(i as u64 + 1),
    }
}

fn encoding(criterion: &mut Criterion) {
    let seal = Sealer::new(TENANTS).seal();
    let entries: Vec<StoredEntry> = (0..PACK as usize).map(|i| frame(&seal, i)).collect();
    let tenant = seal.packs[0].tenant();
    let encode = |entry: &StoredEntry| {
        let mut json = Vec::new();
        write_entry(&mut json, tenant, entry);
        Bytes::from(json)
    };
    println!("> {} bytes of JSON a frame", encode(&entries[0]).len());
    let mut group = criterion.benchmark_group("feed, one frame");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE).throughput(Throughput::Elements(PACK));
    group.bench_function("encode", |b| {
        b.iter(|| entries.iter().map(|entry| encode(black_box(entry)).len()).sum::<usize>())
    });
    let mask = Mask::compile(&["pattern:email".to_owned(), "session_id".to_owned()]).expect("a mask");
    group.bench_function("mask and encode", |b| {
        b.iter(|| entries.iter().map(|entry| encode(&mask.entry(black_box(entry))).len()).sum::<usize>());
    });
    group.finish();
}

/// A feed with so many live sessions of the first tenant. Nothing is in the store: no session needs it.
fn start(runtime: &Runtime, store: EmbeddedStore, tenant: &TenantId, sessions: usize, received: &Arc<Semaphore>) -> FeedHandle {
    let settings = FeedSettings {
        tenant_sessions: sessions,
        sessions,
        ..FeedSettings::default()
    };
    let feed = FeedHandle::new(Arc::new(store), settings);
    for _ in 0..sessions {
        let subscribed = feed.subscribe(TenantScope::new(tenant.clone()), Filter::default(), None, OnSlow::CatchUp);
        let session = runtime.block_on(subscribed).expect("there is room");
        runtime.spawn(follow(session, received.clone()));
    }
    runtime.block_on(all(received, sessions));
    feed
}

async fn follow(mut session: Session, received: Arc<Semaphore>) {
    assert!(poll!(pin!(session.next())).is_pending(), "nothing was published");
    received.add_permits(1); // it is live from here on
    loop {
        for _ in 0..PACK {
            let FeedItem::Entry { json, .. } = session.next().await else { return };
            black_box(json.len());
        }
        received.add_permits(1);
    }
}

async fn all(received: &Semaphore, sessions: usize) {
    received.acquire_many(sessions as u32).await.expect("it is never closed").forget();
}

fn fan_out(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("feed, fan-out");
    group.sample_size(20).warm_up_time(WARM_UP).measurement_time(MEASURE);
    for sessions in SESSIONS {
        let what = if sessions == 1 {
            "1 session".to_owned()
        } else {
            format!("{sessions} sessions")
        };
        group.throughput(Throughput::Elements(PACK * sessions as u64));
        let texts: Vec<Bytes> = (0..PACK).map(|_| Bytes::from(vec![b'x'; 700])).collect();
        let (channel, _) = broadcast::channel(PACK as usize * 2);
        let received = Arc::new(Semaphore::new(0));
        for _ in 0..sessions {
            runtime.spawn(receive(channel.subscribe(), received.clone()));
        }
        group.bench_function(BenchmarkId::new("floor: broadcast of texts", &what), |b| {
            b.iter(|| {
                texts.iter().for_each(|text| drop(channel.send(text.clone())));
                runtime.block_on(all(&received, sessions));
            });
        });
        drop(channel);
        let dir = tempfile::tempdir().expect("a folder");
        let (mut sealer, received) = (Sealer::new(TENANTS), Arc::new(Semaphore::new(0)));
        let feed = start(&runtime, open(dir.path()), &sealer.tenants[0], sessions, &received);
        group.bench_function(BenchmarkId::new("sluice", &what), |b| {
            let publish = |seal| {
                feed.publish(&seal);
                runtime.block_on(all(&received, sessions));
            };
            b.iter_batched(|| sealer.seal(), publish, BatchSize::PerIteration);
        });
        feed.close();
    }
    group.finish();
}

async fn receive(mut channel: broadcast::Receiver<Bytes>, received: Arc<Semaphore>) {
    loop {
        for _ in 0..PACK {
            let Ok(text) = channel.recv().await else { return };
            black_box(text.len());
        }
        received.add_permits(1);
    }
}

fn open(dir: &std::path::Path) -> EmbeddedStore {
    let settled = watch::Sender::new(u64::MAX);
    let (store, _) = EmbeddedStore::open(Arc::new(RealFs), dir.to_owned(), StoreSettings::default(), settled.subscribe()).expect("opens");
    store.expect(0);
    store
}

criterion_group!(benches, encoding, fan_out);
criterion_main!(benches);
