//! What may happen, and how often a seed has it happen.

use crate::draws::Draws;
use crate::network::{Store, Way};
use crate::settings::{Settings, some_of};
use crate::stores::Fault;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which side an application writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Zookeeper,
    Redis,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "does", rename_all = "snake_case")]
pub enum What {
    /// An application writes a value that nobody else ever writes.
    Set {
        side: Side,
        pair: usize,
        value: u64,
    },
    /// An application deletes.
    Delete {
        side: Side,
        pair: usize,
    },
    /// An application gives a key a time to live.
    Expire {
        pair: usize,
        ms: u64,
    },
    /// SIGKILL.
    Kill {
        worker: usize,
    },
    /// SIGKILL after so many more polls.
    KillAtPoll {
        worker: usize,
        polls: u64,
    },
    /// SIGKILL at the next, or a later, operation of its disk that changes something.
    KillAtDisk {
        worker: usize,
        operations: u64,
    },
    /// SIGTERM.
    Stop {
        worker: usize,
    },
    /// SIGTERM, and the next worker of the machine runs these pipelines.
    Files {
        worker: usize,
        runs: Vec<usize>,
    },
    /// Another worker is started on the same folder. The former one is frozen first, where that is asked for, and goes on after a
    /// while; it ends at last, if it does: by SIGTERM or by SIGKILL.
    StartAgain {
        worker: usize,
        frozen_ms: u64,
        ends_after_ms: Option<u64>,
        is_killed: bool,
    },
    /// The machine loses its power.
    PowerLoss {
        worker: usize,
    },
    Freeze {
        worker: usize,
        ms: u64,
    },
    /// Its connections to a store are cut.
    Cut {
        worker: usize,
        store: Store,
    },
    /// The way to a store is closed for a time.
    Close {
        worker: usize,
        store: Store,
        way: Way,
        ms: u64,
    },
    /// The ensemble ends sessions of a worker: the n-th, if this bit is set.
    ExpireSessions {
        worker: usize,
        which: u64,
    },
    /// The machine's clock goes on by so much.
    StepClock {
        worker: usize,
        ms: i64,
    },
    /// The disk takes no more bytes for a time.
    FullDisk {
        worker: usize,
        ms: u64,
    },
    /// The next sync is refused.
    RefuseSync {
        worker: usize,
    },
    FlushRedis,
    /// With its data as of now, with an older copy, or with nothing.
    RestartRedis {
        with: Copied,
    },
    /// A copy for a later restart.
    CopyRedis,
    EvictKey {
        pair: usize,
    },
    SwapDatabases,
    ResetStatistics,
    /// The ensemble comes back with an older copy, or with nothing.
    RestoreEnsemble {
        with: Copied,
    },
    CopyEnsemble,
    /// All faults are over, and both sides come to rest, before what follows.
    Rest,
    /// Somebody deletes the place in line of the worker that owns the pipeline: another takes over, and the former owner has its session
    /// still.
    Depose,
    /// The connections of a worker to Redis are cut, and before they are made again something happens that nobody hears.
    Unheard {
        worker: usize,
        pair: usize,
        happens: Unheard,
        ms: u64,
    },
    /// An application writes every pair of a route, from this value on.
    Fill {
        side: Side,
        route: usize,
        value: u64,
    },
    /// All workers are killed, and before one is started an application deletes so many pairs of a route.
    DeleteUnseen {
        side: Side,
        route: usize,
        first: usize,
        count: usize,
    },
    /// An application puts a hash where a pair's key was.
    SetHash {
        pair: usize,
        value: u64,
    },
    /// A key is there, or not any more, whose znode ZooKeeper cannot have.
    Name {
        route: usize,
        name: Name,
        is_there: bool,
    },
    /// A server of the ensemble applies only what its clients wait for, for a time.
    Lag {
        server: usize,
        ms: u64,
    },
    /// An operator runs a command line on a machine; it is killed after so many of its polls, where that is said.
    Operate {
        worker: usize,
        /// Whose pipeline file it is given.
        #[serde(default)]
        pipeline: usize,
        operation: Operation,
        polls: Option<u64>,
    },
    /// A fault of a store, which is over after so long.
    Store {
        #[serde(flatten)]
        fault: Fault,
        ms: u64,
    },
}

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Pause,
    Resume,
    Reconcile,
    Approve,
    /// `quarantine retry` and `quarantine drop`.
    Retry,
    Drop,
    /// Up to the end, or as it was so long ago.
    Replay {
        to: Side,
        until_ms: Option<u64>,
    },
    Repair {
        prefer: Side,
    },
    /// The n-th conflict that is listed.
    Restore {
        which: u64,
    },
    Diff,
}

impl What {
    /// Whether it takes a right. Nobody is told when one is given back, so a comparison has to find that.
    pub(crate) fn takes_rights(&self) -> bool {
        use Fault::{TakesCommand, TakesKey, TakesParent, TakesZnode};
        let What::Store { fault, .. } = self else { return false };
        matches!(fault, TakesCommand { .. } | TakesKey { .. } | TakesParent { .. } | TakesZnode { .. })
    }
}

/// What happens while nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unheard {
    Evicted,
    Deleted,
    Restarted,
}

/// What is the matter with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    Long,
    Deep,
    Deeper,
}

impl Name {
    /// The key on this route.
    pub(crate) fn key(self, route: usize) -> Vec<u8> {
        let name = match self {
            Name::Long => "x".repeat(530_000),
            Name::Deep => "a:".repeat(1200) + "a",
            Name::Deeper => ":".repeat(30_000),
        };
        format!("r{route}:{name}").into_bytes()
    }
}

/// What a store has after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copied {
    Now,
    Older,
    Nothing,
}

/// When, after the beginning, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    pub at: Duration,
    #[serde(flatten)]
    pub what: What,
}

/// What a seed may draw, beside load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Kills,
    Polls,
    DiskKills,
    Stops,
    Power,
    Freezes,
    Cuts,
    Refused,
    Silent,
    Expiries,
    Clocks,
    Disk,
    Flushes,
    Restarts,
    Evictions,
    Swaps,
    Resets,
    Ensembles,
    Commands,
    Lags,
    Operations,
    Files,
    Twice,
    /// A Redis refuses commands for a time.
    Refusals,
    Failovers,
    /// A Redis forgets scripts, or is told not to notify.
    Forgets,
    /// The workers lose a right for a time.
    Rights,
    Leaders,
    /// Ephemeral znodes, and long ACLs.
    Znodes,
    Deposed,
    Unheard,
    Storms,
}

impl Kind {
    pub(crate) const ALL: [Kind; 32] = [
        Kind::Kills,
        Kind::Polls,
        Kind::DiskKills,
        Kind::Stops,
        Kind::Power,
        Kind::Freezes,
        Kind::Cuts,
        Kind::Refused,
        Kind::Silent,
        Kind::Expiries,
        Kind::Clocks,
        Kind::Disk,
        Kind::Flushes,
        Kind::Restarts,
        Kind::Evictions,
        Kind::Swaps,
        Kind::Resets,
        Kind::Ensembles,
        Kind::Commands,
        Kind::Lags,
        Kind::Operations,
        Kind::Files,
        Kind::Twice,
        Kind::Refusals,
        Kind::Failovers,
        Kind::Forgets,
        Kind::Rights,
        Kind::Leaders,
        Kind::Znodes,
        Kind::Deposed,
        Kind::Unheard,
        Kind::Storms,
    ];

    /// In which part of the seeds it is.
    pub(crate) fn odds(self) -> f64 {
        match self {
            Kind::Storms => 0.06,
            Kind::Deposed | Kind::Unheard | Kind::Rights => 0.2,
            _ => 0.4,
        }
    }

    /// How often a minute, at least and at most.
    pub(crate) fn rate(self) -> (f64, f64) {
        match self {
            Kind::Kills | Kind::Polls | Kind::DiskKills => (0.5, 6.0),
            Kind::Cuts | Kind::Expiries | Kind::Commands | Kind::Operations => (0.5, 6.0),
            Kind::Refused | Kind::Silent | Kind::Lags | Kind::Refusals | Kind::Forgets => (0.5, 4.0),
            Kind::Ensembles => (0.3, 1.0),
            Kind::Twice => (0.3, 3.0),
            Kind::Files => (0.5, 4.0),
            Kind::Rights | Kind::Znodes => (1.0, 6.0),
            // Within the time of a round one after the other.
            Kind::Storms => (6.0, 60.0),
            _ => (0.3, 2.0),
        }
    }

    /// Whether it can have an effect.
    pub(crate) fn is_possible(self, settings: &Settings) -> bool {
        self != Kind::Files || settings.pipelines() > 1
    }

    pub(crate) fn one(self, draws: Draws, settings: &Settings) -> What {
        let worker = draws.below(0, settings.workers as u64) as usize;
        let store = draws.one(1, &Store::BOTH);
        let ms = draws.log_uniform(2, 100.0, 10_000.0) as u64;
        let pair = draws.below(3, (settings.pairs * settings.routes.len()) as u64) as usize;
        let pipeline = draws.named("pipeline").below(0, settings.pipelines() as u64) as usize;
        let with = draws.one(4, &[Copied::Now, Copied::Older, Copied::Nothing]);
        match self {
            Kind::Kills => What::Kill { worker },
            Kind::Polls => What::KillAtPoll { worker, polls: draws.log_uniform(5, 1.0, 2000.0) as u64 },
            Kind::DiskKills => What::KillAtDisk { worker, operations: draws.log_uniform(5, 1.0, 60.0) as u64 },
            Kind::Stops => What::Stop { worker },
            Kind::Power => What::PowerLoss { worker },
            Kind::Freezes => What::Freeze { worker, ms: ms * 2 },
            Kind::Cuts => What::Cut { worker, store },
            Kind::Refused => What::Close { worker, store, way: Way::Refused, ms },
            Kind::Silent => What::Close { worker, store, way: Way::Silent, ms },
            Kind::Expiries => {
                What::ExpireSessions { worker, which: draws.one(5, &[u64::MAX, 0b0101_0101, 0b1010_1010, 0b0011_0011]) }
            }
            Kind::Clocks => {
                let step = draws.log_uniform(5, 1000.0, 3_600_000.0) as i64;
                What::StepClock { worker, ms: if draws.happens(6, 0.5) { step } else { -step } }
            }
            Kind::Disk if draws.happens(5, 0.5) => What::RefuseSync { worker },
            Kind::Disk => What::FullDisk { worker, ms },
            Kind::Flushes => What::FlushRedis,
            Kind::Restarts if draws.happens(5, 0.5) => What::CopyRedis,
            Kind::Restarts => What::RestartRedis { with },
            Kind::Evictions => What::EvictKey { pair },
            Kind::Swaps => What::SwapDatabases,
            Kind::Resets => What::ResetStatistics,
            Kind::Ensembles if draws.happens(5, 0.6) => What::CopyEnsemble,
            Kind::Ensembles => {
                What::RestoreEnsemble { with: if draws.happens(6, 0.8) { Copied::Older } else { Copied::Nothing } }
            }
            Kind::Files => What::Files { worker, runs: some_of(settings.pipelines(), draws.named("files")) },
            Kind::Twice => What::StartAgain {
                worker,
                frozen_ms: if draws.happens(5, 0.5) { ms * 2 } else { 0 },
                ends_after_ms: draws.happens(6, 0.7).then(|| draws.log_uniform(7, 100.0, 20_000.0) as u64),
                is_killed: draws.happens(8, 0.5),
            },
            Kind::Lags => What::Lag { server: draws.below(7, settings.servers as u64) as usize, ms: ms * 2 },
            Kind::Commands => {
                use Operation::{Approve, Drop, Pause, Reconcile, Resume, Retry};
                let all = [Pause, Resume, Resume, Reconcile, Approve, Retry, Drop];
                let operation = all[draws.below(5, all.len() as u64) as usize].clone();
                What::Operate { worker, pipeline, operation, polls: None }
            }
            Kind::Operations => {
                let side = draws.one(5, &[Side::Zookeeper, Side::Redis]);
                let operation = match draws.below(6, 6) {
                    0 => Operation::Replay { to: side, until_ms: None },
                    1 | 2 => {
                        Operation::Replay { to: side, until_ms: Some(draws.log_uniform(7, 100.0, 20_000.0) as u64) }
                    }
                    3 => Operation::Repair { prefer: side },
                    4 => Operation::Restore { which: draws.below(8, 8) },
                    _ => Operation::Diff,
                };
                let polls = draws.happens(9, 0.3).then(|| draws.log_uniform(10, 1.0, 300.0) as u64);
                What::Operate { worker, pipeline, operation, polls }
            }
            Kind::Refusals => What::Store { fault: Fault::refusal(draws), ms },
            Kind::Failovers => What::Store { fault: Fault::FailsOver, ms },
            Kind::Forgets => What::Store { fault: Fault::forgets(draws), ms },
            Kind::Rights => What::Store { fault: Fault::taking(draws, settings), ms },
            Kind::Leaders => What::Store { fault: Fault::ChangesLeader, ms },
            Kind::Znodes => What::Store { fault: Fault::of_znode(draws, settings), ms },
            Kind::Deposed => What::Depose,
            Kind::Storms => match draws.below(10, 6) {
                0 => What::CopyRedis,
                1 => What::RestartRedis { with },
                2 => What::FlushRedis,
                3 => What::EvictKey { pair },
                4 => What::ResetStatistics,
                _ => What::Cut { worker, store },
            },
            Kind::Unheard => What::Unheard {
                worker,
                pair,
                happens: draws.one(8, &[Unheard::Evicted, Unheard::Evicted, Unheard::Deleted, Unheard::Restarted]),
                ms: draws.log_uniform(9, 5.0, 3000.0) as u64,
            },
        }
    }
}

impl Side {
    /// As the pipeline file names the store.
    #[must_use]
    pub fn store(self) -> &'static str {
        match self {
            Side::Zookeeper => "zk",
            Side::Redis => "cache",
        }
    }
}
