//! What is true of each pair, whatever the workers believe: every state that either side ever had, who made it, and when.
//!
//! The doubles are looked at after each request that reaches them, so no state is missed and each has its author.

use crate::executor::{Executor, ProcessId};
use crate::published::{Message, Subscriber};
use crate::settings::name_of;
use keepstep_doubles::redis::data::Kind;
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::zookeeper::DoubleEnsemble;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The znode whose version fences the writes of former owners of a pipeline.
fn fence_of(pipeline: usize) -> String {
    format!("/_keepstep/{}/epoch", name_of(pipeline))
}

/// A znode that fences, and who raised it.
#[derive(Default)]
struct Fence {
    path: String,
    /// Its czxid and mzxid.
    raised: Option<(i64, i64)>,
    /// When it was raised: each time an ownership began.
    raises: Vec<Duration>,
    /// After a restore the next owner is not known yet.
    owner: Option<ProcessId>,
}

/// Who changed a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Somebody who uses the store: what they write must not be lost.
    Application,
    Worker(ProcessId),
    /// A command line of an operator.
    Command(ProcessId),
    /// A time to live that ran out.
    Expiry,
    /// A fault of the store: a flush, a restart from a copy, an eviction.
    Loss,
}

/// One state of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub at: Duration,
    pub by: Author,
    /// `None`: nothing is there.
    pub value: Option<Vec<u8>>,
    /// Of a znode that is there: czxid and dataVersion.
    pub znode: Option<(i64, i32)>,
    /// An ephemeral znode: whatever its key is given by others is reverted.
    pub is_ephemeral: bool,
}

/// czxid, mzxid, dataVersion and ephemeral owner; `None`: nothing is there.
type Stamp = Option<(i64, i64, i32, i64)>;

/// One pair.
#[derive(Debug, Clone)]
pub struct Pair {
    pub path: String,
    pub key: Vec<u8>,
    /// By its place among all routes.
    pub route: usize,
    /// Which pipeline has the route.
    pub pipeline: usize,
    pub zookeeper: Vec<State>,
    pub redis: Vec<State>,
    /// When the key expires, milliseconds since the epoch.
    expires_ms: Option<i64>,
    /// Values that Redis lost before their time to live had passed, and when it passes: a database that comes back has them no more.
    pub expiring: Vec<(Vec<u8>, Duration)>,
    /// Of the znode, as last seen.
    stamp: Stamp,
    /// When ZooKeeper, and when Redis, lost data, whichever.
    pub losses: [Vec<Duration>; 2],
}

impl Pair {
    #[must_use]
    pub fn new(path: String, key: Vec<u8>, route: usize, pipeline: usize) -> Pair {
        let nothing = || {
            vec![State { at: Duration::ZERO, by: Author::Application, value: None, znode: None, is_ephemeral: false }]
        };
        Pair {
            path,
            key,
            route,
            pipeline,
            zookeeper: nothing(),
            redis: nothing(),
            expires_ms: None,
            expiring: Vec::new(),
            stamp: None,
            losses: [Vec::new(), Vec::new()],
        }
    }

    /// When either side last lost data, or may have.
    #[must_use]
    pub fn last_loss(&self) -> Option<Duration> {
        self.losses.iter().flatten().max().copied()
    }
}

/// What begins the value of a key that is no string.
pub const OTHER_TYPE: &[u8] = b"<type ";

/// What a key holds; of one that is no string, its first field.
fn held(kind: &Kind) -> Cow<'_, [u8]> {
    match kind {
        Kind::Text(text) => Cow::Borrowed(text.as_slice()),
        Kind::Hash(fields) => {
            let value = fields.first().map(|(_, value)| value.as_slice()).unwrap_or_default();
            Cow::Owned([OTHER_TYPE, b"hash> ", value].concat())
        }
        other => Cow::Owned([OTHER_TYPE, other.name().as_bytes(), b">"].concat()),
    }
}

/// The newest state.
#[must_use]
pub fn newest(states: &[State]) -> Option<&Vec<u8>> {
    states.last().and_then(|state| state.value.as_ref())
}

/// Whether both sides have something else.
#[must_use]
pub fn differs(pair: &Pair) -> bool {
    newest(&pair.zookeeper) != newest(&pair.redis)
}

/// See the module. A clone is the same one.
#[derive(Clone)]
pub struct Truth(Arc<Inner>);

struct Inner {
    ensemble: DoubleEnsemble,
    server: Double,
    executor: Executor,
    state: Mutex<Known>,
}

struct Known {
    pairs: Vec<Pair>,
    transactions: usize,
    zxid: i64,
    changes: u64,
    /// The next look is at every value, whether it seems to have changed or not.
    is_forgotten: bool,
    next_expiry_ms: Option<i64>,
    commands: BTreeSet<ProcessId>,
    /// Who opened each session of the ensemble.
    sessions: BTreeMap<i64, ProcessId>,
    /// Of each pipeline.
    fences: Vec<Fence>,
    /// `None`: no route publishes.
    subscriber: Option<Subscriber>,
    wrong: Vec<String>,
}

impl Known {
    fn author(&self, process: ProcessId) -> Author {
        if self.commands.contains(&process) { Author::Command(process) } else { Author::Worker(process) }
    }
}

impl Truth {
    #[must_use]
    pub fn new(ensemble: DoubleEnsemble, server: Double, executor: Executor, pairs: Vec<Pair>) -> Truth {
        let pipelines = pairs.iter().map(|pair| pair.pipeline + 1).max().unwrap_or(0);
        let fences = (0..pipelines).map(|pipeline| Fence { path: fence_of(pipeline), ..Fence::default() });
        let state = Mutex::new(Known {
            fences: fences.collect(),
            pairs,
            transactions: 0,
            zxid: 0,
            changes: u64::MAX,
            is_forgotten: true,
            next_expiry_ms: None,
            commands: BTreeSet::new(),
            sessions: BTreeMap::new(),
            subscriber: None,
            wrong: Vec::new(),
        });
        Truth(Arc::new(Inner { ensemble, server, executor, state }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process is a command line, not a worker.
    pub fn is_command(&self, process: ProcessId) {
        self.known().commands.insert(process);
    }

    /// This process writes by this session.
    pub fn is_session(&self, session: i64, process: ProcessId) {
        self.known().sessions.insert(session, process);
    }

    /// As whom a process writes.
    #[must_use]
    pub fn author(&self, process: ProcessId) -> Author {
        self.known().author(process)
    }

    /// Someone subscribes to what routes publish.
    pub fn subscribe(&self) {
        let mut subscriber = Subscriber::default();
        subscriber.receive(&self.0.server, Author::Application, Duration::ZERO);
        self.known().subscriber = Some(subscriber);
    }

    /// When ownerships of each pipeline began.
    #[must_use]
    pub fn ownerships(&self) -> Vec<Vec<Duration>> {
        self.known().fences.iter().map(|fence| fence.raises.clone()).collect()
    }

    /// What was published.
    #[must_use]
    pub fn published(&self) -> Vec<Message> {
        self.known().subscriber.as_ref().map(|subscriber| subscriber.received.clone()).unwrap_or_default()
    }

    /// Something must not be.
    pub fn accuse(&self, what: String) {
        self.known().wrong.push(what);
    }

    /// What must not be.
    #[must_use]
    pub fn accused(&self) -> Vec<String> {
        self.known().wrong.clone()
    }

    /// Notes what has changed since the last look, by this author; how many states there are now.
    pub fn look(&self, by: Author, at: Duration) -> usize {
        self.look_at(by, at);
        self.states()
    }

    fn look_at(&self, by: Author, at: Duration) {
        let mut guard = self.known();
        let known = &mut *guard;
        let now = self.0.ensemble.look(|ensemble| (ensemble.transactions(), ensemble.zxid()));
        if now != (known.transactions, known.zxid) {
            // A server that catches up decides what waited there, whoever asks.
            let writers: BTreeMap<String, Author> = self.0.ensemble.look(|ensemble| {
                let writers = ensemble.writers_since(known.transactions).into_iter();
                let author = |session: i64| known.sessions.get(&session).map(|process| known.author(*process));
                writers.filter_map(|(path, session)| Some((path.to_owned(), author(session)?))).collect()
            });
            let writer = |path: &str| writers.get(path).copied().unwrap_or(by);
            (known.transactions, known.zxid) = now;
            let mut is_raised = false;
            for fence in &mut known.fences {
                let by = writer(&fence.path);
                let raised = self.0.ensemble.stat(&fence.path).map(|stat| (stat.czxid, stat.mzxid));
                if raised != fence.raised {
                    fence.raised = raised;
                    fence.raises.push(at);
                    fence.owner = if let Author::Worker(process) = by { Some(process) } else { None };
                    is_raised = true;
                }
            }
            if is_raised
                && let [Some(one), others @ ..] = &*known.fences.iter().map(|fence| fence.owner).collect::<Vec<_>>()
            {
                match others.iter().flatten().any(|other| other == one) {
                    _ if others.iter().flatten().next().is_none() => {}
                    true => self.0.executor.mark("pipelines: one worker owns several"),
                    false => self.0.executor.mark("pipelines: several workers own them"),
                }
            }
            let changed: Vec<(usize, Stamp, Option<Vec<u8>>)> = self.0.ensemble.look(|ensemble| {
                let of = |(number, pair): (usize, &Pair)| {
                    let znode = ensemble.tree().get(&pair.path);
                    let stamp =
                        znode.map(|znode| (znode.stamp.czxid, znode.stamp.mzxid, znode.stamp.version, znode.owner));
                    if stamp == pair.stamp && !known.is_forgotten {
                        return None;
                    }
                    let data = znode.map(|znode| &*znode.data).filter(|data| !data.is_empty());
                    let is_new = data != newest(&pair.zookeeper).map(Vec::as_slice);
                    (is_new || stamp != pair.stamp).then(|| (number, stamp, data.map(<[u8]>::to_vec)))
                };
                known.pairs.iter().enumerate().filter_map(of).collect()
            });
            known.is_forgotten = false;
            for (number, stamp, value) in changed {
                let Some(pair) = known.pairs.get_mut(number) else { continue };
                let by = writer(&pair.path);
                pair.stamp = stamp;
                if value.as_ref() == newest(&pair.zookeeper) {
                    continue;
                }
                self.note(number, 0, value.as_deref(), by);
                let owner = known.fences.get(pair.pipeline).and_then(|fence| fence.owner);
                if let (Author::Worker(process), Some(owner)) = (by, owner)
                    && process != owner
                {
                    let (at, path) = (at.as_secs_f64(), &pair.path);
                    known
                        .wrong
                        .push(format!("{at:.6} unfenced: process {process} wrote {path}, and {owner} is the owner"));
                }
                let znode = stamp.map(|(czxid, _, version, _)| (czxid, version));
                let is_ephemeral = stamp.is_some_and(|(.., owner)| owner != 0);
                pair.zookeeper.push(State { at, by, value, znode, is_ephemeral });
            }
        }
        if let Some(subscriber) = &mut known.subscriber {
            subscriber.receive(&self.0.server, by, at);
        }
        let changes = self.0.server.look(|server| server.changes);
        let now_ms = self.0.server.look(|server| server.now_ms);
        // An expired key is gone for whoever looks, whether the server has got to it or not.
        let is_due = known.next_expiry_ms.is_some_and(|at| at < now_ms);
        if changes != known.changes || is_due {
            known.changes = changes;
            let seen: Vec<(Option<i64>, Option<Option<Vec<u8>>>)> = self.0.server.look(|server| {
                let of = |pair: &Pair| {
                    let entry = server.peek(0, &pair.key);
                    let entry = entry.filter(|entry| entry.expires_ms.is_none_or(|at| server.now_ms <= at));
                    let value = entry.map(|entry| held(&entry.kind));
                    let is_new = value.as_deref() != newest(&pair.redis).map(Vec::as_slice);
                    (entry.and_then(|entry| entry.expires_ms), is_new.then(|| value.map(Cow::into_owned)))
                };
                known.pairs.iter().map(of).collect()
            });
            for ((number, pair), (expires_ms, is_new)) in known.pairs.iter_mut().enumerate().zip(seen) {
                let left_ms = pair.expires_ms.map(|at| at - now_ms);
                let was_due = left_ms.is_some_and(|left| left <= 0);
                if let (Some(left), true, Author::Loss, Some(had)) =
                    (left_ms, is_new.is_some(), by, newest(&pair.redis))
                {
                    pair.expiring.push((had.clone(), at + Duration::from_millis(left.unsigned_abs())));
                }
                pair.expires_ms = expires_ms;
                if let Some(value) = is_new {
                    // Whoever asks for a key whose time has come removes it.
                    let by = if value.is_none() && was_due && by != Author::Loss { Author::Expiry } else { by };
                    self.note(number, 1, value.as_deref(), by);
                    pair.redis.push(State { at, by, value, znode: None, is_ephemeral: false });
                }
            }
            known.next_expiry_ms = known.pairs.iter().filter_map(|pair| pair.expires_ms).min();
        }
    }

    /// The next look is at everything.
    pub fn forget(&self) {
        let mut known = self.known();
        (known.transactions, known.changes, known.is_forgotten) = (usize::MAX, u64::MAX, true);
    }

    /// This side has lost data, or may have.
    pub fn lost(&self, side: usize, at: Duration) {
        self.known().pairs.iter_mut().for_each(|pair| pair.losses[side].push(at));
    }

    /// The keys of which this is true, with the numbers of their pairs.
    #[must_use]
    pub fn with_keys(&self, is_meant: impl Fn(&[u8]) -> bool) -> Vec<(usize, Vec<u8>)> {
        let known = self.known();
        let meant = known.pairs.iter().enumerate().filter(|(_, pair)| is_meant(&pair.key));
        meant.map(|(number, pair)| (number, pair.key.clone())).collect()
    }

    /// Whether the newest state of this side of a pair is of this moment.
    #[must_use]
    pub fn was_changed_at(&self, pair: usize, is_redis: bool, at: Duration) -> bool {
        let known = self.known();
        let pair = &known.pairs[pair];
        let states = if is_redis { &pair.redis } else { &pair.zookeeper };
        states.last().is_some_and(|state| state.at == at)
    }

    /// Whether a key has a time to live.
    #[must_use]
    pub fn has_expiry(&self) -> bool {
        self.known().pairs.iter().any(|pair| pair.expires_ms.is_some())
    }

    fn note(&self, pair: usize, side: u64, value: Option<&[u8]>, by: Author) {
        if matches!(by, Author::Command(_)) {
            self.0.executor.mark(if value.is_some() { "command: wrote" } else { "command: deleted" });
        }
        let value =
            value.map_or(0, |value| value.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31) ^ u64::from(*byte)));
        self.0.executor.trace((pair as u64) << 8 ^ side ^ value.rotate_left(20));
    }

    /// Everything.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        self.known().pairs.clone()
    }

    /// Whether this is true of each pair.
    #[must_use]
    pub fn is_all(&self, is_so: impl Fn(usize, &Pair) -> bool) -> bool {
        self.known().pairs.iter().enumerate().all(|(number, pair)| is_so(number, pair))
    }

    /// How many states there were of the pairs of these keys.
    #[must_use]
    pub fn states_of(&self, is_meant: impl Fn(&[u8]) -> bool) -> usize {
        let known = self.known();
        let meant = known.pairs.iter().filter(|pair| is_meant(&pair.key));
        meant.map(|pair| pair.zookeeper.len() + pair.redis.len()).sum()
    }

    /// How many states there were.
    #[must_use]
    pub fn states(&self) -> usize {
        self.known().pairs.iter().map(|pair| pair.zookeeper.len() + pair.redis.len()).sum()
    }
}
