//! In work: the types only.
use super::{pack::PackBuilder, tenant::TenantId};
use uuid::Uuid;

/// What parsing needs to know besides the body.
#[derive(Debug, Clone, Copy)]
pub struct ParseContext<'a> {
    /// The tenant of the credential.
    pub tenant: &'a TenantId,
    /// The subject of the credential: `user_id` where an entry has none. At most 64 KiB.
    pub subject: &'a str,
    /// The time of the request, milliseconds since 1970.
    pub now_ms: i64,
    /// Which severities the tenant takes, by `Severity as usize`.
    pub log_levels: [bool; 4],
    /// Whether unknown fields move into `metadata`; else they are errors.
    pub keep_unknown_fields: bool,
    /// The request's `Idempotency-Key`.
    pub idempotency_key: Option<&'a str>,
    /// The most entries of one request.
    pub max_entries: usize,
    /// The most bytes of one entry as JSON.
    pub max_entry_bytes: usize,
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
#[allow(missing_docs)]
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
    /// What is wrong with the rejected ones.
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

/// Parses a body. In work: takes nothing yet.
pub fn parse_body(_body: &[u8], _format: BodyFormat, _context: &ParseContext<'_>) -> Result<Parsed, BodyError> {
    Err(BodyError::Empty)
}
