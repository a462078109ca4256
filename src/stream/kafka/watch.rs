//! The watch of an owner over its topic: whether it is still the topic that was opened.
//!
//! ```text
//!   a worker       a thread: a step every three seconds
//!   a step         compares the topic with what the opening knows of it; twice gone in a row, and the opening is lost
//! ```

use super::core::Core;
use super::reader::Reader;
use crate::env::{self, Instant};
use crate::stream::StreamError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often an owner looks at its topic: so late it learns, without an append, that the topic is
/// gone.
const PERIOD: Duration = Duration::from_secs(3);
/// How often it looks from which position on every record is still there.
const AGE_PERIOD: Duration = Duration::from_secs(60);

/// A thread that looks at the topic now and then, until it is dropped.
pub(super) struct Watch {
    _stop: SyncSender<()>,
}

impl Watch {
    pub fn start(core: Arc<Core>) -> Result<Watch, StreamError> {
        let (stop, stopped) = sync_channel(1);
        let mut steps = WatchSteps::new(core);
        let run = move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) && steps.step().is_continue() {}
        };
        env::tasks::thread("kafka-watch", run)
            .map_err(|error| StreamError::Unavailable(format!("a thread could not be started: {error}")))?;
        Ok(Watch { _stop: stop })
    }
}

/// The work of the watch in steps, each of which waits for nothing but the brokers.
struct WatchSteps {
    core: Arc<Core>,
    reader: Option<Reader>,
    /// How many looks in a row found the topic gone or cut.
    gone: u32,
    aged: Instant,
}

impl WatchSteps {
    fn new(core: Arc<Core>) -> WatchSteps {
        WatchSteps { core, reader: None, gone: 0, aged: Instant::now() }
    }

    /// Looks at the topic once; `Break` if the opening is lost.
    fn step(&mut self) -> ControlFlow<()> {
        if self.core.lost().is_some() {
            return ControlFlow::Break(());
        }
        if self.reader.is_none() {
            self.reader = Reader::open(&self.core.settings).ok();
        }
        let Some(reader) = self.reader.as_mut() else { return ControlFlow::Continue(()) };
        match self.core.check_topic(reader) {
            Ok(()) => self.gone = 0,
            // A broker that has just started may not know its topics yet.
            Err(error @ StreamError::Lost(_)) => {
                self.gone += 1;
                if self.gone > 1 {
                    self.core.lose(error);
                }
            }
            Err(error) => tracing::debug!("{error}"),
        }
        if self.aged.elapsed() >= AGE_PERIOD {
            self.aged = Instant::now();
            if let Err(error) = self.core.look_at_age(reader) {
                tracing::debug!("{error}");
            }
        }
        ControlFlow::Continue(())
    }
}
