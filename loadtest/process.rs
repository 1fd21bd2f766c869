//! What a process and its children cost, by `/proc`.

use anyhow::Context;
use std::{collections::HashMap, path::Path};

/// Processor time and memory of a process with everything below it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// Seconds of user and system time, those of children that have ended included.
    pub cpu_s: f64,
    /// Anonymous resident memory, MiB.
    pub anon_mib: f64,
    /// The largest resident memory so far, mapped files included, MiB.
    pub high_water_mib: f64,
}

/// Of the process with this id.
///
/// # Errors
/// It has ended.
pub fn usage(root: u32) -> anyhow::Result<Usage> {
    let mut sum = one(root)?;
    // One of its children that ends meanwhile is none.
    for usage in below(root)?.into_iter().filter_map(|process| one(process).ok()) {
        sum.cpu_s += usage.cpu_s;
        sum.anon_mib += usage.anon_mib;
        sum.high_water_mib += usage.high_water_mib;
    }
    Ok(sum)
}

/// The fields of a stat line after the name, which may hold anything.
fn stat(process: u32) -> anyhow::Result<Vec<String>> {
    let line = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = &line[line.rfind(')').context("a stat line")? + 2..];
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn one(process: u32) -> anyhow::Result<Usage> {
    let fields = stat(process)?;
    let ticks = |at: usize| anyhow::Ok(fields.get(at).context("a field")?.parse::<f64>()?);
    let ticks = ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let mib = |name: &str| {
        let kib = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        anyhow::Ok(kib.with_context(|| name.to_owned())?.parse::<f64>()? / 1024.0)
    };
    Ok(Usage {
        cpu_s: ticks / rustix::param::clock_ticks_per_second() as f64,
        anon_mib: mib("RssAnon:")?,
        high_water_mib: mib("VmHWM:")?,
    })
}

/// Every process below this one.
fn below(root: u32) -> anyhow::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in std::fs::read_dir("/proc")? {
        let Some(process) = process?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = stat(process).ok().and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(process) = open.pop() {
        let below = children.remove(&process).unwrap_or_default();
        open.extend(&below);
        found.extend(below);
    }
    Ok(found)
}

/// Bytes of all files below a folder, as the volume counts them. What is removed meanwhile is not there.
pub fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    files
        .flatten()
        .filter_map(|file| Some((file.path(), file.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { disk_bytes(&path) } else { metadata.blocks() * 512 })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_count_with_their_parent() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        assert!(below(std::process::id()).expect("/proc").contains(&child.id()));
        let own = usage(std::process::id()).expect("it runs");
        assert!(own.anon_mib > 0.0 && own.high_water_mib >= own.anon_mib / 2.0, "{own:?}");
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert!(usage(child.id()).is_err(), "it has ended");
    }

    #[test]
    fn bytes_of_a_folder_are_those_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("below")).expect("a folder");
        for name in ["a", "below/b"] {
            std::fs::write(folder.path().join(name), [7; 10_000]).expect("a file");
        }
        assert!(disk_bytes(folder.path()) >= 20_000);
        assert_eq!(disk_bytes(&folder.path().join("missing")), 0);
    }
}
