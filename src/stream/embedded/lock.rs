//! One writer at a time: a lock file whose content names who holds it.

use super::log::unavailable;
use crate::env::disk::{Disk, File, Identity, Open};
use crate::stream::StreamError;
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
    pub fn acquire(disk: &dyn Disk, dir: &Path, holder: &str) -> Result<OwnerLock, StreamError> {
        let path = dir.join(NAME);
        let failed = |e: std::io::Error| unavailable(&path, &e);
        let file = disk.open(&path, Open::OpenOrCreate).map_err(failed)?;
        if !file.try_lock().map_err(failed)? {
            let other = disk.read_to_string(&path).unwrap_or_default();
            let other = if other.trim().is_empty() { "another process" } else { other.trim() };
            return Err(StreamError::Owned(format!("the stream in {} is written by {other}", dir.display())));
        }
        // The name is a courtesy: on a full disk the lock holds without it.
        let _ = file.set_len(0).and_then(|()| file.write_at(holder.as_bytes(), 0));
        let identity = file.facts().map_err(failed)?.identity;
        Ok(OwnerLock { path, identity, _file: file })
    }

    /// Whether the file is still in its place. A lock on a removed file excludes nobody.
    pub fn in_place(&self, disk: &dyn Disk) -> bool {
        disk.facts(&self.path).is_ok_and(|facts| facts.identity == self.identity)
    }
}
