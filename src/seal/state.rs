//! What a sequence of seals adds up to: heads, counters, erasures, who is retired, and how far sources are decided. The sequencer keeps it, recovery rebuilds it from the log, and
//! the store's manifest carries it as the checkpoint. It changes by seals only and is never read from rows, so that
//! deletion cannot lower a head.

use super::{Seal, erasure::Erasures, source::SourceCheckpoints};
use crate::model::tenant::TenantId;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// The state of one tenant. All counters are cumulative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantState {
    /// The largest number given out, voids included.
    pub head: u64,
    /// Entries of decided packs.
    pub accepted: u64,
    /// Entries that got a number.
    pub stored: u64,
    /// Entries that were repeats.
    pub duplicate: u64,
    /// Entries that became dead letters.
    pub dead_lettered: u64,
    /// Bytes of decided packs.
    pub bytes: u64,
    /// Rows erased.
    pub erased: u64,
}

/// The state after seal `n`; `n` = 0 is the state before the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealState {
    /// The last seal folded in.
    pub n: u64,
    /// Its CRC.
    pub crc: u32,
    /// The largest segment of the log in which a seal names a pack (0: none): the log was at least this long.
    pub segment: u64,
    /// Every tenant that a seal has touched.
    pub tenants: HashMap<TenantId, TenantState>,
    /// What is erased, of every tenant of which something is.
    pub erasures: HashMap<TenantId, Arc<Erasures>>,
    /// Tenants that were deleted: no later pack of theirs gets a number. Only ever grows.
    pub retired: HashSet<TenantId>,
    /// How far sources without acks are decided.
    pub sources: SourceCheckpoints,
}

/// A seal does not follow the one before it: one may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("seal `{found}` does not follow seal `{last}`")]
pub struct BrokenChain {
    /// The last seal before the break.
    pub last: u64,
    /// The one that was found after it.
    pub found: u64,
}

impl SealState {
    /// Whether `seal` is the next one: n + 1, naming the CRC of n, or one that says that the chain was broken there.
    pub fn check_next(&self, seal: &Seal) -> Result<(), BrokenChain> {
        let next = if seal.chain_break {
            seal.n > self.n
        } else {
            seal.n == self.n + 1 && seal.previous_crc == self.crc
        };
        let broken = BrokenChain { last: self.n, found: seal.n };
        if next { Ok(()) } else { Err(broken) }
    }

    /// Adds `seal`, whose CRC is `crc`. It must be later than the last one; that it is the very next is checked by
    /// [`SealState::check_next`], because seals beyond a hole are applied as they stand.
    pub fn fold(&mut self, seal: &Seal, crc: u32) {
        debug_assert!(seal.n > self.n, "seal {} after seal {}", seal.n, self.n);
        (self.n, self.crc) = (seal.n, crc);
        let segments = seal.packs.iter().flat_map(|pack| &pack.positions).map(|at| at.segment);
        self.segment = segments.fold(self.segment, u64::max);
        for change in &seal.tenants {
            let tenant = self.tenants.entry(change.tenant.clone()).or_default();
            tenant.head = tenant.head.max(change.head);
            tenant.accepted = tenant.accepted.saturating_add(change.accepted);
            tenant.stored = tenant.stored.saturating_add(change.stored);
            tenant.duplicate = tenant.duplicate.saturating_add(change.duplicate);
            tenant.dead_lettered = tenant.dead_lettered.saturating_add(change.dead_lettered);
            tenant.bytes = tenant.bytes.saturating_add(change.bytes);
        }
        for made in &seal.erasures {
            let tenant = &seal.tenants[made.tenant as usize].tenant;
            Arc::make_mut(self.erasures.entry(tenant.clone()).or_default()).add(&made.erasure);
        }
        self.retired.extend(seal.retires().cloned());
        for change in &seal.sources {
            self.sources.fold(change);
        }
        for result in &seal.removed {
            let tenant = &seal.tenants[result.tenant as usize].tenant;
            let settled = self.erasures.get_mut(tenant).is_some_and(|all| Arc::make_mut(all).settle(result.job));
            if settled && let Some(state) = self.tenants.get_mut(tenant) {
                state.erased = state.erased.saturating_add(result.rows);
            }
        }
    }

    /// What is erased of the tenant, if anything is.
    pub fn erasures_of(&self, tenant: &TenantId) -> Option<&Arc<Erasures>> {
        self.erasures.get(tenant)
    }

    /// The tenant's state; all zeros when no seal has touched it.
    pub fn tenant(&self, tenant: &TenantId) -> TenantState {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{
        SealErasure, SealRemoved, SealTenant,
        erasure::{Erasure, ErasureKind},
    };
    use uuid::Uuid;

    fn seal(n: u64, previous_crc: u32, chain_break: bool, head: u64) -> Seal {
        let tenant = SealTenant {
            tenant: TenantId::parse("a").expect("a tenant"),
            head,
            void: None,
            stored: 2,
            duplicate: 3,
            dead_lettered: 4,
            accepted: 9,
            bytes: 100,
        };
        Seal {
            n,
            previous_crc,
            owner: Uuid::nil(),
            sealed_at: 0,
            chain_break,
            tenants: vec![tenant],
            packs: vec![],
            erasures: vec![],
            removed: vec![],
            retired: vec![],
            sources: Vec::new(),
        }
    }

    #[test]
    fn counters_add_up_and_heads_never_fall() {
        let (mut state, a) = (SealState::default(), TenantId::parse("a").expect("a tenant"));
        state.fold(&seal(1, 0, false, 7), 5);
        state.fold(&seal(2, 5, false, 3), 6);
        let expected = TenantState {
            head: 7,
            accepted: 18,
            stored: 4,
            duplicate: 6,
            dead_lettered: 8,
            bytes: 200,
            erased: 0,
        };
        assert_eq!((state.n, state.crc, state.tenant(&a)), (2, 6, expected));
        assert_eq!(state.tenant(&TenantId::parse("b").expect("a tenant")), TenantState::default());
    }

    #[test]
    fn an_erasure_is_kept_from_its_seal_on_and_its_rows_are_counted_once() {
        let (mut state, a) = (SealState::default(), TenantId::parse("a").expect("a tenant"));
        let erasure = Erasure {
            job: Uuid::from_u128(1),
            kind: ErasureKind::Cleanup,
            cutoff: 10,
            head: 7,
        };
        let made = SealErasure { tenant: 0, erasure };
        let result = SealRemoved {
            tenant: 0,
            job: erasure.job,
            rows: 5,
        };
        state.fold(&seal(1, 0, false, 7), 1);
        let before = state.clone();
        let erasing = Seal {
            erasures: vec![made],
            ..seal(2, 1, false, 7)
        };
        state.fold(&erasing, 2);
        assert_eq!(state.erasures_of(&a).map(|all| all.pending().to_vec()), Some(vec![erasure]));
        assert_eq!((state.tenant(&a).erased, before.erasures.len()), (0, 0));
        for n in [3, 4] {
            let again = Seal {
                removed: vec![result],
                ..seal(n, 0, false, 7)
            };
            state.fold(&again, 3);
            assert_eq!(state.tenant(&a).erased, 5, "seal {n}");
        }
        assert!(
            state
                .erasures_of(&a)
                .is_some_and(|all| all.pending().is_empty() && all.settled_covers(9, 99, 7))
        );
        assert!(state.erasures_of(&TenantId::parse("b").expect("a tenant")).is_none());
    }

    #[test]
    fn a_tenant_is_retired_by_its_seal_and_stays_so() {
        let (mut state, a) = (SealState::default(), TenantId::parse("a").expect("a tenant"));
        state.fold(&seal(1, 0, false, 7), 1);
        assert!(state.retired.is_empty());
        let retiring = Seal {
            retired: vec![0],
            ..seal(2, 1, false, 7)
        };
        state.fold(&retiring, 2);
        state.fold(&seal(3, 2, false, 7), 3);
        assert!(state.retired.contains(&a) && state.retired.len() == 1);
    }

    #[test]
    fn a_missing_or_foreign_seal_breaks_the_chain_unless_it_says_so() {
        let state = SealState {
            n: 4,
            crc: 9,
            ..SealState::default()
        };
        for (next, good) in [
            (seal(5, 9, false, 1), true),
            (seal(6, 9, false, 1), false),
            (seal(5, 8, false, 1), false),
            (seal(4, 9, false, 1), false),
            (seal(9, 0, true, 1), true),
            (seal(4, 9, true, 1), false),
        ] {
            assert_eq!(state.check_next(&next).is_ok(), good, "{next:?}");
        }
    }
}
