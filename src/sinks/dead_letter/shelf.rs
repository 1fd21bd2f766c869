//! What the names of objects say, kept in memory for the tenants that were asked about lately: whoever replays a hundred thousand
//! letters one by one does not list a hundred thousand names each time.
//!
//! Where this process alone writes the objects, it tells of every name that it adds or takes away, so what is kept is what a list
//! would give. Where other processes write them too, nothing is kept, and every question lists ([`Shelves::none`]). Where it is not known whether a write took effect, what is kept is thrown away. At most [`MOST`] bundles are kept; the
//! tenants that were not asked about for longest go first, and one that has more alone is listed each time.

use super::name::{Bundle, Change, Place};
use crate::{
    model::tenant::TenantId,
    objects::{Key, ObjectError},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bundles kept in all: some 50 MiB.
const MOST: usize = 200_000;

/// The bundles of one tenant, in order.
pub(super) type Bundles = BTreeMap<Place, Bundle>;

/// See the module.
#[derive(Default)]
pub(super) struct Shelves {
    /// Nothing is kept.
    none: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    shelves: HashMap<TenantId, Shelf>,
    /// Counts questions.
    clock: u64,
    /// Counts names that were taken away, of all tenants.
    removals: u64,
    /// Counts objects that were written, of all tenants.
    writes: u64,
}

#[derive(Default)]
struct Shelf {
    bundles: Bundles,
    /// All names are here; else only those that were added since somebody began to list them.
    whole: bool,
    /// Names that were taken away: a list that began before may still have them.
    taken: u64,
    asked: u64,
}

impl Shelves {
    /// Keeps nothing.
    pub(super) fn none() -> Self {
        Self {
            none: true,
            inner: Mutex::default(),
        }
    }

    /// Whether other processes write the objects too.
    pub(super) fn is_shared(&self) -> bool {
        self.none
    }

    /// What `ask` says of the tenant's bundles, which `list` gives if they are not here.
    pub(super) async fn ask<T, L>(&self, tenant: &TenantId, list: impl Fn() -> L, ask: impl FnOnce(&Bundles) -> T) -> Result<T, ObjectError>
    where
        L: Future<Output = Result<Vec<Key>, ObjectError>>,
    {
        if self.none {
            let mut bundles = Bundles::new();
            for key in list().await? {
                Bundle::change(&mut bundles, key, Change::Add);
            }
            return Ok(ask(&bundles));
        }
        loop {
            let taken = {
                let mut inner = self.lock();
                inner.clock += 1;
                let clock = inner.clock;
                let shelf = inner.shelves.entry(tenant.clone()).or_default();
                shelf.asked = clock;
                if shelf.whole {
                    return Ok(ask(&shelf.bundles));
                }
                shelf.taken
            };
            let keys = list().await?;
            let mut inner = self.lock();
            let Some(shelf) = inner.shelves.get_mut(tenant).filter(|shelf| shelf.taken == taken) else {
                continue;
            };
            for key in keys {
                Bundle::change(&mut shelf.bundles, key, Change::Add);
            }
            shelf.whole = true;
            let answer = ask(&shelf.bundles);
            inner.make_room();
            return Ok(answer);
        }
    }

    /// An object is there, or will be.
    pub(super) fn add(&self, tenant: &TenantId, key: Key) {
        if let Some(shelf) = self.lock().shelves.get_mut(tenant) {
            Bundle::change(&mut shelf.bundles, key, Change::Add);
        }
    }

    /// How many names were taken away so far: to be asked before a write, for [`Shelves::written`].
    pub(super) fn removals(&self) -> u64 {
        self.lock().removals
    }

    /// An object was written, since `removals` were counted. If there were more since, one of them may have deleted it again.
    pub(super) fn written(&self, tenant: &TenantId, key: Key, removals: u64) {
        let mut inner = self.lock();
        inner.writes += 1;
        let is_alone = inner.removals == removals;
        let Some(shelf) = inner.shelves.get_mut(tenant) else { return };
        if is_alone {
            Bundle::change(&mut shelf.bundles, key, Change::Add);
        } else {
            shelf.forget();
        }
    }

    /// How many objects were written so far: to be asked before a deletion, for [`Shelves::take`].
    pub(super) fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// An object was deleted, since `writes` were counted. If there were more since, one of them may have written it again.
    pub(super) fn take(&self, tenant: &TenantId, key: Key, writes: u64) {
        let mut inner = self.lock();
        inner.removals += 1;
        let is_alone = inner.writes == writes;
        let Some(shelf) = inner.shelves.get_mut(tenant) else { return };
        if is_alone {
            Bundle::change(&mut shelf.bundles, key, Change::Take);
            shelf.taken += 1;
        } else {
            shelf.forget();
        }
    }

    /// It is not known what there is.
    pub(super) fn forget(&self, tenant: &TenantId) {
        let mut inner = self.lock();
        inner.removals += 1;
        if let Some(shelf) = inner.shelves.get_mut(tenant) {
            shelf.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is made of single steps that each leave what is here true or thrown away.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn forget(&mut self) {
        *self = Self {
            taken: self.taken + 1,
            ..Self::default()
        };
    }
}

impl Inner {
    fn make_room(&mut self) {
        let mut kept: usize = self.shelves.values().map(|shelf| shelf.bundles.len() + 1).sum();
        while kept > MOST {
            let oldest = self.shelves.iter().min_by_key(|(_, shelf)| shelf.asked).map(|(tenant, _)| tenant.clone());
            let Some(gone) = oldest.and_then(|tenant| self.shelves.remove(&tenant)) else {
                return;
            };
            kept -= gone.bundles.len() + 1;
        }
    }
}
