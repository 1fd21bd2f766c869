//! Compares what lies in ClickHouse and in OpenSearch, row by row, with each other, with the counters and with what clients were told.

use super::{assert_adds_up, engines::Engines};
use serde_json::Value;
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
