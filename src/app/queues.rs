//! The shared queue of the configuration: the way in (a transport for each partition), and the way out, opened by whoever owns a partition.

#[cfg(any(feature = "sqs", feature = "kinesis"))]
use super::stores::Trouble;
use crate::{
    config::{KinesisSettings, QueueChoice, Settings, SqsSettings},
    error::AppError,
    queue::remote::{Receive, Transport},
    seal::{source::SourceProgress, state::SealState},
};
use std::sync::Arc;
#[cfg(any(feature = "sqs", feature = "kinesis"))]
use std::time::Duration;

/// Both ways, by partition.
pub struct Queues {
    /// In.
    pub transports: Vec<Arc<dyn Transport>>,
    /// Out.
    pub openers: Vec<Arc<dyn OpenQueue>>,
}

/// The way out of one partition.
pub trait OpenQueue: Send + Sync + 'static {
    /// Opens it where `state`, that of the last seal, says that it was read to.
    fn open(&self, state: &SealState) -> Open;
}

/// A queue that can be read.
pub struct Open {
    /// Messages.
    pub receive: Arc<dyn Receive>,
    /// How far it is decided, if it knows no acknowledgement.
    pub progress: Option<Arc<dyn SourceProgress>>,
}

/// How long a start waits for a queue that does not answer.
#[cfg(any(feature = "sqs", feature = "kinesis"))]
const PATIENCE: Duration = Duration::from_secs(60);
#[cfg(any(feature = "sqs", feature = "kinesis"))]
const PAUSE: Duration = Duration::from_secs(1);

/// Reaches the queues and checks what a queue must be like.
pub async fn open(settings: &Settings) -> Result<Queues, AppError> {
    match &settings.engines.queue {
        QueueChoice::Wal => Err(AppError::failed("the log is no shared queue")),
        QueueChoice::Sqs(sqs) => self::sqs(settings, sqs).await,
        QueueChoice::Kinesis(kinesis) => self::kinesis(kinesis).await,
    }
}

#[cfg(feature = "sqs")]
async fn sqs(settings: &Settings, sqs: &SqsSettings) -> Result<Queues, AppError> {
    use crate::queue::sqs::{Role, open, receive::SqsReceive};
    struct Sqs(Arc<SqsReceive>);
    impl OpenQueue for Sqs {
        fn open(&self, _: &SealState) -> Open {
            Open {
                receive: self.0.clone(),
                progress: None,
            }
        }
    }
    let its = crate::queue::sqs::SqsSettings {
        urls: sqs.urls.clone(),
        dead_letter_urls: sqs.dead_letter_urls.iter().map(|url| url.clone().unwrap_or_default()).collect(),
        wait: sqs.wait,
        visibility: sqs.visibility,
        receivers: sqs.receivers,
        retention: sqs.min_retention,
        ..Default::default()
    };
    let role = Role {
        sends: true, // a consumer orders erasures
        receives: settings.role.consumes(),
    };
    let opened = until_reached(|| async {
        let wrong = match open(&its, role).await {
            Ok(partitions) => return Ok(partitions),
            Err(wrong) => wrong,
        };
        let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        match wrong.iter().all(|error| error.may_pass()) {
            true => Err(Trouble::Down(lines.join("; "))),
            false => Err(Trouble::Refused(lines.join("\n"))),
        }
    });
    let partitions = opened.await?;
    Ok(Queues {
        transports: partitions.iter().map(|queue| queue.transport.clone() as Arc<dyn Transport>).collect(),
        openers: partitions
            .iter()
            .map(|queue| Arc::new(Sqs(queue.receive.clone())) as Arc<dyn OpenQueue>)
            .collect(),
    })
}

#[cfg(not(feature = "sqs"))]
async fn sqs(_: &Settings, _: &SqsSettings) -> Result<Queues, AppError> {
    Err(super::engines::not_built("sqs"))
}

#[cfg(feature = "kinesis")]
async fn kinesis(kinesis: &KinesisSettings) -> Result<Queues, AppError> {
    use crate::queue::kinesis::{Stream, receive, send::KinesisTransport};
    struct Kinesis(Stream, Duration);
    impl OpenQueue for Kinesis {
        fn open(&self, state: &SealState) -> Open {
            let settings = receive::KinesisSettings { poll: self.1 };
            let receiver = Arc::new(receive::KinesisReceiver::new(self.0.clone(), state.sources.clone(), settings));
            Open {
                receive: receiver.clone(),
                progress: Some(receiver),
            }
        }
    }
    let config = super::engines::aws().await;
    let streams: Vec<_> = kinesis.streams.iter().map(|name| Stream::new(&config, name)).collect();
    until_reached(|| async {
        for stream in &streams {
            stream.check().await.map_err(|error| match error.may_pass() {
                true => Trouble::Down(error.to_string()),
                false => Trouble::Refused(error.to_string()),
            })?;
        }
        Ok(())
    })
    .await?;
    let opener = |stream: &Stream| Arc::new(Kinesis(stream.clone(), kinesis.poll)) as Arc<dyn OpenQueue>;
    Ok(Queues {
        transports: streams
            .iter()
            .map(|stream| Arc::new(KinesisTransport::new(stream.clone())) as Arc<dyn Transport>)
            .collect(),
        openers: streams.iter().map(opener).collect(),
    })
}

#[cfg(not(feature = "kinesis"))]
async fn kinesis(_: &KinesisSettings) -> Result<Queues, AppError> {
    Err(super::engines::not_built("kinesis"))
}

/// Asks until the queue answers: without it a process can do nothing at all. A refusal ends it, and so does silence for too long.
#[cfg(any(feature = "sqs", feature = "kinesis"))]
async fn until_reached<T, F: Future<Output = Result<T, Trouble>>>(ask: impl Fn() -> F) -> Result<T, AppError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(reached) => return Ok(reached),
            Err(Trouble::Refused(why)) => return Err(AppError::failed(why)),
            Err(Trouble::Down(why)) if tokio::time::Instant::now() >= deadline => return Err(AppError::failed(why)),
            Err(Trouble::Down(why)) => tracing::warn!(%why, "the queue does not answer; it is asked again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
