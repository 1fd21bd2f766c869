//! What requests meet: the HTTP surface and what stands directly behind it. The same over every arrangement of engines.

use super::{address, base::Base, blocking, settings};
use crate::{
    actors::broadcast::{FeedHandle, FeedSettings},
    auth::{Authenticator, login::Logins},
    config::{ObjectsChoice, Settings},
    error::AppError,
    http::{self, Services, health::Health, server::Drain, settings::HttpSettings},
    lifecycle::{
        access_log::AccessLog,
        deletion::Deletions,
        erasure::Eraser,
        export::{self, Exports, Room},
    },
    model::time::now_ms,
    queue::{Producer, seals::Lease, wal::reserve},
    shutdown::Shutdown,
    sinks::{Authority, dead_letter::DeadLetters, follow::CopyLog},
    telemetry,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How far above `disk.reserve` exports stop, bytes; on small volumes half of the reserve. More than the jobs at work write
/// between two looks at the volume.
const EXPORT_MARGIN: u64 = 256 << 20;

/// What the engines are to the surface.
pub struct Behind {
    pub producer: Arc<dyn Producer>,
    pub authority: Arc<dyn Authority>,
    pub feed: FeedHandle,
    pub dead_letters: DeadLetters,
    pub export_jobs: Exports,
    pub eraser: Eraser,
    pub deletions: Deletions,
}

/// The surface at work. [`Front::stop`] it first of all.
pub struct Front {
    pub auth: Arc<Authenticator>,
    pub feed: FeedHandle,
    drain: Drain,
    access_log: AccessLog,
    export_jobs: Exports,
}

/// Both listeners at work.
pub struct Listening {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    closing: CancellationToken,
    servers: [JoinHandle<()>; 2],
}

impl Front {
    /// Begins to listen.
    pub fn open(base: Base<'_>, behind: Behind) -> Result<(Self, Listening), AppError> {
        let (settings, secret, health) = (base.settings, base.secret, base.health.clone());
        let access_log = AccessLog::start(behind.producer.clone(), base.catalog.clone(), settings::access_log(settings));
        let (issuers, gateway) = base.credentials.start();
        let auth = Arc::new(Authenticator::new(secret.key(), issuers, gateway, Some(base.catalog.clone())));
        let drain = Drain::new();
        let services = Services {
            access_log: access_log.clone(),
            eraser: behind.eraser,
            deletions: behind.deletions,
            producer: behind.producer,
            authority: behind.authority,
            feed: behind.feed.clone(),
            logins: Arc::new(Logins::new(base.catalog.clone(), secret.key(), settings.login_ttl)),
            catalog: base.catalog,
            dead_letters: behind.dead_letters,
            export_jobs: behind.export_jobs.clone(),
            auth: auth.clone(),
            cursors: http::CursorKey::derive(secret.key()),
            health: health.clone(),
            drain: drain.clone(),
            settings: settings::http(settings, base.tls),
        };
        let limits = services.settings.clone();
        let listening = Listening::start(base.listeners, limits, health, drain.clone(), |_| http::router(services))?;
        let front = Self {
            auth,
            feed: behind.feed,
            drain,
            access_log,
            export_jobs: behind.export_jobs,
        };
        Ok((front, listening))
    }

    /// No new requests, sessions closed, export jobs at their last chunk, requests in hand answered, the access log written.
    pub async fn stop(self, listening: &mut Listening, shutdown: &mut Shutdown) {
        let (feed, export_jobs) = (self.feed, self.export_jobs);
        listening.close();
        self.drain.stop();
        shutdown.phase("sessions", blocking(move || feed.close()), || "the live feed".into()).await;
        shutdown
            .phase("exports", async move { export_jobs.stop().await }, || "export jobs".into())
            .await;
        listening.closed(shutdown).await;
        shutdown.phase("access log", self.access_log.stop(), || "the access log".into()).await;
    }
}

impl Listening {
    /// Serves `router` on the first listener, health and metrics on the second.
    pub fn start(
        listeners: [TcpListener; 2],
        limits: HttpSettings,
        health: Arc<Health>,
        drain: Drain,
        router: impl FnOnce(Arc<Health>) -> http::Routes,
    ) -> Result<Self, AppError> {
        let [http, admin] = listeners;
        let (http_address, admin_address) = (address(&http)?, address(&admin)?);
        let plain = HttpSettings { tls: None, ..limits.clone() };
        if let Some(tls) = &limits.tls {
            tokio::spawn(tls.clone().watch(health.clone()));
        }
        let admin_router = http::admin_router(health.clone(), Arc::new(telemetry::metrics::render));
        let (router, closing) = (router(health), CancellationToken::new());
        let servers = [
            tokio::spawn(http::server::serve(http, router, limits, drain, closing.clone().cancelled_owned())),
            // Answers health and metrics until the very end; it is ended with the process.
            tokio::spawn(http::server::serve(admin, admin_router, plain, Drain::new(), std::future::pending())),
        ];
        Ok(Self {
            http: http_address,
            admin: admin_address,
            closing,
            servers,
        })
    }

    /// No further connections and requests on the first listener.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Waits until the requests in hand are answered.
    pub async fn closed(&mut self, shutdown: &mut Shutdown) {
        let [http, _] = &mut self.servers;
        shutdown.phase("requests", http, || "requests in hand".into()).await;
    }

    /// Nobody is answered any more.
    pub fn end(self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// The live feed over a store.
pub fn feed(authority: Arc<dyn Authority>, settings: &Settings) -> FeedHandle {
    FeedHandle::new(
        authority,
        FeedSettings {
            sessions: settings.feed.sessions,
            session_bytes: settings.feed.session_bytes,
            ..FeedSettings::default()
        },
    )
}

/// The export jobs of a process alone.
pub fn export_jobs(base: &Base<'_>, authority: Arc<dyn Authority>, copying: Option<Arc<dyn CopyLog>>) -> Result<Exports, AppError> {
    Ok(Exports::start(export_parts(base, authority, copying)?, settings::exports(base.settings)))
}

/// The export jobs of a deployment: whoever holds the lease does them.
pub fn shared_export_jobs(base: &Base<'_>, authority: Arc<dyn Authority>, copying: Arc<dyn CopyLog>, lease: Lease) -> Result<Exports, AppError> {
    Ok(Exports::shared(
        export_parts(base, authority, Some(copying))?,
        settings::exports(base.settings),
        lease,
    ))
}

/// Exports stop well above the reserve, where the intake stops: exports alone never bring it there.
fn export_parts(base: &Base<'_>, authority: Arc<dyn Authority>, copying: Option<Arc<dyn CopyLog>>) -> Result<export::Parts, AppError> {
    let room = match &base.settings.engines.objects {
        ObjectsChoice::S3 { .. } => None,
        ObjectsChoice::Folder(dir) => {
            let volume = base
                .fs
                .space(dir)
                .map_err(|e| AppError::cannot_start(format!("the volume of the objects cannot be asked for its room: {e}")))?;
            let reserve = reserve(volume.total, base.settings.disk.reserve);
            Some(Room {
                fs: base.fs.clone(),
                dir: dir.clone(),
                floor: reserve.saturating_add(EXPORT_MARGIN.min(reserve / 2)),
            })
        }
    };
    Ok(export::Parts {
        objects: base.objects.clone(),
        authority,
        catalog: base.catalog.clone(),
        copying,
        compile: Arc::new(http::compile_export),
        room,
        clock: now_ms,
    })
}
