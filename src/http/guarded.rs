//! The socket of a connection, below TLS where there is any: it fails when its first request does not come in time, and when
//! its reader takes nothing for too long. So neither a handshake nor a client that sleeps holds a connection for ever.

use super::settings::HttpSettings;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

/// A socket that fails when its first request does not come in time, or when its reader takes nothing for too long.
pub struct GuardedIo {
    stream: TcpStream,
    /// Until the first request: hyper's own timer starts only when it knows the HTTP version.
    first: Option<Pin<Box<Sleep>>>,
    seen: Arc<AtomicBool>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl GuardedIo {
    /// Guards a socket; `seen` says that a request has come.
    pub fn new(stream: TcpStream, settings: &HttpSettings, seen: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            first: Some(Box::pin(tokio::time::sleep(settings.header_timeout))),
            seen,
            stall: settings.write_stall,
            stalled: None,
        }
    }

    /// The first byte that the peer sends, which stays to be read; `None` when it sends none. Cancel-safe.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.stream.peek(&mut byte).await? == 1).then_some(byte[0]))
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for GuardedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if this.seen.load(Ordering::Relaxed) {
            this.first = None;
        }
        match (&read, &mut this.first) {
            (Poll::Pending, Some(timer)) => {
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, write)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
