//! How a run is, but for what happens in it: machines, routes, names and values, the network.

use crate::draws::Draws;
use crate::network::Weather;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which way a route goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    Both,
    ToRedis,
    ToZookeeper,
}

/// One route: its pairs are `/r<number>/<name>` and `r<number>:<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub flow: Flow,
    /// As the pipeline file writes it, without the name of the store where it is the first one.
    pub on_conflict: String,
    pub on_delete: String,
    pub on_expire: String,
    pub publish: bool,
    /// Which pipeline has it.
    #[serde(default)]
    pub pipeline: usize,
}

/// How a run is, but for what happens in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub seed: u64,
    /// Another order of tasks and other delays, as by this number; 0: the seed's own.
    pub schedule: u64,
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
    /// Which pipelines the worker of each machine runs at first; a machine that is not named runs all of them.
    #[serde(default)]
    pub runs: Vec<Vec<usize>>,
    /// Many pairs are deleted at once.
    #[serde(default)]
    pub is_bulk: bool,
    #[serde(default)]
    pub guard: Guard,
}

/// The name of a pipeline, by its number.
#[must_use]
pub fn name_of(pipeline: usize) -> String {
    if pipeline == 0 { "sim".to_owned() } else { format!("sim{pipeline}") }
}

/// All pipelines, or some of them, but not none.
#[must_use]
pub(crate) fn some_of(pipelines: usize, draws: Draws) -> Vec<usize> {
    let one = draws.below(0, pipelines as u64) as usize;
    let has = |pipeline: &usize| *pipeline == one || draws.happens(1, 0.4) || draws.happens(10 + *pipeline as u64, 0.5);
    (0..pipelines).filter(has).collect()
}

/// The delete guard, and who is there to approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guard {
    pub is_off: bool,
    pub nobody_approves: bool,
}

/// Values from this number on are larger than what is mirrored, and smaller than what ZooKeeper takes.
pub const TOO_LARGE: u64 = 9_000_000_000;
const TOO_LARGE_BYTES: usize = 1_020_000;

impl Settings {
    /// Those of a seed.
    #[must_use]
    pub fn draw(seed: u64, draws: Draws) -> Settings {
        let kept = |is_kept| if is_kept { "keep" } else { "propagate" }.to_owned();
        let routes = 1 + draws.below(0, 2) as usize;
        let flows = [Flow::Both, Flow::Both, Flow::Both, Flow::ToRedis, Flow::ToZookeeper];
        let rules = ["prefer zk", "prefer cache", "latest", "higher_version"];
        let rule = |of: Draws| if of.happens(5, 0.05) { "quarantine" } else { of.one(1, &rules) };
        let several = draws.named("pipelines");
        let pipelines = if several.happens(0, 0.25) { 2 + several.below(1, 2) as usize } else { 1 };
        let workers = 1 + draws.below(1, 3) as usize;
        let routes = (0..routes + pipelines - 1).map(|number| {
            let of = draws.named("route").with(number as u64);
            let pipeline = match number {
                0 => 0,
                more if more >= routes => more - routes + 1,
                _ => several.below(2, pipelines as u64) as usize,
            };
            Route {
                pipeline,
                flow: of.one(0, &flows),
                on_conflict: rule(of).to_owned(),
                on_delete: kept(of.happens(2, 0.15)),
                on_expire: kept(of.happens(3, 0.15)),
                publish: of.happens(4, 0.2),
            }
        });
        let is_rough = |n| draws.happens(n, 0.4);
        // Few digits, so that a plan's text is the plan.
        let short = |number: f64| (number * 1e6).round() / 1e6;
        let rate = |n, is_on: bool| if is_on { short(draws.log_uniform(n, 0.001, 0.03)) } else { 0.0 };
        let calm = seed % 8 <= 1;
        let weather = Weather {
            scale: short(draws.log_uniform(10, 0.05, 3.0)),
            stalls: if is_rough(11) { short(draws.log_uniform(12, 0.000_1, 0.005)) } else { 0.0 },
            lost_requests: rate(14, is_rough(13)),
            lost_answers: rate(16, is_rough(15)),
            refusals: rate(18, draws.happens(17, 0.25)),
        };
        let is_prompt = calm || draws.happens(9, 0.3);
        let bulk = draws.named("bulk");
        let is_bulk = bulk.happens(0, 0.03);
        let guard = Guard { is_off: bulk.happens(1, 0.2), nobody_approves: bulk.happens(2, 0.4) };
        let pairs = if is_bulk { 90 + bulk.below(3, 130) as usize } else { draws.log_uniform(2, 1.0, 24.0) as usize };
        let reconcile = Duration::from_secs(if is_prompt { 600 } else { draws.one(4, &[5, 10, 20]) });
        Settings {
            seed,
            schedule: 0,
            workers,
            servers: if draws.happens(8, 0.5) { 3 } else { 1 },
            routes: routes.collect(),
            pairs,
            weather: if calm { Weather { scale: weather.scale, ..Weather::CALM } } else { weather },
            session_timeout: Duration::from_secs(draws.one(3, &[4, 6, 10])),
            // The first comparison looks through the sidecars one bucket after the other, each in a request of its own.
            patience: if is_prompt { Duration::from_secs(35) } else { reconcile + Duration::from_secs(35) }
                + Duration::from_millis(if is_bulk { 250 * pairs as u64 * 2 } else { 0 }),
            reconcile,
            length: Duration::from_secs(20 + draws.below(5, 20)),
            odd_names: draws.happens(6, 0.2),
            value_bytes: if draws.happens(7, 0.1) && !is_bulk { 70_000 } else { 8 },
            is_bulk,
            guard: if is_bulk { guard } else { Guard::default() },
            runs: match pipelines {
                1 => Vec::new(),
                _ => (0..workers as u64).map(|machine| some_of(pipelines, several.with(10 + machine))).collect(),
            },
        }
    }

    /// How many pipelines there are.
    #[must_use]
    pub fn pipelines(&self) -> usize {
        self.routes.iter().map(|route| route.pipeline + 1).max().unwrap_or(1)
    }

    /// Which pipelines the worker of a machine runs at first.
    #[must_use]
    pub fn runs_of(&self, machine: usize) -> Vec<usize> {
        self.runs.get(machine).cloned().unwrap_or_else(|| (0..self.pipelines()).collect())
    }

    /// A small world without faults of its own: some machines, one two-way route of two pairs, short delays.
    #[must_use]
    pub fn small(seed: u64, workers: usize) -> Settings {
        let route = Route {
            flow: Flow::Both,
            on_conflict: "prefer zk".to_owned(),
            on_delete: "propagate".to_owned(),
            on_expire: "propagate".to_owned(),
            publish: false,
            pipeline: 0,
        };
        Settings {
            seed,
            schedule: 0,
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
            runs: Vec::new(),
            is_bulk: false,
            guard: Guard::default(),
        }
    }

    /// Compares everything at least so often.
    pub(crate) fn compare_every(&mut self, interval: Duration) {
        if interval < self.reconcile {
            self.reconcile = interval;
            self.patience = interval + Duration::from_secs(35);
        }
    }

    /// The file of a pipeline.
    #[must_use]
    pub fn file(&self, pipeline: usize) -> String {
        let mut file = format!(
            "version: 1\npipeline: {}\nstores:\n  zk:\n    zookeeper: {{connect: \"double:2181\", session_timeout: {}s}}\n  \
             cache:\n    redis: {{url: \"redis://double:6379/0\"}}\nroutes:\n",
            name_of(pipeline),
            self.session_timeout.as_secs()
        );
        for (number, route) in self.routes.iter().enumerate().filter(|(_, route)| route.pipeline == pipeline) {
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
            if self.is_published(number) {
                file += &format!("    publish: changes{number}\n");
            }
        }
        file += &format!("worker:\n  reconcile: {}s\n", self.reconcile.as_secs());
        if self.guard.is_off {
            file += "  delete_guard: off\n";
        }
        file
    }

    /// Whether changes that are written to Redis are published.
    #[must_use]
    pub fn is_published(&self, route: usize) -> bool {
        let route = &self.routes[route];
        route.publish && route.flow != Flow::ToZookeeper
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
        if value >= TOO_LARGE {
            bytes.resize(TOO_LARGE_BYTES, b'.');
        } else if self.value_bytes > 8 && value % 5 == 0 {
            bytes.resize(self.value_bytes, b'.');
        }
        bytes
    }
}
