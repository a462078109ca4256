//! Reading history: records in order, without those of shut-out owners; what cannot be read is
//! reported.

use super::core::Core;
use super::reader::Reader;
use super::record::{self, Entry, Fences, Incoming};
use crate::change::Position;
use crate::stream::{ReadBatch, Recorded, StreamError};
use std::ops::ControlFlow;

/// A reader that begins in the middle looks at so many records before, for the fence that holds
/// there: more than an owner that wakes up too late has under way.
const LOOK_BACK: u64 = 2_000;

/// A consumer and the fences that hold at its place.
pub(super) struct Reading {
    pub reader: Reader,
    pub fences: Fences,
}

/// See [`crate::stream::Stream::read`].
pub(super) fn read(
    core: &Core,
    reading: &mut Reading,
    is_read_only: bool,
    from: Position,
    limit: usize,
    bytes: usize,
) -> Result<ReadBatch, StreamError> {
    let (first, end) = reading.reader.bounds()?;
    if is_read_only {
        core.follow_bounds(first, end)?;
    }
    let start = from.max(first);
    let mut batch = ReadBatch { next: start, ..ReadBatch::default() };
    if start >= end {
        if !is_read_only {
            // A writer that has read its stream once does not fetch back what it writes.
            reading.reader.rest();
        }
        batch.next = from;
        return Ok(batch);
    }
    if !reading.reader.stands_at(start) {
        reading.fences = if is_read_only { look_back(core, &mut reading.reader, first, start)? } else { core.fences() };
    }
    let (settings, wire) = (&core.settings, &core.wire);
    let fences = &mut reading.fences;
    let mut budget = bytes;
    let mut away = None;
    let next = reading.reader.each(start, end, |message| {
        let incoming = Incoming::read(message, &settings.pipeline, wire);
        let position = incoming.position;
        if let Entry::Away(why) = incoming.entry {
            away = Some(StreamError::Unavailable(why));
            return ControlFlow::Break(());
        }
        batch.damaged.extend(incoming.complaint(&settings.topic));
        let is_shut_out = match incoming.fence {
            Some(fence) if fences.shuts_out(position, fence) => true,
            Some(fence) => {
                fences.note(position, fence);
                false
            }
            None => false,
        };
        if let (Entry::Change(change), false) = (incoming.entry, is_shut_out) {
            batch.records.push(Recorded { position, change: *change });
            budget = budget.saturating_sub(incoming.bytes);
        }
        if batch.records.len() >= limit || (budget == 0 && !batch.records.is_empty()) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = away {
        // The same record is asked for again.
        reading.reader.rest();
        return Err(error);
    }
    batch.next = next;
    Ok(batch)
}

/// The fences that hold at `start`, from the records before it.
fn look_back(core: &Core, reader: &mut Reader, first: Position, start: Position) -> Result<Fences, StreamError> {
    let mut fences = Fences::default();
    let from = start.saturating_sub(LOOK_BACK).max(first);
    if from < start {
        reader.each(from, start, |message| {
            if let Some(fence) = record::fence_of(message, &core.settings.pipeline) {
                fences.note(record::position_of(rdkafka::message::Message::offset(message)), fence);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(fences)
}
