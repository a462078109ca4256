//! Something else is written to a key that is Keepstep's own, with another type: the pipeline says which key it is, nothing is lost or
//! deleted meanwhile, and all goes on when the key is deleted.

use crate::support::{LIVE, Scene, eventually};
use std::time::Duration;

/// The hash of the pipeline and the set of all claims.
const STATE: &str = "_keepstep:settings";
const CLAIMS: &str = "_keepstep::claims";

/// Pairs in step, some of each side.
async fn filled() -> Scene {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.worker("reconcile: 1s")).await;
    scene.run().await;
    for number in 0..5 {
        scene.set(format!("settings:keys:{number}"), "v").await;
        scene.znodes.put(&format!("/settings/znodes/{number}"), "v").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene
}

async fn overwrite(scene: &Scene, key: &str) {
    scene.redis.run::<()>(&format!("DEL {key}")).await;
    scene.redis.run::<()>(&format!("SET {key} mine")).await;
}

fn names(text: &str, key: &str) -> Result<(), String> {
    let is_clear = text.contains(&format!("the key `{key}`")) && text.contains("rename or delete");
    if is_clear { Ok(()) } else { Err(text.to_owned()) }
}

/// The worker names the key where people look, and goes on running.
async fn is_told(scene: &mut Scene, key: &str) {
    eventually("status names the key", LIVE, async || {
        let status = scene.keepstep.command("status", &["--format", "json"]).await;
        names(&status.stdout, key).map_err(|text| format!("{text} {}", status.stderr))
    })
    .await;
    let log = scene.keepstep.log();
    names(&log, key).unwrap();
    assert!(scene.keepstep.runs(), "{log}");
    let found = scene.keepstep.command("validate", &["--connect"]).await.expect(1);
    names(&format!("{}{}", found.stdout, found.stderr), key).unwrap();
    assert_eq!(scene.redis.run::<String>(&format!("GET {key}")).await, "mine", "it is not ours to touch");
}

/// Applications change both sides, and delete nothing.
async fn change(scene: &Scene) {
    scene.set("settings:keys:1", "w").await;
    scene.set("settings:keys:new", "w").await;
    scene.znodes.put("/settings/znodes/1", "w").await;
    scene.znodes.put("/settings/znodes/new", "w").await;
}

/// The key is gone: what was changed meanwhile arrives, on both sides, and no delete was invented.
async fn goes_on(scene: &Scene, key: &str, kind: &str) {
    scene.redis.run::<()>(&format!("DEL {key}")).await;
    for name in ["1", "new"] {
        scene.znode_becomes(&format!("/settings/keys/{name}"), Some("w")).await;
        scene.key_becomes(&format!("settings:znodes:{name}"), Some("w")).await;
    }
    scene.in_step(LIVE).await;
    eventually("it is written again", LIVE, async || {
        let found = scene.redis.run::<String>(&format!("TYPE {key}")).await;
        let status = scene.keepstep.command("status", &[]).await;
        if found == kind && names(&status.stdout, key).is_err() {
            Ok(())
        } else {
            Err(format!("{found} {}", status.stdout))
        }
    })
    .await;
    scene.settle().await;
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d" && change["loss"].is_null()), "{changes:?}");
    assert_eq!(scene.znodes.tree("/settings").await.len(), 15, "two parents, 12 pairs, and what is settled by");
    scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    // What is deleted from here on is.
    scene.del("settings:keys:2").await;
    scene.znode_becomes("/settings/keys/2", None).await;
}

#[tokio::test]
async fn a_pipeline_whose_state_is_overwritten_while_it_runs_waits_and_names_the_key() {
    let mut scene = filled().await;
    overwrite(&scene, STATE).await;
    is_told(&mut scene, STATE).await;
    change(&scene).await;
    // It is asked for again with pauses: few lines say so.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let lines = scene.keepstep.log().lines().filter(|line| line.contains("rename or delete")).count();
    assert!((1..=6).contains(&lines), "{}", scene.keepstep.log());
    goes_on(&scene, STATE, "hash").await;
}

#[tokio::test]
async fn a_pipeline_whose_state_is_overwritten_before_it_starts_waits_and_names_the_key() {
    let mut scene = filled().await;
    scene.keepstep.terminate().await;
    overwrite(&scene, STATE).await;
    change(&scene).await;
    let once = scene.keepstep.command("run", &["--once", "--timeout", "3s", "--http", "127.0.0.1:0"]).await.expect(1);
    names(&once.stderr, STATE).unwrap();
    scene.keepstep.start();
    is_told(&mut scene, STATE).await;
    goes_on(&scene, STATE, "hash").await;
}

#[tokio::test]
async fn a_pipeline_goes_on_while_the_set_of_claims_is_overwritten_and_names_the_key() {
    let mut scene = filled().await;
    overwrite(&scene, CLAIMS).await;
    is_told(&mut scene, CLAIMS).await;
    change(&scene).await;
    scene.znode_becomes("/settings/keys/new", Some("w")).await;
    goes_on(&scene, CLAIMS, "set").await;
}

#[tokio::test]
async fn a_pipeline_before_whose_start_the_set_of_claims_is_overwritten_waits_and_names_the_key() {
    let mut scene = filled().await;
    scene.keepstep.terminate().await;
    overwrite(&scene, CLAIMS).await;
    change(&scene).await;
    let once = scene.keepstep.command("run", &["--once", "--timeout", "3s", "--http", "127.0.0.1:0"]).await.expect(1);
    names(&once.stderr, CLAIMS).unwrap();
    scene.keepstep.start();
    is_told(&mut scene, CLAIMS).await;
    goes_on(&scene, CLAIMS, "set").await;
}

/// The others of our own keys have a type that `SET` gives them, too.
#[tokio::test]
async fn a_pipeline_names_each_other_key_of_its_own_that_holds_another_type() {
    let mut scene = filled().await;
    scene.keepstep.terminate().await;
    for key in ["_keepstep::identity", "_keepstep::stores:settings", "_keepstep::claim:settings"] {
        // A claim was given back when the worker ended.
        let was_there = scene.redis.try_run::<()>(&format!("RENAME {key} elsewhere")).await.is_ok();
        scene.redis.run::<()>(&format!("LPUSH {key} mine")).await;
        let flags = ["--once", "--timeout", "3s", "--http", "127.0.0.1:0"];
        let once = scene.keepstep.command("run", &flags).await.expect(1);
        names(&once.stderr, key).unwrap();
        let found = scene.keepstep.command("validate", &["--connect", "--timeout", "3s"]).await.expect(1);
        names(&format!("{}{}", found.stdout, found.stderr), key).unwrap();
        scene.redis.run::<()>(&format!("DEL {key}")).await;
        if was_there {
            scene.redis.run::<()>(&format!("RENAME elsewhere {key}")).await;
        }
    }
    scene.run().await;
    change(&scene).await;
    scene.znode_becomes("/settings/keys/new", Some("w")).await;
}
