//! The setting `rate_limit`: how fast a tenant may write.

use crate::config::nearest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const NAMES: [&str; 3] = ["entries_per_second", "bytes_per_second", "burst"];
/// More than any machine takes; as a JSON number it keeps its digits in every language.
const MOST: u64 = 1 << 53;

/// How fast a tenant may write. What is `None` has no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimit {
    /// Entries, accepted or rejected, in a second; from 1.
    pub entries_per_second: Option<u64>,
    /// Bytes of bodies, decompressed, in a second; from 1.
    pub bytes_per_second: Option<u64>,
    /// Entries that may come at once (bytes, where only these are limited), from 1; `None`: a second's worth.
    pub burst: Option<u64>,
}

impl RateLimit {
    /// Reads the setting; the error says what would be right. `null` is no limit of its own.
    pub(super) fn parse(value: &Value) -> Result<Option<Self>, String> {
        let rule = || "must be null, or an object with `entries_per_second`, `bytes_per_second` and `burst`".to_owned();
        if value.is_null() {
            return Ok(None);
        }
        let mut limit = Self::default();
        for (name, value) in value.as_object().ok_or_else(rule)? {
            let number = match value {
                Value::Null => None,
                value => Some(value.as_u64().filter(|n| (1..=MOST).contains(n)).ok_or_else(|| {
                    let name = NAMES.iter().find(|known| *known == name).unwrap_or(&"a limit");
                    format!("`{name}` must be null or a whole number from 1 to {MOST}")
                })?),
            };
            match name.as_str() {
                "entries_per_second" => limit.entries_per_second = number,
                "bytes_per_second" => limit.bytes_per_second = number,
                "burst" => limit.burst = number,
                unknown => {
                    let near = nearest(unknown, NAMES.into_iter()).unwrap_or(NAMES[0]);
                    return Err(format!("{}; the nearest known name is `{near}`", rule()));
                }
            }
        }
        if limit.burst.is_some() && limit.entries_per_second.is_none() && limit.bytes_per_second.is_none() {
            return Err("`burst` needs `entries_per_second` or `bytes_per_second` beside it".to_owned());
        }
        Ok(Some(limit))
    }
}
