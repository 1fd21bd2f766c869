//! The server under test: the real binary on a temporary folder, ended when this is dropped.

use crate::{
    http::Connection,
    ids::{Compared, Sent},
    process::{self, Usage},
};
use anyhow::Context;
use sluice::{
    auth::{
        jwt,
        secret::{self, LocalSecret},
    },
    model::tenant::TenantId,
};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

/// How long everything that was taken may need until it is stored.
const STORED: Duration = Duration::from_secs(600);
/// Connections that make tenants.
const MAKERS: usize = 16;

/// A running server.
pub struct Server {
    child: Child,
    /// Where the API listens.
    pub http: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
    secret: LocalSecret,
    binary: String,
    settings: Vec<(String, String)>,
    /// Processor seconds of processes that have ended.
    spent: f64,
    /// How long the last [`Server::restart`] waited for the old process to end.
    pub stopped_in: Duration,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `binary serve` with the defaults and these settings.
    pub async fn start(binary: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let settings: Vec<(String, String)> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (child, http, admin) = spawn(binary, &settings, folder.path()).await?;
        let server = Self {
            secret: secret::read(folder.path())?,
            child,
            http,
            admin,
            folder,
            binary: binary.to_owned(),
            settings,
            spent: 0.0,
            stopped_in: Duration::ZERO,
        };
        server.ready().await?;
        Ok(server)
    }

    /// Ends the process by SIGTERM and starts another on the same folder.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let asked = Instant::now();
        self.spent = self.usage()?.cpu_s;
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)?;
        anyhow::ensure!(self.child.wait()?.success(), "the server did not end well");
        self.stopped_in = asked.elapsed();
        (self.child, self.http, self.admin) = spawn(&self.binary, &self.settings, self.folder.path()).await?;
        self.ready().await
    }

    /// `kill -9`, and another process on the same folder as soon as it listens; when it was started.
    pub async fn kill_and_start(&mut self) -> anyhow::Result<Instant> {
        self.spent = self.usage()?.cpu_s;
        self.child.kill()?;
        self.child.wait()?;
        let started = Instant::now();
        (self.child, self.http, self.admin) = spawn(&self.binary, &self.settings, self.folder.path()).await?;
        Ok(started)
    }

    /// Waits until it answers reads, which it does when everything durable can be shown.
    async fn ready(&self) -> anyhow::Result<()> {
        shown(self.http).await
    }

    /// Waits until the number of parts has not changed for ten seconds; that number.
    pub async fn compacted(&self) -> anyhow::Result<usize> {
        let (mut parts, mut since) = (self.parts()?, Instant::now());
        while since.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.parts()?;
            if now != parts {
                (parts, since) = (now, Instant::now());
            }
        }
        Ok(parts)
    }

    /// Bytes of everything in the folder of the parts.
    pub fn part_bytes(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for file in std::fs::read_dir(self.folder.path().join("parts"))? {
            bytes += file?.metadata()?.len();
        }
        Ok(bytes)
    }

    fn token(&self, tenant: Option<&str>, role: &str) -> String {
        let tenant = tenant.map(|name| TenantId::parse(name).expect("well formed"));
        let exp = chrono::Utc::now().timestamp() + 7200;
        jwt::mint(
            self.secret.key(),
            &jwt::NewToken {
                sub: "load",
                tenant: tenant.as_ref(),
                role: &[role.to_owned()],
                exp,
            },
        )
    }

    /// Makes `n` tenants; their names and admin tokens.
    pub async fn make_tenants(&self, n: usize) -> anyhow::Result<Vec<(String, String)>> {
        self.make("tenant", n, None).await
    }

    /// Makes `n` tenants whose names begin like this, with settings as `POST /tenants` takes them; their names and admin tokens.
    pub async fn make(&self, prefix: &str, n: usize, settings: Option<&serde_json::Value>) -> anyhow::Result<Vec<(String, String)>> {
        let names: Vec<String> = (0..n).map(|i| format!("{prefix}-{i}")).collect();
        let (platform, mut makers) = (self.token(None, "platform_admin"), JoinSet::new());
        for some in names.chunks(n.div_ceil(MAKERS).max(1)) {
            let (some, platform, at) = (some.to_vec(), platform.clone(), self.http);
            let settings = settings.map_or(String::new(), |settings| format!(r#","settings":{settings}"#));
            makers.spawn(async move {
                let mut connection = Connection::open(at).await?;
                for name in some {
                    let body = format!(r#"{{"tenant_id":"{name}"{settings}}}"#);
                    let status = connection.post("/api/v1/tenants", &platform, body.as_bytes()).await?;
                    anyhow::ensure!(status == 201, "making a tenant: {status}");
                }
                anyhow::Ok(())
            });
        }
        while let Some(made) = makers.join_next().await {
            made??;
        }
        let tenants = names.into_iter().map(|name| {
            let token = self.token(Some(&name), "admin");
            (name, token)
        });
        Ok(tenants.collect())
    }

    /// Waits until nothing is pending; the sum of stored entries.
    pub async fn wait_stored(&self, tenants: &[(String, String)]) -> anyhow::Result<u64> {
        let mut connection = Connection::open(self.http).await?;
        let (mut stored, deadline) = (0, Instant::now() + STORED);
        for (name, token) in tenants {
            stored += loop {
                let (status, body) = connection.get(&format!("/api/v1/tenants/{name}/usage"), token).await?;
                if status == 200 {
                    let usage: serde_json::Value = serde_json::from_slice(&body)?;
                    let n = |key: &str| usage[key].as_u64().context("a counter");
                    if n("pending")? == 0 {
                        anyhow::ensure!(
                            n("accepted")? == n("stored")? + n("duplicate")? + n("dead_lettered")?,
                            "the counters of {name} do not add up: {usage}"
                        );
                        break n("stored")?;
                    }
                }
                anyhow::ensure!(Instant::now() < deadline, "{name} still has pending entries: {status}");
                sleep(Duration::from_millis(5)).await;
            };
        }
        Ok(stored)
    }

    /// Reads every id of a tenant back and compares it with what was said to each.
    pub async fn compare(&self, (name, token): &(String, String), sent: &mut Sent) -> anyhow::Result<Compared> {
        let mut comparison = sent.compare()?;
        self.each_id(token, |id| comparison.stored(id)).await.with_context(|| name.clone())?;
        comparison.finish().with_context(|| name.clone())
    }

    /// Every id that a tenant's log has, by an export.
    pub async fn each_id(&self, token: &str, mut take: impl FnMut(Uuid) -> anyhow::Result<()>) -> anyhow::Result<()> {
        const ID: &[u8] = br#"{"id":""#;
        let mut connection = Connection::open(self.http).await?;
        let each = |line: &[u8]| {
            let id = line.strip_prefix(ID).and_then(|rest| rest.get(..36)).context("a line with an id")?;
            take(Uuid::try_parse_ascii(id)?)
        };
        connection.lines("/api/v1/logs/export?format=ndjson", token, "*/*", each).await
    }

    /// Entries that were accepted and are not decided, by the counters since the process began: after a start those that it found are counted
    /// as decided alone, so it is to be compared with what it was before.
    pub async fn pending(&self) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let of = |outcome: &str| value(&text, &format!("sluice_entries_total{{outcome=\"{outcome}\"}}"));
        Ok(of("accepted")? - of("stored")? - of("duplicate")? - of("dead_lettered")?)
    }

    /// Waits until no more than so many are pending.
    pub async fn wait_pending(&self, most: f64) -> anyhow::Result<()> {
        let deadline = Instant::now() + STORED;
        while self.pending().await? > most {
            anyhow::ensure!(Instant::now() < deadline, "entries are still pending");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let (_, body) = Connection::open(self.admin).await?.get("/metrics", "").await?;
        Ok(String::from_utf8(body)?)
    }

    /// A metric's value.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        value(&self.metrics().await?, name)
    }

    /// What it and its children cost so far, the processor time of those before it included.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let mut usage = process::usage(self.child.id())?;
        usage.cpu_s += self.spent;
        Ok(usage)
    }

    /// User and system CPU seconds so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        Ok(self.usage()?.cpu_s)
    }

    /// Anonymous resident memory in MiB.
    pub fn anonymous_mib(&self) -> anyhow::Result<f64> {
        Ok(self.usage()?.anon_mib)
    }

    /// Handles that it holds open, and its threads.
    pub fn handles_and_threads(&self) -> anyhow::Result<(usize, usize)> {
        let process = format!("/proc/{}", self.child.id());
        let count = |what: &str| anyhow::Ok(std::fs::read_dir(format!("{process}/{what}"))?.count());
        Ok((count("fd")?, count("task")?))
    }

    /// Number of part files.
    pub fn parts(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(self.folder.path().join("parts"))?
            .filter(|f| f.as_ref().is_ok_and(|f| f.path().extension().is_some_and(|e| e == "parquet")))
            .count())
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Of the first metric whose line begins like this.
fn value(metrics: &str, name: &str) -> anyhow::Result<f64> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with(name))
        .with_context(|| format!("there is no metric {name}"))?;
    Ok(line.rsplit(' ').next().context("a value")?.parse()?)
}

/// Waits until a server answers reads.
pub async fn shown(at: SocketAddr) -> anyhow::Result<()> {
    let (mut connection, deadline) = (Connection::open(at).await?, Instant::now() + STORED);
    while connection.get("/health/ready", "").await?.0 != 200 {
        anyhow::ensure!(Instant::now() < deadline, "the server does not become ready");
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Starts the process and waits for the line with its addresses: it takes writes then.
async fn spawn(binary: &str, settings: &[(String, String)], folder: &Path) -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    let mut child = Command::new(binary)
        .arg("serve")
        .env("SLUICE__DATA_DIR", folder)
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env("SLUICE__ADMIN__LISTEN", "127.0.0.1:0")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{binary}` cannot be started; build it with `cargo build --release`"))?;
    let stdout = child.stdout.take().context("piped")?;
    // The others go on meanwhile.
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map(|_| line)
    });
    let line = line.await??;
    let Some((http, admin)) = line.strip_prefix("listening http=").and_then(|l| l.trim().split_once(" admin=")) else {
        // An error means that it has ended already.
        let _ = child.kill();
        anyhow::bail!("the server did not start: {}", child.wait()?);
    };
    Ok((child, http.parse()?, admin.parse()?))
}
