//! What a process that only reads shows, and when.

use super::*;
use crate::{
    actors::broadcast::{FeedHandle, FeedSettings, Session},
    model::{
        feed::{FeedItem, OnSlow},
        pack::tests::pack_of,
    },
};

fn quick_with(refuse_after: Duration) -> TailSettings {
    TailSettings { refuse_after, ..quick() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_shows_what_the_store_has_and_waits_for_what_it_has_not() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let (one, two) = (site.reader(1), site.reader(1));
    site.table.block(true);
    let pack = pack_of("a", &[1, 2, 3]);
    let mut stored = one.tail.decided(pack.id(), PATIENCE);
    let late = pack.id();
    owner.decide(pack).await;
    for reader in [&one, &two] {
        until("the seal is seen", || reader.tail.counters(&scope("a")).stored == 3).await;
        assert_eq!(reader.shop.view.head(&tenant("a")), 0, "the store does not have it");
        assert_eq!(reader.rows("a").await.expect("it reads"), 0);
    }
    assert!(futures_util::poll!(&mut stored).is_pending(), "no store has it");
    site.table.block(false);
    let decided = in_time("wait=stored", stored).await.expect("it was decided");
    assert_eq!((decided.stored, decided.duplicate, decided.dead_lettered), (3, 0, 0));
    // Whoever reads now, in whichever process, finds it.
    assert_eq!((one.rows("a").await.expect("it reads"), two.rows("a").await.expect("it reads")), (3, 3));
    let again = in_time("a late question", two.tail.decided(late, PATIENCE)).await;
    assert_eq!(again.map(|decided| decided.stored), Some(3), "who asks a moment too late is answered too");
    owner.decide(pack_of("a", &[3, 4])).await;
    until("counters", || two.tail.counters(&scope("a")).duplicate == 1).await;
    let counters = two.tail.counters(&scope("a"));
    assert_eq!((counters.accepted, counters.stored, counters.pending), (5, 4, 0));
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_process_has_acknowledged_is_waited_for_until_it_is_shown() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let reader = site.reader(1);
    let pack = pack_of("a", &[1]);
    reader.tail.acknowledged(&tenant("a"), pack.id());
    let a = tenant("a");
    let mut waiting = Box::pin(reader.tail.until_decided(&a, PATIENCE));
    let other = tenant("b");
    in_time("another tenant", reader.tail.until_decided(&other, PATIENCE)).await;
    assert!(futures_util::poll!(&mut waiting).is_pending());
    site.table.block(true);
    owner.decide(pack).await;
    until("the seal is seen", || reader.tail.counters(&scope("a")).stored == 1).await;
    assert!(futures_util::poll!(&mut waiting).is_pending(), "decided, and not shown");
    site.table.block(false);
    in_time("waiting", waiting).await;
    assert_eq!(reader.shop.view.head(&tenant("a")), 1);
    owner.stop().await;
}

async fn next(session: &mut Session) -> (u64, String) {
    match in_time("the feed", session.next()).await {
        FeedItem::Entry { sequence, json } => (sequence, String::from_utf8(json.to_vec()).expect("text")),
        other => panic!("{other:?}"),
    }
}

fn feed_of(site: &Site, partitions: u32, feed: &mut Option<FeedHandle>) -> Reader {
    site.reader_for(partitions, quick(), |shop| {
        let handle = FeedHandle::new(Arc::new(shop.clone()), FeedSettings::default());
        *feed = Some(handle.clone());
        Some(Arc::new(handle))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_feeds_its_sessions_from_every_partition() {
    let site = Site::new();
    let (left, right) = (site.owner(0).await, site.owner(1).await);
    let (mut feed_one, mut feed_two) = (None, None);
    let (one, two) = (feed_of(&site, 2, &mut feed_one), feed_of(&site, 2, &mut feed_two));
    let (feed_one, feed_two) = (feed_one.expect("made"), feed_two.expect("made"));
    let names: Vec<String> = (0..20).map(|i| format!("t{i}")).collect();
    let of = |p: usize| {
        names
            .iter()
            .find(|name| one.tail.partition_of(&tenant(name)) == p)
            .expect("both have tenants")
            .clone()
    };
    let (a, b) = (of(0), of(1));
    assert_eq!(one.tail.partition_of(&tenant(&a).access_log()), 0, "both logs of a tenant are in one partition");
    for reader in [&one, &two] {
        until("started", || reader.shop.view.ready()).await;
    }
    let subscribe = |feed: &FeedHandle, name: &str| {
        let (feed, scope) = (feed.clone(), scope(name));
        async move { feed.subscribe(scope, Filter::default(), None, OnSlow::CatchUp).await.expect("room") }
    };
    let mut sessions = vec![
        subscribe(&feed_one, &a).await,
        subscribe(&feed_two, &a).await,
        subscribe(&feed_one, &b).await,
        subscribe(&feed_two, &b).await,
    ];
    for n in 0..5 {
        left.decide(pack_of(&a, &[10 * n + 1, 10 * n + 2])).await;
        right.decide(pack_of(&b, &[10 * n + 1, 10 * n + 2])).await;
    }
    for (session, name) in sessions.iter_mut().zip([&a, &a, &b, &b]) {
        for expected in 1..=10 {
            let (sequence, json) = next(session).await;
            assert_eq!(sequence, expected);
            assert!(json.contains(&format!("\"tenant_id\":\"{name}\"")), "{json}");
        }
    }
    drop(sessions);
    tokio::task::spawn_blocking(move || [feed_one, feed_two].iter().for_each(FeedHandle::close))
        .await
        .expect("closed");
    left.stop().await;
    right.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_behind_the_floor_goes_on_from_the_checkpoint_and_its_sessions_miss_nothing() {
    let mut site = Site::new();
    (site.seals.keep, site.seals.trim_seals, site.seals.checkpoint_seals) = (0, 1, 1);
    let owner = site.owner(0).await;
    let mut feed = None;
    let reader = feed_of(&site, 1, &mut feed);
    let feed = feed.expect("made");
    owner.decide(pack_of("a", &[1])).await;
    until("the first is shown", || reader.shop.view.head(&tenant("a")) == 1).await;
    let mut session = feed.subscribe(scope("a"), Filter::default(), Some(0), OnSlow::CatchUp).await.expect("room");
    assert_eq!(next(&mut session).await.0, 1);
    let sent = pack_of("a", &[2]);
    reader.tail.acknowledged(&tenant("a"), sent.id());
    reader.reach.cut.store(true, Ordering::SeqCst);
    owner.decide(sent).await;
    for n in 3..=30 {
        owner.decide(pack_of("a", &[n])).await;
    }
    let seals = owner.log.seals().clone();
    in_time("trimming", async {
        while seals.floor().await.expect("read") < 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(reader.shop.view.head(&tenant("a")), 1, "it sees nothing");
    reader.reach.cut.store(false, Ordering::SeqCst);
    for expected in 2..=30 {
        assert_eq!(next(&mut session).await.0, expected);
    }
    assert_eq!((reader.shop.view.head(&tenant("a")), reader.tail.counters(&scope("a")).stored), (30, 30));
    // The seal that decided it was never seen here: nobody waits for it.
    in_time("what was sent", reader.tail.until_decided(&tenant("a"), PATIENCE * 10)).await;
    drop(session);
    tokio::task::spawn_blocking(move || feed.close()).await.expect("closed");
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_starts_while_a_store_is_behind_shows_what_that_store_has() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let early = site.reader(1);
    owner.decide(pack_of("a", &[1, 2])).await;
    owner.decide(pack_of("b", &[1])).await;
    until("shown", || early.shop.view.head(&tenant("b")) == 1).await;
    site.table.block(true);
    owner.decide(pack_of("a", &[3])).await;
    owner.decide(pack_of("c", &[1])).await;
    until("seen", || early.tail.counters(&scope("c")).stored == 1).await;
    let late = site.reader(1);
    until("seen", || late.tail.counters(&scope("c")).stored == 1).await;
    let heads = |reader: &Reader| ["a", "b", "c"].map(|name| reader.shop.view.head(&tenant(name)));
    assert_eq!((heads(&early), heads(&late)), ([2, 1, 0], [2, 1, 0]));
    until("the lag is told", || late.tail.lag(ANALYTICS) > Duration::ZERO).await;
    site.table.block(false);
    for reader in [&early, &late] {
        until("shown", || heads(reader) == [3, 1, 1]).await;
    }
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_see_the_seals_answers_nothing_and_what_it_answers_obeys_the_erasures_of_others() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let (one, two) = (site.reader(1), site.reader_with(1, quick_with(Duration::from_millis(300))));
    owner.decide(pack_of("a", &[1, 2, 3])).await;
    for reader in [&one, &two] {
        until("shown", || reader.shop.view.head(&tenant("a")) == 3).await;
    }
    let counting = owner.count(&one);
    two.reach.cut.store(true, Ordering::SeqCst);
    let eraser = crate::lifecycle::erasure::Eraser::remote(Arc::new(Orderly::to(&owner)), one.tail.clone());
    let hidden = in_time("hidden", eraser.erase(&scope("a"), ErasureKind::Cleanup, i64::MAX))
        .await
        .expect("ordered");
    // From here on nobody is shown a row. The other process does not know that.
    assert_eq!(two.shop.rows(&tenant("a")).len(), 3);
    assert!(matches!(two.rows("a").await, Err(StoreError::Behind)), "so it answers nothing");
    assert_eq!(one.rows("a").await.expect("it reads"), 0);
    assert_eq!(in_time("counting", hidden.rows()).await, Ok(3));
    two.reach.cut.store(false, Ordering::SeqCst);
    in_time("it comes back", async {
        loop {
            match two.rows("a").await {
                Ok(rows) => return assert_eq!(rows, 0),
                Err(error) => assert!(matches!(error, StoreError::Behind)),
            }
        }
    })
    .await;
    until("usage", || two.tail.counters(&scope("a")).erased == 3).await;
    eraser.stop().await;
    counting.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_process_looks_again_before_it_answers() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let slow = TailSettings {
        idle: PATIENCE,
        poll: PATIENCE,
        ..quick()
    };
    let (one, two) = (site.reader(1), site.reader_with(1, slow));
    until("started", || two.shop.view.ready()).await;
    for n in 1..=20 {
        let pack = pack_of("a", &[n]);
        let stored = one.tail.decided(pack.id(), PATIENCE);
        owner.decide(pack).await;
        in_time("wait=stored", stored).await.expect("decided");
        assert_eq!(
            two.rows("a").await.expect("it reads"),
            n as u64,
            "what one process says to be stored, the other shows"
        );
    }
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_another_process_began_is_whole_or_refused() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let (one, two) = (site.reader(1), site.reader_with(1, quick_with(Duration::from_millis(300))));
    owner.decide(pack_of("a", &[1, 2])).await;
    for reader in [&one, &two] {
        until("shown", || reader.shop.view.head(&tenant("a")) == 2).await;
    }
    let pinned = |upto| ListQuery {
        upto: Some(upto),
        ..ListQuery::default()
    };
    // The number that a cursor or an export of the other process names.
    let page = two.fresh().list(&scope("a"), pinned(2)).await.expect("it reads");
    assert_eq!((page.as_of, page.entries.len()), (2, 2));
    assert!(
        matches!(two.fresh().list(&scope("a"), pinned(3)).await, Err(StoreError::Behind)),
        "the third is not shown here"
    );
    owner.decide(pack_of("a", &[3])).await;
    until("shown", || one.shop.view.head(&tenant("a")) == 3).await;
    let page = two.fresh().list(&scope("a"), pinned(3)).await.expect("it looks again");
    assert_eq!((page.as_of, page.entries.len()), (3, 3));
    assert!(two.fresh().refreshed(&scope("a")).await.is_ok());
    two.reach.cut.store(true, Ordering::SeqCst);
    assert!(matches!(two.fresh().refreshed(&scope("a")).await, Err(StoreError::Behind)));
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_to_be_done_is_told_when_no_process_contradicts_it_any_more() {
    let site = Site::new();
    let owner = site.owner(0).await;
    let settings = TailSettings {
        fresh_for: Duration::from_secs(2),
        ..quick_with(Duration::from_millis(300))
    };
    let (one, two) = (site.reader_with(1, settings), site.reader_with(1, settings));
    owner.decide(pack_of("a", &[1, 2, 3])).await;
    for reader in [&one, &two] {
        until("shown", || reader.head("a") == 3).await;
    }
    let counting = owner.count(&one);
    // From here on the other process answers by what it saw last, as long as that is young enough.
    let deaf = async |rows| {
        loop {
            two.reach.cut.store(false, Ordering::SeqCst);
            in_time("a look", two.tail.refreshed(&tenant("a"))).await.unwrap_or(());
            two.reach.cut.store(true, Ordering::SeqCst);
            if let Ok(found) = two.rows("a").await {
                return assert_eq!(found, rows, "young enough");
            }
        }
    };
    deaf(3).await;
    let pack = pack_of("a", &[4]);
    let stored = one.tail.decided(pack.id(), PATIENCE);
    owner.decide(pack).await;
    in_time("wait=stored", stored).await.expect("decided");
    assert!(matches!(two.rows("a").await, Err(StoreError::Behind)), "it lacks what was said to be stored");
    deaf(4).await;
    let eraser = crate::lifecycle::erasure::Eraser::remote(Arc::new(Orderly::to(&owner)), one.tail.clone());
    let hidden = in_time("hidden", eraser.erase(&scope("a"), ErasureKind::Cleanup, i64::MAX)).await;
    assert!(matches!(two.rows("a").await, Err(StoreError::Behind)), "it has what was said to be erased");
    assert_eq!(in_time("counting", hidden.expect("ordered").rows()).await, Ok(4));
    eraser.stop().await;
    counting.stop().await;
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lacks_trimmed_seals_is_not_read_until_it_has_everything_again() {
    let mut site = Site::new();
    (site.seals.keep, site.seals.trim_seals, site.seals.checkpoint_seals) = (0, 1, 1);
    let owner = site.owner(0).await;
    for n in 1..=20 {
        owner.decide(pack_of("a", &[n])).await;
    }
    let seals = owner.log.seals().clone();
    in_time("trimming", async {
        while seals.floor().await.expect("read") < 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let reach = site.reach();
    let tail = Tail::start(vec![site.seals_of(&reach, 0)], &[ANALYTICS, SEARCH], None, quick());
    let (record, search) = (tail.view(ANALYTICS), tail.view(SEARCH));
    until("the record is shown", || record.ready() && record.head(&tenant("a")) == 20).await;
    assert!(!search.ready(), "nobody knows what it has");
    // It was filled from the record.
    seals.cursors().save(SEARCH, 20).await.expect("saved");
    until("it is read again", || search.ready() && search.head(&tenant("a")) == 20).await;
    tail.stop().await;
    owner.stop().await;
}
