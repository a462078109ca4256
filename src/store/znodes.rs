//! What goes to the ZooKeeper door and comes from it: plain data.

use crate::change::ZkStat;
use crate::plan::guard::Milestone;
use crate::plan::{Base, ZnodeOp};

/// Where a znode is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// On the session of the source: at least as new as the event that led here.
    Source,
    /// On the session of the sink, after `sync`: at least as new as everything acknowledged before
    /// the call.
    Synced,
}

/// A znode as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZnodeReading {
    /// There is none. By [`Look::Synced`] with the newest zxid at which it can have been deleted:
    /// pzxid of the nearest ancestor that is left. `i64::MAX`: that is not known.
    Absent(i64),
    /// There is one.
    Present {
        /// Its data.
        data: Vec<u8>,
        /// Its versions.
        stat: ZkStat,
    },
    /// The session may not read it. The text names path and permission.
    Denied(String),
    /// The request alone is larger than the server takes.
    TooLarge(String),
}

/// One write to ZooKeeper.
#[derive(Debug, Clone)]
pub struct ZnodeWrite<'a> {
    /// The path.
    pub path: &'a str,
    /// What is done.
    pub op: ZnodeOp,
    /// The data to write; empty for a delete.
    pub data: &'a [u8],
    /// The Redis key of the pair, for the journal.
    pub key: &'a [u8],
    /// The base as the sidecar will hold it, but for the zxids that only the transaction gives.
    pub base: Base,
    /// Which bucket the sidecar was read from ([`KeyReading::nonce`]), for the journal.
    pub nonce: u64,
    /// The ACL of what is created.
    pub acl: ZnodeAcl,
    /// Left in Redis after the pair was observed in it.
    pub milestone: Option<Milestone>,
}

/// A change of a znode as an application makes it: without the fence of an owner and without a
/// journal.
#[derive(Debug, Clone)]
pub struct ZnodeEdit<'a> {
    /// The path.
    pub path: &'a str,
    /// What is done.
    pub op: ZnodeOp,
    /// The data to write; empty for a delete.
    pub data: &'a [u8],
    /// The ACL of what is created.
    pub acl: ZnodeAcl,
}

/// The ACL of znodes that are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZnodeAcl {
    /// That of the nearest existing ancestor.
    Parent,
    /// `world:anyone`, everything.
    Open,
    /// Everything for the authenticated user.
    Creator,
}

/// What became of one write to ZooKeeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZnodeOutcome {
    /// Done. The base with its zxids filled in, or `None` where the pair has no base any more.
    Done {
        /// What the sidecar must hold now.
        base: Option<Base>,
        /// The znode that was overwritten was another incarnation than the one that was read.
        recreated: bool,
    },
    /// The state was another one: observe again.
    Refused,
    /// It cannot be done: reason (one word) and detail (one sentence).
    Impossible(&'static str, String),
}

/// The result of [`crate::store::contract::ZnodeSink::write`].
#[derive(Debug)]
pub struct ZnodeBatch {
    /// One for each write, in order.
    pub outcomes: Vec<ZnodeOutcome>,
    /// The journal slots that hold the bases of what was done: once the sidecars hold the same,
    /// call [`crate::store::contract::OwnerState::mark_slots`], then release them with
    /// [`crate::store::contract::ZnodeSink::release`].
    pub slots: Vec<Slot>,
}

/// Slots, and so multis whose sidecars are not yet written, at a time. Measured: one is enough for
/// the rate, sixteen hide the round trip to Redis.
pub const JOURNAL_SLOTS: usize = 16;

/// A journal slot in a certain state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Which one.
    pub number: usize,
    /// The dataVersion of its znode.
    pub version: i32,
}

/// A base that the journal holds: a write to ZooKeeper whose sidecar may not have been brought up
/// to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Where it stands.
    pub slot: Slot,
    /// The pair's key.
    pub key: Vec<u8>,
    /// The bucket it belongs to.
    pub nonce: u64,
    /// The base; `None` where the pair has none any more.
    pub base: Option<Base>,
    /// Its sequence (also where the base is `None`).
    pub sequence: u32,
    /// Left in Redis between the observation and the write.
    pub milestone: Option<Milestone>,
}

/// Some znodes of a walk through a subtree.
pub type Walked = Vec<(String, Vec<u8>, ZkStat)>;
