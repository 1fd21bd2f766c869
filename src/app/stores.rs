//! ClickHouse and OpenSearch, reached: how they are read, how they follow the seals, and how they are.
//!
//! A process starts while they are down: reads are 503, what is accepted waits in queue or seals, and they are asked again. One that
//! *refuses* at the start (wrong credentials, a schema of a newer Sluice, tables that are not ours) ends it, since a person must act.

use super::engines::Passwords;
use crate::{
    catalog::Catalog,
    config::{AnalyticsChoice, ClickHouseSettings, OpenSearchSettings, SearchChoice, Settings},
    error::AppError,
    http::health::Health,
    model::{
        entry::ContentHash,
        tenant::{Log, TenantId},
    },
    queue::remote::producer::partition_of,
    seal::{DecidedSeal, view::SealView},
    sinks::{
        Authority, Follower, SealFollower, SearchStore, StoreError,
        follow::{CopyLog, Progress, Rebuild},
        retry::Remedy,
    },
};
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch};
use uuid::Uuid;

/// How often the stores are asked how they are.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long the first answer is waited for.
const FIRST_PROBE: Duration = Duration::from_secs(10);

/// Why a store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "sqs", feature = "kinesis", feature = "clickhouse", feature = "opensearch")), allow(dead_code))]
pub enum Trouble {
    /// It does not answer, or cannot do it now.
    Down(String),
    /// A person must act.
    Refused(String),
}

/// Asks a store how it is, and lays it out if that was not done.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Trouble>> + Send + Sync>;
/// Opens a follower for a partition.
pub type OpenFollower = Arc<dyn Fn(u32) -> BoxFuture<'static, Result<Arc<dyn SealFollower>, Trouble>> + Send + Sync>;

/// The authority where it is a store of its own.
#[derive(Clone)]
pub struct Analytics {
    /// Reads.
    pub authority: Arc<dyn Authority>,
    /// Follows.
    pub open: OpenFollower,
    probe: Probe,
}

/// The search store.
#[derive(Clone)]
pub struct Search {
    /// Reads.
    pub store: Arc<dyn SearchStore>,
    /// Follows.
    pub follower: Arc<dyn Follower>,
    /// Fills it from an authority.
    pub copy: Copy,
    /// Copies one log, span by span.
    pub copying: MakeCopying,
    probe: Probe,
}

/// Copies logs from an authority into the search store, and says how far it is.
pub type Copy =
    Arc<dyn for<'a> Fn(Arc<dyn Authority>, Vec<TenantId>, &'a (dyn Fn(Progress) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>> + Send + Sync>;
/// The way of one log from an authority to the search store.
pub type MakeCopying = Arc<dyn Fn(Arc<dyn Authority>) -> Arc<dyn CopyLog> + Send + Sync>;
/// Asks for the last seal that the authority has of a partition.
pub type Has = Arc<dyn Fn() -> BoxFuture<'static, Result<u64, Arc<str>>> + Send + Sync>;

/// Fills the search store where its seals are gone.
pub struct Refill {
    pub copy: Copy,
    pub authority: Arc<dyn Authority>,
    pub catalog: Catalog,
    pub has: Has,
    pub partitions: u32,
}

impl Rebuild for Refill {
    fn authority_has(&self, _: u32) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { (self.has)().await.map_err(|what| StoreError::Unavailable { what, remedy: Remedy::Again }) })
    }

    fn copy<'a>(&'a self, partition: u32, progress: &'a (dyn Fn(Progress) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>> {
        let mine = |tenant: &TenantId| partition_of(tenant, self.partitions) == partition;
        let tenants = self.catalog.list();
        let logs = tenants.iter().map(|tenant| &tenant.tenant_id).filter(|tenant| mine(tenant));
        let logs = logs.flat_map(|tenant| [Log::Audit, Log::Access].map(|log| log.of(tenant))).collect();
        (self.copy)(self.authority.clone(), logs, progress)
    }
}

/// ClickHouse, if the configuration names it; its reads go by `view`.
pub fn analytics(settings: &Settings, passwords: &Passwords, view: Arc<dyn SealView>) -> Result<Option<Analytics>, AppError> {
    match &settings.engines.analytics {
        AnalyticsChoice::Embedded => Ok(None),
        AnalyticsChoice::ClickHouse(clickhouse) => self::clickhouse(settings, clickhouse, passwords, view).map(Some),
    }
}

/// OpenSearch, if the configuration names it; its reads go by `view`.
pub fn search(settings: &Settings, passwords: &Passwords, view: Arc<dyn SealView>) -> Result<Option<Search>, AppError> {
    match &settings.engines.search {
        SearchChoice::Embedded => Ok(None),
        SearchChoice::OpenSearch(opensearch) => self::opensearch(settings, opensearch, passwords, view).map(Some),
    }
}

/// Lays out what the configuration names, and says in a line each what was done.
pub async fn migrate(settings: &Settings, passwords: &Passwords) -> Result<Vec<String>, AppError> {
    let mut done = Vec::new();
    if let AnalyticsChoice::ClickHouse(clickhouse) = &settings.engines.analytics {
        done.push(migrate_clickhouse(settings, clickhouse, passwords).await?);
    }
    if let SearchChoice::OpenSearch(opensearch) = &settings.engines.search {
        done.push(migrate_opensearch(settings, opensearch, passwords).await?);
    }
    if done.is_empty() {
        done.push("nothing to do: both stores are in the data folder".to_owned());
    }
    Ok(done)
}

#[cfg(feature = "clickhouse")]
async fn migrate_clickhouse(settings: &Settings, clickhouse: &ClickHouseSettings, passwords: &Passwords) -> Result<String, AppError> {
    use crate::sinks::clickhouse::{LATEST, migrate};
    let before = migrate(&clickhouse_settings(settings, clickhouse, passwords)).await.map_err(AppError::failed)?;
    let database = &clickhouse.database;
    Ok(match before {
        before if before == LATEST => format!("clickhouse: the schema of `{database}` has version {LATEST} already"),
        0 => format!("clickhouse: the schema of `{database}` was made, version {LATEST}"),
        before => format!("clickhouse: the schema of `{database}` was changed from version {before} to {LATEST}"),
    })
}

#[cfg(not(feature = "clickhouse"))]
async fn migrate_clickhouse(_: &Settings, _: &ClickHouseSettings, _: &Passwords) -> Result<String, AppError> {
    Err(super::engines::not_built("clickhouse"))
}

#[cfg(feature = "opensearch")]
async fn migrate_opensearch(settings: &Settings, opensearch: &OpenSearchSettings, passwords: &Passwords) -> Result<String, AppError> {
    use crate::sinks::opensearch::OpenSearch;
    OpenSearch::migrate(&opensearch_settings(settings, opensearch, passwords))
        .await
        .map_err(AppError::failed)?;
    Ok(format!("opensearch: templates and aliases of `{}` are in force", opensearch.index_prefix))
}

#[cfg(not(feature = "opensearch"))]
async fn migrate_opensearch(_: &Settings, _: &OpenSearchSettings, _: &Passwords) -> Result<String, AppError> {
    Err(super::engines::not_built("opensearch"))
}

/// How many partitions the configuration has; the log is one.
#[cfg(feature = "opensearch")]
fn partitions(settings: &Settings) -> u32 {
    use crate::config::QueueChoice;
    match &settings.engines.queue {
        QueueChoice::Wal => 1,
        QueueChoice::Sqs(sqs) => sqs.urls.len() as u32,
        QueueChoice::Kinesis(kinesis) => kinesis.streams.len() as u32,
    }
}

/// Settings of ClickHouse as its module wants them.
#[cfg(feature = "clickhouse")]
pub fn clickhouse_settings(settings: &Settings, clickhouse: &ClickHouseSettings, passwords: &Passwords) -> crate::sinks::clickhouse::ClickHouseSettings {
    crate::sinks::clickhouse::ClickHouseSettings {
        url: clickhouse.url.as_str().to_owned(),
        user: clickhouse.user.clone(),
        password: passwords.clickhouse.clone(),
        database: clickhouse.database.clone(),
        timeout: clickhouse.timeout,
        queries: settings.store.queries,
        ..Default::default()
    }
}

#[cfg(feature = "clickhouse")]
fn clickhouse(settings: &Settings, clickhouse: &ClickHouseSettings, passwords: &Passwords, view: Arc<dyn SealView>) -> Result<Analytics, AppError> {
    use crate::sinks::clickhouse::{ClickHouse, ClickHouseError, ClickHouseFollower, migrate};
    let trouble = |error: ClickHouseError| match error {
        ClickHouseError::Unavailable { .. } => Trouble::Down(error.to_string()),
        _ => Trouble::Refused(error.to_string()),
    };
    let its = clickhouse_settings(settings, clickhouse, passwords);
    let reads = ClickHouse::open(&its, view).map_err(AppError::usage)?;
    let (ping, laid_out) = (reads.clone(), Arc::new(OnceLock::new()));
    let (for_probe, for_follower) = (its.clone(), its);
    let probe: Probe = Arc::new(move || {
        let (its, ping, laid_out) = (for_probe.clone(), ping.clone(), laid_out.clone());
        Box::pin(async move {
            if laid_out.get().is_none() {
                migrate(&its).await.map_err(trouble)?;
                let _ = laid_out.set(());
            }
            ping.ping().await.map_err(|error| Trouble::Down(error.to_string()))
        })
    });
    let open: OpenFollower = Arc::new(move |partition| {
        let its = for_follower.clone();
        Box::pin(async move {
            let follower = ClickHouseFollower::start(&its, partition, Handle::current()).await.map_err(trouble)?;
            Ok(Arc::new(follower) as Arc<dyn SealFollower>)
        })
    });
    Ok(Analytics {
        authority: Arc::new(reads),
        open,
        probe,
    })
}

#[cfg(not(feature = "clickhouse"))]
fn clickhouse(_: &Settings, _: &ClickHouseSettings, _: &Passwords, _: Arc<dyn SealView>) -> Result<Analytics, AppError> {
    Err(super::engines::not_built("clickhouse"))
}

/// Settings of OpenSearch as its module wants them.
#[cfg(feature = "opensearch")]
pub fn opensearch_settings(settings: &Settings, opensearch: &OpenSearchSettings, passwords: &Passwords) -> crate::sinks::opensearch::OpenSearchSettings {
    use crate::{config, sinks::opensearch::IndexStrategy};
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    crate::sinks::opensearch::OpenSearchSettings {
        url: opensearch.url.as_str().trim_end_matches('/').to_owned(),
        user: some(&opensearch.user),
        password: some(&passwords.opensearch),
        index_prefix: opensearch.index_prefix.clone(),
        index_strategy: match opensearch.index_strategy {
            config::IndexStrategy::Shared => IndexStrategy::Shared,
            config::IndexStrategy::PerTenant => IndexStrategy::PerTenant,
        },
        timeout: opensearch.timeout,
        partitions: partitions(settings),
        ..Default::default()
    }
}

#[cfg(feature = "opensearch")]
fn opensearch(settings: &Settings, opensearch: &OpenSearchSettings, passwords: &Passwords, view: Arc<dyn SealView>) -> Result<Search, AppError> {
    use crate::sinks::opensearch::{OpenSearch, rebuild::Copying};
    let store = OpenSearch::connect(opensearch_settings(settings, opensearch, passwords), view).map_err(AppError::failed)?;
    let (asked, filled, copied_to) = (store.clone(), store.clone(), store.clone());
    let url = opensearch.url.as_str().trim_end_matches('/').to_owned();
    let probe: Probe = Arc::new(move || {
        let (asked, url) = (asked.clone(), url.clone());
        Box::pin(async move {
            asked.check().await.map_err(|error| {
                let told = format!("OpenSearch at `{url}`: {error}");
                match error.remedy() {
                    Remedy::Hold => Trouble::Refused(told),
                    _ => Trouble::Down(told),
                }
            })
        })
    });
    Ok(Search {
        store: Arc::new(store.clone()),
        follower: Arc::new(store),
        copy: Arc::new(move |authority, logs, progress| {
            let store = filled.clone();
            Box::pin(async move { store.copy_logs(&*authority, &logs, progress).await })
        }),
        copying: Arc::new(move |authority| Arc::new(Copying::new(copied_to.clone(), authority))),
        probe,
    })
}

#[cfg(not(feature = "opensearch"))]
fn opensearch(_: &Settings, _: &OpenSearchSettings, _: &Passwords, _: Arc<dyn SealView>) -> Result<Search, AppError> {
    Err(super::engines::not_built("opensearch"))
}

impl Analytics {
    /// Asks for the first time, then again and again, and tells health. `Err`: it refuses.
    pub async fn watch(&self, health: &Arc<Health>) -> Result<(), AppError> {
        watch("analytics", self.probe.clone(), health).await
    }
}

impl Search {
    /// See [`Analytics::watch`].
    pub async fn watch(&self, health: &Arc<Health>) -> Result<(), AppError> {
        watch("search", self.probe.clone(), health).await
    }
}

async fn watch(name: &'static str, probe: Probe, health: &Arc<Health>) -> Result<(), AppError> {
    let first = tokio::time::timeout(FIRST_PROBE, probe()).await;
    let first = first.unwrap_or_else(|_| Err(Trouble::Down("it did not answer in time".to_owned())));
    match &first {
        Ok(()) => {}
        Err(Trouble::Refused(why)) => return Err(AppError::failed(why)),
        Err(Trouble::Down(why)) => tracing::warn!(store = name, %why, "the store does not answer; the process starts without it and asks again"),
    }
    tell(name, &first, health);
    let health = health.clone();
    tokio::spawn(async move {
        let mut before = first.is_ok();
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let now = probe().await;
            tell(name, &now, &health);
            match (&now, before) {
                (Ok(()), false) => tracing::info!(store = name, "the store answers again"),
                (Err(Trouble::Down(why) | Trouble::Refused(why)), true) => tracing::warn!(store = name, %why, "the store does not answer"),
                _ => {}
            }
            before = now.is_ok();
        }
    });
    Ok(())
}

/// In words of our own: what a store says may hold addresses and users.
fn tell(name: &'static str, answer: &Result<(), Trouble>, health: &Health) {
    match answer {
        Ok(()) => health.set_dependency(name, true, "it answers"),
        Err(Trouble::Down(_)) => health.set_dependency(name, false, "it does not answer; the log says why"),
        Err(Trouble::Refused(_)) => health.set_dependency(name, false, "it refuses; the log says why"),
    }
}

/// A follower that is opened when it is first needed, and asked again until it can be: a sequencer starts while its store is down.
pub struct Late {
    partition: u32,
    open: OpenFollower,
    runtime: Handle,
    opened: OnceLock<Arc<dyn SealFollower>>,
    nothing: watch::Sender<u64>,
}

impl Late {
    /// Its methods run requests on `runtime` and must not be called from one of its tasks.
    pub fn new(partition: u32, open: OpenFollower, runtime: Handle) -> Self {
        Self {
            partition,
            open,
            runtime,
            opened: OnceLock::new(),
            nothing: watch::Sender::new(0),
        }
    }

    fn get(&self) -> Result<&Arc<dyn SealFollower>, StoreError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = self.runtime.block_on((self.open)(self.partition)).map_err(|trouble| {
            let (Trouble::Down(what) | Trouble::Refused(what)) = trouble;
            StoreError::Unavailable {
                what: what.into(),
                remedy: Remedy::Again,
            }
        })?;
        Ok(self.opened.get_or_init(|| opened))
    }
}

impl SealFollower for Late {
    fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        self.get()?.apply(seal)
    }

    fn lookup(&self, keys: &[(TenantId, Uuid)]) -> Result<Vec<Option<ContentHash>>, StoreError> {
        self.get()?.lookup(keys)
    }

    fn lookup_packs(&self, packs: &[Uuid]) -> Result<Vec<bool>, StoreError> {
        self.get()?.lookup_packs(packs)
    }

    /// Nothing: whoever keeps the seals decides by cursors.
    fn trimmable(&self) -> watch::Receiver<u64> {
        self.nothing.subscribe()
    }
}
