//! Kinesis as a partition: a stream takes the envelopes of [`remote`](super::remote), shard by shard.
//!
//! ```text
//! Transport ─PutRecords→ shards (by the hash of the key)      GetRecords, one shard after the other ─▶ Receive ─▶ done
//!                                                             shards: parents to their end, then children      │
//!                                        seal n carries the checkpoint ◀── SourceProgress: contiguous prefix ◀─┘
//! ```
//!
//! - [`send`] puts records; [`shards`] knows (pure) which shard is to be read when and how far each is decided; [`receive`] reads.
//! - Kinesis knows no acknowledgement. The progress of a shard is the longest run of its records, from the beginning, that are all
//!   done; it is carried in the seals ([`seal::source`](crate::seal::source)), and a start begins there. What is delivered twice by
//!   that is known by its pack id.
//! - A child of a split or merge is read when everything in its parents is **decided**, so that a tenant's packs keep their order,
//!   and one place per shard says everything.
//! - A start refuses a stream that is not there, not active, or keeps records for less than seven days.
//!
//! Not here: enhanced fan-out (one consumer per partition reads within the shared limits) and the resharding itself.

pub mod receive;
pub mod send;
pub mod shards;
#[cfg(test)]
mod tests;

use super::remote::aws::{Failure, classify, is_about_credentials};
use crate::model::time::now_ms;
use aws_config::SdkConfig;
use aws_sdk_kinesis::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::{PutRecordsRequestEntry, PutRecordsResultEntry, Record, ShardIteratorType, StreamStatus},
};
use bytes::Bytes;
use shards::{Listed, Start};
use std::{sync::Arc, time::Duration};

/// The least time that a stream must keep records, hours: a consumer may be down for days, and what it has not decided is only here.
pub const LEAST_RETENTION_HOURS: i32 = 7 * 24;

/// Records of one `GetRecords` at most; it ends after 10 MiB too.
const RECORDS: i32 = 2000;

/// One call, however slow, is given up after this time.
const CALL: Duration = Duration::from_secs(20);

/// Why a stream cannot be used. The words are for whoever starts the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KinesisError {
    /// There is none of this name.
    #[error("there is no Kinesis stream `{stream}` in this account and region; create it, or put `queue.kinesis.streams` right")]
    NoSuchStream {
        /// Its name.
        stream: Arc<str>,
    },
    /// It is being made or deleted.
    #[error("the Kinesis stream `{stream}` is `{status}` and not active; wait until it is")]
    NotActive {
        /// Its name.
        stream: Arc<str>,
        /// What it is instead.
        status: String,
    },
    /// It forgets too early.
    #[error(
        "the Kinesis stream `{stream}` keeps records for {hours} hours, at least {LEAST_RETENTION_HOURS} are needed: what a consumer that is down has not decided is only there; `aws kinesis increase-stream-retention-period --stream-name {stream} --retention-period-hours {LEAST_RETENTION_HOURS}`"
    )]
    Retention {
        /// Its name.
        stream: Arc<str>,
        /// How long it keeps records.
        hours: i32,
    },
    /// The service does not know the credentials.
    #[error(
        "Kinesis refuses the credentials for the stream `{stream}`: {text}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the role of the instance"
    )]
    Credentials {
        /// Its name.
        stream: Arc<str>,
        /// What came back.
        text: String,
    },
    /// The credentials may not do this.
    #[error("the credentials may not call `kinesis:{call}` on the stream `{stream}`: {text}; allow it in the IAM policy")]
    Permission {
        /// Its name.
        stream: Arc<str>,
        /// The call.
        call: &'static str,
        /// What came back.
        text: String,
    },
    /// The service did not answer, or refused.
    #[error("the Kinesis stream `{stream}` cannot be used, `{call}` failed: {text}")]
    Failed {
        /// Its name.
        stream: Arc<str>,
        /// The call.
        call: &'static str,
        /// What came back.
        text: String,
    },
}

impl KinesisError {
    /// What a failed call means for whoever starts the process.
    fn of(stream: &Arc<str>, call: &'static str, failure: Failure) -> Self {
        let (stream, text) = (stream.clone(), failure.text);
        match failure.code.as_str() {
            "ResourceNotFoundException" => Self::NoSuchStream { stream },
            "AccessDenied" | "AccessDeniedException" | "KMSAccessDeniedException" => Self::Permission { stream, call, text },
            code if is_about_credentials(code) || (code.is_empty() && text.contains("credentials")) => Self::Credentials { stream, text },
            _ => Self::Failed { stream, call, text },
        }
    }

    /// Whether it may pass by itself, so that a start may wait for it.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::NotActive { .. })
    }
}

/// One stream, by name or ARN. Cheap to clone.
#[derive(Clone)]
pub struct Stream {
    client: Client,
    name: Arc<str>,
}

/// What one `GetRecords` gave.
pub(crate) struct Batch {
    pub(crate) records: Vec<shards::Record>,
    /// `None`: the shard was closed and is read to its end.
    pub(crate) next: Option<String>,
    /// By how much the shard's newest record is ahead, milliseconds.
    pub(crate) behind_ms: u64,
}

impl Stream {
    /// The stream of this name or ARN, with the process's configuration of AWS ([`aws::config`](super::remote::aws::config)).
    pub fn new(config: &SdkConfig, name: &str) -> Self {
        Self {
            client: Client::new(config),
            name: name.into(),
        }
    }

    /// Its name or ARN, as it was given.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Name and ARN for a request: one of them.
    fn named(&self) -> (Option<String>, Option<String>) {
        let text = self.name.to_string();
        if text.starts_with("arn:") { (None, Some(text)) } else { (Some(text), None) }
    }

    /// Whether it can be a partition: it is there, active, keeps records long enough, and its shards may be read.
    pub async fn check(&self) -> Result<(), KinesisError> {
        match self.check_exists().await? {
            LEAST_RETENTION_HOURS.. => Ok(()),
            hours => Err(KinesisError::Retention {
                stream: self.name.clone(),
                hours,
            }),
        }
    }

    /// Whether it is there, active, and its shards may be read; for how many hours it keeps records.
    pub async fn check_exists(&self) -> Result<i32, KinesisError> {
        let stream = self.name.clone();
        let failed = |call, failure: Failure| KinesisError::of(&stream, call, failure);
        let (name, arn) = self.named();
        let request = self.client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
        let answer = bounded(request.send()).await.map_err(|failure| failed("DescribeStreamSummary", failure))?;
        let Some(summary) = answer.stream_description_summary else {
            return Err(failed("DescribeStreamSummary", Failure::of_code("", Some("it describes nothing"), true)));
        };
        // While it is split or merged it is `UPDATING`, and works.
        if !matches!(summary.stream_status, StreamStatus::Active | StreamStatus::Updating) {
            let status = summary.stream_status.as_str().to_owned();
            return Err(KinesisError::NotActive { stream, status });
        }
        self.shards().await.map_err(|failure| failed("ListShards", failure))?;
        Ok(summary.retention_period_hours)
    }

    /// All shards, closed ones included as long as they have records.
    async fn shards(&self) -> Result<Vec<Listed>, Failure> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        loop {
            let request = self.client.list_shards();
            let request = match next {
                Some(token) => request.next_token(token),
                None => {
                    let (name, arn) = self.named();
                    request.set_stream_name(name).set_stream_arn(arn)
                }
            };
            let page = bounded(request.send()).await?;
            all.extend(page.shards.unwrap_or_default().into_iter().map(|shard| {
                Listed {
                    parents: [shard.parent_shard_id, shard.adjacent_parent_shard_id]
                        .into_iter()
                        .flatten()
                        .map(Arc::from)
                        .collect(),
                    open: shard.sequence_number_range.is_none_or(|range| range.ending_sequence_number.is_none()),
                    shard: shard.shard_id.into(),
                }
            }));
            match page.next_token.filter(|token| !token.is_empty()) {
                Some(token) => next = Some(token),
                None => return Ok(all),
            }
        }
    }

    /// Where reading begins.
    async fn iterator(&self, shard: &str, start: &Start) -> Result<String, Failure> {
        let (name, arn) = self.named();
        let request = self.client.get_shard_iterator().set_stream_name(name).set_stream_arn(arn).shard_id(shard);
        let request = match start {
            Start::Oldest => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Start::After(number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(&**number),
        };
        let answer = bounded(request.send()).await?;
        answer
            .shard_iterator
            .ok_or_else(|| Failure::of_code("", Some("GetShardIterator gave no iterator"), false))
    }

    async fn records(&self, iterator: &str) -> Result<Batch, Failure> {
        let (_, arn) = self.named();
        let request = self.client.get_records().set_stream_arn(arn).shard_iterator(iterator).limit(RECORDS);
        let answer = bounded(request.send()).await?;
        Ok(Batch {
            records: answer.records.into_iter().map(record).collect(),
            next: answer.next_shard_iterator.filter(|iterator| !iterator.is_empty()),
            behind_ms: answer.millis_behind_latest.unwrap_or_default().max(0) as u64,
        })
    }

    /// One result for each record, in their order.
    async fn put(&self, records: impl Iterator<Item = (String, Bytes)>) -> Result<Vec<Result<(), Failure>>, Failure> {
        let entry = |(key, data): (String, Bytes)| {
            let entry = PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data)).build();
            entry.expect("key and data are set")
        };
        let (name, arn) = self.named();
        let request = self.client.put_records().set_stream_name(name).set_stream_arn(arn);
        let request = request.set_records(Some(records.map(entry).collect()));
        let answer = bounded(request.send()).await?;
        let outcome = |item: PutRecordsResultEntry| match item.error_code {
            None => Ok(()),
            // `InternalFailure` is the service's fault, everything else is said of a record that was refused.
            Some(code) => Err(Failure::of_code(&code, item.error_message.as_deref(), code != "InternalFailure")),
        };
        Ok(answer.records.into_iter().map(outcome).collect())
    }
}

/// The outcome of a call, in bounded time.
async fn bounded<T, E>(request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>) -> Result<T, Failure>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match tokio::time::timeout(CALL, request).await {
        Ok(outcome) => outcome.map_err(|error| classify(&error)),
        Err(_) => Err(Failure::elapsed()),
    }
}

fn record(record: Record) -> shards::Record {
    shards::Record {
        number: record.sequence_number.into(),
        sent_at: record.approximate_arrival_timestamp.and_then(|at| at.to_millis().ok()).unwrap_or_else(now_ms),
        data: record.data.into_inner().into(),
    }
}
