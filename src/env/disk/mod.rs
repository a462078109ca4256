//! Files and folders. A file is read and written at offsets, so that one that is open serves several at a time.
//!
//! ```text
//!   seam   what is asked of a file system: Disk, Handle        real   this machine's
//! ```
//!
//! Whatever is created is for this user alone (mode 0600). The functions here ask the disk of the thread on which they run: this
//! machine's, unless a simulator has [`install`]ed another one for that thread (and for work that it hands to
//! [`super::tasks::blocking`]). What has threads of its own takes its disk along ([`here`]).

mod real;
mod seam;

pub use seam::{Disk, Facts, File, Handle, Identity, Open};

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

static REAL: LazyLock<Arc<dyn Disk>> = LazyLock::new(|| Arc::new(real::Real));

thread_local! {
    static INSTALLED: RefCell<Option<Arc<dyn Disk>>> = const { RefCell::new(None) };
}

/// The disk of this machine.
#[must_use]
pub fn real() -> Arc<dyn Disk> {
    Arc::clone(&REAL)
}

/// The disk that was installed for this thread, if any.
#[must_use]
pub fn installed() -> Option<Arc<dyn Disk>> {
    INSTALLED.with_borrow(Clone::clone)
}

/// The disk of this thread.
#[must_use]
pub fn here() -> Arc<dyn Disk> {
    installed().unwrap_or_else(real)
}

/// The thread's disk is the one before again when this is dropped, on the same thread.
#[derive(Debug)]
#[must_use]
pub struct Installed {
    before: Option<Arc<dyn Disk>>,
    /// It must not go to another thread.
    _thread: PhantomData<*const ()>,
}

/// Puts another disk in the place of this machine's, for this thread.
pub fn install(disk: Arc<dyn Disk>) -> Installed {
    Installed { before: INSTALLED.replace(Some(disk)), _thread: PhantomData }
}

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.set(self.before.take());
    }
}

/// What is known of the file or folder of this name; links are followed.
///
/// # Errors
/// There is none, or it may not be looked at.
pub fn facts(path: &Path) -> io::Result<Facts> {
    here().facts(path)
}

/// Whether there is something of this name that may be looked at.
#[must_use]
pub fn exists(path: &Path) -> bool {
    here().exists(path)
}

/// Whether there is a folder of this name that may be looked at.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    facts(path).is_ok_and(|facts| facts.is_dir)
}

/// The whole content of a file.
///
/// # Errors
/// There is none, or it may not be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    here().read(path)
}

/// The beginning of a file.
///
/// # Errors
/// As [`read`].
pub fn read_at_most(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    here().read_at_most(path, u64::try_from(bytes_max).unwrap_or(u64::MAX))
}

/// The whole content of a file; nothing if there is none.
///
/// # Errors
/// It may not be read.
pub fn read_if_any(path: &Path) -> io::Result<Vec<u8>> {
    match read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// The whole content of a file, as text.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    here().read_to_string(path)
}

/// The paths of what is in a folder, sorted.
///
/// # Errors
/// There is none, or it may not be read.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    here().list(folder)
}

/// A fault that a simulator plants, to see whether it is found (`crate::failpoint`, which is above this room).
fn is_planted() -> bool {
    #[cfg(feature = "failpoints")]
    let is_planted =
        super::world::here().is_some_and(|world| world.has_planted("only the innermost folder is durable"));
    #[cfg(not(feature = "failpoints"))]
    let is_planted = false;
    is_planted
}

/// Makes this folder if there is none, with those above it that are missing, all of them durable: a file in it is lost with any name
/// above it that a power loss takes. A name that is there may be one that nobody has made durable yet, if whoever made it ended just then:
/// that of the folder is synced in any case, and the next one above where this user may.
///
/// # Errors
/// What the disk reports.
pub fn make_folder(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let named: Vec<&Path> = folder.ancestors().filter(|named| !named.as_os_str().is_empty()).collect();
    let missing = named.iter().take_while(|named| !disk.exists(named)).count();
    disk.create_dir_all(folder)?;
    for (at, named) in named.iter().enumerate() {
        let Some(above) = named.parent() else { break };
        // That of a relative path with one name is where the process is.
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let synced = match at {
            1.. if is_planted() => break,
            at if at == 0 || at < missing => disk.sync_dir(above),
            // Perhaps another user's, or read-only: whoever made it made it durable.
            1 => disk.sync_dir(above).or(Ok(())),
            _ => break,
        };
        synced?;
    }
    Ok(())
}

/// Replaces the content of a file: a reader, and a crash of the process, see all of it or what was there before. What is written is
/// durable; after a power loss either is there.
///
/// # Errors
/// If it cannot be written; then it is as it was.
pub fn replace(file: &Path, data: &[u8]) -> io::Result<()> {
    let (disk, temporary) = (here(), file.with_extension("new"));
    let fresh = disk.open(&temporary, Open::Create)?;
    fresh.write_at(data, 0)?;
    fresh.sync()?;
    disk.rename(&temporary, file)
}
