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
use crate::change::{Op, Position};
use crate::store::Lease;
use crate::stream::{Stream, StreamError, Whole};
use std::sync::atomic::AtomicBool;

/// What an ownership knows of its stream.
#[derive(Debug, Default)]
pub struct StreamLag {
    /// The newest records may be older than what was agreed on.
    pub(super) is_lagging: AtomicBool,
    /// A comparison has looked at every pair, and what it left to the rounds is not done yet.
    pub(super) is_compared: AtomicBool,
    /// Records that the owner before may not have written: pair and position.
    left: Vec<(PairName, Position)>,
    /// A comparison of every route has looked for those of them that neither store has.
    pub(super) has_looked: AtomicBool,
    /// Neither store has lost what it held since the last ownership, so a pair that neither has was deleted.
    pub(super) absence_counts: bool,
}

/// What a stream that was left behind says while a store has lost its data since: an owner that is killed must not leave the
/// next one to take for deleted what was lost.
const AFTER_A_LOSS: i64 = -1;

/// So many records that the last owner may not have written are read at a start; where there are more, every pair is compared with its
/// newest record. A worker that is killed has written all but those of some two seconds.
const LEFT_MAX: usize = 100_000;

/// And so many bytes of names.
const LEFT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Begins this ownership on the stream, and finds out whether it was left behind. `has_kept`: both stores hold what
/// they held under the last owner. `written`: below this position that one had written everything; `None` if it did not say so.
///
/// # Errors
/// As [`Stream::begin`].
pub(super) async fn begin(
    stream: &dyn Stream,
    lease: Lease,
    has_kept: bool,
    written: Option<Position>,
) -> Result<StreamLag, StreamError> {
    let now = up_to(lease);
    let whole = stream.whole();
    // Before it was said, the lineage was taken to be the same.
    let is_ours = whole.ensemble == 0 || whole.ensemble == now.ensemble;
    // Where a store has lost its data, epochs may have been given a second time.
    let follows = has_kept && is_ours && whole.epoch.saturating_add(1) == now.epoch;
    let last = stream.extent().last;
    // A stream that ends before that is an older copy; what was cut out of it may have been some pair's newest record.
    let is_whole = follows && stream.damage().is_empty();
    let left = match written {
        _ if last == 0 || !is_whole => Some(Vec::new()),
        Some(written) if written <= last + 1 => left_since(stream, written).await?,
        Some(_) | None => None,
    };
    let is_lagging = last > 0 && (!is_whole || left.is_none());
    let absence_counts = has_kept && is_ours && whole.epoch != AFTER_A_LOSS;
    let whole = match (is_lagging, absence_counts) {
        (false, _) => now,
        (true, true) => whole,
        (true, false) => Whole { epoch: AFTER_A_LOSS, ..now },
    };
    stream.begin(now.epoch, whole).await?;
    let left = left.unwrap_or_default();
    Ok(StreamLag { is_lagging: AtomicBool::new(is_lagging), left, absence_counts, ..StreamLag::default() })
}

/// The pairs of the records from this position on, oldest first; `None` if there are too many.
async fn left_since(stream: &dyn Stream, written: Position) -> Result<Option<Vec<(PairName, Position)>>, StreamError> {
    let (mut left, mut bytes, mut from) = (Vec::new(), 0, written.max(1));
    loop {
        let batch = stream.read(from, 1000, 4 * 1024 * 1024).await?;
        if batch.next <= from {
            return Ok(Some(left));
        }
        from = batch.next;
        for recorded in batch.records {
            if let (Some(key), true) = (recorded.change.pair.redis, recorded.change.op != Op::Marker) {
                bytes += key.len();
                left.push((key.into(), recorded.position));
            }
        }
        if left.len() > LEFT_MAX || bytes > LEFT_BYTES_MAX {
            return Ok(None);
        }
    }
}

/// Everything up to the end of this ownership.
pub(super) fn up_to(lease: Lease) -> Whole {
    Whole { epoch: i64::try_from(lease.epoch).unwrap_or(i64::MAX), ensemble: lease.ensemble.id }
}

impl StreamLag {
    /// What the owner before has left.
    pub(super) fn take_left(&mut self) -> Unwritten {
        let unwritten = Unwritten::default();
        for (name, position) in std::mem::take(&mut self.left) {
            unwritten.left(&name, position);
        }
        unwritten
    }
}
