//! The only place that knows everything: what is built in which order, and what is stopped in which.
//!
//! Start: lock the folder, take the ports, open the store's manifest, scan the log, then listen. Writes are taken at once;
//! reads are 503 until the store shows everything that the log holds. Stop: see [`Running::stop`].

pub mod folder;
mod monitor;
#[cfg(test)]
mod power;
mod recovered;

use crate::{
    actors::{
        ActorSettings, Actors,
        broadcast::{FeedHandle, FeedSettings},
        sequencer::{Parts, Sequencer, SequencerSettings},
    },
    auth::{Authenticator, load, login::Logins, secret},
    catalog::{Catalog, RateLimit},
    config::{ConfigError, Settings, TlsSettings},
    error::AppError,
    fs::{Fs, real::RealFs},
    http::{
        self, Services,
        health::{Health, Phase},
        origin::Origins,
        server::Drain,
        settings::HttpSettings,
        tls::{self, Tls},
    },
    lifecycle::{
        access_log::{AccessLog, AccessLogSettings},
        deletion::{self, Deletions},
        erasure::Eraser,
        export::{self, ExportSettings, Exports, Room},
        retention::Retention,
    },
    limits::LimitSettings,
    model::time::now_ms,
    objects::{Objects, folder::FolderObjects},
    queue::{
        embedded::{EmbeddedQueue, QueueSettings, book::Limits},
        wal::reserve,
    },
    shutdown::Shutdown,
    sinks::{Authority, dead_letter::DeadLetters, embedded::EmbeddedStore},
    telemetry,
};
use folder::FolderLock;
use recovered::Opened;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How far above `disk.reserve` exports stop, bytes; on small volumes half of the reserve. More than the jobs at work write
/// between two looks at the volume.
const EXPORT_MARGIN: u64 = 256 << 20;
/// How often the catalog is compared with its objects, so that a key revoked elsewhere opens nothing here after 10 s at most.
const CATALOG_EVERY: Duration = Duration::from_secs(2);

/// The running process. [`Running::stop`] it; dropping it lets go of everything as a crash would.
pub struct Running {
    http: SocketAddr,
    admin: SocketAddr,
    deadline: Duration,
    drain_pause: Duration,
    health: Arc<Health>,
    drain: Drain,
    closing: CancellationToken,
    servers: [JoinHandle<()>; 2],
    feed: FeedHandle,
    access_log: AccessLog,
    eraser: Eraser,
    actors: Actors,
    sequencer: Sequencer,
    queue: EmbeddedQueue,
    dead_letters: DeadLetters,
    export_jobs: Exports,
    store: EmbeddedStore,
    failure: watch::Receiver<Option<AppError>>,
    monitor: JoinHandle<()>,
    _lock: FolderLock,
}

/// Runs the server until SIGTERM or Ctrl-C, or until it cannot go on.
pub async fn run(settings: Settings) -> Result<(), AppError> {
    // Before anybody is told that the process is there, and can ask it to stop.
    let mut asked = std::pin::pin!(crate::shutdown::requested()?);
    let running = tokio::select! {
        started = start(&settings) => started?,
        () = &mut asked => return Ok(()), // nothing was taken yet; what was read is as it was
    };
    crate::cli::print(&format!("listening http={} admin={}\n", running.http, running.admin))?;
    tracing::info!(http = %running.http, admin = %running.admin, data_dir = %settings.data_dir.display(), "listening; `sluice token` makes a credential");
    tokio::select! {
        () = asked => running.stop().await,
        failure = running.failed() => {
            running.health.set_phase(Phase::Broken);
            Err(failure)
        }
    }
}

/// Builds everything and begins to listen. What fails here has written nothing but what a start always writes.
pub async fn start(settings: &Settings) -> Result<Running, AppError> {
    let credentials = load::load(&settings.auth).map_err(|wrong| AppError::usage(ConfigError::found(wrong)))?;
    credentials.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let lock = folder::lock(&settings.data_dir)?;
    let secret = secret::read_or_create(&settings.data_dir).map_err(crate::cli::token::secret_error)?;
    let listeners = [
        bind("http.listen", settings.http.listen).await?,
        bind("admin.listen", settings.admin.listen).await?,
    ];
    let tls = settings.http.tls.as_ref().map(open_tls).transpose()?;
    let health = Arc::new(Health::new());
    if let Some(tls) = &tls {
        tls.look(&health, now_ms());
    }

    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(fs.clone(), settings.objects_dir.clone()).map_err(AppError::cannot_start)?);
    let catalog = Catalog::open(objects.clone()).await.map_err(AppError::failed)?;
    catalog.follow(CATALOG_EVERY);
    let dead_letters = DeadLetters::open(objects.clone(), 0);
    let Opened { store, wal, book, sequencer } = recovered::open(fs.clone(), settings, &catalog, dead_letters.settled(), &health).await?;
    // Before the first seal is applied again: see `sinks::dead_letter::retired`.
    dead_letters.forget(sequencer.state.retired.iter().cloned());
    for deleted in catalog.retired() {
        dead_letters.forget([deleted.tenant_id.access_log(), deleted.tenant_id]);
    }
    let damage_reported = store.health().damage.len();

    let feed = FeedHandle::new(
        Arc::new(store.clone()),
        FeedSettings {
            sessions: settings.feed.sessions,
            session_bytes: settings.feed.session_bytes,
            ..FeedSettings::default()
        },
    );
    let queue = EmbeddedQueue::new(wal.clone(), book, queue_settings(settings), Handle::current());
    let parts = Parts {
        log: Arc::new(queue.clone()),
        follower: Arc::new(store.clone()),
        dead_letters: Arc::new(dead_letters.clone()),
        publisher: Arc::new(feed.clone()),
        sources: None,
    };
    let pending = sequencer.state.clone();
    let (sequencer, decider) =
        Sequencer::start(parts, sequencer, sequencer_settings(settings)).map_err(|e| AppError::failed(format!("a thread cannot be started: {e}")))?;
    let deliveries = queue.start(Arc::new(decider.clone()), crate::sinks::SealFollower::trimmable(&store));
    let eraser = Eraser::new(Arc::new(decider.clone()), Arc::new(store.clone()), &pending);
    let actors = Actors::start(&actor_settings(settings), deliveries, Arc::new(queue.clone()), Arc::new(decider));

    let (drain, closing) = (Drain::new(), CancellationToken::new());
    let export_jobs = export_jobs(fs, objects, Arc::new(store.clone()), catalog.clone(), settings)?;
    let deletion = deletion::Parts {
        catalog: catalog.clone(),
        eraser: eraser.clone(),
        dead_letters: dead_letters.clone(),
        exports: export_jobs.clone(),
    };
    let deletions = Deletions::start(deletion, &pending.retired);
    let retention = Retention {
        eraser: eraser.clone(),
        authority: Arc::new(store.clone()),
        catalog: catalog.clone(),
        dead_letters: dead_letters.clone(),
        trimmable: crate::sinks::SealFollower::trimmable(&store),
        interval: settings.retention.interval,
    };
    retention.start();
    let access_log = AccessLog::start(Arc::new(queue.clone()), catalog.clone(), access_log_settings(settings));
    let (issuers, gateway) = credentials.start();
    let auth = Arc::new(Authenticator::new(secret.key(), issuers, gateway, Some(catalog.clone())));
    let services = Services {
        access_log: access_log.clone(),
        eraser: eraser.clone(),
        deletions,
        producer: Arc::new(queue.clone()),
        authority: Arc::new(store.clone()),
        feed: feed.clone(),
        logins: Arc::new(Logins::new(catalog.clone(), secret.key(), settings.login_ttl)),
        catalog: catalog.clone(),
        dead_letters: dead_letters.clone(),
        export_jobs: export_jobs.clone(),
        auth: auth.clone(),
        cursors: http::CursorKey::derive(secret.key()),
        health: health.clone(),
        drain: drain.clone(),
        settings: http_settings(settings, tls),
    };
    let [http, admin] = &listeners;
    let addresses = (address(http)?, address(admin)?);
    let servers = serve(listeners, services, &drain, &closing);
    let (monitor, failure) = monitor::start(monitor::Watched {
        damage_reported,
        auth,
        health: health.clone(),
        actors: actors.watch(),
        queue: queue.clone(),
        store: store.clone(),
        feed: feed.clone(),
        catalog,
        sequencer: sequencer.phase(),
        wal,
        memory_bytes: settings.actors.memory_bytes,
    });
    Ok(Running {
        http: addresses.0,
        admin: addresses.1,
        deadline: settings.shutdown.deadline,
        drain_pause: settings.shutdown.drain,
        health,
        drain,
        closing,
        servers,
        feed,
        access_log,
        eraser,
        actors,
        sequencer,
        queue,
        dead_letters,
        export_jobs,
        store,
        failure,
        monitor,
        _lock: lock,
    })
}

/// The export jobs. They stop well above the reserve, where the intake stops: exports alone never bring it there.
fn export_jobs(fs: Arc<dyn Fs>, objects: Arc<dyn Objects>, authority: Arc<dyn Authority>, catalog: Catalog, settings: &Settings) -> Result<Exports, AppError> {
    let dir = settings.objects_dir.clone();
    let volume = fs
        .space(&dir)
        .map_err(|e| AppError::cannot_start(format!("the volume of the objects cannot be asked for its room: {e}")))?;
    let reserve = reserve(volume.total, settings.disk.reserve);
    let floor = reserve.saturating_add(EXPORT_MARGIN.min(reserve / 2));
    let parts = export::Parts {
        objects,
        authority,
        catalog,
        compile: Arc::new(http::compile_export),
        room: Some(Room { fs, dir, floor }),
        clock: now_ms,
    };
    let s = &settings.exports;
    let settings = ExportSettings {
        jobs: s.jobs,
        queue: s.queue,
        per_tenant: s.per_tenant,
        keep: s.keep,
        ..ExportSettings::default()
    };
    Ok(Exports::start(parts, settings))
}

fn serve(listeners: [TcpListener; 2], services: Services, drain: &Drain, closing: &CancellationToken) -> [JoinHandle<()>; 2] {
    let [http, admin] = listeners;
    let limits = services.settings.clone();
    let plain = HttpSettings { tls: None, ..limits.clone() };
    if let Some(tls) = &limits.tls {
        tokio::spawn(tls.clone().watch(services.health.clone()));
    }
    let admin_router = http::admin_router(services.health.clone(), Arc::new(telemetry::metrics::render));
    let router = http::router(services);
    let stopped = |token: &CancellationToken| token.clone().cancelled_owned();
    [
        tokio::spawn(http::server::serve(http, router, limits, drain.clone(), stopped(closing))),
        // Answers health and metrics until the very end; it is ended with the process.
        tokio::spawn(http::server::serve(admin, admin_router, plain, Drain::new(), std::future::pending())),
    ]
}

async fn bind(key: &str, listen: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(listen)
        .await
        .map_err(|e| AppError::cannot_start(format!("cannot listen on {listen} (`{key}`): {e}")))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, AppError> {
    listener.local_addr().map_err(AppError::failed)
}

impl Running {
    /// Where the API listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Resolves when the process cannot go on. Cancel-safe.
    pub async fn failed(&self) -> AppError {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await.map(|seen| seen.clone()) {
            Ok(Some(error)) => error,
            // The monitor ends only with the process.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Stops in order, under one deadline: not ready · no new requests · sessions closed · export jobs stop at their last chunk ·
    /// the access log is written · erasures end · deliveries end, tenants hand over ·
    /// the last seal is applied · dead letters and store are flushed · the log is closed. What a phase that ran out of time
    /// leaves is delivered or applied again at the next start.
    pub async fn stop(self) -> Result<(), AppError> {
        let Self {
            health,
            drain,
            closing,
            servers: [http, admin],
            feed,
            access_log,
            eraser,
            actors,
            sequencer,
            queue,
            dead_letters,
            export_jobs,
            store,
            monitor,
            ..
        } = self;
        let mut shutdown = Shutdown::begin(self.deadline);
        health.set_phase(Phase::Draining);
        shutdown.phase("balancer", tokio::time::sleep(self.drain_pause), String::new).await;
        closing.cancel();
        drain.stop();
        shutdown.phase("sessions", blocking(move || feed.close()), || "the live feed".into()).await;
        shutdown
            .phase("exports", async move { export_jobs.stop().await }, || "export jobs".into())
            .await;
        shutdown.phase("requests", http, || "requests in hand".into()).await;
        shutdown.phase("access log", access_log.stop(), || "the access log".into()).await;
        shutdown.phase("erasures", eraser.stop(), || "erasures".into()).await;
        queue.stop_accepting();
        queue.stop_delivery();
        shutdown.phase("tenants", actors.stop(), || "tenant actors".into()).await;
        shutdown.phase("sequencer", blocking(move || sequencer.stop()), || "the sequencer".into()).await;
        shutdown.phase("dead letters", dead_letters.drained(), || "dead letters".into()).await;
        let flushed = store.clone();
        let flush = shutdown.phase("store", blocking(move || flushed.flush()), || "the store's flush".into()).await;
        shutdown.phase("log", blocking(move || queue.close()), || "the log".into()).await;
        dead_letters.close();
        let end = move || {
            store.close();
            store.tidy()
        };
        let tidied = shutdown.phase("threads", blocking(end), || "the store".into()).await;
        if let Some(Some(Err(error))) = tidied {
            tracing::warn!(%error, "the files of merged parts stay until the next start");
        }
        monitor.abort();
        admin.abort();
        if let Some(Some(Err(error))) = flush {
            // Not lost: the log has what the flush did not write.
            tracing::warn!(%error, "the store could not be flushed; the next start reads it from the log");
        }
        shutdown.finish().map_err(|left| {
            let names: Vec<String> = left.into_iter().map(|l| format!("{} ({})", l.who, l.phase)).collect();
            AppError::failed(format!("not stopped within `shutdown.deadline`: {}", names.join(", ")))
        })
    }
}

/// Runs what blocks off the reactor; `None` if it panicked, which was logged where it happened.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn queue_settings(settings: &Settings) -> QueueSettings {
    let defaults = QueueSettings::default();
    let limits = Limits {
        undecided_bytes: settings.wal.undecided_bytes as u64,
        undecided_tenant_bytes: settings.wal.undecided_tenant_bytes as u64,
        ..defaults.limits
    };
    QueueSettings {
        limits,
        segment_bytes: settings.wal.segment_bytes,
        ..defaults
    }
}

fn sequencer_settings(settings: &Settings) -> SequencerSettings {
    SequencerSettings {
        seal_bytes: settings.seal.target_bytes,
        window_bytes: settings.seal.window_bytes,
        ..SequencerSettings::default()
    }
}

fn access_log_settings(settings: &Settings) -> AccessLogSettings {
    let s = &settings.access_log;
    AccessLogSettings {
        memory_bytes: s.memory_bytes,
        tenant_bytes: s.memory_bytes / 8,
        linger: s.linger,
    }
}

fn actor_settings(settings: &Settings) -> ActorSettings {
    let s = &settings.actors;
    ActorSettings {
        shards: s.shards,
        idle_after: s.idle_after,
        memory_bytes: s.memory_bytes,
        tenant_bytes: s.tenant_bytes,
        batch_bytes: s.batch_bytes,
        batch_linger: s.batch_linger,
        ..ActorSettings::default()
    }
}

fn limit_settings(settings: &Settings) -> LimitSettings {
    let s = &settings.limits;
    let unless_zero = |n: u64| (n > 0).then_some(n);
    LimitSettings {
        tenant: RateLimit {
            entries_per_second: unless_zero(s.entries_per_second),
            bytes_per_second: unless_zero(s.bytes_per_second),
            burst: unless_zero(s.burst),
        },
        ceiling: s.ceiling,
        tenant_max_entries: s.tenant_max_entries,
        unauthenticated_per_minute: s.unauthenticated_per_minute,
        unauthenticated_burst: s.unauthenticated_burst,
        logins_per_minute: s.logins_per_minute,
    }
}

/// Reads the certificate: what is wrong with it is a wrong configuration.
pub fn open_tls(files: &TlsSettings) -> Result<Tls, AppError> {
    let files = tls::Files {
        cert_file: files.cert_file.clone(),
        key_file: files.key_file.clone(),
    };
    Tls::open(files.clone()).map_err(|error| AppError::usage(format!("configuration: {error} (`{}`)", files.of(error.key).display())))
}

fn http_settings(settings: &Settings, tls: Option<Tls>) -> HttpSettings {
    let s = &settings.http;
    HttpSettings {
        max_body_bytes: s.max_body_bytes,
        max_entries: s.max_entries,
        body_memory_bytes: s.body_memory_bytes,
        body_memory_tenant_bytes: s.body_memory_tenant_bytes,
        body_idle: s.body_idle,
        limits: limit_settings(settings),
        max_connections: s.max_connections,
        header_timeout: s.header_timeout,
        write_stall: s.write_stall,
        tls,
        hsts: s.hsts,
        origins: Origins::new(s.cors_origins.clone()).with_ambient(settings.auth.gateway.is_some()),
        ..HttpSettings::default()
    }
}
