//! What is on the disk, what of it is certain, and what is refused on purpose.

use super::inode::Inode;
use keepstep::env::disk::Facts;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A choice of the disk: a number below the given one.
pub(super) type Choose = Box<dyn FnMut(u64) -> u64 + Send>;

/// What a power loss left behind under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    Folder,
    File(Vec<u8>),
}

/// What is on a disk, by path.
pub type Image = BTreeMap<PathBuf, Left>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Folder,
    /// Its key in [`Model::inodes`], which no other file ever has.
    File(u64),
}

/// A change of a name that is not durable yet.
#[derive(Debug)]
pub(super) enum Name {
    Is(PathBuf, Entry),
    /// An entry of a folder names a file and not its old name: what moves is this file and no other.
    Moves(PathBuf, PathBuf, Entry),
    Goes(PathBuf),
}

impl Name {
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Name::Is(path, entry) => drop(names.insert(path.clone(), *entry)),
            Name::Goes(path) => drop(names.remove(path)),
            Name::Moves(from, to, entry) => {
                if names.get(from) == Some(entry) {
                    names.remove(from);
                }
                names.insert(to.clone(), *entry);
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        let (Name::Is(path, _) | Name::Moves(_, path, _) | Name::Goes(path)) = self;
        path
    }
}

/// What is refused on purpose.
#[derive(Default)]
pub(super) struct Script {
    /// Operations that change something until the power goes; `None`: it stays.
    pub(super) power_for: Option<u64>,
    /// By process: such operations until it is killed.
    pub(super) alive_for: BTreeMap<u64, u64>,
    /// Such operations until the disk is read-only, as a kernel makes it after an error; `None`: it takes changes.
    pub(super) writable_for: Option<u64>,
    pub(super) is_read_only: bool,
    /// Of how many operations that change something one is refused; 0: none.
    pub(super) refuse_one_in: u64,
    pub(super) refuse_sync: bool,
    pub(super) refuse_creating: Option<PathBuf>,
    pub(super) refuse_reading: Option<PathBuf>,
    /// Bytes that may still be written; `None`: as many as one likes.
    pub(super) space: Option<u64>,
    /// Syncs wait.
    pub(super) holds_syncs: bool,
}

pub(super) struct Model {
    pub(super) choose: Choose,
    pub(super) names: BTreeMap<PathBuf, Entry>,
    pub(super) durable_names: BTreeMap<PathBuf, Entry>,
    pub(super) pending: Vec<Name>,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) next_handle: u64,
    pub(super) next_process: u64,
    pub(super) script: Script,
    pub(super) dead: BTreeSet<u64>,
    /// What the power loss left, once there was one.
    pub(super) image: Option<Image>,
    pub(super) operations: u64,
    pub(super) refused: u64,
    pub(super) syncs: u64,
}

pub(super) fn refusal() -> io::Error {
    io::Error::other("I/O error")
}

pub(super) fn gone(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

impl Model {
    /// A disk on which these files are durable.
    pub(super) fn new(image: &Image, choose: Choose) -> Model {
        let mut model = Model {
            choose,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            next_handle: 0,
            next_process: 1,
            script: Script::default(),
            dead: BTreeSet::new(),
            image: None,
            operations: 0,
            refused: 0,
            syncs: 0,
        };
        for (path, left) in image {
            match left {
                Left::Folder => drop(model.names.insert(path.clone(), Entry::Folder)),
                Left::File(bytes) => {
                    let key = model.make(path);
                    if let Some(inode) = model.inodes.get_mut(&key) {
                        inode.bytes.clone_from(bytes);
                        inode.durable.clone_from(bytes);
                        inode.pending.clear();
                    }
                }
            }
        }
        model.pending.clear();
        model.durable_names = model.names.clone();
        model
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.choose)(bound.max(1)) % bound.max(1)
    }

    /// Whether the disk refuses what it is asked just now.
    pub(super) fn refuses(&mut self) -> bool {
        let one_in = self.script.refuse_one_in;
        let refused = one_in > 0 && self.below(one_in) == 0;
        self.refused += u64::from(refused);
        refused
    }

    pub(super) fn may_refuse(&mut self) -> io::Result<()> {
        if self.refuses() { Err(refusal()) } else { Ok(()) }
    }

    /// What is there after a power loss now.
    pub(super) fn lose(&mut self) -> Image {
        let mut names = self.durable_names.clone();
        for change in std::mem::take(&mut self.pending) {
            if self.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        let mut image = Image::new();
        // A folder sorts before what is in it, which goes with it.
        for (path, entry) in names {
            let is_reachable =
                path.parent().is_none_or(|parent| is_root(parent) || image.get(parent) == Some(&Left::Folder));
            if !is_reachable {
                continue;
            }
            let left = match entry {
                Entry::Folder => Left::Folder,
                Entry::File(key) => {
                    let choose = &mut self.choose;
                    Left::File(self.inodes.get(&key).map(|inode| inode.lose(choose)).unwrap_or_default())
                }
            };
            image.insert(path, left);
        }
        image
    }

    /// Begins an operation that changes something.
    pub(super) fn step(&mut self, process: u64) -> io::Result<()> {
        self.operations += 1;
        if self.script.power_for == Some(0) && self.image.is_none() {
            self.image = Some(self.lose());
        }
        self.script.power_for = self.script.power_for.map(|left| left.saturating_sub(1));
        self.script.is_read_only |= self.script.writable_for == Some(0);
        self.script.writable_for = self.script.writable_for.map(|left| left.saturating_sub(1));
        match self.script.alive_for.get_mut(&process) {
            Some(0) => drop(self.dead.insert(process)),
            Some(left) => *left -= 1,
            None => {}
        }
        self.is_on(process)?;
        if self.script.is_read_only { Err(io::Error::from(ErrorKind::ReadOnlyFilesystem)) } else { Ok(()) }
    }

    pub(super) fn is_on(&self, process: u64) -> io::Result<()> {
        match () {
            () if self.image.is_some() => Err(gone("there is no power")),
            () if self.dead.contains(&process) => Err(gone("the process was killed")),
            () => Ok(()),
        }
    }

    pub(super) fn entry(&self, path: &Path) -> io::Result<Entry> {
        if is_root(path) {
            return Ok(Entry::Folder);
        }
        match self.names.get(path) {
            Some(entry) => Ok(*entry),
            None if path.ancestors().skip(1).any(|above| matches!(self.names.get(above), Some(Entry::File(_)))) => {
                Err(io::Error::from(ErrorKind::NotADirectory))
            }
            None => Err(io::Error::from(ErrorKind::NotFound)),
        }
    }

    pub(super) fn folder(&self, path: &Path) -> io::Result<()> {
        match self.entry(path)? {
            Entry::Folder => Ok(()),
            Entry::File(_) => Err(io::Error::from(ErrorKind::NotADirectory)),
        }
    }

    pub(super) fn file(&mut self, key: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&key).ok_or_else(|| io::Error::from(ErrorKind::NotFound))
    }

    /// Makes an empty file of this name.
    pub(super) fn make(&mut self, path: &Path) -> u64 {
        let seen: BTreeSet<u64> = self.names.values().filter_map(|entry| self.number_of(*entry)).collect();
        let open = self.inodes.values().filter(|inode| !inode.handles.is_empty()).map(|inode| inode.number);
        let taken: BTreeSet<u64> = seen.into_iter().chain(open).collect();
        let number = (1..).find(|number| !taken.contains(number)).unwrap_or_default();
        let key = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(key, Inode::new(number, self.operations));
        self.names.insert(path.to_owned(), Entry::File(key));
        self.pending.push(Name::Is(path.to_owned(), Entry::File(key)));
        key
    }

    pub(super) fn number_of(&self, entry: Entry) -> Option<u64> {
        match entry {
            Entry::Folder => None,
            Entry::File(key) => self.inodes.get(&key).map(|inode| inode.number),
        }
    }

    pub(super) fn facts(&self, entry: Entry) -> Facts {
        match entry {
            Entry::Folder => Facts { identity: (1, 0), len: 0, modified: None, is_dir: true, is_file: false },
            Entry::File(key) => {
                let inode = self.inodes.get(&key);
                // Several changes in a row have the same time, as the clocks of file systems are.
                let ticks = inode.map_or(0, |inode| inode.modified / 4);
                Facts {
                    identity: (1, inode.map_or(0, |inode| inode.number)),
                    len: inode.map_or(0, |inode| inode.bytes.len() as u64),
                    modified: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ticks)),
                    is_dir: false,
                    is_file: true,
                }
            }
        }
    }

    /// How many of these bytes there is space for.
    pub(super) fn take_space(&mut self, bytes: u64) -> u64 {
        let Some(space) = &mut self.script.space else { return bytes };
        let taken = bytes.min(*space);
        *space -= taken;
        taken
    }
}

pub(super) fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}
