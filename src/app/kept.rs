//! A store of its own behind the log of this process: the authority of a `wal` with ClickHouse. It keeps no heads and counters, so what a
//! manifest is to the embedded store is kept here, as the object `checkpoint/0.bin`.
//!
//! The checkpoint says what the seals up to n add up to. It is written when the authority and the dead letters have every seal up to n, at
//! most [`SEALS`] seals or [`EVERY`] after the last, and only then may the log be trimmed up to n. So a start begins at the checkpoint and
//! applies what follows it again, which is harmless.

use crate::{
    model::tenant::TenantId,
    objects::Objects,
    queue::seals::checkpoint::{self, Checkpoint},
    seal::{DecidedSeal, state::SealState, view::AppliedView},
    sinks::{SealFollower, StoreError},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Seals after which a checkpoint is due,
const SEALS: u64 = 1024;
/// or this time after the last, if there is a new seal.
const EVERY: Duration = Duration::from_secs(30);
/// After one that could not be written, before the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last one may take at a stop.
const LAST: Duration = Duration::from_secs(5);

/// See the module.
pub struct Kept {
    store: Arc<dyn SealFollower>,
    view: Arc<AppliedView>,
    state: Mutex<SealState>,
    applied: watch::Sender<u64>,
    trimmable: watch::Sender<u64>,
}

/// Writes the checkpoints. [`Keeping::stop`] it.
pub struct Keeping {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Kept {
    /// `state` is the checkpoint that the log was read from; `view` hears what the store has applied.
    pub fn start(
        store: Arc<dyn SealFollower>,
        view: Arc<AppliedView>,
        state: SealState,
        objects: Arc<dyn Objects>,
        dead_letters: watch::Receiver<u64>,
    ) -> (Arc<Self>, Keeping) {
        let n = state.n;
        let this = Arc::new(Self {
            store,
            view,
            state: Mutex::new(state),
            applied: watch::Sender::new(n),
            trimmable: watch::Sender::new(n),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(this.clone().keep(objects, dead_letters, stop.clone()));
        (this, Keeping { stop, task })
    }

    fn state(&self) -> MutexGuard<'_, SealState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // a fold that panicked ends the process
    }

    async fn keep(self: Arc<Self>, objects: Arc<dyn Objects>, mut dead_letters: watch::Receiver<u64>, stop: CancellationToken) {
        let mut applied = self.applied.subscribe();
        loop {
            let saved = *self.trimmable.borrow();
            let due = async {
                let _ = timeout(EVERY, applied.wait_for(|n| *n >= saved + SEALS)).await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = due => {}
            }
            let last = stop.is_cancelled();
            let written = timeout(LAST, self.save(&*objects, &mut dead_letters)).await;
            if written.is_err() {
                tracing::warn!("a checkpoint could not be written in time; the log is kept until one is");
            }
            if last {
                return;
            }
            if written != Ok(true) {
                let _stopped = timeout(PAUSE, stop.cancelled()).await;
            }
        }
    }

    /// Whether there was anything to write, and it was written.
    async fn save(&self, objects: &dyn Objects, dead_letters: &mut watch::Receiver<u64>) -> bool {
        let state = self.state().clone();
        let n = state.n;
        if n <= *self.trimmable.borrow() || dead_letters.wait_for(|settled| *settled >= n).await.is_err() {
            return false;
        }
        match checkpoint::save(objects, 0, &Checkpoint { state, bytes: 0 }).await {
            Ok(()) => drop(self.trimmable.send_replace(n)),
            Err(error) => {
                tracing::warn!(seal = n, %error, "a checkpoint was not written; the log is kept until one is");
                return false;
            }
        }
        true
    }
}

impl Keeping {
    /// Writes a last checkpoint. After the sequencer has stopped.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            tracing::error!("the task that writes checkpoints had panicked");
        }
    }
}

impl SealFollower for Kept {
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        self.store.apply(seal)?;
        let n = seal.seal.n;
        let mut state = self.state();
        if n > state.n {
            state.fold(&seal.seal, seal.crc);
        }
        drop(state);
        self.view.applied(n);
        self.applied.send_replace(n);
        Ok(())
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<crate::model::entry::ContentHash>>, StoreError> {
        self.store.lookup(keys)
    }

    fn lookup_packs(&self, packs: &[Uuid]) -> Result<Vec<bool>, StoreError> {
        self.store.lookup_packs(packs)
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        self.trimmable.subscribe()
    }
}

#[cfg(test)]
mod tests;
