//! JSON text, read and written without building values.
//!
//! [`Scanner`] walks over JSON text once and hands out slices of it: it accepts exactly the texts of RFC 8259 and says
//! where and why any other text is none. On the way it notes what the log entry's rules ask for: whitespace between
//! tokens, nesting, escapes, and escapes that stand for no character (a lone surrogate) or for U+0000.
//!
//! It is written by hand because error positions, untouched slices of the original and these notes are wanted from
//! *one* pass; a JSON library gives values, or slices of some of them, and a second pass for the rest.
//!
//! It never recurses on input, never panics, and allocates only for nesting beyond 64 levels (one bit a level).
//! It takes `&str`: that the bytes are UTF-8 is checked once, by the caller.

use std::borrow::Cow;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Why a text is no JSON, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (byte {at})")]
pub struct SyntaxError {
    /// Offset in bytes from the start of the scanned text; its length when the text ends too early.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The sort of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// The sort as a noun with its article, for messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A value in the text, and what was noted on the way over it.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    /// The text of the value, quotes included.
    pub raw: &'a str,
    /// Levels of nesting: 0 for a scalar, 1 for a container of scalars.
    pub depth: u32,
    /// Its sort.
    pub kind: Kind,
    /// There is whitespace between its tokens.
    pub spaced: bool,
    /// A string in it has an escape.
    pub escaped: bool,
    /// Every escape stands for a character, and none for U+0000.
    pub sound: bool,
}

impl<'a> Value<'a> {
    /// The text of a string, unescaped; what stands for no character becomes U+FFFD. Only for [`Kind::String`].
    pub fn string(&self) -> Cow<'a, str> {
        debug_assert_eq!(self.kind, Kind::String);
        let inner = &self.raw[1..self.raw.len() - 1];
        if self.escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }

    /// The text without whitespace between tokens; borrowed when there is none.
    pub fn minified(&self) -> Cow<'a, str> {
        if self.spaced { Cow::Owned(minify(self.raw)) } else { Cow::Borrowed(self.raw) }
    }
}

/// Walks over JSON text. After an error its place in the text is of no use.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at byte `at` of `text`.
    pub fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    /// Where it stands, in bytes from the start of the text.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text from `start`, an earlier [`Scanner::at`], to here.
    pub fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// The next byte.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes over `byte` if it is next.
    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Goes over whitespace; whether there was any.
    #[inline]
    pub fn skip_space(&mut self) -> bool {
        let start = self.at;
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
        self.at > start
    }

    /// Goes over whitespace up to the end of the text.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        self.skip_space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.fail("nothing may follow here")
        }
    }

    /// An error at this place.
    pub fn fail<T>(&self, what: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            at: self.at,
            what: if self.at >= self.text.len() { "the text ends too early" } else { what },
        })
    }

    /// Goes over the `:` between a key and its value, and over the whitespace around it; whether there was any.
    #[inline]
    pub fn colon(&mut self) -> Result<bool, SyntaxError> {
        let before = self.skip_space();
        if !self.eat(b':') {
            return self.fail("`:` was expected");
        }
        Ok(before | self.skip_space())
    }

    /// Goes over a string.
    pub fn string(&mut self) -> Result<Value<'a>, SyntaxError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.fail("a string was expected");
        }
        let notes = self.skip_string()?;
        Ok(Value {
            raw: self.since(start),
            depth: 0,
            kind: Kind::String,
            spaced: false,
            escaped: notes.escaped,
            sound: notes.sound,
        })
    }

    /// Goes over any value. It starts here: whitespace has been skipped.
    pub fn value(&mut self) -> Result<Value<'a>, SyntaxError> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            _ => {
                let kind = self.scalar()?;
                return Ok(Value {
                    raw: self.since(start),
                    depth: 0,
                    kind,
                    spaced: false,
                    escaped: false,
                    sound: true,
                });
            }
        };
        let mut found = Value {
            raw: "",
            depth: 0,
            kind,
            spaced: false,
            escaped: false,
            sound: true,
        };
        self.container(&mut found)?;
        found.raw = self.since(start);
        Ok(found)
    }

    /// Goes over a container, iteratively.
    fn container(&mut self, found: &mut Value<'a>) -> Result<(), SyntaxError> {
        let mut nesting = Nesting::default();
        loop {
            // A value starts here.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    self.at += 1;
                    nesting.push(open == b'{');
                    found.depth = found.depth.max(nesting.depth);
                    found.spaced |= self.skip_space();
                    let empty = self.peek() == Some(if open == b'{' { b'}' } else { b']' });
                    if !empty {
                        if open == b'{' {
                            self.key(found)?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    let notes = self.skip_string()?;
                    found.escaped |= notes.escaped;
                    found.sound &= notes.sound;
                }
                _ => {
                    self.scalar()?;
                }
            }
            // A value ended here, or an empty container is about to.
            loop {
                found.spaced |= self.skip_space();
                match (self.peek(), nesting.in_object()) {
                    (Some(b','), in_object) => {
                        self.at += 1;
                        found.spaced |= self.skip_space();
                        if in_object {
                            self.key(found)?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        nesting.pop();
                        if nesting.depth == 0 {
                            return Ok(());
                        }
                    }
                    (_, true) => return self.fail("`,` or `}` was expected"),
                    (_, false) => return self.fail("`,` or `]` was expected"),
                }
            }
        }
    }

    /// Goes over a key, its colon and the whitespace up to its value.
    #[inline]
    fn key(&mut self, found: &mut Value<'a>) -> Result<(), SyntaxError> {
        if self.peek() != Some(b'"') {
            return self.fail("a key in double quotes was expected");
        }
        let notes = self.skip_string()?;
        found.escaped |= notes.escaped;
        found.sound &= notes.sound;
        found.spaced |= self.colon()?;
        Ok(())
    }

    fn scalar(&mut self) -> Result<Kind, SyntaxError> {
        let (word, kind) = match self.peek() {
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(b't') => ("true", Kind::Bool),
            Some(b'f') => ("false", Kind::Bool),
            Some(b'n') => ("null", Kind::Null),
            _ => return self.fail("a value was expected"),
        };
        let rest = &self.text.as_bytes()[self.at..];
        let same = rest.iter().zip(word.as_bytes()).take_while(|(a, b)| a == b).count();
        self.at += same;
        if same == word.len() { Ok(kind) } else { self.fail("a value was expected") }
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Kind::Number)
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.fail("a digit was expected") } else { Ok(()) }
    }

    /// Goes over a string whose opening quote is next.
    #[inline]
    fn skip_string(&mut self) -> Result<StringNotes, SyntaxError> {
        let mut notes = StringNotes { escaped: false, sound: true };
        self.at += 1;
        loop {
            self.at += plain_len(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(notes);
                }
                Some(b'\\') => {
                    notes.escaped = true;
                    notes.sound &= self.escape()?;
                }
                _ => return self.fail("a control character must be written as an escape"),
            }
        }
    }

    /// Goes over an escape (a surrogate pair is one); whether it stands for a character other than U+0000.
    fn escape(&mut self) -> Result<bool, SyntaxError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(true)
            }
            Some(b'u') => {
                self.at += 1;
                match self.hex4()? {
                    0 | 0xDC00..=0xDFFF => Ok(false),
                    0xD800..=0xDBFF => {
                        // Its low half must follow at once. If another escape does, the string is not sound whatever that one
                        // stands for.
                        if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                            return Ok(false);
                        }
                        self.at += 2;
                        Ok(matches!(self.hex4()?, 0xDC00..=0xDFFF))
                    }
                    _ => Ok(true),
                }
            }
            _ => self.fail("there is no such escape"),
        }
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|b| char::from(b).to_digit(16)) else {
                return self.fail("four hexadecimal digits were expected");
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

struct StringNotes {
    escaped: bool,
    sound: bool,
}

/// Which of the open containers are objects: one bit each, the innermost 64 (or fewer) in `bits`.
#[derive(Default)]
struct Nesting {
    bits: u64,
    outer: Vec<u64>,
    depth: u32,
}

impl Nesting {
    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.bits);
            self.bits = 0;
        }
        self.bits = self.bits << 1 | u64::from(object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.bits >>= 1;
        if self.depth.is_multiple_of(64) {
            self.bits = self.outer.pop().unwrap_or_default();
        }
    }

    fn in_object(&self) -> bool {
        self.bits & 1 == 1
    }
}

/// Length of the prefix that stands for itself in a JSON string: no quote, no backslash, no control character.
/// Eight bytes at a time; the lowest mark of each test below is exact, marks above it may not be.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
        let zero = |x: u64| x.wrapping_sub(ONES) & !x;
        let is = |byte: u8| zero(word ^ (ONES * u64::from(byte)));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let marks = (is(b'"') | is(b'\\') | control) & HIGHS;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|b| **b >= 0x20 && **b != b'"' && **b != b'\\').count()
}

/// The text of the inside of a JSON string. What stands for no character becomes U+FFFD, as does a malformed escape.
pub fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let (c, len) = one_escape(&rest.as_bytes()[at..]);
        out.push(c);
        rest = rest.get(at + len..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The character of the escape at the start of `bytes`, and the length of the escape.
fn one_escape(bytes: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6).filter(|b| b.starts_with(b"\\u"))?;
        digits[2..].iter().try_fold(0, |n, b| Some(n << 4 | char::from(*b).to_digit(16)?))
    };
    let c = match bytes.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b @ (b'"' | b'\\' | b'/')) => char::from(*b),
        Some(b'u') => match (unit(0), unit(6)) {
            (Some(high @ 0xD800..=0xDBFF), Some(low @ 0xDC00..=0xDFFF)) => {
                let c = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return (char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
            }
            (Some(unit), _) => return (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            (None, _) => char::REPLACEMENT_CHARACTER,
        },
        _ => char::REPLACEMENT_CHARACTER,
    };
    (c, 2)
}

/// Well-formed JSON without the whitespace between its tokens; everything else stays byte for byte.
pub fn minify(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let bytes = json.as_bytes();
    let (mut at, mut kept) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at += 1 + string_len(&bytes[at + 1..]),
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.push_str(&json[kept..at]);
                at += 1;
                kept = at;
            }
            _ => at += 1,
        }
    }
    out.push_str(&json[kept..at.min(json.len())]);
    out
}

/// Length of the rest of a well-formed string, its closing quote included.
fn string_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Appends `text` as a JSON string: quoted, with escapes for quotes, backslashes and control characters only.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut at = 0;
    loop {
        let plain = plain_len(&bytes[at..]);
        out.extend_from_slice(&bytes[at..at + plain]);
        at += plain;
        let Some(byte) = bytes.get(at) else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                let hex = |n: u8| b"0123456789abcdef"[usize::from(n)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
        }
        at += 1;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    fn scan(text: &str) -> Result<Value<'_>, SyntaxError> {
        let mut scanner = Scanner::new(text, 0);
        scanner.skip_space();
        let value = scanner.value()?;
        scanner.end()?;
        Ok(value)
    }

    /// What serde_json says of the syntax alone: values are skipped and not made, so that no range of numbers counts.
    fn serde_takes(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn the_place_and_the_reason_of_an_error_are_told() {
        for (text, at, what) in [
            ("", 0, "the text ends too early"),
            ("{", 1, "the text ends too early"),
            ("{\"a\"", 4, "the text ends too early"),
            ("{\"a\" 1}", 5, "`:` was expected"),
            ("{\"a\":1,}", 7, "a key in double quotes was expected"),
            ("{a:1}", 1, "a key in double quotes was expected"),
            ("[1,]", 3, "a value was expected"),
            ("[1 2]", 3, "`,` or `]` was expected"),
            ("{\"a\":1 \"b\"}", 7, "`,` or `}` was expected"),
            ("[1}", 2, "`,` or `]` was expected"),
            ("nul", 3, "the text ends too early"),
            ("nulL", 3, "a value was expected"),
            ("01", 1, "nothing may follow here"),
            ("-", 1, "the text ends too early"),
            ("1.", 2, "the text ends too early"),
            ("1.e3", 2, "a digit was expected"),
            ("1e+", 3, "the text ends too early"),
            ("\"a", 2, "the text ends too early"),
            ("\"a\n\"", 2, "a control character must be written as an escape"),
            ("\"\\x\"", 2, "there is no such escape"),
            ("\"\\u12G4\"", 5, "four hexadecimal digits were expected"),
            ("1 2", 2, "nothing may follow here"),
        ] {
            assert_eq!(scan(text).map(|v| v.raw).unwrap_err(), SyntaxError { at, what }, "{text:?}");
        }
    }

    #[test]
    fn notes_are_taken_on_the_way() {
        for (text, kind, depth, spaced, escaped, sound) in [
            ("null", Kind::Null, 0, false, false, true),
            ("-1.5e-7", Kind::Number, 0, false, false, true),
            ("false", Kind::Bool, 0, false, false, true),
            ("\"a b\"", Kind::String, 0, false, false, true),
            ("\"\\n\"", Kind::String, 0, false, true, true),
            ("\"\\u0000\"", Kind::String, 0, false, true, false),
            ("\"\\ud83d\\ude00\"", Kind::String, 0, false, true, true),
            ("\"\\ud83d\"", Kind::String, 0, false, true, false),
            ("\"\\ude00\"", Kind::String, 0, false, true, false),
            ("\"\\ud83d\\ud83d\\ude00\"", Kind::String, 0, false, true, false),
            ("\"\\ud83d\\n\"", Kind::String, 0, false, true, false),
            ("{}", Kind::Object, 1, false, false, true),
            ("[ ]", Kind::Array, 1, true, false, true),
            ("[[],{\"a b\":[[1]]},2]", Kind::Array, 4, false, false, true),
            ("[[[]],[]]", Kind::Array, 3, false, false, true),
            ("{\"a\": 1}", Kind::Object, 1, true, false, true),
            ("{\"a\\ud800\":1}", Kind::Object, 1, false, true, false),
            ("[1,\n2]", Kind::Array, 1, true, false, true),
        ] {
            let v = scan(text).expect(text);
            assert_eq!((v.kind, v.depth, v.spaced, v.escaped, v.sound), (kind, depth, spaced, escaped, sound), "{text}");
            assert_eq!(v.raw, text);
        }
    }

    #[test]
    fn nesting_costs_no_stack_and_is_counted_beyond_any_limit() {
        for depth in [1, 63, 64, 65, 127, 128, 129, 200_000] {
            let arrays = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(scan(&arrays).expect("well formed").depth, depth as u32);
            let mixed = format!("{}1{}", "[{\"a\":".repeat(depth), "}]".repeat(depth));
            assert_eq!(scan(&mixed).expect("well formed").depth, 2 * depth as u32);
            // The last closing bracket is of the other sort: every level is remembered.
            let last = mixed.len() - 1;
            assert_eq!(scan(&format!("{}}}", &mixed[..last])).map(|v| v.depth).unwrap_err().at, last);
        }
    }

    #[test]
    fn whitespace_goes_and_everything_else_stays() {
        for (text, expected) in [
            ("{ }", "{}"),
            (
                "\t{\r\n\"a b\" : [ 1 , 2.50 ] , \"c\\\" \" : \" \\\\\" }\n",
                "{\"a b\":[1,2.50],\"c\\\" \":\" \\\\\"}",
            ),
            ("[1,2]", "[1,2]"),
            ("\" \"", "\" \""),
        ] {
            assert_eq!(minify(text), expected);
        }
        for broken in ["\"", "\"\\", "{ \"a", "\\ "] {
            minify(broken);
        }
    }

    #[test]
    fn escapes_are_read() {
        for (inner, expected) in [
            (r#"a\"\\\/\b\f\n\r\tz"#, "a\"\\/\u{8}\u{c}\n\r\tz"),
            (r"\u00e9\u00E9\u65e5", "éé日"),
            (r"\ud83d\ude00!", "😀!"),
            (r"\ud83d", "\u{fffd}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\u0000", "\0"),
            (r"\q\u12", "\u{fffd}\u{fffd}12"),
            (r"\", "\u{fffd}"),
        ] {
            assert_eq!(unescape(inner), expected, "{inner}");
        }
        unescape("\\é\\ué");
    }

    /// JSON text of every shape, with whitespace in all places where it may be.
    fn json_text() -> impl Strategy<Value = String> {
        let space = "[ \\t\\r\\n]{0,2}";
        let scalar = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
            json_string(),
        ];
        scalar.prop_recursive(5, 40, 5, move |inner| {
            let member = (json_string(), space, space, inner.clone()).prop_map(|(k, a, b, v)| format!("{k}{a}:{b}{v}"));
            let list = |items: Vec<String>, (open, close): (char, char), s: String| format!("{open}{s}{}{s}{close}", items.join(&format!("{s},{s}")));
            prop_oneof![
                (prop::collection::vec(inner, 0..5), space).prop_map(move |(items, s)| list(items, ('[', ']'), s)),
                (prop::collection::vec(member, 0..5), space).prop_map(move |(items, s)| list(items, ('{', '}'), s)),
            ]
        })
    }

    fn json_string() -> impl Strategy<Value = String> {
        prop_oneof![
            "\"([a-zé日😀 ]|\\\\[\"\\\\/bfnrt]|\\\\u00[2-7][0-9a-fA-F]){0,12}\"",
            any::<String>().prop_map(|s| serde_json::to_string(&s).expect("a string")),
        ]
    }

    const TOKENS: &[u8] = b"{}[]\",:\\u0eE+-.1 tfn\n\x00\x1f\x7f";

    /// Cuts the text, and adds, removes and replaces bytes of a text, keeping it UTF-8.
    fn mutated(text: &str, changes: &[(usize, u8, u8)]) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for (at, how, byte) in changes {
            let at = at % (bytes.len() + 1);
            match how % 4 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, TOKENS[usize::from(*byte) % TOKENS.len()]),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ if at < bytes.len() => bytes[at] = *byte,
                _ => {}
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_scanner_takes_what_serde_json_takes(text in json_text()) {
            prop_assert!(serde_takes(&text));
            let value = scan(&text);
            prop_assert!(value.is_ok(), "{:?}", value);
            let value = value.expect("just checked");
            let spaced = text.trim_matches([' ', '\n', '\r', '\t']) != minify(&text);
            prop_assert_eq!(value.spaced, spaced);
            let small = value.minified();
            prop_assert!(!scan(&small).expect("still JSON").spaced);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&small).ok(), serde_json::from_str::<serde_json::Value>(&text).ok());
        }

        #[test]
        fn the_scanner_takes_nothing_that_serde_json_refuses(text in json_text(), changes in prop::collection::vec(any::<(usize, u8, u8)>(), 1..4)) {
            let text = mutated(&text, &changes);
            prop_assert_eq!(scan(&text).is_ok(), serde_takes(&text), "{:?}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\u0-9eE+.a-f \\x00-\\x1f-]{0,40}") {
            prop_assert_eq!(scan(&text).is_ok(), serde_takes(&text), "{:?}", text);
            let _ = (minify(&text), unescape(&text));
        }

        #[test]
        fn a_sound_string_reads_as_serde_json_reads_it(text in json_string(), changes in prop::collection::vec(any::<(usize, u8, u8)>(), 0..2)) {
            let text = mutated(&text, &changes);
            if let Ok(value) = scan(&text) && value.kind == Kind::String {
                match serde_json::from_str::<String>(&text) {
                    Ok(expected) => {
                        prop_assert_eq!(value.sound, !expected.contains('\0'), "{:?}", text);
                        prop_assert_eq!(value.string(), expected);
                    }
                    Err(_) => prop_assert!(!value.sound, "{:?}", text),
                }
            }
        }

        #[test]
        fn written_strings_read_back(text in any::<String>(), more in "[\\x00-\\x7f]{0,20}") {
            let text = text + &more;
            let mut out = Vec::new();
            write_str(&mut out, &text);
            let json = String::from_utf8(out).expect("UTF-8");
            prop_assert_eq!(&serde_json::from_str::<String>(&json).expect("JSON"), &text);
            prop_assert_eq!(scan(&json).expect("JSON").string(), text);
        }
    }
}
