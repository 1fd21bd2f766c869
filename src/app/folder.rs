//! The data folder: made when missing, locked for as long as the process lives, and known by a name of its own.
//!
//! The name (file `folder`, a UUID) is made when it is first asked for and stays. It tells a log apart from another one where several
//! could write to one place.

use crate::error::AppError;
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    sync::Arc,
};
use uuid::Uuid;

const NAME: &str = "folder";

/// The lock on a data folder; the operating system lets go of it when the last clone is dropped, or the process ends, however it ends.
#[derive(Debug, Clone)]
pub struct FolderLock {
    _file: Arc<File>,
}

/// Makes `data_dir` if need be and locks it against other processes. Blocks for the disk, not for the lock.
pub fn lock(data_dir: &Path) -> Result<FolderLock, AppError> {
    let unwritable = |e| AppError::cannot_start(format!("the data folder `{}` cannot be written: {e}", data_dir.display()));
    let is_new = !data_dir.exists();
    std::fs::create_dir_all(data_dir).map_err(unwritable)?;
    // A new folder must be there after a power cut, before anything in it is promised.
    if is_new && let Some(parent) = data_dir.canonicalize().map_err(unwritable)?.parent() {
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(unwritable)?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join("lock"))
        .map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock { _file: Arc::new(file) }),
        Err(TryLockError::WouldBlock) => Err(AppError::cannot_start(format!(
            "the data folder `{}` is locked: another sluice is using it; stop that one, or choose another `data_dir`",
            data_dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(unwritable(e)),
    }
}

/// The folder's name, made if it has none yet. To be called under its lock. Blocks.
pub fn name(data_dir: &Path) -> Result<Uuid, AppError> {
    let path = data_dir.join(NAME);
    let wrong = |why: &dyn std::fmt::Display| AppError::cannot_start(format!("`{}` cannot be used: {why}", path.display()));
    match fs::read_to_string(&path) {
        Ok(text) => Uuid::try_parse(text.trim()).map_err(|_| wrong(&"it is not the name that was written there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let new = Uuid::new_v4();
            write(data_dir, &path, new).map_err(|error| wrong(&error))?;
            Ok(new)
        }
        Err(error) => Err(wrong(&error)),
    }
}

/// Written aside and named in one step: half of it is never read.
fn write(data_dir: &Path, path: &Path, name: Uuid) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".folder-").tempfile_in(data_dir)?;
    writeln!(file, "{name}")?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_folder_is_locked_once_until_it_is_let_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = lock(&dir.path().join("data")).expect("free");
        let refused = lock(&dir.path().join("data")).expect_err("held");
        assert_eq!(refused.exit, Exit::CannotStart);
        assert!(refused.message.contains("locked"), "{refused}");
        drop(held);
        assert!(lock(&dir.path().join("data")).is_ok());
    }

    #[test]
    fn a_folder_keeps_its_name_and_no_other_has_it() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let [one, other] = dirs.each_ref().map(|dir| name(dir.path()).expect("made"));
        assert_ne!(one, other);
        assert_eq!(name(dirs[0].path()).expect("read"), one);
        std::fs::write(dirs[0].path().join(NAME), "half").expect("written");
        let refused = name(dirs[0].path()).expect_err("damaged");
        assert!(refused.message.contains("folder` cannot be used"), "{refused}");
    }
}
