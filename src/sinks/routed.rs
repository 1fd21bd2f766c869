//! Two stores as one: lists and statistics with `search` in them are asked of the search store, everything else of the authority.
//!
//! [`Authority::scan`] is always the authority's, whatever the filter: it follows the log for the live feed, which goes by what the
//! store of record has, and a search store that is behind would leave a hole between its end and the live entries.
//!
//! Whoever reads sees one [`Authority`]. Each answer is one store's, as of that store's own cursor (`as_of`): nothing is
//! merged, so that nothing can be half of one state and half of another.

use super::{Authority, Condition, ListPage, ListQuery, Scan, SearchStore, Stats, StatsQuery, StoreError, VisibleHead};
use crate::{
    model::{entry::StoredEntry, filter::Filter, tenant::TenantScope},
    seal::erasure::ErasureKind,
};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Routed {
    authority: Arc<dyn Authority>,
    search: Arc<dyn SearchStore>,
}

impl Routed {
    /// Joins the two.
    pub fn new(authority: Arc<dyn Authority>, search: Arc<dyn SearchStore>) -> Self {
        Self { authority, search }
    }
}

impl Authority for Routed {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        self.authority.get(scope, id)
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        match query.filter.search {
            Some(_) => self.search.list(scope, query),
            None => self.authority.list(scope, query),
        }
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        match query.filter.search {
            Some(_) => self.search.stats(scope, query),
            None => self.authority.stats(scope, query),
        }
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        self.authority.scan(scope, filter, after, limit)
    }

    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.authority.count_erased(scope, job)
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.authority.count_would_erase(scope, kind, cutoff)
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        self.authority.visible_head(scope)
    }

    fn refreshed(&self, scope: &TenantScope) -> BoxFuture<'static, Result<(), StoreError>> {
        self.authority.refreshed(scope)
    }

    fn condition(&self, searched: bool) -> Condition {
        match searched {
            true => self.search.condition(),
            false => self.authority.condition(false),
        }
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.authority.visible()
    }
}
