//! Single changes on an idle system: from the application's write to the other store's own event about it.

use crate::load::{self, create_directories, create_znodes, keys_arrive};
use crate::raw;
use crate::report::{Report, at, doing};
use crate::servers::{Kafka, Redis, Worker, ZooKeeper};
use crate::{Outcome, Sizes};
use futures::StreamExt;
use std::ops::Range;
use std::time::{Duration, Instant};
use zookeeper_client::AddWatchMode;

const PAIRS: usize = 100;
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(15);
const ARRIVAL: Duration = Duration::from_secs(10);

/// Milliseconds of each change from ZooKeeper to Redis.
async fn to_redis(zookeeper: &ZooKeeper, redis: &Redis, root: &str, writes: Range<usize>) -> Outcome<Vec<f64>> {
    let client = zookeeper.client().await?;
    let mut events = redis.events(root).await?;
    let mut messages = events.on_message();
    let mut figures = Vec::new();
    for write in writes {
        tokio::time::sleep(PAUSE).await;
        let (path, key, value) = raw::pair(root, write % PAIRS, write);
        let begun = Instant::now();
        client.set_data(&path, value.as_bytes(), None).await?;
        let arrival = async {
            while let Some(message) = messages.next().await {
                if message.get_channel_name().ends_with(&key) {
                    break;
                }
            }
        };
        tokio::time::timeout(ARRIVAL, arrival).await.map_err(|_| format!("{path} does not reach Redis"))?;
        figures.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(figures)
}

/// Milliseconds of each change from Redis to ZooKeeper.
async fn to_zookeeper(zookeeper: &ZooKeeper, redis: &Redis, root: &str, writes: Range<usize>) -> Outcome<Vec<f64>> {
    let client = zookeeper.client().await?;
    let mut connection = redis.client().await?;
    let mut watcher = client.watch(&format!("/{root}"), AddWatchMode::PersistentRecursive).await?;
    let mut figures = Vec::new();
    for write in writes {
        tokio::time::sleep(PAUSE).await;
        let (path, key, value) = raw::pair(root, write % PAIRS, write);
        let begun = Instant::now();
        redis::cmd("SET").arg(key).arg(value).exec_async(&mut connection).await?;
        let arrival = async { while watcher.changed().await.path != path {} };
        tokio::time::timeout(ARRIVAL, arrival).await.map_err(|_| format!("{path} does not reach ZooKeeper"))?;
        figures.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(figures)
}

fn figures(all: &[f64]) -> String {
    format!("p50 {:.2} ms, p99 {:.2} ms", at(all, 0.5), at(all, 0.99))
}

fn judge(report: &mut Report, work: &str, keepstep: &[f64], raw: &[f64], kafka: Option<&Kafka>) {
    let (p50, p99) = (at(keepstep, 0.5), at(keepstep, 0.99));
    let (is_met, goal) = match kafka {
        None => (p50 < 2.0 && p99 < 8.0, "p50 < 2 ms, p99 < 8 ms"),
        Some(_) => (p50 < 10.0, "p50 < 10 ms"),
    };
    let work = if kafka.is_some() { format!("{work}, stream in Kafka") } else { work.to_owned() };
    report.row(&work, &figures(keepstep), &figures(raw), Some(p50 / at(raw, 0.5)), goal, is_met);
}

/// Both ways.
pub(crate) async fn run(sizes: Sizes, kafka: Option<&Kafka>, report: &mut Report) -> Outcome<()> {
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let client = zookeeper.client().await?;
    for root in ["raw", "settings"] {
        create_directories(&client, root, PAIRS).await?;
        create_znodes(&client, root, PAIRS).await?;
    }
    let connection = redis.client().await?;
    load::set_keys(&connection, "raw", PAIRS, 0..PAIRS).await?;
    // Write numbers go on, so that each write changes something.
    let (warm, singles) = (50, sizes.singles);
    let mut next = PAIRS;
    let mut some = |count: usize| {
        next += count;
        next - count..next
    };
    doing(&format!("{singles} single changes each way by the raw loops"));
    let raw_to_redis = {
        let _tasks = raw::zookeeper_to_redis(&zookeeper, &redis, "raw").await?;
        to_redis(&zookeeper, &redis, "raw", some(warm)).await?;
        to_redis(&zookeeper, &redis, "raw", some(singles)).await?
    };
    let raw_to_zookeeper = {
        let _tasks = raw::redis_to_zookeeper(&zookeeper, &redis, "raw").await?;
        to_zookeeper(&zookeeper, &redis, "raw", some(warm)).await?;
        to_zookeeper(&zookeeper, &redis, "raw", some(singles)).await?
    };
    let mut worker = Worker::start_on(&zookeeper, &redis, kafka)?;
    worker.ready().await?;
    keys_arrive(&connection, "settings", PAIRS, |pair| pair).await?;
    doing(&format!("{singles} single changes each way by Keepstep"));
    to_redis(&zookeeper, &redis, "settings", some(warm)).await?;
    let keepstep = to_redis(&zookeeper, &redis, "settings", some(singles)).await?;
    judge(report, "latency, ZooKeeper → Redis", &keepstep, &raw_to_redis, kafka);
    to_zookeeper(&zookeeper, &redis, "settings", some(warm)).await?;
    let keepstep = to_zookeeper(&zookeeper, &redis, "settings", some(singles)).await?;
    judge(report, "latency, Redis → ZooKeeper", &keepstep, &raw_to_zookeeper, kafka);
    Ok(())
}
