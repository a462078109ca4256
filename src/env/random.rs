//! Numbers that nobody can foretell, and tables that are keyed with them.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here randomness is asked for, and nowhere else"
)]

use foldhash::fast::{FixedState, FoldHasher};
use std::hash::{BuildHasher, Hasher as _};
use std::sync::LazyLock;

/// A number that is another one at each call.
#[must_use]
pub fn number() -> u64 {
    // Keyed by the operating system, and each with another key than the one before.
    std::hash::RandomState::new().build_hasher().finish()
}

/// A part of one: at least 0, below 1.
#[must_use]
pub fn fraction() -> f64 {
    // As many bits as the number has.
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A key for hashes that others must not be able to foretell, another one at each call.
#[must_use]
pub fn hash_key() -> std::hash::RandomState {
    std::hash::RandomState::new()
}

static KEY: LazyLock<FixedState> = LazyLock::new(|| FixedState::with_seed(number()));

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
