//! The store against the real engine (`SLUICE_TEST_OPENSEARCH`), by the same suite as the authorities: an embedded store beside it
//! answers what is not a search store's (an entry by its id, counts of erasures, the ledger), so that the two together are one
//! [`Subject`], and everything that lists, counts and scans is asked of OpenSearch, `search` or not.

mod faults;
mod matches;
mod proxy;
mod rebuilds;

use super::*;
use crate::{
    fs::sim::SimFs,
    model::{entry::StoredEntry, tenant::TenantId},
    seal::{
        erasure::{ErasureKind, Erasures},
        state::SealState,
    },
    sinks::{
        Authority, Condition, SealFollower, VisibleHead,
        contract::{Model, Sequencer, Subject, plain, scope, suite, tenant},
        embedded::{EmbeddedStore, StoreSettings},
        retry::Remedy,
    },
    testing::engines,
};
use tokio::{runtime::Runtime, sync::watch};
use uuid::Uuid;

/// The log as this process knows it: every seal that was folded is durable, those that were applied show.
#[derive(Default)]
pub(super) struct Seen {
    state: Mutex<SealState>,
    heads: Mutex<HashMap<TenantId, u64>>,
}

impl Seen {
    fn fold(&self, seal: &DecidedSeal) {
        let mut state = self.state.lock().expect("whole");
        if seal.seal.n > state.n {
            state.fold(&seal.seal, seal.crc);
        }
    }

    fn show(&self, seal: &DecidedSeal) {
        let mut heads = self.heads.lock().expect("whole");
        heads.extend(seal.seal.tenants.iter().map(|t| (t.tenant.clone(), t.head)));
    }
}

impl SealView for Seen {
    fn head(&self, tenant: &TenantId) -> u64 {
        self.heads.lock().expect("whole").get(tenant).copied().unwrap_or(0)
    }

    fn erasures(&self, tenant: &TenantId) -> Option<Arc<Erasures>> {
        self.state.lock().expect("whole").erasures.get(tenant).cloned()
    }

    fn visible(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn ready(&self) -> bool {
        true
    }

    fn lag_ms(&self) -> u64 {
        0
    }
}

/// Answers lists, counts and scans from OpenSearch, the rest from the embedded store.
struct Joined {
    search: OpenSearch,
    embedded: EmbeddedStore,
}

impl Authority for Joined {
    fn get(&self, scope: &TenantScope, id: Uuid) -> BoxFuture<'static, Result<Option<StoredEntry>, StoreError>> {
        self.embedded.get(scope, id)
    }

    fn list(&self, scope: &TenantScope, query: ListQuery) -> BoxFuture<'static, Result<ListPage, StoreError>> {
        SearchStore::list(&self.search, scope, query)
    }

    fn stats(&self, scope: &TenantScope, query: StatsQuery) -> BoxFuture<'static, Result<Stats, StoreError>> {
        SearchStore::stats(&self.search, scope, query)
    }

    fn scan(&self, scope: &TenantScope, filter: Filter, after: u64, limit: usize) -> BoxFuture<'static, Result<Scan, StoreError>> {
        SearchStore::scan(&self.search, scope, filter, after, limit)
    }

    fn count_erased(&self, scope: &TenantScope, job: Uuid) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.embedded.count_erased(scope, job)
    }

    fn count_would_erase(&self, scope: &TenantScope, kind: ErasureKind, cutoff: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.embedded.count_would_erase(scope, kind, cutoff)
    }

    fn visible_head(&self, scope: &TenantScope) -> VisibleHead {
        VisibleHead {
            head: self.search.0.view.head(scope.tenant()),
        }
    }

    fn condition(&self, _: bool) -> Condition {
        self.search.condition()
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.embedded.visible()
    }
}

/// A store under a prefix of its own, which is removed in the end.
pub(super) struct Bench {
    joined: Joined,
    view: Arc<Seen>,
    runtime: Runtime,
    address: String,
    settings: OpenSearchSettings,
}

/// An embedded store on a simulated disk.
pub(super) fn embedded() -> EmbeddedStore {
    let settled = watch::Sender::new(u64::MAX);
    let (store, _) = EmbeddedStore::open(Arc::new(SimFs::new()), "/data".into(), StoreSettings::default(), settled.subscribe()).expect("opens");
    store.expect(0);
    store
}

impl Bench {
    /// `None`: there is no engine here.
    pub(super) fn new(change: impl FnOnce(&mut OpenSearchSettings)) -> Option<Self> {
        let bench = Self::empty(change)?;
        bench.runtime.block_on(bench.search().applied(0, 0)).expect("begins");
        Some(bench)
    }

    /// The same, with nothing laid out yet.
    pub(super) fn empty(change: impl FnOnce(&mut OpenSearchSettings)) -> Option<Self> {
        let address = engines::address("SLUICE_TEST_OPENSEARCH")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut settings = OpenSearchSettings {
            url: address.clone(),
            index_prefix: format!("t{}", Uuid::new_v4().simple()),
            timeout: Duration::from_secs(120),
            ..OpenSearchSettings::default()
        };
        change(&mut settings);
        let view = Arc::new(Seen::default());
        let _guard = runtime.enter();
        let search = OpenSearch::connect(settings.clone(), view.clone()).expect("settings");
        drop(_guard);
        Some(Self {
            joined: Joined { search, embedded: embedded() },
            view,
            runtime,
            address,
            settings,
        })
    }

    pub(super) fn search(&self) -> &OpenSearch {
        &self.joined.search
    }

    /// Asks the engine itself.
    pub(super) fn raw(&self, method: Method, path: &str, body: serde_json::Value) -> Result<serde_json::Value, Fault> {
        let direct = OpenSearchSettings {
            url: self.address.clone(),
            ..self.settings.clone()
        };
        let client = Client::new(&direct).expect("a client");
        let body = if body.is_null() { Body::None } else { Body::Json(body) };
        self.runtime.block_on(client.ask(method, path, &[], body, None))
    }

    pub(super) fn apply(&self, seal: &Arc<DecidedSeal>) -> Result<(), StoreError> {
        self.view.fold(seal);
        let applied = self.runtime.block_on(self.search().apply(0, seal.clone()));
        if applied.is_ok() {
            self.view.show(seal);
        }
        applied
    }

    pub(super) fn list(&self, name: &str, query: ListQuery) -> Result<ListPage, StoreError> {
        self.runtime.block_on(SearchStore::list(self.search(), &scope(name), query))
    }

    /// Every row that the store shows of a tenant.
    pub(super) fn rows(&self, name: &str) -> Vec<StoredEntry> {
        let query = ListQuery {
            sort: crate::sinks::Sort::SequenceAsc,
            limit: usize::MAX,
            ..ListQuery::default()
        };
        self.list(name, query).expect("lists").entries
    }

    pub(super) fn remedy<T>(result: Result<T, StoreError>) -> Option<Remedy> {
        match result {
            Ok(_) => None,
            Err(StoreError::Unavailable { remedy, .. }) => Some(remedy),
            Err(other) => panic!("{other}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let prefix = &self.settings.index_prefix;
        let found = self.raw(Method::Get, &format!("/{prefix}-*/_alias"), serde_json::Value::Null);
        for index in found.iter().flat_map(|found| found.as_object()).flat_map(|found| found.keys()) {
            let _ = self.raw(Method::Delete, &format!("/{index}"), serde_json::Value::Null);
        }
        let _ = self.raw(Method::Delete, &format!("/_index_template/{prefix}-logs"), serde_json::Value::Null);
    }
}

impl Subject for Bench {
    fn authority(&self) -> &dyn Authority {
        &self.joined
    }

    fn follower(&self) -> &dyn SealFollower {
        &self.joined.embedded
    }

    fn take(&self, seal: &Arc<DecidedSeal>) {
        self.joined.embedded.apply(seal).expect("applies");
        self.joined.embedded.expect(seal.seal.n);
        self.apply(seal).expect("applies");
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

#[test]
fn it_answers_what_a_plain_list_of_rows_would() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    suite::answers(&bench, 31, 10, 8);
}

#[test]
fn with_an_index_per_tenant_it_answers_the_same() {
    let Some(bench) = Bench::new(|s| s.index_strategy = IndexStrategy::PerTenant) else {
        return;
    };
    suite::answers(&bench, 32, 10, 3);
    let indices = bench.raw(
        Method::Get,
        &format!("/{}-logs-hot-*/_alias", bench.settings.index_prefix),
        serde_json::Value::Null,
    );
    assert!(indices.expect("an answer").as_object().is_some_and(|found| !found.is_empty()));
}

#[test]
fn pages_tenants_and_replays_keep_the_contract() {
    let Some(bench) = Bench::new(|s| s.bulk_bytes = 4_000) else { return };
    suite::pages(&bench, 33);
    let Some(bench) = Bench::new(|_| ()) else { return };
    suite::isolation(&bench);
    let Some(bench) = Bench::new(|_| ()) else { return };
    suite::replays(&bench);
}

#[test]
fn what_is_erased_is_in_no_answer() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    suite::erasures(&bench, 34, 18);
    // The bytes go too.
    bench.runtime.block_on(erase::sweep(&bench.search().0)).expect("sweeps");
    for name in ["hot", "warm", "cold"] {
        let prefix = &bench.settings.index_prefix;
        let count = bench.raw(
            Method::Post,
            &format!("/{prefix}-logs/_count"),
            json!({ "query": { "term": { "tenant_id": name } } }),
        );
        assert_eq!(count.expect("counts")["count"], bench.rows(name).len(), "{name}");
    }
    let notes = json!({ "query": { "term": { "kind": "erased" } } });
    bench
        .raw(
            Method::Post,
            &format!("/{}-meta/_refresh", bench.settings.index_prefix),
            serde_json::Value::Null,
        )
        .expect("refreshes");
    let notes = bench.raw(Method::Post, &format!("/{}-meta/_count", bench.settings.index_prefix), notes);
    assert_eq!(notes.expect("counts")["count"], 0);
}

#[test]
fn a_staircase_that_is_too_long_for_a_query_hides_all_the_same() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    suite::staircase(&bench, 66);
}

#[test]
fn what_is_newer_or_laid_out_otherwise_is_refused() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let again = |change: fn(&mut OpenSearchSettings)| {
        let mut settings = bench.settings.clone();
        change(&mut settings);
        bench.runtime.block_on(OpenSearch::migrate(&settings))
    };
    again(|_| ()).expect("repeating it is harmless");
    assert_eq!(Bench::remedy(again(|s| s.index_strategy = IndexStrategy::PerTenant)), Some(Remedy::Hold));
    let meta = format!("/{}-meta/_doc/schema", bench.settings.index_prefix);
    bench
        .raw(Method::Put, &meta, json!({ "version": schema::VERSION + 1, "strategy": "shared" }))
        .expect("writes");
    let newer = again(|_| ()).expect_err("is newer");
    assert!(newer.to_string().contains("newer binary"), "{newer}");
    assert_eq!(newer.remedy(), Remedy::Hold);
}

#[test]
fn a_store_that_cannot_be_reached_fails_fast_and_a_prefix_is_a_name() {
    let settings = |url: &str, prefix: &str| OpenSearchSettings {
        url: url.into(),
        index_prefix: prefix.into(),
        timeout: Duration::from_secs(5),
        ..OpenSearchSettings::default()
    };
    let view = Arc::new(Seen::default());
    for (url, prefix) in [
        ("no address", "a"),
        ("http://127.0.0.1:1", "A"),
        ("http://127.0.0.1:1", "_a"),
        ("http://127.0.0.1:1", "a,b"),
    ] {
        assert!(OpenSearch::connect(settings(url, prefix), view.clone()).is_err(), "{url} {prefix}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = OpenSearch::connect(settings("http://127.0.0.1:1", "a"), view).expect("settings");
    for _ in 0..8 {
        let answer = runtime.block_on(SearchStore::list(&store, &scope("a"), ListQuery::default()));
        assert_eq!(Bench::remedy(answer.map(drop)), Some(Remedy::Again));
    }
    assert!(store.0.breaker.is_open());
}
