//! Remembering how far both stores have come, so that one which comes back older is told from one in which something was deleted.
//!
//! ```text
//!   something changed in the ensemble --> raise its tide --> remember zxid and tide in Redis
//! ```
//!
//! In this order: what Redis remembers was in the ensemble. What changes after the last time is not covered, so that time is short.

use super::engine::Engine;
use crate::store::StoreError;
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
        if self.remembered_zxid.swap(zxid, Ordering::Relaxed) == zxid {
            return Ok(());
        }
        let remember = async {
            znodes.raise_tide().await?;
            keys.remember(zxid, znodes.tide()).await
        };
        let remembered = remember.await;
        if remembered.is_err() {
            self.remembered_zxid.store(0, Ordering::Relaxed);
        }
        remembered
    }

    /// Remembers it again and again; answers what ends the ownership.
    pub(super) async fn remember_for_ever(&self) -> StoreError {
        loop {
            tokio::time::sleep(EVERY).await;
            match self.remember().await {
                // A store that is away is remembered when it is back.
                Ok(()) | Err(StoreError::Away(_) | StoreError::Refused(_)) => {}
                Err(error @ StoreError::Fenced(_)) => return error,
            }
        }
    }
}
