//! The eraser and retention against a sequencer and a store that are a list.

use super::{
    deletion::{self, Deletions},
    erasure::{EraseError, Eraser, Orders},
    export::{self, ExportSettings, Exports},
    retention::Retention,
};
use crate::{
    actors::sequencer::Ended,
    catalog::{Catalog, NewTenant, SettingsPatch},
    fs::{
        Fs,
        sim::{CrashMode, SimFs},
    },
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
    sinks::{
        Authority, Condition, ListPage, ListQuery, Scan, Stats, StatsQuery, StoreError, VisibleHead,
        dead_letter::{DeadLetters, LetterFilter, tests::conflicts},
    },
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use std::{
    collections::{HashMap, HashSet},
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

    fn retire(&self, tenant: TenantId, job: Uuid) -> BoxFuture<'static, Result<(), Ended>> {
        if !self.lock().seals.retired.insert(tenant.clone()) {
            return ready(Ok(())).boxed();
        }
        self.erase(tenant, ErasureKind::Retention, i64::MAX, job)
    }

    fn removed(&self, tenant: TenantId, job: Uuid, rows: u64) -> BoxFuture<'static, Result<(), Ended>> {
        let mut inner = self.lock();
        let settled = Arc::make_mut(inner.seals.erasures.get_mut(&tenant).expect("it was erased")).settle(job);
        let retired_again = !inner.sealed.contains(&job);
        assert!(settled || retired_again && rows == 0, "results come in the order of the seals");
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

    fn condition(&self, _: bool) -> Condition {
        Condition::default()
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
async fn a_tenant_is_retired_once_and_whoever_asks_waits_until_all_is_counted() {
    let place = Place::with(&[("a", &[1, 2, 3]), ("b", &[1])]);
    let eraser = place.eraser();
    place.lock().failures = 7;
    let (a, b) = (scope("a"), scope("b"));
    let (before, first, second) = tokio::join!(erase(&eraser, "a", 2), eraser.retire(&a), eraser.retire(&a));
    assert_eq!((before, first, second), (Ok(1), Ok(2), Ok(0)));
    assert_eq!((place.visible("a"), place.erased("a"), place.orders()), (0, 3, 2));

    place.lock().failures = u32::MAX;
    let given_up = eraser.retire(&b).now_or_never();
    assert!(given_up.is_none(), "it was dropped before its end");
    until(|| place.visible("b") == 0).await;
    eraser.stop().await;
    assert_eq!(eraser.retire(&b).await, Err(EraseError::Stopping));
    place.lock().failures = 0;
    let next = place.eraser();
    assert_eq!(
        (next.retire(&b).await, place.erased("b"), place.orders()),
        (Ok(0), 1, 3),
        "after what was pending"
    );
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
        trimmed: Arc::new(|_| 0),
        interval: Duration::from_secs(3600),
    };
    assert_eq!(retention.round(now).await, Ok(1 + 3));
    assert_eq!((place.visible("a"), place.visible("b"), place.orders()), (4, 2, 2));
    assert_eq!((retention.round(now).await, place.orders()), (Ok(0), 2), "nothing is erased for nothing");
    assert_eq!((retention.round(now + DAY_MS).await, place.orders()), (Ok(1 + 1), 4));

    let letters = retention.dead_letters.clone();
    for (n, name, age) in [(1, "a", 91), (2, "a", 31), (3, "b", 31), (4, "b", 5)] {
        letters.submit(&conflicts(n, days(age), name, &[2, 4]));
    }
    letters.drained().await;
    let left = async |name: &str| letters.list(&scope(name), &LetterFilter::default(), 0, 9).await.expect("listed").total;
    assert_eq!((left("a").await, left("b").await), (4, 4));
    assert_eq!(retention.round(now).await, Ok(0));
    assert_eq!((left("a").await, left("b").await), (2, 2), "what was decided before the tenant's days is gone");
    let shorter = serde_json::json!({"retention_days": 4});
    let shorter = SettingsPatch::parse(shorter.as_object().expect("an object")).expect("good");
    retention.catalog.update(&tenant("b"), None, shorter).await.expect("changed");
    assert_eq!(retention.round(now).await, Ok(0));
    assert_eq!((left("a").await, left("b").await), (2, 0), "the days hold for the next round");

    let eraser = retention.eraser.clone();
    retention.start();
    while place.visible("a") > 0 {
        tokio::time::sleep(Duration::from_secs(60)).await; // virtual: the wall clock is far past every row's time
    }
    eraser.stop().await;
}

#[tokio::test(start_paused = true)]
async fn retention_of_the_access_log_goes_by_its_own_days() {
    let now = 1_000 * DAY_MS;
    let days = |n: i64| now - n * DAY_MS;
    let ages = [days(366), days(91), days(8), days(0)];
    let place = Place::with(&[("a", &ages)]);
    let rows = place.lock().rows[&tenant("a")].clone();
    let access = tenant("a").access_log();
    place.lock().rows.insert(access.clone(), rows);
    let visible = || place.count(&access, |erasures, (t, r, s)| !erasures.covers(t, r, s));
    let objects = FolderObjects::open(Arc::new(SimFs::new()), Path::new("/objects").into()).expect("opened");
    let objects: Arc<dyn Objects> = Arc::new(objects);
    let catalog = Catalog::open(objects.clone()).await.expect("opened");
    let new = NewTenant {
        tenant_id: tenant("a"),
        name: None,
        settings: SettingsPatch::default(),
    };
    catalog.create(new).await.expect("made");
    let retention = Retention {
        eraser: place.eraser(),
        authority: place.clone(),
        catalog: catalog.clone(),
        dead_letters: DeadLetters::open(objects, 0),
        trimmed: Arc::new(|_| 0),
        interval: Duration::from_secs(3600),
    };
    assert_eq!(retention.round(now).await, Ok(2 + 1));
    assert_eq!((place.visible("a"), visible()), (2, 3), "90 days, and 365");
    let settings = serde_json::json!({"access_retention_days": 7});
    let settings = SettingsPatch::parse(settings.as_object().expect("an object")).expect("good");
    catalog.update(&tenant("a"), None, settings).await.expect("updated");
    assert_eq!(retention.round(now).await, Ok(2));
    assert_eq!((place.visible("a"), visible()), (2, 1), "in force at once, and for this log alone");
}

/// What a deletion works with, on a disk of its own; the tenants are there.
async fn deletion_parts(place: &Arc<Place>, disk: &SimFs) -> deletion::Parts {
    let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(Arc::new(disk.clone()), Path::new("/objects").into()).expect("opened"));
    let catalog = Catalog::open(objects.clone()).await.expect("opened");
    let jobs = export::Parts {
        objects: objects.clone(),
        authority: place.clone(),
        catalog: catalog.clone(),
        copying: None,
        compile: Arc::new(|_| Err("nothing is exported".to_owned())),
        room: None,
        clock: || 0,
    };
    deletion::Parts {
        catalog,
        eraser: place.eraser(),
        dead_letters: DeadLetters::open(objects, 0),
        exports: Exports::start(jobs, ExportSettings::default()),
        tail: None,
    }
}

fn put(disk: &SimFs, name: &str) {
    let path = Path::new("/objects").join(name);
    disk.create_dir(path.parent().expect("a folder")).expect("made");
    crate::fs::write_atomic(disk, &path, b"secret").expect("written");
}

/// Waits an hour of virtual time at most.
async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), waiting).await.expect("it comes");
}

fn objects_of(disk: &SimFs, tenant: &str) -> Vec<String> {
    let names = disk.paths().into_iter().map(|path| path.display().to_string());
    names.filter(|name| name.starts_with("/objects") && name.contains(tenant)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deletion_takes_everything_of_its_tenant_whenever_it_is_interrupted() {
    const LEFT: [&str; 4] = [
        "deadletters/doomed/000000000000001-00000000000000000001-1.json",
        "exports/doomed/0190a3b4-0000-7000-8000-000000000001.json",
        "catalog/keys/doomed.json",
        "catalog/users/doomed.json",
    ];
    // After so many file operations the power goes, until the deletion comes through.
    for operations in 0.. {
        let place = Place::with(&[("doomed", &[1, 2, 3]), ("other", &[1])]);
        let mut disk = SimFs::new();
        let parts = deletion_parts(&place, &disk).await;
        for name in ["doomed", "other"] {
            let new = NewTenant {
                tenant_id: tenant(name),
                name: None,
                settings: SettingsPatch::default(),
            };
            parts.catalog.create(new).await.expect("made");
        }
        for name in LEFT {
            put(&disk, name);
            put(&disk, &name.replace("doomed", "other"));
        }
        let (catalog, eraser) = (parts.catalog.clone(), parts.eraser.clone());
        let deletions = Deletions::start(parts, &HashSet::new());
        disk.power_off_after(operations);
        let asked = deletions.delete(&tenant("doomed")).await;
        let began = disk.has_power();
        // Virtual time: it tries again and again, or is through.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let through = disk.has_power();
        if through {
            assert!(asked.is_ok() && catalog.retired()[0].finished_at.is_some());
        }
        assert!(!began || asked.is_ok(), "{asked:?}");
        eraser.stop().await;

        disk = disk.crash(operations as u64, CrashMode::Lose);
        let parts = deletion_parts(&place, &disk).await;
        let (catalog, eraser, retired) = (parts.catalog.clone(), parts.eraser.clone(), place.lock().seals.retired.clone());
        let deletions = Deletions::start(parts, &retired);
        if asked.is_err() && catalog.get(&tenant("doomed")).is_some() {
            deletions.delete(&tenant("doomed")).await.expect("asked again");
        }
        until(|| catalog.retired()[0].finished_at.is_some()).await;
        assert!(catalog.get(&tenant("doomed")).is_none() && catalog.get(&tenant("other")).is_some());
        assert_eq!(
            objects_of(&disk, "doomed"),
            ["/objects/catalog/tenants/doomed.json"],
            "after {operations} operations"
        );
        assert_eq!(objects_of(&disk, "other").len(), LEFT.len() + 1);
        assert_eq!((place.visible("doomed"), place.visible("other"), place.erased("doomed")), (0, 1, 3));
        let retired: HashSet<_> = [tenant("doomed"), tenant("doomed").access_log()].into();
        assert_eq!(place.lock().seals.retired, retired, "the access log too");
        eraser.stop().await;
        if through {
            assert!(operations > 20, "it was never interrupted");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_deletion_that_the_seals_do_not_know_is_done_again() {
    let (place, disk) = (Place::with(&[("doomed", &[1])]), SimFs::new());
    let parts = deletion_parts(&place, &disk).await;
    let new = NewTenant {
        tenant_id: tenant("doomed"),
        name: None,
        settings: SettingsPatch::default(),
    };
    parts.catalog.create(new).await.expect("made");
    parts.catalog.retire(&tenant("doomed")).await.expect("retired");
    parts.catalog.finish(&tenant("doomed")).await.expect("finished");
    let eraser = parts.eraser.clone();
    // The access log's seal is there, and the other was lost by damage.
    let _deletions = Deletions::start(parts, &[tenant("doomed").access_log()].into());
    until(|| place.visible("doomed") == 0).await;
    eraser.stop().await;
    let parts = deletion_parts(&place, &disk).await;
    let known = place.lock().seals.retired.clone();
    let (eraser, orders) = (parts.eraser.clone(), place.orders());
    let _deletions = Deletions::start(parts, &known);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(place.orders(), orders, "and when they do, nothing is done");
    eraser.stop().await;
}
