//! A stream that was left behind: another machine, or another stream of the same pipeline, had the changes meanwhile.

use crate::support::{Keepstep, LIVE, Pipeline, Place, Scene, eventually, never};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Far more than a worker needs that waits for the session of one that was killed.
const SOON: Duration = Duration::from_secs(40);

const CAUGHT_UP: &str = "which was left behind, is whole again";

/// Pairs of a scene whose worker has its stream at `place`, agreed on and on that stream; the worker has stopped.
async fn left(place: Place, pairs: &[(&str, &str)]) -> Scene {
    let mut scene =
        Scene::start_with(|pipeline| place.of(pipeline.session_timeout("4s").worker("reconcile: 2s"))).await;
    for (key, value) in pairs {
        scene.set(format!("settings:{key}"), value).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.terminate().await;
    scene
}

/// While this runs the pipeline is owned by a worker on another machine that has a stream of its own.
async fn elsewhere(scene: &Scene, change: impl AsyncFnOnce(&Scene)) {
    let file = std::fs::read_to_string(scene.keepstep.file()).unwrap();
    let own = Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url());
    scene.keepstep.rewrite(own.session_timeout("4s").worker("reconcile: 2s"));
    let mut other: Keepstep = scene.keepstep.another();
    other.start();
    other.wait_ready().await;
    change(scene).await;
    scene.settle().await;
    scene.in_step(LIVE).await;
    other.terminate().await;
    scene.keepstep.rewrite(file);
}

/// What the stream says last of each key.
async fn newest(scene: &Scene) -> BTreeMap<String, Value> {
    let changes = scene.keepstep.changes().await;
    let states = changes.iter().filter(|change| change["op"] != "m");
    states
        .filter_map(|change| Some((change["pair"]["cache"].as_str()?.to_owned(), change["after"].clone())))
        .filter(|(key, _)| key != "settings:settle")
        .collect()
}

async fn caught_up(scene: &Scene) {
    eventually("the stream is whole again", SOON, async || match scene.keepstep.log() {
        log if log.contains(CAUGHT_UP) => Ok(()),
        log => Err(log),
    })
    .await;
}

async fn an_owner_that_comes_back_records_what_changed_under_another_stream_however_often_it_is_killed(place: Place) {
    let pairs = [("same", "1"), ("redis", "1"), ("zk", "1"), ("gone", "1"), ("gone-zk", "1"), ("again", "1")];
    let mut scene = left(place, &pairs).await;
    elsewhere(&scene, async |scene| {
        scene.set("settings:redis", "2").await;
        scene.znodes.put("/settings/zk", "2").await;
        scene.del("settings:gone").await;
        scene.znodes.delete("/settings/gone-zk").await;
        scene.del("settings:again").await;
        scene.znode_becomes("/settings/again", None).await;
        scene.znode_becomes("/settings/gone", None).await;
        scene.key_becomes("settings:gone-zk", None).await;
        scene.set("settings:again", "2").await;
        scene.set("settings:new", "2").await;
        scene.znode_becomes("/settings/new", Some("2")).await;
        scene.znode_becomes("/settings/again", Some("2")).await;
        scene.key_becomes("settings:zk", Some("2")).await;
    })
    .await;
    assert_eq!(newest(&scene).await["settings:redis"], "1", "this stream was left behind");
    for point in ["c12-znodes-compared", "c12-all-compared"] {
        scene.keepstep.arm(point);
        scene.keepstep.start();
        scene.keepstep.abort(SOON).await;
        scene.keepstep.arm("");
    }
    scene.run().await;
    caught_up(&scene).await;
    let wanted = json!({
        "settings:again": "2", "settings:gone": null, "settings:gone-zk": null, "settings:new": "2",
        "settings:redis": "2", "settings:same": "1", "settings:zk": "2",
    });
    assert_eq!(json!(newest(&scene).await), wanted);
    let changes = scene.keepstep.changes().await;
    let of = |key: &str| -> Vec<String> {
        let ops = changes.iter().filter(|change| change["pair"]["cache"] == key);
        ops.map(|change| change["op"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((of("settings:same").len(), of("settings:redis").len()), (1, 2), "one record a pair that changed");
    assert_eq!((of("settings:gone").pop(), of("settings:zk").pop()), (Some("d".to_owned()), Some("u".to_owned())));
    let update = changes.iter().rev().find(|change| change["pair"]["cache"] == "settings:redis").unwrap();
    assert_eq!((&update["before"], &update["collapsed"]), (&json!("1"), &Value::Null));
    let rows = scene.keepstep.json("replay", &["--to", "cache", "--dry-run"]).await;
    let sum = rows.last().unwrap();
    assert_eq!((&sum["created"], &sum["updated"], &sum["deleted"]), (&json!(0), &json!(0), &json!(0)), "{rows:?}");
    // What follows is a start like any other.
    let states = |changes: &[Value]| changes.iter().filter(|change| change["op"] != "m").count();
    let before = states(&changes);
    scene.keepstep.terminate().await;
    scene.run().await;
    never("anything is recorded", Duration::from_secs(5), async || {
        let now = states(&scene.keepstep.changes().await);
        if now == before { Ok(()) } else { Err(format!("{before} records, then {now}")) }
    })
    .await;
    // The log is of all its lives.
    assert_eq!(scene.keepstep.log().matches(CAUGHT_UP).count(), 1, "nothing was left behind any more");
    scene.in_step(LIVE).await;
}

/// Removes everything below and the znode itself.
async fn wipe(scene: &Scene, root: &str) {
    let mut paths: Vec<String> = scene.znodes.tree(root).await.into_iter().map(|(path, _)| path).collect();
    paths.sort();
    for path in paths.iter().rev() {
        scene.znodes.delete(path).await;
    }
}

async fn what_both_stores_have_lost_is_no_delete_on_a_stream_that_was_left_behind(place: Place) {
    let mut scene = left(place, &[("a", "1"), ("b", "1")]).await;
    elsewhere(&scene, async |scene| scene.set("settings:a", "2").await).await;
    wipe(&scene, "/settings").await;
    wipe(&scene, "/_keepstep/settings").await;
    scene.redis.run::<()>("FLUSHALL").await;
    scene.keepstep.arm("c12-all-compared");
    scene.keepstep.start();
    scene.keepstep.abort(SOON).await;
    scene.keepstep.arm("");
    scene.run().await;
    caught_up(&scene).await;
    assert_eq!(json!(newest(&scene).await), json!({"settings:a": "1", "settings:b": "1"}));
    scene.keepstep.json("replay", &["--to", "cache"]).await;
    scene.znode_becomes("/settings/b", Some("1")).await;
}

async fn deletes_in_mass_wait_for_approval_before_they_go_on_a_stream_that_was_left_behind(place: Place) {
    let names: Vec<String> = (0..150).map(|number| format!("many:{number}")).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let mut scene = left(place, &pairs).await;
    elsewhere(&scene, async |scene| {
        for name in &names {
            scene.del(format!("settings:{name}")).await;
        }
    })
    .await;
    scene.run().await;
    scene.route_becomes("awaiting_approval").await;
    assert!(newest(&scene).await.values().all(|after| after == "1"), "none is recorded before it is approved");
    scene.keepstep.command("approve", &[]).await.expect(0);
    caught_up(&scene).await;
    let newest = newest(&scene).await;
    assert_eq!((newest.len(), newest.values().all(Value::is_null)), (150, true), "{newest:?}");
    scene.route_becomes("live").await;
}

#[tokio::test]
async fn a_put_back_tells_a_stream_that_was_left_behind_what_was_agreed_on_and_once_ends_when_it_is_whole() {
    let mut scene = Scene::start_with(|pipeline| pipeline.flow("zk -> cache").session_timeout("4s")).await;
    for path in ["/settings/put-back", "/settings/agreed"] {
        scene.znodes.put(path, "1").await;
    }
    scene.key_becomes("settings:put-back", Some("1")).await;
    scene.key_becomes("settings:agreed", Some("1")).await;
    scene.keepstep.terminate().await;
    let mut other = scene.keepstep.another();
    other.start();
    other.wait_ready().await;
    for path in ["/settings/put-back", "/settings/agreed"] {
        scene.znodes.put(path, "2").await;
    }
    scene.key_becomes("settings:put-back", Some("2")).await;
    scene.key_becomes("settings:agreed", Some("2")).await;
    other.terminate().await;
    scene.set("settings:put-back", "meddled").await;
    let once = scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(0);
    assert!(once.stderr.contains(CAUGHT_UP), "{}", once.stderr);
    assert_eq!(scene.text("settings:put-back").await.as_deref(), Some("2"));
    assert_eq!(json!(newest(&scene).await), json!({"settings:agreed": "2", "settings:put-back": "2"}));
    let again = scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(0);
    assert!(!again.stderr.contains(CAUGHT_UP), "{}", again.stderr);
}

on_both_streams!(
    an_owner_that_comes_back_records_what_changed_under_another_stream_however_often_it_is_killed,
    what_both_stores_have_lost_is_no_delete_on_a_stream_that_was_left_behind,
    deletes_in_mass_wait_for_approval_before_they_go_on_a_stream_that_was_left_behind,
);
