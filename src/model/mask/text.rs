//! Patterns in a text: which parts of it are hidden.
//!
//! The text is gone over once, eight bytes at a time, up to the next byte that a match could begin at or contain: `@`, a digit,
//! `:` or `=`. What stands there is judged by itself. Matches are widened to whole words and joined.
//!
//! A match may hide what kept something beside it from being one, so that the masked text is gone over again until nothing is
//! found: masking what is masked changes nothing, by construction. A text that is not at rest after a few turns is hidden
//! whole: nobody writes such a text but to find out how long this takes.

use super::{MASKED, numbers, secrets::Assigned};
use smallvec::SmallVec;

/// Turns until a text is hidden whole.
const TURNS: usize = 4;

/// Which patterns are hidden.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Patterns {
    pub email: bool,
    pub phone: bool,
    pub card: bool,
    pub iban: bool,
    pub secrets: bool,
}

impl Patterns {
    /// Whether there is one.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// Parts of a text: first byte, and the byte behind.
pub(super) type Spans = SmallVec<[(usize, usize); 4]>;

/// The text with what matches hidden; `None` if nothing does.
pub(super) fn masked(text: &str, patterns: Patterns) -> Option<String> {
    if !patterns.any() {
        return None;
    }
    let mut shown = turn(text, patterns)?;
    for _ in 1..TURNS {
        match turn(&shown, patterns) {
            Some(next) => shown = next,
            None => return Some(shown),
        }
    }
    Some(MASKED.to_owned())
}

fn turn(text: &str, patterns: Patterns) -> Option<String> {
    let mut spans = Spans::new();
    find(text, patterns, &mut spans);
    if spans.is_empty() {
        return None;
    }
    spans.iter_mut().for_each(|span| *span = widened(text, *span));
    spans.sort_unstable();
    let (mut out, mut kept) = (String::with_capacity(text.len()), 0);
    for (i, (start, end)) in spans.iter().copied().enumerate() {
        // What overlaps or touches the one before is one with it.
        if i == 0 || start > kept {
            out.push_str(&text[kept..start]);
            out.push_str(MASKED);
            kept = end;
        } else {
            kept = kept.max(end);
        }
    }
    out.push_str(&text[kept..]);
    Some(out)
}

fn find(text: &str, patterns: Patterns, spans: &mut Spans) {
    let bytes = text.as_bytes();
    let numbers = patterns.phone || patterns.card || patterns.iban;
    let (mut assigned, mut at) = (Assigned::default(), 0);
    while let Some(mark) = next_mark(bytes, at) {
        at = mark + 1;
        match bytes[mark] {
            b'0'..=b'9' if numbers => at = numbers::find(text, mark, patterns, spans),
            b'@' if patterns.email => email(text, mark, spans),
            b':' | b'=' if patterns.secrets => assigned.find(text, mark, spans),
            _ => {}
        }
    }
}

/// The first byte from `at` on that lies between `0` and `@`: digits, `@`, `:`, `=`, and `;<>?`, which nobody minds.
#[inline]
fn next_mark(bytes: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
        // Without their high bits no byte carries into the next; `!word` leaves out those that had it.
        let low = word & (ONES * 0x7f);
        let marks = (low + ONES * (0x80 - 0x30)) & !(low + ONES * (0x80 - 0x41)) & !word & (ONES * 0x80);
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|b| (b'0'..=b'@').contains(b)).map(|found| at + found)
}

/// The span, to the edges of the words that it begins and ends in. No pattern of today ends inside of a word; that none ever
/// does is what lets filters of words rule out blocks.
fn widened(text: &str, (start, end): (usize, usize)) -> (usize, usize) {
    (start - word_before(text, start), end + word_after(text, end))
}

/// Bytes of the word that goes on to the left of `at`.
fn word_before(text: &str, at: usize) -> usize {
    let is_word = |c: &char| c.is_alphanumeric();
    text[..at].chars().rev().take_while(is_word).map(char::len_utf8).sum()
}

/// Bytes of the word that goes on to the right of `at`.
fn word_after(text: &str, at: usize) -> usize {
    let is_word = |c: &char| c.is_alphanumeric();
    text[at..].chars().take_while(is_word).map(char::len_utf8).sum()
}

/// An address around the `@` at `at`: something before it, and a domain of two labels or more whose last begins with a letter.
fn email(text: &str, at: usize, spans: &mut Spans) {
    let is_local = |c: &char| c.is_alphanumeric() || "._%+-'~!#$^".contains(*c);
    let local: usize = text[..at].chars().rev().take_while(is_local).map(char::len_utf8).sum();
    let local = text[at - local..at].trim_start_matches(['.', '\'', '!', '#', '$', '^', '~']);
    let is_domain = |c: &char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let domain: usize = text[at + 1..].chars().take_while(is_domain).map(char::len_utf8).sum();
    let domain = &text[at + 1..at + 1 + domain];
    if local.is_empty() || domain.starts_with('.') {
        return;
    }
    // The longest beginning of it that is a domain: a full stop or a number may follow.
    let mut end = domain.len();
    while let Some(dot) = domain[..end].rfind('.') {
        let last = domain[dot + 1..end].trim_end_matches(['-', '_']);
        if last.chars().next().is_some_and(char::is_alphabetic) && last.chars().nth(1).is_some() {
            spans.push((at - local.len(), at + 1 + dot + 1 + last.len()));
            return;
        }
        end = dot;
    }
}
