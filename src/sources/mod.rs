//! Foreign queues: messages that other producers write, in their own words, into SQS queues and Kinesis streams of their own.
//!
//! ```text
//! Feed (SQS, Kinesis) ─message─▶ decode ─┬─ packs ──▶ Producer ──────────── accepted ─┐
//!                                        └─ refused ─▶ dead letters / unassigned ─────┴─▶ done: deleted, or checkpoint
//! ```
//!
//! A foreign queue is no partition: what it brings is produced into the tenant's own partition like a request, and is acknowledged
//! only when the [`Producer`] has accepted it and everything else of it is a durable dead letter. All names are made from the message
//! (`names`), so a message that comes again, after a crash or because its queue delivers twice, makes the same packs, entries and letters and
//! changes nothing.
//!
//! - `decode` (pure) makes packs of a message; `forward` brings one message to its end; [`Source::run`] reads, as many messages at a
//!   time as fit a bound in bytes, so that one that has to wait holds up no other.
//! - What is wrong with a part of a message is a dead letter of its tenant (reason `undecodable`, not in the counters, because it was
//!   never accepted). Where no tenant can be told, it lies on the shelf of the installation (`unassigned`).
//! - An SQS queue may be read by every process. A stream is read whole by whoever reads it: reading it twice is harmless, but
//!   is double work, so one process should (a lease).
//!
//! Not here: limits of intake (rates, quotas), which are answers to clients; a source that is too fast waits in its queue.

// Without a client of any queue there is nothing to read, and nobody who asks.
#![cfg_attr(not(any(feature = "sqs", feature = "kinesis")), allow(dead_code, unused_imports))]

mod allowed;
mod decode;
mod forward;
#[cfg(feature = "kinesis")]
mod kinesis;
mod known;
mod names;
#[cfg(feature = "sqs")]
mod sqs;
#[cfg(all(test, feature = "sqs", feature = "kinesis"))]
mod tests;
mod unassigned;

pub use allowed::{AllowedTenants, InvalidPattern};

use crate::{
    catalog::Catalog,
    objects::Objects,
    queue::{
        Producer,
        remote::{Receipt, ReceiveError},
    },
    sinks::dead_letter::DeadLetters,
};
use decode::{Message, Rules};
use forward::{Fate, Forwarder};
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use unassigned::Unassigned;

/// Messages that one source has in hand, bytes.
const IN_HAND: usize = 16 << 20;
/// What a message counts besides its body.
const OVERHEAD: usize = 1 << 10;
/// How long a receive in hand may still take when its process stops.
const LAST_CALL: Duration = Duration::from_secs(6);
/// Pauses after a receive that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where a source reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// An SQS queue.
    Sqs {
        /// Its URL.
        url: String,
    },
    /// A Kinesis stream.
    Kinesis {
        /// Its name.
        stream: String,
    },
}

/// A foreign queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// Where.
    pub kind: SourceKind,
    /// For whom it may speak.
    pub tenants: AllowedTenants,
    /// Who its entries are written by.
    pub actor: String,
}

/// What sources work with.
#[derive(Clone)]
pub struct Parts {
    /// Takes the packs.
    pub producer: Arc<dyn Producer>,
    /// Knows the tenants.
    pub catalog: Catalog,
    /// Takes what is wrong, of a tenant.
    pub dead_letters: DeadLetters,
    /// Takes the rest, and how far streams were read.
    pub objects: Arc<dyn Objects>,
}

/// Why a source cannot be read. The words are for whoever starts the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the source `{source_name}` cannot be read: {why}")]
pub struct SourceError {
    /// Its URL or name.
    pub source_name: String,
    /// Why.
    pub why: String,
    /// Asking again does not help: somebody must put it right.
    pub lasting: bool,
}

/// A message in hand.
struct InHand {
    receipt: Receipt,
    message: Message,
}

/// A foreign queue, as the loop sees it.
trait Feed: Send + Sync + 'static {
    /// Some messages; waits a bounded time when there are none.
    fn receive(&self) -> BoxFuture<'_, Result<Vec<InHand>, ReceiveError>>;
    /// They are decided. Tries until it is told, or a bounded time.
    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()>;
    /// They are to come again, not before some time has passed.
    fn later(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()>;
    /// They are not worked on any more: whoever reads next may have them at once.
    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()>;
    /// They are still in hand.
    fn extend(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()>;
    /// How often to say so.
    fn extend_every(&self) -> Option<Duration>;
    /// Nothing more is read: makes durable how far it came.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A source that was checked and is ready to be read.
pub struct Source {
    name: String,
    feed: Arc<dyn Feed>,
    forwarder: Arc<Forwarder>,
}

impl Source {
    /// Connects, and checks that the queue is there and may be read.
    #[cfg(any(feature = "sqs", feature = "kinesis"))]
    pub async fn open(settings: &SourceSettings, config: &aws_config::SdkConfig, parts: &Parts) -> Result<Self, SourceError> {
        let (name, queue, feed): (String, String, Arc<dyn Feed>) = match &settings.kind {
            #[cfg(feature = "sqs")]
            SourceKind::Sqs { url } => {
                let failed = |(lasting, why)| SourceError {
                    source_name: url.clone(),
                    why,
                    lasting,
                };
                let feed = sqs::SqsFeed::open(config, url).await.map_err(failed)?;
                (url.clone(), sqs::name_of(url), Arc::new(feed))
            }
            #[cfg(feature = "kinesis")]
            SourceKind::Kinesis { stream } => {
                let failed = |(lasting, why)| SourceError {
                    source_name: stream.clone(),
                    why,
                    lasting,
                };
                let feed = kinesis::KinesisFeed::open(config, stream, parts.objects.clone()).await.map_err(failed)?;
                (stream.clone(), format!("kinesis:{stream}"), Arc::new(feed))
            }
            #[cfg(not(all(feature = "sqs", feature = "kinesis")))]
            other => {
                return Err(SourceError {
                    source_name: format!("{other:?}"),
                    why: "this build has no client for it".to_owned(),
                    lasting: true,
                });
            }
        };
        let forwarder = Forwarder {
            producer: parts.producer.clone(),
            catalog: parts.catalog.clone(),
            dead_letters: parts.dead_letters.clone(),
            unassigned: Unassigned(parts.objects.clone()),
            rules: Rules {
                queue: queue.into(),
                actor: settings.actor.as_str().into(),
                allowed: settings.tenants.clone(),
            },
            known: Mutex::default(),
            can_wait: feed.extend_every().is_some(),
        };
        Ok(Self {
            name,
            feed,
            forwarder: Arc::new(forwarder),
        })
    }

    /// Reads until `stop`; resolves when everything in hand is at an end or given up, and what was decided is acknowledged. What
    /// is not comes again. Dropping the future is a crash: harmless.
    pub async fn run(self, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(IN_HAND));
        let (mut groups, mut pause) = (JoinSet::new(), FIRST_PAUSE);
        tracing::info!(source = %self.name, "a foreign queue is read");
        loop {
            // One group is read when at least half of the room is free, so that what it brings is bounded.
            tokio::select! {
                () = stop.cancelled() => break,
                _half = room.acquire_many(IN_HAND as u32 / 2) => {}
            }
            let mut received = self.feed.receive();
            let received = tokio::select! {
                received = &mut received => received,
                () = stop.cancelled() => {
                    // A call that is broken off may still take messages, and hide them for as long as they may be in hand.
                    if let Ok(Ok(messages)) = tokio::time::timeout(LAST_CALL, received).await {
                        self.feed.give_back(messages.into_iter().map(|one| one.receipt).collect()).await;
                    }
                    break;
                }
            };
            while groups.try_join_next().is_some() {}
            match received {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    pause = FIRST_PAUSE;
                    let bytes: usize = messages.iter().map(|one| one.message.body.len() + OVERHEAD).sum();
                    let bytes = bytes.min(IN_HAND / 2) as u32;
                    let held = room.clone().try_acquire_many_owned(bytes);
                    let (feed, forwarder, stop) = (self.feed.clone(), self.forwarder.clone(), stop.clone());
                    groups.spawn(async move {
                        let _held = held;
                        group(&*feed, &forwarder, messages, &stop).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(source = %self.name, why = %error.text, lasting = error.lasting, "a foreign queue cannot be read now; it is tried again");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
        while groups.join_next().await.is_some() {}
        self.feed.close().await;
        tracing::info!(source = %self.name, "the foreign queue is no longer read");
    }
}

/// Brings the messages of one receive to their end, each by itself, and tells the queue as they get there.
async fn group(feed: &dyn Feed, forwarder: &Arc<Forwarder>, messages: Vec<InHand>, stop: &CancellationToken) {
    let mut open: Vec<Receipt> = messages.iter().map(|one| one.receipt.clone()).collect();
    let mut working = JoinSet::new();
    for InHand { receipt, message } in messages {
        let (forwarder, stop) = (forwarder.clone(), stop.clone());
        working.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (receipt, None),
                fate = forwarder.forward(&message) => (receipt, Some(fate)),
            }
        });
    }
    let every = feed.extend_every();
    let mut extend_at = every.map(|every| Instant::now() + every);
    while !open.is_empty() {
        let due = async {
            match extend_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let first = tokio::select! {
            ended = working.join_next() => ended,
            () = due => {
                feed.extend(open.clone()).await;
                extend_at = every.map(|every| Instant::now() + every);
                continue;
            }
        };
        let Some(first) = first else { break };
        // Whatever else is ready goes with it.
        let ready = std::iter::from_fn(|| working.try_join_next());
        let (mut done, mut later, mut given_back) = (Vec::new(), Vec::new(), Vec::new());
        for ended in std::iter::once(first).chain(ready) {
            let Ok((receipt, fate)) = ended else { continue }; // it panicked: the message comes again
            open.retain(|one| *one != receipt);
            match fate {
                Some(Fate::Done) => done.push(receipt),
                Some(Fate::Later) => later.push(receipt),
                None => given_back.push(receipt),
            }
        }
        if !done.is_empty() {
            feed.done(done).await;
        }
        if !later.is_empty() {
            feed.later(later).await;
        }
        if !given_back.is_empty() {
            feed.give_back(given_back).await;
        }
    }
    if !open.is_empty() {
        feed.later(open).await; // those whose task panicked
    }
}

/// The packs of a message, and how many parts of it were refused; `attribute` is what an attribute says of its tenant.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_message(
    body: &[u8],
    attribute: Option<&str>,
    tenant: &dyn Fn(&crate::model::tenant::TenantId) -> Option<Arc<crate::catalog::Tenant>>,
) -> (Vec<crate::model::pack::Pack>, usize) {
    let message = Message {
        key: "m".into(),
        body: body.to_vec().into(),
        tenant: attribute.map(str::to_owned),
        sent_at: 1_700_000_000_000,
    };
    let rules = Rules {
        queue: "sqs:/1/q".into(),
        actor: "source:q".into(),
        allowed: AllowedTenants::parse(&["acme"]).expect("a tenant"),
    };
    let decoded = decode::decode(&message, &rules, tenant);
    (decoded.packs, decoded.refused.len())
}
