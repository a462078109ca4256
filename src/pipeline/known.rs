//! What the stream says last of each pair of a capture.

use super::hint::PairName;
use crate::change::Digest;
use crate::env::Map;

/// What the stream says last of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recorded {
    /// mzxid, for a znode.
    pub(super) mzxid: Option<i64>,
    /// Of its value.
    pub(super) digest: Digest,
}

/// What the stream says of all pairs that exist.
pub(super) type KnownPairs = Map<PairName, Recorded>;
