//! What the seals say about a tenant, as far as a store has applied them: what reads of a remote store need besides its rows.

use super::erasure::Erasures;
use crate::model::tenant::TenantId;
use std::sync::Arc;
use tokio::sync::watch;

/// The state of the log as one store shows it. Cheap: memory only.
pub trait SealView: Send + Sync + 'static {
    /// The tenant's largest number in the seals that the store has applied, voids included; 0 when there is none.
    fn head(&self, tenant: &TenantId) -> u64;
    /// What is erased of the tenant by any durable seal that this process has seen, whether the store has applied it or not.
    fn erasures(&self, tenant: &TenantId) -> Option<Arc<Erasures>>;
    /// Changes when the store has applied another seal. With one partition it is the store's cursor; with several their sum.
    fn visible(&self) -> watch::Receiver<u64>;
    /// Whether the state was read once: before that every read is [`Starting`](crate::sinks::StoreError::Starting).
    fn ready(&self) -> bool;
    /// How long the oldest seal has waited that the store has not applied, milliseconds; 0 when it has all of them.
    fn lag_ms(&self) -> u64;
}
