//! The start of the store: which manifest and which parts it goes by, and what of the damage the log makes good.

use super::{
    EmbeddedStore, Handle, Inner, Merges, Opened, State, StoreDamage, StoreSettings, WAITING_PER_QUERY,
    commit::Commit,
    compact,
    flush::{self, follows_a_manifest, is_file_of, is_part_file},
    manifest::{self, Chosen, Manifest, is_damage},
    memtable::Memtable,
    part::{Part, PartError, PartMeta, data_file},
    turns::Turns,
    view::View,
};
use crate::{fs::Fs, sinks::StoreError, telemetry::metrics::metrics};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
};
use tokio::sync::watch;

impl EmbeddedStore {
    /// Opens the store of a data folder that this process has locked, and makes `parts/` and `manifest/` when missing. Seals
    /// above [`Opened::rebuild_from`] are then to be applied in order, and [`EmbeddedStore::expect`] to be told the last.
    ///
    /// `dead_letters_settled` says up to which seal the dead letters are durable; a flush waits for it.
    ///
    /// Blocks: it reads the manifests, the sidecars, and those parts that the log could still replace. Damage is no error
    /// (see [`Opened::damage`]); errors are those of the machine.
    pub fn open(fs: Arc<dyn Fs>, dir: PathBuf, settings: StoreSettings, dead_letters_settled: watch::Receiver<u64>) -> Result<(Self, Opened), StoreError> {
        let (parts, manifests) = (dir.join("parts"), dir.join("manifest"));
        for folder in [&parts, &manifests] {
            fs.create_dir(folder).map_err(|e| io_error(&e))?;
        }
        fs.sync_dir(&dir).map_err(|e| io_error(&e))?;
        let found = Found::read(&*fs, &parts, &manifests)?;
        let flushed = found.current.flushed;
        let opened = Opened {
            checkpoint: found.current.state(),
            damage: found.damage.clone(),
            rebuild_from: flushed,
            lost: found.lost,
        };
        metrics().parts(found.parts.len());
        let view = View {
            active: Arc::new(Memtable::new()),
            frozen: None,
            parts: found.parts.into(),
            quarantined: Arc::default(),
            flushed: Arc::new(flush::flushed_of(&found.current)),
            erasures: Arc::new(opened.checkpoint.erasures.clone()),
        };
        let state = State {
            seals: opened.checkpoint.clone(),
            flushed,
            ..State::default()
        };
        let inner = Arc::new(Inner {
            fs,
            parts,
            manifests,
            degraded: AtomicBool::new(found.damage.iter().any(|d| d.rows.is_some() && !d.rebuilt)),
            damage: Mutex::new(found.damage),
            orphans: Mutex::new(found.orphans),
            state: Mutex::new(state),
            changed: Condvar::new(),
            view: RwLock::new(Arc::new(view)),
            visible: AtomicU64::new(flushed),
            visible_now: watch::Sender::new(flushed),
            expected: AtomicU64::new(u64::MAX),
            trimmable: watch::Sender::new(found.trimmable),
            commit: found.commit,
            merges: Merges::default(),
            dead_letters: dead_letters_settled,
            closing: watch::Sender::new(false),
            queries: Turns::new(settings.queries, settings.queries_of_tenant, settings.queries.saturating_mul(WAITING_PER_QUERY)),
            settings,
        });
        let thread = |name: &str, work: fn(&Inner)| {
            let inner = inner.clone();
            let body = move || {
                let _ending = Ending(&inner);
                work(&inner);
            };
            std::thread::Builder::new().name(name.into()).spawn(body).map_err(|e| io_error(&e))
        };
        let handle = Handle {
            threads: Mutex::new(vec![thread("store-flush", flush::run)?, thread("store-merge", compact::run)?]),
            inner,
        };
        Ok((Self(Arc::new(handle)), opened))
    }
}

/// When a thread ends, for whatever reason, nobody may wait for it any more.
struct Ending<'a>(&'a Inner);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the data folder holds.
struct Found {
    current: Manifest,
    parts: Vec<Arc<Part>>,
    orphans: Vec<PathBuf>,
    trimmable: u64,
    commit: Commit,
    damage: Vec<StoreDamage>,
    lost: bool,
}

impl Found {
    fn read(fs: &dyn Fs, parts: &Path, manifests: &Path) -> Result<Self, StoreError> {
        let Chosen {
            mut current,
            mut previous,
            last_number,
            unreadable,
            mut lost,
        } = manifest::choose(fs, manifests).map_err(|e| io_error(&e))?;
        let taken = current.number;
        let mut damage: Vec<_> = unreadable
            .into_iter()
            .map(|bad| StoreDamage {
                what: format!("a manifest cannot be read: {}", bad.reason),
                file: format!("manifest/{:020}", bad.number),
                seals: None,
                rows: None,
                rebuilt: bad.number > taken && (taken > 0 || last_number == 1),
            })
            .collect();
        let files = fs.list(parts).map_err(|e| io_error(&e))?;
        if taken == 0 && !lost && files.iter().any(|file| follows_a_manifest(file)) {
            lost = true;
            damage.push(lost_manifests());
        }
        let opened = match open_parts(fs, parts, &current, previous.as_ref(), &mut damage)? {
            Some(opened) => opened,
            None => {
                current = previous.take().unwrap_or_default();
                open_parts(fs, parts, &current, None, &mut damage)?.unwrap_or_default()
            }
        };
        let named: HashSet<&str> = [Some(&current), previous.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|m| m.parts.iter().map(|p| p.name.as_str()))
            .collect();
        let is_orphan = |file: &&String| is_part_file(file) && !named.iter().any(|part| is_file_of(file, part));
        let mut orphans: Vec<PathBuf> = files.iter().filter(is_orphan).map(|file| parts.join(file)).collect();
        let kept = [current.number, current.previous].map(|n| manifest::path(Path::new(""), n));
        let old = fs.list(manifests).map_err(|e| io_error(&e))?;
        let is_old = |file: &&String| file.starts_with(|c: char| c.is_ascii_digit()) && !kept.iter().any(|k| k == Path::new(file));
        orphans.extend(old.iter().filter(is_old).map(|file| manifests.join(file)));
        Ok(Self {
            commit: Commit::new(current.clone(), previous.as_ref(), last_number),
            trimmable: previous.map_or(0, |p| p.flushed),
            current,
            parts: opened,
            orphans,
            damage,
            lost,
        })
    }
}

/// Opens the parts of a manifest; those that cannot be opened are reported and left out. `None`: one of them is damaged that
/// the manifest before it does not name, so that this one should be taken, and the log has the rest.
fn open_parts(
    fs: &dyn Fs,
    dir: &Path,
    manifest: &Manifest,
    previous: Option<&Manifest>,
    damage: &mut Vec<StoreDamage>,
) -> Result<Option<Vec<Arc<Part>>>, StoreError> {
    let mut opened = Vec::with_capacity(manifest.parts.len());
    for meta in &manifest.parts {
        let replaceable = previous.is_some_and(|p| !p.parts.iter().any(|old| old.name == meta.name));
        // What the log can replace is read to the end now, since it cannot later.
        let part = Part::open(fs, dir, meta.clone()).and_then(|part| if replaceable { part.verify().map(|()| part) } else { Ok(part) });
        match part {
            Ok(part) => opened.push(Arc::new(part)),
            Err(PartError::Io { source, .. }) if !is_damage(&source) => return Err(io_error(&source)),
            Err(error) => {
                damage.push(damaged_part(meta, &error, replaceable));
                if replaceable {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(opened))
}

fn damaged_part(meta: &PartMeta, error: &PartError, rebuilt: bool) -> StoreDamage {
    let fate = if rebuilt {
        "it is rebuilt from the log"
    } else {
        "it is left where it is, and its rows are missing in all answers until it is restored"
    };
    StoreDamage {
        what: format!("a part cannot be read: {error}; {fate}"),
        file: format!("parts/{}", data_file(&meta.name)),
        seals: Some(meta.seals),
        rows: Some(meta.rows),
        rebuilt,
    }
}

fn lost_manifests() -> StoreDamage {
    StoreDamage {
        what: "there are parts of later seals and no manifest".into(),
        file: "manifest".into(),
        seals: None,
        rows: None,
        rebuilt: false,
    }
}

fn io_error(error: &std::io::Error) -> StoreError {
    StoreError::Io(error.to_string().into())
}
