//! A process that decides stands still for longer than its lease, wakes up, and believes that nothing happened.

use super::{
    across_processes::{books, cluster},
    writing::Writing,
};
use crate::harness::stage::{Cluster, Form, Queue, Stage};

/// Each consumer in turn stands still, under load, until the other one has decided what was sent meanwhile.
async fn stands_still(queue: Queue) {
    let form = Form {
        consumers: 2,
        queue,
        ..Form::default()
    };
    let Some(stage) = Cluster::here(form).await.map(|cluster| Stage::Distributed(Box::new(cluster))) else {
        return;
    };
    let running = stage.start().await;
    let token = running.tenant("acme").await;
    let writing = Writing::start(&running.apis[..1], &token);
    for zombie in &running.consumers {
        writing.more(40).await;
        zombie.stand_still();
        // What is sent from here on can only be decided by the other one, when it has taken over.
        writing.more(40).await;
        let enough = writing.acknowledged() as u64;
        let decided = || async { running.get(&token, "/tenants/acme/usage").await.1["stored"].as_u64() >= Some(enough) };
        running.until(decided, "the other one decides").await;
        zombie.go_on();
    }
    writing.more(40).await;
    let fenced = || running.consumers.iter().any(|one| one.stderr().contains("another process owns the partition"));
    running.until(|| async { fenced() }, "the one that slept steps down").await;
    let sent = writing.stop().await;
    books(&running, &stage, "acme", &token, &sent).await;
    // What both had in hand is acknowledged by whoever sealed it, and known to the other.
    if queue == Queue::Sqs {
        let queue = &cluster(&stage).queues[0];
        running
            .until(|| async { cluster(&stage).engines.queue_depth(queue).await == 0 }, "the queue is empty")
            .await;
    }
    assert_eq!(running.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_queue_that_stood_still_steps_down_and_doubles_nothing() {
    stands_still(Queue::Sqs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_stream_that_stood_still_steps_down_and_doubles_nothing() {
    stands_still(Queue::Kinesis("KINESIS")).await;
}
