//! The settings of a stream on Kafka.

use super::registry::RegistryAddress;
use std::time::Duration;

/// The settings of a stream on Kafka.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pipeline's name; every record carries it.
    pub pipeline: String,
    /// This worker (`host:pid`).
    pub worker: String,
    /// `host:port[,host:port…]`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// Where the schema registry answers, if there is one.
    pub registry: Option<RegistryAddress>,
    /// How long every record is kept.
    pub age: Duration,
    /// Replicas of a topic that is created; `None`: as the broker is configured.
    pub replication: Option<i32>,
    /// librdkafka's properties.
    pub config: Vec<(String, String)>,
    /// Values among them that must not be shown.
    pub secrets: Vec<String>,
    /// Whether ownership is a lease in a consumer group, because no other store can give one.
    pub lease: bool,
}

impl Settings {
    pub(super) fn age_ms(&self) -> i64 {
        i64::try_from(self.age.as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn masked(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}
