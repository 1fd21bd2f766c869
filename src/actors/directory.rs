//! Which tenants have an actor, and the rule that a tenant never has two.
//!
//! ```text
//!            lane()                    leave(): idle, told to retire, or found gone
//! (nothing) ───────▶ live: a handle ──────────▶ leaving: no handle ──exited()──▶ (nothing)
//!                        ▲                          │ lane()
//!                        └── next generation ◀──────┘ its actor starts when the one before reported its exit
//! ```
//!
//! A lane exists before its actor does, so nobody waits for a start: packs gather in the lane, within the tenant's share of
//! memory, while the previous incarnation ends or the back-off after a crash runs. (So there is no `Starting` state.)
//!
//! Leaving drops the directory's handle; handles that were borrowed keep the lane open until they are done, so late work is
//! still served; then the lane ends, and the actor flushes and stops. `generation` keeps an actor from putting out its
//! successor. No guard of the map is held while anything is sent, dropped or awaited.

use super::{
    runtime::Shards,
    supervise::{self, ChildExited, Crashes, How},
    tenant::{
        Surroundings, TenantActor,
        handle::{Control, TenantHandle},
    },
};
use crate::model::{batch::Work, credit::Budget, tenant::TenantId};
use dashmap::{DashMap, mapref::entry::Entry};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// The bounds of the tenants' lanes.
#[derive(Debug, Clone, Copy)]
pub struct LaneSettings {
    /// Packs that fit into a lane.
    pub slots: usize,
    /// A tenant's share of the memory budget, bytes.
    pub tenant_bytes: usize,
    /// The memory budget of all, bytes.
    pub memory_bytes: usize,
}

/// The tenants that have an actor.
pub struct Directory {
    slots: DashMap<TenantId, Slot>,
    crashes: DashMap<TenantId, Crashes>,
    surroundings: Surroundings,
    lanes: LaneSettings,
    memory: Arc<Semaphore>,
    shards: Shards,
    generations: AtomicU64,
    restarts: AtomicU64,
    closed: AtomicBool,
    /// Told whenever an actor has left.
    left: Notify,
}

struct Slot {
    generation: u64,
    /// `None`: leaving.
    handle: Option<TenantHandle>,
    /// The share outlives an incarnation, so that what its predecessor still has in flight counts.
    budget: Budget,
    exited: CancellationToken,
}

impl Directory {
    pub(crate) fn new(surroundings: Surroundings, lanes: LaneSettings, shards: Shards) -> Arc<Self> {
        Arc::new(Self {
            slots: DashMap::new(),
            crashes: DashMap::new(),
            surroundings,
            lanes,
            memory: Arc::new(Semaphore::new(lanes.memory_bytes.min(Semaphore::MAX_PERMITS))),
            shards,
            generations: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            left: Notify::new(),
        })
    }

    /// The way into the tenant's actor, which is started if there is none. `None` once closed.
    pub fn lane(self: &Arc<Self>, tenant: &TenantId) -> Option<TenantHandle> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        if let Some(handle) = self.existing(tenant) {
            return Some(handle);
        }
        let entry = self.slots.entry(tenant.clone());
        // Again under the guard: `close` sets this before it visits the slots, so it sees the new slot, or this sees it.
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let (handle, launch) = match entry {
            Entry::Occupied(mut entry) => {
                if let Some(handle) = &entry.get().handle {
                    return Some(handle.clone());
                }
                let previous = entry.get();
                let (slot, handle, launch) = self.incarnate(tenant, previous.budget.clone(), Some(previous.exited.clone()));
                entry.insert(slot);
                (handle, launch)
            }
            Entry::Vacant(entry) => {
                let budget = Budget::new(self.lanes.tenant_bytes, self.memory.clone());
                let (slot, handle, launch) = self.incarnate(tenant, budget, None);
                entry.insert(slot);
                (handle, launch)
            }
        };
        launch.go();
        Some(handle)
    }

    /// The way into the tenant's actor, if it has one; starts none.
    pub fn existing(&self, tenant: &TenantId) -> Option<TenantHandle> {
        self.slots.get(tenant)?.handle.clone()
    }

    fn incarnate(self: &Arc<Self>, tenant: &TenantId, budget: Budget, previous: Option<CancellationToken>) -> (Slot, TenantHandle, Launch) {
        let generation = 1 + self.generations.fetch_add(1, Ordering::Relaxed);
        let share = self.lanes.tenant_bytes.min(self.lanes.memory_bytes);
        let (handle, lane, control) = TenantHandle::new(generation, self.lanes.slots, budget.clone(), share);
        let slot = Slot {
            generation,
            handle: Some(handle.clone()),
            budget,
            exited: CancellationToken::new(),
        };
        let report = ExitReport {
            directory: self.clone(),
            exited: slot.exited.clone(),
            child: Some((tenant.clone(), generation)),
        };
        let launch = Launch {
            lane,
            control,
            previous,
            report,
        };
        (slot, handle, launch)
    }

    /// Takes this incarnation out, so that its lane ends; the next look-up makes a new one. Nothing if it is out already.
    pub fn leave(&self, tenant: &TenantId, generation: u64) {
        let handle = match self.slots.get_mut(tenant) {
            Some(mut slot) if slot.generation == generation => slot.handle.take(),
            Some(_) | None => None,
        };
        drop(handle); // after the guard
    }

    fn exited(&self, child: ChildExited<TenantId>) {
        if child.how == How::Panicked {
            tracing::warn!(generation = child.generation, "a tenant actor panicked; its packs are delivered again");
            self.crashes.entry(child.who.clone()).or_default().crashed(Instant::now());
        }
        let slot = self.slots.remove_if(&child.who, |_, slot| slot.generation == child.generation);
        drop(slot);
        self.left.notify_waiters();
    }

    /// How long the next incarnation has to wait after a crash of the last one.
    fn back_off(&self, tenant: &TenantId) -> Option<Duration> {
        let delay = self.crashes.get_mut(tenant)?.restart(Instant::now())?;
        self.restarts.fetch_add(1, Ordering::Relaxed);
        Some(delay)
    }

    /// Ends every lane and waits until every actor has handed over what it had and ended; nobody finds a lane any more.
    /// Handles that are still borrowed keep their lanes open. Cancel-safe: later calls wait on.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let handles: Vec<_> = self.slots.iter_mut().filter_map(|mut slot| slot.handle.take()).collect();
        drop(handles);
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.slots.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Actors that run, start or end.
    pub fn live(&self) -> usize {
        self.slots.len()
    }

    /// Restarts after a crash since the process started.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Tenants whose actor crashed more than five times in the last minute. Forgets crashes that are older.
    pub fn degraded(&self) -> usize {
        let now = Instant::now();
        self.crashes.retain(|_, crashes| !crashes.is_forgotten(now));
        self.crashes.iter().filter(|crashes| crashes.is_degraded(now)).count()
    }

    /// Bytes of the memory budget that packs hold now.
    pub fn memory_in_use(&self) -> usize {
        self.lanes.memory_bytes.min(Semaphore::MAX_PERMITS) - self.memory.available_permits()
    }

    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }
}

/// An incarnation whose lane is open and whose actor is to be started, once.
struct Launch {
    lane: mpsc::Receiver<Box<Work>>,
    control: Control,
    previous: Option<CancellationToken>,
    report: ExitReport,
}

impl Launch {
    fn go(self) {
        let directory = self.report.directory.clone();
        let crashed = || directory.crashes.contains_key(self.report.tenant());
        if self.previous.is_none() && !crashed() {
            return self.start();
        }
        directory.surroundings.io.spawn(async move {
            if let Some(previous) = &self.previous {
                previous.cancelled().await;
            }
            if let Some(delay) = self.report.directory.back_off(self.report.tenant()) {
                tokio::time::sleep(delay).await;
            }
            self.start();
        });
    }

    fn start(self) {
        let Self { lane, control, report, .. } = self;
        let directory = report.directory.clone();
        let shard = directory.shards.of(report.tenant());
        let shards = directory.shards.clone();
        shards.run(shard, move || {
            let who = report.child.clone().expect("not reported yet");
            let addr = supervise::start(move |ctx| TenantActor::new(ctx, who, lane, directory), move |how| report.report(how));
            // Set once here and nowhere else, so it cannot be taken.
            let _ = control.set(addr);
        });
    }
}

/// Reports the end of one incarnation, whatever happens: dropped unused, it says "cancelled".
struct ExitReport {
    directory: Arc<Directory>,
    exited: CancellationToken,
    child: Option<(TenantId, u64)>,
}

impl ExitReport {
    fn tenant(&self) -> &TenantId {
        &self.child.as_ref().expect("it is taken when reporting, which consumes the report").0
    }

    fn report(mut self, how: How) {
        self.tell(how);
    }

    fn tell(&mut self, how: How) {
        if let Some((who, generation)) = self.child.take() {
            self.directory.exited(ChildExited { who, generation, how });
            self.exited.cancel();
        }
    }
}

impl Drop for ExitReport {
    fn drop(&mut self) {
        self.tell(How::Cancelled);
    }
}
