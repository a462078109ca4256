//! The contract of a stream, answered by the writer, the readers and what the opening knows.

use super::client::blocking;
use super::core::Core;
use super::index::{CACHED_VALUE_MAX, Note};
use super::member::Member;
use super::opening::wire;
use super::read::{self, Reading};
use super::reader::Reader;
use super::record::{Fence, Fences, Outgoing, pair_key};
use super::settings::Settings;
use super::watch::Watch;
use super::writer::{Item, Writer};
use crate::change::{Change, Connector, KeyedHash, Op, Pair, Position, Source, ValueKind};
use crate::env::{self, Map};
use crate::stream::{CompleteThrough, ExistingPairs, Extent, Latest, ReadBatch, Stream, StreamError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bytes of encoded changes that may wait for the brokers; further appends wait before they queue.
pub(super) const QUEUE_BYTES: usize = 16 << 20;
/// The queue is counted in these.
pub(super) const QUEUE_UNIT: usize = 1 << 10;
/// How often an opening for reading only looks for new records: below what a person at `tail`
/// notices.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of records that are read at once to list the pairs that exist.
const EXISTING_BYTES: usize = 4 << 20;

/// A stream on a topic. Dropping it gives up the lease, if it holds one.
pub struct KafkaStream {
    pub(super) core: Arc<Core>,
    /// The consumer of `read` and `position_at`; made when it is first needed.
    pub(super) reading: Arc<Mutex<Option<Reading>>>,
    /// From [`Stream::begin`] on.
    pub(super) writing: OnceLock<Arc<Writing>>,
    /// Of a command that owns nothing.
    pub(super) keeping: tokio::sync::OnceCell<Writer>,
    pub(super) queue: Arc<Semaphore>,
    pub(super) auditing: tokio::sync::Mutex<()>,
    pub(super) member: Option<Member>,
    pub(super) is_read_only: bool,
}

/// What there is while this opening owns the stream.
pub(super) struct Writing {
    pub writer: Writer,
    pub fence: Fence,
    /// Dropped with it, so that the watch over the topic ends.
    _watch: Watch,
}

impl Drop for KafkaStream {
    fn drop(&mut self) {
        let parts = (self.writing.take(), self.keeping.take(), std::mem::take(&mut self.reading));
        // Closing a client waits for its threads: not here.
        let _ = env::tasks::thread("kafka-close", move || drop(parts));
    }
}

impl KafkaStream {
    /// Opens the stream for reading only, beside a writer or without one; `None` if there is no
    /// such topic.
    ///
    /// # Errors
    /// [`StreamError::Unavailable`] if no broker answers, [`StreamError::Refused`] for credentials,
    /// rights and a topic that is no stream.
    pub async fn open_read_only(settings: Settings) -> Result<Option<KafkaStream>, StreamError> {
        let wire = wire(&settings, false).await?;
        let opened = blocking(move || {
            let mut reader = Reader::open(&settings)?;
            match reader.partitions()? {
                None => return Ok(None),
                Some(1) => {}
                Some(partitions) => {
                    let topic = &settings.topic;
                    let why = format!("topic {topic} has {partitions} partitions: it is no stream of Keepstep");
                    return Err(StreamError::Refused(why));
                }
            }
            let (first, end) = reader.bounds()?;
            let core = Core::new(settings, wire, 0);
            core.begin_with_bounds(first, end);
            core.look_at_age(&mut reader)?;
            Ok(Some((core, reader)))
        })
        .await?;
        Ok(opened.map(|(core, reader)| KafkaStream {
            core,
            reading: Arc::new(Mutex::new(Some(Reading { reader, fences: Fences::default() }))),
            writing: OnceLock::new(),
            keeping: tokio::sync::OnceCell::new(),
            queue: Arc::new(Semaphore::new(0)),
            auditing: tokio::sync::Mutex::new(()),
            member: None,
            is_read_only: true,
        }))
    }

    /// Reads the topic to its end, so that [`Stream::latest`] and [`Stream::knows`] answer: an
    /// opening for writing has done that, one for reading only begins without.
    ///
    /// # Errors
    /// As [`Stream::read`].
    pub async fn read_pairs(&self) -> Result<(), StreamError> {
        self.with_reading(|core, reading| {
            let (first, end) = core.bounds();
            core.read_into(&mut reading.reader, first, end)
        })
        .await
    }

    pub(super) fn writing(&self) -> Result<&Arc<Writing>, StreamError> {
        if let Some(lost) = self.core.lost() {
            return Err(lost);
        }
        self.writing.get().ok_or_else(|| {
            let topic = &self.core.settings.topic;
            StreamError::Unavailable(format!("the stream in topic {topic} is not open for writing"))
        })
    }

    /// Runs work with the consumer of this opening.
    async fn with_reading<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core, &mut Reading) -> Result<T, StreamError> + Send + 'static,
    ) -> Result<T, StreamError> {
        let (core, reading) = (Arc::clone(&self.core), Arc::clone(&self.reading));
        blocking(move || {
            let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
            if reading.is_none() {
                *reading = Some(Reading { reader: Reader::open(&core.settings)?, fences: Fences::default() });
            }
            match reading.as_mut() {
                Some(reading) => work(&core, reading),
                None => Err(StreamError::Unavailable("there is no reader".to_owned())),
            }
        })
        .await
    }

    /// Changes as records; tombstones for the pairs that end with them follow.
    fn items(&self, changes: &[Change], fence: Fence) -> Result<Vec<Item>, StreamError> {
        let core = &self.core;
        let (pipeline, limit) = (&core.settings.pipeline, core.record_bytes_max());
        let mut items = Vec::with_capacity(changes.len());
        let mut last: Map<KeyedHash, usize> = Map::default();
        let has_deletes = changes.iter().any(|change| change.op == Op::Delete);
        for (index, change) in changes.iter().enumerate() {
            let record = Outgoing::of(change, pipeline, fence, &core.wire).map_err(StreamError::Damaged)?;
            self.check_size(index, &record, limit)?;
            let note = Note::of(&record.key, change);
            if has_deletes {
                last.insert(note.hash, index);
            }
            let note = (change.op != Op::Marker).then_some(note);
            let value = change.after.as_ref().filter(|value| value.len() <= CACHED_VALUE_MAX).cloned();
            items.push(Item { record, note, value });
        }
        if has_deletes {
            let mut ends = Vec::new();
            for (index, (change, item)) in changes.iter().zip(&items).enumerate() {
                let is_last = item.note.as_ref().is_some_and(|note| last.get(&note.hash) == Some(&index));
                if change.op == Op::Delete && is_last {
                    let key = item.record.key.clone();
                    let record = Outgoing::tombstone(key, change.ts_ms, pipeline, &change.route, fence);
                    ends.push(Item { record, note: None, value: None });
                }
            }
            items.extend(ends);
        }
        Ok(items)
    }

    fn check_size(&self, index: usize, record: &Outgoing, limit: usize) -> Result<(), StreamError> {
        let bytes = record.bytes();
        if bytes <= limit {
            return Ok(());
        }
        let topic = &self.core.settings.topic;
        let text = format!("its change takes {bytes} bytes, and topic {topic} takes {limit} (max.message.bytes)");
        Err(StreamError::TooLarge { index, text })
    }

    /// Replaced values as records that nobody's fence touches.
    fn replaced_items(&self, replaced: &[Change]) -> Result<Vec<Item>, StreamError> {
        let core = &self.core;
        let (newest, limit) = (core.newest_epoch(), core.record_bytes_max());
        let items = replaced.iter().enumerate().map(|(index, change)| {
            let change = Change { epoch: newest, ..change.clone() };
            let record =
                Outgoing::replaced(&change, &core.settings.pipeline, &core.wire).map_err(StreamError::Damaged)?;
            self.check_size(index, &record, limit)?;
            Ok(Item { record, note: None, value: None })
        });
        items.collect()
    }

    /// The marker of an owner, with the epoch through which the stream is complete.
    fn owner_record(&self, fence: Fence, complete: CompleteThrough) -> Result<Item, StreamError> {
        let core = &self.core;
        let marker = owner_marker(fence.epoch);
        let record = Outgoing::owner(&marker, &core.settings.pipeline, fence, complete, &core.wire);
        Ok(Item { record: record.map_err(StreamError::Damaged)?, note: None, value: None })
    }

    pub(super) async fn write(
        &self,
        writer: &Writer,
        items: Vec<Item>,
        changes: usize,
    ) -> Result<Position, StreamError> {
        let bytes: usize = items.iter().map(|item| item.record.bytes()).sum();
        let share = bytes.div_ceil(QUEUE_UNIT).min(QUEUE_BYTES / QUEUE_UNIT) as u32;
        let gone = |_| StreamError::Unavailable("the stream is closed".to_owned());
        let permit = Arc::clone(&self.queue).acquire_many_owned(share).await.map_err(gone)?;
        let written = writer.write(items, changes, Some(permit)).await;
        if written.is_err() && writer.is_dead() {
            let topic = &self.core.settings.topic;
            self.core.lose(StreamError::Lost(format!("the writer of topic {topic} cannot go on; it is opened anew")));
        }
        written
    }
}

/// The marker with which an owner begins. Consumers see it like that of a gap, without one.
fn owner_marker(epoch: i64) -> Change {
    Change {
        op: Op::Marker,
        before: None,
        after: None,
        source: Source::new(Connector::Keepstep, "", env::unix_ms()),
        ts_ms: env::unix_ms(),
        route: String::new(),
        value: ValueKind::String,
        pair: Pair { zookeeper: None, redis: None },
        base: None,
        collapsed: None,
        conflict: None,
        gap: None,
        epoch,
        loss: None,
    }
}

impl Stream for KafkaStream {
    fn begin(&self, epoch: i64, complete: CompleteThrough) -> BoxFuture<'_, Result<(), StreamError>> {
        async move {
            let core = &self.core;
            let fence = core.claim_fence(epoch)?;
            let settings = core.settings.clone();
            let opened = {
                let core = Arc::clone(core);
                blocking(move || Writer::open(&settings, &core, core.record_bytes_max())).await?
            };
            let record = self.owner_record(fence, complete)?;
            let writing = Arc::new(Writing { writer: opened, fence, _watch: Watch::start(Arc::clone(core))? });
            let written = self.write(&writing.writer, vec![record], 0).await;
            if let Err(error) = written {
                let error = writing.writer.refusal().unwrap_or(error);
                // Closing a client waits for its thread.
                let _ = env::tasks::blocking(move || drop(writing)).await;
                return Err(error);
            }
            core.note_complete_through(complete);
            // One opening begins once.
            let _ = self.writing.set(writing);
            self.audit().await?;
            self.restate().await
        }
        .boxed()
    }

    fn newest_epoch(&self) -> BoxFuture<'_, i64> {
        std::future::ready(self.core.newest_epoch()).boxed()
    }

    fn complete_through(&self) -> CompleteThrough {
        self.core.complete_through()
    }

    fn set_complete_through(&self, complete: CompleteThrough) -> BoxFuture<'_, Result<(), StreamError>> {
        async move {
            let writing = Arc::clone(self.writing()?);
            let record = self.owner_record(writing.fence, complete)?;
            self.write(&writing.writer, vec![record], 0).await?;
            self.core.note_complete_through(complete);
            Ok(())
        }
        .boxed()
    }

    fn append(&self, changes: Arc<Vec<Change>>) -> BoxFuture<'_, Result<Position, StreamError>> {
        async move {
            let writing = Arc::clone(self.writing()?);
            if changes.is_empty() {
                return Ok(self.core.end());
            }
            let items = self.items(&changes, writing.fence)?;
            let count = changes.len();
            drop(changes);
            let first = self.write(&writing.writer, items, count).await?;
            if self.core.has_unread() {
                self.audit().await?;
                if let Err(error) = self.restate().await {
                    tracing::warn!("records of a former owner are not settled yet: {error}");
                }
            }
            Ok(first)
        }
        .boxed()
    }

    fn record_replaced(&self, replaced: Vec<Change>) -> BoxFuture<'_, Result<Position, StreamError>> {
        async move {
            if self.is_read_only || self.writing.get().is_some() {
                return Err(StreamError::Unavailable("this opening records nothing for a command".to_owned()));
            }
            let items = self.replaced_items(&replaced)?;
            let open = || {
                let core = Arc::clone(&self.core);
                blocking(move || Writer::open(&core.settings, &core, core.record_bytes_max()))
            };
            let writer = self.keeping.get_or_try_init(open).await?;
            // An owner's records may come in between: then the answer is the position of the first
            // one.
            self.write(writer, items, 0).await.map_err(|error| writer.refusal().unwrap_or(error))
        }
        .boxed()
    }

    fn latest(&self, pair: &Pair) -> Result<Option<Latest>, StreamError> {
        Ok(self.core.latest(KeyedHash::of(&pair_key(pair))))
    }

    fn latest_of(&self, pairs: Vec<Pair>) -> BoxFuture<'_, Result<Vec<Option<Latest>>, StreamError>> {
        let latest = pairs.iter().map(|pair| self.latest(pair)).collect();
        std::future::ready(latest).boxed()
    }

    fn knows(&self, pair: &Pair) -> bool {
        self.core.knows(KeyedHash::of(&pair_key(pair)))
    }

    fn existing(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<ExistingPairs, StreamError>> {
        let is_read_only = self.is_read_only;
        self.with_reading(move |core, reading| {
            // Each record is a pair at most.
            let batch = read::read(core, reading, is_read_only, from, limit.max(1), EXISTING_BYTES)?;
            Ok(ExistingPairs { pairs: core.pairs_that_exist(batch.records), next: batch.next })
        })
        .boxed()
    }

    fn read(&self, from: Position, limit: usize, bytes: usize) -> BoxFuture<'_, Result<ReadBatch, StreamError>> {
        let is_read_only = self.is_read_only;
        self.with_reading(move |core, reading| read::read(core, reading, is_read_only, from, limit.max(1), bytes))
            .boxed()
    }

    fn position_at(&self, ts_ms: i64) -> BoxFuture<'_, Result<Position, StreamError>> {
        self.with_reading(move |_, reading| match reading.reader.position_at(ts_ms)? {
            Some(position) => Ok(position),
            None => Ok(reading.reader.bounds()?.1),
        })
        .boxed()
    }

    fn extent(&self) -> Extent {
        self.core.extent()
    }

    fn wait_after(&self, position: Position) -> BoxFuture<'_, ()> {
        async move {
            let mut newest = self.core.newest.subscribe();
            if !self.is_read_only {
                // The sender lives as long as `self`, so this ends with a record.
                let _ = newest.wait_for(|newest| *newest > position).await;
                return;
            }
            loop {
                if *newest.borrow_and_update() > position {
                    return;
                }
                let looked = self.with_reading(|core, reading| {
                    let (first, end) = reading.reader.bounds()?;
                    core.follow_bounds(first, end)
                });
                // The next read reports it; what cannot be asked now may be answered at the next
                // look.
                if let Err(StreamError::Lost(_)) = looked.await {
                    return;
                }
                if *newest.borrow_and_update() > position {
                    return;
                }
                env::sleep(POLL).await;
            }
        }
        .boxed()
    }

    fn lost(&self) -> BoxFuture<'_, StreamError> {
        async move {
            let released = async {
                match &self.member {
                    Some(member) => member.released().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                error = self.core.wait_lost() => error,
                error = released => {
                    self.core.lose(error.clone());
                    error
                }
            }
        }
        .boxed()
    }
}
