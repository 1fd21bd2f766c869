//! Damage of what is on the disk: it starts, keeps everything it still can, reuses no number, and says what is missing.

use crate::harness::{Server, Site, assert_adds_up, data};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

fn newest(site: &Site, folder: &str, ending: &str) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(site.data().join(folder))
        .expect("a folder")
        .map(|f| f.expect("readable").path())
        .filter(|p| p.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files.pop().unwrap_or_else(|| panic!("no {ending} in {folder}"))
}

fn ordinal(segment: &std::path::Path) -> u64 {
    segment
        .file_stem()
        .and_then(|name| name.to_str()?.parse().ok())
        .expect("segments are named by their ordinals")
}

/// Numbers given out before the damage must never name another entry after it.
fn assert_no_number_is_reused(before: &[Value], after: &[Value]) {
    let known: HashMap<u64, &Value> = before.iter().map(|e| (e["sequence"].as_u64().expect("a number"), &e["id"])).collect();
    let mut seen = HashSet::new();
    for entry in after {
        let n = entry["sequence"].as_u64().expect("a number");
        assert!(seen.insert(n), "number {n} twice");
        if let Some(id) = known.get(&n) {
            assert_eq!(&&entry["id"], id, "number {n} was given to another entry");
        }
    }
}

async fn filled(site: &Site, bulks: usize) -> (Server, String, Vec<Value>) {
    let server = site.start();
    let token = server.tenant("acme").await;
    for _ in 0..bulks {
        assert_eq!(server.post(&token, "/logs/bulk?wait=stored", data::bulk(20, &"d".repeat(300)).0).await.0, 201);
    }
    let before = server.everything(&token).await;
    assert_eq!(before.len(), bulks * 20);
    (server, token, before)
}

async fn after_damage(site: &Site, before: &[Value]) -> (Server, Vec<Value>) {
    let server = site.start();
    server.ready().await;
    let token = server.token(Some("acme"), &["admin"]);
    let usage = server.settled_usage(&token, "acme").await;
    assert_adds_up(&usage);
    assert_eq!(server.post(&token, "/logs/bulk?wait=stored", data::bulk(3, "new").0).await.0, 201);
    let after = server.everything(&token).await;
    assert_no_number_is_reused(before, &after);
    (server, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_anywhere_in_the_last_segment_costs_no_more_than_its_group() {
    let mut rng = StdRng::seed_from_u64(11);
    for round in 0..6 {
        let site = Site::plain();
        let (mut server, _, before) = filled(&site, 12).await;
        server.kill();
        let segment = site.data().join(format!("wal/{:020}.seg", newest_used(&site)));
        let mut bytes = std::fs::read(&segment).expect("readable");
        let used = bytes.iter().rposition(|b| *b != 0).expect("not empty");
        let at = rng.random_range(0..used);
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(&segment, &bytes).expect("writable");
        let (server, after) = after_damage(&site, &before).await;
        let kept = after.len() - 3;
        assert!(
            kept >= before.len() - 40,
            "round {round}: a flip at {at} of {used} cost {} entries",
            before.len() - kept
        );
        if kept < before.len() {
            // `damage` is a key of every report: what counts is that it names the segment and a range with the flipped byte.
            let (health, name) = (server.get_health().await, ordinal(&segment).to_string());
            let named = health["damage"].as_array().expect("a list").iter().any(|d| {
                let (from, to) = (d["bytes"][0].as_u64().unwrap_or(u64::MAX), d["bytes"][1].as_u64().unwrap_or(0));
                d["what"] == "segment" && d["name"] == name.as_str() && (from..=to).contains(&(at as u64))
            });
            assert!(named, "round {round}: a flip at {at} of segment {name} is not named: {health}");
            assert!(server.stderr().contains("damage in the log"), "{}", server.stderr());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_last_segment_keeps_what_is_before_the_cut() {
    for share in [0.3, 0.9] {
        let site = Site::plain();
        let (mut server, _, before) = filled(&site, 12).await;
        server.kill();
        let segment = site.data().join(format!("wal/{:020}.seg", newest_used(&site)));
        let bytes = std::fs::read(&segment).expect("readable");
        let used = bytes.iter().rposition(|b| *b != 0).expect("not empty");
        std::fs::write(&segment, &bytes[..(used as f64 * share) as usize]).expect("writable");
        let (_server, after) = after_damage(&site, &before).await;
        assert!(
            after.len() - 3 >= (before.len() as f64 * share * 0.5) as usize,
            "{} of {} kept at {share}",
            after.len() - 3,
            before.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_newest_part_or_manifest_is_rebuilt_from_the_log() {
    for (folder, ending, flip) in [
        ("parts", ".parquet", true),
        ("parts", ".parquet", false),
        ("manifest", "", true),
        ("manifest", "", false),
    ] {
        let site = Site::small();
        let (server, token, _) = filled(&site, 30).await;
        for _ in 0..20 {
            assert_eq!(server.post(&token, "/logs/bulk?wait=stored", data::bulk(200, &"p".repeat(700)).0).await.0, 201);
        }
        let before = server.everything(&token).await;
        assert_eq!(server.stop(), Some(0));
        let victim = newest(&site, folder, ending);
        if flip {
            let mut bytes = std::fs::read(&victim).expect("readable");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            bytes.truncate(bytes.len() - 1);
            std::fs::write(&victim, bytes).expect("writable");
        } else {
            std::fs::remove_file(&victim).expect("removable");
        }
        let (_server, after) = after_damage(&site, &before).await;
        assert_eq!(after.len() - 3, before.len(), "{folder}: flip={flip}: the log had it all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_end_of_the_log_is_named_and_no_number_comes_again() {
    for (files, orderly) in [(1, false), (2, false), (3, false), (2, true)] {
        let mut site = Site::plain();
        site.set("WAL__SEGMENT_BYTES", "1MiB");
        let (mut server, _, before) = filled(&site, 120).await;
        if orderly {
            assert_eq!(server.stop(), Some(0));
        } else {
            server.kill();
            drop(server);
        }
        let newest_used = newest_used(&site).to_string();
        // The newest file may be one that was prepared and holds nothing.
        let mut lost_records = false;
        for _ in 0..files {
            let victim = newest(&site, "wal", ".seg");
            lost_records |= std::fs::read(&victim).expect("readable")[4096..].iter().any(|b| *b != 0);
            std::fs::remove_file(victim).expect("removable");
        }
        let (server, after) = after_damage(&site, &before).await;
        let (health, log) = (server.get_health().await, server.stderr());
        let missing = health["damage"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|d| d["what"] == "segment" && d["name"] == newest_used.as_str() && d["message"].as_str().is_some_and(|m| m.contains("missing")));
        assert_eq!(missing, lost_records, "{files} files, orderly {orderly}: {health}");
        assert_eq!(log.contains("the segment is missing"), lost_records, "{log}");
        let new = after
            .iter()
            .filter(|e| e["message"] == "new")
            .map(|e| e["sequence"].as_u64().expect("a number"));
        let floor = before.last().expect("entries")["sequence"].as_u64().expect("a number");
        assert!(new.min().expect("three") > floor, "a number comes again");
        if orderly {
            assert_eq!(after.len(), before.len() + 3, "the parts had it all");
        }
    }
}

/// Ordinal of the newest segment that holds something.
fn newest_used(site: &Site) -> u64 {
    let files = std::fs::read_dir(site.data().join("wal"))
        .expect("a folder")
        .map(|f| f.expect("readable").path());
    let used = files.filter(|p| p.extension().is_some_and(|e| e == "seg") && std::fs::read(p).expect("readable")[4096..].iter().any(|b| *b != 0));
    let ordinals = used.filter_map(|p| p.file_stem()?.to_str()?.parse().ok());
    ordinals.max().expect("a segment")
}
