//! The durable queue: a pack is accepted here, and only then is a client told 201.
//!
//! `http` sees the trait [`Producer`]; the embedded implementation is the write-ahead log in [`wal`], driven by the
//! pipeline in `actors`.

pub mod embedded;
#[cfg(feature = "kinesis")]
pub mod kinesis;
pub mod remote;
pub mod seals;
#[cfg(feature = "sqs")]
pub mod sqs;
pub mod wal;

use crate::{
    model::{
        batch::Batch,
        pack::Pack,
        tenant::{TenantId, TenantScope},
    },
    seal::{DecidedSeal, Seal},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// Where a record stands in the log: segment ordinal, and offset of the record in that segment's file.
/// Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Ordinal of the segment, from 1, never used twice.
    pub segment: u64,
    /// Byte offset of the record's header in the segment's file.
    pub offset: u32,
}

/// What was decided about one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decided {
    /// Entries that got a number.
    pub stored: u64,
    /// Entries that were there already, with the same content.
    pub duplicate: u64,
    /// Entries that became dead letters.
    pub dead_lettered: u64,
}

/// A pack that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// With `wait`: what was decided, once every store has it readable; `None` when the time ran out first.
    pub decided: Option<Decided>,
}

/// Why a pack was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// The tenant has too much that is not decided yet (429). Nothing was kept.
    #[error("the tenant has too many undecided entries; `wal.undecided_tenant_bytes` is reached")]
    TenantFull {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// No room to promise durability now: disk reserve, undecided bytes, stopping (503). Nothing was kept.
    #[error("cannot promise durability now: {reason}")]
    Unavailable {
        /// Why, without paths or internals.
        reason: &'static str,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// It may or may not be durable (504).
    #[error("it is not known whether the entries were stored")]
    Unknown,
}

/// Takes packs and makes them durable.
pub trait Producer: Send + Sync + 'static {
    /// Resolves when the pack is durable; with `wait`, when additionally every store has it readable, or after `wait`.
    /// Not cancelled by dropping: once polled, the pack is taken whole or not at all, whatever happens to the caller.
    fn accept(&self, pack: Pack, wait: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>>;

    /// An entry that is durable but that no store shows yet.
    fn pending(&self, scope: &TenantScope, id: Uuid) -> Option<crate::model::entry::StoredEntry>;

    /// Whether this tenant could be refused right now for want of room, asked before a body is read (cheap).
    fn room(&self, tenant: &TenantId) -> Result<(), AcceptError>;

    /// The tenant's counters, exact: accepted = stored + duplicate + dead_lettered + pending.
    fn counters(&self, scope: &TenantScope) -> Counters;

    /// Whether [`Counters::pending`] is all that is durable and undecided. Where other processes write too, nobody knows that: it is 0
    /// then, and `accepted` is what is decided.
    fn knows_pending(&self) -> bool {
        true
    }

    /// Where pending is not known: resolves when everything is decided and visible that this process had acknowledged for the tenant before
    /// the call, and the counters are no older than that; after `within` at the latest.
    fn until_decided<'a>(&'a self, _scope: &'a TenantScope, _within: Duration) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Cumulative counters of one tenant. `accepted` is counted where packs become durable, `pending` is what waits now;
/// neither is computed from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Entries made durable.
    pub accepted: u64,
    /// Entries that got a number and still have a row or had one before erasure.
    pub stored: u64,
    /// Entries that were repeats.
    pub duplicate: u64,
    /// Entries that became dead letters.
    pub dead_lettered: u64,
    /// Entries that are durable and undecided.
    pub pending: u64,
    /// Rows erased.
    pub erased: u64,
    /// Bytes of accepted packs.
    pub bytes: u64,
}

/// Reads packs back from the log, for those who keep only positions.
pub trait PackReader: Send + Sync {
    /// The pack that stands at `at`.
    fn read(&self, at: Position) -> BoxFuture<'static, Result<Arc<Pack>, PackReadError>>;
}

/// The pack cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("the pack cannot be read back from the log: {0}")]
pub struct PackReadError(pub String);

/// The log as the sequencer and its follower see it: where packs stand, and where seals become durable. These methods
/// block and are called from the sequencer's threads only.
pub trait SealLog: Send + Sync + 'static {
    /// Makes the seal durable: `encoded` are its bytes, `packs` what it decides, in the order of `seal.packs`.
    fn append(&self, seal: &Seal, encoded: Bytes, packs: &[Arc<Pack>]) -> Result<Position, SealLogError>;
    /// Every position of a pack, ascending, from its durability until the store shows it; empty before and after.
    fn positions(&self, pack: Uuid) -> SmallVec<[Position; 1]>;
    /// The seal is durable and stands at `at`: its packs are decided and are never copied forward any more.
    fn sealed(&self, seal: &Seal, at: Position);
    /// The store shows the seal: its packs are no longer pending, their bytes are given back, waiters hear the counts.
    fn applied(&self, seal: &DecidedSeal);
    /// These packs were delivered although a seal has decided them: whoever had them made durable once more (a forwarder of foreign
    /// messages, after a crash) is not to have them pending, nor counted.
    fn known(&self, packs: &[Uuid]) {
        let _ = packs;
    }
    /// Copies old undecided packs forward and waits for the sync. Called between two seals only.
    fn copy_forward(&self) -> Result<(), SealLogError>;
    /// Every segment below this one is gone.
    fn first_segment(&self) -> u64;
    /// Reads the packs of a durable seal back, one for each of `seal.packs`; `None` where none of its positions can be read. An
    /// error says that they cannot be read now.
    fn load(&self, seal: &Seal) -> Result<Vec<Option<Arc<Pack>>>, SealLogError>;
    /// Whether tickets are settled when the seal is durable, and not only when the store shows it: so it is where the packs stand in
    /// a queue of its own, and the seal holds a copy of them.
    fn settles_at_seal(&self) -> bool {
        false
    }
}

/// Why a seal did not become durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SealLogError {
    /// No room; nothing was kept, so the same seal may be appended again.
    #[error("the log has no room")]
    Full,
    /// The log is closed; nothing was kept, or nobody will hear that it was.
    #[error("the log is closed")]
    Closed,
    /// Another owner made this seal, or it was trimmed already: this one is a zombie, must forget everything and step down.
    #[error("another owner goes on with this partition")]
    Fenced,
    /// It is not known whether the seal is durable, but the same seal, byte by byte, may be appended again until it is.
    #[error("it is not known yet whether the seal is durable: {0}")]
    Doubtful(Arc<str>),
    /// It is not known whether the seal is durable: nothing may be decided any more by this process.
    #[error("the log failed: {0}")]
    Failed(Arc<str>),
}

/// The sequencer as the queue sees it.
pub trait Decider: Send + Sync + 'static {
    /// Decides a batch past the tenant actors (poison). Resolves when it is settled or dropped.
    fn submit(&self, batch: Batch) -> BoxFuture<'static, ()>;
    /// Asks for [`SealLog::copy_forward`] between two seals. Never blocks; a lost request is asked again.
    fn copy_forward(&self);
}

/// Durable seals, read back by their numbers, for stores that follow at their own pace and for processes that decide nothing.
pub trait SealReader: Send + Sync + 'static {
    /// Seal `n` with its packs. Dropping the future abandons the read.
    fn read(&self, n: u64) -> BoxFuture<'static, Result<Found, SealReadError>>;
    /// The largest seal that is known to be durable; 0 when there is none. Grows.
    fn tip(&self) -> watch::Receiver<u64>;
}

/// What stands under a number.
#[derive(Debug, Clone)]
pub enum Found {
    /// The seal.
    Seal(Arc<DecidedSeal>),
    /// No such seal yet.
    NotYet,
    /// It was trimmed: whoever needs it must be rebuilt from the authority.
    Trimmed,
}

/// A seal cannot be read now; it may be asked for again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a seal cannot be read: {0}")]
pub struct SealReadError(pub Arc<str>);
