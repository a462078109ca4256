//! Which pairs exist by the stream: a walk over the log that names a pair at its newest record.
//!
//! The index has no names, only where each pair's newest record is. So the log is walked once, in
//! pieces, and each record is looked up in the index: what is not the newest of its pair is passed
//! without being decoded. A pair that is recorded while the walk is under way has a newer record
//! behind the place that was reached, so it is named there.
//!
//! Compaction may replace the file that a piece is read from. A piece whose segment is another one
//! at its end is walked again; and while the locations of a rewritten segment are being changed, a
//! record counts by its position ([`is_newest`]).

use super::frame::{self, Step, Walker};
use super::index::{Location, pair_of};
use super::log::Log;
use super::query::{Missed, Stretch, stretch};
use crate::change::{KeyedHash, Position};
use crate::stream::ExistingPairs;
use std::sync::Arc;

/// Bytes of the log that one piece passes at most, or one record: what a disk delivers in tens of
/// milliseconds.
const PIECE_BYTES: u64 = 4 << 20;

/// See [`crate::stream::Stream::existing`].
pub(super) fn existing(log: &Log, from: Position, limit: usize) -> Result<ExistingPairs, Missed> {
    loop {
        let (stretch, end) = stretch(log, from)?;
        let Some(stretch) = stretch.filter(|_| from < end) else {
            return Ok(ExistingPairs { pairs: Vec::new(), next: from });
        };
        let piece = walk(log, &stretch, from, end, limit.max(1));
        if is_current(log, &stretch, from) {
            return Ok(piece);
        }
    }
}

/// The pairs whose newest record is in this stretch, from a position on.
fn walk(log: &Log, stretch: &Stretch, from: Position, end: Position, limit: usize) -> ExistingPairs {
    let decoder = Arc::clone(&log.read().decoder);
    let mut piece = ExistingPairs { pairs: Vec::new(), next: from };
    let mut walker = Walker::new(&stretch.file, stretch.offset, stretch.end, stretch.after, stretch.next);
    while let Some(step) = walker.next() {
        // What is damaged is reported by whoever reads it; the pair's record before it, if there is
        // one, is the newest in the index.
        let Step::Frame { offset, meta, payload, .. } = step else { continue };
        if meta.position < from {
            continue;
        }
        let here = Location::new(stretch.ordinal, offset);
        let is_of_pair =
            pair_of(&decoder, &meta, payload).is_some_and(|pair| is_newest(log, pair, here, meta.position));
        if is_of_pair && let Ok(Some(pair)) = decoder.pair_if_exists(payload) {
            piece.pairs.push(pair);
        }
        piece.next = meta.position + 1;
        if piece.pairs.len() >= limit || offset.saturating_sub(stretch.offset) >= PIECE_BYTES {
            return piece;
        }
    }
    piece.next = stretch.next.unwrap_or(end).max(piece.next);
    piece
}

/// Whether the pair's newest record is the one at this place, which has this position.
fn is_newest(log: &Log, pair: KeyedHash, here: Location, position: Position) -> bool {
    let state = log.read();
    let Some(newest) = state.index.get(pair) else { return false };
    if newest.ordinal() == here.ordinal() {
        return newest == here;
    }
    if state.segments.iter().any(|segment| segment.ordinal == newest.ordinal()) {
        return false;
    }
    // The newest record is in a file that is about to replace a segment, perhaps this one.
    let Some(file) = state.opened.get(&newest.ordinal()).and_then(|opened| opened.file.get().ok()) else {
        return false;
    };
    drop(state);
    frame::read_one(&file, newest.offset()).is_some_and(|(meta, _)| meta.position == position)
}

/// Whether the position is still in the segment from which the stretch was taken.
fn is_current(log: &Log, stretch: &Stretch, from: Position) -> bool {
    let state = log.read();
    state.segments.get(state.segment_for(from)).is_some_and(|segment| Arc::ptr_eq(&segment.file, &stretch.log_file))
}
