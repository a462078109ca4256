//! Cases 46 to 59 that are not in `silent_loss.rs` and `losses.rs`: events and data that went without a word.

use super::case::Case;
use crate::support::{Keepstep, LIVE, Pipeline, Proxy, Redis, Scene, eventually, eventually_is};
use std::time::Duration;

/// `worker.reconcile` of these tests and the 30 s that the contract adds to it.
const RESTORED: Duration = Duration::from_secs(32);

/// The subscription breaks, and keys are set and deleted before there is another: nothing of it is missed.
#[tokio::test]
async fn pubsub_gap() {
    let case = Case::start("pubsub_gap").await;
    for name in ["set", "deleted", "untouched"] {
        case.in_step(name, "0").await;
    }
    case.settle().await;
    case.to_redis.cut();
    case.set("set", "1").await;
    case.del("deleted").await;
    case.set("new", "1").await;
    case.put("from zk", "1").await;
    case.to_redis.heal();
    for (name, wanted) in
        [("set", Some("1")), ("deleted", None), ("new", Some("1")), ("from zk", Some("1")), ("untouched", Some("0"))]
    {
        case.becomes(name, wanted).await;
    }
    case.no_conflict().await;
    let gaps = case.keepstep.metric("keepstep_gaps_total", "").await;
    assert!(gaps >= 1.0, "the gap is counted");
}

/// The recorded time of expiry decides what nobody saw.
#[tokio::test]
async fn expired_key_missed_event() {
    for (name, rule, znode) in [
        ("expired_key_missed_event", "propagate", None),
        ("expired_key_missed_event_kept", "keep", Some("1".to_owned())),
    ] {
        let rules = |pipeline: Pipeline| pipeline.route(&format!("on_expire: {rule}")).session_timeout("2s");
        let mut case = Case::start_with(name, rules).await;
        case.redis("SET $a 1 PX 2500").await;
        case.becomes("a", Some("1")).await;
        case.in_step("b", "1").await;
        case.settle().await;
        case.keepstep.kill9();
        eventually_is("the key", LIVE, None, async || case.held("a").await[1].clone()).await;
        case.restart().await;
        case.settle().await;
        eventually_is("znode and key", LIVE, [znode, None], async || case.held("a").await).await;
        case.becomes("b", Some("1")).await;
        case.no_conflict().await;
    }
}

/// A replica takes over that had not been told of the last writes: they are restored, and none of them becomes a delete.
#[tokio::test]
async fn failover_lost_write() {
    let (zookeeper, old, new) = tokio::join!(
        crate::support::ZooKeeper::start(),
        Redis::start(),
        Redis::start_with(&["--repl-diskless-sync-delay", "0"])
    );
    let to_redis = Proxy::start(old.address());
    let url = format!("redis://{}/0", to_redis.address());
    let keepstep = Keepstep::run(Pipeline::two_way(zookeeper.connect_string(), url).worker("reconcile: 2s")).await;
    let (znodes, client) = tokio::join!(zookeeper.client(), old.client());
    let mut scene = Scene { redis: old, zookeeper, znodes, client, keepstep };
    for number in 0..20 {
        scene.set(format!("settings:{number}"), "old").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    new.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", scene.redis.address().port())).await;
    eventually("the replica has it all", LIVE, async || match new.run::<Vec<String>>("KEYS settings:*").await.len() {
        21 => Ok(()),
        other => Err(format!("{other} keys")),
    })
    .await;
    // Cut off from the primary, which goes on taking writes that are carried to ZooKeeper.
    new.run::<()>("REPLICAOF NO ONE").await;
    for number in 0..5 {
        scene.set(format!("settings:{number}"), "acknowledged and lost").await;
        scene.znodes.put(&format!("/settings/{}", 5 + number), "from zk").await;
        scene.set(format!("settings:{}", 20 + number), "created and lost").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    to_redis.lead_to(new.address());
    scene.redis = new;
    scene.client = scene.redis.client().await;
    scene.in_step(RESTORED).await;
    for (number, wanted) in [(0, "acknowledged and lost"), (5, "from zk"), (20, "created and lost"), (15, "old")] {
        assert_eq!(scene.text(format!("settings:{number}")).await.as_deref(), Some(wanted), "{number}");
        assert_eq!(scene.znodes.text(&format!("/settings/{number}")).await.as_deref(), Some(wanted), "{number}");
    }
    scene.settle().await;
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "a loss is not a delete: {changes:?}");
}

/// Another ensemble in the place of the old one, whose zxids have come to the same numbers: what it holds is other data, nothing
/// of it is taken for what the bases say, and every value that is replaced is in the log.
#[tokio::test]
async fn ensemble_rebuilt_reused_zxids() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").session_timeout("2s")).await;
    for number in 0..20 {
        scene.znodes.put(&format!("/settings/{number}"), format!("old {number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    let reached = scene.znodes.stat("/settings/settle").await.mzxid;
    let agreed = scene.znodes.stat("/settings/3").await;
    scene.keepstep.kill9();
    scene.zookeeper.restart_empty().await;
    scene.znodes = scene.zookeeper.client().await;
    // The other data, with the very zxids and versions that bases know, and on beyond all of them.
    for number in 0..10 {
        scene.znodes.put(&format!("/settings/{number}"), format!("other {number}")).await;
    }
    assert_eq!(scene.znodes.stat("/settings/3").await.version, agreed.version);
    let mut last = 0;
    while last <= reached {
        scene.znodes.put("/settings/other", "x").await;
        last = scene.znodes.stat("/settings/other").await.mzxid;
    }
    scene.keepstep.restart().await;
    scene.in_step(RESTORED).await;
    scene.settle().await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    for number in 0..10 {
        let held = scene.text(format!("settings:{number}")).await;
        for value in [format!("old {number}"), format!("other {number}")] {
            let is_logged = conflicts.iter().any(|row| row["zk"] == value.as_str() || row["cache"] == value.as_str());
            assert!(
                held.as_ref() == Some(&value) || is_logged,
                "{number} holds {held:?}; {value} is nowhere: {conflicts:?}"
            );
        }
    }
    for number in 10..20 {
        let wanted = Some(format!("old {number}"));
        assert_eq!(scene.znodes.text(&format!("/settings/{number}")).await, wanted);
        assert_eq!(scene.text(format!("settings:{number}")).await, wanted);
    }
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "a loss is not a delete: {changes:?}");
}

/// Redis goes back to an older data set between what was read of it and the script: the script finds another base and writes
/// nothing, and what went back is restored.
#[tokio::test]
async fn rollback_between_read_and_lua() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").session_timeout("10s")).await;
    for name in ["a", "b", "c"] {
        scene.set(format!("settings:{name}"), "1").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.save().await;
    let backup = scene.redis.back_up();
    let mut older = Redis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    older.restart_from(&backup).await;
    assert_eq!(older.run::<Option<String>>("GET settings:a").await.as_deref(), Some("1"));
    for name in ["a", "b"] {
        scene.set(format!("settings:{name}"), "2").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.arm_stop("c4-observed");
    scene.znodes.put("/settings/a", "3").await;
    scene.keepstep.stopped(LIVE).await;
    // The same server, the same connections, an older data set of this very pipeline.
    let redis = &scene.redis;
    redis.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", older.address().port())).await;
    eventually_is("the key", LIVE, Some("1".to_owned()), async || scene.text("settings:b").await).await;
    redis.run::<()>("REPLICAOF NO ONE").await;
    scene.keepstep.thaw();
    scene.in_step(RESTORED).await;
    for (name, wanted) in [("a", "3"), ("b", "2"), ("c", "1")] {
        assert_eq!(scene.text(format!("settings:{name}")).await.as_deref(), Some(wanted), "{name}");
        assert_eq!(scene.znodes.text(&format!("/settings/{name}")).await.as_deref(), Some(wanted), "{name}");
    }
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "a loss is not a delete: {changes:?}");
}

/// Everything is flushed and the application goes on writing at once: what it wrote is there or in the log, the rest is restored.
#[tokio::test]
async fn flush_then_app_writes() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    for number in 0..20 {
        scene.set(format!("settings:{number}"), "before").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    for live in [true, false] {
        if !live {
            scene.keepstep.freeze();
        }
        scene.redis.run::<()>("FLUSHALL").await;
        let word = format!("after, live {live}");
        for number in 0..5 {
            scene.set(format!("settings:{number}"), &word).await;
        }
        scene.set(format!("settings:new:{live}"), &word).await;
        if !live {
            scene.keepstep.thaw();
        }
        scene.in_step(RESTORED).await;
        scene.settle().await;
        scene.in_step(LIVE).await;
        assert_eq!(scene.znodes.text(&format!("/settings/new/{live}")).await.as_ref(), Some(&word));
        let conflicts = scene.keepstep.json("conflicts", &[]).await;
        for number in 0..20 {
            let key = format!("settings:{number}");
            let held = scene.text(&key).await;
            assert!(held.is_some(), "{key} is gone");
            if number < 5 {
                let is_logged =
                    conflicts.iter().any(|row| row["pair"]["cache"] == key.as_str() && row["cache"] == word.as_str());
                assert!(
                    held.as_ref() == Some(&word) || is_logged,
                    "{key} holds {held:?}, {word} is nowhere: {conflicts:?}"
                );
            } else {
                assert_eq!(held.as_deref(), Some("before"), "{key}");
            }
        }
    }
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "a loss is not a delete: {changes:?}");
}
