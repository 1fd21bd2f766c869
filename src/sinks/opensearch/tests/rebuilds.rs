//! A store that was lost, or that has something else than the log of record.

use super::*;
use crate::{
    queue::{Found, SealReadError, SealReader, seals::CursorStore},
    seal::erasure::ErasureKind,
    sinks::{
        follow::{Copied, CopyLog, FollowParts, FollowSettings, Following, Phase, Progress, Rebuild},
        opensearch::rebuild::Copying,
    },
};

/// A log in memory.
struct Log(Vec<Arc<DecidedSeal>>, u64);

impl SealReader for Log {
    fn read(&self, n: u64) -> BoxFuture<'static, Result<Found, SealReadError>> {
        let found = match self.0.get(n as usize - 1) {
            _ if n <= self.1 => Found::Trimmed,
            Some(seal) => Found::Seal(seal.clone()),
            None => Found::NotYet,
        };
        Box::pin(std::future::ready(Ok(found)))
    }

    fn tip(&self) -> watch::Receiver<u64> {
        watch::channel(self.0.len() as u64).1
    }
}

/// Cursors in memory.
#[derive(Clone, Default)]
struct Cursors(Arc<Mutex<HashMap<String, u64>>>);

impl CursorStore for Cursors {
    fn load(&self, store: &str) -> BoxFuture<'static, Result<u64, SealReadError>> {
        let n = self.0.lock().expect("whole").get(store).copied().unwrap_or(0);
        Box::pin(std::future::ready(Ok(n)))
    }

    fn save(&self, store: &str, n: u64) -> BoxFuture<'static, Result<(), SealReadError>> {
        let mut all = self.0.lock().expect("whole");
        let cursor = all.entry(store.to_owned()).or_default();
        *cursor = n.max(*cursor);
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove(&self, store: &str) -> BoxFuture<'static, Result<(), SealReadError>> {
        self.0.lock().expect("whole").remove(store);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The embedded store as the authority.
struct FromEmbedded {
    search: OpenSearch,
    embedded: EmbeddedStore,
    tenants: Vec<TenantId>,
}

impl Rebuild for FromEmbedded {
    fn authority_has(&self, _partition: u32) -> BoxFuture<'_, Result<u64, StoreError>> {
        let n = *self.embedded.visible().borrow();
        Box::pin(std::future::ready(Ok(n)))
    }

    fn copy<'a>(&'a self, _partition: u32, progress: &'a (dyn Fn(Progress) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.search.copy_logs(&self.embedded, &self.tenants, progress).await })
    }
}

/// Seals of three tenants, with an erasure among them; the embedded store has them all.
fn log(embedded: &EmbeddedStore, view: &Seen, seals: usize) -> Sequencer {
    let mut sequencer = Sequencer::new(7);
    for i in 0..seals {
        if i == seals / 2 {
            sequencer.erase("hot", ErasureKind::Cleanup, crate::sinks::contract::BASE + 2_000);
        }
        sequencer.seal(&["hot", "warm", "cold"], 20);
    }
    for seal in &sequencer.log {
        embedded.apply(seal).expect("applies");
        view.fold(seal);
        view.show(seal);
    }
    embedded.expect(sequencer.log.len() as u64);
    sequencer
}

fn follow(bench: &Bench, seals: &[Arc<DecidedSeal>], trimmed: u64, cursors: &Cursors, rebuild: Option<Arc<dyn Rebuild>>) -> Following {
    let parts = FollowParts {
        partition: 0,
        seals: Arc::new(Log(seals.to_vec(), trimmed)),
        cursors: Arc::new(cursors.clone()),
        follower: Arc::new(bench.search().clone()),
        rebuild,
    };
    let _guard = bench.runtime.enter();
    Following::start(parts, FollowSettings::default())
}

fn until_applied(bench: &Bench, following: &Following, n: u64) {
    let mut state = following.state();
    bench.runtime.block_on(async move {
        let reached = tokio::time::timeout(Duration::from_secs(120), state.wait_for(|state| state.applied >= n))
            .await
            .is_ok();
        assert!(reached, "{:?}", state.borrow());
    });
}

fn equal(bench: &Bench, sequencer: &Sequencer) {
    for (name, model) in Model::of(&sequencer.log) {
        assert!(plain(&bench.rows(name.as_str())) == plain(&model.rows), "{name}");
    }
}

#[test]
fn a_store_that_was_lost_is_not_read_until_it_has_everything_again() {
    let Some(bench) = Bench::empty(|_| ()) else { return };
    let sequencer = log(&bench.joined.embedded, &bench.view, 12);
    let (n, cursors) = (sequencer.log.len() as u64, Cursors::default());
    let following = follow(&bench, &sequencer.log, 0, &cursors, None);
    until_applied(&bench, &following, n);
    equal(&bench, &sequencer);
    bench.runtime.block_on(following.stop());
    assert_eq!(bench.runtime.block_on(cursors.load("search")).expect("loads"), n);

    // Somebody throws everything away.
    let prefix = bench.settings.index_prefix.clone();
    let found = bench.raw(Method::Get, &format!("/{prefix}-*/_alias"), serde_json::Value::Null).expect("lists");
    for index in found.as_object().expect("indices").keys() {
        bench.raw(Method::Delete, &format!("/{index}"), serde_json::Value::Null).expect("deletes");
    }
    let half = (sequencer.log.len() / 2) as u64;
    let fresh = OpenSearch::connect(bench.settings.clone(), bench.view.clone()).expect("settings");
    let list = |store: &OpenSearch| bench.runtime.block_on(SearchStore::list(store, &scope("hot"), ListQuery::default()));
    assert!(list(&fresh).is_err(), "a cursor elsewhere does not make it whole");
    let bench2 = OpenSearch::connect(bench.settings.clone(), bench.view.clone()).expect("settings");
    assert_eq!(bench.runtime.block_on(bench2.applied(0, n)).expect("begins"), 0);
    for seal in &sequencer.log[..half as usize] {
        bench.runtime.block_on(bench2.apply(0, seal.clone())).expect("applies");
    }
    assert!(list(&bench2).is_err(), "half of it is not whole");
    // Another process goes on.
    let bench3 = OpenSearch::connect(bench.settings.clone(), bench.view.clone()).expect("settings");
    let from = bench.runtime.block_on(bench3.applied(0, n)).expect("begins");
    assert!(from <= half, "{from}");
    bench
        .runtime
        .block_on(bench3.apply_all(0, sequencer.log[from as usize..].to_vec()))
        .expect("applies");
    assert!(list(&bench3).is_ok());
    bench.runtime.block_on(bench.search().check()).expect("is there");
    bench.search().0.state().said = None;
    equal(&bench, &sequencer);
}

#[test]
fn a_store_that_was_restored_from_an_earlier_time_is_not_read_until_it_has_what_it_lacks() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let sequencer = log(&bench.joined.embedded, &bench.view, 6);
    let (n, restored) = (sequencer.log.len() as u64, 2);
    bench.runtime.block_on(bench.search().apply_all(0, sequencer.log.clone())).expect("applies");
    equal(&bench, &sequencer);
    // It is as it was after the second seal.
    let prefix = &bench.settings.index_prefix;
    let then = Model::of(&sequencer.log[..restored]);
    for name in ["hot", "warm", "cold"] {
        let head = then.get(&tenant(name)).map_or(0, |model| model.head);
        let later = json!({ "query": { "bool": { "filter": [{ "term": { "tenant_id": name } }, { "range": { "sequence": { "gt": head } } }] } } });
        bench
            .raw(Method::Post, &format!("/{prefix}-logs/_delete_by_query?refresh=true&conflicts=proceed"), later)
            .expect("deletes");
    }
    let noted = json!({ "kind": "partition", "seal": restored, "sure": restored, "owes": 0 });
    bench
        .raw(Method::Put, &format!("/{prefix}-meta/_doc/partition-0?refresh=true"), noted)
        .expect("writes");
    let fresh = OpenSearch::connect(bench.settings.clone(), bench.view.clone()).expect("settings");
    assert_eq!(bench.runtime.block_on(fresh.applied(0, n)).expect("begins"), restored as u64);
    let list = || bench.runtime.block_on(SearchStore::list(&fresh, &scope("hot"), ListQuery::default()));
    assert!(list().is_err(), "it would be short and look whole");
    let lacks = sequencer.log[restored..].to_vec();
    bench.runtime.block_on(fresh.apply_all(0, lacks)).expect("applies");
    assert!(list().is_ok());
    bench.search().0.state().said = None;
    equal(&bench, &sequencer);
}

#[test]
fn a_store_whose_seals_are_gone_is_filled_from_the_authority() {
    let Some(bench) = Bench::empty(|_| ()) else { return };
    let sequencer = log(&bench.joined.embedded, &bench.view, 10);
    let (n, cursors) = (sequencer.log.len() as u64, Cursors::default());
    let source = FromEmbedded {
        search: bench.search().clone(),
        embedded: bench.joined.embedded.clone(),
        tenants: ["hot", "warm", "cold"].map(tenant).to_vec(),
    };
    let following = follow(&bench, &sequencer.log, n - 1, &cursors, Some(Arc::new(source)));
    until_applied(&bench, &following, n);
    let state = following.state().borrow().clone();
    assert_eq!((state.phase, state.fault), (Phase::Following, None));
    equal(&bench, &sequencer);
    bench.runtime.block_on(following.stop());
    let kept = cursors.0.lock().expect("whole").clone();
    assert_eq!(kept.get("search"), Some(&n));
    assert!(!kept.contains_key("search_rebuild"), "the pin is gone: {kept:?}");
}

#[test]
fn without_an_authority_a_store_whose_seals_are_gone_stays_detached() {
    let Some(bench) = Bench::empty(|_| ()) else { return };
    let sequencer = log(&bench.joined.embedded, &bench.view, 4);
    let following = follow(&bench, &sequencer.log, 2, &Cursors::default(), None);
    let mut state = following.state();
    let detached = bench
        .runtime
        .block_on(async move { state.wait_for(|state| state.phase == Phase::Detached).await.is_ok() });
    assert!(detached);
    bench.runtime.block_on(following.stop());
}

#[test]
fn a_copy_makes_the_store_say_what_the_log_of_record_says() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let sequencer = log(&bench.joined.embedded, &bench.view, 8);
    bench.runtime.block_on(bench.search().apply_all(0, sequencer.log.clone())).expect("applies");
    let model = &Model::of(&sequencer.log)[&tenant("warm")];
    let numbers: Vec<u64> = model.rows.iter().filter_map(|row| row.sequence).collect();
    let prefix = &bench.settings.index_prefix;
    let index = bench.search().0.schema.index(&tenant("warm"), model.rows[0].received_at);
    // One row is lost, one is another, one lies in a second index too, and one was never there.
    let by = |n: u64| json!({ "query": { "bool": { "filter": [{ "term": { "tenant_id": "warm" } }, { "term": { "sequence": n } }] } } });
    bench
        .raw(Method::Post, &format!("/{prefix}-logs/_delete_by_query?refresh=true"), by(numbers[0]))
        .expect("deletes");
    let found = bench.raw(Method::Post, &format!("/{prefix}-logs/_search"), by(numbers[1])).expect("finds");
    let mut source = found["hits"]["hits"][0]["_source"].clone();
    source["user_id"] = "mallory".into();
    let put = |index: &str, id: u64, source: &serde_json::Value| {
        bench
            .raw(Method::Put, &format!("/{index}/_doc/warm:{id}?routing=warm&refresh=true"), source.clone())
            .expect("writes");
    };
    put(&index, numbers[1], &source);
    bench
        .raw(
            Method::Put,
            &format!("/{prefix}-logs-1999.01"),
            json!({ "aliases": { format!("{prefix}-logs"): {} } }),
        )
        .expect("makes");
    put(&format!("{prefix}-logs-1999.01"), numbers[2], &{
        let found = bench.raw(Method::Post, &format!("/{prefix}-logs/_search"), by(numbers[2])).expect("finds");
        found["hits"]["hits"][0]["_source"].clone()
    });
    let copying = Copying::new(bench.search().clone(), Arc::new(bench.joined.embedded.clone()));
    let (mut told, mut at) = (0, Copied::default());
    while told == 0 || !at.is_done() {
        at = bench
            .runtime
            .block_on(copying.copy_span(&scope("warm"), Copied { rows: 0, ..at }))
            .expect("copies");
        told += at.rows;
    }
    assert_eq!(told, model.rows.len() as u64);
    equal(&bench, &sequencer);
    let count = bench.raw(
        Method::Post,
        &format!("/{prefix}-logs/_count"),
        json!({ "query": { "term": { "tenant_id": "warm" } } }),
    );
    assert_eq!(count.expect("counts")["count"], model.rows.len());
}
