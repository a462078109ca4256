//! The configurations: what runs with every check, what runs for long, and which one finds which planted fault.

use crate::config::{Bug, Config, NOTHING, two_way};
use crate::world::Budget;
use keepstep::change::Side::{self, Redis, Zookeeper};
use keepstep::plan::{Flow, OnConflict, OnRemoval, Policy};

const fn ruled(first: Side, on_conflict: OnConflict) -> Policy {
    Policy { on_conflict, ..two_way(first) }
}

const fn one_way(from: Side) -> Policy {
    Policy { flow: Flow::From(from), ..two_way(from) }
}

const fn keeping(policy: Policy) -> Policy {
    Policy { on_delete: OnRemoval::Keep, on_expire: OnRemoval::Keep, ..policy }
}

/// Applications write so often on either side.
const fn writes(znode_writes: u8, key_writes: u8) -> Budget {
    Budget { znode_writes, key_writes, ..NOTHING }
}

const PLAIN: Config = Config::new("both change", two_way(Zookeeper), writes(2, 2));

/// Every fault and every rule, each in a world small enough to be gone through in seconds.
pub fn small() -> Vec<Config> {
    let mut all = vec![
        PLAIN,
        Config { policy: two_way(Redis), name: "both change, Redis preferred", ..PLAIN },
        Config { policy: ruled(Zookeeper, OnConflict::Latest), name: "latest", ..PLAIN },
        Config { policy: ruled(Redis, OnConflict::HigherVersion), name: "higher_version", ..PLAIN },
        Config { policy: ruled(Zookeeper, OnConflict::Quarantine), name: "quarantine", ..PLAIN },
        Config { policy: keeping(two_way(Zookeeper)), name: "on_delete: keep", ..PLAIN },
        Config { policy: one_way(Zookeeper), name: "ZooKeeper to Redis", ..PLAIN },
        Config { policy: one_way(Redis), name: "Redis to ZooKeeper", ..PLAIN },
        Config { policy: keeping(one_way(Redis)), name: "Redis to ZooKeeper, keep", ..PLAIN },
        Config { two_values: true, name: "equal values", ..PLAIN },
        Config { cache: false, name: "without the cache", ..PLAIN },
        Config { no_zxids: true, name: "events without zxids", ..PLAIN },
        Config { follower_lags: true, name: "a follower lags", ..PLAIN },
        Config { sync_lags: true, name: "a read after sync lags once", ..PLAIN },
        Config { expiry: true, name: "keys expire", ..PLAIN },
        Config { expiry: true, policy: keeping(two_way(Redis)), name: "keys expire, keep", ..PLAIN },
    ];
    let with = |name, policy, budget| Config { large_values: true, ..Config::new(name, policy, budget) };
    all.extend([
        with("events late and twice", two_way(Zookeeper), Budget { repeats: 2, ..writes(2, 1) }),
        with("events missed", two_way(Zookeeper), Budget { gaps: 1, ..writes(2, 1) }),
        with("events missed, Redis preferred", two_way(Redis), Budget { gaps: 1, ..writes(1, 2) }),
        with("a comparison meanwhile", two_way(Zookeeper), Budget { comparisons: 1, ..writes(2, 1) }),
        with("a comparison meanwhile, Redis", two_way(Redis), Budget { comparisons: 1, ..writes(1, 2) }),
        with("a worker is killed", two_way(Zookeeper), Budget { crashes: 1, starts: 1, ..writes(1, 2) }),
        with("a worker is killed, Redis preferred", two_way(Redis), Budget { crashes: 1, starts: 1, ..writes(2, 1) }),
        with(
            "killed while slots are in use",
            two_way(Redis),
            Budget { crashes: 1, starts: 1, others: 2, ..writes(0, 2) },
        ),
        with("answers are lost", two_way(Redis), Budget { lost_replies: 1, ..writes(2, 2) }),
        with("a key is evicted", two_way(Zookeeper), Budget { evictions: 1, gaps: 1, ..writes(1, 1) }),
        with(
            "a key is evicted at the source",
            one_way(Redis),
            Budget { evictions: 1, comparisons: 2, gaps: 1, ..writes(0, 2) },
        ),
        with(
            "a key is evicted at the source, killed",
            one_way(Redis),
            Budget { evictions: 1, comparisons: 1, crashes: 1, starts: 1, ..writes(1, 2) },
        ),
        with("FLUSHALL", two_way(Zookeeper), Budget { flushes: 1, ..writes(1, 2) }),
        with("Redis comes back older", two_way(Zookeeper), Budget { key_rollbacks: 1, ..writes(1, 2) }),
        with("Redis comes back older, one way", one_way(Redis), Budget { key_rollbacks: 1, ..writes(1, 3) }),
        with(
            "Redis comes back older, written alone",
            one_way(Redis),
            Budget { key_rollbacks: 1, crashes: 1, starts: 1, ..writes(0, 3) },
        ),
        with(
            "Redis restarts and loses nothing",
            two_way(Zookeeper),
            Budget { restarts: 1, returns: 1, ..writes(0, 2) },
        ),
        with(
            "Redis restarts and loses nothing, killed",
            two_way(Zookeeper),
            Budget { restarts: 1, returns: 1, crashes: 1, starts: 1, ..writes(0, 1) },
        ),
        with(
            "Redis comes back older, other pairs",
            one_way(Redis),
            Budget { key_rollbacks: 1, others: 1, ..writes(0, 3) },
        ),
        with("the ensemble comes back older", two_way(Zookeeper), Budget { znode_rollbacks: 1, ..writes(1, 1) }),
        Config {
            new_epoch: true,
            ..with(
                "older, in a new epoch",
                two_way(Zookeeper),
                Budget { znode_rollbacks: 1, siblings: 1, ..writes(1, 1) },
            )
        },
        Config {
            new_epoch: true,
            ..with(
                "older, in a new epoch, Redis",
                two_way(Redis),
                Budget { znode_rollbacks: 1, siblings: 1, ..writes(1, 1) },
            )
        },
        Config {
            zombies: true,
            ..with("takeover, the older owner goes on", two_way(Zookeeper), Budget { starts: 1, ..writes(1, 2) })
        },
        Config {
            zombies: true,
            ..with("takeover, Redis preferred", two_way(Redis), Budget { starts: 1, ..writes(2, 1) })
        },
        with(
            "a command between two owners",
            two_way(Zookeeper),
            Budget { commands: 1, crashes: 1, starts: 1, ..writes(1, 1) },
        ),
        Config {
            zombies: true,
            ..with(
                "a former owner ends late",
                two_way(Zookeeper),
                Budget { starts: 1, late_ends: 1, commands: 1, ..writes(1, 1) },
            )
        },
        Config {
            zombies: true,
            frozen: true,
            new_epoch: true,
            ..with(
                "a former owner ends late, older",
                two_way(Zookeeper),
                Budget { late_ends: 1, znode_rollbacks: 1, siblings: 1, ..writes(1, 1) },
            )
        },
    ]);
    all
}

const fn killed(znode_writes: u8, key_writes: u8) -> Budget {
    Budget { crashes: 1, starts: 1, ..writes(znode_writes, key_writes) }
}

/// A planted fault, and a world in which it shows.
pub fn planted() -> Vec<Config> {
    let plant = |bug, base: Config| Config { bug, states_max: base.states_max.max(400_000), ..base };
    let crash = Budget { crashes: 1, starts: 1, ..writes(2, 2) };
    let keys = Budget { starts: 1, ..writes(0, 4) };
    let taken = Budget { starts: 1, ..writes(2, 2) };
    let both = |name, budget| Config::new(name, two_way(Zookeeper), budget);
    let restored =
        |name| Config { new_epoch: true, ..both(name, Budget { znode_rollbacks: 1, siblings: 1, ..writes(1, 1) }) };
    let zombie = |name, budget| Config { zombies: true, ..both(name, budget) };
    vec![
        plant(Bug::KeyWrittenWhateverItHolds, PLAIN),
        plant(Bug::ZnodeWrittenWhateverItsVersion, Config { policy: two_way(Redis), ..PLAIN }),
        plant(Bug::JournalNotWritten, both("killed", crash)),
        plant(Bug::JournalNotCompleted, both("killed", crash)),
        plant(Bug::StaleReadBelieved, Config { sync_lags: true, follower_lags: true, ..PLAIN }),
        plant(Bug::CachedBaseWhereTheSidecarIsGone, both("FLUSHALL", Budget { flushes: 1, ..writes(1, 1) })),
        plant(
            Bug::OlderDataSetNotNoticed,
            Config { states_max: 3_000_000, ..both("older", Budget { key_rollbacks: 1, ..writes(1, 2) }) },
        ),
        plant(
            Bug::UnprovenTakenAsProven,
            Config { states_max: 1_500_000, ..both("older", Budget { key_rollbacks: 1, ..writes(0, 4) }) },
        ),
        plant(
            Bug::SidecarOfAnOlderLifeTrusted,
            Config { states_max: 1_500_000, ..both("older", Budget { key_rollbacks: 1, ..writes(2, 1) }) },
        ),
        plant(Bug::AbsenceIsADelete, both("evicted", Budget { evictions: 1, gaps: 1, ..writes(1, 1) })),
        plant(Bug::EpochNotCheckedInZookeeper, Config { states_max: 1_000_000, ..zombie("takeover", taken) }),
        plant(Bug::EpochNotCheckedByScripts, zombie("takeover", keys)),
        plant(Bug::EpochNotRaisedByReading, zombie("takeover", keys)),
        plant(Bug::SlotReusedBeforeItsSidecars, both("killed", Budget { others: 1, ..killed(0, 2) })),
        plant(Bug::SlotsNeverMarked, both("killed", killed(1, 2))),
        plant(Bug::NonceNotCompared, both("FLUSHALL", Budget { flushes: 1, ..writes(1, 2) })),
        plant(Bug::FastPathWhileUnwatched, both("missed", Budget { gaps: 1, ..writes(2, 2) })),
        plant(Bug::RecreationNotNoticed, PLAIN),
        plant(Bug::EveryZnodeEventIsAnEcho, PLAIN),
        plant(Bug::HintDuringARoundDropped, PLAIN),
        plant(Bug::ComparisonVouchesForALaterGap, both("missed", Budget { gaps: 1, comparisons: 1, ..writes(2, 2) })),
        plant(Bug::LoserNotRecorded, PLAIN),
        plant(Bug::UnknownOutcomeIsARefusal, both("answers lost", Budget { lost_replies: 1, ..writes(1, 2) })),
        plant(Bug::GapNotCompared, both("missed", Budget { gaps: 1, ..writes(1, 1) })),
        plant(Bug::WalkBelievedAfterARound, both("compared", Budget { comparisons: 1, ..writes(2, 1) })),
        plant(Bug::EvictionSeenLate, both("evicted", Budget { evictions: 1, gaps: 1, comparisons: 1, ..writes(1, 1) })),
        plant(Bug::LossNotDated, both("older", Budget { znode_rollbacks: 1, ..writes(1, 1) })),
        plant(Bug::TideNotRemembered, restored("older, in a new epoch")),
        plant(Bug::TideNotLookedAt, restored("older, in a new epoch")),
        plant(
            Bug::TideNotCheckedByWrites,
            Config {
                new_epoch: true,
                states_max: 4_500_000,
                ..both("older, in a new epoch", Budget { znode_rollbacks: 1, ..writes(2, 1) })
            },
        ),
        plant(Bug::EventsNotHeardOut, both("evicted", Budget { evictions: 1, ..writes(1, 1) })),
        plant(Bug::DeleteFromBeforeAGapBelieved, both("evicted", Budget { evictions: 1, gaps: 1, ..writes(1, 1) })),
        plant(Bug::QuarantinedPairTakenFast, Config { policy: ruled(Zookeeper, OnConflict::Quarantine), ..PLAIN }),
        plant(Bug::NamedKeyNotLookedAt, Config { two_values: true, ..PLAIN }),
        plant(Bug::BusyPairSkipped, both("missed", Budget { gaps: 1, ..writes(1, 2) })),
        plant(Bug::SkippedPairTakenAsCompared, both("evicted", Budget { evictions: 1, gaps: 1, ..writes(1, 1) })),
        plant(
            Bug::DeletionNotDated,
            Config { states_max: 4_500_000, follower_lags: true, ..both("lags", writes(3, 1)) },
        ),
        plant(
            Bug::StreamTakenAsEvidence,
            both("command", Budget { commands: 1, crashes: 1, starts: 1, ..writes(1, 0) }),
        ),
        plant(
            Bug::FormerOwnerRemembers,
            Config {
                new_epoch: true,
                frozen: true,
                states_max: 6_000_000,
                ..zombie(
                    "a former owner ends late",
                    Budget { late_ends: 1, znode_rollbacks: 1, siblings: 1, ..writes(1, 1) },
                )
            },
        ),
        plant(
            Bug::RoundsCarryOutWhatNobodySaw,
            Config { large_values: true, ..both("missed", Budget { gaps: 1, comparisons: 1, ..writes(2, 1) }) },
        ),
        plant(
            Bug::LossNotNoted,
            Config::new("evicted", one_way(Redis), Budget { evictions: 1, comparisons: 2, ..writes(0, 1) }),
        ),
        plant(Bug::GonePairReadOld, Config { follower_lags: true, ..PLAIN }),
        plant(
            Bug::JournalOfALostLifeKept,
            Config {
                states_max: 9_000_000,
                ..Config::new(
                    "older",
                    one_way(Redis),
                    Budget { key_rollbacks: 1, crashes: 1, starts: 1, ..writes(0, 3) },
                )
            },
        ),
        plant(
            Bug::MilestoneNotAsked,
            both("restarted", Budget { restarts: 1, returns: 1, crashes: 1, starts: 1, ..writes(0, 1) }),
        ),
        plant(Bug::WrittenWithoutMilestone, both("restarted", Budget { restarts: 1, returns: 1, ..writes(0, 1) })),
        plant(
            Bug::MilestonePutWhateverWasThere,
            Config {
                states_max: 3_000_000,
                ..Config::new("older", one_way(Redis), Budget { key_rollbacks: 1, others: 1, ..writes(0, 3) })
            },
        ),
        plant(
            Bug::MilestoneOfAnotherIncarnation,
            Config {
                states_max: 3_000_000,
                ..Config::new("older", one_way(Redis), Budget { key_rollbacks: 1, ..writes(0, 3) })
            },
        ),
        plant(Bug::OlderKeyFollowed, Config::new("older", one_way(Redis), Budget { key_rollbacks: 1, ..writes(0, 3) })),
    ]
}

/// The same with one or two more of everything; each as far as its bound.
pub fn deep() -> Vec<Config> {
    let more = |config: Config| {
        let Budget { znode_writes, key_writes, .. } = config.budget;
        // Where a key may return to what it was, a write of the znode meanwhile is a conflict that nobody sees.
        let znode_writes = znode_writes + u8::from(config.budget.returns == 0);
        let budget = Budget { znode_writes, key_writes: key_writes + 1, ..config.budget };
        Config { budget, states_max: 4_500_000, drain_every: 256, ..config }
    };
    small().into_iter().map(more).collect()
}
