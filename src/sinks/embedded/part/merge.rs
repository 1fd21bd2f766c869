//! Merges parts into new ones, in bounded memory and column by column: rows are never made into records.
//!
//! ```text
//! part ─▶ much of one tenant, all kept ── its pages, blocks and filters as they are ──────────────────────────────┐
//!     └─▶ lanes ─▶ streams of batches ─┐                                                                          ├─▶ data file + sidecar
//! part ─▶ lanes ─▶ streams of batches ─┴─▶ runs in the order of (tenant, timestamp, sequence) ─▶ pieces ─▶ blocks ┘
//! ```
//!
//! A tenant with many rows has pages of its own ([`Shape::own`]), and most data is of such. Where all rows are kept nothing
//! is gained by inflating them: they go over unchanged ([`super::copy`]), with their blocks and filters, and only their ids are
//! read. So blocks of one tenant may overlap in time, which readers are used to: those of different parts do.
//!
//! The rest of a part is read once from its begin to its end, but for blocks that nothing is kept of, which are not even
//! inflated. It is read as one or more *lanes*, in each of which a tenant's rows are in order. A *run* is rows that follow each other in one batch and in the result: with clocks that agree runs are long, and are passed
//! on without a copy; short ones are gathered row by row. What is in memory: one batch of each lane (at most 8,192 rows, less
//! where rows are large or lanes are many), one block, and the compressed pages of one row group.
//!
//! The result ends between blocks when it is as large as it may be; the next one goes on there. Every row that is kept is
//! written exactly once: [`Merge::rows`] says how many were read and left out, and the caller compares.

mod result;
mod rows;

use self::{
    result::{OpenBlock, Writer},
    rows::{Input, Runs},
};
use super::{
    Part, PartError, PartMeta,
    plan::{Piece, Plan},
    write::{Shape, WriteError, write_files},
};
use crate::{fs::Fs, model::tenant::TenantId};
use std::{collections::HashMap, path::Path, sync::Arc};

/// What a row is kept or left out by.
pub trait Keep {
    /// Whether rows within these bounds (inclusive: timestamp, `received_at`, sequence) are kept: all, none, or it depends.
    fn block(&self, tenant: &TenantId, timestamps: (i64, i64), received: (i64, i64), sequences: (u64, u64)) -> Option<bool>;
    /// Whether the row is kept.
    fn row(&self, tenant: &TenantId, timestamp: i64, received_at: i64, sequence: u64) -> bool;
}

/// How large results may be, and who may stop the work.
pub struct Limits<'l> {
    /// A data file ends at the first block that reaches this many bytes.
    pub bytes: u64,
    /// Called between blocks; may wait. An error ends the merge.
    pub between: &'l dyn Fn() -> Result<(), Interrupted>,
}

/// The merge was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

/// Text bytes that a batch of one lane should hold at most, and those of all lanes together.
const BATCH_BYTES: u64 = 4 << 20;
const BATCHES_BYTES: u64 = 48 << 20;
/// Runs are passed on when they have this many rows together.
const PIECE_ROWS: usize = 2_048;

/// A merge in work. Results are written one after the other by [`Merge::next_part`].
pub struct Merge<'k> {
    parts: Vec<Arc<Part>>,
    inputs: Vec<Input>,
    keep: &'k dyn Keep,
    /// All tenants, descending: the next is the last.
    tenants: Vec<TenantId>,
    /// What is copied, with the place of its part; the next is the last.
    whole: HashMap<TenantId, Vec<(usize, Piece)>>,
    at: Option<At>,
    own: (usize, usize),
    seals: (u64, u64),
    read: u64,
    left_out: u64,
}

/// Whose rows are at work.
struct At {
    tenant: TenantId,
    /// What is still to be copied.
    whole: Vec<(usize, Piece)>,
    /// The inputs that have rows left.
    live: Vec<usize>,
    /// Whether the tenant gets row groups of its own.
    own: bool,
}

impl<'k> Merge<'k> {
    /// Begins to merge `parts`, at least one.
    pub fn new(parts: &[Arc<Part>], keep: &'k dyn Keep) -> Result<Self, PartError> {
        Self::with_own(parts, keep, Shape::DEFAULT.own)
    }

    /// The same with another idea of what a large tenant is.
    pub(super) fn with_own(parts: &[Arc<Part>], keep: &'k dyn Keep, own: (usize, usize)) -> Result<Self, PartError> {
        let mut tenants = Vec::new();
        for part in parts {
            for name in part.tenant_names() {
                tenants.push(name?);
            }
        }
        tenants.sort_unstable_by(|a: &TenantId, b| b.cmp(a));
        tenants.dedup();
        let seals = parts
            .iter()
            .map(|p| p.meta().seals)
            .fold((u64::MAX, 0), |all, s| (all.0.min(s.0), all.1.max(s.1)));
        let (mut left_out, mut lanes) = (0, Vec::new());
        let mut whole: HashMap<TenantId, Vec<(usize, Piece)>> = HashMap::new();
        for (i, part) in parts.iter().enumerate() {
            let plan = Plan::of(part, keep, own)?;
            left_out += plan.skipped;
            for (tenant, piece) in plan.whole {
                whole.entry(tenant).or_default().push((i, piece));
            }
            lanes.extend(plan.lanes.into_iter().map(|lane| (part.clone(), lane)));
        }
        whole.values_mut().for_each(|pieces| pieces.reverse());
        let batch_bytes = (BATCHES_BYTES / lanes.len().max(1) as u64).clamp(BATCH_BYTES / 16, BATCH_BYTES);
        Ok(Self {
            parts: parts.to_vec(),
            inputs: lanes.into_iter().map(|(part, lane)| Input::new(part, lane, batch_bytes)).collect(),
            keep,
            tenants,
            whole,
            at: None,
            own,
            seals,
            read: 0,
            left_out,
        })
    }

    /// Rows that were read and kept so far, and those that were left out.
    pub fn rows(&self) -> (u64, u64) {
        (self.read, self.left_out)
    }

    /// Whether every row was taken. Looks for the next row, so it may read.
    pub fn is_done(&mut self) -> Result<bool, PartError> {
        self.find_rows()?;
        Ok(self.at.is_none())
    }

    /// Writes the next result as `name` in `dir`; blocks, and leaves temporary files behind when it fails, as
    /// [`write()`](super::write()) does. To be called only while [`Merge::is_done`] says no. `None`: it was interrupted.
    pub fn next_part(&mut self, fs: &dyn Fs, dir: &Path, name: &str, limits: &Limits<'_>) -> Result<Option<PartMeta>, PartError> {
        let mut interrupted = false;
        let seals = self.seals;
        let written = write_files(fs, dir, name, seals, |sink| {
            let mut writer = Writer::new(sink, seals)?;
            while !self.is_done().map_err(WriteError::Source)? && writer.len() < limits.bytes {
                if (limits.between)().is_err() {
                    interrupted = true;
                    return Err(WriteError::Rows("the merge was interrupted"));
                }
                match self.at.as_mut().and_then(|at| Some((at.tenant.clone(), at.whole.pop()?))) {
                    Some((tenant, (part, piece))) => self.read += writer.copy(&tenant, &self.parts[part], &piece)?,
                    None => self.fill_block(&mut writer)?,
                }
            }
            writer.finish()
        });
        match written {
            Err(_) if interrupted => Ok(None),
            done => done.map(Some),
        }
    }

    /// Goes on to the next tenant that has rows left, if the one at work has none.
    fn find_rows(&mut self) -> Result<(), PartError> {
        loop {
            if let Some(At { tenant, whole, live, .. }) = &mut self.at {
                let (inputs, keep, left_out) = (&mut self.inputs, self.keep, &mut self.left_out);
                let mut error = None;
                live.retain(|i| match inputs[*i].settle(tenant, keep, left_out) {
                    Ok(has_rows) => has_rows,
                    Err(e) => {
                        error.get_or_insert(e);
                        false
                    }
                });
                if let Some(error) = error {
                    return Err(error);
                }
                if !whole.is_empty() || !live.is_empty() {
                    return Ok(());
                }
            }
            let Some(next) = self.tenants.pop() else {
                self.at = None;
                return Ok(());
            };
            let live: Vec<usize> = (0..self.inputs.len()).filter(|i| self.inputs[*i].begin(&next)).collect();
            let whole = self.whole.remove(&next).unwrap_or_default();
            let rows: usize = live.iter().map(|i| self.inputs[*i].unread).sum();
            self.at = Some(At {
                own: rows >= self.own.0 || !whole.is_empty(),
                tenant: next,
                whole,
                live,
            });
        }
    }

    /// Takes rows of one tenant until a block is full or the tenant has no more.
    fn fill_block(&mut self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
        let Some(At { tenant, own, .. }) = &self.at else { return Ok(()) };
        let (tenant, own) = (tenant.clone(), *own);
        writer.begin(&tenant, own)?;
        let mut block = OpenBlock::default();
        let mut runs = Runs::default();
        loop {
            let same = self.at.as_ref().is_some_and(|at| at.tenant == tenant);
            let room = Shape::DEFAULT.block.0 - block.rows - runs.rows;
            if !same || room == 0 || runs.rows >= PIECE_ROWS {
                for piece in runs.take()? {
                    writer.put(&tenant, &mut block, piece)?;
                }
            }
            if !same || block.rows == Shape::DEFAULT.block.0 {
                return writer.close(&tenant, block);
            }
            let room = Shape::DEFAULT.block.0 - block.rows - runs.rows;
            self.next_run(room, &mut runs)?;
            self.find_rows().map_err(WriteError::Source)?;
        }
    }

    /// The rows of the input with the smallest head that come before every other input's head, at most `room`.
    fn next_run(&mut self, room: usize, runs: &mut Runs) -> Result<(), WriteError> {
        let Some(At { live, .. }) = &self.at else { return Ok(()) };
        let (mut first, mut second) = (None::<((i64, u64), usize)>, None::<(i64, u64)>);
        for i in live.iter().copied() {
            let head = self.inputs[i].head();
            match first {
                Some((least, _)) if head >= least => second = Some(second.map_or(head, |s| s.min(head))),
                _ => {
                    second = first.map(|(least, _)| least);
                    first = Some((head, i));
                }
            }
        }
        let Some((_, i)) = first else { return Ok(()) };
        let (batch, start, len) = self.inputs[i].take_run(second, room);
        self.read += len as u64;
        runs.push(i, batch, start, len);
        Ok(())
    }
}
