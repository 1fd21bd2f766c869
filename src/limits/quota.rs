//! How many entries a tenant may have at once.
//!
//! A request that does not fit is refused whole. Entries on their way into the log are counted as if they were there already,
//! so requests at once do not pass the bound together. Exact, but for a client that goes away while its request is made
//! durable: until that is done (milliseconds) its entries are counted nowhere, so the bound may be passed by what it sent.
//! Repeats of stored entries count until they are decided.

use crate::model::tenant::TenantId;
use dashmap::DashMap;
use std::sync::Arc;

/// The bound of all tenants, and what is on its way.
#[derive(Debug)]
pub struct Quotas {
    /// `None`: no bound.
    most: Option<u64>,
    /// Entries between the check and their durability. Only tenants that have some.
    on_their_way: DashMap<TenantId, u64>,
}

/// The entries do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// The bound.
    pub most: u64,
    /// So many would have fitted.
    pub room: u64,
}

impl Quotas {
    /// At most so many entries of each tenant; 0 is no bound.
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            most: (most > 0).then_some(most),
            on_their_way: DashMap::new(),
        })
    }

    /// The bound.
    pub fn most(&self) -> Option<u64> {
        self.most
    }

    /// Reserves room for entries that are to be made durable; keep the answer until they are counted, or refused. `rows` says
    /// how many the tenant has; it must not come back here.
    pub fn reserve(self: &Arc<Self>, tenant: &TenantId, entries: u64, rows: impl FnOnce() -> u64) -> Result<Reservation, Over> {
        let Some(most) = self.most else { return Ok(Reservation(None)) };
        let mut on_their_way = self.on_their_way.entry(tenant.clone()).or_default();
        // Asked while nobody else can reserve: what was on its way a moment ago is either here or there.
        let room = most.saturating_sub(rows()).saturating_sub(*on_their_way);
        let fits = entries <= room;
        if fits {
            *on_their_way += entries;
        }
        let nothing = *on_their_way == 0;
        drop(on_their_way);
        if nothing {
            self.on_their_way.remove_if(tenant, |_, n| *n == 0);
        }
        match fits {
            true => Ok(Reservation(Some((self.clone(), tenant.clone(), entries)))),
            false => Err(Over { most, room }),
        }
    }
}

/// Room for entries that are on their way; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation(Option<(Arc<Quotas>, TenantId, u64)>);

impl Reservation {
    /// Of nothing.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((quotas, tenant, entries)) = self.0.take() {
            if let Some(mut on_their_way) = quotas.on_their_way.get_mut(&tenant) {
                *on_their_way = on_their_way.saturating_sub(entries);
            }
            quotas.on_their_way.remove_if(&tenant, |_, n| *n == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let (quotas, acme) = (Quotas::new(100), tenant("acme"));
        let first = quotas.reserve(&acme, 60, || 30).expect("fits");
        assert_eq!(quotas.reserve(&acme, 11, || 30).expect_err("ten are left"), Over { most: 100, room: 10 });
        let _others = quotas.reserve(&tenant("globex"), 100, || 0).expect("each has its own");
        drop(first);
        let _now = quotas.reserve(&acme, 10, || 90).expect("what was durable is counted once");
        assert_eq!(quotas.reserve(&acme, 1, || 1_000).expect_err("lowered below what there is").room, 0);
        assert!(Quotas::new(0).reserve(&acme, u64::MAX, || u64::MAX).is_ok(), "no bound");
    }

    #[test]
    fn many_at_once_never_pass_it_and_leave_nothing() {
        let (quotas, acme, rows) = (Quotas::new(10_000), tenant("acme"), AtomicU64::new(0));
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for n in 0..1_000 {
                        let entries = 1 + n % 7;
                        if let Ok(reserved) = quotas.reserve(&acme, entries, || rows.load(Ordering::SeqCst)) {
                            rows.fetch_add(entries, Ordering::SeqCst);
                            drop(reserved);
                        }
                    }
                });
            }
        });
        let rows = rows.into_inner();
        assert!((9_994..=10_000).contains(&rows), "{rows}");
        assert!(quotas.on_their_way.is_empty());
    }
}
