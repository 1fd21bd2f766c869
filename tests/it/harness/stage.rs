//! Where a story is told: one process with everything in it, or several processes on the real engines. What a client sees is the same,
//! so the same story is told to both ([`told_to_both`]).

use super::{
    PATIENCE, Server, Site,
    engines::{Engines, NEEDED},
    streams,
};
use serde_json::{Value, json};
use std::{ops::Deref, time::Instant};
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

/// One set-up on the engines at a time: they are small here, and answer one after the other.
static TURN: Semaphore = Semaphore::const_new(1);

/// Waits for one's turn; it ends when this is dropped.
pub async fn turn() -> SemaphorePermit<'static> {
    TURN.acquire().await.expect("never closed")
}

/// Makes two tests of each story: `embedded::story` and `distributed::story`.
macro_rules! told_to_both {
    ($($story:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                Box::pin(super::$story($crate::harness::stage::Stage::embedded())).await;
            })+
        }
        mod distributed {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                if let Some(stage) = $crate::harness::stage::Stage::distributed().await {
                    Box::pin(super::$story(stage)).await;
                }
            })+
        }
    };
}
pub(crate) use told_to_both;

/// What a set-up of several processes is made of.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Processes that take requests.
    pub apis: usize,
    /// Processes that decide and store.
    pub consumers: usize,
    /// Queues.
    pub partitions: usize,
    /// What they are.
    pub queue: Queue,
}

/// What carries the packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// SQS queues.
    Sqs,
    /// Kinesis streams, on the engine of this name (`KINESIS`, or `KINESIS2`, which can be resharded).
    Kinesis(&'static str),
}

impl Queue {
    /// The engine that it is on.
    pub fn engine(self) -> &'static str {
        match self {
            Self::Sqs => "SQS",
            Self::Kinesis(engine) => engine,
        }
    }
}

impl Default for Form {
    fn default() -> Self {
        Self {
            apis: 1,
            consumers: 1,
            partitions: 1,
            queue: Queue::Sqs,
        }
    }
}

/// Several processes on the real engines, under names of their own.
pub struct Cluster {
    /// The engines.
    pub engines: Engines,
    /// The queues (URLs) or streams (names), one for each partition.
    pub queues: Vec<String>,
    /// What they are.
    pub queue: Queue,
    /// The database in ClickHouse, and what names in OpenSearch and of objects begin with.
    pub name: String,
    /// A queue that others write, allowed for the tenant `acme`.
    pub foreign: String,
    /// A folder with settings for each process that takes requests.
    pub apis: Vec<Site>,
    /// And for each that decides.
    pub consumers: Vec<Site>,
    _turn: Option<SemaphorePermit<'static>>,
}

impl Cluster {
    /// Lays out queues, database and names; starts nothing.
    pub async fn new(engines: Engines, form: Form) -> Self {
        let name = format!("t{}", &Uuid::new_v4().simple().to_string()[..12]);
        let mut queues = Vec::new();
        for p in 0..form.partitions {
            queues.push(match form.queue {
                Queue::Sqs => engines.make_queue(&format!("{name}-{p}")).await,
                Queue::Kinesis(engine) => streams::make(engines.address(engine), &format!("{name}-{p}")).await,
            });
        }
        let foreign = engines.make_queue(&format!("{name}-foreign")).await;
        engines
            .clickhouse(&format!("CREATE DATABASE IF NOT EXISTS {name}"))
            .await
            .expect("ClickHouse answers");
        let sources = json!([{"kind": "sqs", "url": foreign, "tenants": ["acme"], "actor": "shop"}]);
        let site = |role: &str| {
            let mut site = Site::plain();
            site.set("ROLE", role);
            match form.queue {
                Queue::Sqs => site.set("QUEUE__KIND", "sqs").set("QUEUE__SQS__URLS", &json!(queues).to_string()),
                Queue::Kinesis(engine) => {
                    let address = engines.address(engine).to_owned();
                    site.settings.insert("AWS_ENDPOINT_URL_KINESIS".to_owned(), address);
                    site.set("QUEUE__KIND", "kinesis").set("QUEUE__KINESIS__STREAMS", &json!(queues).to_string())
                }
            };
            site.set("QUEUE__SQS__VISIBILITY", "10s").set("QUEUE__SQS__WAIT", "2s");
            site.set("STORES__ANALYTICS", "clickhouse").set("STORES__SEARCH", "opensearch");
            site.set("CLICKHOUSE__URL", engines.address("CLICKHOUSE")).set("CLICKHOUSE__DATABASE", &name);
            site.set("OPENSEARCH__URL", engines.address("OPENSEARCH"))
                .set("OPENSEARCH__INDEX_PREFIX", &name);
            site.set("OBJECTS__URL", &format!("s3://sluice/{name}")).set("SEAL__INTERVAL", "250ms");
            // After `kill -9` the next owner waits for it.
            site.set("SEAL__LEASE", "3s");
            site.set("SOURCES", &sources.to_string());
            for (key, engine) in [("AWS_ENDPOINT_URL_SQS", "SQS"), ("AWS_ENDPOINT_URL_S3", "S3")] {
                site.settings.insert(key.to_owned(), engines.address(engine).to_owned());
            }
            for (key, value) in [
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "testtest"),
                ("AWS_REGION", "us-east-1"),
            ] {
                site.settings.insert(key.to_owned(), value.to_owned());
            }
            site
        };
        Self {
            apis: (0..form.apis).map(|_| site("api")).collect(),
            consumers: (0..form.consumers).map(|_| site("consumer")).collect(),
            queues,
            queue: form.queue,
            foreign,
            name,
            engines,
            _turn: None,
        }
    }

    /// On the engines of the environment, alone on them; `None` where they are not.
    pub async fn here(form: Form) -> Option<Self> {
        // SQS has the foreign queue in any case.
        let mut names = NEEDED.to_vec();
        names.extend((form.queue != Queue::Sqs).then_some(form.queue.engine()));
        let engines = Engines::here(&names)?;
        let turn = turn().await;
        let mut cluster = Self::new(engines, form).await;
        cluster._turn = Some(turn);
        Some(cluster)
    }

    /// From its next start on, every process speaks to these engines instead (proxies before the real ones).
    pub fn redirect(&mut self, engines: &Engines) {
        for site in self.apis.iter_mut().chain(&mut self.consumers) {
            site.set("CLICKHOUSE__URL", engines.address("CLICKHOUSE"));
            site.set("OPENSEARCH__URL", engines.address("OPENSEARCH"));
            for (key, engine) in [("AWS_ENDPOINT_URL_SQS", "SQS"), ("AWS_ENDPOINT_URL_S3", "S3")] {
                site.settings.insert(key.to_owned(), engines.address(engine).to_owned());
            }
        }
    }

    /// Removes what it has made in the engines. Failures do not matter: the names are nobody else's.
    async fn remove(engines: Engines, (queue, partitions): (Queue, Vec<String>), foreign: String, name: String) {
        for name in partitions {
            match queue {
                Queue::Sqs => drop(engines.try_sqs("DeleteQueue", &json!({"QueueUrl": name})).await),
                Queue::Kinesis(engine) => streams::delete(engines.address(engine), &name).await,
            }
        }
        let _ = engines.try_sqs("DeleteQueue", &json!({"QueueUrl": foreign})).await;
        let _ = engines.clickhouse(&format!("DROP DATABASE IF EXISTS {name}")).await;
        for kind in ["logs-*", "meta"] {
            let path = format!("/{name}-{kind}?ignore_unavailable=true");
            let _ = engines.opensearch(reqwest::Method::DELETE, &path, None).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whoever has a turn is a guest in the engines; others own them, and they go as a whole.
        if self._turn.is_none() {
            return;
        }
        let queues = (self.queue, self.queues.clone());
        let work = Self::remove(self.engines.renewed(), queues, self.foreign.clone(), self.name.clone());
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // A thread of its own: this may run within a runtime, where nothing may block on another.
        let done = std::thread::spawn(move || runtime().block_on(work)).join();
        debug_assert!(done.is_ok());
    }
}

/// One of the two.
pub enum Stage {
    /// One process; small segments and a small memtable.
    Embedded(Site),
    /// Several.
    Distributed(Box<Cluster>),
}

impl Stage {
    /// One process with everything in it.
    pub fn embedded() -> Self {
        Self::Embedded(Site::small())
    }

    /// Several processes, or `None` where there are no engines.
    pub async fn distributed() -> Option<Self> {
        Cluster::here(Form::default()).await.map(|cluster| Self::Distributed(Box::new(cluster)))
    }

    /// Whether it is one process.
    pub fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// `many` where engines are as fast as a machine, `few` where they are small.
    pub fn sized(&self, many: usize, few: usize) -> usize {
        if self.is_embedded() { many } else { few }
    }

    /// Starts every process, and waits until reads are answered.
    pub async fn start(&self) -> Running {
        let (apis, consumers) = match self {
            Self::Embedded(site) => (vec![site.start()], Vec::new()),
            Self::Distributed(cluster) => (
                cluster.apis.iter().map(Site::start).collect(),
                cluster.consumers.iter().map(Site::start).collect::<Vec<_>>(),
            ),
        };
        let running = Running { apis, consumers };
        if let Self::Distributed(_) = self {
            for api in &running.apis {
                api.ready().await;
            }
        }
        running
    }
}

/// The running processes; used as the first one that takes requests.
pub struct Running {
    /// Those that take requests.
    pub apis: Vec<Server>,
    /// Those that decide and store, if they are apart.
    pub consumers: Vec<Server>,
}

impl Deref for Running {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.apis[0]
    }
}

impl Running {
    /// What every process has logged.
    pub fn stderr(&self) -> String {
        self.apis.iter().chain(&self.consumers).map(Server::stderr).collect()
    }

    /// SIGTERM to each; 0 if all of them ended well.
    pub fn stop(self) -> Option<i32> {
        let codes: Vec<Option<i32>> = self.apis.into_iter().chain(self.consumers).map(Server::stop).collect();
        codes.into_iter().find(|code| *code != Some(0)).unwrap_or(Some(0))
    }

    /// `kill -9` of each.
    pub fn kill(&mut self) {
        self.apis.iter_mut().chain(&mut self.consumers).for_each(Server::kill);
    }

    /// The tenant's counters, when `accepted` entries are decided.
    pub async fn usage_of(&self, token: &str, tenant: &str, accepted: u64) -> Value {
        let path = format!("/tenants/{tenant}/usage");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let usage = self.get(token, &path).await.1;
            if usage["accepted"] == accepted && usage["pending"].as_u64().unwrap_or(0) == 0 {
                return usage;
            }
            assert!(Instant::now() < deadline, "not {accepted} entries of {tenant}: {usage} {}", self.stderr());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
