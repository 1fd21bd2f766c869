//! One entry by id, and the ledger: memory first, then the parts, newest first.
//!
//! An id belongs to its row: when that is erased the id is unknown, and a later row may have it. So a look-up passes over
//! erased rows, goes on to the next, and finds the one that is there.

use super::{
    super::{part::Part, view::View},
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
        if let Some((row, _)) = find(part, scope, id, erasures)? {
            return read_row(part, scope, row).map(Some);
        }
    }
    Ok(None)
}

/// The newest row of the id that is not erased.
fn find(part: &Part, scope: &TenantScope, id: Uuid, erasures: Option<&Erasures>) -> Result<Option<(u32, ContentHash)>, StoreError> {
    let mut found = part.find(scope, id).map_err(damaged)?;
    if let (Some(erasures), Some(rows)) = (erasures, part.tenant(scope)) {
        let numbers: SmallVec<[u32; 1]> = found.iter().map(|(row, _)| *row).collect();
        let mut times = rows.times(numbers.as_slice()).map_err(damaged)?.into_iter();
        found.retain(|_| times.next().is_some_and(|row| !row.is_covered(erasures)));
    }
    Ok(found.pop())
}

fn read_row(part: &Part, scope: &TenantScope, row: u32) -> Result<StoredEntry, StoreError> {
    let rows = part.tenant(scope).map(|rows| rows.read(&[row])).transpose().map_err(damaged)?;
    let entry = rows.and_then(|mut rows| rows.pop());
    entry.ok_or_else(|| StoreError::Damaged("a part knows an id and has no row of it".into()))
}

/// The content hash of the id's row, whether readers may see it yet or not.
pub fn content_hash(view: &View, scope: &TenantScope, id: Uuid) -> Result<Option<ContentHash>, StoreError> {
    let erasures = view.erasures_of(scope);
    if let Some(hash) = view.memtables().find_map(|m| m.content_hash(scope, id, erasures)) {
        return Ok(Some(hash));
    }
    for part in view.parts.iter().rev() {
        if let Some((_, hash)) = find(part, scope, id, erasures)? {
            return Ok(Some(hash));
        }
    }
    Ok(None)
}
