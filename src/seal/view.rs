//! What the seals say about a tenant, as far as a store has applied them: what reads of a remote store need besides its rows.
//!
//! [`SealView`] is what a store asks. [`Heads`] is the sum behind it: the heads as of the seals that one store has applied, while
//! later seals wait. [`AppliedView`] is the view where log and store are driven by one process: it is told of each seal when it
//! is durable and of each that the store has applied; the view of processes that only read seals is [`crate::tail`]'s.
//!
//! Guarantees: a head never exceeds what the store has applied, so that a read `sequence <= head` sees whole seals only; an erasure
//! hides from the moment its seal is folded in, applied or not, which takes no row that it should not, since it names the
//! head that it reaches. Memory: the tenants, and [`WAITING`] changes of heads that wait; beyond it neighbouring seals are taken
//! together, so that a store that is far behind is shown in larger steps, later and never earlier than it could be.

use super::{
    FoundSeal, Seal, SealTenant,
    erasure::Erasures,
    state::{SealState, TenantState},
};
use crate::model::{tenant::TenantId, time::now_ms};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// Changes of heads that may wait for one store before seals are taken together.
pub const WAITING: usize = 200_000;

/// The state of the log as one store shows it. Cheap: memory only.
pub trait SealView: Send + Sync + 'static {
    /// The tenant's largest number in the seals that the store has applied, voids included; 0 when there is none.
    fn head(&self, tenant: &TenantId) -> u64;
    /// What is erased of the tenant by any durable seal that this process has seen, whether the store has applied it or not.
    fn erasures(&self, tenant: &TenantId) -> Option<Arc<Erasures>>;
    /// Changes when the store has applied another seal. With one partition it is the store's cursor; with several their sum.
    fn visible(&self) -> watch::Receiver<u64>;
    /// Whether the state was read once: before that every read is [`Starting`](crate::sinks::StoreError::Starting).
    fn ready(&self) -> bool;
    /// How long the oldest seal has waited that the store has not applied, milliseconds; 0 when it has all of them.
    fn lag_ms(&self) -> u64;
}

/// The tenant's head before the seal that has this change.
fn before(change: &SealTenant) -> u64 {
    change
        .void
        .map_or_else(|| change.head.saturating_sub(change.stored), |(from, _)| from.saturating_sub(1))
}

/// Neighbouring seals that wait for a store.
#[derive(Debug)]
struct Step {
    /// The last of them.
    n: u64,
    /// When the first of them began to wait, milliseconds since 1970.
    since: i64,
    /// The heads after them.
    heads: HashMap<TenantId, u64>,
}

/// The heads of a partition as of the seals that one store has applied.
#[derive(Debug)]
pub struct Heads {
    shown: HashMap<TenantId, u64>,
    waiting: VecDeque<Step>,
    /// Sum of the heads in `waiting`.
    changes: usize,
    /// The store has applied everything up to here.
    applied: u64,
    /// The largest seal whose heads are shown.
    upto: u64,
    /// Most of `changes`, and when seals are taken together next.
    limit: usize,
    bound: usize,
}

impl Heads {
    /// Of a store that has applied everything in `state`.
    pub fn new(state: &SealState) -> Self {
        Self {
            shown: state.tenants.iter().map(|(tenant, TenantState { head, .. })| (tenant.clone(), *head)).collect(),
            waiting: VecDeque::new(),
            changes: 0,
            applied: state.n,
            upto: state.n,
            limit: WAITING,
            bound: WAITING,
        }
    }

    /// Of a store that has applied the seals up to `cursor` only, which is not beyond `state`. To be told of all seals from
    /// `cursor` + 1 to `state.n`.
    pub fn rewind(state: &SealState, cursor: u64) -> Rewind {
        let mut heads = Self::new(state);
        (heads.applied, heads.upto) = (cursor, cursor);
        let touched = HashSet::new();
        Rewind { heads, touched }
    }

    /// Seal n is durable; `since` is when it began to wait for the store. It must follow the last one.
    pub fn sealed(&mut self, seal: &Seal, since: i64) {
        let heads: HashMap<_, _> = seal.tenants.iter().map(|change| (change.tenant.clone(), change.head)).collect();
        self.changes += heads.len();
        self.waiting.push_back(Step { n: seal.n, since, heads });
        self.advance();
        if self.changes > self.bound {
            self.coarsen();
        }
    }

    /// The store has applied every seal up to `n`. Says up to which one the heads are shown now.
    pub fn applied(&mut self, n: u64) -> u64 {
        self.applied = self.applied.max(n);
        self.advance();
        self.upto
    }

    /// The tenant's head as far as the store has applied it.
    pub fn head(&self, tenant: &TenantId) -> u64 {
        self.shown.get(tenant).copied().unwrap_or(0)
    }

    /// The largest seal whose heads are shown.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    /// Since when the oldest seal waits, milliseconds since 1970.
    pub fn waits_since(&self) -> Option<i64> {
        self.waiting.front().map(|step| step.since)
    }

    fn advance(&mut self) {
        while let Some(step) = self.waiting.pop_front_if(|step| step.n <= self.applied) {
            self.changes -= step.heads.len();
            self.upto = step.n;
            for (tenant, head) in step.heads {
                let shown = self.shown.entry(tenant).or_default();
                *shown = head.max(*shown);
            }
        }
    }

    /// Takes every two neighbours together, until half of the limit is free, or all is one step, in which each tenant is once.
    fn coarsen(&mut self) {
        while self.changes > self.limit / 2 && self.waiting.len() > 1 {
            let mut pairs = std::mem::take(&mut self.waiting).into_iter();
            while let Some(mut step) = pairs.next() {
                if let Some(next) = pairs.next() {
                    step.n = next.n;
                    step.heads.extend(next.heads); // later heads are larger
                }
                self.waiting.push_back(step);
            }
            self.changes = self.waiting.iter().map(|step| step.heads.len()).sum();
        }
        self.bound = self.limit.max(2 * self.changes); // with very many tenants: not again before it is worth it
    }
}

/// Heads that are being taken back to the cursor of a store that is behind: the first seal that touches a tenant says what its
/// head was before.
pub struct Rewind {
    heads: Heads,
    touched: HashSet<TenantId>,
}

impl Rewind {
    /// The next seal that the store lacks.
    pub fn pass(&mut self, seal: &Seal) {
        for change in &seal.tenants {
            if self.touched.insert(change.tenant.clone()) {
                self.heads.shown.insert(change.tenant.clone(), before(change));
            }
        }
        self.heads.sealed(seal, seal.sealed_at.min(now_ms()));
    }

    /// The heads as of the cursor, and what waits for it.
    pub fn finish(self) -> Heads {
        self.heads
    }
}

/// A view over a log and a store that this process drives itself.
pub struct AppliedView {
    state: RwLock<Applied>,
    visible: watch::Sender<u64>,
}

struct Applied {
    seals: SealState,
    heads: Heads,
}

impl AppliedView {
    /// A view as of `state`, the state after the last seal of the log, for a store that lacks the seals `waiting`: all from its
    /// cursor + 1 to `state.n`, in order.
    pub fn new(state: SealState, waiting: &[FoundSeal]) -> Self {
        let mut heads = Heads::rewind(&state, waiting.first().map_or(state.n, |first| first.seal.n - 1));
        waiting.iter().for_each(|found| heads.pass(&found.seal));
        let heads = heads.finish();
        Self {
            visible: watch::Sender::new(heads.upto()),
            state: RwLock::new(Applied { seals: state, heads }),
        }
    }

    /// The seal, whose CRC is `crc`, is durable. One that was told before is passed over.
    pub fn fold(&self, seal: &Seal, crc: u32) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if seal.n > state.seals.n {
            state.seals.fold(seal, crc);
            state.heads.sealed(seal, now_ms());
        }
    }

    /// The store has applied, and shows, every seal up to `n`; they have been folded in.
    pub fn applied(&self, n: u64) {
        let upto = self.state.write().unwrap_or_else(PoisonError::into_inner).heads.applied(n);
        self.visible.send_if_modified(|shown| {
            let more = upto > *shown;
            *shown = upto.max(*shown);
            more
        });
    }

    fn read<T>(&self, what: impl FnOnce(&Applied) -> T) -> T {
        what(&self.state.read().unwrap_or_else(PoisonError::into_inner)) // a fold that panicked ends the process
    }
}

impl SealView for AppliedView {
    fn head(&self, tenant: &TenantId) -> u64 {
        self.read(|state| state.heads.head(tenant))
    }

    fn erasures(&self, tenant: &TenantId) -> Option<Arc<Erasures>> {
        self.read(|state| state.seals.erasures_of(tenant).cloned())
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.visible.subscribe()
    }

    fn ready(&self) -> bool {
        true // it is made from the whole log
    }

    fn lag_ms(&self) -> u64 {
        lag(self.read(|state| state.heads.waits_since()))
    }
}

/// How long ago that was, milliseconds.
pub(crate) fn lag(since: Option<i64>) -> u64 {
    since.map_or(0, |since| u64::try_from(now_ms() - since).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{
        SealErasure,
        erasure::{Erasure, ErasureKind},
    };
    use uuid::Uuid;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    /// A seal that numbers `stored` entries of each tenant up to `head`.
    fn seal(n: u64, changes: &[(&str, u64, u64)]) -> Seal {
        let change = |&(name, head, stored): &(&str, u64, u64)| SealTenant {
            tenant: tenant(name),
            head,
            void: None,
            stored,
            duplicate: 0,
            dead_lettered: 0,
            accepted: stored,
            bytes: 0,
        };
        Seal {
            n,
            previous_crc: 0,
            owner: Uuid::nil(),
            sealed_at: 1,
            chain_break: false,
            tenants: changes.iter().map(change).collect(),
            packs: vec![],
            erasures: vec![],
            removed: vec![],
            retired: vec![],
            sources: vec![],
        }
    }

    fn found(seal: Seal) -> FoundSeal {
        FoundSeal { seal, crc: 7, encoded_len: 0 }
    }

    #[test]
    fn a_head_is_shown_when_the_store_has_the_seal_and_an_erasure_at_once() {
        let (view, a) = (AppliedView::new(SealState::default(), &[]), tenant("a"));
        view.fold(&seal(1, &[("a", 3, 3)]), 1);
        assert_eq!((view.head(&a), *view.visible().borrow()), (0, 0));
        assert!(view.lag_ms() < 60_000);
        let mut erasing = seal(2, &[("a", 3, 0)]);
        let (job, kind) = (Uuid::new_v4(), ErasureKind::Cleanup);
        let erasure = Erasure {
            job,
            kind,
            cutoff: 10,
            head: 3,
        };
        erasing.erasures.push(SealErasure { tenant: 0, erasure });
        view.fold(&erasing, 2);
        assert!(
            view.erasures(&a).is_some_and(|all| all.covers(9, 0, 3)),
            "an erasure hides before the store has its seal"
        );
        view.applied(1);
        assert_eq!((view.head(&a), *view.visible().borrow()), (3, 1));
        view.applied(2);
        assert_eq!((*view.visible().borrow(), view.lag_ms()), (2, 0));
        view.fold(&seal(2, &[("a", 9, 6)]), 2);
        assert_eq!(view.head(&a), 3, "a seal is folded once");
    }

    #[test]
    fn a_view_that_starts_behind_shows_the_heads_as_of_the_stores_cursor() {
        let seals = [
            seal(1, &[("a", 3, 3)]),
            seal(2, &[("a", 5, 2), ("b", 4, 4)]),
            seal(3, &[("a", 6, 1)]),
            SealTenant::void_seal(4, "b", 4, 104),
        ];
        let mut state = SealState::default();
        seals.iter().for_each(|seal| state.fold(seal, 7));
        let waiting: Vec<_> = seals.iter().skip(1).cloned().map(found).collect();
        let (view, a, b) = (AppliedView::new(state, &waiting), tenant("a"), tenant("b"));
        let shown = || (view.head(&a), view.head(&b), *view.visible().borrow());
        assert_eq!(shown(), (3, 0, 1));
        assert!(view.lag_ms() > 1_000_000, "it waits since it was sealed");
        view.applied(2);
        assert_eq!(shown(), (5, 4, 2));
        view.applied(3);
        assert_eq!(shown(), (6, 4, 3));
        view.applied(4);
        assert_eq!(shown(), (6, 104, 4));
    }

    impl SealTenant {
        /// A seal in which `name` jumps from `from` to `to`.
        fn void_seal(n: u64, name: &str, from: u64, to: u64) -> Seal {
            let mut seal = seal(n, &[(name, to, 0)]);
            seal.tenants[0].void = Some((from + 1, to));
            seal
        }
    }

    #[test]
    fn far_behind_it_goes_in_larger_steps_and_never_ahead_of_the_store() {
        let mut heads = Heads::new(&SealState::default());
        (heads.limit, heads.bound) = (8, 8);
        for n in 1..=100 {
            heads.sealed(&seal(n, &[("a", n * 10, 10), ("b", n, 1)]), n as i64);
        }
        assert!(heads.waiting.len() <= 16, "{}", heads.waiting.len());
        for n in 1..=100 {
            let upto = heads.applied(n);
            assert!(upto <= n, "{upto} is shown at {n}");
            assert_eq!((heads.head(&tenant("a")), heads.head(&tenant("b"))), (upto * 10, upto));
        }
        assert_eq!((heads.upto(), heads.changes, heads.waits_since()), (100, 0, None));
    }
}
