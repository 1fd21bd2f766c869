//! What is known about one export job: its record.
//!
//! # Object `exports/<tenant>/<job>.json`, format 2
//!
//! The fields of [`Job`] and `"version": 2`. Times are milliseconds since 1970. It is replaced as a whole, and only by a
//! writer who has read what it replaces. A chunk is part of the export exactly if it is listed here. Format 1 had neither `turns` nor `owner`, and
//! is read.

use super::{ExportError, chunk};
use crate::{
    export::Format,
    model::tenant::{Log, TenantId},
    objects::{Key, Objects, Precondition, Version},
    sinks::Place,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const VERSION: u32 = 2;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits for its first turn.
    Queued,
    /// It has begun.
    Running,
    /// All of it is there.
    Done,
    /// It was given up; `error` says why.
    Failed,
    /// It was cancelled by a caller.
    Cancelled,
}

impl Status {
    /// Whether nothing more will happen to the job but its end.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It makes a file.
    #[default]
    Export,
    /// It copies the tenant's logs from the log of record to the search store. It has no chunks; `place` is the number of the log, 0 or 1, and
    /// how far that is copied.
    Rebuild,
}

/// What is to be exported, in the words of the HTTP contract: those stay readable by every later version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// In which format.
    #[serde(with = "format_name")]
    pub format: Format,
    /// Whether text that a spreadsheet would take for a formula is guarded.
    pub csv_safe: bool,
    /// Names and values of filters, `search`, `sort` and `log`, as in a query string.
    pub query: Vec<(String, String)>,
}

impl Request {
    /// Which of the tenant's logs is to be exported: the parameter `log`.
    pub fn log(&self) -> Log {
        let named = self.query.iter().find(|(name, _)| name == "log");
        named.and_then(|(_, log)| Log::parse(log)).unwrap_or_default()
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    version: u32,
    /// Its id.
    pub id: Uuid,
    /// Whose entries it exports, and who may see it.
    pub tenant: TenantId,
    /// What it does; jobs of older versions make files.
    #[serde(default)]
    pub kind: Kind,
    /// Where it stands.
    pub status: Status,
    /// What is asked for.
    pub request: Request,
    /// Only entries up to this number are in it.
    pub as_of: u64,
    /// When it was asked for.
    pub created_at: i64,
    /// When it ends to exist; set when it is over.
    pub expires_at: Option<i64>,
    /// How many entries matched when it began; `None` while that is not known.
    pub total: Option<u64>,
    /// Entries in the chunks.
    pub rows: u64,
    /// Bytes of the export in each chunk, in order.
    pub chunks: Vec<u64>,
    /// The turn that wrote each chunk, a part of its name; 0, or none, in format 1.
    #[serde(default)]
    pub turns: Vec<u32>,
    /// The process that gives it turns. Whoever takes a job over writes itself here first, so that no turn of another records anything
    /// more.
    #[serde(default)]
    pub owner: Option<Uuid>,
    /// The last entry in the chunks, as (timestamp, sequence): what follows it comes next.
    pub place: Option<(i64, u64)>,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether entries may be missing, because the store could not read all that it has.
    pub degraded: bool,
}

impl Job {
    /// A job that waits.
    pub fn new(tenant: TenantId, request: Request, as_of: u64, now: i64) -> Self {
        Self {
            version: VERSION,
            id: Uuid::now_v7(),
            tenant,
            kind: Kind::Export,
            status: Status::Queued,
            request,
            as_of,
            created_at: now,
            expires_at: None,
            total: None,
            rows: 0,
            chunks: Vec::new(),
            turns: Vec::new(),
            owner: None,
            place: None,
            error: None,
            degraded: false,
        }
    }

    /// A job that copies the tenant's logs to the search store.
    pub fn rebuild(tenant: TenantId, now: i64) -> Self {
        let request = Request {
            format: Format::Ndjson,
            csv_safe: false,
            query: Vec::new(),
        };
        Self {
            kind: Kind::Rebuild,
            ..Self::new(tenant, request, 0, now)
        }
    }

    /// The name of a chunk of it.
    pub fn chunk(&self, number: usize) -> Key {
        chunk::key(&self.tenant, self.id, number, self.turn_of(number))
    }

    /// The turn that wrote a chunk.
    pub fn turn_of(&self, number: usize) -> u32 {
        self.turns.get(number).copied().unwrap_or(0)
    }

    /// One more chunk, of so many bytes, written by this turn.
    pub fn push(&mut self, bytes: u64, turn: u32) {
        self.turns.resize(self.chunks.len(), 0);
        self.chunks.push(bytes);
        self.turns.push(turn);
    }

    /// Size of the export so far, bytes.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().sum()
    }

    /// Which part of it is done, from 0 to 1; `None` while that is not known.
    pub fn progress(&self) -> Option<f64> {
        match (self.status, self.total) {
            (Status::Done, _) => Some(1.0),
            (_, Some(total)) if total > 0 => Some((self.rows as f64 / total as f64).min(1.0)),
            (Status::Queued, _) => Some(0.0),
            _ => None,
        }
    }

    /// Where to go on.
    pub fn after(&self) -> Option<Place> {
        self.place.map(|(timestamp, sequence)| Place { timestamp, sequence })
    }

    /// Whether it has ceased to exist.
    pub fn is_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// The name of a record.
pub fn key(tenant: &TenantId, id: Uuid) -> Key {
    let text = format!("{}/{tenant}/{id}.json", super::FOLDER);
    Key::parse(&text).expect("a slug and a UUID make a name")
}

/// The job in the name of a record; `None` if it is no such name.
pub fn parse(file_name: &str) -> Option<Uuid> {
    Uuid::try_parse(file_name.strip_suffix(".json")?).ok()
}

/// Reads a record; `None` when there is none.
pub async fn read(objects: &dyn Objects, tenant: &TenantId, id: Uuid) -> Result<Option<(Job, Version)>, ExportError> {
    let Some((bytes, version)) = objects.get(&key(tenant, id)).await? else {
        return Ok(None);
    };
    let job: Job = serde_json::from_slice(&bytes).map_err(|e| ExportError::Damaged(e.to_string().into()))?;
    if !(1..=VERSION).contains(&job.version) || job.id != id || job.tenant != *tenant {
        return Err(ExportError::Damaged("it is the record of something else".into()));
    }
    Ok(Some((job, version)))
}

/// Writes a record if what it replaces is still there; `ObjectError::Conflict` if not.
pub async fn write(objects: &dyn Objects, job: &Job, when: Precondition) -> Result<Version, ExportError> {
    let job = &Job {
        version: VERSION,
        ..job.clone()
    };
    let bytes = serde_json::to_vec(job).expect("a record always encodes");
    Ok(objects.put(&key(&job.tenant, job.id), bytes.into(), when).await?)
}

mod format_name {
    use crate::export::Format;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;

    pub fn serialize<S: Serializer>(format: &Format, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(format.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Format, D::Error> {
        let name = <Cow<'de, str>>::deserialize(d)?;
        Format::parse(&name).ok_or_else(|| D::Error::custom("no format of this version"))
    }
}
