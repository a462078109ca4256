//! Chaos: real servers, several workers, applications that write on both sides, faults at random, and a judge.
//!
//! ```text
//! cargo run --features failpoints --example chaos -- [--seed N] [--seconds S] [--runs R] [--stream embedded|kafka] [--workers N]
//!     [--ensemble kept|restored]     restored: it comes back from copies as well
//!     [--commands none|all]          all: replay, repair and restore run beside workers and between them
//! ```
//!
//! A ZooKeeper ensemble of three, a Redis with a replica, two workers (or more) as processes, each behind proxies of its own. The
//! load is on before the first fault comes. Then everything is healed, and within `worker.reconcile` + 30 s both sides
//! must hold the same; after that nobody may write any more, and each value that was ever written must be accounted for
//! (`history.rs`). One line a run says what happened; the exit code is 1 if anything was found. `--runs 0` goes on until
//! it is stopped; each run takes the next seed. A seed gives the same plan of writes and faults, not the same timing.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "chaos runs in the real world")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test program fails by panicking"
)]

mod commands;
mod faults;
mod history;
mod odd;
#[expect(dead_code, unused_imports, reason = "what the tests stand on, of which this needs a part")]
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod world;
mod writers;

use faults::Counts;
use history::{History, Judgement, judge};
use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::time::Duration;
use world::{Plan, World};

/// More workers than that only wait for each other on two processors.
const WORKERS_MAX: usize = 5;

struct Asked {
    seed: u64,
    seconds: u64,
    runs: u64,
    plan: Plan,
}

fn asked() -> Asked {
    let plan = Plan { workers: 2, on_kafka: false, restores: false, commands: false };
    let mut asked = Asked { seed: fastrand::u64(..1_000_000), seconds: 60, runs: 1, plan };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{word} needs a number"));
        match word.as_str() {
            "--seed" => asked.seed = number(),
            "--seconds" => asked.seconds = number(),
            "--runs" => asked.runs = number(),
            "--workers" => {
                asked.plan.workers = usize::try_from(number()).unwrap();
                assert!((1..=WORKERS_MAX).contains(&asked.plan.workers), "--workers: from 1 to {WORKERS_MAX}");
            }
            "--stream" => {
                assert!(["embedded", "kafka"].contains(&value.as_str()), "--stream: embedded or kafka");
                asked.plan.on_kafka = value == "kafka";
            }
            "--ensemble" => {
                assert!(["kept", "restored"].contains(&value.as_str()), "--ensemble: kept or restored");
                asked.plan.restores = value == "restored";
            }
            "--commands" => {
                assert!(["none", "all"].contains(&value.as_str()), "--commands: none or all");
                asked.plan.commands = value == "all";
            }
            other => panic!(
                "{other}: only --seed, --seconds, --runs, --stream, --workers, --ensemble and --commands are known"
            ),
        }
    }
    asked
}

fn main() -> ExitCode {
    // This very program is the worker as well, so that what is tested is what was just built.
    if std::env::var_os("PLAYS_KEEPSTEP").is_some() {
        return keepstep::cli::main();
    }
    let asked = asked();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut is_clean = true;
    let mut run = 0;
    while asked.runs == 0 || run < asked.runs {
        is_clean &= runtime.block_on(play(asked.seed + run, asked.seconds, asked.plan));
        run += 1;
    }
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run; answers whether nothing was found.
async fn play(seed: u64, seconds: u64, plan: Plan) -> bool {
    println!("chaos: seed {seed}, {seconds} s, {plan:?}");
    let mut world = World::start(seed, plan).await;
    let load = writers::start(&world.shared, seed);
    let odd = odd::start(&world.shared, seed);
    world.wait_for_load().await;
    let counts = faults::inject(&mut world, seed, Duration::from_secs(seconds)).await;
    world.heal().await;
    let (history, quiet) = world.settle(load, odd).await;
    let found = judge(&history);
    report(&world, seed, seconds, &counts, &history, &found, quiet)
}

fn commit() -> String {
    let git = |arguments: &[&str]| Command::new("git").args(arguments).output().ok();
    let text = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map(text).filter(|text| !text.is_empty());
    let changed = git(&["status", "--porcelain"]).map(text).is_some_and(|text| !text.is_empty());
    format!("{}{}", commit.unwrap_or_else(|| "unknown".to_owned()), if changed { "+changes" } else { "" })
}

fn report(
    world: &World,
    seed: u64,
    seconds: u64,
    counts: &Counts,
    history: &History,
    found: &Judgement,
    quiet: Result<(), String>,
) -> bool {
    let mut complaints = Vec::new();
    for (what, texts) in [
        ("LOST", &found.lost),
        ("DIVERGED", &found.diverged),
        ("A DELETE THAT NOBODY MADE", &found.deletes),
        ("AN OLD VALUE CAME BACK", &found.returned),
        ("A CONFLICT THAT NOBODY MADE", &found.spurious),
        ("BESIDE THE PAIRS", &found.complaints),
    ] {
        // The first few tell the story; the last line has the number.
        complaints.extend(texts.iter().take(3).map(|text| format!("{what}: {text}")));
    }
    complaints.extend(quiet.err());
    // Something must have happened, or nothing was tested.
    let faults: u64 = counts.values().sum();
    // A third and less of what a loaded machine of two processors does; a broker takes up to ten seconds to come back.
    let floors = [
        ("values", u64::try_from(found.checked).unwrap(), seconds * 50),
        ("faults", faults, if world.kafka.is_some() { seconds / 4 } else { seconds / 2 }),
        ("conflicts", u64::try_from(history.conflicts.len()).unwrap(), seconds),
    ];
    for (what, number, floor) in floors {
        if number < floor {
            complaints.push(format!("TOO LITTLE HAPPENED: {number} {what}, the floor is {floor}"));
        }
    }
    if !complaints.is_empty() {
        println!("seed {seed}: the workers' logs are in {}", world.keep_logs(seed).display());
    }
    for complaint in &complaints {
        println!("seed {seed}: {complaint}");
    }
    let mut by_kind = String::new();
    for (kind, count) in counts {
        let _ = write!(by_kind, "{}{kind} {count}", if by_kind.is_empty() { "" } else { ", " });
    }
    let mut accounts = String::new();
    for (account, count) in &found.accounts {
        let _ = write!(accounts, "; {count} {account}");
    }
    println!(
        "chaos: seed {seed}, commit {}, {seconds} s, {} workers, stream {}, {}; {faults} faults ({by_kind}); {} conflicts, {} losses of Redis, \
         {} of ZooKeeper; {} values checked{accounts}; {} lost, {} diverged, {} deletes invented, {} values came back, {} conflicts \
         invented: {}",
        commit(),
        world.workers.len(),
        if world.kafka.is_some() { "kafka" } else { "embedded" },
        world.rule,
        history.conflicts.len(),
        history.redis_losses.len(),
        history.zookeeper_losses.len() / 2,
        found.checked,
        found.lost.len(),
        found.diverged.len(),
        found.deletes.len(),
        found.returned.len(),
        found.spurious.len(),
        if complaints.is_empty() && found.is_clean() { "clean" } else { "FAILED" }
    );
    complaints.is_empty() && found.is_clean()
}
