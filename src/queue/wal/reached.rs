//! How far the log goes, noted beside it, so that a lost end is missed: nothing else would tell that there was one.
//!
//! File `reached`: one line of ASCII, replaced whole after the opening group of each segment is durable and before any
//! record is:
//!
//! ```text
//! sluice-log 1 00000000000000000042 crc32c=0123abcd\n
//! ```
//!
//! The number is the ordinal of that segment; the checksum (lower-case hexadecimal) covers everything before ` crc32c`. A
//! file that is missing or says anything else is taken for none: then only the manifest tells how far the log went.

use crate::fs::{self, Fs};
use std::{
    io,
    path::{Path, PathBuf},
};

fn path(dir: &Path) -> PathBuf {
    dir.join("reached")
}

fn line(ordinal: u64) -> String {
    let said = format!("sluice-log 1 {ordinal:020}");
    let crc = crc32c::crc32c(said.as_bytes());
    format!("{said} crc32c={crc:08x}\n")
}

/// Notes that segment `ordinal` is in use; durable when it returns.
pub(super) fn write(fs: &dyn Fs, dir: &Path, ordinal: u64) -> io::Result<()> {
    fs::write_atomic(fs, &path(dir), line(ordinal).as_bytes())
}

/// The largest segment that was in use, or 0 if that is not known.
pub(super) fn read(fs: &dyn Fs, dir: &Path) -> u64 {
    let said = fs::read_all(fs, &path(dir)).ok().and_then(|bytes| {
        let text = String::from_utf8(bytes).ok()?;
        let ordinal = text.split(' ').nth(2)?.parse().ok()?;
        (text == line(ordinal)).then_some(ordinal)
    });
    said.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimFs;

    #[test]
    fn it_reads_back_as_written_and_anything_else_is_nothing() {
        let (fs, dir) = (SimFs::new(), Path::new("/wal"));
        fs.create_dir(dir).unwrap();
        assert_eq!(read(&fs, dir), 0);
        write(&fs, dir, 7).unwrap();
        write(&fs, dir, 1 << 40).unwrap();
        assert_eq!(read(&fs, dir), 1 << 40);
        let good = fs.bytes(&path(dir));
        for at in 0..good.len() {
            fs.set_bytes(&path(dir), &good);
            fs.flip(&path(dir), at as u64, 1);
            assert_eq!(read(&fs, dir), 0, "byte {at}");
            fs.set_bytes(&path(dir), &good[..at]);
            assert_eq!(read(&fs, dir), 0, "cut at {at}");
        }
    }
}
