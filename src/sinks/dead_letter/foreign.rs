//! What a foreign queue brought and what is no entry, although its tenant can be told: dead letters that no seal made.
//!
//! One object per message and tenant, as for a seal; in the place of the seal's number stands the message
//! ([`FOREIGN`]` | `63 bits of its id), in the place of its time the time of the message. So the same message, delivered
//! again, makes the same name and the same letters, and an object that is there is left alone. Only after it is written the
//! message is acknowledged; should it come again all the same after its letters were removed, they are there again.

use super::{
    DeadLetter, DeadLetters, FORMAT, Place, Reason, Stored,
    letter::{id_of, raw},
    name::{self, FOREIGN},
};
use crate::{
    model::{
        tenant::TenantId,
        time::{now_ms, rfc3339},
    },
    objects::{ObjectError, Precondition},
};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A message of a foreign queue.
#[derive(Debug, Clone, Copy)]
pub struct ForeignMessage<'a> {
    /// A name that is made from the queue's and the message's: the same at every delivery.
    pub id: Uuid,
    /// When its queue took it, milliseconds since 1970.
    pub sent_at: i64,
    /// Who speaks through this queue.
    pub actor: &'a str,
}

/// What is wrong with one entry of it.
#[derive(Debug, Clone)]
pub struct ForeignLetter {
    /// Its place in the message.
    pub index: usize,
    /// The id that it would have got.
    pub entry_id: Uuid,
    /// What was sent, as JSON if it is JSON.
    pub original: Vec<u8>,
    /// What is wrong with it.
    pub detail: String,
}

impl DeadLetters {
    /// Writes what is wrong with a message; durable when it returns. Written again, nothing happens. A tenant that was deleted
    /// gets none. Cancel-safe.
    pub async fn write_foreign(&self, tenant: &TenantId, message: ForeignMessage<'_>, letters: Vec<ForeignLetter>) -> Result<(), ObjectError> {
        let shared = &self.0.shared;
        if letters.is_empty() || shared.is_forgotten_tenant(tenant) {
            return Ok(());
        }
        let sent_at = message.sent_at.clamp(0, (1 << 48) - 1) as u64;
        let n = FOREIGN | xxhash_rust::xxh3::xxh3_64(message.id.as_bytes()) >> 1;
        let letter = |letter: ForeignLetter| DeadLetter {
            id: id_of(sent_at, n, message.id, letter.index),
            reason: Reason::Undecodable,
            entry_id: letter.entry_id,
            entry: original(letter.original),
            detail: Some(letter.detail),
            actor: message.actor.to_owned(),
            received_at: rfc3339(message.sent_at),
            sealed_at: rfc3339(now_ms()),
        };
        let mut dead_letters: Vec<_> = letters.into_iter().map(letter).collect();
        dead_letters.sort_unstable_by_key(|letter| letter.id);
        let key = name::letters(tenant, Place { sealed_at: sent_at, n }, &dead_letters);
        let hashes = dead_letters.iter().map(|_| format!("{:032x}", 0)).collect();
        let bytes = serde_json::to_vec(&Stored {
            format: FORMAT,
            dead_letters,
            hashes,
        })
        .expect("letters always encode");
        let removals = shared.shelves.removals();
        match shared.objects.put(&key, bytes.into(), Precondition::Absent).await {
            Ok(_) | Err(ObjectError::Conflict) => shared.shelves.written(tenant, key, removals),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// JSON as it was sent, anything else as a text.
fn original(bytes: Vec<u8>) -> Box<RawValue> {
    match serde_json::from_slice::<Box<RawValue>>(&bytes) {
        Ok(json) => json,
        Err(_) => raw(serde_json::to_vec(&String::from_utf8_lossy(&bytes)).expect("a text always encodes")),
    }
}
