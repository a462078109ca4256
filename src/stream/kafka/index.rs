//! The index of pairs: of each one the newest record, in memory, without its value; and a cache of
//! recent values.

use crate::change::{Change, Digest, KeyedHash, Position, Source};
use crate::env::Map;
use crate::stream::{Latest, LatestValue};
use hashbrown::HashTable;

/// Values that are kept for `before`, in bytes: enough for the pairs that change again and again.
const CACHE_BYTES: usize = 16 << 20;
/// Larger ones are not: `before` does not repeat them.
pub(super) const CACHED_VALUE_MAX: usize = 64 << 10;

/// The newest record of a pair: 72 bytes, and its share of the table.
struct Entry {
    hash: KeyedHash,
    position: Position,
    /// Hash of the value; `None` for a delete.
    value: Option<KeyedHash>,
    znode: Option<Znode>,
    decision: Digest,
}

/// The versions of the znode that was the source of a record: such a record has both. Packed, so that
/// an entry takes 72 bytes; with the usual layout it would take 88.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(4))]
struct Znode {
    czxid: i64,
    version: i32,
}

/// The part of a record that the index has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Of the key.
    pub hash: KeyedHash,
    value: Option<KeyedHash>,
    znode: Option<Znode>,
    decision: Digest,
}

/// The versions that the source of a change has; none unless it has both.
fn znode_of(source: &Source) -> Option<Znode> {
    Some(Znode { czxid: source.czxid?, version: source.version? })
}

impl Note {
    pub fn of(key: &[u8], change: &Change) -> Note {
        Note {
            hash: KeyedHash::of(key),
            value: change.after.as_deref().map(KeyedHash::of),
            znode: znode_of(&change.source),
            decision: change.decision(),
        }
    }
}

/// Key hash -> newest record.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<Entry>,
    values: Values,
}

impl Index {
    pub fn knows(&self, hash: KeyedHash) -> bool {
        self.table.find(hash.place(), |entry| entry.hash == hash).is_some()
    }

    pub fn position(&self, hash: KeyedHash) -> Option<Position> {
        self.table.find(hash.place(), |entry| entry.hash == hash).map(|entry| entry.position)
    }

    /// Adds a record, unless a newer one of the pair is known. `value` goes into the cache.
    pub fn note(&mut self, position: Position, note: &Note, value: Option<&[u8]>) {
        let hash = note.hash;
        let Note { value: value_hash, znode, decision, .. } = *note;
        let entry = Entry { hash, position, value: value_hash, znode, decision };
        match self.table.find_mut(hash.place(), |entry| entry.hash == hash) {
            Some(known) if known.position >= position => return,
            Some(known) => *known = entry,
            None => {
                self.table.insert_unique(hash.place(), entry, |entry| entry.hash.place());
            }
        }
        self.values.put(hash, value);
    }

    /// The pair's records before this position are gone, or will be: compaction met its tombstone.
    pub fn end(&mut self, position: Position, hash: KeyedHash) {
        if let Ok(known) = self.table.find_entry(hash.place(), |entry| entry.hash == hash && entry.position < position)
            && known.get().value.is_some()
        {
            known.remove();
            self.values.put(hash, None);
        }
    }

    pub fn latest(&mut self, hash: KeyedHash) -> Option<Latest> {
        let entry = self.table.find(hash.place(), |entry| entry.hash == hash)?;
        let after = match entry.value {
            None => LatestValue::Absent,
            Some(value) => match self.values.get(hash).filter(|kept| KeyedHash::of(kept) == value) {
                Some(kept) => LatestValue::Kept(kept.to_vec()),
                None => LatestValue::Hash(value),
            },
        };
        let Entry { position, znode, decision, .. } = *entry;
        let (czxid, version) = znode.map(|znode| (znode.czxid, znode.version)).unzip();
        Some(Latest { position, after, czxid, version, decision })
    }
}

/// Values by key hash, in two generations: when the young one is half of all, the old one goes.
#[derive(Default)]
struct Values {
    young: Map<KeyedHash, Box<[u8]>>,
    young_bytes: usize,
    old: Map<KeyedHash, Box<[u8]>>,
}

impl Values {
    fn put(&mut self, hash: KeyedHash, value: Option<&[u8]>) {
        self.old.remove(&hash);
        if let Some(before) = self.young.remove(&hash) {
            self.young_bytes -= before.len();
        }
        let Some(value) = value.filter(|value| value.len() <= CACHED_VALUE_MAX) else { return };
        self.young_bytes += value.len();
        self.young.insert(hash, value.into());
        // Small values cost more than their bytes: count the entry as well.
        if self.young_bytes + self.young.len() * 64 > CACHE_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn get(&mut self, hash: KeyedHash) -> Option<&[u8]> {
        if !self.young.contains_key(&hash)
            && let Some(value) = self.old.remove(&hash)
        {
            self.put(hash, Some(&value));
        }
        self.young.get(&hash).or_else(|| self.old.get(&hash)).map(|value| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::hash::tests::MEETING;

    fn pair_of(number: u64) -> KeyedHash {
        KeyedHash::of(&number.to_le_bytes())
    }

    fn note(pair: u64, value: Option<&[u8]>) -> Note {
        Note {
            hash: pair_of(pair),
            value: value.map(KeyedHash::of),
            znode: Some(Znode { czxid: 3, version: 1 }),
            decision: Digest::of(b""),
        }
    }

    fn put(index: &mut Index, position: Position, pair: u64, value: Option<&[u8]>) {
        index.note(position, &note(pair, value), value);
    }

    #[test]
    fn a_pair_takes_72_bytes_and_its_share_of_the_table() {
        assert_eq!(size_of::<Entry>(), 72);
    }

    #[test]
    fn the_newest_record_counts_in_whatever_order_they_come() {
        let mut index = Index::default();
        put(&mut index, 5, 1, Some(b"new"));
        put(&mut index, 2, 1, Some(b"old"));
        assert_eq!(
            index.latest(pair_of(1)).map(|latest| (latest.position, latest.after)),
            Some((5, LatestValue::Kept(b"new".to_vec())))
        );
        put(&mut index, 6, 1, None);
        assert_eq!(index.latest(pair_of(1)).map(|latest| latest.after), Some(LatestValue::Absent));
    }

    #[test]
    fn a_value_that_is_no_longer_at_hand_is_still_told_from_others() {
        let mut index = Index::default();
        let large = vec![7; CACHED_VALUE_MAX];
        put(&mut index, 1, 0, Some(b"first"));
        for i in 1..=600 {
            put(&mut index, i + 1, i, Some(&large));
        }
        assert!(index.values.young_bytes <= CACHE_BYTES);
        let Some(latest) = index.latest(pair_of(0)) else { return assert!(index.knows(pair_of(0))) };
        assert_eq!(latest.after, LatestValue::Hash(KeyedHash::of(b"first")));
        assert!(latest.after.is(Some(b"first")) && !latest.after.is(Some(b"other")) && !latest.after.is(None));
    }

    #[test]
    fn a_delete_stays_known_when_its_tombstone_follows_and_a_pair_without_one_goes() {
        let mut index = Index::default();
        put(&mut index, 1, 1, Some(b"v"));
        put(&mut index, 2, 1, None);
        index.end(3, pair_of(1));
        assert!(index.knows(pair_of(1)));
        put(&mut index, 4, 2, Some(b"v"));
        index.end(3, pair_of(2));
        assert!(index.knows(pair_of(2)));
        index.end(5, pair_of(2));
        assert!(!index.knows(pair_of(2)));
    }

    #[test]
    fn keys_that_were_made_to_meet_are_pairs_of_their_own() {
        let mut index = Index::default();
        let hashes = MEETING.map(|name| KeyedHash::of(name.as_bytes()));
        for (position, hash) in (1..).zip(hashes) {
            let value = Some(KeyedHash::of(b"v"));
            index.note(position, &Note { hash, value, znode: None, decision: Digest::of(b"") }, Some(b"v"));
        }
        let positions = hashes.map(|hash| index.position(hash));
        assert_eq!(positions, [Some(1), Some(2), Some(3), Some(4)]);
    }
}
