//! What a run does: settings, and a list of actions with their times. A seed becomes a plan first; a plan is text, so that a shortened one
//! can be kept as a test.

use crate::draws::Draws;
use crate::network::{Store, Way, Weather};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

/// Which side an application writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Zookeeper,
    Redis,
}

/// Which way a route goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Both,
    ToRedis,
    ToZookeeper,
}

/// One route: its pairs are `/r<number>/<name>` and `r<number>:<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub flow: Flow,
    /// As the pipeline file writes it, without the name of the store where it is the first one.
    pub on_conflict: &'static str,
    pub on_delete: &'static str,
    pub on_expire: &'static str,
    pub publish: bool,
}

/// How a run is, but for what happens in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub seed: u64,
    /// Machines with a worker.
    pub workers: usize,
    /// Of the ensemble.
    pub servers: usize,
    pub routes: Vec<Route>,
    /// Of each route.
    pub pairs: usize,
    pub weather: Weather,
    pub session_timeout: Duration,
    pub reconcile: Duration,
    /// How long after all faults both sides may differ, besides two sessions of a former owner. Where it is less than `reconcile`, no
    /// comparison at the interval helps: what was missed must be looked for at once.
    pub patience: Duration,
    /// Of the time of load and faults.
    pub length: Duration,
    /// Names are long, deep and odd.
    pub odd_names: bool,
    /// A value has so many bytes.
    pub value_bytes: usize,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
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
    /// A server of the ensemble applies only what its clients wait for, for a time.
    Lag {
        server: usize,
        ms: u64,
    },
    /// `pause` and `resume` at whichever worker owns the pipeline.
    Pause,
    Resume,
    Reconcile,
    Approve,
}

/// What a store has after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    Now,
    Older,
    Nothing,
}

/// When, after the beginning, and what.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    pub at: Duration,
    pub what: What,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub settings: Settings,
    pub actions: Vec<Action>,
}

/// What a seed may draw, beside load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
}

impl Kind {
    const ALL: [Kind; 20] = [
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
    ];

    /// How often a minute, at least and at most.
    fn rate(self) -> (f64, f64) {
        match self {
            Kind::Kills | Kind::Polls | Kind::DiskKills => (0.5, 6.0),
            Kind::Cuts | Kind::Expiries | Kind::Commands => (0.5, 6.0),
            Kind::Refused | Kind::Silent | Kind::Lags => (0.5, 4.0),
            Kind::Ensembles => (0.3, 1.0),
            _ => (0.3, 2.0),
        }
    }

    fn one(self, draws: Draws, settings: &Settings) -> What {
        let worker = draws.below(0, settings.workers as u64) as usize;
        let store = draws.one(1, &Store::BOTH);
        let ms = draws.log_uniform(2, 100.0, 10_000.0) as u64;
        let pair = draws.below(3, (settings.pairs * settings.routes.len()) as u64) as usize;
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
            Kind::Lags => What::Lag { server: draws.below(7, settings.servers as u64) as usize, ms: ms * 2 },
            Kind::Commands => draws.one(5, &[0, 1, 2, 3]).into(),
        }
    }
}

impl From<i32> for What {
    fn from(number: i32) -> What {
        match number {
            0 => What::Pause,
            1 => What::Resume,
            2 => What::Reconcile,
            _ => What::Approve,
        }
    }
}

impl Plan {
    /// What this seed does.
    #[must_use]
    pub fn of(seed: u64) -> Plan {
        let draws = Draws::of(seed).named("plan");
        let settings = settings(seed, draws.named("settings"));
        let mut actions = Vec::new();
        let begin = Duration::from_secs(2);
        load(draws.named("load"), &settings, begin, &mut actions);
        let faults = draws.named("faults");
        let calm = seed % 8 == 0;
        let single = (seed % 8 == 1).then(|| faults.one(0, &Kind::ALL));
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            let of = faults.with(number as u64);
            let is_on = match single {
                Some(single) => single == kind,
                None => of.happens(0, 0.4),
            };
            if calm || !is_on {
                continue;
            }
            let (low, high) = kind.rate();
            let rate = of.log_uniform(1, low, high);
            let mut at = begin;
            for n in 0.. {
                let each = of.with(n + 1);
                at += Duration::from_secs_f64(-(1.0 - each.part(100)).ln() * 60.0 / rate);
                if at > begin + settings.length {
                    break;
                }
                actions.push(Action { at, what: kind.one(each, &settings) });
            }
        }
        actions.sort_by_key(|action| action.at);
        Plan { settings, actions }
    }
}

fn settings(seed: u64, draws: Draws) -> Settings {
    let routes = 1 + draws.below(0, 2) as usize;
    let flows = [Flow::Both, Flow::Both, Flow::Both, Flow::ToRedis, Flow::ToZookeeper];
    let rules = ["prefer zk", "prefer cache", "latest", "higher_version"];
    let routes = (0..routes as u64).map(|number| {
        let of = draws.named("route").with(number);
        Route {
            flow: of.one(0, &flows),
            on_conflict: of.one(1, &rules),
            on_delete: if of.happens(2, 0.15) { "keep" } else { "propagate" },
            on_expire: if of.happens(3, 0.15) { "keep" } else { "propagate" },
            publish: of.happens(4, 0.2),
        }
    });
    let is_rough = |n| draws.happens(n, 0.4);
    let rate = |n, is_on: bool| if is_on { draws.log_uniform(n, 0.001, 0.03) } else { 0.0 };
    let calm = seed % 8 <= 1;
    let weather = Weather {
        scale: draws.log_uniform(10, 0.05, 3.0),
        stalls: if is_rough(11) { draws.log_uniform(12, 0.000_1, 0.005) } else { 0.0 },
        lost_requests: rate(14, is_rough(13)),
        lost_answers: rate(16, is_rough(15)),
        refusals: rate(18, draws.happens(17, 0.25)),
    };
    let is_prompt = calm || draws.happens(9, 0.3);
    let reconcile = Duration::from_secs(if is_prompt { 600 } else { draws.one(4, &[5, 10, 20]) });
    Settings {
        seed,
        workers: 1 + draws.below(1, 3) as usize,
        servers: if draws.happens(8, 0.5) { 3 } else { 1 },
        routes: routes.collect(),
        pairs: draws.log_uniform(2, 1.0, 24.0) as usize,
        weather: if calm { Weather { scale: weather.scale, ..Weather::CALM } } else { weather },
        session_timeout: Duration::from_secs(draws.one(3, &[4, 6, 10])),
        patience: if is_prompt { Duration::from_secs(35) } else { reconcile + Duration::from_secs(35) },
        reconcile,
        length: Duration::from_secs(20 + draws.below(5, 20)),
        odd_names: draws.happens(6, 0.2),
        value_bytes: if draws.happens(7, 0.1) { 70_000 } else { 8 },
    }
}

fn load(draws: Draws, settings: &Settings, begin: Duration, actions: &mut Vec<Action>) {
    let rate = draws.log_uniform(0, 1.0, 30.0);
    let one_sided = draws.happens(1, 0.2);
    let deletes = draws.part(2) * 0.3;
    let pairs = (settings.pairs * settings.routes.len()) as u64;
    let mut at = begin;
    for n in 0.. {
        let each = draws.with(n + 1);
        at += Duration::from_secs_f64(-(1.0 - each.part(0)).ln() / rate);
        if at > begin + settings.length {
            return;
        }
        let pair = each.below(1, pairs) as usize;
        let route = &settings.routes[pair / settings.pairs];
        let side = match route.flow {
            // What is written at a destination is reverted.
            Flow::ToRedis if each.happens(2, 0.9) => Side::Zookeeper,
            Flow::ToZookeeper if each.happens(2, 0.9) => Side::Redis,
            _ if one_sided => [Side::Zookeeper, Side::Redis][pair % 2],
            _ => each.one(3, &[Side::Zookeeper, Side::Redis]),
        };
        let what = if each.happens(4, deletes) {
            What::Delete { side, pair }
        } else if side == Side::Redis && each.happens(5, 0.05) {
            What::Expire { pair, ms: each.log_uniform(6, 50.0, 8000.0) as u64 }
        } else {
            What::Set { side, pair, value: n + 1 }
        };
        actions.push(Action { at, what });
    }
}

impl Settings {
    /// A small world without faults of its own: some machines, one two-way route of two pairs, short delays.
    #[must_use]
    pub fn small(seed: u64, workers: usize) -> Settings {
        let route = Route {
            flow: Flow::Both,
            on_conflict: "prefer zk",
            on_delete: "propagate",
            on_expire: "propagate",
            publish: false,
        };
        Settings {
            seed,
            workers,
            servers: 1,
            routes: vec![route],
            pairs: 2,
            weather: Weather::CALM,
            session_timeout: Duration::from_secs(4),
            reconcile: Duration::from_secs(5),
            patience: Duration::from_secs(40),
            length: Duration::from_secs(6),
            odd_names: false,
            value_bytes: 8,
        }
    }

    /// The pipeline file.
    #[must_use]
    pub fn file(&self) -> String {
        let mut file = format!(
            "version: 1\npipeline: sim\nstores:\n  zk:\n    zookeeper: {{connect: \"double:2181\", session_timeout: {}s}}\n  \
             cache:\n    redis: {{url: \"redis://double:6379/0\"}}\nroutes:\n",
            self.session_timeout.as_secs()
        );
        for (number, route) in self.routes.iter().enumerate() {
            let flow = match route.flow {
                Flow::Both => "zk <-> cache",
                Flow::ToRedis => "zk -> cache",
                Flow::ToZookeeper => "cache -> zk",
            };
            file += &format!(
                "  - name: r{number}\n    flow: {flow}\n    match: {{zk: /r{number}/**, cache: \"r{number}:**\"}}\n    on_delete: {}\n    \
                 on_expire: {}\n",
                route.on_delete, route.on_expire
            );
            if route.flow == Flow::Both {
                file += &format!("    on_conflict: {}\n", route.on_conflict);
            }
            if route.publish && route.flow != Flow::ToZookeeper {
                file += &format!("    publish: changes{number}\n");
            }
        }
        file += &format!("worker:\n  reconcile: {}s\n", self.reconcile.as_secs());
        file
    }

    /// Path and key of a pair.
    #[must_use]
    pub fn names(&self, pair: usize) -> (String, Vec<u8>) {
        let (route, number) = (pair / self.pairs, pair % self.pairs);
        let name = if self.odd_names {
            let deep = "d/".repeat(number % 7);
            format!("{deep}p {number} %é{}", "x".repeat(number * 8 % 200))
        } else {
            format!("p{number}")
        };
        let key = format!("r{route}:{}", name.replace('/', ":"));
        (format!("/r{route}/{name}"), key.into_bytes())
    }

    /// The bytes of a value.
    #[must_use]
    pub fn value(&self, value: u64) -> Vec<u8> {
        let mut bytes = format!("v{value}").into_bytes();
        if self.value_bytes > 8 && value % 5 == 0 {
            bytes.resize(self.value_bytes, b'.');
        }
        bytes
    }
}

impl Display for Action {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{:.6} {:?}", self.at.as_secs_f64(), self.what)
    }
}

/// A plan as one line: its seed, and the numbers of the actions of that seed's plan that are left. What the seed draws otherwise is
/// the same, since draws are keyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    pub seed: u64,
    /// `None`: all of them.
    pub actions: Option<Vec<usize>>,
    /// Another order of tasks and other delays, as by this number; 0: the seed's own.
    pub schedule: u64,
}

impl Story {
    #[must_use]
    pub fn of(seed: u64) -> Story {
        Story { seed, actions: None, schedule: 0 }
    }

    /// What is played.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::of(self.seed);
        if let Some(left) = &self.actions {
            plan.actions = left.iter().filter_map(|at| plan.actions.get(*at).cloned()).collect();
        }
        plan
    }
}

impl Display for Story {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.seed)?;
        if self.schedule != 0 {
            write!(out, "/{}", self.schedule)?;
        }
        if let Some(left) = &self.actions {
            let left: Vec<String> = left.iter().map(usize::to_string).collect();
            write!(out, ":{}", left.join(","))?;
        }
        Ok(())
    }
}

impl FromStr for Story {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Story, Self::Err> {
        let (head, left) = text.split_once(':').map_or((text, None), |(head, left)| (head, Some(left)));
        let (seed, schedule) = head.split_once('/').unwrap_or((head, "0"));
        let actions = left.map(|left| left.split(',').filter(|at| !at.is_empty()).map(str::parse).collect());
        Ok(Story { seed: seed.parse()?, actions: actions.transpose()?, schedule: schedule.parse()? })
    }
}
