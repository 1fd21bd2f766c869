//! How processes that share the objects hear of each other's edits: one object that every edit announces itself in, polled.
//!
//! An edit is announced **before** it is written, so that whoever dies in between has told too much and never too little. A
//! reader reads an announced object at once, and again at every poll for [`SETTLING`], in which the write comes; a writer that
//! took longer announces it once more.
//!
//! # Object `catalog/version.json`, format 1
//!
//! `{"format": 1, "epoch": UUID, "n": N, "changed": [names]}`: how many edits were announced, and the objects of the last of
//! them, oldest first, at most [`RING`]; the last is edit N. A reader that is further behind, or saw another epoch (the object
//! was deleted and made again), reads everything. No object is N = 0.

use super::CatalogError;
use crate::objects::{Key, ObjectError, Objects, Precondition};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

const FORMAT: u32 = 1;
/// How many names the object holds: what a busy second edits, in some 16 KiB.
pub(super) const RING: usize = 256;
/// How long an announced object is read at every poll.
pub(super) const SETTLING: Duration = Duration::from_secs(10);
/// A memory that was not compared with the objects for so long is no longer good enough to let anybody in.
const STALE: Duration = Duration::from_secs(300);

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    format: u32,
    epoch: Uuid,
    n: u64,
    changed: Vec<String>,
}

/// What is to be read again.
pub(super) struct Due {
    /// Everything, because more was announced than is known of.
    pub everything: bool,
    /// Else these objects.
    pub keys: Vec<Key>,
    head: (Uuid, u64),
}

/// Told how the announcement went.
type Told = oneshot::Sender<Result<(), CatalogError>>;

/// The edits that this process has made and heard of.
pub(super) struct Changes {
    state: Mutex<State>,
    /// Edits to be announced, with who waits for it.
    waiting: Mutex<Vec<(Key, Told)>>,
    /// Whoever holds it announces for all that wait.
    announcer: tokio::sync::Mutex<()>,
}

struct State {
    epoch: Uuid,
    n: u64,
    /// What is read at every poll until then.
    settling: HashMap<Key, Instant>,
    /// A poll that began then was good.
    good: Instant,
}

impl Changes {
    /// Has heard of nothing.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                epoch: Uuid::nil(),
                n: 0,
                settling: HashMap::new(),
                good: Instant::now(),
            }),
            waiting: Mutex::default(),
            announcer: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells everybody that this object is about to change; durable when it returns. Edits that come together are announced
    /// together.
    pub async fn announce(&self, objects: &dyn Objects, key: &Key) -> Result<(), CatalogError> {
        let (told, mut answer) = oneshot::channel();
        lock(&self.waiting).push((key.clone(), told));
        let _turn = self.announcer.lock().await;
        if let Ok(done) = answer.try_recv() {
            return done; // somebody announced it with theirs
        }
        let batch: Vec<_> = std::mem::take(&mut *lock(&self.waiting));
        let mut done = Ok(());
        for chunk in batch.chunks(RING) {
            let keys: Vec<&Key> = chunk.iter().map(|(key, _)| key).collect();
            done = done.and(self.add(objects, &keys).await);
        }
        for (_, told) in batch {
            let _ = told.send(done.clone()); // one that went away does not write
        }
        done
    }

    async fn add(&self, objects: &dyn Objects, keys: &[&Key]) -> Result<(), CatalogError> {
        loop {
            let (before, when) = match objects.get(&name()).await? {
                Some((bytes, version)) => (decode(&bytes)?, Precondition::Version(version)),
                None => {
                    let none = Stored {
                        format: FORMAT,
                        epoch: Uuid::new_v4(),
                        n: 0,
                        changed: Vec::new(),
                    };
                    (none, Precondition::Absent)
                }
            };
            let mut after = before.clone();
            after.n += keys.len() as u64;
            after.changed.extend(keys.iter().map(|key| key.as_str().to_owned()));
            after.changed.drain(..after.changed.len().saturating_sub(RING));
            let bytes = Bytes::from(serde_json::to_vec(&after).expect("plain data always encodes"));
            match objects.put(&name(), bytes, when).await {
                Err(ObjectError::Conflict) => {} // somebody else announced: once more, after theirs
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    let mut state = self.state();
                    let is_next = state.n == before.n && (state.epoch == before.epoch || before.n == 0);
                    if is_next {
                        // Nobody else announced anything since the last poll, and of our own edits there is nothing to read.
                        (state.epoch, state.n) = (after.epoch, after.n);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Finds out what others announced. What is due is due again until it was read and [`Changes::caught_up`] was told so.
    pub async fn due(&self, objects: &dyn Objects, now: Instant) -> Result<Due, CatalogError> {
        let found = objects.get(&name()).await?.map(|(bytes, _)| decode(&bytes)).transpose()?;
        let (head, changed) = found.map_or(((Uuid::nil(), 0), Vec::new()), |found| ((found.epoch, found.n), found.changed));
        let mut state = self.state();
        let same = state.n == 0 || state.epoch == head.0;
        let behind = head.1.checked_sub(state.n).filter(|_| same).and_then(|behind| usize::try_from(behind).ok());
        let behind = behind.filter(|behind| *behind <= changed.len());
        let new = &changed[changed.len() - behind.unwrap_or(changed.len())..];
        // A name that is none is of an object that this version does not know.
        let new = new.iter().filter_map(|name| Some((Key::parse(name).ok()?, now + SETTLING)));
        state.settling.extend(new);
        if behind.is_some() {
            (state.epoch, state.n) = head;
        }
        Ok(Due {
            everything: behind.is_none(),
            keys: state.settling.keys().cloned().collect(),
            head,
        })
    }

    /// All that was due at the poll that began `at` was read.
    pub fn caught_up(&self, due: &Due, at: Instant) {
        let mut state = self.state();
        if due.everything {
            (state.epoch, state.n) = due.head;
        }
        state.settling.retain(|_, until| *until > at);
        state.good = state.good.max(at);
    }

    /// Whether a look that began after this time was good.
    pub fn was_good_since(&self, time: Instant) -> bool {
        self.state().good > time
    }

    /// Whether memory was compared with the objects within the last five minutes.
    pub fn is_fresh(&self) -> bool {
        self.state().good.elapsed() < STALE
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic happens under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name() -> Key {
    Key::parse("catalog/version.json").expect("a good name")
}

fn decode(bytes: &[u8]) -> Result<Stored, CatalogError> {
    let damaged = |reason: String| CatalogError::Damaged(format!("`{}`: {reason}", name()).into());
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if stored.format != FORMAT {
        return Err(damaged(format!("format {} is not known to this version", stored.format)));
    }
    Ok(stored)
}
