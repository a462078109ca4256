//! What was measured, as rows: printed as they come, and once more as one table.

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
