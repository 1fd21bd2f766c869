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
    ops::Range,
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
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs.sync_dir(parent.unwrap_or(Path::new("."))).map_err(|e| failed(&e))?;
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

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        let key = key.clone();
        self.blocking(move |inner| inner.locked(&key, |path| inner.read_range(path, &range)))
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let key = key.clone();
        self.blocking(move |inner| inner.locked(&key, |path| inner.put(path, &bytes, &when)))
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        let key = key.clone();
        self.blocking(move |inner| inner.locked(&key, |path| inner.delete(path)))
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        let folder = folder.to_owned();
        self.blocking(move |inner| inner.clear(&checked(folder)?))
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        let folder = folder.to_owned();
        self.blocking(move |inner| {
            let folder = checked(folder)?;
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

    fn read_range(&self, path: &Path, range: &Range<u64>) -> Result<Option<Bytes>, ObjectError> {
        if !self.settle(path.parent().unwrap_or(&self.root))? {
            return Ok(None);
        }
        let file = match self.fs.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| failed(&e))?,
        };
        let end = range.end.min(file.len().map_err(|e| failed(&e))?);
        let mut bytes = vec![0; end.saturating_sub(range.start) as usize];
        if !bytes.is_empty() {
            file.read_at(&mut bytes, range.start).map_err(|e| failed(&e))?;
        }
        Ok(Some(bytes.into()))
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
        match self.fs.remove(&fs::temporary(path)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
            _ => {}
        }
        match self.fs.remove(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(&e)),
            Ok(()) => self.fs.sync_dir(folder).map_err(|e| self.doubt(folder, &e)),
        }
    }

    fn clear(&self, folder: &str) -> Result<(), ObjectError> {
        let path = self.root.join(folder);
        if !self.settle(&path)? {
            return Ok(());
        }
        for name in self.fs.list(&path).map_err(|e| failed(&e))? {
            let below = format!("{folder}/{name}");
            if is_folder(&name) {
                self.clear(&below)?;
            } else if Key::parse(below.strip_suffix(".tmp").unwrap_or(&below)).is_ok() {
                match self.fs.remove(&path.join(&name)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
                    _ => {}
                }
            } // else: a stranger's file
        }
        self.fs.sync_dir(&path).map_err(|e| self.doubt(&path, &e))
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

fn checked(folder: String) -> Result<String, ObjectError> {
    if folder.split('/').all(is_folder) {
        Ok(folder)
    } else {
        Err(ObjectError::InvalidKey(folder))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{
        real::RealFs,
        sim::{CrashMode, SimFs},
    };

    const ROOT: &str = "/data/objects";

    fn key(text: &str) -> Key {
        Key::parse(text).expect("a key")
    }

    fn open(fs: &SimFs) -> FolderObjects {
        FolderObjects::open(Arc::new(fs.clone()), PathBuf::from(ROOT)).expect("opened")
    }

    fn real() -> (tempfile::TempDir, FolderObjects) {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = FolderObjects::open(Arc::new(RealFs), dir.path().join("objects")).expect("opened");
        (dir, objects)
    }

    #[tokio::test]
    async fn a_cleared_folder_holds_nothing_and_stays_so() {
        let fs = SimFs::new();
        let objects = open(&fs);
        for name in ["x/a/1.json", "x/a/b/2.part", "x/ab/3.json", "x/4.json"] {
            objects.put(&key(name), "1".into(), Precondition::Any).await.expect("written");
        }
        let left = Path::new(ROOT).join("x/a/5.json.tmp");
        fs::write_atomic(&fs, &left.with_extension(""), b"cut short").expect("written");
        fs.rename(&left.with_extension(""), &left).expect("renamed");
        objects.clear("x/a").await.expect("cleared");
        objects.clear("x/a").await.expect("again");
        objects.clear("y").await.expect("what is not there is fine");
        assert!(matches!(objects.clear("../x").await, Err(ObjectError::InvalidKey(_))));
        assert!(!fs.paths().contains(&left), "with what a write left");
        let after = open(&fs.crash(0, CrashMode::Lose));
        assert_eq!(after.list("x").await.expect("listed"), [key("x/4.json"), key("x/ab/3.json")]);
    }

    #[tokio::test]
    async fn a_deletion_takes_what_a_cut_short_write_left() {
        let (dir, objects) = real();
        objects.put(&key("x/a.json"), "1".into(), Precondition::Any).await.expect("written");
        let left = dir.path().join("objects/x/b.json.tmp");
        std::fs::write(&left, "cut short").expect("written");
        objects.delete(&key("x/b.json")).await.expect("deleted");
        assert!(!left.exists());
        assert!(objects.get(&key("x/a.json")).await.expect("read").is_some());
    }

    #[tokio::test]
    async fn a_list_is_sorted_deep_and_without_temporary_files() {
        let (dir, objects) = real();
        for name in ["x/b.json", "x/a.json", "x/y/c.json", "xx/d.json"] {
            objects.put(&key(name), "1".into(), Precondition::Any).await.expect("written");
        }
        std::fs::write(dir.path().join("objects/x/e.json.tmp"), "cut short").expect("written");
        let names: Vec<_> = objects.list("x").await.expect("listed").iter().map(|k| k.to_string()).collect();
        assert_eq!(names, ["x/a.json", "x/b.json", "x/y/c.json"]);
        assert_eq!(objects.list("nowhere").await.expect("listed"), []);
        for bad in ["", "..", "x/../xx", "/x", "x/"] {
            assert!(matches!(objects.list(bad).await, Err(ObjectError::InvalidKey(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn power_may_go_at_any_moment_and_leaves_the_old_or_the_new() {
        let key = key("a/b.json");
        let mut finished = false;
        for operations in 0.. {
            let fs = SimFs::new();
            let objects = open(&fs);
            objects.put(&key, "old".into(), Precondition::Absent).await.expect("written");
            fs.power_off_after(operations);
            finished = objects.put(&key, "new".into(), Precondition::Any).await.is_ok();
            for (seed, mode) in [(0, CrashMode::Lose), (1, CrashMode::Keep), (2, CrashMode::Tear), (3, CrashMode::Tear)] {
                let found = open(&fs.crash(seed, mode)).get(&key).await.expect("read").expect("there").0;
                assert!(found == "new" || !finished && found == "old", "after {operations} operations: {found:?}");
            }
            if finished {
                break;
            }
        }
        assert!(finished);
    }

    #[tokio::test]
    async fn what_another_process_left_half_done_is_finished_before_it_is_shown() {
        let fs = SimFs::new();
        let dir = Path::new(ROOT).join("a");
        fs.create_dir(&dir).expect("made");
        let file = fs.create(&dir.join("t")).expect("made");
        file.write_at(b"new", 0).expect("written");
        file.sync().expect("synced");
        fs.rename(&dir.join("t"), &dir.join("b.json")).expect("renamed"); // and here it died
        assert!(open(&fs).get(&key("a/b.json")).await.expect("read").is_some());
        let after = open(&fs.crash(0, CrashMode::Lose));
        assert!(after.get(&key("a/b.json")).await.expect("read").is_some(), "what was shown is still there");
    }

    #[tokio::test]
    async fn a_failed_write_is_an_error_and_can_be_repeated() {
        let fs = SimFs::new();
        let objects = open(&fs);
        fs.fail_syncs(0, 1);
        assert!(matches!(
            objects.put(&key("a/b.json"), "1".into(), Precondition::Absent).await,
            Err(ObjectError::Io(_))
        ));
        assert!(objects.get(&key("a/b.json")).await.expect("read").is_none());
        objects.put(&key("a/b.json"), "1".into(), Precondition::Absent).await.expect("written");
        let after = open(&fs.crash(0, CrashMode::Lose));
        assert!(after.get(&key("a/b.json")).await.expect("read").is_some());
    }
}
