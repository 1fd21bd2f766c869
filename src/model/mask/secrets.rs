//! Keys whose values are secrets, and such keys with their values inside a text.

use super::text::Spans;
use smallvec::SmallVec;

/// Parts of a key that make it secret.
const WORDS: [&str; 27] = [
    "password",
    "passwords",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "secrets",
    "token",
    "tokens",
    "authorization",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "creds",
    "jwt",
    "bearer",
    "apikey",
    "apikeys",
    "privatekey",
    "secretkey",
    "accesskey",
    "signingkey",
    "encryptionkey",
    "sessionkey",
    "otp",
];
/// A part that ends so makes it secret: words are often written together.
const ENDS: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "privatekey",
    "accesskey",
];
/// A part that begins so makes it secret.
const STARTS: [&str; 3] = ["password", "passwd", "passphrase"];
/// Two parts that make it secret when they follow each other.
const PAIRS: [[&str; 2]; 11] = [
    ["api", "key"],
    ["api", "keys"],
    ["private", "key"],
    ["secret", "key"],
    ["access", "key"],
    ["signing", "key"],
    ["encryption", "key"],
    ["session", "key"],
    ["auth", "key"],
    ["pass", "word"],
    ["pass", "phrase"],
];
/// The shortest names among all of these, by their letters: a key that has the letters of none is no secret.
const STEMS: [&str; 15] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "authorization",
    "cookie",
    "credential",
    "creds",
    "jwt",
    "bearer",
    "key",
    "otp",
];

const fn letters(text: &str) -> u32 {
    let (bytes, mut seen, mut at) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        seen |= LETTER[bytes[at] as usize];
        at += 1;
    }
    seen
}

const LETTER: [u32; 256] = {
    let (mut table, mut at) = ([0; 256], 0);
    while at < 26 {
        table[b'a' as usize + at] = 1 << at;
        table[b'A' as usize + at] = 1 << at;
        at += 1;
    }
    table
};

const STEM_LETTERS: [u32; STEMS.len()] = {
    let (mut table, mut at) = ([0; STEMS.len()], 0);
    while at < STEMS.len() {
        table[at] = letters(STEMS[at]);
        at += 1;
    }
    table
};

/// Whether the value of this key is a secret. In any case, with `_`, `-`, dots, spaces or capitals between the parts.
pub(super) fn is_secret(key: &str) -> bool {
    let seen = key.bytes().fold(0, |seen, byte| seen | LETTER[usize::from(byte)]);
    STEM_LETTERS.iter().any(|stem| seen & stem == *stem) && has_secret_part(key)
}

fn has_secret_part(key: &str) -> bool {
    let parts = parts(key);
    let lower: SmallVec<[String; 4]> = parts
        .iter()
        .map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase())
        .collect();
    let whole: String = lower.concat();
    let is_word = |part: &str| WORDS.contains(&part) || ENDS.iter().any(|end| part.ends_with(end)) || STARTS.iter().any(|start| part.starts_with(start));
    lower.iter().any(|part| is_word(part))
        || is_word(&whole)
        || lower.windows(2).any(|two| PAIRS.iter().any(|pair| *pair == [two[0].as_str(), two[1].as_str()]))
}

/// The parts of a key: cut where it is no letter or digit, and between a small letter and a capital, and before the last of
/// several capitals when a small letter follows (`APIKey`).
fn parts(key: &str) -> SmallVec<[&str; 4]> {
    let mut parts = SmallVec::new();
    for run in key.split(|c: char| !c.is_alphanumeric()) {
        let bytes = run.as_bytes();
        let mut start = 0;
        for at in 1..bytes.len() {
            let (before, here) = (bytes[at - 1], bytes[at]);
            let hump = !before.is_ascii_uppercase() && here.is_ascii_uppercase();
            let last = before.is_ascii_uppercase() && here.is_ascii_uppercase() && bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase);
            if hump || last {
                parts.push(&run[start..at]); // a capital in ASCII begins a character
                start = at;
            }
        }
        if start < run.len() {
            parts.push(&run[start..]);
        }
    }
    parts
}

/// Longest key that is looked for in a text.
const KEY_BYTES: usize = 64;
/// `pwd`, `jwt`, `otp`.
const SHORTEST_KEY: usize = 3;
/// Words that a secret follows.
const SCHEMES: [&str; 7] = ["bearer", "basic", "digest", "token", "negotiate", "apikey", "key"];

/// The values behind secret keys of one text. Remembers where values end, so that no byte is looked at for every key before it.
#[derive(Default)]
pub(super) struct Assigned {
    value: (usize, usize),
    line: (usize, usize),
}

impl Assigned {
    /// The value behind `key=` or `key:`, whose `=` or `:` stands at `at`, if the key is a secret one.
    pub fn find(&mut self, text: &str, at: usize, spans: &mut Spans) {
        let bytes = text.as_bytes();
        let is_key = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let mut end = at;
        // `"key": …`, `key = …`
        for _ in 0..2 {
            if end > 0 && matches!(bytes[end - 1], b' ' | b'"' | b'\'') {
                end -= 1;
            }
        }
        let len = bytes[..end].iter().rev().take(KEY_BYTES).take_while(|b| is_key(b)).count();
        let key = &text[end - len..end]; // ASCII
        if len < SHORTEST_KEY || !is_secret(key) {
            return;
        }
        let start = at + 1 + bytes[at + 1..].iter().take(3).take_while(|b| b" =>:".contains(b)).count();
        let is_header = || bytes[at] == b':' && ["cookie", "authorization"].iter().any(|name| key.to_ascii_lowercase().contains(name));
        let (start, end) = match bytes.get(start) {
            Some(quote @ (b'"' | b'\'')) => {
                let inner = start + 1;
                (inner, inner + memchr::memchr(*quote, &bytes[inner..]).unwrap_or(bytes.len() - inner))
            }
            // A header has spaces, commas and semicolons in its value.
            _ if is_header() => (start, ends(&mut self.line, bytes, start, |b| matches!(b, b'\n' | b'\r'))),
            _ => {
                let first = ends(&mut self.value, bytes, start, ends_value);
                let is_scheme = SCHEMES.iter().any(|scheme| bytes[start..first].eq_ignore_ascii_case(scheme.as_bytes()));
                match bytes.get(first) {
                    Some(b' ') if is_scheme => (start, ends(&mut self.value, bytes, first + 1, ends_value)),
                    _ => (start, first),
                }
            }
        };
        if text.get(start..end).is_some_and(|value| !value.trim_matches(['*', ' ']).is_empty()) {
            spans.push((start, end));
        }
    }
}

fn ends_value(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b",;&\"'<>)]}|".contains(&byte)
}

/// The first byte from `start` on that `is_end`; `known` is the last answer: from where, and the end.
fn ends(known: &mut (usize, usize), bytes: &[u8], start: usize, is_end: fn(u8) -> bool) -> usize {
    if !(known.0..=known.1).contains(&start) || known.1 == 0 {
        let len = bytes[start..].iter().position(|b| is_end(*b)).unwrap_or(bytes.len() - start);
        *known = (start, start + len);
    }
    known.1
}
