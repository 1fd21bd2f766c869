//! What can be set for a tenant, and changes of it.

use super::{CatalogError, RateLimit};
use crate::model::{entry::Severity, mask::Mask};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The settings of a tenant. All fields have a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantSettings {
    /// How long entries are kept, days since they were received, from 1 to 36,500.
    pub retention_days: u32,
    /// Severities that are accepted.
    pub log_levels: LogLevels,
    /// Paths and patterns that masked roles do not see.
    pub masking: Masking,
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
            masking: Masking::default(),
            rate_limit: None,
            keep_unknown_fields: false,
            audit_reads: true,
            access_retention_days: 365,
        }
    }
}

/// What masked roles do not see, compiled. In JSON a list of paths and patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Masking(pub Arc<Mask>);

impl Serialize for Masking {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.paths())
    }
}

impl<'de> Deserialize<'de> for Masking {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        masking(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
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
    masking: Option<Masking>,
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

    /// Makes the changes.
    pub(super) fn apply(&self, settings: &mut TenantSettings) {
        if let Some(days) = self.retention_days {
            settings.retention_days = days;
        }
        if let Some(levels) = self.log_levels {
            settings.log_levels = levels;
        }
        if let Some(masking) = &self.masking {
            settings.masking.clone_from(masking);
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

fn masking(value: &Value) -> Result<Masking, String> {
    let path = |v: &Value| v.as_str().map(str::to_owned);
    let paths: Option<Vec<String>> = value.as_array().and_then(|paths| paths.iter().map(path).collect());
    let paths = paths.ok_or_else(|| "must be a list of field paths and patterns".to_owned())?;
    match Mask::compile(&paths) {
        Ok(mask) => Ok(Masking(Arc::new(mask))),
        Err(error) => Err(format!("item {} {}", error.at, error.message)),
    }
}
