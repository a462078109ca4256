//! The base: the last state that both sides of a pair agreed on, and its bytes in the sidecar.

use crate::change::{Digest, ZkVersion};

/// The last state that both sides of a pair agreed on.
///
/// It names one state of each side. Usually they hold the same value; a pair that `on_delete: keep`, `on_expire: keep`
/// or `quarantine drop` keeps apart has the two states at which it was left, and joins again when either moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Grows by one with every agreement of the pair; tells a newer base from an older one (wraps after 4 billion).
    pub sequence: u32,
    /// The znode's state; `None` if there was none.
    pub zookeeper: Option<ZkVersion>,
    /// Digest of the key's value; `None` if there was no key.
    pub redis: Option<Digest>,
    /// The key's recorded expiry, milliseconds since the epoch by the Redis server's clock.
    pub expires_ms: Option<i64>,
    /// Whether the znode was ephemeral.
    pub ephemeral: bool,
    /// Whether the two states are kept apart on purpose.
    pub apart: bool,
    /// Redis was restarted before this could be noted in it, and the key then held neither this state nor the one before: it may
    /// be the successor of either. Or it came back with an older state of the key, which is left apart. What the key does next is
    /// followed, and the znode's value goes into the conflict log. Or this stands where a newer one could not be believed: the key's
    /// value goes there then, when the znode's replaces it.
    pub unverified: bool,
    /// Redis has lost the key, and no flow leads there that could restore it. From here on its absence proves nothing, whatever is
    /// concluded of the other keys: only an event that names it, or the key itself, says what an application did.
    pub lost: bool,
    /// `quarantine drop` left the two states as they were. Neither was agreed on: the one that the other replaces goes into the
    /// conflict log.
    pub left: bool,
    /// Which path the key stood for ([`path_id`]): under another map the base means nothing.
    pub path_id: u32,
    /// Which lineage of the ensemble the zxids belong to.
    pub ensemble: u32,
}

/// A short name for a path, to notice that a key was agreed on with another one.
#[must_use]
pub fn path_id(path: &str) -> u32 {
    u32::try_from(xxhash_rust::xxh3::xxh3_64(path.as_bytes()) >> 32).unwrap_or(0)
}

const FORMAT: u8 = 1;
const HAS_ZNODE: u8 = 1;
const HAS_KEY: u8 = 2;
const HAS_EXPIRY: u8 = 4;
const IS_EPHEMERAL: u8 = 8;
const IS_APART: u8 = 16;
const IS_UNVERIFIED: u8 = 32;
const IS_LOST: u8 = 64;
const IS_LEFT: u8 = 128;

impl Base {
    /// [`Base::encode`] gives at most so many bytes.
    pub const ENCODED_MAX: usize = 62;

    /// The bytes in the sidecar: format, flags, then the sequence at offset 2 in big-endian (scripts compare it),
    /// then what the flags announce. At most 62 bytes. Equal bases have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        let mut set = |on: bool, flag: u8| flags |= if on { flag } else { 0 };
        set(self.zookeeper.is_some(), HAS_ZNODE);
        set(self.redis.is_some(), HAS_KEY);
        set(self.expires_ms.is_some(), HAS_EXPIRY);
        set(self.ephemeral, IS_EPHEMERAL);
        set(self.apart, IS_APART);
        set(self.unverified, IS_UNVERIFIED);
        set(self.lost, IS_LOST);
        set(self.left, IS_LEFT);
        let mut bytes = Vec::with_capacity(Base::ENCODED_MAX);
        bytes.extend_from_slice(&[FORMAT, flags]);
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.path_id.to_be_bytes());
        bytes.extend_from_slice(&self.ensemble.to_be_bytes());
        if let Some(version) = self.zookeeper {
            bytes.extend_from_slice(&version.czxid.to_be_bytes());
            bytes.extend_from_slice(&version.mzxid.to_be_bytes());
            bytes.extend_from_slice(&version.version.to_be_bytes());
        }
        if let Some(digest) = self.redis {
            bytes.extend_from_slice(&digest.0);
        }
        if let Some(expires_ms) = self.expires_ms {
            bytes.extend_from_slice(&expires_ms.to_be_bytes());
        }
        bytes
    }

    /// Reads what [`Base::encode`] wrote. Anything else is `None`: a base that cannot be read is no base, which never
    /// loses a value (without a base nothing is deleted, and a difference is a conflict).
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Base> {
        let mut rest = Rest(bytes);
        let [format, flags] = rest.take()?;
        if format != FORMAT {
            return None;
        }
        let base = Base {
            sequence: u32::from_be_bytes(rest.take()?),
            path_id: u32::from_be_bytes(rest.take()?),
            ensemble: u32::from_be_bytes(rest.take()?),
            zookeeper: if flags & HAS_ZNODE == 0 {
                None
            } else {
                Some(ZkVersion {
                    czxid: i64::from_be_bytes(rest.take()?),
                    mzxid: i64::from_be_bytes(rest.take()?),
                    version: i32::from_be_bytes(rest.take()?),
                })
            },
            redis: if flags & HAS_KEY == 0 { None } else { Some(Digest(rest.take()?)) },
            expires_ms: if flags & HAS_EXPIRY == 0 { None } else { Some(i64::from_be_bytes(rest.take()?)) },
            ephemeral: flags & IS_EPHEMERAL != 0,
            apart: flags & IS_APART != 0,
            unverified: flags & IS_UNVERIFIED != 0,
            lost: flags & IS_LOST != 0,
            left: flags & IS_LEFT != 0,
        };
        rest.0.is_empty().then_some(base)
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
}
