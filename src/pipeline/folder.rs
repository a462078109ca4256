//! Small files in the folder of a pipeline, read and replaced on a thread for blocking work.

use crate::env::{disk, tasks};
use crate::store::{FailureKind, StoreError};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The content of this file; nothing if there is none.
///
/// # Errors
/// `Away` with the file's name and what the disk reports.
pub(super) async fn read(file: &Path) -> Result<Vec<u8>, StoreError> {
    blocking(file, disk::read_if_any).await
}

/// Replaces this file, durably. If the future is dropped, the file may be replaced all the same.
///
/// # Errors
/// As [`read`]; then the earlier file is still there.
pub(super) async fn replace(file: &Path, data: Vec<u8>) -> Result<(), StoreError> {
    blocking(file, move |path| disk::replace(path, &data)).await
}

async fn blocking<T: Send + 'static>(
    file: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    /// Two replacements at a time would write one temporary file: one may outlive the command that
    /// asked for it.
    static ONE: Mutex<()> = Mutex::new(());
    let path: PathBuf = file.to_owned();
    fn away<E: Error + Send + Sync + 'static>(file: &Path, error: E) -> StoreError {
        StoreError::away(FailureKind::Worker, format!("{}: {error}", file.display())).with_source(error)
    }
    let one_by_one = move || {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        work(&path)
    };
    let done = tasks::blocking(one_by_one).await;
    done.map_err(|error| away(file, error))?.map_err(|error| away(file, error))
}
