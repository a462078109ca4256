//! A disk in memory that loses, tears and reorders at a power loss whatever was not synced.
//!
//! ```text
//!   what processes see   names -> files -> bytes                      read, listed, locked
//!   what is certain      names as of the sync of their folder, bytes as of the sync of their file
//!   in between           changes of names and writes, each of which a power loss keeps, tears or drops
//! ```
//!
//! Of each write that was not synced a power loss leaves nothing, a beginning, an end, zeros in its place, or all; of each change of a
//! name nothing or all, in whatever combination. A sync that is refused leaves its writes in any such state, and no later sync makes up
//! for them, as kernels do it. A write that is refused may have written a beginning; any other refused operation did nothing, but that a
//! refused sync of a folder has made some of its names durable. A file's number is given to the next one once nobody has it open.
//!
//! A [`VolatileDisk`] is one process's view: it can be killed alone ([`VolatileDisk::kill_after`]), which keeps what is seen, and the
//! next process gets a view of its own ([`VolatileDisk::next_process`]). What the disk decides freely, the caller chooses.

use keepstep::env::disk::{Disk, Facts, File, Handle, Open};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

mod inode;
mod model;

pub use model::{Image, Left};

use inode::Write;
use model::{Entry, Model, Name, refusal};

struct Shared {
    model: Mutex<Model>,
    /// A sync that waits may go on.
    released: Condvar,
}

impl Shared {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Linux answers to a write to a file that is open for reading only, and to cutting one.
const EBADF: i32 = 9;
const EINVAL: i32 = 22;

/// See the module.
#[derive(Clone)]
pub struct VolatileDisk {
    shared: Arc<Shared>,
    process: u64,
}

impl fmt::Debug for VolatileDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "VolatileDisk of process {}", self.process)
    }
}

impl VolatileDisk {
    /// A disk on which these files are durable.
    #[must_use]
    pub fn new(image: &Image, choose: impl FnMut(u64) -> u64 + Send + 'static) -> VolatileDisk {
        let model = Model::new(image, Box::new(choose));
        VolatileDisk { shared: Arc::new(Shared { model: Mutex::new(model), released: Condvar::new() }), process: 0 }
    }

    /// The view of the next process: what the last one wrote is there, its locks are not.
    #[must_use]
    pub fn next_process(&self) -> VolatileDisk {
        self.shared.model().dead.insert(self.process);
        self.another_process()
    }

    /// The view of another process, beside this one.
    #[must_use]
    pub fn another_process(&self) -> VolatileDisk {
        let mut model = self.shared.model();
        let process = model.next_process;
        model.next_process += 1;
        VolatileDisk { shared: Arc::clone(&self.shared), process }
    }

    /// This process is killed now.
    pub fn kill(&self) {
        self.shared.model().dead.insert(self.process);
    }

    /// This process is killed before the operation that changes something after so many others.
    pub fn kill_after(&self, operations: u64) {
        self.shared.model().script.alive_for.insert(self.process, operations);
    }

    /// Whether this process was killed.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.shared.model().dead.contains(&self.process)
    }

    /// The power goes before the operation that changes something after so many others.
    pub fn cut_power_after(&self, operations: u64) {
        self.shared.model().script.power_for = Some(operations);
    }

    /// The power goes now, if it has not gone yet: what is left.
    #[must_use]
    pub fn cut_power(&self) -> Image {
        let mut model = self.shared.model();
        let image = match model.image.take() {
            Some(image) => image,
            None => model.lose(),
        };
        model.image = Some(image.clone());
        image
    }

    /// Whether the power has gone.
    #[must_use]
    pub fn has_no_power(&self) -> bool {
        self.shared.model().image.is_some()
    }

    /// The disk is read-only after so many more operations that change something; `None`: it takes changes again.
    pub fn read_only_after(&self, operations: Option<u64>) {
        let mut model = self.shared.model();
        (model.script.writable_for, model.script.is_read_only) = (operations, false);
    }

    /// Whether the disk has become read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shared.model().script.is_read_only
    }

    /// One operation that changes something of so many is refused from now on; 0: none.
    pub fn refuse_one_in(&self, operations: u64) {
        self.shared.model().script.refuse_one_in = operations;
    }

    /// The next sync of a file is refused.
    pub fn refuse_next_sync(&self) {
        self.shared.model().script.refuse_sync = true;
    }

    /// This file cannot be created: the disk is full.
    pub fn refuse_creating(&self, path: Option<&Path>) {
        self.shared.model().script.refuse_creating = path.map(Path::to_owned);
    }

    /// This file cannot be read.
    pub fn refuse_reading(&self, path: Option<&Path>) {
        self.shared.model().script.refuse_reading = path.map(Path::to_owned);
    }

    /// The disk is full after so many more bytes; `None`: there is space again.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.shared.model().script.space = bytes;
    }

    /// While true, syncs of files wait.
    pub fn hold_syncs(&self, hold: bool) {
        self.shared.model().script.holds_syncs = hold;
        self.shared.released.notify_all();
    }

    /// How many operations were refused at random.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.model().refused
    }

    /// How many operations that change something were asked for.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.shared.model().operations
    }

    /// How many syncs of files were asked for.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.shared.model().syncs
    }

    /// How many open files there are.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.shared.model().inodes.values().map(|inode| inode.handles.len()).sum()
    }

    /// A file of these bytes, in the place of whatever has its name, as another program would put it there. It is durable.
    ///
    /// # Panics
    /// If its folder does not exist.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut model = self.shared.model();
        assert!(path.parent().is_some_and(|folder| model.folder(folder).is_ok()), "{} has a folder", path.display());
        let key = model.make(path);
        model.pending.retain(|change| change.path() != path);
        model.durable_names.insert(path.to_owned(), Entry::File(key));
        if let Some(inode) = model.inodes.get_mut(&key) {
            inode.bytes = bytes.to_vec();
            inode.durable = bytes.to_vec();
        }
    }

    /// Removes a folder with all that is in it, or a file, as another program would. It is durable.
    pub fn remove_all(&self, path: &Path) {
        let mut model = self.shared.model();
        let stays = |other: &PathBuf| !other.starts_with(path);
        model.names.retain(|other, _| stays(other));
        model.durable_names.retain(|other, _| stays(other));
        model.pending.retain(|change| !change.path().starts_with(path));
    }
}

impl Disk for VolatileDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<File> {
        let mut guard = self.shared.model();
        let model = &mut *guard;
        model.is_on(self.process)?;
        let may_make = matches!(how, Open::Create | Open::OpenOrCreate);
        let known = match model.entry(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && may_make => None,
            other => Some(other?),
        };
        if how == Open::Create || may_make && known.is_none() {
            model.step(self.process)?;
            if model.script.refuse_creating.as_deref() == Some(path) {
                return Err(io::Error::from(ErrorKind::StorageFull));
            }
            model.may_refuse()?;
        }
        let key = match known {
            Some(Entry::Folder) => return Err(io::Error::from(ErrorKind::IsADirectory)),
            Some(Entry::File(key)) => key,
            None => {
                model.folder(path.parent().unwrap_or(path))?;
                model.make(path)
            }
        };
        let handle = model.next_handle;
        model.next_handle += 1;
        let operations = model.operations;
        let inode = model.file(key)?;
        if how == Open::Create {
            inode.change(Write::Length(0), operations);
        }
        inode.handles.insert(handle);
        let writable = how != Open::Read;
        Ok(File::new(OpenFile { disk: self.clone(), key, handle, path: path.to_owned(), writable }))
    }

    fn facts(&self, path: &Path) -> io::Result<Facts> {
        let model = self.shared.model();
        model.is_on(self.process)?;
        model.entry(path).map(|entry| model.facts(entry))
    }

    fn read_at_most(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, Open::Read)?;
        let mut bytes = vec![0; usize::try_from(file.facts()?.len.min(bytes_max)).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let model = self.shared.model();
        model.is_on(self.process)?;
        model.folder(folder)?;
        Ok(model.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        let mut model = self.shared.model();
        model.is_on(self.process)?;
        let mut missing = Vec::new();
        for path in folder.ancestors() {
            match model.entry(path) {
                Ok(Entry::Folder) => break,
                Ok(Entry::File(_)) if path == folder => return Err(io::Error::from(ErrorKind::AlreadyExists)),
                Ok(Entry::File(_)) => return Err(io::Error::from(ErrorKind::NotADirectory)),
                Err(_) => missing.push(path.to_owned()),
            }
        }
        while let Some(path) = missing.pop() {
            model.step(self.process)?;
            model.may_refuse()?;
            model.names.insert(path.clone(), Entry::Folder);
            model.pending.push(Name::Is(path, Entry::Folder));
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.shared.model();
        model.step(self.process)?;
        model.may_refuse()?;
        for path in [from, to] {
            model.folder(path.parent().unwrap_or(path))?;
        }
        let entry = model.entry(from)?;
        if entry == Entry::Folder {
            return Err(io::Error::new(ErrorKind::Unsupported, "a folder is not renamed here"));
        }
        if from != to && from.starts_with(to) {
            return Err(io::Error::from(ErrorKind::DirectoryNotEmpty));
        }
        if model.entry(to).is_ok_and(|there| there == Entry::Folder) {
            return Err(io::Error::from(ErrorKind::IsADirectory));
        }
        let change = Name::Moves(from.to_owned(), to.to_owned(), entry);
        change.apply(&mut model.names);
        model.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.shared.model();
        model.step(self.process)?;
        model.may_refuse()?;
        match model.entry(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(Entry::Folder) => Err(io::Error::from(ErrorKind::IsADirectory)),
            Ok(Entry::File(_)) => {
                model.names.remove(path);
                model.pending.push(Name::Goes(path.to_owned()));
                Ok(())
            }
        }
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut guard = self.shared.model();
        let model = &mut *guard;
        model.step(self.process)?;
        model.folder(folder)?;
        let refused = model.refuses();
        let (here, elsewhere): (Vec<Name>, Vec<Name>) =
            std::mem::take(&mut model.pending).into_iter().partition(|change| change.path().parent() == Some(folder));
        let made = if refused { model.below(here.len() as u64 + 1) } else { here.len() as u64 };
        model.pending = elsewhere;
        for (at, change) in here.into_iter().enumerate() {
            if (at as u64) < made { change.apply(&mut model.durable_names) } else { model.pending.push(change) }
        }
        if refused { Err(refusal()) } else { Ok(()) }
    }
}

/// An open file of a [`VolatileDisk`].
struct OpenFile {
    disk: VolatileDisk,
    key: u64,
    handle: u64,
    path: PathBuf,
    writable: bool,
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} opened as {}", self.path.display(), self.handle)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Ok(inode) = self.disk.shared.model().file(self.key) {
            inode.handles.remove(&self.handle);
            inode.locked_by.take_if(|(_, handle)| *handle == self.handle);
        }
    }
}

impl Handle for OpenFile {
    fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut model = self.disk.shared.model();
        model.is_on(self.disk.process)?;
        if model.script.refuse_reading.as_ref() == Some(&self.path) {
            return Err(refusal());
        }
        Ok(model.file(self.key)?.read(room, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        let mut model = self.disk.shared.model();
        let worked = model.is_on(self.disk.process).is_ok() && !model.script.is_read_only;
        let ended = model.step(self.disk.process);
        let refused = ended.is_ok() && model.refuses();
        let len = bytes.len() as u64;
        let written = match &ended {
            Ok(()) if refused => model.below(len + 1),
            Ok(()) => model.take_space(len),
            // Whatever ends in the middle of a write has written a part of it.
            Err(_) if worked && model.image.is_none() => len / 2,
            Err(_) => 0,
        };
        let part = bytes.get(..usize::try_from(written).unwrap_or(usize::MAX)).unwrap_or(bytes);
        let operations = model.operations;
        if !part.is_empty() {
            model.file(self.key)?.change(Write::Bytes(offset, part.to_vec()), operations);
        }
        ended?;
        match () {
            () if refused => Err(refusal()),
            () if written < len => Err(io::Error::from(ErrorKind::StorageFull)),
            () => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.disk.shared.model();
        guard.step(self.disk.process)?;
        guard.syncs += 1;
        while guard.script.holds_syncs {
            guard = self.disk.shared.released.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        let model = &mut *guard;
        let refused = std::mem::take(&mut model.script.refuse_sync) || model.refuses();
        let choose = &mut model.choose;
        if let Some(inode) = model.inodes.get_mut(&self.key) {
            inode.sync(refused.then_some(choose));
        }
        if refused { Err(refusal()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        let mut model = self.disk.shared.model();
        model.step(self.disk.process)?;
        model.may_refuse()?;
        let operations = model.operations;
        model.file(self.key)?.change(Write::Length(len), operations);
        Ok(())
    }

    fn facts(&self) -> io::Result<Facts> {
        let model = self.disk.shared.model();
        model.is_on(self.disk.process)?;
        Ok(model.facts(Entry::File(self.key)))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut guard = self.disk.shared.model();
        let model = &mut *guard;
        model.is_on(self.disk.process)?;
        let own = (self.disk.process, self.handle);
        let dead = &model.dead;
        let inode = model.inodes.get_mut(&self.key).ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        let is_free = inode.locked_by.is_none_or(|owner| owner == own || dead.contains(&owner.0));
        if is_free {
            inode.locked_by = Some(own);
        }
        Ok(is_free)
    }
}
