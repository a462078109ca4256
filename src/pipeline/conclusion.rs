//! What is concluded of the stores as a whole once a comparison has ended and everything that it left to the rounds is settled.

use super::comparison::Found;
use super::hint::PairName;
use crate::env::{Set, lock};
use std::sync::Mutex;

/// What may be said of the stores as a whole after a comparison. One lock.
#[derive(Debug, Default)]
pub(super) struct Conclusion(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Pairs that the comparison under way did not settle, and that are left to nobody.
    missed: u64,
    /// A comparison has ended, and pairs that it left to the rounds are still to be settled: then what it found holds.
    waits: Option<Found>,
    /// Pairs whose key is lost and that could neither be restored nor noted as such, for a reason of their own: a znode that may not be
    /// read, a key that may not be written. What Redis lost is not forgotten while there are any.
    /// Memory grows with these pairs.
    stranded: Set<PairName>,
    /// How many pairs of the stream the last comparison found gone from both stores.
    gone: usize,
    /// Routes that the last comparison did not look at, since they were paused.
    passed_over: Set<usize>,
}

impl Conclusion {
    /// A comparison begins: nothing is concluded from the one before. `finds_stranded`: it meets every pair whose key is lost.
    pub(super) fn begin(&self, finds_stranded: bool) {
        let mut inner = lock(&self.0);
        (inner.missed, inner.waits) = (0, None);
        if finds_stranded {
            inner.stranded.clear();
        }
    }

    /// A comparison has looked at everything but these routes.
    pub(super) fn pass_over(&self, routes: Set<usize>) {
        lock(&self.0).passed_over = routes;
    }

    /// Whether the last comparison did not look at this route.
    pub(super) fn was_passed_over(&self, route: usize) -> bool {
        lock(&self.0).passed_over.contains(&route)
    }

    /// A pair in step of which the record is missing: only another comparison meets it.
    pub(super) fn count_missed(&self) {
        lock(&self.0).missed += 1;
    }

    /// Whether some were missed since the comparison began.
    pub(super) fn has_missed(&self) -> bool {
        lock(&self.0).missed != 0
    }

    /// A comparison has ended, and this holds once what it left to the rounds is settled. One that has missed pairs needs another one.
    pub(super) fn ended(&self, found: Found) {
        lock(&self.0).waits = Some(found);
    }

    /// What the last comparison found, once.
    pub(super) fn take(&self) -> Option<Found> {
        lock(&self.0).waits.take()
    }

    /// A comparison found so many pairs of the stream gone from both stores; answers how many the one before had found.
    pub(super) fn replace_gone(&self, gone: usize) -> usize {
        std::mem::replace(&mut lock(&self.0).gone, gone)
    }

    /// The key of this pair is lost, and the pair is left as it is, for another reason.
    pub(super) fn strand(&self, name: &PairName) {
        lock(&self.0).stranded.insert(name.clone());
    }

    /// Both sides of this pair can be looked at, and something is done about it.
    pub(super) fn forget_stranded(&self, name: &PairName) {
        lock(&self.0).stranded.remove(name);
    }

    /// Whether the keys of some pairs are lost, and nothing can be done about them now.
    pub(super) fn has_stranded(&self) -> bool {
        !lock(&self.0).stranded.is_empty()
    }
}
