//! What many tenants with keys cost at the start, and what a key and a password cost.
//!
//! `cargo bench --bench catalog` writes the objects of 10,000 tenants with 10 keys each, opens a catalog on them, then starts the
//! real binary on them, and on an empty folder to compare with; anonymous resident memory is read from `/proc` (Linux). An
//! unoptimised build only smokes.

use sluice::{
    auth::{
        Role,
        password::{Hasher, Password, Recipe},
    },
    catalog::{ApiKey, Catalog, NewKey},
    fs::real::RealFs,
    model::tenant::TenantId,
    objects::folder::FolderObjects,
};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SMOKE: bool = cfg!(debug_assertions);
const TENANTS: usize = if SMOKE { 20 } else { 10_000 };
const KEYS: usize = 10;
const TIME: &str = "2026-01-01T00:00:00.000Z";
/// The hash of no key.
const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let (full, empty) = (folder.path().join("full"), folder.path().join("empty"));
    let objects = full.join("objects");
    write(&objects.join("catalog"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("> {TENANTS} tenants with {KEYS} keys each:");
    let catalog = open(&runtime, &objects);
    for (what, data) in [("an empty folder", &empty), ("these", &full)] {
        let (time, memory) = start(data);
        println!("> sluice serve on {what}: listening after {time:.0?}, {} anonymous", mib(memory));
    }
    key(&runtime, &catalog);
    password(&runtime);
}

fn write(catalog: &Path) {
    let (tenants, keys) = (catalog.join("tenants"), catalog.join("keys"));
    fs::create_dir_all(&tenants).expect("made");
    fs::create_dir_all(&keys).expect("made");
    for t in 0..TENANTS {
        let tenant = format!(
            r#"{{"format":1,"revision":1,"tenant":{{"tenant_id":"tenant-{t:05}","name":"Customer {t:05} Inc.","settings":{{}},"created_at":"{TIME}","updated_at":"{TIME}"}}}}"#
        );
        fs::write(tenants.join(format!("tenant-{t:05}.json")), tenant).expect("written");
        let items: Vec<_> = (0..KEYS)
            .map(|k| {
                format!(
                    r#"{{"key_id":"{:016}","name":"service number {k}","role":"writer","sha256":"{HASH}","created_at":"{TIME}","expires_at":null}}"#,
                    t * KEYS + k
                )
            })
            .collect();
        let list = format!(r#"{{"format":1,"revision":{KEYS},"items":[{}]}}"#, items.join(","));
        fs::write(keys.join(format!("tenant-{t:05}.json")), list).expect("written");
    }
}

fn open(runtime: &Runtime, objects: &Path) -> Catalog {
    let engine = FolderObjects::open(Arc::new(RealFs), objects.to_owned()).expect("opened");
    let before = anonymous("self");
    let since = Instant::now();
    let catalog = runtime.block_on(Catalog::open(Arc::new(engine))).expect("opened");
    let time = since.elapsed();
    let memory = anonymous("self").saturating_sub(before);
    assert!(catalog.damaged() == 0 && catalog.list().len() == TENANTS && catalog.key(&format!("{:016}", TENANTS * KEYS - 1)).is_some());
    println!("> Catalog::open: {time:.0?}, {}", mib(memory));
    catalog
}

/// Starts the server; when it listened, and what it held then.
fn start(data: &Path) -> (Duration, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .arg("serve")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let since = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("readable");
    let time = since.elapsed();
    let memory = anonymous(&child.id().to_string());
    child.kill().expect("mine");
    child.wait().expect("mine");
    assert!(line.starts_with("listening"), "{line}");
    (time, memory)
}

fn key(runtime: &Runtime, catalog: &Catalog) {
    let new = NewKey {
        name: "bench".to_owned(),
        role: Role::Writer,
        expires_at: None,
    };
    let tenant = TenantId::parse("tenant-00000").expect("a tenant");
    let (_, text) = runtime.block_on(catalog.create_key(&tenant, new)).expect("made");
    let rounds = if SMOKE { 10 } else { 1_000_000 };
    let since = Instant::now();
    for _ in 0..rounds {
        let presented = std::hint::black_box(text.reveal());
        let id = ApiKey::id_in(presented).expect("the form");
        assert!(catalog.key(id).is_some_and(|key| key.verify(presented)));
    }
    println!("> a key found and verified: {:.0?}", since.elapsed() / rounds);
}

fn password(runtime: &Runtime) {
    let (hasher, password) = (Hasher::default(), Password::new("correct horse battery".to_owned()));
    let rounds = if SMOKE { 1 } else { 20 };
    let since = Instant::now();
    for _ in 0..rounds {
        runtime.block_on(hasher.hash(&password, Recipe::of_nobody())).expect("hashed");
    }
    println!("> a password hashed: {:.1?}", since.elapsed() / rounds);
}

/// Anonymous resident memory of a process, bytes; 0 where there is no `/proc`.
fn anonymous(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
