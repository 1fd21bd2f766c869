use super::*;
use crate::{
    fs::sim::{CrashMode, SimFs},
    model::{
        pack::{Pack, tests::pack_of},
        time::{DAY_MS, now_ms},
    },
    objects::folder::FolderObjects,
    seal::{Decision, Refusal, Seal, SealPack},
};
use std::{collections::BTreeMap, path::PathBuf, thread};

const SEALED_AT: i64 = 1_700_000_001_000;

fn objects(fs: &SimFs) -> Arc<dyn Objects> {
    Arc::new(FolderObjects::open(Arc::new(fs.clone()), PathBuf::from("/data/objects")).expect("opened"))
}

fn open(fs: &SimFs) -> DeadLetters {
    DeadLetters::open(objects(fs), 0)
}

fn scope(tenant: &str) -> TenantScope {
    TenantScope::new(TenantId::parse(tenant).expect("a tenant id"))
}

/// Seal n over these packs. Entries with an even id are conflicts (or refused, if there is a refusal), the others new.
fn seal(n: u64, sealed_at: i64, packs: Vec<Arc<Pack>>, refusal: Option<Refusal>) -> Arc<DecidedSeal> {
    let bad = if refusal.is_some() { Decision::Refused } else { Decision::Conflict };
    let decide = |pack: &Arc<Pack>| SealPack {
        pack_id: pack.id(),
        tenant: 0,
        positions: Default::default(),
        decisions: pack.entries().map(|e| if e.id().as_u128() % 2 == 0 { bad } else { Decision::New }).collect(),
        refusal,
        first_sequence: 1,
    };
    Arc::new(DecidedSeal {
        seal: Seal {
            n,
            previous_crc: 0,
            owner: Uuid::nil(),
            sealed_at,
            chain_break: false,
            tenants: Vec::new(),
            packs: packs.iter().map(decide).collect(),
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        },
        crc: 0,
        packs,
        encoded_len: 0,
    })
}

fn pack(tenant: &str, ids: &[u128]) -> Arc<Pack> {
    Arc::new(pack_of(tenant, ids))
}

/// A seal whose entries are all conflicts of one tenant; `ids` are even.
pub(crate) fn conflicts(n: u64, sealed_at: i64, tenant: &str, ids: &[u128]) -> Arc<DecidedSeal> {
    seal(n, sealed_at, vec![pack(tenant, ids)], None)
}

/// Submits from a thread of its own, as the sequencer's follower does.
fn submit(letters: &DeadLetters, seals: &[Arc<DecidedSeal>]) -> thread::JoinHandle<()> {
    let (letters, seals) = (letters.clone(), seals.to_vec());
    thread::spawn(move || seals.iter().for_each(|seal| letters.submit(seal)))
}

async fn all(letters: &DeadLetters, tenant: &str) -> Vec<DeadLetter> {
    let page = letters.list(&scope(tenant), &LetterFilter::default(), 0, usize::MAX).await.expect("listed");
    assert_eq!(page.total, page.data.len() as u64);
    assert!(page.data.is_sorted_by_key(|letter| letter.id));
    page.data
}

#[tokio::test]
async fn a_letter_says_what_was_refused_and_why_and_only_to_its_tenant() {
    let fs = SimFs::new();
    let letters = open(&fs);
    let seals = [
        seal(1, SEALED_AT, vec![pack("acme", &[1, 2, 4]), pack("globex", &[6])], None),
        seal(2, SEALED_AT, vec![pack("acme", &[8])], Some(Refusal::Poison)),
        seal(3, SEALED_AT + 1, vec![pack("acme", &[10])], Some(Refusal::TenantDeleted)),
    ];
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    let found = all(&letters, "acme").await;
    let mut reasons: Vec<_> = found.iter().map(|l| (l.entry_id.as_u128(), l.reason.as_str())).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, [(2, "id_conflict"), (4, "id_conflict"), (8, "poison"), (10, "tenant_deleted")]);
    let letter = found.iter().find(|l| l.entry_id.as_u128() == 4).expect("there");
    let entry: serde_json::Value = serde_json::from_str(letter.entry.get()).expect("JSON");
    assert_eq!(
        (&entry["message"], &entry["tenant_id"], &entry["sequence"]),
        (&"entry 2".into(), &"acme".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (letter.actor.as_str(), letter.received_at.as_str(), letter.sealed_at.as_str()),
        ("tester", "2023-11-14T22:13:20.500Z", "2023-11-14T22:13:21.000Z")
    );
    assert_eq!(
        letters.find(&scope("acme"), letter.id).await.expect("read").map(|f| f.letter.entry_id),
        Some(letter.entry_id)
    );
    assert!(
        letters.find(&scope("globex"), letter.id).await.expect("read").is_none(),
        "another tenant's letter is unknown"
    );
    assert!(letters.find(&scope("acme"), Uuid::nil()).await.expect("read").is_none());
    assert_eq!(all(&letters, "globex").await.len(), 1);
    assert!(all(&letters, "initech").await.is_empty());
}

#[tokio::test]
async fn pages_of_any_size_make_up_the_list() {
    let letters = open(&SimFs::new());
    let seals: Vec<_> = (1..=9)
        .map(|n| {
            let ids: Vec<u128> = (0..n as u128 % 4).map(|i| 2 * (100 * n as u128 + i)).collect();
            let sealed_at = SEALED_AT + n as i64 / 3; // three seals to a millisecond
            seal(n, sealed_at, if ids.is_empty() { Vec::new() } else { vec![pack("acme", &ids)] }, None)
        })
        .collect();
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    let whole: Vec<_> = all(&letters, "acme").await.iter().map(|l| l.id).collect();
    assert_eq!(whole.len(), 13);
    for size in 1..=14 {
        let mut paged = Vec::new();
        for skip in (0..whole.len() as u64).step_by(size) {
            let page = letters.list(&scope("acme"), &LetterFilter::default(), skip, size).await.expect("listed");
            assert_eq!(page.total, 13);
            paged.extend(page.data.iter().map(|l| l.id));
        }
        assert_eq!(paged, whole, "pages of {size}");
    }
    assert!(
        letters
            .list(&scope("acme"), &LetterFilter::default(), 13, 5)
            .await
            .expect("listed")
            .data
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_holds_settlement_back_and_hides_nothing() {
    let fs = SimFs::new();
    let letters = open(&fs);
    let mut settled = letters.settled();
    submit(&letters, &[seal(1, SEALED_AT, vec![pack("acme", &[1])], None)])
        .join()
        .expect("no panic");
    assert_eq!(*settled.borrow_and_update(), 1, "a seal without letters is settled at once");
    fs.set_capacity(0);
    let seals = [
        seal(2, SEALED_AT, vec![pack("acme", &[2])], None),
        seal(3, SEALED_AT, vec![pack("acme", &[3])], None),
        seal(4, SEALED_AT + 5, vec![pack("acme", &[4])], None),
        seal(9, SEALED_AT + 6, vec![pack("acme", &[5])], None),
    ];
    submit(&letters, &seals).join().expect("no panic");
    tokio::time::sleep(Duration::from_secs(60)).await; // virtual: many retries
    assert_eq!(*settled.borrow(), 1, "nothing overtakes what is not written");
    assert_eq!(all(&letters, "acme").await.len(), 2, "what waits can be read");
    fs.set_capacity(1 << 30);
    letters.drained().await;
    assert_eq!(*settled.borrow(), 9);
    assert_eq!(all(&open(&fs.crash(0, CrashMode::Lose)), "acme").await.len(), 2);
}

/// Object paths and their bytes.
fn written(fs: &SimFs) -> BTreeMap<PathBuf, Vec<u8>> {
    let objects = fs.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"));
    objects.map(|path| (path.clone(), fs.bytes(&path))).collect()
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_at_any_moment_submitting_again_makes_the_same_letters_once() {
    let packs = [pack("acme", &[2, 4]), pack("globex", &[6]), pack("acme", &[8])];
    let seals = [
        seal(1, SEALED_AT, vec![packs[0].clone(), packs[1].clone()], None),
        seal(2, SEALED_AT, vec![packs[2].clone()], Some(Refusal::Poison)),
    ];
    let calm = SimFs::new();
    let letters = open(&calm);
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    let expected = written(&calm);
    assert_eq!(expected.len(), 3);
    for operations in 0..30 {
        let fs = SimFs::new();
        let letters = open(&fs);
        fs.power_off_after(operations);
        submit(&letters, &seals).join().expect("no panic");
        tokio::time::sleep(Duration::from_secs(1)).await; // virtual: it has done what it can
        let settled = *letters.settled().borrow();
        for (seed, mode) in [(0, CrashMode::Lose), (1, CrashMode::Keep), (2, CrashMode::Tear)] {
            let after = fs.crash(seed, mode);
            let survived = written(&after).len();
            assert!(survived >= [0, 2, 3][settled as usize], "{operations} operations: seal {settled} was settled");
            let again = open(&after);
            submit(&again, &seals).join().expect("no panic");
            again.drained().await;
            assert_eq!(*again.settled().borrow(), 2);
            assert_eq!(written(&after), expected, "{operations} operations");
        }
    }
}

#[tokio::test]
async fn a_submitter_waits_at_the_bound_and_only_there() {
    let fs = SimFs::new();
    let first = seal(1, SEALED_AT, vec![pack("acme", &[2])], None);
    let one = objects_of(&first).iter().map(|o| o.bytes.len()).sum::<usize>();
    let letters = DeadLetters::with_capacity(objects(&fs), 0, 2 * one + one / 2, Shelves::default());
    fs.hold_syncs();
    let seals: Vec<_> = (2..=6).map(|n| seal(n, SEALED_AT, vec![pack("acme", &[2])], None)).collect();
    let room = submit(&letters, &[first, seals[0].clone()]);
    tokio::task::spawn_blocking(move || room.join()).await.expect("no panic").expect("two fit");
    let rest = submit(&letters, &seals[1..]);
    tokio::task::spawn_blocking({
        let fs = fs.clone();
        move || fs.wait_for_held_sync()
    })
    .await
    .expect("no panic");
    let (held, finished) = (letters.0.shared.lock().bytes, rest.is_finished());
    fs.release_syncs(); // before anything can fail: a held sync would keep the test from ending
    assert!(held <= 2 * one + one / 2 && !finished, "a third does not fit");
    tokio::task::spawn_blocking(move || rest.join()).await.expect("no panic").expect("it goes on");
    letters.drained().await;
    assert_eq!((*letters.settled().borrow(), letters.0.shared.lock().bytes), (6, 0));
}

#[tokio::test]
async fn a_seal_larger_than_the_bound_passes_and_closing_lets_the_submitter_go() {
    let fs = SimFs::new();
    let letters = DeadLetters::with_capacity(objects(&fs), 0, 1, Shelves::default());
    let seals: Vec<_> = (1..=3).map(|n| seal(n, SEALED_AT, vec![pack("acme", &[2, 4])], None)).collect();
    submit(&letters, &seals[..1]).join().expect("no panic");
    letters.drained().await;
    fs.hold_syncs();
    let waiting = submit(&letters, &seals[1..]);
    let held = fs.clone();
    tokio::task::spawn_blocking(move || held.wait_for_held_sync()).await.expect("no panic");
    letters.close();
    tokio::task::spawn_blocking(move || waiting.join()).await.expect("no panic").expect("let go");
    fs.release_syncs();
    letters.drained().await;
    assert_eq!(*letters.settled().borrow(), 2, "what was not taken is not settled");
}

#[tokio::test]
async fn the_task_ends_with_the_last_clone() {
    let fs = SimFs::new();
    let shared = objects(&fs);
    let letters = DeadLetters::open(shared.clone(), 0);
    let task = letters.0.task.clone();
    drop(letters.clone());
    assert!(!task.is_finished());
    drop(letters);
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&shared), 1, "nothing of it is left");
}

#[tokio::test]
async fn a_deleted_tenant_has_no_letters_whatever_is_submitted_again() {
    let fs = SimFs::new();
    let before = seal(1, SEALED_AT, vec![pack("acme", &[2]), pack("globex", &[4])], None);
    let after = seal(3, SEALED_AT + 2, vec![pack("acme", &[6]), pack("globex", &[8])], Some(Refusal::TenantDeleted));
    let mut retiring = DecidedSeal::clone(&seal(2, SEALED_AT + 1, Vec::new(), None));
    let untouched = |name| crate::seal::SealTenant {
        tenant: TenantId::parse(name).expect("a tenant id"),
        head: 1,
        void: None,
        stored: 0,
        duplicate: 0,
        dead_lettered: 0,
        accepted: 0,
        bytes: 0,
    };
    retiring.seal.tenants = vec![untouched("other"), untouched("acme")];
    retiring.seal.retired = vec![1];
    let seals = [before, Arc::new(retiring), after];

    let letters = open(&fs);
    submit(&letters, &seals[..1]).join().expect("no panic");
    letters.drained().await;
    assert_eq!(all(&letters, "acme").await.len(), 1);
    submit(&letters, &seals[1..]).join().expect("no panic");
    letters.drained().await;
    assert_eq!(
        (all(&letters, "acme").await.len(), all(&letters, "globex").await.len()),
        (1, 2),
        "none after its seal"
    );
    assert_eq!(*letters.settled().borrow(), 3, "what is not written is settled");
    letters.purge(&scope("acme")).await.expect("purged");
    letters.purge(&scope("acme")).await.expect("again");
    assert_eq!((all(&letters, "acme").await.len(), all(&letters, "globex").await.len()), (0, 2));

    // A start: the seals come again, and it is told who was deleted.
    let letters = open(&fs.crash(0, CrashMode::Lose));
    letters.forget([scope("acme").tenant().clone()]);
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    assert_eq!((all(&letters, "acme").await.len(), all(&letters, "globex").await.len()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_purge_does_not_wait_for_a_letter_that_cannot_be_written() {
    let fs = SimFs::new();
    let letters = open(&fs);
    fs.set_capacity(0);
    submit(&letters, &[seal(1, SEALED_AT, vec![pack("acme", &[2])], None)])
        .join()
        .expect("no panic");
    tokio::time::sleep(FIRST_RETRY / 2).await; // it was tried once
    let purged = tokio::time::timeout(Duration::from_secs(60), letters.purge(&scope("acme"))).await;
    purged.expect("it ends").expect("nothing has to be written for it");
    fs.set_capacity(u64::MAX);
    letters.drained().await;
    assert!(all(&letters, "acme").await.is_empty());
}

/// Which letters there are, by the ids of their entries.
async fn entries(letters: &DeadLetters, tenant: &str) -> Vec<u128> {
    let mut ids: Vec<u128> = all(letters, tenant).await.iter().map(|l| l.entry_id.as_u128()).collect();
    ids.sort_unstable();
    ids
}

async fn found(letters: &DeadLetters, tenant: &str, entry: u128) -> Found {
    let of_entry = LetterFilter {
        entry_ids: vec![Uuid::from_u128(entry)],
        ..LetterFilter::default()
    };
    let page = letters.list(&scope(tenant), &of_entry, 0, 10).await.expect("listed");
    assert_eq!((page.total, page.data.len()), (1, 1), "entry {entry}");
    let id = page.data[0].id;
    letters.find(&scope(tenant), id).await.expect("read").expect("there")
}

async fn remove(letters: &DeadLetters, tenant: &str, entry: u128) {
    let one = found(letters, tenant, entry).await;
    assert!(letters.remove(&scope(tenant), &one).await.expect("removed"));
    assert!(letters.find(&scope(tenant), one.letter.id).await.expect("read").is_none());
}

/// Names of the tenant's objects that end so.
fn names(fs: &SimFs, ending: &str) -> usize {
    fs.paths().iter().filter(|path| path.extension().is_some_and(|e| e == ending)).count()
}

#[tokio::test]
async fn a_removed_letter_stays_removed_however_often_its_seal_is_submitted() {
    let fs = SimFs::new();
    let letters = open(&fs);
    let seals = [
        seal(1, SEALED_AT, vec![pack("acme", &[2, 4, 6]), pack("globex", &[2])], None),
        seal(2, SEALED_AT, vec![pack("acme", &[8])], Some(Refusal::Poison)),
    ];
    submit(&letters, &seals).join().expect("no panic");
    remove(&letters, "acme", 4).await; // perhaps before it is written
    letters.drained().await;
    remove(&letters, "acme", 8).await;
    for _ in 0..2 {
        assert_eq!(entries(&letters, "acme").await, [2, 6]);
        let after = open(&fs.crash(0, CrashMode::Lose));
        submit(&after, &seals).join().expect("no panic");
        after.drained().await;
        assert_eq!(entries(&after, "acme").await, [2, 6], "after a start");
        submit(&letters, &seals).join().expect("no panic");
        letters.drained().await;
    }
    remove(&letters, "acme", 2).await;
    remove(&letters, "acme", 6).await;
    assert_eq!(names(&fs, "json"), 2, "one of seal 2 that was written again, and that of globex");
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    assert_eq!((entries(&letters, "acme").await.len(), entries(&letters, "globex").await), (0, vec![2]));

    // While the log may hold seal 2 the names stay that keep its letter away.
    assert_eq!(letters.sweep(&scope("acme"), 0, 1).await.expect("swept"), 0);
    assert_eq!((names(&fs, "json"), names(&fs, "gone")), (1, 1));
    submit(&letters, &seals[1..]).join().expect("no panic");
    letters.drained().await;
    assert_eq!(entries(&letters, "acme").await.len(), 0);
    assert_eq!(letters.sweep(&scope("acme"), 0, 2).await.expect("swept"), 0);
    assert_eq!((names(&fs, "json"), names(&fs, "gone")), (1, 0), "nothing but globex is left");
}

/// Where other processes write too, one that slept may submit a seal that was trimmed long ago.
#[tokio::test]
async fn what_says_gone_waits_a_day_for_a_process_that_slept() {
    const HOUR: i64 = DAY_MS / 24;
    let fs = SimFs::new();
    let letters = DeadLetters::shared(objects(&fs), 0);
    let seals = [
        conflicts(1, now_ms() - DAY_MS - HOUR, "acme", &[2]),
        conflicts(2, now_ms() - DAY_MS + HOUR, "acme", &[4]),
    ];
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    for entry in [2, 4] {
        remove(&letters, "acme", entry).await;
    }
    assert_eq!(names(&fs, "gone"), 2);
    letters.sweep(&scope("acme"), 0, u64::MAX).await.expect("swept");
    assert_eq!(names(&fs, "gone"), 1, "one of them is more than a day old");
    let sleeper = DeadLetters::shared(objects(&fs), 0);
    submit(&sleeper, &seals[1..]).join().expect("no panic");
    sleeper.drained().await;
    assert_eq!(entries(&letters, "acme").await.len(), 0, "it stays gone");
}

#[tokio::test]
async fn old_letters_go_and_stay_away() {
    let fs = SimFs::new();
    let letters = open(&fs);
    let seals: Vec<_> = (1..=4u64)
        .map(|n| {
            seal(
                n,
                SEALED_AT + n as i64,
                vec![pack("acme", &[20 * n as u128, 20 * n as u128 + 2]), pack("globex", &[2])],
                None,
            )
        })
        .collect();
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    remove(&letters, "acme", 42).await;
    assert_eq!(letters.sweep(&scope("acme"), SEALED_AT + 3, 1).await.expect("swept"), 3);
    assert_eq!(entries(&letters, "acme").await, [60, 62, 80, 82]);
    submit(&letters, &seals[1..]).join().expect("no panic"); // seal 1 is trimmed
    letters.drained().await;
    assert_eq!(
        (entries(&letters, "acme").await, entries(&letters, "globex").await.len()),
        (vec![60, 62, 80, 82], 4)
    );
    assert_eq!(letters.sweep(&scope("acme"), SEALED_AT + 3, 4).await.expect("swept"), 0);
    assert_eq!((names(&fs, "json"), names(&fs, "gone")), (2 + 4, 0));
}

#[tokio::test]
async fn totals_and_pages_follow_filters_and_removals_and_read_only_what_they_show() {
    let fs = SimFs::new();
    let letters = open(&fs);
    let seals: Vec<_> = (1..=40u64)
        .map(|n| {
            let ids: Vec<u128> = (0..n as u128 % 4).map(|i| 2 * (100 * n as u128 + i)).collect();
            let refusal = n.is_multiple_of(3).then_some(Refusal::Poison);
            let packs = if ids.is_empty() { Vec::new() } else { vec![pack("acme", &ids)] };
            seal(n, SEALED_AT + n as i64 / 3, packs, refusal)
        })
        .collect();
    submit(&letters, &seals).join().expect("no panic");
    letters.drained().await;
    for entry in [2 * 500, 2 * 601, 2 * 700, 2 * 701, 2 * 702] {
        remove(&letters, "acme", entry).await;
    }
    let whole = all(&letters, "acme").await;
    let time = |letter: &DeadLetter| crate::model::time::parse_rfc3339(&letter.sealed_at).expect("a time");
    for filter in [
        LetterFilter::default(),
        LetterFilter {
            reasons: vec![Reason::Poison],
            ..LetterFilter::default()
        },
        LetterFilter {
            reasons: vec![Reason::IdConflict],
            from: Some(SEALED_AT + 2),
            to: Some(SEALED_AT + 9),
            ..LetterFilter::default()
        },
        LetterFilter {
            entry_ids: [2 * 500, 2 * 501, 2 * 1102, 2 * 300, 7].map(Uuid::from_u128).to_vec(),
            ..LetterFilter::default()
        },
    ] {
        let wanted: Vec<Uuid> = whole
            .iter()
            .filter(|l| filter.reasons.is_empty() || filter.reasons.contains(&l.reason))
            .filter(|l| filter.entry_ids.is_empty() || filter.entry_ids.contains(&l.entry_id))
            .filter(|l| filter.from.is_none_or(|from| time(l) >= from) && filter.to.is_none_or(|to| time(l) < to))
            .map(|l| l.id)
            .collect();
        assert!(!wanted.is_empty());
        for size in [1, 2, 5, 100] {
            let mut paged = Vec::new();
            for skip in (0..wanted.len() as u64).step_by(size) {
                let page = letters.list(&scope("acme"), &filter, skip, size).await.expect("listed");
                assert_eq!(page.total, wanted.len() as u64, "{filter:?}");
                paged.extend(page.data.iter().map(|l| l.id));
            }
            assert_eq!(paged, wanted, "{filter:?}, pages of {size}");
        }
    }
    // Objects that are not shown are not read: they may even be damaged.
    let page = letters.list(&scope("acme"), &LetterFilter::default(), 20, 3).await.expect("listed");
    let keep: Vec<String> = page.data.iter().map(|l| format!("{:015}-", time(l))).collect();
    for path in fs.paths() {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".json") && !keep.iter().any(|k| name.starts_with(k.as_str())) {
            fs.flip(&path, 0, 1);
        }
    }
    assert!(
        letters.list(&scope("acme"), &LetterFilter::default(), 0, 50).await.is_err(),
        "the damage is seen"
    );
    let again = letters.list(&scope("acme"), &LetterFilter::default(), 20, 3).await.expect("listed");
    assert_eq!(
        again.data.iter().map(|l| l.id).collect::<Vec<_>>(),
        page.data.iter().map(|l| l.id).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_a_removal_leaves_the_letter_or_takes_it_for_good() {
    for ids in [&[2][..], &[2, 4]] {
        let seals = [seal(1, SEALED_AT, vec![pack("acme", ids)], None)];
        for operations in 0..30 {
            let fs = SimFs::new();
            let letters = open(&fs);
            submit(&letters, &seals).join().expect("no panic");
            letters.drained().await;
            fs.power_off_after(operations);
            let mut removed = 0;
            for entry in ids {
                let Ok(page) = letters.list(&scope("acme"), &LetterFilter::default(), 0, 10).await else {
                    break;
                };
                let Some(letter) = page.data.iter().find(|l| l.entry_id.as_u128() == *entry) else {
                    break;
                };
                let Ok(Some(found)) = letters.find(&scope("acme"), letter.id).await else {
                    break;
                };
                if letters.remove(&scope("acme"), &found).await.is_err() {
                    break;
                }
                removed += 1;
            }
            for (seed, mode) in [(0, CrashMode::Lose), (1, CrashMode::Keep), (2, CrashMode::Tear)] {
                let again = open(&fs.crash(seed, mode));
                let before = all(&again, "acme").await.len();
                submit(&again, &seals).join().expect("no panic");
                again.drained().await;
                let left = all(&again, "acme").await.len();
                assert!(left <= ids.len() - removed, "{operations} operations, {removed} removed, {left} left");
                assert!(left + removed + 1 >= ids.len() && left == before, "only one may be in doubt: {operations}");
                // Whatever is there can be removed, and the sweep leaves nothing.
                for letter in all(&again, "acme").await {
                    remove(&again, "acme", letter.entry_id.as_u128()).await;
                }
                again.sweep(&scope("acme"), 0, 1).await.expect("swept");
                assert!(again.ask(&scope("acme"), |bundles| bundles.is_empty()).await.expect("listed"));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_cannot_be_removed_after_its_replay_goes_when_the_disk_works_again() {
    let fs = SimFs::new();
    let letters = open(&fs);
    submit(&letters, &[seal(1, SEALED_AT, vec![pack("acme", &[2])], None)])
        .join()
        .expect("no panic");
    letters.drained().await;
    let one = found(&letters, "acme", 2).await;
    fs.fail_syncs(0, 1);
    letters.remove_in_the_end(&scope("acme"), one).await;
    assert_eq!(entries(&letters, "acme").await, [2]);
    tokio::time::sleep(Duration::from_secs(60)).await; // virtual
    assert!(entries(&letters, "acme").await.is_empty());
}

#[tokio::test]
async fn what_is_kept_of_the_names_is_what_a_list_gives() {
    let fs = SimFs::new();
    let letters = open(&fs);
    let mut dice = crate::fs::sim::Dice::new(5);
    let mut seals = Vec::new();
    for n in 1..=60u64 {
        let ids: Vec<u128> = (0..1 + u128::from(dice.below(3))).map(|i| 2 * (100 * u128::from(n) + i)).collect();
        seals.push(seal(n, SEALED_AT + n as i64 / 2, vec![pack("acme", &ids)], None));
        submit(&letters, &seals[seals.len() - 1..]).join().expect("no panic");
        if dice.chance(30) {
            letters.drained().await;
        }
        for _ in 0..dice.below(4) {
            let there = all(&letters, "acme").await;
            let Some(one) = there.get(dice.below(there.len().max(1) as u64) as usize) else {
                break;
            };
            remove(&letters, "acme", one.entry_id.as_u128()).await;
        }
        let trimmed = n / 2;
        if dice.chance(20) {
            letters.sweep(&scope("acme"), SEALED_AT + trimmed as i64 / 3, trimmed).await.expect("swept");
        }
        if dice.chance(20) {
            submit(&letters, &seals[trimmed as usize..]).join().expect("no panic");
        }
        letters.drained().await;
        let kept: Vec<String> = letters
            .ask(&scope("acme"), |b| b.values().map(|b| format!("{b:?}")).collect())
            .await
            .expect("kept");
        let listed: Vec<String> = open(&fs)
            .ask(&scope("acme"), |b| b.values().map(|b| format!("{b:?}")).collect())
            .await
            .expect("listed");
        assert_eq!(kept, listed, "after seal {n}");
    }
}

#[tokio::test]
async fn what_a_foreign_queue_brought_is_a_letter_once_and_goes_like_the_others() {
    let fs = SimFs::new();
    let letters = open(&fs);
    submit(&letters, &[conflicts(1, SEALED_AT, "acme", &[2])]).join().expect("no panic");
    letters.drained().await;
    let message = ForeignMessage {
        id: Uuid::from_u128(77),
        sent_at: SEALED_AT - 5,
        actor: "billing",
    };
    let part = |index: usize, original: &[u8]| ForeignLetter {
        index,
        entry_id: Uuid::from_u128(index as u128),
        original: original.to_vec(),
        detail: "no entry".into(),
    };
    let scope = scope("acme");
    for _ in 0..2 {
        let parts = vec![part(0, br#"{"a": 1}"#), part(3, b"\xff oops")];
        letters.write_foreign(scope.tenant(), message, parts).await.expect("written");
    }
    let letters = open(&fs);
    let wanted = LetterFilter {
        reasons: vec![Reason::Undecodable],
        ..LetterFilter::default()
    };
    let page = letters.list(&scope, &wanted, 0, 10).await.expect("listed");
    assert_eq!((page.total, all(&letters, "acme").await.len()), (2, 3));
    let entries: Vec<&str> = page.data.iter().map(|letter| letter.entry.get()).collect();
    assert!(entries.contains(&r#"{"a": 1}"#) && entries.contains(&"\"\u{fffd} oops\""), "{entries:?}");
    assert_eq!((page.data[0].detail.as_deref(), page.data[0].actor.as_str()), (Some("no entry"), "billing"));
    for letter in page.data {
        let found = letters.find(&scope, letter.id).await.expect("read").expect("there");
        assert!(letters.remove(&scope, &found).await.expect("removed"));
    }
    assert_eq!(all(&letters, "acme").await.len(), 1);
    letters.sweep(&scope, i64::MIN, 0).await.expect("swept");
    assert_eq!(written(&fs).len(), 1, "what the message was is gone");
    assert!(
        !fs.paths().iter().any(|path| path.extension().is_some_and(|e| e == "gone")),
        "and so are the marks"
    );
    letters.forget([scope.tenant().clone()]);
    letters
        .write_foreign(scope.tenant(), message, vec![part(0, b"x")])
        .await
        .expect("nothing to do");
    assert_eq!(written(&fs).len(), 1, "a deleted tenant gets none");
}
