//! Makes a failing story shorter: leaves out halves, quarters and single actions as long as it still fails, each tried with several
//! schedules.

use crate::plan::{Plan, Story};
use crate::play::{Outcome, play};

/// Schedules that are tried for each candidate.
const SCHEDULES: u64 = 8;

/// Plays at most so many candidates.
const CANDIDATES_MAX: usize = 400;

/// What kind of thing is wrong: which rule it breaks.
fn kinds(outcome: &Outcome) -> impl Iterator<Item = &'static str> + '_ {
    const KINDS: [&str; 11] = [
        "spurious",
        "unfenced",
        "at rest",
        "no rest",
        "nobody else ever had",
        "nowhere else",
        "nobody deleted it",
        "came back",
        "after both sides",
        "panicked",
        "polls at one instant",
    ];
    KINDS.into_iter().filter(|kind| outcome.wrong.iter().any(|wrong| wrong.contains(kind)))
}

/// A short story that fails, with what came of it. `None`: this one does not fail.
#[must_use]
pub fn shrink(story: &Story) -> Option<(Story, Outcome)> {
    let first = play(story);
    if first.wrong.is_empty() {
        return None;
    }
    let all = Plan::of(story.seed).actions.len();
    let mut best =
        Story { actions: Some(story.actions.clone().unwrap_or_else(|| (0..all).collect())), ..story.clone() };
    let kind = kinds(&first).next().unwrap_or_default();
    let mut outcome = first;
    let mut tried = 0;
    let mut chunk = best.actions.as_ref().map_or(0, Vec::len) / 2;
    while chunk > 0 && tried < CANDIDATES_MAX {
        let mut at = 0;
        let mut has_shrunk = false;
        while at < best.actions.as_ref().map_or(0, Vec::len) && tried < CANDIDATES_MAX {
            let mut left = best.actions.clone().unwrap_or_default();
            left.drain(at..(at + chunk).min(left.len()));
            tried += 1;
            let failing = (0..SCHEDULES).find_map(|schedule| {
                let schedule = if schedule == 0 { best.schedule } else { schedule };
                let candidate = Story { seed: best.seed, actions: Some(left.clone()), schedule };
                let outcome = play(&candidate);
                let is_same = kinds(&outcome).any(|its| its == kind);
                is_same.then_some((candidate, outcome))
            });
            match failing {
                Some((candidate, its)) => {
                    (best, outcome) = (candidate, its);
                    has_shrunk = true;
                }
                None => at += chunk,
            }
        }
        if !has_shrunk || chunk > 1 {
            chunk /= 2;
        }
    }
    Some((best, outcome))
}
