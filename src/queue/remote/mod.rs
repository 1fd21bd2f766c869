//! A queue of other machines (SQS, Kinesis) as Sluice sees it: what both have in common, apart from the engines.
//!
//! ```text
//! accept ─▶ split ─▶ gather (per partition) ─▶ envelope ─▶ Transport      …      Receive ─▶ envelope ─▶ in flight ─▶ Delivery + Ticket
//!            part k of m     adaptive linger      SLMQ       send                  done ◀── all its items sealed ◀───── settled
//! ```
//!
//! - [`envelope`] is what a message holds; [`split`] cuts packs that are larger than a message.
//! - [`producer`] is the accepting side, one [`Transport`] for each partition; [`gather`] decides (pure) what goes out when.
//! - [`consumer`] is the deciding side of one partition, over one [`Receive`]; [`flight`] knows (pure) what is under way.
//! - [`quarantine`] keeps messages that nobody can read; [`trials`] finds those that end whoever opens them. `aws` is the configuration that the clients of AWS share.
//!
//! The engines say how messages travel and nothing else: neither of them knows packs, seals or tenants.

#[cfg(any(feature = "sqs", feature = "kinesis", feature = "s3"))]
pub mod aws;
pub mod consumer;
pub mod envelope;
pub mod flight;
pub mod gather;
pub mod producer;
pub mod quarantine;
pub mod room;
pub mod split;
#[cfg(test)]
pub(crate) mod testing;
pub mod trials;

use crate::{
    model::tenant::{TenantId, TenantScope},
    queue::{Counters, Decided, Decider},
    seal::erasure::ErasureKind,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// What an API process orders of a partition's sequencer, through the queue. The id names the order: sealed once, however often
/// it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteOrder {
    /// Its name, a UUIDv7: the job of the erasure.
    pub id: Uuid,
    /// Whose log.
    pub tenant: TenantId,
    /// What is to be done.
    pub what: Ordered,
}

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// Erase rows whose time of this kind is before the cutoff (milliseconds since 1970), up to the head when it is sealed.
    Erase {
        /// What is compared.
        kind: ErasureKind,
        /// Rows before it are erased.
        cutoff: i64,
    },
    /// Refuse the log's packs from here on, for ever, and erase all of its rows.
    Retire,
}

/// A message on its way into the queue.
#[derive(Debug, Clone)]
pub struct Message {
    /// Which bucket of tenants it holds: equal keys go the same way where an engine has several (shards).
    pub key: u64,
    /// The envelope.
    pub body: Bytes,
}

/// What the engine takes at once. Bytes are those of [`Message::body`], whatever the engine makes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one message.
    pub message_bytes: usize,
    /// Of all messages of one [`Transport::send`].
    pub batch_bytes: usize,
    /// Messages of one [`Transport::send`].
    pub batch_messages: usize,
    /// How many buckets tenants are spread over: the keys are `0..buckets`.
    pub buckets: u64,
}

/// A message was not taken, or nobody knows.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct SendError {
    /// It was certainly not taken.
    pub definite: bool,
    /// It is worth sending the same message again.
    pub retry: bool,
    /// Why, for the log; no payload, no secrets.
    pub text: Arc<str>,
}

/// Puts messages into one partition.
pub trait Transport: Send + Sync + 'static {
    /// Sends messages within [`Transport::limits`], in one request; one result for each, in their order: `Ok` when the engine has
    /// it durably. It does not try again by itself what may have taken effect. Bounded in time. Dropping the future leaves
    /// the outcome open.
    fn send(&self, messages: Vec<Message>) -> BoxFuture<'_, Vec<Result<(), SendError>>>;

    /// What it takes at once.
    fn limits(&self) -> Limits;
}

/// What the engine needs to acknowledge a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Which queue or shard of the [`Receive`] it came from.
    pub source: u32,
    /// The engine's own name for this reception (receipt handle) or place (sequence number).
    pub handle: Arc<str>,
}

/// A message that was received and is not done.
#[derive(Debug, Clone)]
pub struct Received {
    /// For acknowledging it.
    pub receipt: Receipt,
    /// The engine's name of the message, the same at every reception: for logs and the quarantine.
    pub id: Arc<str>,
    /// The envelope. `Err`: it is none of ours even in its outermost form (no base64, no body), with the bytes as they came.
    pub body: Result<Bytes, Bytes>,
    /// How often the engine has handed it out, from 1.
    pub receptions: u32,
    /// When the engine took it, milliseconds since 1970.
    pub sent_at: i64,
    /// It comes from a dead-letter queue: it was received too often already ([`trials`]).
    pub set_aside: bool,
}

/// Nothing could be received.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct ReceiveError {
    /// A person must act (permissions, no such queue): it is tried again all the same, less often.
    pub lasting: bool,
    /// Why, for the log.
    pub text: Arc<str>,
}

/// How a [`Receive`] wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// Messages of one call at most.
    pub messages: usize,
    /// Calls at a time at most, when there is a backlog.
    pub receivers: usize,
    /// A call that came back with fewer messages than it might have is followed by the next one after this time, so that what
    /// arrives meanwhile comes with one call.
    pub pause: Duration,
    /// How long a received message stays with its receiver before others get it; `None`: for ever. [`Receive::extend`] is called
    /// at half of it.
    pub hold: Option<Duration>,
}

/// Takes messages from one partition.
pub trait Receive: Send + Sync + 'static {
    /// Up to `max` messages; waits a bounded time (long poll) when there are none. Dropping the future is safe: what it had
    /// received is handed out again later.
    fn receive(&self, max: usize) -> BoxFuture<'_, Result<Vec<Received>, ReceiveError>>;

    /// Everything in these messages is sealed: they are never to be handed out again. Answers with those that must be told again;
    /// a message that is gone already is done.
    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>>;

    /// They are still worked on: holds them for another [`Reception::hold`]. Best effort: what slips away is handed out again, which is
    /// harmless. Answers with those that must be told again.
    fn extend(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>>;

    /// They will not be worked on here: others may have them at once. Best effort.
    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()>;

    /// How it wants to be asked.
    fn reception(&self) -> Reception;
}

/// The sequencer as a remote queue sees it.
pub trait Orders: Decider {
    /// Has the order sealed. Resolves when that is durable; known orders resolve at once. `Err` when the sequencer has ended: the
    /// order is delivered again.
    fn order(&self, order: RemoteOrder) -> BoxFuture<'static, Result<(), NotOrdered>>;
}

/// The order was not sealed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the order was not sealed")]
pub struct NotOrdered;

/// What became of packs, as an accepting process learns it from the seals.
pub trait Decisions: Send + Sync + 'static {
    /// Waits, `within` at most, until every store has the pack's entries readable. It listens from this call on, not from the first
    /// poll, so that a decision that comes before is not missed.
    fn decided(&self, pack: Uuid, within: Duration) -> BoxFuture<'static, Option<Decided>>;

    /// The tenant's counters as far as the seals are known here: `pending` is 0, `accepted` is what is decided.
    fn counters(&self, scope: &TenantScope) -> Counters;

    /// The queue has taken these packs of a log from this process: [`Decisions::until_decided`] waits for them.
    fn acknowledged(&self, _tenant: &TenantId, _packs: &[Uuid]) {}

    /// Resolves when what this process had [acknowledged](Decisions::acknowledged) of the log before the call is decided and visible, and the counters are
    /// no older than that; after `within` at the latest.
    fn until_decided<'a>(&'a self, _tenant: &'a TenantId, _within: Duration) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
