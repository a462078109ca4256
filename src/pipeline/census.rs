//! How many pairs of each route are in step: one count with one owner, told by whoever settles a pair.
//!
//! ```text
//!   a comparison begins          a new count, at zero
//!     it meets a pair            counted when it is settled, by the comparison or by the round that has it
//!     a pair is settled          first time: as it is now       again: by the difference
//!   it ends                      the new count counts; what was met and is not settled joins it when it is
//! ```
//!
//! Rounds go on while a comparison looks at the pairs one after another, so neither alone knows the number: of a pair that a
//! round settles, the comparison may have been there already, may still come, or may have left it to that very round.

use crate::change::KeyedHash;
use crate::env::{Set, lock};
use std::sync::{Mutex, MutexGuard};

/// See the module. About 9 bytes a pair while a comparison is under way, and 9 for each pair that it left unsettled.
#[derive(Debug)]
pub(super) struct Census {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    counts: Vec<i64>,
    /// Of these, pairs that the last comparison did not look at itself.
    left: Vec<i64>,
    /// Met by the last comparison, and not settled since: not in the count.
    unsettled: Set<u64>,
    under_way: Option<UnderWay>,
    /// A comparison has ended.
    is_whole: bool,
}

/// The count of a comparison.
#[derive(Debug)]
struct UnderWay {
    counts: Vec<i64>,
    /// Of these, pairs that it did not look at itself.
    left: Vec<i64>,
    settled: Set<u64>,
    unsettled: Set<u64>,
}

impl Census {
    pub(super) fn new(routes: usize) -> Census {
        let inner = Inner {
            counts: vec![0; routes],
            left: vec![0; routes],
            unsettled: Set::default(),
            under_way: None,
            is_whole: false,
        };
        Census { inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// A comparison begins. One that did not come to its end counts for nothing.
    pub(super) fn begin(&self) {
        let mut inner = self.inner();
        let counts = vec![0; inner.counts.len()];
        inner.under_way =
            Some(UnderWay { left: counts.clone(), counts, settled: Set::default(), unsettled: Set::default() });
    }

    /// The comparison under way has met this pair, and somebody will settle it.
    pub(super) fn met(&self, name: &[u8]) {
        let hash = KeyedHash::of(name).place();
        if let Some(under_way) = &mut self.inner().under_way
            && !under_way.settled.contains(&hash)
        {
            under_way.unsettled.insert(hash);
        }
    }

    /// This pair was in step or not, and is now or is not.
    pub(super) fn settled(&self, name: &[u8], route: usize, was: bool, is: bool) {
        let hash = KeyedHash::of(name).place();
        let change = i64::from(is) - i64::from(was);
        let mut guard = self.inner();
        let inner = &mut *guard;
        let joins = inner.unsettled.remove(&hash);
        if let Some(count) = inner.counts.get_mut(route) {
            *count += if joins { i64::from(is) } else { change };
        }
        let Some(under_way) = &mut inner.under_way else { return };
        under_way.unsettled.remove(&hash);
        let is_first = under_way.settled.insert(hash);
        if let Some(count) = under_way.counts.get_mut(route) {
            *count += if is_first { i64::from(is) } else { change };
        }
    }

    /// The comparison under way has met this pair, which was last seen in step, and leaves it to whoever has it.
    pub(super) fn left(&self, name: &[u8], route: usize) {
        self.settled(name, route, true, true);
        if let Some(under_way) = &mut self.inner().under_way
            && let Some(left) = under_way.left.get_mut(route)
        {
            *left += 1;
        }
    }

    /// Pairs of this route that the last comparison found in step itself, or made so.
    pub(super) fn looked_at(&self, route: usize) -> u64 {
        let inner = self.inner();
        let of = |counts: &[i64]| counts.get(route).copied().unwrap_or(0);
        u64::try_from(of(&inner.counts) - of(&inner.left)).unwrap_or(0)
    }

    /// The comparison has ended. It did not look at the routes that are `paused`.
    pub(super) fn end(&self, paused: impl Fn(usize) -> bool) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let Some(under_way) = inner.under_way.take() else { return };
        for (route, (count, counted)) in inner.counts.iter_mut().zip(under_way.counts).enumerate() {
            if !paused(route) {
                *count = counted;
            }
        }
        inner.left = under_way.left;
        inner.unsettled = under_way.unsettled;
        inner.is_whole = true;
    }

    /// Pairs in step, by route. Until the first comparison has ended, those that it has counted so far.
    pub(super) fn by_route(&self) -> Vec<u64> {
        let inner = self.inner();
        let so_far = inner.under_way.as_ref().filter(|_| !inner.is_whole).map(|under_way| &under_way.counts);
        so_far.unwrap_or(&inner.counts).iter().map(|count| u64::try_from(*count).unwrap_or(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"a";
    const B: &[u8] = b"b";
    const C: &[u8] = b"c";

    fn whole(names: &[&[u8]]) -> Census {
        let census = Census::new(1);
        census.begin();
        for name in names {
            census.met(name);
            census.settled(name, 0, true, true);
        }
        census.end(|_| false);
        assert_eq!(census.by_route(), [names.len() as u64]);
        census
    }

    #[test]
    fn a_pair_that_a_round_settles_counts_once_whether_the_comparison_comes_before_it_or_after() {
        let census = whole(&[A, B]);
        census.begin();
        census.met(A);
        census.settled(A, 0, true, true);
        // StreamLag the comparison, ahead of it, and where it never comes.
        census.settled(A, 0, true, false);
        census.settled(B, 0, true, true);
        census.settled(C, 0, false, true);
        census.met(B);
        census.settled(B, 0, true, true);
        assert_eq!(census.by_route(), [2], "while it is under way the count before goes on");
        census.end(|_| false);
        assert_eq!(census.by_route(), [2]);
    }

    #[test]
    fn pairs_that_the_comparison_leaves_to_the_rounds_count_when_these_have_settled_them() {
        let census = whole(&[A, B]);
        // As after a gap: every pair was named, so the comparison takes none.
        census.begin();
        census.met(A);
        census.met(B);
        census.settled(A, 0, true, true);
        census.end(|_| false);
        assert_eq!(census.by_route(), [1]);
        census.settled(B, 0, true, true);
        assert_eq!(census.by_route(), [2]);
        census.settled(B, 0, true, false);
        assert_eq!(census.by_route(), [1]);
    }

    #[test]
    fn a_comparison_that_does_not_come_to_its_end_changes_nothing() {
        let census = whole(&[A, B]);
        census.begin();
        census.met(A);
        census.settled(A, 0, true, true);
        census.begin();
        assert_eq!(census.by_route(), [2]);
        census.settled(C, 0, false, true);
        assert_eq!(census.by_route(), [3]);
    }

    #[test]
    fn what_is_gone_from_both_sides_unheard_leaves_the_count_and_a_paused_route_keeps_its_own() {
        let census = whole(&[A, B]);
        census.begin();
        census.met(A);
        census.settled(A, 0, true, true);
        census.end(|_| false);
        assert_eq!(census.by_route(), [1]);
        census.begin();
        census.end(|route| route == 0);
        assert_eq!(census.by_route(), [1]);
    }
}
