//! The one place where manifests are committed, each made from the newest one: a flush and a merge may overlap.
//!
//! ```text
//! lock ──▶ next = change(newest) ──▶ write manifest ──▶ readers go over ──▶ unlink what neither of the two newest names ──▶ unlock
//! ```
//!
//! Guarantees: manifests follow each other by number, each naming the one before it in `previous`. Files that either of the two
//! newest manifests names stay; the log may be trimmed up to the `flushed` of the one before the newest, and not further. A
//! manifest whose writing failed may yet turn out to be durable: who fails keeps the files that it names, and tries again
//! until a commit succeeds (the next one takes the same number and replaces it).
//!
//! A file that a reader has mapped may be unlinked: its bytes stay until nobody maps them. Crashes between manifest and unlink
//! leave orphans, which the next clean start removes.

use super::{
    Inner,
    flush::flushed_of,
    manifest::{Manifest, path},
    part::{data_file, sidecar_file},
    view::View,
};
use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The newest manifest and what belongs to it.
pub(super) struct Commit(Mutex<Newest>);

struct Newest {
    current: Arc<Manifest>,
    /// Parts that the manifest before it names.
    before: HashSet<String>,
    /// The largest number that a manifest has.
    last_number: u64,
}

fn names(manifest: &Manifest) -> HashSet<String> {
    manifest.parts.iter().map(|part| part.name.clone()).collect()
}

impl Commit {
    /// Goes on from the manifests of a start.
    pub fn new(current: Manifest, previous: Option<&Manifest>, last_number: u64) -> Self {
        Self(Mutex::new(Newest {
            current: Arc::new(current),
            before: previous.map(names).unwrap_or_default(),
            last_number,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest manifest.
    pub fn current(&self) -> Arc<Manifest> {
        self.lock().current.clone()
    }

    /// Whether the manifest before the newest still keeps files that the newest does not name.
    pub fn keeps_more(&self) -> bool {
        let newest = self.lock();
        let named = names(&newest.current);
        newest.before.iter().any(|part| !named.contains(part))
    }
}

impl Inner {
    /// The newest manifest and the view that goes with it.
    pub(super) fn newest(&self) -> (Arc<Manifest>, Arc<View>) {
        let newest = self.commit.lock();
        (newest.current.clone(), self.view())
    }

    /// Commits what `change` makes of the newest manifest (numbers are set here), then lets readers go over by `show`.
    /// Blocks for the disk. After an error the manifest may be durable all the same: see the module.
    pub(super) fn commit(&self, change: impl FnOnce(&mut Manifest), show: impl FnOnce(&mut View)) -> io::Result<Arc<Manifest>> {
        let mut newest = self.commit.lock();
        let mut next = Manifest::clone(&newest.current);
        change(&mut next);
        (next.number, next.previous) = (newest.last_number + 1, newest.current.number);
        next.parts.sort_by(|a, b| (a.seals, &a.name).cmp(&(b.seals, &b.name)));
        next.write(&*self.fs, &self.manifests)?;
        let (flushed, next) = (Arc::new(flushed_of(&next)), Arc::new(next));
        self.change_view(|view| {
            show(view);
            view.flushed = flushed;
        });
        newest.last_number = next.number;
        let before = std::mem::replace(&mut newest.current, next.clone());
        let named = names(&before);
        let now = names(&next);
        let old = std::mem::replace(&mut newest.before, named);
        self.unlink(&before, old.iter().filter(|part| !newest.before.contains(*part) && !now.contains(*part)));
        self.trimmable.send_replace(before.flushed);
        Ok(next)
    }

    /// Failing to delete harms nobody: a clean start deletes what is left.
    fn unlink<'p>(&self, before: &Manifest, parts: impl Iterator<Item = &'p String>) {
        if before.previous > 0 {
            let _ = self.fs.remove(&path(&self.manifests, before.previous));
        }
        for part in parts {
            for file in [sidecar_file(part), data_file(part)] {
                let _ = self.fs.remove(&self.parts.join(file));
            }
        }
    }
}
