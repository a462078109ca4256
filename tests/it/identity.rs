//! A pipeline is its name and its stores: the same name elsewhere is refused, and a loss is still a loss.

use crate::support::{Keepstep, LIVE, Pipeline, Proxy, Redis, Scene, ZooKeeper, eventually, eventually_is, never};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::time::Duration;

/// A claim that is not renewed is void after `session_timeout` + 5 s, and a machine does other things as well.
const REFUSED: Duration = Duration::from_secs(45);
/// `worker.reconcile` of these tests and the 30 s that the contract adds to it.
const RESTORED: Duration = Duration::from_secs(32);

const IDENTITY: &str = "/_keepstep/_identity";
const STORES: &str = "/_keepstep/settings/stores";
const REDIS_IDENTITY: &str = "_keepstep::identity";
const REDIS_STORES: &str = "_keepstep::stores:settings";

pub(crate) fn usual(pipeline: Pipeline) -> Pipeline {
    pipeline.worker("reconcile: 2s")
}

/// Ten pairs in step, from both sides.
pub(crate) async fn filled() -> Scene {
    let scene = Scene::start_with(usual).await;
    for number in 0..5 {
        scene.set(format!("settings:keys:{number}"), format!("k{number}")).await;
        scene.znodes.put(&format!("/settings/znodes/{number}"), format!("z{number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene
}

/// Nothing of it is missing, nothing was taken for a delete, and changes flow.
async fn whole(scene: &Scene) {
    scene.in_step(RESTORED).await;
    for number in 0..5 {
        assert_eq!(scene.znodes.text(&format!("/settings/keys/{number}")).await, Some(format!("k{number}")));
        assert_eq!(scene.text(format!("settings:znodes:{number}")).await, Some(format!("z{number}")));
    }
    scene.settle().await;
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "a loss is not a delete: {changes:?}");
}

/// A worker with this file ends with exit code 1 and says each of these; so does `validate --connect`.
pub(crate) async fn refused(pipeline: Pipeline, said: &[&str]) {
    let mut other = Keepstep::new(pipeline);
    let looked = other.command("validate", &["--connect", "--timeout", "20s"]).await.expect(1);
    let looked = format!("{}{}", looked.stdout, looked.stderr);
    other.start();
    let log = other.log_at_end(REFUSED, 1).await;
    for text in [looked, log] {
        for word in said {
            assert!(text.contains(word), "{word} is not said: {text}");
        }
    }
}

async fn epoch(scene: &Scene) -> u64 {
    scene.znodes.text("/_keepstep/settings/epoch").await.unwrap().parse().unwrap()
}

async fn identities(scene: &Scene) -> (Option<String>, Option<String>) {
    (scene.znodes.text(IDENTITY).await, scene.text(REDIS_IDENTITY).await)
}

#[tokio::test]
async fn each_store_has_an_identity_that_is_made_once_and_each_knows_the_other() {
    let mut scene = filled().await;
    let first = identities(&scene).await;
    let (zookeeper, redis) = (first.0.clone().unwrap(), first.1.clone().unwrap());
    assert!(zookeeper.len() == 32 && redis.len() == 32 && zookeeper != redis, "{zookeeper} {redis}");
    let known: Value = serde_json::from_str(&scene.znodes.text(STORES).await.unwrap()).unwrap();
    assert_eq!(known["redis"]["identity"], redis.as_str());
    let known: Value = serde_json::from_str(&scene.text(REDIS_STORES).await.unwrap()).unwrap();
    assert_eq!(known["zookeeper"]["identity"], zookeeper.as_str());
    let version = scene.znodes.stat(STORES).await.version;
    scene.keepstep.restart().await;
    whole(&scene).await;
    assert_eq!(identities(&scene).await, first);
    assert_eq!(scene.znodes.stat(STORES).await.version, version, "it is not written again for nothing");
}

#[tokio::test]
async fn the_same_name_with_another_redis_is_refused() {
    let scene = filled().await;
    let before = epoch(&scene).await;
    // One that holds nothing, and one that another pipeline has made its own.
    let (empty, used) = tokio::join!(Redis::start(), Redis::start());
    used.run::<()>(&format!("SET {REDIS_IDENTITY} {}", "f".repeat(32))).await;
    for other in [&empty, &used] {
        let connect = scene.zookeeper.connect_string();
        let (mine, its) = (scene.redis.address().to_string(), other.address().to_string());
        refused(usual(Pipeline::two_way(connect, other.url())), &["settings", &mine, &its]).await;
    }
    assert_eq!(epoch(&scene).await, before, "the owner went on undisturbed");
    whole(&scene).await;
}

#[tokio::test]
async fn the_same_name_with_another_ensemble_is_refused() {
    let scene = filled().await;
    let before = epoch(&scene).await;
    // One that holds nothing, and one that another pipeline has made its own.
    let (empty, used) = ZooKeeper::start_two().await;
    used.client().await.put(IDENTITY, "f".repeat(32)).await;
    for other in [&empty, &used] {
        let (mine, its) = (scene.zookeeper.connect_string(), other.connect_string());
        refused(usual(Pipeline::two_way(&its, scene.redis.url())), &["settings", &mine, &its]).await;
    }
    assert_eq!(epoch(&scene).await, before, "the owner went on undisturbed");
    whole(&scene).await;
}

#[tokio::test]
async fn the_same_name_in_another_chroot_is_refused() {
    let mut scene = filled().await;
    let before = epoch(&scene).await;
    scene.znodes.put("/elsewhere/settings", "").await;
    let other = format!("{}/elsewhere", scene.zookeeper.connect_string());
    let pipeline = || usual(Pipeline::two_way(&other, scene.redis.url()));
    refused(pipeline(), &["settings", "/elsewhere"]).await;
    assert_eq!(epoch(&scene).await, before, "the owner went on undisturbed");
    // With nobody at work it is refused as well: a chroot is no address at which something came back empty.
    let pipeline = pipeline();
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    refused(pipeline, &["settings", "/elsewhere"]).await;
    scene.run().await;
    whole(&scene).await;
}

#[tokio::test]
async fn the_same_name_with_another_database_is_refused() {
    let scene = filled().await;
    let url = scene.redis.url().replace("/0", "/3");
    refused(usual(Pipeline::two_way(scene.zookeeper.connect_string(), url)), &["settings", "/0", "/3"]).await;
    whole(&scene).await;
}

/// A slip of the pen in the file of a command: what would be equal then is neither pipeline's.
#[tokio::test]
async fn a_command_refuses_stores_that_are_not_the_pipelines() {
    let mut scene = filled().await;
    scene.znodes.put("/elsewhere/settings", "").await;
    let (connect, url) = (scene.zookeeper.connect_string().to_owned(), scene.redis.url());
    let elsewhere = Redis::start().await;
    let other = |connect: String, url: String| scene.keepstep.with_file(usual(Pipeline::two_way(connect, url)));
    let database = other(connect.clone(), url.replace("/0", "/3"));
    let chroot = other(format!("{connect}/elsewhere"), url.clone());
    let missing = other(format!("{connect}/nowhere"), url.clone());
    let another = other(connect, elsewhere.url());
    for is_running in [true, false] {
        if !is_running {
            assert_eq!(scene.keepstep.terminate().await, Some(0));
        }
        for (place, said) in [(&database, "/3"), (&chroot, "/elsewhere"), (&missing, "/nowhere")] {
            for (verb, flags) in [
                ("diff", &[][..]),
                ("repair", &["--prefer", "zk", "--yes"]),
                ("repair", &["--prefer", "cache", "--yes"]),
                ("replay", &["--to", "cache", "--yes"]),
                ("replay", &["--to", "zk", "--yes"]),
            ] {
                let told = place.command(verb, flags).await.expect(1).stderr;
                assert!(told.contains(said), "{verb} {flags:?}: {told}");
            }
        }
        // An empty one at another address may be what is left of ours: it can be filled, and is no model for the other side.
        let told = another.command("repair", &["--prefer", "cache", "--yes"]).await.expect(1).stderr;
        assert!(told.contains("at work with"), "{told}");
        for number in 0..5 {
            assert_eq!(scene.znodes.text(&format!("/settings/keys/{number}")).await, Some(format!("k{number}")));
            assert_eq!(scene.text(format!("settings:znodes:{number}")).await, Some(format!("z{number}")));
        }
    }
    scene.run().await;
    whole(&scene).await;
}

#[tokio::test]
async fn a_store_that_is_not_the_remembered_one_is_accepted_once_what_the_error_names_is_deleted() {
    let mut scene = filled().await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    let other = Redis::start().await;
    other.run::<()>(&format!("SET {REDIS_IDENTITY} {}", "f".repeat(32))).await;
    let pipeline = || usual(Pipeline::two_way(scene.zookeeper.connect_string(), other.url()));
    refused(pipeline(), &[STORES]).await;
    let pipeline = pipeline();
    scene.znodes.delete(STORES).await;
    scene.keepstep.rewrite(pipeline);
    (scene.client, scene.redis) = (other.client().await, other);
    scene.run().await;
    whole(&scene).await;
}

/// What is lost while no worker runs, in whichever store, is a loss; the identity comes back with it.
#[tokio::test]
async fn a_store_that_came_back_without_its_identity_is_the_same_one() {
    let mut scene = filled().await;
    let first = identities(&scene).await;
    for (redis, zookeeper) in [(true, false), (false, true)] {
        scene.keepstep.kill9();
        if redis {
            scene.redis.run::<()>("FLUSHALL").await;
        }
        if zookeeper {
            scene.zookeeper.restart_empty().await;
            scene.znodes = scene.zookeeper.client().await;
        }
        scene.keepstep.restart().await;
        whole(&scene).await;
        assert_eq!(identities(&scene).await, first, "redis {redis}, zookeeper {zookeeper}");
    }
    // Under a running worker.
    scene.redis.run::<()>("FLUSHALL").await;
    eventually_is("the identities", LIVE, first.clone(), async || identities(&scene).await).await;
    whole(&scene).await;
    // By hand.
    let ours: Vec<String> = scene.redis.run("KEYS _keepstep:*").await;
    redis::cmd("DEL").arg(&ours).exec_async(&mut scene.client.clone()).await.unwrap();
    scene.znodes.delete(IDENTITY).await;
    scene.znodes.delete(STORES).await;
    scene.keepstep.restart().await;
    whole(&scene).await;
    let second = identities(&scene).await;
    assert!(second.0.is_some() && second.1.is_some(), "{second:?}");
}

#[tokio::test]
async fn both_stores_that_came_back_empty_are_begun_anew() {
    let mut scene = filled().await;
    scene.keepstep.kill9();
    scene.redis.run::<()>("FLUSHALL").await;
    scene.zookeeper.restart_empty().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.set("settings:a", "new").await;
    scene.keepstep.restart().await;
    scene.znode_becomes("/settings/a", Some("new")).await;
    let now = identities(&scene).await;
    assert!(now.0.is_some() && now.1.is_some(), "{now:?}");
}

/// What a version without identities left behind.
#[tokio::test]
async fn a_pipeline_of_the_version_before_gets_its_identities_at_its_first_start() {
    let mut scene = filled().await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    scene.znodes.delete(IDENTITY).await;
    scene.znodes.delete(STORES).await;
    scene.del(REDIS_IDENTITY).await;
    scene.del(REDIS_STORES).await;
    scene.run().await;
    whole(&scene).await;
    let now = identities(&scene).await;
    assert!(now.0.is_some() && now.1.is_some(), "{now:?}");
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<Value>::new());
}

#[tokio::test]
async fn databases_that_are_swapped_under_a_worker_are_a_loss_though_each_has_an_identity() {
    let scene = filled().await;
    let mut other = scene.client.clone();
    let mut unit = redis::pipe();
    unit.cmd("SELECT").arg(1).cmd("SET").arg(REDIS_IDENTITY).arg("e".repeat(32)).cmd("SELECT").arg(0);
    unit.exec_async(&mut other).await.unwrap();
    scene.redis.run::<()>("SWAPDB 0 1").await;
    whole(&scene).await;
    let known = async || {
        let known: Value = serde_json::from_str(&scene.znodes.text(STORES).await.unwrap()).unwrap();
        known["redis"]["identity"].clone()
    };
    eventually_is("what ZooKeeper knows", LIVE, Value::from("e".repeat(32)), known).await;
}

/// The same identity in two places: who is at work says so where it works.
#[tokio::test]
async fn a_copy_of_redis_is_told_from_the_one_that_the_owner_has() {
    let scene = filled().await;
    scene.save().await;
    let backup = scene.redis.back_up();
    let mut copy = Redis::start().await;
    copy.restart_from(&backup).await;
    assert_eq!(copy.run::<Option<String>>(&format!("GET {REDIS_IDENTITY}")).await, identities(&scene).await.1);
    let before = epoch(&scene).await;
    let mut other = Keepstep::new(usual(Pipeline::two_way(scene.zookeeper.connect_string(), copy.url())));
    other.start();
    let log = other.log_at_end(REFUSED, 1).await;
    assert!(log.contains(&copy.address().to_string()), "{log}");
    assert_eq!(epoch(&scene).await, before, "the owner went on undisturbed");
    whole(&scene).await;
}

/// It keeps no claim alive, and nothing else shows that it is at work on this very Redis.
#[tokio::test]
async fn a_standby_of_an_owner_that_is_cut_off_from_redis_is_not_refused() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let way = Proxy::start(redis.address());
    let through = |url: String| usual(Pipeline::two_way(zookeeper.connect_string(), url)).session_timeout("2s");
    let owner = Keepstep::run(through(format!("redis://{}/0", way.address()))).await;
    way.cut();
    redis.run::<()>("FLUSHALL").await;
    let mut standby = Keepstep::new(through(redis.url()));
    standby.start();
    // A claim ends after 7 s, and a Redis without an identity is believed to be another one after 8 s.
    never(
        "the standby ends",
        Duration::from_secs(20),
        async || {
            if standby.runs() { Ok(()) } else { Err("it has".to_owned()) }
        },
    )
    .await;
    way.heal();
    eventually_is("the owner's state", RESTORED, Value::from("live"), async || {
        owner.json("status", &[]).await.remove(0)["state"].clone()
    })
    .await;
    assert_eq!(standby.terminate().await, Some(0));
}

/// A worker beside a copy of the ensemble takes the pipeline over once; then one of the two is at work and the other one waits.
#[tokio::test]
async fn a_copy_of_the_ensemble_does_not_make_two_owners_take_over_from_each_other() {
    let mut scene = filled().await;
    let backup = scene.zookeeper.back_up();
    scene.zookeeper.restart().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.settle().await;
    let mut copy = ZooKeeper::start().await;
    copy.restart_from(&backup).await;
    let mut other = Keepstep::new(usual(Pipeline::two_way(copy.connect_string(), scene.redis.url())));
    let redis_epoch = async || scene.redis.run::<u64>("HGET _keepstep:settings epoch").await;
    let before = redis_epoch().await;
    other.start();
    let waits = async |worker: &Keepstep| worker.log().contains("through another ensemble");
    eventually("one of the two waits", REFUSED, async || {
        if waits(&other).await || waits(&scene.keepstep).await { Ok(()) } else { Err("neither does".to_owned()) }
    })
    .await;
    // A first comparison and some renewals later.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let now = redis_epoch().await;
    assert!(now <= before + 3, "{before} became {now}");
}

#[tokio::test]
async fn a_worker_with_other_routes_stands_by_and_says_what_differs() {
    let mut scene = filled().await;
    let mut other = Keepstep::new(
        usual(Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url())).route("on_conflict: latest"),
    );
    other.start();
    other.wait_ready().await;
    eventually("the note of the standby", LIVE, async || {
        let status = other.json("status", &[]).await.remove(0);
        let note = status["note"].as_str().unwrap_or_default();
        let said = ["other routes", "latest", "prefer zk"].iter().all(|word| note.contains(word));
        if status["state"] == "standby" && said { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert!(other.log().contains("other routes"), "{}", other.log());
    let shown = other.command("status", &[]).await.expect(0).stdout;
    assert!(shown.contains("other routes"), "{shown}");
    // It is a standby all the same: it takes over with the routes of its own file.
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    eventually_is("the second worker", LIVE, Value::from("live"), async || {
        other.json("status", &[]).await[0]["state"].clone()
    })
    .await;
    let note = other.json("status", &[]).await[0]["note"].clone();
    assert_eq!(note, "", "nobody else is at work");
}

/// Two containers of one image: the same host name, and each worker has the same process number.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn two_workers_of_the_same_host_name_and_process_number_are_two() {
    let mut scene = Scene::prepare(&[], usual).await;
    scene.keepstep = scene.keepstep.variable("KEEPSTEP_WORKER_NAME", "container:1");
    let mut other = scene.keepstep.another();
    scene.run().await;
    scene.settle().await;
    let before = epoch(&scene).await;
    other.start();
    other.wait_ready().await;
    eventually_is("the second worker", LIVE, Value::from("standby"), async || {
        other.json("status", &[]).await[0]["state"].clone()
    })
    .await;
    scene.settle().await;
    assert_eq!(scene.znodes.client().list_children("/_keepstep/settings/election").await.unwrap().len(), 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(epoch(&scene).await, before, "neither took the pipeline from the other");
    scene.keepstep.kill9();
    eventually_is("the second worker", LIVE, Value::from("live"), async || {
        other.json("status", &[]).await[0]["state"].clone()
    })
    .await;
}

/// A pipeline in a chroot keeps its own data in that chroot, in the middle of what another pipeline mirrors.
#[tokio::test]
async fn what_is_keepsteps_own_is_nobodys_data_at_any_depth() {
    let mut scene = Scene::prepare(&[], |pipeline| usual(pipeline).matches("{zk: /**, cache: \"all:**\"}")).await;
    scene.znodes.put("/tenant/settings/a", "1").await;
    // One that only captures: it may have znodes in common with the other.
    let inner = format!("{}/tenant", scene.zookeeper.connect_string());
    let inner =
        Keepstep::run(usual(Pipeline::two_way(inner, scene.redis.url())).name("inner").capture_zookeeper()).await;
    scene.run().await;
    assert!(scene.znodes.get("/tenant/_keepstep/inner/epoch").await.is_some());
    scene.key_becomes("all:tenant:settings:a", Some("1")).await;
    for key in ["all:tenant:_keepstep:x", "all:_keepstep", "all:a:_keepstep"] {
        scene.set(key, "an application's").await;
    }
    scene.set("all:last", "1").await;
    scene.znode_becomes("/last", Some("1")).await;
    scene.keepstep.command("reconcile", &[]).await.expect(0);
    let mut client: MultiplexedConnection = scene.client.clone();
    scene.set("all:later", "1").await;
    scene.znode_becomes("/later", Some("1")).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("all:*_keepstep*").query_async(&mut client).await.unwrap();
    assert_eq!(keys.len(), 3, "only what the application wrote: {keys:?}");
    assert_eq!(scene.znodes.get("/tenant/_keepstep/x").await, None);
    assert_eq!(scene.znodes.get("/a/_keepstep").await, None);
    drop(inner);
}

/// Where one pipeline's range holds the chroot of another one, the one further in finds the claim of the outer one.
#[tokio::test]
async fn a_claim_on_the_same_znodes_through_an_outer_chroot_is_found() {
    let scene = filled().await;
    let (other, inner) = (Redis::start().await, format!("{}/settings", scene.zookeeper.connect_string()));
    let mut inner = Keepstep::new(
        Pipeline::two_way(inner, other.url()).name("inner").matches("{zk: /znodes/**, cache: \"inner:**\"}"),
    );
    inner.start();
    let log = inner.log_at_end(REFUSED, 1).await;
    assert!(log.contains("`settings`") && log.contains("/settings/**"), "{log}");
}

/// A capture has no second store that could remember the first: its data folder does.
async fn another_store_is_refused(capture: impl Fn(Pipeline) -> Pipeline, moves: &str) {
    let ((first, second), (redis, other)) =
        tokio::join!(ZooKeeper::start_two(), async { tokio::join!(Redis::start(), Redis::start()) });
    // Identities are there before: one that has none yet is taken for a store that came back empty.
    for (zookeeper, redis) in [(&first, &redis), (&second, &other)] {
        let pipeline = Pipeline::two_way(zookeeper.connect_string(), redis.url());
        Keepstep::run(pipeline).await.terminate().await;
    }
    let mut keepstep =
        Keepstep::run(capture(Pipeline::two_way(first.connect_string(), redis.url()).name("records"))).await;
    keepstep.terminate().await;
    keepstep.rewrite(capture(Pipeline::two_way(second.connect_string(), other.url()).name("records")));
    let looked = keepstep
        .command("validate", &["--connect", "--timeout", "20s", "--data-dir", keepstep.data().to_str().unwrap()])
        .await
        .expect(1);
    keepstep.start();
    let log = keepstep.log_at_end(REFUSED, 1).await;
    for text in [format!("{}{}", looked.stdout, looked.stderr), log] {
        assert!(text.contains("pipeline `records` has other stores") && text.contains(moves), "{text}");
    }
    keepstep.rewrite(capture(Pipeline::two_way(first.connect_string(), redis.url()).name("records")));
    keepstep.restart().await;
}

#[tokio::test]
async fn a_capture_of_zookeeper_is_not_continued_with_another_ensemble() {
    another_store_is_refused(Pipeline::capture_zookeeper, "zookeeper zk").await;
}

#[tokio::test]
async fn a_capture_of_redis_is_not_continued_with_another_redis() {
    another_store_is_refused(Pipeline::capture_redis, "redis cache").await;
}
