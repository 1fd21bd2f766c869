//! How many rows an erasure removes.

use super::{
    conditions::{self, Snapshot},
    db::Db,
    fault,
};
use crate::{seal::erasure::Removal, sinks::StoreError};

/// The rows that `removal` takes of those that are there, hidden or not. Numbers come in order, so all rows that it may take are
/// there when the head has reached its own; before that it is too early to count.
pub(super) async fn count(db: &Db, at: &Snapshot, removal: &Removal) -> Result<u64, StoreError> {
    let (erasure, before) = removal.parts();
    if erasure.head > at.head {
        return Err(StoreError::Starting);
    }
    let mut sql = at.select_all("count()", "logs");
    sql.push(" AND ");
    conditions::step(&mut sql, erasure.kind, erasure.cutoff, erasure.head);
    conditions::not_erased(&mut sql, before);
    db.one(&sql).await.map_err(|e| fault::read_failed(&e))
}
