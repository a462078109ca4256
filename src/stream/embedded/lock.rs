//! One writer at a time: a lock file whose content names who holds it.

use super::disk::{self, Identity};
use super::log::unavailable;
use crate::stream::StreamError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Name of the lock file in the stream's directory.
pub(super) const NAME: &str = "lock";

/// The right to write a directory. It ends with the value, and with the process in any case.
pub(super) struct OwnerLock {
    path: PathBuf,
    identity: Identity,
    /// The lock belongs to the open file.
    _file: File,
}

impl OwnerLock {
    /// Takes the lock, and writes `holder` into the file.
    ///
    /// # Errors
    /// [`StreamError::Owned`] with the holder's name if another has it.
    pub fn acquire(dir: &Path, holder: &str) -> Result<OwnerLock, StreamError> {
        let path = dir.join(NAME);
        let failed = |e: std::io::Error| unavailable(&path, &e);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let other = std::fs::read_to_string(&path).unwrap_or_default();
                let other = if other.trim().is_empty() { "another process" } else { other.trim() };
                return Err(StreamError::Owned(format!("the stream in {} is written by {other}", dir.display())));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The name is a courtesy: on a full disk the lock holds without it.
        let _ = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        let identity = disk::identity(&file).map_err(failed)?;
        Ok(OwnerLock { path, identity, _file: file })
    }

    /// Whether the file is still in its place. A lock on a removed file keeps nobody out.
    pub fn in_place(&self) -> bool {
        disk::identity_at(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}
