//! Starts the real binary on a folder of its own and speaks HTTP with it. Ends only what it started.

pub mod checker;
pub mod data;
pub mod engines;
pub mod proxy;
pub mod stage;
pub mod streams;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sluice::{
    auth::{
        jwt,
        secret::{self, LocalSecret},
    },
    model::tenant::TenantId,
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_sluice")
}

/// A data folder with the settings that a server is started with on it.
pub struct Site {
    /// Removed at the end.
    pub folder: tempfile::TempDir,
    /// `SLUICE__…` settings.
    pub settings: BTreeMap<String, String>,
}

impl Site {
    /// An empty folder, small segments and a small memtable, so that rolling, flushing and trimming happen.
    pub fn small() -> Self {
        let mut site = Self::plain();
        site.set("WAL__SEGMENT_BYTES", "1MiB").set("STORE__MEMTABLE_BYTES", "2MiB");
        site
    }

    /// An empty folder and the defaults.
    pub fn plain() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            settings: BTreeMap::new(),
        }
    }

    /// Sets `SLUICE__<key>`.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.settings.insert(format!("SLUICE__{key}"), value.into());
        self
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A command of the binary with this site's settings and nothing else from the environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE")) {
            command.env_remove(name);
        }
        command.args(args).current_dir(self.folder.path()).envs(&self.settings);
        command.env("SLUICE__DATA_DIR", self.settings.get("SLUICE__DATA_DIR").map_or(self.data(), PathBuf::from));
        command.env("SLUICE__HTTP__LISTEN", "127.0.0.1:0").env("SLUICE__ADMIN__LISTEN", "127.0.0.1:0");
        command
    }

    /// Starts `sluice serve` and waits until it takes writes.
    pub fn start(&self) -> Server {
        self.try_start()
            .unwrap_or_else(|(code, stderr)| panic!("the server ended with {code:?}: {stderr}"))
    }

    /// Starts `sluice serve` and kills it after so long, wherever it is then.
    pub async fn start_and_kill(&self, after: Duration) {
        let mut child = self
            .command(&["serve"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        tokio::time::sleep(after).await;
        // An error means that it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// As [`Site::start`]; an early end gives the exit code and what it said.
    pub fn try_start(&self) -> Result<Server, (Option<i32>, String)> {
        let log = self.folder.path().join("stderr.log");
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log can be opened");
        let before = stderr.metadata().map_or(0, |m| m.len());
        let mut child = self
            .command(&["serve"])
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("standard output can be read");
        let Some(addresses) = line.strip_prefix("listening http=") else {
            let code = child.wait().expect("it ended").code();
            let text = std::fs::read(&log).unwrap_or_default();
            return Err((code, String::from_utf8_lossy(&text[before as usize..]).into_owned()));
        };
        let (http, admin) = addresses.trim().split_once(" admin=").expect("listening http=ADDR admin=ADDR");
        let data = self.settings.get("SLUICE__DATA_DIR").map_or(self.data(), PathBuf::from);
        Ok(Server {
            child,
            http: http.parse().expect("an address"),
            admin: admin.parse().expect("an address"),
            secret: secret::read(&data).expect("the secret was made"),
            client: sluice::cli::client::plain().expect("a client"),
            log,
        })
    }
}

/// Sends a signal and waits until the process has ended. `None`: it did not, and was killed.
pub fn end(child: &mut Child, signal: Signal) -> Option<ExitStatus> {
    let (pid, (tell, ended)) = (Pid::from_child(child), mpsc::channel());
    kill_process(pid, signal).expect("it runs");
    thread::scope(|scope| {
        // It waits in the kernel: asking again and again would take a core away from who is to end.
        scope.spawn(move || drop(tell.send(child.wait())));
        let status = ended.recv_timeout(PATIENCE).ok();
        if status.is_none() {
            let _ = kill_process(pid, Signal::KILL); // and the waiting ends
        }
        status.map(|status| status.expect("it can be waited for"))
    })
}

/// A running server. Dropping it kills it.
pub struct Server {
    child: Child,
    /// Where the API listens.
    pub http: SocketAddr,
    /// Where metrics and health listen.
    pub admin: SocketAddr,
    secret: LocalSecret,
    /// A client with its connections.
    pub client: reqwest::Client,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// `kill -9`.
    pub fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self) -> Option<i32> {
        let status = end(&mut self.child, Signal::TERM).unwrap_or_else(|| panic!("the server did not stop: {}", self.stderr()));
        status.code()
    }

    /// Its process stands still, as in a virtual machine that was paused, until [`Server::go_on`].
    pub fn stand_still(&self) {
        kill_process(self.pid(), Signal::STOP).expect("it runs");
    }

    /// Ends [`Server::stand_still`].
    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).expect("it runs");
    }

    /// Whether its process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Everything the servers of this site have logged.
    pub fn stderr(&self) -> String {
        let mut text = Vec::new();
        std::fs::File::open(&self.log)
            .and_then(|mut f| f.read_to_end(&mut text))
            .expect("the log can be read");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A token of the local issuer.
    pub fn token(&self, tenant: Option<&str>, roles: &[&str]) -> String {
        let tenant = tenant.map(|name| TenantId::parse(name).expect("a tenant"));
        let role: Vec<String> = roles.iter().map(|r| (*r).to_owned()).collect();
        let exp = chrono::Utc::now().timestamp() + 3600;
        jwt::mint(
            self.secret.key(),
            &jwt::NewToken {
                sub: "tester",
                tenant: tenant.as_ref(),
                role: &role,
                exp,
            },
        )
    }

    /// The full address of a path under the base path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.http)
    }

    /// GET with a tenant's token; status and JSON body.
    pub async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        answer(self.client.get(self.url(path)).bearer_auth(token)).await
    }

    /// POST of JSON text; status and JSON body.
    pub async fn post(&self, token: &str, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        answer(
            self.client
                .post(self.url(path))
                .bearer_auth(token)
                .header("content-type", "application/json")
                .body(body),
        )
        .await
    }

    /// Makes a tenant; its admin token.
    pub async fn tenant(&self, name: &str) -> String {
        let platform = self.token(None, &["platform_admin"]);
        let (status, body) = self.post(&platform, "/tenants", serde_json::json!({"tenant_id": name}).to_string()).await;
        assert!(status == 201 || status == 409, "{status} {body}");
        self.token(Some(name), &["admin"])
    }

    /// The report of `/health`.
    pub async fn get_health(&self) -> Value {
        answer(self.client.get(format!("http://{}/health", self.http))).await.1
    }

    /// Waits until reads are answered (the log has been replayed).
    pub async fn ready(&self) {
        self.until(
            || async {
                self.client
                    .get(format!("http://{}/health/ready", self.http))
                    .send()
                    .await
                    .is_ok_and(|a| a.status() == 200)
            },
            "ready",
        )
        .await;
    }

    /// Asks again and again until `condition` holds.
    pub async fn until<F: Future<Output = bool>>(&self, condition: impl Fn() -> F, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < deadline, "`{what}` did not come: {}", self.stderr());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every entry of the token's tenant, by sequence, read in windows of numbers.
    pub async fn everything(&self, token: &str) -> Vec<Value> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let (status, page) = self
                .get(token, &format!("/logs?sort=sequence:asc&page_size=1000&total=false&min_sequence={}", after + 1))
                .await;
            assert_eq!(status, 200, "{page}");
            let entries = page["data"].as_array().expect("a list");
            let Some(last) = entries.last() else { return all };
            after = last["sequence"].as_u64().expect("a number");
            all.extend(entries.iter().cloned());
        }
    }

    /// The tenant's counters, when nothing is pending any more. With roles split nobody knows what is pending: there they are those of what
    /// was decided so far.
    pub async fn settled_usage(&self, token: &str, tenant: &str) -> Value {
        let path = format!("/tenants/{tenant}/usage");
        let settled = || async {
            let (status, usage) = self.get(token, &path).await;
            status == 200 && (usage["pending"] == 0 || usage["pending"].is_null())
        };
        self.until(settled, "pending=0").await;
        self.get(token, &path).await.1
    }
}

/// Sends a request; status and JSON body (`null` if it is not JSON).
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("the server answers");
    let status = answer.status().as_u16();
    let body = answer.bytes().await.expect("the body arrives");
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// accepted = stored + duplicate + dead_lettered + pending, or it panics. With roles split `pending` is null, and counts as nothing.
pub fn assert_adds_up(usage: &Value) {
    let n = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("`{key}` is missing in {usage}"));
    let pending = if usage["pending"].is_null() { 0 } else { n("pending") };
    assert_eq!(n("accepted"), n("stored") + n("duplicate") + n("dead_lettered") + pending, "{usage}");
}

/// Numbers 1, 2, 3 … without a hole.
pub fn assert_dense(entries: &[Value]) {
    for (i, entry) in entries.iter().enumerate() {
        assert_eq!(entry["sequence"].as_u64(), Some(i as u64 + 1), "entry {i} of {}", entries.len());
    }
}
