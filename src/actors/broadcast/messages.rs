//! What the broadcaster is told. It has no mailbox messages: everything comes by its lane.

use crate::seal::DecidedSeal;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A seal that the authority shows, on its way to the sessions.
#[derive(Debug)]
pub struct Announced {
    /// The seal.
    pub seal: Arc<DecidedSeal>,
    /// Its place in the lane, in bytes, given back when it was broadcast.
    pub(super) _room: OwnedSemaphorePermit,
}
