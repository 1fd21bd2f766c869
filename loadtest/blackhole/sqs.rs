//! A queue in memory that speaks as much of SQS's JSON protocol as Sluice does. Nothing is ever delivered twice.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::{
    collections::{HashMap, VecDeque},
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

#[derive(Default)]
pub struct Queue {
    waiting: Mutex<VecDeque<(u64, Box<RawValue>)>>,
    arrived: Notify,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: HashMap<String, u64>,
    sent: u64,
    deleted: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Sending<'a> {
    #[serde(rename = "Entries", borrow)]
    entries: Vec<Sent<'a>>,
}

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(rename = "Id", borrow)]
    id: &'a str,
    #[serde(rename = "MessageBody", borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Naming {
    #[serde(rename = "Entries")]
    entries: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(Deserialize)]
struct Receiving {
    #[serde(rename = "MaxNumberOfMessages")]
    most: usize,
    #[serde(rename = "WaitTimeSeconds", default)]
    wait: u64,
}

/// Answers one request.
pub async fn answer(State(queue): State<Arc<Queue>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if uri.path() == "/__seen" {
        let waiting = queue.waiting.lock().expect("whole").len();
        let counts = queue.counts.lock().expect("whole");
        let requests: u64 = counts.requests.values().sum();
        let text = json!({"requests": requests, "by_action": counts.requests, "sent": counts.sent, "deleted": counts.deleted, "bytes": counts.bytes, "waiting": waiting});
        return json_answer(text.to_string());
    }
    let target = headers.get("x-amz-target").and_then(|t| t.to_str().ok()).unwrap_or_default();
    let action = target.trim_start_matches("AmazonSQS.");
    *queue.counts.lock().expect("whole").requests.entry(action.to_owned()).or_default() += 1;
    let done = match action {
        "SendMessageBatch" => queue.send(&body),
        "ReceiveMessage" => queue.receive(&body).await,
        "DeleteMessageBatch" => named(&body).map(|named| {
            queue.counts.lock().expect("whole").deleted += named.len() as u64;
            successful(named)
        }),
        "ChangeMessageVisibilityBatch" => named(&body).map(successful),
        "GetQueueAttributes" => {
            Ok(json!({"Attributes": {"MessageRetentionPeriod": "1209600", "VisibilityTimeout": "30", "MaximumMessageSize": "1048576"}}).to_string())
        }
        other => Err(anyhow::anyhow!("the stand-in does not know `{other}`")),
    };
    match done {
        Ok(text) => json_answer(text),
        Err(error) => {
            let text = json!({"__type": "com.amazonaws.sqs#UnsupportedOperation", "message": error.to_string()});
            (StatusCode::BAD_REQUEST, text.to_string()).into_response()
        }
    }
}

fn json_answer(text: String) -> Response {
    ([("content-type", "application/x-amz-json-1.0")], text).into_response()
}

fn named(body: &[u8]) -> anyhow::Result<Vec<Named>> {
    Ok(serde_json::from_slice::<Naming>(body)?.entries)
}

fn successful(named: Vec<Named>) -> String {
    let successful: Vec<_> = named.into_iter().map(|named| json!({"Id": named.id})).collect();
    json!({"Successful": successful, "Failed": []}).to_string()
}

impl Queue {
    fn send(&self, body: &[u8]) -> anyhow::Result<String> {
        let sending: Sending = serde_json::from_slice(body)?;
        if sending.entries.len() > 1 && sending.entries[0].id == sending.entries[1].id {
            anyhow::bail!("two equal ids"); // how a start tries whether it may send
        }
        let bytes: usize = sending.entries.iter().map(|entry| entry.body.get().len() - 2).sum();
        anyhow::ensure!(bytes <= 1 << 20 && sending.entries.len() <= 10, "the batch is too large");
        let mut taken = Vec::with_capacity(sending.entries.len());
        let (mut waiting, mut counts) = (self.waiting.lock().expect("whole"), self.counts.lock().expect("whole"));
        for entry in &sending.entries {
            let n = counts.sent;
            counts.sent += 1;
            waiting.push_back((n, entry.body.to_owned()));
            taken.push(json!({"Id": entry.id, "MessageId": n.to_string(), "MD5OfMessageBody": "0"}));
        }
        counts.bytes += bytes as u64;
        drop((waiting, counts));
        self.arrived.notify_waiters();
        Ok(json!({"Successful": taken, "Failed": []}).to_string())
    }

    async fn receive(&self, body: &[u8]) -> anyhow::Result<String> {
        let wanted: Receiving = serde_json::from_slice(body)?;
        let deadline = Instant::now() + Duration::from_secs(wanted.wait);
        loop {
            let arrived = self.arrived.notified();
            let batch: Vec<_> = {
                let mut waiting = self.waiting.lock().expect("whole");
                let n = waiting.len().min(wanted.most);
                waiting.drain(..n).collect()
            };
            if batch.is_empty() && Instant::now() < deadline {
                let _ = tokio::time::timeout_at(deadline, arrived).await;
                continue;
            }
            let mut text = String::from(r#"{"Messages":["#);
            let sent_at = chrono::Utc::now().timestamp_millis();
            for (i, (n, body)) in batch.iter().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                write!(
                    text,
                    r#"{comma}{{"MessageId":"{n}","ReceiptHandle":"{n}","MD5OfBody":"0","Attributes":{{"SentTimestamp":"{sent_at}","ApproximateReceiveCount":"1"}},"Body":{body}}}"#
                )?;
            }
            text.push_str("]}");
            return Ok(text);
        }
    }
}
