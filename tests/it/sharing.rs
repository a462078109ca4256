//! Many pipelines in one worker: they share its connections, counted at the servers, and nothing else.

use crate::support::{Keepstep, LIVE, Pipeline, Redis, Znodes, ZooKeeper, eventually, eventually_is};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::time::Duration;

/// A hundred first comparisons, or fifty moves, on a machine that does other things as well.
const ALL: Duration = Duration::from_secs(120);

/// Two stores, a worker for many pipelines, and the test's own hands.
struct Scene {
    zookeeper: ZooKeeper,
    redis: Redis,
    worker: Keepstep,
    files: Vec<String>,
    znodes: Znodes,
    keys: MultiplexedConnection,
    /// Connections at each server that are not a worker's.
    own: (usize, usize),
}

impl Scene {
    async fn prepare(options: &[&str], pipelines: impl IntoIterator<Item = impl Fn(Pipeline) -> Pipeline>) -> Scene {
        let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start_with(options));
        let texts: Vec<Pipeline> = pipelines
            .into_iter()
            .enumerate()
            .map(|(number, change)| {
                change(
                    Pipeline::two_way(zookeeper.connect_string(), redis.url())
                        .name(&format!("p{number:02}"))
                        .matches(&format!("{{zk: /p{number:02}/**, cache: \"p{number:02}:**\"}}")),
                )
            })
            .collect();
        let worker = Keepstep::new(&texts[0]);
        let mut files = Vec::new();
        for (number, text) in texts.iter().enumerate().skip(1) {
            let file = worker.file().with_file_name(format!("p{number:02}.yaml"));
            std::fs::write(&file, text.to_string()).unwrap();
            files.push(file.to_str().unwrap().to_owned());
        }
        let (znodes, keys) = tokio::join!(zookeeper.client(), redis.client());
        let mut scene = Scene { zookeeper, redis, worker, files, znodes, keys, own: (0, 0) };
        scene.own = scene.connections().await;
        scene
    }

    async fn start(&self, worker: &mut Keepstep) {
        let files: Vec<&str> = self.files.iter().map(String::as_str).collect();
        worker.start_with(&files);
    }

    /// Connections at the ZooKeeper and at the Redis beyond those of the test.
    async fn connections(&self) -> (usize, usize) {
        let sessions = self.zookeeper.four_letters("cons").await.matches("sid=").count();
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut self.keys.clone()).await.unwrap();
        (sessions - self.own.0, clients.lines().count() - self.own.1)
    }

    /// Waits until the workers have so many connections at each server.
    async fn connected(&self, wanted: (usize, usize)) {
        eventually_is("the number of connections", LIVE, wanted, async || self.connections().await).await;
    }

    /// Changes flow in each pipeline in both directions.
    async fn flows(&self, value: &str) {
        let names: Vec<String> = (0..=self.files.len()).map(|number| format!("p{number:02}")).collect();
        let mut keys = self.keys.clone();
        for name in &names {
            redis::cmd("SET").arg(format!("{name}:from-redis")).arg(value).exec_async(&mut keys).await.unwrap();
            self.znodes.put(&format!("/{name}/from-zk"), value).await;
        }
        for name in &names {
            eventually(&format!("{name} holds {value} on both sides"), LIVE, async || {
                let znode = self.znodes.text(&format!("/{name}/from-redis")).await;
                let key = format!("{name}:from-zk");
                let key: Option<String> = redis::cmd("GET").arg(key).query_async(&mut keys.clone()).await.unwrap();
                let wanted = Some(value.to_owned());
                if znode == wanted && key == wanted { Ok(()) } else { Err(format!("{znode:?} {key:?}")) }
            })
            .await;
        }
    }

    /// Places in all lines, and claims.
    async fn places_and_claims(&self) -> (usize, usize) {
        let mut places = 0;
        for number in 0..=self.files.len() {
            places += self.children(&format!("/_keepstep/p{number:02}/election")).await;
        }
        (places, self.children("/_keepstep/_claims").await)
    }

    async fn children(&self, path: &str) -> usize {
        self.znodes.client().list_children(path).await.unwrap().len()
    }
}

/// How many pipelines the worker says it owns and has live.
async fn live(worker: &Keepstep) -> usize {
    if worker.status_of("/live").await != Some(200) {
        return 0;
    }
    let status: Value = serde_json::from_str(&worker.get("/status").await.body).unwrap();
    status["pipelines"].as_array().map_or(0, |all| all.iter().filter(|one| one["state"] == "live").count())
}

#[tokio::test]
async fn a_hundred_pipelines_in_one_worker_have_two_connections_at_each_server() {
    // The longest that the server gives: no session shall end because the machine is busy.
    let scene = Scene::prepare(&[], (0..100).map(|_| |pipeline: Pipeline| pipeline.session_timeout("20s"))).await;
    let mut first = scene.worker.another();
    scene.start(&mut first).await;
    eventually_is("pipelines of the worker", ALL, 100, async || live(&first).await).await;
    scene.connected((2, 2)).await;
    scene.flows("one").await;
    scene.connected((2, 2)).await;
    eventually_is("places in line and claims", LIVE, (100, 100), async || scene.places_and_claims().await).await;

    // Another worker joins, and gets half of them: what a pipeline held goes, and the sessions stay.
    let mut second = scene.worker.another();
    scene.start(&mut second).await;
    eventually_is("pipelines of each worker", ALL, (50, 50), async || (live(&first).await, live(&second).await)).await;
    scene.connected((4, 4)).await;
    scene.flows("two").await;
    eventually_is("places in line and claims", LIVE, (200, 100), async || scene.places_and_claims().await).await;

    assert_eq!(second.terminate().await, Some(0));
    eventually_is("pipelines of the worker", ALL, 100, async || live(&first).await).await;
    scene.connected((2, 2)).await;
    scene.flows("three").await;
    eventually_is("places in line and claims", LIVE, (100, 100), async || scene.places_and_claims().await).await;
    assert_eq!(first.metric("keepstep_gaps_total", "").await, 0.0, "none heard of the others' coming and going");

    // Who goes in order leaves nothing behind, and does not wait for its session to expire.
    assert_eq!(first.terminate().await, Some(0));
    scene.connected((0, 0)).await;
    eventually_is("places in line and claims", LIVE, (0, 0), async || scene.places_and_claims().await).await;
}

#[tokio::test]
async fn pipelines_share_no_connection_with_one_of_another_login() {
    let user = ["--user", "keepstep", "on", ">secret", "~*", "&*", "+@all"];
    let redis_user = |pipeline: Pipeline| pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}");
    let zookeeper_user = |pipeline: Pipeline| pipeline.zookeeper("auth: {digest: {env: ZK_AUTH}}");
    let plain = |pipeline: Pipeline| pipeline;
    let kinds: [&dyn Fn(Pipeline) -> Pipeline; 4] = [&plain, &redis_user, &zookeeper_user, &plain];
    let scene = Scene::prepare(&user, kinds).await;
    let mut worker = scene.worker.another();
    worker = worker.variable("REDIS_PASSWORD", "secret").variable("ZK_AUTH", "keepstep:secret");
    scene.start(&mut worker).await;
    eventually_is("pipelines of the worker", LIVE, 4, async || live(&worker).await).await;
    scene.connected((4, 4)).await;
    scene.flows("one").await;
}

#[tokio::test]
async fn stores_that_go_and_come_back_take_all_pipelines_along() {
    let kept = ["--appendonly", "yes"];
    let mut scene = Scene::prepare(&kept, (0..8).map(|_| |pipeline: Pipeline| pipeline)).await;
    let mut worker = scene.worker.another();
    scene.start(&mut worker).await;
    eventually_is("pipelines of the worker", LIVE, 8, async || live(&worker).await).await;
    scene.flows("one").await;

    scene.redis.restart().await;
    scene.keys = scene.redis.client().await;
    scene.flows("two").await;
    scene.zookeeper.restart().await;
    scene.znodes = scene.zookeeper.client().await;
    scene.flows("three").await;

    // All sessions expire, those of the test with them.
    worker.freeze();
    eventually_is("places in line and claims", ALL, (0, 0), async || scene.places_and_claims().await).await;
    worker.thaw();
    eventually_is("places in line and claims", LIVE, (8, 8), async || scene.places_and_claims().await).await;
    eventually_is("pipelines of the worker", LIVE, 8, async || live(&worker).await).await;
    scene.flows("four").await;
    drop(worker);
    scene.connected((0, 0)).await;
}

#[tokio::test]
async fn a_pipeline_that_joins_with_wider_keys_leaves_no_change_of_the_others_untold() {
    // The first pipeline is the one that moves; its keys may begin with anything.
    let wide = |pipeline: Pipeline| pipeline.matches("{zk: /p00/*, cache: \"*:x:wide\"}");
    let one = |pipeline: Pipeline| pipeline.matches("{zk: /p01/*, cache: \"p01:*\"}");
    let two = |pipeline: Pipeline| pipeline.matches("{zk: /p02/*, cache: \"p02:*\"}");
    let kinds: [&dyn Fn(Pipeline) -> Pipeline; 3] = [&wide, &one, &two];
    // Tracking alone carries the changes, and it may not overlap.
    let scene = Scene::prepare(&["--notify-keyspace-events", ""], kinds).await;
    let told = async |round: &str| {
        for (key, path) in [("k:x:wide", "/p00/k"), ("p01:k", "/p01/k"), ("p02:k", "/p02/k")] {
            redis::cmd("SET").arg(key).arg(round).exec_async(&mut scene.keys.clone()).await.unwrap();
            eventually_is(path, LIVE, Some(round.to_owned()), async || scene.znodes.text(path).await).await;
        }
    };
    let (mut first, mut second) = (scene.worker.another(), scene.worker.another());
    scene.start(&mut first).await;
    eventually_is("pipelines of the worker", LIVE, 3, async || live(&first).await).await;
    told("one").await;
    scene.start(&mut second).await;
    eventually_is("pipelines of each worker", LIVE, (2, 1), async || (live(&first).await, live(&second).await)).await;
    told("two").await;
    assert_eq!(second.terminate().await, Some(0));
    eventually_is("pipelines of the worker", LIVE, 3, async || live(&first).await).await;
    told("three").await;
    assert_eq!(first.metric("keepstep_gaps_total", "").await, 0.0, "the connection stood");
    scene.connected((2, 2)).await;
}
