//! The accept loop: HTTP/1.1 and HTTP/2 on one port, in the clear (with prior knowledge) or over TLS, bounded connections, slow
//! clients cut off, and a shutdown that waits for the work in hand.
//!
//! | bound | by |
//! |---|---|
//! | connections | a permit each; without one nothing is accepted, and the kernel's backlog fills |
//! | a client that sends no request | `header_timeout`, from the connection's first moment, and again between requests (HTTP/1.1) |
//! | a TLS handshake | 10 s or `header_timeout`, in the connection's own task: it never holds the next accept |
//! | a client that reads no answer | `write_stall` |
//! | heads of requests | 64 KiB get a problem ([`super::layers`]); beyond 96 KiB the HTTP library itself answers 431 without a body |

use super::{guarded::GuardedIo, settings::HttpSettings, tls};
use axum::{Router, extract::Request, http::Extensions};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

/// What is read of the head of a request, bytes: more than [`super::layers`] takes, so that a head that is merely too large gets an
/// answer with a body; little enough that memory per connection stays small.
const HEAD_BYTES: usize = 96 << 10;
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
    let (closing, greeting) = (CancellationToken::new(), CancellationToken::new());
    let _close_on_drop = closing.clone().drop_guard();
    let settings = Arc::new(settings);
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
        let connection = Connection {
            peer,
            router: router.clone(),
            settings: settings.clone(),
            watcher: graceful.watcher(),
        };
        let (closing, greeting) = (closing.clone(), greeting.clone());
        connections.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = connection.run(stream, greeting) => {}
                () = closing.cancelled() => {}
            }
        });
    }
    drop(listener);
    drain.stop();
    // Who has not finished the handshake has asked for nothing.
    greeting.cancel();
    connections.close();
    tokio::join!(graceful.shutdown(), connections.wait(), drain.finished());
}

/// One connection and what it needs.
struct Connection {
    peer: Peer,
    router: Router,
    settings: Arc<HttpSettings>,
    watcher: Watcher,
}

impl Connection {
    /// Serves it to its end; `greeting` ends a handshake that is under way.
    async fn run(self, stream: TcpStream, greeting: CancellationToken) {
        let seen = Arc::new(AtomicBool::new(false));
        let socket = GuardedIo::new(stream, &self.settings, seen.clone());
        let Some(tls) = self.settings.tls.clone() else {
            return self.converse(socket, seen).await;
        };
        let patience = tls::HANDSHAKE.min(self.settings.header_timeout);
        let greeted = tokio::select! {
            biased;
            () = greeting.cancelled() => return,
            greeted = tls.greet(socket, patience) => greeted,
        };
        match greeted {
            Ok(secured) => self.converse(secured, seen).await,
            Err(error) => tracing::debug!(%error, "a handshake broke"),
        }
    }

    async fn converse(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Arc<AtomicBool>) {
        let Self {
            peer,
            router,
            settings,
            watcher,
        } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let connection = builder(&settings).serve_connection_with_upgrades(TokioIo::new(io), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection broke");
        }
    }
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
