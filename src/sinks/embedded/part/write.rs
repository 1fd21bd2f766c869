//! Writes a part: data file, then sidecar, each under a temporary name until both are durable.
//!
//! Memory is bounded: at most 1,024 rows or 1 MiB of records as Arrow columns (they stay in the caches of the core), the compressed pages of one row group
//! (128 Ki rows or 128 MiB of records), the keys of one block, and about 30 bytes a row for the sidecar.
//!
//! Tenants with few rows share row groups; the others get some of their own ([`Shape::own`]).

use super::{
    PartError, PartMeta, RowIn,
    chunks::ChunkWriter,
    data_file, fuse,
    keys::KeySet,
    schema::{self, Column},
    sent::{Finder, Hashed},
    sidecar::{BLOCK_ROWS, Block, ID_KEY, IdKey, IdRange, SidecarBuilder},
    sidecar_file,
};
use crate::{
    fs::Fs,
    model::{
        entry::{Field, Severity},
        tenant::TenantId,
    },
};
use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder, TimestampMillisecondBuilder, UInt8Builder, UInt64Builder},
};
use parquet::{arrow::ArrowWriter, errors::ParquetError};
use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

/// Where the writer cuts.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Rows and bytes of records that wait as Arrow columns.
    pub(super) batch: (usize, usize),
    /// Rows and bytes of records of a block: what a query may have to hold at once.
    pub(super) block: (usize, usize),
    /// Rows and bytes of records of a row group: its compressed pages are held until it ends.
    pub(super) group: (usize, usize),
    /// A tenant with so many rows or bytes of records has row groups of its own, so that no page holds rows of others and a merge
    /// can copy them as they are.
    pub(super) own: (usize, usize),
    /// How an id becomes a key.
    pub(super) id_key: IdKey,
}

impl Shape {
    pub(super) const DEFAULT: Self = Self {
        batch: (1_024, 1 << 20),
        block: (BLOCK_ROWS as usize, 16 << 20),
        group: (128 << 10, 128 << 20),
        // Stores of tests are small, and have such tenants too.
        own: (if cfg!(test) { 48 } else { 512 }, 1 << 20),
        id_key: ID_KEY,
    };
}

/// Writes `rows` as the part `name` in `dir`. They are sorted by (tenant, timestamp, sequence) and at least one.
///
/// Blocks; when it returns both files and the folder are durable. After an error the folder may hold temporary files
/// (`*.tmp`) and nothing else that is new; writing the same part again replaces everything.
pub fn write<'a>(fs: &dyn Fs, dir: &Path, name: &str, seals: (u64, u64), rows: &mut dyn Iterator<Item = RowIn<'a>>) -> Result<PartMeta, PartError> {
    write_with(fs, dir, name, seals, rows, Shape::DEFAULT)
}

pub(super) fn write_with<'a>(
    fs: &dyn Fs,
    dir: &Path,
    name: &str,
    seals: (u64, u64),
    rows: &mut dyn Iterator<Item = RowIn<'a>>,
    shape: Shape,
) -> Result<PartMeta, PartError> {
    write_files(fs, dir, name, seals, |sink| {
        let writer = PartWriter::new(sink, seals, shape).map_err(WriteError::Parquet)?;
        writer.run(rows)
    })
}

/// What a part's rows add up to while its data file is written.
pub(super) struct Content {
    pub(super) sidecar: SidecarBuilder,
    /// Smallest and largest timestamp.
    pub(super) times: (i64, i64),
}

/// Writes both files of a part; `content` writes the data. See [`write()`].
pub(super) fn write_files(
    fs: &dyn Fs,
    dir: &Path,
    name: &str,
    seals: (u64, u64),
    content: impl FnOnce(&mut ChunkWriter) -> Result<Content, WriteError>,
) -> Result<PartMeta, PartError> {
    let [data, sidecar] = [data_file(name), sidecar_file(name)];
    let temporary = |file: &str| dir.join(format!("{file}.tmp"));
    let failed = |file: &str| {
        let file = file.to_owned();
        move |source| PartError::Io { doing: "write", file, source }
    };
    for file in [&data, &sidecar] {
        match fs.remove(&temporary(file)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(file)(e)),
            _ => {}
        }
    }
    let file = fs.create(&temporary(&data)).map_err(failed(&data))?;
    let mut sink = ChunkWriter::new(file);
    let Content { sidecar: builder, times } = content(&mut sink).map_err(|e| match e {
        WriteError::Rows(what) => PartError::Rows(what),
        WriteError::Source(error) => error,
        WriteError::Parquet(e) => failed(&data)(sink.take_failure().unwrap_or_else(|| io::Error::other(e))),
    })?;
    let (rows, written) = (builder.ids.len() as u64, sink.finish().map_err(failed(&data))?);
    let (bytes, sidecar_crc) = builder.encode(&written);
    let file = fs.create(&temporary(&sidecar)).map_err(failed(&sidecar))?;
    file.write_at(&bytes, 0).and_then(|()| file.sync()).map_err(failed(&sidecar))?;
    for file in [&data, &sidecar] {
        fs.rename(&temporary(file), &dir.join(file)).map_err(failed(file))?;
    }
    fs.sync_dir(dir).map_err(failed(&data))?;
    Ok(PartMeta {
        name: name.to_owned(),
        seals,
        rows,
        bytes: written.len,
        crc: written.crc,
        sidecar_bytes: bytes.len() as u64,
        sidecar_crc,
        min_timestamp: times.0,
        max_timestamp: times.1,
        erased_upto: 0,
        rewrites: 0,
    })
}

/// Why the data of a part was not written.
pub(super) enum WriteError {
    /// These are no rows of a part.
    Rows(&'static str),
    /// Parquet or the file system.
    Parquet(ParquetError),
    /// Where the rows come from cannot be read.
    Source(PartError),
}

impl From<ParquetError> for WriteError {
    fn from(e: ParquetError) -> Self {
        Self::Parquet(e)
    }
}

/// Cuts the rows into blocks, batches and row groups.
struct PartWriter<'f, 'a> {
    arrow: ArrowWriter<&'f mut ChunkWriter>,
    columns: Columns,
    keys: KeySet<'a>,
    sidecar: SidecarBuilder,
    shape: Shape,
    /// The block in work and the bytes of its records.
    open: Option<(Block, usize)>,
    tenant: Option<TenantId>,
    /// The first rows of the tenant, while it is not known whether it gets row groups of its own; and the bytes of their records.
    waiting: Vec<RowIn<'a>>,
    waiting_bytes: usize,
    /// Whether the tenant has row groups of its own.
    own: bool,
    last: (i64, u64),
    times: (i64, i64),
    rows: u32,
    group: (usize, usize),
}

impl<'f, 'a> PartWriter<'f, 'a> {
    fn new(sink: &'f mut ChunkWriter, seals: (u64, u64), shape: Shape) -> Result<Self, ParquetError> {
        Ok(Self {
            arrow: ArrowWriter::try_new(sink, schema::written(), Some(schema::properties()))?,
            columns: Columns::default(),
            keys: KeySet::default(),
            sidecar: SidecarBuilder {
                seals,
                ..SidecarBuilder::default()
            },
            shape,
            open: None,
            tenant: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            own: false,
            last: (0, 0),
            times: (i64::MAX, i64::MIN),
            rows: 0,
            group: (0, 0),
        })
    }

    fn push(&mut self, row: &RowIn<'a>) -> Result<(), WriteError> {
        let order = (row.entry.timestamp(), row.sequence);
        if self.tenant.as_ref() != Some(row.tenant) {
            if self.tenant.as_ref().is_some_and(|before| before > row.tenant) {
                return Err(WriteError::Rows("they are not sorted by tenant"));
            }
            self.end_tenant()?;
            self.tenant = Some(row.tenant.clone());
        } else if order < self.last {
            return Err(WriteError::Rows("they are not sorted by timestamp and sequence"));
        }
        self.last = order;
        if self.own {
            return self.put(row);
        }
        self.waiting.push(*row);
        self.waiting_bytes += row.entry.as_bytes().len();
        if self.waiting.len() >= self.shape.own.0 || self.waiting_bytes >= self.shape.own.1 {
            self.own = true;
            self.cut_group()?;
            self.put_waiting()?;
        }
        Ok(())
    }

    /// Puts the first rows of the tenant.
    fn put_waiting(&mut self) -> Result<(), WriteError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        if let Some(first) = waiting.first() {
            let begin = (first.tenant.as_str().into(), self.rows, self.sidecar.blocks.len() as u32);
            self.sidecar.tenants.push(begin);
        }
        for row in waiting.drain(..) {
            self.put(&row)?;
        }
        (self.waiting, self.waiting_bytes) = (waiting, 0);
        Ok(())
    }

    fn end_tenant(&mut self) -> Result<(), WriteError> {
        self.put_waiting()?;
        self.close_block()?;
        if std::mem::take(&mut self.own) {
            self.cut_group()?;
        }
        Ok(())
    }

    fn put(&mut self, row: &RowIn<'a>) -> Result<(), WriteError> {
        let (entry, order) = (&row.entry, (row.entry.timestamp(), row.sequence));
        let len = entry.as_bytes().len();
        if self
            .open
            .as_ref()
            .is_some_and(|(block, bytes)| block.rows.len() == self.shape.block.0 || bytes + len > self.shape.block.1)
        {
            self.close_block()?;
        }
        let next = self.rows.checked_add(1).ok_or(WriteError::Rows("they are more than 2^32 - 1"))?;
        let (block, bytes) = self.open.get_or_insert_with(|| (empty_block(self.rows), 0));
        block.rows.end = next;
        block.timestamps = widen(block.timestamps, order.0);
        block.sequences = widen(block.sequences, row.sequence);
        block.received = widen(block.received, row.received_at);
        block.severities[entry.severity() as usize] += 1;
        block.ids.add(&entry.id());
        *bytes += len;
        self.times = widen(self.times, order.0);
        let texts = entry.texts();
        self.keys.add(row.actor, entry, &texts);
        self.sidecar.ids.push(((self.shape.id_key)(row.tenant.as_str(), &entry.id()), self.rows));
        self.rows = next;
        self.group = (self.group.0 + 1, self.group.1 + len);
        self.columns.push(row, &texts)?;
        if self.columns.rows == self.shape.batch.0 || self.columns.bytes >= self.shape.batch.1 {
            self.arrow.write(&self.columns.finish()?)?;
        }
        Ok(())
    }

    /// Ends the block in work; row groups end only here, so that a block lies in one.
    fn close_block(&mut self) -> Result<(), WriteError> {
        let Some((mut block, _)) = self.open.take() else { return Ok(()) };
        block.overflow = self.keys.overflow();
        let start = self.sidecar.filters.len();
        if let Some(keys) = self.keys.finish() {
            fuse::build(keys, &mut self.sidecar.filters);
        }
        block.filter = start..self.sidecar.filters.len();
        self.sidecar.blocks.push(block);
        if self.group.0 + self.shape.block.0 > self.shape.group.0 || self.group.1 + self.shape.block.1 > self.shape.group.1 {
            self.cut_group()?;
        }
        Ok(())
    }

    /// Ends the row group in work, if there is one; no block is.
    fn cut_group(&mut self) -> Result<(), WriteError> {
        if self.group.0 > 0 {
            self.arrow.write(&self.columns.finish()?)?;
            self.arrow.flush()?;
            self.group = (0, 0);
        }
        Ok(())
    }

    /// Takes all rows.
    fn run(mut self, rows: &mut dyn Iterator<Item = RowIn<'a>>) -> Result<Content, WriteError> {
        for row in rows {
            self.push(&row)?;
        }
        self.finish()?;
        Ok(Content {
            sidecar: self.sidecar,
            times: self.times,
        })
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.end_tenant()?;
        if self.rows == 0 {
            return Err(WriteError::Rows("there are none"));
        }
        self.arrow.write(&self.columns.finish()?)?;
        self.arrow.finish()?;
        Ok(())
    }
}

pub(super) fn empty_block(row: u32) -> Block {
    Block {
        rows: row..row,
        timestamps: (i64::MAX, i64::MIN),
        sequences: (u64::MAX, u64::MIN),
        received: (i64::MAX, i64::MIN),
        severities: [0; 4],
        ids: IdRange::EMPTY,
        overflow: false,
        filter: 0..0,
    }
}

pub(super) fn widen<T: Ord + Copy>((low, high): (T, T), by: T) -> (T, T) {
    (low.min(by), high.max(by))
}

/// An address in its usual form; several times as fast as by `Display`.
fn push_address(text: &mut String, addr: Ipv4Addr) {
    for (i, byte) in addr.octets().into_iter().enumerate() {
        if i > 0 {
            text.push('.');
        }
        for (unit, needed) in [(100, byte >= 100), (10, byte >= 10), (1, true)] {
            if needed {
                text.push(char::from(b'0' + byte / unit % 10));
            }
        }
    }
}

/// Rows on their way into a record batch.
struct Columns {
    rows: usize,
    bytes: usize,
    tenant: StringBuilder,
    timestamp: TimestampMillisecondBuilder,
    sequence: UInt64Builder,
    received_at: TimestampMillisecondBuilder,
    id: FixedSizeBinaryBuilder,
    client_id: BooleanBuilder,
    content_hash: FixedSizeBinaryBuilder,
    sent: UInt8Builder,
    severity: StringBuilder,
    actor: StringBuilder,
    fields: [StringBuilder; Field::COUNT],
    text: String,
    finder: Finder,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            rows: 0,
            bytes: 0,
            tenant: StringBuilder::new(),
            timestamp: TimestampMillisecondBuilder::new().with_timezone("UTC"),
            sequence: UInt64Builder::new(),
            received_at: TimestampMillisecondBuilder::new().with_timezone("UTC"),
            id: FixedSizeBinaryBuilder::new(16),
            client_id: BooleanBuilder::new(),
            content_hash: FixedSizeBinaryBuilder::new(16),
            sent: UInt8Builder::new(),
            severity: StringBuilder::new(),
            actor: StringBuilder::new(),
            fields: std::array::from_fn(|_| StringBuilder::new()),
            text: String::new(),
            finder: Finder::default(),
        }
    }
}

impl Columns {
    fn push(&mut self, row: &RowIn<'_>, texts: &[Option<&str>; Field::COUNT]) -> Result<(), ParquetError> {
        let entry = &row.entry;
        self.rows += 1;
        self.bytes += entry.as_bytes().len() + row.actor.len();
        self.tenant.append_value(row.tenant.as_str());
        self.timestamp.append_value(entry.timestamp());
        self.sequence.append_value(row.sequence);
        self.received_at.append_value(row.received_at);
        self.id.append_value(entry.id().as_bytes())?;
        self.client_id.append_value(entry.client_id());
        match self.finder.find(&Hashed::of(entry, texts), entry.hash()) {
            Some(sent) => {
                self.content_hash.append_null();
                self.sent.append_value(sent);
            }
            None => {
                self.content_hash.append_value(entry.hash().to_be_bytes())?;
                self.sent.append_value(0);
            }
        }
        self.severity.append_value(Severity::as_str(entry.severity()));
        self.actor.append_value(row.actor);
        for (field, column) in Field::ALL.into_iter().zip(&mut self.fields) {
            if field != Field::IpAddress {
                column.append_option(texts[field as usize]);
            } else if entry.raw(field).is_some() {
                self.text.clear();
                match entry.ip() {
                    Some(IpAddr::V4(addr)) => push_address(&mut self.text, addr),
                    Some(IpAddr::V6(addr)) => write!(self.text, "{addr}").expect("a string takes all"),
                    None => {}
                }
                column.append_value(&self.text);
            } else {
                column.append_null();
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch, ParquetError> {
        (self.rows, self.bytes) = (0, 0);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(Column::COUNT);
        columns.push(Arc::new(self.tenant.finish()));
        columns.push(Arc::new(self.timestamp.finish()));
        columns.push(Arc::new(self.sequence.finish()));
        columns.push(Arc::new(self.received_at.finish()));
        columns.push(Arc::new(self.id.finish()));
        columns.push(Arc::new(self.client_id.finish()));
        columns.push(Arc::new(self.content_hash.finish()));
        columns.push(Arc::new(self.sent.finish()));
        columns.push(Arc::new(self.severity.finish()));
        columns.push(Arc::new(self.actor.finish()));
        for column in &mut self.fields {
            columns.push(Arc::new(column.finish()));
        }
        Ok(RecordBatch::try_new(schema::written(), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_display_does() {
        for bits in (0..=u32::MAX).step_by(65_537 * 7).chain([0, 1, 9, 10, 99, 100, 255, u32::MAX]) {
            let (addr, mut text) = (Ipv4Addr::from_bits(bits), String::new());
            push_address(&mut text, addr);
            assert_eq!(text, addr.to_string());
        }
    }
}
