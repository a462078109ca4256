//! The names of all metrics, the counters behind them, spans, and the set-up of logging.
//!
//! ```text
//!   pipeline --inc/observe--> Metrics ---\
//!                                         +--> text --> GET /metrics
//!   Handle::status --> gauges of a scrape /
//! ```
//!
//! Events that only the pipeline sees (changes, writes, conflicts) are counted where they happen,
//! through handles that cost one atomic addition. Values that a status contains (lag, pairs,
//! quarantine, positions) are read from the statuses at the time of a scrape: so `/status` and
//! `/metrics` cannot disagree, and no value is stale.

mod gauges;
pub mod logs;
mod metrics;
pub mod names;
mod process;
pub mod spans;
mod throttle;

pub use metrics::{Count, Exposition, Metrics, Number, PipelineMetrics};
pub use throttle::LogThrottle;
/// The former name of [`LogThrottle`], which other modules still use.
pub use throttle::LogThrottle as Said;
