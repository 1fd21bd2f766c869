//! What a merge does with each part: what it copies as it is, and in which lanes it reads the rest.

use super::{Block, Keep, Part, PartError, read::odd};
use crate::model::tenant::{TenantId, TenantScope};
use std::ops::Range;

/// What is to be done with one part.
pub(super) struct Plan {
    /// Much of a tenant that is kept, in the order of its rows.
    pub(super) whole: Vec<(TenantId, Piece)>,
    pub(super) lanes: Vec<Lane>,
    /// Rows of blocks of which nothing is kept.
    pub(super) skipped: u64,
}

/// A tenant's rows of a row group: whole blocks in whole pages.
pub(super) struct Piece {
    pub(super) group: usize,
    pub(super) rows: Range<u32>,
}

/// Rows of a part of which each tenant's are in the order of (timestamp, sequence).
#[derive(Default)]
pub(super) struct Lane {
    /// The rows, ascending.
    pub(super) wanted: Vec<Range<u32>>,
    /// How many they are of each tenant, by its place.
    pub(super) selected: Vec<usize>,
}

impl Plan {
    /// `own`: from so many rows, or bytes, on a tenant's rows of a row group are copied.
    pub(super) fn of(part: &Part, keep: &dyn Keep, own: (usize, usize)) -> Result<Self, PartError> {
        let mut plan = Self {
            whole: Vec::new(),
            lanes: Vec::new(),
            skipped: 0,
        };
        for (place, name) in part.tenant_names().enumerate() {
            let name = name?;
            let Some(rows) = part.tenant(&TenantScope::new(name.clone())) else { continue };
            let blocks: Vec<Block> = rows.blocks().collect();
            // Where the tenant's rows end in each lane.
            let mut ends: Vec<Option<(i64, u64)>> = vec![None; plan.lanes.len()];
            for blocks in blocks.chunk_by(|a, b| part.group_of(a.rows.start) == part.group_of(b.rows.start)) {
                let group = part.group_of(blocks[0].rows.start);
                let piece = Piece {
                    group,
                    rows: blocks[0].rows.start..blocks[blocks.len() - 1].rows.end,
                };
                let is_kept = blocks.iter().all(|b| kept(keep, &name, b) == Some(true));
                if is_kept && piece.is_large(part, own) && part.are_pages(group, &piece.rows) {
                    plan.whole.push((name.clone(), piece));
                    continue;
                }
                for block in blocks {
                    if kept(keep, &name, block) == Some(false) {
                        plan.skipped += block.rows.len() as u64;
                    } else {
                        plan.read(place, block, &mut ends);
                    }
                }
            }
        }
        let tenants = part.tenants();
        plan.lanes.iter_mut().for_each(|lane| lane.selected.resize(tenants, 0));
        Ok(plan)
    }

    /// Puts the block into the first lane of which it begins behind the end.
    fn read(&mut self, place: usize, block: &Block, ends: &mut Vec<Option<(i64, u64)>>) {
        let begin = (block.timestamps.0, block.sequences.0);
        let lane = ends.iter().position(|end| end.is_none_or(|end| end < begin)).unwrap_or_else(|| {
            self.lanes.push(Lane::default());
            ends.push(None);
            ends.len() - 1
        });
        ends[lane] = Some((block.timestamps.1, block.sequences.1));
        let lane = &mut self.lanes[lane];
        lane.selected.resize(place + 1, 0);
        lane.selected[place] += block.rows.len();
        match lane.wanted.last_mut() {
            Some(before) if before.end == block.rows.start => before.end = block.rows.end,
            _ => lane.wanted.push(block.rows.clone()),
        }
    }
}

fn kept(keep: &dyn Keep, tenant: &TenantId, block: &Block) -> Option<bool> {
    keep.block(tenant, block.timestamps, block.received, block.sequences)
}

impl Piece {
    /// Whether it has so many rows, or about so many bytes of records.
    fn is_large(&self, part: &Part, own: (usize, usize)) -> bool {
        let of_group = part.footer().row_group(self.group);
        let bytes = of_group.total_byte_size().max(0) as u128 * self.rows.len() as u128 / of_group.num_rows().max(1) as u128;
        self.rows.len() >= own.0 || bytes >= own.1 as u128
    }
}

impl Part {
    /// The tenants that have rows here, ascending.
    pub(super) fn tenant_names(&self) -> impl Iterator<Item = Result<TenantId, PartError>> + '_ {
        (0..self.sidecar().tenants()).map(|i| {
            let name = self.sidecar().name(i).and_then(|name| std::str::from_utf8(name).ok());
            let name = name.and_then(|name| TenantId::decode(name).ok());
            name.ok_or_else(|| self.undecodable(&odd("a tenant's name is none")))
        })
    }
}
