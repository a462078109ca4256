//! Cases 29 and 61 to 68: numbers that wrap, odd values, odd names, another map.

use super::case::Case;
use super::raw::{RawSession, with_versions};
use crate::support::{LIVE, Scene, eventually_is};
use std::time::Duration;

/// A dataVersion is compared for equality only: over the end of its 32 bits, and past -1, which would mean "any".
#[tokio::test]
async fn version_wrap() {
    let mut scene = Scene::start().await;
    for name in ["a", "b"] {
        scene.znodes.put(&format!("/settings/{name}"), "0").await;
        scene.key_becomes(&format!("settings:{name}"), Some("0")).await;
    }
    scene.settle().await;
    scene.keepstep.terminate().await;
    // A server writes a snapshot when it starts; then the versions in it are made what they are after years of writes.
    scene.zookeeper.restart().await;
    let backup = scene.zookeeper.back_up();
    with_versions(backup.path(), &[("/settings/a", i32::MAX - 2), ("/settings/b", -4)]);
    scene.zookeeper.restart_from(&backup).await;
    scene.znodes = scene.zookeeper.client().await;
    assert_eq!(scene.znodes.stat("/settings/a").await.version, i32::MAX - 2);
    assert_eq!(scene.znodes.stat("/settings/b").await.version, -4);
    scene.run().await;
    let mut seen = Vec::new();
    for round in 0..3 {
        for name in ["a", "b"] {
            let (path, key) = (format!("/settings/{name}"), format!("settings:{name}"));
            let (from_redis, from_zookeeper) = (format!("r{round}"), format!("z{round}"));
            scene.set(&key, &from_redis).await;
            scene.znode_becomes(&path, Some(&from_redis)).await;
            seen.push(scene.znodes.stat(&path).await.version);
            scene.znodes.put(&path, &from_zookeeper).await;
            scene.key_becomes(&key, Some(&from_zookeeper)).await;
            seen.push(scene.znodes.stat(&path).await.version);
        }
    }
    assert!(seen.contains(&i32::MAX) && seen.contains(&i32::MIN), "over the end: {seen:?}");
    assert!(seen.contains(&-2) && seen.contains(&1), "past -1: {seen:?}");
    assert!(scene.keepstep.json("conflicts", &[]).await.is_empty());
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "{changes:?}");
}

/// A znode whose data is null, as some clients leave it, is one whose data is empty.
#[tokio::test]
async fn null_vs_empty_data() {
    let case = Case::start("null_vs_empty_data").await;
    let mut raw = RawSession::connect(case.zookeeper.address()).await;
    case.put("x", "1").await;
    case.becomes("x", Some("1")).await;
    // Without a base: no key, like an empty one.
    raw.create(&case.path("null"), None).await;
    raw.create(&case.path("empty"), Some(b"")).await;
    case.settle().await;
    for name in ["null", "empty"] {
        assert_eq!(case.held(name).await, [Some(String::new()), None], "{name}");
    }
    // Emptied while it stands for a value: the key goes in either spelling.
    for (name, data) in [("null", None), ("empty", Some(&b""[..]))] {
        case.set(name, "full").await;
        case.becomes(name, Some("full")).await;
        raw.set_data(&case.path(name), data).await;
        eventually_is(format!("{name}: znode and key"), LIVE, [Some(String::new()), None], async || {
            case.held(name).await
        })
        .await;
    }
    // With a base that says that it stands for an empty value, null is that value.
    case.in_step("value", "").await;
    raw.set_data(&case.path("value"), None).await;
    case.settle().await;
    case.becomes("value", Some("")).await;
    case.set("value", "full").await;
    case.becomes("value", Some("full")).await;
    case.no_conflict().await;
    case.quarantine_becomes(&[]).await;
}

/// Every byte, and what no text decoder takes, is carried as it is, both ways.
#[tokio::test]
async fn binary_and_invalid_utf8() {
    let case = Case::start("binary_and_invalid_utf8").await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let values: [&[u8]; 6] = [&every_byte, b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\0", b"\0\0text\0"];
    for (number, value) in values.iter().enumerate() {
        case.put(&format!("z{number}"), value).await;
        case.set(&format!("r{number}"), value).await;
    }
    for (number, value) in values.iter().enumerate() {
        for name in [format!("z{number}"), format!("r{number}")] {
            let bytes = async || {
                let mut get = redis::cmd("GET");
                let key: Option<Vec<u8>> =
                    get.arg(case.key(&name)).query_async(&mut case.client.clone()).await.unwrap();
                [case.znodes.get(&case.path(&name)).await, key]
            };
            eventually_is(&name, LIVE, [Some(value.to_vec()), Some(value.to_vec())], bytes).await;
        }
    }
    case.wrote(12).await;
}

/// 1,000,000 bytes are mirrored, one more is not, from either side; ZooKeeper itself would take 1,048,376.
#[tokio::test]
async fn exactly_limit_and_plus_one() {
    const LIMIT: usize = 1_000_000;
    let case = Case::start("exactly_limit_and_plus_one").await;
    let lengths = async |name: &str| {
        let znode = case.znodes.get(&case.path(name)).await.map(|data| data.len());
        let mut strlen = redis::cmd("STRLEN");
        let key: usize = strlen.arg(case.key(name)).query_async(&mut case.client.clone()).await.unwrap();
        (znode, key)
    };
    for (length, other) in [(LIMIT, LIMIT), (LIMIT + 1, 0), (1_048_376, 0)] {
        case.put(&format!("z{length}"), vec![b'z'; length]).await;
        case.set(&format!("r{length}"), vec![b'r'; length]).await;
        if other > 0 {
            for side in ["z", "r"] {
                let name = format!("{side}{length}");
                eventually_is(&name, LIVE, (Some(length), length), async || lengths(&name).await).await;
            }
        }
    }
    case.set(&format!("r{}", 1_048_576), vec![b'r'; 1_048_576]).await;
    case.quarantine_becomes(&["too_large"; 5]).await;
    case.settle().await;
    assert_eq!(lengths(&format!("z{}", LIMIT + 1)).await, (Some(LIMIT + 1), 0));
    assert_eq!(lengths(&format!("r{}", LIMIT + 1)).await, (None, LIMIT + 1));
    // One byte less heals it.
    case.set(&format!("r{}", LIMIT + 1), vec![b'r'; LIMIT]).await;
    let name = format!("r{}", LIMIT + 1);
    eventually_is(&name, LIVE, (Some(LIMIT), LIMIT), async || lengths(&name).await).await;
    case.quarantine_becomes(&["too_large"; 4]).await;
}

/// Keys with braces of every kind have a place for their base and are carried like any other. (On a cluster it must lie in the
/// key's own slot: `every_key_has_a_bucket_in_its_own_slot` in `src/store/redis/slot.rs`.)
#[tokio::test]
async fn cluster_slot_odd_keys() {
    let mut case = Case::start_with("cluster_slot_odd_keys", |pipeline| pipeline.session_timeout("2s")).await;
    let names = ["a}b", "{}x", "{tag}x", "}{", "{", "}", "{{a}}", "{a}{b}", "a{b", "{a", "{}"];
    for name in names {
        case.in_step(name, "r").await;
    }
    for name in names {
        case.put(name, "z").await;
        case.becomes(name, Some("z")).await;
    }
    // Each has its base: a delete that nobody saw is a delete.
    case.settle().await;
    case.keepstep.kill9();
    for name in names {
        case.del(name).await;
    }
    case.restart().await;
    for name in names {
        case.becomes(name, None).await;
    }
    case.no_conflict().await;
}

/// Names that a careless map would lay onto each other are different pairs.
#[tokio::test]
async fn path_key_collision() {
    let case = Case::start("path_key_collision").await;
    let prefix = "path-key-collision";
    let pairs = [
        ("a/b", "a:b"),
        ("a:b", "a/b"),
        ("a/%/b", "a::b"),
        ("a::b", "a//b"),
        ("a%b", "a%b"),
        ("%252E", "%2E"),
        ("%2E", "."),
    ];
    for (path, key) in pairs {
        let (path, key) = (format!("/{prefix}/{path}"), format!("{prefix}:{key}"));
        case.znodes.put(&path, &path).await;
        let text =
            async || redis::cmd("GET").arg(&key).query_async::<Option<String>>(&mut case.client.clone()).await.unwrap();
        eventually_is(&key, LIVE, Some(path.clone()), text).await;
    }
    for (path, key) in pairs {
        let (path, key) = (format!("/{prefix}/{path}"), format!("{prefix}:{key}"));
        redis::cmd("SET").arg(&key).arg(&key).exec_async(&mut case.client.clone()).await.unwrap();
        eventually_is(&path, LIVE, Some(key), async || case.znodes.text(&path).await).await;
    }
    case.wrote(2 * pairs.len() as u64).await;
}

/// What is ZooKeeper's own or ours is nobody's data, and names that no znode can have come back as they were.
#[tokio::test]
async fn reserved_paths() {
    let scene =
        Scene::start_with(|pipeline| pipeline.matches("{zk: /**, cache: \"**\"}").worker("reconcile: 1s")).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    for key in ["zookeeper", "zookeeper:quota", "zookeeper:config", "_keepstep", "_keepstep:settings2", "_keepstep:x:y"]
    {
        scene.set(key, "an application's").await;
    }
    let odd: [(&str, &[u8]); 8] = [
        ("/settings/%2E", b"settings:."),
        ("/settings/%2E%2E", b"settings:.."),
        ("/settings/a/%2E%2E/b", b"settings:a:..:b"),
        ("/settings/%00", b"settings:\0"),
        ("/settings/%01x", b"settings:\x01x"),
        ("/settings/%7F", b"settings:\x7f"),
        ("/settings/%FF", b"settings:\xff"),
        ("/settings/end/%", b"settings:end:"),
    ];
    for (path, key) in odd {
        scene.set(key, path).await;
        scene.znode_becomes(path, Some(path)).await;
        scene.znodes.put(path, "back").await;
        eventually_is(path, LIVE, Some(b"back".to_vec()), async || scene.get(key).await).await;
        scene.del(key).await;
        scene.znode_becomes(path, None).await;
    }
    scene.settle().await;
    let tree = scene.znodes.tree("/zookeeper").await;
    assert!(tree.iter().all(|(_, data)| data != b"an application's"), "{tree:?}");
    let all = scene.znodes.tree("").await;
    assert!(all.iter().all(|(_, data)| data != b"an application's"), "{all:?}");
    let changes = scene.keepstep.changes().await;
    let names: Vec<_> = changes.iter().map(|change| change["pair"]["zk"].as_str().unwrap_or_default()).collect();
    assert!(names.iter().all(|name| name.starts_with("/settings/")), "{names:?}");
    assert!(scene.keepstep.json("quarantine list", &[]).await.is_empty());
    assert_eq!(scene.text("zookeeper:quota").await.as_deref(), Some("an application's"), "left alone");
}

/// Another separator, another range: the pairs of the old map are left alone, and nothing is deleted.
#[tokio::test]
async fn mapping_changed_between_runs() {
    const PAIRS: usize = 150;
    let name = "mapping-changed-between-runs";
    let mut case = Case::start_with("mapping_changed_between_runs", |pipeline| pipeline.session_timeout("2s")).await;
    for number in 0..PAIRS {
        case.set(&format!("db:{number}"), "1").await;
    }
    case.becomes("db:149", Some("1")).await;
    case.settle().await;
    let count = async |pattern: &str| {
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut case.client.clone()).await.unwrap();
        keys.len()
    };
    let znodes = async || case.znodes.tree(&format!("/{name}/db")).await.len();
    eventually_is("znodes", LIVE, PAIRS, znodes).await;
    let keys = count(&format!("{name}:*")).await;
    let before = std::fs::read_to_string(case.keepstep.file()).unwrap();
    // The keys of the same znodes have other names now; the old keys are nobody's.
    let matches = format!("cache: \"{name}:**\"}}");
    assert!(before.contains(&matches), "{before}");
    case.keepstep.terminate().await;
    let moved = before.replace(&matches, &format!("cache: \"{name}-moved:**\"}}\n    separator: \".\""));
    let moved = moved.replace(&format!("\"{name}-moved:**\""), &format!("\"{name}-moved.**\""));
    case.keepstep.rewrite(&moved);
    case.keepstep.restart().await;
    eventually_is("keys under the new map", LIVE, PAIRS, async || count(&format!("{name}-moved.db.*")).await).await;
    assert_eq!(znodes().await, PAIRS);
    assert_eq!(count(&format!("{name}:*")).await, keys, "the old keys are left alone");
    // Back to the old map: old keys and znodes meet again, equal.
    case.keepstep.terminate().await;
    case.keepstep.rewrite(&before);
    case.keepstep.restart().await;
    tokio::time::timeout(Duration::from_secs(20), case.settle()).await.expect("it flows");
    assert_eq!((znodes().await, count(&format!("{name}:*")).await), (PAIRS, keys));
    assert_eq!(count(&format!("{name}-moved.db.*")).await, PAIRS);
    let changes = case.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "nothing was deleted");
    case.no_conflict().await;
    assert_eq!(case.keepstep.json("status", &[]).await[0]["routes"][0]["state"], "live");
}
