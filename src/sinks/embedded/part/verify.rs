//! Holds a part against its sidecar, row by row, for people who want to know.

use super::{
    Part, PartError, RowTimes, Rows,
    read::{numbers, odd, random, times},
    schema::Column,
};
use crate::model::tenant::{TenantId, TenantScope};
use uuid::Uuid;

impl Part {
    /// Reads the keys of every row, after [`Part::verify`]: that those of a block are in order, that what the sidecar says about each block is
    /// true, and that each id is found. Tells `visit` of every row. Blocks for about a second per million rows.
    pub fn verify_rows(&self, visit: &mut dyn FnMut(&TenantId, RowTimes)) -> Result<(), PartError> {
        for name in self.tenant_names() {
            let name = name?;
            let scope = TenantScope::new(name.clone());
            let Some(of) = self.tenant(&scope) else { continue };
            for block in of.blocks() {
                let mut before = None;
                let (mut row, mut seen) = (block.rows.start, super::write::empty_block(block.rows.start));
                let columns = [Column::Timestamp, Column::Sequence, Column::ReceivedAt, Column::Id];
                self.fetch(&columns, Rows::Range(block.rows.start, block.rows.end), &mut |batch| {
                    let (timestamps, sequences, received, ids) = (times(batch, 0)?, numbers(batch, 1)?, times(batch, 2)?, random(batch, 3)?);
                    for i in 0..batch.num_rows() {
                        let at = RowTimes {
                            timestamp: timestamps.value(i),
                            received_at: received.value(i),
                            sequence: sequences.value(i),
                        };
                        let key = Some((at.timestamp, at.sequence));
                        if key <= before {
                            return Err(odd("rows are not in order"));
                        }
                        before = key;
                        seen.timestamps = super::write::widen(seen.timestamps, at.timestamp);
                        seen.received = super::write::widen(seen.received, at.received_at);
                        seen.sequences = super::write::widen(seen.sequences, at.sequence);
                        let id = Uuid::from_slice(ids.value(i)).map_err(|_| odd("an id is no id"))?;
                        if !self.candidates(&scope, &id).any(|candidate| candidate == row) {
                            return Err(odd("the index does not find an id"));
                        }
                        row += 1;
                        visit(&name, at);
                    }
                    Ok(())
                })?;
                let is_true = (seen.timestamps, seen.received, seen.sequences) == (block.timestamps, block.received, block.sequences);
                let counted = block.severities.iter().map(|n| u64::from(*n)).sum::<u64>() == block.rows.len() as u64;
                if !is_true || !counted {
                    return Err(self.undecodable(&odd("what its sidecar says about a block is not true")));
                }
            }
        }
        Ok(())
    }
}
