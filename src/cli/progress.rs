//! How far the first comparison has come: a moving line on a terminal, plain lines elsewhere.

use crate::env::{self, Map};
use crate::http::Site;
use crate::pipeline::control::{PipelineState, PipelineStatus};
use crate::telemetry::logs;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// How often a bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// How often a line is logged.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the first comparison of each pipeline until it is dropped.
pub(super) async fn show(site: &Site) {
    let terminal = std::io::stderr().is_terminal();
    let mut bars: Map<String, ProgressBar> = Map::default();
    loop {
        env::sleep(if terminal { BAR_INTERVAL } else { LINE_INTERVAL }).await;
        for status in site.statuses() {
            let running = status.state == PipelineState::Snapshotting;
            match (terminal, running) {
                (true, true) => step(bars.entry(status.pipeline.clone()).or_insert_with(|| bar(&status)), &status),
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

/// How many pairs there are nobody knows before the end, so it has no end to run towards.
fn bar(status: &PipelineStatus) -> ProgressBar {
    let bar = ProgressBar::no_length().with_prefix(status.pipeline.clone());
    // The template is fixed; if it were wrong, the built-in one would do.
    if let Ok(style) = ProgressStyle::with_template("{prefix}: first comparison {spinner} {human_pos} pairs, {elapsed}")
    {
        bar.set_style(style);
    }
    logs::screen().add(bar)
}

fn step(bar: &ProgressBar, status: &PipelineStatus) {
    bar.set_position(status.snapshot_done);
    bar.tick();
}
