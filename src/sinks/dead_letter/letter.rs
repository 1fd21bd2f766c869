//! Letters, made from seals: what they say, and the ids that they get. Everything here is a function of the seal and its
//! packs, so that submitting a seal again makes the same letters.

use crate::{
    model::{
        entry::{ContentHash, StoredEntry},
        render,
        tenant::TenantId,
        time::rfc3339,
    },
    seal::{DecidedEntry, DecidedSeal, Decision, Refusal},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Why an entry could not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its id belongs to another content.
    IdConflict = 0,
    /// Its tenant was deleted.
    TenantDeleted = 1,
    /// Deciding it failed again and again.
    Poison = 2,
    /// It came by a foreign queue and is no entry. It was never accepted, so no counter has it.
    Undecodable = 3,
}

impl Reason {
    /// All of them; `ALL[r as usize] == r`.
    pub const ALL: [Reason; 4] = [Self::IdConflict, Self::TenantDeleted, Self::Poison, Self::Undecodable];

    /// The name in the HTTP contract.
    pub fn as_str(self) -> &'static str {
        ["id_conflict", "tenant_deleted", "poison", "undecodable"][self as usize]
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// Why this entry is a dead letter, if it is one.
    pub(super) fn of(decision: Decision, refusal: Option<Refusal>) -> Option<Self> {
        match (decision, refusal) {
            (Decision::New | Decision::Duplicate, _) => None,
            (Decision::Conflict, _) => Some(Self::IdConflict),
            (Decision::Refused, Some(Refusal::TenantDeleted)) => Some(Self::TenantDeleted),
            (Decision::Refused, Some(Refusal::Poison) | None) => Some(Self::Poison),
        }
    }
}

/// A dead letter, as the HTTP contract shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its own id.
    pub id: Uuid,
    /// Why.
    pub reason: Reason,
    /// Id of the entry.
    pub entry_id: Uuid,
    /// The entry as it was accepted; of what was no JSON, its text.
    pub entry: Box<RawValue>,
    /// What is wrong with it, where the reason does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Who sent it.
    pub actor: String,
    /// When it was accepted, RFC 3339.
    pub received_at: String,
    /// When it was decided, RFC 3339.
    pub sealed_at: String,
}

impl DeadLetter {
    /// The id under which the entry is accepted when the letter is replayed and no other id is asked for: always the same,
    /// so that a replay that was cut short can be repeated and stores nothing twice. An entry that was refused for the sake
    /// of its id gets a new one, a UUIDv8 of the first 122 free bits of
    ///
    /// SHA-256( `"sluice replay v1\0"` ‖ length of the tenant (u32, little endian) ‖ tenant ‖ id of the letter ).
    pub fn replay_id(&self, tenant: &TenantId) -> Uuid {
        if self.reason != Reason::IdConflict {
            return self.entry_id;
        }
        let mut digest = Sha256::new();
        digest.update(b"sluice replay v1\0");
        digest.update((tenant.as_str().len() as u32).to_le_bytes());
        digest.update(tenant.as_str());
        digest.update(self.id.as_bytes());
        let digest: [u8; 32] = digest.finalize().into();
        Uuid::new_v8(digest[..16].try_into().expect("16 of 32 bytes"))
    }
}

/// The letter of an entry, if it is one, and the hash of what the client sent.
pub(super) fn letter_of(seal: &DecidedSeal, decided: &DecidedEntry<'_>) -> Option<(DeadLetter, ContentHash)> {
    let reason = Reason::of(decided.decision, decided.refusal)?;
    let header = decided.pack.header();
    let entry = StoredEntry {
        record: decided.pack.record(decided.index),
        received_at: header.received_at,
        actor: header.actor.clone(),
        sequence: None,
    };
    let mut json = Vec::new();
    render::write_entry(&mut json, &header.tenant, &entry);
    let letter = DeadLetter {
        id: id_of(stamp(seal), seal.seal.n, header.pack_id, decided.index),
        reason,
        entry_id: decided.entry.id(),
        entry: raw(json),
        detail: None,
        actor: header.actor.to_string(),
        received_at: rfc3339(header.received_at),
        sealed_at: rfc3339(seal.seal.sealed_at),
    };
    Some((letter, decided.entry.hash()))
}

/// The text as JSON. Should it not be JSON, against everything that was checked when it was accepted, it is kept as a
/// string: losing or refusing it here would be worse.
pub(super) fn raw(json: Vec<u8>) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&json).into_owned();
    RawValue::from_string(text.clone()).unwrap_or_else(|_| serde_json::value::to_raw_value(&text).expect("a string always encodes"))
}

/// When the seal was made, in the 48 bits that an id has for it.
pub(super) fn stamp(seal: &DecidedSeal) -> u64 {
    seal.seal.sealed_at.clamp(0, (1 << 48) - 1) as u64
}

pub(super) fn id_of(stamp: u64, n: u64, pack_id: Uuid, index: usize) -> Uuid {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&n.to_le_bytes());
    name[8..24].copy_from_slice(pack_id.as_bytes());
    name[24..].copy_from_slice(&(index as u64).to_le_bytes());
    let mut bytes = xxhash_rust::xxh3::xxh3_128(&name).to_be_bytes();
    bytes[..6].copy_from_slice(&stamp.to_be_bytes()[2..]);
    Uuid::new_v8(bytes)
}

/// The time that a letter's id carries.
pub(super) fn time_of(id: Uuid) -> u64 {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&id.as_bytes()[..6]);
    u64::from_be_bytes(bytes)
}
