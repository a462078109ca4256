//! Every key of a pipeline file, by the place where it stands. The schema's test compares these
//! lists with the schema.

pub(super) const PIPELINE: &[&str] = &["version", "pipeline", "stores", "stream", "routes", "worker"];
pub(super) const STORE: &[&str] = &["zookeeper", "redis"];
pub(super) const ZOOKEEPER: &[&str] = &["connect", "source", "session_timeout", "auth", "tls"];
pub(super) const ZOOKEEPER_SOURCE: &[&str] = &["observer"];
pub(super) const OBSERVER: &[&str] = &["quorum"];
pub(super) const AUTH: &[&str] = &["digest", "sasl"];
pub(super) const SASL: &[&str] = &["user", "password"];
pub(super) const REDIS: &[&str] = &["url", "topology", "source", "username", "password", "tls"];
pub(super) const TOPOLOGY: &[&str] = &["sentinel"];
pub(super) const SENTINEL: &[&str] = &["master"];
pub(super) const SECRET: &[&str] = &["env", "file"];
pub(super) const TLS: &[&str] = &["ca", "certificate", "key"];
pub(super) const STREAM: &[&str] = &["embedded", "kafka"];
pub(super) const EMBEDDED: &[&str] = &["retention"];
pub(super) const RETENTION: &[&str] = &["age", "size"];
pub(super) const KAFKA: &[&str] = &["brokers", "topic", "schema_registry", "retention", "config"];
pub(super) const KAFKA_RETENTION: &[&str] = &["age"];
pub(super) const ROUTE: &[&str] = &[
    "name",
    "flow",
    "match",
    "exclude",
    "separator",
    "value",
    "on_conflict",
    "on_delete",
    "on_expire",
    "ephemeral",
    "acl",
    "publish",
];
pub(super) const WORKER: &[&str] = &["batch", "queue", "reconcile", "limit", "delete_guard"];
pub(super) const BATCH: &[&str] = &["changes", "bytes", "wait"];
pub(super) const QUEUE: &[&str] = &["bytes"];
pub(super) const LIMIT: &[&str] = &["writes", "reads"];
