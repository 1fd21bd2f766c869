//! The words of a text, as the HTTP contract defines them: every engine indexes this stream, and a query is cut by it.
//!
//! A word is a longest run of characters that Unicode calls alphabetic or numeric ([`char::is_alphanumeric`]),
//! lower-cased as Unicode does it ([`str::to_lowercase`]), of which the first 256 characters and then the first 256
//! bytes that are whole characters count.

use super::{
    entry::{EntryRef, Field},
    leaves::for_each_leaf,
};
use std::borrow::Cow;
use uuid::Uuid;

/// The longest word in bytes.
pub const MAX_WORD_LEN: usize = 256;

/// Calls `visit` with each word of `text` in order, repeats included.
pub fn for_each_word<F: FnMut(&str) + ?Sized>(text: &str, visit: &mut F) {
    if text.is_ascii() {
        ascii_words(text, visit);
    } else {
        any_words(text, visit);
    }
}

/// Appends the words of `text`, in order, with one space or more between them and perhaps around them; whether there was any.
pub fn append_words(text: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    if text.len() <= MAX_WORD_LEN && text.is_ascii() {
        // No word can be too long: each byte stands for itself, in lower case, or for a space, and nothing is decided byte by byte.
        out.extend(text.bytes().map(|byte| {
            let lower = byte | 0x20;
            let letter = lower.wrapping_sub(b'a') < 26;
            let digit = byte.wrapping_sub(b'0') < 10;
            let kept = if letter { lower } else { byte };
            if letter | digit { kept } else { b' ' }
        }));
    } else {
        for_each_word(text, &mut |word: &str| {
            if out.len() > start {
                out.push(b' ');
            }
            out.extend_from_slice(word.as_bytes());
        });
    }
    out[start..].iter().any(|byte| *byte != b' ')
}

/// The words of a text that is all ASCII, 64 bytes at a time: each byte is a bit, and words begin and end where bits change.
fn ascii_words<F: FnMut(&str) + ?Sized>(text: &str, visit: &mut F) {
    // Where the word in work begins, and whether the block before ended within it.
    let (mut start, mut within) = (0, 0);
    let mut base = 0;
    for block in text.as_bytes().chunks(64) {
        let (letters, capitals) = classify(block);
        let mut edges = letters ^ (letters << 1 | within);
        let mut inside = within == 1;
        while edges != 0 {
            let at = edges.trailing_zeros();
            edges &= edges - 1;
            if inside {
                // A word that began in a block before may have had its capitals there.
                let has_upper = start < base || capitals & !(u64::MAX << at) & u64::MAX << (start - base) != 0;
                visit_ascii(&text[start..base + at as usize], has_upper, visit);
            } else {
                start = base + at as usize;
            }
            inside = !inside;
        }
        within = u64::from(inside);
        base += block.len();
    }
    if within == 1 {
        visit_ascii(&text[start..], true, visit);
    }
}

fn visit_ascii<F: FnMut(&str) + ?Sized>(word: &str, has_upper: bool, visit: &mut F) {
    let word = &word[..word.len().min(MAX_WORD_LEN)];
    if !has_upper {
        return visit(word);
    }
    let mut lower = [0; MAX_WORD_LEN];
    let lower = &mut lower[..word.len()];
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    visit(std::str::from_utf8(lower).unwrap_or_default());
}

/// A bit for each of at most 64 bytes, all ASCII: whether it is a letter or a digit, and whether it is a capital.
fn classify(block: &[u8]) -> (u64, u64) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The high bit of each byte that lies between the two.
    let between = |bytes: u64, low: u8, high: u8| (bytes + u64::from(0x80 - low) * ONES) & !(bytes + u64::from(0x7f - high) * ONES) & HIGHS;
    // The high bits of eight bytes as eight bits, the first byte's lowest.
    let gather = |highs: u64| (highs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let (mut words, mut capitals) = (0, 0);
    let mut take = |i: usize, bytes: u64| {
        let letters = between(bytes | (0x20 * ONES), b'a', b'z');
        words |= gather(letters | between(bytes, b'0', b'9')) << (8 * i);
        capitals |= gather(letters & between(bytes, b'A', b'Z')) << (8 * i);
    };
    let (eights, rest) = block.as_chunks::<8>();
    for (i, eight) in eights.iter().enumerate() {
        take(i, u64::from_le_bytes(*eight));
    }
    if !rest.is_empty() {
        let bytes = rest.iter().rev().fold(0, |bytes, byte| bytes << 8 | u64::from(*byte));
        take(eights.len(), bytes);
    }
    (words, capitals)
}

/// The words of any text.
fn any_words<F: FnMut(&str) + ?Sized>(text: &str, visit: &mut F) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_alphanumeric) {
            at += 1;
        }
        if bytes.get(at).is_some_and(|b| !b.is_ascii()) {
            at = unicode_word(text, start, at, visit);
        } else if at > start {
            visit_ascii(&text[start..at], true, visit);
        } else {
            at += 1;
        }
    }
}

/// The word that starts at `start` and goes on at `at` with a character outside ASCII, if that is one of a word.
/// Returns where to go on.
fn unicode_word<F: FnMut(&str) + ?Sized>(text: &str, start: usize, at: usize, visit: &mut F) -> usize {
    let len = text[at..].find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len() - at);
    let end = at + len;
    if end > start {
        let run = &text[start..end];
        let head = run.char_indices().nth(MAX_WORD_LEN).map_or(run, |(cut, _)| &run[..cut]);
        let lower = head.to_lowercase();
        visit(&lower[..lower.floor_char_boundary(MAX_WORD_LEN)]);
    }
    // What ended the run is no part of a word: skip it, whole.
    end + text[end..].chars().next().map_or(0, char::len_utf8)
}

/// Something that an entry is found by.
pub enum Term<'t> {
    /// A word.
    Word(&'t str),
    /// A scalar of `metadata`: its path and its text, as [`for_each_leaf`] gives them.
    Leaf(&'t [Cow<'t, str>], &'t str),
}

/// Calls `visit` with each word that an entry is found by: those of its message, action, resource, ids, user, e-mail,
/// user agent, and of the values (not the keys) of its metadata and both states. Repeats included.
pub fn entry_words(entry: &EntryRef, visit: &mut dyn FnMut(&str)) {
    entry_terms(entry, &entry.texts(), &mut |term| {
        if let Term::Word(word) = term {
            visit(word);
        }
    });
}

/// Calls `visit` with the words of [`entry_words`] and with the leaves of `metadata`, which are parsed but once. `texts` are
/// [`EntryRef::texts`] of the entry.
pub fn entry_terms(entry: &EntryRef, texts: &[Option<&str>; Field::COUNT], visit: &mut dyn FnMut(Term<'_>)) {
    row_terms(entry.id(), texts, visit);
}

/// [`entry_terms`] of an entry that is given by its id and its texts.
pub fn row_terms<F: FnMut(Term<'_>) + ?Sized>(id: Uuid, texts: &[Option<&str>; Field::COUNT], visit: &mut F) {
    fn words<F: FnMut(Term<'_>) + ?Sized>(text: &str, visit: &mut F) {
        for_each_word(text, &mut |word: &str| visit(Term::Word(word)));
    }
    words(id.hyphenated().encode_lower(&mut [0; 36]), visit);
    for field in Field::ALL {
        if field == Field::IpAddress {
            continue; // addresses are found by `ip_address`, as ranges
        }
        let Some(text) = texts[field as usize] else { continue };
        if !field.is_object() {
            words(text, visit);
            continue;
        }
        for_each_leaf(text, &mut |path, leaf| {
            words(&leaf, visit);
            if field == Field::Metadata {
                visit(Term::Leaf(path, &leaf));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        entry::{NewEntry, Severity},
        pack::PackBuilder,
    };
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for_each_word(text, &mut |word| found.push(word.to_owned()));
        found
    }

    #[test]
    fn words_are_runs_of_letters_and_digits_in_lower_case() {
        for (text, expected) in [
            ("", vec![]),
            (" -–_.", vec![]),
            ("User a.b@Example.COM logged-in", vec!["user", "a", "b", "example", "com", "logged", "in"]),
            ("x1 1.50 -7", vec!["x1", "1", "50", "7"]),
            ("Straße ÄÖÜ naïveCASE", vec!["straße", "äöü", "naïvecase"]),
            ("ΟΔΟΣ ΣΑΣ", vec!["οδος", "σας"]),
            ("日本語 テスト", vec!["日本語", "テスト"]),
            ("a–b…C", vec!["a", "b", "c"]),
            ("–ab", vec!["ab"]),
            ("é", vec!["é"]),
            ("snake_case", vec!["snake", "case"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn appended_words_are_those_that_are_visited() {
        for text in [
            "",
            " -–_.",
            "User a.b@Example.COM",
            "x--y",
            "é",
            "Straße Ä",
            &"A".repeat(300),
            &"a b".repeat(100),
        ] {
            let mut out = b"before".to_vec();
            let any = append_words(text, &mut out);
            let appended = std::str::from_utf8(&out).expect("text").strip_prefix("before").expect("what was there stays");
            assert_eq!(appended.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>(), words(text), "{text}");
            assert_eq!(any, !words(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn words_are_cut_at_256_bytes_between_characters() {
        assert_eq!(words(&format!("{} b", "A".repeat(300))), ["a".repeat(256), "b".into()]);
        assert_eq!(words(&format!("a{} b", "é".repeat(300))), [format!("a{}", "é".repeat(127)), "b".into()]);
        // The Kelvin sign takes three bytes and becomes one.
        assert_eq!(words(&"\u{212a}".repeat(300)), ["k".repeat(256)]);
    }

    #[test]
    fn an_entry_is_found_by_values_and_not_by_keys() {
        let mut fields = [None; Field::COUNT];
        fields[Field::Action as usize] = Some(&b"User.LOGIN"[..]);
        fields[Field::IpAddress as usize] = Some(&[10, 0, 0, 9]);
        fields[Field::BeforeState as usize] = Some(br#"{"keyone":"Old Value"}"#);
        fields[Field::Metadata as usize] = Some(br#"{"keytwo":[{"keythree":"\u00c9t\u00e9"},true,1.5]}"#);
        let mut builder = PackBuilder::default();
        builder.push(&NewEntry {
            id: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            client_id: true,
            hash: 0,
            timestamp: 0,
            severity: Severity::Info,
            fields,
        });
        let mut found = Vec::new();
        entry_words(&builder.entry(0), &mut |word| found.push(word.to_owned()));
        let expected = "01234567 89ab cdef 0123 456789abcdef user login old value été true 1 5";
        assert_eq!(found, expected.split(' ').collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_fast_path_agrees_with_the_definition(text in "[a-zA-Z0-9 .éÉßΣς日\u{212a}–½_-]{0,60}") {
            let expected: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
            prop_assert_eq!(words(&text), expected);
        }

        #[test]
        fn words_of_ascii_are_found_wherever_blocks_of_bytes_end(text in "([a-zA-Z0-9]{0,70}[ -/:-@\\[-`{-~]{0,3}){0,8}") {
            let found = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
            let expected: Vec<String> = found.map(|w| w[..w.len().min(MAX_WORD_LEN)].to_lowercase()).collect();
            prop_assert_eq!(words(&text), expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,600}") {
            for word in words(&text) {
                prop_assert!(!word.is_empty() && word.len() <= MAX_WORD_LEN);
            }
        }
    }
}
