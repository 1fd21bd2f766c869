//! The server under test: the real binary on a temporary folder, ended when this is dropped.

use crate::http::Connection;
use anyhow::Context;
use sluice::{
    auth::{
        jwt,
        secret::{self, LocalSecret},
    },
    model::tenant::TenantId,
};
use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

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
        let (child, http, admin) = spawn(binary, &settings, folder.path())?;
        let server = Self {
            secret: secret::read(folder.path())?,
            child,
            http,
            admin,
            folder,
            binary: binary.to_owned(),
            settings,
            stopped_in: Duration::ZERO,
        };
        server.ready().await?;
        Ok(server)
    }

    /// Ends the process by SIGTERM and starts another on the same folder.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let asked = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)?;
        anyhow::ensure!(self.child.wait()?.success(), "the server did not end well");
        self.stopped_in = asked.elapsed();
        (self.child, self.http, self.admin) = spawn(&self.binary, &self.settings, self.folder.path())?;
        self.ready().await
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.http).await?;
        while connection.get("/health/ready", "").await?.0 != 200 {}
        Ok(())
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
        let platform = self.token(None, "platform_admin");
        let mut connection = Connection::open(self.http).await?;
        let mut tenants = Vec::with_capacity(n);
        for i in 0..n {
            let name = format!("tenant-{i}");
            let status = connection
                .post("/api/v1/tenants", &platform, format!(r#"{{"tenant_id":"{name}"}}"#).as_bytes())
                .await?;
            anyhow::ensure!(status == 201, "making a tenant: {status}");
            let token = self.token(Some(&name), "admin");
            tenants.push((name, token));
        }
        Ok(tenants)
    }

    /// Waits until nothing is pending; the sum of stored entries.
    pub async fn wait_stored(&self, tenants: &[(String, String)]) -> anyhow::Result<u64> {
        let mut connection = Connection::open(self.http).await?;
        let (mut stored, deadline) = (0, Instant::now() + Duration::from_secs(300));
        for (name, token) in tenants {
            loop {
                let (_, body) = connection.get(&format!("/api/v1/tenants/{name}/usage"), token).await?;
                let usage: serde_json::Value = serde_json::from_slice(&body)?;
                let n = |key: &str| usage[key].as_u64().context("a counter");
                if n("pending")? == 0 {
                    anyhow::ensure!(
                        n("accepted")? == n("stored")? + n("duplicate")? + n("dead_lettered")?,
                        "the counters of {name} do not add up: {usage}"
                    );
                    stored += n("stored")?;
                    break;
                }
                anyhow::ensure!(Instant::now() < deadline, "{name} still has pending entries: {usage}");
            }
        }
        Ok(stored)
    }

    /// Reads every id of every tenant back and compares with what was acknowledged.
    pub async fn compare(&self, tenants: &[(String, String)], acked: &HashMap<String, HashSet<Uuid>>) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.http).await?;
        let nothing = HashSet::new();
        for (name, token) in tenants {
            let expected = acked.get(name).unwrap_or(&nothing);
            let (mut found, mut from, mut rows) = (HashSet::new(), 1, 0);
            loop {
                let (status, body) = connection
                    .get(&format!("/api/v1/logs?sort=sequence:asc&page_size=1000&total=false&min_sequence={from}"), token)
                    .await?;
                anyhow::ensure!(status == 200, "reading back: {status}");
                let page: Page = serde_json::from_slice(&body)?;
                let Some(last) = page.data.last() else { break };
                from = last.sequence + 1;
                rows += page.data.len();
                found.extend(page.data.iter().map(|e| e.id));
            }
            anyhow::ensure!(rows == found.len(), "{name}: an id twice");
            anyhow::ensure!(&found == expected, "{name}: {} acknowledged, {} found", expected.len(), found.len());
        }
        Ok(())
    }

    /// A metric's value.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut connection = Connection::open(self.admin).await?;
        let (_, body) = connection.get("/metrics", "").await?;
        let text = String::from_utf8(body)?;
        text.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.rsplit(' ').next()?.parse().ok())
            .context("the metric is there")
    }

    /// User and system CPU seconds so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat[stat.rfind(')').context("a stat line")? + 2..].split(' ').collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Anonymous resident memory in MiB.
    pub fn anonymous_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).context("RssAnon")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1024.0)
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

/// Starts the process and waits for the line with its addresses.
fn spawn(binary: &str, settings: &[(String, String)], folder: &Path) -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    let mut child = Command::new(binary)
        .arg("serve")
        .env("SLUICE__DATA_DIR", folder)
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env("SLUICE__ADMIN__LISTEN", "127.0.0.1:0")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{binary}` cannot be started; build it with `cargo build --release`"))?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
    let (http, admin) = line
        .strip_prefix("listening http=")
        .and_then(|l| l.trim().split_once(" admin="))
        .context("the server did not start")?;
    Ok((child, http.parse()?, admin.parse()?))
}

#[derive(serde::Deserialize)]
struct Page {
    data: Vec<Row>,
}

#[derive(serde::Deserialize)]
struct Row {
    id: Uuid,
    sequence: u64,
}
