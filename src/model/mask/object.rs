//! One pass over the JSON of an object: hides what stands at paths and under secret keys, and what of strings, keys and whole
//! numbers matches a pattern. Everything else stays byte for byte; nothing is allocated where nothing is hidden.

use super::{
    MASKED_JSON, numbers,
    paths::{States, Tree},
    secrets,
    text::{self, Patterns},
};
use crate::model::json::{unescape, write_str};
use memchr::memchr2;
use smallvec::SmallVec;
use std::borrow::Cow;

/// An open container.
struct Frame {
    object: bool,
    /// Where its members or elements are looked up from; for an array, where its elements stand.
    states: States,
    /// The elements of this array are hidden.
    hides: bool,
}

/// The object with what is to be hidden hidden; `None` if that is nothing. `json` is well formed; what is not is passed over.
pub(super) fn masked(json: &str, tree: &Tree, patterns: Patterns) -> Option<String> {
    let start = tree.start();
    if start.is_empty() && !patterns.any() {
        return None;
    }
    let mut walk = Walk {
        json,
        bytes: json.as_bytes(),
        at: 0,
        tree,
        patterns,
        open: SmallVec::new(),
        next: start,
        out: String::new(),
        kept: 0,
    };
    walk.run();
    walk.finish()
}

struct Walk<'a> {
    json: &'a str,
    bytes: &'a [u8],
    at: usize,
    tree: &'a Tree,
    patterns: Patterns,
    open: SmallVec<[Frame; 8]>,
    /// Where the value that comes next stands.
    next: States,
    out: String,
    /// What comes before it is in `out`, if anything is.
    kept: usize,
}

impl<'a> Walk<'a> {
    fn run(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'{' | b'[' => self.enter(*byte == b'{'),
                b'}' | b']' => {
                    self.open.pop();
                    self.at += 1;
                    self.after_value();
                }
                b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                b'"' => self.string(),
                _ => {
                    let end = scalar_end(self.bytes, self.at);
                    if self.hides_element() || (self.patterns.card && numbers::is_card(&self.bytes[self.at..end])) {
                        self.replace(self.at, end, MASKED_JSON);
                    }
                    self.at = end;
                    self.after_value();
                }
            }
        }
    }

    fn enter(&mut self, object: bool) {
        if self.hides_element() {
            return self.hide_value();
        }
        let states = std::mem::take(&mut self.next);
        let (states, hides) = if object { (states, false) } else { self.elements(states) };
        if !object {
            self.next.clone_from(&states);
        }
        self.open.push(Frame { object, states, hides });
        self.at += 1;
    }

    fn elements(&self, states: States) -> (States, bool) {
        if states.is_empty() { (states, false) } else { self.tree.element(&states) }
    }

    /// A value has ended: where does its neighbour stand, if that is an element too?
    fn after_value(&mut self) {
        match self.open.last() {
            Some(frame) if !frame.object => self.next.clone_from(&frame.states),
            _ => self.next.clear(),
        }
    }

    fn hides_element(&self) -> bool {
        self.open.last().is_some_and(|frame| frame.hides)
    }

    /// A key or a text.
    fn string(&mut self) {
        let (start, end) = (self.at, string_end(self.bytes, self.at));
        let is_key = self.open.last().is_some_and(|frame| frame.object) && {
            let mut after = end;
            while matches!(self.bytes.get(after), Some(b' ' | b'\n' | b'\r' | b'\t')) {
                after += 1;
            }
            self.at = after;
            self.bytes.get(after) == Some(&b':')
        };
        if is_key {
            return self.key(start, end);
        }
        if self.hides_element() {
            self.replace(start, end, MASKED_JSON);
        } else {
            self.mask_string(start, end);
        }
        self.at = end;
        self.after_value();
    }

    /// Stands at the colon.
    fn key(&mut self, start: usize, end: usize) {
        self.at += 1;
        let key = self.content(start, end);
        let mut hidden = self.patterns.secrets && secrets::is_secret(&key);
        if let Some(frame) = self.open.last().filter(|frame| !frame.states.is_empty()) {
            let (states, hides) = self.tree.key(&frame.states, &key);
            (self.next, hidden) = (states, hidden || hides);
        }
        self.mask_text(start, end, &key);
        if hidden {
            while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
                self.at += 1;
            }
            self.hide_value();
        }
    }

    /// Hides the value that begins here.
    fn hide_value(&mut self) {
        let end = value_end(self.bytes, self.at);
        self.replace(self.at, end, MASKED_JSON);
        self.at = end;
        self.after_value();
    }

    fn mask_string(&mut self, start: usize, end: usize) {
        let text = self.content(start, end);
        self.mask_text(start, end, &text);
    }

    fn mask_text(&mut self, start: usize, end: usize, text: &str) {
        if let Some(masked) = text::masked(text, self.patterns) {
            let mut quoted = Vec::with_capacity(masked.len() + 2);
            write_str(&mut quoted, &masked);
            // What is written is UTF-8, since the text was.
            self.replace(start, end, std::str::from_utf8(&quoted).unwrap_or(MASKED_JSON));
        }
    }

    /// What a string means.
    fn content(&self, start: usize, end: usize) -> Cow<'a, str> {
        let inner = self.json.get(start + 1..end.saturating_sub(1)).unwrap_or_default();
        match memchr::memchr(b'\\', inner.as_bytes()) {
            None => Cow::Borrowed(inner),
            Some(_) => Cow::Owned(unescape(inner)),
        }
    }

    fn replace(&mut self, start: usize, end: usize, by: &str) {
        if self.json.get(start..end) == Some(by) {
            return;
        }
        self.out.push_str(self.json.get(self.kept..start).unwrap_or_default());
        self.out.push_str(by);
        self.kept = end;
    }

    fn finish(mut self) -> Option<String> {
        if self.kept == 0 {
            return None;
        }
        self.out.push_str(self.json.get(self.kept..).unwrap_or_default());
        Some(self.out)
    }
}

/// Behind the string whose opening quote stands at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Behind the number or word that stands at `at`; never at `at` itself.
fn scalar_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at + 1..).unwrap_or_default();
    let len = rest
        .iter()
        .position(|b| matches!(b, b',' | b'}' | b']' | b'"' | b'{' | b'[' | b':' | b' ' | b'\n' | b'\r' | b'\t'));
    at + 1 + len.unwrap_or(rest.len())
}

/// Behind the value that begins at `at`.
fn value_end(bytes: &[u8], at: usize) -> usize {
    let (mut at, mut depth) = (at, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => {
                at += 1;
                continue;
            }
            _ => at = scalar_end(bytes, at),
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}
