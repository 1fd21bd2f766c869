//! Phone numbers, payment cards and IBANs.
//!
//! Digits are read as *chains*: groups of digits with one separator between two of them (a space, `-`, `.`, `/`, or brackets as
//! in `(0)`). A group that is part of a word with letters belongs to no chain. Then:
//!
//! * **Card**: 13 to 19 digits that begin with 2 to 9 and pass Luhn's check, in one group, or in groups of at least three digits
//!   (the last of any length) with spaces or hyphens between. (Cards begin with 3 to 6, or 2 or 8 in some countries; nothing
//!   else tells a time in milliseconds from a card that begins with 1.)
//! * **Phone**: `+` and 8 to 15 digits; `00` and a country, 10 to 17 digits in groups; three, three and four digits, perhaps
//!   after a 1; a 0 and 8 to 11 more digits in groups of which the first has three to five; five pairs of digits from 0 on.
//!   Digits without a `+` or a separator are no phone number, since nothing tells them from any other number.
//! * **IBAN**: two letters, two digits and 11 to 30 letters or digits in any case, in one word or in groups of four, whose
//!   remainder by 97 is 1.

use super::text::{Patterns, Spans};
use smallvec::SmallVec;

const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
const IBAN_CHARS: std::ops::RangeInclusive<usize> = 15..=34;

/// What stands between two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Space,
    Hyphen,
    Dot,
    Slash,
    Bracket,
}

impl Gap {
    /// The gap that begins at `at` and is followed by a digit: which one, and its length.
    fn at(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        const GAPS: [(&[u8], Gap); 12] = [
            (b" ", Gap::Space),
            (b"-", Gap::Hyphen),
            (b".", Gap::Dot),
            (b"/", Gap::Slash),
            (b") ", Gap::Bracket),
            (b")-", Gap::Bracket),
            (b")", Gap::Bracket),
            (b" (", Gap::Bracket),
            (b"-(", Gap::Bracket),
            (b"(", Gap::Bracket),
            // A space and a hyphen that break no line.
            ("\u{a0}".as_bytes(), Gap::Space),
            ("\u{2011}".as_bytes(), Gap::Hyphen),
        ];
        let rest = bytes.get(at..)?;
        let fits = |text: &[u8]| rest.starts_with(text) && rest.get(text.len()).is_some_and(u8::is_ascii_digit);
        // Most groups are followed by something else.
        if !matches!(rest.first()?, b' ' | b'-' | b'.' | b'/' | b'(' | b')' | 0xc2 | 0xe2) {
            return None;
        }
        GAPS.iter().find(|(text, _)| fits(text)).map(|(text, gap)| (*gap, text.len()))
    }

    /// Joins what is one number, name or date; a space may stand between two.
    fn binds(self) -> bool {
        matches!(self, Self::Hyphen | Self::Dot | Self::Slash)
    }
}

/// A group of digits.
#[derive(Debug, Clone, Copy)]
struct Group {
    start: usize,
    end: usize,
    /// What stands before it, if that is a gap behind another group.
    gap: Option<Gap>,
}

impl Group {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Whether the whole text is a card: what a number in an object is compared with.
pub(super) fn is_card(digits: &[u8]) -> bool {
    CARD_DIGITS.contains(&digits.len()) && matches!(digits[0], b'2'..=b'9') && digits.iter().all(u8::is_ascii_digit) && luhn(digits.iter().rev())
}

/// Luhn's check, over digits from the last to the first.
fn luhn<'d>(digits: impl Iterator<Item = &'d u8>) -> bool {
    let value = |(i, digit): (usize, &u8)| {
        let digit = u32::from(digit - b'0');
        if i % 2 == 0 { digit } else { 2 * digit - if digit > 4 { 9 } else { 0 } }
    };
    digits.enumerate().map(value).sum::<u32>() % 10 == 0
}

/// Looks at the digits from `at` on, where a digit stands that has not been looked at; gives where to go on.
pub(super) fn find(text: &str, at: usize, patterns: Patterns, spans: &mut Spans) -> usize {
    let bytes = text.as_bytes();
    if in_word(text, at) {
        if patterns.iban {
            iban(text, at, spans);
        }
        return word_end(bytes, at);
    }
    let (mut chain, mut digits) = (SmallVec::<[Group; 16]>::new(), 0);
    let (mut start, mut gap) = (at, None);
    let on = loop {
        let end = digits_end(bytes, start);
        if goes_on(text, end) {
            break word_end(bytes, end); // digits that a letter follows
        }
        chain.push(Group { start, end, gap });
        digits += end - start;
        match Gap::at(bytes, end) {
            Some((next, len)) => (start, gap) = (end + len, Some(next)),
            None => break end,
        }
    };
    if digits >= SHORTEST {
        let chain = Chain { text, bytes, groups: &chain };
        if patterns.card {
            chain.cards(spans);
        }
        if patterns.phone {
            chain.phones(spans);
        }
    }
    on
}

/// No card and no phone number has fewer digits.
const SHORTEST: usize = 8;

/// Whether a letter or digit stands right before `at`.
fn in_word(text: &str, at: usize) -> bool {
    match at.checked_sub(1).map(|before| text.as_bytes()[before]) {
        None => false,
        Some(byte) if byte.is_ascii() => byte.is_ascii_alphanumeric(),
        Some(_) => text[..at].chars().next_back().is_some_and(char::is_alphanumeric),
    }
}

/// Whether a letter or digit stands at `at`.
fn goes_on(text: &str, at: usize) -> bool {
    match text.as_bytes().get(at) {
        None => false,
        Some(byte) if byte.is_ascii() => byte.is_ascii_alphanumeric(),
        Some(_) => text[at..].chars().next().is_some_and(char::is_alphanumeric),
    }
}

fn digits_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count()
}

/// The end of the ASCII letters and digits from `at` on.
fn word_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count()
}

struct Chain<'a> {
    text: &'a str,
    bytes: &'a [u8],
    groups: &'a [Group],
}

impl Chain<'_> {
    fn cards(&self, spans: &mut Spans) {
        for (i, first) in self.groups.iter().enumerate() {
            if !matches!(self.bytes[first.start], b'2'..=b'9') {
                continue;
            }
            let mut digits = 0;
            for (n, group) in self.groups[i..].iter().enumerate() {
                let joins = n == 0 || matches!(group.gap, Some(Gap::Space | Gap::Hyphen));
                digits += group.len();
                if !joins || digits > *CARD_DIGITS.end() {
                    break;
                }
                let all = &self.groups[i..=i + n];
                if CARD_DIGITS.contains(&digits) && luhn(all.iter().rev().flat_map(|g| self.bytes[g.start..g.end].iter().rev())) {
                    spans.push((first.start, group.end));
                }
                if group.len() < 3 {
                    break;
                }
            }
        }
    }

    fn phones(&self, spans: &mut Spans) {
        if let Some((start, end)) = self.with_plus() {
            spans.push((start, end));
        }
        for i in 0..self.groups.len() {
            let found = self.with_zeros(i).or_else(|| self.in_pairs(i)).or_else(|| self.three_three_four(i));
            if let Some(last) = found {
                let start = self.groups[i].start;
                let bracket = usize::from(start > 0 && self.bytes[start - 1] == b'(');
                spans.push((start - bracket, self.groups[last].end));
            }
        }
    }

    /// `+49 (0)151 123-4567`
    fn with_plus(&self) -> Option<(usize, usize)> {
        let first = self.groups[0].start;
        let plus = [1, 2]
            .into_iter()
            .find(|back| first >= *back && self.bytes[first - back] == b'+' && (*back == 1 || self.bytes[first - 1] == b'('))?;
        let last = self.reach(0, 15, |_| true);
        (matches!(self.bytes[first], b'1'..=b'9') && self.digits(0, last) >= 8 && self.digits(0, last) <= 15).then(|| (first - plus, self.groups[last].end))
    }

    /// `0049 151 1234567`, `0151/1234567`
    fn with_zeros(&self, i: usize) -> Option<usize> {
        let (first, len) = (self.groups[i], self.groups[i].len());
        if self.bytes[first.start] != b'0' || self.is_bound(i) {
            return None;
        }
        let second = *self.bytes.get(first.start + 1)?;
        let (most, least, good) = match second {
            b'0' => {
                let third = if len > 2 {
                    Some(first.start + 2)
                } else {
                    self.groups.get(i + 1).map(|g| g.start)
                };
                (17, 10, third.is_some_and(|at| matches!(self.bytes[at], b'1'..=b'9')))
            }
            b'1'..=b'9' => (12, 9, (3..=5).contains(&len)),
            _ => return None,
        };
        let last = self.reach(i, most, |group| group.gap != Some(Gap::Dot) && (2..=8).contains(&group.len()));
        let digits = self.digits(i, last);
        (good && last > i && (least..=most).contains(&digits) && !self.is_bound(last + 1)).then_some(last)
    }

    /// `01 23 45 67 89`
    fn in_pairs(&self, i: usize) -> Option<usize> {
        let last = i + 4;
        let pairs = self.groups.get(i..=last)?;
        let good = pairs.iter().all(|group| group.len() == 2) && self.bytes[pairs[0].start] == b'0' && self.bytes[pairs[0].start + 1] != b'0';
        let same = pairs[1..].iter().all(|group| group.gap == pairs[1].gap);
        (good && same && !self.is_bound(i) && !self.is_bound(last + 1)).then_some(last)
    }

    /// `555-123-4567`, `1 (555) 123-4567`
    fn three_three_four(&self, i: usize) -> Option<usize> {
        let one = usize::from(self.groups[i].len() == 1 && self.bytes[self.groups[i].start] == b'1');
        let last = i + one + 2;
        let number = self.groups.get(i + one..=last)?;
        let good = number.iter().map(Group::len).eq([3, 3, 4]) && number[1..].iter().all(|group| group.gap != Some(Gap::Slash));
        (good && !self.is_bound(i) && !self.is_bound(last + 1)).then_some(last)
    }

    /// The last group, from `i` on, up to which there are at most so many digits and the groups behind the first fit.
    fn reach(&self, i: usize, most: usize, fits: impl Fn(&Group) -> bool) -> usize {
        let (mut last, mut digits) = (i, self.groups[i].len());
        for (n, group) in self.groups.iter().enumerate().skip(i + 1) {
            digits += group.len();
            if digits > most || !fits(group) {
                break;
            }
            last = n;
        }
        last
    }

    fn digits(&self, first: usize, last: usize) -> usize {
        self.groups[first..=last].iter().map(Group::len).sum()
    }

    /// Whether something that belongs to it stands right before the group; behind the last group, right after that.
    fn is_bound(&self, i: usize) -> bool {
        match self.groups.get(i) {
            Some(Group { gap: Some(gap), .. }) => gap.binds(),
            Some(first) => {
                let before = |n: usize| first.start.checked_sub(n).map(|at| self.bytes[at]);
                matches!(before(1), Some(b'-' | b'.' | b'/')) && before(2).is_some_and(|b| b.is_ascii_alphanumeric())
            }
            None => {
                let end = self.groups.last().map_or(0, |last| last.end);
                matches!(self.bytes.get(end), Some(b'-' | b'.' | b'/')) && self.text.as_bytes().get(end + 1).is_some_and(u8::is_ascii_alphanumeric)
            }
        }
    }
}

/// An IBAN whose check digits begin at `at`.
fn iban(text: &str, at: usize, spans: &mut Spans) {
    let bytes = text.as_bytes();
    let Some(start) = at.checked_sub(2) else { return };
    let begins = bytes[start].is_ascii_alphabetic() && bytes[start + 1].is_ascii_alphabetic() && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
    if !begins || in_word(text, start) {
        return;
    }
    let (mut sum, mut chars, mut found) = (Remainder(0), 4, None);
    let mut from = at + 2;
    let is_char = |b: &u8| b.is_ascii_alphanumeric();
    // The first group is of four, then the others are too; or the whole is one group.
    let grouped = !bytes.get(from).is_some_and(is_char);
    loop {
        if grouped {
            let gap = [&b" "[..], b"-", "\u{a0}".as_bytes()].into_iter().find(|gap| bytes[from..].starts_with(gap));
            let Some(gap) = gap else { break };
            from += gap.len();
        }
        let len = bytes[from..].iter().take(*IBAN_CHARS.end() + 1).take_while(|b| is_char(b)).count();
        let end = from + len;
        chars += len;
        if len == 0 || chars > *IBAN_CHARS.end() || (grouped && len > 4) || goes_on(text, end) {
            break;
        }
        bytes[from..end].iter().for_each(|b| sum.add(*b));
        if IBAN_CHARS.contains(&chars) {
            let mut whole = sum;
            bytes[start..at + 2].iter().for_each(|b| whole.add(*b));
            if whole.0 == 1 {
                found = Some(end);
            }
        }
        from = end;
        if !grouped || len < 4 {
            break;
        }
    }
    spans.extend(found.map(|end| (start, end)));
}

/// Of a number that is written digit by digit, letters as 10 to 35; by 97.
#[derive(Clone, Copy)]
struct Remainder(u32);

impl Remainder {
    fn add(&mut self, char: u8) {
        self.0 = match char.to_ascii_uppercase() {
            digit @ b'0'..=b'9' => (self.0 * 10 + u32::from(digit - b'0')) % 97,
            letter => (self.0 * 100 + u32::from(letter.wrapping_sub(b'A')) + 10) % 97,
        };
    }
}
