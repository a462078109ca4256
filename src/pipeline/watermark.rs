//! What of an ownership's high-water mark was raised and confirmed.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

/// What was done in this ownership.
#[derive(Default)]
pub(super) struct Watermark {
    /// The newest zxid for which the watermark was advanced.
    pub(super) raised: AtomicI64,
    /// Redis has not confirmed the last raise.
    pub(super) is_ahead: AtomicBool,
    /// Everything below this position of the stream was written when it was remembered.
    pub(super) written: AtomicU64,
}
