//! What travels between the queue, the router, the tenant actors and the sequencer.

use super::{credit::Credit, pack::Pack, tenant::TenantId, ticket::Ticket};
use crate::{queue::Position, seal::Refusal};
use std::sync::Arc;

/// A durable pack on its way to a decision. Dropping it redelivers the pack.
#[derive(Debug)]
pub struct Delivery {
    /// The pack.
    pub pack: Arc<Pack>,
    /// Where it stands in the log.
    pub position: Position,
    /// How often it was delivered, from 1.
    pub attempt: u32,
    /// Answers for this delivery.
    pub ticket: Ticket,
}

/// A delivery that was admitted: it holds the right to its memory until it is settled.
#[derive(Debug)]
pub struct Work {
    /// The delivery.
    pub delivery: Delivery,
    /// Its memory; `None` for packs that do not go through a tenant's lane (poison).
    pub credit: Option<Credit>,
}

/// Whole packs of one tenant, in order, on their way to the sequencer.
#[derive(Debug)]
pub struct Batch {
    /// Whose.
    pub tenant: TenantId,
    /// The packs.
    pub works: Vec<Work>,
    /// Their bytes.
    pub bytes: usize,
    /// Set when all their entries are to be refused.
    pub refusal: Option<Refusal>,
}
