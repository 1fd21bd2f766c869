//! The content hash: what it means that two entries with one id are the same entry.
//!
//! It covers what the client sent, in canonical form, and nothing that the server filled in; the id is the key under
//! which hashes are compared, and no part of them.
//!
//! # Canonical content, version 1 (integers little endian)
//!
//! | size | what |
//! |---|---|
//! | 1 | version, 1 |
//! | … | for each part that was sent (not absent, not `null`), in ascending order of its tag: |
//! | 1 | tag |
//! | 4 | length n of the content |
//! | n | content |
//!
//! | tag | content |
//! |---|---|
//! | 0–12 | a field of the record by [`Field`]: the bytes that the record holds. Texts unescaped; `ip_address` as 4 or 16 network-order bytes, an IPv4-mapped one as 4, and no part when it was sent as `""`; objects as sent without whitespace between tokens, unknown fields that moved into `metadata` included. `user_id` only if the client sent one |
//! | 32 | severity, if the client sent one: 1 byte, `Severity as u8` |
//! | 33 | timestamp, if the client sent one: 8 bytes, signed milliseconds since 1970 |
//!
//! So a severity left out and an explicit `INFO` differ, as do `""` and nothing; `before` and `before_state` do not.
//! The hash is XXH3-128 of these bytes with seed 0.

use crate::model::entry::{ContentHash, Field, Severity};

const VERSION: u8 = 1;
const SEVERITY_TAG: u8 = 32;
const TIMESTAMP_TAG: u8 = 33;

/// What the client sent, checked and canonical.
pub struct Sent<'a> {
    /// The bytes of each field that the record holds.
    pub fields: [Option<&'a [u8]>; Field::COUNT],
    /// `None`: it was left to the server.
    pub severity: Option<Severity>,
    /// Likewise; milliseconds since 1970.
    pub timestamp: Option<i64>,
}

/// The hash; `scratch` is memory to use again.
pub fn content_hash(sent: &Sent<'_>, scratch: &mut Vec<u8>) -> ContentHash {
    scratch.clear();
    scratch.push(VERSION);
    let mut part = |tag: u8, content: &[u8]| {
        scratch.push(tag);
        scratch.extend_from_slice(&(content.len() as u32).to_le_bytes());
        scratch.extend_from_slice(content);
    };
    for (tag, field) in sent.fields.iter().enumerate() {
        if let Some(content) = field {
            part(tag as u8, content);
        }
    }
    if let Some(severity) = sent.severity {
        part(SEVERITY_TAG, &[severity as u8]);
    }
    if let Some(timestamp) = sent.timestamp {
        part(TIMESTAMP_TAG, &timestamp.to_le_bytes());
    }
    xxhash_rust::xxh3::xxh3_128(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_under_the_hash_are_those_of_the_specification() {
        let mut fields = [None; Field::COUNT];
        fields[Field::ResourceType as usize] = Some(&b"doc"[..]);
        fields[Field::Message as usize] = Some(b"");
        let mut scratch = vec![7; 9];
        let sent = Sent {
            fields,
            severity: Some(Severity::Error),
            timestamp: Some(-2),
        };
        let hash = content_hash(&sent, &mut scratch);
        let expected = [
            &[1u8][..],
            &[1, 3, 0, 0, 0],
            b"doc",
            &[9, 0, 0, 0, 0],
            &[32, 1, 0, 0, 0, 2],
            &[33, 8, 0, 0, 0, 0xFE, 255, 255, 255, 255, 255, 255, 255],
        ]
        .concat();
        assert_eq!(scratch, expected);
        assert_eq!(hash, xxhash_rust::xxh3::xxh3_128(&expected));
    }
}
