//! Both sides changed: who wins under each rule, and that the loser is kept.

use crate::support::{LIVE, Scene, eventually, never};
use serde_json::{Value, json};
use std::time::Duration;

/// A worker with this rule and one pair in step, paused so that both sides can change before either is carried over.
async fn paused(rule: &str) -> Scene {
    let scene = Scene::start_with(|pipeline| pipeline.route(rule).worker("reconcile: 2s")).await;
    scene.set("settings:a", "base").await;
    scene.znode_becomes("/settings/a", Some("base")).await;
    scene.settle().await;
    pause(&scene).await;
    scene
}

async fn pause(scene: &Scene) {
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
}

async fn resume(scene: &Scene) {
    scene.keepstep.command("resume", &[]).await.expect(0);
}

/// The pair becomes this on both sides, and there is exactly one conflict, which this says.
async fn settled(scene: &Scene, value: &str, zk: Value, cache: Value, winner: &str, rule: &str) {
    scene.znode_becomes("/settings/a", Some(value)).await;
    scene.key_becomes("settings:a", Some(value)).await;
    let conflicts = eventually("the conflict is in the log", LIVE, async || {
        let conflicts = scene.keepstep.json("conflicts", &[]).await;
        if conflicts.is_empty() { Err("no conflict".to_owned()) } else { Ok(conflicts) }
    })
    .await;
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    let conflict = &conflicts[0];
    assert_eq!((&conflict["zk"], &conflict["cache"]), (&zk, &cache), "{conflict}");
    assert_eq!((conflict["winner"].as_str(), conflict["rule"].as_str()), (Some(winner), Some(rule)), "{conflict}");
    assert_eq!(conflict["pair"], json!({"zk": "/settings/a", "cache": "settings:a"}));
    assert_eq!(scene.keepstep.metric("keepstep_conflicts_total", &format!("winner=\"{winner}\"")).await, 1.0);
}

#[tokio::test]
async fn prefer_zk_takes_the_znode_and_keeps_the_key_in_the_log() {
    let scene = paused("on_conflict: prefer zk").await;
    scene.znodes.put("/settings/a", "from zk").await;
    scene.set("settings:a", "from redis").await;
    resume(&scene).await;
    settled(&scene, "from zk", json!("from zk"), json!("from redis"), "zk", "prefer zk").await;
}

#[tokio::test]
async fn prefer_cache_takes_the_key() {
    let scene = paused("on_conflict: prefer cache").await;
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/a", "from zk").await;
    resume(&scene).await;
    settled(&scene, "from redis", json!("from zk"), json!("from redis"), "cache", "prefer cache").await;
}

#[tokio::test]
async fn by_default_the_store_named_first_wins() {
    let scene = Scene::start_with(|pipeline| pipeline.flow("cache <-> zk").worker("reconcile: 2s")).await;
    scene.set("settings:a", "base").await;
    scene.znode_becomes("/settings/a", Some("base")).await;
    scene.settle().await;
    pause(&scene).await;
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/a", "from zk").await;
    resume(&scene).await;
    settled(&scene, "from redis", json!("from zk"), json!("from redis"), "cache", "prefer cache").await;
}

/// The rule compares clocks, so time has to pass between the two changes: more than clocks that are close may differ.
const APART: Duration = Duration::from_secs(4);

#[tokio::test]
async fn latest_takes_what_changed_last_whichever_side_it_is() {
    let scene = paused("on_conflict: latest").await;
    scene.znodes.put("/settings/a", "earlier").await;
    tokio::time::sleep(APART).await;
    scene.set("settings:a", "later").await;
    resume(&scene).await;
    settled(&scene, "later", json!("earlier"), json!("later"), "cache", "latest").await;

    let scene = paused("on_conflict: latest").await;
    scene.set("settings:a", "earlier").await;
    tokio::time::sleep(APART).await;
    scene.znodes.put("/settings/a", "later").await;
    resume(&scene).await;
    settled(&scene, "later", json!("later"), json!("earlier"), "zk", "latest").await;
}

#[tokio::test]
async fn higher_version_takes_the_side_with_more_writes() {
    let scene = paused("on_conflict: higher_version").await;
    scene.znodes.put("/settings/a", "one write").await;
    for value in ["1", "2", "third write"] {
        scene.set("settings:a", value).await;
    }
    resume(&scene).await;
    settled(&scene, "third write", json!("one write"), json!("third write"), "cache", "higher_version").await;

    let scene = paused("on_conflict: higher_version").await;
    scene.set("settings:a", "one write").await;
    for value in ["1", "2", "third write"] {
        scene.znodes.put("/settings/a", value).await;
    }
    resume(&scene).await;
    settled(&scene, "third write", json!("third write"), json!("one write"), "zk", "higher_version").await;
}

#[tokio::test]
async fn a_tie_goes_to_the_store_named_first_and_the_log_says_so() {
    let scene = paused("on_conflict: higher_version").await;
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/a", "from zk").await;
    resume(&scene).await;
    scene.key_becomes("settings:a", Some("from zk")).await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(conflicts[0]["winner"], "zk");
    assert!(conflicts[0]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{conflicts:?}");
}

#[tokio::test]
async fn a_quarantined_conflict_touches_neither_side_and_heals_when_they_agree() {
    let scene = paused("on_conflict: quarantine").await;
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/a", "from zk").await;
    resume(&scene).await;
    scene.quarantine_becomes(&["conflict"]).await;
    scene.settle().await;
    never("either side is touched", Duration::from_secs(4), async || {
        let now = (scene.znodes.text("/settings/a").await, scene.text("settings:a").await);
        if now == (Some("from zk".to_owned()), Some("from redis".to_owned())) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    scene.set("settings:a", "from zk").await;
    scene.quarantine_becomes(&[]).await;
    scene.znodes.put("/settings/a", "flows again").await;
    scene.key_becomes("settings:a", Some("flows again")).await;
}

#[tokio::test]
async fn without_a_base_two_values_are_a_conflict_and_equal_ones_are_not() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.route("on_conflict: prefer cache")).await;
    scene.znodes.put("/settings/a", "from zk").await;
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/same", "same").await;
    scene.set("settings:same", "same").await;
    scene.run().await;
    settled(&scene, "from redis", json!("from zk"), json!("from redis"), "cache", "prefer cache").await;
}

#[tokio::test]
async fn changes_made_while_no_worker_watched_go_to_the_store_named_first_unless_one_is_preferred() {
    for (rule, winner) in [("latest", "from zk"), ("higher_version", "from zk"), ("prefer cache", "from redis")] {
        let mut scene = paused(&format!("on_conflict: {rule}")).await;
        scene.keepstep.command("resume", &[]).await.expect(0);
        scene.keepstep.kill9();
        scene.znodes.put("/settings/a", "from zk").await;
        for value in ["1", "2", "from redis"] {
            scene.set("settings:a", value).await;
        }
        scene.keepstep.restart().await;
        scene.key_becomes("settings:a", Some(winner)).await;
        scene.znode_becomes("/settings/a", Some(winner)).await;
        let conflicts = scene.keepstep.json("conflicts", &[]).await;
        assert_eq!(conflicts.len(), 1, "{rule}: {conflicts:?}");
    }
}

#[tokio::test]
async fn a_znode_recreated_at_its_old_version_while_no_worker_ran_is_not_taken_for_the_one_known_before() {
    const PAIRS: usize = 150;
    let mut scene = Scene::start_with(|pipeline| pipeline.route("on_conflict: prefer cache")).await;
    for number in 0..PAIRS {
        scene.set(format!("settings:{number}"), "before").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.kill9();
    for number in 0..PAIRS {
        let path = format!("/settings/{number}");
        let version = scene.znodes.stat(&path).await.version;
        scene.znodes.delete(&path).await;
        scene.znodes.put(&path, format!("z{number}")).await;
        assert_eq!(scene.znodes.stat(&path).await.version, version, "the very version that the base has");
    }
    // Keys have changed, too, and go on changing at every moment of the start, before the first comparison has come to their pair. A
    // worker that found one as it was would rightly give it the znode's value.
    let mut last = 0;
    let set_all = async |scene: &Scene, last: u32| {
        for number in 0..PAIRS {
            scene.set(format!("settings:{number}"), format!("r{last}")).await;
        }
    };
    set_all(&scene, last).await;
    scene.keepstep.start();
    while scene.keepstep.metric_or_zero("keepstep_comparisons_total").await == 0.0 {
        last += 1;
        set_all(&scene, last).await;
    }
    scene.in_step(LIVE).await;
    let logged = scene.keepstep.json("conflicts", &[]).await;
    for number in 0..PAIRS {
        let value = format!("z{number}");
        assert!(logged.iter().any(|row| row["zk"] == value.as_str()), "{value} was overwritten without a word");
    }
}
