//! What an accepting process holds of packs that the queue has not taken yet, bounded in all and per tenant.
//!
//! A tenant that floods is refused (429) while the others still find room; a queue that takes nothing fills it up, and then everybody
//! is refused (503) instead of held.

use crate::queue::AcceptError;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// The largest share of one tenant.
const TENANT_SHARE: usize = 4;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: usize,
    held: Mutex<Held>,
    empty: Notify,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// By the hash of the tenant: two that share one share a bound, which no one notices.
    tenants: HashMap<u64, usize>,
}

/// The right to hold so many bytes; given back by dropping it.
#[derive(Debug)]
pub struct Place {
    room: Arc<Inner>,
    tenant: u64,
    bytes: usize,
}

impl Room {
    /// Room for `bytes`.
    pub fn new(bytes: usize) -> Self {
        let inner = Inner {
            bytes,
            held: Mutex::default(),
            empty: Notify::new(),
        };
        Self(Arc::new(inner))
    }

    /// Whether the tenant could hold so much more. Who holds nothing may have one pack of any size while there is room at all.
    pub fn check(&self, tenant: u64, bytes: usize) -> Result<(), AcceptError> {
        self.0.check(&self.0.held(), tenant, bytes)
    }

    /// Takes a place, or says why not. Never waits.
    pub fn take(&self, tenant: u64, bytes: usize) -> Result<Place, AcceptError> {
        let mut held = self.0.held();
        self.0.check(&held, tenant, bytes)?;
        held.bytes += bytes;
        *held.tenants.entry(tenant).or_default() += bytes;
        Ok(Place {
            room: self.0.clone(),
            tenant,
            bytes,
        })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.held().bytes
    }

    /// Resolves when nothing is held. Cancel-safe.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.0.empty.notified();
            if self.held() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Place {
    /// Takes `bytes` of it as a place of their own.
    pub fn part(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            room: self.room.clone(),
            tenant: self.tenant,
            bytes,
        }
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, held: &Held, tenant: u64, bytes: usize) -> Result<(), AcceptError> {
        let of_tenant = held.tenants.get(&tenant).copied().unwrap_or(0);
        if held.bytes > 0 && held.bytes + bytes > self.bytes {
            return Err(AcceptError::Unavailable {
                reason: "the queue does not take entries as fast as they come",
                retry_after: RETRY_AFTER,
            });
        }
        if of_tenant > 0 && of_tenant + bytes > self.bytes / TENANT_SHARE {
            return Err(AcceptError::TenantFull { retry_after: RETRY_AFTER });
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.room.held();
        held.bytes -= self.bytes;
        if let Some(of_tenant) = held.tenants.get_mut(&self.tenant) {
            *of_tenant -= self.bytes;
            if *of_tenant == 0 {
                held.tenants.remove(&self.tenant);
            }
        }
        if held.bytes == 0 {
            self.room.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_share_and_all_have_the_room() {
        let room = Room::new(100);
        let flood = room.take(1, 25).expect("its share");
        assert!(matches!(room.take(1, 1), Err(AcceptError::TenantFull { .. })), "others would have no place");
        let others: Vec<_> = (2..5).map(|tenant| room.take(tenant, 25).expect("room")).collect();
        assert!(matches!(room.take(9, 1), Err(AcceptError::Unavailable { .. })), "all is held");
        assert_eq!(room.held(), 100);
        drop((flood, others));
        assert_eq!((room.held(), room.0.held().tenants.len()), (0, 0), "nothing is left behind");
        assert!(room.take(1, 1000).is_ok(), "one pack of any size, so that none is refused for ever");
    }
}
