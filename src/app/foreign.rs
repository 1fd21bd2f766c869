//! The foreign queues of the configuration (`[[sources]]`), read by the processes that decide. An SQS queue is read by all of them at once;
//! a Kinesis stream by the one that holds a lease, since each of its readers would get every record.

use super::base::Base;
use crate::{
    error::AppError,
    queue::{Producer, seals::Lease},
    sinks::dead_letter::DeadLetters,
};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The name of the lease.
pub const LEASE: &str = "sources";

/// The sources at work. [`Foreign::stop`] them.
#[derive(Default)]
pub struct Foreign {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

#[cfg(any(feature = "sqs", feature = "kinesis"))]
mod work {
    use super::*;
    use crate::{
        config::{self, SourceChoice},
        sources::{AllowedTenants, Parts, Source, SourceKind, SourceSettings, Sources},
    };
    use std::time::Duration;

    /// Between two tries to open a stream that cannot be opened now.
    const PAUSE: Duration = Duration::from_secs(10);

    impl Foreign {
        /// Opens all of them. `Err`: one is not there, or may not be read.
        pub async fn start(base: &Base<'_>, producer: Arc<dyn Producer>, dead_letters: DeadLetters, lease: Lease) -> Result<Self, AppError> {
            let all = &base.settings.engines.sources;
            if all.is_empty() {
                return Ok(Self::default());
            }
            let parts = Parts {
                producer,
                catalog: base.catalog.clone(),
                dead_letters,
                objects: base.objects.clone(),
            };
            let (config, mut queues, mut streams) = (super::super::engines::aws().await, Vec::new(), Vec::new());
            for source in all {
                let settings = settings(source)?;
                // A stream is opened for a trial: what is wrong with it is to be said at the start.
                let opened = Source::open(&settings, &config, &parts).await.map_err(AppError::failed)?;
                match settings.kind {
                    SourceKind::Sqs { .. } => queues.push(opened),
                    SourceKind::Kinesis { .. } => streams.push(settings),
                }
            }
            let mut this = Self::default();
            if !queues.is_empty() {
                let (stop, sources) = (this.stop.clone(), Sources::start(queues));
                this.tasks.push(tokio::spawn(async move {
                    stop.cancelled().await;
                    sources.stop().await;
                }));
            }
            if !streams.is_empty() {
                this.tasks.push(tokio::spawn(by_turns(streams, config, parts, lease, this.stop.clone())));
            }
            Ok(this)
        }
    }

    /// Reads the streams while the lease is held.
    async fn by_turns(streams: Vec<SourceSettings>, config: aws_config::SdkConfig, parts: Parts, mut lease: Lease, stop: CancellationToken) {
        loop {
            let held = tokio::select! {
                () = stop.cancelled() => return,
                held = lease.take() => held,
            };
            let (lost, mut opened) = (held.lost(), Vec::new());
            for settings in &streams {
                match Source::open(settings, &config, &parts).await {
                    Ok(source) => opened.push(source),
                    Err(error) => tracing::warn!(%error, "a foreign stream cannot be opened now; it is tried again"),
                }
            }
            let all = opened.len() == streams.len();
            let sources = Sources::start(opened);
            tokio::select! {
                () = stop.cancelled() => {}
                () = lost.cancelled() => {}
                () = tokio::time::sleep(PAUSE), if !all => {}
            }
            sources.stop().await;
            held.release().await;
            if stop.is_cancelled() {
                return;
            }
        }
    }

    fn settings(source: &config::SourceSettings) -> Result<SourceSettings, AppError> {
        let tenants: Vec<_> = source.tenants.texts().collect();
        Ok(SourceSettings {
            kind: match &source.from {
                SourceChoice::Sqs(url) => SourceKind::Sqs { url: url.clone() },
                SourceChoice::Kinesis(stream) => SourceKind::Kinesis { stream: stream.clone() },
            },
            tenants: AllowedTenants::parse(&tenants).map_err(AppError::usage)?,
            actor: source.actor.clone(),
        })
    }
}

impl Foreign {
    /// `config` refuses sources whose features are not built, so there are none.
    #[cfg(not(any(feature = "sqs", feature = "kinesis")))]
    pub async fn start(_: &Base<'_>, _: Arc<dyn Producer>, _: DeadLetters, _: Lease) -> Result<Self, AppError> {
        Ok(Self::default())
    }

    /// Receives nothing more, and acknowledges what is decided. While the producer still accepts.
    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            if task.await.is_err() {
                tracing::error!("a task that reads foreign queues had panicked");
            }
        }
    }
}
