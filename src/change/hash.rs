//! Names and values that are known by their hash alone.

use crate::env::random::HashKey;
use std::hash::Hasher as _;
use std::sync::LazyLock;

/// A new key for each process, from the operating system's randomness. It never leaves it: neither hash nor key is written anywhere.
static KEY: LazyLock<HashKey> = LazyLock::new(HashKey::new);

/// What stands for a name (or a value) where keeping the name itself would cost too much memory: equal hashes mean equal names.
///
/// Names come from whoever may write to the stores, so they may be chosen to meet: of a hash without a key anybody can make names
/// that share it (of XXH3 in microseconds). So it is keyed (SipHash), and has 96 bits: that any two of ten million names
/// meet by chance has a probability of 10^-15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyedHash([u32; 3]);

impl KeyedHash {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> KeyedHash {
        KeyedHash::of_parts(&[Some(bytes)])
    }

    /// Of both names of a pair. Absent, empty and shifted names differ.
    #[must_use]
    pub fn of_pair(zookeeper: Option<&str>, redis: Option<&[u8]>) -> KeyedHash {
        KeyedHash::of_parts(&[zookeeper.map(str::as_bytes), redis])
    }

    /// The part of it by which a table places it.
    #[must_use]
    pub fn place(self) -> u64 {
        let [first, second, _] = self.0;
        u64::from(first) << 32 | u64::from(second)
    }

    fn of_parts(parts: &[Option<&[u8]>]) -> KeyedHash {
        // Two hashes of one key over different beginnings: each looks random to whoever does not know the key.
        let [first, second] = [0_u8, 1].map(|beginning| {
            let mut hasher = KEY.hasher();
            hasher.write_u8(beginning);
            for part in parts {
                hasher.write_u64(part.map_or(u64::MAX, |part| part.len() as u64));
                hasher.write(part.unwrap_or_default());
            }
            hasher.finish()
        });
        KeyedHash([(first >> 32) as u32, first as u32, second as u32])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Four of many names that have one hash with 64 bits and without a key (XXH3). It adds up what each sixteen bytes give, so
    /// a meeting of sums of four is found in half a minute (Wagner's generalized birthday).
    pub(crate) const MEETING: [&str; 4] = [
        "r:......4s4pd...........qxlta...........vszhf...........fd3da...",
        "r:......gtwcg...........uvc2a...........qw1na...........possa...",
        "r:......ghxbc...........aerid...........vcx4a...........1gita...",
        "r:......zhn2g...........ulgxa...........smxve...........vfyya...",
    ];

    #[test]
    fn names_that_were_made_to_meet_do_not() {
        let mut unkeyed = MEETING.map(|name| xxhash_rust::xxh3::xxh3_64(name.as_bytes())).to_vec();
        unkeyed.dedup();
        assert_eq!(unkeyed.len(), 1, "they meet where the hash has no key: {unkeyed:x?}");
        let mut keyed = MEETING.map(|name| KeyedHash::of(name.as_bytes())).to_vec();
        assert_eq!(keyed, MEETING.map(|name| KeyedHash::of(name.as_bytes())));
        keyed.sort_unstable();
        keyed.dedup();
        assert_eq!(keyed.len(), 4);
    }

    #[test]
    fn names_that_read_the_same_in_a_row_are_different_pairs() {
        let pair = |zookeeper: Option<&str>, redis: Option<&[u8]>| KeyedHash::of_pair(zookeeper, redis);
        assert_ne!(pair(Some("/a"), Some(b"b")), pair(Some("/ab"), Some(b"")));
        assert_ne!(pair(Some(""), None), pair(None, Some(b"")));
        assert_ne!(pair(Some("/a"), None), KeyedHash::of(b"/a"));
    }
}
