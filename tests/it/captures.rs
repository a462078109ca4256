//! Captures of Redis: what is lost there, or was written by an earlier pipeline, is no change. (`one_way` has what they record.)

use crate::support::{Keepstep, LIVE, Pipeline, Scene, eventually, eventually_is};
use serde_json::Value;

/// The changes on the stream with this operation.
async fn with_op(keepstep: &Keepstep, op: &str) -> usize {
    keepstep.changes().await.iter().filter(|change| change["op"] == op).count()
}

/// The losses on the stream: cause and pairs.
async fn losses(scene: &Scene) -> Vec<(String, Value)> {
    let changes = scene.keepstep.changes().await;
    let losses = changes.iter().map(|change| &change["loss"]).filter(|loss| !loss.is_null());
    losses.map(|loss| (loss["cause"].as_str().unwrap().to_owned(), loss["pairs"].clone())).collect()
}

/// Three comparisons end from here on.
async fn compared(scene: &Scene) {
    let count = async || scene.keepstep.metric("keepstep_comparisons_total", "").await;
    let before = count().await;
    eventually("three comparisons end", LIVE, async || {
        let now = count().await;
        if now >= before + 3.0 { Ok(()) } else { Err(format!("{now} after {before}")) }
    })
    .await;
}

async fn captured(redis: &[&str], user: Option<&str>, keys: usize) -> Scene {
    let mut scene = Scene::prepare(redis, |pipeline| {
        let pipeline = pipeline.capture_redis().worker("reconcile: 1s");
        match user {
            Some(user) => pipeline.redis(&format!("username: {user}")).redis("password: {env: REDIS_PASSWORD}"),
            None => pipeline,
        }
    })
    .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    scene.run().await;
    for number in 0..keys {
        scene.set(format!("settings:{number}"), "v").await;
    }
    eventually_is("changes on the stream", LIVE, keys, async || with_op(&scene.keepstep, "c").await).await;
    compared(&scene).await;
    scene
}

#[tokio::test]
async fn a_database_that_is_swapped_away_is_a_loss_and_when_it_is_back_nothing_is_new() {
    let scene = captured(&[], None, 9).await;
    scene.redis.run::<()>("SWAPDB 0 1").await;
    eventually_is("losses", LIVE, vec![("flushed".to_owned(), Value::from(9))], async || losses(&scene).await).await;
    compared(&scene).await;
    scene.redis.run::<()>("SWAPDB 0 1").await;
    compared(&scene).await;
    assert_eq!((with_op(&scene.keepstep, "d").await, with_op(&scene.keepstep, "c").await), (0, 9));
    scene.del("settings:0").await;
    eventually_is("deletes on the stream", LIVE, 1, async || with_op(&scene.keepstep, "d").await).await;
}

#[tokio::test]
async fn a_flush_that_is_over_while_the_worker_is_cut_off_is_a_loss() {
    let scene = captured(&[], None, 9).await;
    let flush = "redis.call('FLUSHALL'); redis.call('SET', 'settings:0', 'v'); return 1";
    let mut connection = scene.redis.client().await;
    let mut all = redis::pipe();
    all.cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").cmd("CLIENT").arg("KILL").arg("SKIPME").arg("yes");
    all.cmd("EVAL").arg(flush).arg(0).cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub");
    all.exec_async(&mut connection).await.unwrap();
    eventually_is("losses", LIVE, vec![("flushed".to_owned(), Value::from(8))], async || losses(&scene).await).await;
    compared(&scene).await;
    assert_eq!(with_op(&scene.keepstep, "d").await, 0, "a loss is never a delete");
}

#[tokio::test]
async fn a_key_that_could_not_be_read_when_its_data_set_was_lost_is_not_taken_for_deleted() {
    let user = ["--user", "keepstep", "on", ">secret", "~*", "&*", "+@all"];
    let scene = captured(&user, Some("keepstep"), 4).await;
    scene.redis.run::<()>("ACL SETUSER keepstep resetkeys ~settings:1 ~settings:2 ~settings:3 ~_keepstep*").await;
    eventually("the key is quarantined", LIVE, async || match scene.quarantined().await {
        reasons if reasons == ["no_permission"] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    scene.redis.run::<()>("FLUSHALL").await;
    compared(&scene).await;
    scene.redis.run::<()>("ACL SETUSER keepstep allkeys").await;
    compared(&scene).await;
    compared(&scene).await;
    assert_eq!(with_op(&scene.keepstep, "d").await, 0, "nobody saw it being deleted");
}

#[tokio::test]
async fn a_capture_reads_where_an_earlier_pipeline_of_its_name_has_written() {
    let mut scene = Scene::start().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.keepstep.restart().await;
    scene.keepstep.terminate().await;
    let pipeline = Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url()).capture_redis();
    let capture = Keepstep::new(pipeline);
    capture.command("run", &["--once", "--http", "off"]).await.expect(0);
    assert_eq!(with_op(&capture, "r").await, 1);
}

#[tokio::test]
async fn a_comparison_of_a_capture_that_finds_nothing_new_records_nothing_also_after_a_restart() {
    let mut scene = captured(&[], None, 30).await;
    scene.keepstep.restart().await;
    compared(&scene).await;
    scene.set("settings:0", "v").await;
    scene.set("settings:1", "w").await;
    eventually_is("updates on the stream", LIVE, 1, async || with_op(&scene.keepstep, "u").await).await;
    compared(&scene).await;
    assert_eq!(scene.keepstep.changes().await.len(), 31);
}
