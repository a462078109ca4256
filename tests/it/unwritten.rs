//! What is on the stream and never came to be written: once it is taken back, the stream says so, whoever owns the pipeline by then.

use crate::support::{LIVE, Pipeline, Scene, eventually};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Redis takes no writes.
const REFUSE: &str = "CONFIG SET min-replicas-to-write 1";
const ACCEPT: &str = "CONFIG SET min-replicas-to-write 0";

/// The newest change of this key on the stream; `None` if it was deleted there, or never was.
async fn newest(scene: &Scene, key: &str) -> Option<Value> {
    let changes = scene.keepstep.changes().await;
    let of_key = |change: &&Value| change["pair"]["cache"] == key && change["op"] != "m";
    changes.iter().rev().find(of_key).filter(|change| change["op"] != "d").map(|change| change["after"].clone())
}

async fn newest_becomes(scene: &Scene, key: &str, expected: Option<&str>) {
    eventually("the newest record is the state", LIVE, async || {
        let found = newest(scene, key).await;
        if found == expected.map(Value::from) { Ok(()) } else { Err(format!("{key}: {found:?}, not {expected:?}")) }
    })
    .await;
}

async fn in_step(shape: impl FnOnce(Pipeline) -> Pipeline) -> Scene {
    let scene = Scene::start_with(|pipeline| shape(pipeline.worker("reconcile: 2s"))).await;
    scene.znodes.put("/settings/changed", "first").await;
    scene.znodes.put("/settings/other", "first").await;
    scene.in_step(LIVE).await;
    scene.at_rest().await;
    scene
}

/// A value and a new pair are recorded and refused, and taken back while no worker runs.
async fn taken_back(flow: &str, is_killed: bool) {
    let mut scene = in_step(|pipeline| pipeline.flow(flow)).await;
    scene.redis.run::<()>(REFUSE).await;
    scene.znodes.put("/settings/changed", "second").await;
    scene.znodes.put("/settings/made", "first").await;
    newest_becomes(&scene, "settings:changed", Some("second")).await;
    newest_becomes(&scene, "settings:made", Some("first")).await;
    if is_killed {
        scene.keepstep.kill9();
    } else {
        assert_eq!(scene.keepstep.terminate().await, Some(0));
    }
    scene.znodes.put("/settings/changed", "first").await;
    scene.znodes.delete("/settings/made").await;
    scene.redis.run::<()>(ACCEPT).await;
    scene.run().await;
    scene.in_step(LIVE).await;
    newest_becomes(&scene, "settings:changed", Some("first")).await;
    newest_becomes(&scene, "settings:made", None).await;
    // A replay changes nothing then.
    scene.keepstep.command("replay", &["--to", "cache", "--yes"]).await.expect(0);
    scene.in_step(LIVE).await;
    assert_eq!(scene.znodes.text("/settings/changed").await.as_deref(), Some("first"));
    assert_eq!(scene.znodes.text("/settings/made").await, None);
    assert_eq!(scene.text("settings:made").await, None);
}

#[tokio::test]
async fn what_was_recorded_and_is_taken_back_after_a_stop_is_taken_back_on_the_stream() {
    taken_back("zk <-> cache", false).await;
}

#[tokio::test]
async fn what_was_recorded_and_is_taken_back_after_a_kill_is_taken_back_on_the_stream() {
    taken_back("zk <-> cache", true).await;
    taken_back("zk -> cache", true).await;
}

/// The route is away for one start.
#[tokio::test]
async fn what_was_recorded_and_is_taken_back_while_its_route_is_away_is_taken_back_on_the_stream() {
    let mut scene = in_step(|pipeline| pipeline).await;
    scene.redis.run::<()>(REFUSE).await;
    scene.znodes.put("/settings/changed", "second").await;
    newest_becomes(&scene, "settings:changed", Some("second")).await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    scene.znodes.put("/settings/changed", "first").await;
    scene.redis.run::<()>(ACCEPT).await;
    let file = Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url()).worker("reconcile: 2s");
    scene.keepstep.rewrite(file.clone().matches("{zk: /others/**, cache: \"others:**\"}"));
    scene.run().await;
    scene.at_rest().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    scene.keepstep.rewrite(file);
    scene.run().await;
    newest_becomes(&scene, "settings:changed", Some("first")).await;
}

/// The session is lost while the worker is frozen: another ownership begins in the same process.
#[tokio::test]
async fn what_was_recorded_and_is_taken_back_over_a_lost_session_is_taken_back_on_the_stream() {
    let mut scene = in_step(|pipeline| pipeline).await;
    scene.redis.run::<()>(REFUSE).await;
    scene.znodes.put("/settings/changed", "second").await;
    newest_becomes(&scene, "settings:changed", Some("second")).await;
    scene.keepstep.freeze();
    scene.znodes.put("/settings/changed", "first").await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    scene.redis.run::<()>(ACCEPT).await;
    scene.keepstep.thaw();
    scene.in_step(LIVE).await;
    newest_becomes(&scene, "settings:changed", Some("first")).await;
}

/// The snapshot of a disk: the stream is one of the same ownership, and lacks what came after it.
#[tokio::test]
async fn a_data_folder_that_came_back_older_is_told_from_the_one_of_now() {
    let mut scene = in_step(|pipeline| pipeline).await;
    scene.keepstep.freeze();
    let copy = tempfile::tempdir().unwrap();
    copy_all(scene.keepstep.data(), copy.path());
    scene.keepstep.thaw();
    scene.znodes.put("/settings/changed", "second").await;
    scene.znodes.delete("/settings/other").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.at_rest().await;
    // What is written is remembered every two seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.keepstep.kill9();
    fs::remove_dir_all(scene.keepstep.data()).unwrap();
    copy_all(copy.path(), scene.keepstep.data());
    scene.run().await;
    scene.in_step(LIVE).await;
    newest_becomes(&scene, "settings:changed", Some("second")).await;
    newest_becomes(&scene, "settings:other", None).await;
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_all(&entry.path(), &place),
            kind if kind.is_file() => {
                fs::copy(entry.path(), place).unwrap();
            }
            // A socket is made anew.
            _ => {}
        }
    }
}

/// One bit of the pair's newest record.
#[tokio::test]
async fn a_record_that_was_cut_out_of_the_stream_is_told_again() {
    let mut scene = in_step(|pipeline| pipeline).await;
    scene.znodes.put("/settings/changed", "a value that is found again").await;
    scene.znodes.put("/settings/other", "second").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    let stream = scene.keepstep.data().join("settings/stream");
    let mut damaged = 0;
    for file in fs::read_dir(stream).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&file).unwrap();
        let wanted = b"a value that is found again";
        if let Some(at) = bytes.windows(wanted.len()).rposition(|window| window == wanted) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    scene.run().await;
    scene.in_step(LIVE).await;
    newest_becomes(&scene, "settings:changed", Some("a value that is found again")).await;
}

/// Redis is away for a while, and what expires meanwhile has expired: that it could not remember how far the ensemble has come makes it no
/// older one.
#[tokio::test]
async fn what_expires_while_redis_is_away_and_the_ensemble_changes_has_expired() {
    let mut scene = Scene::prepare(&["--appendonly", "yes", "--appendfsync", "always"], |pipeline| {
        pipeline.worker("reconcile: 2s")
    })
    .await;
    scene.run().await;
    for number in 0..5 {
        scene.redis.run::<()>(&format!("SET settings:session:{number} alive PX 9000")).await;
    }
    scene.znodes.put("/settings/other", "first").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.at_rest().await;
    scene.redis.stop().await;
    for number in 0..11 {
        scene.znodes.put("/settings/other", format!("{number}")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    scene.keepstep.kill9();
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    scene.run().await;
    for number in 0..5 {
        scene.znode_becomes(&format!("/settings/session/{number}"), None).await;
        assert_eq!(scene.text(format!("settings:session:{number}")).await, None);
    }
    scene.key_becomes("settings:other", Some("10")).await;
    let losses = scene.keepstep.changes().await.into_iter().filter(|change| !change["loss"].is_null()).count();
    assert_eq!(losses, 0, "nothing was lost:\n{}", scene.keepstep.log());
}
