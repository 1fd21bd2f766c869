//! Keep-alive HTTP/1.1 connections that cost little: the generator shares its two cores with the server.

use anyhow::Context;
use std::{
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

/// A connection that was silent for so long is made anew: the server may be about to close it.
const OLD: Duration = Duration::from_secs(15);
/// How long a server may be away.
const AWAY: Duration = Duration::from_secs(120);

/// Where the server is now; another place after each of its starts.
#[derive(Clone)]
pub struct Address(Arc<RwLock<SocketAddr>>);

impl Address {
    pub fn new(at: SocketAddr) -> Self {
        Self(Arc::new(RwLock::new(at)))
    }

    pub fn get(&self) -> SocketAddr {
        *self.0.read().expect("nothing panics while it holds this lock")
    }

    pub fn set(&self, at: SocketAddr) {
        *self.0.write().expect("nothing panics while it holds this lock") = at;
    }
}

/// A client that connects again after its connection has broken. It repeats no request.
pub struct Client {
    server: Address,
    connection: Option<Connection>,
    used: Instant,
}

impl Client {
    /// Connects.
    pub async fn new(server: Address) -> anyhow::Result<Self> {
        let mut client = Self {
            server,
            connection: None,
            used: Instant::now(),
        };
        client.connected().await?;
        Ok(client)
    }

    /// The connection, made when there is none: as soon as the server takes one.
    ///
    /// # Errors
    /// It took none for two minutes.
    pub async fn connected(&mut self) -> anyhow::Result<&mut Connection> {
        if self.used.elapsed() > OLD {
            self.connection = None;
        }
        let since = Instant::now();
        while self.connection.is_none() {
            match Connection::open(self.server.get()).await {
                Ok(connection) => self.connection = Some(connection),
                Err(error) if since.elapsed() > AWAY => return Err(error),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
        self.used = Instant::now();
        Ok(self.connection.as_mut().expect("it was made just now"))
    }

    /// Its connection has broken.
    pub fn broken(&mut self) {
        self.connection = None;
    }
}

/// One connection; requests follow each other.
pub struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    head: Vec<u8>,
}

impl Connection {
    pub async fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            buffer: Vec::new(),
            head: Vec::new(),
        })
    }

    /// POSTs JSON; the status.
    pub async fn post(&mut self, path: &str, token: &str, body: &[u8]) -> anyhow::Result<u16> {
        self.head.clear();
        self.head.extend_from_slice(
            format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .as_bytes(),
        );
        self.head.extend_from_slice(body);
        self.socket.write_all(&self.head).await?;
        Ok(self.answer().await?.0)
    }

    /// GETs; status and body.
    pub async fn get(&mut self, path: &str, token: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        self.ask(path, token, "*/*").await?;
        self.answer().await
    }

    /// GETs and hands over each line as it comes, without its end.
    ///
    /// # Errors
    /// Another status than 200; the answer breaks off; `take` fails.
    pub async fn lines(&mut self, path: &str, token: &str, accept: &str, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.ask(path, token, accept).await?;
        let head = self.head().await?;
        if head.status != 200 || !head.chunked {
            let body = self.body(&head).await?;
            anyhow::ensure!(head.status == 200, "{path}: {} {}", head.status, String::from_utf8_lossy(&body));
            return body.split(|b| *b == b'\n').filter(|line| !line.is_empty()).try_for_each(take);
        }
        let mut open = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            let mut rest = &chunk[..];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, after) = (&rest[..end], &rest[end + 1..]);
                if open.is_empty() {
                    take(line)?;
                } else {
                    open.extend_from_slice(line);
                    take(&open)?;
                    open.clear();
                }
                rest = after;
            }
            open.extend_from_slice(rest);
        }
        anyhow::ensure!(open.is_empty(), "{path}: the last line has no end");
        Ok(())
    }

    async fn ask(&mut self, path: &str, token: &str, accept: &str) -> anyhow::Result<()> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nauthorization: Bearer {token}\r\n\r\n");
        Ok(self.socket.write_all(head.as_bytes()).await?)
    }

    async fn answer(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        let head = self.head().await?;
        Ok((head.status, self.body(&head).await?))
    }

    /// Reads the head of an answer; the buffer begins with its body then.
    async fn head(&mut self) -> anyhow::Result<Head> {
        self.buffer.clear();
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill(self.buffer.len() + 1).await?;
        };
        let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
        let read = Head {
            status: head.get(9..12).context("a status line")?.parse()?,
            chunked: head.contains("transfer-encoding: chunked"),
            length: match head.lines().find_map(|l| l.strip_prefix("content-length:")) {
                Some(length) => length.trim().parse()?,
                None => 0,
            },
        };
        self.buffer.drain(..end);
        Ok(read)
    }

    async fn body(&mut self, head: &Head) -> anyhow::Result<Vec<u8>> {
        if !head.chunked {
            self.fill(head.length).await?;
            return Ok(self.buffer.drain(..head.length).collect());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The next chunk of a body; `None` is its end.
    async fn chunk(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let line = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n") {
                Some(end) => break end,
                None => self.fill(self.buffer.len() + 1).await?,
            }
        };
        let length = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line])?.trim(), 16)?;
        let start = line + 2;
        self.fill(start + length + 2).await?;
        let chunk = self.buffer[start..start + length].to_vec();
        self.buffer.drain(..start + length + 2);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// Reads until the buffer holds `length` bytes.
    async fn fill(&mut self, length: usize) -> anyhow::Result<()> {
        while self.buffer.len() < length {
            anyhow::ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        }
        Ok(())
    }
}

struct Head {
    status: u16,
    chunked: bool,
    length: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one request with these pieces, each in a write of its own, and closes.
    async fn answering(pieces: &'static [&'static str]) -> Connection {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut asked = vec![0; 4096];
            let asked = socket.read(&mut asked).await.expect("a request");
            assert!(asked > 0, "nothing was asked");
            for piece in pieces {
                socket.write_all(piece.as_bytes()).await.expect("written");
                tokio::task::yield_now().await;
            }
        });
        Connection::open(at).await.expect("a connection")
    }

    async fn lines(pieces: &'static [&'static str]) -> anyhow::Result<Vec<String>> {
        let mut seen = Vec::new();
        let mut connection = answering(pieces).await;
        connection
            .lines("/x", "t", "*/*", |line| {
                seen.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            })
            .await?;
        Ok(seen)
    }

    #[tokio::test]
    async fn lines_are_whole_however_they_are_cut() {
        let seen = lines(&[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n",
            "3\r\ntw",
            "o\r\n8\r\n\nthree\nf\r\n4\r\nour\n\r\n0\r\n\r\n",
        ]);
        assert_eq!(seen.await.expect("whole"), ["one", "two", "three", "four"]);
        let seen = lines(&["HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\none\ntwo\n"]).await;
        assert_eq!(seen.expect("whole"), ["one", "two"]);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error() {
        for pieces in [
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n"][..],
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n"],
            &["HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"],
        ] {
            assert!(lines(pieces).await.is_err(), "{pieces:?}");
        }
    }
}
