//! The live feed: what the authority shows, in sequence order, to every session of the tenant.
//!
//! ```text
//! follower ──publish──▶ lane (bounded in bytes) ──▶ Broadcaster ──▶ outbox ──▶ Session ──▶ WebSocket, SSE
//!                          │ full                     (encodes)       │ full       │ behind
//!                          └─▶ the tenants' sessions are behind       └─▶ OnSlow   └─▶ reads the store
//! ```
//!
//! * Publishing never blocks: an overflow only makes sessions read the store. Nothing is lost by it.
//! * A session gets strictly increasing numbers, each once, and nothing of another tenant.
//! * Once an erasure is published, what was read or queued before it is not shown any more: sessions read the store again.
//! * An entry is masked and encoded once for all live sessions that see it through one mask, and only if one of them wants it.
//! * The broadcaster is one supervised actor on its own thread. When it panics, all sessions read the store instead, and a
//!   new one goes on with the lane.
//!
//! It does not authenticate; whether a session may go on, and whether its mask is still the tenant's, is for the caller to look at.

mod catch_up;
pub mod messages;
mod outbox;
pub mod session;
#[cfg(test)]
mod tests;

pub use self::session::Session;

use self::{
    messages::Announced,
    outbox::{Offer, Outbox},
};
use super::{
    runtime::{Runtime, Shards},
    supervise::{self, Crashes, How},
};
use crate::{
    model::{
        entry::StoredEntry,
        feed::{FeedEnd, OnSlow},
        filter::{Filter, Surroundings},
        mask::Mask,
        tenant::{TenantId, TenantScope},
    },
    seal::{DecidedEntry, DecidedSeal},
    sinks::Authority,
};
use actix::{Actor, Context, StreamHandler};
use bytes::Bytes;
use dashmap::{DashMap, mapref::entry::Entry};
use futures_util::Stream;
use smallvec::SmallVec;
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

/// Told of each seal, in order, once the authority shows it.
pub trait Publisher: Send + Sync + 'static {
    /// Never blocks.
    fn publish(&self, seal: &Arc<DecidedSeal>);

    /// Whether somebody follows the tenant: a seal that touches nobody who is followed need not be published.
    fn wants(&self, _tenant: &TenantId) -> bool {
        true
    }

    /// Seals that the authority shows were not published: whoever follows a tenant must read the store. Never blocks.
    fn missed(&self) {}
}

/// Bounds of the live feed.
#[derive(Debug, Clone)]
pub struct FeedSettings {
    /// Most sessions at once.
    pub sessions: usize,
    /// Most sessions of one tenant at once.
    pub tenant_sessions: usize,
    /// Frames that wait for one session, bytes; a single larger frame waits alone.
    pub session_bytes: usize,
    /// Packs of seals that wait for the broadcaster, bytes.
    pub lane_bytes: usize,
    /// Entries in a page that a session reads from the store.
    pub page: usize,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            sessions: 2048,
            tenant_sessions: 256,
            session_bytes: 1 << 20,
            lane_bytes: 16 << 20,
            page: 256,
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// `after` is a number that the tenant does not have yet.
    #[error("`after` is beyond the head `{head}`")]
    BeyondHead {
        /// The largest visible number.
        head: u64,
    },
    /// There are as many sessions as there may be.
    #[error("too many live sessions")]
    TooMany,
    /// The process is stopping.
    #[error("the live feed is stopping")]
    Stopping,
}

/// The way to the live feed. Cheap to clone; when the last one is dropped, the broadcaster ends.
#[derive(Clone)]
pub struct FeedHandle {
    feed: Arc<Feed>,
    lane: mpsc::UnboundedSender<Announced>,
    room: Arc<Semaphore>,
    runtime: Arc<Mutex<Option<Runtime>>>,
}

impl FeedHandle {
    /// Starts the feed with a thread for its broadcaster. Panics where the operating system refuses one.
    pub fn new(authority: Arc<dyn Authority>, settings: FeedSettings) -> Self {
        let runtime = Runtime::start("sluice-feed", 1);
        let handle = Self::start_on(runtime.shards().clone(), authority, settings);
        *lock(&handle.runtime) = Some(runtime);
        handle
    }

    fn start_on(shards: Shards, authority: Arc<dyn Authority>, settings: FeedSettings) -> Self {
        let (lane, announced) = mpsc::unbounded_channel(); // bounded by `room`
        let room = Arc::new(Semaphore::new(settings.lane_bytes.clamp(1, u32::MAX as usize)));
        let feed = Arc::new(Feed {
            authority,
            settings,
            hubs: DashMap::new(),
            open: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let broadcaster = Incarnation {
            feed: feed.clone(),
            lane: Lane(Arc::new(Mutex::new(announced))),
            crashes: Crashes::default(),
        };
        shards.run(0, move || broadcaster.start());
        Self {
            feed,
            lane,
            room,
            runtime: Arc::default(),
        }
    }

    /// Subscribes to one tenant. With `after`, the session first gets what comes after that number; without, it begins at
    /// the head that is visible now. The caller has checked that the store is not starting: its head would be too small.
    pub async fn subscribe(&self, scope: TenantScope, filter: Filter, after: Option<u64>, on_slow: OnSlow) -> Result<Session, SubscribeError> {
        let feed = &self.feed;
        let outbox = Arc::new(Outbox::new(filter, on_slow, feed.settings.session_bytes));
        feed.register(scope.tenant(), &outbox)?;
        // From here on dropping the session unsubscribes. Registered first, so what is published meanwhile is noted; what
        // was published before is below this head.
        let head = feed.authority.visible_head(&scope).head;
        outbox.miss(head);
        let session = Session::new(feed.clone(), scope, outbox, after.unwrap_or(head));
        match after {
            Some(after) if after > head => Err(SubscribeError::BeyondHead { head }),
            Some(_) | None => Ok(session),
        }
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.feed.open.load(Ordering::Relaxed)
    }

    /// Ends every session with [`FeedEnd::Shutdown`] and joins the broadcaster's thread: blocks until the announcement in
    /// hand is done. No session begins after.
    pub fn close(&self) {
        self.feed.close();
        let runtime = lock(&self.runtime).take();
        if let Some(runtime) = runtime {
            runtime.stop();
        }
    }
}

impl Publisher for FeedHandle {
    fn publish(&self, seal: &Arc<DecidedSeal>) {
        for made in &seal.seal.erasures {
            self.feed.forget(&seal.seal.tenants[made.tenant as usize].tenant);
        }
        let Some(bytes) = self.feed.wanted_bytes(seal) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.feed.lane_permits());
        match self.room.clone().try_acquire_many_owned(bytes) {
            Ok(room) => {
                // Refused only when the broadcaster's thread has stopped: the sessions have been told then.
                let _ = self.lane.send(Announced {
                    seal: seal.clone(),
                    _room: room,
                });
            }
            Err(_full) => {
                for touched in &seal.seal.tenants {
                    self.feed.miss(&touched.tenant, touched.head);
                }
            }
        }
    }

    fn wants(&self, tenant: &TenantId) -> bool {
        self.feed.hubs.contains_key(tenant)
    }

    fn missed(&self) {
        // An erasure may be among them.
        self.feed.all_hubs().iter().for_each(|(tenant, _)| self.feed.forget(tenant));
    }
}

/// The sessions of one tenant; copied on change, so that broadcasting holds no lock.
type Hub = Arc<Vec<Arc<Outbox>>>;

/// What sessions, publisher and broadcaster share.
struct Feed {
    authority: Arc<dyn Authority>,
    settings: FeedSettings,
    hubs: DashMap<TenantId, Hub>,
    open: AtomicUsize,
    closed: AtomicBool,
}

impl Feed {
    fn register(&self, tenant: &TenantId, outbox: &Arc<Outbox>) -> Result<(), SubscribeError> {
        let place = |open| (open < self.settings.sessions).then_some(open + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_err() {
            return Err(SubscribeError::TooMany);
        }
        {
            let mut hub = self.hubs.entry(tenant.clone()).or_default();
            if hub.len() >= self.settings.tenant_sessions {
                drop(hub);
                self.open.fetch_sub(1, Ordering::Relaxed);
                return Err(SubscribeError::TooMany);
            }
            Arc::make_mut(&mut hub).push(outbox.clone());
        }
        // After registering: either `close` sees this session, or this sees that it is closed.
        if self.closed.load(Ordering::SeqCst) {
            self.unsubscribe(tenant, outbox);
            return Err(SubscribeError::Stopping);
        }
        Ok(())
    }

    fn unsubscribe(&self, tenant: &TenantId, outbox: &Arc<Outbox>) {
        if let Entry::Occupied(mut hub) = self.hubs.entry(tenant.clone()) {
            Arc::make_mut(hub.get_mut()).retain(|other| !Arc::ptr_eq(other, outbox));
            if hub.get().is_empty() {
                hub.remove();
            }
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for hub in self.all_hubs() {
            hub.1.iter().for_each(|outbox| outbox.end(FeedEnd::Shutdown));
        }
    }

    fn hub(&self, tenant: &TenantId) -> Option<Hub> {
        self.hubs.get(tenant).map(|hub| hub.clone())
    }

    fn all_hubs(&self) -> Vec<(TenantId, Hub)> {
        self.hubs.iter().map(|hub| (hub.key().clone(), hub.value().clone())).collect()
    }

    fn lane_permits(&self) -> u32 {
        u32::try_from(self.settings.lane_bytes).unwrap_or(u32::MAX).max(1)
    }

    /// What `seal` holds in memory while it waits; `None` when no session is touched by it.
    fn wanted_bytes(&self, seal: &DecidedSeal) -> Option<usize> {
        let wanted = !self.hubs.is_empty() && seal.seal.tenants.iter().any(|t| self.hubs.contains_key(&t.tenant));
        wanted.then(|| seal.packs.iter().map(|pack| pack.bytes().len()).sum())
    }

    /// Sessions of `tenant` were not offered the numbers up to `head`.
    fn miss(&self, tenant: &TenantId, head: u64) {
        if let Some(hub) = self.hub(tenant) {
            hub.iter().for_each(|outbox| outbox.miss(head));
        }
    }

    /// Rows of `tenant` were erased.
    fn forget(&self, tenant: &TenantId) {
        if let Some(hub) = self.hub(tenant) {
            let head = self.authority.visible_head(&TenantScope::new(tenant.clone())).head;
            hub.iter().for_each(|outbox| outbox.forget(head));
        }
    }

    /// Nobody knows what was offered to whom: all sessions read the store, which shows whatever was announced.
    fn miss_all(&self) {
        for (tenant, hub) in self.all_hubs() {
            let head = self.authority.visible_head(&TenantScope::new(tenant)).head;
            hub.iter().for_each(|outbox| outbox.miss(head));
        }
    }

    fn broadcast(&self, seal: &DecidedSeal) {
        let hubs: Vec<Option<Hub>> = seal.seal.tenants.iter().map(|t| self.hub(&t.tenant)).collect();
        let mut entries: Vec<Vec<DecidedEntry<'_>>> = hubs.iter().map(|_| Vec::new()).collect();
        let mut decided = seal.entries();
        for pack in &seal.seal.packs {
            let of_pack = decided.by_ref().take(pack.decisions.len());
            let tenant = pack.tenant as usize;
            match hubs.get(tenant) {
                Some(Some(_)) => entries[tenant].extend(of_pack.filter(|entry| entry.sequence.is_some())),
                Some(None) | None => of_pack.for_each(drop),
            }
        }
        for ((touched, hub), entries) in seal.seal.tenants.iter().zip(hubs).zip(entries) {
            if let Some(hub) = hub {
                announce(&hub, &touched.tenant, touched.void, &entries);
            }
        }
    }
}

/// Offers one tenant's part of a seal to its sessions: the void range, if there is one, in its place between the entries.
fn announce(hub: &Hub, tenant: &TenantId, void: Option<(u64, u64)>, entries: &[DecidedEntry<'_>]) {
    let numbers = || entries.iter().filter_map(|entry| entry.sequence);
    let first = numbers().chain(void.map(|v| v.0)).min();
    let last = numbers().chain(void.map(|v| v.1)).max();
    let (Some(from), Some(to)) = (first, last) else { return };
    let offers: Vec<(&Filter, Offer<'_>)> = hub.iter().filter_map(|o| Some((&o.filter, o.begin(from, to)?))).collect();
    if offers.is_empty() {
        return;
    }
    let mut void = void;
    for entry in entries {
        let Some(sequence) = entry.sequence else { continue };
        if let Some((from, to)) = void.take_if(|v| v.0 < sequence) {
            offers.iter().for_each(|(_, offer)| offer.void(from, to));
        }
        offer_entry(&offers, tenant, entry, sequence);
    }
    if let Some((from, to)) = void {
        offers.iter().for_each(|(_, offer)| offer.void(from, to));
    }
}

/// An entry as one mask, or none, shows it: made once for all sessions that see through it.
struct Seen<'m> {
    mask: Option<&'m Arc<Mask>>,
    entry: StoredEntry,
    json: Option<Bytes>,
}

fn offer_entry(offers: &[(&Filter, Offer<'_>)], tenant: &TenantId, entry: &DecidedEntry<'_>, sequence: u64) {
    let header = entry.pack.header();
    #[cfg(test)]
    assert_ne!(&*header.request_id, super::testing::CRASH, "a test's own panic");
    // A tenant has one mask; sessions that began before it was changed have the old one, for as long as they last.
    let mut views: SmallVec<[Seen<'_>; 2]> = SmallVec::new();
    for (filter, offer) in offers {
        if !offer.is_new(sequence) {
            continue;
        }
        let mask = filter.mask.as_ref();
        let at = views.iter().position(|seen| seen.mask == mask).unwrap_or_else(|| {
            let stored = StoredEntry {
                record: entry.pack.record(entry.index),
                received_at: header.received_at,
                actor: header.actor.clone(),
                sequence: Some(sequence),
            };
            views.push(Seen {
                mask,
                entry: mask.map_or_else(|| stored.clone(), |mask| mask.entry(&stored)),
                json: None,
            });
            views.len() - 1
        });
        let Seen { entry: seen, json, .. } = &mut views[at];
        let around = Surroundings { sequence, actor: &seen.actor };
        if filter.matches_shown(&seen.entry(), around) {
            offer.entry(sequence, json.get_or_insert_with(|| catch_up::render_entry(tenant, seen)).clone());
        }
    }
}

/// The receiving end of the lane. It outlives an incarnation of the broadcaster.
#[derive(Clone)]
struct Lane(Arc<Mutex<mpsc::UnboundedReceiver<Announced>>>);

impl Stream for Lane {
    type Item = Announced;

    fn poll_next(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Announced>> {
        lock(&self.0).poll_recv(cx)
    }
}

/// Offers announced seals to the sessions. It owns nothing: what it did not finish, sessions read from the store.
pub struct Broadcaster {
    feed: Arc<Feed>,
}

impl Actor for Broadcaster {
    type Context = Context<Self>;
}

impl StreamHandler<Announced> for Broadcaster {
    fn handle(&mut self, announced: Announced, _: &mut Context<Self>) {
        self.feed.broadcast(&announced.seal);
    }
    // `finished` stops the actor: the last handle was dropped.
}

/// What one incarnation of the broadcaster hands to the next.
struct Incarnation {
    feed: Arc<Feed>,
    lane: Lane,
    crashes: Crashes,
}

impl Incarnation {
    fn start(self) {
        let (feed, lane) = (self.feed.clone(), self.lane.clone());
        let make = |ctx: &mut Context<Broadcaster>| {
            Broadcaster::add_stream(lane, ctx);
            Broadcaster { feed }
        };
        supervise::start(make, |how| self.ended(how));
    }

    fn ended(mut self, how: How) {
        if how != How::Panicked {
            return;
        }
        tracing::error!("the broadcaster panicked; live sessions read the store meanwhile");
        self.crashes.crashed(Instant::now());
        self.feed.miss_all();
        let delay = self.crashes.restart(Instant::now()).unwrap_or(Duration::ZERO);
        actix::spawn(async move {
            tokio::time::sleep(delay).await;
            self.start();
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
