//! Entries for tests.

use serde_json::{Value, json};
use std::path::PathBuf;
use uuid::Uuid;

/// A plain entry with this id.
pub fn entry(id: Uuid, text: &str) -> Value {
    json!({"id": id.to_string(), "action": "CREATE", "resource_type": "invoice", "resource_id": "inv-1", "message": text, "metadata": {"text": text}})
}

/// A bulk of `n` new entries and their ids.
pub fn bulk(n: usize, text: &str) -> (String, Vec<Uuid>) {
    let ids: Vec<Uuid> = (0..n).map(|_| Uuid::new_v4()).collect();
    let entries: Vec<Value> = ids.iter().map(|id| entry(*id, text)).collect();
    (Value::from(entries).to_string(), ids)
}

/// The real CloudTrail file, or `None` with a loud word (an error where `CI` is set).
pub fn cloudtrail() -> Option<PathBuf> {
    let folder = std::env::var("SLUICE_TEST_DATA").unwrap_or_else(|_| "../shared/data".into());
    let path = PathBuf::from(folder).join("cloudtrail.ndjson.gz");
    if path.exists() {
        return Some(std::fs::canonicalize(path).expect("it exists"));
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing; set SLUICE_TEST_DATA", path.display());
    eprintln!("LEFT OUT: {} is missing, set SLUICE_TEST_DATA to run this on real data", path.display());
    None
}
