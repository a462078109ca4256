//! The names of all metrics, the counters behind them, spans, and the set-up of logging.
//!
//! ```text
//!   pipeline --count--> Metrics --encode--> http/exposition.rs --> GET /metrics
//!   Handle::status --> http/gauges.rs ------^      process.rs ^
//! ```
//!
//! Events that only the pipeline sees (changes, writes, conflicts) are counted where they happen,
//! through handles that cost one atomic addition. Values that a status contains (lag, pairs,
//! quarantine, positions) are read from the statuses at the time of a scrape: so `/status` and
//! `/metrics` cannot disagree, and no value is stale.

pub mod logs;
mod metrics;
pub mod names;
pub mod process;
pub mod spans;
mod throttle;

pub use metrics::{Count, Metrics, Number, PipelineMetrics};
pub use throttle::LogThrottle;
