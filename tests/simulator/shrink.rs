//! Makes a failing plan shorter: leaves out halves, quarters and single actions as long as it still fails, each tried with several
//! schedules.

use crate::plan::Plan;
use crate::play::{Outcome, play};

/// Schedules that are tried for each candidate.
const SCHEDULES: u64 = 8;

/// Plays at most so many candidates.
const CANDIDATES_MAX: usize = 400;

/// What kind of thing is wrong: which rule it breaks.
fn kinds(outcome: &Outcome) -> impl Iterator<Item = &'static str> + '_ {
    const KINDS: [&str; 16] = [
        "spurious",
        "unfenced",
        "untrue status",
        "untrue stream",
        "unguarded",
        "without a cause",
        "at rest",
        "no rest",
        "nobody else ever had",
        "nowhere else",
        "nobody deleted it",
        "came back",
        "after both sides",
        "published",
        "panicked",
        "polls at one instant",
    ];
    KINDS.into_iter().filter(|kind| outcome.wrong.iter().any(|wrong| wrong.contains(kind)))
}

/// A short plan that fails, with what came of it. `None`: this one does not fail.
#[must_use]
pub fn shrink(plan: &Plan) -> Option<(Plan, Outcome)> {
    let first = play(plan, None);
    if first.wrong.is_empty() {
        return None;
    }
    let kind = kinds(&first).next().unwrap_or_default();
    let (mut best, mut outcome) = (plan.clone(), first);
    let mut tried = 0;
    let mut chunk = best.actions.len() / 2;
    while chunk > 0 && tried < CANDIDATES_MAX {
        let mut at = 0;
        let mut has_shrunk = false;
        while at < best.actions.len() && tried < CANDIDATES_MAX {
            let mut candidate = best.clone();
            candidate.actions.drain(at..(at + chunk).min(best.actions.len()));
            tried += 1;
            let failing = (0..SCHEDULES).find_map(|schedule| {
                candidate.settings.schedule = if schedule == 0 { best.settings.schedule } else { schedule };
                let outcome = play(&candidate, None);
                let is_same = kinds(&outcome).any(|its| its == kind);
                is_same.then_some(outcome)
            });
            match failing {
                Some(its) => {
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
