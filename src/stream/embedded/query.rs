//! Reading: in order from a position or a time, and the newest record of a pair.

use super::file::LogFile;
use super::frame::{self, Step, Walker};
use super::index::known_as;
use super::log::{Log, unavailable};
use crate::change::{Pair, Position};
use crate::env::disk::File;
use crate::stream::{ReadBatch, Recorded, StreamError};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Why nothing could be looked up.
pub(super) enum Missed {
    /// The file of the segment with this ordinal is gone.
    Gone(u32),
    Failed(StreamError),
}

impl Missed {
    fn of(ordinal: u32, dir: &Path, error: &std::io::Error) -> Missed {
        match error.kind() {
            ErrorKind::NotFound => Missed::Gone(ordinal),
            _ => Missed::Failed(unavailable(dir, error)),
        }
    }
}

/// A stretch of a file to be walked, taken under the lock and walked without it. The file may be
/// replaced meanwhile; what is open stays readable.
pub(super) struct Stretch {
    /// Number and file of the segment.
    pub ordinal: u32,
    pub log_file: Arc<LogFile>,
    pub file: Arc<File>,
    pub offset: u64,
    pub end: u64,
    /// Position of the frames before `offset` at most.
    pub after: Position,
    /// First position of the next segment, if there is one.
    pub next: Option<Position>,
}

/// The stretch that may hold `position`, and one past the newest position at that moment.
pub(super) fn stretch(log: &Log, position: Position) -> Result<(Option<Stretch>, Position), Missed> {
    let state = log.read();
    let at = state.segment_for(position);
    let next = state.segments.get(at + 1).map(|segment| segment.first);
    let Some(segment) = state.segments.get(at) else { return Ok((None, state.next)) };
    let (offset, after) = segment.start_for(position);
    // Under the lock: as long as the segment is in the state, its file has its name, or whoever is
    // replacing it holds it.
    let file = segment.file.get().map_err(|error| Missed::of(segment.ordinal, &log.dir, &error))?;
    let (ordinal, log_file, end) = (segment.ordinal, Arc::clone(&segment.file), segment.len);
    Ok((Some(Stretch { ordinal, log_file, file, offset, end, after, next }), state.next))
}

/// See [`crate::stream::Stream::read`].
pub(super) fn read(log: &Log, from: Position, limit: usize, bytes: usize) -> Result<ReadBatch, Missed> {
    let mut batch = ReadBatch { next: from, ..ReadBatch::default() };
    let decoder = Arc::clone(&log.read().decoder);
    let (limit, mut budget) = (limit.max(1), bytes);
    loop {
        let (Some(stretch), end) = stretch(log, batch.next)? else { return Ok(batch) };
        if batch.next >= end {
            return Ok(batch);
        }
        let mut walker = Walker::new(&stretch.file, stretch.offset, stretch.end, stretch.after, stretch.next);
        while let Some(step) = walker.next() {
            match step {
                Step::Frame { meta, .. } if meta.position < batch.next => {}
                Step::Frame { meta, payload, .. } => {
                    let full = batch.records.len() >= limit || payload.len() > budget;
                    if full && !batch.records.is_empty() {
                        return Ok(batch);
                    }
                    match decoder.decode(payload) {
                        Ok(change) => batch.records.push(Recorded { position: meta.position, change }),
                        Err(error) => batch.damaged.push(format!("position {}: {error}", meta.position)),
                    }
                    budget = budget.saturating_sub(payload.len());
                    batch.next = meta.position + 1;
                }
                // It is before the place to read on from, or the call before has reported it.
                Step::Damage(damage) if damage.before.is_some_and(|before| before <= batch.next) => {}
                Step::Damage(damage) => {
                    let sentence = describe(log, batch.next, &damage);
                    log.report(sentence.clone());
                    batch.damaged.push(sentence);
                    batch.next = batch.next.max(damage.before.unwrap_or_default());
                }
            }
        }
        match stretch.next {
            Some(next) => batch.next = batch.next.max(next),
            None => {
                batch.next = batch.next.max(end);
                return Ok(batch);
            }
        }
    }
}

fn describe(log: &Log, position: Position, damage: &frame::Damage) -> String {
    let state = log.read();
    match state.segments.get(state.segment_for(position)) {
        Some(segment) => segment.describe(damage),
        None => format!("{} bytes at offset {} are damaged", damage.bytes, damage.offset),
    }
}

/// See [`crate::stream::Stream::position_at`].
pub(super) fn position_at(log: &Log, ts_ms: i64) -> Result<Position, Missed> {
    let mut passed = 0;
    loop {
        let (file, offset, end, after, next) = {
            let state = log.read();
            let Some(at) = state.segments.iter().position(|segment| segment.first > passed && segment.ts_max >= ts_ms)
            else {
                return Ok(state.next);
            };
            let next = state.segments.get(at + 1).map(|segment| segment.first);
            let Some(segment) = state.segments.get(at) else { return Ok(state.next) };
            let (offset, after) = segment.start_for_time(ts_ms);
            passed = segment.first;
            let file = segment.file.get().map_err(|error| Missed::of(segment.ordinal, &log.dir, &error))?;
            (file, offset, segment.len, after, next)
        };
        let mut walker = Walker::new(&file, offset, end, after, next);
        while let Some(step) = walker.next() {
            if let Step::Frame { meta, .. } = step
                && meta.ts_ms >= ts_ms
            {
                return Ok(meta.position);
            }
        }
        // Its frame at or after the time was damaged meanwhile: look in the segments behind it.
    }
}

/// See [`crate::stream::Stream::latest`]. A record that turns out to be damaged is forgotten: the
/// pair is unknown from then on, so that whoever meets it records it anew.
pub(super) fn latest(log: &Log, pair: &Pair) -> Result<Option<Recorded>, Missed> {
    let hash = known_as(pair);
    loop {
        let (file, location, decoder) = {
            let state = log.read();
            let Some(location) = state.index.get(hash) else { return Ok(None) };
            let Some(opened) = state.opened.get(&location.ordinal()) else { return Ok(None) };
            let file = opened.file.get().map_err(|error| Missed::of(location.ordinal(), &log.dir, &error))?;
            (file, location, Arc::clone(&state.decoder))
        };
        let found = frame::read_one(&file, location.offset());
        let change = found.ok_or_else(|| "it is damaged".to_owned()).and_then(|(meta, payload)| {
            match decoder.decode(&payload) {
                Ok(change) if change.pair == *pair => Ok((meta, change)),
                Ok(_) => Err("another pair's is there".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        match change {
            Ok((meta, change)) => return Ok(Some(Recorded { position: meta.position, change })),
            Err(error) => {
                let mut guard = log.write();
                let state = &mut *guard;
                if state.index.forget(hash, location) {
                    state.count(location.ordinal(), -1);
                    drop(guard);
                    let offset = location.offset();
                    log.report(format!(
                        "the newest record of {pair:?}, at offset {offset} of its file, is lost: {error}"
                    ));
                    return Ok(None);
                }
                // It was superseded or moved while we looked.
            }
        }
    }
}
