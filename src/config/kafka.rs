//! `stream: {kafka: …}` of a pipeline file: brokers, topic, schema registry, and librdkafka's
//! properties.

use super::address;
use super::model::{Kafka, Property, SchemaRegistry, Secret};
use super::problem::nearest;
use super::reader::{Fields, Reader, Value};
use super::tree::{Node, quoted};

/// The pseudo-property that Keepstep reads itself: replicas of a topic that it creates.
const REPLICATION: &str = "replication.factor";

/// Properties without which the stream would not be correct, and why.
const OWNED: &[(&[&str], &str)] = &[
    (&["bootstrap.servers", "metadata.broker.list"], "give the brokers under `brokers`"),
    (&["acks", "request.required.acks"], "a change counts only after every in-sync replica has it"),
    (
        &["enable.idempotence", "message.send.max.retries", "retries", "enable.gapless.guarantee"],
        "a retry must neither double nor reorder changes",
    ),
    (&["transactional.id", "transaction.timeout.ms"], "the stream is fenced by order, not by transactions"),
    (&["delivery.report.only.error"], "the position of every change is needed"),
    (&["partitioner", "sticky.partitioning.linger.ms"], "the topic has one partition"),
    (&["message.max.bytes"], "it follows the topic's max.message.bytes"),
    (&["queue.buffering.max.messages", "queue.buffering.max.kbytes"], "the stream bounds how much may wait"),
    (&["allow.auto.create.topics"], "the stream creates the topic with the settings that it needs"),
    (&["client.id"], "it names the worker"),
    (
        &[
            "group.id",
            "group.instance.id",
            "group.protocol",
            "group.protocol.type",
            "group.remote.assignor",
            "partition.assignment.strategy",
            "session.timeout.ms",
            "heartbeat.interval.ms",
            "max.poll.interval.ms",
        ],
        "a group is used for the lease only",
    ),
    (&["enable.auto.commit", "auto.commit.interval.ms", "enable.auto.offset.store"], "nothing is committed"),
    (
        &["auto.offset.reset", "enable.partition.eof", "isolation.level"],
        "records are read from positions that Keepstep names, never from `latest`",
    ),
    (&["plugin.library.paths"], "it loads code into the worker"),
];

/// Properties that are secrets.
const SECRETS: &[&str] = &[
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
];

/// Every other property of librdkafka 2.12 that a file can set.
const FREE: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "broker.address.family",
    "broker.address.ttl",
    "check.crcs",
    "client.dns.lookup",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "coordinator.query.interval.ms",
    "debug",
    "delivery.timeout.ms",
    "enable.metrics.push",
    "enable.random.seed",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "https.ca.location",
    "https.ca.pem",
    "internal.termination.signal",
    "linger.ms",
    "log.connection.close",
    "log.thread.name",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "message.copy.max.bytes",
    "message.timeout.ms",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.keytab",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds",
    "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include",
    "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.metadata.authentication.type",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.username",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.providers",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "topic.blacklist",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

/// Reads the keys of `kafka:` except the retention. `pipeline` gives the topic its name.
pub(super) fn read(reader: &mut Reader<'_>, fields: &Fields<'_>, pipeline: &str) -> Option<Kafka> {
    let brokers = reader.required(fields, "brokers").and_then(|value| brokers(reader, &value));
    let topic = match fields.get("topic") {
        None => Some(format!("keepstep.{pipeline}")),
        Some(value) => topic(reader, &value),
    };
    let schema_registry = fields.get("schema_registry").map(|value| registry(reader, &value));
    let (config, replication) = config(reader, fields);
    Some(Kafka {
        brokers: brokers?,
        topic: topic?,
        schema_registry: schema_registry.map_or(Some(None), |read| read.map(Some))?,
        replication,
        config,
    })
}

fn brokers(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.text(value, "a text such as `127.0.0.1:9092`")?;
    match address::brokers(&text.text) {
        Ok(()) => Some(text.text),
        Err(reason) => {
            let help = "allowed: `host[:port][,host[:port]…]`".to_owned();
            reader.fault(text.scalar.span, format!("this is not a list of brokers: {reason}"), help);
            None
        }
    }
}

fn topic(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.text(value, "the name of a topic")?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let name = text.text.as_str();
    if !(1..=249).contains(&name.len()) || !name.bytes().all(fits) || matches!(name, "." | "..") {
        reader.bad(&text, "the name of a topic", "allowed: 1 to 249 letters, digits, `.`, `_` and `-`".to_owned());
        return None;
    }
    Some(text.text)
}

fn registry(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<SchemaRegistry> {
    let text = reader.text(value, "a text such as `http://127.0.0.1:8081`")?;
    if text.text.starts_with("https://") {
        reader.unsupported(text.scalar.span, "https://", "`http://`");
        return None;
    }
    match address::registry(&text.text) {
        Ok(url) => Some(SchemaRegistry {
            host: url.host,
            port: url.port,
            prefix: url.prefix,
            user: url.username,
            password: url.password.map(Secret::new),
        }),
        Err(reason) => {
            let help = "allowed: `http://[user:password@]host[:port][/path]`".to_owned();
            reader.fault(text.scalar.span, format!("this is not the URL of a schema registry: {reason}"), help);
            None
        }
    }
}

/// The properties in the order of the file, and the replicas of a new topic.
fn config(reader: &mut Reader<'_>, fields: &Fields<'_>) -> (Vec<(String, Property)>, Option<i32>) {
    let mut properties = Vec::new();
    let mut replication = None;
    let Some(value) = fields.get("config") else { return (properties, None) };
    if let Node::Scalar(scalar) = value.node
        && scalar.is_null()
    {
        return (properties, None);
    }
    let Some(entries) = reader.entries(&value, "a mapping of librdkafka's properties") else {
        return (properties, None);
    };
    for (key, value) in entries.all() {
        let name = key.text.as_str();
        if let Some((_, why)) = OWNED.iter().find(|(names, _)| names.contains(&name)) {
            let message = format!("{} is set by Keepstep: {why}", quoted(name));
            reader.fault(key.span, message, "leave it out".to_owned());
        } else if name == REPLICATION {
            replication = i32::try_from(reader.count(&entries, REPLICATION, 1, 1..=32_767)).ok();
        } else if SECRETS.contains(&name) || matches!(value.node, Node::Mapping { .. }) && FREE.contains(&name) {
            properties.extend(reader.secret(&value).map(|secret| (name.to_owned(), Property::Secret(secret))));
        } else if FREE.contains(&name) {
            let text = reader.text(&value, "a text, a number or a word");
            properties.extend(text.map(|text| (name.to_owned(), Property::Text(text.text))));
        } else {
            let known: Vec<&str> = FREE.iter().chain(SECRETS).copied().chain([REPLICATION]).collect();
            let near = nearest(name, &known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let help = format!("allowed: the properties of librdkafka 2.12, and `{REPLICATION}` of a new topic{near}");
            reader.fault(key.span, format!("unknown property {} in `{}`", quoted(name), entries.place()), help);
        }
    }
    (properties, replication)
}
