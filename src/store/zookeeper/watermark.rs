//! How far the ensemble has come as far as this worker knows: the newest zxid, its lineage with the
//! watermark, the offset of its clock.

use super::place::Place;
use crate::env::lock;
use crate::plan::Ensemble;
use crate::store::clock::{ClockOffset, steady_ms};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

/// The lineage znode as this owner left it.
#[derive(Clone)]
pub(super) struct Lineage {
    pub(super) data: Vec<u8>,
    /// Its version.
    pub(super) watermark: i32,
}

impl Lineage {
    pub(super) fn new(ensemble: Ensemble, watermark: i32) -> Lineage {
        Lineage { data: encode(ensemble), watermark }
    }
}

/// What the lineage znode holds.
pub(super) fn encode(ensemble: Ensemble) -> Vec<u8> {
    serde_json::to_vec(&(ensemble.id, ensemble.since_zxid)).unwrap_or_default()
}

/// See the module.
#[derive(Default)]
pub(super) struct Watermark {
    newest_zxid: AtomicI64,
    /// As the last ownership of this worker left it.
    lineage: Mutex<Option<Lineage>>,
    clock: Mutex<ClockOffset>,
}

impl Watermark {
    /// Something of this zxid was seen.
    pub(super) fn note_zxid(&self, zxid: i64) {
        self.newest_zxid.fetch_max(zxid, Ordering::Relaxed);
    }

    pub(super) fn zxid(&self) -> i64 {
        self.newest_zxid.load(Ordering::Relaxed)
    }

    /// An ownership begins, in this lineage and with this transaction: what was seen before is of
    /// another owner's time.
    pub(super) fn begin(&self, lineage: Lineage, zxid: i64) {
        *lock(&self.lineage) = Some(lineage);
        self.newest_zxid.store(zxid, Ordering::Relaxed);
    }

    pub(super) fn lineage(&self) -> Option<Lineage> {
        lock(&self.lineage).clone()
    }

    pub(super) fn count(&self) -> i32 {
        lock(&self.lineage).as_ref().map_or(0, |lineage| lineage.watermark)
    }

    /// The lineage znode and the version that it has, as far as this owner knows: what each write
    /// checks.
    pub(super) fn mark(&self, place: &Place) -> (String, i32) {
        (place.lineage_path(), self.count())
    }

    /// The lineage znode has this version; it only rises.
    pub(super) fn note_watermark(&self, version: i32) {
        if let Some(lineage) = lock(&self.lineage).as_mut() {
            lineage.watermark = lineage.watermark.max(version);
        }
    }

    pub(super) fn clock(&self) -> ClockOffset {
        *lock(&self.clock)
    }

    /// The ensemble stamped something with this time, that was sent at this one of ours and is
    /// answered now.
    pub(super) fn measure_clock(&self, sent_ms: i64, stamp_ms: i64) {
        lock(&self.clock).measure(sent_ms, steady_ms(), stamp_ms);
    }
}
