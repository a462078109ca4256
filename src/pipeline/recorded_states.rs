//! Which states of a capture's pairs are on the stream: a hash for each, so that a comparison that finds nothing new reads no record.
//!
//! Filled as pairs are compared with their newest records, and as states are recorded. A pair that is not here is looked up on the
//! stream. Other pipelines need it not: what their pairs are compared with stands beside the values.

use crate::change::KeyedHash;
use crate::env::{Map, lock};
use std::sync::Mutex;

/// See the module. 32 bytes a pair, and its share of the table.
#[derive(Debug, Default)]
pub(super) struct RecordedStates(Mutex<Map<KeyedHash, KeyedHash>>);

impl RecordedStates {
    /// This state of the pair is its newest record.
    pub(super) fn put(&self, name: &[u8], state: KeyedHash) {
        lock(&self.0).insert(KeyedHash::of(name), state);
    }

    /// The pair has no value on the stream any more.
    pub(super) fn remove(&self, name: &[u8]) {
        lock(&self.0).remove(&KeyedHash::of(name));
    }

    /// Whether this state of the pair is its newest record, as far as it is known here.
    pub(super) fn is(&self, name: &[u8], state: KeyedHash) -> bool {
        lock(&self.0).get(&KeyedHash::of(name)) == Some(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_state_is_known() {
        let (states, one, other) = (RecordedStates::default(), KeyedHash::of(b"1"), KeyedHash::of(b"2"));
        assert!(!states.is(b"a", one));
        states.put(b"a", one);
        assert!(states.is(b"a", one) && !states.is(b"a", other) && !states.is(b"b", one));
        states.put(b"a", other);
        assert!(!states.is(b"a", one));
        states.remove(b"a");
        assert!(!states.is(b"a", other));
    }
}
