//! The durable queue: a pack is accepted here, and only then is a client told 201.
//!
//! `http` sees the trait [`Producer`]; the embedded implementation is the write-ahead log in [`wal`], driven by the
//! pipeline in `actors`.

pub mod wal;

use crate::model::{
    pack::Pack,
    tenant::{TenantId, TenantScope},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
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
