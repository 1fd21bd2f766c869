//! One entry by id, and the ledger: memory first, then the parts, newest first.
//!
//! An id belongs to its row: when that is erased the id is unknown, and a later row may have it. So a look-up passes over
//! erased rows, goes on to the next, and finds the one that is there.

use super::{
    super::{
        part::{Found, IdRange, Part, PartError, TenantRows},
        view::View,
    },
    Control, damaged,
};
use crate::{
    model::{
        entry::{ContentHash, StoredEntry},
        tenant::TenantScope,
    },
    seal::erasure::{Cover, Erasures},
    sinks::StoreError,
};
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
    newest(part, scope, part.find(scope, id)?, erasures)
}

/// The newest of an id's rows that is not erased.
fn newest(part: &Part, scope: &TenantScope, found: Found, erasures: Option<&Erasures>) -> Result<Option<(u32, ContentHash)>, PartError> {
    let rows = erasures
        .filter(|_| !found.is_empty())
        .and_then(|erasures| Some((erasures, part.tenant(scope)?)));
    let Some((erasures, rows)) = rows else { return Ok(found.last().copied()) };
    for (row, hash) in found.into_iter().rev() {
        if !is_erased(&rows, row, erasures)? {
            return Ok(Some((row, hash)));
        }
    }
    Ok(None)
}

/// By the bounds of the row's block, if they tell.
fn is_erased(rows: &TenantRows<'_>, row: u32, erasures: &Erasures) -> Result<bool, PartError> {
    let cover = rows
        .block_of(row)
        .map_or(Cover::Some, |block| erasures.may_cover(block.timestamps, block.received, block.sequences));
    match cover {
        Cover::None => Ok(false),
        Cover::All => Ok(true),
        Cover::Some => Ok(rows.times(&[row][..])?.iter().any(|row| row.is_covered(erasures))),
    }
}

fn read_row(part: &Part, scope: &TenantScope, row: u32) -> Result<StoredEntry, StoreError> {
    let rows = part.tenant(scope).map(|rows| rows.read(&[row])).transpose().map_err(damaged)?;
    let entry = rows.and_then(|mut rows| rows.pop());
    entry.ok_or_else(|| StoreError::Damaged("a part knows an id and has no row of it".into()))
}

/// The content hash of each id's row, whether readers may see it yet or not. Goes by parts that are left out of the answers
/// too, as far as they can be read: that their rows cannot be shown is no reason to store them again. A row that cannot be
/// read is no row, and `unreadable` is told of it.
pub fn content_hashes(view: &View, scope: &TenantScope, ids: &[Uuid], mut unreadable: impl FnMut(PartError)) -> Vec<Option<ContentHash>> {
    let erasures = view.erasures_of(scope);
    let in_memory = |id: &Uuid| view.memtables().find_map(|m| m.content_hash(scope, *id, erasures));
    let mut hashes: Vec<Option<ContentHash>> = ids.iter().map(in_memory).collect();
    let mut places: Vec<usize> = (0..ids.len()).filter(|i| hashes[*i].is_none()).collect();
    let mut left: Vec<Uuid> = places.iter().map(|i| ids[*i]).collect();
    let asked = IdRange::of(left.iter().copied());
    for part in view.parts.iter().chain(view.quarantined.iter()).rev() {
        if left.is_empty() {
            break;
        }
        let may_be = part.may_have(scope, &left, &asked);
        let ids: Vec<Uuid> = may_be.iter().map(|at| left[*at]).collect();
        let mut found = part.find_all(scope, &ids).ok();
        // The last first, so that those before it keep their places.
        for at in may_be.into_iter().rev() {
            let row = match found.as_mut().and_then(Vec::pop) {
                Some(rows) => newest(part, scope, rows, erasures),
                // Some cannot be read: each by itself.
                None => find(part, scope, left[at], erasures),
            };
            match row {
                Ok(Some((_, hash))) => {
                    hashes[places.swap_remove(at)] = Some(hash);
                    left.swap_remove(at);
                }
                Ok(None) => (),
                Err(error) => unreadable(error),
            }
        }
    }
    hashes
}
