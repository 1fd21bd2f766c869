//! An open part: its mapped files, its parsed Parquet footer, and the one function that decodes columns.

use super::{
    PartError, PartMeta,
    chunks::CheckedBytes,
    data_file,
    pages::GroupPages,
    record,
    schema::{self, Column},
    sidecar::{Block, DataFile, ID_KEY, IdKey, IdRange, Sidecar},
    sidecar_file,
};
use crate::{
    fs::Fs,
    model::{
        entry::{ContentHash, StoredEntry},
        tenant::TenantScope,
    },
    seal::erasure::Erasures,
};
use arrow_array::{
    Array, DictionaryArray, FixedSizeBinaryArray, RecordBatch, StringArray, StringViewArray, TimestampMillisecondArray, UInt64Array,
    cast::AsArray,
    types::{Int32Type, TimestampMillisecondType, UInt64Type},
};
use bytes::Bytes;
use parquet::{
    arrow::{
        FieldLevels, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowSelection, RowSelector},
        parquet_to_arrow_field_levels,
    },
    errors::ParquetError,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData},
        reader::ChunkReader,
    },
};
use smallvec::SmallVec;
use std::{ops::Range, path::Path};
use uuid::Uuid;

/// Most rows that are decoded at a time.
const BATCH_ROWS: usize = 8_192;
/// Most whole rows that are decoded at a time: their pages stay in the caches, and bound the memory of a read.
const WHOLE_ROWS: usize = 1_024;
/// From so many ids on it pays to ask first what ids the tenant has.
const MANY_IDS: usize = 8;

/// Rows of a part, ascending.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// All of a range.
    Range(u32, u32),
    /// These, strictly ascending.
    List(&'a [u32]),
}

impl From<Range<u32>> for Rows<'_> {
    fn from(range: Range<u32>) -> Self {
        Self::Range(range.start, range.end.max(range.start))
    }
}

impl<'a> From<&'a [u32]> for Rows<'a> {
    fn from(list: &'a [u32]) -> Self {
        Self::List(list)
    }
}

impl<'a> From<&'a Vec<u32>> for Rows<'a> {
    fn from(list: &'a Vec<u32>) -> Self {
        Self::List(list)
    }
}

impl<'a> Rows<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Range(start, end) => (end - start) as usize,
            Self::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The i-th of them.
    pub fn get(&self, i: usize) -> u32 {
        match self {
            Self::Range(start, _) => start + i as u32,
            Self::List(list) => list[i],
        }
    }

    /// From the first to the last.
    fn span(&self) -> Range<u32> {
        match self {
            Self::Range(start, end) => *start..*end,
            Self::List(list) => list.first().copied().unwrap_or(0)..list.last().map_or(0, |last| last + 1),
        }
    }

    /// Those of them that lie in `within`.
    fn clip(&self, within: &Range<u32>) -> Rows<'a> {
        match self {
            Self::Range(start, end) => {
                let start = (*start).clamp(within.start, within.end);
                Rows::Range(start, (*end).clamp(start, within.end))
            }
            Self::List(list) => {
                let start = list.partition_point(|row| *row < within.start);
                let end = list.partition_point(|row| *row < within.end);
                Rows::List(&list[start..end])
            }
        }
    }

    /// The selection of these rows in a row group that begins at row `first`.
    fn selection(&self, first: u32) -> RowSelection {
        let mut selectors: Vec<RowSelector> = Vec::new();
        let mut at = first;
        let mut select = |start: u32, end: u32| {
            if start > at {
                selectors.push(RowSelector::skip((start - at) as usize));
            }
            selectors.push(RowSelector::select((end - start) as usize));
            at = end;
        };
        match self {
            Self::Range(start, end) => select(*start, *end),
            Self::List(list) => list.chunk_by(|a, b| a + 1 == *b).for_each(|run| select(run[0], run[0] + run.len() as u32)),
        }
        selectors.into()
    }
}

/// An open part. Threads may share it; nothing in it changes.
pub struct Part {
    meta: PartMeta,
    sidecar: Sidecar,
    data: CheckedBytes,
    footer: ArrowReaderMetadata,
    /// First row of each row group, and the number of rows at the end.
    groups: Vec<u32>,
    /// Of all tenants.
    ids: IdRange,
    id_key: IdKey,
}

impl Part {
    /// Maps both files. Checks their lengths against `meta`, the whole sidecar by its checksum, and Parquet's footer; the
    /// rest of the data file is checked as it is read. Blocks.
    pub fn open(fs: &dyn Fs, dir: &Path, meta: PartMeta) -> Result<Part, PartError> {
        Self::open_with(fs, dir, meta, ID_KEY)
    }

    pub(super) fn open_with(fs: &dyn Fs, dir: &Path, meta: PartMeta, id_key: IdKey) -> Result<Part, PartError> {
        let map = |file: String, len: u64| {
            let bytes = fs.map(&dir.join(&file)).map_err(|source| PartError::Io {
                doing: "map",
                file: file.clone(),
                source,
            })?;
            if bytes.len() as u64 == len {
                Ok(bytes)
            } else {
                Err(damaged(file, format!("it has {} bytes and should have {len}", bytes.len())))
            }
        };
        let sidecar = map(sidecar_file(&meta.name), meta.sidecar_bytes)?;
        let data = map(data_file(&meta.name), meta.bytes)?;
        if sidecar.last_chunk::<4>().map(|crc| u32::from_le_bytes(*crc)) != Some(meta.sidecar_crc) {
            return Err(damaged(sidecar_file(&meta.name), "it is another sidecar than the manifest names".to_owned()));
        }
        let (sidecar, of) = Sidecar::open(sidecar).map_err(|what| damaged(sidecar_file(&meta.name), what.to_owned()))?;
        let expected = DataFile {
            len: meta.bytes,
            crc: meta.crc,
            seals: meta.seals,
        };
        if of != expected || u64::from(sidecar.rows()) != meta.rows {
            return Err(damaged(
                sidecar_file(&meta.name),
                "it describes another part than the manifest names".to_owned(),
            ));
        }
        let data = CheckedBytes::new(data, sidecar.chunks());
        let footer = load_footer(&data).map_err(|e| damaged(data_file(&meta.name), e.to_string()))?;
        let mut groups = vec![0u32];
        for group in footer.metadata().row_groups() {
            let rows = u32::try_from(group.num_rows()).unwrap_or(u32::MAX);
            groups.push(groups.last().map_or(0, |first| first.saturating_add(rows)));
        }
        if groups.last() != Some(&sidecar.rows()) {
            return Err(damaged(data_file(&meta.name), "it has another number of rows than its sidecar".to_owned()));
        }
        let mut ids = IdRange::EMPTY;
        (0..sidecar.blocks()).for_each(|block| ids.join(&sidecar.block(block).ids));
        Ok(Self {
            meta,
            sidecar,
            data,
            footer,
            groups,
            ids,
            id_key,
        })
    }

    /// What the manifest knows about it.
    pub fn meta(&self) -> &PartMeta {
        &self.meta
    }

    /// Heap bytes that it holds while it is open. Both files are mapped besides; of the sidecar every page that was asked
    /// stays in the page cache ([`PartMeta::sidecar_bytes`] at most).
    pub fn memory(&self) -> usize {
        self.footer.metadata().memory_size() + self.data.memory() + 4 * self.groups.len()
    }

    /// Number of tenants that have rows here.
    pub fn tenants(&self) -> usize {
        self.sidecar.tenants() as usize
    }

    /// A tenant's rows; `None`: it has none here.
    pub fn tenant(&self, scope: &TenantScope) -> Option<TenantRows<'_>> {
        let tenant = self.sidecar.find_tenant(scope.tenant().as_str())?;
        Some(TenantRows {
            part: self,
            scope: scope.clone(),
            rows: self.sidecar.tenant_rows(tenant),
            blocks: self.sidecar.tenant_blocks(tenant),
        })
    }

    /// The rows of an id, ascending, with their content hashes: more than one where rows were erased and the id was used
    /// again. An id that is not here costs three memory accesses.
    pub fn find(&self, scope: &TenantScope, id: Uuid) -> Result<Found, PartError> {
        if self.candidates(scope, &id).next().is_none() {
            return Ok(Found::new());
        }
        Ok(self.find_all(scope, &[id])?.pop().unwrap_or_default())
    }

    /// The same of many ids, in their order: the rows are read together, which costs a fraction of one after the other.
    pub fn find_all(&self, scope: &TenantScope, ids: &[Uuid]) -> Result<Vec<Found>, PartError> {
        self.tenant(scope).map_or_else(|| Ok(vec![Found::new(); ids.len()]), |rows| rows.find_all(ids))
    }

    /// Which of a tenant's ids may have a row here, as places in `ids`, ascending: all that have one, and rarely another. `asked`
    /// are the bounds of `ids`: where the part has none within them it costs nothing, else a few memory accesses an id.
    pub fn may_have(&self, scope: &TenantScope, ids: &[Uuid], asked: &IdRange) -> SmallVec<[usize; 4]> {
        let mut places = SmallVec::new();
        if !self.ids.overlaps(asked) || ids.len() >= MANY_IDS && !self.tenant_has_within(scope, asked) {
            return places;
        }
        let keys = ids.iter().map(|id| (self.id_key)(scope.tenant().as_str(), id));
        self.sidecar.with_rows(keys, |place| places.push(place));
        places
    }

    fn tenant_has_within(&self, scope: &TenantScope, asked: &IdRange) -> bool {
        self.sidecar.find_tenant(scope.tenant().as_str()).is_some_and(|tenant| {
            let mut blocks = self.sidecar.tenant_blocks(tenant);
            blocks.any(|block| self.sidecar.block(block).ids.overlaps(asked))
        })
    }

    /// Reads everything: the whole data file against its checksums, and that each row's tenant is the one that the sidecar
    /// says. Blocks for about a second per gigabyte.
    pub fn verify(&self) -> Result<(), PartError> {
        let file = || data_file(&self.meta.name);
        if let Some(chunk) = self.data.first_bad_chunk() {
            let what = format!("the checksum of bytes {}+{} does not fit", chunk * super::chunks::CHUNK, super::chunks::CHUNK);
            return Err(damaged(file(), what));
        }
        if crc32c::crc32c(self.data.raw()) != self.meta.crc {
            return Err(damaged(file(), "its checksum does not fit".to_owned()));
        }
        for tenant in 0..self.sidecar.tenants() {
            let name = self.sidecar.name(tenant);
            self.fetch(&[Column::Tenant], self.sidecar.tenant_rows(tenant).into(), &mut |batch| {
                let column = dictionary(batch, 0)?;
                let fits: Vec<bool> = column.1.iter().map(|value| value.map(str::as_bytes) == name).collect();
                match column.0.keys().iter().all(|key| key.is_some_and(|key| fits[key as usize])) {
                    true => Ok(()),
                    false => Err(ParquetError::General("a row is another tenant's than the sidecar says".to_owned())),
                }
            })?;
        }
        Ok(())
    }

    /// Decodes `columns` (ascending) of `rows`, in order, in batches of at most 8,192 rows that each lie in one row group.
    pub(super) fn fetch(&self, columns: &[Column], rows: Rows<'_>, visit: &mut Visit<'_>) -> Result<(), PartError> {
        self.fetch_in(columns, rows, BATCH_ROWS, visit)
    }

    /// The same in batches of at most `most` rows: the pages of a batch are in memory together.
    pub(super) fn fetch_in(&self, columns: &[Column], rows: Rows<'_>, most: usize, visit: &mut Visit<'_>) -> Result<(), PartError> {
        let span = rows.span();
        self.decode(columns, rows, most, visit).map_err(|e| PartError::Damaged {
            file: data_file(&self.meta.name),
            rows: Some(span),
            what: e.to_string(),
        })
    }

    fn decode(&self, columns: &[Column], rows: Rows<'_>, most: usize, visit: &mut Visit<'_>) -> Result<(), ParquetError> {
        let (levels, span) = (self.levels(columns.iter().map(|c| *c as usize))?, rows.span());
        let first = self.groups.partition_point(|start| *start <= span.start).saturating_sub(1);
        for (i, bounds) in self.groups.windows(2).enumerate().skip(first) {
            if bounds[0] >= span.end {
                break;
            }
            let here = rows.clip(&(bounds[0]..bounds[1]));
            if here.is_empty() {
                continue;
            }
            let reader = self.reader(&levels, i, here.selection(bounds[0]), here.len().min(most))?;
            let mut left = here.len();
            for batch in reader {
                let batch = batch?;
                left = left.checked_sub(batch.num_rows()).ok_or_else(|| odd("more rows than were asked for"))?;
                visit(&batch)?;
            }
            if left != 0 {
                return Err(odd("fewer rows than were asked for"));
            }
        }
        Ok(())
    }

    /// What Parquet has to know about some columns, by their places.
    fn levels(&self, columns: impl IntoIterator<Item = usize>) -> Result<FieldLevels, ParquetError> {
        let schema = self.footer.parquet_schema();
        parquet_to_arrow_field_levels(schema, ProjectionMask::roots(schema, columns), Some(self.footer.schema().fields()))
    }

    fn reader(&self, levels: &FieldLevels, group: usize, rows: RowSelection, most: usize) -> Result<ParquetRecordBatchReader, ParquetError> {
        let pages = GroupPages::new(&self.data, self.footer.metadata(), group);
        ParquetRecordBatchReader::try_new_with_row_groups(levels, &pages, most, Some(rows))
    }

    /// Number of row groups.
    pub(super) fn groups(&self) -> usize {
        self.groups.len() - 1
    }

    /// The rows of a row group.
    pub(super) fn group_rows(&self, group: usize) -> Range<u32> {
        self.groups[group]..self.groups[group + 1]
    }

    /// Decodes all columns but the tenant of some rows of a row group, in batches of at most 8,192 rows, fewer where the rows of
    /// the group have more than `batch_bytes` together on average.
    pub(super) fn stream(&self, group: usize, rows: &[Range<u32>], batch_bytes: u64) -> Result<ParquetRecordBatchReader, ParquetError> {
        let of_group = self.footer.metadata().row_group(group);
        let row_bytes = (of_group.total_byte_size().max(0) as u64 / of_group.num_rows().max(1) as u64).max(1);
        let (mut selectors, mut at) = (Vec::with_capacity(2 * rows.len()), self.groups[group]);
        for range in rows {
            if range.start > at {
                selectors.push(RowSelector::skip((range.start - at) as usize));
            }
            selectors.push(RowSelector::select(range.len()));
            at = range.end;
        }
        let most = (batch_bytes / row_bytes).clamp(16, BATCH_ROWS as u64) as usize;
        let levels = self.levels(Column::Timestamp as usize..Column::COUNT)?;
        self.reader(&levels, group, selectors.into(), most)
    }

    /// The row group that holds a row.
    pub(super) fn group_of(&self, row: u32) -> usize {
        self.groups.partition_point(|start| *start <= row).saturating_sub(1)
    }

    /// The blocks of these rows, which begin and end with some.
    pub(super) fn blocks_within<'a>(&'a self, rows: &Range<u32>) -> impl Iterator<Item = Block> + use<'a> {
        let (start, end) = (self.sidecar.block_at(rows.start), rows.end);
        (start..).map_while(move |at| {
            (at < self.sidecar.blocks())
                .then(|| self.sidecar.block(at))
                .filter(|block| block.rows.start < end)
        })
    }

    /// What Parquet says about the data file.
    pub(super) fn footer(&self) -> &ParquetMetaData {
        self.footer.metadata()
    }

    /// Bytes of the data file, after they were checked.
    pub(super) fn checked(&self, start: u64, len: usize) -> Result<Bytes, ParquetError> {
        self.data.get_bytes(start, len)
    }

    /// What could not be decoded, as an error of this part.
    pub(super) fn undecodable(&self, error: &ParquetError) -> PartError {
        damaged(data_file(&self.meta.name), error.to_string())
    }

    pub(super) fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// The rows that may have an id: all that have it, and by chance others.
    pub(super) fn candidates(&self, scope: &TenantScope, id: &Uuid) -> impl Iterator<Item = u32> + '_ {
        self.sidecar.rows_of((self.id_key)(scope.tenant().as_str(), id))
    }
}

/// Takes a decoded batch; its columns are in file order.
pub(super) type Visit<'v> = dyn FnMut(&RecordBatch) -> Result<(), ParquetError> + 'v;

fn damaged(file: String, what: String) -> PartError {
    PartError::Damaged { file, rows: None, what }
}

pub(super) fn odd(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

fn load_footer(data: &CheckedBytes) -> Result<ArrowReaderMetadata, ParquetError> {
    let options = ArrowReaderOptions::new()
        .with_schema(schema::read())
        .with_column_index_policy(PageIndexPolicy::Skip)
        .with_offset_index_policy(PageIndexPolicy::Required);
    ArrowReaderMetadata::load(data, options)
}

/// Rows of one id, with their content hashes.
pub type Found = SmallVec<[(u32, ContentHash); 1]>;

/// What erasures go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowTimes {
    /// Event time, milliseconds.
    pub timestamp: i64,
    /// When it was taken, milliseconds.
    pub received_at: i64,
    /// Its number.
    pub sequence: u64,
}

impl RowTimes {
    /// Whether the row is erased.
    pub fn is_covered(&self, erasures: &Erasures) -> bool {
        erasures.covers(self.timestamp, self.received_at, self.sequence)
    }
}

/// One tenant's rows of a part. The only way to them.
pub struct TenantRows<'a> {
    pub(super) part: &'a Part,
    pub(super) scope: TenantScope,
    /// The rows.
    pub rows: Range<u32>,
    blocks: Range<u32>,
}

impl TenantRows<'_> {
    /// Its blocks in row order.
    pub fn blocks(&self) -> impl DoubleEndedIterator<Item = Block> + ExactSizeIterator + '_ {
        let blocks = self.blocks.start as usize..self.blocks.end as usize;
        blocks.map(|block| self.part.sidecar.block(block as u32))
    }

    /// The block that holds a row of the tenant.
    pub fn block_of(&self, row: u32) -> Option<Block> {
        if !self.rows.contains(&row) {
            return None;
        }
        Some(self.part.sidecar.block(self.part.sidecar.block_at(row)))
    }

    /// Timestamp and sequence of each of the rows.
    pub fn keys<'r>(&self, rows: impl Into<Rows<'r>>) -> Result<Vec<(i64, u64)>, PartError> {
        let rows = self.own(rows.into())?;
        let mut keys = Vec::with_capacity(rows.len());
        self.part.fetch(&[Column::Timestamp, Column::Sequence], rows, &mut |batch| {
            let (timestamps, sequences) = (times(batch, 0)?, numbers(batch, 1)?);
            keys.extend(timestamps.values().iter().copied().zip(sequences.values().iter().copied()));
            Ok(())
        })?;
        Ok(keys)
    }

    /// The same of each of the rows, and when it was taken: what erasures go by.
    pub fn times<'r>(&self, rows: impl Into<Rows<'r>>) -> Result<Vec<RowTimes>, PartError> {
        let rows = self.own(rows.into())?;
        let mut all = Vec::with_capacity(rows.len());
        let columns = [Column::Timestamp, Column::Sequence, Column::ReceivedAt];
        self.part.fetch(&columns, rows, &mut |batch| {
            let (timestamps, sequences, received) = (times(batch, 0)?.values(), numbers(batch, 1)?.values(), times(batch, 2)?.values());
            all.extend((0..batch.num_rows()).map(|i| RowTimes {
                timestamp: timestamps[i],
                received_at: received[i],
                sequence: sequences[i],
            }));
            Ok(())
        })?;
        Ok(all)
    }

    /// The whole entries of the rows, which ascend.
    pub fn read(&self, rows: &[u32]) -> Result<Vec<StoredEntry>, PartError> {
        let rows = self.own(rows.into())?;
        let mut entries = Vec::with_capacity(rows.len());
        self.part.fetch_in(&record::COLUMNS, rows, WHOLE_ROWS, &mut |batch| {
            record::each(batch, &mut |row| entries.push(row.stored()))
        })?;
        Ok(entries)
    }

    /// That the rows are the tenant's and ascend: nothing is decoded otherwise.
    pub(super) fn own<'r>(&self, rows: Rows<'r>) -> Result<Rows<'r>, PartError> {
        let ascend = match rows {
            Rows::Range(..) => true,
            Rows::List(list) => list.is_sorted_by(|a, b| a < b),
        };
        let span = rows.span();
        if !ascend {
            return Err(PartError::Rows("they do not ascend"));
        }
        if !rows.is_empty() && (span.start < self.rows.start || span.end > self.rows.end) {
            return Err(PartError::Rows("they are not the tenant's"));
        }
        Ok(rows)
    }

    /// The rows with each of the ids, with their content hashes.
    fn find_all(&self, ids: &[Uuid]) -> Result<Vec<Found>, PartError> {
        let mut candidates: Vec<(u32, usize)> = Vec::with_capacity(ids.len());
        for (place, id) in ids.iter().enumerate() {
            let rows = self.part.candidates(&self.scope, id).filter(|row| self.rows.contains(row));
            candidates.extend(rows.map(|row| (row, place)));
        }
        candidates.sort_unstable();
        let mut rows: Vec<u32> = candidates.iter().map(|(row, _)| *row).collect();
        rows.dedup();
        let mut read = Vec::with_capacity(rows.len());
        self.part.fetch(&[Column::Id], Rows::from(&rows), &mut |batch| {
            let all = random(batch, 0)?;
            read.extend((0..batch.num_rows()).map(|i| Uuid::from_slice(all.value(i)).unwrap_or_default()));
            Ok(())
        })?;
        candidates.retain(|(row, place)| rows.binary_search(row).is_ok_and(|at| read[at] == ids[*place]));
        rows = candidates.iter().map(|(row, _)| *row).collect();
        rows.dedup();
        let hashes = self.hashes(&rows)?;
        let mut found = vec![Found::new(); ids.len()];
        for (row, place) in candidates {
            if let Ok(at) = rows.binary_search(&row) {
                found[place].push((row, hashes[at]));
            }
        }
        Ok(found)
    }

    /// The content hashes of the rows, which ascend. Where one is not written down the whole row is read for it.
    fn hashes(&self, rows: &[u32]) -> Result<Vec<ContentHash>, PartError> {
        let (mut hashes, mut left) = (Vec::with_capacity(rows.len()), Vec::new());
        self.part.fetch(&[Column::ContentHash], Rows::from(rows), &mut |batch| {
            let written = random(batch, 0)?;
            for i in 0..batch.num_rows() {
                if written.is_null(i) {
                    left.push(rows[hashes.len()]);
                }
                hashes.push(record::written_hash(written, i)?.unwrap_or_default());
            }
            Ok(())
        })?;
        let mut at = 0;
        self.part.fetch_in(&record::COLUMNS, Rows::from(&left), WHOLE_ROWS, &mut |batch| {
            record::each(batch, &mut |row| {
                if let Some(hash) = left.get(at).and_then(|row| rows.binary_search(row).ok()).and_then(|i| hashes.get_mut(i)) {
                    *hash = row.new.hash;
                }
                at += 1;
            })
        })?;
        Ok(hashes)
    }
}

/// A text column, dictionary or not.
pub(super) enum Texts<'b> {
    Dictionary(&'b DictionaryArray<Int32Type>, &'b StringArray),
    Views(&'b StringViewArray),
}

impl<'b> Texts<'b> {
    pub(super) fn of(batch: &'b RecordBatch, column: usize) -> Result<Self, ParquetError> {
        if let Some(views) = batch.column(column).as_string_view_opt() {
            return Ok(Self::Views(views));
        }
        let (keys, values) = dictionary(batch, column)?;
        Ok(Self::Dictionary(keys, values))
    }

    /// The text of a row of the batch; `None` where it is absent.
    pub(super) fn get(&self, i: usize) -> Option<&'b str> {
        match self {
            Self::Dictionary(keys, values) => keys.key(i).map(|key| values.value(key)),
            Self::Views(views) => views.is_valid(i).then(|| views.value(i)),
        }
    }
}

pub(super) fn dictionary(batch: &RecordBatch, column: usize) -> Result<(&DictionaryArray<Int32Type>, &StringArray), ParquetError> {
    let keys = batch
        .column(column)
        .as_dictionary_opt::<Int32Type>()
        .ok_or_else(|| odd("a column is no dictionary"))?;
    let values = keys.values().as_string_opt::<i32>().ok_or_else(|| odd("a dictionary holds no text"))?;
    Ok((keys, values))
}

pub(super) fn times(batch: &RecordBatch, column: usize) -> Result<&TimestampMillisecondArray, ParquetError> {
    batch
        .column(column)
        .as_primitive_opt::<TimestampMillisecondType>()
        .ok_or_else(|| odd("a column holds no times"))
}

pub(super) fn numbers(batch: &RecordBatch, column: usize) -> Result<&UInt64Array, ParquetError> {
    batch
        .column(column)
        .as_primitive_opt::<UInt64Type>()
        .ok_or_else(|| odd("a column holds no numbers"))
}

pub(super) fn random(batch: &RecordBatch, column: usize) -> Result<&FixedSizeBinaryArray, ParquetError> {
    batch.column(column).as_fixed_size_binary_opt().ok_or_else(|| odd("a column holds no 16 bytes"))
}
