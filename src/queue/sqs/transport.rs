//! Sends messages by `SendMessageBatch` and reads every item of the answer.

use super::{BATCH, MESSAGE_BYTES, REQUEST};
use crate::{
    queue::remote::{
        Limits, Message, SendError, Transport,
        aws::{Failure, classify},
    },
    telemetry::metrics::{QueueCall, QueueEvent, metrics},
};
use aws_sdk_sqs::{Client, types::SendMessageBatchRequestEntry};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::BoxFuture;

/// One queue as a transport. Cheap to make; the client is shared.
pub struct SqsTransport {
    client: Client,
    url: String,
}

impl SqsTransport {
    /// Sends into the queue at `url`.
    pub fn new(client: Client, url: String) -> Self {
        Self { client, url }
    }

    async fn batch(&self, messages: Vec<Message>) -> Vec<Result<(), SendError>> {
        let count = messages.len();
        let all = |failure: Failure| vec![Err(SendError::from(failure)); count];
        let mut request = self.client.send_message_batch().queue_url(&self.url);
        for (i, message) in messages.iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(i.to_string())
                .message_body(STANDARD.encode(&message.body));
            request = request.entries(entry.build().expect("id and body are set"));
        }
        metrics().queue_call(QueueCall::Send);
        let answer = match tokio::time::timeout(REQUEST, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return all(classify(&error)),
            Err(_) => return all(Failure::elapsed()),
        };
        // What the answer does not name is in doubt.
        let mut results = all(Failure {
            text: "the answer does not name the message".to_owned(),
            ..Failure::elapsed()
        });
        for taken in answer.successful() {
            if let Some(result) = taken.id().parse().ok().and_then(|i: usize| results.get_mut(i)) {
                *result = Ok(());
            }
        }
        for failed in answer.failed() {
            if let Some(result) = failed.id().parse().ok().and_then(|i: usize| results.get_mut(i)) {
                *result = Err(Failure::of_code(failed.code(), failed.message(), failed.sender_fault()).into());
            }
        }
        results
    }
}

impl Transport for SqsTransport {
    fn send(&self, messages: Vec<Message>) -> BoxFuture<'_, Vec<Result<(), SendError>>> {
        Box::pin(async move {
            let results = self.batch(messages).await;
            let taken = results.iter().filter(|result| result.is_ok()).count();
            metrics().queue_events(QueueEvent::Sent, taken as u64);
            metrics().queue_events(QueueEvent::NotSent, (results.len() - taken) as u64);
            results
        })
    }

    fn limits(&self) -> Limits {
        let bytes = MESSAGE_BYTES / 4 * 3;
        Limits {
            message_bytes: bytes,
            // Each message is padded to 4 characters by itself.
            batch_bytes: bytes - 3 * BATCH,
            batch_messages: BATCH,
            buckets: 1,
        }
    }
}
