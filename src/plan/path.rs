//! Which way an observation goes: what may be assumed of the side that was not named, and what must be looked at twice.
//!
//! ```text
//!   hint --path()--> Echo | Znode | Key | Both
//!                      Znode --after_znode()--> decide | Key | Both
//!                      Key ----after_key()----> decide | Both
//!                      Both: ZooKeeper after `sync`, then Redis; once more if is_doubtful()
//! ```

use super::Base;
use crate::change::ZkVersion;

/// What a worker remembers of a pair's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Known {
    /// Its base.
    Base(Base),
    /// It has none.
    None,
    /// Nothing is known.
    Unknown,
}

/// What a hint says of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The znode was named.
    pub znode: bool,
    /// The newest event of the znode: its zxid, `i64::MAX` where the server does not tell, 0 without one.
    pub zxid: i64,
    /// The key was named.
    pub key: bool,
    /// Both sides must be read.
    pub slow: bool,
}

/// What is read of a pair next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Nothing: the event tells of what the base has.
    Echo,
    /// The znode, on the session of the source; the key is assumed to be as the base has it.
    Znode,
    /// The key with its sidecar; the znode is assumed to be as the base has it.
    Key,
    /// Both, ZooKeeper first.
    Both,
}

/// Where a round begins. `is_watched`: every change of the znode since its base has been told of; before that it may have been
/// deleted and recreated at the very version that the base has, so it is not assumed to be as the base has it.
#[must_use]
pub fn path(named: Named, known: Known, ensemble: u32, is_watched: bool) -> Path {
    let is_echo = || is_echo(named, known, ensemble);
    match (named.slow, named.znode, named.key) {
        (false, true, false) if is_echo() => Path::Echo,
        (false, true, false) => Path::Znode,
        (false, true, true) if is_watched && is_echo() => Path::Key,
        (false, true, true) if is_watched => Path::Znode,
        (false, false, true) if is_watched => Path::Key,
        _ => Path::Both,
    }
}

/// Whether the base is at least as new as every event of the znode: what they told of is known, and a later change
/// gives a later event.
fn is_echo(named: Named, known: Known, ensemble: u32) -> bool {
    match known {
        Known::Base(base) => {
            let is_current = base.ensemble == ensemble && !base.apart;
            is_current && base.zookeeper.is_some_and(|version| version.mzxid >= named.zxid)
        }
        Known::None | Known::Unknown => false,
    }
}

/// What follows a look at the znode alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Enough is known.
    Decide,
    /// The znode is as the base has it, and the key was named as well: look at that.
    Key,
    /// Look at both.
    Both,
}

/// What follows a look at the znode on the session of the source. `found`: its version, `None` if there is none;
/// `gone_zxid`: the newest zxid seen when a pair last lost its base. A pair without one has nothing to show that what a lagging
/// server tells is from before that.
#[must_use]
pub fn after_znode(known: Known, found: Option<ZkVersion>, key_named: bool, ensemble: u32, gone_zxid: i64) -> Next {
    let base = match known {
        Known::Base(base) => Some(base),
        Known::None => None,
        Known::Unknown => return Next::Both,
    };
    // An absent znode is never decided on the word of the cache.
    let Some(found) = found else { return Next::Both };
    if is_doubtful(base.as_ref(), Some(found), ensemble) || base.is_some_and(|base| base.apart) {
        return Next::Both;
    }
    match base {
        None if key_named || found.mzxid <= gone_zxid => Next::Both,
        Some(base) if key_named && base.zookeeper == Some(found) => Next::Key,
        _ => Next::Decide,
    }
}

/// What follows a look at the key and its sidecar alone. `base`: what the sidecar holds, if it was agreed for this path;
/// `is_compared`: a comparison has ended since this incarnation of the data set began. Before that the sidecar may be an older one, and
/// the znode may have been recreated since at the very version that it names.
#[must_use]
pub fn after_key(base: Option<&Base>, has_sidecar: bool, ensemble: u32, is_compared: bool) -> Next {
    let is_plain = |base: &Base| !base.apart && !base.unverified && base.ensemble == ensemble && !base.ephemeral;
    let is_plain = base.is_none_or(is_plain);
    let is_ours = base.is_some() || !has_sidecar;
    if is_plain && is_ours && is_compared { Next::Decide } else { Next::Both }
}

/// Whether what ZooKeeper shows must be looked at twice: gone or older, against the base; or there was a newer base, which could not be
/// believed, and what was read before says nothing against this one. `found`: the znode's version, `None` if there is none.
#[must_use]
pub fn is_doubtful(base: Option<&Base>, found: Option<ZkVersion>, ensemble: u32) -> bool {
    if base.is_some_and(|base| base.unverified && !base.apart) {
        return true;
    }
    let Some((base, agreed)) = base.and_then(|base| Some((base, base.zookeeper?))) else { return false };
    let Some(found) = found else { return true };
    found.mzxid < agreed.mzxid || found.czxid < agreed.czxid || base.ensemble != ensemble
}
