//! A stream as the queue of several processes: what goes in by HTTP is in both stores once, whoever is killed meanwhile and however
//! the stream is cut into shards.

use super::{
    across_processes::{books, cluster},
    writing::Writing,
};
use crate::harness::{
    stage::{Cluster, Form, Queue, Stage},
    streams,
};

async fn stage(engine: &'static str) -> Option<Stage> {
    let form = Form {
        consumers: 2,
        queue: Queue::Kinesis(engine),
        ..Form::default()
    };
    Cluster::here(form).await.map(|cluster| Stage::Distributed(Box::new(cluster)))
}

/// Kills and starts each consumer while a client writes; `between` happens after each round.
async fn killed_in_the_middle(stage: &Stage, between: impl AsyncFn(usize)) {
    let mut running = stage.start().await;
    let token = running.tenant("acme").await;
    let writing = Writing::start(&running.apis[..1], &token);
    for round in 0..4 {
        writing.more(60).await;
        let i = round % 2;
        // Whichever owned the partition: what it had read and not sealed is read again from the places in the seals.
        running.consumers[i].kill();
        writing.more(60).await;
        running.consumers[i] = cluster(stage).consumers[i].start();
        between(round).await;
    }
    writing.more(60).await;
    let sent = writing.stop().await;
    books(&running, stage, "acme", &token, &sent).await;
    assert_eq!(running.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_put_into_a_stream_is_stored_once_whoever_is_killed() {
    let Some(stage) = stage("KINESIS").await else { return };
    killed_in_the_middle(&stage, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_split_and_merged_under_way_and_nothing_is_lost_or_doubled() {
    let Some(stage) = stage("KINESIS2").await else { return };
    let (endpoint, stream) = (cluster(&stage).engines.address("KINESIS2"), &cluster(&stage).queues[0]);
    killed_in_the_middle(&stage, async |round| match round {
        0 => streams::split(endpoint, stream).await,
        1 => streams::merge(endpoint, stream).await,
        _ => {}
    })
    .await;
}
