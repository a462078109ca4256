//! Applications: what writes to the stores, and what looks whether it arrived.
//!
//! Pairs are numbered. Pair 1234 below `settings` is the znode `/settings/0001/0234` and the key `settings:0001:0234`.

use crate::Outcome;
use crate::report::Wait;
use futures::{StreamExt, TryStreamExt, stream};
use redis::aio::MultiplexedConnection;
use std::ops::Range;
use std::time::{Duration, Instant};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, MultiReadResult, MultiWriter};

/// Operations of one multi.
pub(crate) const MULTI: usize = 100;
/// Multis in flight.
const MULTIS: usize = 8;
/// Commands of one pipeline, and pipelines in flight: two that follow each other must not touch the same hot key.
const PIPELINE: usize = 500;
const PIPELINES: usize = 2;
/// Znodes below one directory.
const DIRECTORY: usize = 1000;

/// Longest wait for anything to arrive.
const ARRIVAL: Duration = Duration::from_secs(600);

pub(crate) fn path(root: &str, pair: usize) -> String {
    format!("/{root}/{:04}/{:04}", pair / DIRECTORY, pair % DIRECTORY)
}

pub(crate) fn key(root: &str, pair: usize) -> String {
    format!("{root}:{:04}:{:04}", pair / DIRECTORY, pair % DIRECTORY)
}

/// The value that the write of this number writes: 100 bytes.
pub(crate) fn value(write: usize) -> String {
    format!("{write:0100}")
}

pub(crate) fn directories(root: &str, pairs: usize) -> Vec<String> {
    (0..pairs.div_ceil(DIRECTORY)).map(|directory| format!("/{root}/{directory:04}")).collect()
}

pub(crate) fn persistent() -> CreateOptions<'static> {
    CreateMode::Persistent.with_acls(Acls::anyone_all())
}

/// Sends `writes` in multis, several in flight, in order.
async fn multis<F>(client: &Client, writes: Range<usize>, add: F) -> Outcome<()>
where
    F: Fn(&mut MultiWriter<'_>, usize) -> Result<(), Error>,
{
    let end = writes.end;
    stream::iter(writes.step_by(MULTI))
        .map(|first| {
            let mut multi = client.new_multi_writer();
            let added = (first..end.min(first + MULTI)).try_for_each(|write| add(&mut multi, write));
            // Sent here, not when it is first polled: so the order is that of the stream.
            let sent = multi.commit();
            async move {
                added?;
                sent.await.map(|_| ()).map_err(|error| error.to_string().into())
            }
        })
        .buffered(MULTIS)
        .try_collect::<()>()
        .await
}

/// Creates the parents of pairs.
pub(crate) async fn create_directories(client: &Client, root: &str, pairs: usize) -> Outcome<()> {
    for directory in directories(root, pairs) {
        client.mkdir(&directory, &persistent()).await?;
    }
    Ok(())
}

/// Creates znodes that have parents; pair `n` holds the value of write `n`.
pub(crate) async fn create_znodes(client: &Client, root: &str, pairs: usize) -> Outcome<()> {
    let options = persistent();
    multis(client, 0..pairs, |multi, pair| multi.add_create(&path(root, pair), value(pair).as_bytes(), &options)).await
}

/// Sets znodes, write after write, over `pairs` pairs.
pub(crate) async fn set_znodes(client: &Client, root: &str, pairs: usize, writes: Range<usize>) -> Outcome<()> {
    multis(client, writes, |multi, write| multi.add_set_data(&path(root, write % pairs), value(write).as_bytes(), None))
        .await
}

/// Sets keys, write after write, over `pairs` pairs.
pub(crate) async fn set_keys(
    client: &MultiplexedConnection,
    root: &str,
    pairs: usize,
    writes: Range<usize>,
) -> Outcome<()> {
    let end = writes.end;
    stream::iter(writes.step_by(PIPELINE))
        .map(|first| {
            let mut connection = client.clone();
            let mut pipe = redis::pipe();
            for write in first..end.min(first + PIPELINE) {
                pipe.set(key(root, write % pairs), value(write)).ignore();
            }
            async move { Outcome::Ok(pipe.exec_async(&mut connection).await?) }
        })
        .buffered(PIPELINES)
        .try_collect::<()>()
        .await
}

async fn keys_hold(
    client: &MultiplexedConnection,
    root: &str,
    pairs: &[usize],
    last: &impl Fn(usize) -> usize,
) -> Outcome<bool> {
    let names: Vec<String> = pairs.iter().map(|pair| key(root, *pair)).collect();
    let held: Vec<Option<String>> = redis::cmd("MGET").arg(names).query_async(&mut client.clone()).await?;
    Ok(held.into_iter().zip(pairs).all(|(held, pair)| held.is_some_and(|held| held == value(last(*pair)))))
}

/// Some pairs from everywhere, the last one among them.
fn sample(pairs: usize) -> Vec<usize> {
    let count = (pairs / 500).clamp(50, 2000).min(pairs);
    (1..=count).map(|part| pairs * part / count - 1).collect()
}

/// Waits until Redis holds the last value of each pair, looking at some first. Answers when the look at all of them
/// began: that look takes seconds for a million pairs.
pub(crate) async fn keys_arrive(
    client: &MultiplexedConnection,
    root: &str,
    pairs: usize,
    last: impl Fn(usize) -> usize,
) -> Outcome<Instant> {
    let pause = if pairs > 50_000 { Duration::from_millis(50) } else { Duration::from_millis(2) };
    let mut wait = Wait::new(format!("the last values of {pairs} keys below {root}"), ARRIVAL);
    let some = sample(pairs);
    let all: Vec<usize> = (0..pairs).collect();
    'wait: loop {
        wait.goes_on()?;
        tokio::time::sleep(pause).await;
        let size: usize = redis::cmd("DBSIZE").query_async(&mut client.clone()).await?;
        if size < pairs || !keys_hold(client, root, &some, &last).await? {
            continue;
        }
        let seen = Instant::now();
        for part in all.chunks(1000) {
            if !keys_hold(client, root, part, &last).await? {
                continue 'wait;
            }
        }
        return Ok(seen);
    }
}

/// Reads znodes in multi-reads of these sizes, in order; those that are not there are left out.
pub(crate) async fn znodes_hold(
    client: &Client,
    root: &str,
    pairs: usize,
    last: impl Fn(usize) -> usize,
) -> Outcome<bool> {
    let parts = stream::iter((0..pairs).step_by(500)).map(|first| {
        let mut multi = client.new_multi_reader();
        let range = first..pairs.min(first + 500);
        let added = range.clone().try_for_each(|pair| multi.add_get_data(&path(root, pair)));
        let sent = multi.commit();
        async move {
            added?;
            Outcome::Ok((range, sent.await?))
        }
    });
    let mut parts = std::pin::pin!(parts.buffered(4));
    while let Some((range, results)) = parts.try_next().await? {
        let holds = |pair: usize, result: &MultiReadResult| match result {
            MultiReadResult::Data { data, .. } => data == value(last(pair)).as_bytes(),
            _ => false,
        };
        if !range.zip(&results).all(|(pair, result)| holds(pair, result)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until ZooKeeper holds the last value of each pair: counts children first, which costs it little. Answers when
/// the look at all of them began.
pub(crate) async fn znodes_arrive(
    client: &Client,
    root: &str,
    pairs: usize,
    last: impl Fn(usize) -> usize,
) -> Outcome<Instant> {
    let directories = directories(root, pairs);
    let mut wait = Wait::new(format!("the last values of {pairs} znodes below {root}"), ARRIVAL);
    loop {
        wait.goes_on()?;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut multi = client.new_multi_reader();
        directories.iter().try_for_each(|directory| multi.add_get_data(directory))?;
        let children = multi.commit().await?.into_iter().map(|result| match result {
            MultiReadResult::Data { stat, .. } => usize::try_from(stat.num_children).unwrap_or(0),
            _ => 0,
        });
        let seen = Instant::now();
        if children.sum::<usize>() == pairs && znodes_hold(client, root, pairs, &last).await? {
            return Ok(seen);
        }
    }
}

/// How often znodes were written, by their versions.
pub(crate) async fn versions(client: &Client, root: &str, pairs: usize) -> Outcome<u64> {
    let mut sum = 0;
    let all: Vec<usize> = (0..pairs).collect();
    for part in all.chunks(500) {
        let mut multi = client.new_multi_reader();
        part.iter().try_for_each(|pair| multi.add_get_data(&path(root, *pair)))?;
        for result in multi.commit().await? {
            if let MultiReadResult::Data { stat, .. } = result {
                sum += u64::try_from(stat.version).unwrap_or(0);
            }
        }
    }
    Ok(sum)
}
