//! Against the real engine (ElasticMQ behind its header fixer), directly or through a proxy that misbehaves.

use super::*;
use crate::{
    fs::sim::SimFs,
    model::{pack::tests::pack_of, tenant::TenantScope, ticket::Verdict},
    objects::folder::FolderObjects,
    queue::{
        AcceptError, Counters, Decided, Producer,
        remote::{
            Decisions, Message, Receive, Transport,
            consumer::{ConsumerSettings, RemoteConsumer},
            producer::{ProducerSettings, RemoteProducer},
            quarantine::Quarantine,
            testing::{Noted, contract, noise},
        },
        seals::tests::owners::two_owners_of_one_queue,
    },
    testing::{
        engines,
        proxy::{Fault, Proxy, Request},
    },
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{collections::HashSet, path::PathBuf};
use tokio::runtime::Handle;
use uuid::Uuid;

const BOTH: Role = Role { sends: true, receives: true };

/// A queue of a new name, deleted at the end.
struct Queue {
    client: Client,
    /// As the engine is reached directly.
    url: String,
    name: String,
}

fn by_hand(endpoint: &str) -> AwsSettings {
    AwsSettings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        keys: Some(("test".to_owned(), "testtest".to_owned())),
    }
}

async fn client_at(endpoint: &str) -> Client {
    Client::new(&aws::config(&by_hand(endpoint)).await)
}

impl Queue {
    async fn make(endpoint: &str, dead_letters: Option<&Queue>) -> Self {
        let client = client_at(endpoint).await;
        let name = format!("sluice-test-{}", Uuid::new_v4().simple());
        let mut create = client.create_queue().queue_name(&name);
        if let Some(dead_letters) = dead_letters {
            let policy = format!(
                r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{}","maxReceiveCount":1}}"#,
                dead_letters.name
            );
            create = create.attributes(aws_sdk_sqs::types::QueueAttributeName::RedrivePolicy, policy);
        }
        create.send().await.expect("a queue");
        let url = format!("{}/000000000000/{name}", endpoint.trim_end_matches('/'));
        Self { client, url, name }
    }

    fn settings(&self) -> SqsSettings {
        let endpoint = self.url.rsplit_once("/000000000000").expect("its URL").0;
        SqsSettings {
            urls: vec![self.url.clone()],
            wait: Duration::from_secs(1),
            visibility: Duration::from_secs(30),
            aws: by_hand(endpoint),
            ..SqsSettings::default()
        }
    }

    /// The same queue, reached through the proxy.
    fn through(&self, proxy: &Proxy) -> SqsSettings {
        SqsSettings {
            urls: vec![format!("{}/000000000000/{}", proxy.url(), self.name)],
            aws: by_hand(&proxy.url()),
            ..self.settings()
        }
    }

    async fn open(&self, settings: &SqsSettings) -> SqsPartition {
        open(settings, BOTH).await.expect("a good queue").remove(0)
    }

    async fn delete(&self) {
        let _ = self.client.delete_queue().queue_url(&self.url).send().await; // a test that fails leaves it
    }

    /// Messages in it, handed out or not.
    async fn len(&self) -> u64 {
        let asked = self
            .client
            .get_queue_attributes()
            .queue_url(&self.url)
            .attribute_names("All".into())
            .send()
            .await;
        let found = asked.expect("it is there").attributes.unwrap_or_default();
        let number = |name: &str| found.get(&name.into()).and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
        number("ApproximateNumberOfMessages") + number("ApproximateNumberOfMessagesNotVisible")
    }
}

fn calls(action: &'static str) -> impl Fn(&Request) -> bool + Send + 'static {
    move |request| request.header("x-amz-target") == format!("AmazonSQS.{action}")
}

fn refusal(status: u16, code: &str) -> Fault {
    let headers = vec![
        ("x-amzn-query-error".to_owned(), format!("{code};Sender")),
        ("content-type".to_owned(), "application/x-amz-json-1.0".to_owned()),
    ];
    let name = code.rsplit('.').next().unwrap_or(code);
    Fault::Answer(
        status,
        headers,
        format!(r#"{{"__type":"com.amazonaws.sqs#{name}","message":"as scripted"}}"#).into(),
    )
}

/// Lets one item of a batch fail that the engine has taken, or has not got at all.
fn one_fails(code: &'static str, sender_fault: bool, took_effect: bool) -> Fault {
    let edit = move |body: Bytes| {
        let mut json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        if let Some(taken) = json["Successful"].as_array_mut().filter(|taken| !taken.is_empty()) {
            let id = taken.remove(0)["Id"].clone();
            json["Failed"] = serde_json::json!([{"Id": id, "Code": code, "Message": "as scripted", "SenderFault": sender_fault}]);
        }
        Bytes::from(json.to_string())
    };
    let drop_first = |body: Bytes| {
        let mut json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        if let Some(entries) = json["Entries"].as_array_mut().filter(|entries| entries.len() > 1) {
            entries[0] = entries[1].clone();
            entries[0]["Id"] = "0".into();
        }
        Bytes::from(json.to_string())
    };
    Fault::Rewrite {
        request: (!took_effect).then(|| Arc::new(drop_first) as crate::testing::proxy::Edit),
        answer: Some(Arc::new(edit)),
    }
}

/// Decides nothing.
struct Nothing;

impl Decisions for Nothing {
    fn decided(&self, _: Uuid, _: Duration) -> BoxFuture<'static, Option<Decided>> {
        Box::pin(std::future::ready(None))
    }

    fn counters(&self, _: &TenantScope) -> Counters {
        Counters::default()
    }
}

fn producer(partition: &SqsPartition) -> RemoteProducer {
    let transport = partition.transport.clone() as Arc<dyn Transport>;
    RemoteProducer::start(vec![transport], Arc::new(Nothing), ProducerSettings::default(), &Handle::current())
}

/// Receives and decides until these entries are decided and the queue is empty.
async fn decide(queue: &Queue, partition: &SqsPartition, expected: &HashSet<Uuid>) {
    let decided = decide_all(queue, partition, expected);
    tokio::time::timeout(Duration::from_secs(120), decided).await.expect("everything comes");
}

async fn decide_all(queue: &Queue, partition: &SqsPartition, expected: &HashSet<Uuid>) {
    let objects = Arc::new(FolderObjects::open(Arc::new(SimFs::new()), PathBuf::from("/o")).expect("a folder"));
    let settings = ConsumerSettings {
        ack_linger: Duration::from_millis(100),
        ..ConsumerSettings::default()
    };
    let (noted, quarantine) = (Arc::new(Noted::default()), Quarantine::new(objects, 0));
    let (consumer, mut deliveries) = RemoteConsumer::start(partition.receive.clone(), noted, quarantine, settings, Handle::current());
    let mut decided = HashSet::new();
    while !decided.is_superset(expected) {
        let delivery = deliveries.recv().await.expect("the lane is open");
        decided.extend(delivery.pack.entries().map(|entry| entry.id()));
        delivery.ticket.settle(Verdict::Done);
    }
    // Repetitions may still come.
    let rest = tokio::spawn(async move {
        while let Some(delivery) = deliveries.recv().await {
            delivery.ticket.settle(Verdict::Done);
        }
    });
    while queue.len().await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    consumer.close().await;
    rest.await.expect("no panic");
    assert_eq!(&decided, expected, "nothing else came");
}

fn ids(numbers: std::ops::Range<u128>) -> (Vec<u128>, HashSet<Uuid>) {
    (numbers.clone().collect(), numbers.map(Uuid::from_u128).collect())
}

#[tokio::test]
async fn sqs_keeps_the_contract() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queues = std::sync::Mutex::new(Vec::new());
    contract(async || {
        let queue = Queue::make(&endpoint, None).await;
        let settings = SqsSettings {
            visibility: Duration::from_secs(10),
            ..queue.settings()
        };
        let partition = queue.open(&settings).await;
        queues.lock().expect("unpoisoned").push(queue);
        (partition.transport as Arc<dyn Transport>, partition.receive as Arc<dyn Receive>)
    })
    .await;
    let queues = queues.into_inner().expect("unpoisoned");
    for queue in queues {
        queue.delete().await;
    }
}

#[tokio::test]
async fn what_is_accepted_is_decided_and_leaves_the_queue() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let partition = queue.open(&queue.settings()).await;
    let producer = producer(&partition);
    let (all, expected) = ids(1..3001);
    for (tenant, ids) in all.chunks(300).enumerate() {
        producer.accept(pack_of(&format!("t{tenant}"), ids), None).await.expect("taken");
    }
    decide(&queue, &partition, &expected).await;
    queue.delete().await;
}

#[tokio::test]
async fn throttling_errors_and_lost_answers_are_tried_again_and_lose_nothing() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let proxy = Proxy::start(&endpoint).await;
    let partition = queue.open(&queue.through(&proxy)).await;
    let producer = producer(&partition);
    let (all, expected) = ids(1..9);
    let faults = [
        refusal(400, "AWS.SimpleQueueService.RequestThrottled"),
        refusal(400, "ThrottlingException"),
        refusal(500, "InternalFailure"),
        refusal(503, "ServiceUnavailable"),
        Fault::Swallow,
        Fault::CutAnswer(5),
        Fault::Refuse,
        Fault::CutRequest,
    ];
    for (id, fault) in all.iter().zip(faults) {
        proxy.next(2, calls("SendMessageBatch"), fault);
        producer.accept(pack_of("acme", &[*id]), None).await.expect("taken in the end");
    }
    assert!(queue.len().await > all.len() as u64, "what took effect and was not answered is there again");
    // The same on the other side.
    let mut n = 0;
    proxy.script(move |request| {
        n += 1;
        match request.header("x-amz-target") {
            "AmazonSQS.ReceiveMessage" if n % 5 == 0 => refusal(500, "InternalFailure"),
            "AmazonSQS.DeleteMessageBatch" if n % 3 == 0 => Fault::Swallow,
            "AmazonSQS.DeleteMessageBatch" if n % 3 == 1 => refusal(400, "AWS.SimpleQueueService.RequestThrottled"),
            _ => Fault::Pass,
        }
    });
    decide(&queue, &partition, &expected).await;
    queue.delete().await;
}

#[tokio::test]
async fn every_item_of_a_batch_is_read_and_what_failed_is_told_again() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let proxy = Proxy::start(&endpoint).await;
    let partition = queue.open(&queue.through(&proxy)).await;
    let bodies = [noise(1, 10), noise(2, 10), noise(3, 10)];
    let messages = || bodies.iter().map(|body| Message { key: 0, body: body.clone() }).collect::<Vec<_>>();
    proxy.next(1, calls("SendMessageBatch"), one_fails("InternalError", false, false));
    let results = partition.transport.send(messages()).await;
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().map_err(|error| (error.definite, error.retry)).err())
        .collect();
    assert_eq!(kinds, [Some((false, true)), None, None], "one is in doubt and may be sent again");
    proxy.next(1, calls("SendMessageBatch"), one_fails("InvalidMessageContents", true, false));
    let refused = partition.transport.send(messages()).await.remove(0).expect_err("as scripted");
    assert_eq!((refused.definite, refused.retry), (true, false), "it is for good");
    let forgets = |body: Bytes| {
        let mut json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        json["Successful"].as_array_mut().expect("items").remove(0);
        Bytes::from(json.to_string())
    };
    let forgets = Fault::Rewrite {
        request: None,
        answer: Some(Arc::new(forgets)),
    };
    proxy.next(1, calls("SendMessageBatch"), forgets);
    let results = partition.transport.send(messages()).await;
    assert!(
        results[0].as_ref().is_err_and(|error| !error.definite && error.retry),
        "what an answer does not name is in doubt"
    );
    assert!(results[1].is_ok() && results[2].is_ok());
    let mut received = Vec::new();
    while received.len() < 9 {
        received.extend(partition.receive.receive(10).await.expect("received"));
    }
    let receipts: Vec<_> = received.iter().map(|message| message.receipt.clone()).collect();
    proxy.next(1, calls("ChangeMessageVisibilityBatch"), one_fails("InternalError", false, true));
    assert_eq!(partition.receive.extend(receipts.clone()).await, receipts[..1]);
    proxy.next(1, calls("DeleteMessageBatch"), one_fails("InternalError", false, true));
    let again = partition.receive.done(receipts.clone()).await;
    assert_eq!(again, receipts[..1]);
    assert!(
        partition.receive.done(again).await.is_empty(),
        "deleted before: its receipt is invalid, so it is done"
    );
    assert_eq!(queue.len().await, 0);
    queue.delete().await;
}

#[tokio::test]
async fn what_is_told_of_messages_in_vain_is_told_again_and_an_old_receipt_says_nothing() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let proxy = Proxy::start(&endpoint).await;
    let partition = queue.open(&queue.through(&proxy)).await;
    let (transport, source) = (&partition.transport, &partition.receive);
    assert!(transport.send(vec![Message { key: 0, body: noise(1, 10) }]).await[0].is_ok());
    let receive = async || loop {
        let received = source.receive(10).await.expect("received");
        if let Some(one) = received.first() {
            return vec![one.receipt.clone()];
        }
    };
    let old = receive().await;
    for fault in [
        refusal(500, "InternalFailure"),
        refusal(400, "ThrottlingException"),
        Fault::Refuse,
        Fault::Swallow,
    ] {
        proxy.next(1, calls("ChangeMessageVisibilityBatch"), fault.clone());
        assert_eq!(source.extend(old.clone()).await, old);
        if !matches!(fault, Fault::Swallow) {
            proxy.next(1, calls("DeleteMessageBatch"), fault);
            assert_eq!(source.done(old.clone()).await, old);
        }
    }
    proxy.mend();
    source.give_back(old.clone()).await;
    let new = receive().await;
    assert_ne!(old, new, "each reception has a receipt of its own");
    assert!(
        source.extend(old.clone()).await.is_empty() && source.done(old.clone()).await.is_empty(),
        "not to be told again"
    );
    source.give_back(old).await;
    // As SQS has it: the handle of a reception that is over.
    for code in ["ReceiptHandleIsInvalid", "AWS.SimpleQueueService.MessageNotInflight", "InvalidParameterValue"] {
        proxy.next(1, calls("ChangeMessageVisibilityBatch"), one_fails(code, true, true));
        assert!(source.extend(new.clone()).await.is_empty(), "{code}");
    }
    proxy.mend();
    assert!(source.done(new).await.is_empty());
    assert_eq!(queue.len().await, 0);
    queue.delete().await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_under_way_is_told_in_words_and_used_again_when_it_is_back() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let proxy = Proxy::start(&endpoint).await;
    let partition = queue.open(&queue.through(&proxy)).await;
    let producer = producer(&partition);
    proxy.script(|_| refusal(400, "AWS.SimpleQueueService.NonExistentQueue"));
    let error = partition.receive.receive(10).await.expect_err("there is none");
    assert!(error.lasting && error.text.contains("NonExistentQueue"), "{error:?}");
    let outcome = producer.accept(pack_of("acme", &[1]), None).await;
    assert!(matches!(outcome, Err(AcceptError::Unavailable { .. })), "nothing was taken: {outcome:?}");
    proxy.mend();
    producer.accept(pack_of("acme", &[1]), None).await.expect("it is back");
    decide(&queue, &partition, &HashSet::from([Uuid::from_u128(1)])).await;
    queue.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_of_one_queue_decide_everything_once() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let partition = queue.open(&queue.settings()).await;
    let made = (partition.transport as Arc<dyn Transport>, partition.receive as Arc<dyn Receive>);
    two_owners_of_one_queue(made, async || queue.len().await == 0).await;
    queue.delete().await;
}

#[tokio::test]
async fn an_engine_that_is_down_is_503_and_one_whose_answers_are_lost_is_504() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let proxy = Proxy::start(&endpoint).await;
    let partition = queue.open(&queue.through(&proxy)).await;
    // Nobody listens: nothing can have been sent.
    let nobody = client_at("http://127.0.0.1:9").await;
    let dead = SqsTransport::new(nobody, "http://127.0.0.1:9/000000000000/none".to_owned());
    let settings = ProducerSettings {
        give_up: Duration::from_secs(4),
        ..ProducerSettings::default()
    };
    let start = |transport: Arc<dyn Transport>| RemoteProducer::start(vec![transport], Arc::new(Nothing), settings, &Handle::current());
    let outcome = start(Arc::new(dead)).accept(pack_of("acme", &[1]), None).await;
    assert!(matches!(outcome, Err(AcceptError::Unavailable { .. })), "{outcome:?}");
    proxy.script(|_| Fault::Swallow);
    let outcome = start(partition.transport.clone()).accept(pack_of("acme", &[2]), None).await;
    assert!(matches!(outcome, Err(AcceptError::Unknown)), "{outcome:?}");
    proxy.mend();
    decide(&queue, &partition, &HashSet::from([Uuid::from_u128(2)])).await;
    queue.delete().await;
}

#[tokio::test]
async fn the_dead_letter_queue_is_found_and_decided_like_the_queue() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let letters = Queue::make(&endpoint, None).await;
    let queue = Queue::make(&endpoint, Some(&letters)).await;
    let partition = queue.open(&queue.settings()).await;
    let (all, expected) = ids(1..4);
    producer(&partition).accept(pack_of("acme", &all), None).await.expect("taken");
    // Somebody receives it once too often: the second reception moves it.
    while letters.len().await == 0 {
        let raw = &queue.client;
        let _ = raw.receive_message().queue_url(&queue.url).visibility_timeout(0).send().await; // only for its effect
    }
    assert_eq!(queue.len().await, 0);
    let found = partition.receive.receive(10).await.expect("received");
    assert!(found.len() == 1 && found[0].set_aside, "it is known where it comes from: {found:?}");
    partition.receive.give_back(vec![found[0].receipt.clone()]).await;
    decide(&letters, &partition, &expected).await;
    queue.delete().await;
    letters.delete().await;
}

#[tokio::test]
async fn a_start_says_in_words_what_is_wrong() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let queue = Queue::make(&endpoint, None).await;
    let proxy = Proxy::start(&endpoint).await;
    let good = queue.through(&proxy);
    let said = async |settings: &SqsSettings| match open(settings, BOTH).await {
        Ok(_) => panic!("it must be refused"),
        Err(wrong) => wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    };
    let attribute = |name: &'static str, value: &'static str| {
        let edit = move |body: Bytes| {
            let mut json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            json["Attributes"][name] = value.into();
            Bytes::from(json.to_string())
        };
        Fault::Rewrite {
            request: None,
            answer: Some(Arc::new(edit)),
        }
    };
    let redrive = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:nowhere","maxReceiveCount":5}"#;
    for (action, fault, expected) in [
        ("GetQueueAttributes", refusal(403, "InvalidClientTokenId"), "refuses the credentials"),
        ("GetQueueAttributes", refusal(403, "SignatureDoesNotMatch"), "AWS_SECRET_ACCESS_KEY"),
        ("GetQueueAttributes", refusal(403, "AccessDenied"), "`sqs:GetQueueAttributes`"),
        ("SendMessageBatch", refusal(403, "AccessDenied"), "`sqs:SendMessage`"),
        ("ReceiveMessage", refusal(403, "AccessDenied"), "`sqs:ReceiveMessage`"),
        ("DeleteMessageBatch", refusal(403, "AccessDenied"), "`sqs:DeleteMessage`"),
        ("ChangeMessageVisibilityBatch", refusal(403, "AccessDenied"), "`sqs:ChangeMessageVisibility`"),
        (
            "GetQueueAttributes",
            attribute("MessageRetentionPeriod", "345600"),
            "keeps messages for 4 days only, but must keep them for 14 days",
        ),
        (
            "GetQueueAttributes",
            attribute("MaximumMessageSize", "262144"),
            "set its MaximumMessageSize to 1048576",
        ),
        ("GetQueueAttributes", attribute("FifoQueue", "true"), "FIFO"),
        ("GetQueueAttributes", attribute("RedrivePolicy", redrive), "`queue.sqs.dead_letter_urls`"),
        ("GetQueueAttributes", Fault::Refuse, "cannot be asked"),
    ] {
        proxy.next(1, calls(action), fault);
        let said = said(&good).await;
        assert!(said.contains(expected), "{action}: {said}");
        assert!(!said.contains("testtest"), "no secrets: {said}");
    }
    proxy.mend();
    let (mut missing, mut twice, mut wrong) = (good.clone(), good.clone(), good.clone());
    missing.urls = vec![format!("{}/000000000000/sluice-no-such-queue", proxy.url())];
    assert!(said(&missing).await.contains("does not exist"));
    twice.urls.push(good.urls[0].clone());
    assert!(said(&twice).await.contains("belongs to two partitions"));
    wrong.urls = vec!["sluice".to_owned()];
    wrong.visibility = Duration::from_secs(1);
    wrong.dead_letter_urls = vec![String::new(), String::new()];
    let all = said(&wrong).await;
    for key in ["`queue.sqs.urls`", "`queue.sqs.visibility`", "`queue.sqs.dead_letter_urls`"] {
        assert!(all.contains(key), "all at once: {all}");
    }
    let short = SqsSettings {
        retention: Duration::from_secs(4 * 24 * 3600),
        ..good.clone()
    };
    proxy.next(1, calls("GetQueueAttributes"), attribute("MessageRetentionPeriod", "345600"));
    assert!(open(&short, BOTH).await.is_ok(), "four days are enough where the configuration says so");
    assert_eq!(queue.len().await, 0, "the checks put nothing in");
    queue.delete().await;
}

#[test]
fn the_place_of_a_queue_follows_from_its_url() {
    for (url, expected) in [
        ("https://sqs.eu-central-1.amazonaws.com/123/q", Place::Region("eu-central-1".to_owned())),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123/q", Place::Region("cn-north-1".to_owned())),
        ("http://127.0.0.1:9324/000000000000/q", Place::Address("http://127.0.0.1:9324".to_owned())),
        (
            "https://sqs.amazonaws.com.evil.example/1/q",
            Place::Address("https://sqs.amazonaws.com.evil.example".to_owned()),
        ),
    ] {
        assert_eq!(place(url), expected, "{url}");
    }
}
