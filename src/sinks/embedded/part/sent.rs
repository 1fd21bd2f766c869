//! Content hashes that need no bytes: a row says what of it the client sent, and the hash follows from that.
//!
//! The hash covers the fields of the record, the severity and the time, each only if the client sent it
//! ([`crate::model::parse`]). So three bits and the row make the 16 bytes again. Whoever writes a row tries; a row whose hash
//! is another than it would be (none that the intake of today makes) keeps its hash in full, and has no such bits.

use crate::model::{
    entry::{ContentHash, EntryRef, Field, Severity},
    parse::{Sent, content_hash},
};

const SEVERITY: u8 = 1;
const TIMESTAMP: u8 = 2;
const USER: u8 = 4;
const ALL: u8 = SEVERITY | TIMESTAMP | USER;

/// What a hash is over besides what the client sent of it.
pub(super) struct Hashed<'a> {
    pub(super) fields: [Option<&'a [u8]>; Field::COUNT],
    pub(super) severity: Severity,
    pub(super) timestamp: i64,
}

impl<'a> Hashed<'a> {
    pub(super) fn of(entry: &EntryRef<'a>, texts: &[Option<&'a str>; Field::COUNT]) -> Self {
        let mut fields = texts.map(|text| text.map(str::as_bytes));
        fields[Field::IpAddress as usize] = entry.raw(Field::IpAddress);
        Self {
            fields,
            severity: entry.severity(),
            timestamp: entry.timestamp(),
        }
    }

    /// The hash, if the client sent what the bits say; `scratch` is memory to use again.
    pub(super) fn hash(&self, bits: u8, scratch: &mut Vec<u8>) -> ContentHash {
        let mut sent = Sent {
            fields: self.fields,
            severity: (bits & SEVERITY != 0).then_some(self.severity),
            timestamp: (bits & TIMESTAMP != 0).then_some(self.timestamp),
        };
        if bits & USER == 0 {
            sent.fields[Field::UserId as usize] = None;
        }
        content_hash(&sent, scratch)
    }
}

/// Finds the bits of one row after the other: mostly they are those of the row before.
pub(super) struct Finder {
    last: u8,
    scratch: Vec<u8>,
}

impl Default for Finder {
    fn default() -> Self {
        Self {
            last: ALL,
            scratch: Vec::new(),
        }
    }
}

impl Finder {
    /// The bits by which the row has this hash; `None`: by none.
    pub(super) fn find(&mut self, row: &Hashed<'_>, hash: ContentHash) -> Option<u8> {
        let has_user = row.fields[Field::UserId as usize].is_some();
        let bits = std::iter::once(self.last).chain((0..=ALL).rev().filter(|bits| *bits != self.last));
        // Without a user it makes no difference whether one was sent; a severity that the server puts in is the least grave.
        let mut differ = bits.filter(|bits| (has_user || bits & USER != 0) && (row.severity == Severity::default() || bits & SEVERITY != 0));
        let found = differ.find(|bits| row.hash(*bits, &mut self.scratch) == hash)?;
        self.last = found;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_client_sent_the_hash_is_found_again() {
        let mut finder = Finder::default();
        for user in [None, Some(&b"ann"[..])] {
            for severity in Severity::ALL {
                for bits in 0..=ALL {
                    let mut fields = [None; Field::COUNT];
                    fields[Field::Message as usize] = Some(&b"hello"[..]);
                    fields[Field::UserId as usize] = user;
                    let row = Hashed {
                        fields,
                        severity,
                        timestamp: -5,
                    };
                    let hash = row.hash(bits, &mut Vec::new());
                    let found = finder.find(&row, hash);
                    if severity != Severity::default() && bits & SEVERITY == 0 {
                        assert_eq!(found, None, "no such entry is made");
                        continue;
                    }
                    assert_eq!(found.map(|bits| row.hash(bits, &mut Vec::new())), Some(hash), "{bits} {severity:?} {user:?}");
                    assert_eq!(finder.find(&row, hash ^ 1), None);
                }
            }
        }
    }
}
