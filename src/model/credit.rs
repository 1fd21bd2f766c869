//! Memory as a budget: who holds a [`Credit`] may keep that many bytes.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The right to keep `bytes` in memory. Given back when dropped, i.e. at settlement and not at hand-over.
#[derive(Debug)]
pub struct Credit {
    _permits: [OwnedSemaphorePermit; 2],
    bytes: u32,
}

impl Credit {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// A tenant's share of the memory budget, inside the global one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    tenant: Arc<Semaphore>,
    global: Arc<Semaphore>,
    /// All of the tenant's permits.
    share: u32,
}

impl Budget {
    /// A share of at most `tenant_bytes`, drawn from `global` (whose permits are bytes).
    pub fn new(tenant_bytes: usize, global: Arc<Semaphore>) -> Self {
        let share = u32::try_from(tenant_bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            tenant: Arc::new(Semaphore::new(share as usize)),
            global,
            share,
        }
    }

    /// Takes `bytes` if they are free in both budgets right now: tenant first, then global.
    pub fn try_reserve(&self, bytes: usize) -> Option<Credit> {
        let n = u32::try_from(bytes).ok()?;
        let tenant = self.tenant.clone().try_acquire_many_owned(n).ok()?;
        let global = self.global.clone().try_acquire_many_owned(n).ok()?;
        Some(Credit {
            _permits: [tenant, global],
            bytes: n,
        })
    }

    /// Waits until `bytes` are free in both budgets: tenant first, then global; first come, first served, and a waiter at
    /// the front collects what is freed, so that small requests cannot starve a large one. More than a whole budget waits
    /// for ever. Cancel-safe: a dropped wait gives back what it had.
    pub async fn reserve(&self, bytes: usize) -> Credit {
        let n = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.reserve_both(n, n).await
    }

    /// As [`Budget::reserve`], but waits until the tenant has given back all else, and lets nothing else in beside it.
    pub async fn reserve_alone(&self, bytes: usize) -> Credit {
        self.reserve_both(self.share, u32::try_from(bytes).unwrap_or(u32::MAX)).await
    }

    async fn reserve_both(&self, tenant: u32, global: u32) -> Credit {
        let of_tenant = self.tenant.clone().acquire_many_owned(tenant).await.expect("a budget is never closed");
        let of_global = self.global.clone().acquire_many_owned(global).await.expect("a budget is never closed");
        Credit {
            _permits: [of_tenant, of_global],
            bytes: global,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_counts_in_both_budgets_until_it_is_dropped() {
        let global = Arc::new(Semaphore::new(100));
        let (a, b) = (Budget::new(60, global.clone()), Budget::new(60, global.clone()));
        let held = a.try_reserve(60).expect("free");
        assert!(a.try_reserve(1).is_none(), "the tenant's share is used up");
        assert!(b.try_reserve(41).is_none(), "the global budget is used up");
        assert_eq!(global.available_permits(), 40, "a refused reservation gives back what it took");
        drop(held);
        assert!(b.try_reserve(60).is_some());
    }

    #[tokio::test]
    async fn who_travels_alone_waits_for_the_tenants_others_and_keeps_them_out() {
        let global = Arc::new(Semaphore::new(100));
        let budget = Budget::new(50, global.clone());
        let other = budget.reserve(1).await;
        let mut alone = Box::pin(budget.reserve_alone(10));
        assert!(futures_util::poll!(&mut alone).is_pending());
        drop(other);
        let alone = alone.await;
        assert_eq!(
            (alone.bytes(), global.available_permits()),
            (10, 90),
            "it takes no more than its bytes from the others"
        );
        assert!(budget.try_reserve(1).is_none());
        drop(alone);
        assert!(budget.try_reserve(50).is_some());
    }
}
