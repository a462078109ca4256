//! What an opening for writing goes by: how large segments are, and when history is compacted.

use super::file::Files;
use crate::env;
use crate::stream::Retention;
use std::sync::Arc;
use std::time::Duration;

/// A segment is at most this large: rewriting one takes about a second, and the disk must hold one
/// more while it does.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// A segment is at least this large: smaller ones would cost a file and two syncs of a directory
/// every few batches.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// An opening copies the newest segment if it is no larger than this share of one, 8 MiB at most;
/// of a larger one it copies the last write and begins another segment with it. So openings without
/// end make sixteen times as many files at most.
const RENEWED: u64 = 8;
/// Segments that make up `retention.size`: the active one cannot be compacted, and this bounds its
/// share.
const SEGMENTS: u64 = 8;
/// The active segment is closed at this age even if `retention.age` is long: a position by time
/// then needs to look at an hour of history at most.
const ROLL_MS_MAX: i64 = 3_600_000;
/// How often age is looked at: a tenth of it, within these bounds. An idle stream wakes this
/// rarely.
const PERIOD_BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// What an opening for writing goes by.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) retention: Retention,
    pub(super) segment_bytes: u64,
    /// Up to this size all of the newest segment of an earlier opening is copied, above it only its
    /// tail.
    pub(super) renew_bytes: u64,
    /// How often retention is looked at without being woken.
    pub(super) period: Duration,
    pub(super) files: Files,
    /// The clock that age is measured with, milliseconds since the epoch.
    pub(super) now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Options {
    pub(super) fn new(retention: Retention) -> Options {
        let segment_bytes = (retention.size / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        Options {
            retention,
            segment_bytes,
            renew_bytes: segment_bytes / RENEWED,
            period: (retention.age / 10).clamp(PERIOD_BOUNDS.0, PERIOD_BOUNDS.1),
            files: Files::here(),
            now_ms: Arc::new(env::unix_ms),
        }
    }

    pub(super) fn age_ms(&self) -> i64 {
        i64::try_from(self.retention.age.as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn roll_ms(&self) -> i64 {
        self.age_ms().min(ROLL_MS_MAX)
    }
}
