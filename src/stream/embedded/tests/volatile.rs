//! A disk that loses, tears and reorders at a crash whatever was not synced.
//!
//! The real directory is what the running process sees. Beside it stands what a crash leaves for certain: the bytes of each file as of
//! its last sync, and the names as of the last sync of the directory. Of everything since, a crash keeps any part: of each write nothing,
//! a beginning, zeros in its place, or all; of each change of a name nothing or all, in whatever combination. A sync that is refused
//! leaves its writes in any such state, and no later sync makes up for them, as kernels do it. A write that is refused may have written a
//! beginning; any other refused operation did nothing, but that a refused sync of the directory has made some of the names durable.

use super::*;
use crate::env::Map;
use crate::env::disk::Identity;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::MutexGuard;

/// A change of a file that is not durable yet.
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Write>,
    /// Keeps the number from being given to another file.
    _file: Option<File>,
}

/// A change of a name that is not durable yet.
enum Name {
    Is(String, Identity),
    /// An entry of a directory names a file and not its old name: what moves is this file and no other.
    Moves(String, String, Identity),
    Goes(String),
}

impl Name {
    fn apply(&self, names: &mut BTreeMap<String, Identity>) {
        match self {
            Name::Is(name, id) => drop(names.insert(name.clone(), *id)),
            Name::Goes(name) => drop(names.remove(name)),
            Name::Moves(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
        }
    }
}

struct Model {
    rng: Rng,
    inodes: Map<Identity, Inode>,
    names: BTreeMap<String, Identity>,
    pending: Vec<Name>,
    /// Operations until the crash; `None`: none is near.
    left: Option<u32>,
    /// Of how many operations one is refused; 0: none.
    refuse_one_in: u32,
    refused: u64,
    /// What the crash left, once there was one.
    image: Option<BTreeMap<String, Vec<u8>>>,
    operations: u64,
}

pub(super) struct Volatile(Mutex<Model>);

fn put(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + new.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes.get_mut(start..end).unwrap().copy_from_slice(new);
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Write::Bytes(offset, new) => put(bytes, *offset, new),
            Write::Length(len) => bytes.resize(*len as usize, 0),
        }
    }

    /// What may be left of it if nobody made it durable.
    fn tear(&self, rng: &mut Rng, bytes: &mut Vec<u8>) {
        match (self, rng.u32(..5)) {
            (_, 0) => {}
            (Write::Bytes(offset, new), 1) => put(bytes, *offset, new.get(..rng.usize(..=new.len())).unwrap()),
            (Write::Bytes(offset, new), 2) => put(bytes, *offset, &vec![0; new.len()]),
            (Write::Bytes(offset, new), 3) => {
                // The end and not the beginning: pages are written in any order.
                let from = rng.usize(..=new.len());
                put(bytes, *offset + from as u64, new.get(from..).unwrap());
            }
            _ => self.apply(bytes),
        }
    }
}

impl Model {
    fn inode(&mut self, file: &File) -> &mut Inode {
        let id = file.facts().unwrap().identity;
        self.inodes.entry(id).or_insert_with(|| Inode { _file: file.try_clone().ok(), ..Inode::default() })
    }

    /// Whether the disk refuses what it is asked just now.
    fn refuses(&mut self) -> bool {
        let refused = self.refuse_one_in > 0 && self.rng.u32(..self.refuse_one_in) == 0;
        self.refused += u64::from(refused);
        refused
    }

    /// Fails if the disk refuses what it is asked just now.
    fn may_refuse(&mut self) -> io::Result<()> {
        if self.refuses() { Err(refusal()) } else { Ok(()) }
    }

    /// What is there after a power loss now.
    fn lose(&mut self) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.names.clone();
        for change in &self.pending {
            if self.rng.bool() {
                continue;
            }
            change.apply(&mut names);
        }
        let mut image = BTreeMap::new();
        for (name, id) in names {
            let mut bytes = Vec::new();
            if let Some(inode) = self.inodes.get(&id) {
                bytes.clone_from(&inode.durable);
                inode.pending.iter().for_each(|write| write.tear(&mut self.rng, &mut bytes));
            }
            image.insert(name, bytes);
        }
        image
    }
}

fn refusal() -> io::Error {
    io::Error::other("I/O error")
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Volatile {
    /// A disk on which these files are durable; `dir` is where they are.
    pub fn new(dir: &Path, files: &BTreeMap<String, Vec<u8>>, rng: Rng) -> Volatile {
        std::fs::create_dir_all(dir).unwrap();
        let mut inodes = Map::default();
        let mut names = BTreeMap::new();
        for (name, bytes) in files {
            std::fs::write(dir.join(name), bytes).unwrap();
            let file = File::open(&dir.join(name)).unwrap();
            let id = file.facts().unwrap().identity;
            inodes.insert(id, Inode { durable: bytes.clone(), pending: Vec::new(), _file: Some(file) });
            names.insert(name.clone(), id);
        }
        Volatile(Mutex::new(Model {
            rng,
            inodes,
            names,
            pending: Vec::new(),
            left: None,
            refuse_one_in: 0,
            refused: 0,
            image: None,
            operations: 0,
        }))
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap()
    }

    /// The power goes before the operation after so many others.
    pub fn crash_after(&self, operations: u32) {
        self.model().left = Some(operations);
    }

    /// The power goes now, if it has not gone yet: what is left.
    pub fn crash(&self) -> BTreeMap<String, Vec<u8>> {
        let mut model = self.model();
        let image = match model.image.take() {
            Some(image) => image,
            None => model.lose(),
        };
        model.image = Some(image.clone());
        image
    }

    pub fn has_crashed(&self) -> bool {
        self.model().image.is_some()
    }

    /// One operation of so many is refused from now on; 0: none.
    pub fn refuse_one_in(&self, operations: u32) {
        self.model().refuse_one_in = operations;
    }

    /// How much it refused.
    pub fn refused(&self) -> u64 {
        self.model().refused
    }

    /// How much was asked of it.
    pub fn operations(&self) -> u64 {
        self.model().operations
    }

    /// Begins an operation, which fails if there is no power any more.
    fn step(&self) -> io::Result<MutexGuard<'_, Model>> {
        let mut model = self.model();
        model.operations += 1;
        if model.left == Some(0) && model.image.is_none() {
            model.image = Some(model.lose());
        }
        model.left = model.left.map(|left| left.saturating_sub(1));
        if model.image.is_some() { Err(io::Error::other("there is no power")) } else { Ok(model) }
    }
}

impl Disk for Volatile {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut model = self.step()?;
        model.may_refuse()?;
        let is_new = !path.exists();
        let file = RealDisk.create(path)?;
        model.inode(&file).pending.push(Write::Length(0));
        if is_new {
            model.pending.push(Name::Is(name_of(path), file.facts()?.identity));
        }
        Ok(file)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut model = self.step()?;
        let refused = model.refuses();
        let written = if refused { model.rng.usize(..=bytes.len()) } else { bytes.len() };
        let bytes = bytes.get(..written).unwrap();
        model.inode(file).pending.push(Write::Bytes(offset, bytes.to_vec()));
        RealDisk.write_at(file, bytes, offset)?;
        if refused { Err(refusal()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut guard = self.step()?;
        let model = &mut *guard;
        let refused = model.refuses();
        let mut rng = model.rng.fork();
        let inode = model.inode(file);
        for write in std::mem::take(&mut inode.pending) {
            if refused {
                write.tear(&mut rng, &mut inode.durable);
            } else {
                write.apply(&mut inode.durable);
            }
        }
        if refused { Err(refusal()) } else { Ok(()) }
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        let mut model = self.step()?;
        model.may_refuse()?;
        model.inode(file).pending.push(Write::Length(len));
        RealDisk.truncate(file, len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.step()?;
        model.may_refuse()?;
        model.pending.push(Name::Moves(name_of(from), name_of(to), disk::facts(from)?.identity));
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.step()?;
        model.may_refuse()?;
        model.pending.push(Name::Goes(name_of(path)));
        RealDisk.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut guard = self.step()?;
        let model = &mut *guard;
        let refused = model.refuses();
        let made = if refused { model.rng.usize(..=model.pending.len()) } else { model.pending.len() };
        for change in model.pending.drain(..made) {
            change.apply(&mut model.names);
        }
        if refused { Err(refusal()) } else { Ok(()) }
    }
}
