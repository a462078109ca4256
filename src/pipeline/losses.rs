//! Data that a store has lost: what was noticed, which pairs were found to be lost, and when that is reported.
//!
//! ```text
//!   noticed --comparison ended--> compared --everything settled--> due
//!   evicted ------------quiet, or a minute---------------------> due
//! ```

use crate::change::{KeyedHash, LossCause, Side};
use crate::env::{Instant, Set, lock};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Evictions that come within this time of each other are one loss.
const QUIET: Duration = Duration::from_secs(2);

/// Evictions that go on are told so often: a store that is too small for its data is one line a minute, not one a key.
const LONGEST: Duration = Duration::from_secs(60);

/// When a loss can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A comparison that begins after it was noticed has to end.
    Noticed,
    /// It has; what it left to the rounds may still be under way.
    Compared,
    /// Events name each key.
    Told,
}

#[derive(Debug)]
struct Open {
    side: Side,
    cause: LossCause,
    stage: Stage,
    since: Instant,
    /// When it was last found to be larger.
    grown: Instant,
    /// Names of the pairs.
    pairs: Set<KeyedHash>,
}

/// A loss that is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DueLoss {
    pub(super) side: Side,
    pub(super) cause: LossCause,
    pub(super) pairs: u64,
}

/// The losses that are not told yet. They outlive an ownership.
#[derive(Debug, Default)]
pub(super) struct Losses {
    open: Mutex<Vec<Open>>,
    /// How many are open, so that nobody waits for the lock where there is none.
    count: AtomicUsize,
}

impl Losses {
    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        lock(&self.open)
    }

    fn note(&self, side: Side, cause: LossCause, stage: Stage) {
        let mut open = self.open();
        match open.iter_mut().find(|open| open.side == side && open.cause == cause) {
            // What has happened anew needs another comparison.
            Some(known) if stage == Stage::Noticed => known.stage = stage,
            Some(_) => {}
            None => {
                let now = Instant::now();
                open.push(Open { side, cause, stage, since: now, grown: now, pairs: Set::default() });
            }
        }
        self.count.store(open.len(), Ordering::Relaxed);
    }

    /// This side has lost data.
    pub(super) fn notice(&self, side: Side, cause: LossCause) {
        self.note(side, cause, Stage::Noticed);
    }

    /// What a new owner finds to have happened since the last one.
    pub(super) fn notice_at_start(&self, zookeeper: Option<LossCause>, redis: Option<LossCause>) {
        for (side, cause) in [(Side::Zookeeper, zookeeper), (Side::Redis, redis)] {
            if let Some(cause) = cause {
                self.notice(side, cause);
            }
        }
    }

    /// Events say which keys are evicted.
    pub(super) fn notice_eviction(&self) {
        self.note(Side::Redis, LossCause::Evicted, Stage::Told);
    }

    /// Whether this side has lost data, and what is missing is not all found.
    pub(super) fn is_open(&self, side: Side) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.open().iter().any(|open| open.side == side)
    }

    /// A pair was found to be lost on this side; it belongs to the loss that was noticed first.
    pub(super) fn count(&self, side: Side, name: &[u8]) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut open = self.open();
        let hash = KeyedHash::of(name);
        if open.iter().any(|open| open.side == side && open.pairs.contains(&hash)) {
            return;
        }
        if let Some(loss) = open.iter_mut().find(|open| open.side == side) {
            loss.pairs.insert(hash);
            loss.grown = Instant::now();
        }
    }

    /// A comparison that began then has ended.
    pub(super) fn compared(&self, begun: Instant) {
        for loss in self.open().iter_mut().filter(|loss| loss.stage == Stage::Noticed && loss.since <= begun) {
            loss.stage = Stage::Compared;
        }
    }

    /// The losses that can be told now. `is_settled`: no comparison has left anything to the rounds. Those without a pair are
    /// forgotten.
    pub(super) fn due(&self, is_settled: bool) -> Vec<DueLoss> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut open = self.open();
        let is_over = |loss: &Open| match loss.stage {
            Stage::Noticed => false,
            Stage::Compared => is_settled,
            Stage::Told => loss.grown.elapsed() >= QUIET || loss.since.elapsed() >= LONGEST,
        };
        // An eviction is named before the pair is looked at, which takes a moment.
        open.retain(|loss| {
            let waits = loss.stage == Stage::Told && loss.since.elapsed() < LONGEST;
            !is_over(loss) || !loss.pairs.is_empty() || waits
        });
        self.count.store(open.len(), Ordering::Relaxed);
        let due = open.iter().filter(|loss| is_over(loss) && !loss.pairs.is_empty());
        let pairs = |loss: &Open| u64::try_from(loss.pairs.len()).unwrap_or(u64::MAX);
        due.map(|loss| DueLoss { side: loss.side, cause: loss.cause, pairs: pairs(loss) }).collect()
    }

    /// This one was told.
    pub(super) fn close(&self, told: DueLoss) {
        let mut open = self.open();
        open.retain(|loss| (loss.side, loss.cause) != (told.side, told.cause));
        self.count.store(open.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_a_comparison_that_began_after_it_has_ended_and_is_settled() {
        let losses = Losses::default();
        let before = Instant::now();
        losses.notice(Side::Redis, LossCause::Flushed);
        losses.count(Side::Redis, b"a");
        losses.count(Side::Redis, b"a");
        losses.count(Side::Redis, b"b");
        losses.count(Side::Zookeeper, b"c");
        losses.compared(before);
        assert_eq!(losses.due(true), [], "that comparison may have passed the pairs by");
        losses.compared(Instant::now());
        assert_eq!(losses.due(false), [], "some pairs are under way");
        let told = DueLoss { side: Side::Redis, cause: LossCause::Flushed, pairs: 2 };
        assert_eq!(losses.due(true), [told]);
        assert_eq!(losses.due(true), [told], "until it is on the stream");
        losses.close(told);
        assert_eq!(losses.due(true), []);
        losses.count(Side::Redis, b"a");
        assert_eq!(losses.due(true), [], "nothing is lost any more");
    }

    #[test]
    fn a_loss_of_nothing_of_ours_is_forgotten() {
        let losses = Losses::default();
        losses.notice(Side::Zookeeper, LossCause::Older);
        losses.compared(Instant::now());
        assert_eq!(losses.due(true), []);
        losses.count(Side::Zookeeper, b"a");
        assert_eq!(losses.due(true), []);
    }

    #[test]
    fn what_two_causes_may_explain_belongs_to_the_first() {
        let losses = Losses::default();
        losses.notice(Side::Redis, LossCause::Flushed);
        losses.notice(Side::Redis, LossCause::Replaced);
        losses.count(Side::Redis, b"a");
        losses.compared(Instant::now());
        assert_eq!(losses.due(true), [DueLoss { side: Side::Redis, cause: LossCause::Flushed, pairs: 1 }]);
    }
}
