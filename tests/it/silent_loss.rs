//! Losses that no event tells of: each is noticed and healed long before the next comparison is due, with 10,000 pairs and default
//! settings, and none of them becomes a delete. Each test prints how long it took, and is one of the named cases (`named/mod.rs`).

use crate::support::{Pipeline, Proxy, Redis, Scene, ZooKeeper, eventually};
use futures::StreamExt;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zookeeper_client::{Acls, CreateMode, MultiReadResult};

/// Pairs of each test; the even ones came from Redis, the odd ones from ZooKeeper.
const PAIRS: usize = 10_000;
/// What is aimed at on a machine without other work; the next comparison is due after 60 s.
const HEALED: Duration = Duration::from_secs(10);
/// To fill both stores; not what is measured.
const FILLED: Duration = Duration::from_secs(120);

/// One at a time: what is measured is Keepstep, not the others of these tests.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn key(pair: usize) -> String {
    format!("settings:{}:{pair}", pair % 10)
}

fn path(pair: usize) -> String {
    format!("/settings/{}/{pair}", pair % 10)
}

/// Both stores with everything in step, and what each pair must hold.
struct Filled {
    scene: Scene,
    wanted: BTreeMap<usize, String>,
}

/// The settings that a pipeline has if nothing is said.
fn defaults(pipeline: Pipeline) -> Pipeline {
    pipeline.session_timeout("10s")
}

impl Filled {
    async fn start(redis: &[&str]) -> Filled {
        let mut scene = Scene::prepare(redis, defaults).await;
        scene.run().await;
        Filled::fill(scene).await
    }

    async fn fill(scene: Scene) -> Filled {
        let wanted = (0..PAIRS).map(|pair| (pair, format!("first-{pair}"))).collect();
        let filled = Filled { scene, wanted };
        let (even, odd): (Vec<usize>, Vec<usize>) = (0..PAIRS).partition(|pair| pair % 2 == 0);
        filled.set_keys(&even).await;
        filled.set_znodes(&odd).await;
        filled.becomes_whole(FILLED).await;
        // The first comparison with everything in it is over, as it is in a worker that has run for a minute.
        let before = filled.scene.keepstep.metric("keepstep_comparisons_total", "").await;
        filled.scene.keepstep.command("reconcile", &[]).await.expect(0);
        eventually("a comparison", FILLED, async || {
            let now = filled.scene.keepstep.metric("keepstep_comparisons_total", "").await;
            if now > before { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
        filled
    }

    /// Writes what is wanted of these to Redis.
    async fn set_keys(&self, pairs: &[usize]) {
        for chunk in pairs.chunks(1000) {
            let mut pipe = redis::pipe();
            for pair in chunk {
                pipe.cmd("SET").arg(key(*pair)).arg(&self.wanted[pair]);
            }
            pipe.exec_async(&mut self.scene.client.clone()).await.unwrap();
        }
    }

    /// Writes what is wanted of these to ZooKeeper.
    async fn set_znodes(&self, pairs: &[usize]) {
        let client = self.scene.znodes.client();
        for branch in 0..10 {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.mkdir(&format!("/settings/{branch}"), &options).await.unwrap();
        }
        let writes = pairs.iter().map(|pair| {
            let (znodes, path, value) = (self.scene.znodes.clone(), path(*pair), &self.wanted[pair]);
            async move { znodes.put(&path, value).await }
        });
        futures::stream::iter(writes).buffer_unordered(64).collect::<Vec<()>>().await;
    }

    /// Changes what is wanted of some pairs.
    fn want(&mut self, pairs: &[usize], word: &str) {
        for pair in pairs {
            self.wanted.insert(*pair, format!("{word}-{pair}"));
        }
    }

    /// How many keys, and how many znodes, do not hold what they should.
    async fn wrong(&self) -> (usize, usize) {
        let (mut keys, mut znodes) = (0, 0);
        let all: Vec<(&usize, &String)> = self.wanted.iter().collect();
        for chunk in all.chunks(500) {
            let names: Vec<String> = chunk.iter().map(|(pair, _)| key(**pair)).collect();
            let held: Vec<Option<String>> =
                redis::cmd("MGET").arg(names).query_async(&mut self.scene.client.clone()).await.unwrap();
            keys += held.iter().zip(chunk).filter(|(held, (_, wanted))| held.as_ref() != Some(wanted)).count();
            let mut reader = self.scene.znodes.client().new_multi_reader();
            for (pair, _) in chunk {
                reader.add_get_data(&path(**pair)).unwrap();
            }
            let held = reader.commit().await.unwrap();
            let is_right = |held: &MultiReadResult, wanted: &str| match held {
                MultiReadResult::Data { data, .. } => data.as_slice() == wanted.as_bytes(),
                _ => false,
            };
            znodes += held.iter().zip(chunk).filter(|(held, (_, wanted))| !is_right(held, wanted)).count();
        }
        (keys, znodes)
    }

    async fn becomes_whole(&self, within: Duration) {
        eventually("all pairs hold what they should", within, async || match self.wrong().await {
            (0, 0) => Ok(()),
            (keys, znodes) => Err(format!("{keys} keys and {znodes} znodes do not")),
        })
        .await;
    }

    /// Waits until the loss is noticed (the worker says so, or a value has come back) and healed; prints both times.
    async fn heals(&self, loss: &str, since: Instant, said: &str, logged: usize) {
        let before = self.wrong().await;
        let noticed = eventually(format!("{loss} is noticed"), HEALED, async || {
            let log = self.scene.keepstep.log();
            if log[logged.min(log.len())..].contains(said) {
                return Ok(since.elapsed());
            }
            let now = self.wrong().await;
            if now < before {
                Ok(since.elapsed())
            } else {
                Err(format!("{now:?} wrong; the log does not say {said:?}"))
            }
        })
        .await;
        self.becomes_whole(HEALED).await;
        let healed = since.elapsed();
        println!("{loss}, {PAIRS} pairs: noticed after {noticed:.1?}, healed after {healed:.1?}");
        assert_eq!(self.deletes().await, 0, "{loss}: no delete");
    }

    async fn deletes(&self) -> usize {
        self.scene.keepstep.changes().await.iter().filter(|change| change["op"] == "d").count()
    }

    fn logged(&self) -> usize {
        self.scene.keepstep.log().len()
    }

    async fn connect(&mut self) {
        self.scene.client = self.scene.redis.client().await;
    }
}

#[tokio::test]
async fn flushall() {
    let _turn = TURN.lock().await;
    let filled = Filled::start(&[]).await;
    let (logged, since) = (filled.logged(), Instant::now());
    filled.scene.redis.run::<()>("FLUSHALL").await;
    filled.heals("FLUSHALL", since, "own keys are gone", logged).await;
}

#[tokio::test]
async fn swapdb() {
    let _turn = TURN.lock().await;
    let filled = Filled::start(&[]).await;
    let (logged, since) = (filled.logged(), Instant::now());
    filled.scene.redis.run::<()>("SWAPDB 0 1").await;
    filled.heals("SWAPDB", since, "own keys are gone", logged).await;
}

#[tokio::test]
async fn notify_off() {
    let _turn = TURN.lock().await;
    let mut filled = Filled::start(&[]).await;
    let (logged, since) = (filled.logged(), Instant::now());
    let mut client = filled.scene.client.clone();
    redis::cmd("CONFIG").arg(&["SET", "notify-keyspace-events", ""]).exec_async(&mut client).await.unwrap();
    let all: Vec<usize> = (0..PAIRS).collect();
    filled.want(&all, "silent");
    filled.set_keys(&all).await;
    filled.heals("notifications off", since, "notifications are off", logged).await;
}

#[tokio::test]
async fn full_resync_swap() {
    let _turn = TURN.lock().await;
    let (filled, foreign) = tokio::join!(Filled::start(&["--repl-diskless-sync-delay", "0"]), Redis::start());
    let mut client: MultiplexedConnection = foreign.client().await;
    let mut pipe = redis::pipe();
    for pair in 0..PAIRS / 2 {
        pipe.cmd("SET").arg(key(pair)).arg("foreign");
    }
    pipe.exec_async(&mut client).await.unwrap();
    let logged = filled.logged();
    let redis = &filled.scene.redis;
    redis.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", foreign.address().port())).await;
    eventually("the foreign data is there", FILLED, async || {
        match redis.run::<Option<String>>(&format!("GET {}", key(0))).await.as_deref() {
            Some("foreign") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let since = Instant::now();
    redis.run::<()>("REPLICAOF NO ONE").await;
    filled.heals("a foreign data set", since, "data set replaced", logged).await;
}

#[tokio::test]
async fn rdb_restart_rollback() {
    let _turn = TURN.lock().await;
    let mut filled = Filled::start(&[]).await;
    filled.scene.save().await;
    let (from_redis, from_zookeeper): (Vec<usize>, Vec<usize>) = ((0..1000).collect(), (1000..2000).collect());
    filled.want(&from_redis, "later");
    filled.set_keys(&from_redis).await;
    filled.want(&from_zookeeper, "later");
    filled.set_znodes(&from_zookeeper).await;
    filled.becomes_whole(FILLED).await;
    let logged = filled.logged();
    filled.scene.redis.restart().await;
    let since = Instant::now();
    filled.connect().await;
    filled.heals("a roll-back of Redis", since, "data set replaced", logged).await;
}

#[tokio::test]
async fn zk_snapshot_restore() {
    let _turn = TURN.lock().await;
    let mut filled = Filled::start(&[]).await;
    let backup = filled.scene.zookeeper.back_up();
    filled.scene.zookeeper.restart().await;
    filled.scene.znodes = filled.scene.zookeeper.client().await;
    let (from_redis, from_zookeeper): (Vec<usize>, Vec<usize>) = ((0..1000).collect(), (1000..2000).collect());
    filled.want(&from_redis, "later");
    filled.set_keys(&from_redis).await;
    filled.want(&from_zookeeper, "later");
    filled.set_znodes(&from_zookeeper).await;
    filled.becomes_whole(FILLED).await;
    let logged = filled.logged();
    filled.scene.zookeeper.restart_from(&backup).await;
    let since = Instant::now();
    filled.scene.znodes = filled.scene.zookeeper.client().await;
    filled.heals("an older ensemble", since, "came back older", logged).await;
}

#[tokio::test]
async fn watch_gap_same_session() {
    let _turn = TURN.lock().await;
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let proxy = Proxy::start(zookeeper.address());
    let pipeline = defaults(Pipeline::two_way(proxy.address(), redis.url()));
    let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
    let keepstep = crate::support::Keepstep::run(pipeline).await;
    let mut filled = Filled::fill(Scene { redis, zookeeper, znodes, client, keepstep }).await;
    let all: Vec<usize> = (0..PAIRS).collect();
    let logged = filled.logged();
    proxy.cut();
    filled.want(&all, "unwatched");
    filled.set_znodes(&all).await;
    let since = Instant::now();
    proxy.heal();
    filled.heals("a gap of the watch", since, "the source is connected", logged).await;
}
