//! The work of the writer and of the compactor in steps, each of which waits for nothing but the
//! disk.
//!
//! ```text
//!   a worker       a thread each: steps, and between them it waits for requests, or to be woken
//!   a simulator    a task steps when it is woken, after a delay that the simulator draws
//! ```

use super::compact::Compactor;
use super::writer::{Request, Writer};
use crate::env::{self, Instant, lock};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// What a step of the writer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It served a request, and more may wait.
    Served,
    /// Nobody asks for anything just now.
    Idle,
    /// Nobody can ask any more: the stream was dropped, and what was asked for is done.
    Ended,
}

/// Writes what is appended. Dropping it before the stream refuses all further appends.
pub struct WriterSteps {
    writer: Writer,
    requests: Receiver<Request>,
    /// Taken from the queue, and not served yet.
    ahead: Option<Request>,
    /// How often the age of the active segment is looked at.
    period: Duration,
    ticked: Instant,
}

impl WriterSteps {
    pub(super) fn new(writer: Writer, requests: Receiver<Request>, period: Duration) -> WriterSteps {
        WriterSteps { writer, requests, ahead: None, period, ticked: Instant::now() }
    }

    /// Serves the oldest request, and with an append those that wait behind it.
    pub fn step(&mut self) -> Step {
        self.tick_if_due();
        match self.ahead.take().map_or_else(|| self.requests.try_recv(), Ok) {
            Ok(request) => {
                self.ahead = self.writer.serve(request, &self.requests);
                Step::Served
            }
            Err(TryRecvError::Empty) => Step::Idle,
            Err(TryRecvError::Disconnected) => {
                self.writer.end();
                Step::Ended
            }
        }
    }

    /// Steps until nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            match self.step() {
                Step::Served => {}
                Step::Ended => return,
                Step::Idle => match self.requests.recv_timeout(self.period) {
                    Ok(request) => self.ahead = Some(request),
                    // The next step looks at the time, or ends.
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                },
            }
        }
    }

    /// A stream that is written without a pause grows old as well.
    fn tick_if_due(&mut self) {
        if self.ticked.elapsed() >= self.period {
            self.tick();
        }
    }

    pub(super) fn tick(&mut self) {
        self.writer.tick();
        self.ticked = Instant::now();
    }
}

/// Applies retention.
pub struct CompactorSteps(Arc<Compactor>);

impl CompactorSteps {
    pub(super) fn new(compactor: Arc<Compactor>) -> CompactorSteps {
        CompactorSteps(compactor)
    }

    /// Rewrites one segment, or some small ones to one; false if there is nothing to gain.
    ///
    /// # Errors
    /// What the disk reports: nothing is lost by it, and a later step tries again.
    pub fn step(&self) -> io::Result<bool> {
        self.0.step()
    }

    /// Steps when woken and once in a while, until the stream is dropped.
    pub(super) fn run(&self) {
        self.0.run();
    }
}

/// The queue to the writer. A thread waits at its other end; a task is woken.
pub(super) struct Requests {
    queue: SyncSender<Request>,
    woken: Arc<Notify>,
}

impl Requests {
    pub(super) fn new(queue: SyncSender<Request>) -> Requests {
        Requests { queue, woken: Arc::default() }
    }

    /// Queues one; waits while the queue is full.
    pub(super) fn send(&self, request: Request) -> Result<(), SendError<Request>> {
        self.queue.send(request)?;
        self.woken.notify_one();
        Ok(())
    }

    pub(super) fn woken(&self) -> Arc<Notify> {
        Arc::clone(&self.woken)
    }
}

/// How often a simulator lets the compactor look: retention is counted in minutes at least.
const COMPACTING: Duration = Duration::from_secs(10);

/// The tasks of a simulator in place of the threads.
pub(super) struct Stepping {
    writer: Arc<Mutex<WriterSteps>>,
    tasks: [env::Task<()>; 2],
}

impl Stepping {
    pub(super) fn begin(writer: WriterSteps, compactor: CompactorSteps, woken: Arc<Notify>) -> Stepping {
        let period = writer.period;
        let writer = Arc::new(Mutex::new(writer));
        let stepped = Arc::clone(&writer);
        let write = async move {
            loop {
                turn_of_a_thread().await;
                let step = lock(&stepped).step();
                match step {
                    Step::Served => {}
                    Step::Ended => return,
                    Step::Idle => {
                        let _ = env::timeout(period, woken.notified()).await;
                    }
                }
            }
        };
        let compact = async move {
            loop {
                env::sleep(COMPACTING).await;
                while compactor.step().unwrap_or(false) {
                    turn_of_a_thread().await;
                }
            }
        };
        Stepping { writer, tasks: [env::spawn(write), env::spawn(compact)] }
    }

    /// What was asked for is done. The queue is closed.
    pub(super) fn end(self) {
        self.tasks.iter().for_each(env::Task::abort);
        let mut writer = lock(&self.writer);
        while writer.step() != Step::Ended {}
    }
}

async fn turn_of_a_thread() {
    if let Some(world) = env::world::here() {
        world.turn_of_a_thread().await;
    }
}
