//! Receives by long poll, and tells SQS in batches of ten what is done, what is still worked on and what is given back.
//!
//! Sources: 0 is the queue, 1 its dead-letter queue.

use super::{BATCH, REQUEST, SqsSettings};
use crate::{
    queue::remote::{
        Receipt, Receive, ReceiveError, Received, Reception,
        aws::{Failure, classify},
    },
    telemetry::metrics::{QueueCall, metrics},
};
use aws_sdk_sqs::{
    Client,
    types::{BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How often an empty dead-letter queue is asked.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(60);
/// Requests at a time that tell of messages.
const TELLING: usize = 4;
/// What arrives within it comes with one receive.
const PAUSE: Duration = Duration::from_millis(300);

/// One queue, with its dead-letter queue, as a source.
pub struct SqsReceive {
    client: Client,
    urls: Vec<String>,
    wait: i32,
    visibility: Duration,
    receivers: usize,
    /// When the dead-letter queue is asked next.
    dead_letters_at: Mutex<Instant>,
}

/// What is told about a message.
#[derive(Debug, Clone, Copy)]
enum Word {
    Done,
    Visible(i32),
}

impl SqsReceive {
    /// Receives from the queue at `url`, and from its dead-letter queue.
    pub fn new(client: Client, url: String, dead_letters: Option<String>, settings: &SqsSettings) -> Self {
        Self {
            client,
            urls: [Some(url), dead_letters].into_iter().flatten().collect(),
            wait: settings.wait.as_secs().min(20) as i32,
            visibility: settings.visibility,
            receivers: settings.receivers,
            dead_letters_at: Mutex::new(Instant::now()),
        }
    }

    fn visibility(&self) -> i32 {
        i32::try_from(self.visibility.as_secs()).unwrap_or(i32::MAX)
    }

    /// Whether it is the dead-letter queue's turn. One caller hears yes.
    fn dead_letters_due(&self) -> bool {
        let mut at = self.dead_letters_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.urls.len() > 1 && Instant::now() >= *at;
        if due {
            *at = Instant::now() + DEAD_LETTERS_EVERY;
        }
        due
    }

    async fn receive_from(&self, source: usize, max: usize, wait: i32) -> Result<Vec<Received>, ReceiveError> {
        let request = self
            .client
            .receive_message()
            .queue_url(&self.urls[source])
            .max_number_of_messages(max.clamp(1, BATCH) as i32)
            .wait_time_seconds(wait)
            .visibility_timeout(self.visibility())
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        metrics().queue_call(QueueCall::Receive);
        let failed = |failure: Failure| ReceiveError {
            lasting: failure.is_lasting(),
            text: failure.text.into(),
        };
        let limit = REQUEST + Duration::from_secs(wait.max(0) as u64);
        let answer = match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(classify(&error))),
            Err(_) => return Err(failed(Failure::elapsed())),
        };
        Ok(answer
            .messages
            .unwrap_or_default()
            .into_iter()
            .map(|message| received(source as u32, message))
            .collect())
    }

    /// Tells it about all of them; those that must be told again.
    async fn tell(&self, receipts: Vec<Receipt>, word: Word) -> Vec<Receipt> {
        let mut batches = Vec::new();
        for source in 0..self.urls.len() {
            let of_source: Vec<_> = receipts.iter().filter(|receipt| receipt.source as usize == source).cloned().collect();
            batches.extend(of_source.chunks(BATCH).map(|batch| (source, batch.to_vec())));
        }
        let told = stream::iter(batches)
            .map(|(source, batch)| self.tell_batch(source, batch, word))
            .buffer_unordered(TELLING);
        told.collect::<Vec<_>>().await.concat()
    }

    async fn tell_batch(&self, source: usize, batch: Vec<Receipt>, word: Word) -> Vec<Receipt> {
        let told = tokio::time::timeout(REQUEST, self.request(source, &batch, word)).await;
        match told.unwrap_or_else(|_| Err(Failure::elapsed())) {
            Ok(failed) => {
                let again = failed
                    .iter()
                    .filter(|item| !is_gone(item.code()))
                    .filter_map(|item| item.id().parse::<usize>().ok());
                let again: Vec<_> = again.filter_map(|i| batch.get(i).cloned()).collect();
                if let Some(item) = failed.iter().find(|item| !is_gone(item.code())) {
                    tracing::debug!(code = item.code(), ?word, messages = again.len(), "SQS did not take what was told of messages");
                }
                again
            }
            Err(failure) => {
                tracing::warn!(error = %failure.text, ?word, messages = batch.len(), "SQS cannot be told of messages; it is tried again");
                batch
            }
        }
    }

    /// One request; the items that failed.
    async fn request(&self, source: usize, batch: &[Receipt], word: Word) -> Result<Vec<BatchResultErrorEntry>, Failure> {
        let url = &self.urls[source];
        match word {
            Word::Done => {
                metrics().queue_call(QueueCall::Done);
                let entry = |(i, receipt): (usize, &Receipt)| {
                    let entry = DeleteMessageBatchRequestEntry::builder().id(i.to_string()).receipt_handle(&*receipt.handle);
                    entry.build().expect("id and handle are set")
                };
                let entries = batch.iter().enumerate().map(entry).collect();
                let answer = self.client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await;
                Ok(answer.map_err(|error| classify(&error))?.failed)
            }
            Word::Visible(seconds) => {
                metrics().queue_call(QueueCall::Hold);
                let entry = |(i, receipt): (usize, &Receipt)| {
                    let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(i.to_string())
                        .receipt_handle(&*receipt.handle);
                    entry.visibility_timeout(seconds).build().expect("id and handle are set")
                };
                let entries = batch.iter().enumerate().map(entry).collect();
                let answer = self
                    .client
                    .change_message_visibility_batch()
                    .queue_url(url)
                    .set_entries(Some(entries))
                    .send()
                    .await;
                Ok(answer.map_err(|error| classify(&error))?.failed)
            }
        }
    }
}

/// The message is gone, or handed to somebody else, so there is nothing to tell of this reception any more: a message that somebody
/// else has is known there.
fn is_gone(code: &str) -> bool {
    let code = code.rsplit('.').next().unwrap_or(code);
    matches!(
        code,
        "ReceiptHandleIsInvalid" | "InvalidParameterValue" | "MessageNotInflight" | "InvalidIdFormat"
    )
}

fn received(source: u32, message: Message) -> Received {
    let number = |name: MessageSystemAttributeName| {
        let attributes = message.attributes.as_ref()?;
        attributes.get(&name)?.parse::<i64>().ok()
    };
    let receptions = number(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let sent_at = number(MessageSystemAttributeName::SentTimestamp).unwrap_or_else(crate::model::time::now_ms);
    let text = message.body.unwrap_or_default();
    Received {
        receipt: Receipt {
            source,
            handle: message.receipt_handle.unwrap_or_default().into(),
        },
        id: message.message_id.unwrap_or_default().into(),
        body: STANDARD.decode(&text).map(Bytes::from).map_err(|_| Bytes::from(text)),
        receptions: u32::try_from(receptions).unwrap_or(1),
        sent_at,
        set_aside: source != 0,
    }
}

impl Receive for SqsReceive {
    fn receive(&self, max: usize) -> BoxFuture<'_, Result<Vec<Received>, ReceiveError>> {
        Box::pin(async move {
            if self.dead_letters_due() {
                let found = self.receive_from(1, max, 0).await?;
                if !found.is_empty() {
                    // It may hold more: it is asked again at once.
                    *self.dead_letters_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    tracing::warn!(
                        messages = found.len(),
                        "messages were found in the dead-letter queue; they are decided like the others"
                    );
                    return Ok(found);
                }
            }
            self.receive_from(0, max, self.wait).await
        })
    }

    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>> {
        Box::pin(self.tell(receipts, Word::Done))
    }

    fn extend(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Vec<Receipt>> {
        Box::pin(self.tell(receipts, Word::Visible(self.visibility())))
    }

    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // What could not be given back comes again when its visibility ends.
            drop(self.tell(receipts, Word::Visible(0)).await);
        })
    }

    fn reception(&self) -> Reception {
        Reception {
            messages: BATCH,
            receivers: self.receivers.max(1),
            pause: PAUSE,
            hold: Some(self.visibility),
        }
    }
}
