//! The columns of a part's data file, and how each is laid out in Parquet.
//!
//! Types are chosen for people who point DuckDB, pandas or Spark at the folder: text, UTC timestamps, names as in the HTTP
//! contract. A field that an entry does not have is null, so that `""` and absent differ.
//!
//! | column | type | layout |
//! |---|---|---|
//! | `tenant` | text | dictionary, not compressed |
//! | `timestamp`, `received_at` | timestamp, ms, UTC | delta, pages of ≤ 8,192 rows, not compressed |
//! | `sequence` | uint64 | the same |
//! | `id` | 16 bytes (UUID, big endian) | plain, not compressed: random bytes gain nothing, and one row is read without inflating its page |
//! | `client_id` | boolean | the id is the client's |
//! | `content_hash` | 16 bytes, big endian | like `id`; null where it follows from the row and `sent`, so nearly everywhere ([`super::sent`]) |
//! | `sent` | uint8 | delta, not compressed: what the client sent, 1 severity, 2 timestamp, 4 user_id; 0 where `content_hash` is there |
//! | `severity`, `actor`, `action`, `resource_type` | text | dictionary, not compressed |
//! | `resource_id`, `user_id`, `session_id`, `request_id`, `email`, `ip_address` | text | zstd, pages of ≤ 1,024 rows |
//! | `user_agent`, `message`, `before_state`, `after_state`, `metadata` | text (JSON as sent) | zstd, pages of ≤ 256 rows |
//!
//! Only text with many values is compressed: codes and deltas are small already. Lengths stand before all texts of a page
//! (`DELTA_LENGTH_BYTE_ARRAY`), but for columns of few texts, where length and text are found again together. Level 3 of zstd
//! costs no more than level 1 here, and gains but for texts of random digits. Both by the bytes of the demo's entries. Pages are small since a page is inflated
//! whole to show one of its rows (512 rows instead of 256 save 2 % of the bytes). A dictionary page must be decoded whole before one of its rows is read,
//! hence none on columns that have many values; where a dictionary grows beyond 64 KiB Parquet goes on plain by itself.

use crate::model::entry::Field as EntryField;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use std::sync::Arc;

/// A column of the data file; the discriminant is its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Column {
    Tenant,
    Timestamp,
    Sequence,
    ReceivedAt,
    Id,
    ClientId,
    ContentHash,
    Sent,
    Severity,
    Actor,
    Action,
    ResourceType,
    ResourceId,
    UserId,
    SessionId,
    RequestId,
    Email,
    IpAddress,
    UserAgent,
    Message,
    BeforeState,
    AfterState,
    Metadata,
}

/// How a column is encoded, and so how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Text with few values.
    Dictionary,
    /// A whole number that differs little from the one before.
    Delta,
    /// 16 random bytes.
    Random,
    /// One bit.
    Bit,
    /// A small number, mostly the one before.
    Small,
    /// Short text with many values.
    Narrow,
    /// Long text.
    Wide,
}

/// A page of a wide column has at most about this many rows: what is inflated to show one of them.
const WIDE_PAGE_ROWS: usize = 256;
const NARROW_PAGE_ROWS: usize = 1_024;
const PAGE_ROWS: usize = 8_192;
const DICTIONARY_BYTES: usize = 64 << 10;

impl Column {
    pub(super) const COUNT: usize = 23;
    pub(super) const ALL: [Column; Self::COUNT] = [
        Self::Tenant,
        Self::Timestamp,
        Self::Sequence,
        Self::ReceivedAt,
        Self::Id,
        Self::ClientId,
        Self::ContentHash,
        Self::Sent,
        Self::Severity,
        Self::Actor,
        Self::Action,
        Self::ResourceType,
        Self::ResourceId,
        Self::UserId,
        Self::SessionId,
        Self::RequestId,
        Self::Email,
        Self::IpAddress,
        Self::UserAgent,
        Self::Message,
        Self::BeforeState,
        Self::AfterState,
        Self::Metadata,
    ];

    /// The column that holds a field of the record.
    pub(super) fn of(field: EntryField) -> Self {
        Self::ALL[Self::Action as usize + field as usize]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Timestamp => "timestamp",
            Self::Sequence => "sequence",
            Self::ReceivedAt => "received_at",
            Self::Id => "id",
            Self::ClientId => "client_id",
            Self::ContentHash => "content_hash",
            Self::Sent => "sent",
            Self::Severity => "severity",
            Self::Actor => "actor",
            _ => EntryField::ALL[self as usize - Self::Action as usize].name(),
        }
    }

    pub(super) fn layout(self) -> Layout {
        match self {
            Self::Tenant | Self::Severity | Self::Actor | Self::Action | Self::ResourceType => Layout::Dictionary,
            Self::Timestamp | Self::Sequence | Self::ReceivedAt => Layout::Delta,
            Self::Id | Self::ContentHash => Layout::Random,
            Self::ClientId => Layout::Bit,
            Self::Sent => Layout::Small,
            Self::ResourceId | Self::UserId | Self::SessionId | Self::RequestId | Self::Email | Self::IpAddress => Layout::Narrow,
            Self::UserAgent | Self::Message | Self::BeforeState | Self::AfterState | Self::Metadata => Layout::Wide,
        }
    }

    /// How texts that are compressed stand in their page.
    fn text_encoding(self) -> Encoding {
        match self {
            Self::ResourceId | Self::UserAgent | Self::IpAddress => Encoding::PLAIN,
            _ => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        }
    }

    fn compression(self) -> Compression {
        let level = match self {
            Self::SessionId | Self::RequestId | Self::UserAgent | Self::Metadata => 1,
            _ => 3,
        };
        Compression::ZSTD(ZstdLevel::try_new(level).expect("zstd has these levels"))
    }

    fn is_nullable(self) -> bool {
        self >= Self::Action || self == Self::ContentHash
    }

    fn data_type(self, text: impl Fn(Layout) -> DataType) -> DataType {
        match self {
            Self::Timestamp | Self::ReceivedAt => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Self::Sequence => DataType::UInt64,
            Self::Id | Self::ContentHash => DataType::FixedSizeBinary(16),
            Self::ClientId => DataType::Boolean,
            Self::Sent => DataType::UInt8,
            other => text(other.layout()),
        }
    }
}

/// The types in which rows are written, and which a reader of the file sees.
pub(super) fn written() -> SchemaRef {
    schema(|_| DataType::Utf8)
}

/// The types in which we read: dictionaries stay dictionaries, other text points into its page without being copied.
pub(super) fn read() -> SchemaRef {
    schema(|layout| match layout {
        Layout::Dictionary => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        _ => DataType::Utf8View,
    })
}

fn schema(text: impl Fn(Layout) -> DataType) -> SchemaRef {
    Arc::new(Schema::new(
        Column::ALL.map(|c| Field::new(c.name(), c.data_type(&text), c.is_nullable())).to_vec(),
    ))
}

/// How the file is written. Row groups are cut by the writer, at block boundaries.
pub(super) fn properties() -> WriterProperties {
    let mut to = WriterProperties::builder()
        .set_created_by("sluice".to_owned())
        .set_max_row_group_row_count(None)
        .set_write_batch_size(WIDE_PAGE_ROWS)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None);
    for column in Column::ALL {
        let path = ColumnPath::from(column.name());
        to = match column.layout() {
            Layout::Dictionary => to
                .set_column_dictionary_enabled(path.clone(), true)
                .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                .set_column_statistics_enabled(path, EnabledStatistics::Chunk),
            Layout::Delta => to
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                .set_column_statistics_enabled(path, EnabledStatistics::Page),
            Layout::Small => to
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                .set_column_compression(path, Compression::UNCOMPRESSED),
            Layout::Random | Layout::Bit => to.set_column_compression(path, Compression::UNCOMPRESSED),
            Layout::Narrow | Layout::Wide => {
                let rows = if column.layout() == Layout::Narrow {
                    NARROW_PAGE_ROWS
                } else {
                    WIDE_PAGE_ROWS
                };
                to.set_column_data_page_row_count_limit(path.clone(), rows)
                    .set_column_encoding(path.clone(), column.text_encoding())
                    .set_column_compression(path, column.compression())
            }
        };
    }
    to.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_fields_have_one_order() {
        for (i, column) in Column::ALL.into_iter().enumerate() {
            assert_eq!(column as usize, i);
            assert_eq!(written().field(i).name(), column.name());
        }
        for field in EntryField::ALL {
            assert_eq!(Column::of(field).name(), field.name());
        }
        assert_eq!(Column::of(EntryField::Metadata), Column::Metadata);
    }
}
