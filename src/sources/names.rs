//! Ids that are made from what a foreign queue calls a message, so that a message that is delivered again makes the same ones.
//!
//! Each is a UUIDv8 of the first 122 free bits of a SHA-256 over the texts below; lengths are u32 and the index is u64, little endian.
//! Ids that were given out must never change.
//!
//! | id | SHA-256 of |
//! |---|---|
//! | of a message | `"sluice foreign message v1\0"` ‖ length of queue ‖ queue ‖ length of key ‖ key |
//! | of the pack of a message's entries for one tenant | `"sluice foreign pack v1\0"` ‖ id of the message ‖ tenant |
//! | of an entry without one of its own | `"sluice foreign entry v1\0"` ‖ id of the message ‖ index in the message |
//!
//! *queue*: `sqs:` and the path of the queue's URL (account and name), or `kinesis:` and the stream's name. *key*: SQS's MessageId,
//! or the shard's id, `:` and the sequence number.

use crate::model::tenant::TenantId;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The id of a message.
pub(super) fn message(queue: &str, key: &str) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(b"sluice foreign message v1\0");
    for text in [queue, key] {
        digest.update((text.len() as u32).to_le_bytes());
        digest.update(text);
    }
    id(digest)
}

/// The id of the pack that a message makes for a tenant.
pub(super) fn pack(message: Uuid, tenant: &TenantId) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(b"sluice foreign pack v1\0");
    digest.update(message.as_bytes());
    digest.update(tenant.as_str());
    id(digest)
}

/// The id of entry `index` of a message.
pub(super) fn entry(message: Uuid, index: usize) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(b"sluice foreign entry v1\0");
    digest.update(message.as_bytes());
    digest.update((index as u64).to_le_bytes());
    id(digest)
}

fn id(digest: Sha256) -> Uuid {
    let digest: [u8; 32] = digest.finalize().into();
    Uuid::new_v8(digest[..16].try_into().expect("16 of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_message_makes_the_same_ids_for_ever() {
        let (acme, other) = (TenantId::parse("acme").expect("a tenant"), TenantId::parse("other").expect("a tenant"));
        let one = message("sqs:/1/q", "m");
        let all = [
            one,
            message("sqs:/1/q", "n"),
            message("sqs:/1/qm", ""),
            pack(one, &acme),
            pack(one, &other),
            entry(one, 0),
            entry(one, 1),
        ];
        for (i, id) in all.iter().enumerate() {
            assert_eq!(id.get_version_num(), 8);
            assert!(!all[..i].contains(id), "{i}");
        }
        let texts = [one, pack(one, &acme), entry(one, 1)].map(|id| id.to_string());
        assert_eq!(
            texts,
            [
                "e010213b-535c-8228-9b90-64705c08188b",
                "7df47604-302a-8969-ad22-af46496d7c79",
                "67597d67-ada0-89de-9107-c90d82f3e91d"
            ],
            "an id that was given out once must never change"
        );
    }
}
