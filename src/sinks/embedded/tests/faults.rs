//! Damage, full disks and crashes: what the log can replace is replaced, the rest is reported exactly, nothing is lost.

use super::*;
use crate::fs::sim::CrashMode;
use std::path::Path;

/// A store with `flushes` parts of two seals each, and two more seals in memory.
fn grown(seed: u64, flushes: usize) -> (Bench, Sequencer) {
    grown_by(seed, flushes, 30)
}

/// The same, with packs of up to `entries` entries.
fn grown_by(seed: u64, flushes: usize, entries: u64) -> (Bench, Sequencer) {
    let mut sequencer = Sequencer::new(seed);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..flushes {
        for _ in 0..2 {
            bench.store.apply(&sequencer.seal(&["a", "b"], entries)).expect("applies");
        }
        bench.store.flush().expect("flushes");
    }
    for _ in 0..2 {
        bench.store.apply(&sequencer.seal(&["a", "b"], entries)).expect("applies");
    }
    bench.store.close();
    (bench, sequencer)
}

fn files(fs: &SimFs, folder: &str) -> Vec<PathBuf> {
    fs.paths().into_iter().filter(|p| p.starts_with(folder)).collect()
}

/// Recovers from what the log has after trimming, checks all rows, and that the next flush heals the store.
fn heals(fs: SimFs, sequencer: &Sequencer, trimmed: u64, rebuild_from: u64, context: &str) {
    let kept = &sequencer.log[..];
    let bench = Bench::recover(fs, quiet(), kept);
    assert_eq!((bench.opened.rebuild_from, bench.opened.lost), (rebuild_from, false), "{context}");
    assert!(rebuild_from >= trimmed, "{context}: the log has it");
    assert!(
        bench.opened.damage.iter().all(|d| d.rebuilt) && !bench.opened.damage.is_empty(),
        "{context}: {:?}",
        bench.opened.damage
    );
    assert_eq!(bench.store.remove_orphans(), 0, "{context}: nothing is deleted after damage");
    bench.check_rows(&sequencer.log, context);
    bench.store.flush().expect("flushes");
    assert!(*bench.store.trimmable().borrow() <= rebuild_from, "{context}");
    let again = Bench::recover(bench.fs.crash(1, CrashMode::Lose), quiet(), &sequencer.log);
    assert_eq!(
        (again.opened.damage.len(), again.opened.rebuild_from),
        (0, kept.len() as u64),
        "{context}: {:?}",
        again.opened.damage
    );
    again.check_rows(&sequencer.log, context);
    assert!(again.store.remove_orphans() > 0, "{context}: the damaged file is an orphan now");
    let last = Bench::recover(again.fs.clone(), quiet(), &sequencer.log);
    assert_eq!(last.opened.damage, [], "{context}");
    last.check_rows(&sequencer.log, context);
}

#[test]
fn a_lost_newest_part_or_manifest_is_rebuilt_from_the_log() {
    type Harm = fn(&SimFs, &Path);
    let harms: [(&str, Harm); 3] = [
        ("removed", |fs, path| fs.remove(path).expect("removes")),
        ("cut", |fs, path| fs.truncate(path, fs.bytes(path).len() as u64 / 2)),
        ("rotten", |fs, path| fs.flip(path, fs.bytes(path).len() as u64 / 2, 4)),
    ];
    for flushes in [1, 2, 4] {
        for (name, harm) in harms {
            for file in ["manifest", ".parquet", ".idx"] {
                if (file, name) == ("manifest", "removed") {
                    continue; // the one before it is simply the newest then: below
                }
                let (bench, sequencer) = grown(20 + flushes as u64, flushes);
                let trimmed = *bench.store.trimmable().borrow();
                let fs = bench.fs.crash(1, CrashMode::Lose);
                // Parts are named by their seals, manifests by their number: the last is the newest.
                let victim = files(&fs, "/data").into_iter().rfind(|p| {
                    if file == "manifest" {
                        p.starts_with("/data/manifest")
                    } else {
                        p.to_string_lossy().ends_with(file)
                    }
                });
                harm(&fs, &victim.expect("is there"));
                heals(fs, &sequencer, trimmed, 2 * (flushes as u64 - 1), &format!("{flushes} flushes, {file} {name}"));
            }
        }
    }
}

#[test]
fn a_vanished_newest_manifest_loses_nothing() {
    let (bench, sequencer) = grown(30, 3);
    let (fs, trimmed) = (bench.fs.crash(1, CrashMode::Keep), *bench.store.trimmable().borrow());
    let newest = files(&fs, "/data/manifest").pop().expect("a manifest");
    fs.remove(&newest).expect("removes");
    let again = Bench::recover(fs, quiet(), &sequencer.log);
    assert_eq!((again.opened.rebuild_from, trimmed, *again.store.trimmable().borrow()), (4, 4, 0));
    again.check_rows(&sequencer.log, "rebuilt");
    assert_eq!(again.opened.damage.len(), 1, "the one before it is gone by then: {:?}", again.opened.damage);
}

#[test]
fn damage_that_a_read_finds_shows_in_health_once_and_within_a_bound() {
    let (bench, _) = grown(31, 3);
    let store = &bench.store;
    assert!(store.health().damage.is_empty() && store.health().parts_memory > 0);
    let damaged = |what: String| bench.ask(store.query(&scope("a"), move |_, _| Err::<(), _>(StoreError::Damaged(what.as_str().into()))));
    for _ in 0..2 {
        assert!(damaged("`p-1.parquet` is damaged".into()).is_err());
    }
    assert!(bench.ask(store.query(&scope("a"), |_, _| Err::<(), _>(StoreError::Deadline))).is_err());
    let damage = store.health().damage;
    assert_eq!(damage.len(), 1, "each once, and nothing but damage: {damage:?}");
    assert_eq!((&*damage[0].what, damage[0].rebuilt), ("`p-1.parquet` is damaged", false));
    (0..300).for_each(|i| assert!(damaged(format!("block {i}")).is_err()));
    assert_eq!(store.health().damage.len(), 100);
}

fn oldest_data(fs: &SimFs) -> PathBuf {
    let oldest = files(fs, "/data/parts").into_iter().find(|p| p.extension().is_some_and(|e| e == "parquet"));
    oldest.expect("a part")
}

/// Rot at the begin of the oldest part's data, where a start does not look.
fn rot_in_the_oldest(fs: &SimFs) -> PathBuf {
    let oldest = oldest_data(fs);
    fs.flip(&oldest, 100, 1);
    oldest
}

#[test]
fn a_part_that_a_query_finds_damaged_is_left_out_and_the_rest_answers() {
    let (bench, sequencer) = grown_by(37, 3, 900);
    let fs = bench.fs.crash(1, CrashMode::Lose);
    let oldest = rot_in_the_oldest(&fs);
    let again = Bench::recover(fs.clone(), quiet(), &sequencer.log);
    assert!(fs.bytes(&oldest).len() > 2 * 16_384, "the footer is in another chunk");
    assert!(!again.store.condition(false).lacks_rows && again.opened.damage.is_empty(), "nobody has looked");
    let (rest, all) = (Model::of(&sequencer.log[2..]), Model::of(&sequencer.log));
    for name in ["a", "b"] {
        let query = ListQuery {
            limit: usize::MAX,
            sort: Sort::SequenceAsc,
            ..ListQuery::default()
        };
        let page = again.ask(again.store.list(&scope(name), query)).expect("lists");
        assert!(plain(&page.entries) == plain(&rest[&tenant(name)].rows), "{name}");
        assert_eq!(page.as_of, all[&tenant(name)].head);
        assert!(again.store.condition(false).lacks_rows);
    }
    let [damage] = &again.store.health().damage[..] else {
        panic!("{:?}", again.store.health().damage)
    };
    let rows = Model::of(&sequencer.log[..2]).values().map(|m| m.rows.len() as u64).sum();
    assert_eq!((damage.seals, damage.rows, damage.rebuilt), (Some((1, 2)), Some(rows), false));
    again.store.flush().expect("flushes, and goes on naming the part");
    assert!(fs.paths().contains(&oldest), "it is left for somebody to look at");
}

#[test]
fn the_ledger_goes_by_what_can_be_read_of_a_damaged_part() {
    let (bench, sequencer) = grown_by(38, 3, 900);
    let fs = bench.fs.crash(1, CrashMode::Lose);
    let oldest = rot_in_the_oldest(&fs);
    assert!(fs.bytes(&oldest).len() > 2 * 16_384, "the footer is in another chunk");
    let again = Bench::recover(fs, quiet(), &sequencer.log);
    let (old, new) = (&sequencer.log[0], &sequencer.log[3]);
    let id = |seal: &Arc<DecidedSeal>| {
        let entry = seal.entries().find(|e| e.sequence.is_some()).expect("an entry");
        (entry.pack.tenant().clone(), entry.pack.entry(entry.index).id())
    };
    assert!(!again.store.condition(false).lacks_rows, "nobody has looked");
    let absent = (id(old).0, Uuid::from_u128(u128::MAX));
    for _ in 0..2 {
        let hashes = again.store.lookup(&[id(old), id(new), absent.clone()]).expect("no error");
        assert!(hashes[1].is_some() && hashes[2].is_none());
        assert_eq!(hashes[0], None, "a row that cannot be read is taken for none");
    }
    assert!(again.store.condition(false).lacks_rows);
    assert_eq!(again.store.health().damage.len(), 1);
}

#[test]
fn ids_of_a_part_that_cannot_be_shown_stay_known_where_they_can_be_read() {
    let mut sequencer = Sequencer::new(39);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for name in ["a", "b", "a"] {
        let pack = sequencer.pack(&tenant(name), 4_000);
        bench.store.apply(&sequencer.seal_of(vec![pack], |_, _| false)).expect("applies");
    }
    bench.store.flush().expect("flushes");
    // The log can replace the newest part only.
    bench.store.apply(&sequencer.seal(&["a"], 5)).expect("applies");
    bench.store.flush().expect("flushes");
    let ids = sequencer.log[..3].iter().flat_map(|s| s.entries().filter(|e| e.sequence.is_some()));
    let ids: Vec<_> = ids.map(|e| (e.pack.tenant().clone(), e.pack.entry(e.index).id())).collect();
    let mut known = Vec::new();
    let len = fs_len(&bench.fs, &oldest_data(&bench.fs));
    for chunk in 0..len / 16_384 {
        let fs = bench.fs.crash(1, CrashMode::Lose);
        fs.flip(&oldest_data(&fs), chunk * 16_384 + 5_000, 1);
        let again = Bench::recover(fs, quiet(), &sequencer.log);
        for name in ["a", "b"] {
            let query = ListQuery {
                limit: usize::MAX,
                max_bytes: usize::MAX,
                ..ListQuery::default()
            };
            again.ask(again.store.list(&scope(name), query)).expect("lists");
        }
        assert!(again.store.condition(false).lacks_rows, "chunk {chunk}");
        known.push(again.store.lookup(&ids).expect("no error").into_iter().flatten().count());
    }
    assert!(
        known.contains(&0) && known.contains(&ids.len()),
        "damage of ids and damage of texts: {known:?} of {}",
        ids.len()
    );
}

fn fs_len(fs: &SimFs, path: &Path) -> u64 {
    fs.bytes(path).len() as u64
}

#[test]
fn a_damaged_older_part_is_reported_at_every_start_and_the_rest_answers() {
    let (bench, sequencer) = grown(31, 3);
    let fs = bench.fs.crash(1, CrashMode::Lose);
    let oldest = files(&fs, "/data/parts")
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "idx"))
        .expect("a part");
    fs.truncate(&oldest, 10);
    for start in 0..3 {
        let again = Bench::recover(fs.clone(), quiet(), &sequencer.log);
        let [damage] = &again.opened.damage[..] else {
            panic!("{:?}", again.opened.damage)
        };
        let rows = sequencer.log[..2]
            .iter()
            .map(|s| s.entries().filter(|e| e.sequence.is_some()).count() as u64)
            .sum();
        assert_eq!((damage.seals, damage.rows, damage.rebuilt), (Some((1, 2)), Some(rows), false));
        assert!(damage.file.starts_with("parts/p-0000000000000001-"), "{}", damage.file);
        assert_eq!(again.store.health().damage, again.opened.damage);
        for name in ["a", "b"] {
            let query = ListQuery {
                limit: usize::MAX,
                sort: Sort::SequenceAsc,
                ..ListQuery::default()
            };
            let page = again.ask(again.store.list(&scope(name), query)).expect("lists");
            let lost = Model::of(&sequencer.log[..2]).remove(&tenant(name)).unwrap_or_default();
            let all = Model::of(&sequencer.log).remove(&tenant(name)).expect("rows");
            assert!(plain(&page.entries) == plain(&all.rows[lost.rows.len()..]), "start {start}: {name}");
            assert_eq!(page.as_of, all.head, "heads are no matter of rows");
        }
        assert_eq!(again.store.remove_orphans(), 0);
        again.store.flush().expect("flushes, and keeps the part's name");
        assert!(fs.paths().contains(&oldest), "it is left for somebody to look at");
    }
}

#[test]
fn without_any_manifest_the_caller_is_told_that_heads_may_be_lost() {
    let (bench, sequencer) = grown(32, 3);
    for harm in ["all rotten", "all gone"] {
        let fs = bench.fs.crash(1, CrashMode::Lose);
        for manifest in files(&fs, "/data/manifest") {
            match harm {
                "all gone" => fs.remove(&manifest).expect("removes"),
                _ => fs.set_bytes(&manifest, b"rot"),
            }
        }
        let again = Bench::recover(fs, quiet(), &sequencer.log);
        assert!(again.opened.lost && !again.opened.damage.is_empty(), "{harm}");
        assert!(again.opened.damage.iter().all(|d| !d.rebuilt), "{harm}: {:?}", again.opened.damage);
        assert_eq!((again.opened.rebuild_from, again.store.remove_orphans()), (0, 0), "{harm}");
        again.check_rows(&sequencer.log, "a log that was never trimmed has all");
        again.store.flush().expect("flushes beside what is left");
        again.check_rows(&sequencer.log, harm);
    }
}

#[test]
fn orphans_go_after_a_clean_start_only() {
    let (bench, sequencer) = grown(33, 2);
    let fs = bench.fs.crash(1, CrashMode::Lose);
    let named = fs.paths();
    let orphans = [
        "/data/parts/p-0000000000000005-0000000000000006-0badcafe.parquet",
        "/data/parts/p-0000000000000005-0000000000000006-0badcafe.idx.tmp",
    ];
    orphans.iter().for_each(|file| fs.set_bytes(Path::new(file), b"half"));
    fs.set_bytes(Path::new("/data/parts/README"), b"not ours");
    let again = Bench::recover(fs.clone(), quiet(), &sequencer.log);
    assert_eq!((again.opened.damage.len(), again.store.remove_orphans()), (0, 2));
    assert_eq!(fs.paths().len(), named.len() + 1, "what a manifest names stays, and what is not ours");
    again.check_rows(&sequencer.log, "after cleaning");
}

#[test]
fn a_full_disk_stops_flushing_and_loses_nothing() {
    let mut sequencer = Sequencer::new(34);
    let bench = Bench::recover(SimFs::new(), quiet(), &[]);
    for _ in 0..2 {
        bench.store.apply(&sequencer.seal(&["a", "b"], 50)).expect("applies");
    }
    bench.store.flush().expect("flushes");
    bench.store.apply(&sequencer.seal(&["a", "b"], 200)).expect("applies");
    let before = bench.fs.paths();
    bench.fs.set_capacity(bench.fs.used() + 8192);
    assert!(bench.store.flush().is_err());
    assert!(bench.store.health().flush_error.is_some());
    bench.store.apply(&sequencer.seal(&["a", "b"], 50)).expect("applies while a flush fails");
    bench.check_rows(&sequencer.log, "on a full disk");
    assert_eq!(
        before,
        bench
            .fs
            .paths()
            .into_iter()
            .filter(|p| !p.to_string_lossy().contains("-0000000000000003-"))
            .collect::<Vec<_>>(),
        "nothing that is named is touched"
    );
    bench.fs.set_capacity(1 << 40);
    while bench.store.flush().is_err() {}
    let health = bench.store.health();
    assert_eq!((health.flushed, health.flush_error.is_none(), health.memtable_bytes), (4, true, 0));
    bench.check_rows(&sequencer.log, "with room again");
    let again = Bench::recover(bench.fs.crash(3, CrashMode::Keep), quiet(), &sequencer.log);
    assert_eq!(
        (again.opened.damage.len(), again.opened.rebuild_from, again.store.remove_orphans()),
        (0, 4, 0),
        "failed attempts leave nothing"
    );
    again.check_rows(&sequencer.log, "after a restart");
}

#[test]
fn failed_syncs_and_writes_are_tried_again() {
    for (at, kind) in (0..8).flat_map(|at| [(at, "sync"), (at, "write")]) {
        let mut sequencer = Sequencer::new(35);
        let bench = Bench::recover(SimFs::new(), quiet(), &[]);
        bench.store.apply(&sequencer.seal(&["a", "b"], 50)).expect("applies");
        match kind {
            "sync" => bench.fs.fail_syncs(at, 1),
            _ => bench.fs.fail_writes(at, 1),
        }
        while bench.store.flush().is_err() {}
        let again = Bench::recover(bench.fs.crash(at as u64, CrashMode::Lose), quiet(), &sequencer.log);
        assert_eq!(
            (again.opened.damage.len(), again.opened.rebuild_from),
            (0, 1),
            "{kind} {at}: {:?}",
            again.opened.damage
        );
        again.check_rows(&sequencer.log, &format!("{kind} {at}"));
    }
}

#[test]
fn a_crash_at_any_operation_loses_nothing_and_damages_nothing() {
    for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Tear] {
        for operations in 0.. {
            let mut sequencer = Sequencer::new(36);
            let bench = Bench::recover(SimFs::new(), quiet(), &[]);
            bench.fs.power_off_after(operations);
            let mut finished = true;
            for _ in 0..3 {
                bench.store.apply(&sequencer.seal(&["a", "b"], 8)).expect("applies");
                finished = finished && bench.store.flush().is_ok();
            }
            bench.store.close();
            let (health, trimmed) = (bench.store.health(), *bench.store.trimmable().borrow());
            let again = Bench::recover(bench.fs.crash(operations as u64, mode), quiet(), &sequencer.log);
            let context = format!("{mode:?} after {operations} operations");
            assert_eq!((again.opened.damage.clone(), again.opened.lost), (vec![], false), "{context}");
            assert!(
                again.opened.rebuild_from >= health.flushed && health.flushed >= trimmed,
                "{context}: a committed flush is there"
            );
            again.check_rows(&sequencer.log, &context);
            again.store.remove_orphans();
            again.store.flush().expect("flushes");
            let last = Bench::recover(again.fs.crash(0, CrashMode::Lose), quiet(), &sequencer.log);
            assert_eq!((last.opened.damage.clone(), last.opened.rebuild_from), (vec![], 3), "{context}");
            last.check_rows(&sequencer.log, &context);
            if finished {
                assert!(operations > 20, "a flush takes more than {operations} operations");
                break;
            }
        }
    }
}
