//! Each file in `pipelines/` runs as it is and does what its first lines say.

use crate::support::{Kafka, Keepstep, LIVE, Scene, eventually_is};
use std::path::Path;

/// Stores, and a worker on the example with nothing but its two variables set.
async fn run(example: &str) -> Scene {
    run_with(example, &[]).await
}

/// [`run`] with further variables.
async fn run_with(example: &str, variables: &[(&str, &str)]) -> Scene {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(example);
    scene.keepstep = Keepstep::new(std::fs::read_to_string(file).unwrap())
        .variable("ZOOKEEPER", scene.zookeeper.connect_string())
        .variable("REDIS", scene.redis.url());
    for (name, value) in variables {
        scene.keepstep = scene.keepstep.variable(name, value);
    }
    scene.run().await;
    scene
}

#[tokio::test]
async fn two_way_settings_carries_what_people_edit_in_either_store() {
    let scene = run("two-way-settings.yaml").await;
    scene.znodes.put("/settings/db/host", "db1").await;
    scene.key_becomes("settings:db:host", Some("db1")).await;
    scene.set("settings:db:port", "5432").await;
    scene.znode_becomes("/settings/db/port", Some("5432")).await;
    scene.set("settings:tmp:mine", "1").await;
    scene.settle().await;
    assert_eq!(scene.znodes.get("/settings/tmp/mine").await, None);
}

#[tokio::test]
async fn two_way_kafka_keeps_its_history_in_kafka() {
    let kafka = Kafka::shared().await;
    let scene = run_with("two-way-kafka.yaml", &[("KAFKA", &kafka.brokers())]).await;
    scene.znodes.put("/tariffs/night", "0.21").await;
    scene.key_becomes("tariffs:night", Some("0.21")).await;
    assert_eq!(scene.keepstep.changes().await.len(), 1);
    assert_eq!(kafka.partitions("keepstep.two-way-kafka").await, 1);
}

#[tokio::test]
async fn cache_fill_puts_back_what_is_changed_in_the_cache() {
    let scene = run("cache-fill.yaml").await;
    scene.znodes.put("/flags/checkout/new-basket", "on").await;
    scene.znodes.put_ephemeral("/flags/service", "no flag").await;
    scene.key_becomes("flags:checkout:new-basket", Some("on")).await;
    scene.set("flags:checkout:new-basket", "off").await;
    scene.key_becomes("flags:checkout:new-basket", Some("on")).await;
    scene.redis.run::<()>("FLUSHALL").await;
    scene.key_becomes("flags:checkout:new-basket", Some("on")).await;
    assert_eq!(scene.get("flags:service").await, None);
}

#[tokio::test]
async fn redis_to_zookeeper_maps_limits_and_keeps_the_last() {
    let scene = run("redis-to-zookeeper.yaml").await;
    scene.set("limits.api", "no limit").await;
    scene.set("limits.api.login.burst", "no limit").await;
    scene.set("limits.api.login", "100").await;
    scene.znode_becomes("/limits/api/login", Some("100")).await;
    scene.del("limits.api.login").await;
    scene.set("limits.api.search", "5").await;
    scene.znode_becomes("/limits/api/search", Some("5")).await;
    let tree = scene.znodes.tree("/limits").await;
    let held: Vec<(&str, &[u8])> = tree.iter().map(|(path, data)| (path.as_str(), data.as_slice())).collect();
    assert_eq!(held, [("/limits/api", b"".as_slice()), ("/limits/api/login", b"100"), ("/limits/api/search", b"5")]);
}

#[tokio::test]
async fn capture_keeps_a_history_and_touches_no_store() {
    let scene = run("capture.yaml").await;
    scene.znodes.put("/orders/1", "new").await;
    eventually_is("the changes", LIVE, 1, async || scene.keepstep.changes().await.len()).await;
    scene.znodes.put("/orders/1", "paid").await;
    scene.znodes.put("/orders/locks/1", "held").await;
    scene.znodes.put("/orders/2", "new").await;
    eventually_is("the changes", LIVE, 3, async || scene.keepstep.changes().await.len()).await;
    assert_eq!(scene.redis.run::<u64>("DBSIZE").await, 0);
}
