//! The work of the writer and of the compactor in steps, each of which waits for nothing but the
//! disk.
//!
//! ```text
//!   a worker       a thread each: steps, and between them it waits for requests, or to be woken
//!   a simulator    calls `step` whenever it likes, on its own thread
//! ```

use super::compact::Compactor;
use super::writer::{Request, Writer};
use crate::env::Instant;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

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
