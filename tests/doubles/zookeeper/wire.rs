//! What clients ask and servers answer, and how many bytes a request has on its way (jute).

use super::tree::Right;
use keepstep::store::zookeeper::session::{EventType, Stat};
use std::sync::Arc;

/// A request that changes something. A version of -1 is not compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write<P = String, D = Arc<[u8]>, A = Arc<[Right]>> {
    Create { path: P, data: D, acl: A, ephemeral: bool, sequential: bool },
    Set { path: P, data: D, version: i32 },
    SetAcl { path: P, acl: A, aversion: i32 },
    Delete { path: P, version: i32 },
    Check { path: P, version: i32 },
}

/// A request that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Read {
    Data(String),
    Children(String),
    Exists { path: String, watch: bool },
    Acl(String),
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    Write(Write),
    Multi(Vec<Write>),
    Read(Read),
    MultiRead(Vec<Read>),
    Sync,
    /// A persistent recursive watch.
    Watch(String),
    /// Takes back the one-shot watch of this znode, or all of its watches.
    Unwatch {
        path: String,
        only_one_shot: bool,
    },
    /// After a reconnect: the one-shot watches of znodes that were there, and of those that were not.
    SetWatches {
        relative_zxid: i64,
        data: Vec<String>,
        exist: Vec<String>,
    },
    /// Ends the session.
    Close,
}

/// Why a server refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    NoNode,
    NodeExists,
    BadVersion,
    NotEmpty,
    NoAuth,
    InvalidAcl,
    NoChildrenForEphemerals,
    SessionExpired,
    BadArguments,
    Unimplemented,
    /// Only by a double that is too kind.
    TooLarge,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Created {
        path: String,
        stat: Stat,
    },
    Stat(Stat),
    /// A check of a [`Request::Multi`] that held.
    Checked,
    /// Deleted, synced, watched.
    Done,
    Data {
        data: Vec<u8>,
        stat: Stat,
    },
    Children(Vec<String>),
    Exists(Option<Stat>),
    Acl(Vec<Right>),
    /// One for each of a [`Request::Multi`].
    Written(Vec<Reply>),
    /// One for each of a [`Request::MultiRead`]; each may be refused.
    Found(Vec<Reply>),
    Refused(Refusal),
    /// The first of a [`Request::Multi`] that was refused.
    RefusedAt(usize, Refusal),
}

impl Reply {
    /// Whether a right is missing, to some of it at least.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Reply::Refused(refusal) | Reply::RefusedAt(_, refusal) => *refusal == Refusal::NoAuth,
            Reply::Found(found) => found.iter().any(Reply::is_denied),
            _ => false,
        }
    }
}

/// What comes to a client, in the order in which its connection carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To the oldest request that is not answered; with the zxid of its header.
    Reply {
        zxid: i64,
        reply: Reply,
    },
    Event {
        kind: EventType,
        path: String,
        zxid: i64,
    },
}

/// What each request begins with, what each operation of a multi begins with and what ends one, and every number.
const REQUEST: usize = 8;
const OPERATION: usize = 9;
const NUMBER: usize = 4;

fn acl_bytes(acl: &[Right]) -> usize {
    NUMBER + acl.iter().map(|right| 3 * NUMBER + right.scheme.len() + right.id.len()).sum::<usize>()
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Write::Create { path, data, acl, .. } => {
                NUMBER + path.len() + NUMBER + data.len() + acl_bytes(acl) + NUMBER
            }
            Write::Set { path, data, .. } => NUMBER + path.len() + NUMBER + data.len() + NUMBER,
            Write::SetAcl { path, acl, .. } => NUMBER + path.len() + acl_bytes(acl) + NUMBER,
            Write::Delete { path, .. } | Write::Check { path, .. } => NUMBER + path.len() + NUMBER,
        }
    }
}

impl Read {
    fn bytes(&self) -> usize {
        match self {
            Read::Data(path) | Read::Children(path) | Read::Exists { path, .. } => NUMBER + path.len() + 1,
            Read::Acl(path) => NUMBER + path.len(),
        }
    }
}

impl Request {
    /// Its bytes, without the length that stands before them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let paths = |paths: &[String]| NUMBER + paths.iter().map(|path| NUMBER + path.len()).sum::<usize>();
        REQUEST
            + match self {
                Request::Write(write) => write.bytes(),
                Request::Multi(writes) => {
                    OPERATION + writes.iter().map(|write| OPERATION + write.bytes()).sum::<usize>()
                }
                Request::Read(read) => read.bytes(),
                Request::MultiRead(reads) => {
                    OPERATION + reads.iter().map(|read| OPERATION + read.bytes()).sum::<usize>()
                }
                Request::Sync => NUMBER + 1,
                Request::Watch(path) | Request::Unwatch { path, .. } => NUMBER + path.len() + NUMBER,
                Request::SetWatches { data, exist, .. } => 8 + paths(data) + paths(exist) + NUMBER,
                Request::Close => 0,
            }
    }
}
