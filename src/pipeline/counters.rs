//! Numbers of a pipeline since its worker started, over all its ownerships.

use super::losses::Losses;
use super::unheard::Unheard;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) changes: AtomicU64,
    /// Keys and znodes that were written.
    pub(super) writes: AtomicU64,
    /// Comparisons that have begun, and steps of the last of them: see `once.rs`.
    pub(super) comparisons: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) gaps: AtomicU64,
    /// Losses that were told, and those that are not told yet.
    pub(super) lost: AtomicU64,
    pub(super) losses: Losses,
    pub(super) compared_ms: AtomicI64,
    pub(super) snapshot_done: AtomicU64,
    pub(super) unheard: Mutex<Unheard>,
}

impl Counters {
    /// A comparison begins.
    pub(super) fn begin_steps(&self) {
        self.steps.store(0, Ordering::Relaxed);
        self.comparisons.fetch_add(1, Ordering::Relaxed);
    }

    /// A comparison has come further.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}
