//! Applies seals, and answers the ledger: what the sequencer of one partition asks of ClickHouse.
//!
//! ```text
//! seal n ─▶ logs ─▶ entry_ids ─▶ erasures ─▶ packs          one insert each, of one block, token `partition/n`
//! ```
//!
//! A block is written straight from the records, in RowBinary and LZ4, and sent while it is made. An insert that the server refused
//! is tried again by the sequencer's follower. One whose outcome nobody knows is **counted** first, by its `partition` and `seal`:
//! all rows there = done, none = sent again with the same token, anything else = halt, and somebody has to look. So is a seal that
//! may have been applied before: by the last run, or by somebody who took over while this process stood still. `packs` is written
//! last and no erasure touches it, so all of its rows mean that all of the seal is there, whatever was erased of it since.
//!
//! The ledger obeys erasures: this follower holds the staircases of its partition's tenants, as the table has them, since an erasure is
//! recorded before its seal counts as applied, and nothing is decided in between. It reads them when it is first asked, and what
//! others may have added whenever it does not know that it alone applies seals.

use super::{
    db::{ClickHouseError, ClickHouseSettings, Db, SEND_AT},
    fault, schema,
    sql::{self, Sql},
    sweep::Sweep,
    tenant_of,
};
use crate::{
    model::{
        entry::{ContentHash, EntryRef, Field},
        tenant::TenantId,
    },
    seal::{
        DecidedSeal,
        erasure::{Erasure, ErasureKind, Erasures},
    },
    sinks::{SealFollower, StoreError},
};
use clickhouse::{Row, insert_formatted::BufInsertFormatted};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, time::Instant};
use uuid::Uuid;

/// Ids of one ledger query: its parameters stay below what a server takes for one.
const KEYS_AT_ONCE: usize = 1_500;
/// Ledger queries at a time: the sequencer waits for all of them.
const QUERIES_AT_ONCE: usize = 4;
/// How long it is believed that nobody else has applied seals: less than a lease lasts.
const BELIEVED: Duration = Duration::from_secs(10);
/// How far clocks of owners may differ, milliseconds: seals are looked for by the time of their making, too.
const SKEW_MS: i64 = 600_000;

const LOGS: &str = "logs (tenant_id, sequence, timestamp, received_at, id, client_id, content_hash, severity, actor, action, action_lower, \
    resource_type, resource_type_lower, resource_id, user_id, session_id, request_id, email, ip_address, user_agent, message, before_state, \
    after_state, metadata, `partition`, seal, sealed_at)";
const ENTRY_IDS: &str = "entry_ids (tenant_id, id, content_hash, timestamp, received_at, sequence, `partition`, seal, sealed_at)";
const ERASURES: &str = "erasures (tenant_id, job, what, kind, cutoff, head, rows, `partition`, seal, sealed_at)";
const PACKS: &str = "packs (pack_id, tenant_id, `partition`, seal, sealed_at)";

/// The follower of one partition. Its methods block.
pub struct ClickHouseFollower {
    db: Db,
    partition: u32,
    runtime: Handle,
    state: Mutex<State>,
    erasures: Mutex<Hidden>,
    applied: watch::Sender<u64>,
    sweep: Sweep,
}

#[derive(Default)]
struct State {
    /// Seals up to this one may be there: it is counted before anything is sent.
    maybe: u64,
    /// When `maybe` was asked for.
    asked: Option<Instant>,
    /// Seals below this one are known to be applied.
    done: u64,
}

/// What is erased of the partition's tenants.
#[derive(Default)]
struct Hidden {
    all: HashMap<TenantId, Erasures>,
    /// The largest seal of which the table's erasures were read.
    upto: u64,
    /// When the table was asked.
    asked: Option<Instant>,
}

/// A table as a seal fills it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Logs,
    EntryIds,
    Erasures,
    Packs,
}

impl Table {
    const ORDER: [Self; 4] = [Self::Logs, Self::EntryIds, Self::Erasures, Self::Packs];

    fn into(self) -> &'static str {
        match self {
            Self::Logs => LOGS,
            Self::EntryIds => ENTRY_IDS,
            Self::Erasures => ERASURES,
            Self::Packs => PACKS,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::EntryIds => "entry_ids",
            Self::Erasures => "erasures",
            Self::Packs => "packs",
        }
    }

    /// How many rows of it the seal has.
    fn rows(self, sealed: &DecidedSeal) -> u64 {
        let seal = &sealed.seal;
        match self {
            Self::Logs | Self::EntryIds => seal.tenants.iter().map(|tenant| tenant.stored).sum(),
            Self::Erasures => (seal.erasures.len() + seal.removed.len()) as u64,
            Self::Packs => (seal.packs.len() + seal.erasures.len()) as u64,
        }
    }
}

#[derive(Row, Deserialize)]
struct Step {
    tenant: String,
    retention: bool,
    cutoff: i64,
    head: u64,
    seal: u64,
}

#[derive(Row, Deserialize)]
struct Known {
    at: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    id: Uuid,
    content_hash: u128,
    time: i64,
    received: i64,
    sequence: u64,
}

impl ClickHouseFollower {
    /// Connects as [`ClickHouse::connect`](super::ClickHouse::connect) does. The
    /// other methods run their requests on `runtime` and must not be called from one of its tasks. Rows that are erased
    /// and counted are deleted in the background until this is dropped.
    pub async fn start(settings: &ClickHouseSettings, partition: u32, runtime: Handle) -> Result<Self, ClickHouseError> {
        let db = Db::new(settings)?;
        schema::migrate(&db).await?;
        Ok(Self {
            sweep: Sweep::start(db.clone(), partition, &runtime),
            db,
            partition,
            runtime,
            state: Mutex::default(),
            erasures: Mutex::default(),
            applied: watch::Sender::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn erasures(&self) -> MutexGuard<'_, Hidden> {
        self.erasures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As if it had stood still for so long that it knows nothing of others any more.
    #[cfg(test)]
    pub(super) fn stand_still(&self) {
        let long_ago = Instant::now().checked_sub(BELIEVED);
        self.state().asked = long_ago;
        self.erasures().asked = long_ago;
    }

    /// Reads the erasures that the table has and this follower may not have seen.
    async fn refresh(&self) -> Result<(), StoreError> {
        let (asked, upto) = {
            let hidden = self.erasures();
            (hidden.asked, hidden.upto)
        };
        if asked.is_some_and(|asked| asked.elapsed() < BELIEVED) {
            return Ok(());
        }
        let now = Instant::now();
        let mut sql = Sql::new(
            "SELECT CAST(tenant_id, 'String') AS tenant, kind = 'retention' AS retention, cutoff, head, seal FROM erasures WHERE what = 'erased' AND `partition` = ",
        );
        sql.number(u64::from(self.partition)).push(" AND seal > ").number(upto).push(" ORDER BY seal");
        let steps: Vec<Step> = self.db.all(&sql).await.map_err(|error| fault::read_failed(&error))?;
        let mut hidden = self.erasures();
        for step in steps {
            let tenant = tenant_of(&step.tenant)?;
            let kind = if step.retention { ErasureKind::Retention } else { ErasureKind::Cleanup };
            hide(hidden.all.entry(tenant).or_default(), kind, step.cutoff, step.head);
            hidden.upto = hidden.upto.max(step.seal);
        }
        hidden.asked = Some(now);
        Ok(())
    }

    /// The seal in every table that it has rows of.
    async fn write(&self, sealed: &DecidedSeal) -> Result<(), StoreError> {
        let n = sealed.seal.n;
        let believed = self.state().asked.is_some_and(|asked| asked.elapsed() < BELIEVED);
        if !believed {
            let largest = self.largest(sealed).await?;
            let mut state = self.state();
            state.maybe = state.maybe.max(largest);
            state.asked = Some(Instant::now());
        }
        let doubtful = n <= self.state().maybe;
        if doubtful && self.is_there(Table::Packs, sealed).await? {
            return Ok(());
        }
        for table in Table::ORDER {
            if table.rows(sealed) == 0 || (doubtful && self.is_there(table, sealed).await?) {
                continue;
            }
            self.send(table, sealed).await?;
        }
        Ok(())
    }

    /// The largest seal of the partition that any table has, as far as it was made at about the time of this one or later.
    async fn largest(&self, sealed: &DecidedSeal) -> Result<u64, StoreError> {
        let mut sql = Sql::new("SELECT max(seal) FROM (");
        sql.list(" UNION ALL ", Table::ORDER, |sql, table| {
            sql.push("SELECT max(seal) AS seal FROM ").push(table.name()).push(" WHERE `partition` = ");
            sql.number(u64::from(self.partition)).push(" AND ");
            sql.since("sealed_at", sealed.seal.sealed_at.saturating_sub(SKEW_MS));
        });
        sql.push(")");
        self.db.one(&sql).await.map_err(|error| fault::read_failed(&error))
    }

    /// Whether all rows of the seal are in the table; false if none is or it has none. Some of them: it must not go on.
    async fn is_there(&self, table: Table, sealed: &DecidedSeal) -> Result<bool, StoreError> {
        let expected = table.rows(sealed);
        if expected == 0 {
            return Ok(false);
        }
        let mut sql = Sql::new("SELECT count() FROM ");
        sql.push(table.name()).push(" WHERE `partition` = ").number(u64::from(self.partition));
        sql.push(" AND seal = ").number(sealed.seal.n).push(" AND ");
        sql.time_is("sealed_at", sealed.seal.sealed_at);
        match self.db.one::<u64>(&sql).await.map_err(|error| fault::read_failed(&error))? {
            0 => Ok(false),
            found if found == expected => Ok(true),
            found => {
                let (table, seal) = (table.name(), sealed.seal.n);
                tracing::error!(
                    table,
                    seal,
                    found,
                    expected,
                    "ClickHouse has some rows of a seal and not all: nothing more is applied until somebody has looked"
                );
                let what = format!("ClickHouse has {found} of {expected} rows of seal {seal} in `{table}`");
                Err(StoreError::Damaged(what.into()))
            }
        }
    }

    /// Inserts the rows of one table.
    async fn send(&self, table: Table, sealed: &DecidedSeal) -> Result<(), StoreError> {
        let token = format!("{}/{}", self.partition, sealed.seal.n);
        let mut insert = self.db.insert(table.into(), &token);
        let mark = Mark::new(self.partition, sealed);
        let done = match table {
            Table::Logs => logs(&mut insert, sealed, &mark).await,
            Table::EntryIds => entry_ids(&mut insert, sealed, &mark).await,
            Table::Erasures => erasures(&mut insert, sealed, &mark),
            Table::Packs => packs(&mut insert, sealed, &mark).await,
        };
        let done = match done {
            Ok(()) => insert.end().await,
            Err(error) => Err(error),
        };
        done.map_err(|error| {
            if fault::is_doubtful(&error) {
                let mut state = self.state();
                state.maybe = state.maybe.max(sealed.seal.n);
            }
            fault::unavailable(&format!(", insert into `{}`", table.name()), &error)
        })
    }

    /// What of the keys has a row, by its place among them, by the erasures that were read last. Several rows of an id are there if earlier ones are erased.
    async fn known(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        let mut tenants: Vec<&TenantId> = keys.iter().map(|(tenant, _)| tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let ids: Vec<Uuid> = keys.iter().map(|(_, id)| *id).collect();
        let of = |tenant: &TenantId| tenants.binary_search(&tenant).unwrap_or_default();
        let places: Vec<u64> = keys.iter().map(|(tenant, _)| of(tenant) as u64 + 1).collect();
        let name = |sql: &mut Sql| {
            sql.push("[").list(", ", &tenants, |sql, tenant| {
                sql.text(tenant.as_str());
            });
            sql.push("]");
        };
        let mut sql = Sql::new("SELECT toUInt32(indexOf(");
        name(&mut sql);
        sql.push(
            ", CAST(tenant_id, 'String'))) AS at, id, content_hash, toUnixTimestamp64Milli(timestamp) AS time, \
            toUnixTimestamp64Milli(received_at) AS received, sequence FROM entry_ids WHERE tenant_id IN ",
        );
        name(&mut sql);
        sql.push(" AND (tenant_id, id) IN (SELECT ");
        name(&mut sql);
        sql.push("[z.1], z.2 FROM (SELECT arrayJoin(arrayZip(")
            .numbers(&places)
            .push(", ")
            .uuids(&ids)
            .push(")) AS z))");
        let rows: Vec<Known> = self.db.all(&sql).await.map_err(|error| fault::read_failed(&error))?;
        let erasures = self.erasures();
        let mut hashes: HashMap<(&TenantId, Uuid), ContentHash> = HashMap::new();
        for row in rows {
            let Some(tenant) = (row.at as usize).checked_sub(1).and_then(|at| tenants.get(at)) else {
                continue;
            };
            let gone = erasures.all.get(*tenant).is_some_and(|all| all.covers(row.time, row.received, row.sequence));
            if !gone {
                hashes.insert((tenant, row.id), row.content_hash);
            }
        }
        Ok(keys.iter().map(|(tenant, id)| hashes.get(&(tenant, *id)).copied()).collect())
    }

    /// Notes what the seal erases, once the table has it.
    fn note(&self, sealed: &DecidedSeal) {
        let mut hidden = self.erasures();
        for erased in &sealed.seal.erasures {
            let Erasure { kind, cutoff, head, .. } = erased.erasure;
            let tenant = sealed.seal.tenants[erased.tenant as usize].tenant.clone();
            hide(hidden.all.entry(tenant).or_default(), kind, cutoff, head);
        }
    }
}

/// Adds a step to what is hidden. Whether it was counted is of no account here.
fn hide(all: &mut Erasures, kind: ErasureKind, cutoff: i64, head: u64) {
    let job = Uuid::nil();
    all.add(&Erasure { job, kind, cutoff, head });
    all.settle(job);
}

impl SealFollower for ClickHouseFollower {
    fn apply(&self, sealed: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        let n = sealed.seal.n;
        if n <= self.state().done {
            return Ok(());
        }
        self.runtime.block_on(self.write(sealed))?;
        self.note(sealed);
        self.state().done = n;
        self.applied.send_replace(n);
        if !sealed.seal.removed.is_empty() {
            self.sweep.wake();
        }
        Ok(())
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        let look_up = async {
            self.refresh().await?;
            let asked = stream::iter(keys.chunks(KEYS_AT_ONCE)).map(|keys| self.known(keys));
            asked.buffered(QUERIES_AT_ONCE).try_collect::<Vec<_>>().await
        };
        Ok(self.runtime.block_on(look_up)?.concat())
    }

    fn lookup_packs(&self, packs: &[Uuid]) -> Result<Vec<bool>, StoreError> {
        let mut known = Vec::with_capacity(packs.len());
        for ids in packs.chunks(KEYS_AT_ONCE) {
            let mut sql = Sql::new("SELECT DISTINCT pack_id FROM packs WHERE pack_id IN ");
            sql.uuids(ids);
            let found: Vec<Name> = self.runtime.block_on(self.db.all(&sql)).map_err(|error| fault::read_failed(&error))?;
            let found: HashSet<Uuid> = found.into_iter().map(|name| name.pack_id).collect();
            known.extend(ids.iter().map(|id| found.contains(id)));
        }
        Ok(known)
    }

    fn trimmable(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}

#[derive(Row, Deserialize)]
struct Name {
    #[serde(with = "clickhouse::serde::uuid")]
    pack_id: Uuid,
}

type Sent = clickhouse::error::Result<()>;

/// The last three columns of every row: partition, seal, time of sealing.
struct Mark([u8; 20]);

impl Mark {
    fn new(partition: u32, sealed: &DecidedSeal) -> Self {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&partition.to_le_bytes());
        bytes[4..12].copy_from_slice(&sealed.seal.n.to_le_bytes());
        bytes[12..].copy_from_slice(&sql::stored_time(sealed.seal.sealed_at).to_le_bytes());
        Self(bytes)
    }
}

/// Sends what has gathered, when it is enough for a frame.
async fn pass_on(insert: &mut BufInsertFormatted) -> Sent {
    if insert.buf_len() >= SEND_AT { insert.flush().await } else { Ok(()) }
}

async fn logs(insert: &mut BufInsertFormatted, sealed: &DecidedSeal, mark: &Mark) -> Sent {
    let mut row = Vec::with_capacity(4096);
    for decided in sealed.entries() {
        let Some(sequence) = decided.sequence else { continue };
        row.clear();
        let header = decided.pack.header();
        put_text(&mut row, header.tenant.as_str());
        row.extend_from_slice(&sequence.to_le_bytes());
        put_entry(&mut row, &decided.entry, header.received_at, &header.actor);
        row.extend_from_slice(&mark.0);
        insert.write_buffered(&row);
        pass_on(insert).await?;
    }
    Ok(())
}

/// The columns from `timestamp` to `metadata`.
fn put_entry(row: &mut Vec<u8>, entry: &EntryRef<'_>, received_at: i64, actor: &str) {
    let texts = entry.texts();
    row.extend_from_slice(&sql::stored_time(entry.timestamp()).to_le_bytes());
    row.extend_from_slice(&sql::stored_time(received_at).to_le_bytes());
    put_uuid(row, entry.id());
    row.push(u8::from(entry.client_id()));
    row.extend_from_slice(&entry.hash().to_le_bytes());
    row.push(entry.severity() as u8);
    put_text(row, actor);
    for field in [Field::Action, Field::ResourceType] {
        let text = texts[field as usize].unwrap_or_default();
        put_text(row, text);
        put_lower(row, text);
    }
    put_text(row, texts[Field::ResourceId as usize].unwrap_or_default());
    for field in &Field::ALL[Field::UserId as usize..] {
        match field {
            Field::IpAddress => put_optional(row, entry.ip().map(|ip| ip.to_string()).as_deref()),
            field => put_optional(row, texts[*field as usize]),
        }
    }
}

async fn entry_ids(insert: &mut BufInsertFormatted, sealed: &DecidedSeal, mark: &Mark) -> Sent {
    let mut row = Vec::with_capacity(160);
    for decided in sealed.entries() {
        let Some(sequence) = decided.sequence else { continue };
        row.clear();
        let header = decided.pack.header();
        put_text(&mut row, header.tenant.as_str());
        put_uuid(&mut row, decided.entry.id());
        row.extend_from_slice(&decided.entry.hash().to_le_bytes());
        row.extend_from_slice(&sql::stored_time(decided.entry.timestamp()).to_le_bytes());
        row.extend_from_slice(&sql::stored_time(header.received_at).to_le_bytes());
        row.extend_from_slice(&sequence.to_le_bytes());
        row.extend_from_slice(&mark.0);
        insert.write_buffered(&row);
        pass_on(insert).await?;
    }
    Ok(())
}

/// Erasures and their results are few.
fn erasures(insert: &mut BufInsertFormatted, sealed: &DecidedSeal, mark: &Mark) -> Sent {
    let mut put = |tenant: u32, job: Uuid, what: u8, kind: u8, numbers: (i64, u64, u64)| {
        let mut row = Vec::with_capacity(160);
        put_text(&mut row, sealed.seal.tenants[tenant as usize].tenant.as_str());
        put_uuid(&mut row, job);
        row.extend_from_slice(&[what, kind]);
        row.extend_from_slice(&numbers.0.to_le_bytes());
        row.extend_from_slice(&numbers.1.to_le_bytes());
        row.extend_from_slice(&numbers.2.to_le_bytes());
        row.extend_from_slice(&mark.0);
        insert.write_buffered(&row);
    };
    for erased in &sealed.seal.erasures {
        let Erasure { job, kind, cutoff, head } = erased.erasure;
        put(erased.tenant, job, 1, kind as u8, (cutoff, head, 0));
    }
    for removed in &sealed.seal.removed {
        put(removed.tenant, removed.job, 2, 0, (0, 0, removed.rows));
    }
    Ok(())
}

async fn packs(insert: &mut BufInsertFormatted, sealed: &DecidedSeal, mark: &Mark) -> Sent {
    let seal = &sealed.seal;
    let names = seal.packs.iter().map(|pack| (pack.pack_id, pack.tenant));
    let jobs = seal.erasures.iter().map(|erased| (erased.erasure.job, erased.tenant));
    let mut row = Vec::with_capacity(128);
    for (name, tenant) in names.chain(jobs) {
        row.clear();
        put_uuid(&mut row, name);
        put_text(&mut row, seal.tenants[tenant as usize].tenant.as_str());
        row.extend_from_slice(&mark.0);
        insert.write_buffered(&row);
        pass_on(insert).await?;
    }
    Ok(())
}

/// A length (LEB128) and the bytes.
fn put_text(row: &mut Vec<u8>, text: &str) {
    let mut len = text.len();
    while len >= 0x80 {
        row.push(len as u8 | 0x80);
        len >>= 7;
    }
    row.push(len as u8);
    row.extend_from_slice(text.as_bytes());
}

/// The text in lower case, as filters compare it.
fn put_lower(row: &mut Vec<u8>, text: &str) {
    if text.is_ascii() {
        put_text(row, text);
        let start = row.len() - text.len();
        row[start..].make_ascii_lowercase();
    } else {
        put_text(row, &text.to_lowercase());
    }
}

fn put_optional(row: &mut Vec<u8>, text: Option<&str>) {
    row.push(u8::from(text.is_none()));
    if let Some(text) = text {
        put_text(row, text);
    }
}

/// Two little-endian halves, the upper one first.
fn put_uuid(row: &mut Vec<u8>, id: Uuid) {
    let (high, low) = id.as_u64_pair();
    row.extend_from_slice(&high.to_le_bytes());
    row.extend_from_slice(&low.to_le_bytes());
}
