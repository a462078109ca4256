//! Remembering how far both stores have come, so that one which comes back older is told from one in which something was deleted.
//!
//! ```text
//!   something changed in the ensemble --> raise its tide --> remember zxid and tide in Redis
//! ```
//!
//! In this order: what Redis remembers was in the ensemble. What changes after the last time is not covered, so that time is short.

use super::engine::Engine;
use crate::change::Position;
use crate::env;
use crate::failpoint::crash_point;
use crate::store::so_far;
use crate::store::{StoreError, Znodes};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it is remembered while something changes: a copy of the ensemble that is restored is older than that. One small
/// write to each store.
const EVERY: Duration = Duration::from_secs(2);

impl Engine {
    /// Remembers it if something has changed since the last time.
    pub(super) async fn remember(&self) -> Result<(), StoreError> {
        let (Some(znodes), Some(keys), false) = (&self.znodes, &self.keys, self.captures()) else { return Ok(()) };
        let zxid = znodes.zxid();
        if self.watermark.raised.load(Ordering::Relaxed) != zxid && self.raise(znodes.as_ref()).await? {
            self.watermark.raised.store(zxid, Ordering::Relaxed);
            crash_point!("c16-tide-raised");
        }
        let written = self.written();
        let is_new = self.watermark.written.load(Ordering::Relaxed) != written;
        if is_new || self.watermark.is_ahead.load(Ordering::Relaxed) {
            keys.remember(so_far(&self.lease, Some(znodes.as_ref())), written).await?;
            self.watermark.is_ahead.store(false, Ordering::Relaxed);
            self.watermark.written.store(written, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Raises the tide, unless Redis has not confirmed the last raise; whether it did. At most one ahead, however long Redis is away: by
    /// more than that, the next owner takes it for an older one.
    async fn raise(&self, znodes: &dyn Znodes) -> Result<bool, StoreError> {
        if self.watermark.is_ahead.swap(true, Ordering::Relaxed) {
            return Ok(false);
        }
        znodes.raise_tide().await?;
        Ok(true)
    }

    /// Everything on the stream below this position is written.
    pub(super) fn written(&self) -> Position {
        let last = self.stream.extent().last;
        self.unwritten.up_to(last)
    }

    /// Raises the tide in between, for a measurement of the clocks.
    pub(super) async fn advance_watermark(&self) -> Result<(), StoreError> {
        match &self.znodes {
            Some(znodes) => self.raise(znodes.as_ref()).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Remembers it again and again; answers what ends the ownership.
    pub(super) async fn remember_for_ever(&self) -> StoreError {
        loop {
            env::sleep(EVERY).await;
            match self.remember().await {
                // A store that is away is remembered when it is back.
                Ok(()) | Err(StoreError::Away(_) | StoreError::NotNow(_) | StoreError::Refused(_)) => {}
                Err(error @ StoreError::Fenced(_)) => return error,
            }
        }
    }
}
