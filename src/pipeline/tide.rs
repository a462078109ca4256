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
use crate::store::{Remembered, StoreError};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// How often it is remembered while something changes: a copy of the ensemble that is restored is older than that. One small
/// write to each store.
const EVERY: Duration = Duration::from_secs(2);

/// The newest zxids for which it was done in this ownership.
#[derive(Default)]
pub(super) struct Memory {
    raised: AtomicI64,
    remembered: AtomicI64,
    /// Everything below this position of the stream was written when it was remembered.
    written: AtomicU64,
}

impl Engine {
    /// Remembers it if something has changed since the last time.
    pub(super) async fn remember(&self) -> Result<(), StoreError> {
        let (Some(znodes), Some(keys), false) = (&self.znodes, &self.keys, self.captures()) else { return Ok(()) };
        let Memory { raised, remembered, written: told } = &self.memory;
        let zxid = znodes.zxid();
        // At most one ahead of what Redis has confirmed, however long that is away: by more than that, Redis is an older one.
        let is_confirmed = raised.load(Ordering::Relaxed) == remembered.load(Ordering::Relaxed);
        if is_confirmed && raised.load(Ordering::Relaxed) != zxid {
            znodes.raise_tide().await?;
            raised.store(zxid, Ordering::Relaxed);
            crash_point!("c16-tide-raised");
        }
        let raised = raised.load(Ordering::Relaxed);
        let written = self.written();
        if remembered.load(Ordering::Relaxed) != raised || told.load(Ordering::Relaxed) != written {
            keys.remember(Remembered { zxid, ..self.lease.so_far(Some(znodes.as_ref())) }, written).await?;
            remembered.store(raised, Ordering::Relaxed);
            told.store(written, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Everything on the stream below this position is written.
    pub(super) fn written(&self) -> Position {
        let last = self.stream.extent().last;
        self.unwritten.up_to(last)
    }

    /// Raises the tide in between, for a measurement of the clocks.
    pub(super) async fn raise_tide_now(&self) -> Result<(), StoreError> {
        let (Some(znodes), Some(keys)) = (&self.znodes, &self.keys) else { return Ok(()) };
        znodes.raise_tide().await?;
        keys.remember(self.lease.so_far(Some(znodes.as_ref())), self.written()).await
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
