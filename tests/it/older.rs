//! A Redis that comes back with an older state, on a route that leads away from it: what was carried stays until its key changes again.

use crate::support::{LIVE, Redis, Scene, eventually, never};
use std::time::Duration;
use tempfile::TempDir;
use zookeeper_client::{Acl, AuthId, Permission};

/// Several comparisons.
const A_WHILE: Duration = Duration::from_secs(5);

/// Twelve pairs, a copy of Redis with their sidecars, and then later states in both stores: changed, deleted, made since.
async fn copied() -> (Scene, TempDir) {
    let mut scene = Scene::prepare(&["--appendonly", "yes", "--appendfsync", "always"], |pipeline| {
        pipeline.flow("cache -> zk").worker("reconcile: 2s")
    })
    .await;
    scene.run().await;
    for number in 0..12 {
        scene.set(format!("settings:{number}"), format!("first {number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    let copy = scene.redis.back_up();
    for number in 0..8 {
        scene.set(format!("settings:{number}"), format!("later {number}")).await;
    }
    for number in 8..10 {
        scene.del(format!("settings:{number}")).await;
    }
    scene.set("settings:made", "since").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    (scene, copy)
}

async fn stays(scene: &Scene) {
    never("an older state is carried over what was carried before", A_WHILE, async || {
        for number in 0..12 {
            let expected = match number {
                0..8 => Some(format!("later {number}")),
                8..10 => None,
                _ => Some(format!("first {number}")),
            };
            let znode = scene.znodes.text(&format!("/settings/{number}")).await;
            if znode != expected {
                return Err(format!("{number}: {znode:?}"));
            }
        }
        match scene.znodes.text("/settings/made").await.as_deref() {
            Some("since") => Ok(()),
            other => Err(format!("made since: {other:?}")),
        }
    })
    .await;
}

/// It stays so, whoever runs and whatever is written at the destination, until a key changes.
async fn stays_until_changed(mut scene: Scene) {
    assert_eq!(scene.text("settings:0").await.as_deref(), Some("first 0"), "Redis is older");
    stays(&scene).await;
    scene.keepstep.restart().await;
    stays(&scene).await;
    scene.redis.stop().await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    stays(&scene).await;
    // Seven are back at an older state, and two whose znodes were deleted; the key that was made since is gone with its sidecar.
    let listed = scene.keepstep.json("quarantine list", &["--key", "settings:[0-9m]*"]).await;
    assert!(listed.len() == 10 && listed.iter().all(|row| row["reason"] == "lost"), "{listed:?}");
    // `settle` wrote a moment before the copy: the sidecar of that key may not be in it.
    let conflicts = scene.keepstep.json("conflicts", &["--key", "settings:[0-9m]*"]).await;
    assert!(conflicts.is_empty(), "{conflicts:?}");
    // One changes, one becomes what its znode has, one whose znode was deleted changes, one is deleted, one was not older.
    scene.set("settings:0", "newest").await;
    scene.set("settings:1", "later 1").await;
    scene.set("settings:8", "again").await;
    scene.del("settings:2").await;
    scene.set("settings:11", "goes on").await;
    scene.znode_becomes("/settings/0", Some("newest")).await;
    scene.znode_becomes("/settings/8", Some("again")).await;
    scene.znode_becomes("/settings/2", None).await;
    scene.znode_becomes("/settings/11", Some("goes on")).await;
    scene.set("settings:1", "flows").await;
    scene.znode_becomes("/settings/1", Some("flows")).await;
    let conflicts = scene.keepstep.json("conflicts", &["--key", "settings:0"]).await;
    let is_kept = conflicts.iter().any(|row| row["cache"] == "newest" && row["zk"] == "later 0");
    assert!(is_kept, "what the key may not have followed is kept: {conflicts:?}");
    assert_eq!(scene.znodes.text("/settings/3").await.as_deref(), Some("later 3"));
    let losses = scene.keepstep.log().lines().filter(|line| line.contains("lost") && line.contains("pairs")).count();
    assert!(losses > 0, "a loss is told:\n{}", scene.keepstep.log());
}

#[tokio::test]
async fn a_key_that_a_restart_brought_back_older_leaves_its_znode_until_it_changes() {
    let (mut scene, copy) = copied().await;
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    stays_until_changed(scene).await;
}

#[tokio::test]
async fn a_key_that_came_back_older_while_no_worker_ran_leaves_its_znode_until_it_changes() {
    let (mut scene, copy) = copied().await;
    scene.keepstep.kill9();
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    scene.keepstep.restart().await;
    stays_until_changed(scene).await;
}

#[tokio::test]
async fn a_key_that_became_older_in_a_running_server_leaves_its_znode_until_it_changes() {
    let (mut scene, copy) = copied().await;
    let mut older = Redis::start_with(&["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]).await;
    older.restart_from(&copy).await;
    let (host, port) = (older.address().ip(), older.address().port());
    scene.redis.run::<()>(&format!("REPLICAOF {host} {port}")).await;
    scene.key_becomes("settings:0", Some("first 0")).await;
    scene.redis.run::<()>("REPLICAOF NO ONE").await;
    scene.client = scene.redis.client().await;
    stays_until_changed(scene).await;
}

/// No worker runs, Redis was restarted and lost nothing, and somebody changed the destination.
async fn meddled() -> Scene {
    let (mut scene, _) = copied().await;
    scene.keepstep.kill9();
    scene.redis.stop().await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    scene.znodes.put("/settings/0", "meddled").await;
    scene.znodes.delete("/settings/1").await;
    scene
}

/// A restart alone is no reason to leave what others wrote at the destination.
#[tokio::test]
async fn a_change_at_the_destination_is_reverted_after_a_restart_of_redis_that_lost_nothing() {
    let mut scene = meddled().await;
    scene.keepstep.restart().await;
    scene.znode_becomes("/settings/0", Some("later 0")).await;
    scene.znode_becomes("/settings/1", Some("later 1")).await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(conflicts.iter().any(|row| row["zk"] == "meddled" && row["winner"] == "cache"), "{conflicts:?}");
}

/// What the journal says belongs to the time before, and a start that completes it would put it over what was agreed on since.
#[tokio::test]
async fn what_is_left_in_the_journal_from_before_a_restore_is_completed_by_no_later_owner() {
    let (mut scene, copy) = copied().await;
    for round in 0..3 {
        for number in 0..8 {
            scene.set(format!("settings:{number}"), format!("round {round} of {number}")).await;
        }
        scene.in_step(LIVE).await;
    }
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    let newest = async |scene: &Scene| {
        for number in 0..8 {
            let znode = scene.znodes.text(&format!("/settings/{number}")).await;
            if znode != Some(format!("round 2 of {number}")) {
                return Err(format!("{number}: {znode:?}"));
            }
        }
        Ok(())
    };
    never("an older state is carried over", A_WHILE, async || newest(&scene).await).await;
    scene.keepstep.restart().await;
    never("an older state is carried over after a start", A_WHILE, async || newest(&scene).await).await;
}

/// An expiry that the older data set remembers may have been put off, or taken away, in what it has lost.
async fn older_expiries(flow: &str, is_running: bool) {
    let mut scene = Scene::prepare(&["--save", ""], |pipeline| pipeline.flow(flow).worker("reconcile: 2s")).await;
    scene.run().await;
    for number in 0..6 {
        scene.redis.run::<()>(&format!("SET settings:{number} session PX 4000")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.redis.run::<()>("SAVE").await;
    let copy = scene.redis.back_up();
    for number in 0..6 {
        scene.redis.run::<()>(&format!("PERSIST settings:{number}")).await;
    }
    scene.set("settings:another", "change").await;
    scene.in_step(LIVE).await;
    // The canary is changed every four seconds, and the time of then is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    if !is_running {
        scene.keepstep.kill9();
    }
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    if !is_running {
        scene.keepstep.restart().await;
    }
    never("a loss becomes a delete", A_WHILE, async || {
        for number in 0..6 {
            let znode = scene.znodes.text(&format!("/settings/{number}")).await;
            if znode.as_deref() != Some("session") {
                return Err(format!("{number}: {znode:?}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_expiry_that_an_older_data_set_remembers_is_a_loss() {
    for flow in ["cache -> zk", "zk <-> cache"] {
        for is_running in [true, false] {
            older_expiries(flow, is_running).await;
        }
    }
}

/// A copy of everything, Keepstep's own keys included, takes the place of what is there in the same server, so long after it was made.
async fn older_swapped_in(after: Duration) {
    let scene = Scene::start_with(|pipeline| pipeline.flow("cache -> zk").worker("reconcile: 2s")).await;
    scene.set("settings:a", "first").await;
    scene.set("settings:gone", "first").await;
    scene.set("settings:parent", "first").await;
    scene.set("settings:parent:child", "first").await;
    scene.in_step(LIVE).await;
    scene.at_rest().await;
    let keys: Vec<String> = scene.redis.run("KEYS *").await;
    for key in keys {
        scene.redis.run::<()>(&format!("COPY {key} {key} DB 1")).await;
    }
    scene.set("settings:a", "later").await;
    scene.del("settings:gone").await;
    scene.del("settings:parent").await;
    scene.in_step(LIVE).await;
    tokio::time::sleep(after).await;
    scene.redis.run::<()>("SWAPDB 0 1").await;
    scene.key_becomes("settings:a", Some("first")).await;
    never("an older state is carried over", A_WHILE, async || {
        let mut held = Vec::new();
        for path in ["/settings/a", "/settings/gone", "/settings/parent"] {
            held.push(scene.znodes.text(path).await);
        }
        let later = [Some("later".to_owned()), None, Some(String::new())];
        if held == later { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    let listed = scene.quarantined().await;
    assert!(listed.len() == 3 && listed.iter().all(|reason| reason == "lost"), "{listed:?}");
}

#[tokio::test]
async fn an_older_data_set_that_is_swapped_in_with_keepsteps_own_keys_is_told_from_the_newer_one() {
    older_swapped_in(Duration::from_secs(9)).await;
}

/// Sooner than the canary is changed.
#[tokio::test]
async fn an_older_data_set_is_told_from_the_newer_one_at_once() {
    older_swapped_in(Duration::ZERO).await;
}

/// What the destination had before somebody wrote it is what the newest record says: then nothing is older.
#[tokio::test]
async fn a_destination_that_somebody_writes_is_put_right_whatever_was_there_before() {
    let scene = Scene::start_with(|pipeline| pipeline.flow("cache -> zk")).await;
    for value in ["first", "later", "first"] {
        scene.set("settings:a", value).await;
        scene.in_step(LIVE).await;
    }
    scene.settle().await;
    scene.znodes.put("/settings/a", "later").await;
    scene.znode_becomes("/settings/a", Some("first")).await;
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    scene.set("settings:a", "again").await;
    scene.znode_becomes("/settings/a", Some("again")).await;
    scene.znodes.delete("/settings/a").await;
    scene.znode_becomes("/settings/a", Some("again")).await;
}

#[tokio::test]
async fn a_key_that_is_back_older_while_its_znode_cannot_be_read_leaves_it_when_it_can() {
    let (mut scene, copy) = copied().await;
    let owner = scene.zookeeper.client().await;
    owner.client().auth("digest", b"owner:secret").await.unwrap();
    let hidden = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    owner.client().set_acl("/settings/0", &hidden, None).await.unwrap();
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    eventually("the znode is reported", LIVE, async || {
        let listed = scene.quarantined().await;
        if listed.iter().any(|reason| reason == "no_permission") { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
    // Some comparisons end meanwhile.
    tokio::time::sleep(A_WHILE).await;
    owner.client().set_acl("/settings/0", &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    stays(&scene).await;
}

/// A worker with a data folder of its own, whose stream knows nothing, takes over while Redis was restarted and lost nothing.
#[tokio::test]
async fn a_change_at_the_destination_is_reverted_by_an_owner_whose_stream_is_new() {
    let scene = meddled().await;
    let mut other = scene.keepstep.another();
    other.start();
    scene.znode_becomes("/settings/0", Some("later 0")).await;
    scene.znode_becomes("/settings/1", Some("later 1")).await;
    assert_eq!(other.terminate().await, Some(0));
}

/// A comparison that passes over a paused route does not end that its expiries are of then, nor does a start.
#[tokio::test]
async fn an_expiry_of_an_older_data_set_is_a_loss_after_a_pause_and_a_start() {
    let mut scene = Scene::prepare(&["--save", ""], |pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.run().await;
    scene.redis.run::<()>("SET settings:a session PX 4000").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.redis.run::<()>("SAVE").await;
    let copy = scene.redis.back_up();
    scene.redis.run::<()>("PERSIST settings:a").await;
    scene.set("settings:another", "change").await;
    scene.in_step(LIVE).await;
    // The canary is changed every four seconds, and the time of then is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.redis.restart_from(&copy).await;
    scene.client = scene.redis.client().await;
    tokio::time::sleep(A_WHILE).await;
    scene.keepstep.kill9();
    scene.keepstep.restart().await;
    tokio::time::sleep(A_WHILE).await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.key_becomes("settings:a", Some("session")).await;
    assert_eq!(scene.znodes.text("/settings/a").await.as_deref(), Some("session"));
}

/// What was on its way when an owner was killed is no sign of an older data set.
#[tokio::test]
async fn what_expired_while_nobody_ran_and_nothing_was_lost_is_gone_on_both_sides() {
    let mut scene = Scene::prepare(&["--appendonly", "yes", "--appendfsync", "always"], |pipeline| {
        pipeline.worker("reconcile: 2s")
    })
    .await;
    scene.run().await;
    let expire = async |scene: &Scene, kind: &str| {
        for number in 0..40 {
            scene.redis.run::<()>(&format!("SET settings:{kind}:{number} session PX 8000")).await;
        }
    };
    expire(&scene, "in-step").await;
    scene.in_step(LIVE).await;
    scene.at_rest().await;
    expire(&scene, "on-its-way").await;
    scene.keepstep.kill9();
    scene.redis.stop().await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    scene.keepstep.restart().await;
    eventually("the sessions that were in step are gone", LIVE * 2, async || {
        let keys = scene.redis.run::<Vec<String>>("KEYS settings:in-step:*").await;
        let znodes = scene.znodes.tree("/settings/in-step").await;
        let left = znodes.iter().filter(|(_, data)| !data.is_empty()).count();
        if keys.is_empty() && left == 0 { Ok(()) } else { Err(format!("{} keys, {left} znodes", keys.len())) }
    })
    .await;
}
