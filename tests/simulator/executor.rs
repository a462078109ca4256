//! The executor: one thread on which the tasks of all processes take turns, in an order and at times that follow from a seed.
//!
//! ```text
//!   ready tasks --drawn--> polled as its process --> wakes others, begins tasks, waits for timers
//!   nothing ready --> the clock goes on to the next timer
//! ```
//!
//! A process that is killed is marked first, so that nothing it still does has an effect (`World` answers for a dead process: its disk, its
//! tasks, its requests), and then its tasks are dropped. One that is frozen is not polled; what wakes it piles up.

use crate::draws::Draws;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keepstep::env::disk::{self, Disk};
use keepstep::env::world::{self, Asked, Process, Running, World};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A process: the servers' network is one, each start of a worker is another one.
pub type ProcessId = usize;

/// The process of the network, the servers and the applications.
pub const NETWORK: ProcessId = 0;

/// So many polls at one instant are a task that wakes itself for ever.
const POLLS_AT_ONE_INSTANT: u64 = 200_000;

/// The clock begins here: 2027-01-15.
const BEGINNING: Duration = Duration::from_millis(1_800_000_000_000);

type TaskId = u64;

/// What serves a worker's socket.
pub type Answers = Arc<dyn Fn(Asked) -> BoxFuture<'static, (u16, Vec<u8>)> + Send + Sync>;

/// Why [`Executor::run`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paused {
    /// It is that time.
    Time,
    /// This process was killed where its plan said so.
    Killed(ProcessId),
    /// Something that must not be: a panic, a task that wakes itself for ever.
    Broken(String),
}

/// What a process is.
pub struct Start {
    pub process: Process,
    pub disk: Arc<dyn Disk>,
    /// Whether its disk has killed it.
    pub was_killed: Box<dyn Fn() -> bool + Send>,
    /// The machine's clock is ahead by this, milliseconds.
    pub clock_ms: i64,
    /// How much faster that clock goes than time.
    pub drift: f64,
}

impl Start {
    /// What its machine's clock shows at this moment.
    pub(crate) fn unix_time(&self, now: Duration) -> Duration {
        let true_time = BEGINNING + Duration::from_secs_f64(now.as_secs_f64() * (1.0 + self.drift));
        let ahead = Duration::from_millis(self.clock_ms.unsigned_abs());
        if self.clock_ms < 0 { true_time.saturating_sub(ahead) } else { true_time + ahead }
    }
}

pub(crate) struct State {
    pub(crate) now: Duration,
    draws: Draws,
    steps: u64,
    pub(crate) current: ProcessId,
    pub(crate) processes: Vec<Of>,
    tasks: BTreeMap<TaskId, Slot>,
    ready: Vec<TaskId>,
    timers: BTreeMap<(Duration, u64), Waker>,
    next: u64,
    /// Polls since the clock last went on.
    polls: u64,
    pub(crate) broken: Option<String>,
    killed: Vec<ProcessId>,
    trace: (u64, u64),
    /// Named points, and how often they were met.
    marks: BTreeMap<String, u64>,
    pub(crate) planted: Option<String>,
    /// Sockets of workers: machine, path, who serves it.
    pub(crate) sockets: Vec<(String, PathBuf, ProcessId, Answers)>,
}

pub(crate) struct Of {
    pub(crate) start: Start,
    pub(crate) is_dead: bool,
    is_frozen: bool,
    polls: u64,
    /// It is killed when so many of its polls are over.
    kill_at_poll: Option<u64>,
    pub(crate) numbers: u64,
    /// What both clocks showed when it began.
    pub(crate) began: (i64, Duration),
    pub(crate) draws: Draws,
    /// What it has written to its standard output.
    pub(crate) printed: Vec<u8>,
    /// Woken while it was frozen.
    waiting: Vec<TaskId>,
}

struct Slot {
    process: ProcessId,
    work: Option<BoxFuture<'static, ()>>,
    waker: Waker,
    is_ready: bool,
    /// It is dropped once its poll is over.
    is_aborted: bool,
    ended: Arc<AtomicBool>,
}

/// See the module. A clone is the same one.
#[derive(Clone)]
pub struct Executor(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    woken: Arc<Mutex<Vec<TaskId>>>,
}

struct Wakes {
    task: TaskId,
    woken: Arc<Mutex<Vec<TaskId>>>,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        lock(&self.woken).push(self.task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// With the network's process, on this disk.
    #[must_use]
    pub fn new(draws: Draws, disk: Arc<dyn Disk>) -> Executor {
        let state = State {
            now: Duration::ZERO,
            draws: draws.named("order"),
            steps: 0,
            current: NETWORK,
            processes: Vec::new(),
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            timers: BTreeMap::new(),
            next: 0,
            polls: 0,
            broken: None,
            killed: Vec::new(),
            trace: (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344),
            marks: BTreeMap::new(),
            planted: None,
            sockets: Vec::new(),
        };
        let executor = Executor(Arc::new(Shared { state: Mutex::new(state), woken: Arc::default() }));
        let process = Process { id: 1, host: "network".to_owned(), machine: String::new(), identity: String::new() };
        executor.start(Start { process, disk, was_killed: Box::new(|| false), clock_ms: 0, drift: 0.0 });
        executor
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// The world of this executor, for [`world::enter`].
    #[must_use]
    pub fn world(&self) -> Arc<dyn World> {
        Arc::new(self.clone())
    }

    /// The shipped code has this fault.
    pub fn plant(&self, fault: &str) {
        self.state().planted = Some(fault.to_owned());
    }

    /// Begins a process.
    pub fn start(&self, start: Start) -> ProcessId {
        let mut state = self.state();
        let id = state.processes.len();
        let draws = state.draws.named("process").with(id as u64);
        let began = (start.unix_time(state.now).as_millis() as i64, state.now);
        state.processes.push(Of {
            start,
            is_dead: false,
            is_frozen: false,
            polls: 0,
            kill_at_poll: None,
            numbers: 0,
            began,
            draws,
            printed: Vec::new(),
            waiting: Vec::new(),
        });
        id
    }

    /// Begins a task of a process.
    pub fn spawn_on(&self, process: ProcessId, work: impl Future<Output = ()> + Send + 'static) -> Arc<dyn Running> {
        self.begin(process, work.boxed())
    }

    pub(crate) fn begin(&self, process: ProcessId, work: BoxFuture<'static, ()>) -> Arc<dyn Running> {
        let mut state = self.state();
        let ended = Arc::new(AtomicBool::new(false));
        let task = state.next;
        state.next += 1;
        if state.processes[process].is_dead {
            ended.store(true, Ordering::Relaxed);
            // Not while the lock is held: what it drops may ask for something.
            drop(state);
            drop(work);
        } else {
            let waker = Waker::from(Arc::new(Wakes { task, woken: Arc::clone(&self.0.woken) }));
            let (work, is_aborted) = (Some(work), false);
            let slot = Slot { process, work, waker, is_ready: false, is_aborted, ended: Arc::clone(&ended) };
            state.tasks.insert(task, slot);
            lock(&self.0.woken).push(task);
        }
        Arc::new(Begun { executor: self.clone(), task, ended })
    }

    /// A worker serves this socket of its machine from now on.
    pub fn serve(&self, process: ProcessId, path: PathBuf, answers: Answers) {
        let mut guard = self.state();
        let state = &mut *guard;
        let host = state.processes[process].start.process.host.clone();
        state.sockets.push((host, path, process, answers));
    }

    /// Of the workers of a machine this one owns the pipeline: the others leave its socket to it.
    pub fn leave_socket_to(&self, process: ProcessId, pipeline: &str) {
        let mut guard = self.state();
        let state = &mut *guard;
        let name = Path::new(pipeline).join("worker.sock");
        let host = &state.processes[process].start.process.host;
        let is_its = |of: &String, path: &PathBuf| of == host && path.ends_with(&name);
        let first = state.sockets.iter().position(|(of, path, ..)| is_its(of, path));
        let own = state.sockets.iter().position(|(of, path, by, _)| is_its(of, path) && *by == process);
        if let (Some(first), Some(own)) = (first, own) {
            state.sockets.swap(first, own);
        }
    }

    /// What a process has written to its standard output.
    #[must_use]
    pub fn printed(&self, process: ProcessId) -> Vec<u8> {
        self.state().processes[process].printed.clone()
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// The process whose task is polled just now.
    #[must_use]
    pub fn current(&self) -> ProcessId {
        self.state().current
    }

    #[must_use]
    pub fn is_dead(&self, process: ProcessId) -> bool {
        self.state().processes[process].is_dead
    }

    #[must_use]
    pub fn is_frozen(&self, process: ProcessId) -> bool {
        self.state().processes[process].is_frozen
    }

    /// Not before this moment.
    pub fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()> {
        Box::pin(Timer { executor: self.clone(), moment, key: None })
    }

    /// Stops or goes on with polling a process.
    pub fn freeze(&self, process: ProcessId, is_frozen: bool) {
        let mut state = self.state();
        state.processes[process].is_frozen = is_frozen;
        if is_frozen {
            let (waiting, ready) = std::mem::take(&mut state.ready)
                .into_iter()
                .partition(|task| state.tasks.get(task).is_some_and(|slot| slot.process == process));
            state.ready = ready;
            state.processes[process].waiting.extend::<Vec<TaskId>>(waiting);
        } else {
            let waiting = std::mem::take(&mut state.processes[process].waiting);
            state.ready.extend(waiting);
        }
    }

    /// A process is killed when so many more of its polls are over.
    pub fn kill_after(&self, process: ProcessId, polls: u64) {
        let of = &mut self.state().processes[process];
        of.kill_at_poll = Some(of.polls + polls.max(1));
    }

    /// The machine's clock of a process goes on by so much, at once.
    pub fn step_clock(&self, process: ProcessId, ms: i64) {
        self.state().processes[process].start.clock_ms += ms;
    }

    /// Ends a process: it is marked dead, then its tasks are dropped.
    pub fn kill(&self, process: ProcessId) {
        let (gone, sockets, disk) = {
            let mut state = self.state();
            state.processes[process].is_dead = true;
            state.processes[process].waiting.clear();
            state.killed.retain(|killed| *killed != process);
            let ids: BTreeSet<TaskId> =
                state.tasks.iter().filter(|(_, slot)| slot.process == process).map(|(task, _)| *task).collect();
            state.ready.retain(|task| !ids.contains(task));
            let gone: Vec<Slot> = ids.iter().filter_map(|task| state.tasks.remove(task)).collect();
            state.current = process;
            let sockets: Vec<_> = state.sockets.extract_if(.., |(.., of, _)| *of == process).collect();
            (gone, sockets, Arc::clone(&state.processes[process].start.disk))
        };
        let _installed = disk::install(disk);
        drop(sockets);
        for slot in gone {
            slot.ended.store(true, Ordering::Relaxed);
            drop(slot.work);
        }
        self.state().current = NETWORK;
    }

    /// Ends everything.
    pub fn end(&self) {
        let count = self.state().processes.len();
        (0..count).rev().for_each(|process| self.kill(process));
    }

    /// Something that a failing seed must show, and that two runs of a seed must have in common.
    pub fn trace(&self, what: u64) {
        let mut state = self.state();
        let at = state.now.as_nanos() as u64;
        let (one, other) = state.trace;
        let draws = Draws::of(one ^ what);
        state.trace = (draws.number(at), Draws::of(other ^ at).number(what ^ one));
    }

    /// The trace so far, in 128 bits.
    #[must_use]
    pub fn traced(&self) -> u128 {
        let (one, other) = self.state().trace;
        u128::from(one) << 64 | u128::from(other)
    }

    /// This has happened.
    pub fn mark(&self, name: &str) {
        let mut state = self.state();
        match state.marks.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(state.marks.insert(name.to_owned(), 1)),
        }
    }

    /// How often this has happened.
    #[must_use]
    pub fn marked(&self, name: &str) -> u64 {
        self.state().marks.get(name).copied().unwrap_or(0)
    }

    /// What has happened, and how often.
    #[must_use]
    pub fn marks(&self) -> BTreeMap<String, u64> {
        self.state().marks.clone()
    }

    /// How many polls there were.
    #[must_use]
    pub fn polled(&self) -> u64 {
        self.state().steps
    }

    /// Polls until it is that time.
    pub fn run(&self, until: Duration) -> Paused {
        loop {
            if let Some(paused) = self.step(until) {
                return paused;
            }
        }
    }

    fn step(&self, until: Duration) -> Option<Paused> {
        // Whom one poll wakes has no order: `tokio::sync::watch` wakes those who wait in an order that it draws at random.
        let mut woken = std::mem::take(&mut *lock(&self.0.woken));
        woken.sort_unstable();
        let (task, process, disk, mut work, waker) = {
            let mut guard = self.state();
            let state = &mut *guard;
            for task in woken {
                let Some(slot) = state.tasks.get_mut(&task).filter(|slot| !slot.is_ready) else { continue };
                slot.is_ready = true;
                let of = &mut state.processes[slot.process];
                if of.is_frozen { of.waiting.push(task) } else { state.ready.push(task) }
            }
            if let Some(broken) = state.broken.take() {
                return Some(Paused::Broken(broken));
            }
            if let Some(killed) = state.killed.pop() {
                return Some(Paused::Killed(killed));
            }
            if state.ready.is_empty() {
                match state.timers.first_key_value().map(|((moment, _), _)| *moment) {
                    Some(moment) if moment <= until => {
                        if moment > state.now {
                            (state.now, state.polls) = (moment, 0);
                        }
                        while let Some(timer) = state.timers.first_entry().filter(|timer| timer.key().0 <= state.now) {
                            timer.remove().wake();
                        }
                        return None;
                    }
                    _ => {
                        (state.now, state.polls) = (state.now.max(until), 0);
                        return Some(Paused::Time);
                    }
                }
            }
            state.polls += 1;
            if state.polls > POLLS_AT_ONE_INSTANT {
                return Some(Paused::Broken(format!("{POLLS_AT_ONE_INSTANT} polls at one instant")));
            }
            let at = state.draws.below(state.steps, state.ready.len() as u64) as usize;
            state.steps += 1;
            let task = state.ready.swap_remove(at);
            let Some(slot) = state.tasks.get_mut(&task) else { return None };
            slot.is_ready = false;
            let Some(work) = slot.work.take() else { return None };
            let (process, waker) = (slot.process, slot.waker.clone());
            state.current = process;
            let (one, other) = state.trace;
            state.trace = (
                one.rotate_left(5) ^ task,
                other.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ state.now.as_nanos() as u64 ^ one,
            );
            let disk = Arc::clone(&state.processes[process].start.disk);
            (task, process, disk, work, waker)
        };
        tracing::trace!(task, process, "poll");
        let _installed = disk::install(disk);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| work.poll_unpin(&mut Context::from_waker(&waker))));
        let gone = {
            let mut guard = self.state();
            let state = &mut *guard;
            let of = &mut state.processes[process];
            of.polls += 1;
            if !of.is_dead && (of.kill_at_poll == Some(of.polls) || (of.start.was_killed)()) {
                of.is_dead = true;
                state.killed.push(process);
            }
            let has_ended = match polled {
                Ok(polled) => polled.is_ready(),
                Err(_) => {
                    state.broken = Some("a task panicked".to_owned());
                    true
                }
            };
            match state.tasks.get_mut(&task) {
                Some(slot) if !has_ended && !slot.is_aborted => {
                    slot.work = Some(work);
                    None
                }
                _ => {
                    let slot = state.tasks.remove(&task);
                    slot.iter().for_each(|slot| slot.ended.store(true, Ordering::Relaxed));
                    Some(work)
                }
            }
        };
        drop(gone);
        self.state().current = NETWORK;
        None
    }
}

struct Begun {
    executor: Executor,
    task: TaskId,
    ended: Arc<AtomicBool>,
}

impl Running for Begun {
    fn abort(&self) {
        let gone = {
            let mut guard = self.executor.state();
            let state = &mut *guard;
            match state.tasks.get_mut(&self.task) {
                // It is polled just now.
                Some(slot) if slot.work.is_none() => {
                    slot.is_aborted = true;
                    None
                }
                Some(_) => {
                    state.ready.retain(|ready| *ready != self.task);
                    state.tasks.remove(&self.task)
                }
                None => None,
            }
        };
        self.ended.store(true, Ordering::Relaxed);
        drop(gone);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

struct Timer {
    executor: Executor,
    moment: Duration,
    key: Option<(Duration, u64)>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.executor.state();
        if state.now >= self.moment {
            drop(state);
            return Poll::Ready(());
        }
        match self.key {
            Some(key) => {
                if let Some(waker) = state.timers.get_mut(&key) {
                    waker.clone_from(context.waker());
                } else {
                    state.timers.insert(key, context.waker().clone());
                }
                drop(state);
            }
            None => {
                let number = state.next;
                state.next += 1;
                let key = (self.moment, number);
                state.timers.insert(key, context.waker().clone());
                drop(state);
                self.key = Some(key);
            }
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let gone = self.executor.state().timers.remove(&key);
            drop(gone);
        }
    }
}

/// Enters the executor's world for the thread.
pub fn enter(executor: &Executor) -> world::Entered {
    world::enter(executor.world())
}
