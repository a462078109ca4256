//! The file system of this machine.
#![expect(clippy::disallowed_methods, reason = "here the disk is asked, and nowhere else")]

use super::seam::{Disk, Facts, File, Handle, Open};
use std::fs::{self, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub(super) struct Real;

#[derive(Debug)]
struct OpenFile(fs::File);

fn facts_of(found: &Metadata) -> Facts {
    Facts {
        identity: (found.dev(), found.ino()),
        len: found.len(),
        modified: found.modified().ok(),
        is_dir: found.is_dir(),
        is_file: found.is_file(),
    }
}

impl Disk for Real {
    fn open(&self, path: &Path, how: Open) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(how != Open::Read).mode(0o600);
        options.create(matches!(how, Open::Create | Open::OpenOrCreate)).truncate(how == Open::Create);
        options.open(path).map(|file| File::new(OpenFile(file)))
    }

    fn facts(&self, path: &Path) -> io::Result<Facts> {
        fs::metadata(path).map(|found| facts_of(&found))
    }

    fn read_at_most(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    }

    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        fs::File::open(folder)?.sync_all()
    }
}

impl Handle for OpenFile {
    fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(room, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn facts(&self) -> io::Result<Facts> {
        self.0.metadata().map(|found| facts_of(&found))
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
