//! The network between processes and servers: each connection keeps its order both ways, nothing else has one.
//!
//! ```text
//!   a request --delay--> the server runs it (and the truth is looked at) --delay--> its answer
//!                    \-> lost                                           \-> lost
//! ```
//!
//! A delay is the seed's scale, times a lasting factor of the connection, times a part of each message: what is slow stays slow, which is
//! what brings two rounds of one pair beside each other.

use crate::draws::Draws;
use crate::executor::{Executor, ProcessId};
use crate::truth::Truth;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    Zookeeper,
    Redis,
}

impl Store {
    pub const BOTH: [Store; 2] = [Store::Zookeeper, Store::Redis];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Store::Zookeeper => "zookeeper",
            Store::Redis => "redis",
        }
    }
}

/// How a seed's network is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weather {
    /// Of each delay.
    pub scale: f64,
    /// Of each message: that it takes seconds.
    pub stalls: f64,
    /// Of each request: that it is lost with its connection.
    pub lost_requests: f64,
    /// Of each answer: the same.
    pub lost_answers: f64,
    /// Of each command to Redis: that it is refused for the moment.
    pub refusals: f64,
}

impl Weather {
    /// Messages arrive.
    pub const CALM: Weather = Weather { scale: 1.0, stalls: 0.0, lost_requests: 0.0, lost_answers: 0.0, refusals: 0.0 };
}

/// How the way of one process to one store is just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    #[default]
    Open,
    /// Nothing is accepted, and what was open is cut.
    Refused,
    /// Nothing arrives, and nobody is told.
    Silent,
}

/// What befalls a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    LosesRequest,
    LosesAnswer,
    Refused,
}

/// See the module. A clone is the same one.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    pub executor: Executor,
    pub truth: Truth,
    draws: Draws,
    state: Mutex<State>,
}

struct State {
    weather: Weather,
    ways: BTreeMap<(ProcessId, Store), Way>,
    connections: u64,
    /// Requests and attempts to connect of each process to each store.
    requests: BTreeMap<(ProcessId, Store), u64>,
    /// Of each process at each store: what the server did last, of what has arrived.
    arrived: BTreeMap<(ProcessId, Store), Arrived>,
}

/// An answer and an event, each the newest by when the server sent it, with its connection.
#[derive(Default)]
struct Arrived {
    answer: (Duration, u64),
    event: (Duration, u64),
}

impl Network {
    #[must_use]
    pub fn new(executor: Executor, truth: Truth, draws: Draws, weather: Weather) -> Network {
        let state = Mutex::new(State {
            weather,
            ways: BTreeMap::new(),
            connections: 0,
            requests: BTreeMap::new(),
            arrived: BTreeMap::new(),
        });
        Network(Arc::new(Shared { executor, truth, draws: draws.named("network"), state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.0.executor
    }

    #[must_use]
    pub fn truth(&self) -> &Truth {
        &self.0.truth
    }

    /// What is true after a request of this process; how many states there are now.
    pub fn look(&self, process: ProcessId) -> usize {
        self.0.truth.look(self.0.truth.author(process), self.0.executor.now())
    }

    /// From here on.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// From here on.
    pub fn set_way(&self, process: ProcessId, store: Store, way: Way) {
        self.state().ways.insert((process, store), way);
    }

    #[must_use]
    pub fn way(&self, process: ProcessId, store: Store) -> Way {
        self.state().ways.get(&(process, store)).copied().unwrap_or_default()
    }

    /// How many requests each process has sent to each store, attempts to connect included.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<(ProcessId, Store), u64> {
        self.state().requests.clone()
    }

    /// A new connection of a process to a store.
    #[must_use]
    pub fn connection(&self, process: ProcessId, store: Store) -> Connection {
        let mut state = self.state();
        state.connections += 1;
        let number = state.connections;
        let draws = self.0.draws.named(store.word()).with(process as u64).with(number);
        let factor = draws.log_uniform(0, 0.1, 10.0);
        let sent = Mutex::new(Sent { messages: 0, there: Duration::ZERO, back: Duration::ZERO });
        Connection(Arc::new(Line { network: self.clone(), process, store, number, draws, factor, sent }))
    }
}

/// One connection. A clone is the same one.
#[derive(Clone)]
pub struct Connection(Arc<Line>);

struct Line {
    network: Network,
    process: ProcessId,
    store: Store,
    number: u64,
    draws: Draws,
    factor: f64,
    sent: Mutex<Sent>,
}

struct Sent {
    messages: u64,
    /// When the newest request arrives, and the newest message back.
    there: Duration,
    back: Duration,
}

impl Connection {
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.0.process
    }

    #[must_use]
    pub fn way(&self) -> Way {
        self.0.network.way(self.0.process, self.0.store)
    }

    fn slot(&self, newest: impl Fn(&mut Sent) -> &mut Duration) -> (u64, Duration) {
        let weather = self.0.network.state().weather;
        let now = self.0.network.executor().now();
        let mut sent = self.0.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.messages += 1;
        let number = sent.messages;
        let draws = self.0.draws.with(number);
        let mut delay = draws.log_uniform(0, 50e-6, 50e-3) * weather.scale * self.0.factor;
        if draws.happens(1, weather.stalls) {
            delay += draws.log_uniform(2, 1.0, 5.0);
            self.network().executor().mark("network: stalled");
        }
        let newest = newest(&mut sent);
        *newest = (now + Duration::from_secs_f64(delay)).max(*newest + Duration::from_nanos(1));
        (number, *newest)
    }

    /// When a request that is sent now arrives, and what befalls it.
    #[must_use]
    pub fn request(&self) -> (Duration, Fate) {
        let (number, at) = self.slot(|sent| &mut sent.there);
        let weather = {
            let mut state = self.0.network.state();
            *state.requests.entry((self.0.process, self.0.store)).or_default() += 1;
            state.weather
        };
        let draws = self.0.draws.with(number).named("fate");
        let fate = if draws.happens(0, weather.lost_requests) {
            Fate::LosesRequest
        } else if draws.happens(1, weather.lost_answers) {
            Fate::LosesAnswer
        } else if self.0.store == Store::Redis && draws.happens(2, weather.refusals) {
            Fate::Refused
        } else {
            Fate::Arrives
        };
        (at, fate)
    }

    /// When what is sent back now arrives.
    #[must_use]
    pub fn back(&self) -> Duration {
        self.slot(|sent| &mut sent.back).1
    }

    /// An answer, or an event, that the server sent at this moment has arrived: counts where another connection was faster.
    pub fn arrived(&self, is_event: bool, sent: Duration) {
        let mut state = self.0.network.state();
        let arrived = state.arrived.entry((self.0.process, self.0.store)).or_default();
        let other = if is_event { arrived.answer } else { arrived.event };
        let newest = if is_event { &mut arrived.event } else { &mut arrived.answer };
        if sent >= newest.0 {
            *newest = (sent, self.0.number);
        }
        drop(state);
        if sent < other.0 && self.0.number != other.1 {
            self.network().executor().mark(match (self.0.store, is_event) {
                (Store::Zookeeper, true) => "zookeeper: an event behind a later answer",
                (Store::Zookeeper, false) => "zookeeper: an answer behind a later event",
                (Store::Redis, true) => "redis: an event behind a later answer",
                (Store::Redis, false) => "redis: an answer behind a later event",
            });
        }
    }

    /// Something was drawn for this connection, the n-th time.
    #[must_use]
    pub fn draws(&self) -> Draws {
        self.0.draws
    }
}
