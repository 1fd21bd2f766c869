//! A proxy before the engine that plays a script: what it does to a request is decided by its number and its path.

use bytes::Bytes;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What is done to a request.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// It goes through.
    Pass,
    /// It is answered so, and the engine does not hear of it.
    Answer(u16, &'static str),
    /// The engine does it; the connection breaks in the middle of the answer.
    Break,
    /// The engine does it; the answer never comes.
    Silence,
    /// The engine does it; the answer is this one with one text replaced.
    Change(&'static str, &'static str),
}

/// One request as it was seen.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Method and path, without the query string.
    pub(super) line: String,
    /// Its body.
    pub(super) body: Bytes,
}

type Script = dyn Fn(usize, &Request) -> Act + Send + Sync;

/// The proxy; it ends with its runtime.
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) address: String,
    /// What it has seen.
    pub(super) seen: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<Arc<Script>>>,
}

impl Proxy {
    /// Listens before the engine; everything passes.
    pub(super) async fn start(engine: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let pass: Arc<Script> = Arc::new(|_, _| Act::Pass);
        let script = Arc::new(Mutex::new(pass));
        let engine = engine.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let proxy = Self {
            address,
            seen: seen.clone(),
            script: script.clone(),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (seen, script, engine) = (seen.clone(), script.clone(), engine.clone());
                tokio::spawn(async move { serve(client, &engine, &seen, &script).await });
            }
        });
        proxy
    }

    /// From here on requests are numbered from 0 and treated so.
    pub(super) fn play(&self, script: impl Fn(usize, &Request) -> Act + Send + Sync + 'static) {
        self.seen.lock().expect("whole").clear();
        *self.script.lock().expect("whole") = Arc::new(script);
    }

    /// How many requests there were to a path.
    pub(super) fn count(&self, path: &str) -> usize {
        self.seen.lock().expect("whole").iter().filter(|request| request.line.contains(path)).count()
    }
}

async fn serve(mut client: TcpStream, engine: &str, seen: &Mutex<Vec<Request>>, script: &Mutex<Arc<Script>>) {
    let Some((head, body)) = read(&mut client).await else { return };
    let line = head.lines().next().unwrap_or_default();
    let line = line.split('?').next().unwrap_or_default().to_owned();
    let request = Request { line, body };
    let script = script.lock().expect("whole").clone();
    let number = {
        let mut seen = seen.lock().expect("whole");
        seen.push(request.clone());
        seen.len() - 1
    };
    let act = script(number, &request);
    if let Act::Answer(status, text) = act {
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        let _ = client.write_all(answer.as_bytes()).await;
        return;
    }
    let Ok(mut behind) = TcpStream::connect(engine).await else { return };
    let lines = head.trim_end().lines().filter(|line| {
        let name = line.to_ascii_lowercase();
        !name.starts_with("connection:") && !name.starts_with("accept-encoding:")
    });
    let head: String = lines.map(|line| format!("{line}\r\n")).collect();
    let _ = behind.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    let _ = behind.write_all(&request.body).await;
    let mut answer = Vec::new();
    let _ = behind.read_to_end(&mut answer).await;
    match act {
        Act::Pass | Act::Answer(..) => drop(client.write_all(&last(answer)).await),
        Act::Break => drop(client.write_all(&answer[..answer.len().saturating_sub(20)]).await),
        Act::Silence => tokio::time::sleep(Duration::from_secs(600)).await,
        Act::Change(from, to) => {
            let text = String::from_utf8_lossy(&answer);
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
            let body = body.replacen(from, to, 1);
            let status = head.lines().next().unwrap_or_default();
            let answer = format!(
                "{status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = client.write_all(answer.as_bytes()).await;
        }
    }
}

/// The answer, saying that it is the last on its connection: else the client may send its next request into one that is being closed.
fn last(mut answer: Vec<u8>) -> Vec<u8> {
    if let Some(end) = answer.windows(2).position(|two| two == b"\r\n") {
        drop(answer.splice(end..end, *b"\r\nconnection: close"));
    }
    answer
}

/// A request: its head as text, and its body by the length that the head tells.
async fn read(client: &mut TcpStream) -> Option<(String, Bytes)> {
    let mut bytes = Vec::new();
    let mut more = [0; 16_384];
    loop {
        let n = client.read(&mut more).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&more[..n]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let length = length.unwrap_or(0);
        while bytes.len() < end + length {
            let n = client.read(&mut more).await.ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&more[..n]);
        }
        return Some((head, Bytes::copy_from_slice(&bytes[end..end + length])));
    }
}
