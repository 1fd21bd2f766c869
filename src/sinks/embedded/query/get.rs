//! One entry by id, and the ledger: memory first, then the parts, newest first.

use super::{
    super::{part::Part, view::View},
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

/// The content hash of the id's row, whether readers may see it yet or not.
pub fn content_hash(view: &View, scope: &TenantScope, id: Uuid) -> Result<Option<ContentHash>, StoreError> {
    if let Some(hash) = view.memtables().find_map(|m| m.content_hash(scope, id)) {
        return Ok(Some(hash));
    }
    for part in view.parts.iter().rev() {
        if let Some((_, hash)) = part.find(scope, id).map_err(damaged)? {
            return Ok(Some(hash));
        }
    }
    Ok(None)
}
