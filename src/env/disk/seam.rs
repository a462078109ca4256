//! The seam between the program and a file system: [`Disk`] is folders and names, [`Handle`] an open file.
//!
//! Names and bytes become durable apart from each other, as POSIX has it: bytes by the sync of their file, names by the sync of their
//! folder. Whoever keeps something durable asks for both, in the order that its own page explains.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Identifies a file whatever name it has, now or later: device and inode.
pub type Identity = (u64, u64);

/// What is known of a file or a folder without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// See there.
    pub identity: Identity,
    /// Bytes.
    pub len: u64,
    /// When it was last written, if the file system records it.
    pub modified: Option<SystemTime>,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Whether it is a file: no folder, pipe or device.
    pub is_file: bool,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// One that exists, for reading.
    Read,
    /// One that exists, for reading and writing.
    Write,
    /// Created, or emptied if it exists; for reading and writing.
    Create,
    /// Created if it does not exist; for reading and writing.
    OpenOrCreate,
}

/// A file system. An error is the file system's own; after one of `rename` or `remove` the names are as they were.
///
/// Implemented by the real one ([`super::real`]), and by doubles for tests and simulators.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file; one that is created has mode 0600.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none and `how` creates none.
    fn open(&self, path: &Path, how: Open) -> io::Result<File>;

    /// What is known of the file or folder of this name; links are followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    fn facts(&self, path: &Path) -> io::Result<Facts>;

    /// Reads at most so many bytes from the beginning, in one go: also a pipe, which has no offsets.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    fn read_at_most(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>>;

    /// The paths of what is in a folder, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Creates a folder, and those above it that are missing.
    ///
    /// # Errors
    /// What the disk reports.
    fn create_dir_all(&self, folder: &Path) -> io::Result<()>;

    /// Puts `from` in the place of `to`, atomically.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no `from`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; one that does not exist is no error.
    ///
    /// # Errors
    /// What the disk reports.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the disk reports; then some of them may be durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;
}

impl dyn Disk + '_ {
    /// The whole content of a file.
    ///
    /// # Errors
    /// As [`Disk::read_at_most`].
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_at_most(path, u64::MAX)
    }

    /// The whole content of a file, as text.
    ///
    /// # Errors
    /// As [`Disk::read_at_most`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
    pub fn read_to_string(&self, path: &Path) -> io::Result<String> {
        let invalid = |_| io::Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8");
        String::from_utf8(self.read(path)?).map_err(invalid)
    }

    /// Whether there is something of this name that may be looked at.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        self.facts(path).is_ok()
    }
}

/// An open file. It stays readable and writable whatever happens to its name.
pub trait Handle: fmt::Debug + Send + Sync {
    /// Reads from there on, as much as exists and has room; returns how many bytes. 0 is the end.
    ///
    /// # Errors
    /// What the disk reports.
    fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes there.
    ///
    /// # Errors
    /// What the disk reports; some of them may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// What the disk reports; then nothing is known of what was written since the last sync, and no later one makes up for it.
    fn sync(&self) -> io::Result<()>;

    /// Cuts it, or lengthens it with zeros.
    ///
    /// # Errors
    /// What the disk reports.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// What is known of it.
    ///
    /// # Errors
    /// What the disk reports.
    fn facts(&self) -> io::Result<Facts>;

    /// Takes the lock that belongs to the file, for as long as it is open; whether it was free.
    ///
    /// # Errors
    /// What the disk reports.
    fn try_lock(&self) -> io::Result<bool>;
}

/// A [`Handle`] of whichever disk. It is closed when this is dropped.
#[derive(Debug)]
pub struct File(Box<dyn Handle>);

impl File {
    /// For implementations of [`Disk`].
    #[must_use]
    pub fn new(handle: impl Handle + 'static) -> File {
        File(Box::new(handle))
    }

    /// Fills the room from there on.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] if there is less; as [`Handle::read_at`].
    pub fn read_exact_at(&self, room: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + filled as u64) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl std::ops::Deref for File {
    type Target = dyn Handle;

    fn deref(&self) -> &(dyn Handle + 'static) {
        self.0.as_ref()
    }
}
