//! How far a long command has come: a bar on a terminal, plain lines elsewhere, with rate and time left.

use crate::env::Instant;
use crate::telemetry::logs;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a line is logged.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows one stretch of work until it is dropped.
pub(super) struct Meter {
    what: &'static str,
    unit: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Mutex<Instant>,
}

impl Meter {
    /// `total` is `None` where it is not known.
    pub(super) fn new(what: &'static str, unit: &'static str, total: Option<u64>) -> Meter {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, unit, total));
        Meter { what, unit, total, bar, begun: Instant::now(), told: Mutex::new(Instant::now()) }
    }

    /// So many are done.
    pub(super) fn at(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() < LINE_INTERVAL {
            return;
        }
        *told = Instant::now();
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

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn as_float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn bar(what: &'static str, unit: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            format!("{{prefix}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{rate}}, {{eta}} left"),
        ),
        None => (ProgressBar::no_length(), format!("{{prefix}} {{spinner}} {{human_pos}} {unit}, {{rate}}")),
    };
    // The template is fixed; if it were wrong, the built-in one would do.
    if let Ok(style) = ProgressStyle::with_template(&template) {
        // indicatif's own shows four decimals.
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.0} a second", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    logs::screen().add(bar.with_prefix(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left() {
        let meter = Meter::new("reading", "changes", Some(1_000));
        assert_eq!(meter.line(250, Duration::from_secs(5)), "reading: 250 of 1000 changes, 50 a second, 15 s left");
        let open = Meter::new("comparing", "pairs", None);
        assert_eq!(open.line(10, Duration::from_secs(5)), "comparing: 10 pairs, 2 a second");
    }
}
