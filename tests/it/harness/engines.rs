//! The real engines as a test sees them past the product: makes what a set-up needs in them, reads rows as they lie there, and starts
//! and kills engines of its own.

use aws_config::{Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use serde_json::{Value, json};
use sluice::objects::{
    Objects,
    s3::{S3Location, S3Objects},
};
use std::{collections::BTreeMap, path::PathBuf, process::Command, sync::Arc};

/// Where the engines answer, and how to speak to them.
#[derive(Clone)]
pub struct Engines {
    addresses: BTreeMap<String, String>,
    client: reqwest::Client,
}

/// The engines that a distributed set-up needs.
pub const NEEDED: [&str; 4] = ["SQS", "CLICKHOUSE", "OPENSEARCH", "S3"];

impl Engines {
    /// Those of the environment. `None` with a word on standard error where one is missing; where `CI` is set that is an error.
    pub fn here(names: &[&str]) -> Option<Self> {
        let mut addresses = BTreeMap::new();
        for name in names {
            let variable = format!("SLUICE_TEST_{name}");
            let Some(address) = std::env::var(&variable).ok().filter(|address| !address.is_empty()) else {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "`{variable}` is not set: `make test-engines` starts the engines and sets it"
                );
                eprintln!("left out: `{variable}` is not set (make test-engines starts it)");
                return None;
            };
            addresses.insert((*name).to_owned(), address);
        }
        Some(Self::at(addresses))
    }

    fn at(addresses: BTreeMap<String, String>) -> Self {
        let client = sluice::cli::client::plain().expect("a client");
        Self { addresses, client }
    }

    /// The address of an engine.
    pub fn address(&self, name: &str) -> &str {
        self.addresses.get(name).map_or("", String::as_str)
    }

    /// The same engines, but one behind another address (a proxy).
    pub fn with(&self, name: &str, address: String) -> Self {
        let mut changed = self.clone();
        changed.addresses.insert(name.to_owned(), address);
        changed
    }

    /// The same with connections of its own, to be used in another runtime.
    pub fn renewed(&self) -> Self {
        Self::at(self.addresses.clone())
    }

    /// One call of SQS that must succeed.
    pub async fn sqs(&self, operation: &str, body: &Value) -> Value {
        self.try_sqs(operation, body).await.unwrap_or_else(|problem| panic!("{operation}: {problem}"))
    }

    /// One call of SQS.
    pub async fn try_sqs(&self, operation: &str, body: &Value) -> Result<Value, String> {
        let request = self.client.post(self.address("SQS")).header("x-amz-target", format!("AmazonSQS.{operation}"));
        let request = request.header("content-type", "application/x-amz-json-1.0").body(body.to_string());
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if !status.is_success() {
            return Err(format!("{status} {text}"));
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Makes a queue with the retention that the product asks for; its URL.
    pub async fn make_queue(&self, name: &str) -> String {
        let made = self
            .sqs(
                "CreateQueue",
                &json!({"QueueName": name, "Attributes": {"MessageRetentionPeriod": "1209600", "VisibilityTimeout": "30"}}),
            )
            .await;
        made["QueueUrl"].as_str().expect("a URL").to_owned()
    }

    /// Messages of a queue that nobody has deleted, seen or not.
    pub async fn queue_depth(&self, url: &str) -> u64 {
        let names = json!(["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]);
        let got = self.sqs("GetQueueAttributes", &json!({"QueueUrl": url, "AttributeNames": names})).await;
        let all = got["Attributes"].as_object().expect("attributes");
        all.values().map(|n| n.as_str().and_then(|n| n.parse::<u64>().ok()).expect("a number")).sum()
    }

    /// The objects of a deployment.
    pub fn objects(&self, name: &str) -> Arc<dyn Objects> {
        let keys = Credentials::new("test", "testtest", None, None, "test");
        let aws = SdkConfig::builder()
            .endpoint_url(self.address("S3"))
            .region(Region::from_static("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(keys))
            .build();
        let at = S3Location::parse(&format!("s3://sluice/{name}")).expect("a bucket and a prefix");
        Arc::new(S3Objects::connect(&at, &aws).expect("a client"))
    }

    /// A statement to ClickHouse; its rows.
    pub async fn clickhouse(&self, statement: &str) -> Result<Vec<Value>, String> {
        let request = self.client.post(self.address("CLICKHOUSE")).query(&[("default_format", "JSONEachRow")]);
        let answer = request.body(statement.to_owned()).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if !status.is_success() {
            return Err(text);
        }
        text.lines().map(|line| serde_json::from_str(line).map_err(|e| e.to_string())).collect()
    }

    /// A request to OpenSearch; its answer.
    pub async fn opensearch(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let mut request = self.client.request(method, format!("{}{path}", self.address("OPENSEARCH")));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if !status.is_success() {
            return Err(format!("{status} {text}"));
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Every document below an alias, as it was kept. Refreshes first.
    pub async fn documents(&self, alias: &str) -> Result<Vec<Value>, String> {
        self.opensearch(reqwest::Method::POST, &format!("/{alias}/_refresh"), None).await?;
        let (mut all, mut after) = (Vec::new(), Value::Null);
        loop {
            let mut body = json!({"size": 5_000, "sort": [{"tenant_id": "asc"}, {"sequence": "asc"}], "query": {"match_all": {}}});
            if !after.is_null() {
                body["search_after"] = after;
            }
            let mut page = self.opensearch(reqwest::Method::POST, &format!("/{alias}/_search"), Some(body)).await?;
            assert_eq!(page["_shards"]["failed"], 0, "a shard failed: {page}");
            let Value::Array(hits) = page["hits"]["hits"].take() else {
                return Err("no hits".into());
            };
            let Some(last) = hits.last() else { return Ok(all) };
            after = last["sort"].clone();
            all.extend(hits);
        }
    }
}

/// Engines that belong to one test, which may kill them.
pub struct Own {
    folder: tempfile::TempDir,
    names: Vec<String>,
    /// Where they answer.
    pub engines: Engines,
}

impl Drop for Own {
    fn drop(&mut self) {
        // Nothing can be done about a failure; what is left says so.
        let _ = Command::new(script("down")).arg(self.folder.path()).status();
    }
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("engines").join(name)
}

impl Own {
    /// Starts engines of one's own; blocks. Called where those of the environment are there, so their programs are too.
    pub fn start(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let names: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
        let guard = Command::new(script("guard")).arg(std::process::id().to_string()).arg(folder.path()).status();
        assert!(guard.expect("engines/guard runs").success());
        let engines = Engines::at(Self::up(&folder, &names));
        Self { folder, names, engines }
    }

    fn up(folder: &tempfile::TempDir, names: &[String]) -> BTreeMap<String, String> {
        let output = Command::new(script("up"))
            .arg(folder.path())
            .args(names)
            .env("SLUICE_ENGINES_REQUIRED", "1")
            .output()
            .expect("engines/up runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter_map(|line| line.strip_prefix("export SLUICE_TEST_")?.split_once('='))
            .map(|(name, address)| (name.to_owned(), address.to_owned()))
            .collect()
    }

    /// `kill -9` of the engine's process (of SQS the front alone: ElasticMQ keeps messages in memory).
    pub fn kill(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join(name).join("pid")).expect("it runs");
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().expect("a number")).expect("not zero");
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    /// Starts what is dead, on its data and its port; blocks.
    pub fn revive(&self) {
        Self::up(&self.folder, &self.names);
    }
}
