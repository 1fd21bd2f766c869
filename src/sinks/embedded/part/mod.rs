//! The immutable part: one Parquet file of a range of seals, rows sorted by tenant, and a sidecar.
//!
//! ```text
//! NAME.parquet   every field of every entry; what DuckDB, pandas or Spark reads            (schema)
//! NAME.idx       checksums of it; rows and blocks of each tenant; what a block may hold;   (sidecar, fuse, keys)
//!                which row has an id
//! ```
//!
//! A tenant's rows are one range, cut in **blocks** of at most 8,192 rows of that tenant alone, in the order of (timestamp,
//! sequence). Blocks of a flush follow each other; a merge copies blocks of different parts one behind the other ([`copy`]), so
//! that they may overlap, as those of different parts do. A query asks
//! [`TenantRows::may_match`] for each block, [`TenantRows::select`]s the rows of those that remain, and
//! [`TenantRows::read`]s the few that it shows. Rows are reached only through a [`TenantScope`]: every method checks that
//! the rows it is given are the tenant's.
//!
//! Guarantees: [`TenantRows::select`] agrees with [`Filter::matches`]; a block that `may_match` rules out holds no match;
//! a record reads back byte for byte; damage is an error that names the file, never a wrong row and never a panic, since
//! every byte is checked against the sidecar before it is decoded ([`chunks`]). Not here: which parts there are
//! (manifest), what was erased, caches. Everything blocks, on page faults at least.
//!
//! [`TenantScope`]: crate::model::tenant::TenantScope
//! [`Filter::matches`]: crate::model::filter::Filter::matches

mod chunks;
mod copy;
mod fuse;
mod keys;
mod merge;
pub(super) mod pages;
mod plan;
mod prune;
mod read;
mod record;
mod schema;
mod search;
mod select;
mod sent;
mod sidecar;
mod strings;
mod verify;
mod write;

#[cfg(test)]
mod tests;

pub use merge::{Interrupted, Keep, Limits, Merge};
pub use prune::MemoryFilter;
pub use read::{Found, Part, RowTimes, Rows, TenantRows};
pub use sidecar::{Block, IdRange};
pub use strings::{BatchError, StatBatch, StatColumn};
pub use write::write;

use crate::model::{entry::EntryRef, tenant::TenantId};
use serde::{Deserialize, Serialize};
use std::{io, ops::Range};

/// One row for [`write()`].
#[derive(Clone, Copy)]
pub struct RowIn<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Its number in the tenant's log.
    pub sequence: u64,
    /// When it was taken, milliseconds since 1970.
    pub received_at: i64,
    /// The subject that wrote it.
    pub actor: &'a str,
    /// The record.
    pub entry: EntryRef<'a>,
}

/// What the manifest knows about a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMeta {
    /// Its files are `NAME.parquet` and `NAME.idx`.
    pub name: String,
    /// First and last seal whose entries it holds.
    pub seals: (u64, u64),
    /// Number of rows.
    pub rows: u64,
    /// Length of the data file in bytes.
    pub bytes: u64,
    /// CRC32C of the data file.
    pub crc: u32,
    /// Length of the sidecar in bytes.
    pub sidecar_bytes: u64,
    /// The checksum at the end of the sidecar.
    pub sidecar_crc: u32,
    /// Smallest event time, milliseconds.
    pub min_timestamp: i64,
    /// Largest event time, milliseconds.
    pub max_timestamp: i64,
    /// Rows that were erased and counted by this seal or an earlier one are not in it (0: none was left out).
    pub erased_upto: u64,
    /// How often its rows were merged with others: at most so often each of them was rewritten for that.
    #[serde(default)]
    pub rewrites: u8,
}

/// Why a part cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The file system refused.
    #[error("cannot {doing} `{file}`: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file, without its folder.
        file: String,
        /// The refusal.
        source: io::Error,
    },
    /// A file is missing bytes or holds others than were written. The text never holds data of an entry.
    #[error("`{file}` is damaged{}: {what}", in_rows(rows))]
    Damaged {
        /// The file, without its folder.
        file: String,
        /// The rows that were asked for, if it was noticed while reading some.
        rows: Option<Range<u32>>,
        /// What does not fit.
        what: String,
    },
    /// The caller's mistake: rows to write that are no part, or rows to read that are not the tenant's or do not ascend.
    #[error("these rows cannot be taken: {0}")]
    Rows(&'static str),
}

fn in_rows(rows: &Option<Range<u32>>) -> String {
    rows.as_ref().map_or_else(String::new, |r| format!(" (rows {}..{})", r.start, r.end))
}

/// Name of the data file of a part.
pub fn data_file(name: &str) -> String {
    format!("{name}.parquet")
}

/// The part that one of its files belongs to.
pub fn name_of(file: &str) -> &str {
    file.split_once('.').map_or(file, |(name, _)| name)
}

/// Name of the sidecar of a part.
pub fn sidecar_file(name: &str) -> String {
    format!("{name}.idx")
}
