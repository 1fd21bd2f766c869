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
}

impl Budget {
    /// A share of at most `tenant_bytes`, drawn from `global` (whose permits are bytes).
    pub fn new(tenant_bytes: usize, global: Arc<Semaphore>) -> Self {
        Self {
            tenant: Arc::new(Semaphore::new(tenant_bytes.min(Semaphore::MAX_PERMITS))),
            global,
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
    /// for ever. Cancel-safe: nothing is taken before both are.
    pub async fn reserve(&self, bytes: usize) -> Credit {
        let n = u32::try_from(bytes).unwrap_or(u32::MAX);
        let tenant = self.tenant.clone().acquire_many_owned(n).await.expect("a budget is never closed");
        let global = self.global.clone().acquire_many_owned(n).await.expect("a budget is never closed");
        Credit {
            _permits: [tenant, global],
            bytes: n,
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
}
