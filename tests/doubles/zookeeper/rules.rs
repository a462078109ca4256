//! What a leader decides: whether a write may be carried out on the znodes as they are, and what it then does to them. The order of the
//! checks is that of the server (`PrepRequestProcessor`), since of two reasons a client is told the first.

use super::tree::{Change, Right, Tree, Znode, split};
use super::wire::{Read, Refusal, Reply, Write};
use std::sync::Arc;

const READ: u8 = 1;
const WRITE: u8 = 2;
const CREATE: u8 = 4;
const DELETE: u8 = 8;
const ADMIN: u8 = 16;

/// Where the double is kinder than a server, for tests that must notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kinder {
    /// A persistent watch survives a reconnect.
    WatchSurvivesReconnect,
    /// A request that is too large gets an error as its answer.
    AnswersOversized,
    /// Ephemeral znodes outlive their session.
    KeepsEphemerals,
    /// A multi gives one event.
    OneEventOfAMulti,
    /// A refused transaction takes no zxid.
    RefusedIsFree,
    /// A multi keeps what came before the member that was refused.
    MultiKeepsPart,
    /// An ephemeral znode may have children.
    ChildrenOfEphemerals,
    /// Sequence numbers are not used up by znodes with other names.
    SequenceOfItsOwn,
}

/// Who a connection is, besides everybody: scheme and id.
pub type Identity = (String, String);

/// Whether one of these rights is given to this connection.
pub fn allows(acl: &[Right], permissions: u8, who: &[Identity]) -> bool {
    acl.is_empty()
        || acl.iter().filter(|right| right.permissions & permissions != 0).any(|right| {
            (right.scheme == "world" && right.id == "anyone")
                || who.iter().any(|(scheme, id)| *scheme == right.scheme && *id == right.id)
        })
}

/// May it be seen, with its events.
pub fn is_readable(znode: &[Right], who: &[Identity]) -> bool {
    allows(znode, READ, who)
}

fn may(znode: &Znode, permissions: u8, who: &[Identity]) -> Result<(), Refusal> {
    if allows(&znode.acl, permissions, who) { Ok(()) } else { Err(Refusal::NoAuth) }
}

fn there<'a>(tree: &'a Tree, path: &str) -> Result<&'a Znode, Refusal> {
    tree.get(path).ok_or(Refusal::NoNode)
}

/// The version after this one, if it is the expected one.
fn next(version: i32, expected: i32) -> Result<i32, Refusal> {
    if expected != -1 && expected != version { Err(Refusal::BadVersion) } else { Ok(version.wrapping_add(1)) }
}

/// An ACL as it is stored: `auth` becomes the identities of who gives it.
fn stored(acl: &[Right], who: &[Identity]) -> Result<Arc<[Right]>, Refusal> {
    let mut stored: Vec<Right> = Vec::new();
    for right in acl {
        match right.scheme.as_str() {
            "world" if right.id == "anyone" => stored.push(right.clone()),
            "digest" if right.id.split(':').count() == 2 => stored.push(right.clone()),
            "auth" if !who.is_empty() => stored.extend(who.iter().map(|(scheme, id)| Right {
                permissions: right.permissions,
                scheme: scheme.clone(),
                id: id.clone(),
            })),
            _ => return Err(Refusal::InvalidAcl),
        }
    }
    let mut kept: Vec<Right> = Vec::new();
    for right in stored {
        if !kept.contains(&right) {
            kept.push(right);
        }
    }
    if kept.is_empty() { Err(Refusal::InvalidAcl) } else { Ok(kept.into()) }
}

/// What this write does. `None`: nothing, it only checks.
///
/// # Errors
/// It is refused.
pub fn decide(
    tree: &Tree,
    write: &Write,
    session: i64,
    who: &[Identity],
    kinder: Option<Kinder>,
) -> Result<Option<Change>, Refusal> {
    match write {
        Write::Create { path, data, acl, ephemeral, sequential } => {
            let acl = stored(acl, who)?;
            let (parent_path, _) = split(path);
            let parent = there(tree, parent_path)?;
            may(parent, CREATE, who)?;
            let path = if *sequential {
                let number = if kinder == Some(Kinder::SequenceOfItsOwn) {
                    i32::try_from(tree.child_count(parent_path)).unwrap_or(i32::MAX)
                } else {
                    parent.creates
                };
                format!("{path}{number:010}")
            } else {
                path.clone()
            };
            if tree.get(&path).is_some() {
                return Err(Refusal::NodeExists);
            }
            if parent.owner != 0 && kinder != Some(Kinder::ChildrenOfEphemerals) {
                return Err(Refusal::NoChildrenForEphemerals);
            }
            let owner = if *ephemeral { session } else { 0 };
            Ok(Some(Change::Create { path, data: data.as_slice().into(), acl, owner }))
        }
        Write::Delete { path, version } => {
            if path == "/" || path.starts_with("/zookeeper") {
                return Err(Refusal::BadArguments);
            }
            let (parent, _) = split(path);
            may(there(tree, parent)?, DELETE, who)?;
            let znode = there(tree, path)?;
            next(znode.version, *version)?;
            if tree.child_count(path) > 0 {
                return Err(Refusal::NotEmpty);
            }
            Ok(Some(Change::Delete { path: path.clone() }))
        }
        Write::Set { path, data, version } => {
            let znode = there(tree, path)?;
            may(znode, WRITE, who)?;
            let version = next(znode.version, *version)?;
            Ok(Some(Change::Set { path: path.clone(), data: data.as_slice().into(), version }))
        }
        Write::SetAcl { path, acl, aversion } => {
            let acl = stored(acl, who)?;
            let znode = there(tree, path)?;
            may(znode, ADMIN, who)?;
            let aversion = next(znode.aversion, *aversion)?;
            Ok(Some(Change::SetAcl { path: path.clone(), acl, aversion }))
        }
        Write::Check { path, version } => {
            let znode = there(tree, path)?;
            may(znode, READ, who)?;
            next(znode.version, *version)?;
            Ok(None)
        }
    }
}

/// What a server shows. `hides_existence`: whether a znode is there is only told to whoever may read it (ZOOKEEPER-2590: from 3.8.4 and
/// 3.9.2).
pub fn show(tree: &Tree, read: &Read, who: &[Identity], hides_existence: bool) -> Reply {
    let shown = match read {
        Read::Data(path) => there(tree, path).and_then(|znode| {
            may(znode, READ, who)?;
            let stat = tree.stat(path).ok_or(Refusal::NoNode)?;
            Ok(Reply::Data { data: znode.data.to_vec(), stat })
        }),
        Read::Children(path) => there(tree, path).and_then(|znode| {
            may(znode, READ, who)?;
            Ok(Reply::Children(tree.children(path)))
        }),
        Read::Exists { path, .. } => match tree.get(path) {
            Some(znode) if hides_existence => may(znode, READ, who).map(|()| Reply::Exists(tree.stat(path))),
            _ => Ok(Reply::Exists(tree.stat(path))),
        },
        Read::Acl(path) => there(tree, path).and_then(|znode| {
            may(znode, READ | ADMIN, who)?;
            let masks = !allows(&znode.acl, ADMIN, who);
            let mask = |right: &Right| {
                let user = right.id.split(':').next().unwrap_or_default();
                let id = if masks && right.scheme == "digest" { format!("{user}:x") } else { right.id.clone() };
                Right { id, ..right.clone() }
            };
            Ok(Reply::Acl(znode.acl.iter().map(mask).collect()))
        }),
    };
    shown.unwrap_or_else(Reply::Refused)
}
