//! A change is recorded once, however often its write has to wait or is tried again, and published once, when it is written.

#[cfg(feature = "failpoints")]
use crate::support::Place;
use crate::support::{Keepstep, LIVE, Pipeline, Proxy, Redis, Scene, ZooKeeper, eventually, eventually_is};
use futures::StreamExt as _;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use zookeeper_client::{Acl, AuthId, Permission};

const CHANNEL: &str = "settings-changes";

/// Everything that is published while this lives.
struct Messages {
    seen: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Messages {
    async fn subscribe(redis: &Redis) -> Messages {
        let mut subscription = redis::Client::open(redis.url()).unwrap().get_async_pubsub().await.unwrap();
        subscription.subscribe(CHANNEL).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            let mut messages = subscription.into_on_message();
            while let Some(message) = messages.next().await {
                let text: String = message.get_payload().unwrap();
                kept.lock().unwrap().push(serde_json::from_str(&text).unwrap());
            }
        });
        Messages { seen, task }
    }

    /// Of this key so far.
    fn of(&self, key: &str) -> Vec<Value> {
        self.seen.lock().unwrap().iter().filter(|message| is_of(message, key)).cloned().collect()
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_of(change: &Value, key: &str) -> bool {
    change["pair"]["cache"] == key
}

/// The records of this key.
async fn records(keepstep: &Keepstep, key: &str) -> Vec<Value> {
    keepstep.changes().await.into_iter().filter(|change| is_of(change, key)).collect()
}

/// `op` and `after` of the records of this key.
async fn story(keepstep: &Keepstep, key: &str) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let rows = records(keepstep, key).await;
    rows.iter().map(|row| (text(&row["op"]).unwrap_or_default(), text(&row["after"]))).collect()
}

fn told(rows: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    rows.iter().map(|(op, after)| ((*op).to_owned(), after.map(str::to_owned))).collect()
}

/// How often a script was run, or refused before it was.
async fn scripts_run(redis: &Redis) -> u64 {
    let text = redis.info("cmdstat_evalsha").await;
    let counts = text.split(',').filter_map(|part| part.split_once('='));
    let counts = counts.filter(|(name, _)| matches!(*name, "calls" | "rejected_calls"));
    counts.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
}

/// Waits until the worker has tried again some times: each try observes, and writes where it may do that.
async fn tried_again(redis: &Redis) {
    let before = scripts_run(redis).await;
    eventually("the worker tries again", LIVE, async || {
        let now = scripts_run(redis).await;
        if now >= before + 10 { Ok(()) } else { Err(format!("{} scripts", now - before)) }
    })
    .await;
}

/// What makes Redis refuse writes, and what ends that.
const REFUSALS: [(&str, &str); 2] =
    [("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"), (FILL, MAKE_ROOM)];
const FILL: &str = "CONFIG SET maxmemory 1";
const MAKE_ROOM: &str = "CONFIG SET maxmemory 0";

#[tokio::test]
async fn a_change_that_redis_refuses_for_a_while_is_recorded_once_and_published_when_it_is_written() {
    for (refuse, allow) in REFUSALS {
        let scene = Scene::start_with(|pipeline| pipeline.route(&format!("publish: {CHANNEL}"))).await;
        scene.znodes.put("/settings/updated", "1").await;
        scene.znodes.put("/settings/deleted", "1").await;
        scene.key_becomes("settings:updated", Some("1")).await;
        scene.key_becomes("settings:deleted", Some("1")).await;
        let messages = Messages::subscribe(&scene.redis).await;
        scene.redis.run::<()>(refuse).await;
        scene.znodes.put("/settings/created", "1").await;
        scene.znodes.put("/settings/updated", "2").await;
        scene.znodes.put("/settings/back", "1").await;
        tried_again(&scene.redis).await;
        scene.znodes.put("/settings/back", "2").await;
        tried_again(&scene.redis).await;
        scene.znodes.put("/settings/back", "1").await;
        scene.keepstep.command("reconcile", &[]).await.expect(0);
        tried_again(&scene.redis).await;
        // A server without memory takes deletes.
        scene.znodes.delete("/settings/deleted").await;
        tried_again(&scene.redis).await;
        scene.redis.run::<()>(allow).await;
        scene.key_becomes("settings:created", Some("1")).await;
        scene.key_becomes("settings:updated", Some("2")).await;
        scene.key_becomes("settings:back", Some("1")).await;
        scene.key_becomes("settings:deleted", None).await;
        // Without replicas it answers no script that might write, so only the first change is seen before it does again.
        let back: &[_] = match refuse {
            FILL => &[("c", Some("1")), ("u", Some("2")), ("u", Some("1"))],
            _ => &[("c", Some("1")), ("u", Some("1"))],
        };
        let last = [("created", 1), ("updated", 2), ("back", back.len()), ("deleted", 2)];
        for (name, count) in last {
            let key = format!("settings:{name}");
            let rows = records(&scene.keepstep, &key).await;
            assert_eq!(rows.len(), count, "{refuse}: {rows:#?}");
            let newest = rows.last().unwrap();
            eventually_is("the messages", LIVE, vec![newest.clone()], async || messages.of(&key)).await;
        }
        assert_eq!(story(&scene.keepstep, "settings:back").await, told(back), "back at a value is a change");
        let collapsed = scene.keepstep.metric("keepstep_collapsed_total", "").await;
        assert_eq!(collapsed, if refuse == FILL { 0.0 } else { 1.0 }, "{refuse}: values that were not seen");
        scene.settle().await;
        assert_eq!(messages.seen.lock().unwrap().len(), 4);
    }
}

#[tokio::test]
async fn a_conflict_whose_write_has_to_wait_is_one_conflict() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 1s")).await;
    scene.znodes.put("/settings/a", "base").await;
    scene.key_becomes("settings:a", Some("base")).await;
    scene.keepstep.freeze();
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/a", "from zk").await;
    scene.redis.run::<()>(FILL).await;
    scene.keepstep.thaw();
    eventually_is("the conflicts", LIVE, 1, async || scene.keepstep.json("conflicts", &[]).await.len()).await;
    tried_again(&scene.redis).await;
    tried_again(&scene.redis).await;
    scene.redis.run::<()>(MAKE_ROOM).await;
    scene.key_becomes("settings:a", Some("from zk")).await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert_eq!(conflicts.len(), 1, "{conflicts:#?}");
    assert_eq!(conflicts[0]["cache"], "from redis");
    assert_eq!(scene.keepstep.metric("keepstep_conflicts_total", "").await, 1.0);

    // The same two values once more are another conflict.
    scene.znodes.put("/settings/a", "base").await;
    scene.key_becomes("settings:a", Some("base")).await;
    scene.keepstep.freeze();
    scene.set("settings:a", "from redis").await;
    scene.znodes.put("/settings/a", "from zk").await;
    scene.keepstep.thaw();
    scene.key_becomes("settings:a", Some("from zk")).await;
    eventually_is("the conflicts", LIVE, 2, async || scene.keepstep.json("conflicts", &[]).await.len()).await;
}

/// The znode may not be written: the pair is quarantined, and looked at by every comparison and at every change.
#[tokio::test]
async fn a_quarantined_pair_is_recorded_once_and_each_other_loser_is_recorded_before_it_is_replaced() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 1s").route("on_conflict: prefer cache")).await;
    for name in ["conflict", "changes"] {
        scene.znodes.put(&format!("/settings/{name}"), "base").await;
        scene.key_becomes(&format!("settings:{name}"), Some("base")).await;
    }
    scene.settle().await;
    let owner = scene.zookeeper.client().await;
    owner.client().auth("digest", b"owner:secret").await.unwrap();
    let read_only = [Acl::new(Permission::ALL, AuthId::new("auth", "")), Acl::new(Permission::READ, AuthId::anyone())];
    for name in ["conflict", "changes"] {
        owner.client().set_acl(&format!("/settings/{name}"), &read_only, None).await.unwrap();
    }
    let compared = async || {
        let before = scene.keepstep.metric("keepstep_comparisons_total", "").await;
        eventually("three comparisons", LIVE, async || {
            let now = scene.keepstep.metric("keepstep_comparisons_total", "").await;
            if now >= before + 3.0 { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    };
    for (number, value) in ["1", "2", "1", "base"].into_iter().enumerate() {
        scene.set("settings:changes", value).await;
        eventually_is("the records", LIVE, number + 2, async || {
            records(&scene.keepstep, "settings:changes").await.len()
        })
        .await;
        compared().await;
    }
    let rows = told(&[("c", Some("base")), ("u", Some("1")), ("u", Some("2")), ("u", Some("1")), ("u", Some("base"))]);
    assert_eq!(story(&scene.keepstep, "settings:changes").await, rows);

    scene.set("settings:conflict", "winner").await;
    scene.quarantine_becomes(&["no_permission"]).await;
    for (number, loser) in ["first loser", "second loser"].into_iter().enumerate() {
        owner.put("/settings/conflict", loser).await;
        eventually_is("the conflicts", LIVE, number + 1, async || scene.keepstep.json("conflicts", &[]).await.len())
            .await;
        compared().await;
    }
    owner.client().set_acl("/settings/conflict", &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    scene.znode_becomes("/settings/conflict", Some("winner")).await;
    scene.quarantine_becomes(&[]).await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    let losers: Vec<&Value> = conflicts.iter().map(|conflict| &conflict["zk"]).collect();
    assert_eq!(losers, ["first loser", "second loser"], "{conflicts:#?}");
}

#[tokio::test]
async fn what_was_recorded_and_never_written_is_taken_back_on_the_stream_as_well() {
    let scene = Scene::start().await;
    scene.redis.run::<()>(FILL).await;
    scene.znodes.put("/settings/short", "1").await;
    tried_again(&scene.redis).await;
    scene.znodes.delete("/settings/short").await;
    let rows = told(&[("c", Some("1")), ("d", None)]);
    eventually_is("the records", LIVE, rows.clone(), async || story(&scene.keepstep, "settings:short").await).await;
    scene.redis.run::<()>(MAKE_ROOM).await;
    scene.settle().await;
    assert_eq!(story(&scene.keepstep, "settings:short").await, rows);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_recorded_and_published_once() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let proxy = Proxy::start(redis.address());
    let url = format!("redis://{}/0", proxy.address());
    let pipeline = Pipeline::two_way(zookeeper.connect_string(), url).route(&format!("publish: {CHANNEL}"));
    let keepstep = Keepstep::run(pipeline).await;
    let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
    let scene = Scene { redis, zookeeper, znodes, client, keepstep };
    let messages = Messages::subscribe(&scene.redis).await;
    for number in 0..5 {
        let value = format!("the answer to {number} is lost");
        proxy.lose_reply_to(value.as_bytes());
        scene.znodes.put("/settings/a", &value).await;
        scene.key_becomes("settings:a", Some(&value)).await;
        eventually_is("an answer is lost", LIVE, true, async || proxy.lost_a_reply()).await;
        scene.settle().await;
    }
    let rows = records(&scene.keepstep, "settings:a").await;
    assert_eq!(rows.len(), 5, "{rows:#?}");
    eventually_is("the messages", LIVE, rows, async || messages.of("settings:a")).await;
}

/// A user that may not write the key yet: its creation is recorded, the pair quarantined, and the message goes with the write.
#[tokio::test]
async fn a_created_key_that_a_permission_holds_up_is_published_when_it_is_written() {
    let user = ["--user", "keepstep", "on", ">secret", "%R~settings:*", "~_keepstep:*", "&*", "+@all"];
    let mut scene = Scene::prepare(&user, |pipeline| {
        let redis = pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}");
        redis.worker("reconcile: 1s").route(&format!("publish: {CHANNEL}"))
    })
    .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    scene.run().await;
    let messages = Messages::subscribe(&scene.redis).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.quarantine_becomes(&["no_permission"]).await;
    scene.redis.run::<()>("ACL SETUSER keepstep ~settings:*").await;
    scene.key_becomes("settings:a", Some("1")).await;
    scene.quarantine_becomes(&[]).await;
    let rows = records(&scene.keepstep, "settings:a").await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    eventually_is("the messages", LIVE, rows, async || messages.of("settings:a")).await;
}

/// A restore is no change: it is neither recorded nor published.
#[tokio::test]
async fn a_value_that_is_restored_is_not_published_again() {
    let scene = Scene::start_with(|pipeline| pipeline.route(&format!("publish: {CHANNEL}"))).await;
    let messages = Messages::subscribe(&scene.redis).await;
    for number in 0..20 {
        scene.znodes.put(&format!("/settings/{number}"), "1").await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.redis.run::<()>("FLUSHALL").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    for number in 0..20 {
        let key = format!("settings:{number}");
        assert_eq!(messages.of(&key), records(&scene.keepstep, &key).await);
        assert_eq!(messages.of(&key).len(), 1);
    }
}

#[cfg(feature = "failpoints")]
async fn a_worker_that_dies_between_record_and_write(place: Place) {
    let mut scene = Scene::prepare(&[], |pipeline| place.of(pipeline.route(&format!("publish: {CHANNEL}")))).await;
    scene.run().await;
    scene.znodes.put("/settings/updated", "1").await;
    scene.znodes.put("/settings/deleted", "1").await;
    scene.key_becomes("settings:updated", Some("1")).await;
    scene.key_becomes("settings:deleted", Some("1")).await;
    scene.settle().await;
    let messages = Messages::subscribe(&scene.redis).await;
    for (path, value) in [("created", Some("1")), ("updated", Some("2")), ("deleted", None)] {
        scene.keepstep.arm("c5-recorded");
        match value {
            Some(value) => scene.znodes.put(&format!("/settings/{path}"), value).await,
            None => scene.znodes.delete(&format!("/settings/{path}")).await,
        }
        scene.keepstep.abort(LIVE).await;
        scene.keepstep.arm("");
        scene.keepstep.restart().await;
        let key = format!("settings:{path}");
        scene.key_becomes(&key, value).await;
        scene.settle().await;
        let rows = records(&scene.keepstep, &key).await;
        assert_eq!(rows.len(), if path == "created" { 1 } else { 2 }, "{rows:#?}");
        let newest = rows.last().unwrap();
        eventually_is("the messages", LIVE, vec![newest.clone()], async || messages.of(&key)).await;
    }
}

#[cfg(feature = "failpoints")]
on_both_streams!(a_worker_that_dies_between_record_and_write);

/// However a pair comes to be in step, it is counted once.
#[tokio::test]
async fn the_number_of_pairs_is_the_number_of_pairs() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.worker("batch: {changes: 16, wait: 5ms}")).await;
    for number in 0..400 {
        scene.znodes.put(&format!("/settings/zk{number}"), "1").await;
        scene.set(format!("settings:redis{number}"), "1").await;
    }
    scene.keepstep.start();
    // While it takes stock, pairs are named: the rounds have them, and the comparison leaves them alone.
    for number in 0..400 {
        scene.set(format!("settings:redis{number}"), "2").await;
        scene.znodes.put(&format!("/settings/zk{number}"), "2").await;
    }
    scene.keepstep.wait_ready().await;
    let becomes = async |scene: &Scene, pairs: f64| {
        scene.in_step(LIVE).await;
        eventually_is("the number of pairs", LIVE, pairs, async || {
            scene.keepstep.metric("keepstep_pairs", "settings").await
        })
        .await;
    };
    becomes(&scene, 800.0).await;
    // A gap: every pair is named, or none.
    scene.redis.run::<()>("CLIENT KILL TYPE pubsub").await;
    for number in 0..400 {
        scene.set(format!("settings:redis{number}"), "3").await;
    }
    scene.keepstep.command("reconcile", &[]).await.expect(0);
    becomes(&scene, 800.0).await;
    scene.redis.run::<()>("FLUSHALL").await;
    becomes(&scene, 800.0).await;
    for number in 0..100 {
        scene.del(format!("settings:redis{number}")).await;
        scene.znodes.put(&format!("/settings/new{number}"), "1").await;
    }
    for number in 0..50 {
        scene.znodes.delete(&format!("/settings/zk{number}")).await;
    }
    becomes(&scene, 750.0).await;
    scene.keepstep.restart().await;
    becomes(&scene, 750.0).await;
}
