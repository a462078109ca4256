//! Echo: the resolved pipeline reads back as itself.

use super::super::*;
use super::{good, with_route, with_top};

fn assert_reads_back(pipeline: &Pipeline) {
    let written = echo(pipeline);
    let again = parse(&pipeline.file, &written, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{written}"));
    assert_eq!(echo(&again), written);
    assert_eq!(format!("{again:?}"), format!("{pipeline:?}"), "{written}");
}

#[test]
fn an_echo_shows_every_default() {
    let expected = r#"version: 1
pipeline: p
stores:
  zk:
    zookeeper:
      connect: zk1:2181
      source: watch
      session_timeout: 10s
  cache:
    redis:
      url: redis://cache:6379/0
      topology: standalone
      source: keyspace
stream:
  embedded:
    retention: {age: 7d, size: 1GiB}
routes:
  - name: settings
    flow: zk <-> cache
    match: {zk: /settings/**, cache: "settings:**"}
    separator: ":"
    value: string
    on_conflict: prefer zk
    on_delete: propagate
    on_expire: propagate
    ephemeral: mirror
    acl: parent
worker:
  batch: {changes: 500, bytes: 512KiB, wait: 5ms}
  queue: {bytes: 64MiB}
  reconcile: 60s
  limit: {writes: 0, reads: 0}
  delete_guard: on
"#;
    assert_eq!(echo(&good(&with_top(""))), expected);
    assert_reads_back(&good(&with_top("")));
}

#[test]
fn an_echo_reads_back_whatever_the_texts_are() {
    for lines in [
        "    publish: \"a \\\"b\\\" \\\\ $$ # {x}: [y], & * ! | > ' % @ ` \\t \\n \\u0001 \u{e9} \\u2028\"\n",
        "    publish: \"$${A}\"\n",
        "    publish: \"null\"\n",
        "    publish: \"1e3\"\n",
        "    publish: \" spaces \"\n",
        "    publish: \"12:30\"\n",
        "    publish: \"a: b\"\n",
        "    publish: \"-\"\n",
        "    exclude: {zk: [/settings/tmp/**, /settings/*/x], cache: [\"settings:, :**\", \"settings:a b\"]}\n",
        "    separator: \"::\"\n    exclude: {cache: [\"a::**\"]}\n",
        "    on_conflict: higher_version\n    on_delete: keep\n    on_expire: keep\n    ephemeral: skip\n    acl: creator\n",
    ] {
        let text = with_route(lines)
            .replace("\"settings:**\"", if lines.contains("::") { "settings::**" } else { "\"settings:**\"" });
        assert_reads_back(&good(&text));
    }
    let worker = "worker: {batch: {changes: 1, bytes: 1025, wait: 0s}, queue: {bytes: 1GiB}, reconcile: 90m, delete_guard: off}\n\
                  stream: {embedded: {retention: {age: 1500ms, size: 1GB}}}\n";
    assert_reads_back(&good(&with_top(worker)));
    let stores = with_top("").replace("zk1:2181", "a:1,b:2/x").replace("redis://cache", "redis://[::1]:7/3");
    assert_reads_back(&good(&stores));
}

#[test]
fn the_json_form_says_the_same() {
    let pipeline = good(&with_route("    publish: \"$$x\"\n"));
    let json = echo_json(&pipeline);
    assert_eq!(json.pointer("/routes/0/publish").unwrap(), "$x");
    assert_eq!(json.pointer("/worker/batch/changes").unwrap(), 500);
    assert_eq!(json.pointer("/stores/cache/redis/url").unwrap(), "redis://cache:6379/0");
}
