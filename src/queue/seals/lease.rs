//! A lease: who should do something that others could do too. It decides only who *tries*: two may hold it for a moment (a
//! process that slept), and whatever they do must be safe all the same.
//!
//! `lease/<name>.json` is `{"nonce": uuid, "count": 7, "ttl_ms": 15000, "free": false, "holder": "host"}`. The holder counts up by compare and
//! swap every third of `ttl`. Clocks of two processes are never compared: who waits for the lease watches the object, and
//! takes it when it has not changed for its `ttl` by the watcher's own clock, or when it is `free`. The holder gives up by its
//! own clock when the last renewal that it knows to be done was *begun* `ttl` ago.

use crate::{
    objects::{Key, ObjectError, Objects, Precondition, Version},
    queue::SealReadError,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a lease that was given back may rest.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Form {
    nonce: Uuid,
    count: u64,
    ttl_ms: u64,
    free: bool,
    holder: String,
}

/// A candidate for a lease. It remembers what it has seen, so keep one and ask it again.
pub struct Lease {
    objects: Arc<dyn Objects>,
    key: Key,
    ttl: Duration,
    holder: String,
    /// The object as it was last seen to change, when, and how long it is good for.
    seen: Option<(Version, Instant, Duration)>,
}

/// A lease that is held. Renewed by a task until it is lost, released or dropped; a dropped one is left to run out.
pub struct Held {
    lost: CancellationToken,
    renewing: Option<JoinHandle<Option<Renewal>>>,
    stop: CancellationToken,
}

struct Renewal {
    objects: Arc<dyn Objects>,
    key: Key,
    ttl: Duration,
    form: Form,
    version: Version,
    /// When the last renewal that is known to be done was begun.
    since: Instant,
}

impl Lease {
    /// A candidate for the lease `name` (lower-case letters, digits, `-` and `_`). `holder` says who this is, for people only.
    pub fn new(objects: Arc<dyn Objects>, name: &str, ttl: Duration, holder: impl Into<String>) -> Result<Self, ObjectError> {
        Ok(Self {
            objects,
            key: Key::parse(&format!("lease/{name}.json"))?,
            ttl,
            holder: holder.into(),
            seen: None,
        })
    }

    /// Waits until the lease is free, or its holder has been silent for its ttl, and takes it. Asks every sixth of `ttl`, and at least
    /// every half second, so that one that is given back is taken at once.
    /// Errors of the engine are waited out. Dropping the future may leave it taken: it runs out.
    pub async fn take(&mut self) -> Held {
        loop {
            match self.try_take().await {
                Ok(Some(held)) => return held,
                Ok(None) => {}
                Err(error) => tracing::warn!(lease = %self.key, %error, "a lease cannot be asked for; it is tried again"),
            }
            tokio::time::sleep((self.ttl / 6).min(ASK_EVERY)).await;
        }
    }

    /// Takes the lease if it is free or has run out; `None` while somebody else holds it. After an error it may be taken, by a name
    /// that nobody knows any more: it runs out.
    pub async fn try_take(&mut self) -> Result<Option<Held>, SealReadError> {
        let begun = Instant::now();
        let (when, count) = match self.objects.get(&self.key).await? {
            None => (Precondition::Absent, 0),
            Some((bytes, version)) => {
                let form: Form = serde_json::from_slice(&bytes).map_err(|error| SealReadError(format!("`{}` is malformed: {error}", self.key).into()))?;
                let ttl = Duration::from_millis(form.ttl_ms);
                let since = match &self.seen {
                    Some((seen, since, _)) if *seen == version => *since,
                    _ => begun,
                };
                self.seen = Some((version.clone(), since, ttl));
                if !form.free && begun.duration_since(since) < ttl {
                    return Ok(None);
                }
                (Precondition::Version(version), form.count)
            }
        };
        let form = Form {
            nonce: Uuid::new_v4(),
            count: count + 1,
            ttl_ms: self.ttl.as_millis() as u64,
            free: false,
            holder: self.holder.clone(),
        };
        let version = match self.objects.put(&self.key, encode(&form), when).await {
            Ok(version) => version,
            Err(ObjectError::Conflict) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let renewal = Renewal {
            objects: self.objects.clone(),
            key: self.key.clone(),
            ttl: self.ttl,
            form,
            version,
            since: begun,
        };
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let renewing = tokio::spawn(renewal.run(lost.clone(), stop.clone()));
        Ok(Some(Held {
            lost,
            renewing: Some(renewing),
            stop,
        }))
    }
}

impl Held {
    /// Cancelled when the lease is lost: somebody else has it, or it could not be renewed in time.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives it back, so that the next candidate need not wait. Does nothing when it is lost. Dropping the future leaves it to run out.
    pub async fn release(mut self) {
        self.stop.cancel();
        let Some(renewing) = self.renewing.take() else { return };
        if let Ok(Some(mut last)) = renewing.await {
            last.form.free = true;
            last.form.count += 1;
            let put = last.objects.put(&last.key, encode(&last.form), Precondition::Version(last.version));
            if let Err(error) = put.await {
                tracing::warn!(lease = %last.key, %error, "a lease was not given back; it runs out");
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Renewal {
    /// Renews until it is stopped (then it gives itself back) or the lease is lost.
    async fn run(mut self, lost: CancellationToken, stop: CancellationToken) -> Option<Self> {
        let (mut next, pause) = (self.since + self.ttl / 3, self.ttl / 12);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Some(self),
                () = tokio::time::sleep_until(next) => {}
            }
            let (begun, end) = (Instant::now(), self.since + self.ttl);
            let renewed = tokio::time::timeout_at(end, self.renew()).await;
            match renewed {
                Ok(Ok(true)) => {
                    self.since = begun;
                    next = begun + self.ttl / 3;
                }
                Ok(Ok(false)) => break tracing::warn!(lease = %self.key, "somebody else took the lease"),
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.key, %error, "a lease was not renewed; it is tried again");
                    next = (Instant::now() + pause).min(end);
                }
                Err(_) => {}
            }
            if Instant::now() >= self.since + self.ttl {
                break tracing::warn!(lease = %self.key, "a lease could not be renewed in time");
            }
        }
        lost.cancel();
        None
    }

    /// `false` when somebody else has it. After an error it may have been renewed: the next try finds that out.
    async fn renew(&mut self) -> Result<bool, SealReadError> {
        let form = Form {
            count: self.form.count + 1,
            ..self.form.clone()
        };
        match self.objects.put(&self.key, encode(&form), Precondition::Version(self.version.clone())).await {
            Ok(version) => {
                (self.form, self.version) = (form, version);
                Ok(true)
            }
            // It may be our own try before this one, whose answer was lost.
            Err(ObjectError::Conflict) => match self.objects.get(&self.key).await? {
                Some((bytes, version)) if serde_json::from_slice::<Form>(&bytes).is_ok_and(|found| found == form) => {
                    (self.form, self.version) = (form, version);
                    Ok(true)
                }
                _ => Ok(false),
            },
            Err(error) => Err(error.into()),
        }
    }
}

fn encode(form: &Form) -> Bytes {
    serde_json::to_vec(form).expect("a lease is plain data").into()
}
