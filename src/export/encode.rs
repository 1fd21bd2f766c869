//! Entries as text, one after the other.

use super::csv;
use crate::model::{entry::StoredEntry, render::write_entry, tenant::TenantId};

/// What an export looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object on each line.
    Ndjson,
    /// One JSON array.
    Json,
    /// RFC 4180 with a header line: one column per field, objects as JSON.
    Csv,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 3] = [Self::Json, Self::Ndjson, Self::Csv];

    /// The name in the HTTP contract, which is the ending of a file name too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// Writes one export: [`Encoder::start`], each entry, [`Encoder::end`]. Without the end a JSON array does not parse; that
/// the other formats are whole must be told by other means.
#[derive(Debug, Clone)]
pub struct Encoder {
    format: Format,
    tenant: TenantId,
    csv_safe: bool,
    rows: u64,
}

impl Encoder {
    /// For the entries of `tenant`. With `csv_safe` no field of a CSV is taken for a formula by a spreadsheet: one that
    /// begins like a formula gets a leading `'`.
    pub fn new(format: Format, tenant: TenantId, csv_safe: bool) -> Self {
        Self::resumed(format, tenant, csv_safe, 0)
    }

    /// One that has written its start and `rows` entries already.
    pub fn resumed(format: Format, tenant: TenantId, csv_safe: bool, rows: u64) -> Self {
        Self {
            format,
            tenant,
            csv_safe,
            rows,
        }
    }

    /// Entries so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What comes before the first entry.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        match self.format {
            Format::Ndjson => (),
            Format::Json => out.push(b'['),
            Format::Csv => csv::header(out),
        }
    }

    /// One entry.
    pub fn entry(&mut self, out: &mut Vec<u8>, entry: &StoredEntry) {
        match self.format {
            Format::Ndjson => {
                write_entry(out, &self.tenant, entry);
                out.push(b'\n');
            }
            Format::Json => {
                out.extend_from_slice(if self.rows > 0 { b",\n" } else { b"\n" });
                write_entry(out, &self.tenant, entry);
            }
            Format::Csv => csv::line(out, &self.tenant, entry, self.csv_safe),
        }
        self.rows += 1;
    }

    /// What comes after the last entry.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.format == Format::Json {
            out.extend_from_slice(b"\n]\n");
        }
    }
}
