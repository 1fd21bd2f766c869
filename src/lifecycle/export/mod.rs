//! Export jobs: every match of a tenant's request as one file, made in the background, kept for a while.
//!
//! A job is a record and chunks, objects both ([`job`], [`chunk`]). It works in **turns**: a turn reads on behind the last
//! entry of the last chunk, writes the next chunk and then the record that names it, by compare-and-swap. So
//!
//! - a crash or a stop at any moment costs a turn: the next start goes on behind the last chunk of the record, without
//!   repeat and without hole, and what it makes is the same to the byte, unless entries were erased meanwhile;
//! - tenants take turns ([`queue`]): a tenant with many or long jobs delays another by a chunk for each running job;
//! - memory is that of a chunk for each running job, whatever the export's size;
//! - who cancels a job changes its record, and the turn under way finds out when it wants to record its chunk.
//!
//! What is promised of the contents is what [`crate::export`] promises: the matches as of the number that was visible when
//! the job was asked for; entries that are erased before they were read are not in it.
//!
//! Chunks that no record names (of a crash between the two, or of a job that was ended) are deleted when their job ends, or
//! at the next start, before the first turn. Exports stop before anything else when the volume fills up: below
//! [`Room::floor`] no turn begins.
//!
//! Where several processes share the objects, each takes orders and answers, and the one that holds the lease gives the turns
//! ([`Exports::shared`], [`shared`]).
//!
//! Not here: who may export, and the download over HTTP.

mod chunk;
mod job;
mod purge;
mod queue;
mod rebuild;
mod run;
mod shared;
mod turn;

#[cfg(test)]
mod tests;

pub use self::{
    chunk::ReadError,
    job::{Job, Kind, Request, Status},
    shared::LEASE,
};

use self::queue::{Queue, Ticket};
use crate::{
    catalog::Catalog,
    fs::Fs,
    model::{
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    objects::{ObjectError, Objects, Precondition},
    queue::seals::Lease,
    sinks::{Authority, Sort, follow::CopyLog},
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// The folder of the objects.
const FOLDER: &str = "exports";

/// Reads the words of a request: which entries, in which order. The text of an error is for people.
pub type Compile = Arc<dyn Fn(&[(String, String)]) -> Result<(Filter, Sort), String> + Send + Sync>;

/// What jobs work with.
#[derive(Clone)]
pub struct Parts {
    /// Where records and chunks are.
    pub objects: Arc<dyn Objects>,
    /// Where the entries are.
    pub authority: Arc<dyn Authority>,
    /// The tenants whose jobs are taken up again at a start.
    pub catalog: Catalog,
    /// Copies logs to the search store, where that is a store of its own.
    pub copying: Option<Arc<dyn CopyLog>>,
    /// How requests are read.
    pub compile: Compile,
    /// The volume of the objects; `None` where they are not on one.
    pub room: Option<Room>,
    /// Milliseconds since 1970.
    pub clock: fn() -> i64,
}

/// The volume of the objects.
#[derive(Clone)]
pub struct Room {
    /// Its file system.
    pub fs: Arc<dyn Fs>,
    /// A folder on it.
    pub dir: PathBuf,
    /// Free bytes below which exports stop. Above what stops the intake of entries, so that exports stop first.
    pub floor: u64,
}

/// Bounds of the jobs.
#[derive(Debug, Clone)]
pub struct ExportSettings {
    /// Jobs that work at once; each holds a chunk in memory.
    pub jobs: usize,
    /// Jobs that work or wait. Further ones are refused.
    pub queue: usize,
    /// Jobs of one tenant, finished ones too. Further ones are refused.
    pub per_tenant: usize,
    /// How long a job is kept after its end.
    pub keep: Duration,
    /// A chunk is closed when it has reached this, bytes.
    pub chunk_bytes: usize,
    /// Entries that are read at once, at most.
    pub portion: usize,
}

impl Default for ExportSettings {
    fn default() -> Self {
        Self {
            jobs: 2,
            queue: 1_000,
            per_tenant: 100,
            keep: Duration::from_secs(86_400),
            chunk_bytes: 8 << 20,
            portion: 8_192,
        }
    }
}

/// Why a job could not be made, found or changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExportError {
    /// The tenant has as many jobs as it may have (429).
    #[error("the tenant has too many export jobs")]
    TooMany,
    /// Too many jobs wait (503).
    #[error("too many export jobs wait")]
    Busy,
    /// The tenant is being deleted (403).
    #[error("the tenant is being deleted")]
    Closed,
    /// The volume is too full for exports (503).
    #[error("there is no room for exports on the volume")]
    NoRoom,
    /// The objects cannot be read or written (503).
    #[error("{0}")]
    Objects(#[from] ObjectError),
    /// The record of the job cannot be understood (500).
    #[error("the record of the export job is damaged: {0}")]
    Damaged(Arc<str>),
}

/// What became of a job that was to be ended.
#[derive(Debug)]
pub enum Ended {
    /// It is cancelled; what it had written is deleted.
    Cancelled(Box<Job>),
    /// It was over before: it is deleted, and there is no such job any more.
    Deleted,
}

/// The jobs. Cheap to clone.
#[derive(Clone)]
pub struct Exports(Arc<Inner>);

struct Inner {
    /// What this process is called in records.
    me: Uuid,
    /// Other processes make, change and do jobs too; what is in `state` is then true for whom holds the lease alone.
    shared: bool,
    parts: Parts,
    settings: ExportSettings,
    state: Mutex<State>,
    /// Something in `state` changed.
    changed: Notify,
    /// A turn has ended.
    ended: Notify,
    stop: CancellationToken,
    /// Everything that runs: it is waited for at the stop.
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// Jobs that have a turn, or are being made, and how to end it early.
    turns: HashMap<Uuid, CancellationToken>,
    /// All jobs there are.
    kept: HashMap<TenantId, HashSet<Uuid>>,
    /// Those that are over, by the time of their end.
    expiring: BTreeSet<(i64, TenantId, Uuid)>,
    /// Tenants that are being deleted: no job of theirs is made.
    closed: HashSet<TenantId>,
}

impl State {
    fn forget(&mut self, tenant: &TenantId, id: Uuid) {
        if let Some(jobs) = self.kept.get_mut(tenant) {
            jobs.remove(&id);
            if jobs.is_empty() {
                self.kept.remove(tenant);
            }
        }
    }

    fn unfinished(&self) -> usize {
        self.queue.len() + self.turns.len()
    }
}

impl Exports {
    /// Begins: what the last run left is tidied up and taken up again, in the background. Needs a tokio runtime.
    pub fn start(parts: Parts, settings: ExportSettings) -> Self {
        let inner = Inner::new(parts, settings, false);
        inner.tasks.spawn(run::run(inner.clone()));
        Self(inner)
    }

    /// The same where several processes share the objects: jobs are done by the one that holds `lease`. Needs a tokio runtime.
    pub fn shared(parts: Parts, settings: ExportSettings, lease: Lease) -> Self {
        let inner = Inner::new(parts, settings, true);
        inner.tasks.spawn(shared::run(inner.clone(), lease));
        Self(inner)
    }

    /// Makes a job for a request that [`Compile`] has understood; it is durable when this returns. Once polled it happens
    /// whole or not at all, also when it is dropped.
    pub async fn create(&self, scope: &TenantScope, request: Request, as_of: u64) -> Result<Job, ExportError> {
        let job = Job::new(scope.tenant().clone(), request, as_of, (self.0.parts.clock)());
        self.make(job).await
    }

    /// Makes a job that copies the tenant's logs to the search store, as [`Exports::create`] does. Where the log of record is the search
    /// store the job has nothing to do.
    pub async fn rebuild(&self, scope: &TenantScope) -> Result<Job, ExportError> {
        self.make(Job::rebuild(scope.tenant().clone(), (self.0.parts.clock)())).await
    }

    async fn make(&self, job: Job) -> Result<Job, ExportError> {
        let inner = self.0.clone();
        let work = tokio::spawn(async move { inner.create(job).await });
        work.await
            .unwrap_or_else(|e| Err(ObjectError::Io(format!("the work was not done: {e}").into()).into()))
    }

    /// The tenant's job of this id.
    pub async fn get(&self, scope: &TenantScope, id: Uuid) -> Result<Option<Job>, ExportError> {
        let found = job::read(&*self.0.parts.objects, scope.tenant(), id).await?;
        Ok(found.map(|(job, _)| job).filter(|job| !job.is_expired((self.0.parts.clock)())))
    }

    /// Cancels the tenant's job of this id, or deletes it if it is over; `None` if there is none. What it has written is
    /// deleted in the background.
    pub async fn end(&self, scope: &TenantScope, id: Uuid) -> Result<Option<Ended>, ExportError> {
        let (inner, tenant) = (&self.0, scope.tenant());
        match self.get(scope, id).await? {
            None => Ok(None),
            Some(job) if job.status.is_over() => {
                inner.remove(job).await?;
                Ok(Some(Ended::Deleted))
            }
            Some(_) => match inner.give_up(tenant, id, Status::Cancelled, None).await? {
                Some(job) if job.status == Status::Cancelled => Ok(Some(Ended::Cancelled(Box::new(job)))),
                // It came to its end just now.
                Some(job) => {
                    inner.remove(job).await?;
                    Ok(Some(Ended::Deleted))
                }
                None => Ok(None),
            },
        }
    }

    /// The bytes of `range` of a job that is done, read as they are taken.
    pub fn read(&self, job: Arc<Job>, range: Range<u64>) -> BoxStream<'static, Result<Bytes, ReadError>> {
        chunk::read(self.0.parts.objects.clone(), job, range)
    }

    /// Ends all turns, at the last chunk that is durable; the next start goes on there. Returns when nothing runs any more.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn new(parts: Parts, settings: ExportSettings, shared: bool) -> Arc<Self> {
        Arc::new(Self {
            me: Uuid::new_v4(),
            shared,
            parts,
            settings,
            state: Mutex::default(),
            changed: Notify::new(),
            ended: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expiry(&self) -> i64 {
        let keep = i64::try_from(self.settings.keep.as_millis()).unwrap_or(i64::MAX);
        (self.parts.clock)().saturating_add(keep)
    }

    fn check_room(&self) -> Result<(), ExportError> {
        let Some(room) = &self.parts.room else { return Ok(()) };
        match room.fs.space(&room.dir) {
            Ok(space) if space.available >= room.floor => Ok(()),
            Ok(_) => Err(ExportError::NoRoom),
            Err(error) => Err(ObjectError::Io(error.to_string().into()).into()),
        }
    }

    async fn create(&self, job: Job) -> Result<Job, ExportError> {
        self.check_room()?;
        let tenant = job.tenant.clone();
        if self.shared {
            return shared::create(self, job).await;
        }
        {
            let mut state = self.state();
            if state.closed.contains(&tenant) {
                return Err(ExportError::Closed);
            }
            if state.unfinished() >= self.settings.queue {
                return Err(ExportError::Busy);
            }
            let jobs = state.kept.entry(tenant.clone()).or_default();
            if jobs.len() >= self.settings.per_tenant {
                return Err(ExportError::TooMany);
            }
            jobs.insert(job.id);
            state.turns.insert(job.id, self.stop.child_token());
        }
        let written = job::write(&*self.parts.objects, &job, Precondition::Absent).await;
        self.state().turns.remove(&job.id);
        self.ended.notify_waiters();
        if let Err(error) = written {
            self.state().forget(&tenant, job.id);
            // It may have been written all the same; then the next start does it, and nobody fetches it.
            return Err(error);
        }
        self.state().queue.push(Ticket {
            tenant,
            job: job.id,
            trouble: None,
        });
        self.changed.notify_one();
        Ok(job)
    }

    /// Ends a job that is not over. The record as it is then; `None` if there is none.
    async fn give_up(self: &Arc<Self>, tenant: &TenantId, id: Uuid, status: Status, why: Option<String>) -> Result<Option<Job>, ExportError> {
        loop {
            let Some((mut job, version)) = job::read(&*self.parts.objects, tenant, id).await? else {
                return Ok(None);
            };
            if job.status.is_over() {
                return Ok(Some(job));
            }
            job.chunks.clear();
            job.turns.clear();
            (job.status, job.error, job.rows, job.place) = (status, why.clone(), 0, None);
            job.expires_at = Some(self.expiry());
            match job::write(&*self.parts.objects, &job, Precondition::Version(version)).await {
                Ok(_) => {}
                Err(ExportError::Objects(ObjectError::Conflict)) => continue, // its turn recorded a chunk just now
                Err(error) => return Err(error),
            }
            if let Some(turn) = self.state().turns.get(&id) {
                turn.cancel();
            }
            self.delete_chunks(tenant.clone(), id);
            return Ok(Some(job));
        }
    }

    /// Deletes a job that is over. The record first: a job without chunks must not be found.
    async fn remove(self: &Arc<Self>, job: Job) -> Result<(), ExportError> {
        self.parts.objects.delete(&job::key(&job.tenant, job.id)).await?;
        {
            let mut state = self.state();
            state.forget(&job.tenant, job.id);
            if let Some(at) = job.expires_at {
                state.expiring.remove(&(at, job.tenant.clone(), job.id));
            }
        }
        self.delete_chunks(job.tenant, job.id);
        Ok(())
    }

    /// Deletes the chunks of a job that names none any more, in the background. What a stop leaves is deleted at the next start; a turn that
    /// is writing one deletes it itself.
    fn delete_chunks(self: &Arc<Self>, tenant: TenantId, id: Uuid) {
        let inner = self.clone();
        self.tasks.spawn(async move {
            let deleting = async {
                for key in inner.parts.objects.list(&format!("{FOLDER}/{tenant}")).await? {
                    if chunk::parse(key.file_name()).is_some_and(|(job, ..)| job == id) {
                        inner.parts.objects.delete(&key).await?;
                    }
                }
                Ok::<_, ObjectError>(())
            };
            if let Some(Err(error)) = inner.stop.run_until_cancelled(deleting).await {
                tracing::warn!(job = %id, %error, "chunks of an export are left until the next start");
            }
        });
    }
}
