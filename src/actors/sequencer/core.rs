//! The decisions of the sequencer: a pure state machine without clock, channel or thread.
//!
//! ```text
//! packs ─▶ plan ─▶ (ledger answers) ─▶ decide ─┬▶ Draft of seal n ─▶ (durable) ─▶ adopt ─▶ DecidedSeal ─▶ (applied) ─▶ applied
//! orders ─▶ erasing_seal ──────────────────────┘
//! ```
//!
//! One seal is under way at a time: nothing changes between [`Core::plan`] and [`Core::adopt`], and a draft that did not
//! become durable is dropped without a trace. That a row of seal n is found while seal n + 1 is decided holds because
//! `plan` looks into the window *before* the ledger is asked, and a row leaves the window only after it is in the ledger.
//!
//! Erasures have seals of their own. Nothing is planned between such a seal and its application ([`Core::must_show`]): by
//! then the window has let go of every row that it could hide, the ledger hides them, and the ids of the last minutes are
//! forgotten for that tenant. So an erased row's id is unknown to the very next seal, and no memory has to be searched for it.

use super::memory::{KnownPacks, NewRow, Recent, SealRows, Window};
use crate::{
    model::{entry::ContentHash, pack::Pack, tenant::TenantId},
    queue::Position,
    seal::{
        DecidedSeal, Decision, Refusal, Seal, SealErasure, SealPack, SealRemoved, SealTenant, codec,
        erasure::{Erasure, ErasureKind, Erasures},
        source::SourceReport,
        state::{SealState, TenantState},
    },
};
use smallvec::SmallVec;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use uuid::Uuid;

/// How far every head jumps, for each seal that may be lost, when a lost seal is not ruled out: more numbers than a seal
/// gives to a tenant.
///
/// Why for each: a lost seal may itself have been a gap seal. With this rule, the head after seal n is at most the head
/// after seal m plus (n − m) × GAP, for all m < n, gap seals included; so a jump from m to n passes everything between.
pub const GAP: u64 = 1 << 20;

/// A pack that waits for a decision.
#[derive(Debug, Clone)]
pub struct Undecided {
    /// The pack.
    pub pack: Arc<Pack>,
    /// Set when all its entries are to be refused.
    pub refusal: Option<Refusal>,
}

/// Something to seal about erasures and deleted tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Hide the tenant's rows whose time is before `cutoff`, up to the head that it has when this is sealed.
    Erase {
        /// Whose rows.
        tenant: TenantId,
        /// What is compared.
        kind: ErasureKind,
        /// Milliseconds since 1970.
        cutoff: i64,
        /// Names the erasure: ordered again while it is pending, nothing happens.
        job: Uuid,
    },
    /// Refuse every later pack of the tenant, for ever, and hide all of its rows: both by the same seal, so that no pack comes
    /// between. Ordered again, nothing happens.
    Retire {
        /// Whom.
        tenant: TenantId,
        /// Names the erasure.
        job: Uuid,
    },
    /// The first pending erasure of the tenant removed so many rows. One that is not the first pending is left as it is.
    Removed {
        /// Whose rows.
        tenant: TenantId,
        /// The erasure.
        job: Uuid,
        /// How many rows.
        rows: u64,
    },
}

/// A lost seal is not ruled out: the first new seal must be a gap seal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gap {
    /// The largest seal that the manifest, any header or the log names.
    pub largest_seal_named: u64,
    /// Every seal up to this one is known, by the manifest or by the log.
    pub complete_upto: u64,
    /// Tenants that may have numbers which no surviving seal names (those of the catalog, and of undecided packs).
    pub tenants: BTreeSet<TenantId>,
}

/// The sequencer's state.
#[derive(Debug)]
pub struct Core {
    owner: Uuid,
    state: SealState,
    gap: Option<Gap>,
    window: Window,
    recent: Recent,
    known: KnownPacks,
    /// The last seal with erasures, or results of them.
    erasing: u64,
}

/// What is known about an entry before the ledger answers.
#[derive(Debug, Clone, Copy)]
enum Before {
    Absent,
    Present(ContentHash),
    Asked(u32),
}

/// What is needed of an entry, read from its pack once; see [`NewRow`].
#[derive(Debug)]
struct Planned {
    id: Uuid,
    hash: ContentHash,
    client_id: bool,
    before: Before,
}

/// The packs of the next seal, and what the ledger has to say about them.
#[derive(Debug, Default)]
pub struct Plan {
    packs: Vec<Undecided>,
    /// Of each entry of the packs that are not refused.
    entries: Vec<Planned>,
    /// Packs that a seal has decided already.
    pub known: Vec<Uuid>,
    /// To be looked up in the ledger; the answers go to [`Core::decide`] in this order.
    pub lookups: Vec<(TenantId, Uuid)>,
}

impl Plan {
    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }
}

/// Seal n, decided and not durable yet.
#[derive(Debug)]
pub struct Draft {
    /// The decision.
    pub seal: Seal,
    packs: Vec<Arc<Pack>>,
    rows: Vec<NewRow>,
}

impl Draft {
    /// The packs that it decides, in the order of `seal.packs`.
    pub fn packs(&self) -> &[Arc<Pack>] {
        &self.packs
    }
}

impl Core {
    /// A sequencer that goes on after `state`. `known` are the decided packs that could be delivered again; `gap` is set
    /// when a lost seal is not ruled out. The store must show everything up to `state.n` before the first [`Core::plan`].
    pub fn new(owner: Uuid, state: SealState, known: KnownPacks, gap: Option<Gap>, now: i64) -> Self {
        Self {
            owner,
            erasing: 0,
            state,
            gap,
            known,
            window: Window::default(),
            recent: Recent::new(now),
        }
    }

    /// Clocks of two processes may differ by this, milliseconds ([`SKEW_MS`](super::memory::SKEW_MS) unless it is said). Before the first plan.
    pub fn with_clock_skew(mut self, skew: i64) -> Self {
        self.recent.set_skew(skew);
        self
    }

    /// Seals of the last owner that the store does not show yet, with their rows, and the last of them that erases something:
    /// so deciding goes on while they are applied. Before the first plan, ascending.
    pub fn resume(&mut self, window: Vec<(u64, SealRows)>, erasing: u64) {
        for (n, rows) in window {
            self.window.add_rows(n, rows);
        }
        self.erasing = self.erasing.max(erasing);
    }

    /// Those of `packs` that may have been decided before this memory begins, and so must be asked of the ledger before they are
    /// planned.
    pub fn uncertain(&self, packs: &[Undecided]) -> Vec<Uuid> {
        let uncertain = |item: &&Undecided| self.known.is_uncertain(item.pack.id(), item.pack.header().received_at);
        packs.iter().filter(uncertain).map(|item| item.pack.id()).collect()
    }

    /// Likewise the names of orders that came through a queue: the millisecond that they carry tells when they were made.
    pub fn uncertain_orders(&self, orders: &[Order]) -> Vec<Uuid> {
        let job = |order: &Order| match *order {
            Order::Erase { job, .. } | Order::Retire { job, .. } => Some(job),
            Order::Removed { .. } => None, // taken once, by the erasure that waits for it
        };
        let uncertain = |job: &Uuid| self.known.is_uncertain(*job, super::memory::made_at(*job).unwrap_or(i64::MIN));
        orders.iter().filter_map(job).filter(uncertain).collect()
    }

    /// Heads and counters after the last adopted seal.
    pub fn state(&self) -> &SealState {
        &self.state
    }

    /// Bytes of the window.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// The store must show this seal before anything is planned.
    pub fn must_show(&self) -> u64 {
        self.erasing
    }

    /// The gap seal, if one must come first: every head jumps (see [`GAP`]), the skipped numbers are void.
    pub fn gap_seal(&self, now: i64) -> Option<Draft> {
        let gap = self.gap.as_ref()?;
        let n = self.state.n.max(gap.largest_seal_named) + 1;
        let jump = (n - gap.complete_upto.min(self.state.n)).saturating_mul(GAP);
        let named: BTreeSet<_> = self.state.tenants.keys().chain(&gap.tenants).collect();
        let tenants = named.into_iter().map(|tenant| {
            let head = self.state.tenant(tenant).head;
            SealTenant {
                void: Some((head + 1, head + jump)),
                ..untouched(tenant.clone(), head + jump)
            }
        });
        let seal = Seal {
            n,
            previous_crc: 0,
            owner: self.owner,
            sealed_at: now,
            chain_break: true,
            tenants: tenants.collect(),
            packs: Vec::new(),
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        };
        Some(Draft {
            seal,
            packs: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Takes the packs of the next seal: known ones are dropped, and so is the second of two deliveries of one pack. Those of
    /// deleted tenants are refused unread. No other seal may be adopted before this plan is decided.
    pub fn plan(&self, packs: Vec<Undecided>, now: i64) -> Plan {
        debug_assert!(self.gap.is_none(), "the gap seal comes first");
        let (mut plan, mut taken) = (Plan::default(), HashSet::new());
        for mut item in packs {
            if self.known.contains(item.pack.id()) {
                plan.known.push(item.pack.id());
                continue;
            }
            if !taken.insert(item.pack.id()) {
                continue;
            }
            if self.state.retired.contains(item.pack.tenant()) {
                item.refusal = Some(Refusal::TenantDeleted); // whatever else is wrong with it
            }
            if item.refusal.is_none() {
                let tenant = item.pack.tenant();
                let (window, [newer, older]) = (self.window.tenant(tenant), self.recent.tenant(tenant));
                for entry in item.pack.entries() {
                    let (id, client_id) = (entry.id(), entry.client_id());
                    let remembered = [window, newer, older].into_iter().flatten().find_map(|rows| rows.get(&id).copied());
                    let before = match remembered {
                        Some(hash) => Before::Present(hash),
                        None if !client_id && self.recent.covers(tenant, id, now) => Before::Absent,
                        None => {
                            plan.lookups.push((tenant.clone(), id));
                            Before::Asked(plan.lookups.len() as u32 - 1)
                        }
                    };
                    let hash = entry.hash();
                    plan.entries.push(Planned { id, hash, client_id, before });
                }
            }
            plan.packs.push(item);
        }
        plan
    }

    /// Decides and numbers everything in `plan`. `answers` are the ledger's, in the order of `plan.lookups`; `positions`
    /// gives every position of a pack.
    pub fn decide(&self, plan: Plan, answers: &[Option<ContentHash>], now: i64, positions: &mut dyn FnMut(&Pack) -> SmallVec<[Position; 1]>) -> Draft {
        debug_assert_eq!(plan.lookups.len(), answers.len());
        let mut making = Making::default();
        let (mut entries, mut rows) = (plan.entries.iter(), Vec::with_capacity(plan.entries.len()));
        let mut packs = Vec::with_capacity(plan.packs.len());
        for Undecided { pack, refusal } in plan.packs {
            let index = making.tenant(pack.tenant(), &self.state);
            let (tenant, here) = (&mut making.tenants[index as usize], &mut making.rows[index as usize]);
            let first = tenant.head + 1;
            let decisions: Vec<_> = match refusal {
                Some(_) => vec![Decision::Refused; pack.len()],
                None => entries
                    .by_ref()
                    .take(pack.len())
                    .map(|entry| {
                        let found = here.get(&entry.id).copied().or(match entry.before {
                            Before::Absent => None,
                            Before::Present(hash) => Some(hash),
                            Before::Asked(i) => answers[i as usize],
                        });
                        match found {
                            None => {
                                let Planned { id, hash, client_id, .. } = *entry;
                                here.insert(id, hash);
                                rows.push(NewRow {
                                    tenant: index,
                                    id,
                                    hash,
                                    client_id,
                                });
                                Decision::New
                            }
                            Some(hash) if hash == entry.hash => Decision::Duplicate,
                            Some(_) => Decision::Conflict,
                        }
                    })
                    .collect(),
            };
            let count = |which: Decision| decisions.iter().filter(|d| **d == which).count() as u64;
            let new = count(Decision::New);
            tenant.head += new;
            tenant.stored += new;
            tenant.duplicate += count(Decision::Duplicate);
            tenant.dead_lettered += count(Decision::Conflict) + count(Decision::Refused);
            tenant.accepted += pack.len() as u64;
            tenant.bytes += pack.bytes().len() as u64;
            making.packs.push(SealPack {
                pack_id: pack.id(),
                tenant: index,
                positions: positions(&pack),
                decisions,
                refusal,
                first_sequence: if new > 0 { first } else { 0 },
            });
            packs.push(pack);
        }
        let seal = Seal {
            n: self.state.n + 1,
            previous_crc: self.state.crc,
            owner: self.owner,
            sealed_at: now,
            chain_break: false,
            tenants: making.tenants,
            packs: making.packs,
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        };
        Draft { seal, packs, rows }
    }

    /// The seal of these orders, in their order; `None` when there is nothing to seal: what is pending already is not
    /// ordered again, and a result is taken once.
    pub fn erasing_seal(&self, orders: &[Order], now: i64) -> Option<Draft> {
        debug_assert!(self.gap.is_none(), "the gap seal comes first");
        let (mut making, mut after) = (Making::default(), HashMap::<&TenantId, Erasures>::new());
        let (mut erasures, mut removed, mut retired) = (Vec::new(), Vec::new(), BTreeSet::new());
        for order in orders {
            let (Order::Erase { tenant, .. } | Order::Retire { tenant, .. } | Order::Removed { tenant, .. }) = order;
            let after = after
                .entry(tenant)
                .or_insert_with(|| self.state.erasures_of(tenant).map_or_else(Erasures::default, |all| (**all).clone()));
            match *order {
                Order::Erase { job, .. } | Order::Retire { job, .. } if self.known.contains(job) => (), // it was delivered before
                Order::Erase { kind, cutoff, job, .. } if after.pending().iter().all(|pending| pending.job != job) => {
                    let (tenant, head) = (making.tenant(tenant, &self.state), self.state.tenant(tenant).head);
                    let erasure = Erasure { job, kind, cutoff, head };
                    after.add(&erasure);
                    erasures.push(SealErasure { tenant, erasure });
                }
                Order::Retire { job, .. } if !self.state.retired.contains(tenant) => {
                    let (tenant, head) = (making.tenant(tenant, &self.state), self.state.tenant(tenant).head);
                    if retired.insert(tenant) {
                        let (kind, cutoff) = (ErasureKind::Retention, i64::MAX);
                        let erasure = Erasure { job, kind, cutoff, head };
                        after.add(&erasure);
                        erasures.push(SealErasure { tenant, erasure });
                    }
                }
                Order::Removed { job, rows, .. } if after.settle(job) => {
                    let tenant = making.tenant(tenant, &self.state);
                    removed.push(SealRemoved { tenant, job, rows });
                }
                Order::Erase { .. } | Order::Retire { .. } | Order::Removed { .. } => (),
            }
        }
        let seal = Seal {
            n: self.state.n + 1,
            previous_crc: self.state.crc,
            owner: self.owner,
            sealed_at: now,
            chain_break: false,
            tenants: making.tenants,
            packs: Vec::new(),
            erasures,
            removed,
            retired: retired.into_iter().collect(),
            sources: Vec::new(),
        };
        let (packs, rows) = (Vec::new(), Vec::new());
        (!seal.tenants.is_empty()).then_some(Draft { seal, packs, rows })
    }

    /// Lets the draft say how far the sources are decided, by the seals before it, where that is news.
    pub fn carry(&self, draft: &mut Draft, now: &[SourceReport]) {
        draft.seal.sources = self.state.sources.changes(now);
    }

    /// The draft, encoded as `encoded`, is durable: from here on it is the truth.
    pub fn adopt(&mut self, draft: Draft, encoded: &[u8]) -> Arc<DecidedSeal> {
        let seal = Arc::new(DecidedSeal {
            crc: codec::crc_of(encoded),
            encoded_len: encoded.len(),
            seal: draft.seal,
            packs: draft.packs,
        });
        debug_assert!(self.gap.is_some() == seal.seal.chain_break && self.state.check_next(&seal.seal).is_ok());
        self.state.fold(&seal.seal, seal.crc);
        for pack in &seal.seal.packs {
            let last = pack.positions.iter().map(|at| at.segment).max().unwrap_or_default();
            self.known.add_at(pack.pack_id, last, seal.seal.sealed_at);
        }
        if self.known.begins_somewhere() {
            for made in &seal.seal.erasures {
                self.known.add_sealed(made.erasure.job, seal.seal.n, seal.seal.sealed_at);
            }
        }
        self.window.add(&seal, &draft.rows);
        self.recent.add(&seal, &draft.rows);
        for made in &seal.seal.erasures {
            self.recent.erased(&seal.seal.tenants[made.tenant as usize].tenant, seal.seal.sealed_at);
        }
        if !seal.seal.erasures.is_empty() || !seal.seal.removed.is_empty() {
            self.erasing = seal.seal.n;
        }
        self.gap = None;
        seal
    }

    /// The store shows every seal up to `n`.
    pub fn applied(&mut self, n: u64) {
        self.window.applied(n);
        self.known.applied(n);
    }

    /// Every segment below `segment` is gone from the log.
    pub fn trimmed(&mut self, segment: u64) {
        self.known.trimmed(segment);
    }
}

fn untouched(tenant: TenantId, head: u64) -> SealTenant {
    SealTenant {
        tenant,
        head,
        void: None,
        stored: 0,
        duplicate: 0,
        dead_lettered: 0,
        accepted: 0,
        bytes: 0,
    }
}

/// A seal in the making.
#[derive(Default)]
struct Making {
    indexes: HashMap<TenantId, u32>,
    tenants: Vec<SealTenant>,
    rows: Vec<HashMap<Uuid, ContentHash>>,
    packs: Vec<SealPack>,
}

impl Making {
    fn tenant(&mut self, tenant: &TenantId, state: &SealState) -> u32 {
        if let Some(index) = self.indexes.get(tenant) {
            return *index;
        }
        let index = self.tenants.len() as u32;
        let TenantState { head, .. } = state.tenant(tenant);
        self.tenants.push(untouched(tenant.clone(), head));
        self.rows.push(HashMap::new());
        self.indexes.insert(tenant.clone(), index);
        index
    }
}
