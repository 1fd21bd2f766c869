//! Merges parts into new ones, in bounded memory and column by column: rows are never made into records.
//!
//! ```text
//! part ─▶ stream of batches ─┐
//! part ─▶ stream of batches ─┼─▶ runs in the order of (tenant, timestamp, sequence) ─▶ pieces ─▶ blocks ─▶ data file + sidecar
//! part ─▶ stream of batches ─┘
//! ```
//!
//! Each part is read once from its begin to its end, but for blocks that nothing is kept of, which are not even inflated. A
//! *run* is rows that follow each other in one batch and in the result: with clocks that agree runs are long, and are passed
//! on without a copy; short ones are gathered row by row. What is in memory: one batch of each part (at most 8,192 rows, less
//! where rows are large), one block, and the compressed pages of one row group.
//!
//! The result ends between blocks when it is as large as it may be; the next one goes on there. Every row that is kept is
//! written exactly once: [`Merge::rows`] says how many were read and left out, and the caller compares.

use super::{
    Part, PartError, PartMeta,
    chunks::ChunkWriter,
    fuse,
    keys::KeySet,
    read::{Texts, numbers, odd, random, times},
    schema::{self, Column, Layout},
    sidecar::{Block, SidecarBuilder},
    write::{Content, Shape, WriteError, empty_block, widen, write_files},
};
use crate::{
    fs::Fs,
    model::{
        entry::{Field, Severity},
        tenant::{TenantId, TenantScope},
    },
};
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray, types::Int32Type};
use arrow_select::interleave::interleave_record_batch;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReader, arrow_writer::ArrowWriterOptions},
    errors::ParquetError,
};
use std::{net::IpAddr, ops::Range, path::Path, sync::Arc};
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

/// Text bytes that a batch of one part should hold at most.
const BATCH_BYTES: u64 = 4 << 20;
/// Runs are passed on when they have this many rows together.
const PIECE_ROWS: usize = 2_048;
/// Shorter runs, on average, are gathered row by row.
const SHORT_RUN: usize = 24;

/// A merge in work. Results are written one after the other by [`Merge::next_part`].
pub struct Merge<'k> {
    inputs: Vec<Input>,
    keep: &'k dyn Keep,
    /// All tenants, descending: the next is the last.
    tenants: Vec<TenantId>,
    /// Whose rows are at work, and which inputs have some left.
    at: Option<(TenantId, Vec<usize>)>,
    seals: (u64, u64),
    read: u64,
    left_out: u64,
}

impl<'k> Merge<'k> {
    /// Begins to merge `parts`, at least one.
    pub fn new(parts: &[Arc<Part>], keep: &'k dyn Keep) -> Result<Self, PartError> {
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
        let mut merge = Self {
            inputs: Vec::with_capacity(parts.len()),
            keep,
            tenants,
            at: None,
            seals,
            read: 0,
            left_out: 0,
        };
        for part in parts {
            let input = Input::new(part.clone(), keep)?;
            merge.left_out += input.skipped;
            merge.inputs.push(input);
        }
        Ok(merge)
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
                self.fill_block(&mut writer)?;
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
            if let Some((tenant, live)) = &mut self.at {
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
                if !live.is_empty() {
                    return Ok(());
                }
            }
            let Some(next) = self.tenants.pop() else {
                self.at = None;
                return Ok(());
            };
            let having = (0..self.inputs.len()).filter(|i| self.inputs[*i].begin(&next)).collect();
            self.at = Some((next, having));
        }
    }

    /// Takes rows of one tenant until a block is full or the tenant has no more.
    fn fill_block(&mut self, writer: &mut Writer<'_>) -> Result<(), WriteError> {
        let Some((tenant, _)) = &self.at else { return Ok(()) };
        let tenant = tenant.clone();
        let mut block = OpenBlock::default();
        let mut runs = Runs::default();
        loop {
            let same = self.at.as_ref().is_some_and(|(at, _)| *at == tenant);
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
        let Some((_, live)) = &self.at else { return Ok(()) };
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

/// One part on its way through a merge.
struct Input {
    part: Arc<Part>,
    reader: Reader,
    /// The decoded rows, and the next of them.
    batch: Option<Batch>,
    /// Rows of the tenant at work that are neither in `batch` nor taken.
    unread: usize,
    /// Rows of blocks of which nothing is kept.
    skipped: u64,
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
    fn new(part: Arc<Part>, keep: &dyn Keep) -> Result<Self, PartError> {
        let (mut wanted, mut selected, mut skipped): (Vec<Range<u32>>, _, _) = (Vec::new(), Vec::new(), 0);
        for name in part.tenant_names() {
            let name = name?;
            let of = part.tenant(&TenantScope::new(name.clone()));
            let mut rows = 0;
            for block in of.iter().flat_map(|of| of.blocks()) {
                if keep.block(&name, block.timestamps, block.received, block.sequences) == Some(false) {
                    skipped += block.rows.len() as u64;
                    continue;
                }
                rows += block.rows.len();
                match wanted.last_mut() {
                    Some(last) if last.end == block.rows.start => last.end = block.rows.end,
                    _ => wanted.push(block.rows),
                }
            }
            selected.push(rows);
        }
        let reader = Reader::new(part.clone(), wanted);
        Ok(Self {
            part,
            reader,
            batch: None,
            unread: 0,
            skipped,
            selected,
        })
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
}

impl Reader {
    fn new(part: Arc<Part>, wanted: Vec<Range<u32>>) -> Self {
        let groups = (0..part.groups()).rev().map(|g| (g, Vec::new())).collect();
        Self {
            part,
            groups,
            wanted,
            open: None,
            batches: 0,
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
                self.open = Some(self.part.stream(group, &wanted, BATCH_BYTES).map_err(|e| self.part.undecodable(&e))?);
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

/// Writes blocks of whole columns.
struct Writer<'f> {
    arrow: ArrowWriter<&'f mut ChunkWriter>,
    keys: KeySet<'static>,
    sidecar: SidecarBuilder,
    tenant: Option<TenantId>,
    times: (i64, i64),
    rows: u32,
    group: (usize, usize),
}

impl<'f> Writer<'f> {
    fn new(sink: &'f mut ChunkWriter, seals: (u64, u64)) -> Result<Self, WriteError> {
        let options = ArrowWriterOptions::new().with_properties(schema::properties()).with_skip_arrow_metadata(true);
        Ok(Self {
            arrow: ArrowWriter::try_new_with_options(sink, schema::read(), options)?,
            keys: KeySet::default(),
            sidecar: SidecarBuilder {
                seals,
                ..SidecarBuilder::default()
            },
            tenant: None,
            times: (i64::MAX, i64::MIN),
            rows: 0,
            group: (0, 0),
        })
    }

    /// Bytes of the data file so far.
    fn len(&self) -> u64 {
        (self.arrow.bytes_written() + self.arrow.in_progress_size()) as u64
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
        if self.tenant.as_ref() != Some(tenant) {
            self.tenant = Some(tenant.clone());
            self.sidecar.tenants.push((tenant.as_str().into(), self.rows, self.sidecar.blocks.len() as u32));
        }
        let mut block = empty_block(self.rows);
        let with_filter = self.keys.begin_whole(open.rows);
        for piece in &open.pieces {
            self.add_piece(tenant, piece, &mut block, with_filter)?;
            self.arrow.write(&with_tenant(tenant, piece)?)?;
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
            self.arrow.flush()?;
            self.group = (0, 0);
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
            let id = Uuid::from_slice(ids.value(i)).map_err(|_| odd("an id is no id"))?;
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
            let id = Uuid::from_slice(ids.value(i)).map_err(|_| odd("an id is no id"))?;
            self.keys.add_row(actors.get(i).unwrap_or_default(), id, address, &texts);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Content, WriteError> {
        if self.rows == 0 {
            return Err(WriteError::Rows("there are none"));
        }
        self.arrow.finish()?;
        Ok(Content {
            sidecar: self.sidecar,
            times: self.times,
        })
    }
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
