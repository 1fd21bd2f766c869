//! What goes wrong in a phase, at its times: kills, and stores that are slow or down.

use crate::{
    clients::{Span, first_write},
    process,
    scenario::{Fault, Phase},
    server,
    site::{Site, Tenants},
};
use anyhow::{Context, ensure};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// A start after a kill.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// Of the log as it was found, MiB.
    pub log_mib: f64,
    /// From the start of the process until it listens, seconds.
    pub start_s: f64,
    /// … until it has acknowledged an entry.
    pub ready_s: f64,
    /// … until everything that was acknowledged before the kill can be read.
    pub shown_s: f64,
}

/// Lets everything happen that a phase has; the starts after its kills. `stopped` is what ends its clients.
pub async fn run(site: &Site, phase: &Phase, tenants: &Arc<Tenants>, span: Span, stopped: &CancellationToken) -> anyhow::Result<Vec<Restart>> {
    let mut restarts = Vec::new();
    for fault in &phase.faults {
        let at = span.start + Duration::from_secs_f64(fault.at());
        sleep_until(at).await;
        match fault {
            Fault::Kill { at_log_mib, last, .. } => {
                if let Some(mib) = at_log_mib {
                    log_has(site, *mib, span.end).await?;
                }
                restarts.push(kill(site, tenants, last.then_some(stopped)).await?);
            }
            Fault::StoresDown { seconds, .. } => {
                let holes = site.holes.as_ref().context("stand-ins")?;
                holes.down(seconds.ceil() as u64).await?;
            }
            Fault::StoresSlow { seconds, ms, .. } => {
                let holes = site.holes.as_ref().context("stand-ins")?;
                holes.slow(*ms).await?;
                sleep_until(at + Duration::from_secs_f64(*seconds)).await;
                holes.slow(0).await?;
            }
        }
    }
    Ok(restarts)
}

/// What the segments of a log hold, MiB: they are made in full size, and the bytes that nothing was written to yet are zeros in the last two.
fn log_mib(folder: &Path) -> f64 {
    process::disk_bytes(&folder.join("wal")) as f64 / f64::from(1 << 20)
}

async fn log_has(site: &Site, mib: u64, until: Instant) -> anyhow::Result<()> {
    let folder = site.server.lock().await.folder().to_owned();
    loop {
        let now = log_mib(&folder);
        if now >= mib as f64 {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the log has {now:.0} MiB and not {mib}: the phase needs more `seconds`");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn kill(site: &Site, tenants: &Arc<Tenants>, ends: Option<&CancellationToken>) -> anyhow::Result<Restart> {
    let mut server = site.server.lock().await;
    let log_mib = log_mib(server.folder());
    if let Some(clients) = ends {
        clients.cancel();
    }
    let started: Instant = server.kill_and_start().await?.into();
    let start_s = started.elapsed().as_secs_f64();
    site.address.set(server.http);
    let (ready, shown) = tokio::join!(first_write(&site.address, tenants), async {
        server::shown(server.http).await?;
        anyhow::Ok(Instant::now())
    });
    Ok(Restart {
        log_mib,
        start_s,
        ready_s: (ready? - started).as_secs_f64(),
        shown_s: (shown? - started).as_secs_f64(),
    })
}
