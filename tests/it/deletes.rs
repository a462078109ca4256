//! A delete of either side is carried over, seen or unseen; a loss of data never is.

use crate::support::{Ensemble, Keepstep, LIVE, Pipeline, Redis, Scene, Znodes, eventually, in_step, never};
use keepstep::change::Side;
use redis::aio::MultiplexedConnection;
use std::time::Duration;

/// Three servers, because one alone cannot show what a read may miss.
struct Trio {
    ensemble: Ensemble,
    _redis: Redis,
    znodes: Znodes,
    client: MultiplexedConnection,
    keepstep: Keepstep,
}

impl Trio {
    async fn start() -> Trio {
        let (ensemble, redis) = tokio::join!(Ensemble::start(), Redis::start());
        let (znodes, client) = tokio::join!(ensemble.client(), redis.client());
        let keepstep = Keepstep::run(Pipeline::two_way(ensemble.connect_string(), redis.url())).await;
        Trio { ensemble, _redis: redis, znodes, client, keepstep }
    }

    async fn fill(&mut self, count: usize) {
        for number in 0..count {
            self.set(number, "1").await;
        }
        self.in_step().await;
        self.has(count).await;
    }

    async fn set(&mut self, number: usize, value: &str) {
        redis::cmd("SET").arg(format!("settings:{number}")).arg(value).exec_async(&mut self.client).await.unwrap();
    }

    async fn del(&mut self, number: usize) {
        redis::cmd("DEL").arg(format!("settings:{number}")).exec_async(&mut self.client).await.unwrap();
    }

    async fn in_step(&self) {
        in_step(LIVE, self.znodes.clone(), self.client.clone()).await;
    }

    /// Both sides have exactly this many pairs, and stay so.
    async fn has(&self, count: usize) {
        let counts = async || {
            self.znodes.client().sync("/").await.map_err(|error| error.to_string())?;
            let znodes = self.znodes.tree("/settings").await.len();
            let keys: Vec<String> =
                redis::cmd("KEYS").arg("settings:*").query_async(&mut self.client.clone()).await.unwrap();
            if (znodes, keys.len()) == (count, count) {
                Ok(())
            } else {
                Err(format!("{znodes} znodes, {} keys", keys.len()))
            }
        };
        eventually(format!("{count} pairs on both sides"), LIVE, counts).await;
        never("a pair comes or goes", Duration::from_secs(1), counts).await;
    }
}

#[tokio::test]
async fn on_an_ensemble_deletes_of_either_side_are_carried_over_live_and_after_an_absence() {
    let mut trio = Trio::start().await;
    trio.fill(60).await;
    for number in 0..10 {
        trio.del(number).await;
        trio.znodes.delete(&format!("/settings/{}", 10 + number)).await;
    }
    trio.has(40).await;

    trio.keepstep.kill9();
    for number in 20..30 {
        trio.del(number).await;
        trio.znodes.delete(&format!("/settings/{}", 10 + number)).await;
    }
    trio.set(100, "new").await;
    trio.znodes.put("/settings/101", "new").await;
    trio.set(40, "changed").await;
    trio.keepstep.restart().await;

    trio.has(22).await;
    trio.in_step().await;
    assert_eq!(trio.znodes.text("/settings/40").await.as_deref(), Some("changed"));
}

#[tokio::test]
async fn on_an_ensemble_a_change_of_leader_loses_no_delete_and_invents_none() {
    let mut trio = Trio::start().await;
    trio.fill(40).await;
    let leader = trio.ensemble.leader().await;
    trio.ensemble.kill9(leader);
    for number in 0..10 {
        trio.del(number).await;
        trio.set(40 + number, "new").await;
        let path = format!("/settings/{}", 10 + number);
        eventually(format!("{path} is deleted"), LIVE, async || match trio.znodes.client().delete(&path, None).await {
            Ok(()) | Err(zookeeper_client::Error::NoNode) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }
    trio.has(30).await;
    trio.ensemble.restart(leader).await;
    trio.has(30).await;
    trio.in_step().await;
}

#[tokio::test]
async fn a_delete_that_was_seen_while_paused_is_carried_over_on_resume() {
    let scene = Scene::start().await;
    scene.set("settings:a", "1").await;
    scene.set("settings:b", "1").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    scene.del("settings:a").await;
    scene.znodes.delete("/settings/b").await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.znode_becomes("/settings/a", None).await;
    scene.key_becomes("settings:b", None).await;
}

/// What a new owner finds in the journal may be older than what it finds in the sidecars: the deletes of the first life
/// fill more than one slot, and the writes of the second life need only one.
#[tokio::test]
async fn a_pair_that_was_deleted_and_made_anew_is_the_new_one_to_the_next_owner() {
    let mut scene = Scene::start().await;
    for _ in 0..3 {
        many(&scene, 150).await;
    }
    let delete = many(&scene, 150).await;
    delete.exec_async(&mut scene.client.clone()).await.unwrap();
    eventually("the first life is over", LIVE, async || match scene.znodes.tree("/settings").await.len() {
        1 => Ok(()),
        other => Err(format!("{other} znodes")),
    })
    .await;
    let names: Vec<usize> = (0..150).step_by(5).collect();
    for name in &names {
        scene.set(format!("settings:{name}"), "second life").await;
        scene.znode_becomes(&format!("/settings/{name}"), Some("second life")).await;
    }
    scene.keepstep.kill9();
    for name in &names {
        scene.set(format!("settings:{name}"), "changed while away").await;
    }
    scene.keepstep.restart().await;
    scene.in_step(LIVE).await;
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<serde_json::Value>::new());
    for name in names {
        assert_eq!(scene.text(format!("settings:{name}")).await.as_deref(), Some("changed while away"), "{name}");
    }
}

/// The other way round: the writes of the first life fill slots that its deletes, one by one, leave as they are.
#[tokio::test]
async fn a_key_that_comes_back_with_its_old_value_while_no_worker_runs_is_a_new_key() {
    let mut scene = Scene::start().await;
    let _ = many(&scene, 150).await;
    let names: Vec<usize> = (0..150).step_by(5).collect();
    for name in &names {
        scene.del(format!("settings:{name}")).await;
        scene.znode_becomes(&format!("/settings/{name}"), None).await;
    }
    scene.keepstep.kill9();
    for name in &names {
        scene.set(format!("settings:{name}"), "1").await;
    }
    scene.keepstep.restart().await;
    scene.in_step(LIVE).await;
    for name in names {
        assert_eq!(scene.text(format!("settings:{name}")).await.as_deref(), Some("1"), "{name}");
    }
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn a_delete_that_is_kept_leaves_the_other_side_until_either_changes() {
    let scene = Scene::start_with(|pipeline| pipeline.route("on_delete: keep").worker("reconcile: 2s")).await;
    for name in ["a", "b", "c"] {
        scene.set(format!("settings:{name}"), "1").await;
        scene.znode_becomes(&format!("/settings/{name}"), Some("1")).await;
    }
    scene.settle().await;
    scene.del("settings:a").await;
    scene.del("settings:b").await;
    scene.znodes.delete("/settings/c").await;
    scene.settle().await;
    never("the kept side follows, or comes back", Duration::from_secs(5), async || {
        let now =
            (scene.znodes.text("/settings/a").await, scene.text("settings:a").await, scene.text("settings:c").await);
        if now == (Some("1".to_owned()), None, Some("1".to_owned())) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    scene.znodes.put("/settings/a", "2").await;
    scene.key_becomes("settings:a", Some("2")).await;
    scene.set("settings:b", "3").await;
    scene.znode_becomes("/settings/b", Some("3")).await;
    scene.set("settings:c", "4").await;
    scene.znode_becomes("/settings/c", Some("4")).await;
}

#[tokio::test]
async fn an_expiry_that_is_kept_leaves_the_znode_and_a_delete_still_goes_through() {
    let scene = Scene::start_with(|pipeline| pipeline.route("on_expire: keep").worker("reconcile: 2s")).await;
    scene.set("settings:a", "1").await;
    scene.set("settings:b", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.znode_becomes("/settings/b", Some("1")).await;
    scene.redis.run::<()>("PEXPIRE settings:a 500").await;
    scene.key_becomes("settings:a", None).await;
    scene.del("settings:b").await;
    scene.znode_becomes("/settings/b", None).await;
    never("the expired key's znode goes, or the key comes back", Duration::from_secs(5), async || {
        let now = (scene.znodes.text("/settings/a").await, scene.text("settings:a").await);
        if now == (Some("1".to_owned()), None) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    scene.znodes.put("/settings/a", "2").await;
    scene.key_becomes("settings:a", Some("2")).await;
}

async fn many(scene: &Scene, count: usize) -> redis::Cmd {
    let mut pipe = redis::pipe();
    let mut delete = redis::cmd("DEL");
    for number in 0..count {
        pipe.cmd("INCR").arg(format!("settings:{number}")).ignore();
        delete.arg(format!("settings:{number}"));
    }
    pipe.exec_async(&mut scene.client.clone()).await.unwrap();
    scene.in_step(LIVE).await;
    scene.settle().await;
    delete
}

#[tokio::test]
async fn deletes_in_mass_flow_when_they_are_seen() {
    let scene = Scene::start().await;
    let delete = many(&scene, 150).await;
    delete.exec_async(&mut scene.client.clone()).await.unwrap();
    eventually("the znodes are gone", LIVE, async || match scene.znodes.tree("/settings").await.len() {
        1 => Ok(()),
        other => Err(format!("{other} znodes")),
    })
    .await;
}

#[tokio::test]
async fn deletes_in_mass_that_nobody_saw_wait_for_approval() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    let delete = many(&scene, 150).await;
    scene.keepstep.kill9();
    delete.exec_async(&mut scene.client.clone()).await.unwrap();
    scene.set("settings:new", "flows all the same").await;
    scene.keepstep.restart().await;

    scene.route_becomes("awaiting_approval").await;
    scene.znode_becomes("/settings/new", Some("flows all the same")).await;
    never("a delete is carried out, or taken back", Duration::from_secs(5), async || {
        let now = (scene.znodes.tree("/settings").await.len(), scene.keys_by_path().await.len());
        if now == (152, 2) { Ok(()) } else { Err(format!("{now:?} znodes and keys")) }
    })
    .await;
    let status = &scene.keepstep.json("status", &[]).await[0];
    assert_eq!(status["routes"][0]["awaiting_approval"], 150, "{status}");

    scene.keepstep.command("approve", &[]).await.expect(0);
    eventually("the znodes are gone", LIVE, async || match scene.znodes.tree("/settings").await.len() {
        2 => Ok(()),
        other => Err(format!("{other} znodes")),
    })
    .await;
    scene.route_becomes("live").await;
}

#[tokio::test]
async fn deletes_in_mass_flow_when_the_guard_is_off() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("delete_guard: off").worker("reconcile: 2s")).await;
    let delete = many(&scene, 150).await;
    scene.keepstep.kill9();
    delete.exec_async(&mut scene.client.clone()).await.unwrap();
    scene.keepstep.restart().await;
    eventually("the znodes are gone", LIVE, async || match scene.znodes.tree("/settings").await.len() {
        1 => Ok(()),
        other => Err(format!("{other} znodes")),
    })
    .await;
}

/// Nobody sees the deletes of many pairs of this size on this side; more than a comparison can read at once are left to its rounds,
/// and are held like the others, also by a worker that is started again.
async fn mass_is_held(bytes: usize, side: Side, flow: &str) {
    const PAIRS: usize = 400;
    let flows = |pipeline: Pipeline| pipeline.flow(flow).worker("reconcile: 2s");
    let mut scene = Scene::start_with(flows).await;
    let names = || (0..PAIRS).map(|number| (format!("settings:{number}"), format!("/settings/{number}")));
    if flow == "zk -> cache" {
        for (_, path) in names() {
            scene.znodes.put(&path, &"v".repeat(bytes)).await;
        }
    } else {
        let mut pipe = redis::pipe();
        for (key, _) in names() {
            pipe.set(key, "v".repeat(bytes)).ignore();
        }
        pipe.exec_async(&mut scene.client.clone()).await.unwrap();
    }
    scene.in_step(LIVE).await;
    eventually("no pair is under way", LIVE, async || {
        let status = &scene.keepstep.json("status", &[]).await[0]["routes"][0];
        if status["pending"] == 0 && status["pairs"] == PAIRS { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    scene.keepstep.kill9();
    match side {
        Side::Zookeeper => {
            for (_, path) in names() {
                scene.znodes.delete(&path).await;
            }
        }
        Side::Redis => {
            let mut delete = redis::cmd("DEL");
            for (key, _) in names() {
                delete.arg(key);
            }
            delete.exec_async(&mut scene.client.clone()).await.unwrap();
        }
    }
    let left = async || match side {
        Side::Zookeeper => scene_keys(&scene.client).await,
        Side::Redis => scene.znodes.tree("/settings").await.len(),
    };
    for _ in 0..2 {
        scene.keepstep.restart().await;
        let waiting = eventually("all wait for approval", LIVE, async || {
            let status = &scene.keepstep.json("status", &[]).await[0]["routes"][0];
            let waits = status["awaiting_approval"] == PAIRS && status["state"] == "awaiting_approval";
            if waits { Ok(()) } else { Err(status.to_string()) }
        });
        waiting.await;
        never("a delete is carried out", Duration::from_secs(3), async || match left().await {
            PAIRS => Ok(()),
            other => Err(format!("{other} are left")),
        })
        .await;
        scene.keepstep.kill9();
    }
    scene.keepstep.restart().await;
    scene.route_becomes("awaiting_approval").await;
    // One that is seen flows.
    let kept = if side == Side::Zookeeper { "/settings/0" } else { "settings:0" };
    match side {
        Side::Zookeeper => {
            scene.znodes.put(kept, "seen").await;
            scene.key_becomes("settings:0", Some("seen")).await;
            scene.znodes.delete(kept).await;
            scene.key_becomes("settings:0", None).await;
        }
        Side::Redis => {
            scene.set(kept, "seen").await;
            scene.znode_becomes("/settings/0", Some("seen")).await;
            scene.del(kept).await;
            scene.znode_becomes("/settings/0", None).await;
        }
    }
    assert_eq!(left().await, PAIRS - 1);
    scene.keepstep.command("approve", &[]).await.expect(0);
    eventually("all are gone", LIVE, async || match left().await {
        0 => Ok(()),
        other => Err(format!("{other} are left")),
    })
    .await;
    scene.route_becomes("live").await;
}

async fn scene_keys(client: &MultiplexedConnection) -> usize {
    let keys: Vec<String> = redis::cmd("KEYS").arg("settings:*").query_async(&mut client.clone()).await.unwrap();
    keys.len()
}

#[tokio::test]
async fn deletes_in_mass_of_large_znodes_that_nobody_saw_wait_for_approval() {
    mass_is_held(50_000, Side::Zookeeper, "zk <-> cache").await;
}

#[tokio::test]
async fn deletes_in_mass_of_small_znodes_that_nobody_saw_wait_for_approval() {
    mass_is_held(10, Side::Zookeeper, "zk -> cache").await;
}

#[tokio::test]
async fn deletes_in_mass_of_large_keys_that_nobody_saw_wait_for_approval() {
    mass_is_held(50_000, Side::Redis, "zk <-> cache").await;
}

#[tokio::test]
async fn deletes_in_mass_of_small_keys_that_nobody_saw_wait_for_approval() {
    mass_is_held(10, Side::Redis, "cache -> zk").await;
}
