//! The manifest: which parts there are, and what the seals up to `flushed` add up to. A flush becomes valid by it.
//!
//! # File, versions 2 and 3
//!
//! `manifest/<number>`, the number decimal in 20 digits. One line of ASCII, then JSON:
//!
//! ```text
//! sluice-manifest 3 crc32c=0123abcd bytes=4567\n
//! { …, 4567 bytes, the serde form of `Manifest` … }
//! ```
//!
//! The checksum (lower-case hexadecimal) covers the JSON; nothing may follow it. Numbers grow; each manifest names the one
//! that it was made from in `previous`, and these two are kept. Files are written whole or not at all
//! ([`crate::fs::write_atomic`]) and never changed.
//!
//! Version 1 had no erasures and is read as such. A manifest with a retired tenant is version 3, one without is version 2. A
//! build that knows only an earlier version refuses a later one: it would show again what was erased, or take packs of a
//! tenant that was deleted.
//!
//! # What a start does with damage
//!
//! The log is trimmed only up to the `flushed` of the **previous** manifest. So when the newest manifest, or a part that only
//! it names, cannot be read, the one before it is taken and the log has the rest. A damaged part that both name cannot be
//! rebuilt: it stays where it is, is left out of the answers, and is reported at every start until somebody puts it right.
//! When there were manifests and none can be read, [`Chosen::lost`] is set: heads and counters are in the log only if that
//! still begins with seal 1.

use super::part::PartMeta;
use crate::{
    fs::{self, Fs},
    model::tenant::TenantId,
    seal::{
        erasure::Erasures,
        source::SourceCheckpoints,
        state::{SealState, TenantState},
    },
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

const VERSION: u32 = 2;
const VERSION_RETIRING: u32 = 3;
const OLDEST_VERSION: u32 = 1;

/// What a manifest says about one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TenantEntry {
    /// Head and counters.
    #[serde(flatten)]
    pub state: TenantState,
    /// Numbers without an entry, inclusive ranges, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voids: Vec<(u64, u64)>,
    /// What is erased.
    #[serde(default, skip_serializing_if = "Erasures::is_empty")]
    pub erasures: Erasures,
    /// It was deleted: its packs are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

/// The contents of a manifest. The default is the state before the first flush.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Its number, from 1.
    pub number: u64,
    /// The manifest that it was made from; 0 for the first.
    pub previous: u64,
    /// Every seal up to this one is in the parts.
    pub flushed: u64,
    /// CRC32C of seal `flushed`.
    pub seal_crc: u32,
    /// The largest segment of the log that a seal up to `flushed` names: a log without it has lost its end.
    pub log_segment: u64,
    /// The parts, in the order of their seals.
    pub parts: Vec<PartMeta>,
    /// Every tenant that a seal up to `flushed` has touched.
    #[serde(deserialize_with = "read_tenants")]
    pub tenants: BTreeMap<TenantId, TenantEntry>,
}

/// Reads the names of tenants and of their access logs.
fn read_tenants<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<TenantId, TenantEntry>, D::Error> {
    let named = <BTreeMap<String, TenantEntry>>::deserialize(from)?;
    let decode = |(name, entry): (String, TenantEntry)| Ok((TenantId::decode(&name).map_err(D::Error::custom)?, entry));
    named.into_iter().map(decode).collect()
}

impl Manifest {
    /// Heads and counters as of `flushed`.
    pub fn state(&self) -> SealState {
        SealState {
            n: self.flushed,
            crc: self.seal_crc,
            segment: self.log_segment,
            tenants: self.tenants.iter().map(|(id, t)| (id.clone(), t.state)).collect(),
            erasures: self
                .tenants
                .iter()
                .filter(|(_, t)| !t.erasures.is_empty())
                .map(|(id, t)| (id.clone(), Arc::new(t.erasures.clone())))
                .collect(),
            retired: self.tenants.iter().filter(|(_, t)| t.retired).map(|(id, _)| id.clone()).collect(),
            sources: SourceCheckpoints::default(), // the log is its own source
        }
    }

    /// Writes the file; durable when it returns.
    pub fn write(&self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        fs::write_atomic(fs, &path(dir, self.number), &self.encode())
    }

    /// The lowest version that can say it.
    fn version(&self) -> u32 {
        if self.tenants.values().any(|t| t.retired) {
            VERSION_RETIRING
        } else {
            VERSION
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("a manifest is plain data with text keys");
        let version = self.version();
        let mut out = format!("sluice-manifest {version} crc32c={:08x} bytes={}\n", crc32c::crc32c(&json), json.len()).into_bytes();
        out.extend_from_slice(&json);
        out
    }

    pub fn decode(bytes: &[u8], number: u64) -> Result<Self, String> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no first line")?;
        let (line, json) = (std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is no text")?, &bytes[end + 1..]);
        let version = match line.split(' ').nth(1).and_then(|v| v.parse::<u32>().ok()) {
            Some(version @ OLDEST_VERSION..=VERSION_RETIRING) => version,
            Some(other) => return Err(format!("version `{other}` is not known to this build")),
            None => return Err("it does not begin as a manifest does".into()),
        };
        if line != format!("sluice-manifest {version} crc32c={:08x} bytes={}", crc32c::crc32c(json), json.len()) {
            return Err("its checksum or length does not fit".into());
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|e| format!("it is malformed: {e}"))?;
        if manifest.version() != version.max(VERSION) {
            return Err("its version does not fit what it says".into());
        }
        if manifest.number == number {
            Ok(manifest)
        } else {
            Err(format!("it says that it is number `{}`", manifest.number))
        }
    }
}

/// The file of manifest `number`.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}"))
}

/// A manifest that cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// Its number.
    pub number: u64,
    /// Why.
    pub reason: String,
}

/// What a start goes by.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The newest manifest that can be read, or the empty one.
    pub current: Manifest,
    /// The one that it was made from, if that can be read (the empty one, if it was the first).
    pub previous: Option<Manifest>,
    /// The largest number that is taken.
    pub last_number: u64,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// There were manifests or parts, and no manifest can be read.
    pub lost: bool,
}

/// Reads the manifests of a folder. Errors are those of the machine (no right, out of memory or handles), not damage.
pub(super) fn choose(fs: &dyn Fs, dir: &Path) -> io::Result<Chosen> {
    let names = fs.list(dir)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter(|n| n.len() == 20)
        .filter_map(|n| n.parse().ok())
        .filter(|n| *n > 0)
        .collect();
    numbers.sort_unstable();
    let mut chosen = Chosen {
        last_number: numbers.last().copied().unwrap_or(0),
        ..Chosen::default()
    };
    while let Some(number) = numbers.pop() {
        if let Some(current) = chosen.load(fs, dir, number)? {
            chosen.previous = match current.previous {
                0 => Some(Manifest::default()),
                previous => chosen.load(fs, dir, previous)?,
            };
            chosen.current = current;
            return Ok(chosen);
        }
    }
    // Nothing is trimmed before there are two, so one alone, the first, takes nothing with it.
    chosen.lost = chosen.last_number > 1;
    Ok(chosen)
}

impl Chosen {
    fn load(&mut self, fs: &dyn Fs, dir: &Path, number: u64) -> io::Result<Option<Manifest>> {
        let reason = match fs::read_all(fs, &path(dir, number)) {
            Ok(bytes) => match Manifest::decode(&bytes, number) {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(reason) => reason,
            },
            Err(e) if is_damage(&e) => e.to_string(),
            Err(e) => return Err(e),
        };
        self.unreadable.push(Unreadable { number, reason });
        Ok(None)
    }
}

/// Whether an error of reading says something about the file, and not about this process or its rights.
pub(super) fn is_damage(error: &io::Error) -> bool {
    const TOO_MANY_FILES: [Option<i32>; 2] = [Some(23), Some(24)]; // ENFILE, EMFILE
    !matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted
    ) && !TOO_MANY_FILES.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::real::RealFs;

    fn manifest(number: u64) -> Manifest {
        let entry = TenantEntry {
            state: TenantState {
                head: 7 + number,
                accepted: 9,
                stored: 7,
                duplicate: 1,
                dead_lettered: 1,
                bytes: 1 << 60,
                erased: 0,
            },
            voids: vec![(3, 5)],
            erasures: Erasures::default(),
            retired: false,
        };
        Manifest {
            number,
            previous: number - 1,
            flushed: number * 10,
            seal_crc: 5,
            log_segment: 4,
            parts: vec![],
            tenants: BTreeMap::from([(TenantId::parse("a").unwrap(), entry)]),
        }
    }

    #[test]
    fn an_access_log_is_a_name_like_the_others() {
        let mut manifest = manifest(3);
        let (tenant, entry) = manifest.tenants.first_key_value().map(|(t, e)| (t.access_log(), e.clone())).unwrap();
        manifest.tenants.insert(tenant, entry);
        assert_eq!(Manifest::decode(&manifest.encode(), 3).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_reads_back_as_written_and_every_change_is_noticed() {
        let bytes = manifest(3).encode();
        assert_eq!(Manifest::decode(&bytes, 3).unwrap(), manifest(3));
        assert!(Manifest::decode(&bytes, 4).is_err(), "a renamed file");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Manifest::decode(&bad, 3).is_err(), "byte {at}");
            assert!(Manifest::decode(&bytes[..at], 3).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_manifest_of_version_1_is_read_and_has_no_erasures() {
        let line = |version: u32, json: &[u8]| format!("sluice-manifest {version} crc32c={:08x} bytes={}\n", crc32c::crc32c(json), json.len());
        let json = br#"{"number":3,"previous":2,"flushed":30,"seal_crc":5,"log_segment":4,"parts":[],"tenants":{"a":{"head":10,"accepted":9,"stored":7,"duplicate":1,"dead_lettered":1,"bytes":1152921504606846976,"erased":0,"voids":[[3,5]]}}}"#;
        let file = |version| [line(version, json).as_bytes(), json].concat();
        assert_eq!(Manifest::decode(&file(1), 3).unwrap(), manifest(3));
        assert!(manifest(3).state().erasures.is_empty());
        assert!(Manifest::decode(&file(4), 3).is_err(), "a later version may hide what this one would show");
        assert_eq!(manifest(3).encode(), file(2), "one without a retired tenant is written as before");
    }

    #[test]
    fn a_retired_tenant_makes_a_manifest_that_earlier_builds_refuse() {
        let (mut retiring, a) = (manifest(3), TenantId::parse("a").unwrap());
        retiring.tenants.get_mut(&a).unwrap().retired = true;
        let bytes = retiring.encode();
        assert!(bytes.starts_with(b"sluice-manifest 3 "));
        let read = Manifest::decode(&bytes, 3).unwrap();
        assert_eq!((&read, read.state().retired.contains(&a)), (&retiring, true));
        assert!(manifest(3).state().retired.is_empty());
    }

    #[test]
    fn the_newest_that_can_be_read_is_chosen_and_the_rest_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let choose = || choose(&RealFs, dir.path()).unwrap();
        assert!(!choose().lost);
        for n in 1..=3 {
            manifest(n).write(&RealFs, dir.path()).unwrap();
        }
        let chosen = choose();
        assert_eq!((chosen.current, chosen.previous, chosen.last_number), (manifest(3), Some(manifest(2)), 3));

        std::fs::write(path(dir.path(), 3), b"x").unwrap();
        let chosen = choose();
        assert_eq!((chosen.current, chosen.previous, chosen.last_number), (manifest(2), Some(manifest(1)), 3));
        assert_eq!(chosen.unreadable.len(), 1);

        std::fs::remove_file(path(dir.path(), 1)).unwrap();
        let chosen = choose();
        assert_eq!((chosen.current, chosen.previous, chosen.lost), (manifest(2), None, false));

        std::fs::write(path(dir.path(), 2), b"").unwrap();
        assert!(choose().lost, "heads may be gone with what was trimmed");
    }
}
