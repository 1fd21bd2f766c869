//! Jobs on a real store and a simulated disk: what they write is what a stream writes, whatever happens on the way.

use super::{
    run::take_up,
    turn::{Fault, Step, turn},
    *,
};
use crate::{
    catalog::{NewTenant, SettingsPatch},
    export::{Encoder, Format, Source},
    fs::sim::{CrashMode, SimFs},
    model::entry::Severity,
    objects::{Key, Version, folder::FolderObjects},
    sinks::{
        StoreError,
        embedded::{
            EmbeddedStore,
            tests::{filled, filled_with_rot},
        },
    },
};
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const TENANTS: [&str; 2] = ["acme", "globex"];
const NOW: i64 = 1_700_000_000_000;
/// More turns than any job here needs: one that never comes to its end is a failure, not a test that hangs.
const TURNS: usize = 500;
/// How long a test waits for what happens in the background.
const PATIENCE: Duration = Duration::from_secs(30);

fn scope(name: &str) -> TenantScope {
    TenantScope::new(TenantId::parse(name).expect("a tenant"))
}

fn compile(query: &[(String, String)]) -> Result<(Filter, Sort), String> {
    let mut wanted = (Filter::default(), Sort::TimestampDesc);
    for (name, value) in query {
        match (name.as_str(), value.as_str()) {
            ("severity", text) => wanted.0.severity.extend(Severity::parse(text)),
            ("sort", "sequence:asc") => wanted.1 = Sort::SequenceAsc,
            ("sort", "sequence:desc") => wanted.1 = Sort::SequenceDesc,
            _ => return Err("unknown".into()),
        }
    }
    Ok(wanted)
}

fn request(format: Format, query: &[(&str, &str)]) -> Request {
    Request {
        format,
        csv_safe: false,
        query: query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

/// A store that does not change, and a disk for the objects.
struct Bench {
    store: EmbeddedStore,
    disk: SimFs,
    parts: Parts,
    settings: ExportSettings,
}

impl Bench {
    async fn new(entries: usize) -> Self {
        let store = tokio::task::spawn_blocking(move || filled(&TENANTS, entries)).await.expect("filled");
        Self::on(store, SimFs::new()).await
    }

    async fn on(store: EmbeddedStore, disk: SimFs) -> Self {
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(Arc::new(disk.clone()), "/objects".into()).expect("opened"));
        let catalog = Catalog::open(objects.clone()).await.expect("opened");
        for name in TENANTS.iter().filter(|name| catalog.get(scope(name).tenant()).is_none()) {
            let new = NewTenant {
                tenant_id: scope(name).tenant().clone(),
                name: None,
                settings: SettingsPatch::default(),
            };
            catalog.create(new).await.expect("made");
        }
        let parts = Parts {
            objects,
            authority: Arc::new(store.clone()),
            catalog,
            copying: None,
            compile: Arc::new(compile),
            room: None,
            clock: || NOW,
        };
        let settings = ExportSettings {
            chunk_bytes: 8 << 10,
            portion: 7,
            ..ExportSettings::default()
        };
        Self { store, disk, parts, settings }
    }

    /// The same store, and the disk after a crash.
    async fn crashed(&self, seed: u64, mode: CrashMode) -> Self {
        Self::on(self.store.clone(), self.disk.crash(seed, mode)).await
    }

    /// Jobs that work only when a test gives them a turn.
    fn by_hand(&self) -> Arc<Inner> {
        Inner::new(self.parts.clone(), self.settings.clone(), false)
    }

    fn head(&self, name: &str) -> u64 {
        self.parts.authority.visible_head(&scope(name)).head
    }

    /// What a stream writes.
    async fn streamed(&self, name: &str, request: &Request) -> Vec<u8> {
        let (filter, sort) = compile(&request.query).expect("understood");
        let mut source = Source::new(self.parts.authority.clone(), scope(name), filter, sort);
        let (mut encoder, mut out) = (Encoder::new(request.format, scope(name).tenant().clone(), request.csv_safe), Vec::new());
        encoder.start(&mut out);
        while let Some(entries) = source.next().await.expect("read") {
            entries.iter().for_each(|e| encoder.entry(&mut out, e));
        }
        encoder.end(&mut out);
        out
    }
}

async fn download(exports: &Exports, job: &Job, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
    exports.read(Arc::new(job.clone()), range).map_ok(|b| b.to_vec()).try_concat().await
}

async fn give_turns(inner: &Arc<Inner>, name: &str, id: Uuid) -> Result<Job, Fault> {
    for _ in 0..TURNS {
        match turn(inner, &scope(name), id, &CancellationToken::new()).await? {
            Step::More => {}
            Step::Over(job) => return Ok(*job),
            Step::Gone | Step::Theirs => panic!("the job is gone"),
        }
    }
    panic!("the job does not come to its end");
}

/// Looks again and again until `what` holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "`{what}` did not come");
        tokio::task::yield_now().await;
    }
}

/// Waits until the job is over, as a client does.
async fn finished(exports: &Exports, name: &str, id: Uuid) -> Job {
    let mut over = None;
    until("the end of the job", async || {
        let job = exports.get(&scope(name), id).await.expect("read").expect("there");
        over = job.status.is_over().then_some(job);
        over.is_some()
    })
    .await;
    over.expect("it is over")
}

fn objects_of(disk: &SimFs, id: Uuid) -> Vec<String> {
    let names = disk.paths().into_iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()));
    names.filter(|name| name.starts_with(&id.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_writes_what_a_stream_writes_in_every_format_and_order() {
    let bench = Bench::new(300).await;
    let exports = Exports::start(bench.parts.clone(), bench.settings.clone());
    for format in Format::ALL {
        for query in [
            &[][..],
            &[("severity", "ERROR"), ("sort", "sequence:asc")],
            &[("severity", "CRITICAL"), ("severity", "INFO")],
        ] {
            let request = request(format, query);
            let made = exports.create(&scope("acme"), request.clone(), bench.head("acme")).await.expect("made");
            assert_eq!((made.status, made.progress()), (Status::Queued, Some(0.0)));
            let job = finished(&exports, "acme", made.id).await;
            assert_eq!((job.status, job.error.as_deref(), job.progress()), (Status::Done, None, Some(1.0)));
            let want = bench.streamed("acme", &request).await;
            let got = download(&exports, &job, 0..job.bytes()).await.expect("whole");
            assert!(got == want, "{format:?} {query:?}: {} bytes, not {}", got.len(), want.len());
            assert_eq!(job.total, Some(job.rows));
            assert!(query.len() == 2 || job.chunks.len() > 3, "{query:?}: {:?}", job.chunks);
        }
    }
    exports.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_range_is_that_part_of_the_whole() {
    let mut bench = Bench::new(1500).await;
    (bench.settings.chunk_bytes, bench.settings.portion) = (400 << 10, 8_192); // blocks of 256 KiB, a full and a short one
    let inner = bench.by_hand();
    let made = inner
        .create(Job::new(scope("acme").tenant().clone(), request(Format::Json, &[]), bench.head("acme"), NOW))
        .await
        .expect("made");
    let job = give_turns(&inner, "acme", made.id).await.expect("done");
    let exports = Exports(inner);
    let whole = download(&exports, &job, 0..job.bytes()).await.expect("whole");
    let (len, chunk) = (whole.len() as u64, job.chunks[0]);
    assert!(len > 600 << 10 && chunk > 256 << 10, "{:?}", job.chunks);
    let block = 256 << 10;
    for range in [
        0..0,
        0..1,
        len - 1..len,
        block - 1..block + 1,
        block..len,
        chunk - 1..chunk + 1,
        5..5,
        100..block + 7,
        len..len,
    ] {
        if range.end > len {
            continue;
        }
        let got = download(&exports, &job, range.clone()).await.expect("read");
        assert!(got == whole[range.start as usize..range.end as usize], "{range:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_may_go_at_any_moment_and_the_export_is_the_same_to_the_byte() {
    let bench = Bench::new(120).await;
    let request = request(Format::Json, &[]);
    let want = bench.streamed("acme", &request).await;
    let (mut finished, mut taken_up) = (false, 0);
    for operations in (0..).step_by(3) {
        let bench = Bench::on(bench.store.clone(), SimFs::new()).await;
        let before = bench.by_hand();
        let made = before
            .create(Job::new(scope("acme").tenant().clone(), request.clone(), bench.head("acme"), NOW))
            .await
            .expect("made");
        bench.disk.power_off_after(operations);
        finished = give_turns(&before, "acme", made.id).await.is_ok();
        for (seed, mode) in [(0, CrashMode::Lose), (1, CrashMode::Keep), (2, CrashMode::Tear)] {
            let bench = bench.crashed(seed, mode).await;
            let inner = bench.by_hand();
            take_up(&inner).await;
            let kept = job::read(&*bench.parts.objects, scope("acme").tenant(), made.id)
                .await
                .expect("read")
                .expect("there")
                .0;
            assert_eq!(
                objects_of(&bench.disk, made.id).iter().filter(|n| n.ends_with(".chunk")).count(),
                kept.chunks.len()
            );
            let waits = inner.state().queue.len() == 1;
            assert!(waits != kept.status.is_over(), "it waits for its turn exactly if it is not over");
            taken_up += usize::from(waits && !kept.chunks.is_empty());
            let job = give_turns(&inner, "acme", made.id).await.expect("done");
            let got = download(&Exports(inner), &job, 0..job.bytes()).await.expect("whole");
            assert!(got == want, "after {operations} operations, {mode:?}: {} bytes, not {}", got.len(), want.len());
        }
        if finished {
            break;
        }
    }
    assert!(finished && taken_up > 20, "{taken_up}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_job_at_a_chunk_and_the_next_start_goes_on_there() {
    let bench = Bench::new(300).await;
    let request = request(Format::Csv, &[]);
    let inner = bench.by_hand();
    let made = inner
        .create(Job::new(scope("acme").tenant().clone(), request.clone(), bench.head("acme"), NOW))
        .await
        .expect("made");
    for _ in 0..3 {
        assert!(matches!(turn(&inner, &scope("acme"), made.id, &CancellationToken::new()).await, Ok(Step::More)));
    }
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert!(matches!(turn(&inner, &scope("acme"), made.id, &stopped).await, Err(Fault::Stopped)));
    let exports = Exports::start(bench.parts.clone(), bench.settings.clone());
    let job = finished(&exports, "acme", made.id).await;
    let got = download(&exports, &job, 0..job.bytes()).await.expect("whole");
    assert!(got == bench.streamed("acme", &request).await);
    exports.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_nothing_and_a_finished_one_is_deleted() {
    let bench = Bench::new(300).await;
    let inner = bench.by_hand();
    let exports = Exports(inner.clone());
    let acme = scope("acme");
    let made = exports.create(&acme, request(Format::Ndjson, &[]), bench.head("acme")).await.expect("made");
    assert!(matches!(turn(&inner, &acme, made.id, &CancellationToken::new()).await, Ok(Step::More)));
    assert!(exports.end(&scope("globex"), made.id).await.expect("asked").is_none(), "another tenant's");
    let Some(Ended::Cancelled(job)) = exports.end(&acme, made.id).await.expect("ended") else {
        panic!("not cancelled")
    };
    assert_eq!((job.status, job.rows, job.bytes()), (Status::Cancelled, 0, 0));
    // A turn that was under way finds out, also one that had not read the record again.
    assert!(matches!(
        turn(&inner, &acme, made.id, &CancellationToken::new()).await,
        Ok(Step::Over(job)) if job.status == Status::Cancelled
    ));
    let done = exports.create(&acme, request(Format::Ndjson, &[]), bench.head("acme")).await.expect("made");
    let done = give_turns(&inner, "acme", done.id).await.expect("done");
    assert!(matches!(exports.end(&acme, done.id).await, Ok(Some(Ended::Deleted))));
    assert!(exports.get(&acme, done.id).await.expect("read").is_none());
    assert!(matches!(exports.end(&acme, done.id).await, Ok(None)));
    assert!(matches!(download(&exports, &done, 0..done.bytes()).await, Err(ReadError::Gone)) || !done.chunks.is_empty());
    inner.tasks.close();
    inner.tasks.wait().await;
    assert_eq!(objects_of(&bench.disk, made.id), [format!("{}.json", made.id)]);
    assert!(objects_of(&bench.disk, done.id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_whose_job_is_cancelled_meanwhile_records_nothing_and_cleans_up() {
    let bench = Bench::new(300).await;
    let (inner, acme) = (bench.by_hand(), scope("acme"));
    let exports = Exports(inner.clone());
    let made = exports.create(&acme, request(Format::Ndjson, &[]), bench.head("acme")).await.expect("made");
    bench.disk.hold_syncs(); // the turn stands still in its first write
    let (turning, disk) = (inner.clone(), bench.disk.clone());
    let id = made.id;
    let under_way = tokio::spawn(async move { turn(&turning, &scope("acme"), id, &CancellationToken::new()).await });
    tokio::task::spawn_blocking(move || disk.wait_for_held_sync()).await.expect("it came there");
    let cancelling = tokio::spawn(async move { exports.end(&scope("acme"), id).await });
    bench.disk.release_syncs();
    assert!(matches!(cancelling.await.expect("no panic"), Ok(Some(Ended::Cancelled(_)))));
    let step = under_way.await.expect("no panic").expect("no fault");
    assert!(matches!(step, Step::More | Step::Over(_)), "{step:?}");
    assert!(matches!(
        turn(&inner, &acme, id, &CancellationToken::new()).await,
        Ok(Step::Over(job)) if job.status == Status::Cancelled
    ));
    inner.tasks.close();
    inner.tasks.wait().await;
    assert_eq!(objects_of(&bench.disk, id), [format!("{id}.json")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_a_job_that_is_cancelled_before_its_record_is_lost_and_leaves_nothing() {
    let mut bench = Bench::new(300).await;
    // Reads of the request come between the turn's read of the record and its chunk: here somebody cancels then.
    let (send, mut asked) = tokio::sync::mpsc::unbounded_channel::<std::sync::mpsc::Sender<()>>();
    let interrupting = Arc::new(AtomicBool::new(false));
    let at = interrupting.clone();
    bench.parts.compile = Arc::new(move |query| {
        if at.load(Ordering::Relaxed) {
            let (cancelled, wait) = std::sync::mpsc::channel();
            send.send(cancelled).map_err(|_| "nobody cancels")?;
            tokio::task::block_in_place(|| wait.recv()).map_err(|_| "not cancelled")?;
        }
        compile(query)
    });
    let (inner, acme) = (bench.by_hand(), scope("acme"));
    let exports = Exports(inner.clone());
    let made = exports.create(&acme, request(Format::Ndjson, &[]), bench.head("acme")).await.expect("made");
    for _ in 0..2 {
        assert!(matches!(turn(&inner, &acme, made.id, &CancellationToken::new()).await, Ok(Step::More)));
    }
    interrupting.store(true, Ordering::Relaxed);
    let (turning, id) = (inner.clone(), made.id);
    let under_way = tokio::spawn(async move { turn(&turning, &scope("acme"), id, &CancellationToken::new()).await });
    let go_on = asked.recv().await.expect("the turn has read the record");
    assert!(matches!(exports.end(&acme, id).await, Ok(Some(Ended::Cancelled(_)))));
    // Its deletions are over before the turn writes: what is left then is the turn's own.
    until("the deletion of the chunks", async || inner.tasks.is_empty()).await;
    go_on.send(()).expect("the turn waits");
    assert!(matches!(under_way.await.expect("no panic"), Ok(Step::More)), "it has lost and is to look again");
    assert_eq!(exports.get(&acme, id).await.expect("read").expect("there").status, Status::Cancelled);
    assert_eq!(objects_of(&bench.disk, id), [format!("{id}.json")]);
}

/// The objects as a process reaches them that falls asleep before it writes a name with this ending, once.
struct Sleepy {
    objects: Arc<dyn Objects>,
    before: &'static str,
    awake: AtomicBool,
    asleep: Notify,
    wake: Arc<Notify>,
}

impl Objects for Sleepy {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        self.objects.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        self.objects.get_range(key, range)
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let put = self.objects.put(key, bytes, when);
        if !key.file_name().ends_with(self.before) || self.awake.swap(true, Ordering::SeqCst) {
            return put;
        }
        self.asleep.notify_one();
        let wake = self.wake.clone();
        Box::pin(async move {
            wake.notified().await;
            put.await
        })
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.objects.delete(key)
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.objects.clear(folder)
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        self.objects.list(folder)
    }
}

/// A process sleeps in the middle of a turn, before it writes the chunk or before it records it; another takes the job over; then the
/// first goes on where it was, before the other's next turn or long after the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_taken_over_while_its_old_turn_still_runs_is_the_same_file() {
    for (before, wakes_early) in [(".chunk", true), (".chunk", false), (".json", true), (".json", false)] {
        let case = format!("asleep before {before}, wakes early: {wakes_early}");
        let bench = Bench::new(300).await;
        let objects = Arc::new(Sleepy {
            objects: bench.parts.objects.clone(),
            before,
            awake: AtomicBool::new(true),
            asleep: Notify::new(),
            wake: Arc::default(),
        });
        let parts = Parts {
            objects: objects.clone(),
            ..bench.parts.clone()
        };
        let (first, next) = (
            Inner::new(parts, bench.settings.clone(), true),
            Inner::new(bench.parts.clone(), bench.settings.clone(), true),
        );
        let (acme, request) = (scope("acme"), request(Format::Ndjson, &[]));
        let made = Exports(first.clone()).create(&acme, request.clone(), bench.head("acme")).await.expect("made");
        for _ in 0..2 {
            assert!(matches!(turn(&first, &acme, made.id, &CancellationToken::new()).await, Ok(Step::More)));
        }
        objects.awake.store(false, Ordering::SeqCst);
        let (sleeping, id) = (first.clone(), made.id);
        let old = tokio::spawn(async move { turn(&sleeping, &scope("acme"), id, &CancellationToken::new()).await });
        tokio::time::timeout(PATIENCE, objects.asleep.notified()).await.expect("it falls asleep");
        take_up(&next).await;
        if wakes_early {
            objects.wake.notify_one();
            let step = old.await.expect("no panic");
            assert!(matches!(step, Ok(Step::More)), "{case}: {step:?}");
            let step = turn(&first, &acme, id, &CancellationToken::new()).await;
            assert!(matches!(step, Ok(Step::Theirs)), "{case}: it does no more work on it: {step:?}");
            give_turns(&next, "acme", id).await.expect("no fault");
        } else {
            give_turns(&next, "acme", id).await.expect("no fault");
            objects.wake.notify_one();
            let step = old.await.expect("no panic");
            assert!(matches!(step, Ok(Step::More)), "{case}: {step:?}");
        }
        let step = turn(&first, &acme, id, &CancellationToken::new()).await;
        assert!(matches!(step, Ok(Step::Over(_))), "{case}: {step:?}");
        let exports = Exports(next);
        let job = exports.get(&acme, id).await.expect("read").expect("there");
        let got = download(&exports, &job, 0..job.bytes()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(got == bench.streamed("acme", &request).await, "{case}: another file");
        let (mut left, mut named) = (objects_of(&bench.disk, id), vec![format!("{id}.json")]);
        named.extend((0..job.chunks.len()).map(|number| job.chunk(number).file_name().to_owned()));
        left.retain(|name| !name.ends_with(".job"));
        left.sort();
        named.sort();
        assert_eq!(left, named, "{case}: nothing but what the record names");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_holds_what_was_there_when_it_was_asked_for() {
    let bench = Bench::new(300).await;
    let inner = bench.by_hand();
    let as_of = bench.head("acme") / 2; // the others came later
    for query in [&[][..], &[("sort", "sequence:asc")]] {
        let made = inner
            .create(Job::new(scope("acme").tenant().clone(), request(Format::Ndjson, query), as_of, NOW))
            .await
            .expect("made");
        let job = give_turns(&inner, "acme", made.id).await.expect("done");
        assert_eq!((job.rows, job.total, job.as_of), (as_of, Some(as_of), as_of), "{query:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_goes_on_without_a_damaged_part_says_so() {
    let store = tokio::task::spawn_blocking(|| filled_with_rot(&TENANTS, 6_000)).await.expect("filled");
    let mut bench = Bench::on(store, SimFs::new()).await;
    bench.settings.portion = 500;
    let (inner, acme) = (bench.by_hand(), scope("acme"));
    let request = request(Format::Ndjson, &[("sort", "sequence:desc")]);
    let made = inner
        .create(Job::new(acme.tenant().clone(), request, bench.head("acme"), NOW))
        .await
        .expect("made");
    let record = async || job::read(&*bench.parts.objects, acme.tenant(), made.id).await.expect("read").expect("there").0;
    // The newest entries are in memory: the first turn does without the damaged part.
    assert!(matches!(turn(&inner, &acme, made.id, &CancellationToken::new()).await, Ok(Step::More)));
    assert!(
        !record().await.degraded && !bench.parts.authority.condition(false).lacks_rows,
        "nobody has looked"
    );
    let mut found = 0;
    let job = loop {
        match turn(&inner, &acme, made.id, &CancellationToken::new()).await {
            Ok(Step::More) => {}
            Ok(Step::Over(job)) => break *job,
            Err(Fault::Store(StoreError::Damaged(_))) => {
                assert!(!record().await.degraded, "the chunks so far are whole");
                found += 1;
            }
            other => panic!("{other:?}"),
        }
        assert!(found <= 1, "it is found once");
    };
    assert_eq!((found, job.degraded, record().await.degraded), (1, true, true), "{} rows", job.rows);
    assert!(job.status == Status::Done && job.rows < job.as_of, "{} of {}", job.rows, job.as_of);
}

static CLOCK: AtomicI64 = AtomicI64::new(NOW);

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_gone_at_once_and_deleted_soon() {
    let mut bench = Bench::new(300).await;
    bench.parts.clock = || CLOCK.load(Ordering::Relaxed);
    let exports = Exports::start(bench.parts.clone(), bench.settings.clone());
    let made = exports
        .create(&scope("acme"), request(Format::Csv, &[]), bench.head("acme"))
        .await
        .expect("made");
    let job = finished(&exports, "acme", made.id).await;
    assert_eq!(job.expires_at, Some(NOW + 86_400_000));
    CLOCK.fetch_add(86_399_999, Ordering::Relaxed);
    assert!(exports.get(&scope("acme"), made.id).await.expect("read").is_some());
    CLOCK.fetch_add(1, Ordering::Relaxed);
    assert!(
        exports.get(&scope("acme"), made.id).await.expect("read").is_none(),
        "whether it is deleted yet or not"
    );
    exports.0.changed.notify_one();
    until("the deletion of what has expired", async || objects_of(&bench.disk, made.id).is_empty()).await;
    assert!(exports.0.state().kept.is_empty() && exports.0.state().expiring.is_empty(), "and forgotten");
    exports.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_bounded_per_tenant_and_in_all() {
    let mut bench = Bench::new(20).await;
    (bench.settings.per_tenant, bench.settings.queue) = (2, 3);
    let exports = Exports(bench.by_hand());
    let ask = async |name: &str| exports.create(&scope(name), request(Format::Csv, &[]), 1).await;
    let first = ask("acme").await.expect("room");
    ask("acme").await.expect("room");
    assert!(matches!(ask("acme").await, Err(ExportError::TooMany)));
    ask("globex").await.expect("room");
    assert!(matches!(ask("globex").await, Err(ExportError::Busy)));
    exports.end(&scope("acme"), first.id).await.expect("cancelled");
    exports.end(&scope("acme"), first.id).await.expect("deleted");
    assert!(matches!(ask("acme").await, Err(ExportError::Busy)), "its ticket still waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_stop_before_the_volume_is_full_and_go_on_when_there_is_room() {
    let mut bench = Bench::new(300).await;
    bench.disk.set_capacity(1 << 20);
    bench.parts.room = Some(Room {
        fs: Arc::new(bench.disk.clone()),
        dir: "/objects".into(),
        floor: 512 << 10,
    });
    let inner = bench.by_hand();
    let exports = Exports(inner.clone());
    let made = exports
        .create(&scope("acme"), request(Format::Csv, &[]), bench.head("acme"))
        .await
        .expect("made");
    let again = turn(&inner, &scope("acme"), made.id, &CancellationToken::new()).await;
    assert!(matches!(again, Ok(Step::More)), "{again:?}");
    bench.disk.set_capacity(512 << 10);
    let full = turn(&inner, &scope("acme"), made.id, &CancellationToken::new()).await;
    assert!(matches!(full, Err(Fault::Export(ExportError::NoRoom))), "{full:?}");
    let refused = exports.create(&scope("acme"), request(Format::Csv, &[]), 1).await;
    assert!(matches!(refused, Err(ExportError::NoRoom)));
    bench.disk.set_capacity(1 << 20);
    assert_eq!(give_turns(&inner, "acme", made.id).await.expect("done").status, Status::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_understood_fails_its_job_and_no_other() {
    let bench = Bench::new(100).await;
    let exports = Exports::start(bench.parts.clone(), bench.settings.clone());
    let bad = exports
        .create(&scope("acme"), request(Format::Csv, &[("colour", "red")]), 1)
        .await
        .expect("made");
    let good = exports.create(&scope("acme"), request(Format::Csv, &[]), 1).await.expect("made");
    let bad = finished(&exports, "acme", bad.id).await;
    assert_eq!((bad.status, bad.expires_at), (Status::Failed, Some(NOW + 86_400_000)));
    assert!(bad.error.is_some_and(|why| why.contains("not understood")));
    assert_eq!(finished(&exports, "acme", good.id).await.status, Status::Done);
    exports.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_given_out() {
    let bench = Bench::new(100).await;
    let inner = bench.by_hand();
    let made = inner
        .create(Job::new(scope("acme").tenant().clone(), request(Format::Csv, &[]), bench.head("acme"), NOW))
        .await
        .expect("made");
    let job = give_turns(&inner, "acme", made.id).await.expect("done");
    let path = bench
        .disk
        .paths()
        .into_iter()
        .find(|p| p.to_string_lossy().contains(".000001.") && p.to_string_lossy().ends_with(".chunk"))
        .expect("a chunk");
    bench.disk.flip(&path, 100, 1);
    let exports = Exports(inner);
    let pieces: Vec<_> = exports.read(Arc::new(job.clone()), 0..job.bytes()).collect().await;
    assert_eq!(pieces.len(), 2, "the first chunk, then the end");
    assert!(matches!(pieces[1], Err(ReadError::Damaged(1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_ends_all_jobs_of_the_tenant_and_leaves_nothing_of_it() {
    let bench = Bench::new(900).await;
    let exports = Exports::start(bench.parts.clone(), bench.settings.clone());
    let (acme, globex) = (scope("acme"), scope("globex"));
    let other = exports.create(&globex, request(Format::Csv, &[]), bench.head("globex")).await.expect("made");
    for round in 0..6 {
        exports.create(&acme, request(Format::Json, &[]), bench.head("acme")).await.expect("made");
        if round % 2 == 0 {
            tokio::task::yield_now().await; // some have begun
        }
    }
    let late = {
        let (exports, acme, head) = (exports.clone(), acme.clone(), bench.head("acme"));
        tokio::spawn(async move {
            let mut last = Ok(());
            for _ in 0..200 {
                last = exports.create(&acme, request(Format::Csv, &[]), head).await.map(drop);
            }
            last
        })
    };
    exports.purge(&acme).await.expect("purged");
    exports.purge(&acme).await.expect("again");
    let last = late.await.expect("no panic");
    assert!(matches!(last, Err(ExportError::Closed)), "{last:?}");
    assert_eq!(bench.parts.objects.list("exports/acme").await.expect("listed"), []);
    let until_done = async {
        while exports.get(&globex, other.id).await.expect("read").is_none_or(|job| job.status != Status::Done) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, until_done).await.expect("another tenant's goes on");
    exports.stop().await;
    assert_eq!(bench.parts.objects.list("exports/acme").await.expect("listed"), []);
}
