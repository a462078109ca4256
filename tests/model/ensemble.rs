//! The znodes of the pipeline in a few bytes. What a transaction does to them is decided by the rules of the double
//! (`keepstep_doubles::zookeeper::transaction`); here is only how they are read and written.
//!
//! Names, ACLs and parents are not modelled: every znode has a parent that is there, no children, and everybody has every right.

use crate::world::{Content, Ensemble, SLOTS, Slot, Zn};
use keepstep_doubles::zookeeper::Refusal;
use keepstep_doubles::zookeeper::transaction::{
    self, Change, ChangeOf, Refused, Stamp, Status, WriteOf, Znodes, transact,
};

/// A znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Above all others.
    Root,
    Epoch,
    Lineage,
    Slot(usize),
    Pair,
}

/// What a znode holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Epoch(u8),
    Lineage {
        id: u8,
        since: u8,
    },
    /// Without what the transaction gives: version and zxid.
    Slot(Slot),
    Pair(Content),
}

pub type Write = WriteOf<Ensemble>;

/// A version that is not compared.
pub const ANY: i32 = -1;

pub fn check(path: Path, version: u8) -> Write {
    Write::Check { path, version: i32::from(version) }
}

pub fn set(path: Path, data: Value, version: i32) -> Write {
    Write::Set { path, data, version }
}

pub fn create(content: Content) -> Write {
    Write::Create { path: Path::Pair, data: Value::Pair(content), acl: (), ephemeral: false, sequential: false }
}

pub fn delete(version: i32) -> Write {
    Write::Delete { path: Path::Pair, version }
}

fn small(number: impl TryInto<u8>) -> u8 {
    number.try_into().unwrap_or_else(|_| panic!("numbers of the model are small"))
}

impl Zn {
    fn stamp(&self) -> Stamp {
        Stamp { czxid: i64::from(self.czxid), mzxid: i64::from(self.mzxid), version: i32::from(self.version) }
    }

    fn stamped(is: Content, stamp: Stamp) -> Zn {
        Zn { is, czxid: small(stamp.czxid), mzxid: small(stamp.mzxid), version: small(stamp.version) }
    }
}

impl Znodes for Ensemble {
    type Path = Path;
    type Data = Value;
    type Acl = ();
    type Who = ();
    type Before = Ensemble;

    fn parent(_: &Path) -> Path {
        Path::Root
    }

    fn numbered(path: &Path, _: i32) -> Path {
        *path
    }

    fn is_reserved(path: &Path) -> bool {
        *path == Path::Root
    }

    fn stored((): &(), (): &()) -> Result<(), Refusal> {
        Ok(())
    }

    fn status(&self, path: &Path) -> Option<Status> {
        let version = match *path {
            Path::Root => 0,
            Path::Epoch => self.fence,
            Path::Lineage => self.watermark,
            Path::Slot(slot) => self.slots[slot].version,
            Path::Pair if self.znode.is.value == 0 => return None,
            Path::Pair => self.znode.version,
        };
        Some(Status { version: i32::from(version), aversion: 0, owner: 0, creates: 0 })
    }

    fn allows(&self, _: &Path, _: u8, (): &()) -> bool {
        true
    }

    fn child_count(&self, path: &Path) -> usize {
        if *path == Path::Root { 2 + SLOTS } else { 0 }
    }

    fn apply(&mut self, change: &ChangeOf<Ensemble>, zxid: i64, _: i64) -> Ensemble {
        let before = *self;
        match *change {
            Change::Create { path: Path::Pair, data: Value::Pair(is), .. } => {
                self.znode = Zn::stamped(is, Stamp::created(zxid));
            }
            Change::Set { path: Path::Pair, data: Value::Pair(is), version } => {
                self.znode = Zn::stamped(is, self.znode.stamp().written(zxid, version));
            }
            // Of one that is gone its parent's pzxid tells when it was deleted.
            Change::Delete { path: Path::Pair } => {
                let is = Content { value: 0, ..self.znode.is };
                self.znode = Zn { is, mzxid: small(zxid), ..Zn::default() };
            }
            Change::Set { path: Path::Epoch, data: Value::Epoch(epoch), version } => {
                (self.epoch, self.fence) = (epoch, small(version));
            }
            Change::Set { path: Path::Lineage, data: Value::Lineage { id, since }, version } => {
                (self.lineage, self.since, self.watermark) = (id, since, small(version));
            }
            Change::Set { path: Path::Slot(at), data: Value::Slot(slot), version } => {
                self.slots[at] = Slot { version: small(version), mzxid: small(zxid), ..slot };
            }
            ref other => unreachable!("{other:?} is nothing that is written here"),
        }
        before
    }

    fn undo(&mut self, before: Ensemble) {
        *self = before;
    }
}

impl Ensemble {
    /// A transaction, all or nothing; either way it takes a zxid.
    ///
    /// # Errors
    /// Which of its writes is refused.
    pub fn transact(&mut self, writes: &[Write]) -> Result<(), Path> {
        let newest = i64::from(self.zxid);
        let done = transact(self, writes, (0, &()), (newest, 0), None, |_, _| ());
        self.zxid = small(transaction::zxid_after(newest, done.is_err(), None));
        done.map(|_| ()).map_err(|Refused { at, .. }| match writes[at] {
            Write::Create { path, .. }
            | Write::Set { path, .. }
            | Write::SetAcl { path, .. }
            | Write::Delete { path, .. }
            | Write::Check { path, .. } => path,
        })
    }
}
