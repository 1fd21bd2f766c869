//! Named objects with conditional writes: the catalog, dead letters, exports, later archives.
//!
//! Every engine keeps the same contract: a `put` that returned `Ok` is durable; a conditional `put` compares and writes as
//! one step, so that two writers who read the same version cannot both win; a reader sees a whole old or a whole new
//! object. What is *not* promised: an order between different keys, and a snapshot over several objects.

#[cfg(test)]
mod contract;
pub mod folder;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(feature = "s3")]
pub mod s3;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{fmt, ops::Range, sync::Arc};

/// Names one content of an object. Equal versions of one key mean equal contents. Opaque; only its engine makes them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    fn new(text: &str) -> Self {
        Self(text.into())
    }
}

/// What must hold for a `put` to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// There is no object of this name.
    Absent,
    /// The object is the one that was read or written as this version.
    Version(Version),
}

/// Why an object could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectError {
    /// The precondition of a `put` did not hold; nothing was written.
    #[error("the object was changed by somebody else")]
    Conflict,
    /// The text is no object name, or no prefix of one; nothing was done.
    #[error("`{0}` is no object name")]
    InvalidKey(String),
    /// The engine failed. A `put` may or may not have taken effect: read the object to find out.
    #[error("objects cannot be read or written: {0}")]
    Io(Arc<str>),
}

/// The name of an object: folders and a file name with an extension, joined by `/`, as in `catalog/tenants/acme.json`.
///
/// A folder is made of `a-z 0-9 _ -`; the file name may have dots too, has at least one, and neither starts nor ends with
/// one nor ends with `.tmp`. So a name never leaves its root, is the same on file systems that ignore case, and is known
/// for a file or a folder by its text alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    const MAX_SEGMENT: usize = 200;

    /// Checks the form and takes the name.
    pub fn parse(text: &str) -> Result<Self, ObjectError> {
        let (folders, file) = text.rsplit_once('/').unwrap_or(("", text));
        if is_file(file) && (folders.is_empty() || folders.split('/').all(is_folder)) && !text.starts_with('/') {
            Ok(Self(text.into()))
        } else {
            Err(ObjectError::InvalidKey(text.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, file)| file)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_folder(segment: &str) -> bool {
    (1..=Key::MAX_SEGMENT).contains(&segment.len()) && segment.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

fn is_file(segment: &str) -> bool {
    (3..=Key::MAX_SEGMENT).contains(&segment.len())
        && segment.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
        && segment.contains('.')
        && !segment.starts_with('.')
        && !segment.ends_with('.')
        && !segment.ends_with(".tmp")
}

/// An engine for objects. Futures must be polled inside a tokio runtime. Dropping one does not undo it: a `put` that was
/// polled once happens whole or not at all.
pub trait Objects: Send + Sync + 'static {
    /// The object and its version; `None` when there is none. What it returns survives a crash.
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>>;
    /// The bytes of the object inside `range`: fewer where it ends before, `None` when there is no such object. For objects
    /// too large to be read whole; what it returns survives a crash.
    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>>;
    /// Writes the whole object if `when` holds; durable when it returns.
    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>>;
    /// Deletes the object, with what a write of it left that was cut short; one that is not there is fine. Durable when it
    /// returns.
    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>>;
    /// Deletes every object in this folder (without a `/` at its end) and the folders below it, with what writes left that were
    /// cut short; none there is fine. What is written there meanwhile may stay. Durable when it returns.
    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>>;
    /// The names of all objects in this folder (without a `/` at its end) and the folders below it, sorted.
    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_root() {
        for good in ["a.json", "catalog/tenants/acme.json", "x/0-_/9.tar.gz"] {
            assert!(Key::parse(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            "a",
            "/a.json",
            "a//b.json",
            "../a.json",
            "a/../b.json",
            "a/./b.json",
            "a/b.json/",
            "A.json",
            "a b.json",
            "a\0.json",
            ".a.json",
            "a.",
            "..",
            "a/..",
            "a.tmp",
            "a.json.tmp",
            "a.b/c.json",
            "é.json",
            "a\\b.json",
        ];
        for bad in bad {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
        assert!(Key::parse(&format!("{}.json", "x".repeat(196))).is_err());
    }
}
