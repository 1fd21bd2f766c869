//! The only place that knows everything: what is built in which order, and what is stopped in which.
//!
//! ```text
//! base: folder locked, ports taken, objects, secret, catalog
//!   ├─ queue.kind = wal ──▶ embedded: log, stores, sequencer, actors ─┐
//!   └─ sqs | kinesis ─────▶ shared: tail, producer; partitions ───────┴─▶ front: the HTTP surface ─▶ monitor: health, metrics
//! ```
//!
//! Start: lock the folder, take the ports, open what was left, then listen. Writes are taken at once; reads are 503 until
//! everything that is durable can be shown. Stop: see [`Running::stop`].

mod base;
mod beside;
mod cluster;
mod embedded;
mod engines;
pub mod folder;
mod foreign;
mod front;
mod kept;
mod monitor;
mod partition;
#[cfg(test)]
mod power;
mod queues;
mod recovered;
mod settings;
mod shared;
mod stores;

pub use self::{
    base::{open_tls, read_files},
    engines::Passwords,
    stores::migrate,
};

use self::{
    base::Base,
    embedded::Embedded,
    folder::FolderLock,
    front::{Front, Listening},
    shared::Shared,
};
use crate::{
    config::Settings,
    error::AppError,
    http::health::{Health, Phase},
    shutdown::Shutdown,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// The running process. [`Running::stop`] it; dropping it lets go of everything as a crash would.
pub struct Running {
    deadline: Duration,
    drain_pause: Duration,
    health: Arc<Health>,
    listening: Listening,
    /// `None` where no requests are taken.
    front: Option<Front>,
    body: Body,
    failure: watch::Receiver<Option<AppError>>,
    monitor: JoinHandle<()>,
    _lock: FolderLock,
}

/// What depends on the arrangement of engines.
enum Body {
    Embedded(Embedded),
    Shared(Shared),
}

/// Runs the server until SIGTERM or Ctrl-C, or until it cannot go on.
pub async fn run(settings: Settings) -> Result<(), AppError> {
    // Before anybody is told that the process is there, and can ask it to stop.
    let mut asked = std::pin::pin!(crate::shutdown::requested()?);
    let running = tokio::select! {
        started = start(&settings) => started?,
        () = &mut asked => return Ok(()), // nothing was taken yet; what was read is as it was
    };
    let (http, admin) = (running.http(), running.listening.admin);
    crate::cli::print(&format!("listening http={http} admin={admin}\n"))?;
    tracing::info!(%http, %admin, role = settings.role.name(), data_dir = %settings.data_dir.display(), "listening; `sluice token` makes a credential");
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
    let base = Base::open(settings).await?;
    match settings.engines.queue.is_shared() {
        false => embedded::start(base).await,
        true => shared::start(base).await,
    }
}

impl Running {
    /// Where the API listens.
    pub fn http(&self) -> SocketAddr {
        self.listening.http
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
    /// the access log is written · what the engines of this process need ([`Embedded::stop`], [`Shared::stop`]). What a phase that ran out of time
    /// leaves is delivered or applied again at the next start.
    pub async fn stop(self) -> Result<(), AppError> {
        let Self {
            health,
            mut listening,
            front,
            body,
            monitor,
            ..
        } = self;
        let mut shutdown = Shutdown::begin(self.deadline);
        health.set_phase(Phase::Draining);
        shutdown.phase("balancer", tokio::time::sleep(self.drain_pause), String::new).await;
        match front {
            Some(front) => front.stop(&mut listening, &mut shutdown).await,
            None => {
                listening.close();
                listening.closed(&mut shutdown).await;
            }
        }
        match body {
            Body::Embedded(embedded) => embedded.stop(&mut shutdown).await,
            Body::Shared(shared) => shared.stop(&mut shutdown).await,
        }
        monitor.abort();
        listening.end();
        shutdown.finish().map_err(|left| {
            let names: Vec<String> = left.into_iter().map(|l| format!("{} ({})", l.who, l.phase)).collect();
            AppError::failed(format!("not stopped within `shutdown.deadline`: {}", names.join(", ")))
        })
    }
}

fn address(listener: &TcpListener) -> Result<SocketAddr, AppError> {
    listener.local_addr().map_err(AppError::failed)
}

/// Runs what blocks off the reactor; `None` if it panicked, which was logged where it happened.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
