//! The pages of a row group on their way to Parquet's decoders, inflated here.
//!
//! Parquet's own reader makes a compressor, a decompressor and a new buffer for each column that it reads, whatever is read of it:
//! more work than to inflate a page, and memory that the allocator of each thread keeps. Here both are used again, by all
//! threads, and what a reader keeps is bounded by the rows of its batch. It reads what the offset index says, so the places of
//! pages that are not needed are not even copied.

use super::{chunks::CheckedBytes, read::odd};
use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::RowGroups,
    basic::Compression,
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        page_index::offset_index::PageLocation,
        serialized_reader::SerializedPageReader,
    },
};
use std::sync::{Arc, Mutex, PoisonError};
use zstd::bulk::Decompressor;

/// One row group of a part.
pub(super) struct GroupPages {
    data: Arc<CheckedBytes>,
    footer: Arc<ParquetMetaData>,
    group: usize,
}

impl GroupPages {
    pub(super) fn new(data: &CheckedBytes, footer: &Arc<ParquetMetaData>, group: usize) -> Self {
        Self {
            data: Arc::new(data.clone()),
            footer: footer.clone(),
            group,
        }
    }
}

impl RowGroups for GroupPages {
    fn num_rows(&self) -> usize {
        usize::try_from(self.footer.row_group(self.group).num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>, ParquetError> {
        let chunk = self.footer.row_group(self.group).column(column);
        let reader: Box<dyn PageReader> = match chunk.compression() {
            Compression::ZSTD(_) => Box::new(Inflating {
                data: self.data.clone(),
                footer: self.footer.clone(),
                group: self.group,
                column,
                next: 0,
            }),
            _ => {
                let places = self.footer.page_index_for_row_group(self.group);
                let places = places.page_locations(column).cloned();
                Box::new(SerializedPageReader::new(self.data.clone(), chunk, self.num_rows(), places)?)
            }
        };
        Ok(Box::new(OneChunk(Some(reader))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.footer.row_group(self.group)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.footer
    }
}

/// The pages of a column in one row group.
struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}

/// The pages of a compressed column, which has no dictionary.
struct Inflating {
    data: Arc<CheckedBytes>,
    footer: Arc<ParquetMetaData>,
    group: usize,
    column: usize,
    /// The place of the next page.
    next: usize,
}

impl Inflating {
    /// Where a page is; `None`: there are not so many.
    fn place(&self, page: usize) -> Result<Option<PageLocation>, ParquetError> {
        let index = self.footer.page_index_for_row_group(self.group);
        let places = index.page_locations(self.column);
        let places = places.ok_or_else(|| odd("it does not say where its pages are"))?;
        Ok(places.get(page).cloned())
    }

    /// A page as it is in the file.
    fn read(&self, place: PageLocation) -> Result<Option<Page>, ParquetError> {
        let group = self.footer.row_group(self.group);
        let chunk = group.column(self.column);
        // A column of this page alone, that is not compressed as far as Parquet's reader knows.
        let chunk: ColumnChunkMetaData = chunk
            .clone()
            .into_builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_data_page_offset(place.offset)
            .set_dictionary_page_offset(None)
            .build()?;
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        SerializedPageReader::new(self.data.clone(), &chunk, rows, Some(vec![place]))?.get_next_page()
    }
}

impl PageReader for Inflating {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let Some(place) = self.place(self.next)? else {
            return Ok(None);
        };
        self.next += 1;
        match self.read(place)? {
            Some(Page::DataPage {
                buf,
                num_values,
                encoding,
                def_level_encoding,
                rep_level_encoding,
                statistics,
            }) => Ok(Some(Page::DataPage {
                buf: inflate(&buf)?,
                num_values,
                encoding,
                def_level_encoding,
                rep_level_encoding,
                statistics,
            })),
            _ => Err(odd("a compressed column has pages of another kind")),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        let Some(place) = self.place(self.next)? else { return Ok(None) };
        let of_group = self.footer.row_group(self.group).num_rows();
        let end = self.place(self.next + 1)?.map_or(of_group, |place| place.first_row_index);
        Ok(Some(PageMetadata {
            num_rows: Some(usize::try_from(end - place.first_row_index).map_err(|_| odd("its pages do not follow each other"))?),
            num_levels: None,
            is_dict: false,
        }))
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.next += 1;
        Ok(())
    }
}

impl Iterator for Inflating {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The largest page that is believed: a page has 256 rows at most beyond a mebibyte, and an entry is far smaller than that.
const LARGEST: u64 = 1 << 31;

fn inflate(page: &Bytes) -> Result<Bytes, ParquetError> {
    if page.is_empty() {
        return Ok(Bytes::new());
    }
    let size = zstd::zstd_safe::get_frame_content_size(page).ok().flatten().filter(|size| *size < LARGEST);
    let size = size.ok_or_else(|| odd("a page does not say how large it is"))? as usize;
    let (mut buffer, decompressor) = SPARE.lock().unwrap_or_else(PoisonError::into_inner).take(size);
    let mut decompressor = decompressor.map_or_else(Decompressor::new, Ok)?;
    let done = decompressor.decompress_to_buffer(page, &mut buffer);
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    spare.decompressors.push(decompressor);
    match done {
        Ok(_) if buffer.len() == size => {
            drop(spare);
            Ok(Bytes::from_owner(Inflated::new(buffer)))
        }
        Ok(_) => Err(odd("a page is shorter than it says")),
        Err(error) => {
            spare.put(buffer);
            Err(error.into())
        }
    }
}

/// What is used again. Decompressors are as many as threads were at it at once.
struct Spare {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    decompressors: Vec<Decompressor<'static>>,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare {
    buffers: Vec::new(),
    bytes: 0,
    decompressors: Vec::new(),
});

/// Bytes of spare buffers that are kept.
const KEPT: usize = 4 << 20;
/// Larger ones are not.
const LARGEST_KEPT: usize = 256 << 10;
/// Buffers have a power of two of bytes, at least this many, so that one serves for most pages.
const SMALLEST: usize = 32 << 10;

impl Spare {
    fn take(&mut self, size: usize) -> (Vec<u8>, Option<Decompressor<'static>>) {
        let wanted = size.next_power_of_two().max(SMALLEST);
        let fits = self.buffers.iter().rposition(|buffer| buffer.capacity() == wanted);
        let buffer = match fits {
            Some(at) => {
                self.bytes -= wanted;
                self.buffers.swap_remove(at)
            }
            None => Vec::with_capacity(wanted),
        };
        (buffer, self.decompressors.pop())
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity <= LARGEST_KEPT && self.bytes + capacity <= KEPT {
            buffer.clear();
            self.bytes += capacity;
            self.buffers.push(buffer);
        }
    }
}

/// An inflated page. Its buffer is used again when the last reference is gone.
struct Inflated(Vec<u8>);

impl Inflated {
    fn new(buffer: Vec<u8>) -> Self {
        #[cfg(test)]
        held::add(buffer.capacity() as isize);
        Self(buffer)
    }
}

impl AsRef<[u8]> for Inflated {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Inflated {
    fn drop(&mut self) {
        #[cfg(test)]
        held::add(-(self.0.capacity() as isize));
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).put(std::mem::take(&mut self.0));
    }
}

/// Bytes of inflated pages that a thread holds, for tests.
#[cfg(test)]
pub(in crate::sinks::embedded) mod held {
    use std::cell::Cell;

    thread_local! {
        /// Now, and at most since [`most_of`] began.
        static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
    }

    pub(super) fn add(bytes: isize) {
        HELD.with(|held| {
            let (now, most) = held.get();
            held.set((now + bytes, most.max(now + bytes)));
        });
    }

    /// The most bytes that were held while `work` ran on this thread, and what is held after it.
    pub fn most_of<T>(work: impl FnOnce() -> T) -> (T, isize, isize) {
        let before = HELD.with(Cell::get).0;
        HELD.with(|held| held.set((before, before)));
        let done = work();
        let (now, most) = HELD.with(Cell::get);
        (done, most - before, now - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_few_are_kept() {
        let mut spare = Spare {
            buffers: Vec::new(),
            bytes: 0,
            decompressors: Vec::new(),
        };
        let (buffer, none) = spare.take(SMALLEST + 1);
        assert_eq!((buffer.capacity(), none.is_none()), (2 * SMALLEST, true));
        let at = buffer.as_ptr();
        spare.put(buffer);
        assert_eq!(spare.bytes, 2 * SMALLEST);
        assert_ne!(spare.take(1).0.as_ptr(), at, "of another size");
        assert_eq!(spare.take(2 * SMALLEST).0.as_ptr(), at);
        assert_eq!(spare.bytes, 0);
        (0..1_000).for_each(|_| spare.put(Vec::with_capacity(SMALLEST)));
        spare.put(Vec::with_capacity(2 * LARGEST_KEPT));
        assert_eq!(spare.bytes, KEPT);
    }

    #[test]
    fn damaged_pages_are_errors() {
        let text = vec![b'x'; 100_000];
        let good = zstd::bulk::compress(&text, 1).expect("compressed");
        assert_eq!(inflate(&good.clone().into()).expect("good"), text);
        assert_eq!(inflate(&Bytes::new()).expect("empty"), Bytes::new());
        for cut in 1..good.len() {
            assert!(inflate(&Bytes::copy_from_slice(&good[..cut])).is_err(), "{cut}");
        }
        // A frame that says that it holds 2^62 bytes.
        let mut large = vec![0x28, 0xB5, 0x2F, 0xFD, 0xE0];
        large.extend_from_slice(&(1u64 << 62).to_le_bytes());
        assert!(inflate(&large.into()).is_err());
    }
}
