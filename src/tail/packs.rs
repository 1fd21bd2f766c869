//! Packs that somebody waits for, and packs that this process has acknowledged and no seal has decided.
//!
//! Memory: one place for each request that waits; the last [`RECENT`] decisions, for those who ask a moment too late; the packs that were
//! acknowledged in the last [`GENERATION`] and the one before it, at most [`SENT`] in each (older ones are forgotten).

use super::Inner;
use crate::{
    model::tenant::TenantId,
    queue::Decided,
    seal::{Decision, Seal, SealPack},
};
use smallvec::SmallVec;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

const RECENT: usize = 65_536;
const SENT: usize = 100_000;
const GENERATION: Duration = Duration::from_secs(30);

/// Where a pack was decided, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) partition: usize,
    pub(super) n: u64,
    pub(super) decided: Decided,
}

/// See the module.
pub(super) struct Packs(Mutex<State>);

struct State {
    waiting: HashMap<Uuid, SmallVec<[oneshot::Sender<Sealed>; 1]>>,
    recent: HashMap<Uuid, Sealed>,
    order: VecDeque<Uuid>,
    /// Acknowledged and not decided: this generation, and the one before it.
    sent: [Generation; 2],
    since: Instant,
}

#[derive(Default)]
struct Generation {
    packs: HashMap<TenantId, HashSet<Uuid>>,
    count: usize,
}

impl Generation {
    fn remove(&mut self, tenant: &TenantId, pack: &Uuid) {
        let Some(packs) = self.packs.get_mut(tenant) else { return };
        if packs.remove(pack) {
            self.count -= 1;
            if packs.is_empty() {
                self.packs.remove(tenant);
            }
        }
    }
}

impl Default for Packs {
    fn default() -> Self {
        Self(Mutex::new(State {
            waiting: HashMap::new(),
            recent: HashMap::new(),
            order: VecDeque::new(),
            sent: Default::default(),
            since: Instant::now(),
        }))
    }
}

fn outcome(pack: &SealPack) -> Decided {
    let mut decided = Decided::default();
    for decision in &pack.decisions {
        match decision {
            Decision::New => decided.stored += 1,
            Decision::Duplicate => decided.duplicate += 1,
            Decision::Conflict | Decision::Refused => decided.dead_lettered += 1,
        }
    }
    decided
}

impl Packs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // changed by single steps
    }

    /// A seal was seen.
    pub(super) fn sealed(&self, partition: usize, seal: &Seal) {
        let mut state = self.lock();
        for pack in &seal.packs {
            let decided = outcome(pack);
            let sealed = Sealed { partition, n: seal.n, decided };
            for waiter in state.waiting.remove(&pack.pack_id).into_iter().flatten() {
                let _ = waiter.send(sealed); // nobody has to wait for it
            }
            let tenant = &seal.tenants[pack.tenant as usize].tenant;
            state.sent.iter_mut().for_each(|sent| sent.remove(tenant, &pack.pack_id));
            if state.recent.insert(pack.pack_id, sealed).is_none() {
                state.order.push_back(pack.pack_id);
            }
        }
        while state.order.len() > RECENT {
            if let Some(old) = state.order.pop_front() {
                state.recent.remove(&old);
            }
        }
    }

    /// Seals were passed over: what they decided is not known, so nothing that was sent before is waited for.
    pub(super) fn skipped(&self) {
        self.lock().sent = Default::default();
    }

    pub(super) fn acknowledged(&self, tenant: &TenantId, pack: Uuid) {
        let mut state = self.lock();
        if state.recent.contains_key(&pack) {
            return;
        }
        if state.since.elapsed() > GENERATION || state.sent[0].count >= SENT {
            state.sent.swap(0, 1);
            (state.sent[0], state.since) = (Generation::default(), Instant::now());
        }
        let newest = &mut state.sent[0];
        newest.count += usize::from(newest.packs.entry(tenant.clone()).or_default().insert(pack));
    }

    /// What was acknowledged of the tenant and is not decided.
    pub(super) fn undecided(&self, tenant: &TenantId) -> HashSet<Uuid> {
        let state = self.lock();
        state.sent.iter().filter_map(|sent| sent.packs.get(tenant)).flatten().copied().collect()
    }

    /// Whether none of these is undecided any more.
    pub(super) fn all_decided(&self, tenant: &TenantId, packs: &HashSet<Uuid>) -> bool {
        let state = self.lock();
        let mut left = state.sent.iter().filter_map(|sent| sent.packs.get(tenant)).flatten();
        packs.is_empty() || !left.any(|pack| packs.contains(pack))
    }
}

/// Somebody waits for a pack, while it lives.
pub(super) struct Listening {
    inner: Arc<Inner>,
    pack: Uuid,
    sealed: Option<oneshot::Receiver<Sealed>>,
    known: Option<Sealed>,
}

impl Inner {
    /// Listens for the decision about a pack, from now on.
    pub(super) fn listen(self: Arc<Self>, pack: Uuid) -> Listening {
        let mut state = self.packs.lock();
        let known = state.recent.get(&pack).copied();
        let sealed = known.is_none().then(|| {
            let (tell, told) = oneshot::channel();
            state.waiting.entry(pack).or_default().push(tell);
            told
        });
        drop(state);
        let inner = self;
        Listening { inner, pack, sealed, known }
    }
}

impl Listening {
    /// Resolves when a seal has decided it.
    pub(super) async fn sealed(mut self) -> Option<Sealed> {
        // In which partition it comes is for its tenant to say, who is not known here: all are looked at often.
        let inner = self.inner.clone();
        let _waiting: Vec<_> = inner.partitions.iter().map(|partition| partition.attend()).collect();
        match (self.known, self.sealed.as_mut()) {
            (Some(known), _) => Some(known),
            (None, Some(sealed)) => sealed.await.ok(),
            (None, None) => None,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.sealed.take());
        let mut state = self.inner.packs.lock();
        if let Some(waiters) = state.waiting.get_mut(&self.pack) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                state.waiting.remove(&self.pack);
            }
        }
    }
}
