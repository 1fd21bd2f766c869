//! The catalog: which tenants there are, their settings, API keys and users. Three small objects per tenant (ADR 0018), changed by
//! compare-and-swap, cached in memory.
//!
//! A change is durable before it returns, and two changes at once lose nothing: each is made again on what the other
//! left. Requests read from memory alone; [`Catalog::follow`] keeps it within seconds of what other processes write
//! ([`changes`]), and [`Catalog::fresh`] says when that has failed for too long to let anybody in.
//!
//! An object that cannot be understood, or is of a later format, stands alone: what is in it is unknown here (its keys open
//! nothing, its people cannot log in), nothing overwrites it, and it is counted in [`Catalog::damaged`].
//!
//! # Object `catalog/tenants/<tenant id>.json`, format 1
//!
//! `{"format": 1, "revision": N, "tenant": {tenant_id, name, settings, created_at, updated_at}}`: the tenant as the HTTP
//! contract shows it, and how often it was written, from 1. A setting that is missing has its default. Of a deleted tenant a
//! tombstone is left ([`retired`]), for ever.

mod changes;
mod keys;
mod lists;
mod rate_limit;
mod retired;
mod roster;
mod settings;
mod users;

pub use keys::{ApiKey, KEY_PREFIX, KeyText, NewKey};
pub use rate_limit::RateLimit;
pub use retired::Retired;
pub use settings::{LogLevels, Masking, SettingsPatch, TenantSettings};
pub use users::{NewUser, User, normal_email};

use crate::{
    model::tenant::TenantId,
    objects::{Key, ObjectError, Objects, Precondition},
};
use bytes::Bytes;
use changes::Changes;
use chrono::{DateTime, SecondsFormat, Utc};
use dashmap::DashMap;
use futures_util::{StreamExt, TryStreamExt, stream};
use roster::Roster;
use serde::{Deserialize, Serialize};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};

const FOLDER: &str = "catalog/tenants";
const FORMAT: u32 = 1;
/// A name is for people: longer ones are refused.
const MAX_NAME_CHARS: usize = 256;
/// Objects that are read at once. More wait for the same disk; with S3 it hides most of the round trips.
const READS: usize = 16;
/// Strangers' credentials make no more looks at the objects than one in this time.
const CATCH_UP_EVERY: Duration = Duration::from_secs(1);

/// A tenant, as the HTTP contract shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// Its name for people.
    pub name: String,
    /// What is set for it; every key is shown.
    pub settings: TenantSettings,
    /// When it was made, RFC 3339 in UTC with milliseconds.
    pub created_at: String,
    /// When it was changed last, likewise.
    pub updated_at: String,
}

/// What a new tenant is made of.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// Its name; the id when absent.
    pub name: Option<String>,
    /// Settings that differ from the default.
    pub settings: SettingsPatch,
}

/// Why the catalog could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// There is a tenant of this id already (409).
    #[error("the tenant exists already")]
    Exists,
    /// There is no such tenant (404).
    #[error("there is no such tenant")]
    NotFound,
    /// A value is not allowed, or there is no such setting (422).
    #[error("`{field}`: {message}")]
    Invalid {
        /// Which: `name`, or `settings.…`.
        field: String,
        /// What would be right.
        message: String,
    },
    /// The tenant has an account of this e-mail address (409).
    #[error("the tenant has a user of this e-mail address")]
    UserExists,
    /// The tenant has as many of these as it may (409).
    #[error("the tenant has {most} {what}, which is the most")]
    Full {
        /// `keys`, `users`.
        what: &'static str,
        /// How many.
        most: usize,
    },
    /// The system gave no random numbers (503). Nothing was stored.
    #[error("there are no random numbers: {0}")]
    Random(Arc<str>),
    /// The catalog cannot be read or written now (503), or it is not known whether it was written.
    #[error("the catalog is not available: {0}")]
    Unavailable(#[from] ObjectError),
    /// The stored tenant cannot be read (500).
    #[error("the stored tenant cannot be read: {0}")]
    Damaged(Arc<str>),
}

/// The catalog. Cheap to clone.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    objects: Arc<dyn Objects>,
    tenants: DashMap<TenantId, Cached>,
    retired: DashMap<TenantId, Retired>,
    keys: Roster<ApiKey>,
    users: Roster<User>,
    changes: Changes,
    /// The objects that could not be understood when they were read last.
    damaged: DashMap<Key, ()>,
    /// Held by whoever looks at the objects; when the last look began.
    look: tokio::sync::Mutex<Option<Instant>>,
}

struct Cached {
    revision: u64,
    tenant: Arc<Tenant>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    revision: u64,
    tenant: Tenant,
}

/// What stands in the place of a tenant.
enum Object {
    Tenant(Stored),
    Tombstone(retired::Tombstone),
}

impl Catalog {
    /// Reads everything. Objects that cannot be understood are counted in [`Catalog::damaged`] and named in the log; the
    /// others work. Must be called inside a tokio runtime, as all methods that write.
    pub async fn open(objects: Arc<dyn Objects>) -> Result<Self, CatalogError> {
        let inner = Arc::new(Inner {
            objects,
            tenants: DashMap::new(),
            retired: DashMap::new(),
            keys: Roster::default(),
            users: Roster::default(),
            changes: Changes::new(),
            damaged: DashMap::new(),
            look: tokio::sync::Mutex::default(),
        });
        // What was announced before is in what is read now, or comes within the time that announced objects are looked at.
        let now = Instant::now();
        let due = inner.changes.due(&*inner.objects, now).await?;
        inner.read_everything().await?;
        inner.changes.caught_up(&due, now);
        Ok(Self(inner))
    }

    /// From now on looks at the objects `every` so often, and sees what other processes write. Ends with the last handle.
    pub fn follow(&self, every: Duration) {
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(inner) = inner.upgrade() else { return };
                if let Err(error) = inner.catch_up(Duration::ZERO).await {
                    tracing::warn!(%error, "the catalog cannot see what others change");
                }
            }
        });
    }

    /// Looks at the objects now, unless that was done within the last second: for a credential that memory does not know. An
    /// error changes nothing. Cancel-safe.
    pub async fn catch_up(&self) -> Result<(), CatalogError> {
        self.0.catch_up(CATCH_UP_EVERY).await
    }

    /// Looks at the objects now: what another process had written before this call is known when it returns. For whoever decides for good by
    /// what memory does not know. Calls at the same time share a look. An error changes nothing. Cancel-safe.
    pub async fn look(&self) -> Result<(), CatalogError> {
        self.0.look_now().await
    }

    /// Whether what memory says was compared with the objects within the last five minutes. If not, nobody may be let in by it:
    /// a key that it shows may have been revoked elsewhere.
    pub fn fresh(&self) -> bool {
        self.0.changes.is_fresh()
    }

    /// How many objects could not be understood when they were read last.
    pub fn damaged(&self) -> usize {
        self.0.damaged.len()
    }

    /// The tenant, from memory.
    pub fn get(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.0.tenants.get(id).map(|cached| cached.tenant.clone())
    }

    /// All tenants, sorted by id, from memory.
    pub fn list(&self) -> Vec<Arc<Tenant>> {
        let mut all: Vec<_> = self.0.tenants.iter().map(|cached| cached.tenant.clone()).collect();
        all.sort_unstable_by(|a, b| a.tenant_id.cmp(&b.tenant_id));
        all
    }

    /// Makes a tenant; durable when it returns. Once polled it happens whole or not at all, also when it is dropped.
    pub async fn create(&self, new: NewTenant) -> Result<Arc<Tenant>, CatalogError> {
        let inner = self.0.clone();
        detached(async move { inner.create(new).await }).await
    }

    /// Changes a tenant: what is given replaces, what is left out stays. Durable when it returns; dropping as with
    /// [`Catalog::create`].
    pub async fn update(&self, id: &TenantId, name: Option<String>, settings: SettingsPatch) -> Result<Arc<Tenant>, CatalogError> {
        let (inner, id) = (self.0.clone(), id.clone());
        detached(async move { inner.update(&id, name, settings).await }).await
    }
}

impl Inner {
    async fn create(&self, new: NewTenant) -> Result<Arc<Tenant>, CatalogError> {
        let name = match new.name {
            Some(name) => checked_name(name)?,
            None => new.tenant_id.to_string(),
        };
        let mut settings = TenantSettings::default();
        new.settings.apply(&mut settings);
        let now = now();
        let stored = Stored {
            format: FORMAT,
            revision: 1,
            tenant: Tenant {
                tenant_id: new.tenant_id,
                name,
                settings,
                created_at: now.clone(),
                updated_at: now,
            },
        };
        match self.put(stored, Precondition::Absent).await {
            Err(CatalogError::Unavailable(ObjectError::Conflict)) => Err(CatalogError::Exists),
            done => done,
        }
    }

    async fn update(&self, id: &TenantId, name: Option<String>, settings: SettingsPatch) -> Result<Arc<Tenant>, CatalogError> {
        let name = name.map(checked_name).transpose()?;
        loop {
            let (bytes, version) = self.objects.get(&key_of(id)).await?.ok_or(CatalogError::NotFound)?;
            let Object::Tenant(mut stored) = decode(&bytes).map_err(|e| CatalogError::Damaged(e.into()))? else {
                return Err(CatalogError::NotFound);
            };
            settings.apply(&mut stored.tenant.settings);
            if let Some(name) = &name {
                stored.tenant.name.clone_from(name);
            }
            stored.revision += 1;
            stored.tenant.updated_at = now().max(stored.tenant.updated_at); // a clock set back must not show a change before the last one
            match self.put(stored, Precondition::Version(version)).await {
                Err(CatalogError::Unavailable(ObjectError::Conflict)) => {} // somebody was faster: once more, on top of theirs
                done => return done,
            }
        }
    }

    async fn put(&self, stored: Stored, when: Precondition) -> Result<Arc<Tenant>, CatalogError> {
        let key = key_of(&stored.tenant.tenant_id);
        let bytes = serde_json::to_vec(&stored).expect("a tenant always encodes");
        self.write(&key, bytes.into(), when).await?;
        Ok(self.remember(stored))
    }

    /// Takes a stored tenant into memory, unless a later one is there, or it was deleted: two writers may come here in the other
    /// order than their writes.
    fn remember(&self, stored: Stored) -> Arc<Tenant> {
        let (tenant, revision) = (Arc::new(stored.tenant), stored.revision);
        let cached = |revision| Cached {
            revision,
            tenant: tenant.clone(),
        };
        let mut slot = self.tenants.entry(tenant.tenant_id.clone()).or_insert_with(|| cached(revision));
        if revision > slot.revision {
            *slot = cached(revision);
        }
        drop(slot);
        if self.retired.contains_key(&tenant.tenant_id) {
            self.tenants.remove(&tenant.tenant_id);
        }
        tenant.clone()
    }
}

impl Inner {
    /// Announces an edit and writes it. After an error memory shows what is stored: somebody else's, or ours after all.
    async fn write(&self, key: &Key, bytes: Bytes, when: Precondition) -> Result<(), CatalogError> {
        self.changes.announce(&*self.objects, key).await?;
        let since = Instant::now();
        if let Err(error) = self.objects.put(key, bytes, when).await {
            let _ = self.reload(key).await; // if that fails too, the next look at the objects tries again
            return Err(error.into());
        }
        if since.elapsed() > changes::SETTLING / 2 {
            // Others may have looked for the last time before it was there.
            self.changes.announce(&*self.objects, key).await?;
        }
        Ok(())
    }

    /// Looks at the objects, unless somebody began to do so within `since`.
    async fn catch_up(self: &Arc<Self>, since: Duration) -> Result<(), CatalogError> {
        let mut last = self.look.lock().await;
        let now = Instant::now();
        if last.is_some_and(|last| now.duration_since(last) < since) {
            return Ok(());
        }
        *last = Some(now);
        self.look(now).await
    }

    /// Looks at the objects, unless a look that began after this call is done by somebody else meanwhile.
    async fn look_now(self: &Arc<Self>) -> Result<(), CatalogError> {
        let asked = Instant::now();
        let mut last = self.look.lock().await;
        if self.changes.was_good_since(asked) {
            return Ok(());
        }
        let now = Instant::now();
        *last = Some(now);
        self.look(now).await
    }

    async fn look(self: &Arc<Self>, now: Instant) -> Result<(), CatalogError> {
        let due = self.changes.due(&*self.objects, now).await?;
        match due.everything {
            true => self.read_everything().await?,
            false => self.read_all(due.keys.clone()).await?,
        }
        self.changes.caught_up(&due, now);
        Ok(())
    }

    async fn read_everything(self: &Arc<Self>) -> Result<(), CatalogError> {
        let mut found = Vec::new();
        for folder in lists::FOLDERS {
            found.extend(self.objects.list(folder).await?);
        }
        // Gone objects too: those of tenants that were deleted.
        let known = self.known();
        let gone: Vec<Key> = known.into_iter().filter(|key| found.binary_search(key).is_err()).collect();
        self.read_all(found.into_iter().chain(gone).collect()).await
    }

    async fn read_all(self: &Arc<Self>, keys: Vec<Key>) -> Result<(), CatalogError> {
        let reads = stream::iter(keys).map(|key| {
            let inner = self.clone();
            async move { inner.reload(&key).await }
        });
        Ok(reads.buffer_unordered(READS).try_collect::<()>().await?)
    }

    /// Takes a tenant's object into memory; what is gone or cannot be understood leaves memory as it was.
    fn take_tenant(&self, key: &Key, bytes: &[u8]) -> Result<(), String> {
        let found = decode(bytes)?;
        let id = match &found {
            Object::Tenant(stored) => &stored.tenant.tenant_id,
            Object::Tombstone(tombstone) => &tombstone.retired.tenant_id,
        };
        if key_of(id) != *key {
            return Err("it holds a tenant of another name".to_owned());
        }
        match found {
            Object::Tenant(stored) => drop(self.remember(stored)),
            Object::Tombstone(tombstone) => self.forget(tombstone.retired),
        }
        Ok(())
    }
}

/// Runs to its end even if the caller goes away: else an object could change and the cache would not know.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T, CatalogError>> + Send + 'static) -> Result<T, CatalogError> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|e| Err(ObjectError::Io(format!("the work was not done: {e}").into()).into()))
}

fn key_of(id: &TenantId) -> Key {
    Key::parse(&format!("{FOLDER}/{id}.json")).expect("a tenant id is made of what a key may hold")
}

fn decode(bytes: &[u8]) -> Result<Object, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let read = match format {
        FORMAT => serde_json::from_slice(bytes).map(Object::Tenant),
        retired::FORMAT => serde_json::from_slice(bytes).map(Object::Tombstone),
        _ => return Err(format!("format `{format}` is not known to this version")),
    };
    read.map_err(|e| e.to_string())
}

fn checked_name(name: String) -> Result<String, CatalogError> {
    if name.trim().is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(CatalogError::Invalid {
            field: "name".to_owned(),
            message: format!("must have 1 to {MAX_NAME_CHARS} characters, not only spaces, and no control characters"),
        });
    }
    Ok(name)
}

fn now() -> String {
    DateTime::<Utc>::from_timestamp_millis(Utc::now().timestamp_millis())
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests;
