//! What the log asks of the disk where the disk may refuse. Tests refuse on purpose and count the steps.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
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
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// What tells one file from another that later has its name: device and inode.
pub(super) type Identity = (u64, u64);

/// The identity of an open file.
pub(super) fn identity(file: &File) -> io::Result<Identity> {
    file.metadata().map(|meta| identity_of(&meta))
}

/// The identity of a file with these facts.
pub(super) fn identity_of(facts: &Metadata) -> Identity {
    (facts.dev(), facts.ino())
}

/// The identity of the file that has this name now.
pub(super) fn identity_at(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|meta| identity_of(&meta))
}
