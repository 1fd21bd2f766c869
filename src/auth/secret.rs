//! The local secret: the file `secret` of the data folder, with which local tokens are signed.
//!
//! 64 hexadecimal digits (32 random bytes) and a line end. The key is the text itself without white space around it, so
//! that any other program can sign with it too. Whoever makes the file first wins; the others read it.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// The name of the file in the data folder.
pub const FILE: &str = "secret";
/// HS256 wants a key as long as its hash.
const MIN_LEN: usize = 32;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The data folder or the file cannot be made or read.
    #[error("`{path}`: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file holds too little to be a key.
    #[error("`{path}` holds no secret: at least {MIN_LEN} characters are needed; delete it and a new one is made (old tokens end)")]
    TooShort {
        /// Which file.
        path: String,
    },
}

/// The key for signing and checking local tokens. Not printable on purpose.
#[derive(Clone)]
pub struct LocalSecret {
    key: Vec<u8>,
    exposed: bool,
}

impl LocalSecret {
    /// The key's bytes.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether others than the file's owner may read or write it; there was a warning in the log.
    pub fn is_exposed(&self) -> bool {
        self.exposed
    }
}

/// Reads the secret of a data folder, and makes folder and secret when they are missing. Blocks.
pub fn read_or_create(data_dir: &Path) -> Result<LocalSecret, SecretError> {
    let path = data_dir.join(FILE);
    match read(data_dir) {
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            fresh()
                .and_then(|text| write(data_dir, &path, &text))
                .map_err(|source| io_error(&path, source))?;
            read(data_dir)
        }
        done => done,
    }
}

/// Reads the secret of a data folder. Blocks.
pub fn read(data_dir: &Path) -> Result<LocalSecret, SecretError> {
    let path = data_dir.join(FILE);
    let text = fs::read(&path).map_err(|source| io_error(&path, source))?;
    let mode = fs::metadata(&path).map_err(|source| io_error(&path, source))?.permissions().mode();
    let key = text.trim_ascii().to_vec();
    if key.len() < MIN_LEN {
        return Err(SecretError::TooShort {
            path: path.display().to_string(),
        });
    }
    let exposed = mode & 0o077 != 0;
    if exposed {
        tracing::warn!(path = %path.display(), mode = format_args!("{:o}", mode & 0o777), "others may read the local secret; make it 0600");
    }
    Ok(LocalSecret { key, exposed })
}

/// Makes a data folder whose secret is `text`, that of the other processes. One that is there already stays. Blocks.
pub fn adopt(data_dir: &Path, text: &str) -> Result<LocalSecret, SecretError> {
    let path = data_dir.join(FILE);
    write(data_dir, &path, text).map_err(|source| io_error(&path, source))?;
    read(data_dir)
}

/// The text of a new secret. Fails where the system has no random numbers.
pub fn fresh() -> io::Result<String> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    }))
}

/// Writes a secret aside and gives it its name in one step, so that nobody ever reads half of it.
fn write(data_dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let mut file = tempfile::Builder::new()
        .prefix(".secret-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(data_dir)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e.error),
        Ok(_) => fs::File::open(data_dir)?.sync_all(),
    }
}

fn io_error(path: &Path, source: io::Error) -> SecretError {
    SecretError::Io {
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_makers_agree_on_one_secret_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("new");
        let keys = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| read_or_create(&data).expect("made").key().to_vec())).collect();
            makers.into_iter().map(|m| m.join().expect("no panic")).collect::<Vec<_>>()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 64));
        assert!(!read(&data).expect("there").is_exposed());
        assert_eq!(fs::read_dir(&data).expect("there").count(), 1, "nothing else is left");
        fs::set_permissions(data.join(FILE), fs::Permissions::from_mode(0o644)).expect("mine");
        assert!(read(&data).expect("there").is_exposed());
    }

    #[test]
    fn a_short_secret_is_refused_and_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(FILE), "  short \n").expect("written");
        assert!(matches!(read_or_create(dir.path()), Err(SecretError::TooShort { .. })));
        assert_eq!(fs::read(dir.path().join(FILE)).expect("there"), b"  short \n");
    }
}
