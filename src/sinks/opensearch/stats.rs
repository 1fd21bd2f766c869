//! Counts over all matches of a search.
//!
//! The engine's own aggregations are not exact: terms are the largest of each shard, distinct values an estimate, and neither knows
//! our intervals, masks or leaves. So the rows are counted here, one by one as they come, by what also counts for the embedded
//! store ([`Tallying`]): same bounds in memory, same answers. A count without anything else to know would
//! not need the rows, but statistics always tell actions, types and users.

use super::{
    Inner,
    read::{Plan, for_each},
};
use crate::{
    model::tenant::TenantScope,
    sinks::{Stats, StatsQuery, StoreError, embedded::Tallying},
};
use tokio::time::Instant;

/// See [`crate::sinks::Authority::stats`].
pub async fn stats(inner: &Inner, scope: &TenantScope, query: StatsQuery, deadline: Instant) -> Result<Stats, StoreError> {
    let plan = Plan::new(inner, scope, query.filter.clone(), None);
    let mut tallying = Tallying::new(query)?;
    loop {
        let mut pass = tallying.pass();
        for_each(inner, &plan, deadline, |entry| pass.add(&entry.entry())).await?;
        let rest = pass.finish()?;
        if tallying.take(rest) {
            return Ok(tallying.answer());
        }
    }
}
