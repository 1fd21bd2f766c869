//! The accept loop: HTTP/1.1 and HTTP/2 with prior knowledge on one port, bounded connections, slow clients cut off, and a
//! shutdown that waits for the work in hand.
//!
//! | bound | by |
//! |---|---|
//! | connections | a permit each; without one nothing is accepted, and the kernel's backlog fills |
//! | a client that sends no request | `header_timeout`, from the connection's first moment, and again between requests (HTTP/1.1) |
//! | a client that reads no answer | `write_stall` |
//! | heads of requests | 64 KiB |

use super::settings::HttpSettings;
use axum::{Router, extract::Request, http::Extensions};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
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
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Sleep,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

/// Largest head of a request, bytes: a token and a long query fit, memory per idle connection stays small.
const HEAD_BYTES: usize = 64 << 10;
/// What a stream and a connection of HTTP/2 may send ahead of being read, bytes.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 1 << 20;
const H2_STREAMS: u32 = 250;

/// Tells the live-feed sessions that the process is stopping, and knows when they have ended: a server does not wait for
/// upgraded sockets by itself. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    stopping: CancellationToken,
    sessions: TaskTracker,
}

impl Drain {
    /// Nothing is stopping yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every session to end.
    pub fn stop(&self) {
        self.stopping.cancel();
        self.sessions.close();
    }

    /// Whether [`Drain::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Resolves when sessions must end. Cancel-safe.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// A session: counted until this is dropped.
    pub fn session(&self) -> TaskTrackerToken {
        self.sessions.token()
    }

    /// Resolves when [`Drain::stop`] was called and every session has ended. Cancel-safe.
    pub async fn finished(&self) {
        self.sessions.wait().await;
    }
}

/// The address at the other end of the request's socket: a gateway or a load balancer, where there is one. In the request's
/// extensions; never taken from a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl Peer {
    /// The peer of a request. A request that came over no socket (a router that is called directly) has `0.0.0.0:0`, which
    /// is in no network of a configuration.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)))
    }
}

/// Serves until `shutdown` resolves; then accepts no more, lets requests in hand finish, ends the sessions of `drain`, and
/// returns when all connections are closed. The caller sets the deadline: dropping the future closes what is left.
pub async fn serve(listener: TcpListener, router: Router, settings: HttpSettings, drain: Drain, shutdown: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let _close_on_drop = closing.clone().drop_guard();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = accept(&listener, &permits) => next,
        };
        // Answers are written whole; waiting for more to send with them only adds delay.
        if stream.set_nodelay(true).is_err() {
            continue; // it is gone already
        }
        let seen = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(GuardedIo::new(stream, &settings, seen.clone()));
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let connection = builder(&settings).serve_connection_with_upgrades(io, service).into_owned();
        let connection = graceful.watch(connection);
        let closing = closing.clone();
        connections.spawn(async move {
            let _permit = permit;
            tokio::select! {
                done = connection => if let Err(error) = done { tracing::debug!(%error, "a connection broke") },
                () = closing.cancelled() => {}
            }
        });
    }
    drop(listener);
    drain.stop();
    connections.close();
    tokio::join!(graceful.shutdown(), connections.wait(), drain.finished());
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, Peer, tokio::sync::OwnedSemaphorePermit) {
    let permit = permits.clone().acquire_owned().await.expect("this semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, Peer(address), permit),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors: others must close first. Without the pause this would be a busy loop.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn builder(settings: &HttpSettings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.header_timeout)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_concurrent_streams(H2_STREAMS)
        .max_header_list_size(HEAD_BYTES as u32);
    builder
}

/// A socket that fails when its first request does not come in time, or when its reader takes nothing for too long.
struct GuardedIo {
    stream: TcpStream,
    /// Until the first request: hyper's own timer starts only when it knows the HTTP version.
    first: Option<Pin<Box<Sleep>>>,
    seen: Arc<AtomicBool>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl GuardedIo {
    fn new(stream: TcpStream, settings: &HttpSettings, seen: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            first: Some(Box::pin(tokio::time::sleep(settings.header_timeout))),
            seen,
            stall: settings.write_stall,
            stalled: None,
        }
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
