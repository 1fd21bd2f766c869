//! [`SealView`] over all partitions, for one store.

use super::{Inner, partition::State};
use crate::{
    model::tenant::TenantId,
    seal::{erasure::Erasures, view::SealView},
};
use std::sync::Arc;
use tokio::sync::watch;

/// What one store shows.
pub(super) struct StoreView {
    inner: Arc<Inner>,
    /// Its place among the stores; `None`: its cursor is not followed.
    store: Option<usize>,
    never: watch::Sender<u64>,
}

impl StoreView {
    pub(super) fn new(inner: Arc<Inner>, store: Option<usize>) -> Self {
        let never = watch::Sender::new(0);
        Self { inner, store, never }
    }
}

impl SealView for StoreView {
    fn head(&self, tenant: &TenantId) -> u64 {
        let head = |state: &State| self.store.map(|store| state.stores[store].heads.head(tenant));
        self.inner.of(tenant).read(head).flatten().unwrap_or(0)
    }

    fn erasures(&self, tenant: &TenantId) -> Option<Arc<Erasures>> {
        self.inner.of(tenant).read(|state| state.seals.erasures_of(tenant).cloned()).flatten()
    }

    fn visible(&self) -> watch::Receiver<u64> {
        let visible = self.store.and_then(|store| self.inner.stores.get(store)).map(|(_, visible)| visible);
        visible.unwrap_or(&self.never).subscribe()
    }

    fn ready(&self) -> bool {
        let ready = |store: usize| {
            self.inner
                .partitions
                .iter()
                .all(|p| p.read(|state| !state.stores[store].detached).unwrap_or(false))
        };
        self.store.is_some_and(ready)
    }

    fn lag_ms(&self) -> u64 {
        self.store.map_or(0, |store| self.inner.lag_ms(store))
    }
}
