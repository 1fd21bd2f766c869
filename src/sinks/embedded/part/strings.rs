//! Columns for statistics: batches of a few columns of some rows, texts as codes where the file has a dictionary.

use super::{
    PartError, Rows, TenantRows,
    read::{Texts, times},
    schema::Column,
};
use crate::model::entry::Field;
use arrow_array::{Array, RecordBatch};
use parquet::errors::ParquetError;

/// A column that statistics look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatColumn {
    /// Event times.
    Timestamp,
    /// The name in upper case.
    Severity,
    /// A field as sent; an address as text.
    Field(Field),
}

impl StatColumn {
    fn column(self) -> Column {
        match self {
            Self::Timestamp => Column::Timestamp,
            Self::Severity => Column::Severity,
            Self::Field(field) => Column::of(field),
        }
    }
}

/// Some columns of at most 8,192 rows, decoded.
pub struct StatBatch<'b> {
    batch: &'b RecordBatch,
    /// The place in the batch of each column that was asked for.
    places: &'b [usize],
}

impl<'b> StatBatch<'b> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// The `i`-th column that was asked for, which holds times.
    pub fn times(&self, i: usize) -> Result<&'b [i64], ParquetError> {
        Ok(times(self.batch, self.places[i])?.values())
    }

    /// The `i`-th column that was asked for, which holds text: appends what `code` makes of each row's. A value of a
    /// dictionary is asked for once in the batch, and only if one of the rows has it.
    pub fn codes(&self, i: usize, out: &mut Vec<u32>, mut code: impl FnMut(Option<&'b str>) -> u32) -> Result<(), ParquetError> {
        match Texts::of(self.batch, self.places[i])? {
            Texts::Dictionary(keys, values) => {
                // A row group's dictionary is shared by its tenants: only values that a key of these rows names are looked at.
                let mut known: Vec<Option<u32>> = vec![None; values.len()];
                let mut absent = None;
                out.extend((0..keys.len()).map(|row| match keys.key(row) {
                    Some(key) => *known[key].get_or_insert_with(|| code(Some(values.value(key)))),
                    None => *absent.get_or_insert_with(|| code(None)),
                }));
            }
            Texts::Views(views) if views.null_count() == 0 => out.extend((0..views.len()).map(|row| code(Some(views.value(row))))),
            Texts::Views(views) => out.extend((0..views.len()).map(|row| code(views.is_valid(row).then(|| views.value(row))))),
        }
        Ok(())
    }

    /// Visits the text of each row of the `i`-th column that was asked for.
    pub fn texts(&self, i: usize, mut visit: impl FnMut(Option<&'b str>)) -> Result<(), ParquetError> {
        let texts = Texts::of(self.batch, self.places[i])?;
        (0..self.rows()).for_each(|row| visit(texts.get(row)));
        Ok(())
    }
}

/// A column is not what it should be; [`TenantRows::columns`] makes a [`PartError`] of it.
pub type BatchError = ParquetError;

/// Takes a batch.
pub type Take<'v> = dyn FnMut(&StatBatch<'_>) -> Result<(), BatchError> + 'v;

impl TenantRows<'_> {
    /// Decodes `columns`, each named once, of the rows, and gives them to `take` batch by batch, in order.
    pub fn columns<'r>(&self, columns: &[StatColumn], rows: impl Into<Rows<'r>>, take: &mut Take<'_>) -> Result<(), PartError> {
        let rows = self.own(rows.into())?;
        let mut in_file: Vec<Column> = columns.iter().map(|c| c.column()).collect();
        in_file.sort_unstable();
        let place = |c: &StatColumn| in_file.partition_point(|other| *other < c.column());
        let places: Vec<usize> = columns.iter().map(place).collect();
        self.part.fetch(&in_file, rows, &mut |batch| take(&StatBatch { batch, places: &places }))
    }
}
