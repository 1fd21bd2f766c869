//! From the bytes of a request to records, in one pass: no value trees, no map for each entry.
//!
//! The scanner ([`crate::model::json`]) goes once over the text and finds the fields of an entry as slices (`entry`); then
//! the rules of the HTTP contract are applied to the slices (`check`), and the record is written into the buffer that
//! becomes the pack. Objects are copied as they were sent, without the whitespace between tokens; their digits, key order
//! and escapes stay. A text is unescaped only if it has an escape.
//!
//! The scanner is our own, and not a JSON library, because the contract asks for things that a library gives only in
//! several passes: the position of an error, slices of the original, the nesting, the escapes that stand for no character,
//! fields given twice, and all of that for entries of which others in the same body may be wrong.
//!
//! Guarantees: either a whole body is taken, or nothing of it ([`BodyError`]); of a body that is taken, every entry is
//! either a record or has at least one [`ItemError`], so accepted + rejected = sent. No input makes it panic, recurse, or use
//! more than a small multiple of the body's size (and of the subject's, once for each entry without a user). It does not block.
//!
//! Rules that the contract leaves open, and how they are settled here:
//! - Lengths of short fields count characters (Unicode scalar values) of the unescaped text, `message` and the whole entry
//!   count bytes, the entry as it was sent.
//! - Nesting counts levels of an object field, itself the first. An unknown field that moves into `metadata` gets one deeper.
//! - A field that only the server sets (`received_at`, `actor`, `sequence`) is an unknown one.
//! - An unknown field whose name `metadata` has already is a `duplicate_field`: neither value may hide the other.
//! - A required field that is `null` is missing; a field given twice is an error even if one of the values is `null`.
//! - A byte order mark at the start of a body is skipped. Bytes that are not UTF-8 are no JSON: the body is malformed, of
//!   an NDJSON body just that line.
//! - In a JSON array a syntax error breaks the whole body, as nobody can say where the next entry starts.

mod check;
mod entry;
mod errors;
mod hash;
mod ids;
#[cfg(test)]
mod tests;

pub use hash::{Sent, content_hash};

use super::{
    entry::ContentHash,
    json::{Scanner, SyntaxError},
    pack::PackBuilder,
    tenant::TenantId,
};
use check::Checker;
use entry::Given;
use errors::Errors;
use hashbrown::{HashMap, hash_map::Entry};
use std::fmt;
use uuid::Uuid;

/// What parsing needs to know besides the body.
#[derive(Debug, Clone, Copy)]
pub struct ParseContext<'a> {
    /// The tenant of the credential.
    pub tenant: &'a TenantId,
    /// The subject of the credential: `user_id` where an entry has none. An empty one is none, nor is one of 64 KiB or
    /// more, which no record could hold.
    pub subject: &'a str,
    /// The time of the request, milliseconds since 1970.
    pub now_ms: i64,
    /// Which severities the tenant takes, by `Severity as usize`.
    pub log_levels: [bool; 4],
    /// Whether unknown fields move into `metadata`; else they are errors.
    pub keep_unknown_fields: bool,
    /// The request's `Idempotency-Key`.
    pub idempotency_key: Option<&'a str>,
    /// The ids of entries that come without one, by their place in the body; they count as the client's. Those beyond them get an
    /// id of the server's.
    pub ids: &'a [Uuid],
    /// The most entries of one request.
    pub max_entries: usize,
    /// The most bytes of one entry as JSON.
    pub max_entry_bytes: usize,
    /// Set when the body is an entry that was accepted before and is sent once more by the server's own means.
    pub resent: Option<Resent<'a>>,
}

/// What an entry keeps that is sent once more.
#[derive(Debug, Clone, Copy)]
pub struct Resent<'a> {
    /// The entry's id, unless the body names one; it counts as the client's.
    pub id: Uuid,
    /// The entry's time, unless the body names one, milliseconds since 1970.
    pub timestamp: i64,
    /// The entry is the very one that was sent: it has this content hash, and the id above, whatever the body names.
    pub unchanged: Option<ContentHash>,
    /// Fields that only the server sets, and their values as JSON: given like this they are no unknown fields.
    pub shown: [(&'static str, &'a str); 3],
}

/// How the entries of a body are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// One entry.
    Single,
    /// A JSON array of entries, or `{"logs": […]}`.
    Bulk,
    /// One entry on each line.
    Ndjson,
}

/// What is wrong with an entry; the codes are those of the HTTP contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are those of the HTTP contract
pub enum ItemCode {
    Required,
    Empty,
    WrongType,
    TooLong,
    TooLarge,
    InvalidId,
    InvalidTime,
    TimeOutOfRange,
    InvalidIp,
    InvalidSeverity,
    SeverityNotAccepted,
    UnknownField,
    DuplicateField,
    TenantMismatch,
    InvalidUnicode,
    TooDeep,
    MalformedJson,
}

impl ItemCode {
    /// The code of the HTTP contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Empty => "empty",
            Self::WrongType => "wrong_type",
            Self::TooLong => "too_long",
            Self::TooLarge => "too_large",
            Self::InvalidId => "invalid_id",
            Self::InvalidTime => "invalid_time",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::InvalidIp => "invalid_ip",
            Self::InvalidSeverity => "invalid_severity",
            Self::SeverityNotAccepted => "severity_not_accepted",
            Self::UnknownField => "unknown_field",
            Self::DuplicateField => "duplicate_field",
            Self::TenantMismatch => "tenant_mismatch",
            Self::InvalidUnicode => "invalid_unicode",
            Self::TooDeep => "too_deep",
            Self::MalformedJson => "malformed_json",
        }
    }
}

impl fmt::Display for ItemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ItemError {
    /// Which entry, from 0 in the order of the body.
    pub index: usize,
    /// Which field; empty when it is the entry as a whole.
    pub field: String,
    /// What is wrong.
    pub code: ItemCode,
    /// The same for people.
    pub message: String,
}

/// What a body holds.
#[derive(Debug)]
pub struct Parsed {
    /// The records of the accepted entries, in input order.
    pub builder: PackBuilder,
    /// The id of each entry in input order, `None` where it was rejected.
    pub ids: Vec<Option<Uuid>>,
    /// What is wrong with the rejected ones, in input order: at least one for each of them. At most 16 for one entry, and
    /// beyond 1 MiB of text only the first of each.
    pub errors: Vec<ItemError>,
    /// How many accepted entries repeat an earlier one of this body: same id, same content.
    pub duplicates: usize,
}

/// Why nothing of a body is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is not what its format asks for.
    #[error("{message} (byte {at})")]
    Malformed {
        /// Offset in bytes from the start of the body.
        at: usize,
        /// What is wrong there.
        message: String,
    },
    /// It has no entries.
    #[error("there is no entry in the body")]
    Empty,
    /// It has too many entries.
    #[error("there are more than {limit} entries in the body")]
    TooMany {
        /// The most entries of one request.
        limit: usize,
    },
    /// Its only entry is too large ([`BodyFormat::Single`]; else that is an item error).
    #[error("the entry is too large")]
    TooLarge,
}

/// Parses a body whose limits in bytes have been checked. `message`s repeat at most 64 characters of what was sent.
pub fn parse_body(body: &[u8], format: BodyFormat, context: &ParseContext<'_>) -> Result<Parsed, BodyError> {
    let start = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let mut parser = Parser::new(body.len(), context);
    // Most bodies are text: the standard library is asked only where one is not, since it says where.
    match (format, simdutf8::basic::from_utf8(body).or_else(|_| std::str::from_utf8(body))) {
        (BodyFormat::Single, Ok(text)) => parser.single(text, start)?,
        (BodyFormat::Bulk, Ok(text)) => parser.bulk(text, start)?,
        (BodyFormat::Ndjson, text) => parser.lines(body, text.ok(), start)?,
        (_, Err(error)) => return Err(malformed(error.valid_up_to(), NOT_UTF8)),
    }
    parser.finish()
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const NOT_UTF8: &str = "the bytes are not UTF-8";
const WRONG_ITEM: &str = "an entry is a JSON object";
const WRONG_BULK: &str = "a bulk body is an array of entries or an object with nothing but such an array as `logs`";

fn malformed(at: usize, message: &str) -> BodyError {
    BodyError::Malformed {
        at,
        message: message.to_owned(),
    }
}

impl From<SyntaxError> for BodyError {
    fn from(error: SyntaxError) -> Self {
        malformed(error.at, error.what)
    }
}

/// The entries of one body so far.
struct Parser<'a> {
    max_entries: usize,
    max_entry_bytes: usize,
    checker: Checker<'a>,
    builder: PackBuilder,
    ids: Vec<Option<Uuid>>,
    errors: Errors,
    /// The client's own ids, and the content that came with each of them first.
    first: HashMap<Uuid, ContentHash>,
    duplicates: usize,
}

impl<'a> Parser<'a> {
    fn new(body_len: usize, context: &ParseContext<'a>) -> Self {
        Self {
            max_entries: context.max_entries,
            max_entry_bytes: context.max_entry_bytes,
            checker: Checker::new(*context),
            // A record is shorter than its JSON unless the entry is tiny.
            builder: PackBuilder::with_capacity(body_len),
            ids: Vec::new(),
            errors: Errors::default(),
            first: HashMap::new(),
            duplicates: 0,
        }
    }

    fn single(&mut self, text: &str, start: usize) -> Result<(), BodyError> {
        let mut scanner = Scanner::new(text, start);
        scanner.skip_space();
        if !matches!(scanner.peek(), Some(b'{') | None) {
            return Err(malformed(scanner.at(), WRONG_ITEM));
        }
        let mut given = Given::new();
        given.read(&mut scanner)?;
        scanner.end()?;
        if given.len > self.max_entry_bytes {
            return Err(BodyError::TooLarge);
        }
        self.begin()?;
        self.take(&given);
        Ok(())
    }

    fn bulk(&mut self, text: &str, start: usize) -> Result<(), BodyError> {
        let mut scanner = Scanner::new(text, start);
        scanner.skip_space();
        match scanner.peek() {
            Some(b'[') => self.array(&mut scanner)?,
            Some(b'{') => {
                scanner.eat(b'{');
                scanner.skip_space();
                let at = scanner.at();
                if scanner.peek() == Some(b'}') || scanner.string()?.string() != "logs" {
                    return Err(malformed(at, WRONG_BULK));
                }
                scanner.colon()?;
                self.array(&mut scanner)?;
                scanner.skip_space();
                if !scanner.eat(b'}') {
                    scanner.fail(WRONG_BULK)?;
                }
            }
            None => scanner.fail(WRONG_BULK)?,
            Some(_) => return Err(malformed(scanner.at(), WRONG_BULK)),
        }
        Ok(scanner.end()?)
    }

    fn array<'b>(&mut self, scanner: &mut Scanner<'b>) -> Result<(), BodyError> {
        if !scanner.eat(b'[') {
            scanner.fail(WRONG_BULK)?;
        }
        scanner.skip_space();
        if scanner.eat(b']') {
            return Ok(());
        }
        let mut given = Given::new();
        loop {
            self.begin()?;
            if scanner.peek() == Some(b'{') {
                given.read(scanner)?;
                self.take(&given);
            } else {
                let item = scanner.value()?;
                self.reject(ItemCode::WrongType, format!("it is {}; {WRONG_ITEM}", item.kind.noun()));
            }
            scanner.skip_space();
            if scanner.eat(b']') {
                return Ok(());
            }
            if !scanner.eat(b',') {
                scanner.fail("`,` or `]` was expected")?;
            }
            scanner.skip_space();
        }
    }

    /// The lines of `body` from `start` on; `text` is the same as text, if it is text as a whole.
    fn lines(&mut self, body: &[u8], text: Option<&str>, start: usize) -> Result<(), BodyError> {
        let mut at = start;
        while at < body.len() {
            let end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |len| at + len);
            let bytes = &body[at..end];
            if bytes.iter().any(|b| !matches!(b, b' ' | b'\t' | b'\r')) {
                self.begin()?;
                match text.map_or_else(|| std::str::from_utf8(bytes).ok(), |text| Some(&text[at..end])) {
                    Some(line) => self.line(line),
                    None => self.reject(ItemCode::MalformedJson, NOT_UTF8.to_owned()),
                }
            }
            at = end + 1;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        let mut scanner = Scanner::new(line, 0);
        scanner.skip_space();
        let mut given = Given::new();
        let read = if scanner.peek() == Some(b'{') {
            given.read(&mut scanner).map(|()| None)
        } else {
            scanner.value().map(Some)
        };
        match read.and_then(|item| scanner.end().map(|()| item)) {
            Ok(None) => self.take(&given),
            Ok(Some(item)) => self.reject(ItemCode::WrongType, format!("it is {}; {WRONG_ITEM}", item.kind.noun())),
            Err(error) => self.reject(ItemCode::MalformedJson, format!("{} (byte {} of the line)", error.what, error.at)),
        }
    }

    /// One more entry follows.
    fn begin(&mut self) -> Result<(), BodyError> {
        if self.ids.len() >= self.max_entries {
            return Err(BodyError::TooMany { limit: self.max_entries });
        }
        self.errors.begin(self.ids.len());
        Ok(())
    }

    fn reject(&mut self, code: ItemCode, message: String) {
        self.errors.add("", code, message);
        self.ids.push(None);
    }

    fn take(&mut self, given: &Given<'_>) {
        let made = self.checker.entry(self.ids.len(), given, &mut self.builder, &mut self.errors);
        if let Some(made) = made.as_ref().filter(|made| made.given_id) {
            match self.first.entry(made.id) {
                Entry::Vacant(place) => {
                    place.insert(made.hash);
                }
                Entry::Occupied(first) => self.duplicates += usize::from(*first.get() == made.hash),
            }
        }
        self.ids.push(made.map(|made| made.id));
    }

    fn finish(self) -> Result<Parsed, BodyError> {
        if self.ids.is_empty() {
            return Err(BodyError::Empty);
        }
        Ok(Parsed {
            builder: self.builder,
            ids: self.ids,
            errors: self.errors.into_list(),
            duplicates: self.duplicates,
        })
    }
}
