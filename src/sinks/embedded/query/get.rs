//! One entry by id, and the ledger: memory first, then the parts, newest first.
//!
//! An id belongs to its row: when that is erased the id is unknown, and a later row may have it. So a look-up passes over
//! erased rows, goes on to the next, and finds the one that is there.

use super::{
    super::{
        part::{Part, PartError},
        view::View,
    },
    Control, damaged,
};
use crate::{
    model::{
        entry::{ContentHash, StoredEntry},
        tenant::TenantScope,
    },
    seal::erasure::Erasures,
    sinks::StoreError,
};
use smallvec::SmallVec;
use uuid::Uuid;

/// The entry with this id, if a part has it. Memory is looked at by the caller, which needs no thread for that.
pub fn on_disk(view: &View, scope: &TenantScope, id: Uuid, control: &Control) -> Result<Option<StoredEntry>, StoreError> {
    let erasures = view.erasures_of(scope);
    for part in view.parts.iter().rev() {
        control.check()?;
        if let Some((row, _)) = find(part, scope, id, erasures).map_err(damaged)? {
            return read_row(part, scope, row).map(Some);
        }
    }
    Ok(None)
}

/// The newest row of the id that is not erased.
fn find(part: &Part, scope: &TenantScope, id: Uuid, erasures: Option<&Erasures>) -> Result<Option<(u32, ContentHash)>, PartError> {
    let mut found = part.find(scope, id)?;
    if let (Some(erasures), Some(rows)) = (erasures, part.tenant(scope)) {
        let numbers: SmallVec<[u32; 1]> = found.iter().map(|(row, _)| *row).collect();
        let mut times = rows.times(numbers.as_slice())?.into_iter();
        found.retain(|_| times.next().is_some_and(|row| !row.is_covered(erasures)));
    }
    Ok(found.pop())
}

fn read_row(part: &Part, scope: &TenantScope, row: u32) -> Result<StoredEntry, StoreError> {
    let rows = part.tenant(scope).map(|rows| rows.read(&[row])).transpose().map_err(damaged)?;
    let entry = rows.and_then(|mut rows| rows.pop());
    entry.ok_or_else(|| StoreError::Damaged("a part knows an id and has no row of it".into()))
}

/// The content hash of the id's row, whether readers may see it yet or not. Goes by parts that are left out of the answers
/// too, as far as they can be read: that their rows cannot be shown is no reason to store them again. A row that cannot be
/// read is no row, and `unreadable` is told of it.
pub fn content_hash(view: &View, scope: &TenantScope, id: Uuid, mut unreadable: impl FnMut(PartError)) -> Option<ContentHash> {
    let erasures = view.erasures_of(scope);
    if let Some(hash) = view.memtables().find_map(|m| m.content_hash(scope, id, erasures)) {
        return Some(hash);
    }
    for part in view.parts.iter().chain(view.quarantined.iter()).rev() {
        match find(part, scope, id, erasures) {
            Ok(Some((_, hash))) => return Some(hash),
            Ok(None) => (),
            Err(error) => unreadable(error),
        }
    }
    None
}
