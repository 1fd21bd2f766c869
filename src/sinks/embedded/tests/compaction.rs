//! Merges: fewer parts and the same answers, whatever happens meanwhile; erased rows leave the disk, and nothing else does.

use super::{erasure::check, *};
use crate::{
    fs::sim::CrashMode,
    seal::erasure::ErasureKind::{Cleanup, Retention},
};
use std::path::Path;

/// Three parts are enough for a merge; two, when they are large.
fn eager() -> StoreSettings {
    StoreSettings {
        merge_parts: 2,
        merge_share: 1.0,
        ..quiet()
    }
}

/// Merges only when asked, since a whole rung is never there by itself.
fn patient() -> StoreSettings {
    StoreSettings { merge_parts: 1_000, ..quiet() }
}

fn part_files(fs: &SimFs) -> Vec<String> {
    let parts = fs.paths().into_iter().filter(|p| p.starts_with("/data/parts"));
    parts.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect()
}

fn metas(bench: &Bench) -> Vec<part::PartMeta> {
    bench.store.0.inner.view().parts.iter().map(|p| p.meta().clone()).collect()
}

/// Each number of seals is flushed into a part of its own.
fn flushed(bench: &Bench, sequencer: &mut Sequencer, parts: usize, entries: u64) {
    for _ in 0..parts {
        for _ in 0..2 {
            bench.apply(&sequencer.seal(&["a", "b", "c"], entries));
        }
        bench.store.flush().expect("flushes");
    }
}

#[test]
fn neighbours_are_merged_up_to_the_last_rung_and_answers_stay() {
    let mut sequencer = Sequencer::new(50);
    let bench = Bench::recover(SimFs::new(), eager(), &[]);
    flushed(&bench, &mut sequencer, 11, 60);
    bench.store.compact().expect("merges");
    check(&bench, &sequencer.log, "merged");
    let parts = metas(&bench);
    assert!(parts.len() < 6, "{parts:?}");
    assert!(
        parts.windows(2).all(|p| p[0].seals.1 + 1 == p[1].seals.0),
        "each seal is in one part: {parts:?}"
    );
    assert_eq!(parts.iter().map(|p| p.rewrites).max(), Some(2));
    assert_eq!(part_files(&bench.fs).len(), 2 * parts.len(), "the files of merged parts are gone");
    let health = bench.store.health();
    assert!(health.merges >= 3 && health.merged_bytes > 0 && health.merge_error.is_none(), "{health:?}");
    let again = Bench::recover(bench.fs.crash(1, CrashMode::Lose), eager(), &sequencer.log);
    assert_eq!((again.opened.damage.len(), again.opened.rebuild_from), (0, 22));
    check(&again, &sequencer.log, "merged, after a restart");
    again.store.remove_orphans(); // a crash may bring back names of files that were unlinked
    assert_eq!(part_files(&again.fs).len(), 2 * metas(&again).len());
}

#[test]
fn results_end_at_the_largest_size_and_a_large_part_stays_as_it_is() {
    let mut sequencer = Sequencer::new(51);
    let small = StoreSettings { part_bytes: 60_000, ..eager() };
    let bench = Bench::recover(
        SimFs::new(),
        StoreSettings {
            part_bytes: 4 << 20,
            ..patient()
        },
        &[],
    );
    flushed(&bench, &mut sequencer, 4, 800);
    bench.store.close();
    assert!(metas(&bench).iter().all(|p| p.bytes > 15_000));
    let bench = Bench::recover(bench.fs.crash(1, CrashMode::Lose), small, &sequencer.log);
    bench.store.compact().expect("nothing to do");
    assert_eq!(metas(&bench).len(), 4, "all of them are large");
    let larger = StoreSettings {
        part_bytes: 2_000_000,
        ..eager()
    };
    let bench = Bench::recover(bench.fs.crash(1, CrashMode::Lose), larger, &sequencer.log);
    bench.store.compact().expect("merges");
    assert_eq!(metas(&bench).len(), 2, "three make a full rung");
    check(&bench, &sequencer.log, "one result");
}

#[test]
fn the_newest_merge_can_be_given_up_until_its_sources_are_gone() {
    for harm in ["part", "sidecar", "manifest"] {
        let mut sequencer = Sequencer::new(52);
        let bench = Bench::recover(SimFs::new(), eager(), &[]);
        flushed(&bench, &mut sequencer, 3, 60);
        // The third flush makes a merge due; it is committed before the store rests.
        while bench.store.health().merges == 0 {
            std::thread::yield_now();
        }
        bench.store.close();
        let fs = bench.fs.crash(1, CrashMode::Keep); // a name that was unlinked stays gone
        let merged = part_files(&fs).into_iter().filter(|f| f.starts_with("m-")).collect::<Vec<_>>();
        assert_eq!((merged.len(), part_files(&fs).len()), (2, 8), "the sources are there");
        let victim = match harm {
            "manifest" => fs.paths().into_iter().rfind(|p| p.starts_with("/data/manifest")).expect("a manifest"),
            "part" => Path::new("/data/parts").join(merged.iter().find(|f| f.ends_with("parquet")).expect("data")),
            _ => Path::new("/data/parts").join(merged.iter().find(|f| f.ends_with("idx")).expect("a sidecar")),
        };
        fs.flip(&victim, fs.bytes(&victim).len() as u64 / 2, 1);
        let again = Bench::recover(fs, patient(), &sequencer.log);
        let rebuilt = again.opened.damage.iter().map(|d| d.rebuilt).collect::<Vec<_>>();
        // The manifest before the one that is taken then was deleted long ago, and is said to be missing.
        let expected = if harm == "manifest" { vec![true, false] } else { vec![true] };
        assert_eq!(rebuilt, expected, "{harm}: {:?}", again.opened.damage);
        assert_eq!((again.opened.rebuild_from, metas(&again).len()), (6, 3), "{harm}: its sources answer");
        check(&again, &sequencer.log, harm);
        assert!(!again.store.condition(false).lacks_rows);
    }
}

#[test]
fn a_part_of_which_everything_is_erased_goes_unread_and_others_lose_their_erased_rows() {
    for kind in [Cleanup, Retention] {
        let mut sequencer = Sequencer::new(53);
        let bench = Bench::recover(SimFs::new(), patient(), &[]);
        flushed(&bench, &mut sequencer, 6, 80);
        let before = metas(&bench);
        for name in ["a", "b", "c"] {
            bench.erase(&mut sequencer, name, kind, BASE + 5_500);
        }
        bench.store.flush().expect("flushes");
        bench.store.compact().expect("merges");
        assert_eq!(metas(&bench).len(), before.len(), "{kind:?}: what is not counted stays");
        for name in ["a", "b", "c"] {
            bench.settle(&mut sequencer, name, "settled");
        }
        bench.store.compact().expect("merges");
        assert_eq!(metas(&bench).len(), before.len(), "{kind:?}: what no manifest has stays");
        bench.store.flush().expect("flushes");
        bench.store.compact().expect("merges");
        let after = metas(&bench);
        check(&bench, &sequencer.log, "dropped");
        assert!(after.len() < before.len(), "{kind:?}: {after:?}");
        let rows: u64 = after.iter().map(|p| p.rows).sum();
        let left: u64 = Model::of(&sequencer.log).values().map(|m| m.rows.len() as u64).sum();
        assert_eq!(rows, left, "{kind:?}: no erased row is on the disk");
        // Retention takes whole seals here, so that no part is cut.
        assert_eq!(after.iter().any(|p| p.erased_upto > p.seals.1), kind == Cleanup, "{after:?}");
        assert_eq!(part_files(&bench.fs).len(), 2 * after.len());
        let again = Bench::recover(bench.fs.crash(1, CrashMode::Lose), patient(), &sequencer.log);
        check(&again, &sequencer.log, "dropped, after a restart");
    }
}

#[test]
fn a_damaged_part_is_left_where_it_is_and_no_merge_passes_over_it() {
    let mut sequencer = Sequencer::new(54);
    let bench = Bench::recover(SimFs::new(), patient(), &[]);
    flushed(&bench, &mut sequencer, 9, 900);
    bench.store.close();
    let fs = bench.fs.crash(1, CrashMode::Lose);
    let name = metas(&bench)[4].name.clone();
    let victim = Path::new("/data/parts").join(part::data_file(&name));
    fs.flip(&victim, 100, 1); // where a start does not look
    let again = Bench::recover(fs.clone(), eager(), &sequencer.log);
    again.store.compact().expect("merges the others");
    assert!(again.store.condition(false).lacks_rows && fs.paths().contains(&victim));
    assert_eq!(again.store.health().damage.len(), 1);
    let parts = metas(&again);
    assert!(parts.iter().all(|p| p.seals.1 < 9 || p.seals.0 > 10), "nothing reaches over it: {parts:?}");
    assert!(parts.len() < 8, "{parts:?}");
    let rest: Vec<_> = sequencer.log.iter().filter(|s| !(9..=10).contains(&s.seal.n)).cloned().collect();
    for (name, model) in Model::of(&rest) {
        let query = ListQuery {
            sort: Sort::SequenceAsc,
            limit: usize::MAX,
            max_bytes: usize::MAX,
            ..ListQuery::default()
        };
        let page = again.ask(again.store.list(&TenantScope::new(name.clone()), query)).expect("lists");
        assert!(plain(&page.entries) == plain(&model.rows), "{name}");
    }
    // Somebody restores it.
    fs.flip(&victim, 100, 1);
    let restored = Bench::recover(fs.clone(), eager(), &sequencer.log);
    check(&restored, &sequencer.log, "restored");
    assert!(!restored.store.condition(false).lacks_rows);
}

#[test]
fn merges_leave_the_reserve_and_a_flush_may_use_it() {
    let mut sequencer = Sequencer::new(55);
    let settings = StoreSettings { reserve: 1 << 20, ..eager() };
    let bench = Bench::recover(SimFs::new(), settings, &[]);
    bench.fs.set_capacity(bench.fs.used() + (1 << 20) + 200_000);
    flushed(&bench, &mut sequencer, 4, 60);
    bench.store.compact().expect("no failure");
    let health = bench.store.health();
    assert!(health.merges == 0 && health.merge_error.is_some(), "{health:?}");
    check(&bench, &sequencer.log, "no room to merge");
    bench.fs.set_capacity(1 << 40);
    bench.store.compact().expect("merges");
    assert!(bench.store.health().merges > 0 && bench.store.health().merge_error.is_none());
    check(&bench, &sequencer.log, "merged");
}

/// The middle of the test's events is two months before this.
fn two_months_later() -> i64 {
    BASE + 6_000 + 61 * 24 * 3_600_000
}

#[test]
fn old_rows_get_parts_of_their_own_in_a_flush_and_in_a_merge() {
    let mut sequencer = Sequencer::new(56);
    let bench = Bench::recover(SimFs::new(), StoreSettings { now: || BASE, ..patient() }, &[]);
    flushed(&bench, &mut sequencer, 6, 60);
    assert_eq!(metas(&bench).len(), 6, "all are recent");
    bench.store.close();
    let later = StoreSettings {
        now: two_months_later,
        ..eager()
    };
    let bench = Bench::recover(bench.fs.crash(1, CrashMode::Lose), later, &sequencer.log);
    bench.store.compact().expect("merges");
    check(&bench, &sequencer.log, "split");
    let is_mixed = |p: &part::PartMeta| p.min_timestamp < BASE + 6_000 && p.max_timestamp >= BASE + 6_000;
    assert!(metas(&bench).iter().filter(|p| p.rewrites > 0).all(|p| !is_mixed(p)), "{:?}", metas(&bench));
    // A flush of old and recent rows.
    let before = metas(&bench).len();
    let pack = |sequencer: &mut Sequencer, i: usize| {
        let log = std::mem::take(&mut sequencer.log);
        sequencer.log = log[..i].to_vec();
        let pack = sequencer.pack(&tenant("a"), 50);
        sequencer.log = log;
        pack
    };
    let packs = vec![pack(&mut sequencer, 0), pack(&mut sequencer, 12)];
    bench.store.close();
    let bench = Bench::recover(
        bench.fs.crash(1, CrashMode::Lose),
        StoreSettings {
            now: two_months_later,
            ..patient()
        },
        &sequencer.log,
    );
    bench.apply(&sequencer.seal_of(packs, |_, _| false));
    bench.store.flush().expect("flushes");
    assert_eq!(metas(&bench).len(), before + 2);
    assert!(metas(&bench).iter().filter(|p| p.seals == (13, 13)).all(|p| !is_mixed(p)));
    check(&bench, &sequencer.log, "flushed apart");
}

/// Seals, flushes, erasures and merges, the same ones for each `seed`; ends early when the power is off.
fn workload(bench: &Bench, sequencer: &mut Sequencer) -> bool {
    let mut good = true;
    for round in 0..4 {
        bench.apply(&sequencer.seal(&["a", "b"], 8));
        if round == 2 {
            bench.erase(sequencer, "a", Cleanup, BASE + 1_500);
            bench.settle(sequencer, "a", "settled");
        }
        good = good && bench.store.flush().is_ok();
    }
    good && bench.store.compact().is_ok()
}

#[test]
fn a_crash_at_any_operation_of_flush_merge_and_erasure_loses_doubles_and_revives_nothing() {
    for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Tear] {
        for operations in 0.. {
            let mut sequencer = Sequencer::new(57);
            let bench = Bench::recover(SimFs::new(), eager(), &[]);
            bench.fs.power_off_after(operations);
            let finished = workload(&bench, &mut sequencer);
            bench.store.close();
            let (health, trimmed) = (bench.store.health(), *bench.store.trimmable().borrow());
            let again = Bench::recover(bench.fs.crash(operations as u64, mode), patient(), &sequencer.log);
            let context = format!("{mode:?} after {operations} operations");
            assert_eq!((again.opened.damage.clone(), again.opened.lost), (vec![], false), "{context}");
            assert!(
                again.opened.rebuild_from >= health.flushed && health.flushed >= trimmed,
                "{context}: a committed flush is there"
            );
            again.check_rows(&sequencer.log, &context);
            again.store.remove_orphans();
            again.store.flush().expect("flushes");
            let last = Bench::recover(again.fs.crash(0, CrashMode::Lose), eager(), &sequencer.log);
            assert_eq!(last.opened.damage, [], "{context}");
            last.store.remove_orphans();
            last.store.compact().expect("merges");
            last.check_rows(&sequencer.log, &context);
            assert_eq!(part_files(&last.fs).len(), 2 * metas(&last).len(), "{context}: nothing is left over");
            if finished {
                assert!(operations > 60, "it takes more than {operations} operations");
                assert!(bench.store.health().merges > 0);
                break;
            }
        }
    }
}

#[test]
fn any_order_of_flush_merge_erasure_and_restart_answers_as_a_plain_list_does() {
    for seed in 60..66 {
        let mut sequencer = Sequencer::new(seed);
        let mut bench = Bench::recover(SimFs::new(), eager(), &[]);
        let mut dice = Dice::new(seed * 7);
        for round in 0..40 {
            let name = ["a", "b", "c"][dice.below(3) as usize];
            match dice.below(12) {
                0..=3 => bench.apply(&sequencer.seal(&["a", "b", "c"], 40)),
                4..=6 => bench.store.flush().expect("flushes"),
                7 => bench.store.compact().expect("merges"),
                8 => {
                    let kind = if dice.chance(50) { Cleanup } else { Retention };
                    if sequencer.heads.contains_key(&tenant(name)) {
                        bench.erase(&mut sequencer, name, kind, BASE + dice.below(1_000 * (round + 1)) as i64);
                    }
                }
                9 => bench.settle(&mut sequencer, name, &format!("seed {seed}, round {round}")),
                10 => {
                    let mode = [CrashMode::Lose, CrashMode::Keep, CrashMode::Tear][dice.below(3) as usize];
                    bench.store.close();
                    bench = Bench::recover(bench.fs.crash(seed + round, mode), eager(), &sequencer.log);
                    assert_eq!(bench.opened.damage, [], "seed {seed}, round {round}");
                    bench.store.remove_orphans();
                }
                _ => check(&bench, &sequencer.log, &format!("seed {seed}, round {round}")),
            }
        }
        bench.store.flush().expect("flushes");
        bench.store.compact().expect("merges");
        check(&bench, &sequencer.log, &format!("seed {seed}, at the end"));
    }
}

/// What `sluice verify-store` says about the disk.
fn faults(fs: &SimFs) -> Vec<String> {
    verify::verify(fs, Path::new("/data"), &mut |_, _| ()).expect("reads").faults
}

#[test]
fn a_store_is_verified_row_by_row_and_every_damage_is_named() {
    let mut sequencer = Sequencer::new(58);
    let bench = Bench::recover(SimFs::new(), eager(), &[]);
    flushed(&bench, &mut sequencer, 4, 80);
    bench.apply(&sequencer.gap(&["a"]));
    bench.erase(&mut sequencer, "b", Cleanup, BASE + 3_000);
    bench.settle(&mut sequencer, "b", "settled");
    bench.erase(&mut sequencer, "c", Retention, BASE + 2_000);
    flushed(&bench, &mut sequencer, 3, 80);
    bench.store.close();
    let fs = bench.fs.crash(1, CrashMode::Lose);
    assert_eq!(faults(&fs), [""; 0]);
    let files: Vec<PathBuf> = fs.paths().into_iter().filter(|p| !p.starts_with("/data/manifest")).collect();
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if !metas(&bench).iter().any(|p| name.starts_with(&p.name)) {
            continue;
        }
        let bad = fs.crash(1, CrashMode::Keep);
        bad.flip(&file, bad.bytes(&file).len() as u64 / 3, 1);
        let found = faults(&bad);
        assert!(!found.is_empty() && found[0].contains("parts/"), "{name}: {found:?}");
        assert!(
            found.iter().any(|f| f.contains("make up its head")),
            "{name}: and its rows are missed: {found:?}"
        );
    }
    let newest = fs.paths().into_iter().rfind(|p| p.starts_with("/data/manifest")).expect("a manifest");
    let text = String::from_utf8(fs.bytes(&newest)).expect("text");
    let (_, json) = text.split_once('\n').expect("two lines");
    let wrong = json.replacen("\"stored\":", "\"stored\":1", 1);
    let line = format!("sluice-manifest 2 crc32c={:08x} bytes={}\n", crc32c::crc32c(wrong.as_bytes()), wrong.len());
    fs.set_bytes(&newest, format!("{line}{wrong}").as_bytes());
    assert!(faults(&fs).iter().any(|f| f.contains("that it has stored")), "{:?}", faults(&fs));
}
