//! Rows of `logs` as records, byte for byte those that were sealed.

use super::fault;
use crate::{
    model::entry::{Field, NewEntry, Severity, StoredEntry},
    sinks::StoreError,
};
use clickhouse::{Row, query::RowCursor};
use serde::Deserialize;
use std::net::IpAddr;
use uuid::Uuid;

/// A row as it comes over the wire. Texts that are not asked for are absent.
#[derive(Row, Deserialize)]
pub(super) struct LogRow<'a> {
    sequence: u64,
    at: i64,
    received: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    id: Uuid,
    client_id: bool,
    content_hash: u128,
    level: i8,
    wrote: &'a str,
    c0: Option<&'a str>,
    c1: Option<&'a str>,
    c2: Option<&'a str>,
    c3: Option<&'a str>,
    c4: Option<&'a str>,
    c5: Option<&'a str>,
    c6: Option<&'a str>,
    c7: Option<&'a str>,
    c8: Option<&'a str>,
    c9: Option<&'a str>,
    c10: Option<&'a str>,
    c11: Option<&'a str>,
    c12: Option<&'a str>,
}

/// What to select for [`LogRow`]: of the texts only those that `wanted` says.
pub(super) fn columns(wanted: impl Fn(Field) -> bool) -> String {
    let mut text = "sequence, toUnixTimestamp64Milli(timestamp) AS at, toUnixTimestamp64Milli(received_at) AS received, id, client_id, \
        content_hash, CAST(severity, 'Int8') AS level, CAST(actor, 'String') AS wrote"
        .to_owned();
    for (i, field) in Field::ALL.into_iter().enumerate() {
        let name = field.name();
        let value = match (wanted(field), required(field)) {
            (false, _) => "CAST(NULL, 'Nullable(String)')".to_owned(),
            (true, true) => format!("CAST(nullIf({name}, ''), 'Nullable(String)')"),
            (true, false) => name.to_owned(),
        };
        text.push_str(&format!(", {value} AS c{i}"));
    }
    text
}

/// Whether an entry must have the field, so that empty stands for absent.
pub(super) fn required(field: Field) -> bool {
    matches!(field, Field::Action | Field::ResourceType | Field::ResourceId)
}

impl LogRow<'_> {
    fn stored(&self) -> Result<StoredEntry, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(format!("a row of ClickHouse has no valid {what}").into());
        let texts = [
            self.c0, self.c1, self.c2, self.c3, self.c4, self.c5, self.c6, self.c7, self.c8, self.c9, self.c10, self.c11, self.c12,
        ];
        let ip: Option<IpAddr> = match texts[Field::IpAddress as usize] {
            Some(text) => Some(text.parse().map_err(|_| damaged("address"))?),
            None => None,
        };
        let (v4, v6) = match ip {
            Some(IpAddr::V4(v4)) => (Some(v4.octets()), None),
            Some(IpAddr::V6(v6)) => (None, Some(v6.octets())),
            None => (None, None),
        };
        let mut fields = texts.map(|text| text.map(str::as_bytes));
        fields[Field::IpAddress as usize] = v4.as_ref().map(|b| &b[..]).or(v6.as_ref().map(|b| &b[..]));
        let severity = usize::try_from(self.level).ok().and_then(|level| Severity::ALL.get(level).copied());
        let entry = NewEntry {
            id: self.id,
            client_id: self.client_id,
            hash: self.content_hash,
            timestamp: self.at,
            severity: severity.ok_or_else(|| damaged("severity"))?,
            fields,
        };
        let mut record = Vec::with_capacity(entry.encoded_len());
        entry.encode(&mut record);
        Ok(StoredEntry {
            record: record.into(),
            received_at: self.received,
            actor: self.wrote.into(),
            sequence: Some(self.sequence),
        })
    }
}

/// Entries of an answer, one after the other; one is in memory at a time, and what the connection holds.
pub(super) struct Rows(RowCursor<LogRow<'static>>);

impl Rows {
    pub(super) fn new(cursor: RowCursor<LogRow<'static>>) -> Self {
        Self(cursor)
    }

    /// The next one. Dropping the rows ends the query.
    pub async fn next(&mut self) -> Result<Option<StoredEntry>, StoreError> {
        match self.0.next().await {
            Ok(Some(row)) => row.stored().map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(fault::read_failed(&error)),
        }
    }
}
