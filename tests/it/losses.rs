//! What a store lost is restored where a flow leads to it, and never taken for a delete.

use crate::support::{Ensemble, Keepstep, LIVE, Pipeline, Redis, Scene, eventually, eventually_is, in_step};
use std::time::Duration;

/// `worker.reconcile` of these tests and the 30 s that the contract adds to it.
const RESTORED: Duration = Duration::from_secs(32);

/// Forty pairs in step, half of them from each side.
async fn filled(redis: &[&str]) -> Scene {
    let mut scene = Scene::prepare(redis, |pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.run().await;
    for number in 0..20 {
        scene.set(format!("settings:keys:{number}"), format!("k{number}")).await;
        scene.znodes.put(&format!("/settings/znodes/{number}"), format!("z{number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene
}

/// Nothing is missing on either side, and everything still flows.
async fn whole(scene: &Scene) {
    scene.in_step(RESTORED).await;
    for number in 0..20 {
        let (key, path) = (format!("settings:keys:{number}"), format!("/settings/keys/{number}"));
        assert_eq!(scene.text(&key).await, Some(format!("k{number}")));
        assert_eq!(scene.znodes.text(&path).await, Some(format!("k{number}")));
        assert_eq!(scene.text(format!("settings:znodes:{number}")).await, Some(format!("z{number}")));
    }
    scene.settle().await;
    let changes = scene.keepstep.changes().await;
    let deletes: Vec<_> = changes.iter().filter(|change| change["op"] == "d").collect();
    assert!(deletes.is_empty(), "a loss is not a delete: {deletes:?}");
}

#[tokio::test]
async fn a_flushed_redis_is_restored() {
    let scene = filled(&[]).await;
    scene.redis.run::<()>("FLUSHALL").await;
    whole(&scene).await;
    scene.redis.run::<()>("FLUSHDB ASYNC").await;
    whole(&scene).await;
}

#[tokio::test]
async fn a_redis_that_was_flushed_while_no_worker_ran_is_restored() {
    let mut scene = filled(&[]).await;
    scene.keepstep.kill9();
    scene.redis.run::<()>("FLUSHALL").await;
    scene.keepstep.restart().await;
    whole(&scene).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_restored() {
    let mut scene = filled(&[]).await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    whole(&scene).await;
    scene.keepstep.kill9();
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    scene.keepstep.restart().await;
    whole(&scene).await;
}

/// An eviction is a loss: restored.
#[tokio::test]
async fn evicted_key() {
    let scene = filled(&[]).await;
    scene.redis.run::<()>("CONFIG SET maxmemory-policy allkeys-random").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 1mb").await;
    // A write makes room first; it is refused when even an empty Redis is larger than that.
    let _ = scene.redis.try_run::<()>("SET elsewhere:a 1").await;
    let left = scene.redis.run::<Vec<String>>("KEYS settings:*").await.len();
    assert!(left < 40, "nothing was evicted: {left} keys are left");
    scene.redis.run::<()>("CONFIG SET maxmemory 0").await;
    whole(&scene).await;
}

#[tokio::test]
async fn a_key_evicted_while_its_route_is_paused_is_restored() {
    // Without notifications nobody says why the key went; only what Redis counts tells an eviction from a delete.
    let scene = filled(&["--notify-keyspace-events", ""]).await;
    scene.redis.run::<()>("EXPIRE settings:keys:3 1000").await;
    scene.settle().await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    scene.redis.run::<()>("CONFIG SET maxmemory-policy volatile-random").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 1mb").await;
    let _ = scene.redis.try_run::<()>("SET elsewhere:a 1").await;
    assert_eq!(scene.text("settings:keys:3").await, None, "it was not evicted");
    scene.redis.run::<()>("CONFIG SET maxmemory 0").await;
    let compared = scene.keepstep.metric("keepstep_comparisons_total", "").await;
    eventually("two comparisons pass the paused route", RESTORED, async || {
        let now = scene.keepstep.metric("keepstep_comparisons_total", "").await;
        if now >= compared + 2.0 { Ok(()) } else { Err(format!("{now} after {compared}")) }
    })
    .await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    whole(&scene).await;
}

#[tokio::test]
async fn a_swapped_database_is_taken_for_a_replaced_one() {
    let scene = filled(&[]).await;
    let mut other = scene.client.clone();
    let mut unit = redis::pipe();
    unit.cmd("SELECT").arg(1).cmd("SET").arg("settings:keys:0").arg("another data set's").cmd("SELECT").arg(0);
    unit.exec_async(&mut other).await.unwrap();
    scene.redis.run::<()>("SWAPDB 0 1").await;
    // Both sides have a value for this one and no base: the store named first in `flow` decides.
    whole(&scene).await;
}

#[tokio::test]
async fn an_ensemble_that_comes_back_empty_is_restored() {
    let mut scene = filled(&[]).await;
    scene.zookeeper.restart_empty().await;
    scene.znodes = scene.zookeeper.client().await;
    whole(&scene).await;
}

#[tokio::test]
async fn an_ensemble_that_comes_back_empty_while_no_worker_ran_is_restored() {
    let mut scene = filled(&[]).await;
    scene.keepstep.kill9();
    scene.zookeeper.restart_empty().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.keepstep.restart().await;
    whole(&scene).await;
}

#[tokio::test]
async fn an_ensemble_that_comes_back_older_is_restored() {
    let mut scene = filled(&[]).await;
    scene.znodes.put("/settings/changed", "before").await;
    scene.key_becomes("settings:changed", Some("before")).await;
    let backup = scene.zookeeper.back_up();
    scene.zookeeper.restart().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.settle().await;
    for number in 20..40 {
        scene.znodes.put(&format!("/settings/late/{number}"), "late").await;
        scene.znodes.put("/settings/changed", format!("after {number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.zookeeper.restart_from(&backup).await;
    scene.znodes = scene.zookeeper.client().await;
    whole(&scene).await;
    assert_eq!(scene.znodes.text("/settings/late/39").await.as_deref(), Some("late"));
    assert_eq!(scene.znodes.text("/settings/changed").await.as_deref(), Some("after 39"));
}

/// What is restored from a copy elects a leader, and its zxids begin anew above all that there were: only the watermark tells that it is
/// older. The worker's session lives on where it was in the copy.
async fn an_ensemble_of_three_comes_back_older(is_running: bool) {
    let (mut ensemble, redis) = tokio::join!(Ensemble::start(), Redis::start());
    let pipeline = Pipeline::two_way(ensemble.connect_string(), redis.url());
    let mut keepstep = Keepstep::new(pipeline.session_timeout("30s").worker("reconcile: 2s"));
    let (znodes, mut client) = tokio::join!(ensemble.client(), redis.client());
    let late = async |value: &str| {
        for number in 0..20 {
            znodes.put(&format!("/settings/{value}/{number}"), value).await;
        }
        znodes.put("/settings/changed", value).await;
        in_step(LIVE, znodes.clone(), redis.client().await).await;
    };
    keepstep.start();
    keepstep.wait_ready().await;
    late("early").await;
    let backup = ensemble.back_up();
    let watermark = async || redis.run::<i32>("HGET _keepstep:settings tide").await;
    let before = watermark().await;
    late("late").await;
    eventually("the watermark rises", LIVE, async || {
        if watermark().await > before { Ok(()) } else { Err(format!("it is still {before}")) }
    })
    .await;
    if !is_running {
        keepstep.kill9();
    }
    ensemble.restore(&backup).await;
    if !is_running {
        keepstep.restart().await;
    }
    let znodes = ensemble.client().await;
    in_step(RESTORED, znodes.clone(), redis.client().await).await;
    for number in 0..20 {
        assert_eq!(znodes.text(&format!("/settings/late/{number}")).await.as_deref(), Some("late"), "{number}");
        let key = format!("settings:late:{number}");
        let held: Option<String> = redis::cmd("GET").arg(key).query_async(&mut client).await.unwrap();
        assert_eq!(held.as_deref(), Some("late"), "{number}");
    }
    assert_eq!(znodes.text("/settings/changed").await.as_deref(), Some("late"));
    let deletes = keepstep.changes().await.into_iter().filter(|change| change["op"] == "d").count();
    assert_eq!(deletes, 0, "a loss is not a delete");
}

#[tokio::test]
async fn an_ensemble_of_three_that_is_restored_from_a_copy_is_told_though_its_zxids_are_newer() {
    an_ensemble_of_three_comes_back_older(true).await;
}

#[tokio::test]
async fn an_ensemble_of_three_that_is_restored_from_a_copy_while_no_worker_ran_is_told_though_its_zxids_are_newer() {
    an_ensemble_of_three_comes_back_older(false).await;
}

#[tokio::test]
async fn bases_that_were_deleted_by_hand_cost_no_value() {
    let mut scene = filled(&[]).await;
    scene.keepstep.kill9();
    let bases: Vec<String> = scene.redis.run("KEYS _keepstep:*").await;
    assert!(!bases.is_empty(), "the bases stand beside the values");
    redis::cmd("DEL").arg(&bases).exec_async(&mut scene.client.clone()).await.unwrap();
    scene.keepstep.restart().await;
    whole(&scene).await;
}

/// After a restart of Redis nothing that vanishes unseen is a delete until everything was compared; some pair is always in a round
/// where somebody always writes.
#[tokio::test]
async fn a_pipeline_that_is_never_at_rest_follows_a_delete_that_nobody_saw_after_redis_was_restarted() {
    let mut scene = filled(&[]).await;
    scene.save().await;
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    let mut client = scene.redis.client().await;
    let writer = tokio::spawn(async move {
        for number in 0.. {
            for hot in 0..4 {
                let mut set = redis::cmd("SET");
                set.arg(format!("settings:hot:{hot}")).arg(number).exec_async(&mut client).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let incarnation = async || {
        let info = scene.redis.run::<String>("INFO").await;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        format!("{}:{}", field("run_id:"), field("master_replid:"))
    };
    let wanted = Some(incarnation().await);
    eventually_is("the life that was compared", RESTORED, wanted, async || {
        scene.redis.run::<Option<String>>("HGET _keepstep:settings lineage").await
    })
    .await;
    scene.keepstep.kill9();
    scene.del("settings:keys:3").await;
    scene.keepstep.restart().await;
    eventually_is("the znode", RESTORED, None, async || scene.znodes.text("/settings/keys/3").await).await;
    assert!(!writer.is_finished(), "somebody always wrote");
    writer.abort();
    assert_eq!(scene.text("settings:keys:3").await, None);
    scene.in_step(LIVE).await;
}

/// Forty pairs in step; then, after what is on disk, half of the keys are changed, three are deleted, and the worker and
/// Redis die together.
async fn rolled_back_under_a_dead_worker() -> Scene {
    let mut scene = filled(&[]).await;
    scene.save().await;
    for number in 0..17 {
        scene.set(format!("settings:keys:{number}"), format!("later {number}")).await;
    }
    for number in 17..20 {
        scene.del(format!("settings:keys:{number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.kill9();
    scene.redis.restart().await;
    scene.client = scene.redis.client().await;
    assert_eq!(scene.text("settings:keys:0").await.as_deref(), Some("k0"), "Redis came back older");
    scene
}

#[tokio::test]
async fn a_redis_that_came_back_older_while_no_worker_ran_is_restored_and_not_followed() {
    let mut scene = rolled_back_under_a_dead_worker().await;
    scene.keepstep.restart().await;
    scene.in_step(RESTORED).await;
    for number in 0..17 {
        let later = Some(format!("later {number}"));
        assert_eq!(scene.znodes.text(&format!("/settings/keys/{number}")).await, later);
        assert_eq!(scene.text(format!("settings:keys:{number}")).await, later);
    }
    for number in 17..20 {
        assert_eq!(scene.text(format!("settings:keys:{number}")).await, None, "it had been deleted");
    }
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(conflicts.is_empty(), "{conflicts:?}");
}

#[tokio::test]
async fn what_an_application_writes_to_a_redis_that_came_back_older_is_followed_and_what_it_replaces_is_kept() {
    let mut scene = rolled_back_under_a_dead_worker().await;
    scene.set("settings:keys:3", "newest").await;
    scene.keepstep.restart().await;
    scene.in_step(RESTORED).await;
    // Both sides had agreed on `later 3`, and Redis forgot it.
    let conflicts = scene.keepstep.json("conflicts", &["--key", "settings:keys:3"]).await;
    let is_logged = conflicts.iter().any(|row| row["cache"] == "newest" && row["zk"] == "later 3");
    assert!(is_logged, "{conflicts:?}");
    let held = scene.text("settings:keys:3").await.unwrap();
    assert_eq!(Some(held.as_str()), conflicts[0][conflicts[0]["winner"].as_str().unwrap()].as_str());
}

/// More data than Redis may hold, and a policy that evicts any key: what is restored is evicted again, and pushes out keys of others.
#[tokio::test]
async fn data_that_does_not_fit_is_restored_more_and_more_rarely_until_there_is_room() {
    const PAIRS: usize = 300;
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    for number in 0..PAIRS {
        scene.znodes.put(&format!("/settings/{number}"), &"v".repeat(20_000)).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    let used: String = scene.redis.run("INFO memory").await;
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse::<u64>().unwrap();
    scene.redis.run::<()>("CONFIG SET maxmemory-policy allkeys-lru").await;
    scene.redis.run::<()>(&format!("CONFIG SET maxmemory {}", used - 3_000_000)).await;
    eventually("the note says what to do", Duration::from_secs(60), async || {
        let note = scene.keepstep.json("status", &[]).await[0]["note"].as_str().unwrap_or_default().to_owned();
        if note.contains("evicts keys as fast as they are restored") && note.contains("maxmemory") {
            Ok(())
        } else {
            Err(note)
        }
    })
    .await;
    // Eight in sixteen seconds, in the end.
    eventually("a few writes only", Duration::from_secs(90), async || {
        let before = scene.keepstep.metric("keepstep_writes_total", "store=\"cache\"").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let after = scene.keepstep.metric("keepstep_writes_total", "store=\"cache\"").await;
        if after - before <= 20.0 { Ok(()) } else { Err(format!("{} writes", after - before)) }
    })
    .await;
    let log = scene.keepstep.log();
    assert!(log.matches("evicts keys as fast as they are restored").count() <= 5, "{log}");
    scene.redis.run::<()>("CONFIG SET maxmemory 0").await;
    scene.in_step(Duration::from_secs(60)).await;
    assert_eq!(scene.znodes.tree("/settings").await.len(), PAIRS + 1, "no eviction became a delete");
    eventually("the note is gone", Duration::from_secs(60), async || {
        let note = scene.keepstep.json("status", &[]).await[0]["note"].as_str().unwrap_or_default().to_owned();
        if note.is_empty() { Ok(()) } else { Err(note) }
    })
    .await;
}

/// Redis tells of a FLUSHDB and not of which database: one elsewhere costs a comparison, and the next ones fewer and fewer.
#[tokio::test]
async fn flushes_of_another_database_cost_fewer_and_fewer_comparisons_and_one_of_ours_is_still_noticed() {
    let scene = Scene::start().await;
    scene.znodes.put("/settings/a", "1").await;
    scene.key_becomes("settings:a", Some("1")).await;
    let before = scene.keepstep.metric("keepstep_comparisons_total", "").await;
    for _ in 0..40 {
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(5).ignore().cmd("SET").arg("a").arg(1).ignore().cmd("FLUSHDB").ignore();
        pipe.cmd("SELECT").arg(0).ignore();
        pipe.exec_async(&mut scene.client.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let compared = scene.keepstep.metric("keepstep_comparisons_total", "").await - before;
    assert!((1.0..=8.0).contains(&compared), "{compared} comparisons for 40 flushes in ten seconds");
    scene.redis.run::<()>("FLUSHDB").await;
    let wanted = Some("1".to_owned());
    eventually_is("the key", Duration::from_secs(90), wanted, async || scene.text("settings:a").await).await;
}
