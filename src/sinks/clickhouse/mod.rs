//! ClickHouse as the authority: get, list, statistics, scans and the ledger of a Sluice that has outgrown one machine.
//!
//! ```text
//! seal n ──follower──▶ logs, entry_ids, erasures, packs     one block each, token `partition/n`, counted when in doubt
//!                        ▲                       │
//!        list, stats, scan, get, ledger          └─ sweep: rows erased and counted are deleted, many tenants at once
//! ```
//!
//! * [`schema`]: tables by migrations, and what a start refuses. [`follower`]: applies seals, answers the ledger. [`sweep`]: takes
//!   erased rows off the disk.
//! * [`conditions`]: a filter as SQL; what SQL cannot say exactly is decided here, by [`Filter::matches`], on the rows that the
//!   rest of the filter leaves. [`rows`] turns rows into records again, byte for byte.
//! * [`list`], [`scan`], [`stats`], [`erased`]: the questions.
//!
//! Guarantees: answers are those of the embedded store. Every read is of one tenant, of numbers that the view says are applied
//! ([`SealView::head`]), less what is erased ([`SealView::erasures`]), whatever the tables hold: [`Snapshot`] writes these three
//! conditions, and no other way leads to the tables. Values are parameters, never text. Rows are streamed: memory is bounded
//! by a page, whatever matches. A read that fails is an error and never part of an answer.
//!
//! Not here: who may ask, the order of seals, cursors.

mod conditions;
mod db;
mod erased;
mod fault;
mod follower;
mod list;
mod rows;
mod scan;
mod schema;
mod sql;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;

pub use self::{
    db::{ClickHouseError, ClickHouseSettings},
    follower::ClickHouseFollower,
    schema::LATEST,
};

use self::{conditions::Snapshot, db::Db};
use super::{Authority, Condition, ListPage, ListQuery, Scan, Stats, StatsQuery, StoreError, VisibleHead};
use crate::{
    model::{
        entry::StoredEntry,
        filter::Filter,
        tenant::{TenantId, TenantScope},
    },
    seal::{erasure::ErasureKind, view::SealView},
};
use futures_util::future::BoxFuture;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use uuid::Uuid;

/// How many queries may wait for each that runs; more are refused with [`StoreError::Busy`].
const WAITING_PER_QUERY: usize = 32;
/// Counting an erasure looks at every row of the tenant, and nobody waits at a terminal for it.
const COUNT_TIMEOUT: Duration = Duration::from_secs(600);

/// Makes or changes the tables, so that this binary can use them; harmless when there is nothing to do. Says from which version.
pub async fn migrate(settings: &ClickHouseSettings) -> Result<u32, ClickHouseError> {
    schema::migrate(&Db::new(settings)?).await
}

/// The authority on ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse(Arc<Inner>);

struct Inner {
    db: Db,
    view: Arc<dyn SealView>,
    /// One for each query that may run or wait.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl ClickHouse {
    /// Connects, and migrates the schema where it is older than this binary. Fails when the server cannot be reached, does not take
    /// the credentials, has a newer schema, or tables in which a repeated insert would be stored twice.
    pub async fn connect(settings: &ClickHouseSettings, view: Arc<dyn SealView>) -> Result<Self, ClickHouseError> {
        migrate(settings).await?;
        Self::open(settings, view)
    }

    /// The same without asking the server anything: for a process that starts while it is down. [`migrate`] is to be called when it
    /// is there; until then reads fail.
    pub fn open(settings: &ClickHouseSettings, view: Arc<dyn SealView>) -> Result<Self, ClickHouseError> {
        let queries = settings.queries.max(1);
        Ok(Self(Arc::new(Inner {
            db: Db::new(settings)?,
            view,
            places: Arc::new(Semaphore::new(queries * (1 + WAITING_PER_QUERY))),
            running: Arc::new(Semaphore::new(queries)),
        })))
    }

    /// Whether the server answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let one = self.0.db.one::<u8>(&sql::Sql::new("SELECT 1")).await;
        one.map(drop).map_err(|error| fault::read_failed(&error))
    }

    /// What a read may see now.
    fn snapshot(inner: &Inner, scope: &TenantScope) -> Snapshot {
        // The head first: an erasure is in the view before the head passes its seal, so what is erased as of the head is among them.
        let head = inner.view.head(scope.tenant());
        Snapshot::new(scope, head, inner.view.erasures(scope.tenant()))
    }

    /// Runs a read within its time, when there is room for it.
    fn read<T, F>(
        &self,
        within: Duration,
        scope: &TenantScope,
        work: impl FnOnce(Arc<Inner>, Snapshot) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let (inner, scope) = (self.0.clone(), scope.clone());
        Box::pin(async move {
            if !inner.view.ready() {
                return Err(StoreError::Starting);
            }
            let Ok(_place) = inner.places.clone().try_acquire_owned() else {
                return Err(StoreError::Busy);
            };
            let deadline = Instant::now() + within;
            let Ok(Ok(_running)) = tokio::time::timeout_at(deadline, inner.running.clone().acquire_owned()).await else {
                return Err(StoreError::Busy);
            };
            let snapshot = Self::snapshot(&inner, &scope);
            let done = tokio::time::timeout_at(deadline, work(inner, snapshot)).await;
            done.unwrap_or(Err(StoreError::Deadline))
        })
    }

    fn timeout(&self) -> Duration {
        self.0.db.timeout()
    }
}

impl Authority for ClickHouse {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        self.read(self.timeout(), scope, move |inner, at| async move { list::get(&inner.db, &at, id).await })
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        let pause_at = Instant::now() + self.timeout() / 4;
        self.read(self.timeout(), scope, move |inner, at| async move {
            list::list(&inner.db, &at, &query, pause_at).await
        })
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        self.read(
            self.timeout(),
            scope,
            move |inner, at| async move { stats::stats(&inner.db, &at, &query).await },
        )
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        let pause_at = Instant::now() + self.timeout() / 4;
        self.read(self.timeout(), scope, move |inner, at| async move {
            scan::scan(&inner.db, &at, &filter, after, limit, pause_at).await
        })
    }

    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.read(COUNT_TIMEOUT, scope, move |inner, at| async move {
            let removal = at.erasures().and_then(|all| all.removal(job));
            match removal {
                Some(removal) => erased::count(&inner.db.patient(COUNT_TIMEOUT), &at, &removal).await,
                None => Ok(0),
            }
        })
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.read(COUNT_TIMEOUT, scope, move |inner, at| async move {
            let removal = at.removal_of(kind, cutoff);
            erased::count(&inner.db.patient(COUNT_TIMEOUT), &at, &removal).await
        })
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        VisibleHead {
            head: self.0.view.head(scope.tenant()),
        }
    }

    /// It never lacks rows: what cannot be read is an error.
    fn condition(&self, _: bool) -> Condition {
        Condition::late(self.0.view.lag_ms())
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.0.view.visible()
    }
}

/// A tenant's name in a row, which Sluice wrote itself.
fn tenant_of(text: &str) -> Result<TenantId, StoreError> {
    TenantId::decode(text).map_err(|_| StoreError::Damaged("a row of ClickHouse names no tenant".into()))
}
