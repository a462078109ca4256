//! Keys of a capture that are gone and that nobody saw being deleted: the stream keeps their last value.

use super::hint::PairName;
use crate::env::{Set, lock};
use std::sync::Mutex;

/// See the module. Memory grows with these keys; one that comes back, or whose deletion is seen, leaves it.
#[derive(Debug, Default)]
pub(super) struct Missing(Mutex<Set<PairName>>);

impl Missing {
    /// Answers whether it was not known.
    pub(super) fn miss(&self, name: &[u8]) -> bool {
        lock(&self.0).insert(name.into())
    }

    pub(super) fn found(&self, name: &[u8]) {
        lock(&self.0).remove(name);
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        lock(&self.0).contains(name)
    }
}
