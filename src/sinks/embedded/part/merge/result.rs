//! What a merge writes: blocks of whole columns, and pages that are there already, with what the sidecar says about both.

use super::super::{
    Part,
    chunks::ChunkWriter,
    copy::{Copied, Pages},
    fuse,
    keys::KeySet,
    plan::Piece,
    read::{Texts, numbers, odd, random, times},
    record::at,
    schema::{self, Column, Layout},
    sidecar::{Block, SidecarBuilder},
    write::{Content, Shape, WriteError, empty_block, widen},
};
use crate::model::{
    entry::{Field, Severity},
    tenant::TenantId,
};
use arrow_array::{Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray, cast::AsArray, types::Int32Type};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves},
    },
    errors::ParquetError,
    file::writer::SerializedFileWriter,
};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// A block in work.
#[derive(Default)]
pub(super) struct OpenBlock {
    pieces: Vec<RecordBatch>,
    pub(super) rows: usize,
    bytes: usize,
}

const NO_BOUNDS: [(i64, i64); 3] = [(i64::MAX, i64::MIN); 3];

/// Writes blocks of whole columns, and pages that are there already.
pub(super) struct Writer<'f> {
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
    pub(super) fn new(sink: &'f mut ChunkWriter, seals: (u64, u64)) -> Result<Self, WriteError> {
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
    pub(super) fn len(&self) -> u64 {
        let open: usize = self.open.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
        (self.file.bytes_written() + open) as u64 + self.copied.as_ref().map_or(0, Copied::len)
    }

    /// Goes over to a tenant, if it is another than the one before.
    pub(super) fn begin(&mut self, tenant: &TenantId, own: bool) -> Result<(), ParquetError> {
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
    pub(super) fn copy(&mut self, tenant: &TenantId, part: &Part, piece: &Piece) -> Result<u64, WriteError> {
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
    pub(super) fn put(&mut self, tenant: &TenantId, block: &mut OpenBlock, piece: RecordBatch) -> Result<(), WriteError> {
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
    pub(super) fn close(&mut self, tenant: &TenantId, open: OpenBlock) -> Result<(), WriteError> {
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

    pub(super) fn finish(mut self) -> Result<Content, WriteError> {
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
