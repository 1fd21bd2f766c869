//! Compares what lies in ClickHouse and in OpenSearch, row by row, with each other, with the counters and with what clients were told.

use super::{assert_adds_up, engines::Engines};
use serde_json::Value;
use sluice::queue::{
    Found,
    seals::{Seals, SealsSettings},
};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// A row, as far as both stores tell it.
type Row = (Uuid, String, Option<String>);

/// What one tenant's clients sent, and what they were told.
#[derive(Default)]
pub struct Sent {
    /// Ids that were sent, answered or not.
    pub tried: HashSet<Uuid>,
    /// Ids that were acknowledged.
    pub acked: HashSet<Uuid>,
}

/// Rows of one log by their numbers.
type Rows = BTreeMap<u64, Row>;

fn row(at: &Value) -> (String, u64, Row) {
    let number = at["sequence"].as_u64().or_else(|| at["sequence"].as_str().and_then(|n| n.parse().ok()));
    let text = |key: &str| at[key].as_str().map(str::to_owned);
    let id = at["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let row = (id, text("action").expect("an action"), text("message"));
    (text("tenant_id").expect("a tenant"), number.expect("a number"), row)
}

fn by_tenant(store: &str, rows: impl Iterator<Item = Value>) -> BTreeMap<String, Rows> {
    let mut all: BTreeMap<String, Rows> = BTreeMap::new();
    for one in rows {
        let (tenant, number, row) = row(&one);
        let before = all.entry(tenant.clone()).or_default().insert(number, row);
        assert!(before.is_none(), "{store}: number {number} of {tenant} twice");
    }
    all
}

/// Every row of ClickHouse, by log and number; a number that is there twice is a panic.
pub async fn in_clickhouse(engines: &Engines, database: &str) -> Result<BTreeMap<String, Rows>, String> {
    let rows = engines
        .clickhouse(&format!("SELECT tenant_id, sequence, toString(id) AS id, action, message FROM {database}.logs"))
        .await?;
    Ok(by_tenant("ClickHouse", rows.into_iter()))
}

/// The same of OpenSearch.
pub async fn in_opensearch(engines: &Engines, prefix: &str) -> Result<BTreeMap<String, Rows>, String> {
    let documents = engines.documents(&format!("{prefix}-logs")).await?;
    for document in &documents {
        let (source, id) = (&document["_source"], document["_id"].as_str().expect("an id"));
        let named = format!("{}:{}", source["tenant_id"].as_str().expect("a tenant"), source["sequence"]);
        assert_eq!(id, named, "`_id` must tell the row");
    }
    Ok(by_tenant("OpenSearch", documents.into_iter().map(|mut document| document["_source"].take())))
}

/// The first difference of two stores in one tenant's log.
pub fn difference(clickhouse: &BTreeMap<String, Rows>, opensearch: &BTreeMap<String, Rows>, tenant: &str) -> Option<String> {
    let nothing = Rows::new();
    let (left, right) = (clickhouse.get(tenant).unwrap_or(&nothing), opensearch.get(tenant).unwrap_or(&nothing));
    let differs = left.keys().chain(right.keys()).find(|number| left.get(number) != right.get(number))?;
    Some(format!(
        "{tenant} {differs}: ClickHouse {:?}, OpenSearch {:?}",
        left.get(differs),
        right.get(differs)
    ))
}

/// One tenant's rows against what its clients know and its counters say. Panics at the first lie.
pub fn check(tenant: &str, rows: &Rows, sent: &Sent, usage: &Value) {
    assert_adds_up(usage);
    assert_eq!(usage["stored"].as_u64(), Some(rows.len() as u64), "{tenant}: {usage}");
    assert!(rows.keys().copied().eq(1..=rows.len() as u64), "{tenant}: a hole in the numbers");
    let mut by_id: HashMap<Uuid, u64> = HashMap::new();
    for (number, (id, ..)) in rows {
        let before = by_id.insert(*id, *number);
        assert_eq!(before, None, "{tenant}: {id} twice, and as {number}");
    }
    let lost = sent.acked.iter().filter(|id| !by_id.contains_key(id)).count();
    assert_eq!(lost, 0, "{tenant}: {lost} acknowledged entries are lost");
    let foreign = by_id.keys().filter(|id| !sent.tried.contains(id)).count();
    assert_eq!(foreign, 0, "{tenant}: {foreign} entries that nobody sent");
}

/// What ClickHouse keeps beside the rows: each pack is decided by one seal, the ledger names exactly the rows, numbers grow with the seals.
pub async fn check_ledger(engines: &Engines, database: &str) {
    for (what, statement) in [
        (
            "a pack in two seals",
            format!("SELECT pack_id FROM {database}.packs GROUP BY pack_id HAVING uniqExact(seal) > 1 OR count() > 1"),
        ),
        (
            "a row that the ledger does not know, or the other way round",
            format!(
                "SELECT tenant_id, sequence, id, sum(side) AS sides FROM (SELECT tenant_id, sequence, id, seal, 1 AS side FROM {database}.logs \
                 UNION ALL SELECT tenant_id, sequence, id, seal, -1 AS side FROM {database}.entry_ids) GROUP BY tenant_id, sequence, id, seal HAVING sides != 0"
            ),
        ),
        (
            "a later number in an earlier seal",
            format!(
                "SELECT tenant_id, seal, least FROM (SELECT tenant_id, seal, min(sequence) AS least, max(sequence) AS most, \
                 lagInFrame(most, 1, 0) OVER (PARTITION BY tenant_id ORDER BY seal ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before \
                 FROM {database}.logs GROUP BY tenant_id, seal) WHERE least <= before"
            ),
        ),
    ] {
        let wrong = engines.clickhouse(&statement).await.expect("ClickHouse answers");
        assert!(wrong.is_empty(), "{what}: {:?}", &wrong[..wrong.len().min(5)]);
    }
}

/// The seals that are not trimmed yet, against the rows: each numbered entry of a seal is the row of that number, written by that seal;
/// the chain of checksums is whole. How many rows were compared.
pub async fn check_seals(engines: &Engines, name: &str, partitions: u32) -> usize {
    let mut rows: HashMap<(String, u64), (Uuid, u64, u64)> = HashMap::new();
    let found = engines
        .clickhouse(&format!("SELECT tenant_id, sequence, toString(id) AS id, partition, seal FROM {name}.logs"))
        .await
        .expect("ClickHouse answers");
    for row in found {
        let number = |key: &str| row[key].as_u64().or_else(|| row[key].as_str()?.parse().ok()).expect("a number");
        let id = row["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let tenant = row["tenant_id"].as_str().expect("a tenant").to_owned();
        rows.insert((tenant, number("sequence")), (id, number("partition"), number("seal")));
    }
    let mut compared = 0;
    for p in 0..partitions {
        let seals = Seals::open(engines.objects(name), p, SealsSettings::default());
        let (mut n, mut crc) = (seals.floor().await.expect("readable") + 1, None);
        while let Found::Seal(decided) = seals.find(n).await.expect("readable") {
            assert!(
                crc.is_none_or(|crc| crc == decided.seal.previous_crc),
                "partition {p}: seal {n} does not follow"
            );
            crc = Some(decided.crc);
            for entry in decided.entries() {
                let Some(sequence) = entry.sequence else { continue };
                let tenant = entry.pack.header().tenant.as_str().to_owned();
                let row = rows.get(&(tenant.clone(), sequence));
                let want = (entry.entry.id(), u64::from(p), n);
                assert_eq!(row, Some(&want), "{tenant} {sequence}");
                compared += 1;
            }
            n += 1;
        }
    }
    compared
}
