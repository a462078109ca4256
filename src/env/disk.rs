//! Files and folders. A file is read and written at offsets, so that one that is open serves several at a time.
//!
//! What is made is for this user alone. What is durable is said by whoever asks for it: bytes by [`File::sync`], names by [`sync_dir`].
#![expect(clippy::disallowed_methods, reason = "here the disk is asked, and nowhere else")]

use std::fs::{self, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What tells one file from another that later has its name: device and inode.
pub type Identity = (u64, u64);

/// An open file.
#[derive(Debug)]
pub struct File(fs::File);

/// What is known of a file or a folder without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// See there.
    pub identity: Identity,
    /// Bytes.
    pub len: u64,
    /// When it was last written, if the file system tells.
    pub modified: Option<SystemTime>,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Whether it is a file: no folder, pipe or device.
    pub is_file: bool,
}

impl Facts {
    fn of(found: &Metadata) -> Facts {
        Facts {
            identity: (found.dev(), found.ino()),
            len: found.len(),
            modified: found.modified().ok(),
            is_dir: found.is_dir(),
            is_file: found.is_file(),
        }
    }
}

impl File {
    /// Opens it for reading.
    ///
    /// # Errors
    /// There is none, or it may not be read.
    pub fn open(path: &Path) -> io::Result<File> {
        fs::File::open(path).map(File)
    }

    /// Opens one that is there for reading and writing.
    ///
    /// # Errors
    /// There is none, or it may not be written.
    pub fn open_to_write(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path).map(File)
    }

    /// Makes it, empty even if there was one, for reading and writing.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path).map(File)
    }

    /// Opens it for reading and writing, and makes it if there is none.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open_or_create(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map(File)
    }

    /// Reads from there on, as much as is there and has room; tells how many bytes. 0 is the end.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(room, offset)
    }

    /// Fills the room from there on.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] if there is less; what the disk says.
    pub fn read_exact_at(&self, room: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(room, offset)
    }

    /// Writes all bytes there.
    ///
    /// # Errors
    /// What the disk says; some of them may be written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// What the disk says; then nothing is known of what was written since the last time.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Cuts it, or lengthens it with zeros.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// What is known of it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn facts(&self) -> io::Result<Facts> {
        self.0.metadata().map(|found| Facts::of(&found))
    }

    /// Another handle of the same file.
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn try_clone(&self) -> io::Result<File> {
        self.0.try_clone().map(File)
    }

    /// Takes the lock that belongs to it, for as long as it is open; whether it was free.
    ///
    /// # Errors
    /// What the disk says.
    pub fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// What is known of the file or folder of this name; links are followed.
///
/// # Errors
/// There is none, or it may not be looked at.
pub fn facts(path: &Path) -> io::Result<Facts> {
    fs::metadata(path).map(|found| Facts::of(&found))
}

/// Whether there is something of this name that may be looked at.
#[must_use]
pub fn exists(path: &Path) -> bool {
    facts(path).is_ok()
}

/// Whether there is a folder of this name that may be looked at.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    facts(path).is_ok_and(|facts| facts.is_dir)
}

/// What a file holds.
///
/// # Errors
/// There is none, or it may not be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// The beginning of what a file holds.
///
/// # Errors
/// As [`read`].
pub fn read_at_most(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a file holds; nothing if there is none.
///
/// # Errors
/// It may not be read.
pub fn read_if_any(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// What a file holds, as text.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// The paths of what is in a folder, sorted.
///
/// # Errors
/// There is none, or it may not be read.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Makes a folder, and those above it that are missing.
///
/// # Errors
/// What the disk says.
pub fn create_dir_all(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Puts `from` in the place of `to`.
///
/// # Errors
/// What the disk says; then both are as they were.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// What the disk says.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the disk says.
pub fn sync_dir(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Replaces what a file holds: a reader, and a crash of the process, see all of it or what was there before. What is written is durable;
/// after a power loss either is there.
///
/// # Errors
/// If it cannot be written; then it is as it was.
pub fn replace(file: &Path, data: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let fresh = File::create(&temporary)?;
    fresh.write_at(data, 0)?;
    fresh.sync()?;
    rename(&temporary, file)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_read_locked_and_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/file");
        assert!(File::open_to_write(&path).is_err() && !exists(&path));
        create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::open_or_create(&path).unwrap();
        file.write_at(b"abcdef", 0).unwrap();
        file.set_len(4).unwrap();
        file.sync().unwrap();
        let mut room = [0; 8];
        assert_eq!((file.read_at(&mut room, 1).unwrap(), room.get(..3)), (3, Some(b"bcd".as_slice())));
        assert!(file.read_exact_at(&mut room, 0).is_err());
        assert!(file.try_lock().unwrap());
        assert!(!File::open(&path).unwrap().try_lock().unwrap(), "somebody has it");
        let before = file.facts().unwrap();
        assert_eq!((before.len, before.is_dir, facts(&path).unwrap().identity), (4, false, before.identity));
        replace(&path, b"new").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "new");
        assert_eq!(read_at_most(&path, 2).unwrap(), b"ne");
        assert_ne!(facts(&path).unwrap().identity, before.identity, "another file has its name");
        sync_dir(path.parent().unwrap()).unwrap();
        assert_eq!(list(place.path()).unwrap(), [place.path().join("a")]);
        assert!(is_dir(place.path()) && !is_dir(&path));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!exists(&path));
    }
}
