//! Bursts, both ways, and what they cost the worker and the ZooKeeper server.

use crate::load::{self, keys_arrive, set_keys, set_znodes, znodes_arrive};
use crate::raw;
use crate::report::{Report, doing, median};
use crate::servers::{Redis, Worker, ZooKeeper};
use crate::{Outcome, Sizes};
use std::time::{Duration, Instant};
use zookeeper_client::Client;

/// What trails after the last value has arrived (acknowledgements, sidecars) counts as CPU too.
const TRAIL: Duration = Duration::from_millis(500);

/// One burst.
#[derive(Clone, Copy, Default)]
struct Burst {
    seconds: f64,
    /// CPU seconds of the ZooKeeper server and of the worker.
    zookeeper: f64,
    worker: f64,
}

fn medians(bursts: &[Burst]) -> Burst {
    let of = |figure: fn(&Burst) -> f64| median(&bursts.iter().map(figure).collect::<Vec<f64>>());
    Burst {
        seconds: of(|burst| burst.seconds),
        zookeeper: of(|burst| burst.zookeeper),
        worker: of(|burst| burst.worker),
    }
}

/// Runs one burst and takes the clocks around it. `work` answers when everything had arrived.
async fn measured(
    name: &str,
    servers: (&ZooKeeper, &Redis),
    worker: Option<&Worker>,
    work: impl Future<Output = Outcome<Instant>>,
) -> Outcome<Burst> {
    doing(&format!("burst: {name}"));
    let cpu = || Outcome::Ok((servers.0.cpu()?, worker.map_or(Ok(0.0), Worker::cpu)?, servers.1.cpu()?));
    let (before, begun) = (cpu()?, Instant::now());
    let arrived = work.await?;
    tokio::time::sleep(TRAIL).await;
    let after = cpu()?;
    let burst = Burst {
        seconds: arrived.duration_since(begun).as_secs_f64(),
        zookeeper: after.0 - before.0,
        worker: after.1 - before.1,
    };
    println!(
        "   {name}: {:.2} s, CPU of ZooKeeper {:.2} s, of Redis {:.2} s, of the worker {:.2} s",
        burst.seconds,
        burst.zookeeper,
        after.2 - before.2,
        burst.worker
    );
    Ok(burst)
}

fn judge_cpu(report: &mut Report, way: &str, count: usize, keepstep: Burst, raw: Burst) {
    let worker = keepstep.worker * 100_000.0 / count as f64;
    let work = format!("CPU of the worker per 100,000 changes, {way}");
    report.row(&work, &format!("{worker:.2} s"), "–", None, "≤ 0.8 s", worker <= 0.8);
    let ratio = keepstep.zookeeper / raw.zookeeper;
    let (ours, theirs) = (format!("{:.2} s", keepstep.zookeeper), format!("{:.2} s", raw.zookeeper));
    report.row(&format!("CPU of ZooKeeper, {way}"), &ours, &theirs, Some(ratio), "≤ 1.3 × raw", ratio <= 1.3);
}

fn judge_rate(report: &mut Report, work: &str, count: usize, keepstep: Burst, raw: Burst, goal: f64) {
    let rate = |burst: Burst| count as f64 / burst.seconds;
    let ratio = rate(keepstep) / rate(raw);
    let shown = |burst: Burst| format!("{:.0}/s", rate(burst));
    report.row(work, &shown(keepstep), &shown(raw), Some(ratio), &format!("≥ {goal} × raw"), ratio >= goal);
}

/// `zk-to-redis`.
pub(crate) async fn zookeeper_to_redis(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let (client, connection) = (zookeeper.client().await?, redis.client().await?);
    let Sizes { sets, znodes, .. } = sizes;
    for root in ["raw", "settings"] {
        doing(&format!("creating {znodes} znodes below {root}"));
        load::create_directories(&client, root, znodes).await?;
        load::create_znodes(&client, root, znodes).await?;
    }
    let mut worker = Worker::start(&zookeeper, &redis)?;
    worker.ready().await?;
    keys_arrive(&connection, "settings", znodes, |pair| pair).await?;
    // Write numbers go on, so that each burst ends with values that were not there before.
    let mut next = znodes;
    let mut burst = |root: &'static str, sets: usize| {
        let writes = next..next + sets;
        next = writes.end;
        let (client, connection): (&Client, _) = (&client, &connection);
        async move {
            set_znodes(client, root, znodes, writes.clone()).await?;
            keys_arrive(connection, root, znodes, |pair| writes.end - znodes + pair).await
        }
    };
    {
        let _tasks = raw::zookeeper_to_redis(&zookeeper, &redis, "raw").await?;
        measured("warming up", (&zookeeper, &redis), None, burst("raw", sets)).await?;
    }
    let (mut raws, mut keepsteps) = (Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        {
            let _tasks = raw::zookeeper_to_redis(&zookeeper, &redis, "raw").await?;
            raws.push(measured("raw", (&zookeeper, &redis), None, burst("raw", sets)).await?);
        }
        keepsteps.push(measured("Keepstep", (&zookeeper, &redis), Some(&worker), burst("settings", sets)).await?);
    }
    if worker.profile("zk-to-redis").await? {
        measured("Keepstep, profiled", (&zookeeper, &redis), Some(&worker), burst("settings", sets)).await?;
        worker.profiled().await?;
    }
    worker.show_metrics().await?;
    let (raw, keepstep) = (medians(&raws), medians(&keepsteps));
    judge_rate(report, "ZooKeeper → Redis, burst", sets, keepstep, raw, 0.6);
    judge_cpu(report, "ZooKeeper → Redis", sets, keepstep, raw);
    Ok(())
}

/// `redis-to-zk`: into directories that are there, and into such that have to be created.
pub(crate) async fn redis_to_zookeeper(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    distinct_keys(sizes, &["warm", "raw", "settings"], "Redis → ZooKeeper, distinct keys, parents exist", report)
        .await?;
    distinct_keys(sizes, &["warm", "raw"], "Redis → ZooKeeper, distinct keys, parents missing", report).await
}

async fn distinct_keys(sizes: Sizes, existing: &[&str], work: &str, report: &mut Report) -> Outcome<()> {
    let (mut raws, mut keepsteps) = (Vec::new(), Vec::new());
    let keys = sizes.keys;
    let is_profiled = usize::from(std::env::var_os("KEEPSTEP_BENCH_PERF").is_some());
    for round in 0..sizes.rounds + is_profiled {
        let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
        let (client, connection) = (zookeeper.client().await?, redis.client().await?);
        doing(&format!("creating {} znodes to warm ZooKeeper up", keys / 2));
        for root in existing {
            load::create_directories(&client, root, keys).await?;
        }
        load::create_znodes(&client, "warm", keys / 2).await?;
        let create = async {
            load::create_znodes(&client, "raw", keys).await?;
            Ok(Instant::now())
        };
        let mut worker = Worker::start(&zookeeper, &redis)?;
        worker.ready().await?;
        raws.push(measured("raw", (&zookeeper, &redis), None, create).await?);
        let set = async {
            set_keys(&connection, "settings", keys, 0..keys).await?;
            znodes_arrive(&client, "settings", keys, |pair| pair).await
        };
        if round == sizes.rounds {
            worker.profile(&format!("redis-to-zk-{}", existing.len())).await?;
        }
        let keepstep = measured("Keepstep", (&zookeeper, &redis), Some(&worker), set).await?;
        worker.profiled().await?;
        worker.show_metrics().await?;
        if round < sizes.rounds {
            keepsteps.push(keepstep);
        }
    }
    let (raw, keepstep) = (medians(&raws), medians(&keepsteps));
    judge_rate(report, work, keys, keepstep, raw, 0.5);
    judge_cpu(report, work, keys, keepstep, raw);
    Ok(())
}

/// `hot-keys`.
pub(crate) async fn hot_keys(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let (client, connection) = (zookeeper.client().await?, redis.client().await?);
    let Sizes { hot_sets, hot_keys, .. } = sizes;
    let mut worker = Worker::start(&zookeeper, &redis)?;
    worker.ready().await?;
    set_keys(&connection, "settings", hot_keys, 0..hot_keys).await?;
    znodes_arrive(&client, "settings", hot_keys, |pair| pair).await?;
    let (mut shares, mut delays) = (Vec::new(), Vec::new());
    let mut next = hot_keys;
    for _ in 0..sizes.rounds {
        doing(&format!("{hot_sets} SETs over {hot_keys} keys"));
        tokio::time::sleep(TRAIL).await;
        let writes = next..next + hot_sets;
        next = writes.end;
        let (before, cpu, begun) =
            (load::versions(&client, "settings", hot_keys).await?, worker.cpu()?, Instant::now());
        set_keys(&connection, "settings", hot_keys, writes.clone()).await?;
        let last = Instant::now();
        let arrived = znodes_arrive(&client, "settings", hot_keys, |pair| writes.end - hot_keys + pair).await?;
        let count = load::versions(&client, "settings", hot_keys).await? - before;
        let delay = arrived.duration_since(last).as_secs_f64() * 1000.0;
        println!(
            "   {hot_sets} SETs in {:.2} s, {count} writes to ZooKeeper, the last {delay:.0} ms later, CPU {:.2} s",
            last.duration_since(begun).as_secs_f64(),
            worker.cpu()? - cpu
        );
        shares.push(count as f64 * 100.0 / hot_sets as f64);
        delays.push(delay);
    }
    let (share, delay) = (median(&shares), median(&delays));
    let work = "hot keys, Redis → ZooKeeper: writes to ZooKeeper";
    report.row(work, &format!("{share:.1} % of the SETs"), "–", None, "< 10 %", share < 10.0);
    let work = "hot keys: last values after the last SET";
    report.row(work, &format!("{delay:.0} ms"), "–", None, "< 100 ms", delay < 100.0);
    Ok(())
}
