//! Against the real engines (ferrokinesis; kinesis-local for splits), and against a scripted one for what they do not do.

use super::{
    KinesisError, LEAST_RETENTION_HOURS, Stream,
    receive::{KinesisReceiver, KinesisSettings},
    send::KinesisTransport,
};
use crate::{
    queue::remote::{
        Message, Receipt, Receive, Received, Transport,
        aws::{self, AwsSettings},
        testing::contract,
    },
    seal::source::{ShardAt, SourceCheckpoints, SourceProgress},
    testing::engines,
};
use aws_sdk_kinesis::types::StreamStatus;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn stream_at(endpoint: &str, name: &str) -> Stream {
    let settings = AwsSettings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        keys: Some(("test".to_owned(), "testtest".to_owned())),
    };
    Stream::new(&aws::config(&settings).await, name)
}

/// A stream of its own on a real engine.
struct Own(Stream);

impl Own {
    async fn make(variable: &str, shards: i32) -> Option<Self> {
        let endpoint = engines::address(variable)?;
        let own = Self(stream_at(&endpoint, &format!("sluice-{}", uuid::Uuid::new_v4().simple())).await);
        let request = own.0.client.create_stream().stream_name(&*own.0.name).shard_count(shards);
        request.send().await.expect("created");
        own.active().await;
        Some(own)
    }

    async fn active(&self) {
        let active = async {
            loop {
                let answer = self
                    .0
                    .client
                    .describe_stream_summary()
                    .stream_name(&*self.0.name)
                    .send()
                    .await
                    .expect("described");
                if answer.stream_description_summary.expect("a summary").stream_status == StreamStatus::Active {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, active).await.expect("it becomes active");
    }

    async fn put(&self, numbers: std::ops::Range<u64>) {
        for result in KinesisTransport::new(self.0.clone()).send(messages(numbers)).await {
            result.expect("taken");
        }
    }

    fn receiver(&self, from: SourceCheckpoints) -> KinesisReceiver {
        let settings = KinesisSettings {
            poll: Duration::from_millis(20),
        };
        KinesisReceiver::new(self.0.clone(), from, settings)
    }

    async fn drop(self) {
        self.0.client.delete_stream().stream_name(&*self.0.name).send().await.expect("deleted");
    }
}

fn messages(numbers: std::ops::Range<u64>) -> Vec<Message> {
    let message = |n: u64| Message {
        key: n % 16,
        body: Bytes::from(n.to_be_bytes().to_vec()),
    };
    numbers.map(message).collect()
}

fn number(received: &Received) -> u64 {
    let body = received.body.as_ref().expect("a body");
    u64::from_be_bytes(body[..].try_into().expect("8 bytes"))
}

/// Receives until `enough` of what was received.
async fn receive_until(receiver: &KinesisReceiver, enough: impl Fn(&[Received]) -> bool, done: impl Fn(&Received) -> bool) -> Vec<Received> {
    let mut all = Vec::new();
    let receive = async {
        while !enough(&all) {
            let some = receiver.receive(7).await.expect("received");
            let receipts: Vec<Receipt> = some.iter().filter(|one| done(one)).map(|one| one.receipt.clone()).collect();
            assert!(receiver.done(receipts).await.is_empty());
            all.extend(some);
        }
    };
    tokio::time::timeout(PATIENCE, receive).await.expect("everything comes");
    all
}

fn sealed(receiver: &KinesisReceiver) -> SourceCheckpoints {
    let mut all = SourceCheckpoints::default();
    let changes = all.changes(&receiver.report());
    changes.iter().for_each(|change| all.fold(change));
    all
}

#[tokio::test]
async fn what_is_put_is_read_and_a_restart_begins_where_everything_was_done() {
    let Some(own) = Own::make("SLUICE_TEST_KINESIS", 3).await else { return };
    own.put(0..60).await;
    let first = own.receiver(SourceCheckpoints::default());
    assert!(first.report().is_empty(), "nothing is known yet");
    // One record in ten is never done: what comes after it in its shard comes again.
    let seen = receive_until(&first, |all| all.len() == 60, |one| number(one) % 10 != 7).await;
    assert_eq!(seen.iter().map(number).collect::<BTreeSet<_>>(), (0..60).collect());
    let checkpoints = sealed(&first);
    drop(first);

    own.put(60..70).await;
    let second = own.receiver(checkpoints);
    let undone: BTreeSet<u64> = (0..60).filter(|n| n % 10 == 7).chain(60..70).collect();
    let again = receive_until(&second, |all| undone.is_subset(&all.iter().map(number).collect()), |_| true).await;
    assert!(again.len() < 70, "what was decided before the first gap does not come again: {}", again.len());
    let third = own.receiver(sealed(&second));
    own.put(70..71).await;
    let rest = receive_until(&third, |all| !all.is_empty(), |_| true).await;
    assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), [70]);
    own.drop().await;
}

#[tokio::test]
async fn kinesis_keeps_the_contract() {
    for variable in ["SLUICE_TEST_KINESIS", "SLUICE_TEST_KINESIS2"] {
        if engines::address(variable).is_none() {
            continue;
        }
        let streams = Mutex::new(Vec::new());
        contract(async || {
            let own = Own::make(variable, 2).await.expect("it was there");
            let made = (
                Arc::new(KinesisTransport::new(own.0.clone())) as Arc<dyn Transport>,
                Arc::new(own.receiver(SourceCheckpoints::default())) as Arc<dyn Receive>,
            );
            streams.lock().expect("no panic").push(own);
            made
        })
        .await;
        for own in streams.into_inner().expect("no panic") {
            own.drop().await;
        }
    }
}

#[tokio::test]
async fn a_start_tells_wrong_credentials_and_missing_permissions_from_an_engine_that_is_down() {
    for (code, expected, may_pass) in [
        ("UnrecognizedClientException", "AWS_SECRET_ACCESS_KEY", false),
        ("InvalidSignatureException", "refuses the credentials", false),
        ("ExpiredTokenException", "refuses the credentials", false),
        ("AccessDeniedException", "`kinesis:DescribeStreamSummary`", false),
        ("ResourceNotFoundException", "there is no Kinesis stream", false),
        ("LimitExceededException", "cannot be used", true),
    ] {
        let engine = Scripted::start(vec![refused(code)]).await;
        let error = engine.stream().await.check().await.expect_err("refused");
        assert!(error.to_string().contains(expected), "{code}: {error}");
        assert!(!error.to_string().contains("testtest"), "no secrets: {error}");
        assert_eq!(error.may_pass(), may_pass, "{code}");
    }
}

#[tokio::test]
async fn a_stream_that_is_deleted_under_way_is_told_as_lasting_and_throttling_is_not_told_at_all() {
    let shards = || {
        (
            200,
            serde_json::json!({"Shards": [{"ShardId": "s-0", "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"}, "SequenceNumberRange": {"StartingSequenceNumber": "0"}}]}),
        )
    };
    for (status, code, lasting) in [
        (400, "ResourceNotFoundException", Some(true)),
        (500, "InternalFailure", Some(false)),
        (400, "ProvisionedThroughputExceededException", None),
    ] {
        let engine = Scripted::start(vec![shards(), (status, refused(code).1)]).await;
        let receiver = KinesisReceiver::new(engine.stream().await, SourceCheckpoints::default(), KinesisSettings::default());
        let told = receiver.receive(7).await.err().map(|error| error.lasting);
        assert_eq!(told, lasting, "{code}");
    }
}

#[tokio::test]
async fn records_that_are_given_back_come_again() {
    let Some(own) = Own::make("SLUICE_TEST_KINESIS", 1).await else { return };
    own.put(0..5).await;
    let receiver = own.receiver(SourceCheckpoints::default());
    let first = receive_until(&receiver, |all| all.len() >= 5, |one| number(one) == 0).await;
    receiver.give_back(first.iter().map(|one| one.receipt.clone()).collect()).await;
    let again = receive_until(&receiver, |all| all.len() >= 4, |_| true).await;
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    own.drop().await;
}

#[tokio::test]
async fn splits_and_merges_are_read_parents_first_and_to_their_end() {
    let Some(own) = Own::make("SLUICE_TEST_KINESIS2", 1).await else { return };
    let client = &own.0.client;
    let open = |own: &Stream| {
        let own = own.clone();
        async move {
            let answer = own.client.list_shards().stream_name(&*own.name).send().await.expect("listed");
            let shards = answer.shards.unwrap_or_default();
            let is_open =
                |shard: &aws_sdk_kinesis::types::Shard| shard.sequence_number_range.as_ref().is_none_or(|range| range.ending_sequence_number.is_none());
            shards.into_iter().filter(is_open).map(|shard| shard.shard_id).collect::<Vec<String>>()
        }
    };
    own.put(0..20).await;
    let root = open(&own.0).await;
    let half = "170141183460469231731687303715884105728";
    client
        .split_shard()
        .stream_name(&*own.0.name)
        .shard_to_split(&root[0])
        .new_starting_hash_key(half)
        .send()
        .await
        .expect("split");
    own.active().await;
    own.put(20..40).await;
    let halves = open(&own.0).await;
    assert_eq!(halves.len(), 2);
    let merge = client
        .merge_shards()
        .stream_name(&*own.0.name)
        .shard_to_merge(&halves[0])
        .adjacent_shard_to_merge(&halves[1]);
    merge.send().await.expect("merged");
    own.active().await;
    own.put(40..60).await;

    // Nothing of a parent is done: no child is read.
    let stuck = own.receiver(SourceCheckpoints::default());
    let only = receive_until(&stuck, |all| all.len() >= 20, |_| false).await;
    assert_eq!(only.iter().map(number).collect::<BTreeSet<_>>(), (0..20).collect());
    assert!(stuck.receive(7).await.expect("received").is_empty());

    let receiver = own.receiver(SourceCheckpoints::default());
    let all = receive_until(&receiver, |all| all.len() >= 60, |_| true).await;
    let generations: Vec<u64> = all.iter().map(|one| number(one) / 20).collect();
    assert!(generations.is_sorted() && all.len() == 60, "{generations:?}");
    let places: BTreeMap<String, Option<ShardAt>> = receiver.report().remove(0).shards.into_iter().map(|(id, at)| (id.to_string(), at)).collect();
    for ended in root.iter().chain(&halves) {
        assert_eq!(places[ended], Some(ShardAt::End), "{ended}");
    }
    assert_eq!(places.len(), 4);
    own.put(60..61).await;
    let after = own.receiver(sealed(&receiver));
    let rest = receive_until(&after, |all| !all.is_empty(), |_| true).await;
    assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), [60]);
    own.drop().await;
}

#[tokio::test]
async fn a_stream_that_would_lose_something_is_refused_with_words_that_say_what_to_do() {
    let Some(own) = Own::make("SLUICE_TEST_KINESIS", 1).await else { return };
    let hours = 24;
    let stream = own.0.name.clone();
    assert_eq!(own.0.check().await, Err(KinesisError::Retention { stream: stream.clone(), hours }));
    assert!(
        own.0
            .check()
            .await
            .expect_err("24 hours")
            .to_string()
            .contains("increase-stream-retention-period")
    );
    let longer = own
        .0
        .client
        .increase_stream_retention_period()
        .stream_name(&*stream)
        .retention_period_hours(LEAST_RETENTION_HOURS);
    longer.send().await.expect("kept longer");
    assert_eq!(own.0.check().await, Ok(()));
    let endpoint = engines::address("SLUICE_TEST_KINESIS").expect("it was there");
    let nowhere = stream_at(&endpoint, "sluice-nowhere").await;
    assert!(matches!(nowhere.check().await, Err(KinesisError::NoSuchStream { .. })));
    own.drop().await;
    let nobody = stream_at("http://127.0.0.1:9", "sluice").await;
    assert!(matches!(
        nobody.check().await,
        Err(KinesisError::Failed {
            call: "DescribeStreamSummary",
            ..
        })
    ));
}

/// An engine that answers what it is told, call by call, and keeps what it was asked.
struct Scripted {
    endpoint: String,
    asked: Arc<Mutex<Vec<(String, serde_json::Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// The answers are status and body; what is asked beyond them gets the last once more.
    async fn start(answers: Vec<(u16, serde_json::Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<_>>> = Arc::default();
        let (noted, mut answers) = (asked.clone(), VecDeque::from(answers));
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut socket, _)) = listener.accept().await else { return };
                let Some(question) = request(&mut socket).await else { continue };
                noted.lock().expect("no panic").push(question);
                let (status, body) = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.expect("an answer");
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await;
                let _ = socket.shutdown().await;
            }
        });
        Self { endpoint, asked, task }
    }

    async fn stream(&self) -> Stream {
        stream_at(&self.endpoint, "scripted").await
    }

    fn asked(&self) -> Vec<(String, serde_json::Value)> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// The call and its body.
async fn request(socket: &mut tokio::net::TcpStream) -> Option<(String, serde_json::Value)> {
    let mut bytes = Vec::new();
    loop {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        let len: usize = header("content-length:")?.parse().ok()?;
        if bytes.len() >= end + 4 + len {
            let target = header("x-amz-target:")?;
            let call = target.rsplit('.').next()?.to_owned();
            return Some((call, serde_json::from_slice(&bytes[end + 4..end + 4 + len]).ok()?));
        }
    }
}

fn refused(code: &str) -> (u16, serde_json::Value) {
    (400, serde_json::json!({"__type": code, "message": "not now"}))
}

fn put_answer(items: &[Option<&str>]) -> (u16, serde_json::Value) {
    let item = |code: &Option<&str>| match code {
        None => serde_json::json!({"SequenceNumber": "1", "ShardId": "shardId-0"}),
        Some(code) => serde_json::json!({"ErrorCode": code, "ErrorMessage": "not now"}),
    };
    let failed = items.iter().flatten().count();
    let items: Vec<_> = items.iter().map(item).collect();
    (200, serde_json::json!({"FailedRecordCount": failed, "Records": items}))
}

#[tokio::test]
async fn refused_items_of_a_put_are_put_again_alone_and_doubtful_ones_are_not() {
    const THROTTLED: Option<&str> = Some("ProvisionedThroughputExceededException");
    let engine = Scripted::start(vec![
        refused("ProvisionedThroughputExceededException"),
        put_answer(&[None, THROTTLED, Some("InternalFailure"), THROTTLED]),
        put_answer(&[THROTTLED, None]),
        put_answer(&[None]),
    ])
    .await;
    let transport = KinesisTransport::new(engine.stream().await);
    let results = transport.send(messages(0..4)).await;
    let good: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, true, false, true]);
    let doubtful = results[2].as_ref().expect_err("in doubt");
    assert!(!doubtful.definite && doubtful.retry, "{doubtful:?}");
    let put: Vec<usize> = engine.asked().iter().map(|(_, body)| body["Records"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(put, [4, 4, 2, 1]);
}

#[tokio::test]
async fn a_put_that_is_refused_again_and_again_ends_as_certainly_not_taken() {
    let engine = Scripted::start(vec![refused("ProvisionedThroughputExceededException")]).await;
    let results = KinesisTransport::new(engine.stream().await).send(messages(0..2)).await;
    assert!(
        results.iter().all(|result| result.as_ref().is_err_and(|error| error.definite && error.retry)),
        "{results:?}"
    );
    let engine = Scripted::start(vec![refused("ResourceNotFoundException")]).await;
    let results = KinesisTransport::new(engine.stream().await).send(messages(0..2)).await;
    assert!(
        results.iter().all(|result| result.as_ref().is_err_and(|error| error.definite && !error.retry)),
        "{results:?}"
    );
    assert_eq!(engine.asked().len(), 1, "no use to try that again");
}

#[tokio::test]
async fn expired_iterators_and_throttled_reads_lose_nothing() {
    let record = |n: u64| {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(n.to_be_bytes());
        serde_json::json!({"SequenceNumber": n.to_string(), "Data": data, "PartitionKey": "k", "ApproximateArrivalTimestamp": 1.0})
    };
    let iterator = |name: &str| (200, serde_json::json!({"ShardIterator": name}));
    let records = |numbers: &[u64], next: &str| {
        let records: Vec<_> = numbers.iter().map(|n| record(*n)).collect();
        (
            200,
            serde_json::json!({"Records": records, "NextShardIterator": next, "MillisBehindLatest": 5000}),
        )
    };
    let engine = Scripted::start(vec![
        (200, serde_json::json!({"Shards": [{"ShardId": "s-0", "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"}, "SequenceNumberRange": {"StartingSequenceNumber": "0"}}]})),
        iterator("one"),
        records(&[8, 9], "two"),
        refused("ExpiredIteratorException"),
        iterator("three"),
        refused("ProvisionedThroughputExceededException"),
        refused("LimitExceededException"),
        iterator("four"),
        records(&[10], "five"),
    ])
    .await;
    let settings = KinesisSettings {
        poll: Duration::from_millis(1),
    };
    let receiver = KinesisReceiver::new(engine.stream().await, SourceCheckpoints::default(), settings);
    let begun = Instant::now();
    let all = receive_until(&receiver, |all| all.iter().any(|one| number(one) == 10), |one| number(one) == 8).await;
    assert!(begun.elapsed() >= Duration::from_millis(50), "a throttled shard is left alone for a while");
    assert_eq!(all.iter().take(3).map(number).collect::<Vec<_>>(), [8, 9, 10]);
    let asked = engine.asked();
    let starts: Vec<_> = asked
        .iter()
        .filter(|(call, _)| call == "getsharditerator")
        .map(|(_, body)| body.clone())
        .collect();
    assert_eq!(starts[0]["ShardIteratorType"], "TRIM_HORIZON");
    for start in &starts[1..] {
        assert_eq!(
            (start["ShardIteratorType"].as_str(), start["StartingSequenceNumber"].as_str()),
            (Some("AFTER_SEQUENCE_NUMBER"), Some("9"))
        );
    }
    assert!(receiver.lag_ms() >= 5000);
    let place = sealed(&receiver).iter().map(|(_, at)| at.clone()).collect::<Vec<_>>();
    assert_eq!(place, [ShardAt::After("8".into())], "only what is done");
}
