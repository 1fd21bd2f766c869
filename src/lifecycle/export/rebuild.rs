//! Turns of a job that copies a tenant's logs to the search store: the audit log, then the access log, span by span. Where it is stands in
//! its record, so that a stop or a crash costs one turn; copying a span again is harmless.

use super::{
    Inner,
    job::{Job, Status},
    turn::{Fault, Step, record, unless},
};
use crate::{
    model::tenant::{Log, TenantScope},
    objects::Version,
    sinks::follow::Copied,
};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A turn copies for so long, about: then others have theirs.
const TURN: Duration = Duration::from_secs(2);
/// In this order.
const LOGS: [Log; 2] = [Log::Audit, Log::Access];

/// Does it. Dropping the future loses the turn and nothing else.
pub async fn turn(inner: &Inner, scope: &TenantScope, mut job: Job, mut version: Version, stop: &CancellationToken) -> Result<Step, Fault> {
    if job.status == Status::Queued {
        let of = |log: Log| inner.parts.authority.visible_head(&TenantScope::new(log.of(scope.tenant()))).head;
        job.owner = Some(inner.me);
        (job.status, job.total) = (Status::Running, Some(LOGS.map(of).iter().sum()));
        version = match record(inner, &job, version).await? {
            Some(version) => version,
            None => return Ok(Step::More), // somebody changed it: look again
        };
    }
    let (mut log, mut upto) = job.place.map_or((0, 0), |(log, upto)| (usize::try_from(log).unwrap_or(LOGS.len()), upto));
    let began = Instant::now();
    while let (Some(copying), Some(which)) = (&inner.parts.copying, LOGS.get(log)) {
        let read = TenantScope::new(which.of(scope.tenant()));
        let from = Copied { upto, ..Copied::default() };
        let copied = unless(stop, async { Ok(copying.copy_span(&read, from).await?) }).await?;
        job.rows += copied.rows;
        upto = copied.upto;
        if copied.is_done() {
            (log, upto) = (log + 1, 0);
        }
        if began.elapsed() >= TURN {
            break;
        }
    }
    let ended = inner.parts.copying.is_none() || log >= LOGS.len();
    job.place = Some((log as i64, upto));
    if ended {
        (job.status, job.expires_at) = (Status::Done, Some(inner.expiry()));
    }
    match record(inner, &job, version).await? {
        Some(_) if ended => Ok(Step::Over(Box::new(job))),
        Some(_) | None => Ok(Step::More),
    }
}
