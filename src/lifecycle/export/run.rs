//! The runner: takes up what the last run left, then gives turns and ends what has expired, until it is stopped.

use super::{
    ExportError, FOLDER, Inner, chunk,
    job::{self, Job, Status},
    queue::Ticket,
    shared,
    turn::{Fault, Step, turn},
};
use crate::{
    model::tenant::{TenantId, TenantScope},
    objects::{Key, ObjectError, Precondition},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The first and the longest rest after a turn in vain.
const REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// The clock is looked at this often at least, since it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Runs until the stop; then waits for the turns, which end early.
pub(super) async fn run(inner: Arc<Inner>) {
    let end = inner.stop.clone();
    work(&inner, &end).await;
}

/// Takes up what there is and works until `end`; then waits for the turns, which are told to end early.
pub(super) async fn work(inner: &Arc<Inner>, end: &CancellationToken) {
    if end.run_until_cancelled(take_up(inner)).await.is_none() {
        return;
    }
    let mut turns = JoinSet::new();
    loop {
        if inner.shared {
            shared::discover(inner).await;
        }
        expire(inner).await;
        while turns.len() < inner.settings.jobs {
            let Some((ticket, stop)) = next(inner) else { break };
            turns.spawn(one(inner.clone(), ticket, stop));
        }
        tokio::select! {
            () = end.cancelled() => break,
            () = inner.changed.notified() => {}
            () = tokio::time::sleep_until(wake(inner)) => {}
            Some(_) = turns.join_next() => {}
        }
    }
    inner.state().turns.values().for_each(CancellationToken::cancel);
    while turns.join_next().await.is_some() {}
}

/// Looks at every tenant's jobs: unfinished ones wait for a turn again, chunks that no record names are deleted. No turn
/// may run in this process meanwhile, since its chunk is not named yet; one of another process is kept from naming it.
pub(super) async fn take_up(inner: &Arc<Inner>) {
    let began = StdInstant::now();
    let mut rest = REST.0;
    loop {
        match take_up_all(inner).await {
            Ok(0) => return,
            Ok(jobs) => return tracing::info!(jobs, took = ?began.elapsed(), "export jobs were taken up"),
            Err(error) => tracing::warn!(%error, "export jobs cannot be read; tried again"),
        }
        tokio::time::sleep(rest).await;
        rest = (rest * 2).min(REST.1);
    }
}

async fn take_up_all(inner: &Arc<Inner>) -> Result<usize, ExportError> {
    let mut tenants = HashMap::<TenantId, Vec<Key>>::new();
    for key in inner.parts.objects.list(FOLDER).await? {
        let folder = key.as_str().split('/').nth(1).and_then(|folder| TenantId::parse(folder).ok());
        if let Some(tenant) = folder {
            tenants.entry(tenant).or_default().push(key);
        }
    }
    let mut found = 0;
    for (tenant, keys) in tenants {
        if inner.parts.catalog.get(&tenant).is_some() {
            take_up_of(inner, &tenant, keys, &mut found).await?;
        }
    }
    Ok(found)
}

async fn take_up_of(inner: &Arc<Inner>, tenant: &TenantId, keys: Vec<Key>, found: &mut usize) -> Result<(), ExportError> {
    let objects = &*inner.parts.objects;
    // The chunks of each job that stay; all of a job whose record cannot be read.
    let mut stay = HashMap::<Uuid, Option<HashSet<Key>>>::new();
    for id in keys.iter().filter_map(|key| job::parse(key.file_name())) {
        match claim(inner, tenant, id).await {
            Ok(Some(job)) => {
                stay.insert(id, Some((0..job.chunks.len()).map(|number| job.chunk(number)).collect()));
                *found += usize::from(register(inner, job));
            }
            Ok(None) => {} // deleted just now
            Err(ExportError::Damaged(why)) => {
                stay.insert(id, None);
                tracing::error!(job = %id, %why, "the record of an export job cannot be read; its objects are left alone");
            }
            Err(error) => return Err(error),
        }
    }
    for key in &keys {
        let Some((id, ..)) = chunk::parse(key.file_name()) else { continue };
        let stays = match stay.get(&id) {
            Some(Some(named)) => named.contains(key),
            Some(None) => true,
            None => false,
        };
        if !stays {
            objects.delete(key).await?;
        }
    }
    Ok(())
}

/// The record of a job. One that another process may still be giving a turn is made this process's first: from then on that turn can
/// name no chunk.
async fn claim(inner: &Inner, tenant: &TenantId, id: Uuid) -> Result<Option<Job>, ExportError> {
    loop {
        let Some((mut job, version)) = job::read(&*inner.parts.objects, tenant, id).await? else {
            return Ok(None);
        };
        if !inner.shared || job.status.is_over() || job.owner == Some(inner.me) {
            return Ok(Some(job));
        }
        job.owner = Some(inner.me);
        match job::write(&*inner.parts.objects, &job, Precondition::Version(version)).await {
            Ok(_) => return Ok(Some(job)),
            Err(ExportError::Objects(ObjectError::Conflict)) => {} // its turn recorded a chunk just now
            Err(error) => return Err(error),
        }
    }
}

/// Takes note of a job of the last run; false if it is known already, since it was made just now.
pub(super) fn register(inner: &Inner, job: Job) -> bool {
    let mut state = inner.state();
    if !state.kept.entry(job.tenant.clone()).or_default().insert(job.id) {
        return false;
    }
    match job.expires_at {
        Some(at) => drop(state.expiring.insert((at, job.tenant, job.id))),
        None => state.queue.push(Ticket {
            tenant: job.tenant,
            job: job.id,
            trouble: None,
        }),
    }
    true
}

/// Takes the next job out of the queue.
fn next(inner: &Inner) -> Option<(Ticket, CancellationToken)> {
    let mut state = inner.state();
    let ticket = state.queue.pop(Instant::now())?;
    let stop = inner.stop.child_token();
    state.turns.insert(ticket.job, stop.clone());
    Some((ticket, stop))
}

fn wake(inner: &Inner) -> Instant {
    let now = Instant::now();
    let state = inner.state();
    let expires = state.expiring.first().map(|(at, ..)| {
        let left = at.saturating_sub((inner.parts.clock)()).max(0) as u64;
        now + Duration::from_millis(left).min(LOOK_EVERY)
    });
    let due = state.queue.next_due();
    let discover = inner.shared.then_some(now + shared::DISCOVER_EVERY);
    [Some(now + LOOK_EVERY), expires, due, discover].into_iter().flatten().min().unwrap_or(now)
}

/// One turn of one job, and what follows from it.
async fn one(inner: Arc<Inner>, ticket: Ticket, stop: CancellationToken) {
    let scope = TenantScope::new(ticket.tenant.clone());
    let work = {
        let (inner, id) = (inner.clone(), ticket.job);
        // A task of its own, so that a panic is one job's.
        tokio::spawn(async move { turn(&inner, &scope, id, &stop).await })
    };
    let done = work.await.unwrap_or(Err(Fault::Panic));
    let then = match done {
        Ok(Step::More) => Then::Again,
        Ok(Step::Over(job)) => Then::Over(job.expires_at),
        Ok(Step::Gone) => Then::Gone,
        Ok(Step::Theirs) => Then::Theirs,
        Err(Fault::Stopped) => Then::Again, // its record says what becomes of it
        Err(fault) => trouble(&inner, &ticket, fault).await,
    };
    if inner.shared && matches!(then, Then::Over(_) | Then::Gone) {
        shared::unmark(&inner, &ticket.tenant, ticket.job).await;
    }
    let mut state = inner.state();
    state.turns.remove(&ticket.job);
    inner.ended.notify_waiters();
    match then {
        Then::Again => state.queue.push_again(Ticket { trouble: None, ..ticket }),
        Then::Rest(since, times) => {
            let rest = REST.0.saturating_mul(1 << times.min(16)).min(REST.1);
            let trouble = Some((since, times + 1));
            state.queue.rest(Ticket { trouble, ..ticket }, Instant::now() + rest);
        }
        Then::Over(Some(at)) => drop(state.expiring.insert((at, ticket.tenant, ticket.job))),
        Then::Over(None) | Then::Gone | Then::Theirs => state.forget(&ticket.tenant, ticket.job),
    }
}

enum Then {
    Again,
    /// Trouble since then, so many times.
    Rest(Instant, u32),
    /// It ends to exist then.
    Over(Option<i64>),
    Gone,
    /// Another process does it.
    Theirs,
}

/// After a turn in vain: a rest, or the job is given up.
async fn trouble(inner: &Arc<Inner>, ticket: &Ticket, fault: Fault) -> Then {
    let (since, times) = ticket.trouble.unwrap_or((Instant::now(), 0));
    if since.elapsed() < fault.patience() {
        tracing::debug!(job = %ticket.job, %fault, times, "an export job rests");
        return Then::Rest(since, times);
    }
    tracing::warn!(job = %ticket.job, %fault, "an export job is given up");
    match inner.give_up(&ticket.tenant, ticket.job, Status::Failed, Some(fault.to_string())).await {
        Ok(Some(job)) => Then::Over(job.expires_at),
        Ok(None) => Then::Gone,
        Err(_) => Then::Rest(since, times), // the objects are out of reach, so it cannot even be given up
    }
}

/// Ends what has expired.
async fn expire(inner: &Arc<Inner>) {
    loop {
        let now = (inner.parts.clock)();
        let due = inner.state().expiring.first().filter(|(at, ..)| *at <= now).cloned();
        let Some((at, tenant, id)) = due else { return };
        let gone = match job::read(&*inner.parts.objects, &tenant, id).await {
            Ok(Some((job, _))) => inner.remove(job).await.map(|()| true),
            Ok(None) => Ok(true),
            Err(error) => Err(error),
        };
        let mut state = inner.state();
        state.expiring.remove(&(at, tenant.clone(), id));
        match gone {
            Ok(_) => state.forget(&tenant, id),
            Err(error) => {
                tracing::warn!(job = %id, %error, "an export that has expired cannot be deleted; tried again later");
                state.expiring.insert((now + LOOK_EVERY.as_millis() as i64, tenant, id));
                return;
            }
        }
    }
}
