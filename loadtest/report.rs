//! What a run says: on standard output, and with `--save` in a file of `loadtest/results/`, with commit, machine, command and raw probes.

use crate::scenario::{OF_CLASS, OF_PHASE, Target};
use anyhow::Context;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

/// What was said since the last [`begin`].
static SAID: Mutex<String> = Mutex::new(String::new());

/// Says a line.
pub fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
    let mut said = SAID.lock().expect("nothing panics while it holds this lock");
    said.push_str(line.as_ref());
    said.push('\n');
}

/// Begins the report of a run: what it is of, on which machine, and how busy that is.
pub fn begin(name: &str, what: &str, command: &str) {
    SAID.lock().expect("nothing panics while it holds this lock").clear();
    say(format!("# {name}, {}\n", chrono::Utc::now().format("%Y-%m-%d %H:%M UTC")));
    if !what.is_empty() {
        say(format!("{what}\n"));
    }
    say(format!("- commit: {}", commit()));
    say(format!("- machine: {}", machine()));
    say(format!("- load before it: {}", load()));
    say(format!("- command: `{command}`\n"));
}

/// Writes what was said into the folder of results, under date and name.
pub fn save(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new("loadtest/results").join(format!("{}-{name}.md", chrono::Utc::now().format("%Y-%m-%d")));
    let said = SAID.lock().expect("nothing panics while it holds this lock");
    std::fs::write(&path, said.as_str()).with_context(|| format!("`{}`; this runs in the root of the repository", path.display()))?;
    Ok(path)
}

/// What a command prints, if it works.
fn printed(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn commit() -> String {
    let commit = printed("git", &["log", "-1", "--format=%h %s"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = printed("git", &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changed| !changed.is_empty());
    commit + if changed { " (and changes that are not committed)" } else { "" }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: f64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    format!(
        "{cores} cores of {}, {:.0} GiB, Linux {}; generator and server share it",
        field(&read("/proc/cpuinfo"), "model name"),
        memory / f64::from(1 << 20),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Figures by name, in the order in which they were found.
#[derive(Default)]
pub struct Figures(Vec<(String, f64)>);

impl Figures {
    /// Adds one of a phase, or of a class in it.
    pub fn put(&mut self, phase: &str, class: Option<&str>, name: &str, value: f64) {
        let known = if class.is_some() { &OF_CLASS[..] } else { &OF_PHASE };
        assert!(known.contains(&name), "`{name}` is not a figure that a target may name");
        let name = match class {
            Some(class) => format!("{phase}.{class}.{name}"),
            None => format!("{phase}.{name}"),
        };
        self.0.push((name, value));
    }

    fn get(&self, name: &str) -> Option<f64> {
        Some(self.0.iter().find(|(figure, _)| figure == name)?.1)
    }

    /// All of them, a line for each phase and class, and then the targets.
    pub fn say(&self, targets: &[Target]) {
        let mut before = "";
        let mut line = String::new();
        for (name, value) in &self.0 {
            let (of, figure) = name.rsplit_once('.').unwrap_or(("", name));
            if of != before {
                if !line.is_empty() {
                    say(&line);
                }
                line = format!("- {of}:");
                before = of;
            }
            write!(line, " {figure}={}", short(*value)).expect("writing to memory does not fail");
        }
        say(&line);
        if targets.is_empty() {
            return;
        }
        say("\n| target | figure | wanted | seen | |\n|---|---|---|---|---|");
        for target in targets {
            say(self.judge(target));
        }
    }

    fn judge(&self, target: &Target) -> String {
        let mut formula = format!("`{}`", target.figure);
        let mut value = self.get(&target.figure);
        if let Some(minus) = &target.minus {
            formula = format!("({formula} - `{minus}`)");
            value = value.zip(self.get(minus)).map(|(value, minus)| value - minus);
        }
        if let Some(over) = &target.over {
            write!(formula, " / `{over}`").expect("writing to memory does not fail");
            value = value.zip(self.get(over)).map(|(value, over)| value / over);
        }
        let (wanted, met) = match (target.at_most, target.at_least) {
            (Some(most), _) => (format!("≤ {}", short(most)), value.is_some_and(|value| value <= most)),
            (_, least) => {
                let least = least.unwrap_or(f64::NAN);
                (format!("≥ {}", short(least)), value.is_some_and(|value| value >= least))
            }
        };
        let seen = value.map_or_else(|| "not measured".to_owned(), short);
        let met = if met { "met" } else { "**missed**" };
        format!("| {} | {formula} | {wanted} | {seen} | {met} |", target.what)
    }
}

/// With three digits or so.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(minus: Option<&str>, over: Option<&str>, at_most: Option<f64>) -> Target {
        Target {
            what: "it".into(),
            figure: "a.cpu_us".into(),
            minus: minus.map(Into::into),
            over: over.map(Into::into),
            at_most,
            at_least: at_most.is_none().then_some(9.0),
        }
    }

    #[test]
    fn targets_are_judged_by_what_they_say() {
        let mut figures = Figures::default();
        figures.put("a", None, "cpu_us", 12.0);
        figures.put("b", None, "cpu_us", 4.0);
        figures.put("a", Some("x"), "p50_ms", 2.0);
        for (target, met) in [
            (target(None, None, Some(12.0)), true),
            (target(None, None, Some(11.9)), false),
            (target(None, None, None), true),
            (target(Some("b.cpu_us"), None, Some(8.0)), true),
            (target(Some("b.cpu_us"), None, None), false),
            (target(None, Some("b.cpu_us"), Some(3.0)), true),
            (target(Some("b.cpu_us"), Some("a.x.p50_ms"), Some(4.0)), true),
            (target(Some("b.cpu_us"), Some("a.x.p50_ms"), Some(3.9)), false),
            (target(Some("c.cpu_us"), None, Some(99.0)), false),
        ] {
            let said = figures.judge(&target);
            assert_eq!(said.contains("| met |"), met, "{said}");
            assert_eq!(said.contains("not measured"), target.minus.as_deref() == Some("c.cpu_us"), "{said}");
        }
    }

    #[test]
    fn numbers_have_three_digits_or_so() {
        for (value, text) in [
            (0.0, "0"),
            (0.2512, "0.251"),
            (2.345, "2.35"),
            (23.45, "23.4"),
            (234_567.8, "234568"),
            (-3.0, "-3.00"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
