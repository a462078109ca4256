//! A transaction: which of its writes an ensemble refuses, what the others do, and the zxid that it takes. The order of the checks is that
//! of the server (`PrepRequestProcessor`), since of two reasons a client is told the first.
//!
//! ```text
//!   tree.rs       the double: znodes by their paths, with data and ACLs       --+
//!                                                                               +--> transaction.rs
//!   tests/model   the checker: the znodes of one pipeline in a few bytes      --+
//! ```
//!
//! It is generic in the znodes, so that the checker explores the very functions that `tests/it/zookeeper_conformance.rs` compares with a real
//! server.

use super::rules::Kinder;
use super::wire::{Refusal, Write};

pub const READ: u8 = 1;
pub const WRITE: u8 = 2;
pub const CREATE: u8 = 4;
pub const DELETE: u8 = 8;
pub const ADMIN: u8 = 16;

/// When a znode was created and written, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp {
    pub czxid: i64,
    pub mzxid: i64,
    pub version: i32,
}

impl Stamp {
    /// Of a znode that this transaction creates.
    #[must_use]
    pub fn created(zxid: i64) -> Stamp {
        Stamp { czxid: zxid, mzxid: zxid, version: 0 }
    }

    /// Of the same znode, after this transaction has written this version of it.
    #[must_use]
    pub fn written(self, zxid: i64, version: i32) -> Stamp {
        Stamp { mzxid: zxid, version, ..self }
    }
}

/// What decides of a znode whether a write is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub version: i32,
    pub aversion: i32,
    /// The session of an ephemeral znode, else 0.
    pub owner: i64,
    /// So many children were ever created.
    pub creates: i32,
}

/// Znodes that transactions change.
pub trait Znodes {
    type Path: Clone;
    type Data: Clone;
    type Acl: Clone;
    /// Who a connection is.
    type Who: ?Sized;
    /// What a change replaced.
    type Before;

    fn parent(path: &Self::Path) -> Self::Path;

    /// The path of a sequential znode.
    fn numbered(path: &Self::Path, number: i32) -> Self::Path;

    /// Whether it cannot be deleted, whatever its children.
    fn is_reserved(path: &Self::Path) -> bool;

    /// The ACL as it is stored.
    ///
    /// # Errors
    /// It says nothing that a server understands.
    fn stored(acl: &Self::Acl, who: &Self::Who) -> Result<Self::Acl, Refusal>;

    /// `None`: it is not there.
    fn status(&self, path: &Self::Path) -> Option<Status>;

    /// Whether one of these rights to a znode is given to this connection.
    fn allows(&self, path: &Self::Path, permissions: u8, who: &Self::Who) -> bool;

    fn child_count(&self, path: &Self::Path) -> usize;

    /// Carries a change out that the leader has decided.
    fn apply(&mut self, change: &ChangeOf<Self>, zxid: i64, time_ms: i64) -> Self::Before;

    /// Takes a change back of a transaction of which a later one is refused.
    fn undo(&mut self, before: Self::Before);
}

/// A write to these znodes.
pub type WriteOf<Z> = Write<<Z as Znodes>::Path, <Z as Znodes>::Data, <Z as Znodes>::Acl>;
/// What a write does to them.
pub type ChangeOf<Z> = Change<<Z as Znodes>::Path, <Z as Znodes>::Data, <Z as Znodes>::Acl>;

/// What a transaction does to one znode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change<P, D, A> {
    Create { path: P, data: D, acl: A, owner: i64 },
    Set { path: P, data: D, version: i32 },
    SetAcl { path: P, acl: A, aversion: i32 },
    Delete { path: P },
}

impl<P, D, A> Change<P, D, A> {
    /// The znode.
    #[must_use]
    pub fn path(&self) -> &P {
        let (Change::Create { path, .. }
        | Change::Set { path, .. }
        | Change::SetAcl { path, .. }
        | Change::Delete { path }) = self;
        path
    }
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<C> {
    /// The first write that is refused.
    pub at: usize,
    pub refusal: Refusal,
    /// Only by a double that is too kind: what is done all the same.
    pub kept: Vec<C>,
}

/// The zxid of the newest transaction after one more: a refused one takes one as well.
#[must_use]
pub fn zxid_after(newest: i64, is_refused: bool, kinder: Option<Kinder>) -> i64 {
    if is_refused && kinder == Some(Kinder::RefusedIsFree) { newest } else { newest + 1 }
}

/// Carries writes out, all or none. `each` is called for each, with the znodes as it leaves them and with its change; a check has none.
///
/// # Errors
/// One is refused.
pub fn transact<Z: Znodes>(
    znodes: &mut Z,
    writes: &[WriteOf<Z>],
    (session, who): (i64, &Z::Who),
    (newest, time_ms): (i64, i64),
    kinder: Option<Kinder>,
    mut each: impl FnMut(&Z, Option<&ChangeOf<Z>>),
) -> Result<Vec<ChangeOf<Z>>, Refused<ChangeOf<Z>>> {
    let zxid = zxid_after(newest, false, kinder);
    let (mut changes, mut undo) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
    for (at, write) in writes.iter().enumerate() {
        match decide(znodes, write, session, who, kinder) {
            Ok(None) => each(znodes, None),
            Ok(Some(change)) => {
                undo.push(znodes.apply(&change, zxid, time_ms));
                each(znodes, Some(&change));
                changes.push(change);
            }
            Err(refusal) if kinder == Some(Kinder::MultiKeepsPart) => {
                return Err(Refused { at, refusal, kept: changes });
            }
            Err(refusal) => {
                undo.into_iter().rev().for_each(|before| znodes.undo(before));
                return Err(Refused { at, refusal, kept: Vec::new() });
            }
        }
    }
    Ok(changes)
}

fn there<Z: Znodes + ?Sized>(znodes: &Z, path: &Z::Path) -> Result<Status, Refusal> {
    znodes.status(path).ok_or(Refusal::NoNode)
}

fn may<Z: Znodes + ?Sized>(znodes: &Z, path: &Z::Path, permissions: u8, who: &Z::Who) -> Result<(), Refusal> {
    if znodes.allows(path, permissions, who) { Ok(()) } else { Err(Refusal::NoAuth) }
}

/// The version after this one, if it is the expected one.
fn next(version: i32, expected: i32) -> Result<i32, Refusal> {
    if expected != -1 && expected != version { Err(Refusal::BadVersion) } else { Ok(version.wrapping_add(1)) }
}

/// What this write does. `None`: nothing, it only checks.
fn decide<Z: Znodes>(
    znodes: &Z,
    write: &WriteOf<Z>,
    session: i64,
    who: &Z::Who,
    kinder: Option<Kinder>,
) -> Result<Option<ChangeOf<Z>>, Refusal> {
    match write {
        Write::Create { path, data, acl, ephemeral, sequential } => {
            let acl = Z::stored(acl, who)?;
            let parent_path = Z::parent(path);
            let parent = there(znodes, &parent_path)?;
            may(znodes, &parent_path, CREATE, who)?;
            let path = if *sequential {
                let number = if kinder == Some(Kinder::SequenceOfItsOwn) {
                    i32::try_from(znodes.child_count(&parent_path)).unwrap_or(i32::MAX)
                } else {
                    parent.creates
                };
                Z::numbered(path, number)
            } else {
                path.clone()
            };
            if znodes.status(&path).is_some() {
                return Err(Refusal::NodeExists);
            }
            if parent.owner != 0 && kinder != Some(Kinder::ChildrenOfEphemerals) {
                return Err(Refusal::NoChildrenForEphemerals);
            }
            let owner = if *ephemeral { session } else { 0 };
            Ok(Some(Change::Create { path, data: data.clone(), acl, owner }))
        }
        Write::Delete { path, version } => {
            if Z::is_reserved(path) {
                return Err(Refusal::BadArguments);
            }
            let parent = Z::parent(path);
            there(znodes, &parent)?;
            may(znodes, &parent, DELETE, who)?;
            next(there(znodes, path)?.version, *version)?;
            if znodes.child_count(path) > 0 {
                return Err(Refusal::NotEmpty);
            }
            Ok(Some(Change::Delete { path: path.clone() }))
        }
        Write::Set { path, data, version } => {
            let znode = there(znodes, path)?;
            may(znodes, path, WRITE, who)?;
            let version = next(znode.version, *version)?;
            Ok(Some(Change::Set { path: path.clone(), data: data.clone(), version }))
        }
        Write::SetAcl { path, acl, aversion } => {
            let acl = Z::stored(acl, who)?;
            let znode = there(znodes, path)?;
            may(znodes, path, ADMIN, who)?;
            let aversion = next(znode.aversion, *aversion)?;
            Ok(Some(Change::SetAcl { path: path.clone(), acl, aversion }))
        }
        Write::Check { path, version } => {
            let znode = there(znodes, path)?;
            may(znodes, path, READ, who)?;
            next(znode.version, *version)?;
            Ok(None)
        }
    }
}
