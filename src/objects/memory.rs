//! Objects in memory, for tests.

use super::{Key, ObjectError, Objects, Precondition, Version, is_folder};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

/// Keeps the contract of [`Objects`] but for crashes. Clones share the objects. What a future does is done when it is made.
#[derive(Clone, Default)]
pub(crate) struct MemoryObjects(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, (Bytes, u64)>,
    writes: u64,
}

impl MemoryObjects {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds the objects")
    }

    pub(crate) fn get_now(&self, key: &Key) -> Option<(Bytes, Version)> {
        let inner = self.lock();
        let (bytes, version) = inner.objects.get(key)?;
        Some((bytes.clone(), Version::new(&version.to_string())))
    }

    pub(crate) fn put_now(&self, key: &Key, bytes: Bytes, when: &Precondition) -> Result<Version, ObjectError> {
        let found = self.get_now(key).map(|(_, version)| version);
        let holds = match when {
            Precondition::Any => true,
            Precondition::Absent => found.is_none(),
            Precondition::Version(expected) => found.as_ref() == Some(expected),
        };
        if !holds {
            return Err(ObjectError::Conflict);
        }
        let mut inner = self.lock();
        inner.writes += 1;
        let version = inner.writes;
        inner.objects.insert(key.clone(), (bytes, version));
        Ok(Version::new(&version.to_string()))
    }

    pub(crate) fn delete_now(&self, key: &Key) {
        self.lock().objects.remove(key);
    }

    pub(crate) fn list_now(&self, folder: &str) -> Vec<Key> {
        let inside = format!("{folder}/");
        self.lock().objects.keys().filter(|key| key.as_str().starts_with(&inside)).cloned().collect()
    }
}

impl Objects for MemoryObjects {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        let found = self.get_now(key);
        Box::pin(async { Ok(found) })
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        let found = self.get_now(key).map(|(bytes, _)| part_of(&bytes, &range));
        Box::pin(async { Ok(found) })
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let done = self.put_now(key, bytes, &when);
        Box::pin(async { done })
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        self.delete_now(key);
        Box::pin(async { Ok(()) })
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        let folder = folder.to_owned();
        let good = folder.split('/').all(is_folder);
        if good {
            self.list_now(&folder).iter().for_each(|key| self.delete_now(key));
        }
        Box::pin(async move { if good { Ok(()) } else { Err(ObjectError::InvalidKey(folder)) } })
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        let (folder, found) = (folder.to_owned(), self.list_now(folder));
        let good = folder.split('/').all(is_folder);
        Box::pin(async move { if good { Ok(found) } else { Err(ObjectError::InvalidKey(folder)) } })
    }
}

/// What there is of the range.
pub(crate) fn part_of(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let len = bytes.len() as u64;
    let end = range.end.min(len);
    bytes.slice(range.start.min(end) as usize..end as usize)
}
