//! Objects as files of a folder.
//!
//! A `put` compares under a lock, writes a temporary file, syncs it, renames it and syncs the folder. The version of an
//! object is the SHA-256 of its contents, so it needs no file of its own. The process holds the lock of the data folder,
//! so that no other process of ours writes here.
//!
//! A process may die between rename and sync, or the sync may fail. Then the file is there, but not yet for ever. So a
//! folder that this process has not synced since it started, or since a failure, is synced before anything in it is shown.

use super::{Key, ObjectError, Objects, Precondition, Version, is_folder};
use crate::fs::{self, Fs};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    fmt::Write,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Writers of one key exclude each other through one of these locks; 64 keep unrelated keys apart often enough.
const LOCKS: usize = 64;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct FolderObjects(Arc<Inner>);

struct Inner {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    locks: [Mutex<()>; LOCKS],
    /// Folders whose names (and whose parents' names) are durable as this process sees them.
    synced: Mutex<HashSet<PathBuf>>,
}

impl FolderObjects {
    /// Opens the folder and makes it when it is missing. Blocks.
    pub fn open(fs: Arc<dyn Fs>, root: PathBuf) -> Result<Self, ObjectError> {
        fs.create_dir(&root).map_err(|e| failed(&e))?;
        if let Some(parent) = root.parent() {
            fs.sync_dir(parent).map_err(|e| failed(&e))?;
        }
        Ok(Self(Arc::new(Inner {
            fs,
            root,
            locks: [const { Mutex::new(()) }; LOCKS],
            synced: Mutex::default(),
        })))
    }

    fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T, ObjectError> + Send + 'static) -> BoxFuture<'static, Result<T, ObjectError>> {
        let inner = self.0.clone();
        async move {
            let done = tokio::task::spawn_blocking(move || work(&inner)).await;
            done.unwrap_or_else(|e| Err(ObjectError::Io(format!("the work was not done: {e}").into())))
        }
        .boxed()
    }
}

impl Objects for FolderObjects {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        let key = key.clone();
        self.blocking(move |inner| inner.locked(&key, |path| inner.read(path)))
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let key = key.clone();
        self.blocking(move |inner| inner.locked(&key, |path| inner.put(path, &bytes, &when)))
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        let key = key.clone();
        self.blocking(move |inner| inner.locked(&key, |path| inner.delete(path)))
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        let folder = folder.to_owned();
        self.blocking(move |inner| {
            if !folder.split('/').all(is_folder) {
                return Err(ObjectError::InvalidKey(folder));
            }
            let mut keys = Vec::new();
            inner.list(&folder, &mut keys)?;
            keys.sort_unstable();
            Ok(keys)
        })
    }
}

impl Inner {
    fn locked<T>(&self, key: &Key, work: impl FnOnce(&Path) -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        let lock = &self.locks[xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes()) as usize % LOCKS];
        // The lock guards no data of its own, so a panic of another holder leaves nothing half done in memory.
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        work(&self.root.join(key.as_str()))
    }

    fn read(&self, path: &Path) -> Result<Option<(Bytes, Version)>, ObjectError> {
        if !self.settle(path.parent().unwrap_or(&self.root))? {
            return Ok(None);
        }
        match fs::read_all(&*self.fs, path) {
            Ok(bytes) => {
                let version = version_of(&bytes);
                Ok(Some((bytes.into(), version)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(&e)),
        }
    }

    fn put(&self, path: &Path, bytes: &[u8], when: &Precondition) -> Result<Version, ObjectError> {
        if *when != Precondition::Any {
            let found = self.read(path)?.map(|(_, version)| version);
            let holds = match when {
                Precondition::Any => true,
                Precondition::Absent => found.is_none(),
                Precondition::Version(expected) => found.as_ref() == Some(expected),
            };
            if !holds {
                return Err(ObjectError::Conflict);
            }
        }
        let folder = path.parent().unwrap_or(&self.root);
        self.make(folder)?;
        fs::write_atomic(&*self.fs, path, bytes).map_err(|e| self.doubt(folder, &e))?;
        Ok(version_of(bytes))
    }

    fn delete(&self, path: &Path) -> Result<(), ObjectError> {
        let folder = path.parent().unwrap_or(&self.root);
        if !self.settle(folder)? {
            return Ok(());
        }
        match self.fs.remove(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(&e)),
            Ok(()) => self.fs.sync_dir(folder).map_err(|e| self.doubt(folder, &e)),
        }
    }

    fn list(&self, folder: &str, keys: &mut Vec<Key>) -> Result<(), ObjectError> {
        let path = self.root.join(folder);
        if !self.settle(&path)? {
            return Ok(());
        }
        for name in self.fs.list(&path).map_err(|e| failed(&e))? {
            let below = format!("{folder}/{name}");
            if is_folder(&name) {
                self.list(&below, keys)?;
            } else if let Ok(key) = Key::parse(&below) {
                keys.push(key);
            } // else: the temporary file of a write that was cut short, or a stranger's file
        }
        Ok(())
    }

    /// Makes sure that the folder, its parents and the names in it are durable; makes what is missing.
    fn make(&self, folder: &Path) -> Result<(), ObjectError> {
        if self.is_synced(folder) {
            return Ok(());
        }
        self.fs.create_dir(folder).map_err(|e| failed(&e))?;
        self.settle(folder)?;
        Ok(())
    }

    /// Makes durable what can be seen in the folder. False when there is no such folder.
    fn settle(&self, folder: &Path) -> Result<bool, ObjectError> {
        if self.is_synced(folder) {
            return Ok(true);
        }
        match self.fs.sync_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(&e)),
            Ok(()) => {}
        }
        for parent in folder.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.root)) {
            self.fs.sync_dir(parent).map_err(|e| failed(&e))?;
        }
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(true)
    }

    fn is_synced(&self, folder: &Path) -> bool {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    fn doubt(&self, folder: &Path, error: &io::Error) -> ObjectError {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
        failed(error)
    }
}

fn version_of(bytes: &[u8]) -> Version {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(hex, "{byte:02x}"); // a String takes everything
    }
    Version::new(&hex)
}

/// The text of the system's error, without the path.
fn failed(error: &io::Error) -> ObjectError {
    ObjectError::Io(error.to_string().into())
}
