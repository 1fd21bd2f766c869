//! The log against a disk that forgets, tears, fails and fills up.

use super::{
    format::{BLOCK, GROUP_HEADER, GroupHeader, SegmentHeader},
    *,
};
use crate::fs::{
    File, Space,
    sim::{CrashMode, Dice, SimFs},
};
use std::{ops::Range, path::Path};

type Found = Vec<(Position, RecordKind, Bytes)>;

const DIR: &str = "/wal";
const SEGMENT: u64 = 1 << 20;

fn settings() -> WalSettings {
    WalSettings {
        segment_bytes: SEGMENT,
        group_bytes: 64 << 10,
        reserve: Some(0),
        min_ordinal: 0,
    }
}

fn open_with(fs: &SimFs, settings: WalSettings) -> Result<(Wal, RecoveryReport, Found), WalError> {
    let mut found = Vec::new();
    let (wal, report) = Wal::open(Arc::new(fs.clone()), DIR.into(), settings, &mut |at, kind, body| found.push((at, kind, body)))?;
    Ok((wal, report, found))
}

fn open(fs: &SimFs) -> (Wal, RecoveryReport, Found) {
    open_with(fs, settings()).unwrap()
}

/// Opens and closes again.
fn look(fs: &SimFs) -> (RecoveryReport, Found) {
    let (wal, report, found) = open(fs);
    wal.close();
    (report, found)
}

fn path(ordinal: u64) -> PathBuf {
    Name::Segment(ordinal).path(Path::new(DIR))
}

fn body(n: u64, bytes: usize) -> Bytes {
    let mut dice = Dice::new(n);
    let mut out = n.to_le_bytes().to_vec();
    while out.len() < bytes {
        out.extend_from_slice(&(dice.roll() | u64::from_le_bytes([1; 8])).to_le_bytes());
    }
    out.truncate(bytes.max(8));
    out.into()
}

fn pack(wal: &Wal, n: u64, bytes: usize) -> Append {
    wal.append(RecordKind::Pack, n % 5, None, body(n, bytes))
}

fn seal(wal: &Wal, n: u64) -> Append {
    wal.append(RecordKind::Seal, 0, Some(n), body(n, 100))
}

fn bodies(found: &Found) -> Vec<Bytes> {
    found.iter().map(|(_, _, body)| body.clone()).collect()
}

/// Groups of a segment, by its bytes.
fn groups(bytes: &[u8]) -> Vec<GroupHeader> {
    let mut out = Vec::new();
    let mut at = BLOCK;
    while let Some(header) = bytes.get(at as usize..).and_then(GroupHeader::decode) {
        at += header.length;
        out.push(header);
    }
    out
}

/// A log of one used segment: each number of `seals` is a seal in a group of its own, 0 stands for a pack. Ends uncovered.
fn one_segment(records: &[u64]) -> (SimFs, Vec<Bytes>) {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    let mut written = Vec::new();
    for (i, n) in records.iter().enumerate() {
        let append = if *n == 0 { pack(&wal, 1000 + i as u64, 5000) } else { seal(&wal, *n) };
        written.push(if *n == 0 { body(1000 + i as u64, 5000) } else { body(*n, 100) });
        append.wait().unwrap();
    }
    let crashed = fs.crash(0, CrashMode::Lose);
    drop(wal);
    // Idle groups depend on the clock: without them the last group with records is the last one.
    let bytes = crashed.bytes(&path(1));
    let all = groups(&bytes);
    if all.last().is_some_and(|group| group.records == 0 && group.number > 0) {
        let mut bytes = bytes;
        let at = all.last().unwrap().offset as usize;
        bytes[at..at + BLOCK as usize].fill(0);
        crashed.set_bytes(&path(1), &bytes);
    }
    (crashed, written)
}

#[test]
fn a_new_folder_opens_and_what_was_acknowledged_is_there_again() {
    let fs = SimFs::new();
    let (wal, report, found) = open(&fs);
    assert_eq!((report, found.len()), (RecoveryReport::default(), 0));
    let appends: Vec<_> = (0..50).map(|n| pack(&wal, n, 300)).collect();
    let positions: Vec<_> = appends.into_iter().map(|append| append.wait().unwrap()).collect();
    let at = seal(&wal, 1).wait().unwrap();
    assert_eq!(wal.read(at).unwrap(), (RecordKind::Seal, body(1, 100)));
    for (n, at) in positions.iter().enumerate() {
        assert_eq!(wal.read(*at).unwrap(), (RecordKind::Pack, body(n as u64, 300)));
    }
    let beyond = Position {
        segment: 1,
        offset: at.offset + 4096,
    };
    assert!(matches!(wal.read(beyond), Err(WalError::NotHere { .. })));
    wal.close();
    assert!(matches!(pack(&wal, 1, 10).wait(), Err(WalError::Closed)));
    let (report, found) = look(&fs.crash(1, CrashMode::Lose));
    assert_eq!(
        (report.damage.len(), report.torn_bytes, report.seal_may_be_lost, report.largest_seal_named),
        (0, 0, false, 1)
    );
    let mut expected: Vec<_> = positions
        .iter()
        .enumerate()
        .map(|(n, at)| (*at, RecordKind::Pack, body(n as u64, 300)))
        .collect();
    expected.push((at, RecordKind::Seal, body(1, 100)));
    expected.sort_by_key(|(at, ..)| *at);
    assert_eq!(found, expected);
}

/// Remove the sync in `Writer::write`, and this fails.
#[test]
fn nothing_is_acknowledged_before_its_sync_returned() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    pack(&wal, 1, 300).wait().unwrap();
    let (_, found) = look(&fs.crash(1, CrashMode::Lose));
    assert_eq!(bodies(&found), [body(1, 300)]);
    fs.hold_syncs();
    let mut append = pack(&wal, 2, 300);
    fs.wait_for_held_sync();
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(&mut append).poll(&mut context).is_pending());
    let (_, found) = look(&fs.crash(1, CrashMode::Lose));
    assert_eq!(bodies(&found), [body(1, 300)]);
    fs.release_syncs();
    append.wait().unwrap();
    let (_, found) = look(&fs.crash(1, CrashMode::Lose));
    assert_eq!(bodies(&found), [body(1, 300), body(2, 300)]);
}

/// The group that covers the first record of segment 1, once it is durable.
fn covered(fs: &SimFs) -> GroupHeader {
    let last = || *groups(&fs.crash(0, CrashMode::Lose).bytes(&path(1))).last().unwrap();
    until(|| (last().number, last().records) == (2, 0));
    last()
}

#[test]
fn an_idle_log_covers_its_last_group_and_then_rests() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    pack(&wal, 1, 300).wait().unwrap();
    let last = covered(&fs);
    assert_eq!((last.synced_upto, last.length), (last.offset, BLOCK));
    seal(&wal, 1).wait().unwrap();
    wal.close();
    let records: Vec<_> = groups(&fs.bytes(&path(1))).iter().map(|group| group.records).collect();
    assert_eq!(records, [0, 1, 0, 1, 0], "a covering group is not covered again");
}

#[test]
fn a_failed_sync_moves_everything_on_and_its_tail_is_never_believed() {
    for fail_write in [false, true] {
        let fs = SimFs::new();
        let (wal, ..) = open(&fs);
        pack(&wal, 1, 300).wait().unwrap();
        until(|| fs.paths().contains(&path(2))); // else the fault might strike the thread that prepares it
        if fail_write {
            fs.fail_writes(0, 1)
        } else {
            fs.fail_syncs(0, 1)
        }
        let moved = pack(&wal, 2, 300).wait().unwrap();
        let n = 3;
        assert_eq!(moved.segment, 2);
        assert_eq!(wal.read(moved).unwrap().1, body(n - 1, 300));
        let (report, found) = look(&fs.crash(3, CrashMode::Keep));
        assert_eq!(bodies(&found), (1..n).map(|n| body(n, 300)).collect::<Vec<_>>(), "each once");
        assert_eq!((report.damage.len(), report.seal_may_be_lost), (0, false));
        assert!(report.torn_bytes > 0, "the tail of segment 1 reads well and is dropped");
        let (report, found) = look(&fs.crash(3, CrashMode::Lose));
        assert_eq!(bodies(&found), (1..n).map(|n| body(n, 300)).collect::<Vec<_>>());
        assert_eq!((report.damage.len(), report.torn_bytes), (0, 0));
    }
}

#[test]
fn when_the_next_segment_fails_too_the_log_closes_and_says_so() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    pack(&wal, 1, 300).wait().unwrap();
    let failed = wal.failed();
    covered(&fs); // else the group that covers it might fail first
    fs.fail_syncs(0, usize::MAX);
    assert!(matches!(pack(&wal, 2, 300).wait(), Err(WalError::Unknown)));
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(failed);
    wal.close();
    assert!(matches!(pack(&wal, 3, 300).wait(), Err(WalError::Closed)));
    let (_, found) = look(&fs.crash(0, CrashMode::Lose));
    assert_eq!(bodies(&found), [body(1, 300)]);
}

/// The kernel marks pages of a failed sync clean: a process that starts over reads them well, and they are not on the disk.
#[test]
fn what_recovery_believed_is_written_again_and_survives() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    pack(&wal, 1, 300).wait().unwrap();
    covered(&fs);
    fs.fail_syncs(0, usize::MAX);
    assert!(matches!(pack(&wal, 2, 300).wait(), Err(WalError::Unknown)));
    wal.close();
    fs.fail_syncs(0, 0);
    // Whether or not the second pack is believed: what this start hands over, the next one hands over too, though power is cut.
    let (_, found) = look(&fs);
    let (_, again) = look(&fs.crash(0, CrashMode::Lose));
    assert_eq!(found, again);

    // The same with the whole group in the cache only, and no later segment.
    let (fs, _) = one_segment(&[0]);
    let file = fs.open(&path(1)).unwrap();
    let bytes = fs.bytes(&path(1));
    let last = *groups(&bytes).last().unwrap();
    let range = last.offset as usize..(last.offset + last.length) as usize;
    fs.set_bytes(&path(1), &[&bytes[..range.start], &vec![0; bytes.len() - range.start]].concat());
    drop(file);
    let file = fs.open(&path(1)).unwrap();
    file.write_at(&bytes[range.clone()], range.start as u64).unwrap();
    fs.fail_syncs(0, 1);
    assert!(file.sync().is_err());
    let (_, found) = look(&fs);
    assert_eq!(found.len(), 1);
    let (_, again) = look(&fs.crash(0, CrashMode::Lose));
    assert_eq!(found, again);
}

#[test]
fn segments_switch_without_loss_and_a_large_record_gets_a_segment_of_its_size() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    let sizes = [200_000, 300_000, 500, 3_000_000, 100, 900_000, 700_000, 17 << 20, 10];
    let mut expected = Vec::new();
    for (n, bytes) in sizes.iter().enumerate() {
        let at = pack(&wal, n as u64, *bytes).wait().unwrap();
        assert_eq!(wal.read(at).unwrap().1, body(n as u64, *bytes));
        expected.push(body(n as u64, *bytes));
    }
    let segments = wal.segments();
    assert!(segments.len() > 3 && segments.iter().filter(|segment| segment.is_active).count() == 1);
    assert!(segments.iter().any(|segment| segment.bytes > 17 << 20));
    let crashed = fs.crash(0, CrashMode::Lose);
    let (report, found) = look(&crashed);
    assert_eq!((bodies(&found), report.damage.len()), (expected, 0));
}

#[test]
fn trimming_deletes_oldest_first_and_never_the_active_one() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    let positions: Vec<_> = (0..12).map(|n| pack(&wal, n, 300_000).wait().unwrap()).collect();
    let active = wal.segments().last().unwrap().ordinal;
    assert!(active > 3);
    assert!(wal.trim(3).unwrap() >= 2 * SEGMENT);
    assert_eq!(wal.segments().first().unwrap().ordinal, 3);
    assert!(matches!(wal.read(positions[0]), Err(WalError::NotHere { .. })));
    wal.read(*positions.last().unwrap()).unwrap();
    let (report, found) = look(&fs.crash(5, CrashMode::Tear));
    assert_eq!(report.damage, [], "a trimmed segment is not a missing one");
    assert!(found.iter().all(|(at, ..)| at.segment >= 3) && !found.is_empty());
    wal.trim(u64::MAX).unwrap();
    assert_eq!(wal.segments().iter().map(|segment| segment.ordinal).collect::<Vec<_>>(), [active]);
}

#[test]
fn a_flood_waits_behind_its_own_lane_only() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    until(|| fs.paths().contains(&path(2))); // else the thread that prepares it might be the one that is held
    fs.hold_syncs();
    let first = wal.append(RecordKind::Pack, 1, None, body(0, 30_000));
    fs.wait_for_held_sync();
    let flood: Vec<_> = (0..20).map(|n| wal.append(RecordKind::Pack, 1, None, body(n, 30_000))).collect();
    let calm = wal.append(RecordKind::Pack, 2, None, body(99, 300));
    fs.release_syncs();
    let (calm, first) = (calm.wait().unwrap(), first.wait().unwrap());
    let before = flood.into_iter().map(|append| append.wait().unwrap()).filter(|at| *at < calm).count();
    assert!(before <= 1, "{before} records of the flood went first");
    assert!(first < calm);
}

// ---- Damage --------------------------------------------------------------------------------------------------------------

#[test]
fn a_torn_last_group_is_dropped_whole_and_reported() {
    let (fs, written) = one_segment(&[1, 0, 2, 0]);
    let bytes = fs.bytes(&path(1));
    let last = *groups(&bytes).last().unwrap();
    // Cut anywhere before the trailer, with and without the header.
    for (from, to) in [(100, last.length), (4096, last.length), (last.length - 40, last.length), (0, last.length)] {
        let mut torn = bytes.clone();
        torn[(last.offset + from) as usize..(last.offset + to) as usize].fill(0);
        let fs = fs.crash(0, CrashMode::Lose);
        fs.set_bytes(&path(1), &torn);
        let (report, found) = look(&fs);
        assert_eq!((bodies(&found), report.damage.len()), (written[..3].to_vec(), 0));
        assert!(!report.seal_may_be_lost);
        assert_eq!(report.torn_bytes > 0, from > 0);
        let (again, found) = look(&fs);
        assert_eq!(
            (found.len(), again.damage.len(), again.torn_bytes),
            (3, 0, report.torn_bytes),
            "the next start agrees"
        );
    }
}

#[test]
fn a_flipped_bit_anywhere_keeps_every_other_record_and_is_told() {
    let (fs, written) = one_segment(&[1, 0, 2, 0, 0, 3]);
    let bytes = fs.bytes(&path(1));
    let all = groups(&bytes);
    let end = all.last().map(|group| group.offset + group.length).unwrap();
    let mut dice = Dice::new(5);
    let places = (0..end).step_by(97).chain([0, 4096, 4097]);
    for at in places {
        let fs = fs.crash(0, CrashMode::Lose);
        fs.flip(&path(1), at, 1 << dice.below(8));
        let (report, found) = look(&fs);
        assert!(!report.damage.is_empty(), "flip at {at} is not told");
        assert!(report.damage[0].range.contains(&at), "{:?} does not name {at}", report.damage);
        assert!(found.len() + 1 >= written.len(), "flip at {at} lost more than its record");
        assert!(bodies(&found).iter().all(|body| written.contains(body)), "flip at {at} invented a record");
        let Some(hit) = all.iter().find(|group| (group.offset..group.offset + group.length).contains(&at)) else {
            continue;
        };
        let lost: Vec<_> = written.iter().filter(|body| !bodies(&found).contains(body)).collect();
        let seal_lost = lost.iter().any(|body| body.len() == 100);
        // The last group without its header or trailer, and an opening group without its header, leave doubts; else it is exact.
        let exact = hit.number > 0 && hit.number < all.len() as u64 - 1;
        assert!(!seal_lost || report.seal_may_be_lost, "flip at {at}");
        assert!(!exact || report.seal_may_be_lost == seal_lost, "flip at {at}: {lost:?}");
        assert_eq!(report.largest_seal_named, 3, "flip at {at}");
    }
}

#[test]
fn a_short_or_unknown_end_means_that_a_seal_may_be_lost() {
    let (fs, written) = one_segment(&[1, 0, 2, 0]);
    let bytes = fs.bytes(&path(1));
    for len in (0..bytes.len()).step_by(3001).chain([bytes.len() - 1]) {
        let fs = fs.crash(0, CrashMode::Lose);
        fs.truncate(&path(1), len as u64);
        let (report, found) = look(&fs);
        assert!(report.seal_may_be_lost && !report.damage.is_empty(), "cut to {len}");
        let kept: Vec<_> = bodies(&found);
        assert_eq!(kept, written[..kept.len()], "cut to {len}");
        let whole = groups(&bytes)
            .iter()
            .filter(|group| group.offset + group.length <= len as u64)
            .map(|group| group.records as usize)
            .sum();
        assert!(kept.len() >= whole, "cut to {len}");
    }
}

#[test]
fn the_doubt_about_a_seal_lasts_until_one_is_made() {
    let (fs, _) = one_segment(&[1, 0, 2]);
    fs.truncate(&path(1), 9000);
    let (wal, report, _) = open(&fs);
    assert!(report.seal_may_be_lost);
    pack(&wal, 7, 100).wait().unwrap();
    wal.close();
    let (wal, report, _) = open(&fs);
    assert!(report.seal_may_be_lost, "the process died before it made the gap seal");
    seal(&wal, 500).wait().unwrap();
    wal.close();
    let (report, _) = look(&fs);
    assert!(!report.seal_may_be_lost && !report.damage.is_empty());
}

#[test]
fn a_missing_segment_is_damage() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    for n in 0..8 {
        pack(&wal, n, 300_000).wait().unwrap();
    }
    wal.close();
    let newest = wal.segments().last().unwrap().ordinal;
    for gone in [2, newest] {
        let fs = fs.crash(0, CrashMode::Keep);
        fs.remove(&path(gone)).unwrap();
        let (wal, report, _) = open_with(
            &fs,
            WalSettings {
                min_ordinal: newest,
                ..settings()
            },
        )
        .unwrap();
        assert!(
            report.damage.iter().any(|damage| damage.segment == gone && damage.kind == DamageKind::Missing),
            "{gone}: {report:?}"
        );
        assert_eq!(
            report.seal_may_be_lost,
            gone == newest,
            "the groups around segment 2 agree that no seal was in it"
        );
        assert!(wal.segments().iter().find(|segment| segment.is_active).unwrap().ordinal > newest);
    }
    let empty = SimFs::new();
    let (_, report, _) = open_with(&empty, WalSettings { min_ordinal: 9, ..settings() }).unwrap();
    assert!(report.seal_may_be_lost && report.damage[0].kind == DamageKind::Missing);
    assert!(empty.paths().contains(&path(10)));
}

#[test]
fn a_lost_end_is_missed_also_when_nothing_else_knows_of_it() {
    let fs = SimFs::new();
    // Segments that were left in order, and some that a crash left.
    for start in 0..3 {
        let (wal, ..) = open(&fs);
        for n in 1..=5 {
            pack(&wal, n, 300_000).wait().unwrap();
            seal(&wal, 5 * start + n).wait().unwrap();
        }
        wal.close();
    }
    let is_used = |path: &PathBuf| fs.bytes(path)[4096..].iter().any(|b| *b != 0);
    let segments = |fs: &SimFs| -> Vec<PathBuf> { fs.paths().into_iter().filter(|p| p.extension().is_some_and(|e| e == "seg")).collect() };
    let used: Vec<PathBuf> = segments(&fs).into_iter().filter(is_used).collect();
    let newest = Name::parse(used.last().unwrap().file_name().unwrap().to_str().unwrap()).unwrap().ordinal();
    assert!(used.len() >= 6, "{used:?}");
    for gone in &used {
        let fs = fs.crash(0, CrashMode::Keep);
        segments(&fs).iter().filter(|path| *path >= gone).for_each(|path| fs.remove(path).unwrap());
        let (wal, report, _) = open(&fs);
        wal.close();
        let missed: Vec<_> = report.damage.iter().map(|damage| (damage.segment, damage.kind)).collect();
        assert_eq!(missed, [(newest, DamageKind::Missing)], "{gone:?}: {report:?}");
        assert!(report.seal_may_be_lost && report.largest_seal_named > 15, "{report:?}");
        assert!(
            segments(&fs).iter().all(|path| path < gone || *path > *used.last().unwrap()),
            "an ordinal is used again"
        );
        let (report, _) = look(&fs);
        assert!(
            report.damage.is_empty() && report.seal_may_be_lost,
            "told once; in doubt until a seal is made: {report:?}"
        );
    }
}

#[test]
fn a_power_cut_while_switching_segments_is_no_damage() {
    for operations in 0..70 {
        let fs = SimFs::new();
        fs.power_off_after(operations);
        if let Ok((wal, ..)) = open_with(&fs, settings()) {
            let answers: Vec<_> = (0..8).map(|n| pack(&wal, n, 300_000)).collect();
            answers.into_iter().for_each(|answer| drop(answer.wait()));
            wal.close();
        }
        // Twice: the second start sees what the first one made of it, cut off as well.
        for again in [0, 3, 5, 8] {
            let next = fs.crash(operations as u64, CrashMode::Lose);
            next.power_off_after(again);
            drop(open_with(&next, settings()).map(|(wal, ..)| wal.close()));
            let (report, _) = look(&next.crash(again as u64, CrashMode::Lose));
            assert!(report.damage.is_empty(), "power off after {operations}, then {again}: {report:?}");
        }
    }
}

#[test]
fn a_damaged_segment_is_kept_when_it_is_trimmed() {
    let (fs, _) = one_segment(&[1, 0, 2, 0]);
    let second = groups(&fs.bytes(&path(1)))[2].offset;
    fs.flip(&path(1), second + 200, 4);
    let damaged = fs.bytes(&path(1));
    let (wal, report, _) = open(&fs);
    assert_eq!((report.damage[0].segment, report.damage[0].kind), (1, DamageKind::Contents));
    assert!(wal.segments()[0].is_damaged);
    wal.trim(2).unwrap();
    assert_eq!(fs.bytes(&Name::Damaged(1).path(Path::new(DIR))), damaged);
    wal.close();
    let (report, _) = look(&fs.crash(0, CrashMode::Lose));
    assert_eq!((report.damage.len(), report.segments), (0, 1));
}

#[test]
fn garbage_of_any_kind_opens() {
    let (fs, _) = one_segment(&[1, 0, 2]);
    let bytes = fs.bytes(&path(1));
    for seed in 0..60 {
        let fs = fs.crash(0, CrashMode::Lose);
        let mut dice = Dice::new(seed);
        let mut garbage = bytes.clone();
        for _ in 0..=dice.below(4) {
            let from = dice.below(40_000) as usize;
            let to = from + dice.below(20_000) as usize;
            let kind = dice.below(3);
            garbage[from..to]
                .iter_mut()
                .for_each(|byte| *byte = [0, 0xff, dice.roll() as u8][kind as usize]);
        }
        fs.set_bytes(&path(1), &garbage);
        let (wal, report, found) = open(&fs);
        pack(&wal, 1, 100).wait().unwrap();
        wal.close();
        let (again, found_again) = look(&fs);
        assert_eq!(
            (&report.damage, found.len() + 1),
            (&again.damage, found_again.len()),
            "seed {seed}: the next start agrees"
        );
    }
}

// ---- A full disk ---------------------------------------------------------------------------------------------------------

/// Awaits a condition that the log's threads bring about.
fn until(mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_refuses_packs_takes_seals_and_recovers_by_itself() {
    let fs = SimFs::new();
    fs.set_capacity(4 * SEGMENT);
    let (wal, ..) = open(&fs);
    let (mut n, mut kept) = (0, Vec::new());
    let mut refused = false;
    while !refused {
        match pack(&wal, n, 100_000).wait() {
            Ok(_) => kept.push(body(n, 100_000)),
            Err(WalError::Full) => refused = true,
            Err(e) => panic!("{e}"),
        }
        n += 1;
        assert!(n < 200);
    }
    assert!(matches!(wal.check_room(), Err(WalError::Full)));
    for n in 1..10 {
        seal(&wal, n).wait().unwrap();
        kept.push(body(n, 100));
    }
    let (_, found) = look(&fs.crash(0, CrashMode::Lose)); // a start on a full disk reads everything
    let mut sorted = bodies(&found);
    sorted.sort();
    let mut expected = kept.clone();
    expected.sort();
    assert_eq!(sorted, expected);
    fs.set_capacity(100 * SEGMENT);
    until(|| wal.check_room().is_ok());
    pack(&wal, n, 100_000).wait().unwrap();
    assert!(!*wal.inner.shared.failed.borrow());
}

#[test]
fn a_log_that_starts_on_a_full_disk_waits_for_room() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    pack(&wal, 1, 100).wait().unwrap();
    wal.close();
    let fs = fs.crash(0, CrashMode::Keep);
    fs.create_dir(Path::new("/other")).unwrap();
    fs.set_bytes(Path::new("/other/ballast"), &vec![1; 2 * SEGMENT as usize]);
    // Beside the ballast there is room for the segment that the log has, and not for another. Whether the life before had
    // prepared one more is a matter of time: a start throws that away.
    fs.set_capacity(3 * SEGMENT + SEGMENT / 2);
    let (wal, _, found) = open(&fs);
    assert_eq!(found.len(), 1);
    assert!(matches!(pack(&wal, 2, 100).wait(), Err(WalError::Full)));
    let waiting = seal(&wal, 1);
    fs.remove(Path::new("/other/ballast")).unwrap();
    waiting.wait().unwrap();
    until(|| wal.check_room().is_ok());
    pack(&wal, 3, 100).wait().unwrap();
}

#[test]
fn packs_leave_the_reserve_alone() {
    let fs = SimFs::new();
    fs.set_capacity(64 << 20);
    let (wal, ..) = open_with(
        &fs,
        WalSettings {
            reserve: None,
            ..Default::default()
        },
    )
    .unwrap();
    assert!(wal.segments()[0].bytes <= 4 << 20, "a sixteenth of the volume");
    pack(&wal, 1, 1000).wait().unwrap();
    fs.create_dir(Path::new("/other")).unwrap();
    fs.set_bytes(Path::new("/other/ballast"), &vec![1; 45 << 20]);
    assert!(matches!(pack(&wal, 2, 1000).wait(), Err(WalError::Full)), "less than a quarter is left");
    seal(&wal, 1).wait().unwrap();
    fs.remove(Path::new("/other/ballast")).unwrap();
    pack(&wal, 3, 1000).wait().unwrap();
}

// ---- The model -----------------------------------------------------------------------------------------------------------

/// Random appends, failed syncs, trims and crashes of every kind. Every acknowledged record that was not trimmed is there,
/// where it was, in the order of its lane; anything else is whole or absent; nothing is foreign.
fn live(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut fs = SimFs::new();
    let mut sure: BTreeMap<Position, Bytes> = BTreeMap::new();
    let mut appended: BTreeMap<u64, Bytes> = BTreeMap::new();
    let (mut next, mut next_seal) = (1, 1);
    let mut torn = false;
    for _ in 0..4 {
        let (wal, report, found) = open(&fs);
        // A power cut that keeps the trailer of a group and loses its middle cannot be told from damage.
        assert!(torn || report.damage.is_empty() && !report.seal_may_be_lost, "seed {seed}: {report:?}");
        let there: BTreeMap<Position, Bytes> = found.iter().map(|(at, _, body)| (*at, body.clone())).collect();
        for (at, body) in &sure {
            assert_eq!(there.get(at), Some(body), "seed {seed}: an acknowledged record is gone from {at:?}: {report:?}");
        }
        for body in there.values() {
            let n = u64::from_le_bytes(body[..8].try_into().unwrap());
            assert_eq!(appended.get(&n), Some(body), "seed {seed}: a foreign record");
        }
        sure = there;
        for _ in 0..dice.below(6) {
            if dice.chance(15) {
                fs.fail_syncs(dice.below(4) as usize, 1 + dice.below(2) as usize);
            }
            let round: Vec<_> = (0..1 + dice.below(12))
                .map(|_| {
                    next += 1;
                    let body = body(next, if dice.chance(5) { 400_000 } else { 10 + dice.below(9000) as usize });
                    appended.insert(next, body.clone());
                    let append = if dice.chance(30) {
                        next_seal += 1;
                        wal.append(RecordKind::Seal, 0, Some(next_seal), body.clone())
                    } else {
                        wal.append(RecordKind::Pack, dice.below(3), None, body.clone())
                    };
                    (body, append)
                })
                .collect();
            if dice.chance(70) {
                for (body, append) in round {
                    if let Ok(at) = append.wait() {
                        assert_eq!(wal.read(at).unwrap().1, body);
                        sure.insert(at, body);
                    }
                }
            }
            if dice.chance(10) {
                let below = wal.segments().last().unwrap().ordinal.saturating_sub(dice.below(3));
                wal.trim(below).unwrap();
                let oldest = wal.segments().first().unwrap().ordinal;
                sure.retain(|at, _| at.segment >= oldest);
            }
        }
        let mode = [CrashMode::Lose, CrashMode::Keep, CrashMode::Tear][dice.below(3) as usize];
        torn |= mode == CrashMode::Tear;
        let crashed = fs.crash(dice.roll(), mode);
        fs = crashed;
    }
}

#[test]
fn every_acknowledged_record_survives_whatever_happens() {
    crate::testing::seeds(150).for_each(live);
}

#[test]
fn records_of_a_lane_and_seals_stand_in_the_order_of_their_appends() {
    let fs = SimFs::new();
    let (wal, ..) = open(&fs);
    let appends: Vec<_> = (0..400)
        .map(|n| (n % 3, wal.append(RecordKind::Pack, n % 3, None, body(n, 2000)), seal(&wal, n + 1)))
        .collect();
    let mut last = [None; 4];
    for (lane, pack, seal) in appends {
        for (lane, append) in [(lane, pack), (3, seal)] {
            let at = append.wait().unwrap();
            assert!(last[lane as usize] < Some(at));
            last[lane as usize] = Some(at);
        }
    }
}

#[test]
fn a_start_that_is_cut_off_anywhere_loses_nothing() {
    let (fs, written) = one_segment(&[1, 0, 2, 0]);
    fs.flip(&path(1), groups(&fs.bytes(&path(1)))[1].offset, 1);
    for operations in 0..25 {
        for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Tear] {
            let fs = fs.crash(0, CrashMode::Keep);
            fs.power_off_after(operations);
            let opened = open_with(&fs, settings()).is_ok();
            assert!(opened || operations < 20);
            let (report, found) = look(&fs.crash(operations as u64, mode));
            assert_eq!((bodies(&found), report.damage.len()), (written.clone(), 1), "{operations} {mode:?}");
        }
    }
}

/// A file that the disk cannot read in one place.
struct Scratched(Arc<dyn File>, Range<u64>);
impl File for Scratched {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        if offset < self.1.end && self.1.start < offset + into.len() as u64 {
            return Err(io::Error::other("the disk is scratched"));
        }
        self.0.read_at(into, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

struct ScratchedFs(SimFs, Range<u64>);

impl Fs for ScratchedFs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Scratched(self.0.open(path)?, self.1.clone())))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.create(path)
    }
    fn map(&self, path: &Path) -> io::Result<Bytes> {
        self.0.map(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.0.space(dir)
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_only_its_records() {
    let (fs, written) = one_segment(&[1, 0, 2, 0, 3]);
    let (bytes, all) = (fs.bytes(&path(1)), groups(&fs.bytes(&path(1))));
    for hit in [all[2], all[5]].map(|group| group.offset) {
        let (fs, mut found) = (fs.crash(0, CrashMode::Keep), 0);
        let scratched = ScratchedFs(fs.clone(), hit..hit + 10);
        let (_, report) = Wal::open(Arc::new(scratched), DIR.into(), settings(), &mut |_, _, _| found += 1).unwrap();
        assert_eq!(found, written.len() - 1);
        assert!(
            report
                .damage
                .iter()
                .any(|damage| damage.kind == DamageKind::Unreadable && damage.range.contains(&hit))
        );
        assert_eq!(fs.bytes(&path(1)), bytes, "nothing is written over what cannot be read");
    }
}

#[test]
fn the_layout_is_what_the_module_says() {
    let (fs, _) = one_segment(&[7]);
    let bytes = fs.bytes(&path(1));
    let header = SegmentHeader::decode(&bytes).unwrap();
    assert_eq!(
        (header.id.ordinal, header.length, header.follows, bytes.len() as u64),
        (1, SEGMENT, None, SEGMENT)
    );
    let all = groups(&bytes);
    assert_eq!((all[0].offset, all[0].number, all[0].records), (4096, 0, 0));
    assert_eq!((all[1].offset, all[1].number, all[1].seals_before, all[1].last_seal), (8192, 1, 0, 7));
    assert_eq!(bytes[8192 + GROUP_HEADER..][..5], [100, 0, 0, 0, 2]);
    assert_eq!(bytes[12288 - 40..][..4], *b"SLGT");
}
