//! Remembering how far both stores have come, so that one which comes back older is told from one in which something was deleted.
//!
//! ```text
//!   something changed in the ensemble --> advance its watermark --> remember zxid and watermark in Redis
//! ```
//!
//! In this order: what Redis remembers was in the ensemble. What changes after the last time is not covered, so that time is short.

use super::books::Books;
use super::doors::Doors;
use super::remedy::{self, Remedy};
use super::spec::Spec;
use super::watermark::Watermark;
use crate::change::Position;
use crate::env;
use crate::failpoint::{crash_point, planted};
use crate::store::StoreError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it is remembered while something changes: a copy of the ensemble that is restored is older than that. One small
/// write to each store.
const EVERY: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Advance {
    spec: Arc<Spec>,
    doors: Arc<Doors>,
    books: Arc<Books>,
    watermark: Watermark,
}

impl Advance {
    pub(super) fn new(spec: Arc<Spec>, doors: Arc<Doors>, books: Arc<Books>) -> Advance {
        Advance { spec, doors, books, watermark: Watermark::default() }
    }

    /// Remembers it if something has changed since the last time.
    pub(super) async fn remember(&self) -> Result<(), StoreError> {
        if !self.doors.has_znodes() || !self.doors.has_keys() || self.spec.captures().is_some() {
            return Ok(());
        }
        let zxid = self.doors.zxid();
        if self.watermark.raised.load(Ordering::Relaxed) != zxid && self.raise().await? {
            self.watermark.raised.store(zxid, Ordering::Relaxed);
            crash_point!("c16-watermark-advanced");
        }
        let written = self.written();
        let is_new = self.watermark.written.load(Ordering::Relaxed) != written;
        if is_new || self.watermark.is_ahead.load(Ordering::Relaxed) {
            self.doors.remember(written).await?;
            self.watermark.is_ahead.store(false, Ordering::Relaxed);
            self.watermark.written.store(written, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Advances the watermark, unless Redis has not confirmed the last raise; whether it did. At most one ahead, however long Redis is away: by
    /// more than that, the next owner takes it for an older one.
    async fn raise(&self) -> Result<bool, StoreError> {
        if self.watermark.is_ahead.swap(true, Ordering::Relaxed) && !planted!("the watermark runs ahead") {
            return Ok(false);
        }
        self.doors.advance_watermark().await?;
        Ok(true)
    }

    /// Everything on the stream below this position is written.
    pub(super) fn written(&self) -> Position {
        self.books.unwritten.up_to(self.doors.extent().last)
    }

    /// Advances the watermark in between, for a measurement of the clocks.
    pub(super) async fn measure_clocks(&self) -> Result<(), StoreError> {
        if self.doors.has_znodes() {
            self.raise().await?;
        }
        Ok(())
    }

    /// Remembers it again and again; answers what ends the ownership.
    pub(super) async fn remember_for_ever(&self) -> StoreError {
        loop {
            env::sleep(EVERY).await;
            if let Err(error) = self.remember().await {
                match remedy::of_store(&error) {
                    // A store that is away is remembered when it is back.
                    Remedy::AskAgain | Remedy::Refuse => {}
                    Remedy::EndOwnership => return error,
                }
            }
        }
    }
}
