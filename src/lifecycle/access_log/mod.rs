//! The access log: who read and changed what, written down as entries of a second log of the tenant.
//!
//! [`AccessLog::record`] takes an event and returns at once: it costs the request that it is about some microseconds, and
//! neither waits nor fails. A task writes what has come together, a pack per tenant, through the ordinary intake: at the
//! latest after [`AccessLogSettings::linger`], sooner for a change or a full pack. [`AccessLog::changed`] also waits until the
//! event is durable, for a bounded time, so that an answered change is in the log whatever happens next.
//!
//! Guarantees: events of a tenant are written in the order in which they were recorded. What waits is bounded in bytes, in all
//! and for each tenant. What the intake refuses (no room on the volume, a tenant that has too much undecided) stays and is
//! tried again. What has no room to wait is counted, and said in the log itself by an entry `sluice.dropped` ([`mod@line`]).
//!
//! Not guaranteed: a process that is killed takes the reads of the last moments with it, and what it had not yet said to be
//! lost. A stop in order writes everything ([`AccessLog::stop`]).

mod event;
mod line;

#[cfg(test)]
mod tests;

pub use event::{Event, Who};

use crate::{
    catalog::Catalog,
    model::{tenant::TenantId, time::now_ms},
    queue::{AcceptError, Producer},
};
use futures_util::{StreamExt, stream};
use line::{Flight, Kept, Lines, Waiter};
use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Who writes the entries.
const ACTOR: &str = "sluice";
/// How long the answer to a change waits for its entry. A log that takes longer holds up every write too.
const DURABLE_WITHIN: Duration = Duration::from_secs(5);
/// Packs that are handed to the intake at once.
const AWAY: usize = 256;
/// The longest rest after nothing but refusals.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// Bounds and times.
#[derive(Debug, Clone)]
pub struct AccessLogSettings {
    /// Most bytes that wait, of all tenants together.
    pub memory_bytes: usize,
    /// The same for one tenant.
    pub tenant_bytes: usize,
    /// How long an event may wait for company.
    pub linger: Duration,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self {
            memory_bytes: 16 << 20,
            tenant_bytes: 2 << 20,
            linger: Duration::from_millis(200),
        }
    }
}

/// The access logs of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    producer: Arc<dyn Producer>,
    catalog: Catalog,
    linger: Duration,
    lines: Mutex<Lines>,
    /// Something waits.
    work: Notify,
    /// It should not wait any longer.
    urgent: Notify,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl AccessLog {
    /// Starts the task that writes. Must be called in a tokio runtime.
    pub fn start(producer: Arc<dyn Producer>, catalog: Catalog, settings: AccessLogSettings) -> Self {
        let inner = Arc::new(Inner {
            producer,
            catalog,
            linger: settings.linger,
            lines: Mutex::new(Lines::new(settings)),
            work: Notify::new(),
            urgent: Notify::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.tasks.spawn(write(inner.clone()));
        inner.tasks.close();
        Self(inner)
    }

    /// Writes down an event of a tenant: soon, without waiting, without failing. Nothing is done for a tenant that does not
    /// exist, nor for a plain read where the tenant does not want them recorded (`audit_reads`).
    pub fn record(&self, tenant: &TenantId, who: &Who, event: &Event) {
        self.0.push(tenant, who, event, None);
    }

    /// Writes down a change. Resolves when its entry is durable, was refused for now, or after 5 s: it is written all the
    /// same, as soon as it can be. The event is taken before this returns; dropping the future ends only the waiting.
    pub fn changed(&self, tenant: &TenantId, who: &Who, event: &Event) -> impl Future<Output = ()> + Send + use<> {
        let (waiter, durable) = oneshot::channel();
        self.0.push(tenant, who, event, Some(waiter));
        self.0.urgent.notify_one();
        async move {
            // Without a sender nothing was taken: there is nothing to wait for.
            match timeout(DURABLE_WITHIN, durable).await {
                Ok(Ok(true) | Err(_)) => {}
                Ok(Ok(false)) | Err(_) => tracing::warn!("a change is answered before its entry in the access log is durable; it is tried again"),
            }
        }
    }

    /// Resolves when everything that was recorded for the tenant is durable, was refused for now, or after `within`. For those
    /// who are about to read the log. Dropping the future ends only the waiting.
    pub async fn settled(&self, tenant: &TenantId, within: Duration) {
        let (waiter, durable) = oneshot::channel();
        if self.0.lines().attend(tenant, waiter).is_none() {
            self.0.urgent.notify_one();
            let _ = timeout(within, durable).await; // who reads is told what there is
        }
    }

    /// Takes no more events and writes those that wait. What is refused now is given up, counted in the process's log.
    pub async fn stop(&self) {
        self.0.lines().close();
        self.0.stopping.cancel();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner) // its methods leave it whole
    }

    fn push(&self, tenant: &TenantId, who: &Who, event: &Event, waiter: Option<Waiter>) {
        let wanted = self.catalog.get(tenant).is_some_and(|tenant| !event.is_read || tenant.settings.audit_reads);
        if !wanted {
            return;
        }
        let kept = event.encode(Some(who), now_ms(), |entry| self.lines().push(tenant, entry, event.is_read, waiter));
        self.work.notify_one();
        if kept == Kept::Full {
            self.urgent.notify_one();
        }
    }
}

/// What a round came to.
enum Round {
    /// Nothing waits.
    Empty,
    /// Something was written.
    Some,
    /// All was refused.
    Nothing,
}

/// The task: writes what waits until it is stopped, and then what is left.
async fn write(inner: Arc<Inner>) {
    let stopping = &inner.stopping;
    let pause = async |longest: Duration| {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = inner.urgent.notified() => {}
            () = sleep(longest) => {}
        }
    };
    let mut rest = inner.linger;
    loop {
        if inner.lines().is_empty() {
            tokio::select! {
                biased;
                () = inner.work.notified() => {}
                () = stopping.cancelled() => {}
            }
        }
        let last = stopping.is_cancelled();
        if !last {
            pause(rest).await;
        }
        rest = match inner.round().await {
            Round::Empty if last => return,
            Round::Nothing if last => {
                let lost = inner.lines().give_up();
                return tracing::warn!(lost, "events of access logs were refused at the end and are lost");
            }
            Round::Some if inner.lines().is_behind() => Duration::ZERO,
            Round::Empty | Round::Some => inner.linger,
            Round::Nothing => (rest * 2).clamp(inner.linger, LONGEST_REST.max(inner.linger)),
        };
    }
}

impl Inner {
    /// Hands the first batch of every tenant to the intake.
    async fn round(&self) -> Round {
        let flights = self.lines().depart(now_ms());
        if flights.is_empty() {
            return Round::Empty;
        }
        let accept = |flight: Flight| async move {
            let accepted = self.producer.accept(flight.pack.clone(), None).await;
            (flight, accepted)
        };
        let mut done = std::pin::pin!(stream::iter(flights).map(accept).buffer_unordered(AWAY));
        let mut written = false;
        while let Some((flight, accepted)) = done.next().await {
            match accepted {
                Ok(_) => {
                    written = true;
                    self.lines().landed(&flight);
                }
                Err(AcceptError::Unknown) => {
                    tracing::error!(
                        events = flight.pack.len(),
                        "it is not known whether events of an access log were written; they are told as lost"
                    );
                    self.lines().vanished(&flight, now_ms());
                }
                Err(error @ (AcceptError::TenantFull { .. } | AcceptError::Unavailable { .. })) => {
                    tracing::debug!(%error, "events of an access log wait");
                    self.lines().refused(flight);
                }
            }
        }
        if written { Round::Some } else { Round::Nothing }
    }
}
