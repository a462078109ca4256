//! One write of ours for each change that takes effect, counted by the servers; none once there is nothing to carry.

use crate::support::{LIVE, Scene, Writes, eventually_is};
use std::time::Duration;

const PAIRS: usize = 200;
/// Longer than anything that Keepstep does at intervals by default, the comparison (60 s) at the shorter interval of the test.
const QUIET: Duration = Duration::from_secs(60);

fn path(pair: usize) -> String {
    format!("/settings/{pair}")
}

fn key(pair: usize) -> String {
    format!("settings:{pair}")
}

/// What the servers and the worker have counted so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    /// By the worker.
    to_redis: u64,
    to_zookeeper: u64,
    /// SET and DEL that Redis has served, those of scripts included.
    sets: u64,
    deletes: u64,
}

async fn calls(scene: &Scene, command: &str) -> u64 {
    let line = scene.redis.info(&format!("cmdstat_{command}")).await;
    let calls = line.split(',').find_map(|field| field.strip_prefix("calls=")?.parse().ok());
    calls.unwrap_or(0)
}

impl Counted {
    async fn now(scene: &Scene) -> Counted {
        let of = async |store: &str| {
            let written = scene.keepstep.metric("keepstep_writes_total", &format!("store=\"{store}\"")).await;
            format!("{written:.0}").parse().unwrap()
        };
        Counted {
            to_redis: of("cache").await,
            to_zookeeper: of("zk").await,
            sets: calls(scene, "set").await,
            deletes: calls(scene, "del").await,
        }
    }
}

/// One wave from each side and of each kind: each pair is changed once, and everything arrives before the next wave.
async fn waves(scene: &Scene) {
    // The claim on the range is renewed by SET; it must not be counted among the values.
    let mut claims = 0;
    for wave in ["created", "set", "set again"] {
        let before = Counted::now(scene).await;
        for pair in 0..PAIRS {
            scene.znodes.put(&path(pair), format!("{wave}-{pair}")).await;
        }
        scene.in_step(LIVE).await;
        eventually_is("writes to Redis", LIVE, before.to_redis + PAIRS as u64, async || {
            Counted::now(scene).await.to_redis
        })
        .await;
        let after = Counted::now(scene).await;
        assert_eq!(after.to_zookeeper, before.to_zookeeper, "{wave}: an echo was written");
        let sets = after.sets - before.sets;
        claims += sets - PAIRS as u64;
        assert!(claims < 50, "{wave}: {sets} SETs for {PAIRS} changes, {claims} too many in all");
    }
    for wave in 1..=3 {
        let before = Counted::now(scene).await;
        for pair in 0..PAIRS {
            scene.set(key(pair), format!("from redis {wave}-{pair}")).await;
        }
        scene.in_step(LIVE).await;
        eventually_is("writes to ZooKeeper", LIVE, before.to_zookeeper + PAIRS as u64, async || {
            Counted::now(scene).await.to_zookeeper
        })
        .await;
        let after = Counted::now(scene).await;
        assert_eq!(after.to_redis, before.to_redis, "wave {wave}: an echo was written");
        for pair in 0..PAIRS {
            let version = scene.znodes.stat(&path(pair)).await.version;
            // Created and set twice by the application, then set once a wave by us.
            assert_eq!(version, 2 + wave, "{}: set more than once", path(pair));
        }
    }
    let before = Counted::now(scene).await;
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            scene.znodes.delete(&path(pair)).await;
        } else {
            scene.del(key(pair)).await;
        }
    }
    scene.in_step(LIVE).await;
    let half = PAIRS as u64 / 2;
    let wanted = (before.to_redis + half, before.to_zookeeper + half, before.deletes + 2 * half);
    eventually_is("deletes on both sides", LIVE, wanted, async || {
        let now = Counted::now(scene).await;
        (now.to_redis, now.to_zookeeper, now.deletes)
    })
    .await;
}

#[tokio::test]
async fn each_change_costs_one_write() {
    let scene = Scene::start().await;
    waves(&scene).await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(conflicts.is_empty(), "{conflicts:?}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn without_caches_each_change_still_costs_one_write() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.keepstep = scene.keepstep.variable("KEEPSTEP_SWITCH_OFF", "caches");
    scene.run().await;
    waves(&scene).await;
    let (hits, misses) = (
        scene.keepstep.metric("keepstep_cache_hits_total", "").await,
        scene.keepstep.metric("keepstep_cache_misses_total", "").await,
    );
    assert!(hits == 0.0 && misses > 0.0, "the caches were not off: {hits} hits, {misses} misses");
}

/// The newest transaction of the ensemble.
async fn zxid(scene: &Scene) -> String {
    let answer = scene.zookeeper.four_letters("srvr").await;
    answer.lines().find_map(|line| line.strip_prefix("Zxid: ")).unwrap().to_owned()
}

#[tokio::test]
async fn a_quiet_pipeline_writes_nothing_however_often_it_compares() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 1s")).await;
    for pair in 0..PAIRS / 2 {
        scene.znodes.put(&path(pair), format!("z{pair}")).await;
        scene.set(key(PAIRS / 2 + pair), format!("r{pair}")).await;
    }
    scene.set("settings:expires", "later").await;
    scene.redis.run::<()>("PEXPIRE settings:expires 600000").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    let compared = async || scene.keepstep.metric("keepstep_comparisons_total", "").await;
    // What is still under way ends within one comparison.
    let begun = compared().await;
    eventually_is("a comparison", LIVE, true, async || compared().await >= begun + 2.0).await;

    let writes = Writes::watch(&scene).await;
    let (counted, newest, begun) = (Counted::now(&scene).await, zxid(&scene).await, compared().await);
    tokio::time::sleep(QUIET).await;
    let comparisons = compared().await - begun;
    assert!(comparisons >= 20.0, "several comparisons fell into the time: {comparisons}");
    assert_eq!(writes.seen(), Vec::<String>::new());
    assert_eq!(zxid(&scene).await, newest, "no transaction of any kind");
    let now = Counted::now(&scene).await;
    assert_eq!((now.to_redis, now.to_zookeeper), (counted.to_redis, counted.to_zookeeper));
}
