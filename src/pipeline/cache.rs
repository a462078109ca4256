//! A bounded cache of the bases of pairs: it spares reads and writes, and nothing depends on it.
//!
//! A base from here is only ever a guess that a compare-and-set checks. Pairs are kept by the
//! [`KeyedHash`] of their name alone. About 95 bytes a pair.

use crate::change::KeyedHash;
use crate::env::lock;
use crate::plan::{Base, Known};
use hashbrown::HashTable;
use std::sync::{Mutex, MutexGuard};

/// Pairs kept at most: 135 MB when full. Beyond it, a pair that is new takes the place of another.
pub const PAIRS_MAX: usize = 1_500_000;

#[derive(Debug, Default)]
struct Inner {
    index: HashTable<u32>,
    slots: Vec<(KeyedHash, Base)>,
    hand: usize,
    /// Every pair that has a base is here: set by a comparison, cleared when one is pushed out.
    complete: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Cache {
    inner: Mutex<Inner>,
    pairs_max: usize,
}

impl Cache {
    /// A cache of at most this many pairs; 0 switches it off.
    #[must_use]
    pub fn new(pairs_max: usize) -> Cache {
        Cache { inner: Mutex::default(), pairs_max }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// What is known of this pair.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Known {
        let hash = KeyedHash::of(name);
        let inner = self.inner();
        let slots = &inner.slots;
        let at = inner.index.find(hash.place(), |at| slots.get(as_index(*at)).is_some_and(|slot| slot.0 == hash));
        match at.and_then(|at| slots.get(as_index(*at))) {
            Some((_, base)) => Known::Base(*base),
            None if inner.complete => Known::None,
            None => Known::Unknown,
        }
    }

    /// Notes a pair's base, or that it has none.
    pub fn put(&self, name: &[u8], base: Option<Base>) {
        let hash = KeyedHash::of(name);
        let mut inner = self.inner();
        let Inner { index, slots, hand, complete } = &mut *inner;
        let known = index.find_entry(hash.place(), |at| slots.get(as_index(*at)).is_some_and(|slot| slot.0 == hash));
        match (known, base) {
            (Ok(entry), Some(base)) => {
                if let Some(slot) = slots.get_mut(as_index(*entry.get())) {
                    slot.1 = base;
                }
            }
            (Ok(entry), None) => {
                let (at, _) = entry.remove();
                remove(index, slots, as_index(at));
            }
            (Err(_), None) => {}
            (Err(_), Some(base)) => {
                if self.pairs_max == 0 {
                    return;
                }
                if slots.len() >= self.pairs_max {
                    *complete = false;
                    *hand = (*hand + 7919) % slots.len();
                    let at = *hand;
                    if let Some(old) = slots.get(at).map(|slot| slot.0)
                        && let Ok(entry) = index.find_entry(old.place(), |other| as_index(*other) == at)
                    {
                        entry.remove();
                        remove(index, slots, at);
                    }
                }
                slots.push((hash, base));
                let at = u32::try_from(slots.len() - 1).unwrap_or(u32::MAX);
                index.insert_unique(hash.place(), at, |at| slots.get(as_index(*at)).map_or(0, |slot| slot.0.place()));
            }
        }
    }

    /// A comparison has put every base here: a pair that is not here has none.
    pub fn set_complete(&self, complete: bool) {
        self.inner().complete = complete && self.pairs_max > 0;
    }
}

fn as_index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// Takes a slot out whose index entry is already gone; the last slot takes its place.
fn remove(index: &mut HashTable<u32>, slots: &mut Vec<(KeyedHash, Base)>, at: usize) {
    let last = slots.len() - 1;
    slots.swap_remove(at);
    if at != last
        && let Some(moved) = slots.get(at).map(|slot| slot.0)
        && let Some(place) = index.find_mut(moved.place(), |other| as_index(*other) == last)
    {
        *place = u32::try_from(at).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Digest;

    fn base(sequence: u32) -> Base {
        Base {
            sequence,
            zookeeper: None,
            redis: Some(Digest::EMPTY),
            expires_ms: None,
            ephemeral: false,
            apart: false,
            unverified: false,
            left: false,
            lost: false,
            path_id: 0,
            ensemble: 0,
        }
    }

    #[test]
    fn it_answers_what_was_put_and_stays_within_its_bound() {
        let cache = Cache::new(100);
        for number in 0..1000_u32 {
            cache.put(&number.to_be_bytes(), Some(base(number)));
            assert_eq!(cache.get(&number.to_be_bytes()), Known::Base(base(number)));
        }
        let known = (0..1000_u32).filter(|number| cache.get(&number.to_be_bytes()) != Known::Unknown).count();
        assert_eq!(known, 100);
        for number in 0..1000_u32 {
            cache.put(&number.to_be_bytes(), None);
            assert_eq!(cache.get(&number.to_be_bytes()), Known::Unknown);
        }
    }

    #[test]
    fn an_absent_pair_has_no_base_only_while_all_are_known() {
        let cache = Cache::new(2);
        cache.set_complete(true);
        assert_eq!(cache.get(b"a"), Known::None);
        for name in [b"a", b"b", b"c"] {
            cache.put(name, Some(base(1)));
        }
        assert_eq!(cache.get(b"x"), Known::Unknown);
    }
}
