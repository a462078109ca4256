//! The newest record of each pair: 21 bytes a pair, so that a million pairs stay below 45 MB.
//!
//! A frame has a hash of its pair too. That one has no key, so anybody can make names that share
//! it, and nothing relies on it: the names are read from the record.

use super::frame::Meta;
use crate::change::{KeyedHash, Pair};
use crate::codec::Decoder;
use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3;

/// The pair hash of a record that belongs to no pair.
pub(super) const NO_PAIR: u64 = 0;

/// By what a record's pair is known here; `None` for one that belongs to no pair. One whose names
/// cannot be read is a pair of its own, so that it stays.
pub(super) fn pair_of(decoder: &Decoder, meta: &Meta, payload: &[u8]) -> Option<KeyedHash> {
    let unread = || KeyedHash::of(&meta.pair_hash.to_le_bytes());
    (meta.pair_hash != NO_PAIR).then(|| decoder.pair_of(payload).unwrap_or_else(|_| unread()))
}

/// [`pair_of`] for a pair that is at hand.
pub(super) fn known_as(pair: &Pair) -> KeyedHash {
    KeyedHash::of_pair(pair.zookeeper.as_deref(), pair.redis.as_deref())
}

/// Hash of both names as frames have it. Absent, empty and shifted names differ.
pub(super) fn pair_hash(pair: &Pair) -> u64 {
    if pair.zookeeper.is_none() && pair.redis.is_none() {
        return NO_PAIR;
    }
    let mut hash = Xxh3::new();
    for name in [pair.zookeeper.as_ref().map(String::as_bytes), pair.redis.as_deref()] {
        let length = name.map_or(u64::MAX, |name| name.len() as u64);
        hash.update(&length.to_le_bytes());
        hash.update(name.unwrap_or_default());
    }
    // The one hash that means "no pair" becomes its neighbour.
    hash.digest().max(NO_PAIR + 1)
}

/// Where a record is: the ordinal of its segment (24 bits) and the offset in it (40 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location([u32; 2]);

/// Bits of an offset: a segment is at most a terabyte, four orders above its size.
const OFFSET_BITS: u32 = 40;
/// One past the largest ordinal: sixteen million rewritten segments in one run of the program.
const ORDINALS: u32 = 1 << (64 - OFFSET_BITS);

impl Location {
    pub fn new(ordinal: u32, offset: u64) -> Location {
        let both = u64::from(ordinal % ORDINALS) << OFFSET_BITS | offset & ((1 << OFFSET_BITS) - 1);
        // Two halves, since one number would have each entry of the index begin at a multiple of
        // eight bytes.
        Location([(both >> 32) as u32, both as u32])
    }

    fn both(self) -> u64 {
        let [high, low] = self.0;
        u64::from(high) << 32 | u64::from(low)
    }

    pub fn ordinal(self) -> u32 {
        (self.both() >> OFFSET_BITS) as u32
    }

    pub fn offset(self) -> u64 {
        self.both() & ((1 << OFFSET_BITS) - 1)
    }
}

struct Entry {
    hash: KeyedHash,
    newest: Location,
}

/// Pair -> location of the newest record.
#[derive(Default)]
pub(super) struct PairIndex {
    table: HashTable<Entry>,
}

impl PairIndex {
    pub fn get(&self, hash: KeyedHash) -> Option<Location> {
        self.table.find(hash.place(), |entry| entry.hash == hash).map(|entry| entry.newest)
    }

    /// Sets the newest record of a pair and returns the one before.
    pub fn set(&mut self, hash: KeyedHash, newest: Location) -> Option<Location> {
        match self.table.find_mut(hash.place(), |entry| entry.hash == hash) {
            Some(entry) => Some(std::mem::replace(&mut entry.newest, newest)),
            None => {
                self.table.insert_unique(hash.place(), Entry { hash, newest }, |entry| entry.hash.place());
                None
            }
        }
    }

    /// Moves a pair from `old` to `new`; false if its newest record is no longer at `old`.
    pub fn relocate(&mut self, hash: KeyedHash, old: Location, new: Location) -> bool {
        match self.table.find_mut(hash.place(), |entry| entry.hash == hash && entry.newest == old) {
            Some(entry) => {
                entry.newest = new;
                true
            }
            None => false,
        }
    }

    /// Forgets a pair if its newest record is still at `old`.
    pub fn forget(&mut self, hash: KeyedHash, old: Location) -> bool {
        match self.table.find_entry(hash.place(), |entry| entry.hash == hash && entry.newest == old) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Forgets every pair whose newest record is in one of these segments.
    pub fn forget_segments(&mut self, ordinals: &[u32]) {
        self.table.retain(|entry| !ordinals.contains(&entry.newest.ordinal()));
    }

    /// Bytes that the table has allocated.
    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        self.table.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_pairs_take_less_than_forty_five_megabytes() {
        let mut index = PairIndex::default();
        for i in 0..1_000_000_u64 {
            index.set(KeyedHash::of(&i.to_le_bytes()), Location::new(1, i));
        }
        assert!(index.allocated() <= 45_000_000, "{}", index.allocated());
        assert_eq!(index.get(KeyedHash::of(&7_u64.to_le_bytes())), Some(Location::new(1, 7)));
    }

    #[test]
    fn names_that_read_the_same_in_a_row_are_different_pairs() {
        let pair = |zookeeper: Option<&str>, redis: Option<&[u8]>| {
            pair_hash(&Pair { zookeeper: zookeeper.map(str::to_owned), redis: redis.map(<[u8]>::to_vec) })
        };
        assert_ne!(pair(Some("/a"), Some(b"b")), pair(Some("/ab"), Some(b"")));
        assert_ne!(pair(Some(""), None), pair(None, Some(b"")));
        assert_eq!(pair(None, None), NO_PAIR);
    }

    #[test]
    fn a_location_keeps_both_of_its_halves() {
        let location = Location::new(ORDINALS - 1, (1 << OFFSET_BITS) - 1);
        assert_eq!((location.ordinal(), location.offset()), (ORDINALS - 1, (1 << OFFSET_BITS) - 1));
    }
}
