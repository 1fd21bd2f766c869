//! Small lists that tenants have: keys, users. One object for each tenant and kind, changed by compare-and-swap; in memory
//! each item is found by its id inside its tenant, and by one more text over all tenants.
//!
//! A list is bounded, so that an object stays small enough to be read and written whole, and a start reads two objects for
//! each tenant, however many items there are.

use crate::model::tenant::TenantId;
use dashmap::DashMap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use smallvec::SmallVec;
use std::sync::Arc;

const FORMAT: u32 = 1;

/// An item of a list.
pub(super) trait Item: Sized + Send + Sync + 'static {
    /// Where the lists are.
    const FOLDER: &'static str;
    /// What the items are called.
    const WHAT: &'static str;
    /// How many a tenant may have.
    const MOST: usize;
    /// An item in its object.
    type Stored: Serialize + DeserializeOwned + Clone + Send;

    /// Takes it into memory.
    fn of_stored(tenant: &TenantId, stored: Self::Stored) -> Result<Self, Unreadable>;
    /// Whose it is.
    fn tenant(&self) -> &TenantId;
    /// Its id, unique in its tenant at least.
    fn id(&self) -> &str;
    /// The text by which it is found among all tenants; never changes for an id.
    fn found_by(&self) -> &Arc<str>;
}

/// Why an object cannot be understood. Never holds what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be read")]
pub(super) struct Unreadable(pub &'static str);

/// A list as its object has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored<S> {
    format: u32,
    /// How often it was written.
    pub revision: u64,
    /// What is in it.
    pub items: Vec<S>,
}

impl<S: Serialize + DeserializeOwned> Stored<S> {
    /// The list of a tenant that has none yet.
    pub fn empty() -> Self {
        Self {
            format: FORMAT,
            revision: 0,
            items: Vec::new(),
        }
    }

    /// Reads an object.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        // The format alone first: of a later one nothing else is known. A message of serde's may quote the value, so only its
        // place is told.
        let place = |e: serde_json::Error| format!("not the JSON that it should be (line {}, column {})", e.line(), e.column());
        let Format { format } = serde_json::from_slice(bytes).map_err(place)?;
        if format != FORMAT {
            return Err(format!("format {format} is not known to this version"));
        }
        serde_json::from_slice(bytes).map_err(place)
    }

    /// The bytes of the object.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data always encodes")
    }
}

/// All lists of one kind, in memory.
pub(super) struct Roster<T> {
    lists: DashMap<TenantId, List<T>>,
    found: DashMap<Arc<str>, SmallVec<[Arc<T>; 1]>>,
}

/// A list as memory has it.
pub(super) struct List<T> {
    revision: u64,
    /// By id.
    items: Arc<[Arc<T>]>,
}

impl<T: Item> List<T> {
    /// Understands a stored list, all of it.
    pub fn of_stored(tenant: &TenantId, stored: &Stored<T::Stored>) -> Result<Self, Unreadable> {
        let items = stored.items.iter().map(|item| T::of_stored(tenant, item.clone()).map(Arc::new));
        let mut items = items.collect::<Result<Vec<_>, _>>()?;
        items.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        Ok(Self {
            revision: stored.revision,
            items: items.into(),
        })
    }
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self {
            lists: DashMap::new(),
            found: DashMap::new(),
        }
    }
}

impl<T: Item> Roster<T> {
    /// The items of a tenant, by id.
    pub fn list(&self, tenant: &TenantId) -> Arc<[Arc<T>]> {
        self.lists.get(tenant).map(|list| list.items.clone()).unwrap_or_default()
    }

    /// The item of a tenant with this id.
    pub fn get(&self, tenant: &TenantId, id: &str) -> Option<Arc<T>> {
        let list = self.lists.get(tenant)?;
        let at = list.items.binary_search_by(|item| item.id().cmp(id)).ok()?;
        Some(list.items[at].clone())
    }

    /// All items that are found by this text, of whatever tenant.
    pub fn find(&self, text: &str) -> SmallVec<[Arc<T>; 1]> {
        self.found.get(text).map(|found| found.clone()).unwrap_or_default()
    }

    /// Takes a list into memory, unless a later one is there: two writers may come here in the other order than their writes.
    /// An item that is in both is found all the time.
    pub fn remember(&self, tenant: &TenantId, list: List<T>) {
        // Whoever holds the list's entry changes the index; nobody takes an entry while holding one of the index.
        let mut slot = self.lists.entry(tenant.clone()).or_insert_with(|| List {
            revision: 0,
            items: Arc::new([]),
        });
        if list.revision <= slot.revision {
            return;
        }
        for item in list.items.iter() {
            self.index(item);
        }
        for old in slot.items.iter() {
            if list.items.binary_search_by(|item| item.id().cmp(old.id())).is_err() {
                self.unindex(old);
            }
        }
        *slot = list;
    }

    /// Forgets the list of a tenant.
    pub fn forget(&self, tenant: &TenantId) {
        if let Some((_, list)) = self.lists.remove(tenant) {
            list.items.iter().for_each(|item| self.unindex(item));
        }
    }

    /// The tenants that have a list.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.lists.iter().map(|list| list.key().clone()).collect()
    }

    fn index(&self, item: &Arc<T>) {
        let mut found = self.found.entry(item.found_by().clone()).or_default();
        match found.iter_mut().find(|other| other.tenant() == item.tenant() && other.id() == item.id()) {
            Some(other) => *other = item.clone(),
            None => found.push(item.clone()),
        }
    }

    fn unindex(&self, item: &Arc<T>) {
        if let dashmap::Entry::Occupied(mut found) = self.found.entry(item.found_by().clone()) {
            found.get_mut().retain(|other| other.tenant() != item.tenant() || other.id() != item.id());
            if found.get().is_empty() {
                found.remove();
            }
        }
    }
}
