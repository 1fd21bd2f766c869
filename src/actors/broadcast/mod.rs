//! In work by `actors`: the trait that the follower calls.

use crate::seal::DecidedSeal;
use std::sync::Arc;

/// Shows what the authority has.
pub trait Publisher: Send + Sync {
    /// The authority has applied `seal`. Never blocks.
    fn publish(&self, seal: &Arc<DecidedSeal>);
}
