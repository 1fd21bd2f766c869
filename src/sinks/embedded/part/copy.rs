//! Row groups made of pages that are there already: encoded pages of several parts follow each other in a new row group.
//!
//! A data page says all about itself, so that pages of one column may stand behind each other whatever row group they come from,
//! if they are encoded and compressed alike. Only pages of a dictionary column mean nothing without the dictionary of their own
//! row group: these five columns, which are the smallest, are decoded and encoded again.

use super::{
    Part,
    read::odd,
    schema::{Column, Layout},
};
use bytes::{Buf, Bytes};
use parquet::{
    basic::{Compression, EncodingMask},
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, OffsetIndexBuilder},
        reader::{ChunkReader, Length},
        statistics::Statistics,
    },
    schema::types::ColumnDescPtr,
};
use std::{
    collections::VecDeque,
    io::{self, Read},
    ops::Range,
};

/// Some rows of one column as they are encoded: whole pages.
pub(super) struct Pages {
    codec: Compression,
    encodings: EncodingMask,
    bytes: Bytes,
    /// Bytes and first row of each page, the latter counted from the first of these rows.
    pages: Vec<(i32, i64)>,
    /// About the bytes of the pages when they are inflated.
    inflated: u64,
}

impl Pages {
    /// Whether pages of the column are copied.
    pub(super) fn are_of(column: Column) -> bool {
        column.layout() != Layout::Dictionary
    }
}

impl Part {
    /// The places of the pages that hold exactly these rows of a row group, in a column; `None`: they share a page with others.
    fn page_places(&self, group: usize, column: Column, rows: &Range<u32>) -> Option<Range<usize>> {
        let of_group = self.group_rows(group);
        let pages = self.footer().page_index_for_row_group(group);
        let locations = pages.page_locations(column as usize)?;
        let place = |row: u32| {
            let row = i64::from(row - of_group.start);
            locations.binary_search_by_key(&row, |page| page.first_row_index).ok()
        };
        let end = if rows.end == of_group.end { Some(locations.len()) } else { place(rows.end) };
        Some(place(rows.start)?..end?)
    }

    /// Whether the rows can be copied: in no column do they share a page with others.
    pub(super) fn are_pages(&self, group: usize, rows: &Range<u32>) -> bool {
        Column::ALL
            .into_iter()
            .filter(|c| Pages::are_of(*c))
            .all(|c| self.page_places(group, c, rows).is_some())
    }

    /// The pages of these rows of a row group, checked, of each column; none of those that are not copied.
    pub(super) fn pages(&self, group: usize, rows: &Range<u32>) -> Result<[Option<Pages>; Column::COUNT], ParquetError> {
        let mut all = [const { None }; Column::COUNT];
        for column in Column::ALL.into_iter().filter(|c| Pages::are_of(*c)) {
            all[column as usize] = Some(self.pages_of(group, column, rows)?);
        }
        Ok(all)
    }

    fn pages_of(&self, group: usize, column: Column, rows: &Range<u32>) -> Result<Pages, ParquetError> {
        let places = self.page_places(group, column, rows).ok_or_else(|| odd("its pages do not lie as they did"))?;
        let index = self.footer().page_index_for_row_group(group);
        let locations = index.page_locations(column as usize).and_then(|all| all.get(places));
        let locations = locations.ok_or_else(|| odd("it does not say where its pages are"))?;
        let (mut at, mut pages) = (None, Vec::with_capacity(locations.len()));
        let first_row = i64::from(rows.start - self.group_rows(group).start);
        let mut len = 0;
        for page in locations {
            if *at.get_or_insert(page.offset) + len != page.offset {
                return Err(odd("its pages do not follow each other"));
            }
            len += i64::from(page.compressed_page_size);
            pages.push((page.compressed_page_size, page.first_row_index - first_row));
        }
        let (start, size) = (u64::try_from(at.unwrap_or(0)), usize::try_from(len));
        let (Ok(start), Ok(size)) = (start, size) else {
            return Err(odd("a page lies nowhere"));
        };
        let chunk = self.footer().row_group(group).column(column as usize);
        let (all, inflated) = (chunk.compressed_size().max(1) as u64, chunk.uncompressed_size().max(0) as u64);
        Ok(Pages {
            codec: chunk.compression(),
            encodings: *chunk.encodings_mask(),
            bytes: self.checked(start, size)?,
            pages,
            inflated: (u128::from(inflated) * size as u128 / u128::from(all)) as u64,
        })
    }
}

/// One column of a row group in work.
struct Chunk {
    codec: Compression,
    encodings: EncodingMask,
    pieces: Vec<Bytes>,
    index: OffsetIndexBuilder,
    len: i64,
    inflated: u64,
}

/// A row group in work, of pages that are copied.
#[derive(Default)]
pub(super) struct Copied {
    columns: Vec<Option<Chunk>>,
    rows: u64,
    len: u64,
}

impl Copied {
    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the pages may stand behind those that are here.
    pub(super) fn takes(&self, pages: &[Option<Pages>; Column::COUNT]) -> bool {
        let is_alike = |(chunk, pages): (&Option<Chunk>, &Option<Pages>)| match (chunk, pages) {
            (Some(chunk), Some(pages)) => (chunk.codec, chunk.encodings) == (pages.codec, pages.encodings),
            (None, None) => true,
            _ => false,
        };
        self.columns.is_empty() || self.columns.iter().zip(pages).all(is_alike)
    }

    /// Adds the pages of some rows, which it [takes](Self::takes).
    pub(super) fn push(&mut self, rows: usize, pages: [Option<Pages>; Column::COUNT]) {
        if self.columns.is_empty() {
            let begin = |pages: &Pages| Chunk {
                codec: pages.codec,
                encodings: pages.encodings,
                pieces: Vec::new(),
                index: OffsetIndexBuilder::new(),
                len: 0,
                inflated: 0,
            };
            self.columns = pages.iter().map(|pages| pages.as_ref().map(begin)).collect();
        }
        for (chunk, pages) in self.columns.iter_mut().zip(pages) {
            let (Some(chunk), Some(pages)) = (chunk, pages) else { continue };
            let ends = pages.pages.iter().skip(1).map(|page| page.1).chain([rows as i64]);
            for ((size, first), end) in pages.pages.iter().zip(ends) {
                chunk.index.append_row_count(end - first);
                chunk.index.append_offset_and_size(chunk.len, *size);
                chunk.len += i64::from(*size);
                self.len += u64::from(size.unsigned_abs());
            }
            chunk.pieces.push(pages.bytes);
            chunk.inflated += pages.inflated;
        }
        self.rows += rows as u64;
    }

    /// What a writer of row groups takes of a column: its bytes, and what they are. `bounds` are the smallest and largest value, where they are known.
    pub(super) fn column(
        &mut self,
        column: Column,
        descr: ColumnDescPtr,
        bounds: Option<(i64, i64)>,
    ) -> Result<Option<(Joined, ColumnCloseResult)>, ParquetError> {
        let Some(chunk) = self.columns.get_mut(column as usize).and_then(Option::take) else {
            return Ok(None);
        };
        let mut metadata = ColumnChunkMetaData::builder(descr)
            .set_compression(chunk.codec)
            .set_encodings_mask(chunk.encodings)
            .set_total_compressed_size(chunk.len)
            .set_total_uncompressed_size(chunk.inflated as i64)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(0);
        if let Some((low, high)) = bounds {
            metadata = metadata.set_statistics(Statistics::int64(Some(low), Some(high), None, Some(0), false));
        }
        let encoded = ColumnCloseResult {
            bytes_written: chunk.len.unsigned_abs(),
            rows_written: self.rows,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(chunk.index.build()),
        };
        Ok(Some((Joined(chunk.pieces), encoded)))
    }
}

/// Pieces that follow each other, to be read from the first to the last.
pub(super) struct Joined(Vec<Bytes>);

impl Length for Joined {
    fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl ChunkReader for Joined {
    type T = JoinedReader;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut reader = JoinedReader(self.0.iter().cloned().collect());
        io::copy(&mut (&mut reader).take(start), &mut io::sink())?;
        Ok(reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// See [`Joined`].
pub(super) struct JoinedReader(VecDeque<Bytes>);

impl Read for JoinedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.0.front().is_some_and(Bytes::is_empty) {
            self.0.pop_front();
        }
        let Some(piece) = self.0.front_mut() else { return Ok(0) };
        let len = piece.len().min(into.len());
        piece.copy_to_slice(&mut into[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_read_as_one() {
        let joined = Joined(["abc", "", "de", "f"].map(Bytes::from).into());
        assert_eq!(joined.len(), 6);
        for start in 0..=6 {
            let mut rest = String::new();
            joined.get_read(start).unwrap().read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "abcdef"[start as usize..]);
        }
        assert_eq!(joined.get_bytes(2, 3).unwrap(), "cde");
        assert!(joined.get_bytes(4, 3).is_err());
    }
}
