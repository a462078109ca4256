//! The usual scene: one ZooKeeper, one Redis, and a Keepstep between them.

use super::eventually::{eventually, eventually_is};
use super::keepstep::Keepstep;
use super::pipeline::Pipeline;
use super::redis::Redis;
use super::znodes::Znodes;
use super::zookeeper::ZooKeeper;
use futures::StreamExt;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zookeeper_client::AddWatchMode;

/// How long a change may take that a live worker sees at once. Milliseconds on an idle machine; far below the 60 s of
/// the next comparison, so that nothing passes because a comparison came to help.
pub const LIVE: Duration = Duration::from_secs(15);

/// Two stores and a worker.
pub struct Scene {
    pub redis: Redis,
    pub zookeeper: ZooKeeper,
    pub znodes: Znodes,
    pub client: MultiplexedConnection,
    pub keepstep: Keepstep,
}

impl Scene {
    /// The two-way pipeline on empty stores, ready.
    pub async fn start() -> Scene {
        Scene::start_with(|pipeline| pipeline).await
    }

    /// [`Scene::start`] with a changed pipeline.
    pub async fn start_with(change: impl FnOnce(Pipeline) -> Pipeline) -> Scene {
        let mut scene = Scene::prepare(&[], change).await;
        scene.keepstep.start();
        scene.keepstep.wait_ready().await;
        scene
    }

    /// Stores with these options of Redis, and a pipeline file, with no worker yet.
    pub async fn prepare(redis: &[&str], change: impl FnOnce(Pipeline) -> Pipeline) -> Scene {
        let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start_with(redis));
        let pipeline = change(Pipeline::two_way(zookeeper.connect_string(), redis.url()));
        let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
        Scene { znodes, client, redis, zookeeper, keepstep: Keepstep::new(pipeline) }
    }

    /// Starts the worker of a prepared scene and waits until it is ready.
    pub async fn run(&mut self) {
        self.keepstep.start();
        self.keepstep.wait_ready().await;
    }

    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        redis::cmd("SET").arg(key.as_ref()).arg(value.as_ref()).exec_async(&mut self.client.clone()).await.unwrap();
    }

    pub async fn get(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        redis::cmd("GET").arg(key.as_ref()).query_async(&mut self.client.clone()).await.unwrap()
    }

    pub async fn text(&self, key: impl AsRef<[u8]>) -> Option<String> {
        self.get(key).await.map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    pub async fn del(&self, key: impl AsRef<[u8]>) {
        redis::cmd("DEL").arg(key.as_ref()).exec_async(&mut self.client.clone()).await.unwrap();
    }

    /// The key becomes this, within the time of a live change.
    #[track_caller]
    pub fn key_becomes<'a>(&'a self, key: &'a str, value: Option<&'a str>) -> impl Future<Output = ()> + 'a {
        let wanted = value.map(str::to_owned);
        eventually_is(format!("the key {key}"), LIVE, wanted, async move || self.text(key).await)
    }

    /// The znode's data becomes this, within the time of a live change.
    #[track_caller]
    pub fn znode_becomes<'a>(&'a self, path: &'a str, value: Option<&'a str>) -> impl Future<Output = ()> + 'a {
        let wanted = value.map(str::to_owned);
        eventually_is(format!("the znode {path}"), LIVE, wanted, async move || self.znodes.text(path).await)
    }

    /// The route becomes this in the worker's own words: `live`, `paused`, `awaiting_approval`.
    #[track_caller]
    pub fn route_becomes<'a>(&'a self, state: &'a str) -> impl Future<Output = ()> + 'a {
        eventually_is("the route", LIVE, serde_json::json!(state), async || {
            self.keepstep.json("status", &[]).await[0]["routes"][0]["state"].clone()
        })
    }

    /// The reasons for which pairs are in quarantine, sorted.
    pub async fn quarantined(&self) -> Vec<String> {
        let listed = self.keepstep.json("quarantine list", &[]).await;
        let mut reasons: Vec<String> =
            listed.iter().map(|row| row["reason"].as_str().unwrap_or_default().to_owned()).collect();
        reasons.sort();
        reasons
    }

    /// Exactly these reasons are in quarantine, within the time of a live change.
    #[track_caller]
    pub fn quarantine_becomes<'a>(&'a self, reasons: &'a [&'a str]) -> impl Future<Output = ()> + 'a {
        let wanted: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        eventually_is("the quarantine", LIVE, wanted, async move || self.quarantined().await)
    }

    /// A value goes all the way to ZooKeeper: whatever was seen before it was dealt with.
    pub async fn settle(&self) {
        let stamp = format!("{:?}", std::time::Instant::now());
        self.set("settings:settle", &stamp).await;
        self.znode_becomes("/settings/settle", Some(&stamp)).await;
    }

    /// No pair is under way: what is there has its base beside it.
    pub async fn at_rest(&self) {
        eventually_is("pairs under way", LIVE, serde_json::json!(0), async || {
            self.keepstep.json("status", &[]).await[0]["routes"][0]["pending"].clone()
        })
        .await;
    }

    /// Redis puts all that it holds on disk, once no pair is under way any more: the sidecar of a pair is written after the value,
    /// and a copy without it leaves open which of two values is the newer one.
    pub async fn save(&self) {
        self.at_rest().await;
        self.redis.run::<()>("SAVE").await;
    }

    /// All string keys of the route, by the path that belongs to them. For names without odd characters.
    pub async fn keys_by_path(&self) -> BTreeMap<String, Vec<u8>> {
        keys_by_path(&mut self.client.clone()).await
    }

    /// Both sides hold the same, within this time.
    #[track_caller]
    pub fn in_step(&self, within: Duration) -> impl Future<Output = ()> + '_ {
        let (znodes, client) = (self.znodes.clone(), self.client.clone());
        in_step(within, znodes, client)
    }
}

/// All string keys of `settings:**`, by the path that belongs to them.
pub async fn keys_by_path(client: &mut MultiplexedConnection) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("settings:*").query_async(client).await.unwrap();
    let mut found = BTreeMap::new();
    for key in keys {
        if let Ok(Some(value)) = redis::cmd("GET").arg(&key).query_async::<Option<Vec<u8>>>(client).await {
            found.insert(format!("/{}", key.replace(':', "/")), value);
        }
    }
    found
}

/// Below `/settings` and `settings:` there is the same, but for znodes that are empty and have no key.
#[track_caller]
pub fn in_step(within: Duration, znodes: Znodes, client: MultiplexedConnection) -> impl Future<Output = ()> {
    eventually("both sides hold the same", within, async move || {
        let keys = keys_by_path(&mut client.clone()).await;
        let mut tree: BTreeMap<String, Vec<u8>> = znodes.tree("/settings").await.into_iter().collect();
        tree.retain(|path, data| !data.is_empty() || keys.contains_key(path));
        let differ: Vec<String> = keys
            .keys()
            .chain(tree.keys())
            .filter(|path| keys.get(*path) != tree.get(*path))
            .map(|path| format!("{path}: znode {:?}, key {:?}", shown(tree.get(path)), shown(keys.get(path))))
            .collect();
        if differ.is_empty() {
            return Ok(());
        }
        Err(format!("{} pairs differ, such as {}", differ.len(), differ[..differ.len().min(6)].join("; ")))
    })
}

fn shown(value: Option<&Vec<u8>>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned())
}

/// Every write to a key or znode of the route that happens while this lives, whoever wrote it.
pub struct Writes {
    seen: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writes {
    pub async fn watch(scene: &Scene) -> Writes {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut subscription =
            redis::Client::open(scene.redis.url()).unwrap().get_async_pubsub().await.expect("Redis is there");
        subscription.psubscribe("__keyspace@0__:settings:*").await.unwrap();
        let keys = seen.clone();
        let redis = tokio::spawn(async move {
            let mut events = subscription.into_on_message();
            while let Some(event) = events.next().await {
                let what: String = event.get_payload().unwrap_or_default();
                keys.lock().unwrap().push(format!("{what} {}", event.get_channel_name()));
            }
        });
        let session = scene.zookeeper.client().await;
        let mut watcher = session.client().watch("/settings", AddWatchMode::PersistentRecursive).await.unwrap();
        let znodes = seen.clone();
        let zookeeper = tokio::spawn(async move {
            let _session = session;
            loop {
                let event = watcher.changed().await;
                znodes.lock().unwrap().push(format!("{event:?}"));
                if event.session_state.is_terminated() {
                    return;
                }
            }
        });
        Writes { seen, tasks: vec![redis, zookeeper] }
    }

    /// What was written so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
