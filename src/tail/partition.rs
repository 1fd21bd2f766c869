//! What is known of one partition: the state after the last seal that was seen, and for each store the heads as of its cursor.

use super::{Behind, Publishing};
use crate::{
    actors::broadcast::Publisher,
    model::{tenant::TenantId, time::now_ms},
    queue::seals::{ANALYTICS, Seals},
    seal::{
        Seal,
        erasure::{Erasure, Erasures},
        state::{BrokenChain, SealState},
        view::Heads,
    },
};
use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use uuid::Uuid;

/// One store's view of the partition.
pub(super) struct Shown {
    pub(super) name: &'static str,
    pub(super) heads: Heads,
    /// It lacks seals that are trimmed: nothing can be said about what it has until it is rebuilt.
    pub(super) detached: bool,
}

/// See the module.
pub(super) struct State {
    pub(super) seals: SealState,
    pub(super) stores: Vec<Shown>,
    /// In which seal, at the latest, each pending erasure was made.
    erased_at: HashMap<Uuid, u64>,
}

impl State {
    /// The state as of a checkpoint, with what the stores show of it.
    pub(super) fn new(seals: SealState, stores: Vec<Shown>) -> Self {
        let pending = seals.erasures.values().flat_map(|all| all.pending());
        let erased_at = pending.map(|erasure| (erasure.job, seals.n)).collect();
        Self { seals, stores, erased_at }
    }

    /// The next seal.
    pub(super) fn fold(&mut self, seal: &Seal, crc: u32) -> Result<(), BrokenChain> {
        self.seals.check_next(seal)?;
        self.seals.fold(seal, crc);
        self.erased_at.extend(seal.erasures.iter().map(|made| (made.erasure.job, seal.n)));
        for result in &seal.removed {
            self.erased_at.remove(&result.job);
        }
        let now = now_ms();
        self.stores.iter_mut().for_each(|store| store.heads.sealed(seal, now));
        Ok(())
    }

    fn analytics(&self) -> Option<&Shown> {
        self.stores.iter().find(|store| store.name == ANALYTICS)
    }

    /// The first pending erasure of each tenant, if analytics shows its seal.
    pub(super) fn countable(&self) -> Vec<(TenantId, Erasure)> {
        let Some(store) = self.analytics().filter(|store| !store.detached) else {
            return Vec::new();
        };
        let is_shown = |erasure: &Erasure| self.erased_at.get(&erasure.job).is_some_and(|n| *n <= store.heads.upto());
        let first = |(tenant, all): (&TenantId, &Arc<Erasures>)| {
            let erasure = all.pending().first().copied().filter(is_shown)?;
            Some((tenant.clone(), erasure))
        };
        self.seals.erasures.iter().filter_map(first).collect()
    }
}

/// One partition.
pub(super) struct Partition {
    /// Its place in the configuration.
    pub(super) index: usize,
    pub(super) seals: Seals,
    /// `None` until it was read once.
    state: RwLock<Option<State>>,
    /// When the last look began that came to its end, also in milliseconds since 1970: everything that was durable then is in `state`.
    pub(super) polled: watch::Sender<Option<(Instant, i64)>>,
    /// The last seal in `state`.
    pub(super) folded: watch::Sender<u64>,
    /// The largest seal that analytics shows.
    pub(super) shown: watch::Sender<u64>,
    /// The largest seal that every store shows.
    pub(super) settled: watch::Sender<u64>,
    /// Counts changes of `state`.
    pub(super) moved: watch::Sender<u64>,
    /// Seals up to this one are trimmed, as far as was looked.
    pub(super) floor: AtomicU64,
    /// Look now.
    pub(super) nudge: Notify,
    /// So many wait for something to happen.
    waiting: AtomicUsize,
    pub(super) publishing: Option<Arc<Publishing>>,
}

/// Somebody waits for something to happen, while it lives.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Partition {
    pub(super) fn new(index: usize, seals: Seals, publisher: Option<Arc<dyn Publisher>>) -> Self {
        Self {
            index,
            seals,
            state: RwLock::default(),
            polled: watch::Sender::new(None),
            folded: watch::Sender::new(0),
            shown: watch::Sender::new(0),
            settled: watch::Sender::new(0),
            moved: watch::Sender::new(0),
            floor: AtomicU64::new(0),
            nudge: Notify::new(),
            waiting: AtomicUsize::new(0),
            publishing: publisher.map(Publishing::new).map(Arc::new),
        }
    }

    /// What `what` says of the state, if it was read.
    pub(super) fn read<T>(&self, what: impl FnOnce(&State) -> T) -> Option<T> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(what)
    }

    /// Changes the state, if there is one, and tells who listens.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Option<T> {
        let changed = self.state.write().unwrap_or_else(PoisonError::into_inner).as_mut().map(change);
        self.tell();
        changed
    }

    /// Puts another state in the place of the one there is.
    pub(super) fn replace(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(state);
        self.tell();
    }

    fn tell(&self) {
        let numbers = self.read(|state| {
            let shown = state.analytics().map_or(0, |store| store.heads.upto());
            let settled = state.stores.iter().map(|store| if store.detached { 0 } else { store.heads.upto() }).min();
            (state.seals.n, shown, settled.unwrap_or(0))
        });
        let Some((folded, shown, settled)) = numbers else { return };
        let raise = |channel: &watch::Sender<u64>, to: u64| channel.send_if_modified(|at| std::mem::replace(at, to.max(*at)) < to);
        raise(&self.folded, folded);
        raise(&self.shown, shown);
        raise(&self.settled, settled);
        self.moved.send_modify(|changes| *changes += 1);
    }

    /// Somebody waits for something to happen: it is looked often.
    pub(super) fn attend(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.nudge.notify_one();
        Waiting(&self.waiting)
    }

    /// Whether somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Resolves when the last complete look began at most `age` before this call; [`Behind`] when that takes longer than `within`.
    ///
    /// Both clocks must say so: the monotonic one may stand still while the whole machine does, the other one may be set, and
    /// neither makes a view look younger than it is unless both err at once.
    pub(super) async fn fresh(&self, age: Duration, within: Duration) -> Result<(), Behind> {
        let (since, wall) = (Instant::now().checked_sub(age), now_ms() - age.as_millis() as i64);
        let young =
            |polled: &Option<(Instant, i64)>| polled.is_some_and(|(began, at)| since.is_none_or(|since| began >= since) && (wall..=now_ms()).contains(&at));
        // What was never read is said by the view itself: it is not ready.
        if young(&self.polled.borrow()) || self.read(|_| ()).is_none() {
            return Ok(());
        }
        let mut polled = self.polled.subscribe();
        // A look that has begun already may be young enough; if it is not, the nudge is kept for the next.
        self.nudge.notify_one();
        let looked = async { polled.wait_for(young).await.is_ok() };
        match timeout(within, looked).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Behind),
        }
    }
}
