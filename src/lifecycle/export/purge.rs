//! The exports of a tenant that is being deleted: all jobs end, all files go, and no further job is taken.

use super::{ExportError, Exports, FOLDER, job};
use crate::model::tenant::TenantScope;
use std::collections::HashSet;
use uuid::Uuid;

impl Exports {
    /// Ends and deletes every job of the tenant with what it has written, and everything that a write of one left; from here on
    /// it has none. Returns when no turn of the tenant runs any more. May be repeated; what fails is to be. Cancel-safe.
    pub async fn purge(&self, scope: &TenantScope) -> Result<(), ExportError> {
        let (inner, tenant) = (&self.0, scope.tenant());
        let jobs = {
            let mut state = inner.state();
            state.closed.insert(tenant.clone());
            state.kept.get(tenant).into_iter().flatten().copied().collect()
        };
        // Other processes may have made some.
        let listed = inner.parts.objects.list(&format!("{FOLDER}/{tenant}")).await?;
        let mut jobs: HashSet<Uuid> = jobs;
        jobs.extend(listed.iter().filter_map(|key| job::parse(key.file_name())));
        // The records first: a turn that finds its record gone deletes the chunk that it has written.
        for id in &jobs {
            inner.parts.objects.delete(&job::key(tenant, *id)).await?;
        }
        loop {
            let mut ended = std::pin::pin!(inner.ended.notified());
            ended.as_mut().enable(); // before the look, so that no end is missed
            let running: Vec<_> = {
                let state = inner.state();
                jobs.iter().filter_map(|id| state.turns.get(id).cloned()).collect()
            };
            if running.is_empty() {
                break;
            }
            running.iter().for_each(tokio_util::sync::CancellationToken::cancel);
            ended.await;
        }
        inner.parts.objects.clear(&format!("{FOLDER}/{}", tenant.folder())).await?;
        let mut state = inner.state();
        state.kept.remove(tenant);
        state.expiring.retain(|(_, whose, _)| whose != tenant);
        Ok(())
    }
}
