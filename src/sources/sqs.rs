//! A foreign SQS queue as a [`Feed`].
//!
//! A message is hidden from others for [`HOLD`] and again while it is in hand; it is deleted when it is decided. Every item of a batch
//! answer is read. One that is put back comes again after [`LATER`]; what a crash leaves, after [`HOLD`].

use super::{Feed, InHand, decode::Message};
use crate::{
    model::time::now_ms,
    queue::remote::{
        Receipt, ReceiveError,
        aws::{Failure, classify},
    },
};
use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName},
};
use futures_util::future::{BoxFuture, join_all};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How long a received message is hidden.
const HOLD: Duration = Duration::from_secs(30);
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// How long a message is hidden that is put back.
const LATER: Duration = Duration::from_secs(60);
/// How long a call waits for messages; a process that stops waits for it too.
const WAIT: Duration = Duration::from_secs(5);
/// A call that does not wait is given up after this time; one that does, that much later.
const CALL: Duration = Duration::from_secs(10);
/// What SQS takes and gives at once.
const BATCH: usize = 10;
/// Calls at a time while there is a backlog.
const CALLS: usize = 4;
const ATTEMPTS: u32 = 4;
/// The attribute of a message that names its tenant.
const TENANT: &str = "tenant_id";

/// See the module.
pub(super) struct SqsFeed {
    client: Client,
    url: String,
    backlog: AtomicBool,
}

/// The queue in ids: the path of its URL, which is the same whatever host it is reached by.
pub(super) fn name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    format!("sqs:{}", rest.find('/').map_or("", |at| &rest[at..]))
}

impl SqsFeed {
    /// Connects, and checks that the queue is there.
    pub(super) async fn open(config: &SdkConfig, url: &str) -> Result<Self, (bool, String)> {
        let client = Client::new(config);
        let asked = client
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::VisibilityTimeout);
        match tokio::time::timeout(CALL, asked.send()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let failure = classify(&error);
                return Err(if failure.code.ends_with("NonExistentQueue") || failure.code == "QueueDoesNotExist" {
                    let why = "there is no such SQS queue in this account and region; create it, or put `sources` right";
                    (true, why.to_owned())
                } else {
                    (failure.is_lasting(), failure.text)
                });
            }
            Err(_) => return Err((false, "SQS does not answer".to_owned())),
        }
        Ok(Self {
            client,
            url: url.to_owned(),
            backlog: AtomicBool::new(false),
        })
    }

    async fn call(&self) -> Result<Vec<InHand>, Failure> {
        let request = self.client.receive_message().queue_url(&self.url);
        let request = request
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(WAIT.as_secs() as i32)
            .visibility_timeout(HOLD.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_attribute_names(TENANT);
        let answer = match tokio::time::timeout(WAIT + CALL, request.send()).await {
            Ok(answer) => answer.map_err(|error| classify(&error))?,
            Err(_) => return Err(Failure::elapsed()),
        };
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(in_hand).collect())
    }

    async fn gather(&self) -> Result<Vec<InHand>, ReceiveError> {
        let calls = if self.backlog.load(Ordering::Relaxed) { CALLS } else { 1 };
        let (mut all, mut failed, mut full) = (Vec::new(), None, false);
        for outcome in join_all((0..calls).map(|_| self.call())).await {
            match outcome {
                Ok(messages) => {
                    full |= messages.len() == BATCH;
                    all.extend(messages);
                }
                Err(failure) => failed = Some(failure),
            }
        }
        self.backlog.store(full, Ordering::Relaxed);
        match failed {
            Some(failure) if all.is_empty() => Err(ReceiveError {
                lasting: failure.is_lasting(),
                text: failure.text.into(),
            }),
            _ => Ok(all),
        }
    }

    /// Tells the queue about each of these, again where it was not taken.
    async fn tell<C, F>(&self, what: &'static str, receipts: Vec<Receipt>, call: C)
    where
        C: Fn(Vec<(String, String)>) -> F,
        F: Future<Output = Result<Vec<(String, Failure)>, Failure>>,
    {
        for batch in receipts.chunks(BATCH) {
            let mut left: Vec<(String, String)> = batch.iter().enumerate().map(|(at, one)| (at.to_string(), one.handle.to_string())).collect();
            for attempt in 1..=ATTEMPTS {
                let why = match tokio::time::timeout(CALL, call(left.clone())).await {
                    Ok(Ok(failed)) => {
                        // A receipt that is not valid any more belongs to a message that is deleted or comes again.
                        let failed: Vec<_> = failed.into_iter().filter(|(_, failure)| failure.code != "ReceiptHandleIsInvalid").collect();
                        left.retain(|(id, _)| failed.iter().any(|(failed, _)| failed == id));
                        failed.into_iter().next().map(|(_, failure)| failure.text).unwrap_or_default()
                    }
                    Ok(Err(failure)) => failure.text,
                    Err(_) => Failure::elapsed().text,
                };
                if left.is_empty() {
                    break;
                }
                tracing::debug!(what, left = left.len(), %why, "SQS is told again");
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            }
            if !left.is_empty() {
                tracing::warn!(what, left = left.len(), "SQS does not take it; the messages come again, which is harmless");
            }
        }
    }

    async fn hide(&self, what: &'static str, receipts: Vec<Receipt>, time: Duration) {
        self.tell(what, receipts, |entries| {
            let entry = |(id, handle): (String, String)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id).receipt_handle(handle);
                entry.visibility_timeout(time.as_secs() as i32).build().expect("id and handle are set")
            };
            let entries = entries.into_iter().map(entry).collect();
            let request = self.client.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
            async {
                let answer = request.send().await.map_err(|error| classify(&error))?;
                Ok(answer.failed.into_iter().map(failed).collect())
            }
        })
        .await;
    }
}

fn failed(item: aws_sdk_sqs::types::BatchResultErrorEntry) -> (String, Failure) {
    let failure = Failure::of_code(&item.code, item.message.as_deref(), item.sender_fault);
    (item.id, failure)
}

fn in_hand(message: aws_sdk_sqs::types::Message) -> Option<InHand> {
    let sent_at = message
        .attributes
        .as_ref()
        .and_then(|all| all.get(&MessageSystemAttributeName::SentTimestamp)?.parse().ok());
    let tenant = message.message_attributes.and_then(|mut all| all.remove(TENANT)?.string_value);
    Some(InHand {
        receipt: Receipt {
            source: 0,
            handle: message.receipt_handle?.into(),
        },
        message: Message {
            key: message.message_id?.into(),
            body: message.body.unwrap_or_default().into(),
            tenant,
            sent_at: sent_at.unwrap_or_else(now_ms),
        },
    })
}

impl Feed for SqsFeed {
    fn receive(&self) -> BoxFuture<'_, Result<Vec<InHand>, ReceiveError>> {
        Box::pin(self.gather())
    }

    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(self.tell("delete", receipts, |entries| {
            let entry = |(id, handle): (String, String)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle);
                entry.build().expect("id and handle are set")
            };
            let entries = entries.into_iter().map(entry).collect();
            let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
            async {
                let answer = request.send().await.map_err(|error| classify(&error))?;
                Ok(answer.failed.into_iter().map(failed).collect())
            }
        }))
    }

    fn later(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(self.hide("put back", receipts, LATER))
    }

    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(self.hide("give back", receipts, Duration::ZERO))
    }

    fn extend(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(self.hide("hold", receipts, HOLD))
    }

    fn extend_every(&self) -> Option<Duration> {
        Some(EXTEND_EVERY)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
