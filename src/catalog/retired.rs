//! Deleted tenants. What is left of one is a tombstone in the place of its object: it keeps the id from ever being used again,
//! and says how far the deletion has come.
//!
//! Guarantees: once [`Catalog::retire`] has returned, the tenant is unknown here, with its keys and users, now and after every
//! start, and its id is taken. Other processes see the tombstone as they see every edit. Not here: erasing what the tenant
//! has stored ([`crate::lifecycle::deletion`]).
//!
//! # Object `catalog/tenants/<tenant id>.json`, format 2
//!
//! `{"format": 2, "revision": N, "retired": {tenant_id, job, requested_at, finished_at}}`, in the place of format 1: name and
//! settings are gone. Builds that know only format 1 count it as damaged, so the id is neither known nor free there.

use super::{Catalog, CatalogError, Inner, Object, decode, detached, key_of, now};
use crate::{
    model::tenant::TenantId,
    objects::{ObjectError, Precondition, Version},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format of a tombstone.
pub(super) const FORMAT: u32 = 2;

/// A deleted tenant, and the job that erases it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its id, which nobody gets again.
    pub tenant_id: TenantId,
    /// The name of the job.
    pub job: Uuid,
    /// When it was asked for, RFC 3339.
    pub requested_at: String,
    /// When everything was erased; `None` while that goes on.
    pub finished_at: Option<String>,
}

/// A tombstone as its object has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Tombstone {
    pub(super) format: u32,
    pub(super) revision: u64,
    pub(super) retired: Retired,
}

impl Catalog {
    /// Puts a tombstone in the place of a tenant; durable when it returns. [`CatalogError::NotFound`] for a tenant that is not
    /// there, or that was deleted before. Once polled it happens whole or not at all, also when it is dropped.
    pub async fn retire(&self, id: &TenantId) -> Result<Retired, CatalogError> {
        let (inner, id) = (self.0.clone(), id.clone());
        detached(async move { inner.retire(&id).await }).await
    }

    /// Everything of a deleted tenant is erased: its tombstone says so, durably. Again, nothing happens. Dropping as with
    /// [`Catalog::retire`].
    pub async fn finish(&self, id: &TenantId) -> Result<(), CatalogError> {
        let (inner, id) = (self.0.clone(), id.clone());
        detached(async move { inner.finish(&id).await }).await
    }

    /// The deleted tenants, from memory, in no order.
    pub fn retired(&self) -> Vec<Retired> {
        self.0.retired.iter().map(|retired| retired.clone()).collect()
    }
}

impl Inner {
    async fn retire(&self, id: &TenantId) -> Result<Retired, CatalogError> {
        loop {
            let (found, version) = self.stored(id).await?;
            let Object::Tenant(tenant) = found else {
                return Err(CatalogError::NotFound);
            };
            let retired = Retired {
                tenant_id: id.clone(),
                job: Uuid::now_v7(),
                requested_at: now(),
                finished_at: None,
            };
            match self.bury(tenant.revision + 1, retired.clone(), version).await {
                Err(CatalogError::Unavailable(ObjectError::Conflict)) => {} // somebody was faster: once more, on top of theirs
                done => return done.map(|()| retired),
            }
        }
    }

    async fn finish(&self, id: &TenantId) -> Result<(), CatalogError> {
        loop {
            let (found, version) = self.stored(id).await?;
            let Object::Tombstone(Tombstone { revision, mut retired, .. }) = found else {
                return Err(CatalogError::NotFound);
            };
            if retired.finished_at.is_some() {
                return Ok(());
            }
            retired.finished_at = Some(now());
            match self.bury(revision + 1, retired, version).await {
                Err(CatalogError::Unavailable(ObjectError::Conflict)) => {}
                done => return done,
            }
        }
    }

    async fn stored(&self, id: &TenantId) -> Result<(Object, Version), CatalogError> {
        let (bytes, version) = self.objects.get(&key_of(id)).await?.ok_or(CatalogError::NotFound)?;
        Ok((decode(&bytes).map_err(|e| CatalogError::Damaged(e.into()))?, version))
    }

    async fn bury(&self, revision: u64, retired: Retired, version: Version) -> Result<(), CatalogError> {
        let key = key_of(&retired.tenant_id);
        let tombstone = Tombstone {
            format: FORMAT,
            revision,
            retired,
        };
        let bytes = serde_json::to_vec(&tombstone).expect("plain data always encodes");
        self.write(&key, bytes.into(), Precondition::Version(version)).await?;
        self.forget(tombstone.retired);
        Ok(())
    }

    /// Takes a tombstone into memory. It is there before the tenant goes, so that nobody who comes late with the tenant as
    /// it was brings it back.
    pub(super) fn forget(&self, retired: Retired) {
        let id = retired.tenant_id.clone();
        // A tombstone is changed once; the unfinished one may come late.
        let keep = self.retired.get(&id).is_some_and(|known| known.finished_at.is_some());
        if !keep {
            self.retired.insert(id.clone(), retired);
        }
        self.tenants.remove(&id);
        self.keys.forget(&id);
        self.users.forget(&id);
    }
}
