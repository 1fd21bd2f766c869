//! Kinesis streams for set-ups: made, split, merged and deleted past the product.

use super::PATIENCE;
use aws_sdk_kinesis::{
    Client,
    types::{Shard, StreamStatus},
};
use sluice::queue::remote::aws::{self, AwsSettings};
use std::time::Duration;

/// In the middle of all hash keys.
const MIDDLE: &str = "170141183460469231731687303715884105728";

async fn client(endpoint: &str) -> Client {
    let settings = AwsSettings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        keys: Some(("test".to_owned(), "testtest".to_owned())),
    };
    Client::new(&aws::config(&settings).await)
}

/// Makes a stream of one shard that keeps records as long as the product asks for; its name.
pub async fn make(endpoint: &str, name: &str) -> String {
    let client = client(endpoint).await;
    client.create_stream().stream_name(name).shard_count(1).send().await.expect("a stream");
    active(&client, name).await;
    let longer = client.increase_stream_retention_period().stream_name(name).retention_period_hours(7 * 24);
    longer.send().await.expect("kept for a week");
    active(&client, name).await;
    name.to_owned()
}

/// Deletes it; a failure does not matter.
pub async fn delete(endpoint: &str, name: &str) {
    let _ = client(endpoint).await.delete_stream().stream_name(name).send().await;
}

/// Splits its only open shard in halves.
pub async fn split(endpoint: &str, name: &str) {
    let client = client(endpoint).await;
    let [shard] = &open(&client, name).await[..] else { panic!("one open shard") };
    let split = client.split_shard().stream_name(name).shard_to_split(shard).new_starting_hash_key(MIDDLE);
    split.send().await.expect("split");
    active(&client, name).await;
}

/// Merges its two open shards.
pub async fn merge(endpoint: &str, name: &str) {
    let client = client(endpoint).await;
    let [one, other] = &open(&client, name).await[..] else {
        panic!("two open shards")
    };
    let merge = client.merge_shards().stream_name(name).shard_to_merge(one).adjacent_shard_to_merge(other);
    merge.send().await.expect("merged");
    active(&client, name).await;
}

async fn open(client: &Client, name: &str) -> Vec<String> {
    let listed = client.list_shards().stream_name(name).send().await.expect("listed");
    let is_open = |shard: &Shard| shard.sequence_number_range.as_ref().is_none_or(|range| range.ending_sequence_number.is_none());
    let shards = listed.shards.unwrap_or_default();
    shards.into_iter().filter(is_open).map(|shard| shard.shard_id).collect()
}

async fn active(client: &Client, name: &str) {
    let wait = async {
        loop {
            let asked = client.describe_stream_summary().stream_name(name).send().await.expect("described");
            if asked
                .stream_description_summary
                .is_some_and(|summary| summary.stream_status == StreamStatus::Active)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it becomes active");
}
