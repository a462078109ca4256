//! The program with its stream on Kafka: everything as with the embedded one, and what others read.

use crate::support::{Kafka, Keepstep, LIVE, Pipeline, Registry, Scene, eventually, eventually_is, kafka_java, python};
use keepstep::codec::{self, WriterSchema};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A topic that no other test has.
fn topic() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn on(kafka: &Kafka, topic: &str, more: &str) -> String {
    format!("{{brokers: \"{}\", topic: {topic}{more}}}", kafka.brokers())
}

async fn state(keepstep: &Keepstep) -> Value {
    let status = keepstep.command("status", &["--format", "json"]).await;
    status.objects().first().map_or(json!(null), |status| status["state"].clone())
}

#[tokio::test]
async fn both_ways_with_tail_conflicts_and_a_restart_that_records_nothing() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.kafka(&on(kafka, &topic, ""))).await;
    scene.znodes.put("/settings/a", "from zk").await;
    scene.znodes.put("/settings/fight", "red").await;
    scene.set("settings:fight", "blue").await;
    scene.run().await;
    scene.key_becomes("settings:a", Some("from zk")).await;
    scene.key_becomes("settings:fight", Some("red")).await;
    scene.set("settings:a", "from redis").await;
    scene.znode_becomes("/settings/a", Some("from redis")).await;
    scene.set("settings:b", "b").await;
    scene.znode_becomes("/settings/b", Some("b")).await;
    scene.del("settings:b").await;
    scene.znode_becomes("/settings/b", None).await;
    scene.in_step(LIVE).await;

    let changes = scene.keepstep.changes().await;
    let of = |path: &str| -> Vec<(Value, Value, Value)> {
        let mine = changes.iter().filter(|change| change["pair"]["zk"] == path);
        mine.map(|change| (change["op"].clone(), change["before"].clone(), change["after"].clone())).collect()
    };
    assert_eq!(
        of("/settings/a"),
        [(json!("r"), json!(null), json!("from zk")), (json!("u"), json!("from zk"), json!("from redis"))]
    );
    assert_eq!(of("/settings/b"), [(json!("c"), json!(null), json!("b")), (json!("d"), json!("b"), json!(null))]);
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    let [fight] = conflicts.as_slice() else { panic!("{conflicts:#?}") };
    assert_eq!((&fight["winner"], &fight["zk"], &fight["cache"]), (&json!("zk"), &json!("red"), &json!("blue")));

    assert_eq!(scene.keepstep.terminate().await, Some(0));
    assert_eq!(scene.keepstep.changes().await, changes, "without a worker too");
    scene.run().await;
    scene.set("settings:a", "again").await;
    scene.znode_becomes("/settings/a", Some("again")).await;
    let after = scene.keepstep.changes().await;
    assert_eq!(after[..changes.len()], changes);
    let [last] = &after[changes.len()..] else { panic!("a restart puts nothing on the stream: {after:#?}") };
    assert_eq!(last["after"], "again");
    assert_eq!(last["before"], "from redis", "what was on the stream before the restart");
    let status = scene.keepstep.json("status", &[]).await;
    assert!(status[0]["history"]["last"].as_u64() > Some(4), "{status:#?}");
}

#[tokio::test]
async fn a_capture_records_what_changes_and_a_restart_records_nothing() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.capture_zookeeper().kafka(&on(kafka, &topic, ""))).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.run().await;
    eventually_is("the changes", LIVE, 1, async || scene.keepstep.changes().await.len()).await;
    scene.znodes.put("/settings/a", "2").await;
    eventually_is("the changes", LIVE, 2, async || scene.keepstep.changes().await.len()).await;
    scene.znodes.delete("/settings/a").await;
    eventually_is("the changes", LIVE, 3, async || scene.keepstep.changes().await.len()).await;
    scene.keepstep.restart().await;
    scene.znodes.put("/settings/b", "1").await;
    eventually_is("the changes", LIVE, 4, async || scene.keepstep.changes().await.len()).await;
    let changes = scene.keepstep.changes().await;
    let ops: Vec<&str> = changes.iter().map(|change| change["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["r", "u", "d", "c"]);
    assert_eq!(changes[1]["collapsed"], 0);
}

#[tokio::test]
async fn a_capture_without_zookeeper_has_one_owner_by_the_group_and_hands_over() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let mut scene =
        Scene::prepare(&[], |pipeline| pipeline.name(&topic).capture_redis().kafka(&on(kafka, &topic, ""))).await;
    scene.run().await;
    eventually_is("the first worker", LIVE, json!("live"), async || state(&scene.keepstep).await).await;
    scene.set("settings:a", "1").await;
    eventually_is("the changes", LIVE, 1, async || scene.keepstep.changes().await.len()).await;
    let mut standby = scene.keepstep.another();
    standby.start();
    eventually_is("the second worker", LIVE, json!("standby"), async || state(&standby).await).await;
    assert_eq!(state(&scene.keepstep).await, "live");
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    eventually_is("the second worker", LIVE, json!("live"), async || state(&standby).await).await;
    scene.set("settings:a", "2").await;
    eventually_is("the changes", LIVE, 2, async || standby.changes().await.len()).await;
}

/// `KEEPSTEP_TEST_KILLS` (3) owners are killed; 20 give the figure of docs/performance.md.
#[tokio::test]
async fn an_owner_that_is_killed_is_followed_by_the_standby_each_time() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let mut scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic, ""))).await;
    for pair in 0..100 {
        scene.set(format!("settings:{pair}"), "1").await;
    }
    scene.in_step(LIVE).await;
    let mut standby = scene.keepstep.another();
    for kill in 0..3 {
        let (owner, next) =
            if kill % 2 == 0 { (&mut scene.keepstep, &mut standby) } else { (&mut standby, &mut scene.keepstep) };
        next.start();
        eventually_is("the next worker", LIVE, json!("standby"), async || state(next).await).await;
        owner.kill9();
        eventually_is("the next worker", LIVE, json!("live"), async || state(next).await).await;
        let value = format!("after {kill}");
        redis::cmd("SET").arg("settings:0").arg(&value).exec_async(&mut scene.client.clone()).await.unwrap();
        eventually_is("the znode", LIVE, Some(value), async || scene.znodes.text("/settings/0").await).await;
    }
}

#[tokio::test]
async fn a_pipeline_on_the_topic_of_another_is_refused_with_its_name() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic, ""))).await;
    let second = Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url())
        .name("second")
        .matches("{zk: /other/**, cache: \"other:**\"}")
        .kafka(&on(kafka, &topic, ""));
    let mut second = Keepstep::new(second);
    let looked = second.command("validate", &["--connect"]).await.expect(1).stdout;
    assert!(looked.contains("holds records of pipeline `settings`"), "{looked}");
    second.start();
    let log = second.log_at_end(LIVE, 1).await;
    assert!(log.contains("holds records of pipeline `settings`"), "{log}");
}

#[tokio::test]
async fn a_value_that_the_topic_does_not_take_is_quarantined_and_the_others_flow() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    kafka.create_topic(&topic, 1, &[("cleanup.policy", "compact"), ("max.message.bytes", "20000")]).await;
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").kafka(&on(kafka, &topic, ""))).await;
    scene.znodes.put("/settings/large", vec![b'x'; 50_000]).await;
    scene.znodes.put("/settings/small", "1").await;
    scene.key_becomes("settings:small", Some("1")).await;
    eventually("the pair is quarantined", LIVE, async || {
        let rows = scene.keepstep.json("quarantine list", &[]).await;
        let found = rows.iter().find(|row| row["pair"]["zk"] == "/settings/large");
        match found {
            Some(row) if row["reason"] == "too_large" && row["detail"].as_str().unwrap().contains("20000") => Ok(()),
            _ => Err(format!("{rows:?}")),
        }
    })
    .await;
    assert_eq!(scene.get("settings:large").await, None);
    scene.znodes.put("/settings/large", "small now").await;
    scene.key_becomes("settings:large", Some("small now")).await;
    eventually_is("the quarantine", LIVE, 0, async || scene.keepstep.json("quarantine list", &[]).await.len()).await;
}

#[tokio::test]
async fn with_a_registry_records_have_its_wire_format_and_read_back() {
    let kafka = Kafka::shared().await;
    let registry = Registry::start().await;
    let topic = topic();
    let stream = on(kafka, &topic, &format!(", schema_registry: \"{}\"", registry.url()));
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.kafka(&stream)).await;
    let checked = scene.keepstep.command("validate", &["--connect"]).await.expect(0).stdout;
    assert!(checked.contains("does not exist yet") && checked.contains("the schema registry answers"), "{checked}");
    assert_eq!(kafka.partitions(&topic).await, 0, "validate creates nothing");
    scene.run().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    let subject = format!("{topic}-value");
    assert_eq!(registry.compatibility(&subject).as_deref(), Some("BACKWARD"));
    let (id, schema) = registry.newest(&subject).unwrap();
    let records = kafka.records(&topic).await;
    for record in &records {
        let value = record.value.as_ref().unwrap();
        assert_eq!((value[0], &value[1..5]), (0, id.to_be_bytes().as_slice()), "{record:?}");
        WriterSchema::parse(&schema).unwrap().decode_datum(&value[5..]).unwrap();
    }
    let change = codec::decode_datum(&records[1].value.as_ref().unwrap()[5..]).unwrap();
    assert_eq!(change.after.as_deref(), Some(b"1".as_slice()));
    assert_eq!(scene.keepstep.changes().await.len(), 1, "tail asks the registry by the id");
}

#[tokio::test]
async fn the_example_in_python_reads_the_topic_without_keepstep() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic, ""))).await;
    scene.set("settings:a", "one").await;
    scene.znode_becomes("/settings/a", Some("one")).await;
    scene.znodes.put("/settings/a", "two").await;
    scene.key_becomes("settings:a", Some("two")).await;
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    let mut program = python();
    program.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/consume.py")).args([
        "--brokers",
        &kafka.brokers(),
        "--topic",
        &topic,
        "--no-follow",
    ]);
    let output = tokio::task::spawn_blocking(move || program.output()).await.unwrap().unwrap();
    let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaint}");
    let rows: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<(&str, &str, &Value)> = rows
        .iter()
        .map(|row| (row["op"].as_str().unwrap(), row["zookeeper"].as_str().unwrap(), &row["after"]))
        .collect();
    let (one, two, none) = (json!("one"), json!("two"), json!(null));
    assert_eq!(
        told,
        [("c", "/settings/a", &one), ("u", "/settings/a", &two), ("d", "/settings/a", &none)],
        "{complaint}"
    );
    let theirs: Vec<&Value> = rows.iter().map(|row| &row["position"]).collect();
    let changes = scene.keepstep.changes().await;
    let ours: Vec<&Value> = changes.iter().map(|change| &change["position"]).collect();
    assert_eq!(theirs, ours);
}

/// The command of docs/consume.md as it stands there, ended after so many records.
async fn console_consumer(kafka: &Kafka, topic: &str, records: usize) -> String {
    let page = include_str!("../../docs/consume.md");
    let begin = page.find("    kafka-console-consumer.sh").expect("the page has this command");
    let command = page[begin..].split("\n\n").next().unwrap().replace("\\\n", " ");
    let words = command.split_whitespace().skip(1).map(|word| match word {
        "127.0.0.1:9092" => kafka.brokers(),
        "keepstep.settings" => topic.to_owned(),
        word => word.to_owned(),
    });
    let mut tool = kafka_java();
    tool.arg("org.apache.kafka.tools.consumer.ConsoleConsumer").args(words);
    tool.args(["--max-messages", &records.to_string(), "--timeout-ms", "30000"]);
    let output = tokio::task::spawn_blocking(move || tool.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn kafkas_console_consumer_reads_keys_headers_and_values_without_keepstep() {
    let kafka = Kafka::shared().await;
    let topic = topic();
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic, ""))).await;
    scene.set("settings:a", "the-value").await;
    scene.znode_becomes("/settings/a", Some("the-value")).await;
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    let records = kafka.records(&topic).await.len();
    let printed = console_consumer(kafka, &topic, records).await;
    let of_the_pair: Vec<&str> =
        printed.lines().filter(|line| line.contains(r#"{"zookeeper":"/settings/a","redis":"settings:a"}"#)).collect();
    let [create, delete, tombstone] = of_the_pair.as_slice() else { panic!("{printed}") };
    let says = |line: &str, op: &str| {
        line.contains("Offset:")
            && line.contains("keepstep.pipeline:settings")
            && line.contains("keepstep.route:settings")
            && line.contains(&format!("keepstep.op:{op}"))
            && line.contains("keepstep.fence:1.1")
    };
    assert!(says(create, "c") && create.contains("the-value"), "{printed}");
    assert!(says(delete, "d") && says(tombstone, "d") && tombstone.ends_with("null"), "{printed}");
}

#[tokio::test]
async fn brokers_that_are_away_at_the_start_are_waited_for() {
    let mut kafka = Kafka::start().await;
    let topic = topic();
    kafka.kill9();
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.kafka(&on(&kafka, &topic, ""))).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.keepstep.start();
    eventually("it says what it waits for", Duration::from_secs(30), async || {
        let log = scene.keepstep.log();
        if log.contains("does not answer") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(scene.keepstep.runs());
    kafka.restart().await;
    eventually_is("the key", Duration::from_secs(60), Some("1".to_owned()), async || scene.text("settings:a").await)
        .await;
}
