//! Both ways: what either side holds or changes is what the other side holds.

use crate::support::{LIVE, Scene, Writes, eventually, eventually_is, never};
use std::time::Duration;

#[tokio::test]
async fn what_either_side_holds_at_the_start_is_carried_to_the_other() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    for number in 0..60 {
        scene.znodes.put(&format!("/settings/znodes/{number}"), format!("z{number}")).await;
        scene.set(format!("settings:keys:{number}"), format!("k{number}")).await;
    }
    scene.znodes.put("/settings/same", "same").await;
    scene.set("settings:same", "same").await;
    scene.set("elsewhere:a", "not ours").await;
    scene.znodes.put("/elsewhere/b", "not ours").await;

    scene.run().await;

    scene.in_step(LIVE).await;
    assert_eq!(scene.keys_by_path().await.len(), 121);
    assert_eq!(scene.text("settings:znodes:59").await.as_deref(), Some("z59"));
    assert_eq!(scene.znodes.text("/settings/keys/59").await.as_deref(), Some("k59"));
    assert_eq!(scene.znodes.get("/elsewhere/a").await, None);
    assert_eq!(scene.get("elsewhere:b").await, None);
    let snapshot = scene.keepstep.changes().await;
    assert_eq!(snapshot.iter().filter(|change| change["op"] == "r").count(), 121, "one `r` a pair");
}

#[tokio::test]
async fn a_change_of_either_side_reaches_the_other_at_once() {
    let scene = Scene::start().await;
    scene.znodes.put("/settings/db/host", "one").await;
    scene.key_becomes("settings:db:host", Some("one")).await;
    scene.znodes.put("/settings/db/host", "two").await;
    scene.key_becomes("settings:db:host", Some("two")).await;
    scene.set("settings:db:host", "three").await;
    scene.znode_becomes("/settings/db/host", Some("three")).await;
    scene.set("settings:db:port", "6379").await;
    scene.znode_becomes("/settings/db/port", Some("6379")).await;
    scene.znodes.delete("/settings/db/port").await;
    scene.key_becomes("settings:db:port", None).await;
    scene.del("settings:db:host").await;
    scene.znode_becomes("/settings/db/host", None).await;
    scene.in_step(LIVE).await;
}

#[tokio::test]
async fn values_are_any_bytes_and_stay_the_users_own() {
    let scene = Scene::start().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    scene.znodes.put("/settings/bytes/from-zk", &every_byte).await;
    scene.set("settings:bytes:from-redis", &every_byte).await;
    scene.set("settings:bytes:json", r#"{"a": [1, 2]}"#).await;
    scene.set("settings:bytes:nul", b"\0").await;
    scene.znodes.put("/settings/bytes/large", vec![b'x'; 900_000]).await;
    eventually_is("the key", LIVE, Some(every_byte.clone()), async || scene.get("settings:bytes:from-zk").await).await;
    eventually_is("the znode", LIVE, Some(every_byte), async || scene.znodes.get("/settings/bytes/from-redis").await)
        .await;
    scene.in_step(LIVE).await;
    assert_eq!(scene.get("settings:bytes:large").await.map(|value| value.len()), Some(900_000));
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let scene = Scene::start().await;
    scene.set("settings:empty", "").await;
    scene.znode_becomes("/settings/empty", Some("")).await;
    scene.set("settings:empty", "full").await;
    scene.znode_becomes("/settings/empty", Some("full")).await;
    // Emptied by the application: the base says that the pair exists, so the key stays and is empty.
    scene.set("settings:empty", "").await;
    scene.znode_becomes("/settings/empty", Some("")).await;
    scene.settle().await;
    assert_eq!(scene.get("settings:empty").await, Some(Vec::new()));
    scene.del("settings:empty").await;
    scene.znode_becomes("/settings/empty", None).await;
}

#[tokio::test]
async fn a_persistent_znode_without_data_has_no_key() {
    let scene = Scene::start().await;
    scene.znodes.put("/settings/folder", "").await;
    scene.znodes.put("/settings/folder/a", "1").await;
    scene.key_becomes("settings:folder:a", Some("1")).await;
    scene.settle().await;
    assert_eq!(scene.get("settings:folder").await, None);
}

#[tokio::test]
async fn missing_ancestors_are_created_empty_and_stay() {
    let scene = Scene::start().await;
    scene.set("settings:one:two:three", "deep").await;
    scene.znode_becomes("/settings/one/two/three", Some("deep")).await;
    assert_eq!(scene.znodes.get("/settings/one/two").await, Some(Vec::new()));
    assert_eq!(scene.get("settings:one:two").await, None);
    scene.del("settings:one:two:three").await;
    scene.znode_becomes("/settings/one/two/three", None).await;
    assert_eq!(scene.znodes.get("/settings/one/two").await, Some(Vec::new()));
}

/// Deleting the key of a znode with children empties the znode.
#[tokio::test]
async fn delete_nonleaf() {
    let scene = Scene::start().await;
    scene.znodes.put("/settings/parent", "value").await;
    scene.znodes.put("/settings/parent/child", "1").await;
    scene.key_becomes("settings:parent", Some("value")).await;
    scene.key_becomes("settings:parent:child", Some("1")).await;
    scene.del("settings:parent").await;
    scene.znode_becomes("/settings/parent", Some("")).await;
    scene.settle().await;
    assert_eq!(scene.text("settings:parent:child").await.as_deref(), Some("1"));
    assert_eq!(scene.get("settings:parent").await, None);
    scene.set("settings:parent", "again").await;
    scene.znode_becomes("/settings/parent", Some("again")).await;
}

/// The table of the contract, and what else a name may hold.
#[tokio::test]
async fn names_change_places_one_to_one() {
    let scene = Scene::start().await;
    let table: [(&str, &[u8]); 12] = [
        ("/settings/db/host", b"settings:db:host"),
        ("/settings/a:b", b"settings:a/b"),
        ("/settings/100%", b"settings:100%"),
        ("/settings/a/%/b", b"settings:a::b"),
        ("/settings/%2E", b"settings:."),
        ("/settings/%252E", b"settings:%2E"),
        ("/settings/a/%2E%2E/b", b"settings:a:..:b"),
        ("/settings/with space", b"settings:with space"),
        ("/settings/größe", "settings:größe".as_bytes()),
        ("/settings/tail/%", b"settings:tail:"),
        ("/settings/{tag}", b"settings:{tag}"),
        ("/settings/*", b"settings:*"),
    ];
    for (path, key) in table {
        let name = String::from_utf8_lossy(key);
        scene.set(key, path).await;
        scene.znode_becomes(path, Some(path)).await;
        scene.znodes.put(path, "back").await;
        eventually_is(format!("the key {name}"), LIVE, Some(b"back".to_vec()), async || scene.get(key).await).await;
        scene.znodes.delete(path).await;
        eventually_is(format!("the key {name}"), LIVE, None, async || scene.get(key).await).await;
        scene.znodes.put(path, "first here").await;
        eventually_is(format!("the key {name}"), LIVE, Some(b"first here".to_vec()), async || scene.get(key).await)
            .await;
        scene.del(key).await;
        scene.znode_becomes(path, None).await;
    }
}

#[tokio::test]
async fn a_key_that_no_znode_can_be_named_after_is_encoded_and_comes_back_whole() {
    let scene = Scene::start().await;
    let names: [&[u8]; 7] =
        [b"\xff\xfe", b"a\x01b", b"\x7f", "\u{f8ff}".as_bytes(), "🦀".as_bytes(), b"new\nline", b"nul\0"];
    for name in names {
        let key = [b"settings:odd:".as_slice(), name].concat();
        scene.set(&key, name).await;
        let path = eventually(&format!("a znode for {}", key.escape_ascii()), LIVE, async || {
            let tree = scene.znodes.tree("/settings/odd").await;
            tree.iter().find(|(_, data)| data == name).map(|(path, _)| path.clone()).ok_or(format!("{tree:?}"))
        })
        .await;
        assert!(path.contains('%'), "{path} for {}", key.escape_ascii());
        scene.znodes.put(&path, "back").await;
        eventually_is(format!("the key of {path}"), LIVE, Some(b"back".to_vec()), async || scene.get(&key).await).await;
        scene.del(&key).await;
        scene.znode_becomes(&path, None).await;
    }
}

#[tokio::test]
async fn what_is_excluded_on_either_side_is_left_alone_on_both() {
    let scene = Scene::start_with(|pipeline| {
        pipeline.route("exclude: {zk: [/settings/tmp/**], cache: [\"settings:session:*\"]}")
    })
    .await;
    scene.znodes.put("/settings/tmp/a", "1").await;
    scene.set("settings:tmp:b", "1").await;
    scene.znodes.put("/settings/session/c", "1").await;
    scene.set("settings:session:d", "1").await;
    scene.set("settings:session:d:deeper", "not excluded: one segment only").await;
    scene.znode_becomes("/settings/session/d/deeper", Some("not excluded: one segment only")).await;
    scene.settle().await;
    for key in ["settings:tmp:a", "settings:session:c"] {
        assert_eq!(scene.get(key).await, None, "{key}");
    }
    assert_eq!(scene.znodes.get("/settings/tmp/b").await, None);
    assert_eq!(scene.znodes.get("/settings/session/d").await, Some(Vec::new()), "only the ancestor of the deeper one");
}

#[tokio::test]
async fn a_ttl_stays_in_redis_and_a_write_of_ours_clears_it() {
    let scene = Scene::start().await;
    scene.redis.run::<()>("SET settings:lease 1 EX 1000").await;
    scene.znode_becomes("/settings/lease", Some("1")).await;
    assert!(scene.redis.run::<i64>("TTL settings:lease").await > 900);
    scene.znodes.put("/settings/lease", "2").await;
    scene.key_becomes("settings:lease", Some("2")).await;
    assert_eq!(scene.redis.run::<i64>("TTL settings:lease").await, -1);
}

#[tokio::test]
async fn after_the_last_change_of_the_user_we_write_no_key_and_no_znode() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    for round in 0..20 {
        for number in 0..20 {
            scene.set(format!("settings:k{number}"), format!("{round}")).await;
            scene.znodes.put(&format!("/settings/z{number}"), format!("{round}")).await;
        }
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    let writes = Writes::watch(&scene).await;
    // Long enough for several comparisons.
    never("something is written", Duration::from_secs(10), async || match writes.seen() {
        seen if seen.is_empty() => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    scene.set("settings:k0", "seen").await;
    eventually("a write is seen on both sides, or nothing was proved", LIVE, async || {
        let seen = writes.seen();
        let both =
            seen.iter().any(|one| one.starts_with("set ")) && seen.iter().any(|one| one.contains("/settings/k0"));
        if both { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_stream_holds_each_change_with_its_value_before() {
    let scene = Scene::start().await;
    scene.znodes.put("/settings/a", "v1").await;
    scene.key_becomes("settings:a", Some("v1")).await;
    scene.znodes.put("/settings/a", "v2").await;
    scene.key_becomes("settings:a", Some("v2")).await;
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    let changes = scene.keepstep.changes().await;
    let ours: Vec<_> = changes.iter().filter(|change| change["pair"]["cache"] == "settings:a").collect();
    let facts: Vec<_> = ours.iter().map(|change| (&change["op"], &change["before"], &change["after"])).collect();
    let facts = serde_json::to_value(facts).unwrap();
    assert_eq!(facts, serde_json::json!([["c", null, "v1"], ["u", "v1", "v2"], ["d", "v2", null]]));
    assert_eq!(ours[0]["pair"]["zk"], "/settings/a");
    assert_eq!(ours[0]["route"], "settings");
    assert_eq!(ours[0]["source"]["connector"], "zookeeper");
    assert_eq!(ours[2]["source"]["connector"], "redis");
    let positions: Vec<u64> = changes.iter().filter_map(|change| change["position"].as_u64()).collect();
    assert!(positions.len() == changes.len() && positions.is_sorted_by(|a, b| a < b), "{positions:?}");
}
