//! Where a key's sidecar lives: a bucket whose tag lies in the key's own cluster slot.
//!
//! One script may only touch keys of one slot on a cluster, and value and sidecar must change in
//! one script. Wrapping the key itself (`{key}`) fails for keys that carry tags or braces of their
//! own, so every slot has a tag of its own: the shortest base-36 string that hashes to it.

use std::sync::LazyLock;

const SLOTS: usize = 16_384;

/// What each byte does to a CRC-16/XMODEM, the one that Redis Cluster uses.
static CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "computed by the compiler, which checks it")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
};

/// The CRC of what has this one and is followed by this byte.
fn crc16_on(crc: u16, byte: u8) -> u16 {
    let [high, low] = crc.to_be_bytes();
    u16::from(low) << 8 ^ CRC16.get(usize::from(high ^ byte)).copied().unwrap_or(0)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| crc16_on(crc, *byte))
}

/// The cluster slot of a key, by the rule of `keyHashSlot` in `cluster.c`: the text between the
/// first `{` and the next `}` decides, if it is not empty.
fn slot(key: &[u8]) -> usize {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    usize::from(crc16(tag.unwrap_or(key))) % SLOTS
}

/// A tag of at most this length for every slot: 60,822 short strings are enough to find one each.
const TAG_MAX: usize = 4;

/// The tags, each with its length. The same for all pipelines.
static TAGS: LazyLock<Vec<([u8; TAG_MAX], u8)>> = LazyLock::new(|| {
    let mut tags = Tags { found: vec![([0; TAG_MAX], 0); SLOTS], missing: SLOTS };
    for length in 1..=TAG_MAX {
        tags.find([0; TAG_MAX], 0, length, 0);
    }
    tags.found
});

struct Tags {
    found: Vec<([u8; TAG_MAX], u8)>,
    missing: usize,
}

impl Tags {
    /// Notes the tags of this length that begin with the first `begun` bytes of `tag`, whose CRC is
    /// `crc`, in their order.
    fn find(&mut self, tag: [u8; TAG_MAX], begun: usize, length: usize, crc: u16) {
        for digit in *b"0123456789abcdefghijklmnopqrstuvwxyz" {
            if self.missing == 0 {
                return;
            }
            let (mut tag, crc) = (tag, crc16_on(crc, digit));
            if let Some(place) = tag.get_mut(begun) {
                *place = digit;
            }
            if begun + 1 < length {
                self.find(tag, begun + 1, length, crc);
            } else if let Some(place) = self.found.get_mut(usize::from(crc) % SLOTS).filter(|(_, length)| *length == 0)
            {
                *place = (tag, length as u8);
                self.missing -= 1;
            }
        }
    }
}

fn tag_of(slot: usize) -> &'static [u8] {
    TAGS.get(slot).and_then(|(tag, length)| tag.get(..usize::from(*length))).unwrap_or_default()
}

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
        [self.prefix.as_slice(), tag_of(slot(key)), b"}"].concat()
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
        assert!((0..SLOTS).all(|slot| !tag_of(slot).is_empty()));
    }

    #[test]
    fn the_tags_are_the_shortest_of_each_slot_and_the_first_in_order() {
        // Buckets are found by them again: as they were first made, from a queue of all strings by
        // length, then by order.
        let digits = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let bitwise = |tag: &[u8]| {
            let bits = tag.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
            bits.fold(0_u16, |crc, bit| (crc << 1) ^ if (crc >> 15) ^ bit == 1 { 0x1021 } else { 0 })
        };
        let mut found = vec![Vec::new(); SLOTS];
        let mut tags: std::collections::VecDeque<Vec<u8>> = digits.iter().map(|digit| vec![*digit]).collect();
        for _ in 0..60_822 {
            let tag = tags.pop_front().unwrap_or_default();
            tags.extend(digits.iter().map(|digit| [tag.as_slice(), &[*digit]].concat()));
            if let Some(place) = found.get_mut(usize::from(bitwise(&tag)) % SLOTS).filter(|place| place.is_empty()) {
                *place = tag;
            }
        }
        assert!(found.iter().enumerate().all(|(slot, tag)| tag.as_slice() == tag_of(slot)));
    }
}
