//! How seals go in: visible at once and whole, once each, within the bound, and flushed only with their dead letters.

use super::*;
use std::sync::atomic::AtomicBool;

#[test]
fn reads_are_refused_until_the_last_seal_found_is_visible() {
    let mut sequencer = Sequencer::new(1);
    let bench = Bench::open(SimFs::new(), quiet());
    let list = || bench.ask(bench.store.list(&scope("a"), ListQuery::default())).map(|page| page.as_of);
    let get = || bench.ask(bench.store.get(&scope("a"), Uuid::nil())).map(|entry| entry.is_some());
    assert!(matches!(list(), Err(StoreError::Starting)), "before anything is known");
    bench.store.expect(2);
    for _ in 0..2 {
        assert!(matches!((list(), get()), (Err(StoreError::Starting), Err(StoreError::Starting))));
        let pack = sequencer.pack(&tenant("a"), 3);
        bench.store.apply(&sequencer.seal_of(vec![pack], |_, _| false)).expect("applies");
    }
    assert!(matches!((list(), get()), (Ok(6), Ok(false))));
    assert_eq!(*bench.store.visible().borrow(), 2);
}

#[test]
fn a_seal_that_is_applied_again_changes_nothing() {
    let mut sequencer = Sequencer::new(2);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..6 {
        let seal = sequencer.seal(&["a", "b"], 30);
        for _ in 0..2 {
            bench.store.apply(&seal).expect("applies");
        }
    }
    bench.store.flush().expect("flushes");
    sequencer.log.iter().for_each(|seal| bench.store.apply(seal).expect("applies"));
    bench.check_rows(&sequencer.log, "applied three times");
    assert_eq!(bench.store.health().memtable_bytes, 0);
}

#[test]
fn the_ledger_knows_every_id_after_flush_and_restart() {
    let mut sequencer = Sequencer::new(3);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for round in 0..9 {
        bench.store.apply(&sequencer.seal(&["a", "b"], 40)).expect("applies");
        if round % 3 == 2 {
            bench.store.flush().expect("flushes");
        }
    }
    bench.store.apply(&sequencer.seal(&["a", "b"], 40)).expect("applies");
    let again = Bench::recover(bench.fs.clone(), quiet(), &sequencer.log);
    for (name, model) in Model::of(&sequencer.log) {
        let other = tenant(if name.as_str() == "a" { "b" } else { "a" });
        let keys = |name: &TenantId| -> Vec<_> { model.rows.iter().map(|r| (name.clone(), r.entry().id())).collect() };
        let hashes: Vec<_> = model.rows.iter().map(|r| Some(r.entry().hash())).collect();
        for store in [&bench.store, &again.store] {
            assert_eq!(store.lookup(&keys(&name)).expect("looks up"), hashes);
            assert!(
                store.lookup(&keys(&other)).expect("looks up").iter().all(Option::is_none),
                "an id is its tenant's alone"
            );
        }
    }
}

#[test]
fn heads_counters_and_voids_come_back_from_the_manifest() {
    let mut sequencer = Sequencer::new(4);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for round in 0..6 {
        let seal = if round == 3 {
            sequencer.gap(&["a", "never-wrote"])
        } else {
            sequencer.seal(&["a", "b"], 20)
        };
        bench.store.apply(&seal).expect("applies");
        if round % 2 == 1 {
            bench.store.flush().expect("flushes");
        }
    }
    let mut expected = SealState::default();
    sequencer.log.iter().for_each(|s| expected.fold(&s.seal, s.crc));
    let again = Bench::recover(bench.fs.clone(), quiet(), &sequencer.log);
    assert_eq!((&again.opened.checkpoint, again.opened.rebuild_from), (&expected, 6));
    for name in ["a", "never-wrote"] {
        let scan = again.ask(again.store.scan(&scope(name), Filter::default(), 0, 10_000)).expect("scans");
        let model = &Model::of(&sequencer.log)[&tenant(name)];
        assert_eq!((&scan.voids, scan.upto), (&model.voids, model.head), "{name}");
        assert!(plain(&scan.entries) == plain(&model.rows), "{name}");
    }
}

#[test]
fn a_flush_waits_for_dead_letters_and_the_bound_blocks_applying_meanwhile() {
    let mut sequencer = Sequencer::new(6);
    let settings = StoreSettings {
        memtable_bytes: 256 << 10,
        ..quiet()
    };
    let bench = Bench::recover(SimFs::new(), settings, &[]);
    bench.settled.send_replace(0);
    for _ in 0..100 {
        sequencer.seal(&["a", "b"], 20);
    }
    let largest = sequencer.log.iter().map(|s| Memtable::cost_of(s)).max().expect("seals");
    let applied = std::thread::scope(|threads| {
        let applier = threads.spawn(|| sequencer.log.iter().for_each(|seal| bench.store.apply(seal).expect("applies")));
        // The flusher holds a second receiver exactly while it waits for dead letters.
        while !bench.store.health().blocked || bench.settled.receiver_count() < 2 {
            assert_eq!(bench.store.health().flushed, 0, "flushed without its dead letters");
            assert!(!applier.is_finished(), "nothing bounds the memtable");
            std::thread::yield_now();
        }
        let health = bench.store.health();
        assert!(
            health.memtable_bytes <= 256 << 10 && health.memtable_bytes + largest > 256 << 10,
            "{}",
            health.memtable_bytes
        );
        assert_eq!(
            (health.flushed, *bench.store.trimmable().borrow()),
            (0, 0),
            "no manifest before the dead letters"
        );
        assert!(!bench.fs.paths().iter().any(|p| p.starts_with("/data/manifest")));
        let visible = bench.store.visible();
        assert!(*visible.borrow() == health.applied && health.applied < 100);
        bench.settled.send_replace(u64::MAX);
        applier.join().expect("applies");
        health.applied
    });
    bench.store.expect(100);
    bench.check_rows(&sequencer.log, "after it was blocked");
    bench.store.flush().expect("flushes");
    let health = bench.store.health();
    assert_eq!((health.flushed, health.memtable_bytes, health.blocked), (100, 0, false));
    assert!(health.parts > 1 && *bench.store.trimmable().borrow() >= applied / 2);
    bench.check_rows(&sequencer.log, "flushed");
}

#[test]
fn trimming_follows_the_manifest_before_the_newest() {
    let mut sequencer = Sequencer::new(7);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    let mut trimmable = Vec::new();
    for _ in 0..4 {
        bench.store.apply(&sequencer.seal(&["a"], 5)).expect("applies");
        bench.store.flush().expect("flushes");
        trimmable.push(*bench.store.trimmable().borrow());
    }
    assert_eq!(trimmable, [0, 1, 2, 3]);
    let manifests = bench.fs.paths().iter().filter(|p| p.starts_with("/data/manifest")).count();
    assert_eq!(manifests, 2, "two are kept");
    assert_eq!(*Bench::open(bench.fs.clone(), quiet()).store.trimmable().borrow(), 3);
}

#[test]
fn a_seal_without_rows_is_flushed_without_a_part() {
    let mut sequencer = Sequencer::new(8);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    let pack = sequencer.pack(&tenant("a"), 3);
    bench.store.apply(&sequencer.seal_of(vec![pack], |_, _| true)).expect("applies");
    bench.store.flush().expect("flushes");
    assert_eq!((bench.store.health().parts, bench.store.health().flushed), (0, 1));
    let again = Bench::recover(bench.fs.clone(), quiet(), &sequencer.log);
    assert_eq!(again.opened.checkpoint.tenant(&tenant("a")).duplicate, 3);
}

#[test]
fn age_and_log_bytes_alone_make_a_flush_due() {
    let settings = quiet();
    let state = |log_bytes, age| State {
        seals: SealState { n: 5, ..SealState::default() },
        flushed: 4,
        log_bytes,
        oldest: Some(Instant::now().checked_sub(age).expect("a machine that is up for an hour")),
        ..State::default()
    };
    assert!(state(0, Duration::ZERO).due_in(&settings) > Some(Duration::from_secs(3500)));
    assert_eq!(state(settings.flush_log_bytes, Duration::ZERO).due_in(&settings), Some(Duration::ZERO));
    let short = StoreSettings {
        flush_after: Duration::from_millis(1),
        ..quiet()
    };
    assert_eq!(state(0, Duration::from_millis(2)).due_in(&short), Some(Duration::ZERO));
    assert_eq!(State::default().due_in(&short), None, "nothing to flush");
}

#[test]
fn readers_see_all_of_a_seal_or_nothing_of_it() {
    // Every seal gives 3 rows to each of two tenants: no reader may see a number that is no multiple of 3, nor one tenant
    // behind what it saw of the other before.
    let mut sequencer = Sequencer::new(9);
    for _ in 0..400 {
        let packs = ["a", "b", "a", "b"]
            .iter()
            .enumerate()
            .map(|(i, name)| sequencer.pack(&tenant(name), 1 + i / 2))
            .collect();
        sequencer.seal_of(packs, |_, _| false);
    }
    let settings = StoreSettings {
        memtable_bytes: 256 << 10,
        ..quiet()
    };
    let bench = Bench::recover(SimFs::new(), settings, &[]);
    let (done, checks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let seen = |name: &str| {
                    let query = ListQuery {
                        sort: Sort::SequenceDesc,
                        limit: 1,
                        count: Count::Exact,
                        ..ListQuery::default()
                    };
                    let page = runtime.block_on(bench.store.list(&scope(name), query)).expect("lists");
                    assert_eq!(page.total, Some(page.as_of), "{name}");
                    assert_eq!(page.entries.first().and_then(|e| e.sequence).unwrap_or(0), page.as_of, "{name}");
                    assert_eq!(page.as_of % 3, 0, "{name}: a part of a seal");
                    page.as_of
                };
                while !done.load(Ordering::Relaxed) {
                    let a = seen("a");
                    assert!(seen("b") >= a, "a seal that was visible for one tenant is not for the other");
                    assert!(bench.store.visible_head(&scope("a")).head >= a);
                    checks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        sequencer.log.iter().for_each(|seal| bench.store.apply(seal).expect("applies"));
        while checks.load(Ordering::Relaxed) < 20 {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    bench.store.expect(400);
    bench.check_rows(&sequencer.log, "in the end");
}

#[test]
fn a_query_past_its_deadline_or_its_turn_is_ended() {
    let mut sequencer = Sequencer::new(10);
    let settings = StoreSettings {
        query_timeout: Duration::ZERO,
        queries: 1,
        ..quiet()
    };
    let bench = Bench::recover(SimFs::new(), settings, &[]);
    bench.store.apply(&sequencer.seal(&["a"], 30)).expect("applies");
    let query = ListQuery {
        limit: 5,
        ..ListQuery::default()
    };
    assert!(matches!(bench.ask(bench.store.list(&scope("a"), query.clone())), Err(StoreError::Deadline)));
    let turn = bench.store.0.inner.queries.spare(1);
    assert_eq!(turn.count(), 1, "nobody reads");
    assert!(matches!(bench.ask(bench.store.list(&scope("a"), query)), Err(StoreError::Busy)));
    drop(turn);
}

#[test]
fn a_closed_store_lets_nobody_wait() {
    let mut sequencer = Sequencer::new(11);
    let settings = StoreSettings {
        memtable_bytes: 4 << 10,
        ..quiet()
    };
    let bench = Bench::recover(SimFs::new(), settings, &[]);
    bench.settled.send_replace(0);
    std::thread::scope(|threads| {
        let applier = threads.spawn(|| (0..50).find_map(|_| bench.store.apply(&sequencer.seal(&["a"], 30)).err()));
        while !bench.store.health().blocked && !applier.is_finished() {
            std::thread::yield_now();
        }
        bench.store.close();
        assert!(
            matches!(applier.join().expect("returns"), Some(StoreError::Io(_))),
            "it was blocked until the store closed"
        );
    });
    assert!(bench.store.flush().is_err());
}
