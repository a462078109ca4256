//! The shipped planner and its guards through every interleaving of small worlds, and the checker itself against planted faults.
//!
//! `KEEPSTEP_MODEL=deep cargo test --release --features failpoints --test model -- --nocapture` goes through larger worlds (the last
//! run took six minutes on two processors, see docs/reliability-model.md); `KEEPSTEP_MODEL_ONLY=text` runs those whose name has the text.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test runs in the real world")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keepstep_model::cases::{deep, planted, small};
use keepstep_model::config::Config;
use keepstep_model::search::{Figures, TRAILING_MAX, explore, tell};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// States that a check goes through at least, and those of a deep run.
const STATES_MIN: usize = 1_000_000;
const DEEP_STATES_MIN: usize = 100_000_000;

/// Explores all of them, as many at a time as there are processors; `each` is told of every end.
fn all(configs: &[Config], each: &(dyn Fn(&Config, &Figures) + Sync)) -> Vec<Figures> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![Figures::default(); configs.len()]);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(config) = configs.get(at)
                {
                    let figures = explore(config);
                    each(config, &figures);
                    if let Some(place) = done.lock().unwrap().get_mut(at) {
                        *place = figures;
                    }
                }
            });
        }
    });
    done.into_inner().unwrap()
}

fn row(name: &str, figures: &Figures) -> String {
    let Figures { states, transitions, drained, trailing, conflicts, recreated, unseen, undone, bounded, .. } = figures;
    let whole = if *bounded { "bound" } else { "whole" };
    format!(
        "{name:<40} {states:>10} {transitions:>11} {drained:>8} {trailing:>2} {conflicts:>8} {recreated:>7} {unseen:>7} {undone:>7}  {whole}"
    )
}

#[test]
fn nothing_is_lost_nothing_spurious_and_all_comes_to_rest_in_every_interleaving() {
    let is_deep = std::env::var("KEEPSTEP_MODEL").is_ok_and(|how| how == "deep");
    let only = std::env::var("KEEPSTEP_MODEL_ONLY").unwrap_or_default();
    let mut configs = if is_deep { deep() } else { small() };
    configs.retain(|config| config.name.contains(&only));
    let begun = Instant::now();
    println!(
        "{:<40} {:>10} {:>11} {:>8} {:>2} {:>8} {:>7} {:>7} {:>7}",
        "configuration", "states", "transitions", "drained", "tr", "conflict", "recreat", "unseen", "undone"
    );
    let figures = all(&configs, &|config, figures| {
        println!("{}", row(config.name, figures));
        if figures.failure.is_some() {
            println!("{}", tell(config));
        }
    });
    let mut total = Figures::default();
    for one in &figures {
        total.states += one.states;
        total.transitions += one.transitions;
        total.drained += one.drained;
        total.trailing = total.trailing.max(one.trailing);
        total.conflicts += one.conflicts;
        total.recreated += one.recreated;
        total.unseen += one.unseen;
        total.undone += one.undone;
    }
    let failed: Vec<&str> = configs
        .iter()
        .zip(&figures)
        .filter_map(|(config, figures)| figures.failure.as_ref().map(|_| config.name))
        .collect();
    println!("{}", row("total", &total));
    println!("lost 0, spurious 0, diverged 0, unless named here: {failed:?}; {:.0} s", begun.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "a property does not hold, see the traces above: {failed:?}");
    assert!(total.trailing <= TRAILING_MAX);
    let least = if is_deep { DEEP_STATES_MIN } else { STATES_MIN };
    assert!(total.states >= least || !only.is_empty(), "{} states are fewer than {least}", total.states);
    assert!(total.conflicts > 0 && total.drained > 0, "something happened");
}

#[test]
fn every_planted_fault_is_found() {
    let only = std::env::var("KEEPSTEP_MODEL_ONLY").unwrap_or_default();
    let mut configs = planted();
    configs.retain(|config| format!("{:?}", config.bug).contains(&only));
    let figures = all(&configs, &|config, figures| {
        let how = figures.failure.as_deref().unwrap_or("NOT FOUND");
        println!("{:<32} {:>8} states: {how}", format!("{:?}", config.bug), figures.states);
    });
    let missed: Vec<_> = configs
        .iter()
        .zip(&figures)
        .filter(|(_, figures)| figures.failure.is_none())
        .map(|(config, _)| config.bug)
        .collect();
    assert!(missed.is_empty(), "planted and not found: {missed:?}");
    assert!(configs.len() >= 20 || !only.is_empty());
}
