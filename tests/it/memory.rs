//! What is remembered from one owner to the next: a command between them, a data folder from elsewhere and an owner that ends late change
//! nothing of what the next one concludes about the stores.

use crate::support::{Keepstep, LIVE, Pipeline, Place, Scene, eventually, eventually_is};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Far more than a worker needs that waits for the session of one that was killed.
const SOON: Duration = Duration::from_secs(40);

const OLDER: &str = "the ensemble came back older";

/// Three pairs in step under a worker, which has stopped.
async fn stopped(place: Place) -> Scene {
    let mut scene =
        Scene::start_with(|pipeline| place.of(pipeline.session_timeout("4s").worker("reconcile: 2s"))).await;
    for key in ["settings:a", "settings:b", "settings:c"] {
        scene.set(key, "1").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    scene
}

/// While no worker runs an application deletes one znode and sets another: the next owner follows both.
async fn the_next_owner_follows_the_application(scene: &mut Scene) {
    scene.znodes.delete("/settings/a").await;
    scene.znodes.put("/settings/b", "2").await;
    scene.run().await;
    scene.key_becomes("settings:a", None).await;
    scene.key_becomes("settings:b", Some("2")).await;
    scene.settle().await;
    scene.in_step(LIVE).await;
    assert_eq!(scene.znodes.text("/settings/a").await, None, "a delete is not undone");
    assert_eq!(scene.znodes.text("/settings/b").await.as_deref(), Some("2"));
    let log = scene.keepstep.log();
    assert!(!log.contains(OLDER) && !log.contains("has lost its data"), "{log}");
}

/// The values of the key that were replaced, as the conflict log has them, oldest first.
async fn replaced(keepstep: &Keepstep, key: &str) -> Vec<Value> {
    keepstep.json("conflicts", &["--key", key]).await
}

async fn a_replay_or_a_restore_between_two_owners_is_no_sign_of_an_older_store(place: Place) {
    let mut scene = stopped(place).await;
    scene.set("settings:c", "x").await;
    scene.keepstep.json("replay", &["--to", "cache"]).await;
    assert_eq!(scene.text("settings:c").await.as_deref(), Some("1"));
    let kept = replaced(&scene.keepstep, "settings:c").await;
    assert_eq!((kept.len(), &kept[0]["cache"]), (1, &json!("x")), "{kept:?}");
    let position = kept[0]["position"].to_string();
    scene.keepstep.command("conflicts restore", &[&position, "--yes"]).await.expect(0);
    the_next_owner_follows_the_application(&mut scene).await;
    assert_eq!(scene.znodes.text("/settings/c").await.as_deref(), Some("x"), "what was restored flows on");
    assert_eq!(replaced(&scene.keepstep, "settings:c").await.len(), 2, "what the restore replaced is kept as well");
}

async fn a_repair_between_two_owners_is_no_sign_of_an_older_store(place: Place) {
    let mut scene = stopped(place).await;
    for round in 0..3 {
        scene.set("settings:c", format!("x{round}")).await;
        scene.keepstep.command("repair", &["--prefer", "zk", "--yes"]).await.expect(0);
    }
    the_next_owner_follows_the_application(&mut scene).await;
    assert_eq!(scene.text("settings:c").await.as_deref(), Some("1"));
    assert_eq!(replaced(&scene.keepstep, "settings:c").await.len(), 3);
}

async fn a_command_from_another_folder_leaves_the_owner_its_stream(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline.session_timeout("4s"))).await;
    scene.set("settings:a", "1").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    let epoch = async || scene.redis.run::<u64>("HGET _keepstep:settings epoch").await;
    let before = epoch().await;
    // As on another machine: its command does not find the worker.
    let elsewhere = scene.keepstep.another();
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    for round in 0..3 {
        scene.set("settings:a", format!("x{round}")).await;
        elsewhere.command("repair", &["--prefer", "zk", "--yes"]).await.expect(0);
        assert_eq!(scene.text("settings:a").await.as_deref(), Some("1"));
    }
    let kept = replaced(&elsewhere, "settings:a").await;
    assert_eq!(kept.iter().map(|row| &row["cache"]).collect::<Vec<_>>(), [&json!("x0"), &json!("x1"), &json!("x2")]);
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.route_becomes("live").await;
    for round in 0..3 {
        scene.set("settings:a", format!("after {round}")).await;
        scene.znode_becomes("/settings/a", Some(&format!("after {round}"))).await;
    }
    scene.settle().await;
    assert_eq!(epoch().await, before, "the owner is the one it was");
    let changes = scene.keepstep.changes().await;
    let afters: Vec<&Value> = changes.iter().filter(|row| row["pair"]["cache"] == "settings:a").collect();
    assert!(afters.iter().any(|row| row["after"] == "after 2"), "{changes:?}");
    let log = scene.keepstep.log();
    assert!(!log.contains("another owner") && !log.contains(OLDER), "{log}");
}

on_both_streams!(
    a_replay_or_a_restore_between_two_owners_is_no_sign_of_an_older_store,
    a_repair_between_two_owners_is_no_sign_of_an_older_store,
    a_command_from_another_folder_leaves_the_owner_its_stream,
);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Another installation, whose pair `c` has another value and which has a pair of its own; its worker was started this often.
async fn elsewhere(starts: usize) -> Scene {
    let mut other = Scene::start_with(|pipeline| pipeline.session_timeout("4s")).await;
    other.set("settings:c", "elsewhere").await;
    other.set("settings:theirs", "1").await;
    other.in_step(LIVE).await;
    for _ in 1..starts {
        other.keepstep.terminate().await;
        other.run().await;
        other.settle().await;
    }
    other.settle().await;
    other.keepstep.terminate().await;
    other
}

/// With one start its epoch is the one before ours, with more it is above ours.
async fn a_data_folder_of_another_installation_says_nothing_of_these_stores(starts: usize) {
    let (mut scene, other) = tokio::join!(stopped(Place::Embedded), elsewhere(starts));
    std::fs::remove_dir_all(scene.keepstep.data()).unwrap();
    copy(other.keepstep.data(), scene.keepstep.data());
    scene.znodes.delete("/settings/a").await;
    scene.znodes.put("/settings/b", "2").await;
    scene.run().await;
    scene.key_becomes("settings:a", None).await;
    scene.key_becomes("settings:b", Some("2")).await;
    scene.settle().await;
    scene.in_step(LIVE).await;
    assert_eq!(scene.znodes.text("/settings/a").await, None, "a delete is not undone");
    assert!(!scene.keepstep.log().contains(OLDER), "{}", scene.keepstep.log());
    eventually("the stream has what the stores agree on", SOON, async || {
        let changes = scene.keepstep.changes().await;
        let of = |key: &str| changes.iter().rfind(|row| row["pair"]["cache"] == key && row["op"] != "m");
        let newest = |key: &str| of(key).map(|row| row["after"].clone());
        match (newest("settings:c"), newest("settings:b")) {
            (Some(c), Some(b)) if (&c, &b) == (&json!("1"), &json!("2")) => Ok(()),
            other => Err(format!("{other:?} in {changes:?}")),
        }
    })
    .await;
    let theirs = scene.keepstep.json("tail", &["--from", "earliest", "--no-follow", "--key", "settings:theirs"]).await;
    assert!(theirs.iter().all(|row| row["op"] != "d"), "nobody here has deleted it: {theirs:?}");
}

#[tokio::test]
async fn a_data_folder_that_was_copied_from_another_installation_is_not_taken_for_ours_because_its_epochs_fit() {
    a_data_folder_of_another_installation_says_nothing_of_these_stores(1).await;
}

#[tokio::test]
async fn a_data_folder_that_was_copied_from_an_installation_of_newer_epochs_is_no_sign_of_an_older_store() {
    a_data_folder_of_another_installation_says_nothing_of_these_stores(4).await;
}

/// What Redis remembers of the ensemble: zxid, watermark and epoch.
async fn remembered(scene: &Scene) -> (i64, i32, u64) {
    scene.redis.run("HMGET _keepstep:settings zxid tide epoch").await
}

/// Two workers; the first is frozen, the second has taken over.
async fn taken_over() -> (Scene, Keepstep) {
    let mut scene =
        Scene::start_with(|pipeline: Pipeline| pipeline.session_timeout("4s").worker("reconcile: 2s")).await;
    scene.settle().await;
    let mut next = scene.keepstep.another();
    next.start();
    next.wait_ready().await;
    scene.keepstep.freeze();
    becomes(&next, "live").await;
    (scene, next)
}

async fn becomes(keepstep: &Keepstep, wanted: &str) {
    eventually_is("the worker", SOON, json!(wanted), async || {
        let status = keepstep.command("status", &["--format", "json"]).await;
        let first = status.stdout.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok());
        first.map_or(Value::Null, |status| status["state"].clone())
    })
    .await;
}

/// Twenty pairs, and they are remembered: an ensemble without them is an older one.
async fn add(scene: &Scene, word: &str) {
    let before = remembered(scene).await;
    for number in 0..10 {
        scene.set(format!("settings:{word}:key:{number}"), word).await;
        scene.znodes.put(&format!("/settings/{word}/znode/{number}"), word).await;
    }
    scene.in_step(LIVE).await;
    eventually("the newest numbers are remembered", LIVE, async || {
        let (zxid, watermark, epoch) = remembered(scene).await;
        let newest = scene.znodes.stat(&format!("/settings/{word}/key/9")).await.mzxid;
        if zxid >= newest && watermark > before.1 { Ok(()) } else { Err(format!("{zxid} {watermark} {epoch}")) }
    })
    .await;
}

#[tokio::test]
async fn a_former_owner_that_ends_late_hides_no_loss_of_the_ensemble() {
    let (mut scene, mut next) = taken_over().await;
    // Younger than what the frozen worker knows, older than what comes now.
    add(&scene, "early").await;
    let backup = scene.zookeeper.back_up();
    scene.zookeeper.restart().await;
    scene.znodes = scene.zookeeper.client().await;
    becomes(&next, "live").await;
    add(&scene, "late").await;
    let known = remembered(&scene).await;
    scene.keepstep.thaw();
    becomes(&scene.keepstep, "standby").await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    let left = remembered(&scene).await;
    assert!(left.0 >= known.0 && left.1 >= known.1 && left.2 == known.2, "{known:?} became {left:?}");
    next.kill9();
    scene.zookeeper.restart_from(&backup).await;
    scene.znodes = scene.zookeeper.client().await;
    next.restart().await;
    scene.in_step(SOON).await;
    for number in 0..10 {
        for name in [format!("late:key:{number}"), format!("late:znode:{number}")] {
            assert_eq!(scene.text(format!("settings:{name}")).await.as_deref(), Some("late"), "{name}");
        }
    }
    assert!(next.log().contains(OLDER), "{}", next.log());
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_former_owner_that_thaws_before_it_remembers_writes_no_old_numbers() {
    let mut scene =
        Scene::start_with(|pipeline: Pipeline| pipeline.session_timeout("4s").worker("reconcile: 2s")).await;
    scene.settle().await;
    let mut next = scene.keepstep.another();
    next.start();
    next.wait_ready().await;
    // Its watermark is advanced, and Redis not yet told.
    scene.keepstep.arm_stop("c16-watermark-advanced");
    scene.set("settings:a", "1").await;
    scene.keepstep.stopped(SOON).await;
    becomes(&next, "live").await;
    add(&scene, "late").await;
    let known = remembered(&scene).await;
    scene.keepstep.thaw();
    becomes(&scene.keepstep, "standby").await;
    let left = remembered(&scene).await;
    assert!(left.0 >= known.0 && left.1 >= known.1 && left.2 == known.2, "{known:?} became {left:?}");
    scene.settle().await;
}

/// What shows that the ensemble is an older one stays until what it means is written down.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_owner_that_is_killed_while_it_looks_at_the_ensemble_leaves_the_evidence_to_the_next() {
    let mut scene = stopped(Place::Embedded).await;
    let mut state = redis::cmd("HINCRBY");
    // As if owners had followed each other since the copy that the ensemble was restored from.
    state.arg("_keepstep:settings").arg("epoch").arg(5).exec_async(&mut scene.client.clone()).await.unwrap();
    scene.set("settings:late", "1").await;
    let epoch = scene.znodes.text("/_keepstep/settings/epoch").await;
    let lineage = scene.znodes.text("/_keepstep/settings/lineage").await;
    scene.keepstep.arm("c10-found-in-zookeeper");
    scene.keepstep.start();
    scene.keepstep.abort(SOON).await;
    scene.keepstep.arm("");
    assert_eq!(scene.znodes.text("/_keepstep/settings/epoch").await, epoch);
    assert_eq!(scene.znodes.text("/_keepstep/settings/lineage").await, lineage);
    scene.run().await;
    scene.settle().await;
    assert_ne!(scene.znodes.text("/_keepstep/settings/lineage").await, lineage);
    assert!(scene.keepstep.log().contains(OLDER), "{}", scene.keepstep.log());
}
