//! Many pairs: the first sync, and then memory and idleness of the same worker.

use crate::load::{create_directories, create_znodes, keys_arrive, set_znodes};
use crate::raw;
use crate::report::{Report, doing};
use crate::servers::{Redis, Worker, ZooKeeper};
use crate::{Outcome, Sizes};
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zookeeper_client::{AddWatchMode, Client, EventType};

/// Pairs of the smaller idle pipeline.
const FEW: usize = 10_000;
/// Pairs that change while a sink is stopped.
const CHANGING: usize = 1_000;
/// The worker's `reconcile`.
const RECONCILE: Duration = Duration::from_secs(60);

/// Which of the three.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) first_sync: bool,
    pub(crate) memory: bool,
    pub(crate) idle: bool,
}

/// CPU of an idle worker, and writes to user keys and znodes, over whole intervals of the comparison.
async fn idle(
    zookeeper: &ZooKeeper,
    redis: &Redis,
    worker: &Worker,
    pairs: usize,
    goal: f64,
    sizes: Sizes,
    report: &mut Report,
) -> Outcome<()> {
    let client = zookeeper.client().await?;
    let mut watcher = client.watch("/settings", AddWatchMode::PersistentRecursive).await?;
    let mut events = redis.events("settings").await?;
    let writes = Arc::new(AtomicU64::new(0));
    let (keys, znodes) = (Arc::clone(&writes), Arc::clone(&writes));
    let watch = tokio::spawn(async move {
        loop {
            if watcher.changed().await.event_type != EventType::Session {
                znodes.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let listen = tokio::spawn(async move {
        let mut messages = events.on_message();
        while messages.next().await.is_some() {
            keys.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (cpu, server, begun) = (worker.cpu()?, zookeeper.cpu()?, Instant::now());
    let intervals = sizes.idle_s.div_ceil(RECONCILE.as_secs());
    doing(&format!("watching an idle worker for {} s", RECONCILE.as_secs() * intervals));
    tokio::time::sleep(RECONCILE * u32::try_from(intervals)?).await;
    let share = (worker.cpu()? - cpu) * 100.0 / begun.elapsed().as_secs_f64();
    let server = (zookeeper.cpu()? - server) * 100.0 / begun.elapsed().as_secs_f64();
    let writes = writes.load(Ordering::Relaxed);
    watch.abort();
    listen.abort();
    println!("   idle at {pairs} pairs: worker {share:.2} % of a core, ZooKeeper {server:.2} %, {writes} writes");
    let work = format!("idle at {pairs} pairs, comparison included");
    let shown = format!("{share:.2} % of a core, {writes} writes to user keys or znodes");
    report.row(&work, &shown, "–", None, &format!("< {goal} %, no writes"), share < goal && writes == 0);
    Ok(())
}

/// `idle` with few pairs.
pub(crate) async fn idle_small(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let client = zookeeper.client().await?;
    create_directories(&client, "settings", FEW).await?;
    create_znodes(&client, "settings", FEW).await?;
    let mut worker = Worker::start(&zookeeper, &redis)?;
    worker.ready().await?;
    keys_arrive(&redis.client().await?, "settings", FEW, |pair| pair).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    idle(&zookeeper, &redis, &worker, FEW, 1.0, sizes, report).await
}

/// Memory while Redis takes nothing and znodes change.
async fn stopped_sink(
    client: &Client,
    redis: &Redis,
    worker: &Worker,
    sizes: Sizes,
    report: &mut Report,
) -> Outcome<()> {
    doing(&format!("stopping Redis for {} s while znodes change", sizes.stopped_s));
    let before = worker.rss()?;
    redis.pause()?;
    let begun = Instant::now();
    let (mut next, mut early, mut most) = (sizes.pairs, None, before);
    while begun.elapsed() < Duration::from_secs(sizes.stopped_s) {
        // Numbers of writes stay congruent to their pairs.
        set_znodes(client, "settings", CHANGING, next..next + CHANGING).await?;
        next += CHANGING;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = worker.rss()?;
        most = most.max(now);
        if begun.elapsed() > Duration::from_secs(sizes.stopped_s / 6) {
            early.get_or_insert(now);
        }
    }
    let after = worker.rss()?;
    redis.resume()?;
    let (resumed, connection) = (Instant::now(), redis.client().await?);
    let arrived = keys_arrive(&connection, "settings", CHANGING, |pair| next - CHANGING + pair).await?;
    let early = early.unwrap_or(before);
    println!(
        "   stopped sink: {} changes; RSS {before:.1}, {early:.1} after a sixth, {after:.1} MiB at the end, at most \
         {most:.1}; in step {:.1} s after Redis went on",
        next - sizes.pairs,
        arrived.duration_since(resumed).as_secs_f64()
    );
    let shown =
        format!("{:+.1} MiB over {} s, {:+.1} MiB against before", after - early, sizes.stopped_s, after - before);
    report.row("memory while a sink is stopped", &shown, "–", None, "no growth (± 2 MiB)", after - early <= 2.0);
    Ok(())
}

/// `first-sync`, `memory`, `idle` with many pairs.
pub(crate) async fn run(sizes: Sizes, asked: Asked, report: &mut Report) -> Outcome<()> {
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let (client, connection) = (zookeeper.client().await?, redis.client().await?);
    let pairs = sizes.pairs;
    doing(&format!("creating {pairs} znodes"));
    create_directories(&client, "settings", pairs).await?;
    let begun = Instant::now();
    create_znodes(&client, "settings", pairs).await?;
    println!("   {pairs} znodes created in {:.1} s", begun.elapsed().as_secs_f64());
    let mut raws = Vec::new();
    // The first warms the server up.
    for _ in 0..2 {
        let begun = Instant::now();
        raw::copy(&zookeeper, &redis, "settings", pairs).await?;
        raws.push(begun.elapsed().as_secs_f64());
        let held: usize = redis::cmd("DBSIZE").query_async(&mut connection.clone()).await?;
        println!("   raw copy of {held} pairs in {:.2} s", begun.elapsed().as_secs_f64());
        redis::cmd("FLUSHALL").exec_async(&mut connection.clone()).await?;
    }
    let raw = raws.into_iter().fold(f64::INFINITY, f64::min);

    doing("first sync");
    let (servers, begun) = (zookeeper.cpu()? + redis.cpu()?, Instant::now());
    let mut worker = Worker::start(&zookeeper, &redis)?;
    let is_profiled = worker.profile("first-sync").await?;
    let arrived = keys_arrive(&connection, "settings", pairs, |pair| pair).await?;
    let seconds = arrived.duration_since(begun).as_secs_f64();
    let (cpu, servers) = (worker.cpu()?, zookeeper.cpu()? + redis.cpu()? - servers);
    worker.profiled().await?;
    worker.ready().await?;
    println!(
        "   first sync in {seconds:.2} s (profiled: {is_profiled}), ready after {:.2} s, CPU of the worker {cpu:.2} s, \
         of the servers {servers:.2} s, RSS {:.0} MiB",
        begun.elapsed().as_secs_f64(),
        worker.rss()?
    );
    if asked.first_sync {
        let ratio = seconds / raw;
        let work = format!("first sync of {pairs} znodes");
        let (ours, theirs) = (format!("{seconds:.1} s"), format!("{raw:.1} s"));
        report.row(&work, &ours, &theirs, Some(ratio), "≤ 3 × raw", ratio <= 3.0);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    if asked.memory {
        let (rss, peak) = (worker.rss()?, worker.peak()?);
        let work = format!("memory at {pairs} pairs in step");
        let shown = format!("{rss:.0} MiB RSS, {peak:.0} MiB at most");
        report.row(&work, &shown, "–", None, "≤ 300 MB RSS", rss * 1.048_576 <= 300.0);
        stopped_sink(&client, &redis, &worker, sizes, report).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    if asked.idle {
        idle(&zookeeper, &redis, &worker, pairs, 10.0, sizes, report).await?;
    }
    for line in worker.log().lines().filter(|line| line.contains("WARN") || line.contains("ERROR")) {
        println!("   the worker said: {line}");
    }
    Ok(())
}
