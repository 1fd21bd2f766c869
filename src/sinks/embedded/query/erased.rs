//! How many rows an erasure removes: by the bounds and counts of whole units, and by the times of the rows of those that it
//! takes in part. No filter, no whole row; one unit's times are in memory at a time.

use super::{super::view::TenantView, Control, Reader};
use crate::{
    model::filter::Filter,
    seal::erasure::{Cover, Removal},
    sinks::StoreError,
};

/// The rows that `removal` takes of those that are there. `view` hides nothing, or what is already erased.
pub fn count(view: &TenantView, removal: &Removal, control: &Control) -> Result<u64, StoreError> {
    let filter = Filter::default();
    let reader = Reader::of_all(view, &filter, control);
    let mut total = 0;
    for unit in &reader.units {
        control.check()?;
        let rows = unit.rows();
        total += match removal.may_take(unit.timestamps, unit.received, unit.sequences) {
            Cover::None => 0,
            Cover::All => rows.len(),
            Cover::Some => {
                let times = reader.times(unit, rows.into())?;
                times.iter().filter(|row| removal.takes(row.timestamp, row.received_at, row.sequence)).count()
            }
        } as u64;
    }
    Ok(total)
}
