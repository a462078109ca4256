//! What was measured, as rows: printed as they come, and once more as one table. And what is being done, as lines with
//! the time since the start, so that a run that waits says for what.

use crate::Outcome;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A wait that takes longer says so again after each of these.
const REMIND: Duration = Duration::from_secs(10);

/// Prints what is done from now on.
pub(crate) fn doing(what: &str) {
    println!("   [{:6.1} s] {what}", START.elapsed().as_secs_f64());
}

/// A wait with an end: says every ten seconds what for, and fails when `limit` has passed.
pub(crate) struct Wait {
    what: String,
    begun: Instant,
    limit: Duration,
    reminded: Duration,
}

impl Wait {
    pub(crate) fn new(what: String, limit: Duration) -> Wait {
        Wait { what, begun: Instant::now(), limit, reminded: Duration::ZERO }
    }

    /// Called again and again while there is nothing yet.
    pub(crate) fn goes_on(&mut self) -> Outcome<()> {
        let waited = self.begun.elapsed();
        if waited > self.limit {
            return Err(format!("waited {:.0} s for {}", waited.as_secs_f64(), self.what).into());
        }
        if waited > self.reminded + REMIND {
            self.reminded = waited;
            doing(&format!("still waiting for {} after {:.0} s", self.what, waited.as_secs_f64()));
        }
        Ok(())
    }
}

/// One goal.
struct Row {
    work: String,
    keepstep: String,
    raw: String,
    ratio: String,
    goal: String,
    is_met: bool,
}

/// All rows of a run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A figure beside its raw limit. `goal` says it in words, `is_met` is the judgement.
    pub(crate) fn row(&mut self, work: &str, keepstep: &str, raw: &str, ratio: Option<f64>, goal: &str, is_met: bool) {
        let row = Row {
            work: work.to_owned(),
            keepstep: keepstep.to_owned(),
            raw: raw.to_owned(),
            ratio: ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            goal: goal.to_owned(),
            is_met,
        };
        println!(">> {}", line(&row));
        self.rows.push(row);
    }

    /// The table.
    pub(crate) fn print(&self) {
        println!("\n| work | Keepstep | raw limit | ratio | goal | |\n| --- | --- | --- | --- | --- | --- |");
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

fn line(row: &Row) -> String {
    let Row { work, keepstep, raw, ratio, goal, is_met } = row;
    let verdict = if *is_met { "met" } else { "**missed**" };
    format!("| {work} | {keepstep} | {raw} | {ratio} | {goal} | {verdict} |")
}

/// The middle one; of an even number, the upper of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> f64 {
    at(figures, 0.5)
}

/// The figure below which this share of all lies.
pub(crate) fn at(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
