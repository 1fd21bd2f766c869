//! Lifecycle in several processes: orders through a queue, a sequencer elsewhere, leases that change hands. On the rig of [`crate::tail`].

use super::{
    deletion::{self, Deletions},
    erasure::{EraseError, Eraser},
    export::{self, ExportSettings, Exports, Request, Status},
    leader::{self, Leader},
    remote::RemoteOrders,
    retention::Retention,
};
use crate::{
    actors::sequencer::core::Order,
    catalog::{Catalog, NewTenant, SettingsPatch},
    export::Format,
    model::{
        filter::Filter,
        pack::tests::pack_of,
        time::{DAY_MS, now_ms},
    },
    queue::{SealReader, seals::Lease},
    seal::erasure::ErasureKind,
    sinks::{
        Sort,
        dead_letter::{DeadLetters, LetterFilter},
    },
    tail::tests::{Orderly, Owner, Reader, Site, in_time, pack_with_hash, scope, tenant, until},
};
use futures_util::TryStreamExt;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Short enough that a test does not wait long for another holder, long enough that no holder loses it by being slow for a moment.
const TTL: Duration = Duration::from_secs(3);

fn eraser(queue: &Orderly, reader: &Reader) -> Eraser {
    Eraser::remote(Arc::new(queue.clone()), reader.tail.clone())
}

async fn erase(eraser: &Eraser, name: &str, cutoff: i64) -> Result<u64, EraseError> {
    let erasing = async { eraser.erase(&scope(name), ErasureKind::Cleanup, cutoff).await?.rows().await };
    in_time("an erasure", erasing).await
}

/// The event time of entry `i` of every test pack.
fn time(i: i64) -> i64 {
    1_700_000_000_000 + i
}

async fn shown(reader: &Reader, name: &str, rows: u64) {
    until("rows", || reader.head(name) >= rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_that_is_ordered_through_the_queue_removes_and_counts_every_row_once() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let (one, two) = (site.reader(1), site.reader(1));
    let queue = Orderly::to(&owner);
    let (first, second) = (eraser(&queue, &one), eraser(&queue, &two));
    let counting = owner.count(&one);
    owner.decide(pack_of("a", &[1, 2, 3, 4, 5])).await;
    shown(&one, "a", 5).await;
    // Ordered by two processes at once, each order delivered twice.
    let (wide, narrow) = tokio::join!(erase(&first, "a", time(4)), erase(&second, "a", time(2)));
    assert_eq!(wide.expect("counted") + narrow.expect("counted"), 4, "each row by one of them");
    for reader in [&one, &two] {
        assert_eq!(reader.rows("a").await.expect("it reads"), 1, "what was answered is so in every process");
        until("usage", || reader.tail.counters(&scope("a")).erased == 4).await;
    }
    queue.refuse();
    assert_eq!(erase(&first, "a", time(9)).await, Err(EraseError::Unavailable), "and nothing is erased");
    assert_eq!(two.rows("a").await.expect("it reads"), 1);
    first.stop().await;
    second.stop().await;
    counting.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_owner_left_uncounted_is_counted_by_the_next_one() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let reader = site.reader(1);
    let queue = Orderly::to(&owner);
    let eraser = eraser(&queue, &reader);
    owner.decide(pack_of("a", &[1, 2, 3])).await;
    shown(&reader, "a", 3).await;
    site.table.counts_fail.store(true, Ordering::SeqCst);
    let counting = owner.count(&reader);
    let hidden = in_time("hidden", eraser.erase(&scope("a"), ErasureKind::Cleanup, time(2)))
        .await
        .expect("ordered");
    assert_eq!(reader.rows("a").await.expect("it reads"), 1);
    counting.stop().await;
    owner.stop().await;
    let next = site.owner(0).await;
    site.table.counts_fail.store(false, Ordering::SeqCst);
    let counting = next.count(&reader);
    assert_eq!(in_time("counting", hidden.rows()).await, Ok(2));
    // An order that was held up in the queue comes to the next owner, and the wait goes on.
    queue.hold();
    let late = tokio::spawn({
        let eraser = eraser.clone();
        async move { erase(&eraser, "a", time(9)).await }
    });
    next.decide(pack_of("a", &[4])).await;
    queue.deliver(&next);
    let rows = late.await.expect("no panic").expect("counted");
    // Whether the new row has been numbered before the order came is for the queue to say.
    let left = reader.rows("a").await.expect("it reads");
    assert_eq!(rows + left, 2, "{rows} removed, {left} left");
    eraser.stop().await;
    counting.stop().await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_is_counted_when_the_store_has_the_rows_before_it() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let reader = site.reader(1);
    let counting = owner.count(&reader);
    site.table.block(true);
    owner.decide(pack_of("a", &[1, 2, 3])).await;
    let order = Order::Erase {
        tenant: tenant("a"),
        kind: ErasureKind::Cleanup,
        cutoff: time(9),
        job: uuid::Uuid::from_u128(1),
    };
    let ordered = tokio::spawn(owner.handle.order_durably(order));
    let a = tenant("a");
    let pending = reader
        .tail
        .until(&a, |state| state.erasures_of(&a).is_some_and(|all| !all.pending().is_empty()));
    in_time("the erasure", pending).await;
    assert!(reader.tail.countable(0).is_empty(), "the store has none of its rows");
    site.table.block(false);
    in_time("the order", ordered).await.expect("no panic").expect("durable");
    until("counted", || reader.tail.counters(&scope("a")).erased == 3).await;
    counting.stop().await;
    owner.stop().await;
}

async fn catalog(site: &Site, tenants: &[&str]) -> Catalog {
    let catalog = Catalog::open(site.objects()).await.expect("opened");
    for name in tenants.iter().filter(|name| catalog.get(&tenant(name)).is_none()) {
        let new = NewTenant {
            tenant_id: tenant(name),
            name: None,
            settings: SettingsPatch::default(),
        };
        catalog.create(new).await.expect("made");
    }
    catalog
}

fn compile(_: &[(String, String)]) -> Result<(Filter, Sort), String> {
    Ok((Filter::default(), Sort::SequenceDesc))
}

fn export_parts(reader: &Reader, catalog: &Catalog) -> export::Parts {
    export::Parts {
        objects: reader.reach.clone(),
        authority: Arc::new(reader.fresh()),
        catalog: catalog.clone(),
        copying: None,
        compile: Arc::new(compile),
        room: None,
        clock: now_ms,
    }
}

fn lease(reader: &Reader, name: &str) -> Lease {
    Lease::new(reader.reach.clone(), name, TTL, "test").expect("a name")
}

/// Exports of a process, in small chunks.
fn exports(reader: &Reader, catalog: &Catalog) -> Exports {
    let settings = ExportSettings {
        chunk_bytes: 1_000,
        portion: 2,
        ..ExportSettings::default()
    };
    Exports::shared(export_parts(reader, catalog), settings, lease(reader, export::LEASE))
}

struct Process {
    reader: Reader,
    catalog: Catalog,
    eraser: Eraser,
    exports: Exports,
    letters: DeadLetters,
    deletions: Deletions,
}

impl Process {
    async fn new(site: &Site, queue: &Orderly, tenants: &[&str]) -> Self {
        let reader = site.reader(1);
        let catalog = catalog(site, tenants).await;
        catalog.follow(Duration::from_millis(100));
        let eraser = eraser(queue, &reader);
        let exports = exports(&reader, &catalog);
        let letters = DeadLetters::shared(reader.reach.clone(), 0);
        let deletions = Deletions::shared(deletion::Parts {
            catalog: catalog.clone(),
            eraser: eraser.clone(),
            dead_letters: letters.clone(),
            exports: exports.clone(),
            tail: Some(reader.tail.clone()),
        });
        Self {
            reader,
            catalog,
            eraser,
            exports,
            letters,
            deletions,
        }
    }

    fn lead(&self) -> Leader {
        let tail = self.reader.tail.clone();
        let retention = Retention {
            eraser: self.eraser.clone(),
            authority: Arc::new(self.reader.fresh()),
            catalog: self.catalog.clone(),
            dead_letters: self.letters.clone(),
            trimmed: Arc::new(move |tenant| tail.trimmed(tenant)),
            interval: Duration::from_millis(200),
        };
        Leader::start(lease(&self.reader, leader::LEASE), retention, self.deletions.clone())
    }

    async fn stop(self) {
        self.exports.stop().await;
        self.eraser.stop().await;
    }
}

/// An id that was used with other content becomes a dead letter.
async fn conflict(owner: &Owner, name: &str, id: u128) {
    owner.decide(pack_of(name, &[id])).await;
    let other = pack_with_hash(name, id, id + 77);
    owner.decide(other).await;
}

/// Waits until the dead letters of every seal are objects. A decision is durable before they have its seal, so that an empty queue of theirs
/// says nothing.
async fn written(owner: &Owner) {
    let (tip, mut settled) = (*owner.log.seals().tip().borrow(), owner.letters.settled());
    in_time("the letters", settled.wait_for(|n| *n >= tip)).await.expect("it lives");
}

async fn letters(letters: &DeadLetters, name: &str) -> Vec<uuid::Uuid> {
    let page = letters.list(&scope(name), &LetterFilter::default(), 0, 100).await.expect("listed");
    assert_eq!(page.total, page.data.len() as u64);
    page.data.into_iter().map(|letter| letter.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_seen_and_removed_by_every_process_and_no_memory_lies() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let queue = Orderly::to(&owner);
    let (one, two) = (Process::new(&site, &queue, &["a"]).await, Process::new(&site, &queue, &["a"]).await);
    assert!(letters(&one.letters, "a").await.is_empty() && letters(&two.letters, "a").await.is_empty());
    conflict(&owner, "a", 1).await;
    written(&owner).await;
    let seen = letters(&one.letters, "a").await;
    assert_eq!((seen.len(), letters(&two.letters, "a").await), (1, seen.clone()), "written by a third process");
    let found = two.letters.find(&scope("a"), seen[0]).await.expect("read").expect("there");
    assert!(one.letters.remove(&scope("a"), &found).await.expect("removed"));
    assert!(!two.letters.remove(&scope("a"), &found).await.expect("asked"), "once");
    for process in [&one, &two] {
        assert!(letters(&process.letters, "a").await.is_empty());
        assert!(process.letters.find(&scope("a"), seen[0]).await.expect("read").is_none());
    }
    // A process that slept writes the letters once more, after their seal was trimmed and a sweep has been: they stay gone.
    two.letters.sweep(&scope("a"), 0, u64::MAX).await.expect("swept");
    let again = site.owner(0).await;
    for n in 1..=2 {
        let seal = owner.log.seals().find(n).await.expect("read");
        let crate::queue::Found::Seal(seal) = seal else { panic!("{seal:?}") };
        let letters = again.letters.clone();
        tokio::task::spawn_blocking(move || letters.submit(&seal)).await.expect("submitted");
    }
    in_time("the letter", again.letters.drained()).await;
    assert!(letters(&one.letters, "a").await.is_empty(), "a removal holds whatever is written after it");
    one.stop().await;
    two.stop().await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_any_process_deletes_is_gone_in_all_of_them() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let queue = Orderly::to(&owner);
    let tenants = ["a", "b"];
    let (asked, leading) = (Process::new(&site, &queue, &tenants).await, Process::new(&site, &queue, &tenants).await);
    let counting = owner.count(&leading.reader);
    for name in tenants {
        conflict(&owner, name, 1).await;
        // Young enough for retention to leave them.
        for id in 1..=2 {
            owner.decide(pack_with_hash(&format!("{name}.access"), id, id)).await;
        }
    }
    written(&owner).await;
    shown(&leading.reader, "b.access", 2).await;
    let leader = leading.lead();
    in_time("the tombstone", asked.deletions.delete(&tenant("a"))).await.expect("deleted");
    assert!(asked.catalog.get(&tenant("a")).is_none(), "at once, where it was asked for");
    in_time("the deletion", async {
        while asked.catalog.retired().iter().all(|left| left.finished_at.is_none()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for process in [&asked, &leading] {
        assert!(process.catalog.get(&tenant("a")).is_none() && process.catalog.get(&tenant("b")).is_some());
        assert_eq!(process.reader.rows("a").await.expect("it reads"), 0);
        assert_eq!(process.reader.rows("a.access").await.expect("it reads"), 0);
        assert_eq!(process.reader.rows("b.access").await.expect("it reads"), 2);
        assert!(letters(&process.letters, "a").await.is_empty());
        assert_eq!(letters(&process.letters, "b").await.len(), 1);
    }
    // What comes late is counted and not kept.
    conflict(&owner, "a", 9).await;
    until("refused", || leading.reader.tail.counters(&scope("a")).dead_lettered == 3).await;
    written(&owner).await;
    assert!(letters(&asked.letters, "a").await.is_empty());
    leader.stop().await;
    counting.stop().await;
    asked.stop().await;
    leading.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_is_done_by_one_process_and_by_the_next_when_that_one_is_gone() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let queue = Orderly::to(&owner);
    let (one, two) = (Process::new(&site, &queue, &["a"]).await, Process::new(&site, &queue, &["a"]).await);
    let counting = owner.count(&one.reader);
    let leaders = (one.lead(), two.lead());
    // Test packs were received in 2023.
    assert!(time(0) + 500 < now_ms() - 90 * DAY_MS);
    owner.decide(pack_of("a", &[1, 2])).await;
    until("retention", || two.reader.tail.counters(&scope("a")).erased == 2).await;
    leaders.0.stop().await;
    owner.decide(pack_of("a", &[3])).await;
    until("retention", || two.reader.tail.counters(&scope("a")).erased == 3).await;
    assert_eq!(two.reader.rows("a").await.expect("it reads"), 0);
    leaders.1.stop().await;
    counting.stop().await;
    one.stop().await;
    two.stop().await;
    owner.stop().await;
}

fn request() -> Request {
    Request {
        format: Format::Ndjson,
        csv_safe: false,
        query: Vec::new(),
    }
}

async fn finished(exports: &Exports, id: uuid::Uuid) -> export::Job {
    in_time("the export", async {
        loop {
            let job = exports.get(&scope("a"), id).await.expect("read").expect("there");
            if job.status.is_over() {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_ordered_anywhere_done_by_one_and_gone_on_with_by_the_next() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let queue = Orderly::to(&owner);
    let (one, two) = (Process::new(&site, &queue, &["a"]).await, Process::new(&site, &queue, &["a"]).await);
    let ids: Vec<u128> = (1..=60).collect();
    owner.decide(pack_of("a", &ids)).await;
    for process in [&one, &two] {
        shown(&process.reader, "a", 60).await;
    }
    let a = scope("a");
    let (first, second) = (
        one.exports.create(&a, request(), 60).await.expect("made"),
        two.exports.create(&a, request(), 60).await.expect("made"),
    );
    // One of the two holds the lease; in the middle of the work it is cut off, like a process that is paused.
    let has_begun = async |exports: &Exports| {
        let jobs = [exports.get(&a, first.id).await, exports.get(&a, second.id).await];
        jobs.into_iter().any(|job| job.expect("read").expect("there").rows > 0)
    };
    in_time("the beginning", async {
        while !has_begun(&one.exports).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    one.reader.reach.cut.store(true, Ordering::SeqCst);
    let jobs = [finished(&two.exports, first.id).await, finished(&two.exports, second.id).await];
    one.reader.reach.cut.store(false, Ordering::SeqCst);
    for job in jobs {
        assert_eq!((job.status, job.rows, job.chunks.len() > 5), (Status::Done, 60, true), "{job:?}");
        let (bytes, job) = (job.bytes(), Arc::new(job));
        for process in [&one, &two] {
            let file: Vec<u8> = process
                .exports
                .read(job.clone(), 0..bytes)
                .map_ok(|b| b.to_vec())
                .try_concat()
                .await
                .expect("whole");
            assert_eq!(String::from_utf8(file).expect("text").lines().count(), 60);
        }
    }
    let ended = one.exports.end(&a, first.id).await.expect("ended");
    assert!(matches!(ended, Some(export::Ended::Deleted)));
    assert!(two.exports.get(&a, first.id).await.expect("read").is_none());
    let objects = site.objects();
    in_time("the marks", async {
        while !objects.list("export_queue").await.expect("listed").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    one.stop().await;
    two.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_says_nothing_is_asked_again_under_the_same_name() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let reader = site.reader(1);
    let queue = Orderly::to(&owner);
    let counting = owner.count(&reader);
    owner.decide(pack_of("a", &[1, 2])).await;
    shown(&reader, "a", 2).await;
    let doubtful = Arc::new(Doubtful(queue));
    let eraser = Eraser::remote(doubtful, reader.tail.clone());
    assert_eq!(erase(&eraser, "a", time(9)).await, Ok(2), "it was taken all the same, and more than once");
    assert_eq!(reader.tail.counters(&scope("a")).erased, 2);
    eraser.stop().await;
    counting.stop().await;
    owner.stop().await;
}

/// Takes every order, and never says so.
struct Doubtful(Orderly);

impl RemoteOrders for Doubtful {
    fn erase(
        &self,
        tenant: &crate::model::tenant::TenantId,
        kind: ErasureKind,
        cutoff: i64,
        job: uuid::Uuid,
    ) -> futures_util::future::BoxFuture<'static, Result<(), crate::queue::AcceptError>> {
        drop(self.0.erase(tenant, kind, cutoff, job));
        Box::pin(std::future::ready(Err(crate::queue::AcceptError::Unknown)))
    }

    fn retire(
        &self,
        tenant: &crate::model::tenant::TenantId,
        job: uuid::Uuid,
    ) -> futures_util::future::BoxFuture<'static, Result<(), crate::queue::AcceptError>> {
        drop(self.0.retire(tenant, job));
        Box::pin(std::future::ready(Err(crate::queue::AcceptError::Unknown)))
    }
}
