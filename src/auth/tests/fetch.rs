//! Keys that are fetched, from a real server that behaves well, badly, and not at all.

use crate::auth::{
    keys::fetch::{Fetched, Pace, Source},
    testing::{RSA_A, RSA_B, jwk, jwks},
};
use jsonwebtoken::Algorithm::RS256;
use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// What the server answers.
#[derive(Clone)]
enum Answer {
    Text(u16, String),
    /// Endless.
    Huge,
    /// None.
    Hang,
    /// The head, then none.
    HangInside,
    /// A closed connection.
    Drop,
}

struct Idp {
    url: reqwest::Url,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Idp {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("bound")).parse().expect("a URL");
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (answers, counts) = (answer.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("it listens");
                let (answers, counts) = (answers.clone(), counts.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    counts.fetch_add(1, Ordering::SeqCst);
                    let answer = answers.lock().expect("no panic").clone();
                    let _ = match answer {
                        Answer::Text(status, text) => {
                            let head = format!(
                                "HTTP/1.1 {status} x\r\nconnection: close\r\nlocation: /elsewhere\r\ncontent-length: {}\r\n\r\n",
                                text.len()
                            );
                            stream.write_all((head + &text).as_bytes()).await
                        }
                        Answer::Huge => {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"keys\": [").await;
                            while stream.write_all(&[b' '; 64 << 10]).await.is_ok() {}
                            Ok(())
                        }
                        Answer::HangInside => {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await;
                            pending().await
                        }
                        Answer::Hang => pending().await,
                        Answer::Drop => Ok(()),
                    };
                });
            }
        });
        Self { url, answer, asked }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("no panic") = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn fetched(&self, pace: Pace) -> Fetched {
        Fetched::start("idp".into(), Source::Url(self.url.clone()), None, pace)
    }
}

/// Nothing happens but what is asked for.
const ON_DEMAND: Pace = Pace {
    every: Duration::from_secs(3600),
    every_file: Duration::from_secs(3600),
    ask_pause: Duration::from_secs(60),
    retry: Duration::from_secs(3600),
    timeout: Duration::from_secs(5),
};
/// Everything happens at once.
const BUSY: Pace = Pace {
    every: Duration::from_millis(5),
    every_file: Duration::from_millis(5),
    ask_pause: Duration::from_millis(5),
    retry: Duration::from_millis(5),
    timeout: Duration::from_millis(500),
};

fn keys(names: &[(&str, &str)]) -> Answer {
    let keys: Vec<_> = names.iter().map(|(kid, key)| jwk(RS256, Some(kid), key)).collect();
    Answer::Text(200, jwks(&keys))
}

fn has(fetched: &Fetched, kid: &str) -> bool {
    fetched.keys().is_some_and(|keys| keys.has_named(kid))
}

async fn until(what: impl Fn() -> bool) {
    let done = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done).await.expect("it happens");
}

#[tokio::test]
async fn a_name_that_is_not_known_is_fetched_at_once_and_rotations_are_never_refused() {
    let idp = Idp::start(keys(&[("a", RSA_A)])).await;
    let fetched = idp.fetched(ON_DEMAND);
    fetched.look_for(Some("a"), 0).await;
    assert!(has(&fetched, "a") && !fetched.is_failing());
    // Rotation upon rotation, within the minute: each fetch brings what it was made for.
    for kid in ["b", "c", "d"] {
        idp.answers(keys(&[("a", RSA_A), (kid, RSA_B)]));
        let before = idp.asked();
        let asks = (0..20).map(|_| fetched.look_for(Some(kid), fetched.version()));
        futures_util::future::join_all(asks).await;
        assert!(has(&fetched, kid) && has(&fetched, "a"));
        assert_eq!(idp.asked(), before + 1, "one fetch for all who wait");
    }
    assert!(!has(&fetched, "b"), "a key that is gone from the set is gone");
}

#[tokio::test]
async fn invented_names_make_one_fetch_a_minute() {
    let idp = Idp::start(keys(&[("a", RSA_A)])).await;
    let fetched = idp.fetched(ON_DEMAND);
    fetched.look_for(Some("a"), 0).await;
    let before = idp.asked();
    for i in 0..50 {
        fetched.look_for(Some(&format!("invented-{i}")), fetched.version()).await;
        fetched.look_for(None, fetched.version()).await;
    }
    assert_eq!(idp.asked(), before + 1);
    let crowd = (0..500).map(|i| {
        let (fetched, kid) = (&fetched, format!("{i}"));
        async move { fetched.look_for(Some(&kid), 1).await }
    });
    futures_util::future::join_all(crowd).await;
    assert_eq!(idp.asked(), before + 1);
}

#[tokio::test]
async fn whatever_the_server_does_the_keys_of_before_stay_in_force() {
    let good = keys(&[("a", RSA_A)]);
    let idp = Idp::start(good.clone()).await;
    let fetched = idp.fetched(BUSY);
    until(|| has(&fetched, "a")).await;
    for (name, bad) in [
        ("hangs", Answer::Hang),
        ("hangs inside", Answer::HangInside),
        ("drops", Answer::Drop),
        ("huge", Answer::Huge),
        ("error", Answer::Text(500, "{}".into())),
        ("redirect", Answer::Text(302, String::new())),
        (
            "not found, with keys",
            match good.clone() {
                Answer::Text(_, text) => Answer::Text(404, text),
                other => other,
            },
        ),
        ("no JSON", Answer::Text(200, "<html>".into())),
        ("no keys", Answer::Text(200, jwks(&[]))),
        ("empty", Answer::Text(200, String::new())),
    ] {
        idp.answers(bad);
        until(|| fetched.is_failing()).await;
        tokio::time::timeout(Duration::from_secs(10), fetched.look_for(Some("b"), fetched.version()))
            .await
            .expect(name);
        assert!(has(&fetched, "a") && !has(&fetched, "b"), "{name}");
        idp.answers(good.clone());
        until(|| !fetched.is_failing()).await;
    }
    idp.answers(keys(&[("b", RSA_B)]));
    until(|| has(&fetched, "b") && !has(&fetched, "a")).await;
}

#[tokio::test]
async fn a_server_that_comes_later_is_found() {
    let idp = Idp::start(Answer::Drop).await;
    let fetched = idp.fetched(BUSY);
    until(|| fetched.is_failing()).await;
    assert!(fetched.keys().is_none());
    idp.answers(keys(&[("a", RSA_A)]));
    until(|| has(&fetched, "a") && !fetched.is_failing()).await;
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("jwks.json");
    let write = |answer: Answer| {
        let Answer::Text(_, text) = answer else { return };
        std::fs::write(&path, text).expect("written");
    };
    write(keys(&[("a", RSA_A)]));
    let fetched = Fetched::start("idp".into(), Source::File(path.clone()), None, BUSY);
    until(|| has(&fetched, "a")).await;
    write(keys(&[("b", RSA_B)]));
    until(|| has(&fetched, "b")).await;
    write(Answer::Text(200, "{".into()));
    until(|| fetched.is_failing()).await;
    std::fs::remove_file(&path).expect("there");
    fetched.look_for(Some("c"), fetched.version()).await;
    assert!(has(&fetched, "b") && fetched.is_failing());
    write(keys(&[("c", RSA_A)]));
    until(|| has(&fetched, "c") && !fetched.is_failing()).await;
}
