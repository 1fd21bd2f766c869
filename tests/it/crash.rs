//! `kill -9` at any moment under load: every acknowledged id is there once, numbers are dense, nothing foreign appears,
//! counters are exact.
//!
//! A round is [`ROUND`] kills on one folder with a seed of its own. `SLUICE_KILLS=1000` asks for more kills than those of one round,
//! `SLUICE_SEED` tells a round again, `SLUICE_PROGRESS` names a file by which a run that was broken off goes on (`make crash`).

use crate::harness::{Server, Site, assert_adds_up, assert_dense, data};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// Kills of one round.
const ROUND: u32 = 50;
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// What one tenant's client sent, and what it was told.
#[derive(Default)]
struct Sent {
    tried: HashSet<Uuid>,
    acked: HashSet<Uuid>,
}

type Ledger = Arc<Mutex<HashMap<&'static str, Sent>>>;

/// Sends bulks, and now and then one of the last bulks again, until told to stop or the server is gone.
async fn writer(url: String, token: String, tenant: &'static str, ledger: Ledger, stop: Arc<AtomicBool>, seed: u64) {
    let (mut rng, client) = (StdRng::seed_from_u64(seed), sluice::cli::client::plain().expect("a client"));
    let mut last: Option<(String, Vec<Uuid>)> = None;
    while !stop.load(Ordering::Relaxed) {
        let (body, ids) = match last.take() {
            Some(again) if rng.random_range(0..4) == 0 => again,
            _ => data::bulk(rng.random_range(1..40), &"x".repeat(rng.random_range(0..600))),
        };
        ledger.lock().unwrap().get_mut(tenant).unwrap().tried.extend(&ids);
        let sent = client
            .post(&url)
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == 201 => ledger.lock().unwrap().get_mut(tenant).unwrap().acked.extend(&ids),
            Ok(answer) => assert!(matches!(answer.status().as_u16(), 429 | 503 | 504), "unexpected {}", answer.status()),
            Err(_) => return,
        }
        last = Some((body, ids));
    }
}

async fn check(server: &Server, ledger: &Ledger) {
    server.ready().await;
    for tenant in TENANTS {
        let token = server.token(Some(tenant), &["admin"]);
        let usage = server.settled_usage(&token, tenant).await;
        assert_adds_up(&usage);
        let entries = server.everything(&token).await;
        assert_dense(&entries);
        assert_eq!(usage["stored"].as_u64().unwrap(), entries.len() as u64, "{tenant}");
        let ids: Vec<Uuid> = entries.iter().map(|e| e["id"].as_str().unwrap().parse().unwrap()).collect();
        let distinct: HashSet<Uuid> = ids.iter().copied().collect();
        assert_eq!(ids.len(), distinct.len(), "{tenant}: an id twice");
        let ledger = ledger.lock().unwrap();
        let sent = &ledger[tenant];
        assert!(
            sent.acked.is_subset(&distinct),
            "{tenant}: {} acknowledged entries are lost",
            sent.acked.difference(&distinct).count()
        );
        assert!(
            distinct.is_subset(&sent.tried),
            "{tenant}: {} entries that nobody sent",
            distinct.difference(&sent.tried).count()
        );
    }
}

/// What a round of kills was good for.
#[derive(Default)]
struct Told {
    acked: usize,
    doubtful: usize,
    /// Rounds in which the first segment was trimmed.
    trimmed: usize,
}

/// A new folder, and so many kills of the server on it, each followed by a start; now and then the start is killed too.
async fn round(seed: u64, kills: u32) -> Told {
    let mut rng = StdRng::seed_from_u64(seed);
    let site = Site::small();
    let ledger: Ledger = Arc::new(Mutex::new(TENANTS.into_iter().map(|t| (t, Sent::default())).collect()));
    for kill in 0..kills {
        if kill > 0 && rng.random_range(0..8) == 0 {
            site.start_and_kill(Duration::from_millis(rng.random_range(1..60))).await;
            continue;
        }
        let mut server = site.start();
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for tenant in TENANTS {
            let token = server.tenant(tenant).await;
            for _ in 0..2 {
                writers.push(tokio::spawn(writer(
                    server.url("/logs/bulk"),
                    token.clone(),
                    tenant,
                    ledger.clone(),
                    stop.clone(),
                    rng.random(),
                )));
            }
        }
        // The moment of the kill is what is random here; nothing waits for it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..250))).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("a writer does not panic");
        }
        if kill % 10 == 9 {
            check(&site.start(), &ledger).await;
        }
    }
    check(&site.start(), &ledger).await;
    let first = site.data().join("wal/00000000000000000001.seg");
    let ledger = ledger.lock().unwrap();
    Told {
        acked: ledger.values().map(|s| s.acked.len()).sum(),
        doubtful: ledger.values().map(|s| s.tried.len() - s.acked.len()).sum(),
        trimmed: usize::from(!first.exists()),
    }
}

/// Rounds that are done, one per line: seed, kills. `SLUICE_PROGRESS` names the file; a run that finds one goes on where it ended.
struct Progress(Option<PathBuf>);

impl Progress {
    fn read(&self) -> Vec<(u64, u32)> {
        let text = self.0.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).expect("a number");
        text.lines()
            .map(|line| {
                let mut words = line.split(' ');
                (number(words.next()), number(words.next()) as u32)
            })
            .collect()
    }

    fn add(&self, seed: u64, kills: u32) {
        let Some(path) = &self.0 else { return };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("the file of the progress can be opened"), "{seed} {kills}").expect("there is room");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_through_random_kills() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let kills = number("SLUICE_KILLS").unwrap_or(ROUND.into()) as u32;
    let progress = Progress(std::env::var_os("SLUICE_PROGRESS").map(PathBuf::from));
    let done = progress.read();
    let first = done.first().map(|(seed, _)| *seed).or_else(|| number("SLUICE_SEED"));
    let first = first.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut killed: u32 = done.iter().map(|(_, kills)| *kills).sum();
    println!("SLUICE_SEED={first} SLUICE_KILLS={kills}, {killed} done");
    let mut told = Told::default();
    for seed in first + done.len() as u64.. {
        let now = ROUND.min(kills.saturating_sub(killed));
        if now == 0 {
            break;
        }
        println!("{killed} kills done; SLUICE_SEED={seed} SLUICE_KILLS={now} tells the next round again");
        let round = round(seed, now).await;
        told = Told {
            acked: told.acked + round.acked,
            doubtful: told.doubtful + round.doubtful,
            trimmed: told.trimmed + round.trimmed,
        };
        killed += now;
        progress.add(seed, now);
    }
    println!(
        "{killed} kills; of this run {} entries acknowledged and {} in doubt, each acknowledged one there once",
        told.acked, told.doubtful
    );
    if done.is_empty() && kills >= ROUND {
        assert!(told.acked > 1000, "only {} entries were acknowledged: the test did not test", told.acked);
        assert!(told.trimmed > 0, "no first segment was trimmed: flush and trim were not tested");
        assert!(told.doubtful > 0, "no request was under way at any kill: the test did not test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_leaves_nothing_undone() {
    let site = Site::small();
    let server = site.start();
    let token = server.tenant("acme").await;
    let (body, ids) = data::bulk(50, "before the stop");
    assert_eq!(server.post(&token, "/logs/bulk", body).await.0, 201);
    assert_eq!(server.stop(), Some(0));
    let server = site.start();
    server.ready().await;
    let token = server.token(Some("acme"), &["admin"]);
    let entries = server.everything(&token).await;
    assert_eq!(entries.len(), ids.len());
    assert_adds_up(&server.settled_usage(&token, "acme").await);
}
