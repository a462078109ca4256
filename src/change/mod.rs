//! The datum: what one change of one pair is, and the versions that identify a state on either side.
//!
//! Everything here is plain data. The Avro form (`schemas/change.v1.avsc`) has the same names, so a reader of
//! the stream and a reader of this file see the same thing. Nothing in this module knows a client, a clock or a file.

pub mod brief;
pub(crate) mod hash;
mod value;
mod version;

pub use hash::KeyedHash;
pub use value::{Digest, ValueKind};
pub use version::{ZkStat, ZkVersion};

use serde::{Deserialize, Serialize};
use std::fmt;

/// A place in the stream. The first record of a stream is at 1; positions grow by one a record and are never used
/// twice. After compaction there are holes between them. 0 is "before the first record".
pub type Position = u64;

/// One of the two kinds of store that a pair joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// A ZooKeeper ensemble.
    Zookeeper,
    /// A Redis deployment.
    Redis,
}

impl Side {
    /// The store at the other end of the pair.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Zookeeper => Side::Redis,
            Side::Redis => Side::Zookeeper,
        }
    }
}

/// What happened to the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// The state that was found when the stream first met the pair (snapshot).
    #[serde(rename = "r")]
    Read,
    /// The pair came into being.
    #[serde(rename = "c")]
    Create,
    /// The pair's value changed.
    #[serde(rename = "u")]
    Update,
    /// The pair's value went away.
    #[serde(rename = "d")]
    Delete,
    /// A marker: no state of a pair, but a gap ([`Change::gap`]), or a value that a command replaced
    /// ([`Change::conflict`]).
    #[serde(rename = "m")]
    Marker,
}

impl Op {
    /// The letter that stands for it in the stream and in `tail`.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Op::Read => "r",
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Marker => "m",
        }
    }
}

/// The two names of one pair. A capture-only route has one of them. [`fmt::Debug`] is for the log: shortened.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The znode's path.
    pub zookeeper: Option<String>,
    /// The Redis key.
    #[serde(with = "serde_bytes")]
    pub redis: Option<Vec<u8>>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.zookeeper, &self.redis) {
            (Some(path), Some(key)) => write!(out, "{} and {}", brief::name(path), brief::name(key)),
            (Some(path), None) => out.write_str(&brief::name(path)),
            (None, Some(key)) => out.write_str(&brief::name(key)),
            (None, None) => out.write_str("none"),
        }
    }
}

/// Which connector saw a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connector {
    /// The ZooKeeper source.
    Zookeeper,
    /// The Redis source.
    Redis,
    /// Keepstep itself (markers).
    Keepstep,
}

/// Where a change comes from. The fields of the other store are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The connector that saw it.
    pub connector: Connector,
    /// The store's name in the pipeline file.
    pub store: String,
    /// When it happened, milliseconds since the epoch: the znode's mtime; for Redis, when it was seen.
    pub ts_ms: i64,
    /// ZooKeeper: the path.
    pub path: Option<String>,
    /// ZooKeeper: zxid of the transaction that created the znode.
    pub czxid: Option<i64>,
    /// ZooKeeper: zxid of the transaction that last changed its data.
    pub mzxid: Option<i64>,
    /// ZooKeeper: zxid of the transaction that last changed its children.
    pub pzxid: Option<i64>,
    /// ZooKeeper: dataVersion.
    pub version: Option<i32>,
    /// ZooKeeper: version of the children.
    pub cversion: Option<i32>,
    /// ZooKeeper: version of the ACL.
    pub aversion: Option<i32>,
    /// ZooKeeper: the session that owns an ephemeral znode; 0 for a persistent one.
    pub ephemeral_owner: Option<i64>,
    /// Redis: database number.
    pub database: Option<i64>,
    /// Redis: the key.
    #[serde(with = "serde_bytes")]
    pub key: Option<Vec<u8>>,
    /// Redis: type of the key as `TYPE` names it; `None` where it is absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Redis: expiry time, milliseconds since the epoch.
    pub expiry: Option<i64>,
    /// Redis: name of the last keyspace event seen (`set`, `del`, `expired` …); `None` where tracking alone told.
    pub event: Option<String>,
    /// Redis: changes of the key since the base, as counted; `None` where they could not be counted.
    pub revision: Option<i64>,
    /// Redis: `master_replid` at the time.
    pub replication_id: Option<String>,
    /// Redis: `master_repl_offset` at the time.
    pub replication_offset: Option<i64>,
}

impl Source {
    /// A source with nothing but its identity filled in.
    #[must_use]
    pub fn new(connector: Connector, store: &str, ts_ms: i64) -> Source {
        Source {
            connector,
            store: store.to_owned(),
            ts_ms,
            path: None,
            czxid: None,
            mzxid: None,
            pzxid: None,
            version: None,
            cversion: None,
            aversion: None,
            ephemeral_owner: None,
            database: None,
            key: None,
            kind: None,
            expiry: None,
            event: None,
            revision: None,
            replication_id: None,
            replication_offset: None,
        }
    }
}

/// The last agreed state of the pair, as it stood when the change was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// ZooKeeper: czxid of the agreed state; `None` if the znode was absent.
    pub czxid: Option<i64>,
    /// ZooKeeper: mzxid of the agreed state.
    pub mzxid: Option<i64>,
    /// ZooKeeper: dataVersion of the agreed state.
    pub version: Option<i32>,
    /// Redis: SHA-1 of the agreed value, hexadecimal; `None` if the key was absent.
    pub digest: Option<String>,
    /// How often the pair has been agreed on.
    pub sequence: i64,
}

/// The side of a settled conflict that lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Name of the store whose value stays.
    pub winner: String,
    /// Name of the store whose value is replaced.
    pub loser: String,
    /// The value that is replaced; `None` if the losing change was a delete.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// mzxid of the loser, if it is a znode.
    pub mzxid: Option<i64>,
    /// dataVersion of the loser, if it is a znode.
    pub version: Option<i32>,
    /// The rule that was asked, as the pipeline file writes it (`prefer zk`, `latest` …).
    pub rule: String,
    /// Why it decided so, one sentence.
    pub reason: String,
}

/// Whether a gap begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapState {
    /// Changes may be missed from here on.
    Opened,
    /// A full comparison has found whatever was missed.
    Closed,
}

/// A time in which a source could not see every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whether it begins or ends.
    pub state: GapState,
    /// The store's name in the pipeline file.
    pub store: String,
    /// The last place in the source that was seen (a zxid or a replication offset).
    pub from: Option<i64>,
    /// The place in the source at which sight returned.
    pub to: Option<i64>,
    /// What happened, one sentence.
    pub reason: String,
}

/// How a store lost data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossCause {
    /// Redis was flushed, or another database swapped in.
    Flushed,
    /// Redis was restarted, replaced or failed over.
    Replaced,
    /// Redis evicted keys.
    Evicted,
    /// The ensemble came back as it was before.
    Older,
    /// The ensemble came back without Keepstep's own data.
    Emptied,
}

impl LossCause {
    /// The word that stands for it on the stream and in the metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            LossCause::Flushed => "flushed",
            LossCause::Replaced => "replaced",
            LossCause::Evicted => "evicted",
            LossCause::Older => "older",
            LossCause::Emptied => "emptied",
        }
    }
}

/// Data that a store lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The store's name in the pipeline file.
    pub store: String,
    /// How, in one word ([`LossCause::word`]; a later version may have others).
    pub cause: String,
    /// How many pairs it concerned.
    pub pairs: i64,
}

/// One record of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub op: Op,
    /// The pair's previous value on the stream; `None` where there was none or it is not kept.
    #[serde(with = "serde_bytes")]
    pub before: Option<Vec<u8>>,
    /// The pair's value now; `None` after a delete.
    #[serde(with = "serde_bytes")]
    pub after: Option<Vec<u8>>,
    /// Where it comes from.
    pub source: Source,
    /// When Keepstep recorded it, milliseconds since the epoch.
    pub ts_ms: i64,
    /// The route's name; empty for a marker of a gap or a loss.
    pub route: String,
    /// How the bytes of `before`, `after` and the conflict's value read.
    pub value: ValueKind,
    /// The pair; both names are `None` for a marker of a gap or a loss.
    pub pair: Pair,
    /// The last agreed state when this was decided.
    pub base: Option<Agreed>,
    /// Values between the previous record and this one that were never seen; `None` where that cannot be counted.
    pub collapsed: Option<i64>,
    /// The loser, where this change settled a conflict.
    pub conflict: Option<Conflict>,
    /// A marker's gap.
    pub gap: Option<Gap>,
    /// The epoch of the owner that wrote it.
    pub epoch: i64,
    /// A marker's loss.
    pub loss: Option<Loss>,
}

impl Change {
    /// Names what was decided: the state that goes on, and the loser that it replaces. A record with the name of the pair's newest
    /// one says nothing new, whenever and by whichever owner it is made.
    ///
    /// A write to a znode has a zxid of its own. A state without one (a key, an absence), and what a conflict replaced, is told from
    /// the same one of another time by the agreement that it follows: each agreement has its own sequence.
    #[must_use]
    pub fn decision(&self) -> Digest {
        let mut text = Vec::with_capacity(128);
        let mut put = |value: Option<&[u8]>| match value {
            Some(value) => {
                text.extend_from_slice(&(value.len() as u64).to_be_bytes());
                text.extend_from_slice(value);
            }
            None => text.extend_from_slice(&u64::MAX.to_be_bytes()),
        };
        let source = &self.source;
        let is_told_by_zxid = source.mzxid.is_some() && self.conflict.is_none();
        let sequence = self.base.as_ref().filter(|_| !is_told_by_zxid).map(|base| base.sequence.to_be_bytes());
        put(Some(&[source.connector as u8]));
        put(self.after.as_deref().map(Digest::of).as_ref().map(|digest| digest.0.as_slice()));
        put(source.mzxid.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        put(source.version.map(i32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice));
        put(sequence.as_ref().map(<[u8; 8]>::as_slice));
        if let Some(conflict) = &self.conflict {
            put(Some(conflict.loser.as_bytes()));
            put(conflict.value.as_deref().map(Digest::of).as_ref().map(|digest| digest.0.as_slice()));
            put(conflict.mzxid.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
            put(conflict.version.map(i32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice));
        }
        Digest::of(&text)
    }
}
