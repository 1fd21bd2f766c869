//! The tables, made and changed by numbered migrations; and what a start checks before anything is read or written.
//!
//! # Schema, version 1
//!
//! | table | order | what |
//! |---|---|---|
//! | `logs` | `(tenant_id, timestamp, sequence)` | one row per numbered entry |
//! | `entry_ids` | `(tenant_id, id)`, granules of 256 rows | the ledger: where the row of an id is, and its content hash |
//! | `packs` | `pack_id` | names of decided packs and orders |
//! | `erasures` | `(tenant_id, job, what)` | one row each when an erasure is sealed, settled, and its bytes are gone |
//! | `schema_version` | `version` | one row per migration |
//! | `logs_flat` | a view | `logs` for people: erased rows left out, names of times and severities, the two logs of a tenant told apart |
//!
//! Each of the first four is partitioned by the month of sealing (`sealed_at`), and each row names its `partition` and `seal`: a
//! seal is one block in one partition of each table, so that it is there whole or not at all, and can be counted. Objects are
//! kept as the text that was sent. Texts that an entry must have (`action`, `resource_type`, `resource_id`) are never empty;
//! empty stands for absent there. `*_lower` is what filters compare, lower-cased as Sluice does it.
//!
//! Inserts carry the token `<partition>/<seal>`. It works only where a table keeps a deduplication window, so a table without one
//! (made by hand, or changed) is refused at start.
//!
//! Tables are made only if they are not there: who wants replicas makes them before, of the same columns and order, with a
//! `Replicated…` engine and `replicated_deduplication_window` ≥ 10,000.

use super::{ClickHouseError, Db, sql::Sql};
use crate::model::time::now_ms;

/// The tables that seals are written to.
pub(super) const TABLES: [&str; 4] = ["logs", "entry_ids", "packs", "erasures"];
/// Fewer inserts than this must not push a token out of the window.
const LEAST_WINDOW: u64 = 10_000;

/// One step from a version to the next; each statement may be run again.
struct Migration {
    version: u32,
    statements: &'static [&'static str],
}

/// Every migration, in order.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    statements: &[LOGS, ENTRY_IDS, PACKS, ERASURES, LOGS_FLAT],
}];

/// The version that this binary reads and writes.
pub const LATEST: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_version (version UInt32, applied_at DateTime64(3, 'UTC'), by String) \
    ENGINE = MergeTree ORDER BY version";

const LOGS: &str = "CREATE TABLE IF NOT EXISTS logs (
    tenant_id LowCardinality(String),
    sequence UInt64 CODEC(Delta, ZSTD(1)),
    timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    id UUID,
    client_id Bool,
    content_hash UInt128,
    severity Enum8('INFO' = 0, 'WARNING' = 1, 'ERROR' = 2, 'CRITICAL' = 3),
    actor LowCardinality(String),
    action LowCardinality(String),
    action_lower LowCardinality(String),
    resource_type LowCardinality(String),
    resource_type_lower LowCardinality(String),
    resource_id String CODEC(ZSTD(1)),
    user_id Nullable(String) CODEC(ZSTD(1)),
    session_id Nullable(String) CODEC(ZSTD(1)),
    request_id Nullable(String) CODEC(ZSTD(1)),
    email Nullable(String) CODEC(ZSTD(1)),
    ip_address Nullable(String) CODEC(ZSTD(1)),
    user_agent Nullable(String) CODEC(ZSTD(1)),
    message Nullable(String) CODEC(ZSTD(1)),
    before_state Nullable(String) CODEC(ZSTD(1)),
    after_state Nullable(String) CODEC(ZSTD(1)),
    metadata Nullable(String) CODEC(ZSTD(1)),
    `partition` UInt32,
    seal UInt64 CODEC(Delta, ZSTD(1)),
    sealed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX sequence_range sequence TYPE minmax GRANULARITY 1,
    INDEX received_range received_at TYPE minmax GRANULARITY 1,
    INDEX seal_range seal TYPE minmax GRANULARITY 1,
    INDEX user_values user_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX email_values email TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX session_values session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX request_values request_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX resource_values resource_id TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toYYYYMM(sealed_at) ORDER BY (tenant_id, timestamp, sequence)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1";

const ENTRY_IDS: &str = "CREATE TABLE IF NOT EXISTS entry_ids (
    tenant_id LowCardinality(String),
    id UUID,
    content_hash UInt128,
    timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    sequence UInt64 CODEC(Delta, ZSTD(1)),
    `partition` UInt32,
    seal UInt64 CODEC(Delta, ZSTD(1)),
    sealed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX seal_range seal TYPE minmax GRANULARITY 16
) ENGINE = MergeTree PARTITION BY toYYYYMM(sealed_at) ORDER BY (tenant_id, id)
SETTINGS index_granularity = 256, non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1";

const PACKS: &str = "CREATE TABLE IF NOT EXISTS packs (
    pack_id UUID,
    tenant_id LowCardinality(String),
    `partition` UInt32,
    seal UInt64 CODEC(Delta, ZSTD(1)),
    sealed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX seal_range seal TYPE minmax GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toYYYYMM(sealed_at) ORDER BY pack_id
SETTINGS index_granularity = 1024, non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1";

const ERASURES: &str = "CREATE TABLE IF NOT EXISTS erasures (
    tenant_id LowCardinality(String),
    job UUID,
    what Enum8('erased' = 1, 'settled' = 2, 'purged' = 3),
    kind Enum8('none' = 0, 'cleanup' = 1, 'retention' = 2),
    cutoff Int64,
    head UInt64,
    rows UInt64,
    `partition` UInt32,
    seal UInt64,
    sealed_at DateTime64(3, 'UTC')
) ENGINE = MergeTree PARTITION BY toYYYYMM(sealed_at) ORDER BY (tenant_id, job, what)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1";

const LOGS_FLAT: &str = "CREATE OR REPLACE VIEW logs_flat AS
SELECT
    if(endsWith(l.tenant_id, '.access'), substring(l.tenant_id, 1, length(l.tenant_id) - 7), l.tenant_id) AS tenant,
    if(endsWith(l.tenant_id, '.access'), 'access', 'audit') AS log,
    l.tenant_id AS tenant_id,
    l.sequence AS sequence,
    l.id AS id,
    l.timestamp AS timestamp,
    l.received_at AS received_at,
    l.action AS action,
    l.resource_type AS resource_type,
    l.resource_id AS resource_id,
    l.user_id AS user_id,
    l.session_id AS session_id,
    l.request_id AS request_id,
    l.email AS email,
    l.ip_address AS ip_address,
    l.user_agent AS user_agent,
    toString(l.severity) AS severity,
    l.message AS message,
    l.before_state AS before_state,
    l.after_state AS after_state,
    l.metadata AS metadata,
    l.actor AS actor
FROM logs AS l
LEFT JOIN (
    SELECT tenant_id, groupArray((kind = 'cleanup', cutoff, head)) AS steps FROM erasures WHERE what = 'erased' GROUP BY tenant_id
) AS e ON l.tenant_id = e.tenant_id
WHERE NOT arrayExists(
    s -> l.sequence <= s.3 AND if(s.1, toUnixTimestamp64Milli(l.timestamp), toUnixTimestamp64Milli(l.received_at)) < s.2,
    e.steps)";

/// Brings the database to [`LATEST`]: makes it if it is not there. Says from which version (0: there was none). Several processes
/// may do so at once.
pub(super) async fn migrate(db: &Db) -> Result<u32, ClickHouseError> {
    let name = db.database();
    let make = format!("CREATE DATABASE IF NOT EXISTS `{name}`");
    let there = Sql::new("SELECT count() FROM system.databases WHERE name = ").text(name).clone();
    if db.outside().one::<u64>(&there).await? == 0 {
        db.outside().run(&Sql::new(&make)).await?;
    }
    db.run(&Sql::new(VERSIONS)).await?;
    let before = version(db).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > before) {
        for statement in migration.statements {
            db.run(&Sql::new(statement)).await?;
        }
        let mut done = Sql::new("INSERT INTO schema_version SELECT toUInt32(");
        done.number(u64::from(migration.version))
            .push("), fromUnixTimestamp64Milli(")
            .int(now_ms())
            .push(", 'UTC'), ");
        done.text(concat!("sluice ", env!("CARGO_PKG_VERSION")));
        db.run(&done).await?;
        tracing::info!(version = migration.version, "ClickHouse schema migrated");
    }
    check_tables(db).await?;
    check_settings(db).await?;
    Ok(before)
}

/// The version of the schema; 0 when there is none. One that this binary does not know is an error.
async fn version(db: &Db) -> Result<u32, ClickHouseError> {
    let found = db.one::<u32>(&Sql::new("SELECT max(version) FROM schema_version")).await?;
    if found > LATEST {
        return Err(ClickHouseError::Newer { found, known: LATEST });
    }
    Ok(found)
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct Table {
    name: String,
    engine: String,
    engine_full: String,
    sorting_key: String,
    partition_key: String,
}

/// Whether the tables are such that a seal lands once, whole and in one partition.
async fn check_tables(db: &Db) -> Result<(), ClickHouseError> {
    let mut sql = Sql::new("SELECT name, engine, engine_full, sorting_key, partition_key FROM system.tables WHERE database = ");
    sql.text(db.database()).push(" AND name IN ('logs', 'entry_ids', 'packs', 'erasures')");
    let found: Vec<Table> = db.all(&sql).await?;
    for name in TABLES {
        let fault = match found.iter().find(|table| table.name == name) {
            None => Some("it is not there".to_owned()),
            Some(table) => table_fault(table),
        };
        if let Some(fault) = fault {
            return Err(ClickHouseError::Table { name, fault });
        }
    }
    Ok(())
}

/// Whether tokens are obeyed at all. Newer servers have a setting that goes before `insert_deduplicate`, and older ones do not know it, so that it is
/// looked at and not sent.
async fn check_settings(db: &Db) -> Result<(), ClickHouseError> {
    // With a clause of its own: who adds settings to a statement by its text takes the name of the table for one (`engines/clickhouse.py`).
    let off = Sql::new("SELECT count() FROM system.settings WHERE name = 'deduplicate_insert' AND value = 'disable' SETTINGS max_threads = 1");
    match db.one::<u64>(&off).await? {
        0 => Ok(()),
        _ => Err(ClickHouseError::NoDeduplication),
    }
}

fn table_fault(table: &Table) -> Option<String> {
    let order = match table.name.as_str() {
        "logs" => "tenant_id, timestamp, sequence",
        "entry_ids" => "tenant_id, id",
        "packs" => "pack_id",
        _ => "tenant_id, job, what",
    };
    if table.sorting_key != order {
        return Some(format!("its order is `{}` and must be `{order}`", table.sorting_key));
    }
    if table.partition_key != "toYYYYMM(sealed_at)" {
        return Some(format!("its partition key is `{}` and must be `toYYYYMM(sealed_at)`", table.partition_key));
    }
    let window = match table.engine.as_str() {
        "MergeTree" => "non_replicated_deduplication_window",
        engine if engine.ends_with("MergeTree") && (engine.starts_with("Replicated") || engine.starts_with("Shared")) => "replicated_deduplication_window",
        engine => return Some(format!("its engine is `{engine}`; it must be MergeTree, replicated or not")),
    };
    match setting(&table.engine_full, window) {
        Some(width) if width >= LEAST_WINDOW => None,
        // What a server takes when nothing is said has changed between versions, so it has to be said.
        found => Some(format!(
            "its setting `{window}` is {} and must be at least {LEAST_WINDOW}: without it a repeated insert is stored twice",
            found.map_or_else(|| "not set".to_owned(), |width| width.to_string())
        )),
    }
}

/// A number among the settings of an engine, `… SETTINGS a = 1, b = 2`.
fn setting(engine: &str, name: &str) -> Option<u64> {
    let settings = &engine[engine.rfind(" SETTINGS ")? + 10..];
    settings.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(engine: &str, full: &str) -> Table {
        Table {
            name: "packs".into(),
            engine: engine.into(),
            engine_full: full.into(),
            sorting_key: "pack_id".into(),
            partition_key: "toYYYYMM(sealed_at)".into(),
        }
    }

    #[test]
    fn a_table_without_the_window_is_refused() {
        let plain = |settings: &str| table_fault(&table("MergeTree", &format!("MergeTree ORDER BY pack_id{settings}")));
        assert_eq!(plain(" SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000"), None);
        assert_eq!(plain(" SETTINGS non_replicated_deduplication_window = 20000"), None);
        for bad in [
            "",
            " SETTINGS index_granularity = 8192",
            " SETTINGS non_replicated_deduplication_window = 9999",
            " SETTINGS replicated_deduplication_window = 10000",
        ] {
            assert!(plain(bad).is_some_and(|fault| fault.contains("non_replicated_deduplication_window")), "{bad}");
        }
        let replicated = "ReplicatedMergeTree('/a', 'b') ORDER BY pack_id SETTINGS replicated_deduplication_window = 10000";
        assert_eq!(table_fault(&table("ReplicatedMergeTree", replicated)), None);
        assert!(table_fault(&table("ReplacingMergeTree", replicated)).is_some_and(|fault| fault.contains("engine")));
    }

    #[test]
    fn migrations_are_numbered_without_a_hole() {
        assert!(MIGRATIONS.iter().enumerate().all(|(i, migration)| migration.version as usize == i + 1));
    }
}
