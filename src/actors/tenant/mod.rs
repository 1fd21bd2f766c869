//! In work by `actors`: the trait that the sequencer implements.

use crate::model::batch::Batch;
use futures_util::future::BoxFuture;

/// Where batches go: the sequencer.
pub trait BatchSink: Send + Sync + 'static {
    /// Resolves when the batch was settled or dropped; its tickets have been answered then. The batches of one tenant are
    /// decided in the order in which their futures were first polled; each is polled first on the tenant's shard.
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()>;
}
