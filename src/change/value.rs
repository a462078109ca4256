//! Values: their canonical digest, and how their bytes read.

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// SHA-1 of a canonical value. SHA-1 because that is what a Redis script can compute of the value it is about to
/// replace (`redis.sha1hex`); it tells states apart, it is no defence against forgery.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 20]);

impl Digest {
    /// Of the empty value.
    pub const EMPTY: Digest = Digest([
        0xda, 0x39, 0xa3, 0xee, 0x5e, 0x6b, 0x4b, 0x0d, 0x32, 0x55, 0xbf, 0xef, 0x95, 0x60, 0x18, 0x90, 0xaf, 0xd8,
        0x07, 0x09,
    ]);

    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha1::digest(bytes).into())
    }

    /// As 40 lower-case hexadecimal digits, the form of `redis.sha1hex`.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(40);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0')));
            }
        }
        text
    }

    /// From 40 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &[u8]) -> Option<Digest> {
        let mut bytes = [0_u8; 20];
        if text.len() != 40 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.hex())
    }
}

/// How a route's values read (`value:` in the pipeline file).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ValueKind {
    /// The same bytes on both sides.
    #[default]
    String,
    /// A JSON object in the znode.
    Hash,
    /// A JSON array in the znode.
    List,
    /// A JSON array in the znode, sorted by bytes.
    Set,
    /// A JSON array of `[member, score]` in the znode.
    Zset,
    /// One child znode a field.
    Children,
    /// Redis configuration.
    Config,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_constant() {
        assert_eq!(Digest::of(b""), Digest::EMPTY);
    }

    #[test]
    fn a_digest_reads_back_from_its_hexadecimal_form() {
        let digest = Digest::of(b"v1");
        assert_eq!(Digest::from_hex(digest.hex().as_bytes()), Some(digest));
        assert_eq!(Digest::from_hex(b"nothex"), None);
    }
}
