//! What a store lost is told once: a line in the log, a marker on the stream, a count, each with its cause and its pairs.

use crate::support::{LIVE, Scene, eventually, eventually_is, never};
use serde_json::{Value, json};
use std::time::Duration;

/// Pairs in step at the beginning.
const PAIRS: usize = 210;

async fn filled(redis: &[&str], flow: &str) -> Scene {
    let mut scene = Scene::prepare(redis, |pipeline| pipeline.flow(flow)).await;
    scene.run().await;
    for number in 0..PAIRS {
        if flow.starts_with("cache") {
            scene.set(format!("settings:{number}"), "v").await;
        } else {
            scene.znodes.put(&format!("/settings/{number}"), "v").await;
        }
    }
    scene.in_step(LIVE).await;
    scene
}

/// The losses on the stream.
async fn markers(scene: &Scene) -> Vec<Value> {
    let changes = scene.keepstep.changes().await;
    changes
        .into_iter()
        .filter(|change| change["op"] == "m")
        .map(|change| change["loss"].clone())
        .filter(|it| !it.is_null())
        .collect()
}

/// There is one loss more than before, this one; everything that tells of losses tells of it.
async fn told(scene: &Scene, before: usize, loss: Value) {
    eventually("the loss is on the stream", LIVE, async || {
        let found = markers(scene).await;
        if found.len() > before { Ok(()) } else { Err(format!("{found:?}\n{}", scene.keepstep.log())) }
    })
    .await;
    let found = markers(scene).await;
    assert_eq!(found.get(before..), Some(&[loss.clone()][..]), "{found:?}");
    let (store, cause) = (loss["store"].as_str().unwrap(), loss["cause"].as_str().unwrap());
    let lines = scene.keepstep.log();
    let lines: Vec<&str> = lines.lines().filter(|line| line.contains("has lost data")).collect();
    let last = lines.last().copied().unwrap_or_default();
    assert_eq!(lines.len(), before + 1, "{lines:?}");
    for part in [format!("cause=\"{cause}\""), format!("pairs={}", loss["pairs"]), format!("store=\"{store}\"")] {
        assert!(last.contains(&part), "{part} is not in {last}");
    }
    let labels = format!("store=\"{store}\",cause=\"{cause}\"");
    assert!(scene.keepstep.metric("keepstep_losses_total", &labels).await >= 1.0, "{labels}");
    assert_eq!(scene.keepstep.metric("keepstep_losses_total", "").await, (before + 1) as f64);
    assert_eq!(scene.keepstep.json("status", &[]).await[0]["losses"], json!(before + 1));
}

fn loss(store: &str, cause: &str, pairs: usize) -> Value {
    json!({"store": store, "cause": cause, "pairs": pairs})
}

#[tokio::test]
async fn a_flush_is_told_with_its_pairs_whatever_the_flow() {
    for flow in ["zk <-> cache", "zk -> cache", "cache -> zk"] {
        let scene = filled(&[], flow).await;
        scene.redis.run::<()>("FLUSHALL").await;
        told(&scene, 0, loss("cache", "flushed", PAIRS)).await;
        if flow.starts_with("zk") {
            scene.in_step(LIVE).await;
        }
        let deletes = scene.keepstep.changes().await.iter().filter(|change| change["op"] == "d").count();
        assert_eq!((deletes, scene.znodes.tree("/settings").await.len()), (0, PAIRS), "{flow}");
    }
}

#[tokio::test]
async fn what_a_paused_route_lost_is_told_when_it_goes_on_and_once_does_not_pass_it_over() {
    let mut scene = filled(&[], "zk <-> cache").await;
    scene.keepstep.command("pause", &["--for", "1h"]).await.expect(0);
    scene.route_becomes("paused").await;
    let note = scene.keepstep.json("status", &[]).await[0]["note"].clone();
    let note = note.as_str().unwrap_or_default();
    assert!(note.contains("until 2") && note.contains("or `keepstep resume`"), "when it goes on is not told: {note}");
    scene.redis.run::<()>("FLUSHALL").await;
    let compared = scene.keepstep.metric("keepstep_comparisons_total", "").await;
    eventually("two comparisons pass the paused route", LIVE, async || {
        let now = scene.keepstep.metric("keepstep_comparisons_total", "").await;
        if now >= compared + 2.0 { Ok(()) } else { Err(format!("{now} after {compared}")) }
    })
    .await;
    assert_eq!(markers(&scene).await, Vec::<Value>::new(), "nothing was compared yet");
    scene.keepstep.command("resume", &[]).await.expect(0);
    told(&scene, 0, loss("cache", "flushed", PAIRS)).await;
    scene.in_step(LIVE).await;

    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    scene.keepstep.terminate().await;
    let ended = scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(1);
    assert!(ended.stdout.contains("paused, and not looked at"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_flush_of_what_is_not_ours_is_no_loss() {
    let scene = filled(&[], "zk <-> cache").await;
    let mut other = scene.client.clone();
    let mut unit = redis::pipe();
    unit.cmd("SELECT").arg(1).cmd("SET").arg("a").arg("b").cmd("FLUSHDB").cmd("SELECT").arg(0);
    unit.exec_async(&mut other).await.unwrap();
    never("it is told", Duration::from_secs(3), async || {
        let found = markers(&scene).await;
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_flush_while_no_worker_ran_is_told_by_the_next_one_and_a_restart_tells_nothing() {
    let mut scene = filled(&[], "zk <-> cache").await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    scene.keepstep.restart().await;
    told(&scene, 0, loss("cache", "flushed", PAIRS)).await;
    scene.in_step(LIVE).await;
    let records = async |scene: &Scene| {
        let changes = scene.keepstep.changes().await;
        // On a busy machine there may be a gap.
        changes.iter().filter(|change| change["gap"].is_null()).count()
    };
    let before = records(&scene).await;
    scene.keepstep.terminate().await;
    scene.keepstep.restart().await;
    assert_eq!(records(&scene).await, before, "a restart puts nothing on the stream");
}

#[tokio::test]
async fn a_redis_that_comes_back_with_an_older_data_set_is_told() {
    let mut scene = filled(&[], "zk <-> cache").await;
    scene.save().await;
    for number in 0..7 {
        scene.znodes.put(&format!("/settings/{number}"), "later").await;
    }
    for number in 0..5 {
        scene.znodes.put(&format!("/settings/new-{number}"), "later").await;
    }
    scene.in_step(LIVE).await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    told(&scene, 0, loss("cache", "replaced", 12)).await;
    scene.in_step(LIVE).await;
}

#[tokio::test]
async fn a_redis_that_was_restarted_and_kept_everything_has_lost_nothing() {
    let mut scene = filled(&[], "zk <-> cache").await;
    scene.save().await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    scene.settle().await;
    never("a loss is told", Duration::from_secs(3), async || {
        let found = markers(&scene).await;
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn evictions_are_told_together() {
    let scene = filled(&[], "zk <-> cache").await;
    scene.redis.run::<()>("CONFIG SET maxmemory-policy allkeys-random").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 1mb").await;
    let _ = scene.redis.try_run::<()>("SET elsewhere:a 1").await;
    let left = scene.redis.run::<Vec<String>>("KEYS settings:*").await.len();
    assert!(left < PAIRS, "nothing was evicted: {left} keys are left");
    scene.redis.run::<()>("CONFIG SET maxmemory 0").await;
    scene.in_step(LIVE).await;
    eventually("the loss is told", LIVE, async || {
        let found = markers(&scene).await;
        match found.as_slice() {
            [one] if one["cause"] == "evicted" && one["pairs"] == json!(PAIRS - left) => Ok(()),
            _ => Err(format!("{} were evicted, and there is {found:?}\n{}", PAIRS - left, scene.keepstep.log())),
        }
    })
    .await;
}

#[tokio::test]
async fn an_ensemble_that_comes_back_empty_or_older_is_told() {
    let mut scene = filled(&[], "zk <-> cache").await;
    scene.settle().await;
    scene.at_rest().await;
    let pairs = PAIRS + 1;
    scene.zookeeper.restart_empty().await;
    scene.znodes = scene.zookeeper.client().await;
    told(&scene, 0, loss("zk", "emptied", pairs)).await;
    scene.in_step(LIVE).await;
    let backup = scene.zookeeper.back_up();
    scene.zookeeper.restart().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.settle().await;
    for number in 0..6 {
        scene.znodes.put(&format!("/settings/late-{number}"), "late").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.at_rest().await;
    scene.zookeeper.restart_from(&backup).await;
    scene.znodes = scene.zookeeper.client().await;
    eventually("the loss is told", LIVE, async || {
        let found = markers(&scene).await;
        // `settle` changes a pair as well.
        if found.len() == 2 && found[1] == loss("zk", "older", 7) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    scene.in_step(LIVE).await;
}

#[tokio::test]
async fn a_capture_tells_what_redis_lost_and_never_takes_it_for_deleted() {
    let mut scene = Scene::start_with(|pipeline| pipeline.capture_redis().worker("reconcile: 1s")).await;
    for number in 0..9 {
        scene.set(format!("settings:{number}"), "v").await;
    }
    let ops = async |scene: &Scene, op: &str| {
        scene.keepstep.changes().await.iter().filter(|change| change["op"] == op).count()
    };
    eventually_is("changes on the stream", LIVE, 9, async || ops(&scene, "c").await).await;
    let compared = async |scene: &Scene| {
        let before = scene.keepstep.metric("keepstep_comparisons_total", "").await;
        eventually("three comparisons end", LIVE, async || {
            let now = scene.keepstep.metric("keepstep_comparisons_total", "").await;
            if now >= before + 3.0 { Ok(()) } else { Err(format!("{now} after {before}")) }
        })
        .await;
    };
    scene.redis.run::<()>("FLUSHALL").await;
    told(&scene, 0, loss("cache", "flushed", 9)).await;
    compared(&scene).await;
    scene.set("settings:0", "back").await;
    eventually_is("updates on the stream", LIVE, 1, async || ops(&scene, "u").await).await;
    scene.redis.restart_empty().await;
    scene.client = scene.redis.client().await;
    told(&scene, 1, loss("cache", "replaced", 1)).await;
    compared(&scene).await;
    assert_eq!(ops(&scene, "d").await, 0, "a loss is never a delete");
    scene.set("settings:1", "back").await;
    eventually_is("updates on the stream", LIVE, 2, async || ops(&scene, "u").await).await;
    scene.del("settings:1").await;
    eventually_is("deletes on the stream", LIVE, 1, async || ops(&scene, "d").await).await;
}
