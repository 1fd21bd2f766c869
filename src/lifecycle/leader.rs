//! What one process of a deployment does for all: rounds of retention, and the deletion of tenants.
//!
//! A lease says who. Two may do it for a moment, when one of them slept: that costs work and no more, because every step may be
//! repeated by anybody: erasures cover what they cover, a tenant is retired once, an object is deleted once. A process that
//! loses the lease drops what it does in the middle; the next one begins anew, by the catalog and the seals.

use super::{deletion::Deletions, retention::Retention};
use crate::queue::seals::Lease;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The name of the lease.
pub const LEASE: &str = "lifecycle";

/// A candidate for the work. Dropping it ends nothing; see [`Leader::stop`].
pub struct Leader {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Leader {
    /// Stands by for the lease, and works while it is held. Needs a tokio runtime.
    pub fn start(lease: Lease, retention: Retention, deletions: Deletions) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(lead(lease, retention, deletions, stop.clone()));
        Self { stop, task }
    }

    /// Ends the work and gives the lease back. What was ordered goes on where it was ordered.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            tracing::error!("the leader's task had panicked");
        }
    }
}

async fn lead(mut lease: Lease, retention: Retention, deletions: Deletions, stop: CancellationToken) {
    loop {
        let held = tokio::select! {
            () = stop.cancelled() => return,
            held = lease.take() => held,
        };
        tracing::info!("this process does retention and deletions");
        let lost = held.lost();
        tokio::select! {
            () = stop.cancelled() => return held.release().await,
            () = lost.cancelled() => tracing::info!("another process does retention and deletions"),
            _stopping = retention.rounds() => return held.release().await,
            () = deletions.rounds() => {}
        }
    }
}
