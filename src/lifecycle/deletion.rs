//! The deletion of a tenant: everything that it has goes, and its id is never used again.
//!
//! ```text
//! DELETE ─▶ tombstone in the catalog, durable ─▶ 202           the tenant is unknown from here on; nothing of it is accepted
//!            └▶ seal: retired, all rows erased ─▶ counted       of the log and of its access log; what was on its way is refused
//!                └▶ dead letters ─▶ exports ─▶ keys and users ─▶ the tombstone says that it is finished
//! ```
//!
//! Guarantees: whatever was durable when the tombstone was, or comes after it, is gone or refused in the end; the work goes on
//! after a crash or a stop at any point, by the tombstones that do not say that they are finished, and by those that the seals
//! do not know (damage may have taken the seal). Each step can be repeated. A step that fails is tried again, with back-off,
//! until it succeeds or the process stops. Tenants do not wait for each other.
//!
//! What is left: the tombstone, the tenant's id and counters in the manifest, and for a while bytes of rows that nobody can
//! read any more, until parts are rewritten (within a day) and the log is trimmed. Not here: who may delete (`http::tenants`).

use super::{
    erasure::{EraseError, Eraser},
    export::Exports,
};
use crate::{
    catalog::{Catalog, CatalogError, Retired},
    model::tenant::{TenantId, TenantScope},
    objects::ObjectError,
    sinks::dead_letter::DeadLetters,
};
use std::{collections::HashSet, fmt::Display, sync::Arc, time::Duration};
use tokio::sync::oneshot;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What deletions work with.
pub struct Parts {
    /// Where the tombstones are, and keys and users.
    pub catalog: Catalog,
    /// Retires and erases, and ends deletions when it is stopped.
    pub eraser: Eraser,
    /// What could not be stored.
    pub dead_letters: DeadLetters,
    /// Export jobs and their files.
    pub exports: Exports,
}

/// Deletes tenants. Cheap to clone; its work ends with [`Eraser::stop`].
#[derive(Clone)]
pub struct Deletions(Arc<Parts>);

impl Deletions {
    /// Takes up what the last run left. `retired` are the tenants that the seals call so. Must be called in a tokio runtime.
    pub fn start(parts: Parts, retired: &HashSet<TenantId>) -> Self {
        let this = Self(Arc::new(parts));
        for left in this.0.catalog.retired() {
            let streams = streams(&left.tenant_id);
            if left.finished_at.is_none() || streams.iter().any(|stream| !retired.contains(stream.tenant())) {
                tracing::info!(job = %left.job, "the deletion of a tenant goes on");
                let parts = this.0.clone();
                drop(this.0.eraser.spawn(async move { parts.carry_out(left).await }));
            }
        }
        this
    }

    /// Deletes the tenant: it is unknown for good when this returns, and the rest follows. [`CatalogError::NotFound`] when there
    /// is no such tenant, or no more. Once polled, dropping it ends nothing but the waiting.
    pub async fn delete(&self, id: &TenantId) -> Result<Retired, CatalogError> {
        let (parts, id) = (self.0.clone(), id.clone());
        let (tell, told) = oneshot::channel();
        drop(self.0.eraser.spawn(async move {
            let buried = parts.catalog.retire(&id).await;
            let _ = tell.send(buried.clone()); // nobody has to wait for it
            match buried {
                Ok(retired) => parts.carry_out(retired).await,
                Err(_) => Ok(()),
            }
        }));
        let stopping = || CatalogError::Unavailable(ObjectError::Io("the process is stopping".into()));
        told.await.unwrap_or_else(|_| Err(stopping()))
    }
}

/// The log of a tenant, and its access log.
fn streams(tenant: &TenantId) -> [TenantScope; 2] {
    [tenant.clone(), tenant.access_log()].map(TenantScope::new)
}

impl Parts {
    async fn carry_out(&self, retired: Retired) -> Result<(), EraseError> {
        let (id, job) = (&retired.tenant_id, retired.job);
        let streams = streams(id);
        self.dead_letters.forget(streams.iter().map(|stream| stream.tenant().clone()));
        let (entries, reads) = tokio::try_join!(self.eraser.retire(&streams[0]), self.eraser.retire(&streams[1]))?;
        for stream in &streams {
            until_done("dead letters", || self.dead_letters.purge(stream)).await;
        }
        until_done("exports", || self.exports.purge(&streams[0])).await; // of both logs
        until_done("keys and users", || self.catalog.drop_tenant(id)).await;
        until_done("tombstone", || self.catalog.finish(id)).await;
        tracing::info!(%job, entries, reads, "a tenant was deleted");
        Ok(())
    }
}

/// Does a step of a deletion, again and again until it succeeds.
async fn until_done<F: Future<Output = Result<(), E>>, E: Display>(what: &str, step: impl Fn() -> F) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = step().await {
        tracing::warn!(what, %error, retry_after = ?pause, "a tenant's deletion cannot go on yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
