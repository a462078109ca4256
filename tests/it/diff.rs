//! Diff and repair: what the stores do not have in common, told without false alarms, and made equal on demand.

use crate::support::{Keepstep, LIVE, Place, Scene, Writes, eventually, eventually_is};
use serde_json::{Value, json};
use std::time::Duration;

/// A paused two-way pipeline with one pair of each kind of difference, and one equal pair.
async fn apart(place: Place) -> Scene {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    for key in ["same", "changed", "zk-only", "key-only"] {
        scene.set(format!("settings:{key}"), "base").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    scene.set("settings:changed", "by redis").await;
    scene.del("settings:zk-only").await;
    scene.znodes.delete("/settings/key-only").await;
    scene
}

/// Rows of `diff`, and its exit code.
async fn diff(keepstep: &Keepstep, flags: &[&str]) -> (Option<i32>, Vec<Value>) {
    let outcome = keepstep.command("diff", &[flags, &["--format", "json"]].concat()).await;
    (outcome.code, outcome.objects())
}

fn state<'a>(rows: &'a [Value], key: &str) -> &'a Value {
    rows.iter().find(|row| row["pair"]["cache"] == format!("settings:{key}")).unwrap_or(&Value::Null)
}

async fn diff_tells_what_is_missing_extra_and_different_and_exits_with_1(place: Place) {
    let scene = apart(place).await;
    let (code, rows) = diff(&scene.keepstep, &[]).await;
    assert_eq!((code, rows.len()), (Some(1), 3), "{rows:?}");
    for (key, word, zk, cache) in [
        ("changed", "different", json!("base"), json!("by redis")),
        ("zk-only", "missing", json!("base"), Value::Null),
        ("key-only", "extra", Value::Null, json!("base")),
    ] {
        let row = state(&rows, key);
        assert_eq!((&row["state"], &row["zk"], &row["cache"]), (&json!(word), &zk, &cache), "{rows:?}");
        assert_eq!(row["route"], "settings");
    }
    let text = scene.keepstep.command("diff", &["--key", "*changed"]).await.expect(1).stdout;
    assert!(text.contains("cache is newer") && text.contains("1 differ"), "{text}");
    assert_eq!(diff(&scene.keepstep, &["--key", "*same"]).await, (Some(0), Vec::new()));
    scene.keepstep.command("diff", &["--key", "nothing*"]).await.expect(1);
    scene.keepstep.command("diff", &["--route", "nowhere"]).await.expect(2);
    scene.redis.run::<()>("DEL settings:same").await;
    scene.redis.run::<()>("RPUSH settings:same 1").await;
    let (_, rows) = diff(&scene.keepstep, &["--key", "*same"]).await;
    assert_eq!(state(&rows, "same")["state"], "quarantined", "{rows:?}");
    let text = scene.keepstep.command("diff", &["--key", "*same"]).await.expect(1).stdout;
    assert!(text.contains("zk=\"base\"  cache=(the key is a list"), "{text}");
    scene.redis.run::<()>("DEL settings:same").await;
    scene.set("settings:same", "base").await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.in_step(LIVE).await;
    assert_eq!(diff(&scene.keepstep, &[]).await, (Some(0), Vec::new()));
}

async fn diff_raises_no_false_alarm_under_load(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    let load = |client: ::redis::aio::MultiplexedConnection| async move {
        let mut client = client;
        for round in 0..u32::MAX {
            let (key, value) = (format!("settings:load:{}", round % 50), format!("v{round}"));
            ::redis::cmd("SET").arg(key).arg(value).exec_async(&mut client).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let writer = tokio::spawn(load(scene.client.clone()));
    eventually_is("a znode of the load is there", LIVE, true, async || {
        scene.znodes.text("/settings/load/49").await.is_some()
    })
    .await;
    for _ in 0..5 {
        assert_eq!(diff(&scene.keepstep, &[]).await, (Some(0), Vec::new()));
    }
    writer.abort();
}

async fn repair_makes_the_other_side_equal_and_keeps_what_it_replaces(place: Place) {
    for (prefer, changed) in [("zk", "base"), ("cache", "by redis")] {
        let scene = apart(place).await;
        let rows = scene.keepstep.json("repair", &["--prefer", prefer, "--dry-run"]).await;
        assert_eq!(rows.last().unwrap()["pairs"], 3, "{rows:?}");
        let ops: Vec<&str> = rows.iter().filter_map(|row| row["op"].as_str()).collect();
        assert_eq!(ops.iter().filter(|op| **op == "u").count(), 1, "{rows:?}");
        assert_eq!(ops.len(), 3, "{rows:?}");
        let text = scene.keepstep.command("repair", &["--prefer", prefer, "--dry-run"]).await.expect(0).stdout;
        let (other, only) = if prefer == "zk" { ("cache", "create in cache") } else { ("zk", "delete in zk") };
        for what in
            [format!("update in {other}  settings  /settings/changed"), format!("{only}  settings  /settings/zk-only")]
        {
            assert!(text.contains(&what), "{what}: {text}");
        }
        assert_eq!(scene.text("settings:changed").await.as_deref(), Some("by redis"), "a dry run changes nothing");
        let rows = scene.keepstep.json("repair", &["--prefer", prefer, "--yes"]).await;
        assert_eq!((&rows.last().unwrap()["failed"], &rows.last().unwrap()["pairs"]), (&json!(0), &json!(3)));
        assert_eq!(diff(&scene.keepstep, &[]).await, (Some(0), Vec::new()), "{prefer}");
        assert_eq!(scene.text("settings:changed").await.as_deref(), Some(changed));
        let zk_only = (prefer == "zk").then(|| "base".to_owned());
        assert_eq!(
            (scene.text("settings:zk-only").await, scene.znodes.text("/settings/zk-only").await),
            (zk_only.clone(), zk_only)
        );
        let kept = scene.keepstep.json("conflicts", &[]).await;
        assert_eq!(kept.len(), 2, "a value that was replaced and one that was deleted: {kept:?}");
        assert!(kept.iter().all(|row| row["winner"] == prefer), "{kept:?}");
        let reason = format!("an operator made {other} equal to {prefer}");
        assert!(kept.iter().all(|row| row["reason"] == reason), "{kept:?}");
        scene.keepstep.command("resume", &[]).await.expect(0);
        scene.settle().await;
        let writes = Writes::watch(&scene).await;
        scene.keepstep.command("reconcile", &[]).await.expect(0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(writes.seen(), Vec::<String>::new(), "{prefer}: both sides agree, so nothing is written");
        assert_eq!(scene.text("settings:changed").await.as_deref(), Some(changed));
    }
}

async fn repair_works_without_a_worker_and_a_worker_finds_all_in_step(place: Place) {
    let mut scene = apart(place).await;
    scene.keepstep.terminate().await;
    scene.keepstep.command("repair", &["--prefer", "cache", "--yes"]).await.expect(0);
    assert_eq!(diff(&scene.keepstep, &[]).await, (Some(0), Vec::new()));
    let kept = scene.keepstep.json("conflicts", &[]).await.len();
    scene.run().await;
    // The pause has outlived the worker.
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.settle().await;
    assert_eq!(scene.keepstep.json("conflicts", &[]).await.len(), kept, "the worker has nothing to settle");
    assert_eq!(scene.znodes.text("/settings/changed").await.as_deref(), Some("by redis"));
    eventually("the route is live", LIVE, async || {
        let status = scene.keepstep.json("status", &[]).await;
        if status[0]["routes"][0]["state"] == "live" { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn what_only_a_destination_has_is_extra_and_repair_removes_it(place: Place) {
    let mut scene = Scene::prepare(&[], |pipeline| place.of(pipeline.flow("zk -> cache"))).await;
    scene.run().await;
    scene.znodes.put("/settings/a", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    scene.set("settings:mine", "left alone").await;
    scene.znodes.put("/settings/b", "2").await;
    scene.key_becomes("settings:b", Some("2")).await;
    let (code, rows) = diff(&scene.keepstep, &[]).await;
    assert_eq!((code, &state(&rows, "mine")["state"], rows.len()), (Some(1), &json!("extra"), 1), "{rows:?}");
    scene.keepstep.command("repair", &["--prefer", "zk", "--yes"]).await.expect(0);
    assert_eq!(scene.text("settings:mine").await, None);
    let kept = scene.keepstep.json("conflicts", &["--key", "settings:mine"]).await;
    assert_eq!(kept.last().map(|row| &row["cache"]), Some(&json!("left alone")), "{kept:?}");
}

#[tokio::test]
async fn stores_that_cannot_be_compared_are_told() {
    let captured = Scene::prepare(&[], |pipeline| pipeline.capture_redis()).await;
    captured.keepstep.command("diff", &[]).await.expect(2);
    captured.keepstep.command("repair", &["--prefer", "cache", "--yes"]).await.expect(2);
    captured.keepstep.command("repair", &["--prefer", "zk", "--yes"]).await.expect(2);
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.redis.stop().await;
    scene.keepstep.command("diff", &["--timeout", "1s"]).await.expect(75);
    scene.keepstep.command("repair", &["--prefer", "zk", "--yes", "--timeout", "1s"]).await.expect(75);
}

on_both_streams!(
    diff_tells_what_is_missing_extra_and_different_and_exits_with_1,
    diff_raises_no_false_alarm_under_load,
    repair_makes_the_other_side_equal_and_keeps_what_it_replaces,
    repair_works_without_a_worker_and_a_worker_finds_all_in_step,
    what_only_a_destination_has_is_extra_and_repair_removes_it,
);
