//! The scene of a named case: a pipeline, a worker and pairs of its own on the one pair of servers that all cases share.

use crate::support::{Keepstep, LIVE, Pipeline, Proxy, Redis, Znodes, ZooKeeper, eventually, eventually_is};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Started once; the guardian ends them.
static SERVERS: tokio::sync::OnceCell<(ZooKeeper, Redis)> = tokio::sync::OnceCell::const_new();

/// Cases at the same time, each with its worker. Nothing else bounds them, since they share the servers: there are more test
/// threads than that (see `check`), as other tests have their own bounds.
static CASES: Semaphore = Semaphore::const_new(8);

pub struct Case {
    pub keepstep: Keepstep,
    pub znodes: Znodes,
    pub client: MultiplexedConnection,
    pub zookeeper: &'static ZooKeeper,
    pub redis: &'static Redis,
    /// Where the worker reaches the stores; they do nothing unless the case asks.
    pub to_zookeeper: Proxy,
    pub to_redis: Proxy,
    name: String,
    settled: AtomicU64,
    _permit: SemaphorePermit<'static>,
}

impl Case {
    /// A worker with the two-way pipeline of this case, ready.
    pub async fn start(name: &str) -> Case {
        Case::start_with(name, |pipeline| pipeline).await
    }

    pub async fn start_with(name: &str, change: impl FnOnce(Pipeline) -> Pipeline) -> Case {
        let mut case = Case::prepare(name, change).await;
        case.run().await;
        case
    }

    /// With no worker yet. `_` of the name is `-` in the pipeline's, which paths and keys begin with.
    pub async fn prepare(name: &str, change: impl FnOnce(Pipeline) -> Pipeline) -> Case {
        let permit = CASES.acquire().await.unwrap();
        let name = name.replace('_', "-");
        let (zookeeper, redis) =
            SERVERS.get_or_init(async || tokio::join!(ZooKeeper::start_shared(), Redis::start())).await;
        let (to_zookeeper, to_redis) = (Proxy::start(zookeeper.address()), Proxy::start(redis.address()));
        let pipeline = Pipeline::two_way(to_zookeeper.address(), format!("redis://{}/0", to_redis.address()))
            .name(&name)
            .matches(&format!("{{zk: /{name}/**, cache: \"{name}:**\"}}"));
        let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
        let (keepstep, settled) = (Keepstep::new(change(pipeline)), AtomicU64::new(0));
        Case { keepstep, znodes, client, zookeeper, redis, to_zookeeper, to_redis, name, settled, _permit: permit }
    }

    pub async fn run(&mut self) {
        self.keepstep.start();
        self.keepstep.wait_ready().await;
    }

    /// Ends the worker if it runs, and starts it again.
    pub async fn restart(&mut self) {
        self.settled.store(0, Ordering::Relaxed);
        self.keepstep.restart().await;
    }

    pub fn path(&self, name: &str) -> String {
        format!("/{}/{}", self.name, name.replace(':', "/"))
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.name)
    }

    pub async fn set(&self, name: &str, value: impl AsRef<[u8]>) {
        let mut set = redis::cmd("SET");
        set.arg(self.key(name)).arg(value.as_ref()).exec_async(&mut self.client.clone()).await.unwrap();
    }

    /// One command; `$` at the beginning of a word stands for the prefix of the case's keys.
    pub async fn redis(&self, command: &str) {
        let mut words = command.split(' ');
        let mut request = redis::cmd(words.next().unwrap());
        for word in words {
            request.arg(word.strip_prefix('$').map_or(word.to_owned(), |name| self.key(name)));
        }
        request.exec_async(&mut self.client.clone()).await.unwrap();
    }

    pub async fn del(&self, name: &str) {
        self.redis(&format!("DEL ${name}")).await;
    }

    pub async fn put(&self, name: &str, value: impl AsRef<[u8]>) {
        self.znodes.put(&self.path(name), value).await;
    }

    pub async fn delete(&self, name: &str) {
        self.znodes.delete(&self.path(name)).await;
    }

    /// What the znode and the key hold.
    pub async fn held(&self, name: &str) -> [Option<String>; 2] {
        let held: Option<Vec<u8>> =
            redis::cmd("GET").arg(self.key(name)).query_async(&mut self.client.clone()).await.unwrap();
        [self.znodes.text(&self.path(name)).await, held.map(|held| String::from_utf8_lossy(&held).into_owned())]
    }

    /// Both sides come to hold this.
    #[track_caller]
    pub fn becomes<'a>(&'a self, name: &'a str, wanted: Option<&'a str>) -> impl Future<Output = ()> + 'a {
        let wanted = [wanted.map(str::to_owned), wanted.map(str::to_owned)];
        eventually_is(format!("{}: znode and key {name}", self.name), LIVE, wanted, async move || self.held(name).await)
    }

    /// A value goes all the way in either direction: whatever was seen before it was dealt with. The echo of our own write to
    /// Redis is among that, and the one of our write to ZooKeeper needs no look, so that no point is reached by either.
    pub async fn settle(&self) {
        let stamp = format!("{:?}", std::time::Instant::now());
        self.put("settle", &stamp).await;
        self.becomes("settle", Some(&stamp)).await;
        let stamp = format!("{:?}", std::time::Instant::now());
        self.set("settle", &stamp).await;
        self.becomes("settle", Some(&stamp)).await;
        self.settled.fetch_add(2, Ordering::Relaxed);
    }

    /// After all is settled, the worker has written so many keys and znodes in this run, no more and no less.
    pub async fn wrote(&self, writes: u64) {
        self.settle().await;
        let wanted = writes + self.settled.load(Ordering::Relaxed);
        let written = async || {
            let written = self.keepstep.metric("keepstep_writes_total", "").await;
            format!("{written:.0}").parse::<u64>().unwrap()
        };
        eventually_is(format!("{}: writes", self.name), LIVE, wanted, written).await;
        self.settle().await;
        eventually_is(format!("{}: writes, later", self.name), LIVE, wanted + 2, written).await;
    }

    /// Records of a pair on the stream, oldest first.
    pub async fn changes(&self, name: &str) -> Vec<Value> {
        let key = self.key(name);
        self.keepstep.json("tail", &["--from", "earliest", "--no-follow", "--key", &key]).await
    }

    /// The conflict log, of all pairs.
    pub async fn conflicts(&self) -> Vec<Value> {
        self.keepstep.json("conflicts", &[]).await
    }

    pub async fn no_conflict(&self) {
        let conflicts = self.conflicts().await;
        assert!(conflicts.is_empty(), "{}: a conflict that nobody made: {conflicts:?}", self.name);
    }

    /// Exactly these were settled: what the znode held, what the key held, and who won.
    pub async fn settled_conflicts(&self, wanted: &[(Option<&str>, Option<&str>, &str)]) {
        let rows = self.conflicts().await;
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row["zk"].as_str(), row["cache"].as_str(), row["winner"].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(
            found,
            wanted,
            "{}: the conflict log: {rows:?}; the stream: {:?}",
            self.name,
            self.keepstep.changes().await
        );
    }

    /// Whether the conflict log has this value of this side (`zk` or `cache`) as replaced.
    pub async fn has_logged(&self, side: &str, value: &str) -> bool {
        self.conflicts().await.iter().any(|row| row[side] == value && row["winner"] != side)
    }

    pub async fn quarantine_becomes(&self, reasons: &[&str]) {
        let wanted: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        eventually_is(format!("{}: the quarantine", self.name), LIVE, wanted, async || {
            let listed = self.keepstep.json("quarantine list", &[]).await;
            let mut reasons: Vec<String> =
                listed.iter().map(|row| row["reason"].as_str().unwrap_or_default().to_owned()).collect();
            reasons.sort();
            reasons
        })
        .await;
    }

    /// A worker without caches: each decision is taken by looking at both sides.
    pub fn without_caches(mut self) -> Case {
        self.keepstep = self.keepstep.variable("KEEPSTEP_SWITCH_OFF", "caches");
        self
    }

    /// One pair in step, with this value.
    pub async fn in_step(&self, name: &str, value: &str) {
        self.set(name, value).await;
        self.becomes(name, Some(value)).await;
    }

    /// Waits until the stream's last record of the pair says this.
    pub async fn recorded(&self, name: &str, value: &str) {
        eventually(format!("{}: {value} is on the stream", self.name), LIVE, async || {
            let changes = self.changes(name).await;
            let is_there = changes.last().is_some_and(|last| last["after"] == value);
            if is_there { Ok(()) } else { Err(format!("{changes:?}")) }
        })
        .await;
    }
}
