//! Redis restarts and has lost nothing while the sidecar of a write to ZooKeeper is on its way, and an application puts its keys back to
//! what they were before: that is no older state which came back, and goes to ZooKeeper as any other change.

use crate::support::{Keepstep, LIVE, Pipeline, Proxy, Scene, eventually_is, never};
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;

/// What only the request has that writes sidecars beside no key.
const SIDECARS: &[u8] = b"\r\n$1\r\nn\r\n";
/// What only the request has that leaves a milestone.
const MILESTONE: &[u8] = b"\r\nmilestone\r\n";
const FLOWS: [&str; 2] = ["zk <-> cache", "cache -> zk"];

/// One key was changed and another deleted; this request did not reach Redis, nor what would follow it. Beside it a copy of Redis from
/// just before.
async fn changed(flow: &str, swallowed: &[u8]) -> (Scene, Proxy, TempDir) {
    let mut scene = Scene::prepare(&["--appendonly", "yes", "--appendfsync", "always"], |pipeline| pipeline).await;
    let proxy = Proxy::start(scene.redis.address());
    let url = format!("redis://{}/0", proxy.address());
    let zookeeper = scene.zookeeper.connect_string();
    scene.keepstep = Keepstep::new(Pipeline::two_way(zookeeper, url).flow(flow).worker("reconcile: 2s"));
    scene.run().await;
    for key in ["settings:a", "settings:d"] {
        scene.set(key, "first").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.at_rest().await;
    let copy = scene.redis.back_up();
    proxy.swallow(swallowed);
    // In one step, so that one batch takes both.
    redis::pipe()
        .atomic()
        .cmd("SET")
        .arg("settings:a")
        .arg("later")
        .cmd("DEL")
        .arg("settings:d")
        .exec_async(&mut scene.client.clone())
        .await
        .unwrap();
    if swallowed == SIDECARS {
        scene.znode_becomes("/settings/a", Some("later")).await;
        scene.znode_becomes("/settings/d", None).await;
    }
    eventually_is("a request is swallowed", LIVE, true, async || proxy.has_swallowed()).await;
    (scene, proxy, copy)
}

/// [`changed`], and Redis was restarted; an application puts both back (`puts_back`) before the worker can reach Redis again.
async fn restarted(flow: &str, swallowed: &[u8], is_killed: bool, puts_back: bool) -> (Scene, Proxy) {
    let (mut scene, proxy, _) = changed(flow, swallowed).await;
    if is_killed {
        scene.keepstep.kill9();
    }
    proxy.cut();
    scene.redis.stop().await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    assert_eq!(scene.text("settings:a").await.as_deref(), Some("later"), "nothing is lost");
    assert_eq!(scene.text("settings:d").await, None, "nothing is lost");
    for key in ["settings:a", "settings:d"].iter().filter(|_| puts_back) {
        scene.set(key, "first").await;
    }
    proxy.heal();
    if is_killed {
        scene.keepstep.restart().await;
    }
    (scene, proxy)
}

/// What the stream tells of a key, oldest first.
async fn told(scene: &Scene, key: &str) -> Vec<(String, Option<String>)> {
    let told = scene.keepstep.json("tail", &["--from", "earliest", "--no-follow", "--key", key]).await;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    told.iter().map(|record| (text(&record["op"]).unwrap_or_default(), text(&record["after"]))).collect()
}

async fn is_carried(flow: &str, is_killed: bool) {
    let (scene, _proxy) = restarted(flow, SIDECARS, is_killed, true).await;
    for key in ["a", "d"] {
        scene.znode_becomes(&format!("/settings/{key}"), Some("first")).await;
        scene.key_becomes(&format!("settings:{key}"), Some("first")).await;
    }
    scene.settle().await;
    scene.at_rest().await;
    assert_eq!(scene.quarantined().await, Vec::<String>::new());
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(conflicts.is_empty(), "{flow}: {conflicts:?}");
    let record = |op: &str, after: Option<&str>| (op.to_owned(), after.map(str::to_owned));
    let a = [record("c", Some("first")), record("u", Some("later")), record("u", Some("first"))];
    assert_eq!(told(&scene, "settings:a").await, a, "{flow}: each change once");
    let d = [record("c", Some("first")), record("d", None), record("c", Some("first"))];
    assert_eq!(told(&scene, "settings:d").await, d, "{flow}: each change once");
}

#[tokio::test]
async fn what_is_put_back_after_a_restart_of_redis_that_lost_nothing_goes_to_zookeeper() {
    for flow in FLOWS {
        is_carried(flow, false).await;
    }
}

#[tokio::test]
async fn what_is_put_back_while_no_worker_runs_goes_to_zookeeper_by_what_the_journal_says() {
    for flow in FLOWS {
        is_carried(flow, true).await;
    }
}

/// Redis goes away between the look at a key and its milestone: what was read is looked at again before anything is written, since nobody
/// could tell an older data set from what an application wrote since.
#[tokio::test]
async fn nothing_is_written_to_zookeeper_before_its_milestone_is_in_redis() {
    for flow in FLOWS {
        for (is_killed, puts_back) in [(false, true), (false, false), (true, true)] {
            let (scene, _proxy) = restarted(flow, MILESTONE, is_killed, puts_back).await;
            let (a, d) = if puts_back { (Some("first"), Some("first")) } else { (Some("later"), None) };
            scene.settle().await;
            scene.at_rest().await;
            for (key, value) in [("a", a), ("d", d)] {
                scene.znode_becomes(&format!("/settings/{key}"), value).await;
                scene.key_becomes(&format!("settings:{key}"), value).await;
                let newest = async || told(&scene, &format!("settings:{key}")).await.pop().and_then(|(_, after)| after);
                if !is_killed {
                    eventually_is("the newest record", LIVE, value.map(str::to_owned), newest).await;
                }
            }
            assert_eq!(scene.quarantined().await, Vec::<String>::new());
            let conflicts = scene.keepstep.json("conflicts", &[]).await;
            assert!(conflicts.is_empty(), "{flow}: {conflicts:?}");
        }
    }
}

/// The copy is younger than the canary. What shows that it is an older data set is that it lacks the milestone that was left before
/// the write to ZooKeeper.
#[tokio::test]
async fn what_a_copy_from_just_before_a_write_brings_back_leaves_the_znode() {
    let (mut scene, proxy, copy) = changed("cache -> zk", SIDECARS).await;
    proxy.cut();
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    assert_eq!(scene.text("settings:a").await.as_deref(), Some("first"), "Redis is older");
    proxy.heal();
    eventually_is("both pairs are lost", LIVE, vec!["lost".to_owned(); 2], async || scene.quarantined().await).await;
    never("an older state is carried over", Duration::from_secs(5), async || {
        match (scene.znodes.text("/settings/a").await.as_deref(), scene.znodes.text("/settings/d").await) {
            (Some("later"), None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
