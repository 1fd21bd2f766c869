//! The rows of a merge: lanes of its parts, decoded batch by batch, and runs of rows that go on without a copy.

use super::{
    super::{
        Part, PartError,
        plan::Lane,
        read::{numbers, odd, times},
    },
    Keep,
};
use crate::model::tenant::TenantId;
use arrow_array::RecordBatch;
use arrow_select::interleave::interleave_record_batch;
use parquet::{arrow::arrow_reader::ParquetRecordBatchReader, errors::ParquetError};
use std::{ops::Range, sync::Arc};

/// Shorter runs, on average, are gathered row by row.
const SHORT_RUN: usize = 24;

/// One lane of a part on its way through a merge.
pub(super) struct Input {
    part: Arc<Part>,
    reader: Reader,
    /// The decoded rows, and the next of them.
    batch: Option<Batch>,
    /// Rows of the tenant at work that are neither in `batch` nor taken.
    pub(super) unread: usize,
    /// Rows that are read of each tenant, by its place.
    selected: Vec<usize>,
}

/// Decoded rows.
struct Batch {
    columns: RecordBatch,
    /// A number that no other batch of the input has.
    number: u64,
    next: usize,
    /// Where the rows end that may be taken now: those of the tenant at work, up to the first that is not kept.
    end: usize,
    /// Whether the rows up to `end` were looked at.
    kept: bool,
}

impl Batch {
    fn key(&self, i: usize) -> (i64, u64) {
        let time = times(&self.columns, 0).map_or(0, |t| t.value(i));
        let number = numbers(&self.columns, 1).map_or(0, |n| n.value(i));
        (time, number)
    }
}

impl Input {
    pub(super) fn new(part: Arc<Part>, lane: Lane, batch_bytes: u64) -> Self {
        let Lane { wanted, selected } = lane;
        Self {
            reader: Reader::new(part.clone(), wanted, batch_bytes),
            part,
            batch: None,
            unread: 0,
            selected,
        }
    }

    /// Goes over to a tenant, the one before it being done; whether it has rows here.
    pub(super) fn begin(&mut self, tenant: &TenantId) -> bool {
        let place = self.part.sidecar().find_tenant(tenant.as_str());
        self.unread = place.map_or(0, |place| self.selected[place as usize]);
        if let Some(batch) = &mut self.batch {
            batch.end = batch.next;
        }
        self.unread > 0
    }

    /// Whether the tenant has a row left; then it is decoded, and the next row is one that is kept.
    pub(super) fn settle(&mut self, tenant: &TenantId, keep: &dyn Keep, left_out: &mut u64) -> Result<bool, PartError> {
        loop {
            if self.batch.as_ref().is_none_or(|b| b.next == b.columns.num_rows()) {
                if self.unread == 0 {
                    return Ok(false);
                }
                self.batch = Some(self.reader.next()?);
            }
            let Some(batch) = &mut self.batch else { return Ok(false) };
            if batch.next == batch.end {
                let more = self.unread.min(batch.columns.num_rows() - batch.end);
                if more == 0 {
                    return Ok(false);
                }
                (batch.end, batch.kept) = (batch.end + more, false);
                self.unread -= more;
            }
            if batch.kept {
                return Ok(true);
            }
            let (first, kept) = keep_of(batch, tenant, keep).map_err(|e| self.part.undecodable(&e))?;
            *left_out += (first - batch.next) as u64;
            batch.next = first;
            // What follows the rows that are kept is looked at later.
            self.unread += batch.end - kept;
            batch.end = kept;
            batch.kept = true;
            if first < kept {
                return Ok(true);
            }
        }
    }

    pub(super) fn head(&self) -> (i64, u64) {
        self.batch.as_ref().map_or((i64::MAX, u64::MAX), |b| b.key(b.next))
    }

    pub(super) fn take_run(&mut self, before: Option<(i64, u64)>, room: usize) -> (Option<(u64, RecordBatch)>, usize, usize) {
        let Some(batch) = &mut self.batch else { return (None, 0, 0) };
        let (start, most) = (batch.next, batch.end.min(batch.next + room));
        let mut end = most;
        if let Some(before) = before {
            // The first row is one of the run; short runs are found by a few steps, long ones by halving.
            let (mut low, mut high, mut step) = (start + 1, start + 1, 1);
            while high < most && batch.key(high) < before {
                (low, high, step) = (high + 1, high + step, step * 2);
            }
            high = high.min(most);
            while low < high {
                let middle = low + (high - low) / 2;
                if batch.key(middle) < before { low = middle + 1 } else { high = middle }
            }
            end = low.min(most);
        }
        batch.next = end;
        (Some((batch.number, batch.columns.clone())), start, end - start)
    }
}

/// The first of the batch's rows that is kept, and the first after it that is not.
fn keep_of(batch: &Batch, tenant: &TenantId, keep: &dyn Keep) -> Result<(usize, usize), ParquetError> {
    let (t, s, r) = (times(&batch.columns, 0)?, numbers(&batch.columns, 1)?, times(&batch.columns, 2)?);
    let kept = |i: &usize| keep.row(tenant, t.value(*i), r.value(*i), s.value(*i));
    let first = (batch.next..batch.end).find(kept).unwrap_or(batch.end);
    let end = (first..batch.end).find(|i| !kept(i)).unwrap_or(batch.end);
    Ok((first, end))
}

/// Decodes rows of a part in order, all columns but the tenant.
struct Reader {
    part: Arc<Part>,
    /// What is not begun yet, by row group, the next last.
    groups: Vec<(usize, Vec<u32>)>,
    wanted: Vec<Range<u32>>,
    open: Option<ParquetRecordBatchReader>,
    batches: u64,
    batch_bytes: u64,
}

impl Reader {
    fn new(part: Arc<Part>, wanted: Vec<Range<u32>>, batch_bytes: u64) -> Self {
        let groups = (0..part.groups()).rev().map(|g| (g, Vec::new())).collect();
        Self {
            part,
            groups,
            wanted,
            open: None,
            batches: 0,
            batch_bytes,
        }
    }

    fn next(&mut self) -> Result<Batch, PartError> {
        loop {
            if let Some(open) = &mut self.open {
                match open.next() {
                    Some(batch) => {
                        let columns = batch.map_err(|e| self.part.undecodable(&e.into()))?;
                        self.batches += 1;
                        return Ok(Batch {
                            columns,
                            number: self.batches,
                            next: 0,
                            end: 0,
                            kept: false,
                        });
                    }
                    None => self.open = None,
                }
            }
            let Some((group, mut rows)) = self.groups.pop() else {
                return Err(self.part.undecodable(&odd("fewer rows than its sidecar says")));
            };
            rows.clear();
            let bounds = self.part.group_rows(group);
            let wanted: Vec<Range<u32>> = self
                .wanted
                .iter()
                .map(|w| w.start.max(bounds.start)..w.end.min(bounds.end))
                .filter(|w| w.start < w.end)
                .collect();
            if !wanted.is_empty() {
                self.open = Some(self.part.stream(group, &wanted, self.batch_bytes).map_err(|e| self.part.undecodable(&e))?);
            }
        }
    }
}

/// Runs that wait to become a piece.
#[derive(Default)]
pub(super) struct Runs {
    batches: Vec<((usize, u64), RecordBatch)>,
    /// Batch, first row, rows.
    runs: Vec<(usize, usize, usize)>,
    pub(super) rows: usize,
}

impl Runs {
    pub(super) fn push(&mut self, input: usize, batch: Option<(u64, RecordBatch)>, start: usize, len: usize) {
        let Some((number, columns)) = batch else { return };
        let name = (input, number);
        let at = self.batches.iter().rposition(|(known, _)| *known == name).unwrap_or_else(|| {
            self.batches.push((name, columns));
            self.batches.len() - 1
        });
        self.runs.push((at, start, len));
        self.rows += len;
    }

    /// The rows of the runs, in order.
    pub(super) fn take(&mut self) -> Result<Vec<RecordBatch>, ParquetError> {
        let Self { batches, runs, rows } = std::mem::take(self);
        if rows >= runs.len() * SHORT_RUN {
            return Ok(runs.iter().map(|(batch, start, len)| batches[*batch].1.slice(*start, *len)).collect());
        }
        let places: Vec<(usize, usize)> = runs.iter().flat_map(|(batch, start, len)| (*start..start + len).map(|i| (*batch, i))).collect();
        let batches: Vec<&RecordBatch> = batches.iter().map(|(_, batch)| batch).collect();
        Ok(vec![interleave_record_batch(&batches, &places)?])
    }
}
