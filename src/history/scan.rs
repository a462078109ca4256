//! All keys with the prefixes of a map, some at a time.

use crate::store::{Keyspace, StoreError};
use std::collections::VecDeque;
use std::sync::Arc;

/// A scan of the keys with some prefixes.
pub(super) struct KeyScan {
    keys: Arc<dyn Keyspace>,
    /// The prefixes that are left. The first one is being scanned.
    prefixes: VecDeque<Vec<u8>>,
    cursor: u64,
}

impl KeyScan {
    pub(super) fn new(keys: Arc<dyn Keyspace>, prefixes: Vec<Vec<u8>>) -> KeyScan {
        KeyScan { keys, prefixes: prefixes.into(), cursor: 0 }
    }

    /// The next keys, perhaps none of them; `None` at the end. A key may come twice.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let Some(prefix) = self.prefixes.front() else { return Ok(None) };
        let (next, keys) = self.keys.scan(self.cursor, prefix).await?;
        self.cursor = next;
        if next == 0 {
            self.prefixes.pop_front();
        }
        Ok(Some(keys))
    }

    /// Whether all keys were returned.
    pub(super) fn is_done(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// Ends the scan here.
    pub(super) fn stop(&mut self) {
        self.prefixes.clear();
    }
}
