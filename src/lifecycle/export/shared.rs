//! Export jobs of a deployment: any process takes orders, one gives the turns.
//!
//! The one is who holds the lease `exports`. It learns of jobs by *marks*: empty objects, one for each job that is not over, written before
//! the job's record and deleted when the job is over. So a list of the marks finds new jobs, and bounds how many wait.
//! Who takes the lease over first looks at all records and writes itself into those that are not over: a process that was only
//! asleep can then record nothing more, and what it had written without recording it is deleted (ADR 0026).
//!
//! # Object `export_queue/<tenant>.<job>.job`
//!
//! Empty. A mark without a record is of a process that died between the two; it is deleted when it is [`MARK_ALONE`] old.

use super::{
    ExportError, FOLDER, Inner,
    job::{self, Job},
    run,
};
use crate::{
    model::tenant::TenantId,
    objects::{Key, Precondition},
    queue::seals::Lease,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// The name of the lease.
pub const LEASE: &str = "exports";
/// How often marks are looked for.
pub(super) const DISCOVER_EVERY: Duration = Duration::from_secs(1);
const MARKS: &str = "export_queue";
/// Milliseconds.
const MARK_ALONE: u64 = 600_000;

fn mark(tenant: &TenantId, job: Uuid) -> Key {
    Key::parse(&format!("{MARKS}/{tenant}.{job}.job")).expect("a slug and a UUID make a name")
}

fn parse(key: &Key) -> Option<(TenantId, Uuid)> {
    let (tenant, job) = key.file_name().strip_suffix(".job")?.split_once('.')?;
    Some((TenantId::parse(tenant).ok()?, Uuid::try_parse(job).ok()?))
}

/// Works while the lease is held, until the stop.
pub(super) async fn run(inner: Arc<Inner>, mut lease: Lease) {
    while let Some(held) = inner.stop.run_until_cancelled(lease.take()).await {
        tracing::info!("this process does the export jobs");
        let end = inner.stop.child_token();
        let (lost, told) = (held.lost(), end.clone());
        let watch = tokio::spawn(async move {
            lost.cancelled().await;
            told.cancel();
        });
        run::work(&inner, &end).await;
        watch.abort();
        inner.let_go();
        if inner.stop.is_cancelled() {
            return held.release().await;
        }
        tracing::info!("another process does the export jobs");
    }
}

impl Inner {
    /// What this process knew of the jobs is not true any more.
    fn let_go(&self) {
        let mut state = self.state();
        let closed = std::mem::take(&mut state.closed);
        *state = super::State {
            closed,
            ..super::State::default()
        };
    }
}

/// Makes a job durable for whoever does the jobs.
pub(super) async fn create(inner: &Inner, job: Job) -> Result<Job, ExportError> {
    let (objects, tenant) = (&*inner.parts.objects, &job.tenant);
    if inner.state().closed.contains(tenant) || inner.parts.catalog.get(tenant).is_none() {
        return Err(ExportError::Closed);
    }
    if objects.list(MARKS).await?.len() >= inner.settings.queue {
        return Err(ExportError::Busy);
    }
    let own = objects.list(&format!("{FOLDER}/{tenant}")).await?;
    if own.iter().filter(|key| job::parse(key.file_name()).is_some()).count() >= inner.settings.per_tenant {
        return Err(ExportError::TooMany);
    }
    objects.put(&mark(tenant, job.id), Bytes::new(), Precondition::Any).await?;
    job::write(objects, &job, Precondition::Absent).await?;
    inner.changed.notify_one();
    Ok(job)
}

/// Takes note of jobs that were made since the last look.
pub(super) async fn discover(inner: &Arc<Inner>) {
    let found = match inner.parts.objects.list(MARKS).await {
        Ok(keys) => keys,
        Err(error) => return tracing::warn!(%error, "new export jobs cannot be looked for"),
    };
    for (tenant, id) in found.iter().filter_map(parse) {
        if inner.state().kept.get(&tenant).is_some_and(|jobs| jobs.contains(&id)) {
            continue;
        }
        match job::read(&*inner.parts.objects, &tenant, id).await {
            Ok(Some((job, _))) => {
                let is_over = job.status.is_over();
                run::register(inner, job);
                if is_over {
                    unmark(inner, &tenant, id).await;
                }
            }
            Ok(None) => {
                let made = id.get_timestamp().map_or(0, |at| at.to_unix().0.saturating_mul(1000));
                let now = u64::try_from((inner.parts.clock)()).unwrap_or(0);
                if now.saturating_sub(made) > MARK_ALONE {
                    unmark(inner, &tenant, id).await;
                }
            }
            Err(error) => tracing::warn!(job = %id, %error, "an export job cannot be read; it is looked at again"),
        }
    }
}

/// The job is over.
pub(super) async fn unmark(inner: &Inner, tenant: &TenantId, id: Uuid) {
    if let Err(error) = inner.parts.objects.delete(&mark(tenant, id)).await {
        tracing::warn!(job = %id, %error, "the mark of an export job that is over stays until the next look");
    }
}
