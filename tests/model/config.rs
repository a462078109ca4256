//! What a run explores: rules of the route, what may happen how often, and which fault is planted.

use crate::world::Budget;
use keepstep::change::Side;
use keepstep::plan::{Ephemeral, Flow, OnConflict, OnRemoval, Policy};
use keepstep_doubles::redis::server::Kindness;

/// A fault planted into the driver or into the scripts of Redis, to see that the checker finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    KeyWrittenWhateverItHolds,
    ZnodeWrittenWhateverItsVersion,
    JournalNotWritten,
    JournalNotCompleted,
    StaleReadBelieved,
    CachedBaseWhereTheSidecarIsGone,
    OlderDataSetNotNoticed,
    AbsenceIsADelete,
    EpochNotCheckedInZookeeper,
    EpochNotCheckedByScripts,
    EpochNotRaisedByReading,
    SlotReusedBeforeItsSidecars,
    SlotsNeverMarked,
    NonceNotCompared,
    FastPathWhileUnwatched,
    RecreationNotNoticed,
    EveryZnodeEventIsAnEcho,
    HintDuringARoundDropped,
    ComparisonVouchesForALaterGap,
    LoserNotRecorded,
    UnknownOutcomeIsARefusal,
    GapNotCompared,
    WalkBelievedAfterARound,
    EvictionSeenLate,
    EventsNotHeardOut,
    LossNotDated,
    TideNotRemembered,
    TideNotLookedAt,
    TideNotCheckedByWrites,
    DeleteFromBeforeAGapBelieved,
    QuarantinedPairTakenFast,
    NamedKeyNotLookedAt,
    BusyPairSkipped,
    GonePairReadOld,
    SkippedPairTakenAsCompared,
    UnprovenTakenAsProven,
    SidecarOfAnOlderLifeTrusted,
    DeletionNotDated,
    StreamTakenAsEvidence,
    FormerOwnerRemembers,
    RoundsCarryOutWhatNobodySaw,
    OlderKeyFollowed,
    JournalOfALostLifeKept,
    LossNotNoted,
    MilestoneNotAsked,
    MilestonePutWhateverWasThere,
    MilestoneOfAnotherIncarnation,
    WrittenWithoutMilestone,
}

#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub name: &'static str,
    pub policy: Policy,
    pub budget: Budget,
    /// Applications delete, too.
    pub deletes: bool,
    /// Applications write only two values, again and again: what is lost cannot be told, the rest can.
    pub two_values: bool,
    /// Keys get an expiry, and expire.
    pub expiry: bool,
    /// Reads of the source's session may be older than the newest state, but not than the events it has had.
    pub follower_lags: bool,
    /// Even a read after `sync` may be older, once.
    pub sync_lags: bool,
    /// An ensemble that is restored from a copy begins a new epoch: its zxids are above all that there were, and sessions that the copy
    /// knows live on.
    pub new_epoch: bool,
    /// The server does not tell the zxid of an event (before 3.9).
    pub no_zxids: bool,
    /// An owner that lost its ownership goes on with what it has read.
    pub zombies: bool,
    /// Another worker has taken over at the beginning, and the former owner is frozen: the next that it does is to end.
    pub frozen: bool,
    /// A comparison reads digests only.
    pub large_values: bool,
    /// Deletes that a comparison infers are counted first.
    pub guard: bool,
    /// Bases are remembered.
    pub cache: bool,
    /// States at most; beyond, the run ends as `bounded`.
    pub states_max: usize,
    /// One state in this many is driven to its rest by a fresh worker.
    pub drain_every: u64,
    pub bug: Bug,
}

pub const NOTHING: Budget = Budget {
    znode_writes: 0,
    key_writes: 0,
    crashes: 0,
    starts: 0,
    lost_replies: 0,
    gaps: 0,
    repeats: 0,
    flushes: 0,
    evictions: 0,
    key_rollbacks: 0,
    restarts: 0,
    returns: 0,
    znode_rollbacks: 0,
    comparisons: 0,
    others: 0,
    siblings: 0,
    commands: 0,
    late_ends: 0,
};

pub const fn two_way(winner: Side) -> Policy {
    Policy {
        flow: Flow::Both(winner),
        on_conflict: OnConflict::Prefer(winner),
        on_delete: OnRemoval::Propagate,
        on_expire: OnRemoval::Propagate,
        ephemeral: Ephemeral::Mirror,
    }
}

impl Config {
    pub const fn new(name: &'static str, policy: Policy, budget: Budget) -> Config {
        Config {
            name,
            policy,
            budget,
            deletes: true,
            two_values: false,
            expiry: false,
            follower_lags: false,
            sync_lags: false,
            new_epoch: false,
            no_zxids: false,
            zombies: false,
            frozen: false,
            large_values: false,
            guard: true,
            cache: true,
            states_max: 252_000,
            drain_every: 16,
            bug: Bug::None,
        }
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// The rule of the scripts that is left out, where that is the planted fault.
    pub fn kindness(&self) -> Option<Kindness> {
        match self.bug {
            Bug::KeyWrittenWhateverItHolds => Some(Kindness::IgnoresValues),
            Bug::EpochNotCheckedByScripts => Some(Kindness::IgnoresEpochs),
            Bug::EpochNotRaisedByReading => Some(Kindness::ReadsWithoutRaising),
            Bug::NonceNotCompared => Some(Kindness::IgnoresNonces),
            Bug::FormerOwnerRemembers => Some(Kindness::RemembersFormerOwners),
            Bug::MilestonePutWhateverWasThere => Some(Kindness::PutsEveryMilestone),
            _ => None,
        }
    }
}
