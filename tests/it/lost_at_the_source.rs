//! A key that Redis lost while its base stayed, and that nothing restores: since the route leads out of Redis, or since the pair cannot
//! be looked at. Nothing that is concluded afterwards makes a delete of it.

use crate::support::{LIVE, Pipeline, Scene, eventually};
use zookeeper_client::{Acl, AuthId, Permission};

/// A worker on `cache -> zk` with some pairs in step, one of which may be evicted.
async fn in_step(redis: &[&str]) -> Scene {
    in_step_by(redis, "cache -> zk").await
}

async fn in_step_by(redis: &[&str], flow: &str) -> Scene {
    let mut scene = Scene::prepare(redis, |pipeline| pipeline.flow(flow).worker("reconcile: 1s")).await;
    scene.run().await;
    for key in ["lost", "stays"] {
        scene.set(format!("settings:{key}"), "v").await;
        scene.znode_becomes(&format!("/settings/{key}"), Some("v")).await;
    }
    scene.redis.run::<()>("EXPIRE settings:lost 1000").await;
    scene.settle().await;
    scene.at_rest().await;
    scene
}

/// Redis evicts the one key that has an expiry; the buckets have none.
async fn evict(scene: &Scene) {
    scene.redis.run::<()>("CONFIG SET maxmemory-policy volatile-random").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 1mb").await;
    let _ = scene.redis.try_run::<()>("APPEND elsewhere:a 1").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 0").await;
    assert_eq!(scene.text("settings:lost").await, None, "it was not evicted");
    assert!(scene.redis.run::<usize>("EXISTS settings:stays").await == 1, "the other one was evicted as well");
}

/// So many more comparisons end.
async fn comparisons_end(scene: &Scene, more: f64) {
    let compared = async || scene.keepstep.metric_or_zero("keepstep_comparisons_total").await;
    let before = compared().await;
    eventually("comparisons end", LIVE * 2, async || {
        let now = compared().await;
        if now >= before + more { Ok(()) } else { Err(format!("{now} after {before}")) }
    })
    .await;
}

/// Some more comparisons end, and the pair is as it was: reported, and the znode there.
async fn stays_lost(scene: &Scene) {
    comparisons_end(scene, 4.0).await;
    assert_eq!(scene.znodes.text("/settings/lost").await.as_deref(), Some("v"), "{}", scene.keepstep.log());
    scene.quarantine_becomes(&["lost"]).await;
    assert_eq!(scene.znodes.text("/settings/lost").await.as_deref(), Some("v"), "{}", scene.keepstep.log());
    let deletes = scene.keepstep.changes().await.into_iter().filter(|change| change["op"] == "d").count();
    assert_eq!(deletes, 0, "a loss is not a delete");
}

#[tokio::test]
async fn a_key_that_was_evicted_stays_lost_whatever_is_concluded_until_it_is_there_again() {
    let mut scene = in_step(&[]).await;
    evict(&scene).await;
    scene.quarantine_becomes(&["lost"]).await;
    stays_lost(&scene).await;
    scene.redis.run::<()>("CONFIG RESETSTAT").await;
    stays_lost(&scene).await;
    scene.keepstep.terminate().await;
    scene.run().await;
    stays_lost(&scene).await;
    scene.keepstep.command("diff", &[]).await.expect(1);
    // Others go on: what is seen to be deleted is.
    scene.del("settings:stays").await;
    scene.znode_becomes("/settings/stays", None).await;
    // It is back, as it was: from here on it may be deleted again.
    scene.set("settings:lost", "v").await;
    scene.quarantine_becomes(&[]).await;
    scene.set("settings:lost", "w").await;
    scene.znode_becomes("/settings/lost", Some("w")).await;
    scene.settle().await;
    scene.del("settings:lost").await;
    scene.znode_becomes("/settings/lost", None).await;
}

#[tokio::test]
async fn a_key_that_was_evicted_while_no_worker_ran_stays_lost_until_its_znode_is_deleted() {
    // Without notifications nobody says why the key went.
    let mut scene = in_step(&["--notify-keyspace-events", ""]).await;
    scene.keepstep.terminate().await;
    evict(&scene).await;
    scene.run().await;
    stays_lost(&scene).await;
    scene.keepstep.kill9();
    scene.keepstep.restart().await;
    stays_lost(&scene).await;
    scene.znodes.delete("/settings/lost").await;
    scene.quarantine_becomes(&[]).await;
    scene.set("settings:lost", "again").await;
    scene.znode_becomes("/settings/lost", Some("again")).await;
}

#[tokio::test]
async fn a_key_that_a_restarted_redis_lacks_stays_lost() {
    let mut scene = in_step(&[]).await;
    scene.keepstep.terminate().await;
    scene.del("settings:lost").await;
    scene.redis.run::<()>("SAVE").await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    scene.run().await;
    stays_lost(&scene).await;
    // Set again and deleted unseen in an intact Redis, it is a delete.
    scene.set("settings:lost", "w").await;
    scene.znode_becomes("/settings/lost", Some("w")).await;
    scene.quarantine_becomes(&[]).await;
    comparisons_end(&scene, 3.0).await;
    scene.keepstep.terminate().await;
    scene.del("settings:lost").await;
    scene.run().await;
    scene.znode_becomes("/settings/lost", None).await;
}

#[tokio::test]
async fn a_key_that_was_evicted_while_its_znode_could_not_be_read_is_restored_when_it_can() {
    let scene = in_step_by(&[], "zk <-> cache").await;
    let owner = scene.zookeeper.client().await;
    owner.client().auth("digest", b"owner:secret").await.unwrap();
    let hidden = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    owner.client().set_acl("/settings/lost", &hidden, None).await.unwrap();
    scene.quarantine_becomes(&["no_permission"]).await;
    evict(&scene).await;
    comparisons_end(&scene, 4.0).await;
    owner.client().set_acl("/settings/lost", &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    scene.key_becomes("settings:lost", Some("v")).await;
    scene.quarantine_becomes(&[]).await;
    assert_eq!(scene.znodes.text("/settings/lost").await.as_deref(), Some("v"));
    // What Redis lost is dealt with: what vanishes unseen is a delete again.
    comparisons_end(&scene, 3.0).await;
}

#[tokio::test]
async fn a_key_that_was_evicted_and_may_not_be_written_is_restored_when_it_may() {
    let scene = in_step_by(&[], "zk <-> cache").await;
    scene.redis.run::<()>("ACL SETUSER default -set").await;
    evict(&scene).await;
    scene.quarantine_becomes(&["no_permission"]).await;
    comparisons_end(&scene, 4.0).await;
    assert_eq!(scene.znodes.text("/settings/lost").await.as_deref(), Some("v"), "{}", scene.keepstep.log());
    scene.redis.run::<()>("ACL SETUSER default +set").await;
    scene.key_becomes("settings:lost", Some("v")).await;
    scene.quarantine_becomes(&[]).await;
}

/// What a comparison proves of some routes it does not prove of pairs that they do not have.
#[tokio::test]
async fn what_was_lost_while_the_routes_had_no_part_in_it_is_no_delete_afterwards() {
    for flow in ["cache -> zk", "zk <-> cache"] {
        let mut scene = in_step_by(&[], flow).await;
        let whole =
            Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url()).flow(flow).worker("reconcile: 1s");
        assert_eq!(scene.keepstep.terminate().await, Some(0));
        scene.keepstep.rewrite(whole.clone().route("exclude: {zk: [/settings/lost]}"));
        scene.keepstep.restart().await;
        evict(&scene).await;
        comparisons_end(&scene, 4.0).await;
        assert_eq!(scene.keepstep.terminate().await, Some(0));
        scene.keepstep.rewrite(whole);
        scene.keepstep.restart().await;
        comparisons_end(&scene, 4.0).await;
        let znode = scene.znodes.text("/settings/lost").await;
        assert_eq!(znode.as_deref(), Some("v"), "{flow}: {}", scene.keepstep.log());
    }
}
