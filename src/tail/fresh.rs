//! Stores that answer by a young view or not at all.
//!
//! The view of a process that only reads the seals is always a little old. Without a bound, a process that cannot reach the objects would
//! show for ever what was erased elsewhere. [`Fresh`] stands before a store of such a process: a read that finds the view
//! older than [`fresh_for`](super::TailSettings::fresh_for) has it looked at again, and is refused with [`StoreError::Behind`] when that fails.
//!
//! A list that is pinned to a number (`upto`) which the store does not show here yet, because another process, or another store, gave
//! the number, is looked at once more, and then refused too: rows that are left out would be missing in an answer that claims to have all of them.

use super::Tail;
use crate::{
    model::{entry::StoredEntry, filter::Filter, tenant::TenantScope},
    seal::erasure::ErasureKind,
    sinks::{Authority, Condition, ListPage, ListQuery, Scan, SearchStore, Stats, StatsQuery, StoreError, VisibleHead},
};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// A store behind a [`Tail`], see the module.
pub struct Fresh<S: ?Sized> {
    store: Arc<S>,
    tail: Tail,
}

impl<S: ?Sized> Clone for Fresh<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            tail: self.tail.clone(),
        }
    }
}

impl<S: Send + Sync + ?Sized + 'static> Fresh<S> {
    /// `store`, whose view is one of `tail`.
    pub fn new(store: Arc<S>, tail: Tail) -> Self {
        Self { store, tail }
    }

    /// Reads when the view is young.
    fn read<T, F>(&self, scope: &TenantScope, read: impl FnOnce(&S, &TenantScope) -> F + Send + 'static) -> BoxFuture<'static, Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        let (this, scope) = (self.clone(), scope.clone());
        Box::pin(async move {
            this.tail.fresh(scope.tenant()).await.map_err(|super::Behind| StoreError::Behind)?;
            read(&this.store, &scope).await
        })
    }

    /// A list, which is whole up to the number that it is pinned to.
    fn pinned<F>(
        &self,
        scope: &TenantScope,
        query: ListQuery,
        list: impl Fn(&S, &TenantScope, ListQuery) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<ListPage, StoreError>>
    where
        F: Future<Output = Result<ListPage, StoreError>> + Send + 'static,
    {
        let (this, scope) = (self.clone(), scope.clone());
        Box::pin(async move {
            this.tail.fresh(scope.tenant()).await.map_err(|super::Behind| StoreError::Behind)?;
            let upto = query.upto.unwrap_or(0);
            let page = list(&this.store, &scope, query.clone());
            let page = page.await?;
            if page.as_of >= upto {
                return Ok(page);
            }
            this.tail.refreshed(scope.tenant()).await.map_err(|super::Behind| StoreError::Behind)?;
            let page = list(&this.store, &scope, query);
            page.await.and_then(|page| if page.as_of >= upto { Ok(page) } else { Err(StoreError::Behind) })
        })
    }
}

impl<S: Authority + ?Sized> Authority for Fresh<S> {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        self.read(scope, move |store, scope| store.get(scope, id))
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        self.pinned(scope, query, |store, scope, query| store.list(scope, query))
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        self.read(scope, move |store, scope| store.stats(scope, query))
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        self.read(scope, move |store, scope| store.scan(scope, filter, after, limit))
    }

    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.read(scope, move |store, scope| store.count_erased(scope, job))
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.read(scope, move |store, scope| store.count_would_erase(scope, kind, cutoff))
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        self.store.visible_head(scope)
    }

    fn refreshed(&self, scope: &TenantScope) -> BoxFuture<'static, Result<(), StoreError>> {
        let (tail, tenant) = (self.tail.clone(), scope.tenant().clone());
        Box::pin(async move { tail.refreshed(&tenant).await.map_err(|super::Behind| StoreError::Behind) })
    }

    fn condition(&self, searched: bool) -> Condition {
        self.store.condition(searched)
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.store.visible()
    }
}

impl<S: SearchStore + ?Sized> SearchStore for Fresh<S> {
    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        self.pinned(scope, query, |store, scope, query| store.list(scope, query))
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        self.read(scope, move |store, scope| store.stats(scope, query))
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        self.read(scope, move |store, scope| store.scan(scope, filter, after, limit))
    }

    fn condition(&self) -> Condition {
        self.store.condition()
    }
}
