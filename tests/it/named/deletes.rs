//! Cases 35 to 45: deletes, recreations, and what must not come back.

use super::case::Case;
use crate::support::{LIVE, Pipeline, eventually, eventually_is};
use futures::future::join_all;

/// A change beats a delete, whichever side it is on, under every rule.
#[tokio::test]
async fn delete_vs_update() {
    let rules = ["prefer zk", "prefer cache", "latest", "higher_version", "quarantine"];
    let runs = rules.iter().enumerate().map(|(number, rule)| async move {
        let with = |pipeline: Pipeline| pipeline.route(&format!("on_conflict: {rule}"));
        let mut case = Case::start_with(&format!("delete_vs_update_{number}"), with).await;
        case.in_step("a", "base").await;
        case.in_step("b", "base").await;
        case.settle().await;
        case.keepstep.freeze();
        case.delete("a").await;
        case.set("a", "changed").await;
        case.del("b").await;
        case.put("b", "changed").await;
        case.keepstep.thaw();
        case.becomes("a", Some("changed")).await;
        case.becomes("b", Some("changed")).await;
        case.settle().await;
        case.becomes("a", Some("changed")).await;
        case.becomes("b", Some("changed")).await;
        case.quarantine_becomes(&[]).await;
    });
    join_all(runs).await;
}

/// Both sides deleted it: the base is forgotten, nothing is written, nothing is in conflict.
#[tokio::test]
async fn delete_both() {
    let mut case = Case::start("delete_both").await;
    case.in_step("a", "1").await;
    case.settle().await;
    case.keepstep.freeze();
    case.delete("a").await;
    case.del("a").await;
    case.keepstep.thaw();
    case.wrote(1).await;
    case.becomes("a", None).await;
    case.no_conflict().await;
    // Without a base it is a new pair.
    case.put("a", "2").await;
    case.becomes("a", Some("2")).await;
}

/// Another znode with the same value, whose versions begin anew: agreed, and nothing is written.
#[tokio::test]
async fn delete_recreate_same_value() {
    let mut case = Case::start("delete_recreate_same_value").await;
    for (name, value) in [("a", "1"), ("b", "1")] {
        case.in_step(name, value).await;
    }
    case.settle().await;
    case.keepstep.freeze();
    let before = case.znodes.stat(&case.path("a")).await.czxid;
    case.delete("a").await;
    case.put("a", "1").await;
    assert_ne!(case.znodes.stat(&case.path("a")).await.czxid, before);
    case.del("b").await;
    case.set("b", "1").await;
    case.keepstep.thaw();
    case.wrote(2).await;
    case.no_conflict().await;
    // The base knows the new znode.
    case.set("a", "2").await;
    case.becomes("a", Some("2")).await;
    case.put("b", "2").await;
    case.becomes("b", Some("2")).await;
    case.wrote(4).await;
    case.no_conflict().await;
}

/// Deleted and made anew before anybody looked: the new value is carried, and no delete in between.
#[tokio::test]
async fn delete_recreate_coalesced() {
    let mut case = Case::start("delete_recreate_coalesced").await;
    case.in_step("a", "1").await;
    case.in_step("b", "1").await;
    case.settle().await;
    case.keepstep.freeze();
    case.delete("a").await;
    case.put("a", "2").await;
    case.redis("DEL $b").await;
    case.set("b", "2").await;
    case.keepstep.thaw();
    case.becomes("a", Some("2")).await;
    case.becomes("b", Some("2")).await;
    case.wrote(4).await;
    case.no_conflict().await;
    for name in ["a", "b"] {
        let changes = case.changes(name).await;
        assert!(changes.iter().all(|change| change["op"] != "d"), "{changes:?}");
    }
}

/// A comparison has looked at half of everything when pairs are deleted: what it saw before does not bring them back.
#[tokio::test]
async fn resurrect_from_old_snapshot_scan() {
    let short = |pipeline: Pipeline| pipeline.session_timeout("2s");
    let mut case = Case::start_with("resurrect_from_old_snapshot_scan", short).await;
    for point in ["c12-znodes-compared", "c12-all-compared"] {
        let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
        for name in &names {
            case.set(name, point).await;
        }
        case.becomes("n19", Some(point)).await;
        case.settle().await;
        case.keepstep.kill9();
        case.keepstep.arm_stop(point);
        case.keepstep.start();
        case.keepstep.stopped(LIVE).await;
        for (number, name) in names.iter().enumerate() {
            if number % 2 == 0 { case.del(name).await } else { case.delete(name).await }
        }
        case.keepstep.thaw();
        case.keepstep.wait_ready().await;
        let before = case.keepstep.metric("keepstep_comparisons_total", "").await;
        case.keepstep.command("reconcile", &[]).await.expect(0);
        eventually("another comparison", LIVE, async || {
            let now = case.keepstep.metric("keepstep_comparisons_total", "").await;
            if now > before { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
        case.settle().await;
        for name in &names {
            case.becomes(name, None).await;
        }
    }
    case.no_conflict().await;
}

/// What is known of a delete never runs out: a sidecar has no time to live, and a pair without one has nothing to come back from.
#[tokio::test]
async fn resurrect_after_tombstone_purge() {
    let short = |pipeline: Pipeline| pipeline.session_timeout("2s");
    let mut case = Case::start_with("resurrect_after_tombstone_purge", short).await;
    for name in ["key", "znode", "both", "stays"] {
        case.in_step(name, "1").await;
    }
    case.settle().await;
    let mut client = case.client.clone();
    let buckets: Vec<String> =
        redis::cmd("KEYS").arg("_keepstep:resurrect-after-tombstone-purge*").query_async(&mut client).await.unwrap();
    assert!(buckets.len() > 1, "{buckets:?}");
    for bucket in buckets {
        let lives: i64 = redis::cmd("PTTL").arg(&bucket).query_async(&mut client).await.unwrap();
        assert_eq!(lives, -1, "{bucket} goes by itself");
    }
    case.keepstep.kill9();
    case.del("key").await;
    case.delete("znode").await;
    case.del("both").await;
    case.delete("both").await;
    for _ in 0..2 {
        case.restart().await;
        case.settle().await;
        for name in ["key", "znode", "both"] {
            case.becomes(name, None).await;
        }
    }
    case.becomes("stays", Some("1")).await;
    case.no_conflict().await;
}

/// Children first, their parent later, from either side: each is a pair of its own.
#[tokio::test]
async fn create_child_before_parent() {
    let case = Case::start("create_child_before_parent").await;
    case.set("r:child", "1").await;
    case.becomes("r:child", Some("1")).await;
    assert_eq!(case.held("r").await, [Some(String::new()), None], "the ancestor stands for no key");
    case.set("r", "parent").await;
    case.becomes("r", Some("parent")).await;
    case.put("z:child", "1").await;
    case.becomes("z:child", Some("1")).await;
    case.put("z", "parent").await;
    case.becomes("z", Some("parent")).await;
    // Both in one round, the deeper one first.
    let mut unit = redis::pipe();
    unit.atomic().set(case.key("m:a:b"), "deep").set(case.key("m:a"), "middle").set(case.key("m"), "top");
    unit.exec_async(&mut case.client.clone()).await.unwrap();
    for (name, value) in [("m:a:b", "deep"), ("m:a", "middle"), ("m", "top")] {
        case.becomes(name, Some(value)).await;
    }
    case.no_conflict().await;
    case.quarantine_becomes(&[]).await;
}

/// A key whose znode would lie under an ephemeral one waits in quarantine until that one is gone.
#[tokio::test]
async fn child_under_ephemeral() {
    let case = Case::start_with("child_under_ephemeral", |pipeline| pipeline.worker("reconcile: 1s")).await;
    case.put("folder:x", "1").await;
    let member = case.zookeeper.client().await;
    member.put_ephemeral(&case.path("folder:parent"), "alive").await;
    case.becomes("folder:parent", Some("alive")).await;
    case.set("folder:parent:child", "1").await;
    case.quarantine_becomes(&["ephemeral_parent"]).await;
    case.settle().await;
    drop(member);
    case.becomes("folder:parent:child", Some("1")).await;
    case.quarantine_becomes(&[]).await;
}

/// A thousand ephemerals of one session vanish while no worker runs: that is how ephemerals go, and no mass delete to ask about.
#[tokio::test]
async fn ephemeral_mass_expiry() {
    const MEMBERS: usize = 1_000;
    let short = |pipeline: Pipeline| pipeline.session_timeout("2s");
    let mut case = Case::start_with("ephemeral_mass_expiry", short).await;
    case.in_step("stays", "1").await;
    case.put("members:x", "1").await;
    let session = case.zookeeper.client().await;
    let paths: Vec<String> = (0..MEMBERS).map(|number| case.path(&format!("members:{number}"))).collect();
    for paths in paths.chunks(100) {
        join_all(paths.iter().map(|path| session.put_ephemeral(path, "alive"))).await;
    }
    let keys = async || {
        let mut client = case.client.clone();
        let keys: Vec<String> = redis::cmd("KEYS").arg(case.key("members:*")).query_async(&mut client).await.unwrap();
        keys.len()
    };
    eventually_is("keys", LIVE, MEMBERS + 1, keys).await;
    case.settle().await;
    case.keepstep.kill9();
    drop(session);
    eventually_is("znodes", LIVE, 1, async || case.znodes.tree(&case.path("members")).await.len()).await;
    case.restart().await;
    let keys = async || {
        let mut client = case.client.clone();
        let keys: Vec<String> = redis::cmd("KEYS").arg(case.key("members:*")).query_async(&mut client).await.unwrap();
        keys.len()
    };
    eventually_is("keys", LIVE, 1, keys).await;
    assert_eq!(case.keepstep.json("status", &[]).await[0]["routes"][0]["state"], "live");
    case.becomes("stays", Some("1")).await;
}

/// A key that came and went before anybody looked is not known to have been: the znode's value stays, and nothing is in conflict.
#[tokio::test]
async fn unseen_create_delete_vs_set() {
    let mut case = Case::start("unseen_create_delete_vs_set").await;
    case.settle().await;
    case.keepstep.freeze();
    case.set("a", "never seen").await;
    case.del("a").await;
    case.put("a", "z").await;
    case.put("b", "never seen").await;
    case.delete("b").await;
    case.set("b", "r").await;
    case.keepstep.thaw();
    case.becomes("a", Some("z")).await;
    case.becomes("b", Some("r")).await;
    case.wrote(2).await;
    case.no_conflict().await;
}
