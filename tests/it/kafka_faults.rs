//! Faults of the brokers under a running pipeline: nothing is lost, nothing doubled in the stores, everything said.

use crate::support::{Kafka, Keepstep, LIVE, Scene, eventually, eventually_is};
use std::time::Duration;

/// From a broker's return until changes flow: its start, the next attempt, and a round.
const BACK: Duration = Duration::from_secs(60);

fn on(kafka: &Kafka, topic: &str) -> String {
    format!("{{brokers: \"{}\", topic: {topic}, config: {{delivery.timeout.ms: 4000}}}}", kafka.brokers())
}

#[tokio::test]
async fn a_broker_that_is_killed_under_load_pauses_the_pipeline_and_nothing_is_lost() {
    let mut kafka = Kafka::start().await;
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 5s").kafka(&on(&kafka, "killed"))).await;
    for i in 0..100 {
        scene.set(format!("settings:{}", i % 20), format!("before-{i}")).await;
    }
    kafka.kill9();
    for i in 0..100 {
        scene.set(format!("settings:{}", i % 20), format!("while-{i}")).await;
    }
    scene.znodes.put("/settings/from-zk", "1").await;
    eventually("it says that it is paused", LIVE, async || {
        let note = scene.keepstep.json("status", &[]).await[0]["note"].clone();
        if note.as_str().is_some_and(|note| note.contains("paused")) { Ok(()) } else { Err(note.to_string()) }
    })
    .await;
    assert_eq!(scene.get("settings:from-zk").await, None, "no store is changed before the stream has the change");
    kafka.restart().await;
    eventually_is("the key", BACK, Some("1".to_owned()), async || scene.text("settings:from-zk").await).await;
    scene.in_step(BACK).await;
    for pair in 0..20 {
        let newest = format!("while-{}", 80 + pair);
        assert_eq!(scene.znodes.text(&format!("/settings/{pair}")).await, Some(newest));
    }
    let changes = scene.keepstep.changes().await;
    for pair in 0..20 {
        let key = format!("settings:{pair}");
        let last = changes.iter().rfind(|change| change["pair"]["cache"] == key.as_str()).unwrap();
        assert_eq!(last["after"], format!("while-{}", 80 + pair), "the stream ends with what the stores hold");
    }
}

#[tokio::test]
async fn a_topic_that_is_deleted_under_a_pipeline_is_told_loudly_and_begun_anew() {
    let kafka = Kafka::shared().await;
    let topic = format!("deleted-{}", std::process::id());
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic))).await;
    for i in 0..10 {
        scene.set(format!("settings:{i}"), "1").await;
    }
    scene.in_step(LIVE).await;
    kafka.delete_topic(&topic).await;
    eventually("one `r` a pair on the new topic", BACK, async || {
        let changes = scene.keepstep.command("tail", &["--from", "earliest", "--no-follow", "--format", "json"]).await;
        let reads = changes.objects().iter().filter(|change| change["op"] == "r").count();
        if reads == 10 { Ok(()) } else { Err(format!("{reads} of 10; {}", scene.keepstep.log())) }
    })
    .await;
    let log = scene.keepstep.log();
    assert!(log.contains("ERROR") && log.contains("its history is lost"), "{log}");
    scene.set("settings:0", "2").await;
    scene.znode_becomes("/settings/0", Some("2")).await;
}

#[tokio::test]
async fn an_owner_that_was_frozen_and_thaws_leaves_nothing_on_the_stream_that_is_read() {
    let kafka = Kafka::shared().await;
    let topic = format!("frozen-{}", std::process::id());
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").kafka(&on(kafka, &topic))).await;
    let mut standby = scene.keepstep.another();
    standby.start();
    standby.wait_ready().await;
    let is_live = async |keepstep: &Keepstep| {
        let status = keepstep.command("status", &["--format", "json"]).await.objects();
        status.first().is_some_and(|status| status["state"] == "live")
    };
    // Work that the frozen owner has in its hands.
    for i in 0..50 {
        scene.set(format!("settings:{i}"), "old").await;
    }
    scene.keepstep.freeze();
    eventually_is("the second worker is live", LIVE, true, async || is_live(&standby).await).await;
    for i in 0..50 {
        scene.set(format!("settings:{i}"), "new").await;
    }
    scene.in_step(LIVE).await;
    scene.keepstep.thaw();
    eventually_is("the thawed worker is live", LIVE, false, async || is_live(&scene.keepstep).await).await;
    scene.set("settings:after", "1").await;
    scene.znode_becomes("/settings/after", Some("1")).await;
    scene.in_step(LIVE).await;
    for keepstep in [&standby, &scene.keepstep] {
        let changes = keepstep.changes().await;
        for i in 0..50 {
            let key = format!("settings:{i}");
            let last = changes.iter().rfind(|change| change["pair"]["cache"] == key.as_str()).unwrap();
            assert_eq!(last["after"], "new", "{key}");
        }
    }
}
