//! Takes erased rows off the disk: housekeeping, which may come late or never without changing any answer.
//!
//! An erasure is due when its number of rows has come back in a seal (before that its rows are needed for counting) and every read
//! that began before has ended. Those that are due, of many tenants, are one lightweight delete in `logs` and one in `entry_ids`: never
//! a partition or a part. The deletes run in the background of the server and are watched; when both are done the erasures
//! are marked `purged`. A failure leaves them due. Late rows of a zombie that come after the delete are hidden like all erased
//! rows, and stay.

use super::{
    conditions,
    db::{Db, Failed},
    fault,
    sql::Sql,
};
use crate::{model::time::now_ms, seal::erasure::ErasureKind};
use clickhouse::Row;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

/// Erasures of one delete.
const AT_ONCE: u64 = 200;
/// How often a delete is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is due is looked for at least this often: what a failure left is taken up again.
const EVERY: Duration = Duration::from_secs(600);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(30);

/// The background work of one partition, until it is dropped.
pub(super) struct Sweep {
    woken: Arc<Notify>,
    task: AbortHandle,
}

impl Sweep {
    /// Begins with what earlier runs left.
    pub fn start(db: Db, partition: u32, runtime: &Handle) -> Self {
        let woken = Arc::new(Notify::new());
        let waits = woken.clone();
        let task = runtime.spawn(async move {
            let mut next = Instant::now() + db.purge_after();
            loop {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = waits.notified() => {
                        // What woke it is due only later.
                        next = next.min(Instant::now() + db.purge_after());
                        continue;
                    }
                }
                next = Instant::now()
                    + match run(&db, partition).await {
                        Ok(0) => EVERY,
                        Ok(_) => db.purge_after(),
                        Err(error) => {
                            tracing::warn!(
                                error = fault::outline(&error),
                                "erased rows were not deleted in ClickHouse; they stay hidden and are deleted later"
                            );
                            PAUSE
                        }
                    };
            }
        });
        Self {
            woken,
            task: task.abort_handle(),
        }
    }

    /// An erasure was settled.
    pub fn wake(&self) {
        self.woken.notify_one();
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Row, Deserialize)]
struct Due {
    tenant: String,
    #[serde(with = "clickhouse::serde::uuid")]
    job: Uuid,
    retention: bool,
    cutoff: i64,
    head: u64,
    settled: i64,
}

/// Deletes what is due, and says how many erasures wait to become due or are left.
pub(super) async fn run(db: &Db, partition: u32) -> Result<u64, Failed> {
    let mut sql = Sql::new(
        "SELECT CAST(tenant_id, 'String') AS tenant, job, anyIf(kind = 'retention', what = 'erased') AS retention, \
         anyIf(cutoff, what = 'erased') AS cutoff_at, anyIf(head, what = 'erased') AS head_at, \
         toUnixTimestamp64Milli(maxIf(sealed_at, what = 'settled')) AS settled FROM erasures WHERE `partition` = ",
    );
    sql.number(u64::from(partition));
    sql.push(" GROUP BY tenant_id, job HAVING countIf(what = 'erased') > 0 AND countIf(what = 'settled') > 0 AND countIf(what = 'purged') = 0");
    sql.push(" ORDER BY settled LIMIT ").number(AT_ONCE);
    let sql = sql.within("SELECT tenant, job, retention, cutoff_at AS cutoff, head_at AS head, settled FROM (");
    let mut sql = sql;
    sql.push(")");
    let all: Vec<Due> = db.all(&sql).await?;
    let until = now_ms().saturating_sub(i64::try_from(db.purge_after().as_millis()).unwrap_or(i64::MAX));
    let found = all.len() as u64;
    let due: Vec<Due> = all.into_iter().filter(|erasure| erasure.settled <= until).collect();
    if due.is_empty() {
        return Ok(found);
    }
    for table in ["logs", "entry_ids"] {
        delete(db, table, &due).await?;
    }
    mark(db, partition, &due).await?;
    tracing::info!(erasures = due.len(), "erased rows were deleted in ClickHouse");
    Ok(found - due.len() as u64 + u64::from(found == AT_ONCE))
}

/// Deletes the rows of all of them in one table, and waits until that is done.
async fn delete(db: &Db, table: &str, due: &[Due]) -> Result<(), Failed> {
    let mut sql = Sql::new("DELETE FROM ");
    sql.push(table).push(" WHERE ").list(" OR ", due, |sql, erasure| {
        let kind = if erasure.retention { ErasureKind::Retention } else { ErasureKind::Cleanup };
        sql.push("(tenant_id = ").text(&erasure.tenant).push(" AND ");
        conditions::step(sql, kind, erasure.cutoff, erasure.head);
        sql.push(")");
    });
    sql.push(" SETTINGS lightweight_deletes_sync = 0");
    db.run(&sql).await?;
    let mut waiting = Sql::new("SELECT count() FROM system.mutations WHERE NOT is_done AND database = ");
    waiting.text(db.database()).push(" AND table = ").text(table);
    while db.one::<u64>(&waiting).await? > 0 {
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Notes that nothing is left of them.
async fn mark(db: &Db, partition: u32, due: &[Due]) -> Result<(), Failed> {
    let mut sql = Sql::new("INSERT INTO erasures (tenant_id, job, what, kind, cutoff, head, rows, `partition`, seal, sealed_at) ");
    sql.push("SELECT t, j, 'purged', 'none', 0, 0, 0, ")
        .number(u64::from(partition))
        .push(", 0, fromUnixTimestamp64Milli(")
        .int(now_ms());
    sql.push(", 'UTC') FROM (SELECT arrayJoin(arrayZip([").list(", ", due, |sql, erasure| {
        sql.text(&erasure.tenant);
    });
    sql.push("], ")
        .uuids(&due.iter().map(|erasure| erasure.job).collect::<Vec<_>>())
        .push(")) AS z, z.1 AS t, z.2 AS j)");
    db.run(&sql).await
}
