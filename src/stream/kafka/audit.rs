//! The owner's eye on its topic: what others wrote between its records, and whether the topic is still the one it opened.
//!
//! ```text
//!   a hole between two places of ours -> read it: ours that came through after all -> index
//!                                                 of a shut-out owner              -> the pair is recorded once more
//!                                                 of a newer owner                 -> this opening is lost
//! ```
//!
//! Recording a pair once more is what makes fencing by order hold under compaction: Kafka keeps the last record of a key,
//! whoever wrote it, so the last one must be valid.

use super::core::{Core, Stale};
use super::index::Note;
use super::reader::Reader;
use super::record::{Entry, Incoming, Outgoing};
use super::topic;
use super::writer::Item;
use super::{KafkaStream, blocking, record};
use crate::change::{Change, KeyedHash, Position};
use crate::env::{self, Instant};
use crate::stream::StreamError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often an owner looks at its topic: so late it learns, without an append, that the topic is gone.
const PERIOD: Duration = Duration::from_secs(3);
/// How often it looks from where on history is whole.
const AGE_PERIOD: Duration = Duration::from_secs(60);

impl KafkaStream {
    /// Reads what stands in the holes between our records.
    pub(super) async fn audit(&self) -> Result<(), StreamError> {
        let _one = self.auditing.lock().await;
        while let Some(hole) = self.core.first_hole() {
            let core = Arc::clone(&self.core);
            let read = blocking(move || {
                let mut reader = Reader::open(&core.settings)?;
                core.read_into(&mut reader, hole.0, hole.1)
            })
            .await;
            if let Err(error @ StreamError::Lost(_)) = &read {
                self.core.lose(error.clone());
            }
            read?;
            self.core.close_hole(hole);
        }
        if let Some((position, other)) = self.core.foreign() {
            tracing::error!(
                "pipeline `{other}` writes topic {} as well, since position {position}: give it another topic",
                self.core.settings.topic
            );
        }
        Ok(())
    }

    /// Records pairs once more whose newest record is of a shut-out owner.
    pub(super) async fn restate(&self) -> Result<(), StreamError> {
        let stale = self.core.take_stale();
        if stale.is_empty() {
            return Ok(());
        }
        let restated = self.restate_all(stale.values().cloned().collect()).await;
        if restated.is_err() {
            self.core.put_back_stale(stale);
        }
        restated
    }

    async fn restate_all(&self, stale: Vec<Stale>) -> Result<(), StreamError> {
        let writing = Arc::clone(self.writing()?);
        let core = Arc::clone(&self.core);
        let found = blocking(move || newest_of(&core, stale)).await?;
        let settings = &self.core.settings;
        let fence = writing.fence;
        let count = found.len();
        for (stale, newest) in found {
            let item = match newest {
                Some(mut change) => {
                    change.epoch = fence.epoch;
                    change.ts_ms = env::unix_ms();
                    let record = Outgoing::of(&change, &settings.pipeline, fence, &self.core.wire);
                    let record = record.map_err(StreamError::Damaged)?;
                    let note = Some(Note::of(&record.key, &change));
                    Item { record, note, value: change.after }
                }
                // Nobody who was allowed to ever wrote of it.
                None => {
                    let record =
                        Outgoing::tombstone(stale.key, env::unix_ms(), &settings.pipeline, &stale.route, fence);
                    Item { record, note: None, value: None }
                }
            };
            self.write(&writing.writer, vec![item], 0).await?;
        }
        if count > 0 {
            tracing::warn!(
                "{count} pairs were recorded once more: a former owner of topic {} had written of them too late",
                settings.topic
            );
        }
        Ok(())
    }
}

/// The newest valid change of each of these keys, if there is one; keys that a newer one follows are left out.
fn newest_of(core: &Core, stale: Vec<Stale>) -> Result<Vec<(Stale, Option<Change>)>, StreamError> {
    let mut reader = Reader::open(&core.settings)?;
    let mut found = Vec::with_capacity(stale.len());
    for item in stale {
        match core.position_of(KeyedHash::of(&item.key)) {
            Some(newest) if newest > item.position => {}
            Some(newest) => {
                let change = read_one(core, &mut reader, newest)?;
                found.push((item, change));
            }
            None => found.push((item, None)),
        }
    }
    Ok(found)
}

fn read_one(core: &Core, reader: &mut Reader, position: Position) -> Result<Option<Change>, StreamError> {
    let mut found = None;
    reader.each(position, position + 1, |message| {
        if let Entry::Change(change) = Incoming::read(message, &core.settings.pipeline, &core.wire).entry {
            found = Some(*change);
        }
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// A thread that looks at the topic now and then, until it is dropped.
pub(super) struct Keeper {
    _stop: SyncSender<()>,
}

impl Keeper {
    pub fn start(core: Arc<Core>) -> Result<Keeper, StreamError> {
        let (stop, stopped) = sync_channel(1);
        env::tasks::thread("kafka-watch", move || keep(&core, &stopped))
            .map_err(|error| StreamError::Unavailable(format!("a thread could not be started: {error}")))?;
        Ok(Keeper { _stop: stop })
    }
}

fn keep(core: &Core, stopped: &Receiver<()>) {
    let mut reader = None;
    let mut gone = 0_u32;
    let mut aged = Instant::now();
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) && core.lost().is_none() {
        if reader.is_none() {
            reader = Reader::open(&core.settings).ok();
        }
        let Some(reader) = reader.as_mut() else { continue };
        match look(core, reader) {
            Ok(()) => gone = 0,
            // A broker that has just started may not know its topics yet.
            Err(error @ StreamError::Lost(_)) => {
                gone += 1;
                if gone > 1 {
                    core.lose(error);
                }
            }
            Err(error) => tracing::debug!("{error}"),
        }
        if aged.elapsed() >= AGE_PERIOD {
            aged = Instant::now();
            if let Err(error) = core.look_at_age(reader) {
                tracing::debug!("{error}");
            }
        }
    }
}

/// Compares the topic with what this opening knows of it.
fn look(core: &Core, reader: &mut Reader) -> Result<(), StreamError> {
    let topic = &core.settings.topic;
    let known = core.next();
    if reader.partitions()?.is_none() {
        return Err(StreamError::Lost(format!("topic {topic} is gone: it was deleted; its history is lost")));
    }
    let (first, end) = reader.bounds()?;
    if end < known {
        let (is, was) = (end - 1, known - 1);
        let why = format!("topic {topic} ends at position {is}, and it ended at {was}: it was deleted or truncated");
        return Err(StreamError::Lost(why));
    }
    if first > core.first() {
        let why = format!("records of topic {topic} before position {first} were deleted; their history is lost");
        return Err(StreamError::Lost(why));
    }
    if core.take_limit_asked() {
        core.set_limit(topic::prepare(&core.settings, reader)?.record_bytes_max);
    }
    let Some(own) = core.own() else { return Ok(()) };
    if end <= known {
        return Ok(());
    }
    // Ours that are under way, or somebody else's.
    let mut newer = None;
    reader.each(known, end, |message| {
        let fence = record::fence_of(message, &core.settings.pipeline);
        newer = newer.or(fence.filter(|fence| *fence > own));
        ControlFlow::Continue(())
    })?;
    reader.rest();
    if let Some(fence) = newer {
        core.lose(StreamError::Lost(format!("another owner (epoch {}) writes topic {topic} now", fence.epoch)));
    }
    Ok(())
}
