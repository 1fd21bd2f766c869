//! What processes that share the objects hear of each other, in virtual time.

use super::{
    lists::{key, with_tenants},
    *,
};
use crate::objects::Version;
use futures_util::future::{BoxFuture, FutureExt, ready};
use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::{sync::Notify, time::advance};

const POLL: Duration = Duration::from_secs(2);

/// The name of an object, and who lets its puts go.
type Held = (String, Arc<Notify>);

/// Objects that can be dead, or hold a write back.
#[derive(Clone)]
struct Faulty {
    inner: Arc<dyn Objects>,
    dead: Arc<AtomicBool>,
    /// A put of an object of this name waits until it is let go.
    held: Arc<Mutex<Option<Held>>>,
    reads: Arc<AtomicUsize>,
}

impl Faulty {
    fn over(fs: &SimFs) -> Self {
        Self {
            inner: objects(fs),
            dead: Arc::default(),
            held: Arc::default(),
            reads: Arc::default(),
        }
    }

    fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }

    fn hold(&self, name: &str) -> Arc<Notify> {
        let go = Arc::new(Notify::new());
        *self.held.lock().expect("sound") = Some((name.to_owned(), go.clone()));
        go
    }

    fn or_dead<T: Send + 'static>(&self, alive: BoxFuture<'static, Result<T, ObjectError>>) -> BoxFuture<'static, Result<T, ObjectError>> {
        match self.dead.load(Ordering::SeqCst) {
            true => ready(Err(ObjectError::Io("dead".into()))).boxed(),
            false => alive,
        }
    }
}

impl Objects for Faulty {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.or_dead(self.inner.get(key))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        self.or_dead(self.inner.get_range(key, range))
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let put = self.or_dead(self.inner.put(key, bytes, when));
        let held = self.held.lock().expect("sound").clone().filter(|(name, _)| key.as_str() == name);
        async move {
            if let Some((_, go)) = held {
                go.notified().await;
            }
            put.await
        }
        .boxed()
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.or_dead(self.inner.delete(key))
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.or_dead(self.inner.clear(folder))
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        self.or_dead(self.inner.list(folder))
    }
}

/// How long until `seen` holds, in virtual time, looked at every 100 ms.
async fn after(seen: impl Fn() -> bool) -> Duration {
    let since = Instant::now();
    while !seen() {
        assert!(since.elapsed() < Duration::from_secs(60), "never");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    since.elapsed()
}

#[tokio::test(start_paused = true)]
async fn each_sees_the_others_edits_within_a_poll_or_two() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let here = with_tenants(&fs).await;
    let there = open(&fs).await;
    there.follow(POLL);
    for round in 0..5 {
        let (made, text) = here.create_key(&acme, key("ci")).await.expect("made");
        let found = || there.key(&made.key_id).is_some_and(|key| key.verify(text.reveal()));
        assert!(after(found).await <= 2 * POLL, "round {round}");
        here.revoke_key(&acme, &made.key_id).await.expect("revoked");
        assert!(here.key(&made.key_id).is_none(), "at once here");
        assert!(after(|| there.key(&made.key_id).is_none()).await <= 2 * POLL, "round {round}");
        let name = format!("round {round}");
        here.update(&acme, Some(name.clone()), SettingsPatch::default()).await.expect("updated");
        assert!(after(|| there.get(&acme).expect("there").name == name).await <= 2 * POLL);
        let tenant = id(&format!("new-{round}"));
        there.create(new(tenant.as_str())).await.expect("made");
        here.catch_up().await.expect("read");
        assert!(here.get(&tenant).is_some(), "and it reads through when asked to");
        advance(POLL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_the_ring_reads_everything_and_who_is_not_reads_little() {
    let fs = SimFs::new();
    let here = with_tenants(&fs).await;
    let faulty = Faulty::over(&fs);
    let there = Catalog::open(Arc::new(faulty.clone())).await.expect("opened");
    let catch_up = || there.0.catch_up(Duration::ZERO);
    advance(2 * changes::SETTLING).await;
    catch_up().await.expect("read"); // what was just announced at the start has settled
    for edits in [1, changes::RING, changes::RING + 1, 3 * changes::RING] {
        for n in 0..edits {
            here.update(&id("acme"), Some(format!("{edits} {n}")), SettingsPatch::default())
                .await
                .expect("updated");
        }
        let (last, _) = here.create_key(&id("globex"), key("last")).await.expect("made");
        catch_up().await.expect("read");
        assert_eq!(there.get(&id("acme")), here.get(&id("acme")), "{edits}");
        assert!(there.key(&last.key_id).is_some(), "{edits}");
        advance(2 * changes::SETTLING).await;
        catch_up().await.expect("read");
        let before = faulty.reads.load(Ordering::SeqCst);
        catch_up().await.expect("read");
        assert_eq!(faulty.reads.load(Ordering::SeqCst) - before, 1, "nothing has changed: one small object");
    }
    // The object is deleted by hand: numbers begin anew, and nobody takes the new ones for the old.
    let path = PathBuf::from("/data/objects/catalog/version.json");
    fs.set_bytes(&path, br#"{"format":1,"epoch":"0190a3b4-0000-7000-8000-000000000001","n":5000,"changed":[]}"#);
    fs.set_bytes(
        &PathBuf::from("/data/objects/catalog/tenants/fresh.json"),
        br#"{"format":1,"revision":1,"tenant":{"tenant_id":"fresh","name":"x","settings":{},"created_at":"","updated_at":""}}"#,
    );
    catch_up().await.expect("read");
    assert!(there.get(&id("fresh")).is_some());
}

#[tokio::test(start_paused = true)]
async fn our_own_edits_are_not_read_again() {
    let fs = SimFs::new();
    let faulty = Faulty::over(&fs);
    let catalog = Catalog::open(Arc::new(faulty.clone())).await.expect("opened");
    for n in 0..300 {
        catalog.create(new(&format!("t{n}"))).await.expect("made");
    }
    let before = faulty.reads.load(Ordering::SeqCst);
    catalog.0.catch_up(Duration::ZERO).await.expect("read");
    assert_eq!(faulty.reads.load(Ordering::SeqCst) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_takes_its_time_is_seen_whether_its_writer_lives_or_dies() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    with_tenants(&fs).await;
    for (takes, dies) in [(1, false), (4, true), (9, true), (30, false)] {
        let faulty = Faulty::over(&fs);
        let here = Catalog::open(Arc::new(faulty.clone())).await.expect("opened");
        let there = open(&fs).await;
        there.follow(POLL);
        advance(2 * changes::SETTLING).await;
        let go = faulty.hold("catalog/keys/acme.json");
        let making = tokio::spawn({
            let (here, acme) = (here.clone(), acme.clone());
            async move { here.create_key(&acme, key(&format!("takes {takes}"))).await }
        });
        let known = || there.0.keys.list(&acme).iter().any(|key| *key.name == format!("takes {takes}"));
        for _ in 0..10 * takes {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!known());
        }
        go.notify_one();
        if dies {
            // After the write and before anything that it would still say.
            faulty.set_dead(true);
        } else {
            making.await.expect("no panic").expect("made");
        }
        assert!(after(known).await <= 2 * POLL, "it took {takes} s");
    }
}

/// Who acts for good on what memory does not know looks anew, however short ago the last look was, and hears when it could not.
#[tokio::test(start_paused = true)]
async fn a_look_shows_what_was_written_before_it_however_soon_it_comes() {
    let fs = SimFs::new();
    let here = with_tenants(&fs).await;
    let faulty = Faulty::over(&fs);
    let there = Catalog::open(Arc::new(faulty.clone())).await.expect("opened");
    for round in 0..3 {
        let tenant = id(&format!("just-made-{round}"));
        there.catch_up().await.expect("looked");
        here.create(new(tenant.as_str())).await.expect("made");
        there.look().await.expect("looked");
        assert!(there.get(&tenant).is_some(), "round {round}");
    }
    faulty.set_dead(true);
    for _ in 0..2 {
        assert!(there.look().await.is_err(), "a look that failed is none");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_objects_memory_goes_stale_after_five_minutes_and_recovers() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let here = with_tenants(&fs).await;
    let (made, _) = here.create_key(&acme, key("ci")).await.expect("made");
    let faulty = Faulty::over(&fs);
    let there = Catalog::open(Arc::new(faulty.clone())).await.expect("opened");
    there.follow(POLL);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(there.fresh(), "an hour with nothing to hear is fresh");
    faulty.set_dead(true);
    tokio::time::sleep(Duration::from_secs(297)).await;
    assert!(there.fresh() && there.key(&made.key_id).is_some());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!there.fresh(), "a key may have been revoked meanwhile");
    assert!(there.catch_up().await.is_err());
    here.revoke_key(&acme, &made.key_id).await.expect("revoked");
    faulty.set_dead(false);
    assert!(after(|| there.fresh()).await <= 2 * POLL);
    assert!(there.key(&made.key_id).is_none(), "whoever is fresh again has read what was missed");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_understood_stops_changes_and_nothing_is_missed() {
    let (fs, acme) = (SimFs::new(), id("acme"));
    let here = with_tenants(&fs).await;
    let (made, _) = here.create_key(&acme, key("ci")).await.expect("made");
    let there = open(&fs).await;
    advance(2 * changes::SETTLING).await;
    there.0.catch_up(Duration::ZERO).await.expect("read");
    here.revoke_key(&acme, &made.key_id).await.expect("revoked");
    let path = PathBuf::from("/data/objects/catalog/version.json");
    let good = fs.bytes(&path);
    fs.set_bytes(&path, b"{\"format\": 2}");
    assert!(matches!(there.0.catch_up(Duration::ZERO).await, Err(CatalogError::Damaged(_))));
    assert!(
        matches!(here.create_key(&acme, key("x")).await, Err(CatalogError::Damaged(_))),
        "nothing is written that nobody would hear of"
    );
    fs.set_bytes(&path, &good);
    there.0.catch_up(Duration::ZERO).await.expect("read");
    assert!(there.key(&made.key_id).is_none());
}
