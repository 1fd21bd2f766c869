//! Decoded columns as records again, byte for byte.

use super::{
    read::{Texts, dictionary, numbers, odd, random, times},
    schema::Column,
    sent::Hashed,
};
use crate::model::entry::{ContentHash, Field, NewEntry, Severity, StoredEntry, ip_from_bytes};
use arrow_array::{Array, BooleanArray, FixedSizeBinaryArray, RecordBatch, cast::AsArray, types::UInt8Type};
use parquet::errors::ParquetError;
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// What a record is made of: every column but the tenant.
pub(super) const COLUMNS: [Column; Column::COUNT - 1] = {
    let mut columns = [Column::Timestamp; Column::COUNT - 1];
    let mut i = 0;
    while i < columns.len() {
        columns[i] = Column::ALL[i + 1];
        i += 1;
    }
    columns
};

/// The place of a column in a batch of these.
pub(super) fn at(column: Column) -> usize {
    column as usize - Column::Timestamp as usize
}

/// One row.
pub(super) struct Decoded<'b> {
    pub(super) new: NewEntry<'b>,
    received_at: i64,
    actor: &'b Arc<str>,
    sequence: u64,
}

impl Decoded<'_> {
    pub(super) fn stored(&self) -> StoredEntry {
        let mut record = Vec::with_capacity(self.new.encoded_len());
        self.new.encode(&mut record);
        StoredEntry {
            record: record.into(),
            received_at: self.received_at,
            actor: self.actor.clone(),
            sequence: Some(self.sequence),
        }
    }
}

/// Visits each row of a batch of [`COLUMNS`].
pub(super) fn each(batch: &RecordBatch, visit: &mut dyn FnMut(Decoded<'_>)) -> Result<(), ParquetError> {
    let timestamps = times(batch, at(Column::Timestamp))?;
    let sequences = numbers(batch, at(Column::Sequence))?;
    let received = times(batch, at(Column::ReceivedAt))?;
    let (ids, hashes) = (random(batch, at(Column::Id))?, random(batch, at(Column::ContentHash))?);
    let client_ids: &BooleanArray = batch.column(at(Column::ClientId)).as_boolean_opt().ok_or_else(|| odd("no bits"))?;
    let sent = batch.column(at(Column::Sent)).as_primitive_opt::<UInt8Type>().ok_or_else(|| odd("no bits"))?;
    let severities = Texts::of(batch, at(Column::Severity))?;
    let (actors, actor_texts) = dictionary(batch, at(Column::Actor))?;
    let shared: Vec<Arc<str>> = actor_texts.iter().map(|text| text.unwrap_or_default().into()).collect();
    let mut fields = Vec::with_capacity(Field::COUNT);
    for field in Field::ALL {
        fields.push(Texts::of(batch, at(Column::of(field)))?);
    }
    let mut scratch = Vec::new();
    for i in 0..batch.num_rows() {
        let mut address = [0; 16];
        let mut texts: [Option<&[u8]>; Field::COUNT] = std::array::from_fn(|f| fields[f].get(i).map(str::as_bytes));
        if let Some(text) = fields[Field::IpAddress as usize].get(i) {
            let len = address_bytes(text, &mut address).ok_or_else(|| odd("an address does not parse"))?;
            texts[Field::IpAddress as usize] = Some(&address[..len]);
        }
        let severity = severities.get(i).and_then(Severity::parse).ok_or_else(|| odd("a severity does not parse"))?;
        let actor = actors.key(i).and_then(|key| shared.get(key)).ok_or_else(|| odd("an actor is missing"))?;
        let timestamp = timestamps.value(i);
        let hash = match written_hash(hashes, i)? {
            Some(hash) => hash,
            None => {
                let hashed = Hashed {
                    fields: texts,
                    severity,
                    timestamp,
                };
                hashed.hash(sent.value(i), &mut scratch)
            }
        };
        visit(Decoded {
            new: NewEntry {
                id: Uuid::from_slice(ids.value(i)).map_err(|_| odd("an id is no id"))?,
                client_id: client_ids.value(i),
                hash,
                timestamp,
                severity,
                fields: texts,
            },
            received_at: received.value(i),
            actor,
            sequence: sequences.value(i),
        });
    }
    Ok(())
}

/// The hash of a row, if it is written down.
pub(super) fn written_hash(hashes: &FixedSizeBinaryArray, i: usize) -> Result<Option<ContentHash>, ParquetError> {
    if hashes.is_null(i) {
        return Ok(None);
    }
    let bytes = hashes.value(i).try_into().map_err(|_| odd("a hash is no hash"))?;
    Ok(Some(ContentHash::from_be_bytes(bytes)))
}

/// The bytes of an address as the record holds them; empty text is an empty field. How many they are.
fn address_bytes(text: &str, into: &mut [u8; 16]) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    let len = match text.parse().ok()? {
        IpAddr::V4(a) => {
            into[..4].copy_from_slice(&a.octets());
            4
        }
        IpAddr::V6(a) => {
            into.copy_from_slice(&a.octets());
            16
        }
    };
    debug_assert!(ip_from_bytes(&into[..len]).is_some());
    Some(len)
}
