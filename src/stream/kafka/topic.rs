//! The topic itself: created as the stream needs it, or checked for it. Nothing of a topic that is
//! there is changed.

use super::client::{self, ANSWER_TIMEOUT, Context, explain};
use super::reader::Reader;
use super::record;
use super::settings::Settings;
use crate::change::Position;
use crate::env::Instant;
use crate::stream::StreamError;
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigEntry, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;
use std::ops::ControlFlow;
use std::time::Duration;

/// The largest record of a topic that Keepstep creates: two values of a megabyte (a conflict
/// carries the loser), the previous value, and names.
const RECORD_BYTES_MAX: usize = 3 << 20;
/// What a broker takes by default.
const RECORD_BYTES_DEFAULT: usize = 1_048_588;

/// What is known of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The largest batch that the broker takes, and so the largest record.
    pub record_bytes_max: usize,
    /// Whether it was created just now.
    pub is_new: bool,
}

/// Makes sure of the topic.
pub(super) fn prepare(settings: &Settings, reader: &mut Reader) -> Result<Facts, StreamError> {
    let admin: AdminClient<Context> = client::admin(settings)
        .create_with_context(Context::new(settings))
        .map_err(|error| explain(settings, "opening a client", &error))?;
    let is_new = match reader.partitions()? {
        Some(partitions) => {
            check_partitions(settings, partitions)?;
            false
        }
        None => {
            create(settings, &admin, true)?;
            wait_for(settings, reader)?;
            true
        }
    };
    Ok(Facts { record_bytes_max: check(settings, &admin)?, is_new })
}

/// What a worker will find, in one sentence. Creates and changes nothing.
pub(super) fn look(settings: &Settings) -> Result<String, StreamError> {
    let mut reader = Reader::open(settings)?;
    let topic = &settings.topic;
    let admin: AdminClient<Context> = client::admin(settings)
        .create_with_context(Context::new(settings))
        .map_err(|error| explain(settings, "opening a client", &error))?;
    let Some(partitions) = reader.partitions()? else {
        // The brokers check everything and create nothing.
        create(settings, &admin, false)?;
        return Ok(format!("topic {topic} does not exist yet; it can be created with one partition, compacted"));
    };
    check_partitions(settings, partitions)?;
    let bytes = check(settings, &admin)?;
    let (first, end) = reader.bounds()?;
    check_writers(settings, &mut reader, first, end)?;
    Ok(format!(
        "topic {topic} has one partition, is compacted, takes records up to {bytes} bytes, and holds {}",
        end - first
    ))
}

/// What a start refuses.
pub(super) fn of_another(settings: &Settings, position: Position, other: &str) -> StreamError {
    let Settings { topic, pipeline, .. } = settings;
    StreamError::Refused(format!(
        "topic {topic} holds records of pipeline `{other}` (position {position}); a topic is of one pipeline: name \
         another one in `stream.kafka.topic` of pipeline `{pipeline}`"
    ))
}

/// Records at each end of the topic of which a look reads who wrote them: a start reads all.
const LOOKED_AT: Position = 1_000;

/// Refuses a topic that another pipeline writes, or wrote first.
fn check_writers(settings: &Settings, reader: &mut Reader, first: Position, end: Position) -> Result<(), StreamError> {
    let newest = end.saturating_sub(LOOKED_AT).max(first);
    for (from, to) in [(first, newest.min(first.saturating_add(LOOKED_AT))), (newest, end)] {
        let mut found = None;
        reader.each(from, to, |message| match record::writer(message) {
            Some(writer) if writer != settings.pipeline => {
                found = Some((record::position_of(message.offset()), writer.into_owned()));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })?;
        if let Some((position, other)) = found {
            return Err(of_another(settings, position, &other));
        }
    }
    Ok(())
}

fn check_partitions(settings: &Settings, partitions: usize) -> Result<(), StreamError> {
    if partitions == 1 {
        return Ok(());
    }
    let topic = &settings.topic;
    Err(StreamError::Refused(format!(
        "topic {topic} has {partitions} partitions, and a stream is one: changes of a pair and of its conflicts are in one \
         order. Partitions cannot be taken away: name another topic in `stream.kafka.topic`, or delete this one and let \
         Keepstep create it"
    )))
}

/// Creates the topic, or with `really` unset only asks whether the brokers would.
fn create(settings: &Settings, admin: &AdminClient<Context>, really: bool) -> Result<(), StreamError> {
    let (age, bytes) = (settings.age_ms().to_string(), RECORD_BYTES_MAX.to_string());
    // -1: as the broker is configured.
    let replication = TopicReplication::Fixed(settings.replication.unwrap_or(-1));
    let topic = NewTopic::new(&settings.topic, 1, replication)
        .set("cleanup.policy", "compact")
        .set("min.compaction.lag.ms", &age)
        .set("max.message.bytes", &bytes);
    let created = block_on(admin.create_topics([&topic], &options().validate_only(!really)));
    let created = created.map_err(|error| explain(settings, "creating the topic", &error))?;
    for result in created {
        match result {
            Ok(_) if !really => {}
            Ok(topic) => tracing::info!("topic {topic} was created: one partition, compacted after {} ms", age),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                let error = rdkafka::error::KafkaError::AdminOp(code);
                return Err(explain(settings, "creating the topic", &error));
            }
        }
    }
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT))
}

/// A new topic is known everywhere, and has a leader, a moment later.
fn wait_for(settings: &Settings, reader: &mut Reader) -> Result<(), StreamError> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let pause = match reader.partitions()? {
            Some(partitions @ 1..) => {
                check_partitions(settings, partitions)?;
                match reader.bounds() {
                    Ok(_) => return Ok(()),
                    Err(error) if Instant::now() >= deadline => return Err(error),
                    Err(_) => Duration::from_millis(50),
                }
            }
            _ => Duration::from_millis(50),
        };
        if Instant::now() >= deadline {
            return Err(StreamError::Unavailable(format!("topic {} does not come into being", settings.topic)));
        }
        reader.pause(pause);
    }
}

/// Checks the configuration; answers with the largest record.
fn check(settings: &Settings, admin: &AdminClient<Context>) -> Result<usize, StreamError> {
    let Settings { topic, brokers, .. } = settings;
    let described = block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options()));
    let described = described.map_err(|error| explain(settings, "asking for the topic's configuration", &error))?;
    let entries: Vec<ConfigEntry> = match described.into_iter().next() {
        Some(Ok(resource)) => resource.entries,
        Some(Err(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
            tracing::warn!(
                "this user may not see the configuration of topic {topic} (DescribeConfigs): that it is compacted is not \
                 checked"
            );
            return Ok(RECORD_BYTES_DEFAULT);
        }
        Some(Err(code)) => {
            let error = rdkafka::error::KafkaError::AdminOp(code);
            return Err(explain(settings, "asking for the topic's configuration", &error));
        }
        None => return Ok(RECORD_BYTES_DEFAULT),
    };
    let value = |name: &str| {
        let entry = entries.iter().find(|entry| entry.name == name);
        entry.and_then(|entry| entry.value.as_deref())
    };
    let alter = |config: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config \
             {config}"
        )
    };
    let age = settings.age_ms();
    let policy = value("cleanup.policy").unwrap_or("compact");
    if policy != "compact" {
        return Err(StreamError::Refused(format!(
            "topic {topic} has cleanup.policy={policy}, and a stream needs compact: the newest change of each pair must \
             stay. Alter it: {}",
            alter(&format!("cleanup.policy=compact,min.compaction.lag.ms={age}"))
        )));
    }
    let lag = value("min.compaction.lag.ms").and_then(|lag| lag.parse::<i64>().ok()).unwrap_or(age);
    if lag < age {
        tracing::warn!(
            "topic {topic} is compacted after {lag} ms (min.compaction.lag.ms) and `retention.age` is {age} ms: history and \
             conflicts are kept for less than the file says. Alter it: {}",
            alter(&format!("min.compaction.lag.ms={age}"))
        );
    }
    let bytes = value("max.message.bytes").and_then(|bytes| bytes.parse().ok());
    Ok(bytes.unwrap_or(RECORD_BYTES_DEFAULT))
}
