//! Files of the log that are read: open while they are used, and a bounded number of them for a
//! while after that. A long history has more segments than a process may have files open, and a
//! worker may have many streams.

use crate::env::{
    disk::{self, Disk, File, Identity, Open},
    lock,
};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Weak};

/// Files that stay open though nobody uses them just now, of all streams of the process: a look at
/// the newest record of a pair costs one call where its file is among them, and three where not. A
/// small part of the 1,024 that a process usually may have.
pub(super) const KEPT: usize = 64;

type LatelyUsed = Mutex<VecDeque<Arc<File>>>;

static OF_THIS_PROCESS: LazyLock<Arc<LatelyUsed>> = LazyLock::new(Arc::default);

/// The disk on which a log is, and those of its files that stay open.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    lately_used: Arc<LatelyUsed>,
}

impl Files {
    /// On the disk of this thread. All streams on the disk of this machine share what stays open.
    pub fn here() -> Files {
        match disk::installed() {
            Some(disk) => Files::on(disk),
            None => Files { disk: disk::real(), lately_used: Arc::clone(&OF_THIS_PROCESS) },
        }
    }

    /// On this disk, which shares nothing with any other.
    pub fn on(disk: Arc<dyn Disk>) -> Files {
        Files { disk, lately_used: Arc::default() }
    }

    fn keep(&self, file: Arc<File>) {
        let mut kept = lock(&self.lately_used);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(file);
    }
}

/// A file of the log, by its identity, since another file may have its name later.
#[derive(Debug)]
pub(super) struct LogFile {
    files: Files,
    path: PathBuf,
    identity: Identity,
    open: Mutex<Weak<File>>,
}

impl LogFile {
    /// One that is open now, at this path or on its way there; until it is there, the caller holds
    /// it open.
    pub fn new(files: &Files, path: &Path, file: &Arc<File>) -> io::Result<LogFile> {
        files.keep(Arc::clone(file));
        let identity = file.facts()?.identity;
        Ok(LogFile { files: files.clone(), path: path.to_owned(), identity, open: Mutex::new(Arc::downgrade(file)) })
    }

    /// The disk on which it is.
    pub fn disk(&self) -> &dyn Disk {
        self.files.disk.as_ref()
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The file, for reading; for as long as somebody holds it open, the very one that is held.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is gone, or another one has its name; otherwise the error of
    /// the disk.
    pub fn get(&self) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let file = self.open(Open::Read)?;
        *open = Arc::downgrade(&file);
        self.files.keep(Arc::clone(&file));
        Ok(file)
    }

    /// The file, for reading and writing. Whoever writes it holds it open.
    ///
    /// # Errors
    /// As [`LogFile::get`].
    pub fn get_to_write(&self) -> io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        let file = self.open(Open::Write)?;
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    fn open(&self, how: Open) -> io::Result<Arc<File>> {
        let file = Arc::new(self.disk().open(&self.path, how)?);
        if file.facts()?.identity != self.identity {
            return Err(io::Error::new(ErrorKind::NotFound, "another file has its name"));
        }
        Ok(file)
    }
}
