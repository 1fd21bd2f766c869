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
//! In a deployment of several processes, the one that was asked writes the tombstone, and the one that holds the lease
//! ([`super::leader`]) finds it in the catalog and does the rest ([`Deletions::shared`], [`Deletions::rounds`]). Dead letters are written by the
//! owner of the tenant's partition there: they are purged when that has written, or left out, those of every seal up to the one that
//! retires the tenant, and once more in the rounds of the following days, should a process that slept write one late.
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
    model::time::{DAY_MS, now_ms, parse_rfc3339},
    objects::ObjectError,
    queue::seals::DEAD_LETTERS,
    sinks::dead_letter::DeadLetters,
    tail::Tail,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{collections::HashSet, fmt::Display, sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the catalog is asked for tombstones in a deployment: as often as it looks for changes itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Tenants that are deleted at once in a deployment.
const AT_ONCE: usize = 64;
/// How often, and how long after the deletion, what came late is purged.
const PURGE_EVERY: Duration = Duration::from_secs(3600);
const PURGED_FOR: i64 = 7 * DAY_MS;

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
    /// The seals, where other processes make them; `None` where this one does.
    pub tail: Option<Tail>,
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

    /// Deletions of a deployment: [`Deletions::delete`] writes the tombstone, and who holds the lease does the [`Deletions::rounds`].
    pub fn shared(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Finds tombstones and carries the deletions out, until it is dropped; then, or when the process dies, they are taken up by who
    /// calls this next.
    pub async fn rounds(&self) {
        let parts = &self.0;
        let (mut in_hand, mut work) = (HashSet::new(), FuturesUnordered::new());
        let mut purged: Option<Instant> = None;
        loop {
            let all = parts.catalog.retired();
            let is_open = |left: &&Retired| left.finished_at.is_none() || parts.is_unknown(&left.tenant_id);
            for left in all.iter().filter(is_open) {
                if in_hand.len() < AT_ONCE && in_hand.insert(left.tenant_id.clone()) {
                    tracing::info!(job = %left.job, "a tenant is deleted");
                    let left = left.clone();
                    work.push(async move {
                        let id = left.tenant_id.clone();
                        let _ = parts.carry_out(left).await; // an end before the end is the process's
                        id
                    });
                }
            }
            if purged.is_none_or(|at| at.elapsed() > PURGE_EVERY) {
                purged = Some(Instant::now());
                parts.purge_again(&all).await;
            }
            let look = sleep(LOOK_EVERY);
            tokio::select! {
                Some(done) = work.next() => drop(in_hand.remove(&done)),
                () = look => {}
            }
        }
    }

    /// Deletes the tenant: it is unknown for good when this returns, and the rest follows. [`CatalogError::NotFound`] when there
    /// is no such tenant, or no more. Once polled, dropping it ends nothing but the waiting.
    pub async fn delete(&self, id: &TenantId) -> Result<Retired, CatalogError> {
        if self.0.tail.is_some() {
            return self.0.catalog.retire(id).await;
        }
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
            if let Some(tail) = &self.tail {
                tail.applied(stream.tenant(), DEAD_LETTERS).await;
            }
            until_done("dead letters", || self.dead_letters.purge(stream)).await;
        }
        until_done("exports", || self.exports.purge(&streams[0])).await; // of both logs
        until_done("keys and users", || self.catalog.drop_tenant(id)).await;
        until_done("tombstone", || self.catalog.finish(id)).await;
        tracing::info!(%job, entries, reads, "a tenant was deleted");
        Ok(())
    }
}

impl Parts {
    /// Whether the seals do not know that the tenant is retired.
    fn is_unknown(&self, tenant: &TenantId) -> bool {
        let unknown = |tail: &Tail| tail.is_loaded() && streams(tenant).iter().any(|stream| !tail.is_retired(stream.tenant()));
        self.tail.as_ref().is_some_and(unknown)
    }

    /// Deletes what came late of tenants that were deleted lately.
    async fn purge_again(&self, all: &[Retired]) {
        let since = now_ms() - PURGED_FOR;
        let lately = |left: &&Retired| left.finished_at.as_deref().and_then(parse_rfc3339).is_some_and(|at| at >= since);
        for left in all.iter().filter(lately) {
            let streams = streams(&left.tenant_id);
            for stream in &streams {
                if let Err(error) = self.dead_letters.purge(stream).await {
                    tracing::warn!(job = %left.job, %error, "late dead letters of a deleted tenant are left for the next round");
                }
            }
            if let Err(error) = self.exports.purge(&streams[0]).await {
                tracing::warn!(job = %left.job, %error, "late exports of a deleted tenant are left for the next round");
            }
        }
    }
}

/// Does a step of a deletion, again and again until it succeeds.
async fn until_done<F: Future<Output = Result<(), E>>, E: Display>(what: &str, step: impl Fn() -> F) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = step().await {
        tracing::warn!(what, %error, retry_after = ?pause, "a tenant's deletion cannot go on yet");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
