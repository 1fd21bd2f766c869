//! Dead letters: what was accepted and could not be stored, with the reason and the original. A store like the others: it
//! follows the seals in order, writes one object per (seal, tenant), and the log is not trimmed before it has.
//!
//! A seal decides what is a dead letter, so everything here is a function of the seal and its packs: submitting a seal
//! again, also after a restart, makes the same keys and the same bytes, and an object that is there already is left alone.
//!
//! `submit` renders and queues; one task writes, in order, and tries again for ever with back-off. The queue is bounded in
//! bytes; at the bound the submitter waits. What is queued can be read already.
//!
//! # Object `deadletters/<tenant>/<t>-<n>-<c>.json`, format 1
//!
//! An access log's letters lie in `deadletters/_access/<tenant>/`. t: `sealed_at` in milliseconds, 15 digits; n: number of the seal, 20 digits; c: how many letters it holds. So a sorted
//! list of names is enough to count, to page and to find a letter by its id. Contents: `{"format": 1, "dead_letters": [...]}`,
//! sorted by id, each as the HTTP contract shows it.
//!
//! A letter's id is a UUIDv8: 48 bits `t`, then bits of XXH3-128 over (n, pack id, index in the pack). It carries the time
//! and not n, which counts what all tenants do.

use crate::{
    model::{
        entry::StoredEntry,
        render,
        tenant::{TenantId, TenantScope},
        time::rfc3339,
    },
    objects::{Key, ObjectError, Objects, Precondition},
    seal::{DecidedEntry, DecidedSeal, Decision, Refusal},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

const FOLDER: &str = "deadletters";
const FORMAT: u32 = 1;
/// Rendered letters that may wait to be written. Conflicts are rare; a flood of them is to slow the sealing down, not to
/// fill the memory.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A dead letter, as the HTTP contract shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its own id.
    pub id: Uuid,
    /// Why: `id_conflict`, `tenant_deleted` or `poison`.
    pub reason: String,
    /// Id of the entry.
    pub entry_id: Uuid,
    /// The entry as it was accepted.
    pub entry: Box<RawValue>,
    /// Who sent it.
    pub actor: String,
    /// When it was accepted, RFC 3339.
    pub received_at: String,
    /// When it was decided, RFC 3339.
    pub sealed_at: String,
}

/// Some of a tenant's dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterPage {
    /// The letters of the page, by id.
    pub data: Vec<DeadLetter>,
    /// How many there are.
    pub total: u64,
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
        Self::with_capacity(objects, settled, QUEUE_BYTES)
    }

    fn with_capacity(objects: Arc<dyn Objects>, settled: u64, capacity: usize) -> Self {
        let shared = Arc::new(Shared {
            objects,
            queue: Mutex::default(),
            room: Condvar::new(),
            work: Notify::new(),
            settled: watch::Sender::new(settled),
            capacity,
        });
        let task = tokio::spawn(write_all(shared.clone())).abort_handle();
        Self(Arc::new(Owner { shared, task }))
    }

    /// Takes over the letters of a seal; seals come in order. Does no I/O; blocks its thread while the queue is full, so it
    /// must not be called from async code. After [`DeadLetters::close`] it does nothing.
    pub fn submit(&self, seal: &Arc<DecidedSeal>) {
        let shared = &self.0.shared;
        let objects = objects_of(seal);
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
                queue.jobs.push_back(Job {
                    settles: seal.seal.n,
                    bytes,
                    objects: objects.into(),
                });
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

    /// One page of a tenant's letters, sorted by id, with those that are not written yet.
    pub async fn list(&self, scope: &TenantScope, skip: u64, limit: usize) -> Result<DeadLetterPage, ObjectError> {
        let names = self.names(scope).await?;
        let mut page = DeadLetterPage {
            data: Vec::new(),
            total: names.iter().map(|n| n.letters).sum(),
        };
        let mut passed = 0;
        for moment in names.chunk_by(|a, b| a.sealed_at == b.sealed_at) {
            let letters = moment.iter().map(|n| n.letters).sum::<u64>();
            if page.data.len() >= limit {
                break;
            }
            if passed + letters > skip {
                let all = self.read(scope, moment).await?;
                let from = skip.saturating_sub(passed) as usize;
                let room = limit - page.data.len();
                page.data.extend(all.into_iter().skip(from).take(room));
            }
            passed += letters;
        }
        Ok(page)
    }

    /// One letter of a tenant.
    pub async fn get(&self, scope: &TenantScope, id: Uuid) -> Result<Option<DeadLetter>, ObjectError> {
        let sealed_at = time_of(id);
        let mut names = self.names(scope).await?;
        names.retain(|name| name.sealed_at == sealed_at);
        Ok(self.read(scope, &names).await?.into_iter().find(|letter| letter.id == id))
    }

    /// The tenant's objects, written or waiting, in order.
    async fn names(&self, scope: &TenantScope) -> Result<Vec<Name>, ObjectError> {
        // Those that wait are looked at first: what is written meanwhile is then seen twice, not never.
        let mut keys: Vec<Key> = self.0.shared.waiting(scope).map_keys();
        keys.extend(self.0.shared.objects.list(&format!("{FOLDER}/{}", scope.tenant().folder())).await?);
        keys.sort_unstable();
        keys.dedup();
        Ok(keys.into_iter().filter_map(Name::parse).collect())
    }

    /// All letters of these objects, by id.
    async fn read(&self, scope: &TenantScope, names: &[Name]) -> Result<Vec<DeadLetter>, ObjectError> {
        let mut letters = Vec::new();
        for name in names {
            let bytes = match self.0.shared.waiting(scope).find(&name.key) {
                Some(bytes) => Some(bytes),
                None => self.0.shared.objects.get(&name.key).await?.map(|(bytes, _)| bytes),
            };
            let Some(bytes) = bytes else { continue };
            let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| ObjectError::Io(format!("a dead letter object is damaged: {e}").into()))?;
            letters.extend(stored.dead_letters);
        }
        letters.sort_unstable_by_key(|letter| letter.id);
        Ok(letters)
    }
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
    loop {
        match shared.objects.put(&object.key, object.bytes.clone(), Precondition::Absent).await {
            // Conflict: it was written before, from the same seal, so with the same contents.
            Ok(_) | Err(ObjectError::Conflict) => return,
            Err(error) => tracing::warn!(%error, retry_after = ?pause, "dead letters cannot be written; trimming of the log waits for them"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// What can be read from an object's name.
struct Name {
    key: Key,
    sealed_at: u64,
    letters: u64,
}

impl Name {
    fn parse(key: Key) -> Option<Self> {
        let mut parts = key.file_name().strip_suffix(".json")?.split('-');
        let (sealed_at, _n, letters) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?.parse().ok()?);
        Some(Self { key, sealed_at, letters })
    }
}

fn objects_of(seal: &DecidedSeal) -> Vec<Object> {
    let mut by_tenant: BTreeMap<&TenantId, Vec<DeadLetter>> = BTreeMap::new();
    for decided in seal.entries() {
        if let Some(letter) = letter_of(seal, &decided) {
            by_tenant.entry(decided.pack.tenant()).or_default().push(letter);
        }
    }
    let to_object = |(tenant, mut dead_letters): (&TenantId, Vec<DeadLetter>)| {
        dead_letters.sort_unstable_by_key(|letter| letter.id);
        let name = format!("{:015}-{:020}-{}.json", stamp(seal), seal.seal.n, dead_letters.len());
        let stored = Stored { format: FORMAT, dead_letters };
        Object {
            tenant: tenant.clone(),
            key: Key::parse(&format!("{FOLDER}/{}/{name}", tenant.folder())).expect("a tenant id and digits make a key"),
            bytes: serde_json::to_vec(&stored).expect("letters always encode").into(),
        }
    };
    by_tenant.into_iter().map(to_object).collect()
}

fn letter_of(seal: &DecidedSeal, decided: &DecidedEntry<'_>) -> Option<DeadLetter> {
    let reason = match (decided.decision, decided.refusal) {
        (Decision::New | Decision::Duplicate, _) => return None,
        (Decision::Conflict, _) => "id_conflict",
        (Decision::Refused, Some(Refusal::TenantDeleted)) => "tenant_deleted",
        (Decision::Refused, Some(Refusal::Poison) | None) => "poison",
    };
    let header = decided.pack.header();
    let entry = StoredEntry {
        record: decided.pack.record(decided.index),
        received_at: header.received_at,
        actor: header.actor.clone(),
        sequence: None,
    };
    let mut json = Vec::new();
    render::write_entry(&mut json, &header.tenant, &entry);
    Some(DeadLetter {
        id: id_of(stamp(seal), seal.seal.n, header.pack_id, decided.index),
        reason: reason.to_owned(),
        entry_id: decided.entry.id(),
        entry: raw(json),
        actor: header.actor.to_string(),
        received_at: rfc3339(header.received_at),
        sealed_at: rfc3339(seal.seal.sealed_at),
    })
}

/// The text as JSON. Should it not be JSON, against everything that was checked when it was accepted, it is kept as a
/// string: losing or refusing it here would be worse.
fn raw(json: Vec<u8>) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&json).into_owned();
    RawValue::from_string(text.clone()).unwrap_or_else(|_| serde_json::value::to_raw_value(&text).expect("a string always encodes"))
}

/// When the seal was made, in the 48 bits that an id has for it.
fn stamp(seal: &DecidedSeal) -> u64 {
    seal.seal.sealed_at.clamp(0, (1 << 48) - 1) as u64
}

fn id_of(stamp: u64, n: u64, pack_id: Uuid, index: usize) -> Uuid {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&n.to_le_bytes());
    name[8..24].copy_from_slice(pack_id.as_bytes());
    name[24..].copy_from_slice(&(index as u64).to_le_bytes());
    let mut bytes = xxhash_rust::xxh3::xxh3_128(&name).to_be_bytes();
    bytes[..6].copy_from_slice(&stamp.to_be_bytes()[2..]);
    Uuid::new_v8(bytes)
}

fn time_of(id: Uuid) -> u64 {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&id.as_bytes()[..6]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
