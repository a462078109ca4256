//! How long nothing has moved, for `run --once`: see [`super::once`].

use super::control::PipelineState;
use std::time::Duration;

/// Between two looks at most so much counts: a process that was frozen, or a machine that was, has not waited for anybody.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How a pipeline stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// How far it has come: the order of [`rank`].
    pub(super) rank: u8,
    /// Writes, or records of a capture.
    pub(super) done: u64,
    /// Comparisons that have begun.
    pub(super) comparisons: u64,
    /// Steps of the last of them.
    pub(super) steps: u64,
    /// Pairs that wait or are under way.
    pub(super) pending: usize,
    /// The stream is being opened for the first time: a long topic is read to its end, and the client ends an attempt by itself.
    pub(super) is_opening: bool,
}

/// How far a state is on the way to the end.
pub(super) fn rank(state: PipelineState) -> u8 {
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
    pub(super) rank: u8,
    pub(super) done: u64,
    /// The comparison that was last seen, and what was done before it began.
    comparison: (u64, u64),
    /// The most steps, and the fewest pairs that waited, since something was done.
    pub(super) steps: u64,
    pending: Option<usize>,
    still: Duration,
}

impl Stillness {
    /// Takes in how things stand `elapsed` after the last look; answers how long nothing has moved.
    pub(super) fn note(&mut self, now: Progress, elapsed: Duration) -> Duration {
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
