//! What every log of seals must do, as one suite, run on the embedded log and on objects in memory, in a folder and in S3; then
//! what several owners, readers and stores of a partition may do to each other.

mod contract;
mod format;
mod late;
mod lease;
pub(crate) mod owners;
mod pipeline;

use super::*;
use crate::{
    actors::sequencer::{
        Start,
        core::{Core, Draft, Undecided},
    },
    model::pack::{Pack, tests::pack_of},
    objects::{Objects, Precondition, Version, memory::MemoryObjects},
    queue::{Found, SealLog, SealLogError, SealReader},
    seal::{DecidedSeal, codec},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::smallvec;
use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use uuid::Uuid;

/// Trims as soon as it may, writes a checkpoint for each seal.
fn eager() -> SealsSettings {
    SealsSettings {
        checkpoint_seals: 1,
        keep: 0,
        trim_seals: 1,
        ..SealsSettings::default()
    }
}

fn open(objects: &Arc<dyn Objects>) -> Seals {
    Seals::open(objects.clone(), 0, eager())
}

/// An owner without threads: real decisions, one try for each seal.
struct Owner {
    core: Core,
    writer: Arc<log::Writer>,
    keeper: keeper::Keeper,
}

impl Owner {
    async fn take(seals: &Seals) -> Self {
        let (after, start) = take::read(seals, &|| 0).await.expect("taken");
        let writer = Arc::new(log::Writer::new(seals.clone(), after));
        let mut core = Core::new(Uuid::new_v4(), start.state, start.known, None, 0);
        core.resume(start.window.expect("it is known"), 0);
        let keeper = keeper::Keeper::new(writer.clone());
        Self { core, writer, keeper }
    }

    fn draft(&self, packs: &[Arc<Pack>]) -> (Draft, Bytes) {
        let undecided = packs.iter().map(|pack| Undecided {
            pack: pack.clone(),
            refusal: None,
        });
        let plan = self.core.plan(undecided.collect(), 0);
        let (answers, segment) = (vec![None; plan.lookups.len()], self.core.state().n + 1);
        let draft = self
            .core
            .decide(plan, &answers, 0, &mut |_| smallvec![crate::queue::Position { segment, offset: 0 }]);
        let encoded = codec::encode(&draft.seal).into();
        (draft, encoded)
    }

    async fn seal(&mut self, ids: &[u128]) -> Result<Arc<DecidedSeal>, SealLogError> {
        let (draft, encoded) = self.draft(&[Arc::new(pack_of("a", ids))]);
        self.writer.create(&draft.seal, &encoded, draft.packs()).await?;
        Ok(self.core.adopt(draft, &encoded))
    }
}

/// Names and ranges that were read.
type Reads = Arc<Mutex<Vec<(String, Range<u64>)>>>;

/// Objects that fail when they are told to.
#[derive(Clone, Default)]
pub(crate) struct Flaky {
    memory: MemoryObjects,
    /// So many of the next puts are done, and their answers lost.
    lost: Arc<AtomicUsize>,
    /// So many of the next puts do not arrive.
    pub refused: Arc<AtomicUsize>,
    reads: Reads,
}

fn due(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl Objects for Flaky {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        self.reads.lock().expect("whole").push((key.to_string(), 0..u64::MAX));
        self.memory.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        self.reads.lock().expect("whole").push((key.to_string(), range.clone()));
        self.memory.get_range(key, range)
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let error = || ObjectError::Io("no answer".into());
        if due(&self.refused) {
            return Box::pin(async move { Err(error()) });
        }
        let done = self.memory.put(key, bytes, when);
        if due(&self.lost) {
            return Box::pin(async move { Err(error()) });
        }
        done
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.memory.delete(key)
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.memory.clear(folder)
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        self.memory.list(folder)
    }
}

#[tokio::test]
async fn a_seal_whose_answer_was_lost_is_found_and_one_that_did_not_arrive_is_put_again() {
    let flaky = Flaky::default();
    let seals = open(&(Arc::new(flaky.clone()) as Arc<dyn Objects>));
    let mut owner = Owner::take(&seals).await;
    flaky.lost.store(1, Ordering::SeqCst);
    owner.seal(&[1]).await.expect("its own nonce is there");
    flaky.refused.store(2, Ordering::SeqCst);
    let (draft, encoded) = owner.draft(&[Arc::new(pack_of("a", &[2]))]);
    for doubtful in [true, true, false] {
        let outcome = owner.writer.create(&draft.seal, &encoded, draft.packs()).await;
        assert_eq!(matches!(outcome, Err(SealLogError::Doubtful(_))), doubtful, "{outcome:?}");
        assert_eq!(outcome.is_ok(), !doubtful);
    }
    assert!(matches!(seals.find(2).await, Ok(Found::Seal(seal)) if seal.seal == draft.seal));
}

#[tokio::test]
async fn while_a_seal_is_in_doubt_no_other_one_is_begun() {
    let flaky = Flaky::default();
    let owner = Owner::take(&open(&(Arc::new(flaky.clone()) as Arc<dyn Objects>))).await;
    flaky.refused.store(1, Ordering::SeqCst);
    let ((first, first_bytes), (other, other_bytes)) = (owner.draft(&[Arc::new(pack_of("a", &[1]))]), owner.draft(&[Arc::new(pack_of("a", &[2]))]));
    let doubt = owner.writer.create(&first.seal, &first_bytes, first.packs()).await;
    assert!(matches!(doubt, Err(SealLogError::Doubtful(_))), "{doubt:?}");
    let outcome = owner.writer.create(&other.seal, &other_bytes, other.packs()).await;
    assert!(matches!(outcome, Err(SealLogError::Failed(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_restart_reads_only_the_heads_of_seals_after_the_checkpoint_and_the_cursors() {
    let flaky = Flaky::default();
    let objects: Arc<dyn Objects> = Arc::new(flaky.clone());
    let seals = open(&objects);
    let mut owner = Owner::take(&seals).await;
    for n in 1..=5 {
        // Large packs that do not shrink, so that they lie beyond what is read of a seal at first.
        let ids: Vec<u128> = (0..3000).map(|i| Uuid::new_v4().as_u128() ^ i).collect();
        assert_eq!(owner.seal(&ids).await.expect("sealed").seal.n, n);
        if n == 2 {
            owner.keeper.turn(0, true).await.expect("kept");
        }
    }
    for (store, n) in [(ANALYTICS, 4), (DEAD_LETTERS, 3), (SEARCH, 1)] {
        seals.cursors().save(store, n).await.expect("saved");
    }
    flaky.reads.lock().expect("whole").clear();
    let (after, start) = take::read(&open(&objects), &|| 0).await.expect("taken");
    let reads = flaky.reads.lock().expect("whole").clone();
    let of_seals: Vec<_> = reads.iter().filter(|(key, _)| key.starts_with("seal/")).collect();
    assert!(
        of_seals.iter().all(|(key, range)| key > &seal_key(0, 2).to_string() && range.end < u64::MAX),
        "{of_seals:?}"
    );
    assert_eq!((after.state.n, &after.state), (5, owner.core.state()));
    let Start { replay, window, known, .. } = start;
    assert_eq!(replay.iter().map(|found| found.seal.n).collect::<Vec<_>>(), [4, 5], "what dead letters lack");
    let window: Vec<_> = window.expect("it is known").into_iter().map(|(n, rows)| (n, rows[0].1.len())).collect();
    assert_eq!((window, known.len()), (vec![(5, 3000)], 3), "what analytics lacks");
}

#[tokio::test]
async fn a_zombie_that_creates_a_trimmed_seal_steps_down_and_nobody_reads_it() {
    let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
    let seals = open(&objects);
    let mut zombie = Owner::take(&seals).await;
    let mut owner = Owner::take(&seals).await;
    for n in 1..=4 {
        owner.seal(&[n]).await.expect("sealed");
    }
    for store in [ANALYTICS, DEAD_LETTERS, SEARCH] {
        seals.cursors().save(store, 3).await.expect("saved");
    }
    owner.keeper.turn(0, false).await.expect("kept");
    assert_eq!(seals.floor().await.expect("read"), 3);
    assert!(objects.get(&seal_key(0, 1)).await.expect("read").is_none(), "it is trimmed");
    assert!(matches!(zombie.seal(&[99]).await, Err(SealLogError::Fenced)));
    assert!(objects.get(&seal_key(0, 1)).await.expect("read").is_some(), "the zombie could create it");
    let reader = open(&objects);
    assert!(matches!(reader.find(1).await, Ok(Found::Trimmed)));
    assert!(matches!(reader.head(1).await, Ok(FoundHead::Trimmed)));
    assert!(matches!(reader.find(4).await, Ok(Found::Seal(_))) && matches!(reader.find(5).await, Ok(Found::NotYet)));
    let next = Owner::take(&open(&objects)).await;
    next.keeper.sweep().await;
    assert!(objects.get(&seal_key(0, 1)).await.expect("read").is_none(), "the next owner cleans up");
}

#[tokio::test]
async fn trimming_waits_for_every_store_until_one_is_too_far_behind() {
    let objects: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
    let mut settings = eager();
    let seals = Seals::open(objects.clone(), 0, settings.clone());
    let mut owner = Owner::take(&seals).await;
    for n in 1..=6 {
        owner.seal(&[n]).await.expect("sealed");
    }
    let cursors = seals.cursors();
    for (store, n) in [(ANALYTICS, 5), (DEAD_LETTERS, 4), (SEARCH, 2)] {
        cursors.save(store, n).await.expect("saved");
    }
    owner.keeper.turn(0, false).await.expect("kept");
    assert_eq!(seals.floor().await.expect("read"), 2, "search is the slowest");
    assert!(matches!(open(&objects).find(3).await, Ok(Found::Seal(_))), "and finds what it needs");
    cursors.save(&cursor::pin(SEARCH), 3).await.expect("saved");

    // Five seals are too many and four are not: search is detached, and the pin of its rebuild holds what it needs.
    let (all, before) = (owner.writer.reached().1, seals.header(3).await.expect("read").expect("there").bytes_before);
    settings.max_backlog = (all - before) * 9 / 8;
    let narrow = Seals::open(objects.clone(), 0, settings);
    let mut next = Owner::take(&narrow).await;
    next.seal(&[7]).await.expect("sealed");
    next.keeper.turn(0, true).await.expect("kept");
    assert_eq!(narrow.floor().await.expect("read"), 3, "the pin holds");
    cursors.remove(&cursor::pin(SEARCH)).await.expect("removed");
    next.keeper.turn(0, true).await.expect("kept");
    assert_eq!(narrow.floor().await.expect("read"), 4, "dead letters hold, whatever it costs");
    assert!(matches!(open(&objects).find(3).await, Ok(Found::Trimmed)));
    cursors.save(SEARCH, 6).await.expect("rebuilt");
    for store in [ANALYTICS, DEAD_LETTERS] {
        cursors.save(store, 7).await.expect("saved");
    }
    next.keeper.turn(0, true).await.expect("kept");
    assert_eq!(narrow.floor().await.expect("read"), 6, "it counts again");
}

#[tokio::test]
async fn what_was_made_here_is_read_from_memory_within_its_bound() {
    let flaky = Flaky::default();
    let objects: Arc<dyn Objects> = Arc::new(flaky.clone());
    let settings = SealsSettings { cache_bytes: 600, ..eager() };
    let seals = Seals::open(objects, 0, settings);
    let mut owner = Owner::take(&seals).await;
    let mut tip = seals.tip();
    for n in 1..=8 {
        owner.seal(&[n]).await.expect("sealed");
    }
    assert_eq!(*tip.borrow_and_update(), 8);
    let mut from_memory = Vec::new();
    for n in 1..=8 {
        flaky.reads.lock().expect("whole").clear();
        assert!(matches!(seals.find(n).await, Ok(Found::Seal(seal)) if seal.seal.n == n && seal.packs.len() == 1));
        from_memory.push(flaky.reads.lock().expect("whole").is_empty());
    }
    assert!(!from_memory[0], "the oldest were let go: {from_memory:?}");
    assert!(matches!(seals.find(8).await, Ok(Found::Seal(_))) && flaky.reads.lock().expect("whole").len() <= 2);
}
