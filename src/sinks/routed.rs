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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::tenant::TenantId, search};

    /// A store whose answers say who gave them: by `as_of`, `total`, `upto`, the lag, or the number of rows.
    struct Named(u64);

    fn answer<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, StoreError>> {
        Box::pin(std::future::ready(Ok(value)))
    }

    impl Named {
        fn page(&self) -> ListPage {
            ListPage {
                entries: Vec::new(),
                total: None,
                total_is_exact: false,
                as_of: self.0,
                more: false,
                reached: None,
            }
        }

        fn counted(&self) -> Stats {
            Stats {
                total: self.0,
                ..Stats::default()
            }
        }

        fn scanned(&self) -> Scan {
            Scan {
                upto: self.0,
                ..Scan::default()
            }
        }
    }

    impl SearchStore for Named {
        fn list(&self, _: &TenantScope, _: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
            answer(self.page())
        }

        fn stats(&self, _: &TenantScope, _: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
            answer(self.counted())
        }

        fn scan(&self, _: &TenantScope, _: Filter, _: u64, _: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
            answer(self.scanned())
        }

        fn condition(&self) -> Condition {
            Condition::late(self.0)
        }
    }

    impl Authority for Named {
        fn get(&self, _: &TenantScope, _: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
            answer(None)
        }

        fn list(&self, _: &TenantScope, _: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
            answer(self.page())
        }

        fn stats(&self, _: &TenantScope, _: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
            answer(self.counted())
        }

        fn scan(&self, _: &TenantScope, _: Filter, _: u64, _: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
            answer(self.scanned())
        }

        fn count_erased(&self, _: &TenantScope, _: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
            answer(self.0)
        }

        fn count_would_erase(&self, _: &TenantScope, _: ErasureKind, _: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
            answer(self.0)
        }

        fn visible_head(&self, _: &TenantScope) -> VisibleHead {
            VisibleHead { head: self.0 }
        }

        fn refreshed(&self, _: &TenantScope) -> BoxFuture<'static, Result<(), StoreError>> {
            Box::pin(std::future::ready(Err(StoreError::Behind)))
        }

        fn condition(&self, _: bool) -> Condition {
            Condition::late(self.0)
        }

        fn visible(&self) -> watch::Receiver<u64> {
            watch::channel(self.0).1
        }
    }

    #[tokio::test]
    async fn what_has_search_is_asked_of_the_search_store_and_everything_else_of_the_authority() {
        const AUTHORITY: u64 = 1;
        const SEARCH: u64 = 2;
        let both = Routed::new(Arc::new(Named(AUTHORITY)), Arc::new(Named(SEARCH)));
        let scope = TenantScope::new(TenantId::decode("acme").expect("a tenant"));
        let searching = Filter {
            search: Some(search::parse("word").expect("parses")),
            ..Filter::default()
        };
        for (filter, expected) in [(Filter::default(), AUTHORITY), (searching.clone(), SEARCH)] {
            let query = ListQuery {
                filter: filter.clone(),
                ..ListQuery::default()
            };
            assert_eq!(both.list(&scope, query).await.expect("lists").as_of, expected);
            let query = StatsQuery {
                filter: filter.clone(),
                ..StatsQuery::default()
            };
            assert_eq!(both.stats(&scope, query).await.expect("counts").total, expected);
            let scan = both.scan(&scope, filter, 0, 10).await.expect("scans");
            assert_eq!(scan.upto, AUTHORITY, "the live feed goes by the store of record, searching or not");
        }
        for (searched, expected) in [(false, AUTHORITY), (true, SEARCH)] {
            assert_eq!(
                both.condition(searched),
                Condition::late(expected),
                "what is said beside an answer is its store's"
            );
        }
        assert_eq!(both.count_erased(&scope, Uuid::nil()).await.expect("counts"), AUTHORITY);
        assert_eq!(both.count_would_erase(&scope, ErasureKind::Cleanup, 0).await.expect("counts"), AUTHORITY);
        assert_eq!((both.visible_head(&scope).head, *both.visible().borrow()), (AUTHORITY, AUTHORITY));
        assert!(matches!(both.refreshed(&scope).await, Err(StoreError::Behind)), "the authority's word");
    }
}
