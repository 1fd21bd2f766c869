//! Erasures: what is erased is in no answer, whatever has happened to its bytes, and everything else is.

use super::{
    answers::{TENANTS, compare},
    *,
};
use crate::{
    fs::sim::CrashMode,
    seal::erasure::ErasureKind::{Cleanup, Retention},
};

/// Asks about what is there, and that nobody knows what is not.
pub(super) fn check(bench: &Bench, log: &[Arc<DecidedSeal>], context: &str) {
    contract::check(bench, log, context);
}

impl Bench {
    pub(super) fn apply(&self, seal: &Arc<DecidedSeal>) {
        self.store.apply(seal).expect("applies");
        self.store.expect(seal.seal.n);
    }

    /// Erases, and says which job that is.
    pub(super) fn erase(&self, sequencer: &mut Sequencer, name: &str, kind: ErasureKind, cutoff: i64) -> Uuid {
        let seal = sequencer.erase(name, kind, cutoff);
        self.apply(&seal);
        seal.seal.erasures[0].erasure.job
    }

    /// Counts what the tenant's first pending erasure removed, as its eraser does, and seals that.
    pub(super) fn settle(&self, sequencer: &mut Sequencer, name: &str, context: &str) {
        let first = self
            .store
            .0
            .inner
            .view()
            .erasures_of(&scope(name))
            .and_then(|all| all.pending().first().copied());
        let Some(first) = first else { return };
        let rows = self.ask(self.store.count_erased(&scope(name), first.job)).expect("counts");
        let model = &Model::of(&sequencer.log)[&tenant(name)];
        assert!(model.removed.contains(&(first.job, rows)), "{context}: {rows} of {:?}", model.removed);
        self.apply(&sequencer.settle(name, first.job, rows));
    }
}

/// A store of some seals, two parts and a memtable, with rows late and early.
fn grown(seed: u64) -> (Bench, Sequencer) {
    let mut sequencer = Sequencer::new(seed);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for round in 0..18 {
        bench.apply(&sequencer.seal(&["a", "b"], 60));
        if round % 6 == 5 && round < 17 {
            bench.store.flush().expect("flushes");
        }
    }
    (bench, sequencer)
}

#[test]
fn erased_rows_are_gone_from_every_answer_in_memory_on_disk_and_after_a_restart() {
    for kind in [Cleanup, Retention] {
        let (bench, mut sequencer) = grown(40);
        check(&bench, &sequencer.log, "before");
        let job = bench.erase(&mut sequencer, "a", kind, BASE + 14_000);
        let model = &Model::of(&sequencer.log)[&tenant("a")];
        assert!(model.erased.len() > 100 && model.rows.len() > 50, "{} {}", model.erased.len(), model.rows.len());
        check(&bench, &sequencer.log, "erased");
        bench.settle(&mut sequencer, "a", "settled");
        check(&bench, &sequencer.log, "settled");
        assert_eq!(
            bench.ask(bench.store.count_erased(&scope("a"), job)).expect("counts"),
            0,
            "not pending any more"
        );
        bench.store.flush().expect("flushes");
        check(&bench, &sequencer.log, "flushed");
        let again = Bench::recover(bench.fs.crash(1, CrashMode::Lose), quiet(), &sequencer.log);
        assert_eq!(again.opened.rebuild_from, sequencer.log.len() as u64);
        let mut expected = SealState::default();
        sequencer.log.iter().for_each(|s| expected.fold(&s.seal, s.crc));
        assert_eq!(again.opened.checkpoint, expected, "the manifest has the erasures");
        assert!(expected.tenant(&tenant("a")).erased > 100);
        check(&again, &sequencer.log, "restarted");
    }
}

#[test]
fn retention_goes_by_received_at_and_cleanup_by_timestamp() {
    let mut sequencer = Sequencer::new(41);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..20 {
        let pack = sequencer.pack(&tenant("a"), 40);
        bench.apply(&sequencer.seal_of(vec![pack], |_, _| false));
    }
    let rows = Model::of(&sequencer.log).remove(&tenant("a")).expect("rows").rows;
    let cutoff = BASE + 10_007; // pack 10 was received then, and is not before it
    let old = |kind| {
        let is_old = |row: &&StoredEntry| match kind {
            Cleanup => row.entry().timestamp() < cutoff,
            Retention => row.received_at < cutoff,
        };
        rows.iter().filter(is_old).count() as u64
    };
    assert_eq!(old(Retention), 400);
    assert!(old(Cleanup) > 405, "some were late: {}", old(Cleanup));
    for kind in [Cleanup, Retention] {
        assert_eq!(bench.ask(bench.store.count_would_erase(&scope("a"), kind, cutoff)).expect("counts"), old(kind));
    }
    for flushed in [false, true] {
        if flushed {
            bench.store.flush().expect("flushes");
        }
        assert_eq!(bench.ask(bench.store.count_would_erase(&scope("a"), Cleanup, i64::MAX)).expect("counts"), 800);
    }
    let retention = bench.erase(&mut sequencer, "a", Retention, cutoff);
    check(&bench, &sequencer.log, "retention");
    let rest = old(Cleanup) - 400;
    assert_eq!(
        bench.ask(bench.store.count_would_erase(&scope("a"), Cleanup, cutoff)).expect("counts"),
        rest,
        "what is hidden already is not counted again"
    );
    let cleanup = bench.erase(&mut sequencer, "a", Cleanup, cutoff);
    check(&bench, &sequencer.log, "both");
    for (job, rows) in [(retention, 400), (cleanup, rest)] {
        assert_eq!(bench.ask(bench.store.count_erased(&scope("a"), job)).expect("counts"), rows);
    }
}

#[test]
fn an_erasure_never_touches_what_comes_later_and_ids_are_free_again() {
    let (bench, mut sequencer) = grown(42);
    let (first, salt) = (1, 5);
    let old = sequencer.log[0].entries().next().expect("an entry").pack.tenant().clone();
    for round in 0..3 {
        bench.erase(&mut sequencer, old.as_str(), Cleanup, i64::MAX);
        check(&bench, &sequencer.log, &format!("round {round}, erased"));
        // The same ids with other contents, of the same old times.
        (sequencer.next_id, sequencer.salt) = (first, salt + round);
        let pack = sequencer.pack(&old, 30);
        bench.apply(&sequencer.seal_of(vec![pack], |_, _| false));
        check(&bench, &sequencer.log, &format!("round {round}, the ids are used again"));
        if round == 1 {
            bench.settle(&mut sequencer, old.as_str(), "the first");
            bench.store.flush().expect("flushes");
            check(&bench, &sequencer.log, "flushed");
        }
    }
    let again = Bench::recover(bench.fs.crash(1, CrashMode::Lose), quiet(), &sequencer.log);
    check(&again, &sequencer.log, "restarted");
}

/// Settles all dead letters at the end, also of a test that fails: a flush waits for it.
struct Release<'a>(&'a watch::Sender<u64>);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.send_replace(u64::MAX);
    }
}

#[test]
fn a_flush_that_began_before_an_erasure_brings_nothing_back() {
    let (bench, mut sequencer) = grown(43);
    bench.settled.send_replace(0);
    let waiting = bench.settled.receiver_count();
    let upto = sequencer.log.len() as u64;
    std::thread::scope(|threads| {
        let flusher = threads.spawn(|| bench.store.flush().expect("flushes"));
        let release = Release(&bench.settled);
        while bench.settled.receiver_count() == waiting {
            std::thread::yield_now();
        }
        // The part is written and waits for the dead letters.
        bench.erase(&mut sequencer, "a", Cleanup, i64::MAX);
        bench.settle(&mut sequencer, "a", "while a flush is at work");
        check(&bench, &sequencer.log, "while a flush is at work");
        drop(release);
        flusher.join().expect("flushes");
    });
    assert_eq!(bench.store.health().flushed, upto);
    assert_eq!(Model::of(&sequencer.log)[&tenant("a")].rows.len(), 0);
    check(&bench, &sequencer.log, "flushed from an older view");
    let again = Bench::recover(bench.fs.crash(1, CrashMode::Lose), quiet(), &sequencer.log);
    assert_eq!(again.opened.rebuild_from, upto, "the erasure comes from the log");
    check(&again, &sequencer.log, "restarted");
}

#[test]
fn a_flush_drops_the_rows_that_are_counted_and_keeps_those_that_are_not() {
    let mut sequencer = Sequencer::new(44);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    let rows = |bench: &Bench| bench.store.0.inner.view().parts.iter().map(|p| p.meta().rows).collect::<Vec<_>>();
    let grow = |sequencer: &mut Sequencer| {
        let pack = sequencer.pack(&tenant("a"), 50);
        bench.apply(&sequencer.seal_of(vec![pack], |_, _| false));
    };
    grow(&mut sequencer);
    let job = bench.erase(&mut sequencer, "a", Cleanup, i64::MAX);
    bench.store.flush().expect("flushes");
    assert_eq!(rows(&bench), [50], "they are not counted yet");
    check(&bench, &sequencer.log, "pending");
    grow(&mut sequencer);
    bench.erase(&mut sequencer, "a", Cleanup, i64::MAX);
    assert_eq!(bench.ask(bench.store.count_erased(&scope("a"), job)).expect("counts"), 50);
    bench.settle(&mut sequencer, "a", "first");
    bench.settle(&mut sequencer, "a", "second");
    bench.store.flush().expect("flushes");
    bench.store.compact().expect("drops the first part");
    assert_eq!(rows(&bench), [0; 0], "no part: nothing is left of what it would hold");
    grow(&mut sequencer);
    bench.store.flush().expect("flushes");
    assert_eq!(rows(&bench), [50]);
    let view = bench.store.0.inner.view();
    assert_eq!(view.parts.last().map(|p| p.meta().erased_upto), Some(sequencer.log.len() as u64));
    check(&bench, &sequencer.log, "flushed");
}

#[test]
fn what_a_scan_tells_at_once_is_bounded_and_it_gets_on() {
    let mut sequencer = Sequencer::new(45);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..3 {
        bench.apply(&sequencer.seal(&["a"], 30));
        bench.apply(&sequencer.gap(&["a"]));
    }
    bench.erase(&mut sequencer, "a", Cleanup, BASE);
    let scan = bench.ask(bench.store.scan(&scope("a"), Filter::default(), 0, 10_000)).expect("scans");
    assert_eq!(scan.upto, 1 << 20);
    check(&bench, &sequencer.log, "gaps and an erasure");
    bench.apply(&sequencer.gap(&["a"]));
    check(&bench, &sequencer.log, "a gap behind the erasure");
}

#[test]
fn rows_that_cannot_be_shown_are_counted_and_are_not_told_as_void() {
    let mut sequencer = Sequencer::new(46);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..3 {
        let pack = sequencer.pack(&tenant("a"), 50);
        bench.apply(&sequencer.seal_of(vec![pack], |_, _| false));
        bench.store.flush().expect("flushes");
    }
    let inner = &bench.store.0.inner;
    let second = inner.view().parts[1].meta().name.clone();
    assert!(inner.quarantine(&second, "a test"));
    let scan = || {
        let scan = bench.ask(bench.store.scan(&scope("a"), Filter::default(), 0, 1_000)).expect("scans");
        assert_eq!(scan.upto, 150);
        (scan.entries.first().and_then(|e| e.sequence), scan.entries.len(), scan.voids)
    };
    assert_eq!(scan(), (Some(1), 100, vec![]));
    bench.erase(&mut sequencer, "a", Retention, BASE + 500);
    assert_eq!(scan(), (Some(101), 50, vec![(1, 50)]), "the second fifty are missing and not erased");
    bench.erase(&mut sequencer, "a", Cleanup, BASE + 500);
    bench.erase(&mut sequencer, "a", Retention, BASE + 1_500);
    assert_eq!(scan().2[0], (1, 100), "now they are");
    for erasure in 0..3 {
        // Against the model, which knows of no damage.
        bench.settle(&mut sequencer, "a", &format!("erasure {erasure}"));
    }
    let state = &inner.state().seals.tenant(&tenant("a"));
    assert_eq!(state.stored - state.erased, Model::of(&sequencer.log)[&tenant("a")].rows.len() as u64);
}

#[test]
fn no_reader_sees_rows_of_before_an_erasure_beside_rows_of_after_it() {
    let mut sequencer = Sequencer::new(47);
    for _ in 0..2_000 {
        sequencer.next_id = 1;
        let pack = sequencer.pack(&tenant("a"), 2);
        sequencer.seal_of(vec![pack], |_, _| false);
        sequencer.erase("a", Cleanup, i64::MAX);
    }
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let view = bench.store.0.inner.tenant(&scope("a"));
                    let control = Control {
                        deadline: Instant::now() + Duration::from_secs(600),
                        abandoned: Arc::default(),
                    };
                    let query = ListQuery {
                        limit: 100,
                        ..ListQuery::default()
                    };
                    let page = query::list::list(&view, &query, &control, control.deadline).expect("lists");
                    assert!([0, 2].contains(&page.entries.len()), "{} rows with two ids", page.entries.len());
                }
            });
        }
        sequencer.log.iter().for_each(|seal| bench.store.apply(seal).expect("applies"));
        done.store(true, Ordering::Relaxed);
    });
    check(&bench, &sequencer.log, "in the end");
}

/// Takes the newest manifest away, as damage would.
fn without_newest_manifest(fs: SimFs) -> SimFs {
    let newest = fs.paths().into_iter().rfind(|p| p.starts_with("/data/manifest"));
    if let Some(newest) = newest {
        fs.truncate(&newest, 3);
    }
    fs
}

/// Random packs, ids that are used again, erasures of both kinds that overlap, counts, flushes and restarts, some of them
/// with the manifest before the newest: every answer is that of a plain list.
#[test]
fn whatever_happens_what_is_erased_stays_gone_and_the_rest_stays() {
    for seed in 50..54 {
        println!("seed {seed}");
        let (mut sequencer, mut dice) = (Sequencer::new(seed), Dice::new(seed ^ 77));
        let mut bench = Bench::recover(SimFs::new(), quiet(), &[]);
        for name in TENANTS {
            let pack = sequencer.pack(&tenant(name), 5);
            bench.apply(&sequencer.seal_of(vec![pack], |_, _| false));
        }
        for step in 0..70 {
            let name = TENANTS[dice.below(3) as usize];
            let context = format!("seed {seed}, step {step}");
            let now = BASE + sequencer.log.len() as i64 * 1_000;
            match dice.below(12) {
                0..=4 => bench.apply(&sequencer.seal(&TENANTS, 25)),
                5 => use_ids_again(&bench, &mut sequencer, &mut dice, name),
                6..=7 => {
                    let kind = if dice.chance(50) { Cleanup } else { Retention };
                    let back = dice.below(60_000) as i64;
                    let expected = bench.ask(bench.store.count_would_erase(&scope(name), kind, now - back)).expect("counts");
                    let job = bench.erase(&mut sequencer, name, kind, now - back);
                    let removed = &Model::of(&sequencer.log)[&tenant(name)].removed;
                    assert_eq!(removed.last(), Some(&(job, expected)), "{context}: the dry run");
                }
                8 => bench.settle(&mut sequencer, name, &context),
                9..=10 => bench.store.flush().expect("flushes"),
                _ => {
                    bench.store.close();
                    let mode = if dice.chance(50) { CrashMode::Lose } else { CrashMode::Keep };
                    let mut fs = bench.fs.crash(step, mode);
                    if dice.chance(50) {
                        fs = without_newest_manifest(fs);
                    }
                    bench = Bench::recover(fs, quiet(), &sequencer.log);
                    assert!(!bench.opened.lost, "{context}");
                }
            }
            check(&bench, &sequencer.log, &context);
            if step % 10 == 9 {
                compare(&bench, &sequencer.log, &mut dice, 6, &context);
            }
        }
    }
}

/// Sends entries with ids of erased rows that nothing has now, as the sequencer would take them.
fn use_ids_again(bench: &Bench, sequencer: &mut Sequencer, dice: &mut Dice, name: &str) {
    let model = &Model::of(&sequencer.log)[&tenant(name)];
    let free = |row: &&StoredEntry| !model.rows.iter().any(|r| r.entry().id() == row.entry().id());
    let erased: Vec<u128> = model.erased.iter().filter(free).map(|row| row.entry().id().as_u128()).collect();
    let Some(id) = erased.get(dice.below(erased.len() as u64 + 1) as usize) else {
        return;
    };
    let next = std::mem::replace(&mut sequencer.next_id, *id);
    sequencer.salt += 1;
    let pack = sequencer.pack(&tenant(name), 1);
    sequencer.next_id = next;
    bench.apply(&sequencer.seal_of(vec![pack], |_, _| false));
}
