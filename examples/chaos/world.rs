//! The world of one run: the servers, the workers, the ways between them, and what applications share.

use crate::history::{History, key, path};
use crate::odd::{self, Odd};
use crate::support::{Ensemble, Kafka, Keepstep, Pipeline, Proxy, Redis, Znodes};
use crate::writers::Load;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// `worker.reconcile` is 2 s here; the contract adds 30.
const HEALED: Duration = Duration::from_secs(32);
/// Nobody writes any more for so long, with the comparisons that fall into it.
const QUIET: Duration = Duration::from_secs(5);

/// Pairs that both sides write, that only ZooKeeper's applications write, and that only those of Redis write.
const SHARED_PAIRS: usize = 40;
const ONE_SIDED_PAIRS: usize = 20;

pub fn pairs() -> Vec<String> {
    let shared = (0..SHARED_PAIRS).map(|number| format!("s{number}"));
    let one_sided = |kind: char| (0..ONE_SIDED_PAIRS).map(move |number| format!("{kind}{number}"));
    shared.chain(one_sided('z')).chain(one_sided('r')).collect()
}

/// A quarter of the pairs is never deleted and never expires, so that any delete of one of them is an invented one.
pub fn is_never_deleted(pair: &str) -> bool {
    pair.trim_start_matches(char::is_alphabetic).parse::<usize>().is_ok_and(|number| number % 4 == 3)
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub workers: usize,
    pub on_kafka: bool,
    /// The ensemble comes back from copies of itself.
    pub restores: bool,
    /// Commands that rewrite values run beside workers and between them.
    pub commands: bool,
}

/// What applications know.
pub struct Shared {
    pub begun: Instant,
    pub zookeeper: String,
    redis: [SocketAddr; 2],
    primary: AtomicUsize,
    pub stop: AtomicBool,
    history: Mutex<History>,
}

impl Shared {
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Redis has lost data, or may have, until now.
    pub fn redis_lost(&self) {
        let now = self.now();
        self.history().redis_losses.push(now);
    }

    /// ZooKeeper loses data from now on, or has until now.
    pub fn zookeeper_lost(&self) {
        let now = self.now();
        self.history().zookeeper_losses.push(now);
    }

    /// From now on bases may be missing.
    pub fn bases_lost(&self) {
        let now = self.now();
        self.history().bases_lost.push(now);
    }

    /// What went wrong beside the pairs.
    pub fn complain(&self, text: String) {
        self.history().complaints.push(text);
    }

    pub fn primary(&self) -> usize {
        self.primary.load(Ordering::SeqCst)
    }

    /// A connection to this Redis that gives up after a while.
    pub async fn connect(&self, server: usize) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)));
        let client = redis::Client::open(format!("redis://{}/0", self.redis[server]))?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// A worker with its ways to the stores.
pub struct Worker {
    pub keepstep: Keepstep,
    pub to_zookeeper: Arc<[Proxy; 3]>,
    pub to_redis: Arc<Proxy>,
    pub is_frozen: bool,
}

pub struct World {
    pub shared: Arc<Shared>,
    pub ensemble: Ensemble,
    pub redis: [Redis; 2],
    pub workers: Vec<Worker>,
    /// Where the stream is, unless each worker keeps its own.
    pub kafka: Option<Kafka>,
    /// How conflicts are settled in this run.
    pub rule: &'static str,
    pub restores: bool,
    pub commands: bool,
}

impl World {
    pub async fn start(seed: u64, plan: Plan) -> World {
        let durable = ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
        let (ensemble, one, two) =
            tokio::join!(Ensemble::start(), Redis::start_with(&durable), Redis::start_with(&durable));
        let redis = [one, two];
        follow(&redis[1], &redis[0]).await;
        ensemble.client().await.put("/settings", "").await;
        let rules = ["prefer zk", "prefer cache", "latest", "higher_version"];
        let rule = rules[usize::try_from(seed % 4).unwrap()];
        let kafka = if plan.on_kafka { Some(Kafka::start().await) } else { None };
        let worker = |_| {
            let to_zookeeper = [0, 1, 2].map(|server| Proxy::start(ensemble.address(server)));
            let to_redis = Proxy::start(redis[0].address());
            let connect = to_zookeeper.iter().map(|proxy| proxy.address().to_string()).collect::<Vec<_>>().join(",");
            let pipeline = Pipeline::two_way(connect, format!("redis://{}/0", to_redis.address()))
                .route(&format!("on_conflict: {rule}"))
                .worker("reconcile: 2s")
                .session_timeout("2s");
            let pipeline = match &kafka {
                Some(kafka) => pipeline.kafka(&format!("{{brokers: \"{}\"}}", kafka.brokers())),
                None => pipeline,
            };
            let mut keepstep = Keepstep::new(pipeline);
            keepstep.start();
            Worker { keepstep, to_zookeeper: Arc::new(to_zookeeper), to_redis: Arc::new(to_redis), is_frozen: false }
        };
        let mut workers: Vec<Worker> = (0..plan.workers).map(worker).collect();
        for worker in &mut workers {
            worker.keepstep.wait_ready().await;
        }
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            zookeeper: ensemble.connect_string(),
            redis: [redis[0].address(), redis[1].address()],
            primary: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            history: Mutex::new(History { begun_ms: now_ms(), ..History::default() }),
        });
        World { shared, ensemble, redis, workers, kafka, rule, restores: plan.restores, commands: plan.commands }
    }

    /// The load is on, and flows both ways.
    pub async fn wait_for_load(&self) {
        crate::support::eventually("the load flows", Duration::from_secs(60), async || {
            let writes = self.shared.history().writes.len();
            let carried: f64 = self.written().await.iter().sum();
            if writes >= 200 && carried >= 100.0 { Ok(()) } else { Err(format!("{writes} writes, {carried} carried")) }
        })
        .await;
    }

    /// Another Redis becomes the primary of everybody. What the old one took meanwhile is lost.
    pub async fn fail_over(&self, split: Duration) {
        let (old, new) = (self.shared.primary(), 1 - self.shared.primary());
        self.redis[new].run::<()>("REPLICAOF NO ONE").await;
        for worker in &self.workers {
            worker.to_redis.lead_to(self.redis[new].address());
        }
        tokio::time::sleep(split).await;
        self.shared.primary.store(new, Ordering::SeqCst);
        follow(&self.redis[old], &self.redis[new]).await;
        self.shared.redis_lost();
    }

    /// Every server of the ensemble comes back with a copy of what it held some seconds ago, and a leader begins a new epoch. What it
    /// was told since is lost. The copy is older than the last mark of an owner, which is what Keepstep promises for; if no owner
    /// leaves one in time, nothing happens.
    pub async fn restore_ensemble(&mut self) {
        let primary = self.shared.primary();
        let watermark =
            async || self.redis[primary].run::<Option<i64>>("HGET _keepstep:settings tide").await.unwrap_or(0);
        let before = watermark().await;
        let copy = self.ensemble.back_up();
        let begun = Instant::now();
        while watermark().await <= before {
            if begun.elapsed() > Duration::from_secs(15) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.shared.zookeeper_lost();
        self.ensemble.restore(&copy).await;
        self.shared.zookeeper_lost();
    }

    /// Takes every fault back.
    pub async fn heal(&mut self) {
        for worker in &mut self.workers {
            worker.to_redis.heal();
            worker.to_zookeeper.iter().for_each(Proxy::heal);
            if worker.is_frozen {
                worker.keepstep.thaw();
                worker.is_frozen = false;
            }
        }
        for redis in &self.redis {
            redis.run::<()>("CONFIG SET notify-keyspace-events KA").await;
            redis.run::<()>("CONFIG SET maxmemory 0").await;
        }
    }

    /// What each worker says it has written, `0` from one that does not answer.
    async fn written(&self) -> Vec<f64> {
        let mut written = Vec::new();
        for worker in &self.workers {
            let answers = worker.keepstep.status_of("/live").await == Some(200);
            written.push(if answers { worker.keepstep.metric("keepstep_writes_total", "").await } else { 0.0 });
        }
        written
    }

    /// Both sides of every pair, read past all proxies.
    async fn held(&self, znodes: &Znodes, client: &mut MultiplexedConnection) -> Vec<(String, Held)> {
        let mut held = Vec::new();
        for pair in pairs() {
            let znode = znodes.text(&path(&pair)).await;
            let value = redis::cmd("GET").arg(key(&pair)).query_async::<Option<String>>(client).await.unwrap();
            held.push((pair, (znode, value)));
        }
        held
    }

    /// Ends the load, waits until both sides are in step, sees that nobody writes any more, and gathers everything.
    pub async fn settle(&mut self, load: Load, odd: Odd) -> (History, Result<(), String>) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.shared.stop.store(true, Ordering::SeqCst);
        load.end().await;
        odd.end().await;
        // The last expiry that an application set is over.
        tokio::time::sleep(crate::writers::EXPIRES).await;
        let znodes = self.ensemble.client().await;
        let mut client = self.redis[self.shared.primary()].client().await;
        let since = Instant::now();
        let quiet = loop {
            let mut held = self.held(&znodes, &mut client).await;
            while since.elapsed() < HEALED && (!equal(&held) || !self.is_live().await) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                held = self.held(&znodes, &mut client).await;
            }
            // The odd names may take longer than the pairs, and no longer than all have.
            let quiet = self.is_quiet(&znodes, &mut client).await;
            if quiet.is_ok() || since.elapsed() >= HEALED {
                break quiet;
            }
        };
        let mut history = std::mem::take(&mut *self.shared.history());
        history.held = self.held(&znodes, &mut client).await.into_iter().collect();
        for (number, worker) in self.workers.iter().enumerate() {
            for line in worker.keepstep.log().lines().filter(|line| line.contains("deleted and recreated between")) {
                let path = line.split("/settings/").nth(1).and_then(|rest| rest.split([' ', '"']).next());
                *history.recreated.entry(path.expect("it names the pair").to_owned()).or_default() += 1;
            }
            // In Kafka there is one stream for all.
            if number == 0 || self.kafka.is_none() {
                history.changes.extend(worker.keepstep.changes().await);
                history.conflicts.extend(worker.keepstep.json("conflicts", &[]).await);
            }
        }
        (history, quiet)
    }

    async fn is_live(&self) -> bool {
        self.owner().await.is_some()
    }

    /// The worker that is at work.
    async fn owner(&self) -> Option<&Keepstep> {
        for worker in &self.workers {
            let status = worker.keepstep.command("status", &["--format", "json"]).await;
            if status.stdout.contains("\"state\":\"live\"") {
                return Some(&worker.keepstep);
            }
        }
        None
    }

    async fn is_quiet(&mut self, znodes: &Znodes, client: &mut MultiplexedConnection) -> Result<(), String> {
        if !self.is_live().await {
            return Err("NO WORKER IS LIVE after everything was healed".to_owned());
        }
        let (before, held) = (self.written().await, self.held(znodes, client).await);
        tokio::time::sleep(QUIET).await;
        let (after, still) = (self.written().await, self.held(znodes, client).await);
        if before != after || held != still {
            return Err(format!("NO REST: {before:?} writes, then {after:?}"));
        }
        // It looks at everything, the odd names as well; only their owner knows which of those are in quarantine.
        let Some(owner) = self.owner().await else { return Err("NO WORKER IS LIVE any more".to_owned()) };
        let compared = owner.command("diff", &["--format", "json"]).await;
        let differs =
            compared.objects().into_iter().any(|row| !(row["state"] == "quarantined" && odd::is_expected(&row)));
        if differs || !matches!(compared.code, Some(0 | 1)) {
            return Err(format!("DIFF: {}", shortened(&format!("{compared:?}"))));
        }
        for worker in &mut self.workers {
            if !worker.keepstep.runs() {
                return Err(format!("A WORKER ENDED:\n{}", worker.keepstep.log()));
            }
            let mut quarantined = worker.keepstep.json("quarantine list", &[]).await;
            quarantined.retain(|row| !odd::is_expected(row));
            if !quarantined.is_empty() {
                return Err(format!("QUARANTINED: {}", shortened(&Value::from(quarantined).to_string())));
            }
        }
        Ok(())
    }

    /// Puts the logs where they outlive the run.
    pub fn keep_logs(&self, seed: u64) -> PathBuf {
        let folder = PathBuf::from("target/chaos").join(format!("seed-{seed}"));
        std::fs::create_dir_all(&folder).unwrap();
        for (number, worker) in self.workers.iter().enumerate() {
            std::fs::write(folder.join(format!("worker-{number}.log")), worker.keepstep.log()).unwrap();
        }
        folder
    }
}

/// Odd names are long.
fn shortened(text: &str) -> String {
    text.chars().take(4_000).collect()
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

type Held = (Option<String>, Option<String>);

fn equal(held: &[(String, Held)]) -> bool {
    held.iter().all(|(_, (znode, key))| znode == key)
}

/// Makes one Redis a replica of another, and waits until it has caught up.
pub async fn follow(replica: &Redis, primary: &Redis) {
    let (host, port) = (primary.address().ip(), primary.address().port());
    replica.run::<()>(&format!("REPLICAOF {host} {port}")).await;
    crate::support::eventually("the replica follows", Duration::from_secs(60), async || {
        match replica.info("master_link_status").await.as_str() {
            "up" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}
