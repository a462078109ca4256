//! Where a key's sidecar lives: a bucket whose tag lies in the key's own cluster slot.
//!
//! One script may only touch keys of one slot on a cluster, and value and sidecar must change in one script. Wrapping
//! the key itself (`{key}`) fails for keys that carry tags or braces of their own, so every slot has a tag of its own:
//! the shortest base-36 string that hashes to it.

use std::sync::LazyLock;

const SLOTS: usize = 16_384;

/// CRC-16/XMODEM, the one that Redis Cluster uses.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let mut crc = crc ^ (u16::from(*byte) << 8);
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
        crc
    })
}

/// The cluster slot of a key, by the rule of `keyHashSlot` in `cluster.c`: the text between the first `{` and the next
/// `}` decides, if it is not empty.
fn slot(key: &[u8]) -> usize {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    usize::from(crc16(tag.unwrap_or(key))) % SLOTS
}

/// A tag for every slot: the same for all pipelines. 60,822 short strings are enough to find them, in about 20 ms.
static TAGS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut found = vec![Vec::new(); SLOTS];
    let mut missing = SLOTS;
    let mut tags: std::collections::VecDeque<Vec<u8>> = DIGITS.iter().map(|digit| vec![*digit]).collect();
    while missing > 0 {
        let Some(tag) = tags.pop_front() else { break };
        if tag.len() < 5 {
            tags.extend(DIGITS.iter().map(|digit| [tag.as_slice(), &[*digit]].concat()));
        }
        if let Some(place) = found.get_mut(usize::from(crc16(&tag)) % SLOTS).filter(|place| place.is_empty()) {
            *place = tag;
            missing -= 1;
        }
    }
    found
});

/// The names of all buckets of a pipeline.
pub(super) struct Buckets {
    prefix: Vec<u8>,
}

impl Buckets {
    pub(super) fn new(pipeline: &str) -> Buckets {
        Buckets { prefix: prefix(pipeline) }
    }

    /// Bytes of the longest name: a tag has at most five letters.
    pub(super) fn longest(&self) -> usize {
        self.prefix.len() + 5 + 1
    }

    /// The bucket of this key.
    pub(super) fn of(&self, key: &[u8]) -> Vec<u8> {
        let tag = TAGS.get(slot(key)).map(Vec::as_slice).unwrap_or_default();
        [self.prefix.as_slice(), tag, b"}"].concat()
    }
}

/// What the names of a pipeline's buckets begin with.
pub(super) fn prefix(pipeline: &str) -> Vec<u8> {
    format!("_keepstep:{pipeline}:{{").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // From the specification of Redis Cluster, and `CLUSTER KEYSLOT` of 7.0.15.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"foo{}{bar}"), usize::from(crc16(b"foo{}{bar}")) % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), usize::from(crc16(b"{bar")) % SLOTS);
    }

    #[test]
    fn every_key_has_a_bucket_in_its_own_slot() {
        let buckets = Buckets::new("p");
        for key in [&b""[..], b"a", b"a}b", b"{}x", b"{tag}x", b"}{", b"settings:db:host", b"\xff\x00{"] {
            assert_eq!(slot(&buckets.of(key)), slot(key), "{key:?}");
        }
        assert!(TAGS.iter().all(|tag| !tag.is_empty()));
    }
}
