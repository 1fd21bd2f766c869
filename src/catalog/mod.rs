//! The catalog: which tenants there are, and their settings. One small object per tenant, changed by compare-and-swap,
//! cached in memory.
//!
//! A change is durable before it returns, and two changes at once lose nothing: each is made again on what the other
//! left. A tenant is read from memory alone.
//!
//! # Object `catalog/tenants/<tenant id>.json`, format 1
//!
//! `{"format": 1, "revision": N, "tenant": {tenant_id, name, settings, created_at, updated_at}}`: the tenant as the HTTP
//! contract shows it, and how often it was written, from 1. A setting that is missing has its default.

mod settings;

pub use settings::{LogLevels, Masking, SettingsPatch, TenantSettings};

use crate::{
    model::tenant::TenantId,
    objects::{Key, ObjectError, Objects, Precondition},
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use std::{future::Future, sync::Arc};

const FOLDER: &str = "catalog/tenants";
const FORMAT: u32 = 1;
/// A name is for people: longer ones are refused.
const MAX_NAME_CHARS: usize = 256;

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
    /// A setting of the contract that this version does not have yet (501). Nothing was stored.
    #[error("`{0}` is not supported by this version yet")]
    NotImplemented(String),
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
    damaged: usize,
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

impl Catalog {
    /// Reads all tenants. Objects that cannot be understood are counted in [`Catalog::damaged`] and named in the log; the
    /// others work. Must be called inside a tokio runtime, as all methods that write.
    pub async fn open(objects: Arc<dyn Objects>) -> Result<Self, CatalogError> {
        let (tenants, mut damaged) = (DashMap::new(), 0);
        for key in objects.list(FOLDER).await? {
            let Some((bytes, _)) = objects.get(&key).await? else { continue };
            match decode(&bytes) {
                Ok(stored) if key_of(&stored.tenant.tenant_id) == key => {
                    let tenant = Arc::new(stored.tenant);
                    let cached = Cached {
                        revision: stored.revision,
                        tenant: tenant.clone(),
                    };
                    tenants.insert(tenant.tenant_id.clone(), cached);
                }
                Ok(_) => {
                    damaged += 1;
                    tracing::error!(object = %key, "the object holds a tenant of another name; the tenant is unknown until it is restored");
                }
                Err(error) => {
                    damaged += 1;
                    tracing::error!(object = %key, %error, "the tenant is unknown until its object is restored");
                }
            }
        }
        Ok(Self(Arc::new(Inner { objects, tenants, damaged })))
    }

    /// How many tenants could not be read at start.
    pub fn damaged(&self) -> usize {
        self.0.damaged
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
        new.settings.apply(&mut settings)?;
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
            let mut stored = decode(&bytes).map_err(|e| CatalogError::Damaged(e.into()))?;
            settings.apply(&mut stored.tenant.settings)?;
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
        if let Err(error) = self.objects.put(&key, Bytes::from(bytes), when).await {
            // Somebody else's content may be there, or ours after all: memory is to show what is stored.
            if let Ok(Some((bytes, _))) = self.objects.get(&key).await
                && let Ok(found) = decode(&bytes)
            {
                self.remember(found);
            }
            return Err(error.into());
        }
        Ok(self.remember(stored))
    }

    /// Takes a stored tenant into memory, unless a later one is there: two writers may come here in the other order than
    /// their writes.
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
        tenant.clone()
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

fn decode(bytes: &[u8]) -> Result<Stored, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if stored.format != FORMAT {
        return Err(format!("format `{}` is not known to this version", stored.format));
    }
    Ok(stored)
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
