//! The contract's sample, word for word, with what it comments out.

use super::super::*;
use super::{good, no_env, problems, short};
use crate::change::{Side, ValueKind};
use std::time::Duration;

const SAMPLE: &str = r#"version: 1
pipeline: settings                 # [a-z0-9][a-z0-9-]{0,62}; names its state, topic and metrics

stores:
  zk:
    zookeeper:
      connect: ${ZOOKEEPER:-127.0.0.1:2181}      # host:port[,host:port…][/chroot]
      source: watch                              # watch (default) | {observer: {quorum: "h:2888,…"}}
      session_timeout: 10s
      # auth: {digest: {env: ZK_AUTH}}           # user:password; or {sasl: {user: …, password: {file: …}}}
      # tls: {ca: ca.pem, certificate: client.pem, key: client.key}
  cache:
    redis:
      url: ${REDIS:-redis://127.0.0.1:6379/0}    # redis:// or rediss://; a list for sentinel and cluster
      topology: standalone                       # standalone (default) | {sentinel: {master: mymaster}} | cluster
      source: keyspace                           # keyspace (default) | psync
      # username: keepstep
      # password: {env: REDIS_PASSWORD}          # a secret is {env: NAME} or {file: PATH}
      # tls: {ca: ca.pem, certificate: client.pem, key: client.key}

stream:                                          # optional: embedded
  embedded:
    retention: {age: 7d, size: 1GiB}
  # kafka:
  #   brokers: 127.0.0.1:9092
  #   topic: keepstep.settings                   # default: keepstep.<pipeline>
  #   schema_registry: http://127.0.0.1:8081     # optional: Confluent wire format
  #   retention: {age: 7d}
  #   config: {compression.type: lz4}            # librdkafka properties, passed through

routes:
  - name: settings
    flow: zk <-> cache                           # "zk -> cache" | "cache -> zk" | "zk <-> cache" | "zk" or "cache": capture only
    match: {zk: /settings/**, cache: "settings:**"}
    exclude: {zk: [/settings/tmp/**]}            # on either side; it excludes the pair
    separator: ":"                               # what "/" becomes in a key (default ":")
    value: string                                # string (default) | hash | list | set | zset | children | config
    on_conflict: prefer zk                       # prefer <store> | latest | higher_version | merge | quarantine
    on_delete: propagate                         # propagate (default) | keep
    on_expire: propagate                         # propagate (default) | keep
    ephemeral: mirror                            # mirror (default) | lease | skip
    acl: parent                                  # of znodes we create: parent (default) | open | creator
    publish: settings-changes                    # optional Redis channel

worker:                                          # optional, defaults shown
  batch: {changes: 500, bytes: 512KiB, wait: 5ms}   # wait is an upper bound: an idle pipeline does not wait
  queue: {bytes: 64MiB}
  reconcile: 60s                                 # a full comparison of both sides, at this interval
  limit: {writes: 0, reads: 0}                   # per second and store; 0: none
  delete_guard: on
"#;

/// The sample with a commented line in force.
fn uncommented(lines: &[&str]) -> String {
    lines.iter().fold(SAMPLE.to_owned(), |text, line| {
        let comment = format!("# {line}");
        assert!(text.contains(&comment), "{comment}");
        text.replacen(&comment, line, 1)
    })
}

fn with_env(text: &str) -> Result<Pipeline, Problems> {
    parse(Path::new("test.yaml"), text, &|name| match name {
        "ZK_AUTH" => Some("me:zk-password".to_owned()),
        "REDIS_PASSWORD" => Some("redis-password".to_owned()),
        "ZOOKEEPER" => Some("zk1:2181,zk2:2181/app".to_owned()),
        "REDIS" => Some("redis://:url-password@cache:7000/3".to_owned()),
        _ => None,
    })
}

#[test]
fn the_sample_reads_as_it_says() {
    let pipeline = good(SAMPLE);
    assert_eq!(pipeline.name, "settings");
    let zookeeper = pipeline.zookeeper.as_ref().unwrap();
    assert_eq!((zookeeper.name.as_str(), zookeeper.connect.as_str()), ("zk", "127.0.0.1:2181"));
    assert_eq!((zookeeper.session_timeout, &zookeeper.digest), (Duration::from_secs(10), &None));
    let redis = pipeline.redis.as_ref().unwrap();
    assert_eq!((redis.name.as_str(), redis.host.as_str(), redis.port, redis.database), ("cache", "127.0.0.1", 6379, 0));
    assert_eq!((&redis.username, &redis.password), (&None, &None));
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(pipeline.stream, Stream { retention_age: week, retention_size: 1 << 30, kafka: None });
    let [route] = pipeline.routes.as_slice() else { panic!("{:?}", pipeline.routes) };
    assert_eq!((route.name.as_str(), route.flow), ("settings", Flow::Both(Side::Zookeeper)));
    assert_eq!(route.match_zookeeper.as_deref(), Some("/settings/**"));
    assert_eq!(route.match_redis.as_deref(), Some("settings:**"));
    assert_eq!(
        (route.exclude_zookeeper.as_slice(), route.exclude_redis.len()),
        (&["/settings/tmp/**".to_owned()][..], 0)
    );
    assert_eq!((route.separator.as_str(), route.value), (":", ValueKind::String));
    assert_eq!(route.on_conflict, OnConflict::Prefer(Side::Zookeeper));
    assert_eq!(route.on_conflict_text, "prefer zk");
    assert_eq!((route.on_delete, route.on_expire), (OnRemoval::Propagate, OnRemoval::Propagate));
    assert_eq!((route.ephemeral, route.acl), (Ephemeral::Mirror, Acl::Parent));
    assert_eq!(route.publish.as_deref(), Some("settings-changes"));
    let expected = Worker {
        batch_changes: 500,
        batch_bytes: 512 << 10,
        batch_wait: Duration::from_millis(5),
        queue_bytes: 64 << 20,
        reconcile: Duration::from_secs(60),
        delete_guard: true,
    };
    assert_eq!(pipeline.worker, expected);
}

#[test]
fn what_the_sample_shows_as_a_default_is_the_default() {
    let short = good(
        "version: 1\npipeline: settings\nstores:\n  zk: {zookeeper: {connect: \"127.0.0.1:2181\"}}\n  cache: {redis: {url: \"redis://127.0.0.1\"}}\n\
         routes:\n  - name: settings\n    flow: zk <-> cache\n    match: {zk: /settings/**, cache: \"settings:**\"}\n    \
         exclude: {zk: [/settings/tmp/**]}\n    publish: settings-changes\n",
    );
    assert_eq!(echo(&short), echo(&good(SAMPLE)));
}

#[test]
fn variables_and_secrets_of_the_sample_are_honoured() {
    let text = uncommented(&["auth: {digest: {env: ZK_AUTH}}", "username: keepstep"]);
    let pipeline = with_env(&text).unwrap();
    let zookeeper = pipeline.zookeeper.unwrap();
    assert_eq!(zookeeper.connect, "zk1:2181,zk2:2181/app");
    assert_eq!(zookeeper.digest.unwrap().reveal(), "me:zk-password");
    let redis = pipeline.redis.unwrap();
    assert_eq!((redis.host.as_str(), redis.port, redis.database), ("cache", 7000, 3));
    assert_eq!((redis.username.as_deref(), redis.password.unwrap().reveal()), (Some("keepstep"), "url-password"));

    let text = uncommented(&["username: keepstep", "password: {env: REDIS_PASSWORD}"]);
    let text = text.replace("${REDIS:-", "${OTHER:-");
    assert_eq!(with_env(&text).unwrap().redis.unwrap().password.unwrap().reveal(), "redis-password");
}

#[test]
fn what_later_versions_bring_is_refused_and_not_ignored() {
    let sasl = uncommented(&["auth: {digest: {env: ZK_AUTH}}"])
        .replace("{digest: {env: ZK_AUTH}}", "{sasl: {user: me, password: {file: pw}}}");
    let route = |from: &str, to: &str| SAMPLE.replacen(from, to, 1);
    for (text, expected) in [
        (sasl, "auth: sasl"),
        (uncommented(&["tls: {ca: ca.pem, certificate: client.pem, key: client.key}"]), "tls"),
        (route("source: watch", "source: {observer: {quorum: \"h:2888\"}}"), "source: observer"),
        (route("source: keyspace", "source: psync"), "source: psync"),
        (route("topology: standalone", "topology: {sentinel: {master: mymaster}}"), "topology: sentinel"),
        (route("topology: standalone", "topology: cluster"), "topology: cluster"),
        (route("${REDIS:-redis:", "${REDIS:-rediss:"), "rediss://"),
        (route("url: ${REDIS:-redis://127.0.0.1:6379/0}", "url: [redis://a, redis://b]"), "a list of URLs"),
        (route("value: string", "value: hash"), "value: hash"),
        (route("value: string", "value: list"), "value: list"),
        (route("value: string", "value: set"), "value: set"),
        (route("value: string", "value: zset"), "value: zset"),
        (route("value: string", "value: children"), "value: children"),
        (route("value: string", "value: config"), "value: config"),
        (route("on_conflict: prefer zk", "on_conflict: merge"), "on_conflict: merge"),
        (route("ephemeral: mirror", "ephemeral: lease"), "ephemeral: lease"),
        (route("writes: 0", "writes: 1"), "limit: writes"),
        (route("reads: 0", "reads: 100"), "limit: reads"),
        (route("source: watch", "source: observer"), "source: observer"),
        (route("topology: standalone", "topology: sentinel"), "topology: sentinel"),
        (route("${REDIS:-redis:", "${REDIS:-redis+sentinel:"), "redis+sentinel://"),
        (route("limit: {writes: 0, reads: 0}", "limit: 3"), "limit"),
    ] {
        let all = problems(&text);
        let [only] = all.as_slice() else { panic!("{expected}: {all:#?}") };
        assert_eq!(only.message, format!("`{expected}` is not supported yet"));
        assert!(only.help.as_ref().unwrap().starts_with("allowed for now: "), "{}", short(only));
        let line = text.lines().nth(only.line - 1).unwrap();
        let word = expected.trim_end_matches("://").split(' ').next_back().unwrap();
        let at: String = line.chars().skip(only.column - 1).collect();
        assert!(line.contains(word) || at.starts_with('['), "{expected} points at {line:?}");
    }
}

#[test]
fn a_value_that_is_written_out_as_the_only_one_there_is_passes() {
    for (from, to) in [
        ("limit: {writes: 0, reads: 0}", "limit: {writes: 0}"),
        ("delete_guard: on", "delete_guard: true"),
        ("changes: 500", "changes: \"500\""),
        ("changes: 500", "changes: \"${CHANGES:-500}\""),
        ("bytes: 64MiB", "bytes: 67108864"),
        ("reconcile: 60s", "reconcile: 1m"),
        ("reconcile: 60s", "reconcile: ${RECONCILE:-60s}"),
        ("flow: zk <-> cache", "flow: zk<->cache"),
        ("value: string", "value: \"string\""),
        ("version: 1", "---\nversion: 1"),
        ("version: 1", "\u{feff}version: 1"),
    ] {
        assert!(SAMPLE.contains(from), "{from}");
        assert_eq!(echo(&good(&SAMPLE.replacen(from, to, 1))), echo(&good(SAMPLE)), "{to}");
    }
    let crlf = SAMPLE.replace('\n', "\r\n");
    assert_eq!(echo(&good(&crlf)), echo(&good(SAMPLE)));
}

#[test]
fn every_key_of_the_sample_is_read_and_none_passes_unseen() {
    // Misspelling any key of the sample, one at a time, is an error that offers the right name.
    let mut keys = 0;
    for (at, line) in SAMPLE.lines().enumerate() {
        let content = line.split(" #").next().unwrap().trim_start().trim_start_matches("- ");
        let Some((key, _)) = content.split_once(':') else { continue };
        if content.starts_with('#') || matches!(key, "zk" | "cache") {
            continue;
        }
        let wrong = format!("{key}x");
        let text: Vec<String> = SAMPLE
            .lines()
            .enumerate()
            .map(|(other, line)| if at == other { line.replacen(key, &wrong, 1) } else { line.to_owned() })
            .collect();
        let found = parse(Path::new("test.yaml"), &text.join("\n"), &no_env).unwrap_err();
        let found =
            found.iter().find(|problem| problem.message.starts_with(&format!("unknown key `{wrong}`"))).unwrap();
        assert_eq!(found.line, at + 1);
        assert!(found.help.as_ref().unwrap().ends_with(&format!("did you mean `{key}`?")), "{}", short(found));
        keys += 1;
    }
    assert_eq!(keys, 33);
}
