//! What every client of a broker shares: its properties, where its log lines go, and what its
//! errors mean.

use super::settings::Settings;
use crate::stream::StreamError;
use crate::telemetry::LogThrottle;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a broker may take to answer one question before it counts as unavailable. A start of a
/// broker takes three seconds.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits the log lines about brokers: librdkafka reports each attempt of each client to connect,
/// and a worker has many clients.
static LOGGED: Mutex<LogThrottle> = Mutex::new(LogThrottle::new());

/// Where a client's log lines and errors go.
#[derive(Clone)]
pub(super) struct Context(Arc<Trouble>);

/// What a client last complained of.
struct Trouble {
    secrets: Vec<String>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// The last error as text.
    text: Option<String>,
    /// The last error that no waiting mends.
    refusal: Option<String>,
}

impl Context {
    pub fn new(settings: &Settings) -> Context {
        Context(Arc::new(Trouble { secrets: settings.secrets.clone(), last: Mutex::default() }))
    }

    /// Why the brokers refuse this client, if they do.
    pub fn refusal(&self) -> Option<StreamError> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.refusal.clone().map(StreamError::Refused)
    }

    /// A broker answered: an earlier refusal holds no longer, or the broker will repeat it.
    pub fn answered(&self) {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).refusal = None;
    }

    /// The last complaint, for a sentence.
    pub fn complaint(&self) -> Option<String> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    fn masked(&self, text: &str) -> String {
        self.0.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.masked(message);
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::debug!(facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::trace!(facility, "{message}");
            }
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        tracing::info!("{}", String::from_utf8_lossy(statistics));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The text ends with the duration of the attempt, which differs between attempts with one
        // reason.
        let reason = self.masked(reason.split(" (after ").next().unwrap_or(reason));
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if error.rdkafka_error_code().is_some_and(is_refusal) {
            last.refusal = Some(format!("Kafka refuses this client: {reason}"));
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) && last.text.is_some() {
            // It says less than the text that is there.
            return;
        }
        if LOGGED.lock().unwrap_or_else(PoisonError::into_inner).is_due(&reason) {
            tracing::warn!("kafka: {reason}");
        }
        last.text = Some(reason);
    }
}

impl ConsumerContext for Context {}

/// Whether only a person can mend it.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::PolicyViolation
            | Code::InvalidConfig
            | Code::InvalidReplicationFactor
    )
}

/// The code of an error; the library does not give that of an administrative request.
fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// What an error of librdkafka means for the stream: one place from error to remedy.
pub(super) fn explain(settings: &Settings, doing: &str, error: &KafkaError) -> StreamError {
    use RDKafkaErrorCode as Code;
    let topic = &settings.topic;
    match error {
        // The value is left out: it may be a secret.
        KafkaError::ClientConfig(_, why, key, _) => {
            // librdkafka has no code for a property that this build lacks: `rd_kafka_anyconf_set_prop` in
            // rdkafka_conf.c answers as for a wrong value, with a text that ends in "at build time".
            let hint = if why.contains("at build time") { "; build with `--features kafka-tls`" } else { "" };
            return StreamError::Refused(format!("stream.kafka.config: {key}: {why}{hint}"));
        }
        KafkaError::ClientCreation(why) => {
            return StreamError::Refused(format!("stream.kafka.config: {}", settings.masked(why)));
        }
        _ => {}
    }
    match code_of(error) {
        Some(code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
            StreamError::Refused(format!(
                "Kafka does not allow it ({doing}: {code}); give this user Read, Write, Describe, DescribeConfigs and Create \
             on topic {topic}, or create the topic yourself"
            ))
        }
        Some(code @ Code::InvalidReplicationFactor) => StreamError::Refused(format!(
            "Kafka refuses it ({doing}): {code}: give `replication.factor` in `stream.kafka.config` a number that the brokers can \
             hold, or create topic {topic} yourself"
        )),
        Some(code) if is_refusal(code) => StreamError::Refused(format!("Kafka refuses this client ({doing}): {code}")),
        // `UnknownPartition` is not among them: librdkafka also reports it for a partition that has
        // no leader for now.
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId) => {
            StreamError::Lost(format!("topic {topic} is gone ({doing}): it was deleted; its history is lost"))
        }
        Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => {
            StreamError::Lost(format!("topic {topic} was truncated ({doing}): part of its history is lost"))
        }
        Some(code) => StreamError::Unavailable(format!("kafka {} ({doing}): {code}", settings.brokers)),
        None => StreamError::Unavailable(format!("kafka {} ({doing}): {error}", settings.brokers)),
    }
}

/// What all clients have in common.
fn common(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", &settings.worker);
    // The default waits up to 10 s between two attempts to connect: too long for a broker that is
    // back.
    config.set("reconnect.backoff.max.ms", "1000");
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// Two names of one property, of which librdkafka takes the one that is set last: the one that we
/// give a default, and the other.
const ALIASES: [(&str, &str); 3] = [
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("compression.type", "compression.codec"),
];

/// The properties of the file, and above them those without which Keepstep would not be correct.
fn finish(mut config: ClientConfig, settings: &Settings, own: &[(&str, &str)]) -> ClientConfig {
    for (name, value) in &settings.config {
        if let Some((ours, _)) = ALIASES.iter().find(|(_, alias)| alias == name) {
            config.remove(ours);
        }
        config.set(name, value);
    }
    config.set("bootstrap.servers", &settings.brokers);
    config.set("allow.auto.create.topics", "false");
    for (name, value) in own {
        config.set(*name, *value);
    }
    config
}

/// Configuration of an admin client, which looks at the topic and creates it.
pub(super) fn admin(settings: &Settings) -> ClientConfig {
    finish(common(settings), settings, &[])
}

/// Configuration of a reader at offsets that we name ourselves: the group is a name only, nothing
/// is committed in it.
pub(super) fn reader(settings: &Settings) -> ClientConfig {
    let mut config = common(settings);
    // An idle fetch holds back the next seek for so long.
    config.set("fetch.wait.max.ms", "50");
    config.set("fetch.queue.backoff.ms", "10");
    // Records that are read ahead: more than the decoder takes meanwhile, little against the memory
    // of a worker.
    config.set("queued.max.messages.kbytes", "8192");
    config.set("check.crcs", "true");
    let group = format!("keepstep-read.{}", settings.pipeline);
    let own = [
        ("group.id", group.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        // Never `latest`: records that are gone are reported, not passed over.
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
    ];
    finish(config, settings, &own)
}

/// Configuration of the one writer.
pub(super) fn writer(settings: &Settings, record_bytes_max: usize) -> ClientConfig {
    let mut config = common(settings);
    // The boundary of a batch is ours: what waits is sent at once, and what comes meanwhile is the
    // next batch.
    config.set("linger.ms", "0");
    config.set("compression.type", "lz4");
    // A leader that is killed is replaced within 5 to 14 s; after this long the caller gets an
    // error.
    config.set("message.timeout.ms", "15000");
    // Bounded by the writer's own queue, which knows whom to let wait.
    let bytes = record_bytes_max.clamp(1_000, 1_000_000_000).to_string();
    let own = [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("message.max.bytes", bytes.as_str()),
        ("queue.buffering.max.messages", "1000000"),
    ];
    finish(config, settings, &own)
}

/// Configuration of the member of a group that holds a capture's lease.
pub(super) fn member(settings: &Settings, group: &str) -> ClientConfig {
    let own = [
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "earliest"),
        // The owner keeps the one partition when another member joins.
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", "10000"),
        ("heartbeat.interval.ms", "1000"),
        // It holds the lease and reads nothing.
        ("queued.max.messages.kbytes", "1"),
    ];
    finish(common(settings), settings, &own)
}

/// Runs work that blocks, on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StreamError> + Send + 'static,
) -> Result<T, StreamError> {
    let ended = crate::env::tasks::blocking(work).await;
    ended.unwrap_or_else(|error| Err(StreamError::Unavailable(format!("a thread ended early: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context(Arc::new(Trouble { secrets: vec!["hidden".to_owned()], last: Mutex::default() }))
    }

    #[test]
    fn an_administrative_request_is_refused_by_its_code() {
        for code in [RDKafkaErrorCode::InvalidReplicationFactor, RDKafkaErrorCode::TopicAuthorizationFailed] {
            assert!(code_of(&KafkaError::AdminOp(code)).is_some_and(is_refusal), "{code:?}");
        }
        assert!(!code_of(&KafkaError::AdminOp(RDKafkaErrorCode::RequestTimedOut)).is_some_and(is_refusal));
    }

    #[test]
    fn a_refusal_holds_until_a_broker_answers() {
        let context = context();
        context.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "refused");
        assert_eq!(context.refusal(), None, "a broker that is away refuses nothing");
        context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), "no such user");
        assert!(matches!(context.refusal(), Some(StreamError::Refused(why)) if why.contains("no such user")));
        context.answered();
        assert_eq!(context.refusal(), None);
    }

    #[test]
    fn a_complaint_is_the_same_for_each_attempt_and_shows_no_secret() {
        let context = context();
        for attempt in 0..3 {
            let reason = format!("hidden@b:1: Connect failed (after {attempt}ms in state CONNECT)");
            context.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), &reason);
            assert_eq!(context.complaint().as_deref(), Some("***@b:1: Connect failed"));
        }
        context.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(context.complaint().as_deref(), Some("***@b:1: Connect failed"), "it says less");
    }
}
