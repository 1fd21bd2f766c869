//! Foreign queues of this process: opened at the start, so that what is wrong in the configuration is said at once, then read until
//! the process stops. One that does not answer holds up nothing else: it is opened later.
//!
//! Where several processes decide, each of them reads the queues; a stream is read by the one that holds its lease.

#[cfg(not(any(feature = "sqs", feature = "kinesis")))]
pub use nothing::Foreign;
#[cfg(any(feature = "sqs", feature = "kinesis"))]
pub use reading::Foreign;

#[cfg(any(feature = "sqs", feature = "kinesis"))]
mod reading {
    use crate::{
        config::{Settings, SourceChoice},
        error::AppError,
        queue::seals::{Held, Lease},
        sources::{AllowedTenants, Parts, Source, SourceKind, SourceSettings},
    };
    use aws_config::SdkConfig;
    use std::time::Duration;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    /// Between two attempts to open a queue that does not answer.
    const PAUSE: Duration = Duration::from_secs(10);

    /// See the module.
    #[derive(Default)]
    pub struct Foreign {
        stop: CancellationToken,
        reading: JoinSet<()>,
    }

    impl Foreign {
        /// Opens what is configured and begins to read. `lease` gives the lease of this name, where there are other processes.
        pub async fn start(settings: &Settings, parts: Parts, lease: impl Fn(&str) -> Result<Option<Lease>, AppError>) -> Result<Self, AppError> {
            let mut this = Self::default();
            if settings.engines.sources.is_empty() {
                return Ok(this);
            }
            let config = crate::app::engines::aws().await;
            for source in &settings.engines.sources {
                let patterns: Vec<String> = source.tenants.texts().collect();
                let source = SourceSettings {
                    kind: match &source.from {
                        SourceChoice::Sqs(url) => SourceKind::Sqs { url: url.clone() },
                        SourceChoice::Kinesis(stream) => SourceKind::Kinesis { stream: stream.clone() },
                    },
                    tenants: AllowedTenants::parse(&patterns).map_err(AppError::usage)?,
                    actor: source.actor.clone(),
                };
                let lease = match &source.kind {
                    SourceKind::Sqs { .. } => None,
                    SourceKind::Kinesis { stream } => lease(&format!("source-{:016x}", xxhash_rust::xxh3::xxh3_64(stream.as_bytes())))?,
                };
                match Source::open(&source, &config, &parts).await {
                    Err(error) if error.lasting => return Err(AppError::failed(error)),
                    Err(error) => tracing::warn!(%error, "it is opened later"),
                    Ok(_) => {}
                }
                let reading = Reading {
                    source,
                    config: config.clone(),
                    parts: parts.clone(),
                    lease,
                    stop: this.stop.clone(),
                };
                this.reading.spawn(reading.run());
            }
            Ok(this)
        }

        /// Receives nothing more; resolves when what is in hand is at its end or given back. The producer must still accept.
        pub async fn stop(mut self) {
            self.stop.cancel();
            while self.reading.join_next().await.is_some() {}
        }
    }

    struct Reading {
        source: SourceSettings,
        config: SdkConfig,
        parts: Parts,
        lease: Option<Lease>,
        stop: CancellationToken,
    }

    impl Reading {
        async fn run(mut self) {
            while !self.stop.is_cancelled() {
                let held = match &mut self.lease {
                    None => None,
                    Some(lease) => tokio::select! {
                        () = self.stop.cancelled() => return,
                        held = lease.take() => Some(held),
                    },
                };
                // Opened in this turn: how far others have read a stream is read here.
                let opened = Source::open(&self.source, &self.config, &self.parts).await;
                let failed = opened.is_err();
                match opened {
                    Ok(source) => self.turn(source, held.as_ref()).await,
                    Err(error) => tracing::warn!(%error, "it is opened later"),
                }
                if let Some(held) = held {
                    held.release().await;
                }
                if failed {
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
            }
        }

        /// Reads until the process stops, or another holds the lease.
        async fn turn(&self, source: Source, held: Option<&Held>) {
            let turn = self.stop.child_token();
            let lost = async {
                match held {
                    Some(held) => held.lost().cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let reading = source.run(turn.clone());
            tokio::pin!(reading);
            tokio::select! {
                () = &mut reading => return,
                () = lost => turn.cancel(),
            }
            reading.await;
        }
    }
}

#[cfg(not(any(feature = "sqs", feature = "kinesis")))]
mod nothing {
    use crate::{config::Settings, error::AppError, queue::seals::Lease, sources::Parts};

    /// There are no clients: the configuration refuses sources.
    #[derive(Default)]
    pub struct Foreign;

    impl Foreign {
        /// Nothing.
        pub async fn start(_: &Settings, _: Parts, _: impl Fn(&str) -> Result<Option<Lease>, AppError>) -> Result<Self, AppError> {
            Ok(Self)
        }

        /// Nothing.
        pub async fn stop(self) {}
    }
}
