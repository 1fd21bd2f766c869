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

use super::{
    Part, PartError, PartMeta,
    chunks::ChunkWriter,
    copy::{Copied, Pages},
    fuse,
    keys::KeySet,
    plan::{Lane, Piece, Plan},
    read::{Texts, numbers, odd, random, times},
    schema::{self, Column, Layout},
    sidecar::{Block, SidecarBuilder},
    write::{Content, Shape, WriteError, empty_block, widen, write_files},
};
use crate::{
    fs::Fs,
    model::{
        entry::{Field, Severity},
        tenant::TenantId,
    },
};
use arrow_array::{Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray, cast::AsArray, types::Int32Type};
use arrow_select::interleave::interleave_record_batch;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::ParquetRecordBatchReader,
        arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves},
    },
    errors::ParquetError,
    file::writer::SerializedFileWriter,
};
use std::{collections::HashMap, net::IpAddr, ops::Range, path::Path, sync::Arc};
use uuid::Uuid;

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
/// Shorter runs, on average, are gathered row by row.
const SHORT_RUN: usize = 24;

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

/// One lane of a part on its way through a merge.
struct Input {
    part: Arc<Part>,
    reader: Reader,
    /// The decoded rows, and the next of them.
    batch: Option<Batch>,
    /// Rows of the tenant at work that are neither in `batch` nor taken.
    unread: usize,
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
    fn new(part: Arc<Part>, lane: Lane, batch_bytes: u64) -> Self {
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
    fn begin(&mut self, tenant: &TenantId) -> bool {
        let place = self.part.sidecar().find_tenant(tenant.as_str());
        self.unread = place.map_or(0, |place| self.selected[place as usize]);
        if let Some(batch) = &mut self.batch {
            batch.end = batch.next;
        }
        self.unread > 0
    }

    /// Whether the tenant has a row left; then it is decoded, and the next row is one that is kept.
    fn settle(&mut self, tenant: &TenantId, keep: &dyn Keep, left_out: &mut u64) -> Result<bool, PartError> {
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

    fn head(&self) -> (i64, u64) {
        self.batch.as_ref().map_or((i64::MAX, u64::MAX), |b| b.key(b.next))
    }

    fn take_run(&mut self, before: Option<(i64, u64)>, room: usize) -> (Option<(u64, RecordBatch)>, usize, usize) {
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
struct Runs {
    batches: Vec<((usize, u64), RecordBatch)>,
    /// Batch, first row, rows.
    runs: Vec<(usize, usize, usize)>,
    rows: usize,
}

impl Runs {
    fn push(&mut self, input: usize, batch: Option<(u64, RecordBatch)>, start: usize, len: usize) {
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
    fn take(&mut self) -> Result<Vec<RecordBatch>, ParquetError> {
        let Self { batches, runs, rows } = std::mem::take(self);
        if rows >= runs.len() * SHORT_RUN {
            return Ok(runs.iter().map(|(batch, start, len)| batches[*batch].1.slice(*start, *len)).collect());
        }
        let places: Vec<(usize, usize)> = runs.iter().flat_map(|(batch, start, len)| (*start..start + len).map(|i| (*batch, i))).collect();
        let batches: Vec<&RecordBatch> = batches.iter().map(|(_, batch)| batch).collect();
        Ok(vec![interleave_record_batch(&batches, &places)?])
    }
}

/// A block in work.
#[derive(Default)]
struct OpenBlock {
    pieces: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

const NO_BOUNDS: [(i64, i64); 3] = [(i64::MAX, i64::MIN); 3];

/// Writes blocks of whole columns, and pages that are there already.
struct Writer<'f> {
    file: SerializedFileWriter<&'f mut ChunkWriter>,
    columns: ArrowRowGroupWriterFactory,
    /// The row group in work, column by column.
    open: Vec<ArrowColumnWriter>,
    /// Of one that is copied: the columns that are not encoded anew.
    copied: Option<Copied>,
    /// Its smallest and largest timestamp, sequence and `received_at`.
    bounds: [(i64, i64); 3],
    keys: KeySet<'static>,
    sidecar: SidecarBuilder,
    tenant: Option<TenantId>,
    /// Whether the tenant has row groups of its own.
    own: bool,
    times: (i64, i64),
    rows: u32,
    group: (usize, usize),
}

impl<'f> Writer<'f> {
    fn new(sink: &'f mut ChunkWriter, seals: (u64, u64)) -> Result<Self, WriteError> {
        let options = ArrowWriterOptions::new().with_properties(schema::properties()).with_skip_arrow_metadata(true);
        let (file, columns) = ArrowWriter::try_new_with_options(sink, schema::read(), options)?.into_serialized_writer()?;
        Ok(Self {
            file,
            columns,
            open: Vec::new(),
            copied: None,
            bounds: NO_BOUNDS,
            keys: KeySet::default(),
            sidecar: SidecarBuilder {
                seals,
                ..SidecarBuilder::default()
            },
            tenant: None,
            own: false,
            times: (i64::MAX, i64::MIN),
            rows: 0,
            group: (0, 0),
        })
    }

    /// Bytes of the data file so far.
    fn len(&self) -> u64 {
        let open: usize = self.open.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
        (self.file.bytes_written() + open) as u64 + self.copied.as_ref().map_or(0, Copied::len)
    }

    /// Goes over to a tenant, if it is another than the one before.
    fn begin(&mut self, tenant: &TenantId, own: bool) -> Result<(), ParquetError> {
        if self.tenant.as_ref() == Some(tenant) {
            return Ok(());
        }
        if self.copied.is_none() && (own || self.own) {
            self.cut()?;
        }
        (self.tenant, self.own) = (Some(tenant.clone()), own);
        let begin = (tenant.as_str().into(), self.rows, self.sidecar.blocks.len() as u32);
        self.sidecar.tenants.push(begin);
        Ok(())
    }

    /// Adds rows to the row group in work.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        if self.copied.is_some() {
            self.cut()?;
        }
        if self.open.is_empty() {
            self.open = self.columns.create_column_writers(self.file.flushed_row_groups().len())?;
        }
        let mut open = self.open.iter_mut();
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, array)? {
                open.next().ok_or_else(|| odd("a column too many"))?.write(&leaf)?;
            }
        }
        Ok(())
    }

    /// Ends the row group in work, if there is one.
    fn cut(&mut self) -> Result<(), ParquetError> {
        self.group = (0, 0);
        if self.open.is_empty() {
            return Ok(());
        }
        let (mut copied, bounds) = (self.copied.take(), std::mem::replace(&mut self.bounds, NO_BOUNDS));
        let descr = self.file.schema_descr().columns().to_vec();
        let mut out = self.file.next_row_group()?;
        for ((writer, column), descr) in self.open.drain(..).zip(Column::ALL).zip(descr) {
            let bounds = match column {
                Column::Timestamp => Some(bounds[0]),
                Column::Sequence => Some(bounds[1]),
                Column::ReceivedAt => Some(bounds[2]),
                _ => None,
            };
            match copied.as_mut().map_or(Ok(None), |copied| copied.column(column, descr, bounds))? {
                Some((pages, encoded)) => out.append_column(&pages, encoded)?,
                None => writer.close()?.append_to_row_group(&mut out)?,
            }
        }
        out.close().map(drop)
    }

    /// Copies rows of a tenant with their blocks. How many they are.
    fn copy(&mut self, tenant: &TenantId, part: &Part, piece: &Piece) -> Result<u64, WriteError> {
        let Piece { group, rows } = piece;
        let pages = part.pages(*group, rows).map_err(|e| WriteError::Source(part.undecodable(&e)))?;
        let fits = self.copied.as_ref().is_some_and(|copied| copied.takes(&pages)) && self.group.0 + rows.len() <= Shape::DEFAULT.group.0;
        if !fits {
            self.cut()?;
            self.open = self.columns.create_column_writers(self.file.flushed_row_groups().len())?;
            self.copied = Some(Copied::default());
        }
        self.begin(tenant, true)?;
        let (first, name) = (self.rows, tenant.as_str());
        let end = first.checked_add(rows.len() as u32);
        self.rows = end.ok_or(WriteError::Rows("they are more than 2^32 - 1"))?;
        self.group.0 += rows.len();
        if let Some(copied) = &mut self.copied {
            copied.push(rows.len(), pages);
        }
        for block in part.blocks_within(rows) {
            let start = self.sidecar.filters.len();
            self.sidecar.filters.extend_from_slice(part.sidecar().filter(&block));
            let sequences = (block.sequences.0 as i64, block.sequences.1 as i64);
            for (bounds, (low, high)) in self.bounds.iter_mut().zip([block.timestamps, sequences, block.received]) {
                *bounds = (bounds.0.min(low), bounds.1.max(high));
            }
            self.times = (self.times.0.min(block.timestamps.0), self.times.1.max(block.timestamps.1));
            self.sidecar.blocks.push(Block {
                rows: first + (block.rows.start - rows.start)..first + (block.rows.end - rows.start),
                filter: start..self.sidecar.filters.len(),
                ..block
            });
        }
        let columns: Vec<Column> = Column::ALL.into_iter().filter(|c| *c == Column::Id || !Pages::are_of(*c)).collect();
        let mut batches = Vec::new();
        let read = part.fetch(&columns, rows.clone().into(), &mut |batch| {
            batches.push(batch.clone());
            Ok(())
        });
        read.map_err(WriteError::Source)?;
        for batch in &batches {
            for ((column, field), array) in columns.iter().zip(batch.schema_ref().fields()).zip(batch.columns()) {
                if *column == Column::Id {
                    let ids = array.as_fixed_size_binary_opt().ok_or_else(|| odd("a column holds no 16 bytes"))?;
                    for i in 0..ids.len() {
                        let row = self.sidecar.ids.len() as u32;
                        self.sidecar.ids.push(((Shape::DEFAULT.id_key)(name, &id_in(ids, i)?), row));
                    }
                    continue;
                }
                for leaf in compute_leaves(field, array)? {
                    self.open[*column as usize].write(&leaf)?;
                }
            }
        }
        Ok(rows.len() as u64)
    }

    /// Adds a piece to the block; where it grows too large it is closed, and another is begun.
    fn put(&mut self, tenant: &TenantId, block: &mut OpenBlock, piece: RecordBatch) -> Result<(), WriteError> {
        let (rows, bytes, most) = (piece.num_rows(), text_bytes(&piece)?, Shape::DEFAULT.block.1);
        if block.bytes + bytes > most && rows > 1 {
            let half = rows / 2;
            self.put(tenant, block, piece.slice(0, half))?;
            return self.put(tenant, block, piece.slice(half, rows - half));
        }
        if block.bytes + bytes > most && block.rows > 0 {
            self.close(tenant, std::mem::take(block))?;
        }
        block.rows += rows;
        block.bytes += bytes;
        block.pieces.push(piece);
        Ok(())
    }

    /// Writes the block and what the sidecar says about it.
    fn close(&mut self, tenant: &TenantId, open: OpenBlock) -> Result<(), WriteError> {
        if open.rows == 0 {
            return Ok(());
        }
        let mut block = empty_block(self.rows);
        let with_filter = self.keys.begin_whole(open.rows);
        for piece in &open.pieces {
            self.add_piece(tenant, piece, &mut block, with_filter)?;
            self.write(&with_tenant(tenant, piece)?)?;
        }
        block.overflow = self.keys.overflow();
        let start = self.sidecar.filters.len();
        if let Some(keys) = self.keys.finish() {
            fuse::build(keys, &mut self.sidecar.filters);
        }
        block.filter = start..self.sidecar.filters.len();
        self.times = (self.times.0.min(block.timestamps.0), self.times.1.max(block.timestamps.1));
        self.sidecar.blocks.push(block);
        let shape = Shape::DEFAULT;
        self.group = (self.group.0 + open.rows, self.group.1 + open.bytes);
        if self.group.0 + shape.block.0 > shape.group.0 || self.group.1 + shape.block.1 > shape.group.1 {
            self.cut()?;
        }
        Ok(())
    }

    fn add_piece(&mut self, tenant: &TenantId, piece: &RecordBatch, block: &mut Block, with_filter: bool) -> Result<(), WriteError> {
        let rows = piece.num_rows();
        let end = u32::try_from(rows).ok().and_then(|n| self.rows.checked_add(n));
        let end = end.ok_or(WriteError::Rows("they are more than 2^32 - 1"))?;
        let (timestamps, sequences, received) = (
            times(piece, at(Column::Timestamp))?,
            numbers(piece, at(Column::Sequence))?,
            times(piece, at(Column::ReceivedAt))?,
        );
        for i in 0..rows {
            block.timestamps = widen(block.timestamps, timestamps.value(i));
            block.sequences = widen(block.sequences, sequences.value(i));
            block.received = widen(block.received, received.value(i));
        }
        let severities = Texts::of(piece, at(Column::Severity))?;
        let ids = random(piece, at(Column::Id))?;
        for i in 0..rows {
            let severity = severities.get(i).and_then(Severity::parse).ok_or_else(|| odd("a severity does not parse"))?;
            block.severities[severity as usize] += 1;
            let id = id_in(ids, i)?;
            block.ids.add(&id);
            self.sidecar.ids.push(((Shape::DEFAULT.id_key)(tenant.as_str(), &id), self.rows + i as u32));
        }
        if with_filter {
            self.add_keys(piece)?;
        }
        (block.rows.end, self.rows) = (end, end);
        Ok(())
    }

    fn add_keys(&mut self, piece: &RecordBatch) -> Result<(), WriteError> {
        let ids = random(piece, at(Column::Id))?;
        let actors = Texts::of(piece, at(Column::Actor))?;
        let mut fields = Vec::with_capacity(Field::COUNT);
        for field in Field::ALL {
            fields.push(Texts::of(piece, at(Column::of(field)))?);
        }
        for i in 0..piece.num_rows() {
            let mut texts: [Option<&str>; Field::COUNT] = std::array::from_fn(|f| fields[f].get(i));
            let address = texts[Field::IpAddress as usize].take().filter(|text| !text.is_empty());
            let address: Option<IpAddr> = match address {
                Some(text) => Some(text.parse().map_err(|_| odd("an address does not parse"))?),
                None => None,
            };
            let id = id_in(ids, i)?;
            self.keys.add_row(actors.get(i).unwrap_or_default(), id, address, &texts);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Content, WriteError> {
        if self.rows == 0 {
            return Err(WriteError::Rows("there are none"));
        }
        self.cut()?;
        self.file.finish()?;
        Ok(Content {
            sidecar: self.sidecar,
            times: self.times,
        })
    }
}

fn id_in(ids: &FixedSizeBinaryArray, i: usize) -> Result<Uuid, ParquetError> {
    Uuid::from_slice(ids.value(i)).map_err(|_| odd("an id is no id"))
}

/// The place of a column in a batch, which has no tenant.
fn at(column: Column) -> usize {
    column as usize - Column::Timestamp as usize
}

/// About the bytes of the records that the rows would be.
fn text_bytes(piece: &RecordBatch) -> Result<usize, ParquetError> {
    let mut bytes = piece.num_rows() * 80;
    for column in Column::ALL.into_iter().filter(|c| matches!(c.layout(), Layout::Narrow | Layout::Wide)) {
        if let Texts::Views(views) = Texts::of(piece, at(column))? {
            bytes += views.lengths().map(|len| len as usize).sum::<usize>();
        }
    }
    Ok(bytes)
}

/// The piece with the column of its tenant in front.
fn with_tenant(tenant: &TenantId, piece: &RecordBatch) -> Result<RecordBatch, ParquetError> {
    let keys = Int32Array::from(vec![0; piece.num_rows()]);
    let names: ArrayRef = Arc::new(StringArray::from(vec![tenant.as_str()]));
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(Column::COUNT);
    columns.push(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, names)?));
    columns.extend(piece.columns().iter().cloned());
    Ok(RecordBatch::try_new(schema::read(), columns)?)
}
