//! Plays seeds of the simulator, on every processor, until there are so many or one fails.
//!
//! ```text
//! cargo run --profile simulate --features failpoints --example simulate -- --seeds 1000000
//! cargo run --profile simulate --features failpoints --example simulate -- --play 4711            what happened, in full
//! cargo run --profile simulate --features failpoints --example simulate -- --shrink 4711          a short plan that still fails, in story-4711.jsonl
//! cargo run --profile simulate --features failpoints --example simulate -- --plan 4711            its plan
//! ```
//!
//! A file with a plan stands for a seed as well. One in `tests/simulator/stories` is played by `./check` from then on.
//! `--planted NAME` plants a fault, to see how soon it is found. `--from N` begins with another seed, `--threads N` uses so many processors, `--failures N` goes on until so many seeds have failed.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it plays seeds, in the real world")]

use keepstep_simulator::plan::Plan;
use keepstep_simulator::planted::Planted;
use keepstep_simulator::play::{Outcome, play};
use keepstep_simulator::shrink::shrink;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Asked {
    from: u64,
    seeds: u64,
    threads: usize,
    failures: u64,
    planted: Option<Planted>,
}

fn main() -> ExitCode {
    keepstep::env::random::know_keys();
    let mut asked = Asked { from: 0, seeds: 1000, threads: 2, failures: 1, planted: None };
    if let Ok(processors) = std::thread::available_parallelism() {
        asked.threads = processors.get();
    }
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let number = value.parse::<u64>();
        match (word.as_str(), number) {
            ("--from", Ok(number)) => asked.from = number,
            ("--seeds", Ok(number)) => asked.seeds = number,
            ("--threads", Ok(number)) => asked.threads = usize::try_from(number).unwrap_or(1).max(1),
            ("--failures", Ok(number)) => asked.failures = number,
            ("--play", _) => {
                log();
                return on_plan(&value, |plan| show(plan, &play(plan, None)));
            }
            ("--plan", _) => {
                return on_plan(&value, |plan| {
                    print!("{plan}");
                    ExitCode::SUCCESS
                });
            }
            ("--planted", _) => {
                let Some(fault) = Planted::named(&value) else {
                    let all: Vec<&str> = Planted::ALL.iter().map(|(name, _)| *name).collect();
                    eprintln!("--planted takes one of {}", all.join(", "));
                    return ExitCode::from(2);
                };
                asked.planted = Some(fault);
            }
            ("--shrink", _) => {
                return on_plan(&value, |plan| match shrink(plan) {
                    Some((plan, outcome)) => {
                        let file = format!("story-{}.jsonl", plan.settings.seed);
                        match std::fs::write(&file, plan.to_string()) {
                            Ok(()) => println!("{file}:"),
                            Err(error) => println!("{file} cannot be written: {error}"),
                        }
                        show(&plan, &outcome)
                    }
                    None => {
                        println!("{value} does not fail");
                        ExitCode::SUCCESS
                    }
                });
            }
            _ => {
                eprintln!("{word} {value}: see the first lines of examples/simulate.rs");
                return ExitCode::from(2);
            }
        }
    }
    many(&asked)
}

/// A seed, or a file with a plan.
fn on_plan(text: &str, what: impl Fn(&Plan) -> ExitCode) -> ExitCode {
    if let Ok(seed) = text.parse() {
        return what(&Plan::of(seed));
    }
    let read = std::fs::read_to_string(text).map_err(|error| error.to_string());
    match read.and_then(|plan| plan.parse::<Plan>().map_err(|error| error.to_string())) {
        Ok(plan) => what(&plan),
        Err(error) => {
            eprintln!("{text}: neither a seed nor a file with a plan: {error}");
            ExitCode::from(2)
        }
    }
}

/// What workers and requests say, with the simulated time, as `KEEPSTEP_SIMULATE_LOG` says (`keepstep=debug`, `trace`).
fn log() {
    struct Simulated;
    impl FormatTime for Simulated {
        fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
            let now = keepstep::env::Instant::now() - keepstep::env::Instant::default();
            write!(out, "{:10.6}", now.as_secs_f64())
        }
    }
    let filter = EnvFilter::try_from_env("KEEPSTEP_SIMULATE_LOG").unwrap_or_else(|_| EnvFilter::new("keepstep=info"));
    tracing_subscriber::fmt().with_timer(Simulated).with_ansi(false).with_env_filter(filter).with_target(false).init();
}

fn show(plan: &Plan, outcome: &Outcome) -> ExitCode {
    (0..plan.settings.pipelines()).for_each(|pipeline| println!("{}", plan.settings.file(pipeline)));
    outcome.told.iter().for_each(|line| println!("{line}"));
    println!("seed {}, trace {:032x}, {} polls", plan.settings.seed, outcome.trace, outcome.polls);
    outcome.wrong.iter().for_each(|wrong| println!("WRONG {wrong}"));
    if outcome.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(asked: &Asked) -> ExitCode {
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(asked.from), AtomicU64::new(0));
    let marks: Mutex<BTreeMap<String, (u64, u64)>> = Mutex::default();
    let polls = AtomicU64::new(0);
    let traces = Mutex::new(0_u128);
    let play_some = || {
        while failed.load(Ordering::Relaxed) < asked.failures {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= asked.from + asked.seeds {
                return;
            }
            let outcome = play(&Plan::of(seed), asked.planted);
            polls.fetch_add(outcome.polls, Ordering::Relaxed);
            if !outcome.wrong.is_empty() {
                failed.fetch_add(1, Ordering::Relaxed);
                let wrong: Vec<String> = outcome.wrong.iter().take(3).cloned().collect();
                println!("seed {seed}: {}", wrong.join("\n    "));
            }
            let (Ok(mut marks), Ok(mut traces)) = (marks.lock(), traces.lock()) else { return };
            *traces ^= outcome.trace.rotate_left((seed % 128) as u32);
            for (mark, count) in outcome.marks {
                let (seeds, all) = marks.entry(mark).or_default();
                *seeds += 1;
                *all += count;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(play_some);
        }
    });
    let played = next.load(Ordering::Relaxed).min(asked.from + asked.seeds) - asked.from;
    println!("{:>8} {:>10}  what has happened", "seeds", "times");
    if let Ok(marks) = marks.lock() {
        marks.iter().for_each(|(mark, (seeds, times))| println!("{seeds:>8} {times:>10}  {mark}"));
    }
    let (failed, seconds) = (failed.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    let (per_second, polls) = (played as f64 / seconds, polls.load(Ordering::Relaxed));
    // Two runs of the same seeds have the same number.
    let traces = traces.lock().map(|traces| *traces).unwrap_or_default();
    println!(
        "{played} seeds in {seconds:.1} s, {per_second:.1} a second, {polls} polls, traces {traces:032x}; {failed} failed"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
