//! Takes deliveries from the queue and passes each to its tenant's lane, and never waits for a tenant.
//!
//! A tenant whose lane is full (no credit or no slot) has its packs **parked by position**: the pack's memory is let go,
//! and what stays is 32 bytes, the ticket included. One waiter per tenant stands in line for credit and slot of the pack
//! at the front; when settlement frees them, it reads the pack back from the log, delivers it, and the next one follows.
//! While anything of a tenant is parked, its later packs park behind it, so its order holds; other tenants go on.
//!
//! What is parked is bounded by the queue's caps on undecided bytes. When the router ends, parked tickets redeliver.

use super::{
    directory::Directory,
    tenant::handle::{Gone, Refused},
};
use crate::{
    model::{
        batch::{Delivery, Work},
        tenant::TenantId,
        ticket::Ticket,
    },
    queue::{PackReader, Position},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// What the router counts.
#[derive(Debug, Default)]
pub struct RouterCounters {
    /// Packs that are parked now.
    pub parked: AtomicUsize,
    /// Microseconds that packs at the front of a parked tenant have waited for room, summed up.
    pub waited_micros: AtomicU64,
}

/// A pack that waits in the log instead of in memory.
struct Parked {
    position: Position,
    bytes: u32,
    attempt: u32,
    ticket: Ticket,
}

impl From<Delivery> for Parked {
    fn from(delivery: Delivery) -> Self {
        Self {
            position: delivery.position,
            bytes: u32::try_from(delivery.pack.bytes().len()).unwrap_or(u32::MAX),
            attempt: delivery.attempt,
            ticket: delivery.ticket,
        }
    }
}

/// The router's state; [`Router::run`] is its task.
pub struct Router {
    deliveries: mpsc::Receiver<Delivery>,
    directory: Arc<Directory>,
    packs: Arc<dyn PackReader>,
    counters: Arc<RouterCounters>,
    /// Tenants with a waiter, and what is parked behind it.
    parked: HashMap<TenantId, VecDeque<Parked>>,
    waiters: FuturesUnordered<BoxFuture<'static, TenantId>>,
}

impl Router {
    /// A router that has not begun.
    pub fn new(deliveries: mpsc::Receiver<Delivery>, directory: Arc<Directory>, packs: Arc<dyn PackReader>, counters: Arc<RouterCounters>) -> Self {
        Self {
            deliveries,
            directory,
            packs,
            counters,
            parked: HashMap::new(),
            waiters: FuturesUnordered::new(),
        }
    }

    /// Routes until `stop`, or until the queue has ended and nothing is parked. What is left then redelivers.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut open = true;
        while open || !self.waiters.is_empty() {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(tenant) = self.waiters.next() => self.next_parked(tenant),
                delivery = self.deliveries.recv(), if open => match delivery {
                    Some(delivery) => self.route(delivery),
                    None => open = false,
                },
            }
        }
        self.counters.parked.store(0, Ordering::Relaxed);
    }

    fn route(&mut self, mut delivery: Delivery) {
        if let Some(behind) = self.parked.get_mut(delivery.pack.tenant()) {
            behind.push_back(delivery.into());
            self.counters.parked.fetch_add(1, Ordering::Relaxed);
            return;
        }
        while let Some(handle) = self.directory.lane(delivery.pack.tenant()) {
            delivery = match handle.try_append(delivery) {
                Ok(()) => return,
                Err(Refused::Full(delivery)) => {
                    let tenant = delivery.pack.tenant().clone();
                    self.parked.insert(tenant.clone(), VecDeque::new());
                    self.counters.parked.fetch_add(1, Ordering::Relaxed);
                    return self.wait_for_room(tenant, delivery.into());
                }
                Err(Refused::Gone(delivery)) => {
                    self.directory.leave(delivery.pack.tenant(), handle.generation());
                    delivery
                }
            };
        }
        // The directory is closed: the delivery is dropped, which redelivers it.
    }

    /// The waiter of `tenant` is done: the next parked pack gets one, or the tenant is free again.
    fn next_parked(&mut self, tenant: TenantId) {
        self.counters.parked.fetch_sub(1, Ordering::Relaxed);
        match self.parked.get_mut(&tenant).and_then(VecDeque::pop_front) {
            Some(next) => self.wait_for_room(tenant, next),
            None => {
                self.parked.remove(&tenant);
            }
        }
    }

    fn wait_for_room(&self, tenant: TenantId, parked: Parked) {
        let (directory, packs, counters) = (self.directory.clone(), self.packs.clone(), self.counters.clone());
        let waiter = async move {
            let began = Instant::now();
            deliver(&directory, &*packs, &tenant, parked).await;
            let waited = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            counters.waited_micros.fetch_add(waited, Ordering::Relaxed);
            tenant
        };
        self.waiters.push(waiter.boxed());
    }
}

/// Waits for room, reads the pack back and hands it over. Where that is impossible the ticket is dropped: it redelivers.
async fn deliver(directory: &Arc<Directory>, packs: &dyn PackReader, tenant: &TenantId, parked: Parked) {
    let Some(mut handle) = directory.lane(tenant) else { return };
    // Memory first, then the pack that takes it.
    let credit = handle.reserve(parked.bytes as usize, parked.attempt).await;
    let pack = match packs.read(parked.position).await {
        Ok(pack) => pack,
        Err(error) => {
            tracing::error!(%error, position = ?parked.position, "a parked pack is left to redelivery");
            return;
        }
    };
    let mut work = Work {
        delivery: Delivery {
            pack,
            position: parked.position,
            attempt: parked.attempt,
            ticket: parked.ticket,
        },
        credit: Some(credit),
    };
    while let Err(Gone(back)) = handle.append(work).await {
        work = back;
        directory.leave(tenant, handle.generation());
        match directory.lane(tenant) {
            Some(next) => handle = next,
            None => return,
        }
    }
}

impl RouterCounters {
    /// How long packs at the front of a parked tenant have waited for room, summed up.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_micros.load(Ordering::Relaxed))
    }
}
