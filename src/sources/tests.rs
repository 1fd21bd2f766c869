//! Foreign queues on the real engines, into a producer that says what it is told and keeps what it took.

use super::*;
use crate::{
    catalog::NewTenant,
    fs::sim::SimFs,
    model::{
        entry::StoredEntry,
        pack::Pack,
        tenant::{TenantId, TenantScope},
    },
    objects::folder::FolderObjects,
    queue::{
        AcceptError, Accepted, Counters,
        remote::aws::{self, AwsSettings},
    },
    sinks::dead_letter::{LetterFilter, Reason},
    testing::{
        engines,
        proxy::{Fault, Proxy},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};
use uuid::Uuid;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// Takes packs, by their names.
#[derive(Default)]
struct Taking {
    taken: Mutex<BTreeMap<Uuid, Pack>>,
    asked: Mutex<Vec<Uuid>>,
    closed: AtomicBool,
    /// Says once of each pack that it does not know.
    doubtful: AtomicBool,
}

impl Producer for Taking {
    fn accept(&self, pack: Pack, _: Option<Duration>) -> BoxFuture<'_, Result<Accepted, AcceptError>> {
        let first = {
            let mut asked = self.asked.lock().expect("no panic");
            asked.push(pack.id());
            asked.iter().filter(|id| **id == pack.id()).count() == 1
        };
        let outcome = if self.closed.load(Ordering::SeqCst) {
            Err(AcceptError::Unavailable {
                reason: "closed",
                retry_after: Duration::from_millis(1),
            })
        } else {
            self.taken.lock().expect("no panic").insert(pack.id(), pack);
            if self.doubtful.load(Ordering::SeqCst) && first {
                Err(AcceptError::Unknown)
            } else {
                Ok(Accepted { decided: None })
            }
        };
        Box::pin(std::future::ready(outcome))
    }

    fn pending(&self, _: &TenantScope, _: Uuid) -> Option<StoredEntry> {
        None
    }

    fn room(&self, _: &TenantId) -> Result<(), AcceptError> {
        Ok(())
    }

    fn counters(&self, _: &TenantScope) -> Counters {
        Counters::default()
    }
}

impl Taking {
    fn entries(&self) -> usize {
        self.taken.lock().expect("no panic").values().map(Pack::len).sum()
    }

    /// The messages of all entries by tenant.
    fn messages(&self) -> BTreeSet<(String, String)> {
        let taken = self.taken.lock().expect("no panic");
        let text = |pack: &Pack, i: usize| pack.entry(i).text(crate::model::entry::Field::Message).unwrap_or_default().to_owned();
        taken
            .values()
            .flat_map(|pack| (0..pack.len()).map(move |i| (pack.tenant().to_string(), text(pack, i))))
            .collect()
    }
}

struct World {
    objects: Arc<dyn Objects>,
    producer: Arc<Taking>,
    parts: Parts,
    config: aws_config::SdkConfig,
}

impl World {
    async fn new(endpoint: String) -> Self {
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(Arc::new(SimFs::new()), "/objects".into()).expect("opened"));
        let catalog = Catalog::open(objects.clone()).await.expect("opened");
        for tenant in ["acme", "globex", "secret"] {
            let new = NewTenant {
                tenant_id: TenantId::parse(tenant).expect("a tenant"),
                name: None,
                settings: Default::default(),
            };
            catalog.create(new).await.expect("made");
        }
        let producer = Arc::new(Taking::default());
        let parts = Parts {
            producer: producer.clone(),
            catalog,
            dead_letters: DeadLetters::open(objects.clone(), 0),
            objects: objects.clone(),
        };
        let settings = AwsSettings {
            endpoint: Some(endpoint),
            region: Some("us-east-1".to_owned()),
            keys: Some(("test".to_owned(), "testtest".to_owned())),
        };
        let config = aws::config(&settings).await;
        Self {
            objects,
            producer,
            parts,
            config,
        }
    }

    fn settings(kind: SourceKind) -> SourceSettings {
        SourceSettings {
            kind,
            tenants: AllowedTenants::parse(&["acme", "glob*"]).expect("good"),
            actor: "billing".to_owned(),
        }
    }

    /// Reads until `enough`, then stops in order.
    async fn read_until<F: Future<Output = bool>>(&self, kind: &SourceKind, enough: impl Fn() -> F) {
        let source = Source::open(&Self::settings(kind.clone()), &self.config, &self.parts).await.expect("opened");
        let stop = CancellationToken::new();
        let reading = tokio::spawn(source.run(stop.clone()));
        wait_for(enough).await;
        stop.cancel();
        tokio::time::timeout(PATIENCE, reading).await.expect("it stops").expect("no panic");
    }
}

async fn wait_for<F: Future<Output = bool>>(enough: impl Fn() -> F) {
    let waiting = async {
        while !enough().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes");
}

fn entry(message: &str, more: &str) -> String {
    format!(r#"{{"action":"PAY","resource_type":"invoice","resource_id":"7","message":"{message}"{more}}}"#)
}

fn pairs(all: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

struct Queue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl Queue {
    async fn make(world: &World) -> Self {
        let client = aws_sdk_sqs::Client::new(&world.config);
        let made = client
            .create_queue()
            .queue_name(format!("sluice-foreign-{}", Uuid::new_v4().simple()))
            .send()
            .await
            .expect("made");
        let url = made.queue_url.expect("a url");
        Self { client, url }
    }

    async fn send(&self, body: &str, tenant: Option<&str>) {
        let mut request = self.client.send_message().queue_url(&self.url).message_body(body);
        if let Some(tenant) = tenant {
            let value = aws_sdk_sqs::types::MessageAttributeValue::builder()
                .data_type("String")
                .string_value(tenant)
                .build()
                .expect("a type");
            request = request.message_attributes("tenant_id", value);
        }
        request.send().await.expect("sent");
    }

    async fn is_empty(&self) -> bool {
        use aws_sdk_sqs::types::QueueAttributeName as Name;
        let names = [Name::ApproximateNumberOfMessages, Name::ApproximateNumberOfMessagesNotVisible];
        let request = self
            .client
            .get_queue_attributes()
            .queue_url(&self.url)
            .set_attribute_names(Some(names.to_vec()));
        let all = request.send().await.expect("asked").attributes.unwrap_or_default();
        names.iter().all(|name| all.get(name).is_some_and(|count| count == "0"))
    }

    async fn drop(self) {
        self.client.delete_queue().queue_url(&self.url).send().await.expect("deleted");
    }
}

#[tokio::test]
async fn what_plain_producers_send_by_sqs_becomes_entries_and_the_rest_dead_letters() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let world = World::new(endpoint).await;
    world.producer.doubtful.store(true, Ordering::SeqCst);
    let queue = Queue::make(&world).await;
    queue.send(&entry("one", r#","tenant_id":"acme""#), None).await;
    queue
        .send(&format!("[{},{}]", entry("two", ""), entry("three", r#","tenant_id":"globex""#)), Some("acme"))
        .await;
    queue
        .send(&[entry("four", ""), "{oops".to_owned(), entry("five", "")].join("\n"), Some("globex"))
        .await;
    queue.send("hello", None).await;
    queue.send(&entry("six", ""), Some("secret")).await;
    queue.send(&entry("seven", ""), Some("globe-not-there")).await;
    let kind = SourceKind::Sqs { url: queue.url.clone() };
    world.read_until(&kind, || queue.is_empty()).await;

    let expected = pairs(&[("acme", "one"), ("acme", "two"), ("globex", "three"), ("globex", "four"), ("globex", "five")]);
    assert_eq!(world.producer.messages(), expected);
    let letters = |tenant: &str| {
        let scope = TenantScope::new(TenantId::parse(tenant).expect("a tenant"));
        let dead_letters = world.parts.dead_letters.clone();
        async move { dead_letters.list(&scope, &LetterFilter::default(), 0, 10).await.expect("listed").data }
    };
    let letter = letters("globex").await.remove(0);
    assert_eq!((letter.reason, letter.entry.get()), (Reason::Undecodable, r#""{oops""#));
    assert!(letter.detail.as_ref().is_some_and(|detail| detail.contains("no JSON")), "{letter:?}");
    assert!(
        letters("acme").await.is_empty() && letters("secret").await.is_empty(),
        "nobody sees what is perhaps another's"
    );
    let shelf = world.objects.list("deadletters/_sources").await.expect("listed");
    let mut seen = BTreeSet::new();
    for key in &shelf {
        let (bytes, _) = world.objects.get(key).await.expect("read").expect("there");
        let stored: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        seen.insert(stored["parts"][0]["original"].as_str().expect("a text").to_owned());
    }
    assert_eq!(seen, ["hello".to_owned(), entry("six", ""), entry("seven", "")].into());
    queue.drop().await;
}

#[tokio::test]
async fn a_message_that_comes_again_makes_the_same_packs() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let world = World::new(endpoint).await;
    world.producer.closed.store(true, Ordering::SeqCst);
    let queue = Queue::make(&world).await;
    for n in 0..5 {
        queue.send(&entry(&n.to_string(), ""), Some("acme")).await;
    }
    let kind = SourceKind::Sqs { url: queue.url.clone() };
    let asked = || world.producer.asked.lock().expect("no panic").iter().copied().collect::<BTreeSet<_>>();
    world.read_until(&kind, || std::future::ready(asked().len() == 5)).await;
    let before = asked();
    assert!(!queue.is_empty().await && world.producer.entries() == 0, "what nobody took stays in its queue");
    world.producer.closed.store(false, Ordering::SeqCst);
    world.read_until(&kind, || queue.is_empty()).await;
    assert_eq!((asked(), world.producer.entries()), (before, 5));
    queue.drop().await;
}

#[tokio::test]
async fn whatever_a_foreign_queue_answers_everything_comes_once_and_leaves_it() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let proxy = Proxy::start(&endpoint).await;
    let world = World::new(proxy.url()).await;
    let queue = Queue::make(&World::new(endpoint).await).await;
    for n in 0..30 {
        queue.send(&entry(&n.to_string(), ""), Some("acme")).await;
    }
    // Of each batch that is deleted the first is not, the answer says so, and then nothing is answered at all, once.
    let one_fails = Fault::Rewrite {
        request: Some(Arc::new(|body| without_first(body, "Entries"))),
        answer: Some(Arc::new(|body| {
            let mut json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            json["Failed"] = serde_json::json!([{"Id": "0", "Code": "InternalError", "SenderFault": false}]);
            json.to_string().into()
        })),
    };
    let (mut receives, mut deletes, partly) = (0, 0, Arc::new(AtomicBool::new(false)));
    let (noted, told) = (partly.clone(), Arc::<Mutex<BTreeSet<String>>>::default());
    let handles = told.clone();
    proxy.script(move |request| match request.header("x-amz-target") {
        "AmazonSQS.ReceiveMessage" => {
            receives += 1;
            match receives {
                1 => Fault::Answer(500, Vec::new(), "{}".into()),
                2 => Fault::Refuse,
                _ => Fault::Pass,
            }
        }
        "AmazonSQS.DeleteMessageBatch" => {
            let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
            let entries = body["Entries"].as_array().expect("a batch");
            let all = entries.iter().map(|entry| entry["ReceiptHandle"].as_str().expect("a handle").to_owned());
            handles.lock().expect("no panic").extend(all);
            if entries.len() > 1 && !noted.swap(true, Ordering::SeqCst) {
                return one_fails.clone();
            }
            deletes += 1;
            match deletes {
                1 => Fault::Answer(503, Vec::new(), "{}".into()),
                2 => Fault::Swallow,
                _ => Fault::Pass,
            }
        }
        _ => Fault::Pass,
    });
    let path = queue.url.rsplit_once("/000000000000/").expect("its URL").1;
    let kind = SourceKind::Sqs {
        url: format!("{}/000000000000/{path}", proxy.url()),
    };
    world.read_until(&kind, || queue.is_empty()).await;
    assert_eq!(world.producer.entries(), 30);
    assert!(partly.load(Ordering::SeqCst), "a part of a batch failed");
    assert_eq!(
        told.lock().expect("no panic").len(),
        30,
        "what was not taken was told again: nothing had to come again for that"
    );
    queue.drop().await;
}

/// The body of a batch without its first item.
fn without_first(body: bytes::Bytes, name: &str) -> bytes::Bytes {
    let mut json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    json[name].as_array_mut().expect("a batch").remove(0);
    json.to_string().into()
}

#[tokio::test]
async fn a_foreign_stream_is_read_on_from_where_it_was_read() {
    let Some(endpoint) = engines::address("SLUICE_TEST_KINESIS") else { return };
    let world = World::new(endpoint).await;
    let client = aws_sdk_kinesis::Client::new(&world.config);
    let stream = format!("sluice-foreign-{}", Uuid::new_v4().simple());
    client.create_stream().stream_name(&stream).shard_count(2).send().await.expect("made");
    let is_active = || async {
        let summary = client
            .describe_stream_summary()
            .stream_name(&stream)
            .send()
            .await
            .expect("asked")
            .stream_description_summary;
        summary.is_some_and(|summary| summary.stream_status == aws_sdk_kinesis::types::StreamStatus::Active)
    };
    wait_for(is_active).await;
    let put = |numbers: std::ops::Range<usize>| {
        let (client, stream) = (client.clone(), stream.clone());
        async move {
            for n in numbers {
                let body = entry(&n.to_string(), r#","tenant_id":"acme""#).into_bytes();
                let request = client.put_record().stream_name(&stream).partition_key(n.to_string()).data(body.into());
                request.send().await.expect("put");
            }
        }
    };
    put(0..12).await;
    client
        .put_record()
        .stream_name(&stream)
        .partition_key("x")
        .data(b"hello".to_vec().into())
        .send()
        .await
        .expect("put");
    let kind = SourceKind::Kinesis { stream: stream.clone() };
    let shelf = || async { world.objects.list("deadletters/_sources").await.expect("listed").len() };
    world.read_until(&kind, || async { world.producer.entries() == 12 && shelf().await == 1 }).await;
    let first: BTreeSet<_> = world.producer.taken.lock().expect("no panic").keys().copied().collect();

    world.producer.asked.lock().expect("no panic").clear();
    put(12..15).await;
    world.read_until(&kind, || std::future::ready(world.producer.entries() == 15)).await;
    let again = world.producer.asked.lock().expect("no panic").clone();
    assert!(
        again.iter().all(|id| !first.contains(id)),
        "what was read before the checkpoint does not come again"
    );

    let checkpoints = world.objects.list("sources").await.expect("listed");
    assert_eq!(checkpoints.len(), 1);
    world.objects.delete(&checkpoints[0]).await.expect("deleted");
    world.producer.asked.lock().expect("no panic").clear();
    let all_again = || std::future::ready(world.producer.asked.lock().expect("no panic").len() >= 15);
    world.read_until(&kind, all_again).await;
    assert_eq!(
        (world.producer.entries(), shelf().await),
        (15, 1),
        "read once more, everything has the name that it had"
    );
    client.delete_stream().stream_name(&stream).send().await.expect("deleted");
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_said_so_at_the_start() {
    let Some(endpoint) = engines::address("SLUICE_TEST_SQS") else { return };
    let world = World::new(endpoint.clone()).await;
    let kind = SourceKind::Sqs {
        url: format!("{endpoint}/000000000000/sluice-nowhere"),
    };
    let error = Source::open(&World::settings(kind), &world.config, &world.parts).await.err().expect("refused");
    assert!(error.to_string().contains("no such SQS queue"), "{error}");
}
