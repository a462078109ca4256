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

/// A number that was left in Redis behind everything that was read of it until then. What Redis comes back with after a restart is a
/// beginning of its history, so a data set that has the number has what was read as well: it is no older one, and what a key holds that
/// was read otherwise was put there since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Milestone {
    /// Which data set and its successors they are counted in: where one was lost, another branch begins, whose numbers say nothing of
    /// those of the branch before.
    pub branch: u64,
    /// Rises with each.
    pub number: u64,
}

impl Milestone {
    /// Whether a data set has it in which this is found.
    #[must_use]
    pub fn is_in(self, found: Option<Milestone>) -> bool {
        found.is_some_and(|found| found.branch == self.branch && found.number >= self.number)
    }
}

/// Whether a note comes in another incarnation of the data set than the pair was observed in (0: not looked at), and that data set may be an
/// older one: it is not shown to have the milestone of the observation.
#[must_use]
pub fn is_late(op: KeyOp, observed: u64, now: u64, milestone: Option<Milestone>, found: Option<Milestone>) -> bool {
    let is_proven = milestone.is_some_and(|milestone| milestone.is_in(found));
    op == KeyOp::Note && observed != 0 && observed != now && !is_proven
}

/// What becomes of a base that is to be noted in another incarnation of the data set than it belongs to: Redis was restarted, and may have
/// come back with an older copy, sidecars included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The key holds what the base says: it is true, whatever happened.
    AsItIs,
    /// The key is where its sidecar has it. Both may be older, and noting the base would make that older value look like a change; or
    /// an application has put it back, after a restart that lost nothing.
    TakenBack,
    /// The key holds something else: an application wrote it over what the base says, or over what an older copy held.
    Unverified,
}

impl Late {
    /// What is noted: the base that comes late, or, where that is not to be believed, what is noted already, from here on without
    /// proof: what the key holds may be newer, and is not replaced in silence. `None`: nothing, since there is no such note, or a
    /// milestone was left, and that it is missing shows that the data set is an older one.
    #[must_use]
    pub fn note(self, noted: Option<Base>, base: Option<Base>, left: Option<Milestone>) -> Option<Option<Base>> {
        let unverified = |base: Base| Base { unverified: true, ..base };
        match self {
            Late::AsItIs => Some(base),
            Late::Unverified => Some(base.map(unverified)),
            Late::TakenBack => noted.filter(|_| left.is_none()).map(unverified).map(Some),
        }
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
        Late::Unverified
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
    pub watermark: i32,
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
    let has_fallen =
        found.zxid < remembered.zxid || found.epoch < remembered.epoch || found.watermark < remembered.watermark;
    found.ensemble == remembered.ensemble && has_fallen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_late_in_another_life_unless_its_milestone_is_there() {
        let of = |branch, number| Some(Milestone { branch, number });
        assert!(!is_late(KeyOp::Note, 1, 1, None, None) && !is_late(KeyOp::Note, 0, 2, None, None));
        assert!(!is_late(KeyOp::Set, 1, 2, None, None), "what a key holds is compared with it");
        for (left, found, is_believed) in [
            (None, None, false),
            (None, of(7, 3), false),
            (of(7, 3), None, false),
            (of(7, 3), of(7, 2), false),
            (of(7, 3), of(7, 3), true),
            (of(7, 3), of(7, 4), true),
            (of(7, 3), of(8, 4), false),
        ] {
            assert_eq!(is_late(KeyOp::Note, 1, 2, left, found), !is_believed, "{left:?} in {found:?}");
        }
    }
}
