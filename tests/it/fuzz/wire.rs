//! One request as bytes on a connection of its own, and its answer read without a library that would mend either.

use super::generator::Asked;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// More of an answer is not read: the client hangs up.
const MOST: usize = 4 << 20;

/// An answer.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Sends it. `None`: the server hung up without an answer.
pub async fn send(address: SocketAddr, asked: &Asked) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    // An error of a write means that the answer came before the end of the body.
    let _ = stream.write_all(&asked.bytes()).await;
    if asked.cut_short {
        let _ = stream.shutdown().await;
    }
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while bytes.len() < MOST {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
        }
        // A feed has no end: its head is the answer.
        if asked.endless && contains(&bytes, b"\r\n\r\n") && bytes.starts_with(b"HTTP/1.1 2") {
            break;
        }
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let rest = &bytes[end + 4..];
    let body = if chunked { unchunked(rest) } else { rest.to_vec() };
    Some(Reply { status, headers, body })
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(rest, b"\r\n") {
        let length = std::str::from_utf8(&rest[..end])
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        let from = end + 2;
        let to = (from + length).min(rest.len());
        body.extend_from_slice(&rest[from..to]);
        if length == 0 || to + 2 > rest.len() {
            break;
        }
        rest = &rest[to + 2..];
    }
    body
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

/// Whether `what` stands in `bytes`.
pub fn contains(bytes: &[u8], what: &[u8]) -> bool {
    find(bytes, what).is_some()
}
