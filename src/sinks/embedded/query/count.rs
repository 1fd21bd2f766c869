//! How many rows an erasure removes: from the counts of whole blocks, and from the keys of those that it takes in part.

use super::{super::view::TenantView, Control, Reader};
use crate::{
    model::filter::Filter,
    seal::erasure::{Cover, Removal},
    sinks::StoreError,
};

/// The rows that are there and that `removal` takes, hidden or not. Reads no more than two times and a number of each row,
/// and holds one block of them at a time.
pub fn count(view: &TenantView, removal: &Removal, control: &Control) -> Result<u64, StoreError> {
    let filter = Filter::default();
    let mut rows = 0;
    for unit in Reader::unerased(view, &filter, control).units_of_all() {
        control.check()?;
    }
    Ok(rows)
}
