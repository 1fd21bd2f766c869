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
pub fn for_each_word(text: &str, visit: &mut dyn FnMut(&str)) {
    let bytes = text.as_bytes();
    let mut lower = [0; MAX_WORD_LEN];
    let mut at = 0;
    while at < bytes.len() {
        // ASCII words, by far the most, need no decoding and no allocation.
        let start = at;
        let mut has_upper = false;
        while let Some(b) = bytes.get(at).filter(|b| b.is_ascii_alphanumeric()) {
            has_upper |= b.is_ascii_uppercase();
            at += 1;
        }
        if bytes.get(at).is_some_and(|b| !b.is_ascii()) {
            at = unicode_word(text, start, at, visit);
        } else if at > start {
            let word = &text[start..at.min(start + MAX_WORD_LEN)];
            if has_upper {
                let lower = &mut lower[..word.len()];
                lower.copy_from_slice(word.as_bytes());
                lower.make_ascii_lowercase();
                visit(std::str::from_utf8(lower).unwrap_or_default());
            } else {
                visit(word);
            }
        } else {
            at += 1;
        }
    }
}

/// The word that starts at `start` and goes on at `at` with a character outside ASCII, if that is one of a word.
/// Returns where to go on.
fn unicode_word(text: &str, start: usize, at: usize, visit: &mut dyn FnMut(&str)) -> usize {
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
pub fn row_terms(id: Uuid, texts: &[Option<&str>; Field::COUNT], visit: &mut dyn FnMut(Term<'_>)) {
    let words = |text: &str, visit: &mut dyn FnMut(Term<'_>)| for_each_word(text, &mut |word| visit(Term::Word(word)));
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
        fn no_text_makes_it_panic(text in "\\PC{0,600}") {
            for word in words(&text) {
                prop_assert!(!word.is_empty() && word.len() <= MAX_WORD_LEN);
            }
        }
    }
}
