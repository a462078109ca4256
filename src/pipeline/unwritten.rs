//! Changes that are on the stream and of which nobody knows that they were written: until a pair is settled, its newest record may be a
//! state that it never came to have.
//!
//! ```text
//!   a batch is put on the stream   appending       from the first position that it may get
//!   it was taken, writes begin     waits           the pair, by the position of its record
//!   the write is done, or the      settled
//!   stream has what is there now
//! ```
//!
//! Everything below the first position that waits is written: that number is remembered in Redis. The next owner, whoever it is, reads
//! from there on which pairs its first comparison has to compare with their newest record ([`super::behind`]). Nothing else would: a
//! change that was recorded, refused by a store, and taken back after a restart would stay the pair's newest record for ever.
//! What is in quarantine, or has no route at present, stays: it may have one again.

use crate::change::{KeyedHash, Position};
use crate::env::{Map, lock};
use std::sync::{Mutex, MutexGuard};

/// See the module. Bounded by the pairs.
#[derive(Debug, Default)]
pub(super) struct Unwritten(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    appending: Vec<Position>,
    waits: Map<KeyedHash, Waits>,
}

#[derive(Debug, Clone, Copy)]
struct Waits {
    position: Position,
    /// An owner before has recorded it.
    is_left: bool,
    /// It was written once: a store has lost it since.
    was_written: bool,
}

/// A batch on its way to the stream.
#[derive(Debug)]
pub(super) struct Appending<'a>(&'a Unwritten, Position);

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        if let Some(at) = inner.appending.iter().position(|from| *from == self.1) {
            inner.appending.swap_remove(at);
        }
    }
}

impl Unwritten {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    /// A batch is put on the stream, whose last position is `last` now. Held until its records are noted.
    pub(super) fn appending(&self, last: Position) -> Appending<'_> {
        let from = last + 1;
        self.inner().appending.push(from);
        Appending(self, from)
    }

    /// The pair's newest record has this position, and its write begins.
    pub(super) fn recorded(&self, name: &[u8], position: Position) {
        self.inner().waits.insert(KeyedHash::of(name), Waits { position, is_left: false, was_written: false });
    }

    /// The same, and the record was written before: a store has lost it.
    pub(super) fn restored(&self, name: &[u8], position: Position) {
        self.inner().waits.insert(KeyedHash::of(name), Waits { position, is_left: false, was_written: true });
    }

    /// An owner before has left this record, and may not have written it.
    pub(super) fn left(&self, name: &[u8], position: Position) {
        self.inner().waits.insert(KeyedHash::of(name), Waits { position, is_left: true, was_written: false });
    }

    /// The stores have what the pair's newest record says.
    pub(super) fn settled(&self, name: &[u8]) {
        let mut inner = self.inner();
        if !inner.waits.is_empty() {
            inner.waits.remove(&KeyedHash::of(name));
        }
    }

    /// Whether the pair's newest record may be a state that it never came to have.
    pub(super) fn holds(&self, name: &[u8]) -> bool {
        let inner = self.inner();
        !inner.waits.is_empty() && inner.waits.contains_key(&KeyedHash::of(name))
    }

    /// Whether this ownership has put the pair's newest record on the stream, and nobody has written it since.
    pub(super) fn was_recorded_only(&self, name: &[u8]) -> bool {
        let inner = self.inner();
        let waits = inner.waits.get(&KeyedHash::of(name));
        waits.is_some_and(|waits| !waits.is_left && !waits.was_written)
    }

    /// Of a record that waits: whether it was written once.
    pub(super) fn was_written(&self, name: &[u8]) -> Option<bool> {
        let inner = self.inner();
        if inner.waits.is_empty() {
            return None;
        }
        inner.waits.get(&KeyedHash::of(name)).map(|waits| waits.was_written)
    }

    /// The first record that an owner before has left, if any is.
    pub(super) fn left_from(&self) -> Option<Position> {
        self.inner().waits.values().filter(|waits| waits.is_left).map(|waits| waits.position).min()
    }

    /// Everything below this is written. `last`: the last position of the stream, asked before this.
    pub(super) fn up_to(&self, last: Position) -> Position {
        let inner = self.inner();
        let waiting = inner.waits.values().map(|waits| waits.position);
        inner.appending.iter().copied().chain(waiting).min().unwrap_or(last + 1).min(last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_written_below_the_first_change_that_waits_or_is_on_its_way() {
        let unwritten = Unwritten::default();
        assert_eq!(unwritten.up_to(9), 10);
        let appending = unwritten.appending(9);
        assert_eq!(unwritten.up_to(12), 10, "it may have been taken already");
        unwritten.recorded(b"a", 10);
        unwritten.recorded(b"b", 11);
        drop(appending);
        assert_eq!((unwritten.up_to(12), unwritten.holds(b"a"), unwritten.holds(b"c")), (10, true, false));
        unwritten.settled(b"a");
        assert_eq!(unwritten.up_to(12), 11);
        unwritten.settled(b"b");
        assert_eq!(unwritten.up_to(12), 13);
    }

    #[test]
    fn what_is_restored_waits_and_stays_known_as_written_until_it_is_recorded_anew() {
        let unwritten = Unwritten::default();
        assert_eq!(unwritten.was_written(b"a"), None);
        unwritten.restored(b"a", 7);
        assert_eq!((unwritten.was_written(b"a"), unwritten.holds(b"a"), unwritten.up_to(9)), (Some(true), true, 7));
        unwritten.recorded(b"a", 10);
        assert_eq!(unwritten.was_written(b"a"), Some(false));
    }

    #[test]
    fn what_an_owner_before_left_stays_until_it_is_settled() {
        let unwritten = Unwritten::default();
        for (name, position) in [("settled", 5), ("elsewhere", 6)] {
            unwritten.left(name.as_bytes(), position);
        }
        unwritten.settled(b"settled");
        unwritten.recorded(b"own", 20);
        assert_eq!((unwritten.left_from(), unwritten.up_to(30)), (Some(6), 6));
        unwritten.settled(b"elsewhere");
        assert_eq!((unwritten.left_from(), unwritten.up_to(30)), (None, 20));
    }
}
