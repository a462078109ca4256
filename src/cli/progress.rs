//! How far a long operation is: a bar on a terminal, plain lines elsewhere.

use crate::env::{self, Instant, Map, lock};
use crate::http::AppState;
use crate::pipeline::control::PipelineState;
use crate::telemetry::logs;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::Duration;

/// How often the bar of a first comparison moves.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// How often a line is logged where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Whether somebody sees a bar.
fn is_on_terminal() -> bool {
    std::io::stderr().is_terminal() && env::world::here().is_none()
}

/// Shows the progress of one operation until it is dropped.
pub(super) struct Progress {
    what: &'static str,
    unit: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    begun: Instant,
    logged: Mutex<Instant>,
}

impl Progress {
    /// `total` is `None` if it is not known.
    pub(super) fn new(what: &'static str, unit: &'static str, total: Option<u64>) -> Progress {
        let bar = is_on_terminal().then(|| {
            let template = match total {
                Some(_) => {
                    format!("{{prefix}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{rate}}, {{eta}} left")
                }
                None => format!("{{prefix}} {{spinner}} {{human_pos}} {unit}, {{rate}}"),
            };
            bar(what.to_owned(), total, &template)
        });
        Progress { what, unit, total, bar, begun: Instant::now(), logged: Mutex::new(Instant::now()) }
    }

    /// `done` units are done.
    pub(super) fn at(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let mut logged = lock(&self.logged);
        if logged.elapsed() < LINE_INTERVAL {
            return;
        }
        *logged = Instant::now();
        tracing::info!("{}", self.line(done, self.begun.elapsed()));
    }

    fn line(&self, done: u64, elapsed: Duration) -> String {
        let rate = as_float(done) / elapsed.as_secs_f64().max(0.001);
        match self.total.filter(|total| *total >= done && done > 0) {
            Some(total) => {
                let left = as_float(total - done) / rate.max(0.001);
                format!("{}: {done} of {total} {}, {rate:.0} a second, {left:.0} s left", self.what, self.unit)
            }
            None => format!("{}: {done} {}, {rate:.0} a second", self.what, self.unit),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows the first comparison of each pipeline until it is dropped. The number of pairs is not
/// known before the end, so there is no time left.
pub(super) async fn first_comparisons(state: &AppState) {
    let terminal = is_on_terminal();
    let mut bars: Map<String, ProgressBar> = Map::default();
    loop {
        env::sleep(if terminal { BAR_INTERVAL } else { LINE_INTERVAL }).await;
        for status in state.statuses() {
            let is_running = status.state == PipelineState::Snapshotting;
            match (terminal, is_running) {
                (true, true) => {
                    let template = "{prefix}: first comparison {spinner} {human_pos} pairs, {elapsed}";
                    let name = &status.pipeline;
                    let bar = bars.entry(name.clone()).or_insert_with(|| bar(name.clone(), None, template));
                    bar.set_position(status.snapshot_done);
                    bar.tick();
                }
                (true, false) => {
                    if let Some(bar) = bars.remove(&status.pipeline) {
                        bar.finish_and_clear();
                    }
                }
                (false, true) => tracing::info!(
                    pipeline = status.pipeline,
                    done = status.snapshot_done,
                    "first comparison: pairs so far"
                ),
                (false, false) => {}
            }
        }
    }
}

fn bar(prefix: String, total: Option<u64>, template: &str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    // The templates are fixed; if one were wrong, the built-in template would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        // indicatif's own rate has four decimals.
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.0} a second", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    logs::screen().add(bar.with_prefix(prefix))
}

fn as_float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left() {
        let progress = Progress::new("reading", "changes", Some(1_000));
        assert_eq!(progress.line(250, Duration::from_secs(5)), "reading: 250 of 1000 changes, 50 a second, 15 s left");
        let open = Progress::new("comparing", "pairs", None);
        assert_eq!(open.line(10, Duration::from_secs(5)), "comparing: 10 pairs, 2 a second");
    }
}
