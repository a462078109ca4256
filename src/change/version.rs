//! What identifies a state of a znode.

/// The identity of a znode's data: `mzxid` names the state, `czxid` the incarnation, `version` (dataVersion) is the
/// token of a compare-and-set. Versions wrap and start again after a re-creation, so they are compared for equality, and for order only
/// within one incarnation; zxids of one ensemble grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZkVersion {
    /// zxid of the transaction that created the znode.
    pub czxid: i64,
    /// zxid of the transaction that last changed its data.
    pub mzxid: i64,
    /// dataVersion.
    pub version: i32,
}

impl ZkVersion {
    /// Whether both were left by the same write. The incarnation may be a wrong guess: a worker that ended right behind its write may
    /// have met another one than it had read, and what completes its journal cannot know.
    #[must_use]
    pub fn is_same_write(self, other: ZkVersion) -> bool {
        (self.mzxid, self.version) == (other.mzxid, other.version)
    }

    /// Whether the other state is a later one of the same incarnation, by all that a znode tells.
    #[must_use]
    pub fn is_followed_by(self, later: ZkVersion) -> bool {
        self.czxid == later.czxid && self.mzxid < later.mzxid && later.version.wrapping_sub(self.version) > 0
    }
}

/// What ZooKeeper tells of a znode beside its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZkStat {
    /// zxid of the transaction that created the znode.
    pub czxid: i64,
    /// zxid of the transaction that last changed its data.
    pub mzxid: i64,
    /// zxid of the transaction that last changed its children.
    pub pzxid: i64,
    /// Creation time by the server's clock, milliseconds since the epoch.
    pub ctime_ms: i64,
    /// Time of the last change of the data by the server's clock, milliseconds since the epoch.
    pub mtime_ms: i64,
    /// dataVersion.
    pub version: i32,
    /// Version of the children.
    pub cversion: i32,
    /// Version of the ACL.
    pub aversion: i32,
    /// Session id of an ephemeral znode; 0 for a persistent one; `i64::MIN` for a container; top byte 0xFF for TTL.
    pub ephemeral_owner: i64,
    /// Number of children.
    pub num_children: i32,
}

impl ZkStat {
    /// The identity of the data.
    #[must_use]
    pub fn version(&self) -> ZkVersion {
        ZkVersion { czxid: self.czxid, mzxid: self.mzxid, version: self.version }
    }

    /// Whether a session owns the znode. Container and TTL znodes use the same field with reserved bits
    /// (`EphemeralType.java`) and are persistent to us.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        const CONTAINER: i64 = i64::MIN;
        let is_ttl = self.ephemeral_owner.to_be_bytes().first() == Some(&0xFF);
        self.ephemeral_owner != 0 && self.ephemeral_owner != CONTAINER && !is_ttl
    }
}
