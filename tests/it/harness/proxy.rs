//! An HTTP/1.1 proxy that misbehaves as a test says, request by request: late, refused, cut in the middle, done but never answered.
//!
//! Guarantees: what a fault says reached the server has reached it whole before the client notices anything; the `Host` header is kept,
//! so that signatures hold. Does not: stream (requests and answers are held whole), speak TLS or HTTP/2.
//! The library's unit tests use it too (`crate::testing::proxy`).

use bytes::Bytes;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Changes a body.
pub type Edit = Arc<dyn Fn(Bytes) -> Bytes + Send + Sync>;

/// What happens to one request.
#[derive(Clone, Default)]
pub enum Fault {
    /// Nothing: it is passed on, and the answer back.
    #[default]
    Pass,
    /// It is passed on after this time.
    Delay(Duration),
    /// The server never sees it; the client gets this status, these headers and this body.
    Answer(u16, Vec<(String, String)>, Bytes),
    /// The server never sees it; the connection is closed.
    Refuse,
    /// The server gets half of its body, then both connections are closed.
    CutRequest,
    /// The server does it; the client gets this many bytes of the answer's body, then the connection is closed.
    CutAnswer(usize),
    /// The server does it; the client gets no answer, and the connection is closed.
    Swallow,
    /// The server does it; the client gets no answer, and the connection stays open until the client gives up.
    Hang,
    /// The server gets the edited body, the client the edited answer: parts of a batch that fail.
    Rewrite {
        /// What the server gets instead.
        request: Option<Edit>,
        /// What the client gets instead.
        answer: Option<Edit>,
    },
}

/// A request, as the script sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// How many came before it.
    pub number: u64,
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Decoded.
    pub body: Bytes,
}

impl Request {
    /// The first header of this name (lower case), or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

type Script = Box<dyn FnMut(&Request) -> Fault + Send>;

struct Shared {
    upstream: String,
    script: Mutex<Option<Script>>,
    seen: Mutex<u64>,
    down: AtomicBool,
    /// Bumped to close every connection.
    cut: watch::Sender<u64>,
}

/// A running proxy. Dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Stands on a free loopback port before `upstream` (`http://HOST:PORT`). Must be called within a runtime.
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            script: Mutex::new(None),
            seen: Mutex::new(0),
            down: AtomicBool::new(false),
            cut: watch::Sender::new(0),
        });
        let task = tokio::spawn(listen(listener, shared.clone()));
        Self { address, shared, task }
    }

    /// Its own address, to be used instead of the server's.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every request meets what `script` says of it.
    pub fn script(&self, script: impl FnMut(&Request) -> Fault + Send + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// The next `n` requests for which `which` holds meet this fault; all others pass.
    pub fn next(&self, mut n: usize, which: impl Fn(&Request) -> bool + Send + 'static, fault: Fault) {
        self.script(move |request| {
            if n > 0 && which(request) {
                n -= 1;
                return fault.clone();
            }
            Fault::Pass
        });
    }

    /// Everything passes again, and the proxy takes connections.
    pub fn mend(&self) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.down.store(false, Ordering::SeqCst);
    }

    /// Like a dead server: every connection is closed, and new ones at once.
    pub fn down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Requests seen so far.
    pub fn seen(&self) -> u64 {
        *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if !shared.down.load(Ordering::SeqCst) {
                    let (shared, mut cut) = (shared.clone(), shared.cut.subscribe());
                    connections.spawn(async move {
                        // An error is a connection that has ended, which is what both sides see.
                        tokio::select! { _ = serve(client, &shared) => {}, _ = cut.changed() => {} }
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection of a client, request after request.
async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut client, &mut buffer).await? {
        if head.header("expect").eq_ignore_ascii_case("100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = read_body(&mut client, &mut buffer, &head, false).await?;
        let mut parts = head.first.split(' ');
        let mut request = Request {
            number: 0,
            method: parts.next().unwrap_or_default().to_owned(),
            path: parts.next().unwrap_or_default().to_owned(),
            headers: head.headers,
            body,
        };
        let fault = {
            let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            request.number = *seen;
            *seen += 1;
            let mut script = shared.script.lock().unwrap_or_else(PoisonError::into_inner);
            script.as_mut().map_or(Fault::Pass, |script| script(&request))
        };
        // A client that goes away while the server thinks takes its request with it (long polls).
        let outcome = tokio::select! {
            outcome = treat(&mut request, fault, shared) => outcome?,
            () = gone(&client) => return Ok(()),
        };
        match outcome {
            Outcome::Whole(answer) => client.write_all(&answer).await?,
            Outcome::Piece(piece) => return client.write_all(&piece).await,
            Outcome::Close => return Ok(()),
        }
    }
    Ok(())
}

/// Resolves when the client has closed its side.
async fn gone(client: &TcpStream) {
    let mut one = [0];
    if !matches!(client.peek(&mut one).await, Ok(0) | Err(_)) {
        std::future::pending::<()>().await;
    }
}

enum Outcome {
    Whole(Vec<u8>),
    Piece(Vec<u8>),
    Close,
}

async fn treat(request: &mut Request, fault: Fault, shared: &Shared) -> io::Result<Outcome> {
    let upstream = &shared.upstream;
    match fault {
        Fault::Pass => {}
        Fault::Delay(time) => tokio::time::sleep(time).await,
        Fault::Answer(status, headers, body) => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let mut answer = format!("HTTP/1.1 {status} Scripted\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
            answer.extend_from_slice(&body);
            return Ok(Outcome::Whole(answer));
        }
        Fault::Refuse => return Ok(Outcome::Close),
        Fault::CutRequest => {
            let mut server = TcpStream::connect(upstream).await?;
            let whole = encoded(request);
            server.write_all(&whole[..whole.len() - request.body.len().div_ceil(2)]).await?;
            return Ok(Outcome::Close);
        }
        Fault::CutAnswer(bytes) => {
            let (mut answer, body) = forward(request, upstream).await?;
            answer.extend_from_slice(&body[..bytes.min(body.len())]);
            return Ok(Outcome::Piece(answer));
        }
        Fault::Swallow => {
            forward(request, upstream).await?;
            return Ok(Outcome::Close);
        }
        Fault::Hang => {
            forward(request, upstream).await?;
            return std::future::pending().await;
        }
        Fault::Rewrite { request: edit, answer } => {
            if let Some(edit) = edit {
                request.body = edit(request.body.clone());
            }
            let (mut head, body) = forward(request, upstream).await?;
            let Some(edit) = answer else {
                head.extend_from_slice(&body);
                return Ok(Outcome::Whole(head));
            };
            let (text, edited) = (String::from_utf8_lossy(&head).into_owned(), edit(body));
            let kept: String = text
                .lines()
                .filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("content-length:"))
                .map(|line| format!("{line}\r\n"))
                .collect();
            let mut whole = format!("{kept}content-length: {}\r\n\r\n", edited.len()).into_bytes();
            whole.extend_from_slice(&edited);
            return Ok(Outcome::Whole(whole));
        }
    }
    let (mut answer, body) = forward(request, upstream).await?;
    answer.extend_from_slice(&body);
    Ok(Outcome::Whole(answer))
}

fn encoded(request: &Request) -> Vec<u8> {
    let headers: String = request
        .headers
        .iter()
        .filter(|(name, _)| !["connection", "content-length", "transfer-encoding", "expect"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let (method, path, length) = (&request.method, &request.path, request.body.len());
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(&request.body);
    bytes
}

/// The server's whole answer: its head with the length that follows, and its body.
async fn forward(request: &Request, upstream: &str) -> io::Result<(Vec<u8>, Bytes)> {
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&encoded(request)).await?;
    let mut buffer = Vec::new();
    let head = loop {
        let head = read_head(&mut server, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !head.first.contains(" 100 ") {
            break head;
        }
    };
    let bodyless = request.method == "HEAD" || [" 204", " 304"].iter().any(|status| head.first.contains(status));
    let body = if bodyless {
        Bytes::new()
    } else {
        read_body(&mut server, &mut buffer, &head, true).await?
    };
    let length = if bodyless {
        head.header("content-length").to_owned()
    } else {
        body.len().to_string()
    };
    let headers: String = head
        .headers
        .iter()
        .filter(|(name, _)| !["connection", "content-length", "transfer-encoding"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = if length.is_empty() { length } else { format!("content-length: {length}\r\n") };
    Ok((format!("{}\r\n{headers}{length}\r\n", head.first).into_bytes(), body))
}

struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The next head; what follows it stays in `buffer`. `None` at the end.
async fn read_head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Head>> {
    let end = loop {
        if let Some(at) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Some(Head { first, headers }))
}

async fn read_body(socket: &mut TcpStream, buffer: &mut Vec<u8>, head: &Head, to_the_end: bool) -> io::Result<Bytes> {
    if head.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        return read_chunks(socket, buffer).await;
    }
    match head.header("content-length").parse() {
        Ok(length) => take(socket, buffer, length).await.map(Bytes::from),
        Err(_) if to_the_end => {
            socket.read_to_end(buffer).await?;
            Ok(Bytes::from(std::mem::take(buffer)))
        }
        Err(_) => Ok(Bytes::new()),
    }
}

async fn read_chunks(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Bytes> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            match memchr::memmem::find(buffer, b"\r\n") {
                Some(at) => break at,
                None if socket.read_buf(buffer).await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
        };
        let line = take(socket, buffer, end + 2).await?;
        let text = String::from_utf8_lossy(&line[..end]);
        let length = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let chunk = take(socket, buffer, length + 2).await?;
        if length == 0 {
            return Ok(Bytes::from(body));
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

/// The next `n` bytes.
async fn take(socket: &mut TcpStream, buffer: &mut Vec<u8>, n: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < n {
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = buffer.split_off(n);
    Ok(std::mem::replace(buffer, rest))
}
