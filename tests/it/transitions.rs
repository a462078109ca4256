//! What an operator reads in the log while something lasts: a line when it begins, a line when its reason changes, and not
//! one for each attempt.

use crate::support::{Kafka, LIVE, Scene, eventually, never};
use std::collections::BTreeSet;
use std::time::Duration;

/// Several attempts, of which the pauses grow up to 3 s; less than the minute after which a reason is said again.
const LASTS: Duration = Duration::from_secs(15);

/// For opening anew after what was in the way has gone.
const BACK: Duration = Duration::from_secs(60);

fn no_line_twice(log: &str) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    // Without the time at its beginning.
    let lines = log.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line.trim());
    let said = |line: &&str| ["WARN", "ERROR", "INFO"].iter().any(|level| line.starts_with(level));
    match lines.filter(said).find(|line| !seen.insert((*line).to_owned())) {
        Some(line) => Err(format!("{line}\nin\n{log}")),
        None => Ok(()),
    }
}

/// Waits until the log says this, and makes sure that while it lasts no line is said twice.
async fn said_once(scene: &Scene, since: usize, part: &str) {
    let log = || scene.keepstep.log().get(since..).unwrap_or_default().to_owned();
    eventually(format!("the log says `{part}`"), BACK, async || {
        let log = log();
        if log.contains(part) { Ok(()) } else { Err(log) }
    })
    .await;
    let begun = log().len();
    never("a line is said twice", LASTS, async || no_line_twice(&log())).await;
    let status = scene.keepstep.json("status", &[]).await[0].clone();
    let note = status["note"].as_str().unwrap_or_default();
    assert!(status["state"] == "waiting" && note.contains(part), "status says it as long as it lasts: {status}");
    assert!(log().len() >= begun);
}

/// Makes a running worker open its topic anew, and find that its records are not kept.
async fn spoil(kafka: &Kafka, topic: &str) {
    kafka.configure(topic, &[("cleanup.policy", "delete")]).await;
    let end = kafka.records(topic).await.last().unwrap().offset;
    kafka.delete_records(topic, end).await;
}

#[tokio::test]
async fn a_topic_that_does_not_fit_is_said_once_for_each_reason() {
    let kafka = Kafka::shared().await;
    let topic = format!("misfit-{}", std::process::id());
    let stream = format!("{{brokers: \"{}\", topic: {topic}}}", kafka.brokers());
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&stream)).await;
    scene.settle().await;
    let begun = scene.keepstep.log().len();
    spoil(kafka, &topic).await;
    said_once(&scene, begun, "cleanup.policy=delete").await;
    let changed = scene.keepstep.log().len();
    kafka.add_partitions(&topic, 2).await;
    said_once(&scene, changed, "has 2 partitions").await;
    kafka.delete_topic(&topic).await;
    scene.set("settings:after", "1").await;
    eventually("changes flow", BACK, async || match scene.znodes.text("/settings/after").await {
        Some(_) => Ok(()),
        None => Err(scene.keepstep.log()),
    })
    .await;
}

#[tokio::test]
async fn workers_that_take_turns_at_a_topic_that_does_not_fit_say_it_once_each_and_go_on_waiting() {
    let kafka = Kafka::shared().await;
    let topic = format!("turns-{}", std::process::id());
    let stream = format!("{{brokers: \"{}\", topic: {topic}}}", kafka.brokers());
    let mut scene = Scene::start_with(|pipeline| pipeline.kafka(&stream)).await;
    let mut standby = scene.keepstep.another();
    standby.start();
    standby.wait_ready().await;
    scene.settle().await;
    spoil(kafka, &topic).await;
    for worker in [&scene.keepstep, &standby] {
        eventually("each worker has tried", BACK, async || {
            let log = worker.log();
            if log.contains("has cleanup.policy=delete") { Ok(()) } else { Err(log) }
        })
        .await;
    }
    let begun = [scene.keepstep.log().len(), standby.log().len()];
    never("a line is said twice", LASTS, async || {
        no_line_twice(&scene.keepstep.log()[begun[0]..])?;
        no_line_twice(&standby.log()[begun[1]..])
    })
    .await;
    assert!(scene.keepstep.runs() && standby.runs(), "a standby has started, and waits like any other");
    kafka.configure(&topic, &[("cleanup.policy", "compact")]).await;
    scene.set("settings:after", "1").await;
    eventually("changes flow", BACK, async || match scene.znodes.text("/settings/after").await {
        Some(_) => Ok(()),
        None => Err(format!("{}\n{}", scene.keepstep.log(), standby.log())),
    })
    .await;
}

#[tokio::test]
async fn an_embedded_stream_that_cannot_be_opened_is_said_once() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    let folder = scene.keepstep.data().join("settings");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("stream"), "no folder").unwrap();
    scene.keepstep.start();
    said_once(&scene, 0, "stream").await;
    std::fs::remove_file(folder.join("stream")).unwrap();
    scene.keepstep.wait_ready().await;
    scene.settle().await;
}

#[tokio::test]
async fn a_redis_that_is_away_at_the_start_is_said_once() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.redis.kill9();
    scene.keepstep.start();
    said_once(&scene, 0, "redis").await;
    scene.redis.restart().await;
    scene.keepstep.wait_ready().await;
}

#[tokio::test]
async fn a_zookeeper_that_is_away_at_the_start_is_said_once() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.zookeeper.kill9();
    scene.keepstep.start();
    said_once(&scene, 0, "zookeeper").await;
    scene.zookeeper.restart().await;
    scene.keepstep.wait_ready().await;
}

#[tokio::test]
async fn a_redis_that_goes_away_under_a_pipeline_is_said_once() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.settle().await;
    let begun = scene.keepstep.log().len();
    scene.redis.kill9();
    scene.znodes.put("/settings/meanwhile", "1").await;
    said_once(&scene, begun, "redis").await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    scene.key_becomes("settings:meanwhile", Some("1")).await;
}

#[tokio::test]
async fn a_zookeeper_that_goes_away_under_a_pipeline_is_said_once() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").session_timeout("4s")).await;
    scene.settle().await;
    let begun = scene.keepstep.log().len();
    scene.zookeeper.kill9();
    scene.set("settings:meanwhile", "1").await;
    said_once(&scene, begun, "zookeeper").await;
    scene.zookeeper.restart().await;
    scene.znodes = scene.zookeeper.client().await;
    eventually("the change flows", LIVE + BACK, async || match scene.znodes.text("/settings/meanwhile").await {
        Some(_) => Ok(()),
        None => Err(scene.keepstep.log()),
    })
    .await;
}
