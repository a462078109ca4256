//! What the log asks of the disk where the disk may refuse. Tests refuse on purpose and count the steps.

use crate::env::disk::{self, File};
use std::io;
use std::path::Path;

/// The writing half of a file system.
pub(super) trait Disk: Send + Sync {
    /// A new file, empty even if there was one, readable and writable.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Writes all bytes at this offset.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, file: &File, len: u64) -> io::Result<()>;
    /// Puts `from` in the place of `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The real one.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync()
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        disk::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        disk::remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        disk::sync_dir(dir)
    }
}
