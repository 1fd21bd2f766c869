//! A keep-alive HTTP/1.1 connection that costs little: the generator shares its two cores with the server.

use anyhow::Context;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

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
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
        self.socket.write_all(head.as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        self.buffer.clear();
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            anyhow::ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        };
        let head = std::str::from_utf8(&self.buffer[..head_end])?.to_ascii_lowercase();
        let status = head.get(9..12).context("a status line")?.parse()?;
        if head.contains("transfer-encoding: chunked") {
            return Ok((status, self.chunks(head_end).await?));
        }
        let length: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length:"))
            .context("content-length")?
            .trim()
            .parse()?;
        self.fill(head_end + length).await?;
        Ok((status, self.buffer[head_end..head_end + length].to_vec()))
    }

    /// A body in chunks, from `at` on.
    async fn chunks(&mut self, mut at: usize) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match self.buffer[at..].windows(2).position(|w| w == b"\r\n") {
                    Some(end) => break at..at + end,
                    None => self.fill(self.buffer.len() + 1).await?,
                }
            };
            let start = line.end + 2;
            let length = usize::from_str_radix(std::str::from_utf8(&self.buffer[line])?.trim(), 16)?;
            at = start + length + 2;
            self.fill(at).await?;
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&self.buffer[start..start + length]);
        }
    }

    /// Reads until the buffer holds `length` bytes.
    async fn fill(&mut self, length: usize) -> anyhow::Result<()> {
        while self.buffer.len() < length {
            anyhow::ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        }
        Ok(())
    }
}
