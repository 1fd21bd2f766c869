//! Looks at a queue at start, and says in words what is wrong with it.
//!
//! Permissions are tried, not read: policies have too many forms. Each try is one that cannot have an effect: a batch with two equal ids,
//! a receipt that does not exist. A receive gives back at once what it gets.

use super::{REQUEST, Role, SqsSettings};
use crate::queue::remote::aws::{Failure, classify, is_about_credentials};
use aws_sdk_sqs::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, QueueAttributeName, SendMessageBatchRequestEntry},
};
use std::{collections::HashMap, error::Error, future::Future, time::Duration};

/// What is wrong with a queue, for whoever configures it. One line, no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A setting is outside its bounds.
    #[error("`{key}` {rule}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What it must be, and what it is.
        rule: String,
    },
    /// There is no such queue.
    #[error("the SQS queue `{url}` does not exist; create it, or correct `queue.sqs.urls`")]
    Missing {
        /// Which.
        url: String,
    },
    /// The engine does not know the credentials.
    #[error("SQS refuses the credentials for `{url}`: {text}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the role of the instance")]
    Credentials {
        /// For which queue.
        url: String,
        /// What it said.
        text: String,
    },
    /// The credentials may not do this.
    #[error("the credentials may not call `{action}` on the SQS queue `{url}`: {text}; allow it in the IAM policy or in the policy of the queue")]
    Permission {
        /// On which queue.
        url: String,
        /// The action, as in a policy.
        action: &'static str,
        /// What it said.
        text: String,
    },
    /// Messages would be dropped before an outage is over.
    #[error(
        "the SQS queue `{url}` keeps messages for {} only, but must keep them for {}: entries would be lost when the consumers are down for longer; set its MessageRetentionPeriod to {}",
        days(*found), days(*required), required.as_secs()
    )]
    Retention {
        /// Which queue.
        url: String,
        /// What it has.
        found: Duration,
        /// What it must have.
        required: Duration,
    },
    /// Messages of 1 MiB are not taken.
    #[error("the SQS queue `{url}` takes messages of {found} bytes only; set its MaximumMessageSize to 1048576")]
    MessageSize {
        /// Which queue.
        url: String,
        /// What it takes.
        found: u64,
    },
    /// Not a standard queue.
    #[error("the SQS queue `{url}` is a FIFO queue; Sluice orders and deduplicates by itself and needs a standard queue")]
    Fifo {
        /// Which queue.
        url: String,
    },
    /// Two partitions would read the same messages.
    #[error("the SQS queue `{url}` belongs to two partitions; each needs a queue, and a dead-letter queue, of its own")]
    Shared {
        /// Which queue.
        url: String,
    },
    /// There is a dead-letter queue that nobody would read.
    #[error("the SQS queue `{url}` sends messages to the dead-letter queue `{arn}`, which cannot be found: {text}; name it in `queue.sqs.dead_letter_urls`")]
    DeadLetters {
        /// The queue.
        url: String,
        /// Its dead-letter queue, as it names it.
        arn: String,
        /// Why it is not found.
        text: String,
    },
    /// The engine could not be asked.
    #[error("the SQS queue `{url}` cannot be asked: {text}")]
    Unreachable {
        /// Which.
        url: String,
        /// Why.
        text: String,
    },
}

impl CheckError {
    /// Whether it may pass by itself, so that a start may wait for it: the engine cannot be reached.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

fn days(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match (hours / 24, hours % 24) {
        (0, _) if hours == 0 => format!("{} s", time.as_secs()),
        (0, hours) => format!("{hours} h"),
        (days, 0) => format!("{days} days"),
        (days, hours) => format!("{days} days {hours} h"),
    }
}

/// What is wrong with the settings by themselves.
pub fn settings(settings: &SqsSettings) -> Vec<CheckError> {
    let mut wrong = Vec::new();
    let mut rule = |key, holds: bool, rule: String| {
        if !holds {
            wrong.push(CheckError::Setting { key, rule });
        }
    };
    rule("queue.sqs.urls", !settings.urls.is_empty(), "names no queue".to_owned());
    let url = |url: &String| ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) && url.matches('/').count() >= 3;
    for text in settings.urls.iter().filter(|text| !url(text)) {
        rule(
            "queue.sqs.urls",
            false,
            format!("has `{text}`, which is no URL of a queue, as https://sqs.eu-central-1.amazonaws.com/123456789012/sluice"),
        );
    }
    let letters = &settings.dead_letter_urls;
    rule(
        "queue.sqs.dead_letter_urls",
        letters.is_empty() || letters.len() == settings.urls.len(),
        format!(
            "names {} queues for {} partitions; name one for each, or none",
            letters.len(),
            settings.urls.len()
        ),
    );
    let (hold, longest) = (settings.visibility, Duration::from_secs(12 * 3600));
    let holds = hold >= Duration::from_secs(10) && hold <= longest;
    rule("queue.sqs.visibility", holds, format!("is {} s but must be 10 s to 12 h", hold.as_secs()));
    let wait = settings.wait;
    rule(
        "queue.sqs.wait",
        wait <= Duration::from_secs(20),
        format!("is {} s but must be at most 20 s", wait.as_secs()),
    );
    wrong
}

/// Checks a queue and its dead-letter queue, whose URL is the answer.
pub async fn queue(client: &Client, url: &str, named: Option<&str>, settings: &SqsSettings, role: Role) -> Result<Option<String>, CheckError> {
    let found = attributes(client, url, settings).await?;
    permissions(client, url, role).await?;
    if !role.receives {
        return Ok(None);
    }
    let dead_letters = match (named, found.get(&QueueAttributeName::RedrivePolicy)) {
        (Some(named), _) => Some(named.to_owned()),
        (None, Some(policy)) => Some(dead_letters(client, url, policy).await?),
        (None, None) => None,
    };
    if let Some(dead_letters) = &dead_letters {
        attributes(client, dead_letters, settings).await?;
        permissions(client, dead_letters, Role { sends: false, receives: true }).await?;
    }
    Ok(dead_letters)
}

/// Reads the attributes and checks what they promise. An engine that does not say how long it keeps messages is believed.
async fn attributes(client: &Client, url: &str, settings: &SqsSettings) -> Result<HashMap<QueueAttributeName, String>, CheckError> {
    let asked = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All).send();
    let found = ask(url, "sqs:GetQueueAttributes", asked).await?.attributes.unwrap_or_default();
    let number = |name: QueueAttributeName| found.get(&name).and_then(|value| value.parse::<u64>().ok());
    if url.ends_with(".fifo") || found.get(&QueueAttributeName::FifoQueue).is_some_and(|fifo| fifo == "true") {
        return Err(CheckError::Fifo { url: url.to_owned() });
    }
    match number(QueueAttributeName::MessageRetentionPeriod).map(Duration::from_secs) {
        Some(found) if found < settings.retention => {
            let (url, required) = (url.to_owned(), settings.retention);
            return Err(CheckError::Retention { url, found, required });
        }
        Some(_) => {}
        None => tracing::warn!(url, "the queue does not say how long it keeps messages"),
    }
    if let Some(found) = number(QueueAttributeName::MaximumMessageSize).filter(|found| *found < super::MESSAGE_BYTES as u64) {
        return Err(CheckError::MessageSize { url: url.to_owned(), found });
    }
    if number(QueueAttributeName::DelaySeconds).is_some_and(|delay| delay > 0) {
        tracing::warn!(url, "the queue delays messages (DelaySeconds): entries are seen that much later");
    }
    Ok(found)
}

/// Tries what the role needs.
async fn permissions(client: &Client, url: &str, role: Role) -> Result<(), CheckError> {
    if role.sends {
        let entry = SendMessageBatchRequestEntry::builder()
            .id("same")
            .message_body("check")
            .build()
            .expect("both are set");
        let two = client.send_message_batch().queue_url(url).entries(entry.clone()).entries(entry);
        tried(ask(url, "sqs:SendMessage", two.send()).await)?;
    }
    if role.receives {
        let receive = client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(1)
            .visibility_timeout(0)
            .wait_time_seconds(0);
        tried(ask(url, "sqs:ReceiveMessage", receive.send()).await)?;
        let entry = DeleteMessageBatchRequestEntry::builder()
            .id("none")
            .receipt_handle("none")
            .build()
            .expect("both are set");
        let delete = client.delete_message_batch().queue_url(url).entries(entry);
        tried(ask(url, "sqs:DeleteMessage", delete.send()).await)?;
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
            .id("none")
            .receipt_handle("none")
            .visibility_timeout(0);
        let change = client
            .change_message_visibility_batch()
            .queue_url(url)
            .entries(entry.build().expect("both are set"));
        tried(ask(url, "sqs:ChangeMessageVisibility", change.send()).await)?;
    }
    Ok(())
}

/// A try that is refused for what is in it was allowed.
fn tried<T>(answer: Result<T, CheckError>) -> Result<(), CheckError> {
    match answer {
        Err(error @ (CheckError::Permission { .. } | CheckError::Credentials { .. } | CheckError::Missing { .. })) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Finds the queue that a redrive policy names.
async fn dead_letters(client: &Client, url: &str, policy: &str) -> Result<String, CheckError> {
    let policy: serde_json::Value = serde_json::from_str(policy).unwrap_or_default();
    let arn = policy["deadLetterTargetArn"].as_str().unwrap_or_default();
    let missing = |text: String| CheckError::DeadLetters {
        url: url.to_owned(),
        arn: arn.to_owned(),
        text,
    };
    // arn:aws:sqs:<region>:<account>:<name>
    let mut parts = arn.rsplit(':');
    let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let found = client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account).send();
    let found = ask(url, "sqs:GetQueueUrl", found).await.map_err(|error| missing(error.to_string()))?;
    let found = found.queue_url().ok_or_else(|| missing("there is no such queue".to_owned()))?;
    // The engine may know itself by another address than ours.
    Ok(match (url.rsplit_once('/'), super::place(url)) {
        (Some((ours, _)), super::Place::Address(_)) => [ours, "/", name].concat(),
        _ => found.to_owned(),
    })
}

/// Asks, and says in words what the answer means.
async fn ask<T, E>(url: &str, action: &'static str, asked: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>) -> Result<T, CheckError>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let failure = match tokio::time::timeout(REQUEST, asked).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => classify(&error),
        Err(_) => Failure::elapsed(),
    };
    Err(meaning(url, action, failure))
}

fn meaning(url: &str, action: &'static str, failure: Failure) -> CheckError {
    let (url, text) = (url.to_owned(), failure.text);
    match failure.code.as_str() {
        "NonExistentQueue" | "QueueDoesNotExist" | "InvalidAddress" => CheckError::Missing { url },
        code if is_about_credentials(code) => CheckError::Credentials { url, text },
        "AccessDenied" | "AccessDeniedException" | "KmsAccessDenied" => CheckError::Permission { url, action, text },
        "" if text.contains("credentials") => CheckError::Credentials { url, text },
        _ => CheckError::Unreachable { url, text },
    }
}
