//! What the handlers share.

use super::{cursor::CursorKey, export::Exports, health::Health, limited::Limits, memory::BodyMemory, server::Drain, settings::HttpSettings};
use crate::{
    actors::broadcast::FeedHandle,
    auth::{Authenticator, login::Logins},
    catalog::Catalog,
    lifecycle::{access_log::AccessLog, deletion::Deletions, erasure::Eraser, export},
    model::tenant::TenantId,
    queue::Producer,
    sinks::{Authority, dead_letter::DeadLetters},
    telemetry::metrics::{Outcome, metrics},
};
use dashmap::{DashMap, DashSet};
use std::{sync::Arc, thread::available_parallelism};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// What the HTTP surface works with. Handed over by the application.
#[derive(Clone)]
pub struct Services {
    /// Makes packs durable.
    pub producer: Arc<dyn Producer>,
    /// Answers reads.
    pub authority: Arc<dyn Authority>,
    /// The live feed.
    pub feed: FeedHandle,
    /// The tenants.
    pub catalog: Catalog,
    /// Erases.
    pub eraser: Eraser,
    /// Deletes tenants.
    pub deletions: Deletions,
    /// Writes down who reads and changes what.
    pub access_log: AccessLog,
    /// What could not be stored.
    pub dead_letters: DeadLetters,
    /// Exports in the background.
    pub export_jobs: export::Exports,
    /// Checks credentials.
    pub auth: Arc<Authenticator>,
    /// Lets people in by their password.
    pub logins: Arc<Logins>,
    /// Signs the cursors of lists.
    pub cursors: CursorKey,
    /// How the process is.
    pub health: Arc<Health>,
    /// Tells the sessions to end, and knows when they have.
    pub drain: Drain,
    /// Limits and times.
    pub settings: HttpSettings,
}

/// The services, and what the surface itself keeps.
pub struct App {
    /// What the application handed over.
    pub services: Services,
    /// The memory of request bodies.
    pub memory: Arc<BodyMemory>,
    /// Rates, quotas, and tries of addresses.
    pub limits: Limits,
    /// Large bodies that are decoded and parsed at once: as many as there are cores, the others wait holding their budget.
    pub parsing: Arc<Semaphore>,
    /// Sockets of the live feed that have not named a credential yet.
    pub strangers: Arc<Semaphore>,
    /// Exports under way.
    pub exports: Arc<Exports>,
    /// Dead letters that are being replayed or deleted.
    pub letters_in_hand: DashSet<(TenantId, Uuid)>,
    /// Entries rejected since the start, per tenant of the catalog: best effort, not durable.
    rejected: DashMap<TenantId, u64>,
}

impl App {
    /// What the handlers share.
    pub fn new(services: Services) -> Arc<Self> {
        let settings = &services.settings;
        Arc::new(Self {
            memory: BodyMemory::new(settings.body_memory_bytes, settings.body_memory_tenant_bytes),
            limits: Limits::new(&settings.limits),
            parsing: Arc::new(Semaphore::new(available_parallelism().map_or(2, usize::from))),
            strangers: Arc::new(Semaphore::new(settings.feed_unauthenticated)),
            exports: Exports::new(settings),
            letters_in_hand: DashSet::new(),
            rejected: DashMap::new(),
            services,
        })
    }

    /// Counts rejected entries of a tenant that exists.
    pub fn count_rejected(&self, tenant: &TenantId, entries: usize) {
        if entries > 0 {
            metrics().entries(Outcome::Rejected, entries as u64);
            *self.rejected.entry(tenant.clone()).or_default() += entries as u64;
        }
    }

    /// The tenant is deleted.
    pub fn forget(&self, tenant: &TenantId) {
        self.rejected.remove(tenant);
    }

    /// How many entries of the tenant were rejected since the start.
    pub fn rejected(&self, tenant: &TenantId) -> u64 {
        self.rejected.get(tenant).map_or(0, |n| *n)
    }
}
