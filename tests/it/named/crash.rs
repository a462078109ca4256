//! Cases 11 to 21: crashes, lost replies, take-overs, replays. The crash matrix (`crashes.rs`) has every point with every kind of change.

use super::case::Case;
use crate::support::{Direction, LIVE, Pipeline, eventually, eventually_is};

/// A killed worker's session ends sooner, so that the next life begins sooner.
fn short(pipeline: Pipeline) -> Pipeline {
    pipeline.session_timeout("2s")
}

/// A worker that ended after its multi and before the sidecar: `value` is in the znode, and the base is in the journal only.
async fn ended_after_the_multi(name: &str, value: &str) -> Case {
    let mut case = Case::start_with(name, short).await;
    case.in_step("a", "0").await;
    case.settle().await;
    // The other way once more, so that the multi before this one is behind that point, too.
    case.put("settle", "towards Redis").await;
    case.becomes("settle", Some("towards Redis")).await;
    case.keepstep.arm("c7-znodes-written");
    case.set("a", value).await;
    case.keepstep.abort(LIVE).await;
    case.keepstep.arm("");
    assert_eq!(case.held("a").await, [Some(value.to_owned()), Some(value.to_owned())]);
    case
}

/// The key is newer than what the dead worker wrote: it is the application's next change, and no conflict.
#[tokio::test]
async fn crash_after_zk_write_then_new_redis_write() {
    let mut case = ended_after_the_multi("crash_after_zk_write_then_new_redis_write", "1").await;
    case.set("a", "2").await;
    case.restart().await;
    case.becomes("a", Some("2")).await;
    case.no_conflict().await;
    case.wrote(1).await;
}

/// The znode is newer than what the dead worker wrote: the same.
#[tokio::test]
async fn crash_after_zk_write_then_new_zk_write() {
    let mut case = ended_after_the_multi("crash_after_zk_write_then_new_zk_write", "1").await;
    case.put("a", "2").await;
    case.restart().await;
    case.becomes("a", Some("2")).await;
    case.no_conflict().await;
    case.wrote(1).await;
}

/// The server did it, and the reply was lost: looked at again, found done, not done again.
#[tokio::test]
async fn reply_lost_applied() {
    let case = Case::start("reply_lost_applied").await;
    case.in_step("a", "0").await;
    case.in_step("b", "0").await;
    case.settle().await;
    let version = case.znodes.stat(&case.path("a")).await.version;
    case.to_zookeeper.lose_reply_to(case.path("a").as_bytes());
    case.set("a", "1").await;
    eventually_is("ZooKeeper's reply is lost", LIVE, true, async || case.to_zookeeper.lost_a_reply()).await;
    case.becomes("a", Some("1")).await;
    case.to_redis.lose_reply_to(case.key("b").as_bytes());
    case.put("b", "1").await;
    eventually_is("Redis' reply is lost", LIVE, true, async || case.to_redis.lost_a_reply()).await;
    case.becomes("b", Some("1")).await;
    case.settle().await;
    case.no_conflict().await;
    assert_eq!(case.znodes.stat(&case.path("a")).await.version, version + 1, "the znode was written once");
    for name in ["a", "b"] {
        let news = case.changes(name).await.iter().filter(|change| change["after"] == "1").count();
        assert_eq!(news, 1, "{name} changed once");
    }
}

/// The request never arrived, and the application wrote meanwhile: its write is not overwritten blindly.
#[tokio::test]
async fn reply_lost_not_applied() {
    let case = Case::start("reply_lost_not_applied").await;
    for name in ["a", "b"] {
        case.in_step(name, "0").await;
    }
    case.settle().await;
    case.to_zookeeper.black_hole(Direction::ToServer);
    case.set("a", "ours").await;
    case.recorded("a", "ours").await;
    case.put("a", "the application's").await;
    case.to_zookeeper.heal();
    case.becomes("a", Some("the application's")).await;
    assert!(case.has_logged("cache", "ours").await, "{:?}", case.conflicts().await);

    case.to_redis.black_hole(Direction::ToServer);
    case.put("b", "ours").await;
    case.recorded("b", "ours").await;
    case.set("b", "the application's").await;
    case.to_redis.heal();
    case.becomes("b", Some("ours")).await;
    assert!(case.has_logged("cache", "the application's").await, "{:?}", case.conflicts().await);
}

/// Redis has value and base, and nobody was told: nothing is left to be done.
#[tokio::test]
async fn crash_between_lua_and_offset_commit() {
    let mut case = Case::start_with("crash_between_lua_and_offset_commit", short).await;
    case.in_step("a", "0").await;
    case.settle().await;
    case.keepstep.arm("c8-keys-written");
    case.put("a", "1").await;
    case.keepstep.abort(LIVE).await;
    case.keepstep.arm("");
    case.restart().await;
    case.becomes("a", Some("1")).await;
    case.wrote(0).await;
    case.no_conflict().await;
    assert_eq!(case.changes("a").await.len(), 2, "created and changed, once each");
}

/// The loser is in the log before it is replaced, however often the worker ends between the two; at most once in each run of it.
#[tokio::test]
async fn crash_between_conflict_record_and_write() {
    let mut case = Case::start_with("crash_between_conflict_record_and_write", short).await;
    case.in_step("a", "0").await;
    case.settle().await;
    case.keepstep.freeze();
    case.set("a", "loser").await;
    case.put("a", "winner").await;
    case.keepstep.arm("c5-recorded");
    case.keepstep.thaw();
    case.keepstep.abort(LIVE).await;
    // And a second time, at the same place.
    case.keepstep.start();
    case.keepstep.abort(LIVE).await;
    case.keepstep.arm("");
    case.restart().await;
    case.becomes("a", Some("winner")).await;
    case.settle().await;
    let rows = case.conflicts().await;
    let is_it = |row: &serde_json::Value| row["zk"] == "winner" && row["cache"] == "loser" && row["winner"] == "zk";
    assert!(!rows.is_empty() && rows.iter().all(is_it), "{rows:?}");
    // The stream is at least once: a worker that ends between record and write leaves its record, and the next has its own.
    assert!(rows.len() <= 3, "more than one a life: {rows:?}");
}

/// Between the fence in ZooKeeper, the fence in Redis and the completed journal, one after the other.
#[tokio::test]
async fn crash_during_takeover() {
    let mut case = ended_after_the_multi("crash_during_takeover", "1").await;
    case.set("b", "made while nobody watched").await;
    case.put("c", "made while nobody watched").await;
    for point in ["c10-fenced-in-zookeeper", "c10-begun-in-redis", "c10-journal-completed"] {
        case.keepstep.arm(point);
        case.keepstep.start();
        case.keepstep.abort(LIVE).await;
    }
    case.keepstep.arm("");
    case.restart().await;
    case.becomes("a", Some("1")).await;
    case.becomes("b", Some("made while nobody watched")).await;
    case.becomes("c", Some("made while nobody watched")).await;
    case.wrote(2).await;
    case.no_conflict().await;
}

/// The journal names a base for a znode that has gone since: that is a delete, and nothing comes back.
#[tokio::test]
async fn restart_with_pending_intent_and_deleted_znode() {
    let mut case = ended_after_the_multi("restart_with_pending_intent_and_deleted_znode", "1").await;
    case.delete("a").await;
    case.restart().await;
    case.becomes("a", None).await;
    case.settle().await;
    case.becomes("a", None).await;
    case.no_conflict().await;
}

/// An old stream is put back under new stores: history, and nothing that would be written.
#[tokio::test]
async fn replay_old_segment_over_new_state() {
    let mut case = Case::start("replay_old_segment_over_new_state").await;
    for name in ["changed", "deleted", "same"] {
        case.in_step(name, "old").await;
    }
    assert_eq!(case.keepstep.terminate().await, Some(0));
    let stream = case.keepstep.data().join("replay-old-segment-over-new-state/stream");
    let old: Vec<_> = std::fs::read_dir(&stream).unwrap().map(|entry| entry.unwrap().path()).collect();
    let old: Vec<_> = old.into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert!(old.iter().any(|(bytes, path)| path.extension().is_some_and(|end| end == "log") && bytes.len() > 200));
    case.run().await;
    case.put("changed", "new").await;
    case.becomes("changed", Some("new")).await;
    case.del("deleted").await;
    case.becomes("deleted", None).await;
    case.in_step("created", "new").await;
    assert_eq!(case.keepstep.terminate().await, Some(0));
    for entry in std::fs::read_dir(&stream).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (bytes, path) in old {
        std::fs::write(path, bytes).unwrap();
    }
    case.restart().await;
    case.wrote(0).await;
    for (name, wanted) in [("changed", Some("new")), ("deleted", None), ("same", Some("old")), ("created", Some("new"))]
    {
        case.becomes(name, wanted).await;
    }
    case.no_conflict().await;
}

/// Events are hints: twice, late, out of order, or of something that never happened, they change nothing.
#[tokio::test]
async fn duplicate_delivery_reordered() {
    let case = Case::start("duplicate_delivery_reordered").await;
    case.in_step("there", "1").await;
    case.in_step("gone", "1").await;
    case.del("gone").await;
    case.becomes("gone", None).await;
    case.settle().await;
    for _ in 0..3 {
        for (name, events) in
            [("there", ["del", "set", "expired", "evicted"]), ("gone", ["set", "del", "set", "rename_to"])]
        {
            for event in events {
                let channel = format!("__keyspace@0__:{}", case.key(name));
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(channel).arg(event);
                let heard: u64 = publish.query_async(&mut case.client.clone()).await.unwrap();
                assert!(heard > 0, "the worker listens there");
            }
        }
        case.settle().await;
        case.becomes("there", Some("1")).await;
        case.becomes("gone", None).await;
    }
    case.wrote(3).await;
    case.no_conflict().await;
    // The real thing behind all that is still seen.
    case.del("there").await;
    case.becomes("there", None).await;
    eventually("the delete is on the stream", LIVE, async || {
        let changes = case.changes("there").await;
        if changes.last().is_some_and(|last| last["op"] == "d") { Ok(()) } else { Err(format!("{changes:?}")) }
    })
    .await;
}
