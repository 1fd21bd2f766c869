//! HTTP in the clear on a port that speaks TLS: whoever tries it is told, instead of a connection that just closes.

use crate::http::error::{Code, Problem};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

/// What is read of the request at most, bytes: a socket that is closed with something unread is reset, and the answer is lost.
const MOST: u64 = 96 << 10;

/// Reads the head of the request, answers 400, and closes. The caller bounds the time.
pub async fn answer(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut head = Vec::new();
    let mut source = (&mut socket).take(MOST);
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() && source.read_buf(&mut head).await? > 0 {}
    let id = Uuid::now_v7().to_string();
    let body = Problem::new(Code::TlsRequired, "this port speaks TLS; use https://").render(&id);
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.write_all(&body).await?;
    socket.shutdown().await?;
    let mut rest = socket.take(MOST);
    while rest.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}
