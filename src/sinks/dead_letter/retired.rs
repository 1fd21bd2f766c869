//! Dead letters of deleted tenants: there are none.
//!
//! A dead letter holds an original, and the log would give it back: a start submits seals again that were made before the
//! deletion, and whatever is sent to the tenant later is refused by a seal, which makes it a dead letter too. So originals
//! would outlive the deletion. Therefore letters of a retired tenant are counted by their seals as ever, and not written: from
//! the moment that this is told ([`DeadLetters::forget`]: by the deletion, and at a start before the first seal), or that a
//! submitted seal retires the tenant. [`DeadLetters::purge`] then deletes what was written before. Settling goes on as if
//! they had been written.

use super::{DeadLetters, FOLDER, Object, Shared};
use crate::{
    model::tenant::{TenantId, TenantScope},
    objects::ObjectError,
    seal::DecidedSeal,
};
use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
};

impl DeadLetters {
    /// Writes no letter of these tenants from here on.
    pub fn forget(&self, tenants: impl IntoIterator<Item = TenantId>) {
        self.0.shared.forgotten().extend(tenants);
    }

    /// Deletes the letters of a tenant that is retired, and everything that a write of one left. None comes after it. May be
    /// repeated; what fails is to be. Cancel-safe.
    pub async fn purge(&self, scope: &TenantScope) -> Result<(), ObjectError> {
        self.forget([scope.tenant().clone()]);
        let shared = &self.0.shared;
        let mut settled = self.settled();
        // One of them may be on its way already.
        while !shared.waiting(scope).is_empty() {
            let _ = settled.changed().await; // cannot fail while `self` holds the sender
        }
        let cleared = shared.objects.clear(&format!("{FOLDER}/{}", scope.tenant().folder())).await;
        shared.shelves.forget(scope.tenant());
        cleared
    }
}

impl Shared {
    fn forgotten(&self) -> MutexGuard<'_, HashSet<TenantId>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner) // changed by insertions alone
    }

    /// Whether the object is not to be written.
    pub(super) fn is_forgotten(&self, object: &Object) -> bool {
        self.forgotten().contains(&object.tenant)
    }

    /// Whether the tenant gets no letters any more.
    pub(super) fn is_forgotten_tenant(&self, tenant: &TenantId) -> bool {
        self.forgotten().contains(tenant)
    }

    /// Takes note of whom the seal retires, and leaves out what is not to be written.
    pub(super) fn leave_out(&self, seal: &DecidedSeal, objects: &mut Vec<Object>) {
        let mut forgotten = self.forgotten();
        forgotten.extend(seal.seal.retires().cloned());
        objects.retain(|object| !forgotten.contains(&object.tenant));
    }
}
