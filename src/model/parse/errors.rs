//! Collects what is wrong with the entries of one body, within bounds.

use super::{ItemCode, ItemError};

/// The most errors told about one entry.
const PER_ENTRY: usize = 16;
/// Beyond this many bytes of text only the first error of each further entry is told: every rejected entry has its
/// reason, and a small body of many mistakes does not become a huge answer.
const TEXT_BYTES: usize = 1 << 20;
/// The most characters of a value or a name of the client that are repeated in an error.
const EXCERPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Errors {
    list: Vec<ItemError>,
    text_bytes: usize,
    index: usize,
    of_entry: usize,
}

impl Errors {
    /// What is added from now on is about entry `index`.
    pub(super) fn begin(&mut self, index: usize) {
        self.index = index;
        self.of_entry = 0;
    }

    /// How many things are wrong with this entry.
    pub(super) fn count(&self) -> usize {
        self.of_entry
    }

    /// Whether something is wrong with this entry.
    pub(super) fn any(&self) -> bool {
        self.of_entry > 0
    }

    /// Something is wrong with `field` of this entry; the empty name is the entry as a whole.
    pub(super) fn add(&mut self, field: &str, code: ItemCode, message: impl Into<String>) {
        self.of_entry += 1;
        if self.of_entry > 1 && (self.of_entry > PER_ENTRY || self.text_bytes > TEXT_BYTES) {
            return;
        }
        let error = ItemError {
            index: self.index,
            field: excerpt(field),
            code,
            message: message.into(),
        };
        self.text_bytes += error.field.len() + error.message.len();
        self.list.push(error);
    }

    pub(super) fn into_list(self) -> Vec<ItemError> {
        self.list
    }
}

/// The beginning of what a client sent, for a message.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}
