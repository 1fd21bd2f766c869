//! `sluice search` and `sluice tail` as a person or a script runs them.

use crate::harness::{self, Server, Site, data};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStdout, Output, Stdio},
    sync::{Arc, Mutex},
};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn search(site: &Site, server: &Server, args: &[&str]) -> Output {
    let mut command = site.command(&["search", "--url", &url(server.http), "--tenant", "acme"]);
    command.args(args).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn search_prints_tables_and_json_and_pages_by_itself() {
    let site = Site::small();
    let server = site.start();
    let acme = server.tenant("acme").await;
    for _ in 0..2 {
        let (status, answer) = server.post(&acme, "/logs/bulk?wait=stored", data::bulk(750, "plain").0).await;
        assert_eq!(status, 201, "{answer}");
    }
    let mut odd = data::entry(Uuid::now_v7(), "red \u{1b}[31m and \u{9b}31m and \u{202e}turned");
    odd["action"] = json!("ODD");
    odd["severity"] = json!("CRITICAL");
    assert_eq!(server.post(&acme, "/logs?wait=stored", odd.to_string()).await.0, 201);

    // More than a page: all of them, once, newest first.
    let output = search(&site, &server, &["--limit", "1200", "--output", "ndjson", "--sort", "sequence:desc"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let sequences: Vec<u64> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["sequence"].as_u64().expect("a number"))
        .collect();
    assert!(
        sequences.iter().copied().eq((302..=1501).rev()),
        "{} entries from {:?}",
        sequences.len(),
        sequences.first()
    );
    assert_eq!(text(&output.stderr).trim(), "1,200 of 1,501 entries, as of sequence 1,501");

    // A table, harmless, without colours in a pipe.
    let output = search(&site, &server, &["--action", "odd", "--since", "1h"]);
    let table = text(&output.stdout);
    assert_eq!((output.status.code(), table.lines().count()), (Some(0), 2), "{table}");
    assert!(table.starts_with("TIME (UTC)") && table.contains("CRITICAL  ODD"), "{table}");
    assert!(table.contains("red ␛[31m and �31m and �turned"), "{table:?}");

    // JSON has the entry as it is.
    let output = search(&site, &server, &["--filter", "action=ODD", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found[0]["message"], odd["message"]);
    assert!(!text(&output.stdout).contains(|c: char| c.is_control() && c != '\n'));
    let output = search(&site, &server, &["--action", "none", "--json"]);
    assert_eq!(text(&output.stdout), "[]\n");

    // What goes wrong is said, with the right code.
    let output = search(&site, &server, &["--filter", "acton=x"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0));
    assert!(
        text(&output.stderr).contains("acton") && text(&output.stderr).contains("action"),
        "{}",
        text(&output.stderr)
    );
    let output = search(&site, &server, &["--token", "a.b.c"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("401"), "{}", text(&output.stderr));
    let gone = server.http;
    drop(server);
    let output = site.command(&["search", "--url", &url(gone), "--tenant", "acme"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot be reached"), "{}", text(&output.stderr));
}

/// An address that stays while servers behind it come and go.
async fn door(behind: Arc<Mutex<SocketAddr>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let to = *behind.lock().expect("whole");
            tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(to).await {
                    // However it ends, both sides are closed then.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    address
}

struct Tail {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tail {
    fn start(site: &Site, url: &str, args: &[&str]) -> Self {
        let mut command = site.command(&["tail", "--url", url, "--tenant", "acme", "--json"]);
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    fn sequences(&mut self, n: usize) -> Vec<u64> {
        let mut next = || {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("readable");
            serde_json::from_str::<Value>(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))["sequence"]
                .as_u64()
                .expect("a number")
        };
        (0..n).map(|_| next()).collect()
    }

    /// Ctrl-C; the exit code and what was said.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let code = harness::end(&mut self.child, Signal::INT).expect("it stops").code();
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (code, said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_goes_on_where_it_was_after_the_server_was_killed() {
    let site = Site::small();
    let server = site.start();
    let acme = server.tenant("acme").await;
    let write = async |server: &Server, n| {
        let (status, answer) = server.post(&acme, "/logs/bulk?wait=stored", data::bulk(n, "x").0).await;
        assert_eq!(status, 201, "{answer}");
    };
    write(&server, 5).await;
    let behind = Arc::new(Mutex::new(server.http));
    let door = url(door(behind.clone()).await);

    let mut from_the_start = Tail::start(&site, &door, &["--after", "0"]);
    let mut since = Tail::start(&site, &door, &["--since", "1h", "--action", "CREATE,UPDATE,LOGIN,TEST"]);
    assert_eq!(from_the_start.sequences(5), [1, 2, 3, 4, 5]);
    assert_eq!(since.sequences(5), [1, 2, 3, 4, 5]);
    write(&server, 3).await;
    assert_eq!(from_the_start.sequences(3), [6, 7, 8]);

    drop(server);
    let server = site.start();
    write(&server, 2000).await;
    *behind.lock().expect("whole") = server.http;
    assert!(from_the_start.sequences(2000).into_iter().eq(9..=2008));
    assert!(since.sequences(2003).into_iter().eq(6..=2008));

    let (code, said) = from_the_start.interrupt();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("again in") && said.contains("after 8"), "{said}");
    assert_eq!(since.interrupt().0, Some(0));

    let refused = site.command(&["tail", "--url", &door, "--tenant", "nobody"]).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    let wrong = site
        .command(&["tail", "--url", &door, "--tenant", "acme", "--severity", "LOUD"])
        .output()
        .expect("it runs");
    assert_eq!(wrong.status.code(), Some(64), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("invalid_severity"), "{}", text(&wrong.stderr));
}
