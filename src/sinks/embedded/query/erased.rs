//! How many rows an erasure removes: by the bounds and counts of whole units, and by the times of the rows of those that it
//! takes in part. No filter, no whole row; one unit's times are in memory at a time.
//!
//! Rows that cannot be shown because their part is damaged are rows, and counted as far as the part says what it holds; of a
//! unit that is taken in part and whose times cannot be read, none is.

use super::{super::view::TenantView, Control, Reader};
use crate::{
    model::filter::Filter,
    seal::erasure::{Cover, Removal},
    sinks::StoreError,
};

/// The rows that `removal` takes of those that are there, hidden or not.
pub fn count(view: TenantView, removal: &Removal, control: &Control) -> Result<u64, StoreError> {
    let everything = TenantView {
        parts: view.parts.iter().chain(view.quarantined.iter()).cloned().collect(),
        erasures: None,
        ..view
    };
    let is_quarantined = |name: &str| everything.quarantined.iter().any(|part| part.meta().name == name);
    let filter = Filter::default();
    let reader = Reader::of_all(&everything, &filter, control);
    let mut total = 0;
    for unit in &reader.units {
        control.check()?;
        let rows = unit.rows();
        total += match removal.may_take(unit.timestamps, unit.received, unit.sequences) {
            Cover::None => 0,
            Cover::All => rows.len(),
            Cover::Some => match reader.times(unit, rows.into()) {
                Ok(times) => times.iter().filter(|row| removal.takes(row.timestamp, row.received_at, row.sequence)).count(),
                Err(StoreError::BadPart { part, .. }) if is_quarantined(&part) => 0,
                Err(error) => return Err(error),
            },
        } as u64;
    }
    Ok(total)
}
