//! One file of the disk: what is seen of it, what is durable of it, and the writes in between.

use super::model::Choose;
use std::collections::{BTreeSet, VecDeque};

/// A change of a file that is not durable yet.
#[derive(Debug)]
pub(super) enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inode {
    /// What identifies it for whoever sees it.
    pub number: u64,
    /// What is seen.
    pub bytes: Vec<u8>,
    pub durable: Vec<u8>,
    pub pending: VecDeque<Write>,
    /// Number of the operation that changed it last.
    pub modified: u64,
    /// Who has it open.
    pub handles: BTreeSet<u64>,
    /// Process and handle.
    pub locked_by: Option<(u64, u64)>,
}

fn put(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(new.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(start..end) {
        place.copy_from_slice(new);
    }
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Write::Bytes(offset, new) => put(bytes, *offset, new),
            Write::Length(len) => bytes.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0),
        }
    }

    /// What may be left of it if nobody made it durable.
    fn tear(&self, choose: &mut Choose, bytes: &mut Vec<u8>) {
        let mut below = |bound: u64| usize::try_from(choose(bound)).unwrap_or(0);
        match (self, below(5)) {
            (_, 0) => {}
            (Write::Bytes(offset, new), 1) => {
                let len = below(new.len() as u64 + 1);
                put(bytes, *offset, new.get(..len).unwrap_or(new));
            }
            (Write::Bytes(offset, new), 2) => put(bytes, *offset, &vec![0; new.len()]),
            (Write::Bytes(offset, new), 3) => {
                // The end and not the beginning: pages are written in any order.
                let from = below(new.len() as u64 + 1);
                put(bytes, *offset + from as u64, new.get(from..).unwrap_or_default());
            }
            _ => self.apply(bytes),
        }
    }
}

impl Inode {
    pub(super) fn new(number: u64, modified: u64) -> Inode {
        Inode {
            number,
            bytes: Vec::new(),
            durable: Vec::new(),
            pending: VecDeque::new(),
            modified,
            handles: BTreeSet::new(),
            locked_by: None,
        }
    }

    pub(super) fn read(&self, room: &mut [u8], offset: u64) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.bytes.get(start..).unwrap_or_default();
        let len = found.len().min(room.len());
        if let (Some(room), Some(found)) = (room.get_mut(..len), found.get(..len)) {
            room.copy_from_slice(found);
        }
        len
    }

    pub(super) fn change(&mut self, write: Write, operation: u64) {
        write.apply(&mut self.bytes);
        self.pending.push_back(write);
        self.modified = operation;
    }

    /// Makes it durable; refused, in whatever state the choices leave it.
    pub(super) fn sync(&mut self, mut refused: Option<&mut Choose>) {
        for write in std::mem::take(&mut self.pending) {
            match &mut refused {
                Some(choose) => write.tear(choose, &mut self.durable),
                None => write.apply(&mut self.durable),
            }
        }
    }

    /// What is left of it after a power loss.
    pub(super) fn lose(&self, choose: &mut Choose) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.pending.iter().for_each(|write| write.tear(choose, &mut bytes));
        bytes
    }
}
