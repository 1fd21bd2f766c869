//! Tests of the store as a whole: a sequencer that makes seals, a plain model that answers the same questions, and a store on
//! a simulated disk.

mod answers;
mod compaction;
mod erasure;
mod faults;
mod flow;
mod search;
mod stats;

use super::*;
use crate::{
    fs::sim::{Dice, SimFs},
    model::{
        entry::{Field, NewEntry, Severity},
        pack::{PackBuilder, PackHeader},
    },
    sinks::{
        Count, Place, Sort,
        contract::{self, BASE, Model, Sequencer, Subject, plain, scope, tenant},
    },
};

/// A store on a simulated disk, and what drives it.
struct Bench {
    fs: SimFs,
    store: EmbeddedStore,
    opened: Opened,
    settled: watch::Sender<u64>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// Opens the store of the disk, with dead letters all settled.
    fn open(fs: SimFs, settings: StoreSettings) -> Self {
        let settled = watch::Sender::new(u64::MAX);
        let (store, opened) = EmbeddedStore::open(Arc::new(fs.clone()), "/data".into(), settings, settled.subscribe()).expect("opens");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self {
            fs,
            store,
            opened,
            settled,
            runtime,
        }
    }

    /// The same, then the seals of the log after the checkpoint, as a start does.
    fn recover(fs: SimFs, settings: StoreSettings, log: &[Arc<DecidedSeal>]) -> Self {
        let bench = Self::open(fs, settings);
        bench.store.expect(log.len() as u64);
        for seal in log.iter().filter(|s| s.seal.n > bench.opened.rebuild_from) {
            bench.store.apply(seal).expect("applies");
        }
        bench
    }

    fn ask<T>(&self, answer: BoxFuture<'static, Result<T, StoreError>>) -> Result<T, StoreError> {
        self.runtime.block_on(answer)
    }

    /// Every row of every tenant by the simplest questions.
    fn check_rows(&self, log: &[Arc<DecidedSeal>], context: &str) {
        contract::check_rows(self, log, context);
    }
}

impl Subject for Bench {
    fn authority(&self) -> &dyn Authority {
        &self.store
    }

    fn follower(&self) -> &dyn SealFollower {
        &self.store
    }

    fn take(&self, seal: &Arc<DecidedSeal>) {
        self.store.apply(seal).expect("applies");
        self.store.expect(seal.seal.n);
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }
}

/// A store that has nothing yet.
fn fresh() -> Bench {
    let bench = Bench::open(SimFs::new(), quiet());
    bench.store.expect(0);
    bench
}

#[test]
fn the_store_keeps_the_contract() {
    use contract::suite;
    suite::answers(&fresh(), 21, 12, 12);
    suite::pages(&fresh(), 22);
    suite::isolation(&fresh());
    suite::replays(&fresh());
    suite::erasures(&fresh(), 23, 60);
    suite::staircase(&fresh(), 20);
}

/// Small enough that tests flush when they say so.
fn quiet() -> StoreSettings {
    StoreSettings::default()
}

/// A store on a disk of its own with so many random entries of each tenant, half of them in a part: for tests of what reads
/// from one.
pub(crate) fn filled(tenants: &[&str], entries: usize) -> EmbeddedStore {
    flushed_at(&[4], tenants, entries).0.store.clone()
}

/// The same after a start, and the oldest of the entries cannot be read, which nobody has found out yet.
pub(crate) fn filled_with_rot(tenants: &[&str], entries: usize) -> EmbeddedStore {
    let (bench, sequencer) = flushed_at(&[2, 4], tenants, entries); // a start looks at the newest part
    bench.store.close();
    let fs = bench.fs.crash(1, crate::fs::sim::CrashMode::Keep);
    let part = fs.paths().into_iter().find(|p| p.extension().is_some_and(|e| e == "parquet")).expect("a part");
    assert!(fs.bytes(&part).len() > 2 * 16_384, "the footer is in another chunk");
    fs.flip(&part, 100, 1);
    let again = Bench::recover(fs, quiet(), &sequencer.log);
    assert!(!again.store.condition(false).lacks_rows && again.opened.damage.is_empty(), "nobody has looked");
    again.store.clone()
}

fn flushed_at(seals: &[usize], tenants: &[&str], entries: usize) -> (Bench, Sequencer) {
    let mut sequencer = Sequencer::new(1);
    let bench = Bench::open(SimFs::new(), quiet());
    for i in 0..10 {
        let packs = tenants.iter().map(|name| sequencer.pack(&tenant(name), entries / 10)).collect();
        let seal = sequencer.seal_of(packs, |_, _| false);
        bench.store.expect(seal.seal.n);
        bench.store.apply(&seal).expect("applies");
        if seals.contains(&i) {
            bench.store.flush().expect("flushes");
        }
    }
    (bench, sequencer)
}
