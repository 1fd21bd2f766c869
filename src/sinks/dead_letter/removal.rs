//! Letters that go: one that was replayed or deleted, and all that are older than the tenant keeps them.
//!
//! Guarantees: a letter whose removal returned is gone for good, also when its seal is submitted again after a crash. What a
//! removed letter held leaves the objects with the last letter of its seal (so at once, if it was alone), or with its age.
//! The names that say `gone` stay until no start submits the seal any more ([`DeadLetters::sweep`]).

use super::{
    DeadLetters, Found,
    name::{self, Bundle},
};
use crate::{
    model::{
        tenant::{TenantId, TenantScope},
        time::{DAY_MS, now_ms},
    },
    objects::{Key, ObjectError, Precondition},
};
use bytes::Bytes;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Where other processes write too, one that slept may write letters of a seal that was trimmed long ago: the names that say `gone` stay
/// for so long.
const LATE: i64 = DAY_MS;

impl DeadLetters {
    /// Removes a letter that was just found, for good when it returns. `false`: somebody else removed it meanwhile. After an
    /// error it may or may not be there.
    pub async fn remove(&self, scope: &TenantScope, found: &Found) -> Result<bool, ObjectError> {
        let tenant = scope.tenant();
        let Found { bundle, index, letter, .. } = found;
        let count = bundle.letters.as_ref().map_or(0, name::Letters::count);
        if count > 1 && !self.mark(tenant, name::gone(tenant, bundle.place, *index, letter.reason)).await? {
            return Ok(false);
        }
        // Should the last two go at once, neither is the last by what it found; the next sweep sees that nothing is left.
        if bundle.gone.len() + 1 < count {
            return Ok(true);
        }
        let first = self.mark(tenant, name::all_gone(tenant, bundle.place)).await?;
        let mut rest = Bundle::clone(bundle);
        if count > 1 {
            rest.gone.insert(*index, letter.reason);
        }
        if let Err(error) = self.drop_letters(tenant, &rest).await {
            tracing::warn!(%error, "what removed dead letters held stays until the next round of retention");
        }
        Ok(first || count > 1)
    }

    /// As [`DeadLetters::remove`], for a letter whose entry was accepted once more: when the objects fail it goes on in the
    /// background until it has succeeded or the process ends. In that case the letter can be replayed again, and the
    /// entry is then found to be there.
    pub async fn remove_in_the_end(&self, scope: &TenantScope, found: Found) {
        let Err(error) = self.remove(scope, &found).await else { return };
        tracing::warn!(%error, "a dead letter was replayed and cannot be removed; it is tried again");
        let (letters, scope) = (self.clone(), scope.clone());
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                match letters.remove(&scope, &found).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "the replayed dead letter is still there"),
                }
            }
        });
    }

    /// Removes the tenant's letters that were decided before `cutoff` (milliseconds), and what earlier removals left.
    /// No seal up to `trimmed` is ever submitted again. Says how many letters it removed. What fails is left for the next
    /// sweep.
    pub async fn sweep(&self, scope: &TenantScope, cutoff: i64, trimmed: u64) -> Result<u64, ObjectError> {
        let (tenant, mut removed) = (scope.tenant(), 0);
        let shared = self.0.shared.shelves.is_shared();
        let old = u64::try_from(now_ms() - LATE).unwrap_or(0);
        let past = |bundle: &Bundle| bundle.place.n <= trimmed && (!shared || bundle.place.sealed_at < old);
        let settled = |bundle: &Bundle| bundle.place.n >= name::FOREIGN || past(bundle);
        let goes = |bundle: &&Bundle| {
            let expired = i64::try_from(bundle.place.sealed_at).is_ok_and(|at| at < cutoff);
            // Letters that are not there may still be written, unless their seal is past.
            let nothing_left = bundle.all_gone || bundle.letters.as_ref().map_or(settled(bundle), |letters| bundle.gone.len() >= letters.count());
            expired || nothing_left
        };
        for bundle in self.ask(scope, |bundles| bundles.values().filter(goes).cloned().collect::<Vec<_>>()).await? {
            let settled = settled(&bundle);
            if bundle.is_live() {
                removed += bundle.letters.as_ref().map_or(0, |letters| letters.count() - bundle.gone.len()) as u64;
            }
            if !settled && !bundle.all_gone {
                self.mark(tenant, name::all_gone(tenant, bundle.place)).await?;
            }
            self.drop_letters(tenant, &bundle).await?;
            if settled && bundle.all_gone {
                self.delete(tenant, name::all_gone(tenant, bundle.place)).await?;
            }
        }
        Ok(removed)
    }

    /// Deletes the letters of a bundle, then the marks of single ones.
    async fn drop_letters(&self, tenant: &TenantId, bundle: &Bundle) -> Result<(), ObjectError> {
        if let Some(letters) = &bundle.letters {
            self.delete(tenant, letters.key.clone()).await?;
        }
        for (index, reason) in &bundle.gone {
            self.delete(tenant, name::gone(tenant, bundle.place, *index, *reason)).await?;
        }
        Ok(())
    }

    /// Writes a name; `false` when it was there.
    async fn mark(&self, tenant: &TenantId, key: Key) -> Result<bool, ObjectError> {
        let shared = &self.0.shared;
        let first = match shared.objects.put(&key, Bytes::new(), Precondition::Absent).await {
            Ok(_) => true,
            Err(ObjectError::Conflict) => false,
            Err(error) => {
                shared.shelves.forget(tenant);
                return Err(error);
            }
        };
        shared.shelves.add(tenant, key);
        Ok(first)
    }

    async fn delete(&self, tenant: &TenantId, key: Key) -> Result<(), ObjectError> {
        let shared = &self.0.shared;
        let writes = shared.shelves.writes();
        let done = shared.objects.delete(&key).await;
        match done {
            Ok(()) => shared.shelves.take(tenant, key, writes),
            Err(_) => shared.shelves.forget(tenant),
        }
        done
    }
}
