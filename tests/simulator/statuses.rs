//! An operator who looks at `status` four times a second: what it says must be true.
//!
//! - A worker that says `live` for a time has reached both stores in that time: it does not say so once a store that it had is cut off for
//!   longer than its bound.
//! - Once nothing has happened for long enough, both sides are equal and all ways are open, one worker says that all flows and nothing waits.

use crate::executor::ProcessId;
use crate::network::{Store, Way};
use crate::play::{LOOK, Play};
use keepstep::pipeline::control::{Handle as _, PipelineState};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a Redis that nobody hears may count as connected: it is asked once a second (`LOOK_EVERY`), an answer is waited for 5 s
/// (`RESPONSE_TIMEOUT`), and a stalled answer from before may be on its way for 5 s.
const REDIS_BOUND: Duration = Duration::from_secs(12);

/// How long an ensemble may, beyond a session: the session's end takes a second to be acted on, and the same holds for a stalled answer.
const BEYOND_SESSION: Duration = Duration::from_secs(7);

/// Within this a worker that has lost a connection says so, whichever.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// What the operator remembers.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Since when the way of a process to a store is closed.
    closed: BTreeMap<(ProcessId, Store), Duration>,
    /// When a worker first said of each pipeline that it has compared everything.
    first_live: BTreeMap<String, Duration>,
    /// How often notifications are off: then nobody sees what became of a key that vanishes.
    pub(crate) silences: u64,
    /// From when to when, while notifications were on, a worker said without a break that all of a pipeline flows, by the names of both.
    live: BTreeMap<(ProcessId, String), Vec<(Duration, Duration)>>,
}

impl Looks {
    /// Whether some comparison of a pipeline has certainly been concluded before this moment.
    pub(crate) fn has_concluded(&self, pipeline: &str, at: Duration) -> bool {
        self.first_live.get(pipeline).is_some_and(|live| *live + SEEN_WITHIN <= at)
    }

    /// Whether the owner of a pipeline has certainly seen what happened at this moment: it said before, and long after, that all flows.
    pub(crate) fn is_seen(&self, pipeline: &str, at: Duration) -> bool {
        let of = self.live.iter().filter(|((_, name), _)| name == pipeline);
        let is_in = |(from, until): &(Duration, Duration)| *from + LOOK < at && at + SEEN_WITHIN < *until;
        of.flat_map(|(_, times)| times).any(is_in)
    }
}

impl Play {
    /// The way of a process to a store was closed, or opened.
    pub(crate) fn note_way(&mut self, process: ProcessId, store: Store, way: Way) {
        match way {
            Way::Open => drop(self.looks.closed.remove(&(process, store))),
            Way::Refused | Way::Silent => {
                let now = self.executor.now();
                self.looks.closed.entry((process, store)).or_insert(now);
            }
        }
    }

    /// What was closed while a process was frozen it can know only from now on.
    pub(crate) fn note_thaw(&mut self, process: ProcessId) {
        let now = self.executor.now();
        let of = self.looks.closed.iter_mut().filter(|((frozen, _), _)| *frozen == process);
        of.for_each(|(_, since)| *since = now);
    }

    /// Looks at each worker.
    pub(crate) fn look_at_statuses(&mut self) {
        let now = self.executor.now();
        let mut untrue = Vec::new();
        let mut are_live = Vec::new();
        let mut went_on = Vec::new();
        for (worker, pipeline) in self.running() {
            if self.executor.is_frozen(worker.process) {
                continue;
            }
            let status = pipeline.status();
            let state = status.state;
            self.executor.mark(match state {
                PipelineState::Connecting => "status: connecting",
                PipelineState::Standby => "status: standby",
                PipelineState::Snapshotting => "status: snapshotting",
                PipelineState::Live => "status: live",
                PipelineState::Paused => "status: paused",
                PipelineState::AwaitingApproval => "status: awaiting approval",
                PipelineState::Blocked => "status: blocked",
                PipelineState::Waiting => "status: waiting",
                PipelineState::Stopping => "status: stopping",
            });
            if state != PipelineState::Live {
                continue;
            }
            are_live.push(status.pipeline.clone());
            if self.looks.silences == 0 {
                went_on.push((worker.process, status.pipeline));
            }
            for store in Store::BOTH {
                let bound = match store {
                    Store::Redis => REDIS_BOUND,
                    Store::Zookeeper => self.settings.session_timeout + BEYOND_SESSION,
                };
                let closed = self.looks.closed.get(&(worker.process, store));
                if closed.is_some_and(|closed| now >= *closed + bound) {
                    untrue.push(format!(
                        "{:.6} untrue status: process {} says live, and {} is cut off for more than {bound:?}",
                        now.as_secs_f64(),
                        worker.process,
                        store.word()
                    ));
                }
            }
        }
        for pipeline in are_live {
            self.looks.first_live.entry(pipeline).or_insert(now);
        }
        for of in went_on {
            let times = self.looks.live.entry(of).or_default();
            match times.last_mut().filter(|(_, until)| now <= *until + LOOK * 2) {
                Some((_, until)) => *until = now,
                None => times.push((now, now)),
            }
        }
        self.wrong.extend(untrue);
    }
}
