//! The one writer: hands records to librdkafka in order and waits for their places.
//!
//! ```text
//!   append -> encode -> (in one go) produce, produce, … tombstones -> acks: one place each -> index -> `Ok(first)`
//! ```
//!
//! Positions are consecutive while nobody else writes. A position between two of ours is somebody
//! else's record, or one of ours that was reported as failed and came through: it is noted, and
//! read before the append is answered.

use super::client::{self, Context, explain};
use super::core::Core;
use super::index::Note;
use super::reader::PARTITION;
use super::record::{Outgoing, position_of};
use super::settings::Settings;
use crate::change::Position;
use crate::env;
use crate::stream::StreamError;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What librdkafka calls with the fate of each record.
struct Deliveries {
    context: Context,
    core: Arc<Core>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.context.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let settings = &self.core.settings;
        let fate = match result {
            Ok(message) if message.offset() >= 0 => {
                let position = position_of(message.offset());
                let batch = &ticket.batch;
                let note = batch.notes.get(ticket.index).and_then(Option::as_ref);
                let value = batch.values.get(ticket.index).and_then(Option::as_deref);
                self.core.acknowledged(position, note, value).map(|()| position)
            }
            Ok(_) => Err(StreamError::Unavailable("the broker took a record without saying where".to_owned())),
            Err((error, _)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    self.core.doubt_limit();
                }
                Err(explain(settings, "writing", error))
            }
        };
        if let Err(error @ StreamError::Lost(_)) = &fate {
            self.core.lose(error.clone());
        }
        ticket.batch.settle(ticket.index, fate);
    }
}

/// What a record carries through librdkafka.
struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

/// Records that were appended together.
struct Batch {
    /// By index: what the index of pairs adds; `None` for tombstones and markers.
    notes: Vec<Option<Note>>,
    /// By index: the values, for the cache.
    values: Vec<Option<Vec<u8>>>,
    /// Records that must follow each other: the changes, without the tombstones behind them.
    changes: usize,
    fate: Mutex<Fate>,
}

struct Fate {
    left: usize,
    first: Option<Position>,
    /// Of the changes, the highest that was placed where it belongs.
    error: Option<StreamError>,
    done: Option<oneshot::Sender<Result<Position, StreamError>>>,
    /// Given back when all are settled.
    permit: Option<OwnedSemaphorePermit>,
}

impl Batch {
    fn settle(&self, index: usize, placed: Result<Position, StreamError>) {
        let mut fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
        match placed {
            Ok(position) if index < self.changes => {
                let offset = u64::try_from(index).unwrap_or(0);
                let first = position.saturating_sub(offset);
                if *fate.first.get_or_insert(first) != first {
                    let why = "another writer's records came in between";
                    fate.error.get_or_insert_with(|| StreamError::Unavailable(why.to_owned()));
                }
            }
            Ok(position) => {
                // A batch of nothing but a tombstone or a marker is answered with its place.
                fate.first.get_or_insert(position);
            }
            Err(error) => {
                fate.error.get_or_insert(error);
            }
        }
        fate.left = fate.left.saturating_sub(1);
        if fate.left == 0 {
            fate.permit = None;
            if let Some(done) = fate.done.take() {
                let answer = match (fate.error.take(), fate.first) {
                    (Some(error), _) => Err(error),
                    (None, first) => Ok(first.unwrap_or_default()),
                };
                // Nobody waits any more: the records are there all the same.
                let _ = done.send(answer);
            }
        }
    }
}

/// A record with what the index of pairs adds when it is acknowledged.
pub(super) struct Item {
    pub record: Outgoing,
    pub note: Option<Note>,
    pub value: Option<Vec<u8>>,
}

/// How long one step waits for an answer of the brokers: so late, at most, a dropped writer ends.
const STEP: Duration = Duration::from_millis(100);

/// The work of the writer beside handing records over, in steps: librdkafka calls [`Deliveries`]
/// from within them.
struct DeliverySteps(Arc<BaseProducer<Deliveries>>);

impl DeliverySteps {
    /// Serves the answers that have come; waits up to [`STEP`] for one.
    fn step(&self) {
        self.0.poll(STEP);
    }
}

/// See the module.
pub(super) struct Writer {
    producer: Arc<BaseProducer<Deliveries>>,
    is_dropped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Held while a batch is handed over, so that batches do not mix.
    order: Mutex<()>,
    topic: String,
}

impl Writer {
    pub fn open(settings: &Settings, core: &Arc<Core>, record_bytes_max: usize) -> Result<Writer, StreamError> {
        let deliveries = Deliveries { context: Context::new(settings), core: Arc::clone(core) };
        let producer: BaseProducer<Deliveries> = client::writer(settings, record_bytes_max)
            .create_with_context(deliveries)
            .map_err(|error| explain(settings, "opening the writer", &error))?;
        let (producer, is_dropped) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (steps, ends) = (DeliverySteps(Arc::clone(&producer)), Arc::clone(&is_dropped));
        let run = move || {
            while !ends.load(Ordering::Relaxed) {
                steps.step();
            }
        };
        let thread = env::tasks::thread("kafka-write", run)
            .map_err(|error| StreamError::Unavailable(format!("a thread could not be started: {error}")))?;
        let topic = settings.topic.clone();
        Ok(Writer { producer, is_dropped, thread: Some(thread), order: Mutex::default(), topic })
    }

    /// Hands the records over. The first `changes` of them follow each other; resolves with the
    /// position of the first.
    pub async fn write(
        &self,
        items: Vec<Item>,
        changes: usize,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Position, StreamError> {
        let (done, answered) = oneshot::channel();
        let fate = Fate { left: items.len(), first: None, error: None, done: Some(done), permit };
        let mut notes = Vec::with_capacity(items.len());
        let mut values = Vec::with_capacity(items.len());
        let mut records = Vec::with_capacity(items.len());
        for item in items {
            notes.push(item.note);
            values.push(item.value);
            records.push(item.record);
        }
        let batch = Arc::new(Batch { notes, values, changes, fate: Mutex::new(fate) });
        self.hand_over(&batch, records);
        let gone = |_| StreamError::Unavailable("the stream is closed".to_owned());
        answered.await.map_err(gone)?
    }

    fn hand_over(&self, batch: &Arc<Batch>, records: Vec<Outgoing>) {
        let _one = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refused: Option<StreamError> = None;
        for (index, record) in records.into_iter().enumerate() {
            if let Some(error) = &refused {
                // The records behind one that was not taken must not get ahead of it.
                batch.settle(index, Err(error.clone()));
                continue;
            }
            let ticket = Box::new(Ticket { batch: Arc::clone(batch), index });
            let mut message = BaseRecord::<[u8], [u8], Box<Ticket>>::with_opaque_to(&self.topic, ticket)
                .partition(PARTITION)
                .key(&record.key)
                .timestamp(record.ts_ms)
                .headers(record.headers);
            if let Some(payload) = &record.payload {
                message = message.payload(payload);
            }
            if let Err((error, message)) = self.producer.send(message) {
                let settings = &self.producer.context().core.settings;
                let error = explain(settings, "writing", &error);
                message.delivery_opaque.batch.settle(index, Err(error.clone()));
                refused = Some(error);
            }
        }
    }

    /// Why the brokers refuse the writer, if they do.
    pub fn refusal(&self) -> Option<StreamError> {
        self.producer.context().context.refusal()
    }

    /// The error after which this producer does nothing any more.
    pub fn is_dead(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Once its thread has ended, the producer is dropped with this: then what is under way
            // is given up.
            let _ = thread.join();
        }
    }
}
