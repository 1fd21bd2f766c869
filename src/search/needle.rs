//! What is looked for in text: a word, a phrase or the beginning of a word.
//!
//! A text is matched by its words as [`crate::model::words`] cuts them. Cutting every text into words to find that nothing of
//! it was asked for would be most of a query's work, so that a needle first glances at the raw bytes: a word in ASCII can only
//! stand where its bytes stand, in any case. That glance decides nearly all texts by itself, at the speed of `memchr`.
//!
//! Guarantee: [`Needle::in_text`] and [`Needle::in_object`] agree with cutting the text, or each leaf of the object, into its
//! words and comparing these; the property tests below do just that. Time is linear in the text.

use crate::model::{
    leaves::for_each_leaf,
    words::{MAX_WORD_LEN, for_each_word},
};
use memchr::{memchr2_iter, memmem};

/// One or more words that follow each other in one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needle {
    /// At least one; as the word stream has them.
    words: Vec<String>,
    /// The only word is the beginning of one.
    prefix: bool,
    /// For each word the length of the longest beginning of the phrase that ends there and is not the phrase up to there
    /// (Knuth, Morris, Pratt).
    borders: Vec<usize>,
    /// The word that a glance looks for, and its rarest byte.
    rare: (usize, usize),
}

/// Letters and digits that text and identifiers are made of, rarest first; the comparison with them is what a glance costs.
const RAREST_FIRST: &[u8] = b"qjzxvkwyghpfbumcdl9876543210srnoitae";

impl Needle {
    /// Looks for these words in a row; at least one. One word is just that word.
    pub fn phrase(words: Vec<String>) -> Self {
        debug_assert!(!words.is_empty());
        let rank = |byte: u8| RAREST_FIRST.iter().position(|b| *b == byte).unwrap_or(0);
        let rarest = |word: &str| (0..word.len()).min_by_key(|at| rank(word.as_bytes()[*at])).unwrap_or(0);
        // The longest word is the one that the fewest texts have by chance.
        let scanned = (0..words.len()).max_by_key(|i| words[*i].len()).unwrap_or(0);
        let rare = (scanned, words.get(scanned).map_or(0, |word| rarest(word)));
        Self {
            borders: borders(&words),
            words,
            prefix: false,
            rare,
        }
    }

    /// Looks for words that begin with `start`.
    pub fn prefix(start: String) -> Self {
        Self {
            prefix: true,
            ..Self::phrase(vec![start])
        }
    }

    /// The words; what a text has none of it cannot match, unless this is the beginning of a word.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether it is the beginning of a word.
    pub fn is_prefix(&self) -> bool {
        self.prefix
    }

    /// Whether the words of `text` hold it.
    pub fn in_text(&self, text: &str) -> bool {
        if !self.is_plain() {
            // Lower case of ASCII is ASCII.
            return (!text.is_ascii() || self.scanned().is_ascii()) && self.in_words_of(text);
        }
        let one = self.words.len() == 1;
        let found = self.glance(text.as_bytes(), |start, end| starts_word(text, start) && (self.prefix || ends_word(text, end)));
        match found {
            true => one || self.in_words_of(text),
            false => has_odd_letters(text) && self.in_words_of(text),
        }
    }

    /// Whether the words of one of the leaves of `json`, a stored object, hold it.
    pub fn in_object(&self, json: &str) -> bool {
        if !self.may_be_in_object(json) {
            return false;
        }
        let mut found = false;
        for_each_leaf(json, &mut |_, leaf| found = found || self.in_text(&leaf));
        found
    }

    /// A glance at an object: keys are not told from values, and what is escaped is not read.
    fn may_be_in_object(&self, json: &str) -> bool {
        let bytes = json.as_bytes();
        let found = match self.is_plain() {
            // Behind a backslash a letter may stand that is none (`\nword`), so that a word may begin anywhere.
            true => self.glance(bytes, |start, _| starts_word(json, start) || memchr::memchr(b'\\', bytes).is_some()) || has_odd_letters(json),
            false => self.scanned().is_ascii() || !json.is_ascii(),
        };
        found || memmem::find(bytes, br"\u").is_some()
    }

    /// Whether an id, written with hyphens, could hold it: most words are no hexadecimal number of the right length.
    pub fn may_be_in_id(&self) -> bool {
        const GROUPS: [usize; 3] = [4, 8, 12];
        self.words.iter().all(|word| {
            let fits = if self.prefix { word.len() <= 12 } else { GROUPS.contains(&word.len()) };
            fits && word.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }

    fn scanned(&self) -> &str {
        &self.words[self.rare.0]
    }

    /// Whether a glance says anything: the word is ASCII, and not so long that it may be a longer one that was cut (before a
    /// character of up to four bytes).
    fn is_plain(&self) -> bool {
        let word = self.scanned();
        word.is_ascii() && word.len() + 4 <= MAX_WORD_LEN
    }

    /// Whether the bytes of the scanned word stand somewhere, in any case, where `accept` takes them.
    fn glance(&self, text: &[u8], accept: impl Fn(usize, usize) -> bool) -> bool {
        let (word, rare) = (self.scanned().as_bytes(), self.rare.1);
        let byte = word[rare];
        memchr2_iter(byte, byte.to_ascii_uppercase(), text).any(|at| {
            let Some(start) = at.checked_sub(rare) else { return false };
            let end = start + word.len();
            text.get(start..end).is_some_and(|here| here.eq_ignore_ascii_case(word)) && accept(start, end)
        })
    }

    /// The definition: cuts the text into words.
    fn in_words_of(&self, text: &str) -> bool {
        let (mut found, mut matched) = (false, 0);
        for_each_word(text, &mut |word| {
            if found {
                return;
            }
            if self.prefix {
                found = word.starts_with(&self.words[0]);
                return;
            }
            while matched > 0 && self.words[matched] != word {
                matched = self.borders[matched - 1];
            }
            matched += usize::from(self.words[matched] == word);
            found = matched == self.words.len();
        });
        found
    }
}

fn borders(words: &[String]) -> Vec<usize> {
    let (mut borders, mut matched) = (vec![0; words.len()], 0);
    for at in 1..words.len() {
        while matched > 0 && words[at] != words[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(words[at] == words[matched]);
        borders[at] = matched;
    }
    borders
}

/// Whether no word goes on over `at` from the left.
fn starts_word(text: &str, at: usize) -> bool {
    match at.checked_sub(1).map(|before| text.as_bytes()[before]) {
        None => true,
        Some(byte) if byte.is_ascii() => !byte.is_ascii_alphanumeric(),
        Some(_) => !text[..at].chars().next_back().is_some_and(char::is_alphanumeric),
    }
}

/// Whether no word goes on over `at` to the right.
fn ends_word(text: &str, at: usize) -> bool {
    match text.as_bytes().get(at) {
        None => true,
        Some(byte) if byte.is_ascii() => !byte.is_ascii_alphanumeric(),
        Some(_) => !text[at..].chars().next().is_some_and(char::is_alphanumeric),
    }
}

/// Whether there is a letter outside ASCII that has an ASCII letter in its lower case: the Kelvin sign (`k`) and the capital I
/// with a dot (`i` and a dot). Unicode has no others.
fn has_odd_letters(text: &str) -> bool {
    !text.is_ascii() && (memmem::find(text.as_bytes(), "\u{212a}".as_bytes()).is_some() || memmem::find(text.as_bytes(), "\u{130}".as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for_each_word(text, &mut |word| found.push(word.to_owned()));
        found
    }

    /// What [`Needle`] promises, in the plainest way.
    fn holds(needle: &Needle, text: &str) -> bool {
        let words = words(text);
        match needle.prefix {
            true => words.iter().any(|w| w.starts_with(&needle.words[0])),
            false => words.windows(needle.words.len()).any(|w| w == needle.words),
        }
    }

    fn in_a_leaf(needle: &Needle, json: &str) -> bool {
        let mut found = false;
        for_each_leaf(json, &mut |_, leaf| found |= holds(needle, &leaf));
        found
    }

    fn phrase(text: &str) -> Needle {
        Needle::phrase(words(text))
    }

    fn prefix(text: &str) -> Needle {
        Needle::prefix(words(text).remove(0))
    }

    #[test]
    fn only_two_letters_outside_ascii_become_ascii() {
        let odd: Vec<char> = ('\u{80}'..=char::MAX).filter(|c| c.to_lowercase().any(|l| l.is_ascii())).collect();
        assert_eq!(odd, ['\u{130}', '\u{212a}']);
    }

    #[test]
    fn words_phrases_and_prefixes_are_found_whole() {
        for (needle, text, expected) in [
            (phrase("disk"), "the DISK is full", true),
            (phrase("disk"), "disks", false),
            (phrase("disk"), "xdisk", false),
            (phrase("disk"), "édisk", false),
            (phrase("disk"), "disk\u{2013}full", true),
            (phrase("disk full"), "Disk, full!", true),
            (phrase("disk full"), "disk is full", false),
            (phrase("full disk"), "disk full disk", true),
            (phrase("a a b"), "a a a b", true),
            (phrase("a b a c"), "a b a b a c", true),
            (prefix("dis"), "disks", true),
            (prefix("isk"), "disks", false),
            (phrase("kelvin"), "\u{212a}elvin", true),
            (prefix("i"), "\u{130}stanbul", true),
            (phrase("straße"), "STRAßE", true),
            (phrase("日本語"), "日本語 テスト", true),
            (phrase("日本"), "日本語", false),
            (prefix("日本"), "日本語", true),
            (phrase("σας"), "ΣΑΣ", true),
        ] {
            assert_eq!(needle.in_text(text), expected, "{needle:?} in {text}");
            assert_eq!(holds(&needle, text), expected, "{needle:?} in {text}");
        }
        let long = "x".repeat(300);
        assert!(phrase(&long).in_text(&long) && phrase(&long).in_text(&"X".repeat(400)) && !phrase(&long).in_text(&"x".repeat(255)));
        assert!(prefix(&long).in_text(&"x".repeat(256)));
        // A word is cut before a character that does not fit whole.
        for (kept, last) in [(255, 'é'), (254, '日'), (253, '\u{1d7d8}'), (252, 'é')] {
            let text = format!("{}{last}", "x".repeat(kept));
            assert_eq!(phrase(&"x".repeat(kept)).in_text(&text), kept > 252, "{kept}");
            assert_eq!(holds(&phrase(&"x".repeat(kept)), &text), kept > 252, "{kept}");
        }
    }

    #[test]
    fn objects_are_searched_by_their_values_and_read_with_their_escapes() {
        for (needle, json, expected) in [
            (phrase("status"), r#"{"status":"open"}"#, false),
            (phrase("open"), r#"{"status":"open"}"#, true),
            (phrase("open closed"), r#"{"a":["open","closed"]}"#, false),
            (phrase("15"), r#"{"a":15}"#, true),
            (phrase("true"), r#"{"a":true}"#, true),
            (phrase("word"), r#"{"a":"\nword"}"#, true),
            (phrase("nword"), r#"{"a":"\nword"}"#, false),
            (phrase("été"), r#"{"a":"\u00c9t\u00e9"}"#, true),
            (phrase("abc"), r#"{"a":"\u0061bc"}"#, true),
            (prefix("wor"), r#"{"a":"x\"word"}"#, true),
            (phrase("users"), r#"{"a":"C:\\users"}"#, true),
        ] {
            assert_eq!(needle.in_object(json), expected, "{needle:?} in {json}");
        }
    }

    #[test]
    fn an_id_holds_hexadecimal_groups_only() {
        for (needle, expected) in [
            (phrase("0190a3b4"), true),
            (phrase("0190a3b4 0000"), true),
            (phrase("0190a3b"), false),
            (phrase("login"), false),
            (phrase("face"), true),
            (prefix("0190a"), true),
            (prefix("0190a3b4000001"), false),
        ] {
            assert_eq!(needle.may_be_in_id(), expected, "{needle:?}");
        }
    }

    /// Few letters, so that words meet; characters that lower-casing and cutting treat specially.
    const TEXT: &str = "[aAbBkK1 .\u{2013}é\u{c9}ßΣσς日\u{212a}\u{130}\u{307}_-]{0,24}";

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn a_text_holds_what_its_words_hold(sought in TEXT, text in TEXT, cut in any::<bool>()) {
            let list = words(&sought);
            prop_assume!(!list.is_empty());
            let needle = if cut { Needle::prefix(list[0].clone()) } else { Needle::phrase(list) };
            prop_assert_eq!(needle.in_text(&text), holds(&needle, &text), "{:?}", needle);
        }

        #[test]
        fn an_object_holds_what_its_leaves_hold(sought in TEXT, a in TEXT, b in TEXT, key in TEXT, escaped in any::<bool>(), cut in any::<bool>()) {
            let list = words(&sought);
            prop_assume!(!list.is_empty());
            let needle = if cut { Needle::prefix(list[0].clone()) } else { Needle::phrase(list) };
            let write = |text: &str| match escaped {
                true => text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>(),
                false => text.to_owned(),
            };
            let json = format!(r#"{{"{key}":["{}\n","{}",1.5]}}"#, write(&a), write(&b));
            prop_assert_eq!(needle.in_object(&json), in_a_leaf(&needle, &json), "{:?} in {}", needle, json);
        }
    }
}
