//! A fault at every call: each file operation of a fixed life fails, one at a time and several in a row, with an error that passes.
//!
//! The life is short and has everything that writes: packs over several segments, seals, flushes, dead letters, an erasure, trimming.
//! It is lived once to count its calls of each kind, and then once for each of them. A process that goes on after the fault must take
//! entries again by itself; one that ends itself must find everything at its next start, whether the machine lost power meanwhile or
//! not. Nothing that was acknowledged is lost, nothing that was refused (503) is kept, numbers are dense, counters exact, and a passing
//! error is never taken for damage. Threads race, so the call of an index is not always the same one; each is met all the same.

use super::*;
use crate::{
    fs::sim::{Call, Fault},
    queue::AcceptError,
};
use std::{io, ops::ControlFlow, time::Duration};

/// Packs of a life; about seven of these fill a segment.
const PACKS: u64 = 14;
/// Nothing waits as long as this, unless it waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a tenant was told in such a life.
#[derive(Clone)]
struct Told {
    client: Client,
    /// Nothing of these may be kept.
    refused: BTreeSet<Uuid>,
}

impl Told {
    fn new() -> Self {
        Self {
            client: Client::new("a", 1),
            refused: BTreeSet::new(),
        }
    }

    /// Sends one pack; whether it was acknowledged.
    async fn send(&mut self, life: &Life, ids: Vec<Uuid>, text: char) -> bool {
        let client = &mut self.client;
        client.tried.extend(&ids);
        client.entries_tried += ids.len() as u64;
        match life.queue.accept(pack(&client.tenant, &ids, text, 20_000), None).await {
            Ok(_) => {
                client.acked.extend(&ids);
                client.entries_acked += ids.len() as u64;
                return true;
            }
            Err(AcceptError::Unknown) => {}
            Err(AcceptError::TenantFull { .. } | AcceptError::Unavailable { .. }) => {
                client.entries_tried -= ids.len() as u64;
                self.refused.extend(ids.iter().filter(|id| !client.acked.contains(id)));
            }
        }
        false
    }

    fn new_ids(&mut self, n: u128) -> Vec<Uuid> {
        let from = self.client.next_id;
        self.client.next_id += n;
        (from..self.client.next_id).map(Uuid::from_u128).collect()
    }

    /// Erases the oldest entries, once everything is decided. Breaks off with a process that has ended.
    async fn erase(&mut self, life: &Life) -> ControlFlow<()> {
        let scope = TenantScope::new(self.client.tenant.clone());
        let client = &mut self.client;
        while life.queue.counters(&scope).pending > 0 {
            go_on(life).await?;
        }
        let first_kept = client.next_id / 2;
        let kept = client.acked.split_off(&Uuid::from_u128(first_kept));
        let erased = std::mem::replace(&mut client.acked, kept);
        let mut asked = std::pin::pin!(life.eraser.erase(&scope, ErasureKind::Cleanup, EPOCH + first_kept as i64));
        loop {
            match (&mut asked).now_or_never() {
                Some(Ok(_)) => client.gone.extend(erased),
                Some(Err(_)) => {}
                None => {
                    go_on(life).await?;
                    continue;
                }
            }
            return ControlFlow::Continue(());
        }
    }
}

/// Lets the others run, unless the process has ended.
async fn go_on(life: &Life) -> ControlFlow<()> {
    if life.has_ended() {
        return ControlFlow::Break(());
    }
    tokio::task::yield_now().await;
    ControlFlow::Continue(())
}

async fn try_flush(life: &Life) -> bool {
    let store = life.store.clone();
    let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
    flushed.expect("no panic").is_ok()
}

/// The fixed life. It breaks off when the process ends itself.
async fn live(life: &Life, told: &mut Told) -> ControlFlow<()> {
    for turn in 0..PACKS {
        let known: Vec<Uuid> = told.client.acked.iter().next_back().copied().into_iter().collect();
        match turn {
            4 | 9 | 12 => drop(try_flush(life).await),
            6 => told.erase(life).await?,
            5 if !known.is_empty() => drop(told.send(life, known, 'x').await), // a duplicate
            7 if !known.is_empty() => drop(told.send(life, known, 'y').await), // a conflict, so a dead letter
            _ => {}
        }
        let ids = told.new_ids(6);
        told.send(life, ids, 'x').await;
        if life.has_ended() {
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

/// After the fault has passed: the process takes entries again, decides them, flushes, and everything is right.
async fn recover(life: &Life, told: &mut Told) -> ControlFlow<()> {
    loop {
        go_on(life).await?;
        let ids = told.new_ids(2);
        if told.send(life, ids, 'x').await {
            break;
        }
    }
    while life.queue.undecided().1 > 0 {
        go_on(life).await?;
    }
    while !try_flush(life).await {
        go_on(life).await?;
    }
    ControlFlow::Continue(())
}

async fn judge_all(life: &Life, told: &mut Told, what: &str) {
    life.until_decided().await;
    check(life, &mut told.client, false, what).await;
    let shown: BTreeSet<Uuid> = numbers(life, &told.client).await.into_values().collect();
    let kept = told.refused.intersection(&shown).count();
    assert_eq!(kept, 0, "{what}: {kept} entries were refused and are there");
}

/// Lives with a fault, then starts again on what each kind of end leaves. Whether the process went on.
async fn with_fault(call: Call, fault: Fault) -> bool {
    let what = format!("{call:?} {fault:?}");
    let (fs, settings, mut told) = (SimFs::new(), settings("1MiB"), Told::new());
    register(&fs, &settings, &told.client.tenant).await;
    fs.fail(call, fault);
    let mut went_on = false;
    if let Ok(life) = Life::begin(&fs, &settings).await {
        went_on = live(&life, &mut told).await.is_continue() && {
            fs.heal();
            recover(&life, &mut told).await.is_continue()
        };
        if went_on {
            judge_all(&life, &mut told, &what).await;
        }
        life.end().await;
    }
    fs.heal();
    // Where the machine went on, what is in its memory is written by the next start, and power may go then.
    for modes in [[CrashMode::Lose, CrashMode::Lose], [CrashMode::Keep, CrashMode::Lose]] {
        let (mut fs, mut told) = (fs.crash(0, modes[0]), told.clone());
        for mode in modes {
            let what = format!("{what}, then {mode:?} of {modes:?}");
            let life = Life::begin(&fs, &settings).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(life.health.damage(), [], "{what}: a passing error was taken for damage");
            judge_all(&life, &mut told, &what).await;
            assert!(recover(&life, &mut told).await.is_continue(), "{what}: no error, and it ended");
            judge_all(&life, &mut told, &what).await;
            let next = fs.crash(0, mode);
            life.end().await;
            fs = next;
        }
    }
    went_on
}

/// How many calls of each kind a life has that nothing happens to.
async fn calls() -> [usize; Call::ALL.len()] {
    let (fs, settings, mut told) = (SimFs::new(), settings("1MiB"), Told::new());
    register(&fs, &settings, &told.client.tenant).await;
    let before = Call::ALL.map(|call| fs.calls(call));
    let life = Life::begin(&fs, &settings).await.expect("it starts");
    assert!(live(&life, &mut told).await.is_continue());
    judge_all(&life, &mut told, "nothing fails").await;
    life.end().await;
    let mut counted = Call::ALL.map(|call| fs.calls(call));
    counted.iter_mut().zip(before).for_each(|(all, before)| *all -= before);
    assert!(!told.client.gone.is_empty() && told.refused.is_empty(), "it erases, and nothing is refused");
    counted
}

async fn at_each(call: Call, faults: &[(usize, io::ErrorKind, usize)]) {
    let n = calls().await[call as usize];
    assert!(n > 0, "the life has no call of {call:?}");
    let mut went_on = 0;
    for after in 0..n {
        for (count, error, kept) in faults.iter().copied() {
            let fault = Fault { after, count, error, kept };
            let done = tokio::time::timeout(PATIENCE, with_fault(call, fault)).await;
            went_on += usize::from(done.unwrap_or_else(|_| panic!("{call:?} {fault:?}: something waits for ever")));
        }
    }
    println!("{call:?}: {n} calls, {} lives, {went_on} went on", n * faults.len());
    assert!(went_on > 0, "no process went on after an error of {call:?} that passed");
}

const EIO: io::ErrorKind = io::ErrorKind::Other;
const ENOSPC: io::ErrorKind = io::ErrorKind::StorageFull;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_fails_at_any_call_loses_nothing() {
    // Nothing, half, or all of it written; once, and so often that the next segment fails too.
    at_each(Call::Write, &[(1, EIO, 4), (1, ENOSPC, 0), (6, EIO, 8)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sync_that_fails_at_any_call_loses_nothing() {
    at_each(Call::Sync, &[(1, EIO, 0), (1, ENOSPC, 0), (6, EIO, 0)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_that_cannot_be_made_changed_or_kept_at_any_call_loses_nothing() {
    for call in [Call::Create, Call::Rename, Call::Remove, Call::SyncDir] {
        at_each(call, &[(1, EIO, 0), (3, ENOSPC, 0)]).await;
    }
}

/// A disk after a life, and every number with its id.
async fn lived() -> (SimFs, Told, BTreeMap<u64, Uuid>) {
    let (fs, settings, mut told) = (SimFs::new(), settings("1MiB"), Told::new());
    register(&fs, &settings, &told.client.tenant).await;
    let life = Life::begin(&fs, &settings).await.expect("it starts");
    assert!(live(&life, &mut told).await.is_continue());
    judge_all(&life, &mut told, "nothing fails").await;
    let before = numbers(&life, &told.client).await;
    let left = fs.crash(0, CrashMode::Keep);
    life.end().await;
    (left, told, before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_that_fails_at_any_call_of_a_start_hides_but_loses_nothing() {
    let (disk, told, before) = lived().await;
    let (mut refused, mut told_of) = (0, 0);
    // A read that fails once is often tried again, in smaller pieces; one that fails for long is not there for this start.
    for (after, count) in (0..).flat_map(|after| [(after, 1), (after, 40)]) {
        let fs = disk.crash(0, CrashMode::Keep);
        fs.fail(Call::Read, Fault { count, ..Fault::once(after) });
        let read = fs.calls(Call::Read);
        let begun = Life::begin(&fs, &settings("1MiB")).await;
        let struck = fs.calls(Call::Read) > read + after;
        fs.heal();
        match begun {
            Err(_) => refused += 1,
            Ok(life) => {
                life.until_decided().await;
                told_of += usize::from(!life.health.damage().is_empty());
                life.end().await;
            }
        }
        if !struck {
            break;
        }
        // The disk can be read again.
        let life = Life::begin(&fs, &settings("1MiB")).await.expect("it starts");
        life.until_decided().await;
        let (shown, what) = (numbers(&life, &told.client).await, format!("{count} reads from {after} on"));
        let ids: BTreeSet<Uuid> = shown.values().copied().collect();
        assert_eq!(ids.len(), shown.len(), "{what}: an id has two numbers");
        assert!(told.client.acked.is_subset(&ids), "{what}: acknowledged entries are lost");
        assert_eq!(told.client.gone.intersection(&ids).count(), 0, "{what}: erased entries are back");
        for (number, id) in &shown {
            assert!(before.get(number).is_none_or(|known| known == id), "{what}: number {number} is used again");
        }
        life.end().await;
    }
    println!("{refused} starts refused, {told_of} told of damage");
    assert!(refused + told_of > 0, "no read of a start failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotten_byte_anywhere_is_told_or_of_no_consequence() {
    let (disk, told, before) = lived().await;
    let files: Vec<PathBuf> = disk.paths().into_iter().filter(|path| !disk.bytes(path).is_empty()).collect();
    let (mut whole, mut hidden, mut refused) = (0, 0, 0);
    for seed in crate::testing::seeds(60) {
        let (mut dice, fs) = (Dice::new(seed), disk.crash(0, CrashMode::Keep));
        let path = &files[dice.below(files.len() as u64) as usize];
        let bytes = fs.bytes(path);
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        let at = dice.below(used + 1);
        let bits = 1 << dice.below(8);
        fs.flip(path, at, bits);
        let what = format!("SLUICE_SEED={seed}: bits {bits:#04x} of byte {at} of {}", path.display());
        let Ok(life) = Life::begin(&fs, &settings("1MiB")).await else {
            refused += 1; // and nobody was told anything wrong
            continue;
        };
        life.until_decided().await;
        let mut shown = numbers(&life, &told.client).await;
        for (number, id) in &shown {
            assert!(before.get(number).is_none_or(|known| known == id), "{what}: number {number} is used again");
        }
        let ids: BTreeSet<Uuid> = shown.values().copied().collect();
        assert_eq!(ids.len(), shown.len(), "{what}: an id has two numbers");
        assert!(ids.is_subset(&told.client.tried), "{what}: entries that nobody sent");
        assert_eq!(told.client.gone.intersection(&ids).count(), 0, "{what}: erased entries are back");
        let is_told = !life.health.damage().is_empty() || life.store.condition(false).lacks_rows;
        assert!(is_told || told.client.acked.is_subset(&ids), "{what}: entries are lost, and nobody was told");
        *(if is_told { &mut hidden } else { &mut whole }) += 1;
        write(&life, &mut told.client.clone(), 3).await;
        shown = numbers(&life, &told.client)
            .await
            .into_iter()
            .filter(|(number, _)| !shown.contains_key(number))
            .collect();
        assert!(
            shown.keys().all(|number| !before.contains_key(number)),
            "{what}: a number is used again: {shown:?}"
        );
        life.end().await;
    }
    println!("{whole} of no consequence, {hidden} told, {refused} starts refused");
}
