//! The eraser and retention against a sequencer and a store that are a list.

use super::{
    erasure::{EraseError, Eraser, Orders},
    retention::Retention,
};
use crate::{
    actors::sequencer::Ended,
    catalog::{Catalog, NewTenant, SettingsPatch},
    fs::sim::SimFs,
    model::{
        entry::StoredEntry,
        filter::Filter,
        tenant::{TenantId, TenantScope},
        time::DAY_MS,
    },
    objects::{Objects, folder::FolderObjects},
    seal::{
        erasure::{Erasure, ErasureKind, Erasures},
        state::SealState,
    },
    sinks::{Authority, ListPage, ListQuery, Scan, Stats, StatsQuery, StoreError, VisibleHead, dead_letter::DeadLetters},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// A row: (timestamp, received_at, sequence).
type Row = (i64, i64, u64);

/// What a sequencer and a store make of erasures.
#[derive(Default)]
struct Place(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    rows: HashMap<TenantId, Vec<Row>>,
    seals: SealState,
    erased: HashMap<TenantId, u64>,
    /// Erasures in the order of their seals, and of their results.
    sealed: Vec<Uuid>,
    settled: Vec<Uuid>,
    /// Counting fails so often.
    failures: u32,
}

impl Place {
    /// A tenant with rows of these times, for both kinds alike.
    fn with(tenants: &[(&str, &[i64])]) -> Arc<Self> {
        let this = Self::default();
        for (name, times) in tenants {
            let rows = times.iter().zip(1..).map(|(at, sequence)| (*at, *at, sequence)).collect();
            this.lock().rows.insert(tenant(name), rows);
        }
        Arc::new(this)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics with it")
    }

    fn eraser(self: &Arc<Self>) -> Eraser {
        Eraser::new(self.clone(), self.clone(), &self.lock().seals)
    }

    fn count(&self, of: &TenantId, counts: impl Fn(&Erasures, Row) -> bool) -> u64 {
        let inner = self.lock();
        let erasures = inner.seals.erasures_of(of).cloned().unwrap_or_default();
        let rows = inner.rows.get(of).map_or(&[][..], Vec::as_slice);
        rows.iter().filter(|row| counts(&erasures, **row)).count() as u64
    }

    fn visible(&self, name: &str) -> u64 {
        self.count(&tenant(name), |erasures, (t, r, s)| !erasures.covers(t, r, s))
    }

    fn erased(&self, name: &str) -> u64 {
        self.lock().erased.get(&tenant(name)).copied().unwrap_or_default()
    }

    fn orders(&self) -> usize {
        self.lock().sealed.len()
    }
}

impl Orders for Place {
    fn erase(&self, tenant: TenantId, kind: ErasureKind, cutoff: i64, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        let mut inner = self.lock();
        let head = inner.rows.get(&tenant).map_or(0, |rows| rows.len() as u64);
        Arc::make_mut(inner.seals.erasures.entry(tenant).or_default()).add(&Erasure { job, kind, cutoff, head });
        inner.sealed.push(job);
        ready(Ok(())).boxed()
    }

    fn removed(&self, tenant: TenantId, job: Uuid, rows: u64) -> BoxFuture<'static, Result<(), Ended>> {
        let mut inner = self.lock();
        let settled = Arc::make_mut(inner.seals.erasures.get_mut(&tenant).expect("it was erased")).settle(job);
        assert!(settled, "results come in the order of the seals");
        inner.settled.push(job);
        *inner.erased.entry(tenant).or_default() += rows;
        ready(Ok(())).boxed()
    }
}

impl Authority for Place {
    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        let fails = {
            let mut inner = self.lock();
            inner.failures = inner.failures.saturating_sub(1);
            inner.failures > 0
        };
        let rows = self.count(scope.tenant(), |erasures, (t, r, s)| erasures.counted_by(job, t, r, s));
        ready(if fails { Err(StoreError::Busy) } else { Ok(rows) }).boxed()
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        let wanted = Erasure {
            job: Uuid::nil(),
            kind,
            cutoff,
            head: u64::MAX,
        };
        let rows = self.count(scope.tenant(), |erasures, (t, r, s)| wanted.covers(t, r, s) && !erasures.covers(t, r, s));
        ready(Ok(rows)).boxed()
    }

    fn get(&self, _: &TenantScope, _: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        unreachable!("nothing is read")
    }

    fn list(&self, _: &TenantScope, _: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        unreachable!("nothing is read")
    }

    fn stats(&self, _: &TenantScope, _: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        unreachable!("nothing is read")
    }

    fn scan(&self, _: &TenantScope, _: Filter, _: u64, _: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        unreachable!("nothing is read")
    }

    fn visible_head(&self, _: &TenantScope) -> VisibleHead {
        unreachable!("nothing is read")
    }

    fn visible(&self) -> watch::Receiver<u64> {
        unreachable!("nothing is read")
    }

    fn degraded(&self) -> bool {
        false
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

fn scope(name: &str) -> TenantScope {
    TenantScope::new(tenant(name))
}

async fn erase(eraser: &Eraser, name: &str, cutoff: i64) -> Result<u64, EraseError> {
    eraser.erase(&scope(name), ErasureKind::Cleanup, cutoff).await?.rows().await
}

#[tokio::test(start_paused = true)]
async fn erasures_at_once_are_counted_in_their_order_and_every_row_by_one_of_them() {
    let place = Place::with(&[("a", &[1, 2, 3, 4, 5, 6]), ("b", &[1, 2])]);
    let eraser = place.eraser();
    place.lock().failures = 5;
    let (one, two, three, other) = tokio::join!(erase(&eraser, "a", 4), erase(&eraser, "a", 6), erase(&eraser, "a", 3), erase(&eraser, "b", 2));
    assert_eq!((one, two, three, other), (Ok(3), Ok(2), Ok(0), Ok(1)));
    assert_eq!((place.erased("a"), place.erased("b"), place.visible("a"), place.visible("b")), (5, 1, 1, 1));
    let inner = place.lock();
    let of_a = |jobs: &[Uuid]| jobs.iter().filter(|job| **job != inner.sealed[3]).copied().collect::<Vec<_>>();
    assert_eq!(of_a(&inner.sealed), of_a(&inner.settled));
}

#[tokio::test(start_paused = true)]
async fn rows_are_hidden_at_once_also_while_they_cannot_be_counted() {
    let place = Place::with(&[("a", &[1, 2, 3])]);
    let eraser = place.eraser();
    place.lock().failures = u32::MAX;
    let first = eraser.erase(&scope("a"), ErasureKind::Cleanup, 2).await.expect("hidden");
    let second = eraser.erase(&scope("a"), ErasureKind::Cleanup, 3).await.expect("hidden too");
    assert_eq!((place.visible("a"), place.erased("a")), (1, 0));
    place.lock().failures = 0;
    assert_eq!((second.rows().await, first.rows().await), (Ok(1), Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn an_erasure_goes_on_without_its_caller_and_after_a_restart() {
    let place = Place::with(&[("a", &[1, 2, 3])]);
    let eraser = place.eraser();
    drop(eraser.erase(&scope("a"), ErasureKind::Cleanup, 2).await.expect("hidden"));
    assert_eq!(erase(&eraser, "a", 3).await, Ok(1));
    assert_eq!(place.erased("a"), 2);

    place.lock().failures = u32::MAX;
    let pending = eraser.erase(&scope("a"), ErasureKind::Cleanup, 4).await.expect("hidden");
    eraser.stop().await;
    assert_eq!(pending.rows().await, Err(EraseError::Stopping));
    assert_eq!(erase(&eraser, "a", 9).await, Err(EraseError::Stopping));
    assert_eq!((place.visible("a"), place.erased("a")), (0, 2));

    place.lock().failures = 2;
    let next = place.eraser();
    assert_eq!(erase(&next, "a", 9).await, Ok(0), "counted after what was pending");
    assert_eq!(place.erased("a"), 3);
}

#[tokio::test(start_paused = true)]
async fn too_many_at_once_are_refused_per_tenant() {
    let place = Place::with(&[("a", &[1]), ("b", &[1])]);
    let eraser = place.eraser();
    place.lock().failures = u32::MAX;
    let mut counting = Vec::new();
    let refused = loop {
        match eraser.erase(&scope("a"), ErasureKind::Cleanup, 2).await {
            Ok(one) => counting.push(one),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, counting.len(), place.orders()), (EraseError::Busy, 16, 16));
    assert!(eraser.erase(&scope("b"), ErasureKind::Cleanup, 2).await.is_ok(), "another tenant's");
    place.lock().failures = 0;
    for one in counting {
        assert!(one.rows().await.is_ok());
    }
    assert_eq!((erase(&eraser, "a", 2).await, place.erased("a")), (Ok(0), 1));
}

#[tokio::test(start_paused = true)]
async fn retention_erases_what_each_tenant_keeps_no_longer_and_orders_nothing_else() {
    let now = 1_000 * DAY_MS;
    let days = |n: i64| now - n * DAY_MS;
    let ages = [days(91), days(90), days(31), days(30), days(0)];
    let place = Place::with(&[("a", &ages), ("b", &ages)]);
    let objects = FolderObjects::open(Arc::new(SimFs::new()), Path::new("/objects").into()).expect("opened");
    let objects: Arc<dyn Objects> = Arc::new(objects);
    let catalog = Catalog::open(objects.clone()).await.expect("opened");
    for (name, settings) in [("a", serde_json::json!({})), ("b", serde_json::json!({"retention_days": 30}))] {
        let settings = SettingsPatch::parse(settings.as_object().expect("an object")).expect("good");
        let new = NewTenant {
            tenant_id: tenant(name),
            name: None,
            settings,
        };
        catalog.create(new).await.expect("made");
    }
    let retention = Retention {
        eraser: place.eraser(),
        authority: place.clone(),
        catalog,
        dead_letters: DeadLetters::open(objects, 0),
        trimmable: watch::channel(0).1,
        interval: Duration::from_secs(3600),
    };
    assert_eq!(retention.round(now).await, Ok(1 + 3));
    assert_eq!((place.visible("a"), place.visible("b"), place.orders()), (4, 2, 2));
    assert_eq!((retention.round(now).await, place.orders()), (Ok(0), 2), "nothing is erased for nothing");
    assert_eq!((retention.round(now + DAY_MS).await, place.orders()), (Ok(1 + 1), 4));

    let eraser = retention.eraser.clone();
    retention.start();
    while place.visible("a") > 0 {
        tokio::time::sleep(Duration::from_secs(60)).await; // virtual: the wall clock is far past every row's time
    }
    eraser.stop().await;
}
