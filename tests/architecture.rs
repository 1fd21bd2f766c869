//! The house plan, checked: who may import what. ARCHITECTURE.md draws the same arrows.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// (what must not appear, the only places where it may)
const ONLY_IN: [(&str, &[&str]); 12] = [
    ("aws_sdk_sqs", &["src/queue/sqs/", "src/queue/remote/aws/", "src/sources/"]),
    ("aws_sdk_kinesis", &["src/queue/kinesis/", "src/queue/remote/aws/"]),
    ("actix::", &["src/actors/"]),
    ("axum::", &["src/http/"]),
    ("parquet::", &["src/sinks/embedded/part/"]),
    ("arrow_", &["src/sinks/embedded/"]),
    ("metrics::counter!", &["src/telemetry/metrics.rs"]),
    ("std::env::", &["src/config.rs", "src/config/", "src/cli/", "src/main.rs"]),
    ("memmap2::", &["src/fs/real.rs"]),
    ("clickhouse::Client", &["src/sinks/clickhouse/"]),
    ("opensearch::http", &["src/sinks/opensearch/"]),
    ("use clickhouse::", &["src/sinks/clickhouse/"]),
];

/// (folder, crate modules that it must not use)
const NEVER_USES: [(&str, &[&str]); 12] = [
    ("src/sources/", &["actors", "http", "app", "cli", "auth", "config", "lifecycle"]),
    ("src/queue/kinesis/", &["actors", "http", "sinks", "catalog", "auth", "app", "cli", "config"]),
    (
        "src/model/",
        &[
            "actors",
            "http",
            "sinks",
            "catalog",
            "auth",
            "app",
            "cli",
            "config",
            "fs",
            "objects",
            "telemetry",
        ],
    ),
    ("src/fs/", &["actors", "http", "sinks", "queue", "catalog", "auth", "app", "cli", "config"]),
    ("src/queue/wal/", &["actors", "http", "sinks", "catalog", "auth", "app", "cli", "config"]),
    ("src/sinks/", &["actors", "http", "app", "cli", "auth"]),
    ("src/actors/", &["http", "app", "cli", "catalog", "auth", "config"]),
    ("src/http/", &["app", "cli", "config"]),
    ("src/lifecycle/", &["http", "app", "cli"]),
    ("src/tail/", &["http", "app", "cli", "catalog", "auth", "config", "lifecycle", "fs"]),
    ("src/export/", &["http", "app", "cli", "actors", "lifecycle"]),
    (
        "src/search/",
        &["http", "app", "cli", "actors", "lifecycle", "sinks", "queue", "catalog", "fs", "objects"],
    ),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("readable").path();
        let is_test = ["tests", "tests.rs", "testing.rs", "simulation.rs"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !is_test {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test {
            found.push(path);
        }
    }
}

/// The lines that are code: no comments, nothing after the unit tests begin.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("readable");
    text.lines()
        .take_while(|l| !l.trim_start().starts_with("#[cfg(test)]"))
        .filter(|l| !l.trim_start().starts_with("//"))
        .map(String::from)
        .collect()
}

#[test]
fn imports_follow_the_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.len() > 50, "the source folder was not found");
    let mut faults = Vec::new();
    for file in &files {
        let name = file.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
        for line in code(file) {
            for (what, places) in ONLY_IN {
                if line.contains(what) && !places.iter().any(|p| name.starts_with(p)) {
                    faults.push(format!("{name}: `{what}` belongs in {places:?}: {line}"));
                }
            }
            for (folder, modules) in NEVER_USES {
                for module in modules {
                    if name.starts_with(folder) && line.contains(&format!("crate::{module}")) {
                        faults.push(format!("{name}: {folder} must not use `{module}`: {line}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
