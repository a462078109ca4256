//! What others wrote between an owner's records.
//!
//! ```text
//!   a hole between two places of ours -> read it: ours that came through after all -> index
//!                                                 of a shut-out owner              -> the pair is recorded once more
//!                                                 of a newer owner                 -> this opening is lost
//! ```
//!
//! Recording a pair once more is what makes fencing by order hold under compaction: Kafka keeps the last record of a key,
//! whoever wrote it, so the last one must be valid.

use super::client::blocking;
use super::core::{Core, Stale};
use super::index::Note;
use super::reader::Reader;
use super::record::{Entry, Incoming, Outgoing};
use super::stream::KafkaStream;
use super::writer::Item;
use crate::change::{Change, KeyedHash, Position};
use crate::env;
use crate::stream::StreamError;
use std::ops::ControlFlow;
use std::sync::Arc;

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
