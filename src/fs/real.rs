//! The operating system's files.

use super::{DIRECT_BLOCK, File, Fs, Space};
use bytes::Bytes;
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// A file with a second handle, whose writes go past the page cache.
struct DirectFile {
    file: RealFile,
    direct: fs::File,
}

impl File for DirectFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(into, offset)
    }

    /// The system keeps the page cache in step with direct writes, so either handle may be used for any of them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let aligned = bytes.as_ptr().addr() | bytes.len() | offset as usize;
        if aligned.is_multiple_of(DIRECT_BLOCK) {
            match self.direct.write_all_at(bytes, offset) {
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {} // this volume wants more than a block, or cannot
                done => return done,
            }
        }
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl Fs for RealFs {
    fn create_direct(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = RealFile(OpenOptions::new().read(true).write(true).create_new(true).open(path)?);
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        match OpenOptions::new().write(true).custom_flags(direct).open(path) {
            Ok(direct) => Ok(Arc::new(DirectFile { file, direct })),
            Err(_) => Ok(Arc::new(file)), // not every file system can
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn map(&self, path: &Path) -> io::Result<Bytes> {
        let file = fs::File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: mapped files are parts and sidecars, which are written once under a temporary name, synced, renamed and
        // never written again; only whole files are unlinked, which leaves the mapping valid. The data folder is locked
        // against other processes of ours. Nothing else in this crate maps a file.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Bytes::from_owner(map))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(dir)?
            .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_and_buffered_writes_of_one_file_are_read_back_in_the_order_in_which_they_were_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = RealFs.create_direct(&dir.path().join("f")).expect("made");
        let memory: Vec<u8> = (0..4 * DIRECT_BLOCK).map(|i| (i / DIRECT_BLOCK + 1) as u8).collect();
        let start = memory.as_ptr().align_offset(DIRECT_BLOCK);
        let aligned = &memory[start..start + 2 * DIRECT_BLOCK];
        let mut expected = vec![0; 6 * DIRECT_BLOCK];
        for (bytes, offset) in [
            (aligned, 0),
            (&memory[1..100], 10),                            // buffered, over the first
            (aligned, 2 * DIRECT_BLOCK),                      // direct, beside it
            (&aligned[..DIRECT_BLOCK + 1], 3000),             // no block
            (&aligned[DIRECT_BLOCK..], 0),                    // direct, over what was buffered
            (&memory[1..1 + DIRECT_BLOCK], 4 * DIRECT_BLOCK), // a block, but not where one begins in memory
            (aligned, 4 * DIRECT_BLOCK),
        ] {
            file.write_at(bytes, offset as u64).expect("written");
            expected[offset..offset + bytes.len()].copy_from_slice(bytes);
            let mut found = vec![0; file.len().expect("a length") as usize];
            file.read_at(&mut found, 0).expect("read");
            assert_eq!(found, expected[..found.len()], "after {} bytes at {offset}", bytes.len());
        }
        file.sync().expect("synced");
    }
}
