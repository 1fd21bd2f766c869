//! The file layer: the few operations that the log, the store and the objects folder need, behind a trait, so that tests
//! can drop unsynced writes, fail a sync or fill the disk (`sim`). Everything here blocks.

pub mod real;
#[cfg(any(test, feature = "fuzzing"))]
pub mod sim;

use bytes::Bytes;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What direct writes are aligned to, bytes: no block device or memory page in use asks for more.
pub const DIRECT_BLOCK: usize = 4096;

/// Room on the volume of a folder, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged writer may still use.
    pub available: u64,
    /// Size of the volume.
    pub total: u64,
}

/// An open file. Offsets are absolute; there is no cursor, so that threads may share it.
pub trait File: Send + Sync {
    /// Reads exactly `into.len()` bytes at `offset`; short files are `UnexpectedEof`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; not durable before [`File::sync`] has returned.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`: everything written before is durable, with the length. After an error nothing unsynced may be believed.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file system.
pub trait Fs: Send + Sync + 'static {
    /// Makes a new file for reading and writing; an existing one is `AlreadyExists`. Durable after [`Fs::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Like [`Fs::create`], for a file that is written once in whole blocks and hardly ever read: writes of which buffer,
    /// offset and length are multiples of [`DIRECT_BLOCK`] go past the page cache where the system can do that.
    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.create(path)
    }
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// The whole file, mapped where the system can. The file must not change while the bytes live.
    fn map(&self, path: &Path) -> io::Result<Bytes>;
    /// Replaces `to` by `from`. Durable after [`Fs::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the files and folders directly inside `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the folder and its parents; an existing one is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and deletions in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Room on the volume.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// Where [`write_atomic`] writes what is to become `path`.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Writes a whole file so that a crash leaves the old contents or the new ones: temporary file, sync, rename, sync of the folder.
pub fn write_atomic(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary(path);
    match fs.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = fs.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    fs.rename(&temporary, path)?;
    fs.sync_dir(dir)
}

/// Reads a whole file into memory.
pub fn read_all(fs: &dyn Fs, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
