//! OpenSearch as the store that answers everything with `search`.
//!
//! ```text
//! seals ─▶ sinks/follow ─▶ apply: documents (document) ─▶ _bulk (bulk) ─▶ refresh ─▶ cursor          P-logs-2026.11, P-meta (schema)
//! search=… ─▶ compile: Bounds of queries (query) ─▶ read: pages by search_after, pinned to `sequence <= head` ─▶ Filter::matches
//! erasures in seals ─▶ a note in P-meta ─▶ erase: deleted by query, whenever; every read leaves the rows out at once
//! the authority's rows ─▶ rebuild ─▶ the same documents
//! ```
//!
//! Guarantees: a row is written under a name that is its own, so that writing it again is harmless; a seal counts as applied when its
//! rows can be *found*; every answer is whole, as of one number of the tenant, and exactly what [`crate::model::filter::Filter`] means; an
//! answer with a failed shard is an error; erased rows are in no answer, whether their bytes are gone or not; a row that the engine
//! will not take is noted as an index dead letter and shown as `degraded`, and nothing waits for it.
//!
//! It does not know what is a duplicate, has no numbers of its own, and is never asked for an entry by its id. Requests go to one
//! address; behind it may be a cluster.

mod bulk;
mod client;
mod compile;
mod document;
mod erase;
mod query;
mod read;
pub mod rebuild;
mod schema;
mod stats;
#[cfg(test)]
mod tests;

use self::{
    bulk::{Chunk, How, Refusal},
    client::{Body, Client, Fault},
    document::Around,
    schema::Schema,
};
use super::{
    Condition, Follower, ListPage, ListQuery, Scan, SearchStore, Stats, StatsQuery, StoreError,
    retry::{Breaker, Budget},
};
use crate::{
    model::{filter::Filter, tenant::TenantScope, time::now_ms},
    seal::{DecidedSeal, view::SealView},
};
use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, TryStreamExt},
};
use opensearch::http::Method;
use serde_json::json;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// Queries at once; others wait for their turn.
const QUERIES: usize = 32;
/// How long what the store says about itself is believed.
const BELIEVED: Duration = Duration::from_secs(2);
/// Bulks on their way at once.
const IN_FLIGHT: usize = 2;
/// Rows between two looks at whether somebody else wants the thread.
const ROWS_AT_ONCE: usize = 512;

/// Which rows share an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IndexStrategy {
    /// All tenants' rows of a month; a tenant's rows are in one shard.
    #[default]
    Shared,
    /// Each tenant's rows of a month, for few large tenants.
    PerTenant,
}

impl IndexStrategy {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerTenant => "per_tenant",
        }
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Shared, Self::PerTenant].into_iter().find(|s| s.as_str() == text)
    }
}

/// Where it is and how it is used.
#[derive(Clone)]
pub struct OpenSearchSettings {
    /// Address of one node or of a balancer.
    pub url: String,
    /// User, if the store asks for one.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// What all names of ours begin with: lower-case letters, digits, `_` and `-`, beginning with a letter.
    pub index_prefix: String,
    /// Which rows share an index.
    pub index_strategy: IndexStrategy,
    /// How long a request, and a query of whatever many requests, may take.
    pub timeout: Duration,
    /// Bytes of one bulk; a row may be larger.
    pub bulk_bytes: usize,
    /// Partitions of the queue.
    pub partitions: u32,
}

impl Default for OpenSearchSettings {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:9200".into(),
            user: None,
            password: None,
            index_prefix: "sluice".into(),
            index_strategy: IndexStrategy::Shared,
            timeout: Duration::from_secs(30),
            bulk_bytes: 5 << 20,
            partitions: 1,
        }
    }
}

impl fmt::Debug for OpenSearchSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSearchSettings")
            .field("index_prefix", &self.index_prefix)
            .field("index_strategy", &self.index_strategy)
            .finish_non_exhaustive()
    }
}

impl OpenSearchSettings {
    /// Whether the prefix can begin the name of an index.
    pub fn is_prefix(text: &str) -> bool {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        text.len() <= 64 && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && text.bytes().all(plain)
    }
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct OpenSearch(Arc<Inner>);

struct Inner {
    client: Client,
    schema: Schema,
    settings: OpenSearchSettings,
    view: Arc<dyn SealView>,
    breaker: Breaker,
    budget: Budget,
    queries: Semaphore,
    state: Mutex<State>,
    sweep: erase::Sweep,
}

#[derive(Default)]
struct State {
    /// This process has laid everything out, or found it so.
    laid_out: bool,
    /// By partition: what the store was last told about itself.
    noted: HashMap<u32, Noted>,
    /// What the store said about itself, and when.
    said: Option<(Instant, Said)>,
}

/// What is kept about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Noted {
    /// Seals up to here were begun; written with their rows. A cursor beyond it means that the store was lost or restored since.
    seal: u64,
    /// It has every seal up to here.
    sure: u64,
    /// It had seals up to here before it was lost.
    owes: u64,
}

impl Noted {
    fn id(partition: u32) -> String {
        format!("partition-{partition}")
    }

    fn source(self) -> serde_json::Value {
        json!({ "kind": "partition", "seal": self.seal, "sure": self.sure, "owes": self.owes })
    }

    fn read(source: &serde_json::Value) -> Option<Self> {
        Some(Self {
            seal: source["seal"].as_u64()?,
            sure: source["sure"].as_u64()?,
            owes: source["owes"].as_u64()?,
        })
    }

    fn is_whole(self) -> bool {
        self.sure >= self.owes
    }
}

/// What a reader has to know of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    /// It has everything that its cursors say.
    whole: bool,
    /// Rows that it would not take.
    refused: u64,
}

impl OpenSearch {
    /// The store as `view` shows the log. Nothing is asked of it yet, so that a process starts also while it is down.
    pub fn connect(settings: OpenSearchSettings, view: Arc<dyn SealView>) -> Result<Self, StoreError> {
        if !OpenSearchSettings::is_prefix(&settings.index_prefix) {
            return Err(Fault::hold("`opensearch.index_prefix` has lower-case letters, digits, `_` and `-`, and begins with a letter").into());
        }
        Ok(Self(Arc::new(Inner {
            client: Client::new(&settings)?,
            schema: Schema::new(&settings),
            view,
            breaker: Breaker::default(),
            budget: Budget::default(),
            queries: Semaphore::new(QUERIES),
            state: Mutex::default(),
            sweep: erase::Sweep::default(),
            settings,
        })))
    }

    /// Lays out what is missing, and refuses what is not ours or newer than this binary.
    pub async fn migrate(settings: &OpenSearchSettings) -> Result<(), StoreError> {
        Schema::new(settings).migrate(&Client::new(settings)?).await.map_err(StoreError::from)
    }

    /// Whether it answers, lets us in, and is laid out by this version or an older one.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.0.lay_out().await?;
        self.0.asked().await.map(drop).map_err(StoreError::from)
    }

    /// Rows that the engine would not take.
    pub async fn refused(&self) -> Result<u64, StoreError> {
        Ok(self.0.ask_state().await?.refused)
    }

    fn query<T: Send + 'static>(&self, work: impl AsyncRead<T>) -> BoxFuture<'static, Result<T, StoreError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let deadline = Instant::now() + inner.settings.timeout;
            let turn = timeout_at(deadline, inner.queries.acquire()).await;
            let Ok(Ok(_turn)) = turn else { return Err(StoreError::Busy) };
            inner.gate().await?;
            match timeout_at(deadline, work.run(&inner, deadline)).await {
                Ok(answer) => answer,
                Err(_) => Err(StoreError::Deadline),
            }
        })
    }
}

/// A read as a value: a closure cannot yet say that what it returns borrows from its argument and can be sent.
trait AsyncRead<T>: Send + 'static {
    fn run(self, inner: &Inner, deadline: Instant) -> BoxFuture<'_, Result<T, StoreError>>;
}

struct Listing(TenantScope, ListQuery);
struct Counting(TenantScope, StatsQuery);
struct Scanning(TenantScope, Filter, u64, usize);

/// When a walk through rare matches stops to say how far it has come.
fn pause_at(inner: &Inner, deadline: Instant) -> Instant {
    deadline - inner.settings.timeout.mul_f64(0.75)
}

impl AsyncRead<ListPage> for Listing {
    fn run(self, inner: &Inner, deadline: Instant) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        Box::pin(async move { read::list(inner, &self.0, self.1, deadline, pause_at(inner, deadline)).await })
    }
}

impl AsyncRead<Stats> for Counting {
    fn run(self, inner: &Inner, deadline: Instant) -> BoxFuture<'_, Result<Stats, StoreError>> {
        Box::pin(async move { stats::stats(inner, &self.0, self.1, deadline).await })
    }
}

impl AsyncRead<Scan> for Scanning {
    fn run(self, inner: &Inner, deadline: Instant) -> BoxFuture<'_, Result<Scan, StoreError>> {
        let Self(scope, filter, after, limit) = self;
        Box::pin(async move { read::scan(inner, &scope, filter, after, limit, deadline, pause_at(inner, deadline)).await })
    }
}

impl SearchStore for OpenSearch {
    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        self.query(Listing(scope.clone(), query))
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        self.query(Counting(scope.clone(), query))
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        self.query(Scanning(scope.clone(), filter, after, limit))
    }

    fn condition(&self) -> Condition {
        Condition {
            lacks_rows: self.0.state().said.is_some_and(|(_, said)| said.refused > 0),
            ..Condition::late(self.0.view.lag_ms())
        }
    }
}

impl Follower for OpenSearch {
    fn name(&self) -> &'static str {
        "search"
    }

    fn apply(&self, partition: u32, seal: Arc<DecidedSeal>) -> BoxFuture<'static, Result<(), StoreError>> {
        let inner = self.0.clone();
        Box::pin(async move { inner.apply(partition, &[seal]).await.map_err(StoreError::from) })
    }

    fn apply_all(&self, partition: u32, seals: Vec<Arc<DecidedSeal>>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.0.apply(partition, &seals).await.map_err(StoreError::from) })
    }

    fn applied(&self, partition: u32, kept: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            erase::start(&self.0);
            self.0.begin(partition, kept).await.map_err(StoreError::from)
        })
    }

    fn rebuilt(&self, partition: u32, n: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.0.note(partition, Noted { seal: n, sure: n, owes: 0 }).await.map_err(StoreError::from) })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lay_out(&self) -> Result<(), Fault> {
        if !self.state().laid_out {
            self.schema.migrate(&self.client).await?;
            self.state().laid_out = true;
        }
        Ok(())
    }

    /// Where the store is, which others believe to be at `kept`. One that is new, or was lost and is empty again, says so; what it owes then
    /// is kept in it until it has it.
    async fn begin(&self, partition: u32, kept: u64) -> Result<u64, Fault> {
        self.lay_out().await?;
        let found = schema::get(&self.client, &self.schema.meta(), &Noted::id(partition)).await?;
        let noted = match found.as_ref().map(Noted::read) {
            Some(Some(noted)) => Some(noted),
            Some(None) => return Err(Fault::unreadable("a look at its own cursor")),
            None => None,
        };
        let known = self.state().noted.get(&partition).copied();
        let noted = match noted {
            Some(noted) if kept <= noted.seal => {
                // This process knows better than the note, which is late by a batch; so does the cursor, unless the store is being filled.
                let known = known.map_or(0, |known| known.sure.min(noted.seal));
                let kept = if noted.is_whole() { kept } else { 0 };
                Noted {
                    sure: noted.sure.max(kept).max(known),
                    ..noted
                }
            }
            // Restored from a time before the cursor, or lost: what it owes is said in it before anything else is written.
            lost => {
                let before = lost.unwrap_or_default();
                let noted = Noted {
                    seal: before.sure,
                    sure: before.sure,
                    owes: kept.max(before.owes),
                };
                self.note(partition, noted).await?;
                noted
            }
        };
        self.state().noted.insert(partition, noted);
        Ok(kept.min(if noted.is_whole() { kept } else { noted.sure }))
    }

    async fn note(&self, partition: u32, noted: Noted) -> Result<(), Fault> {
        schema::put(&self.client, &self.schema.meta(), &Noted::id(partition), noted.source()).await?;
        let mut state = self.state();
        state.noted.insert(partition, noted);
        state.said = None;
        Ok(())
    }

    /// Writes the rows of seals that follow each other, and returns when they can be found.
    async fn apply(&self, partition: u32, seals: &[Arc<DecidedSeal>]) -> Result<(), Fault> {
        let applied = self.apply_rows(partition, seals).await;
        match &applied {
            Ok(()) => self.breaker.worked(),
            Err(fault) => {
                self.breaker.failed();
                if fault.status == 404 {
                    self.state().laid_out = false; // somebody took something away
                }
            }
        }
        applied
    }

    async fn apply_rows(&self, partition: u32, seals: &[Arc<DecidedSeal>]) -> Result<(), Fault> {
        let Some(last) = seals.last().map(|seal| seal.seal.n) else { return Ok(()) };
        self.lay_out().await?;
        let noted = self.state().noted.get(&partition).copied().unwrap_or_default();
        let meta = self.schema.meta();
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        let rows: usize = seals.iter().flat_map(|seal| &seal.packs).map(|pack| pack.bytes().len()).sum();
        let mut chunk = Chunk::with_room(How::Create, (3 * rows).min(self.settings.bulk_bytes + self.settings.bulk_bytes / 16));
        let begun = Noted {
            seal: noted.seal.max(last),
            ..noted
        };
        chunk.note(&meta, &Noted::id(partition), &begun.source());
        let mut erases = false;
        for seal in seals {
            for (id, source) in erase::notes(&seal.seal) {
                chunk.note(&meta, &id, &source);
                erases = true;
            }
        }
        let mut writing = FuturesUnordered::new();
        let mut refused = Vec::new();
        for seal in seals {
            let (mut pack_of, mut index) = (None, Arc::<str>::from(""));
            for (i, decided) in seal.entries().enumerate() {
                let Some(around) = Around::of(&decided) else { continue };
                if pack_of != Some(decided.pack.id()) {
                    pack_of = Some(decided.pack.id());
                    index = self.schema.index(around.tenant, around.received_at).into();
                    self.schema.ensure(&self.client, &index, around.tenant).await?;
                    touched.insert(index.clone());
                }
                chunk.row(&index, around, &decided.entry);
                if chunk.len() >= self.settings.bulk_bytes {
                    // There are more, probably as many; what is never written to costs no memory.
                    let next = Chunk::with_room(How::Create, chunk.len() + chunk.len() / 16);
                    let full = std::mem::replace(&mut chunk, next);
                    writing.push(full.write(&self.client, &self.schema));
                    if writing.len() >= IN_FLIGHT {
                        refused.extend(writing.try_next().await?.into_iter().flatten());
                    }
                }
                if i % ROWS_AT_ONCE == ROWS_AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
        if !chunk.is_empty() {
            writing.push(chunk.write(&self.client, &self.schema));
        }
        while let Some(more) = writing.try_next().await? {
            refused.extend(more);
        }
        self.write_down(refused).await?;
        self.refresh(&touched).await?;
        let sure = Noted {
            sure: begun.sure.max(last),
            ..begun
        };
        if sure.is_whole() && !noted.is_whole() {
            self.note(partition, sure).await?; // from here on it is read again
        } else {
            self.state().noted.insert(partition, sure);
        }
        if erases {
            self.sweep.wake();
        }
        Ok(())
    }

    /// Index dead letters: which rows, and why. What they hold is with the authority alone.
    async fn write_down(&self, refused: Vec<Refusal>) -> Result<(), Fault> {
        if refused.is_empty() {
            return Ok(());
        }
        tracing::error!(rows = refused.len(), kind = %refused[0].kind, "the search store does not take some rows: they are not found by `search`");
        let meta = self.schema.meta();
        let mut chunk = Chunk::new(How::Create);
        for Refusal { row, kind } in &refused {
            let source = json!({
                "kind": "refused", "tenant_id": row.tenant.as_str(), "sequence": row.sequence, "index": &*row.index, "error": kind, "at": now_ms(),
            });
            chunk.note(&meta, &format!("refused-{}", document::name(&row.tenant, row.sequence)), &source);
        }
        chunk.write(&self.client, &self.schema).await?;
        self.refresh(&[meta.into()].into()).await?;
        self.state().said = None;
        Ok(())
    }

    /// Makes what was written findable, in every shard.
    async fn refresh(&self, indices: &BTreeSet<Arc<str>>) -> Result<(), Fault> {
        let names: Vec<&str> = indices.iter().map(|index| &**index).collect();
        for names in names.chunks(64) {
            let path = format!("/{}/_refresh", names.join(","));
            let answer = self.client.ask(Method::Post, &path, &[], Body::None, None).await?;
            if answer["_shards"]["failed"].as_u64() != Some(0) {
                return Err(Fault::new(
                    super::retry::Symptom::Http { status: 503, kind: "" },
                    "a shard of the search store was not refreshed",
                ));
            }
        }
        Ok(())
    }

    /// Whether it may be read now.
    async fn gate(&self) -> Result<(), StoreError> {
        if !self.view.ready() {
            return Err(StoreError::Starting);
        }
        let said = self.state().said;
        let said = match said {
            Some((at, said)) if at.elapsed() < BELIEVED => said,
            _ => self.ask_state().await?,
        };
        match said.whole {
            true => Ok(()),
            false => Err(Fault::new(
                super::retry::Symptom::Unreachable,
                "the search store is being filled again; it is not whole yet",
            )
            .into()),
        }
    }

    /// Asks the store about itself.
    async fn ask_state(&self) -> Result<Said, StoreError> {
        if !self.breaker.admits() {
            return Err(Fault::new(super::retry::Symptom::Unreachable, "the search store does not answer").into());
        }
        let asked = self.asked().await;
        match &asked {
            Ok(said) => {
                self.breaker.worked();
                self.state().said = Some((Instant::now(), *said));
            }
            Err(_) => self.breaker.failed(),
        }
        asked.map_err(StoreError::from)
    }

    async fn asked(&self) -> Result<Said, Fault> {
        let meta = self.schema.meta();
        let ids: Vec<String> = (0..self.settings.partitions).map(Noted::id).collect();
        let docs = self
            .client
            .ask(Method::Post, &format!("/{meta}/_mget"), &[], Body::Json(json!({ "ids": ids })), None)
            .await?;
        let whole = |doc: &serde_json::Value| Noted::read(&doc["_source"]).is_some_and(Noted::is_whole);
        let docs = docs["docs"].as_array().ok_or_else(|| Fault::unreadable("a look at its cursors"))?;
        let refused = json!({ "query": { "term": { "kind": "refused" } } });
        let refused = self
            .client
            .ask(Method::Post, &format!("/{meta}/_count"), &[], Body::Json(refused), None)
            .await?;
        Ok(Said {
            whole: docs.len() == ids.len() && docs.iter().all(whole),
            refused: refused["count"].as_u64().unwrap_or(0),
        })
    }
}
