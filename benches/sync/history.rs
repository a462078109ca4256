//! The stream as history: replay into an empty Redis, a fold with a key filter, a comparison of equal stores.

use crate::load::{create_directories, create_znodes, key, set_keys, value, znodes_hold};
use crate::raw::pair;
use crate::report::{Report, doing};
use crate::servers::{Place, Redis, ZooKeeper};
use crate::{Outcome, Sizes};
use futures::{StreamExt, TryStreamExt, stream};
use keepstep::change::{Change, Connector, Op, Pair, Source, ValueKind};
use keepstep::stream::embedded::EmbeddedStream;
use keepstep::stream::{Retention, Stream};
use redis::aio::MultiplexedConnection;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys of one raw script, and scripts in flight.
pub(crate) const SCRIPT_KEYS: usize = 128;
pub(crate) const SCRIPTS: usize = 8;

/// The least that a compare-and-set does: what is there, by digest, and the new value.
const RAW: &str = "for i = 1, #KEYS do local got = redis.call('GET', KEYS[i]); local have = ''; \
                   if got then have = redis.sha1hex(got) end; \
                   if have == '' or have ~= ARGV[i] then redis.call('SET', KEYS[i], ARGV[i]) end end return #KEYS";

/// Memory that none of these commands may pass, in MiB.
pub(crate) const MEMORY: f64 = 300.0;

pub(crate) fn change(number: usize, pairs: usize) -> Change {
    let (path, key, value) = pair("settings", number % pairs, number);
    let mut source = Source::new(Connector::Zookeeper, "zk", 1_700_000_000_000);
    source.path = Some(path.clone());
    (source.czxid, source.mzxid) = (Some(1), i64::try_from(number).ok());
    (source.version, source.ephemeral_owner) = (Some(0), Some(0));
    Change {
        op: if number < pairs { Op::Create } else { Op::Update },
        before: number.checked_sub(pairs).map(|before| crate::load::value(before).into_bytes()),
        after: Some(value.into_bytes()),
        source,
        ts_ms: 1_700_000_000_000,
        route: "settings".to_owned(),
        value: ValueKind::String,
        pair: Pair { zookeeper: Some(path), redis: Some(key.into_bytes()) },
        base: None,
        collapsed: Some(0),
        conflict: None,
        gap: None,
        epoch: 1,
        loss: None,
    }
}

async fn write_stream(dir: &Path, changes: usize, pairs: usize) -> Outcome<()> {
    let retention = Retention { age: Duration::from_secs(7 * 86_400), size: 64 << 30 };
    std::fs::create_dir_all(dir)?;
    let stream = EmbeddedStream::open(dir, retention, "bench")?;
    for first in (0..changes).step_by(2_000) {
        let some = (first..changes.min(first + 2_000)).map(|number| change(number, pairs)).collect();
        stream.append(Arc::new(some)).await?;
    }
    Ok(())
}

/// These changes by one script.
pub(crate) fn raw_script(
    client: &MultiplexedConnection,
    numbers: std::ops::Range<usize>,
    pairs: usize,
) -> impl Future<Output = Outcome<()>> + use<> {
    let mut connection = client.clone();
    let mut script = redis::cmd("EVAL");
    script.arg(RAW).arg(numbers.len());
    for number in numbers.clone() {
        script.arg(key("settings", number % pairs));
    }
    for number in numbers {
        script.arg(value(number));
    }
    async move { Ok(script.exec_async(&mut connection).await?) }
}

/// Every change by scripts, one after the other as they stand on the stream.
async fn raw_scripts(client: &MultiplexedConnection, changes: usize, pairs: usize) -> Outcome<Duration> {
    let begun = Instant::now();
    stream::iter((0..changes).step_by(SCRIPT_KEYS))
        .map(|first| raw_script(client, first..changes.min(first + SCRIPT_KEYS), pairs))
        .buffered(SCRIPTS)
        .try_collect::<()>()
        .await?;
    Ok(begun.elapsed())
}

pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// A replay into an empty Redis: how long it took, and the most memory it held, MiB.
pub(crate) async fn replayed(place: &Place, client: &MultiplexedConnection, pairs: usize) -> Outcome<(Duration, f64)> {
    redis::cmd("FLUSHALL").exec_async(&mut client.clone()).await?;
    let (took, peak) = place.run("replay", &["--to", "cache"]).await?;
    let held: usize = redis::cmd("DBSIZE").query_async(&mut client.clone()).await?;
    if held == pairs { Ok((took, peak)) } else { Err(format!("{held} keys instead of {pairs}").into()) }
}

/// Replay of many changes over fewer pairs, and a fold for one key.
pub(crate) async fn replay(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let (changes, pairs) = (sizes.replayed, sizes.replayed / 10);
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let client = redis.client().await?;
    let place = Place::new(&zookeeper, &redis, None)?;
    doing(&format!("writing {changes} changes to the stream, and again by scripts"));
    write_stream(&place.stream(), changes, pairs).await?;
    let raw = raw_scripts(&client, changes, pairs).await?;
    let (took, peak) = replayed(&place, &client, pairs).await?;
    let ratio = rate(changes, took) / rate(changes, raw);
    let work = format!("replay of {changes} changes over {pairs} pairs into an empty Redis");
    let shown = format!("{:.0} changes/s, {:.0} pairs/s, {peak:.0} MiB", rate(changes, took), rate(pairs, took));
    let limit = format!("{:.0} changes/s by scripts", rate(changes, raw));
    report.row(&work, &shown, &limit, Some(ratio), ">= 0.6, <= 300 MiB", ratio >= 0.6 && peak <= MEMORY);
    let one = key("settings", pairs - 1);
    let (took, peak) = place.run("replay", &["--to", "cache", "--dry-run", "--key", &one]).await?;
    let decoded = rate(changes, took);
    let shown = format!("{decoded:.0} changes/s, {peak:.0} MiB");
    let met = decoded >= 100_000.0 && peak <= MEMORY;
    report.row("the same stream, one key of it", &shown, "–", None, ">= 100,000 changes/s", met);
    Ok(())
}

/// A comparison of equal stores.
pub(crate) async fn diff(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let pairs = sizes.pairs;
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let (znodes, client) = (zookeeper.client().await?, redis.client().await?);
    doing(&format!("writing {pairs} pairs to both stores"));
    create_directories(&znodes, "settings", pairs).await?;
    create_znodes(&znodes, "settings", pairs).await?;
    set_keys(&client, "settings", pairs, 0..pairs).await?;
    let begun = Instant::now();
    if !znodes_hold(&znodes, "settings", pairs, |pair| pair).await? {
        return Err("a znode is missing".into());
    }
    let read = begun.elapsed();
    for first in (0..pairs).step_by(500) {
        let names: Vec<String> = (first..pairs.min(first + 500)).map(|pair| key("settings", pair)).collect();
        let held: Vec<Option<String>> = redis::cmd("MGET").arg(names).query_async(&mut client.clone()).await?;
        if held.iter().any(Option::is_none) {
            return Err("a key is missing".into());
        }
    }
    let raw = begun.elapsed();
    let place = Place::new(&zookeeper, &redis, None)?;
    let (took, peak) = place.run("diff", &[]).await?;
    let ratio = took.as_secs_f64() / raw.as_secs_f64();
    let work = format!("diff of {pairs} equal pairs");
    let shown = format!("{:.1} s, {peak:.0} MiB", took.as_secs_f64());
    let limit = format!("{:.1} s: multi-reads {:.1} s, then MGET", raw.as_secs_f64(), read.as_secs_f64());
    report.row(&work, &shown, &limit, Some(ratio), "<= 2 times, <= 300 MiB", ratio <= 2.0 && peak <= MEMORY);
    Ok(())
}
