//! Rights, and what a server shows of its znodes to whom; what a leader decides is in `transaction.rs`.

use super::transaction::{ADMIN, READ};
use super::tree::{Right, Tree, Znode};
use super::wire::{Read, Refusal, Reply};
use std::sync::Arc;

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

/// An ACL as it is stored: `auth` becomes the identities of who gives it.
///
/// # Errors
/// It names a scheme that no server knows, or nobody.
pub(super) fn stored(acl: &[Right], who: &[Identity]) -> Result<Arc<[Right]>, Refusal> {
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
