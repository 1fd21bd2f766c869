//! Reading a stream: [`Shards`] says what is next, this does it.
//!
//! Nothing runs by itself: a shard is read while somebody waits in [`Receive::receive`], so that what is in memory is bounded by
//! whoever asks, and by the bounds of [`shards`](super::shards). Each shard is read by one call at a time.

use super::{
    Stream,
    send::jittered,
    shards::{Fetch, Next, Shards, Start, Trouble},
};
use crate::{
    model::time::now_ms,
    queue::remote::{Receipt, Receive, ReceiveError, Received, Reception, aws::Failure},
    seal::source::{SourceCheckpoints, SourceProgress, SourceReport},
    telemetry::metrics::metrics,
};
use futures_util::future::BoxFuture;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How long one call waits for records.
const LONG_POLL: Duration = Duration::from_secs(1);
/// How often the shards are listed, so that those whose last record is gone are forgotten.
const LIST_EVERY: Duration = Duration::from_secs(300);
/// How often they are listed while children are expected.
const LIST_SOON: Duration = Duration::from_secs(1);
/// Messages of one call at most: whoever calls makes room for them beforehand; the rest of a read waits here.
const MESSAGES: usize = 8;
/// Calls at a time.
const RECEIVERS: usize = 4;

/// How a stream is read.
#[derive(Debug, Clone, Copy)]
pub struct KinesisSettings {
    /// The least time between two reads of one shard: Kinesis allows five a second to all who read.
    pub poll: Duration,
}

impl Default for KinesisSettings {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(200),
        }
    }
}

/// See the module.
pub struct KinesisReceiver {
    stream: Stream,
    shards: Mutex<Shards>,
    listed: tokio::sync::Mutex<Option<Instant>>,
    changed: Notify,
}

/// Lets the shard be read again if the call ends without an outcome.
struct Fetching<'a> {
    of: &'a KinesisReceiver,
    fetch: Fetch,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.of.shards().abandoned(self.fetch); // nothing, if it had an outcome
    }
}

impl Drop for KinesisReceiver {
    fn drop(&mut self) {
        metrics().stream_lag(self.stream.name(), Duration::ZERO); // whoever reads now tells of it
    }
}

impl KinesisReceiver {
    /// Reads `stream` on from `checkpoints`.
    pub fn new(stream: Stream, checkpoints: SourceCheckpoints, settings: KinesisSettings) -> Self {
        let shards = Shards::new(stream.name().clone(), checkpoints, settings.poll);
        Self {
            stream,
            shards: Mutex::new(shards),
            listed: tokio::sync::Mutex::new(None),
            changed: Notify::new(),
        }
    }

    fn shards(&self) -> MutexGuard<'_, Shards> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner) // its methods do not panic half way
    }

    /// How far behind the newest record the decisions are, milliseconds.
    pub fn lag_ms(&self) -> u64 {
        self.shards().lag_ms(now_ms())
    }

    fn note_lag(&self) {
        metrics().stream_lag(self.stream.name(), Duration::from_millis(self.lag_ms()));
    }

    async fn next(&self, max: usize) -> Result<Vec<Received>, ReceiveError> {
        let until = Instant::now() + LONG_POLL;
        loop {
            let changed = self.changed.notified();
            self.list_if_due().await?;
            if let Some(taken) = self.take(max) {
                return Ok(taken);
            }
            let (now, next) = (Instant::now(), self.shards().due(Instant::now()));
            let pause = match next {
                Next::Fetch { fetch, shard, start, iterator } => {
                    self.fetch(fetch, &shard, &start, iterator).await?;
                    continue;
                }
                Next::Wait(at) => at.unwrap_or(until).min(until),
            };
            if now >= until {
                return Ok(Vec::new());
            }
            tokio::select! {
                () = tokio::time::sleep_until(pause) => {}
                () = changed => {}
            }
        }
    }

    fn take(&self, max: usize) -> Option<Vec<Received>> {
        let (index, shard, records) = self.shards().take(max)?;
        self.changed.notify_waiters(); // the shard may be read again
        let received = |record: super::shards::Record| Received {
            id: format!("{shard}:{}", record.number).into(),
            receipt: Receipt {
                source: index,
                handle: record.number,
            },
            body: Ok(record.data),
            receptions: 1,
            sent_at: record.sent_at,
            set_aside: false,
        };
        Some(records.into_iter().map(received).collect())
    }

    /// Lists the shards when that is due; others do not wait for it unless nothing is known yet.
    async fn list_if_due(&self) -> Result<(), ReceiveError> {
        let wanted = self.shards().wants_list();
        let known = self.shards().places().is_some();
        let mut listed = if known {
            let Ok(listed) = self.listed.try_lock() else { return Ok(()) };
            listed
        } else {
            self.listed.lock().await
        };
        let every = if wanted { LIST_SOON } else { LIST_EVERY };
        if listed.is_some_and(|at| at.elapsed() < every) {
            return Ok(());
        }
        let all = self.stream.shards().await.map_err(|failure| self.error("ListShards", &failure))?;
        tracing::debug!(stream = %self.stream.name(), shards = all.len(), "the shards were listed");
        self.shards().listed(all, Instant::now());
        *listed = Some(Instant::now());
        self.note_lag();
        Ok(())
    }

    /// Reads one shard. Throttling and expiry are its own business; what is wrong with the stream is an error.
    async fn fetch(&self, fetch: Fetch, shard: &str, start: &Start, iterator: Option<String>) -> Result<(), ReceiveError> {
        let _fetching = Fetching { of: self, fetch };
        let (call, outcome) = match iterator {
            Some(iterator) => ("GetRecords", self.stream.records(&iterator).await),
            None => match self.stream.iterator(shard, start).await {
                Ok(iterator) => ("GetRecords", self.stream.records(&iterator).await),
                Err(failure) => ("GetShardIterator", Err(failure)),
            },
        };
        let failure = match outcome {
            Ok(batch) => {
                self.shards().fetched(fetch, batch.records, batch.next, batch.behind_ms, Instant::now());
                self.note_lag();
                self.changed.notify_waiters();
                return Ok(());
            }
            Err(failure) => failure,
        };
        let (trouble, quiet) = match failure.code.as_str() {
            "ExpiredIteratorException" => (Trouble::Expired, true),
            "InvalidArgumentException" => (Trouble::NoSuchPlace, *start != Start::Oldest),
            _ => (Trouble::Refused, failure.definite && failure.retry),
        };
        if trouble == Trouble::NoSuchPlace {
            tracing::warn!(stream = %self.stream.name(), shard, why = %failure.text, "the place in the shard is unknown: it is read from its beginning, what was decided is known");
        } else {
            tracing::debug!(stream = %self.stream.name(), shard, call, why = %failure.text, "the shard is read again later");
        }
        let pause = jittered(Duration::from_millis(20));
        self.shards().failed(fetch, trouble, Instant::now() + pause);
        if quiet { Ok(()) } else { Err(self.error(call, &failure)) }
    }

    fn error(&self, call: &'static str, failure: &Failure) -> ReceiveError {
        ReceiveError {
            lasting: failure.is_lasting(),
            text: format!("stream `{}`: {call}: {}", self.stream.name(), failure.text).into(),
        }
    }
}

impl Receive for KinesisReceiver {
    fn receive(&self, max: usize) -> BoxFuture<'_, Result<Vec<Received>, ReceiveError>> {
        Box::pin(self.next(max))
    }

    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>> {
        let mut shards = self.shards();
        for Receipt { source, handle } in receipts {
            shards.done(source, &handle);
        }
        drop(shards);
        self.note_lag();
        self.changed.notify_waiters();
        Box::pin(std::future::ready(Vec::new()))
    }

    fn extend(&self, _: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>> {
        Box::pin(std::future::ready(Vec::new())) // there is no hold
    }

    /// Reads their shards again from where they are decided: nobody else would.
    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        let mut shards = self.shards();
        receipts.iter().for_each(|receipt| shards.give_back(receipt.source));
        drop(shards);
        self.changed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn reception(&self) -> Reception {
        Reception {
            messages: MESSAGES,
            receivers: RECEIVERS,
            pause: Duration::ZERO, // each shard has its own
            hold: None,
        }
    }
}

impl SourceProgress for KinesisReceiver {
    fn report(&self) -> Vec<SourceReport> {
        let shards = self.shards().places();
        let report = |shards| SourceReport {
            source: self.stream.name().clone(),
            shards,
        };
        shards.map(report).into_iter().collect()
    }
}
