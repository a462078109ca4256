//! The embedded stream against the disk it stands on: `cargo bench --bench stream`.
//!
//! Each append run is followed by the raw limit: the same bytes in the same portions, one write and one `fdatasync`
//! each, into one plain file in the same directory. `KEEPSTEP_BENCH_DIR` chooses the directory (default: the current
//! one's `target`, because a temporary directory may be memory), `KEEPSTEP_BENCH_RECORDS` the number of records.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark runs in the real world")]

use futures::future::join_all;
use keepstep::change::{Agreed, Change, Connector, Op, Pair, Source, ValueKind};
use keepstep::stream::embedded::EmbeddedStream;
use keepstep::stream::{Retention, Stream, StreamError};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// One batch of the pipeline file's default.
const BATCH: usize = 500;
/// Pairs that the changes are spread over.
const PAIRS: u64 = 100_000;

fn change(i: u64, now_ms: i64) -> Change {
    let (path, key) = (format!("/settings/app/{:08}", i % PAIRS), format!("settings:app:{:08}", i % PAIRS));
    let mut source = Source::new(Connector::Zookeeper, "zk", now_ms);
    source.path = Some(path.clone());
    source.czxid = Some(0x1_0000_0000);
    source.mzxid = Some(0x1_0000_0000 + i.cast_signed());
    source.pzxid = Some(0x1_0000_0000);
    source.version = Some(i as i32);
    source.cversion = Some(0);
    source.aversion = Some(0);
    source.ephemeral_owner = Some(0);
    Change {
        op: Op::Update,
        before: None,
        after: Some(format!("{i:0300}").into_bytes()),
        source,
        ts_ms: now_ms,
        route: "settings".to_owned(),
        value: ValueKind::String,
        pair: Pair { zookeeper: Some(path), redis: Some(key.into_bytes()) },
        base: Some(Agreed {
            czxid: Some(0x1_0000_0000),
            mzxid: Some(0x1_0000_0000),
            version: Some(1),
            digest: Some("da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned()),
            sequence: 3,
        }),
        collapsed: Some(0),
        conflict: None,
        gap: None,
        epoch: 1,
        loss: None,
    }
}

fn open(dir: &Path) -> Result<EmbeddedStream, StreamError> {
    EmbeddedStream::open(dir, Retention { age: Duration::from_secs(7 * 86_400), size: 64 << 30 }, "bench")
}

/// Appends all changes in batches of `batch`, `at_once` appends in flight, and prints the rate beside the disk's.
fn append(
    runtime: &tokio::runtime::Runtime,
    root: &Path,
    changes: &[Change],
    batch: usize,
    at_once: usize,
) -> Result<(), StreamError> {
    let dir = root.join("stream");
    let _ = std::fs::remove_dir_all(&dir);
    let stream = Arc::new(open(&dir)?);
    let batches: Vec<Arc<Vec<Change>>> = changes.chunks(batch).map(|some| Arc::new(some.to_vec())).collect();
    let portions = batches.len();
    let start = Instant::now();
    runtime.block_on(async {
        let tasks = (0..at_once).map(|nth| {
            let mine: Vec<_> = batches.iter().skip(nth).step_by(at_once).cloned().collect();
            let stream = Arc::clone(&stream);
            tokio::spawn(async move {
                for batch in mine {
                    stream.append(batch).await?;
                }
                Ok::<(), StreamError>(())
            })
        });
        for task in join_all(tasks).await {
            task.map_err(|error| StreamError::Unavailable(error.to_string()))??;
        }
        Ok::<(), StreamError>(())
    })?;
    let rate = changes.len() as f64 / start.elapsed().as_secs_f64();
    let bytes = stream.extent().bytes;
    drop(stream);
    let raw = raw(root, bytes, portions).map_err(|error| StreamError::Unavailable(error.to_string()))?;
    let limit = changes.len() as f64 / raw.as_secs_f64();
    println!(
        "append, {batch:>3} a batch, {at_once:>3} at once: {rate:>9.0} rec/s; disk alone {limit:>9.0} rec/s; \
         ratio {:.2}",
        rate / limit
    );
    Ok(())
}

/// The same bytes in as many portions, one write and one sync each.
fn raw(root: &Path, bytes: u64, portions: usize) -> std::io::Result<Duration> {
    let path = root.join("raw");
    let mut file = File::create(&path)?;
    let portion = vec![b'x'; (bytes / portions as u64) as usize];
    let start = Instant::now();
    for _ in 0..portions {
        file.write_all(&portion)?;
        file.sync_data()?;
    }
    let took = start.elapsed();
    std::fs::remove_file(&path)?;
    Ok(took)
}

/// Opens and reads what the last run has left.
fn replay(root: &Path) -> Result<(), StreamError> {
    let start = Instant::now();
    let stream = open(&root.join("stream"))?;
    let (opened, extent) = (start.elapsed(), stream.extent());
    let start = Instant::now();
    let (mut from, mut records) = (1, 0);
    while from <= extent.last {
        let batch = futures::executor::block_on(stream.read(from, BATCH, 4 << 20))?;
        records += batch.records.len();
        from = batch.next;
    }
    let rate = records as f64 / start.elapsed().as_secs_f64();
    println!("open {} MB: {:.2} s; replay, decoded: {rate:.0} rec/s", extent.bytes >> 20, opened.as_secs_f64());
    let start = Instant::now();
    let probes = 100_000;
    for i in 0..probes {
        let found = stream.latest(&change(i * 7, 0).pair)?;
        assert!(found.is_some(), "the stream forgot a pair");
    }
    println!("latest of a pair: {:.0} a second", probes as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> Result<(), StreamError> {
    let root = std::env::var("KEEPSTEP_BENCH_DIR").unwrap_or_else(|_| "target".to_owned());
    let root = Path::new(&root).join("bench-stream");
    let records = std::env::var("KEEPSTEP_BENCH_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(500_000_u64);
    std::fs::create_dir_all(&root).map_err(|error| StreamError::Unavailable(error.to_string()))?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| StreamError::Unavailable(error.to_string()))?;
    // Of now, so that nothing is old enough to be thinned meanwhile.
    let now_ms = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
    let changes: Vec<Change> = (0..records).map(|i| change(i, now_ms)).collect();
    let few = changes.get(..changes.len().min(5_000)).unwrap_or_default();
    append(&runtime, &root, few, 1, 1)?;
    append(&runtime, &root, few, 1, 64)?;
    append(&runtime, &root, &changes, BATCH, 1)?;
    append(&runtime, &root, &changes, BATCH, 4)?;
    replay(&root)?;
    let _ = std::fs::remove_dir_all(&root);
    Ok(())
}
