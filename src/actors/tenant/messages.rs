//! The control messages of a tenant actor: few, small, never on behalf of an event. No order holds between them and the
//! data lane.

use actix::Message;
use tokio::sync::oneshot;

/// Asks what the actor holds.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Snapshot {
    /// Where the answer goes; dropped unanswered when the actor ends first.
    pub(crate) reply: oneshot::Sender<TenantSnapshot>,
}

/// Asks the actor to end as soon as what it has is settled, without waiting to be idle.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Retire;

/// What a tenant actor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantSnapshot {
    /// Which incarnation it is.
    pub generation: u64,
    /// Packs that wait for a batch.
    pub queued_packs: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Batches that the sequencer has.
    pub batches_in_flight: usize,
}
