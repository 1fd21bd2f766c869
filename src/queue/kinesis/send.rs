//! Putting envelopes into a stream.
//!
//! One `PutRecords` may take some records and refuse others; every item of its answer is read. Refused items (throughput) are put
//! again, alone and after a growing pause: the order of the rest changes by that, which is harmless, because packs are numbered when
//! they are decided. What may have taken effect is never put again here: whoever accepts decides that.

use super::Stream;
use crate::queue::remote::{Limits, Message, SendError, Transport, aws::Failure};
use futures_util::future::BoxFuture;
use std::time::Duration;

/// How often refused items are put, the first time included.
const ATTEMPTS: u32 = 6;
/// Before the second attempt; doubles. In all some 1.5 s, in which a shard takes 1.5 MiB.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Kinesis counts a record's partition key too: twenty digits at most.
const KEY_BYTES: usize = 20;
const RECORD_BYTES: usize = 1 << 20;
const BATCH_BYTES: usize = 5 << 20;
const BATCH_RECORDS: usize = 500;
/// Tenants are spread over so many keys: some for each of a few dozen shards, few enough that thin traffic shares records.
const BUCKETS: u64 = 64;

/// See the module.
pub struct KinesisTransport {
    stream: Stream,
}

impl KinesisTransport {
    /// Puts into this stream.
    pub fn new(stream: Stream) -> Self {
        Self { stream }
    }

    async fn put(&self, messages: Vec<Message>) -> Vec<Result<(), SendError>> {
        let mut results: Vec<Option<Result<(), SendError>>> = messages.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..messages.len()).collect();
        for attempt in 1..=ATTEMPTS {
            let records = open.iter().map(|at| (messages[*at].key.to_string(), messages[*at].body.clone()));
            let outcomes = match self.stream.put(records).await {
                Ok(outcomes) if outcomes.len() == open.len() => outcomes,
                Ok(_) => open
                    .iter()
                    .map(|_| Err(Failure::of_code("", Some("PutRecords answered another question"), false)))
                    .collect(),
                Err(failure) => open.iter().map(|_| Err(failure.clone())).collect(),
            };
            let mut refused = Vec::new();
            for (at, outcome) in open.into_iter().zip(outcomes) {
                match outcome {
                    Err(failure) if failure.definite && failure.retry && attempt < ATTEMPTS => refused.push(at),
                    outcome => results[at] = Some(outcome.map_err(SendError::from)),
                }
            }
            open = refused;
            if open.is_empty() {
                break;
            }
            tracing::debug!(stream = %self.stream.name(), refused = open.len(), attempt, "records were refused and are put again");
            tokio::time::sleep(jittered(FIRST_PAUSE * (1 << (attempt - 1)))).await;
        }
        let unknown = || {
            Err(SendError {
                definite: false,
                retry: true,
                text: "the record was not answered".into(),
            })
        };
        results.into_iter().map(|result| result.unwrap_or_else(unknown)).collect()
    }
}

impl Transport for KinesisTransport {
    fn send(&self, messages: Vec<Message>) -> BoxFuture<'_, Vec<Result<(), SendError>>> {
        Box::pin(self.put(messages))
    }

    fn limits(&self) -> Limits {
        Limits {
            message_bytes: RECORD_BYTES - KEY_BYTES,
            batch_bytes: BATCH_BYTES - BATCH_RECORDS * KEY_BYTES,
            batch_messages: BATCH_RECORDS,
            buckets: BUCKETS,
        }
    }
}

/// Between a half and the whole of it, so that those who were refused together do not come back together.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
