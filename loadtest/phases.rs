//! Goes through the phases of a scenario and makes figures of what was seen.

use crate::{
    clients::{self, Common, Counts, Seen, Span},
    faults::{self, Restart},
    ids::Compared,
    measure::{Latencies, RawSync},
    process,
    report::{Figures, say},
    scenario::{Phase, Scenario},
    site::{Site, Tenants},
};
use anyhow::Context;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Bytes of an entry in a body, about.
const ENTRY: usize = 850;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a process at rest is looked at; the least that is seen counts.
const RESTING: Duration = Duration::from_secs(5);
/// How long tenants may need to leave the memory.
const LEAVING: Duration = Duration::from_secs(180);

/// What a phase saw, in all its rounds.
#[derive(Default)]
struct Outcome {
    rounds: f64,
    /// Until the last answer, and until everything was stored.
    answered_s: f64,
    stored_s: f64,
    acked: u64,
    refused: u64,
    unanswered: u64,
    cpu_s: f64,
    peak: Peak,
    rest_anon_bytes: f64,
    disk_bytes: u64,
    tenants: usize,
    raw_syncs: Latencies,
    restarts: Vec<Restart>,
    classes: BTreeMap<String, Class>,
}

/// The most memory that was seen.
#[derive(Default, Clone, Copy)]
struct Peak {
    anon_mib: f64,
    high_water_mib: f64,
}

impl Peak {
    fn see(&mut self, other: Self) {
        self.anon_mib = self.anon_mib.max(other.anon_mib);
        self.high_water_mib = self.high_water_mib.max(other.high_water_mib);
    }
}

#[derive(Default)]
struct Class {
    seen: Seen,
    seconds: f64,
}

/// Runs a scenario; its figures.
pub async fn run(binary: &str, scenario: &Scenario) -> anyhow::Result<Figures> {
    let (mut site, mut outcomes) = (None::<Site>, BTreeMap::<&str, Outcome>::new());
    for round in 0..scenario.rounds {
        for phase in &scenario.phase {
            let mut on = match site.take() {
                Some(site) => site,
                None => Site::start(binary, scenario).await?,
            };
            for writers in &phase.writers {
                on.enrol(writers).await?;
            }
            let outcome = outcomes.entry(&phase.name).or_default();
            run_phase(&on, phase, outcome).await.with_context(|| format!("phase `{}`", phase.name))?;
            say(format!(
                "phase `{}`, round {}: {} entries acknowledged so far",
                phase.name,
                round + 1,
                outcome.acked
            ));
            if scenario.fresh {
                compare(&on).await?;
            } else {
                site = Some(on);
            }
        }
    }
    if let Some(site) = &site {
        compare(site).await?;
    }
    let mut figures = Figures::default();
    for phase in &scenario.phase {
        outcomes
            .remove(phase.name.as_str())
            .context("each phase ran")?
            .figures(&phase.name, &mut figures);
    }
    Ok(figures)
}

async fn compare(site: &Site) -> anyhow::Result<()> {
    let Compared {
        acked,
        refused,
        unanswered_there,
        unanswered_absent,
    } = site.compare().await?;
    say(format!(
        "ids read back: {acked} acknowledged, each there once, and nothing else; {refused} refused, none there; without an answer {unanswered_there} there and {unanswered_absent} not"
    ));
    Ok(())
}

async fn run_phase(site: &Site, phase: &Phase, outcome: &mut Outcome) -> anyhow::Result<()> {
    let folder = site.server.lock().await.folder().to_owned();
    let (before, pending) = {
        let server = site.server.lock().await;
        (server.cpu_seconds()?, server.pending().await?)
    };
    let first = &phase.writers[0];
    let tenants = |name: &str| site.classes.get(name).cloned().context("its tenants are there");
    let first_tenants: Arc<Tenants> = tenants(&first.name)?;
    let (counts, stopped, mut tasks) = (Arc::new(Counts::default()), CancellationToken::new(), JoinSet::new());
    let common = Common {
        address: site.address.clone(),
        span: Span::of(phase),
        stopped: stopped.clone(),
        killed: phase.kills(),
        counts: counts.clone(),
    };
    let span = common.span;
    let mut classes = Vec::new();
    for writers in &phase.writers {
        let class = clients::write(writers, tenants(&writers.name)?, &common, &mut tasks).await?;
        classes.push((writers.name.clone(), class));
    }
    let mut followers = JoinSet::new();
    for readers in &phase.readers {
        let feed = readers.ask == crate::scenario::Question::Feed;
        let to = if feed { &mut followers } else { &mut tasks };
        let class = clients::read(readers, tenants(&readers.of)?, &common, to).await?;
        classes.push((readers.name.clone(), class));
    }
    let probe = RawSync::start(&folder, first.entries * ENTRY);
    let (looking, peak) = (CancellationToken::new(), Mutex::new(Peak::default()));
    let working = async {
        let answered = async {
            while let Some(done) = tasks.join_next().await {
                done??;
            }
            anyhow::Ok(span.start.elapsed().as_secs_f64())
        };
        let (restarts, answered) = tokio::try_join!(faults::run(site, phase, &first_tenants, span, &stopped), answered)?;
        let raw = probe.finish()?;
        if site.holes.is_none() && !phase.kills() {
            // By one question for all tenants: asking each of ten thousand takes a while.
            site.server.lock().await.wait_pending(pending).await?;
        } else {
            site.wait_stored().await?;
        }
        let (stored, cpu_s) = (span.start.elapsed().as_secs_f64(), site.server.lock().await.cpu_seconds()?);
        site.wait_stored().await?;
        looking.cancel();
        anyhow::Ok((restarts, answered, raw, stored, cpu_s))
    };
    let ((restarts, answered, raw, stored, cpu_s), ()) = tokio::try_join!(working, look(site, &looking, &peak))?;
    let mut unsent = Vec::new();
    for (name, class) in &classes {
        unsent.push((name.clone(), class.finish().await));
    }
    stopped.cancel();
    while let Some(done) = followers.join_next().await {
        done??;
    }
    let [acked, refused, unanswered] = counts.get();
    outcome.rounds += 1.0;
    outcome.answered_s += answered;
    outcome.stored_s += stored;
    outcome.acked += acked;
    outcome.refused += refused;
    outcome.unanswered += unanswered;
    outcome.cpu_s += cpu_s - before;
    outcome.peak.see(*peak.lock().expect("whole"));
    outcome.disk_bytes = outcome.disk_bytes.max(process::disk_bytes(&folder));
    outcome.tenants = site.count();
    outcome.raw_syncs.merge(&raw);
    outcome.restarts.extend(restarts);
    for (name, seen) in unsent {
        let class = outcome.classes.entry(name).or_default();
        class.seen.latencies.merge(&seen.latencies);
        class.seen.late.merge(&seen.late);
        class.seen.unsent += seen.unsent;
        class.seconds += phase.seconds.min(answered) - phase.warm_up;
    }
    if phase.rest {
        outcome.rest_anon_bytes = rest(site).await?;
    }
    Ok(())
}

/// Looks at the memory until the end.
async fn look(site: &Site, ended: &CancellationToken, peak: &Mutex<Peak>) -> anyhow::Result<()> {
    while !ended.is_cancelled() {
        let usage = site.server.lock().await.usage()?;
        peak.lock().expect("whole").see(Peak {
            anon_mib: usage.anon_mib,
            high_water_mib: usage.high_water_mib,
        });
        tokio::select! {
            () = ended.cancelled() => {}
            () = sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// Waits until no tenant is in memory; the least anonymous memory in the seconds after that, bytes.
async fn rest(site: &Site) -> anyhow::Result<f64> {
    let (server, since) = (site.server.lock().await, Instant::now());
    while server.metric("sluice_live_tenants").await? > 0.0 {
        anyhow::ensure!(since.elapsed() < LEAVING, "tenants do not leave the memory");
        sleep(LOOK).await;
    }
    let (since, mut least) = (Instant::now(), f64::INFINITY);
    while since.elapsed() < RESTING {
        least = least.min(server.anonymous_mib()?);
        sleep(LOOK).await;
    }
    Ok(least * f64::from(1 << 20))
}

impl Outcome {
    fn figures(self, phase: &str, figures: &mut Figures) {
        let unsent: u64 = self.classes.values().map(|class| class.seen.unsent).sum();
        for (name, value) in [
            ("entries", self.acked as f64),
            ("tenants", self.tenants as f64),
            ("accepted_per_s", self.acked as f64 / self.answered_s),
            ("stored_per_s", self.acked as f64 / self.stored_s),
            ("catch_up_s", (self.stored_s - self.answered_s) / self.rounds),
            ("cpu_us", self.cpu_s * 1e6 / self.acked.max(1) as f64),
            ("anon_peak_mib", self.peak.anon_mib),
            ("high_water_mib", self.peak.high_water_mib),
            ("disk_mib", self.disk_bytes as f64 / f64::from(1 << 20)),
            ("refused", self.refused as f64),
            ("unanswered", self.unanswered as f64),
            ("unsent", unsent as f64),
            ("raw_sync_p50_ms", self.raw_syncs.quantile(0.5)),
            ("raw_sync_p99_ms", self.raw_syncs.quantile(0.99)),
        ] {
            figures.put(phase, None, name, value);
        }
        if self.rest_anon_bytes > 0.0 {
            figures.put(phase, None, "rest_anon_bytes", self.rest_anon_bytes);
        }
        if !self.restarts.is_empty() {
            // The worst of them.
            let most = |of: fn(&Restart) -> f64| self.restarts.iter().map(of).fold(0.0, f64::max);
            let replay = self.restarts.iter().map(|r| r.log_mib * 1.048_576 / r.shown_s).fold(f64::INFINITY, f64::min);
            for (name, value) in [
                ("kills", self.restarts.len() as f64),
                ("log_mib", most(|r| r.log_mib)),
                ("start_s", most(|r| r.start_s)),
                ("ready_s", most(|r| r.ready_s)),
                ("shown_s", most(|r| r.shown_s)),
                ("replay_mb_per_s", replay),
            ] {
                figures.put(phase, None, name, value);
            }
        }
        for (name, class) in &self.classes {
            let latencies = &class.seen.latencies;
            for (figure, value) in [
                ("requests", latencies.len() as f64),
                ("per_s", latencies.len() as f64 / class.seconds),
                ("p50_ms", latencies.quantile(0.5)),
                ("p99_ms", latencies.quantile(0.99)),
                ("p999_ms", latencies.quantile(0.999)),
                ("max_ms", latencies.quantile(1.0)),
                ("late_p99_ms", class.seen.late.quantile(0.99)),
            ] {
                figures.put(phase, Some(name), figure, value);
            }
        }
    }
}
