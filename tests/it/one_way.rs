//! One way: the source decides. And routes that only look: capture, ephemerals, publish.

use crate::support::{Keepstep, LIVE, Pipeline, Redis, Scene, ZooKeeper, eventually, eventually_is, never};
use futures::StreamExt;
use serde_json::Value;
use std::time::Duration;

#[tokio::test]
async fn from_zookeeper_a_change_at_the_destination_is_put_back_and_its_value_kept() {
    let scene = Scene::start_with(|pipeline| pipeline.flow("zk -> cache").worker("reconcile: 2s")).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.znodes.put("/settings/b", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    scene.key_becomes("settings:b", Some("1")).await;
    scene.set("settings:a", "meddled").await;
    scene.del("settings:b").await;
    scene.set("settings:extra", "left alone").await;
    scene.key_becomes("settings:a", Some("1")).await;
    scene.key_becomes("settings:b", Some("1")).await;
    never("the destination reaches the source", Duration::from_secs(4), async || {
        let tree = scene.znodes.tree("/settings").await;
        if tree.len() == 2 && tree.iter().all(|(_, data)| data == b"1") { Ok(()) } else { Err(format!("{tree:?}")) }
    })
    .await;
    assert_eq!(scene.text("settings:extra").await.as_deref(), Some("left alone"));
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(
        conflicts.iter().any(|conflict| conflict["cache"] == "meddled" && conflict["winner"] == "zk"),
        "{conflicts:?}"
    );
    scene.znodes.delete("/settings/a").await;
    scene.key_becomes("settings:a", None).await;
}

#[tokio::test]
async fn from_redis_a_change_at_the_destination_is_put_back_and_its_value_kept() {
    let scene = Scene::start_with(|pipeline| pipeline.flow("cache -> zk").worker("reconcile: 2s")).await;
    scene.set("settings:a", "1").await;
    scene.set("settings:b", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.znode_becomes("/settings/b", Some("1")).await;
    scene.znodes.put("/settings/a", "meddled").await;
    scene.znodes.delete("/settings/b").await;
    scene.znodes.put("/settings/extra", "left alone").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.znode_becomes("/settings/b", Some("1")).await;
    never("the destination reaches the source", Duration::from_secs(4), async || {
        let keys = scene.keys_by_path().await;
        if keys.len() == 2 && keys.values().all(|value| value == b"1") { Ok(()) } else { Err(format!("{keys:?}")) }
    })
    .await;
    assert_eq!(scene.znodes.text("/settings/extra").await.as_deref(), Some("left alone"));
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(
        conflicts.iter().any(|conflict| conflict["zk"] == "meddled" && conflict["winner"] == "cache"),
        "{conflicts:?}"
    );
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
}

#[tokio::test]
async fn a_source_that_lost_its_data_changes_nothing_at_the_destination() {
    let mut scene = Scene::start_with(|pipeline| pipeline.flow("zk -> cache").worker("reconcile: 2s")).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    scene.zookeeper.restart_empty().await;
    scene.znodes = scene.zookeeper.client().await;
    never("the key goes", Duration::from_secs(6), async || match scene.text("settings:a").await {
        Some(value) if value == "1" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    scene.znodes.put("/settings/b", "flows again").await;
    scene.key_becomes("settings:b", Some("flows again")).await;

    let scene = Scene::start_with(|pipeline| pipeline.flow("cache -> zk").worker("reconcile: 2s")).await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.redis.run::<()>("FLUSHALL").await;
    never("the znode goes", Duration::from_secs(6), async || match scene.znodes.text("/settings/a").await {
        Some(value) if value == "1" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    scene.set("settings:b", "flows again").await;
    scene.znode_becomes("/settings/b", Some("flows again")).await;
}

/// The `(op, after)` of every change on the stream.
async fn facts(keepstep: &Keepstep) -> Vec<(Value, Value)> {
    keepstep.changes().await.into_iter().map(|change| (change["op"].clone(), change["after"].clone())).collect()
}

fn fact(op: &str, after: Option<&str>) -> (Value, Value) {
    (op.into(), after.map_or(Value::Null, Value::from))
}

#[tokio::test]
async fn a_capture_of_zookeeper_records_and_writes_nothing() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let znodes = zookeeper.client().await;
    znodes.put("/settings/a", "before").await;
    let keepstep = Keepstep::run(Pipeline::two_way(zookeeper.connect_string(), redis.url()).capture_zookeeper()).await;
    znodes.put("/settings/a", "after").await;
    eventually_is("the change's value", LIVE, Some(Value::from("after")), async || {
        keepstep.changes().await.last().map(|change| change["after"].clone())
    })
    .await;
    znodes.delete("/settings/a").await;
    let wanted = vec![fact("r", Some("before")), fact("u", Some("after")), fact("d", None)];
    eventually_is("the stream", LIVE, wanted, async || facts(&keepstep).await).await;
    assert_eq!(redis.run::<u64>("DBSIZE").await, 0);
}

#[tokio::test]
async fn a_capture_of_redis_records_and_writes_nothing() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    redis.run::<()>("SET settings:a before").await;
    let keepstep = Keepstep::run(Pipeline::two_way(zookeeper.connect_string(), redis.url()).capture_redis()).await;
    redis.run::<()>("SET settings:a after").await;
    eventually_is("the change's value", LIVE, Some(Value::from("after")), async || {
        keepstep.changes().await.last().map(|change| change["after"].clone())
    })
    .await;
    redis.run::<()>("DEL settings:a").await;
    let wanted = vec![fact("r", Some("before")), fact("u", Some("after")), fact("d", None)];
    eventually_is("the stream", LIVE, wanted, async || facts(&keepstep).await).await;
    let tree = zookeeper.client().await.tree("").await;
    assert!(tree.iter().all(|(path, _)| path.starts_with("/zookeeper")), "{tree:?}");
}

#[tokio::test]
async fn a_mirrored_ephemeral_is_a_plain_key_that_goes_with_it_and_cannot_be_meddled_with() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    let member = scene.zookeeper.client().await;
    scene.znodes.put("/settings/members", "").await;
    member.put_ephemeral("/settings/members/one", "alive").await;
    member.put_ephemeral("/settings/members/empty", "").await;
    scene.key_becomes("settings:members:one", Some("alive")).await;
    scene.key_becomes("settings:members:empty", Some("")).await;
    assert_eq!(scene.redis.run::<i64>("TTL settings:members:one").await, -1);
    scene.set("settings:members:one", "meddled").await;
    scene.key_becomes("settings:members:one", Some("alive")).await;
    scene.del("settings:members:one").await;
    scene.key_becomes("settings:members:one", Some("alive")).await;
    assert_eq!(scene.znodes.text("/settings/members/one").await.as_deref(), Some("alive"));
    drop(member);
    scene.key_becomes("settings:members:one", None).await;
    scene.key_becomes("settings:members:empty", None).await;
}

#[tokio::test]
async fn a_skipped_ephemeral_is_not_mapped() {
    let scene = Scene::start_with(|pipeline| pipeline.route("ephemeral: skip").worker("reconcile: 2s")).await;
    let member = scene.zookeeper.client().await;
    member.put_ephemeral("/settings/one", "alive").await;
    scene.znodes.put("/settings/two", "persistent").await;
    scene.key_becomes("settings:two", Some("persistent")).await;
    scene.settle().await;
    never("the ephemeral has a key", Duration::from_secs(4), async || match scene.text("settings:one").await {
        None => Ok(()),
        Some(value) => Err(value),
    })
    .await;
}

#[tokio::test]
async fn each_change_written_to_redis_is_published_as_its_tail_line() {
    let scene = Scene::start_with(|pipeline| pipeline.route("publish: settings-changes")).await;
    let mut subscription = redis::Client::open(scene.redis.url()).unwrap().get_async_pubsub().await.unwrap();
    subscription.subscribe("settings-changes").await.unwrap();
    let mut messages = subscription.into_on_message();
    scene.znodes.put("/settings/a", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    scene.set("settings:b", "not written by us to Redis").await;
    scene.znode_becomes("/settings/b", Some("not written by us to Redis")).await;
    scene.znodes.delete("/settings/a").await;
    scene.key_becomes("settings:a", None).await;
    let mut published = Vec::new();
    for _ in 0..2 {
        let message = tokio::time::timeout(LIVE, messages.next()).await.expect("a message").unwrap();
        let text: String = message.get_payload().unwrap();
        published.push(serde_json::from_str::<Value>(&text).unwrap());
    }
    let tail = scene.keepstep.json("tail", &["--from", "earliest", "--no-follow", "--key", "settings:a"]).await;
    assert_eq!(published, tail);
}

#[tokio::test]
async fn a_channel_that_may_not_be_published_on_is_said_and_holds_nothing_up() {
    let user = ["--user", "keepstep", "on", ">secret", "~*", "resetchannels", "&__keyspace@0__:settings:*", "+@all"];
    let mut scene = Scene::prepare(&user, |pipeline| {
        pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}").route("publish: settings-changes")
    })
    .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    let checked = scene.keepstep.command("validate", &["--connect"]).await.expect(1);
    assert!(checked.stdout.contains("PUBLISH"), "{checked:?}");
    scene.run().await;
    scene.znodes.put("/settings/a", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    // The key is there before its answer is.
    eventually("the refusal is told", LIVE, async || {
        let log = scene.keepstep.log();
        if log.contains("PUBLISH is refused") { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn routes_are_taken_in_order_and_each_has_its_own_way() {
    let scene = Scene::start_with(|pipeline| {
        pipeline
            .flow("zk -> cache")
            .matches("{zk: /settings/fixed/**, cache: \"settings:fixed:**\"}")
            .also("{name: rest, flow: \"zk <-> cache\", match: {zk: /settings/**, cache: \"settings:**\"}}")
            .worker("reconcile: 2s")
    })
    .await;
    scene.znodes.put("/settings/fixed/a", "1").await;
    scene.key_becomes("settings:fixed:a", Some("1")).await;
    scene.set("settings:fixed:a", "meddled").await;
    scene.set("settings:free", "2").await;
    scene.znode_becomes("/settings/free", Some("2")).await;
    scene.key_becomes("settings:fixed:a", Some("1")).await;
    let routes = eventually("both routes are on the stream", LIVE, async || {
        let changes = scene.keepstep.changes().await;
        let of = |key: &str| {
            changes.iter().find(|change| change["pair"]["cache"] == key).map(|change| change["route"].clone())
        };
        of("settings:fixed:a").zip(of("settings:free")).ok_or(format!("{changes:?}"))
    })
    .await;
    assert_eq!(routes, (Value::from("settings"), Value::from("rest")));
}
