//! Connections break, servers and workers die, replies get lost: afterwards both sides hold what was last written.

use crate::support::{
    Direction, Keepstep, LIVE, Pipeline, Proxy, Redis, Scene, Znodes, ZooKeeper, eventually_is, in_step,
};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// `worker.reconcile` of these tests is 2 s; the contract adds 30.
const HEALED: Duration = Duration::from_secs(32);

/// Writes to both sides, to keys that are the writer's alone, until it is stopped; then it says what it wrote last.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(String, String)>>,
}

impl Load {
    const KEYS: usize = 10;

    /// A write that is refused or unanswered is repeated until it is answered: a server may be down for a while.
    fn start(redis_url: String, connect: String) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut last = Vec::new();
            let mut redis = None;
            let mut znodes = None;
            let mut round = 0_u64;
            while !stopped.load(Ordering::Relaxed) || round == 0 {
                round += 1;
                last.clear();
                for number in 0..Load::KEYS {
                    let (key, value) = (format!("settings:redis:{number}"), format!("r{round}"));
                    write_key(&redis_url, &mut redis, &key, &value).await;
                    last.push((format!("/settings/redis/{number}"), value));
                    let (path, value) = (format!("/settings/zk/{number}"), format!("z{round}"));
                    write_znode(&connect, &mut znodes, &path, &value).await;
                    last.push((path, value));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            last
        });
        Load { stop, task }
    }

    async fn stop(self) -> Vec<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn write_key(url: &str, connection: &mut Option<MultiplexedConnection>, key: &str, value: &str) {
    loop {
        if connection.is_none() {
            *connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.ok();
        }
        if let Some(open) = connection {
            match redis::cmd("SET").arg(key).arg(value).exec_async(open).await {
                Ok(()) => return,
                Err(_) => *connection = None,
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn write_znode(connect: &str, session: &mut Option<Znodes>, path: &str, value: &str) {
    loop {
        if session.is_none() {
            *session = Znodes::try_connect(connect).await;
        }
        if let Some(open) = session {
            match tokio::time::timeout(Duration::from_secs(5), open.try_put(path, value)).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) | Err(_) => *session = None,
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The pipeline's state, as the worker serves it.
async fn state(worker: &Keepstep) -> Value {
    let status: Value = serde_json::from_str(&worker.get("/status").await.body).unwrap();
    status["pipelines"][0]["state"].clone()
}

/// Both sides hold exactly what the load wrote last.
async fn hold(znodes: &Znodes, client: &mut MultiplexedConnection, last: Vec<(String, String)>) {
    in_step(HEALED, znodes.clone(), client.clone()).await;
    for (path, value) in last {
        assert_eq!(znodes.text(&path).await.as_ref(), Some(&value), "{path}");
        let key = path.trim_start_matches('/').replace('/', ":");
        let held: Option<String> = redis::cmd("GET").arg(&key).query_async(client).await.unwrap();
        assert_eq!(held, Some(value), "{key}");
    }
}

#[tokio::test]
async fn a_worker_may_be_killed_at_any_time() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").session_timeout("2s")).await;
    let load = Load::start(scene.redis.url(), scene.zookeeper.connect_string());
    for lived_ms in [700, 20, 300, 1500, 50] {
        // Killed after this long, wherever it then is: the time is the point, not something to wait for.
        tokio::time::sleep(Duration::from_millis(lived_ms)).await;
        scene.keepstep.kill9();
        scene.keepstep.start();
    }
    scene.keepstep.wait_ready().await;
    let last = load.stop().await;
    hold(&scene.znodes, &mut scene.client, last).await;
    let conflicts = scene.keepstep.json("conflicts", &[]).await;
    assert!(conflicts.is_empty(), "each pair was written on one side only: {conflicts:?}");
}

#[tokio::test]
async fn redis_may_be_killed_under_load() {
    let mut scene = Scene::prepare(&["--appendonly", "yes", "--appendfsync", "always"], |pipeline| {
        pipeline.worker("reconcile: 2s")
    })
    .await;
    scene.run().await;
    let load = Load::start(scene.redis.url(), scene.zookeeper.connect_string());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        scene.redis.restart().await;
    }
    let last = load.stop().await;
    scene.client = scene.redis.client().await;
    hold(&scene.znodes, &mut scene.client, last).await;
    assert!(scene.keepstep.runs());
}

#[tokio::test]
async fn zookeeper_may_be_killed_under_load() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    let load = Load::start(scene.redis.url(), scene.zookeeper.connect_string());
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        scene.zookeeper.restart().await;
    }
    let last = load.stop().await;
    scene.znodes = scene.zookeeper.client().await;
    hold(&scene.znodes, &mut scene.client, last).await;
    assert!(scene.keepstep.runs());
}

#[tokio::test]
async fn a_worker_starts_before_its_stores_and_waits_for_them() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.redis.kill9();
    scene.zookeeper.kill9();
    scene.keepstep.start();
    eventually_is("/live", LIVE, Some(200), async || scene.keepstep.status_of("/live").await).await;
    assert_eq!(scene.keepstep.status_of("/ready").await, Some(503));
    scene.redis.restart().await;
    scene.zookeeper.restart().await;
    scene.client = scene.redis.client().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.keepstep.wait_ready().await;
    scene.settle().await;
}

/// A worker that reaches both stores through proxies.
struct Broken {
    _redis: Redis,
    _zookeeper: ZooKeeper,
    to_redis: Proxy,
    to_zookeeper: Proxy,
    keepstep: Keepstep,
    znodes: Znodes,
    client: MultiplexedConnection,
    load: Load,
}

impl Broken {
    async fn start() -> Broken {
        let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
        let (to_redis, to_zookeeper) = (Proxy::start(redis.address()), Proxy::start(zookeeper.address()));
        let pipeline = Pipeline::two_way(to_zookeeper.address(), format!("redis://{}/0", to_redis.address()));
        let keepstep = Keepstep::run(pipeline.worker("reconcile: 2s").session_timeout("2s")).await;
        let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
        let load = Load::start(redis.url(), zookeeper.connect_string());
        Broken { _redis: redis, _zookeeper: zookeeper, to_redis, to_zookeeper, keepstep, znodes, client, load }
    }

    /// The worker notices by itself that a store does not answer.
    async fn notices(&self) {
        eventually_is("the worker says that it waits", LIVE, true, async || state(&self.keepstep).await != "live")
            .await;
    }

    async fn is_live(&self) {
        eventually_is("the worker", HEALED, Value::from("live"), async || state(&self.keepstep).await).await;
    }

    /// Heals both ways, ends the load, and sees that both sides hold what it wrote last, with no conflict invented.
    async fn end(mut self) {
        self.to_redis.heal();
        self.to_zookeeper.heal();
        let last = self.load.stop().await;
        hold(&self.znodes, &mut self.client, last).await;
        let conflicts = self.keepstep.json("conflicts", &[]).await;
        assert!(conflicts.is_empty(), "each pair was written on one side only: {conflicts:?}");
        assert!(self.keepstep.runs());
    }
}

#[tokio::test]
async fn cut_connections_are_made_again_and_nothing_is_missed() {
    let broken = Broken::start().await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        broken.to_redis.drop_connections();
        tokio::time::sleep(Duration::from_millis(200)).await;
        broken.to_zookeeper.drop_connections();
    }
    broken.to_redis.cut();
    broken.notices().await;
    broken.to_redis.heal();
    broken.is_live().await;
    broken.to_zookeeper.cut();
    broken.notices().await;
    broken.end().await;
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_is_neither_repeated_nor_a_conflict() {
    let broken = Broken::start().await;
    for _ in 0..6 {
        broken.to_redis.lose_reply_to(b"EVALSHA");
        broken.to_zookeeper.lose_reply_to(b"/settings/redis/");
        eventually_is("the lost replies", LIVE, (true, true), async || {
            (broken.to_redis.lost_a_reply(), broken.to_zookeeper.lost_a_reply())
        })
        .await;
    }
    broken.end().await;
}

#[tokio::test]
async fn a_session_that_expires_in_silence_is_replaced() {
    let broken = Broken::start().await;
    let epoch = broken.keepstep.metric("keepstep_epoch", "").await;
    let places = async || broken.znodes.client().list_children("/_keepstep/settings/election").await.unwrap();
    let expired = places().await;
    assert_eq!(expired.len(), 1, "{expired:?}");
    broken.to_zookeeper.black_hole(Direction::ToServer);
    broken.to_zookeeper.black_hole(Direction::ToClient);
    eventually_is("the place in line of the session that the server has given up", LIVE, Vec::<String>::new(), places)
        .await;
    broken.to_zookeeper.heal();
    eventually_is("a place in line of another session", LIVE, 1, async || places().await.len()).await;
    assert_ne!(places().await, expired);
    eventually_is("the pipeline is owned anew", LIVE, true, async || {
        broken.keepstep.metric("keepstep_epoch", "").await > epoch
    })
    .await;
    broken.end().await;
}

#[tokio::test]
async fn a_redis_that_falls_silent_is_noticed() {
    let broken = Broken::start().await;
    let gaps = broken.keepstep.metric("keepstep_gaps_total", "").await;
    broken.to_redis.black_hole(Direction::ToClient);
    broken.notices().await;
    broken.to_redis.heal();
    broken.is_live().await;
    eventually_is("what was not heard is a gap", LIVE, true, async || {
        broken.keepstep.metric("keepstep_gaps_total", "").await > gaps
    })
    .await;
    broken.end().await;
}

#[tokio::test]
async fn a_slow_way_delays_changes_and_loses_none() {
    let broken = Broken::start().await;
    broken.is_live().await;
    let way = Duration::from_millis(30);
    broken.to_redis.delay(way);
    broken.to_zookeeper.delay(way);
    let mut client = broken.client.clone();
    for round in 0..10 {
        let begun = Instant::now();
        redis::cmd("SET").arg("settings:slow").arg(round).exec_async(&mut client).await.unwrap();
        let wanted = Some(round.to_string());
        eventually_is("the znode", LIVE, wanted, async || broken.znodes.text("/settings/slow").await).await;
        assert!(begun.elapsed() >= way * 2, "it came by the slow way: to the worker, and on to ZooKeeper");
    }
    broken.end().await;
}

#[tokio::test]
async fn frozen_servers_are_waited_for() {
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.redis.pause();
    scene.zookeeper.pause();
    eventually_is("the worker says that it waits", LIVE, true, async || state(&scene.keepstep).await != "live").await;
    scene.redis.resume();
    scene.zookeeper.resume();
    scene.znodes = scene.zookeeper.client().await;
    scene.set("settings:a", "2").await;
    scene.znodes.put("/settings/b", "2").await;
    in_step(HEALED, scene.znodes.clone(), scene.client.clone()).await;
    assert_eq!(scene.znodes.text("/settings/a").await.as_deref(), Some("2"));
    assert!(scene.keepstep.runs());
}

#[tokio::test]
async fn without_notifications_changes_still_flow_and_the_worker_says_what_is_missing() {
    let mut scene = Scene::prepare(&["--notify-keyspace-events", ""], |pipeline| pipeline).await;
    let checked = scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    let said = checked.stdout + &checked.stderr;
    assert!(said.contains("CONFIG SET notify-keyspace-events"), "{said}");
    scene.run().await;
    assert!(scene.keepstep.log().contains("CONFIG SET notify-keyspace-events"), "{}", scene.keepstep.log());
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.set("settings:a", "2").await;
    scene.znode_becomes("/settings/a", Some("2")).await;
    scene.znodes.put("/settings/a", "3").await;
    scene.key_becomes("settings:a", Some("3")).await;
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    let flags: (String, String) = scene.redis.run("CONFIG GET notify-keyspace-events").await;
    assert_eq!(flags.1, "", "the server's configuration is its owner's");
}
