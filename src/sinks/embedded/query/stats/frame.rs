//! Rows on their way to be counted: times, severities, and the codes of texts, column by column, whether they come from
//! memory or from a part.

use super::{
    super::{Rows, Source, Unit, damaged},
    texts::{ABSENT, SEVERAL, Texts},
};
use crate::{
    model::{
        entry::{EntryRef, Field, Severity},
        leaves::for_each_leaf,
        mask::{MASKED, Mask},
    },
    sinks::{
        GroupKey, StoreError,
        embedded::part::{BatchError, StatBatch, StatColumn, TenantRows},
    },
};

use std::{borrow::Cow, sync::Arc};

/// The columns that are always counted.
pub const ACTION: usize = 0;
/// See [`ACTION`].
pub const RESOURCE_TYPE: usize = 1;
/// See [`ACTION`].
pub const USER: usize = 2;

/// Where the texts of a column come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A field.
    Field(Field),
    /// The leaves of `metadata` at this path.
    Leaf(Vec<String>),
}

impl What {
    fn field(&self) -> Field {
        match self {
            Self::Field(field) => *field,
            Self::Leaf(_) => Field::Metadata,
        }
    }
}

/// What groups are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The severity; its code is `Severity as u32`.
    Severity,
    /// One of the columns.
    Column(usize),
}

/// Which columns a query looks at.
pub struct Columns {
    /// Their texts; the first three are fixed.
    pub all: Vec<What>,
    /// The keys of the groups; empty: none are asked for.
    pub keys: Vec<Key>,
    /// What the texts are seen through.
    mask: Option<Arc<Mask>>,
}

impl Columns {
    /// Those that are always counted, and what `keys` need besides, seen through `mask`.
    pub fn new(keys: &[GroupKey], mask: Option<Arc<Mask>>) -> Self {
        let mut all = vec![What::Field(Field::Action), What::Field(Field::ResourceType), What::Field(Field::UserId)];
        let mut column = |what: What| {
            let at = all.iter().position(|known| *known == what).unwrap_or(all.len());
            if at == all.len() {
                all.push(what);
            }
            Key::Column(at)
        };
        let keys = keys.iter().map(|key| match key {
            GroupKey::Severity => Key::Severity,
            GroupKey::Field(field) => column(What::Field(*field)),
            GroupKey::Leaf(path) => column(What::Leaf(path.clone())),
        });
        let keys = keys.collect();
        Self { all, keys, mask }
    }

    fn shown<'t>(&self, field: Field, text: Option<&'t str>) -> Option<Cow<'t, str>> {
        text.map(|text| self.mask.as_ref().map_or(Cow::Borrowed(text), |mask| mask.text(field, text)))
    }

    fn shown_address<'t>(&self, text: Option<&'t str>) -> Option<&'t str> {
        let hidden = self.mask.as_ref().is_some_and(|mask| mask.hides_address());
        text.map(|text| if hidden { MASKED } else { text })
    }

    /// Whether each group has one user at the most, since the user is a key.
    pub fn group_by_user(&self) -> bool {
        self.keys.contains(&Key::Column(USER))
    }
}

/// What of rows has to be read.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Event times.
    pub times: bool,
    /// Severities.
    pub severities: bool,
    /// Actions and resource types, even if they are no keys.
    pub maps: bool,
}

/// Up to a batch of rows.
#[derive(Default)]
pub struct Frame {
    rows: usize,
    times: Vec<i64>,
    severities: Vec<u32>,
    /// By column; empty where the column is not wanted.
    codes: Vec<Vec<u32>>,
    /// By column: rows with several values, ascending, and these.
    several: Vec<Vec<(u32, Vec<u32>)>>,
}

impl Frame {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Event times, if wanted.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// Severities as numbers, if wanted.
    pub fn severities(&self) -> &[u32] {
        &self.severities
    }

    /// The codes of a column, if wanted.
    pub fn column(&self, column: usize) -> &[u32] {
        &self.codes[column]
    }

    /// The codes of users.
    pub fn users(&self) -> &[u32] {
        &self.codes[USER]
    }

    /// The codes of a key.
    pub fn codes(&self, key: Key) -> &[u32] {
        match key {
            Key::Severity => &self.severities,
            Key::Column(column) => &self.codes[column],
        }
    }

    /// Rows with several values of a key, and these.
    pub fn several(&self, key: Key) -> &[(u32, Vec<u32>)] {
        match key {
            Key::Severity => &[],
            Key::Column(column) => &self.several[column],
        }
    }

    /// The codes of a key in a row.
    pub fn values(&self, key: Key, row: usize) -> impl Iterator<Item = u32> {
        let one = self.codes(key)[row];
        let several = self.several(key);
        let several = match several.binary_search_by_key(&(row as u32), |(row, _)| *row) {
            Ok(at) if one == SEVERAL => several[at].1.as_slice(),
            _ => &[],
        };
        several.iter().copied().chain((one != SEVERAL).then_some(one))
    }

    /// Empties it, for so many columns.
    pub fn clear(&mut self, columns: usize) {
        self.rows = 0;
        self.times.clear();
        self.severities.clear();
        self.codes.iter_mut().for_each(Vec::clear);
        self.several.iter_mut().for_each(Vec::clear);
        self.codes.resize_with(columns, Vec::new);
        self.several.resize_with(columns, Vec::new);
    }

    /// Appends a row's code of a leaf column.
    fn push_leaves(&mut self, column: usize, path: &[String], metadata: Option<&str>, texts: &mut Texts) {
        let mut found: Vec<u32> = Vec::new();
        if let Some(metadata) = metadata {
            for_each_leaf(metadata, &mut |at, text| {
                if at == path {
                    found.push(texts.code(&text));
                }
            });
            found.sort_unstable();
            found.dedup();
        }
        let code = match found.as_slice() {
            [] => ABSENT,
            [one] => *one,
            _ => SEVERAL,
        };
        if code == SEVERAL {
            self.several[column].push((self.codes[column].len() as u32, found));
        }
        self.codes[column].push(code);
    }

    /// Appends a row, which is not masked yet.
    pub fn push_entry(&mut self, entry: &EntryRef<'_>, read: &Read<'_>, texts: &mut [Texts]) {
        self.rows += 1;
        self.times.push(entry.timestamp());
        self.severities.push(entry.severity() as u32);
        for column in read.columns() {
            match &read.of.all[column] {
                What::Field(Field::IpAddress) => {
                    let text = entry.ip().map(|ip| ip.to_string());
                    self.codes[column].push(texts[column].code_of(read.of.shown_address(text.as_deref())));
                }
                What::Field(field) => self.codes[column].push(texts[column].code_of(read.of.shown(*field, entry.text(*field)).as_deref())),
                What::Leaf(path) => {
                    let metadata = read.of.shown(Field::Metadata, entry.text(Field::Metadata));
                    self.push_leaves(column, path, metadata.as_deref(), &mut texts[column]);
                }
            }
        }
    }
}

/// The code of a severity as a key; [`ABSENT`] if it is none.
pub fn severity_code(name: Option<&str>) -> u32 {
    name.and_then(Severity::parse).map_or(ABSENT, |severity| severity as u32)
}

/// How frames are read: which columns, and in which order a part gives them.
pub struct Read<'a> {
    of: &'a Columns,
    wanted: Wanted,
    in_part: Vec<StatColumn>,
}

impl<'a> Read<'a> {
    /// Reads what is wanted, users, and what is grouped by.
    pub fn new(of: &'a Columns, wanted: Wanted) -> Self {
        let mut read = Self {
            of,
            wanted,
            in_part: Vec::new(),
        };
        if wanted.times {
            read.in_part.push(StatColumn::Timestamp);
        }
        if wanted.severities {
            read.in_part.push(StatColumn::Severity);
        }
        for column in read.columns() {
            let field = StatColumn::Field(of.all[column].field());
            if !read.in_part.contains(&field) {
                read.in_part.push(field);
            }
        }
        read
    }

    /// The columns whose codes are wanted.
    fn columns(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (maps, of) = (self.wanted.maps, self.of);
        (0..of.all.len()).filter(move |column| maps || *column == USER || of.keys.contains(&Key::Column(*column)))
    }

    /// Gives the rows of a unit to `take`, frame by frame, in their order.
    pub fn unit(
        &self,
        unit: &Unit<'_>,
        parts: &[TenantRows<'_>],
        rows: &Rows,
        texts: &mut [Texts],
        frame: &mut Frame,
        take: &mut dyn FnMut(&Frame),
    ) -> Result<(), StoreError> {
        match &unit.source {
            Source::Memory { table, run } => {
                frame.clear(self.of.all.len());
                rows.for_each(|place| frame.push_entry(&table.row(run, place).entry(), self, texts));
                take(frame);
                Ok(())
            }
            Source::Part { at, .. } => {
                let mut unknown = false;
                let read = parts[*at].columns(&self.in_part, rows.in_part(), &mut |batch| {
                    self.batch(batch, texts, frame)?;
                    unknown |= frame.severities.contains(&ABSENT);
                    if !unknown {
                        take(frame);
                    }
                    Ok(())
                });
                read.map_err(damaged)?;
                if unknown {
                    return Err(StoreError::Damaged("a part has an unknown severity".into()));
                }
                Ok(())
            }
        }
    }

    fn batch(&self, batch: &StatBatch<'_>, texts: &mut [Texts], frame: &mut Frame) -> Result<(), BatchError> {
        frame.clear(self.of.all.len());
        frame.rows = batch.rows();
        let place = |column: StatColumn| self.in_part.iter().position(|c| *c == column).unwrap_or_default();
        if self.wanted.times {
            frame.times.extend_from_slice(batch.times(place(StatColumn::Timestamp))?);
        }
        if self.wanted.severities {
            batch.codes(place(StatColumn::Severity), &mut frame.severities, severity_code)?;
        }
        for column in self.columns() {
            let what = &self.of.all[column];
            let at = place(StatColumn::Field(what.field()));
            match what {
                What::Field(Field::IpAddress) => {
                    let code = |text: Option<&str>| texts[column].code_of(self.of.shown_address(text.filter(|t| !t.is_empty())));
                    batch.codes(at, &mut frame.codes[column], code)?;
                }
                What::Field(field) => batch.codes(at, &mut frame.codes[column], |text| {
                    texts[column].code_of(self.of.shown(*field, text).as_deref())
                })?,
                What::Leaf(path) => batch.texts(at, |text| {
                    let metadata = self.of.shown(Field::Metadata, text);
                    frame.push_leaves(column, path, metadata.as_deref(), &mut texts[column]);
                })?,
            }
        }
        Ok(())
    }
}
