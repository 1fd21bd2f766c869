//! Cursors: where the next page of a list begins, as a text that only this installation can make.
//!
//! A cursor is 112 lower-case hexadecimal digits of 56 bytes (integers big endian):
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | the number up to which the list goes: `as_of` of its first page |
//! | 8 | 8 + 8 | time (signed milliseconds) and number of the last entry shown |
//! | 24 | 8 | entries shown before it, it included |
//! | 32 | 8 | the number of the next page |
//! | 40 | 16 | HMAC-SHA256, cut, over all of the above, the tenant, the order and the filters |
//!
//! So it says nothing that its holder has not been shown, and it opens only for the tenant, filters and order that it was
//! made for; these are not in it. The key comes from the secret of the data folder and so survives restarts. A new version
//! may refuse the cursors of an old one: the list begins again then.

use super::error::{Code, FieldError, Problem};
use crate::{
    model::{filter::Filter, tenant::TenantId},
    sinks::{Place, Sort},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PAYLOAD: usize = 40;
const MAC: usize = 16;
/// Keeps this key apart from all others that come from the same secret.
const PURPOSE: &[u8] = b"sluice cursor, version 1";

/// The key that signs cursors. Not printable on purpose.
#[derive(Clone)]
pub struct CursorKey(Hmac<Sha256>);

/// What a cursor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Only numbers up to this one.
    pub upto: u64,
    /// The last entry shown.
    pub place: Place,
    /// How many were shown so far.
    pub shown: u64,
    /// Which page comes next, from 2.
    pub page: u64,
}

/// What a cursor is good for.
#[derive(Clone, Copy)]
pub struct Purpose<'a> {
    /// Whose entries.
    pub tenant: &'a TenantId,
    /// Which of them.
    pub filter: &'a Filter,
    /// In which order.
    pub sort: Sort,
}

impl CursorKey {
    /// The key of an installation, from the secret of its data folder.
    pub fn derive(secret: &[u8]) -> Self {
        let key = keyed(secret).chain_update(PURPOSE).finalize().into_bytes();
        Self(keyed(&key))
    }

    /// The text of a cursor.
    pub fn seal(&self, cursor: &Cursor, purpose: Purpose<'_>) -> String {
        let payload = cursor.payload();
        let mac = self.mac(&payload, purpose).finalize().into_bytes();
        let digits = payload.iter().chain(&mac[..MAC]).flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from_digit(digit.into(), 16).expect("four bits")).collect()
    }

    /// Reads a text: 422 `invalid_cursor` unless it was made by [`CursorKey::seal`] for the same purpose.
    pub fn open(&self, text: &str, purpose: Purpose<'_>) -> Result<Cursor, Problem> {
        let bytes = bytes(text).ok_or_else(|| invalid("`cursor` is not one that this server has given out; send `next_cursor` of the last answer as it is"))?;
        let (payload, mac) = bytes.split_at(PAYLOAD);
        let payload: &[u8; PAYLOAD] = payload.try_into().expect("cut at its length");
        // In constant time.
        self.mac(payload, purpose)
            .verify_truncated_left(mac)
            .map_err(|_| invalid("`cursor` is not of this list; send it with the filters and the `sort` of the answer that it came with"))?;
        Ok(Cursor::of(payload))
    }

    fn mac(&self, payload: &[u8; PAYLOAD], purpose: Purpose<'_>) -> Hmac<Sha256> {
        let tenant = purpose.tenant.as_str();
        self.0
            .clone()
            .chain_update(payload)
            .chain_update([tenant.len() as u8, purpose.sort as u8]) // a tenant's name has at most 63 bytes
            .chain_update(tenant)
            .chain_update(canonical(purpose.filter))
    }
}

/// Every condition of the filter as text that is the same for filters that mean the same, whatever order they were given in.
/// By `Debug`, which no field that is added to a filter can escape, and which quotes every text.
fn canonical(filter: &Filter) -> String {
    fn sorted<T: Clone + Ord>(list: &mut Vec<T>) {
        list.sort_unstable();
        list.dedup();
    }
    let mut filter = filter.clone();
    for texts in [
        &mut filter.user_id,
        &mut filter.email,
        &mut filter.session_id,
        &mut filter.resource_id,
        &mut filter.request_id,
        &mut filter.actor,
        &mut filter.action,
        &mut filter.resource_type,
    ] {
        sorted(texts);
    }
    sorted(&mut filter.timestamps);
    sorted(&mut filter.ids);
    sorted(&mut filter.severity);
    sorted(&mut filter.user_agent);
    filter.ip_address.sort_unstable_by_key(|range| (range.addr, range.prefix));
    filter.ip_address.dedup();
    filter.metadata.iter_mut().for_each(|leaf| sorted(&mut leaf.values));
    filter.metadata.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    format!("{filter:?}")
}

impl Cursor {
    fn payload(&self) -> [u8; PAYLOAD] {
        let mut payload = [0; PAYLOAD];
        let words = [
            self.upto,
            self.place.timestamp as u64, // the same bits
            self.place.sequence,
            self.shown,
            self.page,
        ];
        for (into, word) in payload.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_be_bytes());
        }
        payload
    }

    fn of(payload: &[u8; PAYLOAD]) -> Self {
        let word = |i: usize| u64::from_be_bytes(payload[8 * i..8 * i + 8].try_into().expect("8 bytes"));
        Self {
            upto: word(0),
            place: Place {
                timestamp: word(1) as i64, // the same bits
                sequence: word(2),
            },
            shown: word(3),
            page: word(4),
        }
    }
}

/// 422 for a cursor.
pub fn invalid(message: &'static str) -> Problem {
    Problem::new(Code::InvalidCursor, message).with_errors(vec![FieldError::new("cursor", "invalid_cursor", message)])
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length is taken")
}

/// The bytes of exactly as many lower-case digits as a cursor has.
fn bytes(text: &str) -> Option<[u8; PAYLOAD + MAC]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; PAYLOAD + MAC];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        entry::Severity,
        filter::{IpRange, LeafFilter},
    };

    const CURSOR: Cursor = Cursor {
        upto: 1 << 40,
        place: Place { timestamp: -3, sequence: 77 },
        shown: 50,
        page: 2,
    };

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    fn purpose<'a>(tenant: &'a TenantId, filter: &'a Filter) -> Purpose<'a> {
        Purpose {
            tenant,
            filter,
            sort: Sort::TimestampDesc,
        }
    }

    #[test]
    fn it_opens_for_what_it_was_made_for_and_after_a_restart() {
        let (acme, filter) = (tenant("acme"), Filter::default());
        let purpose = purpose(&acme, &filter);
        let text = CursorKey::derive(b"a secret").seal(&CURSOR, purpose);
        assert_eq!(CursorKey::derive(b"a secret").open(&text, purpose).expect("opens"), CURSOR);
    }

    #[test]
    fn it_opens_for_nothing_else() {
        let (acme, other) = (tenant("acme"), tenant("acmf"));
        let filter = Filter {
            user_id: vec!["ann".into()],
            ..Filter::default()
        };
        let key = CursorKey::derive(b"a secret");
        let right = purpose(&acme, &filter);
        let text = key.seal(&CURSOR, right);
        let none = Filter::default();
        let wrong = [
            ("another tenant", &key, purpose(&other, &filter)),
            ("another filter", &key, purpose(&acme, &none)),
            (
                "another order",
                &key,
                Purpose {
                    sort: Sort::SequenceDesc,
                    ..right
                },
            ),
            ("another secret", &CursorKey::derive(b"b secret"), right),
        ];
        for (what, key, purpose) in wrong {
            let problem = key.open(&text, purpose).expect_err(what);
            assert_eq!(problem.code(), Code::InvalidCursor, "{what}");
        }
        // Every digit counts, and there is one way to write each.
        for at in 0..text.len() {
            let mut digits = text.clone().into_bytes();
            digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(digits).expect("digits");
            assert!(key.open(&changed, right).is_err(), "digit {at}");
        }
        let short = &text[..text.len() - 1];
        for text in [
            "",
            "x",
            short,
            &format!("{text}0"),
            &format!("{text}{text}"),
            &text.to_uppercase(),
            &format!("é{}", &text[2..]),
        ] {
            assert!(key.open(text, right).is_err(), "{text}");
        }
    }

    #[test]
    fn what_means_the_same_opens_and_every_condition_counts() {
        let (acme, key) = (tenant("acme"), CursorKey::derive(b"a secret"));
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let leaf = |path: &str, values: &[&str]| LeafFilter {
            path: list(&[path]),
            values: list(values),
        };
        let ip = |text| IpRange::parse(text).expect("a range");
        let filter = Filter {
            action: list(&["b", "a"]),
            severity: vec![Severity::Error, Severity::Info],
            ip_address: vec![ip("10.0.0.0/8"), ip("1.1.1.1")],
            metadata: vec![leaf("x", &["2", "1"]), leaf("w", &["1"])],
            ..Filter::default()
        };
        let same = Filter {
            action: list(&["a", "b", "a"]),
            severity: vec![Severity::Info, Severity::Error],
            ip_address: vec![ip("1.1.1.1"), ip("10.0.0.0/8")],
            metadata: vec![leaf("w", &["1"]), leaf("x", &["1", "2"])],
            ..Filter::default()
        };
        let text = key.seal(&CURSOR, purpose(&acme, &filter));
        assert!(key.open(&text, purpose(&acme, &same)).is_ok());
        let one = |change: fn(&mut Filter)| {
            let mut other = filter.clone();
            change(&mut other);
            other
        };
        for other in [
            one(|f| f.from = Some(0)),
            one(|f| f.to = Some(0)),
            one(|f| f.min_sequence = Some(0)),
            one(|f| f.max_sequence = Some(9)),
            one(|f| f.timestamps.push((0, 1))),
            one(|f| f.ids.push(uuid::Uuid::nil())),
            one(|f| f.user_agent.push(vec!["curl".into()])),
            one(|f| f.metadata[0].values[0].push('x')),
            one(|f| f.action[0].push_str("\", \"a")),
            one(|f| f.search = crate::search::parse("word").ok()),
            one(|f| f.user_id = std::mem::take(&mut f.action)),
        ] {
            assert!(key.open(&text, purpose(&acme, &other)).is_err(), "{other:?}");
        }
    }
}
