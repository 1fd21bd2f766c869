//! What a script relies on: exit codes, one clear line on standard error, the lock on the folder.

use crate::harness::Site;
use std::process::Output;

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
