//! Erasures that somebody waits for, by their names: ordered → hidden (their seal was seen) → settled (their count was).

use super::Inner;
use crate::seal::{Seal, state::SealState};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Unknown,
    Hidden,
    Settled(u64),
}

/// See the module. As many as there are watchers.
#[derive(Default)]
pub(super) struct Jobs(Mutex<HashMap<Uuid, watch::Sender<Stage>>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Stage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // changed by single steps
    }

    fn raise(jobs: &HashMap<Uuid, watch::Sender<Stage>>, job: Uuid, to: Stage) {
        if let Some(stage) = jobs.get(&job) {
            stage.send_if_modified(|stage| std::mem::replace(stage, to.max(*stage)) < to);
        }
    }

    /// Its erasure is sealed.
    pub(super) fn hidden(&self, job: Uuid) {
        Self::raise(&self.lock(), job, Stage::Hidden);
    }

    /// A seal was seen.
    pub(super) fn sealed(&self, seal: &Seal) {
        if seal.erasures.is_empty() && seal.removed.is_empty() {
            return;
        }
        let jobs = self.lock();
        seal.erasures.iter().for_each(|made| Self::raise(&jobs, made.erasure.job, Stage::Hidden));
        seal.removed
            .iter()
            .for_each(|result| Self::raise(&jobs, result.job, Stage::Settled(result.rows)));
    }

    /// Seals were passed over; `state` is what they added up to.
    pub(super) fn skipped(&self, state: &SealState) {
        let jobs = self.lock();
        let pending = state.erasures.values().flat_map(|all| all.pending());
        pending.for_each(|erasure| Self::raise(&jobs, erasure.job, Stage::Hidden));
    }

    pub(super) fn watch(inner: &Arc<Inner>, job: Uuid) -> Watched {
        let stage = inner.jobs.lock().entry(job).or_insert_with(|| watch::Sender::new(Stage::Unknown)).subscribe();
        Watched {
            inner: inner.clone(),
            job,
            stage,
        }
    }
}

/// An erasure that somebody waits for, while it lives.
pub struct Watched {
    inner: Arc<Inner>,
    job: Uuid,
    stage: watch::Receiver<Stage>,
}

impl Watched {
    /// Resolves when its rows are hidden here for good. Never, if it was never sealed. Cancel-safe.
    pub async fn hidden(&mut self) {
        self.reach(|stage| stage >= Stage::Hidden).await;
    }

    /// Resolves with the number of rows that it removed, when that is sealed. Never, if that was sealed in a seal that this process has not
    /// seen. Cancel-safe.
    pub async fn settled(&mut self) -> u64 {
        loop {
            if let Stage::Settled(rows) = self.reach(|stage| stage > Stage::Hidden).await {
                return rows;
            }
        }
    }

    /// The number of rows that it removed, if that is sealed.
    pub fn rows(&self) -> Option<u64> {
        match *self.stage.borrow() {
            Stage::Settled(rows) => Some(rows),
            Stage::Unknown | Stage::Hidden => None,
        }
    }

    async fn reach(&mut self, enough: impl Fn(Stage) -> bool) -> Stage {
        let inner = self.inner.clone();
        let _waiting: Vec<_> = inner.partitions.iter().map(|partition| partition.attend()).collect();
        let reached = self.stage.wait_for(|stage| enough(*stage)).await.map(|stage| *stage);
        match reached {
            Ok(stage) => stage,
            Err(_) => std::future::pending().await, // `inner` holds the sender while this lives
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut jobs = self.inner.jobs.lock();
        // This receiver is counted too.
        if jobs.get(&self.job).is_some_and(|stage| stage.receiver_count() <= 1) {
            jobs.remove(&self.job);
        }
    }
}
