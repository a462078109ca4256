//! More than one worker: one owns a pipeline, others stand by, and nobody writes for an owner that is gone.

use crate::support::{Keepstep, LIVE, Pipeline, Scene, eventually, eventually_is};
use serde_json::json;

async fn state(keepstep: &Keepstep) -> serde_json::Value {
    let status = keepstep.command("status", &["--format", "json"]).await;
    status
        .stdout
        .lines()
        .next()
        .map_or(json!(null), |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["state"].clone())
}

/// The scene's worker and a second one that stands by.
async fn with_a_standby() -> (Scene, Keepstep) {
    let scene = Scene::start_with(|pipeline| pipeline.session_timeout("4s").worker("reconcile: 2s")).await;
    let mut standby = scene.keepstep.another();
    standby.start();
    standby.wait_ready().await;
    eventually_is("the second worker", LIVE, json!("standby"), async || state(&standby).await).await;
    assert_eq!(state(&scene.keepstep).await, "live");
    (scene, standby)
}

/// How quickly it does is a figure: `cargo bench --bench sync -- take-over`.
#[tokio::test]
async fn a_standby_takes_over_from_an_owner_that_is_killed_and_changes_flow_on() {
    let (mut scene, mut standby) = with_a_standby().await;
    scene.set("settings:a", "before").await;
    scene.znode_becomes("/settings/a", Some("before")).await;
    scene.keepstep.kill9();
    scene.set("settings:a", "after").await;
    eventually_is("the second worker", LIVE, json!("live"), async || state(&standby).await).await;
    scene.znode_becomes("/settings/a", Some("after")).await;
    scene.znodes.put("/settings/b", "1").await;
    scene.key_becomes("settings:b", Some("1")).await;
    assert!(standby.runs());
}

#[tokio::test]
async fn an_owner_that_ends_in_order_gives_its_place_in_line_back_and_hands_over() {
    let (mut scene, standby) = with_a_standby().await;
    let line = async || scene.znodes.client().list_children("/_keepstep/settings/election").await.unwrap();
    let mut before = line().await;
    before.sort();
    assert_eq!(before.len(), 2, "{before:?}");
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    // Its session need not expire first.
    assert_eq!(line().await, before[1..]);
    eventually_is("the second worker", LIVE, json!("live"), async || state(&standby).await).await;
    scene.settle().await;
}

#[tokio::test]
async fn an_owner_that_was_frozen_and_thaws_writes_nothing_and_stands_by() {
    let (mut scene, standby) = with_a_standby().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    // Work that the frozen owner has in its hands.
    for number in 0..50 {
        scene.set(format!("settings:{number}"), "old").await;
    }
    scene.keepstep.freeze();
    eventually_is("the second worker", LIVE, json!("live"), async || state(&standby).await).await;
    for number in 0..50 {
        scene.set(format!("settings:{number}"), "new").await;
    }
    scene.in_step(LIVE).await;
    scene.keepstep.thaw();
    eventually_is("the thawed worker", LIVE, json!("standby"), async || state(&scene.keepstep).await).await;
    scene.in_step(LIVE).await;
    for number in 0..50 {
        assert_eq!(scene.znodes.text(&format!("/settings/{number}")).await.as_deref(), Some("new"), "{number}");
        assert_eq!(scene.text(format!("settings:{number}")).await.as_deref(), Some("new"), "{number}");
    }
}

#[tokio::test]
async fn ownership_goes_to_and_fro_and_nothing_is_lost() {
    let (mut scene, mut other) = with_a_standby().await;
    for round in 0..4 {
        scene.set("settings:redis", format!("{round}")).await;
        scene.znodes.put("/settings/zk", format!("{round}")).await;
        let dying = if round % 2 == 0 { &mut scene.keepstep } else { &mut other };
        dying.kill9();
        dying.start();
        scene.znode_becomes("/settings/redis", Some(&round.to_string())).await;
        scene.key_becomes("settings:zk", Some(&round.to_string())).await;
        let standing_by = if round % 2 == 0 { &mut scene.keepstep } else { &mut other };
        standing_by.wait_ready().await;
    }
    scene.in_step(LIVE).await;
}

#[tokio::test]
async fn two_pipelines_on_different_ranges_share_a_worker() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    let second = Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url())
        .name("users")
        .matches("{zk: /users/**, cache: \"users:**\"}");
    let file = scene.keepstep.file().with_file_name("users.yaml");
    std::fs::write(&file, second.to_string()).unwrap();
    scene.keepstep.start_with(&[file.to_str().unwrap()]);
    scene.keepstep.wait_ready().await;
    scene.settle().await;
    scene.set("users:a", "1").await;
    scene.znode_becomes("/users/a", Some("1")).await;
    let flags = ["status", "--format", "json", "--data-dir", scene.keepstep.data().to_str().unwrap()];
    let running = scene.keepstep.bare(&flags).await.expect(0).objects();
    let names: Vec<_> = running.iter().map(|row| row["pipeline"].clone()).collect();
    assert_eq!(names, ["settings", "users"]);
}

#[tokio::test]
async fn a_new_pipeline_file_takes_effect_with_a_restart() {
    let mut scene = Scene::start().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    let pipeline = Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url());
    scene.keepstep.rewrite(pipeline.flow("zk -> cache").worker("reconcile: 2s"));
    scene.run().await;
    scene.set("settings:a", "meddled").await;
    scene.key_becomes("settings:a", Some("1")).await;
    eventually("the znode is left", LIVE, async || match scene.znodes.text("/settings/a").await {
        Some(value) if value == "1" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
