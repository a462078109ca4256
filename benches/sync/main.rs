//! The real program between real servers, against what the same crates can do without it: `cargo bench --bench sync`.
//!
//! ```text
//! cargo bench --bench sync -- [all|zk-to-redis|redis-to-zk|hot-keys|latency|first-sync|memory|idle|replay|diff|
//!                              take-over|kafka-latency|kafka-replay|kafka-take-over]… [--small]
//! ```
//!
//! Each figure of Keepstep stands beside a raw limit of the same run on the same servers, because the machine may be
//! shared and slow. Variables: `KEEPSTEP_BENCH_DIR` is where servers and worker keep their files (default `target`, a
//! disk rather than memory), `KEEPSTEP_BENCH_PROGRAM` another build of the program, `KEEPSTEP_BENCH_ROUNDS` the rounds
//! of a burst (default 3, the median counts), `KEEPSTEP_BENCH_PERF` a directory: one more burst each runs under
//! `perf record`, which leaves its file there; `KEEPSTEP_BENCH_METRICS` prints the worker's own counts after a burst.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark runs in the real world")]

mod bursts;
mod history;
mod kafka;
mod large;
mod latency;
mod load;
mod raw;
mod report;
mod servers;
mod take_over;

use report::{Report, doing};
use std::error::Error;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// What everything here ends with.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const WORKS: [&str; 13] = [
    "zk-to-redis",
    "redis-to-zk",
    "hot-keys",
    "latency",
    "first-sync",
    "memory",
    "idle",
    "replay",
    "diff",
    "take-over",
    "kafka-latency",
    "kafka-replay",
    "kafka-take-over",
];

/// How much of everything.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// ZooKeeper to Redis: sets, and the znodes they are spread over.
    pub(crate) sets: usize,
    pub(crate) znodes: usize,
    /// Redis to ZooKeeper: distinct keys, each set once.
    pub(crate) keys: usize,
    /// Redis to ZooKeeper: sets over hot keys.
    pub(crate) hot_sets: usize,
    pub(crate) hot_keys: usize,
    /// Single changes, each way.
    pub(crate) singles: usize,
    /// Pairs of the first sync, of memory and idleness after it, and of a comparison.
    pub(crate) pairs: usize,
    /// Changes that are replayed, over a tenth of it as pairs.
    pub(crate) replayed: usize,
    /// Seconds with a stopped sink, and of idleness.
    pub(crate) stopped_s: u64,
    pub(crate) idle_s: u64,
    pub(crate) rounds: usize,
}

const FULL: Sizes = Sizes {
    sets: 200_000,
    znodes: 10_000,
    keys: 100_000,
    hot_sets: 200_000,
    hot_keys: 1_000,
    singles: 500,
    pairs: 1_000_000,
    replayed: 1_000_000,
    stopped_s: 60,
    idle_s: 120,
    rounds: 3,
};

const SMALL: Sizes = Sizes {
    sets: 50_000,
    znodes: 5_000,
    keys: 25_000,
    hot_sets: 50_000,
    singles: 200,
    pairs: 100_000,
    replayed: 100_000,
    stopped_s: 15,
    idle_s: 60,
    rounds: 2,
    ..FULL
};

async fn run(wanted: &[String], sizes: Sizes) -> Outcome<()> {
    let asks = |work: &str| {
        let asked = wanted.iter().any(|one| one == work || one == "all");
        if asked {
            doing(&format!("== {work}"));
        }
        asked
    };
    let mut report = Report::default();
    println!("{}", servers::versions());
    if asks("zk-to-redis") {
        bursts::zookeeper_to_redis(sizes, &mut report).await?;
    }
    if asks("redis-to-zk") {
        bursts::redis_to_zookeeper(sizes, &mut report).await?;
    }
    if asks("hot-keys") {
        bursts::hot_keys(sizes, &mut report).await?;
    }
    if asks("latency") {
        latency::run(sizes, None, &mut report).await?;
    }
    if asks("idle") {
        large::idle_small(sizes, &mut report).await?;
    }
    let large = large::Asked { first_sync: asks("first-sync"), memory: asks("memory"), idle: asks("idle") };
    if large.first_sync || large.memory || large.idle {
        large::run(sizes, large, &mut report).await?;
    }
    if asks("replay") {
        history::replay(sizes, &mut report).await?;
    }
    if asks("diff") {
        history::diff(sizes, &mut report).await?;
    }
    if asks("take-over") {
        take_over::run(None, &mut report).await?;
    }
    if asks("kafka-latency") {
        kafka::latency(sizes, &mut report).await?;
    }
    if asks("kafka-replay") {
        kafka::replay(sizes, &mut report).await?;
    }
    if asks("kafka-take-over") {
        let kafka = servers::Kafka::start().await?;
        take_over::run(Some(&kafka), &mut report).await?;
    }
    report.print();
    Ok(())
}

fn main() -> ExitCode {
    // cargo passes `--bench`.
    let (flags, mut wanted): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).filter(|word| word != "--bench").partition(|word| word.starts_with('-'));
    if wanted.is_empty() {
        wanted.push("all".to_owned());
    }
    let is_known = |word: &String| word == "all" || WORKS.contains(&word.as_str());
    if !wanted.iter().all(is_known) || flags.iter().any(|flag| flag != "--small") {
        eprintln!("usage: cargo bench --bench sync -- [all|{}]… [--small]", WORKS.join("|"));
        return ExitCode::from(2);
    }
    let mut sizes = if flags.is_empty() { FULL } else { SMALL };
    if let Some(rounds) = std::env::var("KEEPSTEP_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()) {
        sizes.rounds = rounds;
    }
    let ended = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            // The servers end with the values that stand for them, so a signal must not end us at once.
            let mut term = signal(SignalKind::terminate())?;
            tokio::select! {
                ended = run(&wanted, sizes) => ended,
                _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
                _ = term.recv() => Err("terminated".into()),
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
