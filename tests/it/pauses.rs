//! A pause lasts until it is resumed or its time is over, whoever owns the pipeline.

use crate::support::{Keepstep, LIVE, Scene, eventually, eventually_is, never};
use serde_json::json;
use std::time::Duration;

async fn route_of(worker: &Keepstep) -> (serde_json::Value, serde_json::Value) {
    let status: serde_json::Value = serde_json::from_str(&worker.get("/status").await.body).unwrap();
    (status["pipelines"][0]["state"].clone(), status["pipelines"][0]["routes"][0]["state"].clone())
}

/// What changes is not carried over.
async fn stands_still(scene: &Scene, key: &str) {
    scene.set(key, "while paused").await;
    let path = format!("/{}", key.replace(':', "/"));
    never("a paused route writes", Duration::from_secs(3), async || match scene.znodes.text(&path).await {
        None => Ok(()),
        Some(value) => Err(value),
    })
    .await;
}

#[tokio::test]
async fn a_pause_survives_a_restart_and_the_death_of_the_owner_and_is_told() {
    let mut scene = Scene::start().await;
    scene.settle().await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    assert_eq!(route_of(&scene.keepstep).await, (json!("paused"), json!("paused")), "at once");
    assert_eq!(scene.keepstep.command("status", &["--check"]).await.code, Some(1));
    scene.keepstep.terminate().await;
    scene.keepstep.start();
    scene.keepstep.wait_ready().await;
    eventually_is("the state", LIVE, (json!("paused"), json!("paused")), async || route_of(&scene.keepstep).await)
        .await;
    stands_still(&scene, "settings:a").await;
    // On another machine, with a data folder of its own.
    let mut other = scene.keepstep.another();
    other.start();
    other.wait_ready().await;
    scene.keepstep.kill9();
    eventually_is("the state", LIVE, (json!("paused"), json!("paused")), async || route_of(&other).await).await;
    stands_still(&scene, "settings:b").await;
    other.command("resume", &[]).await.expect(0);
    scene.znode_becomes("/settings/a", Some("while paused")).await;
    scene.znode_becomes("/settings/b", Some("while paused")).await;
    eventually_is("the state", LIVE, (json!("live"), json!("live")), async || route_of(&other).await).await;
    assert_eq!(other.command("status", &["--check"]).await.code, Some(0));
    // And that it was resumed is known as well.
    other.terminate().await;
    other.restart().await;
    assert_eq!(route_of(&other).await.1, json!("live"));
}

#[tokio::test]
async fn a_pause_for_some_time_ends_by_itself_also_while_no_worker_runs() {
    let mut scene = Scene::start().await;
    scene.settle().await;
    let said = scene.keepstep.command("pause", &["--for", "4s"]).await.expect(0);
    assert!(said.stdout.contains("paused: settings, until "), "{said:?}");
    scene.set("settings:a", "1").await;
    assert_eq!(route_of(&scene.keepstep).await.1, json!("paused"));
    scene.znode_becomes("/settings/a", Some("1")).await;
    assert_eq!(route_of(&scene.keepstep).await.1, json!("live"));
    scene.keepstep.command("pause", &["--for", "1s", "--route", "settings"]).await.expect(0);
    scene.keepstep.terminate().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.keepstep.restart().await;
    assert_eq!(route_of(&scene.keepstep).await.1, json!("live"));
    assert_eq!(scene.keepstep.command("pause", &["--for", "soon"]).await.code, Some(2));
}

#[tokio::test]
async fn resume_names_the_routes_that_were_paused_and_approve_says_that_nothing_is_held() {
    let scene = Scene::start_with(|pipeline| {
        pipeline.also("{name: users, flow: \"zk <-> cache\", match: {zk: /users/**, cache: \"users:**\"}}")
    })
    .await;
    let said = async |verb: &str, flags: &[&str]| scene.keepstep.command(verb, flags).await.expect(0).stdout;
    assert_eq!(said("pause", &["--route", "users"]).await, "paused: users\n");
    assert_eq!(said("resume", &["--route", "settings"]).await, "not paused: settings\n");
    assert_eq!(said("resume", &[]).await, "resumed: users\n");
    assert_eq!(said("resume", &[]).await, "not paused: settings, users\n");
    assert_eq!(said("approve", &["--yes"]).await, "no delete waits for approval\n");
    let counts = said("status", &[]).await;
    assert!(counts.contains("0 conflicts, 0 gaps, 0 losses since the worker's start"), "{counts}");
}

#[tokio::test]
async fn a_capture_of_redis_alone_keeps_its_pause_in_the_data_folder() {
    let mut scene = Scene::start_with(|pipeline| pipeline.capture_redis()).await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.keepstep.terminate().await;
    scene.keepstep.start();
    scene.keepstep.wait_ready().await;
    eventually_is("the route", LIVE, json!("paused"), async || route_of(&scene.keepstep).await.1).await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.set("settings:a", "1").await;
    eventually("it is recorded", LIVE, async || {
        let changes = scene.keepstep.changes().await;
        if changes.iter().any(|change| change["after"] == "1") { Ok(()) } else { Err(format!("{changes:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_pause_that_the_ensemble_cannot_keep_is_refused() {
    let scene = Scene::start().await;
    scene.zookeeper.pause();
    let refused = scene.keepstep.command("pause", &[]).await;
    scene.zookeeper.resume();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("nothing is paused"), "{refused:?}");
    scene.settle().await;
}
