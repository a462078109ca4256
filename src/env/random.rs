//! Numbers that nobody can foretell, and tables that are keyed with them.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here randomness is asked for, and nowhere else"
)]

use super::world;
use foldhash::fast::{FixedState, FoldHasher};
use std::hash::{BuildHasher, DefaultHasher, Hasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A number that is another one at each call.
#[must_use]
pub fn number() -> u64 {
    // Keyed by the operating system, and each with another key than the one before.
    world::here().map_or_else(|| RandomState::new().build_hasher().finish(), |world| world.number())
}

/// A part of one: at least 0, below 1.
#[must_use]
pub fn fraction() -> f64 {
    // As many bits as the number has.
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Whether the keys below are known, which a simulator needs so that each of its processes does the same.
static KNOWN: AtomicBool = AtomicBool::new(false);

/// The keys of this process' hashes are known from here on. Called before anything is hashed, by a simulator: names that were made to
/// meet would meet.
pub fn know_keys() {
    KNOWN.store(true, Ordering::Relaxed);
}

/// A key for hashes that others must not be able to foretell.
#[derive(Debug)]
pub struct HashKey(Option<RandomState>);

impl HashKey {
    /// Another one at each call.
    #[must_use]
    pub fn new() -> HashKey {
        HashKey((!KNOWN.load(Ordering::Relaxed)).then(RandomState::new))
    }

    /// Begins a hash (SipHash).
    #[must_use]
    pub fn hasher(&self) -> DefaultHasher {
        self.0.as_ref().map_or_else(DefaultHasher::new, BuildHasher::build_hasher)
    }
}

impl Default for HashKey {
    fn default() -> HashKey {
        HashKey::new()
    }
}

static KEY: LazyLock<FixedState> =
    LazyLock::new(|| FixedState::with_seed(if KNOWN.load(Ordering::Relaxed) { 1 } else { number() }));

/// Hashes with one key for the whole process, which is another one in each: names are chosen by whoever writes to the stores, and must
/// not be able to meet on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        KEY.build_hasher()
    }
}

/// A table whose order depends on nothing but that key. It is still no order: sort what leaves a function.
pub type Map<K, V> = hashbrown::HashMap<K, V, Keyed>;

/// As [`Map`].
pub type Set<T> = hashbrown::HashSet<T, Keyed>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_tables_hold() {
        let all: Set<u64> = (0..1000).map(|_| number()).collect();
        assert_eq!(all.len(), 1000);
        assert!((0..1000).map(|_| fraction()).all(|part| (0.0..1.0).contains(&part)));
        let map: Map<&str, u8> = [("a", 1), ("b", 2)].into_iter().collect();
        assert_eq!((map.get("a"), map.get("b"), map.get("c")), (Some(&1), Some(&2), None));
    }
}
