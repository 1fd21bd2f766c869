//! Seals: the durable decisions about packs, numbered without a hole. A number exists only in a seal.
//!
//! This module holds the seal as plain data; [`codec`] its bytes, [`erasure`] what seals erase, [`state`] what a sequence of
//! seals adds up to, [`source`] how far sources without acks are decided, [`view`] what a store of another process needs to know of it.

pub mod codec;
pub mod erasure;
pub mod source;
pub mod state;
pub mod view;

use self::{erasure::Erasure, source::SealSource};
use crate::{
    model::{entry::EntryRef, pack::Pack, tenant::TenantId},
    queue::Position,
};
use smallvec::SmallVec;
use std::sync::Arc;
use uuid::Uuid;

/// What was decided about one entry (2 bits in the seal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Decision {
    /// It is new and got the tenant's next number.
    New = 0,
    /// The same id with the same content was there before.
    Duplicate = 1,
    /// The same id with other content was there before: dead letter `id_conflict`.
    Conflict = 2,
    /// It was refused: dead letter with the pack's [`Refusal`].
    Refused = 3,
}

/// Why the refused entries of a pack were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The tenant was deleted.
    TenantDeleted = 1,
    /// The pack crashed its actor again and again.
    Poison = 2,
}

/// The decision about one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealPack {
    /// The pack's name.
    pub pack_id: Uuid,
    /// Index into [`Seal::tenants`].
    pub tenant: u32,
    /// Every position of the pack in the log (more than one when it was copied forward). The last one is read.
    pub positions: SmallVec<[Position; 1]>,
    /// One per entry, in the pack's order.
    pub decisions: Vec<Decision>,
    /// Why, where a decision is [`Decision::Refused`].
    pub refusal: Option<Refusal>,
    /// Number of the first new entry of this pack; the next new ones follow without a hole. 0 when none is new.
    pub first_sequence: u64,
}

/// What a seal does to one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealTenant {
    /// Whom.
    pub tenant: TenantId,
    /// The head (largest number given out) after this seal, voids included.
    pub head: u64,
    /// Numbers without an entry, inclusive, that this seal skips (gap after damage).
    pub void: Option<(u64, u64)>,
    /// Entries numbered by this seal.
    pub stored: u64,
    /// Repeats found by this seal.
    pub duplicate: u64,
    /// Dead letters made by this seal.
    pub dead_lettered: u64,
    /// Entries in the packs that this seal decides (independent of the three above).
    pub accepted: u64,
    /// Bytes of the packs that this seal decides.
    pub bytes: u64,
}

/// An erasure, sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealErasure {
    /// Index into [`Seal::tenants`].
    pub tenant: u32,
    /// What is erased.
    pub erasure: Erasure,
}

/// The result of an earlier erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealRemoved {
    /// Index into [`Seal::tenants`].
    pub tenant: u32,
    /// The erasure, the first pending one of this tenant.
    pub job: Uuid,
    /// Rows that it removed and no erasure before it.
    pub rows: u64,
}

/// Seal `n`: the decision about a set of whole packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its number, from 1.
    pub n: u64,
    /// CRC32C of the encoded seal n − 1 (0 for the first, or after a break of the chain).
    pub previous_crc: u32,
    /// Random name of the sequencer that made it.
    pub owner: Uuid,
    /// When it was made, milliseconds since 1970.
    pub sealed_at: i64,
    /// A seal before this one may be lost: heads have jumped, `n` may have skipped.
    pub chain_break: bool,
    /// The tenants it touches, each once.
    pub tenants: Vec<SealTenant>,
    /// The packs it decides, in numbering order.
    pub packs: Vec<SealPack>,
    /// What it erases.
    pub erasures: Vec<SealErasure>,
    /// What erasures of earlier seals have removed.
    pub removed: Vec<SealRemoved>,
    /// Indexes into [`Seal::tenants`], ascending: whose packs are refused from the next seal on, for ever. Each of them has an
    /// erasure in the same seal that takes all its rows.
    pub retired: Vec<u32>,
    /// Where shards of sources without acks stand that have gone on since the last seal, ascending by name, each once.
    pub sources: Vec<SealSource>,
}

impl Seal {
    /// The tenants that it retires.
    pub fn retires(&self) -> impl Iterator<Item = &TenantId> {
        self.retired.iter().map(|index| &self.tenants[*index as usize].tenant)
    }
}

/// A durable seal as it was found in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSeal {
    /// The decision.
    pub seal: Seal,
    /// CRC32C of the encoded seal.
    pub crc: u32,
    /// Length of the encoded seal in the log, bytes.
    pub encoded_len: usize,
}

/// A durable seal with the packs that it decides: what stores apply.
#[derive(Debug, Clone)]
pub struct DecidedSeal {
    /// The decision.
    pub seal: Seal,
    /// CRC32C of the encoded seal.
    pub crc: u32,
    /// The packs, in the order of `seal.packs`.
    pub packs: Vec<Arc<Pack>>,
    /// Length of the encoded seal in the log, bytes.
    pub encoded_len: usize,
}

/// One entry with the decision about it.
pub struct DecidedEntry<'a> {
    /// The pack that holds it.
    pub pack: &'a Arc<Pack>,
    /// Its index in the pack.
    pub index: usize,
    /// The record.
    pub entry: EntryRef<'a>,
    /// The decision.
    pub decision: Decision,
    /// Its number, if it is new.
    pub sequence: Option<u64>,
    /// Why, if it was refused.
    pub refusal: Option<Refusal>,
}

impl DecidedSeal {
    /// Every entry of every pack in numbering order, with its decision and number.
    pub fn entries(&self) -> impl Iterator<Item = DecidedEntry<'_>> {
        self.seal.packs.iter().zip(&self.packs).flat_map(|(decided, pack)| {
            let mut next = decided.first_sequence;
            decided.decisions.iter().enumerate().map(move |(index, decision)| {
                let sequence = (*decision == Decision::New).then(|| {
                    next += 1;
                    next - 1
                });
                DecidedEntry {
                    pack,
                    index,
                    entry: pack.entry(index),
                    decision: *decision,
                    sequence,
                    refusal: decided.refusal,
                }
            })
        })
    }

    /// The tenant of a pack of the seal.
    pub fn tenant_of(&self, pack: &SealPack) -> &TenantId {
        &self.seal.tenants[pack.tenant as usize].tenant
    }
}
