//! What queries see: the memtables and the parts, taken together and never changed after.
//!
//! A [`View`] is replaced whole when a memtable is frozen and when a manifest is committed, never per seal: between these,
//! seals go into the active memtable, whose tables give out consistent [`TableView`]s themselves. [`TenantView`] is what one
//! query works on: it is pinned for the query's whole life, so a page, its total and its `as_of` belong together.

use super::{
    memtable::{Memtable, TableView},
    part::Part,
};
use crate::{
    model::tenant::{TenantId, TenantScope},
    seal::erasure::Erasures,
};
use smallvec::SmallVec;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

/// Head and voids of a tenant as of the newest manifest.
#[derive(Debug, Clone, Default)]
pub(super) struct Flushed {
    pub head: u64,
    pub voids: Vec<(u64, u64)>,
}

/// Everything that is visible, but for what is applied to `active` later.
#[derive(Clone)]
pub(super) struct View {
    /// Takes the next seals.
    pub active: Arc<Memtable>,
    /// Is being flushed.
    pub frozen: Option<Arc<Memtable>>,
    /// In the order of their seals.
    pub parts: Arc<[Arc<Part>]>,
    /// Parts that are left out of the answers because some of their rows cannot be read; the ledger goes by the others.
    pub quarantined: Arc<[Arc<Part>]>,
    /// What the newest manifest says about each tenant.
    pub flushed: Arc<HashMap<TenantId, Flushed>>,
    /// What is erased, of every tenant of which something is. It is there before the erasure's seal is visible.
    pub erasures: Arc<HashMap<TenantId, Arc<Erasures>>>,
}

impl View {
    /// The memtables, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        [Some(&self.active), self.frozen.as_ref()].into_iter().flatten()
    }

    /// What is erased of the tenant, if anything ever was.
    pub fn erasures_of(&self, scope: &TenantScope) -> Option<&Erasures> {
        self.erasures.get(scope.tenant()).map(|all| &**all)
    }

    /// The tenant's largest visible number.
    pub fn head(&self, scope: &TenantScope, visible: &AtomicU64) -> u64 {
        let in_memory = self.memtables().find_map(|m| m.head(scope, visible));
        in_memory.unwrap_or_else(|| self.flushed.get(scope.tenant()).map_or(0, |t| t.head))
    }

    /// What a query of this tenant works on, but for erasures that were made since this view was taken
    /// ([`TenantView::erasures`]).
    pub fn tenant(&self, scope: &TenantScope, visible: &AtomicU64) -> TenantView {
        let tables: SmallVec<[TableView; 2]> = self.memtables().filter_map(|m| m.view(scope, visible)).collect();
        let flushed = self.flushed.get(scope.tenant());
        let head = tables.first().map_or(flushed.map_or(0, |t| t.head), |newest| newest.head);
        let mut voids: Vec<_> = flushed.map_or(&[][..], |t| &t.voids).to_vec();
        voids.extend(tables.iter().rev().flat_map(|t| t.voids.iter().copied()));
        TenantView {
            scope: scope.clone(),
            head,
            tables,
            parts: self.parts.clone(),
            quarantined: self.quarantined.clone(),
            voids,
            erasures: self.erasures.get(scope.tenant()).cloned(),
        }
    }
}

/// One tenant's rows, pinned.
pub(super) struct TenantView {
    /// Whose.
    pub scope: TenantScope,
    /// The largest number that is there: `as_of`.
    pub head: u64,
    /// Rows in memory.
    pub tables: SmallVec<[TableView; 2]>,
    /// Rows on disk, and other tenants': [`Part::tenant`] restricts to the scope.
    pub parts: Arc<[Arc<Part>]>,
    /// Parts of which no row is shown, because some cannot be read.
    pub quarantined: Arc<[Arc<Part>]>,
    /// Numbers without an entry up to the head, inclusive ranges, ascending.
    pub voids: Vec<(u64, u64)>,
    /// What is erased, at least by every seal that the rows are of.
    pub erasures: Option<Arc<Erasures>>,
}
