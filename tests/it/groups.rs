//! Several workers with the same pipelines: they share them evenly, and nothing is lost when one joins, leaves or dies.

use crate::support::{Keepstep, LIVE, Pipeline, Redis, ZooKeeper, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PIPELINES: usize = 6;
/// Two looks of an owner, each every 2 s, a first comparison, and a machine that does other things as well.
const SPREAD: Duration = Duration::from_secs(30);

struct Crew {
    zookeeper: ZooKeeper,
    redis: Redis,
    workers: Vec<Keepstep>,
    files: Vec<String>,
}

impl Crew {
    async fn prepare(session_timeout: &str) -> Crew {
        let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
        let pipeline = |number: usize| {
            Pipeline::two_way(zookeeper.connect_string(), redis.url())
                .name(&format!("p{number}"))
                .matches(&format!("{{zk: /p{number}/**, cache: \"p{number}:**\"}}"))
                .session_timeout(session_timeout)
                .worker("reconcile: 5s")
        };
        let first = Keepstep::new(pipeline(0));
        let mut files = Vec::new();
        for number in 1..PIPELINES {
            let file = first.file().with_file_name(format!("p{number}.yaml"));
            std::fs::write(&file, pipeline(number).to_string()).unwrap();
            files.push(file.to_str().unwrap().to_owned());
        }
        Crew { zookeeper, redis, workers: vec![first], files }
    }

    /// One more place for a worker.
    fn add(&mut self) {
        self.workers.push(self.workers[0].another());
    }

    async fn start(&mut self, worker: usize) {
        let files: Vec<&str> = self.files.iter().map(String::as_str).collect();
        self.workers[worker].start_with(&files);
        self.workers[worker].wait_ready().await;
    }

    /// By pipeline, the workers that say they are its owner and live.
    async fn owners(&mut self) -> BTreeMap<String, Vec<usize>> {
        let mut owners: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, worker) in self.workers.iter().enumerate() {
            let data = worker.data().to_str().unwrap();
            let rows = worker.bare(&["status", "--format", "json", "--data-dir", data]).await;
            for row in rows.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                if row["state"] == "live" {
                    owners.entry(row["pipeline"].as_str().unwrap_or_default().to_owned()).or_default().push(number);
                }
            }
        }
        owners
    }

    /// Waits until each worker owns so many, and each pipeline has one owner.
    async fn owned(&mut self, wanted: &[usize]) -> Duration {
        let start = Instant::now();
        eventually(&format!("the workers own {wanted:?} pipelines"), SPREAD, async || {
            let owners = self.owners().await;
            let mut counts = vec![0; wanted.len()];
            owners.values().flatten().for_each(|worker| counts[*worker] += 1);
            let is_single = owners.len() == PIPELINES && owners.values().all(|of| of.len() == 1);
            if is_single && counts == wanted { Ok(()) } else { Err(format!("{owners:?}")) }
        })
        .await;
        start.elapsed()
    }
}

/// Sets a key and a znode of each pipeline again and again, until it is stopped; then it says what it wrote last.
async fn write(connect: String, url: String, stop: Arc<AtomicBool>) -> u64 {
    let znodes = crate::support::Znodes::connect(&connect).await;
    let mut client = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        for number in 0..PIPELINES {
            let key = format!("p{number}:from-redis");
            redis::cmd("SET").arg(key).arg(round).exec_async(&mut client).await.unwrap();
            znodes.put(&format!("/p{number}/from-zk"), round.to_string()).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    round
}

#[tokio::test]
async fn workers_share_their_pipelines_evenly_and_nothing_is_lost_while_they_come_and_go() {
    let mut crew = Crew::prepare("4s").await;
    crew.start(0).await;
    crew.owned(&[PIPELINES]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(write(crew.zookeeper.connect_string(), crew.redis.url(), Arc::clone(&stop)));

    crew.add();
    crew.add();
    crew.start(1).await;
    crew.start(2).await;
    let joined = crew.owned(&[2, 2, 2]).await;

    crew.workers[1].kill9();
    let died = crew.owned(&[3, 0, 3]).await;
    crew.start(1).await;
    let back = crew.owned(&[2, 2, 2]).await;

    // A rolling restart.
    for worker in 0..3 {
        assert_eq!(crew.workers[worker].terminate().await, Some(0));
        let left = [if worker == 0 { 0 } else { 3 }, if worker == 1 { 0 } else { 3 }, if worker == 2 { 0 } else { 3 }];
        crew.owned(&left).await;
        crew.start(worker).await;
        crew.owned(&[2, 2, 2]).await;
    }
    println!("spread after two joined: {joined:?}, after one died: {died:?}, after it came back: {back:?}");

    stop.store(true, Ordering::Relaxed);
    let last = load.await.unwrap().to_string();
    let (znodes, mut client) = tokio::join!(crew.zookeeper.client(), crew.redis.client());
    for number in 0..PIPELINES {
        eventually(&format!("pipeline {number} holds {last} on both sides"), LIVE, async || {
            let znode = znodes.text(&format!("/p{number}/from-redis")).await;
            let key: Option<String> =
                redis::cmd("GET").arg(format!("p{number}:from-zk")).query_async(&mut client).await.unwrap();
            if znode.as_ref() == Some(&last) && key.as_ref() == Some(&last) {
                Ok(())
            } else {
                Err(format!("{znode:?} {key:?}"))
            }
        })
        .await;
    }
    for worker in &crew.workers {
        let conflicts = worker.metric("keepstep_conflicts_total", "").await;
        assert_eq!(conflicts, 0.0, "each pair was written on one side only");
    }
}

#[tokio::test]
async fn a_worker_that_runs_once_is_given_no_pipeline_of_another() {
    let mut crew = Crew::prepare("4s").await;
    crew.start(0).await;
    crew.owned(&[PIPELINES]).await;
    crew.add();
    let files: Vec<&str> = crew.files.iter().map(String::as_str).collect();
    crew.workers[1].start_with(&[files.as_slice(), &["--once", "--timeout", "6s"]].concat());
    crew.workers[1].log_at_end(SPREAD * 2, 1).await;
    crew.owned(&[PIPELINES, 0]).await;
}
