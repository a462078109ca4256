//! Every metric and span name, the numbers behind them, and the one place that sets logging up.
//!
//! ```text
//!   pipeline --inc/observe--> Metrics ---\
//!                                         +--> text --> GET /metrics
//!   Handle::status --> gauges of a scrape /
//! ```
//!
//! What only the pipeline can count (changes, writes, conflicts) is counted where it happens, through handles that
//! cost one atomic addition. What a status already says (lag, pairs, quarantine, positions) is read from the
//! statuses at the time of a scrape: `/status` and `/metrics` cannot disagree, and nothing goes stale.

mod gauges;
pub mod logs;
mod metrics;
pub mod names;
mod process;
mod said;

pub use metrics::{Count, Exposition, Metrics, Number, PipelineMetrics};
pub use said::Said;
