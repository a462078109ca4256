//! The read-only opening: keeps up with a directory that another process may be writing and
//! compacting.

use super::index::{Location, pair_of};
use super::load::{self, Access, Loaded};
use super::log::{Log, unavailable};
use crate::change::Position;
use crate::stream::StreamError;
use std::path::PathBuf;
use std::sync::Arc;

/// Brings `log` up to what the directory holds now. Frames that were appended are added; if files
/// were replaced or removed, everything is loaded anew.
pub(super) fn refresh(log: &Log) -> Result<(), StreamError> {
    let listing = load::list(log.files.disk.as_ref(), &log.dir).map_err(|e| unavailable(&log.dir, &e))?;
    let mut guard = log.write();
    let known = guard.segments.len();
    let files = relevant(&listing, &guard.segments);
    let appended = guard.schemas == listing.schemas.len()
        && files.len() >= known
        // One that begins earlier has taken over the end of the one before (`recover_tail.rs`).
        && files.get(known).is_none_or(|(first, _)| *first >= guard.next)
        && files.iter().zip(&guard.segments).all(|((_, path), segment)| {
            path == &segment.path && segment.is_at(path)
        });
    if appended {
        let mut loaded =
            Loaded { state: std::mem::take(&mut *guard), damage: Vec::new(), appendable: true, intact: true };
        let through = loaded.state.segments.last().map_or(0, |last| if last.compacted { last.through } else { 0 });
        let new = load::survey(&log.files, files.get(known..).unwrap_or_default(), through, Access::Read);
        let mut complete = false;
        if let Ok(Some(new)) = new {
            complete = grow(&mut loaded, new.files.first().map(|next| next.first)).is_ok();
            for (found, limit) in load::with_limits(new.files) {
                complete = complete && loaded.add(&log.files, found, limit, Access::Read) == Ok(true);
            }
        }
        *guard = loaded.state;
        loaded.damage.into_iter().for_each(|sentence| log.report(sentence));
        if complete {
            drop(guard);
            log.publish();
            return Ok(());
        }
    }
    drop(guard);
    let mut loaded = load::load(&log.files, &log.dir, Access::Read)?;
    loaded.damage.drain(..).for_each(|sentence| log.report(sentence));
    let mut guard = log.write();
    // Positions never go back, even if the directory was emptied.
    loaded.state.next = loaded.state.next.max(guard.next);
    *guard = loaded.state;
    drop(guard);
    log.publish();
    Ok(())
}

/// The files of a listing without those that a compacted segment before them replaces.
fn relevant(listing: &load::Listing, segments: &[super::segment::Segment]) -> Vec<(Position, PathBuf)> {
    let replaced = |first: Position| {
        let at = segments.partition_point(|segment| segment.first < first);
        at.checked_sub(1).and_then(|before| segments.get(before)).is_some_and(|segment| segment.through >= first)
    };
    listing.segments.iter().filter(|(first, _)| !replaced(*first)).cloned().collect()
}

/// Adds what was appended to the last known segment.
fn grow(loaded: &mut Loaded, limit: Option<Position>) -> std::io::Result<()> {
    let Some(mut last) = loaded.state.segments.pop() else { return Ok(()) };
    let ordinal = last.ordinal;
    let state = &mut loaded.state;
    let decoder = Arc::clone(&state.decoder);
    let scanned = last.scan(limit, |offset, meta, payload| {
        state.set_newest(pair_of(&decoder, meta, payload), Location::new(ordinal, offset));
    });
    if let Ok(scanned) = &scanned {
        loaded.damage.extend(scanned.damage.iter().map(|damage| last.describe(damage)));
        if let (Some(tail), true) = (scanned.tail, limit.is_some() && !last.reaches(limit)) {
            loaded.damage.push(last.describe(&tail));
            last.len = tail.offset + tail.bytes;
        }
    }
    if limit.is_some() {
        last.close();
    }
    loaded.state.next = loaded.state.next.max(last.next());
    loaded.state.segments.push(last);
    scanned.map(|_| ())
}
