//! What is concluded of the stores as a whole once a comparison has ended and everything that it left to the rounds is settled.

use super::comparison::Found;
use super::hint::PairName;
use crate::env::Set;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// What may be said of the stores as a whole after a comparison.
#[derive(Default)]
pub(super) struct Conclusion {
    /// Pairs that the comparison under way did not settle, and that are left to nobody.
    pub(super) missed: AtomicU64,
    /// A comparison was asked for because the one before had missed some.
    pub(super) repeats: AtomicBool,
    /// A comparison has ended, and pairs that it left to the rounds are still to be settled: then what it found holds.
    pub(super) waits: Mutex<Option<Found>>,
    /// Pairs whose key is lost and that could neither be restored nor noted as such, for a reason of their own: a znode that may not be
    /// read, a key that may not be written. What Redis lost is not forgotten while there are any.
    /// Memory grows with these pairs.
    pub(super) stranded: Mutex<Set<PairName>>,
    /// Routes that the last comparison did not look at, since they were paused.
    pub(super) passed_over: Mutex<Set<usize>>,
}
