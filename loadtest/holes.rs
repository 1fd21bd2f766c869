//! The stand-ins for other machines' engines as the scenarios see them: started, asked, made to fail, and what a server is told of them. They are
//! in `blackhole`.

use crate::http::Connection;
use anyhow::Context;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// The stand-ins, ended when this is dropped.
pub struct Blackhole {
    child: Child,
    pub sqs: SocketAddr,
    pub clickhouse: SocketAddr,
    pub opensearch: SocketAddr,
}

impl Drop for Blackhole {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn engine(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("`{name}` is not set: engines/up starts the engines and prints it"))
}

impl Blackhole {
    pub fn start() -> anyhow::Result<Self> {
        let (clickhouse, opensearch) = (engine("SLUICE_TEST_CLICKHOUSE")?, engine("SLUICE_TEST_OPENSEARCH")?);
        let mut child = Command::new(std::env::current_exe()?)
            .args(["blackhole", &clickhouse, &opensearch])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let mut addresses = line.split_whitespace();
        let mut next = || anyhow::Ok(addresses.next().context("the stand-ins did not start")?.parse()?);
        Ok(Self {
            sqs: next()?,
            clickhouse: next()?,
            opensearch: next()?,
            child,
        })
    }

    pub async fn seen(&self, of: SocketAddr) -> anyhow::Result<Value> {
        let (_, body) = Connection::open(of).await?.get("/__seen", "").await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Both stores refuse everything for so long.
    pub async fn down(&self, seconds: u64) -> anyhow::Result<()> {
        self.tell(&format!("/__down?{seconds}")).await
    }

    /// Both stores answer so much later from now on.
    pub async fn slow(&self, ms: u64) -> anyhow::Result<()> {
        self.tell(&format!("/__slow?{ms}")).await
    }

    async fn tell(&self, what: &str) -> anyhow::Result<()> {
        for of in [self.clickhouse, self.opensearch] {
            let status = Connection::open(of).await?.post(what, "", b"").await?;
            anyhow::ensure!(status == 200, "the stand-in said {status}");
        }
        Ok(())
    }

    /// The ids that a store was sent for a log.
    pub async fn ids(&self, of: SocketAddr, log: &str) -> anyhow::Result<Vec<Uuid>> {
        let (_, bytes) = Connection::open(of).await?.get(&format!("/__ids?{log}"), "").await?;
        Ok(bytes.as_chunks::<16>().0.iter().copied().map(Uuid::from_bytes).collect())
    }

    /// ClickHouse has no row twice, and nowhere came two rows under one number. (A document that OpenSearch has is refused when it comes again.)
    pub async fn nothing_twice(&self) -> anyhow::Result<()> {
        for of in [self.clickhouse, self.opensearch] {
            let seen = self.seen(of).await?;
            anyhow::ensure!(seen["twice"] == 0, "{} rows were stored twice", seen["twice"]);
        }
        Ok(())
    }

    /// Rows that both stores have.
    pub async fn rows(&self) -> anyhow::Result<u64> {
        let mut least = u64::MAX;
        for of in [self.clickhouse, self.opensearch] {
            least = least.min(self.seen(of).await?["rows"].as_u64().context("a number")?);
        }
        Ok(least)
    }

    /// Waits until both stores have so many.
    pub async fn stored(&self, rows: u64) -> anyhow::Result<()> {
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let now = self.rows().await?;
            if now >= rows {
                return Ok(());
            }
            if now > before {
                (before, since) = (now, Instant::now());
            }
            anyhow::ensure!(since.elapsed() < Duration::from_secs(120), "{rows} acknowledged, and no more than {now} stored");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn name() -> String {
    format!("load{}", &Uuid::new_v4().simple().to_string()[..12])
}

pub fn stores(holes: &Blackhole, name: &str) -> Vec<(&'static str, String)> {
    vec![
        ("SLUICE__STORES__ANALYTICS", "clickhouse".to_owned()),
        ("SLUICE__STORES__SEARCH", "opensearch".to_owned()),
        ("SLUICE__CLICKHOUSE__URL", format!("http://{}", holes.clickhouse)),
        ("SLUICE__CLICKHOUSE__DATABASE", name.to_owned()),
        ("SLUICE__OPENSEARCH__URL", format!("http://{}", holes.opensearch)),
        ("SLUICE__OPENSEARCH__INDEX_PREFIX", name.to_owned()),
    ]
}

/// By curl, which signs; the product itself makes no buckets.
pub fn make_bucket(endpoint: &str, bucket: &str) -> anyhow::Result<()> {
    let (key, secret) = (engine("AWS_ACCESS_KEY_ID")?, engine("AWS_SECRET_ACCESS_KEY")?);
    let made = Command::new("curl")
        .args([
            "-sf",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "-H",
            "x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "-X",
            "PUT",
            "--user",
        ])
        .args([format!("{key}:{secret}"), format!("{endpoint}/{bucket}")])
        .stdout(Stdio::null())
        .status()?;
    anyhow::ensure!(made.success(), "the bucket could not be made");
    Ok(())
}
