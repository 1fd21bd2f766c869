//! What the queue knows about the log besides its bytes: which packs are undecided and where they stand, what each tenant
//! has waiting, which segments may go. Pure: no clock, no I/O, no lock of its own.
//!
//! A pack is in the book from the moment it is durable until the store shows it:
//!
//! ```text
//! reserve ─▶ (append, sync) ─▶ durable ─▶ … delivered … ─▶ sealed ─▶ applied
//!        └─▶ release (nothing was kept)              └─▶ copied (only before it is sealed)
//! ```
//!
//! A pack that is made durable once more under its name (a foreign message that was delivered twice) is the same pack: it gets one
//! more place, and is counted once; if it was decided before, it is let go when the sequencer says so ([`Book::known`]).
//!
//! `accepted` is counted at `durable`, `stored`, `duplicate` and `dead_lettered` at `applied`, in the same step in which
//! the pack leaves `pending`: so the sum of the contract holds at every moment, and is not computed from itself.

use super::{backlog::Backlog, ids::Ids};
use crate::{
    model::{pack::Pack, tenant::TenantId},
    queue::{AcceptError, Counters, Decided, Position},
    seal::{DecidedSeal, Decision, Seal, state::SealState},
};
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What an undecided pack counts besides its bytes, for what is remembered of it.
pub const PACK_OVERHEAD: u64 = 256;
/// A pack that is undecided for this long may be copied forward, milliseconds.
pub const COPY_AFTER_MS: i64 = 60_000;
/// A segment is emptied by copying only if at most one part in this many of it is undecided: copying most of a segment
/// would only write the log again.
const COPY_FRACTION: u64 = 8;
/// How many packs are looked into for one pending id. Without crafted ids every one of them holds it.
const HOLDERS: usize = 8;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bounds on what is undecided.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all, bytes (`wal.undecided_bytes`).
    pub undecided_bytes: u64,
    /// Per tenant, bytes (`wal.undecided_tenant_bytes`).
    pub undecided_tenant_bytes: u64,
    /// Packs kept in memory until their first delivery, bytes; those beyond it are read back from the log.
    pub held_bytes: usize,
}

/// The right to append one pack. Given to [`Book::durable`] or [`Book::release`].
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    tenant: TenantId,
    bytes: u64,
    segment: u64,
}

/// An undecided pack found in the log at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPack {
    /// Its name.
    pub pack_id: Uuid,
    /// Whose.
    pub tenant: TenantId,
    /// Where, ascending.
    pub positions: SmallVec<[Position; 1]>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Of each entry's id, what [`short`] makes of it.
    pub ids: Vec<u64>,
}

/// What the book is made from at start.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Heads and counters after the last seal found.
    pub state: SealState,
    /// Undecided packs, in log order.
    pub undecided: Vec<FoundPack>,
    /// Per segment, the largest seal that stands there or that decides a pack there.
    pub segments: BTreeMap<u64, u64>,
    /// The segment of the last seal record.
    pub last_seal_segment: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    /// Packs that wait for delivery.
    pub backlog: Backlog,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_pack: HashMap<Uuid, u32>,
    tenants: HashMap<TenantId, Account>,
    undecided_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    /// Appends under way by the highest segment seen when they began: none of them can stand before it.
    appending: BTreeMap<u64, u32>,
    last_seal_segment: u64,
}

#[derive(Debug)]
struct Slot {
    pack_id: Uuid,
    tenant: TenantId,
    positions: SmallVec<[Position; 1]>,
    bytes: u64,
    ids: ShortIds,
    since: i64,
    memory: Weak<Pack>,
    sealed: bool,
    waiter: Option<oneshot::Sender<Decided>>,
}

#[derive(Debug, Default)]
struct Account {
    counters: Counters,
    undecided_bytes: u64,
    /// [`short`] ids of pending entries, with the slot of their pack.
    ids: Ids,
}

#[derive(Debug, Default, Clone, Copy)]
struct Segment {
    /// Undecided packs whose last position is here, and their bytes.
    packs: u32,
    bytes: u64,
    last_seal: u64,
}

/// Eight bytes of an id, for the index of pending ids: a hit is only a hint.
pub fn short(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    high.rotate_left(32) ^ low
}

/// [`short`] of each id of a pack, in its order.
pub type ShortIds = SmallVec<[u64; 2]>;

/// The short ids of a pack: to be asked for while the pack is still in the caches of the core, i.e. before its sync.
pub fn short_ids(pack: &Pack) -> ShortIds {
    pack.entries().map(|entry| short(entry.id())).collect()
}

impl Book {
    /// A book of what was found at start. Undecided packs wait for delivery.
    pub fn new(limits: Limits, start: Start, now: i64) -> Self {
        let mut book = Self {
            limits,
            backlog: Backlog::new(limits.held_bytes),
            slots: Vec::new(),
            free: Vec::new(),
            by_pack: HashMap::new(),
            tenants: HashMap::new(),
            undecided_bytes: 0,
            segments: BTreeMap::new(),
            appending: BTreeMap::new(),
            last_seal_segment: start.last_seal_segment,
        };
        for (tenant, state) in start.state.tenants {
            book.account(&tenant).counters = Counters {
                accepted: state.accepted,
                stored: state.stored,
                duplicate: state.duplicate,
                dead_lettered: state.dead_lettered,
                pending: 0,
                erased: state.erased,
                bytes: state.bytes,
            };
        }
        for (segment, last_seal) in start.segments {
            book.segments.entry(segment).or_default().last_seal = last_seal;
        }
        for found in start.undecided {
            let charge = found.bytes + PACK_OVERHEAD;
            book.charge(&found.tenant, charge);
            let slot = Slot {
                pack_id: found.pack_id,
                tenant: found.tenant.clone(),
                positions: found.positions,
                bytes: found.bytes,
                ids: found.ids.into(),
                since: now,
                memory: Weak::new(),
                sealed: false,
                waiter: None,
            };
            book.add(slot);
            book.backlog.push(&found.tenant, found.pack_id, None);
        }
        book
    }

    /// Whether a pack of `bytes` may be taken. A tenant without anything undecided may always have one pack.
    pub fn room(&self, tenant: &TenantId, bytes: u64) -> Result<(), AcceptError> {
        let held = self.tenants.get(tenant).map_or(0, |account| account.undecided_bytes);
        if held > 0 && held + bytes > self.limits.undecided_tenant_bytes {
            return Err(AcceptError::TenantFull { retry_after: RETRY_AFTER });
        }
        if self.undecided_bytes > 0 && self.undecided_bytes + bytes > self.limits.undecided_bytes {
            return Err(AcceptError::Unavailable {
                reason: "too much is undecided; `wal.undecided_bytes` is reached",
                retry_after: RETRY_AFTER,
            });
        }
        Ok(())
    }

    /// Takes room for one pack that is about to be appended.
    pub fn reserve(&mut self, pack: &Pack) -> Result<Reservation, AcceptError> {
        let bytes = pack.bytes().len() as u64 + PACK_OVERHEAD;
        self.room(pack.tenant(), bytes)?;
        self.charge(pack.tenant(), bytes);
        let segment = self.highest();
        *self.appending.entry(segment).or_default() += 1;
        Ok(Reservation {
            tenant: pack.tenant().clone(),
            bytes,
            segment,
        })
    }

    /// Nothing was kept (or it is not known, and the process is about to end).
    pub fn release(&mut self, reservation: Reservation) {
        self.refund(&reservation.tenant, reservation.bytes);
        self.append_ended(reservation.segment);
    }

    /// The pack is durable at `at`: it is accepted, pending, and waits for delivery. `waiter` hears what was decided once
    /// the store shows it. `ids` are the [`short_ids`] of the pack.
    pub fn durable(&mut self, reservation: Reservation, (pack, ids): (&Arc<Pack>, ShortIds), at: Position, waiter: Option<oneshot::Sender<Decided>>, now: i64) {
        if let Some(index) = self.by_pack.get(&pack.id()) {
            return self.durable_again(*index, reservation, at, waiter);
        }
        let slot = Slot {
            pack_id: pack.id(),
            tenant: reservation.tenant,
            positions: SmallVec::from_elem(at, 1),
            bytes: pack.bytes().len() as u64,
            ids,
            since: now,
            memory: Arc::downgrade(pack),
            sealed: false,
            waiter,
        };
        self.add(slot);
        self.append_ended(reservation.segment);
        self.backlog.push(pack.tenant(), pack.id(), Some(pack));
    }

    fn durable_again(&mut self, index: u32, reservation: Reservation, at: Position, waiter: Option<oneshot::Sender<Decided>>) {
        self.refund(&reservation.tenant, reservation.bytes);
        let last_seal = self.segments.values().map(|segment| segment.last_seal).max().unwrap_or(0);
        let slot = self.slots[index as usize].as_mut().expect("an indexed slot is taken");
        let (from, bytes, sealed) = (slot.positions.last().map_or(0, |at| at.segment), slot.bytes, slot.sealed);
        slot.positions.push(at);
        slot.positions.sort_unstable();
        slot.waiter = slot.waiter.take().or(waiter);
        let segment = self.segment(at.segment);
        if sealed {
            // Its seal is one of those that there are.
            segment.last_seal = segment.last_seal.max(last_seal);
        } else if at.segment > from {
            segment.packs += 1;
            segment.bytes += bytes;
            if let Some(segment) = self.segments.get_mut(&from) {
                segment.packs -= 1;
                segment.bytes -= bytes;
            }
        }
        self.append_ended(reservation.segment);
    }

    /// The pack was delivered although it is decided: if it is here because it came again after that, it goes, uncounted.
    pub fn known(&mut self, pack: Uuid) {
        if !self.is_undecided(pack) {
            return; // its seal is durable and about to be applied
        }
        let Some(index) = self.by_pack.remove(&pack) else { return };
        let slot = self.slots[index as usize].take().expect("an indexed slot is taken");
        self.free.push(index);
        self.refund(&slot.tenant, slot.bytes + PACK_OVERHEAD);
        if let Some(segment) = slot.positions.last().and_then(|at| self.segments.get_mut(&at.segment)) {
            segment.packs -= 1;
            segment.bytes -= slot.bytes;
        }
        let account = self.account(&slot.tenant);
        account.counters.accepted -= slot.ids.len() as u64;
        account.counters.pending -= slot.ids.len() as u64;
        account.counters.bytes -= slot.bytes;
        for id in slot.ids {
            account.ids.remove(id, index);
        }
    }

    /// Every position of an undecided pack, ascending; empty when there is no such pack.
    pub fn positions(&self, pack: Uuid) -> SmallVec<[Position; 1]> {
        self.slot(pack).map(|slot| slot.positions.clone()).unwrap_or_default()
    }

    /// Where the pack that stood at `at` stands now, if it was copied forward. Looks at every pack.
    pub fn moved(&self, at: Position) -> Option<Position> {
        let slot = self.slots.iter().flatten().find(|slot| slot.positions.contains(&at))?;
        slot.positions.last().copied().filter(|now| *now != at)
    }

    /// Whether the pack is still to be decided.
    pub fn is_undecided(&self, pack: Uuid) -> bool {
        self.slot(pack).is_some_and(|slot| !slot.sealed)
    }

    /// Seal n is durable at `at`.
    pub fn sealed(&mut self, seal: &Seal, at: Position) {
        self.segment(at.segment).last_seal = seal.n;
        self.last_seal_segment = self.last_seal_segment.max(at.segment);
        for pack in &seal.packs {
            for at in &pack.positions {
                // Earlier positions may be gone already: the pack was copied forward.
                if let Some(segment) = self.segments.get_mut(&at.segment) {
                    segment.last_seal = segment.last_seal.max(seal.n);
                }
            }
            let Some(slot) = self
                .by_pack
                .get(&pack.pack_id)
                .and_then(|i| self.slots[*i as usize].as_mut())
                .filter(|slot| !slot.sealed)
            else {
                continue;
            };
            slot.sealed = true;
            for at in &slot.positions {
                // One of them may have come after the seal was made.
                if let Some(segment) = self.segments.get_mut(&at.segment) {
                    segment.last_seal = segment.last_seal.max(seal.n);
                }
            }
            let (last, bytes) = (slot.positions.last().map_or(0, |at| at.segment), slot.bytes);
            if let Some(segment) = self.segments.get_mut(&last) {
                segment.packs -= 1;
                segment.bytes -= bytes;
            }
        }
    }

    /// The store shows the seal. Answers whom to wake with what.
    pub fn applied(&mut self, seal: &DecidedSeal) -> Vec<(oneshot::Sender<Decided>, Decided)> {
        let mut wake = Vec::new();
        for tenant in &seal.seal.tenants {
            let counters = &mut self.account(&tenant.tenant).counters;
            counters.stored += tenant.stored;
            counters.duplicate += tenant.duplicate;
            counters.dead_lettered += tenant.dead_lettered;
        }
        for result in &seal.seal.removed {
            let tenant = &seal.seal.tenants[result.tenant as usize].tenant;
            self.account(tenant).counters.erased += result.rows;
        }
        for (decided, pack) in seal.seal.packs.iter().zip(&seal.packs) {
            let Some(index) = self.by_pack.remove(&decided.pack_id) else { continue };
            let slot = self.slots[index as usize].take().expect("an indexed slot is taken");
            self.free.push(index);
            self.refund(&slot.tenant, slot.bytes + PACK_OVERHEAD);
            let account = self.account(&slot.tenant);
            account.counters.pending -= pack.len() as u64;
            for id in slot.ids {
                account.ids.remove(id, index);
            }
            if let Some(waiter) = slot.waiter {
                wake.push((waiter, counts(&decided.decisions)));
            }
        }
        wake
    }

    /// The tenant's counters.
    pub fn counters(&self, tenant: &TenantId) -> Counters {
        self.tenants.get(tenant).map(|account| account.counters).unwrap_or_default()
    }

    /// Packs of `tenant` that may hold the entry `id`: in memory, or at a position.
    pub fn holders(&self, tenant: &TenantId, id: Uuid) -> Vec<(Weak<Pack>, Position)> {
        let Some(account) = self.tenants.get(tenant) else { return Vec::new() };
        let slots = account.ids.slots(short(id)).take(HOLDERS);
        slots
            .filter_map(|index| self.slots[index as usize].as_ref())
            .filter_map(|slot| Some((slot.memory.clone(), *slot.positions.last()?)))
            .collect()
    }

    /// Undecided bytes and packs now, appends under way included in the bytes.
    pub fn undecided(&self) -> (u64, usize) {
        (self.undecided_bytes, self.by_pack.len())
    }

    /// Segments below the answer may go when the store's previous manifest covers every seal up to `trimmable`: all their
    /// packs are decided, by seals that are covered, and so are the seals that stand there. The segment of the last seal
    /// stays, so that a log that ends before the manifest does is always noticed.
    pub fn trim_floor(&self, trimmable: u64) -> u64 {
        let bound = self.appending.keys().next().copied().unwrap_or(u64::MAX).min(self.last_seal_segment);
        let stuck = self.segments.iter().find(|(_, segment)| segment.packs > 0 || segment.last_seal > trimmable);
        stuck.map_or(self.highest(), |(ordinal, _)| *ordinal).min(bound)
    }

    /// Every segment below `floor` is gone.
    pub fn trimmed(&mut self, floor: u64) {
        self.segments = self.segments.split_off(&floor);
    }

    /// Packs that are to be copied forward, with the position to copy from: old ones, in segments that would go but for a
    /// few of them. `segment_bytes` is the length of a segment.
    pub fn copyable(&self, trimmable: u64, segment_bytes: u64, now: i64) -> Vec<(Uuid, Position)> {
        let would_go = |(ordinal, segment): &(&u64, &Segment)| {
            **ordinal < self.highest() && segment.last_seal <= trimmable && segment.bytes.saturating_mul(COPY_FRACTION) <= segment_bytes
        };
        let Some((last, _)) = self.segments.iter().take_while(would_go).last() else {
            return Vec::new();
        };
        let here = |slot: &&Slot| !slot.sealed && slot.since + COPY_AFTER_MS <= now && slot.positions.last().is_some_and(|at| at.segment <= *last);
        let slots = self.slots.iter().flatten().filter(here);
        slots.filter_map(|slot| Some((slot.pack_id, *slot.positions.last()?))).collect()
    }

    /// A copy of the pack is durable at `at`: its old segment does not wait for it any more.
    pub fn copied(&mut self, pack: Uuid, at: Position, now: i64) {
        let Some(slot) = self.by_pack.get(&pack).and_then(|i| self.slots[*i as usize].as_mut()) else {
            return;
        };
        debug_assert!(!slot.sealed, "copied after it was sealed");
        let (from, bytes) = (slot.positions.last().map_or(0, |at| at.segment), slot.bytes);
        slot.positions.push(at);
        slot.since = now;
        if let Some(segment) = self.segments.get_mut(&from) {
            segment.packs -= 1;
            segment.bytes -= bytes;
        }
        let segment = self.segment(at.segment);
        segment.packs += 1;
        segment.bytes += bytes;
    }

    fn add(&mut self, slot: Slot) {
        let at = *slot.positions.last().expect("a durable pack stands somewhere");
        let segment = self.segment(at.segment);
        segment.packs += 1;
        segment.bytes += slot.bytes;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let account = self.account(&slot.tenant);
        account.counters.accepted += slot.ids.len() as u64;
        account.counters.pending += slot.ids.len() as u64;
        account.counters.bytes += slot.bytes;
        slot.ids.iter().for_each(|id| account.ids.insert(*id, index));
        self.by_pack.insert(slot.pack_id, index);
        self.slots[index as usize] = Some(slot);
    }

    fn slot(&self, pack: Uuid) -> Option<&Slot> {
        self.slots[*self.by_pack.get(&pack)? as usize].as_ref()
    }

    fn account(&mut self, tenant: &TenantId) -> &mut Account {
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), Account::default());
        }
        self.tenants.get_mut(tenant).expect("it was just made")
    }

    fn charge(&mut self, tenant: &TenantId, bytes: u64) {
        self.undecided_bytes += bytes;
        self.account(tenant).undecided_bytes += bytes;
    }

    fn refund(&mut self, tenant: &TenantId, bytes: u64) {
        self.undecided_bytes -= bytes;
        self.account(tenant).undecided_bytes -= bytes;
    }

    fn append_ended(&mut self, segment: u64) {
        let count = self.appending.get_mut(&segment).expect("an append that began is counted");
        *count -= 1;
        if *count == 0 {
            self.appending.remove(&segment);
        }
    }

    fn segment(&mut self, ordinal: u64) -> &mut Segment {
        self.segments.entry(ordinal).or_default()
    }

    fn highest(&self) -> u64 {
        self.segments.last_key_value().map_or(0, |(ordinal, _)| *ordinal)
    }
}

/// What `decisions` add up to.
fn counts(decisions: &[Decision]) -> Decided {
    let mut out = Decided::default();
    for decision in decisions {
        match decision {
            Decision::New => out.stored += 1,
            Decision::Duplicate => out.duplicate += 1,
            Decision::Conflict | Decision::Refused => out.dead_lettered += 1,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::pack::tests::pack_of, seal::SealPack};
    use uuid::Uuid;

    fn book(undecided_bytes: u64, undecided_tenant_bytes: u64, held_bytes: usize) -> Book {
        let limits = Limits {
            undecided_bytes,
            undecided_tenant_bytes,
            held_bytes,
        };
        Book::new(limits, Start::default(), 0)
    }

    fn at(segment: u64) -> Position {
        Position { segment, offset: 4096 }
    }

    fn take(book: &mut Book, pack: &Arc<Pack>, segment: u64) -> Result<(), AcceptError> {
        let reservation = book.reserve(pack)?;
        book.durable(reservation, (pack, short_ids(pack)), at(segment), None, 0);
        Ok(())
    }

    fn seal(n: u64, packs: &[(&Arc<Pack>, u64)]) -> Seal {
        let decided = |(pack, segment): &(&Arc<Pack>, u64)| SealPack {
            pack_id: pack.id(),
            tenant: 0,
            positions: SmallVec::from_elem(at(*segment), 1),
            decisions: vec![Decision::New; pack.len()],
            refusal: None,
            first_sequence: 1,
        };
        Seal {
            n,
            previous_crc: 0,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break: false,
            tenants: Vec::new(),
            packs: packs.iter().map(decided).collect(),
            erasures: Vec::new(),
            removed: Vec::new(),
            retired: Vec::new(),
            sources: Vec::new(),
        }
    }

    #[test]
    fn what_is_undecided_is_capped_per_tenant_and_in_all_and_a_refusal_charges_nothing() {
        let packs: Vec<_> = (0..4).map(|i| Arc::new(pack_of(if i == 3 { "b" } else { "a" }, &[i]))).collect();
        let one = packs[0].bytes().len() as u64 + PACK_OVERHEAD;
        let mut book = book(3 * one, 2 * one, 0);
        take(&mut book, &packs[0], 1).expect("room");
        let under_way = book.reserve(&packs[1]).expect("room");
        assert!(
            matches!(book.reserve(&packs[2]), Err(AcceptError::TenantFull { .. })),
            "appends under way count"
        );
        book.release(under_way);
        take(&mut book, &packs[1], 1).expect("given back");
        assert!(matches!(book.reserve(&packs[2]), Err(AcceptError::TenantFull { .. })));
        take(&mut book, &packs[3], 1).expect("another tenant has room");
        let third = Arc::new(pack_of("b", &[9]));
        assert!(matches!(book.reserve(&third), Err(AcceptError::Unavailable { .. })));
        assert_eq!(book.undecided(), (3 * one, 3));
        let other = Arc::new(pack_of("c", &[9]));
        assert!(matches!(book.reserve(&other), Err(AcceptError::Unavailable { .. })), "in all, whoever asks");
    }

    #[test]
    fn packs_in_memory_stay_within_their_bound_however_much_waits() {
        let packs: Vec<_> = (0..500).map(|i| Arc::new(pack_of("a", &[i]))).collect();
        let held = 10 * packs[0].bytes().len();
        let mut book = book(u64::MAX, u64::MAX, held);
        for pack in packs {
            take(&mut book, &pack, 1).expect("room");
            assert!(book.backlog.held() <= held);
        }
        let memory: usize = book
            .slots
            .iter()
            .flatten()
            .filter_map(|slot| slot.memory.upgrade())
            .map(|pack| pack.bytes().len())
            .sum();
        assert_eq!((memory, book.backlog.held()), (held, held), "nobody but the backlog holds a pack");
    }

    #[test]
    fn a_pack_that_becomes_durable_again_is_the_same_pack() {
        let pack = Arc::new(pack_of("a", &[1, 2]));
        let tenant = pack.tenant().clone();
        let mut book = book(u64::MAX, u64::MAX, 0);
        take(&mut book, &pack, 1).expect("room");
        let once = (book.counters(&tenant), book.undecided());
        take(&mut book, &pack, 2).expect("room");
        assert_eq!((book.counters(&tenant), book.undecided()), once);
        assert_eq!(book.positions(pack.id()).to_vec(), [at(1), at(2)]);
        book.known(pack.id());
        assert_eq!((book.counters(&tenant), book.undecided()), (Counters::default(), (0, 0)), "decided before");

        take(&mut book, &pack, 2).expect("room");
        book.sealed(&seal(1, &[(&pack, 2)]), at(2));
        take(&mut book, &pack, 3).expect("room");
        book.known(pack.id());
        assert_eq!(book.counters(&tenant), once.0, "its seal is about to be applied");
        assert_eq!(book.trim_floor(0), 2, "no segment goes before the seal is covered");
        let decided = DecidedSeal {
            seal: seal(1, &[(&pack, 2)]),
            crc: 0,
            packs: vec![pack.clone()],
            encoded_len: 0,
        };
        book.applied(&decided);
        assert_eq!((book.counters(&tenant).pending, book.undecided()), (0, (0, 0)));
        assert_eq!(book.trim_floor(1), 2, "nothing is stuck but the last seal");
    }

    #[test]
    fn a_segment_goes_only_when_its_packs_and_seals_are_covered_and_no_append_can_stand_there() {
        let packs: Vec<_> = (0..3).map(|i| Arc::new(pack_of("a", &[i]))).collect();
        let mut book = book(u64::MAX, u64::MAX, 0);
        take(&mut book, &packs[0], 1).expect("room");
        take(&mut book, &packs[1], 2).expect("room");
        assert_eq!(book.trim_floor(u64::MAX), 0, "no seal yet");
        book.sealed(&seal(1, &[(&packs[0], 1)]), at(2));
        assert_eq!(book.trim_floor(0), 1, "seal 1 is not covered");
        assert_eq!(book.trim_floor(1), 2, "segment 2 has an undecided pack");
        let under_way = book.reserve(&packs[2]).expect("room");
        book.sealed(&seal(2, &[(&packs[1], 2)]), at(3));
        assert_eq!(book.trim_floor(2), 2, "an append that began in segment 2 may stand there");
        book.release(under_way);
        assert_eq!(book.trim_floor(1), 2);
        assert_eq!(book.trim_floor(2), 3, "the last seal's segment stays");
    }
}
