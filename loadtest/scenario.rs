//! Scenarios: what is sent, for how long, what goes wrong meanwhile, and which figures are wanted. One TOML file each, in
//! `loadtest/scenarios/`; the fields of the types here are its keys. What is not a key is refused.

use crate::arrivals::Arrivals;
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending.
    pub name: String,
    /// What it is for, in a sentence or two.
    pub what: String,
    /// Keys of the server's configuration that are not at their defaults, such as `"actors.idle_after" = "1s"`.
    #[serde(default)]
    pub settings: BTreeMap<String, toml::Value>,
    /// Where entries end up.
    #[serde(default)]
    pub stores: Stores,
    /// A server and a folder of its own for each phase; otherwise one for all of them.
    #[serde(default)]
    pub fresh: bool,
    /// How many times the phases are gone through in turn, so that what changes on the machine meanwhile hits all of them.
    #[serde(default = "once")]
    pub rounds: u32,
    /// One after the other.
    pub phase: Vec<Phase>,
    /// What the figures should be.
    #[serde(default)]
    pub target: Vec<Target>,
}

fn once() -> u32 {
    1
}

/// Where entries end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Stores {
    /// In the data folder.
    #[default]
    Embedded,
    /// In the stand-ins for ClickHouse and OpenSearch, which need the real ones for their schema.
    StandIns,
}

/// What happens at one time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub name: String,
    /// How long requests are due.
    pub seconds: f64,
    /// Latencies of requests that were due earlier are left out.
    #[serde(default = "one_second")]
    pub warm_up: f64,
    /// Afterwards wait until no tenant is in memory and see how much of it there is.
    #[serde(default)]
    pub rest: bool,
    pub writers: Vec<Writers>,
    #[serde(default)]
    pub readers: Vec<Readers>,
    #[serde(default)]
    pub faults: Vec<Fault>,
}

fn one_second() -> f64 {
    1.0
}

/// A class of clients that send entries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writers {
    /// Classes of the same name in several phases share their tenants.
    pub name: String,
    pub tenants: usize,
    /// The tenants' settings, as `POST /tenants` takes them.
    pub tenant_settings: Option<toml::Value>,
    /// The k-th tenant gets requests in proportion to 1 / k^zipf. 0: all alike.
    #[serde(default)]
    pub zipf: f64,
    pub connections: usize,
    /// In one request; a single one goes to `POST /logs`.
    pub entries: usize,
    /// Entries a second of all connections together. Left out: each connection sends as soon as it has its answer.
    pub rate: Option<f64>,
    #[serde(default)]
    pub arrivals: Arrivals,
}

/// A class of clients that ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readers {
    pub name: String,
    pub ask: Question,
    /// The class of writers whose tenants are asked.
    pub of: String,
    pub connections: usize,
    /// Requests a second. Left out: each connection asks as soon as it has its answer.
    pub rate: Option<f64>,
    #[serde(default)]
    pub arrivals: Arrivals,
}

/// What readers ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The newest fifty.
    List,
    /// One entry by its id.
    Get,
    /// One entry by its request id, looked for over everything.
    Needle,
    /// Two words, newest fifty.
    Search,
    /// Statistics over everything.
    Stats,
    /// From the 201 of an entry of its own until it is in a list.
    Visible,
    /// The live feed, a tenant for each connection: from `received_at` (milliseconds) until the entry comes.
    Feed,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// `kill -9`, and a start on the same folder.
    Kill {
        /// Seconds since the phase began.
        at: Option<f64>,
        /// As soon as the log has so many MiB.
        at_log_mib: Option<u64>,
        /// Nothing is sent any more.
        #[serde(default)]
        last: bool,
    },
    /// Both stores refuse everything.
    StoresDown { at: f64, seconds: f64 },
    /// Both stores answer so much later.
    StoresSlow { at: f64, seconds: f64, ms: u64 },
}

impl Fault {
    /// When it begins, as far as that is known.
    pub fn at(&self) -> f64 {
        match self {
            Self::Kill { at, .. } => at.unwrap_or(0.0),
            Self::StoresDown { at, .. } | Self::StoresSlow { at, .. } => *at,
        }
    }
}

/// `(figure - minus) / over` should be at most or at least this.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub what: String,
    /// `PHASE.FIGURE` or `PHASE.CLASS.FIGURE`.
    pub figure: String,
    pub minus: Option<String>,
    pub over: Option<String>,
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

/// Figures of a phase.
pub const OF_PHASE: [&str; 21] = [
    "entries",
    "tenants",
    "accepted_per_s",
    "stored_per_s",
    "catch_up_s",
    "cpu_us",
    "anon_peak_mib",
    "high_water_mib",
    "rest_anon_bytes",
    "disk_mib",
    "refused",
    "unanswered",
    "raw_sync_p50_ms",
    "raw_sync_p99_ms",
    "start_s",
    "ready_s",
    "shown_s",
    "log_mib",
    "replay_mb_per_s",
    "kills",
    "unsent",
];
/// Figures of a class of clients.
pub const OF_CLASS: [&str; 7] = ["requests", "per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms", "late_p99_ms"];

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// It names what is wrong and where.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
        let scenario = Self::parse(&text).with_context(|| format!("`{}`", path.display()))?;
        ensure!(
            path.file_stem().is_some_and(|stem| stem == scenario.name.as_str()),
            "`{}`: `name` is not that of the file",
            path.display()
        );
        Ok(scenario)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Every phase lasts so long.
    pub fn set_seconds(&mut self, seconds: f64) -> anyhow::Result<()> {
        self.phase.iter_mut().for_each(|phase| phase.seconds = seconds);
        self.check()
    }

    /// How long requests are due in all, seconds.
    pub fn seconds(&self) -> f64 {
        f64::from(self.rounds) * self.phase.iter().map(|phase| phase.seconds).sum::<f64>()
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.rounds >= 1, "`rounds` must be at least 1");
        ensure!(!self.phase.is_empty(), "there is no [[phase]]");
        for (i, phase) in self.phase.iter().enumerate() {
            ensure!(
                !self.phase[..i].iter().any(|earlier| earlier.name == phase.name),
                "two phases are named `{}`",
                phase.name
            );
            phase.check(self.stores).with_context(|| format!("phase `{}`", phase.name))?;
        }
        for target in &self.target {
            self.check_target(target).with_context(|| format!("target `{}`", target.what))?;
        }
        Ok(())
    }

    fn check_target(&self, target: &Target) -> anyhow::Result<()> {
        ensure!(
            target.at_most.is_some() != target.at_least.is_some(),
            "one of `at_most` and `at_least` is needed"
        );
        for figure in [Some(&target.figure), target.minus.as_ref(), target.over.as_ref()].into_iter().flatten() {
            let phase = |name: &str| self.phase.iter().find(|phase| phase.name == name);
            let known = match figure.split('.').collect::<Vec<_>>()[..] {
                [of, figure] => phase(of).is_some() && OF_PHASE.contains(&figure),
                [of, class, figure] => phase(of).is_some_and(|phase| phase.classes().any(|name| name == class)) && OF_CLASS.contains(&figure),
                _ => false,
            };
            ensure!(
                known,
                "there is no figure `{figure}`; those of a phase are {OF_PHASE:?}, those of a class {OF_CLASS:?}"
            );
        }
        Ok(())
    }
}

impl Phase {
    /// Names of writers and readers.
    fn classes(&self) -> impl Iterator<Item = &str> {
        let readers = self.readers.iter().map(|readers| readers.name.as_str());
        self.writers.iter().map(|writers| writers.name.as_str()).chain(readers)
    }

    /// Whether the server is killed in it.
    pub fn kills(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::Kill { .. }))
    }

    fn check(&self, stores: Stores) -> anyhow::Result<()> {
        ensure!(
            self.seconds > 0.0 && self.seconds <= 86_400.0,
            "`seconds` must be more than 0 and at most a day"
        );
        ensure!(
            (0.0..self.seconds).contains(&self.warm_up),
            "`warm_up` ({}) must be shorter than `seconds` ({})",
            self.warm_up,
            self.seconds
        );
        ensure!(!self.writers.is_empty(), "there are no [[phase.writers]]");
        let names: Vec<&str> = self.classes().collect();
        for (i, name) in names.iter().enumerate() {
            let slug = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            ensure!(slug, "`{name}` is no name of a class: a-z, 0-9 and -");
            ensure!(!names[..i].contains(name), "two classes are named `{name}`");
        }
        for writers in &self.writers {
            writers.check().with_context(|| format!("writers `{}`", writers.name))?;
        }
        for readers in &self.readers {
            readers.check(self).with_context(|| format!("readers `{}`", readers.name))?;
        }
        let mut last = 0.0;
        for fault in &self.faults {
            ensure!(fault.at() >= last, "faults stand in the order of their times");
            last = fault.at();
            self.check_fault(fault, stores)?;
        }
        Ok(())
    }

    fn check_fault(&self, fault: &Fault, stores: Stores) -> anyhow::Result<()> {
        ensure!(fault.at() < self.seconds, "a fault at {} s is after the phase's end", fault.at());
        match fault {
            Fault::Kill { at, at_log_mib, .. } => {
                ensure!(at.is_some() != at_log_mib.is_some(), "a kill needs one of `at` and `at_log_mib`");
                let fed = self.readers.iter().any(|readers| matches!(readers.ask, Question::Feed | Question::Visible));
                ensure!(!fed, "readers of `feed` and `visible` do not outlive a kill");
            }
            Fault::StoresDown { .. } | Fault::StoresSlow { .. } => ensure!(stores == Stores::StandIns, "only stand-ins can fail: `stores = \"stand_ins\"`"),
        }
        Ok(())
    }
}

impl Writers {
    fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=100_000).contains(&self.tenants), "`tenants` must be 1 to 100,000");
        ensure!((1..=20_000).contains(&self.connections), "`connections` must be 1 to 20,000");
        ensure!((1..=10_000).contains(&self.entries), "`entries` must be 1 to 10,000");
        ensure!((0.0..=10.0).contains(&self.zipf), "`zipf` must be 0 to 10");
        check_rate(self.rate)
    }
}

impl Readers {
    fn check(&self, phase: &Phase) -> anyhow::Result<()> {
        ensure!(
            phase.writers.iter().any(|writers| writers.name == self.of),
            "`of`: there are no writers `{}`",
            self.of
        );
        ensure!((1..=20_000).contains(&self.connections), "`connections` must be 1 to 20,000");
        ensure!(self.ask != Question::Feed || self.rate.is_none(), "a feed has no `rate`");
        check_rate(self.rate)
    }
}

fn check_rate(rate: Option<f64>) -> anyhow::Result<()> {
    ensure!(
        rate.is_none_or(|rate| rate > 0.0 && rate <= 1e7),
        "`rate` must be more than 0 and at most 10 million"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "x"
        what = "tries it"
        stores = "stand_ins"
        [settings]
        "store.flush_after" = "1s"
        [[phase]]
        name = "calm"
        seconds = 10
        [[phase.writers]]
        name = "all"
        tenants = 3
        connections = 4
        entries = 10
        rate = 100
        [[phase.readers]]
        name = "list"
        ask = "list"
        of = "all"
        connections = 1
        [[phase.faults]]
        what = "stores_down"
        at = 2
        seconds = 3
        [[phase.faults]]
        what = "kill"
        at = 6
        [[target]]
        what = "answers"
        figure = "calm.all.p99_ms"
        over = "calm.raw_sync_p99_ms"
        at_most = 2
    "#;

    #[test]
    fn every_scenario_of_the_repository_is_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest/scenarios");
        let mut seen = 0;
        for file in std::fs::read_dir(folder).expect("the folder") {
            Scenario::read(&file.expect("a file").path()).unwrap_or_else(|error| panic!("{error:#}"));
            seen += 1;
        }
        assert!(seen >= 10, "{seen} scenarios");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = Scenario::parse(GOOD).expect("right");
        assert_eq!(
            (good.phase[0].warm_up, good.rounds, good.phase[0].writers[0].arrivals),
            (1.0, 1, Arrivals::Poisson)
        );
        for (right, wrong, said) in [
            ("rate = 100", "rate = -1", "`rate` must be more than 0"),
            ("entries = 10", "entrys = 10", "unknown field `entrys`"),
            ("ask = \"list\"", "ask = \"lists\"", "unknown variant `lists`"),
            ("of = \"all\"", "of = \"none\"", "there are no writers `none`"),
            ("of = \"all\"", "of = \"all\"\nrate = 0", "`rate` must be"),
            ("name = \"list\"", "name = \"all\"", "two classes are named `all`"),
            ("name = \"list\"", "name = \"L\"", "no name of a class"),
            ("at = 6", "at = 1", "in the order of their times"),
            ("at = 6", "at = 60", "after the phase's end"),
            ("at = 6", "last = true", "faults stand in the order"),
            ("at = 6", "at = 6\nat_log_mib = 7", "one of `at` and `at_log_mib`"),
            ("ask = \"list\"", "ask = \"feed\"", "do not outlive a kill"),
            ("stores = \"stand_ins\"", "", "only stand-ins can fail"),
            ("seconds = 10", "seconds = 0", "`seconds` must be more"),
            ("seconds = 10", "seconds = 10\nwarm_up = 10", "`warm_up`"),
            ("figure = \"calm.all.p99_ms\"", "figure = \"calm.p99_ms\"", "there is no figure `calm.p99_ms`"),
            ("figure = \"calm.all.p99_ms\"", "figure = \"hot.all.p99_ms\"", "there is no figure"),
            ("at_most = 2", "", "one of `at_most` and `at_least`"),
            ("name = \"x\"", "name = \"x\"\nrounds = 0", "`rounds`"),
        ] {
            let text = GOOD.replacen(right, wrong, 1);
            assert_ne!(text, GOOD);
            let error = format!("{:#}", Scenario::parse(&text).expect_err(wrong));
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_shorter_run_is_checked_as_well() {
        let mut scenario = Scenario::parse(GOOD).expect("right");
        scenario.set_seconds(8.0).expect("the last fault is at 6 s");
        assert_eq!(scenario.seconds(), 8.0);
        assert!(scenario.set_seconds(5.0).is_err());
    }
}
