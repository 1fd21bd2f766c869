//! Cursors: how far each store has applied the seals of a partition.
//!
//! A cursor is saved **after** the store has the seals durably, so a late or lost one only means that seals are applied again. It
//! never goes back. A cursor below the floor means that its store is detached: it lacks seals that are gone.
//!
//! A *pin* is a cursor named `<store>_rebuild`: while it is there, the seals above it are kept as for a store, so that a rebuild can go on
//! from the seal at which it began to copy.

use super::{key, number::Number};
use crate::{objects::Objects, queue::SealReadError};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Where stores keep their cursors. Futures may be dropped: a save is then done or not.
pub trait CursorStore: Send + Sync + 'static {
    /// The largest n up to which the store has every seal; 0 when it has none.
    fn load(&self, store: &str) -> BoxFuture<'static, Result<u64, SealReadError>>;
    /// Moves the cursor to `n` unless it is further already. Durable when it returns; after an error it may be.
    fn save(&self, store: &str, n: u64) -> BoxFuture<'static, Result<(), SealReadError>>;
    /// Removes it; used for pins.
    fn remove(&self, store: &str) -> BoxFuture<'static, Result<(), SealReadError>>;
}

/// The name of the pin of a store, see the module.
pub fn pin(store: &str) -> String {
    format!("{store}_rebuild")
}

/// Cursors as objects `cursor/<p>/<store>.json`. Cheap to clone.
#[derive(Clone)]
pub struct ObjectCursors {
    objects: Arc<dyn Objects>,
    partition: u32,
    /// One for each store of the configuration.
    numbers: Arc<Mutex<HashMap<String, Arc<Number>>>>,
}

impl ObjectCursors {
    /// The cursors of a partition.
    pub fn new(objects: Arc<dyn Objects>, partition: u32) -> Self {
        let numbers = Arc::default();
        Self { objects, partition, numbers }
    }

    /// `store` is a name of the program and never comes from outside: lower-case letters and `_`.
    fn number(&self, store: &str) -> Arc<Number> {
        debug_assert!(store.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "`{store}` is no store");
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let key = key(format!("cursor/{}/{store}.json", self.partition));
            Arc::new(Number::new(self.objects.clone(), key))
        };
        numbers.entry(store.to_owned()).or_insert_with(make).clone()
    }
}

impl CursorStore for ObjectCursors {
    fn load(&self, store: &str) -> BoxFuture<'static, Result<u64, SealReadError>> {
        let number = self.number(store);
        Box::pin(async move { number.load().await })
    }

    fn save(&self, store: &str, n: u64) -> BoxFuture<'static, Result<(), SealReadError>> {
        let number = self.number(store);
        Box::pin(async move { number.raise(n).await.map(|_| ()) })
    }

    fn remove(&self, store: &str) -> BoxFuture<'static, Result<(), SealReadError>> {
        let number = self.number(store);
        Box::pin(async move { number.remove().await })
    }
}

/// How long whoever saves a cursor waits after a failure.
pub(super) const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
