//! The memory of request bodies: one budget in bytes for all of them, and a share of it for each tenant.
//!
//! Bytes are charged as they arrive, are decompressed and are parsed, never by what a client merely announces, so that
//! announced bodies that never come keep nobody else out. Nothing ever waits here: no room is 429 (the tenant's own share
//! is used up) or 503 (the budget is), early and with `Retry-After`.

use super::error::{Code, Problem};
use crate::model::tenant::TenantId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// The budget.
#[derive(Debug)]
pub struct BodyMemory {
    bytes: usize,
    tenant_bytes: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    /// Only tenants that hold something.
    tenants: HashMap<TenantId, usize>,
}

impl BodyMemory {
    /// A budget of `bytes`, of which one tenant may hold `tenant_bytes`.
    pub fn new(bytes: usize, tenant_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            tenant_bytes,
            used: Mutex::default(),
        })
    }

    /// An empty holding of a tenant.
    pub fn hold(self: &Arc<Self>, tenant: TenantId) -> Held {
        Held {
            memory: self.clone(),
            tenant,
            bytes: 0,
        }
    }

    fn take(&self, tenant: &TenantId, bytes: usize, keep: bool) -> Result<(), Problem> {
        let mut used = self.used.lock().expect("nothing panics while it holds this lock");
        let own = used.tenants.get(tenant).copied().unwrap_or_default();
        let refused = |code, detail| Err(Problem::new(code, detail).retry_after(Duration::from_secs(1)));
        if own.saturating_add(bytes) > self.tenant_bytes {
            return refused(
                Code::Overloaded,
                "the tenant has too many request bodies in flight; nothing was kept, send fewer at once",
            );
        }
        if used.bytes.saturating_add(bytes) > self.bytes {
            return refused(Code::Unavailable, "too many request bodies in flight; nothing was kept, come back later");
        }
        if keep {
            used.bytes += bytes;
            *used.tenants.entry(tenant.clone()).or_default() += bytes;
        }
        Ok(())
    }
}

/// What one request holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    memory: Arc<BodyMemory>,
    tenant: TenantId,
    bytes: usize,
}

impl Held {
    /// Takes more, or says 429 or 503.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.memory.take(&self.tenant, bytes, true)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Whether so much more could be had right now; takes nothing.
    pub fn check(&self, bytes: usize) -> Result<(), Problem> {
        self.memory.take(&self.tenant, bytes, false)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut used = self.memory.used.lock().expect("nothing panics while it holds this lock");
        used.bytes -= self.bytes;
        if let Some(own) = used.tenants.get_mut(&self.tenant) {
            *own -= self.bytes;
            if *own == 0 {
                used.tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_told_429_at_its_share_and_others_503_at_the_budget() {
        let memory = BodyMemory::new(100, 60);
        let status = |result: Result<(), Problem>| result.map_err(|p| p.code().row().0.as_u16());
        let tenant = |name| TenantId::parse(name).expect("a tenant");
        let (mut a, mut b) = (memory.hold(tenant("a")), memory.hold(tenant("b")));
        a.grow(60).expect("its share");
        assert_eq!(status(a.grow(1)), Err(429));
        assert_eq!(
            status(memory.hold(tenant("a")).grow(1)),
            Err(429),
            "the share is the tenant's, not the request's"
        );
        assert_eq!(status(b.grow(41)), Err(503));
        assert_eq!(status(b.check(41)), Err(503));
        b.grow(40).expect("what was refused was not taken");
        drop((a, b));
        let used = memory.used.lock().expect("free");
        assert_eq!((used.bytes, used.tenants.len()), (0, 0), "everything was given back");
    }
}
