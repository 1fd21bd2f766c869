//! Retention: what a tenant received longer ago than its `retention_days` is erased, by `received_at`, and from its access log
//! what is older than `access_retention_days`; dead letters that were decided longer ago are removed.
//!
//! Every tenant of the catalog is looked at every `retention.interval`; an erasure is ordered only if it would remove a row, so
//! quiet tenants cost a count and no seal. [`AT_ONCE`] tenants are looked at at once, so that the sequencer puts the erasures of
//! several into one seal, and one whose erasure takes long holds nobody up. A tenant whose rows cannot be counted, or whose dead
//! letters cannot be removed, is passed over until the next round.

use super::erasure::{EraseError, Eraser};
use crate::{
    catalog::Catalog,
    model::{
        tenant::{Log, TenantId, TenantScope},
        time::{DAY_MS, now_ms},
    },
    seal::erasure::ErasureKind,
    sinks::{Authority, StoreError, dead_letter::DeadLetters},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use rand::RngExt;
use std::{convert::Infallible, sync::Arc, time::Duration};

/// Tenants that are looked at at once.
const AT_ONCE: usize = 32;

/// A round goes on to the next tenant when an erasure takes longer than this; the erasure goes on.
const LONGEST_ERASURE: Duration = Duration::from_secs(60);
/// How long a round waits for a store that is starting, before it asks again.
const STARTING_PAUSE: Duration = Duration::from_secs(1);

/// Says up to which seal no owner hands seals to the stores again, for the log of a tenant.
pub type Trimmed = Arc<dyn Fn(&TenantId) -> u64 + Send + Sync>;

/// What retention works with.
pub struct Retention {
    /// Erases, and ends the rounds when it is stopped.
    pub eraser: Eraser,
    /// Counts.
    pub authority: Arc<dyn Authority>,
    /// The tenants and their settings.
    pub catalog: Catalog,
    /// What could not be stored.
    pub dead_letters: DeadLetters,
    /// Up to which seal of a tenant's log no owner hands seals to the stores again.
    pub trimmed: Trimmed,
    /// From one round to the next.
    pub interval: Duration,
}

impl Retention {
    /// Begins the rounds; they end with [`Eraser::stop`]. Must be called in a tokio runtime.
    pub fn start(self) {
        let eraser = self.eraser.clone();
        drop(eraser.spawn::<Infallible>(async move { self.rounds().await }));
    }

    /// Round after round; ends only when the eraser is stopped. Dropping it ends a round in the middle, which is harmless.
    pub async fn rounds(&self) -> Result<Infallible, EraseError> {
        loop {
            // Processes that were started together do not all ask at once.
            let jitter = self.interval.mul_f64(rand::rng().random_range(0.0..0.1));
            tokio::time::sleep(jitter).await;
            self.round(now_ms()).await?;
            tokio::time::sleep(self.interval).await;
        }
    }

    /// One round, as of `now`. Says how many rows it removed.
    pub(super) async fn round(&self, now: i64) -> Result<u64, EraseError> {
        let cutoff = |days: u32| now - i64::from(days) * DAY_MS;
        let tenants = self.catalog.list();
        let logs = tenants.iter().flat_map(|tenant| {
            let days = [
                (Log::Audit, tenant.settings.retention_days),
                (Log::Access, tenant.settings.access_retention_days),
            ];
            days.map(|(log, days)| (TenantScope::new(log.of(&tenant.tenant_id)), cutoff(days)))
        });
        let logs: Vec<_> = logs.collect();
        let erasures = stream::iter(logs.clone()).map(|(scope, cutoff)| self.erase(scope, cutoff));
        let removed = erasures
            .buffer_unordered(AT_ONCE)
            .try_fold(0, |sum, rows| async move { Ok(sum + rows) })
            .await?;
        stream::iter(logs)
            .for_each_concurrent(AT_ONCE, |(scope, cutoff)| self.sweep(scope, cutoff))
            .await;
        Ok(removed)
    }

    /// Erases a tenant's old rows, if there are any, and says how many there were.
    async fn erase(&self, scope: TenantScope, cutoff: i64) -> Result<u64, EraseError> {
        if self.count(&scope, cutoff).await == 0 {
            return Ok(0);
        }
        let erasing = async { self.eraser.erase(&scope, ErasureKind::Retention, cutoff).await?.rows().await };
        match tokio::time::timeout(LONGEST_ERASURE, erasing).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(EraseError::Stopping)) => Err(EraseError::Stopping),
            Ok(Err(EraseError::Busy | EraseError::Unavailable | EraseError::Unknown)) | Err(_) => {
                tracing::debug!("an erasure of retention takes long, or cannot be ordered; the round goes on");
                Ok(0)
            }
        }
    }

    /// Removes a tenant's old dead letters.
    async fn sweep(&self, scope: TenantScope, cutoff: i64) {
        let trimmed = (self.trimmed)(scope.tenant());
        match self.dead_letters.sweep(&scope, cutoff, trimmed).await {
            Ok(0) => {}
            Ok(letters) => tracing::info!(letters, "dead letters were older than their tenant keeps them"),
            Err(error) => tracing::warn!(%error, "old dead letters of a tenant could not be removed; they are left for the next round"),
        }
    }

    /// How many rows would be removed; 0 when that cannot be said.
    async fn count(&self, scope: &TenantScope, cutoff: i64) -> u64 {
        loop {
            match self.authority.count_would_erase(scope, ErasureKind::Retention, cutoff).await {
                Ok(rows) => return rows,
                Err(StoreError::Starting) => tokio::time::sleep(STARTING_PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, "what a tenant's retention removes could not be counted; it is left for the next round");
                    return 0;
                }
            }
        }
    }
}
