//! The store on the real engine: the contract, and what is its own.

mod faults;
mod own;

use super::*;
use crate::{
    seal::{DecidedSeal, erasure::Erasures, state::SealState},
    sinks::{
        SealFollower,
        contract::{self, Subject, suite},
    },
    testing::engines,
};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// What the seals say, as this process has applied them.
struct LogView {
    state: Mutex<SealState>,
    visible: watch::Sender<u64>,
    starting: AtomicBool,
}

impl LogView {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            visible: watch::Sender::new(0),
            starting: AtomicBool::new(false),
        })
    }

    fn fold(&self, sealed: &DecidedSeal) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fold(&sealed.seal, sealed.crc);
        self.visible.send_replace(sealed.seal.n);
    }
}

impl SealView for LogView {
    fn head(&self, tenant: &TenantId) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tenant(tenant).head
    }

    fn erasures(&self, tenant: &TenantId) -> Option<Arc<Erasures>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).erasures.get(tenant).cloned()
    }

    fn visible(&self) -> watch::Receiver<u64> {
        self.visible.subscribe()
    }

    fn ready(&self) -> bool {
        !self.starting.load(Ordering::SeqCst)
    }

    fn lag_ms(&self) -> u64 {
        0
    }
}

/// A database of its own, which goes with it.
struct Bench {
    settings: ClickHouseSettings,
    runtime: tokio::runtime::Runtime,
    view: Arc<LogView>,
    store: ClickHouse,
    follower: ClickHouseFollower,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn settings(url: String) -> ClickHouseSettings {
    ClickHouseSettings {
        url,
        database: format!("sluice_test_{}", Uuid::new_v4().simple()),
        timeout: Duration::from_secs(120),
        ..ClickHouseSettings::default()
    }
}

impl Bench {
    /// `None`, with a word, where there is no engine.
    fn new() -> Option<Self> {
        Some(Self::with(settings(engines::address("SLUICE_TEST_CLICKHOUSE")?)))
    }

    fn with(settings: ClickHouseSettings) -> Self {
        let (runtime, view) = (runtime(), LogView::new());
        let store = runtime.block_on(ClickHouse::connect(&settings, view.clone())).expect("connects");
        let follower = runtime
            .block_on(ClickHouseFollower::start(&settings, 0, runtime.handle().clone()))
            .expect("starts");
        Self {
            settings,
            runtime,
            view,
            store,
            follower,
        }
    }

    /// Another follower, as a restart or a takeover makes it.
    fn restarted(&self) -> ClickHouseFollower {
        let start = ClickHouseFollower::start(&self.settings, 0, self.runtime.handle().clone());
        self.runtime.block_on(start).expect("starts")
    }

    fn db(&self) -> Db {
        Db::new(&self.settings).expect("a database")
    }

    fn count(&self, what: &str) -> u64 {
        self.runtime
            .block_on(self.db().one(&sql::Sql::new(what)))
            .unwrap_or_else(|error| panic!("{what}: {}", fault::outline(&error)))
    }

    fn run(&self, what: &str) {
        self.runtime
            .block_on(self.db().run(&sql::Sql::new(what)))
            .unwrap_or_else(|error| panic!("{what}: {}", fault::outline(&error)));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let drop = sql::Sql::new(&format!("DROP DATABASE IF EXISTS `{}`", self.settings.database));
        let _ = self.runtime.block_on(self.db().outside().run(&drop)); // an engine that is gone has no database either
    }
}

impl Subject for Bench {
    fn authority(&self) -> &dyn Authority {
        &self.store
    }

    fn follower(&self) -> &dyn SealFollower {
        &self.follower
    }

    fn take(&self, seal: &Arc<DecidedSeal>) {
        self.follower.apply(seal).expect("applies");
        self.view.fold(seal);
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }
}

#[test]
fn it_answers_as_a_plain_list_of_rows_does() {
    let Some(bench) = Bench::new() else { return };
    suite::answers(&bench, 21, 12, 12);
}

#[test]
fn it_pages_without_gap_or_repeat() {
    let Some(bench) = Bench::new() else { return };
    suite::pages(&bench, 22);
}

#[test]
fn it_keeps_tenants_apart() {
    let Some(bench) = Bench::new() else { return };
    suite::isolation(&bench);
}

#[test]
fn it_takes_seals_again() {
    let Some(bench) = Bench::new() else { return };
    suite::replays(&bench);
    let again = bench.restarted();
    let mut sequencer = contract::Sequencer::new(2);
    for _ in 0..4 {
        again.apply(&sequencer.seal(&["a", "b"], 20)).expect("applies");
    }
    assert_eq!(
        bench.count("SELECT count() FROM logs"),
        sequencer.log.iter().flat_map(|s| &s.seal.tenants).map(|t| t.stored).sum::<u64>()
    );
}

#[test]
fn it_erases() {
    let Some(bench) = Bench::new() else { return };
    suite::erasures(&bench, 23, 24);
}

#[test]
fn it_erases_by_a_long_staircase() {
    let Some(bench) = Bench::new() else { return };
    suite::staircase(&bench, 20);
}
