//! Counting rows by their place in time and sequence, whatever else they hold.

use super::{super::view::TenantView, Control, scan};
use crate::{model::filter::Filter, sinks::StoreError};

const ROWS_AT_ONCE: usize = 1000;

/// How many rows `counts` takes, by (timestamp, received_at, sequence).
pub fn count(view: &TenantView, control: &Control, counts: impl Fn(i64, i64, u64) -> bool) -> Result<u64, StoreError> {
    let (mut total, mut after) = (0, 0);
    while after < view.head {
        let some = scan::scan(view, &Filter::default(), after, ROWS_AT_ONCE, control, control.deadline)?;
        let taken = some.entries.iter().filter(|stored| {
            let entry = stored.entry();
            stored.sequence.is_some_and(|sequence| counts(entry.timestamp(), stored.received_at, sequence))
        });
        total += taken.count() as u64;
        after = some.upto;
    }
    Ok(total)
}
