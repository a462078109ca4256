//! Keyspace events by pair, where a rule asks how often a key changed. Only pairs whose key changed since they were agreed on take memory.

use crate::change::KeyedHash;
use crate::env::{Map, lock};
use std::sync::{Mutex, MutexGuard};

/// Pairs that are counted at most: 18 MB. Beyond it nothing is told of any until the next comparison, and the rule answers that it
/// cannot tell.
const PAIRS_MAX: usize = 500_000;

#[derive(Debug, Default)]
struct Inner {
    /// Events of each pair less those that a base covers. Negative while the event of a write of ours is still on its way; a pair
    /// that is at 0 is not here.
    counts: Map<KeyedHash, i32>,
    /// How often all was forgotten.
    lapses: u64,
    /// Every event since some comparison began is counted.
    is_whole: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Counts {
    inner: Mutex<Inner>,
    pairs_max: usize,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { inner: Mutex::default(), pairs_max: PAIRS_MAX }
    }
}

impl Inner {
    fn add(&mut self, name: &[u8], by: i32, pairs_max: usize) {
        if by == 0 {
            return;
        }
        let name = KeyedHash::of(name);
        let count = self.counts.get(&name).map_or(0, |count| *count).saturating_add(by);
        if count == 0 {
            self.counts.remove(&name);
            return;
        }
        self.counts.insert(name, count);
        if self.counts.len() > pairs_max {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.counts = Map::default();
        self.lapses += 1;
        self.is_whole = false;
    }
}

impl Counts {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The key has changed once more.
    pub(super) fn changed(&self, name: &[u8]) {
        self.inner().add(name, 1, self.pairs_max);
    }

    /// Changes of this key since its base, as counted so far. To be asked before the key is read.
    pub(super) fn of(&self, name: &[u8]) -> i32 {
        self.inner().counts.get(&KeyedHash::of(name)).map_or(0, |count| *count)
    }

    /// The pair was agreed on as it was when so many changes were counted ([`Counts::of`]), by so many writes of our own, whose events
    /// may be still to come.
    pub(super) fn agreed(&self, name: &[u8], counted: i32, own: i32) {
        self.inner().add(name, counted.saturating_add(own).saturating_neg(), self.pairs_max);
    }

    /// Changes of this key since its base; `None` if they could not all be counted.
    pub(super) fn since_base(&self, name: &[u8]) -> Option<u32> {
        let inner = self.inner();
        let count = inner.counts.get(&KeyedHash::of(name)).map_or(0, |count| *count);
        inner.is_whole.then(|| u32::try_from(count).unwrap_or(0))
    }

    /// Events were lost: nothing can be told until a comparison that begins from here on has ended.
    pub(super) fn lost_events(&self) {
        self.inner().forget();
    }

    /// A mark for [`Counts::compared`].
    pub(super) fn mark(&self) -> u64 {
        self.inner().lapses
    }

    /// A comparison has ended that began at this mark: what it agreed on is counted from there.
    pub(super) fn compared(&self, begun: u64) {
        let mut inner = self.inner();
        inner.is_whole = inner.lapses == begun;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pairs_max: usize) -> Counts {
        let counts = Counts { pairs_max, ..Counts::default() };
        counts.compared(counts.mark());
        counts
    }

    fn pairs(counts: &Counts) -> usize {
        counts.inner().counts.len()
    }

    #[test]
    fn a_pair_that_is_agreed_on_takes_no_memory() {
        let counts = whole(10);
        for number in 0..1000_u32 {
            let name = number.to_be_bytes();
            counts.changed(&name);
            counts.changed(&name);
            assert_eq!(counts.since_base(&name), Some(2));
            counts.agreed(&name, counts.of(&name), 0);
            assert_eq!(counts.since_base(&name), Some(0));
        }
        assert_eq!(pairs(&counts), 0);
        assert_eq!(counts.since_base(b"another"), Some(0), "nothing was forgotten");
    }

    #[test]
    fn the_event_of_our_own_write_is_no_change_whether_it_comes_before_or_after() {
        let counts = whole(10);
        let observed = counts.of(b"a");
        // An application's write while ours is under way.
        counts.changed(b"a");
        counts.agreed(b"a", observed, 1);
        assert_eq!(counts.since_base(b"a"), Some(0), "our own event is still to come");
        counts.changed(b"a");
        assert_eq!(counts.since_base(b"a"), Some(1));
        let observed = counts.of(b"b");
        counts.changed(b"b");
        counts.agreed(b"b", observed, 1);
        assert_eq!(counts.since_base(b"b"), Some(0));
        assert_eq!(pairs(&counts), 1);
    }

    #[test]
    fn too_many_pairs_to_count_cannot_be_told_until_the_next_comparison() {
        let counts = whole(10);
        for number in 0..11_u32 {
            counts.changed(&number.to_be_bytes());
        }
        assert_eq!((pairs(&counts), counts.since_base(b"a")), (0, None));
        let begun = counts.mark();
        counts.changed(b"a");
        counts.compared(begun);
        assert_eq!(counts.since_base(b"a"), Some(1));
    }

    #[test]
    fn a_comparison_in_which_events_were_lost_begins_no_count() {
        let counts = whole(10);
        let begun = counts.mark();
        counts.lost_events();
        counts.compared(begun);
        assert_eq!(counts.since_base(b"a"), None);
    }
}
