//! What others wrote between an owner's records.
//!
//! ```text
//!   positions between two records of ours -> read: ours that came through after all -> index
//!                                                  of a shut-out owner              -> the pair is recorded once more
//!                                                  of a newer owner                 -> this opening is lost
//! ```
//!
//! Recording a pair once more is what makes fencing by order hold under compaction: Kafka keeps the
//! last record of a key, whoever wrote it, so the last one must be valid.

use super::client::blocking;
use super::core::Stale;
use super::index::Note;
use super::reader::Reader;
use super::record::Outgoing;
use super::stream::KafkaStream;
use super::writer::Item;
use crate::env;
use crate::stream::StreamError;
use std::sync::Arc;

impl KafkaStream {
    /// Reads what others wrote between our own records.
    pub(super) async fn audit(&self) -> Result<(), StreamError> {
        let _one = self.auditing.lock().await;
        if self.core.has_unread() {
            let core = Arc::clone(&self.core);
            blocking(move || core.read_unread(&mut Reader::open(&core.settings)?)).await?;
        }
        self.core.report_other_pipeline();
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
            self.core.requeue_stale(stale);
        }
        restated
    }

    async fn restate_all(&self, stale: Vec<Stale>) -> Result<(), StreamError> {
        let writing = Arc::clone(self.writing()?);
        let core = Arc::clone(&self.core);
        let found = blocking(move || core.newest_valid(&mut Reader::open(&core.settings)?, stale)).await?;
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
                // No owner with a valid fence ever recorded it.
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
