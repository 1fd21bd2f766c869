//! Faults of the real engine behind a scripted proxy: answers that are lost after the insert took effect, connections cut in the
//! middle of a block, refusals by number.

use super::*;
use crate::{
    seal::erasure::ErasureKind::Cleanup,
    sinks::{
        contract::{BASE, Sequencer, check, tenant},
        retry::Remedy,
    },
};
use std::sync::atomic::AtomicUsize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// What the proxy does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Takes it, lets the engine do it, and cuts the connection instead of answering.
    Lost,
    /// The same, but the client waits for its answer until it gives up.
    Hang,
    /// Takes it, lets the engine do it, and answers with this exception.
    Done(u32),
    /// Takes it, cuts the connection, and gives it to the engine when the test releases it.
    Late,
    /// Cuts the connection in the middle of the request's body.
    Cut,
    /// Answers with this exception; the engine hears nothing.
    Code(u32),
    /// 503 without a word of ClickHouse's, as a proxy between says it.
    Refuse,
    /// Takes it, and never answers; the engine hears nothing.
    Silent,
}

#[derive(Default)]
struct Script {
    /// Which inserts (by a part of their statement) fail, how often and how.
    faults: Mutex<Vec<(&'static str, usize, Fault)>>,
    inserts: AtomicUsize,
    /// Is added to the settings of every request.
    settings: Mutex<&'static str>,
    /// First lines of inserts.
    lines: Mutex<Vec<String>>,
    /// Lets one late request go on; and one has arrived.
    release: Notify,
    arrived: Notify,
}

impl Script {
    fn fail(&self, what: &'static str, times: usize, fault: Fault) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push((what, times, fault));
    }

    fn next(&self, request: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let at = faults.iter().position(|(what, times, _)| *times > 0 && request.contains(what))?;
        faults[at].1 -= 1;
        Some(faults[at].2)
    }
}

/// A proxy before the engine; one request per connection.
async fn proxy(engine: String, script: Arc<Script>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, engine.clone(), script.clone()));
        }
    });
    url
}

/// The end of the head, and whether the body is whole.
fn whole(request: &[u8]) -> Option<(usize, bool)> {
    let head = request.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let done = match length {
        Some(length) => request.len() >= head + length,
        None if text.contains("transfer-encoding: chunked") => request[head..].ends_with(b"0\r\n\r\n"),
        None => true,
    };
    Some((head, done))
}

async fn serve(mut client: TcpStream, engine: String, script: Arc<Script>) {
    let (mut request, mut buffer) = (Vec::new(), vec![0; 65_536]);
    let head = loop {
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
        if let Some((head, true)) = whole(&request) {
            break head;
        }
    };
    let first = String::from_utf8_lossy(&request[..head]).into_owned();
    let is_insert = first.contains("INSERT+INTO");
    script.inserts.fetch_add(usize::from(is_insert), Ordering::SeqCst);
    if is_insert {
        let line = first.lines().next().unwrap_or_default().to_owned();
        script.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
    let fault = script.next(&first);
    let answer = |status: &str, code: Option<u32>, text: &str| {
        let header = code.map_or_else(String::new, |code| format!("X-ClickHouse-Exception-Code: {code}\r\n"));
        format!("HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    };
    let exception = |code: u32| {
        let text = format!("Code: {code}. DB::Exception: made for a test");
        answer("500 Internal Server Error", Some(code), &text)
    };
    match fault {
        Some(Fault::Code(code)) => {
            let _ = client.write_all(exception(code).as_bytes()).await;
            return;
        }
        Some(Fault::Refuse) => {
            let _ = client.write_all(answer("503 Service Unavailable", None, "busy").as_bytes()).await;
            return;
        }
        Some(Fault::Silent) => {
            let _ = client.read(&mut buffer).await; // until the client gives up
            return;
        }
        Some(Fault::Late) => {
            let _ = client.shutdown().await;
            script.release.notified().await;
        }
        Some(Fault::Cut | Fault::Lost | Fault::Hang | Fault::Done(_)) | None => {}
    }
    let Ok(mut server) = TcpStream::connect(engine.trim_start_matches("http://")).await else {
        return;
    };
    // One answer per connection, so that its end is the end of the answer.
    let mut text = String::from_utf8_lossy(&request[..head]).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let settings = *script.settings.lock().unwrap_or_else(PoisonError::into_inner);
    if !settings.is_empty() {
        text = text.replacen("/?", &format!("/?{settings}&"), 1);
    }
    let _ = server.write_all(text.as_bytes()).await;
    let body = &request[head..];
    if fault == Some(Fault::Cut) {
        let _ = server.write_all(&body[..body.len() / 2]).await;
        return;
    }
    let _ = server.write_all(body).await;
    let mut reply = Vec::new();
    let _ = server.read_to_end(&mut reply).await;
    match fault {
        Some(Fault::Lost) => {}
        Some(Fault::Late) => script.arrived.notify_one(),
        Some(Fault::Hang) => drop(client.read(&mut buffer).await), // until the client gives up
        Some(Fault::Done(code)) => drop(client.write_all(exception(code).as_bytes()).await),
        _ => drop(client.write_all(&reply).await),
    }
}

/// A bench whose follower goes through the proxy.
fn behind_a_proxy(timeout: Duration) -> Option<(Bench, Arc<Script>, ClickHouseFollower)> {
    let bench = Bench::new()?;
    let script = Arc::new(Script::default());
    let url = bench.runtime.block_on(proxy(bench.settings.url.clone(), script.clone()));
    let settings = ClickHouseSettings {
        url,
        timeout,
        ..bench.settings.clone()
    };
    let start = ClickHouseFollower::start(&settings, 0, bench.runtime.handle().clone());
    let follower = bench.runtime.block_on(start).expect("starts");
    Some((bench, script, follower))
}

/// Applies until it works, as the sequencer's follower does, and says how often it did not.
fn apply(bench: &Bench, follower: &ClickHouseFollower, seal: &Arc<DecidedSeal>) -> usize {
    for failed in 0..20 {
        if follower.apply(seal).is_ok() {
            bench.view.fold(seal);
            return failed;
        }
    }
    panic!("it never works");
}

#[test]
fn an_insert_whose_answer_is_lost_is_stored_once() {
    let Some((bench, script, follower)) = behind_a_proxy(Duration::from_secs(120)) else {
        return;
    };
    let mut sequencer = Sequencer::new(11);
    for (table, fault) in [
        ("INTO+logs", Fault::Lost),
        ("INTO+entry_ids", Fault::Lost),
        ("INTO+packs", Fault::Lost),
        ("INTO+logs", Fault::Cut),
        ("INTO+entry_ids", Fault::Cut),
        ("INTO+packs", Fault::Refuse),
        ("INTO+logs", Fault::Code(252)),
        ("INTO+logs", Fault::Code(999)),
        // The engine did it, and says that it does not know, or something that nobody knows.
        ("INTO+logs", Fault::Done(319)),
        ("INTO+entry_ids", Fault::Done(241)),
        ("INTO+packs", Fault::Done(54_321)),
    ] {
        script.fail(table, 2, fault);
        let seal = sequencer.seal(&["a", "b"], 20);
        let failed = apply(&bench, &follower, &seal);
        // Where the answer is in doubt the rows are counted and there; after the others they are sent again, and fail once more.
        let expected = if matches!(fault, Fault::Lost | Fault::Done(_)) { 1 } else { 2 };
        assert_eq!(failed, expected, "{table} {fault:?}");
        script.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
    script.fail("INTO+erasures", 1, Fault::Lost);
    assert_eq!(apply(&bench, &follower, &sequencer.erase("a", Cleanup, BASE + 2_000)), 1);
    check(&bench, &sequencer.log, "after all faults");
    let rows = |table: &str| bench.count(&format!("SELECT count() FROM {table}"));
    let stored: u64 = sequencer.log.iter().flat_map(|s| &s.seal.tenants).map(|t| t.stored).sum();
    let packs: usize = sequencer.log.iter().map(|s| s.seal.packs.len() + s.seal.erasures.len()).sum();
    assert_eq!(
        (rows("logs"), rows("entry_ids"), rows("packs"), rows("erasures")),
        (stored, stored, packs as u64, 1)
    );
}

#[test]
fn an_insert_that_took_effect_and_is_not_answered_in_time_is_stored_once() {
    let Some((bench, script, follower)) = behind_a_proxy(Duration::from_secs(15)) else {
        return;
    };
    let mut sequencer = Sequencer::new(16);
    script.fail("INTO+logs", 1, Fault::Hang);
    let pack = sequencer.pack(&tenant("a"), 12);
    assert!(apply(&bench, &follower, &sequencer.seal_of(vec![pack], |_, _| false)) > 0);
    check(&bench, &sequencer.log, "after a time-out");
    assert_eq!(bench.count("SELECT count() FROM logs"), 12);
}

#[test]
fn an_insert_that_arrives_after_it_was_sent_again_is_stored_once() {
    let Some((bench, script, follower)) = behind_a_proxy(Duration::from_secs(120)) else {
        return;
    };
    let mut sequencer = Sequencer::new(17);
    for table in ["INTO+logs", "INTO+entry_ids", "INTO+packs"] {
        script.fail(table, 1, Fault::Late);
        let pack = sequencer.pack(&tenant("a"), 12);
        let failed = apply(&bench, &follower, &sequencer.seal_of(vec![pack], |_, _| false));
        assert_eq!(failed, 1, "{table}: counted, not there, sent again");
        script.release.notify_one();
        bench.runtime.block_on(script.arrived.notified());
    }
    check(&bench, &sequencer.log, "after late inserts");
    let rows = |table: &str| bench.count(&format!("SELECT count() FROM {table}"));
    assert_eq!((rows("logs"), rows("entry_ids"), rows("packs")), (36, 36, 3));
}

#[test]
fn what_another_owner_did_while_it_stood_still_is_counted_and_obeyed() {
    let Some((bench, script, follower)) = behind_a_proxy(Duration::from_secs(120)) else {
        return;
    };
    let mut sequencer = Sequencer::new(18);
    let packs = [7, 8].map(|rows| sequencer.pack(&tenant("a"), rows));
    let key = (tenant("a"), packs[0].entry(0).id());
    let [first, second] = packs.map(|pack| sequencer.seal_of(vec![pack], |_, _| false));
    assert_eq!(apply(&bench, &follower, &first), 0);
    assert!(follower.lookup(std::slice::from_ref(&key)).expect("looks up")[0].is_some());
    let other = bench.restarted();
    for seal in [second.clone(), sequencer.erase("a", Cleanup, i64::MAX)] {
        other.apply(&seal).expect("applies");
        bench.view.fold(&seal);
    }
    follower.stand_still();
    let before = script.inserts.load(Ordering::SeqCst);
    follower.apply(&second).expect("it is there");
    assert_eq!(script.inserts.load(Ordering::SeqCst), before, "nothing is sent");
    assert_eq!(follower.lookup(&[key]).expect("looks up"), [None], "erased by another");
    check(&bench, &sequencer.log, "after waking up");
}

/// An engine that really is read-only.
#[test]
fn a_read_only_engine_takes_nothing_loses_nothing_and_answers_reads() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(19);
    bench.take(&sequencer.seal(&["a"], 10));
    for table in ["logs", "packs"] {
        bench.run(&format!("ALTER TABLE {table} MODIFY SETTING table_readonly = 1"));
        let pack = sequencer.pack(&tenant("a"), 5);
        let seal = sequencer.seal_of(vec![pack], |_, _| false);
        for attempt in 0..2 {
            let refused = bench.follower.apply(&seal).expect_err("refused");
            assert_eq!(refused.remedy(), Remedy::Hold, "{table}, attempt {attempt}: {refused}");
            assert!(refused.to_string().contains("code 774 "), "{refused}");
        }
        check(&bench, &sequencer.log[..sequencer.log.len() - 1], "meanwhile");
        bench.run(&format!("ALTER TABLE {table} MODIFY SETTING table_readonly = 0"));
        bench.take(&seal);
    }
    check(&bench, &sequencer.log, "mended");
}

#[test]
fn a_server_that_does_not_know_a_repeated_insert_is_refused() {
    let Some((bench, script, _follower)) = behind_a_proxy(Duration::from_secs(120)) else {
        return;
    };
    let url = bench.runtime.block_on(proxy(bench.settings.url.clone(), script.clone()));
    let settings = ClickHouseSettings { url, ..bench.settings.clone() };
    *script.settings.lock().unwrap_or_else(PoisonError::into_inner) = "deduplicate_insert=disable";
    let refused = bench.runtime.block_on(migrate(&settings));
    assert_eq!(refused, Err(ClickHouseError::NoDeduplication));
    *script.settings.lock().unwrap_or_else(PoisonError::into_inner) = "deduplicate_insert=enable";
    assert_eq!(bench.runtime.block_on(migrate(&settings)), Ok(LATEST));
}

#[test]
fn numbers_of_exceptions_have_the_names_that_the_table_gives_them() {
    let Some(bench) = Bench::new() else { return };
    for (code, name, ..) in crate::sinks::retry::CLICKHOUSE {
        let same = bench.count(&format!("SELECT toUInt64(errorCodeToName({code}) = '{name}')"));
        assert_eq!(same, 1, "{code} is not {name}");
    }
}

#[test]
fn one_insert_per_table_and_seal_and_what_needs_somebody_says_so() {
    let Some((bench, script, follower)) = behind_a_proxy(Duration::from_secs(120)) else {
        return;
    };
    let mut sequencer = Sequencer::new(12);
    for _ in 0..3 {
        let packs = vec![sequencer.pack(&tenant("a"), 9), sequencer.pack(&tenant("b"), 9)];
        assert_eq!(apply(&bench, &follower, &sequencer.seal_of(packs, |_, _| false)), 0);
    }
    assert_eq!(script.inserts.load(Ordering::SeqCst), 9, "logs, entry_ids, packs");
    for seal in &sequencer.log {
        follower.apply(seal).expect("is applied");
    }
    let lines = script.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (i, line) in lines.iter().enumerate() {
        let token = format!("insert_deduplication_token=0%2F{}", i / 3 + 1);
        assert!(line.split(['?', '&', ' ']).any(|pair| pair == token), "{line}");
    }
    assert_eq!(lines.len(), 9, "applied again, nothing is sent");
    for (code, expected) in [
        (516, Remedy::Hold),
        (164, Remedy::Hold),
        (242, Remedy::Hold),
        (243, Remedy::Hold),
        (252, Remedy::Slower),
        (999, Remedy::Again),
    ] {
        let seal = sequencer.seal(&["a"], 5);
        script.fail("INTO+logs", 1, Fault::Code(code));
        let refused = follower.apply(&seal).expect_err("refused");
        assert_eq!(refused.remedy(), expected, "{code}: {refused}");
        assert!(refused.to_string().contains(&format!("code {code}")), "{refused}");
        assert_eq!(apply(&bench, &follower, &seal), 0, "{code}");
    }
    check(&bench, &sequencer.log, "after refusals");
}

#[test]
fn half_a_seal_stops_everything_until_somebody_has_looked() {
    let Some(bench) = Bench::new() else { return };
    let mut sequencer = Sequencer::new(13);
    let pack = sequencer.pack(&tenant("a"), 10);
    let seal = sequencer.seal_of(vec![pack], |_, _| false);
    bench.take(&seal);
    for spoil in ["DELETE FROM packs WHERE 1", "DELETE FROM logs WHERE sequence > 5"] {
        bench.run(spoil);
    }
    let again = bench.restarted();
    for _ in 0..2 {
        let halted = again.apply(&seal).expect_err("it halts");
        assert!(
            matches!(&halted, StoreError::Damaged(what) if what.contains("5 of 10 rows of seal 1")),
            "{halted}"
        );
    }
    bench.run("DELETE FROM logs WHERE 1");
    again.apply(&seal).expect("somebody has mended it");
}

#[test]
fn reads_of_a_store_that_is_away_are_errors_and_never_a_part_of_an_answer() {
    let Some((bench, script, follower)) = behind_a_proxy(Duration::from_secs(120)) else {
        return;
    };
    let mut sequencer = Sequencer::new(14);
    assert_eq!(apply(&bench, &follower, &sequencer.seal(&["a"], 20)), 0);
    let url = bench.runtime.block_on(proxy(bench.settings.url.clone(), script.clone()));
    let open = |timeout| {
        let settings = ClickHouseSettings {
            url: url.clone(),
            timeout,
            ..bench.settings.clone()
        };
        ClickHouse::open(&settings, bench.view.clone()).expect("a client")
    };
    let store = open(Duration::from_secs(120));
    let scope = contract::scope("a");
    let list = || bench.runtime.block_on(store.list(&scope, ListQuery::default())).map(|page| page.entries.len());
    let there = list().expect("lists");
    assert!(there > 0);
    for (fault, expected) in [
        (Fault::Refuse, "unavailable"),
        (Fault::Lost, "unavailable"),
        (Fault::Code(999), "unavailable"),
        (Fault::Code(159), "deadline"),
        (Fault::Code(202), "busy"),
    ] {
        script.fail("POST", 1, fault);
        let refused = list().expect_err("refused");
        let found = match refused {
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::Deadline => "deadline",
            StoreError::Busy => "busy",
            _ => "else",
        };
        assert_eq!(found, expected, "{fault:?}");
        assert_eq!(list().expect("lists"), there);
    }
    script.fail("POST", 1, Fault::Silent);
    let hasty = open(Duration::from_millis(300));
    let late = bench.runtime.block_on(hasty.list(&scope, ListQuery::default())).map(drop);
    assert!(matches!(late, Err(StoreError::Deadline)), "{late:?}");
}

#[test]
fn wrong_credentials_and_a_missing_right_are_said_at_start() {
    let Some((bench, script, _follower)) = behind_a_proxy(Duration::from_secs(60)) else {
        return;
    };
    let url = bench.runtime.block_on(proxy(bench.settings.url.clone(), script.clone()));
    for code in [516, 193, 497, 164] {
        script.fail("POST", 1, Fault::Code(code));
        let settings = ClickHouseSettings {
            url: url.clone(),
            ..bench.settings.clone()
        };
        let refused = bench.runtime.block_on(migrate(&settings)).expect_err("refused");
        assert!(
            matches!(&refused, ClickHouseError::Refused { what, .. } if what == &format!("code {code}")),
            "{refused}"
        );
    }
}
