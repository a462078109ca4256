//! `run --once` always ends: with success when a comparison finds nothing to do, or when nothing has moved for `--timeout`, with
//! what is in the way.
//!
//! Something moves when a pair is written, when the pipeline comes further than it was before (owning, comparing, live), when a
//! comparison comes further than the last one did since a pair was written, and when fewer pairs wait than since then. So a
//! comparison that is repeated for ever, because a store takes no writes or a phase of it is refused, counts once.

use super::control::PipelineState;
use super::engine::{Engine, lock};
use super::owner::{DRAIN, Ended, Pipeline, TICK};
use crate::env::{self, Instant};
use crate::store::StoreError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks at most so much counts: a process that was frozen, or a machine that was, has not waited for anybody.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// An attempt that is under way ends by itself, with its reason. It is waited for this much longer.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Pairs are not blamed before a store that has fallen silent would have been noticed: a request is answered within five seconds,
/// or has failed.
const SILENCE: Duration = Duration::from_secs(7);

/// How a pipeline stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// How far it has come: the order of [`rank`].
    rank: u8,
    /// Writes, or records of a capture.
    done: u64,
    /// Comparisons that have begun.
    comparisons: u64,
    /// Steps of the last of them.
    steps: u64,
    /// Pairs that wait or are under way.
    pending: usize,
    /// The stream is being opened for the first time: a long topic is read to its end, and the client ends an attempt by itself.
    is_opening: bool,
}

/// How far a state is on the way to the end.
fn rank(state: PipelineState) -> u8 {
    match state {
        PipelineState::Connecting | PipelineState::Waiting | PipelineState::Stopping => 0,
        PipelineState::Standby => 1,
        PipelineState::Snapshotting => 2,
        PipelineState::Live | PipelineState::Paused | PipelineState::AwaitingApproval | PipelineState::Blocked => 3,
    }
}

/// How long nothing has moved.
#[derive(Debug, Default)]
pub(super) struct Stillness {
    rank: u8,
    done: u64,
    /// The comparison that was last seen, and what was done before it began.
    comparison: (u64, u64),
    /// The most steps, and the fewest pairs that waited, since something was done.
    steps: u64,
    pending: Option<usize>,
    still: Duration,
}

impl Stillness {
    /// Takes in how things stand `elapsed` after the last look; answers how long nothing has moved.
    fn note(&mut self, now: Progress, elapsed: Duration) -> Duration {
        if now.done != self.done {
            self.pending = None;
        }
        if now.comparisons != self.comparison.0 {
            // A comparison is worth its time if there is something to confirm.
            if now.done != self.comparison.1 {
                self.steps = 0;
            }
            // As of the look before: what was done meanwhile may be its own.
            self.comparison = (now.comparisons, self.done);
        }
        let has_moved = now.done != self.done
            || now.rank > self.rank
            || now.steps > self.steps
            || self.pending.is_none_or(|fewest| now.pending < fewest);
        self.done = now.done;
        self.rank = self.rank.max(now.rank);
        self.steps = self.steps.max(now.steps);
        self.pending = Some(self.pending.map_or(now.pending, |fewest| fewest.min(now.pending)));
        if has_moved {
            self.still = Duration::ZERO;
        } else if !now.is_opening {
            self.still += elapsed.min(LOOK_MAX);
        }
        self.still
    }
}

impl Pipeline {
    fn progress(&self, is_first: bool) -> Progress {
        let (state, engine) = {
            let state = lock(&self.state);
            (state.state, state.engine.clone())
        };
        let counters = &self.counters;
        let recorded = if engine.as_ref().is_some_and(|engine| engine.captures()) {
            counters.changes.load(Ordering::Relaxed)
        } else {
            0
        };
        Progress {
            rank: rank(state),
            done: counters.writes.load(Ordering::Relaxed) + recorded,
            comparisons: counters.comparisons.load(Ordering::Relaxed),
            steps: counters.steps.load(Ordering::Relaxed),
            pending: engine.map_or(0, |engine| engine.dirty.len()),
            is_opening: is_first && self.is_opening.load(Ordering::Relaxed),
        }
    }

    /// With `once`: resolves when nothing has moved for so long. A worker waits for ever. `last`: why the last attempt ended.
    pub(super) async fn stuck(&self, still: &mut Stillness, patience: Duration, last: Option<&StoreError>) -> Ended {
        if !self.settings.once {
            return std::future::pending().await;
        }
        let mut looked = Instant::now();
        loop {
            env::sleep(TICK).await;
            let for_long = still.note(self.progress(last.is_none()), looked.elapsed());
            looked = Instant::now();
            if for_long < patience {
                continue;
            }
            match self.in_the_way(last, for_long) {
                Some(error) => return ended(error, patience),
                None if for_long >= patience + ATTEMPT => {
                    let error = StoreError::NotNow(format!("pipeline `{}` came no further", self.settings.pipeline));
                    return ended(error, patience);
                }
                None => {}
            }
        }
    }

    /// What keeps the pipeline from going on; `None` while an attempt is under way, or a request.
    fn in_the_way(&self, last: Option<&StoreError>, for_long: Duration) -> Option<StoreError> {
        let (state, note, engine) = {
            let state = lock(&self.state);
            (state.state, state.note.clone(), state.engine.clone())
        };
        let pipeline = &self.settings.pipeline;
        if state == PipelineState::Standby {
            return Some(StoreError::NotNow(format!("pipeline `{pipeline}`: {note}; `--once` needs it for itself")));
        }
        let Some(engine) = engine else { return last.cloned() };
        let live = lock(&engine.live);
        let down = live.zookeeper_down.clone().or_else(|| live.redis_down.clone());
        down.or_else(|| live.holds.error()).or_else(|| {
            let pending = engine.dirty.len();
            let what = || format!("pipeline `{pipeline}`: {pending} pairs wait, and none of them came further");
            (for_long >= SILENCE).then(|| StoreError::NotNow(what()))
        })
    }

    /// With `once`: what a comparison's end means. `None`: compare again.
    pub(super) async fn once(&self, engine: &Engine, acted: u64) -> Option<Ended> {
        let settled = async {
            while !engine.dirty.is_empty() {
                env::sleep(Duration::from_millis(10)).await;
            }
        };
        // Pairs that are held back (a store takes no writes) must not keep a comparison from saying so.
        let is_settled = env::timeout(DRAIN, settled).await.is_ok();
        // What the rounds inferred is decided about: let through (then pairs are under way again), or held.
        let is_concluded = is_settled && engine.conclude().await.is_ok();
        let waits = engine.inferred.any_held();
        if acted > 0 || !is_concluded || engine.inferred.is_open() || !engine.dirty.is_empty() {
            return if waits { Some(Ended::Done(true)) } else { None };
        }
        let is_partial = {
            let live = lock(&engine.live);
            !live.unreadable.is_empty() || !live.paused.is_empty()
        };
        Some(Ended::Done(waits || is_partial || !self.quarantine.is_empty()))
    }
}

fn ended(error: StoreError, patience: Duration) -> Ended {
    let text = format!("{error}; nothing has moved for {} s (--timeout)", patience.as_secs_f64());
    match error {
        StoreError::Away(_) | StoreError::Fenced(_) => Ended::Unreachable(text),
        StoreError::NotNow(_) | StoreError::Refused(_) => Ended::Stuck(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn comparing(comparisons: u64, steps: u64, done: u64) -> Progress {
        Progress { rank: 2, done, comparisons, steps, pending: 7, is_opening: false }
    }

    #[test]
    fn a_comparison_that_is_repeated_without_effect_is_no_progress() {
        let mut still = Stillness::default();
        for steps in 1..100 {
            assert_eq!(still.note(comparing(1, steps, 0), SECOND), Duration::ZERO, "the first comparison");
        }
        let mut longest = Duration::ZERO;
        for comparison in 2..5 {
            for steps in 1..100 {
                longest = still.note(comparing(comparison, steps, 0), SECOND);
            }
        }
        assert_eq!(longest, SECOND * 297);
    }

    #[test]
    fn a_comparison_after_a_write_confirms_it_and_is_progress() {
        let mut still = Stillness::default();
        still.note(comparing(1, 100, 5), SECOND);
        for steps in 1..100 {
            // The writes of the first are seen before the second begins.
            assert_eq!(still.note(comparing(2, steps, 5), SECOND), Duration::ZERO, "{steps}");
        }
        assert_eq!(still.note(comparing(3, 50, 5), SECOND), SECOND, "nothing was written in the second");
    }

    #[test]
    fn fewer_pairs_that_wait_are_progress_and_a_stream_that_is_opened_does_not_count() {
        let mut still = Stillness::default();
        let waiting = |pending| Progress { pending, ..comparing(1, 1, 0) };
        still.note(waiting(9), SECOND);
        assert_eq!(still.note(waiting(8), SECOND), Duration::ZERO);
        assert_eq!(still.note(waiting(9), SECOND), SECOND);
        assert_eq!(still.note(waiting(8), SECOND), SECOND * 2, "no fewer than before");
        assert_eq!(still.note(Progress { is_opening: true, ..waiting(8) }, SECOND), SECOND * 2, "it does not count");
    }

    #[test]
    fn a_frozen_process_has_not_waited() {
        let mut still = Stillness::default();
        still.note(comparing(1, 1, 0), SECOND);
        assert_eq!(still.note(comparing(1, 1, 0), Duration::from_secs(3600)), LOOK_MAX);
    }
}
