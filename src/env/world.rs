//! A world of a simulator, in place of this machine's: for the thread that entered it, and for nobody else.
//!
//! ```text
//!   clock, tasks, random, process, failpoint  --here()-->  a World, where the thread has entered one
//!                                             \-------->  this machine
//! ```
//!
//! A disk is installed for the thread as well, for as long as a process has its turn ([`super::disk::install`]). A worker has no world: one look at a variable of the thread is what this costs it.

use futures::future::BoxFuture;
use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The process that the thread plays now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on its machine.
    pub id: u32,
    /// The name of its machine.
    pub host: String,
    /// As [`super::process::machine`].
    pub machine: String,
    /// As `worker::Worker::identity`; the same for as long as the process lives.
    pub identity: String,
}

/// A request to a worker's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method of HTTP.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The body; may be empty.
    pub body: Vec<u8>,
}

/// A task that was begun.
pub trait Running: Send + Sync {
    /// Drops it where it next waits.
    fn abort(&self);
    /// Whether it has ended, or was dropped.
    fn has_ended(&self) -> bool;
}

/// What a simulator has in place of this machine. Each method answers for the process whose task is polled just now.
pub trait World: Send + Sync {
    /// The clock that nobody sets.
    fn now(&self) -> Duration;

    /// What the machine's clock shows, since 1970 in UTC.
    fn unix_time(&self) -> Duration;

    /// What both clocks showed when the process began: milliseconds since 1970 in UTC, and the moment.
    fn began(&self) -> (i64, Duration);

    /// Resolves after so long, not before it was polled once.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// Begins a task.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Arc<dyn Running>;

    /// Resolves when a thread that blocks would have come to its turn.
    fn turn_of_a_thread(&self) -> BoxFuture<'static, ()>;

    /// Another number at each call.
    fn number(&self) -> u64;

    /// The process.
    fn process(&self) -> Process;

    /// Whether no process of this number lives on its machine.
    fn is_gone(&self, pid: i32) -> bool;

    /// The process has come to a named point of its code (`crate::failpoint`).
    fn reached(&self, point: &'static str);

    /// Whether this fault was planted, to see whether it is found.
    fn has_planted(&self, fault: &str) -> bool;

    /// Status and body of the answer of the worker that serves this Unix socket. Refused if there is none; any other error: it has
    /// ended before its answer.
    fn ask_worker(&self, socket: &Path, asked: Asked) -> BoxFuture<'static, io::Result<(u16, Vec<u8>)>>;

    /// The process wrote this to its standard output.
    fn print(&self, bytes: &[u8]);

    /// A task has panicked, and said so.
    fn panicked(&self, said: &str);
}

thread_local! {
    static ENTERED: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// The world that this thread has entered, if any.
#[must_use]
pub fn here() -> Option<Arc<dyn World>> {
    ENTERED.with_borrow(Clone::clone)
}

/// The thread is in the world before again when this is dropped, on the same thread.
#[must_use]
pub struct Entered {
    before: Option<Arc<dyn World>>,
    /// It must not go to another thread.
    _thread: PhantomData<*const ()>,
}

/// From here on this world is the thread's.
pub fn enter(world: Arc<dyn World>) -> Entered {
    Entered { before: ENTERED.replace(Some(world)), _thread: PhantomData }
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.set(self.before.take());
    }
}
