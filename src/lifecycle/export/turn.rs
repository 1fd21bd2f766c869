//! One turn of a job: its next chunk, and the record that makes the chunk part of the export.

use super::{
    ExportError, Inner, chunk,
    job::{self, Job, Kind, Status},
    rebuild,
};
use crate::{
    export::{Encoder, Source},
    model::{filter::Filter, tenant::TenantScope},
    objects::{ObjectError, Precondition, Version},
    sinks::{Count, ListQuery, StoreError},
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How a turn ended.
#[derive(Debug)]
pub enum Step {
    /// There is more to do.
    More,
    /// Nothing is left to do, in this turn or before it.
    Over(Box<Job>),
    /// There is no such job any more.
    Gone,
    /// Another process has taken it over.
    Theirs,
}

/// Why a turn achieved nothing. What was durable before it still stands.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The job or the process is to stop.
    #[error("stopped")]
    Stopped,
    /// The entries cannot be read.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The export cannot be written, or its record not read.
    #[error("{0}")]
    Export(#[from] ExportError),
    /// The request is none that this version understands.
    #[error("the request is not understood by this version: {0}")]
    Request(String),
    /// The work was not done: a mistake of the program.
    #[error("a mistake of the server; its log says more")]
    Panic,
}

impl Fault {
    /// How long it is tried again before the job is given up.
    pub fn patience(&self) -> Duration {
        const FOR_EVER: Duration = Duration::MAX;
        match self {
            Self::Stopped | Self::Store(StoreError::Starting) => FOR_EVER,
            Self::Store(StoreError::Busy | StoreError::Behind | StoreError::Unavailable { .. }) | Self::Export(_) => Duration::from_secs(600),
            Self::Store(StoreError::Deadline | StoreError::Damaged(_) | StoreError::BadPart { .. } | StoreError::Io(_)) => Duration::from_secs(60),
            Self::Store(StoreError::TooManyGroups | StoreError::TooManyBuckets { .. }) | Self::Request(_) | Self::Panic => Duration::ZERO,
        }
    }
}

impl From<ObjectError> for Fault {
    fn from(error: ObjectError) -> Self {
        Self::Export(error.into())
    }
}

/// Does it. Dropping the future loses the turn and nothing else.
pub async fn turn(inner: &Inner, scope: &TenantScope, id: uuid::Uuid, stop: &CancellationToken) -> Result<Step, Fault> {
    let objects = &*inner.parts.objects;
    let Some((mut job, mut version)) = job::read(objects, scope.tenant(), id).await? else {
        return Ok(Step::Gone);
    };
    if job.status.is_over() {
        return Ok(Step::Over(Box::new(job)));
    }
    if inner.shared && job.owner.is_some_and(|owner| owner != inner.me) {
        return Ok(Step::Theirs);
    }
    if job.kind == Kind::Rebuild {
        return rebuild::turn(inner, scope, job, version, stop).await;
    }
    inner.check_room()?;
    // What it reads may be the other log of the tenant that it belongs to.
    let read = TenantScope::new(job.request.log().of(scope.tenant()));
    let (filter, sort) = (inner.parts.compile)(&job.request.query).map_err(Fault::Request)?;
    if job.status == Status::Queued {
        job.owner = Some(inner.me);
        (job.status, job.total) = (Status::Running, unless(stop, count(inner, &read, &filter, job.as_of)).await?);
        version = match record(inner, &job, version).await? {
            Some(version) => version,
            None => return Ok(Step::More), // somebody changed it: look again
        };
    }
    let source = Source::new(inner.parts.authority.clone(), read, filter, sort)
        .resumed(Some(job.as_of), job.after())
        .in_portions_of(inner.settings.portion);
    let filled = unless(stop, fill(inner, &job, source)).await?;
    let (number, turn) = (job.chunks.len(), rand::random::<u32>().max(1));
    if !filled.bytes.is_empty() {
        job.push(filled.bytes.len() as u64, turn);
        let stored = chunk::encode(id, number, filled.bytes);
        objects.put(&chunk::key(scope.tenant(), id, number, turn), stored, Precondition::Any).await?;
    }
    job.degraded |= filled.source.degraded();
    (job.rows, job.place) = (filled.rows, filled.source.after().map(|p| (p.timestamp, p.sequence)));
    if filled.ended {
        (job.status, job.expires_at) = (Status::Done, Some(inner.expiry()));
    }
    match record(inner, &job, version).await? {
        Some(_) if filled.ended => Ok(Step::Over(Box::new(job))),
        Some(_) => Ok(Step::More),
        None => {
            // The job was ended or taken over by somebody else, whose deletion may have come before the chunk.
            objects.delete(&chunk::key(scope.tenant(), id, number, turn)).await?;
            Ok(Step::More)
        }
    }
}

/// Reading, which ends early when it is told to. Writing does not.
pub async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Fault::Stopped),
        done = work => done,
    }
}

/// What is to become a chunk.
struct Filled {
    bytes: Vec<u8>,
    /// Entries of the export up to its end.
    rows: u64,
    source: Source,
    ended: bool,
}

/// Reads and encodes the next chunk: whole portions of the source, so that none has to be read twice.
async fn fill(inner: &Inner, job: &Job, mut source: Source) -> Result<Filled, Fault> {
    let mut encoder = Encoder::resumed(job.request.format, job.tenant.clone(), job.request.csv_safe, job.rows);
    let mut bytes = Vec::new();
    if job.chunks.is_empty() {
        encoder.start(&mut bytes);
    }
    while bytes.len() < inner.settings.chunk_bytes {
        let Some(entries) = source.next().await? else {
            encoder.end(&mut bytes);
            let rows = encoder.rows();
            return Ok(Filled {
                bytes,
                rows,
                source,
                ended: true,
            });
        };
        // Milliseconds of work: not for the reactor.
        let encoded = tokio::task::spawn_blocking(move || {
            for entry in &entries {
                encoder.entry(&mut bytes, entry);
            }
            (encoder, bytes)
        });
        (encoder, bytes) = encoded.await.map_err(|_| Fault::Panic)?;
    }
    let rows = encoder.rows();
    Ok(Filled {
        bytes,
        rows,
        source,
        ended: false,
    })
}

/// How many entries match, for the progress alone: `None` if that takes too long.
async fn count(inner: &Inner, scope: &TenantScope, filter: &Filter, as_of: u64) -> Result<Option<u64>, Fault> {
    let query = ListQuery {
        filter: filter.clone(),
        limit: 1,
        count: Count::Exact,
        upto: Some(as_of),
        ..ListQuery::default()
    };
    match inner.parts.authority.list(scope, query).await {
        Ok(page) => Ok(page.total),
        Err(StoreError::Deadline) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the record; `None` if it is not the one that was read any more.
pub async fn record(inner: &Inner, job: &Job, version: Version) -> Result<Option<Version>, Fault> {
    match job::write(&*inner.parts.objects, job, Precondition::Version(version)).await {
        Ok(version) => Ok(Some(version)),
        Err(ExportError::Objects(ObjectError::Conflict)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
