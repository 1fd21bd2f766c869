//! Dead letters: what was accepted and could not be stored, with the reason and the original. A store like the others: it
//! follows the seals in order, writes one object per (seal, tenant), and the log is not trimmed before it has.
//!
//! A seal decides what is a dead letter, so what is written is a function of the seal and its packs (`letter`): submitting a seal
//! again, also after a restart, makes the same keys and the same bytes, and an object that is there already is left alone.
//!
//! `submit` renders and queues; one task writes, in order, and tries again for ever with back-off. The queue is bounded in
//! bytes; at the bound the submitter waits. What is queued can be read already. Letters that were replayed or deleted, or are
//! older than the tenant keeps them, go by `removal`; tenants that were deleted have none (`retired`).
//!
//! # Object `deadletters/<tenant>/<name>.json`, format 2
//!
//! The name says how many letters of which kind there are (`name`). Contents: `{"format": 2, "dead_letters": [...], "hashes":
//! [...]}`, both sorted by the letters' ids: each letter as the HTTP contract shows it, and the content hash of its entry as it
//! was sent, 32 hexadecimal digits. Format 1 was never released.
//! An access log's letters lie in `deadletters/_access/<tenant>/`.
//!
//! What foreign queues bring and is no entry has letters too (`foreign`); they come by no seal and are in no counter.
//!
//! A letter's id is a UUIDv8: 48 bits `t`, then bits of XXH3-128 over (n, pack id, index in the pack). It carries the time
//! and not n, which counts what all tenants do.

mod foreign;
mod letter;
mod name;
mod removal;
mod retired;
mod shelf;

pub use foreign::{ForeignLetter, ForeignMessage};
pub use letter::{DeadLetter, Reason};
pub use name::LetterFilter;

use crate::{
    model::{
        entry::ContentHash,
        tenant::{TenantId, TenantScope},
    },
    objects::{Key, ObjectError, Objects, Precondition},
    seal::DecidedSeal,
};
use bytes::Bytes;
use letter::{letter_of, stamp, time_of};
use name::{Bundle, FOLDER, Place};
use serde::{Deserialize, Serialize};
use shelf::{Bundles, Shelves};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

const FORMAT: u32 = 2;
/// Rendered letters that may wait to be written. Conflicts are rare; a flood of them is to slow the sealing down, not to
/// fill the memory.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Some of a tenant's dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterPage {
    /// The letters of the page, by id.
    pub data: Vec<DeadLetter>,
    /// How many match.
    pub total: u64,
}

/// A letter, and what it takes to replay or remove it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The letter.
    pub letter: DeadLetter,
    /// The content hash of its entry as it was sent.
    pub hash: ContentHash,
    bundle: Arc<Bundle>,
    /// Its place among the letters of its seal.
    index: usize,
}

/// The store of dead letters. Cheap to clone; its task ends with the last clone.
#[derive(Clone)]
pub struct DeadLetters(Arc<Owner>);

/// What the clones share; the task holds only [`Shared`], so that it can be ended when the last clone is gone.
struct Owner {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    objects: Arc<dyn Objects>,
    queue: Mutex<Queue>,
    room: Condvar,
    work: Notify,
    settled: watch::Sender<u64>,
    shelves: Shelves,
    /// Tenants whose letters are not written: see `retired`.
    forgotten: Mutex<HashSet<TenantId>>,
    capacity: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

/// One seal with dead letters, and the seals without any that follow it.
struct Job {
    /// The largest seal that is settled when this is written.
    settles: u64,
    bytes: usize,
    objects: Arc<[Object]>,
}

struct Object {
    tenant: TenantId,
    key: Key,
    bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    dead_letters: Vec<DeadLetter>,
    hashes: Vec<String>,
}

impl super::DeadLetterSink for DeadLetters {
    fn submit(&self, seal: &Arc<DecidedSeal>) {
        Self::submit(self, seal);
    }
}

impl DeadLetters {
    /// Starts the task that writes; `settled` is the largest seal whose letters are known to be written. Must be called
    /// inside a tokio runtime.
    pub fn open(objects: Arc<dyn Objects>, settled: u64) -> Self {
        Self::with_capacity(objects, settled, QUEUE_BYTES, Shelves::default())
    }

    /// The same where other processes write, replay and delete letters too: every question lists the objects. One that writes
    /// ([`DeadLetters::submit`]) is for the seals of one partition, and `settled` is that partition's cursor.
    pub fn shared(objects: Arc<dyn Objects>, settled: u64) -> Self {
        Self::with_capacity(objects, settled, QUEUE_BYTES, Shelves::none())
    }

    fn with_capacity(objects: Arc<dyn Objects>, settled: u64, capacity: usize, shelves: Shelves) -> Self {
        let shared = Arc::new(Shared {
            objects,
            queue: Mutex::default(),
            room: Condvar::new(),
            work: Notify::new(),
            settled: watch::Sender::new(settled),
            shelves,
            forgotten: Mutex::default(),
            capacity,
        });
        let task = tokio::spawn(write_all(shared.clone())).abort_handle();
        Self(Arc::new(Owner { shared, task }))
    }

    /// Takes over the letters of a seal; seals come in order. Does no I/O; blocks its thread while the queue is full, so it
    /// must not be called from async code. After [`DeadLetters::close`] it does nothing.
    pub fn submit(&self, seal: &Arc<DecidedSeal>) {
        let shared = &self.0.shared;
        let mut objects = objects_of(seal);
        shared.leave_out(seal, &mut objects);
        let bytes = objects.iter().map(|o| o.bytes.len()).sum::<usize>();
        let full = |queue: &mut Queue| !queue.closed && queue.bytes > 0 && queue.bytes + bytes > shared.capacity;
        let mut queue = shared.room.wait_while(shared.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return;
        }
        match queue.jobs.back_mut() {
            None if objects.is_empty() => settle(&shared.settled, seal.seal.n),
            Some(last) if objects.is_empty() => last.settles = seal.seal.n,
            _ => {
                queue.bytes += bytes;
                let names: Vec<_> = objects.iter().map(|object| (object.tenant.clone(), object.key.clone())).collect();
                queue.jobs.push_back(Job {
                    settles: seal.seal.n,
                    bytes,
                    objects: objects.into(),
                });
                drop(queue);
                for (tenant, key) in names {
                    shared.shelves.add(&tenant, key);
                }
                shared.work.notify_one();
            }
        }
    }

    /// The largest seal whose letters, and those of all seals before it, are durable.
    pub fn settled(&self) -> watch::Receiver<u64> {
        self.0.shared.settled.subscribe()
    }

    /// Waits until everything submitted is durable. Cancel-safe.
    pub async fn drained(&self) {
        let mut settled = self.settled();
        while !self.0.shared.lock().jobs.is_empty() {
            // Cannot fail while `self` holds the sender. A job leaves the queue before this tells of it.
            let _ = settled.changed().await;
        }
    }

    /// Takes no more seals and lets go whoever waits for room. What was not written is made again from the log.
    pub fn close(&self) {
        self.0.shared.lock().closed = true;
        self.0.shared.room.notify_all();
    }

    /// One page of the tenant's letters that match, sorted by id, with those that are not written yet. Reads no more objects than the
    /// page has letters, unless it is asked for entries by id, which a few bits of each stand for in the names.
    pub async fn list(&self, scope: &TenantScope, filter: &LetterFilter, skip: u64, limit: usize) -> Result<DeadLetterPage, ObjectError> {
        let mut page = DeadLetterPage::default();
        for moment in self.ask(scope, |bundles| moments(bundles, filter, skip, limit)).await? {
            let Moment { bundles, known } = moment;
            let room = limit - page.data.len();
            let letters = if bundles.is_empty() {
                known
            } else {
                let mut all = self.read(scope, &bundles).await?;
                all.retain(|found| filter.matches(&found.letter));
                let from = usize::try_from(skip.saturating_sub(page.total)).unwrap_or(usize::MAX);
                let letters = all.len() as u64;
                page.data.extend(all.into_iter().skip(from).take(room).map(|found| found.letter));
                letters
            };
            page.total += letters;
        }
        Ok(page)
    }

    /// One letter of a tenant.
    pub async fn find(&self, scope: &TenantScope, id: Uuid) -> Result<Option<Found>, ObjectError> {
        let sealed_at = time_of(id);
        let of_that_time = Place { sealed_at, n: 0 }..=Place { sealed_at, n: u64::MAX };
        let bundles: Vec<Bundle> = self
            .ask(scope, |bundles| bundles.range(of_that_time).map(|(_, bundle)| bundle.clone()).collect())
            .await?;
        Ok(self.read(scope, &bundles).await?.into_iter().find(|found| found.letter.id == id))
    }

    /// What `ask` says of the tenant's bundles, written or waiting.
    async fn ask<T>(&self, scope: &TenantScope, ask: impl FnOnce(&Bundles) -> T) -> Result<T, ObjectError> {
        let shared = &self.0.shared;
        let list = || async {
            // Those that wait are looked at first: what is written meanwhile is then seen twice, not never.
            let mut keys: Vec<Key> = shared.waiting(scope).map_keys();
            keys.extend(shared.objects.list(&format!("{FOLDER}/{}", scope.tenant().folder())).await?);
            Ok(keys)
        };
        shared.shelves.ask(scope.tenant(), list, ask).await
    }

    /// All letters that are left in these bundles, by id.
    async fn read(&self, scope: &TenantScope, bundles: &[Bundle]) -> Result<Vec<Found>, ObjectError> {
        let damaged = |what: String| ObjectError::Io(format!("a dead letter object is damaged: {what}").into());
        let mut all = Vec::new();
        for bundle in bundles.iter().filter(|bundle| bundle.is_live()) {
            let Some(name::Letters { key, .. }) = &bundle.letters else { continue };
            let bytes = match self.0.shared.waiting(scope).find(key) {
                Some(bytes) => Some(bytes),
                None => self.0.shared.objects.get(key).await?.map(|(bytes, _)| bytes),
            };
            // It may have been removed since its name was read.
            let Some(bytes) = bytes else { continue };
            let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
            if stored.format != FORMAT {
                return Err(damaged(format!("format {} is not known to this version", stored.format)));
            }
            let shared = Arc::new(bundle.clone());
            for (index, (letter, hash)) in stored.dead_letters.into_iter().zip(stored.hashes).enumerate() {
                if bundle.gone.contains_key(&index) {
                    continue;
                }
                let hash = ContentHash::from_str_radix(&hash, 16).map_err(|e| damaged(e.to_string()))?;
                all.push(Found {
                    letter,
                    hash,
                    bundle: shared.clone(),
                    index,
                });
            }
        }
        all.sort_unstable_by_key(|found| found.letter.id);
        Ok(all)
    }
}

/// Letters that were decided in the same millisecond, whose ids are mixed.
struct Moment {
    /// Those to be read; none if the number is known and none of them is on the page.
    bundles: Vec<Bundle>,
    known: u64,
}

/// What must be read for a page, and what need not be.
fn moments(bundles: &Bundles, filter: &LetterFilter, skip: u64, limit: usize) -> Vec<Moment> {
    let mut moments = Vec::<Moment>::new();
    let mut passed = 0;
    let wanted: Vec<&Bundle> = bundles.values().filter(|bundle| filter.reaches(bundle.place)).collect();
    for moment in wanted.chunk_by(|a, b| a.place.sealed_at == b.place.sealed_at) {
        let known = moment.iter().map(|bundle| bundle.matching(filter)).sum::<Option<u64>>();
        let shown = known.is_none_or(|letters| letters > 0 && passed + letters > skip && passed < skip.saturating_add(limit as u64));
        let known = known.unwrap_or(0);
        passed += known;
        match moments.last_mut() {
            Some(last) if !shown && last.bundles.is_empty() => last.known += known,
            _ => moments.push(Moment {
                bundles: if shown {
                    moment.iter().map(|bundle| (*bundle).clone()).collect()
                } else {
                    Vec::new()
                },
                known,
            }),
        }
    }
    moments
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every change of the queue is a single step, so a panic elsewhere leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tenant's objects that wait to be written.
    fn waiting(&self, scope: &TenantScope) -> Waiting {
        let queue = self.lock();
        let objects = queue.jobs.iter().flat_map(|job| job.objects.iter());
        Waiting(
            objects
                .filter(|o| o.tenant == *scope.tenant())
                .map(|o| (o.key.clone(), o.bytes.clone()))
                .collect(),
        )
    }
}

struct Waiting(Vec<(Key, Bytes)>);

impl Waiting {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn map_keys(self) -> Vec<Key> {
        self.0.into_iter().map(|(key, _)| key).collect()
    }

    fn find(self, key: &Key) -> Option<Bytes> {
        self.0.into_iter().find(|(k, _)| k == key).map(|(_, bytes)| bytes)
    }
}

fn settle(settled: &watch::Sender<u64>, n: u64) {
    // Told even when it is no news (a seal submitted again): `drained` waits for it.
    settled.send_modify(|at| *at = n.max(*at));
}

/// The task: writes the jobs one after the other.
async fn write_all(shared: Arc<Shared>) {
    loop {
        let next = shared.lock().jobs.front().map(|job| job.objects.clone());
        let Some(objects) = next else {
            shared.work.notified().await;
            continue;
        };
        for object in objects.iter() {
            write(&shared, object).await;
        }
        let mut queue = shared.lock();
        let job = queue.jobs.pop_front().expect("only this task takes jobs out");
        queue.bytes -= job.bytes;
        settle(&shared.settled, job.settles);
        shared.room.notify_all();
    }
}

async fn write(shared: &Shared, object: &Object) {
    let mut pause = FIRST_RETRY;
    while !shared.is_forgotten(object) {
        let removals = shared.shelves.removals();
        match shared.objects.put(&object.key, object.bytes.clone(), Precondition::Absent).await {
            // Conflict: it was written before, from the same seal, so with the same contents.
            // Told once more: a removal that was faster has deleted what was not there yet.
            Ok(_) | Err(ObjectError::Conflict) => return shared.shelves.written(&object.tenant, object.key.clone(), removals),
            Err(error) => tracing::warn!(%error, retry_after = ?pause, "dead letters cannot be written; trimming of the log waits for them"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

fn objects_of(seal: &DecidedSeal) -> Vec<Object> {
    let mut by_tenant: BTreeMap<&TenantId, Vec<(DeadLetter, ContentHash)>> = BTreeMap::new();
    for decided in seal.entries() {
        if let Some(letter) = letter_of(seal, &decided) {
            by_tenant.entry(decided.pack.tenant()).or_default().push(letter);
        }
    }
    let place = Place {
        sealed_at: stamp(seal),
        n: seal.seal.n,
    };
    let to_object = |(tenant, mut letters): (&TenantId, Vec<(DeadLetter, ContentHash)>)| {
        letters.sort_unstable_by_key(|(letter, _)| letter.id);
        let (dead_letters, hashes): (Vec<_>, Vec<_>) = letters.into_iter().map(|(letter, hash)| (letter, format!("{hash:032x}"))).unzip();
        Object {
            tenant: tenant.clone(),
            key: name::letters(tenant, place, &dead_letters),
            bytes: serde_json::to_vec(&Stored {
                format: FORMAT,
                dead_letters,
                hashes,
            })
            .expect("letters always encode")
            .into(),
        }
    };
    by_tenant.into_iter().map(to_object).collect()
}

#[cfg(test)]
pub(crate) mod tests;
