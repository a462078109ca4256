//! Guards around the stores: what a transaction leaves as base, what a data set that came back older takes away, and whether
//! the ensemble is an older one.

use super::{Base, KeyOp, ZnodeOp};
use crate::change::{Digest, ZkVersion};

/// The base of a write to ZooKeeper with the zxids that its transaction gave.
#[must_use]
pub fn landed(base: Base, created: bool, mzxid: i64) -> Base {
    let zookeeper = base.zookeeper.map(|version| ZkVersion {
        czxid: if created { mzxid } else { version.czxid },
        mzxid,
        version: version.version,
    });
    Base { zookeeper, ..base }
}

/// What a write to ZooKeeper leaves as base, and whether it met another incarnation than the one that was read.
/// `found`: version and czxid of the znode as the write left it, where they are known.
#[must_use]
pub fn outcome(op: ZnodeOp, base: Base, found: Option<ZkVersion>, mzxid: i64) -> (Option<Base>, bool) {
    match (op, found) {
        (ZnodeOp::Delete(_), _) => (None, false),
        (ZnodeOp::Create, _) => (Some(landed(base, true, mzxid)), false),
        (ZnodeOp::Set(_), None) => (Some(landed(base, false, mzxid)), false),
        (ZnodeOp::Set(_), Some(found)) => {
            let recreated = base.zookeeper.is_some_and(|expected| expected.czxid != found.czxid);
            (Some(Base { zookeeper: Some(ZkVersion { mzxid, ..found }), ..base }), recreated)
        }
    }
}

/// What a journal slot says of a multi whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was not applied and never will be.
    NotApplied,
    /// It was applied.
    Applied,
    /// Another owner wrote the slot.
    Fenced,
}

/// Tells the fate of a multi from its slot, read after `sync`: the version that the slot had before, the one it has, and
/// whether it holds what the multi was to write.
#[must_use]
pub fn fate(before: i32, now: i32, holds_ours: bool) -> Fate {
    match (now == before, holds_ours) {
        (true, _) => Fate::NotApplied,
        (false, true) => Fate::Applied,
        (false, false) => Fate::Fenced,
    }
}

/// Whether a note comes in another life of the data set than the pair was observed in (0: not looked at).
#[must_use]
pub fn is_late(op: KeyOp, observed: u64, now: u64) -> bool {
    op == KeyOp::Note && observed != 0 && observed != now
}

/// What becomes of a base that is to be noted in another life of the data set than it belongs to: Redis was restarted, and may have
/// come back with an older copy, sidecars included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The key holds what the base says: it is true, whatever happened.
    AsItIs,
    /// The key is back where its sidecar has it: both are older. Noting the base would make that older value look like a change.
    TakenBack,
    /// The key holds something else: an application wrote it over what the base says, or over what an older copy held.
    Unproven,
}

impl Late {
    /// The base as it is to be noted.
    #[must_use]
    pub fn mark(self, base: Option<Base>) -> Option<Base> {
        base.map(|base| Base { unproven: base.unproven || self == Late::Unproven, ..base })
    }
}

/// Tells it from the key, its sidecar, and the base that is to be noted.
#[must_use]
pub fn late(key: Option<Digest>, noted: Option<&Base>, base: Option<&Base>) -> Late {
    if noted.is_some_and(|noted| noted.lost) {
        // It was noted since that this key is lost, or back at an older state.
        Late::TakenBack
    } else if key == base.and_then(|base| base.redis) {
        Late::AsItIs
    } else if key == noted.and_then(|base| base.redis) {
        Late::TakenBack
    } else {
        Late::Unproven
    }
}

/// How far an ensemble has come: what it shows, or what is remembered of it so that a lost or older one is noticed. Evidence about
/// stores: nothing belongs here that a store was not told by an owner, or an owner has not seen in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The highest epoch of the pipeline's owners so far; 0 if none is known.
    pub epoch: u64,
    /// Its lineage ([`super::Ensemble::id`]); 0 if none is known.
    pub ensemble: u32,
    /// The newest zxid seen.
    pub zxid: i64,
    /// The version of the znode that the owner writes again whenever something has changed.
    pub tide: i32,
}

/// Epochs under which somebody has written elsewhere than in the stores (a stream, in this folder or from another installation). The
/// next owner begins above them, or it would be fenced there. They say nothing of a store: a stream may be ahead of it, and no
/// store be older for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken(u64);

impl Taken {
    /// Everything up to the newest epoch of a stream.
    #[must_use]
    pub fn on_stream(newest: i64) -> Taken {
        Taken(u64::try_from(newest).unwrap_or(0))
    }

    /// Whether the stores remember an owner of all of these, so that they are not older than what the stream tells.
    #[must_use]
    pub fn is_known(self, remembered: Remembered) -> bool {
        self.0 <= remembered.epoch
    }

    /// The epoch of the next owner; in the stores this one is the newest.
    #[must_use]
    pub fn next(self, in_stores: u64) -> u64 {
        self.0.max(in_stores) + 1
    }
}

/// Whether the ensemble came back older than what is remembered of it. The zxid alone does not tell: servers that were restored from
/// a copy elect a leader, whose zxids are above all that there were. What the pipeline's owners wrote does.
#[must_use]
pub fn is_older(found: Remembered, remembered: Remembered) -> bool {
    let has_fallen = found.zxid < remembered.zxid || found.epoch < remembered.epoch || found.tide < remembered.tide;
    found.ensemble == remembered.ensemble && has_fallen
}
