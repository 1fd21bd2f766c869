//! One entry by id, and the ledger: memory first, then the parts, newest first.

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
    sinks::StoreError,
};
use uuid::Uuid;

/// The entry with this id, if a part has it. Memory is looked at by the caller, which needs no thread for that.
pub fn on_disk(view: &View, scope: &TenantScope, id: Uuid, control: &Control) -> Result<Option<StoredEntry>, StoreError> {
    for part in view.parts.iter().rev() {
        control.check()?;
        if let Some((row, _)) = part.find(scope, id).map_err(damaged)? {
            return read_row(part, scope, row).map(Some);
        }
    }
    Ok(None)
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
    if let Some(hash) = view.memtables().find_map(|m| m.content_hash(scope, id)) {
        return Some(hash);
    }
    for part in view.parts.iter().chain(view.quarantined.iter()).rev() {
        match part.find(scope, id) {
            Ok(Some((_, hash))) => return Some(hash),
            Ok(None) => (),
            Err(error) => unreadable(error),
        }
    }
    None
}
