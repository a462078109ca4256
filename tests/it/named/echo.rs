//! Cases 1 to 10: echoes and loops.

use super::case::Case;
use crate::support::{Keepstep, LIVE, Pipeline, Redis, Scene, ZooKeeper};
use std::time::Duration;

/// A change of one side costs one write to the other, and its echo none.
#[tokio::test]
async fn echo_basic() {
    let case = Case::start("echo_basic").await;
    case.put("a", "1").await;
    case.becomes("a", Some("1")).await;
    case.wrote(1).await;
    case.set("b", "1").await;
    case.becomes("b", Some("1")).await;
    case.wrote(2).await;
    assert_eq!(case.changes("a").await.len(), 1, "the echo is no change");
    assert_eq!(case.changes("b").await.len(), 1, "the echo is no change");
}

/// The same value written again moves the base and nothing else.
#[tokio::test]
async fn echo_same_value_rewrite() {
    let case = Case::start("echo_same_value_rewrite").await;
    case.put("a", "1").await;
    case.becomes("a", Some("1")).await;
    let before = case.znodes.stat(&case.path("a")).await;
    case.put("a", "1").await;
    case.settle().await;
    case.set("a", "1").await;
    case.wrote(1).await;
    let after = case.znodes.stat(&case.path("a")).await;
    assert_eq!(after.version, before.version + 1, "the application's own write, and none of ours");
    // The base is the rewritten state: a change of the other side is no conflict.
    case.set("a", "2").await;
    case.becomes("a", Some("2")).await;
    case.wrote(2).await;
    case.no_conflict().await;
}

/// No time runs out for an echo: it comes two seconds after the write, to a worker that remembers nothing.
#[tokio::test]
async fn echo_after_ttl_cache_expiry() {
    let mut case = Case::prepare("echo_after_ttl_cache_expiry", |pipeline| pipeline).await.without_caches();
    case.run().await;
    for (point, redis) in [("c8-keys-written", false), ("c7-znodes-written", true)] {
        case.keepstep.arm_stop(point);
        if redis {
            case.set("a", point).await;
        } else {
            case.put("a", point).await;
        }
        case.keepstep.stopped(LIVE).await;
        assert_eq!(case.held("a").await, [Some(point.to_owned()), Some(point.to_owned())], "written before it froze");
        // The time is the case: below the 4 s that would take the lease away.
        tokio::time::sleep(Duration::from_secs(2)).await;
        case.keepstep.thaw();
        case.becomes("a", Some(point)).await;
    }
    case.wrote(2).await;
    case.no_conflict().await;
}

/// Events are not counted: writes that give two, three or none, and an application's right behind our own.
#[tokio::test]
async fn echo_count_mismatch() {
    let case = Case::start("echo_count_mismatch").await;
    for round in 0..10 {
        case.put("a", format!("z{round}")).await;
        case.becomes("a", Some(&format!("z{round}"))).await;
        case.redis(&format!("SET $a r{round} PX 100000")).await;
        case.becomes("a", Some(&format!("r{round}"))).await;
        let mut unit = redis::pipe();
        unit.atomic().set(case.key("a"), "x").del(case.key("a")).set(case.key("a"), format!("m{round}"));
        unit.exec_async(&mut case.client.clone()).await.unwrap();
        case.becomes("a", Some(&format!("m{round}"))).await;
    }
    case.no_conflict().await;
}

/// The application writes what we have just written, and then something else, while our echo is still under way.
#[tokio::test]
async fn echo_then_app_same_connection_pool() {
    let mut case = Case::start("echo_then_app_same_connection_pool").await;
    for (second, wanted) in [(Some("v2"), "v2"), (None, "v1")] {
        case.in_step("a", "base").await;
        case.settle().await;
        case.keepstep.arm_stop("c8-keys-written");
        case.put("a", "v1").await;
        case.keepstep.stopped(LIVE).await;
        case.set("a", "v1").await;
        if let Some(second) = second {
            case.set("a", second).await;
        }
        case.keepstep.thaw();
        case.settle().await;
        case.becomes("a", Some(wanted)).await;
    }
    case.no_conflict().await;
}

/// One transaction that sets a znode twice: two events, one zxid, one state.
#[tokio::test]
async fn echo_multi_subops() {
    let case = Case::start("echo_multi_subops").await;
    case.put("a", "0").await;
    case.becomes("a", Some("0")).await;
    for round in 1..=5 {
        let (path, last) = (case.path("a"), format!("{round}-last"));
        let mut multi = case.znodes.client().new_multi_writer();
        multi.add_set_data(&path, b"in between", None).unwrap();
        multi.add_set_data(&path, last.as_bytes(), None).unwrap();
        multi.commit().await.unwrap();
        case.becomes("a", Some(&last)).await;
    }
    case.wrote(6).await;
    assert!(case.changes("a").await.iter().all(|change| change["after"] != "in between"), "nobody could see it");
}

/// Spellings of the same thing are different strings, and none is ever rewritten into another.
#[tokio::test]
async fn echo_codec_nonroundtrip() {
    let case = Case::start("echo_codec_nonroundtrip").await;
    let spellings =
        ["1", "1.0", "1e0", "{\"b\":1, \"a\":2}", "{\"a\":2,\"b\":1}", "line\n", "line", " line", "\u{feff}x"];
    for (number, text) in spellings.iter().enumerate() {
        case.put(&format!("z{number}"), text).await;
        case.set(&format!("r{number}"), text).await;
    }
    for (number, text) in spellings.iter().enumerate() {
        case.becomes(&format!("z{number}"), Some(text)).await;
        case.becomes(&format!("r{number}"), Some(text)).await;
    }
    case.wrote(2 * spellings.len() as u64).await;
}

/// With a route over everything, our own bookkeeping is still nobody's data.
#[tokio::test]
async fn echo_sidecar_feedback() {
    let scene =
        Scene::start_with(|pipeline| pipeline.matches("{zk: /**, cache: \"**\"}").worker("reconcile: 1s")).await;
    for number in 0..20 {
        scene.set(format!("settings:r{number}"), "1").await;
        scene.znodes.put(&format!("/settings/z{number}"), "1").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    let comparisons = scene.keepstep.metric("keepstep_comparisons_total", "").await;
    crate::support::eventually("two more comparisons", LIVE, async || {
        let now = scene.keepstep.metric("keepstep_comparisons_total", "").await;
        if now >= comparisons + 2.0 { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    let changes = scene.keepstep.changes().await;
    let names: Vec<_> = changes.iter().map(|change| change["pair"]["cache"].as_str().unwrap_or_default()).collect();
    assert!(names.iter().all(|name| name.starts_with("settings:")), "{names:?}");
    let keys: Vec<String> = scene.redis.run("KEYS *").await;
    assert!(keys.iter().all(|key| key.starts_with("settings:") || key.starts_with("_keepstep:")), "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("_keepstep:")), "there is bookkeeping to be captured: {keys:?}");
    assert_eq!(scene.keepstep.metric("keepstep_writes_total", "").await, 41.0, "one for each change");
    assert!(scene.keepstep.json("quarantine list", &[]).await.is_empty());
}

/// A second pipeline that would decide the other way is refused, told the owner, and nothing swaps to and fro.
#[tokio::test]
async fn two_pipelines_opposite_policy() {
    let case = Case::start("two_pipelines_opposite_policy").await;
    let (zookeeper, redis) = (case.zookeeper.connect_string(), case.redis.url());
    let another = Pipeline::two_way(zookeeper, redis).name("the-other-policy").route("on_conflict: prefer cache");
    let prefix = "two-pipelines-opposite-policy";
    for matches in [
        format!("{{zk: /{prefix}/**, cache: \"{prefix}:**\"}}"),
        format!("{{zk: /{prefix}/db/**, cache: \"{prefix}:db:**\"}}"),
    ] {
        let mut other = Keepstep::new(another.clone().matches(&matches));
        other.start();
        let log = other.log_at_end(LIVE, 1).await;
        assert!(log.contains(prefix), "it names the owner: {log}");
    }
    case.put("a", "z").await;
    case.becomes("a", Some("z")).await;
    case.wrote(1).await;
}

/// A ring needs ranges that two pipelines share, and a range has one. So no ring can be built, of whatever length.
#[tokio::test]
async fn ring_of_three_concurrent() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let link = |name: &str, from: &str, to: &str, flow: &str| {
        Pipeline::two_way(zookeeper.connect_string(), redis.url())
            .name(name)
            .matches(&format!("{{zk: /{from}/**, cache: \"{to}:**\"}}"))
            .flow(flow)
    };
    let _first = Keepstep::run(link("first", "x", "x", "zk <-> cache")).await;
    for (name, from, to) in [("second", "y", "x"), ("third", "x", "y")] {
        for flow in ["zk <-> cache", "cache <-> zk", "zk -> cache", "cache -> zk"] {
            let mut next = Keepstep::new(link(name, from, to, flow));
            next.start();
            let log = next.log_at_end(LIVE, 1).await;
            assert!(log.contains("first"), "{name} {flow}: it names the owner: {log}");
        }
    }
}
