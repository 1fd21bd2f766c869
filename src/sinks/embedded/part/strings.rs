//! Columns for statistics: codes into a small dictionary of what occurs.

use super::{PartError, Rows, TenantRows, read::Texts, schema::Column};
use arrow_array::Array;
use hashbrown::{HashMap, hash_map::EntryRef};
use std::sync::Arc;

/// A column that statistics count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatColumn {
    /// As sent.
    Action,
    /// As sent.
    ResourceType,
    /// As sent.
    UserId,
    /// The name in upper case.
    Severity,
}

impl StatColumn {
    fn column(self) -> Column {
        match self {
            Self::Action => Column::Action,
            Self::ResourceType => Column::ResourceType,
            Self::UserId => Column::UserId,
            Self::Severity => Column::Severity,
        }
    }
}

/// A column of some rows: the distinct values, and for each row which one it has. Holds values of these rows only, never
/// of the tenant's other rows or of another tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DictColumn {
    /// Distinct values in the order in which they first occur.
    pub values: Vec<Arc<str>>,
    /// For each row its index in `values`, or [`DictColumn::ABSENT`].
    pub codes: Vec<u32>,
}

impl DictColumn {
    /// The code of a row that does not have the field.
    pub const ABSENT: u32 = u32::MAX;

    /// How often each value occurs; `counts()[i]` belongs to `values[i]`.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.values.len()];
        for code in &self.codes {
            if let Some(count) = counts.get_mut(*code as usize) {
                *count += 1;
            }
        }
        counts
    }
}

impl TenantRows<'_> {
    /// A column of the rows, for statistics.
    pub fn strings<'r>(&self, column: StatColumn, rows: impl Into<Rows<'r>>) -> Result<DictColumn, PartError> {
        let rows = self.own(rows.into())?;
        let mut out = DictColumn {
            values: Vec::new(),
            codes: Vec::with_capacity(rows.len()),
        };
        let mut known: HashMap<Arc<str>, u32> = HashMap::new();
        let mut translation = Vec::new();
        self.part.fetch(&[column.column()], rows, &mut |batch| {
            let mut intern = |text: &str| match known.entry_ref(text) {
                EntryRef::Occupied(code) => *code.get(),
                EntryRef::Vacant(new) => {
                    let code = out.values.len() as u32;
                    let value: Arc<str> = text.into();
                    out.values.push(value.clone());
                    new.insert_with_key(value, code);
                    code
                }
            };
            match Texts::of(batch, 0)? {
                // A row group's dictionary is shared by its tenants: only values that a key names are taken.
                Texts::Dictionary(keys, values) => {
                    translation.clear();
                    translation.resize(values.len(), DictColumn::ABSENT);
                    for i in 0..batch.num_rows() {
                        let code = keys.key(i).map_or(DictColumn::ABSENT, |key| {
                            if translation[key] == DictColumn::ABSENT {
                                translation[key] = intern(values.value(key));
                            }
                            translation[key]
                        });
                        out.codes.push(code);
                    }
                }
                views @ Texts::Views(_) => out
                    .codes
                    .extend((0..batch.num_rows()).map(|i| views.get(i).map_or(DictColumn::ABSENT, &mut intern))),
            }
            Ok(())
        })?;
        Ok(out)
    }
}
