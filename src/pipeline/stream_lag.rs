//! A stream that was left behind: an owner elsewhere, or an earlier file, had another one, so its newest records of some
//! pairs are states that both stores have left since. A replay from it would bring them back.
//!
//! ```text
//!   begin    stream whole up to the epoch before ours, in the
//!            same ensemble (or empty)                            -> whole up to ours at once: the common start pays nothing
//!            else behind, until a comparison has looked at every pair:
//!              both sides agree, or neither has it any more     -> its state goes on record where the newest one is another
//!              known to the stream and met on neither side      -> inferred deletes, counted by the guard like others
//!   ended    nothing was left out, nothing waits                -> whole up to ours
//! ```
//!
//! Epochs alone do not tell: a data folder that was copied from another installation counts epochs of its own, and one of them may be the one
//! before ours. So the lineage of the ensemble stands beside it.
//!
//! What the stream says of itself is kept with it and changes only then, so an owner that is killed midway leaves it behind
//! for the next one. A state is recorded as the change that it is (`c`, `u`, `d` with the value before), not as `r`: the
//! stream knew the pair, and a consumer that holds the older value needs the change.

use super::hint::PairName;
use super::unwritten::Unwritten;
use crate::change::Position;
use crate::failpoint::planted;
use crate::store::Lease;
use crate::stream::CompleteThrough;
use std::sync::atomic::{AtomicBool, Ordering};

/// What an ownership knows of its stream.
#[derive(Debug, Default)]
pub struct StreamLag {
    /// The newest records may be older than what was agreed on.
    is_lagging: AtomicBool,
    /// A comparison has looked at every pair, and what it left to the rounds is settled.
    has_looked: AtomicBool,
    /// Records that the owner before may not have written: pair and position.
    left: Vec<(PairName, Position)>,
    /// Neither store has lost what it held since the last ownership, so a pair that neither has was deleted.
    pub(super) absence_counts: bool,
    /// The first position that this owner writes.
    first: Position,
}

/// What a stream that was left behind says while a store has lost its data since: an owner that is killed must not leave the
/// next one to take for deleted what was lost.
const AFTER_A_LOSS: i64 = -1;

/// So many records that the last owner may not have written are read at a start; where there are more, every pair is compared with its
/// newest record. A worker that is killed has written all but those of some two seconds.
const LEFT_MAX: usize = 100_000;

/// And so many bytes of names.
const LEFT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a stream says of itself when an ownership begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundStream {
    pub(super) whole: CompleteThrough,
    /// Position of its newest record; 0 if it is empty.
    pub(super) last: Position,
    pub(super) is_damaged: bool,
}

/// Records that the owner before may not have written.
#[derive(Debug, Default)]
pub(super) struct LeftRecords {
    pairs: Vec<(PairName, Position)>,
    bytes: usize,
}

impl LeftRecords {
    pub(super) fn add(&mut self, name: PairName, position: Position) {
        self.bytes += name.len();
        self.pairs.push((name, position));
    }

    /// More than are looked at one by one.
    pub(super) fn are_too_many(&self) -> bool {
        self.pairs.len() > LEFT_MAX || self.bytes > LEFT_BYTES_MAX
    }
}

/// An ownership that begins on its stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginning {
    now: CompleteThrough,
    found: FoundStream,
    is_whole: bool,
    absence_counts: bool,
    written: Option<Position>,
}

impl Beginning {
    /// `are_stores_unchanged`: both stores hold what they held under the last owner. `written`: below this position that one had written
    /// everything; `None` if it did not say so.
    pub(super) fn new(
        found: FoundStream,
        lease: Lease,
        are_stores_unchanged: bool,
        written: Option<Position>,
    ) -> Beginning {
        let (now, whole) = (up_to(lease), found.whole);
        // Before it was said, the lineage was taken to be the same.
        let is_ours = whole.ensemble == 0 || whole.ensemble == now.ensemble;
        // Where a store has lost its data, epochs may have been given a second time.
        let follows = are_stores_unchanged && is_ours && whole.epoch.saturating_add(1) == now.epoch;
        Beginning {
            now,
            found,
            // What was cut out of a damaged one may have been some pair's newest record.
            is_whole: follows && !found.is_damaged,
            absence_counts: are_stores_unchanged && is_ours && whole.epoch != AFTER_A_LOSS,
            written,
        }
    }

    /// From where on the records are to be read that the owner before may not have written; `None`: none are.
    pub(super) fn reads_from(&self) -> Option<Position> {
        let is_asked = self.found.last > 0 && self.is_whole;
        self.written.filter(|written| is_asked && *written <= self.found.last + 1).map(|written| written.max(1))
    }

    /// The epoch that begins, up to where the stream lacks nothing, and what is known of it. `left`: what was read.
    pub(super) fn begun(self, left: LeftRecords) -> (i64, CompleteThrough, StreamLag) {
        let is_known = self.reads_from().is_some() && !left.are_too_many();
        // A stream that ends before what was written is an older copy.
        let is_lagging = self.found.last > 0 && !(self.is_whole && is_known);
        let whole = match (is_lagging, self.absence_counts) {
            (false, _) => self.now,
            (true, true) => self.found.whole,
            (true, false) => CompleteThrough { epoch: AFTER_A_LOSS, ..self.now },
        };
        let lag = StreamLag {
            is_lagging: AtomicBool::new(is_lagging),
            has_looked: AtomicBool::new(false),
            left: if is_known { left.pairs } else { Vec::new() },
            absence_counts: self.absence_counts,
            first: self.found.last + 1,
        };
        (self.now.epoch, whole, lag)
    }
}

/// Everything up to the end of this ownership.
pub(super) fn up_to(lease: Lease) -> CompleteThrough {
    CompleteThrough { epoch: i64::try_from(lease.epoch).unwrap_or(i64::MAX), ensemble: lease.ensemble.id }
}

impl StreamLag {
    /// Whether the newest records may be older than what was agreed on.
    pub(super) fn is_lagging(&self) -> bool {
        self.is_lagging.load(Ordering::Acquire)
    }

    /// Whether the record at this position is from before this ownership, on a stream that may lack others: then nobody knows whether it
    /// was written.
    pub(super) fn is_before(&self, position: Position) -> bool {
        self.is_lagging() && position < self.first
    }

    /// Whether a comparison of every route has looked for what the stream lacks.
    pub(super) fn has_looked(&self) -> bool {
        self.has_looked.load(Ordering::Acquire)
    }

    /// A comparison has looked at every pair, and what it left to the rounds is settled.
    pub(super) fn note_looked(&self) {
        self.has_looked.store(true, Ordering::Release);
    }

    /// The stream says of itself that it lacks nothing.
    pub(super) fn note_whole(&self) {
        self.is_lagging.store(false, Ordering::Release);
    }

    /// What the owner before has left.
    pub(super) fn take_left(&mut self) -> Unwritten {
        let unwritten = Unwritten::default();
        let left = std::mem::take(&mut self.left);
        for (name, position) in left.into_iter().filter(|_| !planted!("an unwritten change is forgotten")) {
            unwritten.left(&name, position);
        }
        unwritten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ensemble;

    fn beginning(
        whole: CompleteThrough,
        last: Position,
        are_stores_unchanged: bool,
        written: Option<Position>,
    ) -> Beginning {
        let lease = Lease { epoch: 9, ensemble: Ensemble { id: 7, since_zxid: 0 }, lost: None };
        Beginning::new(FoundStream { whole, last, is_damaged: false }, lease, are_stores_unchanged, written)
    }

    fn left(count: u64) -> LeftRecords {
        let mut left = LeftRecords::default();
        (0..count).for_each(|at| left.add(PairName::from(format!("k{at}").into_bytes()), at));
        left
    }

    #[test]
    fn a_stream_of_the_epoch_before_in_the_same_ensemble_lacks_nothing_but_what_was_left() {
        let whole = CompleteThrough { epoch: 8, ensemble: 7 };
        let begins = beginning(whole, 5, true, Some(4));
        assert_eq!(begins.reads_from(), Some(4));
        let (epoch, says, mut lag) = begins.begun(left(2));
        assert_eq!((epoch, says, lag.is_lagging()), (9, CompleteThrough { epoch: 9, ensemble: 7 }, false));
        assert!(lag.take_left().holds(b"k1"));
    }

    #[test]
    fn an_empty_stream_lacks_nothing_and_is_not_read() {
        let begins = beginning(CompleteThrough::default(), 0, true, Some(4));
        assert_eq!(begins.reads_from(), None);
        assert!(!begins.begun(LeftRecords::default()).2.is_lagging());
    }

    #[test]
    fn one_of_another_epoch_or_lineage_or_cut_off_or_with_too_much_left_is_lagging() {
        let lags = |begins: Beginning, read: LeftRecords| begins.begun(read).2.is_lagging();
        assert!(lags(beginning(CompleteThrough { epoch: 7, ensemble: 7 }, 5, true, Some(4)), left(1)));
        assert!(lags(beginning(CompleteThrough { epoch: 8, ensemble: 6 }, 5, true, Some(4)), left(1)));
        assert!(
            lags(beginning(CompleteThrough { epoch: 8, ensemble: 7 }, 5, true, Some(7)), LeftRecords::default()),
            "a copy"
        );
        assert!(lags(beginning(CompleteThrough { epoch: 8, ensemble: 7 }, 5, true, None), LeftRecords::default()));
        let many = left(LEFT_MAX as u64 + 1);
        assert!(lags(beginning(CompleteThrough { epoch: 8, ensemble: 7 }, 5, true, Some(4)), many));
    }

    #[test]
    fn after_a_loss_what_neither_store_has_is_not_taken_for_deleted_by_the_next_owner_either() {
        let (_, says, lag) = beginning(CompleteThrough { epoch: 8, ensemble: 7 }, 5, false, Some(4)).begun(left(1));
        assert!(lag.is_lagging() && !lag.absence_counts);
        let (_, _, next) = beginning(says, 5, true, Some(4)).begun(left(1));
        assert!(next.is_lagging() && !next.absence_counts);
    }
}
