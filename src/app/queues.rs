//! The shared queue of the configuration: the way in (a transport for each partition), and the way out, opened by whoever owns a partition.

use crate::{
    config::{QueueChoice, Settings},
    error::AppError,
    queue::remote::{Receive, Transport},
    seal::{source::SourceProgress, state::SealState},
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

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

/// Reaches the queues and checks what a queue must be like. One that does not answer now is no reason not to start: it is said, and
/// whoever needs it waits or is refused.
pub async fn open(settings: &Settings) -> Result<Queues, AppError> {
    match &settings.engines.queue {
        QueueChoice::Wal => Err(AppError::failed("the log is no shared queue")),
        QueueChoice::Sqs(sqs) => self::sqs(sqs).await,
        QueueChoice::Kinesis(kinesis) => self::kinesis(kinesis).await,
    }
}
