//! Partitions on SQS: one standard queue each, with its dead-letter queue if it has one.
//!
//! - [`transport`] sends: batches of at most 10 messages and 1 MiB of base64, every item of an answer read.
//! - [`receive`] receives by long poll, deletes and extends in batches of 10; a delete of what is gone already is done. The dead-letter
//!   queue is asked once a minute, and again at once while it has something: what is in it was accepted, and is decided like the rest.
//! - [`check`] looks at a queue at start, and says in words what is wrong with it.
//!
//! A message's visibility is taken at each receive and extended while it is worked on, so the attribute of the queue does not
//! matter. The region is taken from the queue's URL, and for engines other than AWS the address too, unless the environment
//! (`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`) says otherwise.

pub mod check;
pub mod receive;
#[cfg(test)]
mod tests;
pub mod transport;

use self::{check::CheckError, receive::SqsReceive, transport::SqsTransport};
use super::remote::aws::{self, AwsSettings};
use aws_sdk_sqs::Client;
use std::{sync::Arc, time::Duration};

/// What SQS takes in one message, and in all messages of one batch, as it travels.
const MESSAGE_BYTES: usize = 1 << 20;
/// Entries of a batch.
const BATCH: usize = 10;
/// How long a request may take, besides what a long poll waits.
const REQUEST: Duration = Duration::from_secs(5);

/// Settings of all queues.
#[derive(Debug, Clone)]
pub struct SqsSettings {
    /// The queues, in the order of the partitions (`queue.sqs.urls`).
    pub urls: Vec<String>,
    /// Their dead-letter queues, in the same order, where they are not found by the queues' redrive policies
    /// (`queue.sqs.dead_letter_urls`); empty, or one for each queue, `""` where there is none.
    pub dead_letter_urls: Vec<String>,
    /// How long a receive waits for messages, at most 20 s (`queue.sqs.wait`).
    pub wait: Duration,
    /// How long a received message stays with its consumer without a word from it, 10 s to 12 h (`queue.sqs.visibility`).
    pub visibility: Duration,
    /// Receives at a time when there is a backlog (`queue.sqs.receivers`).
    pub receivers: usize,
    /// The shortest retention that a queue may have: an outage may last so long (`queue.sqs.min_retention`).
    pub retention: Duration,
    /// What is set by hand instead of by the chain.
    pub aws: AwsSettings,
}

impl Default for SqsSettings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            dead_letter_urls: Vec::new(),
            wait: Duration::from_secs(20),
            visibility: Duration::from_secs(30),
            receivers: 4,
            retention: Duration::from_secs(14 * 24 * 3600),
            aws: AwsSettings::default(),
        }
    }
}

/// What this process does with the queues: it is checked that it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// It accepts entries.
    pub sends: bool,
    /// It decides them.
    pub receives: bool,
}

/// One queue, checked.
#[derive(Clone)]
pub struct SqsPartition {
    /// For the accepting side.
    pub transport: Arc<SqsTransport>,
    /// For the deciding side.
    pub receive: Arc<SqsReceive>,
}

/// Opens and checks every queue. All that is wrong is said at once.
pub async fn open(settings: &SqsSettings, role: Role) -> Result<Vec<SqsPartition>, Vec<CheckError>> {
    let wrong = check::settings(settings);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let opened = settings.urls.iter().enumerate().map(|(number, url)| async move {
        let client = client(url, &settings.aws).await;
        let named = settings.dead_letter_urls.get(number).filter(|url| !url.is_empty());
        let dead_letters = check::queue(&client, url, named.map(String::as_str), settings, role).await?;
        Ok((client, url, dead_letters))
    });
    let (mut queues, mut wrong, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for queue in futures_util::future::join_all(opened).await {
        match queue {
            Ok((client, url, dead_letters)) => {
                for url in dead_letters.iter().chain([url]) {
                    if seen.contains(url) {
                        wrong.push(CheckError::Shared { url: url.clone() });
                    }
                    seen.push(url.clone());
                }
                queues.push(SqsPartition {
                    transport: Arc::new(SqsTransport::new(client.clone(), url.clone())),
                    receive: Arc::new(SqsReceive::new(client, url.clone(), dead_letters, settings)),
                });
            }
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() { Ok(queues) } else { Err(wrong) }
}

/// A client for the queue at `url`.
async fn client(url: &str, settings: &AwsSettings) -> Client {
    let mut settings = settings.clone();
    let place = place(url);
    if let Place::Region(region) = &place {
        settings.region.get_or_insert_with(|| region.clone());
    }
    let config = aws::config(&settings).await;
    let mut client = aws_sdk_sqs::config::Builder::from(&config);
    if let Place::Address(address) = place
        && config.endpoint_url().is_none()
        && settings.endpoint.is_none()
        && !aws::has_endpoint(&config, "SQS")
    {
        client = client.endpoint_url(address);
    }
    if config.region().is_none() {
        client = client.region(aws_sdk_sqs::config::Region::new("us-east-1"));
    }
    Client::from_conf(client.build())
}

/// Where a queue is, by its URL.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// With AWS, in this region.
    Region(String),
    /// With an engine at this address.
    Address(String),
}

fn place(url: &str) -> Place {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let host = rest.split('/').next().unwrap_or_default();
    let name = host.split(':').next().unwrap_or_default();
    match name.strip_prefix("sqs.").and_then(|name| name.split_once(".amazonaws.com")) {
        Some((region, "" | ".cn")) if !region.is_empty() => Place::Region(region.to_owned()),
        _ => Place::Address(format!("{scheme}://{host}")),
    }
}
