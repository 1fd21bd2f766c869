//! Which part of a body a request asks for (RFC 9110, 14.2), for bodies that never change under their entity tag.
//!
//! One range in bytes is honoured. Several at once, other units and what is not understood are passed over, as the RFC
//! allows: the answer is then the whole body, which is right, only more.

use axum::http::{HeaderMap, HeaderValue, header};
use std::ops::Range;

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it (200).
    Whole,
    /// This part, which is not empty (206).
    Part(Range<u64>),
    /// Nothing of it is there (416).
    Nothing,
    /// The client has it (304).
    Known,
}

/// What the headers of a GET ask for of a body of `len` bytes whose entity tag is `tag`, a strong one.
pub fn wanted(headers: &HeaderMap, len: u64, tag: &HeaderValue) -> Wanted {
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|value| names(value, tag)) {
        return Wanted::Known;
    }
    // A range of something that has changed since would be a part of something else.
    if headers.get(header::IF_RANGE).is_some_and(|value| value != tag) {
        return Wanted::Whole;
    }
    let mut values = headers.get_all(header::RANGE).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(text), None) => parse(text, len).unwrap_or(Wanted::Whole),
        _ => Wanted::Whole,
    }
}

/// Whether a list of entity tags names this one; weak comparison, as `If-None-Match` has it.
fn names(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let Ok(list) = list.to_str() else { return false };
    let mut tags = list.split(',').map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag.as_bytes())
}

fn parse(text: &str, len: u64) -> Option<Wanted> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let range = match (first, last) {
        ("", last) => len.saturating_sub(number(last)?)..len,
        (first, "") => number(first)?..len,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            first..len.min(last.saturating_add(1))
        }
    };
    Some(if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) })
}

/// Digits alone; what is more than any body has is as much as there could be.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(header::HeaderName, &'static str)], len: u64) -> Wanted {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        wanted(&headers.collect(), len, &HeaderValue::from_static("\"v1\""))
    }

    #[test]
    fn one_range_of_bytes_is_understood() {
        for (text, want) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-5", Wanted::Part(2..6)),
            ("Bytes= 2-5 ", Wanted::Part(2..6)),
            ("bytes=7-", Wanted::Part(7..10)),
            ("bytes=7-99999999999999999999999", Wanted::Part(7..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=0-18446744073709551615", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("rows=0-1", Wanted::Whole),
            ("0-1", Wanted::Whole),
        ] {
            assert_eq!(of(&[(header::RANGE, text)], 10), want, "{text}");
        }
        assert_eq!(of(&[], 10), Wanted::Whole);
        assert_eq!(of(&[(header::RANGE, "bytes=0-")], 0), Wanted::Nothing);
    }

    #[test]
    fn a_range_of_another_version_is_the_whole_and_a_known_one_is_nothing() {
        let range = (header::RANGE, "bytes=0-1");
        for (tag, want) in [
            ("\"v1\"", Wanted::Part(0..2)),
            ("\"v0\"", Wanted::Whole),
            ("W/\"v1\"", Wanted::Whole), // a weak tag does not promise the same bytes
            ("Sat, 21 Nov 2026 12:00:00 GMT", Wanted::Whole),
        ] {
            assert_eq!(of(&[range.clone(), (header::IF_RANGE, tag)], 10), want, "{tag}");
        }
        for (tags, want) in [("\"v0\", W/\"v1\"", Wanted::Known), ("*", Wanted::Known), ("\"v0\"", Wanted::Part(0..2))] {
            assert_eq!(of(&[range.clone(), (header::IF_NONE_MATCH, tags)], 10), want, "{tags}");
        }
    }
}
