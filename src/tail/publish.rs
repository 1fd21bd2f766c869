//! Seals for the live feed: in order, each once analytics shows it, read with their packs only if somebody follows one of its tenants.
//!
//! What cannot be read, was passed over, or has waited too long to be remembered, is said to be missed: sessions then read the store, which
//! shows it by then. At most [`MOST`] names of tenants wait.

use crate::{
    actors::broadcast::Publisher,
    model::tenant::TenantId,
    queue::{Found, seals::Seals},
    seal::Seal,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

const MOST: usize = 100_000;

/// What waits for one partition.
pub(super) struct Publishing {
    publisher: Arc<dyn Publisher>,
    queue: Mutex<Queue>,
    work: Notify,
}

#[derive(Default)]
struct Queue {
    /// Seals and whom they touch.
    seals: VecDeque<(u64, Box<[TenantId]>)>,
    names: usize,
    /// Analytics shows these.
    shown: u64,
    /// The largest seal that is not in `seals` and was not published, if there is one.
    missed: Option<u64>,
}

enum Step {
    Publish(u64, Box<[TenantId]>),
    Missed,
}

impl Queue {
    fn next(&mut self) -> Option<Step> {
        if self.missed.take_if(|missed| *missed <= self.shown).is_some() {
            return Some(Step::Missed);
        }
        let (n, tenants) = self.seals.pop_front_if(|(n, _)| *n <= self.shown)?;
        self.names -= tenants.len();
        Some(Step::Publish(n, tenants))
    }

    /// Everything that waits is missed.
    fn miss(&mut self) {
        if let Some((last, _)) = self.seals.back() {
            self.missed = self.missed.max(Some(*last));
        }
        self.seals.clear();
        self.names = 0;
    }
}

impl Publishing {
    pub(super) fn new(publisher: Arc<dyn Publisher>) -> Self {
        Self {
            publisher,
            queue: Mutex::default(),
            work: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner) // changed by single steps
    }

    /// The next seal was seen.
    pub(super) fn sealed(&self, seal: &Seal) {
        let mut queue = self.lock();
        queue.names += seal.tenants.len();
        let tenants = seal.tenants.iter().map(|change| change.tenant.clone()).collect();
        queue.seals.push_back((seal.n, tenants));
        if queue.names > MOST {
            queue.miss();
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Analytics shows every seal up to `n`.
    pub(super) fn shown(&self, n: u64) {
        let mut queue = self.lock();
        queue.shown = queue.shown.max(n);
        drop(queue);
        self.work.notify_one();
    }

    /// Seals were passed over, and the state is a new one.
    pub(super) fn skipped(&self) {
        let mut queue = self.lock();
        queue.miss();
        queue.missed = Some(0); // the views show already what can be shown
        drop(queue);
        self.work.notify_one();
    }
}

/// The task: publishes until it is dropped.
pub(super) async fn run(publishing: Arc<Publishing>, seals: Seals) {
    let publisher = &publishing.publisher;
    loop {
        let step = publishing.lock().next();
        match step {
            None => publishing.work.notified().await,
            Some(Step::Missed) => publisher.missed(),
            Some(Step::Publish(n, tenants)) if tenants.iter().any(|tenant| publisher.wants(tenant)) => match seals.find(n).await {
                Ok(Found::Seal(seal)) => publisher.publish(&seal),
                Ok(Found::NotYet | Found::Trimmed) => publisher.missed(),
                Err(error) => {
                    tracing::warn!(seal = n, %error, "a seal cannot be read for the live feed; sessions read the store");
                    publisher.missed();
                }
            },
            // Who begins to follow now begins at the head that is visible.
            Some(Step::Publish(..)) => {}
        }
    }
}
