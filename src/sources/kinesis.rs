//! A foreign Kinesis stream as a [`Feed`], and how far it was read.
//!
//! # Object `sources/kinesis-<x>.json`, format 1
//!
//! x: XXH3-64 of the stream's name, 16 hexadecimal digits. JSON: `{"format": 1, "stream", "checkpoints": [[{"source", "shard"}, {"after": number} | "end"], …]}`.
//! It is compared and swapped, and a shard never goes back in it, so two who read the same stream do not harm each other. A checkpoint
//! that is late, or lost, costs work and nothing else: what is read again is known by its name.

use super::{Feed, InHand, decode::Message};
use crate::{
    objects::{Key, ObjectError, Objects, Precondition},
    queue::{
        kinesis::{
            Stream,
            receive::{KinesisReceiver, KinesisSettings},
        },
        remote::{Receipt, Receive, ReceiveError},
    },
    seal::source::{SourceCheckpoints, SourceProgress},
};
use aws_config::SdkConfig;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const FORMAT: u32 = 1;
/// Records of one group.
const RECORDS: usize = 100;
/// How often what was read is written down.
const SAVE_EVERY: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    stream: String,
    checkpoints: SourceCheckpoints,
}

/// The object with the checkpoints of one stream.
struct Saved {
    objects: Arc<dyn Objects>,
    stream: Arc<str>,
    key: Key,
}

impl Saved {
    fn new(objects: Arc<dyn Objects>, stream: Arc<str>) -> Self {
        let name = format!("sources/kinesis-{:016x}.json", xxhash_rust::xxh3::xxh3_64(stream.as_bytes()));
        let key = Key::parse(&name).expect("hexadecimal digits make a key");
        Self { objects, stream, key }
    }

    async fn load(&self) -> Result<(SourceCheckpoints, Precondition), ObjectError> {
        let Some((bytes, version)) = self.objects.get(&self.key).await? else {
            return Ok((SourceCheckpoints::default(), Precondition::Absent));
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| ObjectError::Io(format!("`{}` is damaged: {error}", self.key).into()))?;
        if stored.format != FORMAT || *stored.stream != *self.stream {
            return Err(ObjectError::Io(format!("`{}` is of another stream or a later version", self.key).into()));
        }
        Ok((stored.checkpoints, Precondition::Version(version)))
    }

    /// Adds where `of` stands now.
    async fn save(&self, of: &dyn SourceProgress) -> Result<(), ObjectError> {
        loop {
            let (mut checkpoints, when) = self.load().await?;
            let changes = checkpoints.changes(&of.report());
            if changes.is_empty() {
                return Ok(());
            }
            changes.iter().for_each(|change| checkpoints.fold(change));
            let stored = Stored {
                format: FORMAT,
                stream: self.stream.to_string(),
                checkpoints,
            };
            let bytes = serde_json::to_vec(&stored).expect("plain data always encodes");
            match self.objects.put(&self.key, bytes.into(), when).await {
                Err(ObjectError::Conflict) => {} // another process was faster: from what it wrote
                outcome => return outcome.map(drop),
            }
        }
    }
}

/// See the module.
pub(super) struct KinesisFeed {
    receiver: KinesisReceiver,
    saved: Saved,
    last_save: tokio::sync::Mutex<Instant>,
}

impl KinesisFeed {
    /// Connects, checks the stream, and reads how far it was read.
    pub(super) async fn open(config: &SdkConfig, stream: &str, objects: Arc<dyn Objects>) -> Result<Self, (bool, String)> {
        let stream = Stream::new(config, stream);
        stream.check_exists().await.map_err(|error| (!error.may_pass(), error.to_string()))?;
        let saved = Saved::new(objects, stream.name().clone());
        let (checkpoints, _) = saved.load().await.map_err(|error| (false, error.to_string()))?;
        Ok(Self {
            receiver: KinesisReceiver::new(stream, checkpoints, KinesisSettings::default()),
            saved,
            last_save: tokio::sync::Mutex::new(Instant::now()),
        })
    }

    async fn save(&self) {
        if let Err(error) = self.saved.save(&self.receiver).await {
            tracing::warn!(%error, "how far a foreign stream was read cannot be written down; it is tried again");
        }
    }
}

impl Feed for KinesisFeed {
    fn receive(&self) -> BoxFuture<'_, Result<Vec<InHand>, ReceiveError>> {
        Box::pin(async {
            let received = self.receiver.receive(RECORDS).await?;
            let in_hand = |one: crate::queue::remote::Received| InHand {
                receipt: one.receipt,
                message: Message {
                    key: one.id,
                    body: one.body.unwrap_or_else(|bytes| bytes),
                    tenant: None,
                    sent_at: one.sent_at,
                },
            };
            Ok(received.into_iter().map(in_hand).collect())
        })
    }

    fn done(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.receiver.done(receipts).await;
            // Whoever is not first lets the other write.
            let Ok(mut last) = self.last_save.try_lock() else { return };
            if last.elapsed() >= SAVE_EVERY {
                self.save().await;
                *last = Instant::now();
            }
        })
    }

    fn later(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        self.receiver.give_back(receipts)
    }

    fn give_back(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, ()> {
        self.receiver.give_back(receipts)
    }

    fn extend(&self, _: Vec<Receipt>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn extend_every(&self) -> Option<Duration> {
        None
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.save())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fs::sim::SimFs,
        objects::folder::FolderObjects,
        seal::source::{ShardAt, SourceReport},
    };

    struct At(Vec<(&'static str, &'static str)>);

    impl SourceProgress for At {
        fn report(&self) -> Vec<SourceReport> {
            let shard = |(shard, at): &(&str, &str)| (Arc::from(*shard), Some(ShardAt::After((*at).into())));
            vec![SourceReport {
                source: "s".into(),
                shards: self.0.iter().map(shard).collect(),
            }]
        }
    }

    #[tokio::test]
    async fn checkpoints_survive_and_never_go_back_whoever_writes_them() {
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(Arc::new(SimFs::new()), "/o".into()).expect("opened"));
        let [one, two] = [0, 1].map(|_| Saved::new(objects.clone(), "s".into()));
        one.save(&At(vec![("a", "10"), ("b", "5")])).await.expect("saved");
        two.save(&At(vec![("a", "9"), ("b", "70")])).await.expect("saved");
        let (all, _) = one.load().await.expect("read");
        let all: Vec<_> = all.iter().map(|(name, at)| (name.shard.to_string(), at.clone())).collect();
        let after = |n: &str| ShardAt::After(n.into());
        assert_eq!(all, [("a".to_owned(), after("10")), ("b".to_owned(), after("70"))]);
        let other = Saved::new(objects, "another".into());
        assert!(other.load().await.expect("read").0.is_empty());
    }
}
