//! What a script relies on: exit codes, one clear line on standard error, the lock on the folder.

use crate::harness::{Server, Site, answer, data};
use std::{path::PathBuf, process::Output};

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !text.contains("panicked") && !text.contains("RUST_BACKTRACE") && !text.contains("stack backtrace"),
        "{text}"
    );
    text
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let site = Site::small();
    let _server = site.start();
    let (code, text) = site.try_start().err().expect("refused");
    assert_eq!(code, Some(73), "{text}");
    assert!(text.contains("lock") || text.contains("in use"), "{text}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let site = Site::small();
    let output = site.command(&["serve"]).env("SLUICE__HTTP__LISTEN", &address).output().expect("it runs");
    assert_eq!(output.status.code(), Some(73));
    assert!(said(&output).contains(&address));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let mut site = Site::small();
    let file = site.folder.path().join("a-file");
    std::fs::write(&file, "no folder").expect("written");
    let inside = file.join("data");
    site.set("DATA_DIR", inside.to_str().expect("text"));
    let (code, text) = site.try_start().err().expect("refused");
    assert_eq!(code, Some(73), "{text}");
    assert!(text.contains("a-file"), "{text}");
}

#[test]
fn every_mistake_of_the_configuration_is_told_at_once() {
    let site = Site::small();
    let output = site
        .command(&["serve"])
        .env("SLUICE__WAL__SEGMENT_BYTES", "many")
        .env("SLUICE__STORE__MEMTABLE_BYTES", "-1")
        .env("SLUICE__COLOUR", "red")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(64));
    let text = said(&output);
    for key in ["wal.segment_bytes", "store.memtable_bytes", "SLUICE__COLOUR"] {
        assert!(text.to_lowercase().contains(&key.to_lowercase()), "`{key}` is not named in: {text}");
    }
    let output = site.command(&["serve", "--colour"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
}

/// Parts' data files with their sizes, the largest first.
fn parts(site: &Site) -> Vec<(u64, PathBuf)> {
    let files = std::fs::read_dir(site.data().join("parts")).expect("a folder").map(|f| f.expect("readable"));
    let data = files.filter(|f| f.path().extension().is_some_and(|e| e == "parquet"));
    let mut sized: Vec<_> = data.map(|f| (f.metadata().expect("readable").len(), f.path())).collect();
    sized.sort();
    sized.reverse();
    sized
}

/// Stores 24,000 entries in so many flushes that parts are merged; where flushes are small.
async fn merged(server: &Server) -> String {
    let token = server.tenant("acme").await;
    // So many flushes that parts are merged while the server runs.
    for _ in 0..24 {
        assert_eq!(
            server.post(&token, "/logs/bulk?wait=stored", data::bulk(1_000, &"v".repeat(600)).0).await.0,
            201
        );
    }
    let merged = || async {
        let metrics = server.client.get(format!("http://{}/metrics", server.admin)).send().await;
        let text = metrics.expect("it answers").text().await.expect("text");
        text.lines().any(|l| l.starts_with("sluice_store_compactions_total ") && !l.ends_with(" 0"))
    };
    server.until(merged, "a merge").await;
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_parts_are_read_by_duckdb_and_pyarrow() {
    if std::env::var_os("CI").is_none() {
        eprintln!("LEFT OUT: parts were not opened with DuckDB and pyarrow, which come from PyPI; set CI to do it");
        return;
    }
    let mut site = Site::small();
    site.set("STORE__MEMTABLE_BYTES", "1MiB");
    let server = site.start();
    merged(&server).await;
    assert_eq!(server.stop(), Some(0));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/loadtest/duckdb.sh");
    let output = std::process::Command::new(script).arg(site.data()).arg("24000").output().expect("it runs");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_can_be_verified_by_anybody_while_no_server_uses_it() {
    let mut site = Site::small();
    site.set("STORE__MEMTABLE_BYTES", "1MiB");
    let verify = || {
        let output = site.command(&["verify-store"]).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), said(&output))
    };
    let (code, _, why) = verify();
    assert!(code == Some(1) && why.contains("holds no store"), "{code:?} {why}");
    let server = site.start();
    let token = merged(&server).await;
    let (code, _, why) = verify();
    assert!(code == Some(73) && (why.contains("lock") || why.contains("in use")), "{code:?} {why}");
    let erase = server
        .client
        .delete(server.url("/logs/cleanup?before=2100-01-01&confirm=acme"))
        .bearer_auth(&token);
    let (status, erased) = answer(erase).await;
    assert!(status == 200 && erased["deleted_count"] == 24_000, "{status} {erased}");
    for _ in 0..4 {
        assert_eq!(
            server.post(&token, "/logs/bulk?wait=stored", data::bulk(1_000, &"w".repeat(600)).0).await.0,
            201
        );
    }
    assert_eq!(server.stop(), Some(0));
    let (code, report, why) = verify();
    assert!(code == Some(0) && report.ends_with("everything is there\n"), "{code:?} {report}{why}");
    let (len, victim) = parts(&site).into_iter().next().expect("a part");
    let good = std::fs::read(&victim).expect("readable");
    for at in [100, len as usize / 2, len as usize - 20] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&victim, &bad).expect("writable");
        let (code, report, _) = verify();
        let name = victim.file_name().and_then(|n| n.to_str()).expect("text");
        let named = report.lines().any(|l| l.trim_start().starts_with(&format!("parts/{name}: ")));
        assert!(
            code == Some(1) && named && !report.contains("everything is there"),
            "byte {at}: {code:?} {report}"
        );
    }
    std::fs::write(&victim, &good).expect("writable");
    assert_eq!(verify().0, Some(0), "it changes nothing");
}

#[test]
fn the_demo_checks_itself() {
    let site = Site::small();
    let output = site
        .command(&["demo", "--seconds", "4", "--rate", "200", "--tenants", "3"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", said(&output));
    assert!(text.lines().any(|l| l.starts_with("page: http://127.0.0.1:")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("token: ey")), "{text}");
    let summary = text.lines().last().expect("lines");
    assert!(summary.starts_with("summary: accepted=") && summary.ends_with("pending=0 ok"), "{summary}");
    assert!(!summary.contains("accepted=0 "), "{summary}");
}
