//! Files of the log that are read: open while they are used, and a bounded number of them for a while after that. A long history
//! has more segments than a process may have files open, and a worker may have many streams.

use crate::env::disk::{File, Identity};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Files that stay open though nobody uses them just now, of all streams of the process: a look at the newest record of a pair costs
/// one call where its file is among them, and three where not. A small part of the 1,024 that a process usually may have.
pub(super) const KEPT: usize = 64;

static LATELY_USED: Mutex<VecDeque<Arc<File>>> = Mutex::new(VecDeque::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(file: Arc<File>) {
    let mut kept = lock(&LATELY_USED);
    if kept.len() >= KEPT {
        kept.pop_front();
    }
    kept.push_back(file);
}

/// A file of the log, by what tells it from any other that later has its name.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    identity: Identity,
    open: Mutex<Weak<File>>,
}

impl LogFile {
    /// One that is open now, at this path or on its way there; until it is there, the caller holds it open.
    pub fn new(path: &Path, file: &Arc<File>) -> io::Result<LogFile> {
        keep(Arc::clone(file));
        let identity = file.facts()?.identity;
        Ok(LogFile { path: path.to_owned(), identity, open: Mutex::new(Arc::downgrade(file)) })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The file, for reading; for as long as somebody holds it open, the very one that is held.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is gone, or another one has its name; what the disk says.
    pub fn get(&self) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let file = self.open(File::open)?;
        *open = Arc::downgrade(&file);
        keep(Arc::clone(&file));
        Ok(file)
    }

    /// The file, for reading and writing. Whoever writes it holds it open.
    ///
    /// # Errors
    /// As [`LogFile::get`].
    pub fn get_to_write(&self) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        let file = self.open(File::open_to_write)?;
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    fn open(&self, open: fn(&Path) -> io::Result<File>) -> io::Result<Arc<File>> {
        let file = Arc::new(open(&self.path)?);
        if file.facts()?.identity != self.identity {
            return Err(io::Error::new(ErrorKind::NotFound, "another file has its name"));
        }
        Ok(file)
    }
}
