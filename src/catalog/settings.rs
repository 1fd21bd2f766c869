//! What can be set for a tenant, and changes of it.
//!
//! A setting of the contract that this version does not act on yet can only be set to its default: it is never stored and
//! ignored.

use super::{CatalogError, RateLimit};
use crate::model::entry::Severity;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The settings of a tenant. All fields have a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantSettings {
    /// How long entries are kept, days since they were received, from 1 to 36,500.
    pub retention_days: u32,
    /// Severities that are accepted.
    pub log_levels: LogLevels,
    /// Paths and patterns that masked roles do not see.
    pub masking: Vec<String>,
    /// Limits of intake; `None`: those of the configuration.
    pub rate_limit: Option<RateLimit>,
    /// Whether unknown fields of an entry move into its metadata, instead of being an error.
    pub keep_unknown_fields: bool,
    /// Whether reads are entries of the access log.
    pub audit_reads: bool,
    /// How long the access log is kept, days.
    pub access_retention_days: u32,
}

impl Default for TenantSettings {
    fn default() -> Self {
        Self {
            retention_days: 90,
            log_levels: LogLevels([true; 4]),
            masking: Vec::new(),
            rate_limit: None,
            keep_unknown_fields: false,
            audit_reads: true,
            access_retention_days: 365,
        }
    }
}

/// Which severities are accepted, by `Severity as usize`. In JSON a list of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevels(pub [bool; 4]);

impl Serialize for LogLevels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(Severity::ALL.into_iter().filter(|s| self.0[*s as usize]).map(Severity::as_str))
    }
}

impl<'de> Deserialize<'de> for LogLevels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        log_levels(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Checked changes of some settings. The empty patch changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SettingsPatch {
    retention_days: Option<u32>,
    log_levels: Option<LogLevels>,
    masking: Option<Vec<String>>,
    rate_limit: Option<Option<RateLimit>>,
    keep_unknown_fields: Option<bool>,
    audit_reads: Option<bool>,
    access_retention_days: Option<u32>,
}

impl SettingsPatch {
    /// Reads the `settings` object of a request. An unknown setting or a bad value is [`CatalogError::Invalid`].
    pub fn parse(settings: &Map<String, Value>) -> Result<Self, CatalogError> {
        let mut patch = Self::default();
        for (name, value) in settings {
            patch.set(name, value).map_err(|message| CatalogError::Invalid {
                field: format!("settings.{name}"),
                message,
            })?;
        }
        Ok(patch)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "retention_days" => self.retention_days = Some(days(value)?),
            "log_levels" => self.log_levels = Some(log_levels(value)?),
            "masking" => self.masking = Some(masking(value)?),
            "rate_limit" => self.rate_limit = Some(RateLimit::parse(value)?),
            "keep_unknown_fields" => self.keep_unknown_fields = Some(boolean(value)?),
            "audit_reads" => self.audit_reads = Some(boolean(value)?),
            "access_retention_days" => self.access_retention_days = Some(days(value)?),
            _ => {
                return Err(
                    "there is no such setting; there are `retention_days`, `log_levels`, `masking`, `rate_limit`, `keep_unknown_fields`, `audit_reads` and \
                     `access_retention_days`"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Makes the changes. What this version would store and ignore is refused, unless it is the default.
    pub(super) fn apply(&self, settings: &mut TenantSettings) -> Result<(), CatalogError> {
        let default = TenantSettings::default();
        let unbuilt = [("masking", self.masking.as_ref().is_some_and(|v| *v != default.masking))];
        if let Some((name, _)) = unbuilt.iter().find(|(_, differs)| *differs) {
            return Err(CatalogError::NotImplemented(format!("settings.{name}")));
        }
        if let Some(days) = self.retention_days {
            settings.retention_days = days;
        }
        if let Some(levels) = self.log_levels {
            settings.log_levels = levels;
        }
        if let Some(limit) = self.rate_limit {
            settings.rate_limit = limit;
        }
        if let Some(keep) = self.keep_unknown_fields {
            settings.keep_unknown_fields = keep;
        }
        if let Some(audit) = self.audit_reads {
            settings.audit_reads = audit;
        }
        if let Some(days) = self.access_retention_days {
            settings.access_retention_days = days;
        }
        Ok(())
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".to_owned())
}

fn days(value: &Value) -> Result<u32, String> {
    // A hundred years: beyond, "for ever" is meant, and sums of dates would leave the calendar.
    let days = value.as_u64().filter(|days| (1..=36_500).contains(days));
    days.map(|days| days as u32)
        .ok_or_else(|| "must be a whole number of days from 1 to 36500".to_owned())
}

fn log_levels(value: &Value) -> Result<LogLevels, String> {
    let rule = || "must be a list of at least one of `INFO`, `WARNING`, `ERROR`, `CRITICAL`".to_owned();
    let mut levels = [false; 4];
    for name in value.as_array().ok_or_else(rule)? {
        levels[name.as_str().and_then(Severity::parse).ok_or_else(rule)? as usize] = true;
    }
    if levels == [false; 4] {
        return Err(rule());
    }
    Ok(LogLevels(levels))
}

fn masking(value: &Value) -> Result<Vec<String>, String> {
    let path = |v: &Value| v.as_str().filter(|path| !path.is_empty()).map(str::to_owned);
    let paths = value.as_array().and_then(|paths| paths.iter().map(path).collect());
    paths.ok_or_else(|| "must be a list of field paths and patterns".to_owned())
}
