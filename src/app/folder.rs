//! The data folder: made when missing, and locked for as long as the process lives.

use crate::error::AppError;
use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
};

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
}
