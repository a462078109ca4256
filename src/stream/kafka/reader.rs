//! Reads the topic from a place on. Blocking: runs on threads that may wait.

use super::client::{self, ANSWER_TIMEOUT, Context, explain};
use super::record::{offset_of, position_of};
use super::settings::Settings;
use crate::change::Position;
use crate::env::Instant;
use crate::stream::StreamError;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::ops::ControlFlow;
use std::time::Duration;

/// How long one look for the next message takes at most: an error of the connection is noticed this
/// late.
const POLL: Duration = Duration::from_millis(100);
/// After the end was reported, records may still be missing up to where the broker said the end is:
/// they were none (transactions leave such places). This long is waited for them.
const END_GRACE: Duration = Duration::from_millis(300);

/// How long one question waits for its answer before it is put again: to another broker, if there
/// is one.
const QUESTION: Duration = Duration::from_secs(1);
/// The least time between two questions.
const QUESTION_PAUSE: Duration = Duration::from_millis(100);

/// The one partition.
pub(super) const PARTITION: i32 = 0;

/// A place in the topic from which it reads on.
pub(super) struct Reader {
    consumer: BaseConsumer<Context>,
    context: Context,
    settings: Settings,
    /// The offset that the next message has at least; `None` while nothing is assigned.
    at: Option<i64>,
}

impl Reader {
    pub fn open(settings: &Settings) -> Result<Reader, StreamError> {
        let context = Context::new(settings);
        let consumer = client::reader(settings)
            .create_with_context(context.clone())
            .map_err(|error| explain(settings, "opening a reader", &error))?;
        Ok(Reader { consumer, context, settings: settings.clone(), at: None })
    }

    /// Asks until there is an answer, a refusal, or the time is over. Serves the client's events
    /// meanwhile.
    fn ask<T>(
        &mut self,
        doing: &str,
        question: impl Fn(&BaseConsumer<Context>, &str, Duration) -> Result<T, KafkaError>,
    ) -> Result<T, StreamError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let asked = Instant::now();
            let error = match question(&self.consumer, &self.settings.topic, QUESTION) {
                Ok(answer) => {
                    self.context.answered();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            // Records that were fetched ahead come up with the events: whoever reads on seeks anew,
            // or it would miss them.
            self.rest();
            // What is answered at once is not asked for at once again.
            self.pause(QUESTION_PAUSE.saturating_sub(asked.elapsed()));
            if let Some(refusal) = self.context.refusal() {
                return Err(refusal);
            }
            let explained = explain(&self.settings, doing, &error);
            if !matches!(explained, StreamError::Unavailable(_)) {
                return Err(explained);
            }
            if Instant::now() >= deadline {
                let complaint = self.context.complaint().map_or_else(String::new, |why| format!(": {why}"));
                let brokers = &self.settings.brokers;
                let doing = match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::LeaderNotAvailable) => format!("{doing}: the partition has no leader"),
                    _ => doing.to_owned(),
                };
                return Err(StreamError::Unavailable(format!("kafka {brokers} does not answer ({doing}){complaint}")));
            }
        }
    }

    /// Asks what only the leader of the partition can answer. librdkafka reports a partition that
    /// has no leader for now (its broker was shut out or died, another is not chosen yet) that it
    /// is unknown, as it does of one that was deleted, and answers so from its cache from then on:
    /// metadata of the topic distinguishes the two, and refreshes the cache.
    fn ask_leader<T>(
        &mut self,
        doing: &str,
        question: impl Fn(&BaseConsumer<Context>, &str, Duration) -> Result<T, KafkaError>,
    ) -> Result<T, StreamError> {
        self.ask(doing, |consumer, topic, wait| {
            let error = match question(consumer, topic, wait) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::UnknownPartition) {
                return Err(error);
            }
            let code = match partitions(consumer, topic, wait)? {
                Some(_) => RDKafkaErrorCode::LeaderNotAvailable,
                None => RDKafkaErrorCode::UnknownTopicOrPartition,
            };
            Err(KafkaError::MetadataFetch(code))
        })
    }

    /// Waits, serving the client's events: its errors and log lines.
    pub fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while let Some(Err(_)) = self.consumer.poll(until.saturating_duration_since(Instant::now())) {}
    }

    /// The number of partitions; `None` if there is no such topic.
    pub fn partitions(&mut self) -> Result<Option<usize>, StreamError> {
        self.ask("looking for the topic", partitions)
    }

    /// The position of the first record that is there, and one past the last: equal where there is
    /// none.
    pub fn bounds(&mut self) -> Result<(Position, Position), StreamError> {
        let asked = self.ask_leader("asking for its ends", |consumer, topic, wait| {
            consumer.fetch_watermarks(topic, PARTITION, wait)
        });
        asked.map(|(low, high)| (position_of(low), position_of(high)))
    }

    /// The first position whose timestamp is at or after `ts_ms`; `None` if there is none.
    pub fn position_at(&mut self, ts_ms: i64) -> Result<Option<Position>, StreamError> {
        self.ask_leader("looking for a time", |consumer, topic, wait| {
            let mut times = TopicPartitionList::new();
            times.add_partition_offset(topic, PARTITION, Offset::Offset(ts_ms.max(0)))?;
            let found = consumer.offsets_for_times(times, wait)?;
            let Some(found) = found.find_partition(topic, PARTITION) else { return Ok(None) };
            found.error()?;
            Ok(match found.offset() {
                Offset::Offset(offset) => Some(position_of(offset)),
                _ => None,
            })
        })
    }

    /// Whether reading on from here needs no seek.
    pub fn stands_at(&self, position: Position) -> bool {
        self.at == Some(offset_of(position))
    }

    /// Hands out the messages with positions `from..end` in order, until `each` breaks. Answers
    /// with the position to read on from.
    pub fn each(
        &mut self,
        from: Position,
        end: Position,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> Result<Position, StreamError> {
        let mut at = offset_of(from);
        let end = offset_of(end);
        if self.at != Some(at) {
            self.assign(at)?;
        }
        let mut received = Instant::now();
        let mut ended = None;
        while at < end {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    received = Instant::now();
                    ended = None;
                    if message.offset() < at {
                        continue;
                    }
                    if message.offset() >= end {
                        // Read on from it later: the client has handed it out already.
                        self.at = None;
                        return Ok(position_of(end));
                    }
                    at = message.offset() + 1;
                    self.at = Some(at);
                    if each(&message).is_break() {
                        return Ok(position_of(at));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => ended = ended.or(Some(Instant::now())),
                Some(Err(error)) => self.failed(&error)?,
                None => {
                    if let Some(refusal) = self.context.refusal() {
                        return Err(refusal);
                    }
                    if ended.is_some_and(|ended: Instant| ended.elapsed() > END_GRACE) {
                        return Ok(position_of(end));
                    }
                    if received.elapsed() > ANSWER_TIMEOUT {
                        self.at = None;
                        let Settings { brokers, topic, .. } = &self.settings;
                        let why = format!("kafka {brokers} sends nothing of topic {topic} from offset {at} on");
                        return Err(StreamError::Unavailable(why));
                    }
                }
            }
        }
        Ok(position_of(at))
    }

    fn assign(&mut self, offset: i64) -> Result<(), StreamError> {
        let failed = |error: KafkaError| explain(&self.settings, "seeking", &error);
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(&self.settings.topic, PARTITION, Offset::Offset(offset)).map_err(failed)?;
        self.consumer.assign(&place).map_err(failed)?;
        self.at = Some(offset);
        Ok(())
    }

    /// Fetches nothing until the next seek.
    pub fn rest(&mut self) {
        self.at = None;
        // If it fails, a few more records are fetched and discarded.
        let _ = self.consumer.unassign();
    }

    /// An error between messages: most pass by themselves.
    fn failed(&mut self, error: &KafkaError) -> Result<(), StreamError> {
        match error.rdkafka_error_code() {
            // The group is a name only; whether we may use it does not matter.
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => return Ok(()),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
            _ => {
                if let StreamError::Unavailable(_) = explain(&self.settings, "reading", error) {
                    return Ok(());
                }
            }
        }
        self.at = None;
        Err(explain(&self.settings, "reading", error))
    }
}

/// The number of partitions; `None` if there is no such topic.
fn partitions(consumer: &BaseConsumer<Context>, topic: &str, wait: Duration) -> Result<Option<usize>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), wait)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let code = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
    match (found, code) {
        (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition)) | (None, _) => Ok(None),
        (_, Some(code)) => Err(KafkaError::MetadataFetch(code)),
        (Some(found), None) => Ok(Some(found.partitions().len())),
    }
}
