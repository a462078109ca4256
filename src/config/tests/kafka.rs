//! `stream: {kafka: …}`: what is read, what is Keepstep's own, and that secrets stay out of sight.

use super::super::model::Property;
use super::*;

fn with_kafka(lines: &str) -> String {
    with_top(&format!("stream:\n  kafka:\n{lines}"))
}

#[test]
fn a_stream_in_kafka_needs_its_brokers_and_nothing_else() {
    let pipeline = good(&with_kafka("    brokers: 127.0.0.1:9092\n"));
    let kafka = pipeline.stream.kafka.unwrap();
    assert_eq!((kafka.brokers.as_str(), kafka.topic.as_str()), ("127.0.0.1:9092", "keepstep.p"));
    assert_eq!((kafka.schema_registry, kafka.replication, kafka.config), (None, None, Vec::new()));
    assert_eq!(pipeline.stream.retention_age, std::time::Duration::from_secs(7 * 86_400));
}

#[test]
fn all_of_it_is_read_and_echoed() {
    let env = |name: &str| (name == "PW").then(|| "hush-hush".to_owned());
    let text = with_kafka(
        "    brokers: a:1,b\n    topic: t.1\n    schema_registry: http://me:let-me-in@registry/api\n    retention: {age: 1h}\n    \
         config:\n      compression.type: zstd\n      linger.ms: 2\n      sasl.password: {env: PW}\n      \
         replication.factor: 3\n",
    );
    let pipeline = parse(Path::new("test.yaml"), &text, &env).unwrap();
    let kafka = pipeline.stream.kafka.clone().unwrap();
    let registry = kafka.schema_registry.unwrap();
    assert_eq!((registry.host.as_str(), registry.port, registry.prefix.as_str()), ("registry", 8081, "/api"));
    assert_eq!(registry.password.unwrap().reveal(), "let-me-in");
    assert_eq!(kafka.replication, Some(3));
    let [first, second, third] = kafka.config.as_slice() else { panic!("{:?}", kafka.config) };
    assert_eq!(first, &("compression.type".to_owned(), Property::Text("zstd".to_owned())));
    assert_eq!(second, &("linger.ms".to_owned(), Property::Text("2".to_owned())));
    assert!(
        matches!(third, (name, Property::Secret(secret)) if name == "sasl.password" && secret.reveal() == "hush-hush")
    );
    let echoed = echo(&pipeline);
    assert!(echoed.contains("schema_registry: \"http://me:***@registry:8081/api\""), "{echoed}");
    assert!(echoed.contains("sasl.password: \"***\"") && echoed.contains("age: 1h"), "{echoed}");
    for secret in ["hush-hush", "let-me-in"] {
        assert!(!echoed.contains(secret) && !format!("{pipeline:?}").contains(secret), "{echoed}");
    }
}

#[test]
fn what_would_break_the_stream_is_refused_with_the_reason() {
    for (line, expected) in [
        (
            "enable.idempotence: false",
            "14:7 `enable.idempotence` is set by Keepstep: a retry must neither double nor reorder changes | leave it out",
        ),
        (
            "acks: 1",
            "14:7 `acks` is set by Keepstep: a change counts only after every in-sync replica has it | leave it out",
        ),
        (
            "transactional.id: x",
            "14:7 `transactional.id` is set by Keepstep: the stream is fenced by order, not by transactions | leave it out",
        ),
        (
            "bootstrap.servers: x",
            "14:7 `bootstrap.servers` is set by Keepstep: give the brokers under `brokers` | leave it out",
        ),
        (
            "auto.offset.reset: latest",
            "14:7 `auto.offset.reset` is set by Keepstep: records are read from positions that Keepstep names, never from \
             `latest` | leave it out",
        ),
        (
            "compresion.type: lz4",
            "14:7 unknown property `compresion.type` in `stream.kafka.config` | allowed: the properties of librdkafka 2.12, \
             and `replication.factor` of a new topic; did you mean `compression.type`?",
        ),
        (
            "sasl.password: hunter2",
            "14:22 `stream.kafka.config.sasl.password` is a secret and must not be in the file itself | allowed: `{env: \
             NAME}`, `{file: PATH}`",
        ),
        (
            "replication.factor: 0",
            "14:27 `stream.kafka.config.replication.factor` cannot be `0` | allowed: from 1 to 32767",
        ),
    ] {
        let text = with_kafka(&format!("    brokers: a:1\n    config:\n      {line}\n"));
        assert_eq!(problem(&text), expected);
    }
}

#[test]
fn an_inline_secret_is_never_quoted() {
    for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
        let text = with_kafka(&format!("    brokers: a:1\n    config:\n      {name}: hunter2\n"));
        let shown = parse(Path::new("test.yaml"), &text, &no_env).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let text = with_kafka("    brokers: a:1\n    schema_registry: \"http://me:hunter2@a:x\"\n");
    let shown = parse(Path::new("test.yaml"), &text, &no_env).unwrap_err().to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn places_that_are_none_are_refused() {
    for (lines, expected) in [
        ("    topic: t\n", "11:3 the key `brokers` is missing in `stream.kafka`"),
        ("    brokers: \"a:1,\"\n", "12:14 this is not a list of brokers: a host is missing"),
        ("    brokers: a:1\n    topic: a b\n", "13:12 `a b` is not the name of a topic"),
        (
            "    brokers: a:1\n    schema_registry: registry:8081\n",
            "13:22 this is not the URL of a schema registry: it must begin with `http://`",
        ),
        ("    brokers: a:1\n    schema_registry: https://a\n", "13:22 `https://` is not supported yet"),
        ("    brokers: a:1\n    retention: {size: 1GiB}\n", "13:17 unknown key `size` in `stream.kafka.retention`"),
    ] {
        let found = problem(&with_kafka(lines));
        assert!(found.starts_with(expected), "{found}");
    }
    let both = with_top("stream:\n  embedded: {}\n  kafka: {brokers: \"a:1\"}\n");
    assert!(problem(&both).contains("a stream has one place"));
}
